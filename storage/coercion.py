"""Coercion: elements of a Data Set changed on the way in, every other byte of it as it came.

The elements are cut out of and put into the stream of bytes, in whatever transfer syntax it is: pixels are copied,
never read, and nothing is held but what is changed. What was there before stands in Original Attributes Sequence.
PS3.3 §C.12.1.1.9, PS3.5 §7.1
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from storage.charsets import ENCODINGS
from storage.dataset import BLANK_VRS, Buffer, inflate_header, looks_implicit
from storage.dictionary import dictionary_vr
from storage.errors import PolicyFailed
from storage.model import JsonElement
from storage.policy import FORMS, PREFIXED, Action, Coercion, is_too_long
from storage.private import character_set_of
from storage.uids import TransferSyntax
from storage.values import KNOWN_VRS, decode_text

_COPIED_BYTES = 1 << 20
_LEVEL = 6
_UNDEFINED = 0xFFFFFFFF
_ITEM, _ITEM_END, _SEQUENCE_END = 0xFFFEE000, 0xFFFEE00D, 0xFFFEE0DD
_ORIGINAL_ATTRIBUTES = 0x04000561
_MODIFIED_ATTRIBUTES, _CHANGED_AT, _CHANGED_BY, _GIVEN_BY, _REASON = (
    0x04000550,
    0x04000562,
    0x04000563,
    0x04000564,
    0x04000565,
)
_LONG_VRS = frozenset((b"OB", b"OD", b"OF", b"OL", b"OV", b"OW", b"SQ", b"SV", b"UC", b"UN", b"UR", b"UT", b"UV"))
_SHORT_VRS = frozenset(vr.encode("ascii") for vr in KNOWN_VRS) - _LONG_VRS
_WHOLE_SETS = {
    term: codec
    for term, codec in ENCODINGS.items()
    if term in ("GB18030", "GBK") or (term.startswith("ISO_IR ") and term not in ("ISO_IR 6", "ISO_IR 13"))
}
"""Character sets that need no escape sequence for any of their characters: codec by defined term."""
_IN_CHARACTER_SET = frozenset(("LO", "LT", "PN", "SH", "ST", "UC", "UT"))


@dataclass(frozen=True, slots=True)
class Occasion:
    """What is said of a coercion. changed_at: a DICOM DT. changed_by: our name. given_by: the peer's, if it has one."""

    changed_at: str
    changed_by: str
    given_by: str = ""


@dataclass(frozen=True, slots=True)
class _Element:
    """An element of the top level: from ``start`` to ``end``, its value from ``value_at`` on."""

    vr: bytes
    start: int
    value_at: int
    end: int
    is_delimited: bool = False


@dataclass(frozen=True, slots=True)
class _Edit:
    """Bytes ``start`` to ``end`` of the Data Set give way to others."""

    start: int
    end: int
    pieces: Sequence[bytes | memoryview]


def coerce(
    buffer: Buffer,
    start: int,
    syntax: TransferSyntax,
    json: Mapping[str, JsonElement],
    coercions: Sequence[Coercion],
    occasion: Occasion,
    write: Callable[[bytes | memoryview], None],
) -> bool:
    """Write the Data Set that fills ``buffer`` from ``start`` with its coercions made, in the same transfer syntax.

    It was walked before, which ``json`` came from. False, and nothing written, when they change nothing. Raises
    PolicyFailed where one cannot be made; what ``write`` raises passes through.
    """
    if syntax.is_deflated:
        header, size_bytes = inflate_header(buffer, start)
        edits = _edits(_Layout.of(memoryview(header), syntax, size_bytes), json, coercions, occasion)
        if edits:
            _write_deflated(buffer, start, edits, write)
        return bool(edits)
    with memoryview(buffer) as whole, whole[start:] as view:
        edits = _edits(_Layout.of(view, syntax, len(view)), json, coercions, occasion)
        try:
            if edits:
                _write(view, edits, write)
        finally:
            for edit in edits:
                for piece in edit.pieces:
                    if isinstance(piece, memoryview):
                        piece.release()
        return bool(edits)


