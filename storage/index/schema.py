"""The schema: forward-only migrations, numbered files in ``schema/``, and the table that says which were applied.

A database that a later release has migrated is refused; nothing here ever goes back.
"""

from __future__ import annotations

import datetime as dt
import re
import sqlite3
from importlib import resources

from storage.errors import StorageUnavailable
from storage.index.engine import Connection

_FILE_NAME = re.compile(r"([0-9]{4})_[a-z0-9_]+\.sql")

_VERSION_TABLE = """
CREATE TABLE IF NOT EXISTS schema_version (version INTEGER PRIMARY KEY, applied_at TEXT NOT NULL) STRICT
"""


def migrations() -> tuple[tuple[int, str], ...]:
    """Every migration this release knows: its number and its text, ascending, without gaps from 1."""
    files = (resources.files("storage.index") / "schema").iterdir()
    found = sorted(
        (int(match[1]), file.read_text("utf-8")) for file in files if (match := _FILE_NAME.fullmatch(file.name))
    )
    assert [number for number, _ in found] == list(range(1, len(found) + 1)), "migrations are numbered without gaps"
    return tuple(found)


def version_of(connection: Connection) -> int:
    """Number of the last migration that was applied; 0 for a new database."""
    known = connection.execute("SELECT 1 FROM sqlite_schema WHERE name = 'schema_version'").fetchone()
    if known is None:
        return 0
    (version,) = connection.execute("SELECT coalesce(max(version), 0) FROM schema_version").fetchone()
    return int(version)


def migrate(connection: Connection, *, to: int | None = None) -> None:
    """Apply what is missing, each migration in a transaction of its own; safe when several processes start at once.

    to: stop after that number (for tests of migrations). Raises StorageUnavailable for a database of a later release.
    """
    for number, text in migrations():
        if to is not None and number > to:
            break
        if version_of(connection) < number:
            _apply(connection, number, text)
    if version_of(connection) > len(migrations()):
        raise StorageUnavailable("The index was written by a later release")


def _apply(connection: Connection, number: int, text: str) -> None:
    connection.execute("BEGIN IMMEDIATE")
    try:
        if version_of(connection) < number:  # not applied by another process meanwhile
            connection.execute(_VERSION_TABLE)
            for statement in _statements(text):
                connection.execute(statement)
            now = dt.datetime.now(dt.UTC).isoformat(timespec="microseconds")
            connection.execute("INSERT INTO schema_version (version, applied_at) VALUES (?, ?)", (number, now))
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise


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
