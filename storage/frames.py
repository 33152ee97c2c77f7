"""FrameTable: where each frame's bytes lie in the object, made once at ingest and kept in the row (D5).

A frame is then one row and one ranged read. Frame numbers start at 1. PS3.5 §8.2, §A.4; PS3.3 §C.7.6.3.1
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise

from storage.dataset import DataSet, PixelData
from storage.errors import NotFound
from storage.uids import RLE_LOSSLESS, TransferSyntax

_NATIVE, _SINGLE, _MULTIPLE = 0, 1, 2
_NATIVE_FORMAT = struct.Struct("<BIQQ")
_HEAD = struct.Struct("<BI")
_MAXIMUM_FRAMES = 1_000_000
_FLOAT_BITS = {"7FE00008": 32, "7FE00009": 64}

_SHORT = "The Pixel Data is shorter than its frames"
_EMPTY = "The Pixel Data has no fragments"
_MIXED = "The Pixel Data's frames cannot be told apart"
PIXELS_MISSING = frozenset((_SHORT, _EMPTY, _MIXED))
"""Warnings that a sender should hear of: the instance is kept as it came, but not every frame can be shown."""

Range = tuple[int, int]
Fragments = tuple[Range, ...]
Peek = Callable[[int, int], bytes]


@dataclass(frozen=True, slots=True)
class FrameTable:
    """Ranges of bytes by frame. Offsets count from the start of the Data Set.

    encoded: the table as a row keeps it. Native frames are regular and take 21 bytes whatever their number;
    encapsulated ones 12 bytes each.
    """

    encoded: bytes

    @property
    def number_of_frames(self) -> int:
        """Frames that have bytes; 0 for an empty table."""
        return int(_HEAD.unpack_from(self.encoded)[1]) if self.encoded else 0

    @property
    def is_native(self) -> bool:
        """Whether frames are runs of pixels without items."""
        return self.encoded[:1] == bytes((_NATIVE,))

    def bits(self, number: int) -> Range:
        """The half-open range of bits of a native frame, which need not start at a byte. PS3.5 §8.1.1"""
        self._check(number)
        _, _, start, frame_bits = _NATIVE_FORMAT.unpack_from(self.encoded)
        first = start * 8 + (number - 1) * frame_bits
        return first, first + frame_bits

    def ranges(self, number: int) -> Fragments:
        """Ranges of bytes that make up a frame, in order; one unless an encoder split it. Raises NotFound."""
        self._check(number)
        if self.is_native:
            first, last = self.bits(number)
            return ((first // 8, (last + 7) // 8),)
        kind, frames = _HEAD.unpack_from(self.encoded)
        first, last, at = number - 1, number, _HEAD.size
        fragments = frames
        if kind == _MULTIPLE:
            (fragments,) = struct.unpack_from("<I", self.encoded, at)
            first, last = struct.unpack_from("<2I", self.encoded, at + 4 + 4 * (number - 1))
            at += 4 + 4 * (frames + 1)
        count = last - first
        starts = struct.unpack_from(f"<{count}Q", self.encoded, at + 8 * first)
        lengths = struct.unpack_from(f"<{count}I", self.encoded, at + 8 * fragments + 4 * first)
        return tuple((start, start + length) for start, length in zip(starts, lengths, strict=True))

    def _check(self, number: int) -> None:
        if not 1 <= number <= self.number_of_frames:
            raise NotFound("There is no such frame")


NO_FRAMES = FrameTable(b"")


HALF_CHROMA = frozenset({"YBR_FULL_422", "YBR_PARTIAL_422"})
"""Native pixels of these have one pair of colour differences for two pixels. PS3.3 §C.7.6.3.1.2"""


def native_table(start: int, frame_bits: int, frames: int) -> FrameTable:
    """A table of equal frames that follow one another from byte ``start``."""
    return FrameTable(_NATIVE_FORMAT.pack(_NATIVE, frames, start, frame_bits))


def encapsulated_table(frames: list[Fragments]) -> FrameTable:
    """A table of frames that are given by their fragments."""
    flat = [fragment for fragments in frames for fragment in fragments]
    body = _array("Q", [start for start, _ in flat]) + _array("I", [end - start for start, end in flat])
    if len(flat) == len(frames):
        return FrameTable(_HEAD.pack(_SINGLE, len(frames)) + body)
    firsts = [0]
    for fragments in frames:
        firsts.append(firsts[-1] + len(fragments))
    return FrameTable(_HEAD.pack(_MULTIPLE, len(frames)) + struct.pack("<I", len(flat)) + _array("I", firsts) + body)


def _array(letter: str, numbers: list[int]) -> bytes:
    return struct.pack(f"<{len(numbers)}{letter}", *numbers)


def frame_table(data_set: DataSet, transfer_syntax: TransferSyntax, peek: Peek) -> tuple[FrameTable, str]:
    """The table of an instance's Pixel Data, and a warning where it is not what its attributes say.

    peek: reads a few bytes of the Data Set, to find where frames begin when nothing else tells.
    """
    pixel_data = data_set.pixel_data
    if pixel_data is None:
        return NO_FRAMES, ""
    frames = max(1, data_set.number("00280008", 1))
    if pixel_data.is_encapsulated:
        return _encapsulated(pixel_data, frames, transfer_syntax, peek)
    return _native(data_set, pixel_data, frames)


def _native(data_set: DataSet, pixel_data: PixelData, frames: int) -> tuple[FrameTable, str]:
    frame_bits = _frame_bits(data_set)
    available_bits = (pixel_data.end - pixel_data.start) * 8
    if frame_bits <= 0:
        return NO_FRAMES, "The Pixel Data has no dimensions"
    whole = available_bits // frame_bits
    if whole < frames:
        frames, warning = whole, _SHORT
    else:
        warning = ""
    return (native_table(pixel_data.start, frame_bits, frames) if frames else NO_FRAMES), warning


def _frame_bits(data_set: DataSet) -> int:
    """Bits of one native frame; native YBR_FULL_422 and its like share chroma between two pixels. PS3.3 §C.7.6.3.1.2"""
    pixels = data_set.number("00280010") * data_set.number("00280011")
    samples = data_set.number("00280002", 1)
    for tag, bits in _FLOAT_BITS.items():
        if tag in data_set.json:
            return pixels * samples * bits
    if samples == 3 and data_set.text("00280004") in HALF_CHROMA:
        samples = 2
    return pixels * samples * data_set.number("00280100")


def _encapsulated(
    pixel_data: PixelData, frames: int, transfer_syntax: TransferSyntax, peek: Peek
) -> tuple[FrameTable, str]:
    fragments = pixel_data.fragments
    if not fragments:
        return NO_FRAMES, _EMPTY
    if frames > _MAXIMUM_FRAMES:
        return NO_FRAMES, "The Pixel Data has too many frames"
    if transfer_syntax.media_type.startswith("video/"):
        return encapsulated_table([fragments]), ""
    found = (
        _by_count(fragments, frames)
        or _by_offsets(fragments, pixel_data.extended_offsets, frames)
        or _by_offsets(fragments, pixel_data.basic_offsets, frames)
        or _by_codestream(fragments, frames, transfer_syntax, peek)
    )
    if found:
        return encapsulated_table(found), ""
    return NO_FRAMES, _MIXED


def _by_count(fragments: Fragments, frames: int) -> list[Fragments] | None:
    """One frame has all fragments; as many fragments as frames are one each."""
    if frames == 1:
        return [fragments]
    if len(fragments) == frames:
        return [(fragment,) for fragment in fragments]
    return None


def _by_offsets(fragments: Fragments, offsets: tuple[int, ...], frames: int) -> list[Fragments] | None:
    """Frames by the offsets of their first item tags, counted from the first fragment's item. PS3.5 §A.4"""
    if len(offsets) != frames:
        return None
    base = fragments[0][0] - 8
    position = {start - 8 - base: index for index, (start, _) in enumerate(fragments)}
    firsts = [position.get(offset, -1) for offset in offsets]
    if firsts[0] != 0 or any(later <= earlier for earlier, later in pairwise(firsts)):
        return None
    return _split(fragments, firsts)


