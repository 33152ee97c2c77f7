"""A torture: rounds of calls, kills and faults over a world, each of which ends with a healed archive and a check."""

from __future__ import annotations

import itertools
import random
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TextIO

from tests.torture.checker import KINDS, UNCLEAN, Problem, check, tally
from tests.torture.history import STORE, History, Outcome
from tests.torture.inspection import observe
from tests.torture.making import Contested, Maker
from tests.torture.nemesis import Nemesis
from tests.torture.senders import Deleter, Reader, store_by_dimse, store_by_http
from tests.torture.world import World

JOIN_SECONDS = 90.0
SQLITE, POSTGRESQL = "sqlite", "postgresql"


@dataclass(frozen=True, slots=True)
class Load:
    """Senders of each gateway by door, and its HTTP workers."""

    dimse: int
    http: int
    workers: int


LOADS = {SQLITE: Load(3, 4, 6), POSTGRESQL: Load(2, 2, 4)}


@dataclass(slots=True)
class Figure:
    """What a torture has shown. acknowledged: instances, each version once, however often that was said."""

    seed: int
    seconds: float = 0.0
    acknowledged: int = 0
    acknowledged_again: int = 0
    calls: Counter[str] = field(default_factory=Counter)
    kills: Counter[str] = field(default_factory=Counter)
    faults: Counter[str] = field(default_factory=Counter)
    reads: Counter[str] = field(default_factory=Counter)
    reasons: Counter[str] = field(default_factory=Counter)
    rounds: Counter[str] = field(default_factory=Counter)
    disks: dict[str, str] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)

    @property
    def is_sound(self) -> bool:
        return not self.problems

    def as_json(self) -> dict[str, object]:
        """For programs."""
        return {
            "seed": self.seed,
            "seconds": round(self.seconds),
            "acknowledged": self.acknowledged,
            "acknowledged_again": self.acknowledged_again,
            "calls": dict(self.calls),
            "kills": {"all": self.kills.total(), **dict(self.kills)},
            "faults": {"all": self.faults.total(), **dict(self.faults)},
            "reads": dict(self.reads),
            "rounds": dict(self.rounds),
            "disks": self.disks,
            "reasons": dict(self.reasons.most_common()),
            **tally(self.problems),
            "problems": self.problems[:100],
        }

    def short(self) -> str:
        """One line."""
        wrong = ", ".join(f"{count} {kind}" for kind, count in tally(self.problems).items())
        kills, faults = self.kills.total(), self.faults.total()
        return f"{self.acknowledged} instances acknowledged, {kills} kills, {faults} faults, {wrong}"

    def text(self) -> str:
        """The record of a run."""

        def listed(counts: Counter[str]) -> str:
            return ", ".join(f"{name} {count}" for name, count in sorted(counts.items()))

        rows = (
            ("seed", str(self.seed)),
            ("time", f"{self.seconds:.0f} s, rounds: {listed(self.rounds)}"),
            ("acknowledged", f"{self.acknowledged} instances, {self.acknowledged_again} of them said again"),
            ("calls", listed(self.calls)),
            ("kills", f"{self.kills.total()}: {listed(self.kills)}"),
            ("faults", f"{self.faults.total()}: {listed(self.faults)}"),
            ("full disk by", "; ".join(f"{engine}: {name}" for engine, name in sorted(self.disks.items()))),
            ("reads meanwhile", listed(self.reads)),
            *((kind, str(count)) for kind, count in tally(self.problems).items()),
        )
        lines = [f"{name:<16}{value}" for name, value in rows]
        return "\n".join(lines + [f"  {kind}: {text}" for kind, text in self.problems[:30]])


