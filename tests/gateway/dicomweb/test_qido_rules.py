"""Search, rule by rule: each test names the rule of QIDO-RS that it holds a running gateway to. PS3.18 §8.3.4, §10.6"""

from __future__ import annotations

import contextlib
import http.client
import itertools
import json
import re
import select
import socket
import socketserver
import threading
from xml.etree import ElementTree as ET

import httpx
import pytest

from tests import synthetic
from tests.fix_search import UIDS, corpus, instance, running_search
from tests.gateway.dicomweb.test_wado import parts_of

XML = 'multipart/related; type="application/dicom+xml"'
JSON = "application/dicom+json"
ALL = {"2.25.1", "2.25.2", "2.25.3", "2.25.4", "2.25.5"}
MODEL = "{http://dicom.nema.org/PS3.19/models/NativeDICOM}"


def documents(answer):
    """The parts of a multipart answer as trees, each part's type checked."""
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"].startswith(f"{XML}; boundary=")
    for headers, body in parts_of(answer):
        assert headers["Content-Type"] == "application/dicom+xml"
        root = ET.fromstring(body)
        assert root.tag == f"{MODEL}NativeDicomModel"
        yield root


def as_json(parent):
    """Attributes of the Native DICOM Model as the JSON Model has them, numbers as text; read by this test alone."""
    model = {}
    for attribute in parent:
        values = [value_of(child) for child in attribute if child.tag != f"{MODEL}BulkData"]
        model[attribute.attrib["tag"]] = {"vr": attribute.attrib["vr"]} | ({"Value": values} if values else {})
        for child in attribute.iter(f"{MODEL}BulkData"):
            model[attribute.attrib["tag"]] = {"vr": attribute.attrib["vr"], "BulkDataURI": child.attrib["uri"]}
    return model


def value_of(child):
    if child.tag == f"{MODEL}Item":
        return as_json(child)
    if child.tag == f"{MODEL}PersonName":
        return {group.tag.removeprefix(MODEL): name_of(group) for group in child}
    return child.text


def name_of(group):
    given = {part.tag.removeprefix(MODEL): part.text for part in group}
    order = ("FamilyName", "GivenName", "MiddleName", "NamePrefix", "NameSuffix")
    return "^".join(given.get(name, "") for name in order).rstrip("^")


def as_text(model):
    """A JSON model with its numbers as text and its names without padding, to compare."""
    if isinstance(model, dict):
        return {key: as_text(value) for key, value in model.items()}
    if isinstance(model, list):
        return [as_text(value) for value in model]
    return str(model).rstrip("^") if isinstance(model, (int, float, str)) else model


def warning(answer):
    return answer.headers.get("warning", "")


# ---- Q1 to Q3: media types ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("headers", [{}, {"Accept": "*/*"}, {"Accept": JSON}, {"Accept": "application/*"}])
def test_q1_the_default_is_dicom_json(searched, headers):
    status, answered, body = searched.literal("/studies", headers)
    assert (status, answered["content-type"]) == (200, JSON)
    assert len(json.loads(body)) == len(ALL)


def test_q1_plain_json_is_tolerated_and_a_parameter_overrules_the_header(searched):
    assert searched.get("/studies", "application/json").headers["content-type"] == "application/json"
    answer = searched.get("/studies?accept=application/json", "text/html")
    assert (answer.status_code, answer.headers["content-type"]) == (200, "application/json")


@pytest.mark.parametrize(
    "url",
    ["/studies", "/studies?includefield=all", "/series?includefield=all", "/studies/2.25.1/series/2.25.1.1/instances"],
)
def test_q2_xml_has_a_part_for_each_match_and_says_what_json_says(searched, url):
    roots = list(documents(searched.get(url, XML)))
    matches = searched.find(url)
    assert len(roots) == len(matches) > 1
    for root, match in zip(roots, matches, strict=True):
        assert [child.attrib["tag"] for child in root] == sorted(match)
        assert as_text(as_json(root)) == as_text(match)


@pytest.mark.parametrize(
    "accept", [XML, "multipart/related; type=application/dicom+xml, text/csv", f"text/html, {XML}"]
)
def test_q2_xml_is_found_however_it_is_asked_for(searched, accept):
    assert len(list(documents(searched.get("/studies?limit=2", accept)))) == 2


def test_q2_xml_pages_and_warns_as_json_does(searched):
    answer = searched.get("/studies?limit=2&includefield=NoSuchWord", XML)
    assert len(list(documents(answer))) == 2
    assert "additional results" in warning(answer)
    assert "not known" in warning(answer)


@pytest.mark.parametrize("accept", ["application/dicom+xml", "text/xml", 'multipart/related; type="application/dicom"'])
def test_q2_a_single_part_of_xml_is_not_acceptable(searched, accept):
    answer = searched.get("/studies", accept)
    assert answer.status_code == 406
    assert XML in answer.json()["reason"]


def test_q2_text_that_xml_cannot_hold_makes_no_malformed_answer(start_search):
    search = start_search("--workers", "1")
    bad = synthetic.element(0x00081030, "LO", b"a\x01<&>\"'\x0bb")
    search.stow(
        synthetic.part10(synthetic.data_set("2.25.9", "2.25.9.1", "2.25.9.1.1", extra=(bad,)), sop="2.25.9.1.1")
    )
    (root,) = documents(search.get("/studies", XML))
    assert as_json(root)["00081030"]["Value"] == ["a\ufffd<&>\"'\ufffdb"]
    (root,) = documents(search.get("/studies/2.25.9/metadata", XML))
    assert as_json(root)["00081030"]["Value"] == ["a\ufffd<&>\"'\ufffdb"]


