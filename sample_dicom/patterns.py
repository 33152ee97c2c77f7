"""Pictures that are not anatomy: colour bars, a clock, a fundus, an ultrasound sector. No text in any of them.

Every picture carries the triangle of ``phantoms.mark_upper_right``; grey and colour wedges grow from left to right.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
from phantoms import FloatArray, averaged, mark_upper_right, noise

ByteArray = npt.NDArray[np.uint8]
Colour = tuple[int, int, int]

WHITE, BLACK = (255, 255, 255), (0, 0, 0)
BARS: tuple[Colour, ...] = (
    WHITE, (255, 255, 0), (0, 255, 255), (0, 255, 0), (255, 0, 255), (255, 0, 0), (0, 0, 255), BLACK,
)  # fmt: skip
PATCHES: tuple[Colour, ...] = (
    (115, 82, 68), (194, 150, 130), (98, 122, 157), (87, 108, 67), (133, 128, 177), (103, 189, 170),
    (214, 126, 44), (80, 91, 166), (193, 90, 99), (94, 60, 108), (157, 188, 64), (224, 163, 46),
    (56, 61, 150), (70, 148, 73), (175, 54, 60), (231, 199, 31), (187, 86, 149), (8, 133, 161),
)  # fmt: skip


def bytes_of(picture: FloatArray) -> ByteArray:
    """Values rounded and limited to 0..255."""
    return np.clip(np.round(picture), 0, 255).astype(np.uint8)


def wedge(columns: int, steps: int) -> npt.NDArray[np.int64]:
    """Grey from black on the left to white on the right in ``steps`` equal steps. (columns,)"""
    return (np.arange(columns) * steps // columns) * 255 // (steps - 1)


def colour_bars(rows: int, columns: int) -> ByteArray:
    """Eight bars from white to black, an arrow that points up, a smooth and a stepped wedge. (rows, columns, 3)"""
    picture = np.zeros((rows, columns, 3), np.uint8)
    picture[:] = np.asarray(BARS, np.uint8)[np.arange(columns) * len(BARS) // columns]
    middle, floor = rows // 2, rows * 3 // 4
    picture[middle:floor] = 96
    across = np.abs(np.arange(columns) - columns // 4)[None, :]
    down = np.arange(floor - middle)[:, None]
    head = (down > 4) & (across < (down - 4)) & (down < 26)
    shaft = (down >= 26) & (down < floor - middle - 5) & (across < 8)
    picture[middle:floor][head | shaft] = WHITE
    picture[floor : (floor + rows) // 2] = wedge(columns, 256)[None, :, None]
    picture[(floor + rows) // 2 :] = wedge(columns, 11)[None, :, None]
    mark_upper_right(picture[middle:floor], (255, 128, 0), 24, 6)
    return picture


def colour_checker(rows: int, columns: int) -> ByteArray:
    """Eighteen patches of natural colours and a row of greys from black to white. (rows, columns, 3)"""
    picture = np.full((rows, columns, 3), 32, np.uint8)
    height, width, gap = rows // 4, columns // 6, 4
    greys = tuple((level, level, level) for level in (0, 51, 102, 153, 204, 255))
    for number, colour in enumerate(PATCHES + greys):
        top, left = number // 6 * height, number % 6 * width
        picture[top + gap : top + height - gap, left + gap : left + width - gap] = colour
    mark_upper_right(picture, WHITE, 16, gap)
    return picture


def clock(rows: int, columns: int, hour: int, hours: int = 8, background: Colour = (24, 32, 56)) -> ByteArray:
    """A dial of ``hours`` whose hand turns clockwise from the top with ``hour``; as many dots below. (rows, columns, 3)

    A frame that is out of order, missing or turned is seen at once.
    """
    scale = 3
    down, across = np.mgrid[0 : rows * scale, 0 : columns * scale] / scale
    y, x = down - rows * 0.45, across - columns / 2
    distance, radius = np.hypot(x, y), min(rows, columns) * 0.38
    picture = np.empty((rows * scale, columns * scale, 3))
    picture[:] = background
    picture[distance <= radius] = (236, 232, 216)
    picture[(distance <= radius) & (distance > radius * 0.93)] = (64, 64, 72)
    for mark in range(hours):
        angle = 2 * math.pi * mark / hours
        near = np.hypot(x - 0.8 * radius * math.sin(angle), y + 0.8 * radius * math.cos(angle))
        picture[near < radius * (0.10 if mark == 0 else 0.05)] = (200, 40, 32) if mark == 0 else (64, 64, 72)
    angle = 2 * math.pi * hour / hours
    along = x * math.sin(angle) - y * math.cos(angle)
    beside = np.abs(x * math.cos(angle) + y * math.sin(angle))
    picture[(along > -0.12 * radius) & (along < 0.66 * radius) & (beside < 0.05 * radius)] = (24, 72, 176)
    for dot in range(hour + 1):
        near = np.hypot(across - columns * (dot + 1) / (hours + 1), down - rows * 0.93)
        picture[near < rows * 0.025] = (240, 176, 32)
    result = bytes_of(averaged(picture, scale))
    mark_upper_right(result, (64, 200, 96), rows // 8, 3)
    return result


def rings(rows: int, columns: int, pixel_height: float) -> ByteArray:
    """Rings that are round where a pixel is ``pixel_height`` times as high as wide. (rows, columns)"""
    scale = 3
    down, across = np.mgrid[0 : rows * scale, 0 : columns * scale] / scale
    distance = np.hypot(across - columns / 2, (down - rows / 2) * pixel_height)
    limit = min(rows * pixel_height, columns) / 2
    picture = np.where(np.mod(distance, limit / 4) < limit / 8, 210.0, 70.0)
    picture[distance > limit * 0.96] = 24
    picture[(across < columns / 2) & (distance <= limit / 8)] = 0
    picture[(across >= columns / 2) & (distance <= limit / 8)] = 255
    result = bytes_of(averaged(picture, scale))
    mark_upper_right(result, 255, rows // 6, 4)
    return result


def fundus(rows: int, columns: int) -> ByteArray:
    """A left eye's fundus: optic disc on the left of the picture, macula right of it, vessels. (rows, columns, 3)"""
    down, across = np.mgrid[0:rows, 0:columns].astype(np.float64)
    size = min(rows, columns) / 2
    y, x = (down - rows / 2) / size, (across - columns / 2) / size
    light = 1 - 0.45 * (x * x + y * y)
    picture = np.stack([215 * light, 98 * light - 12 * x, 44 * light + 6 * y], axis=2)
    macula = np.clip(1 - np.hypot(x - 0.22, y - 0.04) / 0.2, 0, 1)[..., None]
    picture -= macula * np.array([90, 60, 26])
    disc = np.hypot(x + 0.42, (y + 0.02) * 0.9)
    for turn, width in ((0.55, 0.022), (0.30, 0.014), (0.85, 0.016)):
        for side in (-1, 1):
            for reach, colour in ((1.0, (150, 28, 20)), (0.86, (118, 18, 24))):
                run = np.clip(x + 0.42, 0, None)
                curve = side * turn * reach * np.sqrt(run) * (1 + 0.05 * np.sin(9 * run + 5 * turn))
                picture[(np.abs(y + 0.02 - curve) < width * (1.25 - 0.5 * run)) & (x > -0.42)] = colour
                curve = side * turn * reach * 0.9 * np.sqrt(np.clip(-x - 0.42, 0, None))
                picture[(np.abs(y + 0.02 - curve) < width * 0.8) & (x < -0.42)] = colour
    picture[disc < 0.15] = (246, 202, 128)
    picture[disc < 0.065] = (255, 238, 196)
    picture += noise((rows, columns, 3), 3.0, "fundus")
    picture[x * x + y * y > 0.94] = 6
    result = bytes_of(picture)
    mark_upper_right(result, (120, 220, 255), rows // 12, 6)
    return result


def perfusion(rows: int, columns: int) -> ByteArray:
    """A horseshoe of uptake that opens to the lower left, with a defect, above a wedge of all indexes. (rows, columns)

    The values are indexes into a palette.
    """
    down, across = np.mgrid[0:rows, 0:columns].astype(np.float64)
    y, x = (down - rows * 0.45) / (rows / 2), (across - columns / 2) / (columns / 2)
    distance, angle = np.hypot(x, y * 1.1), np.arctan2(y, x)
    ring = np.exp(-(((distance - 0.45) / 0.14) ** 2))
    opening = np.exp(-(((np.mod(angle - 2.2 + math.pi, 2 * math.pi) - math.pi) / 0.55) ** 2))
    defect = np.exp(-(((angle + 0.9) / 0.35) ** 2))
    picture = 14 + 225 * ring * (1 - 0.9 * opening) * (1 - 0.55 * defect) + 18 * np.exp(-distance)
    result = bytes_of(picture + noise((rows, columns), 2.5, "perfusion"))
    result[rows - rows // 10 :] = wedge(columns, 256)
    mark_upper_right(result, 255, rows // 10, 4)
    return result


def heat_palette() -> tuple[npt.NDArray[np.uint16], npt.NDArray[np.uint16], npt.NDArray[np.uint16]]:
    """Red, green and blue of 256 indexes with 16 bits: black, blue, magenta, orange, yellow, white."""
    at = (0, 50, 110, 165, 215, 255)
    channels = ((0, 20, 190, 250, 255, 255), (0, 0, 0, 120, 225, 255), (0, 150, 140, 10, 40, 255))
    red, green, blue = (
        np.round(np.interp(np.arange(256), at, channel) * 257).astype(np.uint16) for channel in channels
    )
    return red, green, blue


def sector_scan(rows: int, columns: int, phase: float, *, colour: bool = True) -> ByteArray:
    """One frame of an ultrasound sector: two chambers that beat, and flow in a colour box. (rows, columns, 3)

    phase: 0 ≤ phase < 1 of the heart beat. A round mark stands at the left of the apex, as scanners print it; a grey
    bar at the left and the flow bar at the right (red, towards the probe, above; blue below).
    """
    down, across = np.mgrid[0:rows, 0:columns].astype(np.float64)
    x, y = across - columns / 2, down - rows * 0.05
    depth, angle = np.hypot(x, y) / (rows * 0.9), np.arctan2(x, y)
    beat = 0.5 - 0.5 * math.cos(2 * math.pi * phase)
    tissue = 92 - 40 * depth + 26 * np.sin(22 * depth + 3 * angle) * (depth < 0.25)
    chambers = (
        (0.04, 0.46, 0.12 - 0.035 * beat, 0.20 - 0.05 * beat),  # ventricle
        (0.06, 0.80, 0.11 + 0.02 * beat, 0.10 + 0.02 * beat),  # atrium, below
        (-0.21, 0.56, 0.06 - 0.012 * beat, 0.15 - 0.03 * beat),
    )
    u, v = x / (rows * 0.9), y / (rows * 0.9)
    for left, deep, width, height in chambers:
        size = ((u - left) / width) ** 2 + ((v - deep) / height) ** 2
        tissue = np.where(size < 1.35, 150.0, tissue)
        tissue = np.where(size < 1.0, 8.0, tissue)
    swing = 0.05 + 0.05 * beat
    for side in (-1, 1):  # the valve between ventricle and atrium
        leaf = np.abs((v - 0.68) + side * (u - 0.05) * (0.2 + 3 * swing)) < 0.008
        tissue = np.where(leaf & (side * (u - 0.05) > 0) & (np.abs(u - 0.05) < 0.11), 210.0, tissue)
    speckle = 1 + noise((rows, columns), 0.30, "speckle") + noise((rows, columns), 0.06, f"frame {phase:.4f}")
    grey = np.clip(tissue * np.clip(speckle, 0.1, 2.2), 0, 255)
    picture = np.repeat(grey[..., None], 3, axis=2)
    if colour:
        picture = _with_flow(picture, u, v, beat)
    picture[(np.abs(angle) > 0.66) | (depth > 1) | (depth < 0.06)] = 0
    result = bytes_of(picture)
    result[12:108, 8:16] = wedge(96, 256)[::-1, None, None]
    if colour:
        result[12:60, columns - 16 : columns - 8] = np.linspace((255, 230, 60), (90, 0, 0), 48).astype(np.uint8)[
            :, None
        ]
        result[60:108, columns - 16 : columns - 8] = np.linspace((0, 0, 90), (60, 220, 255), 48).astype(np.uint8)[
            :, None
        ]
    result[np.hypot(across - columns * 0.36, down - rows * 0.06) < 5] = (60, 230, 120)
    mark_upper_right(result[:, : columns - 24], (200, 200, 200), 14, 6)
    return result


def _with_flow(picture: FloatArray, u: FloatArray, v: FloatArray, beat: float) -> FloatArray:
    inflow, outflow = 1 - beat, beat
    for left, deep, width, height, strength, colour in (
        (0.05, 0.58, 0.035, 0.17, inflow, np.array([255, 60, 10])),  # towards the probe: red
        (-0.02, 0.46, 0.030, 0.13, outflow, np.array([20, 90, 255])),  # away from it: blue
    ):
        share = np.clip(1.25 - ((u - left) / width) ** 2 - ((v - deep) / height) ** 2, 0, 1) * strength
        picture = picture * (1 - share[..., None]) + share[..., None] * colour
    edge = (np.abs(np.abs(u - 0.03) - 0.17) < 0.003) & (np.abs(v - 0.56) < 0.3)
    floor = (np.abs(np.abs(v - 0.56) - 0.3) < 0.003) & (np.abs(u - 0.03) < 0.17)
    picture[edge | floor] = (230, 230, 120)
    return picture
