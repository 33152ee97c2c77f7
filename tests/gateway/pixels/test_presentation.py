"""What a presentation state says of a frame, and what is said of a state that cannot be shown."""

from __future__ import annotations

import base64
import contextlib
import copy
import struct

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.pixels.description import PixelDescription
from gateway.pixels.displayed_area import DisplayedArea
from gateway.pixels.graphic_objects import MAXIMUM_OBJECTS, MAXIMUM_POINTS, MAXIMUM_TEXT_CHARACTERS
from gateway.pixels.options import PNG, RenderOptions, VoiFunction, Window
from gateway.pixels.presentation import PresentationState
from gateway.pixels.references import referenced_images
from gateway.pixels.render import render
from gateway.pixels.state_elements import MAXIMUM_ITEMS
from storage.errors import TooLarge, Undecodable
from tests.gateway.pixels.states import (
    COLOR,
    PSEUDO_COLOR,
    add_overlay,
    annotation,
    area,
    graphic,
    item,
    json_of,
    layer,
    presented_metadata,
    state_of,
    table,
    text,
    window,
)
from tests.gateway.pixels.synthetic import NATIVE, binary, element, metadata_of, noise, picture_of

ARRAY = noise((20, 30), "u2")
METADATA = metadata_of(ARRAY, t00281050=element("DS", 50), t00281051=element("DS", 50), t00281053=element("DS", 7))
DESCRIPTION = PixelDescription.of(METADATA, NATIVE, 1)
UID = "1.2.3"
IMAGE = item(SOPClassUID="1.2", SOPInstanceUID=UID, StudyInstanceUID="1.2", SeriesInstanceUID="1.2.4", Rows=20)
IMAGE.Columns = 30


def full(sop_class=None):
    """A state with something of everything."""
    state = state_of(
        IMAGE,
        frames=[1],
        ModalityLUTSequence=[table(0, 16, np.arange(100))],
        SoftcopyVOILUTSequence=[window(40, 80)],
        PresentationLUTSequence=[table(0, 8, np.arange(256))],
        ImageRotation=90,
        ImageHorizontalFlip="Y",
        DisplayedAreaSelectionSequence=[area((1, 1), (30, 20), "MAGNIFY", PresentationPixelMagnificationRatio=2.0)],
        ShutterShape=["RECTANGULAR", "CIRCULAR", "POLYGONAL", "BITMAP"],
        ShutterLeftVerticalEdge=2,
        ShutterRightVerticalEdge=29,
        ShutterUpperHorizontalEdge=2,
        ShutterLowerHorizontalEdge=19,
        CenterOfCircularShutter=[10, 15],
        RadiusOfCircularShutter=12,
        VerticesOfThePolygonalShutter=[1, 1, 1, 30, 20, 30],
        ShutterOverlayGroup=0x6002,
        ShutterPresentationValue=0x8000,
        GraphicLayerSequence=[layer("L", 1, GraphicLayerRecommendedDisplayCIELabValue=[40000, 30000, 30000])],
        GraphicAnnotationSequence=[
            annotation(
                graphics=[graphic("POLYLINE", (1, 1), (9, 9)), graphic("CIRCLE", (5, 5), (9, 5), filled="Y")],
                texts=[text("Mass", box=((1, 1), (9, 9)), anchor=(12, 12), visible="Y")],
            )
        ],
    )
    add_overlay(state, np.eye(12), group=0x6000, layer="L")
    add_overlay(state, np.eye(12), group=0x6002)
    return json_of(state)


FULL = full()


def of(json, description=DESCRIPTION):
    return PresentationState.of(json, UID, METADATA, description)


def changed(path, value):
    """The full state with another value at a path of tags and indexes; None takes the element away."""
    json = copy.deepcopy(FULL)
    at = json
    for step in path[:-1]:
        at = at[step] if isinstance(step, str) else at["Value"][step]
    at.pop(path[-1], None)
    if value is not None:
        at[path[-1]] = value
    return json


