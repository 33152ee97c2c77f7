"""Instances to send: small ones mostly, now and then large ones, and some that several senders send at once."""

from __future__ import annotations

import hashlib
import random
import threading
import zlib

from tests import synthetic
from tests.torture.history import Version

COLUMNS = 64
MIDDLE_EVERY, LARGE_EVERY = 40, 400
STUDY_INSTANCES = 120
CONTESTED_EVERY = 12
TAKES_OF_A_CONTEST = 9
IMAGE_COMMENTS = 0x00204000

Made = tuple[Version, bytes]
"""A version, and its Data Set as it is sent."""


def made(
    study: str,
    series: str,
    sop_instance: str,
    pixels: bytes,
    *,
    is_deflated: bool = False,
    extra: tuple[bytes, ...] = (),
) -> Made:
    """An image of whole rows of ``COLUMNS`` pixels; its Image Comments come from its pixels. extra: more elements."""
    frame = hashlib.sha256(pixels).hexdigest()
    syntax = synthetic.DEFLATED if is_deflated else synthetic.EXPLICIT
    marker = f"{frame[:16]} {syntax}"
    raw = synthetic.data_set(
        study,
        series,
        sop_instance,
        extra=(
            *extra,
            synthetic.element(IMAGE_COMMENTS, "LT", marker),
            *synthetic.image_elements(len(pixels) // COLUMNS, COLUMNS),
            synthetic.element(0x7FE00010, "OB", pixels),
        ),
    )
    if is_deflated:
        deflating = zlib.compressobj(wbits=-zlib.MAX_WBITS)
        raw = deflating.compress(raw) + deflating.flush()
        raw += bytes(len(raw) % 2)
    digest = hashlib.sha256(raw).hexdigest()
    return Version(study, series, sop_instance, syntax, digest, marker, frame), raw


def pixels_of(chance: random.Random, rows: int) -> bytes:
    """Noise that no other image has; of large ones the same piece again and again, as noise takes its time."""
    return chance.randbytes(16 * COLUMNS) * (rows // 16) + chance.randbytes(rows % 16 * COLUMNS)


class Contested:
    """Instances that are sent from everywhere at the same time. Thread-safe.

    Each has versions: other pixels under the same SOP Instance UID, in the same series or another study; or the same
    in another transfer syntax (R4, R5).
    """

    def __init__(self, seed: str, root: str) -> None:
        self._chance = random.Random(seed)
        self._root = root
        self._lock = threading.Lock()
        self._count = 0
        self._takes = 0
        self._versions: list[Made] = []

    def take(self) -> Made:
        """One of the versions of the instance of the hour."""
        with self._lock:
            if self._takes % TAKES_OF_A_CONTEST == 0:
                self._versions = self._renewed()
            self._takes += 1
            return self._chance.choice(self._versions)

    def _renewed(self) -> list[Made]:
        self._count += 1
        study = f"{self._root}.{self._count // STUDY_INSTANCES}"
        sop_instance = f"{self._root}.9.{self._count}"
        pixels, others = (pixels_of(self._chance, self._chance.randrange(16, 64)) for _ in range(2))
        first = made(study, f"{study}.1", sop_instance, pixels)
        kind = self._count % 4
        if kind == 0:
            return [first]
        if kind == 1:
            return [first, made(study, f"{study}.1", sop_instance, pixels, is_deflated=True)]
        elsewhere = study if kind == 2 else f"{study}.7"
        return [first, made(elsewhere, f"{elsewhere}.1", sop_instance, others)]


class Maker:
    """Instances of one sender, study after study. contested: what it sends now and then instead; None for never."""

    def __init__(self, seed: str, root: str, contested: Contested | None) -> None:
        self.chance = random.Random(seed)
        self._root = root
        self._contested = contested
        self._again: list[Made] = []
        self._count = 0

    def next(self) -> Made:
        """What to send now: something new, contested, or given back."""
        if self._again:
            return self._again.pop()
        if self._contested is not None and self.chance.randrange(CONTESTED_EVERY) == 0:
            return self._contested.take()
        return self.fresh()

    def fresh(self) -> Made:
        """A new instance."""
        self._count += 1
        rows = self.chance.randrange(16, 80)
        if self._count % LARGE_EVERY == 0:
            rows = self.chance.randrange(10_000, 32_000)
        elif self._count % MIDDLE_EVERY == 0:
            rows = self.chance.randrange(1000, 4000)
        study = f"{self._root}.{self._count // STUDY_INSTANCES}"
        series, sop_instance = f"{study}.{self._count % 2}", f"{self._root}.9.{self._count}"
        return made(study, series, sop_instance, pixels_of(self.chance, rows))

    def several(self, most: int) -> list[Made]:
        """As many as a request may have, of different SOP Instance UIDs."""
        found = (self.next() for _ in range(self.chance.randrange(1, most + 1)))
        return list({one[0].sop_instance: one for one in found}.values())

    def give_back(self, one: Made) -> None:
        """What was not acknowledged is sent once more, as modalities do, or is left to be whatever it is (R4, R8)."""
        if self.chance.random() < 0.7:
            self._again.append(one)
