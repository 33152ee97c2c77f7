"""Series and studies that have come to rest are noted in the change feed, by a thread that every gateway may have.

step: ``Archive.note_stable``, which does the work, once for all of them.
"""

from __future__ import annotations

import logging
import math
import threading
import time
from collections.abc import Callable

from storage.errors import GatewayError

logger = logging.getLogger("gateway.stability")

_LOOK_SECONDS = 1.0
_AFTER_FAILURE_SECONDS = 5.0
_LEAST_PAUSE_SECONDS = 0.005


def keep_noting(step: Callable[[int, int], bool], quiet_seconds: int, stopping: threading.Event) -> None:
    """Note what nothing has happened to for ``quiet_seconds``, until ``stopping``.

    Where there is much to do it pauses as long as it works, so that stores have their turn.
    """
    pause = 0.0
    while not stopping.wait(pause):
        started, now = time.monotonic(), time.time()
        try:
            has_more = step(int(now), math.ceil(now) + quiet_seconds)
        except GatewayError as error:
            logger.warning("stability.failed", exc_info=error)
            pause = _AFTER_FAILURE_SECONDS
            continue
        pause = max(_LEAST_PAUSE_SECONDS, time.monotonic() - started) if has_more else _LOOK_SECONDS
