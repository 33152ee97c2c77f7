"""What a search must answer, in plain Python: the archive as a list of instances, every row asked by Match.accepts.

Written from the promises of ``Index``, ``Query`` and ``Match`` and from the order that ``storage.index.sql`` states,
not from any SQL. PS3.4 §C.2.2.2, PS3.18 §10.6.3.3
"""

from __future__ import annotations

import decimal
from collections import defaultdict
from functools import cached_property, lru_cache

import orjson

from storage.attributes import ATTRIBUTES, Attribute, Returned, by_keyword
from storage.forms import MAXIMUM_SEARCHED_VALUES, search_forms
from storage.matching import Match, MatchKind, Query
from storage.model import Answer, Entry, Level, Scope

ABSURD = 1 << 62


def key(keyword: str) -> Attribute:
    """An attribute that must be in the table."""
    attribute = by_keyword(keyword)
    assert attribute is not None, keyword
    return attribute


def row_level(attribute: Attribute) -> Level:
    """The level of the rows that hold an attribute; what is said of a patient stands with each study."""
    return max(attribute.level, Level.STUDY)


def first_form(row: Row, keyword: str):
    """The first value of an attribute that can be compared."""
    attribute = key(keyword)
    return next((form for group in search_forms(attribute, row.element(attribute)) for form in group if form), None)


def number_order(row: Row, keyword: str):
    """Numbers sort as integers; missing and absurd ones go last."""
    form = first_form(row, keyword)
    number = ABSURD if form is None else decimal.Decimal(form)
    return ABSURD if abs(number) >= ABSURD else int(number)


class Row:
    """A study, series or instance with what is known of it by tag; ``computed`` is maintained."""

    def __init__(self, level: Level, uid: str, parent: Row | None):
        self.level, self.uid, self.parent = level, uid, parent
        self.below: dict[str, Row] = {}
        self.held: dict[str, dict] = {}
        self.computed: dict[str, dict] = {}

    @cached_property
    def path(self) -> tuple[Row, ...]:
        """The study first, this row last."""
        return (*(self.parent.path if self.parent else ()), self)

    @property
    def uids(self) -> tuple[str, ...]:
        return tuple(row.uid for row in self.path)

    def at(self, level: Level) -> Row:
        """The row of that level that this one belongs to."""
        return self.path[level - Level.STUDY]

    def element(self, attribute: Attribute):
        """What this row says of an attribute of its level; the sequence for one that is nested."""
        return self.computed.get(attribute.tag) or self.held.get(attribute.top_tag)

    @cached_property
    def patient(self):
        """Whose study it is: patients are one for each ID and issuer; without an ID, a patient of its own."""
        ids, issuers = (search_forms(one, self.element(one)) for one in (key("PatientID"), key("IssuerOfPatientID")))
        return (ids, issuers) if any(ids[0]) else self.uid

    def gain(self, *elements):
        """The first value that is not empty stays."""
        for one in elements:
            for tag, element in one.items():
                self.held.setdefault(tag, element)


