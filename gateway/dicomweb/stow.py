"""Store transaction: parts of a POST flow into spools, and each is stored on its own while the next ones arrive.

The event loop cuts the body into parts; hashing, files and the archive run in threads. What is held of a request is
bounded by ``MAXIMUM_IN_FLIGHT`` parts of ``GATHER_BYTES`` and their spools, whatever the client sends. Instances that
come as metadata with bulk data are stored when the body has ended (``submission``). The answer is made after every
store has ended, so it says what is durable (R1, S11). PS3.18 §10.5
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections import Counter, deque
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing

import orjson
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response

from gateway.dicomweb.gathered import GATHER_BYTES, Gathered
from gateway.dicomweb.media_types import (
    DICOM,
    DICOM_JSON,
    DICOM_XML,
    JSON_OFFERS,
    MULTIPART_RELATED,
    Representation,
    negotiate,
    parse_media_type,
)
from gateway.dicomweb.multipart import Event, Mark, MultipartParser, PartBegins, boundary_of
from gateway.dicomweb.responses import NO_SNIFF, base_url, path_scope
from gateway.dicomweb.store_response import (
    FAILURE_REASONS,
    Failure,
    failure_of,
    status_for,
    store_instances_response,
    warnings_of,
)
from gateway.dicomweb.submission import Draft, Submission
from gateway.http import http_settings, in_waiting_thread, session_of
from gateway.session import Session
from gateway.settings import HttpSettings
from storage import errors
from storage.dicomxml import native_model
from storage.errors import GatewayError
from storage.filemeta import Announcement
from storage.ledger import CONNECTION_LOST, CUT_OFF, Account
from storage.model import Receipt, Source
from storage.spool import Spool
from storage.uids import EXPLICIT_VR_LITTLE_ENDIAN

logger = logging.getLogger(__name__)

MAXIMUM_IN_FLIGHT = 8
"""Parts of one request that are stored at the same time, so that they can share commits (D14)."""
SMALL_PART_BYTES = 16 << 10
"""A part up to here is hashed on the loop: junk is refused without a thread."""

PART_TYPES = (DICOM, DICOM_JSON, DICOM_XML)
"""What instances come as; one alone also without multipart. PS3.18 §10.5.1.4"""
ANSWER_OFFERS = (*JSON_OFFERS, Representation(DICOM_XML))

# ---------------------------------------------------------------------------------------------------------- the body


def body_events(request: Request, limits: HttpSettings) -> AsyncGenerator[Event, None]:
    """The parts of the body as they arrive; one part for an instance without multipart (S1).

    Raises at once UnsupportedMediaType, for another type or any content coding (H5), and BadRequest without boundary.
    On the way BadRequest and TooLarge, and ClientDisconnect.
    """
    if any(coding.strip().lower() != "identity" for coding in request.headers.getlist("content-encoding")):
        raise errors.UnsupportedMediaType("The body must not be compressed")
    content_type = request.headers.get("content-type", "")
    media_type, _ = parse_media_type(content_type)
    if media_type in PART_TYPES:
        return _one_part(request)
    if media_type != MULTIPART_RELATED:
        raise errors.UnsupportedMediaType
    boundary, part_type = boundary_of(content_type)
    if part_type not in (*PART_TYPES, ""):
        raise errors.UnsupportedMediaType
    return _many_parts(
        request,
        MultipartParser(
            boundary,
            maximum_parts=limits.stow_maximum_parts,
            maximum_headers=limits.stow_maximum_part_headers,
            maximum_header_bytes=limits.stow_maximum_part_header_bytes,
        ),
    )


def part_type_of(request: Request) -> str:
    """What the instances of a request come as, one of ``PART_TYPES`` where ``body_events`` takes it."""
    media_type, parameters = parse_media_type(request.headers.get("content-type", ""))
    return dict(reversed(parameters)).get("type", "").lower() if media_type == MULTIPART_RELATED else media_type


async def _one_part(request: Request) -> AsyncGenerator[Event, None]:
    yield PartBegins({})
    async with aclosing(request.stream()) as chunks:
        async for chunk in chunks:
            yield memoryview(chunk)
    yield Mark.PART_ENDS


async def _many_parts(request: Request, parser: MultipartParser) -> AsyncGenerator[Event, None]:
    async with aclosing(request.stream()) as chunks:
        async for chunk in chunks:
            for event in parser.feed(chunk):
                yield event
    parser.finish()
    if parser.parts == 0:
        raise errors.BadRequest("The body holds no parts")


class Part:
    """One instance on its way: bytes gather here, and go to the spool in a thread, one write at a time.

    Whoever ends it, the loop or a thread that outlives its request, the spool is closed and used no more.
    """

    def __init__(self, spool: Spool, content_type: str) -> None:
        self._spool = spool
        self._lock = threading.Lock()
        self._is_dropped = False
        self._gathered = Gathered()
        self._writing: asyncio.Task[None] | None = None
        self.error: GatewayError | None = None
        if content_type and parse_media_type(content_type)[0] != DICOM:
            self.error = errors.UnsupportedMediaType("The media type of a part is not supported")

    async def add(self, view: memoryview) -> None:
        """Take bytes; they are ignored once something is wrong with the part."""
        if self.error is not None:
            return
        self._gathered.add(view)
        if self._gathered.size_bytes >= GATHER_BYTES:
            await self.settle()
            gathered, self._gathered = self._gathered, Gathered()
            self._writing = asyncio.create_task(in_waiting_thread(self._write, gathered))

    async def settle(self) -> None:
        """Wait for the write that is under way."""
        if self._writing is not None:
            await self._writing
            self._writing = None

    def _write(self, gathered: Gathered) -> None:
        with self._lock:
            if not self._is_dropped:
                self._spool_bytes(gathered)
        if self._is_dropped:
            self.drop()

    def _spool_bytes(self, gathered: Gathered) -> None:
        if self.error is not None:
            return
        try:
            gathered.write_to(self._spool)
        except GatewayError as error:
            self.error = error.with_traceback(None)

    def refuse_early(self, session: Session, account: Account) -> Failure | None:
        """The failure of a part that cannot be stored, if that can be said without a thread: nothing is to be kept."""
        if self._writing is not None:
            return None
        if self.error is None and self._gathered.size_bytes <= SMALL_PART_BYTES:
            gathered, self._gathered = self._gathered, Gathered()
            self._spool_bytes(gathered)
            try:
                self._spool.finish()
            except GatewayError as error:
                self.error = self.error or error
        if self.error is None or session.keeps(account, self.error, self._spool):
            return None
        self.drop()
        failure = failure_of(self.error, self._spool)
        session.refuse(account, self.error, failure.reason)
        return failure

    def store(self, session: Session, account: Account, study_instance_uid: str) -> Receipt | Failure | None:
        """Keep the instance; blocks until it is durable or refused, and leaves no file. None when it was dropped."""
        with self._lock:
            if self._is_dropped:
                return None
            with self._spool:
                self._spool_bytes(self._gathered)
                self._gathered = Gathered()
                if self.error is not None:
                    return self._refused(session, account, self.error, study_instance_uid)
                try:
                    receipt = session.store(self._spool, account.source, study_instance_uid=study_instance_uid)
                except GatewayError as error:
                    return self._refused(session, account, error, study_instance_uid)
                except Exception as error:
                    status = FAILURE_REASONS[GatewayError]
                    session.refuse(account, error, status, self._spool, study_instance_uid=study_instance_uid)
                    raise
                account.note(receipt, self._spool.size_bytes)
                return receipt

    def _refused(self, session: Session, account: Account, error: GatewayError, study_instance_uid: str) -> Failure:
        failure = failure_of(error, self._spool)
        session.refuse(account, error, failure.reason, self._spool, study_instance_uid=study_instance_uid)
        return failure

    def drop(self) -> None:
        """Let go of the bytes and the file, at once or when the thread that is at work on them has ended."""
        self._is_dropped = True
        self._gathered = Gathered()
        if self._lock.acquire(blocking=False):
            try:
                self._spool.close()
            finally:
                self._lock.release()


class DraftedPart:
    """An instance whose metadata and bulk data are here: its Data Set goes to a spool when its turn comes."""

    def __init__(self, draft: Draft) -> None:
        self._draft = draft

    async def settle(self) -> None:
        """There is no write under way."""

    def store(self, session: Session, account: Account, study_instance_uid: str) -> Receipt | Failure:
        """Keep the instance; blocks until it is durable or refused, and leaves no file.

        What was written whole and refused may be kept in quarantine; of what could not be written there is nothing.
        """
        with session.spool(Announcement("", "", EXPLICIT_VR_LITTLE_ENDIAN)) as spool:
            is_written = False
            try:
                self._draft.write_to(spool)
                is_written = True
                receipt = session.store(spool, account.source, study_instance_uid=study_instance_uid)
            except GatewayError as error:
                failure = failure_of(error, spool)
                kept = spool if is_written else None
                session.refuse(account, error, failure.reason, kept, study_instance_uid=study_instance_uid)
                return failure
            account.note(receipt, spool.size_bytes)
            return receipt

    def drop(self) -> None:
        """Nothing is held beyond ``store``."""


class Intake:
    """The stores of one request: at most ``MAXIMUM_IN_FLIGHT`` at a time, outcomes in the order of the parts."""

    def __init__(self, session: Session, source: Source, study_instance_uid: str) -> None:
        self._session = session
        self.account = session.account(source)
        self._study_instance_uid = study_instance_uid
        self._part: Part | None = None
        self._running: deque[asyncio.Task[None]] = deque()
        self._outcomes: list[Receipt | Failure | None] = []
        self.is_storage_down = False

    async def take(self, event: Event) -> None:
        """Follow the body. Raises Forbidden when the client may not store at all."""
        if isinstance(event, memoryview):
            assert self._part is not None
            await self._part.add(event)
        elif isinstance(event, PartBegins):
            self._part = Part(self._session.spool(keeps_foreign=True), event.headers.get("content-type", ""))
        elif event is Mark.PART_ENDS:
            await self._end_part()

    async def _end_part(self) -> None:
        assert self._part is not None
        failure = self._part.refuse_early(self._session, self.account)
        if failure is None:
            await self._begin(self._part)
        else:
            self._outcomes.append(failure)
        self._part = None

    async def _begin(self, part: Part | DraftedPart) -> None:
        """Store a part as soon as there is a place."""
        self._outcomes.append(None)
        number = len(self._outcomes) - 1
        while len(self._running) >= MAXIMUM_IN_FLIGHT:
            await self._running.popleft()
        self._running.append(asyncio.create_task(self._store(number, part)))

    async def _store(self, number: int, part: Part | DraftedPart) -> None:
        try:
            await part.settle()
            outcome = await in_waiting_thread(part.store, self._session, self.account, self._study_instance_uid)
        finally:
            part.drop()
        self._outcomes[number] = outcome
        if isinstance(outcome, Failure) and outcome.error == errors.StorageUnavailable.__name__:
            self.is_storage_down = True

    async def finish(self) -> GatewayError | None:
        """Take it that the body has ended, whole; returns what keeps us from storing the rest."""
        return None

    async def outcomes(self) -> Sequence[Receipt | Failure]:
        """Wait for every store; what became of each part, in order."""
        while self._running:
            await self._running.popleft()
        return [outcome for outcome in self._outcomes if outcome is not None]

    async def close(self) -> None:
        """Leave nothing behind, however the request ended: a part that did not end is dropped with its file (S15)."""
        await asyncio.gather(*self._running, return_exceptions=True)
        if self._part is not None:
            self._part.drop()
            await self._part.settle()


class MetadataIntake(Intake):
    """The same for instances that come as metadata with bulk data parts: they are stored when all of them are here."""

    def __init__(self, session: Session, source: Source, study_instance_uid: str, submission: Submission) -> None:
        super().__init__(session, source, study_instance_uid)
        self._submission = submission

    async def take(self, event: Event) -> None:
        """Follow the body. Raises what the submission raises."""
        await self._submission.take(event)

    async def finish(self) -> GatewayError | None:
        """Begin the stores. Raises BadRequest or TooLarge for metadata that cannot be read as a whole."""
        for draft in await self._submission.drafts():
            if self.is_storage_down:
                return errors.StorageUnavailable()
            await self._begin(DraftedPart(draft))
        return None

    async def outcomes(self) -> Sequence[Receipt | Failure]:
        """As of every intake, and a failure more where bulk data came that no instance refers to."""
        found = await super().outcomes()
        if found and self._submission.has_unused_parts:
            return [*found, failure_of(errors.BadRequest("No instance refers to a bulk data part"))]
        return found

    async def close(self) -> None:
        """Leave nothing behind; the file of the bulk data goes with its last reader."""
        await super().close()
        await self._submission.close()


def _answer_type(request: Request) -> str:
    """The client's choice among what there is; an Accept that cannot be met never costs it the store."""
    try:
        return negotiate(request.headers.getlist("accept"), ANSWER_OFFERS).media_type
    except errors.NotAcceptable:
        return ANSWER_OFFERS[0].media_type


