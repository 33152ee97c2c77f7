"""An Identifier becomes a Query: the rules of C-FIND that need no archive."""

import base64

import pytest

from gateway.dimse.contexts import PATIENT_ROOT_FIND, PATIENT_STUDY_ONLY_FIND, STUDY_ROOT_FIND
from gateway.dimse.models import MODELS, Extended
from gateway.dimse.query_keys import Key, read_query
from storage.attributes import extended_by
from storage.errors import BadQuery
from storage.extended import read_extended
from storage.matching import MatchKind
from storage.model import Level, Scope

RELATIONAL = Extended(is_relational=True)


def keys(level, **values):
    found = {} if level is None else {"00080052": {"vr": "CS", "Value": [level]}}
    for name, value in values.items():
        found[name.removeprefix("t")] = value
    return found


def element(vr, *values):
    return {"vr": vr, "Value": list(values)} if values else {"vr": vr}


def read(elements, extended=None, model=STUDY_ROOT_FIND):
    return read_query(dict(sorted(elements.items())), 64, MODELS[model], extended)


@pytest.mark.parametrize("level", [None, "", "PATIENT", "INSTANCE", "study", "WORKLIST"])
def test_a_level_that_is_missing_or_unknown_is_refused_with_its_tag(level):
    with pytest.raises(BadQuery) as raised:
        read(keys(level))
    assert raised.value.tag == "00080052"


@pytest.mark.parametrize(
    ("name", "level"), [("STUDY", Level.STUDY), ("SERIES", Level.SERIES), ("IMAGE", Level.INSTANCE)]
)
def test_the_levels_of_the_study_root(name, level):
    asked = read(keys(name, t0020000D=element("UI", "1.2"), t0020000E=element("UI", "1.3")))
    assert asked.query.level is level


def test_keys_with_and_without_values_are_matched_and_returned():
    asked = read(keys("STUDY", t00100010=element("PN", {"Alphabetic": "DOE*"}), t00081030=element("LO")))
    assert [(match.attribute.keyword, match.kind) for match in asked.query.matches] == [
        ("PatientName", MatchKind.WILDCARD)
    ]
    assert asked.keys == {"00100010": Key("PN"), "00081030": Key("LO")}
    assert asked.query.include == {"00100010", "00081030"}
    assert asked.is_complete


@pytest.mark.parametrize("level", ["SERIES", "IMAGE"])
@pytest.mark.parametrize("value", [(), ("1.2", "1.3"), ("*",), ("1.2.*",), ("1..2",)], ids=str)
def test_unique_keys_above_the_level_must_be_single_values(level, value):
    with pytest.raises(BadQuery) as raised:
        read(keys(level, t0020000D=element("UI", *value)))
    assert raised.value.tag == "0020000D"


def test_a_relational_query_may_leave_unique_keys_open_or_list_them():
    asked = read(keys("IMAGE", t00080018=element("UI", "1.5")), RELATIONAL)
    assert asked.query.scope is None
    assert [match.attribute.keyword for match in asked.query.matches] == ["SOPInstanceUID"]
    asked = read(keys("SERIES", t0020000D=element("UI", "1.2", "1.3")), RELATIONAL)
    assert [match.kind for match in asked.query.matches] == [MatchKind.LIST]


def test_unique_keys_above_the_level_are_the_scope_and_are_returned():
    asked = read(keys("IMAGE", t0020000D=element("UI", "1.2"), t0020000E=element("UI", "1.3")))
    assert asked.query.scope == Scope("1.2", "1.3")
    assert asked.query.matches == ()
    assert set(asked.keys) == {"0020000D", "0020000E"}


@pytest.mark.parametrize(
    ("tag", "value"),
    [
        ("00080060", element("CS", "CT")),
        ("00200013", element("IS", 1)),
        ("00091001", element("UN")),
        ("00090010", element("LO", "PRIVATE")),
        ("00189004", element("CS")),
        ("00102160", element("SH", "value that cannot be matched")),
        ("00400275", element("SQ", {"00400009": element("SH", "S1")})),
    ],
)
def test_keys_of_no_use_at_the_level_are_ignored_and_said_to_be(tag, value):
    asked = read(keys("STUDY", **{f"t{tag}": value}))
    assert asked.query.matches == ()
    assert not asked.is_complete


