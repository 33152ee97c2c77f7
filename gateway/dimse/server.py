"""The AE: accepts connections, decides who may associate, runs each association in its own thread, drains on stop.

One thread per connection reads with deadlines; nothing polls. Neither pynetdicom's threads nor its queues stand
between a peer and the archive; it is the reference the tests compare with, and the client of later services (D12).
"""

from __future__ import annotations

import logging
import os
import select
import socket
import ssl
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from gateway import logs, metrics
from gateway.dimse import commitment_scp, query_scp, requestor, retrieve_scp, storage_scp
from gateway.dimse.admission import Admission
from gateway.dimse.associate import (
    APPLICATION_CONTEXT_NAME,
    MalformedAssociateError,
    Proposal,
    decode_request,
    encode_abort,
    encode_acceptance,
    encode_rejection,
)
from gateway.dimse.command import RESPONSE, Element, Field
from gateway.dimse.connection import ClosedError, Connection, ConnectionEndedError, DeadlineError, DrainingError
from gateway.dimse.contexts import Service, negotiate, scp_roles
from gateway.dimse.limits import DimseLimits
from gateway.dimse.models import negotiate_extended
from gateway.dimse.reporting import Reporter
from gateway.dimse.status import SUCCESS, UNRECOGNISED_OPERATION, Reply
from gateway.dimse.upper_layer import (
    NOT_SPECIFIED,
    PROVIDER,
    AbortedError,
    Association,
    ReleasedError,
    Request,
    ViolationError,
    discard,
    read_associate_request,
)
from gateway.security.actor import Actor
from gateway.session import Session
from gateway.transcoding import Transcoder
from storage.errors import TooLarge
from storage.ledger import CONNECTION_LOST, Account
from storage.model import Source

logger = logging.getLogger(__name__)

_LAST_SECONDS = 3.0
_ACCEPT_PAUSE_SECONDS = 0.05


_LIMITS = {
    "evicted": "L1",
    "too many associations": "L1",
    "handshake deadline": "L2",
    "association deadline": "L2",
    "PDU too long": "L3",
    "invalid PDU length": "L4",
    "idle": "L5",
    "too slow": "L5",
    "unread": "L5",
    "end of life": "L5",
    "instance too large": "L6",
}
"""The limit behind a reason, by its id in the documents."""


def _count_refusal(reason: str) -> None:
    metrics.DIMSE_REJECTS.labels(reason).inc()
    if reason in _LIMITS:
        metrics.LIMITS_HIT.labels(_LIMITS[reason]).inc()


@dataclass(frozen=True, slots=True)
class Peer:
    """Who asks for an association: AE titles as sent, and where from."""

    calling_ae: str
    called_ae: str
    address: str


def any_peer(peer: Peer) -> Actor | None:
    """The policy of a listener that only reaches trusted peers: every calling AE may use every verb."""
    return Actor("peer", peer.calling_ae)


@dataclass(frozen=True, slots=True)
class _Rejection:
    """An A-ASSOCIATE-RJ: result, source, reason, and the word for log and metric. PS3.8 Table 9-21"""

    result: int
    source: int
    diagnostic: int
    reason: str


_PROTOCOL_VERSION = _Rejection(1, 2, 2, "protocol version")
_APPLICATION_CONTEXT = _Rejection(1, 1, 2, "application context")
_CALLED_AE = _Rejection(1, 1, 7, "called AE title")
_CALLING_AE = _Rejection(1, 1, 3, "calling AE title")
_LIMIT = _Rejection(2, 3, 2, "too many associations")
_STOPPING = _Rejection(2, 3, 1, "stopping")


