"""Documents to read: structured reports, and what is encapsulated as it is. PS3.18 §8.7.4

What comes from outside is never run: a report is escaped and sandboxed, and an encapsulated document is sent only in a
media type that is known to be safe to show, or to save.
"""

from __future__ import annotations

import hashlib
import re
from base64 import b64decode
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from types import MappingProxyType

import orjson
from starlette.requests import Request
from starlette.responses import Response

from gateway import __version__
from gateway.dicomweb.content_items import CONTENT, TEXT_VALUE, text_of
from gateway.dicomweb.media_types import Representation, parse_media_type
from gateway.dicomweb.report import SR_STORAGE, Report
from gateway.dicomweb.report_forms import FORMS, write
from gateway.dicomweb.responses import NO_SNIFF, PRIVATE, base_url, is_unchanged, not_modified, resource_url
from gateway.http import Stream, session_of
from gateway.pixels.elements import element_of, values_of
from storage.dicomjson import read_metadata
from storage.errors import NotAcceptable, Undecodable
from storage.model import Document, JsonElement
from storage.stored import StoredDataSet
from storage.values import DEFAULT_ENCODINGS, encodings_of, json_element

_ENCAPSULATED_DOCUMENT = "00420011"
_MIME_TYPE = "00420012"
_DOCUMENT_LENGTH = "00420015"
_SPECIFIC_CHARACTER_SET = "00080005"
_LONG_TEXT = re.compile(rf"(?:{CONTENT}/[0-9]+/)+{TEXT_VALUE}", re.ASCII)
_MAXIMUM_LONG_TEXT_BYTES = 4 << 20
_CHARSETS = ("utf-8", "utf8")
_CHARSET = re.compile(r"\s*([^\s;,]+)\s*(;\s*q\s*=\s*0(?:\.0*)?\s*)?(?:;[^,]*)?", re.ASCII)

_CONTENT_SECURITY = (
    "default-src 'none'; style-src 'unsafe-inline'; img-src 'self'; base-uri 'none'; form-action 'none'; "
    "sandbox allow-same-origin"
)
_PASSIVE = MappingProxyType({"Content-Security-Policy": "sandbox; default-src 'none'"})
_SHOWN = MappingProxyType({**_PASSIVE, "Content-Disposition": "inline"})
_SAVED = MappingProxyType({**_PASSIVE, "Content-Disposition": "attachment"})
ENCAPSULATED: Mapping[str, Mapping[str, str]] = {
    # Browsers show no PDF in a sandbox, and run nothing of one outside of their own.
    "application/pdf": MappingProxyType({"Content-Disposition": "inline"}),
    "text/xml": _SHOWN,
    "text/plain": _SHOWN,
    "model/stl": _SAVED,
    "model/obj": _SAVED,
    "model/mtl": _SAVED,
    "application/sla": _SAVED,
}
"""The media types of encapsulated documents that are sent, with the headers that keep them harmless."""
REPORT_OFFERS = tuple(map(Representation, FORMS))


def is_report(sop_class_uid: str) -> bool:
    """Whether instances of a class are structured reports, Key Object Selections among them. PS3.4 §B.5"""
    return sop_class_uid.startswith(SR_STORAGE)


def offers_of(document: Document) -> tuple[Representation, ...]:
    """What can be read of an instance without pixels, the default first; nothing of what is no document.

    Raises NotAcceptable for an encapsulated document of a kind that is not sent.
    """
    if is_report(document.instance.sop_class_uid):
        return REPORT_OFFERS
    metadata = read_metadata(document.metadata, "")
    if element_of(metadata, _ENCAPSULATED_DOCUMENT).keys() <= {"vr"}:
        return ()
    media_type = parse_media_type(text_of(metadata, _MIME_TYPE))[0]
    if media_type not in ENCAPSULATED:
        known = ", ".join(ENCAPSULATED)
        raise NotAcceptable(f"The encapsulated document is of a media type that is not rendered; those are: {known}")
    return (Representation(media_type),)


def readable(request: Request, document: Document, media_type: str) -> Response:
    """An instance in one of its ``offers_of``. Raises NotAcceptable, TooLarge, StorageUnavailable, CorruptObject."""
    if is_report(document.instance.sop_class_uid):
        return _report(request, document, media_type)
    return _encapsulated(request, document, media_type)


