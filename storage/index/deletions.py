"""What was deleted: to be seen, held, brought back, and at last collected. Rows that any number of processes share."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from storage.index import tombstones
from storage.index.batch import Batch
from storage.index.committer import Committer
from storage.index.engine import Connection, Engine
from storage.model import Deletion, Extent, Hold, Remains, Scope, Source

_Result = TypeVar("_Result")

_KEPT = "(SELECT count(*) FROM tombstone WHERE tombstone.deletion = deletion.id AND tombstone.object_state = 'kept')"
_IS_HELD = (
    f"EXISTS (SELECT 1 FROM tombstone JOIN hold ON {tombstones.held('tombstone')} "  # noqa: S608 - constants
    "WHERE tombstone.deletion = deletion.id AND tombstone.object_state = 'kept')"
)
_DELETIONS = (
    "SELECT id, study_instance_uid, series_instance_uid, sop_instance_uid, deleted_at, door, calling_ae, address, "  # noqa: S608 - constants
    f"number_of_series, number_of_instances, number_of_objects, size_bytes, {_KEPT}, {_IS_HELD} FROM deletion "
    "WHERE id > ? ORDER BY id LIMIT ?"
)
_REMAINS = (
    "SELECT id, study_instance_uid, series_instance_uid, sop_instance_uid, object_key, door, calling_ae, address "
    "FROM tombstone WHERE {condition} AND {state} = 'kept' AND id > ? ORDER BY id LIMIT ?"
)
PUT_HOLD = (
    "INSERT INTO hold (study_instance_uid, series_instance_uid, sop_instance_uid, held_at) VALUES (?, ?, ?, ?) "
    "ON CONFLICT (study_instance_uid, series_instance_uid, sop_instance_uid) DO NOTHING"
)
_OF_SCOPE = "study_instance_uid = ? AND series_instance_uid = ? AND sop_instance_uid = ?"
_HELD_AT = f"SELECT held_at FROM hold WHERE {_OF_SCOPE}"  # noqa: S608 - constants
_RELEASE = f"DELETE FROM hold WHERE {_OF_SCOPE}"  # noqa: S608 - constants
_HOLDS = (
    "SELECT study_instance_uid, series_instance_uid, sop_instance_uid, held_at FROM hold "
    "ORDER BY held_at, study_instance_uid, series_instance_uid, sop_instance_uid"
)
_SPENT = "SELECT DISTINCT object_key, times_spent FROM tombstone WHERE object_state = 'spent' LIMIT ?"
_COLLECTED = (
    "UPDATE tombstone SET object_state = 'collected' WHERE object_key = ? AND object_key <> '' "
    "AND object_state = 'spent' AND times_spent = ?"
)


class RelationalDeletions:
    """``storage.index.base.Deletions`` in the database of an index. See there for the promises."""

    def __init__(self, engine: Engine, committer: Committer[Batch]) -> None:
        self._engine = engine
        self._committer = committer

    def listed(self, after: int, limit: int) -> Sequence[Deletion]:
        """See ``Deletions.listed``."""
        return [
            Deletion(number, Scope(*row[:3]), row[3], Source(*row[4:7]), Extent(*row[7:11]), row[11], bool(row[12]))
            for number, *row in self._rows(_DELETIONS, (after, limit))
        ]

    def remains(self, scope: Scope, after: int, limit: int) -> Sequence[Remains]:
        """See ``Deletions.remains``."""
        condition, parameters = tombstones.below(scope)
        state = self._engine.dialect.filtered("tombstone.object_state")  # what is kept of others may be much
        rows = self._rows(_REMAINS.format(condition=condition, state=state), [*parameters, after, limit])
        return [Remains(number, Scope(*row[:3]), row[3], Source(*row[4:])) for number, *row in rows]

    def hold(self, scope: Scope) -> Hold:
        """See ``Deletions.hold``."""
        now, uids = dt.datetime.now(dt.UTC).isoformat(timespec="microseconds"), tombstones.uids_of(scope)

        def put(connection: Connection) -> str:
            connection.execute(PUT_HOLD, (*uids, now))
            (held_at,) = connection.execute(_HELD_AT, uids).fetchone()
            return str(held_at)

        return Hold(scope, self._write(put))

    def release(self, scope: Scope) -> bool:
        """See ``Deletions.release``."""
        return self._write(lambda connection: connection.execute(_RELEASE, tombstones.uids_of(scope)).rowcount > 0)

    def holds(self) -> Sequence[Hold]:
        """See ``Deletions.holds``."""
        return [Hold(Scope(*uids), held_at) for *uids, held_at in self._rows(_HOLDS, ())]

    def spend(self, before: dt.datetime, limit: int) -> int:
        """See ``Deletions.spend``. Where nothing is due nothing is written."""
        text = before.astimezone(dt.UTC).isoformat(timespec="microseconds")
        with self._engine.reading() as connection:
            if not tombstones.due(connection, text, 1):
                return 0
        return self._write(lambda connection: tombstones.spend(connection, text, limit))

    def spent(self, limit: int) -> Sequence[tuple[str, int]]:
        """See ``Deletions.spent``."""
        return [(key, times) for key, times in self._rows(_SPENT, (limit,))]

    def collected(self, keys: Sequence[tuple[str, int]]) -> None:
        """See ``Deletions.collected``."""
        self._write(lambda connection: connection.executemany(_COLLECTED, keys))

    def _rows(self, text: str, parameters: Sequence[Any]) -> list[Any]:
        with self._engine.reading() as connection:
            return connection.execute(text, parameters).fetchall()

    def _write(self, act: Callable[[Connection], _Result]) -> _Result:
        return self._committer.run(lambda batch: batch.apart(act))
