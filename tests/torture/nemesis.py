"""Nemesis: kills and faults over a world, for a while. F1–F5, F7"""

from __future__ import annotations

import contextlib
import os
import random
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable

import psutil

from tests.torture.senders import Deleter
from tests.torture.store import FAULTS
from tests.torture.world import World, kind_of

FAULT_SECONDS = (0.3, 1.5)
REST_SECONDS = (0.6, 3.0)
STOP_SECONDS = 120.0
CLOCK_STEPS = (-86_400.0, 86_400.0, -3600.0, 3600.0, -2.0, 2.0, 0.0)
CHILD, SUPERVISOR, ALL, DELETER, BACKEND = (
    "child",
    "supervisor",
    "all processes",
    "deleting process",
    "database backend",
)
KILLS = {CHILD: 88, SUPERVISOR: 2, ALL: 2, DELETER: 5, BACKEND: 3}
"""How often of a hundred."""
PAUSE, CLOCK, FULL = "pause", "clock step", "full disk"
KINDS_OF_FAULTS = (*(f"store: {fault}" for fault in FAULTS), PAUSE, CLOCK, FULL)


class Nemesis:
    """Kills every ``pace_seconds`` in the mean, and beside that one fault after the other, each as often.

    kills, faults: where it counts what there was of each kind. failure: what ended a thread of it, which nothing may.
    """

    def __init__(
        self,
        world: World,
        deleter: Deleter,
        seed: str,
        pace_seconds: float,
        *,
        kills: Counter[str],
        faults: Counter[str],
    ) -> None:
        self._world = world
        self._deleter = deleter
        self._killing = random.Random(f"{seed}/kills")
        self._troubling = random.Random(f"{seed}/faults")
        self._pace_seconds = pace_seconds
        self._deck: list[str] = []
        self._kill = {
            CHILD: self._kill_child,
            SUPERVISOR: self._kill_supervisor,
            ALL: self._kill_all,
            DELETER: self._kill_deleter,
            BACKEND: self._kill_backend,
        }
        self.kills = kills
        self.faults = faults
        self.failure: BaseException | None = None

    def run(self, seconds: float) -> None:
        """Do so for so long, then leave everything as it is; the world has to be healed."""
        stopping = threading.Event()
        threads = [
            threading.Thread(target=self._guarded, args=(work, stopping), name=work.__name__)
            for work in (self._kill_on, self._trouble_on)
        ]
        for thread in threads:
            thread.start()
        stopping.wait(seconds)
        stopping.set()
        for thread in threads:
            thread.join(STOP_SECONDS)
            assert not thread.is_alive(), thread.name
        if self.failure is not None:
            raise self.failure

    def _guarded(self, work: Callable[[threading.Event], None], stopping: threading.Event) -> None:
        try:
            work(stopping)
        except BaseException as error:  # noqa: BLE001 - raised in the thread that waits for it
            self.failure = error
            stopping.set()

    # -- kills

    def _kill_on(self, stopping: threading.Event) -> None:
        due = time.monotonic()
        while True:
            due = max(due + self._killing.uniform(0, 2 * self._pace_seconds), time.monotonic() - 5)
            if stopping.wait(max(0.0, due - time.monotonic())):
                return
            (kind,) = self._killing.choices(list(KILLS), list(KILLS.values()))
            if not self.kill(kind):
                self.kill(CHILD)

    def kill(self, kind: str) -> bool:
        """One of that kind, if there is one now."""
        name = self._kill[kind]()
        if name:
            self.kills[name] += 1
        return bool(name)

    def _kill_child(self) -> str:
        """Mostly the process that has lived longest, for its supervisor lets those wait that crash again at once."""
        children = self._world.children()
        if not children:
            return ""
        with contextlib.suppress(psutil.NoSuchProcess):
            is_random = self._killing.random() < 0.2
            process = self._killing.choice(children) if is_random else min(children, key=lambda one: one.create_time())
            kind = kind_of(process)
            process.kill()
            return f"{kind} process" if kind else ""
        return ""

    def _kill_supervisor(self) -> str:
        gateway = self._world.any_gateway(self._killing)
        gateway.kill_supervisor()
        gateway.start()
        return "supervisor"

    def _kill_all(self) -> str:
        gateway = self._world.any_gateway(self._killing)
        gateway.kill()
        gateway.start()
        return "all processes of a gateway"

    def _kill_deleter(self) -> str:
        pid = self._deleter.process_id()
        if pid is None:
            return ""
        os.kill(pid, signal.SIGKILL)  # not waited for yet, so it is nobody else's
        return "deleting process"

    def _kill_backend(self) -> str:
        backends = self._world.backends()
        if not backends:
            return ""
        with contextlib.suppress(psutil.NoSuchProcess):
            self._killing.choice(backends).kill()
            return "database backend"
        return ""

    # -- faults

    def _trouble_on(self, stopping: threading.Event) -> None:
        while not stopping.wait(self._troubling.uniform(*REST_SECONDS)):
            if not self._deck:
                self._deck = list(KINDS_OF_FAULTS)
                self._troubling.shuffle(self._deck)
            self.trouble(self._deck.pop(), stopping)

    def trouble(self, kind: str, stopping: threading.Event) -> None:
        """One fault, for a moment."""
        seconds = self._troubling.uniform(*FAULT_SECONDS)
        if kind == PAUSE:
            self._pause(stopping, seconds)
        elif kind == CLOCK:
            self._world.order(clock_seconds=self._troubling.choice(CLOCK_STEPS))
        elif kind == FULL:
            with self._world.disk.full(self._world.writers()):
                stopping.wait(seconds)
        else:
            self._world.order(fault=kind.removeprefix("store: "), rate=self._troubling.choice((0.2, 0.5, 1.0)))
            stopping.wait(seconds)
            self._world.order(fault="", rate=0.0)
        self.faults[kind] += 1

    def _pause(self, stopping: threading.Event, seconds: float) -> None:
        processes = self._world.processes()
        if not processes:
            return
        process = self._troubling.choice(processes)
        with contextlib.suppress(psutil.NoSuchProcess):
            process.suspend()
            stopping.wait(seconds)
            process.resume()
