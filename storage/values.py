"""The bytes of one value as the DICOM JSON Model has it, by Value Representation. Pure; never raises on bad content.

What a VR forbids is still kept where JSON can say it (a number that is none stays text), so that one bad element
never costs an instance. PS3.5 §6.1, §6.2; PS3.18 Annex F
"""

from __future__ import annotations

import struct
from base64 import b64encode
from collections.abc import Callable
from functools import lru_cache

from storage.charsets import ENCODINGS, ESCAPES, STATEFUL
from storage.model import JsonElement

Buffer = bytes | bytearray | memoryview
Encodings = tuple[str, ...]

DEFAULT_ENCODINGS: Encodings = ("latin_1",)
PERSON_NAME_GROUPS = ("Alphabetic", "Ideographic", "Phonetic")
_ESCAPE = b"\x1b"
PERSON_NAME_DELIMITERS = b"\\=^"
TEXT_DELIMITERS = b"\\\n\f\r\t"


@lru_cache(maxsize=512)
def encodings_of(specific_character_set: bytes) -> Encodings:
    """Python codecs for a value of Specific Character Set (0008,0005); unknown terms are read as UTF-8.

    PS3.3 §C.12.1.1.2
    """
    terms = [term.strip() for term in specific_character_set.decode("ascii", "replace").strip("\0 ").split("\\")]
    return tuple(ENCODINGS.get(term) or ENCODINGS.get(_corrected(term)) or "utf_8" for term in terms)


def _corrected(term: str) -> str:
    """Specific Character Set terms as some peers spell them: ``ISO IR 100``, ``ISO-IR 100``, ``ISO 2022-IR 87``."""
    plain = term.upper().replace("-", " ").replace("_", " ")
    return plain.replace("ISO IR", "ISO_IR", 1) if plain.startswith("ISO IR") else plain


def decode_text(raw: bytes, encodings: Encodings, delimiters: bytes = TEXT_DELIMITERS) -> str:
    """Text of a value in its character sets; what cannot be decoded becomes U+FFFD. PS3.5 §6.1.2"""
    if _ESCAPE in raw:
        return _decode_extended(raw, encodings, delimiters)
    if raw.isascii():
        return raw.decode("ascii")
    return raw.decode(encodings[0], "replace")


def _decode_extended(raw: bytes, encodings: Encodings, delimiters: bytes) -> str:
    """Text that switches its character set by escape sequences (ISO 2022). PS3.5 §6.1.2.4, §6.1.2.5

    Each escape holds until the next one, or until a delimiter, which returns to the first character set. Sets of two
    bytes of seven bits may hold delimiters as halves of characters, so there only an escape ends them.
    """
    first, *escaped = raw.split(_ESCAPE)
    text = [first.decode(encodings[0], "replace")]
    for part in escaped:
        length = 3 if part[:2] in (b"$)", b"$(") else 2
        encoding = ESCAPES.get(part[:length])
        if encoding is None:
            text.append((_ESCAPE + part).decode(encodings[0], "replace"))
        elif encoding in STATEFUL:
            text.append((_ESCAPE + part).decode(encoding, "replace"))
        else:
            rest = part[length:]
            ends = min((at for at in map(rest.find, map(_byte, delimiters)) if at >= 0), default=len(rest))
            text.append(rest[:ends].decode(encoding, "replace") + rest[ends:].decode(encodings[0], "replace"))
    return "".join(text)


def _byte(number: int) -> bytes:
    return bytes((number,))


def _clean(text: str) -> str:
    return text.replace("\0", "") if "\0" in text else text


def _texts(raw: bytes, encodings: Encodings) -> list[JsonElement]:
    text = _clean(decode_text(raw, encodings))
    if "\\" in text:
        return [part.strip(" ") or None for part in text.split("\\")]
    text = text.strip(" ")
    return [text] if text else []


def _text(raw: bytes, encodings: Encodings) -> list[JsonElement]:
    text = _clean(decode_text(raw, encodings)).rstrip(" ")
    return [text] if text else []


def _codes(raw: bytes, _: Encodings) -> list[JsonElement]:
    text = raw.decode("latin-1").strip("\0 ")
    if "\\" in text:
        return [_clean(part).strip(" ") or None for part in text.split("\\")]
    return [_clean(text)] if text else []


def _uids(raw: bytes, _: Encodings) -> list[JsonElement]:
    """UIDs without their padding. A NUL inside of one is none: it stays visible, so that no UID becomes another."""
    text = raw.decode("latin-1").strip("\0 ").replace("\0", "\ufffd")
    return [part.strip("\ufffd ") or None for part in text.split("\\")] if text else []


def _person_names(raw: bytes, encodings: Encodings) -> list[JsonElement]:
    text = _clean(decode_text(raw, encodings, PERSON_NAME_DELIMITERS)).strip(" ")
    return [_person_name(name) for name in text.split("\\")] if text else []


def _person_name(text: str) -> JsonElement:
    groups = {
        key: group.strip(" ")
        for key, group in zip(PERSON_NAME_GROUPS, text.split("="), strict=False)
        if group.strip(" ")
    }
    return groups or None