class Oracle:
    """An archive in memory. ``add`` and ``delete`` first, then ``search``: the first search closes the books."""

    def __init__(self):
        self._studies: dict[str, Row] = {}
        self._sop_instances: dict[str, Row] = {}
        self._entries: list[Entry] = []

    # -- what Index.add and Index.delete promise

    def add(self, entry):
        """An instance of a UID that is there already changes nothing, whatever it says."""
        instance = entry.instance
        if instance.sop_instance_uid in self._sop_instances:
            return
        self._entries.append(entry)
        study = self._studies.setdefault(
            instance.study_instance_uid, Row(Level.STUDY, instance.study_instance_uid, None)
        )
        series = self._child(study, Level.SERIES, instance.series_instance_uid)
        row = self._child(series, Level.INSTANCE, instance.sop_instance_uid)
        self._sop_instances[row.uid] = row
        study.gain(entry.attributes[Level.PATIENT], entry.attributes[Level.STUDY])
        series.gain(entry.attributes[Level.SERIES])
        row.gain(entry.attributes[Level.INSTANCE])
        row.computed["00080016"] = {"vr": "UI", "Value": [instance.sop_class_uid]}
        row.computed["00083002"] = {"vr": "UI", "Value": [instance.transfer_syntax_uid]}

    @staticmethod
    def _child(parent, level, uid):
        return parent.below.setdefault(uid, Row(level, uid, parent))

    def delete(self, scope: Scope):
        """What is under a study, a series or an instance goes, and all is as though it had never come."""
        uids = [uid for uid in (scope.study_instance_uid, scope.series_instance_uid, scope.sop_instance_uid) if uid]
        gone = {row.uid for row in self._sop_instances.values() if list(row.uids[: len(uids)]) == uids}
        left = [entry for entry in self._entries if entry.instance.sop_instance_uid not in gone]
        self.__init__()
        for entry in left:
            self.add(entry)

    # -- rows in order

    @cached_property
    def rows(self) -> dict[Level, list[Row]]:
        """Studies by date, time, UID, descending; series by number, UID, study; instances by series, number, UID."""
        studies = list(self._studies.values())
        series = [row for study in studies for row in study.below.values()]
        instances = [row for one in series for row in one.below.values()]
        for study in studies:
            self._count(study)
        studies.sort(key=lambda row: (self._date(row), row.uid), reverse=True)
        series.sort(key=self._series_order)
        instances.sort(key=lambda row: (self._series_order(row.parent), number_order(row, "InstanceNumber"), row.uid))
        return {Level.STUDY: studies, Level.SERIES: series, Level.INSTANCE: instances}

    @staticmethod
    def _date(study):
        return first_form(study, "StudyDate") or "00000000", first_form(study, "StudyTime") or "000000.000000"

    @staticmethod
    def _series_order(series):
        return number_order(series, "SeriesNumber"), series.uid, series.parent.uid

    @staticmethod
    def _count(study):
        """Identity, counts and lists."""
        modality, modalities, classes, count = key("Modality"), set(), set(), 0
        for series in study.below.values():
            modalities.update(search_forms(modality, series.element(modality))[0])
            count += len(series.below)
            series.computed["0020000E"] = {"vr": "UI", "Value": [series.uid]}
            series.computed["00201209"] = {"vr": "IS", "Value": [len(series.below)]}
            for row in series.below.values():
                classes.update(row.computed["00080016"]["Value"])
                row.computed["00080018"] = {"vr": "UI", "Value": [row.uid]}
        study.computed["0020000D"] = {"vr": "UI", "Value": [study.uid]}
        study.computed["00201206"] = {"vr": "IS", "Value": [len(study.below)]}
        study.computed["00201208"] = {"vr": "IS", "Value": [count]}
        study.computed["00080062"] = {"vr": "UI", "Value": sorted(classes)}
        if modalities:
            study.computed["00080061"] = {"vr": "CS", "Value": sorted(modalities)}

    # -- what is asked

    def search(self, query: Query) -> list[Answer]:
        """The answers, complete."""
        return [answer_of(query, row) for row in self.found(query)]

    def found(self, query: Query) -> list[Row]:
        """The rows of the answers, in order, cut by limit and offset; of a patient the latest study that matches."""
        level = max(query.level, Level.STUDY)
        conditions = query.conditions()
        here = self._holding(level, [match for match in conditions if row_level(match.attribute) <= level])
        rows = [row for row in here if _is_under(row, query.scope)]
        if below := [match for match in conditions if row_level(match.attribute) > level]:
            deepest = max(match.attribute.level for match in below)
            one_exists = {row.at(level) for row in self._holding(deepest, below)}
            rows = [row for row in rows if row in one_exists]
        if query.level is Level.PATIENT:
            latest: dict[object, Row] = {}
            for row in rows:
                latest.setdefault(row.patient, row)
            rows = list(latest.values())
        return rows[query.offset :][: query.limit]

    def _holding(self, level, matches):
        """Rows of a level for which, with the rows they belong to, all matches hold."""
        holding = defaultdict(list)
        for match in matches:
            holding[row_level(match.attribute)].append(self._that_match((match,)))
        sequences = defaultdict(list)
        for match in matches:
            if match.attribute.is_nested and match.kind is not MatchKind.EMPTY:
                sequences[match.attribute.top_tag].append(match)
        for of_one_sequence in sequences.values():
            holding[row_level(of_one_sequence[0].attribute)].append(self._that_match(tuple(of_one_sequence)))
        rows = self.rows[level]
        for at, accepted in holding.items():
            for one in sorted(accepted, key=len):
                rows = [row for row in rows if row.at(at) in one]
        return rows

    @cached_property
    def _kinds(self):
        """For each key the different elements there are, each with the rows that hold it."""
        kinds = defaultdict(dict)
        for attribute in (one for one in ATTRIBUTES if one.is_key):
            for row in self.rows[row_level(attribute)]:
                element = row.element(attribute)
                text = orjson.dumps(element)
                kinds[attribute.tag].setdefault(text, (element, set()))[1].add(row)
        return {tag: list(of_tag.values()) for tag, of_tag in kinds.items()}

    @cached_property
    def _that_match(self):
        return lru_cache(maxsize=4096)(self._rows_that_match)

    def _rows_that_match(self, matches: tuple[Match, ...]) -> frozenset[Row]:
        """Rows whose element every match accepts; several matches are of one sequence, and accept one item of it."""
        accepted = set()
        for element, rows in self._kinds.get(matches[0].attribute.tag, ()):
            if len(matches) == 1:
                holds = matches[0].accepts(element)
            else:
                items = ((element or {}).get("Value") or [])[:MAXIMUM_SEARCHED_VALUES]
                holds = any(all(one.accepts({"vr": "SQ", "Value": [item]}) for one in matches) for item in items)
            if holds:
                accepted |= rows
        return frozenset(accepted)


