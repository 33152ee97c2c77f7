"""The picture that the standard asks for, computed anew in numpy from pydicom's Data Set: a judge that shares no code.

Pictures are floating point, 0 black to 255 white, not rounded: what is compared with them may lie half a level away.
PS3.3 §C.7.6.3, §C.7.9, §C.11; PS3.4 §N.2; PS3.18 §8.3.5
"""

from __future__ import annotations

import math
import warnings
from typing import NamedTuple

import numpy as np
from pydicom.dataelem import DataElement
from pydicom.dataset import Dataset
from pydicom.pixels import pixel_array

LINEAR, LINEAR_EXACT, SIGMOID = "LINEAR", "LINEAR_EXACT", "SIGMOID"


_ONE = DataElement(0x60000051, "US", 1)


class VoiWindow(NamedTuple):
    """Center and width in modality units, and the function of PS3.3 §C.11.2.1.2 and §C.11.2.1.3."""

    center: float
    width: float
    function: str = LINEAR


def decoded(data_set: Dataset, frame_number: int) -> np.ndarray:
    """Stored values by pydicom, and RGB where JPEG or JPEG 2000 had its own colours."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return pixel_array(data_set, index=frame_number - 1, raw=False)


def presented(
    data_set: Dataset, frame_number: int, stored: np.ndarray, window: VoiWindow | None = None, photometric: str = ""
) -> np.ndarray:
    """The picture of a frame, by the pipeline of PS3.4 §N.2; a window that is asked for goes before the object's.

    stored: (rows, columns) or (rows, columns, 3). photometric: what its samples are, if not what the Data Set says.
    """
    photometric = photometric or data_set.PhotometricInterpretation
    if photometric == "PALETTE COLOR":
        return palette_picture(stored, data_set)
    if stored.ndim == 3:
        return colour_picture(stored, photometric, data_set.BitsStored)
    return grey_picture(stored, of_frame(data_set, frame_number), window)


def of_frame(data_set: Dataset, frame_number: int) -> Dataset:
    """The transformations of one frame in one place: those of its functional groups, else the top level's."""
    flat = Dataset()
    flat.update({element.tag: element for element in data_set if element.tag.group in {0x0028, 0x2050}})
    shared = list(data_set.get("SharedFunctionalGroupsSequence", []))[:1]
    own = list(data_set.get("PerFrameFunctionalGroupsSequence", []))[frame_number - 1 : frame_number]
    for group in (*shared, *own):
        for keyword in ("PixelValueTransformationSequence", "FrameVOILUTSequence"):
            for item in group.get(keyword, []):
                flat.update(item)
    return flat


# Grey. PS3.3 §C.11


def grey_picture(stored: np.ndarray, data_set: Dataset, window: VoiWindow | None = None) -> np.ndarray:
    """Modality, VOI, polarity. Without a window black and white are the extremes of what is no padding.

    What is no number is as dark as the darkest.
    """
    is_padding = padded(stored, data_set)
    units = modality_values(stored, data_set)
    voi = window or own_voi(data_set)
    if isinstance(voi, VoiWindow):
        shown = np.nan_to_num(windowed(units, voi))
    elif voi is not None:
        shown = voi_table(units, voi)
    else:
        shown = stretched(units, is_padding, data_set)
    if data_set.get("PresentationLUTShape") == "INVERSE" or data_set.PhotometricInterpretation == "MONOCHROME1":
        shown = 1 - shown
    return np.where(is_padding, 0, shown * 255)


def padded(stored: np.ndarray, data_set: Dataset) -> np.ndarray:
    """Which values are no part of the image. PS3.3 §C.7.5.1.1.2"""
    if "PixelPaddingValue" not in data_set:
        return np.zeros(stored.shape, bool)
    ends = [data_set.PixelPaddingValue, data_set.get("PixelPaddingRangeLimit", data_set.PixelPaddingValue)]
    if data_set.PixelRepresentation:  # a sender may have written it as US
        ends = [end - 2**16 if end >= 2**15 else end for end in ends]
    return (stored >= min(ends)) & (stored <= max(ends))


