"""From Query to SQL and from rows to answers. The texts are made of constants and of the attribute table's column
names only; every value of a query is a bound parameter (H7). Pure: it runs nothing.

A statement of a search starts at few rows that a probe found (``storage.index.probes``), below the resource that is
named, or else reads rows in the order of the answers until there are enough of them. The order is total, and
the same after the index was rebuilt: studies by date, time and UID, all descending, so that the latest come first;
series by number, UID and study; instances by series, number and UID; patients as their latest studies that match.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal

import orjson

from storage.attributes import Attribute, Returned, Table, by_keyword, by_tag, table
from storage.dicomjson import unpack_metadata
from storage.index.columns import unpack
from storage.index.conditions import joined, match_condition, same_items
from storage.index.dialect import Dialect, Statement
from storage.matching import Between, Like, Match, MatchKind, Query
from storage.model import Answer, JsonElement, Level, Scope
from storage.uids import is_uid

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
ORDERS = {
    Level.STUDY: "study.study_order DESC, study.study_instance_uid DESC",
    Level.SERIES: "series.series_order, series.series_instance_uid, study.study_instance_uid",
    Level.INSTANCE: (
        "series.series_order, series.series_instance_uid, study.study_instance_uid, "
        "instance.instance_order, instance.sop_instance_uid"
    ),
}
# The tables down to a level in the order in which they are joined, by the one that is read first. A page of all
# instances is read from the first instance of the first series on.
_PATHS = {
    (Level.STUDY, "study"): ("study",),
    (Level.SERIES, "study"): ("study", "series"),
    (Level.SERIES, "series"): ("series", "study"),
    (Level.INSTANCE, "study"): ("study", "series", "instance"),
    (Level.INSTANCE, "series"): ("series", "instance", "study"),
    (Level.INSTANCE, "instance"): ("instance", "series", "study"),
}
_LINKS = {
    frozenset(("study", "series")): _SERIES_OF_STUDY,
    frozenset(("series", "instance")): _INSTANCE_OF_SERIES,
}

_STUDY_DATE = by_keyword("StudyDate")
_AFTER_DIGITS = "~"
_FIRST_DATE = "00000001"

# A study without a Patient ID says nothing about whose it is, so it is a patient of its own.
_LATEST_OF_PATIENT = """NOT EXISTS (
  SELECT 1 FROM study AS later WHERE {later} = {study} AND later.patient_id = study.patient_id
    AND later.issuer_of_patient_id IS NOT DISTINCT FROM study.issuer_of_patient_id
    AND (later.study_order, later.study_instance_uid) > ({order}, {uid})
    AND {condition})"""


# ---- what is returned --------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Plan:
    """What the answers to a query hold: for each tag, ascending, the level it comes from and what stands for none.

    It depends on the shape of a query, not on its values. of_document: tags of the instance's whole metadata to
    return, all of them, or none. selected: the columns of a row; selected_alone: those of an instance where
    ``selected_of_parents`` were asked for apart, once for a whole series.
    """

    level: Level
    elements: tuple[tuple[str, Level, JsonElement | None], ...]
    selected: str
    selected_alone: str
    selected_of_parents: str
    of_document: frozenset[str] | Literal["all"] = frozenset()


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
_PLACES = {
    Level.STUDY: ("study.study_order",),
    Level.SERIES: ("series.series_order",),
    Level.INSTANCE: ("series.series_order", "instance.instance_order"),
}
_UIDS = ("study.study_instance_uid", "series.series_instance_uid", "instance.sop_instance_uid")


def plan_of(query: Query) -> Plan:
    """What the answers hold: the default of the level, what is included and what is matched.

    A search that does not name the study, or the series, gets their default attributes as well (PS3.18 §10.6.3.3).
    """
    scope = query.scope or Scope("")
    include = query.include if query.include == "all" else frozenset(query.include)
    matched = frozenset(match.attribute.tag for match in query.matches)
    is_named = bool(scope.study_instance_uid), bool(scope.series_instance_uid)
    return _plan(table(), query.level, include, matched, *is_named)


@lru_cache(maxsize=512)
def _plan(
    known: Table,
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

    returned = [attribute for attribute in known.attributes if is_returned(attribute)]
    elements: list[tuple[str, Level, JsonElement | None]] = [
        (a.tag, max(a.level, Level.STUDY), {"vr": a.vr} if _is_always_there(a, asked) else None) for a in returned
    ]
    if level > Level.PATIENT:
        tag, online = ONLINE
        elements.append((tag, level, online))
    sources = {source for tag, source, _ in elements if tag not in _IDENTITY_TAGS}
    ordered = tuple(sorted(elements, key=lambda element: element[0]))
    of_document = _of_document(level, include)
    own, above = sources & {Level.INSTANCE}, sources - {Level.INSTANCE}
    return Plan(
        level,
        ordered,
        _selected(level, sources, of_document),
        _selected(level, own, of_document),
        ", ".join(_columns(Level.SERIES, above)),
        of_document,
    )


def _of_document(level: Level, include: frozenset[str] | Literal["all"]) -> frozenset[str] | Literal["all"]:
    """What an instance's answer takes from its metadata: that which rows do not keep."""
    if level is not Level.INSTANCE or include == "all":
        return include if level is Level.INSTANCE else frozenset()
    return frozenset(tag for tag in include if by_tag(tag) is None)


