"""Attributes as lines of JSON text: nothing is lost, no value is taken for a line end, and defaults stay defaults."""

from __future__ import annotations

import orjson
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from storage.attributes import ATTRIBUTES, Returned, by_keyword
from storage.index import fragments
from storage.index.fragments import _default_lines, attributes_text, read_attributes
from storage.index.sql import plan_of
from storage.matching import Match, Query
from storage.model import Level, Scope

ROWS = ((Level.PATIENT, Level.STUDY), (Level.SERIES,), (Level.INSTANCE,))
TEXTS = st.text(st.characters(exclude_categories=["Cs"]) | st.sampled_from(',\n\r"{}'))


def kept(*levels: Level):
    return [a for a in ATTRIBUTES if a.level in levels and not (a.is_computed or a.is_identity or a.is_nested)]


@st.composite
def rows(draw):
    levels = draw(st.sampled_from(ROWS))
    held = draw(st.lists(st.sampled_from(kept(*levels)), unique=True))
    return levels, {a.tag: {"vr": a.vr, "Value": draw(st.lists(TEXTS, min_size=1, max_size=2))} for a in held}


@given(rows())
def test_what_is_written_is_read_again(row):
    levels, attributes = row
    assert read_attributes(attributes_text(attributes, *levels)) == attributes


@example(
    ((Level.SERIES,), {"0008103E": {"vr": "LO", "Value": ['a, b,\nc,\rd,"']}, "00080070": {"vr": "LO", "Value": ["e"]}})
)
@given(rows())
def test_the_lines_are_the_elements_that_are_returned_by_default(row):
    levels, attributes = row
    expected = {
        a.tag: attributes.get(a.tag, {"vr": a.vr})
        for a in kept(*levels)
        if a.returned is Returned.ALWAYS or (a.returned is Returned.IF_PRESENT and a.tag in attributes)
    }
    lines = _default_lines(attributes_text(attributes, *levels))
    assert {line[1:9]: orjson.loads(f"{{{line}}}")[line[1:9]] for line in lines} == expected
    assert lines == sorted(lines)


def has_lines(level: Level, scope: Scope | None = None, include=frozenset(), **keys: str) -> bool:
    matches = []
    for keyword, text in keys.items():
        attribute = by_keyword(keyword)
        assert attribute is not None
        matches.append(Match.of(attribute, text))
    return fragments._has_lines(plan_of(Query(level, tuple(matches), scope, include)))


@pytest.mark.parametrize(
    ("level", "scope", "keys"),
    [
        (Level.STUDY, None, {}),
        (Level.STUDY, None, {"PatientID": "A"}),
        (Level.STUDY, None, {"PatientName": "A*", "StudyDate": "20260101-", "ModalitiesInStudy": "CT"}),
        (Level.SERIES, Scope("1.2"), {"Modality": "CT"}),
        (Level.SERIES, None, {"SeriesInstanceUID": "1.2"}),
        (Level.INSTANCE, Scope("1.2", "1.3"), {}),
        (Level.INSTANCE, Scope("1.2"), {"InstanceNumber": "1"}),
        (Level.INSTANCE, None, {}),
        (Level.SERIES, Scope("1.2"), {"PatientID": "A", "SeriesDescription": ""}),
    ],
)
def test_searches_that_are_asked_most_are_answered_from_lines(level, scope, keys):
    assert has_lines(level, scope, **keys)


@pytest.mark.parametrize(
    ("level", "scope", "include", "keys"),
    [
        (Level.PATIENT, None, frozenset(), {}),
        (Level.STUDY, None, frozenset(("00101010",)), {}),
        (Level.STUDY, None, "all", {}),
        (Level.STUDY, None, frozenset(), {"IssuerOfPatientID": "A"}),
    ],
)
def test_what_has_no_lines_is_not_answered_from_lines(level, scope, include, keys):
    assert not has_lines(level, scope, include, **keys)


def test_long_texts_of_strangers_are_not_kept_in_memory():
    before = fragments._recent_attributes.cache_info().currsize
    for number in range(20):
        read = fragments.read_attributes(f'{{"00104000":{{"Value":["{number}{"x" * (64 << 10)}"],"vr":"LT"}}}}')
        assert len(read["00104000"]["Value"][0]) > 64 << 10
    assert fragments._recent_attributes.cache_info().currsize == before
    short = '{"00100010":{"vr":"PN"},"00100020":{"Value":["P"],"vr":"LO"}}'
    assert fragments.read_attributes(short) == {"00100020": {"Value": ["P"], "vr": "LO"}}
    assert fragments.read_attributes(short) is fragments.read_attributes(short)
