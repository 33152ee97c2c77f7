"""RLE frames: a header of segment offsets, then one PackBits segment per byte plane. PS3.5 Annex G."""

from __future__ import annotations

import struct
from dataclasses import replace

import numpy as np

from gateway.pixels.description import PixelDescription, PixelKind
from gateway.pixels.native import Pixels, stored_values
from storage.errors import Undecodable

_HEADER = struct.Struct("<16L")
_LARGEST_RATIO = 64  # two bytes stand for at most 128
_PADDING_BYTES = 64
_SMALLEST_RATIO = 2  # and for at least one


def decode_rle(description: PixelDescription, frame: bytes) -> Pixels:
    """Stored values of an RLE frame; colour as it is stored, interleaved.

    Raises Undecodable when the number of segments is not that of the description, or one of them is short.
    """
    if description.kind is not PixelKind.INTEGER:
        raise Undecodable("Floating point pixels are never run-length encoded")
    bytes_per_sample = (description.bits_allocated + 7) // 8
    planes = description.samples_per_pixel * bytes_per_sample
    plane_bytes = (description.pixels + 7) // 8 if description.bits_allocated == 1 else description.pixels
    segments = _segments(frame)
    if len(segments) != planes:
        raise Undecodable("The number of RLE segments is not that of the description")
    samples = np.zeros((description.samples_per_pixel, plane_bytes, bytes_per_sample), np.uint8)
    for number, segment in enumerate(segments):
        sample, byte = divmod(number, bytes_per_sample)  # most significant byte first, PS3.5 §G.2
        samples[sample, :, bytes_per_sample - 1 - byte] = _plane(segment, plane_bytes)
    # Planes are whole and one after another, whatever the description says of other encodings. PS3.5 §G.3
    photometric = description.photometric_interpretation.removesuffix("_422")
    planar = replace(description, planar_configuration=1, photometric_interpretation=photometric)
    return stored_values(planar, samples.tobytes(), "<")


def _segments(frame: bytes) -> list[bytes]:
    """The segments by the offsets of the header, which must ascend. PS3.5 §G.5"""
    if len(frame) < _HEADER.size:
        raise Undecodable("The frame is truncated")
    count, *offsets = _HEADER.unpack_from(frame)
    if not 1 <= count <= 15:
        raise Undecodable("The RLE header is malformed")
    ends = [*offsets[1:count], len(frame)]
    if offsets[0] != _HEADER.size or any(start >= end for start, end in zip(offsets[:count], ends, strict=True)):
        raise Undecodable("The RLE header is malformed, or the frame is truncated")
    return [frame[start:end] for start, end in zip(offsets[:count], ends, strict=True)]


def _plane(segment: bytes, plane_bytes: int) -> Pixels:
    if len(segment) * _LARGEST_RATIO < plane_bytes:
        raise Undecodable("The frame is truncated")
    if len(segment) > plane_bytes * _SMALLEST_RATIO + _PADDING_BYTES:
        raise Undecodable("An RLE segment is longer than its description says")
    from rle.rle import decode_segment  # noqa: PLC0415 - it is slow to load, and most pictures do without it

    try:
        plane = np.frombuffer(decode_segment(segment), np.uint8)
    except ValueError:
        raise Undecodable("An RLE segment is truncated") from None
    if len(plane) < plane_bytes:
        raise Undecodable("An RLE segment is truncated")
    if len(plane) > plane_bytes + 1:
        raise Undecodable("An RLE segment is longer than its description says")
    return plane[:plane_bytes]
