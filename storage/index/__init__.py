"""Rows by query: one seam, and a file for each engine behind it."""

from __future__ import annotations

from pathlib import Path

from storage.index import sqlite
from storage.index.base import Index
from storage.index.engine import SEARCH_SECONDS
from storage.index.relational import RelationalIndex
from storage.index.schema import Version
from storage.index.sqlite import SqliteIndex, sqlite_version

URL_SCHEMES = ("postgresql://", "postgres://")


def open_index(place: Path | str, *, search_seconds: float = SEARCH_SECONDS) -> RelationalIndex:
    """The index in an SQLite file, made when it is not there, or in the PostgreSQL database of a URL.

    search_seconds: how long a reading statement may take. Raises StorageUnavailable.
    """
    if isinstance(place, Path):
        return SqliteIndex(place, search_seconds=search_seconds)
    from storage.index.postgresql import PostgresqlIndex  # noqa: PLC0415 - psycopg takes its time and memory

    return PostgresqlIndex(place, search_seconds=search_seconds)


def read_version(place: Path | str) -> Version:
    """How far the schema of an index is up to date, without changing anything. Raises StorageUnavailable."""
    if isinstance(place, Path):
        return sqlite.read_version(place)
    from storage.index import postgresql  # noqa: PLC0415 - as above

    return postgresql.read_version(place)


__all__ = [
    "URL_SCHEMES",
    "Index",
    "RelationalIndex",
    "SqliteIndex",
    "Version",
    "open_index",
    "read_version",
    "sqlite_version",
]
