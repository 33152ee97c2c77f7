"""DisplayedArea: the part of an image that a presentation state shows, how it is turned, and how large it is to be.

Pure geometry. Points of an image count from the top left corner of its first pixel, so that pixel ends at 1, 1.
PS3.3 §C.10.4, §C.10.6
"""

from __future__ import annotations

import enum
from dataclasses import dataclass

from gateway.pixels.description import MAXIMUM_FRAME_PIXELS
from gateway.pixels.elements import DataSet
from gateway.pixels.references import first_applying
from gateway.pixels.state_elements import code, integers, is_present, items, malformed, numbers
from storage.errors import TooLarge

_LIMIT_PIXELS = 1_000_000
_SELECTION = "0070005A"
_TOP_LEFT, _BOTTOM_RIGHT = "00700052", "00700053"
_MODE, _SPACING, _ASPECT_RATIO, _MAGNIFICATION = "00700100", "00700101", "00700102", "00700103"
_ROTATION, _FLIP = "00700042", "00700041"

Point = tuple[float, float]
Box = tuple[float, float, float, float]
"""Left, top, right and bottom."""


class SizeMode(enum.Enum):
    """How large the area is shown. TRUE SIZE fits, too: no one knows how large the pixels of a browser are."""

    SCALE_TO_FIT = "SCALE TO FIT"
    TRUE_SIZE = "TRUE SIZE"
    MAGNIFY = "MAGNIFY"


_MODES = {mode.value: mode for mode in SizeMode}
_FLIPS = {"Y": True, "N": False}


@dataclass(frozen=True, slots=True)
class DisplayedArea:
    """Columns and rows of the image from ``left`` and ``top`` to before ``right`` and ``bottom``; more than the image
    has is empty. It is turned clockwise first, then flipped from left to right.

    quarter_turns: 0 to 3. magnification: pixels of the picture for one of the image, along a side; None to fit.
    pixel_aspect: height of a pixel of the image divided by its width; None for what the image says.
    """

    left: int
    top: int
    right: int
    bottom: int
    quarter_turns: int = 0
    is_flipped: bool = False
    magnification: float | None = None
    pixel_aspect: float | None = None

    @property
    def size(self) -> tuple[int, int]:
        """Width and height when it is turned, in pixels of the image."""
        sides = self.right - self.left, self.bottom - self.top
        return sides[::-1] if self.quarter_turns % 2 else sides

    def turned(self, point: Point) -> Point:
        """Where a point of the image stands, from the top left corner of the area as it is shown."""
        x, y = point[0] - self.left, point[1] - self.top
        width, height = self.right - self.left, self.bottom - self.top
        for _ in range(self.quarter_turns):
            x, y, width, height = height - y, x, height, width
        return (width - x if self.is_flipped else x), y


def displayed_area(state: DataSet, sop_instance_uid: str, frame_number: int, size: tuple[int, int]) -> DisplayedArea:
    """What a state shows of a frame. size: columns and rows of the image, which are shown when the state says nothing.

    Raises Undecodable, and TooLarge for an area beyond the limit of a frame.
    """
    item = first_applying(items(state, _SELECTION), sop_instance_uid, frame_number)
    left, top, right, bottom = _corners(item) if item else (0, 0, *size)
    if (right - left) * (bottom - top) > MAXIMUM_FRAME_PIXELS:
        raise TooLarge("The displayed area has too many pixels")
    rotation = integers(state, _ROTATION, count=1, limit=270) or (0,)
    if rotation[0] not in (0, 90, 180, 270):
        raise malformed(_ROTATION)
    return DisplayedArea(
        left,
        top,
        right,
        bottom,
        quarter_turns=rotation[0] // 90,
        is_flipped=code(state, _FLIP, _FLIPS, "N"),
        magnification=_magnification(item) if item else None,
        pixel_aspect=_pixel_aspect(item),
    )


def _corners(item: DataSet) -> tuple[int, int, int, int]:
    """Whichever corner of the image the state names as top left: after a turn it is another one."""
    pairs = []
    for tag in (_TOP_LEFT, _BOTTOM_RIGHT):
        pair = integers(item, tag, count=2, limit=_LIMIT_PIXELS)
        if not pair:
            raise malformed(tag)
        pairs.append(pair)
    (x, y), (other_x, other_y) = pairs
    return min(x, other_x) - 1, min(y, other_y) - 1, max(x, other_x), max(y, other_y)


def _magnification(item: DataSet) -> float | None:
    if code(item, _MODE, _MODES) is not SizeMode.MAGNIFY:
        return None
    ratio = numbers(item, _MAGNIFICATION, count=1, limit=1000.0)
    if not ratio or ratio[0] < 0.001:
        raise malformed(_MAGNIFICATION)
    return ratio[0]


def _pixel_aspect(item: DataSet) -> float | None:
    """From the spacing, or the ratio that stands instead of it; rather equal sides are equal."""
    tag = next((tag for tag in (_SPACING, _ASPECT_RATIO) if is_present(item, tag)), "")
    if not tag:
        return None
    height, width = numbers(item, tag, count=2, limit=2**31) or (0.0, 0.0)
    if height <= 0 or width <= 0 or not 0.05 <= height / width <= 20:
        raise malformed(tag, "is out of range")
    aspect = height / width
    return aspect if abs(aspect - 1) > 0.005 else 1.0


@dataclass(frozen=True, slots=True)
class Placement:
    """Where points come to stand in a picture.

    box: what the picture shows of the area, in pixels of the image as the area is turned. size: of the picture.
    is_mirrored: from left to right, and from top to bottom, as the region of a viewport may ask.
    """

    area: DisplayedArea
    box: Box
    size: tuple[int, int]
    is_mirrored: tuple[bool, bool] = (False, False)

    def of_pixel(self, point: Point) -> Point:
        """The place of a point of the image."""
        return self._in_picture(self.area.turned(point))

    def of_fraction(self, point: Point) -> Point:
        """The place of a point of the displayed area as it is shown, from 0, 0 to 1, 1."""
        width, height = self.area.size
        return self._in_picture((point[0] * width, point[1] * height))

    def _in_picture(self, point: Point) -> Point:
        left, top, right, bottom = self.box
        x = (point[0] - left) / (right - left) * self.size[0]
        y = (point[1] - top) / (bottom - top) * self.size[1]
        return (self.size[0] - x if self.is_mirrored[0] else x), (self.size[1] - y if self.is_mirrored[1] else y)
