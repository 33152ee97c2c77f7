"""What every Index promises. An engine inherits ``IndexContract`` and says how one is opened."""

from __future__ import annotations

import contextlib
import random
import tempfile
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import astuple, replace
from pathlib import Path

import orjson
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from storage.attributes import ATTRIBUTES, Attribute, by_keyword
from storage.errors import BadQuery, StorageUnavailable
from storage.index.base import Index
from storage.index.batch import row_of
from storage.matching import Match, MatchKind, Query
from storage.model import Entry, Extent, Level, Outcome, Scope, Source
from tests.fix_index import (
    CT_IMAGE,
    JPEG_2000,
    data_set,
    element,
    entries,
    entry,
    series_scope,
    study_scope,
    uid,
)

SEARCHED = [a for a in ATTRIBUTES if a.is_key and not a.is_identity and not (a.is_computed and a.vr != "CS")]

INJECTIONS = (
    "'",
    '"',
    "''",
    "' OR '1'='1",
    "' OR 1=1 --",
    "'; DROP TABLE study; --",
    '"; DROP TABLE study; --',
    "') OR ('1'='1",
    "1; DELETE FROM instance",
    "' UNION SELECT patient_name FROM study --",
    "%",
    "%%",
    "_",
    "100%",
    "\\",
    "\\%",
    "\\'",
    "[",
    "]",
    "[a-z]",
    "[!a]",
    "[^a]",
    "[]]",
    "{}",
    "{selected}",
    "?",
    "?1",
    ":name",
    "@name",
    "$name",
    "%s",
    "%(name)s",
    "NULL",
    "null",
    "/*",
    "*/ --",
    "x'00'",
    "\x00",
    "a\x00b",
    '\x1f["A"]',
    "A\nB",
    "`",
    ";",
    "|| 'a'",
    "CAST(1 AS TEXT)",
    "日本'; --",
    "ﬀ",
    "İ",
    "\U0001f642",
    "\ufffd",
    "\u202e",
)


def key(keyword: str) -> Attribute:
    """An attribute that must be in the table."""
    attribute = by_keyword(keyword)
    assert attribute is not None
    return attribute


def query(
    level: Level, *, scope: Scope | None = None, fuzzy: bool = False, limit=None, offset=0, include=frozenset(), **keys
):
    """A query by keyword and text as a peer writes it."""
    matches = tuple(Match.of(key(keyword), text) for keyword, text in keys.items())
    return Query(level, matches, scope, include, fuzzy, limit, offset)


def is_below(scope: Scope, other: Scope) -> bool:
    """Whether a resource is another one, or in it."""
    return all(ours == theirs or not theirs for ours, theirs in zip(astuple(scope), astuple(other), strict=True))


def studies(index: Index, **keys: object) -> list[str]:
    """UIDs of the studies that match."""
    return [answer.scope.study_instance_uid for answer in index.search(query(Level.STUDY, **keys))]


def _in_pages(index: Index, asked: Query) -> list[str]:
    """The same studies, each page asked for behind the one before."""
    found = []
    while page := index.search(asked):
        found += [answer.scope.study_instance_uid for answer in page]
        asked = replace(asked, after=page[-1].place)
    return found


def value(answer, tag: str):
    """The only value of an element, None for none."""
    return (answer.attributes[tag].get("Value") or [None])[0]


def assert_counts_equal_rows(index: Index) -> None:
    """Q28: counts and lists of parents are what a search below finds at this moment."""
    instances_in_all = 0
    for study in index.search(query(Level.STUDY, include="all")):
        series = index.search(query(Level.SERIES, scope=study.scope))
        instances = index.search(query(Level.INSTANCE, scope=study.scope))
        assert value(study, "00201206") == len(series) > 0
        assert value(study, "00201208") == len(instances) == len(index.instances(study.scope))
        modalities = {value(one, "00080060") for one in series} - {None}
        assert set(study.attributes["00080061"].get("Value", ())) == modalities
        classes = {value(one, "00080016") for one in instances}
        assert set(study.attributes["00080062"]["Value"]) == classes
        for one in series:
            below = index.search(query(Level.INSTANCE, scope=one.scope))
            assert value(one, "00201209") == len(below) == len(list(index.documents(one.scope))) > 0
        instances_in_all += len(instances)
    assert instances_in_all == len(index.search(query(Level.INSTANCE)))


# What text can hold that a query language might take for something else, alone and as one of several values.
HELD_TEXTS: tuple[list[str], ...] = (
    *([text] for text in ("a", "A", "ab", "a b", "abc", "[a]b", "[ab]", "a]b", "[", "]", "^a", "!a", "-", "a-c")),
    *(
        [text]
        for text in ("%", "a%b", "_", "a_b", "axb", "\\", "a\\b", "'", '"', '["a"]', ",", "a,b", "é", "日本", "ÿ")
    ),
    *([text] for text in ("\ud7ff", "\U0010ffff", "a\U0010ffff", "{}", "null", "0")),
    *(["a", "b"], ["ab", "cd"], ["a", "a"], ["[a]b", "x"], ['a"', "b"], ["a,b", "c"], ["\\", "b"], ["é", "日本"]),
    *(["%", "_"], ["null", "0"], ["b", "a", "c"], [], ["z" * 64], ["z" * 63 + "y", "a"]),
)
ASKED_TEXTS = (
    *("a", "A", "ab", "b", "c", "cd", "a*", "*a", "*b", "*b*", "a*b", "a*d", "a?b", "a??", "?", "??", "*?", "?*"),
    *("[a]*", "[ab]*", "[a-c]*", "[!a]*", "[^a]*", "*[*", "*]*", "[*", "]*", "a]?", "a-*", "*-*"),
    *("%*", "*%*", "a%?", "_*", "a_?", "*_*", "*\\*", "a\\*", "'*", "*'*", '*"*', '"*', '["*', "*,*", "*],*", "*\x1f*"),
    *(
        "é*",
        "*本",
        "日?",
        "?本",
        "\ud7ff*",
        "\U0010ffff*",
        "a\U0010ffff*",
        "{*",
        "null*",
        "0*",
        "z*z",
        "z*y",
        "*" + "z" * 64,
    ),
)
HELD_NAMES: tuple[object, ...] = (
    *("Doe^Jane", "Doe", "doe^^", "Doerr^Jane", "Doe^Jane^^Dr", "[Doe]^J", "D_e", "D%e", "Straße", "ÅSE^Å", ""),
    {"Alphabetic": "Yamada^Tarou", "Ideographic": "山田^太郎", "Phonetic": "やまだ^たろう"},
    {"Ideographic": "山田^花子"},
    {"Alphabetic": "Hong^Gildong", "Ideographic": "洪^吉洞", "Phonetic": "홍^길동"},
    {"Phonetic": "Doe"},
)
ASKED_NAMES = (
    *("doe", "DOE^*", "doe*", "doe^j*", "*^j*", "*^*", "doe^^", "d?e", "[doe]*", "d_e", "d%*", "strasse", "åse*", "*å"),
    *(
        "yamada*",
        "山田*",
        "山田^?郎",
        "*たろう",
        "홍*",
        "yamada=山田*",
        "=山田*",
        "=*^花子",
        "==doe",
        "doe==",
        "a=b",
        "*=洪*",
    ),
)