@pytest.mark.parametrize("url", ["/studies/2.25.1", "/studies/2.25.1/series/2.25.1.2", "/studies/2.25.4"])
def test_q2_metadata_comes_as_xml_too(searched, url):
    matches = searched.find(f"{url}/metadata", JSON)
    roots = list(documents(searched.get(f"{url}/metadata", XML)))
    assert [as_text(as_json(root)) for root in roots] == as_text(matches)
    with_pixels = [match["7FE00010"]["BulkDataURI"] for match in matches if "7FE00010" in match]
    assert all(uri.startswith(searched.gateway.dicomweb) for uri in with_pixels)


def test_q3_no_match_is_an_empty_array(searched):
    for url in ("/studies?PatientID=NOBODY", "/series?Modality=NM", "/studies/2.25.77/instances"):
        assert searched.find(url) == []


def test_q3_no_match_in_xml_is_no_content(searched):
    answer = searched.get("/studies?PatientID=NOBODY&_=1", XML)
    assert (answer.status_code, answer.content) == (204, b"")
    assert "ignored" in warning(answer)
    assert "content-type" not in answer.headers


# ---- Q4 and Q5: keys and errors ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("level", "spellings"),
    [
        ("studies", ["StudyInstanceUID=2.25.1", "0020000D=2.25.1", "0020000d=2.25.1"]),
        ("series", ["RequestAttributesSequence.ScheduledProcedureStepID=SPS1", "00400275.00400009=SPS1"]),
        ("series", ["RequestAttributesSequence.00401001=RP1", "00400275.RequestedProcedureID=RP1"]),
    ],
)
def test_q4_an_attribute_is_named_by_tag_keyword_or_path(searched, level, spellings):
    found = [searched.uids(f"/{level}?{query}") for query in spellings]
    assert len(found[0]) == 1
    assert all(one == found[0] for one in found)


@pytest.mark.parametrize(
    "query",
    ["PatientID=P-1&PatientID=P-4", "PatientID=P-1&00100020=P-1", "PatientID=&PatientID=P-1", "0020000d=1&0020000D=1"],
)
def test_q4_an_attribute_given_twice_is_refused(searched, query):
    answer = searched.get(f"/studies?{query}")
    assert answer.status_code == 400
    assert answer.json()["attribute"] in ("PatientID", "StudyInstanceUID")


@pytest.mark.parametrize(
    ("query", "name"),
    [
        ("limit=abc", "limit"),
        ("limit=-1", "limit"),
        ("limit=1.5", "limit"),
        ("limit=", "limit"),
        ("limit=1&limit=2", "limit"),
        ("limit=%FF", "limit"),
        ("offset=-1", "offset"),
        ("offset=99999999999", "offset"),
        ("fuzzymatching=maybe", "fuzzymatching"),
        ("emptyvaluematching=1", "emptyvaluematching"),
        ("StudyDate=2020-13-99", "StudyDate"),
        ("StudyDate=20201301", "StudyDate"),
        ("00080020=20201301", "StudyDate"),
        ("StudyDate=20210101-20200101", "StudyDate"),
        ("StudyTime=2561", "StudyTime"),
        ("PatientName=%FF%FE", "PatientName"),
        ("PatientID=%ED%A0%80", "PatientID"),
        (f"PatientID={'x' * 300}", "PatientID"),
        (f"PatientName={'*a' * 20}", "PatientName"),
        ("StudyInstanceUID=1.2/3", "StudyInstanceUID"),
        ("PixelSpacing=1", "PixelSpacing"),
        ("00280030=1", "PixelSpacing"),
        ("00189999=1", "00189999"),
        ("00091001=1", "00091001"),
        ("RequestAttributesSequence.00321060=1", "RequestAttributesSequence.RequestedProcedureDescription"),
        ("RequestAttributesSequence=1", "RequestAttributesSequence"),
    ],
)
def test_q5_a_bad_parameter_is_refused_by_name(searched, query, name):
    status, headers, body = searched.literal(f"/studies?{query}")
    assert status == 400
    error = json.loads(body)
    assert error["error"] == "BadQuery"
    assert name in (error.get("attribute"), *error["reason"].split())
    assert headers["content-type"] == "application/json"


def test_q5_no_value_of_a_query_is_repeated_in_an_error(searched):
    for query in (
        "StudyDate=Secret99",
        "PatientName=" + "*Secret" * 20,
        "Secret=%FF",
        "limit=Secret",
        "PatientID=Secret%FF",
    ):
        answer = searched.get(f"/studies?{query}")
        assert answer.status_code == 400
        assert "Secret" not in answer.text


def test_q5_an_unknown_parameter_is_ignored_with_a_warning(searched):
    for query in ("PATIENTID=x", "_=123", "NoSuchWord=1", "StudyDate.=1", "=", "%00=1"):
        answer = searched.get(f"/studies?{query}")
        assert (answer.status_code, len(answer.json())) == (200, len(ALL))
        assert warning(answer) == '299 dicomweb-gateway: "A parameter is not known here and was ignored"'


@pytest.mark.parametrize("value", ["%00", "a%00b", "%1F", "%5B%22a%22%5D", "'%3B--", "%25", "_", "%5C", "%F0%9F%98%80"])
def test_q5_odd_text_matches_nothing_and_breaks_nothing(searched, value):
    for key in ("PatientName", "AccessionNumber", "StudyDescription", "RequestAttributesSequence.RequestedProcedureID"):
        answer = searched.get(f"/studies?{key}=x{value}")
        assert (answer.status_code, answer.json()) == (200, [])


