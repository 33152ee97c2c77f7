"""Every picture is the one that the standard's formulas give, and DCMTK: files of all encodings, all ways to ask.

The samples, what pydicom and pynetdicom bundle, and files that other encoders made (``specimens``). One command,
``python -m docs.rendering_table``, writes down how alike the pictures are.
"""

from __future__ import annotations

import io
import os
import warnings
from functools import cache
from pathlib import Path

import httpx
import numpy as np
import pynetdicom
import pytest
from PIL import Image, ImageCms
from pydicom import dcmread

from docs import rendering_table
from gateway.pixels.options import JPEG, PNG, Region, RenderOptions, Viewport
from gateway.pixels.render import render
from storage.errors import Undecodable
from tests.fix_servers import run_command, running_gateway
from tests.gateway.pixels import dcmtk, reference
from tests.gateway.pixels.asked import WAYS, Asked
from tests.gateway.pixels.part10 import BUNDLED, read
from tests.gateway.pixels.reference import LINEAR, SIGMOID, farthest, psnr_db
from tests.gateway.pixels.specimens import FEATURE_SPECIMENS, SPECIMENS
from tests.gateway.pixels.synthetic import NATIVE, metadata_of, picture_of
from tests.gateway.pixels.verdicts import (
    COLOUR_LEVELS,
    DCMTK_COLOUR_LEVELS,
    DCMTK_GREY_LEVELS,
    GREY_LEVELS,
    opened,
    picture,
    verdict,
)

SAMPLES = Path(__file__).parents[3] / "sample_dicom"
ALL = {specimen.name: specimen for specimen in (*SPECIMENS, *FEATURE_SPECIMENS)}

# How alike scaled pictures are to exact filters, of which Pillow works in two steps and rounds between them. At the
# edges of a part it also looks beyond them.
SCALED_DB, AVERAGED_DB, TINY_DB, TINY_PIXELS = 34.0, 22.0, 28.0, 16
LOSSY_DB = {"jpeg": 32.0, "jpeg of quality 50": 20.0, "gif": 30.0}

