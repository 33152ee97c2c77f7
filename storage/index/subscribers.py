"""Who is told of changes, each in the order of the feed, and what of it was given up. Rows that outlive every process.

A subscriber is told by one process at a time: whoever begins puts off when it is due, and only then tells it. So who is
killed in between delays it, and it is told once more.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, TypeVar

from storage.index.batch import Batch
from storage.index.committer import Committer
from storage.index.engine import Connection, Engine
from storage.model import Subscriber, Undelivered

_Result = TypeVar("_Result")

_COLUMNS = "name, sequence, until_sequence, attempts, refusals, failing_since, due"
_ALL = f"SELECT {_COLUMNS} FROM subscriber ORDER BY name"  # noqa: S608 - constant names
_FIND = f"SELECT {_COLUMNS} FROM subscriber WHERE name = ?"  # noqa: S608 - constant names
_BEGIN = (
    "INSERT INTO subscriber (name, sequence) VALUES (?, (SELECT coalesce(max(sequence), 0) FROM change)) "
    "ON CONFLICT (name) DO NOTHING"
)
_SKIP = (
    "UPDATE subscriber SET sequence = ?, until_sequence = 0, attempts = 0, refusals = 0, due = 0 "
    "WHERE name = ? AND sequence = ? AND attempts = ? AND due = ?"
)
_TAKE = (
    "UPDATE subscriber SET until_sequence = ?, attempts = attempts + 1, due = ? "
    "WHERE name = ? AND sequence = ? AND attempts = ? AND due = ?"
)
# Whoever has it now may have taken over from somebody who was late: what was told was told.
_TOLD = (
    "UPDATE subscriber SET sequence = until_sequence, until_sequence = 0, attempts = 0, refusals = 0, "
    "failing_since = 0, due = 0 "
    "WHERE name = ? AND sequence = ? AND until_sequence = ?"
)
_PUT_OFF = (
    "UPDATE subscriber SET due = ?, refusals = refusals + ?, "
    "failing_since = CASE failing_since WHEN 0 THEN ? ELSE failing_since END "
    "WHERE name = ? AND sequence = ? AND attempts = ?"
)
_GIVE_UP = (
    "UPDATE subscriber SET sequence = until_sequence, until_sequence = 0, attempts = 0, refusals = 0, due = 0, "
    "failing_since = CASE failing_since WHEN 0 THEN ? ELSE failing_since END "
    "WHERE name = ? AND sequence = ? AND attempts = ?"
)
_LAY_ASIDE = (
    "INSERT INTO undelivered (subscriber, after_sequence, until_sequence, attempts, reason, given_up_at) "
    "VALUES (?, ?, ?, ?, ?, ?)"
)
_UNDELIVERED = (
    "SELECT id, subscriber, after_sequence, until_sequence, attempts, reason, given_up_at, due FROM undelivered "
)
_LISTED = _UNDELIVERED + "ORDER BY id LIMIT ?"
_NEXT = _UNDELIVERED + "WHERE subscriber = ? AND due <= ? ORDER BY id LIMIT 1"
_TAKE_AGAIN = "UPDATE undelivered SET due = ?, attempts = attempts + 1 WHERE id = ? AND due = ?"
_REMOVE = "DELETE FROM undelivered WHERE id = ?"
_LAY_ASIDE_AGAIN = "UPDATE undelivered SET due = NULL, reason = ? WHERE id = ? AND due IS NOT NULL"
_RETRY = "UPDATE undelivered SET due = ? WHERE id = ?"
_RETRY_ALL = "UPDATE undelivered SET due = ?"
_HURRY = "UPDATE subscriber SET due = 0 WHERE due > 0"  # it failed, or had by one who may have been killed
_DROP_ALL = "DELETE FROM undelivered"
_DROP_ALL_OF = "DELETE FROM undelivered WHERE subscriber = ?"
_FORGET = "DELETE FROM subscriber WHERE name = ?"
_COUNT = "SELECT count(*) FROM undelivered WHERE subscriber = ?"


class RelationalSubscribers:
    """``storage.index.base.Subscribers`` in the database of an index. See there for the promises."""

    def __init__(self, engine: Engine, committer: Committer[Batch]) -> None:
        self._engine = engine
        self._committer = committer

    def all(self) -> Sequence[Subscriber]:
        """See ``Subscribers.all``."""
        return [Subscriber(*row) for row in self._rows(_ALL, ())]

    def find(self, name: str) -> Subscriber:
        """See ``Subscribers.find``."""
        found = self._rows(_FIND, (name,))
        if not found:
            self._write(lambda connection: connection.execute(_BEGIN, (name,)))
            found = self._rows(_FIND, (name,))
        return Subscriber(*found[0])

    def skip(self, known: Subscriber, to: int) -> bool:
        """See ``Subscribers.skip``."""
        return self._changed(_SKIP, (to, known.name, known.sequence, known.attempts, known.due)) > 0

    def take(self, known: Subscriber, until: int, due: int) -> Subscriber | None:
        """See ``Subscribers.take``."""
        is_taken = self._changed(_TAKE, (until, due, known.name, known.sequence, known.attempts, known.due))
        if not is_taken:
            return None
        return replace(known, until_sequence=until, attempts=known.attempts + 1, due=due)

    def told(self, taken: Subscriber) -> None:
        """See ``Subscribers.told``."""
        self._changed(_TOLD, (taken.name, taken.sequence, taken.until_sequence))

    def put_off(self, taken: Subscriber, now: int, due: int, *, is_refused: bool) -> None:
        """See ``Subscribers.put_off``."""
        self._changed(_PUT_OFF, (due, int(is_refused), now, taken.name, taken.sequence, taken.attempts))

    def give_up(self, taken: Subscriber, reason: str, now: int) -> None:
        """See ``Subscribers.give_up``."""

        def write(connection: Connection) -> None:
            if connection.execute(_GIVE_UP, (now, taken.name, taken.sequence, taken.attempts)).rowcount:
                row = (taken.name, taken.sequence, taken.until_sequence, taken.attempts, reason, now)
                connection.execute(_LAY_ASIDE, row)

        self._write(write)

    def undelivered(self, limit: int) -> Sequence[Undelivered]:
        """See ``Subscribers.undelivered``."""
        return [Undelivered(*row) for row in self._rows(_LISTED, (limit,))]

    def count_undelivered(self, name: str) -> int:
        """See ``Subscribers.count_undelivered``."""
        return int(self._rows(_COUNT, (name,))[0][0])

    def take_again(self, name: str, now: int, due: int) -> Undelivered | None:
        """See ``Subscribers.take_again``."""
        for row in self._rows(_NEXT, (name, now)):
            known = Undelivered(*row)
            if self._changed(_TAKE_AGAIN, (due, known.id, known.due)):
                return replace(known, attempts=known.attempts + 1, due=due)
        return None

    def settle(self, taken: Undelivered, failure: str) -> None:
        """See ``Subscribers.settle``."""
        if failure:
            self._changed(_LAY_ASIDE_AGAIN, (failure, taken.id))
        else:
            self._changed(_REMOVE, (taken.id,))

    def retry(self, ids: Sequence[int] | None, now: int) -> int:
        """See ``Subscribers.retry``."""
        if ids is not None:
            return self._changed_each(_RETRY, [(now, one) for one in ids])

        def write(connection: Connection) -> int:
            return connection.execute(_HURRY).rowcount + connection.execute(_RETRY_ALL, (now,)).rowcount

        return self._write(write)

    def drop(self, ids: Sequence[int] | None) -> int:
        """See ``Subscribers.drop``."""
        if ids is None:
            return self._changed(_DROP_ALL, ())
        return self._changed_each(_REMOVE, [(one,) for one in ids])

    def forget(self, name: str) -> bool:
        """See ``Subscribers.forget``."""

        def write(connection: Connection) -> bool:
            connection.execute(_DROP_ALL_OF, (name,))
            return connection.execute(_FORGET, (name,)).rowcount > 0

        return self._write(write)

    def _rows(self, text: str, parameters: Sequence[Any]) -> list[Any]:
        with self._engine.reading() as connection:
            return connection.execute(text, parameters).fetchall()

    def _changed(self, text: str, parameters: Sequence[Any]) -> int:
        """How many rows a statement has changed, once that is committed."""
        return self._write(lambda connection: connection.execute(text, parameters).rowcount)

    def _changed_each(self, text: str, rows: Sequence[Sequence[Any]]) -> int:
        return self._write(lambda connection: sum(connection.execute(text, row).rowcount for row in rows))

    def _write(self, act: Callable[[Connection], _Result]) -> _Result:
        return self._committer.run(lambda batch: batch.apart(act))