# ---- Q6 to Q8: keys of each level --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("query", "studies"),
    [
        ("StudyDate=20200101", {1}),
        ("StudyTime=081500", {1}),
        ("AccessionNumber=A2", {2}),
        ("ModalitiesInStudy=MR", {1}),
        ("ReferringPhysicianName=House^Gregory", {1}),
        ("PatientName=Slide^Susan", {4}),
        ("PatientID=P-1", {1}),
        ("StudyInstanceUID=2.25.3", {3}),
        ("StudyID=S2", {2}),
        ("StudyID=S2&AccessionNumber=A2", {2}),
        ("StudyID=S2&AccessionNumber=A1", set()),
        ("PatientBirthDate=19700102", {1}),
        ("PatientSex=M", {1}),
        ("StudyDescription=He*", {1}),
        ("NumberOfStudyRelatedSeries=5", {4}),
        ("NumberOfStudyRelatedInstances=5", {1}),
        ("SOPClassesInStudy=1.2.840.10008.5.1.4.1.1.77.1.6", {4}),
    ],
)
def test_q6_studies_match_by_each_key(searched, query, studies):
    assert set(searched.uids(f"/studies?{query}")) == {f"2.25.{study}" for study in studies}


SERIES_KEYS = [
    ("Modality=MR", {"1.2"}),
    ("SeriesInstanceUID=2.25.1.1", {"1.1"}),
    ("SeriesNumber=1", {"1.1"}),
    ("PerformedProcedureStepStartDate=20200101", {"1.1"}),
    ("PerformedProcedureStepStartTime=08", {"1.1"}),
    ("RequestAttributesSequence.ScheduledProcedureStepID=SPS1", {"1.1"}),
    ("RequestAttributesSequence.RequestedProcedureID=RP1", {"1.1"}),
    ("SeriesDescription=ax*", set()),
    ("SeriesDescription=Ax*", {"1.1"}),
    ("BodyPartExamined=HEAD", {"1.1"}),
    ("Modality=CT&SeriesNumber=2", set()),
]


@pytest.mark.parametrize(("query", "series"), SERIES_KEYS)
def test_q7_series_of_a_study_match_by_each_key(searched, query, series):
    assert set(searched.uids(f"/studies/2.25.1/series?{query}")) == {f"2.25.{one}" for one in series}


@pytest.mark.parametrize(
    ("query", "series"),
    [
        ("PatientID=P-1", {"1.1", "1.2"}),
        ("PatientID=P-1&Modality=CT", {"1.1"}),
        ("Modality=CT", {"1.1", "3.1"}),
        ("StudyInstanceUID=2.25.2", {"2.1"}),
        ("AccessionNumber=A4&Modality=SM", {"4.1"}),
        ("StudyDate=20200601-&Modality=CT", {"3.1"}),
        ("ModalitiesInStudy=MR", {"1.1", "1.2"}),
    ],
)
def test_q7_all_series_match_by_keys_of_their_study_too(searched, query, series):
    assert set(searched.uids(f"/series?{query}")) == {f"2.25.{one}" for one in series}


@pytest.mark.parametrize(
    ("path", "query", "instances"),
    [
        ("/studies/2.25.1/series/2.25.1.1/instances", "SOPInstanceUID=2.25.1.1.2", {"1.1.2"}),
        ("/studies/2.25.1/series/2.25.1.1/instances", "InstanceNumber=3", {"1.1.3"}),
        ("/studies/2.25.1/series/2.25.1.1/instances", f"SOPClassUID={synthetic.CT}", set()),
        ("/studies/2.25.1/series/2.25.4.1/instances", "", set()),
        ("/studies/2.25.1/instances", "Modality=MR", {"1.2.1", "1.2.2"}),
        ("/studies/2.25.1/instances", "SeriesNumber=2&InstanceNumber=1", {"1.2.1"}),
        ("/instances", "PatientName=Doe^Jane", {"2.1.1"}),
        ("/instances", "StudyDate=20200101&Modality=CT&InstanceNumber=2", {"1.1.2"}),
        ("/instances", "SOPClassUID=1.2.840.10008.5.1.4.1.1.77.1.6&InstanceNumber=7&limit=2", {"4.1.1", "4.1.2"}),
        ("/series/2.25.1.2/instances", "", {"1.2.1", "1.2.2"}),
        ("/series/2.25.1.2/instances", "InstanceNumber=2", {"1.2.2"}),
    ],
)
def test_q8_instances_match_by_each_key(searched, path, query, instances):
    assert set(searched.uids(f"{path}?{query}")) == {f"2.25.{one}" for one in instances}


def test_q8_a_malformed_uid_in_a_path_is_refused(searched):
    for path in ("/studies/a/series", "/studies/2.25.1/series/x/instances", "/series/a/instances"):
        assert searched.get(path).status_code == 400


# ---- Q9 to Q12: what is returned ---------------------------------------------------------------------------------

PATIENT_TAGS = frozenset(("00100010", "00100020", "00100030", "00100040"))
STUDY_TAGS = PATIENT_TAGS.union(
    ("00080020", "00080030", "00080050", "00080056", "00080061", "00080090", "00081190"),
    ("0020000D", "00200010", "00201206", "00201208"),
)
SERIES_TAGS = frozenset(("00080056", "00080060", "00081190", "0020000D", "0020000E", "00200011", "00201209"))
IMAGE_TAGS = frozenset(("00280010", "00280011", "00280100"))
INSTANCE_TAGS = IMAGE_TAGS.union(
    ("00080016", "00080018", "00080056", "00081190", "00200013", "0020000D", "0020000E"),
)


def test_q9_a_study_returns_its_attributes_even_where_they_are_empty(searched):
    for match in searched.find("/studies"):
        assert set(match) >= STUDY_TAGS
    (least,) = searched.find("/studies?StudyInstanceUID=2.25.5")
    empty = {tag for tag, element in least.items() if set(element) == {"vr"}}
    assert empty == {"00080020", "00080030", "00080050", "00080090", "00081030", "00100030", "00100040", "00200010"}
    assert all("Value" not in element or element["Value"] for element in least.values())


