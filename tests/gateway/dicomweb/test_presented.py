"""Presentation states of a running application: rendered by themselves, and named by WADO-URI for an image."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image
from pydicom.dataset import FileMetaDataset
from pydicom.uid import DeflatedExplicitVRLittleEndian, ExplicitVRBigEndian, ExplicitVRLittleEndian, generate_uid

from gateway.pixels.pool import RenderPool
from storage.model import Source
from tests.fix_application import Here
from tests.gateway.pixels.part10 import BUNDLED, read
from tests.gateway.pixels.states import (
    DCMP2PGM,
    PSEUDO_COLOR,
    add_overlay,
    annotation,
    area,
    graphic,
    item,
    judged,
    shown,
    state_of,
    table,
    text,
    window,
)

HOUNSFIELD = {"RescaleIntercept": -1024, "RescaleSlope": 1, "RescaleType": "HU"}
WINDOWED = {"SoftcopyVOILUTSequence": [window(40, 400)], **HOUNSFIELD}


@pytest.fixture(scope="module")
def pool():
    with RenderPool(1) as running:
        yield running


@pytest.fixture
def here(archive, pool):
    return Here(archive, pool)


@pytest.fixture(scope="module")
def ct():
    return read(BUNDLED / "CT_small.dcm")


@pytest.fixture
def keep(archive):
    """Stores a Data Set; gives its path below the root and the scope."""

    def kept(data_set):
        target = io.BytesIO()
        data_set.save_as(target, enforce_file_format=True)
        with archive.spool() as spool:
            spool.write(target.getvalue())
            scope = archive.store(spool, Source("test")).instance.scope
        uids = (scope.study_instance_uid, scope.series_instance_uid, scope.sop_instance_uid)
        return "/dicomweb" + "".join(map("/{}/{}".format, ("studies", "series", "instances"), uids)), scope

    return kept


@pytest.fixture
def kept_ct(keep, ct):
    return keep(ct.data_set)[0]


def picture(response, media_type="image/png"):
    assert response.status_code == 200, response.text
    assert response.headers["content-type"] == media_type
    return np.array(Image.open(io.BytesIO(response.content)))


def reencoded(state, uid, is_little_endian=True):
    state.file_meta = FileMetaDataset()
    state.file_meta.TransferSyntaxUID = uid
    return state


def test_w20_a_presentation_state_is_rendered_as_its_image_in_that_state(here, keep, kept_ct, ct):
    state = state_of(ct.data_set, ImageRotation=90, ImageHorizontalFlip="Y", **WINDOWED)
    url, _ = keep(state)
    found = picture(here.get(f"{url}/rendered", Accept="image/png"))
    assert np.array_equal(found, shown(ct, state))
    assert not np.array_equal(found, picture(here.get(f"{kept_ct}/rendered", Accept="image/png")))
    if DCMP2PGM:
        assert np.abs(found.astype(int) - judged(ct, state)).max() <= 1


def test_w20_series_of_states_are_rendered_too(here, keep, kept_ct, ct):
    state = state_of(ct.data_set, **WINDOWED)
    url, _ = keep(state)
    series = url.partition("/instances/")[0]
    assert np.array_equal(picture(here.get(f"{series}/rendered", Accept="image/png")), shown(ct, state))


@pytest.mark.parametrize("syntax", [ExplicitVRLittleEndian, DeflatedExplicitVRLittleEndian, ExplicitVRBigEndian])
def test_w20_tables_graphics_and_overlays_too_large_for_metadata_are_applied(here, keep, kept_ct, ct, syntax):
    points = np.random.default_rng(4).uniform(0, 128, (2_000, 2)).astype("f4").tolist()
    ramp = np.rint(np.linspace(0, 1, 65_536) ** 2 * 65_535)
    state = state_of(
        ct.data_set,
        PresentationLUTSequence=[table(0, 16, ramp)],
        PresentationLUTShape=None,
        GraphicAnnotationSequence=[annotation(graphics=[graphic("POLYLINE", *points)])],
        **WINDOWED,
    )
    bits = np.random.default_rng(5).integers(0, 2, (256, 256))
    add_overlay(state, bits, layer="L")
    expected = shown(ct, state)
    if syntax == ExplicitVRBigEndian:  # pydicom turns no words round
        for element in (state[0x60003000], state.PresentationLUTSequence[0]["LUTData"]):
            element.value = np.frombuffer(element.value, "<u2").astype(">u2").tobytes()
    url, _ = keep(reencoded(state, syntax))
    assert np.array_equal(picture(here.get(f"{url}/rendered", Accept="image/png")), expected)


def test_w20_an_overlay_of_the_image_is_drawn_when_the_state_switches_it_on(here, keep):
    source = read(BUNDLED / "MR_small.dcm")
    image = add_overlay(source.data_set, np.kron(np.eye(2), np.ones((32, 32))), group=0x6002)
    keep(image)
    bare, switched = (state_of(image, SoftcopyVOILUTSequence=[window(900, 800)]) for _ in range(2))
    switched.add_new(0x60021001, "CS", "LAYER")
    first, second = (picture(here.get(f"{keep(one)[0]}/rendered", Accept="image/png")) for one in (bare, switched))
    assert np.array_equal(first, shown(source, bare))
    assert (second[:32, :32] == 255).all()
    assert np.array_equal(first[:32, 32:], second[:32, 32:])
    assert not np.array_equal(first, second)


def test_w20_pseudo_colour_is_coloured(here, keep, kept_ct, ct):
    state = state_of(ct.data_set, sop_class=PSEUDO_COLOR, **WINDOWED)
    for name, entries in (("Red", range(256)), ("Green", range(255, -1, -1)), ("Blue", range(256))):
        setattr(state, f"{name}PaletteColorLookupTableDescriptor", [256, 0, 16])
        setattr(state, f"{name}PaletteColorLookupTableData", (np.array(entries) * 257).astype("<u2").tobytes())
    found = picture(here.get(f"{keep(state)[0]}/rendered", Accept="image/png"))
    assert np.array_equal(found, shown(ct, state))
    assert found.shape == (128, 128, 3)


def test_w20_the_first_frame_that_the_state_names_is_shown(here, keep):
    source = read(BUNDLED / "rtdose.dcm")
    keep(source.data_set)
    state = state_of(source.data_set, frames=[3, 1], SoftcopyVOILUTSequence=[window(1e6, 2e6)])
    found = picture(here.get(f"{keep(state)[0]}/rendered", Accept="image/png"))
    assert np.array_equal(found, shown(source, state, frame_number=3))


def test_w20_a_region_is_one_of_the_displayed_area(here, keep, kept_ct, ct):
    state = state_of(ct.data_set, DisplayedAreaSelectionSequence=[area((11, 21), (50, 60))], **WINDOWED)
    url, _ = keep(state)
    found = picture(here.get(f"{url}/rendered?viewport=10,10,30,30,10,10", Accept="image/png"))
    assert np.array_equal(found, shown(ct, state)[30:40, 30:40])
    assert picture(here.get(f"{url}/rendered?viewport=20,20", Accept="image/png")).shape == (20, 20)
    assert here.get(f"{url}/rendered?viewport=10,10,35,30,10,10").status_code == 400


def test_w20_a_window_is_not_for_a_state(here, keep, kept_ct, ct):
    url, _ = keep(state_of(ct.data_set, **WINDOWED))
    answer = here.get(f"{url}/rendered?window=40,80,linear")
    assert (answer.status_code, "window" in answer.json()["reason"]) == (400, True)


def test_w20_a_state_has_no_frames(here, keep, kept_ct, ct):
    url, _ = keep(state_of(ct.data_set, **WINDOWED))
    assert here.get(f"{url}/frames/1/rendered").status_code == 404


def test_w20_a_state_whose_image_is_not_here_has_no_picture_but_an_icon(archive, here, keep, ct):
    url, _ = keep(state_of(ct.data_set, **WINDOWED))
    answer = here.get(f"{url}/rendered")
    assert (answer.status_code, "image" in answer.json()["reason"]) == (404, True)
    icon = picture(here.get(f"{url}/thumbnail", Accept="image/png"))
    _, image = keep(ct.data_set)
    assert not np.array_equal(picture(here.get(f"{url}/thumbnail", Accept="image/png")), icon)
    archive.delete(image)
    assert here.get(f"{url}/rendered").status_code == 404
    assert np.array_equal(picture(here.get(f"{url}/thumbnail", Accept="image/png")), icon)


def test_w20_a_malformed_state_has_no_picture_and_the_reason_names_the_tag(here, keep, kept_ct, ct):
    for attributes, tag in (({"ImageRotation": 45}, "(0070,0042)"), ({"ReferencedSeriesSequence": []}, "(0008,1115)")):
        url, _ = keep(state_of(ct.data_set, **attributes))
        answer = here.get(f"{url}/rendered")
        assert (answer.status_code, tag in answer.json()["reason"]) == (422, True)
        picture(here.get(f"{url}/thumbnail", Accept="image/png"))


def test_w20_a_report_that_a_state_is_for_has_no_picture(here, keep, ct):
    state = state_of(ct.data_set, **WINDOWED)
    other = state_of(ct.data_set)
    other.ReferencedSeriesSequence[0].SeriesInstanceUID = state.SeriesInstanceUID
    other.ReferencedSeriesSequence[0].ReferencedImageSequence[0].ReferencedSOPInstanceUID = state.SOPInstanceUID
    keep(state)
    assert here.get(f"{keep(other)[0]}/rendered").status_code == 406


def test_w19_a_thumbnail_of_a_state_has_no_text_and_no_graphics(here, keep, kept_ct, ct):
    bare = state_of(ct.data_set, **WINDOWED)
    marked = state_of(ct.data_set, **WINDOWED)
    marked.GraphicAnnotationSequence = [
        annotation(graphics=[graphic("CIRCLE", (64, 64), (64, 90))], texts=[text("Mizuno", anchor=(9, 9))])
    ]
    first, second = (keep(one)[0] for one in (bare, marked))
    thumbnails = [picture(here.get(f"{url}/thumbnail", Accept="image/png")) for url in (first, second)]
    pictures = [picture(here.get(f"{url}/rendered", Accept="image/png")) for url in (first, second)]
    assert np.array_equal(*thumbnails)
    assert not np.array_equal(*pictures)


def test_w19_a_thumbnail_of_a_state_does_without_the_large_overlay_that_the_state_switches_on(here, keep):
    source = read(BUNDLED / "MR_small.dcm")
    image = add_overlay(source.data_set, np.kron(np.eye(128), np.ones((32, 32))), group=0x6002)
    keep(image)
    bare, switched = (state_of(image, SoftcopyVOILUTSequence=[window(900, 800)]) for _ in range(2))
    switched.add_new(0x60021001, "CS", "LAYER")
    first, second = (picture(here.get(f"{keep(one)[0]}/thumbnail", Accept="image/png")) for one in (bare, switched))
    assert np.array_equal(first, second)
    assert len(np.unique(first)) > 16


def test_g19_the_entity_tag_depends_on_state_and_image(archive, here, keep, kept_ct, ct):
    states = [state_of(ct.data_set, **attributes) for attributes in (WINDOWED, HOUNSFIELD)]
    urls = [keep(one)[0] for one in states]
    answers = [here.get(f"{url}/rendered") for url in (kept_ct, *urls)]
    tags = [answer.headers["etag"] for answer in answers]
    assert len(set(tags)) == 3
    assert here.get(f"{urls[0]}/rendered", **{"If-None-Match": tags[1]}).status_code == 304
    assert here.get(f"{urls[0]}/rendered", **{"If-None-Match": tags[2]}).status_code == 200
    again = here.get(f"{urls[0]}/rendered")
    assert (again.content, again.headers["etag"]) == (answers[1].content, tags[1])


# WADO-URI


@pytest.fixture
def ask(here, keep, ct):
    """WADO-URI of the CT, or another image, in a state."""

    def asked(state=None, image=ct.data_set, **parameters):
        query = {
            "requestType": "WADO",
            "studyUID": image.StudyInstanceUID,
            "seriesUID": image.SeriesInstanceUID,
            "objectUID": image.SOPInstanceUID,
            "contentType": "image/png",
        }
        if state is not None:
            query |= {"presentationSeriesUID": state.SeriesInstanceUID, "presentationUID": state.SOPInstanceUID}
        query |= parameters
        given = "&".join(f"{name}={value}" for name, value in query.items() if value is not None)
        return here.get(f"/wado?{given}")

    keep(ct.data_set)
    return asked


def test_u9_an_image_is_shown_in_the_state_that_is_named(ask, keep, ct):
    state = state_of(ct.data_set, ImageRotation=180, ImageHorizontalFlip="N", **WINDOWED)
    keep(state)
    assert np.array_equal(picture(ask(state)), shown(ct, state))
    assert picture(ask(state, rows="64")).shape == (64, 64)


def test_u9_the_object_may_be_the_state(ask, keep, ct):
    state = state_of(ct.data_set, **WINDOWED)
    keep(state)
    assert np.array_equal(picture(ask(image=state)), shown(ct, state))
    assert ask(image=state, contentType=None).headers["content-type"].startswith("application/dicom")


@pytest.mark.parametrize(
    ("parameters", "status"),
    [
        ({"presentationUID": None}, 400),
        ({"presentationSeriesUID": None}, 400),
        ({"presentationUID": "x"}, 400),
        ({"presentationUID": "1.2.3"}, 404),
        ({"presentationSeriesUID": "1.2.3"}, 404),
        ({"region": "0,0,1,1"}, 400),
        ({"windowCenter": "40", "windowWidth": "400"}, 400),
        ({"frameNumber": "2"}, 400),
        ({"contentType": "application/dicom"}, 400),
    ],
    ids=str,
)
def test_u9_a_state_is_named_by_both_uids_and_goes_with_no_window_or_region(ask, keep, ct, parameters, status):
    state = state_of(ct.data_set, **WINDOWED)
    keep(state)
    assert ask(state, **parameters).status_code == status


def test_u9_what_is_no_state_or_for_another_image_is_refused(ask, keep, ct):
    other = item(SOPClassUID="1.2", SOPInstanceUID=generate_uid(), SeriesInstanceUID="1.2", Rows=9)
    other.Columns, other.StudyInstanceUID = 9, ct.data_set.StudyInstanceUID
    state = state_of(other)
    keep(state)
    for named in (state, ct.data_set):
        answer = ask(named)
        assert (answer.status_code, "presentation state" in answer.json()["reason"]) == (400, True)


def test_u9_frames_that_a_state_is_not_for_are_refused(ask, keep):
    source = read(BUNDLED / "rtdose.dcm")
    keep(source.data_set)
    state = state_of(source.data_set, frames=[2, 4], SoftcopyVOILUTSequence=[window(1e6, 2e6)])
    keep(state)
    assert np.array_equal(picture(ask(state, source.data_set)), shown(source, state, frame_number=2))
    found = picture(ask(state, source.data_set, frameNumber="4"))
    assert np.array_equal(found, shown(source, state, frame_number=4))
    assert ask(state, source.data_set, frameNumber="3").status_code == 400


def test_u10_annotation_is_written_on_an_image_in_a_state(ask, keep, ct):
    state = state_of(ct.data_set, **WINDOWED)
    keep(state)
    plain, written = picture(ask(state)), picture(ask(state, annotation="patient"))
    assert plain.shape == written.shape
    assert 50 < np.sum(plain != written) < plain.size / 2
