"""What a key of a query means: PS3.4 §C.2.2.2, one table for each kind of value, and what is refused."""

from __future__ import annotations

import fnmatch
import re
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from storage.attributes import ATTRIBUTES, Attribute, KeyType, Returned, by_keyword
from storage.errors import BadQuery
from storage.matching import MAXIMUM_WORDS, Between, Exactly, Like, Match, MatchKind, Query
from storage.model import Level
from tests.fix_index import element

KEYS = [attribute for attribute in ATTRIBUTES if attribute.is_key]


def key(keyword: str) -> Attribute:
    attribute = by_keyword(keyword)
    assert attribute is not None
    return attribute


def accepts(keyword: str, asked: str, *values: object, **options: bool) -> bool:
    held = element(keyword, *values)[1]
    return Match.of(key(keyword), asked, **options).accepts(held)


TEXT = [
    # asked, held, whether it matches
    ("A", "A", True),
    (" A ", "A", True),
    ("A", " A ", True),
    ("A", "a", False),
    ("A", "AB", False),
    ("A*", "AB", True),
    ("*B", "AB", True),
    ("*x*", "AxB", True),
    ("A?", "AB", True),
    ("A?", "A", False),
    ("?", "é", True),
    ("?", "日", True),
    ("A**B", "AB", True),
    ("100%", "100%", True),
    ("100%", "1000", False),
    ("a_c", "abc", False),
    ("[A]*", "[A]1", True),
    ("[A]*", "A1", False),
    ("a\\b", "a\\b", True),
    ("é", "é", True),  # composed and decomposed
    ("''", "", False),
    ('"', '"', True),
]


@pytest.mark.parametrize(("asked", "held", "expected"), TEXT)
def test_text_is_compared_with_its_case_without_padding_and_with_two_wildcards(asked, held, expected):
    assert accepts("StudyDescription", asked, held) is expected


NAMES = [
    ("Doe^Jane", "Doe^Jane", True),
    ("doe^JANE", "Doe^Jane", True),
    ("Doe", "Doe^^^", True),
    ("Doe^^^", "Doe", True),
    ("Doe", "Doe^Jane", False),
    ("Doe^*", "Doe", True),
    ("Doe^*^*", "Doe", True),
    ("Doe*^*", "Doerr", True),
    ("Doe^*", "Doe^Jane", True),
    ("Doe^*", "Doerr", False),
    ("Doe*", "Doerr^A", True),
    ("*jane", "Doe^Jane", True),
    ("Doe ^ Jane", "Doe^Jane", True),
    ("STRASSE", "Straße", True),
    ("ΠΑΠΠΑΣ", "παππας", True),
    ("Yamada*", {"Alphabetic": "Yamada^Tarou", "Ideographic": "山田^太郎"}, True),
    ("山田*", {"Alphabetic": "Yamada^Tarou", "Ideographic": "山田^太郎"}, True),
    ("やまだ^たろう", {"Alphabetic": "Yamada", "Phonetic": "やまだ^たろう"}, True),
    ("Yamada=山田*", {"Alphabetic": "Yamada", "Ideographic": "山田^太郎"}, True),
    ("Yamada=佐藤*", {"Alphabetic": "Yamada", "Ideographic": "山田^太郎"}, False),
    ("=山田*", {"Alphabetic": "Yamada", "Ideographic": "山田^太郎"}, True),
    ("=Yamada*", {"Alphabetic": "Yamada", "Ideographic": "山田^太郎"}, False),
    ("*=*", "anybody", True),
    ("Doe", {}, False),
]


@pytest.mark.parametrize(("asked", "held", "expected"), NAMES)
def test_names_are_folded_and_each_component_group_is_tried(asked, held, expected):
    assert accepts("PatientName", asked, held) is expected


NUMBERS = [
    ("1", "01", True),
    ("01", 1, True),
    ("1.0", 1, True),
    ("+1", 1, True),
    ("1", "2", False),
    ("1", 1.5, False),
    ("1", "one", False),
    ("1000000", 1e6, True),
    ("-0", 0, True),
    ("123456789012345678901234567890", "123456789012345678901234567890", True),
]


@pytest.mark.parametrize(("asked", "held", "expected"), NUMBERS)
def test_numbers_are_compared_by_value(asked, held, expected):
    assert accepts("SeriesNumber", asked, held) is expected


