"""Text in the character sets that a Specific Character Set names, code extensions included. Pure; PS3.5 §6.1.2.5

What a set cannot hold is a UnicodeError, never a replacement: the caller has ISO_IR 192 for it (CF8).
"""

from __future__ import annotations

import re
from functools import lru_cache

from storage.charsets import ENCODINGS, ESCAPES, STATEFUL

UTF_8 = "ISO_IR 192"

_ASCII = "ascii"
_DEFAULT_REPERTOIRE = frozenset(("", "ISO_IR 6", "ISO 2022 IR 6"))
_JIS_X_0201 = "shift_jis"
_KS_X_1001 = "euc_kr"
_ESCAPE_OF = {codec: b"\x1b" + code for code, codec in ESCAPES.items()}  # the last code of a codec designates G1
_HOME, _HOME_OF_JIS = b"\x1b(B", b"\x1b(J"
_NAME_PARTS = re.compile(r"([\^=\\])")
_TEXT_PARTS = re.compile(r"([\\\n\f\r\t])")


@lru_cache(maxsize=64)
def codecs_of(character_set: str) -> tuple[str, ...]:
    """Python codecs for the values of a Specific Character Set; the default repertoire is ASCII.

    What the standard does not define, and sets that allow no code extensions beside others, are not answered with:
    ASCII stands for them. PS3.3 §C.12.1.1.2
    """
    terms = [term.strip() for term in character_set.split("\\")]
    if not all(term in ENCODINGS for term in terms):
        return (_ASCII,)
    found = tuple(_ASCII if term in _DEFAULT_REPERTOIRE else ENCODINGS[term] for term in terms)
    is_extensible = all(codec == _ASCII or codec in _ESCAPE_OF for codec in found)
    return found if len(found) == 1 or is_extensible else (_ASCII,)


def encode_text(text: str, codecs: tuple[str, ...], *, is_name: bool) -> bytes:
    """Text of a value in its character sets. Raises UnicodeError for what they do not have.

    is_name: component groups and components are delimiters, which return to the first set. PS3.5 §6.1.2.5.3
    """
    if len(codecs) == 1 and codecs[0] != _JIS_X_0201 and codecs[0] not in STATEFUL:
        return text.encode(codecs[0])
    delimiters = _NAME_PARTS if is_name else _TEXT_PARTS
    return b"".join(_extended(part, codecs) for part in delimiters.split(text))


def _extended(part: str, codecs: tuple[str, ...]) -> bytes:
    """Text between two delimiters, with an escape sequence wherever the set changes, and the first set at the end.

    Sets of two bytes of seven bits are left before anything else follows. Readers differ in what G1 holds after
    that, so it is designated again.
    """
    first = codecs[0]
    home = _HOME_OF_JIS if first == _JIS_X_0201 else _HOME
    written = []
    low, high, is_first_in_g1 = _ASCII, first, True
    for character in part:
        codec, raw = _found(character, codecs)
        if low != _ASCII and codec not in STATEFUL:
            written.append(home)
            low, high = _ASCII, _ASCII
        if codec in STATEFUL and codec != low:
            written.append(_ESCAPE_OF[codec])
            low = codec
        elif codec not in (_ASCII, low, high):
            written.append(_ESCAPE_OF[codec])
            high, is_first_in_g1 = codec, codec == first
        written.append(raw)
    if low != _ASCII:
        written.append(home)
    if not is_first_in_g1 and first != _ASCII and first not in STATEFUL:  # which are no sets of G1
        written.append(_ESCAPE_OF[first])
    return b"".join(written)


def _found(character: str, codecs: tuple[str, ...]) -> tuple[str, bytes]:
    """The first codec that has a character, and its bytes there."""
    for codec in (_ASCII, *codecs):
        raw = _bytes_of(character, codec)
        if raw:
            return codec, raw
    raise UnicodeError


@lru_cache(maxsize=8192)
def _bytes_of(character: str, codec: str) -> bytes:
    """A character in the set of DICOM that a codec stands for; empty where only the codec has it."""
    try:
        raw = character.encode(codec)
    except UnicodeError:
        return b""
    if codec in STATEFUL:
        escape = _ESCAPE_OF[codec]
        return raw[len(escape) :][:2] if raw.startswith(escape) else b""
    if codec == _JIS_X_0201 and not (len(raw) == 1 and raw > b"\x7f"):
        return b""
    if codec == _KS_X_1001 and len(raw) != 2:
        return b""
    return raw
