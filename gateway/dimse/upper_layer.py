"""The upper layer of one association, in one thread: PDUs and PDVs in, messages out. PS3.8 §9

A message's Data Set goes piece by piece from the receive buffer to whoever takes it; no PDU is ever held as an
object (D12). Whatever a peer does wrong ends in A-ABORT from the service provider and one reason for the log (P3–P6).
"""

from __future__ import annotations

import struct
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from gateway.dimse import associate, command
from gateway.dimse.command import Command, MalformedCommandError
from gateway.dimse.connection import Connection, ConnectionEndedError, DeadlineError
from gateway.dimse.contexts import Context, Result
from gateway.dimse.limits import DimseLimits
from storage.errors import TooLarge

_PDU_HEADER = struct.Struct(">BxI")
_PDV_HEADER = struct.Struct(">IBB")
_PDU_AND_PDV_HEADER = struct.Struct(">BxIIBB")
_PDV_OVERHEAD_BYTES = 6
_SMALLEST_PEER_PDU_BYTES = 64
_LARGEST_SENT_PDU_BYTES = 128 * 1024
_HELD_BYTES = 32 * 1024
_COMMAND, _LAST = 1, 2

ASSOCIATE_REQUEST, ASSOCIATE_ACCEPT, ASSOCIATE_REJECT = 0x01, 0x02, 0x03
P_DATA, RELEASE_REQUEST, RELEASE_RESPONSE, ABORT = 0x04, 0x05, 0x06, 0x07
_KNOWN_PDUS = range(0x01, 0x08)

PROVIDER = 2
NOT_SPECIFIED, UNRECOGNISED_PDU, UNEXPECTED_PDU, INVALID_PARAMETER = 0, 1, 2, 6


class ViolationError(ConnectionEndedError):
    """The peer broke the protocol. abort: Reason/Diag of the A-ABORT to send, None to close without a word."""

    def __init__(self, reason: str, abort: int | None = INVALID_PARAMETER) -> None:
        self.abort = abort
        super().__init__(reason)


class ReleasedError(ConnectionEndedError):
    """The peer released the association, in order."""

    def __init__(self) -> None:
        super().__init__("released")


class AbortedError(ConnectionEndedError):
    """The peer sent A-ABORT."""

    def __init__(self) -> None:
        super().__init__("aborted by peer")


def discard(_: memoryview) -> None:
    """The sink of a Data Set that nobody wants."""


@dataclass(frozen=True, slots=True)
class Request:
    """A command as it arrived, in its presentation context; its Data Set, if any, is still to be received."""

    context: Context
    command: Command
    message_id: int
    has_data_set: bool


def read_associate_request(connection: Connection, limits: DimseLimits, deadline: float) -> bytes:
    """The A-ASSOCIATE-RQ PDU a new peer sends first. Raises ConnectionEndedError.

    The length is checked before anything is read (P3); bytes that are no PDU, as of HTTP or TLS, end without an
    answer. PS3.8 §9.2.3 Sta2
    """
    overdue = "association deadline"
    header = bytes(connection.take(_PDU_HEADER.size, deadline, overdue))
    kind, length = _PDU_HEADER.unpack(header)
    if kind not in _KNOWN_PDUS:
        raise ViolationError("not a PDU", abort=None)
    if kind != ASSOCIATE_REQUEST:
        raise ViolationError("unexpected PDU", abort=UNEXPECTED_PDU)
    if length > limits.associate_pdu_maximum_bytes:
        raise ViolationError("PDU too long")
    return header + read_value(connection, length, deadline, overdue)


def read_associate_answer(connection: Connection, limits: DimseLimits, deadline: float) -> bytes:
    """The PDU that answers our A-ASSOCIATE-RQ: an acceptance or a rejection. Raises ConnectionEndedError.

    As careful as ``read_associate_request``. PS3.8 §9.2.3 Sta5
    """
    overdue = "association deadline"
    header = bytes(connection.take(_PDU_HEADER.size, deadline, overdue))
    kind, length = _PDU_HEADER.unpack(header)
    if kind not in _KNOWN_PDUS:
        raise ViolationError("not a PDU", abort=None)
    if kind == ABORT:
        raise AbortedError
    if kind not in (ASSOCIATE_ACCEPT, ASSOCIATE_REJECT):
        raise ViolationError("unexpected PDU", abort=UNEXPECTED_PDU)
    if length > limits.associate_pdu_maximum_bytes:
        raise ViolationError("PDU too long")
    return header + read_value(connection, length, deadline, overdue)


