"""Starts a gateway over a ``FaultStore`` and with a clock that steps, both as the file of orders says. F1, F2, F7

``python -m tests.torture.launcher serve …`` is ``python -m gateway serve …``, whose processes start by this module,
too. The gateway itself knows nothing of it.
"""

from __future__ import annotations

import datetime as dt
import os
import sys
import time
from pathlib import Path

from tests.torture.orders import VARIABLE, Followed

MODULE = "tests.torture.launcher"


def shift_clocks(followed: Followed) -> None:
    """Have the clock on the wall as it is ordered; call it before what reads it is imported."""
    true_time, true_time_ns, true_datetime = time.time, time.time_ns, dt.datetime

    class Shifted(true_datetime):
        __slots__ = ()  # compiled modules look at its size

        @classmethod
        def now(cls, tz=None):
            return super().now(tz) + dt.timedelta(seconds=followed.orders.clock_seconds)

    time.time = lambda: true_time() + followed.orders.clock_seconds
    time.time_ns = lambda: true_time_ns() + int(followed.orders.clock_seconds * 1e9)
    dt.datetime = Shifted


def main(arguments: list[str]) -> int:
    """A gateway, or one process of it."""
    followed = Followed(Path(os.environ[VARIABLE]))
    shift_clocks(followed)
    from gateway import app
    from storage import objects
    from tests.torture.store import FaultStore

    real_store = objects.open_object_store
    objects.open_object_store = lambda folder: FaultStore(real_store(folder), followed)
    app._MODULE = MODULE
    if arguments[0] != "serve":
        return app.main(arguments)
    from gateway.__main__ import main as command

    command(arguments, prog_name="dicomweb-gateway")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
