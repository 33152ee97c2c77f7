"""Capabilities: every resource, method, parameter and media type, made from the table of routes. PS3.18 §8.9, Annex H

As WADL by default, or the same as JSON. What is told is what is served: nothing is written down twice.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from xml.etree import ElementTree as ET

import orjson
from starlette.requests import Request
from starlette.responses import Response

from gateway.dicomweb import bulk, changes, commitment, delete, qido, rendered, stow, wado, wado_uri
from gateway.dicomweb.documents import ENCAPSULATED, REPORT_OFFERS
from gateway.dicomweb.media_types import (
    DICOM,
    DICOM_JSON,
    JSON,
    JSON_OFFERS,
    METADATA_OFFERS,
    OCTET_STREAM,
    RENDERED_OFFERS,
    Representation,
    negotiate,
    rendered_offers,
)
from gateway.dicomweb.responses import NO_SNIFF, base_url
from gateway.dicomweb.zipped import ZIP
from gateway.pixels.codecs import encodings
from gateway.routing import Endpoint
from storage.uids import TRANSFER_SYNTAXES, transfer_syntax

WADL = "application/vnd.sun.wadl+xml"
_OFFERS = (Representation(WADL), Representation("application/xml"), Representation(JSON))
_DECLARATION = b'<?xml version="1.0" encoding="UTF-8"?>\n'
_NAMESPACE = "http://wadl.dev.java.net/2009/02"
_PARAMETER = re.compile(r"{(\w+)(?::path)?}")
_SEARCH: tuple[str, ...] = (
    "{attribute}",
    "includefield",
    "fuzzymatching",
    "emptyvaluematching",
    "multiplevaluematching",
)
_SEARCH += ("limit", "offset", "accept")
_TRANSFER = ("accept", "transferSyntax")
_RENDERED = ("accept", "annotation", "charset", "iccprofile", "quality", "viewport", "window")


@dataclass(frozen=True, slots=True)
class Described:
    """What one endpoint does: name of the transaction, parameters of its query, media types of answer and request.

    is_standard: whether it is a transaction of PS3.18.
    """

    name: str
    parameters: tuple[str, ...]
    answers: tuple[str, ...]
    requests: tuple[str, ...] = ()
    is_standard: bool = True


def _texts(offers: Iterable[Representation]) -> tuple[str, ...]:
    return tuple(map(str, offers))


def _syntaxes(media_type: str | None, *, is_multipart: bool) -> tuple[str, ...]:
    """As what pixels can be had beside as they are stored; each in its own media type without one that is given."""
    return _texts(
        Representation(media_type or transfer_syntax(uid).media_type, uid, is_multipart=is_multipart)
        for uid in encodings()
    )


_STORED = f'multipart/related; type="{DICOM}"; transfer-syntax=*'
_INSTANCES = (*_syntaxes(DICOM, is_multipart=True), _STORED, DICOM, ZIP)
_FRAMES = (*_syntaxes(None, is_multipart=True), f'multipart/related; type="{OCTET_STREAM}"; transfer-syntax=*')
_BULK = (f'multipart/related; type="{OCTET_STREAM}"', OCTET_STREAM)
_THUMBNAILS = _texts(RENDERED_OFFERS)
_PICTURES = _texts(rendered_offers())
_VIDEOS = tuple(
    dict.fromkeys(row.media_type for row in TRANSFER_SYNTAXES.values() if row.media_type.startswith("video/"))
)
_DOCUMENTS = tuple(dict.fromkeys((*_texts(REPORT_OFFERS), *ENCAPSULATED)))

_STORED_AS = tuple(str(Representation(media_type, is_multipart=True)) for media_type in stow.PART_TYPES)

DESCRIBED: Mapping[Endpoint, Described] = {
    qido.studies: Described("SearchForStudies", _SEARCH, _texts(METADATA_OFFERS)),
    qido.series: Described("SearchForSeries", _SEARCH, _texts(METADATA_OFFERS)),
    qido.instances: Described("SearchForInstances", _SEARCH, _texts(METADATA_OFFERS)),
    stow.store: Described("StoreInstances", (), _texts(stow.ANSWER_OFFERS), (*_STORED_AS, *stow.PART_TYPES)),
    delete.delete: Described("Delete", (), (), is_standard=False),
    wado.instances: Described("RetrieveInstances", _TRANSFER, _INSTANCES),
    wado.metadata: Described("RetrieveMetadata", ("accept",), _texts(METADATA_OFFERS)),
    wado.frames: Described("RetrieveFrames", _TRANSFER, _FRAMES),
    bulk.bulk_data: Described("RetrieveBulkData", ("accept",), _BULK),
    bulk.all_bulk_data: Described("RetrieveAllBulkData", ("accept",), _BULK[:1]),
    bulk.pixel_data: Described("RetrievePixelData", ("accept",), _BULK[:1]),
    rendered.rendered: Described("RetrieveRendered", _RENDERED, (*_PICTURES, *_VIDEOS, *_DOCUMENTS)),
    rendered.rendered_frame: Described("RetrieveRendered", _RENDERED, (*_PICTURES, *_VIDEOS)),
    rendered.thumbnail: Described("RetrieveThumbnail", ("accept", "viewport"), _THUMBNAILS),
    commitment.ask: Described("RequestCommitment", (), _texts(JSON_OFFERS), (DICOM_JSON,)),
    commitment.result: Described("CheckCommitmentResult", (), _texts(JSON_OFFERS)),
    wado_uri.retrieve: Described(
        "RetrieveURI", tuple(sorted(wado_uri.PARAMETERS)), (*_THUMBNAILS, *_VIDEOS, *_DOCUMENTS, DICOM)
    ),
    changes.changes: Described("RetrieveChanges", changes.PARAMETERS, _texts(changes.OFFERS), is_standard=False),
    changes.latest: Described("RetrieveLatestChange", (), (JSON,), is_standard=False),
}
"""By endpoint of the table of routes."""

Row = tuple[str, str, Endpoint]


def capabilities(table: Sequence[Row]) -> Endpoint:
    """The endpoint that tells of the routes in ``table``: method, template below the root, endpoint (K1)."""

    async def answer(request: Request) -> Response:
        accepts = request.query_params.getlist("accept") or request.headers.getlist("accept")
        chosen = negotiate(accepts, _OFFERS)
        base = base_url(request)
        body = as_json(base, table) if chosen.media_type == JSON else as_wadl(base, table)
        return Response(body, headers={**NO_SNIFF, "Vary": "Accept"}, media_type=chosen.media_type)

    return answer


def as_json(base: str, table: Sequence[Row]) -> bytes:
    """The routes as a list of objects."""
    resources = [
        {
            "method": method,
            "path": path,
            "id": DESCRIBED[endpoint].name,
            "parameters": DESCRIBED[endpoint].parameters,
            "answers": DESCRIBED[endpoint].answers,
            "requests": DESCRIBED[endpoint].requests,
        }
        for method, path, endpoint in table
    ]
    return orjson.dumps({"base": base, "resources": resources})


def as_wadl(base: str, table: Sequence[Row]) -> bytes:
    """The routes as Web Application Description Language: resources within resources. PS3.18 §H.1"""
    ET.register_namespace("", _NAMESPACE)
    application = _element(None, "application")
    known = {"": _element(application, "resources", base=base)}
    for method, path, endpoint in table:
        _add_method(_resource(known, path), method, DESCRIBED[endpoint])
    return _DECLARATION + bytes(ET.tostring(application, encoding="utf-8"))


def _resource(known: dict[str, ET.Element], path: str) -> ET.Element:
    """The element of a path, made with those above it where it is new."""
    if path not in known:
        above, _, last = path.rpartition("/")
        element = _element(_resource(known, above), "resource", path=_PARAMETER.sub(r"{\1}", last))
        name = _PARAMETER.fullmatch(last)
        if name:
            _element(element, "param", name=name[1], style="template", required="true")
        known[path] = element
    return known[path]


def _add_method(resource: ET.Element, name: str, described: Described) -> None:
    method = _element(resource, "method", name=name, id=described.name)
    request = _element(method, "request")
    for parameter in described.parameters:
        _element(request, "param", name=parameter, style="query")
    for media_type in described.requests:
        _element(request, "representation", mediaType=media_type)
    response = _element(method, "response", status="200" if described.answers else "204")
    for media_type in described.answers:
        _element(response, "representation", mediaType=media_type)


def _element(parent: ET.Element | None, element: str, **attributes: str) -> ET.Element:
    tag = f"{{{_NAMESPACE}}}{element}"
    return ET.Element(tag, attributes) if parent is None else ET.SubElement(parent, tag, attributes)
