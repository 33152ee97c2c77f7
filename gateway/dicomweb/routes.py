"""The table of DICOMweb: path template and method to endpoint. PS3.18 §10.1"""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Mount, Route

from gateway.dicomweb import qido, rendered, stow, wado
from gateway.dicomweb.responses import ALIAS, ROOT

Endpoint = Callable[[Request], Awaitable[Response]]

_STUDY = "/studies/{study}"
_SERIES = _STUDY + "/series/{series}"
_INSTANCE = _SERIES + "/instances/{instance}"
_FRAMES = _INSTANCE + "/frames/{frames}"

TABLE: tuple[tuple[str, str, Endpoint], ...] = (
    ("GET", "/studies", qido.studies),
    ("POST", "/studies", stow.store),
    ("GET", "/series", qido.series),
    ("GET", "/instances", qido.instances),
    ("GET", _STUDY, wado.instances),
    ("POST", _STUDY, stow.store),
    ("GET", _STUDY + "/series", qido.series),
    ("GET", _STUDY + "/instances", qido.instances),
    ("GET", _STUDY + "/metadata", wado.metadata),
    ("GET", _STUDY + "/rendered", rendered.rendered),
    ("GET", _STUDY + "/thumbnail", rendered.thumbnail),
    ("GET", _SERIES, wado.instances),
    ("GET", _SERIES + "/instances", qido.instances),
    ("GET", _SERIES + "/metadata", wado.metadata),
    ("GET", _SERIES + "/rendered", rendered.rendered),
    ("GET", _SERIES + "/thumbnail", rendered.thumbnail),
    ("GET", _INSTANCE, wado.instances),
    ("GET", _INSTANCE + "/metadata", wado.metadata),
    ("GET", _INSTANCE + "/rendered", rendered.rendered),
    ("GET", _INSTANCE + "/thumbnail", rendered.thumbnail),
    ("GET", _INSTANCE + "/bulkdata/{path:path}", wado.bulk_data),
    ("GET", _FRAMES, wado.frames),
    ("GET", _FRAMES + "/rendered", rendered.rendered),
    ("GET", _FRAMES + "/thumbnail", rendered.thumbnail),
)


def _by_path() -> dict[str, dict[str, Endpoint]]:
    paths: dict[str, dict[str, Endpoint]] = {}
    for method, path, endpoint in TABLE:
        paths.setdefault(path, {})[method] = endpoint
    return paths


def _endpoint(methods: dict[str, Endpoint]) -> Endpoint:
    """One endpoint of a path for all its methods, so that a wrong one is told which are allowed (G15)."""

    async def answer(request: Request) -> Response:
        return await methods["GET" if request.method == "HEAD" else request.method](request)

    return answer


def routes() -> list[Mount]:
    """DICOMweb below its root and the alias that Orthanc's users know; a slash at the end is accepted (G16)."""
    table = [
        Route(path + tail, _endpoint(methods), methods=list(methods))
        for path, methods in _by_path().items()
        for tail in ("", "/")
        if not (tail and path.endswith(":path}"))
    ]
    return [Mount(ROOT, routes=table), Mount(ALIAS, routes=table)]
