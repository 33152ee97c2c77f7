"""Images that are made to harm, at a gateway: what it answers, how long that takes, and how everybody else fares.

Some clients ask for pictures and thumbnails of all of them, another one searches every 50 ms meanwhile. Then decoding
processes die of a signal, a hundred times, each while it draws one picture: no other picture may fail.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import random
import signal
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.bench import JSON, say
from benchmarks.bombs import Bomb, bombs, endless, sound
from benchmarks.client import AnswerError, Connection
from benchmarks.processes import children, rss_bytes_of, settle, tree
from benchmarks.senders import try_stow
from benchmarks.servers import Server
from benchmarks.trials.frame import Frame, print_table

_ASKED_EVERY_SECONDS = 0.05
_WATCHED_EVERY_SECONDS = 0.2
_SLACK_SECONDS = 2.0  # to write the answer, on a machine that has other things to do
_DEADLINE_SECONDS = 15.0
_GROWTH_GOAL_MB, _SEARCH_GOAL_MS = 64 * 1.048576, 500.0
_HUNG_SECONDS = 90.0
_TRIES = 8
_DECODER = b"gateway.pixels.worker"
_SLOW_RSS_BYTES = 150 << 20
_KILL_SECONDS = 60.0


def _command(pid: int) -> bytes:
    with suppress(OSError):
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    return b""


def _own(pid: int) -> list[int]:
    """The processes of a gateway that are no decoders: those have been started by one of its children."""
    return [pid, *children(pid)]


@dataclass
class Watch:
    """What is seen of the processes of a gateway while something is done to it."""

    pid: int
    before_bytes: int = 0
    peak_bytes: int = 0
    before: dict[int, int] = field(default_factory=dict)
    largest_growth_bytes: int = 0
    decoders: set[int] = field(default_factory=set)
    own: set[int] = field(default_factory=set)

    def look(self) -> None:
        """Once."""
        own = _own(self.pid)
        self.own.update(own)
        self.decoders.update(one for one in tree(self.pid) if one not in own)
        self.peak_bytes = max(self.peak_bytes, rss_bytes_of(own))
        for one in own:
            self.largest_growth_bytes = max(self.largest_growth_bytes, rss_bytes_of([one]) - self.before.get(one, 0))

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Look some times a second."""
        stop = threading.Event()
        self.before = {one: rss_bytes_of([one]) for one in _own(self.pid)}
        self.before_bytes = sum(self.before.values())

        def look_on() -> None:
            while not stop.wait(_WATCHED_EVERY_SECONDS):
                self.look()

        thread = threading.Thread(target=look_on, daemon=True)
        thread.start()
        try:
            yield
        finally:
            stop.set()
            thread.join()


@dataclass(frozen=True, slots=True)
class Asked:
    """One request for a picture and what came of it; status 0 for an answer that never came."""

    name: str
    path: str
    status: int
    seconds: float
    tries: int = 1


def ask(root: str, name: str, path: str) -> Asked:
    """One request, again while the gateway says that it is busy; the seconds are those of the longest one."""
    longest, tries, status = 0.0, 0, 503
    while status == 503 and tries < _TRIES:
        time.sleep(0.5 if tries else 0.0)
        tries += 1
        started = time.perf_counter()
        try:
            with Connection(root, _HUNG_SECONDS) as connection:
                status = connection.get(path, keep=False).status
        except (OSError, AnswerError):
            status = 0
        longest = max(longest, time.perf_counter() - started)
    return Asked(name, path, status, longest, tries)


def _paths(number: int, bomb: Bomb) -> list[str]:
    """The pictures of a bomb that are asked for."""
    path = Bomb.path(number)
    query = f"?{bomb.query}" if bomb.query else ""
    asked = [f"{path}/rendered{query}", f"{path}/thumbnail"]
    return asked if number % 10 else [*asked, f"{path}/thumbnail?viewport=8192,8192"]


def store(root: str, found: Sequence[Bomb]) -> list[int]:
    """The numbers of those that were taken, over one connection. root: the URL before ``/studies``."""
    with Connection(root) as connection:
        return [number for number, bomb in enumerate(found) if try_stow(connection, [bomb.part10(number)])]