class DimseServer:
    """A DIMSE listener on a bound socket, which it owns from then on.

    sessions: makes the Session of an Actor, once for each association. peers: who may associate, and as whom; None
    refuses. called_ae_is_checked: reject requests for another AE title. destinations: of C-MOVE, and of reports of
    storage commitment, by AE title; ``reporter`` is to be run for these. clock: as of ``Reporter``.
    transcoder: for peers that do not take what is stored; None sends them nothing that has to be decoded. tls: of the
    listener, None for plain TCP.
    """

    def __init__(
        self,
        listener: socket.socket,
        ae_title: str,
        limits: DimseLimits,
        sessions: Callable[[Actor], Session],
        *,
        peers: Callable[[Peer], Actor | None] = any_peer,
        called_ae_is_checked: bool = False,
        destinations: Mapping[str, requestor.Peer] | None = None,
        transcoder: Transcoder | None = None,
        tls: ssl.SSLContext | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._listener = listener
        self._ae_title = ae_title
        self._limits = limits
        self._sessions = sessions
        self._peers = peers
        self._called_ae_is_checked = called_ae_is_checked
        self._destinations = destinations or {}
        self._transcoder = transcoder
        self._tls = tls
        self.reporter = Reporter(sessions(Actor("operator", "commitment")), self._destinations, ae_title, clock=clock)
        self._admission = Admission(limits)
        self._stopping = threading.Event()
        self._stopped_fd, self._stop_fd = os.pipe()
        self._attended = threading.Condition()
        self._attending = 0
        self._is_serving = False

    # Life of the listener

    def serve(self) -> None:
        """Accept connections until ``stop``. Call once."""
        self._count(serving=True)
        try:
            self._accept_until_stopped()
        finally:
            self._listener.close()
            self._count(serving=False)

    def _accept_until_stopped(self) -> None:
        listener = self._listener
        listener.setblocking(False)
        listener.listen(min(socket.SOMAXCONN, 1024))
        waiting = select.poll()
        waiting.register(listener, select.POLLIN)
        waiting.register(self._stopped_fd, select.POLLIN)
        while not self._stopping.is_set():
            waiting.poll()
            if not self._stopping.is_set():
                self._accept()

    def _accept(self) -> None:
        try:
            accepted, address = self._listener.accept()
        except (BlockingIOError, ConnectionError):
            return
        except OSError:
            logger.warning("dimse.listener.exhausted")
            time.sleep(_ACCEPT_PAUSE_SECONDS)
            return
        try:
            connection = Connection(accepted, str(address[0]), self._stopped_fd, self._limits.send_seconds)
        except OSError:
            accepted.close()
            return
        if self._admission.enter(connection):
            _count_refusal("evicted")
        if self._stopping.is_set():
            connection.interrupt()
        self._count(1)
        try:
            threading.Thread(target=self._attend, args=(connection,), name="dimse-association", daemon=True).start()
        except RuntimeError:
            logger.warning("dimse.listener.exhausted")
            self._admission.leave(connection)
            connection.close()
            self._count(-1)

    def _count(self, attending: int = 0, *, serving: bool | None = None) -> None:
        """Keep count of what ``stop`` has to wait for."""
        with self._attended:
            self._attending += attending
            self._is_serving = self._is_serving if serving is None else serving
            self._attended.notify_all()

    def _wait_until_idle(self, seconds: float) -> bool:
        with self._attended:
            return self._attended.wait_for(lambda: self._attending == 0 and not self._is_serving, seconds)

    def stop(self, seconds: float) -> None:
        """Stop accepting, let messages under way be answered for up to ``seconds``, then abort what is left.

        Callable from any thread; returns when every association has ended.
        """
        if self._stopping.is_set():
            return
        self._stopping.set()
        self._admission.interrupt_pending()  # first: who is idle parts at the next line, and says farewell
        os.write(self._stop_fd, b"\0")
        if not self._wait_until_idle(seconds):
            self._admission.interrupt_all()
        if self._wait_until_idle(_LAST_SECONDS):
            os.close(self._stop_fd)
            os.close(self._stopped_fd)

    # Life of a connection

    def _attend(self, connection: Connection) -> None:
        """Serve one connection from accept to close, in its own thread."""
        try:
            conversation = self._establish(connection)
            if conversation is not None:
                conversation.run()
        except ConnectionEndedError as end:
            self._bid_farewell(connection, end)
        finally:
            self._admission.leave(connection)
            connection.close()
            self._count(-1)

    def _establish(self, connection: Connection) -> _Conversation | None:
        limits = self._limits
        accepted_at = time.monotonic()
        end = accepted_at + limits.establishment_seconds
        if self._tls is not None:
            connection.secure(self._tls, min(end, accepted_at + limits.tls_handshake_seconds))
        pdu = read_associate_request(connection, limits, min(end, time.monotonic() + limits.associate_seconds))
        try:
            proposal = decode_request(pdu)
        except MalformedAssociateError as error:
            raise ViolationError("malformed association request") from error
        peer = Peer(proposal.calling_ae, proposal.called_ae, connection.address)
        rejection = self._objection(proposal)
        actor = None
        if rejection is None:
            actor = self._peers(peer)
            if actor is None:
                rejection = _CALLING_AE
            elif self._stopping.is_set():
                rejection = _STOPPING
            elif not self._admission.establish(connection, proposal.calling_ae):
                rejection = _LIMIT
        if rejection is not None or actor is None:
            self._reject(connection, rejection or _CALLING_AE)
            return None
        session = self._sessions(actor)
        source = Source("dimse", peer.calling_ae, peer.address)
        results = negotiate(proposal.contexts, session.policy(source), proposal.scp_roles)
        association = Association(connection, results, proposal.maximum_length, limits)
        extended, answered = negotiate_extended(proposal.extended)
        connection.enlarge()
        roles = scp_roles(proposal.scp_roles, results)
        connection.send(encode_acceptance(pdu, results, limits.pdu_maximum_bytes, answered, sorted(roles)))
        queries = query_scp.QueryService(self._ae_title, limits, extended)
        retrievals = retrieve_scp.RetrieveService(
            limits, peer.calling_ae, extended, roles, self._destinations, self._transcoder
        )
        commitments = commitment_scp.CommitmentService(session, source, self.reporter, limits.commitment_maximum_bytes)
        account = session.account(source, peer.called_ae)
        return _Conversation(association, session, account, limits, queries, retrievals, commitments)

    def _objection(self, proposal: Proposal) -> _Rejection | None:
        if not proposal.protocol_version & 1:
            return _PROTOCOL_VERSION
        if proposal.application_context != APPLICATION_CONTEXT_NAME:
            return _APPLICATION_CONTEXT
        if self._called_ae_is_checked and proposal.called_ae != self._ae_title:
            return _CALLED_AE
        if not _is_ae_title(proposal.calling_ae):
            return _CALLING_AE
        return None

    def _reject(self, connection: Connection, rejection: _Rejection) -> None:
        _count_refusal(rejection.reason)
        logger.warning("dimse.association.rejected", extra={"reason": rejection.reason, "address": connection.address})
        connection.send_last(encode_rejection(rejection.result, rejection.source, rejection.diagnostic))

    def _bid_farewell(self, connection: Connection, end: ConnectionEndedError) -> None:
        """One log line for a connection that ended before or in an association, and A-ABORT where one is due."""
        is_known = self._admission.part(connection)
        reason = end.reason if is_known else "evicted"
        is_ordinary = isinstance(end, (ReleasedError, DrainingError, AbortedError, ClosedError)) or not is_known
        logger.log(
            logging.DEBUG if is_ordinary else logging.WARNING,
            "dimse.connection.ended",
            extra={"reason": reason, "address": connection.address, "bytes": connection.received_bytes},
        )
        if isinstance(end, (ReleasedError, AbortedError, ClosedError)) or not is_known:
            return
        if not is_ordinary:
            _count_refusal(end.reason)
        abort = end.abort if isinstance(end, ViolationError) else NOT_SPECIFIED
        if abort is not None:
            connection.send_last(encode_abort(PROVIDER, abort))


def _is_ae_title(title: str) -> bool:
    """Whether it is a title of the default repertoire, without backslash and control characters. PS3.5 §6.2"""
    return 0 < len(title) <= 16 and title.isascii() and title.isprintable() and "\\" not in title


def _ending(end: ConnectionEndedError) -> str:
    """How an association ended, and by whom, for the ledger."""
    if isinstance(end, (ReleasedError, AbortedError)):
        return end.reason
    if isinstance(end, ClosedError):
        return CONNECTION_LOST
    return f"{'timed out' if isinstance(end, DeadlineError) else 'aborted by us'}: {end.reason}"


class _Conversation:
    """The messages of one association, one after the other, each answered by the service it belongs to."""

    def __init__(
        self,
        association: Association,
        session: Session,
        account: Account,
        limits: DimseLimits,
        queries: query_scp.QueryService,
        retrievals: retrieve_scp.RetrieveService,
        commitments: commitment_scp.CommitmentService,
    ) -> None:
        self._association = association
        self._session = session
        self._account = account
        self._limits = limits
        self._queries = queries
        self._retrievals = retrievals
        self._commitments = commitments

    def run(self) -> None:
        """Answer messages until the association ends; raises the ConnectionEndedError that says how."""
        started = time.monotonic()
        count = 0
        metrics.DIMSE_ASSOCIATIONS.inc()
        reason = ending = "error"
        try:
            while True:
                self._answer(self._next_request())
                count += 1
        except ConnectionEndedError as end:
            reason, ending = end.reason, _ending(end)
            raise
        finally:
            self._commitments.leave()
            self._account.close(ending)
            metrics.DIMSE_ASSOCIATIONS.dec()
            seconds = time.monotonic() - started
            extra = {
                "reason": reason,
                "count": count,
                "ms": round(seconds * 1000),
                "address": self._account.source.address,
            }
            logger.info("dimse.association.ended", extra=extra)

    def _next_request(self) -> Request:
        """The next request; when none comes for a moment, what was asked for by storage commitment is told first."""
        while self._commitments.waiting:
            try:
                return self._association.next_request(commitment_scp.QUIET_SECONDS)
            except DeadlineError as error:
                if error.reason != "idle":
                    raise
            self._commitments.tell(self._association, self._answer)
        return self._association.next_request()

    def _answer(self, request: Request) -> None:
        field = request.command.number(Element.COMMAND_FIELD)
        if field == Field.C_CANCEL:
            return
        if field & RESPONSE:
            raise ViolationError("response without request")
        logs.request_id.set(logs.new_request_id())
        started = time.monotonic()
        reply = _SERVICES.get((request.context.service, field), _Conversation.unknown)(self, request)
        self._association.respond(
            request,
            reply.status,
            offending_element=reply.offending_element,
            comment=reply.comment,
            counts=reply.counts,
            data_set=reply.data_set,
        )
        name = _NAMES.get(field, "other")
        metrics.DIMSE_REQUESTS.labels(name, f"{reply.status:04X}").inc()
        metrics.DIMSE_SECONDS.labels(name).observe(time.monotonic() - started)
        if reply.status != SUCCESS and not reply.is_usual:
            extra = {"command": name, "status": f"{reply.status:04X}", "reason": reply.comment}
            logger.warning("dimse.request.refused", extra=extra)
        if reply.ends_association:
            raise ViolationError("instance too large", NOT_SPECIFIED)

    def echo(self, request: Request) -> Reply:
        if request.has_data_set:
            self._discard_data_set(request)
        return Reply(SUCCESS)

    def store(self, request: Request) -> Reply:
        return storage_scp.store(
            self._association, request, self._session, self._account, self._limits.instance_maximum_bytes
        )

    def find(self, request: Request) -> Reply:
        return query_scp.find(self._association, request, self._session, self._queries)

    def retrieve(self, request: Request) -> Reply:
        return retrieve_scp.retrieve(self._association, request, self._session, self._retrievals)

    def commit(self, request: Request) -> Reply:
        return self._commitments.take(self._association, request)

    def unknown(self, request: Request) -> Reply:
        if request.has_data_set:
            self._discard_data_set(request)
        return Reply(UNRECOGNISED_OPERATION, comment="The operation is not supported in this context")

    def _discard_data_set(self, request: Request) -> None:
        try:
            self._association.receive_data_set(request, discard, self._limits.identifier_maximum_bytes)
        except TooLarge as error:
            raise ViolationError("Data Set too long") from error


# Unbound: a conversation that referred to itself would keep its buffer until the next search for cycles.
_SERVICES: dict[tuple[Service, int], Callable[[_Conversation, Request], Reply]] = {
    (Service.VERIFICATION, Field.C_ECHO): _Conversation.echo,
    (Service.STORAGE, Field.C_STORE): _Conversation.store,
    (Service.QUERY, Field.C_FIND): _Conversation.find,
    (Service.MOVE, Field.C_MOVE): _Conversation.retrieve,
    (Service.GET, Field.C_GET): _Conversation.retrieve,
    (Service.COMMITMENT, Field.N_ACTION): _Conversation.commit,
}

_NAMES: dict[int, str] = {
    field: field.name.replace("_", "-")
    for field in (Field.C_STORE, Field.C_FIND, Field.C_MOVE, Field.C_GET, Field.C_ECHO, Field.N_ACTION)
}
