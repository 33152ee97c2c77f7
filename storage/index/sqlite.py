"""Index in one SQLite file: WAL, one writing thread with group commit, any number of reading threads.

Several processes of one machine may open the same file. On a network file system it must not be: WAL needs shared
memory. Every commit is on disk when ``add`` or ``delete`` returns (R1).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import orjson

from storage.index.batch import Batch, row_of
from storage.index.committer import Committer
from storage.index.engine import BUSY_SECONDS, Connection, Error, Readers, connect, is_busy, translated
from storage.index.fragments import texts_of
from storage.index.schema import migrate
from storage.index.sql import (
    INSTANCE_COLUMNS,
    INSTANCE_TABLES,
    ORDERS,
    answers_of,
    plan_of,
    scope_condition,
    search_statement,
)
from storage.matching import Query
from storage.model import Answer, BulkValue, Change, Document, Entry, Instance, Level, Receipt, Scope

DOCUMENTS_AT_ONCE = 64

_FIND = f"SELECT {INSTANCE_COLUMNS} FROM {INSTANCE_TABLES} WHERE instance.sop_instance_uid = ?"  # noqa: S608 - constants
_SELECT_DOCUMENT = (
    f"SELECT instance.instance_order, document.metadata, document.frame_table, document.bulk, {INSTANCE_COLUMNS} "  # noqa: S608 - constants
    f"FROM {INSTANCE_TABLES} JOIN document ON document.instance = instance.id"
)
_CHANGES = (
    "SELECT sequence, kind, study_instance_uid, series_instance_uid, sop_instance_uid, changed_at FROM change "
    "WHERE sequence > ? ORDER BY sequence LIMIT ?"
)
_IS_BURIED = (
    "SELECT EXISTS (SELECT 1 FROM tombstone WHERE study_instance_uid = ? AND series_instance_uid = ? "
    "AND sop_instance_uid = ?)"
)


class SqliteIndex:
    """``storage.index.base.Index`` in a file. See there for the promises.

    path: the file, made when it is not there; its folder must exist. queue_capacity: stores that may wait for a
    commit. busy_seconds: how long another process may hold the write lock. open_connection: how a connection is
    made; tests give one that fails. Raises StorageUnavailable when the file cannot be opened, is of a later
    release, or the SQLite library is too old.
    """

    def __init__(
        self,
        path: Path,
        *,
        queue_capacity: int = 1000,
        busy_seconds: float = BUSY_SECONDS,
        open_connection: Callable[[Path], Connection] = connect,
    ) -> None:
        opened = partial(open_connection, path)
        with translated():
            _prepare(opened, busy_seconds)
        self._readers = Readers(opened)
        self._committer = Committer(opened, Batch, capacity=queue_capacity, busy_seconds=busy_seconds)

    def add(self, entry: Entry) -> Receipt:
        """See ``Index.add``."""
        row = row_of(entry)
        return self._committer.run(lambda batch: batch.add(row))

    def delete(self, scope: Scope) -> Sequence[Instance]:
        """See ``Index.delete``."""
        return self._committer.run(lambda batch: batch.delete(scope))

    def find(self, sop_instance_uid: str) -> Instance | None:
        """See ``Index.find``."""
        rows = self._rows(_FIND, (sop_instance_uid,))
        return Instance(*rows[0]) if rows else None

    def search(self, query: Query) -> Sequence[Answer]:
        """See ``Index.search``. One statement; see ``storage.index.sql`` for the order."""
        plan = plan_of(query)
        return answers_of(plan, self._rows(*search_statement(query, plan)))

    def search_json(self, query: Query, url_of: Callable[[Scope], str]) -> Sequence[str]:
        """See ``Index.search_json``. The same statement as ``search``."""
        plan = plan_of(query)
        return texts_of(plan, self._rows(*search_statement(query, plan)), url_of)

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
        each series is read as it is when its turn comes.
        """
        if scope.sop_instance_uid:
            condition, parameters = scope_condition(scope)
            yield from map(_document, self._rows(f"{_SELECT_DOCUMENT} WHERE {condition}", parameters))
            return
        condition, parameters = scope_condition(Scope(scope.study_instance_uid, scope.series_instance_uid))
        series = self._rows(
            f"SELECT series.id FROM series JOIN study ON series.study = study.id WHERE {condition} "  # noqa: S608 - constants
            f"ORDER BY {ORDERS[Level.SERIES]}",
            parameters,
        )
        for (series_id,) in series:
            yield from self._documents_of_series(series_id)

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

    def close(self) -> None:
        """See ``Index.close``."""
        self._committer.close()
        self._readers.close()

    def _rows(self, text: str, parameters: Sequence[Any]) -> list[Any]:
        with self._readers.connection() as connection:
            return connection.execute(text, parameters).fetchall()


def _document(row: Sequence[Any]) -> Document:
    """A row of ``_SELECT_DOCUMENT``."""
    _, metadata, frame_table, bulk, *identity = row
    places = {path: BulkValue(*value) for path, value in orjson.loads(bulk).items()}
    return Document(Instance(*identity), metadata, frame_table, places)


def _prepare(open_connection: Callable[[], Connection], busy_seconds: float) -> None:
    """Bring the schema up to date. Processes that start together wait for one another."""
    deadline = time.monotonic() + busy_seconds
    while True:
        try:
            connection = open_connection()
            try:
                migrate(connection)
            finally:
                connection.close()
        except Error as error:
            if not is_busy(error) or time.monotonic() > deadline:
                raise
            time.sleep(0.01)
        else:
            return
