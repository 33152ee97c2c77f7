"""Batch: what is written in one transaction. Parents, rows, counts and changes of an instance belong together (Q28).

A new study or series is written with the instance it is for. What parents gain otherwise, counts and the lists of
modalities and SOP classes, is put off to the end of the transaction, one update for each parent however many instances
came. It runs statements on the connection it is given and never commits.
"""

from __future__ import annotations

import dataclasses
import datetime as dt
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

import orjson

from storage.attributes import Attribute, by_keyword, table
from storage.errors import GatewayError
from storage.forms import search_forms
from storage.index import quotas, tombstones, versions
from storage.index.base import OtherKey
from storage.index.columns import (
    date_order,
    derived_columns,
    derived_values,
    first_form,
    number_order,
    pack,
    unpack,
)
from storage.index.engine import Connection
from storage.index.extended import advance, fall_back, insert_rows, of_table, places, replace_rows
from storage.index.fragments import attributes_text, read_attributes
from storage.index.sql import INSTANCE_COLUMNS, INSTANCE_TABLES, scope_condition
from storage.index.versions import ENCODING, RECEIVED
from storage.model import (
    ON_DEFAULT_TERMS,
    Burial,
    Conflict,
    Entry,
    Extent,
    Instance,
    JsonElement,
    Level,
    Outcome,
    Receipt,
    Scope,
    Source,
    Terms,
)

OTHER_PATIENT = "The instance names another patient than the study it belongs to"

STORED, REPLACED, DELETED = "stored", "replaced", "deleted"
_REFILLED_AT_ONCE = 1000


def _key(keyword: str) -> Attribute:
    attribute = by_keyword(keyword)
    assert attribute is not None
    return attribute


_STUDY_DATE, _STUDY_TIME = _key("StudyDate"), _key("StudyTime")
_SERIES_NUMBER, _INSTANCE_NUMBER = _key("SeriesNumber"), _key("InstanceNumber")
_MODALITY = _key("Modality")
_PATIENT_KEYS = (_key("PatientID"), _key("PatientName"))


# ---- texts, made of the attribute table's column names and constants ----------------------------------------------


def _insert(table: str, names: Sequence[str]) -> str:
    places = ", ".join("?" * len(names))
    return f"INSERT INTO {table} ({', '.join(names)}) VALUES ({places})"  # noqa: S608 - constant names


def _update(table: str, names: Sequence[str]) -> str:
    return f"UPDATE {table} SET {', '.join(f'{name} = ?' for name in names)} WHERE id = ?"  # noqa: S608 - constant names


STUDY_DERIVED = ("study_order", "attributes", *derived_columns(Level.PATIENT, Level.STUDY))
SERIES_DERIVED = ("series_order", "attributes", *derived_columns(Level.SERIES))
_INSTANCE_DERIVED = ("instance_order", "attributes", *derived_columns(Level.INSTANCE))

_GIVING_ID = " RETURNING id"
_OF_FIRST_INSTANCE = (
    "modalities_in_study",
    "sop_classes_in_study",
    "number_of_study_related_series",
    "number_of_study_related_instances",
)
_INSERT_STUDY = _insert("study", ("study_instance_uid", *STUDY_DERIVED, *_OF_FIRST_INSTANCE)) + _GIVING_ID
_INSERT_SERIES = (
    _insert("series", ("study", "series_instance_uid", *SERIES_DERIVED, "number_of_series_related_instances"))
    + _GIVING_ID
)
_INSERT_INSTANCE = (
    _insert("instance", ("series", "has_other_patient", *ENCODING, *RECEIVED, *_INSTANCE_DERIVED)) + _GIVING_ID
)
_REWRITE_INSTANCE = _update("instance", (*ENCODING, *_INSTANCE_DERIVED))
_REWRITE_DOCUMENT = (
    "INSERT INTO document (instance, metadata, frame_table, bulk) VALUES (?, ?, ?, ?) ON CONFLICT (instance) DO UPDATE "
    "SET metadata = excluded.metadata, frame_table = excluded.frame_table, bulk = excluded.bulk"
)
_UPDATE_STUDY = _update("study", STUDY_DERIVED)
_UPDATE_SERIES = _update("series", SERIES_DERIVED)

