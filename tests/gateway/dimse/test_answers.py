"""Identifiers of answers, held against pydicom, and against the writer of any Identifier."""

import orjson
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from gateway.dimse import identifier
from gateway.dimse.answers import Answers
from gateway.dimse.query_keys import Asked, Key
from storage.matching import Query
from storage.model import Level
from storage.uids import EXPLICIT_VR_LITTLE_ENDIAN, IMPLICIT_VR_LITTLE_ENDIAN
from tests.gateway.dimse.test_identifier import SETS, SYNTAXES, YAMADA, read_by_pydicom

SAID = {"00080052": "STUDY", "00080054": "GATEWAY", "00080056": "ONLINE"}


def encoded(made, *stored):
    """Identifiers of answers, which the index gives as lines."""
    return made.encode(
        [[_line(tag, elements[tag]) if tag in elements else "" for tag in made.tags] for elements in stored]
    )


def _line(tag, element):
    return f'"{tag}":{orjson.dumps(element, option=orjson.OPT_SORT_KEYS).decode()}'


def answers(keys, character_set="", creators=None, syntax=EXPLICIT_VR_LITTLE_ENDIAN):
    asked = Asked(Query(Level.STUDY), "STUDY", keys, character_set, is_complete=True, creators=creators or {})
    return Answers(asked, "GATEWAY", syntax)


def told(data_set):
    """What an Identifier says beside the keys."""
    return {f"{element.tag:08X}": element.value for element in data_set if f"{element.tag:08X}" in SAID}


@pytest.mark.parametrize("syntax", SYNTAXES)
def test_an_answer_holds_what_was_asked_empty_where_unknown_and_where_to_retrieve(syntax):
    keys = {
        "00100010": Key("PN"),
        "00081030": Key("LO"),
        "0020000D": Key("UI"),
        "00201208": Key("IS"),
        "00100020": Key("LO"),
    }
    stored = {
        "0020000D": {"vr": "UI", "Value": ["1.2"]},
        "00100010": {"vr": "PN", "Value": [{"Alphabetic": "A^B"}]},
        "00080020": {"vr": "DA", "Value": ["20200101"]},
        "00100020": {"vr": "LO"},
        "00201208": {"vr": "IS", "Value": [12]},
    }
    (answer,) = encoded(answers(keys, syntax=syntax), stored)
    found = read_by_pydicom(answer, syntax)
    assert told(found) == SAID
    assert (found.StudyInstanceUID, found.PatientName, found.NumberOfStudyRelatedInstances) == ("1.2", "A^B", 12)
    assert found["StudyDescription"].is_empty
    assert found["PatientID"].is_empty
    assert [element.tag for element in found] == sorted(int(tag, 16) for tag in SAID.keys() | keys.keys())


def test_several_values_and_every_usual_vr_are_read_by_another_library():
    stored = {
        "00080061": {"vr": "CS", "Value": ["CT", "SR", "PR"]},
        "00080030": {"vr": "TM", "Value": ["101112.5"]},
        "00101001": {"vr": "PN", "Value": [{"Alphabetic": "A^B"}, YAMADA]},
        "00101030": {"vr": "DS", "Value": [70.5]},
        "00104000": {"vr": "LT", "Value": ['said "so",\r\nand \\ left']},
        "001021C0": {"vr": "US", "Value": [4]},
        "00080062": {"vr": "UI", "Value": ["1.2.3", "1.2.4"]},
        "00080008": {"vr": "CS", "Value": ["ORIGINAL", None, "AXIAL"]},
    }
    keys = {tag: Key(element["vr"]) for tag, element in stored.items()}
    (answer,) = encoded(answers(keys, "ISO_IR 192"), stored)
    found = read_by_pydicom(answer, EXPLICIT_VR_LITTLE_ENDIAN)
    assert found.ModalitiesInStudy == ["CT", "SR", "PR"]
    assert found.StudyTime == "101112.5"
    assert [str(name) for name in found.OtherPatientNames] == ["A^B", "=".join(YAMADA.values())]
    assert found.PatientWeight == 70.5
    assert found.PatientComments == 'said "so",\r\nand \\ left'
    assert found.PregnancyStatus == 4
    assert found.SOPClassesInStudy == ["1.2.3", "1.2.4"]
    assert found.ImageType == ["ORIGINAL", "", "AXIAL"]


def test_items_hold_what_was_asked_of_them():
    item = {"00400009": {"vr": "SH", "Value": ["S1"]}, "00401001": {"vr": "SH", "Value": ["P1"]}}
    stored = {"00400275": {"vr": "SQ", "Value": [item, {}]}}
    (answer,) = encoded(answers({"00400275": Key("SQ", frozenset(("00400009",)))}), stored)
    found = read_by_pydicom(answer, EXPLICIT_VR_LITTLE_ENDIAN)
    assert [list(one.to_json_dict()) for one in found.RequestAttributesSequence] == [["00400009"], []]


