"""Our picture of a generated file beside those of the judges, and what is demanded of it."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np

from gateway.pixels.render import render
from storage.errors import GatewayError
from tests.gateway.pixels import dcmtk
from tests.gateway.pixels.asked import WAYS, Asked
from tests.gateway.pixels.part10 import Source, handed_over, read
from tests.gateway.pixels.reference import farthest, psnr_db
from tests.gateway.pixels.specimens import Specimen
from tests.gateway.pixels.synthetic import picture_of

# Half a grey level is rounding. Colours are mixed from rounded samples, and those of more than 8 bits are cut off where
# there is no table of them.
GREY_LEVELS, COLOUR_LEVELS = 0.5 + 1e-6, 1.0
# DCMTK rounds down where we round to the nearest grey, and mixes YBR in whole numbers.
DCMTK_GREY_LEVELS, DCMTK_COLOUR_LEVELS = 1.0, 2.0
SAME_CODESTREAM_DB = 40.0
DEFAULT = WAYS[0]


@dataclass(frozen=True)
class Likeness:
    """How near two pictures are: PSNR, and the largest difference in grey levels."""

    db: float
    levels: float

    @classmethod
    def of(cls, ours: np.ndarray, theirs: np.ndarray) -> Likeness:
        return cls(psnr_db(ours, theirs), farthest(ours, theirs))

    def __str__(self) -> str:
        return "exact" if math.isinf(self.db) else f"{self.db:.1f} dB"


@dataclass(frozen=True)
class Verdict:
    """What came of a specimen. refusal: the class and reason of the error, instead of a picture."""

    specimen: Specimen
    refusal: tuple[type[GatewayError], str] | None = None
    reference: Likeness | None = None
    dcmtk: Likeness | None = None

    def check(self) -> None:
        """Fail unless the picture is what both judges have."""
        is_grey = self.specimen.of.photometric.startswith("MONOCHROME")
        assert self.reference is not None
        if math.isinf(self.specimen.least_db):
            assert self.reference.levels <= self._levels(is_grey)
        else:
            assert self.reference.db >= self.specimen.least_db
        if self.dcmtk is None:
            return
        if math.isinf(self.specimen.least_db):
            assert self.dcmtk.levels <= (DCMTK_GREY_LEVELS if is_grey else DCMTK_COLOUR_LEVELS)
        else:
            assert self.dcmtk.db >= SAME_CODESTREAM_DB

    def _levels(self, is_grey: bool) -> float:
        is_scaled = DEFAULT.is_scaled(self.specimen.judged(), 1)  # pixels that are not square
        return GREY_LEVELS if is_grey and not is_scaled else COLOUR_LEVELS


def picture(source: Source, frame_number: int, asked: Asked, stored: np.ndarray) -> np.ndarray:
    """The gateway's own rendering of one frame of a file, as an array."""
    options = asked.options(source.data_set, frame_number, stored)
    frame = source.frames[frame_number - 1]
    return picture_of(render(source.metadata, source.transfer_syntax_uid, frame_number, frame, options))


@cache
def opened(path: Path) -> Source:
    return handed_over(read(path))


@cache
def verdict(specimen: Specimen, folder: Path) -> Verdict:
    """Make the file in ``folder``, render it, and ask the judges."""
    path, subject = specimen.write(folder), specimen.of
    source = opened(path)
    try:
        ours = picture(source, 1, DEFAULT, subject.stored)
    except GatewayError as error:
        return Verdict(specimen, refusal=(type(error), error.reason))
    expected = DEFAULT.expected(specimen.judged(), 1, subject.stored)
    options = dcmtk.options(source.data_set, 1) if specimen.is_judged else None
    theirs = dcmtk.picture(path, 1, *options) if options is not None else None
    if theirs is not None and theirs.shape[:2] != ours.shape[:2]:  # it does not stretch pixels
        theirs = None
    return Verdict(
        specimen,
        reference=Likeness.of(ours, expected),
        dcmtk=None if theirs is None else Likeness.of(ours, theirs),
    )
