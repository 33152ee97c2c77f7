"""PresentationState: how a softcopy presentation state wants one frame of one image to be seen.

Pure. Everything that it holds has been checked; a state that contradicts itself raises Undecodable with the tag in its
reason. What the state leaves out is the identity, whatever the image says. PS3.3 §A.33, §C.11, PS3.4 §N.2
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace

from gateway.pixels.cielab import Colour
from gateway.pixels.description import Lut, PixelDescription, PixelKind, lut_of, palette_of
from gateway.pixels.displayed_area import DisplayedArea, displayed_area
from gateway.pixels.elements import DataSet
from gateway.pixels.graphic_objects import UNKNOWN_LAYER, Drawn, drawn_objects, graphic_layers
from gateway.pixels.options import VoiFunction, Window
from gateway.pixels.overlays import Overlay
from gateway.pixels.references import applies, first_applying
from gateway.pixels.shutters import Shutter, shutter_of
from gateway.pixels.state_elements import code, items, malformed, numbers, text
from gateway.pixels.state_overlays import planes_switched_on
from storage.errors import Undecodable

# No tag: beside what describes the pixels, the state they are to be seen in and the SOP Instance UID of the image.
PRESENTED = "presented"
STATE, IMAGE = "state", "image"

_SOP_CLASS_UID = "00080016"
_MASKS = "00286100"
_SLOPE, _INTERCEPT, _MODALITY_LUTS = "00281053", "00281052", "00283000"
_SOFTCOPY_VOI_LUTS, _VOI_LUTS = "00283110", "00283010"
_CENTER, _WIDTH, _FUNCTION = "00281050", "00281051", "00281056"
_PRESENTATION_LUTS, _SHAPE = "20500010", "20500020"
_DESCRIPTOR, _LUT_DATA = "00283002", "00283006"
_LIMIT = 1e12  # of a number in the units of the modality
_FUNCTIONS = {function.value: function for function in VoiFunction}
_SHAPES = {"IDENTITY": False, "INVERSE": True}


@dataclass(frozen=True, slots=True)
class Kind:
    """The modules that a SOP Class has."""

    has_voi: bool
    has_presentation_lut: bool
    has_palette: bool


PRESENTATION_STATES: Mapping[str, Kind] = {
    "1.2.840.10008.5.1.4.1.1.11.1": Kind(has_voi=True, has_presentation_lut=True, has_palette=False),
    "1.2.840.10008.5.1.4.1.1.11.2": Kind(has_voi=False, has_presentation_lut=False, has_palette=False),
    "1.2.840.10008.5.1.4.1.1.11.3": Kind(has_voi=True, has_presentation_lut=False, has_palette=True),
}
"""Grayscale, Color and Pseudo-Color Softcopy Presentation State. PS3.4 §B.5"""


@dataclass(frozen=True, slots=True)
class GrayscaleTransformation:
    """From stored values to P-Values. voi: none for the whole range of the modality values. PS3.4 §N.2.1"""

    slope: float
    intercept: float
    modality_lut: Lut | None
    voi: Window | Lut | None
    presentation_lut: Lut | None
    is_inverted: bool


@dataclass(frozen=True, slots=True)
class PresentationState:
    """One frame as a state wants it. overlays, drawn: undermost first. palette: of the greys, in pseudo-colour."""

    grayscale: GrayscaleTransformation | None
    palette: tuple[Lut, Lut, Lut] | None
    shutter: Shutter | None
    overlays: tuple[tuple[Overlay, Colour], ...]
    area: DisplayedArea
    drawn: tuple[Drawn, ...]

    @classmethod
    def of(
        cls, state: DataSet, sop_instance_uid: str, image: DataSet, description: PixelDescription
    ) -> PresentationState:
        """What ``state`` (DICOM JSON Model) says of the frame that ``description`` is of.

        sop_instance_uid: of the image. image: its metadata, as far as they describe its pixels. Raises Undecodable,
        and TooLarge beyond the limits.
        """
        kind = PRESENTATION_STATES.get(text(state, _SOP_CLASS_UID))
        if kind is None:
            raise malformed(_SOP_CLASS_UID)
        frame, is_grey = (sop_instance_uid, description.frame_number), description.is_monochrome
        if any(applies(item, *frame) for item in items(state, _MASKS)):
            raise malformed(_MASKS, "asks for mask subtraction, which is not supported")
        return cls(
            _grayscale(state, kind, *frame, signed=bool(description.pixel_representation)) if is_grey else None,
            _palette(state) if is_grey and kind.has_palette else None,
            shutter_of(state, description),
            _overlays(state, image, description),
            displayed_area(state, *frame, (description.columns, description.rows)),
            drawn_objects(state, *frame),
        )

    def described(self, description: PixelDescription) -> PixelDescription:
        """The description of the same frame with the transformations of the state instead of its own."""
        if self.grayscale is None:
            return description
        scale = self.grayscale
        voi = scale.voi or _whole_range(description, scale)
        return replace(
            description,
            rescale_slope=scale.slope,
            rescale_intercept=scale.intercept,
            modality_lut=scale.modality_lut,
            voi_lut=voi if isinstance(voi, Lut) else None,
            windows=(voi,) if isinstance(voi, Window) else (),
            presentation_lut=scale.presentation_lut,
            is_inverted=scale.is_inverted,
        )


def _grayscale(
    state: DataSet, kind: Kind, sop_instance_uid: str, frame_number: int, *, signed: bool
) -> GrayscaleTransformation | None:
    if not kind.has_voi:
        return None
    slope, intercept, modality_lut = _modality(state, signed=signed)
    item = first_applying(items(state, _SOFTCOPY_VOI_LUTS), sop_instance_uid, frame_number)
    presentation_lut, is_inverted = _presentation(state) if kind.has_presentation_lut else (None, False)
    voi = _voi(item) if item else None
    return GrayscaleTransformation(slope, intercept, modality_lut, voi, presentation_lut, is_inverted)


def _modality(state: DataSet, *, signed: bool) -> tuple[float, float, Lut | None]:
    """PS3.3 §C.11.1"""
    tables = items(state, _MODALITY_LUTS)
    if tables:
        return 1.0, 0.0, _table(tables[0], signed=signed)
    (slope,) = numbers(state, _SLOPE, count=1, limit=_LIMIT) or (1.0,)
    (intercept,) = numbers(state, _INTERCEPT, count=1, limit=_LIMIT) or (0.0,)
    if slope == 0:
        raise malformed(_SLOPE, "is out of range")
    return slope, intercept, None


def _voi(item: DataSet) -> Window | Lut:
    """PS3.3 §C.11.8"""
    tables = items(item, _VOI_LUTS)
    if tables:
        return _table(tables[0], signed=None)
    centers, widths = numbers(item, _CENTER, limit=_LIMIT), numbers(item, _WIDTH, limit=_LIMIT)
    function = code(item, _FUNCTION, _FUNCTIONS, "LINEAR")
    if not centers:
        raise malformed(_CENTER)
    if not widths or widths[0] <= 0 or (widths[0] < 1 and function is VoiFunction.LINEAR):
        raise malformed(_WIDTH)
    return Window(centers[0], widths[0], function)


def _presentation(state: DataSet) -> tuple[Lut | None, bool]:
    """PS3.3 §C.11.6"""
    tables = items(state, _PRESENTATION_LUTS)
    if not tables:
        return None, code(state, _SHAPE, _SHAPES)
    return replace(_table(tables[0], signed=False), first=0), False


def _table(item: DataSet, *, signed: bool | None) -> Lut:
    try:
        lut = lut_of(item, _DESCRIPTOR, _LUT_DATA, signed=signed)
    except Undecodable as error:
        raise malformed(error.tag) from error
    if lut.bits < 1 or not -0x8000 <= lut.first <= 0xFFFF:
        raise malformed(_DESCRIPTOR)
    return lut


def _palette(state: DataSet) -> tuple[Lut, Lut, Lut]:
    """PS3.3 §C.7.9"""
    try:
        return palette_of(state, signed=False)
    except Undecodable as error:
        raise malformed(error.tag) from error


def _whole_range(description: PixelDescription, scale: GrayscaleTransformation) -> Window | None:
    """The window that leaves modality values as they are; floating point pixels, of no range, have none.

    PS3.4 §N.2.1.3
    """
    if description.kind is not PixelKind.INTEGER:
        return None
    bits = description.bits_stored if scale.modality_lut is None else scale.modality_lut.bits
    is_signed = description.pixel_representation and scale.modality_lut is None
    low = -math.ldexp(1, bits - 1) if is_signed else 0.0
    center = (low + (math.ldexp(1, bits) - 1) / 2) * scale.slope + scale.intercept
    return Window(center, (math.ldexp(1, bits) - 1) * abs(scale.slope), VoiFunction.LINEAR_EXACT)


def _overlays(state: DataSet, image: DataSet, description: PixelDescription) -> tuple[tuple[Overlay, Colour], ...]:
    """The planes that are switched on, by the layer in which they are. PS3.3 §C.11.7"""
    layers = graphic_layers(state)
    found = [(layers.get(name, UNKNOWN_LAYER), plane) for name, plane in planes_switched_on(state, image, description)]
    return tuple((plane, layer.colour) for layer, plane in sorted(found, key=lambda one: one[0].order))
