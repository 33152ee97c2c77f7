"""Outlines of graphics as points of a picture, and what of them lies within it. Pure geometry. PS3.3 §C.10.5.1.2

Points may come from anywhere; what is drawn of them is cut to the picture first, as drawing what nobody sees takes
as long as drawing it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from gateway.pixels.displayed_area import Box, Point

_STEPS = 8  # of a curve between two of its points
_CORNERS = 180  # of a round shape


def circle(points: Sequence[Point]) -> list[Point]:
    """Around the first point through the second."""
    (x, y), (other_x, other_y) = points
    radius = math.hypot(other_x - x, other_y - y)
    return _round((x, y), (radius, 0.0), (0.0, radius))


def ellipse(points: Sequence[Point]) -> list[Point]:
    """With the ends of the major axis, then those of the minor one."""
    (left, right, top, bottom) = points
    center = (left[0] + right[0]) / 2, (left[1] + right[1]) / 2
    major = (right[0] - left[0]) / 2, (right[1] - left[1]) / 2
    minor = (bottom[0] - top[0]) / 2, (bottom[1] - top[1]) / 2
    return _round(center, major, minor)


def interpolated(points: Sequence[Point]) -> list[Point]:
    """A smooth curve through all points (Catmull-Rom), closed when the last one is the first."""
    if len(points) < 3:
        return list(points)
    is_closed = points[0] == points[-1]
    before, after = (points[-2], points[1]) if is_closed else (points[0], points[-1])
    known = [before, *points, after]
    curve = [points[0]]
    for at in range(1, len(known) - 2):
        near = known[at - 1 : at + 3]
        curve += [_between(near, step / _STEPS) for step in range(1, _STEPS + 1)]
    return curve


def clipped_line(start: Point, end: Point, bounds: Box) -> tuple[Point, Point] | None:
    """The part of a line that lies within ``bounds``; None when none does. Liang and Barsky"""
    dx, dy = end[0] - start[0], end[1] - start[1]
    first, last = 0.0, 1.0
    for change, room in (
        (-dx, start[0] - bounds[0]),
        (dx, bounds[2] - start[0]),
        (-dy, start[1] - bounds[1]),
        (dy, bounds[3] - start[1]),
    ):
        if change == 0:
            if room < 0:
                return None
        elif change < 0:
            first = max(first, room / change)
        else:
            last = min(last, room / change)
    if first > last:
        return None
    return (start[0] + first * dx, start[1] + first * dy), (start[0] + last * dx, start[1] + last * dy)


def clipped_polygon(points: Sequence[Point], bounds: Box) -> list[Point]:
    """The part of a polygon that lies within ``bounds``. Sutherland and Hodgman"""
    left, top, right, bottom = bounds
    sides: Sequence[tuple[int, float, Callable[[float, float], bool]]] = (
        (0, left, float.__ge__),
        (0, right, float.__le__),
        (1, top, float.__ge__),
        (1, bottom, float.__le__),
    )
    inside = list(points)
    for axis, edge, holds in sides:
        kept: list[Point] = []
        for point, following in zip(inside, [*inside[1:], *inside[:1]], strict=True):
            if holds(point[axis], edge):
                kept.append(point)
            if holds(point[axis], edge) != holds(following[axis], edge):
                kept.append(_crossing(point, following, axis, edge))
        inside = kept
    return inside


def _crossing(point: Point, following: Point, axis: int, edge: float) -> Point:
    part = (edge - point[axis]) / (following[axis] - point[axis])
    other = point[1 - axis] + part * (following[1 - axis] - point[1 - axis])
    return (edge, other) if axis == 0 else (other, edge)


def _round(center: Point, major: Point, minor: Point) -> list[Point]:
    angles = [2 * math.pi * number / _CORNERS for number in range(_CORNERS)]
    points = [
        (
            center[0] + major[0] * math.cos(angle) + minor[0] * math.sin(angle),
            center[1] + major[1] * math.cos(angle) + minor[1] * math.sin(angle),
        )
        for angle in angles
    ]
    return [*points, points[0]]


def _between(near: Sequence[Point], part: float) -> Point:
    """Between the second and the third of four points."""
    squared, cubed = part * part, part * part * part
    factors = (
        (-cubed + 2 * squared - part) / 2,
        (3 * cubed - 5 * squared + 2) / 2,
        (-3 * cubed + 4 * squared + part) / 2,
        (cubed - squared) / 2,
    )
    return (
        sum(factor * point[0] for factor, point in zip(factors, near, strict=True)),
        sum(factor * point[1] for factor, point in zip(factors, near, strict=True)),
    )
