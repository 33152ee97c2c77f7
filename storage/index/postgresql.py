"""Index in a PostgreSQL database, which any number of processes on any number of machines may share.

Writers take turns by a lock of the database that ends with their transaction: the change feed has one order without
gaps (R11), parents are never made twice, and there is nothing to retry. What waits meanwhile shares the next commit.
"""

from __future__ import annotations

import contextlib
import logging
import os
import select
import socket
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from functools import lru_cache
from typing import Any

import psycopg
from psycopg.pq import TransactionStatus
from psycopg_pool import ConnectionPool, PoolTimeout

from storage.errors import StorageUnavailable
from storage.index import engine, schema
from storage.index.dialect import POSTGRESQL, Dialect, Statement
from storage.index.engine import BUSY_SECONDS, READERS, SEARCH_SECONDS
from storage.index.relational import RelationalIndex

logger = logging.getLogger("storage.index.postgresql")

OLDEST_POSTGRESQL = 130000
_CONNECT_SECONDS = 5
_POOL_SECONDS = 5.0
_MIGRATION_SECONDS = 24 * 3600.0
_IDLE_SECONDS = 300.0
_WRITE_LOCK = 0x6469636F6D  # of writers, in the database

# Probes have chosen the way already, and statements are written in the order of it.
_READER_OPTIONS = {
    "default_transaction_read_only": "on",
    "join_collapse_limit": "1",
    "plan_cache_mode": "force_custom_plan",
    "jit": "off",
    "max_parallel_workers_per_gather": "0",
    "random_page_cost": "1.1",
}
_WRITER_OPTIONS = {"synchronous_commit": "on"}
# Of a bitmap of all rows with some trigrams, however few are wanted; more than so many are not asked for.
_MANY_ROWS = 10_000
_ANSWER_SECONDS = 10.0  # beyond what a statement may take: then the server is silent
_LOOK_SECONDS = 1.0
_SILENCE = {  # a peer that is gone without a word is noticed by the kernel
    "keepalives_idle": 10,
    "keepalives_interval": 5,
    "keepalives_count": 3,
    "tcp_user_timeout": 20_000,
}


class _Watch:
    """Ends connections whose server does not answer in time: it may be stopped while its machine still says that all
    has arrived. Thread-safe.
    """

    def __init__(self) -> None:
        self._due: dict[int, float] = {}
        self._lock = threading.Lock()
        self._is_closed = threading.Event()
        threading.Thread(target=self._run, name="postgresql-watch", daemon=True).start()

    @contextlib.contextmanager
    def limit(self, raw: psycopg.Connection[Any], seconds: float) -> Iterator[None]:
        """Within it, the connection is ended after so many seconds."""
        fd = raw.pgconn.socket
        with self._lock:
            self._due[fd] = time.monotonic() + seconds
        try:
            yield
        finally:
            with self._lock:
                self._due.pop(fd, None)

    def _run(self) -> None:
        while not self._is_closed.wait(_LOOK_SECONDS):
            now = time.monotonic()
            with self._lock:
                for fd in [fd for fd, due in self._due.items() if due < now]:
                    del self._due[fd]
                    with contextlib.suppress(OSError), socket.socket(fileno=os.dup(fd)) as silent:
                        silent.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """Watch no longer."""
        self._is_closed.set()


class PostgresqlConnection:
    """``storage.index.engine.Connection`` over psycopg's. seconds: how long one statement may take."""

    def __init__(self, raw: psycopg.Connection[Any], watch: _Watch, seconds: float) -> None:
        self._raw = raw
        self._watch = watch
        self._seconds = seconds + _ANSWER_SECONDS

    @property
    def has_ended(self) -> bool:
        """Whether the server has ended it since it was last used: then there is something to read."""
        return self._raw.closed or _has_word(self._raw)

    @property
    def in_transaction(self) -> bool:
        """See ``Connection.in_transaction``."""
        return self._raw.info.transaction_status not in (TransactionStatus.IDLE, TransactionStatus.UNKNOWN)

    def execute(self, text: str, parameters: Sequence[Any] = (), /) -> psycopg.Cursor[Any]:
        """See ``Connection.execute``."""
        with self._watch.limit(self._raw, self._seconds):
            return self._raw.execute(_written(text), parameters)

    def executemany(self, text: str, parameters: Iterable[Sequence[Any]], /) -> psycopg.Cursor[Any]:
        """See ``Connection.executemany``."""
        cursor = self._raw.cursor()
        with self._watch.limit(self._raw, self._seconds):
            cursor.executemany(_written(text), parameters)
        return cursor

    def close(self) -> None:
        """See ``Connection.close``."""
        self._raw.close()


