"""The change feed over HTTP: a real gateway, its pages, and its stream as a raw client and curl see it. R11"""

from __future__ import annotations

import contextlib
import json
import re
import socket
import subprocess
import threading
import time

import httpx
import pytest

from storage.index.sqlite import connect
from tests import synthetic
from tests.fix_dimse import settle
from tests.fix_servers import running_gateway

DICOM = {"Content-Type": "application/dicom"}
EVENTS = {"Accept": "text/event-stream"}
SHORT = {"GATEWAY_CHANGES__HEARTBEAT_SECONDS": "0.3", "GATEWAY_CHANGES__LISTENERS_MAXIMUM": "4"}


def store(gateway, *numbers, study="1.2.3"):
    with httpx.Client(timeout=60) as client:
        for number in numbers:
            content = synthetic.data_set(study=study, sop_instance=f"{study}.4.{number}")
            part10 = synthetic.part10(content, sop=f"{study}.4.{number}")
            assert client.post(f"{gateway.dicomweb}/studies", content=part10, headers=DICOM).status_code == 200


def page(gateway, query="", path="/changes"):
    return httpx.get(f"{gateway.url}{path}{query}", timeout=60)


class Stream:
    """A client of the stream on a bare socket, in a thread."""

    def __init__(self, gateway, target="/changes", *, last="", receive_bytes=0):
        self.socket = socket.socket()
        if receive_bytes:
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_bytes)
        self.socket.connect(("127.0.0.1", gateway.http_port))
        said = f"Last-Event-ID: {last}\r\n" if last else ""
        request = f"GET {target} HTTP/1.1\r\nHost: 127.0.0.1\r\nAccept: text/event-stream\r\n{said}\r\n"
        self.socket.sendall(request.encode())
        self.raw = b""
        self.is_over = False

    def follow(self):
        self.thread = threading.Thread(target=self._read, daemon=True)
        self.thread.start()
        return self

    def _read(self):
        with contextlib.suppress(OSError):
            while piece := self.socket.recv(65536):
                self.raw += piece
        self.is_over = True

    @property
    def head(self):
        return self.raw.partition(b"\r\n\r\n")[0].decode()

    @property
    def body(self):
        """What came, out of its chunks."""
        rest, body = self.raw.partition(b"\r\n\r\n")[2], b""
        while match := re.match(rb"([0-9a-f]+)\r\n", rest):
            size = int(match[1], 16)
            body, rest = body + rest[match.end() : match.end() + size], rest[match.end() + size + 2 :]
        return body.decode()

    @property
    def has_ended(self):
        return self.raw.endswith(b"0\r\n\r\n")

    @property
    def events(self):
        blocks = [dict(line.partition(": ")[::2] for line in one.splitlines()) for one in self.body.split("\n\n")]
        return [(int(one["id"]), one["event"], json.loads(one["data"])) for one in blocks if "data" in one]

    @property
    def ids(self):
        return [number for number, _, _ in self.events]

    def close(self):
        with contextlib.suppress(OSError):
            self.socket.shutdown(socket.SHUT_RDWR)
        self.socket.close()


@pytest.fixture
def short(start_gateway):
    return start_gateway("--workers", "1", environment=SHORT)


@pytest.fixture
def followed():
    """``followed(gateway, …)``: streams that are closed after the test."""
    with contextlib.ExitStack() as stack:

        def follow(*arguments, **options):
            stream = Stream(*arguments, **options).follow()
            stack.callback(stream.close)
            return stream

        yield follow


def test_pages_are_the_feed_from_a_number_on(gateway):
    assert page(gateway).json() == {"changes": [], "last": 0, "latest": 0, "done": True}
    store(gateway, 1, 2, 3)
    whole = page(gateway).json()
    assert [change["sequence"] for change in whole["changes"]] == [1, 2, 3]
    assert whole["changes"][0] | {"changed_at": ""} == {
        "sequence": 1,
        "kind": "stored",
        "level": "INSTANCE",
        "StudyInstanceUID": "1.2.3",
        "SeriesInstanceUID": whole["changes"][0]["SeriesInstanceUID"],
        "SOPInstanceUID": "1.2.3.4.1",
        "changed_at": "",
    }
    assert (whole["last"], whole["latest"], whole["done"]) == (3, 3, True)
    first = page(gateway, "?limit=2").json()
    assert (first["last"], first["latest"], first["done"]) == (2, 3, False)
    assert page(gateway, "?after=2").json()["changes"] == whole["changes"][2:]
    assert page(gateway, "?since=1&limit=1").json()["changes"] == whole["changes"][1:2]
    assert page(gateway, "?after=99").json() == {"changes": [], "last": 99, "latest": 3, "done": True}
    assert page(gateway, path="/changes/latest").json() == {
        "changes": whole["changes"][2:],
        "last": 3,
        "latest": 3,
        "done": True,
    }


