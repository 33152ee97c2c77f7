from __future__ import annotations

import struct

import numpy as np
import pytest

from gateway.pixels.codestreams import Codestream
from gateway.pixels.decode import decode
from gateway.pixels.description import PixelDescription
from storage.errors import Undecodable
from tests.gateway.pixels.synthetic import JPEG_2000, jpeg2000, metadata_of, noise


def decoded(array, frame, photometric="", **other):
    return decode(PixelDescription.of(metadata_of(array, photometric, **other), JPEG_2000, 1), frame)


@pytest.mark.parametrize("dtype", ["u1", "i1", "u2", "i2"])
def test_lossless_grey_comes_back(dtype):
    image = noise((33, 40), dtype)
    assert np.array_equal(decoded(image, jpeg2000(image)), image)


@pytest.mark.parametrize("photometric", ["RGB", "YBR_RCT"])
@pytest.mark.parametrize("transformed", [True, False])
def test_colour_is_rgb_whatever_it_is_called(photometric, transformed):
    image = noise((33, 40, 3), "u1")
    frame = jpeg2000(image, photometric_interpretation=1, use_mct=transformed)
    assert Codestream.of(frame).has_component_transform is transformed
    assert np.array_equal(decoded(image, frame, photometric), image)


def test_untransformed_ybr_is_made_rgb():
    red = np.full((40, 40, 3), [76, 85, 255], "u1")
    frame = jpeg2000(red, photometric_interpretation=1, use_mct=False)
    assert np.abs(decoded(red, frame, "YBR_FULL").astype(int) - [254, 0, 0]).max() <= 1


@pytest.mark.parametrize(("declared", "encoded"), [("i2", "u2"), ("u2", "i2")])
def test_a_sign_that_contradicts_the_description_is_put_right(declared, encoded):
    image = noise((40, 40), declared)
    assert np.array_equal(decoded(image, jpeg2000(image.view(encoded))), image)


def test_a_jp2_file_around_the_codestream_is_passed_over():
    image = noise((40, 40), "u1")
    assert np.array_equal(decoded(image, jpeg2000(image, codec_format=1)), image)
    assert jpeg2000(image, codec_format=1)[4:8] == b"jP  "


def test_a_frame_cut_anywhere_is_refused():
    image = noise((32, 32), "u2")
    frame = jpeg2000(image)
    for cut in [*range(0, 120, 5), *range(120, len(frame), 97), len(frame) - 1]:
        for damaged in (frame[:cut], frame[:cut] + b"\xff\xd9"):
            if damaged != frame:
                with pytest.raises(Undecodable):
                    decoded(image, damaged)


@pytest.mark.parametrize(
    ("at", "value"),
    [
        (8, 31),
        (12, 31),
        (8, 20_000),
        (12, 20_000),
        (16, 31),
        (24, 0),
        (24, 1),
        (40, b"\0\0"),
        (40, b"\0\3"),
        (40, b"\x3f\xff"),
    ],
)
def test_a_header_that_lies_about_size_or_components_is_refused_before_decoding(at, value):
    image = noise((32, 32), "u1")
    frame = bytearray(jpeg2000(image))
    changed = value if isinstance(value, bytes) else struct.pack(">L", value)
    if at == 24 and value == 1:
        changed = struct.pack(">LL", 1, 1)  # 1024 tiles of one pixel are possible, so make the image huge too
        frame[8:16] = struct.pack(">LL", 30_000, 30_000)
    frame[at : at + len(changed)] = changed
    with pytest.raises(Undecodable) as caught:
        decoded(image, bytes(frame))
    assert caught.value.reason != "The JPEG 2000 codestream is damaged or truncated"


def test_more_bits_than_allocated_are_refused():
    image = noise((40, 40), "u2")
    with pytest.raises(Undecodable):
        decoded(image.astype("u1"), jpeg2000(image))


def test_other_data_is_refused():
    for frame in (b"", b"\xff\x4f", b"\xff\x4f\xff\x51", bytes(500), b"\xff\xd8\xff\xe0" + bytes(60)):
        with pytest.raises(Undecodable):
            decoded(np.zeros((8, 8), "u1"), frame)
