"""World: an archive and the gateways over it, which are killed, paused and started again on the same ports."""

from __future__ import annotations

import contextlib
import json
import os
import random
import resource
import select
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import psutil

from storage import errors
from storage.index import open_index
from tests.fix_postgresql import Server, new_server
from tests.fix_servers import command_environment
from tests.torture import launcher
from tests.torture.orders import VARIABLE, Orders

START_SECONDS = 120.0
STOP_SECONDS = 60.0
DIMSE, HTTP = "dimse", "http"
OURS = frozenset(name for name, one in vars(errors).items() if isinstance(one, type))
BUGS = frozenset(("process.error", "dimse.request.error", "thumbnails.failed", "forward.failed"))


class Gateway:
    """One gateway on ports of its own.

    bugs: log lines of it that no fault excuses. reason: why it could not start, when it last could not.
    """

    def __init__(self, name: str, data: Path, workers: int, environment: dict[str, str]) -> None:
        self.name = name
        self.data = data
        self.http_port, self.dimse_port = kept_port(), kept_port()
        self.bugs: Counter[str] = Counter()
        self.reason = ""
        self._workers = workers
        self._environment = environment
        self._process: subprocess.Popen[str] | None = None
        self._reading: threading.Thread | None = None

    def start(self) -> None:
        """Start it, as often as that takes, and wait until it serves."""
        deadline = time.monotonic() + START_SECONDS
        while not self._attempt():
            assert time.monotonic() < deadline, f"gateway {self.name} does not start: {self.reason or self.bugs}"
            time.sleep(0.1)

    def _attempt(self) -> bool:
        places = ["--data", str(self.data), "--http-port", str(self.http_port), "--dimse-port", str(self.dimse_port)]
        places += ["--workers", str(self._workers)]
        self._process = subprocess.Popen(
            [sys.executable, "-m", launcher.MODULE, "serve", "--json", *places],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=command_environment(self._environment),
        )
        self._reading = threading.Thread(target=self._read_log, args=(self._process.stderr,), daemon=True)
        self._reading.start()
        ready, _, _ = select.select([self._process.stdout], [], [], START_SECONDS)
        if ready and self._process.stdout.readline():
            return True
        self.kill()
        return False

    def _read_log(self, lines) -> None:
        """Until the last process has closed its end."""
        with lines:
            for text in lines:
                try:
                    line = json.loads(text)
                except ValueError:
                    if text.startswith("dicomweb-gateway: "):  # why it cannot start, which a fault may well explain
                        self.reason = text.strip()
                        continue
                    line = {"event": f"no log line: {text.strip()[:200]}"}
                self._note(line)

    def _note(self, line: dict) -> None:
        event = line["event"]
        is_bug = event in BUGS or event.startswith("no log line")
        is_bug |= event == "http.failed" and line.get("error") not in OURS
        if is_bug:
            self.bugs[json.dumps({key: one for key, one in line.items() if key not in ("time", "request_id")})] += 1

    @property
    def is_running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def supervisor(self) -> psutil.Process | None:
        return psutil.Process(self._process.pid) if self.is_running else None

    def children(self) -> list[psutil.Process]:
        """The DIMSE process and the HTTP workers that there are now."""
        parent = self.supervisor()
        if parent is None:
            return []
        with contextlib.suppress(psutil.NoSuchProcess):
            return [one for one in parent.children() if kind_of(one) in (DIMSE, HTTP)]
        return []

    def wait_until_served(self) -> None:
        """Wait until every process is there and answers, however it was killed before."""
        deadline = time.monotonic() + START_SECONDS
        while len(self.children()) < self._workers + 1:
            assert time.monotonic() < deadline, f"gateway {self.name} has not all of its processes"
            time.sleep(0.05)

    def kill(self) -> None:
        """Kill all of its processes at once."""
        parent = self.supervisor()
        found = [] if parent is None else [parent]
        with contextlib.suppress(psutil.NoSuchProcess):
            found += parent.children(recursive=True) if parent else []
        for process in found:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        psutil.wait_procs(found, timeout=STOP_SECONDS)
        self._ended()

    def kill_supervisor(self) -> None:
        """Kill the parent alone, whose children have to end by themselves; a paused one when it goes on."""
        parent = self.supervisor()
        if parent is not None:
            parent.kill()
        self._ended()

    def stop(self) -> None:
        """Stop it in order. It may not fail to."""
        if self.is_running:
            self._process.send_signal(signal.SIGTERM)
        exit_code = self._process.wait(STOP_SECONDS)
        if exit_code != 0:
            self.bugs[f"exit code {exit_code}"] += 1
        self._ended()

    def _ended(self) -> None:
        if self._process is not None:
            self._process.wait(STOP_SECONDS)
            self._process.stdout.close()
        if self._reading is not None:
            self._reading.join(STOP_SECONDS)