def test_the_same_is_below_dicomweb_and_in_its_capabilities(gateway):
    store(gateway, 1)
    for path in ("/dicomweb/changes", "/dicom-web/changes", "/changes/"):
        answer = page(gateway, path=path)
        assert answer.json()["latest"] == 1
        assert answer.headers["content-type"] == "application/json"
        assert answer.headers["cache-control"] == "no-store"
    told = httpx.request("OPTIONS", gateway.dicomweb, headers={"Accept": "application/json"}, timeout=60).json()
    (row,) = [one for one in told["resources"] if one["path"] == "/changes"]
    assert row["answers"] == ["application/json", "text/event-stream"]
    assert {"after", "since", "limit", "wait"} <= set(row["parameters"])


@pytest.mark.parametrize(
    "query",
    [
        *("after=-1", "after=x", "after=²", "after=1.5", "after=" + "9" * 5000, "since="),
        *("limit=0", "limit=-1", "wait=-1", "wait=nan", "wait=inf", "wait=x", "wait="),
    ],
)
def test_a_number_that_is_none_is_refused_by_name(shared_gateway, query):
    answer = page(shared_gateway, f"?{query}")
    assert answer.status_code == 400
    assert answer.json()["reason"].startswith(query.split("=")[0])


def test_large_numbers_and_other_media_types_do_no_harm(gateway):
    assert page(gateway, "?after=99999999999999999999&limit=99999999").json()["changes"] == []
    assert httpx.get(f"{gateway.url}/changes", headers={"Accept": "text/html"}, timeout=60).status_code == 406
    answer = httpx.get(f"{gateway.url}/changes", headers={**EVENTS, "Last-Event-ID": "x"}, timeout=60)
    assert answer.status_code == 400
    assert httpx.post(f"{gateway.url}/changes", timeout=60).status_code == 405
    assert httpx.head(f"{gateway.url}/changes", headers=EVENTS, timeout=60).status_code == 200


def test_a_page_is_waited_for_and_comes_with_the_change(gateway):
    started = time.monotonic()
    assert page(gateway, "?wait=0.4").json()["changes"] == []
    assert 0.4 <= time.monotonic() - started < 5
    found = []
    thread = threading.Thread(target=lambda: found.append((page(gateway, "?wait=30").json(), time.monotonic())))
    thread.start()
    time.sleep(0.3)
    store(gateway, 1)
    stored = time.monotonic()
    thread.join(30)
    ((answer, came),) = found
    assert [change["sequence"] for change in answer["changes"]] == [1]
    assert came - stored < 5


def test_events_come_as_they_happen_and_go_on_where_the_client_was(gateway, followed):
    store(gateway, 1, 2)
    one = followed(gateway)
    assert settle(lambda: one.body)
    assert "text/event-stream" in one.head
    assert one.head.startswith("HTTP/1.1 200")
    assert one.body.startswith("retry: 2000\nid: 2\n\n"), "it begins now, and says where that is"
    everything = followed(gateway, "/changes?after=0")
    resumed = followed(gateway, "/changes?after=0", last="1")
    assert settle(lambda: everything.ids == [1, 2] and resumed.ids == [2])
    store(gateway, 3)
    assert settle(lambda: one.ids == [3] and everything.ids == [1, 2, 3] and resumed.ids == [2, 3])
    number, kind, change = one.events[0]
    assert (number, kind) == (change["sequence"], change["kind"]) == (3, "stored")
    one.close()
    store(gateway, 4, 5)
    again = followed(gateway, last="3")
    assert settle(lambda: again.ids == [4, 5])


def test_changes_come_in_order_and_whole_to_who_is_there_and_to_who_comes_later(gateway, followed):
    early = followed(gateway, "/changes?after=0")
    store(gateway, *range(1, 101))
    late = [followed(gateway, f"/changes?after={place}") for place in (0, 50)]
    assert settle(lambda: early.ids == late[0].ids == list(range(1, 101)) and late[1].ids == list(range(51, 101)), 30)


@pytest.mark.needs("curl")
def test_curl_follows_it(gateway):
    store(gateway, 1)
    arguments = ["curl", "-sN", "--max-time", "3", "-H", "Accept: text/event-stream", f"{gateway.url}/changes?after=0"]
    said = subprocess.run(arguments, capture_output=True, text=True, check=False, timeout=60).stdout
    assert "id: 1\nevent: stored\ndata: {" in said


