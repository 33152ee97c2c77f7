"""ObjectStore in a dictionary: the reference for the contract suite, and for tests. Nothing in it survives."""

from __future__ import annotations

import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Self

from storage.errors import CorruptObject, NotFound
from storage.filerange import Piece
from storage.spool import Spool


class MemoryBlob:
    """Bytes that are there already."""

    def __init__(self, content: bytes) -> None:
        self._content = content
        self.size_bytes = len(content)

    def read(self, start: int, end: int) -> bytes:
        """Bytes ``start`` to ``end``; CorruptObject past the end."""
        if not 0 <= start <= end <= self.size_bytes:
            raise CorruptObject("The object is shorter than its row says")
        return self._content[start:end]

    def pieces(self, start: int, end: int) -> Iterator[Piece]:
        """One piece."""
        return iter((self.read(start, end),))

    def close(self) -> None:
        """Nothing is held open."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()


class MemoryObjectStore:
    """See ``storage.objects.base.ObjectStore``."""

    def __init__(self) -> None:
        self._objects: dict[str, bytes] = {}
        self._lock = threading.Lock()
        self._directory = tempfile.TemporaryDirectory(prefix="dicomweb-gateway-")
        self.spool_directory = Path(self._directory.name)

    def expect(self, spool: Spool) -> None:
        """Nothing can begin here."""

    def put(self, key: str, spool: Spool) -> None:
        """Keep a copy; what is there stays."""
        content = b"".join(bytes(piece) for piece in spool.pieces())
        with self._lock:
            self._objects.setdefault(key, content)

    def open(self, key: str) -> MemoryBlob:
        """The object's bytes. Raises NotFound."""
        try:
            return MemoryBlob(self._objects[key])
        except KeyError as error:
            raise NotFound("There is no such object") from error

    def size_bytes(self, key: str) -> int:
        """Length of the object. Raises NotFound."""
        return self.open(key).size_bytes

    def keys(self, prefix: str = "") -> Iterator[str]:
        """Keys as they are now."""
        with self._lock:
            found = [key for key in self._objects if key.startswith(prefix)]
        return iter(found)

    def delete(self, key: str) -> None:
        """Forget the object."""
        with self._lock:
            self._objects.pop(key, None)

    def close(self) -> None:
        """Remove the folder in which large Data Sets waited."""
        self._directory.cleanup()
