"""The schema: forward-only migrations, numbered files in a folder for each engine below ``schema/``, and the table that
says which were applied.

A database that a later release has migrated is refused; nothing here ever goes back. A file whose first line is
``-- refill`` adds columns that follow from what rows keep: they are worked out anew.
"""

from __future__ import annotations

import datetime as dt
import logging
import re
import sqlite3
from collections.abc import Callable
from dataclasses import dataclass
from importlib import resources

from storage.errors import StorageUnavailable
from storage.index.batch import refill
from storage.index.engine import Connection

logger = logging.getLogger("storage.index.schema")

_FILE_NAME = re.compile(r"([0-9]{4})_[a-z0-9_]+\.sql")
_REFILL = "-- refill"

_VERSION_TABLE = "CREATE TABLE IF NOT EXISTS schema_version (version INTEGER PRIMARY KEY, applied_at TEXT NOT NULL)"


def migrations(engine: str) -> tuple[tuple[int, str], ...]:
    """Every migration this release knows for an engine: its number and its text, ascending, without gaps from 1."""
    files = (resources.files("storage.index") / "schema" / engine).iterdir()
    found = sorted(
        (int(match[1]), file.read_text("utf-8")) for file in files if (match := _FILE_NAME.fullmatch(file.name))
    )
    assert [number for number, _ in found] == list(range(1, len(found) + 1)), "migrations are numbered without gaps"
    return tuple(found)


def version_in_table(connection: Connection) -> int:
    """Number of the last migration, of a database that has the table of versions."""
    (version,) = connection.execute("SELECT coalesce(max(version), 0) FROM schema_version").fetchone()
    return int(version)


@dataclass(frozen=True, slots=True)
class Version:
    """Numbers of the last migration that was applied to an index, 0 for none, and of the last that is known."""

    applied: int
    known: int


def migrate(
    connection: Connection,
    engine: str,
    version_of: Callable[[Connection], int],
    begin: Callable[[Connection], None],
    *,
    to: int | None = None,
) -> None:
    """Apply what is missing, each migration in a transaction of its own; safe when several processes start at once.

    version_of: number of the last migration, 0 in an empty database. begin: opens a transaction that writes alone.
    to: stop after that number (for tests of migrations). Raises StorageUnavailable for a database of a later release.
    """
    known = migrations(engine)
    for number, text in known:
        if to is not None and number > to:
            break
        if version_of(connection) < number:
            begin(connection)
            try:
                if version_of(connection) < number:  # not applied by another process meanwhile
                    _apply(connection, number, text)
                connection.execute("COMMIT")
            except BaseException:
                if connection.in_transaction:
                    connection.execute("ROLLBACK")
                raise
    if version_of(connection) > len(known):
        raise StorageUnavailable("The index was written by a later release")


def _apply(connection: Connection, number: int, text: str) -> None:
    logger.info("index.migrating", extra={"count": number})
    connection.execute(_VERSION_TABLE)
    for statement in _statements(text):
        connection.execute(statement)
    if text.startswith(_REFILL):
        refill(connection)
    now = dt.datetime.now(dt.UTC).isoformat(timespec="microseconds")
    connection.execute("INSERT INTO schema_version (version, applied_at) VALUES (?, ?)", (number, now))


def _statements(text: str) -> list[str]:
    """The statements of a script; ``executescript`` would commit the transaction they belong to."""
    statements: list[str] = []
    pending = ""
    for line in text.splitlines(keepends=True):
        pending += line
        if sqlite3.complete_statement(pending):
            statements.append(pending.strip())
            pending = ""
    return statements
