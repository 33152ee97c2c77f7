from __future__ import annotations

import numpy as np
import pytest

from gateway.pixels.description import PixelDescription, PixelKind
from gateway.pixels.options import VoiFunction, Window
from storage.errors import NotFound, TooLarge, Undecodable
from tests.gateway.pixels.synthetic import NATIVE, Json, binary, element, metadata_of, sequence

IMAGE = np.zeros((4, 6), "u2")


def describe(metadata: Json, frame_number: int = 1) -> PixelDescription:
    return PixelDescription.of(metadata, NATIVE, frame_number)


def test_the_image_pixel_module_is_read():
    found = describe(metadata_of(IMAGE, t00280101=element("US", 12), t00280102=element("US", 11)))
    assert (found.rows, found.columns, found.bits_allocated, found.bits_stored, found.high_bit) == (4, 6, 16, 12, 11)
    assert (found.kind, found.is_word_data, found.number_of_frames) == (PixelKind.INTEGER, True, 1)
    assert found.windows == ()
    assert found.padding is None
    assert not found.is_inverted


def test_an_object_without_rows_is_no_image():
    with pytest.raises(NotFound):
        describe({"00080016": element("UI", "1.2")})


@pytest.mark.parametrize("frame_number", [0, -1, 3])
def test_a_frame_beyond_number_of_frames_is_not_found(frame_number):
    with pytest.raises(NotFound):
        describe(metadata_of(IMAGE, t00280008=element("IS", 2)), frame_number)


def test_numbers_may_be_written_as_strings():
    found = describe(
        metadata_of(IMAGE, t00280008=element("IS", "2"), t00281050=element("DS", "40"), t00281051=element("DS", "4e2"))
    )
    assert found.number_of_frames == 2
    assert found.windows == (Window(40, 400),)


@pytest.mark.parametrize(
    ("tag", "value"),
    [
        ("t00280010", element("US", 0)),
        ("t00280010", element("US", "many")),
        ("t00280011", None),
        ("t00280011", {"vr": "US"}),
        ("t00280100", element("US", 12)),
        ("t00280100", None),
        ("t00280101", element("US", 17)),
        ("t00280103", element("US", 2)),
        ("t00280002", element("US", 3)),
        ("t00280004", element("CS", "HSV")),
        ("t00280008", element("IS", 0)),
    ],
)
def test_an_impossible_image_pixel_module_is_refused(tag, value):
    with pytest.raises(Undecodable):
        describe(metadata_of(IMAGE, **{tag: value}))


def test_a_frame_of_more_than_a_hundred_million_pixels_is_too_large():
    with pytest.raises(TooLarge):
        describe(metadata_of(IMAGE, t00280010=element("US", 10_001), t00280011=element("US", 10_000)))
    describe(metadata_of(IMAGE, t00280010=element("US", 10_000), t00280011=element("US", 10_000)))


def test_a_high_bit_that_cannot_be_is_taken_as_bits_stored_less_one():
    found = describe(metadata_of(IMAGE, t00280101=element("US", 12), t00280102=element("US", 3)))
    assert found.high_bit == 11


@pytest.mark.parametrize(
    ("dtype", "tag", "kind", "bits"),
    [("f4", "7FE00008", PixelKind.FLOAT, 32), ("f8", "7FE00009", PixelKind.DOUBLE, 64)],
)
def test_floating_point_pixels_are_told_by_their_element(dtype, tag, kind, bits):
    metadata = metadata_of(np.zeros((2, 2), dtype))
    assert tag in metadata
    found = describe(metadata)
    assert (found.kind, found.bits_allocated) == (kind, bits)


def test_padding_is_read_with_the_sign_of_the_pixels():
    written_as_unsigned = metadata_of(IMAGE.astype("i2"), t00280120=element("US", 63_536))
    assert describe(written_as_unsigned).padding == (-2000, -2000)
    with_limit = metadata_of(IMAGE.astype("i2"), t00280120=element("SS", -100), t00280121=element("SS", -200))
    assert describe(with_limit).padding == (-200, -100)
    assert describe(metadata_of(IMAGE, t00280120=element("SS", -1))).padding == (65_535, 65_535)


def voi(center: float, width: float, **other: Json) -> Json:
    return {"00281050": element("DS", center), "00281051": element("DS", width)} | {
        tag.removeprefix("t"): value for tag, value in other.items()
    }


def test_the_window_of_the_frame_goes_before_the_shared_and_that_before_the_top_level():
    top = metadata_of(IMAGE, t00280008=element("IS", 3), **{f"t{tag}": value for tag, value in voi(1, 10).items()})
    assert describe(top).windows == (Window(1, 10),)
    shared = top | {"52009229": sequence({"00289132": sequence(voi(2, 20))})}
    assert describe(shared, 3).windows == (Window(2, 20),)
    per_frame = shared | {
        "52009230": sequence({}, {"00289132": sequence(voi(3, 30, t00281056=element("CS", "SIGMOID")))})
    }
    assert describe(per_frame, 1).windows == (Window(2, 20),)
    assert describe(per_frame, 2).windows == (Window(3, 30, VoiFunction.SIGMOID),)
    assert describe(per_frame, 3).windows == (Window(2, 20),)