# ---- where elements are --------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Layout:
    """How a Data Set is written. view: its bytes, or for a deflated one the first of them."""

    view: memoryview
    size_bytes: int
    order: str
    is_implicit: bool

    @classmethod
    def of(cls, view: memoryview, syntax: TransferSyntax, size_bytes: int) -> _Layout:
        is_implicit = syntax.is_implicit_vr or looks_implicit(bytes(view[:8]), syntax, size_bytes)
        return cls(view, size_bytes, "<" if syntax.is_little_endian or is_implicit else ">", is_implicit)

    def element(self, at: int) -> _Element:
        """The element that begins at ``at``. Raises struct.error behind the end of the view."""
        _, vr, length, value_at = self._header(at)
        end = value_at + length
        if length == _UNDEFINED:
            inner = replace(self, is_implicit=self.is_implicit or vr == b"UN")
            end = inner.behind_items(value_at)
        return _Element(vr, at, value_at, min(end, self.size_bytes), length == _UNDEFINED)

    def tag(self, at: int) -> int:
        """The tag of the element that begins at ``at``."""
        group, element = struct.unpack_from(f"{self.order}HH", self.view, at)
        return int(group << 16 | element)

    def _header(self, at: int) -> tuple[int, bytes, int, int]:
        group, element, vr, length = struct.unpack_from(f"{self.order}HH2sH", self.view, at)
        tag = group << 16 | element
        if self.is_implicit or group == 0xFFFE:
            (length,) = struct.unpack_from(f"{self.order}I", self.view, at + 4)
            return tag, b"", length, at + 8
        if vr in _SHORT_VRS or vr in BLANK_VRS:
            return tag, vr, length, at + 8
        (length,) = struct.unpack_from(f"{self.order}I", self.view, at + 8)
        return tag, vr, length, at + 12

    def behind_items(self, at: int) -> int:
        """The place behind a sequence of undefined length."""
        while True:
            tag, _, length, at = self._header(at)
            if tag != _ITEM:
                return at
            if length != _UNDEFINED:
                at += length
                continue
            while self._header(at)[0] != _ITEM_END:
                at = self.element(at).end
            at += 8

    def head(self, tag: int, vr: str, length: int) -> bytes:
        """The header of an element. Raises PolicyFailed for a value that is too long for it."""
        group, element = tag >> 16, tag & 0xFFFF
        if self.is_implicit:
            return struct.pack("<HHI", group, element, length)
        code = vr.encode("ascii")
        if code in _LONG_VRS:
            return struct.pack(f"{self.order}HH2sHI", group, element, code, 0, length)
        if length > 0xFFFE:
            raise PolicyFailed("A coerced value is too long", tag=f"{tag:08X}")
        return struct.pack(f"{self.order}HH2sH", group, element, code, length)

    def item(self, tag: int, length: int) -> bytes:
        """The header of an item, or a delimiter."""
        return struct.pack(f"{self.order}HHI", tag >> 16, tag & 0xFFFF, length)

    def written(self, tag: int, vr: str, value: bytes) -> bytes:
        """A whole element."""
        padded = value + (b"\0" if vr == "UI" else b" ") * (len(value) & 1)
        return self.head(tag, vr, len(padded)) + padded


@dataclass(frozen=True, slots=True)
class _Found:
    """Elements by tag, and for each tag that was looked for where it is or would be."""

    elements: Mapping[int, _Element]
    places: Mapping[int, int]


def _find(layout: _Layout, tags: frozenset[int], json: Mapping[str, JsonElement]) -> _Found:
    """Look for elements. No further than behind the last of them, for pixels follow.

    Data Sets that are not in the order of their tags are read on until all that is there is found.
    """
    missing = {tag for tag in tags if f"{tag:08X}" in json}
    elements: dict[int, _Element] = {}
    places: dict[int, int] = {}
    at, last = 0, max(tags)
    try:
        while at + 8 <= layout.size_bytes:
            here = layout.tag(at)
            for tag in tags - places.keys():
                if here >= tag:
                    places[tag] = at
            if here > last and not missing:
                break
            element = layout.element(at)
            if here in tags:
                elements[here] = element
                missing.discard(here)
            at = element.end
    except (struct.error, RecursionError) as error:
        raise PolicyFailed("An element to be coerced lies too far behind") from error
    if missing or any(element.end > len(layout.view) for element in elements.values()):
        raise PolicyFailed("An element to be coerced lies too far behind")
    return _Found(elements, {**dict.fromkeys(tags, at), **places})