DATES = [
    ("20260102", "20260102", True),
    ("2026.01.02", "20260102", True),
    ("20260102", "2026.01.02", True),
    ("20260101-20260131", "20260131", True),
    ("20260101-20260131", "20260201", False),
    ("20260201-20260231", "20260228", True),
    ("-20260131", "20260101", True),
    ("-20260131", "20260201", False),
    ("20260101-", "20991231", True),
    ("20260101 - 20260131", "20260110", True),
    ("2026.01.01-2026.01.31", "20260110", True),
    ("20260101-", "unknown", False),
    ("*", "unknown", True),
]


@pytest.mark.parametrize(("asked", "held", "expected"), DATES)
def test_dates_match_as_values_and_ranges_also_in_the_older_form(asked, held, expected):
    assert accepts("StudyDate", asked, held) is expected


TIMES = [
    ("101500", "101500", True),
    ("10", "101500", True),
    ("1015", "101559.999999", True),
    ("1015", "1016", False),
    ("10:15:00", "101500.5", True),
    ("101500.5", "10:15:00.5", True),
    ("101500", "10", False),
    ("09-10", "105959", True),
    ("-10", "000000", True),
    ("23-", "235960", True),
    ("23", "235960.5", True),
    ("2359", "235960", True),
    ("-2359", "235960", True),
    ("2359", "000000", False),
    ("2200-0200", "2300", True),
    ("2200-0200", "0130", True),
    ("2200-0200", "1200", False),
    ("10", "noon", False),
]


@pytest.mark.parametrize(("asked", "held", "expected"), TIMES)
def test_times_stand_for_their_interval_and_may_go_over_midnight(asked, held, expected):
    assert accepts("StudyTime", asked, held) is expected


DATE_TIMES = [
    ("20260102", "20260102101500", True),
    ("2026", "20261231235959.5", True),
    ("202602", "20260301", False),
    ("20260102100000+0100", "20260102090000+0000", True),
    ("20260102100000-0500", "20260102150000", True),
    ("20260102100000-20260102120000", "20260102110000", True),
    ("20260102-0500-20260103-0500", "20260103", True),
    ("2026-0500-", "2027", True),
    ("-2025", "2026", False),
    ("20260102-", "99991231", True),
]


@pytest.mark.parametrize(("asked", "held", "expected"), DATE_TIMES)
def test_date_times_with_an_offset_are_no_ranges_and_are_compared_in_utc(asked, held, expected):
    assert accepts("AcquisitionDateTime", asked, held) is expected


@pytest.mark.parametrize(
    ("keyword", "asked", "held", "expected"),
    [
        ("StudyInstanceUID", "1.2", ["1.2"], True),
        ("StudyInstanceUID", "1.2\\1.3", ["1.3"], True),
        ("StudyInstanceUID", "1.2,1.3", ["1.3"], True),
        ("StudyInstanceUID", "1.2", ["1.20"], False),
        ("StudyInstanceUID", "*", ["1.20"], True),
        ("ModalitiesInStudy", "CT", ["CT", "SR"], True),
        ("ModalitiesInStudy", "CT,MR", ["MR"], True),
        ("ModalitiesInStudy", "CT\\MR", ["CT"], True),
        ("ModalitiesInStudy", "C*", ["MR", "CR"], True),
        ("ModalitiesInStudy", "CT,MR", ["US"], False),
        ("Modality", "CT,MR", ["MR"], True),
    ],
)
def test_uids_and_codes_may_be_listed_with_backslash_or_comma(keyword, asked, held, expected):
    assert accepts(keyword, asked, *held) is expected


def test_every_value_of_an_element_is_searched():
    assert accepts("StudyDescription", "B", "A", None, "B")
    assert not accepts("StudyDescription", "A*B", "A", "B")


@pytest.mark.parametrize("attribute", KEYS, ids=lambda attribute: attribute.keyword)
@pytest.mark.parametrize("asked", ["", "  ", "*", "**", "\\"])
def test_an_empty_value_and_a_lone_asterisk_match_everything(attribute, asked):
    if asked == "\\" and attribute.vr not in ("CS", "UI"):
        asked = "*"
    match = Match.of(attribute, asked)
    assert match.kind is MatchKind.UNIVERSAL
    assert match.accepts(None)
    assert match.accepts({"vr": attribute.vr})


