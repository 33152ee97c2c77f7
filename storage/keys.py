"""Where every byte lives: the keys of objects. The only place that makes one.

A key is ``v1/default/{study}/{series}/{sop instance}.{digest}.dcm``: every part validated, the digest of the Data Set
in it, so that two contents never share a key and nothing is ever overwritten (R2). The instance and its digest are
one segment, not a folder and a file: a folder for each instance would cost a file system an inode, a block and a
directory sync per image, and the prefix ``{sop instance}.`` still lists all that was received for it (R4). A row keeps
its key, so this rule can change without touching what is stored. ``default`` is the archive's partition.
"""

from __future__ import annotations

import re

from storage.errors import InvalidInstance
from storage.uids import checked_uid

_DIGEST = re.compile(r"[0-9a-f]{64}", re.ASCII)
INSTANCES = "v1/default/"


def instance_key(study_instance_uid: str, series_instance_uid: str, sop_instance_uid: str, digest: str) -> str:
    """The key of an instance's object. Raises InvalidInstance for anything but UIDs and a SHA-256 in hex."""
    if not _DIGEST.fullmatch(digest):
        raise InvalidInstance("The digest is no SHA-256")
    study = checked_uid(study_instance_uid, "0020000D")
    series = checked_uid(series_instance_uid, "0020000E")
    sop_instance = checked_uid(sop_instance_uid, "00080018")
    return f"{INSTANCES}{study}/{series}/{sop_instance}.{digest}.dcm"


def is_key(key: str) -> bool:
    """Whether a text is a key that this module could have made: no store is asked for anything else."""
    parts = key.removeprefix(INSTANCES).split("/")
    if not key.startswith(INSTANCES) or len(parts) != 3:
        return False
    study, series, name = parts
    sop_instance, _, digest = name.removesuffix(".dcm").rpartition(".")
    try:
        return instance_key(study, series, sop_instance, digest) == key
    except InvalidInstance:
        return False
