"""Native frames: samples side by side, without compression. PS3.5 §8.1.1, §8.2, Annex A.1 to A.3, A.5.

``stored_values`` is shared with the decoders that only undo a packing (RLE, deflated frames).
"""

from __future__ import annotations

import zlib
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gateway.pixels.description import Frame, PixelDescription, PixelKind
from storage.errors import Undecodable
from storage.frames import HALF_CHROMA
from storage.uids import EXPLICIT_VR_BIG_ENDIAN

Pixels = NDArray[Any]


def frame_bytes(description: PixelDescription) -> int:
    """Bytes of the frame without compression; a frame of single bits starts at a byte. PS3.5 §8.1.1"""
    samples = description.pixels * description.samples_per_pixel
    if description.bits_allocated == 1:
        return (samples + 7) // 8
    if description.photometric_interpretation in HALF_CHROMA:
        samples = description.pixels * 2
    return samples * description.bits_allocated // 8


def decode_native(description: PixelDescription, frame: Frame) -> Pixels:
    """Stored values of a native frame; colour as it is stored, but interleaved and with all its chroma.

    The length must be exact, save for a byte of padding after an odd number. Raises Undecodable.
    """
    expected = frame_bytes(description)
    is_big_endian = description.transfer_syntax_uid == EXPLICIT_VR_BIG_ENDIAN
    if is_big_endian and description.is_word_data and description.bits_allocated <= 8:
        if len(frame) % 2:
            raise Undecodable("The frame of 8-bit words is not whole")
        # The samples are bytes of 16-bit words, which big endian swapped. PS3.5 §8.1.1
        frame = np.frombuffer(frame, np.uint16).byteswap().tobytes()
    if len(frame) < expected:
        raise Undecodable("The frame is truncated")
    if len(frame) > expected + expected % 2:
        raise Undecodable("The frame is longer than its description says")
    return stored_values(description, frame[:expected], ">" if is_big_endian else "<")


def decode_deflated_frame(description: PixelDescription, frame: Frame) -> Pixels:
    """Stored values of a frame that is deflated on its own. PS3.5 §A.4.13"""
    expected = frame_bytes(description)
    inflater = zlib.decompressobj(-zlib.MAX_WBITS)
    try:
        inflated = inflater.decompress(frame, expected + 2)
    except zlib.error:
        raise Undecodable("The frame is not deflated data") from None
    if not inflater.eof and len(inflated) < expected:
        raise Undecodable("The frame is truncated")
    return decode_native(description, inflated)


def stored_values(description: PixelDescription, frame: Frame, byte_order: str) -> Pixels:
    """The samples of exactly ``frame_bytes(description)`` bytes, as (rows, columns) or (rows, columns, 3).

    byte_order: ``<`` or ``>``. The array has the machine's order and is only what the frame holds; bits that are
    not stored are cleared, or copies of the sign.
    """
    rows, columns, samples = description.rows, description.columns, description.samples_per_pixel
    values = _samples(description, frame, byte_order)
    if samples == 1:
        return values.reshape(rows, columns)
    if description.photometric_interpretation in HALF_CHROMA:
        return _upsampled(values, rows, columns)
    if description.planar_configuration == 1:
        return np.ascontiguousarray(values.reshape(samples, rows, columns).transpose(1, 2, 0))
    return values.reshape(rows, columns, samples)


def _samples(description: PixelDescription, frame: Frame, byte_order: str) -> Pixels:
    """All samples in a row, sign-extended or masked to Bits Stored. PS3.5 §8.1.1"""
    if description.bits_allocated == 1:
        count = description.pixels * description.samples_per_pixel
        return np.unpackbits(np.frombuffer(frame, np.uint8), count=count, bitorder="little")
    size = description.bits_allocated // 8
    if description.kind is not PixelKind.INTEGER:
        values: Pixels = np.frombuffer(frame, f"{byte_order}f{size}")
        return values.astype(f"=f{size}", copy=False)
    letter = "i" if description.pixel_representation else "u"
    values = np.frombuffer(frame, f"{byte_order}{letter}{size}").astype(f"={letter}{size}", copy=False)
    if description.bits_stored == description.bits_allocated:
        return values
    return of_cells(values, description)


def of_cells(cells: Pixels, description: PixelDescription) -> Pixels:
    """The values of cells in which other bits may lie beside those stored. PS3.5 §8.1.1"""
    width = 8 * cells.dtype.itemsize
    # To the left end, so that what lies above High Bit falls off; then back, over what lies below.
    return (cells << (width - 1 - description.high_bit)) >> (width - description.bits_stored)


def _upsampled(values: Pixels, rows: int, columns: int) -> Pixels:
    """The samples with the chroma of each pair given to both: two luminances, blue, red. PS3.3 §C.7.6.3.1.2"""
    if columns % 2:
        raise Undecodable("A frame with half of the chroma needs an even number of columns")
    pairs = values.reshape(rows, columns // 2, 4)
    full = np.zeros((rows, columns, 3), values.dtype)
    full[:, 0::2, 0], full[:, 1::2, 0] = pairs[:, :, 0], pairs[:, :, 1]
    full[:, 0::2, 1:] = full[:, 1::2, 1:] = pairs[:, :, 2:]
    return full
