"""What a server costs: processor time and memory of its whole tree of processes, from /proc. Linux only.

Memory is the resident set added up over the tree, which counts shared pages once for each process, and beside it the
proportional set (PSS), which counts them once. Processor time holds that of children that have ended.
"""

from __future__ import annotations

import contextlib
import os
import resource
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

_TICKS = os.sysconf("SC_CLK_TCK")
_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
_SAMPLES_PER_SECOND = 5
_PSS_EVERY = 5
_QUIET_CORES = 0.25
_LOOK_SECONDS = 0.4


def children(pid: int) -> Iterator[int]:
    """The processes that it has started and that still run."""
    with contextlib.suppress(FileNotFoundError):  # it has just ended
        for task in Path(f"/proc/{pid}/task").glob("*/children"):
            yield from map(int, _read(task).split())


def _read(path: Path | str) -> str:
    """Text of a file of /proc, empty when its process has ended."""
    try:
        return Path(path).read_text(encoding="ascii", errors="replace")
    except OSError:
        return ""


def tree(pid: int) -> list[int]:
    """The process and all that descend from it."""
    found: list[int] = []
    waiting = [pid]
    while waiting:
        one = waiting.pop()
        if one not in found and Path(f"/proc/{one}").exists():
            found.append(one)
            waiting.extend(children(one))
    return found


def _cpu_ticks(pid: int) -> int:
    """utime, stime, cutime and cstime: fields 14 to 17 of proc(5)."""
    return sum(int(field) for field in _read(f"/proc/{pid}/stat").rpartition(")")[2].split()[11:15])


def cpu_seconds(pid: int) -> float:
    """User and system time of the tree, with children that were waited for."""
    return sum(map(_cpu_ticks, tree(pid))) / _TICKS


def rss_bytes(pid: int) -> int:
    """Resident memory, added up over the tree."""
    return rss_bytes_of(tree(pid))


def rss_bytes_of(pids: Iterable[int]) -> int:
    """Resident memory of some processes, added up."""
    return sum(int((_read(f"/proc/{one}/statm").split() or ["0", "0"])[1]) for one in pids) * _PAGE_BYTES


def pss_bytes(pid: int) -> int:
    """Resident memory with each shared page counted once."""
    lines = (line for one in tree(pid) for line in _read(f"/proc/{one}/smaps_rollup").splitlines())
    return sum(int(line.split()[1]) for line in lines if line.startswith("Pss:")) * 1024


def own_cpu_seconds() -> float:
    """Of this process and the programs it has waited for."""
    usages = (resource.getrusage(resource.RUSAGE_SELF), resource.getrusage(resource.RUSAGE_CHILDREN))
    return sum(usage.ru_utime + usage.ru_stime for usage in usages)


def busy_seconds() -> float:
    """What all processors have worked since boot: user, nice, system, interrupts."""
    fields = [int(field) for field in _read("/proc/stat").splitlines()[0].split()[1:8]]
    return sum(fields[index] for index in (0, 1, 2, 5, 6)) / _TICKS


@dataclass(frozen=True, slots=True)
class Cost:
    """What a step took. ``other_cpu_seconds``: of whoever is neither server nor client."""

    wall_seconds: float
    server_cpu_seconds: float
    client_cpu_seconds: float
    other_cpu_seconds: float
    peak_rss_bytes: int
    peak_pss_bytes: int

    @property
    def other_cores(self) -> float:
        """Processors that somebody else kept busy, on average."""
        return self.other_cpu_seconds / self.wall_seconds if self.wall_seconds else 0.0


class Meter:
    """Measures the block that it encloses; ``cost`` is there afterwards."""

    cost: Cost

    def __init__(self, pid: int) -> None:
        self._pid = pid
        self._stop = threading.Event()
        self._sampler = threading.Thread(target=self._sample, daemon=True)
        self._peak_rss_bytes = self._peak_pss_bytes = 0

    def _look(self, *, with_pss: bool) -> None:
        self._peak_rss_bytes = max(self._peak_rss_bytes, rss_bytes(self._pid))
        if with_pss:
            self._peak_pss_bytes = max(self._peak_pss_bytes, pss_bytes(self._pid))

    def _sample(self) -> None:
        looks = 0
        while not self._stop.wait(1 / _SAMPLES_PER_SECOND):
            looks += 1
            self._look(with_pss=looks % _PSS_EVERY == 0)

    def __enter__(self) -> Self:
        self._before = (cpu_seconds(self._pid), own_cpu_seconds(), busy_seconds())
        self._sampler.start()
        self._started = time.perf_counter()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        wall_seconds = time.perf_counter() - self._started
        server, own, busy = (
            after - before
            for after, before in zip(
                (cpu_seconds(self._pid), own_cpu_seconds(), busy_seconds()), self._before, strict=True
            )
        )
        self._stop.set()
        self._sampler.join()
        self._look(with_pss=True)
        other = max(0.0, busy - server - own)
        self.cost = Cost(wall_seconds, server, own, other, self._peak_rss_bytes, self._peak_pss_bytes)


def _wait_until(is_so: Callable[[], bool], patience_seconds: float) -> bool:
    until = time.monotonic() + patience_seconds
    while time.monotonic() < until:
        if is_so():
            return True
    return False


def _is_quiet() -> bool:
    before = busy_seconds()
    time.sleep(_LOOK_SECONDS)
    return busy_seconds() - before < _QUIET_CORES * _LOOK_SECONDS


def wait_for_quiet(patience_seconds: float) -> bool:
    """Wait until the machine does next to nothing; False when it did not within ``patience_seconds``."""
    return _wait_until(_is_quiet, patience_seconds)


def settle(pid: int, patience_seconds: float) -> bool:
    """Wait until the server has done nothing for a second: what it does after its answers is no part of a step."""

    def is_idle() -> bool:
        before = cpu_seconds(pid)
        time.sleep(1.0)
        return cpu_seconds(pid) - before < 0.03

    return _wait_until(is_idle, patience_seconds)
