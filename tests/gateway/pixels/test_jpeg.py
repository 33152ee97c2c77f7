from __future__ import annotations

import contextlib
import io
import struct

import numpy as np
import pytest
from PIL import Image

from gateway.pixels.decode import decode
from gateway.pixels.description import PixelDescription
from gateway.pixels.jpeg import Stream
from storage.errors import Undecodable
from tests.gateway.pixels.synthetic import JPEG_BASELINE, jpeg, metadata_of, noise

RED = np.full((48, 48, 3), [200, 30, 40], "u1")
GREY = noise((48, 48), "u1")


def decoded(array, frame, photometric=""):
    return decode(PixelDescription.of(metadata_of(array, photometric), JPEG_BASELINE, 1), frame)


def by_pillow(frame: bytes) -> np.ndarray:
    return np.array(Image.open(io.BytesIO(frame)))


def without_markers(frame: bytes) -> bytes:
    """The codestream without JFIF or Adobe."""
    return frame[:2] + frame[4 + int.from_bytes(frame[4:6], "big") :]


def with_adobe(frame: bytes, transform: int) -> bytes:
    return frame[:2] + b"\xff\xee\x00\x0eAdobe\x00\x64\x00\x00\x00\x00" + bytes([transform]) + frame[2:]


def untransformed(array: np.ndarray) -> bytes:
    """RGB components as they are, with no word about them."""
    return without_markers(jpeg(array, quality=95, subsampling=0, keep_rgb=True))


def test_grey_is_what_libjpeg_makes_of_it():
    frame = jpeg(GREY, quality=95)
    assert np.array_equal(decoded(GREY, frame), by_pillow(frame))


@pytest.mark.parametrize("photometric", ["RGB", "YBR_FULL", "YBR_FULL_422"])
def test_jfif_says_that_the_components_are_ybr(photometric):
    frame = jpeg(RED, quality=95)
    assert frame[6:10] == b"JFIF"
    assert np.abs(decoded(RED, frame, photometric).astype(int) - RED).max() <= 3


@pytest.mark.parametrize(("transform", "is_red"), [(1, True), (0, False)])
@pytest.mark.parametrize("photometric", ["RGB", "YBR_FULL"])
def test_adobe_says_whether_they_are_even_beside_jfif(transform, is_red, photometric):
    found = decoded(RED, with_adobe(jpeg(RED, quality=95), transform), photometric)
    assert bool(np.abs(found.astype(int) - RED).max() <= 3) is is_red


def test_without_markers_the_description_says_it():
    assert np.abs(decoded(RED, untransformed(RED), "RGB").astype(int) - RED).max() <= 3
    assert np.abs(decoded(RED, without_markers(jpeg(RED, quality=95)), "YBR_FULL").astype(int) - RED).max() <= 3


def test_components_of_unequal_size_are_ybr_whatever_the_description_says():
    frame = without_markers(jpeg(RED, quality=95, subsampling=2))
    assert Stream.of(frame).is_subsampled
    assert np.abs(decoded(RED, frame, "RGB").astype(int) - RED).max() <= 3


@pytest.mark.parametrize("rest", [b"\0", b"garbage after the end", b"\xff\xd8\xff\xd9", b"\xff" * 7])
def test_what_follows_the_end_is_passed_over(rest):
    frame = jpeg(GREY, quality=95)
    assert np.array_equal(decoded(GREY, frame + rest), by_pillow(frame))


def test_fill_bytes_before_markers_and_application_data_are_passed_over():
    frame = jpeg(GREY, quality=95)
    comment = b"\xff\xff\xff\xfe\x00\x06\xff\xd9\xff\xd8"
    filled = frame[:2] + comment + frame[2:-2] + b"\xff\xff\xff\xd9"
    assert np.array_equal(decoded(GREY, filled), by_pillow(frame))


@pytest.mark.parametrize("options", [{}, {"restart_marker_rows": 1}, {"restart_marker_blocks": 2}, {"optimize": True}])
@pytest.mark.parametrize("array", [GREY, noise((48, 48, 3), "u1")], ids=["grey", "colour"])
def test_a_frame_cut_anywhere_is_refused_even_with_an_end_put_on(array, options):
    frame = jpeg(array, quality=90, **options)
    last_unit = 250 if array.ndim == 3 else 80  # a cut within it leaves no block out
    start = frame.index(b"\xff\xda") + 4
    for cut in [*range(0, start, 61), *range(start, start + 40), *range(start + 40, len(frame) - last_unit, 17)]:
        for damaged in (frame[:cut], frame[:cut] + b"\xff\xd9"):
            with pytest.raises(Undecodable):
                decoded(array, damaged)
    with pytest.raises(Undecodable):
        decoded(array, frame[:-2])
    assert decoded(array, frame).shape == array.shape


def test_an_interval_lost_in_the_middle_is_found():
    frame = jpeg(GREY, quality=90, restart_marker_rows=1)
    first, second = frame.index(b"\xff\xd1"), frame.index(b"\xff\xd2")
    with pytest.raises(Undecodable):
        decoded(GREY, frame[: first + 2] + frame[second:])


@pytest.mark.parametrize("shape", [(48, 48), (17, 9), (8, 8), (1, 1), (100, 3), (33, 50, 3)])
def test_an_image_that_is_middle_grey_is_whole(shape):
    grey = np.full(shape, 128, "u1")
    assert np.array_equal(decoded(grey, jpeg(grey, quality=90)), grey)
    assert np.array_equal(decoded(grey, jpeg(grey, quality=90, restart_marker_blocks=1)), grey)


def test_a_bomb_of_a_few_bytes_is_refused():
    small = jpeg(np.full((8, 8), 128, "u1"))
    at = small.index(b"\xff\xc0") + 5
    bomb = small[:at] + struct.pack(">HH", 8_000, 8_000) + small[at + 4 :]
    with pytest.raises(Undecodable) as caught:
        decoded(np.broadcast_to(np.zeros((), "u1"), (8_000, 8_000)), bomb)
    assert caught.value.reason == "The frame is truncated"
    with pytest.raises(Undecodable) as caught:
        decoded(np.zeros((8, 8), "u1"), bomb)
    assert caught.value.reason == "The size of the codestream is not that of the description"


@pytest.mark.parametrize(
    ("old", "new", "reason"),
    [
        (b"\xff\xc0", b"\xff\xc2", "This process of JPEG is not supported"),
        (b"\xff\xc0", b"\xff\xc3", "This process of JPEG is not supported"),
        (b"\xff\xc0\x00\x0b\x08", b"\xff\xc0\x00\x0b\x0c", "JPEG of 12 bits is not supported"),
        (b"\xff\xd8", b"\xff\xd0", "The frame is not a JPEG codestream"),
    ],
)
def test_other_processes_are_refused(old, new, reason):
    with pytest.raises(Undecodable) as caught:
        decoded(GREY, jpeg(GREY).replace(old, new, 1))
    assert caught.value.reason == reason


def test_every_single_damaged_byte_gives_a_picture_or_a_refusal():
    frame = jpeg(GREY[:16, :16])
    for at in range(len(frame)):
        for value in (0, 0xFF, frame[at] ^ 0x10):
            damaged = frame[:at] + bytes([value]) + frame[at + 1 :]
            with contextlib.suppress(Undecodable):
                assert decoded(GREY[:16, :16], damaged).shape == (16, 16)
