"""A report as it is read from metadata, whole, odd and hostile."""

from __future__ import annotations

from functools import cache

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.dicomweb.report import KEY_OBJECT_SELECTION, MAXIMUM_DEPTH, MAXIMUM_ITEMS, Report
from gateway.dicomweb.report_forms import FORMS, write
from gateway.dicomweb.responses import resource_url
from storage.errors import GatewayError, TooLarge, Undecodable
from tests.reports import (
    IMAGE,
    IMAGE_SERIES,
    IMAGE_STUDY,
    RandomReports,
    code,
    container,
    content,
    document,
    item,
    metadata,
    reference,
    text,
)

IMAGE_URL = f"/dicomweb/studies/{IMAGE_STUDY}/series/{IMAGE_SERIES}/instances/{IMAGE}"


def url_of(scope):
    return resource_url("/dicomweb", scope)


def read(data_set):
    return Report.of(metadata(data_set), url_of)


def fields(report):
    return {
        field.label: [f"[{one.text}]" if one.is_missing else one.text for one in field.phrases]
        for field in report.fields
    }


def test_it_says_whom_it_is_about_and_how_far_it_is_done():
    found = fields(read(document(text("Finding", "None"), CompletionFlagDescription="All read", Manufacturer="Works")))
    assert found == {
        "Kind": ["Comprehensive 3D SR Storage"],
        "Patient": ["Jane Doe"],
        "Patient ID": ["P-1"],
        "Birth date": ["1970-01-31"],
        "Sex": ["F"],
        "Study ID": ["S1"],
        "Study date": ["2024-01-02 08:09:10"],
        "Series number": ["1"],
        "Device": ["Works"],
        "Completion": ["COMPLETE"],
        "Completion reason": ["All read"],
        "Verification": ["UNVERIFIED"],
        "Content date": ["2024-01-03 10:11:12"],
    }


def test_those_who_verified_it_are_named():
    observer = item(
        VerificationDateTime="20240104",
        VerifyingObserverName="Roe^Max",
        VerifyingOrganization="Clinic",
        VerifyingObserverIdentificationCodeSequence=[code("MR", "7")],
    )
    verified = document(text("Finding", "None"), VerificationFlag="VERIFIED", VerifyingObserverSequence=[observer])
    assert fields(read(verified))["Verified by"] == ["2024-01-04", "Max Roe", "MR (7, 99TEST)", "Clinic"]
    unnamed = document(text("Finding", "None"), VerificationFlag="VERIFIED")
    assert fields(read(unnamed))["Verified by"] == ["[verifying observer missing]"]
    empty = document(VerificationFlag="VERIFIED", VerifyingObserverSequence=[item(VerifyingOrganization="Clinic")])
    assert fields(read(empty))["Verified by"] == ["[date missing]", "[name missing]", "Clinic"]


def test_what_every_report_should_say_is_missed():
    found = fields(read(item(SOPClassUID="1.2.999")))
    assert found["Kind"] == ["1.2.999"]
    assert {label for label, said in found.items() if said[0].startswith("[")} == {
        *("Patient", "Patient ID", "Birth date", "Sex", "Study date", "Completion", "Verification", "Content date")
    }
    assert fields(Report.of({}, url_of))["Kind"] == ["[SOP Class missing]"]


def test_a_key_object_selection_has_no_flags_to_miss():
    selected = document(
        content("IMAGE", ReferencedSOPSequence=reference()),
        SOPClassUID=KEY_OBJECT_SELECTION,
        CompletionFlag=None,
        VerificationFlag=None,
    )
    report = read(selected)
    assert not {"Completion", "Verification"} & set(fields(report))
    assert report.items[1].phrases[0].href == f"{IMAGE_URL}/rendered"


def test_earlier_documents_are_counted():
    before = [item(StudyInstanceUID="1.2", ReferencedSeriesSequence=[item(ReferencedSOPSequence=reference())])]
    assert fields(read(document(PredecessorDocumentsSequence=before)))["Predecessor documents"] == ["1"]


def test_items_come_in_the_order_of_the_document_with_their_places():
    report = read(document(container("Findings", text("A", "1", text("B", "2"))), text("C", "3"), title="CT Report"))
    found = [(one.number, one.depth, one.name.text) for one in report.items]
    assert report.title.text == "CT Report"
    assert found == [
        ("1", 0, "CT Report"),
        ("1.1", 1, "Findings"),
        ("1.1.1", 2, "A"),
        ("1.1.1.1", 3, "B"),
        ("1.2", 1, "C"),
    ]


@pytest.mark.parametrize(
    ("term", "expected"),
    [
        ("CONTAINS", ""),
        ("HAS OBS CONTEXT", "observation context"),
        ("HAS CONCEPT MOD", "concept modifier"),
        ("HAS PROPERTIES", "has properties"),
        ("HAS ACQ CONTEXT", "acquisition context"),
        ("INFERRED FROM", "inferred from"),
        ("SELECTED FROM", "selected from"),
        ("RELATED TO", "RELATED TO"),
        ("", "relationship missing"),
    ],
)
def test_how_an_item_belongs_to_the_one_above_is_said(term, expected):
    report = read(document(content("TEXT", "A", term, TextValue="1")))
    assert report.items[1].relationship.text == expected


