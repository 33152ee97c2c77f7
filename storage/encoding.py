"""A Data Set's bytes from the DICOM JSON Model, in Explicit VR Little Endian: what ``dataset`` reads, written. Pure.

Numbers may stand as numbers or as text, as the model allows. Text keeps the character set that the Data Set names
where that has every character, and takes ISO_IR 192 where it has not. Values that are only referred to are copied from
where they are, in pieces; all others came in a text of bounded length, so memory is constant. PS3.18 Annex F, PS3.5 §7
"""

from __future__ import annotations

import re
import struct
from base64 import b64decode
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from storage.characters import UTF_8, codecs_of, encode_text
from storage.dataset import MAXIMUM_DEPTH, unambiguous_vr
from storage.dictionary import dictionary_vr
from storage.errors import InvalidInstance, TooComplex, TooLarge
from storage.model import JsonElement
from storage.values import (
    BINARY_VRS,
    KNOWN_VRS,
    NUMBER_FORMATS,
    PERSON_NAME_DELIMITERS,
    PERSON_NAME_GROUPS,
    TEXT_DELIMITERS,
    Encodings,
    decode_text,
    encodings_of,
)

UNDEFINED = 0xFFFFFFFF
MAXIMUM_VALUE_BYTES = 0xFFFFFFFE
MAXIMUM_SHORT_VALUE_BYTES = 0xFFFE
LONG_VRS = frozenset(("OB", "OD", "OF", "OL", "OV", "OW", "SQ", "SV", "UC", "UN", "UR", "UT", "UV"))
"""VRs whose length has four bytes. PS3.5 Table 7.1-1"""

_MAXIMUM_DECIMAL_CHARACTERS = 16
_PIECE_BYTES = 64 << 10
_TAG = re.compile(r"[0-9A-F]{8}", re.ASCII)
_SPACE = re.compile(r"\s+")
_CHARACTER_SET = "00080005"
_AVAILABLE_TRANSFER_SYNTAX_UID = 0x00083002
_FILE_META = 0x0002
_IMPOSSIBLE_GROUPS = frozenset((0x0000, 0x0001, 0x0003, 0x0005, 0x0007, 0xFFFE, 0xFFFF))
_CODE_VRS = frozenset(("AE", "AS", "CS", "DA", "DS", "DT", "IS", "TM", "UI"))
_TEXTS = frozenset(("LO", "LT", "PN", "SH", "ST", "UC", "UR", "UT"))
_FLOATING = frozenset(("FL", "FD"))
_ITEM = struct.Struct("<HHI")
_ITEM_BEGINS = _ITEM.pack(0xFFFE, 0xE000, UNDEFINED)
_ITEM_ENDS = _ITEM.pack(0xFFFE, 0xE00D, 0)
_SEQUENCE_ENDS = _ITEM.pack(0xFFFE, 0xE0DD, 0)

Model = Mapping[str, JsonElement]


@dataclass(frozen=True, slots=True)
class Content:
    """The bytes of a value that stands elsewhere.

    size_bytes: of them; ``UNDEFINED`` where they are items and end with the delimiter of their sequence. chunks: gives
    them in pieces, anew at each call.
    """

    size_bytes: int
    chunks: Callable[[], Iterator[bytes]]


def encapsulated(frames: Sequence[Content]) -> Content:
    """Frames of compressed Pixel Data as its items, one fragment each, behind an empty Basic Offset Table.

    Raises TooLarge for a frame that no fragment can hold. PS3.5 §A.4
    """
    if any(frame.size_bytes > MAXIMUM_VALUE_BYTES for frame in frames):
        raise TooLarge("A frame is larger than a fragment can be", tag="7FE00010")

    def chunks() -> Iterator[bytes]:
        yield _ITEM.pack(0xFFFE, 0xE000, 0)
        for frame in frames:
            padding = frame.size_bytes % 2
            yield _ITEM.pack(0xFFFE, 0xE000, frame.size_bytes + padding)
            yield from frame.chunks()
            yield bytes(padding)
        yield _SEQUENCE_ENDS

    return Content(UNDEFINED, chunks)


def items(content: Content, tail: bytes) -> Content:
    """Compressed Pixel Data that comes as its items. tail: its last eight bytes; pydicom leaves the delimiter out."""
    missing = b"" if tail == _SEQUENCE_ENDS else _SEQUENCE_ENDS

    def chunks() -> Iterator[bytes]:
        yield from content.chunks()
        yield missing

    return Content(UNDEFINED, chunks)


