"""DCMTK's dcmj2pnm as the independent judge of a rendered picture."""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from pathlib import Path

import numpy as np
from PIL import Image

from gateway.pixels.description import PixelDescription

DCMJ2PNM = shutil.which("dcmj2pnm") or ""
ALIKE_DB = 35.0  # a mean error of 4.5 grey levels of 256


def window_options(description: PixelDescription) -> list[str]:
    """What our default presentation is in the options of dcmj2pnm."""
    if not description.is_monochrome:
        return []
    if description.voi_lut is not None:
        return ["+Wl", "1"]
    if description.windows:
        window = description.windows[0]
        function = {"SIGMOID": ["+Wfs"]}.get(window.function.value, ["+Wfl"])
        return ["+Ww", str(window.center), str(window.width), *function]
    return ["+Wm"]


def rendered_by_dcmtk(path: Path, frame_number: int, options: list[str]) -> np.ndarray | None:
    """Its picture without overlays and scaling; None where it cannot decode the file."""
    with tempfile.TemporaryDirectory() as folder:
        target = Path(folder, "picture.png")
        command = [DCMJ2PNM, "-q", "-O", "-S", "+F", str(frame_number), *options, "+on", str(path), str(target)]
        outcome = subprocess.run(command, check=False, capture_output=True, timeout=60)
        if outcome.returncode or not target.exists():
            return None
        with Image.open(target) as image:
            return np.array(image)


def psnr_db(ours: np.ndarray, theirs: np.ndarray) -> float:
    """Peak signal to noise ratio of two pictures of 8 bits; grey and colour may be compared."""
    if ours.ndim != theirs.ndim:
        ours, theirs = (np.repeat(a[..., None], 3, 2) if a.ndim == 2 else a for a in (ours, theirs))
    assert ours.shape == theirs.shape
    error = np.mean((ours.astype(np.float64) - theirs.astype(np.float64)) ** 2)
    return float("inf") if error == 0 else float(10 * np.log10(255.0**2 / error))
