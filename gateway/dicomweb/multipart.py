"""multipart/related both ways: a streaming parser without I/O, and the bytes around parts that are sent.

The parser takes the body in any chunks, gives back views of it, and holds no more than one header line or one
delimiter between two chunks. It knows no DICOM. RFC 2046 §5.1, RFC 2387, PS3.18 §8.6.1.2
"""

from __future__ import annotations

import enum
import re
import secrets
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass

from gateway.dicomweb.media_types import MULTIPART_RELATED, parse_media_type
from storage.errors import BadRequest, TooLarge, UnsupportedMediaType
from storage.filerange import Piece

MAXIMUM_PARTS = 10_000
MAXIMUM_HEADERS = 8
MAXIMUM_HEADER_BYTES = 4096
MAXIMUM_DISCARDED_BYTES = 64 * 1024
"""Of preamble and epilogue, each (L7)."""
MAXIMUM_BOUNDARY_CHARACTERS = 200
_MAXIMUM_PADDING_BYTES = 64

_BOUNDARY = re.compile(r"[\x20-\x7e]{0,199}[\x21-\x7e]", re.ASCII)
_LINE_END = re.compile(rb"[ \t]{0,%d}\r?\n" % _MAXIMUM_PADDING_BYTES)
_BEGINS = re.compile(rb"(?:-|[ \t]{0,%d}\r?)\Z" % _MAXIMUM_PADDING_BYTES)


@dataclass(frozen=True, slots=True)
class PartBegins:
    """A part begins. headers: by name in lower case; the first of a name counts."""

    headers: Mapping[str, str]


class Mark(enum.Enum):
    """The events without a content."""

    PART_ENDS = "part ends"
    BODY_ENDS = "body ends"


Event = PartBegins | memoryview | Mark
"""A memoryview is data of the part that began last; it stays valid, and holds its chunk in memory as long."""

_Step = Callable[[bytes, int], tuple[int, tuple[Event, ...]]]
"""Takes the buffer and where to go on; returns where it got to and what it found."""

_CLOSES = -1
_IS_TEXT = -2


def boundary_of(content_type: str) -> tuple[str, str]:
    """Boundary and ``type`` parameter (or an empty string) of a multipart/related Content-Type.

    Quoted or not (S3). Raises UnsupportedMediaType for another type, BadRequest without a usable boundary.
    """
    media_type, parameters = parse_media_type(content_type)
    if media_type != MULTIPART_RELATED:
        raise UnsupportedMediaType
    values = dict(reversed(parameters))
    boundary = values.get("boundary", "")
    if not boundary:
        raise BadRequest("Content-Type has no boundary")
    if _BOUNDARY.fullmatch(boundary) is None:
        raise BadRequest("The boundary is malformed")
    return boundary, values.get("type", "").lower()


