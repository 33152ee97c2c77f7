"""Draws graphics and text of a presentation state on a picture that has its size already. PS3.3 §C.10.5

Lines are as wide, and letters as high, as a person can see at that size. Text stands upright, also where the image is
turned: the standard would turn it along (§C.10.5.1.1), but it is there to be read.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import pairwise

from PIL import Image, ImageDraw

from gateway.pixels.cielab import Colour
from gateway.pixels.displayed_area import Box, Placement, Point
from gateway.pixels.graphic_objects import Drawn, GraphicObject, GraphicType, Justification, TextObject, Units
from gateway.pixels.lettering import font, written
from gateway.pixels.outlines import circle, clipped_line, clipped_polygon, ellipse, interpolated

_PIXELS_OF_A_LINE = 512  # of the picture's shorter side, for each pixel of a line's width
_SMALLEST_LETTERS, _LARGEST_LETTERS, _USUAL_LETTERS = 10, 96, 36  # pixels; pixels; parts of the shorter side
_MARGIN = 16.0
_SPACING = 2
_OUTLINES: Mapping[GraphicType, Callable[[Sequence[Point]], Sequence[Point]]] = {
    GraphicType.POLYLINE: tuple,
    GraphicType.INTERPOLATED: interpolated,
    GraphicType.CIRCLE: circle,
    GraphicType.ELLIPSE: ellipse,
}


def with_colours(picture: Image.Image, colours: Iterable[Colour]) -> Image.Image:
    """The picture, in RGB if one of the colours is no grey."""
    is_grey = all(red == green == blue for red, green, blue in colours)
    return picture if is_grey or picture.mode == "RGB" else picture.convert("RGB")


def draw_objects(picture: Image.Image, objects: Sequence[Drawn], placement: Placement) -> Image.Image:
    """The picture with all objects on it, the first undermost."""
    picture = with_colours(picture, [one.layer.colour for one in objects])
    pen = _Pen(picture, placement)
    for one in objects:
        if isinstance(one, GraphicObject):
            pen.graphic(one)
        else:
            pen.text(one)
    return picture


class _Pen:
    """Draws on one picture, in its own pixels."""

    def __init__(self, picture: Image.Image, placement: Placement) -> None:
        self._draw = ImageDraw.Draw(picture)
        self._is_grey = picture.mode == "L"
        self._places = {Units.PIXEL: placement.of_pixel, Units.DISPLAY: placement.of_fraction}
        self._size = picture.size
        self._width = max(1, round(min(picture.size) / _PIXELS_OF_A_LINE))
        self._bounds: Box = (-_MARGIN, -_MARGIN, picture.width + _MARGIN, picture.height + _MARGIN)

    def _ink(self, colour: Colour) -> int | Colour:
        return colour[0] if self._is_grey else colour

    def graphic(self, one: GraphicObject) -> None:
        """A shape; a filled one that is not closed is closed by a straight line."""
        points = [self._places[one.units](point) for point in one.points]
        if len(points) == 1:
            self._dot(points[0], one.layer.colour)
            return
        outline = _OUTLINES[one.type](points)
        if one.is_filled:
            inside = [(x - 0.5, y - 0.5) for x, y in clipped_polygon(outline, self._bounds)]
            if len(inside) > 2:
                self._draw.polygon(inside, fill=self._ink(one.layer.colour))
        self._line(outline, one.layer.colour)

    def _line(self, points: Sequence[Point], colour: Colour) -> None:
        """Points stand between pixels, and Pillow's in the middle of one."""
        for start, end in pairwise(points):
            part = clipped_line(start, end, self._bounds)
            if part is not None:
                ends = [(x - 0.5, y - 0.5) for x, y in part]
                self._draw.line(ends, fill=self._ink(colour), width=self._width)

    def _dot(self, point: Point, colour: Colour) -> None:
        if self._is_near(point):
            x, y, radius = point[0] - 0.5, point[1] - 0.5, 1.5 * self._width
            self._draw.ellipse((x - radius, y - radius, x + radius, y + radius), fill=self._ink(colour))

    def _is_near(self, point: Point) -> bool:
        left, top, right, bottom = self._bounds
        return left <= point[0] <= right and top <= point[1] <= bottom

    def text(self, one: TextObject) -> None:
        """Lines in their box, which is no limit to them, or beside their anchor; with a line between both if asked."""
        box = self._box(one)
        anchor = None if one.anchor is None else self._places[one.anchor_units](one.anchor)
        if not any(one.lines) or not ((box and self._is_seen(box)) or (anchor and self._is_near(anchor))):
            return
        letters = font(self._letters(one, box))
        text = "\n".join(written(line, letters) for line in one.lines)
        align = one.justification.value.lower()
        size = self._draw.multiline_textbbox((0, 0), text, font=letters, spacing=_SPACING, align=align)[2:]
        left, top = self._corner(box, anchor, one.justification, size)
        if anchor is not None and one.is_anchor_visible:
            nearest = min(max(anchor[0], left), left + size[0]), min(max(anchor[1], top), top + size[1])
            self._line([nearest, anchor], one.layer.colour)
            self._dot(anchor, one.layer.colour)
        ink, edge = self._ink(one.layer.colour), self._ink(_contrary(one.layer.colour))
        self._draw.multiline_text(
            (left, top), text, ink, letters, spacing=_SPACING, align=align, stroke_width=1, stroke_fill=edge
        )

    def _box(self, one: TextObject) -> Box | None:
        """The box of a text; its corners are others when the image is turned."""
        if one.box is None:
            return None
        (x, y), (other_x, other_y) = (self._places[one.box_units](corner) for corner in one.box)
        return min(x, other_x), min(y, other_y), max(x, other_x), max(y, other_y)

    def _is_seen(self, box: Box) -> bool:
        return box[0] <= self._size[0] and box[2] >= 0 and box[1] <= self._size[1] and box[3] >= 0

    def _letters(self, one: TextObject, box: Box | None) -> int:
        """The height of letters: as the box has room for, within what can be read and leaves room for the image."""
        usual = max(_SMALLEST_LETTERS, min(self._size) / _USUAL_LETTERS)
        longest = max(map(len, one.lines))
        fitting = usual if box is None else min((box[3] - box[1]) / len(one.lines), 1.8 * (box[2] - box[0]) / longest)
        return round(min(max(fitting * 0.8, usual / 2, _SMALLEST_LETTERS), 2 * usual, _LARGEST_LETTERS))

    def _corner(
        self, box: Box | None, anchor: Point | None, justification: Justification, size: Sequence[float]
    ) -> Point:
        """Where the text starts; within the picture as far as it fits."""
        if box is not None:
            room = box[2] - box[0] - size[0]
            parts = {Justification.LEFT: 0.0, Justification.CENTER: 0.5, Justification.RIGHT: 1.0}
            left, top = box[0] + parts[justification] * room, box[1]
        else:
            assert anchor is not None
            left, top = anchor[0] + 4 * self._width, anchor[1] + 4 * self._width
        return max(0.0, min(left, self._size[0] - size[0])), max(0.0, min(top, self._size[1] - size[1]))


def _contrary(colour: Colour) -> Colour:
    """Black around light letters and white around dark ones, so that they are read on anything. ITU-R BT.601"""
    is_light = 0.299 * colour[0] + 0.587 * colour[1] + 0.114 * colour[2] > 127
    return (0, 0, 0) if is_light else (255, 255, 255)
