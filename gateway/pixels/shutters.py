"""Shutter: what a presentation state hides of its image, and the colour that stands there instead. Pure.

Rows and columns count from 1 at the middle of the first pixel; what lies on an edge is seen. PS3.3 §C.7.6.11,
§C.7.6.15, §C.11.12
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

from gateway.pixels.cielab import Colour, grey, srgb
from gateway.pixels.description import PixelDescription
from gateway.pixels.elements import DataSet
from gateway.pixels.overlays import Overlay
from gateway.pixels.state_elements import integers, malformed, texts, words
from gateway.pixels.state_overlays import plane_of_state

_LIMIT_PIXELS = 1_000_000
_MAXIMUM_VERTICES = 16_384
_SHAPE, _GROUP, _VALUE, _CIELAB = "00181600", "00181623", "00181622", "00181624"
_EDGES = ("00181602", "00181604", "00181606", "00181608")
_CENTER, _RADIUS, _VERTICES = "00181610", "00181612", "00181620"


@dataclass(frozen=True, slots=True)
class Rectangle:
    """The columns and rows that are seen, from the first to the last."""

    left: int
    right: int
    top: int
    bottom: int


@dataclass(frozen=True, slots=True)
class Circle:
    """What is seen around a pixel; radius: in pixels along a row."""

    row: int
    column: int
    radius: int


@dataclass(frozen=True, slots=True)
class Polygon:
    """What is seen within vertices, each a row and a column."""

    vertices: tuple[tuple[int, int], ...]


Opening = Rectangle | Circle | Polygon


@dataclass(frozen=True, slots=True)
class Shutter:
    """Hides what lies outside one of its openings, and where its bitmap is set."""

    openings: tuple[Opening, ...]
    bitmap: Overlay | None
    colour: Colour


def shutter_of(state: DataSet, description: PixelDescription) -> Shutter | None:
    """The shutter of a state, if it has one. Raises Undecodable and TooLarge."""
    shapes = _shapes(state)
    if not shapes:
        return None
    bitmap = _bitmap(state, description) if "BITMAP" in shapes else None
    openings = tuple(_OPENINGS[shape](state) for shape in shapes if shape != "BITMAP")
    return Shutter(openings, bitmap, _colour(state))


def _shapes(state: DataSet) -> tuple[str, ...]:
    shapes = texts(state, _SHAPE)
    if len(shapes) > len(_OPENINGS) + 1 or not set(shapes) <= {*_OPENINGS, "BITMAP"}:
        raise malformed(_SHAPE)
    return shapes


def _colour(state: DataSet) -> Colour:
    p_value, cielab = words(state, _VALUE, count=1), words(state, _CIELAB, count=3)
    if p_value:
        return grey(p_value[0])
    return srgb(cielab) if cielab else (0, 0, 0)


def _rectangle(state: DataSet) -> Rectangle:
    left, right, top, bottom = (_one(state, tag) for tag in _EDGES)
    return Rectangle(left, right, top, bottom)


def _circle(state: DataSet) -> Circle:
    radius = _one(state, _RADIUS)
    center = integers(state, _CENTER, count=2, limit=_LIMIT_PIXELS)
    if not center:
        raise malformed(_CENTER)
    if radius < 0:
        raise malformed(_RADIUS, "is out of range")
    return Circle(center[0], center[1], radius)


def _polygon(state: DataSet) -> Polygon:
    flat = integers(state, _VERTICES, limit=_LIMIT_PIXELS)
    if not 6 <= len(flat) <= 2 * _MAXIMUM_VERTICES or len(flat) % 2:
        raise malformed(_VERTICES)
    return Polygon(tuple(zip(flat[::2], flat[1::2], strict=True)))


def _bitmap(state: DataSet, description: PixelDescription) -> Overlay:
    group = integers(state, _GROUP, count=1, limit=0xFFFF)
    plane = plane_of_state(state, f"{group[0]:04X}", description) if group else None
    if plane is None:
        raise malformed(_GROUP)
    return replace(plane, is_region=False)  # all of it hides, not only its outline


def _one(state: DataSet, tag: str) -> int:
    found = integers(state, tag, count=1, limit=_LIMIT_PIXELS)
    if not found:
        raise malformed(tag)
    return found[0]


_OPENINGS: Mapping[str, Callable[[DataSet], Opening]] = {
    "RECTANGULAR": _rectangle,
    "CIRCULAR": _circle,
    "POLYGONAL": _polygon,
}
