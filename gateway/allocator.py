"""The allocator of the C library: what processes keep of memory that was freed, and when they give it back.

To get memory from the kernel costs a page fault for every four kibibytes. So that a store over HTTP does not pay 90 of
them, what bodies needed is kept for the next ones; and so that a burst of large pictures does not stay for ever, all of
it goes back now and then. Two arenas are enough for the threads of an interpreter: with one for each, what is free in
one is of no use to the others.
"""

from __future__ import annotations

import ctypes
from functools import cache

VARIABLES = {
    "MALLOC_TRIM_THRESHOLD_": str(64 << 20),
    "MALLOC_MMAP_THRESHOLD_": str(16 << 20),
    "MALLOC_ARENA_MAX": "2",
}
"""For the environment of a process, where the operator has not set them. They are glibc's; others ignore them."""
GIVES_BACK_EVERY_SECONDS = 2.0


@cache
def _trim() -> ctypes._NamedFuncPointer | None:
    return getattr(ctypes.CDLL(None), "malloc_trim", None)


def give_back() -> None:
    """Return what is free to the kernel. Takes milliseconds, without the interpreter's lock; glibc alone can do it."""
    trim = _trim()
    if trim is not None:
        trim(0)