# ---- strategies for the differential test ------------------------------------------------------------------------

_CHARACTERS = st.sampled_from([*"aAbB1 %_\\[]^=*?'\"-,é日ßﬀ\x1f\x00\n", "e\u0301", "\U0010ffff", "\ud7ff"])
_TEXTS = st.lists(st.sampled_from("ab") | _CHARACTERS, max_size=5).map("".join)
_DATES = st.sampled_from(["20200101", "2020.01.02", "20201231", "1999", "unknown", " 20200101 "])
_TIMES = st.sampled_from(["10", "1015", "101530", "10:15:30", "235959.999999", "000000", "noon", "9"])
_NUMBERS = st.sampled_from([1, "01", "1.0", 2, "-3", "1e3", "x", str(10**20), 2**62, 1.5, "NaN"])
_DATE_TIMES = st.sampled_from(["2020", "20200101120000", "20200101120000.5+0100", "20200101-0500", "x"])
_NAMES = st.one_of(
    _TEXTS, st.dictionaries(st.sampled_from(["Alphabetic", "Ideographic", "Phonetic"]), _TEXTS, max_size=3)
)
_BY_VR = {"DA": _DATES, "TM": _TIMES, "DT": _DATE_TIMES, "IS": _NUMBERS, "PN": _NAMES}
_ASKED_BY_VR = {
    "DA": st.one_of(_DATES, st.sampled_from(["20200101-", "-20200601", "20200101-20201231"])),
    "TM": st.one_of(_TIMES, st.sampled_from(["10-11", "-1015", "22-1015", "1015-"])),
    "DT": st.one_of(_DATE_TIMES, st.sampled_from(["2020-2021", "-2020", "20200101-0500-"])),
    "IS": _NUMBERS.map(str),
}


@st.composite
def _element_of(draw, attribute: Attribute):
    values = st.one_of(st.none(), _BY_VR.get(attribute.vr, _TEXTS))
    if attribute.is_nested:
        items = draw(st.lists(st.lists(values, max_size=1), max_size=3))
        leaf = attribute.leaf_tag
        return {"vr": "SQ", "Value": [{leaf: {"vr": attribute.vr, "Value": item}} if item else {} for item in items]}
    return {"vr": attribute.vr, "Value": draw(st.lists(values, max_size=3))}


@st.composite
def _data_set_of(draw, keys: list[Attribute]):
    kept = [attribute for attribute in keys if not attribute.is_computed]
    held: dict = {}
    for attribute in kept:
        made = draw(_element_of(attribute))
        if attribute.is_nested and attribute.top_tag in held:
            pairs = zip(held[attribute.top_tag]["Value"], made["Value"], strict=False)
            made = {"vr": "SQ", "Value": [one | other for one, other in pairs]}
        held[attribute.top_tag] = made
    return held


@st.composite
def archive_and_questions(draw, searched: list[Attribute]):
    """Data Sets, matches about them, and whether names are searched fuzzily."""
    keys = draw(st.lists(st.sampled_from(searched), min_size=1, max_size=4, unique=True))
    if any(attribute.keyword == "ModalitiesInStudy" for attribute in keys):
        keys = [*keys, key("Modality")]
    archive = draw(st.lists(_data_set_of(keys), min_size=1, max_size=4))
    questions = []
    for _ in range(draw(st.integers(1, 10))):
        attribute = draw(st.sampled_from(keys))
        held = [text for one in archive for text in _texts_in(one.get(attribute.top_tag), attribute)]
        texts = [_ASKED_BY_VR.get(attribute.vr, _TEXTS)]
        if held and attribute.vr not in _ASKED_BY_VR:
            texts.append(_patterns_of(draw(st.sampled_from(held)), draw(st.sampled_from(held))))
        empty = draw(st.sampled_from([False, False, False, True]))
        text = '""' if empty else draw(st.one_of(texts))
        with contextlib.suppress(BadQuery):
            questions.append(Match.of(attribute, text, empty=empty, multiple=draw(st.booleans())))
    return archive, questions, draw(st.booleans())


def _texts_in(held, attribute: Attribute) -> list[str]:
    values = (held or {}).get("Value", [])
    if attribute.is_nested:
        values = [one for item in values for one in item.get(attribute.leaf_tag, {}).get("Value", [])]
    texts = [text for one in values for text in (one.values() if isinstance(one, dict) else [one])]
    return [text for text in texts if isinstance(text, str) and text]


@st.composite
def _patterns_of(draw, text: str, other: str) -> str:
    """A pattern that the text fits, or nearly; or one that starts as one value and ends as another does."""
    at = draw(st.integers(0, len(text)))
    return draw(
        st.sampled_from(
            [
                text,
                text[:at] + "*",
                "*" + text[at:],
                text[:at] + "?" + text[at + 1 :],
                text[:at] + "*" + other,
                text[:at],
            ]
        )
    )


def matching(archive, matches, computed_from) -> set[int]:
    def held(number: int, attribute: Attribute):
        return archive[number].get(computed_from.get(attribute.tag, attribute.top_tag))

    return {number for number in range(len(archive)) if all(m.accepts(held(number, m.attribute)) for m in matches)}


