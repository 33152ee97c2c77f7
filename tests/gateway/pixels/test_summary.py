from __future__ import annotations

import orjson
import pytest

from gateway.pixels.description import PixelDescription
from gateway.pixels.icons import icon_kind
from gateway.pixels.summary import Summary
from storage.errors import GatewayError
from tests.gateway.pixels.part10 import read
from tests.gateway.pixels.synthetic import NATIVE, Json, element, metadata_of, noise, sequence
from tests.gateway.pixels.test_archive_input import PATHS

IMAGE = noise((4, 4), "u2")


def described(metadata: Json, uid: str, number: int) -> PixelDescription | tuple[type[GatewayError], str]:
    try:
        return PixelDescription.of(metadata, uid, number)
    except GatewayError as error:
        return type(error), error.reason


@pytest.mark.parametrize("path", PATHS, ids=lambda path: f"{path.parent.name}/{path.name}")
def test_a_summary_describes_every_frame_as_the_whole_metadata_does(path):
    source = read(path)
    summary = Summary.of(source.metadata)
    for number in range(1, len(source.frames) + 2):
        short = orjson.loads(summary.of_frame(number))
        assert described(short, source.transfer_syntax_uid, number) == described(
            source.metadata, source.transfer_syntax_uid, number
        )
        assert icon_kind(short) == icon_kind(source.metadata)


def window(center: float) -> Json:
    return {"00289132": sequence({"00281050": element("DS", center), "00281051": element("DS", 50)})}


def test_each_frame_takes_its_own_functional_groups_with_it_and_no_others():
    metadata = metadata_of(
        IMAGE,
        t00280008=element("IS", 400),
        t00204000=element("LT", "a comment" * 100),
        t52009229=sequence(window(7) | {"00209071": sequence({})}),
        t52009230=sequence(*(window(number) for number in range(1, 400))),
    )
    summary = Summary.of(metadata)
    for number in (1, 2, 399, 400, 401):
        short = summary.of_frame(number)
        assert len(short) < 1500
        assert described(orjson.loads(short), NATIVE, number) == described(metadata, NATIVE, number)
    assert PixelDescription.of(orjson.loads(summary.of_frame(399)), NATIVE, 399).windows[0].center == 399
    assert PixelDescription.of(orjson.loads(summary.of_frame(400)), NATIVE, 400).windows[0].center == 7
    assert summary.size_bytes > 400 * 100


@pytest.mark.parametrize(
    ("metadata", "may_be_shown"),
    [
        ({}, False),
        (metadata_of(IMAGE), True),
        (metadata_of(IMAGE, t00280301=element("CS", "NO")), True),
        (metadata_of(IMAGE, t00280301=element("CS", "YES")), False),
    ],
)
def test_what_has_no_pixels_or_names_the_patient_may_not_be_shown(metadata, may_be_shown):
    assert Summary.of(metadata).may_be_shown is may_be_shown


@pytest.mark.parametrize("groups", [{"vr": "SQ", "Value": [None, 5, {"00289132": 7}]}, {"vr": "SQ"}, 5, None])
def test_functional_groups_that_are_none_do_not_get_through(groups):
    for metadata in (metadata_of(IMAGE, t00280008=element("IS", 3), t52009230=groups, t52009229=groups), {}):
        summary = Summary.of(metadata)
        for number in (1, 2, 3):
            short = orjson.loads(summary.of_frame(number))
            assert described(short, NATIVE, number) == described(metadata, NATIVE, number)


def test_pixels_that_the_metadata_holds_itself_stay_behind():
    metadata = metadata_of(IMAGE) | {"7FE00010": {"vr": "OW", "InlineBinary": "A" * 10_000}}
    short = Summary.of(metadata).of_frame(1)
    assert len(short) < 1000
    assert described(orjson.loads(short), NATIVE, 1) == described(metadata, NATIVE, 1)