# ---- what becomes of them ------------------------------------------------------------------------------------------


def _edits(
    layout: _Layout, json: Mapping[str, JsonElement], coercions: Sequence[Coercion], occasion: Occasion
) -> list[_Edit]:
    """What is to be changed, by place; nothing when no coercion changes anything."""
    if not coercions:
        return []
    wanted: dict[int, list[Coercion]] = {}
    for one in coercions:
        wanted.setdefault(int(one.tag, 16), []).append(one)
    found = _find(layout, frozenset((*wanted, _ORIGINAL_ATTRIBUTES)), json)
    edits: list[_Edit] = []
    originals: list[bytes | memoryview] = []
    for tag in sorted(wanted):
        element = found.elements.get(tag)
        before = None if element is None else _plain(layout.view[element.value_at : element.end])
        after = before
        for one in wanted[tag]:
            after = _changed(one, after, json)
        if after == before or (after is not None and before is not None and after.rstrip(b" ") == before):
            continue
        vr = _vr(wanted[tag], element)
        pieces = [] if after is None else [layout.written(tag, vr, after)]
        if element is None:
            edits.append(_Edit(found.places[tag], found.places[tag], pieces))
            originals.append(layout.head(tag, vr, 0))
        else:
            edits.append(_Edit(element.start, element.end, pieces))
            originals.append(layout.view[element.start : element.end])
    if edits:
        edits.append(_noted(layout, found, originals, occasion))
    return sorted(edits, key=lambda edit: (edit.start, edit.end))


def _plain(value: memoryview) -> bytes:
    """A value without its padding."""
    return bytes(value).rstrip(b"\0 ")


def _vr(coercions: Sequence[Coercion], element: _Element | None) -> str:
    """The VR an element gets: the one it has, where that is one for text."""
    vr = "" if element is None else element.vr.decode("latin-1")
    return vr if vr in FORMS else dictionary_vr(int(coercions[0].tag, 16))


def _changed(coercion: Coercion, before: bytes | None, json: Mapping[str, JsonElement]) -> bytes | None:
    """What a value becomes; None for an element that is not there."""
    if coercion.action is Action.REMOVE:
        return None
    if coercion.action is Action.FILL and before:
        return before
    text = _encoded(coercion, json)
    if coercion.action is not Action.PREFIX:
        return text
    if not before:
        return before
    values = before.split(b"\\")
    element = json.get(coercion.tag, {})
    if coercion.vr not in PREFIXED or len(values) != len(element.get("Value") or [None]):
        raise PolicyFailed("A value cannot be prefixed", tag=coercion.tag)
    prefixed = [text + value.lstrip(b" ") if value.strip(b" ") else value for value in values]
    encodings = character_set_of(json)
    if any(is_too_long(coercion.vr, decode_text(value, encodings)) for value in prefixed):
        raise PolicyFailed("A coerced value is too long", tag=coercion.tag)
    return b"\\".join(prefixed)


def _encoded(coercion: Coercion, json: Mapping[str, JsonElement]) -> bytes:
    """The text of a coercion in the character set of the Data Set. PS3.5 §6.1"""
    if coercion.value.isascii():
        return coercion.value.encode("ascii")
    terms = [str(term) for term in json.get("00080005", {}).get("Value") or [""]]
    if coercion.vr in _IN_CHARACTER_SET and terms[0] in _WHOLE_SETS:
        try:
            return coercion.value.encode(_WHOLE_SETS[terms[0]])
        except UnicodeEncodeError as error:
            raise _not_said(coercion) from error
    raise _not_said(coercion)