AREA, VOI, ANNOTATION = ("0070005A", 0), ("00283110", 0), ("00700001", 0)
GRAPHIC, TEXT = (*ANNOTATION, "00700009", 0), (*ANNOTATION, "00700008", 0)
NAN = element("FL", "NaN", 1)
MALFORMED = [
    (("00080016",), element("UI", "1.2.840.10008.5.1.4.1.1.11.4")),
    (("00080016",), None),
    (("00286100",), element("SQ", {"00286101": element("CS", "AVG_SUB")})),
    (("00283000", 0, "00283002"), element("US", 100, 0)),
    (("00283000", 0, "00283006"), binary(b"1")),
    (("00283000", 0, "00283006"), {"vr": "OW", "BulkDataURI": "elsewhere"}),
    (("00283000",), element("SQ", "no item")),
    (("00283000",), {"vr": "SQ", "Value": 3}),
    ((*VOI, "00281050"), element("DS", "x")),
    ((*VOI, "00281050"), None),
    ((*VOI, "00281051"), element("DS", 0)),
    ((*VOI, "00281051"), element("DS", 0.5)),
    ((*VOI, "00281051"), element("DS", 1e300)),
    ((*VOI, "00281051"), None),
    ((*VOI, "00281056"), element("CS", "CUBIC")),
    (("20500010", 0, "00283002"), None),
    (("00700042",), element("US", 45)),
    (("00700042",), element("US", -90)),
    (("00700041",), element("CS", "X")),
    ((*AREA, "00700052"), None),
    ((*AREA, "00700053"), element("SL", 1)),
    ((*AREA, "00700053"), element("SL", 1, 2.5)),
    ((*AREA, "00700053"), element("SL", 1, 2**31 - 1)),
    ((*AREA, "00700100"), element("CS", "SMALL")),
    ((*AREA, "00700100"), None),
    ((*AREA, "00700102"), element("IS", 0, 1)),
    ((*AREA, "00700102"), element("IS", 1, 1000)),
    ((*AREA, "00700103"), element("FL", 0)),
    ((*AREA, "00700103"), element("FL", "Infinity")),
    ((*AREA, "00700103"), None),
    (("00181600",), element("CS", "OVAL")),
    (("00181600",), element("CS", None)),
    (("00181602",), None),
    (("00181602",), element("IS", "x")),
    (("00181610",), element("IS", 1)),
    (("00181612",), element("IS", -1)),
    (("00181620",), element("IS", 1, 1, 2, 2)),
    (("00181620",), element("IS", 1, 1, 2, 2, 3)),
    (("00181622",), element("US", 65_536)),
    (("00181623",), element("US", 0x6010)),
    (("00181623",), None),
    (("60020100",), element("US", 16)),
    (("60003000",), binary(b"\0" * 17)),
    (("60003000",), None),
    (("60000010",), element("US", 0)),
    (("60000050",), element("SS", 1)),
    (("00700060", 0, "00700062"), None),
    (("00700060", 0, "00700002"), None),
    (("00700060", 0, "00700401"), element("US", 1, 2)),
    ((*GRAPHIC, "00700005"), element("CS", "MATRIX")),
    ((*GRAPHIC, "00700020"), element("US", 3)),
    ((*GRAPHIC, "00700021"), element("US", 3)),
    ((*GRAPHIC, "00700022"), element("FL", 1, 2, 3)),
    ((*GRAPHIC, "00700022"), NAN),
    ((*GRAPHIC, "00700022"), element("FL", 1e30, 0, 0, 0)),
    ((*GRAPHIC, "00700022"), binary(b"12345", "FL")),
    ((*GRAPHIC, "00700022"), {"vr": "FL", "BulkDataURI": "elsewhere"}),
    ((*GRAPHIC, "00700023"), element("CS", "RECTANGLE")),
    ((*GRAPHIC, "00700024"), element("CS", "MAYBE")),
    ((*TEXT, "00700003"), element("CS", "MILLIMETRES")),
    ((*TEXT, "00700006"), element("ST", 3)),
    ((*TEXT, "00700010"), NAN),
    ((*TEXT, "00700012"), element("CS", "MIDDLE")),
    ((*TEXT, "00700014"), element("FL", 1)),
    ((*TEXT, "00700015"), element("CS", "?")),
]


@pytest.mark.parametrize(("path", "value"), MALFORMED, ids=str)
def test_a_malformed_state_is_not_shown_and_the_reason_names_the_tag(path, value):
    with pytest.raises(Undecodable) as caught:
        of(changed(path, value))
    tag = caught.value.tag
    assert f"({tag[:4]},{tag[4:]})" in caught.value.reason
    expected = {"60003000": "60003000", "00181623": "00181623"}.get(path[-1], path[-1])
    assert tag == expected
    assert len(caught.value.reason) < 200


