from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageCms

from gateway.pixels.cielab import grey, srgb

LITTLE_CMS = ImageCms.buildTransform(ImageCms.createProfile("LAB"), ImageCms.createProfile("sRGB"), "LAB", "RGB")


def encoded(lightness, a, b):
    """L*, a* and b* as DICOM has them."""
    return round(lightness / 100 * 65_535), round((a + 128) * 257), round((b + 128) * 257)


@pytest.mark.parametrize("lightness", [0, 25, 50, 75, 100])
@pytest.mark.parametrize("a", [-40, 0, 40])
@pytest.mark.parametrize("b", [-40, 0, 40])
def test_colours_are_those_of_little_cms(lightness, a, b):
    image = Image.new("LAB", (1, 1), (round(lightness * 2.55), a % 256, b % 256))
    theirs = ImageCms.applyTransform(image, LITTLE_CMS).getpixel((0, 0))
    if not any(value in (0, 255) for value in theirs):  # it maps what sRGB does not have in another way
        assert max(abs(ours - value) for ours, value in zip(srgb(encoded(lightness, a, b)), theirs, strict=True)) <= 3


@given(*[st.integers(0, 65_535)] * 3)
def test_every_encoding_is_a_colour(lightness, a, b):
    assert all(0 <= value <= 255 for value in srgb((lightness, a, b)))


def test_neutral_values_are_greys():
    for lightness in (0, 30_000, 65_535):
        red, green, blue = srgb((lightness, 0x8080, 0x8080))
        assert max(red, green, blue) - min(red, green, blue) <= 1
    assert [grey(value)[0] for value in (0, 0x4040, 0x8000, 65_535)] == [0, 64, 128, 255]
