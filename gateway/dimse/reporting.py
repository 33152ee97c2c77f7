"""Reports of storage commitment: what was asked by N-ACTION is looked at, and told by N-EVENT-REPORT. PS3.4 §J.3.3

Over the association that asked, if it is still open and has come to rest; else over one of our own to the peer's
address in the settings, where we are the SCP; and again while the peer is away, for two days. What is still to be told
is in the index, so that it outlives the gateway. Each report says what is true when it is made: a peer that was away
for a day might delete what has been lost meanwhile.

Requests over HTTP that could not be answered at once are answered here, too.
"""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from array import array
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TypeVar

from gateway import metrics
from gateway.dimse import command
from gateway.dimse.command import RESPONSE, Element, Field
from gateway.dimse.connection import ConnectionEndedError
from gateway.dimse.contexts import COMMITMENT_PUSH_MODEL, Context, Proposed, Service, service_of
from gateway.dimse.references import write_report
from gateway.dimse.requestor import Peer, RejectedError, limits_within, requested, why_lost
from gateway.dimse.status import SUCCESS
from gateway.dimse.upper_layer import Association, Request, ViolationError, discard
from gateway.session import Session
from storage.commitment import Commitment, Reason
from storage.errors import GatewayError, TooLarge
from storage.uids import EXPLICIT_VR_LITTLE_ENDIAN, IMPLICIT_VR_LITTLE_ENDIAN

logger = logging.getLogger(__name__)

WELL_KNOWN_INSTANCE = "1.2.840.10008.1.20.1.1"
"""The only instance of the SOP Class. PS3.4 §J.3.5"""
PAUSES_SECONDS = (60, 300, 900, 3600)
"""Until the next attempt, after the first, the second, and so on; the last one from then on."""
GIVE_UP_SECONDS = 48 * 3600
_HELD_SECONDS, _RENEWED_SECONDS = 120, 30
_LOOK_SECONDS = 1.0
_AFTER_FAILURE_SECONDS = 10.0
_ALL_COMMITTED, _SOME_FAILED = 1, 2  # Event Type IDs
_LIMITS = replace(limits_within(60.0), associate_seconds=10.0)
_WARNINGS = (0x0107, 0x0116)
_EVENT_REPLY_BYTES = 64 * 1024
_PROPOSED = (Proposed(1, COMMITMENT_PUSH_MODEL, (EXPLICIT_VR_LITTLE_ENDIAN, IMPLICIT_VR_LITTLE_ENDIAN)),)
_DIMSE = "dimse"
_Value = TypeVar("_Value")
_NO_ADDRESS = "the calling AE title is none of dimse.peers"


class _StoppedError(Exception):
    """The gateway stops; what was begun is done again."""