_MODALITIES = ("00080060", "00080061")

_KEPT = [a for a in ATTRIBUTES if not (a.is_computed or a.is_identity or a.is_nested)]
_HARMFUL_TEXTS = st.text(st.sampled_from([*'a\n\r\t",\\{}[]:\x00\x1f\x7f\u2028é日']), max_size=6)


@st.composite
def _archive_of_anything(draw):
    """Entries in few studies and series, with any attributes of the table and texts that could break JSON."""
    held = draw(st.lists(st.sampled_from(_KEPT), max_size=12, unique=True))
    return [
        entry(
            study := draw(st.integers(1, 2)),
            study * 10 + draw(st.integers(1, 2)),
            number,
            json={
                a.tag: {
                    "vr": a.vr,
                    "Value": draw(st.lists(st.none() | _HARMFUL_TEXTS | st.integers(-9, 9), max_size=2)),
                }
                for a in held
                if draw(st.booleans())
            },
        )
        for number in range(draw(st.integers(1, 6)))
    ]


def _scopes_of(archive: list[Entry]) -> list[Scope | None]:
    """No scope, and of each instance its study, its series, and its series of any study."""
    uids = {(one.instance.study_instance_uid, one.instance.series_instance_uid) for one in archive}
    return [None, *(Scope(*names) for pair in sorted(uids) for names in (pair[:1], pair, ("", pair[1])))]


_SHAPES: tuple[dict, ...] = (
    {},
    {"limit": 2, "offset": 1},
    {"PatientID": "P1", "StudyDate": "20260102"},
    {"Modality": "CT", "SeriesDescription": ""},
    {"SeriesDescription": "a*", "InstanceNumber": "1"},
    {"include": frozenset(("00100010", "00080201", "0008103E", "00280008"))},
    {"include": frozenset(("00080070", "00080062"))},
    {"include": "all"},
)


def _url_of(scope: Scope) -> str:
    return f'https://host/"{scope.study_instance_uid}|{scope.series_instance_uid}|{scope.sop_instance_uid}'


def assert_texts_are_the_answers(index: Index, asked: Query) -> int:
    """JSON texts say, byte for byte, what the structured answers say; returns how many there are."""
    answers = index.search(asked)
    expected = [
        orjson.dumps(
            {**one.attributes, "00081190": {"vr": "UR", "Value": [_url_of(one.scope)]}}, option=orjson.OPT_SORT_KEYS
        ).decode()
        for one in answers
    ]
    assert list(index.search_json(asked, _url_of)) == expected
    tags = sorted({attribute.top_tag for attribute in ATTRIBUTES}, key=lambda tag: tag[::-1])
    lined = index.search_lines(asked, tags)
    assert lined.place == (answers[-1].place if answers else ())
    assert lined.lines == [[_line(tag, one.attributes.get(tag)) for tag in tags] for one in answers]
    return len(expected)


def _line(tag: str, element) -> str:
    return f'"{tag}":{orjson.dumps(element, option=orjson.OPT_SORT_KEYS).decode()}' if element else ""


