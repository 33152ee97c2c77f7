"""The engines of the index, as tests want them: an index for a folder, and ways to make it fail."""

from __future__ import annotations

import contextlib
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Protocol

import psycopg
import pytest

from storage.index.sqlite import connect
from tests.fix_postgresql import database_url, shared_server

_DAMAGE = """
import pathlib, sys
path = pathlib.Path(sys.argv[1])
path.with_suffix(".whole").write_bytes(path.read_bytes())
with path.open("r+b") as file:
    file.write(bytes(path.stat().st_size))
"""
_REPAIR = "import sys, pathlib; pathlib.Path(sys.argv[2]).open('r+b').write(pathlib.Path(sys.argv[1]).read_bytes())"
_WRITE_LOCK = 0x6469636F6D


class Engine(Protocol):
    """One engine. folder: the data folder of an archive, which its index belongs to."""

    name: str

    def place(self, folder: Path) -> Path | str:
        """Where the index of a folder is, for ``open_index``."""

    def environment(self, folder: Path) -> Mapping[str, str]:
        """The settings of a gateway over that folder."""

    def damaged(self, folder: Path) -> contextlib.AbstractContextManager[None]:
        """Within it nobody can read the index; then it is what it was before."""

    def held(self, folder: Path) -> contextlib.AbstractContextManager[None]:
        """Within it another process writes to the index, and does not come to an end."""


class Sqlite:
    """The file in the data folder."""

    name = "sqlite"

    def place(self, folder):
        return folder / "index.sqlite"

    def environment(self, folder):
        return {}

    @contextlib.contextmanager
    def damaged(self, folder) -> Iterator[None]:
        """Zeros, as after a failing disk. Another process writes them: SQLite's locks are lost when this one closes
        the file.
        """
        path = folder / "index.sqlite"
        with contextlib.closing(connect(path)) as connection:
            connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        subprocess.run([sys.executable, "-c", _DAMAGE, str(path)], check=True, timeout=60)
        try:
            yield
        finally:
            arguments = [sys.executable, "-c", _REPAIR, str(path.with_suffix(".whole")), str(path)]
            subprocess.run(arguments, check=True, timeout=60)

    @contextlib.contextmanager
    def held(self, folder) -> Iterator[None]:
        with contextlib.closing(connect(folder / "index.sqlite")) as connection:
            connection.execute("BEGIN IMMEDIATE")
            yield
            connection.execute("ROLLBACK")


class Postgresql:
    """A database for each data folder."""

    name = "postgresql"

    def place(self, folder):
        return database_url(folder)

    def environment(self, folder):
        return {"GATEWAY_ARCHIVE__INDEX": database_url(folder)}

    @contextlib.contextmanager
    def damaged(self, folder) -> Iterator[None]:
        """The database ends all connections and takes no others."""
        server = shared_server()
        database = database_url(folder).rpartition("/")[2]
        server.execute(f"ALTER DATABASE {database} ALLOW_CONNECTIONS false")
        server.execute(f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{database}'")
        try:
            yield
        finally:
            server.execute(f"ALTER DATABASE {database} ALLOW_CONNECTIONS true")

    @contextlib.contextmanager
    def held(self, folder) -> Iterator[None]:
        with psycopg.connect(database_url(folder)) as connection:
            connection.execute("SELECT pg_advisory_xact_lock(%s)", (_WRITE_LOCK,))
            yield
            connection.rollback()


ENGINES = {engine.name: engine for engine in (Sqlite(), Postgresql())}


@pytest.fixture(scope="session", params=sorted(ENGINES, reverse=True))
def engine(request):
    """Each engine in turn."""
    return ENGINES[request.param]