def _intake(request: Request, study_instance_uid: str) -> Intake:
    """What takes the parts of a request. Raises Forbidden when the client may not store at all."""
    session, limits = session_of(request), http_settings(request)
    source = Source("dicomweb", address=request.client.host if request.client else "")
    part_type = part_type_of(request)
    if part_type in (DICOM, ""):
        return Intake(session, source, study_instance_uid)
    submission = Submission(
        session.attachments(maximum_bytes=limits.stow_maximum_bulk_bytes),
        part_type,
        maximum_metadata_bytes=limits.stow_maximum_metadata_bytes,
        maximum_instances=limits.stow_maximum_parts,
    )
    return MetadataIntake(session, source, study_instance_uid, submission)


async def store(request: Request) -> Response:
    """``POST /studies`` and ``/studies/{study}``. PS3.18 §10.5

    Every part is stored or refused on its own. What breaks the body itself ends the request: as an error when
    nothing is stored yet, else as one more failure beside the instances that are. When the archive cannot be
    reached the rest of the body is not read.
    """
    study_instance_uid = path_scope(request).study_instance_uid if "study" in request.path_params else ""
    events = body_events(request, http_settings(request))
    answer_type = _answer_type(request)
    intake = _intake(request, study_instance_uid)
    ending = "broken off"
    try:
        broken, ending = await _receive(events, intake)
        broken = broken or await intake.finish()
        outcomes = await intake.outcomes()
        if broken is not None:
            intake.account.note_failure(CUT_OFF if ending == CONNECTION_LOST else type(broken).__name__)
    finally:
        try:
            await intake.close()
        finally:
            intake.account.close(ending)
    if broken is not None:
        if not any(isinstance(outcome, Receipt) for outcome in outcomes):
            raise broken
        outcomes = [*outcomes, failure_of(broken)]
    _log_failures(outcomes)
    module = store_instances_response(outcomes, base_url(request), study_instance_uid)
    headers = dict(NO_SNIFF)
    retries = [one.retry_seconds for one in outcomes if isinstance(one, Failure) and one.is_retryable]
    if retries:
        headers["Retry-After"] = str(min(retries))
    if warnings := warnings_of(outcomes):
        headers["Warning"] = warnings
    body = native_model(module) if answer_type == DICOM_XML else orjson.dumps(module)
    return Response(body, status_for(outcomes), headers, answer_type)


async def _receive(events: AsyncGenerator[Event, None], intake: Intake) -> tuple[GatewayError | None, str]:
    """Read the body to its end; returns what kept us from it, and how the request ended for the ledger."""
    try:
        async with aclosing(events):
            async for event in events:
                await intake.take(event)
                if intake.is_storage_down:
                    return errors.StorageUnavailable(), "broken off"
    except ClientDisconnect:
        return errors.BadRequest("The body ends before its closing boundary"), CONNECTION_LOST
    except (errors.BadRequest, errors.TooLarge) as error:
        return error, "malformed"
    return None, "answered"


def _log_failures(outcomes: Sequence[Receipt | Failure]) -> None:
    kinds = Counter(outcome.error for outcome in outcomes if isinstance(outcome, Failure))
    for kind, count in sorted(kinds.items()):
        logger.warning("stow.refused", extra={"error": kind, "count": count})
