"""Rows by query: one seam, and a file for each engine behind it."""

from __future__ import annotations

from pathlib import Path

from storage.index.base import Index
from storage.index.engine import sqlite_version
from storage.index.sqlite import SqliteIndex


def open_index(path: Path) -> SqliteIndex:
    """The index in an SQLite file, made when it is not there. Raises StorageUnavailable."""
    return SqliteIndex(path)


__all__ = ["Index", "SqliteIndex", "open_index", "sqlite_version"]