# One row always: whether something was deleted that had this key, and the instance of that UID, if there is one.
_SELECT_CURRENT = (
    f"SELECT {tombstones.IS_BURIED}, {INSTANCE_COLUMNS} FROM (SELECT 1 AS one) AS always "  # noqa: S608 - constant names
    "LEFT JOIN instance ON instance.sop_instance_uid = ? LEFT JOIN series ON instance.series = series.id "
    "LEFT JOIN study ON series.study = study.id"
)
_SELECT_STUDY = (
    "SELECT id, attributes, modalities_in_study, sop_classes_in_study FROM study WHERE study_instance_uid = ?"
)
_SELECT_SERIES = "SELECT id, attributes FROM series WHERE study = ? AND series_instance_uid = ?"
_SELECT_PLACE = f"SELECT instance.id, series.id, study.id FROM {INSTANCE_TABLES} WHERE instance.sop_instance_uid = ?"  # noqa: S608 - constant names
_DELETE_INSTANCE = (
    "DELETE FROM document WHERE instance = ?",
    "DELETE FROM thumbnail WHERE instance = ?",
    "DELETE FROM instance WHERE id = ?",
)
_RECEIVED_AGAIN = (
    "UPDATE instance SET last_received_at = ?, receive_count = receive_count + 1 WHERE sop_instance_uid = ?"
)
_INSERT_CHANGE = (
    "INSERT INTO change (sequence, kind, study_instance_uid, series_instance_uid, sop_instance_uid, changed_at) "
    "VALUES ((SELECT coalesce(max(sequence), 0) + 1 FROM change), ?, ?, ?, ?, ?)"
)


# ---- an entry, made ready outside the transaction ------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Row:
    """An entry with all that can be worked out before the transaction: what its study, series and instance say."""

    entry: Entry
    study: Mapping[str, JsonElement]
    series: Mapping[str, JsonElement]
    instance: tuple[Any, ...]
    bulk: bytes


def row_of(entry: Entry) -> Row:
    """Make an entry ready. Pure, and safe to call in the thread that stores."""
    patient, study, series, instance = (entry.attributes.get(level, {}) for level in Level)
    places = {path: (value.start, value.end, value.vr) for path, value in entry.bulk.items()}
    return Row(
        entry,
        {**patient, **study},
        series,
        (
            number_order(first_form(instance, _INSTANCE_NUMBER)),
            attributes_text(instance, Level.INSTANCE),
            *derived_values(instance, Level.INSTANCE),
        ),
        orjson.dumps(places),
    )


def study_values(attributes: Mapping[str, JsonElement]) -> tuple[Any, ...]:
    """What ``STUDY_DERIVED`` holds for the attributes of a patient and a study."""
    order = date_order(first_form(attributes, _STUDY_DATE), first_form(attributes, _STUDY_TIME))
    levels = (Level.PATIENT, Level.STUDY)
    return (order, attributes_text(attributes, *levels), *derived_values(attributes, *levels))


def series_values(attributes: Mapping[str, JsonElement]) -> tuple[Any, ...]:
    """What ``SERIES_DERIVED`` holds for the attributes of a series."""
    order = number_order(first_form(attributes, _SERIES_NUMBER))
    return (order, attributes_text(attributes, Level.SERIES), *derived_values(attributes, Level.SERIES))


_ANEW: Mapping[Level, tuple[str, str, Callable[[Mapping[str, JsonElement]], tuple[Any, ...]]]] = {
    Level.STUDY: ("SELECT attributes FROM study WHERE id = ?", _UPDATE_STUDY, study_values),
    Level.SERIES: ("SELECT attributes FROM series WHERE id = ?", _UPDATE_SERIES, series_values),
}


def _names_another_patient(row: Row, known: Mapping[str, JsonElement]) -> bool:
    """Whether Patient ID or Patient's Name are both there and differ."""
    for key in _PATIENT_KEYS:
        ours, theirs = row.study.get(key.tag), known.get(key.tag)
        if ours and theirs and ours != theirs:
            one, other = first_form(row.study, key), first_form(known, key)
            if one and other and one != other:
                return True
    return False


def refill(connection: Connection) -> None:
    """Work out anew the columns of studies and series that follow from the attributes they keep, in a transaction."""
    for name, update, values in (("study", _UPDATE_STUDY, study_values), ("series", _UPDATE_SERIES, series_values)):
        last = 0
        text = f"SELECT id, attributes FROM {name} WHERE id > ? ORDER BY id LIMIT {_REFILLED_AT_ONCE}"  # noqa: S608 - constant names
        while rows := connection.execute(text, (last,)).fetchall():
            connection.executemany(update, [(*values(read_attributes(kept)), row_id) for row_id, kept in rows])
            last = rows[-1][0]


