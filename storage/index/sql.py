"""From Query to SQL and from rows to answers. The texts are made of constants and of the attribute table's column
names only; every value of a query is a bound parameter (H7). Pure: it runs nothing.

A search is one statement. The order is total, and the same after the index was rebuilt: studies by date, time and
UID, all descending, so that the latest come first; series by number, UID and study; instances by series, number and
UID; patients as their latest studies.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal

import orjson

from storage.attributes import ATTRIBUTES, Attribute, Returned
from storage.index.columns import columns, unpack
from storage.matching import Between, Exactly, Like, Match, MatchKind, Query, Term
from storage.model import Answer, JsonElement, Level, Scope

Statement = tuple[str, list[Any]]

_TABLES = {Level.PATIENT: "study", Level.STUDY: "study", Level.SERIES: "series", Level.INSTANCE: "instance"}
_SERIES_OF_STUDY = "series.study = study.id"
_INSTANCE_OF_SERIES = "instance.series = series.id"
JOINS = {
    Level.STUDY: "study",
    Level.SERIES: f"series JOIN study ON {_SERIES_OF_STUDY}",
    Level.INSTANCE: f"instance JOIN series ON {_INSTANCE_OF_SERIES} JOIN study ON {_SERIES_OF_STUDY}",
}
INSTANCE_TABLES = JOINS[Level.INSTANCE]
INSTANCE_COLUMNS = (
    "study.study_instance_uid, series.series_instance_uid, instance.sop_instance_uid, instance.sop_class_uid, "
    "instance.transfer_syntax_uid, instance.digest, instance.object_key, instance.size_bytes, "
    "instance.data_set_offset, instance.number_of_frames"
)
# Read from the first instance of the first series on, however the planner would rather have it.
_IN_ORDER = f"series CROSS JOIN instance ON {_INSTANCE_OF_SERIES} JOIN study ON {_SERIES_OF_STUDY}"
ORDERS = {
    Level.STUDY: "study.study_order DESC, study.study_instance_uid DESC",
    Level.SERIES: "series.series_order, series.series_instance_uid, study.study_instance_uid",
    Level.INSTANCE: (
        "series.series_order, series.series_instance_uid, study.study_instance_uid, "
        "instance.instance_order, instance.sop_instance_uid"
    ),
}

# Columns that have an index of their own in the schema.
_INDEXED = frozenset(
    f"study.{column}"
    for column in (
        "patient_id",
        "patient_name",
        "patient_name_ideographic",
        "patient_name_phonetic",
        "accession_number",
        "study_date",
    )
)

# A study without a Patient ID says nothing about whose it is, so it is a patient of its own.
_PATIENTS = """
SELECT * FROM (
  SELECT {selected}, study.study_order AS study_order, row_number() OVER (
    PARTITION BY study.patient_id, study.issuer_of_patient_id,
      CASE WHEN study.patient_id IS NULL THEN study.study_instance_uid END
    ORDER BY study.study_order DESC, study.study_instance_uid DESC
  ) AS place FROM study WHERE {condition}
) WHERE place = 1 ORDER BY study_order DESC, study_instance_uid DESC LIMIT ? OFFSET ?
"""


# ---- what is returned --------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Plan:
    """What the answers to a query hold: for each tag, ascending, the level it comes from and what stands for none.

    It depends on the shape of a query, not on its values. default_levels: those that answers hold the default of.
    is_default: whether they hold nothing beyond it, not even for what was matched.
    """

    level: Level
    elements: tuple[tuple[str, Level, JsonElement | None], ...]
    selected: str
    default_levels: frozenset[Level]
    is_default: bool


ONLINE = ("00080056", {"vr": "CS", "Value": ["ONLINE"]})  # every row has its object (I1)

_COLUMNS_OF_LEVEL = {
    Level.STUDY: (
        "study.attributes",
        "study.modalities_in_study",
        "study.sop_classes_in_study",
        "study.number_of_study_related_series",
        "study.number_of_study_related_instances",
    ),
    Level.SERIES: ("series.attributes", "series.number_of_series_related_instances"),
    Level.INSTANCE: ("instance.attributes", "instance.sop_class_uid", "instance.transfer_syntax_uid"),
}
_UIDS = ("study.study_instance_uid", "series.series_instance_uid", "instance.sop_instance_uid")


def plan_of(query: Query) -> Plan:
    """What the answers hold: the default of the level, what is included and what is matched.

    A search that does not name the study, or the series, gets their default attributes as well (PS3.18 §10.6.3.3).
    """
    scope = query.scope or Scope("")
    include = query.include if query.include == "all" else frozenset(query.include)
    matched = frozenset(match.attribute.tag for match in query.matches)
    return _plan(query.level, include, matched, bool(scope.study_instance_uid), bool(scope.series_instance_uid))


@lru_cache(maxsize=512)
def _plan(
    level: Level,
    include: frozenset[str] | Literal["all"],
    matched: frozenset[str],
    is_study_named: bool,
    is_series_named: bool,
) -> Plan:
    default_levels = frozenset((level,))
    if level is Level.STUDY or (level > Level.STUDY and not is_study_named):
        default_levels |= {Level.PATIENT, Level.STUDY}
    if level is Level.INSTANCE and not is_series_named:
        default_levels |= {Level.SERIES}
    asked = {tag[:8] for tag in (matched if include == "all" else include | matched)}

    def is_returned(attribute: Attribute) -> bool:
        if attribute.level > level or attribute.is_nested:
            return False
        if include == "all" or attribute.top_tag in asked:
            return True
        is_default = attribute.returned is not Returned.ON_REQUEST
        return is_default and (attribute.level in default_levels or attribute.is_inherited)

    returned = [attribute for attribute in ATTRIBUTES if is_returned(attribute)]
    elements: list[tuple[str, Level, JsonElement | None]] = [
        (a.tag, max(a.level, Level.STUDY), {"vr": a.vr} if _is_always_there(a, asked) else None) for a in returned
    ]
    if level > Level.PATIENT:
        tag, online = ONLINE
        elements.append((tag, level, online))
    sources = {source for tag, source, _ in elements if tag not in _IDENTITY_TAGS}
    ordered = tuple(sorted(elements, key=lambda element: element[0]))
    is_plain = include == frozenset() and not matched
    is_default = is_plain or ordered == _plan(level, frozenset(), frozenset(), is_study_named, is_series_named).elements
    return Plan(level, ordered, _selected(level, sources), default_levels, is_default and level > Level.PATIENT)


_IDENTITY_TAGS = frozenset(("0020000D", "0020000E", "00080018"))


def _is_always_there(attribute: Attribute, asked: set[str]) -> bool:
    return attribute.returned is Returned.ALWAYS or attribute.top_tag in asked


def _selected(level: Level, sources: set[Level]) -> str:
    """The columns of a row: UIDs down to the level, then for each level its attributes, or NULL where none is used."""
    names = list(_UIDS[: max(level, Level.STUDY)])
    for source, of_level in _COLUMNS_OF_LEVEL.items():
        if source <= max(level, Level.STUDY):
            names += of_level if source in sources else ["NULL"] * len(of_level)
    return ", ".join(names)


def answers_of(plan: Plan, rows: Iterable[Sequence[Any]]) -> list[Answer]:
    """The rows of the query's statement as answers. What neighbours have in common is read once."""
    depth = max(plan.level, Level.STUDY)
    spans = spans_of(plan)
    known: dict[Level, tuple[Sequence[str], dict[str, JsonElement]]] = {}
    answers = []
    for row in rows:
        uids = row[:depth]
        for level, span in spans.items():
            if level not in known or known[level][0] != uids[:level]:
                known[level] = (uids[:level], _elements_of(level, uids, row[span]))
        elements = {}
        for tag, level, empty in plan.elements:
            element = known[level][1].get(tag, empty)
            if element is not None:
                elements[tag] = element
        scope = Scope("") if plan.level is Level.PATIENT else Scope(*uids)
        answers.append(Answer(plan.level, scope, elements))
    return answers


