"""Lines of the ingest ledger, as rows: one for each delivery, and one for each study that it brought something of.

Nothing refers to them, and no store waits for them; they tell of instances that may be gone.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import orjson

from storage.index.batch import Batch
from storage.index.committer import Committer
from storage.index.engine import Connection, Engine
from storage.model import Delivery, Source

_COLUMNS = (
    "delivery_key, started_at, last_at, ending, door, calling_ae, called_ae, address, outcomes, failed, size_bytes, "
    "errors"
)
_WRITE = (
    f"INSERT INTO delivery ({_COLUMNS}) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?) "  # noqa: S608 - constants
    "ON CONFLICT (delivery_key) DO UPDATE SET last_at = excluded.last_at, ending = excluded.ending, "
    "outcomes = excluded.outcomes, failed = excluded.failed, size_bytes = excluded.size_bytes, "
    "errors = excluded.errors RETURNING id"
)
_WRITE_STUDY = (
    "INSERT INTO delivery_study (study_instance_uid, delivery, outcomes) VALUES (?, ?, ?) "
    "ON CONFLICT (study_instance_uid, delivery) DO UPDATE SET outcomes = excluded.outcomes"
)
_OLDEST_KEPT = "SELECT id FROM delivery ORDER BY id DESC LIMIT 1 OFFSET ?"
_PRUNED = (
    "DELETE FROM delivery_study WHERE delivery IN (SELECT id FROM delivery WHERE {0})",
    "DELETE FROM delivery WHERE {0}",
)
_TOO_OLD, _TOO_MANY = "last_at < ?", "id <= ?"
_ANY_TOO_OLD = f"SELECT 1 FROM delivery WHERE {_TOO_OLD} LIMIT 1"  # noqa: S608 - constants


class RelationalDeliveries:
    """``storage.index.base.Deliveries`` in the database of an index. See there for the promises."""

    def __init__(self, engine: Engine, committer: Committer[Batch]) -> None:
        self._engine = engine
        self._committer = committer

    def record(self, deliveries: Sequence[Delivery]) -> None:
        """See ``Deliveries.record``."""

        def write(connection: Connection) -> None:
            for one in deliveries:
                (identity,) = connection.execute(_WRITE, _row(one)).fetchone()
                rows = [(study, identity, _json(outcomes)) for study, outcomes in one.studies.items()]
                if rows:
                    connection.executemany(_WRITE_STUDY, rows)

        self._write(write)

    def find(
        self, *, since: str = "", calling_ae: str = "", failed: bool = False, study: str = "", limit: int = 1000
    ) -> Sequence[Delivery]:
        """See ``Deliveries.find``."""
        conditions: dict[str, list[Any]] = {}
        if since:
            conditions["last_at >= ?"] = [since]
        if calling_ae:
            conditions["calling_ae = ?"] = [calling_ae]
        if failed:
            conditions["failed > 0"] = []
        if study:
            conditions["study_instance_uid = ?"] = [study]
        of_study = "delivery_study.outcomes" if study else "''"
        tables = "delivery_study JOIN delivery ON delivery.id = delivery_study.delivery" if study else "delivery"
        columns = ", ".join(f"delivery.{name}" for name in _COLUMNS.split(", "))
        text = (
            f"SELECT {of_study}, {columns} FROM {tables} WHERE {' AND '.join(conditions) or '1 = 1'} "  # noqa: S608 - constants
            "ORDER BY delivery.last_at DESC, delivery.id DESC LIMIT ?"
        )
        parameters = [value for values in conditions.values() for value in values]
        with self._engine.reading() as connection:
            rows = connection.execute(text, [*parameters, limit]).fetchall()
        return [_delivery(study, row) for row in rows]

    def prune(self, before: str, maximum_rows: int) -> None:
        """See ``Deliveries.prune``. Where nothing is too old or too many nothing is written."""
        with self._engine.reading() as connection:
            is_old = connection.execute(_ANY_TOO_OLD, (before,)).fetchone()
            if not (is_old or connection.execute(_OLDEST_KEPT, (maximum_rows,)).fetchone()):
                return

        def remove(connection: Connection) -> None:
            oldest = connection.execute(_OLDEST_KEPT, (maximum_rows,)).fetchone()
            for text in _PRUNED:
                connection.execute(text.format(_TOO_OLD), (before,))
                if oldest is not None:
                    connection.execute(text.format(_TOO_MANY), oldest)

        self._write(remove)

    def _write(self, act: Callable[[Connection], None]) -> None:
        self._committer.run(lambda batch: batch.apart(act))


def _json(counts: Mapping[str, int]) -> str:
    return orjson.dumps(counts).decode()


def _row(one: Delivery) -> tuple[Any, ...]:
    source = one.source
    return (
        one.key,
        one.started_at,
        one.last_at,
        one.ending,
        source.door,
        source.calling_ae,
        one.called_ae,
        source.address,
        _json(one.outcomes),
        one.failed,
        one.size_bytes,
        _json(one.errors),
    )


def _delivery(study: str, row: Sequence[Any]) -> Delivery:
    of_study, key, started_at, last_at, ending, door, calling_ae, called_ae, address, outcomes, _, size, errors = row
    return Delivery(
        key=key,
        source=Source(door, calling_ae, address),
        called_ae=called_ae,
        started_at=started_at,
        last_at=last_at,
        ending=ending,
        outcomes=orjson.loads(outcomes),
        size_bytes=size,
        errors=orjson.loads(errors),
        studies={study: orjson.loads(of_study)} if study else {},
    )
