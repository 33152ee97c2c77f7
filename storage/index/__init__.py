"""Rows by query: one seam, and a file for each engine behind it."""

from __future__ import annotations

from pathlib import Path

from storage.index.base import Index
from storage.index.engine import SEARCH_SECONDS
from storage.index.relational import RelationalIndex
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


__all__ = ["URL_SCHEMES", "Index", "RelationalIndex", "SqliteIndex", "open_index", "sqlite_version"]
