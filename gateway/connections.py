"""HTTP connections with deadlines: uvicorn's protocol, which waits for ever for a header or a body, made to give up.

Not the door: nothing here looks at a request. A slow or silent client costs one timer, until its time is over (H1, H2).
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import cache, partial
from typing import TYPE_CHECKING, Any

from uvicorn.config import Config
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle
from uvicorn.server import ServerState

from gateway.metrics import LIMITS_HIT
from gateway.sending import PIECES, BodySender
from gateway.settings import HttpSettings

if TYPE_CHECKING:
    from uvicorn._types import ASGI3Application, ASGIReceiveCallable

    from storage.filerange import Piece

_MAXIMUM_UNHEARD_BYTES = 1 << 20  # of chunk headers and trailers between two pieces of a body
_FAREWELL_SECONDS = 2.0
_SENDING_THREADS = 8
_TOO_LARGE = b"HTTP/1.1 431 Request Header Fields Too Large\r\ncontent-length: 0\r\nconnection: close\r\n\r\n"


@cache
def _senders() -> ThreadPoolExecutor:
    """Threads for bodies that go straight to their sockets; none of them waits for a peer."""
    return ThreadPoolExecutor(_SENDING_THREADS, thread_name_prefix="send")


async def _to_its_end(step: asyncio.Future[bool]) -> bool:
    """Wait for a step in a thread, also when we are cancelled meanwhile: until then its descriptors are in use."""
    try:
        return await asyncio.shield(step)
    except asyncio.CancelledError:
        with contextlib.suppress(Exception):
            await step
        raise


class BoundedHttp(HttpToolsProtocol):
    """One connection. Closed when a header is late or too long, or a body pauses or lasts too long."""

    def __init__(
        self,
        settings: HttpSettings,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        super().__init__(config, server_state, app_state, _loop)
        self.app = partial(self._answer, self.app)
        self._settings = settings
        self._timer: asyncio.TimerHandle | None = None
        self._is_in_header = True
        self._header_bytes = 0
        self._body_started = 0.0
        self._body_heard = 0.0
        self._unheard_bytes = 0
        self._unread_timer: asyncio.TimerHandle | None = None
        self._unread_bytes = 0
        self._may_go_on = asyncio.Event()

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Start the time of the first header."""
        super().connection_made(transport)
        self._arm(self._settings.header_seconds, self._header_is_late)

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget the timer."""
        self._disarm()
        self._forget_unread()
        super().connection_lost(exc)
        self._may_go_on.set()

    def pause_writing(self) -> None:
        """The peer does not take what is sent: it has a while to go on, and must take something in each."""
        super().pause_writing()
        self._unread_bytes = self.transport.get_write_buffer_size()
        self._unread_timer = self.loop.call_later(self._settings.body_idle_seconds, self._look_at_unread)

    def resume_writing(self) -> None:
        """The peer reads again."""
        self._forget_unread()
        super().resume_writing()

    def _look_at_unread(self) -> None:
        left = self.transport.get_write_buffer_size()
        if left >= self._unread_bytes:
            LIMITS_HIT.labels("http.body_idle_seconds").inc()
            self.transport.abort()
            return
        self._unread_bytes = left
        self._unread_timer = self.loop.call_later(self._settings.body_idle_seconds, self._look_at_unread)

    def _forget_unread(self) -> None:
        if self._unread_timer is not None:
            self._unread_timer.cancel()
            self._unread_timer = None

    async def _answer(self, app: ASGI3Application, scope: Any, receive: ASGIReceiveCallable, send: Any) -> None:
        """Run the application, for which this connection sends whole bodies by itself when it is asked to."""
        if self.transport.get_extra_info("sslcontext") is None:
            scope.setdefault("extensions", {})[PIECES] = {}

        async def sending(message: Any) -> None:
            if message["type"] != PIECES:
                await send(message)
                return
            cycle: RequestResponseCycle = send.__self__
            pieces, message["size_bytes"] = message["pieces"], 0
            await self._written()
            if not self._is_over(cycle):
                await self._send_pieces(cycle, pieces, message)
            await send({"type": "http.response.body", "body": b"", "more_body": False})

        await app(scope, receive, sending)

    def _is_over(self, cycle: RequestResponseCycle) -> bool:
        """Whether nobody waits for this answer any more; then nothing more is written for it."""
        cycle.disconnected = cycle.disconnected or self.transport.is_closing()
        return cycle.disconnected

    async def _send_pieces(self, cycle: RequestResponseCycle, pieces: Iterator[Piece], told: dict[str, Any]) -> None:
        """Write a body to the socket, step by step in threads, and tell how many bytes the peer was given.

        The peer must take something in each idle time, as in ``pause_writing``. Raises what the pieces raise.
        """
        with BodySender(self.transport.get_extra_info("socket").fileno(), pieces) as sender:
            try:
                while not await _to_its_end(self.loop.run_in_executor(_senders(), sender.step)):
                    await self._writable(sender.fileno())
                    if self._is_over(cycle):
                        break
            except OSError:  # of the socket: a file's are wrapped
                self.transport.abort()
                cycle.disconnected = True
            finally:
                told["size_bytes"] = sender.sent_bytes
                cycle.expected_content_length -= sender.sent_bytes

    async def _written(self) -> None:
        """Wait until nothing of what was written before waits for the socket."""
        if self.transport.get_write_buffer_size():
            self.transport.set_write_buffer_limits(0)
            await self.flow.drain()
            if not self.transport.is_closing():
                self.transport.set_write_buffer_limits()

    async def _writable(self, descriptor: int) -> None:
        """Wait until the socket takes more, or is lost. Raises TimeoutError when the peer takes nothing for long."""
        self._may_go_on.clear()
        self.loop.add_writer(descriptor, self._may_go_on.set)
        try:
            await asyncio.wait_for(self._may_go_on.wait(), self._settings.body_idle_seconds)
        except TimeoutError:
            LIMITS_HIT.labels("http.body_idle_seconds").inc()
            raise
        finally:
            self.loop.remove_writer(descriptor)

    def on_header(self, name: bytes, value: bytes) -> None:
        """A header field; those behind a chunked body are dropped, as nobody here reads trailers."""
        if self._is_in_header:
            super().on_header(name, value)

    def data_received(self, data: bytes) -> None:
        """Count what belongs to a header; the time of a later header starts with its first byte."""
        if self._is_in_header:
            self._header_bytes += len(data)
        else:
            self._unheard_bytes += len(data)
        super().data_received(data)
        if self.transport.is_closing():
            return
        if not self._is_in_header and self._unheard_bytes > _MAXIMUM_UNHEARD_BYTES:
            self._give_up("http.maximum_header_bytes")
            return
        if self._is_in_header and self._header_bytes > self._settings.maximum_header_bytes:
            self.transport.write(_TOO_LARGE)
            self._give_up("http.maximum_header_bytes")
        elif self._timer is None and self._is_in_header and self._header_bytes:
            self._arm(self._settings.header_seconds, self._header_is_late)
        elif self._timer is None and not self._is_in_header:
            self._arm(self._settings.body_idle_seconds, self._look_at_body)

    def on_headers_complete(self) -> None:
        """The header is whole; a body may follow."""
        self._disarm()
        self._is_in_header = False
        self._body_started = self._body_heard = self.loop.time()
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        """Note that the body goes on."""
        self._body_heard = self.loop.time()
        self._unheard_bytes = 0
        super().on_body(body)

    def on_message_complete(self) -> None:
        """The request is whole; whatever comes next is another header."""
        self._disarm()
        self._is_in_header = True
        self._header_bytes = self._unheard_bytes = 0
        super().on_message_complete()

    def _look_at_body(self) -> None:
        self._timer = None
        now = self.loop.time()
        if self.flow.read_paused:  # it is we who are slow
            self._body_heard = now
        if now - self._body_started >= self._settings.body_seconds:
            self._give_up("http.body_seconds")
            return
        left = self._body_heard + self._settings.body_idle_seconds - now
        if left <= 0:
            self._give_up("http.body_idle_seconds")
        else:
            self._arm(left, self._look_at_body)

    def _header_is_late(self) -> None:
        self._timer = None
        self._give_up("http.header_seconds")

    def _give_up(self, limit: str) -> None:
        LIMITS_HIT.labels(limit).inc()
        self._disarm()
        with contextlib.suppress(OSError):
            self.transport.close()
        self.loop.call_later(_FAREWELL_SECONDS, self.transport.abort)

    def _arm(self, seconds: float, act: Callable[[], None]) -> None:
        self._timer = self.loop.call_later(seconds, act)

    def _disarm(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
