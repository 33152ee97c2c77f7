"""Frames that we encode, judged by decoders that are not ours: pydicom's, and DCMTK's where it has one."""

from __future__ import annotations

import subprocess

import numpy as np
import pytest
from pydicom import dcmread
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.pixels import pixel_array
from pydicom.uid import UID

from gateway.pixels.codecs import (
    DECODED_WITH,
    ENCODED_WITH,
    HTJ2K_LOSSLESS,
    JPEG_2000_LOSSLESS,
    JPEG_LS_LOSSLESS,
    can_decode,
    encodings,
)
from gateway.pixels.decode import DECODERS
from gateway.pixels.encode import ENCODERS, transcode
from gateway.pixels.options import PNG, RenderOptions, Window
from gateway.pixels.render import render
from storage.errors import Undecodable
from storage.uids import EXPLICIT_VR_LITTLE_ENDIAN, RLE_LOSSLESS
from tests.gateway.pixels.synthetic import NATIVE, element, metadata_of, noise

COMPRESSED = (RLE_LOSSLESS, JPEG_LS_LOSSLESS, JPEG_2000_LOSSLESS, HTJ2K_LOSSLESS)
DCMTK = {RLE_LOSSLESS: "dcmdrle", JPEG_LS_LOSSLESS: "dcmdjpls"}


def frame(shape, dtype, low, high):
    """Smooth with noise on it, so that predictors have something to predict."""
    rows, columns, *samples = shape
    ramp = np.linspace(low, high - 1, rows * columns).reshape(rows, columns)
    values = ramp[..., None].repeat(samples[0], 2) if samples else ramp
    return np.clip(values + np.random.default_rng(3).integers(-9, 9, shape), low, high - 1).astype(dtype)


FRAMES = {
    "8 bits": (frame((31, 47), "u1", 0, 256), 8),
    "12 of 16 bits": (frame((31, 47), "<u2", 0, 4096), 12),
    "16 bits": (frame((31, 47), "<u2", 0, 65536), 16),
    "16 bits with sign": (frame((31, 47), "<i2", -32768, 32768), 16),
    "12 of 16 bits with sign": (frame((31, 47), "<i2", -2048, 2048), 12),
    "RGB": (frame((31, 47, 3), "u1", 0, 256), 8),
    "RGB of 16 bits": (frame((31, 47, 3), "<u2", 0, 65536), 16),
    "one pixel": (frame((1, 1), "u1", 0, 256), 8),
    "a line": (frame((1, 300), "<u2", 0, 4096), 12),
}


def described(array, bits):
    return metadata_of(array, t00280101=element("US", bits), t00280102=element("US", bits - 1))


def encapsulated(made, array, bits, syntax):
    """The frame in a Data Set, as a reader gets it."""
    data_set = Dataset()
    data_set.file_meta = FileMetaDataset()
    data_set.file_meta.TransferSyntaxUID = UID(syntax)
    data_set.file_meta.MediaStorageSOPClassUID = data_set.SOPClassUID = "1.2.840.10008.5.1.4.1.1.7"
    data_set.file_meta.MediaStorageSOPInstanceUID = data_set.SOPInstanceUID = "1.2.3.4"
    data_set.Rows, data_set.Columns = array.shape[:2]
    data_set.SamplesPerPixel = array.shape[2] if array.ndim == 3 else 1
    data_set.PhotometricInterpretation = made.photometric_interpretation
    if array.ndim == 3:
        data_set.PlanarConfiguration = 0
    data_set.BitsAllocated, data_set.BitsStored, data_set.HighBit = 8 * array.dtype.itemsize, bits, bits - 1
    data_set.PixelRepresentation = int(array.dtype.kind == "i")
    data_set.PixelData = encapsulate([made.frame])
    data_set["PixelData"].VR = "OB"
    return data_set


@pytest.mark.parametrize("syntax", COMPRESSED)
@pytest.mark.parametrize("name", FRAMES)
def test_pydicom_decodes_what_was_encoded_to_the_same_values(name, syntax):
    array, bits = FRAMES[name]
    made = transcode(described(array, bits), NATIVE, 1, array.tobytes(), syntax)
    theirs = pixel_array(encapsulated(made, array, bits, syntax), raw=True)
    assert np.array_equal(theirs, array)


@pytest.mark.needs("dcmdrle", "dcmdjpls")
@pytest.mark.parametrize("syntax", DCMTK)
@pytest.mark.parametrize("name", FRAMES)
def test_dcmtk_decodes_what_was_encoded_to_the_same_values(name, syntax, tmp_path):
    array, bits = FRAMES[name]
    made = transcode(described(array, bits), NATIVE, 1, array.tobytes(), syntax)
    compressed, plain = tmp_path / "compressed.dcm", tmp_path / "plain.dcm"
    encapsulated(made, array, bits, syntax).save_as(compressed, enforce_file_format=True)
    run = subprocess.run([DCMTK[syntax], compressed, plain], capture_output=True, text=True, check=False, timeout=60)
    assert run.returncode == 0, run.stderr
    found = dcmread(plain)
    values = np.frombuffer(found.PixelData, array.dtype)[: array.size]
    if found.get("PlanarConfiguration") == 1:
        values = values.reshape(3, *array.shape[:2]).transpose(1, 2, 0)
    assert np.array_equal(values.reshape(array.shape), array)


