from __future__ import annotations

import contextlib
import io
import struct
from itertools import permutations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageCms

from gateway.pixels.description import ICC_PROFILE, MAXIMUM_PROFILE_BYTES
from gateway.pixels.icc import own_profile, profile, profiled
from gateway.pixels.options import GIF, JPEG, PNG, IccProfile, RenderOptions
from gateway.pixels.render import render
from storage.errors import BadRequest, Undecodable
from tests.gateway.pixels.synthetic import NATIVE, binary, element, metadata_of, noise, picture_of

SPACES = (IccProfile.SRGB, IccProfile.ADOBE_RGB, IccProfile.ROMM_RGB, IccProfile.DISPLAY_P3)

# The spaces as their standards define them: chromaticities of red, green, blue and white, and from a sample to light.
# IEC 61966-2-1, Adobe RGB (1998), ISO 22028-2, SMPTE EG 432-1
D65, D50 = (0.3127, 0.3290), (0.3457, 0.3585)
BRADFORD = np.array([[0.8951, 0.2664, -0.1614], [-0.7502, 1.7135, 0.0367], [0.0389, -0.0685, 1.0296]])


def srgb_light(sample):
    return np.where(sample <= 0.04045, sample / 12.92, ((sample + 0.055) / 1.055) ** 2.4)


def srgb_sample(light):
    return np.where(light <= 0.0031308, light * 12.92, 1.055 * light ** (1 / 2.4) - 0.055)


def adobe_light(sample):
    return sample ** (2 + 51 / 256)


def adobe_sample(light):
    return light ** (1 / (2 + 51 / 256))


def romm_light(sample):
    return np.where(sample < 16 * 0.001953125, sample / 16, sample**1.8)


def romm_sample(light):
    return np.where(light < 0.001953125, light * 16, light ** (1 / 1.8))


DEFINED = {
    IccProfile.SRGB: (((0.64, 0.33), (0.30, 0.60), (0.15, 0.06)), D65, srgb_light, srgb_sample),
    IccProfile.ADOBE_RGB: (((0.64, 0.33), (0.21, 0.71), (0.15, 0.06)), D65, adobe_light, adobe_sample),
    IccProfile.ROMM_RGB: (((0.7347, 0.2653), (0.1596, 0.8404), (0.0366, 0.0001)), D50, romm_light, romm_sample),
    IccProfile.DISPLAY_P3: (((0.680, 0.320), (0.265, 0.690), (0.150, 0.060)), D65, srgb_light, srgb_sample),
}


def xyz(chromaticity):
    x, y = chromaticity
    return np.array([x / y, 1.0, (1 - x - y) / y])


def to_d50(space):
    """The matrix from the light of a space to XYZ under D50."""
    primaries, white, *_ = DEFINED[space]
    columns = np.stack([xyz(primary) for primary in primaries], axis=1)
    matrix = columns * np.linalg.solve(columns, xyz(white))
    return adapted(white) @ matrix


def adapted(white):
    """The matrix that turns colours under a white into those under D50."""
    gains = (BRADFORD @ xyz(D50)) / (BRADFORD @ xyz(white))
    return np.linalg.inv(BRADFORD) @ np.diag(gains) @ BRADFORD


def expected(pixels, source, target):
    light = DEFINED[source][2](pixels / 255.0) @ to_d50(source).T @ np.linalg.inv(to_d50(target)).T
    return np.rint(DEFINED[target][3](light.clip(0, 1)) * 255).astype(int)


LEVELS = [0, 1, 7, 20, 51, 102, 128, 153, 204, 240, 254, 255]
GRID = np.stack(np.meshgrid(LEVELS, LEVELS, LEVELS), axis=-1).reshape(-1, len(LEVELS), 3).astype("u1")


def own(data):
    """Metadata of a picture whose object brings a profile."""
    return {ICC_PROFILE: binary(data, "OB")}


def made(pixels, metadata=None, icc_profile=IccProfile.YES, media_type=PNG):
    """A picture of an object of these pixels, as Pillow reads it."""
    options = RenderOptions(media_type, icc_profile=icc_profile)
    found = render(metadata_of(pixels) | (metadata or {}), NATIVE, 1, pixels.tobytes(), options)
    return Image.open(io.BytesIO(found))


