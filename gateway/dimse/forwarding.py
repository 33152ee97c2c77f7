"""Forwarding: new instances go to peers by routes that the operator has written, each until it has arrived.

What is to be sent is kept in the outbox of the index, so that it outlives the gateway, and any number of gateways may
share the work: an instance is with one of them at a time. A peer that is away is asked again after ten seconds, then
after twice as long, up to an hour, for ever; nothing is dropped but what is no longer in the archive.
"""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from gateway import metrics
from gateway.dimse.connection import ConnectionEndedError
from gateway.dimse.contexts import Proposed
from gateway.dimse.requestor import Peer, RejectedError, limits_within, requested
from gateway.dimse.status import SUCCESS
from gateway.dimse.store_scu import NoContextError, Sender, encoding_of, proposals
from gateway.session import Session
from gateway.transcoding import Transcoder, converter
from storage.attributes import ATTRIBUTES
from storage.errors import GatewayError, NotFound
from storage.matching import Match, Query
from storage.model import Instance, Level, Parcel, Scope

logger = logging.getLogger(__name__)

AT_ONCE = 200
"""Instances that are sent over one association, and changes that are looked at in one step."""
_LOOK_SECONDS = 1.0
_AFTER_FAILURE_SECONDS = 10.0
_FIRST_RETRY_SECONDS, _LAST_RETRY_SECONDS = 10, 3600
_HELD_SECONDS = 900
_PEER_SECONDS = 60.0
_WARNINGS = range(0xB000, 0xC000)
_STORED = "stored"
_INSTANCE_UID = next(one for one in ATTRIBUTES if one.keyword == "SOPInstanceUID")


@dataclass(frozen=True, slots=True)
class Route:
    """Where instances go, and which: those that match every key. name: what the operator has written."""

    name: str
    peer: Peer
    matches: tuple[Match, ...]


@dataclass
class Forwarder:
    """Follows routes. session: what it reads by. transcoder: for peers that do not take what is stored.

    clock: seconds since 1970; of the machine, as outboxes are shared between processes.
    """

    routes: Sequence[Route]
    session: Session
    transcoder: Transcoder | None = None
    clock: Callable[[], float] = time.time

    def run(self, stopping: threading.Event) -> None:
        """Look for what is new, and send what is due, until ``stopping``."""
        pause = 0.0
        while not stopping.wait(pause):
            pause = _LOOK_SECONDS
            for route in self.routes:
                try:
                    has_more = self.follow(route)
                    has_more |= self.send(route, stopping)
                except GatewayError as error:
                    logger.warning("forward.failed", exc_info=error)
                    pause = _AFTER_FAILURE_SECONDS
                else:
                    pause = 0.0 if has_more else pause

    def follow(self, route: Route) -> bool:
        """Put what is new and matches into the outbox; whether there may be more."""
        outbox = self.session.outbox
        place = outbox.place(route.name)
        changes = self.session.changes(place, AT_ONCE)
        if not changes:
            return False
        new = [change.scope for change in changes if change.kind == _STORED and change.scope.sop_instance_uid]
        found = self._matching(route, new)
        outbox.advance(route.name, place, changes[-1].sequence, found, int(self.clock()))
        metrics.FORWARD_WAITING.labels(route.peer.called_ae).set(outbox.count(route.name))
        return True

    def _matching(self, route: Route, scopes: Sequence[Scope]) -> Sequence[Scope]:
        if not scopes or not route.matches:
            return scopes
        uids = Match.of(_INSTANCE_UID, "\\".join(scope.sop_instance_uid for scope in scopes))
        query = Query(Level.INSTANCE, (uids, *route.matches), limit=len(scopes))
        return [answer.scope for answer in self.session.search(query)]

    def send(self, route: Route, stopping: threading.Event) -> bool:
        """Send some of what is due; whether there may be more."""
        outbox = self.session.outbox
        now = int(self.clock())
        parcels = outbox.take(route.name, now, now + _HELD_SECONDS, AT_ONCE)
        if not parcels:
            return False
        attempts = {parcel.scope.sop_instance_uid: parcel.attempts for parcel in parcels}
        instances = self._present(parcels)
        done = attempts.keys() - {instance.sop_instance_uid for instance in instances}
        try:
            self._send_all(route, instances, done, stopping)
        finally:
            now = int(self.clock())
            later = {uid: now + _pause(tried) for uid, tried in attempts.items() if uid not in done}
            outbox.settle(route.name, sorted(done), later)
            metrics.FORWARD_WAITING.labels(route.peer.called_ae).set(outbox.count(route.name))
            metrics.FORWARD_INSTANCES.labels(route.peer.called_ae, "sent").inc(len(done))
            metrics.FORWARD_INSTANCES.labels(route.peer.called_ae, "put off").inc(len(later))
        return not later and not stopping.is_set()

    def _present(self, parcels: Sequence[Parcel]) -> Sequence[Instance]:
        """The instances that are still there."""
        found: list[Instance] = []
        for parcel in parcels:
            with contextlib.suppress(NotFound):
                found += self.session.instances(parcel.scope)
        return found

    def _send_all(self, route: Route, instances: Sequence[Instance], done: set[str], stopping: threading.Event) -> None:
        """Send them over as many associations as that takes; ``done`` gets the UIDs of what the peer has taken."""
        for encodings, contexts in proposals(Counter(map(encoding_of, instances))):
            pending = iter([instance for instance in instances if encoding_of(instance) in encodings])
            try:
                while self._send_over_one(route, contexts, pending, done, stopping):
                    logger.warning("forward.associates_again", extra={"address": route.peer.host})
            except (OSError, RejectedError, ConnectionEndedError) as error:
                reason = error.reason if isinstance(error, RejectedError | ConnectionEndedError) else "not reachable"
                logger.warning("forward.peer_lost", extra={"reason": reason, "address": route.peer.host})
                return

    def _send_over_one(
        self,
        route: Route,
        contexts: Sequence[Proposed],
        pending: Iterator[Instance],
        done: set[str],
        stopping: threading.Event,
    ) -> bool:
        """Send what is pending over one association; whether another one is needed, as one could not be read."""
        with requested(route.peer, contexts, limits_within(_PEER_SECONDS)) as found:
            sender = Sender(found.association, convert=converter(self.transcoder, self.session))
            for instance in pending:
                if stopping.is_set():
                    return False
                try:
                    is_taken = self._is_taken(sender, instance)
                except GatewayError:  # in the middle of a message, which nothing can follow
                    logger.exception("forward.unreadable")
                    found.abort()
                    return True
                if is_taken:
                    done.add(instance.sop_instance_uid)
        return False

    def _is_taken(self, sender: Sender, instance: Instance) -> bool:
        try:
            with self.session.open(instance) as stored:
                status = sender.send(stored)
        except NoContextError:
            logger.warning("forward.refused", extra={"reason": "the peer takes no such instance"})
            return False
        if status == SUCCESS or status in _WARNINGS:
            return True
        logger.warning("forward.refused", extra={"status": status})
        return False


def _pause(attempts: int) -> int:
    """Seconds until the next attempt, after so many: ten, then twice as long each time, an hour at most."""
    return int(min(_FIRST_RETRY_SECONDS << min(attempts, 16), _LAST_RETRY_SECONDS))
