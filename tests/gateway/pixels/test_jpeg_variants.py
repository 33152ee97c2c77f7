"""Frames that DCMTK and libjxl have encoded, whole and broken."""

from __future__ import annotations

import subprocess

import numpy as np
import pytest
from pydicom import dcmread
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.encaps import generate_frames

from gateway.pixels.decode import decode
from gateway.pixels.description import PixelDescription
from storage.errors import Undecodable
from tests.gateway.pixels.synthetic import element, metadata_of
from tests.gateway.pixels.test_encode import FRAMES

EXTENDED, LOSSLESS, LOSSLESS_SV1 = (f"1.2.840.10008.1.2.4.{last}" for last in ("51", "57", "70"))
JPEG_LS, NEAR, JPEG_XL = (f"1.2.840.10008.1.2.4.{last}" for last in ("80", "81", "110"))
ENCODERS = {
    LOSSLESS_SV1: ["dcmcjpeg", "+e1"],
    LOSSLESS: ["dcmcjpeg", "+el", "+sv", "6"],
    JPEG_LS: ["dcmcjpls", "+el"],
}
UNSIGNED = {name: found for name, found in FRAMES.items() if found[0].dtype.kind == "u" and found[0].size > 1}


def description_of(array, bits, syntax, **other):
    json = metadata_of(array, t00280101=element("US", bits), t00280102=element("US", bits - 1), **other)
    return PixelDescription.of(json, syntax, 1)


def encoded(array, bits, words, folder):
    """The frame as a program of DCMTK encodes it."""
    data_set = Dataset()
    data_set.file_meta = FileMetaDataset()
    data_set.file_meta.TransferSyntaxUID = "1.2.840.10008.1.2.1"
    data_set.file_meta.MediaStorageSOPClassUID = data_set.SOPClassUID = "1.2.840.10008.5.1.4.1.1.7"
    data_set.file_meta.MediaStorageSOPInstanceUID = data_set.SOPInstanceUID = "1.2.3.4"
    data_set.Rows, data_set.Columns = array.shape[:2]
    data_set.SamplesPerPixel = array.shape[2] if array.ndim == 3 else 1
    data_set.PhotometricInterpretation = "RGB" if array.ndim == 3 else "MONOCHROME2"
    if array.ndim == 3:
        data_set.PlanarConfiguration = 0
    data_set.BitsAllocated, data_set.BitsStored, data_set.HighBit = 8 * array.dtype.itemsize, bits, bits - 1
    data_set.PixelRepresentation = 0
    raw = array.tobytes()
    data_set.PixelData = raw + bytes(len(raw) % 2)
    data_set["PixelData"].VR = "OW" if array.dtype.itemsize > 1 else "OB"
    data_set.save_as(folder / "plain.dcm", enforce_file_format=True)
    run = subprocess.run(
        [*words, folder / "plain.dcm", folder / "made.dcm"], capture_output=True, text=True, check=False, timeout=60
    )
    assert run.returncode == 0, run.stderr
    made = dcmread(folder / "made.dcm")
    return next(iter(generate_frames(made.PixelData, number_of_frames=1))), made


@pytest.mark.needs("dcmcjpeg", "dcmcjpls")
@pytest.mark.parametrize("syntax", ENCODERS)
@pytest.mark.parametrize("name", UNSIGNED)
def test_what_dcmtk_encodes_without_loss_is_decoded_to_the_same_values(name, syntax, tmp_path):
    array, bits = UNSIGNED[name]
    frame, made = encoded(array, bits, ENCODERS[syntax], tmp_path)
    assert made.file_meta.TransferSyntaxUID == syntax
    ours = decode(description_of(array, bits, syntax), frame)
    assert np.array_equal(ours, array)


@pytest.mark.needs("dcmcjpeg", "dcmdjpeg")
def test_12_bits_with_loss_are_decoded_as_dcmtk_decodes_them(tmp_path):
    array, bits = FRAMES["12 of 16 bits"]
    frame, made = encoded(array, bits, ["dcmcjpeg", "+ee", "+q", "90"], tmp_path)
    assert made.file_meta.TransferSyntaxUID == EXTENDED
    subprocess.run(["dcmdjpeg", tmp_path / "made.dcm", tmp_path / "back.dcm"], check=True, timeout=60)
    theirs = np.frombuffer(dcmread(tmp_path / "back.dcm").PixelData, "<u2")[: array.size].reshape(array.shape)
    ours = decode(description_of(array, bits, EXTENDED), frame)
    assert np.abs(ours.astype(int) - theirs).max() <= 1  # two roundings of one transform
    assert np.abs(ours.astype(int) - array).max() < 200


@pytest.mark.needs("dcmcjpls")
def test_near_lossless_is_within_its_bound(tmp_path):
    array, bits = FRAMES["8 bits"]
    frame, made = encoded(array, bits, ["dcmcjpls", "+en", "+md", "3"], tmp_path)
    assert made.file_meta.TransferSyntaxUID == NEAR
    ours = decode(description_of(array, bits, NEAR), frame)
    assert 0 < np.abs(ours.astype(int) - array).max() <= 3


@pytest.mark.parametrize("name", UNSIGNED)
def test_jpeg_xl_without_loss_is_the_same_values(name):
    imagecodecs = pytest.importorskip("imagecodecs")
    array, bits = UNSIGNED[name]
    frame = imagecodecs.jpegxl_encode(array, lossless=True)
    assert np.array_equal(decode(description_of(array, bits, JPEG_XL), frame), array)


@pytest.mark.needs("dcmcjpeg", "dcmcjpls")
@pytest.mark.parametrize("syntax", ENCODERS)
def test_a_broken_frame_is_refused(syntax, tmp_path):
    array, bits = FRAMES["12 of 16 bits"]
    frame, _ = encoded(array, bits, ENCODERS[syntax], tmp_path)
    description = description_of(array, bits, syntax)
    end = frame.rindex(b"\xff\xd9")
    shorter = [frame[:cut] for cut in (0, 1, 2, 10, 25, len(frame) // 2, end - 1)]
    shorter += [frame[:cut] + b"\xff\xd9" for cut in (len(frame) // 2, end - 40)]
    for broken in shorter:
        with pytest.raises(Undecodable):
            decode(description, broken)


@pytest.mark.needs("dcmcjpeg", "dcmcjpls")
@pytest.mark.parametrize("syntax", ENCODERS)
def test_a_frame_of_another_size_or_depth_is_refused_before_it_is_decoded(syntax, tmp_path):
    array, bits = FRAMES["12 of 16 bits"]
    frame, _ = encoded(array, bits, ENCODERS[syntax], tmp_path)
    with pytest.raises(Undecodable, match="size"):
        decode(description_of(array[:-1], bits, syntax), frame)
    with pytest.raises(Undecodable, match="bits"):
        decode(description_of(array.astype("u1"), 8, syntax), frame)


@pytest.mark.parametrize("syntax", [EXTENDED, LOSSLESS, LOSSLESS_SV1, JPEG_LS, NEAR, JPEG_XL])
def test_noise_is_refused(syntax):
    array = FRAMES["8 bits"][0]
    description = description_of(array, 8, syntax)
    generator = np.random.default_rng(8)
    for size in (0, 1, 2, 64, 5000):
        for start in (b"", b"\xff\xd8\xff"):
            with pytest.raises(Undecodable):
                decode(description, start + generator.bytes(size))
