"""FileRange: bytes of a file that an object store keeps, to be handed to a socket without being read here."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from typing import Self

from storage.errors import CorruptObject, StorageUnavailable

CHUNK_BYTES = 1 << 20
_SOCKET_ERRORS = frozenset(
    (
        errno.EAGAIN,
        errno.ECONNABORTED,
        errno.ECONNRESET,
        errno.EHOSTUNREACH,
        errno.ENETUNREACH,
        errno.ENOTCONN,
        errno.EPIPE,
        errno.ETIMEDOUT,
    )
)
_NO_SENDFILE = frozenset((errno.EINVAL, errno.ENOSYS))  # some file systems do not offer it


class FileRange:
    """Bytes ``start`` to ``end`` of an open file, whose descriptor it owns until ``close``.

    Whoever gets one closes it; one that is forgotten closes itself.
    """

    __slots__ = ("end", "fd", "start")

    def __init__(self, fd: int, start: int, end: int) -> None:
        self.fd = fd
        self.start = start
        self.end = end

    def __len__(self) -> int:
        return self.end - self.start

    def send_to(self, socket_fd: int, most: int) -> int:
        """Let the system send some of it, which it then no longer holds; returns how many bytes, at most ``most``.

        Raises CorruptObject when the file is shorter, StorageUnavailable when it cannot be read, and what the socket
        raises.
        """
        try:
            sent = os.sendfile(socket_fd, self.fd, self.start, min(len(self), most))
        except OSError as error:
            if error.errno in _SOCKET_ERRORS:
                raise
            if error.errno not in _NO_SENDFILE:
                raise StorageUnavailable("An object cannot be read") from error
            sent = os.write(socket_fd, self._read(min(CHUNK_BYTES, most)))
        if sent == 0:
            raise CorruptObject("The object is shorter than its row says")
        self.start += sent
        return sent

    def _read(self, most: int) -> bytes:
        try:
            found = os.pread(self.fd, min(most, len(self)), self.start)
        except OSError as error:
            raise StorageUnavailable("An object cannot be read") from error
        if not found:
            raise CorruptObject("The object is shorter than its row says")
        return found

    def chunks(self) -> Iterator[bytes]:
        """The bytes, for somebody who cannot send a file; it is closed at the end. Raises CorruptObject."""
        with self:
            while self.start < self.end:
                found = self._read(CHUNK_BYTES)
                self.start += len(found)
                yield found

    def close(self) -> None:
        """Close the file; safe to call twice."""
        fd, self.fd = self.fd, -1
        if fd >= 0:
            os.close(fd)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __del__(self) -> None:
        self.close()


Piece = bytes | FileRange
"""A part of a body that is sent."""


def as_bytes(pieces: Iterator[Piece]) -> Iterator[bytes]:
    """The same bytes, read."""
    for piece in pieces:
        if isinstance(piece, FileRange):
            yield from piece.chunks()
        else:
            yield piece


__all__ = ["CHUNK_BYTES", "FileRange", "Piece", "as_bytes"]