def test_a_state_without_a_presentation_lut_is_malformed():
    json = {tag: value for tag, value in FULL.items() if not tag.startswith("2050")}
    with pytest.raises(Undecodable, match="2050,0020"):
        of(json)


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("00700001",), element("SQ", *[{}] * (MAXIMUM_ITEMS + 1))),
        ((*ANNOTATION, "00700009"), element("SQ", *[json_of(graphic("POINT", (1, 1)))] * (MAXIMUM_OBJECTS + 1))),
        ((*ANNOTATION, "00700009"), element("SQ", json_of(graphic("POLYLINE", *[(1, 1)] * (MAXIMUM_POINTS + 1))))),
        (("00700001", 0, "00700008"), element("SQ", *[json_of(text("x" * 1024, anchor=(1, 1)))] * 9)),
        ((*AREA, "00700053"), element("SL", 20_000, 20_000)),
    ],
    ids=["annotations", "objects", "points", "text", "area"],
)
def test_what_passes_a_limit_is_too_large(path, value):
    assert MAXIMUM_TEXT_CHARACTERS < 9 * 1024
    with pytest.raises(TooLarge):
        of(changed(path, value))


def test_all_values_of_the_image_are_replaced_by_those_of_the_state():
    bare = of(json_of(state_of(IMAGE))).described(DESCRIPTION)
    assert (bare.rescale_slope, bare.rescale_intercept, bare.modality_lut, bare.voi_lut) == (1, 0, None, None)
    assert bare.windows == (Window(32767.5, 65535, VoiFunction.LINEAR_EXACT),)
    assert (bare.is_inverted, bare.presentation_lut) == (False, None)
    found = of(FULL).described(DESCRIPTION)
    assert found.windows == (Window(40, 80),)
    assert found.modality_lut.bits == 16
    assert found.presentation_lut.bits == 8


@pytest.mark.parametrize(("slope", "intercept"), [(1, 0), (-2, 10), (0.5, -1024)])
@pytest.mark.parametrize("dtype", ["u1", "i2", "u2"])
def test_without_a_voi_the_whole_range_of_the_modality_is_shown(slope, intercept, dtype):
    description = PixelDescription.of(metadata_of(noise((4, 4), dtype)), NATIVE, 1)
    state = json_of(state_of(IMAGE, RescaleSlope=slope, RescaleIntercept=intercept, RescaleType="US"))
    (found,) = of(state, description).described(description).windows
    range_ = np.iinfo(dtype)
    ends = sorted((range_.min * slope + intercept, range_.max * slope + intercept))
    assert found == Window(sum(ends) / 2, ends[1] - ends[0], VoiFunction.LINEAR_EXACT)


def test_a_modality_lut_has_the_range_of_its_bits():
    luts = [table(0, 12, np.arange(4096))]
    (found,) = of(json_of(state_of(IMAGE, ModalityLUTSequence=luts))).described(DESCRIPTION).windows
    assert found == Window(2047.5, 4095, VoiFunction.LINEAR_EXACT)


def test_floating_point_pixels_without_a_voi_span_black_to_white():
    array = np.linspace(-3, 5, 12).astype("f4").reshape(3, 4)
    metadata = presented_metadata(metadata_of(array), state_of(IMAGE, DisplayedAreaSelectionSequence=[]), UID)
    found = picture_of(render(metadata, NATIVE, 1, array.tobytes(), RenderOptions(PNG)))
    assert (found.min(), found.max()) == (0, 255)


@pytest.mark.parametrize("sop_class", [COLOR, PSEUDO_COLOR])
def test_kinds_of_states_have_no_presentation_lut_but_grayscale(sop_class):
    state = json_of(state_of(IMAGE, sop_class=sop_class))
    state |= {f"0028110{n}": element("US", 256, 0, 8) for n in (1, 2, 3)}
    state |= {f"0028120{n}": binary(bytes(range(256))) for n in (1, 2, 3)}
    found = of(state)
    assert (found.grayscale is None) == (sop_class == COLOR)
    assert (found.palette is None) == (sop_class == COLOR)
    assert (found.described(DESCRIPTION) == DESCRIPTION) == (sop_class == COLOR)


