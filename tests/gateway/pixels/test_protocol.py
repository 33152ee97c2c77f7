from __future__ import annotations

import mmap
import os
import socket
import struct
import sys
import threading
import time

import pytest

from gateway.pixels.options import RenderOptions
from gateway.pixels.protocol import (
    MAXIMUM_ANSWER_BYTES,
    MAXIMUM_FRAME_BYTES,
    OK,
    SHARED_FRAME_BYTES,
    receive_answer,
    receive_request,
    request_of,
    send_answer,
    send_request,
    shared_memory,
)
from storage.errors import TooLarge

linux_only = pytest.mark.skipif(sys.platform != "linux", reason="memory is shared on Linux only")


@pytest.fixture
def ends():
    ours, theirs = socket.socketpair()
    with ours, theirs:
        yield ours, theirs


def soon(seconds: float = 5.0) -> float:
    return time.monotonic() + seconds


@pytest.mark.parametrize("frame", [b"", b"frame", bytes(3_000_000)])
def test_a_request_arrives_as_it_was_sent(ends, frame):
    parts = request_of(b'{"a":1}', "1.2.3", 7, frame, RenderOptions(quality=5))
    sender = threading.Thread(target=send_request, args=(ends[0], parts, soon()))
    sender.start()
    parameters, metadata, received = receive_request(ends[1])
    sender.join()
    assert (metadata, received) == (b'{"a":1}', frame)
    assert (parameters["transfer_syntax_uid"], parameters["frame_number"]) == ("1.2.3", 7)
    assert RenderOptions.from_json(parameters["wanted"]) == RenderOptions(quality=5)


def test_a_connection_that_ends_is_no_request(ends):
    first, second = socket.socketpair()
    with first, second:
        send_request(first, request_of(b"{}", "1.2", 1, b"0123456789", RenderOptions()), soon())
        sent = second.recv(1000)
    assert sent.endswith(b"{}0123456789")
    ends[0].sendall(sent[:-1])
    ends[0].shutdown(socket.SHUT_WR)
    assert receive_request(ends[1]) is None
    assert receive_request(ends[1]) is None


@linux_only
def test_a_small_frame_comes_through_memory_that_only_the_sender_can_write_to(ends):
    shared = shared_memory()
    assert shared is not None
    memory, descriptor = shared
    theirs = memoryview(mmap.mmap(descriptor, SHARED_FRAME_BYTES, access=mmap.ACCESS_READ))
    for frame in (b"first frame", b"second", b"", bytes(SHARED_FRAME_BYTES)):
        send_request(ends[0], request_of(b"{}", "1.2", 1, frame, RenderOptions()), soon(), memory)
        _, _, received = receive_request(ends[1], theirs)
        assert received == frame
        assert isinstance(received, memoryview)
        assert received.readonly
    for attempt in (
        lambda: os.write(descriptor, b"x"),
        lambda: os.ftruncate(descriptor, 0),
        lambda: mmap.mmap(descriptor, SHARED_FRAME_BYTES),
    ):
        with pytest.raises(PermissionError):
            attempt()
    os.close(descriptor)


@linux_only
def test_a_frame_too_large_for_the_memory_comes_through_the_socket(ends):
    memory, descriptor = shared_memory()
    os.close(descriptor)
    frame = b"x" * (SHARED_FRAME_BYTES + 1)
    parts = request_of(b"{}", "1.2", 1, frame, RenderOptions())
    sender = threading.Thread(target=send_request, args=(ends[0], parts, soon(), memory))
    sender.start()
    _, _, received = receive_request(ends[1], memoryview(memory))
    sender.join()
    assert isinstance(received, bytes)
    assert received == frame
    assert memory[:10] == bytes(10)


def test_an_answer_arrives_as_it_was_sent(ends):
    send_answer(ends[1], OK, b"picture")
    send_answer(ends[1], 2, b"reason")
    assert receive_answer(ends[0], soon()) == (OK, b"picture")
    assert receive_answer(ends[0], soon()) == (2, b"reason")


@pytest.mark.parametrize(
    "header",
    [struct.pack(">BL", OK, MAXIMUM_ANSWER_BYTES + 1), struct.pack(">BL", 2, 201), struct.pack(">BL", 99, 1 << 31)],
)
def test_an_answer_beyond_its_limit_is_none_and_is_not_waited_for(ends, header):
    ends[1].sendall(header)
    assert receive_answer(ends[0], soon()) is None


def test_an_answer_that_is_cut_off_is_none(ends):
    ends[1].sendall(struct.pack(">BL", OK, 10) + b"half")
    ends[1].shutdown(socket.SHUT_WR)
    assert receive_answer(ends[0], soon()) is None


def test_an_answer_that_trickles_is_not_waited_for_beyond_the_deadline(ends):
    stop = threading.Event()

    def trickle() -> None:
        ends[1].sendall(struct.pack(">BL", OK, 1000))
        while not stop.wait(0.05):
            ends[1].sendall(b".")

    sender = threading.Thread(target=trickle)
    sender.start()
    started = time.monotonic()
    with pytest.raises(TimeoutError):
        receive_answer(ends[0], soon(0.4))
    stop.set()
    sender.join()
    assert time.monotonic() - started < 2


def test_a_request_that_nobody_reads_is_given_up_at_the_deadline(ends):
    with pytest.raises(TimeoutError):
        send_request(ends[0], (b"", b"", bytes(64 << 20)), soon(0.2))


def test_a_frame_beyond_the_limit_is_too_large():
    class Huge(bytes):
        def __len__(self) -> int:
            return MAXIMUM_FRAME_BYTES + 1

    with pytest.raises(TooLarge):
        request_of(b"{}", "1.2", 1, Huge(), RenderOptions())
