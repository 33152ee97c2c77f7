"""The attribute table agrees with the data dictionary, with PS3.18's return lists and with what viewers read."""

from __future__ import annotations

import pytest
from pydicom.datadict import dictionary_VR, keyword_for_tag

from storage.attributes import (
    ATTRIBUTES,
    KeyType,
    Returned,
    by_keyword,
    by_level,
    by_tag,
    column_name,
    has_value,
    level_attributes,
)
from storage.dictionary import tag_path
from storage.model import Level

# PS3.18 Tables 10.6.3-3 to 10.6.3-5; the Retrieve URL and Instance Availability are added to answers, not indexed.
ALWAYS_RETURNED = {
    Level.PATIENT: {"00100010", "00100020", "00100030", "00100040"},
    Level.STUDY: {
        *("00080020", "00080030", "00080050", "00080061", "00080090", "0020000D", "00200010"),
        *("00201206", "00201208", "00081030"),
    },
    Level.SERIES: {"00080060", "0020000E", "00200011", "00201209"},
    Level.INSTANCE: {"00080016", "00080018", "00200013"},
}
RETURNED_IF_KNOWN = {
    Level.PATIENT: set(),
    Level.STUDY: {"00080201"},
    Level.SERIES: {"0008103E", "00400244", "00400245", "00400275", "00400275.00400009", "00400275.00401001"}
    | {"00080021", "00080031", "00180015"},
    Level.INSTANCE: {"00280008", "00280010", "00280011", "00280100"},
}

# dimse.md CF4 and dicomweb.md Q6-Q8: what a Query/Retrieve provider must be able to match.
REQUIRED_KEYS = {
    *("StudyDate", "StudyTime", "AccessionNumber", "PatientName", "StudyID"),
    *("Modality", "SeriesNumber", "InstanceNumber"),
}
UNIQUE_KEYS = {"PatientID", "StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID"}
SEARCH_KEYS = REQUIRED_KEYS | UNIQUE_KEYS
SEARCH_KEYS |= {"ModalitiesInStudy", "ReferringPhysicianName", "SOPClassUID", "StudyDescription", "SOPClassesInStudy"}
SEARCH_KEYS |= {"PerformedProcedureStepStartDate", "PerformedProcedureStepStartTime", "SeriesDescription"}
SEARCH_KEYS |= {
    "RequestAttributesSequence.ScheduledProcedureStepID",
    "RequestAttributesSequence.RequestedProcedureID",
}

# What OHIF, Weasis and the others name in includefield.
ASKED_BY_VIEWERS = [
    "00081030",
    "00080060",
    "00080090",
    "00100030",
    "0008103E",
    "00080021",
    "00201209",
    "00080016",
    "00080018",
    "00200013",
]


@pytest.mark.parametrize("attribute", ATTRIBUTES, ids=lambda attribute: attribute.keyword)
def test_each_row_is_what_the_data_dictionary_says(attribute):
    tags, keywords = attribute.tag.split("."), attribute.keyword.split(".")
    assert [keyword_for_tag(int(tag, 16)) for tag in tags] == keywords
    assert dictionary_VR(int(attribute.leaf_tag, 16)) == attribute.vr
    assert attribute.tag == attribute.tag.upper()


def test_rows_are_unique_and_ascending_by_tag():
    tags = [attribute.tag for attribute in ATTRIBUTES]
    assert tags == sorted(set(tags))
    assert len({attribute.keyword for attribute in ATTRIBUTES}) == len(tags)


def test_no_two_keys_of_one_table_share_a_column():
    for levels in ((Level.PATIENT, Level.STUDY), (Level.SERIES,), (Level.INSTANCE,)):
        columns = [a.column for a in ATTRIBUTES if a.is_key and a.level in levels]
        assert len(columns) == len(set(columns))


@pytest.mark.parametrize("level", Level)
def test_what_is_returned_without_asking_is_the_list_of_the_standard(level):
    by_rule = {
        rule: {a.tag for a in by_level(level) if a.returned is rule} for rule in (Returned.ALWAYS, Returned.IF_PRESENT)
    }
    assert by_rule[Returned.ALWAYS] == ALWAYS_RETURNED[level]
    assert by_rule[Returned.IF_PRESENT] == RETURNED_IF_KNOWN[level]


def test_key_types_are_those_of_the_information_model():
    assert {a.keyword for a in ATTRIBUTES if a.key_type is KeyType.REQUIRED} == REQUIRED_KEYS
    assert {a.keyword for a in ATTRIBUTES if a.key_type is KeyType.UNIQUE} == UNIQUE_KEYS
    assert {a.keyword for a in ATTRIBUTES if a.is_key} >= SEARCH_KEYS


