"""Associations that we ask for: connecting to a peer, negotiating, and leaving it in order. PS3.8 §9

The listener's reader does the reading, so its limits hold here too: whatever the peer sends is capped in bytes and
seconds. pynetdicom as SCU buffers answers and PDUs without bound, and ends its thread with a traceback when a
Command Set makes no sense.
"""

from __future__ import annotations

import contextlib
import os
import socket
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from gateway.dimse import associate
from gateway.dimse.connection import Connection, ConnectionEndedError, DeadlineError
from gateway.dimse.contexts import ACCEPTED, Context, Proposed, Result, service_of
from gateway.dimse.limits import DimseLimits
from gateway.dimse.upper_layer import ASSOCIATE_REJECT, Association, ViolationError, read_associate_answer

FAREWELL_SECONDS = 2.0
_USER = 0
_REJECTIONS = {
    (1, 1): "without a reason",
    (1, 2): "the application context is not supported",
    (1, 3): "the calling AE title is not known there",
    (1, 7): "the called AE title is not known there",
    (2, 1): "without a reason",
    (2, 2): "the protocol version is not supported",
    (3, 1): "it is congested",
    (3, 2): "its limit is reached",
}
"""By source and reason. PS3.8 Table 9-21"""


@dataclass(frozen=True, slots=True)
class Peer:
    """Where to connect, and the AE titles of both sides."""

    host: str
    port: int
    called_ae: str
    calling_ae: str


class RejectedError(Exception):
    """The peer does not want the association, or nothing of what was proposed; ``reason`` is a phrase of ours."""

    def __init__(self, reason: str) -> None:
        self.reason = reason
        super().__init__(reason)


@dataclass(slots=True)
class Requested:
    """An association with a peer that accepted it.

    extended: the application information it answered, by SOP Class. is_over: set by whoever left the association.
    """

    association: Association
    extended: Mapping[str, bytes]
    _connection: Connection
    is_over: bool = field(default=False)

    def release(self) -> None:
        """Leave in order, with nothing under way; how a peer fails to says nothing about what went before."""
        if not self.is_over:
            self.is_over = True
            try:
                self.association.release(FAREWELL_SECONDS)
            except ConnectionEndedError as error:
                self.abort(error)

    def abort(self, error: Exception | None = None) -> None:
        """Say A-ABORT to a peer that may still listen, and speaks DICOM. error: why, if the peer is at fault."""
        self.is_over = True
        _abort(self._connection, error)


def _abort(connection: Connection, error: Exception | None) -> None:
    is_over = isinstance(error, ConnectionEndedError) and not isinstance(error, DeadlineError | ViolationError)
    if not is_over and not (isinstance(error, ViolationError) and error.abort is None):
        connection.send_last(associate.encode_abort(_USER, 0))


def limits_within(seconds: float) -> DimseLimits:
    """Those of an association with a peer that may take as long for anything it has to do."""
    return DimseLimits(
        associate_seconds=seconds, idle_seconds=seconds, minimum_rate_window_seconds=seconds, send_seconds=seconds
    )


def why_lost(error: Exception) -> str:
    """Why there is no association with a peer, or no more: a phrase of ours, for a log line."""
    return error.reason if isinstance(error, RejectedError | ConnectionEndedError) else "not reachable"


@contextlib.contextmanager
def requested(
    peer: Peer,
    contexts: Sequence[Proposed],
    limits: DimseLimits,
    extended: Mapping[str, bytes] | None = None,
    scp_roles: frozenset[str] = frozenset(),
) -> Iterator[Requested]:
    """Associate with a peer. At the end whoever has not left it is made to: in order, or by A-ABORT after an error.

    scp_roles: SOP Classes of which we would be the SCP, and not the SCU. Raises OSError when nobody answers there,
    RejectedError, ConnectionEndedError.
    """
    with contextlib.ExitStack() as stack:
        try:
            connected = socket.create_connection((peer.host, peer.port), limits.associate_seconds)
        except UnicodeError:  # no name of the DNS can be made of it
            raise OSError("The name of the host is not valid") from None
        stopping_fd, never_written = os.pipe()  # a client is never told to stop
        stack.callback(os.close, stopping_fd)
        stack.callback(os.close, never_written)
        connection = stack.enter_context(Connection(connected, peer.host, stopping_fd, limits.send_seconds))
        try:
            found = _associated(connection, peer, contexts, limits, extended or {}, scp_roles)
        except (ConnectionEndedError, RejectedError) as error:
            if isinstance(error, ConnectionEndedError):
                _abort(connection, error)
            raise
        try:
            yield found
        except BaseException as error:
            if not found.is_over:
                found.abort(error if isinstance(error, ConnectionEndedError) else None)
            raise
        found.release()


def _associated(
    connection: Connection,
    peer: Peer,
    contexts: Sequence[Proposed],
    limits: DimseLimits,
    extended: Mapping[str, bytes],
    scp_roles: frozenset[str],
) -> Requested:
    proposal = associate.Proposal(
        called_ae=peer.called_ae,
        calling_ae=peer.calling_ae,
        protocol_version=1,
        application_context=associate.APPLICATION_CONTEXT_NAME,
        contexts=tuple(contexts),
        maximum_length=limits.pdu_maximum_bytes,
        extended=extended,
        scp_roles=scp_roles,
    )
    connection.send(associate.encode_request(proposal))
    pdu = read_associate_answer(connection, limits, time.monotonic() + limits.associate_seconds)
    if pdu[0] == ASSOCIATE_REJECT:
        raise RejectedError(_rejection(pdu))
    try:
        acceptance = associate.decode_acceptance(pdu)
    except associate.MalformedAssociateError as error:
        raise ViolationError("malformed acceptance") from error
    results = tuple(_accepted(acceptance, contexts))
    return Requested(
        Association(connection, results, acceptance.maximum_length, limits), acceptance.extended, connection
    )


def _rejection(pdu: bytes) -> str:
    source, reason = pdu[8:10] if len(pdu) == 10 else (1, 1)
    return _REJECTIONS.get((source, reason), f"source {source}, reason {reason}")


def _accepted(acceptance: associate.Acceptance, contexts: Sequence[Proposed]) -> Iterator[Result]:
    """The proposals that were accepted, each with a transfer syntax that was proposed for it."""
    proposed = {one.context_id: one for one in contexts}
    for result in acceptance.results:
        ours = proposed.get(result.context_id)
        if result.reason != ACCEPTED or ours is None:
            continue
        if result.transfer_syntax not in ours.transfer_syntaxes:
            raise ViolationError("transfer syntax that was not proposed")
        service = service_of(ours.abstract_syntax)
        if service is not None:
            context = Context(result.context_id, ours.abstract_syntax, result.transfer_syntax, service)
            yield Result(result.context_id, ACCEPTED, result.transfer_syntax, context)
