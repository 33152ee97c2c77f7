"""BulkParts: the bulk data parts of one Store request, found by what metadata refers to.

A BulkDataURI names a part of the same request by its Content-Location, or frames of it, and nothing else: nothing is
ever fetched (H28). What is compressed says what it is by its media type and ``transfer-syntax``, or by its header.
PS3.18 §10.5.1.4, §10.5.2, §8.7.3
"""

from __future__ import annotations

import re
import struct
from base64 import b64encode
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from types import MappingProxyType

from gateway.dicomweb.media_types import OCTET_STREAM
from gateway.pixels.codestreams import Described, codestream_range, described, frame_ranges
from storage.attachments import Attachments
from storage.encoding import Content, encapsulated, items, joined
from storage.errors import BadRequest, GatewayError, InvalidInstance, Undecodable, UnsupportedTransferSyntax
from storage.uids import EXPLICIT_VR_BIG_ENDIAN, EXPLICIT_VR_LITTLE_ENDIAN, RLE_LOSSLESS, TRANSFER_SYNTAXES, is_uid
from storage.uids import transfer_syntax as syntax_of

PIXEL_DATA = "7FE00010"
_ITEM_TAG = b"\xfe\xff\x00\xe0"
_FRAMES = re.compile(r"(.*)/frames/([1-9][0-9]{0,8})", re.ASCII | re.DOTALL)
_SCHEME = re.compile(r"(?!urn:|cid:)[a-z][a-z0-9+.-]*:|//", re.ASCII | re.IGNORECASE)
_COMPRESSED = frozenset(row.media_type.lower() for row in TRANSFER_SYNTAXES.values()) - {OCTET_STREAM}
_ALIASES: Mapping[str, str] = MappingProxyType(
    {
        "": OCTET_STREAM,
        "image/jpg": "image/jpeg",
        "image/x-jls": "image/jls",
        "image/x-dicom-rle": "image/dicom-rle",
        "image/jph": "image/jphc",
        "video/mpeg2": "video/mpeg",
    }
)
"""What writers call media types of PS3.18 Table 8.7.3-2, in earlier editions among others."""
_WITHOUT_HEADER: Mapping[str, str] = MappingProxyType(
    {
        "image/dicom-rle": RLE_LOSSLESS,
        "video/mpeg": "1.2.840.10008.1.2.4.100",
        "video/mp4": "1.2.840.10008.1.2.4.102",
        "video/h265": "1.2.840.10008.1.2.4.107",
    }
)
"""The default transfer syntax of media types whose header is not read. PS3.18 Table 8.7.3-5"""


@dataclass(frozen=True, slots=True)
class BulkPart:
    """A part, and where in the attachments its bytes are."""

    number: int
    media_type: str
    transfer_syntax_uid: str
    start: int
    end: int


@dataclass(frozen=True, slots=True)
class PixelContent:
    """Pixel Data as it is to be written.

    described: what the header of compressed pixels says, where it was read. frame_bytes: of each frame in a fragment of
    its own; empty for pixels that are native or came as items.
    """

    content: Content
    transfer_syntax_uid: str
    frame_bytes: tuple[int, ...] = ()
    described: Described | None = None