def test_a_palette_that_is_missing_is_named():
    with pytest.raises(Undecodable, match="0028,1101"):
        of(json_of(state_of(IMAGE, sop_class=PSEUDO_COLOR)))


def test_a_graphic_may_have_its_points_as_bytes():
    json = changed((*GRAPHIC, "00700022"), binary(struct.pack("<4f", 1, 2, 3, 4.5), "FL"))
    assert of(json).drawn[0].points == ((1, 2), (3, 4.5))


def test_a_layer_that_is_not_defined_is_drawn_white_above_others():
    json = changed((*ANNOTATION, "00700002"), element("CS", "OTHER"))
    assert {one.layer.colour for one in of(json).drawn} == {(255, 255, 255)}


def test_references_keep_their_order_and_frames():
    state = state_of(IMAGE, frames=[3, 1])
    state.ReferencedSeriesSequence.append(copy.deepcopy(state.ReferencedSeriesSequence[0]))
    state.ReferencedSeriesSequence[1].SeriesInstanceUID = "1.2.5"
    found = referenced_images(json_of(state))
    assert [(one.series_instance_uid, one.sop_instance_uid) for one in found] == [("1.2.4", UID), ("1.2.5", UID)]
    assert found[0].frame_numbers == (3, 1)
    assert found[0].covers(UID, 1)
    assert not found[0].covers(UID, 2)
    assert not found[0].covers("1.2", 1)


@pytest.mark.parametrize("value", [None, element("SQ"), element("SQ", {})])
def test_a_state_for_no_image_is_malformed(value):
    with pytest.raises(Undecodable, match="0008,1115"):
        referenced_images(changed(("00081115",), value))


@given(
    st.integers(-50, 50), st.integers(-50, 50), st.integers(1, 99), st.integers(1, 99), st.integers(0, 3), st.booleans()
)
def test_the_corners_of_an_area_stand_at_the_corners_of_its_picture(left, top, width, height, turns, is_flipped):
    area_ = DisplayedArea(left, top, left + width, top + height, quarter_turns=turns, is_flipped=is_flipped)
    corners = [(x, y) for x in (left, left + width) for y in (top, top + height)]
    shown_width, shown_height = area_.size
    found = {area_.turned(corner) for corner in corners}
    assert found == {(x, y) for x in (0, shown_width) for y in (0, shown_height)}


# Whatever a stranger writes is drawn or refused, with a reason that names no value.

JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.floats()
    | st.text(max_size=9)
    | st.sampled_from(["Y"]),
    lambda children: st.lists(children, max_size=5) | st.dictionaries(st.sampled_from(["vr", "Value"]), children),
    max_leaves=9,
)
ELEMENTS = st.one_of(
    JSON,
    st.builds(lambda values: {"vr": "FL", "Value": values}, st.lists(JSON, max_size=6)),
    st.builds(lambda values: {"vr": "DS", "Value": values}, st.lists(st.integers(-300, 300), max_size=8)),
    st.builds(lambda raw: {"vr": "OW", "InlineBinary": base64.b64encode(raw).decode()}, st.binary(max_size=40)),
    st.builds(lambda raw: {"vr": "OW", "InlineBinary": raw}, JSON),
)


def places(json, path=()):
    """All elements of a state, those of items too."""
    for tag, value in json.items():
        yield (*path, tag)
        if value["vr"] == "SQ":
            for index, one in enumerate(value["Value"]):
                yield from places(one, (*path, tag, index))


PLACES = list(places(FULL))


@settings(max_examples=400, deadline=None)
@given(st.lists(st.tuples(st.sampled_from(PLACES), ELEMENTS), min_size=1, max_size=3), st.booleans())
def test_a_hostile_state_is_drawn_or_refused(changes, is_thumbnail):
    json = copy.deepcopy(FULL)
    for path, value in changes:
        # Where one change took the place of another away, there is nothing to change.
        with contextlib.suppress(AttributeError, IndexError, KeyError, TypeError):
            at = json
            for step in path[:-1]:
                at = at[step] if isinstance(step, str) else at["Value"][step]
            at[path[-1]] = value
    metadata = presented_metadata(METADATA, json, UID)
    with contextlib.suppress(Undecodable, TooLarge):
        assert render(metadata, NATIVE, 1, ARRAY.tobytes(), RenderOptions(PNG, is_thumbnail=is_thumbnail))
