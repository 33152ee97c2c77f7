"""Icons: drawings that stand for an object without a picture, or whose picture may not be shown.

They hold nothing of the object but its kind, so they tell no one anything of the patient. PS3.18 §10.4.1.1.3
"""

from __future__ import annotations

import enum
import io
import math
from collections.abc import Callable, Mapping
from functools import lru_cache

from PIL import Image, ImageDraw

from gateway.pixels.description import has_burned_in_annotation, has_pixels
from gateway.pixels.elements import DataSet
from gateway.pixels.options import DEFAULT_QUALITY, JPEG, THUMBNAIL_SIDE_PIXELS, RenderOptions

_LARGEST_SIDE = 512  # they are drawn by who answers, not by a decoding process
_UNITS = 64  # icons are drawn on a square of this side
_OVERSAMPLING = 4
_BACKGROUND, _PAPER, _INK, _ACCENT, _PALE = "#20262e", "#f4f6f8", "#3b4754", "#4aa3df", "#93a1b0"
_ALARM = "#d9534f"


class Icon(enum.Enum):
    """The kinds of object that are told apart."""

    DOCUMENT = "document"
    PDF = "pdf"
    WAVEFORM = "waveform"
    PLAN = "plan"
    VIDEO = "video"
    HIDDEN = "hidden"
    PICTURE = "picture"
    OTHER = "other"


_STORAGE = "1.2.840.10008.5.1.4.1.1."
_BY_SOP_CLASS: Mapping[str, Icon] = {
    "104.1": Icon.PDF,
    "104.2": Icon.DOCUMENT,
    "77.1.1.1": Icon.VIDEO,
    "77.1.2.1": Icon.VIDEO,
    "77.1.4.1": Icon.VIDEO,
}
_BY_FAMILY: Mapping[str, Icon] = {"88": Icon.DOCUMENT, "9": Icon.WAVEFORM, "481": Icon.PLAN}


def icon_kind(metadata: DataSet) -> Icon:
    """What stands for the object: hidden when its pixels name the patient, else by its SOP Class, else a picture when
    it has pixels. PS3.4 §B.5
    """
    if has_burned_in_annotation(metadata):
        return Icon.HIDDEN
    element = metadata.get("00080016")
    values = element.get("Value") if isinstance(element, Mapping) else None
    uid = values[0] if isinstance(values, list) and values and isinstance(values[0], str) else ""
    suffix = uid.removeprefix(_STORAGE) if uid.startswith(_STORAGE) else ""
    if suffix in _BY_SOP_CLASS:
        return _BY_SOP_CLASS[suffix]
    if has_pixels(metadata):
        return Icon.PICTURE
    return _BY_FAMILY.get(suffix.partition(".")[0], Icon.OTHER)


