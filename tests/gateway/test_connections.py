"""HTTP connections: late headers, long headers, stalled bodies, on a real socket. H1, H2."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import threading
import time
from dataclasses import replace
from functools import partial

import pytest
import uvicorn

from gateway.connections import BoundedHttp
from gateway.metrics import LIMITS_HIT
from gateway.sending import PIECES
from gateway.settings import HttpSettings
from storage.filerange import FileRange

SHORT = replace(HttpSettings(), header_seconds=0.4, body_idle_seconds=0.4, body_seconds=1.5, maximum_header_bytes=4096)


class Server:
    """uvicorn with our connections and an application that counts a body, slowly when asked."""

    def __init__(self):
        self.pause_seconds = 0.0
        self.disconnects = 0
        self.pieces = ()
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.address = self.listener.getsockname()
        config = uvicorn.Config(
            self.application,
            interface="asgi3",
            http=partial(BoundedHttp, SHORT),
            lifespan="off",
            log_config=None,
            access_log=False,
            ws="none",
        )
        self.server = uvicorn.Server(config)
        self.thread = threading.Thread(target=lambda: asyncio.run(self.server.serve([self.listener])))
        self.thread.start()

    async def send_pieces(self, send):
        size_bytes = sum(map(len, self.pieces))
        header = (b"content-length", b"%d" % size_bytes)
        await send({"type": "http.response.start", "status": 200, "headers": [header]})
        await send({"type": PIECES, "pieces": iter(self.pieces), "size_bytes": size_bytes})

    async def application(self, scope, receive, send):
        if scope["path"] == "/pieces":
            assert PIECES in scope["extensions"]
            await self.send_pieces(send)
            return
        size = 0
        while True:
            message = await receive()
            if message["type"] == "http.disconnect":
                self.disconnects += 1
                return
            size += len(message.get("body", b""))
            await asyncio.sleep(self.pause_seconds)
            if not message.get("more_body"):
                break
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"8")]})
        await send({"type": "http.response.body", "body": b"%08d" % size})

    def connect(self):
        return socket.create_connection(self.address, timeout=10)

    def close(self):
        self.server.should_exit = True
        self.thread.join(10)


@pytest.fixture
def server():
    with contextlib.closing(Server()) as one:
        yield one


def closed_after(connection):
    """Seconds until the server closes, and what it said before."""
    started = time.monotonic()
    said = b""
    with contextlib.suppress(ConnectionResetError):
        while chunk := connection.recv(65536):
            said += chunk
    return time.monotonic() - started, said


def answer(connection):
    """The answer's bytes up to its body of eight digits."""
    said = b""
    while len(said.partition(b"\r\n\r\n")[2]) < 8:
        said += connection.recv(65536)
    return said


def hits(limit):
    return LIMITS_HIT.labels(limit)._value.get()


@pytest.mark.parametrize("first", [b"", b"G", b"GET / HTTP/1.1\r\nHost: a\r\nX: "])
def test_a_header_that_does_not_come_is_waited_for_no_longer_than_its_time(server, first):
    before = hits("http.header_seconds")
    with server.connect() as one:
        one.sendall(first)
        seconds, said = closed_after(one)
    assert 0.2 < seconds < 3
    assert said == b""
    assert hits("http.header_seconds") == before + 1


def test_a_header_that_drips_is_cut_off_as_well(server):
    started = time.monotonic()
    with server.connect() as one, contextlib.suppress(ConnectionResetError, BrokenPipeError):
        while time.monotonic() - started < 5:
            one.sendall(b"x")
            time.sleep(0.05)
    assert time.monotonic() - started < 3