class BulkParts:
    """Those of one request. Filled by one thread, then asked by any number."""

    def __init__(self, attachments: Attachments) -> None:
        self._attachments = attachments
        self._by_location: dict[str, list[BulkPart]] = {}
        self._frames: dict[str, dict[int, BulkPart]] = {}
        self._used: set[int] = set()
        self._count = 0

    def add(self, location: str, media_type: str, transfer_syntax_uid: str, start: int, end: int) -> None:
        """A part whose bytes are those of the attachments from ``start`` to ``end``."""
        media_type = _ALIASES.get(media_type, media_type)
        part = BulkPart(self._count, media_type, transfer_syntax_uid, start, end)
        self._count += 1
        self._by_location.setdefault(location, []).append(part)
        if match := _FRAMES.fullmatch(location):
            self._frames.setdefault(match[1], {}).setdefault(int(match[2]), part)

    @property
    def is_used_up(self) -> bool:
        """Whether something has referred to every part."""
        return len(self._used) == self._count

    def value(self, uri: str, tag: str) -> tuple[Content, str]:
        """The one part that a value is, and its media type.

        Raises BadRequest for a URI that leads out of the request, InvalidInstance where the part is missing or there
        are two, UnsupportedTransferSyntax for big endian.
        """
        parts = self._parts(uri, tag)
        if len(parts) != 1:
            raise InvalidInstance("Several bulk data parts have the location of one value", tag=tag)
        if parts[0].transfer_syntax_uid == EXPLICIT_VR_BIG_ENDIAN:
            raise UnsupportedTransferSyntax("Bulk data is little endian", tag=tag)
        return self._content(parts[0]), parts[0].media_type

    def nested_pixels(self, uri: str, *, is_encapsulated: bool) -> Content:
        """Pixel Data of an icon: native, or the items that bulk data of one is. Raises what ``value`` raises."""
        content, _ = self.value(uri, PIXEL_DATA)
        part = self._by_location[uri][0]
        return self._items(part) if is_encapsulated and self._read(part, 0, 4) == _ITEM_TAG else content

    def pixels(self, uri: str, number_of_frames: int, known_uid: str) -> PixelContent:
        """Pixel Data of an image: one part, or one for each frame.

        number_of_frames: that the metadata says, 0 if it says none. known_uid: the transfer syntax that metadata names;
        where a part does not name one it decides among those of its media type. Raises as ``value``, and Undecodable
        where the codestream is malformed.
        """
        parts = self._parts(uri, PIXEL_DATA) or self._frame_parts(uri)
        media_types = {part.media_type for part in parts}
        named = {part.transfer_syntax_uid for part in parts}
        if len(media_types) != 1 or len(named) != 1:
            raise InvalidInstance("The frames of the Pixel Data are of several kinds", tag=PIXEL_DATA)
        media_type, named_uid = media_types.pop(), named.pop()
        if named_uid and not is_uid(named_uid):
            raise UnsupportedTransferSyntax("The transfer syntax of a part is malformed", tag=PIXEL_DATA)
        first = self._read(parts[0], 0, 4)
        if media_type == OCTET_STREAM and not named_uid and first == _ITEM_TAG:
            named_uid = known_uid
        row = syntax_of(named_uid or EXPLICIT_VR_LITTLE_ENDIAN)
        if media_type == OCTET_STREAM and not row.is_encapsulated:
            if row.uid == EXPLICIT_VR_BIG_ENDIAN:
                raise UnsupportedTransferSyntax("Bulk data is little endian", tag=PIXEL_DATA)
            return PixelContent(joined(list(map(self._content, parts))), EXPLICIT_VR_LITTLE_ENDIAN)
        if media_type == OCTET_STREAM and first == _ITEM_TAG and len(parts) == 1:
            return PixelContent(self._items(parts[0]), row.uid)
        if media_type not in _COMPRESSED and media_type != OCTET_STREAM:
            raise UnsupportedTransferSyntax("No transfer syntax has pixels of this media type", tag=PIXEL_DATA)
        if not row.is_encapsulated and named_uid:
            raise UnsupportedTransferSyntax("The transfer syntax is not one of the media type", tag=PIXEL_DATA)
        return self._compressed(parts, media_type, number_of_frames, (named_uid, known_uid))

    def _compressed(
        self, parts: Sequence[BulkPart], media_type: str, number_of_frames: int, uids: tuple[str, str]
    ) -> PixelContent:
        found = self._described(parts[0], media_type)
        header = found if isinstance(found, Described) else None
        named_uid, known_uid = uids
        uid = named_uid or (known_uid if syntax_of(known_uid).media_type.lower() == media_type else "")
        if not uid and isinstance(found, GatewayError):
            raise found
        uid = uid or (header.transfer_syntax_uid if header else _WITHOUT_HEADER.get(media_type, ""))
        if not uid:
            raise UnsupportedTransferSyntax("The transfer syntax of the Pixel Data is not named", tag=PIXEL_DATA)
        frames = [self._codestream(part, media_type) for part in parts]
        if len(parts) == 1 and number_of_frames > 1 and not media_type.startswith("video/"):
            frames = self._split(parts[0], media_type, number_of_frames)
        if not media_type.startswith("video/") and number_of_frames not in (0, len(frames)):
            raise InvalidInstance("There are not as many frames as the metadata says", tag="00280008")
        return PixelContent(encapsulated(frames), uid, tuple(frame.size_bytes for frame in frames), header)

    def _described(self, part: BulkPart, media_type: str) -> Described | GatewayError | None:
        if media_type in _WITHOUT_HEADER or media_type in (OCTET_STREAM, "image/jxl"):
            return None
        try:
            start, end = self._codestream_range(part, media_type)
            return described(media_type, partial(self._read_between, start, end), end - start)
        except Undecodable as error:
            return InvalidInstance(error.reason, tag=PIXEL_DATA)

    def _codestream_range(self, part: BulkPart, media_type: str) -> tuple[int, int]:
        start, end = codestream_range(media_type, partial(self._read, part), part.end - part.start)
        return part.start + start, part.start + end

    def _codestream(self, part: BulkPart, media_type: str) -> Content:
        try:
            return self._range(*self._codestream_range(part, media_type))
        except Undecodable as error:
            raise InvalidInstance(error.reason, tag=PIXEL_DATA) from error

    def _split(self, part: BulkPart, media_type: str, number_of_frames: int) -> list[Content]:
        """Frames that came one behind the other in one part."""
        try:
            ranges = frame_ranges(media_type, partial(self._read, part), part.end - part.start, number_of_frames)
        except Undecodable as error:
            raise InvalidInstance(error.reason, tag=PIXEL_DATA) from error
        return [self._range(part.start + start, part.start + end) for start, end in ranges]

    def _parts(self, uri: str, tag: str) -> Sequence[BulkPart]:
        parts = self._by_location.get(uri, ())
        if not parts and (tag != PIXEL_DATA or not self._frame_parts(uri)):
            if _SCHEME.match(uri):
                raise BadRequest("A BulkDataURI leads out of the request", tag=tag)
            raise InvalidInstance("The bulk data part that a value refers to is missing", tag=tag)
        self._used.update(part.number for part in parts)
        return parts

    def _frame_parts(self, uri: str) -> Sequence[BulkPart]:
        """The parts that are the frames of the Pixel Data at ``uri``, all from the first one on.

        Their locations are below it (PS3.18-2019 §10.4.1.1.5), or below the instance whose bulk data it is, as ours.
        """
        for base in (uri, uri.removesuffix(f"/bulkdata/{PIXEL_DATA}"), uri.removesuffix("/frames")):
            frames = self._frames.get(base)
            if frames:
                self._used.update(part.number for part in frames.values())
                if max(frames) != len(frames):
                    raise InvalidInstance("The bulk data part of a frame is missing", tag=PIXEL_DATA)
                return [frames[number] for number in range(1, len(frames) + 1)]
        return ()

    def _read_between(self, first: int, last: int, start: int, end: int) -> bytes:
        return self._attachments.read(first + start, min(last, first + end))

    def _read(self, part: BulkPart, start: int, end: int) -> bytes:
        return self._read_between(part.start, part.end, start, end)

    def _items(self, part: BulkPart) -> Content:
        size_bytes = part.end - part.start
        return items(self._content(part), self._read(part, max(0, size_bytes - 8), size_bytes))

    def _content(self, part: BulkPart) -> Content:
        return self._range(part.start, part.end)

    def _range(self, start: int, end: int) -> Content:
        chunks: Callable[[], Iterator[bytes]] = partial(self._attachments.chunks, start, end)
        return Content(end - start, chunks)


