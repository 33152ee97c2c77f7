"""Probes: which few rows of the index can fit a query at all, asked before the query itself. Pure.

The planner of no engine knows how many names begin with ``SMI``, or whether a modality is rare. So each key that an
index can answer is looked up first, to at most ``MOST_IDS`` rows. The first key with fewer leads the search; where
every key is common, answers are close to one another in the order in which they are asked for, and a page of them is
found by reading in that order. A probe may find more than fits, never less: the statement filters.
"""

from __future__ import annotations

import enum
from collections.abc import Sequence
from dataclasses import dataclass

from storage.attributes import Attribute, by_keyword
from storage.index.columns import columns, words_column
from storage.index.conditions import column_of, equal_to, extended_table, several_condition
from storage.index.dialect import Dialect, Statement
from storage.index.sql import date_range
from storage.matching import Between, Exactly, Like, Match, MatchKind, Query, Term
from storage.model import Level

MOST_IDS = 1000
IDS_AT_ONCE = 16  # of studies that are known in the order of answers: rows that are read at first
_MOST_PATTERNS = 8

# What has an index in the schema: of values as they sort, and of their trigrams.
_SORTED = frozenset(
    (
        "study.patient_id",
        "study.patient_name",
        "study.patient_name_ideographic",
        "study.patient_name_phonetic",
        "study.accession_number",
        "series.modality",
    )
)
# Of these a probe says the place in the order of studies as well; SQLite has it in the index.
_PLACED = frozenset(
    (
        "study.patient_id",
        "study.patient_name",
        "study.patient_name_ideographic",
        "study.patient_name_phonetic",
    )
)
_TRIGRAMS = frozenset(
    (
        "study.patient_id",
        "study.patient_name",
        "study.patient_name_ideographic",
        "study.patient_name_phonetic",
        "study.patient_name_words",
        "study.accession_number",
        "study.study_description",
    )
)
_MODALITY = by_keyword("Modality")
_STUDY_DATE = by_keyword("StudyDate")
_MODALITIES_IN_STUDY = by_keyword("ModalitiesInStudy")

_TABLES = {Level.STUDY: "study", Level.SERIES: "series", Level.INSTANCE: "instance"}
# For a row of a table, the id of what it belongs to at a level, and the tables that say so.
_IDS = {
    ("study", Level.STUDY): ("study.id", "study"),
    ("series", Level.STUDY): ("series.study", "series"),
    ("series", Level.SERIES): ("series.id", "series"),
    ("instance", Level.STUDY): ("series.study", "instance JOIN series ON instance.series = series.id"),
    ("instance", Level.SERIES): ("instance.series", "instance"),
    ("instance", Level.INSTANCE): ("instance.id", "instance"),
}


class Rank(enum.IntEnum):
    """How few rows a probe is likely to find: the lesser, the fewer."""

    IDENTITY = 0
    EQUAL = 1
    PREFIX = 2
    TRIGRAMS = 3
    MODALITY = 4
    DATES = 5


@dataclass(frozen=True, slots=True)
class Probe:
    """A statement for ids of rows of a table, at most one more than ``MOST_IDS``.

    is_placed: whether each comes behind its place in the order of studies.
    """

    rank: Rank
    table: str
    statement: Statement
    is_placed: bool = False


@dataclass(frozen=True, slots=True)
class _Column:
    """A column that must have a value that fits one of the terms. owner: the level of which the match says so."""

    attribute: Attribute
    name: str
    terms: tuple[Term, ...]
    owner: Level

    @property
    def full_name(self) -> str:
        return column_of(self.attribute, self.name)


_Arm = tuple[Rank, Statement]


def probes_of(query: Query, dialect: Dialect) -> Sequence[Probe]:
    """The probes of a query, the most promising first."""
    level = max(query.level, Level.STUDY)
    found = _of_words(query, dialect)
    for match in query.conditions():
        if match.attribute is _STUDY_DATE:
            found += _of_dates(match, level, dialect)
        found += _of_extended(match, level, dialect)
        for alternatives in _columns_of(match):
            arms = [_arms(column, level, dialect) for column in alternatives]
            if all(arms):
                table = _TABLES[min(alternatives[0].owner, level)]
                is_placed = all(_is_placed(column, level) for column in alternatives)
                found.append(_probe(table, [arm for of_column in arms for arm in of_column], is_placed=is_placed))
    return sorted(found, key=lambda probe: probe.rank)


