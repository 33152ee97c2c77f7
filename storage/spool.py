"""A Spool: the bytes of one Data Set on their way in, hashed while they arrive. It is not durable storage (R7).

Small ones wait in memory, larger ones go as they arrive to a temporary file that already is the object to be: our
header first, then the Data Set as received, so that a store on the same file system only renames it. The disk begins
while the rest is still on its way, and no byte is copied twice. A crash leaves at most a file without an owner, which
``sweep`` removes.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import fcntl
import hashlib
import mmap
import os
import shutil
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self, cast

from storage.errors import NotDicom, StorageUnavailable, TooLarge
from storage.filemeta import MAXIMUM_FILE_META_BYTES, Announcement, canonical_header, read_file_meta

MEMORY_BYTES = 64 << 10
_WRITE_BACK_BYTES = 256 << 10
SPOOL_SUFFIX = ".incoming"
LABEL_ATTRIBUTE = "user.gw"  # short, so that name and value fit into the inode
_IDLE_BUFFERS = 16
_FILE_MODE = 0o640

Buffer = memoryview | mmap.mmap


class _Buffers:
    """Memory for Data Sets that wait, used again and again: fresh memory costs the kernel a page fault per 4 KiB."""

    def __init__(self) -> None:
        self._idle: list[memoryview] = []

    def take(self) -> memoryview:
        """``MEMORY_BYTES`` to write to; what is in it means nothing."""
        try:
            return self._idle.pop()
        except IndexError:
            return memoryview(bytearray(MEMORY_BYTES))

    def give_back(self, buffer: memoryview) -> None:
        """Say that nobody reads it any more."""
        if len(self._idle) < _IDLE_BUFFERS:
            self._idle.append(buffer)


_BUFFERS = _Buffers()


class Spool:
    """Collects one Data Set; a context manager that leaves nothing behind.

    directory: where a large one waits; on the file system of the store, if that is a folder.
    announcement: what the peer said it sends (DIMSE), when the stream is a bare Data Set. Without it the stream is
    Part 10: preamble and File Meta are read and replaced by ours (R2).
    maximum_bytes: of the Data Set; one more raises TooLarge. label: what a store keeps with the object beside its
    bytes, where it can (``storage.provenance``). keeps_foreign: a stream that is not Part 10 is collected
    to its end, for ``set_aside``, and only ``finish`` raises NotDicom. Not thread-safe: one owner at a time.
    """

    def __init__(
        self,
        directory: Path,
        announcement: Announcement | None = None,
        *,
        maximum_bytes: int,
        keeps_foreign: bool = False,
    ) -> None:
        self._directory = directory
        self._maximum_bytes = maximum_bytes
        self._announcement = announcement
        self._header = b""
        self.is_announced = announcement is not None
        self._sha256 = hashlib.sha256()
        self._memory: memoryview | None = None
        self._file_meta = bytearray()
        self._keeps_foreign = keeps_foreign
        self._fault: NotDicom | None = None
        self._fd = -1
        self._map: mmap.mmap | None = None
        self.path: Path | None = None
        self.size_bytes = 0
        self.label = b""
        self.is_whole = True

    @property
    def announcement(self) -> Announcement:
        """What the peer, or the File Meta, says this instance is. Raises NotDicom before that is known."""
        if self._announcement is None:
            raise NotDicom("There is no File Meta Information")
        return self._announcement

    @property
    def header(self) -> bytes:
        """Our preamble and File Meta for what was announced; the object is this and the Data Set."""
        if self._fault is not None:
            return b""
        if not self._header:
            self._header = canonical_header(self.announcement)
        return self._header

    @property
    def digest(self) -> str:
        """SHA-256 (hex) of the Data Set bytes so far."""
        return self._sha256.hexdigest()

    @property
    def data_set(self) -> Buffer:
        """The whole object's buffer from ``data_set_offset`` on is the Data Set; call after ``finish``."""
        return self._in_memory() if self._map is None else self._map

    def _in_memory(self) -> memoryview:
        return memoryview(b"") if self._memory is None else self._memory[: self.size_bytes]

    @property
    def data_set_offset(self) -> int:
        """Where in ``data_set`` the Data Set starts: 0 in memory, after our header in a file."""
        return 0 if self._map is None else len(self.header)

    def write(self, chunk: bytes | bytearray | memoryview) -> None:
        """Append bytes. Raises TooLarge, NotDicom, or StorageUnavailable when the disk refuses."""
        if self._fault is not None:
            self._collect(self._fault, chunk)
            return
        if self._announcement is None:
            begun = self._file_meta
            begun += chunk
            try:
                found = read_file_meta(begun)
                if found is None and len(begun) > MAXIMUM_FILE_META_BYTES:
                    raise NotDicom("The File Meta Information is too long")
            except NotDicom as error:
                if not self._keeps_foreign:
                    raise
                self._fault, self._file_meta = error.with_traceback(None), bytearray()
                self._collect(self._fault, begun)
                return
            if found is None:
                return
            self._announcement, data_set_offset = found
            self._file_meta = begun[:data_set_offset]
            chunk = memoryview(begun)[data_set_offset:]
        self._append(chunk)

    def _collect(self, fault: NotDicom, chunk: bytes | bytearray | memoryview) -> None:
        """Append bytes of a stream that is none of ours; what its sender is told stays what is wrong with it."""
        try:
            self._append(chunk)
        except (TooLarge, StorageUnavailable):
            raise NotDicom(fault.reason) from None

    def _append(self, chunk: bytes | bytearray | memoryview) -> None:
        start, end = self.size_bytes, self.size_bytes + len(chunk)
        if end > self._maximum_bytes:
            self.is_whole = False
            raise TooLarge("The instance is larger than the limit")
        self._sha256.update(chunk)
        if self.path is None and end <= MEMORY_BYTES:
            if self._memory is None:
                self._memory = _BUFFERS.take()
            self._memory[start:end] = chunk
        else:
            try:
                if self.path is None:
                    self._move_to_file(chunk)
                else:
                    write_all(self._fd, chunk)
                if end // _WRITE_BACK_BYTES > start // _WRITE_BACK_BYTES:
                    begin_write_back(self._fd)
            except OSError as error:
                self.is_whole = False
                raise StorageUnavailable("The spool cannot be written") from error
        self.size_bytes = end

    def _move_to_file(self, following: bytes | bytearray | memoryview) -> None:
        self._fd, self.path = waiting_file(self._directory)
        write_all_of(self._fd, [self.header, self._in_memory(), following])
        self._forget_memory()

    def _forget_memory(self) -> None:
        if self._memory is not None:
            _BUFFERS.give_back(self._memory)
            self._memory = None

    def finish(self) -> None:
        """Say that the stream has ended; the Data Set can then be read. Once more does nothing.

        Raises NotDicom when there is no Data Set.
        """
        if self._fault is not None:
            raise NotDicom(self._fault.reason)
        if self._announcement is None and self._file_meta:
            raise NotDicom("The bytes are not a DICOM Part 10 stream")
        if self.size_bytes == 0:
            raise NotDicom("There is no Data Set")
        if self.path is not None and self._map is None:
            try:
                self._map = mmap.mmap(self._fd, 0, prot=mmap.PROT_READ)
            except OSError as error:
                raise StorageUnavailable("The spool cannot be read") from error

    def announce(self, announcement: Announcement) -> None:
        """Correct what File Meta said by what the Data Set says, where a sloppy writer let them differ.

        A waiting file is written anew, as its header changes length; one that was begun early is given up.
        """
        if announcement == self._announcement:
            return
        offset, old = self.data_set_offset, self._map
        self._announcement, self._header = announcement, b""
        if old is None:
            self._drop_file()
            return
        old_fd, old_path = self._fd, self.path
        self._fd, self.path, self._map = -1, None, None
        try:
            self._move_to_file(memoryview(old)[offset:])
            self._map = mmap.mmap(self._fd, 0, prot=mmap.PROT_READ)
        except OSError as error:
            raise StorageUnavailable("The spool cannot be written") from error
        finally:
            os.close(old_fd)
            if old_path is not None:
                old_path.unlink(missing_ok=True)

    def pieces(self) -> Iterator[bytes | memoryview | mmap.mmap]:
        """The object's bytes in order, for a store that cannot take the file itself."""
        if self._map is None:
            yield self.header
            yield self._in_memory()
        else:
            yield self._map

    def begin_file(self) -> None:
        """Have the whole object in a waiting file, and let the disk begin with it. Call after ``finish``.

        So it is written while the Data Set is read, which stays where it is. Nothing is durable before ``sync``.
        Raises OSError.
        """
        if self.path is None:
            fd, path = waiting_file(self._directory)
            try:
                write_all_of(fd, [memoryview(piece) for piece in self.pieces()])
            except OSError:
                os.close(fd)
                path.unlink(missing_ok=True)
                raise
            if self._fd >= 0:
                os.close(self._fd)
            self._fd, self.path = fd, path
        begin_write_back(self._fd)

    def _drop_file(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1
        if self.path is not None:
            self.path.unlink(missing_ok=True)
            self.path = None

    @property
    def object_bytes(self) -> int:
        """Length of the object: our header and the Data Set."""
        return len(self.header) + self.size_bytes

    def sync(self) -> None:
        """Make the waiting file's bytes durable, and its label with them, before a store renames it. Raises OSError."""
        if self.label:
            write_label(self._fd, self.label)
        os.fsync(self._fd)

    def close(self) -> None:
        """Let go of memory and remove the file, unless a store has taken it. Safe to call twice."""
        self._forget_memory()
        self._file_meta = bytearray()
        if self._map is not None:
            try:
                self._map.close()
            except BufferError:  # a view of it is still alive in a traceback; the mapping goes with the view
                self._map = None
            self._map = None
        self._drop_file()

    def rename(self, path: str) -> None:
        """Give the waiting file to a store, under the name that it has there from now on. Raises OSError."""
        if self.path is None:
            raise FileNotFoundError("There is no waiting file")
        os.rename(self.path, path)
        self.path = None

    @property
    def received_bytes(self) -> int:
        """How many bytes came, with the File Meta of a Part 10 stream."""
        return len(self._file_meta) + self.size_bytes

    def set_aside(self, path: str) -> tuple[bytes, int]:
        """Give everything that came to a file of that name, whatever is wrong with it, when no more will come.

        It is our header, where there is one, and the Data Set; so a waiting file is only renamed, or copied to another
        disk. Returns what came before the Data Set, and where in the file the Data Set begins: the two are the bytes as
        received. Raises OSError; StorageUnavailable when not all of the bytes were collected (``is_whole``).
        """
        if not self.is_whole:
            raise StorageUnavailable("Not all of the bytes are there")
        received = bytes(self._file_meta)
        if self._announcement is None and received:
            self._fault, self._file_meta = NotDicom("The bytes are not a DICOM Part 10 stream"), bytearray()
            self._append(received)
            received = b""
        if self.path is None:
            self.begin_file()
        try:
            self.rename(path)
        except OSError as error:
            if error.errno != errno.EXDEV or self.path is None:
                raise
            shutil.copyfile(self.path, path)
        return received, len(self.header)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()


def waiting_file(directory: Path) -> tuple[int, Path]:
    """A new file that no sweep removes until it is closed: its descriptor and its path. Raises OSError."""
    path = directory / (os.urandom(12).hex() + SPOOL_SUFFIX)
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, _FILE_MODE)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
    except OSError:
        os.close(fd)
        path.unlink(missing_ok=True)
        raise
    return fd, path


