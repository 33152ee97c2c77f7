"""Who is measured: this gateway, a gateway of another checkout, and Orthanc. Each in a folder of its own, on loopback.

Both sides write durably (``SyncStorageArea`` of Orthanc is on), and both have ``TCP_NODELAY=1`` in their environment:
DCMTK, of which Orthanc's DICOM server is made, otherwise waits some 50 ms for every object, which says nothing about
either.
"""

from __future__ import annotations

import json
import os
import select
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.client import Connection
from benchmarks.processes import tree

ROOT = Path(__file__).resolve().parent.parent
READY_SECONDS = 60.0
STOP_SECONDS = 40.0
_ORTHANC_PLACES = ("/usr/sbin/Orthanc", "/usr/local/sbin/Orthanc", "/usr/bin/Orthanc")
_PLUGIN_FOLDERS = ("/usr/share/orthanc/plugins", "/usr/lib/orthanc", "/usr/local/share/orthanc/plugins")


class StartError(Exception):
    """A server did not start; the text says which and where its log is."""


@dataclass
class Server:
    """A server that is ready. ``dicomweb``: the URL before ``/studies``. ``peak_*``: the most that any step saw."""

    name: str
    version: str
    process: subprocess.Popen[str]
    host: str
    dimse_port: int
    ae_title: str
    dicomweb: str
    folder: Path
    peak_rss_bytes: int = 0
    peak_pss_bytes: int = 0
    stored: set[str] = field(default_factory=set)

    @property
    def pid(self) -> int:
        """Of the process whose tree is the server."""
        return self.process.pid

    def connect(self) -> Connection:
        """A new connection to its DICOMweb service."""
        return Connection(self.dicomweb)

    def stop(self) -> None:
        """Ask it to end, then make it; returns when its whole tree is gone."""
        members = tree(self.pid)
        self.process.send_signal(signal.SIGTERM)
        try:
            self.process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait(STOP_SECONDS)
        for pid in members[1:]:
            _kill_if_ours(pid, self.folder)
        if self.process.stdout:
            self.process.stdout.close()


def _kill_if_ours(pid: int, folder: Path) -> None:
    """End what survived its parent, unless the number already belongs to somebody else."""
    try:
        command = Path(f"/proc/{pid}/cmdline").read_bytes()
        if str(folder).encode() in command or b"gateway" in command:
            os.kill(pid, signal.SIGKILL)
    except (FileNotFoundError, ProcessLookupError):
        return


def environment() -> dict[str, str]:
    """That of this process without settings of a gateway."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith("GATEWAY_")}  # noqa: TID251 - handed to children
    return {**clean, "TCP_NODELAY": "1"}


def _first_line(process: subprocess.Popen[str], seconds: float) -> str:
    """The first line of standard output, empty when the process ends or takes longer."""
    assert process.stdout is not None
    ready, _, _ = select.select([process.stdout], [], [], seconds)
    return process.stdout.readline() if ready else ""


def start_gateway(folder: Path, root: Path = ROOT, name: str = "gateway", arguments: Iterable[str] = ()) -> Server:
    """The gateway of a checkout at its default settings, on free ports. Raises StartError."""
    folder.mkdir(parents=True)
    command = [sys.executable, "-m", "gateway", "serve", "--json", "--data", str(folder / "data")]
    command += ["--http-port", "0", "--dimse-port", "0", *arguments]
    log = folder / "log"
    with log.open("wb") as errors:
        process = subprocess.Popen(
            command,
            cwd=root,
            env={**environment(), "PYTHONPATH": str(root)},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
            start_new_session=True,
        )
    line = ""
    try:
        line = _first_line(process, READY_SECONDS)
    finally:
        if not line:
            process.kill()
            process.wait(STOP_SECONDS)
    if not line:
        raise StartError(f"{name} did not start; its log: {log.read_text(errors='replace')[-400:]}")
    places = json.loads(line)
    ae_title, _, port = places["dimse"].partition("@")
    return Server(
        name, _version(root), process, "127.0.0.1", int(port.rpartition(":")[2]), ae_title, places["dicomweb"], folder
    )


def _version(root: Path) -> str:
    """Version, and the commit where git knows it."""
    said = subprocess.run(
        [sys.executable, "-m", "gateway", "version"],
        cwd=root,
        env={**environment(), "PYTHONPATH": str(root)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    ).stdout.strip()
    if shutil.which("git") is None:
        return said
    commit = subprocess.run(
        ["git", "describe", "--always", "--dirty"], cwd=root, capture_output=True, text=True, timeout=60, check=False
    ).stdout.strip()
    return f"{said} {commit}".strip()


@dataclass(frozen=True, slots=True)
class Orthanc:
    """Where Orthanc is on this machine."""

    binary: Path
    plugin: Path


def find_orthanc() -> Orthanc | None:
    """Orthanc and its DICOMweb plugin, as Debian's packages install them; None unless both are there."""
    on_path = shutil.which("Orthanc")
    binaries = [Path(place) for place in ([on_path] if on_path else []) + list(_ORTHANC_PLACES) if Path(place).exists()]
    plugins = [
        path
        for place in _PLUGIN_FOLDERS
        for path in sorted(Path(place).glob("libOrthancDicomWeb.so*"))
        if path.exists()
    ]
    return Orthanc(binaries[0], plugins[0]) if binaries and plugins else None


