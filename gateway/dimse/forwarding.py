"""Forwarding: new instances go to peers by routes that the operator has written, each until it has arrived.

What is to be sent is kept in the outbox of the index, so that it outlives the gateway, and any number of gateways may
share the work: an instance is with one of them at a time. A peer that is away is asked again after ten seconds, then
after twice as long, up to an hour, for ever, and so is one that refuses an instance for that; nothing is dropped but
what is no longer in the archive.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

from gateway import metrics
from gateway.dimse.connection import ConnectionEndedError
from gateway.dimse.contexts import Proposed
from gateway.dimse.requestor import Peer, RejectedError, limits_within, requested, why_lost
from gateway.dimse.status import SUCCESS
from gateway.dimse.store_scu import NoContextError, Sender, UnreadableError, encoding_of, note_unreadable, proposals
from gateway.session import Session
from gateway.transcoding import Transcoder, converter
from storage.attributes import ATTRIBUTES
from storage.errors import GatewayError, NotFound
from storage.matching import Match, Query
from storage.model import Instance, Level, Parcel, Scope
from storage.stored import StoredDataSet

logger = logging.getLogger(__name__)

AT_ONCE = 200
"""Instances that are sent over one association, and changes that are looked at in one step."""
_LOOK_SECONDS = 1.0
_AFTER_FAILURE_SECONDS = 10.0
_FIRST_RETRY_SECONDS, _LAST_RETRY_SECONDS = 10, 3600
_HELD_SECONDS = 900
_SETTLED_AT_ONCE = 20
_LIMITS = replace(limits_within(60.0), associate_seconds=10.0)
_WARNINGS = range(0xB000, 0xC000)
_STORED = ("stored", "replaced")
_INSTANCE_UID = next(one for one in ATTRIBUTES if one.keyword == "SOPInstanceUID")


@dataclass(frozen=True, slots=True)
class Route:
    """Where instances go, and which: those that match every key. name: what the operator has written."""

    name: str
    peer: Peer
    matches: tuple[Match, ...]


class Forwarder:
    """Follows one route, in a thread of its own, so that no peer keeps another one waiting.

    others: all routes to the same peer, which its gauge adds up. session: what it reads by. transcoder: for peers that
    do not take what is stored. clock: seconds since 1970; of the machine, as outboxes are shared between processes.
    """

    def __init__(
        self,
        route: Route,
        session: Session,
        transcoder: Transcoder | None = None,
        *,
        others: Sequence[Route] = (),
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.route = route
        self._session = session
        self._transcoder = transcoder
        self._others = others or (route,)
        self._clock = clock
        self._losses = 0
        self._not_before = 0.0

    def run(self, stopping: threading.Event) -> None:
        """Look for what is new, and send what is due, until ``stopping``. Whatever fails is tried again."""
        pause = 0.0
        while not stopping.wait(pause):
            try:
                has_more = self.follow() or self.send(stopping)
                pause = 0.0 if has_more else _LOOK_SECONDS
            except Exception:  # the thread is to live, whatever a peer or an object does to it
                logger.exception("forward.failed")
                pause = _AFTER_FAILURE_SECONDS

    def follow(self) -> bool:
        """Put what is new and matches into the outbox; whether there may be more."""
        outbox, name = self._session.outbox, self.route.name
        place = outbox.place(name)
        changes = self._session.changes(place, AT_ONCE)
        if not changes:
            return False
        new = [change.scope for change in changes if change.kind in _STORED and change.scope.sop_instance_uid]
        outbox.advance(name, place, changes[-1].sequence, self._matching(new), int(self._clock()))
        self._tell()
        return True

    def _matching(self, scopes: Sequence[Scope]) -> Sequence[Scope]:
        if not scopes or not self.route.matches:
            return scopes
        uids = Match.of(_INSTANCE_UID, "\\".join(scope.sop_instance_uid for scope in scopes))
        query = Query(Level.INSTANCE, (uids, *self.route.matches), limit=len(scopes))
        return [answer.scope for answer in self._session.search(query)]

    def send(self, stopping: threading.Event) -> bool:
        """Send some of what is due; whether there may be more. A peer that was lost is left alone for a while."""
        now = self._clock()
        if stopping.is_set() or now < self._not_before:
            return False
        parcels = self._session.outbox.take(self.route.name, int(now), int(now) + _HELD_SECONDS, AT_ONCE)
        if not parcels:
            return False
        batch = _Batch({parcel.scope.sop_instance_uid: parcel.attempts for parcel in parcels})
        try:
            instances = self._present(parcels, batch)
            self._send_all(instances, batch, stopping)
        finally:
            self._settle(batch, is_over=True)
        return not batch.later and not stopping.is_set()

    def _settle(self, batch: _Batch, *, is_over: bool = False) -> None:
        """Write down what came of it: some of it from time to time, so that a kill repeats little."""
        if not is_over and len(batch.done) < _SETTLED_AT_ONCE:
            return
        if is_over:
            now = int(self._clock())
            waiting = batch.attempts.keys() - batch.done - batch.settled
            batch.later = {uid: now + _pause(batch.attempts[uid]) for uid in waiting}
        self._session.outbox.settle(self.route.name, sorted(batch.done), batch.later)
        batch.settled |= batch.done
        batch.done.clear()
        self._tell()
        metrics.FORWARD_INSTANCES.labels(self.route.peer.called_ae, "put off").inc(len(batch.later))

    def _tell(self) -> None:
        waiting = sum(self._session.outbox.count(route.name) for route in self._others)
        metrics.FORWARD_WAITING.labels(self.route.peer.called_ae).set(waiting)

    def _present(self, parcels: Sequence[Parcel], batch: _Batch) -> Sequence[Instance]:
        """The instances that are still there; the others are done with."""
        found: list[Instance] = []
        for parcel in parcels:
            try:
                found += self._session.instances(parcel.scope)
            except NotFound:
                batch.done.add(parcel.scope.sop_instance_uid)
                metrics.FORWARD_INSTANCES.labels(self.route.peer.called_ae, "gone").inc()
        return found

    def _send_all(self, instances: Sequence[Instance], batch: _Batch, stopping: threading.Event) -> None:
        """Send them over as many associations as that takes.

        An instance at which the association broke is put off alone, and the others go over another one; a peer that
        is lost twice without having taken anything in between is left alone, longer each time.
        """
        for encodings, contexts in proposals(Counter(map(encoding_of, instances))):
            pending = iter([instance for instance in instances if encoding_of(instance) in encodings])
            has_more, is_lost = True, False
            while has_more and not stopping.is_set():
                before = len(batch.done) + len(batch.settled)
                try:
                    has_more = self._send_over_one(contexts, pending, batch, stopping)
                except (OSError, RejectedError, ConnectionEndedError) as error:
                    lost = {"reason": why_lost(error), "address": self.route.peer.host}
                    logger.warning("forward.peer_lost", extra=lost)
                    was_idle = len(batch.done) + len(batch.settled) == before
                    if was_idle and (is_lost or not isinstance(error, ConnectionEndedError)):
                        self._losses += 1
                        self._not_before = self._clock() + _pause(self._losses - 1)
                        return
                    is_lost = was_idle
                else:
                    self._losses = 0

    def _send_over_one(
        self, contexts: Sequence[Proposed], pending: Iterator[Instance], batch: _Batch, stopping: threading.Event
    ) -> bool:
        """Send what is pending over one association; whether another one is needed, as one could not be read."""
        with requested(self.route.peer, contexts, _LIMITS) as found:
            sender = Sender(found.association, convert=converter(self._transcoder, self._session))
            for instance in pending:
                if stopping.is_set():
                    return False
                try:
                    stored = self._session.open(instance)
                except GatewayError as error:
                    note_unreadable(error)
                    continue
                try:
                    with stored:
                        is_taken = self._is_taken(sender, stored)
                except GatewayError as error:  # in the middle of a message, which nothing can follow
                    note_unreadable(error)
                    found.abort()
                    return True
                if is_taken:
                    batch.done.add(instance.sop_instance_uid)
                    metrics.FORWARD_INSTANCES.labels(self.route.peer.called_ae, "sent").inc()
                    self._settle(batch)
        return False

    def _is_taken(self, sender: Sender, stored: StoredDataSet) -> bool:
        try:
            status = sender.send(stored)
        except NoContextError:
            logger.warning("forward.refused", extra={"reason": "the peer takes no such instance"})
            return False
        except UnreadableError:
            return False
        if status == SUCCESS or status in _WARNINGS:
            return True
        logger.warning("forward.refused", extra={"status": status})
        return False


@dataclass(slots=True)
class _Batch:
    """What is being sent. attempts: so far, by SOP Instance UID. done: taken by the peer, or gone; settled: of those
    what is written down; later: when the others are due.
    """

    attempts: Mapping[str, int]
    done: set[str] = field(default_factory=set)
    settled: set[str] = field(default_factory=set)
    later: Mapping[str, int] = field(default_factory=dict)


def _pause(attempts: int) -> int:
    """Seconds until the next attempt, after so many: ten, then twice as long each time, an hour at most."""
    return int(min(_FIRST_RETRY_SECONDS << min(attempts, 16), _LAST_RETRY_SECONDS))