@pytest.mark.parametrize("space", SPACES)
def test_a_profile_is_read_by_littlecms(space):
    data = profile(space)
    found = ImageCms.ImageCmsProfile(io.BytesIO(data)).profile
    names = {"srgb": "sRGB", "adobergb": "Adobe RGB (1998)", "rommrgb": "ROMM RGB", "displayp3": "Display P3"}
    assert found.profile_description == names[space.value]
    assert (found.version, found.device_class, found.connection_space.strip()) == (4.3, "mntr", "XYZ")
    assert found.is_matrix_shaper
    assert found.copyright
    assert struct.unpack(">L", data[:4]) == (len(data),)
    count = struct.unpack(">L", data[128:132])[0]
    for number in range(count):
        _, at, size = struct.unpack_from(">4sLL", data, 132 + 12 * number)
        assert at % 4 == 0
        assert 132 + 12 * count <= at <= at + size <= len(data)
    for kind, column in (("red", 0), ("green", 1), ("blue", 2)):
        assert np.abs(getattr(found, f"{kind}_colorant")[0] - to_d50(space)[:, column]).max() < 0.0005
    assert np.abs(np.array(found.chromatic_adaptation[0]) - adapted(DEFINED[space][1])).max() < 0.0005
    assert np.abs(np.array(found.media_white_point[0]) - xyz(D50)).max() < 0.0005
    assert profile(space) == data


@pytest.mark.parametrize(("source", "target"), list(permutations(SPACES, 2)))
def test_colours_become_what_the_definitions_of_the_spaces_say(source, target):
    found = picture_of(render_of(GRID, own(profile(source)), target))
    assert np.abs(found.astype(int) - expected(GRID, source, target)).max() <= 2


def render_of(pixels, metadata, icc_profile):
    options = RenderOptions(PNG, icc_profile=icc_profile)
    return render(metadata_of(pixels) | metadata, NATIVE, 1, pixels.tobytes(), options)


@pytest.mark.parametrize("space", SPACES[1:])
def test_there_and_back_is_the_same_colour(space):
    colours = GRID[(GRID > 100).all(axis=2)][None]  # dark ones lie between two levels of a wider space
    there = picture_of(render_of(colours, {}, space))
    assert np.abs(there.astype(int) - colours).max() > 10
    back = picture_of(render_of(there, own(profile(space)), IccProfile.SRGB))
    assert np.abs(back.astype(int) - colours).max() <= 2


@pytest.mark.parametrize("media_type", [JPEG, PNG])
@pytest.mark.parametrize("space", SPACES)
def test_a_picture_carries_the_very_profile_that_was_asked_for(media_type, space):
    for pixels in (GRID, noise((9, 8), "u1")):
        image = made(pixels, None, space, media_type)
        assert image.info["icc_profile"] == profile(space)
        assert image.mode == "RGB"


@pytest.mark.parametrize("media_type", [JPEG, PNG, GIF])
def test_without_the_wish_there_is_no_profile(media_type):
    for metadata in (own(profile(IccProfile.ADOBE_RGB)), own(b"damaged"), {}):
        for pixels in (GRID, noise((9, 8), "u1")):
            image = made(pixels, metadata, IccProfile.NO, media_type)
            assert "icc_profile" not in image.info
            if media_type == PNG and pixels is GRID:
                assert np.array_equal(np.array(image), GRID)


@pytest.mark.parametrize("space", [IccProfile.YES, *SPACES])
def test_a_gif_has_no_room_for_a_profile(space):
    with pytest.raises(BadRequest):
        RenderOptions(GIF, icc_profile=space)


def scanner(extra_bytes=0):
    """The profile of a scanner, as an object would bring it."""
    data = bytearray(profile(IccProfile.ADOBE_RGB)) + b"\1" * extra_bytes
    data[12:16] = b"scnr"
    data[:4] = len(data).to_bytes(4)
    return bytes(data)


@pytest.mark.parametrize("media_type", [JPEG, PNG])
@pytest.mark.parametrize("extra_bytes", [0, 200_000])
def test_the_objects_own_profile_is_handed_on_with_its_colours(media_type, extra_bytes):
    image = made(GRID, own(scanner(extra_bytes)), IccProfile.YES, media_type)
    assert image.info["icc_profile"] == scanner(extra_bytes)
    if media_type == PNG:
        assert np.array_equal(np.array(image), GRID)


def test_the_objects_own_profile_is_what_named_spaces_are_made_from():
    found = picture_of(render_of(GRID, own(scanner()), IccProfile.SRGB))
    assert np.abs(found.astype(int) - expected(GRID, IccProfile.ADOBE_RGB, IccProfile.SRGB)).max() <= 2


