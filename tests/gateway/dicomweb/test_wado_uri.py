"""WADO-URI of a running gateway, rule by rule (U1-U13)."""

from __future__ import annotations

import io

import pytest
from PIL import Image
from pydicom import dcmread

from storage.uids import EXPLICIT_VR_LITTLE_ENDIAN as EXPLICIT

RLE, J2K = "1.2.840.10008.1.2.5", "1.2.840.10008.1.2.4.90"


@pytest.fixture
def ask(samples):
    """Asks for a sample by the part of its name; None leaves a parameter out."""

    def asked(part, root="/wado", **parameters):
        entry = samples.entry(part)
        query = {
            "requestType": "WADO",
            "studyUID": entry["study_instance_uid"],
            "seriesUID": entry["series_instance_uid"],
            "objectUID": entry["sop_instance_uid"],
            **parameters,
        }
        base = str(samples.client.base_url).removesuffix("/").removesuffix("/dicomweb")
        given = {name: value for name, value in query.items() if value is not None}
        return samples.client.get(base + root, params=given, headers={"Accept": "*/*"})

    return asked


def picture(answer, media_type="image/jpeg"):
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"] == media_type
    return Image.open(io.BytesIO(answer.content))


@pytest.mark.parametrize("name", ["requestType", "studyUID", "seriesUID", "objectUID"])
def test_u1_what_is_required_is_missed_by_name(ask, name):
    for value in (None, ""):
        answer = ask("slice_01", **{name: value})
        assert (answer.status_code, name in answer.json()["reason"]) == (400, True)


@pytest.mark.parametrize(
    ("parameters", "status"),
    [
        ({"requestType": "wado"}, 400),
        ({"objectUID": "1.2.x"}, 400),
        ({"objectUID": "1.2.3"}, 404),
        ({"studyUID": "1.2.3"}, 404),
        ({"seriesUID": "1.2.3"}, 404),
    ],
)
def test_u1_an_object_is_named_by_all_three_uids(ask, parameters, status):
    assert ask("slice_01", **parameters).status_code == status


def test_u2_the_default_is_a_picture_of_an_image_and_else_the_object(ask):
    assert picture(ask("slice_01")).size == (189, 189)
    assert picture(ask("colour_loop")).size == (320, 240)
    answer = ask("twelve_lead")
    assert answer.headers["content-type"].startswith("application/dicom")


def test_u2_content_types_are_a_list_of_preferences(ask):
    picture(ask("slice_01", contentType="image/png"), "image/png")
    picture(ask("slice_01", contentType="text/html,image/gif;q=0.5,image/png;q=0.7"), "image/png")
    answer = ask("slice_01", contentType="text/html,video/mpeg")
    assert answer.status_code == 406
    assert "image/jpeg" in answer.json()["reason"]
    assert ask("twelve_lead", contentType="image/jpeg").status_code == 406


@pytest.mark.parametrize(("part", "asked", "sent"), [("slice_01", "", EXPLICIT), ("slice_01", RLE, RLE)])
def test_u3_dicom_comes_in_the_transfer_syntax_asked_for(ask, part, asked, sent):
    answer = ask(part, contentType="application/dicom", transferSyntax=asked or None)
    assert answer.status_code == 200
    assert answer.headers["content-type"] == f"application/dicom; transfer-syntax={sent}"
    assert dcmread(io.BytesIO(answer.content)).file_meta.TransferSyntaxUID == sent


@pytest.mark.parametrize("uid", ["1.2.840.10008.1.2", "1.2.840.10008.1.2.2", "1.2.840.10008.1.2.4.50"])
def test_u3_what_is_never_sent_is_not_acceptable(ask, uid):
    assert ask("slice_01", contentType="application/dicom", transferSyntax=uid).status_code == 406


