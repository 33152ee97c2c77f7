"""Retrievals at their limits: a C-MOVE of more instances than a counter holds, one frame of an object of 2 GB, and
downloads that are broken off by the thousand.
"""

from __future__ import annotations

import re
import shutil
import socket
import statistics
import struct
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from urllib.parse import urlsplit

from benchmarks.bench import say
from benchmarks.client import AnswerError
from benchmarks.corpus import FRAME_BYTES, TinyStudy, ct_instance, uid
from benchmarks.part10 import with_frames
from benchmarks.processes import rss_bytes, settle, tree
from benchmarks.senders import c_store
from benchmarks.servers import ROOT, Server, free_port
from benchmarks.trials.frame import Frame, print_table

_SERIES_INSTANCES = 1000
_LARGE_FRAMES = 4095  # of 512 KiB: 2 GiB less one
_FRAMES_ASKED = 20
_ABORTED = 1000
_FEW_BYTES = 64 << 10
_GROWTH_BYTES = 32 << 20


def _tiny(count: int) -> Iterator[bytes]:
    """Instances of one study, a thousand in a series."""
    study = TinyStudy(0)
    content = study.part10()
    series_uid, instance_uid = uid(4, 0, 1).encode(), uid(4, 0, 1, 1).encode()
    for number in range(count):
        series = 1 + number // _SERIES_INSTANCES
        own = content.replace(instance_uid, uid(4, 0, series, 1 + number).encode())
        yield own.replace(series_uid, uid(4, 0, series).encode())


def _fill(frame: Frame, server: Server, count: int) -> None:
    """Store so many tiny instances of one study over four associations."""
    folders = [frame.work / f"tiny-{way}" for way in range(4)]
    for folder in folders:
        folder.mkdir()
    batch: list[bytes] = []

    def send() -> None:
        for place, content in enumerate(batch):
            (folders[place % 4] / f"{place:05d}.dcm").write_bytes(content)
        c_store(server, folders, "storescu")
        for folder in folders:
            for path in folder.iterdir():
                path.unlink()
        batch.clear()

    for number, content in enumerate(_tiny(count), start=1):
        batch.append(content)
        if len(batch) == 4000 or number == count:
            send()
            say(f"{number} of {count} are stored")


