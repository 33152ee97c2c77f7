"""What every HTTP door shares: the session of a request, threads for what blocks, the access log, and CORS."""

from __future__ import annotations

import asyncio
import contextvars
import ipaddress
import logging
import re
import time
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import cache, lru_cache, partial
from itertools import chain
from typing import ParamSpec, TypeVar, cast
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import HTTPConnection
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from gateway import metrics
from gateway.logs import new_request_id, request_id, timestamp, write_lines
from gateway.security.actor import EVERY_VERB, Actor, Verb
from gateway.sending import PIECES
from gateway.session import Session
from gateway.settings import HttpSettings
from storage.errors import Overloaded
from storage.filerange import Piece, as_bytes

logger = logging.getLogger(__name__)

P = ParamSpec("P")
T = TypeVar("T")

Sessions = Callable[[Actor], Session]
THREADS = 32
TURN_SECONDS = 0.005
"""How long one read of the archive keeps the next one waiting."""
SMALL_BYTES = 32 << 10
FIRST_BYTES = 64 << 10
LARGE_BYTES = 2 << 20
_LOG_SECONDS = 0.1
_HOST = re.compile(r"(?P<name>\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9.-]{1,253})(?::[0-9]{1,5})?", re.ASCII)
_HOST_CHARACTERS = 300
_SCHEMES = ("http", "https")
_WITH_DELETE = EVERY_VERB - {Verb.HOLD}
_WEB_VERBS = _WITH_DELETE - {Verb.DELETE}
_EXPOSED = ("Content-Location", "Content-Range", "Content-Length", "ETag", "Warning", "Retry-After")
_ALLOWED = ("Authorization", "Accept", "Range", "Content-Type", "If-None-Match", "Last-Event-ID")


@cache
def _threads() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(THREADS, thread_name_prefix="http")


