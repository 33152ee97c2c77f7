"""Submission: instances that come as metadata with bulk data parts, from the parts of a request to their Data Sets.

Bulk data goes to disk as it arrives and metadata is limited in bytes, so a request takes little memory whatever its
length. Metadata may stand before its bulk data or behind it: instances are made when the body has ended. PS3.18 §10.5
"""

from __future__ import annotations

import asyncio
import re
import threading
from base64 import b64decode
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import orjson

from gateway.dicomweb.bulk_parts import PIXEL_DATA, BulkParts, extended_offsets, image_pixel_elements
from gateway.dicomweb.gathered import GATHER_BYTES, Gathered
from gateway.dicomweb.media_types import DICOM, DICOM_JSON, DICOM_XML, JSON, OCTET_STREAM, parse_media_type
from gateway.dicomweb.multipart import Event, Mark, PartBegins
from gateway.http import in_waiting_thread
from storage.attachments import Attachments
from storage.dataset import MAXIMUM_DEPTH
from storage.dicomxml import read_native_model
from storage.encoding import Content, encoded_data_set, items, values_of
from storage.errors import BadRequest, InvalidInstance, TooComplex, TooLarge, UnsupportedMediaType
from storage.filemeta import Announcement
from storage.model import JsonElement
from storage.spool import Spool
from storage.uids import EXPLICIT_VR_LITTLE_ENDIAN, is_uid, transfer_syntax

MAXIMUM_NODES = 1_000_000
"""Of metadata in JSON: objects, arrays and commas, and so about twice its elements. It is read at a go."""

_XML_TYPES = frozenset((DICOM_XML, "application/xml", "text/xml"))
_JSON_TYPES = frozenset((DICOM_JSON, JSON))
_SOP_CLASS, _SOP_INSTANCE = "00080016", "00080018"
_DOCUMENT, _DOCUMENT_TYPE, _DOCUMENT_BYTES = "00420011", "00420012", "00420015"
_OFFSETS = ("7FE00001", "7FE00002")
_TAG = re.compile(r"[0-9A-F]{8}", re.ASCII)
_INLINE_PIXELS = "\0inline"
_INLINE_ITEM = "/v8A4"  # the tag of an item, FFFE,E000, in Base64
_READING = threading.Lock()  # what is read at a go takes several times its length, so one request at a time does

Model = dict[str, JsonElement]


class Submission:
    """The parts of one request. media_type: of metadata that does not say its own."""

    def __init__(
        self, attachments: Attachments, media_type: str, *, maximum_metadata_bytes: int, maximum_instances: int
    ) -> None:
        self._attachments = attachments
        self._media_type = media_type
        self._metadata_bytes_left = maximum_metadata_bytes
        self._maximum_instances = maximum_instances
        self._metadata: list[tuple[str, bytearray]] = []
        self._bulk = BulkParts(attachments)
        self._part: tuple[str, str, str, int] | None = None
        self._gathered = Gathered()
        self._writing: asyncio.Task[None] | None = None
        self._at = 0
        self._drafts: Sequence[Draft] = ()

    async def take(self, event: Event) -> None:
        """Follow the body. Raises BadRequest, UnsupportedMediaType, TooLarge or StorageUnavailable."""
        if isinstance(event, memoryview):
            await self._add(event)
        elif isinstance(event, PartBegins):
            self._begin_part(event.headers)
        elif event is Mark.PART_ENDS and self._part is not None:
            location, media_type, transfer_syntax_uid, start = self._part
            self._bulk.add(location, media_type, transfer_syntax_uid, start, self._at)
            self._part = None

    def _begin_part(self, headers: Mapping[str, str]) -> None:
        media_type, parameters = parse_media_type(headers.get("content-type", ""))
        location = headers.get("content-location", "")
        kind = media_type or (self._media_type if not location else OCTET_STREAM)
        if kind in (DICOM_JSON, DICOM_XML) or (not location and kind in _JSON_TYPES | _XML_TYPES):
            self._part = None
            self._metadata.append((DICOM_XML if kind in _XML_TYPES else DICOM_JSON, bytearray()))
            return
        if kind == DICOM:
            raise UnsupportedMediaType("Instances and metadata do not go into one request")
        if not location:
            raise BadRequest("A bulk data part has no Content-Location")
        self._spend(len(location))
        self._part = location, kind, dict(reversed(parameters)).get("transfer-syntax", ""), self._at

    async def _add(self, view: memoryview) -> None:
        if self._part is None:
            self._spend(len(view))
            self._metadata[-1][1].extend(view)
            return
        self._at += len(view)
        self._gathered.add(view)
        if self._gathered.size_bytes >= GATHER_BYTES:
            await self._write()

    def _spend(self, count_bytes: int) -> None:
        self._metadata_bytes_left -= count_bytes
        if self._metadata_bytes_left < 0:
            raise TooLarge("The metadata of the request is larger than the limit")

    async def _write(self) -> None:
        await self._settle()
        gathered, self._gathered = self._gathered, Gathered()
        self._writing = asyncio.create_task(in_waiting_thread(gathered.write_to, self._attachments))

    async def _settle(self) -> None:
        if self._writing is not None:
            writing, self._writing = self._writing, None
            await writing

    async def drafts(self) -> Sequence[Draft]:
        """The instances, when the body has ended. Raises BadRequest where the metadata cannot be read, TooLarge."""
        await self._write()
        await self._settle()
        self._drafts = await in_waiting_thread(self._read_all)
        return self._drafts

    def _read_all(self) -> Sequence[Draft]:
        drafts = [Draft(text, kind, self._bulk) for kind, raw in self._metadata for text in _texts(kind, raw)]
        self._metadata = []
        if not drafts:
            raise BadRequest("The body holds no metadata")
        if len(drafts) > self._maximum_instances:
            raise TooLarge("The body holds more instances than the limit")
        return drafts

    @property
    def has_unused_parts(self) -> bool:
        """Whether there is a bulk data part that no instance refers to. Asked when all of them are written."""
        return not self._bulk.is_used_up and all(draft.is_read for draft in self._drafts)

    async def close(self) -> None:
        """Let go of what is held; a write that is under way comes to its end. What it raises is of no more use."""
        if self._writing is not None:
            await asyncio.gather(self._writing, return_exceptions=True)


