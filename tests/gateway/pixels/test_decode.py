from __future__ import annotations

import dataclasses
import warnings
import zlib

import imagecodecs
import numpy as np
import pytest
from pydicom.pixels import pixel_array

from gateway.pixels.decode import DECODERS, decode
from gateway.pixels.description import PixelDescription
from storage.errors import Undecodable
from storage.uids import TRANSFER_SYNTAXES
from tests.gateway.pixels.part10 import BUNDLED, read
from tests.gateway.pixels.synthetic import NATIVE, element, metadata_of, noise

# Every bundled image whose pixels both pydicom and we can decode; what each exercises stands in its name.
SAME_AS_PYDICOM = """
    693_J2KI CT_small ExplVR_BigEnd J2K_pixelrep_mismatch JPEG2000 JPEGLSNearLossless_08 JPEGLSNearLossless_16
    MR_small MR_small_RLE MR_small_bigendian MR_small_jpeg_ls_lossless SC_rgb_jls_lossy_line SC_rgb_jls_lossy_sample
    MR_small_expb MR_small_implicit MR_small_jp2klossless MR_small_padded SC_jpeg_no_color_transform
    SC_jpeg_no_color_transform_2 SC_rgb_dcmtk_+eb+cr SC_rgb_dcmtk_+eb+cy+n1 SC_rgb_dcmtk_+eb+cy+n2
    SC_rgb_dcmtk_+eb+cy+np SC_rgb_dcmtk_+eb+cy+s2 SC_rgb_dcmtk_+eb+cy+s4 SC_rgb_gdcm_KY SC_rgb_jpeg
    SC_rgb_jpeg_app14_dcmd SC_rgb_jpeg_dcmd SC_rgb_jpeg_dcmtk SC_rgb_jpeg_lossy_gdcm SC_rgb_rle SC_rgb_rle_16bit
    SC_rgb_rle_16bit_2frame SC_rgb_rle_2frame SC_rgb_rle_32bit SC_rgb_rle_32bit_2frame SC_rgb_small_odd
    SC_rgb_small_odd_big_endian SC_rgb_small_odd_jpeg SC_ybr_full_422_uncompressed examples_jpeg2k examples_overlay
    examples_palette examples_rgb_color examples_ybr_color image_dfl liver_1frame liver_expb_1frame rtdose
    rtdose_1frame rtdose_expb rtdose_expb_1frame rtdose_rle rtdose_rle_1frame
""".split()  # noqa: SIM905 - a table to be read

REFUSED = {
    "JPEG2000-embedded-sequence-delimiter": "The JPEG 2000 codestream has an impossible number of tiles",
    "MR_truncated": "The frame is truncated",
}


@pytest.mark.parametrize("name", SAME_AS_PYDICOM)
def test_decoded_frames_equal_those_of_pydicom(name):
    source = read(BUNDLED / f"{name}.dcm")
    for number in sorted({1, len(source.frames)}):
        description = PixelDescription.of(source.metadata, source.transfer_syntax_uid, number)
        ours = decode(description, source.frames[number - 1])
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            theirs = pixel_array(source.data_set, index=number - 1, raw=False)
        assert ours.shape == theirs.shape
        assert ours.dtype == theirs.dtype.newbyteorder("=")
        # Two roundings of the same YBR matrix may differ by one.
        tolerance = int(description.photometric_interpretation == "YBR_FULL_422")
        assert np.abs(ours.astype(np.int64) - theirs.astype(np.int64)).max() <= tolerance


@pytest.mark.parametrize("name", REFUSED)
def test_what_no_decoder_takes_is_refused_with_its_reason(name):
    source = read(BUNDLED / f"{name}.dcm")
    description = PixelDescription.of(source.metadata, source.transfer_syntax_uid, 1)
    with pytest.raises(Undecodable) as caught:
        decode(description, source.frames[0])
    assert caught.value.reason == REFUSED[name]


