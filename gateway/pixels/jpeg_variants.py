"""JPEG of 12 bits or without loss, JPEG-LS and JPEG XL, all through imagecodecs. PS3.5 §8.2.1, §8.2.3, §8.2.14

The codestream's own size is compared with the description before a decoder sees it (H15). libjpeg fills what is
missing and only warns, so every frame is decoded twice, with other bytes behind its data: a whole one never reads
those.
"""

from __future__ import annotations

import struct

import numpy as np

from gateway.pixels.codecs import JPEG_LS_LOSSLESS
from gateway.pixels.description import PixelDescription
from gateway.pixels.jpeg import END, FILLER, LOSSLESS, Stream, decode_jpeg
from gateway.pixels.native import Pixels, of_cells
from storage.errors import Undecodable

_START_OF_FRAME_LS = 0xF7
_DAMAGED = "The JPEG codestream is damaged or truncated"


def decode_jpeg_extended(description: PixelDescription, frame: bytes) -> Pixels:
    """Stored values of a grey frame of 12 bits; of one of 8 bits as of ``decode_jpeg``. Raises Undecodable."""
    stream = Stream.of(frame)
    if stream.precision == 8:
        return decode_jpeg(description, frame)
    if stream.components != 1:
        raise Undecodable("JPEG of 12 bits is not supported in colour")
    return _as_described(_values(description, stream), stream.precision, description)


def decode_jpeg_lossless(description: PixelDescription, frame: bytes) -> Pixels:
    """Stored values; colour as it is stored. Raises Undecodable."""
    stream = Stream.of(frame, LOSSLESS)
    return _of_cells(_values(description, stream), stream.precision, description)


def _values(description: PixelDescription, stream: Stream) -> Pixels:
    _compare((stream.rows, stream.columns, stream.components, stream.precision), description)
    values = _decoded("jpeg8_decode", stream.joined(is_ycbcr=False), description)
    if not np.array_equal(values, _decoded("jpeg8_decode", stream.joined(is_ycbcr=False, filler=FILLER), description)):
        raise Undecodable("The frame is truncated")
    return values


def decode_jpeg_ls(description: PixelDescription, frame: bytes) -> Pixels:
    """Stored values of a JPEG-LS frame; colour as it is stored. Raises Undecodable."""
    precision, *size = _header_ls(frame)
    _compare((*size, precision), description)
    if END not in frame:  # CharLS looks for it for seconds
        raise Undecodable("The frame is truncated")
    values = _decoded("jpegls_decode", frame, description)
    is_lossless = description.transfer_syntax_uid == JPEG_LS_LOSSLESS
    return (_of_cells if is_lossless else _as_described)(values, precision, description)


def decode_jpeg_xl(description: PixelDescription, frame: bytes) -> Pixels:
    """Stored values of a JPEG XL frame; colour is RGB. Its size is known when it is decoded. Raises Undecodable."""
    return _as_described(_decoded("jpegxl_decode", frame, description), description.bits_stored, description)


def _compare(header: tuple[int, ...], description: PixelDescription) -> None:
    """header: rows, columns, components and bits of a sample."""
    if header[:3] != (description.rows, description.columns, description.samples_per_pixel):
        raise Undecodable("The size of the codestream is not that of the description")
    if header[3] > description.bits_allocated:
        raise Undecodable("The codestream has more bits than the description")


def _header_ls(frame: bytes) -> tuple[int, int, int, int]:
    """Precision, rows, columns and components. ITU-T T.87 §C.2.2"""
    at = 2
    while at + 4 <= len(frame) and frame[at] == 0xFF:
        marker, length = frame[at + 1], int.from_bytes(frame[at + 2 : at + 4], "big")
        if marker == _START_OF_FRAME_LS and at + 10 <= len(frame):
            precision, rows, columns, components = struct.unpack_from(">BHHB", frame, at + 4)
            return precision, rows, columns, components
        at += 2 + max(2, length)
    raise Undecodable("The frame is not a JPEG-LS codestream")


def _decoded(decoder: str, codestream: bytes, description: PixelDescription) -> Pixels:
    import imagecodecs  # noqa: PLC0415 - a third of a worker's start, which most pictures can do without

    try:
        values: Pixels = np.asarray(getattr(imagecodecs, decoder)(codestream))
    except (RuntimeError, ValueError, TypeError):  # all errors of imagecodecs are one of these
        raise Undecodable(_DAMAGED) from None
    shape = (description.rows, description.columns)
    if values.shape != (shape if description.samples_per_pixel == 1 else (*shape, description.samples_per_pixel)):
        raise Undecodable("The decoded image is not as large as its description")
    return values


def _of_cells(values: Pixels, precision: int, description: PixelDescription) -> Pixels:
    """As described, but for samples wider than Bits Stored: those are whole cells, which DCMTK encodes as they are."""
    cells = _as_described(values, precision, description)
    return cells if precision <= max(description.high_bit, description.bits_stored) else of_cells(cells, description)


def _as_described(values: Pixels, precision: int, description: PixelDescription) -> Pixels:
    """The same bits as the description has them: signed ones are extended from their own width."""
    size = description.bits_allocated // 8
    if values.dtype.kind not in "ui" or values.dtype.itemsize > size:
        raise Undecodable("The codestream has more bits than the description")
    if not description.pixel_representation:
        return values
    unused = 8 * values.dtype.itemsize - precision
    return (values.view(f"i{values.dtype.itemsize}") << unused) >> unused
