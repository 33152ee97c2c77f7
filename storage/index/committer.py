"""Committer: callers who write share their commits, and take turns at making them (D14, R6).

The first caller makes the transaction itself, in its own thread; those who come meanwhile wait, and one of them makes
the next for all of them, at most 50 acts. There is no timer and no thread in between: a lone act commits at once, and
the longer a commit takes the more the next one takes along. An act that fails is undone alone; a commit that fails
fails all of its acts (R8). A caller gets its result when its act is on disk.
"""

from __future__ import annotations

import contextlib
import threading
from collections import deque
from collections.abc import Callable
from typing import Any, Generic, Protocol, TypeVar, cast

from storage.errors import Overloaded, StorageUnavailable
from storage.index.engine import Connection, Engine


class Unit(Protocol):
    """What acts of one transaction share."""

    def forget(self) -> None:
        """An act was undone: drop what was learnt in it."""

    def settle(self) -> None:
        """Write what was put off to the end of the transaction."""


Result = TypeVar("Result")
SomeUnit = TypeVar("SomeUnit", bound=Unit)


class _Act:
    """What to perform, how it ended, and the caller who waits for it.

    is_leading: its caller makes the next transaction, once it is woken.
    """

    __slots__ = ("_signal", "failure", "is_leading", "perform", "result")

    def __init__(self, perform: Callable[[Any], Any]) -> None:
        self.perform = perform
        self.result: Any = None
        self.failure: BaseException | None = None
        self.is_leading = False
        self._signal = threading.Lock()
        self._signal.acquire()

    def wait(self) -> None:
        """Sleep until ``wake``."""
        self._signal.acquire()

    def wake(self) -> None:
        """Let the caller go on, once."""
        self._signal.release()

    def attempt(self, engine: Engine, connection: Connection, unit: Unit) -> None:
        """Perform it, and undo it alone if it fails. Raises when the transaction cannot go on."""
        connection.execute("SAVEPOINT act")
        try:
            self.result = self.perform(unit)
        except BaseException as error:
            if engine.is_unavailable(error) or not connection.in_transaction:
                raise
            connection.execute("ROLLBACK TO act")
            unit.forget()
            self.failure = error
        connection.execute("RELEASE act")

    def answer(self) -> Any:
        """What the caller gets. Raises how the act failed."""
        if self.failure is not None:
            raise self.failure
        return self.result


class Committer(Generic[SomeUnit]):
    """Runs acts in transactions. Thread-safe.

    engine: gives the connection for writing, also the next one after a failure. begin: makes the unit that acts of
    one transaction get. capacity: acts that may wait; one more raises Overloaded. most: acts of one commit.
    """

    def __init__(
        self,
        engine: Engine,
        begin: Callable[[Connection], SomeUnit],
        *,
        capacity: int = 1000,
        most: int = 50,
    ) -> None:
        self._engine = engine
        self._begin = begin
        self._capacity = capacity
        self._most = most
        self._connection: Connection | None = None
        self._waiting: deque[_Act] = deque()
        self._mutex = threading.Lock()
        self._is_led = False
        self._is_closing = False
        self._is_idle = threading.Event()
        self._is_idle.set()

    def run(self, perform: Callable[[SomeUnit], Result]) -> Result:
        """Perform an act in a transaction, and return its result once that is committed.

        Raises what the act raises, Overloaded when too many wait, StorageUnavailable when it cannot be committed.
        """
        act = _Act(perform)
        with self._mutex:
            if self._is_closing:
                raise StorageUnavailable("The index is closed")
            if len(self._waiting) >= self._capacity:
                raise Overloaded("Too many stores wait for the index")
            self._waiting.append(act)
            act.is_leading = not self._is_led
            if act.is_leading:
                self._is_led = True
                self._is_idle.clear()
        if not act.is_leading:
            act.wait()
        if act.is_leading:
            self._lead(act)
        return cast(Result, act.answer())

    def close(self) -> None:
        """Let what waits be finished by those who wait, then let go of the connection."""
        with self._mutex:
            self._is_closing = True
        self._is_idle.wait()
        self._drop_connection()

    def _lead(self, own: _Act) -> None:
        """Make one transaction of what waits, ``own`` first in line; hand the lead on before anybody goes."""
        with self._mutex:
            acts = [self._waiting.popleft() for _ in range(min(self._most, len(self._waiting)))]
        try:
            self._commit(acts)
        finally:
            with self._mutex:
                successor = self._waiting[0] if self._waiting else None
                self._is_led = successor is not None
                if successor is None:
                    self._is_idle.set()
                else:
                    successor.is_leading = True
            for act in acts:
                if act is not own:
                    act.wake()
            if successor is not None:
                successor.wake()

    def _commit(self, acts: list[_Act]) -> None:
        is_committing = False
        try:
            connection = self._started()
            unit = self._begin(connection)
            if len(acts) == 1:
                acts[0].result = acts[0].perform(unit)  # there is nobody to undo it for alone
            else:
                for act in acts:
                    act.attempt(self._engine, connection, unit)
            unit.settle()
            is_committing = True
            connection.execute("COMMIT")
        except BaseException as error:  # noqa: BLE001 - carried to each of the callers who share it
            self._drop_connection()
            for act in acts:
                act.failure = act.failure or _shared(self._engine, error, is_committing=is_committing)

    def _started(self) -> Connection:
        """The connection, in a transaction that already has the right to write.

        One whose end shows only when it is used is replaced once: nothing of this transaction was on it.
        """
        if self._connection is not None and not self._engine.has_ended(self._connection):
            try:
                self._engine.begin(self._connection)
            except Exception:
                if not self._engine.has_ended(self._connection):
                    raise
            else:
                return self._connection
        self._drop_connection()
        self._connection = self._engine.writer()
        self._engine.begin(self._connection)
        return self._connection

    def _drop_connection(self) -> None:
        """Close it, which takes back what is not committed; after a failure nobody knows its state."""
        connection, self._connection = self._connection, None
        if connection is not None:
            with contextlib.suppress(Exception):  # its transaction ends with it, however it ends
                connection.close()


def _shared(engine: Engine, error: BaseException, *, is_committing: bool) -> BaseException:
    """One exception for each caller: two threads may not raise the same one."""
    if isinstance(error, StorageUnavailable):
        return StorageUnavailable(error.reason)
    if engine.is_unavailable(error) or (is_committing and engine.is_error(error)):
        unavailable = StorageUnavailable("The index could not commit")
        unavailable.__cause__ = error
        return unavailable
    return error
