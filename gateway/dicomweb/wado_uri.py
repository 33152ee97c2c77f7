"""WADO-URI: one object, as DICOM, a picture or a document, named by the parameters of a query. PS3.18 §9

The older sibling of Retrieve, for clients that know no multipart: the answer is one part always (U13).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from types import MappingProxyType

from starlette.requests import Request
from starlette.responses import Response

from gateway.dicomweb.documents import REPORT_OFFERS, is_report, offers_of, readable
from gateway.dicomweb.media_types import DICOM, RENDERED_OFFERS, Representation, negotiate
from gateway.dicomweb.rendered import annotation_of, decimal, integer, lane, shown
from gateway.dicomweb.video import is_video, video, video_offer
from gateway.dicomweb.wado import single_instance
from gateway.http import session_of
from gateway.pixels.options import Region, RenderOptions, Viewport, Window
from gateway.presented import Presented, is_presentation_state
from storage.errors import BadRequest, NotAcceptable
from storage.model import Document, Instance, Scope
from storage.uids import is_uid

_UIDS = ("studyUID", "seriesUID", "objectUID")
_REQUIRED = ("requestType", *_UIDS)
_OF_PICTURES = (
    "annotation",
    "rows",
    "columns",
    "region",
    "windowCenter",
    "windowWidth",
    "frameNumber",
    "imageQuality",
    "presentationUID",
    "presentationSeriesUID",
)
_OF_DICOM = ("transferSyntax", "anonymize")
PARAMETERS = frozenset((*_REQUIRED, "contentType", "charset", *_OF_PICTURES, *_OF_DICOM))
_CHARSETS = frozenset(("utf-8", "utf8"))
_STATE_UIDS = ("presentationSeriesUID", "presentationUID")
_NOT_IN_A_STATE = ("region", "windowCenter", "windowWidth")

Query = Mapping[str, str]


async def retrieve(request: Request) -> Response:
    """The object that the parameters name, in the media type that they ask for (U1–U13)."""
    return await lane().run(_retrieve, request)


def _retrieve(request: Request) -> Response:
    query = _query(request)
    session = session_of(request)
    instance = session.instances(Scope(*(query[name] for name in _UIDS)))[0]
    has_pictures = instance.number_of_frames or is_video(instance)
    document = None if has_pictures else session.document(instance.scope)
    chosen = negotiate([query.get("contentType", "")], _offers(instance, document))
    if chosen.media_type == DICOM:
        return _dicom(request, query, instance)
    _refuse(query, _OF_DICOM, "The parameter {} is for DICOM objects only")
    if is_video(instance) or (document is not None and not is_presentation_state(instance)):
        _refuse(query, _OF_PICTURES, "The parameter {} is for pictures only")
        return video(request, instance) if document is None else readable(request, document, chosen.media_type)
    number = integer(query["frameNumber"], "frameNumber") if "frameNumber" in query else 0
    if number > instance.number_of_frames or ("frameNumber" in query and number == 0):
        raise BadRequest("The parameter frameNumber names no frame of the object")
    options = _options(query, chosen.media_type)
    presented = _presented(request, query, instance, number)
    if presented is None:
        return shown(request, instance, number, options)
    return shown(request, presented.image, presented.number, options, presented)


def _presented(request: Request, query: Query, instance: Instance, number: int) -> Presented | None:
    """The image in the state that the query names, or that the object is, if any; both UIDs go together (U9)."""
    is_named = any(name in query for name in _STATE_UIDS)
    if not is_named and not is_presentation_state(instance):
        return None
    _refuse(query, _NOT_IN_A_STATE, "The parameter {} is not for a presentation state")
    if not is_named:
        return Presented.of_state(session_of(request), instance)
    for name in _STATE_UIDS:
        if not is_uid(query.get(name, "")):
            raise BadRequest(f"The parameter {name} is missing or no UID")
    scope = Scope(query["studyUID"], *(query[name] for name in _STATE_UIDS))
    return Presented.of_image(session_of(request), instance, number, scope)


def _query(request: Request) -> Query:
    """The parameters, each once, those that are required among them. Raises BadRequest and NotAcceptable."""
    given = request.query_params.multi_items()
    query = dict(given)
    known = [name for name, _ in given if name in PARAMETERS]
    if len(known) > len(set(known)):
        raise BadRequest("A parameter is given twice")
    for name in _REQUIRED:
        if not query.get(name):
            raise BadRequest(f"The parameter {name} is missing")
    if query["requestType"] != "WADO":
        raise BadRequest("The parameter requestType must be WADO")
    for name in _UIDS:
        if not is_uid(query[name]):
            raise BadRequest(f"The parameter {name} is no UID")
    if query.get("charset", "utf-8").lower() not in _CHARSETS:
        raise NotAcceptable("The parameter charset names an unsupported character set")
    return MappingProxyType(query)


def _offers(instance: Instance, document: Document | None) -> tuple[Representation, ...]:
    """What can be had, the default first: a picture of what is one, a video, text of a report, else the object (U2).

    A document that is encapsulated is no report: its default is the object.
    """
    itself = Representation(DICOM)
    if is_video(instance):
        return (video_offer(instance), itself)
    if document is None:
        return (*RENDERED_OFFERS, itself)
    if is_presentation_state(instance):
        return (itself, *RENDERED_OFFERS)
    if is_report(instance.sop_class_uid):
        return (*REPORT_OFFERS, itself)
    try:
        return (itself, *offers_of(document))
    except NotAcceptable:
        return (itself,)


def _dicom(request: Request, query: Query, instance: Instance) -> Response:
    """The object in the transfer syntax asked for; Explicit VR Little Endian unless it is stored with losses (U3)."""
    _refuse(query, _OF_PICTURES, "The parameter {} is for pictures only")
    if query.get("anonymize", "no") != "no":
        if query["anonymize"] != "yes":
            raise BadRequest("The parameter anonymize is yes or no")
        raise NotAcceptable("De-identified objects are not offered")
    asked = query.get("transferSyntax", "")
    if asked and asked != "*" and not is_uid(asked):
        raise BadRequest("The parameter transferSyntax is no UID")
    return single_instance(request, instance, partial(_chosen, asked))


def _chosen(asked: str, offers: Sequence[Representation], reason: str) -> Representation:
    single = [offer for offer in offers if not offer.is_multipart]
    try:
        return negotiate([DICOM], single, transfer_syntax_uid=asked)
    except NotAcceptable as error:
        raise NotAcceptable(f"{error.reason}. {reason}") if reason else error from None


def _refuse(query: Query, names: Sequence[str], reason: str) -> None:
    for name in names:
        if name in query:
            raise BadRequest(reason.format(name))


def _options(query: Query, media_type: str) -> RenderOptions:
    """How the picture is to look (U4–U10). Raises BadRequest, naming the parameter. PS3.18 §9.5"""
    if ("windowCenter" in query) != ("windowWidth" in query):
        raise BadRequest("The parameters windowCenter and windowWidth go together")
    window = None
    if "windowCenter" in query:
        window = Window(decimal(query["windowCenter"], "windowCenter"), decimal(query["windowWidth"], "windowWidth"))
    quality = integer(query["imageQuality"], "imageQuality") if "imageQuality" in query else None
    annotation = annotation_of(query.get("annotation", ""))
    return RenderOptions(media_type, quality=quality, window=window, viewport=_viewport(query), annotation=annotation)


def _viewport(query: Query) -> Viewport | None:
    """Rows and columns are the most there may be, where both are given; region is a part of the image (U4)."""
    width, height = (integer(query[name], name) if name in query else None for name in ("columns", "rows"))
    if 0 in (width, height):
        raise BadRequest("The parameters rows and columns are positive integers")
    region = _region(query["region"]) if "region" in query else None
    return Viewport(width, height, region) if width or height or region else None


def _region(text: str) -> Region:
    """``xmin,ymin,xmax,ymax``, each from 0 to 1. PS3.18 §9.5.1.7"""
    parts = [decimal(part, "region") for part in text.split(",")]
    if len(parts) != 4 or not all(0 <= part <= 1 for part in parts):
        raise BadRequest("The parameter region takes four numbers from 0 to 1")
    left, top, right, bottom = parts
    if left >= right or top >= bottom:
        raise BadRequest("The parameter region is empty")
    return Region(left, top, right - left, bottom - top, is_relative=True)