def test_q9_modalities_and_the_time_zone_are_there_where_they_are_known(searched):
    modalities = {match["0020000D"]["Value"][0]: match["00080061"]["Value"] for match in searched.find("/studies")}
    assert {study: sorted(values) for study, values in modalities.items()} == {
        "2.25.1": ["CT", "MR"],
        "2.25.2": ["US"],
        "2.25.3": ["CT"],
        "2.25.4": ["ANN", "PR", "SEG", "SM", "SR"],
        "2.25.5": ["OT"],
    }
    zones = {match["0020000D"]["Value"][0]: match.get("00080201") for match in searched.find("/studies")}
    assert {study: zone for study, zone in zones.items() if zone} == {"2.25.3": {"vr": "SH", "Value": ["+0100"]}}


def test_q10_a_series_returns_its_attributes(searched):
    ct, mr = searched.find("/studies/2.25.1/series")
    assert set(ct) & set(mr) >= SERIES_TAGS
    assert ct["00400275"]["Value"] == [
        {"00400009": {"vr": "SH", "Value": ["SPS1"]}, "00401001": {"vr": "SH", "Value": ["RP1"]}}
    ]
    assert {"0008103E", "00400244", "00400245"} <= set(ct)
    assert not {"0008103E", "00400244", "00400245", "00400275"} & set(mr)
    assert not {"00100010", "00080061"} & set(ct)


def test_q10_all_series_return_the_attributes_of_their_studies(searched):
    for match in searched.find("/series"):
        assert {*STUDY_TAGS, "0020000E", "00080060"} <= set(match)


def test_q11_an_instance_returns_its_attributes(searched):
    first, _ = searched.find("/studies/2.25.1/series/2.25.1.2/instances")
    assert set(first) >= INSTANCE_TAGS
    assert [first[tag]["Value"] for tag in ("00280008", "00280010", "00280011", "00280100")] == [[2], [4], [6], [8]]
    assert not {"00100010", "00080060"} & set(first)
    single, *_ = searched.find("/studies/2.25.1/series/2.25.1.1/instances")
    assert "00280008" not in single


def test_q11_instances_return_what_their_path_does_not_name(searched):
    for match in searched.find("/studies/2.25.1/instances"):
        assert {"00080060", "00200011", "00080018"} <= set(match)
        assert "00100010" not in match
    for url in ("/instances", "/series/2.25.1.1/instances"):
        for match in searched.find(url):
            assert {*STUDY_TAGS, "00080018"} <= set(match)


@pytest.mark.parametrize("accept", [JSON, XML])
@pytest.mark.parametrize("level", UIDS)
def test_q12_the_retrieve_url_leads_to_that_resource(searched, level, accept):
    answer = searched.get(f"/{level}", accept)
    matches = answer.json() if accept == JSON else [as_json(root) for root in documents(answer)]
    assert matches
    for match in matches:
        assert match["00081190"]["vr"] == "UR"
        (url,) = match["00081190"]["Value"]
        assert url.startswith(searched.gateway.dicomweb + "/studies/")
        for one in searched.find(f"{url}/metadata"):
            assert one[UIDS[level]] == match[UIDS[level]]
        assert searched.get(url, "multipart/related; type=application/dicom; transfer-syntax=*").status_code == 200


class Forwarder(socketserver.ThreadingTCPServer):
    """A port that hands every connection on to another one: what a proxy is to a client."""

    daemon_threads = True
    block_on_close = False

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Forwarding)
        self.port = self.server_address[1]
        self.target = 0


class Forwarding(socketserver.BaseRequestHandler):
    def handle(self):
        with socket.create_connection(("127.0.0.1", self.server.target)) as there:
            other = {self.request: there, there: self.request}
            while True:
                for one in select.select(other, [], [])[0]:
                    data = one.recv(1 << 16)
                    if not data:
                        return
                    other[one].sendall(data)


@pytest.fixture
def forwarder():
    with Forwarder() as server:
        threading.Thread(target=server.serve_forever, args=(0.05,)).start()
        yield server
        server.shutdown()


def test_q12_the_retrieve_url_starts_with_the_public_url(forwarder, start_search):
    public = f"http://127.0.0.1:{forwarder.port}"
    with socket.create_server(("127.0.0.1", 0)) as unused:
        forwarder.target = unused.getsockname()[1]
    search = start_search("--http-port", str(forwarder.target), GATEWAY_HTTP__PUBLIC_URL=f"{public}/")
    search.stow(instance(7))
    for level in UIDS:
        (match,) = httpx.get(f"http://127.0.0.1:{forwarder.target}/dicomweb/{level}").json()
        (url,) = match["00081190"]["Value"]
        assert url.startswith(f"{public}/dicomweb/studies/2.25.7")
        assert search.find(f"{url}/metadata")[0]["00080018"]["Value"] == ["2.25.7.1.1"]


def test_q12_the_retrieve_url_is_what_a_trusted_proxy_forwards_and_nobody_else(forwarder, start_search):
    search = start_search("--workers", "1", GATEWAY_HTTP__TRUSTED_PROXIES="127.0.0.1")
    forwarder.target = search.gateway.http_port
    search.stow(instance(7))
    forwarded = {"X-Forwarded-Proto": "http", "X-Forwarded-Host": f"127.0.0.1:{forwarder.port}"}
    (match,) = search.matches("/studies", **forwarded)
    (url,) = match["00081190"]["Value"]
    assert url == f"http://127.0.0.1:{forwarder.port}/dicomweb/studies/2.25.7"
    assert len(search.find(f"{url}/metadata")) == 1
    stranger = start_search("--workers", "1", GATEWAY_HTTP__TRUSTED_PROXIES="10.0.0.0/8")
    stranger.stow(instance(7))
    (match,) = stranger.matches("/studies", **forwarded)
    assert match["00081190"]["Value"] == [f"{stranger.gateway.dicomweb}/studies/2.25.7"]