@lru_cache(maxsize=2048)
def _written(text: str) -> bytes:
    """A statement with psycopg's placeholders; a question mark is nothing else in our texts."""
    return text.replace("%", "%%").replace("?", "%s").encode()


def _options(given: dict[str, str]) -> str:
    return " ".join(f"-c {name}={value}" for name, value in given.items())


class PostgresqlEngine:
    """``storage.index.engine.Engine`` in a database. See there for the promises.

    url: as libpq takes it; what it leaves open comes from libpq's environment variables and files. busy_seconds: how
    long others may hold the lock of writers. search_seconds: how long a reading statement may take.
    """

    dialect: Dialect = POSTGRESQL

    def __init__(self, url: str, *, busy_seconds: float, search_seconds: float) -> None:
        self._url = url
        self._busy_seconds = busy_seconds
        self._search_seconds = search_seconds
        self._watch = _Watch()
        self._writer_options = _WRITER_OPTIONS | {"lock_timeout": f"{int(busy_seconds * 1000)}ms"}
        options = _READER_OPTIONS | {"statement_timeout": f"{int(search_seconds * 1000)}ms"}
        self._pool: ConnectionPool[psycopg.Connection[Any]] = ConnectionPool(
            url,
            kwargs=_arguments(options),
            min_size=0,
            max_size=READERS,
            max_idle=_IDLE_SECONDS,
            timeout=_POOL_SECONDS,
            reconnect_timeout=_POOL_SECONDS,
            check=_refuse_ended,
            name="dicomweb-gateway",
            open=True,
        )

    def writer(self) -> PostgresqlConnection:
        """See ``Engine.writer``."""
        raw = psycopg.connect(self._url, **_arguments(self._writer_options))
        return PostgresqlConnection(raw, self._watch, self._busy_seconds)

    def has_ended(self, connection: engine.Connection) -> bool:
        """See ``Engine.has_ended``."""
        return isinstance(connection, PostgresqlConnection) and connection.has_ended

    def begin(self, connection: engine.Connection) -> None:
        """See ``Engine.begin``. What is read afterwards is what the last writer committed."""
        connection.execute("BEGIN ISOLATION LEVEL READ COMMITTED READ WRITE")
        connection.execute("SELECT pg_advisory_xact_lock(?)", (_WRITE_LOCK,))

    @contextlib.contextmanager
    def reading(self) -> Iterator[PostgresqlConnection]:
        """See ``Engine.reading``. After an error a connection is not used again."""
        if self._pool.closed:
            raise StorageUnavailable("The index is closed")
        with translated():
            raw = self._pool.getconn()
            try:
                yield PostgresqlConnection(raw, self._watch, self._search_seconds)
            except BaseException:
                raw.close()
                raise
            finally:
                self._pool.putconn(raw)

    def expects_many(self, connection: engine.Connection, statement: Statement) -> bool:
        """See ``Engine.expects_many``. By the statistics of the planner, who would find them all before the first."""
        text, parameters = statement
        ((explained,),) = connection.execute(f"EXPLAIN (FORMAT JSON) {text}", parameters).fetchall()
        ahead_of_limit = explained[0]["Plan"].get("Plans", ({},))[0]
        return bool(ahead_of_limit.get("Plan Rows", 0) > _MANY_ROWS)

    def is_unavailable(self, error: BaseException) -> bool:
        """See ``Engine.is_unavailable``."""
        return is_unavailable(error)

    def is_error(self, error: BaseException) -> bool:
        """See ``Engine.is_error``."""
        return isinstance(error, psycopg.Error)

    def close(self) -> None:
        """See ``Engine.close``."""
        self._pool.close()
        self._watch.close()


def _refuse_ended(connection: psycopg.Connection[Any]) -> None:
    """Raises for a connection that the server has ended since it was last used."""
    if _has_word(connection):
        connection.execute("SELECT 1")


def _has_word(connection: psycopg.Connection[Any]) -> bool:
    """Whether there is something to read of a server that was not asked: it says goodbye, or is gone."""
    poll = select.poll()
    poll.register(connection.pgconn.socket, select.POLLIN)
    return bool(poll.poll(0))


def _arguments(options: dict[str, str]) -> dict[str, Any]:
    return {
        "autocommit": True,
        "connect_timeout": _CONNECT_SECONDS,
        "application_name": "dicomweb-gateway",
        "client_encoding": "UTF8",
        "options": _options(options),
        **_SILENCE,
    }


