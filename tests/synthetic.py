"""Data Sets made from arguments, as bytes, by an encoder of the tests' own: independent of the readers under test."""

from __future__ import annotations

import struct

EXPLICIT = "1.2.840.10008.1.2.1"
IMPLICIT = "1.2.840.10008.1.2"
BIG_ENDIAN = "1.2.840.10008.1.2.2"
DEFLATED = "1.2.840.10008.1.2.1.99"
CT = "1.2.840.10008.5.1.4.1.1.2"
SECONDARY_CAPTURE = "1.2.840.10008.5.1.4.1.1.7"
LONG_VRS = {b"OB", b"OD", b"OF", b"OL", b"OV", b"OW", b"SQ", b"SV", b"UC", b"UN", b"UR", b"UT", b"UV"}
UNDEFINED = 0xFFFFFFFF


def element(tag: int, vr: str, value: bytes | str = b"", *, length: int | None = None, order: str = "<") -> bytes:
    """One element with an explicit VR. length: what its header says, where that is to be a lie."""
    raw = value.encode("latin-1") if isinstance(value, str) else value
    if len(raw) % 2:
        raw += b"\0" if vr in ("UI", "OB", "UN") else b" "
    said = len(raw) if length is None else length
    code = vr.encode("ascii")
    head = struct.pack(f"{order}HH2s", tag >> 16, tag & 0xFFFF, code)
    head += struct.pack(f"{order}HI", 0, said) if code in LONG_VRS else struct.pack(f"{order}H", said)
    return head + raw


def implicit_element(tag: int, value: bytes | str = b"", *, length: int | None = None) -> bytes:
    """One element without VR."""
    raw = value.encode("latin-1") if isinstance(value, str) else value
    raw += b"\0" * (len(raw) % 2)
    return struct.pack("<HHI", tag >> 16, tag & 0xFFFF, len(raw) if length is None else length) + raw


def item(content: bytes, *, length: int | None = None) -> bytes:
    """One item of a sequence; of undefined length with its delimiter when ``length`` says so."""
    said = len(content) if length is None else length
    ending = struct.pack("<HHI", 0xFFFE, 0xE00D, 0) if said == UNDEFINED else b""
    return struct.pack("<HHI", 0xFFFE, 0xE000, said) + content + ending


def sequence(tag: int, *items: bytes, is_delimited: bool = False) -> bytes:
    """A sequence of items, of defined or undefined length."""
    content = b"".join(items)
    if not is_delimited:
        return element(tag, "SQ", content)
    return element(tag, "SQ", b"", length=UNDEFINED) + content + struct.pack("<HHI", 0xFFFE, 0xE0DD, 0)


def us(tag: int, *values: int, order: str = "<") -> bytes:
    """An element of unsigned shorts."""
    return element(tag, "US", struct.pack(f"{order}{len(values)}H", *values), order=order)


def image_elements(rows: int, columns: int, *, bits: int = 8, samples: int = 1, frames: int = 0) -> list[bytes]:
    """Image Pixel attributes, ascending by tag."""
    photometric = "RGB" if samples == 3 else "MONOCHROME2"
    return [
        us(0x00280002, samples),
        element(0x00280004, "CS", photometric),
        *([us(0x00280006, 0)] if samples == 3 else []),
        *([element(0x00280008, "IS", str(frames))] if frames else []),
        us(0x00280010, rows),
        us(0x00280011, columns),
        us(0x00280100, bits),
        us(0x00280101, bits),
        us(0x00280102, bits - 1),
        us(0x00280103, 0),
    ]


def data_set(
    study: str = "1.2.3",
    series: str = "1.2.3.4",
    sop_instance: str = "1.2.3.4.5",
    *,
    sop_class: str = SECONDARY_CAPTURE,
    name: str = "Doe^Jane",
    patient_id: str = "P1",
    modality: str = "OT",
    number: int = 1,
    extra: tuple[bytes, ...] = (),
) -> bytes:
    """A Data Set in Explicit VR Little Endian with the attributes that every instance has, and ``extra`` ones."""
    elements = [
        element(0x00080016, "UI", sop_class),
        element(0x00080018, "UI", sop_instance),
        element(0x00080020, "DA", "20240131"),
        element(0x00080060, "CS", modality),
        element(0x00100010, "PN", name),
        element(0x00100020, "LO", patient_id),
        element(0x0020000D, "UI", study),
        element(0x0020000E, "UI", series),
        element(0x00200013, "IS", str(number)),
        *extra,
    ]
    return b"".join(sorted(elements, key=lambda raw: struct.unpack_from("<HH", raw)))


def image(rows: int = 4, columns: int = 4, *, pixels: bytes | None = None, frames: int = 0, **options) -> bytes:
    """A whole image of 8 bits, Explicit VR Little Endian."""
    count = rows * columns * max(frames, 1)
    raw = bytes(index % 251 for index in range(count)) if pixels is None else pixels
    extra = (*image_elements(rows, columns, frames=frames), element(0x7FE00010, "OW", raw))
    return data_set(extra=extra, **options)


def encapsulated(fragments: list[bytes], *, offsets: tuple[int, ...] = ()) -> bytes:
    """Pixel Data in items, with a Basic Offset Table."""
    table = item(struct.pack(f"<{len(offsets)}I", *offsets))
    content = table + b"".join(item(fragment) for fragment in fragments)
    return element(0x7FE00010, "OB", b"", length=UNDEFINED) + content + struct.pack("<HHI", 0xFFFE, 0xE0DD, 0)


def part10(
    content: bytes, *, syntax: str = EXPLICIT, sop_class: str = SECONDARY_CAPTURE, sop: str = "1.2.3.4.5"
) -> bytes:
    """A Part 10 stream around a Data Set, with a preamble that is not empty."""
    meta = b"".join(
        (
            element(0x00020001, "OB", b"\0\1"),
            element(0x00020002, "UI", sop_class),
            element(0x00020003, "UI", sop),
            element(0x00020010, "UI", syntax),
            element(0x00020016, "AE", "SOMEBODY"),
        )
    )
    return b"MZ" + b"\x90" * 126 + b"DICM" + element(0x00020000, "UL", struct.pack("<I", len(meta))) + meta + content
