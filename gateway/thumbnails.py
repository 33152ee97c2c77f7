"""Thumbnails made ahead: of every series that has come to rest, before anybody asks, and kept with the archive.

It follows the change feed as forwarding does, so that every process may run it: a series is waited for in the outbox,
each new instance puts it off, and one process takes it. What is lost with a process is done again.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import replace

from gateway import metrics
from gateway.pictures import MADE_AHEAD, Pictures, Wanted
from gateway.presented import is_presentation_state
from gateway.representative import representative
from storage.errors import CorruptObject, NotFound, Overloaded, TooLarge
from storage.model import Change, Scope

logger = logging.getLogger("gateway.thumbnails")

OUTBOX = "\\thumbnails"  # no peer's name: an AE title has no backslash
_STORED = ("stored", "replaced")
_CHANGES_AT_ONCE = 1000
_LOOK_SECONDS = 5.0
_HELD_SECONDS = 600
_AFTER_FAILURE_SECONDS = 60
_ATTEMPTS = 3
_REST = 4.0  # times as long as it worked: four fifths of a processor are for those who wait


class Thumbnailer:
    """Makes one thumbnail of each series, when nothing has come to it for ``quiet_seconds``.

    pictures: of a session that may retrieve. clock: seconds since 1970.
    """

    def __init__(self, pictures: Pictures, quiet_seconds: int, *, clock: Callable[[], float] = time.time) -> None:
        self._pictures = pictures
        self._session = pictures.session
        self._quiet_seconds = quiet_seconds
        self._clock = clock

    def run(self, stopping: threading.Event) -> None:
        """Follow and make until ``stopping``. Whatever fails is tried again, and given up after a few times."""
        pause = 0.0
        while not stopping.wait(pause):
            started = time.monotonic()
            try:
                has_more = self.follow() or self.make()
                pause = _REST * (time.monotonic() - started) if has_more else _LOOK_SECONDS
            except Exception:  # the thread is to live, whatever one object does to it
                logger.exception("thumbnails.failed")
                pause = _AFTER_FAILURE_SECONDS

    def follow(self) -> bool:
        """Put off every series that something new has come to; whether there may be more."""
        outbox = self._session.outbox
        place = outbox.place(OUTBOX)
        changes = self._session.changes(place, _CHANGES_AT_ONCE)
        if not changes:
            return False
        due = int(self._clock()) + self._quiet_seconds
        outbox.advance(OUTBOX, place, changes[-1].sequence, _series_of(changes), due)
        return True

    def make(self) -> bool:
        """Make one of the thumbnails that are due; whether there may be more."""
        now = int(self._clock())
        parcels = self._session.outbox.take(OUTBOX, now, now + _HELD_SECONDS, 1)
        for parcel in parcels:
            uid = parcel.scope.series_instance_uid
            outcome = "given_up" if parcel.attempts > _ATTEMPTS else self._make_one(parcel.scope)
            if outcome != "failed":
                self._session.outbox.settle(OUTBOX, [uid], {})
            else:
                self._session.outbox.settle(OUTBOX, [], {uid: now + _AFTER_FAILURE_SECONDS})
            metrics.THUMBNAILS.labels(outcome).inc()
        return bool(parcels)

    def _make_one(self, scope: Scope) -> str:
        """Make and keep the thumbnail of one series where it is worth it; what came of it, for the figures.

        A presentation state has none: what stands for it is another instance's picture.
        """
        try:
            instance = representative(self._session, replace(scope, sop_instance_uid=""))
            wanted = Wanted.of(instance, 0, MADE_AHEAD)
            if is_presentation_state(instance) or self._session.thumbnail(instance, wanted.key) is not None:
                return "not_needed"
            picture = self._pictures.of_instance(instance, wanted)
            if not picture.is_lasting:
                return "failed"
            self._session.keep_thumbnail(instance, picture.wanted.key, picture.data)
        except NotFound:
            return "not_needed"
        except (CorruptObject, Overloaded, TooLarge) as error:
            logger.warning("thumbnails.failed", exc_info=error)
            return "failed"
        return "made"


def _series_of(changes: Sequence[Change]) -> Sequence[Scope]:
    """The series that instances were stored in, each once, in the form in which an outbox takes instances."""
    stored = (change.scope for change in changes if change.kind in _STORED and change.scope.sop_instance_uid)
    return list(dict.fromkeys(replace(scope, sop_instance_uid=scope.series_instance_uid) for scope in stored))