def test_the_rescale_of_the_frame_goes_before_the_shared_one():
    def rescale(slope: float, intercept: float) -> Json:
        return {"00289145": sequence({"00281053": element("DS", slope), "00281052": element("DS", intercept)})}

    metadata = metadata_of(
        IMAGE,
        t00280008=element("IS", 2),
        t52009229=sequence(rescale(1, -1024)),
        t52009230=sequence(rescale(2, -10), {}),
    )
    assert (describe(metadata, 1).rescale_slope, describe(metadata, 1).rescale_intercept) == (2, -10)
    assert (describe(metadata, 2).rescale_slope, describe(metadata, 2).rescale_intercept) == (1, -1024)


def test_windows_keep_their_order_and_the_impossible_ones_are_left_out():
    found = describe(metadata_of(IMAGE, t00281050=element("DS", 1, 2, 3), t00281051=element("DS", 0, 0.5, 300)))
    assert found.windows == (Window(2, 0.5, VoiFunction.LINEAR_EXACT), Window(3, 300))
    broken = metadata_of(IMAGE, t00281050=element("DS", "nan"), t00281051=element("DS", 1))
    assert describe(broken).windows == ()


def test_a_slope_of_zero_is_none():
    assert describe(metadata_of(IMAGE, t00281053=element("DS", 0))).rescale_slope == 1


def lut(descriptor: tuple[int, int, int], data: Json) -> Json:
    return {"00283002": element("US", *descriptor), "00283006": data}


def test_a_lut_may_hold_words_bytes_or_numbers():
    expected = bytes([1, 0, 2, 0, 3, 0, 4, 0])
    for data in (binary(expected), binary(bytes([1, 2, 3, 4]), "OB"), element("US", 1, 2, 3, 4)):
        found = describe(metadata_of(IMAGE, t00283010=sequence(lut((4, 7, 8), data)))).voi_lut
        assert found is not None
        assert (found.first, found.bits, found.entries) == (7, 8, expected)


def test_a_lut_whose_entries_are_larger_than_it_says_gets_the_bits_they_need():
    found = describe(metadata_of(IMAGE, t00283010=sequence(lut((2, 0, 8), element("US", 0, 4095))))).voi_lut
    assert found is not None
    assert found.bits == 12


@pytest.mark.parametrize(
    "item",
    [
        lut((4, 0, 8), binary(b"\1\2\3")),
        lut((4, 0, 8), {"vr": "OW", "InlineBinary": "no base64"}),
        lut((4, 0, 8), {"vr": "OW", "BulkDataURI": "elsewhere"}),
        {"00283002": element("US", 4, 0), "00283006": element("US", 1)},
        {"00283002": element("US", 4, 0, 8)},
    ],
)
def test_a_lut_that_cannot_be_read_is_refused(item):
    with pytest.raises(Undecodable):
        describe(metadata_of(IMAGE, t00283000=sequence(item)))


def test_the_first_input_of_a_modality_lut_has_the_sign_of_the_pixels():
    item = lut((2, 65_436, 8), element("US", 0, 1))
    signed = describe(metadata_of(IMAGE.astype("i2"), t00283000=sequence(item))).modality_lut
    unsigned = describe(metadata_of(IMAGE, t00283000=sequence(item))).modality_lut
    assert signed is not None
    assert unsigned is not None
    assert (signed.first, unsigned.first) == (-100, 65_436)


@pytest.mark.parametrize(
    ("tag", "values", "aspect"),
    [
        ("t00280034", (2, 1), 2.0),
        ("t00280034", ("1", "2"), 0.5),
        ("t00280030", (0.5, 0.25), 2.0),
        ("t00181164", (0.1, 0.1), 1.0),
        ("t00280030", (0.7, 0.7001), 1.0),
        ("t00280030", (500, 1), 1.0),
        ("t00280030", (0, 1), 1.0),
    ],
)
def test_the_shape_of_a_pixel_comes_from_spacing_or_aspect_ratio(tag, values, aspect):
    assert describe(metadata_of(IMAGE, **{tag: element("DS", *values)})).pixel_aspect == pytest.approx(aspect)


def test_the_spacing_of_the_functional_groups_is_read():
    measures = {"00289110": sequence({"00280030": element("DS", 3, 1)})}
    assert describe(metadata_of(IMAGE, t52009229=sequence(measures))).pixel_aspect == 3


def test_monochrome1_and_an_inverse_presentation_are_inverted():
    assert describe(metadata_of(IMAGE, "MONOCHROME1")).is_inverted
    assert describe(metadata_of(IMAGE, t20500020=element("CS", "INVERSE"))).is_inverted
    assert describe(metadata_of(IMAGE, "MONOCHROME1", t20500020=element("CS", "INVERSE"))).is_inverted


def test_a_palette_needs_its_three_tables():
    with pytest.raises(Undecodable):
        describe(metadata_of(IMAGE, "PALETTE COLOR"))


def test_elements_that_are_no_elements_do_not_get_through():
    for broken in (None, 5, "text", [], {"vr": "US", "Value": 4}, {"vr": "US", "Value": [None]}):
        with pytest.raises(Undecodable):
            describe(metadata_of(IMAGE) | {"00280010": broken})
