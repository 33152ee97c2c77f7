"""Search: parameters to a Query, and answers of a running gateway that holds the samples."""

from __future__ import annotations

import pytest

from gateway.dicomweb.qido import query_of, read_parameters
from gateway.settings import HttpSettings
from storage.errors import BadQuery
from storage.model import Level
from tests.fix_samples import MANIFEST

STUDIES = {entry["study_instance_uid"] for entry in MANIFEST.values()}
SERIES = {entry["series_instance_uid"] for entry in MANIFEST.values()}


def query(text: str, level: Level = Level.STUDY):
    return query_of(read_parameters(text.encode()), level, HttpSettings())


def uids(response, tag="0020000D"):
    assert response.status_code == 200, response.text
    return [answer[tag]["Value"][0] for answer in response.json()]


def test_everything_is_found_at_every_level(samples):
    assert set(uids(samples.get("/studies"))) == STUDIES
    assert set(uids(samples.get("/series"), "0020000E")) == SERIES
    assert set(uids(samples.get("/instances"), "00080018")) == {one["sop_instance_uid"] for one in MANIFEST.values()}


@pytest.mark.parametrize("level", ["studies", "series", "instances"])
def test_each_answers_retrieve_url_is_that_resource(samples, level):
    for answer in samples.get(f"/{level}?limit=5").json():
        assert answer["00081190"]["vr"] == "UR"
        url = answer["00081190"]["Value"][0]
        (first, *_) = samples.get(url + "/metadata").json()
        assert first["0020000D"] == answer["0020000D"]


def test_counts_are_the_lengths_of_the_lower_queries(samples):
    for study in samples.get("/studies").json():
        url = f"/studies/{study['0020000D']['Value'][0]}"
        assert study["00201206"]["Value"] == [len(samples.get(url + "/series").json())]
        assert study["00201208"]["Value"] == [len(samples.get(url + "/instances?limit=1000").json())]
        for series in samples.get(url + "/series").json():
            below = f"{url}/series/{series['0020000E']['Value'][0]}/instances"
            assert series["00201209"]["Value"] == [len(samples.get(below).json())]


REQUIRED = {
    "studies": "00080020 00080030 00080050 00080061 00080090 00081190 00100010 00100020 00100030 00100040 0020000D "
    "00200010 00201206 00201208",
    "series": "00080060 00081190 0020000D 0020000E 00200011 00201209",
    "instances": "00080016 00080018 00081190 0020000D 0020000E 00200013",
}


@pytest.mark.parametrize("level", sorted(REQUIRED))
def test_required_attributes_are_there_and_tags_ascend(samples, level):
    for answer in samples.get(f"/{level}").json():
        assert set(REQUIRED[level].split()) <= set(answer)
        assert list(answer) == sorted(answer)
        assert all("vr" in element for element in answer.values())


@pytest.mark.parametrize(
    ("query", "part"),
    [
        ("PatientName=Wei%C3%9Fm%C3%BCller*", "slice_01"),
        ("PatientName=*παπα*", "1_implicit"),
        ("00100020=SAMPLE-0006", "chest"),
        ("PatientName=%E8%A6%8B*", ""),
        ("StudyDate=20240410", "chest"),
        ("StudyDate=20240401-20240430", "chest"),
        ("ModalitiesInStudy=US", "colour_loop"),
        ("ModalitiesInStudy=CT%5CUS", None),
        ("PatientID=NOBODY", ""),
    ],
)
def test_keys_match(samples, query, part):
    found = set(uids(samples.get(f"/studies?{query}")))
    if part is None:
        assert found == {samples.entry(name)["study_instance_uid"] for name in ("slice_01", "colour_loop")}
    elif part:
        assert samples.entry(part)["study_instance_uid"] in found
        assert found < STUDIES
    else:
        assert found <= STUDIES
        assert len(found) < len(STUDIES)


