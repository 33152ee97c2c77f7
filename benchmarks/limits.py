"""What this machine could do at most, for work of the kinds the gateway does. Printed beside every table.

A figure of the gateway is good when it is near the limit that binds it. Each probe takes a second or two.
"""

from __future__ import annotations

import hashlib
import multiprocessing
import os
import socket
import sqlite3
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from benchmarks.corpus import FRAME_BYTES

_OBJECT_BYTES = 530_000
_MOST = 5_000


@dataclass(frozen=True, slots=True)
class Limit:
    """One of them."""

    value: float
    unit: str


def _per_second(once: Callable[[int], object], seconds: float, most: int = _MOST) -> float:
    """How often ``once`` can be done in a second; it is given its number."""
    done = 0
    started = time.perf_counter()
    while done < most and time.perf_counter() - started < seconds:
        once(done)
        done += 1
    return done / (time.perf_counter() - started)


def _send(port: int, seconds: float) -> None:
    """In a process of its own: bytes into a socket, for so long."""
    block = bytes(1 << 20)
    until = time.perf_counter() + seconds
    with socket.create_connection(("127.0.0.1", port), 10) as connection:
        while time.perf_counter() < until:
            connection.sendall(block)


def loopback_tcp(folder: Path, seconds: float) -> Limit:
    """One stream over loopback, sender and receiver in two processes."""
    del folder
    buffer = bytearray(1 << 20)
    received, started = 0, 0.0
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(30)
        sender = multiprocessing.get_context("spawn").Process(target=_send, args=(server.getsockname()[1], seconds))
        sender.start()
        try:
            connection, _ = server.accept()
            with connection:
                connection.settimeout(30)
                started = time.perf_counter()
                while count := connection.recv_into(buffer):
                    received += count
        finally:
            sender.join(30)
            if sender.is_alive():
                sender.kill()
    return Limit(received / 1e6 / (time.perf_counter() - started), "MB/s")


def memcpy(folder: Path, seconds: float) -> Limit:
    """Blocks of 64 MiB, which no cache holds."""
    del folder
    source, target = memoryview(bytes(64 << 20)), memoryview(bytearray(64 << 20))

    def copy(_: int) -> None:
        target[:] = source

    copy(0)
    return Limit(_per_second(copy, seconds) * len(source) / 1e6, "MB/s")


def sha256(folder: Path, seconds: float) -> Limit:
    """Digest of a frame of 512 KiB, one processor."""
    del folder
    block = bytes(FRAME_BYTES)
    return Limit(_per_second(lambda _: hashlib.sha256(block).digest(), seconds) * len(block) / 1e6, "MB/s")


def durable_files(folder: Path, seconds: float) -> Limit:
    """Files of 530 KB: write, fsync, rename, fsync of the folder, one after the other."""
    content = os.urandom(_OBJECT_BYTES)

    def write(number: int) -> None:
        unfinished = folder / f"{number}.part"
        with unfinished.open("wb", buffering=0) as file:
            file.write(content)
            os.fsync(file.fileno())
        unfinished.rename(folder / f"{number}.dcm")
        opened = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(opened)
        finally:
            os.close(opened)

    return Limit(_per_second(write, seconds, 1000), "files/s")


def sqlite_commits(folder: Path, seconds: float) -> Limit:
    """Transactions of one row of 2 KB, WAL, synchronous=FULL, one after the other."""
    connection = sqlite3.connect(folder / "limit.db", isolation_level=None)
    try:
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("PRAGMA synchronous=FULL")
        connection.execute("CREATE TABLE row(uid TEXT PRIMARY KEY, content BLOB)")
        content = os.urandom(2048)
        rate = _per_second(
            lambda number: connection.execute("INSERT INTO row VALUES(?, ?)", (f"2.25.{number}", content)), seconds
        )
    finally:
        connection.close()
    return Limit(rate, "commits/s")


PROBES: Mapping[str, Callable[[Path, float], Limit]] = {
    "loopback TCP, one stream": loopback_tcp,
    "memcpy": memcpy,
    "SHA-256, one processor": sha256,
    "files of 530 KB, fsync each": durable_files,
    "SQLite commits, FULL": sqlite_commits,
}


def measure_limits(work: Path, seconds: float) -> dict[str, Limit]:
    """Every limit; files are written, and removed, below ``work``, which is on the disk under test."""
    found = {}
    for name, probe in PROBES.items():
        with tempfile.TemporaryDirectory(prefix="limit-", dir=work) as folder:
            found[name] = probe(Path(folder), seconds)
    return found
