"""File Meta Information: what stands before the Data Set in Part 10, read from others and written by us.

Ours is canonical: zero preamble, the same elements for everybody, so that the same Data Set in the same transfer
syntax is the same object whoever sent it (R2). PS3.10 §7.1
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from functools import lru_cache

from storage.errors import NotDicom
from storage.uids import EXPLICIT_VR_LITTLE_ENDIAN, IMPLICIT_VR_LITTLE_ENDIAN

IMPLEMENTATION_CLASS_UID = "2.25.211384729460938562114872957017746381265"
IMPLEMENTATION_VERSION_NAME = "DICOMWEB-GATEWAY"
PREAMBLE_BYTES = 128
MAXIMUM_FILE_META_BYTES = 64 * 1024

_SHORT = struct.Struct("<HH2sH")
_LONG = struct.Struct("<HH2sHI")
_LONG_VRS = frozenset((b"OB", b"OW", b"UN", b"SQ", b"UT", b"OF", b"OD", b"OL", b"OV", b"UC", b"UR", b"SV", b"UV"))


@dataclass(frozen=True, slots=True)
class Announcement:
    """What a peer says it sends: File Meta of Part 10, or the command of a C-STORE. PS3.7 §9.1.1"""

    sop_class_uid: str
    sop_instance_uid: str
    transfer_syntax_uid: str


def _uid_element(element: int, uid: str) -> bytes:
    value = uid.encode("ascii", "replace")  # what a stranger said; only UIDs get as far as an object
    value += b"\0" * (len(value) & 1)
    return _SHORT.pack(0x0002, element, b"UI", len(value)) + value


@lru_cache(maxsize=256)
def canonical_header(announcement: Announcement) -> bytes:
    """Preamble, ``DICM`` and File Meta for an instance: the same bytes every time. PS3.10 Table 7.1-1"""
    version = IMPLEMENTATION_VERSION_NAME.encode("ascii")
    elements = b"".join(
        (
            _LONG.pack(0x0002, 0x0001, b"OB", 0, 2) + b"\0\1",
            _uid_element(0x0002, announcement.sop_class_uid),
            _uid_element(0x0003, announcement.sop_instance_uid),
            _uid_element(0x0010, announcement.transfer_syntax_uid),
            _uid_element(0x0012, IMPLEMENTATION_CLASS_UID),
            _SHORT.pack(0x0002, 0x0013, b"SH", len(version)) + version,
        )
    )
    group_length = _SHORT.pack(0x0002, 0x0000, b"UL", 4) + struct.pack("<I", len(elements))
    return b"\0" * PREAMBLE_BYTES + b"DICM" + group_length + elements


def read_file_meta(buffer: bytes | bytearray) -> tuple[Announcement, int] | None:
    """The announcement in the first bytes of a Part 10 stream and where the Data Set starts.

    None while the buffer is too short to tell. Raises NotDicom. A stream without preamble that starts with group
    0002, or at once with a Data Set of group 0008 (ACR-NEMA habit), is accepted (D11); the latter is taken for
    Implicit VR Little Endian unless its first element shows an explicit VR.
    """
    if len(buffer) < 8:
        return None
    if buffer[:4] == b"\2\0\0\0" or buffer[:4] == b"\2\0\1\0":
        return _read_group_2(buffer, 0)
    if buffer[:2] == b"\x08\0" and buffer[3] == 0:
        return Announcement("", "", _guessed_syntax(buffer, 0)), 0
    start = PREAMBLE_BYTES + 4
    if len(buffer) < start + 8:
        return None
    if buffer[PREAMBLE_BYTES:start] != b"DICM":
        raise NotDicom("The bytes are not a DICOM Part 10 stream")
    return _read_group_2(buffer, start)


def _read_group_2(buffer: bytes | bytearray, at: int) -> tuple[Announcement, int] | None:
    values: dict[int, str] = {}
    while True:
        if len(buffer) < at + 12:
            return None
        group, element, vr, length = _SHORT.unpack_from(buffer, at)
        if group != 0x0002:
            break
        if not vr.isalpha():
            raise NotDicom("The File Meta Information is malformed")
        value_at = at + 8
        if vr in _LONG_VRS:
            length = struct.unpack_from("<I", buffer, at + 8)[0]
            value_at = at + 12
        if value_at + length > MAXIMUM_FILE_META_BYTES:
            raise NotDicom("The File Meta Information is too long")
        if len(buffer) < value_at + length:
            return None
        if vr == b"UI":
            values[element] = bytes(buffer[value_at : value_at + length]).rstrip(b"\0 ").decode("latin-1")
        at = value_at + length
    transfer_syntax_uid = values.get(0x0010) or _guessed_syntax(buffer, at)
    return Announcement(values.get(0x0002, ""), values.get(0x0003, ""), transfer_syntax_uid), at


def _guessed_syntax(buffer: bytes | bytearray, at: int) -> str:
    """What an element looks like where nobody said how it is encoded: two capital letters are an explicit VR."""
    vr = buffer[at + 4 : at + 6]
    return EXPLICIT_VR_LITTLE_ENDIAN if vr.isalpha() and vr.isupper() else IMPLICIT_VR_LITTLE_ENDIAN