def _not_said(coercion: Coercion) -> PolicyFailed:
    return PolicyFailed("A coerced value is not in the character set of the instance", tag=coercion.tag)


def _noted(layout: _Layout, found: _Found, originals: Sequence[bytes | memoryview], occasion: Occasion) -> _Edit:
    """Original Attributes Sequence with one more item, behind those of others."""
    inner_length = sum(map(len, originals))
    modified_length = inner_length + 8
    rest = b"".join(
        layout.written(tag, vr, text.encode("ascii"))
        for tag, vr, text in (
            (_CHANGED_AT, "DT", occasion.changed_at),
            (_CHANGED_BY, "LO", occasion.changed_by),
            (_GIVEN_BY, "LO", occasion.given_by),
            (_REASON, "CS", "COERCE"),
        )
    )
    head = layout.head(_MODIFIED_ATTRIBUTES, "SQ", modified_length) + layout.item(_ITEM, inner_length)
    item = [
        layout.item(_ITEM, len(head) + inner_length + len(rest)),
        head,
        *originals,
        rest,
    ]
    item_length = sum(map(len, item))
    element = found.elements.get(_ORIGINAL_ATTRIBUTES)
    if element is None:
        place = found.places[_ORIGINAL_ATTRIBUTES]
        return _Edit(place, place, [layout.head(_ORIGINAL_ATTRIBUTES, "SQ", item_length), *item])
    if element.vr not in (b"", b"SQ"):
        raise PolicyFailed("Original Attributes Sequence is of unknown VR", tag="04000561")
    if element.is_delimited:
        return _Edit(element.end - 8, element.end - 8, item)
    value = layout.view[element.value_at : element.end]
    length = len(value) + item_length
    return _Edit(element.start, element.end, [layout.head(_ORIGINAL_ATTRIBUTES, "SQ", length), value, *item])


# ---- the bytes -----------------------------------------------------------------------------------------------------


def _write(view: memoryview, edits: Sequence[_Edit], write: Callable[[bytes | memoryview], None]) -> None:
    at = 0
    for edit in (*edits, _Edit(len(view), len(view), ())):
        for start in range(at, edit.start, _COPIED_BYTES):
            with view[start : min(edit.start, start + _COPIED_BYTES)] as piece:
                write(piece)
        for one in edit.pieces:
            write(one)
        at = max(at, edit.end)


def _write_deflated(
    buffer: Buffer, start: int, edits: Sequence[_Edit], write: Callable[[bytes | memoryview], None]
) -> None:
    """The same for a deflated Data Set, which has to be deflated anew. PS3.5 §A.5"""
    deflater = zlib.compressobj(_LEVEL, zlib.DEFLATED, -zlib.MAX_WBITS)
    size_bytes = 0

    def put(piece: bytes) -> None:
        nonlocal size_bytes
        if piece:
            size_bytes += len(piece)
            write(piece)

    waiting = list(edits)
    at = 0  # in the inflated Data Set, of what was written or left out
    behind = 0
    for piece in _inflated(buffer, start):
        end = behind + len(piece)
        while waiting and waiting[0].start <= end:
            edit = waiting.pop(0)
            put(deflater.compress(piece[max(at - behind, 0) : max(edit.start - behind, 0)]))
            for one in edit.pieces:
                put(deflater.compress(one))
            at = max(at, edit.end)
        put(deflater.compress(piece[max(at - behind, 0) :]))
        at = max(at, end)
        behind = end
    put(deflater.flush())
    put(b"\0" * (size_bytes & 1))


def _inflated(buffer: Buffer, start: int) -> Iterator[bytes]:
    inflater = zlib.decompressobj(-zlib.MAX_WBITS)
    with memoryview(buffer) as whole:
        for at in range(start, len(whole), 64 << 10):
            piece = bytes(whole[at : at + (64 << 10)])
            while piece and not inflater.eof:
                yield inflater.decompress(piece, _COPIED_BYTES)
                piece = inflater.unconsumed_tail
