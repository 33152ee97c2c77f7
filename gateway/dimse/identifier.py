"""Identifiers of queries and answers: bytes on one side, the DICOM JSON Model on the other. Pure; PS3.4 §C.4.1.1.3

Text that the peer's character set cannot hold is answered in UTF-8; nothing here fails on what is stored (CF8).
"""

from __future__ import annotations

import base64
import binascii
import math
import struct
from collections.abc import Callable, Iterator, Mapping

from pydicom.valuerep import format_number_as_ds

from gateway.dimse.characters import UTF_8, codecs_of, encode_text
from storage.dataset import read_data_set
from storage.model import JsonElement
from storage.uids import IMPLICIT_VR_LITTLE_ENDIAN, TRANSFER_SYNTAXES

SPECIFIC_CHARACTER_SET = "00080005"

_LONG_VRS = frozenset(("OB", "OD", "OF", "OL", "OV", "OW", "SQ", "SV", "UC", "UN", "UR", "UT", "UV"))
_BINARY_VRS = frozenset(("OB", "OD", "OF", "OL", "OV", "OW", "UN"))
_CHARACTER_SET_VRS = frozenset(("LO", "LT", "PN", "SH", "ST", "UC", "UT"))
_NUMBERS = {"US": "H", "SS": "h", "UL": "I", "SL": "i", "UV": "Q", "SV": "q", "FL": "f", "FD": "d"}
_PERSON_NAME_GROUPS = ("Alphabetic", "Ideographic", "Phonetic")
_LONGEST_SHORT_VALUE = 0xFFFE
_IMPLICIT = struct.Struct("<HHI")


def decode(encoded: bytes, transfer_syntax_uid: str) -> dict[str, JsonElement]:
    """Read an Identifier, within the limits of any Data Set. Raises NotDicom. PS3.5 §7.1

    Group lengths, which no Data Set has since 2008, are there without a value, ahead of the others.
    """
    if not encoded:
        return {}
    elements = read_data_set(encoded, 0, TRANSFER_SYNTAXES[transfer_syntax_uid]).json
    lengths = _group_lengths(encoded, is_explicit=transfer_syntax_uid != IMPLICIT_VR_LITTLE_ENDIAN)
    return {tag: {"vr": "UL"} for tag in lengths} | elements


def _group_lengths(encoded: bytes, *, is_explicit: bool) -> Iterator[str]:
    """Tags of the group lengths ahead of the first sequence of undefined length."""
    at = 0
    while at + 8 <= len(encoded):
        group, element, length = _IMPLICIT.unpack_from(encoded, at)
        header_bytes = 8
        if is_explicit:
            length >>= 16
            if encoded[at + 4 : at + 6].decode("latin-1") in _LONG_VRS:
                header_bytes = 12
                length = int.from_bytes(encoded[at + 8 : at + 12], "little")
        if element == 0:
            yield f"{group:04X}{element:04X}"
        at += header_bytes + length


def text(element: JsonElement) -> str:
    """The values of an element as they stand in a Data Set; empty for a sequence or for binary."""
    return "\\".join(_value_text(value) for value in element.get("Value") or ())


def _value_text(value: JsonElement) -> str:
    if value is None:
        return ""
    if isinstance(value, dict):
        groups = [str(value.get(group) or "") for group in _PERSON_NAME_GROUPS]
        return "=".join(groups).rstrip("=")
    return str(value)


def encode(attributes: Mapping[str, JsonElement], transfer_syntax_uid: str, character_set: str) -> bytes:
    """Write elements of the DICOM JSON Model as a Data Set in a plain little endian syntax, ascending by tag.

    character_set: Specific Character Set of the query, as text. The answer has it when it needs it and it suffices,
    ISO_IR 192 when it does not, and none when all text is ASCII. A value that its VR cannot hold is left empty.
    """
    is_explicit = transfer_syntax_uid != IMPLICIT_VR_LITTLE_ENDIAN
    for terms, codecs in ((character_set, codecs_of(character_set)), (UTF_8, codecs_of(UTF_8))):
        writer = _Writer(is_explicit, codecs)
        try:
            body = writer.data_set(attributes)
        except UnicodeError:
            continue
        if not writer.has_extended_characters:
            return body
        ahead = {tag: element for tag, element in attributes.items() if tag < SPECIFIC_CHARACTER_SET}
        named = {**ahead, SPECIFIC_CHARACTER_SET: {"vr": "CS", "Value": [terms]}}
        named |= {tag: element for tag, element in attributes.items() if tag > SPECIFIC_CHARACTER_SET}
        return writer.data_set(named)
    return b""


