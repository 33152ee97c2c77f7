"""SQLite as we use it: which library, how a connection is opened, and which of its errors mean *not now*.

The interpreter's own SQLite is taken when it is free of the WAL-reset bug, otherwise the one that pysqlite3 brings;
with neither nothing opens (F14). https://sqlite.org/wal.html#walresetbug
"""

from __future__ import annotations

import contextlib
import importlib
import sqlite3
import threading
from collections import deque
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import TypeAlias

from storage.errors import StorageUnavailable

OLDEST_SQLITE = (3, 51, 3)
BUSY_SECONDS = 10.0
READERS = 8
_CACHE_KIB = 4 * 1024
_WAL_BYTES = 64 << 20
_CHECKPOINT_PAGES = 4000  # 16 MB: a store of a new study writes a dozen pages, most of them again and again

Connection: TypeAlias = sqlite3.Connection  # pysqlite3's has the same face


def _modules() -> Iterator[ModuleType]:
    yield sqlite3
    with contextlib.suppress(ImportError):
        yield importlib.import_module("pysqlite3.dbapi2")


def _newest() -> ModuleType:
    suitable = (module for module in _modules() if module.sqlite_version_info >= OLDEST_SQLITE)
    return next(suitable, None) or max(_modules(), key=lambda module: module.sqlite_version_info)


_SQLITE = _newest()

Error: type[sqlite3.Error] = _SQLITE.Error


def sqlite_version() -> str:
    """Version of the SQLite library in use."""
    return str(_SQLITE.sqlite_version)


def check_version(version_info: tuple[int, ...]) -> None:
    """Refuse a library that can damage a file which two connections write. Raises StorageUnavailable. F14"""
    if version_info < OLDEST_SQLITE:
        raise StorageUnavailable("SQLite is older than 3.51.3; install pysqlite3")


def connect(path: Path, factory: type[Connection] | None = None) -> Connection:
    """A connection in autocommit mode that any one thread at a time may use; makes the file when it is not there.

    Each commit is on disk when it returns (``synchronous=FULL``). factory: a subclass of the library's connection.
    """
    check_version(_SQLITE.sqlite_version_info)
    options = {"factory": factory} if factory else {}
    connection: Connection = _SQLITE.connect(
        path, timeout=BUSY_SECONDS, isolation_level=None, check_same_thread=False, cached_statements=256, **options
    )
    try:
        for pragma in (
            "journal_mode = WAL",
            "synchronous = FULL",
            "foreign_keys = ON",
            "trusted_schema = OFF",
            f"cache_size = -{_CACHE_KIB}",
            f"journal_size_limit = {_WAL_BYTES}",
            f"wal_autocheckpoint = {_CHECKPOINT_PAGES}",
        ):
            connection.execute(f"PRAGMA {pragma}")
    except BaseException:
        connection.close()
        raise
    return connection


def connection_class() -> type[Connection]:
    """The library's own connection class, for subclasses of it."""
    kind: type[Connection] = _SQLITE.Connection
    return kind


# Primary result codes after which the same call may succeed later, or elsewhere. https://sqlite.org/rescode.html
_NOT_NOW = frozenset(
    {
        5: "BUSY",
        6: "LOCKED",
        7: "NOMEM",
        8: "READONLY",
        9: "INTERRUPT",
        10: "IOERR",
        11: "CORRUPT",
        13: "FULL",
        14: "CANTOPEN",
        15: "PROTOCOL",
        26: "NOTADB",
    }
)


def is_unavailable(error: BaseException) -> bool:
    """Whether an exception says that the database cannot keep its promise; anything else of SQLite is our mistake."""
    return isinstance(error, Error) and (getattr(error, "sqlite_errorcode", 0) or 0) & 0xFF in _NOT_NOW


def is_busy(error: BaseException) -> bool:
    """Whether another process holds the lock."""
    return isinstance(error, Error) and (getattr(error, "sqlite_errorcode", 0) or 0) & 0xFF in (5, 6)


@contextlib.contextmanager
def translated() -> Iterator[None]:
    """Within it, what SQLite cannot do now is StorageUnavailable."""
    try:
        yield
    except Error as error:
        if is_unavailable(error):
            raise StorageUnavailable("The index cannot be reached") from error
        raise


class Readers:
    """Connections for reading, at most ``READERS`` as each has a cache; each is used by one thread at a time.

    Thread-safe. They cannot write. A block must not ask for a second one.
    """

    def __init__(self, open_connection: Callable[[], Connection]) -> None:
        self._open = open_connection
        self._idle: deque[Connection] = deque()
        self._places = threading.Semaphore(READERS)
        self._is_closed = False

    @contextlib.contextmanager
    def connection(self) -> Iterator[Connection]:
        """One of them, for as long as the block takes; after an error it is not used again."""
        if self._is_closed:
            raise StorageUnavailable("The index is closed")
        with self._places, translated():
            connection = self._take()
            try:
                yield connection
            except BaseException:
                connection.close()
                raise
            self._idle.append(connection)
        self._close_idle_if_closed()

    def _take(self) -> Connection:
        try:
            return self._idle.pop()
        except IndexError:
            connection = self._open()
            connection.execute("PRAGMA query_only = ON")
            return connection

    def _close_idle_if_closed(self) -> None:
        with contextlib.suppress(IndexError):
            while self._is_closed:
                self._idle.pop().close()

    def close(self) -> None:
        """Close those that are idle now, and the others as soon as they are given back."""
        self._is_closed = True
        self._close_idle_if_closed()