def spans_of(plan: Plan) -> dict[Level, slice]:
    """Where in a row of the statement the columns of each level are, from the study down."""
    depth = max(plan.level, Level.STUDY)
    start: int = depth
    spans = {}
    for level, names in _COLUMNS_OF_LEVEL.items():
        if level <= depth:
            spans[level] = slice(start, start + len(names))
            start += len(names)
    return spans


def _elements_of(level: Level, uids: Sequence[str], values: Sequence[Any]) -> dict[str, JsonElement]:
    """What one level's columns say, by tag: kept attributes, identity and computed ones."""
    elements: dict[str, JsonElement] = orjson.loads(values[0]) if values[0] is not None else {}
    if level is Level.STUDY:
        elements["0020000D"] = _element("UI", uids[0])
        _put(elements, "00080061", "CS", unpack(values[1]))
        _put(elements, "00080062", "UI", unpack(values[2]))
        elements["00201206"] = _element("IS", values[3])
        elements["00201208"] = _element("IS", values[4])
    elif level is Level.SERIES:
        elements["0020000E"] = _element("UI", uids[1])
        elements["00201209"] = _element("IS", values[1])
    else:
        elements["00080018"] = _element("UI", uids[2])
        elements["00080016"] = _element("UI", values[1])
        elements["00083002"] = _element("UI", values[2])
    return elements


