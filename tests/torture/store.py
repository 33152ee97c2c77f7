"""FaultStore: a folder of objects that fails as stores in a network do, when it is ordered to. F1, F2

Whatever it does, it keeps what an ObjectStore has to: it never says that an object is kept when it is not. What it may
leave behind, under the very key, is a part of an object that it said it could not keep.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from storage.errors import CorruptObject, StorageUnavailable
from storage.filerange import Piece
from storage.objects import FilesystemObjectStore
from storage.spool import Spool, waiting_file, write_all
from tests.torture.orders import Followed

HANG_SECONDS = 20.0
SLOW_SECONDS = 0.15
AGAIN_SECONDS = 0.3


def _content(spool: Spool) -> bytes:
    return b"".join(bytes(piece) for piece in spool.pieces())


def _refuse(store: FilesystemObjectStore, key: str, spool: Spool, followed: Followed) -> None:
    raise StorageUnavailable("planted: refused")


def _hang(store: FilesystemObjectStore, key: str, spool: Spool, followed: Followed) -> None:
    """No answer for a while; then it is done after all, or not."""
    followed.wait_while("hang", HANG_SECONDS)
    if os.urandom(1)[0] % 2:
        raise StorageUnavailable("planted: no answer")
    store.put(key, spool)


def _slow(store: FilesystemObjectStore, key: str, spool: Spool, followed: Followed) -> None:
    time.sleep(SLOW_SECONDS)
    store.put(key, spool)


def _truncate(store: FilesystemObjectStore, key: str, spool: Spool, followed: Followed) -> None:
    """Half an object under the key where there is none, and an error."""
    path = Path(store._path(key))
    path.parent.mkdir(parents=True, exist_ok=True)
    content = _content(spool)
    with contextlib.suppress(FileExistsError), path.open("xb") as file:
        file.write(content[: len(content) // 2])
    raise StorageUnavailable("planted: truncated")


def _flip(store: FilesystemObjectStore, key: str, spool: Spool, followed: Followed) -> None:
    """A bit turns on its way, and the store holds the digest of what arrived against the one it was given (R1)."""
    arrived = bytearray(_content(spool))
    arrived[-1 - os.urandom(1)[0] % spool.size_bytes] ^= 1
    if hashlib.sha256(arrived[len(spool.header) :]).hexdigest() != spool.digest:
        raise StorageUnavailable("planted: another digest")
    store.put(key, spool)


def _duplicate(store: FilesystemObjectStore, key: str, spool: Spool, followed: Followed) -> None:
    """The request arrives twice, the second time when nobody waits for it any more."""
    content = _content(spool)
    store.put(key, spool)
    threading.Timer(AGAIN_SECONDS, _write_again, (store, key, content)).start()


def _write_again(store: FilesystemObjectStore, key: str, content: bytes) -> None:
    fd, waiting = waiting_file(store.spool_directory)
    try:
        write_all(fd, content)
        waiting.rename(store._path(key))
    except OSError:
        waiting.unlink(missing_ok=True)
    finally:
        os.close(fd)


def _mute(store: FilesystemObjectStore, key: str, spool: Spool, followed: Followed) -> None:
    """It is kept, and its word of that is lost."""
    store.put(key, spool)
    raise StorageUnavailable("planted: the answer was lost")


Put = Callable[[FilesystemObjectStore, str, Spool, Followed], None]
FAULTS: dict[str, Put] = {
    "refuse": _refuse,
    "hang": _hang,
    "slow": _slow,
    "truncate": _truncate,
    "flip": _flip,
    "duplicate": _duplicate,
    "mute": _mute,
}


class _Short:
    """An object of which the second half cannot be had."""

    def __init__(self, blob) -> None:
        self._blob = blob
        self.size_bytes = blob.size_bytes // 2

    def __getattr__(self, name: str) -> object:
        return getattr(self._blob, name)

    def read(self, start: int, end: int) -> bytes:
        if end > self.size_bytes:
            raise CorruptObject("planted: the object is shorter than its row says")
        return self._blob.read(start, end)

    def pieces(self, start: int, end: int) -> Iterator[Piece]:
        if end > self.size_bytes:
            raise CorruptObject("planted: the object is shorter than its row says")
        return self._blob.pieces(start, end)

    def __enter__(self):
        return self

    def __exit__(self, *_: object) -> None:
        self._blob.close()


class FaultStore:
    """See ``storage.objects.base.ObjectStore``; real: where the objects are."""

    def __init__(self, real: FilesystemObjectStore, followed: Followed) -> None:
        self._real = real
        self._followed = followed

    def __getattr__(self, name: str) -> object:
        return getattr(self._real, name)

    def put(self, key: str, spool: Spool) -> None:
        fault = self._followed.fault()
        if fault:
            FAULTS[fault](self._real, key, spool, self._followed)
        else:
            self._real.put(key, spool)

    def open(self, key: str):
        fault = self._followed.fault()
        if fault == "refuse":
            raise StorageUnavailable("planted: refused")
        if fault == "hang":
            self._followed.wait_while("hang", HANG_SECONDS)
            raise StorageUnavailable("planted: no answer")
        if fault == "slow":
            time.sleep(SLOW_SECONDS)
        blob = self._real.open(key)
        return _Short(blob) if fault == "truncate" else blob
