from __future__ import annotations

import io

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from gateway.pixels.icons import Icon, icon
from gateway.pixels.options import GIF, JPEG, PNG, Region, RenderOptions, Viewport
from gateway.pixels.render import render
from storage.errors import BadRequest, NotFound, Undecodable
from tests.gateway.pixels.reference import psnr_db
from tests.gateway.pixels.synthetic import NATIVE, element, metadata_of, noise, picture_of, rle


def rendered(array, options=None, photometric="", **other):
    return picture_of(
        render(metadata_of(array, photometric, **other), NATIVE, 1, array.tobytes(), options or RenderOptions(PNG))
    )


@pytest.mark.parametrize(("media_type", "kind"), [(JPEG, "JPEG"), (PNG, "PNG"), (GIF, "GIF")])
@pytest.mark.parametrize("shape", [(20, 30), (20, 30, 3)])
def test_every_media_type_is_made_of_grey_and_of_colour(media_type, kind, shape):
    array = np.linspace(0, 255, int(np.prod(shape))).astype("u1").reshape(shape)
    data = render(metadata_of(array), NATIVE, 1, array.tobytes(), RenderOptions(media_type))
    with Image.open(io.BytesIO(data)) as image:
        assert (image.format, image.size) == (kind, (30, 20))
        assert not image.info.get("exif")
    assert psnr_db(picture_of(data), array.astype(float)) > 30


def test_quality_makes_a_difference():
    array = noise((64, 64), "u1")
    sizes = [
        len(render(metadata_of(array), NATIVE, 1, array.tobytes(), RenderOptions(quality=quality)))
        for quality in (1, 50, 90, 100)
    ]
    assert sizes == sorted(set(sizes))
    default = render(metadata_of(array), NATIVE, 1, array.tobytes(), RenderOptions())
    assert len(default) == sizes[2]


def test_the_frame_that_is_asked_for_has_its_own_window():
    array = np.array([[0, 100], [200, 300]], "u2")
    windows = [
        {"00289132": {"vr": "SQ", "Value": [{"00281050": element("DS", c), "00281051": element("DS", 2)}]}}
        for c in (50, 250)
    ]
    metadata = metadata_of(array, t00280008=element("IS", 2), t52009230=element("SQ", *windows))
    first, second = (picture_of(render(metadata, NATIVE, n, array.tobytes(), RenderOptions(PNG))) for n in (1, 2))
    assert first.tolist() == [[0, 255], [255, 255]]
    assert second.tolist() == [[0, 0], [0, 255]]


def test_a_mask_of_single_bits_is_black_and_white():
    mask = np.zeros((8, 8), "u1")
    mask[2:5, 3:7] = 1
    bits = {"t00280100": element("US", 1), "t00280101": element("US", 1), "t00280102": element("US", 0)}
    frame = np.packbits(mask.ravel(), bitorder="little").tobytes()
    for viewport, expected in ((None, mask), (Viewport(16, 16), mask.repeat(2, 0).repeat(2, 1))):
        data = render(metadata_of(mask, **bits), NATIVE, 1, frame, RenderOptions(PNG, viewport=viewport))
        assert np.array_equal(picture_of(data), expected * 255)


# Viewports. PS3.18 §8.3.5.1.3

QUARTERS = np.kron(np.array([[0, 80], [160, 240]], "u1"), np.ones((10, 20), "u1"))
FULL_RANGE = {
    "t00281050": element("DS", 127.5),
    "t00281051": element("DS", 255),
    "t00281056": element("CS", "LINEAR_EXACT"),
}


def shown(viewport):
    return rendered(QUARTERS, RenderOptions(PNG, viewport=viewport), **FULL_RANGE)


@given(st.integers(1, 300), st.integers(1, 300))
def test_a_picture_fits_its_viewport_and_keeps_its_shape(width, height):
    found = shown(Viewport(width, height))
    assert found.shape[1] <= width
    assert found.shape[0] <= height
    assert found.shape[1] == width or found.shape[0] == height
    assert abs(found.shape[1] - 2 * found.shape[0]) <= 2