# ---- Q13: includefield -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("url", "query", "tags"),
    [
        ("/studies", "includefield=ProcedureCodeSequence", {"00081032"}),
        ("/studies", "includefield=00081032", {"00081032"}),
        ("/studies", "includefield=ProcedureCodeSequence.CodeValue", {"00081032"}),
        ("/studies", "includefield=00081032.00080100", {"00081032"}),
        (
            "/studies",
            "includefield=OtherPatientIDs,SOPClassesInStudy,%20PatientAge",
            {"00101000", "00080062", "00101010"},
        ),
        ("/studies", "includefield=OtherPatientIDs&includefield=00101010", {"00101000", "00101010"}),
        ("/studies", "includefield=&includefield=,", set()),
        ("/studies", "includefield=RetrieveURL,00080056,PatientName", set()),
        ("/studies/2.25.1/series", "includefield=Manufacturer", {"00080070"}),
        ("/studies/2.25.1/series", "includefield=RequestAttributesSequence.ScheduledProcedureStepID", set()),
        ("/studies/2.25.1/series", "includefield=PatientName,StudyDate", {"00100010", "00080020"}),
        ("/studies/2.25.1/series/2.25.1.1/instances", "includefield=ImageType,00083002", {"00080008", "00083002"}),
        ("/studies/2.25.1/series/2.25.1.1/instances", "includefield=Modality,PatientID", {"00080060", "00100020"}),
    ],
)
def test_q13_includefield_adds_what_it_names(searched, url, query, tags):
    before = searched.find(f"{url}?PatientID=P-1")[0]
    answer = searched.get(f"{url}?PatientID=P-1&{query}")
    assert set(answer.json()[0]) - set(before) == tags - set(before)
    assert tags <= set(answer.json()[0])
    assert warning(answer) == ""


def test_q13_includefield_all_returns_everything_of_the_level(searched):
    (study,) = searched.find("/studies?StudyInstanceUID=2.25.1&includefield=all")
    assert {"00081032", "00080062", "00081030"} <= set(study)
    assert study["00081032"]["Value"][0]["00080100"]["Value"] == ["HEAD1"]
    series = searched.find("/studies/2.25.1/series?SeriesNumber=1&includefield=all")[0]
    assert {"00080070", "00180015", "00100010", "00081032"} <= set(series)
    assert warning(searched.get("/studies?includefield=all")) == ""


def test_q13_an_instance_returns_whatever_its_data_set_holds_but_large_values(searched):
    url = "/studies/2.25.1/series/2.25.1.1/instances?InstanceNumber=1"
    before, answer = (
        searched.find(url)[0],
        searched.get(f"{url}&includefield=PixelSpacing,00281101,PixelData,BitsStored"),
    )
    (match,) = answer.json()
    assert set(match) - set(before) == {"00280030", "00280101"}
    assert match["00280030"]["Value"] == [1, 1]
    assert list(match) == sorted(match)
    assert warning(answer) == ""
    (whole,) = searched.find(f"{url}&includefield=all")
    (metadata,) = searched.find("/studies/2.25.1/series/2.25.1.1/instances/2.25.1.1.1/metadata")
    assert {tag: element for tag, element in metadata.items() if "BulkDataURI" not in element}.items() <= whole.items()
    assert "7FE00010" not in whole
    assert set(before) <= set(whole)


LOWER = "Of a level below this one, and so not returned"
ABSENT = "Not kept by this server, and so not returned"


@pytest.mark.parametrize(
    ("url", "names", "tag", "said"),
    [
        ("/studies", "SOPInstanceUID", "00080018", f"{LOWER}: SOPInstanceUID"),
        ("/studies", "00080060", "00080060", f"{LOWER}: Modality"),
        ("/studies", "Modality,InstanceNumber", "00200013", f"{LOWER}: Modality, InstanceNumber"),
        ("/studies/2.25.1/series", "00280010", "00280010", f"{LOWER}: Rows"),
        ("/series", "PixelSpacing", "00280030", f"{ABSENT}: PixelSpacing"),
        ("/studies", "00280030,00091001", "00091001", f"{ABSENT}: 00091001, PixelSpacing"),
        (
            "/series",
            "RequestAttributesSequence.00321060",
            "",
            f"{ABSENT}: RequestAttributesSequence.RequestedProcedureDesc",
        ),
        ("/studies", "NoSuchWord", "", "An attribute of includefield is not known here"),
        ("/studies", "PatientName.CodeValue", "", f"{ABSENT}: PatientName.CodeValue"),
    ],
)
def test_q13_includefield_that_cannot_be_met_is_said(searched, url, names, tag, said):
    answer = searched.get(f"{url}?includefield={names}")
    assert answer.status_code == 200
    assert said in warning(answer)
    assert all(tag not in match for match in answer.json())


def test_q13_includefield_a_thousand_times_costs_a_short_warning(searched):
    names = ",".join([*(f"0029{number:04X}" for number in range(0x1000, 0x13E8)), "StudyDescription"])
    answer = searched.get(f"/studies?includefield={names}")
    assert answer.status_code == 200
    assert "and others" in warning(answer)
    assert len(warning(answer)) < 500
    assert len(answer.json()) == len(ALL)


def test_q13_a_path_as_long_as_a_request_may_be_costs_a_short_warning(searched):
    answer = searched.get(f"/studies?includefield={'.'.join(['ContentSequence'] * 3000)}&PixelSpacing=")
    assert answer.status_code == 200
    assert "Not kept by this server" in warning(answer)
    assert len(warning(answer)) < 500


# ---- Q14 and Q15: switches ---------------------------------------------------------------------------------------


def test_q14_fuzzy_matching_finds_names_by_their_words_and_nothing_else(searched):
    assert searched.uids("/studies?PatientName=tarou") == []
    assert searched.uids("/studies?PatientName=tarou&fuzzymatching=false") == []
    answer = searched.get("/studies?PatientName=tarou&fuzzymatching=true")
    assert [match["0020000D"]["Value"] for match in answer.json()] == [["2.25.1"]]
    assert "fuzzy" not in warning(answer)
    assert searched.uids("/studies?AccessionNumber=A&fuzzymatching=true") == []


