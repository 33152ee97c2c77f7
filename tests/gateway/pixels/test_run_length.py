from __future__ import annotations

import struct

import numpy as np
import pytest

from gateway.pixels.decode import decode
from gateway.pixels.description import PixelDescription
from storage.errors import Undecodable
from tests.gateway.pixels.synthetic import RLE, element, metadata_of, noise, rle


def decoded(array, frame, **other):
    return decode(PixelDescription.of(metadata_of(array, **other), RLE, 1), frame)


@pytest.mark.parametrize("planar", [0, 1])
@pytest.mark.parametrize(
    ("shape", "dtype"), [((7, 5), "u1"), ((7, 5), "i2"), ((7, 5), "u4"), ((7, 5, 3), "u1"), ((7, 5, 3), "u2")]
)
def test_every_number_of_segments_comes_back_whatever_the_planar_configuration(shape, dtype, planar):
    image = noise(shape, dtype)
    image[2:5] = image[2, 2]  # something to run
    assert np.array_equal(decoded(image, rle(image), t00280006=element("US", planar)), image)


def header(*offsets: int, count: int | None = None) -> bytes:
    return struct.pack("<16L", len(offsets) if count is None else count, *offsets, *[0] * (15 - len(offsets)))


@pytest.mark.parametrize(
    "frame",
    [
        b"",
        bytes(63),
        header() + b"\0\1",
        header(64, count=16) + b"\0\1",
        header(64),
        header(60) + b"\0\1",
        header(64, 64) + b"\0\1",
        header(64, 9000) + b"\0\1",
        header(64) + b"\x05ab",
        header(64) + b"\xfe",
        header(64) + b"\xdfa",
        header(64, 66) + b"\xddab\xddab",
        header(64) + b"\x81a\x81a",
    ],
)
def test_a_malformed_or_short_frame_is_refused(frame):
    with pytest.raises(Undecodable):
        decoded(np.zeros((6, 6), "u1"), frame)


def test_one_whole_run_is_taken_with_its_padding():
    for padding in (b"", b"\x80", b"\0"):
        assert decoded(np.zeros((6, 6), "u1"), header(64) + b"\xddA" + padding).tolist() == [[65] * 6] * 6


def test_a_frame_cut_anywhere_is_refused():
    image = noise((16, 16), "u2")
    frame = rle(image)
    for cut in range(0, len(frame) - 2, 7):
        with pytest.raises(Undecodable):
            decoded(image, frame[:cut])
