"""Text of strangers on its way to a terminal: harmless characters, and how many columns they take. Pure."""

from __future__ import annotations

import re
import unicodedata

ELLIPSIS = "…"
_REPLACEMENT = "\N{REPLACEMENT CHARACTER}"
_JOINERS = "\N{ZERO WIDTH NON-JOINER}\N{ZERO WIDTH JOINER}"  # Persian, Indic scripts: names need them
_SPACES = frozenset("\t\n\v\f\r\x85\N{LINE SEPARATOR}\N{PARAGRAPH SEPARATOR}")
_MAYBE_HARMFUL = re.compile(r"[^ -~]")
_FOREIGN_CHARACTERS = 200


def clean(text: str) -> str:
    """One line without anything that a terminal obeys: line ends and tabs are spaces, other controls U+FFFD.

    Controls are those of C0 and C1, and those that reverse the direction of what follows.
    """
    return _MAYBE_HARMFUL.sub(lambda found: _harmless(found[0]), text)


def _harmless(character: str) -> str:
    if character in _SPACES:
        return " "
    is_kept = character.isprintable() or character in _JOINERS or unicodedata.category(character) == "Zs"
    return character if is_kept else _REPLACEMENT


def quoted(text: str) -> str:
    """What a server says in its own words, for a message: clean and short."""
    return shortened(clean(text).strip(), _FOREIGN_CHARACTERS)


def escaped(json_text: str) -> str:
    r"""JSON text in which every character that a terminal may obey is written as ``\u`` and four hex digits."""
    return _MAYBE_HARMFUL.sub(
        lambda found: found[0] if _harmless(found[0]) == found[0] else _escape(found[0]), json_text
    )


def _escape(character: str) -> str:
    units = character.encode("utf-16-be", "surrogatepass")
    return "".join(f"\\u{units[at : at + 2].hex()}" for at in range(0, len(units), 2))


def columns(text: str) -> int:
    """How many columns of a terminal clean text takes. Unicode Standard Annex #11"""
    if text.isascii():
        return len(text)
    return sum(map(_width, text))


def _width(character: str) -> int:
    if unicodedata.category(character) in ("Mn", "Me", "Cf"):
        return 0
    return 2 if unicodedata.east_asian_width(character) in "WF" else 1


def shortened(text: str, maximum: int) -> str:
    """Text of at most ``maximum`` columns; what is cut ends in an ellipsis."""
    if columns(text) <= maximum:
        return text
    used = 0
    for at, character in enumerate(text):
        used += _width(character)
        if used > maximum - 1:
            return text[:at] + ELLIPSIS
    return text


def padded(text: str, width: int) -> str:
    """Text followed by as many spaces as fill ``width`` columns."""
    return text + " " * (width - columns(text))