def _search(root: str, stop: Any) -> list[float]:
    """Milliseconds of searches, each over a new connection. It runs in a process of its own."""
    times = []
    while not stop.is_set():
        started = time.perf_counter()
        with Connection(root, _HUNG_SECONDS) as connection:
            if connection.get("/studies?limit=25", JSON).status not in (200, 204):
                raise AnswerError("a search failed")
        times.append((time.perf_counter() - started) * 1e3)
        time.sleep(_ASKED_EVERY_SECONDS)
    return times


@contextmanager
def searching(root: str) -> Iterator[list[float]]:
    """Somebody searches meanwhile; the list has the milliseconds of all searches afterwards, ascending."""
    context = multiprocessing.get_context("spawn")
    times: list[float] = []
    with context.Manager() as manager, context.Pool(1) as pool:
        stop = manager.Event()
        looking = pool.apply_async(_search, (root, stop))
        try:
            yield times
        finally:
            stop.set()
            times += sorted(looking.get(_HUNG_SECONDS))


def _progress(done: int, count: int) -> None:
    if sys.stderr.isatty():
        print(f"\r{done} of {count} pictures", end="\n" if done == count else "", file=sys.stderr, flush=True)


def attack(root: str, found: Sequence[Bomb], numbers: Sequence[int], clients: int) -> list[Asked]:
    """Ask for all pictures, so many at once."""
    wanted = [(found[number].name, path) for number in numbers for path in _paths(number, found[number])]
    random.Random(len(wanted)).shuffle(wanted)
    answers = []
    with ThreadPoolExecutor(clients) as threads:
        for answer in threads.map(lambda one: ask(root, *one), wanted):
            answers.append(answer)
            _progress(len(answers), len(wanted))
    return answers


def _events(server: Server) -> list[dict[str, Any]]:
    lines = (server.folder / "log").read_bytes().splitlines()
    return [json.loads(line) for line in lines if line.startswith(b"{")]


def _exits(server: Server) -> int:
    """Children of the gateway that ended by themselves."""
    return sum(event["event"] == "process.ended" for event in _events(server))


def _killed_in_time(pid: int, done: Callable[[], bool]) -> bool:
    """Whether the one decoder that draws something large was found, and ended by SIGSEGV, before it was done."""
    until = time.monotonic() + _KILL_SECONDS
    while time.monotonic() < until and not done():
        for one in tree(pid):
            if _DECODER in _command(one) and rss_bytes_of([one]) > _SLOW_RSS_BYTES:
                with suppress(ProcessLookupError):
                    os.kill(one, signal.SIGSEGV)
                return True
        time.sleep(0.002)
    return False


def kill(root: str, pid: int, count: int, others: int) -> dict[str, Any]:
    """Decoders that die while each draws a large picture; others draw small ones over and over, which all succeed.

    root: the URL before ``/studies``. pid: of the gateway.
    """
    first = 1_000_000
    with Connection(root) as connection:
        for number, content in enumerate(
            (endless().part10(first), *(bomb.part10(first + 1 + at) for at, bomb in _small()))
        ):
            if not try_stow(connection, [content]):
                raise AnswerError(f"image {number} was not stored")
    stop = threading.Event()
    places = [Bomb.path(first + 1 + at) for at, _ in _small()]

    def draw_on(client: int) -> list[Asked]:
        found = []
        for turn in range(1, 1_000_000):
            if stop.is_set():
                break
            window = f"{client * 1_000_000 + turn},300,linear"  # another one every time, so that nothing is kept
            found.append(ask(root, "small", f"{places[turn % len(places)]}/rendered?window={window}"))
        return found

    victims: list[Asked] = []
    killed = 0
    with ThreadPoolExecutor(others + 1) as threads:
        drawing = [threads.submit(draw_on, client) for client in range(others)]
        try:
            for turn in range(count):
                window = f"{turn + 1},500,linear&viewport=64,64"
                asking = threads.submit(ask, root, "slow", f"{Bomb.path(first)}/rendered?window={window}")
                killed += _killed_in_time(pid, asking.done)
                victims.append(asking.result())
                _progress(turn + 1, count)
        finally:
            stop.set()
        bystanders = [answer for one in drawing for answer in one.result()]
    return {
        "killed": killed,
        "victims_refused": sum(answer.status == 422 for answer in victims),
        "bystanders": len(bystanders),
        "bystanders_failed": sum(answer.status != 200 for answer in bystanders),
        "bystander_longest_seconds": max(answer.seconds for answer in bystanders),
    }