def modality_values(stored: np.ndarray, data_set: Dataset) -> np.ndarray:
    """PS3.3 §C.11.1"""
    values = stored.astype(np.float64)
    if data_set.get("ModalityLUTSequence"):
        entries, first, _ = table_of(
            data_set.ModalityLUTSequence[0], "LUT", is_signed=bool(data_set.PixelRepresentation)
        )
        return entries[np.clip(values - first, 0, len(entries) - 1).astype(int)].astype(np.float64)
    return values * float(data_set.get("RescaleSlope", 1) or 1) + float(data_set.get("RescaleIntercept", 0) or 0)


def own_voi(data_set: Dataset) -> VoiWindow | Dataset | None:
    """The first VOI LUT of the object, else its first window."""
    if data_set.get("VOILUTSequence"):
        return data_set.VOILUTSequence[0]
    centers, widths = (np.atleast_1d(data_set.get(f"Window{name}") or []) for name in ("Center", "Width"))
    if not len(centers) or not len(widths) or float(widths[0]) <= 0:
        return None
    return VoiWindow(float(centers[0]), float(widths[0]), data_set.get("VOILUTFunction") or LINEAR)


def windowed(units: np.ndarray, window: VoiWindow) -> np.ndarray:
    """0.0 to 1.0, case by case as the standard has it. PS3.3 §C.11.2.1.2, §C.11.2.1.3"""
    center, width = window.center, window.width
    if window.function == SIGMOID:
        with np.errstate(over="ignore"):
            return 1 / (1 + np.exp(-4 * (units - center) / width))
    if window.function == LINEAR_EXACT:
        low, high, slope = center - width / 2, center + width / 2, (units - center) / width
    else:
        low, high = center - 0.5 - (width - 1) / 2, center - 0.5 + (width - 1) / 2
        slope = (units - (center - 0.5)) / (width - 1) if width > 1 else units * 0
    return np.select([units <= low, units > high], [0.0, 1.0], slope + 0.5)


def voi_table(units: np.ndarray, item: Dataset) -> np.ndarray:
    """PS3.3 §C.11.2.1.1"""
    entries, first, bits = table_of(item, "LUT", is_signed=bool(units.min() < 0))
    indices = np.clip(np.floor(units + 0.5) - first, 0, len(entries) - 1).astype(int)
    return entries[indices] / (2.0**bits - 1)


def stretched(units: np.ndarray, is_padding: np.ndarray, data_set: Dataset) -> np.ndarray:
    """From the smallest value to the largest. A mask is 0 and 1; a flat image is where its range of values has it."""
    image = units[~is_padding & np.isfinite(units)]
    low, high = (float(image.min()), float(image.max())) if image.size else (0.0, 0.0)
    if data_set.BitsAllocated == 1:
        low, high = 0.0, 1.0
    elif low == high:
        first = -(2 ** (data_set.BitsStored - 1)) if data_set.PixelRepresentation else 0
        ends = modality_values(np.array([first, first + 2**data_set.BitsStored - 1]), data_set)
        low, high = float(ends.min()), float(ends.max())
    units = np.nan_to_num(units, nan=low, posinf=high, neginf=low)
    return np.clip((units - low) / (high - low), 0, 1)


# Colour. PS3.3 §C.7.6.3.1.2, §C.7.6.3.1.5


def table_of(data_set: Dataset, prefix: str, *, is_signed: bool) -> tuple[np.ndarray, int, int]:
    """Entries, the first input, and the bits of an entry. PS3.3 §C.11.1.1"""
    count, first, bits = (int(value) for value in getattr(data_set, f"{prefix}Descriptor"))
    count = count or 2**16
    first = first - 2**16 if is_signed and first >= 2**15 else first
    data = getattr(data_set, f"{prefix}Data")
    if not isinstance(data, bytes):
        return np.atleast_1d(np.array(data, np.int64))[:count], first, bits
    dtype = "u1" if bits == 8 and len(data) < 2 * count else "<u2"
    return np.frombuffer(data, dtype)[:count].astype(np.int64), first, bits