def test_each_name_is_found_by_what_its_answer_says(samples):
    for study in samples.get("/studies").json():
        for group in study["00100010"]["Value"][0].values():
            found = uids(samples.client.get("/studies", params={"PatientName": group}))
            assert study["0020000D"]["Value"][0] in found


def test_pages_are_the_whole_without_repeats(samples):
    whole = uids(samples.get("/instances?limit=1000"), "00080018")
    pages = []
    for offset in range(0, 60, 7):
        pages += uids(samples.get(f"/instances?limit=7&offset={offset}"), "00080018")
    assert pages == whole
    assert len(set(whole)) == len(whole)


def test_a_cut_list_says_so(samples):
    cut = samples.get("/studies?limit=2")
    assert len(cut.json()) == 2
    assert cut.headers["warning"] == '299 dicomweb-gateway: "There are additional results that can be requested"'
    assert "warning" not in samples.get("/studies?limit=7").headers
    assert samples.get("/studies?limit=0").json() == []
    assert samples.get("/studies?offset=1000").json() == []


def test_includefield_adds_what_is_known_and_warns_of_the_rest(samples):
    series = samples.url("slice_01", "series").rpartition("/series/")
    plain = samples.get(f"{series[0]}/series?SeriesInstanceUID={series[2]}").json()[0]
    more = samples.get(f"{series[0]}/series?SeriesInstanceUID={series[2]}&includefield=BodyPartExamined,00080070")
    assert set(more.json()[0]) >= set(plain)
    assert "00180015" in more.json()[0]
    assert "warning" in samples.get("/studies?includefield=NoSuchKeyword").headers
    assert set(samples.get("/studies?includefield=all").json()[0]) >= set(samples.get("/studies").json()[0])


@pytest.mark.parametrize(
    ("accept", "content_type", "status"),
    [
        (None, "application/dicom+json", 200),
        ("*/*", "application/dicom+json", 200),
        ("application/dicom+json", "application/dicom+json", 200),
        ("application/json", "application/json", 200),
        ("text/csv", "application/json", 406),
    ],
)
def test_the_answer_is_in_the_type_asked_for(samples, accept, content_type, status):
    response = samples.get("/studies", accept)
    assert (response.status_code, response.headers["content-type"]) == (status, content_type)


@pytest.mark.parametrize(
    "query",
    [
        "limit=abc",
        "limit=-1",
        "limit=1&limit=2",
        "offset=x",
        "offset=99999999999",
        "StudyDate=2020-13-99",
        "fuzzymatching=maybe",
        "PatientID=1&00100020=2",
        "PatientID=%ff",
        "PatientID=" + "x" * 300,
        "StudyInstanceUID=../..",
        "PixelData=1",
        "00189999=1",
    ],
)
def test_a_query_that_cannot_be_is_refused_with_a_reason(samples, query):
    response = samples.get(f"/studies?{query}")
    assert response.status_code == 400
    assert response.json()["reason"]
    assert "299" not in response.headers.get("warning", "")


def test_a_parameter_that_means_nothing_is_ignored_with_a_warning(samples):
    response = samples.get("/studies?PATIENTID=x&_=123")
    assert len(response.json()) == len(STUDIES)
    assert "ignored" in response.headers["warning"]


def test_a_huge_limit_is_cut_and_said(samples):
    response = samples.get("/studies?limit=1000000000")
    assert len(response.json()) == len(STUDIES)
    assert "maximum" in response.headers["warning"]


def test_defaults_come_from_the_settings():
    found, warnings = query("")
    assert (found.limit, found.offset, found.fuzzy, found.include, warnings) == (100, 0, False, frozenset(), ())


def test_a_plus_is_a_space_and_percent_decodes():
    assert read_parameters(b"PatientName=Doe+Jane%5EAnn") == [("PatientName", "Doe Jane^Ann")]


def test_too_many_parameters_are_refused():
    with pytest.raises(BadQuery):
        read_parameters(b"&".join(b"a=1" for _ in range(1000)))
