"""Independent judges of a rendered picture: DCMTK's dcmj2pnm, and pydicom's processing where DCMTK has no decoder."""

from __future__ import annotations

import shutil
import subprocess
import tempfile
import warnings
from pathlib import Path

import numpy as np
from PIL import Image
from pydicom.dataset import Dataset
from pydicom.pixels import apply_color_lut, apply_modality_lut, apply_windowing, pixel_array

from gateway.pixels.decode import decode
from gateway.pixels.description import PixelDescription
from gateway.pixels.render import display
from tests.gateway.pixels.part10 import Source

DCMJ2PNM = shutil.which("dcmj2pnm") or ""
ALIKE_DB = 35.0  # a mean error of 4.5 grey levels of 256


def compared(source: Source, frame_number: int) -> tuple[str, float]:
    """Who judged a frame, and the PSNR of our picture beside theirs."""
    description = PixelDescription.of(source.metadata, source.transfer_syntax_uid, frame_number)
    ours = display(description, decode(description, source.frames[frame_number - 1]))
    if DCMJ2PNM:
        options = window_options(description, has_rescale="00281053" in source.metadata)
        theirs = rendered_by_dcmtk(source.path, frame_number, options)
        if theirs is not None:
            return "dcmj2pnm", psnr_db(ours, theirs)
    return "pydicom", psnr_db(ours, rendered_by_pydicom(source, frame_number))


def window_options(description: PixelDescription, *, has_rescale: bool) -> list[str]:
    """What our default presentation is in the options of dcmj2pnm, which knows no functional groups.

    has_rescale: at the top level; otherwise dcmj2pnm wants its window in stored values.
    """
    if not description.is_monochrome:
        return []
    if description.voi_lut is not None:
        return ["+Wl", "1"]
    if not description.windows:
        return ["+Wm"]
    window = description.windows[0]
    center, width = window.center, window.width
    if not has_rescale:
        center = (center - description.rescale_intercept) / description.rescale_slope
        width /= description.rescale_slope
    return ["+Ww", str(center), str(width), {"SIGMOID": "+Wfs"}.get(window.function.value, "+Wfl")]


def rendered_by_dcmtk(path: Path, frame_number: int, options: list[str], *, overlays: str = "-O") -> np.ndarray | None:
    """Its picture without scaling; None where it cannot decode the file. overlays: its option, none for its default."""
    with tempfile.TemporaryDirectory() as folder:
        target = Path(folder, "picture.png")
        options = [*([overlays] if overlays else []), *options]
        command = [DCMJ2PNM, "-q", "-S", "+F", str(frame_number), *options, "+on", str(path), str(target)]
        outcome = subprocess.run(command, check=False, capture_output=True, timeout=60)
        if outcome.returncode or not target.exists():
            return None
        with Image.open(target) as image:
            return np.array(image)


def rendered_by_pydicom(source: Source, frame_number: int) -> np.ndarray:
    """The frame decoded and windowed, or coloured, by pydicom."""
    data_set = _of_frame(source.data_set, frame_number)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        values = pixel_array(source.data_set, index=frame_number - 1, raw=False)
    if values.ndim == 3:
        return values
    if data_set.PhotometricInterpretation == "PALETTE COLOR":
        colours = apply_color_lut(values, data_set)
        return colours >> 8 if colours.dtype == np.uint16 else colours
    units = apply_modality_lut(values, data_set).astype(np.float64)
    if "WindowCenter" in data_set:
        units = apply_windowing(apply_modality_lut(values, data_set), data_set, index=0)
        stored = np.array([0, 2**data_set.BitsStored - 1])
        if data_set.PixelRepresentation:
            stored -= 2 ** (data_set.BitsStored - 1)
        low, high = stored * float(data_set.get("RescaleSlope", 1)) + float(data_set.get("RescaleIntercept", 0))
    else:
        low, high = (0, 1) if data_set.BitsStored == 1 else (units.min(), units.max())
    shown = (units - low) / (high - low) * 255
    return 255 - shown if data_set.PhotometricInterpretation == "MONOCHROME1" else shown


def _of_frame(data_set: Dataset, frame_number: int) -> Dataset:
    """The Data Set with the transformations of one frame at the top level, as pydicom knows no functional groups."""
    flat = Dataset()
    flat.update({element.tag: element for element in data_set if element.tag.group in {0x0028, 0x2050}})
    shared = data_set.get("SharedFunctionalGroupsSequence", [])
    per_frame = data_set.get("PerFrameFunctionalGroupsSequence", [])
    for group in (*shared, *per_frame[frame_number - 1 : frame_number]):
        for keyword in ("PixelValueTransformationSequence", "FrameVOILUTSequence"):
            for item in group.get(keyword, []):
                flat.update(item)
    return flat


def psnr_db(ours: np.ndarray, theirs: np.ndarray) -> float:
    """Peak signal to noise ratio of two pictures of 8 bits; grey and colour may be compared."""
    if ours.ndim != theirs.ndim:
        ours, theirs = (np.repeat(a[..., None], 3, 2) if a.ndim == 2 else a for a in (ours, theirs))
    assert ours.shape == theirs.shape
    error = np.mean((ours.astype(np.float64) - theirs.astype(np.float64)) ** 2)
    return float("inf") if error == 0 else float(10 * np.log10(255.0**2 / error))
