"""Answers every DICOMweb transaction shares: the table from errors to HTTP statuses, URLs of resources, ETags."""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Mapping

import orjson
from starlette.requests import HTTPConnection, Request
from starlette.responses import Response

from gateway import metrics
from gateway.http import root_url
from storage import errors
from storage.dictionary import keyword_path
from storage.model import Level, Scope
from storage.uids import is_uid

logger = logging.getLogger(__name__)

ROOT = "/dicomweb"
ALIAS = "/dicom-web"
RETRY_SECONDS = 10
_DAY_SECONDS = 86_400
_NAMES = ("study", "series", "instance")
_ENTITY_TAG = re.compile(r'\*|(?:W/)?"[^"]*"')
NO_SNIFF = {"X-Content-Type-Options": "nosniff", "Referrer-Policy": "no-referrer"}
PRIVATE = {"Cache-Control": "private, no-cache", "Vary": "Accept"}

STATUS: Mapping[type[errors.GatewayError], int] = {
    errors.NotDicom: 400,
    errors.InvalidInstance: 409,
    errors.TooLarge: 413,
    errors.InstanceConflict: 409,
    errors.TransactionInUse: 409,
    errors.UnsupportedSOPClass: 409,
    errors.UnsupportedTransferSyntax: 409,
    errors.BadRequest: 400,
    errors.UnsupportedMediaType: 415,
    errors.NotFound: 404,
    errors.Gone: 410,
    errors.OnHold: 409,
    errors.NotAcceptable: 406,
    errors.Undecodable: 422,
    errors.Unauthenticated: 401,
    errors.Forbidden: 403,
    errors.RateLimited: 429,
    errors.Overloaded: 503,
    errors.StorageUnavailable: 503,
    errors.PolicyFailed: 500,
    errors.CorruptObject: 500,
}


def status_of(error: BaseException) -> int:
    """The status of the nearest class in the table; 500 for anything that is no error of ours, a bug."""
    return next((STATUS[kind] for kind in type(error).__mro__ if kind in STATUS), 500)


def retry_seconds(error: BaseException) -> int:
    """When it is worth trying again: quotas are of a day (UTC)."""
    if isinstance(error, errors.QuotaExceeded):
        return _DAY_SECONDS - int(time.time()) % _DAY_SECONDS
    if isinstance(error, errors.RateLimited):
        return error.seconds
    return RETRY_SECONDS


def error_response(_: Request, error: Exception) -> Response:
    """A failed request: a status from the table and a JSON body with the reason, and the attribute at fault (Q26).

    No value of the input is repeated in it (G14).
    """
    status = status_of(error)
    known = isinstance(error, errors.GatewayError)
    if isinstance(error, errors.CorruptObject):
        metrics.INTEGRITY_FAILURES.labels("web").inc()
    if status >= 500:
        logger.error("http.failed", extra={"error": type(error).__name__}, exc_info=None if known else error)
    body = {"error": type(error).__name__ if known else "Internal", **_reason(error)}
    headers = dict(NO_SNIFF)
    if status in (429, 503):
        headers["Retry-After"] = str(retry_seconds(error))
    return Response(orjson.dumps(body), status, headers, "application/json")


def _reason(error: Exception) -> Mapping[str, str]:
    if not isinstance(error, errors.GatewayError):
        return {"reason": "The server met a condition that it does not know"}
    if not error.tag:
        return {"reason": error.reason}
    return {"reason": error.reason, "attribute": keyword_path(error.tag), "tag": error.tag}


def base_url(request: HTTPConnection) -> str:
    """Where DICOMweb is for this client, by the path it used: ``https://pacs.example.org/dicomweb``."""
    path = request.scope["path"]
    return root_url(request) + (ALIAS if path.startswith(ALIAS + "/") else ROOT)


def resource_url(base: str, scope: Scope) -> str:
    """The Retrieve URL of a study, series or instance. PS3.18 §10.1"""
    url = f"{base}/studies/{scope.study_instance_uid}"
    if scope.level >= Level.SERIES:
        url += f"/series/{scope.series_instance_uid}"
    if scope.level >= Level.INSTANCE:
        url += f"/instances/{scope.sop_instance_uid}"
    return url


def path_scope(request: Request) -> Scope:
    """The resource that a path names; "" for a study or series it leaves open. Raises BadRequest for no UID (G16)."""
    named = {name: request.path_params[name] for name in _NAMES if name in request.path_params}
    if not all(map(is_uid, named.values())):
        raise errors.BadRequest("A UID in the path is malformed")
    return Scope(*(named.get(name, "") for name in _NAMES))


def accepts_coding(request: Request, coding: str) -> bool:
    """Whether the client names a content coding and does not refuse it. RFC 9110 §12.5.3"""
    for item in request.headers.get("accept-encoding", "").lower().split(","):
        name, _, parameter = item.partition(";")
        if name.strip() == coding:
            return re.fullmatch(r"q=0(?:\.0*)?", parameter.strip()) is None
    return False


def is_unchanged(request: Request, etag: str) -> bool:
    """Whether the client already has this representation (G19). RFC 9110 §13.1.2"""
    known = ",".join(request.headers.getlist("if-none-match"))
    return any(tag.removeprefix("W/") in (etag, "*") for tag in _ENTITY_TAG.findall(known))


def not_modified(etag: str) -> Response:
    """304: use what you have."""
    return Response(status_code=304, headers={**PRIVATE, "ETag": etag})