pytestmark = pytest.mark.needs(*dcmtk.PROGRAMS)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Where the specimens are made, once for all processes of a run."""
    base = tmp_path_factory.getbasetemp()
    found = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "specimens"
    found.mkdir(exist_ok=True)
    return found


# Every encoding


@pytest.mark.parametrize("name", ALL)
def test_a_file_of_any_encoding_looks_as_it_must_or_is_refused_as_the_table_says(name, folder):
    found = verdict(ALL[name], folder)
    if found.refusal:
        assert rendering_table.result(found) == rendering_table.committed()[ALL[name].row]
    else:
        found.check()


def test_the_table_of_what_can_be_rendered_is_current(folder):
    found = {specimen.row: rendering_table.result(verdict(specimen, folder)) for specimen in ALL.values()}
    assert found == rendering_table.committed(), "python -m docs.rendering_table writes it anew"


# Every way to ask

MANY_PIXELS = 66_000


def _bundled():
    more = Path(pynetdicom.__file__).parent / "tests" / "dicom_files"
    return [*sorted(SAMPLES.rglob("*.dcm")), *sorted(BUNDLED.glob("*.dcm")), *sorted(more.glob("*.dcm"))]


# Files that none but us can read, or nobody: DCMTK or pydicom has no decoder, or the file is broken on purpose.
UNJUDGED = {"JPEG-lossy", "JPGExtended", "SC_rgb_jpeg_gdcm", "JPEG2000-embedded-sequence-delimiter", "MR_truncated"}
UNJUDGED |= {"badVR", "meta_missing_tsyntax", "nested_priv_SQ"}


STACK = "ct_stack"  # one slice of it looks as all do


def _is_judged(path):
    """Whether it is an image that somebody else can read, too; of all objects only images have Rows."""
    is_one_of_many = path.parent.name == STACK and path.stem != "slice_11"
    if path.stem in UNJUDGED or is_one_of_many:
        return False
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return "Rows" in dcmread(path, stop_before_pixels=True, force=True, specific_tags=["Rows"])


PATHS = [path for path in _bundled() if _is_judged(path)]
each_image = pytest.mark.parametrize("path", PATHS, ids=[f"{path.parent.name}/{path.stem}" for path in PATHS])


def frames_of(path):
    """Its first and its last frame, by number."""
    return sorted({1, len(opened(path).frames)})


@cache
def decoded(path, frame_number):
    """Stored values by pydicom, and RGB for colour.

    Where words of 16 bits are turned round, the halves of one of 32 bits stay where they are; pydicom turns the four
    bytes. PS3.5 §6.2 (OW), §7.3
    """
    raw = read(path)
    values = reference.decoded(raw.data_set, frame_number)
    if raw.transfer_syntax_uid == "1.2.840.10008.1.2.2" and values.dtype.itemsize == 4:
        return (values >> 16) | (values << 16)
    return values


@each_image
def test_an_image_is_shown_as_it_is_asked_for(path):
    """The first frame in all ways, unless that takes too long; the last one as it is."""
    for number in frames_of(path):
        stored = decoded(path, number)
        is_large = number > 1 or stored.shape[0] * stored.shape[1] > MANY_PIXELS
        for way in WAYS[:1] if is_large else WAYS:
            judge(way, opened(path), number, stored)


@pytest.mark.parametrize("way", WAYS, ids=lambda way: way.name)
@pytest.mark.parametrize("name", ALL_WAYS := list(rendering_table.SHOWN_IN_ALL_WAYS))
def test_an_encoding_is_shown_as_it_is_asked_for(name, way, folder):
    specimen = ALL[name]
    judge(way, opened(specimen.write(folder)), 1, specimen.of.stored, specimen)


def judge(way: Asked, source, number, stored, specimen=None):
    """Compare one picture with the reference's; that of a specimen knows its samples before they were encoded."""
    data_set = specimen.judged() if specimen else source.data_set
    photometric = "RGB" if stored.ndim == 3 and not specimen else ""
    ours = picture(source, number, way, stored)
    expected = way.expected(data_set, number, stored, photometric)
    is_tiny = min(expected.shape[:2]) < TINY_PIXELS
    if way.name in LOSSY_DB and not (way.name == "gif" and expected.ndim == 2):
        assert psnr_db(ours, expected) >= LOSSY_DB[way.name] - 15 * is_tiny, (way.name, number)
    elif way.is_scaled(data_set, number):
        least = TINY_DB if is_tiny or data_set.get("BitsStored") == 1 else SCALED_DB
        assert psnr_db(ours, expected) >= least, (way.name, number)
    else:
        assert farthest(ours, expected) <= (GREY_LEVELS if expected.ndim == 2 else COLOUR_LEVELS), (way.name, number)


# What DCMTK does not decode, knows none of the transformations of, or does not stretch.
NOT_BY_DCMTK = """
    5_jpeg_2000_12_bit/image fundus/jpeg_2000_colour stills/aspect_ratio test_files/693_J2KI test_files/CT_small
    test_files/GDCMJ2K_TextGBR test_files/J2K_pixelrep_mismatch test_files/JPEG2000
    test_files/MR_small_jp2klossless test_files/SC_rgb_gdcm_KY test_files/SC_rgb_jpeg test_files/examples_jpeg2k
    dicom_files/CTImageStorage dicom_files/CTImageStorage_bad_meta dicom_files/MRImageStorage_JPG2000_Lossless
    dicom_files/RTImageStorage
""".split()  # noqa: SIM905 - a table to be read


@each_image
def test_an_image_looks_as_dcmtk_shows_it(path):
    judged = 0
    for number in frames_of(path):
        source = opened(path)
        options = dcmtk.options(read(path).data_set, number)
        theirs = dcmtk.picture(path, number, *options) if options is not None else None
        ours = picture(source, number, WAYS[0], decoded(path, number))
        if theirs is not None and theirs.shape[:2] == ours.shape[:2]:
            assert farthest(ours, theirs) <= (DCMTK_GREY_LEVELS if theirs.ndim == 2 else DCMTK_COLOUR_LEVELS)
            judged += 1
    assert bool(judged) != (f"{path.parent.name}/{path.stem}" in NOT_BY_DCMTK)


def test_what_nobody_else_can_decode_is_shown_or_refused():
    shown = []
    for path in _bundled():
        if path.stem in UNJUDGED - {"badVR", "meta_missing_tsyntax", "nested_priv_SQ"}:
            source = opened(path)
            try:
                made = render(source.metadata, source.transfer_syntax_uid, 1, source.frames[0], RenderOptions(PNG))
            except Undecodable:
                continue
            assert picture_of(made).std() > 1
            shown.append(path.stem)
    assert sorted(shown) == ["JPEG-lossy", "JPGExtended", "SC_rgb_jpeg_gdcm"]


