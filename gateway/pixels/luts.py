"""From stored values to display values: modality, VOI, polarity; palette and colour. Pure arrays. PS3.3 §C.11.

Values of up to 16 bits go through one table of all of them, made once per set of parameters; wider and floating
point ones are computed strip by strip, so that a large frame needs no second frame of double precision.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from gateway.pixels.description import Lut, PixelDescription
from gateway.pixels.native import Pixels
from gateway.pixels.options import VoiFunction, Window
from storage.errors import Undecodable

Greys = NDArray[np.uint8]
Values = NDArray[np.float64]

_STRIP_VALUES = 1 << 17
_KEPT_TABLES = 64
_TABLE_STEP = 1024


@dataclass(frozen=True, slots=True)
class Limits:
    """The values that become black and white where the object says nothing."""

    low: float
    high: float


@dataclass(frozen=True, slots=True)
class Grayscale:
    """All that decides how a stored value becomes a grey, in the order in which it is applied.

    padding: lowest and highest stored value to be shown black, whatever the polarity. PS3.4 §N.2
    """

    padding: tuple[float, float] | None
    slope: float
    intercept: float
    modality_lut: Lut | None
    voi: Window | Lut | Limits
    is_inverted: bool
    presentation_lut: Lut | None = None


def grey(values: Pixels, description: PixelDescription, window: Window | None = None) -> Greys:
    """The display values, 0 black to 255 white, of a frame of stored values.

    window: goes before the object's VOI LUT, and that before its first window; without any of them the values of this
    frame, save padding, span black to white. PS3.3 §C.11.2.1, §C.7.6.3.1.2
    """
    voi = window or description.voi_lut or next(iter(description.windows), None) or _limits(values, description)
    scale = Grayscale(
        padding=description.padding,
        slope=description.rescale_slope,
        intercept=description.rescale_intercept,
        modality_lut=description.modality_lut,
        voi=voi,
        is_inverted=description.is_inverted,
        presentation_lut=description.presentation_lut,
    )
    if _has_table(values):
        return _looked_through(_table(scale, values.dtype.str, *_range(values, voi)), values)
    greys = np.zeros(values.shape, np.uint8)
    for strip, result in zip(_strips(values), _strips(greys), strict=True):
        result[:] = _greys(strip.astype(np.float64), scale)
    return greys


def colour(values: Pixels, bits_stored: int) -> Greys:
    """RGB of ``bits_stored`` bits as RGB of 8 bits."""
    if values.dtype == np.uint8 and bits_stored == 8:
        return values
    if _has_table(values):
        return _looked_through(_colour_table(bits_stored, values.dtype.itemsize), values)
    return (values.view(np.uint32) >> np.uint32(max(0, bits_stored - 8))).astype(np.uint8)


def palette_colour(values: Pixels, palette: tuple[Lut, Lut, Lut]) -> Greys:
    """Palette indices as RGB; an index beyond an end takes that end's colour. PS3.3 §C.7.6.3.1.5"""
    if not _has_table(values):
        raise Undecodable("Palette colour of more than 16 bits is not supported")
    return _looked_through(_palette_table(palette, values.dtype.str), values)


