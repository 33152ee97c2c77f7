"""Index what was stored before a tag was there: in the background of a process, or in the foreground until it is done.

``step`` is ``Archive.index_extended``: any number may call it, on any machine, and each may be killed at any moment.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator

from storage.errors import GatewayError
from storage.model import Progress

logger = logging.getLogger("gateway.indexing")

_LOOK_SECONDS = 5.0
_AFTER_FAILURE_SECONDS = 60.0
_BEHIND_OTHERS_SECONDS = 2.0
_WAIT_SECONDS = 0.5
_LEAST_PAUSE_SECONDS = 0.005

Step = Callable[[], Progress]


def keep_complete(step: Step, stopping: threading.Event) -> None:
    """Index what is lacking, and go on looking for more, until ``stopping``.

    It pauses as long as it has worked, so that stores and searches have their turn; and longer where somebody else
    works on the same.
    """
    pause = 0.0
    while not stopping.wait(pause):
        started = time.monotonic()
        try:
            progress = step()
        except GatewayError as error:
            logger.warning("extended.failed", exc_info=error)
            pause = _AFTER_FAILURE_SECONDS
            continue
        if progress.is_contended:
            pause = _BEHIND_OTHERS_SECONDS
        elif not progress.is_complete:
            pause = max(_LEAST_PAUSE_SECONDS, time.monotonic() - started)
        else:
            pause = _LOOK_SECONDS
        if progress.is_complete and progress.count:
            logger.info("extended.complete")


def complete(step: Step) -> Iterator[Progress]:
    """Each step until nothing is lacking. Raises what a step raises."""
    while True:
        progress = step()
        yield progress
        if progress.is_complete:
            return
        if progress.is_contended:
            time.sleep(_WAIT_SECONDS)
