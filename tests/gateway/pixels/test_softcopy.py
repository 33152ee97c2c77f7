"""Pictures of presentation states, beside those of DCMTK, and of numpy where DCMTK does not draw."""

from __future__ import annotations

import copy
import subprocess
import time

import numpy as np
import pytest
from PIL import Image

from gateway.pixels.icons import Icon, icon
from gateway.pixels.options import PNG, Region, RenderOptions, Viewport
from gateway.pixels.render import render
from storage.errors import BadRequest
from tests.gateway.pixels import states
from tests.gateway.pixels.part10 import BUNDLED, read
from tests.gateway.pixels.states import (
    COLOR,
    DCMP2PGM,
    PSEUDO_COLOR,
    add_overlay,
    annotation,
    area,
    graphic,
    item,
    judged,
    layer,
    reference,
    shown,
    state_of,
    table,
    text,
    window,
)
from tests.gateway.pixels.synthetic import NATIVE, element, metadata_of, picture_of

needs_dcmtk = pytest.mark.needs("dcmp2pgm")
HOUNSFIELD = {"RescaleIntercept": -1024, "RescaleSlope": 1, "RescaleType": "HU"}


@pytest.fixture(scope="module")
def ct():
    """128 × 128 of 16 bits, signed, with a rescale of its own."""
    return read(BUNDLED / "CT_small.dcm")


@pytest.fixture(scope="module")
def mr():
    """64 × 64 of 16 bits, signed."""
    return read(BUNDLED / "MR_small.dcm")


@pytest.fixture(scope="module")
def loop():
    """15 frames of 32 bits without sign."""
    return read(BUNDLED / "rtdose.dcm")


def largest_difference(ours, theirs):
    assert ours.shape == theirs.shape
    return int(np.abs(ours.astype(int) - theirs.astype(int)).max())


def curve(entries, bits, power):
    return np.rint(np.linspace(0, 1, entries) ** power * ((1 << bits) - 1))


# Grey levels, as dcmp2pgm has them. It rounds down.


@needs_dcmtk
@pytest.mark.parametrize("name", ["CT_small", "MR_small", "MR_small_bigendian", "examples_overlay"])
def test_a_state_without_transformations_shows_the_whole_range(name):
    source = read(BUNDLED / f"{name}.dcm")
    state = state_of(source.data_set)
    assert largest_difference(shown(source, state), judged(source, state)) <= 1


@needs_dcmtk
@pytest.mark.parametrize(
    "voi", [window(40, 400), window(-600.5, 1500), window(100, 1), window(40, 400, "LINEAR"), window(900, 33)]
)
@pytest.mark.parametrize("shape", ["IDENTITY", "INVERSE"])
def test_a_window_is_that_of_the_state(ct, voi, shape):
    state = state_of(ct.data_set, SoftcopyVOILUTSequence=[voi], PresentationLUTShape=shape, **HOUNSFIELD)
    assert largest_difference(shown(ct, state), judged(ct, state)) <= 1


@needs_dcmtk
@pytest.mark.parametrize("rescale", [{}, HOUNSFIELD, {**HOUNSFIELD, "RescaleSlope": 0.5}])
def test_the_rescale_of_the_state_replaces_that_of_the_image(ct, rescale):
    state = state_of(ct.data_set, SoftcopyVOILUTSequence=[window(300, 900)], **rescale)
    assert largest_difference(shown(ct, state), judged(ct, state)) <= 1


@needs_dcmtk
def test_a_modality_lut_of_the_state_replaces_the_rescale_of_the_image(mr):
    lut = table(0, 12, curve(1024, 12, 0.5))
    lut.ModalityLUTType = "US"
    for vois in ({}, {"SoftcopyVOILUTSequence": [window(2000, 3000)]}):
        state = state_of(mr.data_set, ModalityLUTSequence=[lut], **vois)
        assert largest_difference(shown(mr, state), judged(mr, state)) <= 1


@needs_dcmtk
@pytest.mark.parametrize(("first", "bits"), [(-100, 12), (0, 8), (-500, 16)])
def test_a_voi_lut_is_that_of_the_state(ct, first, bits):
    luts = [table(first, bits, curve(700, bits, 0.7), vr="SS")]
    state = state_of(ct.data_set, SoftcopyVOILUTSequence=[item(VOILUTSequence=luts)], **HOUNSFIELD)
    assert largest_difference(shown(ct, state), judged(ct, state)) <= 1


