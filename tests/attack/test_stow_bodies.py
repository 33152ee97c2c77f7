"""Hostile STOW bodies against a running gateway: their cost in time and memory, and that the next client is served.

H3, H4, H5, H10, H13, H14, H28 of the threat register; limits L7.
"""

from __future__ import annotations

import contextlib
import gzip
import itertools
import json
import select
import socket
import threading
import time
import urllib.parse

import psutil
import pytest

from storage.dicomxml import native_model
from tests.fix_servers import running_gateway

MEBIBYTE = 1 << 20
LOOPS = 2
RSS_BYTES = 32 * MEBIBYTE
HEAD = "POST /dicomweb/studies HTTP/1.1\r\nHost: 127.0.0.1\r\n"
MULTIPART = 'Content-Type: multipart/related; type="application/dicom"; boundary=b0\r\n'


class Worker:
    """The process that answers, and what it has used since it was last looked at.

    loop_seconds: what this machine takes for a loop that looks at each of the false boundaries of 64 MiB. A hostile
    body may cost a few times that and no more, however slow the machine is today.
    """

    def __init__(self, gateway, loop_seconds):
        self.loop_seconds = loop_seconds
        pids = gateway.pids("http")
        assert len(pids) == 1
        self.process = psutil.Process(*pids.values())
        self.port = gateway.http_port
        self.data = gateway.data
        self.start()

    def start(self):
        self.rss_bytes, self.peak_bytes = self.process.memory_info().rss, 0
        self.cpu_seconds = sum(self.process.cpu_times()[:2])

    @contextlib.contextmanager
    def measured(self, name, loops=LOOPS, rss_bytes=RSS_BYTES):
        """Print and check CPU time and the peak of memory of what happens inside."""
        self.start()
        stop = threading.Event()

        def watch():
            while not stop.wait(0.01):
                self.peak_bytes = max(self.peak_bytes, self.process.memory_info().rss - self.rss_bytes)

        watcher = threading.Thread(target=watch)
        watcher.start()
        try:
            yield
        finally:
            stop.set()
            watcher.join()
        used_seconds = self.used_seconds()
        loop_seconds = self.loop_seconds
        print(f"{name}: {used_seconds:.2f} s CPU, loop {loop_seconds:.2f}, RSS +{self.peak_bytes / MEBIBYTE:.1f} MiB")
        assert used_seconds < loops * loop_seconds
        assert self.peak_bytes < rss_bytes

    def used_seconds(self):
        return sum(self.process.cpu_times()[:2]) - self.cpu_seconds

    def send(self, head, chunks=(), seconds=30.0, *, is_deaf=False):
        """Send a request until it is answered, or all of it; the status, or 0 when the connection just closed."""
        with socket.create_connection(("127.0.0.1", self.port), timeout=seconds) as client:
            with contextlib.suppress(ConnectionError):
                client.sendall(head.encode("latin-1"))
                for chunk in chunks:
                    if not is_deaf and select.select([client], [], [], 0)[0]:
                        break
                    client.sendall(chunk)
            answer = b""
            with contextlib.suppress(ConnectionError):
                while b"\r\n\r\n" not in answer:
                    piece = client.recv(65536)
                    if not piece:
                        break
                    answer += piece
            return int(answer.split(b" ", 2)[1]) if answer else 0

    def is_alive(self):
        return self.send("GET /healthz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n") == 200

    def waiting_files(self):
        return list(self.data.rglob("*.incoming"))


@pytest.fixture(scope="module")
def victim(tmp_path_factory):
    with running_gateway(tmp_path_factory.mktemp("victim") / "data", "--workers", "1") as running:
        yield running


