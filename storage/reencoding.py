"""Any Data Set in Explicit or Implicit VR Little Endian, element by element, in constant memory.

Values keep their bytes, turned round where they were big endian; sequences get undefined length, so nothing is
counted ahead. Group lengths, which would no longer be true, are left out. Pixels stay what they are, unless others
are given for them. PS3.5 §7.1, §7.3, §7.5
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from storage.dataset import BLANK_VRS, is_signed_value, looks_implicit, unambiguous_vr
from storage.dictionary import dictionary_vr
from storage.encoding import LONG_VRS, MAXIMUM_SHORT_VALUE_BYTES, element_header
from storage.errors import CorruptObject
from storage.uids import TransferSyntax
from storage.values import KNOWN_VRS, binary_word_bytes, little_endian

Read = Callable[[int, int], bytes]

_WINDOW_BYTES = 64 << 10
_CHUNK_BYTES = 1 << 20
_UNDEFINED = 0xFFFFFFFF
_ITEM = struct.Struct("<HHI")
_ITEM_EMPTY = _ITEM.pack(0xFFFE, 0xE000, 0)
_ITEM_BEGINS = _ITEM.pack(0xFFFE, 0xE000, _UNDEFINED)
_ITEM_ENDS = _ITEM.pack(0xFFFE, 0xE00D, 0)
_SEQUENCE_ENDS = _ITEM.pack(0xFFFE, 0xE0DD, 0)
_PIXEL_REPRESENTATION = 0x00280103
_PIXELS = range(0x7FE00001, 0x7FE10000)
_PIXEL_DATA = 0x7FE00010
_TRAILING = 0xFFFA0000  # signatures of the bytes that were, and padding


@dataclass(frozen=True, slots=True)
class Pixels:
    """The pixels that a Data Set gets instead of its own, and what has to be said of them.

    frames: in order. frame_bytes: length of each where they are native, 0 where each is encapsulated in a fragment.
    elements: by tag, VR and value of elements at the top level that are replaced or added, ahead of the pixels.
    """

    frames: Iterable[bytes]
    number_of_frames: int
    frame_bytes: int = 0
    vr: str = "OB"
    elements: Mapping[int, tuple[str, bytes]] = field(default_factory=dict)


def little_endian_data_set(
    read: Read, size_bytes: int, syntax: TransferSyntax, *, to_implicit: bool = False, pixels: Pixels | None = None
) -> Iterator[bytes]:
    """The Data Set of ``size_bytes`` that ``read`` gives ranges of, in pieces, with explicit VRs or without.

    It was walked at ingest, so its depth is bounded; should its bytes have changed since, CorruptObject is raised.
    ``read`` is asked for ranges that never go back. pixels: instead of its own; signatures
    and padding behind them are left out, for they are those of the other bytes.
    """
    encoder = _Encoder(read, size_bytes, syntax, to_implicit=to_implicit)
    is_implicit = syntax.is_implicit_vr or looks_implicit(read(0, min(8, size_bytes)), syntax, size_bytes)
    try:
        if pixels is None:
            yield from encoder.elements(0, size_bytes, is_implicit=is_implicit)
        else:
            yield from encoder.elements_with(pixels, is_implicit=is_implicit)
    except (struct.error, RecursionError) as error:
        raise CorruptObject("The stored Data Set cannot be read again") from error


class _Encoder:
    """One pass over a Data Set, with a window of read-ahead for its many small elements."""

    def __init__(self, read: Read, size_bytes: int, syntax: TransferSyntax, *, to_implicit: bool) -> None:
        self._to_implicit = to_implicit
        self._read = read
        self._size_bytes = size_bytes
        self._syntax = syntax
        self._window = b""
        self._window_at = 0
        self._is_signed = False
        self.at = 0

    def _peek(self, at: int, length: int) -> bytes:
        offset = at - self._window_at
        if offset < 0 or offset + length > len(self._window):
            self._window = self._read(at, min(self._size_bytes, at + max(length, _WINDOW_BYTES)))
            self._window_at, offset = at, 0
        return self._window[offset : offset + length]

    def elements_with(self, pixels: Pixels, *, is_implicit: bool) -> Iterator[bytes]:
        """The elements of the top level with those of ``pixels``, and the pixels themselves, in their places."""
        waiting = dict(sorted(pixels.elements.items()))
        at, is_sent = 0, False
        while at + 8 <= self._size_bytes:
            tag = self._tag(at, is_implicit=is_implicit)
            if tag >= _TRAILING:
                break
            for early in [early for early in waiting if early < tag]:
                yield from self._given(early, *waiting.pop(early))
            if tag > _PIXELS[-1] and not is_sent:
                yield from self._pixels(pixels)
                is_sent = True
            if tag in _PIXELS or tag in waiting:
                self.at = self._behind(at, is_implicit=is_implicit)
            else:
                yield from self.elements(at, self._size_bytes, is_implicit=is_implicit, most=1)
            if tag in waiting:
                yield from self._given(tag, *waiting.pop(tag))
            if self.at <= at:
                break
            at = self.at
        for tag, (vr, value) in waiting.items():
            yield from self._given(tag, vr, value)
        if not is_sent:
            yield from self._pixels(pixels)

    def _behind(self, at: int, *, is_implicit: bool) -> int:
        """The place behind an element, which may be encapsulated Pixel Data."""
        _, _, length, at = self._header(at, is_implicit=is_implicit)
        if length != _UNDEFINED:
            return min(at + length, self._size_bytes)
        while at + 8 <= self._size_bytes:
            group, element, size = _ITEM.unpack(self._peek(at, 8))
            at += 8
            if (group, element) != (0xFFFE, 0xE000):
                break
            at += size
        return at

    def _tag(self, at: int, *, is_implicit: bool) -> int:
        order = "<" if self._syntax.is_little_endian or is_implicit else ">"
        group, element = struct.unpack(f"{order}HH", self._peek(at, min(4, self._size_bytes - at)))
        return int(group << 16 | element)

    def _given(self, tag: int, vr: str, value: bytes) -> Iterator[bytes]:
        yield self._head(tag, vr, len(value)) + value

    def _pixels(self, pixels: Pixels) -> Iterator[bytes]:
        """Pixel Data, native or encapsulated with an empty Basic Offset Table. PS3.5 §8.1, §A.4"""
        if pixels.frame_bytes:
            length = pixels.frame_bytes * pixels.number_of_frames
            yield self._head(_PIXEL_DATA, pixels.vr, length + length % 2)
            yield from pixels.frames
            yield bytes(length % 2)
            return
        yield self._head(_PIXEL_DATA, "OB", _UNDEFINED) + _ITEM_EMPTY
        for frame in pixels.frames:
            padding = len(frame) % 2
            yield _ITEM.pack(0xFFFE, 0xE000, len(frame) + padding) + frame + bytes(padding)
        yield _SEQUENCE_ENDS

    def _header(self, at: int, *, is_implicit: bool) -> tuple[int, str, int, int]:
        """Tag, VR, length and place of the value of an element; what has no VR is UN. PS3.5 §7.1.2"""
        order = "<" if self._syntax.is_little_endian or is_implicit else ">"
        head = self._peek(at, min(12, self._size_bytes - at))
        group, element, vr_bytes, length = struct.unpack_from(f"{order}HH2sH", head)
        tag = group << 16 | element
        if is_implicit or group == 0xFFFE:
            (length,) = struct.unpack_from(f"{order}I", head, 4)
            return tag, unambiguous_vr(dictionary_vr(tag), tag, is_signed=self._is_signed), length, at + 8
        vr = vr_bytes.decode("latin-1")
        if vr not in KNOWN_VRS and vr_bytes in BLANK_VRS:
            return tag, "UN", length, at + 8
        if vr in LONG_VRS or vr not in KNOWN_VRS:
            (length,) = struct.unpack_from(f"{order}I", head, 8)
            return tag, vr if vr in KNOWN_VRS else "UN", length, at + 12
        return tag, vr, length, at + 8

    def elements(self, at: int, end: int, *, is_implicit: bool, most: int = _UNDEFINED) -> Iterator[bytes]:
        """At most so many elements from ``at`` to ``end`` or an item delimiter; where it stopped is ``self.at``."""
        order = "<" if self._syntax.is_little_endian or is_implicit else ">"
        while at + 8 <= end and most:
            most -= 1
            tag, vr, length, value_at = self._header(at, is_implicit=is_implicit)
            at += 8
            if tag >> 16 == 0xFFFE:
                break
            at = value_at
            if length == _UNDEFINED and vr in ("OB", "OW"):
                raise CorruptObject("There are compressed pixels where none can be turned into others")
            if vr == "SQ" or length == _UNDEFINED:
                yield self._head(tag, "SQ", _UNDEFINED)
                inner_end = end if length == _UNDEFINED else at + length
                yield from self._items(at, inner_end, is_implicit=is_implicit or vr == "UN", order=order)
                at = self.at if length == _UNDEFINED else inner_end
                continue
            stop = min(at + length, end)
            if tag & 0xFFFF:
                yield from self._element(tag, vr, at, stop, is_swapped=order == ">")
            at = stop
        self.at = at

    def _items(self, at: int, end: int, *, is_implicit: bool, order: str) -> Iterator[bytes]:
        while at + 8 <= end:
            group, element, length = struct.unpack(f"{order}HHI", self._peek(at, 8))
            at += 8
            if (group, element) != (0xFFFE, 0xE000):
                break
            yield _ITEM_BEGINS
            item_end = end if length == _UNDEFINED else at + length
            yield from self.elements(at, item_end, is_implicit=is_implicit)
            at = self.at if length == _UNDEFINED else item_end
            yield _ITEM_ENDS
        self.at = at
        yield _SEQUENCE_ENDS

    def _head(self, tag: int, vr: str, length: int) -> bytes:
        if self._to_implicit:
            return struct.pack("<HHI", tag >> 16, tag & 0xFFFF, length)
        return element_header(tag, vr, length)

    def _element(self, tag: int, vr: str, start: int, end: int, *, is_swapped: bool) -> Iterator[bytes]:
        length = end - start
        padding = length & 1
        if vr not in LONG_VRS and length + padding > MAXIMUM_SHORT_VALUE_BYTES:
            vr = "UN"  # too long for the short form (PS3.5 §6.2.2)
        yield self._head(tag, vr, length + padding)
        word_bytes = binary_word_bytes(vr) if is_swapped else 1
        for at in range(start, end, _CHUNK_BYTES):
            stop = min(end, at + _CHUNK_BYTES)
            raw = self._peek(at, stop - at) if length <= _WINDOW_BYTES else self._read(at, stop)
            if tag == _PIXEL_REPRESENTATION:
                self._is_signed = is_signed_value(raw)
            yield little_endian(raw, word_bytes)
        if padding:
            yield b"\0"