class _Writer:
    """Writes one Data Set with one set of codecs. Raises UnicodeError for text they cannot hold."""

    def __init__(self, is_explicit: bool, codecs: tuple[str, ...]) -> None:
        self._is_explicit = is_explicit
        self._codecs = codecs
        self.has_extended_characters = False

    def data_set(self, attributes: Mapping[str, JsonElement]) -> bytes:
        return b"".join(self._element(tag, attributes[tag]) for tag in sorted(attributes))

    def _element(self, tag: str, element: JsonElement) -> bytes:
        vr = str(element.get("vr", "UN"))
        value = self._value(vr, element)
        if len(value) & 1:
            value += b" " if vr in _CHARACTER_SET_VRS or vr in _SPACE_PADDED else b"\0"
        group_and_element = struct.pack("<HH", int(tag[:4], 16), int(tag[4:], 16))
        if not self._is_explicit:
            return group_and_element + struct.pack("<I", len(value)) + value
        code = vr.encode("ascii")
        if vr in _LONG_VRS:
            return group_and_element + code + struct.pack("<HI", 0, len(value)) + value
        if len(value) > _LONGEST_SHORT_VALUE:
            value = b""
        return group_and_element + code + struct.pack("<H", len(value)) + value

    def _value(self, vr: str, element: JsonElement) -> bytes:
        values = element.get("Value") or ()
        if vr == "SQ":
            return b"".join(self._item(item) for item in values if isinstance(item, dict))
        if vr in _BINARY_VRS:
            return _binary(element)
        if vr in _NUMBERS:
            return _packed(_NUMBERS[vr], values)
        if vr == "AT":
            return b"".join(struct.pack("<HH", int(one[:4], 16), int(one[4:], 16)) for one in values if one)
        written = "\\".join(_TO_TEXT.get(vr, _value_text)(value) for value in values)
        if vr in _CHARACTER_SET_VRS:
            return self._text(written, is_name=vr == "PN")
        return written.encode("ascii", "replace")

    def _item(self, item: Mapping[str, JsonElement]) -> bytes:
        body = self.data_set(item)
        return struct.pack("<HHI", 0xFFFE, 0xE000, len(body)) + body

    def _text(self, written: str, *, is_name: bool) -> bytes:
        if written.isascii():
            return written.encode("ascii")
        self.has_extended_characters = True
        return encode_text(written, self._codecs, is_name=is_name)


def _binary(element: JsonElement) -> bytes:
    try:
        return base64.b64decode(element.get("InlineBinary") or "", validate=True)
    except (binascii.Error, ValueError):
        return b""


def _packed(letter: str, values: tuple[JsonElement, ...]) -> bytes:
    convert: Callable[[JsonElement], float] = float if letter in "fd" else int
    try:
        return struct.pack(f"<{len(values)}{letter}", *(convert(value) for value in values))
    except (ValueError, TypeError, OverflowError, struct.error):
        return b""


def _decimal(value: JsonElement) -> str:
    if isinstance(value, float):
        if not math.isfinite(value):
            return ""
        return str(int(value)) if value.is_integer() and abs(value) < 1e15 else format_number_as_ds(value)
    return _value_text(value)


_TO_TEXT: dict[str, Callable[[JsonElement], str]] = {"DS": _decimal}
_SPACE_PADDED = frozenset(("AE", "AS", "CS", "DA", "DS", "DT", "IS", "TM", "UR"))
