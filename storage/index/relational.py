"""The index as rows of a relational database: one writer with group commit, any number of reading threads.

Which database that is, is the engine's affair; the statements are the same but for its dialect.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import orjson

from storage.attributes import table
from storage.errors import GatewayError, Gone
from storage.index import probes, stability, tombstones
from storage.index.base import OPERATOR, OtherKey
from storage.index.batch import Batch, row_of
from storage.index.commitments import RelationalCommitments
from storage.index.committer import Committer
from storage.index.deletions import RelationalDeletions
from storage.index.deliveries import RelationalDeliveries
from storage.index.dialect import Dialect
from storage.index.engine import Connection, Engine
from storage.index.extended import incomplete, places, refuse_incomplete, register
from storage.index.fragments import lines_of, texts_of
from storage.index.outbox import RelationalOutbox
from storage.index.probes import Rank, outliers_of, probes_of
from storage.index.quotas import refusal
from storage.index.reindex import read_chunk, write_chunk
from storage.index.sql import (
    INSTANCE_COLUMNS,
    INSTANCE_TABLES,
    ORDERS,
    Lead,
    Plan,
    answers_of,
    parents_statement,
    place_of,
    plan_of,
    scope_condition,
    search_statement,
)
from storage.index.subscribers import RelationalSubscribers
from storage.index.upkeep import RelationalUpkeep
from storage.index.versions import coerced_before, decided, is_beside, versions_of
from storage.matching import Query
from storage.model import (
    ON_DEFAULT_TERMS,
    Answer,
    BulkValue,
    Change,
    Coerced,
    Conflict,
    Document,
    Entry,
    Extent,
    Instance,
    Level,
    Lined,
    Outcome,
    Progress,
    Receipt,
    Scope,
    Source,
    Terms,
    Version,
)
from storage.uids import is_uid

DOCUMENTS_AT_ONCE = 64
_FEW_INSTANCES = 64
_FIND = f"SELECT {INSTANCE_COLUMNS} FROM {INSTANCE_TABLES} WHERE "  # noqa: S608 - constants
_SELECT_DOCUMENT = (
    f"SELECT instance.instance_order, document.metadata, document.frame_table, document.bulk, {INSTANCE_COLUMNS} "  # noqa: S608 - constants
    f"FROM {INSTANCE_TABLES} JOIN document ON document.instance = instance.id"
)
_CHANGES = (
    "SELECT sequence, kind, study_instance_uid, series_instance_uid, sop_instance_uid, changed_at FROM change "
    "WHERE sequence > ? ORDER BY sequence LIMIT ?"
)
_LATEST = "SELECT coalesce(max(sequence), 0) FROM change"
_LAST_CHANGE = "(SELECT coalesce(max(sequence), 0) FROM change)"
_DELETED_SINCE = (
    "SELECT EXISTS (SELECT 1 FROM change WHERE sequence > ? AND kind = 'deleted' AND study_instance_uid = ?{condition})"
)
_THUMBNAIL = (
    "SELECT picture FROM thumbnail JOIN instance ON thumbnail.instance = instance.id "
    "WHERE instance.sop_instance_uid = ? AND thumbnail.name = ?"
)
_KEEP_THUMBNAIL = (
    "INSERT INTO thumbnail (instance, name, picture) SELECT id, ?, ? FROM instance WHERE sop_instance_uid = ? "
    "ON CONFLICT (instance) DO UPDATE SET name = excluded.name, picture = excluded.picture"
)
_IS_BURIED = (
    "SELECT EXISTS (SELECT 1 FROM tombstone WHERE study_instance_uid = ? AND series_instance_uid = ? "
    "AND sop_instance_uid = ?)"
)


class RelationalIndex:
    """``storage.index.base.Index`` in an engine whose schema is up to date. See there for the promises.

    outbox, commitments, deletions, deliveries, subscribers, upkeep: see ``Index``. queue_capacity: stores that may wait
    for a commit.
    """

    def __init__(self, engine: Engine, *, queue_capacity: int = 1000) -> None:
        self._engine = engine
        self._committer = Committer(engine, Batch, capacity=queue_capacity)
        self.outbox = RelationalOutbox(engine, self._committer)
        self.upkeep = RelationalUpkeep(engine, self._committer)
        self.commitments = RelationalCommitments(engine, self._committer, self.outbox)
        self.subscribers = RelationalSubscribers(engine, self._committer)
        self.deliveries = RelationalDeliveries(engine, self._committer)
        self.deletions = RelationalDeletions(engine, self._committer)
        try:
            self._register()
        except BaseException:
            self.close()
            raise

    def _register(self) -> None:
        """Announce extended attributes that are new."""
        if table().extended:
            with self._engine.reading() as connection:
                is_known = len(places(connection)) == len(table().extended)
            if not is_known:
                self._committer.run(lambda batch: batch.apart(register))

    def add(self, entry: Entry, terms: Terms = ON_DEFAULT_TERMS) -> Receipt:
        """See ``Index.add``."""
        row = row_of(entry)
        result = self._committer.run(lambda batch: batch.add(row, terms))
        if isinstance(result, GatewayError | OtherKey):
            raise result
        return result

    def foresee(self, entry: Entry, terms: Terms) -> None:
        """See ``Index.foresee``."""
        if terms.quota is None and terms.conflict is Conflict.KEEP_FIRST:
            return
        now = dt.datetime.now(dt.UTC).isoformat()
        uid = entry.instance.sop_instance_uid
        current = self.find([uid]).get(uid)
        with self._engine.reading() as connection:
            decision = Outcome.STORED if current is None else decided(connection, entry, current, terms.conflict)
            if isinstance(decision, GatewayError):
                raise decision
            if terms.quota is None or decision is Outcome.DUPLICATE or is_beside(connection, entry):
                return
            refused = refusal(connection, terms.quota, entry.instance, now)
        if refused is not None:
            raise refused

    def versions(self, sop_instance_uid: str) -> Sequence[Version]:
        """See ``Index.versions``."""
        with self._engine.reading() as connection:
            return versions_of(connection, sop_instance_uid)

    def coerced(self, sop_instance_uid: str, transfer_syntax_uid: str, digest: str) -> Coerced | None:
        """See ``Index.coerced``."""
        with self._engine.reading() as connection:
            return coerced_before(connection, sop_instance_uid, transfer_syntax_uid, digest)

    def extent(self, scope: Scope) -> Extent | None:
        """See ``Index.extent``."""
        with self._engine.reading() as connection:
            return tombstones.extent_of(connection, scope)

    def delete(self, scope: Scope, by: Source = OPERATOR, *, per_minute: int = 0) -> Extent | None:
        """See ``Index.delete``. What is refused, or not there, does not get in the way of who writes."""
        now = dt.datetime.now(dt.UTC).isoformat(timespec="microseconds")
        with self._engine.reading() as connection:
            if tombstones.extent_of(connection, scope) is None:
                return None
            found = tombstones.refusal(connection, scope, by, per_minute, now)
        done = found or self._committer.run(lambda batch: batch.delete(scope, by, per_minute))
        if isinstance(done, GatewayError):
            raise done
        return done

    def find(self, sop_instance_uids: Sequence[str]) -> Mapping[str, Instance]:
        """See ``Index.find``."""
        known = [uid for uid in sop_instance_uids if is_uid(uid)]
        condition, parameters = self._engine.dialect.equals_any("instance.sop_instance_uid", known)
        found = [Instance(*row) for row in self._rows(_FIND + condition, parameters)]
        return {instance.sop_instance_uid: instance for instance in found}

    def search(self, query: Query) -> Sequence[Answer]:
        """See ``Index.search``. Of ``storage.index.sql`` for the order, ``storage.index.probes`` for the way."""
        plan = plan_of(query)
        return list(answers_of(plan, self._found(query, plan)))

    def search_json(self, query: Query, url_of: Callable[[Scope], str]) -> Sequence[str]:
        """See ``Index.search_json``. The same statements as ``search``."""
        plan = plan_of(query)
        return texts_of(plan, self._found(query, plan), url_of)

    def search_lines(self, query: Query, tags: Sequence[str]) -> Lined:
        """See ``Index.search_lines``. The same statements as ``search``."""
        plan = plan_of(query)
        return lines_of(plan, self._found(query, plan), tags)

    def _found(self, query: Query, plan: Plan) -> list[Any]:
        """The rows of a search: some probes, and one statement or a few."""
        dialect = self._engine.dialect
        with self._engine.reading() as connection:
            refuse_incomplete(connection, query.conditions())
            lead = self._lead(connection, query)
            if lead is not None and not lead.ids:
                return []
            if lead is not None and lead.is_ordered:
                return self._found_in_order(connection, query, plan, lead)
            if lead is None and _is_of_large_series(query):
                return self._found_in_series(connection, query, plan)
            outliers = _outliers(connection, query, dialect) if lead is None else ()
            statement = search_statement(query, plan, dialect, lead, outliers)
            return connection.execute(*statement).fetchall()

    def _found_in_series(self, connection: Connection, query: Query, plan: Plan) -> list[Any]:
        """The rows of instances of one series. What they inherit, a kilobyte, is read once and stands in the first."""
        assert query.scope is not None
        parents = connection.execute(*parents_statement(plan, query.scope)).fetchone()
        if parents is None:
            return []
        statement = search_statement(query, plan, self._engine.dialect, selected=plan.selected_alone)
        rows = connection.execute(*statement).fetchall()
        if rows:
            first, uids = rows[0], int(Level.INSTANCE)
            rows[0] = (*first[:uids], *parents, *first[uids + len(parents) :])
        return rows

    def _lead(self, connection: Connection, query: Query) -> Lead | None:
        """The rows that the first probe with few of them found; None where every key is common, or a path leads."""
        if query.scope is not None:
            return None
        for probe in probes_of(query, self._engine.dialect):
            if probe.rank is Rank.TRIGRAMS and self._engine.expects_many(connection, probe.statement):
                continue
            rows = connection.execute(*probe.statement).fetchall()
            if len(rows) > probes.MOST_IDS:  # there may be more of them
                continue
            if not probe.is_placed:
                return Lead(probe.table, sorted({row[0] for row in rows}))  # one row may be found twice
            rows.sort(reverse=True)
            ids = dict.fromkeys(row[2] for row in rows if query.after is None or row[:2] < query.after)
            return Lead(probe.table, list(ids), is_ordered=True)
        return None

    def _found_in_order(self, connection: Connection, query: Query, plan: Plan, lead: Lead) -> list[Any]:
        """The rows of a search among ids in the order of the answers: no more of them are read than a page needs.

        Each statement sees the archive of its moment, so what comes of several is put in order once more.
        """
        end = None if query.limit is None else query.offset + query.limit
        rows: list[Any] = []
        start, count = 0, len(lead.ids) if end is None else max(probes.IDS_AT_ONCE, end)
        while start < len(lead.ids) and (end is None or len(rows) < end):
            part = replace(lead, ids=lead.ids[start : start + count])
            asked = replace(query, offset=0, limit=None if end is None else end - len(rows))
            rows += connection.execute(*search_statement(asked, plan, self._engine.dialect, part)).fetchall()
            start, count = start + count, count * 4
        rows.sort(key=partial(place_of, Level.STUDY), reverse=True)
        return rows[query.offset :]

    def instances(self, scope: Scope) -> Sequence[Instance]:
        """See ``Index.instances``."""
        condition, parameters = scope_condition(scope)
        rows = self._rows(
            f"SELECT {INSTANCE_COLUMNS} FROM {INSTANCE_TABLES} WHERE {condition} ORDER BY {ORDERS[Level.INSTANCE]}",  # noqa: S608 - constants
            parameters,
        )
        return [Instance(*row) for row in rows]

    def documents(self, scope: Scope) -> Iterator[Document]:
        """See ``Index.documents``. No statement stays open between two of them, so a slow reader holds up nothing;
        each series is read as it is when its turn comes. Where some were deleted meanwhile that is said at the end.
        """
        if scope.sop_instance_uid:
            condition, parameters = scope_condition(scope)
            yield from map(_document, self._rows(f"{_SELECT_DOCUMENT} WHERE {condition}", parameters))
            return
        condition, parameters = scope_condition(Scope(scope.study_instance_uid, scope.series_instance_uid))
        series = self._rows(
            f"SELECT series.id, {_LAST_CHANGE} FROM series JOIN study ON series.study = study.id "  # noqa: S608 - constants
            f"WHERE {condition} ORDER BY {ORDERS[Level.SERIES]}",
            parameters,
        )
        count = 0
        for series_id, _ in series:
            for document in self._documents_of_series(series_id):
                count += 1
                yield document
        if count and (len(series) > 1 or count >= DOCUMENTS_AT_ONCE):
            self._refuse_cut(scope, after=series[0][1])

    def _refuse_cut(self, scope: Scope, after: int) -> None:
        """Raises Gone where something under a scope was deleted behind a change: what was read is no state of it."""
        uids = [scope.study_instance_uid, *([scope.series_instance_uid] if scope.series_instance_uid else [])]
        condition = " AND series_instance_uid IN ('', ?)" if scope.series_instance_uid else ""
        ((is_cut,),) = self._rows(_DELETED_SINCE.format(condition=condition), [after, *uids])
        if is_cut:
            raise Gone("Some of it was deleted while it was read", uid=uids[-1])

    def _documents_of_series(self, series_id: int) -> Iterator[Document]:
        place: tuple[Any, str] = (-(1 << 63), "")
        text = (
            f"{_SELECT_DOCUMENT} WHERE instance.series = ? "
            "AND (instance.instance_order, instance.sop_instance_uid) > (?, ?) "
            "ORDER BY instance.instance_order, instance.sop_instance_uid LIMIT ?"
        )
        while rows := self._rows(text, [series_id, *place, DOCUMENTS_AT_ONCE]):
            for row in rows:
                document = _document(row)
                yield document
                place = (row[0], document.instance.sop_instance_uid)
            if len(rows) < DOCUMENTS_AT_ONCE:
                return

    def thumbnail(self, sop_instance_uid: str, name: str) -> bytes | None:
        """See ``Index.thumbnail``."""
        rows = self._rows(_THUMBNAIL, (sop_instance_uid, name))
        return bytes(rows[0][0]) if rows else None

    def keep_thumbnail(self, sop_instance_uid: str, name: str, picture: bytes) -> None:
        """See ``Index.keep_thumbnail``."""

        def keep(connection: Connection) -> None:
            connection.execute(_KEEP_THUMBNAIL, (name, picture, sop_instance_uid))

        self._committer.run(lambda batch: batch.apart(keep))

    def is_deleted(self, scope: Scope) -> bool:
        """See ``Index.is_deleted``."""
        uids = (scope.study_instance_uid, scope.series_instance_uid, scope.sop_instance_uid)
        ((is_buried,),) = self._rows(_IS_BURIED, uids)
        return bool(is_buried) and not self._is_there(scope)

    def _is_there(self, scope: Scope) -> bool:
        condition, parameters = scope_condition(scope)
        ((is_there,),) = self._rows(
            f"SELECT EXISTS (SELECT 1 FROM {INSTANCE_TABLES} WHERE {condition})",  # noqa: S608 - constants
            parameters,
        )
        return bool(is_there)

    def changes(self, after: int, limit: int) -> Sequence[Change]:
        """See ``Index.changes``."""
        rows = self._rows(_CHANGES, (after, limit))
        return [Change(sequence, kind, Scope(*uids), changed_at) for sequence, kind, *uids, changed_at in rows]

    def latest(self) -> int:
        """See ``Index.latest``."""
        return int(self._rows(_LATEST, ())[0][0])

    def note_stable(self, now: int, due: int) -> bool:
        """See ``Index.note_stable``. Where nothing is new or due nothing is written."""
        with self._engine.reading() as connection:
            if not stability.has_work(connection, now):
                return False

        def step(batch: Batch) -> bool:
            return batch.apart(lambda connection: stability.step(connection, batch.note, now, due))

        return self._committer.run(step)

    def index_extended(self) -> Progress:
        """See ``Index.index_extended``."""
        with self._engine.reading() as connection:
            chunk = read_chunk(connection)
        if chunk is None:
            return Progress(0, 0)
        is_written = self._committer.run(lambda batch: batch.apart(lambda writer: write_chunk(writer, chunk)))
        if not is_written:
            return Progress(chunk.start, chunk.last, is_contended=True)
        return Progress(chunk.end, chunk.last, len(chunk.found))

    def incomplete(self) -> frozenset[str]:
        """See ``Index.incomplete``."""
        with self._engine.reading() as connection:
            return frozenset(one.tag for one in incomplete(connection, table().extended))

    def close(self) -> None:
        """See ``Index.close``."""
        self._committer.close()
        self._engine.close()

    def _rows(self, text: str, parameters: Sequence[Any]) -> list[Any]:
        with self._engine.reading() as connection:
            return connection.execute(text, parameters).fetchall()


def _is_of_large_series(query: Query) -> bool:
    """Whether instances of one series of one study are asked for, and more than a few of them."""
    is_one = query.scope is not None and bool(query.scope.study_instance_uid and query.scope.series_instance_uid)
    is_many = query.limit is None or query.limit > _FEW_INSTANCES
    return query.level is Level.INSTANCE and is_one and is_many


def _outliers(connection: Connection, query: Query, dialect: Dialect) -> Sequence[int] | None:
    """Studies with several dates that may match; None for so many that their places in the order say nothing."""
    statement = outliers_of(query, dialect) if query.level <= Level.STUDY else None
    ids = [] if statement is None else [row[0] for row in connection.execute(*statement).fetchall()]
    return ids if len(ids) <= probes.MOST_IDS else None


def _document(row: Sequence[Any]) -> Document:
    """A row of ``_SELECT_DOCUMENT``."""
    _, metadata, frame_table, bulk, *identity = row
    places = {path: BulkValue(*value) for path, value in orjson.loads(bulk).items()}
    return Document(Instance(*identity), metadata, frame_table, places)