def palette_picture(stored: np.ndarray, data_set: Dataset) -> np.ndarray:
    """Red, green and blue of each index, the outermost ones for those beyond the ends. PS3.3 §C.7.6.3.1.5, §C.7.9"""
    channels = []
    for colour in ("Red", "Green", "Blue"):
        prefix = f"{colour}PaletteColorLookupTable"
        entries, first, bits = table_of(data_set, prefix, is_signed=bool(data_set.PixelRepresentation))
        levels = entries[np.clip(stored.astype(np.int64) - first, 0, len(entries) - 1)]
        channels.append(levels * (255 / (2**bits - 1)))
    return np.stack(channels, axis=-1)


# What PS3.3 §C.7.6.3.1.2 makes of R, G and B of 8 bits: Y, CB and CR, less 0, 128 and 128, or 16, 128 and 128.
YBR_FULL = np.array([[0.2990, 0.5870, 0.1140], [-0.1687, -0.3313, 0.5], [0.5, -0.4187, -0.0813]])
YBR_PARTIAL = np.array([[0.2568, 0.5041, 0.0979], [-0.1482, -0.2910, 0.4392], [0.4392, -0.3678, -0.0714]])


def of_rgb(rgb: np.ndarray, photometric: str, bits: int = 8) -> np.ndarray:
    """RGB as samples of YBR_FULL, YBR_FULL_422 or YBR_PARTIAL_422, unrounded. PS3.3 §C.7.6.3.1.2"""
    matrix, black = _ybr(photometric, bits)
    return rgb @ matrix.T + black


def colour_picture(stored: np.ndarray, photometric: str, bits: int) -> np.ndarray:
    """RGB of 8 bits from samples of ``bits`` bits with all their chroma. PS3.3 §C.7.6.3.1.2"""
    values = stored.astype(np.float64)
    if photometric in {"YBR_FULL", "YBR_FULL_422", "YBR_PARTIAL_422"}:
        matrix, black = _ybr(photometric, bits)
        values = (values - black) @ np.linalg.inv(matrix).T
    return np.clip(values, 0, 2.0**bits - 1) * (255 / (2.0**bits - 1))


def _ybr(photometric: str, bits: int) -> tuple[np.ndarray, np.ndarray]:
    scale = 2.0 ** (bits - 8)
    if photometric == "YBR_PARTIAL_422":
        return YBR_PARTIAL, np.array([16.0, 128.0, 128.0]) * scale
    return YBR_FULL, np.array([0.0, 128.0, 128.0]) * scale


# What lies over it. PS3.3 §C.9.2


def with_overlays(picture: np.ndarray, data_set: Dataset, frame_number: int) -> np.ndarray:
    """White where a graphic has a point, and where a region of interest has its edge."""
    picture = picture.copy()
    for group in range(0x6000, 0x6020, 2):
        if (group, 0x3000) not in data_set:
            continue
        planes = data_set.overlay_array(group)
        index = frame_number - int(data_set.get((group, 0x0051), _ONE).value or 1) if planes.ndim == 3 else 0
        if planes.ndim == 3 and not 0 <= index < len(planes):
            continue
        points = (planes[index] if planes.ndim == 3 else planes) > 0
        if data_set[group, 0x0040].value == "R":
            shifted = [np.roll(np.pad(points, 1), step, axis)[1:-1, 1:-1] for step in (1, -1) for axis in (0, 1)]
            points = points & ~np.logical_and.reduce(shifted)
        top, left = (int(value) - 1 for value in data_set[group, 0x0050].value)
        rows, columns = (place + start for place, start in zip(np.nonzero(points), (top, left), strict=True))
        inside = (rows >= 0) & (columns >= 0) & (rows < picture.shape[0]) & (columns < picture.shape[1])
        picture[rows[inside], columns[inside]] = 255
    return picture


# Size. PS3.18 §8.3.5.1.3


