"""Memory of other frames never becomes pixels: what a frame does not hold is refused, or nothing (H17)."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import orjson
import pytest

from benchmarks.bombs import ENCODERS, SYNTAXES, Bomb, pixel_attributes, resized
from gateway.pixels.pool import RenderPool
from storage.errors import TooLarge, Undecodable
from tests.gateway.pixels.synthetic import NATIVE, json_of

SIDE = 256
CANARY = 0xA5
RUN = bytes((CANARY,)) * 8


@pytest.fixture(scope="module")
def pool():
    with RenderPool(1, seconds=20) as made:
        yield made
        assert made.restarts == 0  # else the memory that is looked at would be another process's


def values(pool, bomb):
    """The bytes of the decoded frame; nothing when it is refused."""
    return pool.transcode(orjson.dumps(json_of(bomb)), SYNTAXES[bomb.syntax], 1, bomb.frame, NATIVE).frame


def image(syntax, value):
    """A frame of one value throughout; what is lossy keeps that of the canary as well as it can."""
    bits = 12 if syntax == "jpeg-12" else 8
    array = np.full((SIDE, SIDE), value, np.uint16 if bits == 12 else np.uint8)
    return Bomb(syntax, syntax, ENCODERS[syntax](array), pixel_attributes(SIDE, SIDE, bits))


def short(whole):
    """Frames that hold less than they should, or than the description says."""
    length = len(whole.frame)
    for end in {0, 1, 2, 20, 64, 65, *range(0, length, max(1, length // 24)), *range(max(0, length - 12), length)}:
        yield replace(whole, frame=whole.frame[:end])
        yield replace(whole, frame=whole.frame[:end] + b"\xff\xd9")
    for rows, columns in ((2 * SIDE, SIDE), (SIDE, 2 * SIDE), (SIDE + 1, SIDE), (SIDE, SIDE + 1)):
        attributes = {**whole.attributes, "Rows": rows, "Columns": columns}
        yield replace(whole, attributes=attributes)
        yield replace(whole, attributes=attributes, frame=resized(whole.frame, rows, columns))
    yield replace(whole, attributes={**whole.attributes, "BitsAllocated": 16, "BitsStored": 16, "HighBit": 15})
    middle = length // 2
    yield replace(whole, frame=whole.frame[:middle] + bytes(length - middle))
    yield replace(whole, frame=whole.frame[:middle] + whole.frame[middle + 8 :])


@pytest.mark.parametrize("syntax", [syntax for syntax in ENCODERS if syntax != "native"])  # that is compared by length
def test_what_a_short_frame_does_not_hold_is_refused_or_empty(pool, syntax):
    canary, refused = image(syntax, CANARY), 0
    filler = Bomb(
        "canary", "deflated", ENCODERS["deflated"](np.full((SIDE, SIDE), CANARY, np.uint8)), canary.attributes
    )
    assert RUN in values(pool, replace(filler, attributes=pixel_attributes(SIDE, SIDE)))
    assert values(pool, canary)
    for number, one in enumerate(short(image(syntax, 0))):
        if number % 8 == 0:  # so that the memory is full of it
            values(pool, canary)
        try:
            found = values(pool, one)
        except (Undecodable, TooLarge):
            refused += 1
        else:
            assert RUN not in found
    assert refused > 20
