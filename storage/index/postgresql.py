"""Index in a PostgreSQL database, which any number of processes on any number of machines may share.

Writers take turns by a lock of the database that ends with their transaction: the change feed has one order without
gaps (R11), parents are never made twice, and there is nothing to retry. What waits meanwhile shares the next commit.
"""

from __future__ import annotations

import contextlib
import logging
import select
from collections.abc import Iterable, Iterator, Sequence
from functools import lru_cache
from typing import Any

import psycopg
from psycopg.pq import TransactionStatus
from psycopg_pool import ConnectionPool, PoolTimeout

from storage.errors import StorageUnavailable
from storage.index import engine, schema
from storage.index.dialect import POSTGRESQL, Dialect
from storage.index.engine import BUSY_SECONDS, READERS, SEARCH_SECONDS
from storage.index.relational import RelationalIndex

logger = logging.getLogger("storage.index.postgresql")

OLDEST_POSTGRESQL = 130000
_CONNECT_SECONDS = 5
_POOL_SECONDS = 5.0
_IDLE_SECONDS = 300.0
_WRITE_LOCK = 0x6469636F6D  # of writers, in the database

# Probes have chosen the way already, and statements are written in the order of it.
_READER_OPTIONS = {
    "default_transaction_read_only": "on",
    "join_collapse_limit": "1",
    "plan_cache_mode": "force_custom_plan",
    "jit": "off",
}
_WRITER_OPTIONS = {"synchronous_commit": "on"}


class PostgresqlConnection:
    """``storage.index.engine.Connection`` over psycopg's."""

    def __init__(self, raw: psycopg.Connection[Any]) -> None:
        self._raw = raw

    @property
    def in_transaction(self) -> bool:
        """See ``Connection.in_transaction``."""
        return self._raw.info.transaction_status not in (TransactionStatus.IDLE, TransactionStatus.UNKNOWN)

    def execute(self, text: str, parameters: Sequence[Any] = (), /) -> psycopg.Cursor[Any]:
        """See ``Connection.execute``."""
        return self._raw.execute(_written(text), parameters)

    def executemany(self, text: str, parameters: Iterable[Sequence[Any]], /) -> psycopg.Cursor[Any]:
        """See ``Connection.executemany``."""
        cursor = self._raw.cursor()
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
        return PostgresqlConnection(psycopg.connect(self._url, **_arguments(self._writer_options)))

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
                yield PostgresqlConnection(raw)
            except BaseException:
                raw.close()
                raise
            finally:
                self._pool.putconn(raw)

    def is_unavailable(self, error: BaseException) -> bool:
        """See ``Engine.is_unavailable``."""
        return is_unavailable(error)

    def is_error(self, error: BaseException) -> bool:
        """See ``Engine.is_error``."""
        return isinstance(error, psycopg.Error)

    def close(self) -> None:
        """See ``Engine.close``."""
        self._pool.close()


def _refuse_ended(connection: psycopg.Connection[Any]) -> None:
    """Raises for a connection that the server has ended since it was last used: then there is something to read."""
    poll = select.poll()
    poll.register(connection.pgconn.socket, select.POLLIN)
    if poll.poll(0):
        connection.execute("SELECT 1")


def _arguments(options: dict[str, str]) -> dict[str, Any]:
    return {
        "autocommit": True,
        "connect_timeout": _CONNECT_SECONDS,
        "application_name": "dicomweb-gateway",
        "client_encoding": "UTF8",
        "options": _options(options),
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
            if not is_unavailable(error):
                raise
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
        migrate(PostgresqlConnection(raw))
