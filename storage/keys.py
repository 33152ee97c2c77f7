"""Where every byte lives: the keys of objects. The only place that makes one.

A key is ``v1/default/{study}/{sop instance}_{transfer syntax}_{digest}.dcm``: every part validated, and with the
digest of the Data Set (which says its series, too) all that an object is made of, so that two contents never share a
key and nothing is ever overwritten by something else (R2); the same bytes may be sent under two transfer syntaxes, and
then their headers differ. A study is one folder: each further one, for a series or an instance, would cost a file
system an inode, a block and a sync whenever it is new, and the prefix ``{sop instance}_`` still lists all that was
received for it (R4). A row keeps its key, so this rule can change without touching what is stored: keys with a folder
for each series are from before. ``default`` is the archive's partition.
"""

from __future__ import annotations

import re

from storage.errors import InvalidInstance
from storage.uids import UID_PATTERN, checked_uid

_DIGEST = re.compile(r"[0-9a-f]{64}", re.ASCII)
INSTANCES = "v1/default/"
_KEY = re.compile(
    f"{INSTANCES}{UID_PATTERN}/(?:{UID_PATTERN}/)?{UID_PATTERN}_{UID_PATTERN}_{_DIGEST.pattern}\\.dcm", re.ASCII
)


def instance_key(study_instance_uid: str, sop_instance_uid: str, transfer_syntax_uid: str, digest: str) -> str:
    """The key of an instance's object. Raises InvalidInstance for anything but UIDs and a SHA-256 in hex."""
    if not _DIGEST.fullmatch(digest):
        raise InvalidInstance("The digest is no SHA-256")
    study = checked_uid(study_instance_uid, "0020000D")
    sop_instance = checked_uid(sop_instance_uid, "00080018")
    transfer_syntax = checked_uid(transfer_syntax_uid, "00020010")
    return f"{INSTANCES}{study}/{sop_instance}_{transfer_syntax}_{digest}.dcm"


def is_key(key: str) -> bool:
    """Whether a text is a key that this module could have made: no store is asked for anything else."""
    return _KEY.fullmatch(key) is not None
