"""DCMTK as a maker of files and as a judge of pictures: its programs, run on files."""

from __future__ import annotations

import atexit
import os
import subprocess
import tempfile
from functools import cache
from pathlib import Path

import numpy as np
from PIL import Image
from pydicom.datadict import DicomDictionary
from pydicom.dataset import Dataset

from tests.gateway.pixels.reference import LINEAR_EXACT, SIGMOID, VoiWindow, of_frame, own_voi

PROGRAMS = ("dcmj2pnm", "dcml2pnm", "dcmconv", "dcmcrle", "dcmcjpeg", "dcmcjpls")


# Names of VRs that depend on others, as dcmdata has them
_VRS = {"US or SS": "xs", "US or SS or OW": "lt", "US or OW": "lt", "OB or OW": "ox"}
_GROUPS = {0x0002, 0x0008, 0x0010, 0x0018, 0x0020, 0x0028, 0x2050, 0x5200, 0x7FE0, 0xFFFE}
_OVERLAYS = "xx,0010 US xx,0011 US xx,0015 IS xx,0040 CS xx,0050 SS xx,0051 US xx,0100 US xx,0102 US xx,3000 ox"


@cache
def _environment() -> dict[str, str]:
    """With a data dictionary of what images have: to read the whole of it takes these programs most of their time."""
    lines = [
        f"({tag >> 16:04x},{tag & 0xFFFF:04x})\t{_VRS.get(vr, vr)}\t{keyword}\t1-n\tDICOM\n"
        for tag, (vr, _, _, _, keyword) in DicomDictionary.items()
        if tag >> 16 in _GROUPS and keyword and (vr in _VRS or len(vr) == 2)
    ]
    places = _OVERLAYS.replace("xx,", "(6000-60ff,").split()
    lines += [f"{tag})\t{vr}\tOverlay\t1-n\tDICOM\n" for tag, vr in zip(places[::2], places[1::2], strict=True)]
    with tempfile.NamedTemporaryFile("w", suffix=".dic", delete=False) as file:
        file.writelines(lines)
    atexit.register(Path(file.name).unlink)
    return {**os.environ, "DCMDICTPATH": file.name}


def _run(program: str, *arguments: str, check: bool) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run([program, *arguments], check=check, capture_output=True, timeout=60, env=_environment())


def convert(program: str, source: Path, target: Path, *options: str) -> None:
    """One file into another; raises when the program does not make it."""
    _run(program, *options, str(source), str(target), check=True)


def picture(path: Path, frame_number: int, *options: str) -> np.ndarray | None:
    """What dcmj2pnm or dcml2pnm makes of a frame in its own size; None where it cannot decode the file."""
    with tempfile.TemporaryDirectory() as folder:
        target = Path(folder, "picture.png")
        program = "dcml2pnm" if _is_jpeg_ls(path) else "dcmj2pnm"
        run = _run(program, "-q", "+F", str(frame_number), *options, "+on", str(path), str(target), check=False)
        if run.returncode or not target.exists():
            return None
        with Image.open(target) as image:
            return np.array(image)


def _is_jpeg_ls(path: Path) -> bool:
    with path.open("rb") as file:
        head = file.read(1024)
    return any(uid in head for uid in (b"1.2.840.10008.1.2.4.80", b"1.2.840.10008.1.2.4.81"))


def options(data_set: Dataset, frame_number: int, window: VoiWindow | None = None) -> list[str] | None:
    """A window, or the object's presentation, in options of dcmj2pnm; None where it has none for it.

    It knows no functional groups and no LINEAR_EXACT, counts padding among the extremes, and darkens all but a region
    of interest. Without a rescale at the top level it takes the window in stored values.
    """
    if any(element.tag.elem == 0x0040 and element.value == "R" for element in data_set.group_dataset(0x6000)):
        return None
    if not data_set.PhotometricInterpretation.startswith("MONOCHROME"):
        return []
    own = of_frame(data_set, frame_number)
    voi = window or own_voi(own)
    if voi is None:
        return None if "PixelPaddingValue" in data_set else ["+Wm"]
    if isinstance(voi, Dataset):
        return ["+Wl", "1"] if "VOILUTSequence" in data_set else None
    if voi.function == LINEAR_EXACT:
        return None
    center, width = voi.center, voi.width
    if "RescaleSlope" not in data_set and "ModalityLUTSequence" not in data_set:
        slope, intercept = float(own.get("RescaleSlope", 1)), float(own.get("RescaleIntercept", 0))
        center, width = (center - intercept) / slope, width / slope
    return ["+Ww", str(center), str(width), "+Wfs" if voi.function == SIGMOID else "+Wfl"]
