"""Delivery: webhooks are told of changes, each in the order of the feed and at least once.

How far each was told is kept in the index, so that it outlives the gateway, and of several gateways over one database
one tells it at a time. What cannot be delivered is tried again after five seconds, then after twice as long, up to an
hour; what comes behind it waits. It is laid aside when its receiver refuses it a number of times, or when it has become
so old while nothing could be delivered; then the next is told. Operators list it, have it tried again, or drop it.
"""

from __future__ import annotations

import datetime as dt
import ipaddress
import logging
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from gateway import metrics
from gateway.outbound import Network, UnreachableError, post
from gateway.session import Session
from gateway.webhooks import Webhook, message_of
from storage.model import Change, Subscriber

logger = logging.getLogger("gateway.delivery")

AT_ONCE = 100
"""Changes of one message."""
_LOOKED_AT = 1000
_LOOK_SECONDS = 1.0
_AFTER_FAILURE_SECONDS = 10.0
_FIRST_RETRY_SECONDS, _LAST_RETRY_SECONDS = 5, 3600
_RESOLVING_SECONDS = 120
_HTTP_OK, _HTTP_MULTIPLE, _HTTP_SERVER_ERROR = 200, 300, 500
_NOT_NOW = frozenset((408, 425, 429))


@dataclass(frozen=True, slots=True)
class Patience:
    """How long a webhook is waited for: for one answer; refusals of one message; until it is so old, for all else.

    networks: addresses that are allowed beside public ones.
    """

    answer_seconds: float
    refusals: int
    age_seconds: int
    networks: tuple[Network, ...]

    @classmethod
    def of(cls, answer_seconds: float, refusals: int, age_seconds: int, networks: Sequence[str]) -> Patience:
        """As settings have it."""
        return cls(
            answer_seconds, refusals, age_seconds, tuple(ipaddress.ip_network(one, strict=False) for one in networks)
        )


@dataclass(frozen=True, slots=True)
class Failure:
    """Why a message was not taken. is_refusal: the receiver is there, and will not have it."""

    reason: str
    is_refusal: bool = False
    retry_seconds: int = 0