def _element(vr: str, value: JsonElement) -> JsonElement:
    return {"vr": vr, "Value": [value]}


def _put(elements: dict[str, JsonElement], tag: str, vr: str, values: Sequence[str]) -> None:
    if values:
        elements[tag] = {"vr": vr, "Value": list(values)}


# ---- what is matched ---------------------------------------------------------------------------------------------


def search_statement(query: Query, plan: Plan) -> Statement:
    """The one statement that answers a query."""
    condition, parameters = _condition(query)
    parameters += [-1 if query.limit is None else query.limit, query.offset]
    if query.level is Level.PATIENT:
        return _PATIENTS.format(selected=plan.selected, condition=condition), parameters
    level = query.level
    tables = _IN_ORDER if level is Level.INSTANCE and _is_unselective(query) else JOINS[level]
    text = (
        f"SELECT {plan.selected} FROM {tables} WHERE {condition} "  # noqa: S608 - constants of this module
        f"ORDER BY {ORDERS[level]} LIMIT ? OFFSET ?"
    )
    return text, parameters


def _is_unselective(query: Query) -> bool:
    """Whether nothing is asked that an index answers: then a page is read in its order, and not sorted from all."""
    keys = (match.attribute for match in query.conditions())
    return query.scope is None and not any(key.is_identity or _column_of(key, key.column) in _INDEXED for key in keys)


def scope_condition(scope: Scope | None) -> Statement:
    """What holds for the rows under a scope, in the tables down to its level."""
    named = scope or Scope("")
    uids = (named.study_instance_uid, named.series_instance_uid, named.sop_instance_uid)
    given = [(f"{column} = ?", uid) for column, uid in zip(_UIDS, uids, strict=True) if uid]
    return " AND ".join(text for text, _ in given) or "TRUE", [uid for _, uid in given]


def _condition(query: Query) -> Statement:
    """All conditions of a query: its scope, matches at its level and above, and one row below for those below."""
    matches = query.conditions()
    own_level = max(query.level, Level.STUDY)
    here = [match for match in matches if match.attribute.level <= own_level]
    below = [match for match in matches if match.attribute.level > own_level]
    parts = [scope_condition(query.scope), *(_match(match) for match in here), *_same_items(here)]
    if below:
        parts.append(_exists_below(own_level, below))
    return _joined(parts, " AND ")


def _exists_below(level: Level, matches: Sequence[Match]) -> Statement:
    deepest = max(match.attribute.level for match in matches)
    tables = ["series", "instance"][level - Level.STUDY : deepest - Level.STUDY]
    links = [_SERIES_OF_STUDY, _INSTANCE_OF_SERIES][level - Level.STUDY : deepest - Level.STUDY]
    condition, parameters = _joined([*(_match(match) for match in matches), *_same_items(matches)], " AND ")
    text = f"EXISTS (SELECT 1 FROM {', '.join(tables)} WHERE {' AND '.join(links)} AND {condition})"  # noqa: S608 - constants of this module
    return text, parameters


def _joined(parts: Iterable[Statement], by: str) -> Statement:
    texts, parameters = [], []
    for text, values in parts:
        texts.append(text)
        parameters += values
    return "(" + by.join(texts) + ")", parameters


def _column_of(attribute: Attribute, column: str) -> str:
    return f"{_TABLES[attribute.level]}.{column}"


def _match(match: Match) -> Statement:
    """One match as a condition on its columns."""
    attribute = match.attribute
    names = [_column_of(attribute, column) for column in columns(attribute)]
    if match.kind is MatchKind.EMPTY:
        return "(" + " AND ".join(f"{name} IS NULL" for name in names) + ")", []
    if attribute.vr == "IS" and attribute.is_computed:
        return _value_condition(f"CAST({names[0]} AS TEXT)", match.terms[0])
    if attribute.is_identity:
        return _value_condition(names[0], match.terms[0])
    if len(match.terms) == 1:
        return _joined([_column_condition(name, match.terms[0]) for name in names], " OR ")
    given = [(name, terms) for name, terms in zip(names, match.terms, strict=True) if terms]
    return _joined([_column_condition(name, terms) for name, terms in given], " AND ")