_IDENTITY_TAGS = frozenset(("0020000D", "0020000E", "00080018"))


def _is_always_there(attribute: Attribute, asked: set[str]) -> bool:
    return attribute.returned is Returned.ALWAYS or attribute.top_tag in asked


def _selected(level: Level, sources: set[Level], of_document: frozenset[str] | Literal["all"]) -> str:
    """The columns of a row: UIDs down to the level, then for each level its attributes, or NULL where none is used, and
    last what its place in the order depends on beside the UIDs.
    """
    depth = max(level, Level.STUDY)
    names = [*_UIDS[:depth], *_columns(depth, sources)]
    if of_document:
        names.append("document.metadata")
    return ", ".join((*names, *_PLACES[depth]))


def _columns(depth: Level, sources: set[Level]) -> Iterator[str]:
    for source, of_level in _COLUMNS_OF_LEVEL.items():
        if source <= depth:
            yield from of_level if source in sources else ["NULL"] * len(of_level)


def answers_of(plan: Plan, rows: Iterable[Sequence[Any]]) -> Iterator[Answer]:
    """The rows of the query's statements as answers. What neighbours have in common is read once."""
    depth = max(plan.level, Level.STUDY)
    spans = spans_of(plan)
    known: dict[Level, tuple[Sequence[str], dict[str, JsonElement]]] = {}
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
        if plan.of_document:
            elements = _with_document(elements, row[-1 - len(_PLACES[depth])], plan.of_document)
        scope = Scope("") if plan.level is Level.PATIENT else Scope(*uids)
        yield Answer(plan.level, scope, elements, place_of(depth, row))


def _with_document(
    elements: Mapping[str, JsonElement], packed: bytes, wanted: frozenset[str] | Literal["all"]
) -> dict[str, JsonElement]:
    """The elements with those of the metadata that rows do not keep, but for values that are elsewhere; ascending."""
    document = orjson.loads(unpack_metadata(packed, ""))
    tags = document.keys() if wanted == "all" else wanted & document.keys()
    found = {tag: document[tag] for tag in tags if by_tag(tag) is None and "BulkDataURI" not in document[tag]}
    return dict(sorted({**found, **elements}.items()))


def place_of(level: Level, row: Sequence[Any]) -> tuple[str | int, ...]:
    """The values of ``ORDERS`` in a row."""
    if level is Level.STUDY:
        return row[-1], row[0]
    if level is Level.SERIES:
        return row[-1], row[1], row[0]
    return row[-2], row[1], row[0], row[-1], row[2]


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


