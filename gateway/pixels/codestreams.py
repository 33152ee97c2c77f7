"""What the headers of compressed images say of themselves, and where in a run of them each one ends.

Nothing is decoded, and no codec is loaded. A codestream is looked at through a function that reads ranges of it, a few
bytes for a header, so its length costs nothing. ITU-T T.81 Annex B, ITU-T T.87 Annex C, ISO/IEC 15444-1 Annex A
"""

from __future__ import annotations

import re
import struct
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType

from storage.errors import Undecodable

Read = Callable[[int, int], bytes]
Range = tuple[int, int]

_PREFIX = "1.2.840.10008.1.2.4."
_WINDOW_BYTES = 1 << 20
_MAXIMUM_SEGMENTS = 4096
_MAXIMUM_TILE_PARTS = 1 << 20
_EOI, _SOS, _APP14 = 0xD9, 0xDA, 0xEE
_SOF_LS = 0xF7
_SOF = frozenset({0xC0, 0xC1, 0xC2, 0xC3, 0xC5, 0xC6, 0xC7, 0xC9, 0xCA, 0xCB, 0xCD, 0xCE, 0xCF, _SOF_LS})
_JPEG_PROCESSES: Mapping[int, str] = MappingProxyType({0xC0: "50", 0xC1: "51"})
_AFTER_SCAN = re.compile(rb"\xff[\xc0-\xcf\xd8-\xfe]")
_J2K_START = b"\xff\x4f\xff\x51"
_SIZ = struct.Struct(">HHLLLLLLLLH")
_COD, _SOT = 0x52, 0x90
_MAXIMUM_MAIN_HEADER_BYTES = 64 << 10
_MAXIMUM_TILES = 65_535
_MAXIMUM_BOXES = 256
_JP2_SIGNATURE = b"\0\0\0\x0cjP  "


@dataclass(frozen=True, slots=True)
class Described:
    """An image as its codestream describes it. precision: bits of a sample. PS3.5 §8.2"""

    rows: int
    columns: int
    samples_per_pixel: int
    precision: int
    is_signed: bool
    photometric_interpretation: str
    transfer_syntax_uid: str


def described(media_type: str, read: Read, size_bytes: int) -> Described:
    """What a codestream of a media type says of itself.

    read: gives ranges of it, shorter at its end. Raises Undecodable where it is malformed, of a process that no
    transfer syntax has, or of a kind whose header is not read here. PS3.18 §10.5.2
    """
    describe = _DESCRIBE.get(media_type)
    if describe is None:
        raise Undecodable("The header of this media type is not read")
    try:
        return describe(media_type, read, size_bytes)
    except (struct.error, IndexError):
        raise Undecodable("The header of the codestream is malformed") from None


def codestream_range(media_type: str, read: Read, size_bytes: int) -> Range:
    """Where in a file the codestream is: within the boxes of a JP2 file, which DICOM leaves out, else all of it.

    Raises Undecodable for a file without one. PS3.5 §A.4.4
    """
    if media_type not in _JPEG_2000 or read(0, 8) != _JP2_SIGNATURE:
        return 0, size_bytes
    at = 0
    for _ in range(_MAXIMUM_BOXES):
        head = read(at, at + 16)
        if len(head) < 8:
            break
        length, kind = struct.unpack_from(">I4s", head)
        header_bytes = 8
        if length == 1 and len(head) == 16:
            (length,) = struct.unpack_from(">Q", head, 8)
            header_bytes = 16
        end = size_bytes if length == 0 else at + length
        if end > size_bytes or end < at + header_bytes:
            break
        if kind == b"jp2c":
            return at + header_bytes, end
        at = end
    raise Undecodable("The file holds no JPEG 2000 codestream")


def frame_ranges(media_type: str, read: Read, size_bytes: int, most: int) -> tuple[Range, ...]:
    """The codestreams of a run of them, at most ``most`` and one more; padding and garbage go with the one before.

    Raises Undecodable for media types whose codestreams do not say where they end. PS3.18 §10.5.1.4
    """
    end_of = _END_OF.get(media_type)
    if end_of is None:
        raise Undecodable("The frames of this media type cannot be told apart")
    try:
        starts = list(_starts(end_of, read, size_bytes, most))
    except (struct.error, IndexError):
        raise Undecodable("The header of the codestream is malformed") from None
    return tuple(zip(starts, [*starts[1:], size_bytes], strict=True))


_EndOf = Callable[[Read, int, int], int]