def _items(column: str) -> str:
    """The values of a column that holds several, as rows; none for one that does not."""
    return f"json_each(CASE WHEN {column} < ' ' THEN substr({column}, 2) END)"


def _column_condition(column: str, terms: Sequence[Term]) -> Statement:
    """Any value of a column fits any term: its single one, or one of several.

    Where the column has an index, rows with several values are looked up apart, for otherwise the planner would
    rather scan the table than expect them to be few.
    """
    table = column.partition(".")[0]
    place = column.replace(table, "several", 1) if column in _INDEXED else column
    single, parameters = _value_condition(column, terms)
    each, each_parameters = _value_condition("item.value", terms)
    several = f"{place} < ' ' AND EXISTS (SELECT 1 FROM {_items(place)} AS item WHERE {each})"  # noqa: S608 - constant column names
    if column in _INDEXED:
        several = f"{table}.id IN (SELECT several.id FROM {table} AS several WHERE {several})"  # noqa: S608 - constant column names
    return f"(({column} > ' ' AND {single}) OR ({several}))", parameters + each_parameters


def _same_items(matches: Sequence[Match]) -> list[Statement]:
    """Keys of one sequence must be fulfilled by the same item of it. PS3.4 §C.2.2.2.6

    Columns of the same sequence hold a place for each item when there are several; with one item, or none, the
    conditions on each column already say it.
    """
    nested = [match for match in matches if match.attribute.is_nested and match.kind is not MatchKind.EMPTY]
    sequences = {match.attribute.top_tag for match in nested}
    groups = [[match for match in nested if match.attribute.top_tag == tag] for tag in sorted(sequences)]
    return [_same_item(group) for group in groups if len(group) > 1]


def _same_item(matches: Sequence[Match]) -> Statement:
    names = [_column_of(match.attribute, match.attribute.column) for match in matches]
    places = [f"place_{number}" for number in range(len(matches))]
    tables = ", ".join(f"{_items(name)} AS {place}" for name, place in zip(names, places, strict=True))
    links: list[Statement] = [(f"{place}.key = {places[0]}.key", []) for place in places[1:]]
    conditions: list[Statement] = [
        _value_condition(f"{place}.value", match.terms[0]) for place, match in zip(places, matches, strict=True)
    ]
    condition, parameters = _joined([*links, *conditions], " AND ")
    text = f"({names[0]} > ' ' OR EXISTS (SELECT 1 FROM {tables} WHERE {condition}))"  # noqa: S608 - constant column names
    return text, parameters


def _value_condition(expression: str, terms: Sequence[Term]) -> Statement:
    """Any of the terms holds for one value."""
    parts: list[Statement] = []
    if exact := [term.text for term in terms if isinstance(term, Exactly)]:
        places = ", ".join("?" * len(exact))
        parts.append((f"{expression} = ?" if len(exact) == 1 else f"{expression} IN ({places})", list(exact)))
    for term in terms:
        if isinstance(term, Between):
            parts.append((f"{expression} BETWEEN ? AND ?", [term.low, term.high]))
        elif isinstance(term, Like):
            parts.append(_like_condition(expression, term.pattern))
    return _joined(parts, " OR ")


def _like_condition(expression: str, pattern: str) -> Statement:
    """A pattern as GLOB, and as a range of what it starts with, which an index can answer."""
    glob = pattern.replace("[", "[[]")
    prefix = pattern[: min((pattern.find(wildcard) for wildcard in "*?" if wildcard in pattern), default=None)]
    following = _following(prefix)
    if not following:
        return f"{expression} GLOB ?", [glob]
    return f"({expression} >= ? AND {expression} < ? AND {expression} GLOB ?)", [prefix, following, glob]


def _following(prefix: str) -> str:
    """The least text that is greater than all that start with ``prefix``; none after an empty one."""
    kept = prefix.rstrip("\U0010ffff")
    if not kept:
        return ""
    code = ord(kept[-1]) + 1
    return kept[:-1] + chr(0xE000 if code == 0xD800 else code)