@pytest.mark.parametrize(
    "name",
    [
        "annotation",
        "rows",
        "columns",
        "region",
        "windowCenter",
        "windowWidth",
        "imageQuality",
        "presentationUID",
        "frameNumber",
    ],
)
def test_u3_what_is_for_pictures_is_refused_for_dicom(ask, name):
    answer = ask("slice_01", contentType="application/dicom", **{name: "1"})
    assert (answer.status_code, name in answer.json()["reason"]) == (400, True)


def test_u4_rows_and_columns_bound_the_picture_and_keep_its_shape(ask):
    assert picture(ask("chest", rows="100", columns="100")).size == (82, 100)
    assert picture(ask("chest", rows="176")).size == (144, 176)
    assert picture(ask("chest", columns="144")).size == (144, 176)


def test_u4_a_region_is_a_part_of_the_image(ask):
    whole = picture(ask("colour_bars", contentType="image/png"), "image/png").convert("RGB")
    part = picture(ask("colour_bars", contentType="image/png", region="0.5,0,1,0.5"), "image/png").convert("RGB")
    assert part.size == (128, 96)
    assert part.tobytes() == whole.crop((128, 0, 256, 96)).tobytes()


@pytest.mark.parametrize(
    "parameters",
    [
        {"rows": "0"},
        {"columns": "-1"},
        {"rows": "x"},
        {"rows": "9000"},
        {"region": "0,0,1"},
        {"region": "0,0,1,1.1"},
        {"region": "0.5,0,0.5,1"},
        {"region": "a,b,c,d"},
        {"windowCenter": "40"},
        {"windowWidth": "400"},
        {"windowCenter": "40", "windowWidth": "0"},
        {"windowCenter": "nan", "windowWidth": "1"},
        {"imageQuality": "0"},
        {"imageQuality": "101"},
        {"imageQuality": "50", "contentType": "image/png"},
        {"transferSyntax": EXPLICIT},
        {"anonymize": "yes"},
    ],
    ids=str,
)
def test_u4_to_u7_bad_values_are_refused(ask, parameters):
    assert ask("slice_01", **parameters).status_code == 400


def test_u5_a_window_changes_the_picture(ask):
    usual = ask("slice_01", contentType="image/png").content
    other = ask("slice_01", contentType="image/png", windowCenter="0", windowWidth="50").content
    assert usual != other


def test_u6_a_frame_is_named_by_its_number(ask):
    first, second = (ask("colour_loop", frameNumber=number).content for number in ("1", "2"))
    assert first != second
    assert picture(ask("slice_01", frameNumber="1"))
    for number in ("0", "-1", "x", "99999"):
        assert ask("colour_loop", frameNumber=number).status_code == 400
    assert ask("slice_01", frameNumber="2").status_code == 400


def test_u7_quality_is_that_of_the_jpeg(ask):
    low, high = (len(ask("chest", imageQuality=quality).content) for quality in ("5", "95"))
    assert low < high / 2


@pytest.mark.parametrize("parameters", [{"contentType": "application/dicom", "anonymize": "yes"}])
def test_u8_what_is_not_offered_is_said_to_be_so(ask, parameters):
    answer = ask("slice_01", **parameters)
    assert (answer.status_code, "not offered" in answer.json()["reason"]) == (406, True)


def test_u11_the_character_set_is_utf_8(ask):
    assert ask("slice_01", charset="UTF-8").status_code == 200
    assert ask("slice_01", charset="latin-1").status_code == 406


def test_u12_names_are_case_sensitive_and_stand_once(ask):
    assert ask("slice_01", ROWS="x").status_code == 200
    assert ask("slice_01", rows=["10", "20"]).status_code == 400


@pytest.mark.parametrize("root", ["/wado", "/dicomweb/wado", "/dicom-web/wado"])
def test_u13_an_answer_is_one_part(ask, root):
    answer = ask("slice_01", root, contentType="application/dicom")
    assert answer.headers["content-type"] == f"application/dicom; transfer-syntax={EXPLICIT}"
    assert answer.content[128:132] == b"DICM"
