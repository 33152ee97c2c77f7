from __future__ import annotations

import io

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageSequence

from gateway.pixels.animation import animated, delay_of
from storage.errors import Undecodable
from tests.gateway.pixels.synthetic import element, noise


def gif(array: np.ndarray) -> bytes:
    target = io.BytesIO()
    Image.fromarray(array).save(target, "GIF")
    return target.getvalue()


def frames_of(data: bytes) -> list[np.ndarray]:
    with Image.open(io.BytesIO(data)) as image:
        mode = "L" if image.mode in {"L", "P"} and image.getpalette() is None else "RGB"
        return [np.array(frame.convert(mode)) for frame in ImageSequence.Iterator(image)]


def test_every_frame_is_what_its_own_picture_was():
    arrays = [noise((20, 31), "u1", seed) for seed in range(5)]
    data = b"".join(animated(map(gif, arrays), 7))
    with Image.open(io.BytesIO(data)) as image:
        assert (image.n_frames, image.info["loop"], image.info["duration"], image.size) == (5, 0, 70, (31, 20))
    assert all((frame[..., 0] == array).all() for frame, array in zip(frames_of(data), arrays, strict=True))


def test_colour_has_a_table_for_each_frame():
    arrays = [np.tile(np.uint8([[[seed, 255 - seed, 3]]]), (4, 6, 1)) for seed in (0, 90, 255)]
    arrays[1][0, 0] = (1, 2, 250)
    data = b"".join(animated(map(gif, arrays), 2))
    assert all((frame == array).all() for frame, array in zip(frames_of(data), arrays, strict=True))


def test_pieces_come_as_the_pictures_do():
    taken = []

    def pictures():
        for number in range(3):
            taken.append(number)
            yield gif(noise((4, 4), "u1", number))

    pieces = animated(pictures(), 10)
    next(pieces)
    assert taken == [0]


@pytest.mark.parametrize(
    ("metadata", "delay"),
    [
        ({}, 10),
        ({"00181063": element("DS", 33.3)}, 3),
        ({"00181063": element("DS", 0), "00082144": element("IS", 25)}, 4),
        ({"00181065": element("DS", 0, 100, 300)}, 20),
        ({"00180040": element("IS", 1000)}, 2),
        ({"00181063": element("DS", 1e300)}, 6000),
        ({"00181063": element("DS", "often")}, 10),
    ],
)
def test_a_frame_stays_as_long_as_the_object_says(metadata, delay):
    assert delay_of(metadata) == delay


@given(st.binary(max_size=60), st.integers(0, 40))
def test_what_is_no_gif_is_refused(data, cut):
    for picture in (data, b"GIF89a" + data, gif(noise((3, 3), "u1"))[:-cut] if cut else data):
        try:
            list(animated([picture], 10))
        except Undecodable:
            continue
