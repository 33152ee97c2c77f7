"""What viewers and clients literally send when they search, and what each of them then reads of the answer.

The requests go out character by character as the viewers' source has them. V1, V8
"""

from __future__ import annotations

import json

import pytest
from dicomweb_client import DICOMwebClient
from pydicom.dataset import Dataset

ACCEPT = {"Accept": "application/dicom+json"}
CORNERSTONE = {"Accept": "application/dicom+json, multipart/related; type=application/octet-stream; transfer-syntax=*"}


def studies_of(matches):
    return {match["0020000D"]["Value"][0] for match in matches}


def value(match, tag):
    """The first value as viewers read it: undefined where there is none, but the element has to be an object."""
    return next(iter(match.get(tag, {}).get("Value", [])), None)


# ---- OHIF --------------------------------------------------------------------------------------------------------

OHIF_STUDIES = (
    "/studies?{filters}limit=101&offset=0&fuzzymatching={fuzzy}&includefield=00081030,00080060,00080090,00100030"
)
OHIF_READS = {
    "0020000D": "2.25.1",
    "00080020": "20200101",
    "00080030": "081500",
    "00080050": "A1",
    "00100020": "P-1",
    "00100030": "19700102",
    "00201208": 5,
    "00081030": "Head",
}


@pytest.mark.parametrize("fuzzy", ["true", "false"])
@pytest.mark.parametrize("headers", [ACCEPT, CORNERSTONE])
def test_ohifs_study_list_has_what_it_shows(searched, headers, fuzzy):
    matches = searched.matches(OHIF_STUDIES.format(filters="", fuzzy=fuzzy), **headers)
    assert len(matches) == 5
    (match,) = (one for one in matches if value(one, "0020000D") == "2.25.1")
    assert {tag: value(match, tag) for tag in OHIF_READS} == OHIF_READS
    assert value(match, "00100010")["Alphabetic"] == "Yamada^Tarou"
    assert value(match, "00080090")["Alphabetic"] == "House^Gregory"
    assert sorted(match["00080061"]["Value"]) == ["CT", "MR"]
    for one in matches:
        assert one["00080061"]["Value"], "a study list without modalities stops OHIF"
        assert {*OHIF_READS, "00100010", "00080090"} <= set(one)


@pytest.mark.parametrize(
    ("filters", "studies"),
    [
        ("PatientName=*amad*&", {1}),
        ("PatientName=*doe*&", {2, 3}),
        ("00100020=*P-*&", {1, 4}),
        ("AccessionNumber=*3*&", {3}),
        ("StudyDescription=*ea*&", {1}),
        ("ModalitiesInStudy=CT,MR&", {1, 3}),
        ("ModalitiesInStudy=CT\\US&", {1, 2, 3}),
        ("StudyDate=20200101-20201231&", {1, 2, 3}),
        ("StudyInstanceUID=2.25.1\\2.25.4&", {1, 4}),
        ("PatientName=*o*&00100020=*P*&AccessionNumber=*A*&ModalitiesInStudy=CT,MR&StudyDate=20200601-20201231&", {3}),
    ],
)
@pytest.mark.parametrize("fuzzy", ["true", "false"])
def test_ohifs_filters_narrow_the_study_list(searched, filters, studies, fuzzy):
    matches = searched.matches(OHIF_STUDIES.format(filters=filters, fuzzy=fuzzy), **ACCEPT)
    assert studies_of(matches) == {f"2.25.{study}" for study in studies}


def test_ohifs_series_list_has_what_it_shows(searched):
    ct, mr = searched.matches("/studies/2.25.1/series?includefield=0008103E,00080021", **ACCEPT)
    read = ("0020000D", "0020000E", "00080060", "00200011", "00080021", "00201209", "0008103E")
    assert [value(ct, tag) for tag in read] == ["2.25.1", "2.25.1.1", "CT", 1, "20200101", 3, "Axial"]
    assert [value(mr, tag) for tag in read] == ["2.25.1", "2.25.1.2", "MR", 2, None, 2, None]
    (one,) = searched.matches("/studies/2.25.1/series?SeriesInstanceUID=2.25.1.2", **ACCEPT)
    assert value(one, "0020000E") == "2.25.1.2"


