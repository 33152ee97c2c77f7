"""Storage commitment as SCP: N-ACTION is kept durably, then success is said; the report follows. PS3.4 §J.3.2

Where the association comes to rest, the report goes over it, for many requestors wait there; one that releases gets it
over another (SC4, see ``gateway.dimse.reporting``).
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from gateway import metrics
from gateway.dimse.command import Element, MalformedCommandError
from gateway.dimse.contexts import Context
from gateway.dimse.references import read_request
from gateway.dimse.reporting import WELL_KNOWN_INSTANCE, Reporter
from gateway.dimse.status import (
    INVALID_ARGUMENT,
    NO_SUCH_ACTION,
    NO_SUCH_CLASS,
    NO_SUCH_INSTANCE,
    RESOURCE_LIMITATION,
    SUCCESS,
    Reply,
    action_reply,
    attempt,
)
from gateway.dimse.storage_scp import Reception
from gateway.dimse.upper_layer import Association, Request, discard
from gateway.session import Session
from storage.commitment import Commitment
from storage.errors import GatewayError, TooLarge
from storage.filemeta import Announcement
from storage.model import Source
from storage.spool import Spool

logger = logging.getLogger(__name__)

QUIET_SECONDS = 1.0
"""Silence after which an association has come to rest; a requestor that will not wait has released it by then."""
_LEFT_ALONE_SECONDS = 10
_REQUEST_STORAGE_COMMITMENT = 1
_LARGE_BYTES = 1 << 20
_LAST_MESSAGE_ID = 0xFFFF


@dataclass(frozen=True, slots=True)
class _Waiting:
    """A request of this association that nobody has told the answer of yet. due: when somebody else will."""

    context: Context
    is_large: bool
    due: int


@dataclass(slots=True)
class CommitmentService:
    """Storage commitment over one association. maximum_bytes: of the Data Set of a request."""

    session: Session
    source: Source
    reporter: Reporter
    maximum_bytes: int
    waiting: dict[str, _Waiting] = field(default_factory=dict)
    _message_id: int = 0

    def take(self, association: Association, request: Request) -> Reply:
        """Receive an N-ACTION and keep what it asks for; success means that it is durable (SC1).

        Raises ConnectionEndedError when the peer goes away. PS3.7 §10.1.4, PS3.4 §J.3.2.1
        """
        reply = _refusal(request)
        try:
            if reply is None:
                reply = self._receive(association, request)
            elif request.has_data_set:
                association.receive_data_set(request, discard, self.maximum_bytes)
        except TooLarge:
            reply = Reply(RESOURCE_LIMITATION, comment="The Data Set is too long", ends_association=True)
        if reply.status != SUCCESS:
            metrics.COMMITMENTS.labels(self.source.door, "refused").inc()
        return reply

    def _receive(self, association: Association, request: Request) -> Reply:
        announcement = Announcement(
            request.context.abstract_syntax, WELL_KNOWN_INSTANCE, request.context.transfer_syntax
        )
        opened = attempt(lambda: self.session.spool(announcement), action_reply)
        if isinstance(opened, Reply):
            association.receive_data_set(request, discard, self.maximum_bytes)
            return opened
        with opened as spool:
            reception = Reception(spool)
            association.receive_data_set(request, reception, self.maximum_bytes)
            if reception.failure is not None:
                return action_reply(reception.failure)
            return attempt(lambda: self._ask(spool, request.context), action_reply)

    def _ask(self, spool: Spool, context: Context) -> Reply:
        spool.finish()
        is_large = spool.size_bytes > _LARGE_BYTES
        with self.reporter.reading if is_large else contextlib.nullcontext():
            transaction_uid, references = read_request(
                spool.data_set,
                spool.data_set_offset,
                context.transfer_syntax,
                self.session.commitment_references_maximum,
            )
            now = self.reporter.now()
            due = now + _LEFT_ALONE_SECONDS
            self.session.ask(Commitment(transaction_uid, references, self.source, now), due)
        self.waiting[transaction_uid] = _Waiting(context, is_large, due)
        return Reply(SUCCESS)

    def tell(self, association: Association, interject: Callable[[Request], None]) -> None:
        """Tell a peer that is quiet what it waits for, but for large ones while another of them is told.

        interject: answers a request that comes first. Raises ConnectionEndedError.
        """
        for transaction_uid, one in list(self.waiting.items()):
            with self._turn(one) as is_ours:
                if not is_ours:
                    continue
                del self.waiting[transaction_uid]
                self._message_id = self._message_id % _LAST_MESSAGE_ID + 1
                try:
                    self.reporter.tell_over(
                        association, one.context, transaction_uid, self._message_id, one.due, interject
                    )
                except GatewayError as error:  # it is due later, for whoever can
                    logger.warning("commitment.put_off", extra={"reason": error.reason})

    @contextlib.contextmanager
    def _turn(self, one: _Waiting) -> Iterator[bool]:
        if not one.is_large:
            yield True
            return
        is_ours = self.reporter.telling.acquire(blocking=False)
        try:
            yield is_ours
        finally:
            if is_ours:
                self.reporter.telling.release()

    def leave(self) -> None:
        """The association is over: what it was not told is due over another one."""
        for transaction_uid, one in self.waiting.items():
            with contextlib.suppress(GatewayError):  # then it is due a little later
                self.reporter.hand_over(transaction_uid, one.due)
        self.waiting.clear()


def _refusal(request: Request) -> Reply | None:
    """Why a request will not be heeded, as far as the command tells. PS3.7 §10.1.4.1.10"""
    if request.command.sop_class_uid != request.context.abstract_syntax:
        comment = "The SOP Class is not that of the presentation context"
        return Reply(NO_SUCH_CLASS, Element.REQUESTED_SOP_CLASS_UID, comment)
    if request.command.sop_instance_uid != WELL_KNOWN_INSTANCE:
        return Reply(NO_SUCH_INSTANCE, Element.REQUESTED_SOP_INSTANCE_UID, "It is not the well-known SOP Instance")
    try:
        action = request.command.number(Element.ACTION_TYPE_ID)
    except MalformedCommandError:
        action = 0
    if action != _REQUEST_STORAGE_COMMITMENT:
        return Reply(NO_SUCH_ACTION, Element.ACTION_TYPE_ID, "The action is not that of storage commitment")
    if not request.has_data_set:
        return Reply(INVALID_ARGUMENT, comment="There is no Data Set")
    return None