def test_the_second_request_of_a_connection_has_its_own_time(server):
    with server.connect() as one:
        for _ in range(4):
            one.sendall(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
            assert answer(one).endswith(b"00000000")
            time.sleep(0.15)
        one.sendall(b"GET / HT")
        seconds, said = closed_after(one)
    assert 0.2 < seconds < 3
    assert said == b""


def test_a_header_that_is_too_long_is_answered_431(server):
    with server.connect() as one:
        one.sendall(b"GET / HTTP/1.1\r\nHost: a\r\n" + b"X-Filler: " + b"a" * 5000)
        seconds, said = closed_after(one)
    assert said.startswith(b"HTTP/1.1 431 ")
    assert seconds < 0.4


def test_an_endless_header_is_not_taken_in(server):
    with server.connect() as one:
        sent = 0
        with contextlib.suppress(ConnectionResetError, BrokenPipeError):
            one.sendall(b"GET / HTTP/1.1\r\nX: ")
            while sent < 256 << 20:
                sent += one.send(b"a" * 65536)
    assert sent < 64 << 20


def test_a_body_that_stalls_is_given_up_and_the_application_learns_it(server):
    with server.connect() as one:
        one.sendall(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 100\r\n\r\nabc")
        seconds, said = closed_after(one)
    assert 0.2 < seconds < 3
    assert said == b""
    deadline = time.monotonic() + 5
    while not server.disconnects and time.monotonic() < deadline:
        time.sleep(0.01)
    assert server.disconnects == 1


def test_a_body_that_never_stalls_but_never_ends_is_given_up_too(server):
    before = hits("http.body_seconds")
    started = time.monotonic()
    with server.connect() as one, contextlib.suppress(ConnectionResetError, BrokenPipeError):
        one.sendall(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 100000\r\n\r\n")
        while time.monotonic() - started < 8:
            one.sendall(b"x")
            time.sleep(0.1)
    assert 1.2 < time.monotonic() - started < 5
    assert hits("http.body_seconds") == before + 1


def test_a_body_that_we_are_slow_to_read_is_no_fault_of_the_client(server):
    server.pause_seconds = 0.3
    body = b"x" * 300_000
    with server.connect() as one:
        one.sendall(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 300000\r\n\r\n" + body)
        said = answer(one)
    assert said.endswith(b"00300000")


def test_a_request_in_pieces_within_its_time_is_answered(server):
    with server.connect() as one:
        for piece in (b"POST / HT", b"TP/1.1\r\nHost: a\r\nContent-", b"Length: 4\r\n\r\nab", b"cd"):
            one.sendall(piece)
            time.sleep(0.1)
        assert answer(one).endswith(b"00000004")


def test_trailers_of_a_chunked_body_take_no_memory_and_end(gateway):
    head = b"POST /dicomweb/studies HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n"
    head += b'Content-Type: multipart/related; type="application/dicom"; boundary=b\r\n\r\n1\r\na\r\n0\r\n'
    with socket.create_connection(("127.0.0.1", gateway.http_port), timeout=20) as one:
        sent = 0
        with contextlib.suppress(ConnectionError):
            one.sendall(head)
            while sent < 64 << 20:
                one.sendall(b"a:b\r\n" * 10_000)
                sent += 50_000
        assert sent < 64 << 20


ASK_FOR_PIECES = b"GET /pieces HTTP/1.1\r\nHost: a\r\n\r\n"


def large_body(folder):
    with (folder / "file").open("wb") as file:
        file.truncate(1 << 30)
    return FileRange(os.open(folder / "file", os.O_RDONLY), 0, 1 << 30)


def is_closed_soon(body):
    deadline = time.monotonic() + 5
    while body.fd >= 0 and time.monotonic() < deadline:
        time.sleep(0.02)
    return body.fd == -1


def test_a_body_that_the_connection_sends_is_followed_by_the_next_answer(server, tmp_path):
    (tmp_path / "file").write_bytes(b"f" * 5_000_000)
    for _ in range(3):
        fd = os.open(tmp_path / "file", os.O_RDONLY)
        server.pieces = (b"head", FileRange(fd, 1_000_000, 5_000_000), b"tail")
        with server.connect() as one:
            one.sendall(ASK_FOR_PIECES + b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\n\r\nabcd")
            said = b""
            while not said.endswith(b"00000004"):
                said += one.recv(1 << 20)
    body = said.partition(b"\r\n\r\n")[2]
    assert body[:4_000_008] == b"head" + b"f" * 4_000_000 + b"tail"
    assert body[4_000_008:].startswith(b"HTTP/1.1 200 ")


def test_a_client_that_does_not_read_a_body_is_let_go_and_the_file_closed(server, tmp_path):
    body = large_body(tmp_path)
    server.pieces = (body,)
    before = hits("http.body_idle_seconds")
    with server.connect() as one:
        one.sendall(ASK_FOR_PIECES)
        assert is_closed_soon(body)
        assert hits("http.body_idle_seconds") == before + 1


def test_a_client_that_leaves_in_the_middle_of_a_body_ends_it(server, tmp_path):
    body = large_body(tmp_path)
    server.pieces = (body,)
    with server.connect() as one:
        one.sendall(ASK_FOR_PIECES)
        one.recv(100_000)
    assert is_closed_soon(body)


def test_a_body_that_is_shorter_than_it_should_be_breaks_the_connection_off(server, tmp_path):
    (tmp_path / "file").write_bytes(b"f" * 1000)
    server.pieces = (b"head", FileRange(os.open(tmp_path / "file", os.O_RDONLY), 0, 2000))
    with server.connect() as one:
        one.sendall(ASK_FOR_PIECES)
        _, said = closed_after(one)
    assert said.partition(b"\r\n\r\n")[2] == b"head" + b"f" * 1000


def test_a_client_that_hangs_up_without_reading_is_not_waited_for(server, tmp_path):
    body = large_body(tmp_path)
    server.pieces = (body,)
    before = hits("http.body_idle_seconds")
    with server.connect() as one:
        one.sendall(ASK_FOR_PIECES)
        time.sleep(0.1)
        one.shutdown(socket.SHUT_WR)
        assert is_closed_soon(body)
    assert hits("http.body_idle_seconds") == before


def test_a_server_that_stops_ends_a_body_that_nobody_reads(tmp_path):
    body = large_body(tmp_path)
    with contextlib.closing(Server()) as server:
        server.pieces = (body,)
        one = server.connect()
        one.sendall(ASK_FOR_PIECES)
        time.sleep(0.1)
    one.close()
    assert body.fd == -1
