from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from gateway.pixels.icons import Icon, icon, icon_kind
from gateway.pixels.options import GIF, JPEG, PNG, RenderOptions, Viewport
from tests.gateway.pixels.synthetic import element, picture_of


@pytest.mark.parametrize(
    ("sop_class", "kind"),
    [
        ("88.33", Icon.DOCUMENT),
        ("88.59", Icon.DOCUMENT),
        ("104.1", Icon.PDF),
        ("104.2", Icon.DOCUMENT),
        ("104.3", Icon.OTHER),
        ("9.1.1", Icon.WAVEFORM),
        ("481.5", Icon.PLAN),
        ("77.1.4.1", Icon.VIDEO),
        ("11.1", Icon.OTHER),
    ],
)
def test_the_sop_class_says_what_stands_for_the_object(sop_class, kind):
    assert icon_kind({"00080016": element("UI", f"1.2.840.10008.5.1.4.1.1.{sop_class}")}) is kind


def test_an_object_with_pixels_is_a_picture_and_an_unknown_one_is_other():
    assert icon_kind({"00080016": element("UI", "1.2.3"), "00280010": element("US", 5)}) is Icon.PICTURE
    for broken in ({}, {"00080016": None}, {"00080016": {"vr": "UI"}}, {"00080016": element("UI", 7)}):
        assert icon_kind(broken) is Icon.OTHER


def test_pixels_that_name_the_patient_are_hidden():
    assert icon_kind({"00280010": element("US", 5), "00280301": element("CS", "YES")}) is Icon.HIDDEN


@pytest.mark.parametrize("media_type", [JPEG, PNG, GIF])
@pytest.mark.parametrize("size", [(128, 128), (16, 16), (300, 100), (1, 1), (2000, 1500)])
def test_an_icon_is_square_fits_its_viewport_and_is_never_huge(media_type, size):
    data = icon(Icon.PDF, RenderOptions(media_type, viewport=Viewport(*size)))
    with Image.open(io.BytesIO(data)) as image:
        assert image.size == (min(512, *size),) * 2
        assert f"image/{image.format.lower()}" == media_type


def test_icons_can_be_told_apart_even_when_small():
    for side in (32, 128):
        pictures = [picture_of(icon(kind, RenderOptions(PNG, viewport=Viewport(side, side)))) for kind in Icon]
        for number, one in enumerate(pictures):
            assert len(np.unique(one.reshape(-1, 3), axis=0)) > 2
            for other in pictures[:number]:
                assert np.mean(np.abs(one.astype(int) - other) > 30) > 0.02


def test_the_default_is_a_thumbnail():
    assert picture_of(icon(Icon.OTHER, RenderOptions(is_thumbnail=True))).shape == (128, 128, 3)
