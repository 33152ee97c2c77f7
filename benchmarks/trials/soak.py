"""How a busy gateway feels: many readers of frames and some associations that store, for minutes, and who asks
whether it is well meanwhile. Every answer and every store is checked.
"""

from __future__ import annotations

import multiprocessing
import re
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

from benchmarks.bench import Bench, say
from benchmarks.client import AnswerError, Connection
from benchmarks.load import Load, load
from benchmarks.senders import c_store
from benchmarks.servers import Server
from benchmarks.trials.frame import Frame, print_table
from benchmarks.workloads import ct_frames

_ASKED_EVERY_SECONDS = 0.05
_BUCKET = re.compile(r'gateway_http_loop_lag_seconds_bucket\{[^}]*le="([^"]+)"[^}]*\} (\S+)')
_HEALTH_GOAL_MS, _LAG_GOAL_MS = 100.0, 50.0


def _root(server: Server) -> str:
    return server.dicomweb.removesuffix("/dicomweb")


def _lags(server: Server) -> dict[float, float]:
    """How often the event loops were late by at most so many seconds."""
    with Connection(_root(server)) as connection:
        text = connection.get("/metrics", "text/plain").body.decode()
    return {float(limit.replace("+Inf", "inf")): float(count) for limit, count in _BUCKET.findall(text)}


def lag_at_most_ms(before: dict[float, float], after: dict[float, float], share: float) -> float:
    """The smallest bound of the histogram that holds this share of what was counted in between."""
    counts = {limit: count - before.get(limit, 0.0) for limit, count in sorted(after.items())}
    total = max(counts.values(), default=0.0)
    if not total:
        raise AnswerError("the gateway counted no loop")
    return next(limit for limit, count in counts.items() if count >= share * total) * 1e3


def _probe(root: str, seconds: float) -> list[float]:
    """Milliseconds of each look at /healthz, over a new connection each time, for so long.

    It runs in a process of its own, so that it does not wait for those that prepare what is sent.
    """
    times = []
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        started = time.perf_counter()
        with Connection(root) as connection:
            if connection.get("/healthz", "*/*").status != 200:
                raise AnswerError("the gateway says that it is not well")
        times.append((time.perf_counter() - started) * 1e3)
        time.sleep(_ASKED_EVERY_SECONDS)
    return times


def _send(bench: Bench, server: Server, stamps: Callable[[], int], until: float) -> int:
    """A new series over one association after the other until then; returns how many instances. Raises AnswerError."""
    count = 0
    while time.monotonic() < until:
        contents = bench.corpus.ct_copy(stamps())
        with bench.spread(contents, 1) as folders:
            c_store(server, folders, bench.sender)
        count += len(contents)
    return count


def run(frame: Frame) -> object:
    """The trial."""
    server = frame.gateway()
    bench = frame.bench([server])
    target = ct_frames(bench, server)
    options = frame.options
    lock = threading.Lock()

    def stamps() -> int:
        with lock:
            return bench.new_stamp()

    before = _lags(server)
    say(f"{options.readers} readers and {options.senders} senders for {options.seconds:.0f} s")
    probers = multiprocessing.get_context("spawn").Pool(1)
    frame.stack.callback(probers.terminate)
    until = time.monotonic() + options.seconds
    with bench.meter(server) as meter, ThreadPoolExecutor(options.senders + 1) as threads:
        reading = threads.submit(
            load, server.dicomweb, target.paths, target.accept, options.readers, options.seconds, "wrk"
        )
        sending = [threads.submit(_send, bench, server, stamps, until) for _ in range(options.senders)]
        probing = probers.apply_async(_probe, (_root(server), options.seconds))
        frames: Load = reading.result()
        stored = sum(one.result() for one in sending)
        healthy = sorted(probing.get(options.seconds + 60))
    lag_ms = lag_at_most_ms(before, _lags(server), 0.99)
    health_ms = healthy[len(healthy) * 99 // 100]
    frame.has_failed = health_ms >= _HEALTH_GOAL_MS or lag_ms > _LAG_GOAL_MS
    figures = {
        "seconds": options.seconds,
        "frames": frames.requests,
        "frames_per_second": frames.requests / frames.seconds,
        "frame_p99_ms": frames.p99_ms,
        "stored": stored,
        "stored_per_second": stored / options.seconds,
        "errors": frames.errors,
        "loop_lag_p99_at_most_ms": lag_ms,
        "healthz_looks": len(healthy),
        "healthz_p50_ms": healthy[len(healthy) // 2],
        "healthz_p99_ms": health_ms,
        "healthz_worst_ms": healthy[-1],
        "peak_rss_mb": meter.cost.peak_rss_bytes / 1e6,
    }
    print_table(("figure", "value"), [(name, f"{value:,.1f}") for name, value in figures.items()])
    return figures
