"""A range of a file: the same bytes however they go, and no descriptor stays open."""

from __future__ import annotations

import errno
import os
import socket

import pytest

from storage.errors import CorruptObject, StorageUnavailable
from storage.filerange import CHUNK_BYTES, FileRange, as_bytes

CONTENT = os.urandom(2 * CHUNK_BYTES + 100)


@pytest.fixture
def path(tmp_path):
    path = tmp_path / "object"
    path.write_bytes(CONTENT)
    return path


def opened(path, start, end):
    return FileRange(os.open(path, os.O_RDONLY), start, end)


def is_open(fd):
    try:
        os.fstat(fd)
    except OSError:
        return False
    return True


@pytest.mark.parametrize(("start", "end"), [(0, 0), (0, 1), (5, len(CONTENT)), (0, len(CONTENT)), (9, CHUNK_BYTES + 9)])
def test_the_bytes_are_those_of_the_range(path, start, end):
    part = opened(path, start, end)
    fd = part.fd
    assert len(part) == end - start
    assert b"".join(part.chunks()) == CONTENT[start:end]
    assert not is_open(fd)


def test_pieces_read_as_bytes_keep_their_order(path):
    pieces = iter((b"a", opened(path, 0, 10), b"b", opened(path, 10, CHUNK_BYTES * 2), b"c"))
    assert b"".join(as_bytes(pieces)) == b"a" + CONTENT[:10] + b"b" + CONTENT[10 : CHUNK_BYTES * 2] + b"c"


def test_a_file_that_is_shorter_is_corrupt_in_both_ways(path):
    os.truncate(path, 50)
    with opened(path, 40, 60) as part, pytest.raises(CorruptObject):
        list(part.chunks())
    one, other = socket.socketpair()
    with one, other, opened(path, 40, 60) as part:
        assert part.send_to(one.fileno(), 100) == 10
        with pytest.raises(CorruptObject):
            part.send_to(one.fileno(), 100)


def test_no_more_is_sent_at_once_than_was_asked_for(path):
    one, other = socket.socketpair()
    with one, other, opened(path, 5, 100) as part:
        assert [part.send_to(one.fileno(), 40) for _ in range(3)] == [40, 40, 15]
        assert other.recv(1000) == CONTENT[5:100]


def test_where_the_file_system_offers_no_sendfile_the_bytes_are_copied(path, monkeypatch):
    def refused(*_):
        raise OSError(errno.EINVAL, "no")

    monkeypatch.setattr(os, "sendfile", refused)
    one, other = socket.socketpair()
    with one, other, opened(path, 5, 100) as part:
        assert part.send_to(one.fileno(), 40) == 40
        assert part.send_to(one.fileno(), 1000) == 55
        assert other.recv(1000) == CONTENT[5:100]


def test_a_file_that_cannot_be_read_is_no_fault_of_the_peer(path, monkeypatch):
    def broken(*_):
        raise OSError(errno.EIO, "no")

    monkeypatch.setattr(os, "sendfile", broken)
    one, other = socket.socketpair()
    with one, other, opened(path, 5, 100) as part, pytest.raises(StorageUnavailable):
        part.send_to(one.fileno(), 40)


def test_a_forgotten_range_closes_its_file(path):
    part = opened(path, 0, 10)
    fd = part.fd
    del part
    assert not is_open(fd)
