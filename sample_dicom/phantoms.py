"""Anatomy made of ellipsoids: a trunk for CT, a head for MR, a chest for projection radiography.

Coordinates are the patient's, in mm: x to the left, y to the back, z to the head (PS3.3 §C.7.6.2.1.1), so a picture is
right when the header that locates it is right. Everything is reproducible: no generator whose stream may change.
"""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float64]
BoolArray = npt.NDArray[np.bool_]
Point = tuple[float, float, float]

ENDLESS = 1e6  # mm: an ellipsoid that long is a cylinder
OVERSAMPLING = 2  # samples per pixel and direction: edges without stairs


@dataclass(frozen=True, slots=True)
class Plane:
    """Where a picture lies in the patient: centre of its first pixel, the two directions, its grid. PS3.3 §C.7.6.2"""

    origin_mm: Point
    row_direction: Point
    column_direction: Point
    spacing_mm: float
    rows: int
    columns: int

    @property
    def normal(self) -> Point:
        """The unit vector of growing slices: row direction x column direction."""
        return _floats(np.cross(self.row_direction, self.column_direction))

    def moved(self, distance_mm: float) -> Plane:
        """The parallel plane ``distance_mm`` along the normal."""
        origin = np.asarray(self.origin_mm) + distance_mm * np.asarray(self.normal)
        return Plane(
            _floats(origin), self.row_direction, self.column_direction, self.spacing_mm, self.rows, self.columns
        )

    def points(self, oversampling: int = OVERSAMPLING) -> tuple[FloatArray, FloatArray, FloatArray]:
        """x, y and z of every sample, each (rows * oversampling, columns * oversampling)."""
        down = _sample_positions(self.rows, oversampling) * self.spacing_mm
        along = _sample_positions(self.columns, oversampling) * self.spacing_mm
        x, y, z = (
            self.origin_mm[axis]
            + down[:, None] * self.column_direction[axis]
            + along[None, :] * self.row_direction[axis]
            for axis in range(3)
        )
        return x, y, z


def centred_plane(
    row_direction: Point, column_direction: Point, spacing_mm: float, grid: tuple[int, int], centre_mm: Point
) -> Plane:
    """The plane of ``grid`` (rows, columns) whose middle is ``centre_mm``."""
    rows, columns = grid
    back = np.asarray(row_direction) * ((columns - 1) / 2) + np.asarray(column_direction) * ((rows - 1) / 2)
    origin = np.asarray(centre_mm) - spacing_mm * back
    return Plane(_floats(np.round(origin, 4)), row_direction, column_direction, spacing_mm, rows, columns)


def _floats(vector: npt.ArrayLike) -> Point:
    x, y, z = (float(value) for value in np.asarray(vector))
    return x, y, z


def _sample_positions(count: int, oversampling: int) -> FloatArray:
    return (np.arange(count * oversampling) + 0.5) / oversampling - 0.5


def averaged(samples: FloatArray, oversampling: int = OVERSAMPLING) -> FloatArray:
    """Means of ``oversampling`` x ``oversampling`` blocks: (rows, columns[, channels])."""
    rows, columns = samples.shape[0] // oversampling, samples.shape[1] // oversampling
    blocks = samples.reshape(rows, oversampling, columns, oversampling, *samples.shape[2:])
    return np.asarray(blocks.mean(axis=(1, 3)))


def noise(shape: tuple[int, ...], sigma: float, seed: str) -> FloatArray:
    """Nearly normal noise, the same on every machine for one seed: sums of four bytes of SHAKE-256."""
    count = math.prod(shape)
    digest = hashlib.shake_256(seed.encode()).digest(4 * count)
    sums = np.frombuffer(digest, np.uint8).reshape(count, 4).astype(np.int64).sum(axis=1) - 510
    return np.asarray(sums * (sigma / 147.8)).reshape(shape)


def mark_upper_right(
    picture: npt.NDArray[np.generic], value: float | tuple[int, int, int], size: int, inset: int
) -> None:
    """Stamp a right-angled triangle whose right angle points to the upper right corner, in place.

    A picture that is mirrored or turned shows it elsewhere, or its right angle points elsewhere.
    """
    columns = picture.shape[1]
    for step in range(size):
        picture[inset + step, columns - inset - size + step : columns - inset] = value