# DCMTK on windows and geometry

GREYS = ["ExplicitVRLittleEndian MONOCHROME2 12/16", "ExplicitVRLittleEndian MONOCHROME1 12/16"]
GREYS += ["RLELossless MONOCHROME2 16/16 signed", "JPEGLosslessSV1 MONOCHROME2 8/8", "JPEGLSLossless MONOCHROME2 10/16"]


@pytest.mark.parametrize("function", [LINEAR, SIGMOID])
@pytest.mark.parametrize("name", GREYS)
def test_a_window_that_is_asked_for_is_that_of_dcmtk(name, function, folder):
    specimen, way = ALL[name], Asked("windowed", function=function)
    path = specimen.write(folder)
    stored, source = specimen.of.stored, opened(path)
    options = dcmtk.options(source.data_set, 1, way.window(specimen.judged(), 1, stored))
    theirs = dcmtk.picture(path, 1, *options)
    assert farthest(picture(source, 1, way, stored), theirs) <= DCMTK_GREY_LEVELS


@pytest.mark.parametrize("name", [GREYS[0], "ExplicitVRLittleEndian RGB 8/8", "JPEGLSLossless RGB 8/8"])
@pytest.mark.parametrize(
    ("region", "options"),
    [
        ((0, 0, -56, 40), ["+Lh"]),
        ((0, 0, 56, -40), ["+Lv"]),
        ((0, 0, -56, -40), ["+Lhv"]),
        ((0, 0, -56, -40), ["+Rtd"]),
        ((7, 3, 31, 29), ["+C", "7", "3", "31", "29"]),
        ((7, 3, -31, 29), ["+C", "7", "3", "31", "29", "+Lh"]),
    ],
)
def test_what_is_cut_out_and_mirrored_is_what_dcmtk_cuts_out_and_mirrors(name, region, options, folder):
    path = ALL[name].write(folder)
    source = opened(path)
    viewport = Viewport(abs(region[2]), abs(region[3]), Region(*region))
    frame = source.frames[0]
    made = render(source.metadata, source.transfer_syntax_uid, 1, frame, RenderOptions(PNG, viewport=viewport))
    theirs = dcmtk.picture(path, 1, *dcmtk.options(source.data_set, 1), *options)
    assert farthest(picture_of(made), theirs) <= DCMTK_GREY_LEVELS


@pytest.mark.parametrize("scale", [0.25, 0.5, 2, 3.5])
@pytest.mark.parametrize("axis", [0, 1])
def test_scaling_moves_nothing(axis, scale):
    """A ramp stays a ramp, with each new pixel where its middle lies in the old ones; not half a pixel beside."""
    ramp = np.broadcast_to(np.arange(64, dtype="u1") * 4, (48, 64))
    ramp = np.ascontiguousarray(ramp if axis else ramp.T)
    rows, columns = (round(side * scale) for side in ramp.shape)
    made = render(
        metadata_of(ramp, "MONOCHROME2", **rendering_table.FULL_RANGE),
        NATIVE,
        1,
        ramp.tobytes(),
        RenderOptions(PNG, viewport=Viewport(columns, rows)),
    )
    middles = (np.arange((rows, columns)[axis]) + 0.5) / scale - 0.5
    line = picture_of(made).take(5, axis=1 - axis).astype(float)
    inner = slice(max(4, round(4 * scale)), -max(4, round(4 * scale)))
    assert np.abs(line - middles * 4)[inner].max() <= 1


def test_smaller_pictures_are_averages(folder):
    for name in rendering_table.SHOWN_IN_ALL_WAYS:
        specimen, way = ALL[name], next(way for way in WAYS if way.name == "smaller")
        own = reference.presented(specimen.judged(), 1, specimen.of.stored)
        own = reference.with_overlays(own, specimen.judged(), 1)
        averaged = way.laid_out(own, specimen.judged(), 1, is_averaged=True)
        assert psnr_db(picture(opened(specimen.write(folder)), 1, way, specimen.of.stored), averaged) >= AVERAGED_DB


# Through the door