def _texts(kind: str, raw: bytearray) -> Iterator[bytes | bytearray]:
    """The metadata of each instance in a part: all of it in XML, the objects of an array in JSON. PS3.18 §10.5.1.4"""
    if kind == DICOM_XML:
        yield raw
        return
    if sum(raw.count(character) for character in b"[{,") > MAXIMUM_NODES:
        raise TooLarge("The metadata of the request has more elements than the limit")
    with _READING:
        try:
            found = orjson.loads(raw)
        except orjson.JSONDecodeError as error:
            raise BadRequest("The metadata is no JSON") from error
        models = found if isinstance(found, list) else [found]
        if not all(isinstance(model, dict) for model in models):
            raise BadRequest("The metadata is no array of Data Sets")
        try:
            texts = list(map(orjson.dumps, models))
        except orjson.JSONEncodeError as error:  # which ends at 254 levels; sequences end at a third of that
            raise BadRequest("The metadata is nested too deep") from error
    yield from texts


class Draft:
    """One instance that is to be: its metadata as text, and the bulk data parts of its request."""

    def __init__(self, text: bytes | bytearray, kind: str, bulk: BulkParts) -> None:
        self._text = text
        self._kind = kind
        self._bulk = bulk
        self.is_read = False

    def write_to(self, spool: Spool) -> None:
        """Announce the instance to the spool, and write its Data Set there.

        Raises what ``read_native_model``, ``BulkParts`` and ``encoded_data_set`` raise, and what the spool raises.
        """
        model = read_native_model(self._text) if self._kind == DICOM_XML else orjson.loads(self._text)
        spool.announce(_announcement(model, EXPLICIT_VR_LITTLE_ENDIAN))
        contents: dict[str, Content] = {}
        uid = self._refer_pixels(model, contents)
        is_encapsulated = transfer_syntax(uid).is_encapsulated
        for depth, tag, element in list(_references(model, 0)):
            uri = element["BulkDataURI"]
            if not isinstance(uri, str):
                raise InvalidInstance("A BulkDataURI is no text", tag=tag)
            if uri in contents:
                continue
            if depth and tag == PIXEL_DATA:
                contents[uri] = self._bulk.nested_pixels(uri, is_encapsulated=is_encapsulated)
                continue
            contents[uri], media_type = self._bulk.value(uri, tag)
            if depth == 0 and tag == _DOCUMENT and media_type != OCTET_STREAM:
                _add_missing(model, _document_elements(media_type, contents[uri].size_bytes))
        self.is_read = True
        spool.announce(_announcement(model, uid))
        for piece in encoded_data_set(model, contents):
            spool.write(piece)

    def _refer_pixels(self, model: Model, contents: dict[str, Content]) -> str:
        """Find the Pixel Data, and complete what the model says of it; returns the transfer syntax.

        An Extended Offset Table is that of other fragments, so it is made anew. PS3.18 §10.5.2
        """
        element = model.get(PIXEL_DATA)
        known_uid = _uid(model, "00083002") or _uid(model, "00020010")
        if not isinstance(element, dict):
            return EXPLICIT_VR_LITTLE_ENDIAN
        uri = element.get("BulkDataURI")
        if not isinstance(uri, str):
            return _refer_inline_items(model, element, known_uid, contents)
        pixels = self._bulk.pixels(uri, _number_of_frames(model), known_uid)
        contents[uri] = pixels.content
        if pixels.described is not None:
            _add_missing(model, image_pixel_elements(pixels.described, len(pixels.frame_bytes)))
        elif pixels.frame_bytes and not values_of(model, "00280010"):
            raise InvalidInstance("The size of the image is not said, and is not read from its header", tag="00280010")
        if pixels.frame_bytes and _OFFSETS[0] in model:
            model.update(extended_offsets(pixels.frame_bytes))
        return pixels.transfer_syntax_uid