@needs_dcmtk
@pytest.mark.parametrize(("entries", "bits", "power"), [(4096, 12, 2), (4096, 16, 0.5), (1024, 10, 1), (256, 8, 1)])
def test_a_presentation_lut_is_the_last_transformation(ct, entries, bits, power):
    luts = [table(0, bits, curve(entries, bits, power))]
    vois = [window(40, 400)]
    state = state_of(
        ct.data_set, SoftcopyVOILUTSequence=vois, PresentationLUTSequence=luts, PresentationLUTShape=None, **HOUNSFIELD
    )
    # Between two entries of a steep curve either may be taken.
    step = np.diff(curve(entries, bits, power)).max() / ((1 << bits) - 1) * 255
    assert largest_difference(shown(ct, state), judged(ct, state)) <= 1 + step


@needs_dcmtk
@pytest.mark.parametrize("shape", ["IDENTITY", "INVERSE"])
def test_the_photometric_interpretation_of_the_image_does_not_matter(ct, tmp_path, shape):
    data_set = copy.deepcopy(ct.data_set)
    data_set.PhotometricInterpretation = "MONOCHROME1"
    data_set.save_as(tmp_path / "image.dcm")
    source = read(tmp_path / "image.dcm")
    vois = [window(40, 400)]
    state = state_of(ct.data_set, SoftcopyVOILUTSequence=vois, PresentationLUTShape=shape, **HOUNSFIELD)
    ours = shown(source, state)
    assert largest_difference(ours, judged(source, state)) <= 1
    assert np.array_equal(ours, shown(ct, state))


@needs_dcmtk
@pytest.mark.parametrize("rotation", [0, 90, 180, 270])
@pytest.mark.parametrize("flip", ["Y", "N"])
def test_an_image_is_turned_clockwise_and_then_flipped(ct, rotation, flip):
    state = state_of(
        ct.data_set,
        SoftcopyVOILUTSequence=[window(40, 400)],
        ImageRotation=rotation,
        ImageHorizontalFlip=flip,
        **HOUNSFIELD,
    )
    assert largest_difference(shown(ct, state), judged(ct, state)) <= 1


@needs_dcmtk
def test_a_bitmap_shutter_hides_what_is_set(ct):
    bits = np.random.default_rng(1).integers(0, 2, (128, 128))
    state = state_of(ct.data_set, SoftcopyVOILUTSequence=[window(40, 400)], **HOUNSFIELD)
    add_overlay(state, bits, group=0x6000)
    state.ShutterShape, state.ShutterOverlayGroup, state.ShutterPresentationValue = "BITMAP", 0x6000, 0x4000
    ours = shown(ct, state)
    assert largest_difference(ours, judged(ct, state)) <= 1
    assert (ours[bits == 1] == 64).all()
    state.add_new(0x60000040, "CS", "R")  # of a region of interest, which else is an outline
    assert np.array_equal(shown(ct, state), ours)


@needs_dcmtk
def test_each_frame_is_shown_by_the_items_that_are_for_it(loop):
    last = len(loop.frames)
    vois = [
        window(5e5, 1e6, ReferencedImageSequence=[reference(loop.data_set, 1)]),
        window(1e6, 3e6, ReferencedImageSequence=[reference(loop.data_set, *range(2, last + 1))]),
    ]
    state = state_of(loop.data_set, SoftcopyVOILUTSequence=vois)
    pictures = [shown(loop, state, frame_number=number) for number in (1, last)]
    for number, picture in zip((1, last), pictures, strict=True):
        assert largest_difference(picture, judged(loop, state, number)) <= 1
    assert not np.array_equal(*pictures)


@needs_dcmtk
@pytest.mark.needs("dcmpsmk")
@pytest.mark.parametrize("name", ["CT_small", "MR_small", "examples_overlay"])
def test_a_state_of_another_maker_is_shown_as_by_its_maker(name, tmp_path):
    source, file = read(BUNDLED / f"{name}.dcm"), tmp_path / "state.dcm"
    subprocess.run(["dcmpsmk", "+Vw", "-o", str(source.path), str(file)], check=True, capture_output=True)
    state = states.json_of(read(file).data_set)
    metadata = states.presented_metadata(source.metadata, state, source.data_set.SOPInstanceUID)
    ours = picture_of(render(metadata, source.transfer_syntax_uid, 1, source.frames[0], RenderOptions(PNG)))
    command = [DCMP2PGM, "-p", str(file), str(source.path), str(tmp_path / "picture.pgm")]
    subprocess.run(command, check=True, capture_output=True)
    with Image.open(tmp_path / "picture.pgm") as image:
        assert largest_difference(ours, np.array(image)) <= 1


