"""What goes on: the fault and the clock that the torture orders, in a file that the processes of a gateway follow."""

from __future__ import annotations

import json
import os
import random
import threading
import time
from dataclasses import asdict, dataclass
from pathlib import Path

VARIABLE = "TORTURE_ORDERS"
LOOK_SECONDS = 0.03


@dataclass(frozen=True, slots=True)
class Orders:
    """fault: a kind that ``tests.torture.store`` knows, or nothing. rate: the part of all operations that it befalls.

    clock_seconds: how far the clock on the wall is from the true one.
    """

    fault: str = ""
    rate: float = 0.0
    clock_seconds: float = 0.0

    def give(self, path: Path) -> None:
        """Write them, whole at any moment."""
        new = path.with_suffix(".new")
        new.write_text(json.dumps(asdict(self)))
        new.rename(path)


class Followed:
    """The orders in a file, as they are now; a thread looks at it until ``close``."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._seen: tuple[int, int] = (0, 0)
        self._chance = random.Random(os.urandom(8))
        self._closing = threading.Event()
        self.orders = Orders()
        self._look()
        self._watching = threading.Thread(target=self._watch, name="orders", daemon=True)
        self._watching.start()

    def _look(self) -> None:
        found = self._path.stat()
        if (found.st_ino, found.st_mtime_ns) != self._seen:
            self._seen = (found.st_ino, found.st_mtime_ns)
            self.orders = Orders(**json.loads(self._path.read_text()))

    def _watch(self) -> None:
        while not self._closing.wait(LOOK_SECONDS):
            self._look()

    def close(self) -> None:
        """Follow them no longer."""
        self._closing.set()
        self._watching.join()

    def fault(self) -> str:
        """What befalls the operation that begins now, if anything."""
        orders = self.orders
        return orders.fault if orders.fault and self._chance.random() < orders.rate else ""

    def wait_while(self, fault: str, seconds: float) -> None:
        """Sleep as long as a fault goes on, but so many seconds at most."""
        until = time.monotonic() + seconds
        while self.orders.fault == fault and time.monotonic() < until:
            time.sleep(LOOK_SECONDS)
