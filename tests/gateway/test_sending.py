"""A body written straight to a socket, over a real pair of sockets: every byte in order, never waiting."""

from __future__ import annotations

import os
import socket
import threading

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.sending import BodySender
from storage.errors import CorruptObject
from storage.filerange import FileRange

CONTENT = os.urandom(3 << 20)


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    path = tmp_path_factory.mktemp("sending") / "object"
    path.write_bytes(CONTENT)
    return path


def part(path, start, end):
    return FileRange(os.open(path, os.O_RDONLY), start, end)


def received_from(other, into):
    while chunk := other.recv(65536):
        into += chunk


def transfer(pieces, enough_bytes=1 << 20):
    """What arrives of the pieces, sent in steps."""
    one, other = socket.socketpair()
    arrived = bytearray()
    reader = threading.Thread(target=received_from, args=(other, arrived))
    reader.start()
    with one, other:
        with BodySender(one.fileno(), iter(pieces)) as sender:
            while not sender.step(enough_bytes):
                pass
            sent_bytes = sender.sent_bytes
        one.shutdown(socket.SHUT_WR)
        reader.join(10)
    assert sent_bytes == len(arrived)
    return bytes(arrived)


@settings(max_examples=50, deadline=None)
@given(
    st.lists(st.one_of(st.binary(max_size=300), st.tuples(st.integers(0, 1000), st.integers(0, 200_000))), max_size=12),
    st.sampled_from([1, 100, 70_000, 1 << 20]),
)
def test_every_byte_arrives_in_order(path, plan, enough_bytes):
    pieces = [one if isinstance(one, bytes) else part(path, one[0], one[0] + one[1]) for one in plan]
    expected = b"".join(one if isinstance(one, bytes) else CONTENT[one[0] : one[0] + one[1]] for one in plan)
    assert transfer(pieces, max(enough_bytes, len(expected) // 50)) == expected


def test_a_peer_that_does_not_read_costs_a_step_and_no_waiting(path):
    one, other = socket.socketpair()
    with one, other, BodySender(one.fileno(), iter([b"x" * 100, part(path, 0, len(CONTENT))])) as sender:
        assert not sender.step()
        before = sender.sent_bytes
        assert not sender.step()
        assert before <= sender.sent_bytes < len(CONTENT)


def test_a_peer_that_is_gone_is_an_error_and_the_file_is_closed(path):
    one, other = socket.socketpair()
    body = part(path, 0, len(CONTENT))
    with one:
        other.close()
        with BodySender(one.fileno(), iter([body])) as sender, pytest.raises(OSError, match="pipe"):
            sender.step()
    assert body.fd == -1


def test_what_the_pieces_raise_is_raised_after_what_came_before(path):
    def broken():
        yield b"begin"
        yield part(path, 0, 100)
        raise CorruptObject

    one, other = socket.socketpair()
    with one, other, BodySender(one.fileno(), broken()) as sender:
        with pytest.raises(CorruptObject):
            sender.step()
        assert other.recv(1000) == b"begin" + CONTENT[:100]


def test_the_connection_stays_open_for_its_owner(path):
    one, other = socket.socketpair()
    with one, other:
        with BodySender(one.fileno(), iter([part(path, 0, 10)])) as sender:
            assert sender.step()
        one.sendall(b"more")
        assert other.recv(100) == CONTENT[:10] + b"more"
