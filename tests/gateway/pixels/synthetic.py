"""Metadata and frames made from arrays, in the form in which the archive hands them over."""

from __future__ import annotations

import base64
import io
from typing import Any

import numpy as np
from openjpeg.utils import encode_array
from PIL import Image
from rle.utils import encode_pixel_data

from benchmarks.bombs import Bomb

NATIVE = "1.2.840.10008.1.2.1"
BIG_ENDIAN = "1.2.840.10008.1.2.2"
RLE = "1.2.840.10008.1.2.5"
JPEG_BASELINE = "1.2.840.10008.1.2.4.50"
JPEG_2000 = "1.2.840.10008.1.2.4.90"

Json = dict[str, Any]


def element(vr: str, *values: object) -> Json:
    return {"vr": vr, "Value": list(values)}


def sequence(*items: Json) -> Json:
    return element("SQ", *items)


def binary(data: bytes, vr: str = "OW") -> Json:
    return {"vr": vr, "InlineBinary": base64.b64encode(data).decode()}


def metadata_of(array: np.ndarray, photometric: str = "", **other: Json) -> Json:
    """The Image Pixel Module of one frame; ``other`` by tag, as in ``t00281050=``; None takes an element away."""
    samples = array.shape[2] if array.ndim == 3 else 1
    bits = 8 * array.dtype.itemsize
    kind = {"f4": "7FE00008", "f8": "7FE00009"}.get(array.dtype.str[1:], "7FE00010")
    made = {
        "00280002": element("US", samples),
        "00280004": element("CS", photometric or ("RGB" if samples == 3 else "MONOCHROME2")),
        "00280010": element("US", array.shape[0]),
        "00280011": element("US", array.shape[1]),
        "00280100": element("US", bits),
        "00280101": element("US", bits),
        "00280102": element("US", bits - 1),
        "00280103": element("US", int(array.dtype.kind == "i")),
        kind: {"vr": "OW", "BulkDataURI": "elsewhere"},
    }
    made |= {tag.removeprefix("t").upper(): value for tag, value in other.items()}
    return {tag: value for tag, value in made.items() if value is not None}


def json_of(bomb: Bomb) -> Json:
    """What the Data Set of a made image says of its pixels."""
    tags = {"SamplesPerPixel": "00280002", "Rows": "00280010", "Columns": "00280011", "BitsAllocated": "00280100"}
    tags |= {"BitsStored": "00280101", "HighBit": "00280102", "PixelRepresentation": "00280103"}
    made = {tag: element("US", bomb.attributes[keyword]) for keyword, tag in tags.items()}
    return {**made, "00280004": element("CS", bomb.attributes["PhotometricInterpretation"]), "7FE00010": {"vr": "OW"}}


def jpeg(array: np.ndarray, **options: Any) -> bytes:
    target = io.BytesIO()
    Image.fromarray(array).save(target, "JPEG", **options)
    return target.getvalue()


def jpeg2000(array: np.ndarray, **options: Any) -> bytes:
    return bytes(encode_array(array, **options))


def rle(array: np.ndarray) -> bytes:
    return encode_pixel_data(
        array.tobytes(),
        rows=array.shape[0],
        columns=array.shape[1],
        samples_per_pixel=array.shape[2] if array.ndim == 3 else 1,
        bits_allocated=8 * array.dtype.itemsize,
        number_of_frames=1,
        byteorder="<",
    )


def picture_of(data: bytes) -> np.ndarray:
    with Image.open(io.BytesIO(data)) as image:
        return np.array(image.convert("RGB" if image.mode in {"P", "RGB"} else "L"))


def noise(shape: tuple[int, ...], dtype: str, seed: int = 1) -> np.ndarray:
    information = np.iinfo(dtype)
    return np.random.default_rng(seed).integers(information.min, information.max, shape, dtype, endpoint=True)