@lru_cache(256)
def icon(kind: Icon, options: RenderOptions) -> bytes:
    """The drawing for ``kind`` as JPEG, PNG or GIF, square, as large as fits in the viewport but not huge; kept."""
    sides = (options.viewport.width, options.viewport.height) if options.viewport else ()
    side = min((_LARGEST_SIDE, *(side for side in sides if side))) if any(sides) else THUMBNAIL_SIDE_PIXELS
    scale = min(_OVERSAMPLING, max(1, 4 * _UNITS // side)) * side / _UNITS
    canvas = Image.new("RGB", (round(_UNITS * scale),) * 2, _BACKGROUND)
    _DRAWINGS[kind](_Pen(ImageDraw.Draw(canvas), scale))
    return encode(canvas.resize((side, side), Image.Resampling.LANCZOS), options)


def encode(image: Image.Image, options: RenderOptions, icc_profile: bytes = b"") -> bytes:
    """The picture in the media type of ``options``; of 8 bits, without any metadata but the profile of its colours."""
    target = io.BytesIO()
    profile = {"icc_profile": icc_profile} if icc_profile else {}
    if options.media_type == JPEG:
        quality = DEFAULT_QUALITY if options.quality is None else options.quality
        image.save(target, "JPEG", quality=quality, subsampling=0 if quality >= DEFAULT_QUALITY else 2, **profile)
    else:
        image.save(target, options.media_type.removeprefix("image/").upper(), **profile)
    return target.getvalue()


class _Pen:
    """Draws in units of a square of 64, whatever the size of the canvas."""

    def __init__(self, draw: ImageDraw.ImageDraw, scale: float) -> None:
        self._draw = draw
        self._scale = scale

    def _scaled(self, points: list[tuple[float, float]]) -> list[tuple[float, float]]:
        return [(x * self._scale, y * self._scale) for x, y in points]

    def shape(self, points: list[tuple[float, float]], colour: str) -> None:
        self._draw.polygon(self._scaled(points), fill=colour)

    def line(self, points: list[tuple[float, float]], colour: str, width: float = 2.0) -> None:
        self._draw.line(self._scaled(points), fill=colour, width=max(1, round(width * self._scale)), joint="curve")

    def box(self, corners: tuple[float, float, float, float], colour: str, radius: float = 0.0) -> None:
        """corners: left, top, right, bottom."""
        scaled = self._scaled([corners[:2], corners[2:]])
        self._draw.rounded_rectangle(scaled, radius=radius * self._scale, fill=colour)

    def disc(self, x: float, y: float, radius: float, colour: str) -> None:
        self._draw.ellipse(self._scaled([(x - radius, y - radius), (x + radius, y + radius)]), fill=colour)


def _sheet(pen: _Pen) -> None:
    pen.shape([(16, 8), (40, 8), (50, 18), (50, 56), (16, 56)], _PAPER)
    pen.shape([(40, 8), (50, 18), (40, 18)], _PALE)


def _document(pen: _Pen) -> None:
    _sheet(pen)
    for number, right in enumerate((44, 40, 45, 36, 43)):
        pen.line([(21, 25 + 6 * number), (right, 25 + 6 * number)], _INK, 2)


def _pdf(pen: _Pen) -> None:
    _sheet(pen)
    pen.box((12, 32, 44, 46), _ALARM, 2)
    pen.line([(18, 43), (18, 35), (22, 35), (22, 39), (18, 39)], _PAPER, 1.6)
    pen.line([(26, 43), (26, 35), (29, 35), (31, 37), (31, 41), (29, 43), (26, 43)], _PAPER, 1.6)
    pen.line([(35, 43), (35, 35), (40, 35)], _PAPER, 1.6)
    pen.line([(35, 39), (39, 39)], _PAPER, 1.6)


def _waveform(pen: _Pen) -> None:
    pen.box((6, 12, 58, 52), _PAPER, 3)
    for x in range(10, 58, 6):
        pen.line([(x, 13), (x, 51)], "#f0c9c8", 0.5)
    for y in range(16, 52, 6):
        pen.line([(7, y), (57, y)], "#f0c9c8", 0.5)
    beat = [(0.0, 0.0), (4, 0), (6, -3), (8, 0), (10, 0), (11, 3), (13.5, -15), (16, 7), (17.5, 0), (20, -4), (23, 0)]
    pen.line([(8 + x, 34 + y) for x, y in beat] + [(33 + x, 34 + y) for x, y in beat[1:]], _INK, 1.6)


def _plan(pen: _Pen) -> None:
    for radius, colour in ((22, _PALE), (19, _BACKGROUND), (13, _PALE), (10, _BACKGROUND), (5, _ALARM)):
        pen.disc(32, 32, radius, colour)
    for x, y in ((0, -1), (0, 1), (-1, 0), (1, 0)):
        pen.line([(32 + 7 * x, 32 + 7 * y), (32 + 27 * x, 32 + 27 * y)], _ACCENT, 2)


def _video(pen: _Pen) -> None:
    pen.box((8, 14, 56, 50), _PALE, 3)
    for x in range(12, 54, 8):
        pen.box((x, 16, x + 4, 19), _BACKGROUND)
        pen.box((x, 45, x + 4, 48), _BACKGROUND)
    pen.shape([(26, 23), (26, 41), (42, 32)], _PAPER)


def _picture(pen: _Pen) -> None:
    pen.box((8, 12, 56, 52), _PAPER, 3)
    pen.box((11, 15, 53, 49), _INK)
    pen.disc(42, 23, 4, "#f2c14e")
    pen.shape([(11, 49), (26, 27), (36, 41), (42, 34), (53, 49)], _PALE)


def _hidden(pen: _Pen) -> None:
    _picture(pen)
    eye = [(32 + 20 * math.cos(t / 16 * math.pi), 32 + 11 * math.sin(t / 16 * math.pi)) for t in range(32)]
    pen.shape(eye, _PAPER)
    pen.disc(32, 32, 8, _INK)
    pen.disc(32, 32, 3.5, _ACCENT)
    pen.line([(12, 52), (52, 12)], _ALARM, 4)


def _other(pen: _Pen) -> None:
    for height, colour in ((42, _INK), (32, _PALE), (22, _ACCENT)):
        pen.shape([(32, height - 12), (54, height), (32, height + 12), (10, height)], colour)


_DRAWINGS: Mapping[Icon, Callable[[_Pen], None]] = {
    Icon.DOCUMENT: _document,
    Icon.PDF: _pdf,
    Icon.WAVEFORM: _waveform,
    Icon.PLAN: _plan,
    Icon.VIDEO: _video,
    Icon.HIDDEN: _hidden,
    Icon.PICTURE: _picture,
    Icon.OTHER: _other,
}
