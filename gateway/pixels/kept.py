"""Kept and KeptBytes: what was made before, up to a number of bytes, in memory or in a file.

Its keys name contents (digests and options), never resources, so what is kept is never out of date. Whether a resource
is there, and may be seen, is not asked here: ask first. L12.
"""

from __future__ import annotations

import os
import tempfile
import threading
from collections import OrderedDict
from pathlib import Path
from typing import Generic, TypeVar

T = TypeVar("T")

_LARGEST_SHARE = 8


class Kept(Generic[T]):
    """Values by key in memory, together of at most ``maximum_bytes``; safe to use from any thread.

    What was not used for longest goes first. No value takes more than an eighth of the room, so one large value does
    not drive out all others.
    """

    def __init__(self, maximum_bytes: int) -> None:
        self._maximum_bytes = maximum_bytes
        self._values: OrderedDict[str, tuple[T, int]] = OrderedDict()
        self._lock = threading.Lock()
        self.size_bytes = 0

    def get(self, key: str) -> T | None:
        """What was kept under ``key``, now the latest used; None when it is not there, or no longer."""
        with self._lock:
            found = self._values.get(key)
            if found is None:
                return None
            self._values.move_to_end(key)
            return found[0]

    def put(self, key: str, value: T, size_bytes: int) -> None:
        """Keep ``value``, which takes ``size_bytes``, unless that is too much."""
        if size_bytes > self._maximum_bytes // _LARGEST_SHARE:
            return
        with self._lock:
            previous = self._values.pop(key, None)
            self.size_bytes += size_bytes - (previous[1] if previous else 0)
            self._values[key] = value, size_bytes
            while self.size_bytes > self._maximum_bytes:
                _, (_, freed) = self._values.popitem(last=False)
                self.size_bytes -= freed


class KeptBytes:
    """Bytes by key in a nameless file of at most ``maximum_bytes``; safe to use from any thread.

    The file is written round and round, so what was put there first goes first. Its pages are the system's cache, which
    gives them up when memory is short: pictures that strangers ask for take none of ours. No value takes more than an
    eighth of the room. What the disk has no room for is not kept.

    folder: where the file is; the system's for temporary files by default. Close it when done.
    """

    def __init__(self, maximum_bytes: int, folder: Path | None = None) -> None:
        self._maximum_bytes = maximum_bytes
        self._file = tempfile.TemporaryFile(dir=folder, buffering=0)  # noqa: SIM115 - closed below
        self._end = 0  # of all that was ever put; its place in the file is the remainder
        self._spans: OrderedDict[str, tuple[int, int]] = OrderedDict()
        self._lock, self._writing = threading.Lock(), threading.Lock()

    def get(self, key: str) -> bytes | None:
        """What was kept under ``key``; None when it is not there, or no longer."""
        span = self._spans.get(key)
        if span is None:
            return None
        start, end = span
        try:
            value = os.pread(self._file.fileno(), end - start, start % self._maximum_bytes)
        except (OSError, ValueError):  # a damaged disk, or closed
            return None
        with self._lock:  # whatever reached these bytes meanwhile has moved the end first
            return value if self._is_there(start) and len(value) == end - start else None

    def put(self, key: str, value: bytes) -> None:
        """Keep ``value``, unless that is too much."""
        room = self._maximum_bytes
        if len(value) > room // _LARGEST_SHARE:
            return
        with self._writing:  # nobody may write later where another one's value is by then
            with self._lock:
                start = self._end
                if start % room + len(value) > room:
                    start += room - start % room
                end = self._end = start + len(value)
                while self._spans and not self._is_there(next(iter(self._spans.values()))[0]):
                    self._spans.popitem(last=False)
            try:
                written = os.pwrite(self._file.fileno(), value, start % room)
            except (OSError, ValueError):
                return
            if written == len(value):
                with self._lock:
                    self._spans.pop(key, None)
                    self._spans[key] = start, end

    def _is_there(self, start: int) -> bool:
        return start + self._maximum_bytes >= self._end

    def close(self) -> None:
        """Give the file back."""
        self._file.close()
