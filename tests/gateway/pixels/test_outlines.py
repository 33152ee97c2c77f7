from __future__ import annotations

import itertools
import math

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from gateway.pixels.outlines import circle, clipped_line, clipped_polygon, ellipse, interpolated

BOUNDS = (-10.0, 0.0, 30.0, 20.0)
NUMBERS = st.integers(-60, 60).map(float) | st.floats(-1e9, 1e9)
POINTS = st.tuples(NUMBERS, NUMBERS)
SLACK = 1e-3


def is_within(point, slack=SLACK):
    left, top, right, bottom = BOUNDS
    return left - slack <= point[0] <= right + slack and top - slack <= point[1] <= bottom + slack


def distance(point, start, end):
    """From a point to a line through two others."""
    dx, dy = end[0] - start[0], end[1] - start[1]
    return abs(dy * (point[0] - start[0]) - dx * (point[1] - start[1])) / (math.hypot(dx, dy) or 1)


@example((0.0, -2.9e-308), (1.0, -2.9e-308))
@given(POINTS, POINTS)
def test_what_is_left_of_a_line_lies_on_it_and_within(start, end):
    found = clipped_line(start, end, BOUNDS)
    if is_within(start, 0) and is_within(end, 0) and start != end:
        assert found is not None
    for point in found or ():
        assert is_within(point)
        assert distance(point, start, end) < 0.01 * max(1.0, math.hypot(*start) * 1e-6)


def test_a_line_within_stays_as_it_is_and_one_beside_is_left_out():
    assert clipped_line((0, 0), (5, 9), BOUNDS) == ((0, 0), (5, 9))
    assert clipped_line((-60, 10), (60, 10), BOUNDS) == ((-10, 10), (30, 10))
    for outside in (((-60, 1), (-20, 9)), ((0, -9), (9, -9)), ((40, 0), (29, 60)), ((50, 5), (50, 5))):
        assert clipped_line(*outside, BOUNDS) is None


def area(points):
    return abs(sum(x * v - u * y for (x, y), (u, v) in zip(points, [*points[1:], *points[:1]], strict=True))) / 2


@given(st.lists(POINTS, max_size=9))
def test_what_is_left_of_a_polygon_lies_within(points):
    assert all(map(is_within, clipped_polygon(points, BOUNDS)))


def test_a_polygon_is_cut_at_the_edges():
    assert area(clipped_polygon([(-99.0, -99.0), (99.0, -99.0), (99.0, 99.0), (-99.0, 99.0)], BOUNDS)) == 40 * 20
    assert area(clipped_polygon([(0.0, 5.0), (9.0, 5.0), (9.0, 9.0), (0.0, 9.0)], BOUNDS)) == 9 * 4
    assert clipped_polygon([(50.0, 5.0), (60.0, 5.0), (60.0, 9.0)], BOUNDS) == []


def test_round_shapes_keep_their_distance():
    assert {round(math.hypot(x - 3, y - 4), 9) for x, y in circle([(3, 4), (3, 9)])} == {5}
    for x, y in ellipse([(0, 0), (20, 0), (10, -3), (10, 3)]):
        assert math.isclose(((x - 10) / 10) ** 2 + (y / 3) ** 2, 1)


@pytest.mark.parametrize("is_closed", [True, False])
def test_a_curve_goes_through_its_points(is_closed):
    points = [(0.0, 0.0), (10.0, 5.0), (20.0, -5.0), (30.0, 0.0)] + [(0.0, 0.0)] * is_closed
    curve = interpolated(points)
    assert all(min(math.dist(point, other) for other in curve) < 1e-9 for point in points)
    assert (curve[0], curve[-1]) == (points[0], points[-1])
    assert max(math.dist(*pair) for pair in itertools.pairwise(curve)) < 8


def test_a_curve_of_two_points_is_a_line():
    assert interpolated([(0, 0), (4, 4)]) == [(0, 0), (4, 4)]
