"""ObjectStore in a folder: temporary file, fsync, rename, fsync of every folder that got a new name (D4).

New folders are made before the file is synced, and synced after it has its name: a journalling file system then
writes all of them in the two transactions that the file needs anyway.

An existing name is never opened for writing. A crash leaves the whole object or none, and at most a temporary file
that ``storage.spool.sweep`` removes. What upkeep sets aside lies in ``quarantine/``, under the name that it had.
"""

from __future__ import annotations

import contextlib
import fcntl
import mmap
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

from storage.errors import CorruptObject, NotFound, StorageUnavailable
from storage.filerange import FileRange, Piece
from storage.keys import is_key
from storage.objects.base import Stat, Stray
from storage.spool import SPOOL_SUFFIX, Buffer, Spool, read_label, waiting_file, write_all

_FOLDER_MODE = 0o750
_REMEMBERED_FOLDERS = 10_000
_QUARANTINE = "quarantine/"
_INCOMING = "incoming/"
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

    @contextlib.contextmanager
    def mapped(self) -> Iterator[Buffer]:
        """The file in memory, page by page as it is looked at."""
        if self.size_bytes == 0:
            raise CorruptObject("The object is empty")
        try:
            pages = mmap.mmap(self._fd, 0, prot=mmap.PROT_READ)
        except OSError as error:
            raise StorageUnavailable("An object cannot be read") from error
        try:
            yield pages
        finally:
            with contextlib.suppress(BufferError):  # a view of it in a traceback; the mapping goes with the view
                pages.close()

    def fileno(self) -> int:
        """The descriptor, which stays ours."""
        return self._fd

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
        self._root = os.path.abspath(root)
        self._durable: set[str] = {self._root}
        self.spool_directory = root / "incoming"
        try:
            self.spool_directory.mkdir(parents=True, exist_ok=True, mode=_FOLDER_MODE)
            for folder in (root, *root.resolve().parents[:_SYNCED_PARENTS]):
                _sync_folder(folder)
            self._real_root = os.path.realpath(root)
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

    def put(self, key: str, spool: Spool, *, is_damaged: bool = False) -> bool:
        """Make it an object; on return file and names are on disk."""
        path = self._path(key)
        folder = path.rpartition("/")[0]
        try:
            made = self._make_folder(folder)
            is_new = is_damaged or not _has_size(path, spool.object_bytes)
            if is_new:
                if spool.path is None:
                    spool.begin_file()
                spool.sync()
                spool.rename(path)
            _sync_folder(folder)
            self._sync_parents(made)
        except OSError as error:
            raise StorageUnavailable("An object cannot be written") from error
        return is_new

    def write(self, key: str, content: bytes) -> None:
        """Make it an object; on return file and names are on disk."""
        path = self._path(key)
        folder = path.rpartition("/")[0]
        try:
            made = self._make_folder(folder)
            if not _has_size(path, len(content)):
                fd, waiting = waiting_file(self.spool_directory)
                try:
                    write_all(fd, content)
                    os.fsync(fd)
                    os.rename(waiting, path)
                except OSError:
                    waiting.unlink(missing_ok=True)
                    raise
                finally:
                    os.close(fd)
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
        return _opened(self._path(key))

    def size_bytes(self, key: str) -> int:
        """Length of the object. Raises NotFound."""
        try:
            return os.stat(self._path(key)).st_size
        except FileNotFoundError as error:
            raise NotFound("There is no such object") from error
        except OSError as error:
            raise StorageUnavailable("An object cannot be read") from error

    def stat(self, key: str) -> Stat:
        """What the file system says, and the label that the file has. Raises NotFound."""
        with self.open(key) as blob:
            found = os.fstat(blob.fileno())
            return Stat(found.st_size, found.st_mtime_ns, read_label(blob.fileno()))

    def keys(self, prefix: str = "") -> Iterator[str]:
        """Every key below the root, one name at a time."""
        folder = prefix.rpartition("/")[0]
        for name in _names(self._root, folder if folder.startswith("v1/") else "v1"):
            if name.startswith(prefix) and is_key(name):
                yield name

    def strays(self) -> Iterator[Stray]:
        """Every other file below the root, but for those that a living spool has locked. Links are the operator's."""
        for name in _names(self._root, "", with_links=False):
            if is_key(name) or name.startswith(_QUARANTINE):
                continue
            is_left_over = name.startswith(_INCOMING) and name.endswith(SPOOL_SUFFIX)
            with contextlib.suppress(FileNotFoundError):  # it was renamed to be an object, or is gone
                if not (is_left_over and _is_locked(f"{self._root}/{name}")):
                    yield Stray(name, os.stat(f"{self._root}/{name}").st_mtime_ns, is_left_over)

    def _inside(self, name: str) -> str:
        """The path of anything in the store. Raises NotFound for a name that leads out of it."""
        path = os.path.normpath(f"{self._root}/{name}")
        if not path.startswith(f"{self._root}/") or not os.path.realpath(path).startswith(f"{self._real_root}/"):
            raise NotFound("There is no such object")
        return path

    def open_stray(self, name: str) -> FileBlob:
        """A file, for reading. Raises NotFound."""
        return _opened(self._inside(name))

    def set_aside(self, name: str) -> None:
        """Move the file to the same path below ``quarantine/``; what lies there already is not lost either."""
        path, aside = self._inside(name), f"{self._root}/{_QUARANTINE}{name}"
        try:
            os.makedirs(aside.rpartition("/")[0], _FOLDER_MODE, exist_ok=True)
            number = 0
            while os.path.exists(aside):
                number += 1
                aside = f"{self._root}/{_QUARANTINE}{name}.{number}"
            os.rename(path, aside)
            _sync_folder(aside.rpartition("/")[0])
            _sync_folder(path.rpartition("/")[0])
        except FileNotFoundError:
            return
        except OSError as error:
            raise StorageUnavailable("An object cannot be set aside") from error

    def remove_stray(self, name: str) -> None:
        """Remove the file, unless it is an object."""
        if is_key(name):
            raise NotFound("There is no such object")
        try:
            os.unlink(self._inside(name))
        except FileNotFoundError:
            return
        except OSError as error:
            raise StorageUnavailable("An object cannot be removed") from error

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


def _opened(path: str) -> FileBlob:
    try:
        return FileBlob(os.open(path, os.O_RDONLY | os.O_CLOEXEC))
    except (FileNotFoundError, NotADirectoryError) as error:
        raise NotFound("There is no such object") from error
    except OSError as error:
        raise StorageUnavailable("An object cannot be read") from error


def _names(root: str, folder: str, *, with_links: bool = True) -> Iterator[str]:
    """The files below a folder of the root, by their paths below the root, read from the disk a few at a time."""
    try:
        with os.scandir(f"{root}/{folder}") as entries:
            for entry in entries:
                name = f"{folder}/{entry.name}" if folder else entry.name
                if entry.is_dir(follow_symlinks=False):
                    yield from _names(root, name, with_links=with_links)
                elif entry.is_file(follow_symlinks=with_links):
                    yield name
    except (FileNotFoundError, NotADirectoryError):
        return
    except OSError as error:
        raise StorageUnavailable("A folder of the archive cannot be read") from error


def _is_locked(path: str) -> bool:
    """Whether the owner of a waiting file is alive."""
    with open(path, "rb") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False


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