def _integer(text: str) -> JsonElement:
    try:
        number = int(text)
    except ValueError:
        return text
    return number if -(2**53) < number < 2**53 and text.isascii() and "_" not in text else text


def _decimal(text: str) -> JsonElement:
    try:
        number = float(text)
    except ValueError:
        return text
    finite = number - number == 0.0
    return number if finite and text.isascii() and "_" not in text else text


def _numeric_strings(convert: Callable[[str], JsonElement]) -> Callable[[bytes, Encodings], list[JsonElement]]:
    def values(raw: bytes, _: Encodings) -> list[JsonElement]:
        text = raw.decode("latin-1").strip("\0 ")
        if not text:
            return []
        parts = (_clean(part).strip(" ") for part in text.split("\\"))
        return [convert(part) if part else None for part in parts]

    return values


_TEXT_VRS: dict[str, Callable[[bytes, Encodings], list[JsonElement]]] = {
    **dict.fromkeys(("AE", "AS", "CS", "DA", "DT", "TM"), _codes),
    "UI": _uids,
    **dict.fromkeys(("LO", "SH", "UC"), _texts),
    **dict.fromkeys(("LT", "ST", "UT", "UR"), _text),
    "PN": _person_names,
    "IS": _numeric_strings(_integer),
    "DS": _numeric_strings(_decimal),
}
NUMBER_FORMATS = {
    "US": "H",
    "SS": "h",
    "UL": "I",
    "SL": "i",
    "UV": "Q",
    "SV": "q",
    "FL": "f",
    "FD": "d",
}
_BINARY_WORD_BYTES = {"OB": 1, "UN": 1, "OW": 2, "OF": 4, "OL": 4, "OD": 8, "OV": 8}
KNOWN_VRS = frozenset((*_TEXT_VRS, *NUMBER_FORMATS, *_BINARY_WORD_BYTES, "AT", "SQ"))
BINARY_VRS = frozenset(_BINARY_WORD_BYTES)
_SWAPPED = {2: "H", 4: "I", 8: "Q"}


def little_endian(raw: bytes, word_bytes: int) -> bytes:
    """Bytes of big endian words as little endian; a rest shorter than a word stays as it is. PS3.5 §7.3"""
    if word_bytes == 1:
        return raw
    whole = len(raw) // word_bytes * word_bytes
    count = whole // word_bytes
    letter = _SWAPPED[word_bytes]
    words = struct.unpack(f">{count}{letter}", raw[:whole])
    return struct.pack(f"<{count}{letter}", *words) + raw[whole:]


def binary_word_bytes(vr: str) -> int:
    """Bytes of one word of a VR, which byte order turns round; 1 for text. PS3.5 §7.3"""
    if vr == "AT":
        return 2
    return _BINARY_WORD_BYTES.get(vr) or struct.calcsize(NUMBER_FORMATS.get(vr, "B"))


def _numbers(raw: bytes, letter: str, *, is_little_endian: bool) -> list[JsonElement]:
    count = len(raw) // struct.calcsize(letter)
    order = "<" if is_little_endian else ">"
    numbers = struct.unpack_from(f"{order}{count}{letter}", raw)
    if letter in "fd":
        return [number if number - number == 0.0 else _not_finite(number) for number in numbers]
    if letter in "qQ":
        return [number if -(2**53) < number < 2**53 else str(number) for number in numbers]
    return list(numbers)


def _not_finite(number: float) -> str:
    if number != number:  # noqa: PLR0124 - the definition of NaN
        return "NaN"
    return "Infinity" if number > 0 else "-Infinity"


def _attribute_tags(raw: bytes, *, is_little_endian: bool) -> list[JsonElement]:
    numbers = _numbers(raw, "H", is_little_endian=is_little_endian)
    return [f"{group:04X}{element:04X}" for group, element in zip(numbers[::2], numbers[1::2], strict=False)]


def json_element(vr: str, raw: bytes, encodings: Encodings, *, is_little_endian: bool) -> JsonElement:
    """One element, not a sequence, in the DICOM JSON Model; only ``vr`` when it has no value. PS3.18 §F.2.2

    Binary values become InlineBinary in little endian order (PS3.18 §F.2.7). NaN and infinities, for which JSON has
    no number, become text.
    """
    if not raw:
        return {"vr": vr}
    text_values = _TEXT_VRS.get(vr)
    if text_values is not None:
        values = text_values(raw, encodings)
    elif vr in NUMBER_FORMATS:
        values = _numbers(raw, NUMBER_FORMATS[vr], is_little_endian=is_little_endian)
    elif vr == "AT":
        values = _attribute_tags(raw, is_little_endian=is_little_endian)
    else:
        if not is_little_endian:
            raw = little_endian(raw, _BINARY_WORD_BYTES.get(vr, 1))
        return {"vr": vr, "InlineBinary": b64encode(raw).decode("ascii")}
    return {"vr": vr, "Value": values} if values else {"vr": vr}