def test_the_time_zone_is_told_where_there_is_one():
    zoned = {"00080201": {"vr": "SH", "Value": ["+0200"]}}
    found = [read_by_pydicom(one, EXPLICIT_VR_LITTLE_ENDIAN) for one in encoded(answers({}), zoned, {})]
    assert [one.get("TimezoneOffsetFromUTC") for one in found] == ["+0200", None]


def test_creators_of_private_keys_are_said_again_in_the_set_of_the_answer():
    creators = {"00190010": {"vr": "LO", "Value": ["ACMÉ"]}}
    made = answers({"00191008": Key("LO")}, "ISO_IR 100", creators)
    (answer,) = encoded(made, {"00191008": {"vr": "LO", "Value": ["HÄLS"]}})
    found = read_by_pydicom(answer, EXPLICIT_VR_LITTLE_ENDIAN)
    assert found.SpecificCharacterSet == "ISO_IR 100"
    assert (found[0x00190010].value, found[0x00191008].value) == ("ACMÉ", "HÄLS")


def test_each_answer_has_the_character_set_that_it_needs():
    names = ["Doe^Jane", "Müller^Jörg", "Διονυσιος", "Doe^John"]
    stored = [{"00100010": {"vr": "PN", "Value": [{"Alphabetic": name}]}} for name in names]
    found = encoded(answers({"00100010": Key("PN")}, "ISO_IR 100"), *stored)
    read = [read_by_pydicom(one, EXPLICIT_VR_LITTLE_ENDIAN) for one in found]
    assert [str(one.PatientName) for one in read] == names
    assert [one.get("SpecificCharacterSet") for one in read] == [None, "ISO_IR 100", "ISO_IR 192", None]


_TEXT = st.text(st.characters(exclude_categories=["Cs"]) | st.sampled_from('",\\\n\x1b=^aé山'), max_size=12)
_VALUES = {
    "PN": st.dictionaries(st.sampled_from(list(YAMADA)), _TEXT),
    "IS": st.integers(-(2**40), 2**40) | _TEXT,
    "DS": st.floats() | _TEXT,
    "US": st.integers(-1, 70_000),
}
_KEYS = {
    "00080001": "UL",
    "00080020": "DA",
    "00080060": "CS",
    "0008103E": "LO",
    "00100010": "PN",
    "00200011": "IS",
    "0020000D": "UI",
    "00101030": "DS",
    "00104000": "LT",
    "001021C0": "US",
}


@st.composite
def stored_elements(draw):
    found = {}
    for tag in draw(st.lists(st.sampled_from(list(_KEYS)), unique=True)):
        vr = draw(st.sampled_from([_KEYS[tag], _KEYS[tag], "LO"]))
        values = draw(st.lists(st.none() | _VALUES.get(vr, _TEXT), max_size=3))
        found[tag] = {"vr": vr, "Value": values} if values else {"vr": vr}
    return found


@example({"0008103E": {"vr": "LO", "Value": ["x" * 70_000]}}, "", EXPLICIT_VR_LITTLE_ENDIAN)
@example({"0008103E": {"vr": "LO", "Value": ['a","b']}}, "", EXPLICIT_VR_LITTLE_ENDIAN)
@example({"0008103E": {"vr": "LO", "Value": ["a", "b"]}}, "", IMPLICIT_VR_LITTLE_ENDIAN)
@example(
    {"00100010": {"vr": "PN", "Value": [{"Alphabetic": "山", "Ideographic": "山"}]}}, "", IMPLICIT_VR_LITTLE_ENDIAN
)
@example({"00200011": {"vr": "IS", "Value": [1, 2]}}, "", EXPLICIT_VR_LITTLE_ENDIAN)
@given(stored_elements(), st.sampled_from(SETS), st.sampled_from(SYNTAXES))
def test_whatever_is_stored_an_answer_is_what_any_identifier_of_it_would_be(stored, character_set, syntax):
    expected = {tag: {"vr": "CS" if tag != "00080054" else "AE", "Value": [value]} for tag, value in SAID.items()}
    expected |= {tag: stored.get(tag, {"vr": vr}) for tag, vr in _KEYS.items()}
    made = answers({tag: Key(vr) for tag, vr in _KEYS.items()}, character_set, syntax=syntax)
    assert encoded(made, _through_json(stored)) == [identifier.encode(_through_json(expected), syntax, character_set)]


def _through_json(elements):
    """As the index holds it: JSON has no numbers that are none."""
    return orjson.loads(orjson.dumps(elements))
