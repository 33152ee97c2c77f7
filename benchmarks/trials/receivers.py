"""C-STORE received by this gateway, by DCMTK's ``dcmqrscp`` and by pynetdicom's own ``storescp``, in one run.

Neither of the others waits for a disk: a power cut takes back what they acknowledged. Both file by name, and neither
can be searched the way the gateway can. What arrived is counted.
"""

from __future__ import annotations

import shutil
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path

from benchmarks.bench import Bench, instances_of, say
from benchmarks.client import AnswerError
from benchmarks.processes import settle, wait_for_quiet
from benchmarks.senders import c_store
from benchmarks.servers import READY_SECONDS, Server, StartError, environment, free_port
from benchmarks.trials.frame import Frame, print_table

_ASSOCIATIONS = (1, 4)


def _program(name: str, version: str, command: Sequence[str], folder: Path, port: int, ae_title: str) -> Server:
    """A program that listens on a port of loopback. Raises StartError."""
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            command,
            env=environment(),
            cwd=folder,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
    until = time.monotonic() + READY_SECONDS
    while time.monotonic() < until and process.poll() is None:
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
        except OSError:
            time.sleep(0.05)
        else:
            return Server(name, version, process, "127.0.0.1", port, ae_title, "", folder)
    process.kill()
    raise StartError(f"{name} did not start; its log: {(folder / 'log').read_text(errors='replace')[-400:]}")


def start_dcmqrscp(folder: Path) -> Server:
    """DCMTK's archive. Raises StartError."""
    (folder / "db").mkdir(parents=True)
    port = free_port()
    configuration = folder / "dcmqrscp.cfg"
    configuration.write_text(
        f"NetworkTCPPort = {port}\nMaxPDUSize = 131072\nMaxAssociations = 16\n"
        "HostTable BEGIN\nHostTable END\nVendorTable BEGIN\nVendorTable END\n"
        f"AETable BEGIN\nARCHIVE {folder / 'db'} RW (100000, 65536mb) ANY\nAETable END\n"
    )
    said = subprocess.run(["dcmqrscp", "--version"], capture_output=True, text=True, timeout=60, check=False).stdout
    version = next((word for word in said.split() if word.startswith("v3")), "unknown")
    return _program("dcmqrscp", version, ["dcmqrscp", "-c", str(configuration)], folder, port, "ARCHIVE")


def start_pynetdicom(folder: Path) -> Server:
    """The application that pynetdicom brings, as it is. Raises StartError."""
    (folder / "db").mkdir(parents=True)
    port = free_port()
    command = [sys.executable, "-m", "pynetdicom", "storescp", str(port), "-ba", "127.0.0.1"]
    command += ["-od", str(folder / "db"), "-q"]
    return _program("pynetdicom", metadata.version("pynetdicom"), command, folder, port, "STORESCP")


def _kept(server: Server) -> set[str]:
    return {str(path) for path in (server.folder / "db").rglob("*") if path.is_file() and path.name != "index.dat"}


@dataclass(frozen=True, slots=True)
class Received:
    """One repetition. kept: how many of the instances the receiver has. has_failed: whether it refused one."""

    instances_per_second: float
    cpu_ms_per_instance: float
    kept: int
    has_failed: bool


def _store(bench: Bench, server: Server, stamp: int, associations: int, contents: Sequence[bytes]) -> Received:
    """Send the series. Another receiver than the gateway may fail, and is said to."""
    uids = bench.corpus.ct_uids(stamp)
    before = set() if server.dicomweb else _kept(server)
    with bench.spread(contents, associations) as folders:
        wait_for_quiet(bench.scale.patience_seconds)
        has_failed = False
        with bench.meter(server) as meter:
            try:
                c_store(server, folders, bench.sender)
            except AnswerError:
                has_failed = True
    settle(server.pid, bench.scale.patience_seconds)
    found = len(instances_of(server, uids)) if server.dicomweb else len(_kept(server) - before)
    count = len(contents)
    cost = meter.cost
    return Received(count / cost.wall_seconds, cost.server_cpu_seconds * 1e3 / count, found, has_failed)


def run(frame: Frame) -> object:
    """The trial: medians of interleaved repetitions."""
    servers = [frame.gateway()]
    if shutil.which("dcmqrscp"):
        servers.append(frame.kept(start_dcmqrscp(frame.work / "dcmqrscp")))
    servers.append(frame.kept(start_pynetdicom(frame.work / "pynetdicom")))
    bench = frame.bench(servers)
    figures: dict[tuple[int, str], list[Received]] = {}
    for rep in range(frame.options.reps):
        for associations in _ASSOCIATIONS:
            stamp = bench.new_stamp()
            contents = bench.corpus.ct_copy(stamp)
            for server in bench.in_turn(rep):
                got = _store(bench, server, stamp, associations, contents)
                figures.setdefault((associations, server.name), []).append(got)
                say(f"{server.name}, {associations}: {got}")
    print_table(
        ("associations", "receiver", "version", "inst/s", "CPU ms each", "kept", "runs it failed", "durable"),
        [_row(frame, bench, associations, name, all_of) for (associations, name), all_of in figures.items()],
    )
    frame.has_failed = any(
        one.has_failed or one.kept != bench.corpus.ct_instances
        for (_, name), all_of in figures.items()
        if name == "gateway"
        for one in all_of
    )
    return [
        {"associations": associations, "receiver": name, "repetitions": [asdict(one) for one in all_of]}
        for (associations, name), all_of in figures.items()
    ]


def _row(frame: Frame, bench: Bench, associations: int, name: str, all_of: Sequence[Received]) -> Sequence[object]:
    """Medians of the repetitions that succeeded, of all where none did."""
    whole = [one for one in all_of if not one.has_failed] or list(all_of)
    return (
        associations,
        name,
        frame.versions[name],
        f"{statistics.median(one.instances_per_second for one in whole):.0f}",
        f"{statistics.median(one.cpu_ms_per_instance for one in whole):.2f}",
        f"{sum(one.kept for one in all_of):,} of {len(all_of) * bench.corpus.ct_instances:,}",
        f"{sum(one.has_failed for one in all_of)} of {len(all_of)}",
        "yes" if name == "gateway" else "no",
    )
