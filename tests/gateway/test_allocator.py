"""The allocator gives back what is free, where it is one that can."""

import ctypes
import subprocess
import sys

import pytest

from gateway.allocator import VARIABLES

_MEASURED = """
import ctypes
from pathlib import Path
from gateway.allocator import give_back

def resident_pages():
    return int(Path("/proc/self/statm").read_text().split()[1])

C = ctypes.CDLL(None)
C.malloc.restype, C.malloc.argtypes, C.free.argtypes = ctypes.c_void_p, [ctypes.c_size_t], [ctypes.c_void_p]
blocks = [C.malloc(1 << 20) for _ in range(48)]
for block in blocks:
    ctypes.memset(block, 1, 1 << 20)
full = resident_pages()
for block in blocks:
    C.free(block)
freed = resident_pages()
give_back()
print(full - freed, freed - resident_pages())
"""


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "malloc_trim"), reason="the C library is not glibc")
def test_what_is_kept_between_bodies_goes_back_when_it_is_asked_for():
    process = subprocess.run([sys.executable, "-c", _MEASURED], env=VARIABLES, capture_output=True, check=True)
    kept_until_then, given_back = map(int, process.stdout.split())
    assert kept_until_then < 4 << 8  # pages of 4 KiB: less than 4 MiB went at once
    assert given_back > 40 << 8
