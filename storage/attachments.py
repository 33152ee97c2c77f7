"""Attachments: bulk data that came apart from the Data Sets that refer to it, on disk until those are written.

One nameless file holds the values of a request, one behind the other, whatever their number; it goes with its last
user, and with the process. It is not durable storage (R7).
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from storage.errors import StorageUnavailable, TooLarge
from storage.filerange import CHUNK_BYTES
from storage.spool import begin_write_back, waiting_file, write_all

_WRITE_BACK_BYTES = 8 << 20


class Attachments:
    """Bytes that are appended by one thread at a time, and read by any number of them.

    directory: where the file is, made with the first byte. maximum_bytes: of it; one more raises TooLarge.
    """

    def __init__(self, directory: Path, *, maximum_bytes: int) -> None:
        self._directory = directory
        self._maximum_bytes = maximum_bytes
        self._fd = -1
        self.size_bytes = 0

    def write(self, chunk: bytes | bytearray | memoryview) -> None:
        """Append bytes. Raises TooLarge, or StorageUnavailable when the disk refuses."""
        start, end = self.size_bytes, self.size_bytes + len(chunk)
        if end > self._maximum_bytes:
            raise TooLarge("The bulk data of the request is larger than the limit")
        try:
            if self._fd < 0:
                self._fd, path = waiting_file(self._directory)
                path.unlink()
            write_all(self._fd, chunk)
            if end // _WRITE_BACK_BYTES > start // _WRITE_BACK_BYTES:
                begin_write_back(self._fd)
        except OSError as error:
            raise StorageUnavailable("Bulk data cannot be written") from error
        self.size_bytes = end

    def read(self, start: int, end: int) -> bytes:
        """Bytes ``start`` to ``end``, fewer at the end of what was written. Raises StorageUnavailable."""
        if self._fd < 0:
            return b""
        try:
            return os.pread(self._fd, max(0, end - start), start)
        except OSError as error:
            raise StorageUnavailable("Bulk data cannot be read") from error

    def chunks(self, start: int, end: int) -> Iterator[bytes]:
        """Bytes ``start`` to ``end`` in pieces of at most a mebibyte. Raises StorageUnavailable."""
        for at in range(start, end, CHUNK_BYTES):
            stop = min(end, at + CHUNK_BYTES)
            piece = self.read(at, stop)
            if len(piece) != stop - at:
                raise StorageUnavailable("Bulk data cannot be read")
            yield piece

    def __del__(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
