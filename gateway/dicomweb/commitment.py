"""Storage Commitment Service: a request is kept durably, and answered at once where that takes no time. PS3.18 §13

What takes longer is answered by the DIMSE process, which does that for both doors, while the client is told to come
again. Bodies are held whole, so only so much of them is held at a time.
"""

from __future__ import annotations

import contextlib
import time
from array import array
from collections.abc import Iterator
from dataclasses import replace
from functools import cache

from starlette.requests import Request
from starlette.responses import Response

from gateway import metrics
from gateway.dicomweb.commitment_module import read_request, write_answer
from gateway.dicomweb.media_types import DICOM_JSON, JSON, JSON_OFFERS, negotiate, parse_media_type
from gateway.dicomweb.responses import NO_SNIFF, PRIVATE
from gateway.http import Lane, Stream, http_settings, in_thread, session_of
from gateway.session import Session
from storage import errors
from storage.commitment import Commitment
from storage.model import Source
from storage.uids import is_uid

DOOR = "dicomweb"
ANSWER_SECONDS = 5.0
"""How long a client waits for its answer; then it has to come again."""
RETRY_SECONDS = 5
_LEFT_ALONE_SECONDS = 15
_WAITING, _WAITING_SECONDS = 16, 20.0
_HELD_REQUESTS = 2


@cache
def _lane() -> Lane:
    """One request after the other: memory for the largest is enough, and everybody else reads on."""
    return Lane(1, _WAITING, "commitment", _WAITING_SECONDS)


class _Body:
    """What came of a body so far."""

    def __init__(self) -> None:
        self.size_bytes = 0
        self._content = bytearray()

    def add(self, chunk: bytes) -> None:
        """Append some of it."""
        self.size_bytes += len(chunk)
        self._content += chunk

    def text(self) -> str:
        """All of it, which is then no longer kept here. Raises BadRequest where it is not UTF-8."""
        content, self._content = self._content, bytearray()
        try:
            return content.decode()
        except UnicodeDecodeError as error:
            raise errors.BadRequest("The payload is not in the DICOM JSON Model") from error


class _Bodies:
    """The bodies that are held now, by all requests of this process."""

    def __init__(self) -> None:
        self._held_bytes = 0

    @contextlib.contextmanager
    def holding(self) -> Iterator[_Body]:
        """A body, which is let go of at the end."""
        body = _Body()
        try:
            yield body
        finally:
            self._held_bytes -= body.size_bytes

    def add(self, body: _Body, chunk: bytes, most: int) -> None:
        """Take some of it. Raises TooLarge, and Overloaded when too much is held."""
        if body.size_bytes + len(chunk) > most:
            raise errors.TooLarge("The request is longer than the limit")
        if self._held_bytes + len(chunk) > _HELD_REQUESTS * most:
            raise errors.Overloaded
        self._held_bytes += len(chunk)
        body.add(chunk)


@cache
def _bodies() -> _Bodies:
    return _Bodies()


async def ask(request: Request) -> Response:
    """``POST /commitment-requests/{transaction}``. PS3.18 §13.4

    200 with the answer, or 202 when it takes longer; either way the request is durable. Raises BadRequest,
    UnsupportedMediaType, NotAcceptable, TransactionInUse, TooLarge, Overloaded, StorageUnavailable.
    """
    answer_type = negotiate(request.headers.getlist("accept"), JSON_OFFERS).media_type
    transaction_uid = _transaction_uid(request)
    media_type, _ = parse_media_type(request.headers.get("content-type", ""))
    if media_type not in (DICOM_JSON, JSON) or request.headers.get("content-encoding", "identity") != "identity":
        raise errors.UnsupportedMediaType
    source = Source(DOOR, address=request.client.host if request.client else "")
    session = session_of(request)
    try:
        with _bodies().holding() as body:
            most = http_settings(request).commitment_maximum_bytes
            async for chunk in request.stream():
                _bodies().add(body, chunk, most)
            answered = await _lane().run(_answered, session, transaction_uid, body, source)
    except errors.GatewayError:
        metrics.COMMITMENTS.labels(DOOR, "refused").inc()
        raise
    return _response(answered, answer_type)


async def result(request: Request) -> Response:
    """``GET /commitment-requests/{transaction}``: the same answer again, or 202 as long as there is none. PS3.18 §13.5

    Raises NotFound for what was not asked here, or is forgotten.
    """
    answer_type = negotiate(request.headers.getlist("accept"), JSON_OFFERS).media_type
    commitments = session_of(request).commitments
    found = await in_thread(commitments.get, _transaction_uid(request))
    if found is None or found.source.door != DOOR:
        raise errors.NotFound
    return _response(found, answer_type)


def _transaction_uid(request: Request) -> str:
    uid: str = request.path_params["transaction"]
    if not is_uid(uid):
        raise errors.BadRequest("The Transaction UID is malformed")
    return uid


def _response(commitment: Commitment, media_type: str) -> Response:
    headers = NO_SNIFF | PRIVATE
    if commitment.reasons is None:
        return Response(status_code=202, headers={**headers, "Retry-After": str(RETRY_SECONDS)})
    return Stream(write_answer(commitment), 200, headers, media_type)


def _answered(session: Session, transaction_uid: str, body: _Body, source: Source) -> Commitment:
    """Keep the request, and answer it if there is time; blocks."""
    references = read_request(body.text(), session.commitment_references_maximum)
    now = int(time.time())
    commitment = Commitment(transaction_uid, references, source, now)
    session.ask(commitment, now + _LEFT_ALONE_SECONDS)
    try:
        return _answer(session, commitment)
    except errors.StorageUnavailable:  # the request is kept; it is answered when that is possible
        return commitment


def _answer(session: Session, commitment: Commitment) -> Commitment:
    deadline = time.monotonic() + ANSWER_SECONDS
    reasons = array("H")
    for reason in session.commit(commitment.references, "web"):
        reasons.append(reason)
        if time.monotonic() > deadline:
            return commitment
    session.commitments.answer(commitment.transaction_uid, int(time.time()), reasons)
    metrics.note_commitment(DOOR, reasons)
    return replace(commitment, reasons=reasons)
