"""RenderOptions: what a client may ask of a picture, checked. Pure and light; imports no decoder.

PS3.18 §8.3.5, §10.4.1
"""

from __future__ import annotations

import enum
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from storage.errors import BadRequest

JPEG, PNG, GIF = "image/jpeg", "image/png", "image/gif"
MEDIA_TYPES = (JPEG, PNG, GIF)
PROFILED_MEDIA_TYPES = (JPEG, PNG)
DEFAULT_QUALITY = 90
MAXIMUM_OUTPUT_SIDE_PIXELS = 8_192  # L12
THUMBNAIL_SIDE_PIXELS = 128


class VoiFunction(enum.Enum):
    """How a window maps values to greys. PS3.3 §C.11.2.1.2, §C.11.2.1.3"""

    LINEAR = "LINEAR"
    LINEAR_EXACT = "LINEAR_EXACT"
    SIGMOID = "SIGMOID"


VOI_FUNCTION_PARAMETERS = {
    "linear": VoiFunction.LINEAR,
    "linear-exact": VoiFunction.LINEAR_EXACT,
    "sigmoid": VoiFunction.SIGMOID,
}


class Annotation(enum.Enum):
    """What is written on a picture. PS3.18 §8.3.5.1.1"""

    PATIENT = "patient"
    TECHNIQUE = "technique"


class IccProfile(enum.Enum):
    """Which colour space a picture is in, and says that it is in. PS3.18 §8.3.5.1.5

    NO says nothing; YES is the profile of the object, or sRGB for colour without one.
    """

    NO = "no"
    YES = "yes"
    SRGB = "srgb"
    ADOBE_RGB = "adobergb"
    ROMM_RGB = "rommrgb"
    DISPLAY_P3 = "displayp3"


@dataclass(frozen=True, slots=True)
class Window:
    """A VOI window in modality units (HU for CT)."""

    center: float
    width: float
    function: VoiFunction = VoiFunction.LINEAR


@dataclass(frozen=True, slots=True)
class Region:
    """A part of the source in its pixels; a negative width or height shows the same part mirrored.

    None for width or height means up to the edge. is_relative: in fractions of the image's size instead of pixels.
    PS3.18 §8.3.5.1.3, §9.5.1.7
    """

    x: float = 0.0
    y: float = 0.0
    width: float | None = None
    height: float | None = None
    is_relative: bool = False


@dataclass(frozen=True, slots=True)
class Viewport:
    """The rectangle that the picture is to fit in, keeping its aspect ratio; smaller pictures are enlarged.

    None for a side that may be as long as it will; for both, the picture has its own size.
    """

    width: int | None
    height: int | None
    region: Region | None = None


@dataclass(frozen=True, slots=True)
class RenderOptions:
    """One way to show a frame. Raises BadRequest when it asks for what no picture can be.

    quality: 1 to 100, for JPEG only; None is ``DEFAULT_QUALITY``. window: goes before every VOI transformation of
    the object; ignored for colour. annotation: what is written on it. is_thumbnail: fits ``THUMBNAIL_SIDE_PIXELS``
    unless a viewport says otherwise, and takes neither window nor region. PS3.18 §8.3.5.1, §10.4.1.1.3
    """

    media_type: str = JPEG
    quality: int | None = None
    window: Window | None = None
    viewport: Viewport | None = None
    is_thumbnail: bool = False
    annotation: tuple[Annotation, ...] = ()
    icc_profile: IccProfile = IccProfile.NO

    def __post_init__(self) -> None:
        if self.media_type not in MEDIA_TYPES:
            raise BadRequest("No picture of this media type can be made")
        if self.quality is not None:
            _check(self.media_type == JPEG, "The parameter quality needs a lossy media type")
            _check(1 <= self.quality <= 100, "The parameter quality is an integer from 1 to 100")
        if self.window is not None:
            _check_window(self.window)
            _check(not self.is_thumbnail, "A thumbnail takes no parameter window")
        _check(not (self.is_thumbnail and self.annotation), "A thumbnail takes no parameter annotation")
        carries = self.media_type in PROFILED_MEDIA_TYPES or self.icc_profile is IccProfile.NO
        _check(carries, "A picture of this media type carries no ICC profile")
        if self.viewport is not None:
            _check_viewport(self.viewport)
            _check(not self.is_thumbnail or self.viewport.region is None, "A thumbnail shows the whole image")

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> RenderOptions:
        """The inverse of ``orjson.dumps`` of these options; how they reach a worker."""
        window, viewport = value["window"], value["viewport"]
        region = viewport and viewport["region"]
        return cls(
            media_type=value["media_type"],
            quality=value["quality"],
            window=window and Window(window["center"], window["width"], VoiFunction(window["function"])),
            viewport=viewport and Viewport(viewport["width"], viewport["height"], region and Region(**region)),
            is_thumbnail=value["is_thumbnail"],
            annotation=tuple(map(Annotation, value["annotation"])),
            icc_profile=IccProfile(value["icc_profile"]),
        )


def _check(holds: bool, reason: str) -> None:
    if not holds:
        raise BadRequest(reason)


def _check_window(window: Window) -> None:
    _check(math.isfinite(window.center) and math.isfinite(window.width), "The parameter window takes finite numbers")
    minimum = 1.0 if window.function is VoiFunction.LINEAR else 0.0
    _check(window.width > 0 and window.width >= minimum, "The width of the parameter window is too small")


def _check_viewport(viewport: Viewport) -> None:
    sides = [side for side in (viewport.width, viewport.height) if side is not None]
    _check(all(side > 0 for side in sides), "The parameter viewport takes positive integers")
    _check(all(side <= MAXIMUM_OUTPUT_SIDE_PIXELS for side in sides), "The parameter viewport asks for too much")
    region = viewport.region
    if region is None:
        return
    numbers = [number for number in (region.x, region.y, region.width, region.height) if number is not None]
    _check(all(math.isfinite(number) for number in numbers), "The parameter viewport takes finite numbers")
    _check(region.x >= 0 and region.y >= 0, "The region of the parameter viewport lies outside the image")
    _check(region.width != 0 and region.height != 0, "The region of the parameter viewport is empty")
