"""Planes: overlays drawn upon a picture. Graphics as they are; of a region of interest only the outline, so that it
hides nothing. PS3.3 §C.9.2
"""

from __future__ import annotations

import numpy as np

from gateway.pixels.native import Pixels
from gateway.pixels.overlays import Overlay

_WHITE = 255


def points_of(overlay: Overlay) -> Pixels:
    """(rows, columns) of 0 and 1, of an overlay that is not embedded."""
    count = overlay.rows * overlay.columns
    values = np.unpackbits(np.frombuffer(overlay.bits, np.uint8), count=count, bitorder="little")
    return values.reshape(overlay.rows, overlay.columns)


def draw(shown: Pixels, overlay: Overlay, points: Pixels) -> None:
    """Draw a plane white into a picture of the image's size; what lies outside is left out.

    points: no more rows and columns than the plane has; of one that is embedded there are fewer when it says that it
    is larger than the image.
    """
    top, left = max(0, overlay.top), max(0, overlay.left)
    bottom = min(shown.shape[0], overlay.top + points.shape[0])
    right = min(shown.shape[1], overlay.left + points.shape[1])
    if top >= bottom or left >= right:
        return
    if overlay.is_region:
        points = _outline(points)
    part = points[top - overlay.top : bottom - overlay.top, left - overlay.left : right - overlay.left]
    shown[top:bottom, left:right][part != 0] = _WHITE


def _outline(points: Pixels) -> Pixels:
    """The points of an area that have a neighbour outside."""
    around = np.pad(points != 0, 1)
    inner = around[:-2, 1:-1] & around[2:, 1:-1] & around[1:-1, :-2] & around[1:-1, 2:]
    outline: Pixels = (points != 0) & ~inner
    return outline
