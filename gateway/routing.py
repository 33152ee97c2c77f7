"""Routing: a path's segments to an endpoint, by looking each of them up; and the one place where errors are answered.

It stands where Starlette's router would, which tries one regular expression after another: of a frame's request that
was a tenth. PS3.18 §10.1
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass, field
from types import SimpleNamespace

from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.types import Message, Receive, Scope, Send

Endpoint = Callable[[Request], Awaitable[Response]]
Answer = Callable[[Request, Exception], Response]
Guard = Callable[[Request], None]


@dataclass(frozen=True, slots=True)
class Route:
    """A path template with ``{names}`` for single segments, ``{name:path}`` for the rest, and an endpoint."""

    method: str
    template: str
    endpoint: Endpoint


@dataclass(slots=True)
class _Node:
    """What can follow a segment. ends: what is here, by method; rest: the name that takes all that follows, and what is
    there.
    """

    literals: dict[str, _Node] = field(default_factory=dict)
    parameter: str = ""
    child: _Node | None = None
    rest: tuple[str, _Node] | None = None
    template: str = ""
    ends: dict[str, Endpoint] = field(default_factory=dict)


class Router:
    """An ASGI application of routes. Thread-safe, as nothing in it changes after it is made.

    answer: makes the response of an error. guard: looks at each request first, and raises. A HEAD is a GET of which
    only the header is sent; a slash at the end is accepted (G15, G16). ``state`` is what endpoints find in
    ``request.app.state``.
    """

    def __init__(self, routes: Iterable[Route], answer: Answer, guard: Guard | None = None) -> None:
        self._root = _Node()
        self._answer = answer
        self._guard = guard
        self.state = SimpleNamespace()
        for route in routes:
            self._add(route)

    def _add(self, route: Route) -> None:
        node = self._root
        for segment in route.template.strip("/").split("/"):
            if segment.endswith(":path}"):
                node.rest = node.rest or (segment[1 : -len(":path}")], _Node())
                node = node.rest[1]
            elif segment.startswith("{"):
                node.parameter = segment[1:-1]
                node.child = node.child or _Node()
                node = node.child
            elif segment:
                node = node.literals.setdefault(segment, _Node())
        node.ends[route.method] = route.endpoint
        node.template = route.template

    def find(self, path: str) -> tuple[str, Mapping[str, Endpoint], dict[str, str]]:
        """The template of a path, its endpoints by method, and the values of its names. No endpoints: no such path."""
        node = self._root
        parameters: dict[str, str] = {}
        text = path.removeprefix("/").removesuffix("/")
        segments = text.split("/") if text else []
        for at, segment in enumerate(segments):
            following = node.literals.get(segment)
            if following is None:
                if node.rest:
                    name, last = node.rest
                    parameters[name] = "/".join(segments[at:])
                    return last.template, last.ends, parameters
                if node.child is None or not segment:
                    return "unmatched", {}, {}
                parameters[node.parameter] = segment
                following = node.child
            node = following
        return (node.template, node.ends, parameters) if node.ends else ("unmatched", {}, {})

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request; whatever goes wrong before the answer has begun becomes an answer."""
        template, endpoints, parameters = self.find(scope["path"])
        scope["app"] = self
        scope["template"] = template
        scope["path_params"] = parameters
        request = Request(scope, receive, send)
        method = scope["method"]
        endpoint = endpoints.get("GET" if method == "HEAD" else method)
        try:
            if self._guard is not None:
                self._guard(request)
            if endpoint is None and endpoints and method == "OPTIONS":
                response = Response(status_code=204, headers=dict(_absent(endpoints).headers or {}))
            elif endpoint is None:
                raise _absent(endpoints)
            else:
                response = await endpoint(request)
        except ClientDisconnect:
            return
        except Exception as error:  # noqa: BLE001 - an edge: every fault becomes an answer and one log line
            response = self._answer(request, error)
        if method != "HEAD":
            await self._send(response, request, receive, send)
            return
        await send({"type": "http.response.start", "status": response.status_code, "headers": response.raw_headers})
        await send({"type": "http.response.body", "body": b""})

    async def _send(self, response: Response, request: Request, receive: Receive, send: Send) -> None:
        """Send it; what fails before its first word becomes an answer of its own, later the connection breaks off."""
        has_begun = False

        async def watched(message: Message) -> None:
            nonlocal has_begun
            has_begun = True
            await send(message)

        try:
            await response(request.scope, receive, watched)
        except Exception as error:
            answer = self._answer(request, error)  # which is in the log also where it cannot be sent any more
            if has_begun:
                raise
            await answer(request.scope, receive, send)


def _absent(endpoints: Mapping[str, Endpoint]) -> HTTPException:
    if not endpoints:
        return HTTPException(404)
    allowed = sorted({*endpoints, *(("HEAD",) if "GET" in endpoints else ())})
    return HTTPException(405, headers={"Allow": ", ".join(allowed)})