@pytest.mark.parametrize("attribute", KEYS, ids=lambda attribute: attribute.keyword)
def test_two_quotation_marks_ask_for_no_value_where_that_is_agreed(attribute):
    match = Match.of(attribute, '""', empty=True)
    assert match.kind is MatchKind.EMPTY
    assert match.accepts(None)
    assert match.accepts({"vr": attribute.vr})
    assert not Match.of(key("PatientID"), '""', empty=True).accepts({"vr": "LO", "Value": ["1"]})


def test_several_values_of_text_are_separated_only_where_that_is_agreed():
    assert accepts("AccessionNumber", "A\\B", "B", multiple=True)
    assert not accepts("AccessionNumber", "A\\B", "B")


def test_a_key_of_a_sequence_is_found_in_any_item():
    items = [{"00400009": {"vr": "SH", "Value": ["S1"]}}, {"00400009": {"vr": "SH", "Value": ["S2"]}}]
    match = Match.of(key("RequestAttributesSequence.ScheduledProcedureStepID"), "S2")
    assert match.accepts({"vr": "SQ", "Value": items})
    assert not match.accepts({"vr": "SQ", "Value": items[:1]})
    assert not match.accepts({"vr": "SQ", "Value": [{}]})


@pytest.mark.parametrize(
    ("keyword", "asked"),
    [
        ("StudyDate", "20201399"),
        ("StudyDate", "2020-13-99"),
        ("StudyDate", "2020-01-02"),
        ("StudyDate", "2020"),
        ("StudyDate", "-"),
        ("StudyDate", "20200102-20200101"),
        ("StudyDate", "2020010*"),
        ("StudyDate", "２０２００１０１"),
        ("StudyTime", "2500"),
        ("StudyTime", "10-99"),
        ("StudyTime", "-"),
        ("AcquisitionDateTime", "20260231"),
        ("AcquisitionDateTime", "2026-2025"),
        ("SeriesNumber", "one"),
        ("SeriesNumber", "NaN"),
        ("SeriesNumber", "1*"),
        ("SeriesNumber", "Infinity"),
        ("StudyInstanceUID", "1.2.*"),
        ("StudyInstanceUID", "1.2.a"),
        ("StudyInstanceUID", "1" * 65),
        ("PatientName", "a=b=c=d"),
        ("PatientName", "\ud800"),
        ("PatientID", "A" * 257),
        ("PatientID", "*a*b*c*d*e*f*g*h*i"),
        ("StudyInstanceUID", "1.2\\" * 1001),
        ("RequestAttributesSequence", "A"),
        ("PatientComments", "A"),
    ],
)
def test_what_cannot_be_a_value_of_the_attribute_is_refused_with_its_tag(keyword, asked):
    with pytest.raises(BadQuery) as refused:
        Match.of(key(keyword), asked)
    assert refused.value.tag == key(keyword).tag
    assert asked not in str(refused.value)


@pytest.mark.parametrize(
    ("keyword", "asked", "kind"),
    [
        ("PatientID", "A", MatchKind.SINGLE),
        ("PatientID", "A*", MatchKind.WILDCARD),
        ("StudyDate", "20260101-", MatchKind.RANGE),
        ("StudyInstanceUID", "1.2", MatchKind.SINGLE),
        ("StudyInstanceUID", "1.2\\1.3", MatchKind.LIST),
        ("PatientName", "a=b", MatchKind.SINGLE),
    ],
)
def test_a_match_knows_its_kind(keyword, asked, kind):
    assert Match.of(key(keyword), asked).kind is kind


@pytest.mark.parametrize("limit_offset", [(-1, 0), (None, -1)])
def test_a_negative_page_is_refused(limit_offset):
    limit, offset = limit_offset
    with pytest.raises(BadQuery):
        Query(Level.STUDY, limit=limit, offset=offset)


def test_a_query_has_at_most_32_keys():
    match = Match.of(key("PatientID"), "A")
    assert Query(Level.STUDY, (match,) * 32)
    with pytest.raises(BadQuery):
        Query(Level.STUDY, (match,) * 33)


