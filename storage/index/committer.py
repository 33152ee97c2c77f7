"""Committer: the one thread of a process that writes, with several callers sharing a commit (D14, R6).

Each transaction takes what has been waiting, at most 50 acts; there is no timer, so a lone act commits at once, and
the longer a commit takes the more the next one takes along. An act that fails is undone alone; a commit that fails
fails all of its acts (R8). A caller gets its result when its act is on disk.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any, Generic, Protocol, TypeVar

from storage.errors import Overloaded, StorageUnavailable
from storage.index.engine import BUSY_SECONDS, Connection, Error, is_busy, is_unavailable


class Unit(Protocol):
    """What acts of one transaction share."""

    def forget(self) -> None:
        """An act was undone: drop what was learnt in it."""

    def settle(self) -> None:
        """Write what was put off to the end of the transaction."""


Result = TypeVar("Result")
SomeUnit = TypeVar("SomeUnit", bound=Unit)


@dataclass(slots=True)
class _Act:
    """What to perform, how it ended, and who waits for it."""

    perform: Callable[[Any], Any]
    future: Future[Any]
    result: Any = None
    failure: BaseException | None = None

    def attempt(self, connection: Connection, unit: Unit) -> None:
        """Perform it, and undo it alone if it fails. Raises when the transaction cannot go on."""
        connection.execute("SAVEPOINT act")
        try:
            self.result = self.perform(unit)
        except BaseException as error:
            if is_unavailable(error) or not connection.in_transaction:
                raise
            connection.execute("ROLLBACK TO act")
            unit.forget()
            self.failure = error
        connection.execute("RELEASE act")

    def answer(self) -> None:
        """Let the caller go on."""
        if self.failure is None:
            self.future.set_result(self.result)
        else:
            self.future.set_exception(self.failure)


class Committer(Generic[SomeUnit]):
    """Runs acts in transactions. Thread-safe.

    open_connection: makes the connection for writing, also the next one after a failure. begin: makes the unit that
    acts of one transaction get. capacity: acts that may wait; one more raises Overloaded. most: acts of one commit.
    """

    def __init__(
        self,
        open_connection: Callable[[], Connection],
        begin: Callable[[Connection], SomeUnit],
        *,
        capacity: int = 1000,
        most: int = 50,
        busy_seconds: float = BUSY_SECONDS,
    ) -> None:
        self._open = open_connection
        self._begin = begin
        self._capacity = capacity
        self._most = most
        self._busy_seconds = busy_seconds
        self._connection: Connection | None = None
        self._waiting: deque[_Act] = deque()
        self._changed = threading.Condition()
        self._is_closing = False
        self._thread = threading.Thread(target=self._run, name="index-committer", daemon=True)
        self._thread.start()

    def run(self, perform: Callable[[SomeUnit], Result]) -> Result:
        """Perform an act in a transaction, and return its result once that is committed.

        Raises what the act raises, Overloaded when too many wait, StorageUnavailable when it cannot be committed.
        """
        future: Future[Result] = Future()
        with self._changed:
            if self._is_closing:
                raise StorageUnavailable("The index is closed")
            if len(self._waiting) >= self._capacity:
                raise Overloaded("Too many stores wait for the index")
            self._waiting.append(_Act(perform, future))
            self._changed.notify()
        return future.result()

    def close(self) -> None:
        """Finish what waits, then stop."""
        with self._changed:
            self._is_closing = True
            self._changed.notify()
        self._thread.join()

    def _run(self) -> None:
        while acts := self._take():
            self._commit(acts)
        self._drop_connection()

    def _take(self) -> list[_Act]:
        with self._changed:
            while not self._waiting and not self._is_closing:
                self._changed.wait()
            return [self._waiting.popleft() for _ in range(min(self._most, len(self._waiting)))]

    def _commit(self, acts: list[_Act]) -> None:
        is_committing = False
        try:
            connection = self._started()
            unit = self._begin(connection)
            for act in acts:
                act.attempt(connection, unit)
            unit.settle()
            is_committing = True
            connection.execute("COMMIT")
        except BaseException as error:  # noqa: BLE001 - carried to the callers who wait; this thread must live on
            self._drop_connection()
            for act in acts:
                act.failure = act.failure or _shared(error, is_committing=is_committing)
        for act in acts:
            act.answer()

    def _started(self) -> Connection:
        """The connection, in a transaction that already has the write lock."""
        deadline = time.monotonic() + self._busy_seconds
        if self._connection is None:
            self._connection = self._open()
            # SQLite would sleep up to 100 ms between two looks at a lock that others hold for a few.
            self._connection.execute("PRAGMA busy_timeout = 0")
        while True:
            try:
                self._connection.execute("BEGIN IMMEDIATE")
            except Error as error:
                if not is_busy(error) or time.monotonic() > deadline:
                    raise
                time.sleep(0.001)
            else:
                return self._connection

    def _drop_connection(self) -> None:
        """Close it, which takes back what is not committed; after a failure nobody knows its state."""
        connection, self._connection = self._connection, None
        if connection is not None:
            with contextlib.suppress(Error):
                connection.close()


def _shared(error: BaseException, *, is_committing: bool) -> BaseException:
    """One exception for each caller: two threads may not raise the same one."""
    if isinstance(error, StorageUnavailable):
        return StorageUnavailable(error.reason)
    if is_unavailable(error) or (is_committing and isinstance(error, Error)):
        unavailable = StorageUnavailable("The index could not commit")
        unavailable.__cause__ = error
        return unavailable
    return error
