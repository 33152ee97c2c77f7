"""Many GETs at once: a closed loop over a list of URLs on kept-alive connections. wrk where there is one, else Python.

A list, so that a server's cache of one URL is not all that is measured.
"""

from __future__ import annotations

import json
import multiprocessing
import shutil
import subprocess
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from multiprocessing.synchronize import Barrier
from pathlib import Path
from urllib.parse import urlsplit

from benchmarks.client import AnswerError, Connection

TIMEOUT_SECONDS = 60
_START_SECONDS = 60

_WRK_SCRIPT = """
local requests, count, at = {}, 0, 0
function init(arguments)
  wrk.headers["Accept"] = arguments[2]
  for path in io.lines(arguments[1]) do
    count = count + 1
    requests[count] = wrk.format("GET", path)
  end
end
function request()
  at = at % count + 1
  return requests[at]
end
function done(summary, latency)
  local e = summary.errors
  io.write(string.format(
    '\\nFIGURES {"seconds":%.6f,"requests":%d,"bytes":%d,"errors":%d,"p50_ms":%.4f,"p99_ms":%.4f}\\n',
    summary.duration / 1e6, summary.requests, summary.bytes, e.connect + e.read + e.write + e.status + e.timeout,
    latency:percentile(50) / 1e3, latency:percentile(99) / 1e3))
end
"""


@dataclass(frozen=True, slots=True)
class Load:
    """What came back. p50, p99: of one request."""

    seconds: float
    requests: int
    bytes: int
    errors: int
    p50_ms: float
    p99_ms: float
    client: str


def has_wrk() -> bool:
    """Whether wrk is on this machine."""
    return shutil.which("wrk") is not None


def load(root: str, paths: Sequence[str], accept: str, connections: int, seconds: float, client: str) -> Load:
    """Ask for ``paths`` below ``root`` in turn for so many seconds. Raises AnswerError when any answer is not 200."""
    run = _with_wrk if client == "wrk" else _with_python
    figures = run(root, paths, accept, connections, seconds)
    if figures.errors or not figures.requests:
        raise AnswerError(f"{figures.errors} of {figures.requests} answers under load were wrong")
    return figures


def _with_wrk(root: str, paths: Sequence[str], accept: str, connections: int, seconds: float) -> Load:
    parts = urlsplit(root)
    with tempfile.TemporaryDirectory(prefix="benchmark-wrk-") as folder:
        script, listed = Path(folder, "script.lua"), Path(folder, "paths")
        script.write_text(_WRK_SCRIPT)
        listed.write_text("".join(f"{parts.path}{path}\n" for path in paths))
        command = ["wrk", "-t1", f"-c{connections}", f"-d{max(1, round(seconds))}s", "--timeout", f"{TIMEOUT_SECONDS}s"]
        command += ["--latency", "-s", str(script), f"http://{parts.netloc}/", "--", str(listed), accept]
        limit_seconds = seconds + TIMEOUT_SECONDS + 30
        said = subprocess.run(command, capture_output=True, text=True, check=False, timeout=limit_seconds)
    line = next((line for line in said.stdout.splitlines() if line.startswith("FIGURES ")), None)
    if line is None:
        raise AnswerError(f"wrk ended with {said.returncode} and no figures")
    return Load(**json.loads(line.removeprefix("FIGURES ")), client="wrk")


def _with_python(root: str, paths: Sequence[str], accept: str, connections: int, seconds: float) -> Load:
    """One process for each connection, so that they do not wait for one another's interpreter."""
    context = multiprocessing.get_context("spawn")
    barrier = context.Barrier(connections)
    with context.Pool(connections, initializer=_meet_at, initargs=(barrier,)) as pool:
        turns = [
            list(paths[number % len(paths) :]) + list(paths[: number % len(paths)]) for number in range(connections)
        ]
        waiting = [pool.apply_async(_ask, (root, mine, accept, seconds)) for mine in turns]
        answers = [one.get(_START_SECONDS + seconds + TIMEOUT_SECONDS) for one in waiting]
    times = sorted(took for times, _, _ in answers for took in times)
    return Load(
        seconds=seconds,
        requests=len(times),
        bytes=sum(size for _, size, _ in answers),
        errors=sum(errors for _, _, errors in answers),
        p50_ms=times[len(times) // 2] * 1e3 if times else 0.0,
        p99_ms=times[min(len(times) - 1, len(times) * 99 // 100)] * 1e3 if times else 0.0,
        client="python",
    )


_barrier: Barrier


def _meet_at(barrier: Barrier) -> None:
    global _barrier  # noqa: PLW0603 - a barrier can only be inherited
    _barrier = barrier


def _ask(root: str, paths: Sequence[str], accept: str, seconds: float) -> tuple[list[float], int, int]:
    times, size_bytes, errors, at = [], 0, 0, 0
    with Connection(root, TIMEOUT_SECONDS) as connection:
        _barrier.wait(_START_SECONDS)
        until = time.perf_counter() + seconds
        while time.perf_counter() < until:
            reply = connection.get(paths[at % len(paths)], accept, keep=False)
            at += 1
            times.append(reply.total_seconds)
            size_bytes += reply.size_bytes
            errors += reply.status != 200
    return times, size_bytes, errors