# What dcmp2pgm leaves out, beside numpy


@pytest.fixture
def plain(ct):
    """The CT in one window, and how to make states of it."""
    vois = {"SoftcopyVOILUTSequence": [window(40, 400)], **HOUNSFIELD}

    def make(**attributes):
        return state_of(ct.data_set, **{**vois, **attributes})

    make.picture = shown(ct, make())
    return make


def framed(picture, left, top, right, bottom):
    """A part of a picture, from column ``left`` and row ``top`` to before the others, black outside."""
    canvas = np.zeros((bottom - top, right - left), "u1")
    for row in range(max(0, top), min(picture.shape[0], bottom)):
        for column in range(max(0, left), min(picture.shape[1], right)):
            canvas[row - top, column - left] = picture[row, column]
    return canvas


@pytest.mark.parametrize(
    ("top_left", "bottom_right"),
    [
        ((11, 21), (50, 100)),
        ((1, 1), (128, 128)),
        ((-9, -19), (140, 60)),
        ((128, 128), (128, 128)),
        ((201, 1), (210, 9)),
    ],
)
def test_the_displayed_area_is_cut_out_and_black_beyond_the_image(ct, plain, top_left, bottom_right):
    state = plain(DisplayedAreaSelectionSequence=[area(top_left, bottom_right)])
    expected = framed(plain.picture, top_left[0] - 1, top_left[1] - 1, *bottom_right)
    assert np.array_equal(shown(ct, state), expected)


