"""A Data Set, walked once from its first byte to its last without decoding a pixel: its DICOM JSON, the places of
its large values, and its Pixel Data as the encoder left it.

The walk is bounded in bytes, elements and depth (L8), never recurses past the depth limit and never copies a large
value. It takes every transfer syntax, deflated ones with a cap on what comes out (L9). PS3.5 §7, Annex A
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from mmap import mmap
from typing import Any, NamedTuple

import orjson

from storage.dictionary import dictionary_vr
from storage.errors import NotDicom, TooComplex
from storage.model import BulkValue, JsonElement
from storage.recent import MAXIMUM_RECENT_ELEMENTS, MAXIMUM_RECENT_VALUE_BYTES, RecentElements, RecentTable
from storage.uids import TransferSyntax
from storage.values import (
    BINARY_VRS,
    DEFAULT_ENCODINGS,
    KNOWN_VRS,
    Encodings,
    encodings_of,
    json_element,
)

Buffer = bytes | bytearray | memoryview | mmap
_Unpack = Callable[[Buffer, int], tuple[Any, ...]]

BULK_DATA_MARK = "\0/bulkdata/"
MAXIMUM_HEADER_BYTES = 16 << 20
MAXIMUM_ELEMENTS = 50_000
MAXIMUM_DEPTH = 32
MAXIMUM_KEPT_VALUE_BYTES = 64 << 10
MAXIMUM_INLINE_BINARY_BYTES = 4 << 10
MAXIMUM_FRAGMENTS = 300_000
MAXIMUM_FRAMES = 65_536
MAXIMUM_PER_FRAME_JSON_BYTES = 256 << 20
ELEMENTS_PER_FRAME = 256
HEADER_BYTES_PER_FRAME = 8 << 10
MAXIMUM_INFLATED_BYTES = 512 << 20
MAXIMUM_INFLATION = 200

_HEAD_BYTES = 32 << 10  # of the buffer, as bytes: slices of those cost a third of slices of a view
_UNDEFINED = 0xFFFFFFFF
_ITEM = 0xFFFEE000
_ITEM_END = 0xFFFEE00D
_SEQUENCE_END = 0xFFFEE0DD
_SPECIFIC_CHARACTER_SET = 0x00080005
_PIXEL_REPRESENTATION = 0x00280103
_PER_FRAME_GROUPS = 0x52009230
_EXTENDED_OFFSETS = 0x7FE00001
_LUT_DESCRIPTOR = 0x00283002
_DECISIVE = frozenset((_SPECIFIC_CHARACTER_SET, _PIXEL_REPRESENTATION, _EXTENDED_OFFSETS))
_PIXEL_DATA = frozenset((0x7FE00008, 0x7FE00009, 0x7FE00010))
_LONG_VRS = frozenset((b"OB", b"OD", b"OF", b"OL", b"OV", b"OW", b"SQ", b"SV", b"UC", b"UN", b"UR", b"UT", b"UV"))
_VRS = {vr.encode("ascii"): vr for vr in KNOWN_VRS}
# Which VRs PS3.18 §10.4.1.1.2 lets metadata replace by a reference; others never grow past a few bytes.
_LE_SHORT, _BE_SHORT = struct.Struct("<HH2sH").unpack_from, struct.Struct(">HH2sH").unpack_from
_LE_LONG, _BE_LONG = struct.Struct("<I").unpack_from, struct.Struct(">I").unpack_from
_LE_ITEM, _BE_ITEM = struct.Struct("<HHI").unpack_from, struct.Struct(">HHI").unpack_from
_NUMERIC_ARRAYS = frozenset(("FD", "FL", "SL", "SS", "SV", "UL", "US", "UV"))


@dataclass(frozen=True, slots=True)
class PixelData:
    """Pixel Data as it lies in the Data Set. PS3.5 §8.2, §A.4

    start, end: of the value; for an encapsulated one of all items. fragments: half-open ranges of their contents
    without the first item, whose offsets are basic_offsets. extended_offsets and lengths come from (7FE0,0001) and
    (7FE0,0002).
    """

    start: int
    end: int
    vr: str
    is_encapsulated: bool = False
    fragments: tuple[tuple[int, int], ...] = ()
    basic_offsets: tuple[int, ...] = ()
    extended_offsets: tuple[int, ...] = ()


@dataclass(slots=True)
class DataSet:
    """What one walk found. json: DICOM JSON Model, ascending by tag; bulk: places of the values it refers to.

    Data Sets share elements that are the same byte for byte: nobody may change one.
    """

    json: dict[str, JsonElement]
    bulk: dict[str, BulkValue]
    pixel_data: PixelData | None
    warnings: tuple[str, ...]

    def text(self, tag: str) -> str:
        """The first value of a top level attribute as text; empty when it has none."""
        values = self.json.get(tag, {}).get("Value") or [""]
        return str(values[0]) if values[0] is not None else ""

    def number(self, tag: str, default: int = 0) -> int:
        """The first value of a top level attribute as a whole number; ``default`` when it is none."""
        try:
            return int(self.text(tag) or default)
        except ValueError:
            return default


def read_data_set(buffer: Buffer, start: int, transfer_syntax: TransferSyntax) -> DataSet:
    """Walk the Data Set that fills ``buffer`` from ``start``.

    Offsets in the result count from the start of the Data Set, for a deflated one of the inflated Data Set. Raises
    NotDicom where the bytes make no Data Set, TooComplex where they pass a limit.
    """
    if transfer_syntax.is_deflated:
        inflated, total_bytes = inflate_header(buffer, start)
        return _Walk(inflated, 0, total_bytes, transfer_syntax).run()
    return _Walk(buffer, start, len(buffer), transfer_syntax).run()


def read_beginning(
    buffer: Buffer, start: int, transfer_syntax: TransferSyntax
) -> tuple[dict[str, JsonElement], NotDicom | None]:
    """What ``read_data_set`` would read up to the first thing that is wrong, whole elements of the top level only; and
    what that is, None for a Data Set that can be read. For people who look for the reason.
    """
    json: dict[str, JsonElement] = {}
    try:
        end = len(buffer)
        if transfer_syntax.is_deflated:
            buffer, end = inflate_header(buffer, start)
            start = 0
        _Walk(buffer, start, end, transfer_syntax).run(json)
    except NotDicom as error:
        return json, error.with_traceback(None)
    return json, None


def inflate_header(buffer: Buffer, start: int) -> tuple[bytes, int]:
    """The first part of a deflated Data Set, as much as a header may be, and the length of the whole (L9).

    In constant memory: what lies behind is inflated and dropped. PS3.5 §A.5
    """
    inflater = zlib.decompressobj(-zlib.MAX_WBITS)
    header = bytearray()
    total_bytes = 0
    pending = memoryview(buffer)[start:]
    compressed_bytes = len(pending)
    try:
        tail = b""
        at = 0
        while not inflater.eof:
            if not tail:
                if at >= compressed_bytes:
                    break
                tail = bytes(pending[at : at + (64 << 10)])
                at += len(tail)
            piece = inflater.decompress(tail, 1 << 20)
            tail = inflater.unconsumed_tail
            total_bytes += len(piece)
            if len(header) < MAXIMUM_HEADER_BYTES:
                header += piece
            consumed = at - len(tail)
            if total_bytes > MAXIMUM_INFLATED_BYTES or total_bytes - (1 << 20) > MAXIMUM_INFLATION * consumed:
                raise TooComplex("The deflated Data Set grows past its limit")
    except zlib.error as error:
        raise NotDicom("The deflated Data Set is damaged") from error
    finally:
        pending.release()
    if not inflater.eof and not header:
        raise NotDicom("The deflated Data Set is damaged")
    return bytes(header), total_bytes


def unambiguous_vr(vr: str, tag: int, *, is_signed: bool) -> str:
    """One VR where the dictionary offers several; any other is returned as it is. PS3.5 §A.1, PS3.6 §6"""
    if "or" not in vr:
        return vr
    if "OW" in vr:
        return "OW"
    return "SS" if is_signed and tag != _LUT_DESCRIPTOR else "US"


def _known_vr(tag: int, *, is_signed: bool) -> str:
    """The VR that the dictionary gives an element of unknown VR; a sequence stays one opaque value.

    Converters that lack a dictionary write even UIDs so, and an instance could not be told from another (D11).
    PS3.5 §6.2.2
    """
    vr = unambiguous_vr(dictionary_vr(tag), tag, is_signed=is_signed)
    return "UN" if vr == "SQ" else vr


def is_signed_value(pixel_representation: bytes) -> bool:
    """Whether a value of Pixel Representation, in either byte order, says that pixels are signed. PS3.3 §C.7.6.3"""
    return b"\1" in pixel_representation[:2]


_RECENT = RecentElements()


class _Place(NamedTuple):
    """Where in the nesting the walk is, and what holds there."""

    path: str
    encodings: Encodings
    depth: int
    is_implicit: bool


BLANK_VRS = (b"  ", b"??", b"\0\0", b"--")
"""What some writers put where the VR of an element belongs; its length has the short form."""


def looks_implicit(begin: bytes, transfer_syntax: TransferSyntax, size_bytes: int) -> bool:
    """Whether a Data Set that was announced with explicit VRs has none: some writers mislabel it (D11).

    begin: its first eight bytes.
    """
    vr = begin[4:6]
    if not transfer_syntax.is_little_endian or len(begin) < 8 or (vr.isalpha() and vr.isupper()):
        return False
    return int.from_bytes(begin[4:8], "little") <= size_bytes


@dataclass(slots=True)
class _Walk:
    """The state of one walk: where the bytes are and what is left of each budget."""

    buffer: Buffer
    origin: int
    end: int
    transfer_syntax: TransferSyntax
    elements_left: int = MAXIMUM_ELEMENTS
    header_bytes_left: int = MAXIMUM_HEADER_BYTES
    bulk: dict[str, BulkValue] = field(default_factory=dict)
    pixel_data: PixelData | None = None
    extended_offsets: tuple[int, ...] = ()
    warnings: list[str] = field(default_factory=list)
    is_signed: bool = False
    head: bytes = b""

    def run(self, json: dict[str, JsonElement] | None = None) -> DataSet:
        """The whole walk. json: where the elements go, for who wants those before a fault, too."""
        json = {} if json is None else json
        self.head = bytes(self.buffer[:_HEAD_BYTES])
        try:
            is_implicit = self.transfer_syntax.is_implicit_vr
            begin = bytes(self.buffer[self.origin : self.origin + 8])
            if not is_implicit and looks_implicit(begin, self.transfer_syntax, self.end - self.origin):
                is_implicit = True
                self.warnings.append("The Data Set is implicit VR but was announced as explicit")
            self._data_set(json, self.origin, self.end, _Place("", DEFAULT_ENCODINGS, 0, is_implicit))
        except struct.error as error:
            raise NotDicom("The Data Set ends within an element") from error
        if not json:
            raise NotDicom("There is no element in the Data Set")
        pixel_data = self.pixel_data
        if pixel_data is not None and self.extended_offsets:
            pixel_data = replace(pixel_data, extended_offsets=self.extended_offsets)
        return DataSet(_ascending(json), self.bulk, pixel_data, tuple(dict.fromkeys(self.warnings)))

    def _data_set(self, json: dict[str, JsonElement], at: int, end: int, place: _Place) -> int:
        """Read elements into ``json`` until ``end`` or an item delimiter; where it stopped is returned."""
        buffer = self.buffer
        path, encodings, depth, is_implicit = place
        little = self.transfer_syntax.is_little_endian or is_implicit
        short, long = (_LE_SHORT, _LE_LONG) if little else (_BE_SHORT, _BE_LONG)
        readable_end = len(buffer)
        head, head_end = self.head, len(self.head)
        recent = self._recent(place, encodings, little)
        while at + 8 <= end and at + 8 <= readable_end:
            group, element, vr_bytes, length = short(buffer, at)
            value_bytes = long(buffer, at + 4)[0] if is_implicit else length
            raw_element = b""
            if value_bytes <= MAXIMUM_RECENT_VALUE_BYTES:
                stop = at + 8 + value_bytes
                raw_element = head[at:stop] if stop <= head_end else bytes(buffer[at:stop])
                known = recent.get(raw_element)
                if known is not None and stop <= end and self.elements_left > 0 and self.header_bytes_left > stop - at:
                    self.elements_left -= 1
                    self.header_bytes_left -= stop - at
                    key, json_of_key = known
                    json[key] = json_of_key
                    at = stop
                    continue
            tag = group << 16 | element
            value_at = at + 8
            if group == 0xFFFE:
                if tag == _ITEM_END and depth:
                    return value_at
                raise NotDicom("There is a delimiter where an element should be")
            if is_implicit:
                vr = dictionary_vr(tag)
                (length,) = long(buffer, at + 4)
                if "or" in vr:
                    vr = unambiguous_vr(vr, tag, is_signed=self.is_signed)
            elif vr_bytes in _LONG_VRS:
                vr = _VRS[vr_bytes]
                (length,) = long(buffer, value_at)
                value_at += 4
                raw_element = b""
                if vr == "UN" and little and length != _UNDEFINED:
                    vr = _known_vr(tag, is_signed=self.is_signed)
            else:
                vr = _VRS.get(vr_bytes, "")
                if not vr:
                    raw_element = b""
                    vr, length, value_at = "UN", *self._odd_vr(vr_bytes, value_at, length, long)
            self.elements_left -= 1
            if self.elements_left < 0:
                raise TooComplex("The Data Set has too many elements")
            if vr == "SQ" or length == _UNDEFINED:
                within = _Place(path, encodings, depth, is_implicit)
                at = self._structured(json, (tag, vr, value_at, length), end, within)
                recent = self._recent(place, encodings, little)
                continue
            at = value_at + length
            if at > end:
                at = self._shortened(tag, value_at, end)
            if element == 0:
                continue
            key = f"{tag:08X}"
            if tag in _PIXEL_DATA:
                self._native_pixel_data(json, key, BulkValue(value_at, at, vr), place)
                continue
            if tag == _EXTENDED_OFFSETS and not depth:
                self._extended_offset_table(value_at, at)
            if length > MAXIMUM_INLINE_BINARY_BYTES and _is_bulk(vr, tag, length):
                self._reference(json, key, BulkValue(value_at, at, vr), path)
                continue
            self.header_bytes_left -= length + 8
            if self.header_bytes_left < 0 or at > readable_end:
                raise TooComplex("The header of the Data Set is too long")
            raw = bytes(buffer[value_at:at])
            if tag == _SPECIFIC_CHARACTER_SET:
                encodings = encodings_of(raw)
            elif tag == _PIXEL_REPRESENTATION:
                self.is_signed = is_signed_value(raw)
            json[key] = json_of_key = json_element(vr, raw, encodings, is_little_endian=little)
            if tag in _DECISIVE:
                recent = self._recent(place, encodings, little)
            elif raw_element and len(recent) < MAXIMUM_RECENT_ELEMENTS:
                recent[raw_element] = key, json_of_key
        if at < min(end, readable_end) and bytes(buffer[at:end]).strip(b"\0"):
            if depth:
                raise NotDicom("An item ends within an element")
            self.warnings.append("There are bytes behind the last element")
        return at

    def _recent(self, place: _Place, encodings: Encodings, is_little_endian: bool) -> RecentTable:
        """Elements that were read as those of this place are."""
        return _RECENT.table(
            encodings, is_implicit=place.is_implicit, is_little_endian=is_little_endian, is_signed=self.is_signed
        )

    def _shortened(self, tag: int, value_at: int, end: int) -> int:
        """The end of a value that runs past its Data Set: native Pixel Data may be short, anything else is broken."""
        if tag in _PIXEL_DATA and end == self.end and value_at <= end:
            self.warnings.append("The Pixel Data is shorter than its length says")
            return end
        raise NotDicom("An element is longer than what is left of the Data Set")

    def _odd_vr(self, vr: bytes, value_at: int, length: int, long: _Unpack) -> tuple[int, int]:
        """Length and place of a value whose VR the standard does not know: later VRs have the long form, blanks the
        short one. PS3.5 §6.2, §7.1.2
        """
        if vr.isalpha() and vr.isupper():
            self.warnings.append("There is an element of unknown VR")
            return long(self.buffer, value_at)[0], value_at + 4
        if vr in BLANK_VRS:
            self.warnings.append("There is an element without VR")
            return length, value_at
        raise NotDicom("An element has no Value Representation")

    def _reference(self, json: dict[str, JsonElement], key: str, value: BulkValue, path: str) -> None:
        """Keep the place of a large value, and in the JSON a reference relative to the instance."""
        self.header_bytes_left -= 64
        if self.header_bytes_left < 0:
            raise TooComplex("The header of the Data Set is too long")
        self.bulk[path + key] = BulkValue(value.start - self.origin, value.end - self.origin, value.vr)
        json[key] = {"vr": value.vr, "BulkDataURI": BULK_DATA_MARK + path + key}

    def _native_pixel_data(self, json: dict[str, JsonElement], key: str, value: BulkValue, place: _Place) -> None:
        if value.start == value.end:
            json[key] = {"vr": value.vr}
            return
        self._reference(json, key, value, place.path)
        if place.depth == 0:
            self.pixel_data = PixelData(value.start - self.origin, value.end - self.origin, value.vr)

    def _extended_offset_table(self, start: int, end: int) -> None:
        count = (end - start) // 8
        if count > MAXIMUM_FRAGMENTS or end > len(self.buffer):
            raise TooComplex("The Extended Offset Table is too long")
        self.extended_offsets = struct.unpack_from(f"<{count}Q", self.buffer, start)

    def _structured(
        self, json: dict[str, JsonElement], header: tuple[int, str, int, int], end: int, place: _Place
    ) -> int:
        """A sequence, or encapsulated Pixel Data; the offset behind it is returned."""
        tag, vr, at, length = header
        key = f"{tag:08X}"
        if length == _UNDEFINED and tag in _PIXEL_DATA:
            return self._encapsulated_pixel_data(json, key, BulkValue(at, at, vr), place)
        if length != _UNDEFINED and at + length > end:
            raise NotDicom("A sequence is longer than what is left of the Data Set")
        if vr not in ("SQ", "UN"):
            raise NotDicom("An element of undefined length is no sequence")
        if place.depth == MAXIMUM_DEPTH:
            raise TooComplex("Sequences are nested too deep")
        # UN of undefined length holds Implicit VR Little Endian, whatever surrounds it (PS3.5 §6.2.2).
        inner = _Place(f"{place.path}{key}/", place.encodings, place.depth + 1, place.is_implicit or vr == "UN")
        is_per_frame = tag == _PER_FRAME_GROUPS and place.depth == 0
        kept = self.elements_left, self.header_bytes_left
        if is_per_frame:
            self._grant_per_frame_budget(json)
        items: list[JsonElement] = []
        sequence_end = end if length == _UNDEFINED else at + length
        at = self._items(items, at, sequence_end, inner, is_delimited=length == _UNDEFINED, as_bytes=is_per_frame)
        if is_per_frame:
            self.elements_left, self.header_bytes_left = kept
        json[key] = {"vr": "SQ", "Value": items} if items else {"vr": "SQ"}
        return at

    def _grant_per_frame_budget(self, json: dict[str, JsonElement]) -> None:
        """Let Per-Frame Functional Groups grow with the frames that the image declares and has bytes for (D10)."""
        values = json.get("00280008", {}).get("Value") or [1]
        declared = values[0] if isinstance(values[0], int) else 1
        frames = max(1, min(declared, (self.end - self.origin) // 64, MAXIMUM_FRAMES))
        self.elements_left = max(self.elements_left, frames * ELEMENTS_PER_FRAME)
        self.header_bytes_left = max(self.header_bytes_left, frames * HEADER_BYTES_PER_FRAME)

    def _items(
        self, items: list[JsonElement], at: int, end: int, place: _Place, *, is_delimited: bool, as_bytes: bool
    ) -> int:
        """Read items until ``end`` or the sequence delimiter; the offset behind is returned.

        as_bytes: keep each item as JSON text, which takes a tenth of the memory of thousands of dictionaries.
        """
        path, encodings, depth, is_implicit = place
        unpack = _LE_ITEM if self.transfer_syntax.is_little_endian or is_implicit else _BE_ITEM
        json_bytes = 0
        while at < end:
            group, element, length = unpack(self.buffer, at)
            tag = group << 16 | element
            at += 8
            if tag == _SEQUENCE_END:
                return at
            if tag != _ITEM:
                raise NotDicom("There is something other than an item in a sequence")
            self.elements_left -= 1
            self.header_bytes_left -= 8
            if self.elements_left < 0:
                raise TooComplex("The Data Set has too many elements")
            item_end = end if length == _UNDEFINED else at + length
            if item_end > end:
                raise NotDicom("An item is longer than its sequence")
            item: dict[str, JsonElement] = {}
            inner = _Place(f"{path}{len(items)}/", encodings, depth, is_implicit)
            stopped = self._data_set(item, at, item_end, inner)
            at = stopped if length == _UNDEFINED else item_end
            ordered = _ascending(item)
            if not as_bytes:
                items.append(ordered)
                continue
            # A copy has its exact length; what orjson returns keeps some 4 KiB to spare.
            text = bytes(memoryview(orjson.dumps(ordered)))
            json_bytes += len(text)
            if len(items) >= MAXIMUM_FRAMES or json_bytes > MAXIMUM_PER_FRAME_JSON_BYTES:
                raise TooComplex("The functional groups pass a limit of the reader")
            items.append(orjson.Fragment(text))
        if is_delimited:
            raise NotDicom("A sequence has no end")
        return at

    def _encapsulated_pixel_data(self, json: dict[str, JsonElement], key: str, value: BulkValue, place: _Place) -> int:
        """Collect the fragments; only item headers are read. PS3.5 §A.4"""
        unpack = _LE_ITEM if self.transfer_syntax.is_little_endian else _BE_ITEM
        fragments: list[tuple[int, int]] = []
        at = value.start
        while True:
            group, element, length = unpack(self.buffer, at)
            tag = group << 16 | element
            at += 8
            if tag == _SEQUENCE_END:
                break
            if tag != _ITEM or at + length > self.end:
                raise NotDicom("The encapsulated Pixel Data is broken")
            if len(fragments) > MAXIMUM_FRAGMENTS:
                raise TooComplex("The Pixel Data has too many fragments")
            fragments.append((at - self.origin, at + length - self.origin))
            at += length
        self._reference(json, key, BulkValue(value.start, at, value.vr), place.path)
        if place.depth == 0 and fragments:
            (start, end), *rest = fragments
            offsets = struct.unpack_from(f"<{(end - start) // 4}I", self.buffer, start + self.origin)
            whole = BulkValue(value.start - self.origin, at - self.origin, value.vr)
            self.pixel_data = PixelData(whole.start, whole.end, whole.vr, True, tuple(rest), offsets)
        return at


def _ascending(json: dict[str, JsonElement]) -> dict[str, JsonElement]:
    """The same elements in the order of their tags, which is the one that nearly all come in."""
    keys = list(json)
    ordered = sorted(keys)
    return json if keys == ordered else {key: json[key] for key in ordered}


def _is_bulk(vr: str, tag: int, length: int) -> bool:
    """Whether a value of over 4 KiB is only referred to: look-up tables of images stay (V5), all above 64 KiB go."""
    if length > MAXIMUM_KEPT_VALUE_BYTES + 2:
        return True
    if tag >> 16 == 0x0028:
        return False
    return vr in BINARY_VRS or vr in _NUMERIC_ARRAYS