@pytest.mark.parametrize(
    ("region", "expected"),
    [
        (Region(), [[0, 80], [160, 240]]),
        (Region(0, 0, 20, 10), [[0, 0], [0, 0]]),
        (Region(20, 10), [[240, 240], [240, 240]]),
        (Region(20, 0, 20, 20), [[80, 80], [240, 240]]),
        (Region(0, 0, -40, 20), [[80, 0], [240, 160]]),
        (Region(0, 0, 40, -20), [[160, 240], [0, 80]]),
        (Region(0, 0, -40, -20), [[240, 160], [80, 0]]),
        (Region(20, 0, -20, -20), [[240, 240], [80, 80]]),
        (Region(10.5, 0, 19, 20), [[0, 80], [160, 240]]),
    ],
)
def test_a_region_is_cut_out_and_mirrored(region, expected):
    found = shown(Viewport(80, 80, region))
    height, width = found.shape
    corners = [
        [int(found[y, x]) for x in (width // 8, width - 1 - width // 8)]
        for y in (height // 8, height - 1 - height // 8)
    ]
    assert np.abs(np.array(corners) - expected).max() <= 8  # the smooth filter rings at edges


@pytest.mark.parametrize(
    "region", [Region(40, 0), Region(0, 20), Region(0, 0, 41, 20), Region(1, 0, 40, 5), Region(0, 10, 5, -11)]
)
def test_a_region_outside_the_image_is_a_bad_request(region):
    with pytest.raises(BadRequest):
        shown(Viewport(10, 10, region))


def test_a_region_without_scaling_has_the_very_values():
    array = noise((30, 40), "u1")
    found = rendered(array, RenderOptions(PNG, viewport=Viewport(7, 5, Region(11, 3, -7, 5))), **FULL_RANGE)
    assert np.array_equal(found, array[3:8, 11:18][:, ::-1])


@pytest.mark.parametrize(("aspect", "size"), [((2, 1), (40, 40)), ((1, 2), (20, 80)), ((1, 1), (20, 40))])
def test_pixels_that_are_not_square_are_stretched(aspect, size):
    assert rendered(QUARTERS, t00280034=element("IS", *aspect)).shape == size


def test_a_picture_that_is_too_long_is_scaled_to_the_limit():
    strip = np.zeros((10, 16_384), "u1")
    assert rendered(strip).shape == (5, 8_192)
    assert rendered(np.zeros((2, 60_000), "u1")).shape == (1, 8_192)


def test_palette_colour_is_scaled_as_colours_and_not_as_indices():
    indices = np.zeros((20, 20), "u1")
    indices[:, 10:] = 2  # 1, between them, is green
    tables = {f"t0028110{n}": element("US", 3, 0, 8) for n in (1, 2, 3)} | {
        f"t0028120{n}": element("US", *entries) for n, entries in ((1, (255, 0, 0)), (2, (0, 255, 0)), (3, (0, 0, 255)))
    }
    found = rendered(indices, RenderOptions(PNG, viewport=Viewport(7, 7)), "PALETTE COLOR", **tables)
    assert found[..., 1].max() < 30
    assert found[3, 0].tolist() == [255, 0, 0]
    assert found[3, 6].tolist() == [0, 0, 255]


# Thumbnails


def test_a_thumbnail_fits_its_square_or_its_viewport():
    array = noise((300, 200), "u2")
    assert rendered(array, RenderOptions(PNG, is_thumbnail=True)).shape == (128, 85)
    assert rendered(array, RenderOptions(PNG, is_thumbnail=True, viewport=Viewport(60, 60))).shape == (60, 40)


def test_a_thumbnail_is_the_image_made_smaller():
    steps = np.kron(noise((8, 8), "u1"), np.ones((64, 64), "u1"))
    found = rendered(steps, RenderOptions(PNG, is_thumbnail=True), **FULL_RANGE)
    assert np.array_equal(found[8::16, 8::16], steps[32::64, 32::64])


def test_a_thumbnail_of_pixels_that_name_the_patient_is_an_icon_but_the_picture_is_not():
    array = noise((30, 30), "u1")
    burned = {"t00280301": element("CS", "YES")}
    options = RenderOptions(PNG, is_thumbnail=True)
    assert render(metadata_of(array, **burned), NATIVE, 1, array.tobytes(), options) == icon(Icon.HIDDEN, options)
    assert rendered(array, **burned).shape == (30, 30)
    assert rendered(array, options, t00280301=element("CS", "NO")).shape == (128, 128)


def test_what_is_no_image_has_an_icon_for_a_thumbnail_and_no_picture():
    report = {"00080016": element("UI", "1.2.840.10008.5.1.4.1.1.88.33")}
    options = RenderOptions(is_thumbnail=True)
    assert render(report, NATIVE, 1, b"", options) == icon(Icon.DOCUMENT, options)
    with pytest.raises(NotFound):
        render(report, NATIVE, 1, b"", RenderOptions())


def test_a_damaged_frame_is_no_picture_in_any_size():
    array = noise((16, 16), "u2")
    metadata = metadata_of(array)
    for uid, frame in ((NATIVE, array.tobytes()[:-1]), ("1.2.840.10008.1.2.5", rle(array)[:-9])):
        for is_thumbnail in (True, False):
            with pytest.raises(Undecodable):
                render(metadata, uid, 1, frame, RenderOptions(is_thumbnail=is_thumbnail))
