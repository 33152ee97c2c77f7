"""The HTTP application of one process: every web door below one roof, with CORS, access log and error answers."""

from __future__ import annotations

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp

from gateway.dicomweb.rendered import Renderer
from gateway.dicomweb.responses import NO_SNIFF, error_response
from gateway.dicomweb.routes import routes as dicomweb_routes
from gateway.http import AccessLog, Cors, Sessions
from gateway.settings import Settings
from gateway.web.routes import routes as web_routes
from storage.errors import GatewayError

_REASONS = {404: "There is no such resource", 405: "The method is not allowed here"}


def application(settings: Settings, sessions: Sessions, pool: Renderer) -> ASGIApp:
    """All web doors over one archive. Nothing in it keeps state between requests."""
    app = Starlette(
        routes=[*web_routes(), *dicomweb_routes()],
        exception_handlers={GatewayError: error_response, HTTPException: _http_error, Exception: error_response},
    )
    app.router.redirect_slashes = False
    app.state.settings = settings
    app.state.sessions = sessions
    app.state.pool = pool
    return AccessLog(Cors(app, settings.http.cors_origins))


def _http_error(_: Request, error: Exception) -> Response:
    """What the router says itself: no such path, wrong method; as JSON like every other error."""
    status = error.status_code if isinstance(error, HTTPException) else 500
    headers = {**NO_SNIFF, **(getattr(error, "headers", None) or {})}
    reason = _REASONS.get(status, "The request failed")
    return Response(f'{{"error":"Http","reason":"{reason}"}}', status, headers, "application/json")