@dataclass(frozen=True, slots=True)
class Ellipsoid:
    """A region with one value. turn: degrees about z; ripples: folds around z, as a brain has."""

    value: float
    centre: Point
    radii: Point
    turn: float = 0.0
    ripples: int = 0

    def contains(self, x: FloatArray, y: FloatArray, z: FloatArray) -> BoolArray:
        """Which points lie inside."""
        u, v, w = self._scaled(x, y, z)
        size = u * u + v * v + w * w
        if self.ripples:
            angle = np.arctan2(v, u)
            folds = np.cos(self.ripples * angle + 4 * w) + 0.6 * np.cos((self.ripples * 2 + 3) * angle - 6 * w)
            size = size * (1 + 0.13 * folds)
        return np.asarray(size <= 1.0)

    def thickness(self, x: FloatArray, z: FloatArray) -> FloatArray:
        """How many mm of it a ray along y meets."""
        u = (x - self.centre[0]) / self.radii[0]
        w = (z - self.centre[2]) / self.radii[2]
        return np.asarray(2 * self.radii[1] * np.sqrt(np.clip(1 - u * u - w * w, 0, None)))

    def _scaled(self, x: FloatArray, y: FloatArray, z: FloatArray) -> tuple[FloatArray, FloatArray, FloatArray]:
        cosine, sine = math.cos(math.radians(self.turn)), math.sin(math.radians(self.turn))
        dx, dy = x - self.centre[0], y - self.centre[1]
        return (
            (dx * cosine + dy * sine) / self.radii[0],
            (dy * cosine - dx * sine) / self.radii[1],
            (z - self.centre[2]) / self.radii[2],
        )


@dataclass(frozen=True, slots=True)
class Ribs:
    """Slanted bones in the wall of the chest: an elliptical shell, cut into bands that fall to the front."""

    value: float
    outer: tuple[float, float]
    inner: tuple[float, float]
    distance: float

    def contains(self, x: FloatArray, y: FloatArray, z: FloatArray) -> BoolArray:
        """Which points lie inside a rib."""
        inside = (x / self.outer[0]) ** 2 + (y / self.outer[1]) ** 2 <= 1
        outside = (x / self.inner[0]) ** 2 + (y / self.inner[1]) ** 2 >= 1
        phase = np.mod((z - 0.45 * y) / self.distance, 1.0)
        return np.asarray(inside & outside & (phase < 0.5) & (z > -0.5 * y - 25))


Shape = Ellipsoid | Ribs

LIVER = Ellipsoid(108, (-52, -4, -52), (80, 64, 62))
LIVER_LESION = Ellipsoid(48, (-78, -16, -46), (19, 16, 24))
LEFT_KIDNEY = Ellipsoid(185, (54, 44, -96), (22, 25, 44), turn=-20)

