"""JPEG 2000 and HTJ2K frames, through OpenJPEG. PS3.5 §A.4.4, §8.2.4.

The codestream's own size is compared with the description before a decoder sees it (H15).
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

import numpy as np

from gateway.pixels.description import PixelDescription
from gateway.pixels.native import Pixels, of_cells
from storage.errors import Undecodable

_START = b"\xff\x4f\xff\x51"
_SIZ = struct.Struct(">HHLLLLLLLLH")
_COD = 0x52
_LOSSLESS = frozenset(f"1.2.840.10008.1.2.4.{last}" for last in ("90", "201", "202"))
_MAXIMUM_BOXES_BYTES = 64 << 10
_MAXIMUM_TILES = 65_535


@dataclass(frozen=True, slots=True)
class Codestream:
    """The main header of a codestream. ISO/IEC 15444-1 §A.5.1, §A.6.1"""

    rows: int
    columns: int
    components: int
    precision: int
    is_signed: bool
    has_component_transform: bool
    start: int

    @classmethod
    def of(cls, frame: bytes) -> Codestream:
        """Read it; a JP2 file around the codestream, which DICOM does not want, is passed over.

        Raises Undecodable.
        """
        start = frame.find(_START, 0, _MAXIMUM_BOXES_BYTES)
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
        return cls(
            rows=y1 - y0,
            columns=x1 - x0,
            components=components,
            precision=(depth & 0x7F) + 1,
            is_signed=bool(depth & 0x80),
            has_component_transform=_has_component_transform(frame, start + 4 + length),
            start=start,
        )


def _has_component_transform(frame: bytes, at: int) -> bool:
    """Whether the coding style default, a segment of the main header, asks for it."""
    while at + 10 <= len(frame) and frame[at] == 0xFF:
        if frame[at + 1] == _COD:
            return frame[at + 8] == 1
        at += 2 + max(2, int.from_bytes(frame[at + 2 : at + 4], "big"))
    raise Undecodable("The header of the JPEG 2000 codestream is malformed")


def decode_jpeg2000(description: PixelDescription, frame: bytes) -> Pixels:
    """Stored values; colour is RGB wherever the codestream transforms its components, else as it is stored.

    A codestream without its end is refused: OpenJPEG runs strictly. Raises Undecodable.
    """
    header = Codestream.of(frame)
    if (header.rows, header.columns, header.components) != (
        description.rows,
        description.columns,
        description.samples_per_pixel,
    ):
        raise Undecodable("The size of the codestream is not that of the description")
    if header.precision > description.bits_allocated:
        raise Undecodable("The codestream has more bits than the description")
    # A third of a worker's start and a tenth of its memory, which most pictures can do without.
    from openjpeg.utils import decode as decode_codestream  # noqa: PLC0415

    try:
        values: Pixels = decode_codestream(frame[header.start :], j2k_format=0)
    except (RuntimeError, ValueError):
        raise Undecodable("The JPEG 2000 codestream is damaged or truncated") from None
    shape = (header.rows, header.columns) if header.components == 1 else (header.rows, header.columns, 3)
    if values.shape != shape:
        raise Undecodable("The decoded image is not as large as its codestream says")
    if header.is_signed != bool(description.pixel_representation):
        # The values are right, their sign is not: read the same bits as the description has them. PS3.5 §8.2.4
        letter = "i" if description.pixel_representation else "u"
        unused = 8 * values.dtype.itemsize - header.precision
        values = (values.view(f"{letter}{values.dtype.itemsize}") << unused) >> np.uint8(unused)
    is_cell = header.precision > max(description.high_bit, description.bits_stored)
    return of_cells(values, description) if is_cell and description.transfer_syntax_uid in _LOSSLESS else values
