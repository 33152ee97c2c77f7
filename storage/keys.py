"""Where every byte lives: the keys of objects. The only place that makes one.

A key is ``v1/default/{study}/{sop instance}_{transfer syntax}_{digest}.dcm``: every part validated, and with the
digest of the Data Set (which says its series, too) all that an object is made of, so that two contents never share a
key and nothing is ever overwritten by something else (R2); the same bytes may be sent under two transfer syntaxes, and
then their headers differ. Where an object was collected after its instance was deleted, its key is given up for ever,
and the same bytes get the next one, ``…_{digest}-2.dcm``. A study is one folder: each further one, for a series or an
instance, would cost a file system an inode, a block and a sync whenever it is new, and the prefix ``{sop instance}_``
still lists all that was received for it (R4). A row keeps its key, so this rule can change without touching what is
stored: keys with a folder for each series are from before. ``default`` is the archive's partition.

An entry of the journal is ``v1/journal/{time}_{kind}_{digest}.json``: names ascend in time, and the digest is that of
what the entry says, so that saying it once more changes nothing.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from storage.errors import InvalidInstance
from storage.uids import UID_PATTERN, checked_uid

_DIGEST = re.compile(r"[0-9a-f]{64}", re.ASCII)
INSTANCES = "v1/default/"
JOURNAL = "v1/journal/"
JOURNAL_KINDS = ("deleted", "restored", "current", "replaced", "held", "released")
_KEY = re.compile(
    f"{INSTANCES}({UID_PATTERN})/(?:({UID_PATTERN})/)?({UID_PATTERN})_({UID_PATTERN})_({_DIGEST.pattern})"
    "(?:-(?:[2-9]|[1-9][0-9]{1,8}))?\\.dcm",
    re.ASCII,
)
_TURN = re.compile(r"(?P<stem>.*?)(?:-(?P<turn>[0-9]+))?\.dcm", re.ASCII)
_JOURNAL_KEY = re.compile(f"{JOURNAL}([0-9]{{20}})_({'|'.join(JOURNAL_KINDS)})_([0-9a-f]{{32}})\\.json", re.ASCII)


@dataclass(frozen=True, slots=True)
class KeyParts:
    """What the key of an instance's object says of it. series_instance_uid: empty but in keys from before."""

    study_instance_uid: str
    series_instance_uid: str
    sop_instance_uid: str
    transfer_syntax_uid: str
    digest: str


def instance_key(study_instance_uid: str, sop_instance_uid: str, transfer_syntax_uid: str, digest: str) -> str:
    """The key of an instance's object. Raises InvalidInstance for anything but UIDs and a SHA-256 in hex."""
    if not _DIGEST.fullmatch(digest):
        raise InvalidInstance("The digest is no SHA-256")
    study = checked_uid(study_instance_uid, "0020000D")
    sop_instance = checked_uid(sop_instance_uid, "00080018")
    transfer_syntax = checked_uid(transfer_syntax_uid, "00020010")
    return f"{INSTANCES}{study}/{sop_instance}_{transfer_syntax}_{digest}.dcm"


def parts_of(key: str) -> KeyParts | None:
    """What the key of an instance's object says; None for any other text."""
    match = _KEY.fullmatch(key)
    return KeyParts(match[1], match[2] or "", match[3], match[4], match[5]) if match else None


def journal_key(time: str, kind: str, digest: str) -> str:
    """The key of an entry of the journal. time: 20 digits, year to microsecond; digest: 32 hex digits."""
    key = f"{JOURNAL}{time}_{kind}_{digest}.json"
    assert _JOURNAL_KEY.fullmatch(key), "an entry of the journal is named by us alone"
    return key


def journal_digest(key: str) -> str:
    """The digest in the key of an entry of the journal; empty for any other text."""
    match = _JOURNAL_KEY.fullmatch(key)
    return match[3] if match else ""


def is_key(key: str) -> bool:
    """Whether a text is a key that this module could have made: no store is asked for anything else."""
    return _KEY.fullmatch(key) is not None or _JOURNAL_KEY.fullmatch(key) is not None


def turn_of(key: str) -> tuple[str, int]:
    """The first key of the same bytes, and the how manieth this one is, from 1: one more for each that was given up.

    Raises InvalidInstance for what cannot be a key.
    """
    match = _TURN.fullmatch(key)
    if match is None:
        raise InvalidInstance("The key of an object is malformed")
    return f"{match['stem']}.dcm", int(match["turn"] or 1)


def following_key(key: str) -> str:
    """The key that the same bytes get where this one was given up."""
    first, turn = turn_of(key)
    return f"{first.removesuffix('.dcm')}-{turn + 1}.dcm"
