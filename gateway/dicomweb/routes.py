"""The table of DICOMweb: path template and method to endpoint. PS3.18 §10.1"""

from __future__ import annotations

from gateway.dicomweb import bulk, changes, commitment, delete, qido, rendered, stow, wado, wado_uri
from gateway.dicomweb.capabilities import capabilities
from gateway.dicomweb.responses import ALIAS, ROOT
from gateway.routing import Endpoint, Route

_STUDY = "/studies/{study}"
_SERIES = _STUDY + "/series/{series}"
_INSTANCE = _SERIES + "/instances/{instance}"
_FRAMES = _INSTANCE + "/frames/{frames}"
_URI = "/wado"
_COMMITMENT = "/commitment-requests/{transaction}"
_CHANGES = "/changes"
_LATEST = _CHANGES + "/latest"

TABLE: tuple[tuple[str, str, Endpoint], ...] = (
    ("GET", "/studies", qido.studies),
    ("POST", "/studies", stow.store),
    ("GET", "/series", qido.series),
    ("GET", "/series/{series}/instances", qido.instances),
    ("GET", "/instances", qido.instances),
    ("GET", _STUDY, wado.instances),
    ("POST", _STUDY, stow.store),
    ("DELETE", _STUDY, delete.delete),
    ("GET", _STUDY + "/series", qido.series),
    ("GET", _STUDY + "/instances", qido.instances),
    ("GET", _STUDY + "/metadata", wado.metadata),
    ("GET", _STUDY + "/bulkdata", bulk.all_bulk_data),
    ("GET", _STUDY + "/pixeldata", bulk.pixel_data),
    ("GET", _STUDY + "/rendered", rendered.rendered),
    ("GET", _STUDY + "/thumbnail", rendered.thumbnail),
    ("GET", _SERIES, wado.instances),
    ("DELETE", _SERIES, delete.delete),
    ("GET", _SERIES + "/instances", qido.instances),
    ("GET", _SERIES + "/metadata", wado.metadata),
    ("GET", _SERIES + "/bulkdata", bulk.all_bulk_data),
    ("GET", _SERIES + "/pixeldata", bulk.pixel_data),
    ("GET", _SERIES + "/rendered", rendered.rendered),
    ("GET", _SERIES + "/thumbnail", rendered.thumbnail),
    ("GET", _INSTANCE, wado.instances),
    ("DELETE", _INSTANCE, delete.delete),
    ("GET", _INSTANCE + "/metadata", wado.metadata),
    ("GET", _INSTANCE + "/bulkdata", bulk.all_bulk_data),
    ("GET", _INSTANCE + "/pixeldata", bulk.pixel_data),
    ("GET", _INSTANCE + "/rendered", rendered.rendered),
    ("GET", _INSTANCE + "/thumbnail", rendered.thumbnail),
    ("GET", _INSTANCE + "/bulkdata/{path:path}", bulk.bulk_data),
    ("GET", _URI, wado_uri.retrieve),
    ("GET", _FRAMES, wado.frames),
    ("GET", _FRAMES + "/rendered", rendered.rendered_frame),
    ("GET", _FRAMES + "/thumbnail", rendered.thumbnail),
    ("GET", _COMMITMENT, commitment.result),
    ("POST", _COMMITMENT, commitment.ask),
    ("GET", _CHANGES, changes.changes),
    ("GET", _LATEST, changes.latest),
)


def routes(*, allow_delete: bool = False) -> list[Route]:
    """DICOMweb below its root, and below the alias that Orthanc's users know; WADO-URI and the change feed at the top,
    too.

    allow_delete: whether that is among what is told to be there; where it is not, it is answered with the reason.
    """
    told = [row for row in TABLE if allow_delete or row[2] is not delete.delete]
    rows = [*TABLE, ("OPTIONS", "", capabilities(told))]
    table = [Route(method, root + path, endpoint) for root in (ROOT, ALIAS) for method, path, endpoint in rows]
    at_top = ((_URI, wado_uri.retrieve), (_CHANGES, changes.changes), (_LATEST, changes.latest))
    return [*table, *(Route("GET", path, endpoint) for path, endpoint in at_top)]