def joined(contents: Sequence[Content]) -> Content:
    """One value from several, one behind the other."""

    def chunks() -> Iterator[bytes]:
        for content in contents:
            yield from content.chunks()

    return Content(sum(content.size_bytes for content in contents), chunks)


def element_header(tag: int, vr: str, length: int) -> bytes:
    """Tag, VR and length of an element. PS3.5 §7.1.2"""
    code = vr.encode("ascii")
    if vr in LONG_VRS:
        return struct.pack("<HH2sHI", tag >> 16, tag & 0xFFFF, code, 0, length)
    return struct.pack("<HH2sH", tag >> 16, tag & 0xFFFF, code, length)


def encoded_data_set(model: Model, contents: Mapping[str, Content]) -> Iterator[bytes]:
    """The Data Set in pieces, its elements ascending by tag.

    contents: of the values that are referred to, by BulkDataURI. What metadata may have beside the Data Set is left
    out: File Meta, group lengths and Available Transfer Syntax UID. Sequences get undefined length. Raises
    InvalidInstance with the tag of what cannot be written, TooComplex for sequences too deep, TooLarge for a value
    that no element can hold. PS3.5 §7.1, §7.5, PS3.18 §F.2
    """
    pixel_representation = values_of(model, "00280103")
    is_signed = bool(pixel_representation) and str(pixel_representation[0]) == "1"
    own = _Repertoire.of(model)
    if _suffices(own, model, 0):
        yield from _Encoder(contents, is_signed=is_signed, is_utf_8=False).data_set(model, own, 0)
        return
    utf_8 = {**model, _CHARACTER_SET: _UTF_8_ELEMENT}
    yield from _Encoder(contents, is_signed=is_signed, is_utf_8=True).data_set(utf_8, _Repertoire.of(utf_8), 0)


def values_of(model: Model, tag: str) -> Sequence[JsonElement]:
    """The values of an element that may be missing, and malformed. Raises InvalidInstance."""
    element = model.get(tag, {})
    values = element.get("Value", ()) if isinstance(element, Mapping) else None
    if values is not None and not isinstance(values, list | tuple):
        raise InvalidInstance("The values of an element are no list", tag=tag)
    return values or ()


# ------------------------------------------------------------------------------------------------------ character sets

_UTF_8_ELEMENT: JsonElement = {"vr": "CS", "Value": [UTF_8]}


@dataclass(frozen=True, slots=True)
class _Repertoire:
    """The character sets of a Data Set: what its text is written in, and what readers take it for."""

    codecs: tuple[str, ...]
    encodings: Encodings

    @classmethod
    def of(cls, model: Model) -> _Repertoire:
        terms = "\\".join(str(term or "") for term in values_of(model, _CHARACTER_SET))
        return cls(codecs_of(terms), encodings_of(terms.encode("ascii", "replace")))

    def within(self, model: Model) -> _Repertoire:
        """That of an item, which may name its own. PS3.5 §6.1.2.5"""
        return _Repertoire.of(model) if _CHARACTER_SET in model else self

    def encode(self, text: str, *, is_name: bool) -> bytes:
        return encode_text(text, self.codecs, is_name=is_name)

    def has(self, text: str, *, is_name: bool) -> bool:
        """Whether text is read again as it is written."""
        try:
            raw = self.encode(text, is_name=is_name)
        except UnicodeError:
            return False
        return decode_text(raw, self.encodings, PERSON_NAME_DELIMITERS if is_name else TEXT_DELIMITERS) == text


def _suffices(repertoire: _Repertoire, model: Model, depth: int) -> bool:
    """Whether the character sets that are named have all text of the Data Set."""
    for tag, vr, element in _elements(model, is_signed=False):
        if vr == "SQ":
            items = _items(element, f"{tag:08X}", depth)
            if not all(_suffices(repertoire.within(item), item, depth + 1) for item in items):
                return False
        elif vr in _TEXTS:
            texts = _texts(vr, element, f"{tag:08X}")
            if not all(text.isascii() or repertoire.has(text, is_name=vr == "PN") for text in texts):
                return False
    return True


