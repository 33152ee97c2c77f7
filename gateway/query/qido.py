"""QIDO-RS as a client: one request a page, lazily, until the server has no more. PS3.18 §8.3.4, §10.6

Nothing is believed: a page has a deadline and a cap in bytes, redirections are not followed, credentials go to the
named server only, and a server that repeats itself is noticed.
"""

from __future__ import annotations

from collections.abc import Generator, Mapping
from http import HTTPStatus
from urllib.parse import urlencode

import orjson

from gateway.query.failures import BadUsage, Failed, Refused
from gateway.query.search import ALL, Search, read_field
from gateway.query.server import WebServer
from gateway.query.text import quoted
from gateway.query.web import Fetched, fetch
from storage.model import JsonElement, Level
from storage.uids import is_uid

PAGE_ANSWERS = 200
PAGE_MAXIMUM_BYTES = 32 << 20
PAGE_MAXIMUM_VALUES = 4_000_000  # of a few bytes each in JSON, and of a hundred in memory
_RESOURCES = {Level.STUDY: "studies", Level.SERIES: "series", Level.INSTANCE: "instances"}
# Of the columns, those that servers need not return without being asked. PS3.18 Tables 10.6.3-3 to 10.6.3-5
_ON_REQUEST = ("StudyDescription", "BodyPartExamined")
_REASON_KEYS = ("reason", "Details", "details", "errorMessage", "message", "Message")

Answer = dict[str, JsonElement]


def answers(
    server: WebServer, search: Search, headers: Mapping[str, str], seconds: float
) -> Generator[Answer, None, None]:
    """The matches in the DICOM JSON Model, from page to page as they are taken; one more than the limit at most.

    The UIDs of the path are added to answers that leave them out. Raises QueryError.
    """
    if search.level is Level.PATIENT:
        raise BadUsage("QIDO-RS has no search for patients; C-FIND has: name the server as AE@host:port.")
    path, scope = _resource(server, search)
    wanted = None if search.limit is None else search.limit + 1
    taken, previous, was_short = 0, None, False
    while wanted is None or taken < wanted:
        asked = PAGE_ANSWERS if wanted is None else min(PAGE_ANSWERS, wanted - taken)
        query = urlencode(_parameters(search, scope, asked, search.offset + taken))
        page = _page(server, f"{path}?{query}", headers, seconds)
        if not page:
            return
        if page == previous:
            if was_short:
                return  # it does not know 'offset', and this was all
            raise Failed(f"{server.name} gives the same page again: it does not know 'offset', and has more.")
        for answer in page:
            yield {**scope, **answer}
        if len(page) > asked:
            return  # it does not know 'limit': this was all
        taken += len(page)
        previous, was_short = page, len(page) < asked


def _resource(server: WebServer, search: Search) -> tuple[str, Answer]:
    """Path of the resource, and the UIDs in it: servers know the path of a study better than a search in all."""
    scope: Answer = {}
    path = server.path
    parents = [("StudyInstanceUID", "studies"), ("SeriesInstanceUID", "series")][: search.level - Level.STUDY]
    for keyword, resource in parents:
        uid = search.key(keyword)
        if not is_uid(uid):
            break
        path += f"/{resource}/{uid}"
        scope[read_field(keyword).tags[0]] = {"vr": "UI", "Value": [uid]}
    return f"{path}/{_RESOURCES[search.level]}", scope


def _parameters(search: Search, scope: Answer, limit: int, offset: int) -> list[tuple[str, str]]:
    columns = {field.name for field in search.columns}
    included = [name for name in _ON_REQUEST if name in columns] + [field.name for field in search.fields]
    parameters = [(field.name, value) for field, value in search.keys.items() if field.tags[0] not in scope]
    if search.includes_all:
        parameters.append(("includefield", ALL))
    else:
        parameters += [("includefield", name) for name in dict.fromkeys(included)]
    if search.is_fuzzy:
        parameters.append(("fuzzymatching", "true"))
    parameters.append(("limit", str(limit)))
    if offset:
        parameters.append(("offset", str(offset)))
    return parameters


def _page(server: WebServer, target: str, headers: Mapping[str, str], seconds: float) -> list[Answer]:
    usual = {"Accept": "application/dicom+json", **headers}
    return _read_answers(server, fetch(server, target, usual, seconds, PAGE_MAXIMUM_BYTES))


def _read_answers(server: WebServer, fetched: Fetched) -> list[Answer]:
    status, body = fetched.status, fetched.body
    if status == HTTPStatus.NO_CONTENT:
        return []
    if status != HTTPStatus.OK:
        raise _refusal(server, fetched)
    if sum(map(body.count, (b",", b"{", b"["))) > PAGE_MAXIMUM_VALUES:
        raise Failed(f"The answer of {server.name} has too many values.")
    try:
        page = orjson.loads(body)
    except orjson.JSONDecodeError:
        kind = quoted(fetched.headers.get("content-type", "nothing"))
        raise Failed(
            f"{server.name} answers with {kind} that is not JSON. Is this the base URL of its DICOMweb service?"
        ) from None
    if not isinstance(page, list) or not all(_is_answer(one) for one in page) or not _can_be_written(page):
        raise Failed(f"{server.name} answers with JSON that is not of DICOM.")
    return page


def _is_answer(one: object) -> bool:
    return isinstance(one, dict) and all(isinstance(element, dict) for element in one.values())


def _can_be_written(page: list[Answer]) -> bool:
    """Whether it may leave as JSON again: what is read may be nested deeper than what is written, and than DICOM is."""
    try:
        orjson.dumps(page)
    except orjson.JSONEncodeError:
        return False
    return True


def _refusal(server: WebServer, fetched: Fetched) -> Failed | Refused:
    status = fetched.status
    try:
        phrase = HTTPStatus(status).phrase
    except ValueError:
        phrase = "a status that HTTP does not define"
    said = f"{server.name} answers {status} {phrase}"
    location = fetched.headers.get("location")
    if 300 <= status < 400 and location:
        return Refused(f"{said}: it is at {quoted(location)}. Redirections are not followed.")
    if reason := _reason(fetched.body):
        said += f": {reason}"
    if status == HTTPStatus.UNAUTHORIZED:
        return Refused(f"{said}. Give credentials by --header or DICOMWEB_TOKEN.")
    if status == HTTPStatus.NOT_FOUND:
        return Refused(f"{said}. Is this the base URL of its DICOMweb service?")
    return Refused(f"{said}.") if 400 <= status < 500 else Failed(f"{said}.")


def _reason(body: bytes) -> str:
    """What a server says about an error in JSON, as several do; empty for anything else."""
    try:
        said = orjson.loads(body)
    except orjson.JSONDecodeError:
        return ""
    reasons = [said.get(key) for key in _REASON_KEYS] if isinstance(said, dict) else []
    return next((quoted(one).rstrip(".") for one in reasons if isinstance(one, str) and one), "")
