"""The HTTP application of one process: every web door below one roof, with CORS, access log and error answers."""

from __future__ import annotations

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from gateway.dicomweb.responses import NO_SNIFF, error_response
from gateway.dicomweb.routes import routes as dicomweb_routes
from gateway.dicomweb.tail import Tail
from gateway.http import AccessLog, Cors, Sessions, check_host
from gateway.pictures import Renderer
from gateway.routing import Router
from gateway.security.actor import Actor
from gateway.settings import Settings
from gateway.web.routes import routes as web_routes

_REASONS = {
    404: "There is no such resource",
    405: "The method is not allowed here",
    421: "This Host is not known: name it in http.public_url, or its proxy in http.trusted_proxies",
}


def tail_of(settings: Settings, sessions: Sessions) -> Tail:
    """The end of the change feed, for one event loop."""
    return Tail(sessions(Actor("operator", "changes")), settings.changes.listeners_maximum)


def application(settings: Settings, sessions: Sessions, pool: Renderer, tail: Tail | None = None) -> AccessLog:
    """All web doors over one archive. Nothing in it keeps state between requests.

    tail: to be closed before the process stops; one of its own unless given.
    """
    router = Router((*web_routes(), *dicomweb_routes(allow_delete=settings.http.allow_delete)), _error, check_host)
    router.state.settings = settings
    router.state.sessions = sessions
    router.state.pool = pool
    router.state.tail = tail or tail_of(settings, sessions)
    origins = settings.http.cors_origins
    return AccessLog(Cors(router, origins) if origins else router)


def _error(request: Request, error: Exception) -> Response:
    """The answer to a failed request; also to what the router says itself, no such path or a wrong method."""
    if not isinstance(error, HTTPException):
        return error_response(request, error)
    headers = {**NO_SNIFF, **(error.headers or {})}
    reason = _REASONS.get(error.status_code, "The request failed")
    return Response(f'{{"error":"Http","reason":"{reason}"}}', error.status_code, headers, "application/json")