def image_pixel_elements(image: Described, number_of_frames: int) -> dict[str, dict[str, object]]:
    """The Image Pixel Description Macro of an image as its codestream has it, with the number of several frames.

    PS3.18 §10.5.2, PS3.3 Table C.7-11c
    """
    is_lossy = syntax_of(image.transfer_syntax_uid).is_lossy
    bits = {"00280100": 8 if image.precision <= 8 else 16, "00280101": image.precision}
    numbers = {
        "00280002": image.samples_per_pixel,
        **({"00280006": 0} if image.samples_per_pixel > 1 else {}),
        "00280010": image.rows,
        "00280011": image.columns,
        **bits,
        "00280102": image.precision - 1,
        "00280103": int(image.is_signed),
    }
    return {
        **{tag: {"vr": "US", "Value": [number]} for tag, number in numbers.items()},
        "00280004": {"vr": "CS", "Value": [image.photometric_interpretation]},
        **({"00280008": {"vr": "IS", "Value": [number_of_frames]}} if number_of_frames > 1 else {}),
        **({"00282110": {"vr": "CS", "Value": ["01"]}} if is_lossy else {}),
    }


def extended_offsets(frame_bytes: Sequence[int]) -> dict[str, dict[str, object]]:
    """The Extended Offset Table of frames in a fragment each, and their lengths. PS3.5 §A.4, PS3.3 §C.7.6.3.1.8"""
    offsets, at = [], 0
    for size_bytes in frame_bytes:
        offsets.append(at)
        at += 8 + size_bytes + size_bytes % 2
    return {
        tag: {"vr": "OV", "InlineBinary": b64encode(struct.pack(f"<{len(numbers)}Q", *numbers)).decode("ascii")}
        for tag, numbers in (("7FE00001", offsets), ("7FE00002", frame_bytes))
    }
