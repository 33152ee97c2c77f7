"""ObjectStore in a dictionary: the reference for the contract suite, and for tests. Nothing in it survives."""

from __future__ import annotations

import contextlib
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Self

from storage.errors import CorruptObject, NotFound
from storage.filerange import Piece
from storage.objects.base import Stat, Stray
from storage.spool import Buffer, Spool


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

    @contextlib.contextmanager
    def mapped(self) -> Iterator[Buffer]:
        """The bytes themselves."""
        if not self._content:
            raise CorruptObject("The object is empty")
        yield memoryview(self._content)

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
        self._stats: dict[str, Stat] = {}
        self._lock = threading.Lock()
        self._directory = tempfile.TemporaryDirectory(prefix="dicomweb-gateway-")
        self.spool_directory = Path(self._directory.name)

    def expect(self, spool: Spool) -> None:
        """Nothing can begin here."""

    def put(self, key: str, spool: Spool, *, is_damaged: bool = False) -> bool:
        """Keep a copy; what is there with the same length stays."""
        return self._keep(key, b"".join(bytes(piece) for piece in spool.pieces()), spool.label, is_new=is_damaged)

    def write(self, key: str, content: bytes) -> None:
        """Keep them; what is there stays."""
        self._keep(key, content, b"")

    def _keep(self, key: str, content: bytes, label: bytes, *, is_new: bool = False) -> bool:
        with self._lock:
            if not is_new and len(self._objects.get(key, b"")) == len(content):
                return False
            self._objects[key] = content
            self._stats[key] = Stat(len(content), time.time_ns(), label)
        return True

    def open(self, key: str) -> MemoryBlob:
        """The object's bytes. Raises NotFound."""
        try:
            return MemoryBlob(self._objects[key])
        except KeyError as error:
            raise NotFound("There is no such object") from error

    def size_bytes(self, key: str) -> int:
        """Length of the object. Raises NotFound."""
        return self.open(key).size_bytes

    def stat(self, key: str) -> Stat:
        """What was noted when it came. Raises NotFound."""
        try:
            return self._stats[key]
        except KeyError as error:
            raise NotFound("There is no such object") from error

    def keys(self, prefix: str = "") -> Iterator[str]:
        """Keys as they are now."""
        with self._lock:
            found = [key for key in self._objects if key.startswith(prefix)]
        return iter(found)

    def delete(self, key: str) -> None:
        """Forget the object."""
        with self._lock:
            self._objects.pop(key, None)
            self._stats.pop(key, None)

    def strays(self) -> Iterator[Stray]:
        """There is no place for any."""
        return iter(())

    def open_stray(self, name: str) -> MemoryBlob:  # noqa: ARG002 - none has a name
        """There is none. Raises NotFound."""
        raise NotFound("There is no such object")

    def set_aside(self, name: str) -> None:
        """Forget the object: nothing here outlives the process."""
        self.delete(name)

    def remove_stray(self, name: str) -> None:
        """There is none."""

    def close(self) -> None:
        """Remove the folder in which large Data Sets waited."""
        self._directory.cleanup()
