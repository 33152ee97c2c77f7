"""The Identifiers of the answers to a C-FIND, from the texts of their elements. Pure; PS3.4 §C.4.1.1.3.2

An answer has some ten elements, and of a query there may be a hundred thousand: whatever is the same for all of them
is made once, and the text of a plain value goes to its place without being parsed. All else is parsed and encoded as
any Identifier is.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from typing import Protocol

import orjson

from gateway.dimse.identifier import (
    CHARACTER_SET_VRS,
    LONGEST_SHORT_VALUE,
    SPECIFIC_CHARACTER_SET,
    attempts,
    encode_element,
    header,
    padding,
)
from gateway.dimse.query_keys import INSTANCE_AVAILABILITY, QUERY_LEVEL, RETRIEVE_AE_TITLE, TIMEZONE_OFFSET, Asked, Key
from storage.characters import encode_text
from storage.uids import IMPLICIT_VR_LITTLE_ENDIAN

_SHORT_VALUES = 65
_KNOWN_ELEMENTS, _KNOWN_CHARACTERS = 128, 96  # lines that are kept of each key, and the longest: of a UID

# What stands around the one value, or the values, in the line of an element of that VR; None where it is parsed.
_TEXT = ('"', '"')
_AROUND = dict.fromkeys(("AE", "AS", "CS", "DA", "DT", "LO", "LT", "SH", "ST", "TM", "UI"), _TEXT) | {
    "PN": ('{"Alphabetic":"', '"}'),
    "IS": ("", ""),
}


class Answers:
    """The Identifiers of the answers to one query: its keys, empty where unknown, and where to retrieve (CF3).

    The time zone of an answer is told where it has one. Text is in the character set of the query when that
    suffices, else in ISO_IR 192 (CF8).
    """

    def __init__(self, asked: Asked, ae_title: str, transfer_syntax_uid: str) -> None:
        self.asked = asked
        is_explicit = transfer_syntax_uid != IMPLICIT_VR_LITTLE_ENDIAN
        said = {
            QUERY_LEVEL: {"vr": "CS", "Value": [asked.level_name]},
            RETRIEVE_AE_TITLE: {"vr": "AE", "Value": [ae_title]},
            INSTANCE_AVAILABILITY: {"vr": "CS", "Value": ["ONLINE"]},
            **asked.creators,
        }
        slots: dict[str, _Slot] = {TIMEZONE_OFFSET: _Plain(TIMEZONE_OFFSET, "SH", is_explicit, is_optional=True)}
        slots |= {tag: _slot(tag, key, is_explicit) for tag, key in asked.keys.items()}
        self.tags = tuple(sorted(slots))
        self._attempts = []
        for terms, codecs in attempts(asked.character_set):
            named = {SPECIFIC_CHARACTER_SET: {"vr": "CS", "Value": [terms]}} if terms else {}
            constants = {**said, **named}
            with contextlib.suppress(UnicodeError):  # of a creator's name
                encoded = {tag: encode_element(tag, constants[tag], is_explicit, codecs) for tag in constants}
                self._attempts.append(_Attempt(encoded, slots, codecs))

    def encode(self, found: Iterable[Sequence[str]]) -> list[bytes]:
        """An Identifier for each answer, of which the lines of ``tags`` are given as of ``storage.model.Lined``."""
        return [self._encoded(lines) for lines in found]

    def _encoded(self, lines: Sequence[str]) -> bytes:
        for attempt in self._attempts:
            try:
                return attempt.encode(lines)
            except UnicodeError:
                continue
        return b""


class _Attempt:
    """Answers in one character set. What some of them have in common is encoded once.

    constants: the elements that are the same in all answers, by tag.
    """

    def __init__(self, constants: Mapping[str, bytes], slots: Mapping[str, _Slot], codecs: tuple[str, ...]) -> None:
        tags = sorted(constants.keys() | slots.keys())
        self._codecs = codecs
        self._template = [constants.get(tag, b"") for tag in tags]
        self._places: list[tuple[int, _Slot, dict[str, bytes]]] = [
            (place, slots[tag], {}) for place, tag in enumerate(tags) if tag in slots
        ]

    def encode(self, lines: Sequence[str]) -> bytes:
        elements = self._template.copy()
        for line, (place, slot, known) in zip(lines, self._places, strict=True):
            element = known.get(line)
            if element is None:
                element = slot.encode(line, self._codecs)
                if len(line) <= _KNOWN_CHARACTERS:
                    if len(known) >= _KNOWN_ELEMENTS:
                        known.clear()
                    known[line] = element
            elements[place] = element
        return b"".join(elements)


class _Slot(Protocol):
    """The place of one element."""

    def encode(self, line: str, codecs: tuple[str, ...]) -> bytes:
        """The element; of no line, an empty one. Raises UnicodeError for text that the codecs do not have."""
        ...


class _Parsed:
    """An element of any VR. item_tags: of a sequence, what its items are to hold; none means all."""

    def __init__(self, tag: str, vr: str, item_tags: frozenset[str], is_explicit: bool) -> None:
        self._tag = tag
        self._item_tags = item_tags
        self._is_explicit = is_explicit
        self._empty = encode_element(tag, {"vr": vr}, is_explicit)

    def encode(self, line: str, codecs: tuple[str, ...]) -> bytes:
        if not line:
            return self._empty
        element = orjson.loads(f"{{{line}}}")[self._tag]
        if self._item_tags:
            items = element.get("Value") or ()
            kept = [{tag: item[tag] for tag in self._item_tags & item.keys()} for item in items]
            element = {"vr": "SQ", "Value": kept}
        return encode_element(self._tag, element, self._is_explicit, codecs)


class _Plain(_Parsed):
    """An element of a VR whose usual values stand in the line as they do in a Data Set."""

    def __init__(self, tag: str, vr: str, is_explicit: bool, *, is_optional: bool = False) -> None:
        super().__init__(tag, vr, frozenset(), is_explicit)
        if is_optional:
            self._empty = b""
        opening, closing = _AROUND[vr]
        self._opening, self._closing = f'"{tag}":{{"Value":[{opening}', f'{closing}],"vr":"{vr}"}}'
        self._start, self._end = len(self._opening), -len(self._closing)
        self._is_number, self._is_name, self._has_character_set = not opening, vr == "PN", vr in CHARACTER_SET_VRS
        self._header, self._length_bytes = header(tag, vr, is_explicit)
        self._paddings = (b"", padding(vr))
        self._headers = _headers(self._header, self._length_bytes)

    def encode(self, line: str, codecs: tuple[str, ...]) -> bytes:
        if not (line.startswith(self._opening) and line.endswith(self._closing)):
            return super().encode(line, codecs)
        value = line[self._start : self._end]
        if "\\" in value or (self._is_number and not value.isdigit()):  # an escape of JSON, several or broken numbers
            return super().encode(line, codecs)
        if '"' in value:
            value = value.replace('","', "\\")
            if '"' in value:
                return super().encode(line, codecs)
        if value.isascii():
            raw = value.encode()
        elif self._has_character_set:
            raw = encode_text(value, codecs, is_name=self._is_name)
        else:
            return super().encode(line, codecs)
        length = len(raw)
        if length < _SHORT_VALUES:
            return self._headers[length] + raw + self._paddings[length & 1]
        if length > LONGEST_SHORT_VALUE:
            return super().encode(line, codecs)
        length += length & 1
        return self._header + length.to_bytes(self._length_bytes, "little") + raw + self._paddings[len(raw) & 1]


@lru_cache(maxsize=256)
def _headers(ahead: bytes, length_bytes: int) -> tuple[bytes, ...]:
    """All that stands before a short value, by its length; a value of odd length is padded."""
    return tuple(ahead + (size + size % 2).to_bytes(length_bytes, "little") for size in range(_SHORT_VALUES))


@lru_cache(maxsize=1024)
def _slot(tag: str, key: Key, is_explicit: bool) -> _Slot:
    if key.vr in _AROUND and not key.item_tags:
        return _Plain(tag, key.vr, is_explicit)
    return _Parsed(tag, key.vr, key.item_tags, is_explicit)
