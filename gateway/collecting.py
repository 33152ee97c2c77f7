"""Collect what was deleted, in the background of a process, or in the foreground until it is done.

``step`` is ``Archive.collect`` with a grace period: any number may call it, on any machine, and each may be killed at
any moment.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator

from gateway import metrics
from storage.model import Collected

logger = logging.getLogger("gateway.collecting")

_LOOK_SECONDS = 30.0
_SWEEP_SECONDS = 3600.0
_AFTER_FAILURE_SECONDS = 60.0
_LEAST_PAUSE_SECONDS = 0.005

Step = Callable[[], Collected]


def keep_collected(step: Step, sweep: Callable[[], int], stopping: threading.Event) -> None:
    """Remove what is due, and go on looking for more, until ``stopping``; now and then ``sweep`` what stores have left.

    It pauses as long as it has worked, so that stores and retrievals have their turn at the disk.
    """
    pause = 0.0
    swept_at = time.monotonic()
    while not stopping.wait(pause):
        started = time.monotonic()
        try:
            done = step()
            _count(done)
            if started - swept_at >= _SWEEP_SECONDS:
                swept_at = started
                if count := sweep():
                    logger.info("collect.swept", extra={"count": count})
        except Exception:  # the thread is to live, whatever one object does to it
            logger.exception("collect.failed")
            pause = _AFTER_FAILURE_SECONDS
            continue
        pause = max(_LEAST_PAUSE_SECONDS, time.monotonic() - started) if done.has_more else _LOOK_SECONDS


def collected(step: Step) -> Iterator[Collected]:
    """Each step until nothing is due. Raises what a step raises."""
    while True:
        done = step()
        _count(done)
        yield done
        if not done.has_more:
            return


def _count(done: Collected) -> None:
    if done.objects:
        metrics.COLLECTED_OBJECTS.inc(done.objects)
        metrics.COLLECTED_BYTES.inc(done.size_bytes)
        logger.info("collect.removed", extra={"count": done.objects, "bytes": done.size_bytes})