def natural_size(data_set: Dataset, frame_number: int, width: float, height: float) -> tuple[float, float]:
    """Width and height in square pixels: the side that is too short grows. PS3.3 §10.7.1.3, §C.7.6.3.1.7"""
    groups = [*data_set.get("PerFrameFunctionalGroupsSequence", [])[frame_number - 1 : frame_number]]
    groups += [*data_set.get("SharedFunctionalGroupsSequence", [])[:1]]
    places = [item for group in groups for item in group.get("PixelMeasuresSequence", [])] + [data_set]
    keywords = "PixelSpacing", "ImagerPixelSpacing", "NominalScannedPixelSpacing", "PixelAspectRatio"
    pairs = [place.get(keyword) for place in places for keyword in keywords]
    down, across = next(([float(value) for value in pair] for pair in pairs if pair), [1.0, 1.0])
    aspect = down / across
    if abs(aspect - 1) < 0.005:
        return width, height
    return (width, height * aspect) if aspect > 1 else (width / aspect, height)


def fitted_size(width: float, height: float, viewport: tuple[int, int] | None) -> tuple[int, int]:
    """Width and height of what keeps its shape and touches the viewport."""
    scale = min(viewport[0] / width, viewport[1] / height) if viewport else 1.0
    return max(1, round(width * scale)), max(1, round(height * scale))


def averaged(picture: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Each new pixel is the mean of the area that it covers. size: width and height."""
    return _separable(picture, size, _coverage)


def interpolated(picture: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Lanczos of three lobes where an axis shrinks, Catmull-Rom's cubic where it grows; pixels are squares."""
    return _separable(picture, size, _filtered)


def _separable(picture, size, weights):
    rows, columns = picture.shape[:2]
    across, down = weights(columns, size[0]), weights(rows, size[1])
    channels = picture.reshape(rows, columns, -1)
    made = np.einsum("yr,rcs,xc->yxs", down, channels, across, optimize=True)
    return np.clip(made, 0, 255).reshape(size[1], size[0], *picture.shape[2:])


def _coverage(length: int, new: int) -> np.ndarray:
    """How much of each new pixel each old one covers."""
    ends = np.arange(new + 1) * (length / new)
    starts = np.arange(length)
    overlap = np.minimum(ends[1:, None], starts + 1) - np.maximum(ends[:-1, None], starts)
    return np.maximum(overlap, 0) / (length / new)


def _filtered(length: int, new: int) -> np.ndarray:
    stretch = max(1.0, length / new)
    centers = (np.arange(new) + 0.5) * (length / new) - 0.5
    distance = np.abs(np.arange(length) - centers[:, None]) / stretch
    kernel = _cubic(distance) if new >= length else np.where(distance < 3, np.sinc(distance) * np.sinc(distance / 3), 0)
    return kernel / kernel.sum(axis=1, keepdims=True)


def _cubic(distance):
    near = 1.5 * distance**3 - 2.5 * distance**2 + 1
    far = -0.5 * distance**3 + 2.5 * distance**2 - 4 * distance + 2
    return np.select([distance < 1, distance < 2], [near, far], 0.0)


# How far apart


def psnr_db(ours: np.ndarray, theirs: np.ndarray) -> float:
    """Peak signal to noise ratio of two pictures; the reference is rounded as a picture of 8 bits would be."""
    ours, theirs = _alike(ours, theirs)
    error = np.mean((ours - np.floor(theirs + 0.5)) ** 2)
    return math.inf if error == 0 else float(10 * np.log10(255.0**2 / error))


def farthest(ours: np.ndarray, theirs: np.ndarray) -> float:
    """The largest difference of any sample, in grey levels."""
    ours, theirs = _alike(ours, theirs)
    return float(np.abs(ours - theirs).max())


def _alike(ours: np.ndarray, theirs: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Both in floating point, a grey one as colour where the other is one."""
    if ours.ndim != theirs.ndim:
        ours, theirs = (np.repeat(a[..., None], 3, 2) if a.ndim == 2 else a for a in (ours, theirs))
    assert ours.shape == theirs.shape, (ours.shape, theirs.shape)
    return ours.astype(np.float64), theirs.astype(np.float64)