def read_value(connection: Connection, length: int, deadline: float, overdue: str) -> bytes:
    """The next ``length`` bytes, which the caller has found to be few enough."""
    value = bytearray()
    while length:
        piece = connection.take_some(length, deadline, overdue)
        value += piece
        length -= len(piece)
    return bytes(value)


class Association:
    """An established association as its acceptor sees it, and with ``request`` and ``release`` its requestor too.

    results: of the negotiation; peer_maximum_bytes: longest P-DATA-TF value field the peer takes, 0 for any. All
    reads raise ConnectionEndedError when the association is over. One thread only.
    """

    def __init__(
        self, connection: Connection, results: tuple[Result, ...], peer_maximum_bytes: int, limits: DimseLimits
    ) -> None:
        if 0 < peer_maximum_bytes < _SMALLEST_PEER_PDU_BYTES:
            raise ViolationError("peer takes no PDU")
        self.contexts: Mapping[int, Context] = {
            result.context.context_id: result.context for result in results if result.context is not None
        }
        self._connection = connection
        self._limits = limits
        largest = min(peer_maximum_bytes or _LARGEST_SENT_PDU_BYTES, _LARGEST_SENT_PDU_BYTES)
        self._sent_fragment_bytes = (largest - _PDV_OVERHEAD_BYTES) & ~1
        self._end_of_life = time.monotonic() + limits.association_life_seconds
        self._pdu_left = 0
        self._window_end = 0.0
        self._window_start_bytes = 0
        self._outgoing: list[bytes] = []
        self._outgoing_bytes = 0

    # Receiving

    def next_request(self, idle_seconds: float | None = None) -> Request:
        """Wait for the next message and read its command.

        idle_seconds: how long, if not as the limits say. Raises ReleasedError when the peer has released, DrainingError
        when the server stops. PS3.7 §6.3
        """
        if self._pdu_left == 0:
            limits = self._limits
            idle_end = time.monotonic() + (limits.idle_seconds if idle_seconds is None else idle_seconds)
            if idle_end < self._end_of_life:
                self._connection.wait_for_work(idle_end)
            else:
                self._wait_for_end_of_life()
        return self._read_request()

    def next_response(self, idle_seconds: float | None = None) -> Request:
        """Wait for the message that follows one of our own: its response, or a C-CANCEL of the peer."""
        if self._pdu_left == 0:
            seconds = self._limits.idle_seconds if idle_seconds is None else idle_seconds
            self._connection.wait_for_bytes(min(time.monotonic() + seconds, self._end_of_life))
        return self._read_request()

    def interjection(self) -> Request | None:
        """What the peer has sent in the middle of our answers, a C-CANCEL; None when it is silent. PS3.7 §9.3.2.3"""
        has_bytes = self._pdu_left > 0 or self._connection.has_bytes
        return self._read_request() if has_bytes else None

    def _read_request(self) -> Request:
        self._open_window()
        context, encoded = self._command_set()
        try:
            received = command.decode(encoded)
            field = received.number(command.Element.COMMAND_FIELD)
            is_cancel = field == command.Field.C_CANCEL or field & command.RESPONSE
            identified = command.Element.MESSAGE_ID_BEING_RESPONDED_TO if is_cancel else command.Element.MESSAGE_ID
            return Request(context, received, received.number(identified), received.has_data_set)
        except MalformedCommandError as error:
            raise ViolationError("malformed command") from error

    def _wait_for_end_of_life(self) -> None:
        try:
            self._connection.wait_for_work(self._end_of_life)
        except DeadlineError as error:
            raise DeadlineError("end of life") from error

    def _command_set(self) -> tuple[Context, bytes]:
        encoded = bytearray()
        first_context_id = -1
        while True:
            length, context_id, control = self._fragment()
            if not control & _COMMAND:
                raise ViolationError("Data Set without command")
            if first_context_id not in (-1, context_id):
                raise ViolationError("mixed contexts")
            first_context_id = context_id
            if len(encoded) + length > self._limits.command_maximum_bytes:
                raise ViolationError("command too long")
            while length:
                piece = self._take_some(length)
                encoded += piece
                length -= len(piece)
            if control & _LAST:
                return self.contexts[context_id], bytes(encoded)

    def receive_data_set(self, request: Request, sink: Callable[[memoryview], None], maximum_bytes: int) -> int:
        """Hand the request's Data Set to ``sink``, piece by piece; returns its length in bytes.

        A piece is only valid during the call. Raises TooLarge at the first piece beyond ``maximum_bytes``, whatever
        the sink raises, and ConnectionEndedError; after any of them the association cannot go on.
        """
        total = 0
        while True:
            length, context_id, control = self._fragment()
            if control & _COMMAND:
                raise ViolationError("command inside a message")
            if context_id != request.context.context_id:
                raise ViolationError("mixed contexts")
            total += length
            if total > maximum_bytes:
                raise TooLarge("The instance is larger than the limit")
            while length:
                piece = self._take_some(length)
                sink(piece)
                length -= len(piece)
            if control & _LAST:
                return total

    def _fragment(self) -> tuple[int, int, int]:
        """Length of the next fragment's value, its context and its message control header. PS3.8 Table 9-23, §E.2"""
        if self._pdu_left == 0:
            kind, pdu_length = _PDU_HEADER.unpack(self._take(_PDU_HEADER.size))
            if kind != P_DATA:
                self._other_pdu(kind, pdu_length)
            if not _PDV_OVERHEAD_BYTES <= pdu_length <= self._limits.pdu_maximum_bytes + _PDV_OVERHEAD_BYTES:
                raise ViolationError("invalid PDU length")
            self._pdu_left = pdu_length
        if self._pdu_left < _PDV_OVERHEAD_BYTES:
            raise ViolationError("invalid PDV length")
        length, context_id, control = _PDV_HEADER.unpack(self._take(_PDV_HEADER.size))
        length -= 2
        self._pdu_left -= _PDV_OVERHEAD_BYTES
        if not 0 <= length <= self._pdu_left:
            raise ViolationError("invalid PDV length")
        if context_id not in self.contexts:
            raise ViolationError("unknown context")
        self._pdu_left -= length
        return length, context_id, control

    def _other_pdu(self, kind: int, length: int) -> None:
        if kind == ABORT:
            raise AbortedError
        if kind == RELEASE_REQUEST:
            if length != 4:
                raise ViolationError("invalid PDU length")
            self._take(length)
            self._connection.send(associate.RELEASE_RESPONSE)
            raise ReleasedError
        if kind in _KNOWN_PDUS:
            raise ViolationError("unexpected PDU", abort=UNEXPECTED_PDU)
        raise ViolationError("unrecognised PDU", abort=UNRECOGNISED_PDU)

    # Pace: a message that has begun arrives at the minimum rate (D5)

    def _open_window(self) -> None:
        self._window_end = time.monotonic() + self._limits.minimum_rate_window_seconds
        self._window_start_bytes = self._connection.received_bytes

    def _deadline(self) -> float:
        """When to look again. Raises DeadlineError when the window that has ended brought too little."""
        now = time.monotonic()
        if now >= self._end_of_life:
            raise DeadlineError("end of life")
        if now >= self._window_end:
            limits = self._limits
            expected = limits.minimum_rate_bytes_per_second * limits.minimum_rate_window_seconds
            if self._connection.received_bytes - self._window_start_bytes < expected:
                raise DeadlineError("too slow")
            self._open_window()
        return min(self._window_end, self._end_of_life)

    def _take(self, count: int) -> memoryview:
        while True:
            deadline = self._deadline()
            try:
                return self._connection.take(count, deadline, "too slow")
            except DeadlineError:
                continue

    def _take_some(self, maximum: int) -> memoryview:
        while True:
            deadline = self._deadline()
            try:
                return self._connection.take_some(maximum, deadline, "too slow")
            except DeadlineError:
                continue

    # Sending

    def respond(
        self,
        request: Request,
        status: int,
        *,
        offending_element: int | None = None,
        comment: str = "",
        counts: Mapping[command.Element, int] | None = None,
        data_set: bytes | None = None,
    ) -> None:
        """Send the response to a request, after what is held. PS3.7 §9.3"""
        encoded = command.response(
            request.command,
            status,
            has_data_set=data_set is not None,
            offending_element=offending_element,
            comment=comment,
            counts=counts,
        )
        if data_set is None:
            self._outgoing += self._pdus(request.context.context_id, encoded, _COMMAND)
        else:
            self.hold(request.context.context_id, encoded, [data_set])
        self.flush()

    def hold(self, context_id: int, encoded_command: bytes, data_sets: Iterable[bytes]) -> None:
        """Send messages that have their command in common some time before the next ``flush`` or ``respond``, so that
        a few may go together. Command and Data Set share a PDU where the peer takes one that long. PS3.8 §9.3.5
        """
        commands = len(encoded_command)
        for data_set in data_sets:
            length = commands + len(data_set) + 2 * _PDV_OVERHEAD_BYTES
            if length <= self._sent_fragment_bytes:  # as nearly all answers are, of which there may be very many
                self._outgoing += (
                    _PDU_AND_PDV_HEADER.pack(P_DATA, length, commands + 2, context_id, _COMMAND | _LAST),
                    encoded_command,
                    _PDV_HEADER.pack(len(data_set) + 2, context_id, _LAST),
                    data_set,
                )
            else:
                self._outgoing += self._pdus(context_id, encoded_command, _COMMAND)
                self._outgoing += self._pdus(context_id, data_set, 0)
            self._outgoing_bytes += length
            if self._outgoing_bytes >= _HELD_BYTES:
                self.flush()

    def flush(self) -> None:
        """Send what is held."""
        if self._outgoing:
            waiting = b"".join(self._outgoing)
            self._outgoing.clear()
            self._outgoing_bytes = 0
            self._connection.send(waiting)

    def request(self, context_id: int, encoded_command: bytes, data_set: bytes | None = None) -> None:
        """Send a message of our own at once: a command, and its Data Set if there is one. PS3.7 §6.3"""
        pdus = self._pdus(context_id, encoded_command, _COMMAND)
        if data_set is not None:
            pdus += self._pdus(context_id, data_set, 0)
        self._connection.send(b"".join(pdus))

    def request_with(self, context_id: int, encoded_command: bytes, pieces: Iterable[bytes]) -> None:
        """The same with a Data Set that comes in pieces, in constant memory. What ``pieces`` raises leaves the message
        unfinished, so that the association cannot go on.
        """
        outgoing = bytearray(b"".join(self._pdus(context_id, encoded_command, _COMMAND)))
        waiting = b""
        for piece in pieces:
            if waiting:
                outgoing += b"".join(self._pdus(context_id, waiting, 0, is_whole=False))
            waiting = piece
            if len(outgoing) >= _HELD_BYTES:
                self._connection.send(outgoing)
                outgoing = bytearray()
        outgoing += b"".join(self._pdus(context_id, waiting, 0))
        self._connection.send(outgoing)

    def release(self, seconds: float) -> None:
        """Ask for the release and wait for the answer, with nothing under way. Raises ConnectionEndedError.

        PS3.8 §9.2.3 Sta7
        """
        self._connection.send(associate.RELEASE_REQUEST)
        header = self._connection.take(_PDU_HEADER.size, time.monotonic() + seconds, "release deadline")
        if _PDU_HEADER.unpack(header)[0] != RELEASE_RESPONSE:
            raise ViolationError("unexpected PDU", abort=UNEXPECTED_PDU)

    def _pdus(self, context_id: int, encoded: bytes, control: int, *, is_whole: bool = True) -> list[bytes]:
        """The PDUs of a fragment of a message, the last one of it unless ``is_whole`` is false."""
        size = self._sent_fragment_bytes
        pdus: list[bytes] = []
        for start in range(0, max(len(encoded), 1), size):
            fragment = encoded[start : start + size]
            last = _LAST if is_whole and start + size >= len(encoded) else 0
            header = _PDU_AND_PDV_HEADER.pack(
                P_DATA, len(fragment) + _PDV_OVERHEAD_BYTES, len(fragment) + 2, context_id, control | last
            )
            pdus += (header, fragment)
        return pdus