def outliers_of(query: Query, dialect: Dialect) -> Statement | None:
    """The ids of studies with several dates of which one matches, at most one more than ``MOST_IDS``.

    ``date_range`` says nothing about them.
    """
    found = date_range(query)
    if found is None:
        return None
    place = "study.study_date"
    condition, parameters = several_condition(place, place, found.match.terms[0], dialect)
    return f"SELECT study.id AS id FROM study WHERE {condition} LIMIT {MOST_IDS + 1}", parameters  # noqa: S608 - constant names


def _probe(table: str, arms: Sequence[_Arm], *, is_placed: bool = False) -> Probe:
    """Any arm may find a row. SQLite takes no LIMIT within a compound."""
    texts = " UNION ALL ".join(text for _, (text, _) in arms)
    parameters = [value for _, (_, values) in arms for value in values]
    rank = max(rank for rank, _ in arms)
    is_placed = is_placed and rank < Rank.TRIGRAMS
    fields = "study_order, study_instance_uid, id" if is_placed else "id"
    text = f"SELECT {fields} FROM ({texts}) AS probe LIMIT {MOST_IDS + 1}"  # noqa: S608 - constant names
    return Probe(rank, table, (text, parameters), is_placed)


def _is_placed(column: _Column, level: Level) -> bool:
    return level is Level.STUDY and column.full_name in _PLACED


def _of_words(query: Query, dialect: Dialect) -> list[Probe]:
    """Names by all of their words at once: each alone may be a common one."""
    asked: dict[Attribute, list[str]] = {}
    for match in query.conditions():
        if match.kind is MatchKind.WORDS and not match.attribute.is_extended:
            patterns = [term.pattern for term in match.terms[0] if isinstance(term, Like)]
            asked.setdefault(match.attribute, []).extend(patterns)
    found = []
    for attribute, patterns in asked.items():
        table, _, name = column_of(attribute, words_column(attribute)).partition(".")
        statement = dialect.having(table, name, patterns) if f"{table}.{name}" in _TRIGRAMS else None
        if statement is not None:
            found.append(_probe(table, [(Rank.TRIGRAMS, statement)]))
    return found


def _columns_of(match: Match) -> Sequence[Sequence[_Column]]:
    """The ways to find what matches: of each, some column of it must fit."""
    attribute = match.attribute
    if attribute.is_extended or match.kind in (MatchKind.EMPTY, MatchKind.WORDS):
        return ()
    owner = max(attribute.level, Level.STUDY)
    if attribute is _MODALITIES_IN_STUDY and _MODALITY is not None:
        return ((_Column(_MODALITY, "modality", match.terms[0], owner),),)
    names = columns(attribute)
    if len(match.terms) == 1:
        return (tuple(_Column(attribute, name, match.terms[0], owner) for name in names),)
    given = zip(names, match.terms, strict=True)
    return tuple((_Column(attribute, name, terms, owner),) for name, terms in given if terms)


def _arms(column: _Column, level: Level, dialect: Dialect) -> Sequence[_Arm]:
    """Statements that together find every row whose column fits; none where an index cannot answer."""
    exact = [term.text for term in column.terms if isinstance(term, Exactly)]
    patterns = [term.pattern for term in column.terms if isinstance(term, Like)]
    if len(exact) + len(patterns) < len(column.terms) or len(patterns) > _MOST_PATTERNS:
        return ()
    if column.attribute.is_identity:
        return [(Rank.IDENTITY, _ids(column, level, equal_to(column.full_name, exact, dialect)))]
    sorted_arms = _sorted_arms(column, exact, patterns, level, dialect) if column.full_name in _SORTED else ()
    return sorted_arms or (_trigram_arms(column, exact + patterns, dialect) if column.full_name in _TRIGRAMS else ())


def _sorted_arms(
    column: _Column, exact: Sequence[str], patterns: Sequence[str], level: Level, dialect: Dialect
) -> Sequence[_Arm]:
    """By the index of values as they sort; none for a pattern that begins with a wildcard."""
    place = dialect.probed(column.full_name)
    rank = Rank.MODALITY if column.attribute is _MODALITY else Rank.EQUAL
    arms: list[_Arm] = []
    if exact:
        values = [dialect.probe_value(text) for text in exact]
        arms.append((rank, _ids(column, level, equal_to(place, values, dialect))))
    for pattern in patterns:
        first, last = _limits(dialect.probe_value(_prefix(pattern)))
        if not last:
            return ()
        arms.append((Rank.PREFIX, _ids(column, level, (f"{place} >= ? AND {place} < ?", [first, last]))))
    several = several_condition(column.full_name, place, column.terms, dialect)
    return [*arms, (rank, _ids(column, level, several))]