@pytest.fixture(scope="module")
def door(folder, tmp_path_factory):
    """A client of a gateway that holds all specimens, and the samples."""
    for specimen in ALL.values():
        specimen.write(folder)
    data = tmp_path_factory.mktemp("specimens") / "data"
    with running_gateway(data, "--workers", "1") as running:
        run = run_command("import", "--data", data, "--json", *folder.glob("*.dcm"), *SAMPLES.rglob("*.dcm"))
        assert run.returncode == 0, run.stderr
        with httpx.Client(base_url=running.dicomweb, timeout=60) as client:
            yield client


def url_of(specimen):
    return f"/studies/2.25.404142/series/2.25.404143/instances/{specimen.sop_instance_uid}/rendered"


def test_every_encoding_comes_through_the_door_as_it_is_drawn(door, folder):
    differing = {}
    for name, specimen in ALL.items():
        source = opened(specimen.write(folder))
        answer = door.get(url_of(specimen), params={"accept": PNG})
        try:
            drawn = render(source.metadata, source.transfer_syntax_uid, 1, source.frames[0], RenderOptions(PNG))
        except Undecodable as error:
            if (answer.status_code, answer.json()["reason"]) != (422, error.reason):
                differing[name] = answer.text
            continue
        if answer.content != drawn:
            differing[name] = answer.status_code, len(answer.content), len(drawn)
    assert differing == {}


def test_every_sample_comes_through_the_door_as_it_is_drawn(door):
    differing = []
    for path in sorted(SAMPLES.rglob("*.dcm")):
        source = opened(path)
        ids = (source.data_set[f"{level}InstanceUID"].value for level in ("Study", "Series", "SOP"))
        url = "/studies/{}/series/{}/instances/{}/frames".format(*ids)
        for number in sorted({1, len(source.frames)} - {0}) if source.frames else ():
            answer = door.get(f"{url}/{number}/rendered", params={"accept": PNG})
            frame = source.frames[number - 1]
            drawn = render(source.metadata, source.transfer_syntax_uid, number, frame, RenderOptions(PNG))
            if answer.content != drawn:
                differing.append((path.stem, number, answer.status_code))
    assert differing == []


@pytest.mark.parametrize("name", ALL_WAYS)
def test_every_way_to_ask_is_the_same_in_a_query(name, door, folder):
    specimen = ALL[name]
    source, stored = opened(specimen.write(folder)), specimen.of.stored
    for way in WAYS:
        answer = door.get(url_of(specimen), params=way.query(source.data_set, 1, stored))
        assert answer.headers["content-type"] == way.media_type, (way.name, answer.text)
        assert np.array_equal(picture_of(answer.content), picture(source, 1, way, stored)), way.name


def test_quality_is_a_trade_of_bytes_for_likeness(door):
    specimen = ALL["ExplicitVRLittleEndian RGB 8/8"]
    expected = WAYS[0].expected(specimen.judged(), 1, specimen.of.stored)
    answers = [door.get(url_of(specimen), params={"quality": str(quality)}) for quality in (10, 40, 70, 95)]
    sizes = [len(answer.content) for answer in answers]
    likeness = [psnr_db(picture_of(answer.content), expected) for answer in answers]
    assert sizes == sorted(set(sizes))
    assert likeness == sorted(set(likeness))
    assert likeness[-1] > 38


@pytest.mark.parametrize("space", ["srgb", "adobergb", "displayp3", "rommrgb"])
def test_a_profile_that_is_asked_for_is_there_and_the_colours_are_the_same_in_it(space, door):
    specimen = ALL["ExplicitVRLittleEndian RGB 8/8"]
    for media_type in (PNG, JPEG):
        answer = door.get(url_of(specimen), params={"accept": media_type, "iccprofile": space})
        with Image.open(io.BytesIO(answer.content)) as image, warnings.catch_warnings():
            warnings.simplefilter("ignore")
            profile = ImageCms.ImageCmsProfile(io.BytesIO(image.info["icc_profile"]))
            shown = ImageCms.profileToProfile(image, profile, ImageCms.createProfile("sRGB"), renderingIntent=1)
        assert psnr_db(np.array(shown), specimen.of.stored.astype(float)) >= 28
    assert b"iCCP" not in door.get(url_of(specimen), params={"accept": PNG, "iccprofile": "no"}).content
