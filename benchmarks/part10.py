"""Data Sets to Part 10 bytes, Explicit VR Little Endian, from keywords and values. Only writes; pydicom judges it.

Made for thousands of small instances in seconds. PS3.5 §7.1.2, §A.4; PS3.10 §7.1
"""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from functools import lru_cache

from pydicom.datadict import dictionary_VR, tag_for_keyword

EXPLICIT_VR_LITTLE_ENDIAN = "1.2.840.10008.1.2.1"
JPEG_BASELINE = "1.2.840.10008.1.2.4.50"

# A keyword of the dictionary, or a private tag with its VR.
Name = str | tuple[int, str]
Value = str | int | float | bytes | Sequence["Value"] | Mapping["Name", "Value"]
Attributes = Mapping[Name, Value]

_LONG_VRS = frozenset(("OB", "OD", "OF", "OL", "OV", "OW", "SQ", "SV", "UC", "UN", "UR", "UT", "UV"))
_NUMBERS = {"FD": "d", "FL": "f", "SL": "i", "SS": "h", "UL": "I", "US": "H"}
_UNDEFINED = 0xFFFFFFFF


@lru_cache(maxsize=2048)
def _tag_and_vr(name: Name) -> tuple[int, str]:
    if isinstance(name, tuple):
        return name
    tag = tag_for_keyword(name)
    if tag is None:
        raise ValueError(f"{name} is no keyword")
    return tag, {"PixelData": "OW"}.get(name) or dictionary_VR(tag)


def _element(tag: int, vr: str, content: bytes, length: int | None = None) -> bytes:
    size = len(content) if length is None else length
    if vr in _LONG_VRS:
        return struct.pack("<HH2sHI", tag >> 16, tag & 0xFFFF, vr.encode(), 0, size) + content
    return struct.pack("<HH2sH", tag >> 16, tag & 0xFFFF, vr.encode(), size) + content


def _content(vr: str, value: Value) -> bytes:
    """A value's bytes, of even length."""
    if isinstance(value, bytes):
        raw, padding = value, b"\0"
    elif vr == "SQ":
        items = value if isinstance(value, Sequence) and not isinstance(value, str) else [value]
        raw, padding = b"".join(_item(data_set(item)) for item in items if isinstance(item, Mapping)), b""
    else:
        values = [value] if isinstance(value, str | int | float) else list(value)
        if vr in _NUMBERS:
            raw, padding = struct.pack(f"<{len(values)}{_NUMBERS[vr]}", *values), b""
        else:
            raw, padding = "\\".join(map(str, values)).encode("latin-1"), b"\0" if vr == "UI" else b" "
    return raw + padding if len(raw) % 2 else raw


def with_frames(head: bytes, count: int, frame_bytes: int) -> bytes:
    """The beginning of an object of one native frame, up to its pixels, as that of one with so many of them."""
    number = str(count).encode()
    number += b" " * (len(number) % 2)
    at = head.index(struct.pack("<HH2sH", 0x28, 0x10, b"US", 2))
    frames = struct.pack("<HH2sH", 0x28, 0x08, b"IS", len(number)) + number
    return head[:at] + frames + head[at:-4] + struct.pack("<I", count * frame_bytes)


def _item(content: bytes) -> bytes:
    return struct.pack("<HHI", 0xFFFE, 0xE000, len(content)) + content


def data_set(attributes: Attributes) -> bytes:
    """The elements in ascending order of tags; sequences are lists of attributes."""
    named = sorted((*_tag_and_vr(name), value) for name, value in attributes.items())
    return b"".join(_element(tag, vr, _content(vr, value)) for tag, vr, value in named)


def encapsulated(frames: Sequence[bytes]) -> bytes:
    """Pixel Data of one fragment a frame behind a Basic Offset Table."""
    items = [_item(frame + b"\0" * (len(frame) % 2)) for frame in frames]
    offsets = [0]
    for item in items[:-1]:
        offsets.append(offsets[-1] + len(item))
    table = _item(struct.pack(f"<{len(offsets)}I", *offsets))
    return _element(0x7FE00010, "OB", table + b"".join(items) + struct.pack("<HHI", 0xFFFE, 0xE0DD, 0), _UNDEFINED)


def part10(attributes: Attributes, transfer_syntax_uid: str = EXPLICIT_VR_LITTLE_ENDIAN, tail: bytes = b"") -> bytes:
    """A whole file. ``tail``: elements behind those of ``attributes``, encoded already."""
    meta = data_set(
        {
            (0x00020001, "OB"): b"\0\1",
            "MediaStorageSOPClassUID": attributes["SOPClassUID"],
            "MediaStorageSOPInstanceUID": attributes["SOPInstanceUID"],
            "TransferSyntaxUID": transfer_syntax_uid,
            "ImplementationClassUID": "2.25.1",
        }
    )
    group_length = _element(0x00020000, "UL", struct.pack("<I", len(meta)))
    return bytes(128) + b"DICM" + group_length + meta + data_set(attributes) + tail