@pytest.fixture(scope="module")
def loop_seconds():
    block = b"\r\n--b0x" * (MEBIBYTE // 7)
    started = time.process_time()
    at = block.find(b"\r\n--b0")
    while at >= 0:
        at = block.find(b"\r\n--b0", at + 1)
    return (time.process_time() - started) * 64


@pytest.fixture
def worker(victim, loop_seconds):
    one = Worker(victim, loop_seconds)
    assert one.send(HEAD + MULTIPART + "Content-Length: 6\r\n\r\n--b0--") == 400
    yield one
    assert one.is_alive()
    assert one.process.pid == next(iter(victim.pids("http").values()))
    assert one.waiting_files() == []


def chunked(pieces):
    for piece in pieces:
        yield b"%x\r\n%b\r\n" % (len(piece), piece)
    yield b"0\r\n\r\n"


def repeated(piece, total_bytes, size_bytes=65536):
    block = piece * (size_bytes // len(piece))
    for _ in range(total_bytes // len(block)):
        yield block


PART = b"\r\n--b0\r\nContent-Type: application/dicom\r\n\r\n"
BOMBS = {
    "10^6 tiny parts": (lambda: repeated(PART + b"x", 1_000_000 * (len(PART) + 1)), 413),
    "10^6 parts without a content": (lambda: repeated(b"\r\n--b0\r\n\r\n", 10_000_000), 413),
    "endless part header": (lambda: itertools.chain([b"--b0\r\nA: "], repeated(b"a", 64 * MEBIBYTE)), 413),
    "endless part headers": (lambda: itertools.chain([b"--b0\r\n"], repeated(b"A: a\r\n", 64 * MEBIBYTE)), 413),
    "preamble": (lambda: repeated(b"p", 64 * MEBIBYTE), 413),
    "preamble of lines": (lambda: repeated(b"\r\n--b", 64 * MEBIBYTE), 413),
    "epilogue": (lambda: itertools.chain([b"--b0--"], repeated(b"e", 64 * MEBIBYTE)), 413),
    "no boundary": (lambda: [b"DICM" * 100], 400),
    "nesting": (
        lambda: [
            b"--b0\r\nContent-Type: multipart/related; boundary=b1\r\n\r\n",
            b"--b1\r\nContent-Type: application/dicom\r\n\r\nDICM\r\n--b1--" * 1000,
            b"\r\n--b0--",
        ],
        415,
    ),
    "boundary in data": (
        lambda: itertools.chain([PART], repeated(b"\r\n--b0x", 64 * MEBIBYTE), [b"\r\n--b0--"]),
        400,
    ),
    "almost boundaries": (lambda: itertools.chain([PART], repeated(b"\r\n--", 64 * MEBIBYTE), [b"\r\n--b0--"]), 400),
}


@pytest.mark.parametrize("name", BOMBS)
def test_a_multipart_bomb_is_refused_cheaply(worker, name):
    make, status = BOMBS[name]
    with worker.measured(name):
        assert worker.send(HEAD + MULTIPART + "Transfer-Encoding: chunked\r\n\r\n", chunked(make())) == status


def test_a_client_that_sends_on_after_the_refusal_is_refused_as_cheaply(worker):
    with worker.measured("preamble of 128 MiB, all of it"):
        pieces = chunked(repeated(b"p", 128 * MEBIBYTE))
        assert worker.send(HEAD + MULTIPART + "Transfer-Encoding: chunked\r\n\r\n", pieces, is_deaf=True) == 413


def test_one_byte_chunks_cost_little_memory(worker):
    body = PART + b"x" * 20_000 + b"\r\n--b0--"
    with worker.measured("20 000 chunks of one byte"):
        pieces = [b"".join(chunked([body[index : index + 1] for index in range(len(body))]))]
        assert worker.send(HEAD + MULTIPART + "Transfer-Encoding: chunked\r\n\r\n", pieces) == 400


LENGTHS = {
    "2^62": ("Content-Length: 4611686018427387904\r\n", {413}),
    "2^64": ("Content-Length: 18446744073709551616\r\n", {400}),
    "negative": ("Content-Length: -1\r\n", {400}),
    "not a number": ("Content-Length: 0x10\r\n", {400}),
    "twice, different": ("Content-Length: 6\r\nContent-Length: 7\r\n", {400}),
    "with chunks": ("Content-Length: 6\r\nTransfer-Encoding: chunked\r\n", {400}),
}


@pytest.mark.parametrize("name", LENGTHS)
def test_a_content_length_that_cannot_be_true_is_refused_and_nothing_is_reserved_for_it(worker, name):
    header, statuses = LENGTHS[name]
    with worker.measured(f"Content-Length {name}"):
        assert worker.send(HEAD + MULTIPART + header + "\r\n", [b"--b0--", b"e" * 70_000]) in statuses


def test_a_compressed_bomb_is_refused_before_it_is_read(worker):
    bomb = gzip.compress(bytes(42 * MEBIBYTE))
    started = time.monotonic()
    with worker.measured(f"gzip, {len(bomb)} bytes for 42 MiB"):
        head = HEAD + MULTIPART + f"Content-Encoding: gzip\r\nContent-Length: {len(bomb)}\r\n\r\n"
        assert worker.send(head, [bomb]) == 415
    assert time.monotonic() - started < 5


INJECTIONS = [
    "\r\nX-Evil: 1",
    "\r\n\r\n<html>",
    "\n",
    "\r",
    "\0",
    "%0d%0aX-Evil: 1",
    "\u00e9",
    "\x7f",
    "\x1b[31m",
    "\\r\\n",
    '"',
    "\\",
    ";",
    "/../../etc/passwd",
    "..;",
    " ",
    "\t",
    "1.2.3 ",
    "1..2",
    "0" * 65,
]


@pytest.mark.parametrize("text", INJECTIONS)
def test_a_study_uid_cannot_carry_anything_else(worker, text):
    for vector in (text, "1.2" + text, text + "1.2"):
        path = "/dicomweb/studies/" + urllib.parse.quote(vector, safe="")
        head = HEAD.replace("/dicomweb/studies", path, 1) + MULTIPART + "Content-Length: 6\r\n\r\n"
        assert worker.send(head, [b"--b0--"]) in (400, 404, 405)


@pytest.mark.parametrize("text", INJECTIONS)
def test_a_boundary_cannot_break_anything(worker, text):
    for vector in (text, f'"{text}"', f"b0{text}"):
        head = f"{HEAD}Content-Type: multipart/related; boundary={vector}\r\nContent-Length: 6\r\n\r\n"
        assert worker.send(head, [b"--b1--"]) in (400, 404)


def test_a_bulk_data_uri_in_metadata_calls_nobody(worker):
    with socket.create_server(("127.0.0.1", 0)) as bait:
        bait.setblocking(False)
        uri = f"http://127.0.0.1:{bait.getsockname()[1]}/secret"
        model = {"7FE00010": {"vr": "OW", "BulkDataURI": uri}}
        for kind, metadata in (
            ("application/dicom+json", json.dumps([model]).encode()),
            ("application/dicom+xml", native_model(model)),
        ):
            part = f"--b0\r\nContent-Type: {kind}\r\n\r\n".encode() + metadata + b"\r\n--b0--"
            for content_type, body, status in (
                (f'multipart/related; type="{kind}"; boundary=b0', part, 400),
                ("multipart/related; boundary=b0", part, 415),
                (kind, metadata, 400),
            ):
                head = f"{HEAD}Content-Type: {content_type}\r\nContent-Length: {len(body)}\r\n\r\n"
                assert worker.send(head, [body]) == status
        with pytest.raises(BlockingIOError):
            bait.accept()


JSON, XML = "application/dicom+json", "application/dicom+xml"
SIXTEEN = 16 * MEBIBYTE - 4096
DOCUMENT = b"<NativeDicomModel xmlns='http://dicom.nema.org/PS3.19/models/NativeDICOM'>"
DEEP = b"<DicomAttribute tag='0040A730' vr='SQ'><Item number='1'>"
ENTITIES = b"".join(b'<!ENTITY l%d "%s">' % (number, b"&l%d;" % (number - 1) * 10) for number in range(1, 10))
METADATA_BOMBS = {
    "depth of arrays": (JSON, lambda: [b"[" * 900_000], 400),
    "depth of arrays, 16 MiB": (JSON, lambda: repeated(b"[", SIXTEEN), 413),
    "depth of objects": (JSON, lambda: [b'{"0040A730":' * 900_000], 400),
    "depth that ends": (JSON, lambda: [b"[" * 500 + b"]" * 500], 400),
    "deep sequences": (
        JSON,
        lambda: [b'{"0040A730":{"vr":"SQ","Value":[' * 60 + b"{}" + b"]}}" * 60],
        400,
    ),
    "millions of objects": (JSON, lambda: [b"[{}", *repeated(b",{}", SIXTEEN), b"]"], 413),
    "millions of numbers": (JSON, lambda: [b"[0", *repeated(b",0", SIXTEEN), b"]"], 413),
    "a long text": (JSON, lambda: [b'["', *repeated(b"a", SIXTEEN), b'"]'], 400),
    "more than the limit": (JSON, lambda: repeated(b" ", 64 * MEBIBYTE), 413),
    "a billion laughs": (
        XML,
        lambda: [b"<!DOCTYPE x [<!ENTITY l0 'ha'>" + ENTITIES + b"]>" + DOCUMENT + b"&l9;</NativeDicomModel>"],
        400,
    ),
    "an entity that is a file": (
        XML,
        lambda: [b"<!DOCTYPE x [<!ENTITY a SYSTEM 'file:///etc/passwd'>]>" + DOCUMENT + b"&a;</NativeDicomModel>"],
        400,
    ),
    "a document type of 16 MiB": (XML, lambda: [b"<!DOCTYPE x [", *repeated(b"<!ENTITY a 'aaaa'>", SIXTEEN)], 400),
    "deep XML": (XML, lambda: [DOCUMENT, *repeated(DEEP, SIXTEEN)], 400),
    "millions of attributes": (
        XML,
        lambda: [DOCUMENT, *repeated(b"<DicomAttribute tag='00100020' vr='LO'/>", SIXTEEN)],
        400,
    ),
    "XML elements of no kind": (XML, lambda: [DOCUMENT, *repeated(b"<a>", SIXTEEN)], 400),
}


def metadata_request(kind):
    content_type = f'multipart/related; type="{kind}"; boundary=b0'
    return f"{HEAD}Content-Type: {content_type}\r\nTransfer-Encoding: chunked\r\n\r\n"


@pytest.mark.parametrize("name", METADATA_BOMBS)
def test_h13_h14_a_metadata_bomb_is_refused_cheaply(worker, name):
    kind, make, status = METADATA_BOMBS[name]
    begin = f"--b0\r\nContent-Type: {kind}\r\n\r\n".encode()
    with worker.measured(name, rss_bytes=64 * MEBIBYTE):
        pieces = chunked(itertools.chain([begin], make(), [b"\r\n--b0--"]))
        assert worker.send(metadata_request(kind), pieces) == status


def bulk_part(location, content=b"x"):
    return b"--b0\r\nContent-Type: application/octet-stream\r\nContent-Location: %b\r\n\r\n%b\r\n" % (location, content)


def test_long_locations_are_limited_together(worker):
    with worker.measured("10 000 locations of 4 KB"):
        parts = (bulk_part(b"%05d" % number + b"l" * 4000) for number in range(10_000))
        assert worker.send(metadata_request(JSON), chunked(itertools.chain(parts, [b"--b0--"]))) == 413


def model_of(sop, **elements):
    uids = {"00080016": "1.2.840.10008.5.1.4.1.1.7", "00080018": sop, "0020000D": "2.25.77", "0020000E": "2.25.77.1"}
    return {tag: {"vr": "UI", "Value": [uid]} for tag, uid in uids.items()} | elements


def metadata_part(*models):
    return f"--b0\r\nContent-Type: {JSON}\r\n\r\n".encode() + json.dumps(models).encode() + b"\r\n"


def test_h3_a_bulk_data_part_of_512_mebibytes_takes_little_memory(worker):
    model = model_of("2.25.77.1.1", **{"00420011": {"vr": "OB", "BulkDataURI": "d"}})
    begin, end = bulk_part(b"d", b"").removesuffix(b"\r\n"), b"\r\n--b0--"
    with worker.measured("512 MiB of bulk data", loops=1000, rss_bytes=64 * MEBIBYTE):
        content = repeated(b"\r\n--b0x-", 512 * MEBIBYTE)
        pieces = chunked(itertools.chain([metadata_part(model), begin], content, [end]))
        assert worker.send(metadata_request(JSON), pieces, seconds=120) == 200


def test_h3_ten_thousand_parts_take_little_memory(worker):
    def references(number):
        return {"00420011": {"vr": "OB", "BulkDataURI": f"d{number}"}}

    frames = range(1, 9999)
    numbers = {"00280010": 4, "00280011": 4, "00280002": 1, "00280100": 8, "00280101": 8, "00280102": 7, "00280103": 0}
    image = {tag: {"vr": "US", "Value": [number]} for tag, number in numbers.items()}
    image |= {"00280008": {"vr": "IS", "Value": [len(frames)]}, "7FE00010": {"vr": "OB", "BulkDataURI": "p"}}
    cases = {
        "an image of 9 998 parts": (
            [model_of("2.25.77.1.2", **image)],
            (bulk_part(b"p/frames/%d" % number, bytes(16)) for number in frames),
        ),
        "4 999 instances with a part each": (
            [model_of(f"2.25.77.2.{number}", **references(number)) for number in range(4999)],
            (bulk_part(b"d%d" % number, b"x" * 2000) for number in range(4999)),
        ),
    }
    for name, (models, parts) in cases.items():
        with worker.measured(name, loops=1000, rss_bytes=64 * MEBIBYTE):
            pieces = chunked(itertools.chain([metadata_part(*models)], parts, [b"--b0--"]))
            assert worker.send(metadata_request(JSON), pieces, seconds=240) == 200


def test_a_body_that_stops_is_given_up_and_leaves_nothing(start_gateway, loop_seconds):
    gateway = start_gateway("--workers", "1", environment={"GATEWAY_HTTP__BODY_IDLE_SECONDS": "1"})
    worker = Worker(gateway, loop_seconds)
    started = time.monotonic()
    with socket.create_connection(("127.0.0.1", worker.port), timeout=30) as client:
        client.sendall((HEAD + MULTIPART + "Content-Length: 99999999\r\n\r\n").encode() + PART)
        meta = bytes(128) + b"DICM" + b"\2\0\x10\0UI\x14\x001.2.840.10008.1.2.1\0" + b"\x08\0\5\0CS\0\0"
        client.sendall(meta + bytes(3 * MEBIBYTE))
        while not worker.waiting_files():
            assert time.monotonic() - started < 10
            time.sleep(0.005)
        with contextlib.suppress(ConnectionError):
            while client.recv(65536):
                continue
    assert time.monotonic() - started < 10
    while worker.waiting_files():
        assert time.monotonic() - started < 10
        time.sleep(0.005)
    assert worker.is_alive()