def free_port() -> int:
    """A port of loopback that nobody listens on."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


def orthanc_configuration(folder: Path, plugin: Path, http_port: int, dimse_port: int) -> dict[str, object]:
    """Orthanc as somebody sets it who wants it fast and safe: durable files, no re-encoding, no limits on finds."""
    return {
        "Name": "benchmark",
        "StorageDirectory": str(folder / "db"),
        "IndexDirectory": str(folder / "db"),
        "SyncStorageArea": True,
        "StorageCompression": False,
        "RemoteAccessAllowed": False,
        "AuthenticationEnabled": False,
        "HttpPort": http_port,
        "HttpThreadsCount": 50,
        "KeepAlive": True,
        "TcpNoDelay": True,
        "HttpCompressionEnabled": False,
        "DicomAet": "ORTHANC",
        "DicomPort": dimse_port,
        "DicomCheckCalledAet": False,
        "DicomAlwaysAllowStore": True,
        "UnknownSopClassAccepted": True,
        "MaximumPduLength": 131072,
        "StableAge": 2,
        "SaveJobs": False,
        "StorageAccessOnFind": "Never",
        "LimitFindResults": 0,
        "LimitFindInstances": 0,
        "Plugins": [str(plugin)],
        "DicomWeb": {"Enable": True, "Root": "/dicom-web/", "StudiesMetadata": "Full", "SeriesMetadata": "Full"},
    }


def start_orthanc(found: Orthanc, folder: Path) -> Server:
    """Orthanc on free ports. Raises StartError."""
    folder.mkdir(parents=True)
    http_port, dimse_port = free_port(), free_port()
    configuration = folder / "orthanc.json"
    configuration.write_text(json.dumps(orthanc_configuration(folder, found.plugin, http_port, dimse_port), indent=1))
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            [str(found.binary), str(configuration)],
            env=environment(),
            cwd=folder,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
    root = f"http://127.0.0.1:{http_port}/dicom-web"
    is_ready = False
    try:
        is_ready = _answers(process, root)
    finally:
        if not is_ready:
            process.kill()
            process.wait(STOP_SECONDS)
    if not is_ready:
        raise StartError(f"Orthanc did not start; its log: {(folder / 'log').read_text(errors='replace')[-400:]}")
    said = subprocess.run([str(found.binary), "--version"], capture_output=True, text=True, timeout=60, check=False)
    version = (said.stdout.partition("\n")[0].split() or ["unknown"])[-1]
    return Server("orthanc", version, process, "127.0.0.1", dimse_port, "ORTHANC", root, folder)


def _answers(process: subprocess.Popen[str], root: str) -> bool:
    """Whether its DICOMweb service answers in time."""
    until = time.monotonic() + READY_SECONDS
    while time.monotonic() < until and process.poll() is None:
        try:
            with Connection(root, timeout_seconds=5) as connection:
                if connection.get("/studies?limit=1", "application/dicom+json").status in (200, 204):
                    return True
        except OSError:
            time.sleep(0.1)
    return False


def filesystem(folder: Path) -> str:
    """Type of the file system that holds ``folder``: durable writes mean nothing in memory."""
    mounts = [line.split()[1:3] for line in Path("/proc/mounts").read_text(encoding="utf-8").splitlines()]
    holding = [(place, kind) for place, kind in mounts if folder.resolve().is_relative_to(place)]
    return max(holding, key=lambda mount: len(mount[0]))[1] if holding else "unknown"