def _trigram_arms(column: _Column, patterns: Sequence[str], dialect: Dialect) -> Sequence[_Arm]:
    """By the trigrams of its text, which has several values in it as well; none for many, or for one too short."""
    if len(patterns) > _MOST_PATTERNS:
        return ()
    table, _, name = column.full_name.partition(".")
    found = [dialect.having(table, name, (pattern,)) for pattern in patterns]
    return [(Rank.TRIGRAMS, one) for one in found if one is not None] if None not in found else ()


def _ids(column: _Column, level: Level, condition: Statement) -> Statement:
    """The ids, at the level of the search or above it, of the rows for which a condition holds."""
    table = _TABLES[max(column.attribute.level, Level.STUDY)]
    name, tables = _IDS[table, min(column.owner, level)]
    text, parameters = condition
    place = (
        ", study.study_order AS study_order, study.study_instance_uid AS study_instance_uid"
        if _is_placed(column, level)
        else ""
    )
    return f"SELECT {name} AS id{place} FROM {tables} WHERE {text}", parameters  # noqa: S608 - constant names


def _of_dates(match: Match, level: Level, dialect: Dialect) -> Sequence[Probe]:
    """Studies by date, for a search below; one for studies reads that part of their order itself."""
    query = Query(Level.STUDY, (match,))
    found, outliers = date_range(query), outliers_of(query, dialect)
    if level is Level.STUDY or found is None or outliers is None:
        return ()
    condition = ("study.study_order BETWEEN ? AND ?", [found.first, found.last])
    text, parameters = condition
    within = (f"SELECT study.id AS id FROM study WHERE {text}", parameters)  # noqa: S608 - constant names
    return [_probe("study", [(Rank.DATES, within), (Rank.DATES, _nested(outliers))])]


def _of_extended(match: Match, level: Level, dialect: Dialect) -> Sequence[Probe]:
    """By the index of the values of extended attributes as they sort; none for a pattern that begins with a wildcard.

    Of a name in several component groups by the first one that is given.
    """
    attribute = match.attribute
    if not attribute.is_extended or match.kind in (MatchKind.EMPTY, MatchKind.WORDS):
        return ()
    place = dialect.probed("held.value")
    conditions: list[_Arm] = []
    for term in next(terms for terms in match.terms if terms):
        if isinstance(term, Exactly):
            conditions.append((Rank.EQUAL, equal_to(place, [dialect.probe_value(term.text)], dialect)))
            continue
        if isinstance(term, Between):
            within, limits = f"{place} BETWEEN ? AND ?", [term.low, term.high]
        else:
            within, limits = f"{place} >= ? AND {place} < ?", list(_limits(dialect.probe_value(_prefix(term.pattern))))
        if not all(limits):
            return ()
        conditions.append((Rank.PREFIX, (within, [dialect.probe_value(limit) for limit in limits])))
    table = _TABLES[max(attribute.level, Level.STUDY)]
    owner = min(max(attribute.level, Level.STUDY), level)
    name, tables = _IDS[table, owner]
    rows = f"{extended_table(attribute)} AS held CROSS JOIN {tables}"
    text = f"SELECT DISTINCT {name} AS id FROM {rows} WHERE {table}.id = held.owner AND held.tag = ? AND "  # noqa: S608 - constant names
    arms = [(rank, (text + condition, [attribute.tag, *values])) for rank, (condition, values) in conditions]
    return [_probe(_TABLES[owner], arms)]


def _nested(statement: Statement) -> Statement:
    """A statement with a LIMIT as an arm of a compound."""
    text, parameters = statement
    return f"SELECT id FROM ({text}) AS nested", parameters  # noqa: S608 - constant names


def _prefix(pattern: str) -> str:
    return pattern[: min((pattern.find(wildcard) for wildcard in "*?" if wildcard in pattern), default=None)]


def _limits(prefix: str) -> tuple[str, str]:
    """The least text that starts with a prefix, and the least that is greater than all of them; empty without one."""
    kept = prefix.rstrip("\U0010ffff")
    if not kept:
        return "", ""
    code = ord(kept[-1]) + 1
    return prefix, kept[:-1] + chr(0xE000 if code == 0xD800 else code)