class Torture:
    """Rounds over one world.

    number: which world of the run. load, pace_seconds: what is sent, and the mean time from kill to kill. progress:
    told of the figure now and then. log: for the history.
    """

    def __init__(
        self,
        world: World,
        number: int,
        figure: Figure,
        *,
        load: Load,
        pace_seconds: float,
        progress: Callable[[Figure], None] = lambda _: None,
        log: TextIO | None = None,
    ) -> None:
        self._world = world
        self._figure = figure
        self._load = load
        self._pace_seconds = pace_seconds
        self._progress = progress
        self._root = f"2.25.{figure.seed}.{number}"
        self._chance = random.Random(self._root)
        self.history = History(log)
        self._kept = figure.acknowledged, figure.acknowledged_again
        figure.disks[world.engine] = world.disk.name
        self._known_bugs: Counter[str] = Counter()

    def run(self, seconds: float, round_seconds: float) -> None:
        """Rounds for so long, then everything of this world is checked once more."""
        until = time.monotonic() + seconds
        self._world.start()
        for number in itertools.count(1):
            left = until - time.monotonic()
            self.round(number, min(round_seconds, max(1.0, left)))
            if time.monotonic() + round_seconds / 4 > until or self._figure.problems:
                break
        self._check(0)
        for (verb, outcome), count in self.history.counts.items():
            self._figure.calls[f"{verb} {outcome}"] += count
        self._figure.reasons += self.history.reasons

    def round(
        self, number: int, seconds: float, *, trouble: Callable[[Nemesis, threading.Event], None] | None = None
    ) -> None:
        """Calls, kills and faults for so long; then heal, start again, and check what was called.

        trouble: instead of the nemesis' own choice.
        """
        first = len(self.history.calls)
        stopping, threads, reader, deleter = self._callers(number)
        nemesis = Nemesis(
            self._world,
            deleter,
            f"{self._root}/{number}",
            self._pace_seconds,
            kills=self._figure.kills,
            faults=self._figure.faults,
        )
        for thread in threads:
            thread.start()
        try:
            telling = threading.Thread(target=self._tell, args=(stopping,), daemon=True)
            telling.start()
            if trouble is None:
                nemesis.run(seconds)
            else:
                trouble(nemesis, stopping)
            self._world.heal()
        finally:
            stopping.set()
            for thread in threads:
                thread.join(JOIN_SECONDS)
        assert not any(thread.is_alive() for thread in threads), "a caller does not come to an end"
        self._world.begin_again(is_sudden=number % 2 == 1)
        figure = self._figure
        figure.reads["right"] += reader.read
        figure.reads["refused"] += reader.refused
        figure.rounds[self._world.engine] += 1
        figure.problems += reader.wrong
        self._count()
        self._check(first)
        self._progress(figure)

    def _callers(self, number: int) -> tuple[threading.Event, list[threading.Thread], Reader, Deleter]:
        """Threads that call until they are told to stop. What may be deleted has UIDs of its own."""
        stopping = threading.Event()
        kept, deleted = f"{self._root}.1.{number}", f"{self._root}.2."
        contested = Contested(f"{kept}/contested", f"{kept}.0")
        reader = Reader(self._world, self.history, random.Random(f"{kept}/reader"), deleted)
        deleter = Deleter(self._world, f"{kept}/deleter", f"{deleted}{number}", self.history)
        calls: list[Callable[[], None]] = [partial(reader.run, stopping), partial(deleter.run, stopping)]
        for gateway in self._world.gateways:
            for send, count in ((store_by_dimse, self._load.dimse), (store_by_http, self._load.http)):
                for _ in range(count):
                    name = f"{kept}.{len(calls)}"
                    calls.append(partial(send, gateway, Maker(name, name, contested), self.history, stopping))
        return stopping, [threading.Thread(target=self._guarded, args=(call,)) for call in calls], reader, deleter

    def _guarded(self, call: Callable[[], None]) -> None:
        """A caller that ends by itself would go unnoticed."""
        try:
            call()
        except BaseException as error:
            self._figure.problems.append((UNCLEAN, f"a caller has ended: {error!r}"))
            raise

    def _tell(self, stopping: threading.Event) -> None:
        """The figure as it grows."""
        while not stopping.wait(2.0):
            self._count()
            self._progress(self._figure)

    def _count(self) -> None:
        figure, history = self._figure, self.history
        figure.acknowledged = self._kept[0] + len(history.acknowledged)
        again = history.counts[STORE, Outcome.OK] - len(history.acknowledged)
        figure.acknowledged_again = self._kept[1] + again

    def _check(self, first: int) -> None:
        """What was called since ``first``."""
        calls = self.history.calls[first:]
        sent = {call.version.sop_instance for call in calls}
        observed = observe(self._world, self.history.versions, sent, self._chance)
        found = check(self.history, calls, observed)
        for text, count in (self._world.bugs - self._known_bugs).items():
            found.append((UNCLEAN, f"{count} times in the log: {text}"))
        self._known_bugs = self._world.bugs
        known = set(self._figure.problems)
        self._figure.problems += [problem for problem in found if problem not in known]
        assert {kind for kind, _ in found} <= set(KINDS)


def new_world(
    engine: str, folder: Path, disk_kind: str, *, disk_bytes: int = 8 << 30, workers: int | None = None
) -> World:
    """A world of an engine, with nothing in it."""
    count = LOADS[engine].workers if workers is None else workers
    return World(engine, folder, workers=count, disk_kind=disk_kind, disk_bytes=disk_bytes)