@pytest.mark.parametrize("tag", ["00080005", "00080201", "00080054", "00080056"])
def test_what_describes_the_identifier_is_no_key(tag):
    asked = read(keys("STUDY", **{f"t{tag}": element("CS", "ISO_IR 100")}))
    assert asked.keys == {}
    assert asked.is_complete


@pytest.mark.parametrize(
    "element",
    [
        {"vr": "UL", "Value": [4]},
        {"vr": "UN", "BulkDataURI": "somewhere"},
        {"vr": "UN", "InlineBinary": "AAEC"},
        {"vr": "SQ", "Value": [{}, {}]},
        {"vr": "SQ", "Value": [{"00100020": {"vr": "LO", "Value": ["P1"]}}]},
        {"vr": "SQ", "Value": [{}]},
    ],
)
@pytest.mark.parametrize("tag", ["00080000", "00090000", "00091001", "0009002D"])
def test_group_lengths_and_private_keys_are_ignored_whatever_they_hold(tag, element):
    asked = read(keys("STUDY", **{f"t{tag}": element}))
    assert (asked.keys, asked.query.matches, asked.is_complete) == ({}, (), False)


def unknown(text):
    return {"vr": "UN", "InlineBinary": base64.b64encode(text).decode()}


PRIVATE = read_extended(["00191008/ACME:LO@study", "00211001:IS@study"])


@pytest.mark.parametrize("creator", [None, element("LO"), element("LO", "ACME")])
@pytest.mark.parametrize("value", [element("LO", "H\xc4*"), unknown("HÄ* ".encode())])
def test_a_private_key_is_matched_by_its_vr_with_its_creator_or_without(value, creator):
    said = {"t00080005": element("CS", "ISO_IR 192"), "t00191008": value, "t00211001": unknown(b" 07 ")}
    with extended_by(PRIVATE):
        asked = read(keys("STUDY", **said, **({"t00190010": creator} if creator else {})))
        assert [(m.attribute.tag, m.kind) for m in asked.query.matches] == [
            ("00191008", MatchKind.WILDCARD),
            ("00211001", MatchKind.SINGLE),
        ]
        assert asked.query.matches[0].accepts(element("LO", "HÄLS"))
        assert asked.query.matches[1].accepts(element("IS", 7))
        assert asked.is_complete
    assert asked.creators == ({"00190010": element("LO", "ACME")} if creator else {})
    assert asked.keys == {"00191008": Key("LO"), "00211001": Key("IS")}


def test_a_private_key_of_another_creator_is_not_ours():
    with extended_by(PRIVATE):
        asked = read(keys("STUDY", t00190010=element("LO", "OTHER"), t00191008=element("LO", "X")))
    assert (asked.keys, asked.query.matches, asked.creators, asked.is_complete) == ({}, (), {}, False)


def test_a_sequence_with_an_empty_item_is_wanted_whole():
    asked = read(keys("SERIES", t0020000D=element("UI", "1.2"), t00400275=element("SQ", {})))
    assert asked.keys["00400275"] == Key("SQ")
    assert (asked.query.matches, asked.is_complete) == ((), True)


def test_a_key_in_a_sequence_is_matched_in_its_items():
    asked = read(
        keys(
            "SERIES",
            t0020000D=element("UI", "1.2"),
            t00400275=element("SQ", {"00400009": element("SH", "S1"), "00401001": element("SH")}),
        )
    )
    assert [match.attribute.keyword for match in asked.query.matches] == [
        "RequestAttributesSequence.ScheduledProcedureStepID"
    ]
    assert asked.keys["00400275"] == Key("SQ", frozenset(("00400009", "00401001")))
    assert asked.is_complete


@pytest.mark.parametrize(
    ("tag", "value"),
    [
        ("00080020", element("DA", "2020")),
        ("00080030", element("TM", "99")),
        ("0020000D", element("UI", "1.2.x")),
        ("00100020", element("LO", "x" * 300)),
        ("00100020", {"vr": "LO", "BulkDataURI": "somewhere"}),
        ("00100020", {"vr": "UN", "InlineBinary": "UDE="}),
        ("00100010", element("PN", {"Alphabetic": "a*b*c*d*e*f*g*h*i*j"})),
    ],
)
def test_values_that_cannot_be_matched_are_refused_with_their_tag(tag, value):
    with pytest.raises(BadQuery) as raised:
        read(keys("STUDY", **{f"t{tag}": value}))
    assert raised.value.tag == tag


