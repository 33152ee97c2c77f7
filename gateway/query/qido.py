"""QIDO-RS as a client: one request a page, lazily, until the server has no more. PS3.18 §8.3.4, §10.6

Nothing is believed: a page has a deadline and a cap in bytes, redirections are not followed, credentials go to the
named server only, and a server that repeats itself is noticed.
"""

from __future__ import annotations

import contextlib
import http.client
import socket
import ssl
import threading
from collections.abc import Generator, Iterator, Mapping
from http import HTTPStatus
from urllib.parse import urlencode

import orjson

from gateway import __version__
from gateway.query.failures import BadUsage, Failed, Refused, Unreachable
from gateway.query.search import ALL, Search, read_field
from gateway.query.server import WebServer
from gateway.query.text import quoted
from storage.model import JsonElement, Level
from storage.uids import is_uid

PAGE_ANSWERS = 200
PAGE_MAXIMUM_BYTES = 32 << 20
PAGE_MAXIMUM_VALUES = 4_000_000  # of a few bytes each in JSON, and of a hundred in memory
_ERROR_MAXIMUM_BYTES = 64 << 10
_CHUNK_BYTES = 64 << 10
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
    try:
        return _read_page(server, target, headers, seconds)
    except ssl.SSLCertVerificationError as error:
        raise Unreachable(f"The certificate of {server.name} is not trusted: {quoted(error.verify_message)}.") from None
    except TimeoutError:
        raise _late(server, seconds) from None
    except http.client.RemoteDisconnected:
        raise Unreachable(f"{server.name} ends the connection without an answer.") from None
    except (OSError, UnicodeError) as error:
        reason = quoted(getattr(error, "strerror", None) or type(error).__name__)
        raise Unreachable(f"{server.name} cannot be reached: {reason}.") from None
    except http.client.HTTPException:
        raise Failed(f"{server.name} does not speak HTTP as it should.") from None


def _late(server: WebServer, seconds: float) -> Unreachable:
    return Unreachable(f"{server.name} has not answered within {seconds:g} s.")


def _read_page(server: WebServer, target: str, headers: Mapping[str, str], seconds: float) -> list[Answer]:
    with socket.create_connection((server.host, server.port), seconds) as plain:
        context = ssl.create_default_context() if server.is_secure else None
        connected = (
            context.wrap_socket(plain, server_hostname=server.host, do_handshake_on_connect=False) if context else plain
        )
        kind = http.client.HTTPSConnection if context else http.client.HTTPConnection
        with contextlib.closing(connected), _deadline(connected, seconds) as is_over:
            try:
                if isinstance(connected, ssl.SSLSocket):
                    connected.do_handshake()
                connection = kind(server.host, server.port)
                connection.sock = connected
                connection.request("GET", target, headers={**_usual_headers(), **headers})
                response = connection.getresponse()
                is_found = response.status == HTTPStatus.OK
                body = _body(server, response, PAGE_MAXIMUM_BYTES if is_found else _ERROR_MAXIMUM_BYTES)
            except (OSError, http.client.HTTPException):
                if is_over.is_set():
                    raise TimeoutError from None
                raise
            if is_over.is_set():
                raise TimeoutError
    return _read_answers(server, response, body)


def _usual_headers() -> dict[str, str]:
    return {
        "Accept": "application/dicom+json",
        "Accept-Encoding": "identity",
        "Connection": "close",
        "User-Agent": f"dicomweb-gateway/{__version__}",
    }


@contextlib.contextmanager
def _deadline(connected: socket.socket, seconds: float) -> Iterator[threading.Event]:
    """Break the connection when time is up: a server that sends a byte now and then never meets a socket's timeout."""
    is_over = threading.Event()

    def interrupt() -> None:
        is_over.set()
        with contextlib.suppress(OSError):
            socket.socket.shutdown(connected, socket.SHUT_RDWR)

    timer = threading.Timer(seconds, interrupt)
    timer.daemon = True
    timer.start()
    try:
        yield is_over
    finally:
        timer.cancel()


def _body(server: WebServer, response: http.client.HTTPResponse, maximum_bytes: int) -> bytes:
    """The whole body; of an error what is within the cap. Raises Failed for an answer beyond it."""
    pieces: list[bytes] = []
    left = maximum_bytes
    while left > 0 and (piece := response.read(min(left, _CHUNK_BYTES))):
        pieces.append(piece)
        left -= len(piece)
    if left == 0 and response.status == HTTPStatus.OK:
        raise Failed(f"The answer of {server.name} is longer than {maximum_bytes >> 20} MiB.")
    return b"".join(pieces)


def _read_answers(server: WebServer, response: http.client.HTTPResponse, body: bytes) -> list[Answer]:
    status = response.status
    if status == HTTPStatus.NO_CONTENT:
        return []
    if status != HTTPStatus.OK:
        raise _refusal(server, response, body)
    if sum(map(body.count, (b",", b"{", b"["))) > PAGE_MAXIMUM_VALUES:
        raise Failed(f"The answer of {server.name} has too many values.")
    try:
        page = orjson.loads(body)
    except orjson.JSONDecodeError:
        kind = quoted(response.getheader("Content-Type") or "nothing")
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


def _refusal(server: WebServer, response: http.client.HTTPResponse, body: bytes) -> Failed | Refused:
    status = response.status
    try:
        phrase = HTTPStatus(status).phrase
    except ValueError:
        phrase = "a status that HTTP does not define"
    said = f"{server.name} answers {status} {phrase}"
    location = response.getheader("Location")
    if 300 <= status < 400 and location:
        return Refused(f"{said}: it is at {quoted(location)}. Redirections are not followed.")
    if reason := _reason(body):
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
