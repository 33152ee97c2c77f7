"""Retrieve: instances, metadata, frames and bulk data, each from its row and ranges of its object.

Nothing here parses an object or holds a study: bodies are streams of ranges, read in threads. PS3.18 §10.4
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence

from starlette.requests import Request
from starlette.responses import Response

from gateway.dicomweb.media_types import (
    AS_STORED,
    DICOM_XML,
    METADATA_OFFERS,
    Representation,
    bulk_offers,
    content_type,
    frame_offers,
    instance_offers,
    negotiate,
    on_the_wire,
)
from gateway.dicomweb.multipart import PART_ENDS, body_ends, body_type, new_boundary, part, part_begins
from gateway.dicomweb.responses import (
    NO_SNIFF,
    PRIVATE,
    accepts_coding,
    base_url,
    is_unchanged,
    not_modified,
    path_scope,
    resource_url,
)
from gateway.http import Pieces, Stream, in_thread, session_of
from gateway.session import Session
from storage.dicomjson import deflated_metadata_array, metadata_array, read_metadata
from storage.dicomxml import native_model
from storage.errors import BadRequest, NotFound, TooLarge
from storage.filerange import Piece
from storage.frames import FrameTable
from storage.model import BulkValue, Document, Instance, Level
from storage.stored import StoredDataSet
from storage.uids import EXPLICIT_VR_LITTLE_ENDIAN, transfer_syntax
from storage.values import binary_word_bytes, little_endian

PIXEL_DATA = "7FE00010"
_MAXIMUM_FRAMES_ASKED = 10_000
MAXIMUM_FRAME_BYTES = 512 << 20
_BULK_PATH = re.compile(r"[0-9A-F]{8}(?:/[0-9]{1,6}/[0-9A-F]{8}){0,32}", re.ASCII)
_RANGE = re.compile(r"bytes=([0-9]{0,19})-([0-9]{0,19})", re.ASCII)
_PASSIVE = {"Content-Disposition": "attachment", "Content-Security-Policy": "sandbox; default-src 'none'"}


def _negotiated(request: Request, offers: Sequence[Representation]) -> Representation:
    """The best offer for the ``accept`` parameter, or else the Accept header (G1)."""
    query = request.query_params
    accepts = query.getlist("accept") or request.headers.getlist("accept")
    asked = query.get("transferSyntax") or query.get("transfer-syntax") or ""
    return negotiate(accepts, offers, transfer_syntax_uid=asked)


def _multipart(
    media_type: str,
    parts: Iterable[tuple[str, str, Iterable[Piece]]],
    headers: Mapping[str, str] | None = None,
    *,
    boundary: str = "",
) -> Response:
    """A streamed body of parts, each given by its content type, its location and its bytes."""
    boundary = boundary or new_boundary()

    def body() -> Iterator[Piece]:
        for kind, location, pieces in parts:
            yield from part(boundary, kind, pieces, location)
        yield body_ends(boundary)

    return Stream(body(), 200, {**PRIVATE, **(headers or {})}, body_type(media_type, boundary))


async def instances(request: Request) -> Response:
    """All instances of a study or series, or one: Part 10, as stored or in Explicit VR Little Endian. §10.4.1.1.1"""
    return await in_thread(_instances, request)


def _instances(request: Request) -> Response:
    scope = path_scope(request)
    session = session_of(request)
    found = session.instances(scope)
    stored = {instance.transfer_syntax_uid for instance in found}
    offers = instance_offers(
        stored,
        is_single=scope.level is Level.INSTANCE,
        can_be_explicit=not any(transfer_syntax(uid).is_encapsulated for uid in stored),
    )
    chosen = _negotiated(request, offers)
    if not chosen.is_multipart:
        return _single_instance(request, session, found[0], chosen)
    boundary, base = new_boundary(), base_url(request)
    headers = {}
    if all(instance.transfer_syntax_uid == _sent_syntax(instance, chosen) for instance in found):
        parts = sum(_part_bytes(boundary, instance, chosen, base) for instance in found)
        headers["Content-Length"] = str(parts + len(body_ends(boundary)))
    return _multipart(chosen.media_type, _instance_parts(session, found, chosen, base), headers, boundary=boundary)


def _part_bytes(boundary: str, instance: Instance, chosen: Representation, base: str) -> int:
    """Length of the part of an instance that is sent as it is stored."""
    kind = content_type(chosen.media_type, instance.transfer_syntax_uid)
    head = part_begins(boundary, kind, resource_url(base, instance.scope))
    return len(head) + instance.size_bytes + len(PART_ENDS)


def _sent_syntax(instance: Instance, chosen: Representation) -> str:
    wanted = chosen.transfer_syntax_uid
    return on_the_wire(instance.transfer_syntax_uid) if wanted == AS_STORED else wanted


def _instance_parts(
    session: Session, found: Sequence[Instance], chosen: Representation, base: str
) -> Iterator[tuple[str, str, Iterator[Piece]]]:
    for instance in found:
        sent = _sent_syntax(instance, chosen)
        with session.open(instance) as stored:
            yield content_type(chosen.media_type, sent), resource_url(base, instance.scope), _part10(stored, sent)


def _part10(stored: StoredDataSet, sent_uid: str) -> Iterator[Piece]:
    """The instance in the transfer syntax that goes out: untouched where it is stored so."""
    if stored.instance.transfer_syntax_uid == sent_uid:
        return stored.object_pieces()
    return stored.explicit_chunks()


def _single_instance(request: Request, session: Session, instance: Instance, chosen: Representation) -> Response:
    sent = _sent_syntax(instance, chosen)
    etag = f'"{instance.digest[:32]}-{sent}"'
    if is_unchanged(request, etag):
        return not_modified(etag)
    stored = session.open(instance)
    headers = {**PRIVATE, **NO_SNIFF, "ETag": etag, "Content-Location": resource_url(base_url(request), instance.scope)}
    if instance.transfer_syntax_uid == sent:
        headers["Content-Length"] = str(instance.size_bytes)

    def body() -> Iterator[Piece]:
        with stored:
            yield from _part10(stored, sent)

    return Stream(body(), 200, headers, content_type(chosen.media_type, sent))


async def metadata(request: Request) -> Response:
    """The DICOM JSON of every instance below a resource, made at ingest and only joined here. §10.4.1.1.2

    To clients that take it compressed, as browsers do, it goes out as it is kept. As XML each instance is a part of
    its own, made from that JSON when its turn comes.
    """
    scope = path_scope(request)
    chosen = _negotiated(request, METADATA_OFFERS)
    base = base_url(request)
    documents = await in_thread(session_of(request).documents, scope)
    if chosen.is_multipart:
        return _multipart(chosen.media_type, _metadata_parts(documents, base), NO_SNIFF)

    kept = ((document.metadata, resource_url(base, document.instance.scope)) for document in documents)
    headers = {**PRIVATE, **NO_SNIFF, "Vary": "Accept, Accept-Encoding"}
    if not accepts_coding(request, "deflate"):
        return Stream(metadata_array(kept), 200, headers, chosen.media_type)
    headers["Content-Encoding"] = "deflate"
    return Stream(deflated_metadata_array(kept), 200, headers, chosen.media_type)


def _metadata_parts(documents: Iterable[Document], base: str) -> Iterator[tuple[str, str, Iterable[Piece]]]:
    for document in documents:
        url = resource_url(base, document.instance.scope)
        yield DICOM_XML, f"{url}/metadata", (native_model(read_metadata(document.metadata, url)),)


def frame_numbers(text: str) -> tuple[int, ...]:
    """``1,3`` as numbers in the order asked. Raises BadRequest for zero, repeats and what is no number (W8)."""
    items = text.split(",")
    if len(items) > _MAXIMUM_FRAMES_ASKED:
        raise BadRequest("More frames are asked for than the limit")
    if not all(item.isascii() and item.isdigit() and len(item) <= 9 for item in items):
        raise BadRequest("A frame number is not a positive integer")
    numbers = tuple(map(int, items))
    if 0 in numbers or len(set(numbers)) < len(numbers):
        raise BadRequest("A frame number is zero, or asked for twice")
    return numbers


async def frames(request: Request) -> Response:
    """Frames of one instance: each a ranged read, in the order asked. §10.4.1.1.6"""
    return await in_thread(_frames, request)


def _frames(request: Request) -> Response:
    asked = request.path_params["frames"]
    numbers = frame_numbers(asked)
    session = session_of(request)
    document = session.document(path_scope(request))
    instance, table = document.instance, FrameTable(document.frame_table)
    if table.number_of_frames == 0:
        raise NotFound("The instance has no frames")
    if max(numbers) > table.number_of_frames:
        raise NotFound("There is no such frame")
    offers = frame_offers(instance.transfer_syntax_uid, is_single=len(numbers) == 1, can_be_explicit=False)
    chosen = _negotiated(request, offers)
    wanted = hashlib.sha256(asked.encode("ascii")).hexdigest()[:16]
    etag = f'"{instance.digest[:32]}-f{wanted}-{chosen.is_multipart:d}"'
    if is_unchanged(request, etag):
        return not_modified(etag)
    url = resource_url(base_url(request), instance.scope)
    headers = {**PRIVATE, "ETag": etag}
    largest_bytes = max(frame_bytes(table, number) for number in numbers)
    if largest_bytes > MAXIMUM_FRAME_BYTES:
        raise TooLarge("The frame is larger than the limit")
    if len(numbers) > 1:
        parts = _frame_parts(session, document, table, numbers, chosen.content_type, url)
        return _multipart(chosen.media_type, parts, headers)
    location = f"{url}/frames/{numbers[0]}"
    with session.open(instance) as stored:
        frame = native_frame(stored, document, table, numbers[0])
    if not chosen.is_multipart:
        headers |= {**NO_SNIFF, "Content-Location": location}
        return Pieces((frame,), 200, headers, chosen.content_type)
    boundary = new_boundary()
    pieces = (part_begins(boundary, chosen.content_type, location), frame, PART_ENDS + body_ends(boundary))
    return Pieces(pieces, 200, headers, body_type(chosen.media_type, boundary))


def frame_bytes(table: FrameTable, number: int) -> int:
    """Length of a frame as it is stored; what has to fit into memory to be sent or drawn."""
    return sum(end - start for start, end in table.ranges(number))


def _frame_parts(
    session: Session, document: Document, table: FrameTable, numbers: Iterable[int], kind: str, url: str
) -> Iterator[tuple[str, str, Iterable[bytes]]]:
    with session.open(document.instance) as stored:
        for number in numbers:
            yield kind, f"{url}/frames/{number}", (native_frame(stored, document, table, number),)


def native_frame(stored: StoredDataSet, document: Document, table: FrameTable, number: int) -> bytes:
    """A frame's bytes as they go out: as stored, but little endian (W23).

    Words are turned round from the start of the Pixel Data on, so a frame that starts within one is read with it.
    """
    if stored.transfer_syntax.is_little_endian or not table.is_native:
        return stored.frame(table, number)
    pixel_data = next(document.bulk[tag] for tag in (PIXEL_DATA, "7FE00008", "7FE00009") if tag in document.bulk)
    word_bytes = binary_word_bytes(pixel_data.vr)
    ((start, end),) = table.ranges(number)
    first = start - (start - pixel_data.start) % word_bytes
    last = min(end + -(end - pixel_data.start) % word_bytes, pixel_data.end)
    return little_endian(stored.read(first, last), word_bytes)[start - first : end - first]


async def bulk_data(request: Request) -> Response:
    """One value that metadata refers to, whole or a range of it; Pixel Data as its frames. §10.4.1.1.3"""
    path = request.path_params["path"]
    if not _BULK_PATH.fullmatch(path):
        raise BadRequest("The path of the bulk data is malformed")
    session = session_of(request)
    document = await in_thread(session.document, path_scope(request))
    value = document.bulk.get(path)
    if value is None:
        raise NotFound("There is no such bulk data")
    instance = document.instance
    url = f"{resource_url(base_url(request), instance.scope)}/bulkdata/{path}"
    syntax = transfer_syntax(instance.transfer_syntax_uid)
    if path == PIXEL_DATA and syntax.is_encapsulated:
        return _encapsulated_bulk(request, session, document, url)
    chosen = _negotiated(request, bulk_offers())
    etag = f'"{instance.digest[:32]}-b{path.replace("/", "-")}"'
    if is_unchanged(request, etag):
        return not_modified(etag)
    headers = {**PRIVATE, **NO_SNIFF, **_PASSIVE, "ETag": etag, "Content-Location": url}
    if chosen.is_multipart:
        kind = content_type(chosen.media_type, EXPLICIT_VR_LITTLE_ENDIAN)
        parts = ((kind, url, _bulk_pieces(session, instance, value, value.start, value.end)) for _ in range(1))
        return _multipart(chosen.media_type, parts, {"ETag": etag, **NO_SNIFF})
    return _ranged(request, session, instance, value, headers)


def _ranged(
    request: Request, session: Session, instance: Instance, value: BulkValue, headers: dict[str, str]
) -> Response:
    """One value, or the one range of it that is asked for (G20). RFC 9110 §14"""
    size_bytes = value.end - value.start
    first, last, status = 0, size_bytes, 200
    asked = request.headers.get("range", "")
    if asked.startswith("bytes=") and request.headers.get("if-range", headers["ETag"]) == headers["ETag"]:
        found = byte_range(asked, size_bytes)
        if found is None:
            return Response(status_code=416, headers={**headers, "Content-Range": f"bytes */{size_bytes}"})
        (first, last), status = found, 206
        headers = {**headers, "Content-Range": f"bytes {first}-{last - 1}/{size_bytes}"}
    headers = {**headers, "Accept-Ranges": "bytes", "Content-Length": str(last - first)}
    pieces = _bulk_pieces(session, instance, value, value.start + first, value.start + last)
    return Stream(pieces, status, headers, "application/octet-stream")


def byte_range(text: str, size_bytes: int) -> tuple[int, int] | None:
    """The half-open range that one ``bytes=`` range means; None when it cannot be satisfied, or is many (H12)."""
    match = _RANGE.fullmatch(text.strip())
    if match is None or match.groups() == ("", ""):
        return None
    first_text, last_text = match.groups()
    if not first_text:
        first, last = max(0, size_bytes - int(last_text)), size_bytes
    else:
        first, last = int(first_text), min(size_bytes, int(last_text) + 1 if last_text else size_bytes)
    return (first, last) if first < last else None


def _bulk_pieces(session: Session, instance: Instance, value: BulkValue, start: int, end: int) -> Iterator[bytes]:
    """Bytes of a value in little endian order, wherever a range cuts its words."""
    with session.open(instance) as stored:
        word_bytes = 1 if stored.transfer_syntax.is_little_endian else binary_word_bytes(value.vr)
        if word_bytes == 1:
            yield from stored.chunks(start, end)
            return
        first = start - (start - value.start) % word_bytes
        last = min(end + -(end - value.start) % word_bytes, value.end)
        skip, left = start - first, end - start
        for chunk in stored.chunks(first, last):
            turned = little_endian(chunk, word_bytes)[skip : skip + left]
            skip, left = 0, left - len(turned)
            yield turned


def _encapsulated_bulk(request: Request, session: Session, document: Document, url: str) -> Response:
    """Compressed Pixel Data: a part for each frame, in its own media type (W6, W9)."""
    table = FrameTable(document.frame_table)
    if table.number_of_frames == 0:
        raise NotFound("The frames of the Pixel Data cannot be told apart")
    uid = document.instance.transfer_syntax_uid
    chosen = _negotiated(request, frame_offers(uid, is_single=False, can_be_explicit=False))
    numbers = range(1, table.number_of_frames + 1)
    instance_url = url.removesuffix(f"/bulkdata/{PIXEL_DATA}")
    parts = _frame_parts(session, document, table, numbers, chosen.content_type, instance_url)
    return _multipart(chosen.media_type, parts, NO_SNIFF)
