"""Connection: the bytes of one TCP or TLS connection, read into one buffer with deadlines. No DICOM here.

The socket never blocks: a read first takes what is there and only then waits, in ``poll``, until the deadline. So no
silent, slow or one-byte peer holds a thread longer than its limit (P1, P2).
"""

from __future__ import annotations

import select
import socket
import ssl
import sys
import time
from types import TracebackType
from typing import Self

_DRAIN_BYTES = 64 * 1024
_FAREWELL_SECONDS = 0.5
_FIRST_BUFFER_BYTES = 8 * 1024
_BUFFER_BYTES = 256 * 1024
_QUICK_ACKNOWLEDGEMENT = getattr(socket, "TCP_QUICKACK", None) if sys.platform == "linux" else None


class ConnectionEndedError(Exception):
    """The connection cannot go on; ``reason`` is a constant word for the log."""

    def __init__(self, reason: str) -> None:
        self.reason = reason
        super().__init__(reason)


class ClosedError(ConnectionEndedError):
    """The peer closed or reset the connection."""

    def __init__(self) -> None:
        super().__init__("closed")


class DeadlineError(ConnectionEndedError):
    """A deadline passed; ``reason`` says which."""


class DrainingError(ConnectionEndedError):
    """The server is stopping and nothing is under way here."""

    def __init__(self) -> None:
        super().__init__("stopping")


