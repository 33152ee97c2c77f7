"""Bytes of a body that wait for a thread."""

from __future__ import annotations

import hashlib
import os
import tracemalloc

import pytest

from gateway.dicomweb.gathered import Gathered
from storage.filemeta import Announcement
from storage.spool import Spool
from tests.synthetic import CT, EXPLICIT


def gathered_in_pieces_of(content: bytes, size: int) -> Gathered:
    gathered = Gathered()
    for at in range(0, len(content), size):
        gathered.add(memoryview(content)[at : at + size])
    return gathered


@pytest.mark.parametrize("size", [1, 7, 4095, 4096, 5000, 1 << 20])
def test_gathered_bytes_come_out_as_they_went_in_whatever_the_pieces(tmp_path, size):
    content = os.urandom(60_000)
    gathered = gathered_in_pieces_of(content, size)
    assert gathered.size_bytes == len(content)
    with Spool(tmp_path, Announcement(CT, "1.2.3", EXPLICIT), maximum_bytes=1 << 20) as spool:
        gathered.write_to(spool)
        assert (spool.size_bytes, spool.digest) == (len(content), hashlib.sha256(content).hexdigest())


def test_gathered_bytes_of_tiny_chunks_take_little_more_memory_than_they_are(tmp_path):
    content = os.urandom(300_000)
    tracemalloc.start()
    try:
        gathered = gathered_in_pieces_of(content, 3)
        assert gathered.size_bytes == len(content)
        assert tracemalloc.get_traced_memory()[0] < 2 * len(content)
    finally:
        tracemalloc.stop()
