"""What the archive would hand to the pixels room for a Part 10 file, by way of pydicom: an independent reader."""

from __future__ import annotations

import base64
import warnings
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
from pydicom.dataset import Dataset
from pydicom.encaps import generate_frames

PIXEL_KEYWORDS = ("PixelData", "FloatPixelData", "DoubleFloatPixelData")
BIG_ENDIAN, NATIVE = "1.2.840.10008.1.2.2", "1.2.840.10008.1.2.1"
_WORD_BYTES = {"OW": 2, "OL": 4, "OF": 4, "OD": 8}
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
        frames = _frames(data_set, keyword) if keyword else ()
        metadata = data_set.to_json_dict(
            bulk_data_threshold=64 << 10,
            bulk_data_element_handler=lambda element: "elsewhere",
            suppress_invalid_tags=True,
        )
        if keyword:
            tag = f"{data_set[keyword].tag:08X}"
            metadata[tag] = {"vr": data_set[keyword].VR, "BulkDataURI": "elsewhere"}
    return Source(path, metadata, uid, frames, data_set)


def _frames(data_set: Dataset, keyword: str) -> tuple[bytes, ...]:
    data = data_set[keyword].value
    count = int(data_set.get("NumberOfFrames") or 1)
    if data_set[keyword].is_undefined_length:
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


def handed_over(source: Source) -> Source:
    """The same as the doors give it to the pixels room: words in the order of little endian. PS3.5 §7.3"""
    if source.transfer_syntax_uid != BIG_ENDIAN:
        return source
    keyword = next(keyword for keyword in PIXEL_KEYWORDS if keyword in source.data_set)
    size = _WORD_BYTES.get(source.data_set[keyword].VR, 1)
    frames = tuple(_turned(frame, size) for frame in source.frames)
    return replace(source, metadata=_with_turned_words(source.metadata), transfer_syntax_uid=NATIVE, frames=frames)


def _with_turned_words(json: dict[str, Any]) -> dict[str, Any]:
    made = {}
    for tag, element in json.items():
        made[tag] = element
        if element["vr"] == "SQ":
            made[tag] = {"vr": "SQ", "Value": [_with_turned_words(item) for item in element.get("Value", [])]}
        elif "InlineBinary" in element:
            turned = _turned(base64.b64decode(element["InlineBinary"]), _WORD_BYTES.get(element["vr"], 1))
            made[tag] = {**element, "InlineBinary": base64.b64encode(turned).decode()}
    return made


def _turned(data: bytes, size: int) -> bytes:
    return np.frombuffer(data, f"u{size}").byteswap().tobytes()