class Connection:
    """One accepted socket. One thread reads and writes; any thread may call ``interrupt``.

    address: the peer's, as text. stopping_fd: becomes readable when the server stops. send_seconds: how long a peer
    may leave what is sent to it unread. Deadlines are values of ``time.monotonic``.
    """

    def __init__(self, accepted: socket.socket, address: str, stopping_fd: int, send_seconds: float) -> None:
        accepted.setblocking(False)
        accepted.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._socket = accepted
        self.address = address
        self._stopping_fd = stopping_fd
        self._send_seconds = send_seconds
        self._buffer = bytearray(_FIRST_BUFFER_BYTES)
        self._view = memoryview(self._buffer)
        self._start = 0
        self._end = 0
        self.received_bytes = 0
        self._incoming = select.poll()
        self._incoming.register(accepted, select.POLLIN)
        self._idle = select.poll()
        self._idle.register(accepted, select.POLLIN)
        self._idle.register(stopping_fd, select.POLLIN)

    def secure(self, context: ssl.SSLContext, deadline: float) -> None:
        """Do the TLS handshake, here in the connection's own thread. Raises ConnectionEndedError (P1)."""
        try:
            secured = context.wrap_socket(self._socket, server_side=True, do_handshake_on_connect=False)
        except OSError as error:
            raise ClosedError from error
        self._socket = secured
        while True:
            try:
                secured.do_handshake()
            except ssl.SSLWantReadError:
                self._wait(self._incoming, deadline, "handshake deadline")
            except ssl.SSLWantWriteError:
                self._wait_writable(deadline)
            except OSError as error:
                raise ConnectionEndedError("handshake failed") from error
            else:
                return

    def enlarge(self) -> None:
        """Give an established association the buffer that receives instances fast; strangers share little memory."""
        buffer = bytearray(_BUFFER_BYTES)
        waiting = self._end - self._start
        buffer[:waiting] = self._view[self._start : self._end]
        self._buffer, self._view = buffer, memoryview(buffer)
        self._start, self._end = 0, waiting

    @property
    def has_bytes(self) -> bool:
        """Whether something can be read at once: buffered here, in TLS or by the kernel."""
        if self._end > self._start:
            return True
        if isinstance(self._socket, ssl.SSLSocket) and self._socket.pending():
            return True
        return bool(self._incoming.poll(0))

    def wait_for_work(self, deadline: float) -> None:
        """Wait for a first byte. Raises DeadlineError "idle", ClosedError, or DrainingError when the server stops."""
        if self._end > self._start:
            return
        if _is_readable(self._stopping_fd):
            raise DrainingError
        self._fill(deadline, "idle", self._idle)

    def wait_for_bytes(self, deadline: float) -> None:
        """The same within an operation, which the stopping server lets come to its end."""
        if self._end == self._start:
            self._fill(deadline, "idle", self._incoming)

    def take(self, count: int, deadline: float, overdue: str) -> memoryview:
        """The next ``count`` bytes (at most a few dozen), contiguous; valid until the next call.

        overdue: the reason of the DeadlineError when they do not arrive in time.
        """
        while self._end - self._start < count:
            if self._start + count > len(self._buffer):
                waiting = self._end - self._start
                self._buffer[:waiting] = self._buffer[self._start : self._end]
                self._start, self._end = 0, waiting
            self._fill(deadline, overdue, self._incoming)
        self._start += count
        return self._view[self._start - count : self._start]

    def take_some(self, maximum: int, deadline: float, overdue: str) -> memoryview:
        """Between one and ``maximum`` of the next bytes, as many as are there; valid until the next call."""
        if self._end == self._start:
            self._start = self._end = 0
            self._fill(deadline, overdue, self._incoming)
        start = self._start
        self._start = min(self._end, start + maximum)
        return self._view[start : self._start]

    def _fill(self, deadline: float, overdue: str, waiter: select.poll) -> None:
        if self._end == self._start:
            self._start = self._end = 0
        while True:
            try:
                count = self._socket.recv_into(self._view[self._end :])
            except (BlockingIOError, ssl.SSLWantReadError):
                self._acknowledge()
                self._wait(waiter, deadline, overdue)
            except OSError as error:
                raise ClosedError from error
            else:
                if count == 0:
                    raise ClosedError
                self._end += count
                self.received_bytes += count
                return

    def _acknowledge(self) -> None:
        """Acknowledge what came before waiting for more.

        DCMTK without TCP_NODELAY writes a PDU in pieces and waits for the acknowledgement of each; delayed ones cost
        it 40 ms per instance.
        """
        if _QUICK_ACKNOWLEDGEMENT is not None:
            try:
                self._socket.setsockopt(socket.IPPROTO_TCP, _QUICK_ACKNOWLEDGEMENT, 1)
            except OSError as error:
                raise ClosedError from error

    def _wait(self, waiter: select.poll, deadline: float, overdue: str) -> None:
        remaining = deadline - time.monotonic()
        if remaining <= 0:
            raise DeadlineError(overdue)
        ready = waiter.poll(remaining * 1000 + 1)
        if not ready:
            raise DeadlineError(overdue)
        if all(fd == self._stopping_fd for fd, _ in ready):
            raise DrainingError

    def _wait_writable(self, deadline: float) -> None:
        outgoing = select.poll()
        outgoing.register(self._socket, select.POLLOUT)
        remaining = deadline - time.monotonic()
        if remaining <= 0 or not outgoing.poll(remaining * 1000 + 1):
            raise DeadlineError("unread")

    def send(self, data: bytes | bytearray) -> None:
        """Send all of it. Raises DeadlineError "unread" when the peer does not take it, ClosedError."""
        deadline = time.monotonic() + self._send_seconds
        view = memoryview(data)
        while view:
            try:
                view = view[self._socket.send(view) :]
            except (BlockingIOError, ssl.SSLWantWriteError, ssl.SSLWantReadError):
                self._wait_writable(deadline)
            except OSError as error:
                raise ClosedError from error

    def send_last(self, data: bytes) -> None:
        """Send a farewell if the peer takes it at once, and give it a moment to read that and to close first.

        What it still sends is thrown away, up to a bound. PS3.8 §9.2.3 Sta13
        """
        try:
            self._socket.send(data)
            deadline = time.monotonic() + _FAREWELL_SECONDS
            discarded = 0
            while discarded < _DRAIN_BYTES and self._incoming.poll(max(0.0, deadline - time.monotonic()) * 1000):
                count = self._socket.recv_into(self._view)
                if count == 0:
                    return
                discarded += count
        except OSError:
            return

    def interrupt(self) -> None:
        """From another thread: make every read and write of the owner end with ClosedError."""
        try:
            socket.socket.shutdown(self._socket, socket.SHUT_RDWR)
        except OSError:
            return

    def close(self) -> None:
        """Close the socket. Safe to call twice."""
        self._socket.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()


def _is_readable(fd: int) -> bool:
    poll = select.poll()
    poll.register(fd, select.POLLIN)
    return bool(poll.poll(0))
