"""Overlay planes: single bits that lie over an image, in elements of their own or in unused bits of its pixels.

Pure, and read here only; ``planes`` draws them. PS3.3 §C.9.2, §C.9.3, PS3.5 §8.1.2
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from gateway.pixels.description import MAXIMUM_FRAME_PIXELS, OVERLAY_PLANE, PixelDescription, PixelKind
from gateway.pixels.elements import DataSet, bytes_of, element_of, integer_of, numbers_of, text_of
from storage.errors import Undecodable
from storage.frames import align_bits

_ROWS, _COLUMNS, _FRAMES, _TYPE, _ORIGIN, _FIRST_FRAME = "0010", "0011", "0015", "0040", "0050", "0051"
_BITS_ALLOCATED, _BIT_POSITION, _DATA = "0100", "0102", "3000"


@dataclass(frozen=True, slots=True)
class Overlay:
    """The plane of one frame.

    top, left: the pixel of the image, from 0, on which its first point lies; may be outside. bits: its points row by
    row, low bit first. bit_position: where they are in the pixels instead, from the lowest bit; else -1.
    """

    rows: int
    columns: int
    top: int
    left: int
    is_region: bool
    bits: bytes = b""
    bit_position: int = -1

    @property
    def is_embedded(self) -> bool:
        """Whether it lies in bits of the pixels; retired, and in many an archive."""
        return self.bit_position >= 0


def place_of_frame(metadata: DataSet, group: str, frame_number: int) -> tuple[int, int] | None:
    """First bit and number of bits of the plane of a frame in Overlay Data; None when the frame has none.

    A plane lies over every frame unless it says how many it has, even if that is one. PS3.3 §C.9.3.1.1
    """
    size = _count(metadata, group + _ROWS) * _count(metadata, group + _COLUMNS)
    frames = _count(metadata, group + _FRAMES)
    index = frame_number - max(1, _count(metadata, group + _FIRST_FRAME, 1)) if frames else 0
    return (index * size, size) if size > 0 and 0 <= index < max(1, frames) else None


def overlays(metadata: DataSet, description: PixelDescription) -> Iterator[Overlay]:
    """The planes that lie over a frame, by group. Raises Undecodable for one that is not what its elements say."""
    for group in sorted({tag[:4] for tag in metadata if OVERLAY_PLANE.fullmatch(tag) and tag[4:] == _ROWS}):
        plane = overlay_of(metadata, group, description)
        if plane is not None:
            yield plane


def overlay_of(metadata: DataSet, group: str, description: PixelDescription) -> Overlay | None:
    """The plane of one group that lies over a frame, if there is one. Raises as ``overlays``."""
    place = place_of_frame(metadata, group, description.frame_number)
    if place is None:
        return None
    top, left = (*numbers_of(metadata, group + _ORIGIN), 1.0, 1.0)[:2]
    plane = Overlay(
        rows=_count(metadata, group + _ROWS),
        columns=_count(metadata, group + _COLUMNS),
        top=int(top) - 1,
        left=int(left) - 1,
        is_region=text_of(metadata, group + _TYPE) == "R",
    )
    if element_of(metadata, group + _DATA).keys() - {"vr"}:
        return replace(plane, bits=_bits(metadata, group, *place))
    if _count(metadata, group + _BITS_ALLOCATED, 1) > 1 and _has_bits_to_spare(description):
        last = description.bits_allocated - 1
        position = integer_of(metadata, group + _BIT_POSITION, minimum=0, maximum=last)
        if not description.high_bit - description.bits_stored < position <= description.high_bit:
            return replace(plane, bit_position=position)
    return None


def _has_bits_to_spare(description: PixelDescription) -> bool:
    return description.kind is PixelKind.INTEGER and description.samples_per_pixel == 1


def _count(metadata: DataSet, tag: str, default: int = 0) -> int:
    return integer_of(metadata, tag, default, minimum=0, maximum=MAXIMUM_FRAME_PIXELS)


def _bits(metadata: DataSet, group: str, first: int, count: int) -> bytes:
    """``count`` bits of Overlay Data from bit ``first`` on, which need not start a byte."""
    stored = bytes_of(metadata, group + _DATA)
    if len(stored) * 8 < first + count:
        raise Undecodable("An overlay is truncated", tag=group + _DATA)
    return align_bits(stored[first // 8 : (first + count + 7) // 8], first % 8, count)
