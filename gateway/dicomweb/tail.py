"""The end of the change feed, as those see it who wait for what comes next: one look at the index for all of them.

While somebody waits, one task of the event loop looks for changes, in a thread, twice a second. Nobody is given a
queue: each asks for what is behind the change that he has, so that a slow client costs nothing but his place.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress

from gateway import metrics
from gateway.http import in_thread
from gateway.session import Session
from storage.errors import GatewayError, Overloaded
from storage.model import Change

logger = logging.getLogger("gateway.dicomweb.tail")

AT_ONCE = 1000
"""Changes that are read in one go, and that are kept for those who wait."""
_LOOK_SECONDS = 0.5
_AFTER_FAILURE_SECONDS = 2.0


class Tail:
    """For one event loop. session: what the feed is read by. most: who may wait at once."""

    def __init__(self, session: Session, most: int) -> None:
        self._session = session
        self.free = most
        self._waiting = 0
        self._recent: list[Change] = []  # one after the other, up to the last one that is known
        self._known = 0
        self._is_fresh = False
        self._news = asyncio.Event()
        self._looking: asyncio.Task[None] | None = None
        self.is_closed = False

    @contextmanager
    def listening(self) -> Iterator[None]:
        """A place among those who wait. Raises Overloaded when there is none."""
        if self.free == 0:
            metrics.LIMITS_HIT.labels("changes.listeners_maximum").inc()
            raise Overloaded("Too many clients wait for changes")
        self.free -= 1
        self._waiting += 1
        metrics.CHANGES_LISTENERS.inc()
        if self._looking is None:
            self._is_fresh = False
            self._looking = asyncio.create_task(self._look())
        try:
            yield
        finally:
            self.free += 1
            self._waiting -= 1
            metrics.CHANGES_LISTENERS.dec()
            if not self._waiting and self._looking is not None:
                self._looking.cancel()
                self._looking = None

    def close(self) -> None:
        """Wait for nothing any more: whoever waits is told so."""
        self.is_closed = True
        self._tell()

    async def behind(self, place: int, limit: int, seconds: float) -> Sequence[Change]:
        """The changes behind a place, waited for while there is none; none when time is up, or it is closed.

        Only while ``listening``. Raises StorageUnavailable.
        """
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                while not self.is_closed:
                    if self._looking is not None and self._looking.done():
                        self._looking.result()  # which it never has: it raises
                    news = self._news
                    if self._is_fresh and place < self._known:
                        return self._of_recent(place, limit) or await in_thread(self._session.changes, place, limit)
                    await news.wait()
        return ()

    def _of_recent(self, place: int, limit: int) -> Sequence[Change]:
        if not self._recent or place + 1 < self._recent[0].sequence:
            return ()
        start = place + 1 - self._recent[0].sequence  # there are no gaps
        return self._recent[start : start + limit]

    def _tell(self) -> None:
        """Wake everybody who waits."""
        news, self._news = self._news, asyncio.Event()
        news.set()

    async def _look(self) -> None:
        try:
            while True:
                try:
                    pause = 0.0 if await self._read() else _LOOK_SECONDS
                except GatewayError as error:  # they wait on; whoever reads by himself hears of it
                    logger.warning("changes.unavailable", exc_info=error)
                    pause = _AFTER_FAILURE_SECONDS
                await asyncio.sleep(pause)
        finally:
            self._tell()

    async def _read(self) -> bool:
        """Read what is new; whether there may be more."""
        if not self._is_fresh:
            latest = await in_thread(self._session.latest)
            if latest - self._known > AT_ONCE:  # long ago: whoever is behind reads by himself
                self._known, self._recent = latest, []
        page = await in_thread(self._session.changes, self._known, AT_ONCE)
        was_fresh, self._is_fresh = self._is_fresh, True
        if page:
            self._recent = [*self._recent, *page][-AT_ONCE:]
            self._known = page[-1].sequence
        if page or not was_fresh:
            self._tell()
        return len(page) == AT_ONCE