def test_a_silent_stream_has_heartbeats_and_is_no_idle_connection(start_gateway, followed):
    environment = SHORT | {"GATEWAY_HTTP__KEEP_ALIVE_SECONDS": "1", "GATEWAY_HTTP__BODY_IDLE_SECONDS": "1"}
    gateway = start_gateway("--workers", "1", environment=environment)
    stream = followed(gateway)
    assert settle(lambda: stream.body.count(":\n\n") >= 8, 20)
    store(gateway, 1)
    assert settle(lambda: stream.ids == [1])


def figure(gateway, name):
    text = httpx.get(gateway.places["metrics"], timeout=60).text
    return sum(float(line.split()[-1]) for line in text.splitlines() if line.startswith(name))


def test_clients_are_bounded_and_a_place_is_free_when_one_goes(short, followed):
    streams = [followed(short) for _ in range(4)]
    assert settle(lambda: all(one.body for one in streams))
    assert figure(short, "gateway_changes_listeners") == 4
    for path in ("/changes", "/changes?wait=1"):
        answer = httpx.get(f"{short.url}{path}", headers=EVENTS if path == "/changes" else {}, timeout=60)
        assert answer.status_code == 503
        assert answer.headers["retry-after"]
    assert page(short).status_code == 200, "a page takes nobody's place"
    streams[0].close()
    assert settle(lambda: figure(short, "gateway_changes_listeners") == 3)
    again = followed(short)
    assert settle(lambda: again.body)


def fill(gateway, count):
    """So many changes at once, as if somebody had stored something long ago."""
    with contextlib.closing(connect(gateway.data / "index.sqlite")) as connection:
        connection.execute("BEGIN IMMEDIATE")
        rows = [(number, f"1.2.{'3' * 50}", f"1.2.{number}", f"1.3.{number}") for number in range(1, count + 1)]
        connection.executemany("INSERT INTO change VALUES (?, 'stored', ?, ?, ?, '2026-01-02T03:04:05+00:00')", rows)
        connection.execute("COMMIT")


def test_a_client_that_takes_nothing_is_cut_off_and_others_are_not_kept_waiting(start_gateway, followed):
    gateway = start_gateway("--workers", "1", environment={"GATEWAY_HTTP__BODY_IDLE_SECONDS": "1"})
    slow = Stream(gateway, "/changes?after=0", receive_bytes=2048)
    quick = followed(gateway, "/changes?after=0")
    assert settle(lambda: figure(gateway, "gateway_changes_listeners") == 2)
    fill(gateway, 40_000)
    assert settle(lambda: figure(gateway, "gateway_changes_listeners") == 1, 30)
    assert figure(gateway, 'gateway_limits_hit_total{limit="http.body_idle_seconds"}') == 1
    assert settle(lambda: quick.raw.count(b"event: stored") >= 40_000, 30)
    assert quick.ids == list(range(1, 40_001))
    slow.close()


def test_streams_end_properly_when_the_gateway_stops_and_do_not_hold_it_up(start_gateway, followed):
    gateway = start_gateway("--workers", "2")
    streams = [followed(gateway) for _ in range(6)]
    assert settle(lambda: all(one.body for one in streams))
    answers = []
    waiting = threading.Thread(target=lambda: answers.append(page(gateway, "?wait=50").json()["changes"]))
    waiting.start()
    assert settle(lambda: figure(gateway, "gateway_changes_listeners") == 7)
    started = time.monotonic()
    assert gateway.stop() == 0
    assert time.monotonic() - started < 10
    assert settle(lambda: all(one.has_ended for one in streams))
    waiting.join(10)
    assert answers == [[]]
    assert not [line for line in gateway.lines() if line["level"] in ("ERROR", "CRITICAL")]


def test_an_index_that_goes_away_ends_no_stream(engine, tmp_path, followed):
    environment = dict(engine.environment(tmp_path / "data")) | SHORT
    with running_gateway(tmp_path / "data", "--workers", "1", environment=environment) as gateway:
        stream = followed(gateway)
        assert settle(lambda: stream.body)
        with engine.damaged(tmp_path / "data"):
            assert settle(lambda: any(line["event"] == "changes.unavailable" for line in gateway.lines()), 30)
            assert page(gateway).status_code == 503
        store(gateway, 1)
        assert settle(lambda: stream.ids == [1], 30)


def test_a_series_and_study_that_come_to_rest_are_told_of(start_gateway, followed):
    gateway = start_gateway("--workers", "1", environment={"GATEWAY_CHANGES__STABLE_SECONDS": "1"})
    stream = followed(gateway)
    store(gateway, 1, 2)
    assert settle(lambda: len(stream.events) == 4, 20)
    time.sleep(2.5)
    assert [(kind, change["level"]) for _, kind, change in stream.events] == [
        ("stored", "INSTANCE"),
        ("stored", "INSTANCE"),
        ("series-stable", "SERIES"),
        ("study-stable", "STUDY"),
    ]
    assert settle(lambda: figure(gateway, "gateway_changes_latest") == 4)