@pytest.mark.parametrize("name", ["fuzzymatching", "emptyvaluematching", "multiplevaluematching"])
@pytest.mark.parametrize("value", ["yes", "1", "", "TRUE", "true&{}=true"])
def test_q14_a_switch_is_true_or_false_once(searched, name, value):
    answer = searched.get(f"/studies?{name}={value.format(name)}")
    assert answer.status_code == 400
    assert name in answer.json()["reason"]


def test_q15_empty_values_match_where_that_is_asked_for(searched):
    assert searched.uids('/studies?PatientID=""&emptyvaluematching=true') == ["2.25.2"]
    assert set(searched.uids('/studies?AccessionNumber=""&emptyvaluematching=true')) == {"2.25.5"}
    assert searched.uids('/studies?PatientID=""') == []


def test_q15_several_values_match_where_that_is_asked_for(searched):
    url = "/studies?AccessionNumber=A1%5CA3"
    assert set(searched.uids(f"{url}&multiplevaluematching=true")) == {"2.25.1", "2.25.3"}
    assert searched.uids(url) == []


# ---- Q16 and Q17: pages ------------------------------------------------------------------------------------------


def test_q16_pages_are_the_whole_in_a_stable_order(searched):
    for url, size in itertools.product(("/studies", "/series", "/instances", "/studies/2.25.4/instances"), (1, 2, 3)):
        whole = searched.uids(url)
        pages = []
        while page := searched.uids(f"{url}?limit={size}&offset={len(pages)}"):
            assert len(page) <= size
            pages += page
        assert pages == whole
        assert len(set(whole)) == len(whole)


@pytest.mark.parametrize("query", ["limit=0", "offset=5", "offset=100000", "limit=0&offset=3"])
def test_q16_a_page_beyond_the_end_is_empty(searched, query):
    answer = searched.get(f"/studies?{query}")
    assert (answer.status_code, answer.json()) == (200, [])


def test_q17_a_cut_list_warns(searched):
    more = '299 dicomweb-gateway: "There are additional results that can be requested"'
    assert warning(searched.get("/studies?limit=4")) == more
    assert warning(searched.get("/studies?limit=2&offset=2")) == more
    for whole in ("limit=5", "limit=2&offset=3", "limit=0", ""):
        assert warning(searched.get(f"/studies?{whole}")) == ""


def test_q17_the_servers_maximum_cuts_and_warns(start_search):
    search = start_search("--workers", "1", GATEWAY_HTTP__DEFAULT_RESULTS="2", GATEWAY_HTTP__MAXIMUM_RESULTS="3")
    search.stow(*corpus())
    for query, count, said in (
        ("", 2, "additional results"),
        ("limit=1000000000", 3, "larger than the maximum"),
        ("limit=1000000000", 3, "additional results"),
        ("limit=100&offset=4", 1, "larger than the maximum"),
    ):
        for accept in (JSON, XML):
            answer = search.get(f"/studies?{query}", accept)
            assert said in warning(answer)
            found = answer.json() if accept == JSON else list(documents(answer))
            assert len(found) == count


# ---- Q18 to Q24: matching ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("separator", [",", "%5C", "\\", "%2C"])
def test_q18_a_list_of_uids_matches_any_of_them(searched, separator):
    found = searched.matches(f"/studies?StudyInstanceUID=2.25.1{separator}2.25.3{separator}2.25.99")
    assert {match["0020000D"]["Value"][0] for match in found} == {"2.25.1", "2.25.3"}


@pytest.mark.parametrize(
    ("url", "found"),
    [
        ("/studies?AccessionNumber=A*", {"2.25.1", "2.25.2", "2.25.3", "2.25.4"}),
        ("/studies?AccessionNumber=?1", {"2.25.1"}),
        ("/studies?PatientID=P-*", {"2.25.1", "2.25.4"}),
        ("/studies?PatientID=100%25_x", {"2.25.5"}),
        ("/studies?PatientID=%25", set()),
        ("/studies?PatientID=P_1", set()),
        ("/studies?PatientID=p-1", set()),
        ("/studies?PatientID=*", ALL),
        ("/studies?PatientID=***", ALL),
        ("/series?SeriesNumber=01", {"2.25.1.1", "2.25.3.1"}),
        ("/series?SeriesNumber=1.0", {"2.25.1.1", "2.25.3.1"}),
        ("/studies?StudyID=S1*", {"2.25.1"}),
    ],
)
def test_q19_wildcards_are_stars_and_question_marks_only(searched, url, found):
    assert set(searched.uids(url)) == found


@pytest.mark.parametrize("query", ["StudyDate=2020*", "StudyInstanceUID=2.25.*", "StudyTime=08*", "SeriesNumber=1?"])
def test_q19_wildcards_where_there_are_none_are_refused(searched, query):
    answer = searched.get(f"/series?{query}")
    assert answer.status_code == 400
    assert answer.json()["attribute"] == query.partition("=")[0]


@pytest.mark.parametrize(
    ("query", "studies"),
    [
        ("StudyDate=20200101-20200615", {1, 2}),
        ("StudyDate=-20200614", {1}),
        ("StudyDate=20200616-", {3, 4}),
        ("StudyDate=2020.01.01", {1}),
        ("StudyTime=08-09", {1}),
        ("StudyTime=0800-0815", {1}),
        ("StudyTime=-0814", {3}),
        ("StudyTime=08", {1}),
        ("StudyTime=22-02", {2, 3}),
        ("StudyDate=20200101-20201231&StudyTime=2300", {2}),
    ],
)
def test_q20_ranges_include_their_ends_and_times_go_over_midnight(searched, query, studies):
    assert set(searched.uids(f"/studies?{query}")) == {f"2.25.{study}" for study in studies}


