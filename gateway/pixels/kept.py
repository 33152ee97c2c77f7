"""Kept: what was made before, in memory, up to a number of bytes; what was not used for longest goes first.

Its keys name contents (digests and options), never resources, so what is kept is never out of date. Whether a resource
is there, and may be seen, is not asked here: ask first. L12.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from typing import Generic, TypeVar

T = TypeVar("T")

_LARGEST_SHARE = 8


class Kept(Generic[T]):
    """Values by key, together of at most ``maximum_bytes``; safe to use from any thread.

    No value takes more than an eighth of the room, so one large picture does not drive out all others.
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