def write_all(fd: int, chunk: bytes | bytearray | memoryview | mmap.mmap) -> None:
    """Write every byte. Raises OSError."""
    view = memoryview(chunk)
    while view:
        view = view[os.write(fd, view) :]


def write_all_of(fd: int, chunks: Sequence[bytes | bytearray | memoryview]) -> None:
    """Write every byte of a few chunks, at once where that can be. Raises OSError."""
    written = os.writev(fd, chunks)
    for chunk in chunks:
        if written < len(chunk):
            write_all(fd, memoryview(chunk)[written:])
        written = max(0, written - len(chunk))


def _sync_file_range() -> Callable[[int, int, int, int], int] | None:
    """The system call, which Python does not offer; None where there is none."""
    function = getattr(ctypes.CDLL(None), "sync_file_range", None) if sys.platform == "linux" else None
    if function is None:
        return None
    function.argtypes = (ctypes.c_int, ctypes.c_int64, ctypes.c_int64, ctypes.c_uint)
    return cast(Callable[[int, int, int, int], int], function)


_SYNC_FILE_RANGE = _sync_file_range()
_SYNC_FILE_RANGE_WRITE = 2


def begin_write_back(fd: int) -> None:
    """Ask the system to begin writing a file to disk. A hint: what fails is said by the ``fsync`` that follows."""
    if _SYNC_FILE_RANGE is not None:
        _SYNC_FILE_RANGE(fd, 0, 0, _SYNC_FILE_RANGE_WRITE)


def write_label(fd: int, label: bytes) -> None:
    """Keep a label with a file, which costs no sync of its own. A file system that has no place for it goes without."""
    with contextlib.suppress(OSError):
        os.setxattr(fd, LABEL_ATTRIBUTE, label)


def read_label(fd: int) -> bytes:
    """The label of a file; empty where there is none."""
    try:
        return os.getxattr(fd, LABEL_ATTRIBUTE)
    except OSError:
        return b""


def sweep(directory: Path, *, idle_seconds: float = 0) -> int:
    """Remove waiting files whose owner is gone; returns how many. Files of living owners are locked and stay (F5).

    idle_seconds: leave those that were written to since. While others store it must not be 0: between making a file
    and locking it they are open to us.
    """
    removed = 0
    before = time.time() - idle_seconds
    for path in directory.glob("*" + SPOOL_SUFFIX):
        try:
            if idle_seconds and path.stat().st_mtime > before:
                continue
            with path.open("rb") as file:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                path.unlink(missing_ok=True)
                removed += 1
        except FileNotFoundError:
            continue
        except BlockingIOError:
            continue
    return removed