class IndexContract:
    """Inherit it, and say in ``open`` how an index in a folder is opened."""

    @contextlib.contextmanager
    def open(self, folder: Path) -> Iterator[Index]:
        """The index in that folder, as often as it is asked for."""
        raise NotImplementedError

    @pytest.fixture
    def index(self, tmp_path):
        with self.open(tmp_path) as index:
            yield index

    # -- store

    def test_a_stored_instance_is_found_by_the_very_next_search(self, index):
        receipt = index.add(one := entry())
        assert receipt.outcome is Outcome.STORED
        assert receipt.instance == one.instance
        assert receipt.warnings == ()
        assert index.find([one.instance.sop_instance_uid]) == {one.instance.sop_instance_uid: one.instance}
        assert studies(index, PatientID="P1") == [uid(1)]
        assert_counts_equal_rows(index)

    def test_thousands_of_instances_are_found_at_once_and_what_is_no_uid_is_not(self, index):
        there = entries(studies=3, series=2, instances=5)
        for one in there:
            index.add(one)
        uids = [one.instance.sop_instance_uid for one in there]
        asked = [*uids, uids[0], *(uid(number, "9") for number in range(4000)), "", "\x00", "1.2'; --"]
        found = index.find(asked)
        assert found == {one.instance.sop_instance_uid: one.instance for one in there}
        assert index.find([]) == {}

    def test_what_was_derived_at_ingest_comes_back_as_it_was(self, index):
        index.add(one := entry())
        (document,) = index.documents(one.instance.scope)
        assert (document.instance, document.metadata) == (one.instance, one.metadata)
        assert (document.frame_table, document.bulk) == (one.frame_table, one.bulk)

    def test_rows_outlive_the_index_object(self, tmp_path):
        with self.open(tmp_path) as index:
            index.add(entry())
        with self.open(tmp_path) as index:
            assert studies(index) == [uid(1)]

    def test_another_index_on_the_same_rows_sees_them_at_once(self, tmp_path):
        with self.open(tmp_path) as one, self.open(tmp_path) as other:
            for number in range(1, 6):
                one.add(entry(number, number, number))
                assert uid(number) in studies(other)
                other.add(entry(100 + number, 100 + number, 100 + number))
                assert uid(100 + number) in studies(one, PatientID="P1")
                other.delete(study_scope(number))
                assert one.find([uid(number, "3")]) == {}
                assert one.is_deleted(study_scope(number))

    def test_sending_again_is_a_duplicate_and_changes_nothing(self, index):
        index.add(entry())
        before = index.changes(0, 10)
        receipt = index.add(entry(source=Source("stow", address="10.0.0.1")))
        assert receipt.outcome is Outcome.DUPLICATE
        assert index.changes(0, 10) == before
        assert len(index.instances(study_scope(1))) == 1
        assert_counts_equal_rows(index)

    def test_other_bytes_are_a_conflict_and_the_first_stays(self, index):
        first = entry().instance
        index.add(entry())
        for _ in range(2):
            receipt = index.add(entry(content="other", PatientName="Other"))
            assert (receipt.outcome, receipt.instance) == (Outcome.CONFLICT, first)
        assert index.find([first.sop_instance_uid]) == {first.sop_instance_uid: first}
        assert studies(index, PatientName="other") == []
        assert_counts_equal_rows(index)

    def test_another_transfer_syntax_is_a_variant(self, index):
        index.add(entry())
        receipt = index.add(entry(content="compressed", transfer_syntax_uid=JPEG_2000))
        assert (receipt.outcome, receipt.instance) == (Outcome.VARIANT, entry().instance)
        assert_counts_equal_rows(index)

    def test_a_sop_instance_uid_that_comes_in_another_study_is_a_conflict_and_makes_no_study(self, index):
        index.add(entry(1, 1, 1))
        assert index.add(entry(2, 1, 1, transfer_syntax_uid=JPEG_2000)).outcome is Outcome.CONFLICT
        assert studies(index) == [uid(1)]
        assert index.instances(study_scope(2)) == []
        assert_counts_equal_rows(index)

    def test_the_first_value_stays_and_later_ones_fill_gaps(self, index):
        index.add(entry(instance=1, StudyDescription=None, AccessionNumber="A1"))
        index.add(entry(instance=2, StudyDescription="Head", AccessionNumber="A2"))
        index.add(entry(instance=3, StudyDescription=None, AccessionNumber=None))
        (answer,) = index.search(query(Level.STUDY))
        assert (value(answer, "00081030"), value(answer, "00080050")) == ("Head", "A1")
        assert studies(index, StudyDescription="Head", AccessionNumber="A1") == [uid(1)]
        assert studies(index, AccessionNumber="A2") == []

    def test_a_gap_in_modality_or_date_that_is_filled_moves_list_and_order(self, index):
        index.add(entry(1, 1, 1, Modality=None, StudyDate=None))
        index.add(entry(2, 2, 2, StudyDate="20200101"))
        assert studies(index) == [uid(2), uid(1)]
        index.add(entry(1, 1, 3, Modality="MR", StudyDate="20260101"))
        assert studies(index) == [uid(1), uid(2)]
        assert studies(index, ModalitiesInStudy="MR") == [uid(1)]
        assert_counts_equal_rows(index)

    def test_another_patient_in_a_study_is_a_warning_and_the_first_stays(self, index):
        index.add(entry(instance=1))
        receipt = index.add(entry(instance=2, PatientID="P2"))
        assert receipt.outcome is Outcome.STORED
        assert len(receipt.warnings) == 1
        assert index.add(entry(instance=3, PatientName="DOE^JANE^^")).warnings == ()
        assert studies(index, PatientID="P2") == []

    def test_the_same_series_uid_in_two_studies_is_two_series(self, index):
        index.add(entry(1, 7, 1))
        index.add(entry(2, 7, 2))
        answers = index.search(query(Level.SERIES, scope=Scope("", uid(7, "2"))))
        assert [answer.scope.study_instance_uid for answer in answers] == [uid(1), uid(2)]
        assert_counts_equal_rows(index)

    def test_instances_of_equal_series_of_two_studies_say_each_its_own_study(self, index):
        """Also where what a series' instances inherit is read once, as it is when many are asked for."""
        index.add(entry(1, 7, 1, PatientID="P1", Modality="CT"))
        index.add(entry(2, 7, 2, PatientID="P2", Modality="MR"))
        asked = query(Level.INSTANCE, scope=Scope("", uid(7, "2")), include=frozenset({"00100020", "00080060"}))
        answers = index.search(asked)
        said = {
            answer.scope.study_instance_uid: (value(answer, "00100020"), value(answer, "00080060"))
            for answer in answers
        }
        assert said == {uid(1): ("P1", "CT"), uid(2): ("P2", "MR")}

    def test_an_entry_that_cannot_be_written_fails_alone(self, index):
        kept = {Level.STUDY: {"00081030": {"vr": "LO", "Value": [object()]}}}
        broken = replace(entry(instance=2), attributes=kept)
        with pytest.raises(TypeError):
            index.add(broken)
        index.add(entry(instance=1))
        assert_counts_equal_rows(index)

    # -- many at once

    def test_64_threads_storing_one_study_make_one_row_of_each(self, index):
        made = entries(1, 4, 16)
        barrier = threading.Barrier(64)

        def store(one: Entry) -> Outcome:
            barrier.wait()
            return index.add(one).outcome

        with ThreadPoolExecutor(64) as pool:
            assert set(pool.map(store, made)) == {Outcome.STORED}
        (study,) = index.search(query(Level.STUDY))
        assert (value(study, "00201206"), value(study, "00201208")) == (4, 64)
        assert [change.sequence for change in index.changes(0, 100)] == list(range(1, 65))
        assert_counts_equal_rows(index)

    def test_64_threads_storing_one_instance_make_one_row_and_64_successes(self, index):
        barrier = threading.Barrier(64)

        def store(_: int) -> Outcome:
            barrier.wait()
            return index.add(entry()).outcome

        with ThreadPoolExecutor(64) as pool:
            outcomes = list(pool.map(store, range(64)))
        assert sorted(outcome.value for outcome in outcomes) == ["duplicate"] * 63 + ["stored"]
        assert_counts_equal_rows(index)

    def test_32_racers_with_different_bytes_have_one_winner(self, index):
        barrier = threading.Barrier(32)

        def store(number: int):
            barrier.wait()
            return index.add(entry(content=str(number)))

        with ThreadPoolExecutor(32) as pool:
            receipts = list(pool.map(store, range(32)))
        assert sum(receipt.outcome is Outcome.STORED for receipt in receipts) == 1
        assert sum(receipt.outcome is Outcome.CONFLICT for receipt in receipts) == 31
        assert {receipt.instance for receipt in receipts} == set(index.find([uid(1, "3")]).values())

    def test_readers_never_see_counts_that_differ_from_rows_while_others_write(self, index):
        stop = threading.Event()
        seen: list[tuple[int, int]] = []

        def read() -> None:
            while not stop.is_set():
                # One statement, so one moment: the count kept and the instances there are.
                answers = index.search(query(Level.INSTANCE, include="all"))
                seen.extend({(value(one, "00201208"), len(answers)) for one in answers})

        with ThreadPoolExecutor(3) as pool:
            reading = [pool.submit(read) for _ in range(2)]
            for one in entries(1, 2, 30):
                index.add(one)
            index.delete(series_scope(1, 1001))
            stop.set()
            for future in reading:
                future.result()
        assert seen
        assert all(count == rows for count, rows in seen)

    # -- delete

    def test_deleting_an_instance_leaves_its_siblings(self, index):
        for one in entries(1, 2, 2):
            index.add(one)
        scope = entry(1, 1001, 1001001).instance.scope
        assert index.delete(scope) == Extent(1, 1, 1, 1000)
        assert index.is_deleted(scope)
        assert not index.is_deleted(series_scope(1, 1001))
        assert index.find([scope.sop_instance_uid]) == {}
        assert_counts_equal_rows(index)

    def test_deleting_the_last_instance_takes_series_and_study_along(self, index):
        index.add(entry())
        index.delete(entry().instance.scope)
        assert studies(index) == []
        for scope in (study_scope(1), series_scope(1, 1), entry().instance.scope):
            assert index.is_deleted(scope)
            assert index.instances(scope) == []

    def test_deleting_a_series_takes_its_modality_out_of_the_study(self, index):
        index.add(entry(1, 1, 1, Modality="CT"))
        index.add(entry(1, 2, 2, Modality="SR", sop_class_uid="1.2.840.10008.5.1.4.1.1.88.11"))
        index.delete(series_scope(1, 2))
        (answer,) = index.search(query(Level.STUDY, include="all"))
        assert answer.attributes["00080061"]["Value"] == ["CT"]
        assert answer.attributes["00080062"]["Value"] == [CT_IMAGE]
        assert_counts_equal_rows(index)

    def test_a_thumbnail_is_kept_under_its_name_as_long_as_its_instance(self, index):
        one, other = entry(1, 1, 1), entry(1, 1, 2)
        index.add(one)
        index.add(other)
        sop, second = one.instance.sop_instance_uid, other.instance.sop_instance_uid
        assert index.thumbnail(sop, "name") is None
        index.keep_thumbnail(sop, "name", b"\0picture\xff")
        index.keep_thumbnail(second, "name", b"other")
        assert index.thumbnail(sop, "name") == b"\0picture\xff"
        assert index.thumbnail(sop, "another") is None
        index.keep_thumbnail(sop, "another", b"newer")
        assert (index.thumbnail(sop, "name"), index.thumbnail(sop, "another")) == (None, b"newer")
        index.delete(one.instance.scope)
        assert index.thumbnail(sop, "another") is None
        index.keep_thumbnail(sop, "another", b"late")
        index.add(one)
        assert index.thumbnail(sop, "another") is None
        assert index.thumbnail(second, "name") == b"other"

    def test_what_was_never_there_is_not_deleted(self, index):
        assert index.delete(study_scope(1)) is None
        assert not index.is_deleted(study_scope(1))
        assert index.changes(0, 10) == []

    def test_a_scope_that_names_nothing_deletes_nothing(self, index):
        index.add(entry())
        assert index.delete(Scope("")) is None
        assert studies(index) == [uid(1)]

    def test_a_uid_under_another_parent_is_neither_found_nor_deleted(self, index):
        index.add(entry(1, 1, 1))
        elsewhere = Scope(uid(2), uid(1, "2"), uid(1, "3"))
        assert index.instances(elsewhere) == []
        assert list(index.documents(elsewhere)) == []
        assert index.delete(elsewhere) is None
        assert studies(index) == [uid(1)]

    def test_what_is_stored_again_after_deletion_is_there_again(self, index):
        index.add(entry())
        index.add(entry(content="rival"))
        index.delete(study_scope(1))
        assert index.add(entry()).outcome is Outcome.STORED
        assert not index.is_deleted(study_scope(1))
        assert not index.is_deleted(entry().instance.scope)
        assert_counts_equal_rows(index)

    # -- changes

    def test_changes_have_no_gaps_and_are_read_behind_a_sequence(self, index):
        index.add(entry(1, 1, 1))
        index.add(entry(1, 1, 1))
        index.add(entry(1, 1, 1, content="rival"))
        index.add(entry(1, 1, 2))
        index.delete(series_scope(1, 1))
        feed = index.changes(0, 10)
        assert [change.sequence for change in feed] == [1, 2, 3]
        assert [change.kind for change in feed] == ["stored", "stored", "deleted"]
        assert feed[-1].scope == series_scope(1, 1)
        assert index.changes(1, 1) == feed[1:2]
        assert index.changes(3, 10) == []

    # -- search

    def test_studies_come_latest_first_and_pages_tile_the_whole(self, index):
        for number in range(1, 24):
            index.add(entry(number, number, number, StudyDate=f"202601{1 + number % 3:02d}", StudyTime=None))
        whole = studies(index)
        assert len(set(whole)) == 23
        dates = [value(answer, "00080020") for answer in index.search(query(Level.STUDY))]
        assert dates == sorted(dates, reverse=True)
        for size in (1, 5, 7, 23, 50):
            pages = [studies(index, limit=size, offset=at) for at in range(0, 30, size)]
            assert [one for page in pages for one in page] == whole
        assert studies(index, limit=0) == []
        assert studies(index, offset=23) == []

    @pytest.mark.parametrize("key", ["PatientName", "PatientID"])
    def test_pages_of_studies_that_a_key_leads_to_tile_the_whole(self, index, key):
        for number in range(1, 181):
            modality = "MR" if number % 3 == 0 else "CT"
            date, text = f"2026{1 + number * 7 % 12:02d}{1 + number % 5:02d}", f"SMITH{number * 11 % 180}"
            index.add(entry(number, number, number, StudyDate=date, Modality=modality, **{key: text}))
        index.add(entry(500, 500, 500, **{key: "TAYLOR"}))
        for asked, count in (({key: "SMITH*"}, 180), ({key: "SMITH*", "ModalitiesInStudy": "MR"}, 60)):
            whole = studies(index, **asked)
            assert len(whole) == count
            assert whole == [one for one in studies(index) if one in set(whole)]
            for size in (7, 64, 100):
                pages = [studies(index, limit=size, offset=at, **asked) for at in range(0, 190, size)]
                assert [one for page in pages for one in page] == whole
                assert _in_pages(index, query(Level.STUDY, limit=size, **asked)) == whole

    @pytest.mark.parametrize("level", [Level.SERIES, Level.INSTANCE])
    def test_series_and_instances_come_by_number_then_uid(self, index, level):
        made = [
            entry(1, series, instance, SeriesNumber=number, InstanceNumber=within)
            for series, number in ((11, 10), (12, 9), (13, None), (14, 9))
            for instance, within in ((series * 10, 10), (series * 10 + 1, 2), (series * 10 + 2, "x"))
        ]
        random.Random(1).shuffle(made)
        for one in made:
            index.add(one)
        answers = index.search(query(level, scope=study_scope(1)))
        found = [answer.scope.series_instance_uid.rpartition(".")[2] for answer in answers]
        if level is Level.SERIES:
            assert found == ["12", "14", "11", "13"]
        else:
            assert found == [number for number in ("12", "14", "11", "13") for _ in range(3)]
            within = [answer.scope.sop_instance_uid.rpartition(".")[2] for answer in answers[:3]]
            assert within == ["121", "120", "122"]
            in_order = [answer.scope for answer in answers]
            assert [one.scope for one in index.instances(study_scope(1))] == in_order
            assert [one.instance.scope for one in index.documents(study_scope(1))] == in_order

    def test_documents_are_streamed_across_pages_and_threads(self, index):
        for one in entries(1, 2, 150):
            index.add(one)
        found = index.documents(study_scope(1))
        with ThreadPoolExecutor(1) as pool:
            uids = [pool.submit(next, found).result().instance.sop_instance_uid for _ in range(3)]
        uids += [document.instance.sop_instance_uid for document in found]
        assert uids == [one.sop_instance_uid for one in index.instances(study_scope(1))]
        assert len(set(uids)) == 300

    def test_answers_ascend_by_tag_and_hold_the_default_even_when_empty(self, index):
        index.add(entry(StudyTime=None, AccessionNumber=None))
        for level in Level:
            (answer,) = index.search(query(level))
            assert list(answer.attributes) == sorted(answer.attributes)
        (study,) = index.search(query(Level.STUDY))
        assert study.attributes["00080030"] == {"vr": "TM"}
        assert study.attributes["00080050"] == {"vr": "SH"}
        assert study.attributes["00100010"] == {"vr": "PN", "Value": [{"Alphabetic": "Doe^Jane"}]}
        assert study.scope == study_scope(1)

    def test_a_search_below_a_named_parent_holds_its_own_level_and_the_uids_above(self, index):
        index.add(entry())
        (series,) = index.search(query(Level.SERIES, scope=study_scope(1)))
        assert {"0020000D", "0020000E", "00080060", "00200011", "00201209"} <= set(series.attributes)
        assert "00100010" not in series.attributes
        (instance,) = index.search(query(Level.INSTANCE, scope=series_scope(1, 1)))
        assert {"0020000D", "0020000E", "00080018", "00080016", "00200013"} <= set(instance.attributes)
        assert not {"00080060", "00100010"} & set(instance.attributes)

    def test_a_search_across_parents_holds_their_default_attributes(self, index):
        index.add(entry())
        (series,) = index.search(query(Level.SERIES))
        assert {"00100010", "00080020", "00201208"} <= set(series.attributes)
        (instance,) = index.search(query(Level.INSTANCE, scope=study_scope(1)))
        assert "00080060" in instance.attributes
        assert "00100010" not in instance.attributes
        (instance,) = index.search(query(Level.INSTANCE))
        assert {"00080060", "00100010"} <= set(instance.attributes)

    def test_included_and_matched_attributes_are_returned_and_lower_ones_are_not(self, index):
        index.add(entry(PatientComments="seen", InstitutionName="Here", TimezoneOffsetFromUTC="+0100"))
        tags = frozenset(("00104000", "00081080", "00080018", "00080080", "00999999", "00080062"))
        (study,) = index.search(query(Level.STUDY, include=tags))
        assert value(study, "00104000") == "seen"
        assert study.attributes["00081080"] == {"vr": "LO"}
        assert value(study, "00080062") == CT_IMAGE
        assert value(study, "00080201") == "+0100"
        assert not {"00080018", "00080080", "00999999"} & set(study.attributes)
        (series,) = index.search(query(Level.SERIES, scope=study_scope(1), InstitutionName="Here"))
        assert value(series, "00080080") == "Here"
        (instance,) = index.search(query(Level.INSTANCE, scope=series_scope(1, 1), include="all"))
        assert {"00104000", "00080080", "00083002", "00080201"} <= set(instance.attributes)

    def test_a_key_below_the_level_asks_for_one_row_that_has_it(self, index):
        index.add(entry(1, 11, 111, Modality="CT", SeriesDescription="Bone"))
        index.add(entry(1, 12, 121, Modality="SR", SeriesDescription="Report"))
        index.add(entry(2, 21, 211, Modality="SR", SeriesDescription="Bone"))
        assert studies(index, Modality="CT") == [uid(1)]
        assert studies(index, Modality="SR", SeriesDescription="Bone") == [uid(2)]
        assert studies(index, SOPInstanceUID=uid(121, "3")) == [uid(1)]
        assert studies(index, SOPInstanceUID=uid(121, "3"), Modality="CT") == []
        found = index.search(query(Level.SERIES, SOPInstanceUID=uid(121, "3")))
        assert [answer.scope for answer in found] == [series_scope(1, 12)]

    def test_patients_are_one_for_each_id_and_issuer(self, index):
        index.add(entry(1, 1, 1, PatientID="A", PatientName="Old", StudyDate="20200101"))
        index.add(entry(2, 2, 2, PatientID="A", PatientName="New", StudyDate="20260101"))
        index.add(entry(3, 3, 3, PatientID="A", IssuerOfPatientID="X"))
        index.add(entry(4, 4, 4, PatientID=None, PatientName="Nobody"))
        index.add(entry(5, 5, 5, PatientID=None, PatientName="Nobody"))
        names = [value(answer, "00100010")["Alphabetic"] for answer in index.search(query(Level.PATIENT))]
        assert sorted(names) == ["Doe^Jane", "New", "Nobody", "Nobody"]
        assert len(index.search(query(Level.PATIENT, limit=2, offset=3))) == 1
        (answer,) = index.search(query(Level.PATIENT, PatientName="new", include="all"))
        assert set(answer.attributes) <= {a.tag for a in ATTRIBUTES if a.level is Level.PATIENT}

    def test_patients_are_found_in_no_time_though_one_id_has_many_studies(self, index):
        """What has no patient, or a secret one, may all be under one ID, and without a date."""
        days = ["20000101", "20000102", None]
        made = [entry(number, number, number, PatientID="0", StudyDate=days[number % 3]) for number in range(1, 3001)]
        index._committer.run(lambda batch: [batch.add(row_of(one)) for one in made])
        started = time.monotonic()
        for keys in ({}, {"PatientName": "doe*"}):
            assert len(index.search(query(Level.PATIENT, limit=500, **keys))) == 1
        assert time.monotonic() - started < 10  # and 30 s, or a timeout, when each study is held against all of them

    def test_counts_are_matched_by_value(self, index):
        for one in entries(2, 2, 1):
            index.add(one)
        index.add(entry(2, 99, 99))
        assert studies(index, NumberOfStudyRelatedSeries="03") == [uid(2)]
        assert len(index.search(query(Level.SERIES, NumberOfSeriesRelatedInstances="1"))) == 5

    def test_both_keys_of_a_request_must_be_fulfilled_by_the_same_item(self, index):
        def item(step: str | None, procedure: str) -> dict:
            held = {"00401001": {"vr": "SH", "Value": [procedure]}}
            return held | ({"00400009": {"vr": "SH", "Value": [step]}} if step else {})

        index.add(entry(1, 1, 1, json={"00400275": {"vr": "SQ", "Value": [item("S1", "P1"), item("S2", "P2")]}}))
        index.add(entry(2, 2, 2, json={"00400275": {"vr": "SQ", "Value": [item("S1", "P2")]}}))
        index.add(entry(3, 3, 3, json={"00400275": {"vr": "SQ", "Value": [item(None, "P2"), item("S1", "P3")]}}))
        step, procedure = (
            key(f"RequestAttributesSequence.{name}") for name in ("ScheduledProcedureStepID", "RequestedProcedureID")
        )

        def found(step_text: str, procedure_text: str) -> list[str]:
            matches = (Match.of(step, step_text), Match.of(procedure, procedure_text))
            return [one.scope.study_instance_uid for one in index.search(Query(Level.SERIES, matches))]

        assert found("S1", "P2") == [uid(2)]
        assert found("S1", "P1") == [uid(1)]
        assert found("S?", "P*") == [uid(1), uid(2), uid(3)]
        assert found("", "P2") == [uid(1), uid(2), uid(3)]

    @settings(
        deadline=None, max_examples=40, suppress_health_check=[HealthCheck.too_slow, HealthCheck.differing_executors]
    )
    @given(made=archive_and_questions(SEARCHED))
    def test_a_search_answers_as_if_it_had_asked_match_accepts_of_every_row(self, made):
        archive, questions, is_fuzzy = made
        with tempfile.TemporaryDirectory() as folder, self.open(Path(folder)) as index:
            for number, held in enumerate(archive):
                held.pop("00080061", None)
                plain = {"SeriesNumber": None, "InstanceNumber": None, "PatientID": None, "PatientName": None}
                index.add(entry(number, number, number, json=held, **plain, StudyDate=None, Modality=None))
            for matches in [(), *((match,) for match in questions), tuple(questions[:3])]:
                asked = tuple(match for match in matches if match.attribute.is_nested)
                if len(asked) > 1:
                    continue  # same item: has a test of its own
                for level in (Level.STUDY, Level.SERIES, Level.INSTANCE):
                    search = Query(level, matches, fuzzy=is_fuzzy)
                    found = [int(one.scope.study_instance_uid.rpartition(".")[2]) for one in index.search(search)]
                    assert len(found) == len(set(found))
                    assert set(found) == matching(archive, search.conditions(), {"00080061": "00080060"})

    @settings(
        deadline=None, max_examples=20, suppress_health_check=[HealthCheck.too_slow, HealthCheck.differing_executors]
    )
    @given(archive=_archive_of_anything())
    def test_answers_as_texts_are_the_structured_answers_byte_for_byte(self, archive):
        with tempfile.TemporaryDirectory() as folder, self.open(Path(folder)) as index:
            for one in archive:
                index.add(one)
            compared = 0
            for level in (Level.STUDY, Level.SERIES, Level.INSTANCE):
                for scope in (one for one in _scopes_of(archive) if one is None or one.level <= level):
                    for shape in _SHAPES:
                        compared += assert_texts_are_the_answers(index, query(level, scope=scope, **shape))
            assert compared >= 3

    def test_answers_as_texts_follow_gaps_that_are_filled_and_what_is_deleted(self, index):
        index.add(entry(instance=1, StudyDescription=None, SeriesDescription=None, TimezoneOffsetFromUTC=None))
        index.add(entry(instance=2, StudyDescription="Head", SeriesDescription="axial", TimezoneOffsetFromUTC="+0100"))
        index.add(entry(series=2, instance=3, Modality="SR"))
        for gone in (None, series_scope(1, 2), entry(instance=2).instance.scope):
            if gone:
                assert index.delete(gone)
            for level in (Level.STUDY, Level.SERIES, Level.INSTANCE):
                for scope in (None, study_scope(1), *([series_scope(1, 1)] if level > Level.STUDY else [])):
                    assert assert_texts_are_the_answers(index, query(level, scope=scope)) > 0
        (text,) = index.search_json(query(Level.STUDY), _url_of)
        assert '"Head"' not in text
        assert '"SR"' not in text

    @pytest.mark.parametrize("keyword", ["AccessionNumber", "StudyDescription", "SeriesDescription"])
    def test_text_in_one_of_several_values_or_alone_fits_the_same_patterns(self, index, keyword):
        for number, values in enumerate(HELD_TEXTS):
            index.add(entry(number, number, number, **{keyword: values}))
        hits = 0
        for asked in ASKED_TEXTS:
            match = Match.of(key(keyword), asked)
            expected = {
                uid(number)
                for number, values in enumerate(HELD_TEXTS)
                if match.accepts(data_set(**{keyword: values})[match.attribute.tag])
            }
            assert set(studies(index, **{keyword: asked})) == expected, asked
            hits += len(expected)
        assert hits > 200

    @pytest.mark.parametrize("is_fuzzy", [False, True])
    @pytest.mark.parametrize("keyword", ["PatientName", "ReferringPhysicianName", "PerformingPhysicianName"])
    def test_names_alone_or_among_several_are_found_in_each_component_group(self, index, keyword, is_fuzzy):
        held = [[name] for name in HELD_NAMES] + [[HELD_NAMES[-1 - n], name] for n, name in enumerate(HELD_NAMES)]
        for number, names in enumerate(held):
            index.add(entry(number, number, number, **{keyword: names}))
        hits = 0
        for asked in ASKED_NAMES:
            search = query(Level.STUDY, fuzzy=is_fuzzy, **{keyword: asked})
            expected = {
                uid(number)
                for number, names in enumerate(held)
                if all(m.accepts(data_set(**{keyword: names})[m.attribute.tag]) for m in search.conditions())
            }
            assert {one.scope.study_instance_uid for one in index.search(search)} == expected, asked
            hits += len(expected)
        assert hits > 60

    def test_no_text_is_read_as_sql(self, index):
        held = [text for text in INJECTIONS if text.strip("\x00")]
        for number, text in enumerate(held):
            everywhere = {a.tag: element(a.keyword, text)[1] for a in SEARCHED if a.vr in ("LO", "SH", "CS", "PN")}
            everywhere = {tag: one for tag, one in everywhere.items() if len(tag) == 8 and tag not in _MODALITIES}
            index.add(entry(number, number, number, json=everywhere))
        asked = 0
        for attribute in (a for a in ATTRIBUTES if a.is_key):
            for text in INJECTIONS:
                try:
                    match = Match.of(attribute, text)
                except BadQuery:
                    continue
                found = {one.scope.study_instance_uid for one in index.search(Query(Level.STUDY, (match,)))}
                asked += 1
                if attribute.tag in everywhere:
                    expected = {
                        uid(number)
                        for number, one in enumerate(held)
                        if match.accepts(data_set(**{attribute.keyword: one})[attribute.tag])
                    }
                    assert found == expected, (attribute.keyword, text)
        assert asked > 800
        assert_counts_equal_rows(index)

    @pytest.mark.parametrize(
        ("keyword", "held", "others"),
        [
            ("StudyDescription", "abc0042", [f"abc{n:04}" for n in range(999)]),
            ("PatientID", "abc0042", ["*c0042*", *(f"abx{n:04}" for n in range(998))]),
            ("PatientID", "P42x", [f"P{n}*" for n in range(999)]),
            ("PatientName", "Doe^Jane", ["*^jane", *(f"[{n}]*" for n in range(998))]),
            ("StudyTime", "101500", [f"{n // 60:02}{n % 60:02}" for n in range(999)]),
            ("StudyDate", "20200101", [f"{1900 + n}0101-{1900 + n}1231" for n in range(999)]),
            ("SeriesNumber", "5", [str(n) for n in range(999)]),
        ],
    )
    @pytest.mark.parametrize("level", Level)
    def test_a_thousand_listed_values_of_any_kind_are_one_search(self, index, keyword, held, others, level):
        index.add(entry(1, 1, 1, **{keyword: held}))
        index.add(entry(2, 2, 2, **{keyword: [held, "20200101"]}))
        index.add(entry(3, 3, 3, PatientID="Z", PatientName="Z", **{} if keyword[0] == "P" else {keyword: None}))
        match = Match.of(key(keyword), "\\".join(others), multiple=True)
        assert len(match.terms[0]) >= 998
        is_one_patient = level is Level.PATIENT and keyword != "PatientID"
        assert len(index.search(Query(level, (match,)))) == (1 if is_one_patient else 2)

    def test_a_study_with_more_series_of_a_modality_than_a_probe_names_does_not_hide_others(self, index):
        for number in range(1, 1003):
            index.add(entry(1, number, number, Modality="CT"))
        index.add(entry(2, 2001, 2001, Modality="CT"))
        assert sorted(studies(index, ModalitiesInStudy="CT")) == [uid(1), uid(2)]

    def test_a_thousand_listed_uids_are_one_search(self, index):
        index.add(entry())
        listed = "\\".join([uid(number) for number in range(1000)])
        match = Match.of(key("StudyInstanceUID"), listed)
        assert match.kind is MatchKind.LIST
        assert len(index.search(Query(Level.STUDY, (match,)))) == 1

    def test_counts_equal_rows_after_any_sequence_of_stores_and_deletes(self, index):
        chance = random.Random(20260101)
        made = entries(3, 3, 4)
        present: dict[str, Scope] = {}
        for _ in range(150):
            one = chance.choice(made)
            instance = one.instance
            scopes = [
                Scope(instance.study_instance_uid),
                Scope(instance.study_instance_uid, instance.series_instance_uid),
                instance.scope,
            ]
            if chance.random() < 0.7:
                outcome = index.add(one).outcome
                expected = Outcome.DUPLICATE if instance.sop_instance_uid in present else Outcome.STORED
                assert outcome is expected
                present[instance.sop_instance_uid] = instance.scope
            else:
                scope = chance.choice(scopes)
                gone = [sop for sop, held in present.items() if is_below(held, scope)]
                removed = index.delete(scope)
                assert (removed.instances if removed else 0) == len(gone)
                for sop in gone:
                    del present[sop]
        assert {answer.scope.sop_instance_uid for answer in index.search(query(Level.INSTANCE))} == present.keys()
        assert_counts_equal_rows(index)

    # -- close

    def test_a_closed_index_is_unavailable(self, tmp_path):
        with self.open(tmp_path) as index:
            index.add(entry())
        with pytest.raises(StorageUnavailable):
            index.add(entry(instance=2))
        with pytest.raises(StorageUnavailable):
            index.search(query(Level.STUDY))
        index.close()

    def test_a_source_is_kept_whatever_it_says(self, index):
        index.add(entry(source=Source("stow", "'; --", "\U0001f642")))
        assert studies(index) == [uid(1)]