def test_the_byte_that_makes_a_profile_even_is_not_handed_on():
    odd = scanner(1)
    assert len(odd) % 2
    assert made(GRID, own(odd + b"\0")).info["icc_profile"] == odd


@pytest.mark.parametrize(
    ("label", "space"),
    [
        ("SRGB", IccProfile.SRGB),
        ("ADOBERGB", IccProfile.ADOBE_RGB),
        ("ROMMRGB", IccProfile.ROMM_RGB),
        ("OTHER", IccProfile.SRGB),
        (None, IccProfile.SRGB),
    ],
)
def test_an_object_without_a_profile_may_name_its_space(label, space):
    metadata = {} if label is None else {"00282002": element("CS", label)}
    image = made(GRID, metadata)
    assert image.info["icc_profile"] == profile(space)
    assert np.array_equal(np.array(image), GRID)
    found = picture_of(render_of(GRID, metadata, IccProfile.DISPLAY_P3))
    assert np.abs(found.astype(int) - expected(GRID, space, IccProfile.DISPLAY_P3)).max() <= 2


@pytest.mark.parametrize("metadata", [{}, own(profile(IccProfile.ADOBE_RGB)), own(b"damaged")], ids=["", "rgb", "bad"])
def test_greys_stay_grey_whatever_profile_their_object_has(metadata):
    greys = np.arange(256, dtype="u1").reshape(16, 16)
    image = made(greys, metadata)
    assert image.mode == "L"
    assert "icc_profile" not in image.info
    for space in SPACES:
        found = picture_of(render_of(greys, metadata, space))
        assert (found == found[..., :1]).all()
        assert (
            np.abs(found.astype(int) - expected(greys.repeat(3).reshape(16, 16, 3), IccProfile.SRGB, space)).max() <= 2
        )


def test_nothing_is_converted_where_the_colours_are_what_is_asked_for():
    for space in SPACES:
        assert np.array_equal(picture_of(render_of(GRID, own(profile(space)), space)), GRID)


# What strangers write


def changed(at, data):
    made = bytearray(scanner())
    made[at : at + len(data)] = data
    return bytes(made)


@pytest.mark.parametrize(
    "data",
    [
        b"\0",
        b"no profile at all" * 20,
        scanner()[:128],
        scanner()[:131],
        changed(16, b"CMYK"),
        changed(16, b"GRAY"),
        changed(36, b"ASCP"),
        changed(0, bytes(4)),
        changed(0, b"\0\0\0\x7f"),
        changed(128, b"\xff\xff\xff\xff"),
        scanner(MAXIMUM_PROFILE_BYTES),
    ],
    ids=lambda data: f"{len(data)} bytes",
)
def test_a_profile_that_is_none_of_rgb_is_refused(data):
    for wanted in (IccProfile.YES, IccProfile.SRGB):
        with pytest.raises(Undecodable):
            made(GRID, own(data), wanted)


def test_a_profile_without_colours_cannot_be_converted_from():
    for tag in (b"rXYZ", b"gTRC"):
        at = scanner().index(tag)
        with pytest.raises(Undecodable):
            made(GRID, own(changed(at, b"none")), IccProfile.SRGB)


def tried(data):
    for wanted in (IccProfile.YES, *SPACES[:2]):
        with contextlib.suppress(Undecodable):
            found, embedded = profiled(Image.fromarray(GRID), own(data), wanted)
            assert (found.size, found.mode) == ((len(LEVELS), len(LEVELS) ** 2), "RGB")
            assert embedded == (own_profile(own(data)) if wanted is IccProfile.YES else profile(wanted))


@pytest.mark.parametrize("length", range(0, len(scanner()), 13))
def test_a_truncated_profile_breaks_nothing(length):
    tried(scanner()[:length])


@given(st.lists(st.tuples(st.integers(0, len(scanner()) - 1), st.integers(0, 255)), max_size=12))
def test_a_damaged_profile_breaks_nothing(damage):
    data = bytearray(scanner())
    for at, value in damage:
        data[at] = value
    tried(bytes(data))


@given(st.integers(0, 9), st.binary(min_size=8, max_size=40))
def test_a_tag_of_anything_breaks_nothing(number, content):
    _, at, _ = struct.unpack_from(">4sLL", scanner(), 132 + 12 * number)
    tried(changed(at, content)[: len(scanner())])
