"""C-FIND as SCU: one association to a peer, one query, its answers as they come. PS3.4 §C.4.1, PS3.8 §9

The listener's reader does the reading, so its limits hold here too: whatever the peer sends is capped in bytes and
seconds. pynetdicom as SCU buffers answers and PDUs without bound, and ends its thread with a traceback when a
Command Set makes no sense.
"""

from __future__ import annotations

import contextlib
import os
import socket
import time
from collections.abc import Generator, Iterator, Mapping
from dataclasses import dataclass

from gateway.dimse import associate, command, identifier
from gateway.dimse.characters import UTF_8
from gateway.dimse.command import Element, Field
from gateway.dimse.connection import Connection, ConnectionEndedError, DeadlineError
from gateway.dimse.contexts import ACCEPTED, Context, Proposed, Result, Service
from gateway.dimse.limits import DimseLimits
from gateway.dimse.models import Extended
from gateway.dimse.status import CANCELLED, PENDING, PENDING_WITHOUT_SOME_KEYS, SUCCESS
from gateway.dimse.upper_layer import (
    ASSOCIATE_REJECT,
    NOT_SPECIFIED,
    Association,
    Request,
    ViolationError,
    read_associate_answer,
)
from storage.errors import NotDicom, TooLarge
from storage.model import JsonElement
from storage.uids import EXPLICIT_VR_LITTLE_ENDIAN, IMPLICIT_VR_LITTLE_ENDIAN

ANSWER_MAXIMUM_BYTES = 4 << 20
_TRANSFER_SYNTAXES = (EXPLICIT_VR_LITTLE_ENDIAN, IMPLICIT_VR_LITTLE_ENDIAN)
_CONTEXT_ID = 1
_MESSAGE_ID = 1
_USER = 0
_FAREWELL_SECONDS = 2.0
_WARNINGS = range(0xB000, 0xC000)
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
    """The peer does not want the association, or not this query model; ``reason`` is a phrase of ours."""

    def __init__(self, reason: str) -> None:
        self.reason = reason
        super().__init__(reason)


class FindFailedError(Exception):
    """The final status of a C-FIND is a failure. comment: the peer's own words, not to be trusted. PS3.4 §C.4.1.1.4"""

    def __init__(self, status: int, comment: str) -> None:
        self.status = status
        self.comment = comment
        super().__init__(f"{status:04X}")


class FindRequestor:
    """An association for one query.

    agreed: what of the extended negotiation the peer takes. lacks_keys: after a first answer, whether the peer said
    that it does not support some optional key (FF01).
    """

    def __init__(self, association: Association, context: Context, agreed: Extended) -> None:
        self._association = association
        self._context = context
        self._is_under_way = False
        self.agreed = agreed
        self.lacks_keys = False

    def find(self, keys: Mapping[str, JsonElement]) -> Generator[dict[str, JsonElement], None, None]:
        """The matches, as they arrive, in the DICOM JSON Model; text that is not ASCII is sent as ISO_IR 192.

        Raises FindFailedError, ConnectionEndedError, and NotDicom or TooLarge for an answer that cannot be read.
        """
        syntax = self._context.transfer_syntax
        asked = identifier.encode(keys, syntax, UTF_8)
        sent = command.find_request(self._context.abstract_syntax, _MESSAGE_ID)
        self._association.request(self._context.context_id, sent, asked)
        self._is_under_way = True
        while (answer := self._next_answer()) is not None:
            yield identifier.decode(answer, syntax)

    def _next_answer(self, idle_seconds: float | None = None) -> bytes | None:
        """The next Identifier, None after the last. Raises FindFailedError."""
        response = self._association.next_request(idle_seconds)
        status = _status(response)
        answer = bytearray()
        if response.has_data_set:
            self._association.receive_data_set(response, answer.extend, ANSWER_MAXIMUM_BYTES)
        if status in (PENDING, PENDING_WITHOUT_SOME_KEYS):
            self.lacks_keys = self.lacks_keys or status == PENDING_WITHOUT_SOME_KEYS
            return bytes(answer)
        self._is_under_way = False
        if status not in (SUCCESS, CANCELLED) and status not in _WARNINGS:
            raise FindFailedError(status, response.command.text(Element.ERROR_COMMENT))
        return None

    def end(self) -> None:
        """Cancel what is under way, wait a moment for its end, and release. Raises ConnectionEndedError."""
        if self._is_under_way:
            self._association.request(self._context.context_id, command.cancel_request(_MESSAGE_ID))
            deadline = time.monotonic() + _FAREWELL_SECONDS
            while self._next_answer(_FAREWELL_SECONDS) is not None:
                if time.monotonic() > deadline:
                    raise ViolationError("does not end when cancelled", NOT_SPECIFIED)
        self._association.release(_FAREWELL_SECONDS)