def _refer_inline_items(model: Model, element: JsonElement, known_uid: str, contents: dict[str, Content]) -> str:
    """Compressed Pixel Data that stands in the metadata, as pydicom writes it: with its items. PS3.5 §A.4"""
    inline = element.get("InlineBinary")
    if (
        not isinstance(inline, str)
        or not inline.startswith(_INLINE_ITEM)
        or not known_uid
        or not transfer_syntax(known_uid).is_encapsulated
    ):
        return EXPLICIT_VR_LITTLE_ENDIAN
    try:
        raw = b64decode(inline, validate=True)
    except ValueError as error:
        raise InvalidInstance("A value is none of its Value Representation", tag=PIXEL_DATA) from error
    contents[_INLINE_PIXELS] = items(Content(len(raw), lambda: iter((raw,))), raw[-8:])
    model[PIXEL_DATA] = {"vr": "OB", "BulkDataURI": _INLINE_PIXELS}
    return known_uid


def _announcement(model: Model, transfer_syntax_uid: str) -> Announcement:
    """What the metadata says it is; what is no UID is left open, and found by whoever reads the Data Set."""
    return Announcement(_uid(model, _SOP_CLASS), _uid(model, _SOP_INSTANCE), transfer_syntax_uid)


def _uid(model: Model, tag: str) -> str:
    uid = _text(model, tag)
    return uid if is_uid(uid) else ""


def _text(model: Model, tag: str) -> str:
    values = values_of(model, tag)
    return str(values[0]).strip(" \0") if values and values[0] is not None else ""


def _number_of_frames(model: Model) -> int:
    """0 where it is not said, or is no number, as of some writers: then there are as many as have come."""
    text = _text(model, "00280008")
    return int(text) if text.isascii() and text.isdigit() and len(text) < 10 else 0


def _references(model: Model, depth: int) -> Iterator[tuple[int, str, Any]]:
    """The elements that refer to bulk data, in sequences, too. Raises TooComplex."""
    if depth > MAXIMUM_DEPTH:
        raise TooComplex("Sequences are nested too deep")
    for key, element in model.items():
        if not _TAG.fullmatch(key) or not isinstance(element, dict):  # which is refused when it is to be written
            continue
        if "BulkDataURI" in element:
            yield depth, key, element
        elif element.get("vr") == "SQ":
            for item in values_of(model, key):
                if isinstance(item, dict):
                    yield from _references(item, depth + 1)


def _add_missing(model: Model, elements: Mapping[str, JsonElement]) -> None:
    """Put elements into the model where it has none with a value."""
    for tag, element in elements.items():
        if not values_of(model, tag):
            model[tag] = element


def _document_elements(media_type: str, size_bytes: int) -> Model:
    """What an Encapsulated Document says of itself. PS3.3 §C.24.2"""
    return {
        _DOCUMENT_TYPE: {"vr": "LO", "Value": [media_type]},
        _DOCUMENT_BYTES: {"vr": "UL", "Value": [size_bytes]},
    }