# Classes of SQLSTATE after which the same call may succeed later: connections, resources, operators, the system,
# standby servers, locks, transactions that others broke. https://www.postgresql.org/docs/current/errcodes-appendix.html
_NOT_NOW_CLASSES = frozenset(("08", "25", "40", "53", "57", "58", "XX"))
_NOT_NOW = frozenset(("55P03", "55006", "28000", "28P01", "3D000", "42501"))
_UNREACHABLE = "The index cannot be reached"
_MESSAGE_CHARACTERS = 200


def is_unavailable(error: BaseException) -> bool:
    """Whether the database cannot do it now: no connection, no place, no time, or no right to it."""
    if isinstance(error, PoolTimeout):
        return True
    if not isinstance(error, psycopg.Error):
        return False
    state = error.sqlstate
    if state is None:
        return isinstance(error, psycopg.OperationalError | psycopg.InterfaceError)
    return state[:2] in _NOT_NOW_CLASSES or state in _NOT_NOW


@contextlib.contextmanager
def translated() -> Iterator[None]:
    """Within it, what the database cannot do now is StorageUnavailable."""
    try:
        yield
    except psycopg.Error as error:
        if is_unavailable(error):
            raise StorageUnavailable(_UNREACHABLE) from error
        raise
    except PoolTimeout as error:
        raise StorageUnavailable(_UNREACHABLE) from error


class PostgresqlIndex(RelationalIndex):
    """``storage.index.base.Index`` in a database. See there for the promises.

    url: ``postgresql://…``. The others are those of ``SqliteIndex``. Raises StorageUnavailable when the database
    cannot be reached, is of a later release, or does not keep its text in UTF-8.
    """

    def __init__(
        self,
        url: str,
        *,
        queue_capacity: int = 1000,
        busy_seconds: float = BUSY_SECONDS,
        search_seconds: float = SEARCH_SECONDS,
    ) -> None:
        logging.getLogger("psycopg").setLevel(logging.ERROR)  # its pool warns of every attempt; callers hear of each
        try:
            _prepare(url)
        except psycopg.Error as error:
            # Only here, for who starts it: the server's own words may name the user and the database.
            raise StorageUnavailable(f"{_UNREACHABLE}: {str(error).splitlines()[-1][:_MESSAGE_CHARACTERS]}") from error
        of_database = PostgresqlEngine(url, busy_seconds=busy_seconds, search_seconds=search_seconds)
        super().__init__(of_database, queue_capacity=queue_capacity)


def version_of(connection: engine.Connection) -> int:
    """Number of the last migration that was applied; 0 for a new database."""
    # Not by to_regclass, which may remember that there was none.
    text = "SELECT count(*) FROM pg_class WHERE relname = 'schema_version' AND pg_table_is_visible(oid)"
    (known,) = connection.execute(text).fetchone()
    return schema.version_in_table(connection) if known else 0


def read_version(url: str) -> schema.Version:
    """The version of the index in a database; nothing is migrated. Raises StorageUnavailable."""
    known = len(schema.migrations("postgresql"))
    with translated(), contextlib.closing(psycopg.connect(url, **_arguments(_WRITER_OPTIONS))) as raw:
        watch = _Watch()
        try:
            return schema.Version(version_of(PostgresqlConnection(raw, watch, BUSY_SECONDS)), known)
        finally:
            watch.close()


def migrate(connection: engine.Connection, *, to: int | None = None) -> None:
    """See ``storage.index.schema.migrate``."""
    schema.migrate(connection, "postgresql", version_of, _begin, to=to)


def _begin(connection: engine.Connection) -> None:
    connection.execute("BEGIN")
    connection.execute("SELECT pg_advisory_xact_lock(?)", (_WRITE_LOCK,))


def _prepare(url: str) -> None:
    """Refuse a database that cannot hold the archive, and bring its schema up to date."""
    raw = psycopg.connect(url, **_arguments(_WRITER_OPTIONS))
    with contextlib.closing(raw):
        if raw.info.server_version < OLDEST_POSTGRESQL:
            raise StorageUnavailable("PostgreSQL is older than version 13")
        if raw.info.parameter_status("server_encoding") != "UTF8":
            raise StorageUnavailable("The database does not keep its text in UTF-8")
        row = raw.execute("SELECT current_setting('fsync')").fetchone()
        if row is None or row[0] != "on":
            logger.warning("index.without_fsync")  # what it says is durable may be lost with its power
        watch = _Watch()
        try:
            migrate(PostgresqlConnection(raw, watch, _MIGRATION_SECONDS))
        finally:
            watch.close()
