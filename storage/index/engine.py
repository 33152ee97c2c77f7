"""The seam below the rows: what the index needs of a database, whichever it is."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager
from typing import Any, Protocol

from storage.index.dialect import Dialect, Statement

BUSY_SECONDS = 10.0
"""How long a writer waits for others who write."""
SEARCH_SECONDS = 30.0
"""How long one reading statement may take."""
READERS = 8
"""Connections for reading of one process."""


class Cursor(Protocol):
    """What a statement gave."""

    @property
    def rowcount(self) -> int:
        """Rows that a change touched."""
        ...

    def fetchone(self) -> Any:
        """The next row, a tuple; None behind the last."""
        ...

    def fetchall(self) -> list[Any]:
        """The rows that are left."""
        ...


class Connection(Protocol):
    """A connection in autocommit mode, for any one thread at a time. Parameters stand as ``?`` in every text."""

    @property
    def in_transaction(self) -> bool:
        """Whether a transaction is open."""
        ...

    def execute(self, text: str, parameters: Sequence[Any] = ..., /) -> Cursor:
        """Run one statement."""
        ...

    def executemany(self, text: str, parameters: Iterable[Sequence[Any]], /) -> Cursor:
        """Run one statement for each row of parameters."""
        ...

    def close(self) -> None:
        """Let go of it; a transaction that is open is taken back."""
        ...


class Engine(Protocol):
    """A database that holds the rows. Thread-safe."""

    dialect: Dialect

    def writer(self) -> Connection:
        """A new connection for writing, of which each commit is on disk when it returns."""
        ...

    def has_ended(self, connection: Connection) -> bool:
        """Whether a connection is of no use any more, as far as can be told without asking the database."""
        ...

    def begin(self, connection: Connection) -> None:
        """Open a transaction that has the right to write, alone among all processes, until it ends."""
        ...

    def reading(self) -> AbstractContextManager[Connection]:
        """A connection for reading, for as long as the block takes. A block must not ask for a second one.

        What takes longer than a statement may is broken off: each of them, or all of the block. Within it, what the
        database cannot do now is StorageUnavailable.
        """
        ...

    def expects_many(self, connection: Connection, statement: Statement) -> bool:
        """Whether a probe by trigrams would find so many rows, by an estimate, that it is not worth its while."""
        ...

    def is_unavailable(self, error: BaseException) -> bool:
        """Whether an exception says that the database cannot keep its promise; any other is a mistake of ours."""
        ...

    def is_error(self, error: BaseException) -> bool:
        """Whether an exception is one of the database's library."""
        ...

    def close(self) -> None:
        """Let go of every connection for reading."""
        ...