class MultipartParser:
    """Parts of one multipart body, from its bytes in any chunks.

    ``feed`` each chunk and take all its events, then ``finish``. Time is linear in the body whatever it holds.
    Tolerant of CRLF before the first boundary, a preamble, lines that end in LF only (as the first boundary's
    does), padding after a boundary, folded headers, a missing last CRLF, and boundary text inside data (S3, D11).
    Raises BadRequest and TooLarge with constant phrases; after that the parser is of no more use. The limits are of
    parts, of header lines in a part, and of bytes in a header line (L7).
    """

    def __init__(
        self,
        boundary: str,
        *,
        maximum_parts: int = MAXIMUM_PARTS,
        maximum_headers: int = MAXIMUM_HEADERS,
        maximum_header_bytes: int = MAXIMUM_HEADER_BYTES,
    ) -> None:
        self._maximum_parts = maximum_parts
        self._maximum_headers = maximum_headers
        self._maximum_header_bytes = maximum_header_bytes
        self._dash_boundary = b"--" + boundary.encode("latin-1")
        self._delimiter = b"\n" + self._dash_boundary
        self._held = b"\n"  # the first boundary needs no line before it
        self._step: _Step = self._preamble
        self._discarded_bytes = 0
        self._headers: list[bytes] = []
        self.parts = 0

    def feed(self, chunk: bytes | bytearray | memoryview) -> Iterator[Event]:
        """The events that this chunk completes. An iterator: take all of it before the next chunk."""
        buffer = self._held + chunk if self._held else bytes(chunk)
        self._held = b""
        at = 0
        while at < len(buffer):
            before = at, self._step
            at, events = self._step(buffer, at)
            yield from events
            if before == (at, self._step):
                break
        self._held = buffer[at:]

    def finish(self) -> None:
        """Say that the body has ended. Raises BadRequest unless its closing boundary was seen."""
        if self._step == self._preamble:
            raise BadRequest("The body holds no boundary")
        if self._step != self._epilogue:
            raise BadRequest("The body ends before its closing boundary")

    @property
    def is_finished(self) -> bool:
        """Whether the closing boundary was seen."""
        return self._step == self._epilogue

    def _preamble(self, buffer: bytes, at: int) -> tuple[int, tuple[Event, ...]]:
        found, end = self._find(buffer, at)
        self._discard(found - at)
        if end == _CLOSES:
            return self._close(found)
        if end >= 0:
            self._delimiter = (b"\r\n" if buffer.endswith(b"\r\n", found, end) else b"\n") + self._dash_boundary
            self._begin_part()
            return end, ()
        return found, ()

    def _part_headers(self, buffer: bytes, at: int) -> tuple[int, tuple[Event, ...]]:
        while (line_feed := buffer.find(b"\n", at)) >= 0:
            line = buffer[at:line_feed].removesuffix(b"\r")
            at = line_feed + 1
            if not line:
                self._step = self._data
                return at, (PartBegins(_headers(self._headers)),)
            if line[:1] in b" \t" and self._headers:
                line = self._headers.pop() + line
            self._headers.append(line)
            if len(line) > self._maximum_header_bytes or len(self._headers) > self._maximum_headers:
                raise TooLarge("The headers of a part are larger than the limit")
        if len(buffer) - at > self._maximum_header_bytes:
            raise TooLarge("The headers of a part are larger than the limit")
        return at, ()

    def _data(self, buffer: bytes, at: int) -> tuple[int, tuple[Event, ...]]:
        found, end = self._find(buffer, at)
        data: tuple[Event, ...] = (memoryview(buffer)[at:found],) if found > at else ()
        if end == _CLOSES:
            at, events = self._close(found)
            return at, (*data, Mark.PART_ENDS, *events)
        if end >= 0:
            self._begin_part()
            return end, (*data, Mark.PART_ENDS)
        return found, data

    def _epilogue(self, buffer: bytes, at: int) -> tuple[int, tuple[Event, ...]]:
        self._discard(len(buffer) - at)
        return len(buffer), ()

    def _find(self, buffer: bytes, at: int) -> tuple[int, int]:
        """Where the next delimiter starts, and where the line after it does, or ``_CLOSES``.

        Without one, (how far the buffer certainly holds none, ``_IS_TEXT``): what begins like a delimiter waits for
        the next chunk. A delimiter holds one line end only, so only the last one can begin it.
        """
        delimiter = self._delimiter
        found = buffer.find(delimiter, at)
        while found >= 0:
            end = _after(buffer, found + len(delimiter))
            if end is None:
                return found, _IS_TEXT
            if end != _IS_TEXT:
                return found, end
            true_one = self._true_delimiter().search(buffer, found + 1)
            found = true_one.start() if true_one else -1
        begun = buffer.rfind(delimiter[:1], max(at, len(buffer) - len(delimiter) + 1))
        if begun >= 0 and delimiter.startswith(buffer[begun:]):
            return begun, _IS_TEXT
        return len(buffer), _IS_TEXT

    def _true_delimiter(self) -> re.Pattern[bytes]:
        """A delimiter with what may stand after it. Slower than ``find``, but not on data full of false ones."""
        return re.compile(re.escape(self._delimiter) + b"(?:--|" + _LINE_END.pattern + b"|" + _BEGINS.pattern + b")")

    def _begin_part(self) -> None:
        self.parts += 1
        if self.parts > self._maximum_parts:
            raise TooLarge("The body holds more parts than the limit")
        self._headers = []
        self._step = self._part_headers

    def _close(self, found: int) -> tuple[int, tuple[Event, ...]]:
        self._discarded_bytes = 0
        self._step = self._epilogue
        return found + len(self._delimiter) + 2, (Mark.BODY_ENDS,)

    def _discard(self, count_bytes: int) -> None:
        self._discarded_bytes += count_bytes
        if self._discarded_bytes > MAXIMUM_DISCARDED_BYTES:
            raise TooLarge("The text around the parts is larger than the limit")


def _after(buffer: bytes, end: int) -> int | None:
    """What stands after a delimiter: where the next line starts, ``_CLOSES``, ``_IS_TEXT``, None if it is too early."""
    if line_end := _LINE_END.match(buffer, end):
        return line_end.end()
    if buffer.startswith(b"--", end):
        return _CLOSES
    return None if _BEGINS.match(buffer, end) else _IS_TEXT


def _headers(lines: Iterable[bytes]) -> dict[str, str]:
    headers: dict[str, str] = {}
    for line in lines:
        name, colon, value = line.decode("latin-1").partition(":")
        if not colon:
            raise BadRequest("A header of a part is malformed")
        headers.setdefault(name.strip().lower(), value.strip())
    return headers


PART_ENDS = b"\r\n"
"""What follows the data of a part that is sent; the next ``part_begins`` or ``body_ends`` comes at once."""


def new_boundary() -> str:
    """32 random hex digits: no parser trips over them, and data does not hold them by chance (G13)."""
    return secrets.token_hex(16)


def body_type(media_type: str, boundary: str) -> str:
    """Content-Type of a response of many parts of ``media_type`` (G11). PS3.18 §8.6.1.2.1"""
    return f'{MULTIPART_RELATED}; type="{media_type}"; boundary={boundary}'


def part_begins(boundary: str, content_type: str, location: str = "") -> bytes:
    """Boundary line and headers of a part; its data comes next, then ``PART_ENDS``.

    ``Content-Type:`` stands first and in exactly this case: Cornerstone looks for it so (V3). Raises BadRequest for
    a location that a header cannot hold (H10).
    """
    lines = [f"--{boundary}", f"Content-Type: {content_type}"]
    if location:
        lines.append(f"Content-Location: {location}")
    if not all(line.isascii() and line.isprintable() for line in lines):
        raise BadRequest("A header of a part would be malformed")
    return ("\r\n".join(lines) + "\r\n\r\n").encode("ascii")


def body_ends(boundary: str) -> bytes:
    """The closing boundary."""
    return f"--{boundary}--\r\n".encode("ascii")


def part(boundary: str, content_type: str, pieces: Iterable[Piece], location: str = "") -> Iterator[Piece]:
    """One whole part, piece by piece."""
    yield part_begins(boundary, content_type, location)
    yield from pieces
    yield PART_ENDS