def _starts(end_of: _EndOf, read: Read, size_bytes: int, most: int) -> Iterator[int]:
    at = 0
    for _ in range(most + 1):
        yield at
        end = end_of(read, at, size_bytes)
        following = read(end, end + 4)
        at = end + len(following) - len(following.lstrip(b"\0"))
        if read(at, at + 1) != b"\xff":
            return


# ------------------------------------------------------------------------------------------------------ JPEG, JPEG-LS


def _segments(read: Read, start: int) -> Iterator[tuple[int, int, int]]:
    """Marker, place and length of the content of each segment, up to the first scan's header. ITU-T T.81 §B.1.1"""
    if read(start, start + 2) != b"\xff\xd8":
        raise Undecodable("The frame is not a JPEG codestream")
    at = start + 2
    for _ in range(_MAXIMUM_SEGMENTS):
        head = read(at, at + 4)
        if head[:1] == b"\xff" and head[1:2] == b"\xff":  # fill
            at += 1
            continue
        if len(head) < 4 or head[0] != 0xFF or head[1] == _EOI:
            return
        length = int.from_bytes(head[2:], "big")
        if length < 2:
            return
        yield head[1], at + 4, length - 2
        if head[1] == _SOS:
            return
        at += 2 + length


def _described_jpeg(media_type: str, read: Read, _: int) -> Described:
    process, header, adobe_transform, has_jfif = -1, b"", -1, False
    predictor, near = 0, 0
    for marker, at, length in _segments(read, 0):
        content = read(at, at + min(length, 1024))
        if marker in _SOF and process < 0:
            process, header = marker, content
        has_jfif |= marker == 0xE0 and content.startswith(b"JFIF\0")
        if marker == _APP14 and content.startswith(b"Adobe") and len(content) >= 12:
            adobe_transform = content[11]
        if marker == _SOS:
            predictor = near = content[1 + 2 * content[0]]  # Ss; of JPEG-LS NEAR
    if process < 0:
        raise Undecodable("The JPEG codestream has no frame header")
    precision, rows, columns, samples = struct.unpack_from(">BHHB", header)
    is_subsampled = len({header[7 + 3 * n] for n in range(samples)}) > 1
    if not rows or not columns or samples not in (1, 3) or not 2 <= precision <= 16:
        raise Undecodable("The JPEG codestream has a size that no image can have")
    if (process == _SOF_LS) != (media_type == "image/jls"):
        raise Undecodable("The codestream is not of its media type")
    if process == _SOF_LS:
        syntax, is_rgb = "80" if near == 0 else "81", True
    elif process == 0xC3:
        syntax, is_rgb = "70" if predictor == 1 else "57", adobe_transform != 1
    elif process in _JPEG_PROCESSES:
        syntax = _JPEG_PROCESSES[process]
        is_rgb = adobe_transform == 0 and not has_jfif
    else:
        raise Undecodable("This process of JPEG has no transfer syntax")
    colour = "RGB" if is_rgb else "YBR_FULL_422" if is_subsampled else "YBR_FULL"
    photometric = colour if samples == 3 else "MONOCHROME2"
    return Described(rows, columns, samples, precision, False, photometric, _PREFIX + syntax)


def _end_of_jpeg(read: Read, start: int, size_bytes: int) -> int:
    """The place behind the end marker of the codestream at ``start``. ITU-T T.81 §B.1"""
    if read(start, start + 2) != b"\xff\xd8":
        raise Undecodable("The frame is not a JPEG codestream")
    at = start + 2
    while at < size_bytes:
        head = read(at, at + 4)
        if len(head) >= 2 and head[0] == head[1] == 0xFF:
            at += 1
        elif head[:2] == b"\xff\xd9":
            return at + 2
        elif len(head) < 4 or head[0] != 0xFF or (length := int.from_bytes(head[2:], "big")) < 2:
            break
        else:
            at += 2 + length
            if head[1] == _SOS:
                at = _end_of_scan(read, at, size_bytes)
    raise Undecodable("The frame is truncated")


def _end_of_scan(read: Read, at: int, size_bytes: int) -> int:
    while at < size_bytes:
        window = read(at, at + _WINDOW_BYTES)
        found = _AFTER_SCAN.search(window)
        if found is not None:
            return at + found.start()
        at += max(1, len(window) - 1)
    return size_bytes


# ---------------------------------------------------------------------------------------------------------- JPEG 2000


