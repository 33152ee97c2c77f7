"""GraphicObject and TextObject: what a presentation state draws on its image, in the layers that it defines.

Pure. Points are finite, their number and that of the characters is bounded. Styles, and compound graphics, for which
simple ones stand as well, are not looked at. PS3.3 §C.10.5, §C.10.7
"""

from __future__ import annotations

import enum
from collections.abc import Iterator
from dataclasses import dataclass

from gateway.pixels.cielab import Colour, grey, srgb
from gateway.pixels.displayed_area import Point
from gateway.pixels.elements import DataSet
from gateway.pixels.references import applies
from gateway.pixels.state_elements import code, integers, is_present, items, malformed, numbers, text, too_many, words

MAXIMUM_OBJECTS = 2_048
MAXIMUM_POINTS = 32_768
MAXIMUM_TEXT_CHARACTERS = 8_192
_LIMIT = 1_000_000.0  # of a coordinate, in its unit
_LIMIT_ORDER = 2**31
_ANNOTATIONS, _GRAPHICS, _TEXTS, _LAYERS = "00700001", "00700009", "00700008", "00700060"
_LAYER, _ORDER, _GREY, _RGB, _CIELAB = "00700002", "00700062", "00700066", "00700067", "00700401"
_UNITS, _DIMENSIONS, _COUNT, _DATA, _TYPE, _FILLED = (
    *("00700005", "00700020", "00700021"),
    *("00700022", "00700023", "00700024"),
)
_BOX_UNITS, _ANCHOR_UNITS, _TEXT, _TOP_LEFT, _BOTTOM_RIGHT, _JUSTIFICATION, _ANCHOR, _VISIBLE = (
    *("00700003", "00700004", "00700006", "00700010"),
    *("00700011", "00700012", "00700014", "00700015"),
)


class Units(enum.Enum):
    """What coordinates count: pixels of the image, or parts of the displayed area."""

    PIXEL = "PIXEL"
    DISPLAY = "DISPLAY"


class GraphicType(enum.Enum):
    """The shape that points make. PS3.3 §C.10.5.1.2"""

    POINT = "POINT"
    POLYLINE = "POLYLINE"
    INTERPOLATED = "INTERPOLATED"
    CIRCLE = "CIRCLE"
    ELLIPSE = "ELLIPSE"


class Justification(enum.Enum):
    """Where lines of text stand in their box."""

    LEFT = "LEFT"
    RIGHT = "RIGHT"
    CENTER = "CENTER"


@dataclass(frozen=True, slots=True)
class GraphicLayer:
    """What is drawn in one go: that of the lowest order lies undermost."""

    order: int
    colour: Colour


@dataclass(frozen=True, slots=True)
class GraphicObject:
    """A shape. points: as many as its type takes."""

    layer: GraphicLayer
    type: GraphicType
    units: Units
    points: tuple[Point, ...]
    is_filled: bool


@dataclass(frozen=True, slots=True)
class TextObject:
    """Lines of text in a box, at an anchor, or both. box: the corners that were top left and bottom right."""

    layer: GraphicLayer
    lines: tuple[str, ...]
    box: tuple[Point, Point] | None
    box_units: Units
    justification: Justification
    anchor: Point | None
    anchor_units: Units
    is_anchor_visible: bool


Drawn = GraphicObject | TextObject

# Where a state says nothing of a layer: white, above all others.
UNKNOWN_LAYER = GraphicLayer(_LIMIT_ORDER, (255, 255, 255))
_UNITS_BY_CODE = {units.value: units for units in Units}
_TYPES = {type_.value: type_ for type_ in GraphicType}
_JUSTIFICATIONS = {one.value: one for one in Justification}
_YES_NO = {"Y": True, "N": False}
# The fewest and most points of a type.
_POINTS = {
    GraphicType.POINT: (1, 1),
    GraphicType.POLYLINE: (1, MAXIMUM_POINTS),
    GraphicType.INTERPOLATED: (1, MAXIMUM_POINTS),
    GraphicType.CIRCLE: (2, 2),
    GraphicType.ELLIPSE: (4, 4),
}


def graphic_layers(state: DataSet) -> dict[str, GraphicLayer]:
    """The layers of a state by name. Raises Undecodable."""
    layers = {}
    for item in items(state, _LAYERS):
        name, order = text(item, _LAYER), integers(item, _ORDER, count=1, limit=_LIMIT_ORDER)
        if not name:
            raise malformed(_LAYER)
        if not order:
            raise malformed(_ORDER)
        layers[name] = GraphicLayer(order[0], _colour(item))
    return layers