def kept_port() -> int:
    """A port that nobody listens on now, and that no client is given as its own while the gateway is away.

    Who connects to a port of those again and again is connected to itself one day, and then nobody else may have it.
    """
    first, _ = map(int, Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split())
    while True:
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", random.SystemRandom().randrange(10_000, first)))
            return int(probe.getsockname()[1])


def kind_of(process: psutil.Process) -> str:
    """Which process of a gateway it is, by its command line."""
    try:
        words = process.cmdline()
    except psutil.Error:
        return ""
    return words[3] if words[1:3] == ["-m", launcher.MODULE] else ""


def name_of(process: psutil.Process) -> str:
    """Its name, empty when it is gone."""
    with contextlib.suppress(psutil.Error):
        return process.name()
    return ""


# -------------------------------------------------------------------------------------------------------------- disks


class Limit:
    """A disk that is full for processes that run: the kernel lets none of them write beyond the first bytes of a file.

    Needs no rights. Files of a few kilobytes can still be written, an index or its log cannot.
    """

    name = "RLIMIT_FSIZE of every process"
    BYTES = 2048

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @contextlib.contextmanager
    def full(self, processes: list[psutil.Process]) -> Iterator[None]:
        self._set(processes, self.BYTES)
        try:
            yield
        finally:
            self._set(processes, resource.RLIM_INFINITY)

    def _set(self, processes: list[psutil.Process], soft: int) -> None:
        for process in processes:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.rlimit(psutil.RLIMIT_FSIZE, (soft, resource.RLIM_INFINITY))

    def close(self) -> None:
        """Nothing is left behind."""


