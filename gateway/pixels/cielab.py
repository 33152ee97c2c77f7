"""Colours of DICOM's CIELab encoding as sRGB. Pure. PS3.3 §C.10.7.1.1"""

from __future__ import annotations

from collections.abc import Sequence

Colour = tuple[int, int, int]
"""Red, green and blue of 8 bits each."""

_WHITE = (0.96422, 1.0, 0.82521)  # D50, to which PCS values refer
# From XYZ of D50 to linear sRGB, adapted after Bradford.
_TO_SRGB = (
    (3.1338561, -1.6168667, -0.4906146),
    (-0.9787684, 1.9161415, 0.0334540),
    (0.0719453, -0.2289914, 1.4052427),
)


def srgb(cielab: Sequence[int]) -> Colour:
    """The sRGB of L*, a* and b*, each of 16 bits: L* from 0 to 100, a* and b* from -128 to 127."""
    lightness, a, b = cielab[0] / 65535 * 100, cielab[1] / 257 - 128, cielab[2] / 257 - 128
    y = (lightness + 16) / 116
    xyz = [white * _cubed(value) for white, value in zip(_WHITE, (y + a / 500, y, y - b / 200), strict=True)]
    red, green, blue = (
        _encoded(sum(factor * value for factor, value in zip(row, xyz, strict=True))) for row in _TO_SRGB
    )
    return red, green, blue


def grey(p_value: int) -> Colour:
    """The grey of a P-Value of 16 bits."""
    level = (p_value + 128) // 257
    return level, level, level


def _cubed(value: float) -> float:
    return value**3 if value > 6 / 29 else 3 * (6 / 29) ** 2 * (value - 4 / 29)


def _encoded(linear: float) -> int:
    """A linear component as 8 bits. IEC 61966-2-1"""
    clipped = min(1.0, max(0.0, linear))
    shown = 12.92 * clipped if clipped <= 0.0031308 else 1.055 * clipped ** (1 / 2.4) - 0.055
    return round(shown * 255)