def _texts(vr: str, element: JsonElement, tag: str) -> Sequence[str]:
    try:
        return list(map(_person_name if vr == "PN" else _plain, values_of({tag: element}, tag)))
    except (ValueError, OverflowError):
        raise InvalidInstance("A value is none of its Value Representation", tag=tag) from None


# ------------------------------------------------------------------------------------------------------------ elements


def _elements(model: Model, *, is_signed: bool) -> Iterator[tuple[int, str, JsonElement]]:
    """Tag, VR and element, ascending, without what is no part of a Data Set. Raises InvalidInstance."""
    found: dict[int, JsonElement] = {}
    for key, element in model.items():
        if not _TAG.fullmatch(key) or not isinstance(element, Mapping):
            raise InvalidInstance("The metadata holds something that is no element")
        tag = int(key, 16)
        if tag >> 16 in _IMPOSSIBLE_GROUPS:
            raise InvalidInstance("An element is none of a Data Set", tag=key)
        if tag & 0xFFFF and tag >> 16 != _FILE_META and tag != _AVAILABLE_TRANSFER_SYNTAX_UID:
            found[tag] = element
    for tag, element in sorted(found.items()):
        vr = element.get("vr") or dictionary_vr(tag)
        vr = unambiguous_vr(vr, tag, is_signed=is_signed) if isinstance(vr, str) else ""
        if vr not in KNOWN_VRS:
            raise InvalidInstance("An element has no Value Representation that is known", tag=f"{tag:08X}")
        yield tag, vr, element


def _items(element: JsonElement, tag: str, depth: int) -> Sequence[Model]:
    """The items of a sequence; null is an empty one. Raises TooComplex, InvalidInstance."""
    if depth == MAXIMUM_DEPTH:
        raise TooComplex("Sequences are nested too deep", tag=tag)
    items = [item if item is not None else {} for item in values_of({tag: element}, tag)]
    if not all(isinstance(item, Mapping) for item in items):
        raise InvalidInstance("A sequence holds something that is no item", tag=tag)
    return items


class _Encoder:
    """One Data Set on its way out. is_utf_8: ISO_IR 192 stands for every character set that is named."""

    def __init__(self, contents: Mapping[str, Content], *, is_signed: bool, is_utf_8: bool) -> None:
        self._contents = contents
        self._is_signed = is_signed
        self._is_utf_8 = is_utf_8

    def data_set(self, model: Model, repertoire: _Repertoire, depth: int) -> Iterator[bytes]:
        gathered = bytearray()
        for tag, vr, element in _elements(model, is_signed=self._is_signed):
            key = f"{tag:08X}"
            if self._is_utf_8 and key == _CHARACTER_SET:
                element = _UTF_8_ELEMENT  # noqa: PLW2901 - of an item, too
            if vr == "SQ":
                yield bytes(gathered) + element_header(tag, vr, UNDEFINED)
                gathered.clear()
                yield from self._sequence(_items(element, key, depth), repertoire, depth)
            elif "BulkDataURI" in element:
                yield bytes(gathered)
                gathered.clear()
                yield from self._referred(tag, vr, element)
            else:
                gathered += _element(tag, vr, _raw(vr, element, key, repertoire))
            if len(gathered) >= _PIECE_BYTES:
                yield bytes(gathered)
                gathered.clear()
        yield bytes(gathered)

    def _sequence(self, items: Sequence[Model], repertoire: _Repertoire, depth: int) -> Iterator[bytes]:
        for item in items:
            yield _ITEM_BEGINS
            yield from self.data_set(item, repertoire if self._is_utf_8 else repertoire.within(item), depth + 1)
            yield _ITEM_ENDS
        yield _SEQUENCE_ENDS

    def _referred(self, tag: int, vr: str, element: JsonElement) -> Iterator[bytes]:
        """A value from where it is. Items of compressed pixels have their own delimiter at the end. PS3.5 §A.4"""
        uri = element["BulkDataURI"]
        content = self._contents.get(uri) if isinstance(uri, str) else None
        if content is None or len(element.keys() & {"BulkDataURI", "InlineBinary", "Value"}) != 1:
            raise InvalidInstance("A value that is referred to is missing", tag=f"{tag:08X}")
        if content.size_bytes == UNDEFINED:
            yield element_header(tag, "OB", UNDEFINED)
            yield from content.chunks()
            return
        if content.size_bytes > MAXIMUM_VALUE_BYTES:
            raise TooLarge("A value is larger than an element can hold", tag=f"{tag:08X}")
        padding = content.size_bytes % 2
        yield element_header(tag, _fitting(vr, content.size_bytes), content.size_bytes + padding)
        yield from content.chunks()
        yield bytes(padding)


