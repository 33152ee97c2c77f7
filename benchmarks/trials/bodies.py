"""Bodies of stores over HTTP at their limits: one part of half a gigabyte, ten thousand parts in one request."""

from __future__ import annotations

import time
from collections.abc import Sequence

from benchmarks.bench import say
from benchmarks.client import AnswerError, Body, Reply
from benchmarks.corpus import FRAME_BYTES, TinyStudy, ct_instance, uid
from benchmarks.part10 import with_frames
from benchmarks.processes import Meter, rss_bytes, settle
from benchmarks.senders import STOW_HEADERS, stow_body
from benchmarks.servers import Server
from benchmarks.trials.frame import Frame, print_table

_LARGE_FRAMES = 1024  # of 512 KiB
_PARTS = 10_000
_GROWTH_BYTES = 64 << 20
_REFERENCED, _FAILED = "00081199", "00081198"


def _large() -> list[bytes]:
    """A CT of some frames, all of them the same, in pieces."""
    content = ct_instance(0, 1)
    head, frame = content[:-FRAME_BYTES], content[-FRAME_BYTES:]
    return [with_frames(head, _LARGE_FRAMES, FRAME_BYTES), *[frame] * _LARGE_FRAMES]


def _many() -> list[bytes]:
    """Ten thousand instances of 2 KB in one series."""
    content = TinyStudy(0).part10()
    own = uid(4, 0, 1, 1).encode()
    return [content.replace(own, uid(4, 0, 1, 1 + number).encode()) for number in range(_PARTS)]


def _stow(server: Server, body: Body, count: int) -> tuple[float, int, Reply]:
    """Seconds that one request took, bytes by which the processes grew at most, and the answer. Raises AnswerError."""
    with server.connect() as connection:
        connection.get("/studies?limit=1")
        before = rss_bytes(server.pid)
        with Meter(server.pid) as meter:
            started = time.perf_counter()
            reply = connection.request("POST", "/studies", STOW_HEADERS, body)
            seconds = time.perf_counter() - started
    stored = reply.json()
    referenced = stored.get(_REFERENCED, {}).get("Value", ()) if isinstance(stored, dict) else ()
    if reply.status != 200 or len(referenced) != count:
        raise AnswerError(f"the store was answered {reply.status}, {len(referenced)} of {count} are kept")
    return seconds, meter.cost.peak_rss_bytes - before, reply


def run(frame: Frame) -> object:
    """The trial."""
    server = frame.gateway()
    _stow(server, stow_body([TinyStudy(1).part10()]), 1)  # loads what is loaded once
    figures: dict[str, float] = {}
    bodies: Sequence[tuple[str, Body, int]] = (
        ("one_part", stow_body([b""])[:1] + _large() + stow_body([b""])[2:], 1),
        ("many_parts", stow_body(_many()), _PARTS),
    )
    for name, body, count in bodies:
        settle(server.pid, frame.options.patience)
        seconds, grown, reply = _stow(server, body, count)
        size = sum(map(len, body))
        say(f"{name}: {size / 1e6:,.0f} MB in {seconds:.1f} s")
        figures[f"{name}_mb"] = size / 1e6
        figures[f"{name}_seconds"] = seconds
        figures[f"{name}_mb_per_second"] = size / 1e6 / seconds
        figures[f"{name}_rss_growth_mb"] = grown / 1e6
        figures[f"{name}_answer_kb"] = reply.size_bytes / 1e3
        frame.has_failed |= grown >= _GROWTH_BYTES
    print_table(("figure", "value"), [(name, f"{value:,.1f}") for name, value in figures.items()])
    return figures
