from __future__ import annotations

import math
import struct

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.pixels.description import Lut, PixelDescription
from gateway.pixels.luts import colour, grey, palette_colour, windowed
from gateway.pixels.options import VoiFunction, Window
from tests.gateway.pixels.synthetic import NATIVE, element, metadata_of, noise, sequence


def described(array, photometric="", **other):
    return PixelDescription.of(metadata_of(array, photometric, **other), NATIVE, 1)


def greys(values, dtype="i2", window=None, photometric="", **other):
    array = np.array([values], dtype)
    return grey(array, described(array, photometric, **other), window)[0].tolist()


def by_the_standard(value: float, window: Window) -> float:
    """The pseudo-code of PS3.3 §C.11.2.1.2 and §C.11.2.1.3 for one value, with output 0 to 255."""
    center, width = window.center, window.width
    if window.function is VoiFunction.SIGMOID:
        return 255 / (1 + math.exp(min(700, -4 * (value - center) / width)))
    half, middle, span = (width / 2, center, width)
    if window.function is VoiFunction.LINEAR:
        half, middle, span = (width - 1) / 2, center - 0.5, width - 1
    if value <= middle - half:
        return 0.0
    if value > middle + half:
        return 255.0
    return ((value - middle) / span + 0.5) * 255


WINDOWS = st.builds(
    Window,
    center=st.floats(-3000, 3000),
    width=st.floats(1, 5000),
    function=st.sampled_from(VoiFunction),
)


@given(WINDOWS, st.integers(0, 99))
def test_a_window_maps_every_value_as_the_standard_says(window, seed):
    values = np.random.default_rng(seed).integers(-4000, 4000, 40)
    expected = [by_the_standard(float(value), window) for value in values]
    assert np.allclose(windowed(values.astype(np.float64), window) * 255, expected, atol=1e-6)
    assert np.abs(np.array(greys(values, window=window)) - expected).max() <= 0.5 + 1e-6


@given(WINDOWS)
def test_a_window_never_makes_a_larger_value_darker(window):
    shown = windowed(np.arange(-5000.0, 5000.0, 7), window)
    assert (np.diff(shown) >= 0).all()
    assert 0 <= shown.min() <= shown.max() <= 1


def test_a_linear_window_of_width_one_is_a_step():
    assert greys([9, 10, 11], window=Window(10, 1)) == [0, 255, 255]
    assert greys([9, 10, 11], window=Window(10.5, 1)) == [0, 0, 255]


def test_a_table_and_the_computation_for_wide_values_agree():
    values = noise((20, 20), "i2")
    settings = {
        "t00281053": element("DS", -0.5),
        "t00281052": element("DS", 40),
        "t00281050": element("DS", 100),
        "t00281051": element("DS", 9000),
        "t00280120": element("SS", 5),
    }
    by_table = grey(values, described(values, "MONOCHROME1", **settings))
    for wider in ("i4", "f4", "f8"):
        wide = values.astype(wider)
        assert np.array_equal(grey(wide, described(wide, "MONOCHROME1", **settings)), by_table)