def test_ohifs_thumbnail_finds_an_instance(searched):
    (one,) = searched.matches("/studies/2.25.1/series/2.25.1.2/instances?limit=1&includefield=00080018", **ACCEPT)
    assert value(one, "00080018") == "2.25.1.2.1"


# ---- Slim --------------------------------------------------------------------------------------------------------


def test_slims_worklist_shows_slide_microscopy_only(searched):
    (study,) = searched.matches("/studies?ModalitiesInStudy=SM&limit=25&offset=0", **ACCEPT)
    assert value(study, "0020000D") == "2.25.4"
    assert value(study, "00100010")["Alphabetic"] == "Slide^Susan"
    assert {"00080020", "00080050", "00100020", "00100030", "00100040", "00080061"} <= set(study)


@pytest.mark.parametrize(
    ("name", "studies"), [("*Susan*", {4}), ("*lide*", {4}), ("*Yamada*", set()), ("*nobody*", set())]
)
def test_slims_search_box_means_the_patient(searched, name, studies):
    """PersonName is no key of a search, and matching everything would show other patients' slides as found."""
    target = f"/studies?ModalitiesInStudy=SM&PersonName={name}&fuzzymatching=true&limit=25&offset=0"
    status, headers, body = searched.literal(target, ACCEPT)
    assert status == 200
    assert studies_of(json.loads(body)) == {f"2.25.{study}" for study in studies}
    assert "PersonName is read as PatientName" in headers["warning"]


def test_slims_search_box_does_not_contradict_a_patients_name(searched):
    status, _, body = searched.literal("/studies?PersonName=*a*&PatientName=*b*", ACCEPT)
    assert status == 400
    assert json.loads(body)["attribute"] == "PatientName"


def test_slim_finds_series_and_what_belongs_to_them(searched):
    (series,) = searched.matches("/series?Modality=SM&StudyInstanceUID=2.25.4", **ACCEPT)
    assert (value(series, "0020000E"), value(series, "00201209")) == ("2.25.4.1", 5)
    for modality, uid in (("ANN", "2.25.4.2"), ("SEG", "2.25.4.3"), ("SR", "2.25.4.4")):
        (one,) = searched.matches(f"/studies/2.25.4/series?Modality={modality}", **ACCEPT)
        assert value(one, "0020000E") == uid
    (state,) = searched.matches("/studies/2.25.4/instances?Modality=PR", **ACCEPT)
    assert [value(state, tag) for tag in ("0020000D", "0020000E", "00080018")] == ["2.25.4", "2.25.4.5", "2.25.4.5.1"]


# ---- VolView -----------------------------------------------------------------------------------------------------


def test_volview_lists_everything_and_goes_down(searched):
    studies = searched.matches("/studies", **ACCEPT)
    assert len(studies) == 5
    for study in studies:
        series = searched.matches(f"/studies/{value(study, '0020000D')}/series", **ACCEPT)
        assert len(series) == value(study, "00201206")
        for one in series:
            assert value(one, "0020000E")
            assert value(one, "00080060")
            assert value(one, "00201209") > 0


# ---- Weasis ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("key", "study"), [("00100020=P-1", "2.25.1"), ("0020000D=2.25.3", "2.25.3"), ("00080050=A2", "2.25.2")]
)
@pytest.mark.parametrize(
    "fields",
    [
        "includefield=00080020,00080030,00080050,00080061,00080090,00081030,00100010,00100020,00100030,00100040,00200010",
        "includefield=00080020&includefield=00081030&includefield=00100021&includefield=00100032",
    ],
)
def test_weasis_finds_studies_by_one_key(searched, key, study, fields):
    (match,) = searched.matches(f"/studies?{key}&{fields}", **ACCEPT)
    assert value(match, "0020000D") == study
    assert set(fields.replace("includefield=", "").replace("&", ",").split(",")) <= set(match)


