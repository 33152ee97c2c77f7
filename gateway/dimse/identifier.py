"""Identifiers of queries and answers: bytes on one side, the DICOM JSON Model on the other. Pure; PS3.4 §C.4.1.1.3

Text that the peer's character set cannot hold is answered in UTF-8; nothing here fails on what is stored (CF8).
"""

from __future__ import annotations

import base64
import binascii
import math
import struct
from collections.abc import Callable, Iterator, Mapping

from storage.characters import UTF_8, codecs_of, encode_text
from storage.dataset import read_data_set
from storage.model import JsonElement
from storage.uids import IMPLICIT_VR_LITTLE_ENDIAN, TRANSFER_SYNTAXES

SPECIFIC_CHARACTER_SET = "00080005"
_DECIMAL_CHARACTERS = 16

_LONG_VRS = frozenset(("OB", "OD", "OF", "OL", "OV", "OW", "SQ", "SV", "UC", "UN", "UR", "UT", "UV"))
_BINARY_VRS = frozenset(("OB", "OD", "OF", "OL", "OV", "OW", "UN"))
CHARACTER_SET_VRS = frozenset(("LO", "LT", "PN", "SH", "ST", "UC", "UT"))
_NUMBERS = {"US": "H", "SS": "h", "UL": "I", "SL": "i", "UV": "Q", "SV": "q", "FL": "f", "FD": "d"}
_ASCII = ("ascii",)
_PERSON_NAME_GROUPS = ("Alphabetic", "Ideographic", "Phonetic")
LONGEST_SHORT_VALUE = 0xFFFE
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

    character_set: Specific Character Set, as text, for what is not ASCII; ISO_IR 192 stands in for one that does not
    suffice. A value that its VR cannot hold is left empty.
    """
    is_explicit = transfer_syntax_uid != IMPLICIT_VR_LITTLE_ENDIAN
    for terms, codecs in attempts(character_set):
        named = {**attributes, SPECIFIC_CHARACTER_SET: {"vr": "CS", "Value": [terms]}} if terms else attributes
        try:
            return _data_set(named, is_explicit, codecs)
        except UnicodeError:
            continue
    return b""


def attempts(character_set: str) -> Iterator[tuple[str, tuple[str, ...]]]:
    """Character sets to try for an answer, each with its codecs: none, that of the query, ISO_IR 192."""
    yield "", _ASCII
    if codecs_of(character_set) != _ASCII:
        yield character_set, codecs_of(character_set)
    yield UTF_8, codecs_of(UTF_8)


def encode_element(tag: str, element: JsonElement, is_explicit: bool, codecs: tuple[str, ...] = _ASCII) -> bytes:
    """Write one element. Raises UnicodeError for text that the codecs do not have."""
    vr = str(element.get("vr", "UN"))
    value = _value(vr, element, is_explicit, codecs)
    if len(value) & 1:
        value += padding(vr)
    ahead, length_bytes = header(tag, vr, is_explicit)
    if length_bytes == 2 and len(value) > LONGEST_SHORT_VALUE:
        value = b""
    return ahead + len(value).to_bytes(length_bytes, "little") + value


def header(tag: str, vr: str, is_explicit: bool) -> tuple[bytes, int]:
    """What stands before the length of an element, and the bytes of that length. PS3.5 §7.1.2"""
    group_and_element = struct.pack("<HH", int(tag[:4], 16), int(tag[4:], 16))
    if not is_explicit:
        return group_and_element, 4
    code = vr.encode("ascii")
    return (group_and_element + code + b"\0\0", 4) if vr in _LONG_VRS else (group_and_element + code, 2)


def padding(vr: str) -> bytes:
    """The byte that makes the length of a value even. PS3.5 §6.2"""
    return b" " if vr in CHARACTER_SET_VRS or vr in _SPACE_PADDED else b"\0"


def _data_set(attributes: Mapping[str, JsonElement], is_explicit: bool, codecs: tuple[str, ...]) -> bytes:
    return b"".join(encode_element(tag, attributes[tag], is_explicit, codecs) for tag in sorted(attributes))


def _value(vr: str, element: JsonElement, is_explicit: bool, codecs: tuple[str, ...]) -> bytes:
    values = element.get("Value") or ()
    if vr == "SQ":
        items = [_data_set(item, is_explicit, codecs) for item in values if isinstance(item, dict)]
        return b"".join(struct.pack("<HHI", 0xFFFE, 0xE000, len(item)) + item for item in items)
    if vr in _BINARY_VRS:
        return _binary(element)
    if vr in _NUMBERS:
        return _packed(_NUMBERS[vr], values)
    if vr == "AT":
        return b"".join(struct.pack("<HH", int(one[:4], 16), int(one[4:], 16)) for one in values if one)
    written = "\\".join(_TO_TEXT.get(vr, _value_text)(value) for value in values)
    if written.isascii() or vr not in CHARACTER_SET_VRS:
        return written.encode("ascii", "replace")
    return encode_text(written, codecs, is_name=vr == "PN")


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
        return str(int(value)) if value.is_integer() and abs(value) < 1e15 else _shortened(value)
    return _value_text(value)


def _shortened(value: float) -> str:
    """As many digits of a number as its 16 characters have room for. PS3.5 Table 6.2-1"""
    texts = (repr(value), *(f"{value:.{digits}g}" for digits in range(16, 0, -1)))
    return next(text for text in texts if len(text) <= _DECIMAL_CHARACTERS)


_TO_TEXT: dict[str, Callable[[JsonElement], str]] = {"DS": _decimal}
_SPACE_PADDED = frozenset(("AE", "AS", "CS", "DA", "DS", "DT", "IS", "TM", "UR"))