@pytest.mark.parametrize(
    ("query", "numbers"),
    [
        ("20200101080000-20200101090000", [1, 3]),
        ("2020010108", [1]),
        ("20200101070000%2B0000", [2]),
        ("20200101080000-0100", [3]),
        ("-20200101080000", [1, 2]),
    ],
)
def test_q20_a_date_time_with_an_offset_is_no_range(start_moments, query, numbers):
    found = start_moments.find(f"/instances?AcquisitionDateTime={query}")
    assert [match["00200013"]["Value"][0] for match in found] == numbers


@pytest.fixture(scope="module")
def start_moments(tmp_path_factory, engine):
    with running_search(tmp_path_factory.mktemp("moments"), engine, "--workers", "1") as running:
        moments = ("20200101080000", "20200101080000+0100", "20200101080000-0100")
        running.stow(*(instance(8, 1, at, AcquisitionDateTime=text) for at, text in enumerate(moments, 1)))
        yield running


def test_q21_an_empty_value_matches_all_and_asks_for_the_attribute(searched):
    for key in ("PatientID", "00100020", "OtherPatientIDs", "ProcedureCodeSequence", "PatientAge"):
        answer = searched.get(f"/studies?{key}=")
        assert len(answer.json()) == len(ALL)
        assert warning(answer) == ""
    (match,) = searched.find("/studies?StudyInstanceUID=2.25.1&ProcedureCodeSequence=&PatientAge=")
    assert match["00081032"]["Value"]
    assert match["00101010"] == {"vr": "AS"}


@pytest.mark.parametrize("value", ["", "*"])
def test_q21_what_is_asked_for_by_a_key_is_returned_empty_also_beside_all(searched, value):
    (match,) = searched.find(f"/studies?StudyInstanceUID=2.25.1&includefield=all&PatientAge={value}")
    assert match["00101010"] == {"vr": "AS"}
    (match,) = searched.find("/studies?StudyInstanceUID=2.25.1&includefield=all")
    assert "00101010" not in match


def test_q21_many_stars_are_too_long_a_value_as_any_text_is(searched):
    assert searched.get(f"/studies?StudyID={'*' * 256}").status_code == 200
    answer = searched.get(f"/studies?StudyID={'*' * 257}")
    assert (answer.status_code, answer.json()["attribute"]) == (400, "StudyID")


def test_q21_an_empty_value_of_what_cannot_be_returned_is_said(searched):
    answer = searched.get("/studies?PixelSpacing=&Modality=")
    assert len(answer.json()) == len(ALL)
    assert f"{ABSENT}: PixelSpacing" in warning(answer)
    assert f"{LOWER}: Modality" in warning(answer)


@pytest.mark.parametrize(
    ("name", "studies"),
    [
        ("yamada^tarou", {1}),
        ("YAMADA^TAROU^^^", {1}),
        ("Yamada*", {1}),
        ("山田*", {1}),
        ("山田^太郎", {1}),
        ("やまだ*", {1}),
        ("Yamada*=山田*", {1}),
        ("=山田*", {1}),
        ("Doe^J*", {2, 3}),
        ("doe^john", {3}),
        ("*^j*", {2, 3, 5}),
        ("weiß*", {5}),
        ("WEISS*", {5}),
        ("Yamada", set()),
    ],
)
def test_q22_names_match_in_any_case_and_any_component_group(searched, name, studies):
    found = searched.client.get("/studies", params={"PatientName": name}).json()
    assert {match["0020000D"]["Value"][0] for match in found} == {f"2.25.{study}" for study in studies}


@pytest.mark.parametrize(
    ("value", "studies"),
    [
        ("CT", {1, 3}),
        ("CT,US", {1, 2, 3}),
        ("MR\\US", {1, 2}),
        ("MR%5CUS", {1, 2}),
        ("S*", {4}),
        ("C?", {1, 3}),
        ("NM", set()),
        ("CT,NM", {1, 3}),
    ],
)
def test_q23_a_study_matches_by_any_of_its_modalities(searched, value, studies):
    found = searched.matches(f"/studies?ModalitiesInStudy={value}")
    assert {match["0020000D"]["Value"][0] for match in found} == {f"2.25.{study}" for study in studies}


def test_q24_a_time_zone_in_the_query_is_refused_rather_than_passed_over(searched):
    answer = searched.get("/studies?StudyTime=08&TimezoneOffsetFromUTC=%2B0100")
    assert answer.status_code == 400
    assert answer.json()["attribute"] == "TimezoneOffsetFromUTC"
    (match,) = searched.find("/studies?StudyInstanceUID=2.25.3&TimezoneOffsetFromUTC=")
    assert (match["00080030"]["Value"], match["00080201"]["Value"]) == (["010000"], ["+0100"])


# ---- Q25: JSON ---------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def odd(tmp_path_factory, engine):
    """What a careless sender sends."""
    element = synthetic.element
    extra = (
        element(0x00080008, "CS", "ORIGINAL\\\\AXIAL"),
        element(0x00080050, "SH", "  padded  "),
        element(0x00101000, "LO", "a\\\\b"),
        element(0x00101001, "PN", "A^B\\C^D==x"),
        element(0x00101020, "DS", "NaN"),
        element(0x00101030, "DS", "70,5"),
        element(0x00200011, "IS", "one"),
        element(0x00280008, "IS", "2 "),
    )
    content = synthetic.data_set("2.25.11", "2.25.11.1", "2.25.11.1.11", extra=extra)
    with running_search(tmp_path_factory.mktemp("odd"), engine, "--workers", "1") as running:
        running.stow(synthetic.part10(content, sop="2.25.11.1.11"))
        yield running