_Result = TypeVar("_Result")


# ---- the batch -----------------------------------------------------------------------------------------------------


@dataclass(slots=True)
class _Series:
    id: int
    attributes: Mapping[str, JsonElement]


@dataclass(slots=True)
class _Study(_Series):
    """As a series; the lists are as the row has them, without what was gained since."""

    modalities: str | None = None
    sop_classes: str | None = None


@dataclass(slots=True)
class _Gain:
    """What a study gained in this transaction and is not told of yet, and its lists with what they gained."""

    modalities: set[str]
    sop_classes: set[str]
    instances: int = 0
    series: int = 0
    instances_of_series: dict[int, int] = field(default_factory=dict)


class Batch:
    """One transaction's acts. Not thread-safe: it lives in the thread that commits."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._studies: dict[str, _Study] = {}
        self._series: dict[tuple[int, str], _Series] = {}
        self._gains: dict[int, _Gain] = {}
        self._extended: Sequence[Attribute] | None = None if table().extended else ()
        self._first_id = 0
        self._now = dt.datetime.now(dt.UTC).isoformat(timespec="microseconds")

    def forget(self) -> None:
        """Drop what is known of parents: an act that may have made one was undone."""
        self._studies.clear()
        self._series.clear()

    def apart(self, act: Callable[[Connection], _Result]) -> _Result:
        """Run an act that may change what is known of parents."""
        result = act(self._connection)
        self.forget()
        return result

    # -- store

    def add(
        self, row: Row, terms: Terms = ON_DEFAULT_TERMS, *, is_replayed: bool = False
    ) -> Receipt | GatewayError | OtherKey:
        """Insert an entry as ``Index.add`` promises it; what it would raise is returned, as the transaction goes on.

        is_replayed: its object lies where it says, and no key is given up.
        """
        entry, instance = row.entry, row.entry.instance
        is_buried, *found = self._connection.execute(
            _SELECT_CURRENT, (instance.key, instance.sop_instance_uid)
        ).fetchone()
        current = None if found[0] is None else Instance(*found)
        outcome = Outcome.STORED
        if current is not None:
            decision = versions.decided(self._connection, entry, current, terms.conflict)
            if isinstance(decision, GatewayError):
                return decision
            outcome = decision
        quota = terms.quota if terms.quota is not None and self._is_counted(entry, outcome) else None
        if quota is not None and (refused := quotas.refusal(self._connection, quota, instance, self._now)):
            return refused
        key = self._key_for(entry, current, outcome, is_buried=bool(is_buried), is_replayed=is_replayed)
        if key != instance.key:
            return OtherKey(key)
        if quota is not None:
            quotas.charge(self._connection, quota, instance, self._now)
        if current is None:
            receipt = self._insert_instance(row, STORED, versions.received_at(entry.source, self._now))
        elif outcome is Outcome.REPLACED:
            receipt = self._replace(row, current, terms)
        else:
            return self._receive_again(entry, current, outcome, terms)
        versions.note_coercion(self._connection, entry)
        return receipt

    def _key_for(
        self, entry: Entry, current: Instance | None, outcome: Outcome, *, is_buried: bool, is_replayed: bool
    ) -> str:
        """Under which key the object has to be, that of the entry if it may stay there.

        is_buried: something was deleted that had the key of the entry.
        """
        connection, instance = self._connection, entry.instance
        known = "" if current is None else versions.key_of(connection, instance, current)
        if not known and current is not None:
            is_beside = outcome in (Outcome.VARIANT, Outcome.CONFLICT) and versions.is_beside(connection, entry)
            if outcome is Outcome.DUPLICATE or is_beside:  # the bytes as they came are there in another form
                if not is_replayed:
                    tombstones.give_up(connection, instance.key, self._now)
                return instance.key
        if not is_buried:
            return known or instance.key
        if not is_replayed:
            return tombstones.claim(connection, instance.key, known)
        if not known:
            tombstones.revive(connection, instance.key)
        return known or instance.key

    def _is_counted(self, entry: Entry, outcome: Outcome) -> bool:
        """Whether a quota counts it: bytes that are kept already cost nothing."""
        if outcome in (Outcome.STORED, Outcome.DUPLICATE):
            return outcome is Outcome.STORED
        return not versions.is_beside(self._connection, entry)

    def _insert_instance(self, row: Row, kind: str, received: Sequence[Any]) -> Receipt:
        """Write the rows of an instance whose UID is free, and what its parents gain."""
        instance = row.entry.instance
        study, is_new_study = self._study(row)
        series, is_new_series = self._series_of(study, instance.series_instance_uid, row.series)
        is_other = not is_new_study and _names_another_patient(row, study.attributes)
        row_id = self._insert(
            _INSERT_INSTANCE, (series.id, int(is_other), *versions.encoding_of(instance), *received, *row.instance)
        )
        self._connection.execute(
            "INSERT INTO document (instance, metadata, frame_table, bulk) VALUES (?, ?, ?, ?)",
            (row_id, row.entry.metadata, row.entry.frame_table, row.bulk),
        )
        if self._extended != ():
            self._extend(Level.INSTANCE, row_id, row.entry.attributes.get(Level.INSTANCE, {}))
            self._first_id = min(self._first_id or row_id, row_id)
        self.note(kind, instance.scope)
        if not is_new_study:
            self._gain(study, series, instance, is_new_series=is_new_series)
        return Receipt(Outcome.STORED, instance, (OTHER_PATIENT,) if is_other else ())

    def _receive_again(self, entry: Entry, current: Instance, outcome: Outcome, terms: Terms) -> Receipt:
        """The SOP Instance UID is taken: the first stays current, and other bytes are kept beside it (R4, R5)."""
        if outcome is Outcome.DUPLICATE and terms.is_received:
            self._connection.execute(_RECEIVED_AGAIN, (self._now, current.sop_instance_uid))
        elif outcome is not Outcome.DUPLICATE:
            versions.put_beside(self._connection, entry, outcome, self._now)
        return Receipt(outcome, current)

    def _replace(self, row: Row, current: Instance, terms: Terms) -> Receipt:
        """Put an entry in the place of the current version, which is kept beside it.

        The row is a new one, so that all that hangs on it is made anew. Parents that the instance leaves go when they
        are empty; those that stay say what the instances say that are left, the first to come going first.
        """
        connection, instance = self._connection, row.entry.instance
        row_id, series_id, study_id = connection.execute(_SELECT_PLACE, (current.sop_instance_uid,)).fetchone()
        versions.set_aside(connection, current)
        for text in _DELETE_INSTANCE:
            connection.execute(text, (row_id,))
        fall_back(connection)
        self.forget()
        has_moved = current.scope != instance.scope
        left = [(series_id, current.series_instance_uid)]
        emptied = self._remove_empty_parents(study_id, current.study_instance_uid, left)
        has_left_study = current.study_instance_uid != instance.study_instance_uid
        has_left_series = has_left_study or current.series_instance_uid != instance.series_instance_uid
        self._say_anew(Level.STUDY, study_id, {} if has_left_study else row.study)
        self._say_anew(Level.SERIES, series_id, {} if has_left_series else row.series)
        if has_moved:  # else it comes back at once, and is not said to be gone
            tombstones.bury_scopes(connection, emptied, None, self._now)
            tombstones.bury_scopes(connection, [current.scope], None, self._now)
            self.note(DELETED, current.scope)
        received = versions.taken_back(connection, row.entry, self._now, is_received=terms.is_received)
        receipt = self._insert_instance(row, REPLACED, received)
        self._gains.pop(study_id, None)
        self._count_again(study_id)
        self.forget()
        return dataclasses.replace(receipt, outcome=Outcome.REPLACED, replaced=current)

    def _say_anew(self, level: Level, owner: int, coming: Mapping[str, JsonElement]) -> bool:
        """What a study or series says after an instance was taken out, unless what comes for it says all of it; whether
        that is something else than before.
        """
        select, update, values = _ANEW[level]
        found = self._connection.execute(select, (owner,)).fetchone()
        before = {} if found is None else read_attributes(found[0])
        if all(coming.get(tag) == element for tag, element in before.items()):
            return False
        after = versions.first_values(self._connection, level, owner, before)
        changed = {tag for tag in before.keys() | after.keys() if before.get(tag) != after.get(tag)}
        if changed:
            self._connection.execute(update, (*values(after), owner))
            if self._extended != ():
                self._extend(level, owner, after, changed)
        return bool(changed)

    def _insert(self, text: str, values: Sequence[Any]) -> int:
        """Insert a row; returns its id."""
        (row_id,) = self._connection.execute(text, values).fetchone()
        return int(row_id)

    def _extend(
        self, level: Level, owner: int, elements: Mapping[str, JsonElement], gained: Collection[str] | None = None
    ) -> None:
        """Write the rows of extended attributes of a new study, series or instance, or of tags that one gained."""
        if self._extended is None:
            self._extended = tuple(places(self._connection))
        attributes = of_table(self._extended, level)
        if gained is None:
            insert_rows(self._connection, level, owner, elements, attributes)
        else:
            attributes = [one for one in attributes if one.top_tag in gained]
            replace_rows(self._connection, level, owner, elements, attributes)

    def _study(self, row: Row) -> tuple[_Study, bool]:
        uid, attributes = row.entry.instance.study_instance_uid, row.study
        study = self._studies.get(uid)
        if study is None:
            found = self._connection.execute(_SELECT_STUDY, (uid,)).fetchone()
            if found is None:
                lists = united(_modalities(row.series)), united((row.entry.instance.sop_class_uid,))
                study_id = self._insert(_INSERT_STUDY, (uid, *study_values(attributes), *lists, 1, 1))
                study = self._studies[uid] = _Study(study_id, attributes, *lists)
                if self._extended != ():
                    self._extend(Level.STUDY, study_id, attributes)
                return study, True
            study_id, text, modalities, sop_classes = found
            study = self._studies[uid] = _Study(study_id, read_attributes(text), modalities, sop_classes)
        if gained := attributes.keys() - study.attributes.keys():
            study.attributes = {**attributes, **study.attributes}
            self._connection.execute(_UPDATE_STUDY, (*study_values(study.attributes), study.id))
            if self._extended != ():
                self._extend(Level.STUDY, study.id, study.attributes, gained)
        return study, False

    def _series_of(self, study: _Study, uid: str, attributes: Mapping[str, JsonElement]) -> tuple[_Series, bool]:
        series = self._series.get((study.id, uid))
        if series is None:
            found = self._connection.execute(_SELECT_SERIES, (study.id, uid)).fetchone()
            if found is None:
                series_id = self._insert(_INSERT_SERIES, (study.id, uid, *series_values(attributes), 1))
                series = self._series[study.id, uid] = _Series(series_id, attributes)
                if self._extended != ():
                    self._extend(Level.SERIES, series_id, attributes)
                return series, True
            series = self._series[study.id, uid] = _Series(found[0], read_attributes(found[1]))
        if gained := attributes.keys() - series.attributes.keys():
            series.attributes = {**attributes, **series.attributes}
            self._connection.execute(_UPDATE_SERIES, (*series_values(series.attributes), series.id))
            if self._extended != ():
                self._extend(Level.SERIES, series.id, series.attributes, gained)
        return series, False

    def note(self, kind: str, scope: Scope) -> None:
        """Write one change, behind all others (R11)."""
        uids = (scope.study_instance_uid, scope.series_instance_uid, scope.sop_instance_uid)
        self._connection.execute(_INSERT_CHANGE, (kind, *uids, self._now))

    def _gain(self, study: _Study, series: _Series, instance: Instance, *, is_new_series: bool) -> None:
        modalities = _modalities(series.attributes)
        gain = self._gains.get(study.id)
        if gain is None:
            gain = self._gains[study.id] = _Gain(set(unpack(study.modalities)), set(unpack(study.sop_classes)))
        gain.instances += 1
        gain.series += is_new_series
        if not is_new_series:
            gain.instances_of_series[series.id] = gain.instances_of_series.get(series.id, 0) + 1
        gain.sop_classes.add(instance.sop_class_uid)
        gain.modalities.update(modalities)

    def settle(self) -> None:
        """Tell parents what they gained, and extended attributes how far they go."""
        if self._extended and self._first_id:
            advance(self._connection, self._extended, self._first_id)
        for study_id, gain in self._gains.items():
            self._connection.executemany(
                "UPDATE series SET number_of_series_related_instances = number_of_series_related_instances + ? "
                "WHERE id = ?",
                [(count, series_id) for series_id, count in gain.instances_of_series.items()],
            )
            self._connection.execute(
                "UPDATE study SET number_of_study_related_series = number_of_study_related_series + ?, "
                "number_of_study_related_instances = number_of_study_related_instances + ?, "
                "modalities_in_study = ?, sop_classes_in_study = ? WHERE id = ?",
                (gain.series, gain.instances, united(gain.modalities), united(gain.sop_classes), study_id),
            )
        self._gains.clear()

    # -- delete

    def delete(self, scope: Scope, by: Source, per_minute: int) -> Extent | GatewayError | None:
        """Remove what is under a scope as ``Index.delete`` promises it; what it would raise is returned."""
        found = tombstones.extent_of(self._connection, scope)
        if found is None:
            return None
        if refused := tombstones.refusal(self._connection, scope, by, per_minute, self._now):
            return refused
        now = tombstones.moment_of_next(self._connection, self._now)
        deletion = tombstones.note_deletion(self._connection, scope, by, found, now)
        self._take_out(scope, deletion, now)
        return found

    def _take_out(self, scope: Scope, deletion: int, now: str) -> None:
        """Remove the rows under a scope, with tombstones and one change; in memory it holds no more than the series.

        What stays of a study or series says what the instances say that are left, as though the others had never come:
        so it is after a rebuild when their objects are gone.
        """
        condition, parameters = scope_condition(scope)
        touched = self._connection.execute(
            "SELECT DISTINCT study.id, study.study_instance_uid, series.id, series.series_instance_uid "  # noqa: S608 - constants
            f"FROM {INSTANCE_TABLES} WHERE {condition}",
            parameters,
        ).fetchall()
        tombstones.bury_instances(self._connection, condition, parameters, deletion, now)
        self._remove_rows(condition, parameters)
        fall_back(self._connection)
        for study_id, study_uid in sorted({row[:2] for row in touched}):
            series = sorted(row[2:] for row in touched if row[0] == study_id)
            emptied = self._remove_empty_parents(study_id, study_uid, series)
            tombstones.bury_scopes(self._connection, emptied, deletion, now)
            parents = [(Level.STUDY, study_id), *((Level.SERIES, series_id) for series_id, _ in series)]
            changed = [self._say_anew(level, owner, {}) for level, owner in parents]
            if any(changed):
                self._count_again(study_id)
            self._gains.pop(study_id, None)
        self.note(DELETED, scope)
        self.forget()

    def _remove_rows(self, condition: str, parameters: Sequence[Any]) -> None:
        """The rows of instances, their documents, thumbnails and rivals."""
        chosen = f"(SELECT instance.id FROM {INSTANCE_TABLES} WHERE {condition})"  # noqa: S608 - constants
        uids = f"(SELECT instance.sop_instance_uid FROM {INSTANCE_TABLES} WHERE {condition})"  # noqa: S608 - constants
        for text in (
            f"DELETE FROM rival WHERE sop_instance_uid IN {uids}",  # noqa: S608 - constants
            f"DELETE FROM coercion WHERE sop_instance_uid IN {uids}",  # noqa: S608 - constants
            f"DELETE FROM document WHERE instance IN {chosen}",  # noqa: S608 - constants
            f"DELETE FROM thumbnail WHERE instance IN {chosen}",  # noqa: S608 - constants
            f"DELETE FROM instance WHERE id IN {chosen}",  # noqa: S608 - constants
        ):
            self._connection.execute(text, parameters)

    def _remove_empty_parents(
        self, study_id: int, study_uid: str, touched: Iterable[tuple[int, str]]
    ) -> Sequence[Scope]:
        """Remove the series, and the study, that nothing is left in; which they were."""
        emptied = []
        for series_id, series_uid in touched:
            gone = self._connection.execute(
                "DELETE FROM series WHERE id = ? AND NOT EXISTS (SELECT 1 FROM instance WHERE series = series.id)",
                (series_id,),
            )
            if gone.rowcount:
                emptied.append(Scope(study_uid, series_uid))
        gone = self._connection.execute(
            "DELETE FROM study WHERE id = ? AND NOT EXISTS (SELECT 1 FROM series WHERE study = study.id)", (study_id,)
        )
        if gone.rowcount:
            return [*emptied, Scope(study_uid)]
        self._count_again(study_id)
        return emptied

    def _count_again(self, study_id: int) -> None:
        """Counts and lists of a study from its rows, as ``settle`` would have left them."""
        self._connection.execute(
            "UPDATE series SET number_of_series_related_instances = "
            "(SELECT count(*) FROM instance WHERE instance.series = series.id) WHERE study = ?",
            (study_id,),
        )
        series = self._connection.execute(
            "SELECT modality, number_of_series_related_instances FROM series WHERE study = ?", (study_id,)
        ).fetchall()
        sop_classes = self._connection.execute(
            "SELECT DISTINCT instance.sop_class_uid FROM instance JOIN series ON instance.series = series.id "
            "WHERE series.study = ?",
            (study_id,),
        ).fetchall()
        self._connection.execute(
            "UPDATE study SET number_of_study_related_series = ?, number_of_study_related_instances = ?, "
            "modalities_in_study = ?, sop_classes_in_study = ? WHERE id = ?",
            (
                len(series),
                sum(count for _, count in series),
                united(one for modality, _ in series for one in unpack(modality)),
                united(uid for (uid,) in sop_classes),
                study_id,
            ),
        )

    # -- upkeep

    def add_of(self, row: Row, received_at: str, terms: Terms = ON_DEFAULT_TERMS) -> Receipt:
        """Insert an entry as one that came at another time, on terms that refuse nothing, under whichever key the same
        bytes have already.
        """
        now, self._now = self._now, received_at
        try:
            receipt = self.add(row, terms, is_replayed=True)
            if isinstance(receipt, OtherKey):
                receipt = self.add(_under(row, receipt.key), terms, is_replayed=True)
        finally:
            self._now = now
        assert isinstance(receipt, Receipt)
        return receipt

    def make_current_of(self, row: Row, at: str) -> Receipt:
        """Let an entry be the current version, as it became that at another time."""
        return self.add_of(row, at, Terms(Conflict.REPLACE, is_received=False))

    def bury(self, burial: Burial, given_up: Collection[str]) -> None:
        """Remove what is under a scope, as at another time, and keep the tombstones that were kept of it then."""
        self.settle()  # what parents gained in this transaction belongs to rows that may go now
        last = tombstones.last_tombstone(self._connection)
        now, self._now = self._now, burial.deleted_at
        try:
            deletion = tombstones.deletion_of(self._connection, burial)
            if tombstones.extent_of(self._connection, burial.scope) is not None:
                self._take_out(burial.scope, deletion, burial.deleted_at)
        finally:
            self._now = now
        tombstones.make_those_of(self._connection, burial, deletion, last, given_up)

    def recount(self, study_instance_uid: str) -> None:
        """Say of a study and its series what their rows say; those without instances go."""
        found = self._connection.execute(_SELECT_STUDY, (study_instance_uid,)).fetchone()
        if found is None:
            return
        series = self._connection.execute(
            "SELECT id, series_instance_uid FROM series WHERE study = ?", (found[0],)
        ).fetchall()
        self._remove_empty_parents(found[0], study_instance_uid, series)
        self.forget()
        self._gains.pop(found[0], None)

    def derive(self, row: Row) -> bool:
        """Write anew what follows from the bytes of an instance; False if no row has its object."""
        instance = row.entry.instance
        found = self._connection.execute(
            "SELECT id FROM instance WHERE sop_instance_uid = ? AND object_key = ?",
            (instance.sop_instance_uid, instance.key),
        ).fetchone()
        if found is None:
            return False
        self._connection.execute(_REWRITE_INSTANCE, (*versions.encoding_of(instance), *row.instance, found[0]))
        document = (found[0], row.entry.metadata, row.entry.frame_table, row.bulk)
        self._connection.execute(_REWRITE_DOCUMENT, document)
        return True


def _under(row: Row, key: str) -> Row:
    """The same entry with its object under another key."""
    entry = row.entry
    instance = dataclasses.replace(entry.instance, key=key)
    return dataclasses.replace(row, entry=dataclasses.replace(entry, instance=instance))


def _modalities(attributes: Mapping[str, JsonElement]) -> list[str]:
    (forms,) = search_forms(_MODALITY, attributes.get(_MODALITY.tag))
    return [form for form in forms if form]


def united(values: Iterable[str]) -> str | None:
    """Values of several rows as one column's, each once."""
    return pack(sorted(set(values)))