@dataclass(frozen=True, slots=True)
class Lead:
    """Where a statement starts: only these rows of a table can lead to an answer.

    is_ordered: whether they are studies, in the order of answers.
    """

    table: str
    ids: Sequence[int]
    is_ordered: bool = False


@dataclass(frozen=True, slots=True)
class DateRange:
    """A part of the order of studies: outside of it no study matches that has a single Study Date.

    is_exact: within it every study that has one matches.
    """

    match: Match
    first: str
    last: str
    is_exact: bool


def search_statement(
    query: Query,
    plan: Plan,
    dialect: Dialect,
    lead: Lead | None = None,
    outliers: Sequence[int] | None = (),
    *,
    selected: str = "",
) -> Statement:
    """The statement that answers a query, from some rows on if ``lead`` names them.

    lead: rows to start at. outliers: studies with several dates that may match, wherever ``date_range`` ends; None
    for too many to name. selected: other columns than those of the plan.
    """
    level = max(query.level, Level.STUDY)
    within = date_range(query) if lead is None and outliers is not None and level is Level.STUDY else None
    # Nothing but the order has to be read for it then: dates are not in the index of it.
    is_said_by_order = within is not None and within.is_exact and query.level is Level.STUDY
    said_by_order = within.match if within is not None and is_said_by_order else None
    parts = [_condition(query, dialect, said_by_order)]
    first = _first_table(query, level) if lead is None else lead.table
    if lead is not None:
        parts.append(dialect.among(f"{lead.table}.id", lead.ids))
    elif within is not None:
        parts.append(_order_range(within, outliers or (), dialect))
    if query.level is Level.PATIENT:
        parts.append(_latest_of_patient(parts[0], dialect))
    if query.after is not None:
        parts += _behind(level, query.after)
    condition, parameters = joined(parts, " AND ")
    tables = _joined_tables(level, first, dialect)
    if plan.of_document:
        tables += f" {dialect.join} document ON document.instance = instance.id"
    text = (
        f"SELECT {selected or plan.selected} FROM {tables} WHERE {condition} "  # noqa: S608 - constants of this module
        f"ORDER BY {ORDERS[level]} LIMIT ? OFFSET ?"
    )
    return text, [*parameters, dialect.no_limit if query.limit is None else query.limit, query.offset]


def parents_statement(plan: Plan, scope: Scope) -> Statement:
    """What a row says of the series that ``scope`` names, and of its study: the columns behind its UIDs."""
    condition, parameters = scope_condition(Scope(scope.study_instance_uid, scope.series_instance_uid))
    return f"SELECT {plan.selected_of_parents} FROM {JOINS[Level.SERIES]} WHERE {condition}", parameters  # noqa: S608 - constants of this module


def _first_table(query: Query, level: Level) -> str:
    """Where to start without a lead: at the resource that is named, else where the order starts."""
    scope = query.scope or Scope("")
    if scope.study_instance_uid or level is Level.STUDY:
        return "study"
    return "instance" if scope.sop_instance_uid and level is Level.INSTANCE else "series"


def _joined_tables(level: Level, first: str, dialect: Dialect) -> str:
    names = _PATHS[level, first]
    text = first
    for number, name in enumerate(names[1:], start=1):
        link = next(_LINKS[pair] for known in names[:number] if (pair := frozenset((known, name))) in _LINKS)
        text += f" {dialect.join} {name} ON {link}"
    return text


def date_range(query: Query) -> DateRange | None:
    """The part of the order of studies that a key of Study Date leaves, if there is one."""
    for match in query.conditions():
        if match.attribute is _STUDY_DATE and match.kind is not MatchKind.EMPTY:
            terms = [term for term in match.terms[0] if not isinstance(term, Like)]
            lows = [term.low if isinstance(term, Between) else term.text for term in terms]
            highs = [term.high if isinstance(term, Between) else term.text for term in terms]
            first = max(min(lows), _FIRST_DATE)  # those without a date are before it
            return DateRange(match, first, max(highs) + _AFTER_DIGITS, len(terms) == 1)
    return None


