"""What every HTTP door shares: the session of a request, threads for what blocks, the access log, and CORS."""

from __future__ import annotations

import ipaddress
import logging
import re
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from typing import ParamSpec, TypeVar

import anyio.to_thread
from starlette.datastructures import Headers
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import HTTPConnection
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from gateway import metrics
from gateway.logs import new_request_id, request_id
from gateway.security.actor import Actor
from gateway.session import Session
from gateway.settings import HttpSettings

logger = logging.getLogger(__name__)

P = ParamSpec("P")
T = TypeVar("T")

Sessions = Callable[[Actor], Session]
LARGE_CHUNK_BYTES = 256 << 10
_HOST = re.compile(r"(?P<name>\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9.-]{1,253})(?::[0-9]{1,5})?", re.ASCII)
_SCHEMES = ("http", "https")
_EXPOSED = ("Content-Location", "Content-Range", "Content-Length", "ETag", "Warning", "Retry-After")
_ALLOWED = ("Authorization", "Accept", "Range", "Content-Type", "If-None-Match")


async def in_thread(function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Run what may block in the bounded pool of threads; the event loop goes on meanwhile (D2)."""
    return await anyio.to_thread.run_sync(partial(function, *args, **kwargs))


def session_of(request: HTTPConnection) -> Session:
    """The archive as the client behind a request may see it.

    Bound to loopback every web client may use every verb; beyond it the gateway does not start without
    authentication (H33).
    """
    sessions: Sessions = request.app.state.sessions
    return sessions(Actor("web", ""))


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
    if settings.public_url:
        return settings.public_url.rstrip("/")
    forwarded = _forwarded(request.headers, request.client.host if request.client else "", settings.trusted_proxies)
    if forwarded:
        return forwarded
    server = request.scope.get("server") or (settings.host, settings.port)
    host = request.headers.get("host", "")
    match = _HOST.fullmatch(host)
    if match and (_is_loopback(match["name"]) and _is_loopback(str(server[0]))):
        # dicomweb-client sends Host without the port
        return f"{request.url.scheme}://{host if host != match['name'] else f'{host}:{server[1]}'}"
    name = f"[{server[0]}]" if ":" in str(server[0]) else server[0]
    return f"{request.url.scheme}://{name}:{server[1]}"


def _forwarded(headers: Headers, client: str, trusted: Sequence[str]) -> str:
    if not trusted or not _is_among(client, trusted):
        return ""
    scheme = headers.get("x-forwarded-proto", "http").split(",")[0].strip()
    host = headers.get("x-forwarded-host", headers.get("host", "")).split(",")[0].strip()
    return f"{scheme}://{host}" if scheme in _SCHEMES and _HOST.fullmatch(host) else ""


def _is_among(client: str, networks: Sequence[str]) -> bool:
    try:
        address = ipaddress.ip_address(client)
        return any(address in ipaddress.ip_network(network, strict=False) for network in networks)
    except ValueError:
        return False


def _is_loopback(name: str) -> bool:
    if name == "localhost":
        return True
    try:
        return ipaddress.ip_address(name.strip("[]")).is_loopback
    except ValueError:
        return False


def large_chunks(pieces: Iterable[bytes]) -> Iterator[bytes]:
    """The same bytes in pieces of at least 256 KiB but the last: each costs a change of threads."""
    waiting: list[bytes] = []
    size = 0
    for piece in pieces:
        waiting.append(piece)
        size += len(piece)
        if size >= LARGE_CHUNK_BYTES:
            yield waiting[0] if len(waiting) == 1 else b"".join(waiting)
            waiting, size = [], 0
    if waiting:
        yield b"".join(waiting)


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
    """One line and two figures for each request: route template, method, status, bytes, time; never a URL (H29)."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on and write down what came of it, also when the client went away."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started = time.perf_counter()
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
            await send(message)

        try:
            await self._app(scope, receive, counting_send)
        finally:
            seconds = time.perf_counter() - started
            route = getattr(scope.get("route"), "path", "unmatched")
            method = scope["method"] if scope["method"] in _METHODS else "other"
            metrics.HTTP_REQUESTS.labels(route, method, str(status)).inc()
            metrics.HTTP_SECONDS.labels(route).observe(seconds)
            logger.info(
                "http.answered",
                extra={
                    "route": route,
                    "method": method,
                    "status": status,
                    "bytes": sent_bytes,
                    "ms": round(seconds * 1000, 1),
                },
            )


_METHODS = frozenset(("GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "PATCH"))
