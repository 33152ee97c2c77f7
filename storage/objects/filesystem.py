"""ObjectStore in a folder: temporary file, fsync, rename, fsync of every folder that got a new name (D4).

New folders are made before the file is synced, and synced after it has its name: a journalling file system then
writes all of them in the two transactions that the file needs anyway.

An existing name is never opened for writing. A crash leaves the whole object or none, and at most a temporary file
that ``storage.spool.sweep`` removes.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

from storage.errors import CorruptObject, NotFound, StorageUnavailable
from storage.filerange import FileRange, Piece
from storage.keys import is_key
from storage.spool import Spool

_FOLDER_MODE = 0o750
_REMEMBERED_FOLDERS = 10_000
_SYNCED_PARENTS = 3  # of the root: whoever made the data folder did not wait for the disk


class FileBlob:
    """One object, open; reads with ``pread``, so threads may share it."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self.size_bytes = os.fstat(fd).st_size

    def read(self, start: int, end: int) -> bytes:
        """Bytes ``start`` to ``end``; CorruptObject when the file is shorter."""
        wanted = end - start
        if not 0 <= start <= end <= self.size_bytes:
            raise CorruptObject("The object is shorter than its row says")
        try:
            found = os.pread(self._fd, wanted, start)
            while len(found) < wanted:
                more = os.pread(self._fd, wanted - len(found), start + len(found))
                if not more:
                    raise CorruptObject("The object is shorter than its row says")
                found += more
        except OSError as error:
            raise StorageUnavailable("An object cannot be read") from error
        return found

    def pieces(self, start: int, end: int) -> Iterator[Piece]:
        """One range of the file."""
        if not 0 <= start <= end <= self.size_bytes:
            raise CorruptObject("The object is shorter than its row says")
        try:
            return iter((FileRange(os.dup(self._fd), start, end),))
        except OSError as error:
            raise StorageUnavailable("An object cannot be read") from error

    def close(self) -> None:
        """Close the file; safe to call twice."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def __del__(self) -> None:
        self.close()


class FilesystemObjectStore:
    """See ``storage.objects.base.ObjectStore``. The key is the path below ``root``, readable for an administrator."""

    def __init__(self, root: Path) -> None:
        self._root = str(root)
        self._durable: set[str] = {self._root}
        self.spool_directory = root / "incoming"
        try:
            self.spool_directory.mkdir(parents=True, exist_ok=True, mode=_FOLDER_MODE)
            for folder in (root, *root.resolve().parents[:_SYNCED_PARENTS]):
                _sync_folder(folder)
        except OSError as error:
            raise StorageUnavailable("The folder of the archive cannot be made") from error

    def _path(self, key: str) -> str:
        if not is_key(key):
            raise NotFound("There is no such object")
        return f"{self._root}/{key}"

    def expect(self, spool: Spool) -> None:
        """Write it to a file that only has to be renamed later, and let the disk begin with it."""
        try:
            spool.begin_file()
        except OSError as error:
            raise StorageUnavailable("An object cannot be written") from error

    def put(self, key: str, spool: Spool) -> None:
        """Make it an object; on return file and names are on disk."""
        path = self._path(key)
        folder = path.rpartition("/")[0]
        try:
            made = self._make_folder(folder)
            if not _has_size(path, spool.object_bytes):
                if spool.path is None:
                    spool.begin_file()
                spool.sync()
                spool.rename(path)
            _sync_folder(folder)
            self._sync_parents(made)
        except OSError as error:
            raise StorageUnavailable("An object cannot be written") from error

    def _make_folder(self, folder: str) -> list[str]:
        """Make a folder with its parents; which ones have a name that may not be durable yet, top down.

        Another thread or process may have made one a moment ago: who does not know it as durable syncs it as well.
        """
        if folder in self._durable:
            return []
        above = self._make_folder(folder.rpartition("/")[0])
        with contextlib.suppress(FileExistsError):
            os.mkdir(folder, _FOLDER_MODE)
        return [*above, folder]

    def _sync_parents(self, made: Sequence[str]) -> None:
        """Make the names of folders durable, and remember that they are."""
        for folder in reversed(made):
            _sync_folder(folder.rpartition("/")[0])
        if len(self._durable) + len(made) > _REMEMBERED_FOLDERS:
            self._durable = {self._root}
        self._durable.update(made)

    def open(self, key: str) -> FileBlob:
        """The object, for reading. Raises NotFound."""
        try:
            return FileBlob(os.open(self._path(key), os.O_RDONLY | os.O_CLOEXEC))
        except FileNotFoundError as error:
            raise NotFound("There is no such object") from error
        except OSError as error:
            raise StorageUnavailable("An object cannot be read") from error

    def size_bytes(self, key: str) -> int:
        """Length of the object. Raises NotFound."""
        try:
            return os.stat(self._path(key)).st_size
        except FileNotFoundError as error:
            raise NotFound("There is no such object") from error
        except OSError as error:
            raise StorageUnavailable("An object cannot be read") from error

    def keys(self, prefix: str = "") -> Iterator[str]:
        """Every key below the root, one folder at a time."""
        for folder, _, names in os.walk(f"{self._root}/v1"):
            for name in names:
                key = f"{folder}/{name}"[len(self._root) + 1 :]
                if key.startswith(prefix) and is_key(key):
                    yield key

    def delete(self, key: str) -> None:
        """Remove the file; its folders stay."""
        try:
            os.unlink(self._path(key))
        except FileNotFoundError:
            return
        except OSError as error:
            raise StorageUnavailable("An object cannot be removed") from error

    def close(self) -> None:
        """Nothing is held open."""


def _has_size(path: str, size_bytes: int) -> bool:
    try:
        return os.stat(path).st_size == size_bytes
    except FileNotFoundError:
        return False


def _sync_folder(folder: str | Path) -> None:
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