@pytest.mark.parametrize(
    ("asked", "held", "expected"),
    [
        ("jane doe", "Doe^Jane", True),
        ("jan do", "Doe^Jane", True),
        ("ane", "Doe^Jane", False),
        ("doe^jane", "Doe^Jane", True),
        ("jane smith", "Doe^Jane", False),
        ("luise", "Doe^Anna Luise", True),
        ("*ane", "Doe^Jane", True),
    ],
)
def test_a_fuzzy_query_finds_names_by_the_beginnings_of_their_words(asked, held, expected):
    query = Query(Level.STUDY, (Match.of(key("PatientName"), asked),), fuzzy=True)
    assert all(match.accepts(element("PatientName", held)[1]) for match in query.conditions()) is expected


def test_fuzzy_touches_names_only():
    match = Match.of(key("StudyDescription"), "two words")
    assert Query(Level.STUDY, (match,), fuzzy=True).conditions() == (match,)


@given(pattern=st.text(alphabet="ab*?[]", max_size=8), value=st.text(alphabet="ab[]\n", max_size=8))
def test_a_pattern_means_what_the_shell_means_without_brackets(pattern, value):
    translated = fnmatch.translate(re.sub(r"\[", "[[]", pattern))
    assert Like(pattern).accepts(value) == (re.match(translated, value) is not None)


def test_a_long_list_of_hostile_names_is_read_in_no_time():
    started = time.process_time()
    Match.of(key("PatientName"), "\\".join(["^" * 255 + "a", "^*^" * 2 + "^" * 240 + "a"] * 100), multiple=True)
    assert time.process_time() - started < 0.5


def test_a_fuzzy_query_asks_each_word_once_and_not_for_too_many():
    asked = Match.of(key("PatientName"), "\N{ARABIC LIGATURE SALLALLAHOU ALAYHE WASALLAM}" * 256)
    assert len(Query(Level.SERIES, (asked,), fuzzy=True).conditions()) <= 5
    words = list(map(chr, range(0x4E00, 0x4E00 + MAXIMUM_WORDS + 1)))
    most, many = (Match.of(key("PatientName"), " ".join(words[:count])) for count in (MAXIMUM_WORDS, len(words)))
    assert len(Query(Level.SERIES, (most,), fuzzy=True).conditions()) == MAXIMUM_WORDS
    assert Query(Level.SERIES, (many,)).conditions() == (many,)
    with pytest.raises(BadQuery, match="words"):
        Query(Level.SERIES, (many,), fuzzy=True)


def test_a_fullwidth_question_mark_or_asterisk_in_a_fuzzy_name_is_no_wildcard():
    for text in ("D\N{FULLWIDTH QUESTION MARK}e", "D\N{FULLWIDTH ASTERISK}e"):
        match = Match.of(key("PatientName"), text)
        assert Query(Level.STUDY, (match,), fuzzy=True).conditions() == (match,)


def test_a_hostile_pattern_takes_no_time():
    assert not Like("a*" * 8 + "b").accepts("a" * 1024)


@given(text=st.text(max_size=40), attribute=st.sampled_from(KEYS))
def test_any_text_is_a_match_or_a_bad_query(text, attribute):
    try:
        match = Match.of(attribute, text)
    except BadQuery:
        return
    for terms in match.terms:
        assert all(isinstance(term, (Exactly, Like, Between)) for term in terms)
    assert isinstance(match.accepts({"vr": attribute.vr, "Value": [text]}), bool)


@given(value=st.text(max_size=40).filter(lambda text: not set(text) & set("*?=\\") and text.isprintable()))
def test_a_value_without_wildcards_finds_itself(value):
    for keyword in ("StudyDescription", "PatientName"):
        assert accepts(keyword, value, value) or not value.strip("^ ")


@given(
    value=st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
        lambda inner: (
            st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["Alphabetic", "00400009", "Value"]), inner)
        ),
    )
)
@pytest.mark.parametrize("vr", ["LO", "PN", "IS", "DA", "TM", "DT", "UI"])
def test_whatever_an_element_holds_it_can_be_asked(vr, value):
    attribute = Attribute("Any", "00091001", vr, Level.STUDY, Returned.ON_REQUEST, KeyType.OPTIONAL)
    asked = {"DA": "20260101", "TM": "10", "DT": "2026", "IS": "1", "UI": "1.2"}.get(vr, "A*")
    assert isinstance(Match.of(attribute, asked).accepts({"vr": vr, "Value": [value]}), bool)