def pseudo_colour(greys: Greys, palette: tuple[Lut, Lut, Lut]) -> Greys:
    """Greys of 8 bits as RGB: black is the first colour of the palette, white the last. PS3.4 §N.2.7"""
    tables = [
        _eight_bits(
            np.frombuffer(lut.entries, "<u2")[np.linspace(0, len(lut.entries) // 2 - 1, 256).round().astype(int)],
            lut.bits,
        )
        for lut in palette
    ]
    return np.take(np.stack(tables, axis=-1), greys, axis=0)


def modality(values: Values, slope: float, intercept: float, lut: Lut | None) -> Values:
    """Stored values in the units of the modality. PS3.3 §C.11.1"""
    return values * slope + intercept if lut is None else _looked_up(values, lut)


def windowed(values: Values, window: Window) -> Values:
    """Modality values as 0.0 to 1.0. PS3.3 §C.11.2.1.2, §C.11.2.1.3"""
    shown: Values = _FUNCTIONS[window.function](values, window.center, window.width).clip(0.0, 1.0)
    return shown


def _linear(values: Values, center: float, width: float) -> Values:
    if width == 1:
        return (values > center - 0.5).astype(np.float64)
    return (values - (center - 0.5)) / (width - 1) + 0.5


def _linear_exact(values: Values, center: float, width: float) -> Values:
    return (values - center) / width + 0.5


def _sigmoid(values: Values, center: float, width: float) -> Values:
    # Beyond ±100 the result is 0 or 1 to double precision, and the exponential would overflow.
    return 1.0 / (1.0 + np.exp(np.clip(-4.0 * ((values - center) / width), -100.0, 100.0)))


_FUNCTIONS = {
    VoiFunction.LINEAR: _linear,
    VoiFunction.LINEAR_EXACT: _linear_exact,
    VoiFunction.SIGMOID: _sigmoid,
}


def _voi(values: Values, voi: Window | Lut | Limits) -> Values:
    """Modality values as 0.0 to 1.0."""
    if isinstance(voi, Window):
        return windowed(values, voi)
    if isinstance(voi, Lut):
        return _looked_up(values, _with_input(values, voi)) / ((1 << voi.bits) - 1)
    if voi.high <= voi.low:
        return (values > voi.low).astype(np.float64)
    shown: Values = ((values - voi.low) / (voi.high - voi.low)).clip(0.0, 1.0)
    return shown


def _looked_up(values: Values, lut: Lut) -> Values:
    entries = np.frombuffer(lut.entries, "<u2")
    indices = (np.rint(np.nan_to_num(values)) - lut.first).clip(0, len(entries) - 1).astype(np.int64)
    return np.take(entries, indices).astype(np.float64)


def _presented(shown: Values, lut: Lut) -> Values:
    """0.0 to 1.0 through a Presentation LUT, whose entries span that range. PS3.3 §C.11.6.1.1"""
    entries = len(lut.entries) // 2
    return _looked_up(shown * (entries - 1), lut) / ((1 << lut.bits) - 1)


def _with_input(values: Values, lut: Lut) -> Lut:
    """A VOI LUT whose first input was written as unsigned though its input is signed. PS3.3 §C.11.2.1.1"""
    if lut.first >= 1 << 15 and values.min() < 0:
        return Lut(lut.first - (1 << 16), lut.bits, lut.entries)
    return lut


def _greys(stored: Values, scale: Grayscale) -> Greys:
    shown = _voi(modality(stored, scale.slope, scale.intercept, scale.modality_lut), scale.voi)
    if scale.presentation_lut is not None:
        shown = _presented(np.nan_to_num(shown), scale.presentation_lut)
    greys = (np.nan_to_num(shown) * 255.0 + 0.5).astype(np.uint8)
    if scale.is_inverted:
        np.subtract(255, greys, out=greys)
    if scale.padding is not None:
        greys[(stored >= scale.padding[0]) & (stored <= scale.padding[1])] = 0
    return greys


# Tables of all values that a type can hold, in the order of their bits


def _has_table(values: Pixels) -> bool:
    return values.dtype.kind in "iu" and values.dtype.itemsize <= 2


def _looked_through(table: Greys, values: Pixels) -> Greys:
    """The entry of every value, whose place in the table is its bits as an unsigned number.

    By strips, as numpy widens the indices to 64 bits; none is out of range, for which "wrap" is the fastest mode.
    """
    greys = np.zeros(values.shape + table.shape[1:], np.uint8)
    for strip, result in zip(_strips(values.view(f"u{values.dtype.itemsize}")), _strips(greys), strict=True):
        np.take(table, strip, axis=0, out=result, mode="wrap")
    return greys


def _all_values(dtype: str) -> Pixels:
    unsigned: Pixels = np.arange(1 << (8 * np.dtype(dtype).itemsize), dtype=dtype.replace("i", "u"))
    return unsigned.view(dtype)


def _range(values: Pixels, voi: Window | Lut | Limits) -> tuple[int, int]:
    """The lowest value and the one beyond the highest that a table is made for, in steps so that frames share it.

    All values for a VOI LUT, whose first input cannot be told from some. A table of all 16-bit values takes longer
    than any other step of a picture.
    """
    whole = np.iinfo(values.dtype)
    if whole.bits == 8 or isinstance(voi, Lut):
        return int(whole.min), int(whole.max) + 1
    low, high = int(values.min()), int(values.max())
    return low - low % _TABLE_STEP, high - high % _TABLE_STEP + _TABLE_STEP


@lru_cache(_KEPT_TABLES)
def _table(scale: Grayscale, dtype: str, low: int, high: int) -> Greys:
    """The greys of the values from ``low`` to below ``high``, and black for others."""
    stored = np.arange(low, high)
    places = stored.astype(dtype).view(dtype.replace("i", "u"))
    table = np.zeros(1 << (8 * places.itemsize), np.uint8)
    table[places] = _greys(stored.astype(np.float64), scale)
    return table


@lru_cache(_KEPT_TABLES)
def _colour_table(bits_stored: int, size: int) -> Greys:
    largest = (1 << bits_stored) - 1
    levels = np.minimum(np.arange(1 << (8 * size)), largest)
    return (levels * (255.0 / largest) + 0.5).astype(np.uint8)


@lru_cache(_KEPT_TABLES)
def _palette_table(palette: tuple[Lut, Lut, Lut], dtype: str) -> Greys:
    indices = _all_values(dtype).astype(np.float64)
    return np.stack([_eight_bits(_looked_up(indices, lut), lut.bits) for lut in palette], axis=-1)


def _eight_bits(levels: Values, bits: int) -> Greys:
    """Levels of a palette as 8 bits; 16-bit ones by their upper byte, as their lower is often a copy of it or 0."""
    return (levels.astype(np.uint16) >> max(0, bits - 8)).astype(np.uint8)


# Black and white where the object says nothing


def _limits(values: Pixels, description: PixelDescription) -> Limits:
    """The smallest and largest modality value of the frame without padding; 0 and 1 for a mask of single bits.

    A frame of one value is shown as it lies in the range of Bits Stored.
    """
    if description.bits_stored == 1:
        return Limits(0.0, 1.0)
    found = [
        (float(strip.min()), float(strip.max()))
        for strip in (_shown(strip, description) for strip in _strips(values))
        if strip.size
    ]
    ends = [min(low for low, _ in found), max(high for _, high in found)] if found else [0.0, 0.0]
    if found and _is_linear(values, description):
        ends = sorted(end * description.rescale_slope + description.rescale_intercept for end in ends)
    if ends[0] == ends[1] and values.dtype.kind in "iu":
        ends = _stored_range(description)
        table = modality(np.array(ends), description.rescale_slope, description.rescale_intercept, None)
        ends = [float(table.min()), float(table.max())] if description.modality_lut is None else ends
    return Limits(ends[0], ends[1])


def _stored_range(description: PixelDescription) -> list[float]:
    if description.pixel_representation:
        return [-math.ldexp(1, description.bits_stored - 1), math.ldexp(1, description.bits_stored - 1) - 1]
    return [0.0, math.ldexp(1, description.bits_stored) - 1]


def _is_linear(values: Pixels, description: PixelDescription) -> bool:
    """Whether the ends of the stored values are those of the modality values."""
    return description.modality_lut is None and values.dtype.kind in "iu"


def _shown(strip: Pixels, description: PixelDescription) -> Pixels:
    """The modality values of a strip, without padding and without what is no number; the stored ones if linear."""
    if description.padding is not None:
        low, high = description.padding
        strip = strip[(strip < low) | (strip > high)]
    if _is_linear(strip, description):
        return strip
    values = modality(
        strip.astype(np.float64), description.rescale_slope, description.rescale_intercept, description.modality_lut
    )
    return values[np.isfinite(values)] if strip.dtype.kind == "f" else values


def _strips(values: Pixels) -> Iterator[Pixels]:
    """Views of the rows, about a hundred thousand values at a time."""
    rows = max(1, _STRIP_VALUES // values.shape[1])  # the same for greys and colour, so that their strips match
    return (values[start : start + rows] for start in range(0, values.shape[0], rows))