def _status(response: Request) -> int:
    received = response.command
    is_ours = received.number(Element.COMMAND_FIELD) == Field.C_FIND | command.RESPONSE
    if not is_ours or response.message_id != _MESSAGE_ID:
        raise ViolationError("unexpected message")
    try:
        return received.number(Element.STATUS)
    except command.MalformedCommandError as error:
        raise ViolationError("malformed command") from error


@contextlib.contextmanager
def find_requestor(peer: Peer, model: str, wanted: Extended, seconds: float) -> Iterator[FindRequestor]:
    """Associate for queries of one model, and end the association in order, whatever happens in between.

    model: SOP Class UID. seconds: the longest wait for anything the peer has to do. Raises OSError when nobody
    answers there, RejectedError, ConnectionEndedError.
    """
    limits = DimseLimits(
        associate_seconds=seconds,
        idle_seconds=seconds,
        minimum_rate_window_seconds=seconds,
        send_seconds=seconds,
    )
    with contextlib.ExitStack() as stack:
        connected = socket.create_connection((peer.host, peer.port), seconds)
        stopping_fd, never_written = os.pipe()  # a client is never told to stop
        stack.callback(os.close, stopping_fd)
        stack.callback(os.close, never_written)
        connection = stack.enter_context(Connection(connected, peer.host, stopping_fd, seconds))
        try:
            requestor = _associated(connection, peer, model, wanted, limits)
        except ConnectionEndedError as error:
            _abort(connection, error)
            raise
        try:
            yield requestor
        except (ConnectionEndedError, NotDicom, TooLarge) as error:
            _abort(connection, error)
            raise
        except BaseException:
            _end(requestor, connection)
            raise
        _end(requestor, connection)


def _end(requestor: FindRequestor, connection: Connection) -> None:
    """Leave a peer in order if it still can be; how it fails to says nothing about the answers that it gave."""
    try:
        requestor.end()
    except (ConnectionEndedError, TooLarge) as error:
        _abort(connection, error)
    except FindFailedError:
        return


def _abort(connection: Connection, error: Exception) -> None:
    """Say A-ABORT to a peer that may still listen, and speaks DICOM."""
    is_over = isinstance(error, ConnectionEndedError) and not isinstance(error, DeadlineError | ViolationError)
    if not is_over and not (isinstance(error, ViolationError) and error.abort is None):
        connection.send_last(associate.encode_abort(_USER, 0))


def _associated(connection: Connection, peer: Peer, model: str, wanted: Extended, limits: DimseLimits) -> FindRequestor:
    information = bytes((wanted.is_relational, 0, wanted.is_fuzzy))
    proposal = associate.Proposal(
        called_ae=peer.called_ae,
        calling_ae=peer.calling_ae,
        protocol_version=1,
        application_context=associate.APPLICATION_CONTEXT_NAME,
        contexts=(Proposed(_CONTEXT_ID, model, _TRANSFER_SYNTAXES),),
        maximum_length=limits.pdu_maximum_bytes,
        extended={model: information} if any(information) else {},
    )
    connection.send(associate.encode_request(proposal))
    pdu = read_associate_answer(connection, limits, time.monotonic() + limits.associate_seconds)
    if pdu[0] == ASSOCIATE_REJECT:
        raise RejectedError(_rejection(pdu))
    try:
        acceptance = associate.decode_acceptance(pdu)
    except associate.MalformedAssociateError as error:
        raise ViolationError("malformed acceptance") from error
    context = _context(acceptance, model)
    if context is None:
        connection.send_last(associate.encode_abort(_USER, 0))
        raise RejectedError("queries of this kind are not supported there")
    agreed = acceptance.extended.get(model, b"").ljust(3, b"\0")
    extended = Extended(wanted.is_relational and agreed[0] == 1, wanted.is_fuzzy and agreed[2] == 1)
    result = Result(_CONTEXT_ID, ACCEPTED, context.transfer_syntax, context)
    association = Association(connection, (result,), acceptance.maximum_length, limits)
    return FindRequestor(association, context, extended)


def _rejection(pdu: bytes) -> str:
    source, reason = pdu[8:10] if len(pdu) == 10 else (1, 1)
    return _REJECTIONS.get((source, reason), f"source {source}, reason {reason}")


def _context(acceptance: associate.Acceptance, model: str) -> Context | None:
    for result in acceptance.results:
        if result.context_id == _CONTEXT_ID and result.reason == ACCEPTED:
            if result.transfer_syntax not in _TRANSFER_SYNTAXES:
                raise ViolationError("transfer syntax that was not proposed")
            return Context(_CONTEXT_ID, model, result.transfer_syntax, Service.QUERY)
    return None