def _is_under(row, scope):
    if scope is None:
        return True
    named = (scope.study_instance_uid, scope.series_instance_uid, scope.sop_instance_uid)
    return all(uid in ("", has) for uid, has in zip(named, row.uids, strict=False))


def answer_of(query: Query, row: Row) -> Answer:
    """An answer: the default of the level, what is included and what is matched, never from a level below.

    A search that does not name the study, or the series, gets their default as well. PS3.18 §10.6.3.3
    """
    scope = query.scope or Scope("")
    default = {query.level}
    if query.level is Level.STUDY or (query.level > Level.STUDY and not scope.study_instance_uid):
        default |= {Level.PATIENT, Level.STUDY}
    if query.level is Level.INSTANCE and not scope.series_instance_uid:
        default.add(Level.SERIES)
    asked = {match.attribute.top_tag for match in query.matches}
    if query.include != "all":
        asked |= {tag[:8] for tag in query.include}
    attributes = {"00080056": {"vr": "CS", "Value": ["ONLINE"]}} if query.level > Level.PATIENT else {}
    for attribute in ATTRIBUTES:
        if attribute.is_nested or attribute.level > query.level:
            continue
        is_asked = attribute.tag in asked
        is_default = attribute.level in default or attribute.is_inherited
        is_returned = is_default and attribute.returned is not Returned.ON_REQUEST
        if not (is_asked or is_returned or query.include == "all"):
            continue
        element = row.at(row_level(attribute)).element(attribute)
        if element is None and (is_asked or attribute.returned is Returned.ALWAYS):
            element = {"vr": attribute.vr}
        if element is not None:
            attributes[attribute.tag] = element
    named = Scope("") if query.level is Level.PATIENT else Scope(*row.uids)
    return Answer(query.level, named, dict(sorted(attributes.items())))