def test_q25_tags_ascend_and_have_a_vr_at_every_level(searched):
    for level in UIDS:
        for match in searched.find(f"/{level}?includefield=all"):
            assert list(match) == sorted(match)
            assert all(re.fullmatch("[0-9A-F]{8}", tag) for tag in match)
            assert all(re.fullmatch("[A-Z]{2}", element["vr"]) for element in match.values())
            assert all(set(element) <= {"vr", "Value"} for element in match.values())
            assert "\\u0000" not in json.dumps(match)


def test_q25_names_are_objects_of_component_groups(searched):
    (match,) = searched.find("/studies?StudyInstanceUID=2.25.1")
    assert match["00100010"] == {
        "vr": "PN",
        "Value": [{"Alphabetic": "Yamada^Tarou", "Ideographic": "山田^太郎", "Phonetic": "やまだ^たろう"}],
    }


def test_q25_values_are_trimmed_and_empty_ones_are_null(odd):
    body = odd.get("/instances?includefield=all")

    def refuse(constant):
        pytest.fail(f"{constant} is no JSON")

    (match,) = json.loads(body.content, parse_constant=refuse)
    assert match["00101000"]["Value"] == ["a", None, "b"]
    assert match["00080008"]["Value"] == ["ORIGINAL", None, "AXIAL"]
    assert match["00101001"]["Value"] == [{"Alphabetic": "A^B"}, {"Alphabetic": "C^D", "Phonetic": "x"}]
    assert match["00080050"]["Value"] == ["padded"]
    assert match["0020000D"]["Value"] == ["2.25.11"]
    assert match["00280008"]["Value"] == [2]


def test_q25_bad_numbers_are_text(odd):
    (match,) = odd.find("/instances?includefield=all")
    assert [match[tag]["Value"] for tag in ("00101020", "00101030", "00200011")] == [["NaN"], ["70,5"], ["one"]]
    (root,) = documents(odd.get("/instances?includefield=all", XML))
    assert as_text(as_json(root)) == {**as_text(match), "00080008": {"vr": "CS", "Value": ["ORIGINAL", None, "AXIAL"]}}


# ---- Q26 to Q29 --------------------------------------------------------------------------------------------------


def test_q26_an_index_that_cannot_be_read_is_503_with_a_time_to_retry_until_it_can(start_search, engine):
    search = start_search("--workers", "1")
    search.stow(*corpus())
    with engine.damaged(search.gateway.data):
        for accept in (JSON, XML):
            for url in ("/series?Modality=CT", "/studies/2.25.1/series"):
                answer = search.get(url, accept)
                assert answer.status_code == 503, url
                assert int(answer.headers["retry-after"]) > 0
                assert answer.json()["error"] == "StorageUnavailable"
        assert search.get("/studies?limit=x").status_code == 400
    assert set(search.uids("/studies")) == ALL


def test_q26_searches_go_on_while_another_process_writes(start_search, engine):
    search = start_search("--workers", "1")
    search.stow(*corpus())
    with engine.held(search.gateway.data):
        assert set(search.uids("/studies")) == ALL


def test_q27_what_was_acknowledged_is_found_by_the_very_next_search(start_search):
    search = start_search("--workers", "2")
    for number in range(1, 25):
        search.stow(instance(9, 1, number))
        for _ in range(2):  # each on a connection of its own, which either process may take
            found = search.matches(f"/instances?SOPInstanceUID=2.25.9.1.{number}")
            assert len(found) == 1


def test_q28_counts_are_the_lengths_of_the_searches_below_at_every_moment(start_search):
    search = start_search("--workers", "2")
    for one in corpus():
        search.stow(one)
        search.stow(one)  # again: counted once
        for study in search.matches("/studies"):
            url = f"/studies/{study['0020000D']['Value'][0]}"
            series = search.matches(f"{url}/series")
            assert study["00201206"]["Value"] == [len(series)]
            assert study["00201208"]["Value"] == [len(search.matches(f"{url}/instances"))]
            below = [f"{url}/series/{one['0020000E']['Value'][0]}/instances" for one in series]
            assert [one["00201209"]["Value"] for one in series] == [[len(search.matches(path))] for path in below]


@pytest.mark.parametrize(
    "query",
    [
        "PatientName=Slide%5ESusan",
        "PatientName=Slide^Susan",
        "PatientName=%53lide%5eSusan",
        "Patient%4Eame=Slide^Susan",
        "fuzzymatching=true&PatientName=Susan+Slide",
        "fuzzymatching=true&PatientName=Susan%20Slide",
    ],
)
def test_q29_a_query_is_percent_decoded_and_a_plus_is_a_space(searched, query):
    assert [match["0020000D"]["Value"] for match in searched.matches(f"/studies?{query}")] == [["2.25.4"]]


def test_q29_utf_8_is_read_and_nothing_else(searched):
    for name in ("%E5%B1%B1%E7%94%B0*", "%e5%b1%b1%e7%94%b0*"):
        assert len(searched.matches(f"/studies?PatientName={name}")) == 1
    for bad in ("%E5%B1", "%C0%AF", "%FF", "J%F6rg"):
        status, _, body = searched.literal(f"/studies?PatientName={bad}")
        assert status == 400
        assert json.loads(body)["attribute"] == "PatientName"


def test_q29_raw_utf_8_in_the_request_line_is_read_or_refused_but_never_misread(searched):
    with contextlib.closing(http.client.HTTPConnection("127.0.0.1", searched.gateway.http_port, timeout=30)) as one:
        raw = "GET /dicomweb/studies?PatientName=山田* HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n"
        one.connect()
        one.sock.sendall(raw.encode())
        answer = http.client.HTTPResponse(one.sock)
        answer.begin()
        assert answer.status == 400 or [m["0020000D"]["Value"] for m in json.loads(answer.read())] == [["2.25.1"]]
