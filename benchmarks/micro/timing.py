"""A small loop that times one thing: the best of some rounds, in processor time of this process.

The best, because everything that disturbs makes a round slower and nothing makes it faster.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

ROUNDS = 5


@dataclass(frozen=True, slots=True)
class Case:
    """One thing to time. ``size_bytes``: what an operation works on, 0 when bytes say nothing about it."""

    name: str
    operation: Callable[[], object]
    size_bytes: int = 0


@dataclass(frozen=True, slots=True)
class Timing:
    """The best round."""

    name: str
    ns_per_operation: float
    size_bytes: int

    @property
    def mb_per_second(self) -> float:
        """Of what an operation works on."""
        return self.size_bytes * 1e3 / self.ns_per_operation


def _seconds(operation: Callable[[], object], times: int) -> float:
    started = time.process_time()
    for _ in range(times):
        operation()
    return time.process_time() - started


def time_case(case: Case, seconds: float, rounds: int = ROUNDS) -> Timing:
    """Time a case for about ``seconds`` in all; an operation that takes longer is done once a round."""
    times, took = 1, _seconds(case.operation, 1)
    while took < seconds / rounds / 4 and times < 1 << 24:
        times *= 2
        took = _seconds(case.operation, times)
    times = max(1, round(times * seconds / rounds / max(took, 1e-6)))
    best = min(_seconds(case.operation, times) for _ in range(rounds))
    return Timing(case.name, best * 1e9 / times, case.size_bytes)


def shown(timing: Timing) -> str:
    """A line."""
    speed = f"{timing.mb_per_second:>10,.0f} MB/s" if timing.size_bytes else ""
    return f"{timing.name:64}{timing.ns_per_operation:>14,.0f} ns{speed}"
