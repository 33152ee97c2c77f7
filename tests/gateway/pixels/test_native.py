from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.pixels.decode import decode
from gateway.pixels.description import PixelDescription
from gateway.pixels.native import frame_bytes
from storage.errors import Undecodable
from tests.gateway.pixels.synthetic import BIG_ENDIAN, NATIVE, element, metadata_of, noise


def decoded(array, frame, transfer_syntax_uid=NATIVE, photometric="", **other):
    return decode(PixelDescription.of(metadata_of(array, photometric, **other), transfer_syntax_uid, 1), frame)


@pytest.mark.parametrize("dtype", ["u1", "i1", "u2", "i2", "u4", "i4", "f4", "f8"])
@pytest.mark.parametrize(("uid", "order"), [(NATIVE, "<"), (BIG_ENDIAN, ">")])
def test_every_width_is_read_in_either_byte_order(dtype, uid, order):
    image = noise((5, 6), "u1").astype(dtype) - (100 if dtype[0] != "u" else 0)
    found = decoded(
        image, image.astype(order + dtype).tobytes(), uid, t7fe00010={"vr": "OB"} if dtype[1] == "1" else None
    )
    assert np.array_equal(found, image)
    assert found.dtype == np.dtype(dtype)


def test_bytes_of_words_are_swapped_back_in_big_endian():
    image = noise((3, 4), "u1")
    swapped = image.reshape(-1, 2)[:, ::-1].tobytes()
    assert np.array_equal(decoded(image, swapped, BIG_ENDIAN), image)
    with pytest.raises(Undecodable):
        decoded(image[:, :3], swapped[:9], BIG_ENDIAN)


@given(stored=st.integers(2, 16), spare=st.integers(0, 14), seed=st.integers(0, 99), signed=st.booleans())
def test_only_stored_bits_count_and_their_sign_is_extended(stored, spare, seed, signed):
    shift = min(spare, 16 - stored)
    low = -(1 << (stored - 1)) if signed else 0
    values = np.random.default_rng(seed).integers(low, low + (1 << stored), (4, 5)).astype("i4")
    rubbish = noise((4, 5), "u2", seed).astype("i4") & ~(((1 << stored) - 1) << shift)
    frame = (((values & ((1 << stored) - 1)) << shift) | rubbish).astype("<u2").tobytes()
    found = decoded(
        np.zeros((4, 5), "i2" if signed else "u2"),
        frame,
        t00280101=element("US", stored),
        t00280102=element("US", stored - 1 + shift),
    )
    assert np.array_equal(found, values)


def test_single_bits_are_unpacked_from_the_lowest():
    mask = np.zeros((3, 3), "u1")
    mask[0, 0] = mask[1, 2] = mask[2, 2] = 1
    frame = np.packbits(mask.ravel(), bitorder="little").tobytes()
    bits = {"t00280100": element("US", 1), "t00280101": element("US", 1), "t00280102": element("US", 0)}
    assert len(frame) == 2
    assert np.array_equal(decoded(mask, frame, **bits), mask)


@pytest.mark.parametrize("dtype", ["u1", "u2"])
def test_planes_are_interleaved(dtype):
    image = noise((4, 5, 3), dtype)
    assert np.array_equal(decoded(image, image.tobytes()), image)
    planes = image.transpose(2, 0, 1).tobytes()
    assert np.array_equal(decoded(image, planes, t00280006=element("US", 1)), image)


def test_chroma_of_pairs_is_given_to_both_pixels():
    grey_pair_then_red_pair = bytes([100, 200, 128, 128, 76, 76, 85, 255])
    found = decoded(np.zeros((1, 4, 3), "u1"), grey_pair_then_red_pair, photometric="YBR_FULL_422")
    assert found[0, :2].tolist() == [[100] * 3, [200] * 3]
    assert np.abs(found[0, 2:].astype(int) - [254, 0, 0]).max() <= 1


def test_chroma_of_pairs_needs_pairs():
    with pytest.raises(Undecodable):
        decoded(np.zeros((1, 3, 3), "u1"), bytes(6), photometric="YBR_FULL_422")


@pytest.mark.parametrize("photometric", ["RGB", "YBR_FULL"])
def test_full_chroma_is_made_rgb_only_when_it_is_not(photometric):
    found = decoded(np.zeros((1, 2, 3), "u1"), bytes([76, 85, 255] * 2), photometric=photometric)
    assert np.abs(found[0, 0].astype(int) - ([76, 85, 255] if photometric == "RGB" else [254, 0, 0])).max() <= 1


@pytest.mark.parametrize("length", [0, 1, 29, 31, 32, 60])
def test_a_frame_of_another_length_is_refused(length):
    with pytest.raises(Undecodable):
        decoded(np.zeros((3, 5), "u2"), bytes(length))


def test_a_byte_of_padding_after_an_odd_frame_is_passed_over():
    image = noise((3, 3), "u1")
    assert np.array_equal(decoded(image, image.tobytes() + b"\xee"), image)
    with pytest.raises(Undecodable):
        decoded(image, image.tobytes() + b"\xee\xee")


@given(st.integers(1, 40), st.integers(1, 20), st.sampled_from(["u1", "u2", "u4", "f4", "f8"]), st.booleans())
def test_the_length_of_a_frame_is_that_of_its_array(rows, columns, dtype, colour):
    image = np.zeros((rows, columns, 3) if colour and dtype[0] == "u" else (rows, columns), dtype)
    assert frame_bytes(PixelDescription.of(metadata_of(image), NATIVE, 1)) == image.nbytes