def test_every_known_transfer_syntax_decodes_or_is_refused():
    description = PixelDescription.of(metadata_of(np.zeros((2, 2), "u1")), NATIVE, 1)
    for uid in [*TRANSFER_SYNTAXES, "1.2.3"]:
        other = dataclasses.replace(description, transfer_syntax_uid=uid)
        with pytest.raises(Undecodable):
            decode(other, b"\xff")
    assert len(DECODERS) == 21


def test_a_frame_deflated_on_its_own_is_inflated_and_no_further_than_its_size():
    image = noise((16, 16), "u2")
    description = PixelDescription.of(metadata_of(image), "1.2.840.10008.1.2.8.1", 1)
    assert np.array_equal(decode(description, raw_deflate(image.tobytes())), image)
    for broken in (b"\xff\xff\xff", raw_deflate(image.tobytes())[:100], raw_deflate(image.tobytes() * 9)):
        with pytest.raises(Undecodable):
            decode(description, broken)


def raw_deflate(data: bytes) -> bytes:
    deflater = zlib.compressobj(wbits=-15)
    return deflater.compress(data) + deflater.flush()


def test_floating_point_pixels_have_no_compressed_form():
    description = PixelDescription.of(metadata_of(np.zeros((2, 2), "f4")), "1.2.840.10008.1.2.5", 1)
    with pytest.raises(Undecodable):
        decode(description, bytes(64))


def ybr_of(rgb: np.ndarray, bits: int) -> np.ndarray:
    """YBR_FULL by the equations of PS3.3 §C.7.6.3.1.2, written as it has them."""
    red, green, blue = (rgb[..., n].astype(np.float64) for n in range(3))
    middle = 1 << (bits - 1)
    y = 0.2990 * red + 0.5870 * green + 0.1140 * blue
    cb = -0.1687 * red - 0.3313 * green + 0.5000 * blue + middle
    cr = 0.5000 * red - 0.4187 * green - 0.0813 * blue + middle
    return np.stack((y, cb, cr), axis=-1).clip(0, (1 << bits) - 1)


@pytest.mark.parametrize("bits", [10, 12, 16])
def test_ybr_of_more_than_8_bits_becomes_rgb(bits):
    rgb = noise((16, 12, 3), "u2") >> (16 - bits)
    ybr = np.rint(ybr_of(rgb, bits)).astype("u2")
    stored, high = element("US", bits), element("US", bits - 1)
    metadata = metadata_of(ybr, "YBR_FULL", t00280101=stored, t00280102=high)
    values = decode(PixelDescription.of(metadata, NATIVE, 1), ybr.tobytes())
    assert np.abs(values.astype(int) - rgb.astype(int)).max() <= 2 + (1 << bits) // 4000


def test_partial_ybr_reaches_from_black_to_white():
    pixels = np.array([[(16, 235, 128, 128), (16, 16, 128, 128)], [(81, 81, 90, 240), (145, 145, 54, 34)]], "u1")
    metadata = metadata_of(np.zeros((2, 4, 3), "u1"), "YBR_PARTIAL_422")
    values = decode(PixelDescription.of(metadata, NATIVE, 1), pixels.tobytes())
    assert values[0].tolist() == [[0] * 3, [255] * 3, [0] * 3, [0] * 3]
    assert np.abs(values[1, 0].astype(int) - [255, 0, 0]).max() <= 1
    assert np.abs(values[1, 2].astype(int) - [0, 255, 0]).max() <= 1


def test_the_colours_of_jpeg_xl_are_only_what_a_codestream_of_jpeg_xl_has():
    image = noise((8, 8, 3), "u1")
    frame = imagecodecs.jpegxl_encode(image, lossless=True)
    metadata = metadata_of(image, "XYB")
    assert np.array_equal(decode(PixelDescription.of(metadata, "1.2.840.10008.1.2.4.112", 1), frame), image)
    with pytest.raises(Undecodable, match="JPEG XL"):
        decode(PixelDescription.of(metadata, NATIVE, 1), image.tobytes())
