"""Storage commitment: the instances that somebody wants to be sure of, and what can be said of each. Pure.

A request may name a hundred thousand of them, so they are kept and held as little as they need: references in one
compressed text, their answers as one array. PS3.4 Annex J, PS3.18 §13
"""

from __future__ import annotations

import enum
import re
import sys
import zlib
from array import array
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from storage.errors import InvalidInstance
from storage.model import Source

_LEVEL = 1
_UID_LIKE = re.compile(r"[0-9.]{1,64}", re.ASCII)


class Check(enum.Enum):
    """What is looked at before an instance is committed to; by the name that operators write."""

    OBJECT_SIZE = "object-size"
    """Its object is in the store, as long as its row says."""
    CHECKSUM = "checksum"
    """And its Data Set has the SHA-256 of the one that was received: all of it is read."""


class Reason(enum.IntEnum):
    """What is said of an instance: committed, or the Failure Reason (0008,1197). PS3.3 §C.14.1.1"""

    COMMITTED = 0x0000
    PROCESSING_FAILURE = 0x0110
    """It was acknowledged, and is missing or damaged: never without a line in the log."""
    NO_SUCH_INSTANCE = 0x0112
    CLASS_INSTANCE_CONFLICT = 0x0119
    CLASS_NOT_SUPPORTED = 0x0122
    DUPLICATE_TRANSACTION = 0x0131
    RESOURCE_LIMITATION = 0x0213
    """The store cannot be reached now."""


class Reference(NamedTuple):
    """An instance as it is referred to, by UIDs of digits and dots. study and series: both, or none of them."""

    sop_class_uid: str
    sop_instance_uid: str
    study_instance_uid: str = ""
    series_instance_uid: str = ""


@dataclass(frozen=True, slots=True)
class Commitment:
    """A request to commit to instances, and the answer if there is one.

    references: at least one, each once; empty when they are no longer kept. requested_at: seconds since 1970. reasons:
    one for each reference, in their order; None before it is answered.
    """

    transaction_uid: str
    references: Sequence[Reference]
    source: Source
    requested_at: int
    reasons: Sequence[int] | None = None


def checked_reference(sop_class_uid: str, sop_instance_uid: str, *parents: str) -> Reference:
    """A reference by those UIDs. Raises InvalidInstance with the tag of one that is missing or no text of a UID.

    Components with leading zeros are let through: old devices make them, and get the answer that there is no such
    instance (D11).
    """
    for text, tag in zip((sop_class_uid, sop_instance_uid, *parents), _TAGS, strict=False):
        if not _UID_LIKE.fullmatch(text):
            raise InvalidInstance("A UID of a reference is missing or malformed", tag=tag)
    return Reference(sys.intern(sop_class_uid), sop_instance_uid, *map(sys.intern, parents))


_TAGS = ("00081150", "00081155", "0020000D", "0020000E")


def pack_references(references: Iterable[Reference]) -> bytes:
    """References as a row keeps them: lines with tabs, compressed."""
    return zlib.compress("\n".join(map("\t".join, references)).encode("ascii"), _LEVEL)


def unpack_references(packed: bytes) -> list[Reference]:
    """What ``pack_references`` packed."""
    lines = zlib.decompress(packed).decode("ascii").split("\n")
    return [checked_reference(*filter(None, line.split("\t"))) for line in lines if line]


def pack_reasons(reasons: Iterable[int]) -> bytes:
    """Reasons as a row keeps them: 16 bits each in little endian order, compressed."""
    return zlib.compress(_little_endian(array("H", reasons)).tobytes(), _LEVEL)


def unpack_reasons(packed: bytes) -> Sequence[int]:
    """What ``pack_reasons`` packed."""
    return _little_endian(array("H", zlib.decompress(packed)))


def _little_endian(numbers: array[int]) -> array[int]:
    if sys.byteorder == "big":
        numbers.byteswap()
    return numbers