class Reporter:
    """Answers what is due, one after the other, in a thread of its own; and for associations that are still open.

    peers: by AE title. ae_title: ours. clock: seconds since 1970; of the machine, as requests are shared between
    processes. telling, reading: held by whoever tells or reads a large one, of which memory for one is enough.
    """

    def __init__(
        self, session: Session, peers: Mapping[str, Peer], ae_title: str, *, clock: Callable[[], float] = time.time
    ) -> None:
        self._session = session
        self._peers = peers
        self._ae_title = ae_title
        self._clock = clock
        self._not_before: dict[str, float] = {}
        self.telling = threading.Lock()
        self.reading = threading.Lock()

    def now(self) -> int:
        """The moment, in seconds since 1970."""
        return int(self._clock())

    def run(self, stopping: threading.Event) -> None:
        """Answer what is due, until ``stopping``. Whatever fails is tried again."""
        pause = 0.0
        while not stopping.wait(pause):
            try:
                pause = 0.0 if self.step(stopping) else _LOOK_SECONDS
            except Exception:  # the thread is to live, whatever a peer or an object does to it
                logger.exception("commitment.failed")
                pause = _AFTER_FAILURE_SECONDS

    def step(self, stopping: threading.Event) -> bool:
        """Answer one request that is due; whether there was one."""
        commitments, now = self._session.commitments, self.now()
        metrics.COMMITMENTS_WAITING.set(commitments.count())
        for parcel in commitments.take(now, now + _HELD_SECONDS, 1):
            transaction_uid = parcel.scope.sop_instance_uid
            commitment = commitments.get(transaction_uid)
            if commitment is None:
                commitments.close(transaction_uid, now)
                return True
            try:
                if commitment.source.door == _DIMSE:
                    self._tell(commitment, parcel.attempts, stopping)
                else:
                    self._keep(commitment, stopping)
            except _StoppedError:
                self.put_off(transaction_uid)
            return True
        return False

    def put_off(self, transaction_uid: str, seconds: int = 0) -> None:
        """Let a request be due, for whoever comes first: now, or in some seconds."""
        self._session.commitments.put_off(transaction_uid, self.now() + seconds)

    # Over HTTP

    def _keep(self, commitment: Commitment, stopping: threading.Event) -> None:
        reasons = self._reasons(commitment, stopping)
        self._session.commitments.answer(commitment.transaction_uid, self.now(), reasons)
        metrics.note_commitment(commitment.source.door, reasons)

    # By DIMSE

    def _tell(self, commitment: Commitment, attempts: int, stopping: threading.Event) -> None:
        """Tell a peer over an association of our own."""
        title = commitment.source.calling_ae
        peer = self._peers.get(title)
        if peer is None:
            self._put_off_failed(commitment, attempts, _NO_ADDRESS)
            return
        if self._clock() < self._not_before.get(title, 0.0):
            self._put_off_failed(commitment, attempts, "the peer was away a moment ago")
            return
        reasons = self._reasons(commitment, stopping)
        try:
            with requested(peer, _PROPOSED, _LIMITS, scp_roles=frozenset((COMMITMENT_PUSH_MODEL,))) as found:
                for context in found.association.contexts.values():
                    status = self._send(found.association, context, commitment, reasons, 1)
                    break
                else:
                    raise RejectedError("it takes no reports of storage commitment")
        except (OSError, RejectedError, ConnectionEndedError) as error:
            self._not_before[title] = self._clock() + PAUSES_SECONDS[0]
            self._put_off_failed(commitment, attempts, why_lost(error))
        else:
            self._settle(commitment, attempts, reasons, status)

    def tell_over(
        self,
        association: Association,
        context: Context,
        transaction_uid: str,
        message_id: int,
        due: int,
        interject: Callable[[Request], None],
    ) -> None:
        """Tell a peer over the association that asked, unless somebody else does so already.

        due: when somebody else will. interject: answers a request of the peer that comes first. Raises
        ConnectionEndedError, after which it is due over another one at once; StorageUnavailable.
        """
        commitments = self._session.commitments
        if not commitments.claim(transaction_uid, due, self.now() + _HELD_SECONDS):
            return
        commitment = commitments.get(transaction_uid)
        assert commitment is not None, "Nothing that waits is forgotten"
        reasons = self._reasons(commitment, threading.Event())
        try:
            status = self._send(association, context, commitment, reasons, message_id, interject)
        except ConnectionEndedError:
            self.put_off(transaction_uid)
            raise
        self._settle(commitment, 0, reasons, status)

    def hand_over(self, transaction_uid: str, due: int) -> None:
        """Let a request be due at once that would be at ``due``, unless somebody has taken it."""
        self._session.commitments.claim(transaction_uid, due, self.now())

    def _reasons(self, commitment: Commitment, stopping: threading.Event) -> Sequence[int]:
        """Look at all that is referred to; meanwhile nobody else is to."""
        is_of_dimse = commitment.source.door == _DIMSE
        supported: dict[str, bool] = {}
        reasons = array("H")
        found = self._session.commit(commitment.references, "dimse" if is_of_dimse else "web")
        for reference, reason in zip(commitment.references, self._held(commitment, found), strict=True):
            if stopping.is_set():
                raise _StoppedError
            if reason is Reason.NO_SUCH_INSTANCE and is_of_dimse:
                sop_class = reference.sop_class_uid
                if sop_class not in supported:
                    supported[sop_class] = service_of(sop_class) is Service.STORAGE
                reasons.append(Reason.NO_SUCH_INSTANCE if supported[sop_class] else Reason.CLASS_NOT_SUPPORTED)
            else:
                reasons.append(reason)
        return reasons

    def _held(self, commitment: Commitment, work: Iterable[_Value]) -> Iterator[_Value]:
        """Work that may take long, and meanwhile the request is given to nobody else."""
        renewal = time.monotonic() + _RENEWED_SECONDS
        for one in work:
            yield one
            if time.monotonic() > renewal:
                with contextlib.suppress(GatewayError):  # at worst somebody else does it, too
                    self.put_off(commitment.transaction_uid, _HELD_SECONDS)
                renewal = time.monotonic() + _RENEWED_SECONDS

    def _send(
        self,
        association: Association,
        context: Context,
        commitment: Commitment,
        reasons: Sequence[int],
        message_id: int,
        interject: Callable[[Request], None] | None = None,
    ) -> int:
        """Send the report, and wait for the response; returns its status. Raises ConnectionEndedError."""
        event = _SOME_FAILED if any(reasons) else _ALL_COMMITTED
        encoded = command.event_report_request(COMMITMENT_PUSH_MODEL, WELL_KNOWN_INSTANCE, message_id, event)
        pieces = write_report(
            commitment.transaction_uid,
            commitment.references,
            reasons,
            ae_title=self._ae_title,
            transfer_syntax_uid=context.transfer_syntax,
        )
        association.request_with(context.context_id, encoded, self._held(commitment, pieces))
        while True:
            response = association.next_response()
            field = response.command.number(Element.COMMAND_FIELD)
            if field == Field.N_EVENT_REPORT | RESPONSE and response.message_id == message_id:
                return _status(association, response)
            if field & RESPONSE or interject is None:
                raise ViolationError("unexpected message")
            interject(response)

    def _settle(self, commitment: Commitment, attempts: int, reasons: Sequence[int], status: int) -> None:
        if status != SUCCESS and status not in _WARNINGS:
            self._put_off_failed(commitment, attempts, "the peer did not accept the report")
            return
        self._session.commitments.close(commitment.transaction_uid, self.now())
        self._not_before.pop(commitment.source.calling_ae, None)
        metrics.note_commitment(commitment.source.door, reasons)

    def _put_off_failed(self, commitment: Commitment, attempts: int, reason: str) -> None:
        """Try again later, or never."""
        source = commitment.source
        extra = {"reason": reason, "peer_ae": source.calling_ae, "address": source.address, "attempt": attempts + 1}
        if self.now() - commitment.requested_at >= GIVE_UP_SECONDS:
            self._session.commitments.close(commitment.transaction_uid, self.now())
            logger.error("commitment.given_up", extra=extra)
            metrics.COMMITMENTS.labels(_DIMSE, "given up").inc()
            return
        self.put_off(commitment.transaction_uid, PAUSES_SECONDS[min(attempts, len(PAUSES_SECONDS) - 1)])
        logger.warning("commitment.put_off", extra=extra)
        metrics.COMMITMENTS.labels(_DIMSE, "put off").inc()


def _status(association: Association, response: Request) -> int:
    """The status of a response, whose Event Reply nobody needs."""
    try:
        if response.has_data_set:
            association.receive_data_set(response, discard, _EVENT_REPLY_BYTES)
        return response.command.number(Element.STATUS)
    except TooLarge as error:
        raise ViolationError("Data Set too long") from error
    except command.MalformedCommandError as error:
        raise ViolationError("malformed command") from error