def _order_range(within: DateRange, outliers: Sequence[int], dialect: Dialect) -> Statement:
    condition: Statement = ("study.study_order BETWEEN ? AND ?", [within.first, within.last])
    return joined([condition, dialect.among("study.id", outliers)], " OR ") if outliers else condition


def _latest_of_patient(condition: Statement, dialect: Dialect) -> Statement:
    """No later study that matches belongs to the same patient. The condition once more, of another row.

    SQLite compares a pair by an index only with what has no affinity, as a filtered column.
    """
    text, parameters = condition
    later, study = dialect.probed("later.patient_id"), dialect.probed("study.patient_id")
    of_later = _STUDY_COLUMN.sub("later.", text)
    order, uid = dialect.filtered("study.study_order"), dialect.filtered("study.study_instance_uid")
    of_patient = _LATEST_OF_PATIENT.format(later=later, study=study, order=order, uid=uid, condition=of_later)
    return of_patient, list(parameters)


_STUDY_COLUMN = re.compile(r"\bstudy\.")


def _behind(level: Level, place: Sequence[str | int]) -> list[Statement]:
    """The rows behind a place in the order; said once more of the leading table alone, whose index can start there."""
    if level is Level.STUDY:
        return [
            ("study.study_order <= ?", [place[0]]),
            ("(study.study_order, study.study_instance_uid) < (?, ?)", list(place)),
        ]
    columns_in_order = ORDERS[level]
    places = ", ".join("?" * len(place))
    return [
        ("(series.series_order, series.series_instance_uid) >= (?, ?)", list(place[:2])),
        (f"({columns_in_order}) > ({places})", list(place)),
    ]


def scope_condition(scope: Scope | None) -> Statement:
    """What holds for the rows under a scope, in the tables down to its level. What is no UID names nothing."""
    named = scope or Scope("")
    uids = (named.study_instance_uid, named.series_instance_uid, named.sop_instance_uid)
    if not all(is_uid(uid) for uid in uids if uid):
        return "FALSE", []
    given = [(f"{column} = ?", uid) for column, uid in zip(_UIDS, uids, strict=True) if uid]
    return " AND ".join(text for text, _ in given) or "TRUE", [uid for _, uid in given]


def _condition(query: Query, dialect: Dialect, without: Match | None = None) -> Statement:
    """All conditions of a query: its scope, matches at its level and above, and one row below for those below.

    without: a match that is said otherwise.
    """
    matches = [match for match in query.conditions() if match is not without]
    own_level = max(query.level, Level.STUDY)
    here = [match for match in matches if match.attribute.level <= own_level]
    below = [match for match in matches if match.attribute.level > own_level]
    parts = [scope_condition(query.scope), *_all_of(here, dialect)]
    if below:
        parts.append(_exists_below(own_level, below, dialect))
    return joined(parts, " AND ")


def _all_of(matches: Sequence[Match], dialect: Dialect) -> list[Statement]:
    return [*(match_condition(match, dialect) for match in matches), *same_items(matches, dialect)]


def _exists_below(level: Level, matches: Sequence[Match], dialect: Dialect) -> Statement:
    deepest = max(match.attribute.level for match in matches)
    tables = ["series", "instance"][level - Level.STUDY : deepest - Level.STUDY]
    links = [_SERIES_OF_STUDY, _INSTANCE_OF_SERIES][level - Level.STUDY : deepest - Level.STUDY]
    condition, parameters = joined(_all_of(matches, dialect), " AND ")
    text = f"EXISTS (SELECT 1 FROM {', '.join(tables)} WHERE {' AND '.join(links)} AND {condition})"  # noqa: S608 - constants of this module
    return text, parameters
