"""Retrieve: instances, metadata, frames and bulk data, each from its row and ranges of its object.

Nothing here parses an object or holds a study: bodies are streams of ranges, read in threads. PS3.18 §10.4
"""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

from starlette.requests import Request
from starlette.responses import Response

from gateway.dicomweb.media_types import (
    AS_STORED,
    BY_DEFAULT,
    DICOM_XML,
    METADATA_OFFERS,
    Representation,
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
from gateway.dicomweb.zipped import ZIP, zip_pieces
from gateway.http import LARGE_BYTES, Pieces, Stream, in_thread, session_of
from gateway.pixels.codecs import encodings
from gateway.session import Session
from gateway.transcoding import (
    MAXIMUM_FRAME_BYTES,
    Conversion,
    Transcoder,
    frame_bytes,
    native_frame,
    targets,
)
from storage.dicomjson import deflated_metadata_array, metadata_array, read_metadata
from storage.dicomxml import native_model
from storage.errors import BadRequest, NotAcceptable, NotFound, TooLarge, Undecodable, UnsupportedTransferSyntax
from storage.filerange import Piece, as_bytes
from storage.frames import FrameTable
from storage.model import Document, Instance, Level, Scope
from storage.stored import StoredDataSet
from storage.uids import EXPLICIT_VR_LITTLE_ENDIAN, transfer_syntax

_MAXIMUM_FRAMES_ASKED = 10_000


Choose = Callable[[Sequence[Representation], str], Representation]


def negotiated(request: Request, offers: Sequence[Representation], reason: str = "") -> Representation:
    """The best offer for the ``accept`` parameter, or else the Accept header (G1). reason: why there are no others."""
    query = request.query_params
    accepts = query.getlist("accept") or request.headers.getlist("accept")
    asked = query.get("transferSyntax") or query.get("transfer-syntax") or ""
    try:
        return negotiate(accepts, offers, transfer_syntax_uid=asked)
    except NotAcceptable as error:
        raise NotAcceptable(f"{error.reason}. {reason}") if reason else error from None


def multipart_response(
    media_type: str,
    parts: Iterable[tuple[str, str, Iterable[Piece]]],
    headers: Mapping[str, str] | None = None,
    *,
    boundary: str = "",
    enough_bytes: int = LARGE_BYTES,
) -> Response:
    """A streamed body of parts, each given by its content type, its location and its bytes. See ``Stream``."""
    boundary = boundary or new_boundary()

    def body() -> Iterator[Piece]:
        for kind, location, pieces in parts:
            yield from part(boundary, kind, pieces, location)
        yield body_ends(boundary)

    told = {**PRIVATE, **(headers or {})}
    return Stream(body(), 200, told, body_type(media_type, boundary), enough_bytes=enough_bytes)


async def instances(request: Request) -> Response:
    """All instances of a study or series, or one: Part 10, as stored or in Explicit VR Little Endian. §10.4.1.1.1"""
    return await in_thread(_instances, request)


def _instances(request: Request) -> Response:
    scope = path_scope(request)
    session = session_of(request)
    found = session.instances(scope)
    if scope.level is Level.INSTANCE:
        return single_instance(request, found[0], partial(negotiated, request))
    stored = {instance.transfer_syntax_uid for instance in found}
    offers = instance_offers(stored, is_single=False, converted=encodings())
    chosen = negotiated(request, (*offers, Representation(ZIP)))
    boundary, base = new_boundary(), base_url(request)
    sender = _Sender(session, request.app.state.pool)
    if chosen.media_type == ZIP:
        return _zip(sender, scope, found)
    headers = {}
    if all(_wanted_syntax(instance, chosen) == instance.transfer_syntax_uid for instance in found):
        parts = sum(_part_bytes(boundary, instance, chosen, base) for instance in found)
        headers["Content-Length"] = str(parts + len(body_ends(boundary)))
    return multipart_response(
        chosen.media_type, _instance_parts(sender, found, chosen, base), headers, boundary=boundary
    )


def _zip(sender: _Sender, scope: Scope, found: Sequence[Instance]) -> Response:
    """The instances as a file to be saved, each as it is stored."""

    def entries() -> Iterator[tuple[Scope, Iterable[bytes]]]:
        for instance in found:
            with sender.session.open(instance) as stored:
                pieces = sender.part10(stored, on_the_wire(instance.transfer_syntax_uid))
                yield instance.scope, as_bytes(iter(pieces))

    name = scope.series_instance_uid or scope.study_instance_uid
    headers = {**PRIVATE, **NO_SNIFF, "Content-Disposition": f'attachment; filename="{name}.zip"'}
    return Stream(zip_pieces(entries()), 200, headers, ZIP)


def _part_bytes(boundary: str, instance: Instance, chosen: Representation, base: str) -> int:
    """Length of the part of an instance that is sent as it is stored."""
    kind = content_type(chosen.media_type, instance.transfer_syntax_uid)
    head = part_begins(boundary, kind, resource_url(base, instance.scope))
    return len(head) + instance.size_bytes + len(PART_ENDS)


def _wanted_syntax(instance: Instance, chosen: Representation) -> str:
    """The transfer syntax in which one of the instances of a resource is to be sent, if it can be."""
    wanted, stored_uid = chosen.transfer_syntax_uid, instance.transfer_syntax_uid
    if wanted == AS_STORED or (wanted == BY_DEFAULT and transfer_syntax(stored_uid).is_lossy):
        return on_the_wire(stored_uid)
    if wanted == BY_DEFAULT or not instance.number_of_frames:
        return EXPLICIT_VR_LITTLE_ENDIAN  # compression is for pixels
    return wanted


def _instance_parts(
    sender: _Sender, found: Sequence[Instance], chosen: Representation, base: str
) -> Iterator[tuple[str, str, Iterable[Piece]]]:
    for instance in found:
        with sender.session.open(instance) as stored:
            sent, pieces = sender.best(stored, _wanted_syntax(instance, chosen))
            yield content_type(chosen.media_type, sent), resource_url(base, instance.scope), pieces


@dataclass(frozen=True, slots=True)
class _Sender:
    """Part 10 streams of stored instances: untouched where they are stored so."""

    session: Session
    transcoder: Transcoder

    def part10(self, stored: StoredDataSet, sent_uid: str) -> Iterable[Piece]:
        """One of them in a transfer syntax. Raises Undecodable, TooLarge or UnsupportedTransferSyntax at once."""
        stored_uid = stored.instance.transfer_syntax_uid
        if stored_uid == sent_uid:
            return stored.object_pieces()
        if sent_uid == EXPLICIT_VR_LITTLE_ENDIAN and not stored.transfer_syntax.is_encapsulated:
            return stored.part10_chunks(sent_uid)
        if sent_uid == EXPLICIT_VR_LITTLE_ENDIAN and not stored.instance.number_of_frames:
            raise UnsupportedTransferSyntax("The Pixel Data would have to be decoded")
        document = self.session.document(stored.instance.scope)
        return Conversion(self.transcoder, stored, document, sent_uid).part10()

    def best(self, stored: StoredDataSet, wanted_uid: str) -> tuple[str, Iterable[Piece]]:
        """One of many: what cannot be turned into the transfer syntax wanted is sent as plainly as it can be (G6)."""
        for uid in dict.fromkeys((wanted_uid, EXPLICIT_VR_LITTLE_ENDIAN)):
            with contextlib.suppress(Undecodable, TooLarge, UnsupportedTransferSyntax):
                return uid, self.part10(stored, uid)
        return stored.instance.transfer_syntax_uid, stored.object_pieces()


def single_instance(request: Request, instance: Instance, choose: Choose) -> Response:
    """One instance; when it turns out that its pixels cannot be had otherwise, only what is stored is offered.

    choose: picks one of the offers, and is told the reason when there are fewer. Raises NotAcceptable.
    """
    sender = _Sender(session_of(request), request.app.state.pool)
    stored_uid = instance.transfer_syntax_uid
    offers = instance_offers([stored_uid], is_single=True, converted=_converted(instance))
    chosen = choose(offers, "")
    etag = f'"{instance.digest[:32]}-{chosen.transfer_syntax_uid}"'
    if not chosen.is_multipart and is_unchanged(request, etag):
        return not_modified(etag)
    stored = sender.session.open(instance)
    with contextlib.ExitStack() as failing:
        failing.callback(stored.close)
        try:
            pieces = sender.part10(stored, chosen.transfer_syntax_uid)
        except (Undecodable, TooLarge, UnsupportedTransferSyntax) as error:
            native = () if transfer_syntax(stored_uid).is_encapsulated else (EXPLICIT_VR_LITTLE_ENDIAN,)
            chosen = choose(instance_offers([stored_uid], is_single=True, converted=native), error.reason)
            etag = f'"{instance.digest[:32]}-{chosen.transfer_syntax_uid}"'
            pieces = sender.part10(stored, chosen.transfer_syntax_uid)
        failing.pop_all()

    def body() -> Iterator[Piece]:
        with stored:
            yield from pieces

    url = resource_url(base_url(request), instance.scope)
    sent = chosen.transfer_syntax_uid
    if chosen.is_multipart:
        boundary = new_boundary()
        headers = {}
        if sent == stored_uid:
            length = _part_bytes(boundary, instance, chosen, base_url(request)) + len(body_ends(boundary))
            headers["Content-Length"] = str(length)
        parts = ((chosen.content_type, url, body()) for _ in range(1))
        return multipart_response(chosen.media_type, parts, headers, boundary=boundary)
    headers = {**PRIVATE, **NO_SNIFF, "ETag": etag, "Content-Location": url}
    if sent == stored_uid:
        headers["Content-Length"] = str(instance.size_bytes)
    return Stream(body(), 200, headers, chosen.content_type)


def _converted(instance: Instance) -> tuple[str, ...]:
    """What an instance can be turned into, as far as its row tells: compression is for pixels."""
    is_native = not transfer_syntax(instance.transfer_syntax_uid).is_encapsulated
    if not instance.number_of_frames:
        return (EXPLICIT_VR_LITTLE_ENDIAN,) if is_native else ()
    found = targets(instance.transfer_syntax_uid)
    return (
        (EXPLICIT_VR_LITTLE_ENDIAN, *(uid for uid in found if uid != EXPLICIT_VR_LITTLE_ENDIAN)) if is_native else found
    )


async def metadata(request: Request) -> Response:
    """The DICOM JSON of every instance below a resource, made at ingest and only joined here. §10.4.1.1.2

    To clients that take it compressed, as browsers do, it goes out as it is kept. As XML each instance is a part of
    its own, made from that JSON when its turn comes.
    """
    scope = path_scope(request)
    chosen = negotiated(request, METADATA_OFFERS)
    base = base_url(request)
    documents = await in_thread(session_of(request).documents, scope)
    if chosen.is_multipart:
        return multipart_response(chosen.media_type, _metadata_parts(documents, base), NO_SNIFF)

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
    if max(frame_bytes(table, number) for number in numbers) > MAXIMUM_FRAME_BYTES:
        raise TooLarge("The frame is larger than the limit")
    is_single = len(numbers) == 1
    offers = frame_offers(
        instance.transfer_syntax_uid, is_single=is_single, converted=targets(instance.transfer_syntax_uid)
    )
    chosen = negotiated(request, offers)
    etag = _frames_etag(instance, asked, chosen)
    if is_unchanged(request, etag):
        return not_modified(etag)
    stored = session.open(instance)
    with contextlib.ExitStack() as failing:
        failing.callback(stored.close)
        frame_of = frame_reader(request, stored, document, table, chosen)
        try:
            first = frame_of(numbers[0])
        except (Undecodable, TooLarge) as error:
            if chosen.is_stored:
                raise
            offers = frame_offers(instance.transfer_syntax_uid, is_single=is_single, converted=())
            chosen = negotiated(request, offers, error.reason)
            etag = _frames_etag(instance, asked, chosen)
            frame_of = frame_reader(request, stored, document, table, chosen)
            first = frame_of(numbers[0])
        failing.pop_all()
    url = resource_url(base_url(request), instance.scope)
    headers = {**PRIVATE, "ETag": etag}
    if not is_single:
        return multipart_response(
            chosen.media_type, frame_parts(stored, chosen, frame_of, numbers, url, first), headers
        )
    stored.close()
    location = f"{url}/frames/{numbers[0]}"
    if not chosen.is_multipart:
        headers |= {**NO_SNIFF, "Content-Location": location}
        return Pieces((first,), 200, headers, chosen.content_type)
    boundary = new_boundary()
    pieces = (part_begins(boundary, chosen.content_type, location), first, PART_ENDS + body_ends(boundary))
    return Pieces(pieces, 200, headers, body_type(chosen.media_type, boundary))


def _frames_etag(instance: Instance, asked: str, chosen: Representation) -> str:
    wanted = hashlib.sha256(f"{asked} {chosen.transfer_syntax_uid}".encode("ascii")).hexdigest()[:16]
    return f'"{instance.digest[:32]}-f{wanted}-{chosen.is_multipart:d}"'


def frame_reader(
    request: Request, stored: StoredDataSet, document: Document, table: FrameTable, chosen: Representation
) -> Callable[[int], bytes]:
    """What gives a frame by its number, in the encoding that was chosen."""
    if chosen.is_stored:
        return lambda number: native_frame(stored, document, table, number)
    conversion = Conversion(request.app.state.pool, stored, document, chosen.transfer_syntax_uid)
    return lambda number: conversion.frame(number).frame


def frame_parts(
    stored: StoredDataSet,
    chosen: Representation,
    frame_of: Callable[[int], bytes],
    numbers: Sequence[int],
    url: str,
    first: bytes | None = None,
) -> Iterator[tuple[str, str, Iterable[bytes]]]:
    """first: the first of them, where it was made already."""
    with stored:
        for place, number in enumerate(numbers):
            frame = first if first is not None and place == 0 else frame_of(number)
            yield chosen.content_type, f"{url}/frames/{number}", (frame,)