def test_every_attribute_a_viewer_includes_is_known():
    assert all(by_tag(tag) for tag in ASKED_BY_VIEWERS)


@pytest.mark.parametrize(
    ("keyword", "column"),
    [
        ("PatientName", "patient_name"),
        ("SOPInstanceUID", "sop_instance_uid"),
        ("IssuerOfPatientID", "issuer_of_patient_id"),
        ("OtherPatientIDs", "other_patient_ids"),
        ("SOPClassesInStudy", "sop_classes_in_study"),
        ("TimezoneOffsetFromUTC", "timezone_offset_from_utc"),
        ("MIMETypeOfEncapsulatedDocument", "mime_type_of_encapsulated_document"),
        ("AcquisitionDateTime", "acquisition_date_time"),
        ("RequestAttributesSequence.RequestedProcedureID", "requested_procedure_id"),
    ],
)
def test_a_column_is_the_keyword_in_snake_case(keyword, column):
    assert column_name(keyword) == column


@pytest.mark.parametrize(
    ("name", "tag"),
    [
        ("0020000D", "0020000D"),
        ("0020000d", "0020000D"),
        ("StudyInstanceUID", "0020000D"),
        ("00400275.00400009", "00400275.00400009"),
        ("RequestAttributesSequence.ScheduledProcedureStepID", "00400275.00400009"),
        ("00400275.ScheduledProcedureStepID", "00400275.00400009"),
        ("RequestAttributesSequence", "00400275"),
    ],
)
def test_a_query_names_an_attribute_by_tag_keyword_or_path(name, tag):
    attribute = by_tag(tag_path(name))
    assert attribute is not None
    assert attribute.tag == tag
    assert by_keyword(attribute.keyword) is attribute


@pytest.mark.parametrize(
    "name",
    ["", ".", "PATIENTID", "patientid", "Nonsense", "00100010.", "0010001", "ScheduledProcedureStepID", "７FE00010"],
)
def test_a_name_that_is_no_attribute_of_the_table_is_none(name):
    assert by_tag(tag_path(name)) is None


@pytest.mark.parametrize(
    ("element", "expected"),
    [
        (None, False),
        ({}, False),
        ({"vr": "LO"}, False),
        ({"vr": "LO", "Value": []}, False),
        ({"vr": "LO", "Value": [None, ""]}, False),
        ({"vr": "PN", "Value": [{}]}, False),
        ({"vr": "LO", "BulkDataURI": "x"}, False),
        ({"vr": "US", "Value": [0]}, True),
        ({"vr": "LO", "Value": [None, "A"]}, True),
    ],
)
def test_an_element_has_a_value_when_one_of_its_values_is_not_empty(element, expected):
    assert has_value(element) is expected


def test_level_attributes_picks_what_has_a_value_and_is_not_the_identity():
    kept = level_attributes(
        {
            "00080016": {"vr": "UI", "Value": ["1.2"]},
            "00080018": {"vr": "UI", "Value": ["1.2"]},
            "00080020": {"vr": "DA", "Value": ["20260101"]},
            "00080050": {"vr": "SH"},
            "00080060": {"vr": "CS", "Value": ["CT"]},
            "00080061": {"vr": "CS", "Value": ["CT"]},
            "00100010": {"vr": "PN", "Value": [{"Alphabetic": "A"}]},
            "00280010": {"vr": "US", "Value": [512]},
            "00104000": {"vr": "LT", "BulkDataURI": "somewhere"},
            "7FE00010": {"vr": "OW", "BulkDataURI": "somewhere"},
        }
    )
    assert {level: list(elements) for level, elements in kept.items()} == {
        Level.PATIENT: ["00100010"],
        Level.STUDY: ["00080020"],
        Level.SERIES: ["00080060"],
        Level.INSTANCE: ["00280010"],
    }


def test_of_a_request_only_its_keys_are_kept():
    item = {
        "00400009": {"vr": "SH", "Value": ["S1"]},
        "00400008": {"vr": "SQ", "Value": [{"00080100": {"vr": "SH", "Value": ["A" * 1000]}}]},
    }
    kept = level_attributes({"00400275": {"vr": "SQ", "Value": [item, {}]}})
    assert kept[Level.SERIES]["00400275"]["Value"] == [{"00400009": {"vr": "SH", "Value": ["S1"]}}, {}]


def test_computed_attributes_are_those_the_index_maintains():
    computed = {a.tag for a in ATTRIBUTES if a.is_computed}
    assert computed == {"00080061", "00080062", "00201206", "00201208", "00201209", "00083002"}