def _report(request: Request, document: Document, media_type: str) -> Response:
    """A report, whose links lead where this client finds the gateway."""
    if not takes_utf_8(request.headers.getlist("accept-charset")):
        raise NotAcceptable("Reports are written in UTF-8 only")
    base = base_url(request)
    parts = (__version__, document.instance.digest, media_type, base)
    etag = f'"{hashlib.sha256(orjson.dumps(parts)).hexdigest()[:32]}"'
    if is_unchanged(request, etag):
        return not_modified(etag)
    report = Report.of(_with_long_texts(request, document), partial(resource_url, base))
    headers = {**PRIVATE, **NO_SNIFF, "ETag": etag, "Content-Security-Policy": _CONTENT_SECURITY}
    return Response(write(report, media_type), headers=headers, media_type=media_type)


def takes_utf_8(accept_charset: Sequence[str]) -> bool:
    """Whether header lines of Accept-Charset allow for UTF-8, as none at all does. RFC 9110 §12.5.2"""
    items = [match for item in ",".join(accept_charset).split(",") if (match := _CHARSET.fullmatch(item))]
    if not items:
        return True
    allowed = {match[1].lower(): match[2] is None for match in items}
    return next((allowed[name] for name in (*_CHARSETS, "*") if name in allowed), False)


def _with_long_texts(request: Request, document: Document) -> JsonElement:
    """Metadata in which texts that are too long for it have their values, up to a limit of bytes."""
    metadata = read_metadata(document.metadata, "")
    places = [path for path in document.bulk if _LONG_TEXT.fullmatch(path)]
    if not places:
        return metadata
    left = _MAXIMUM_LONG_TEXT_BYTES
    with session_of(request).open(document.instance) as stored:
        for path in places:
            left -= document.bulk[path].end - document.bulk[path].start
            if left >= 0:
                _insert_text(metadata, document, path, stored)
    return metadata


def _insert_text(metadata: JsonElement, document: Document, path: str, stored: StoredDataSet) -> None:
    """One text, in the character set that holds where it stands. PS3.3 §C.12.1.1.2"""
    *parents, tag = path.split("/")
    item = metadata
    character_sets = values_of(item, _SPECIFIC_CHARACTER_SET)
    for sequence, index in zip(parents[::2], parents[1::2], strict=True):
        item = item[sequence]["Value"][int(index)]
        character_sets = values_of(item, _SPECIFIC_CHARACTER_SET) or character_sets
    terms = "\\".join(term or "" for term in character_sets).encode("ascii", "replace")
    value = document.bulk[path]
    raw = stored.read(value.start, value.end)
    encodings = encodings_of(terms) if terms else DEFAULT_ENCODINGS
    is_little_endian = stored.transfer_syntax.is_little_endian
    item[tag] = json_element(value.vr, raw, encodings, is_little_endian=is_little_endian)


def _encapsulated(request: Request, document: Document, media_type: str) -> Response:
    """The document as it was put in, without the byte that pads it. PS3.3 §C.24.2"""
    etag = f'"{document.instance.digest[:32]}-document"'
    if is_unchanged(request, etag):
        return not_modified(etag)
    metadata = read_metadata(document.metadata, "")
    # Named here because Starlette would add a charset, which would overrule the one that an XML document names.
    headers = {**PRIVATE, **NO_SNIFF, **ENCAPSULATED[media_type], "ETag": etag, "Content-Type": media_type}
    told = text_of(metadata, _DOCUMENT_LENGTH)
    value = document.bulk.get(_ENCAPSULATED_DOCUMENT)
    if value is None:
        inline = metadata[_ENCAPSULATED_DOCUMENT].get("InlineBinary")
        if inline is None:
            raise Undecodable("The encapsulated document is no binary value", tag=_ENCAPSULATED_DOCUMENT)
        return Response(_unpadded(b64decode(inline), told), headers=headers)
    session = session_of(request)
    with session.open(document.instance) as stored:
        last = stored.read(value.end - 1, value.end)
    size_bytes = value.end - value.start
    size_bytes -= _is_padding(last, size_bytes, told)

    def body() -> Iterator[bytes]:
        with session.open(document.instance) as stored:
            yield from stored.chunks(value.start, value.start + size_bytes)

    return Stream(body(), 200, {**headers, "Content-Length": str(size_bytes)}, media_type)


def _unpadded(raw: bytes, told: str) -> bytes:
    return raw[: len(raw) - _is_padding(raw[-1:], len(raw), told)]


def _is_padding(last: bytes, size_bytes: int, told: str) -> bool:
    """Whether the last byte only makes the length even: the length told says so, or without one that it is NUL."""
    return last == b"\0" and told in ("", str(size_bytes - 1))