def test_weasis_finds_a_study_by_its_series_and_by_an_instance(searched):
    (series,) = searched.matches("/series?0020000E=2.25.1.2", **ACCEPT)
    (instance,) = searched.matches("/instances?00080018=2.25.1.2.2", **ACCEPT)
    for match in (series, instance):
        assert (value(match, "0020000D"), value(match, "0020000E")) == ("2.25.1", "2.25.1.2")
        assert value(match, "00100020") == "P-1"


def test_weasis_counts_the_instances_of_a_series(searched):
    (series,) = searched.matches("/studies/2.25.1/series?0020000E=2.25.1.1&includefield=00201209", **ACCEPT)
    assert value(series, "00201209") == 3


def test_weasis_pages_through_instances_until_an_empty_page(searched):
    found = []
    base = "/studies/2.25.4/series/2.25.4.1/instances?includefield=00080016,00080018,00200013"
    while page := searched.matches(f"{base}&offset={len(found)}&limit=2", **ACCEPT):
        assert all(value(one, "00080016") and value(one, "00200013") == 7 for one in page)
        found += [value(one, "00080018") for one in page]
    assert found == [f"2.25.4.1.{number}" for number in range(1, 6)]


# ---- dicomweb-client ---------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def client(searched):
    return DICOMwebClient(searched.gateway.dicomweb)


def read(matches):
    """Answers as pydicom reads them: a model that it refuses fails the test."""
    return [Dataset.from_json(match) for match in matches]


def test_dicomweb_client_searches_studies(client):
    found = read(client.search_for_studies(search_filters={"PatientName": "yamada*"}, fields=["ProcedureCodeSequence"]))
    assert [(str(one.PatientName), one.ProcedureCodeSequence[0].CodeValue) for one in found] == [
        ("Yamada^Tarou=山田^太郎=やまだ^たろう", "HEAD1")
    ]
    assert client.search_for_studies(search_filters={"PatientID": "NOBODY"}) == []
    fuzzy = client.search_for_studies(fuzzymatching=True, search_filters={"PatientName": "jane"})
    assert studies_of(fuzzy) == {"2.25.2"}
    pages = [client.search_for_studies(limit=2, offset=at) for at in (0, 2, 4, 6)]
    assert list(map(len, pages)) == [2, 2, 1, 0]
    whole = client.search_for_studies()
    assert [one for page in pages for one in page] == whole == client.search_for_studies(limit=2, get_remaining=True)


def test_dicomweb_client_searches_series(client):
    found = read(client.search_for_series("2.25.1", fields=["Manufacturer"], search_filters={"Modality": "CT"}))
    assert [(one.SeriesInstanceUID, one.SeriesNumber, one.Manufacturer) for one in found] == [("2.25.1.1", 1, "ACME")]
    everywhere = read(client.search_for_series(search_filters={"Modality": "CT"}))
    assert sorted(one.StudyInstanceUID for one in everywhere) == ["2.25.1", "2.25.3"]
    assert len(client.search_for_series(limit=3, get_remaining=True)) == 10


def test_dicomweb_client_searches_instances(client):
    found = read(client.search_for_instances("2.25.1", "2.25.1.2", fields=["NumberOfFrames", "00080016"]))
    assert [(one.SOPInstanceUID, one.NumberOfFrames, one.Rows) for one in found] == [
        ("2.25.1.2.1", 2, 4),
        ("2.25.1.2.2", 2, 4),
    ]
    assert len(client.search_for_instances("2.25.1")) == 5
    assert len(client.search_for_instances(search_filters={"PatientID": "P-4", "InstanceNumber": 7})) == 5
    assert len(client.search_for_instances(get_remaining=True, limit=7)) == 17