def test_a_sequence_of_two_items_is_refused_with_its_tag():
    with pytest.raises(BadQuery) as raised:
        read(keys("SERIES", t0020000D=element("UI", "1.2"), t00400275=element("SQ", {}, {})))
    assert raised.value.tag == "00400275"


def test_too_many_keys_are_refused_with_the_first_that_is_too_many():
    many = {f"t0010{number:04X}": element("LO") for number in range(1, 70)}
    with pytest.raises(BadQuery) as raised:
        read(keys("STUDY", **many))
    assert raised.value.tag == "00100040"


@pytest.mark.parametrize(
    ("model", "name", "above"),
    [
        (PATIENT_ROOT_FIND, "PATIENT", []),
        (PATIENT_ROOT_FIND, "STUDY", ["00100020"]),
        (PATIENT_ROOT_FIND, "SERIES", ["00100020", "0020000D"]),
        (PATIENT_ROOT_FIND, "IMAGE", ["00100020", "0020000D", "0020000E"]),
        (STUDY_ROOT_FIND, "STUDY", []),
        (STUDY_ROOT_FIND, "SERIES", ["0020000D"]),
        (STUDY_ROOT_FIND, "IMAGE", ["0020000D", "0020000E"]),
        (PATIENT_STUDY_ONLY_FIND, "PATIENT", []),
        (PATIENT_STUDY_ONLY_FIND, "STUDY", ["00100020"]),
    ],
)
def test_each_unique_key_above_the_level_is_needed_in_each_model(model, name, above):
    given = {"00100020": element("LO", "P1"), "0020000D": element("UI", "1.2"), "0020000E": element("UI", "1.3")}
    complete = keys(name, **{f"t{tag}": given[tag] for tag in above})
    assert read(complete, model=model).level_name == name
    for tag in above:
        lacking = {other: value for other, value in complete.items() if other != tag}
        with pytest.raises(BadQuery) as raised:
            read(lacking, model=model)
        assert raised.value.tag == tag
        assert read(lacking, RELATIONAL, model).level_name == name


@pytest.mark.parametrize(
    ("model", "name"),
    [
        (STUDY_ROOT_FIND, "PATIENT"),
        (PATIENT_STUDY_ONLY_FIND, "SERIES"),
        (PATIENT_STUDY_ONLY_FIND, "IMAGE"),
        (PATIENT_ROOT_FIND, "INSTANCE"),
    ],
)
def test_a_level_of_another_model_is_refused(model, name):
    with pytest.raises(BadQuery) as raised:
        read(keys(name), RELATIONAL, model)
    assert raised.value.tag == "00080052"


@pytest.mark.parametrize("value", [(), ("",), ("*",), ("P?",), ("P1", "P2"), ('""',)], ids=str)
def test_the_patient_above_a_level_must_be_a_single_one(value):
    extended = Extended(has_empty_values=True, has_multiple_values=True)
    with pytest.raises(BadQuery) as raised:
        read(keys("STUDY", t00100020=element("LO", *value)), extended, PATIENT_ROOT_FIND)
    assert raised.value.tag == "00100020"


def test_the_patient_above_a_level_is_matched_and_returned():
    asked = read(keys("STUDY", t00100020=element("LO", "P1")), model=PATIENT_ROOT_FIND)
    assert [(match.attribute.keyword, match.kind) for match in asked.query.matches] == [("PatientID", MatchKind.SINGLE)]
    assert set(asked.keys) == {"00100020"}


@pytest.mark.parametrize(
    ("extended", "value", "kind"),
    [
        (Extended(), '""', MatchKind.SINGLE),
        (Extended(has_empty_values=True), '""', MatchKind.EMPTY),
        (Extended(), "A\\B", MatchKind.SINGLE),
        (Extended(has_multiple_values=True), "A\\B", MatchKind.LIST),
    ],
)
def test_empty_and_multiple_values_are_matched_where_they_were_negotiated(extended, value, kind):
    asked = read(keys("STUDY", t00080050=element("SH", *value.split("\\"))), extended)
    assert [match.kind for match in asked.query.matches] == [kind]
