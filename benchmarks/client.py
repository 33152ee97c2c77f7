"""HTTP/1.1 over one connection with as little work per byte as Python allows, so that the server is what is measured.

For answers that are looked at one by one, and for requests with a large body; ``load`` is for many at once.
"""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Self
from urllib.parse import urlsplit

import orjson

_BUFFER_BYTES = 1 << 20
_MAXIMUM_HEAD_BYTES = 64 << 10
_MAXIMUM_BODY_BYTES = 4 << 30

Body = Sequence[bytes | memoryview]


class AnswerError(Exception):
    """An answer that is not what it has to be. The text is a constant phrase and numbers."""


@dataclass(frozen=True, slots=True)
class Reply:
    """An answer. ``body`` is empty when it was only counted; seconds count from the request's first byte."""

    status: int
    headers: Mapping[str, str]
    body: bytes
    size_bytes: int
    first_byte_seconds: float
    total_seconds: float

    def json(self) -> object:
        """The body as JSON; an empty list without one."""
        return orjson.loads(self.body) if self.body else []

    def rows(self) -> list[dict[str, dict[str, list[object]]]]:
        """The body as a list of Data Sets. Raises AnswerError."""
        found = self.json()
        if not isinstance(found, list):
            raise AnswerError("the answer is no list")
        return found


class Connection:
    """A kept-alive connection to ``root``, the URL before ``/studies``."""

    def __init__(self, root: str, timeout_seconds: float = 120.0) -> None:
        parts = urlsplit(root)
        self._address = (parts.hostname or "127.0.0.1", parts.port or 80)
        self._prefix = parts.path.rstrip("/")
        self._timeout_seconds = timeout_seconds
        self._socket: socket.socket | None = None
        self._buffer = bytearray(_BUFFER_BYTES)
        self._view = memoryview(self._buffer)
        self._at = self._end = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Hang up; the next request connects anew."""
        if self._socket is not None:
            self._socket.close()
        self._socket = None
        self._at = self._end = 0

    def get(self, path: str, accept: str = "*/*", *, keep: bool = True) -> Reply:
        """GET below the root. ``keep``: whether the body is wanted, or only its length."""
        return self.request("GET", path, {"Accept": accept}, keep=keep)

    def request(
        self, method: str, path: str, headers: Mapping[str, str], body: Body = (), *, keep: bool = True
    ) -> Reply:
        """One request and its answer. Raises OSError, or AnswerError where the answer is no HTTP."""
        lines = [f"{method} {self._prefix}{path} HTTP/1.1", f"Host: {self._address[0]}:{self._address[1]}"]
        lines += [f"{name}: {value}" for name, value in headers.items()]
        if body:
            lines.append(f"Content-Length: {sum(map(len, body))}")
        head = "\r\n".join([*lines, "", ""]).encode()
        connection = self._connected()
        started = time.perf_counter()
        connection.sendall(head)
        for piece in body:
            connection.sendall(piece)
        return self._answer(started, keep=keep)

    def _connected(self) -> socket.socket:
        if self._socket is None:
            self._socket = socket.create_connection(self._address, self._timeout_seconds)
            self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return self._socket

    def _fill(self) -> None:
        """Receive behind what is buffered, moving that to the front when there is no room."""
        if self._at == self._end:
            self._at = self._end = 0
        elif self._end == len(self._buffer):
            rest = bytes(self._view[self._at : self._end])
            self._buffer[: len(rest)] = rest
            self._at, self._end = 0, len(rest)
        if self._end - self._at > _MAXIMUM_HEAD_BYTES:
            raise AnswerError("a line of the answer is too long")
        received = self._connected().recv_into(self._view[self._end :])
        if not received:
            raise ConnectionError("the server hung up")
        self._end += received

    def _until(self, mark: bytes) -> bytes:
        while (found := self._buffer.find(mark, self._at, self._end)) < 0:
            self._fill()
        content = bytes(self._view[self._at : found])
        self._at = found + len(mark)
        return content

    def _take(self, count: int, into: bytearray | None) -> None:
        while count:
            if self._at == self._end:
                self._fill()
            taken = min(count, self._end - self._at)
            if into is not None:
                into += self._view[self._at : self._at + taken]
            self._at += taken
            count -= taken

    def _answer(self, started: float, *, keep: bool) -> Reply:
        lines = self._until(b"\r\n\r\n").decode("latin-1").split("\r\n")
        first_byte_seconds = time.perf_counter() - started
        status = int(lines[0].split(" ", 2)[1])
        headers = {
            name.strip().lower(): value.strip() for name, _, value in (line.partition(":") for line in lines[1:])
        }
        body = bytearray() if keep else None
        size_bytes = 0
        for piece_bytes in self._piece_sizes(status, headers):
            size_bytes += piece_bytes
            if size_bytes > _MAXIMUM_BODY_BYTES:
                raise AnswerError("the answer is too large")
            self._take(piece_bytes, body)
        total_seconds = time.perf_counter() - started
        if headers.get("connection", "").lower() == "close":
            self.close()
        return Reply(status, headers, bytes(body or b""), size_bytes, first_byte_seconds, total_seconds)

    def _piece_sizes(self, status: int, headers: Mapping[str, str]) -> Iterator[int]:
        """Sizes of the runs of bytes that make up the body, each of which is taken before the next is asked for."""
        if status in (204, 304):
            return
        if headers.get("transfer-encoding", "").lower() == "chunked":
            while size := int(self._until(b"\r\n").split(b";")[0], 16):
                yield size
                self._take(2, None)
            self._until(b"\r\n")
        elif "content-length" in headers:
            yield int(headers["content-length"])
        else:
            yield from self._until_the_end()

    def _until_the_end(self) -> Iterator[int]:
        """What is buffered, again and again, until the server hangs up. RFC 9112 §6.3"""
        while self._socket is not None:
            yield self._end - self._at
            try:
                self._fill()
            except ConnectionError:
                self.close()


def parts(reply: Reply) -> list[bytes]:
    """Contents of the parts of a multipart answer; the body itself when it is none. RFC 2046 §5.1"""
    content_type = reply.headers.get("content-type", "")
    if not content_type.lower().startswith("multipart/"):
        return [reply.body]
    boundary = content_type.partition("boundary=")[2].partition(";")[0].strip().strip('"').encode()
    delimiter = b"\r\n--" + boundary
    body = b"\r\n" + reply.body
    found = []
    at = body.find(delimiter)
    while at >= 0 and not body.startswith(b"--", at + len(delimiter)):
        start = body.find(b"\r\n\r\n", at) + 4
        at = body.find(delimiter, start)
        found.append(body[start:at])
    return found