@dataclass(frozen=True, slots=True)
class Codestream:
    """The main header of a JPEG 2000 codestream. ISO/IEC 15444-1 §A.5.1, §A.6.1"""

    rows: int
    columns: int
    components: int
    precision: int
    is_signed: bool
    has_component_transform: bool
    is_reversible: bool
    start: int

    @classmethod
    def of(cls, frame: bytes) -> Codestream:
        """Read it; a JP2 file around the codestream, which DICOM does not want, is passed over.

        Raises Undecodable.
        """
        start = frame.find(_J2K_START, 0, _MAXIMUM_MAIN_HEADER_BYTES)
        if start < 0:
            raise Undecodable("The frame is not a JPEG 2000 codestream")
        try:
            length, _, x1, y1, x0, y0, tile_width, tile_height, _, _, components = _SIZ.unpack_from(frame, start + 4)
            depths = {frame[start + 4 + _SIZ.size + 3 * n] for n in range(components)}
        except (struct.error, IndexError):
            raise Undecodable("The frame is truncated") from None
        tiles = -(-x1 // tile_width) * -(-y1 // tile_height) if tile_width and tile_height else 0
        if length != 38 + 3 * components or x1 <= x0 or y1 <= y0 or len(depths) != 1:
            raise Undecodable("The header of the JPEG 2000 codestream is malformed")
        if not 1 <= tiles <= _MAXIMUM_TILES:
            raise Undecodable("The JPEG 2000 codestream has an impossible number of tiles")
        depth = depths.pop()
        has_component_transform, is_reversible = _coding_style(frame, start + 4 + length)
        return cls(
            rows=y1 - y0,
            columns=x1 - x0,
            components=components,
            precision=(depth & 0x7F) + 1,
            is_signed=bool(depth & 0x80),
            has_component_transform=has_component_transform,
            is_reversible=is_reversible,
            start=start,
        )


def _coding_style(frame: bytes, at: int) -> tuple[bool, bool]:
    """Whether the coding style default, a segment of the main header, asks for a transform of the components, and
    whether its wavelets lose nothing.
    """
    while at + 10 <= len(frame) and frame[at] == 0xFF:
        if frame[at + 1] == _COD:
            return frame[at + 8] == 1, frame[at + 13 : at + 14] == b"\1"
        at += 2 + max(2, int.from_bytes(frame[at + 2 : at + 4], "big"))
    raise Undecodable("The header of the JPEG 2000 codestream is malformed")


_JPEG_2000: Mapping[str, tuple[str, str]] = MappingProxyType(
    {"image/jp2": ("90", "91"), "image/jpx": ("92", "93"), "image/jphc": ("201", "203")}
)
"""By media type, the transfer syntax of reversible wavelets, and of others."""


def _described_jpeg2000(media_type: str, read: Read, _: int) -> Described:
    header = Codestream.of(read(0, _MAXIMUM_MAIN_HEADER_BYTES))
    if header.components not in (1, 3) or header.rows > 0xFFFF or header.columns > 0xFFFF or header.precision > 16:
        raise Undecodable("The JPEG 2000 codestream has a size that no image can have")
    reversible, irreversible = _JPEG_2000[media_type]
    transformed = "YBR_RCT" if header.is_reversible else "YBR_ICT"
    colour = transformed if header.has_component_transform else "RGB"
    return Described(
        header.rows,
        header.columns,
        header.components,
        header.precision,
        header.is_signed,
        colour if header.components == 3 else "MONOCHROME2",
        _PREFIX + (reversible if header.is_reversible else irreversible),
    )


def _end_of_jpeg2000(read: Read, start: int, size_bytes: int) -> int:
    """The place behind the codestream at ``start``, by the lengths of its tile-parts. ISO/IEC 15444-1 §A.4.2"""
    if read(start, start + 4) != _J2K_START:
        raise Undecodable("The frame is not a JPEG 2000 codestream")
    at = start + 2
    for _ in range(_MAXIMUM_TILE_PARTS):
        head = read(at, at + 12)
        if head[:2] == b"\xff\xd9":
            return at + 2
        if len(head) < 12 or head[0] != 0xFF:
            break
        length, _, tile_part_bytes = struct.unpack_from(">HHI", head, 2)
        if head[1] != _SOT:
            at += 2 + max(2, length)
        elif tile_part_bytes == 0:  # it goes on to the end, so nothing can follow
            return size_bytes
        else:
            at += max(12, tile_part_bytes)
    raise Undecodable("The frame is truncated")


_DESCRIBE: Mapping[str, Callable[[str, Read, int], Described]] = MappingProxyType(
    {**dict.fromkeys(("image/jpeg", "image/jls"), _described_jpeg), **dict.fromkeys(_JPEG_2000, _described_jpeg2000)}
)
_END_OF: Mapping[str, _EndOf] = MappingProxyType(
    {**dict.fromkeys(("image/jpeg", "image/jls"), _end_of_jpeg), **dict.fromkeys(_JPEG_2000, _end_of_jpeg2000)}
)
