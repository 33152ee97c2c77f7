"""ObjectStore in a folder: temporary file, fsync, rename, fsync of every folder that got a new name (D4).

An existing name is never opened for writing. A crash leaves the whole object or none, and at most a temporary file
that ``storage.spool.sweep`` removes.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Self

from storage.errors import CorruptObject, NotFound, StorageUnavailable
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
        self._root = root
        self._durable: set[Path] = set()
        self.spool_directory = root / "incoming"
        try:
            self.spool_directory.mkdir(parents=True, exist_ok=True, mode=_FOLDER_MODE)
            for folder in (root, *root.resolve().parents[:_SYNCED_PARENTS]):
                _sync_folder(folder)
        except OSError as error:
            raise StorageUnavailable("The folder of the archive cannot be made") from error

    def _path(self, key: str) -> Path:
        if not is_key(key):
            raise NotFound("There is no such object")
        return self._root / key

    def expect(self, spool: Spool) -> None:
        """Write it to a file that only has to be renamed later, and let the disk begin with it."""
        try:
            spool.begin_file()
        except OSError as error:
            raise StorageUnavailable("An object cannot be written") from error

    def put(self, key: str, spool: Spool) -> None:
        """Make it an object; on return file and names are on disk."""
        path = self._path(key)
        try:
            if _has_size(path, spool.object_bytes):
                _sync_folder(path.parent)
                return
            self._ensure_folder(path.parent)
            if spool.path is None:
                spool.begin_file()
            spool.sync()
            spool.rename(path)
            _sync_folder(path.parent)
        except OSError as error:
            raise StorageUnavailable("An object cannot be written") from error

    def _ensure_folder(self, folder: Path) -> None:
        """Make a folder whose name is durable, parents too, whichever process made them; once is enough."""
        if folder in self._durable or folder == self._root:
            return
        self._ensure_folder(folder.parent)
        folder.mkdir(exist_ok=True, mode=_FOLDER_MODE)
        _sync_folder(folder.parent)
        if len(self._durable) >= _REMEMBERED_FOLDERS:
            self._durable.clear()
        self._durable.add(folder)

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
            return self._path(key).stat().st_size
        except FileNotFoundError as error:
            raise NotFound("There is no such object") from error
        except OSError as error:
            raise StorageUnavailable("An object cannot be read") from error

    def keys(self, prefix: str = "") -> Iterator[str]:
        """Every key below the root, one folder at a time."""
        for folder, _, names in os.walk(self._root / "v1"):
            for name in names:
                key = (Path(folder) / name).relative_to(self._root).as_posix()
                if key.startswith(prefix) and is_key(key):
                    yield key

    def delete(self, key: str) -> None:
        """Remove the file; its folders stay."""
        try:
            self._path(key).unlink(missing_ok=True)
        except OSError as error:
            raise StorageUnavailable("An object cannot be removed") from error

    def close(self) -> None:
        """Nothing is held open."""


def _has_size(path: Path, size_bytes: int) -> bool:
    try:
        return path.stat().st_size == size_bytes
    except FileNotFoundError:
        return False


def _sync_folder(folder: Path) -> None:
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