class Courier:
    """Tells one webhook, in a thread of its own, so that none waits for another.

    session: what it reads the feed by. clock: seconds since 1970; of the machine, as the places of subscribers are
    shared between processes. Raises ValueError for a secret that cannot be had.
    """

    def __init__(
        self, webhook: Webhook, session: Session, patience: Patience, *, clock: Callable[[], float] = time.time
    ) -> None:
        self.webhook = webhook
        self._keys = [secret.key() for secret in webhook.secrets]
        self._session = session
        self._patience = patience
        self._clock = clock
        self._held_seconds = int(patience.answer_seconds) + _RESOLVING_SECONDS

    def run(self, stopping: threading.Event) -> None:
        """Tell what there is, and look for more, until ``stopping``. Whatever fails is tried again."""
        pause = 0.0
        while not stopping.wait(pause):
            try:
                pause = 0.0 if self.tell() or self.tell_again() else _LOOK_SECONDS
                self._note()
            except Exception:  # the thread is to live, whatever a receiver or the index does to it
                logger.exception("webhook.broken", extra={"hook": self.webhook.name})
                pause = _AFTER_FAILURE_SECONDS

    def tell(self) -> bool:
        """Tell of the next changes, if it is time for that; whether there may be more."""
        now = int(self._clock())
        known = self._session.subscribers.find(self.webhook.name)
        if known.due > now:
            return False
        changes = self._session.changes(known.sequence, _LOOKED_AT)
        if not changes:
            return False
        wanted, until = self._stretch(changes, known.until_sequence)
        if not wanted:
            return self._session.subscribers.skip(known, until)
        taken = self._session.subscribers.take(known, until, now + self._held_seconds)
        if taken is None:
            return False
        failure = self._send(wanted)
        if failure is None:
            self._session.subscribers.told(taken)
            return True
        return self._failed(taken, wanted[0], failure)

    def _stretch(self, changes: Sequence[Change], until: int) -> tuple[Sequence[Change], int]:
        """Those to be told of in one message, and the change up to which that says all; until: said before, or 0."""
        if until:
            changes = [change for change in changes if change.sequence <= until]
        wanted = [change for change in changes if change.kind in self.webhook.kinds]
        if len(wanted) > AT_ONCE:
            return wanted[:AT_ONCE], wanted[AT_ONCE - 1].sequence
        return wanted, changes[-1].sequence if changes else until

    def _failed(self, taken: Subscriber, first: Change, failure: Failure) -> bool:
        """Put it off, or lay it aside; whether what comes behind it may be told now."""
        now = int(self._clock())
        aged = min(now - _seconds_of(first.changed_at), now - (taken.failing_since or now))
        is_refused = failure.is_refusal and taken.refusals + 1 >= self._patience.refusals
        if is_refused or aged >= self._patience.age_seconds:
            self._session.subscribers.give_up(taken, failure.reason, now)
            metrics.WEBHOOK_MESSAGES.labels(self.webhook.name, "given_up").inc()
            logger.error("webhook.given_up", extra={"hook": self.webhook.name, "attempt": taken.attempts})
            return True
        pause = max(
            min(_FIRST_RETRY_SECONDS << min(taken.attempts - 1, 16), _LAST_RETRY_SECONDS), failure.retry_seconds
        )
        self._session.subscribers.put_off(taken, now, now + pause, is_refused=failure.is_refusal)
        return False

    def tell_again(self) -> bool:
        """Tell of something that was laid aside and is to be tried once more; whether there may be more."""
        now = int(self._clock())
        taken = self._session.subscribers.take_again(self.webhook.name, now, now + self._held_seconds)
        if taken is None:
            return False
        place, failure = taken.after_sequence, None
        while place < taken.until_sequence and failure is None:
            limit = min(_LOOKED_AT, taken.until_sequence - place)
            changes = self._session.changes(place, limit)
            wanted, place = self._stretch(changes, taken.until_sequence)
            failure = self._send(wanted) if wanted else None
        self._session.subscribers.settle(taken, failure.reason if failure else "")
        return True

    def _send(self, changes: Sequence[Change]) -> Failure | None:
        """Send one message; why it was not taken, or None."""
        message = message_of(self.webhook.name, changes)
        headers = message.headers(int(time.time()), self._keys)
        failure: Failure | None
        try:
            answered = post(
                self.webhook.target,
                message.body,
                headers,
                networks=self._patience.networks,
                seconds=self._patience.answer_seconds,
            )
            failure = _failure_of(answered.status, answered.retry_seconds)
        except UnreachableError as error:
            failure = Failure(error.reason)
        outcome = "delivered" if failure is None else "refused" if failure.is_refusal else "failed"
        metrics.WEBHOOK_MESSAGES.labels(self.webhook.name, outcome).inc()
        if failure is not None:
            logger.warning("webhook.failed", extra={"hook": self.webhook.name, "reason": failure.reason})
        return failure

    def _note(self) -> None:
        """Say how far behind it is."""
        name = self.webhook.name
        known = self._session.subscribers.find(name)
        metrics.WEBHOOK_BEHIND.labels(name).set(self._session.latest() - known.sequence)
        failing = int(self._clock()) - known.failing_since if known.failing_since else 0
        metrics.WEBHOOK_FAILING_SECONDS.labels(name).set(failing)
        metrics.WEBHOOK_UNDELIVERED.labels(name).set(self._session.subscribers.count_undelivered(name))


def _failure_of(status: int, retry_seconds: int) -> Failure | None:
    """What a status means: a redirection is a refusal, as none is followed, and so is what is said to be our fault."""
    if _HTTP_OK <= status < _HTTP_MULTIPLE:
        return None
    is_refusal = _HTTP_MULTIPLE <= status < _HTTP_SERVER_ERROR and status not in _NOT_NOW
    return Failure(f"status {status}", is_refusal=is_refusal, retry_seconds=retry_seconds)


def _seconds_of(changed_at: str) -> int:
    return int(dt.datetime.fromisoformat(changed_at).timestamp())
