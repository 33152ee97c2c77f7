"""What upkeep asks of the rows: all of them in batches, those that do not agree, and their repair.

Nothing here is on a request path, and nothing asks once per row: batches ascend by the id of the row, so that whoever
was stopped goes on behind the last one.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from typing import Any, TypeVar

import orjson

from storage.index import tombstones
from storage.index.batch import Batch, row_of
from storage.index.columns import unpack
from storage.index.committer import Committer
from storage.index.deletions import PUT_HOLD
from storage.index.engine import Connection, Engine
from storage.index.sql import INSTANCE_COLUMNS, INSTANCE_TABLES, scope_condition
from storage.keys import parts_of
from storage.model import (
    BulkValue,
    Burial,
    Document,
    Entry,
    Extent,
    Hold,
    Instance,
    Kept,
    Pending,
    Receipt,
    Scope,
    Source,
)

_Result = TypeVar("_Result")

# Without its parents a row of an instance is found all the same.
_KEPT = (
    f"SELECT instance.id, instance.object_key, document.instance IS NOT NULL, {{derived}}, {INSTANCE_COLUMNS} "  # noqa: S608 - constants
    "FROM instance LEFT JOIN series ON instance.series = series.id LEFT JOIN study ON series.study = study.id "
    "LEFT JOIN document ON document.instance = instance.id WHERE instance.id > ? ORDER BY instance.id LIMIT ?"
)
_DERIVED = "document.metadata, document.frame_table, document.bulk, instance.attributes"
_NOT_DERIVED = "NULL, NULL, NULL, NULL"
_RIVAL_COLUMNS = (
    "study_instance_uid, series_instance_uid, sop_instance_uid, sop_class_uid, transfer_syntax_uid, digest, "
    "object_key, size_bytes, data_set_offset, number_of_frames"
)
_RIVALS = f"SELECT id, {_RIVAL_COLUMNS} FROM rival WHERE id > ? ORDER BY id LIMIT ?"  # noqa: S608 - constants
_HAS_RIVALS = "SELECT EXISTS (SELECT 1 FROM rival WHERE sop_instance_uid = ?)"
_LAST_DELETION = (
    "SELECT id, deleted_at, door, calling_ae, address, number_of_series, number_of_instances, number_of_objects, "
    "size_bytes FROM deletion WHERE study_instance_uid = ? AND series_instance_uid = ? AND sop_instance_uid = ? "
    "ORDER BY id DESC LIMIT 1"
)
_BURIED = (
    "SELECT id, study_instance_uid, series_instance_uid, sop_instance_uid, object_key FROM tombstone "
    "WHERE deletion = ? AND id > ? ORDER BY id LIMIT ?"
)
_DELETIONS = (
    "SELECT DISTINCT deleted_at FROM tombstone WHERE object_key = ? AND object_key <> '' "
    "AND object_state IN ('kept', 'returned')"
)
_BURIED_AT_ONCE = 1000
_STUDIES = "SELECT id FROM study WHERE id > ? ORDER BY id LIMIT ?"
# One statement, so that what is counted and what it is compared with are of one moment.
_COUNTS = (
    "SELECT study.id, study.study_instance_uid, study.number_of_study_related_series, "
    "study.number_of_study_related_instances, study.modalities_in_study, study.sop_classes_in_study, series.id, "
    "series.number_of_series_related_instances, series.modality, instance.sop_class_uid, count(instance.id) "
    "FROM study LEFT JOIN series ON series.study = study.id LEFT JOIN instance ON instance.series = series.id "
    "WHERE study.id > ? AND study.id <= ? GROUP BY study.id, series.id, instance.sop_class_uid "
    "ORDER BY study.id, series.id"
)
_PENDING = (
    "SELECT route, sop_instance_uid, study_instance_uid, series_instance_uid, attempts, due FROM outbox "
    "WHERE (route, sop_instance_uid) > (?, ?) ORDER BY route, sop_instance_uid LIMIT ?"
)
_PUT_PENDING = (
    "INSERT INTO outbox (route, sop_instance_uid, study_instance_uid, series_instance_uid, attempts, due) "
    "VALUES (?, ?, ?, ?, ?, ?) ON CONFLICT (route, sop_instance_uid) DO NOTHING"
)
_PUT_ROUTE = (
    "INSERT INTO route (name, sequence) VALUES (?, (SELECT coalesce(max(sequence), 0) FROM change)) "
    "ON CONFLICT (name) DO UPDATE SET sequence = excluded.sequence"
)


class RelationalUpkeep:
    """``storage.index.base.IndexUpkeep`` in the database of an index. See there for the promises."""

    def __init__(self, engine: Engine, committer: Committer[Batch]) -> None:
        self._engine = engine
        self._committer = committer

    # -- what is there

    def kept(self, after: int, limit: int, *, with_documents: bool) -> Sequence[Kept]:
        """See ``IndexUpkeep.kept``."""
        text = _KEPT.format(derived=_DERIVED if with_documents else _NOT_DERIVED)
        return [_kept(row) for row in self._rows(text, (after, limit))]

    def rivals(self, after: int, limit: int) -> Sequence[Kept]:
        """See ``IndexUpkeep.rivals``."""
        found = ((row[0], Instance(*row[1:])) for row in self._rows(_RIVALS, (after, limit)))
        return [Kept(row, instance.key, instance) for row, instance in found]

    def has_rivals(self, instance: Instance) -> bool:
        """See ``IndexUpkeep.has_rivals``."""
        return bool(self._rows(_HAS_RIVALS, (instance.sop_instance_uid,))[0][0])

    def known(self, keys: Iterable[str], *, with_deleted: bool = True) -> frozenset[str]:
        """See ``IndexUpkeep.known``. Of instances by the UIDs in the keys, which have an index."""
        asked = {key: parts for key in keys if (parts := parts_of(key))}
        if not asked:
            return frozenset()
        dialect = self._engine.dialect
        uids = sorted({parts.sop_instance_uid for parts in asked.values()})
        of_uids, by_uid = dialect.equals_any("sop_instance_uid", uids)
        of_keys, by_key = dialect.equals_any("object_key", sorted(asked))
        text = f"SELECT object_key FROM instance WHERE {of_uids} UNION ALL SELECT object_key FROM rival WHERE {of_uids}"  # noqa: S608 - constants
        parameters = [*by_uid, *by_uid]
        if with_deleted:
            # What was removed is not looked for, and what lies there all the same is nobody's.
            text += (
                f" UNION ALL SELECT object_key FROM tombstone WHERE {of_keys} AND object_key <> '' "  # noqa: S608 - constants
                "AND object_state <> 'collected'"
            )
            parameters += by_key
        rows = self._rows(text, parameters)
        return frozenset(row[0] for row in rows) & asked.keys()

    def keys_under(self, scope: Scope) -> Sequence[str]:
        """See ``IndexUpkeep.keys_under``."""
        condition, parameters = scope_condition(scope)
        if not parameters:
            return ()
        under = f"FROM {INSTANCE_TABLES} WHERE {condition}"
        text = (
            f"SELECT instance.object_key {under} UNION ALL SELECT object_key FROM rival "  # noqa: S608 - constants
            f"WHERE sop_instance_uid IN (SELECT instance.sop_instance_uid {under})"
        )
        return [row[0] for row in self._rows(text, [*parameters, *parameters])]

    def burials(self, scope: Scope) -> Iterator[Burial]:
        """See ``IndexUpkeep.burials``."""
        for number, deleted_at, *said in self._rows(_LAST_DELETION, tombstones.uids_of(scope)):
            source, extent = Source(*said[:3]), Extent(*said[3:])
            last = 0
            while rows := self._rows(_BURIED, (number, last, _BURIED_AT_ONCE)):
                yield Burial(scope, deleted_at, source, extent, tuple((Scope(*uids), key) for _, *uids, key in rows))
                last = rows[-1][0]

    def deletions(self, instance: Instance) -> Sequence[str]:
        """See ``IndexUpkeep.deletions``."""
        return [row[0] for row in self._rows(_DELETIONS, (instance.key,))]

    def miscounted(self, after: int, limit: int) -> tuple[int, int, Sequence[Scope]]:
        """See ``IndexUpkeep.miscounted``."""
        ids = [row[0] for row in self._rows(_STUDIES, (after, limit))]
        if not ids:
            return after, 0, ()
        studies: dict[int, list[Any]] = {}
        for row in self._rows(_COUNTS, (after, ids[-1])):
            studies.setdefault(row[0], []).append(row)
        wrong = [Scope(rows[0][1]) for rows in studies.values() if not _agree(rows)]
        return ids[-1], len(ids), wrong

    def is_empty(self) -> bool:
        """See ``IndexUpkeep.is_empty``."""
        text = (
            "SELECT EXISTS (SELECT 1 FROM study) OR EXISTS (SELECT 1 FROM change) OR EXISTS (SELECT 1 FROM tombstone)"
        )
        return not self._rows(text, ())[0][0]

    def last_row(self) -> int:
        """See ``IndexUpkeep.last_row``."""
        return int(self._rows("SELECT coalesce(max(id), 0) FROM instance", ())[0][0])

    def last_change(self) -> int:
        """See ``IndexUpkeep.last_change``."""
        return int(self._rows("SELECT coalesce(max(sequence), 0) FROM change", ())[0][0])

    # -- repair

    def recount(self, scope: Scope) -> None:
        """See ``IndexUpkeep.recount``."""
        self._committer.run(lambda batch: batch.recount(scope.study_instance_uid))

    def derive(self, entry: Entry) -> bool:
        """See ``IndexUpkeep.derive``."""
        row = row_of(entry)
        return self._committer.run(lambda batch: batch.derive(row))

    def drop(self, row: int) -> None:
        """See ``IndexUpkeep.drop``."""

        def remove(connection: Connection) -> None:
            for table, column in (("document", "instance"), ("thumbnail", "instance"), ("instance", "id")):
                connection.execute(f"DELETE FROM {table} WHERE {column} = ?", (row,))  # noqa: S608 - constants

        self._write(remove)

    # -- rebuild

    def load(self, received: Sequence[tuple[Entry, str]]) -> Sequence[Receipt]:
        """See ``IndexUpkeep.load``."""
        rows = [(row_of(entry), at) for entry, at in received]
        return self._committer.run(lambda batch: [batch.add_of(row, at) for row, at in rows])

    def make_current(self, entry: Entry, at: str) -> Receipt:
        """See ``IndexUpkeep.make_current``."""
        row = row_of(entry)
        return self._committer.run(lambda batch: batch.make_current_of(row, at))

    def bury(self, burial: Burial, given_up: Collection[str]) -> None:
        """See ``IndexUpkeep.bury``."""
        self._committer.run(lambda batch: batch.bury(burial, given_up))

    def put_holds(self, holds: Sequence[Hold]) -> None:
        """See ``IndexUpkeep.put_holds``."""

        def put(connection: Connection) -> None:
            connection.execute("DELETE FROM hold")
            connection.executemany(PUT_HOLD, [(*tombstones.uids_of(one.scope), one.held_at) for one in holds])

        self._write(put)

    def begin_feed_after(self, sequence: int) -> None:
        """See ``IndexUpkeep.begin_feed_after``. In two steps, as no number may be there twice on the way."""

        def move(connection: Connection) -> None:
            (first,) = connection.execute("SELECT coalesce(min(sequence), 0) FROM change").fetchone()
            if 0 < first <= sequence:
                connection.execute("UPDATE change SET sequence = -(sequence + ?)", (sequence,))
                connection.execute("UPDATE change SET sequence = -sequence")

        self._write(move)

    def routes(self) -> Sequence[str]:
        """See ``IndexUpkeep.routes``."""
        return [row[0] for row in self._rows("SELECT name FROM route ORDER BY name", ())]

    def pending(self, after: tuple[str, str], limit: int) -> Sequence[Pending]:
        """See ``IndexUpkeep.pending``."""
        return [Pending(*row) for row in self._rows(_PENDING, (*after, limit))]

    def put_pending(self, routes: Sequence[str], pending: Sequence[Pending]) -> None:
        """See ``IndexUpkeep.put_pending``."""

        def put(connection: Connection) -> None:
            connection.executemany(_PUT_ROUTE, [(name,) for name in routes])
            connection.executemany(_PUT_PENDING, pending)

        self._write(put)

    def _rows(self, text: str, parameters: Sequence[Any]) -> list[Any]:
        with self._engine.reading() as connection:
            return connection.execute(text, parameters).fetchall()

    def _write(self, act: Callable[[Connection], _Result]) -> _Result:
        return self._committer.run(lambda batch: batch.apart(act))


def _kept(row: Sequence[Any]) -> Kept:
    row_id, key, has_document, metadata, frames, bulk, attributes, *identity = row
    instance = Instance(*identity) if identity[0] and identity[1] else None
    document = None
    if instance is not None and metadata is not None:
        document = Document(instance, bytes(metadata), bytes(frames), _places(bytes(bulk)))
    return Kept(row_id, key, instance, bool(has_document), document, attributes or "")


def _places(bulk: bytes) -> dict[str, BulkValue]:
    """Places of large values; none where the row is damaged, which then differs from what is derived."""
    try:
        return {path: BulkValue(*value) for path, value in orjson.loads(bulk).items()}
    except (ValueError, TypeError, AttributeError):
        return {}


def _agree(rows: Sequence[Any]) -> bool:
    """Whether a study says what its series and instances say together, and none of them is empty.

    rows: of ``_COUNTS``, one for each SOP class of each series.
    """
    _, _, said_series, said_instances, modalities, classes, *_ = rows[0]
    counted: dict[int, int] = {}
    said: dict[int, int] = {}
    found_modalities: set[str] = set()
    found_classes: set[str] = set()
    for *_, series, said_of_series, modality, sop_class, count in rows:
        if series is None or sop_class is None:
            return False
        counted[series] = counted.get(series, 0) + count
        said[series] = said_of_series
        found_modalities.update(filter(None, unpack(modality)))
        found_classes.add(sop_class)
    return (
        counted == said
        and (said_series, said_instances) == (len(said), sum(counted.values()))
        and set(filter(None, unpack(modalities))) == found_modalities
        and set(unpack(classes)) == found_classes
    )