@pytest.mark.parametrize("dtype", ["i2", "u2"])
@pytest.mark.parametrize(
    "ends", [(0, 0), (0, 1023), (1023, 1024), (-1, 0), (-1024, -1023), (-(1 << 15), (1 << 16) - 1)]
)
@pytest.mark.parametrize("window", [Window(100, 3000), None])
def test_a_table_holds_every_value_of_its_frame_and_no_more_is_needed(dtype, ends, window):
    limits = np.iinfo(dtype)
    values = np.clip(np.array([[*ends, sum(ends) // 2]]), limits.min, limits.max)
    described_as = described(values.astype(dtype))
    assert np.array_equal(
        grey(values.astype(dtype), described_as, window), grey(values.astype("i4"), described_as, window)
    )


def test_the_first_input_of_a_voi_lut_does_not_depend_on_the_values_of_the_frame():
    table = {"00283002": element("US", 4, (1 << 16) - 2, 16), "00283006": element("US", 0, 21845, 43690, 65535)}
    lut = {"t00283010": sequence(table)}
    assert greys([-3, -2, -1, 0, 1, 2], **lut) == [0, 0, 85, 170, 255, 255]
    assert greys([0, 1, 2], **lut) == [170, 255, 255]


def test_a_negative_slope_turns_the_order_around():
    plain = greys([0, 50, 100], t00281053=element("DS", 2), t00281052=element("DS", -7))
    turned = greys([0, 50, 100], t00281053=element("DS", -2), t00281052=element("DS", 7))
    assert plain == [0, 128, 255]
    assert turned == [255, 128, 0]


def test_without_a_window_the_values_of_the_frame_span_black_to_white():
    assert greys([-100, 0, 100]) == [0, 128, 255]
    assert greys([-0.25, 0, 0.25], "f4") == [0, 128, 255]
    assert greys([1 << 30, 0], "u4") == [255, 0]


def test_padding_counts_for_nothing_and_is_black_in_either_polarity():
    pad = {"t00280120": element("SS", -2000)}
    assert greys([-2000, 0, 50, 100], **pad) == [0, 0, 128, 255]
    assert greys([-2000, 0, 50, 100], photometric="MONOCHROME1", **pad) == [0, 255, 127, 0]
    limits = pad | {"t00280121": element("SS", -1000)}
    assert greys([-2000, -1500, -1000, -999, 0], **limits) == [0, 0, 0, 0, 255]
    assert greys([-2000, -2000], **pad) == [0, 0]


def test_what_is_no_number_counts_for_nothing_and_is_black():
    assert greys([np.nan, np.inf, -np.inf, 0, 1], "f4") == [0, 255, 0, 0, 255]


def test_a_frame_of_one_value_is_shown_as_it_lies_in_its_range():
    assert greys([255, 255], "u1") == [255, 255]
    assert greys([0, 0], "u1") == [0, 0]
    assert greys([2048, 2048], "u2", t00280101=element("US", 12)) == [128, 128]
    assert greys([0, 0], "i2") == [128, 128]


def test_single_bits_are_black_and_white_even_when_all_are_the_same():
    bits = {"t00280100": element("US", 1), "t00280101": element("US", 1), "t00280102": element("US", 0)}
    for values in ([0, 1], [1, 1], [0, 0]):
        assert greys(values, "u1", **bits) == [255 * value for value in values]


def test_the_window_of_the_object_is_used_and_one_that_is_asked_for_goes_before_it():
    own = {"t00281050": element("DS", 50, 0), "t00281051": element("DS", 101, 1)}
    assert greys([0, 50, 100], **own) == [1, 129, 255]
    assert greys([0, 50, 100], window=Window(25, 50, VoiFunction.LINEAR_EXACT), **own) == [0, 255, 255]


def lut_item(first, bits, *entries):
    return {"00283002": element("US", len(entries), first, bits), "00283006": element("US", *entries)}


def test_a_voi_lut_goes_before_the_window_of_the_object_and_after_one_that_is_asked_for():
    voi = {
        "t00283010": sequence(lut_item(1, 8, 10, 20, 255)),
        "t00281050": element("DS", 0),
        "t00281051": element("DS", 1),
    }
    assert greys([0, 1, 2, 3, 9], **voi) == [10, 10, 20, 255, 255]
    assert greys([0, 1, 2, 3, 9], window=Window(1.5, 1, VoiFunction.LINEAR_EXACT), **voi) == [0, 0, 255, 255, 255]


def test_a_voi_lut_is_applied_after_the_rescale_and_its_first_input_may_be_negative():
    item = lut_item(-100 & 0xFFFF, 8, 0, 100, 200)
    assert greys([0, 1, 2], t00281052=element("DS", -100), t00283010=sequence(item)) == [0, 100, 200]


def test_a_modality_lut_stands_instead_of_the_rescale():
    item = lut_item(0, 16, 0, 300, 100)
    assert greys([0, 1, 2], t00283000=sequence(item), t00281053=element("DS", 99)) == [0, 255, 85]


def test_monochrome1_shows_the_lowest_value_white():
    assert greys([0, 50, 100], photometric="MONOCHROME1") == [255, 127, 0]


def palette_of(*entries, first=0, bits=8):
    return Lut(first, bits, struct.pack(f"<{len(entries)}H", *entries))


@pytest.mark.parametrize("dtype", ["u1", "u2"])
def test_a_palette_gives_colours_and_its_ends_to_indices_beyond(dtype):
    palette = palette_of(1, 2, 3, first=1), palette_of(10, 20, 30, first=1), palette_of(100, 200, 255, first=1)
    found = palette_colour(np.array([[0, 1, 2, 3, 200]], dtype), palette)
    assert found[0].tolist() == [[1, 10, 100], [1, 10, 100], [2, 20, 200], [3, 30, 255], [3, 30, 255]]


def test_a_palette_of_16_bits_is_shown_by_its_upper_bytes():
    palette = (palette_of(0, 0x80FF, 0xFFFF, bits=16),) * 3
    assert palette_colour(np.array([[0, 1, 2]], "u1"), palette)[0, :, 0].tolist() == [0, 128, 255]


@pytest.mark.parametrize(("dtype", "bits"), [("u2", 16), ("u2", 12), ("u4", 32)])
def test_colour_of_more_bits_is_brought_to_eight(dtype, bits):
    largest = (1 << bits) - 1
    shown = colour(np.array([[[0, largest // 2, largest]]], dtype), bits)
    assert shown.dtype == np.uint8
    assert shown[0, 0].tolist() == [0, 127, 255]


def test_an_image_of_many_strips_is_whole():
    values = noise((2100, 1000), "u2")
    shown = grey(values, described(values))
    expected = (values - float(values.min())) / (float(values.max()) - float(values.min())) * 255
    assert np.abs(shown - expected).max() <= 0.5 + 1e-9
    assert np.array_equal(grey(values.astype("u4"), described(values.astype("u4"))), shown)
