"""What is asked for, read from words; and values found in answers of any shape."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.query.failures import BadUsage
from gateway.query.search import Field, Search, read_field, read_includes, read_keys
from storage.model import Level

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.sampled_from(["vr", "Value", "00100010", "Alphabetic"]), inner),
)


@pytest.mark.parametrize("name", ["PatientName", "00100010", "0010,0010", "(0010,0010)"])
def test_an_attribute_is_named_by_keyword_or_tag(name):
    assert read_field(name) == Field(("00100010",))
    assert read_field(name).name == "PatientName"


def test_a_path_and_a_private_tag_are_fields_too():
    field = read_field("RequestAttributesSequence.00400009")
    assert field.tags == ("00400275", "00400009")
    assert field.name == "RequestAttributesSequence.ScheduledProcedureStepID"
    assert read_field("0029ab10").name == "0029AB10"


def test_keys_have_values_or_are_to_be_returned():
    keys, returned = read_keys(
        ["PatientName=doe*", "PatientComments=a=b", "StudyID=", "OtherPatientNames=水野\u3000遥"]
    )
    assert keys == {
        read_field("PatientName"): "doe*",
        read_field("PatientComments"): "a=b",
        read_field("OtherPatientNames"): "水野\u3000遥",
    }
    assert returned == (read_field("StudyID"),)


@pytest.mark.parametrize(
    ("words", "phrase"),
    [
        (["PatientNam=x"], "Did you mean PatientName?"),
        (["limit=5"], "'limit' is no attribute"),
        (["localhost:8080"], "neither KEY=VALUE nor a server"),
        (["=x"], "is no attribute"),
        (["PatientName=a", "00100010=b"], "twice"),
        (["PatientName=a", "PatientName="], "twice"),
        (["PatientName=\x1b"], "control characters"),
        (["PatientName=\n"], "control characters"),
        (["PatientName=\udcff"], "control characters"),
        (["PatientName=" + "x" * 1025], "too long"),
    ],
)
def test_what_makes_no_sense_is_told(words, phrase):
    with pytest.raises(BadUsage) as raised:
        read_keys(words)
    assert phrase in raised.value.reason


def test_includes_have_commas_between_or_come_again():
    fields, includes_all = read_includes(
        ["StudyID, 0010,0010,PatientAge".replace("0010,0010", "00100010"), "0010,1020"]
    )
    assert [field.name for field in fields] == ["StudyID", "PatientName", "PatientAge", "PatientSize"]
    assert not includes_all
    assert read_includes(["all"]) == ((), True)


def test_columns_are_the_usual_ones_then_keys_and_includes_once_each():
    keys, _ = read_keys(["PatientName=x", "StudyID=1"])
    search = Search(Level.STUDY, keys, (read_field("PatientAge"), read_field("StudyDate")))
    names = [field.name for field in search.columns]
    assert names[:2] == ["PatientID", "PatientName"]
    assert names[-2:] == ["StudyID", "PatientAge"]
    assert len(names) == len(set(names))


def test_values_are_found_at_the_top_and_in_items():
    answer = {
        "00100010": {"vr": "PN", "Value": [{"Alphabetic": "A^B", "Phonetic": "C"}, None]},
        "00101020": {"vr": "DS", "Value": [1.0, 1.5]},
        "00400275": {"vr": "SQ", "Value": [{"00400009": {"vr": "SH", "Value": ["x"]}}, {}]},
    }
    assert read_field("PatientName").texts(answer) == ["A^B==C", ""]
    assert read_field("PatientSize").texts(answer) == ["1", "1.5"]
    assert read_field("00400275.00400009").texts(answer) == ["x"]
    assert read_field("00400275").texts(answer) == ["(item)", "(item)"]
    assert read_field("StudyID").texts(answer) == []


@given(JSON)
def test_no_shape_of_an_answer_breaks_it(element):
    for field in (Field(("00100010",)), Field(("00400275", "00100010"))):
        texts = field.texts({field.tags[0]: element})
        assert all(isinstance(text, str) for text in texts)
