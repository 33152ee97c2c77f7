"""Engines and doors answer searches as a plain Python model of the archive does; a fixed seed, so always the same.

The long run of the same, for the record, is ``python -m tests.journeys.differential``. H6–H8
"""

from __future__ import annotations

import contextlib
from dataclasses import replace

import pytest

from storage.attributes import by_keyword
from storage.index import open_index
from storage.matching import MatchKind
from storage.model import Level
from tests.fix_index import entry
from tests.journeys import differential
from tests.journeys.differential import (
    ENGINES,
    Bench,
    Totals,
    ask_crowded,
    ask_doors,
    ask_engines,
    ask_hostile,
    filled_engines,
    oracle_of,
)
from tests.journeys.nasty import hostile
from tests.journeys.questions import KEYS, Question

SEED = 20260102
QUESTIONS = 2000
LEVELS = {level.name for level in Level}
KINDS = {kind.value for kind in MatchKind if kind is not MatchKind.WORDS}  # which fuzzy matching makes of others


def silent(_):
    pass


@pytest.mark.parametrize("engine", ENGINES)
def test_random_questions_are_answered_as_the_model_answers_them(engine):
    totals = Totals()
    ask_engines(totals, SEED, QUESTIONS, engines=(engine,), studies=25, progress=silent)
    assert not totals.differences, totals.lines()
    assert totals.with_answers[engine] > 600
    assert set(totals.levels) == LEVELS
    assert set(totals.kinds) == KINDS
    assert set(totals.keys) == {one.keyword for one in KEYS}


@pytest.mark.parametrize("engine", ENGINES)
def test_hostile_strings_are_found_as_they_are_or_refused(engine):
    totals = Totals()
    ask_hostile(totals, SEED, 80, engines=(engine,), progress=silent)
    assert not totals.differences, totals.lines()
    assert totals.with_answers[engine] > 1000
    assert totals.refused[engine] > 300
    assert {one.keyword for one in KEYS if one.vr in ("CS", "LO", "PN", "SH")} <= set(totals.keys)


@pytest.mark.parametrize("engine", ENGINES)
def test_lists_may_have_a_thousand_values_of_any_kind(engine):
    totals = Totals(enough=1)
    ask_crowded(totals, SEED, engines=(engine,), studies=10)
    assert not totals.differences, totals.lines()
    assert len(totals.keys) > 30


@pytest.mark.parametrize("engine", ENGINES)
def test_a_pattern_takes_noncharacters_for_one_another(engine, tmp_path):
    totals = Totals()
    studies = [[entry(at, at, at, StudyDescription=text)] for at, text in enumerate(("\ufffd", "\ufffe", "\uffff"))]
    with filled_engines((engine,), tmp_path, studies) as engines:
        bench = Bench(engines, oracle_of(studies), totals)
        for text in ("*\ufffd", "*\ufffe", "\uffff*"):
            bench.ask(Question(Level.STUDY, (("StudyDescription", text),)), repr(text))
    assert not totals.differences, totals.lines()


def test_c_find_and_qido_answer_what_the_model_answers():
    totals = Totals()
    ask_doors(totals, SEED, 110, studies=30, progress=silent)
    assert not totals.differences, totals.lines()
    assert min(totals.with_answers[door] for door in ("C-FIND", "QIDO")) > 20
    assert min(totals.refused[door] for door in ("C-FIND", "QIDO")) > 5


class Spoiled:
    """An index that answers another query than was asked."""

    def __init__(self, index, spoil):
        self._index, self._spoil = index, spoil

    def __getattr__(self, name):
        return getattr(self._index, name)

    def search(self, query):
        return self._index.search(self._spoil(query))

    def search_json(self, query, url_of):
        return self._index.search_json(self._spoil(query), url_of)

    def search_lines(self, query, tags):
        return self._index.search_lines(self._spoil(query), tags)


def without(keyword):
    attribute = by_keyword(keyword)
    return lambda query: replace(query, matches=tuple(one for one in query.matches if one.attribute != attribute))


def first_of_same_sequence(query):
    nested = [one for one in query.matches if one.attribute.is_nested]
    return replace(query, matches=tuple(one for one in query.matches if one not in nested[1:]))


FAULTS = {
    "drops a key of the study": (without("AccessionNumber"), "AccessionNumber="),
    "drops a key of the instance": (without("InstanceNumber"), "InstanceNumber="),
    "drops all but one key of a sequence": (first_of_same_sequence, "RequestAttributesSequence."),
    "forgets the scope": (lambda query: replace(query, scope=None), "scope="),
    "forgets that names are fuzzy": (lambda query: replace(query, fuzzy=False), "fuzzy=True"),
    "is off by one": (lambda query: replace(query, offset=max(query.offset - 1, 0)), "offset="),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_an_engine_is_found_out_that(fault, monkeypatch):
    spoil, shown = FAULTS[fault]

    @contextlib.contextmanager
    def spoiled(folder):
        with contextlib.closing(open_index(folder / "index.sqlite")) as index:
            yield Spoiled(index, spoil)

    monkeypatch.setitem(ENGINES, "spoiled", spoiled)
    totals = Totals(enough=3)
    ask_engines(totals, SEED, 1500, engines=("spoiled",), studies=15, progress=silent)
    assert len(totals.differences) == 3
    assert all(shown in one.question for one in totals.differences), totals.lines()
    assert all(one.place.startswith("question ") for one in totals.differences)


def test_the_program_ends_with_1_when_there_is_a_difference(monkeypatch, capsys):
    monkeypatch.setattr(differential, "STUDIES", 5)
    arguments = ["--queries", "25", "--hostile", "2", "--doors", "0", "--no-crowds", "--seed", str(SEED)]
    assert differential.main(arguments) == 0
    assert "differences: 0" in capsys.readouterr().out
    opened = ENGINES["SQLite"]

    @contextlib.contextmanager
    def spoiled(folder):
        with opened(folder) as index:
            yield Spoiled(index, lambda query: replace(query, matches=()))

    monkeypatch.setitem(ENGINES, "SQLite", spoiled)
    assert differential.main([*arguments, "--json"]) == 1
    assert '"question": "' in capsys.readouterr().out


def test_hostile_strings_are_2000_different_ones():
    strings = hostile(2000, "1")
    assert len(set(strings)) == 2000
    assert hostile(2000, "1") == strings
    assert hostile(2000, "2") != strings