class Mounted:
    """A disk of our own below ``folder``, a file system in a file, which a ballast fills to the last block."""

    name = "an ext4 file system of its own, filled to the last block"

    def __init__(self, folder: Path, size_bytes: int) -> None:
        self._image = folder / "disk.image"
        self.folder = folder / "disk"
        self.folder.mkdir()
        with self._image.open("wb") as file:
            file.truncate(size_bytes)
        self._run("mkfs.ext4", "-q", "-F", "-m", "0", str(self._image))
        self._run("mount", "-o", "loop", str(self._image), str(self.folder))

    @staticmethod
    def _run(*command: str) -> None:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
        if done.returncode:
            raise OSError(f"{command[0]}: {done.stderr.strip()}")

    @contextlib.contextmanager
    def full(self, processes: list[psutil.Process]) -> Iterator[None]:
        ballast = self.folder / "ballast"
        fd = os.open(ballast, os.O_WRONLY | os.O_CREAT)
        try:
            for at in range(64):  # others write meanwhile, or give back
                found = os.statvfs(self.folder)
                free = found.f_bavail * found.f_frsize
                if free:
                    with contextlib.suppress(OSError):
                        os.posix_fallocate(fd, os.fstat(fd).st_size, max(4096, free >> at // 2))
            yield
        finally:
            os.close(fd)
            ballast.unlink()

    def close(self) -> None:
        """Take the file system away; the file that holds it stays."""
        self._run("umount", "-l", str(self.folder))


def disk(kind: str, folder: Path, size_bytes: int) -> Limit | Mounted:
    """``mount``, ``limit``, or the first of them that this machine lets us have."""
    if kind == "limit":
        return Limit(folder)
    try:
        return Mounted(folder, size_bytes)
    except (OSError, subprocess.SubprocessError):
        if kind == "mount":
            raise
        shutil.rmtree(folder / "disk", ignore_errors=True)
        (folder / "disk.image").unlink(missing_ok=True)
        return Limit(folder)


# -------------------------------------------------------------------------------------------------------------- worlds


class World:
    """An archive with its gateways; a context manager that leaves nothing. Those of several share index and objects.

    engine: ``sqlite``, which is one gateway's, or ``postgresql``, which two gateways share. workers: HTTP workers of
    each gateway.
    """

    def __init__(self, engine: str, folder: Path, *, workers: int, disk_kind: str, disk_bytes: int) -> None:
        self.engine = engine
        folder.mkdir(parents=True)
        self._orders_file = folder / "orders.json"
        self._orders = Orders()
        self._lock = threading.Lock()
        self._orders.give(self._orders_file)
        self.disk = disk(disk_kind, folder, disk_bytes)
        self.server: Server | None = new_server() if engine == "postgresql" else None
        first = self.disk.folder / "a"
        self.objects = first / "objects"
        self.place: Path | str = first / "index.sqlite" if self.server is None else self.server.database("torture")
        environment = {VARIABLE: str(self._orders_file), "GATEWAY_PIXELS__THUMBNAIL_SECONDS": "0"}
        if isinstance(self.place, str):
            environment["GATEWAY_ARCHIVE__INDEX"] = self.place
        self.gateways = [Gateway("a", first, workers, environment)]
        if self.server is not None:
            second = self.disk.folder / "b"
            for data in (first, second):
                data.mkdir()
            self.objects.mkdir()
            (second / "objects").symlink_to(self.objects)
            self.gateways.append(Gateway("b", second, workers, environment))

    def order(self, **changes) -> None:
        """Change what goes on."""
        with self._lock:
            self._orders = replace(self._orders, **changes)
            self._orders.give(self._orders_file)

    def start(self) -> None:
        for gateway in self.gateways:
            gateway.start()

    def children(self) -> list[psutil.Process]:
        return [child for gateway in self.gateways for child in gateway.children()]

    def processes(self) -> list[psutil.Process]:
        """All processes of all gateways, and those of the database that work for them."""
        supervisors = [one for gateway in self.gateways if (one := gateway.supervisor()) is not None]
        return [*supervisors, *self.children(), *self.backends()]

    def backends(self) -> list[psutil.Process]:
        """Processes of the database server that serve a connection to our database."""
        if self.server is None:
            return []
        with contextlib.suppress(psutil.Error, OSError, IndexError, ValueError):  # it starts again just now
            pid = int((self.server.folder / "data" / "postmaster.pid").read_text().split()[0])
            children = psutil.Process(pid).children()
            return [one for one in children if " torture " in f" {' '.join(one.cmdline())} "]
        return []

    def writers(self) -> list[psutil.Process]:
        """Those that write to the disk of the archive."""
        return [one for one in self.processes() if "postgres" not in name_of(one)]

    def heal(self) -> None:
        """End every fault, and wait until all processes are there again."""
        self.order(fault="", rate=0.0)
        for process in self.processes():
            with contextlib.suppress(psutil.NoSuchProcess):
                process.resume()
        for gateway in self.gateways:
            if not gateway.is_running:
                gateway.start()
            gateway.wait_until_served()

    def begin_again(self, *, is_sudden: bool) -> None:
        """End all gateways, in order or at once, and start them, which is when leftovers are swept."""
        for gateway in self.gateways:
            if is_sudden:
                gateway.kill()
            else:
                gateway.stop()
        self.start()

    @contextlib.contextmanager
    def index(self):
        """The index itself, for inspections."""
        with contextlib.closing(open_index(self.place)) as index:
            yield index

    @property
    def bugs(self) -> Counter[str]:
        return sum((gateway.bugs for gateway in self.gateways), Counter())

    def any_gateway(self, chance: random.Random) -> Gateway:
        return chance.choice(self.gateways)

    def __enter__(self):
        return self

    def __exit__(self, *_: object) -> None:
        for gateway in self.gateways:
            gateway.kill()
        self.disk.close()
