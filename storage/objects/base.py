"""The seam to bytes: ObjectStore, and Blob, one object open for reading. Promises stand here in prose (R1–R3)."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Protocol, Self

from storage.filerange import Piece
from storage.spool import Spool


class Blob(Protocol):
    """One object, open for ranged reads from any thread; a context manager."""

    size_bytes: int

    def read(self, start: int, end: int) -> bytes:
        """Bytes ``start`` to ``end``. Raises CorruptObject when the object is shorter, StorageUnavailable."""
        ...

    def pieces(self, start: int, end: int) -> Iterator[Piece]:
        """The same bytes as pieces of a body: in chunks, or a range of a file that outlives the blob. Raises at once
        what ``read`` raises.
        """
        ...

    def close(self) -> None:
        """Release what the object holds open; safe to call twice."""
        ...

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None: ...


class ObjectStore(Protocol):
    """Bytes by key. Keys come from ``storage.keys`` and hold the digest, so an object never changes.

    Thread-safe. Foreign errors are wrapped: NotFound for a key that is not there, StorageUnavailable for the rest.
    """

    spool_directory: Path

    def expect(self, spool: Spool) -> None:
        """Take what was collected as something that ``put`` will probably get: begin what can begin without a key.

        Promises nothing; the spool's owner may still give it up. Raises StorageUnavailable.
        """
        ...

    def put(self, key: str, spool: Spool) -> None:
        """Make the spool's header and Data Set the object ``key``.

        On return the bytes and their name are durable: a power cut does not take them back. Where the key exists with
        the same length, nothing is written; one of another length is damaged, and is replaced whole. On any error the
        key holds the whole object or nothing, and no temporary file stays.
        """
        ...

    def open(self, key: str) -> Blob:
        """The object, for reading. Raises NotFound."""
        ...

    def size_bytes(self, key: str) -> int:
        """Length of the object. Raises NotFound."""
        ...

    def keys(self, prefix: str = "") -> Iterator[str]:
        """Every key that starts with ``prefix``, in no order. For upkeep only: never on a request path."""
        ...

    def delete(self, key: str) -> None:
        """Remove the object; no error when it is not there."""
        ...