def test_an_item_that_stands_for_another_names_it():
    target = content("SCOORD", "Outline", GraphicType="POINT", GraphicData=[1.0, 2.0])
    by_reference = item(RelationshipType="SELECTED FROM", ReferencedContentItemIdentifier=[1, 1])
    astray = item(RelationshipType="INFERRED FROM", ReferencedContentItemIdentifier=[1, 7])
    report = read(document(target, by_reference, astray))
    assert [one.is_referenced for one in report.items] == [False, True, False, False]
    assert (report.items[2].phrases[0].text, report.items[2].phrases[0].href) == ("1.1 Outline", "#item-1.1")
    assert (report.items[3].phrases[0].text, report.items[3].phrases[0].is_missing) == ("item 1.7 missing", True)


def test_evidence_with_a_uid_that_is_none_makes_no_link():
    hostile = metadata(document(content("IMAGE", ReferencedSOPSequence=reference())))
    hostile["0040A375"]["Value"][0]["0020000D"]["Value"] = ['1.2/../"']
    assert [phrase.href for phrase in Report.of(hostile, url_of).items[1].phrases] == ["", ""]


def test_pertinent_other_evidence_counts_too():
    other = document(content("IMAGE", ReferencedSOPSequence=reference()))
    other.PertinentOtherEvidenceSequence = other.CurrentRequestedProcedureEvidenceSequence
    del other.CurrentRequestedProcedureEvidenceSequence
    assert read(other).items[1].phrases[0].href == f"{IMAGE_URL}/rendered"


@pytest.mark.parametrize(("told", "expected"), [("de", "de"), ("pt-BR", "pt-BR"), ('de" onload="x', ""), ("", "")])
def test_the_language_of_the_whole_is_known_if_it_is_one(told, expected):
    named = [code("Language", "121049", "DCM")]
    language = content("CODE", relationship="HAS CONCEPT MOD", ConceptCodeSequence=[code("German", told, "RFC5646")])
    language.ConceptNameCodeSequence = named
    assert read(document(language, text("A", "1"))).language == expected


def test_a_report_without_content_says_so():
    assert [phrase.text for phrase in read(document()).items[0].phrases] == ["content missing"]
    assert read(document(ConceptNameCodeSequence=[])).title.is_missing


def nested(depth):
    innermost = {"0040A040": {"vr": "CS", "Value": ["CONTAINER"]}}
    for _ in range(depth):
        innermost = {**innermost, "0040A730": {"vr": "SQ", "Value": [innermost]}}
    return innermost


def test_what_is_nested_deeper_than_the_limit_is_refused():
    assert len(Report.of(nested(MAXIMUM_DEPTH), url_of).items) == MAXIMUM_DEPTH + 1
    for depth in (MAXIMUM_DEPTH + 1, 100_000):
        with pytest.raises(TooLarge, match="deeper"):
            Report.of(nested(depth), url_of)


def test_more_items_than_the_limit_are_refused():
    with pytest.raises(TooLarge, match="more content items"):
        Report.of({"0040A730": {"vr": "SQ", "Value": [{}] * MAXIMUM_ITEMS}}, url_of)
    assert (
        len(Report.of({"0040A730": {"vr": "SQ", "Value": [{}] * (MAXIMUM_ITEMS - 1)}}, url_of).items) == MAXIMUM_ITEMS
    )


@pytest.mark.parametrize("metadata", [None, [], "x", 1])
def test_what_is_no_data_set_cannot_be_read(metadata):
    with pytest.raises(Undecodable):
        Report.of(metadata, url_of)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(("vr", "Value", "Alphabetic")), inner),
    max_leaves=8,
)


@cache
def random_reports():
    return [orjson.dumps(metadata(RandomReports(seed).document())) for seed in range(5)]


@st.composite
def mutilated(draw):
    """A report in which some elements were replaced by anything, or taken out."""
    json = orjson.loads(draw(st.sampled_from(random_reports())))
    places = list(_places(json))
    for container_, key in draw(st.lists(st.sampled_from(places), min_size=1, max_size=12)):
        if isinstance(container_, dict) and draw(st.booleans()):
            container_.pop(key, None)
        elif isinstance(container_, dict) or key < len(container_):
            container_[key] = draw(JSON)
    return json


def _places(json):
    for key, value in list(json.items() if isinstance(json, dict) else enumerate(json)):
        yield json, key
        if isinstance(value, (dict, list)):
            yield from _places(value)


@settings(max_examples=200, deadline=None)
@given(mutilated())
def test_whatever_the_metadata_holds_is_written_or_refused(json):
    try:
        report = Report.of(json, url_of)
        forms = [write(report, media_type) for media_type in FORMS]
    except GatewayError:
        return
    assert all(form.decode("utf-8") for form in forms)
