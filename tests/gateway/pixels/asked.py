"""What may be asked of a picture, in the gateway's options, in a query, and as the reference computes it."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from pydicom.dataset import Dataset

from gateway.pixels.options import GIF, JPEG, PNG, Region, RenderOptions, Viewport, VoiFunction, Window
from tests.gateway.pixels.reference import (
    LINEAR,
    LINEAR_EXACT,
    SIGMOID,
    VoiWindow,
    averaged,
    fitted_size,
    interpolated,
    modality_values,
    natural_size,
    of_frame,
    presented,
    with_overlays,
)

_FUNCTIONS = {LINEAR: "linear", LINEAR_EXACT: "linear-exact", SIGMOID: "sigmoid"}


@dataclass(frozen=True)
class Asked:
    """One way to ask. function: of a window that suits the image. scale: how large the viewport is beside the region.

    region: left, top, width and height as parts of the image; the last two are negative to mirror. is_whole: the ends
    of the region are rounded to pixels.
    """

    name: str
    media_type: str = PNG
    quality: int | None = None
    function: str = ""
    scale: float = 0.0
    region: tuple[float, float, float, float] | None = None

    def window(self, data_set: Dataset, frame_number: int, stored: np.ndarray) -> VoiWindow | None:
        """The window, in round numbers: the middle of the values, and half of their range."""
        if not self.function or stored.ndim == 3 or data_set.PhotometricInterpretation == "PALETTE COLOR":
            return None
        units = modality_values(stored, of_frame(data_set, frame_number))
        units = units[np.isfinite(units)]
        low, high = float(units.min()), float(units.max())
        return VoiWindow(math.floor((low + high) / 2), max(1, math.ceil((high - low) / 2)), self.function)

    def box(self, rows: int, columns: int) -> tuple[int, int, int, int] | None:
        """Left, top, width and height of the region in pixels."""
        if self.region is None:
            return None
        x, y, width, height = (round(part * side) for part, side in zip(self.region, (columns, rows) * 2, strict=True))
        return x, y, width or 1, height or 1

    def viewport(self, data_set: Dataset, frame_number: int) -> tuple[int, int] | None:
        """Its width and height; wider than the region is, so that the height decides."""
        if not self.scale:
            return None
        _, _, width, height = self.box(data_set.Rows, data_set.Columns) or (0, 0, data_set.Columns, data_set.Rows)
        width, height = natural_size(data_set, frame_number, abs(width), abs(height))
        return max(1, round(width * self.scale)) + (self.scale != 1), max(1, round(height * self.scale))

    def options(self, data_set: Dataset, frame_number: int, stored: np.ndarray) -> RenderOptions:
        """As the gateway's rendering takes it."""
        window, size = self.window(data_set, frame_number, stored), self.viewport(data_set, frame_number)
        box = self.box(data_set.Rows, data_set.Columns)
        return RenderOptions(
            self.media_type,
            quality=self.quality,
            window=window and Window(window.center, window.width, VoiFunction(window.function)),
            viewport=size and Viewport(*size, box and Region(*box)),
        )

    def query(self, data_set: Dataset, frame_number: int, stored: np.ndarray) -> dict[str, str]:
        """As a client writes it. PS3.18 §8.3.5.1"""
        made = {"accept": self.media_type}
        if self.quality is not None:
            made["quality"] = str(self.quality)
        window = self.window(data_set, frame_number, stored)
        if window is not None:
            made["window"] = f"{window.center},{window.width},{_FUNCTIONS[window.function]}"
        size, box = self.viewport(data_set, frame_number), self.box(data_set.Rows, data_set.Columns)
        if size is not None:
            made["viewport"] = ",".join(map(str, (*size, *(box or ()))))
        return made

    def expected(self, data_set: Dataset, frame_number: int, stored: np.ndarray, photometric: str = "") -> np.ndarray:
        """The picture that should come, unrounded. photometric: what ``stored`` is, if not what the Data Set says."""
        window = self.window(data_set, frame_number, stored)
        picture = presented(data_set, frame_number, stored, window, photometric)
        return self.laid_out(with_overlays(picture, data_set, frame_number), data_set, frame_number)

    def laid_out(self, picture: np.ndarray, data_set: Dataset, frame_number: int, *, is_averaged: bool = False):
        """A picture of the image's own size cut out, scaled and mirrored as it is asked for."""
        x, y, width, height = self.box(data_set.Rows, data_set.Columns) or (0, 0, data_set.Columns, data_set.Rows)
        picture = picture[y : y + abs(height), x : x + abs(width)]
        natural = natural_size(data_set, frame_number, abs(width), abs(height))
        size = fitted_size(*natural, self.viewport(data_set, frame_number))
        if size != (abs(width), abs(height)):
            if data_set.get("BitsStored") == 1:
                picture = _hard(picture, size)
            else:
                picture = (averaged if is_averaged else interpolated)(picture, size)
        return picture[:: -1 if height < 0 else 1, :: -1 if width < 0 else 1]

    def is_scaled(self, data_set: Dataset, frame_number: int) -> bool:
        _, _, width, height = self.box(data_set.Rows, data_set.Columns) or (0, 0, data_set.Columns, data_set.Rows)
        natural = natural_size(data_set, frame_number, abs(width), abs(height))
        return fitted_size(*natural, self.viewport(data_set, frame_number)) != (abs(width), abs(height))


def _hard(mask: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """A mask keeps its edges where it grows, and is averaged where it shrinks."""
    rows, columns = mask.shape
    if size[0] < columns or size[1] < rows:
        return averaged(mask, size)
    down, across = ((np.arange(new) + 0.5) * old / new for new, old in ((size[1], rows), (size[0], columns)))
    return mask[down.astype(int)][:, across.astype(int)]


PART = 0.25, 0.125, 0.5, 0.625
WAYS = [
    Asked("default"),
    Asked("linear", function=LINEAR),
    Asked("linear-exact", function=LINEAR_EXACT),
    Asked("sigmoid", function=SIGMOID),
    Asked("smaller", scale=0.45),
    Asked("larger", scale=1.7),
    Asked("part", scale=1, region=PART),
    Asked("mirrored left to right", scale=1, region=(0, 0, -1, 1)),
    Asked("mirrored upside down", scale=1, region=(0, 0, 1, -1)),
    Asked("part, turned, larger", scale=2.2, region=(PART[0], PART[1], -PART[2], -PART[3])),
    Asked("part, sigmoid, smaller", scale=0.6, region=PART, function=SIGMOID),
    Asked("jpeg", JPEG),
    Asked("jpeg of quality 50", JPEG, quality=50),
    Asked("gif", GIF),
]
