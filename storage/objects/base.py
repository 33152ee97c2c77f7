"""The seam to bytes: ObjectStore, and Blob, one object open for reading. Promises stand here in prose (R1–R3)."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Protocol, Self

from storage.filerange import Piece
from storage.spool import Buffer, Spool


@dataclass(frozen=True, slots=True)
class Stat:
    """What is known of an object without reading it.

    modified_ns: when it was written, since 1970. label: what the spool's owner had kept with it, empty where the store
    could not.
    """

    size_bytes: int
    modified_ns: int
    label: bytes = b""


@dataclass(frozen=True, slots=True)
class Stray:
    """Something in the store that is no object. is_left_over: of a store that was cut off, and never acknowledged."""

    name: str
    modified_ns: int
    is_left_over: bool


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

    def mapped(self) -> AbstractContextManager[Buffer]:
        """The whole object as a buffer, of which only what is looked at is read. Raises CorruptObject when it is empty,
        StorageUnavailable.
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

    def put(self, key: str, spool: Spool, *, is_damaged: bool = False) -> bool:
        """Make the spool's header and Data Set the object ``key``; whether anything had to be written for it.

        On return the bytes and their name are durable: a power cut does not take them back. Where the key exists with
        the same length, nothing is written; one of another length is damaged, and is replaced whole. On any error the
        key holds the whole object or nothing, and no temporary file stays. is_damaged: what is there is replaced
        whatever its length.
        """
        ...

    def open(self, key: str) -> Blob:
        """The object, for reading. Raises NotFound."""
        ...

    def write(self, key: str, content: bytes) -> None:
        """Make a few bytes the object ``key``, as ``put`` does; what is there stays."""
        ...

    def size_bytes(self, key: str) -> int:
        """Length of the object. Raises NotFound."""
        ...

    def stat(self, key: str) -> Stat:
        """What is known of the object without reading it. Raises NotFound."""
        ...

    def keys(self, prefix: str = "") -> Iterator[str]:
        """Every key that starts with ``prefix``, in no order and in constant memory. For upkeep only: it takes long."""
        ...

    def strays(self) -> Iterator[Stray]:
        """What lies in the store without being an object, in no order and in constant memory. For upkeep only.

        What somebody is still writing, and what was set aside, is not among it.
        """
        ...

    def open_stray(self, name: str) -> Blob:
        """One of the ``strays``, for reading. Raises NotFound."""
        ...

    def set_aside(self, name: str) -> None:
        """Take an object or a stray out of the store without losing it. No error when it is not there."""
        ...

    def remove_stray(self, name: str) -> None:
        """Remove one of the ``strays`` that a cut off store has left. No error when it is not there."""
        ...

    def delete(self, key: str) -> None:
        """Remove the object; no error when it is not there."""
        ...