_CODESTREAM_STARTS = {"image/jpeg": b"\xff\xd8", "image/jls": b"\xff\xd8", "image/jp2": b"\xff\x4f\xff\x51"}
_CODESTREAM_STARTS |= dict.fromkeys(("image/jpx", "image/jphc"), b"\xff\x4f\xff\x51")


def _by_codestream(
    fragments: Fragments, frames: int, transfer_syntax: TransferSyntax, peek: Peek
) -> list[Fragments] | None:
    """Frames begin where a fragment begins with the codestream's own start; RLE never splits. PS3.5 §A.4.2, §A.4"""
    mark = _CODESTREAM_STARTS.get(transfer_syntax.media_type)
    if mark is None or transfer_syntax.uid == RLE_LOSSLESS:
        return None
    firsts = [index for index, (start, _) in enumerate(fragments) if peek(start, start + len(mark)) == mark]
    if len(firsts) != frames or firsts[0] != 0:
        return None
    return _split(fragments, firsts)


def _split(fragments: Fragments, firsts: list[int]) -> list[Fragments]:
    return [fragments[first:last] for first, last in pairwise([*firsts, len(fragments)])]


def align_bits(raw: bytes, first_bit: int, bits: int) -> bytes:
    """Bits ``first_bit`` onwards of ``raw`` as bytes of their own, low bit first, the rest zero. PS3.5 §8.1.1, §D

    ``raw`` starts at the byte that holds the first bit, so ``first_bit`` is 0 to 7.
    """
    whole = (bits + 7) // 8
    number = int.from_bytes(raw, "little") >> first_bit
    return (number & ((1 << bits) - 1)).to_bytes(whole, "little")


__all__ = ["HALF_CHROMA", "NO_FRAMES", "FrameTable", "align_bits", "encapsulated_table", "frame_table", "native_table"]
