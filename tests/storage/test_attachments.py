"""Bulk data that waits on disk: what is written is read, in constant memory, and nothing stays behind."""

from __future__ import annotations

import errno
import gc
import os
import tracemalloc
from pathlib import Path

import pytest

from storage.attachments import Attachments
from storage.errors import StorageUnavailable, TooLarge


def open_files():
    return sum(1 for _ in Path("/proc/self/fd").iterdir())


def test_bytes_are_read_as_they_were_written(tmp_path):
    attachments = Attachments(tmp_path, maximum_bytes=1 << 30)
    content = os.urandom(3_000_000)
    for at in range(0, len(content), 70_001):
        attachments.write(content[at : at + 70_001])
    assert attachments.size_bytes == len(content)
    assert b"".join(attachments.chunks(5, 2_500_000)) == content[5:2_500_000]
    assert attachments.read(len(content) - 2, len(content) + 9) == content[-2:]
    assert attachments.read(9, 3) == b""
    assert list(attachments.chunks(7, 7)) == []


def test_before_the_first_byte_there_is_no_file(tmp_path):
    attachments = Attachments(tmp_path / "missing", maximum_bytes=10)
    assert attachments.read(0, 10) == b""
    with pytest.raises(StorageUnavailable):
        attachments.write(b"x")


def test_a_file_has_no_name_and_goes_with_its_last_user(tmp_path):
    attachments = Attachments(tmp_path, maximum_bytes=1 << 20)
    attachments.write(b"abc")
    chunks = attachments.chunks(0, 3)
    assert list(tmp_path.iterdir()) == []
    before = open_files()
    del attachments
    gc.collect()
    assert list(chunks) == [b"abc"]
    del chunks
    gc.collect()
    assert open_files() == before - 1


def test_the_limit_is_of_bytes(tmp_path):
    attachments = Attachments(tmp_path, maximum_bytes=4)
    attachments.write(b"1234")
    with pytest.raises(TooLarge):
        attachments.write(b"5")


def test_a_short_file_is_an_error_and_no_short_value(tmp_path):
    attachments = Attachments(tmp_path, maximum_bytes=1 << 20)
    attachments.write(b"abc")
    with pytest.raises(StorageUnavailable):
        list(attachments.chunks(0, 4))


def test_a_disk_that_refuses_is_said_to_be_unavailable(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, "full")

    attachments = Attachments(tmp_path, maximum_bytes=1 << 20)
    attachments.write(b"abc")
    monkeypatch.setattr(os, "write", full)
    with pytest.raises(StorageUnavailable):
        attachments.write(b"d")
    monkeypatch.setattr(os, "pread", full)
    with pytest.raises(StorageUnavailable):
        attachments.read(0, 3)


def test_memory_is_constant_whatever_is_written_and_read(tmp_path):
    attachments = Attachments(tmp_path, maximum_bytes=1 << 30)
    piece = bytes(1 << 20)
    tracemalloc.start()
    try:
        for _ in range(32):
            attachments.write(piece)
        for _ in attachments.chunks(0, attachments.size_bytes):
            continue
        assert tracemalloc.get_traced_memory()[1] < 4 << 20
    finally:
        tracemalloc.stop()