# Hounsfield units; later shapes are painted over earlier ones. Contrast medium fills aorta, heart and kidneys.
TRUNK: tuple[Shape, ...] = (
    Ellipsoid(-20, (0, 118, 0), (168, 12, ENDLESS)),  # the table: a shell, and foam in it
    Ellipsoid(-930, (0, 118, 0), (160, 7, ENDLESS)),
    Ellipsoid(-95, (0, 0, 0), (158, 106, ENDLESS)),  # fat under the skin
    Ellipsoid(52, (0, 0, 0), (146, 95, ENDLESS)),  # muscle
    Ribs(420, (139, 89), (129, 80), 34),
    Ellipsoid(-90, (0, 0, 0), (127, 78, ENDLESS)),  # fat of the belly
    Ellipsoid(40, (0, 10, 95), (34, 64, 120)),  # mediastinum
    Ellipsoid(-850, (-72, -2, 72), (50, 69, 112)),  # right lung
    Ellipsoid(-850, (74, -2, 78), (46, 67, 112)),  # left lung
    *(
        Ellipsoid(35, (side * (52 + 9 * turn), -30 + 14 * turn, 66), (4 + turn % 2, 3.5, 70), turn=15 * turn)
        for side in (-1, 1)
        for turn in range(5)
    ),  # vessels of the lungs
    *(Ellipsoid(35, (x, -40 + x * x / 400, -96), (14, 13, 34), turn=x) for x in (-84, -40, -6, 28, 62)),  # bowel
    *(Ellipsoid(-900, (x, -46 + x * x / 400, -98), (9, 6, 26), turn=x) for x in (-84, -6, 62)),  # and its air
    Ellipsoid(45, (26, -30, 50), (54, 42, 56)),  # heart, to the left
    Ellipsoid(215, (38, -24, 50), (24, 20, 34), turn=30),  # left ventricle
    Ellipsoid(150, (-4, -38, 52), (19, 16, 36)),  # right ventricle
    LIVER,
    LIVER_LESION,
    *(Ellipsoid(150, (-48 - 11 * step, 2 + 9 * step, -48 + 6 * step), (13, 3.2, 14), turn=40) for step in range(3)),
    Ellipsoid(30, (58, -26, -58), (42, 34, 44), turn=-20),  # stomach
    Ellipsoid(-960, (56, -44, -58), (27, 12, 32), turn=-12),  # its air rises to the front of a lying patient
    Ellipsoid(128, (102, 34, -58), (15, 34, 42), turn=18),  # spleen
    Ellipsoid(185, (-56, 46, -98), (21, 24, 44), turn=20),  # right kidney
    LEFT_KIDNEY,
    Ellipsoid(-60, (-50, 40, -98), (8, 9, 20)),
    Ellipsoid(-60, (48, 38, -96), (8, 9, 20)),
    Ellipsoid(450, (0, 46, 0), (21, 17, ENDLESS)),  # vertebral body: cortex, then marrow
    Ellipsoid(190, (0, 46, 0), (18.5, 14.5, ENDLESS)),
    Ellipsoid(400, (0, 66, 0), (25, 8, ENDLESS)),  # arch
    Ellipsoid(400, (0, 82, 0), (5, 12, ENDLESS)),  # spinous process
    Ellipsoid(25, (0, 64, 0), (9.5, 8, ENDLESS)),  # canal
    Ellipsoid(320, (21, 20, 0), (11.5, 11.5, ENDLESS)),  # aorta, left of the spine
    Ellipsoid(140, (-20, 18, 0), (13, 10, ENDLESS)),  # inferior vena cava
    Ellipsoid(330, (0, -84, 90), (17, 5, 78)),  # sternum
)

# Signal of a T1-weighted spin echo, arbitrary units.
HEAD: tuple[Shape, ...] = (
    Ellipsoid(560, (0, -101, -38), (13, 18, 22)),  # nose, to the front
    Ellipsoid(480, (-77, 2, -32), (9, 14, 24)),  # ears
    Ellipsoid(480, (77, 2, -32), (9, 14, 24)),
    Ellipsoid(820, (0, 0, 0), (77, 98, 104)),  # scalp
    Ellipsoid(70, (0, 0, 0), (71, 92, 98)),  # skull
    Ellipsoid(760, (-33, -80, -36), (16, 16, 17)),  # fat of the orbits
    Ellipsoid(760, (33, -80, -36), (16, 16, 17)),
    Ellipsoid(170, (-33, -84, -36), (11.5, 11.5, 12)),  # eyes
    Ellipsoid(170, (33, -84, -36), (11.5, 11.5, 12)),
    Ellipsoid(150, (0, 2, 2), (65, 84, 90)),  # cerebrospinal fluid
    Ellipsoid(420, (0, 2, 2), (61, 80, 86), ripples=9),  # cortex
    Ellipsoid(640, (-29, 2, 2), (26, 68, 68), ripples=8),  # white matter
    Ellipsoid(640, (29, 2, 2), (26, 68, 68), ripples=8),
    Ellipsoid(130, (0, 0, 30), (1.6, 84, 80)),  # fissure
    Ellipsoid(650, (0, -2, 8), (22, 34, 9)),  # corpus callosum
    Ellipsoid(470, (-21, -6, -2), (9, 15, 13), turn=-18),  # basal ganglia
    Ellipsoid(470, (21, -6, -2), (9, 15, 13), turn=18),
    Ellipsoid(120, (-11, -14, 10), (4.5, 20, 15), turn=-20),  # ventricles, the left one wider
    Ellipsoid(120, (13, -12, 10), (8, 24, 19), turn=20),
    Ellipsoid(120, (-17, 26, 8), (4.5, 17, 10), turn=24),
    Ellipsoid(120, (20, 27, 8), (7, 20, 13), turn=-24),
    Ellipsoid(430, (0, 54, -42), (44, 28, 24), ripples=11),  # cerebellum
    Ellipsoid(540, (0, 24, -48), (14, 15, 40)),  # brain stem
    Ellipsoid(330, (41, 26, 24), (17, 16, 15)),  # a lesion on the left: dark rim, bright core
    Ellipsoid(1000, (41, 26, 24), (11, 10, 10)),
)

