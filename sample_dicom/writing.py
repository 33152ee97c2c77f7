"""From arrays to Pixel Data and from Data Sets to files: the Image Pixel module, codecs, offset tables, Part 10.

The same input gives the same bytes, whatever the version of pydicom; what a codec makes depends on the codec.
"""

from __future__ import annotations

import io
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt
from headers import uid
from openjpeg.utils import encode_array
from PIL import Image
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.encaps import encapsulate, encapsulate_extended
from pydicom.pixels.encoders.base import get_encoder
from pydicom.uid import UID, ExplicitVRLittleEndian, RLELossless

Picture = npt.NDArray[np.generic]
OffsetTable = Literal["basic", "extended", "empty"]

IMPLEMENTATION_VERSION_NAME = "SAMPLE_DICOM_1"


@dataclass(frozen=True, slots=True)
class Sample:
    """One file to write. path: below the folder of the samples; exercises: what it is there for."""

    path: str
    dataset: Dataset
    exercises: str
    transfer_syntax: UID = ExplicitVRLittleEndian


def image_pixel(
    dataset: Dataset, picture: Picture, photometric: str, bits_stored: int = 0, planar_configuration: int = 0
) -> Dataset:
    """``dataset`` with the Image Pixel module but Pixel Data. PS3.3 §C.7.6.3

    picture: one frame, (rows, columns) or (rows, columns, 3); bits_stored: all that are allocated if 0.
    """
    bits = picture.dtype.itemsize * 8
    dataset.SamplesPerPixel = 3 if picture.ndim == 3 else 1
    dataset.PhotometricInterpretation = photometric
    if picture.ndim == 3:
        dataset.PlanarConfiguration = planar_configuration
    dataset.Rows, dataset.Columns = picture.shape[:2]
    dataset.BitsAllocated = bits
    dataset.BitsStored = bits_stored or bits
    dataset.HighBit = dataset.BitsStored - 1
    dataset.PixelRepresentation = 1 if picture.dtype.kind == "i" else 0
    return dataset


def native(dataset: Dataset, pixels: Picture, *, little_endian: bool = True) -> Dataset:
    """``dataset`` with native Pixel Data, padded to even length. PS3.5 §8.1

    pixels: in the order of the standard, so (…, 3, rows, columns) for planar configuration 1.
    """
    data = pixels.astype(pixels.dtype.newbyteorder("<" if little_endian else ">")).tobytes()
    dataset.PixelData = data + b"\0" * (len(data) % 2)
    dataset["PixelData"].VR = "OB" if dataset.BitsAllocated <= 8 else "OW"
    return dataset


def encapsulated(dataset: Dataset, frames: list[bytes], table: OffsetTable = "basic", fragments: int = 1) -> Dataset:
    """``dataset`` with encapsulated Pixel Data. fragments: of each frame. PS3.5 §A.4, PS3.3 §C.7.6.3.1.8"""
    if table == "extended":
        data, offsets, lengths = encapsulate_extended(frames)
        dataset.ExtendedOffsetTable, dataset.ExtendedOffsetTableLengths = offsets, lengths
    else:
        data = encapsulate(frames, fragments_per_frame=fragments, has_bot=table == "basic")
    dataset.PixelData = data
    dataset["PixelData"].VR = "OB"
    dataset["PixelData"].is_undefined_length = True
    return dataset


def jpeg_baseline(picture: npt.NDArray[np.uint8], quality: int = 80) -> bytes:
    """JPEG process 1; colour as YCbCr with half the columns of chroma. (rows, columns[, 3]) PS3.5 §8.2.1"""
    stream = io.BytesIO()
    Image.fromarray(picture).save(stream, "JPEG", quality=quality, subsampling="4:2:2")
    return stream.getvalue()


def rle(dataset: Dataset, picture: Picture) -> bytes:
    """One frame in RLE. dataset: with its Image Pixel module. PS3.5 Annex G"""
    return bytes(
        get_encoder(RLELossless).encode(
            picture,
            rows=dataset.Rows,
            columns=dataset.Columns,
            samples_per_pixel=dataset.SamplesPerPixel,
            number_of_frames=1,
            bits_allocated=dataset.BitsAllocated,
            bits_stored=dataset.BitsStored,
            pixel_representation=dataset.PixelRepresentation,
            photometric_interpretation=dataset.PhotometricInterpretation,
            planar_configuration=0,
            encoding_plugin="pydicom",
        )
    )


def jpeg_2000(dataset: Dataset, picture: Picture) -> bytes:
    """One frame in reversible JPEG 2000; RGB is turned into YBR_RCT. dataset: with Bits Stored. PS3.5 §8.2.4"""
    colour_space = 1 if picture.ndim == 3 else 2
    return bytes(encode_array(picture, bits_stored=dataset.BitsStored, photometric_interpretation=colour_space))


def packed_bits(masks: npt.NDArray[np.bool_]) -> bytes:
    """Frames of one bit per pixel, without gaps between frames, first pixel in the lowest bit. PS3.5 §8.1.1"""
    data = np.packbits(masks.ravel(), bitorder="little").tobytes()
    return data + b"\0" * (len(data) % 2)


def write(sample: Sample, folder: Path) -> None:
    """Write the Part 10 file of ``sample`` below ``folder``. PS3.10 §7"""
    dataset = sample.dataset
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = dataset.SOPClassUID
    meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
    meta.TransferSyntaxUID = sample.transfer_syntax
    meta.ImplementationClassUID = uid("implementation")
    meta.ImplementationVersionName = IMPLEMENTATION_VERSION_NAME
    dataset.file_meta = meta
    path = folder / sample.path
    path.parent.mkdir(parents=True, exist_ok=True)
    dataset.save_as(path, enforce_file_format=True)