@pytest.mark.parametrize("rotation", [0, 90, 180, 270])
@pytest.mark.parametrize("flip", ["Y", "N"])
def test_the_corners_of_a_displayed_area_are_those_of_the_turned_image(ct, plain, rotation, flip):
    part = plain.picture[20:100, 10:50]
    expected = np.rot90(part, -rotation // 90)
    expected = expected[:, ::-1] if flip == "Y" else expected
    columns, rows = np.meshgrid(np.arange(11, 51), np.arange(21, 101))
    places = np.rot90(np.stack([columns, rows], axis=-1), -rotation // 90)
    places = places[:, ::-1] if flip == "Y" else places
    selection = area(places[0, 0].tolist(), places[-1, -1].tolist())
    state = plain(DisplayedAreaSelectionSequence=[selection], ImageRotation=rotation, ImageHorizontalFlip=flip)
    assert np.array_equal(shown(ct, state), expected)


def test_each_image_has_its_own_displayed_area(ct, plain):
    other = item(ReferencedSOPClassUID="1.2", ReferencedSOPInstanceUID="1.2.3")
    selections = [
        area((1, 1), (5, 5), ReferencedImageSequence=[other]),
        area((1, 1), (9, 7), ReferencedImageSequence=[other, reference(ct.data_set)]),
    ]
    state = plain(DisplayedAreaSelectionSequence=selections)
    assert np.array_equal(shown(ct, state), plain.picture[:7, :9])
    assert shown(ct, plain(DisplayedAreaSelectionSequence=selections[:1])).shape == (128, 128)


@pytest.mark.parametrize(
    ("spacing", "rotation", "size"),
    [
        ({"PresentationPixelAspectRatio": [2, 1]}, 0, (256, 128)),
        ({"PresentationPixelAspectRatio": [1, 2]}, 0, (128, 256)),
        ({"PresentationPixelAspectRatio": [2, 1]}, 90, (128, 256)),
        ({"PresentationPixelSpacing": [0.5, 1], "PresentationPixelAspectRatio": [9, 1]}, 0, (128, 256)),
    ],
)
def test_pixels_have_the_shape_that_the_state_says(ct, plain, spacing, rotation, size):
    selection = [area((1, 1), (128, 128), **spacing)]
    state = plain(DisplayedAreaSelectionSequence=selection, ImageRotation=rotation, ImageHorizontalFlip="N")
    assert shown(ct, state).shape == size


@pytest.mark.parametrize(
    ("mode", "viewport", "size"),
    [
        ("SCALE TO FIT", None, (40, 20)),
        ("SCALE TO FIT", Viewport(100, 100), (100, 50)),
        ("TRUE SIZE", None, (40, 20)),
        ("TRUE SIZE", Viewport(100, 100), (100, 50)),
        ("MAGNIFY", None, (120, 60)),
        ("MAGNIFY", Viewport(1000, 1000), (120, 60)),
        ("MAGNIFY", Viewport(60, 90), (60, 60)),
        ("MAGNIFY", Viewport(None, 30), (120, 30)),
        ("MAGNIFY", Viewport(60, 60, Region(0, 0, 10, 10)), (60, 60)),
    ],
)
def test_the_size_is_that_of_the_mode_and_the_viewport(ct, plain, mode, viewport, size):
    more = {"PresentationPixelSpacing": [1, 1], "PresentationPixelMagnificationRatio": 3.0}
    state = plain(DisplayedAreaSelectionSequence=[area((1, 1), (40, 20), mode, **more)])
    assert shown(ct, state, RenderOptions(PNG, viewport=viewport)).shape == size[::-1]


def test_a_magnified_area_that_is_larger_than_its_viewport_shows_its_middle(ct, plain):
    more = {"PresentationPixelMagnificationRatio": 1.0}
    state = plain(DisplayedAreaSelectionSequence=[area((1, 1), (40, 20), "MAGNIFY", **more)])
    found = shown(ct, state, RenderOptions(PNG, viewport=Viewport(10, 10)))
    assert np.array_equal(found, plain.picture[5:15, 15:25])


def test_a_huge_magnification_is_bounded(ct, plain):
    more = {"PresentationPixelMagnificationRatio": 999.0}
    state = plain(DisplayedAreaSelectionSequence=[area((1, 1), (128, 128), "MAGNIFY", **more)])
    assert shown(ct, state, RenderOptions(PNG, viewport=Viewport(50, 40))).shape == (40, 50)


def test_a_region_of_the_viewport_is_one_of_the_displayed_area_as_it_is_turned(ct, plain):
    selection = [area((11, 100), (50, 21))]
    state = plain(DisplayedAreaSelectionSequence=selection, ImageRotation=90, ImageHorizontalFlip="N")
    turned = np.rot90(plain.picture[20:100, 10:50], -1)
    for width, expected in ((30, turned[5:15, 7:37]), (-30, turned[5:15, 7:37][:, ::-1])):
        options = RenderOptions(PNG, viewport=Viewport(30, 10, Region(7, 5, width, 10)))
        assert np.array_equal(shown(ct, state, options), expected)
    with pytest.raises(BadRequest):
        shown(ct, state, RenderOptions(PNG, viewport=Viewport(30, 10, Region(50, 35, 10, 6))))


SHUTTERS = {
    "RECTANGULAR": {
        "ShutterLeftVerticalEdge": 10,
        "ShutterRightVerticalEdge": 100,
        "ShutterUpperHorizontalEdge": 20,
        "ShutterLowerHorizontalEdge": 90,
    },
    "CIRCULAR": {"CenterOfCircularShutter": [60, 40], "RadiusOfCircularShutter": 37},
    "POLYGONAL": {"VerticesOfThePolygonalShutter": [1, 64, 100, 1, 100, 128]},
}


def openings():
    """What each shutter leaves open; rows and columns from 1."""
    row, column = np.mgrid[1:129, 1:129]
    left, right = 64 - (row - 1) * 63 / 99, 64 + (row - 1) * 64 / 99
    return {
        "RECTANGULAR": (column >= 10) & (column <= 100) & (row >= 20) & (row <= 90),
        "CIRCULAR": (row - 60) ** 2 + (column - 40) ** 2 <= 37**2,
        "POLYGONAL": (row <= 100) & (column >= left) & (column <= right),
    }


@pytest.mark.parametrize(
    "shapes", [["RECTANGULAR"], ["CIRCULAR"], ["POLYGONAL"], ["RECTANGULAR", "CIRCULAR"], list(SHUTTERS)]
)
def test_what_lies_outside_of_any_shutter_is_hidden(ct, plain, shapes):
    attributes = {keyword: value for shape in shapes for keyword, value in SHUTTERS[shape].items()}
    state = plain(ShutterShape=shapes, ShutterPresentationValue=0x8000, **attributes)
    seen = np.logical_and.reduce([openings()[shape] for shape in shapes])
    different = shown(ct, state) != np.where(seen, plain.picture, 128)
    assert different.sum() <= (150 if "POLYGONAL" in shapes else 0)  # pixels that a slanting edge cuts


@pytest.mark.parametrize("edges", [(-50, 500, -50, 500), (200, 300, 1, 128), (90, 10, 1, 128), (-1000000, -5, 1, 128)])
def test_shutters_may_reach_beyond_the_image_or_leave_nothing(ct, plain, edges):
    values = dict(zip(SHUTTERS["RECTANGULAR"], edges, strict=True))
    found = shown(ct, plain(ShutterShape="RECTANGULAR", ShutterPresentationValue=0, **values))
    assert np.array_equal(found, plain.picture if edges[0] == -50 else np.zeros((128, 128), "u1"))


def test_a_circular_shutter_is_round_where_pixels_are_not_square():
    array = np.full((100, 100), 200, "u1")
    image = item(SOPClassUID="1.2", SOPInstanceUID="1.2.3", StudyInstanceUID="1.2", SeriesInstanceUID="1", Rows=100)
    image.Columns = 100
    circle = {"CenterOfCircularShutter": [50, 50], "RadiusOfCircularShutter": 30}
    state = state_of(image, ShutterShape="CIRCULAR", ShutterPresentationValue=0, **circle)
    state.DisplayedAreaSelectionSequence = [area((1, 1), (100, 100), PresentationPixelAspectRatio=[2, 1])]
    metadata = metadata_of(array, t00280034=element("IS", 2, 1))
    found = picture_of(
        render(states.presented_metadata(metadata, state, "1.2.3"), NATIVE, 1, array.tobytes(), RenderOptions(PNG))
    )
    rows, columns = np.nonzero(found > 100)
    assert found.shape == (200, 100)
    assert abs(np.ptp(rows) - np.ptp(columns)) <= 2


def test_a_shutter_hides_the_image_under_scaled_pixels_too(ct, plain):
    state = plain(ShutterShape="RECTANGULAR", ShutterPresentationValue=0x8000, **SHUTTERS["RECTANGULAR"])
    found = shown(ct, state, RenderOptions(PNG, viewport=Viewport(512, 512)))
    assert (found[:60] == 128).all()


def test_an_overlay_of_the_state_is_drawn_in_its_layer(ct, plain):
    bits = np.zeros((30, 40), "u1")
    bits[5:10, 3:33] = 1
    state = add_overlay(plain(), bits, origin=(11, 21), layer="MARKS")
    state.GraphicLayerSequence = [layer("MARKS", GraphicLayerRecommendedDisplayGrayscaleValue=0xC0C0)]
    expected = plain.picture.copy()
    expected[15:20, 23:53] = 0xC0
    assert np.array_equal(shown(ct, state), expected)
    state.ImageRotation, state.ImageHorizontalFlip = 90, "N"
    assert np.array_equal(shown(ct, state), np.rot90(expected, -1))


def test_an_overlay_that_is_not_switched_on_is_not_drawn(ct, plain):
    assert np.array_equal(shown(ct, add_overlay(plain(), np.ones((9, 9), "u1"))), plain.picture)


@pytest.mark.parametrize("is_switched_on", [True, False])
def test_an_overlay_in_the_pixels_of_the_image_is_drawn_when_the_state_switches_it_on(is_switched_on):
    marks = np.kron(np.eye(2, dtype="u2"), np.ones((10, 15), "u2"))
    array = np.full((20, 30), 1000, "u2") | marks << 15
    _, image = colour_image()
    state = state_of(image, SoftcopyVOILUTSequence=[window(1000, 2000)])
    if is_switched_on:
        state.add_new(0x60001001, "CS", "L")
    bits = {"t00280101": element("US", 12), "t00280102": element("US", 11)}
    plane = {"0010": 20, "0011": 30, "0100": 16, "0102": 15}
    bits |= {f"t6000{tag}": element("US", value) for tag, value in plane.items()}
    metadata = states.presented_metadata(metadata_of(array, **bits), state, "1.2.3")
    found = picture_of(render(metadata, NATIVE, 1, array.tobytes(), RenderOptions(PNG)))
    assert np.array_equal(found == 255, (marks == 1) & is_switched_on)


def test_an_overlay_may_reach_beyond_the_image(ct, plain):
    state = add_overlay(plain(), np.ones((20, 200), "u1"), origin=(-9, -49), layer="L")
    found = shown(ct, state)
    assert (found[:10] == 255).all()
    assert np.array_equal(found[10:], plain.picture[10:])


def test_a_coloured_layer_makes_a_coloured_picture(ct, plain):
    state = add_overlay(plain(), np.ones((10, 10), "u1"), layer="L")
    red = [34_884, 53_480, 50_171]  # L* 53.2, a* 80, b* 67
    state.GraphicLayerSequence = [layer("L", GraphicLayerRecommendedDisplayCIELabValue=red)]
    found = shown(ct, state)
    assert found.shape == (128, 128, 3)
    assert np.abs(found[:10, :10] - np.array([255, 0, 0])).max() <= 12
    assert np.array_equal(found[20:, :, 1], plain.picture[20:])


# Graphics. Compared with what they enclose or pass, as nobody says how wide a line is.

CLOSED = [(20, 20), (100, 20), (100, 60), (20, 60), (20, 20)]
OBJECTS = {
    "POLYLINE": [CLOSED, lambda x, y: (x > 20) & (x < 100) & (y > 20) & (y < 60)],
    "CIRCLE": [[(64, 60), (64, 90)], lambda x, y: (x - 64) ** 2 + (y - 60) ** 2 < 30**2],
    "ELLIPSE": [
        [(14, 64), (114, 64), (64, 44), (64, 84)],
        lambda x, y: ((x - 64) / 50) ** 2 + ((y - 64) / 20) ** 2 < 1,
    ],
    "INTERPOLATED": [
        [(94, 64), (64, 94), (34, 64), (64, 34), (94, 64)],
        lambda x, y: (x - 64) ** 2 + (y - 64) ** 2 < 29**2,
    ],
}


@pytest.mark.parametrize("units", ["PIXEL", "DISPLAY"])
@pytest.mark.parametrize("kind", OBJECTS)
def test_a_filled_graphic_covers_its_inside(ct, plain, kind, units):
    points, inside = OBJECTS[kind]
    scale = 128 if units == "DISPLAY" else 1
    filled = graphic(kind, *[(x / scale, y / scale) for x, y in points], units=units, filled="Y")
    state = plain(GraphicAnnotationSequence=[annotation(graphics=[filled])])
    found = shown(ct, state) == 255
    row, column = np.mgrid[0:128, 0:128] + 0.5
    expected = inside(column, row) | (plain.picture == 255)
    edge = np.sum(found != expected)
    assert edge <= 330  # the outline, a pixel wide or two


@pytest.mark.parametrize("kind", OBJECTS)
def test_the_outline_of_a_graphic_passes_its_edge_and_leaves_the_inside(ct, plain, kind):
    points, inside = OBJECTS[kind]
    found = shown(ct, plain(GraphicAnnotationSequence=[annotation(graphics=[graphic(kind, *points)])]))
    drawn = found != plain.picture
    row, column = np.mgrid[0:128, 0:128] + 0.5
    middle = inside(64 + (column - 64) * 1.3, 64 + (row - 64) * 1.3) & inside(column * 1.0, row * 1.0)
    assert 80 < drawn.sum() < 600
    assert not drawn[middle & inside(column, row + 4) & inside(column + 4, row) & inside(column - 4, row - 4)].any()


def test_a_point_is_a_dot(ct, plain):
    found = shown(ct, plain(GraphicAnnotationSequence=[annotation(graphics=[graphic("POINT", (30.5, 40.5))])]))
    rows, columns = np.nonzero(found != plain.picture)
    assert abs(rows.mean() - 40) <= 1
    assert abs(columns.mean() - 30) <= 1


@pytest.mark.parametrize("rotation", [0, 90, 180, 270])
@pytest.mark.parametrize("flip", ["Y", "N"])
@pytest.mark.parametrize("viewport", [None, Viewport(256, 256), Viewport(80, 80, Region(10, 10, 80, -80))])
def test_graphics_in_pixels_go_with_the_image_and_those_of_the_display_do_not(ct, plain, rotation, flip, viewport):
    def marked(units="PIXEL", *corners):
        turned = plain(ImageRotation=rotation, ImageHorizontalFlip=flip)
        if corners:
            box = graphic("POLYLINE", *corners, units=units, filled="Y")
            turned.GraphicAnnotationSequence = [annotation(graphics=[box])]
        return shown(ct, turned, RenderOptions(PNG, viewport=viewport)) == 255

    def turned(mask):
        mask = np.rot90(mask, -rotation // 90)
        return mask[:, ::-1] if flip == "Y" else mask

    def viewed(mask):
        if viewport is None:
            return mask
        return mask.repeat(2, 0).repeat(2, 1) if viewport.region is None else mask[10:90, 10:90][::-1]

    square, corners = np.zeros((128, 128), bool), [(20, 30), (90, 30), (90, 60), (20, 60), (20, 30)]
    square[30:60, 20:90] = True
    in_pixels, in_display = marked("PIXEL", *corners), marked("DISPLAY", *((x / 128, y / 128) for x, y in corners))
    assert np.sum(in_pixels != (viewed(turned(square)) | marked())) < 0.02 * in_pixels.size
    assert np.sum(in_display != (viewed(square) | marked())) < 0.02 * in_display.size


def test_layers_are_drawn_in_their_order(ct, plain):
    square = graphic("POLYLINE", (10, 10), (50, 10), (50, 50), (10, 50), (10, 10), filled="Y")
    state = plain(GraphicAnnotationSequence=[annotation("TOP", [square]), annotation("BOTTOM", [square])])
    state.GraphicLayerSequence = [
        layer("TOP", 7, GraphicLayerRecommendedDisplayGrayscaleValue=0x4040),
        layer("BOTTOM", 2, GraphicLayerRecommendedDisplayGrayscaleValue=0xFFFF),
    ]
    assert (shown(ct, state)[12:48, 12:48] == 0x40).all()


def test_graphics_are_drawn_on_the_images_that_they_are_for(ct, plain):
    other = item(ReferencedSOPClassUID="1.2", ReferencedSOPInstanceUID="1.2.3")
    square = graphic("POLYLINE", (10, 10), (50, 10), (50, 50), filled="Y")
    for references, is_drawn in (([other], False), ([other, reference(ct.data_set)], True)):
        state = plain(GraphicAnnotationSequence=[annotation(graphics=[square], ReferencedImageSequence=references)])
        assert np.array_equal(shown(ct, state), plain.picture) != is_drawn


@pytest.mark.parametrize(
    ("made", "part"),
    [
        (text("Mass", box=((10, 10), (60, 30))), (0, 40, 0, 80)),
        (text("Mass", box=((0.5, 0.5), (0.9, 0.6)), units="DISPLAY"), (60, 90, 60, 128)),
        (text("Mass", anchor=(20, 100), visible="Y"), (95, 128, 15, 80)),
        (text("One\r\nTwo", box=((10, 10), (60, 50)), justification="RIGHT"), (0, 60, 10, 70)),
        (text("Mass", box=((120, 120), (128, 128))), (90, 128, 60, 128)),
    ],
)
def test_text_stands_where_it_is_meant_to(ct, plain, made, part):
    different = shown(ct, plain(GraphicAnnotationSequence=[annotation(texts=[made])])) != plain.picture
    top, bottom, left, right = part
    assert 30 < different.sum() == different[top:bottom, left:right].sum()


def test_a_visible_anchor_is_joined_to_the_box_of_its_text(ct, plain):
    alone = text("A", box=((5, 5), (25, 25)))
    joined = text("A", box=((5, 5), (25, 25)), anchor=(110, 110), visible="Y")
    first, second = (shown(ct, plain(GraphicAnnotationSequence=[annotation(texts=[one])])) for one in (alone, joined))
    rows, _ = np.nonzero(first != second)
    assert rows.max() >= 109
    assert len(set(rows.tolist())) > 70


def test_text_outside_the_displayed_area_is_not_drawn(ct, plain):
    state = plain(GraphicAnnotationSequence=[annotation(texts=[text("Mass", box=((90, 90), (120, 100)))])])
    state.DisplayedAreaSelectionSequence = [area((1, 1), (50, 50))]
    assert np.array_equal(shown(ct, state), plain.picture[:50, :50])


def test_letters_that_the_font_does_not_have_are_no_reason_to_fail(ct, plain):
    state = plain(GraphicAnnotationSequence=[annotation(texts=[text("\u9aa8 \u0416 \u05d0\u202e\x07", anchor=(9, 9))])])
    state.SpecificCharacterSet = "ISO_IR 192"
    assert (shown(ct, state) != plain.picture).any()


@pytest.mark.parametrize("kind", ["POLYLINE", "INTERPOLATED"])
@pytest.mark.parametrize("filled", ["Y", "N"])
def test_the_most_points_from_far_outside_are_drawn_in_time(ct, plain, kind, filled):
    flat = np.random.default_rng(2).uniform(-1e6, 1e6, (32_000, 2)).tolist()
    state = plain(GraphicAnnotationSequence=[annotation(graphics=[graphic(kind, *flat, filled=filled)])])
    started = time.process_time()
    assert shown(ct, state).shape == (128, 128)
    assert time.process_time() - started < 12


# Thumbnails


def test_a_thumbnail_has_the_shutter_but_nothing_that_may_name_someone(ct, plain):
    square = graphic("POLYLINE", (10, 10), (50, 10), (50, 50), filled="Y")
    bare = plain(ShutterShape="RECTANGULAR", ShutterPresentationValue=0x8000, **SHUTTERS["RECTANGULAR"])
    state = add_overlay(copy.deepcopy(bare), np.ones((128, 128), "u1"), layer="L")
    state.GraphicAnnotationSequence = [annotation(graphics=[square], texts=[text("Mizuno", box=((5, 5), (90, 40)))])]
    options = RenderOptions(PNG, is_thumbnail=True)
    assert np.array_equal(shown(ct, state, options), shown(ct, bare, options))
    assert not np.array_equal(shown(ct, state), shown(ct, bare))
    assert (shown(ct, state, options)[:15] == 128).all()


def test_a_thumbnail_of_an_image_that_names_the_patient_is_an_icon(ct, plain):
    metadata = {**ct.metadata, "00280301": element("CS", "YES")}
    metadata = states.presented_metadata(metadata, plain(), ct.data_set.SOPInstanceUID)
    options = RenderOptions(PNG, is_thumbnail=True)
    assert render(metadata, ct.transfer_syntax_uid, 1, ct.frames[0], options) == icon(Icon.HIDDEN, options)


# Colour


def colour_image():
    array = np.random.default_rng(3).integers(0, 256, (20, 30, 3), "u1")
    image = item(SOPClassUID="1.2", SOPInstanceUID="1.2.3", StudyInstanceUID="1.2", SeriesInstanceUID="1", Rows=20)
    image.Columns = 30
    return array, image


@pytest.mark.parametrize("sop_class", [COLOR, states.GRAYSCALE])
def test_a_colour_image_keeps_its_colours_and_is_turned(sop_class):
    array, image = colour_image()
    state = state_of(image, sop_class=sop_class, ImageRotation=90, ImageHorizontalFlip="N")
    state.ShutterShape, state.ShutterPresentationValue = "RECTANGULAR", 0
    for (keyword, _), value in zip(SHUTTERS["RECTANGULAR"].items(), (3, 28, 2, 19), strict=True):
        setattr(state, keyword, value)
    expected = np.zeros_like(array)
    expected[1:19, 2:28] = array[1:19, 2:28]
    metadata = states.presented_metadata(metadata_of(array), state, "1.2.3")
    found = picture_of(render(metadata, NATIVE, 1, array.tobytes(), RenderOptions(PNG)))
    assert np.array_equal(found, np.rot90(expected, -1))


def test_pseudo_colour_is_the_palette_of_the_greys(ct):
    state = state_of(ct.data_set, sop_class=PSEUDO_COLOR, SoftcopyVOILUTSequence=[window(40, 400)], **HOUNSFIELD)
    ramp = np.arange(256)
    for name, entries in (("Red", ramp), ("Green", ramp[::-1]), ("Blue", ramp // 2)):
        setattr(state, f"{name}PaletteColorLookupTableDescriptor", [256, 0, 16])
        setattr(state, f"{name}PaletteColorLookupTableData", (entries * 257).astype("<u2").tobytes())
    greys = shown(ct, state_of(ct.data_set, SoftcopyVOILUTSequence=[window(40, 400)], **HOUNSFIELD)).astype(int)
    expected = np.stack([greys, 255 - greys, greys // 2], axis=-1)
    assert np.abs(shown(ct, state) - expected).max() <= 1