# Attenuation per mm; added along the ray, not painted over.
CHEST: tuple[Ellipsoid, ...] = (
    Ellipsoid(0.020, (0, 0, -70), (150, 100, 230)),
    Ellipsoid(0.016, (0, 0, 66), (186, 44, 84)),  # shoulders
    Ellipsoid(0.020, (0, 0, 190), (42, 50, 90)),  # neck
    Ellipsoid(-0.0165, (-68, 0, 5), (55, 78, 125)),  # lungs; the right one is wider and ends higher
    Ellipsoid(-0.0165, (72, 0, 0), (49, 78, 130)),
    Ellipsoid(0.017, (32, 0, -58), (60, 48, 50)),  # heart
    Ellipsoid(0.014, (12, 0, -10), (26, 34, 60)),
    Ellipsoid(0.016, (24, 0, 42), (16, 26, 18)),  # arch of the aorta
    Ellipsoid(0.018, (-64, 0, -152), (86, 62, 74)),  # liver under the right dome
    Ellipsoid(0.014, (70, 0, -165), (72, 60, 72)),
    Ellipsoid(-0.015, (66, 0, -108), (26, 22, 13)),  # air of the stomach under the left dome
    Ellipsoid(-0.010, (0, 0, 120), (8, 16, 75)),  # windpipe
)


def painted(shapes: tuple[Shape, ...], plane: Plane, background: float) -> FloatArray:
    """Mean value of every pixel of ``plane``; later shapes hide earlier ones. (rows, columns)"""
    x, y, z = plane.points()
    samples = np.full(x.shape, background, np.float64)
    for shape in shapes:
        samples[shape.contains(x, y, z)] = shape.value
    return averaged(samples)


def covered(shape: Shape, plane: Plane) -> BoolArray:
    """Pixels of ``plane`` of which at least half lies in ``shape``. (rows, columns)"""
    return np.asarray(averaged(shape.contains(*plane.points()).astype(np.float64)) >= 0.5)


def chest_attenuation(plane: Plane) -> FloatArray:
    """Attenuation of the chest from the front for every pixel of a coronal ``plane``. (rows, columns)"""
    x, _, z = plane.points()
    total = np.zeros(x.shape)
    for organ in CHEST:
        total += organ.value * organ.thickness(x, z)
    total += _bones(x, z)
    return averaged(np.clip(total, 0, None))


def _bones(x: FloatArray, z: FloatArray) -> FloatArray:
    across = np.abs(x)
    reach = np.sqrt(np.clip(1 - (z + 30) ** 2 / 190**2, 0, None))
    edge = np.clip(1 - (across / (126 * reach + 1e-9)) ** 6, 0, 1)
    total = np.zeros(x.shape)
    for rib in range(9):
        behind = 98 - 27 * rib - 0.10 * across - 30 * (across / 120) ** 3 + 16 * np.sin(across / 40)
        front = 40 - 27 * rib + 0.42 * across - 44 * (across / 120) ** 2
        total += 0.42 * edge * (np.abs(z - behind) < 6.5) * (across > 14)
        total += 0.20 * edge * (np.abs(z - front) < 7.0) * (across > 46)
    spine = (across < 17) * (0.45 + 0.35 * (np.mod(z, 26) > 5)) + 0.4 * (across < 4) * (np.mod(z + 8, 26) < 12)
    collar = 0.6 * (np.abs(z - 112 - 0.16 * across + 12 * np.sin(across / 45)) < 6.5) * (across > 14) * (across < 150)
    return np.asarray(total + spine + collar)
