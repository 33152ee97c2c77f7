"""What the archive would hand to the pixels room for a Part 10 file, by way of pydicom: an independent reader."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
from pydicom.dataset import Dataset
from pydicom.encaps import generate_frames

PIXEL_KEYWORDS = ("PixelData", "FloatPixelData", "DoubleFloatPixelData")
BUNDLED = Path(pydicom.__file__).parent / "data" / "test_files"


@dataclass(frozen=True)
class Source:
    """One file: the metadata in the DICOM JSON Model, without pixels, and the frames as stored."""

    path: Path
    metadata: dict[str, Any]
    transfer_syntax_uid: str
    frames: tuple[bytes, ...]
    data_set: Dataset


def read(path: Path) -> Source:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        data_set = pydicom.dcmread(path, force=True)
        keyword = next((keyword for keyword in PIXEL_KEYWORDS if keyword in data_set), None)
        uid = str(data_set.file_meta.get("TransferSyntaxUID", "1.2.840.10008.1.2"))
        frames = _frames(data_set, keyword, uid) if keyword else ()
        metadata = data_set.to_json_dict(
            bulk_data_threshold=64 << 10,
            bulk_data_element_handler=lambda element: "elsewhere",
            suppress_invalid_tags=True,
        )
        if keyword:
            tag = f"{data_set[keyword].tag:08X}"
            metadata[tag] = {"vr": data_set[keyword].VR, "BulkDataURI": "elsewhere"}
    return Source(path, metadata, uid, frames, data_set)


def _frames(data_set: Dataset, keyword: str, uid: str) -> tuple[bytes, ...]:
    data = data_set[keyword].value
    count = int(data_set.get("NumberOfFrames") or 1)
    if pydicom.uid.UID(uid).is_encapsulated:
        return tuple(generate_frames(data, number_of_frames=count))
    bits = data_set.Rows * data_set.Columns * data_set.SamplesPerPixel * data_set.BitsAllocated
    if data_set.PhotometricInterpretation == "YBR_FULL_422":
        bits = bits * 2 // 3
    if count == 1:
        return (data[: bits // 16 * 2 + (2 if bits % 16 else 0)],)
    if bits % 8:
        singles = np.unpackbits(np.frombuffer(data, np.uint8), bitorder="little")
        return tuple(np.packbits(singles[n * bits : (n + 1) * bits], bitorder="little").tobytes() for n in range(count))
    return tuple(data[n * bits // 8 : (n + 1) * bits // 8] for n in range(count))
