"""Bulk data: values that metadata refers to, one by one or all of a resource, from ranges. PS3.18 §10.4.1.1.5

Nothing here holds a value: bodies are streams of ranges, read in threads.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator

from starlette.requests import Request
from starlette.responses import Response

from gateway.dicomweb.media_types import OCTET_STREAM, bulk_offers, content_type, frame_offers
from gateway.dicomweb.responses import NO_SNIFF, PRIVATE, base_url, is_unchanged, not_modified, path_scope, resource_url
from gateway.dicomweb.wado import frame_parts, frame_reader, multipart_response, negotiated
from gateway.http import Stream, in_thread, session_of
from gateway.session import Session
from gateway.transcoding import PIXEL_DATA
from storage.errors import BadRequest, NotFound
from storage.frames import FrameTable
from storage.model import BulkValue, Document, Instance
from storage.uids import EXPLICIT_VR_LITTLE_ENDIAN, transfer_syntax
from storage.values import binary_word_bytes, little_endian

_BULK_PATH = re.compile(r"[0-9A-F]{8}(?:/[0-9]{1,6}/[0-9A-F]{8}){0,32}", re.ASCII)
_RANGE = re.compile(r"bytes=([0-9]{0,19})-([0-9]{0,19})", re.ASCII)
_PASSIVE = {"Content-Disposition": "attachment", "Content-Security-Policy": "sandbox; default-src 'none'"}

PIXELS = (PIXEL_DATA, "7FE00008", "7FE00009")

Part = tuple[str, str, Iterable[bytes]]


async def all_bulk_data(request: Request) -> Response:
    """Every value that the metadata of a resource refers to, each a part with its own location (W7). §10.4.1.1.5"""
    return await _of_all(request, only_pixels=False)


async def pixel_data(request: Request) -> Response:
    """The Pixel Data of every instance of a resource (W7). §10.4.1.1.6"""
    return await _of_all(request, only_pixels=True)


async def _of_all(request: Request, *, only_pixels: bool) -> Response:
    chosen = negotiated(request, bulk_offers(is_single=False))
    session = session_of(request)
    documents = await in_thread(session.documents, path_scope(request))
    parts = _parts(request, session, documents, only_pixels=only_pixels)
    first = await in_thread(next, parts, None)
    if first is None:
        raise NotFound("There is no bulk data")

    def rest() -> Iterator[Part]:
        yield first
        yield from parts

    return multipart_response(chosen.media_type, rest(), NO_SNIFF)


def _parts(request: Request, session: Session, documents: Iterable[Document], *, only_pixels: bool) -> Iterator[Part]:
    base = base_url(request)
    octets = content_type(OCTET_STREAM, EXPLICIT_VR_LITTLE_ENDIAN)
    for document in documents:
        instance = document.instance
        url = resource_url(base, instance.scope)
        for path, value in document.bulk.items():
            if only_pixels and path not in PIXELS:
                continue
            if path == PIXEL_DATA and transfer_syntax(instance.transfer_syntax_uid).is_encapsulated:
                yield from _compressed_parts(request, session, document, url)
            else:
                yield octets, f"{url}/bulkdata/{path}", _pieces(session, instance, value, value.start, value.end)


def _compressed_parts(request: Request, session: Session, document: Document, url: str) -> Iterator[Part]:
    """Compressed Pixel Data as the frames that are in it."""
    table = FrameTable(document.frame_table)
    stored_uid = document.instance.transfer_syntax_uid
    stored = next(offer for offer in frame_offers(stored_uid, is_single=False, converted=()) if offer.is_stored)
    opened = session.open(document.instance)
    numbers = range(1, table.number_of_frames + 1)
    yield from frame_parts(opened, stored, frame_reader(request, opened, document, table, stored), numbers, url)


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
    chosen = negotiated(request, bulk_offers())
    etag = f'"{instance.digest[:32]}-b{path.replace("/", "-")}-{chosen.is_multipart:d}"'
    if is_unchanged(request, etag):
        return not_modified(etag)
    headers = {**PRIVATE, **NO_SNIFF, **_PASSIVE, "ETag": etag, "Content-Location": url}
    if chosen.is_multipart:
        kind = content_type(chosen.media_type, EXPLICIT_VR_LITTLE_ENDIAN)
        parts = ((kind, url, _pieces(session, instance, value, value.start, value.end)) for _ in range(1))
        return multipart_response(chosen.media_type, parts, {"ETag": etag, **NO_SNIFF})

    def pieces_of(first: int, last: int) -> Iterator[bytes]:
        return _pieces(session, instance, value, value.start + first, value.start + last)

    return ranged(request, value.end - value.start, headers, OCTET_STREAM, pieces_of)


def ranged(
    request: Request,
    size_bytes: int,
    headers: dict[str, str],
    media_type: str,
    pieces_of: Callable[[int, int], Iterator[bytes]],
) -> Response:
    """A value of ``size_bytes``, or the one range of it that is asked for (G20). RFC 9110 §14

    headers: with its ETag. pieces_of: gives the bytes from one place to another.
    """
    first, last, status = 0, size_bytes, 200
    asked = request.headers.get("range", "")
    if asked.startswith("bytes=") and request.headers.get("if-range", headers["ETag"]) == headers["ETag"]:
        found = byte_range(asked, size_bytes)
        if found is None:
            return Response(status_code=416, headers={**headers, "Content-Range": f"bytes */{size_bytes}"})
        (first, last), status = found, 206
        headers = {**headers, "Content-Range": f"bytes {first}-{last - 1}/{size_bytes}"}
    headers = {**headers, "Accept-Ranges": "bytes", "Content-Length": str(last - first)}
    return Stream(pieces_of(first, last), status, headers, media_type)


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


def _pieces(session: Session, instance: Instance, value: BulkValue, start: int, end: int) -> Iterator[bytes]:
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
    instance = document.instance
    chosen = negotiated(request, frame_offers(instance.transfer_syntax_uid, is_single=False, converted=()))
    numbers = range(1, table.number_of_frames + 1)
    stored = session.open(instance)
    frame_of = frame_reader(request, stored, document, table, chosen)
    instance_url = url.removesuffix(f"/bulkdata/{PIXEL_DATA}")
    return multipart_response(chosen.media_type, frame_parts(stored, chosen, frame_of, numbers, instance_url), NO_SNIFF)
