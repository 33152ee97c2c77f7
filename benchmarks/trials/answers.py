"""C-FIND of very many matches: memory that does not grow, a first answer at once, and an end when it is cancelled.

The client is the command line's own; what it counts, DCMTK's ``findscu`` counts again where it is installed.
"""

from __future__ import annotations

import shutil
import statistics
import subprocess
import time
from typing import Any

from benchmarks.bench import say
from benchmarks.processes import cpu_seconds, rss_bytes, settle
from benchmarks.servers import Server
from benchmarks.trials.frame import Frame, print_table
from benchmarks.trials.searches import fill
from gateway.dimse.contexts import STUDY_ROOT_FIND
from gateway.dimse.models import Extended
from gateway.dimse.query_scu import find_requestor
from gateway.dimse.requestor import Peer

_FIRST_GOAL_MS, _CANCEL_GOAL_MS = 100.0, 1000.0
_GROWTH_GOAL_MB = 32.0
_CANCELLED_AFTER = 100
_LOOK_EVERY = 2_000
_PATIENCE_SECONDS = 60.0
_KEYS: dict[str, Any] = {
    "00080020": {"vr": "DA"},
    "00080052": {"vr": "CS", "Value": ["STUDY"]},
    "00080061": {"vr": "CS"},
    "00081030": {"vr": "LO"},
    "00100010": {"vr": "PN", "Value": [{"Alphabetic": "*"}]},
    "00100020": {"vr": "LO"},
    "0020000D": {"vr": "UI"},
    "00201208": {"vr": "IS"},
}


def _peer(server: Server) -> Peer:
    return Peer(server.host, server.dimse_port, server.ae_title, "TRIAL")


def _whole(server: Server) -> dict[str, float]:
    """All answers, and how much memory the server holds meanwhile."""
    before = rss_bytes(server.pid)
    cpu = cpu_seconds(server.pid)
    peak, first_ms, count = before, 0.0, 0
    with find_requestor(_peer(server), STUDY_ROOT_FIND, Extended(), _PATIENCE_SECONDS) as requestor:
        started = time.perf_counter()
        for _ in requestor.find(_KEYS):
            count += 1
            if count == 1:
                first_ms = (time.perf_counter() - started) * 1e3
            if count % _LOOK_EVERY == 0:
                peak = max(peak, rss_bytes(server.pid))
        seconds = time.perf_counter() - started
    return {
        "answers": count,
        "first_ms": first_ms,
        "seconds": seconds,
        "cpu_us_each": (cpu_seconds(server.pid) - cpu) * 1e6 / count,
        "growth_mb": (peak - before) / 1e6,
    }


def _cancelled(server: Server) -> float:
    """Milliseconds from C-CANCEL to the end of the association."""
    with find_requestor(_peer(server), STUDY_ROOT_FIND, Extended(), _PATIENCE_SECONDS) as requestor:
        found = requestor.find(_KEYS)
        for _ in range(_CANCELLED_AFTER):
            next(found)
        started = time.perf_counter()
    return (time.perf_counter() - started) * 1e3


def _counted(server: Server) -> int:
    """How many answers findscu gets; -1 where it is not installed."""
    program = shutil.which("findscu")
    if program is None:
        return -1
    command = [program, "-v", "-S", "-aec", server.ae_title, "-k", "0008,0052=STUDY", "-k", "0020,000D"]
    command += [server.host, str(server.dimse_port)]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace"
    ) as run:
        return sum("(Pending)" in line for line in run.stdout or ())


def run(frame: Frame) -> list[dict[str, Any]]:
    """At the greatest size that is asked for, in SQLite or in the PostgreSQL database that is named."""
    studies = max(frame.options.studies)
    database = frame.options.database
    server = frame.gateway(database)
    fill(database or server.folder / "data" / "index.sqlite", range(studies))
    settle(server.pid, frame.options.patience)
    figures: list[dict[str, Any]] = []
    for number in range(1, frame.options.reps + 1):
        found = {"repetition": number, **_whole(server), "cancel_ms": _cancelled(server)}
        frame.has_failed |= found["answers"] != studies or found["cancel_ms"] > _CANCEL_GOAL_MS
        frame.has_failed |= found["first_ms"] > _FIRST_GOAL_MS or found["growth_mb"] > _GROWTH_GOAL_MB
        say(f"{found['answers']} answers in {found['seconds']:.1f} s, first after {found['first_ms']:.0f} ms")
        figures.append(found)
    counted = _counted(server)
    frame.has_failed |= counted not in (-1, studies)
    rows = [(name, f"{statistics.median(one[name] for one in figures):,.1f}") for name in figures[0]][1:]
    print_table(("figure, median", "value"), [*rows, ("answers that findscu counts", f"{counted:,}")])
    return figures
