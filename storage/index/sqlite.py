"""Index in one SQLite file: which library, how a connection is opened, and which of its errors mean *not now*.

The interpreter's own SQLite is taken when it is free of the WAL-reset bug, otherwise the one that pysqlite3 brings;
with neither nothing opens (F14). https://sqlite.org/wal.html#walresetbug

Several processes of one machine may open the same file. On a network file system it must not be: WAL needs shared
memory.
"""

from __future__ import annotations

import contextlib
import importlib
import math
import sqlite3
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import TypeAlias

from storage.errors import StorageUnavailable
from storage.index import engine, schema
from storage.index.dialect import SQLITE, Dialect, Statement
from storage.index.engine import BUSY_SECONDS, READERS, SEARCH_SECONDS
from storage.index.relational import RelationalIndex

OLDEST_SQLITE = (3, 51, 3)
_CACHE_KIB = 4 * 1024
_WAL_BYTES = 64 << 20
_STEPS_BETWEEN_LOOKS = 20_000  # of SQLite's machine: about a millisecond
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
    """See ``Engine.is_unavailable``."""
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


class _Reader:
    """A connection for reading, whose statements are broken off at a deadline."""

    __slots__ = ("connection", "deadline")

    def __init__(self, connection: Connection) -> None:
        self.connection = connection
        self.deadline = math.inf
        connection.execute("PRAGMA query_only = ON")
        connection.set_progress_handler(self._is_late, _STEPS_BETWEEN_LOOKS)

    def _is_late(self) -> bool:
        return time.monotonic() > self.deadline


class SqliteEngine:
    """``storage.index.engine.Engine`` in a file. See there for the promises.

    open_connection: makes one. busy_seconds: how long another process may hold the write lock. search_seconds: how
    long a reading statement may take.
    """

    dialect: Dialect = SQLITE

    def __init__(
        self, open_connection: Callable[[], Connection], *, busy_seconds: float, search_seconds: float = SEARCH_SECONDS
    ) -> None:
        self._open = open_connection
        self._busy_seconds = busy_seconds
        self._search_seconds = search_seconds
        self._idle: deque[_Reader] = deque()
        self._places = threading.Semaphore(READERS)
        self._is_closed = False

    def writer(self) -> Connection:
        """See ``Engine.writer``."""
        connection = self._open()
        # SQLite would sleep up to 100 ms between two looks at a lock that others hold for a few.
        connection.execute("PRAGMA busy_timeout = 0")
        return connection

    def has_ended(self, connection: engine.Connection) -> bool:  # noqa: ARG002 - a file ends nothing
        """See ``Engine.has_ended``."""
        return False

    def begin(self, connection: engine.Connection) -> None:
        """See ``Engine.begin``."""
        deadline = time.monotonic() + self._busy_seconds
        while True:
            try:
                connection.execute("BEGIN IMMEDIATE")
            except Error as error:
                if not is_busy(error) or time.monotonic() > deadline:
                    raise
                time.sleep(0.001)
            else:
                return

    @contextlib.contextmanager
    def reading(self) -> Iterator[Connection]:
        """See ``Engine.reading``. After an error a connection is not used again."""
        if self._is_closed:
            raise StorageUnavailable("The index is closed")
        with self._places, translated():
            reader = self._take()
            reader.deadline = time.monotonic() + self._search_seconds
            try:
                yield reader.connection
            except BaseException:
                reader.connection.close()
                raise
            reader.deadline = math.inf
            self._idle.append(reader)
        self._close_idle_if_closed()

    def expects_many(self, connection: engine.Connection, statement: Statement) -> bool:  # noqa: ARG002 - no estimate
        """See ``Engine.expects_many``. It finds rows one by one, and stops."""
        return False

    def is_unavailable(self, error: BaseException) -> bool:
        """See ``Engine.is_unavailable``."""
        return is_unavailable(error)

    def is_error(self, error: BaseException) -> bool:
        """See ``Engine.is_error``."""
        return isinstance(error, Error)

    def _take(self) -> _Reader:
        try:
            return self._idle.pop()
        except IndexError:
            return _Reader(self._open())

    def _close_idle_if_closed(self) -> None:
        with contextlib.suppress(IndexError):
            while self._is_closed:
                self._idle.pop().connection.close()

    def close(self) -> None:
        """Close those that are idle now, and the others as soon as they are given back."""
        self._is_closed = True
        self._close_idle_if_closed()


class SqliteIndex(RelationalIndex):
    """``storage.index.base.Index`` in a file. See there for the promises.

    path: the file, made when it is not there; its folder must exist. queue_capacity: stores that may wait for a
    commit. open_connection: how a connection is made; tests give one that fails. The others are those of
    ``SqliteEngine``. Raises StorageUnavailable when the file cannot be opened, is of a later release, or the SQLite
    library is too old.
    """

    def __init__(
        self,
        path: Path,
        *,
        queue_capacity: int = 1000,
        busy_seconds: float = BUSY_SECONDS,
        search_seconds: float = SEARCH_SECONDS,
        open_connection: Callable[[Path], Connection] = connect,
    ) -> None:
        opened = partial(open_connection, path)
        with translated():
            _prepare(opened, busy_seconds)
        engine_of_file = SqliteEngine(opened, busy_seconds=busy_seconds, search_seconds=search_seconds)
        super().__init__(engine_of_file, queue_capacity=queue_capacity)


def version_of(connection: engine.Connection) -> int:
    """Number of the last migration that was applied; 0 for a new database."""
    known = connection.execute("SELECT 1 FROM sqlite_schema WHERE name = 'schema_version'").fetchone()
    return schema.version_in_table(connection) if known else 0


def read_version(path: Path) -> schema.Version:
    """The version of the index in a file; nothing is migrated, and no file made. Raises StorageUnavailable."""
    known = len(schema.migrations("sqlite"))
    if not path.exists():
        return schema.Version(0, known)
    with translated(), contextlib.closing(connect(path)) as connection:
        return schema.Version(version_of(connection), known)


def migrate(connection: engine.Connection, *, to: int | None = None) -> None:
    """See ``storage.index.schema.migrate``."""
    schema.migrate(connection, "sqlite", version_of, _begin, to=to)


def _begin(connection: engine.Connection) -> None:
    connection.execute("BEGIN IMMEDIATE")


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