def _element(tag: int, vr: str, raw: bytes) -> bytes:
    if len(raw) % 2:
        raw += b"\0" if vr == "UI" or vr in BINARY_VRS else b" "
    return element_header(tag, _fitting(vr, len(raw)), len(raw)) + raw


def _fitting(vr: str, size_bytes: int) -> str:
    """The VR, or UN for a value that is too long for the short form. PS3.5 §6.2.2"""
    return "UN" if vr not in LONG_VRS and size_bytes > MAXIMUM_SHORT_VALUE_BYTES else vr


def _raw(vr: str, element: JsonElement, tag: str, repertoire: _Repertoire) -> bytes:
    """The bytes of a value that stands in the model, not padded. Raises InvalidInstance."""
    inline = element.get("InlineBinary")
    values = values_of({tag: element}, tag)
    try:
        if inline is not None:
            if values or not isinstance(inline, str):
                raise ValueError
            return b64decode(_SPACE.sub("", inline), validate=True)
        if not values:
            return b""
        if vr in _CODE_VRS:
            return "\\".join(map(_CODES.get(vr, _plain), values)).encode("latin-1")
        if vr in _TEXTS:
            return b"\\".join(repertoire.encode(text, is_name=vr == "PN") for text in _texts(vr, element, tag))
        if vr == "AT":
            return b"".join(struct.pack("<HH", *_group_and_element(value)) for value in values)
        if vr in NUMBER_FORMATS:
            convert = _floating if vr in _FLOATING else _whole
            return struct.pack(f"<{len(values)}{NUMBER_FORMATS[vr]}", *map(convert, values))
    except (ValueError, OverflowError, struct.error):
        raise InvalidInstance("A value is none of its Value Representation", tag=tag) from None
    raise InvalidInstance("A binary value stands as a list of values", tag=tag)


# -------------------------------------------------------------------------------------------------------------- values


def _plain(value: JsonElement) -> str:
    """Text of a value; some write numbers for codes that look like one. Raises ValueError."""
    if value is None:
        return ""
    if isinstance(value, str):
        return value
    return _integer(value)


def _person_name(value: JsonElement) -> str:
    """A name from its component groups; some write it as plain text. PS3.18 §F.2.2, PS3.5 §6.2.1"""
    if not isinstance(value, Mapping):
        return _plain(value)
    return "=".join(_plain(value.get(group)) for group in PERSON_NAME_GROUPS).rstrip("=")


def _number(value: JsonElement) -> int | float:
    if isinstance(value, int | float) and not isinstance(value, bool):
        return value
    raise ValueError


def _integer(value: JsonElement) -> str:
    number = _number(value)
    return str(int(number)) if number == int(number) else str(number)


def _integer_string(value: JsonElement) -> str:
    return value if isinstance(value, str) else "" if value is None else _integer(value)


def _decimal_string(value: JsonElement) -> str:
    """A number in at most 16 characters, with as many digits as they hold; text as it is. PS3.5 §6.2"""
    if value is None or isinstance(value, str):
        return value or ""
    text = repr(_number(value))
    digits = _MAXIMUM_DECIMAL_CHARACTERS
    while len(text) > _MAXIMUM_DECIMAL_CHARACTERS:
        digits -= 1
        text = f"{value:.{digits}g}"
    return text


_CODES: Mapping[str, Callable[[JsonElement], str]] = {"DS": _decimal_string, "IS": _integer_string}


def _whole(value: JsonElement) -> int:
    if isinstance(value, str):
        return int(value)
    number = _number(value)
    if number != int(number):
        raise ValueError
    return int(number)


def _floating(value: JsonElement) -> float:
    return float(value) if isinstance(value, str) else _number(value)


def _group_and_element(value: JsonElement) -> tuple[int, int]:
    if not isinstance(value, str) or not _TAG.fullmatch(value.strip().upper()):
        raise ValueError
    return int(value.strip()[:4], 16), int(value.strip()[4:], 16)