def _move(server: Server, port: int, count: int) -> dict[str, object]:
    """All of the study to ``storescp``, which throws it away. Raises AnswerError."""
    receiver = subprocess.Popen(
        ["storescp", "-aet", "DEST", "--ignore", "-v", "+xe", str(port)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    counting = subprocess.Popen(["grep", "-c", "Received Store Request"], stdin=receiver.stdout, stdout=subprocess.PIPE)
    time.sleep(0.5)
    before, started = rss_bytes(server.pid), time.perf_counter()
    words = ["movescu", "-v", "-S", "-aec", server.ae_title, "-aem", "DEST", "-to", "600"]
    words += ["-k", "QueryRetrieveLevel=STUDY", "-k", f"StudyInstanceUID={TinyStudy(0).study_instance_uid}"]
    run = subprocess.run(
        [*words, server.host, str(server.dimse_port)], capture_output=True, text=True, check=False, timeout=1800
    )
    seconds = time.perf_counter() - started
    receiver.terminate()
    received = int(counting.communicate(timeout=60)[0])
    said = run.stdout + run.stderr
    status = re.findall(r"Received Final Move Response \(([^)]*)\)", said)
    if run.returncode or status != ["Success"] or received != count:
        raise AnswerError(f"the move ended with {status}, {received} of {count} arrived: {said[-300:]}")
    grown = (rss_bytes(server.pid) - before) / 1e6
    return {"moved": received, "moved_per_second": received / seconds, "status": status[0], "move_rss_mb": grown}


def _large(folder: Path) -> tuple[Path, str]:
    """A CT of some thousand frames, most of them a hole in the file; and its path below the root of DICOMweb."""
    content = ct_instance(0, 1)
    head, first = content[:-FRAME_BYTES], content[-FRAME_BYTES:]
    head = with_frames(head, _LARGE_FRAMES, FRAME_BYTES)
    path = folder / "large.dcm"
    with path.open("wb") as file:
        file.write(head + first)
        file.truncate(len(head) + _LARGE_FRAMES * FRAME_BYTES)
    instance = uid(1, 0, 1, 1)
    return path, f"/studies/{uid(1, 0)}/series/{uid(1, 0, 1)}/instances/{instance}"


def _read_bytes(server: Server) -> int:
    """What the processes of a server have read, from files and sockets."""
    total = 0
    for pid in tree(server.pid):
        found = re.search(r"rchar: (\d+)", Path(f"/proc/{pid}/io").read_text(encoding="ascii"))
        total += int(found[1]) if found else 0
    return total


def _one_frame(frame: Frame, server: Server) -> dict[str, object]:
    """Frames all over an object of 2 GB: what is read for each, and what memory it takes. Raises AnswerError."""
    path, url = _large(frame.work)
    command = [sys.executable, "-m", "gateway", "import", str(path), "--data", str(server.folder / "data"), "--json"]
    run = subprocess.run(command, capture_output=True, text=True, check=False, timeout=900, cwd=ROOT)
    path.unlink()
    if run.returncode:
        raise AnswerError(f"the large object was not stored: {run.stderr[-300:]}")
    accept = 'multipart/related; type="application/octet-stream"; transfer-syntax=*'
    times, read = [], []
    with server.connect() as connection:
        for number in (1, *range(1, _LARGE_FRAMES, _LARGE_FRAMES // _FRAMES_ASKED)):
            if number == 1:
                settle(server.pid, 10.0)
                memory = rss_bytes(server.pid)
            before, started = _read_bytes(server), time.perf_counter()
            reply = connection.get(f"{url}/frames/{number}", accept)
            times.append((time.perf_counter() - started) * 1e3)
            if reply.status != 200 or len(reply.body) < FRAME_BYTES:
                raise AnswerError(f"frame {number} is answered {reply.status}")
            read.append(_read_bytes(server) - before)
    grown = rss_bytes(server.pid) - memory
    return {
        "large_gb": _LARGE_FRAMES * FRAME_BYTES / 1e9,
        "frame_ms": statistics.median(times[1:]),
        "read_for_a_frame": statistics.median(read[1:]) / FRAME_BYTES,
        "large_rss_mb": grown / 1e6,
        "large_is_fine": grown < _GROWTH_BYTES and statistics.median(read[1:]) < 2 * FRAME_BYTES,
    }


def _held(server: Server) -> tuple[int, int]:
    """Threads and open files of all processes."""
    threads = files = 0
    for pid in tree(server.pid):
        threads += len(list(Path(f"/proc/{pid}/task").iterdir()))
        files += len(list(Path(f"/proc/{pid}/fd").iterdir()))
    return threads, files


def _abort(server: Server, path: str) -> None:
    """Ask for a series, read a little of it, and break the connection."""
    place = urlsplit(server.dicomweb)
    lines = (
        f"GET {place.path}{path} HTTP/1.1",
        f"Host: {place.netloc}",
        'Accept: multipart/related; type="application/dicom"; transfer-syntax=*',
        "\r\n",
    )
    head = "\r\n".join(lines)
    with socket.create_connection((str(place.hostname), int(place.port or 80)), 30) as one:
        one.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        one.sendall(head.encode())
        left = _FEW_BYTES
        while left > 0 and (piece := one.recv(left)):
            left -= len(piece)


def _aborted(frame: Frame, server: Server) -> dict[str, object]:
    """Downloads of a CT series that are broken off; what the server holds before and after."""
    bench = frame.bench([server])
    uids = bench.base_ct(server)
    with ThreadPoolExecutor(32) as many:  # what is loaded once, and threads that stay, are not counted
        list(many.map(_abort, [server] * 500, [uids.path] * 500))
    settle(server.pid, 10.0)
    (threads, files), memory = _held(server), rss_bytes(server.pid)
    for _ in range(_ABORTED):
        _abort(server, uids.path)
    settle(server.pid, 10.0)
    more_threads, more_files = (after - before for after, before in zip(_held(server), (threads, files), strict=True))
    grown = (rss_bytes(server.pid) - memory) / 1e6
    return {
        "aborted": _ABORTED,
        "more_threads": more_threads,
        "more_files": more_files,
        "aborted_rss_mb": grown,
        "aborted_is_fine": more_threads <= 0 and more_files <= 0 and grown < _GROWTH_BYTES / 1e6,
    }


def run(frame: Frame) -> object:
    """The trial."""
    port = free_port()
    server = frame.gateway(arguments=["--peer", f"DEST=127.0.0.1:{port}"])
    figures: dict[str, object] = {}
    try:
        if shutil.which("movescu") and frame.options.moved:
            _fill(frame, server, frame.options.moved)
            figures |= _move(server, port, frame.options.moved)
        figures |= _one_frame(frame, server)
        figures |= _aborted(frame, server)
    except AnswerError as error:
        say(str(error))
        frame.has_failed = True
    frame.has_failed |= not all(value for name, value in figures.items() if name.endswith("_is_fine"))
    print_table(
        ("figure", "value"),
        [(name, f"{value:,.1f}" if isinstance(value, float) else value) for name, value in figures.items()],
    )
    return figures
