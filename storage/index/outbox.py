"""What is still to be sent, by route: rows that outlive every process, and are sent by one process at a time.

A route follows the change feed: its place in it moves in the same transaction in which what it found is put in, so
nothing is left out and nothing is put in twice. What is taken to be sent is put off for a while, so that whoever is
killed with it only delays it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

from storage.index.batch import Batch
from storage.index.committer import Committer
from storage.index.engine import Connection, Engine
from storage.model import Parcel, Scope

_Result = TypeVar("_Result")

_PLACE = "SELECT sequence FROM route WHERE name = ?"
_BEGIN = (
    "INSERT INTO route (name, sequence) VALUES (?, (SELECT coalesce(max(sequence), 0) FROM change)) "
    "ON CONFLICT (name) DO NOTHING"
)
_ADVANCE = "UPDATE route SET sequence = ? WHERE name = ? AND sequence = ?"
_PUT = (
    "INSERT INTO outbox (route, sop_instance_uid, study_instance_uid, series_instance_uid, due) VALUES (?, ?, ?, ?, ?) "
    "ON CONFLICT (route, sop_instance_uid) DO UPDATE SET due = excluded.due, attempts = 0"
)
_DUE = (
    "SELECT study_instance_uid, series_instance_uid, sop_instance_uid, attempts FROM outbox "
    "WHERE route = ? AND due <= ? ORDER BY due, sop_instance_uid LIMIT ?"
)
_PUT_OFF = "UPDATE outbox SET due = ?, attempts = attempts + 1 WHERE route = ? AND sop_instance_uid = ?"
# What was put in once more since it was taken has no attempts yet: it stays as it is.
_RETRY = "UPDATE outbox SET due = ? WHERE route = ? AND sop_instance_uid = ? AND attempts > 0"
_REMOVE = "DELETE FROM outbox WHERE route = ? AND sop_instance_uid = ? AND attempts > 0"
_COUNT = "SELECT count(*) FROM outbox WHERE route = ?"


def put(connection: Connection, route: str, scopes: Sequence[Scope], due: int) -> None:
    """Put something in, in the transaction of whoever found it."""
    rows = [(route, one.sop_instance_uid, one.study_instance_uid, one.series_instance_uid, due) for one in scopes]
    connection.executemany(_PUT, rows)


class RelationalOutbox:
    """``storage.index.base.Outbox`` in the database of an index. See there for the promises."""

    def __init__(self, engine: Engine, committer: Committer[Batch]) -> None:
        self._engine = engine
        self._committer = committer

    def place(self, route: str) -> int:
        """See ``Outbox.place``."""
        found = self._rows(_PLACE, (route,))
        if not found:
            self._write(lambda connection: connection.execute(_BEGIN, (route,)))
            found = self._rows(_PLACE, (route,))
        return int(found[0][0])

    def advance(self, route: str, after: int, to: int, scopes: Sequence[Scope], due: int) -> bool:
        """See ``Outbox.advance``."""

        def move(connection: Connection) -> bool:
            if connection.execute(_ADVANCE, (to, route, after)).rowcount == 0:
                return False
            put(connection, route, scopes, due)
            return True

        return self._write(move)

    def take(self, route: str, now: int, until: int, limit: int) -> Sequence[Parcel]:
        """See ``Outbox.take``. Where nothing is due nothing is written."""
        if not self._rows(_DUE, (route, now, 1)):
            return ()

        def taken(connection: Connection) -> Sequence[Parcel]:
            rows = connection.execute(_DUE, (route, now, limit)).fetchall()
            found = [Parcel(Scope(*uids), attempts) for *uids, attempts in rows]
            connection.executemany(_PUT_OFF, [(until, route, one.scope.sop_instance_uid) for one in found])
            return found

        return self._write(taken)

    def settle(self, route: str, done: Sequence[str], later: Mapping[str, int]) -> None:
        """See ``Outbox.settle``."""

        def write(connection: Connection) -> None:
            connection.executemany(_REMOVE, [(route, uid) for uid in done])
            connection.executemany(_RETRY, [(due, route, uid) for uid, due in later.items()])

        self._write(write)

    def count(self, route: str) -> int:
        """See ``Outbox.count``."""
        return int(self._rows(_COUNT, (route,))[0][0])

    def _rows(self, text: str, parameters: Sequence[Any]) -> list[Any]:
        with self._engine.reading() as connection:
            return connection.execute(text, parameters).fetchall()

    def _write(self, act: Callable[[Connection], _Result]) -> _Result:
        return self._committer.run(lambda batch: batch.apart(act))