def drawn_objects(state: DataSet, sop_instance_uid: str, frame_number: int) -> tuple[Drawn, ...]:
    """What a state draws on a frame, undermost first. Raises Undecodable, and TooLarge beyond the limits."""
    layers = graphic_layers(state)
    found: list[Drawn] = []
    for annotation in items(state, _ANNOTATIONS):
        if applies(annotation, sop_instance_uid, frame_number):
            layer = layers.get(text(annotation, _LAYER), UNKNOWN_LAYER)
            found += _graphics(annotation, layer)
            found += _texts(annotation, layer)
        if len(found) > MAXIMUM_OBJECTS:
            raise too_many(_ANNOTATIONS)
    if sum(len(one.points) for one in found if isinstance(one, GraphicObject)) > MAXIMUM_POINTS:
        raise too_many(_DATA)
    if sum(sum(map(len, one.lines)) for one in found if isinstance(one, TextObject)) > MAXIMUM_TEXT_CHARACTERS:
        raise too_many(_TEXT)
    return tuple(sorted(found, key=lambda one: one.layer.order))


def _colour(layer: DataSet) -> Colour:
    """That for colour displays, then that for grey ones; white without either. PS3.3 §C.10.7.1"""
    cielab, rgb, p_value = words(layer, _CIELAB, count=3), words(layer, _RGB, count=3), words(layer, _GREY, count=1)
    if cielab:
        return srgb(cielab)
    if rgb:
        return grey(rgb[0])[0], grey(rgb[1])[0], grey(rgb[2])[0]
    return grey(p_value[0]) if p_value else UNKNOWN_LAYER.colour


def _graphics(annotation: DataSet, layer: GraphicLayer) -> Iterator[GraphicObject]:
    for item in items(annotation, _GRAPHICS):
        graphic_type = code(item, _TYPE, _TYPES)
        if integers(item, _DIMENSIONS, count=1, limit=0xFFFF) not in ((), (2,)):
            raise malformed(_DIMENSIONS)
        points = _points(item, _DATA)
        count = integers(item, _COUNT, count=1, limit=0xFFFF)
        fewest, most = _POINTS[graphic_type]
        if len(points) > MAXIMUM_POINTS:
            raise too_many(_DATA)
        if count and count[0] not in (len(points), len(points) & 0xFFFF):
            raise malformed(_COUNT)
        if not fewest <= len(points) <= most:
            raise malformed(_DATA)
        units, is_filled = code(item, _UNITS, _UNITS_BY_CODE), code(item, _FILLED, _YES_NO, "N")
        yield GraphicObject(layer, graphic_type, units, points, is_filled)


def _texts(annotation: DataSet, layer: GraphicLayer) -> Iterator[TextObject]:
    for item in items(annotation, _TEXTS):
        box = (_point(item, _TOP_LEFT), _point(item, _BOTTOM_RIGHT)) if is_present(item, _TOP_LEFT) else None
        anchor = _point(item, _ANCHOR) if is_present(item, _ANCHOR) else None
        if box is None and anchor is None:
            raise malformed(_ANCHOR)
        yield TextObject(
            layer,
            _lines(item),
            box,
            code(item, _BOX_UNITS, _UNITS_BY_CODE) if box else Units.PIXEL,
            code(item, _JUSTIFICATION, _JUSTIFICATIONS, "LEFT"),
            anchor,
            code(item, _ANCHOR_UNITS, _UNITS_BY_CODE) if anchor else Units.PIXEL,
            code(item, _VISIBLE, _YES_NO, "N"),
        )


def _lines(item: DataSet) -> tuple[str, ...]:
    """The lines without control characters and blanks behind them."""
    lines = text(item, _TEXT).replace("\r\n", "\n").replace("\r", "\n").split("\n")
    return tuple("".join(letter for letter in line if letter.isprintable()).rstrip() for line in lines)


def _points(item: DataSet, tag: str) -> tuple[Point, ...]:
    flat = numbers(item, tag, limit=_LIMIT)
    if len(flat) % 2:
        raise malformed(tag)
    return tuple(zip(flat[::2], flat[1::2], strict=True))


def _point(item: DataSet, tag: str) -> Point:
    points = _points(item, tag)
    if len(points) != 1:
        raise malformed(tag)
    return points[0]
