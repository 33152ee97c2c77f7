"""Lettering: text on a picture, legible on any ground, with the best font that the machine has for it.

Pillow's own font knows little more than ASCII. Where the system has a wider one it is taken; a character that the font
does not have is written as its number, never as a box that could be anything.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

from PIL import Image, ImageDraw, ImageFont

from gateway.pixels.fonts import FONTS
from storage.errors import Undecodable

Font = ImageFont.FreeTypeFont
_NO_CHARACTER = "\uffff"
_ELLIPSIS = "..."
_SMALLEST_PIXELS, _LARGEST_PIXELS = 8, 64
_LINES_PER_HEIGHT = 32


@lru_cache(16)
def font(pixels: int) -> Font:
    """The font to write with, of a height in pixels."""
    for path in FONTS:
        if path.is_file():
            return ImageFont.truetype(str(path), pixels)
    found = ImageFont.load_default(pixels)
    if not isinstance(found, ImageFont.FreeTypeFont):
        raise Undecodable("There is no font to write with")
    return found


def written(text: str, letters: Font) -> str:
    """The text as the font can show it; other characters as their numbers. U+5C71 becomes <5C71>."""
    return "".join(
        character if character.isspace() or _has(letters, character) else f"<{ord(character):04X}>"
        for character in text
    )


@lru_cache(4096)
def _has(letters: Font, character: str) -> bool:
    return bytes(letters.getmask(character)) != bytes(letters.getmask(_NO_CHARACTER))


def write_corners(image: Image.Image, top: Sequence[str], bottom: Sequence[str]) -> None:
    """Write lines from the upper left corner down, and others up to the lower left one.

    What has no room is smaller; where even that is too much, lines end with an ellipsis, and one stands for the last
    of them: nobody may take a part of a number for the whole.
    """
    draw = ImageDraw.Draw(image)
    pixels = min(_LARGEST_PIXELS, image.height // max(_LINES_PER_HEIGHT, len(top) + len(bottom) + 1))
    letters = font(max(_SMALLEST_PIXELS, pixels))
    widest = max((letters.getlength(written(line, letters)) for line in (*top, *bottom)), default=0) + letters.size
    if widest > image.width:
        letters = font(max(_SMALLEST_PIXELS, int(letters.size * image.width / widest)))
    margin = letters.size / 2
    room = max(1, int((image.height - 2 * margin) / _pitch(draw, letters)))
    top = _first(top, room)
    bottom = _first(bottom, room - len(top))
    for text, corner, y in ((top, "la", margin), (bottom, "ld", image.height - margin)):
        if text:
            lines = (_shortened(written(line, letters), letters, image.width - 2 * margin) for line in text)
            _write(draw, (margin, y), "\n".join(lines), letters, corner)


def _first(lines: Sequence[str], room: int) -> Sequence[str]:
    """As many lines as there is room for, the last one an ellipsis where some are left out."""
    if len(lines) <= room:
        return lines
    return [*lines[: room - 1], _ELLIPSIS] if room > 0 else []


def _shortened(text: str, letters: Font, width: float) -> str:
    """The text, or what of it has room before an ellipsis."""
    if letters.getlength(text) <= width:
        return text
    while text and letters.getlength(text + _ELLIPSIS) > width:
        text = text[:-1]
    return text + _ELLIPSIS


def _pitch(draw: ImageDraw.ImageDraw, letters: Font) -> float:
    """Pixels from one line to the next."""
    one, two = (
        draw.multiline_textbbox((0, 0), text, letters, spacing=letters.size / 4, stroke_width=1)[3]
        for text in ("A", "A\nA")
    )
    return two - one


def _write(draw: ImageDraw.ImageDraw, place: tuple[float, float], text: str, letters: Font, anchor: str) -> None:
    """White letters with a black rim, in the mode of the picture."""
    draw.multiline_text(
        place,
        text,
        fill="white",
        font=letters,
        anchor=anchor,
        spacing=letters.size / 4,
        stroke_width=1,
        stroke_fill="black",
    )