@pytest.mark.parametrize("name", FRAMES)
def test_each_encoding_leads_back_to_the_native_frame(name):
    array, bits = FRAMES[name]
    json = described(array, bits)
    for syntax in COMPRESSED:
        made = transcode(json, NATIVE, 1, array.tobytes(), syntax)
        back = transcode(json, syntax, 1, made.frame, EXPLICIT_VR_LITTLE_ENDIAN)
        assert (back.frame, back.photometric_interpretation) == (array.tobytes(), made.photometric_interpretation)


def test_rle_holds_words_of_32_bits():
    array = noise((9, 7), "<u4")
    made = transcode(metadata_of(array), NATIVE, 1, array.tobytes(), RLE_LOSSLESS)
    assert np.array_equal(pixel_array(encapsulated(made, array, 32, RLE_LOSSLESS), raw=True), array)


@pytest.mark.parametrize("syntax", [JPEG_LS_LOSSLESS, JPEG_2000_LOSSLESS, HTJ2K_LOSSLESS])
def test_what_a_codec_cannot_hold_is_refused_by_its_reason(syntax):
    deep, real = noise((4, 4), "<u4"), np.ones((4, 4), "<f4")
    for array, reason in ((deep, "depth"), (real, "Floating point")):
        with pytest.raises(Undecodable, match=reason):
            transcode(metadata_of(array), NATIVE, 1, array.tobytes(), syntax)


@pytest.mark.parametrize("syntax", [EXPLICIT_VR_LITTLE_ENDIAN, *COMPRESSED])
@pytest.mark.parametrize("kind", ["<u2", "<i2"])
def test_bits_beside_those_stored_are_kept(kind, syntax):
    """Overlays lie there in older images; and some writers do not extend the sign."""
    array = noise((16, 24), kind)
    for stored, high in ((12, 11), (12, 15)):
        json = metadata_of(array, t00280101=element("US", stored), t00280102=element("US", high))
        made = transcode(json, NATIVE, 1, array.tobytes(), syntax)
        if syntax == EXPLICIT_VR_LITTLE_ENDIAN:
            assert made.frame == array.tobytes()
            continue
        theirs = pixel_array(encapsulated(made, array, 16, syntax), raw=True)
        assert np.array_equal(theirs.view(kind), array)


@pytest.mark.parametrize("syntax", [EXPLICIT_VR_LITTLE_ENDIAN, *COMPRESSED])
@pytest.mark.parametrize("kind", ["<u2", "<i2"])
def test_a_picture_is_the_same_from_every_encoding_of_what_has_bits_beside_those_stored(kind, syntax):
    array = noise((16, 24), kind)
    for stored, high in ((12, 11), (12, 15), (10, 13)):
        json = metadata_of(array, t00280101=element("US", stored), t00280102=element("US", high))
        made = transcode(json, NATIVE, 1, array.tobytes(), syntax)
        again = transcode(json, syntax, 1, made.frame, EXPLICIT_VR_LITTLE_ENDIAN)
        assert again.frame == array.tobytes()
        options = RenderOptions(PNG, window=Window(100, 900))
        pictures = [
            render(json, uid, 1, frame, options) for uid, frame in ((NATIVE, array.tobytes()), (syntax, made.frame))
        ]
        assert pictures[0] == pictures[1]


def test_an_unknown_target_and_what_is_no_image_are_refused():
    array = np.zeros((2, 2), "u1")
    with pytest.raises(Undecodable, match="No encoder"):
        transcode(metadata_of(array), NATIVE, 1, array.tobytes(), "1.2.840.10008.1.2.4.50")
    with pytest.raises(Undecodable):
        transcode({}, NATIVE, 1, b"", RLE_LOSSLESS)


def test_single_bits_are_packed_and_refused_where_frames_share_bytes():
    bits = (noise((4, 6), "u1") & 1).astype("u1")
    packed = np.packbits(bits, bitorder="little").tobytes()
    one = metadata_of(bits, t00280100=element("US", 1), t00280101=element("US", 1), t00280102=element("US", 0))
    assert transcode(one, NATIVE, 1, packed, EXPLICIT_VR_LITTLE_ENDIAN).frame == packed
    odd = noise((3, 3), "u1") & 1
    many = metadata_of(
        odd,
        t00280100=element("US", 1),
        t00280101=element("US", 1),
        t00280102=element("US", 0),
        t00280008=element("IS", 2),
    )
    with pytest.raises(Undecodable, match="share bytes"):
        transcode(many, NATIVE, 1, np.packbits(odd, bitorder="little").tobytes(), EXPLICIT_VR_LITTLE_ENDIAN)


def test_the_tables_name_what_the_functions_do():
    assert set(DECODED_WITH) == set(DECODERS)
    assert set(ENCODED_WITH) == set(ENCODERS)
    assert encodings() == tuple(ENCODED_WITH)
    assert encodings()[0] == EXPLICIT_VR_LITTLE_ENDIAN
    assert can_decode(JPEG_LS_LOSSLESS)
    assert not can_decode("1.2.840.10008.1.2.4.100")
