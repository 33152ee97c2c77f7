"""The change feed over HTTP: pages of it that are fetched, waited for where that is asked for, and a stream of events.

Not of DICOMweb itself; those who know the feeds of Orthanc and of Microsoft's server find the same here: what is behind
a number, in order, for ever. A page is JSON, the stream ``text/event-stream``.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Coroutine, Sequence
from typing import Any, TypeVar

import orjson
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from gateway.changes import as_event, as_object
from gateway.dicomweb.media_types import JSON, Representation, negotiate
from gateway.dicomweb.responses import NO_SNIFF
from gateway.dicomweb.tail import Tail
from gateway.http import in_thread, session_of
from gateway.session import Session
from gateway.settings import ChangeSettings
from storage.errors import BadRequest
from storage.model import Change

EVENT_STREAM = "text/event-stream"
OFFERS = (Representation(JSON), Representation(EVENT_STREAM))
PARAMETERS = ("accept", "after", "limit", "since", "wait")
_DEFAULT_LIMIT, _MAXIMUM_LIMIT = 100, 1000
_EVENTS_AT_ONCE = 200
_MAXIMUM_SEQUENCE = 1 << 62
_HEADERS = {**NO_SNIFF, "Cache-Control": "no-store", "Vary": "Accept"}
_RETRY_MILLISECONDS = 2000

T = TypeVar("T")


async def changes(request: Request) -> Response:
    """Changes behind ``after`` (or ``since``): a page of them, or a stream that goes on where Last-Event-ID says.

    A page begins at the first change unless told otherwise, a stream behind the last one. ``wait``: seconds that a page
    without changes is held back for some to come.
    """
    accepts = request.query_params.getlist("accept") or request.headers.getlist("accept")
    chosen = negotiate(accepts, OFFERS)
    settings: ChangeSettings = request.app.state.settings.changes
    tail: Tail = request.app.state.tail
    session = session_of(request)
    after = _number(request, "after", _MAXIMUM_SEQUENCE, _number(request, "since", _MAXIMUM_SEQUENCE))
    if chosen.media_type == EVENT_STREAM:
        said = request.headers.get("last-event-id", "")
        place = _sequence("Last-Event-ID", said, _MAXIMUM_SEQUENCE) if said else after
        end = await in_thread(session.latest)
        return EventStream(tail, end if place is None else place, settings.heartbeat_seconds)
    limit = _number(request, "limit", _MAXIMUM_SEQUENCE, _DEFAULT_LIMIT) or 0
    if not limit:
        raise BadRequest("limit is not a number from 1 on")
    limit = min(limit, _MAXIMUM_LIMIT)
    wait = min(_seconds(request, "wait"), settings.wait_maximum_seconds)
    place = after or 0
    found, latest = await in_thread(_page, session, place, limit)
    if not found and wait:
        with tail.listening():
            await _while_there(request.receive, tail.behind(place, 1, wait))
        found, latest = await in_thread(_page, session, place, limit)
    return _answer(found, place, latest)


async def latest(request: Request) -> Response:
    """The last change alone, as a page: who begins behind it gets what comes from now on."""
    found, last = await in_thread(_last_page, session_of(request))
    return _answer(found, max(last - 1, 0), last)


def _page(session: Session, after: int, limit: int) -> tuple[Sequence[Change], int]:
    """A page, and the sequence of the last change of all, read later."""
    return session.changes(after, limit), session.latest()


def _last_page(session: Session) -> tuple[Sequence[Change], int]:
    last = session.latest()
    return session.changes(last - 1, 1) if last else (), last


def _answer(found: Sequence[Change], place: int, last: int) -> Response:
    end = found[-1].sequence if found else place
    page = {
        "changes": [as_object(change) for change in found],
        "last": end,
        "latest": last,
        "done": end >= last,
    }
    return Response(orjson.dumps(page), headers=_HEADERS, media_type=JSON)


def _number(request: Request, name: str, most: int, default: int | None = None) -> int | None:
    text = request.query_params.get(name)
    return default if text is None else _sequence(name, text, most)


def _sequence(name: str, text: str, most: int) -> int:
    if not (text.isascii() and text.isdigit() and len(text) <= 20):
        raise BadRequest(f"{name} is not a number from 0 on")
    return min(int(text), most)


def _seconds(request: Request, name: str) -> float:
    text = request.query_params.get(name, "0")
    try:
        seconds = float(text) if len(text) <= 20 else math.nan
    except ValueError:
        seconds = math.nan
    if not 0 <= seconds < math.inf:
        raise BadRequest(f"{name} is not a number of seconds")
    return seconds


async def _while_there(receive: Receive, work: Coroutine[Any, Any, T]) -> T | None:
    """What comes of some work, which is given up when the client goes away; then None."""
    working = asyncio.create_task(work)
    leaving = asyncio.create_task(_left(receive))
    try:
        await asyncio.wait((working, leaving), return_when=asyncio.FIRST_COMPLETED)
        return await working if working.done() else None
    finally:
        working.cancel()
        leaving.cancel()


async def _left(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


class EventStream(Response):
    """Changes behind a place as server-sent events, until the client goes away or the gateway stops.

    A comment goes out when nothing else has for ``heartbeat_seconds``. A client that takes nothing is cut off by its
    connection. The first word is the place, so that who comes back goes on from there.
    """

    media_type = EVENT_STREAM

    def __init__(self, tail: Tail, place: int, heartbeat_seconds: float) -> None:
        super().__init__(None, 200, {**_HEADERS, "X-Accel-Buffering": "no"})
        del self.headers["content-length"]
        self._tail = tail
        self._place = place
        self._heartbeat_seconds = heartbeat_seconds

    async def __call__(self, _scope: Scope, receive: Receive, send: Send) -> None:
        """Send what there is and what comes. Raises Overloaded before a word is said."""
        with self._tail.listening():
            await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
            leaving = asyncio.create_task(_left(receive))
            try:
                await self._send(send, b"retry: %d\nid: %d\n\n" % (_RETRY_MILLISECONDS, self._place))
                while not (leaving.done() or self._tail.is_closed):
                    found = await self._next(leaving)
                    await self._send(send, b"".join(map(as_event, found)) or b":\n\n")
            finally:
                leaving.cancel()
            await send({"type": "http.response.body", "body": b""})

    async def _next(self, leaving: asyncio.Task[None]) -> Sequence[Change]:
        """What comes behind the place, which moves along; nothing when it is time for a heartbeat, or to end."""
        waiting = asyncio.create_task(self._tail.behind(self._place, _EVENTS_AT_ONCE, self._heartbeat_seconds))
        try:
            await asyncio.wait((waiting, leaving), return_when=asyncio.FIRST_COMPLETED)
            found = await waiting if waiting.done() else ()
        finally:
            waiting.cancel()
        if found:
            self._place = found[-1].sequence
        return found

    async def _send(self, send: Send, body: bytes) -> None:
        await send({"type": "http.response.body", "body": body, "more_body": True})