def _small() -> list[tuple[int, Bomb]]:
    """Whole grey frames, each of a syntax of its own."""
    return [(at, bomb) for at, bomb in enumerate(sound()) if "12 bits" in bomb.name]


def percentile(ascending: Sequence[float], share: float) -> float:
    """The value below which that share lies."""
    return ascending[min(len(ascending) - 1, int(len(ascending) * share))]


def run(frame: Frame) -> object:
    """The trial."""
    options = frame.options
    server = frame.gateway()
    found = bombs(options.seed)
    numbers = store(server.dicomweb, found)
    say(f"{len(numbers)} of {len(found)} images were stored")
    whole = [number for number in numbers if any(found[number].name == one.name for one in sound())]
    attack(server.dicomweb, found, whole, options.clients)  # loads what is loaded once
    settle(server.pid, options.patience)
    watch = Watch(server.pid)
    started = time.perf_counter()
    with searching(server.dicomweb) as searches, watch.watching():
        answers = attack(server.dicomweb, found, numbers, options.clients)
    seconds = time.perf_counter() - started
    settle(server.pid, options.patience)
    after_bytes = rss_bytes_of(_own(server.pid))
    for answer in sorted(answers, key=lambda one: -one.seconds)[:5]:
        say(f"{answer.status} after {answer.seconds:.1f} s: {answer.name}, {answer.path.rpartition('/')[2]}")
    for answer in answers:
        if answer.status in (0, 500) or answer.status > 503:
            say(f"{answer.status}: {answer.name}, {answer.path.rpartition('/')[2]}")
    statuses = Counter(answer.status for answer in answers)
    failures = [event for event in _events(server) if event["event"] == "pixels.failed"]
    figures: dict[str, Any] = {
        "bombs": len(numbers),
        "refused_at_the_door": len(found) - len(numbers),
        "pictures_asked": len(answers),
        "seconds": seconds,
        **{f"status_{status or 'none'}": count for status, count in sorted(statuses.items())},
        "tries": sum(answer.tries for answer in answers),
        "longest_request_seconds": max(answer.seconds for answer in answers),
        "longest_decoding_seconds": max((event["ms"] for event in failures), default=0) / 1e3,
        "decoders": len(watch.decoders),
        "gateway_processes": len(watch.own),
        "gateway_processes_ended": _exits(server),
        "rss_mb": watch.before_bytes / 1e6,
        "rss_growth_largest_mb": watch.largest_growth_bytes / 1e6,
        "rss_growth_peak_mb": (watch.peak_bytes - watch.before_bytes) / 1e6,
        "rss_growth_after_mb": (after_bytes - watch.before_bytes) / 1e6,
        "searches": len(searches),
        "search_p50_ms": percentile(searches, 0.5),
        "search_p99_ms": percentile(searches, 0.99),
        "search_worst_ms": searches[-1],
    }
    if options.kills:
        figures |= kill(server.dicomweb, server.pid, options.kills, 3)
        figures["gateway_processes_ended"] = _exits(server)
    frame.has_failed = not is_fine(figures, options.kills)
    print_table(("figure", "value"), [(name, f"{value:,.1f}") for name, value in figures.items()])
    return figures


def is_fine(figures: dict[str, Any], kills: int) -> bool:
    """Whether the gateway came through it as it has to."""
    statuses = [name.removeprefix("status_") for name in figures if name.startswith("status_")]
    return (
        all(status == "200" or status.startswith("4") for status in statuses)
        and figures["longest_request_seconds"] <= _DEADLINE_SECONDS + _SLACK_SECONDS
        and figures["longest_decoding_seconds"] <= _DEADLINE_SECONDS + _SLACK_SECONDS
        and figures["gateway_processes_ended"] == 0
        and figures["rss_growth_peak_mb"] < _GROWTH_GOAL_MB
        and figures["search_p99_ms"] < _SEARCH_GOAL_MS
        and (not kills or figures["killed"] == figures["victims_refused"] == kills)
        and not figures.get("bystanders_failed")
    )