async def in_waiting_thread(function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Run what waits for a disk in the bounded pool of threads; the event loop goes on meanwhile (D2).

    Log lines from there carry the request's id. When the request is cancelled, the function still runs to its end.
    """
    context = contextvars.copy_context()
    return await asyncio.get_running_loop().run_in_executor(_threads(), partial(context.run, function, *args, **kwargs))


async def in_thread(function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """As ``in_waiting_thread``, for what reads the archive: one after the other, but none waits long for another.

    What is read is mostly in memory. Threads that read it all at once would only wait for the interpreter, and the
    event loop with them. One that has not ended after ``TURN_SECONDS`` waits for a disk, and lends its turn.
    """
    loop = asyncio.get_running_loop()
    turn = _Turn(_turns(loop))
    await turn.begin()
    lending = loop.call_later(TURN_SECONDS, turn.end)
    try:
        return await in_waiting_thread(function, *args, **kwargs)
    finally:
        lending.cancel()
        turn.end()


@lru_cache(maxsize=8)
def _turns(_: asyncio.AbstractEventLoop) -> asyncio.Semaphore:
    return asyncio.Semaphore()


class _Turn:
    """What somebody has who reads; it is given back once."""

    __slots__ = ("_is_over", "_turns")

    def __init__(self, turns: asyncio.Semaphore) -> None:
        self._turns = turns
        self._is_over = False

    async def begin(self) -> None:
        await self._turns.acquire()

    def end(self) -> None:
        if not self._is_over:
            self._is_over = True
            self._turns.release()


class Lane:
    """A few threads of their own for slow work, so that it never takes those that everybody needs.

    waiting: calls that may wait for a thread, each for ``seconds``; one more raises Overloaded at once. free: places
    for calls that run or wait. For one event loop.
    """

    def __init__(self, threads: int, waiting: int, name: str, seconds: float) -> None:
        self._threads = ThreadPoolExecutor(threads, thread_name_prefix=name)
        self.free = threads + waiting
        self._seconds = seconds

    async def run(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """As ``in_thread``, in this lane. Raises Overloaded."""
        if self.free == 0:
            raise Overloaded
        self.free -= 1
        loop = asyncio.get_running_loop()
        # The call, until it runs or is given up.
        waiting = [partial(contextvars.copy_context().run, function, *args, **kwargs)]

        def work() -> T | None:
            try:
                return waiting.pop()() if waiting else None
            finally:
                with suppress(RuntimeError):  # the loop is closed
                    loop.call_soon_threadsafe(self._leave)

        answer = asyncio.shield(asyncio.wrap_future(self._threads.submit(work)))
        giving_up = loop.call_later(self._seconds, lambda: answer.cancel() if waiting else None)
        try:
            return cast(T, await answer)
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if task is None or task.cancelling():
                raise
            raise Overloaded from None
        finally:
            giving_up.cancel()
            waiting.clear()

    def _leave(self) -> None:
        """A place is free when its call has left the queue, not before."""
        self.free += 1


def age_seconds(request: HTTPConnection) -> float:
    """How long ago a request came in."""
    now = time.perf_counter()
    return now - float(request.scope.get("began", now))


def session_of(request: HTTPConnection) -> Session:
    """The archive as the client behind a request may see it.

    Bound to loopback every web client may use every verb but what the settings keep from the web; beyond it the gateway
    does not start without authentication (H33).
    """
    sessions: Sessions = request.app.state.sessions
    return sessions(Actor("web", "", _WITH_DELETE if http_settings(request).allow_delete else _WEB_VERBS))


def client_address(request: HTTPConnection) -> str:
    """The address of a client; behind a trusted proxy the one that it forwards for."""
    address = request.client.host if request.client else ""
    trusted = http_settings(request).trusted_proxies
    if trusted and _is_among(address, trusted):
        for said in reversed(",".join(request.headers.getlist("x-forwarded-for")).split(",")):
            try:
                address = str(ipaddress.ip_address(said.strip()))
            except ValueError:
                return address
            if not _is_among(address, trusted):
                return address
    return address


def is_from_elsewhere(request: HTTPConnection) -> bool:
    """Whether a browser sends this for a web page of another site: Origin says so. RFC 6454 §7.3"""
    root = urlsplit(root_url(request))
    port = {"http": ":80", "https": ":443"}[root.scheme]
    ours = f"{root.scheme}://{root.netloc.removesuffix(port)}"
    return any(origin != ours for origin in request.headers.getlist("origin"))


def http_settings(request: HTTPConnection) -> HttpSettings:
    """The section of the settings that HTTP doors need."""
    settings: HttpSettings = request.app.state.settings.http
    return settings


def root_url(request: HTTPConnection) -> str:
    """Scheme and authority of the links in answers, without a slash at the end.

    The configured one; else what a trusted proxy forwards; else the address the connection came in on. A Host header
    decides nothing beyond which spelling of loopback is used, so a forged one changes no link (H11).
    """
    settings = http_settings(request)
    scope = request.scope
    headers = request.headers
    return _root_url(
        settings.public_url,
        settings.trusted_proxies,
        scope["client"][0] if scope.get("client") else "",
        (headers.get("x-forwarded-proto", "http")[:16], headers.get("x-forwarded-host", "")[:_HOST_CHARACTERS])
        if settings.trusted_proxies
        else ("", ""),
        scope.get("scheme", "http"),
        tuple(scope.get("server") or (settings.host, settings.port)),
        headers.get("host", "")[:_HOST_CHARACTERS],
    )


def check_host(request: HTTPConnection) -> None:
    """Refuse a foreign Host on loopback: a web page whose name was pointed here could read the archive (421).

    Loopback is open to every program of this machine, and a browser is one. A trusted proxy, and the name of the
    public URL, are known. RFC 9110 §15.5.20
    """
    settings = http_settings(request)
    server = request.scope.get("server") or (settings.host, 0)
    client = request.scope.get("client") or ("", 0)
    if not _is_loopback(server[0]) or _is_among(client[0], settings.trusted_proxies):
        return
    match = _HOST.fullmatch(request.headers.get("host", "localhost"))
    if match is None or not (_is_loopback(match["name"]) or match["name"] == urlsplit(settings.public_url).hostname):
        raise HTTPException(421)


@lru_cache(maxsize=1024)
def _root_url(
    public_url: str,
    trusted_proxies: tuple[str, ...],
    client: str,
    forwarded: tuple[str, str],
    scheme: str,
    server: tuple[str, int],
    host: str,
) -> str:
    if public_url:
        return public_url.rstrip("/")
    if trusted_proxies and _is_among(client, trusted_proxies):
        proxy_scheme, proxy_host = (text.split(",")[0].strip() for text in forwarded)
        proxy_host = proxy_host or host
        if proxy_scheme in _SCHEMES and _HOST.fullmatch(proxy_host):
            return f"{proxy_scheme}://{proxy_host}"
    match = _HOST.fullmatch(host)
    if match and _is_loopback(match["name"]) and _is_loopback(server[0]):
        # dicomweb-client sends Host without the port
        return f"{scheme}://{host if host != match['name'] else f'{host}:{server[1]}'}"
    name = f"[{server[0]}]" if ":" in server[0] else server[0]
    return f"{scheme}://{name}:{server[1]}"


def _is_among(client: str, networks: Sequence[str]) -> bool:
    try:
        address = ipaddress.ip_address(client)
        return bool(networks) and any(address in ipaddress.ip_network(network, strict=False) for network in networks)
    except ValueError:
        return False


def _is_loopback(name: str) -> bool:
    if name == "localhost":
        return True
    try:
        return ipaddress.ip_address(name.strip("[]")).is_loopback
    except ValueError:
        return False


class Pieces(Response):
    """An answer whose body is there, in several pieces that nobody has to join."""

    def __init__(self, pieces: Sequence[bytes], status: int, headers: Mapping[str, str], media_type: str) -> None:
        length = str(sum(map(len, pieces)))
        super().__init__(None, status, {**headers, "Content-Length": length}, media_type)
        self._pieces = pieces

    async def __call__(self, _scope: Scope, _receive: Receive, send: Send) -> None:
        """Send header and pieces."""
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        for piece in self._pieces:
            await send({"type": "http.response.body", "body": piece, "more_body": True})
        await send({"type": "http.response.body", "body": b""})


class Stream(Response):
    """An answer whose body is made in threads while it is sent: the next part is read while one is on its way.

    pieces: any sizes; small ones are joined, large ones sent as they are. Where the length is known the connection
    sends them itself, and files without reading them. When the client goes away the reading stops, and the iterator
    is closed. An error on the way breaks the connection off, so that no client takes a part for the whole.

    enough_bytes: what is made at once; 1 where each piece is work, so that it stops with the client.
    """

    def __init__(
        self,
        pieces: Iterator[Piece],
        status: int,
        headers: Mapping[str, str],
        media_type: str,
        *,
        enough_bytes: int = LARGE_BYTES,
    ) -> None:
        super().__init__(None, status, headers, media_type)
        self._pieces = pieces
        self._enough_bytes = enough_bytes
        self._has_length = "content-length" in {name.lower() for name in headers}
        if not self._has_length:
            del self.headers["content-length"]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the header, then the body as it comes.

        Its beginning is read before a word is said: what cannot be opened is an error, not an answer that breaks off
        (W24).
        """
        if self._has_length and PIECES in scope.get("extensions", ()):
            await self._hand_over(send)
        else:
            await self._send_chunks(receive, send)

    async def _hand_over(self, send: Send) -> None:
        first = await in_thread(next, self._pieces, None)
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        pieces = chain(() if first is None else (first,), self._pieces)
        size_bytes = int(self.headers["content-length"])
        try:
            await send({"type": PIECES, "pieces": pieces, "size_bytes": size_bytes})
        finally:
            await self._close()

    async def _close(self) -> None:
        if isinstance(self._pieces, Generator):
            await in_thread(self._pieces.close)

    async def _send_chunks(self, receive: Receive, send: Send) -> None:
        chunks = as_bytes(self._pieces)
        first = await in_thread(_batch, chunks, min(FIRST_BYTES, self._enough_bytes))
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        gone = asyncio.create_task(_disconnected(receive))
        following = asyncio.create_task(_already(first))
        try:
            while batch := await following:
                following = asyncio.create_task(in_thread(_batch, chunks, self._enough_bytes))
                for piece in batch:
                    await send({"type": "http.response.body", "body": piece, "more_body": True})
                if gone.done():
                    return
            await send({"type": "http.response.body", "body": b""})
        finally:
            gone.cancel()
            with suppress(Exception):
                await following
            await self._close()


async def _already(batch: list[bytes]) -> list[bytes]:
    return batch


async def _disconnected(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


def _batch(pieces: Iterator[bytes], enough_bytes: int) -> list[bytes]:
    """The next pieces, ``enough_bytes`` of them if there are; nothing at the end."""
    found: list[bytes] = []
    small: list[bytes] = []
    size = 0
    for piece in pieces:
        size += len(piece)
        if len(piece) < SMALL_BYTES:
            small.append(piece)
        else:
            found += (b"".join(small), piece) if small else (piece,)
            small = []
        if size >= enough_bytes:
            break
    if small:
        found.append(b"".join(small))
    return found


class Cors(CORSMiddleware):
    """Cross-origin rules for an exact list of origins (V4, H21); a preflight that passes is answered 204."""

    def __init__(self, app: ASGIApp, origins: Sequence[str]) -> None:
        super().__init__(
            app,
            allow_origins=tuple(origins),
            allow_methods=("GET", "HEAD", "POST", "OPTIONS"),
            allow_headers=_ALLOWED,
            expose_headers=_EXPOSED,
            max_age=600,
        )

    def preflight_response(self, request_headers: Headers) -> Response:
        """The library's answer, without a body where it says yes."""
        response = super().preflight_response(request_headers)
        if response.status_code != 200:
            return response
        headers = {name: value for name, value in response.headers.items() if not name.startswith("content-")}
        return Response(status_code=204, headers=headers)


class AccessLog:
    """One line and two figures for each request: route template, method, status, bytes, time; never a URL (H29).

    Lines are made of numbers and words of ours, and written a few at a time: that costs a tenth of a log record each.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app
        self._waiting: list[str] = []

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on and write down what came of it, also when the client went away."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        scope["began"] = started = time.perf_counter()
        status, sent_bytes = 500, 0
        identity = new_request_id()
        request_id.set(identity)

        async def counting_send(message: Message) -> None:
            nonlocal status, sent_bytes
            if message["type"] == "http.response.start":
                status = message["status"]
                message.setdefault("headers", []).append((b"x-request-id", identity.encode("ascii")))
            else:
                sent_bytes += len(message.get("body", b""))
            try:
                await send(message)
            finally:
                if message["type"] == PIECES:  # who sends them tells how far it came
                    sent_bytes += message["size_bytes"]

        try:
            await self._app(scope, receive, counting_send)
        finally:
            seconds = time.perf_counter() - started
            route = scope.get("template", "unmatched")
            method = scope["method"] if scope["method"] in _METHODS else "other"
            _count(route, method, status, seconds)
            self._note(route, method, status, sent_bytes, seconds, identity)

    def _note(self, route: str, method: str, status: int, sent_bytes: int, seconds: float, identity: str) -> None:
        if not logger.isEnabledFor(logging.INFO):
            return
        if not self._waiting:
            asyncio.get_running_loop().call_later(_LOG_SECONDS, self.flush)
        self._waiting.append(
            f'{{"time": "{timestamp(time.time())}", "level": "INFO", "logger": "{__name__}", "event": "http.answered", '
            f'"bytes": {sent_bytes}, "method": "{method}", "ms": {seconds * 1000:.1f}, "route": "{route}", '
            f'"status": {status}, "request_id": "{identity}"}}\n'
        )

    def flush(self) -> None:
        """Write the lines that wait."""
        waiting, self._waiting = self._waiting, []
        write_lines("".join(waiting))


@lru_cache(maxsize=1024)
def _figures(route: str, method: str, status: int) -> tuple[Callable[[], None], Callable[[float], None]]:
    return metrics.HTTP_REQUESTS.labels(route, method, str(status)).inc, metrics.HTTP_SECONDS.labels(route).observe


def _count(route: str, method: str, status: int, seconds: float) -> None:
    count, observe = _figures(route, method, status)
    count()
    observe(seconds)


_METHODS = frozenset(("GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "PATCH"))
