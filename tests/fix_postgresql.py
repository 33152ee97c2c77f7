"""A PostgreSQL server of our own, with as many databases as tests want: real, on a free port, gone with the tests."""

from __future__ import annotations

import atexit
import contextlib
import functools
import os
import pwd
import shutil
import socket
import subprocess
import tempfile
import time
from pathlib import Path

import psutil
import psycopg
import pytest

from storage.index import open_index

_USER = "postgres"
_SECONDS = 60


def binaries() -> Path | None:
    """The folder of the newest server that is installed."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=lambda path: int(path.parts[4]))
    if found:
        return found[-1].parent
    on_path = shutil.which("initdb")
    return Path(on_path).resolve().parent if on_path else None


def free_port() -> int:
    """A port that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Server:
    """A server over a folder. It can be stopped, killed and started again."""

    def __init__(self, folder: Path, binary_folder: Path) -> None:
        self.folder = folder
        self.port = free_port()
        self._databases: set[str] = set()
        self._binaries = binary_folder
        # PostgreSQL does not run as root.
        self._account = pwd.getpwnam(_USER) if os.getuid() == 0 else None
        if self._account:
            shutil.chown(folder, self._account.pw_uid, self._account.pw_gid)
        self._run("initdb", "-D", f"{folder}/data", "-U", _USER, "-A", "trust", "-E", "UTF8", "--locale=C.UTF-8", "-N")
        self.start()

    def _run(self, program: str, *arguments: str) -> None:
        account = self._account
        done = subprocess.run(
            [str(self._binaries / program), *arguments],
            capture_output=True,
            text=True,
            timeout=_SECONDS,
            check=False,
            cwd=self.folder,
            user=account.pw_uid if account else None,
            group=account.pw_gid if account else None,
            extra_groups=[] if account else None,
        )
        assert done.returncode == 0, (program, done.stdout, done.stderr)

    def start(self) -> None:
        """Start it, and wait until it answers."""
        options = (
            f"-p {self.port} -k {self.folder} -c listen_addresses=127.0.0.1 -c fsync=off -c max_connections=200 "
            "-c shared_buffers=64MB -c log_min_messages=fatal"
        )
        log = str(self.folder / "log")
        self._run("pg_ctl", "-D", f"{self.folder}/data", "-l", log, "-o", options, "-w", "start")

    def stop(self, mode: str = "fast") -> None:
        """Stop it: ``fast``, or ``immediate``, as a crash would."""
        self._run("pg_ctl", "-D", f"{self.folder}/data", "-m", mode, "-w", "stop")

    @contextlib.contextmanager
    def silent(self):
        """Within it none of its processes runs, while the kernel still takes what is sent to them."""
        pid = int((self.folder / "data" / "postmaster.pid").read_text().split()[0])
        processes = [psutil.Process(pid), *psutil.Process(pid).children()]
        for process in processes:
            process.suspend()
        try:
            yield
        finally:
            for process in processes:
                process.resume()

    def url(self, database: str = _USER) -> str:
        """Where a database is."""
        return f"postgresql://{_USER}@127.0.0.1:{self.port}/{database}"

    def execute(self, text: str) -> None:
        """Run one statement as the server's owner."""
        with psycopg.connect(self.url(), autocommit=True) as connection:
            connection.execute(text.encode())

    def database(self, name: str) -> str:
        """The URL of a database of that name, made with an empty index in it when it is not there."""
        if name in self._databases:
            return self.url(name)
        self._databases.add(name)
        with psycopg.connect(self.url(), autocommit=True) as connection:
            known = {row[0] for row in connection.execute("SELECT datname FROM pg_database").fetchall()}
            if "template_index" not in known:
                connection.execute("CREATE DATABASE template_index")
                open_index(self.url("template_index")).close()
                _until_left(connection, "template_index")
            if name not in known:
                connection.execute(f'CREATE DATABASE "{name}" TEMPLATE template_index'.encode())
        return self.url(name)


def _until_left(connection: psycopg.Connection, database: str) -> None:
    text = "SELECT count(*) FROM pg_stat_activity WHERE datname = %s"
    deadline = time.monotonic() + _SECONDS
    while connection.execute(text, (database,)).fetchone() != (0,):
        assert time.monotonic() < deadline
        time.sleep(0.01)


def new_server() -> Server:
    """A server that is stopped and removed when the process ends. Skips without PostgreSQL."""
    found = binaries()
    if found is None:
        pytest.skip("PostgreSQL is not installed")
    folder = Path(tempfile.mkdtemp(prefix="postgresql-"))
    server = Server(folder, found)

    def remove() -> None:
        server.stop("immediate")
        shutil.rmtree(folder, ignore_errors=True)

    atexit.register(remove)
    return server


@functools.cache
def shared_server() -> Server:
    """The one server of this test process."""
    return new_server()


_folders: dict[str, Path] = {}


def database_url(folder: Path) -> str:
    """The URL of a database that belongs to a folder, for tests that open an index in one again.

    The database of a folder that is gone is emptied for the next one: a new one takes a quarter of a second.
    """
    server = shared_server()
    name = next((name for name, known in _folders.items() if known == folder), "")
    if not name:
        name = next((name for name, known in _folders.items() if not known.exists()), f"index_{len(_folders)}")
        if name in _folders:
            with psycopg.connect(server.url(name), autocommit=True) as connection:
                connection.execute(
                    "TRUNCATE study, series, instance, document, thumbnail, rival, tombstone, deletion, hold, change, "
                    "study_extended, series_extended, instance_extended, extended_tag, route, outbox, "
                    "commitment, subscriber, undelivered, delivery, delivery_study, coercion, quota RESTART IDENTITY"
                )
        _folders[name] = folder
    return server.database(name)
