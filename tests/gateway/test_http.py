"""What every web door shares: CORS, links, errors, probes and the start page."""

from __future__ import annotations

import asyncio
import threading
import time

import pytest
from starlette.exceptions import HTTPException
from starlette.requests import Request

from gateway.dicomweb.responses import STATUS, status_of
from gateway.http import Lane, Stream, _batch, check_host, in_thread, root_url
from gateway.settings import HttpSettings, Settings
from storage import errors

VIEWER = "https://viewer.example.org"


def request_of(headers, *, settings, client="192.0.2.7", server=("10.0.0.5", 8080)):
    class App:
        class state:  # noqa: N801 - Starlette's name
            pass

    App.state.settings = Settings(http=settings)
    raw = [(name.lower().encode(), value.encode()) for name, value in headers.items()]
    scope = {"type": "http", "scheme": "http", "server": server, "client": (client, 1), "headers": raw, "app": App}
    return Request({**scope, "method": "GET", "path": "/", "query_string": b""})


@pytest.mark.parametrize(
    ("headers", "settings", "client", "expected"),
    [
        ({"Host": "evil.example"}, HttpSettings(), "192.0.2.7", "http://10.0.0.5:8080"),
        ({"Host": "evil.example"}, HttpSettings(public_url="https://pacs/x/"), "192.0.2.7", "https://pacs/x"),
        ({"X-Forwarded-Host": "evil", "X-Forwarded-Proto": "https"}, HttpSettings(), "1.1.1.1", "http://10.0.0.5:8080"),
        (
            {"X-Forwarded-Host": "pacs.example", "X-Forwarded-Proto": "https"},
            HttpSettings(trusted_proxies=("10.1.0.0/16",)),
            "10.1.2.3",
            "https://pacs.example",
        ),
        (
            {"X-Forwarded-Host": "pacs.example", "X-Forwarded-Proto": "https"},
            HttpSettings(trusted_proxies=("10.1.0.0/16",)),
            "10.2.2.3",
            "http://10.0.0.5:8080",
        ),
        (
            {"X-Forwarded-Host": "a\r\nb", "X-Forwarded-Proto": "https"},
            HttpSettings(trusted_proxies=("10.1.0.0/16",)),
            "10.1.2.3",
            "http://10.0.0.5:8080",
        ),
    ],
)
def test_links_follow_the_settings_and_trusted_proxies_only(headers, settings, client, expected):
    assert root_url(request_of(headers, settings=settings, client=client)) == expected


def test_loopback_may_be_spelled_as_the_client_likes():
    request = request_of({"Host": "localhost:8080"}, settings=HttpSettings(), server=("127.0.0.1", 8080))
    assert root_url(request) == "http://localhost:8080"
    request = request_of({"Host": "evil.example:8080"}, settings=HttpSettings(), server=("127.0.0.1", 8080))
    assert root_url(request) == "http://127.0.0.1:8080"


def test_small_pieces_are_joined_and_large_ones_are_sent_as_they_are():
    pieces = iter([b"a" * 10, b"b" * 20, b"c" * 100_000, b"d", b"e" * 50_000, b"f"])
    assert [len(piece) for piece in _batch(pieces, 100_000)] == [30, 100_000]
    assert [len(piece) for piece in _batch(pieces, 100_000)] == [1, 50_000, 1]
    assert _batch(pieces, 100_000) == []


async def sent_by(response, receive, *, leaves_after=10**9):
    """What a response sends to a client, who may leave after some messages."""
    messages = []

    async def send(message):
        messages.append(message)
        if len(messages) == leaves_after:
            receive.set()

    async def received():
        await receive.wait()
        return {"type": "http.disconnect"}

    await response({"type": "http"}, received, send)
    return messages


def stream_of(count, ended):
    try:
        for _ in range(count):
            yield b"x" * 100_000
    finally:
        ended.append(True)


def test_a_stream_sends_everything_and_closes_what_it_read():
    async def run():
        ended = []
        response = Stream(stream_of(100, ended), 200, {}, "application/dicom")
        messages = await sent_by(response, asyncio.Event())
        assert sum(len(message.get("body", b"")) for message in messages) == 10_000_000
        assert messages[-1] == {"type": "http.response.body", "body": b""}
        assert ended == [True]

    asyncio.run(run())


def test_a_stream_stops_reading_when_the_client_has_gone():
    async def run():
        ended = []
        response = Stream(stream_of(10_000, ended), 200, {}, "application/dicom")
        messages = await sent_by(response, asyncio.Event(), leaves_after=30)
        assert len(messages) < 100
        assert ended == [True]

    asyncio.run(run())


def test_a_stream_that_breaks_is_broken_off_and_never_completed():
    def broken():
        yield b"x" * 100_000
        raise errors.CorruptObject

    async def run():
        messages = []

        async def send(message):
            messages.append(message)

        async def receive():
            await asyncio.Event().wait()

        with pytest.raises(errors.CorruptObject):
            await Stream(broken(), 200, {}, "application/dicom")({"type": "http"}, receive, send)
        assert messages[-1] != {"type": "http.response.body", "body": b""}

    asyncio.run(run())


def every_error():
    found, waiting = [], [errors.GatewayError]
    while waiting:
        found += waiting[-1].__subclasses__()
        waiting = [*waiting[:-1], *waiting[-1].__subclasses__()]
    return found


@pytest.mark.parametrize("kind", every_error(), ids=lambda kind: kind.__name__)
def test_every_error_has_a_status_of_its_own_or_its_parents(kind):
    assert status_of(kind()) in (400, 401, 403, 404, 406, 409, 410, 413, 415, 422, 429, 500, 503)
    assert any(parent in STATUS for parent in kind.__mro__)


def test_what_is_no_error_of_ours_is_a_fault_of_the_server():
    assert status_of(ValueError("secret")) == 500


def test_a_preflight_is_answered_without_a_body(samples):
    asked = {"Origin": VIEWER, "Access-Control-Request-Method": "GET", "Access-Control-Request-Headers": "range,accept"}
    response = samples.client.options("/studies", headers=asked)
    assert (response.status_code, response.content) == (204, b"")
    assert response.headers["access-control-allow-origin"] == VIEWER
    allowed = response.headers["access-control-allow-headers"].lower()
    for name in ("authorization", "accept", "range", "content-type", "if-none-match"):
        assert name in allowed


@pytest.mark.parametrize("url", ["/studies", "/studies/abc", "/studies/1.2.3", "/nothing", "/studies?limit=x"])
def test_a_known_origin_may_read_answers_and_errors(samples, url):
    response = samples.get(url, headers={"Origin": VIEWER})
    assert response.headers["access-control-allow-origin"] == VIEWER
    assert "Content-Range" in response.headers["access-control-expose-headers"]
    assert "Origin" in response.headers["vary"]


def test_another_origin_may_not(samples):
    response = samples.get("/studies", headers={"Origin": "https://evil.example"})
    assert "access-control-allow-origin" not in response.headers
    asked = {"Origin": "https://evil.example", "Access-Control-Request-Method": "GET"}
    assert samples.client.options("/studies", headers=asked).status_code == 400


def test_no_answer_allows_everybody(samples):
    response = samples.get("/studies", headers={"Origin": VIEWER})
    assert response.headers["access-control-allow-origin"] != "*"


@pytest.mark.parametrize(("path", "kind"), [("/healthz", "json"), ("/readyz", "json"), ("/metrics", "text/plain")])
def test_probes_answer(samples, path, kind):
    response = samples.client.get(samples.gateway.url + path)
    assert response.status_code == 200
    assert kind in response.headers["content-type"]


def test_figures_name_routes_and_no_resource(samples):
    samples.get(samples.url("slice_01") + "/metadata")
    text = samples.client.get(samples.gateway.url + "/metrics").text
    assert "gateway_http_requests_total" in text
    assert "{instance}/metadata" in text
    assert samples.entry("slice_01")["study_instance_uid"] not in text


def test_the_start_page_says_where_things_are_and_runs_no_script(samples):
    response = samples.client.get(samples.gateway.url + "/")
    assert samples.gateway.dicomweb in response.text
    assert samples.gateway.places["dimse"] in response.text
    assert "qidoRoot" in response.text
    assert "<script" not in response.text
    assert "default-src 'none'" in response.headers["content-security-policy"]


def test_the_log_has_a_line_for_each_request_and_nothing_of_what_was_asked(samples):
    samples.get("/studies?PatientName=CANARY%5EJANE")
    samples.get("/studies/1.2.3.999999/metadata")
    text = samples.gateway.log.read_text(encoding="utf-8")
    assert "CANARY" not in text
    assert "1.2.3.999999" not in text
    wanted = "/dicomweb/studies/{study}/metadata"
    deadline = time.monotonic() + 10
    while not any(line.get("route") == wanted and line["request_id"] for line in samples.gateway.lines()):
        assert time.monotonic() < deadline, "no line of the request"
        time.sleep(0.05)


@pytest.mark.parametrize(("host", "status"), [("evil.example", 421), ("evil.example:8080", 421), ("[::1]:80", 200)])
def test_a_web_page_that_points_its_name_here_reads_nothing(samples, host, status):
    assert samples.get("/studies?limit=1", headers={"Host": host}).status_code == status


def test_the_name_of_the_public_url_is_known():
    settings = HttpSettings(public_url="https://pacs.example.org")
    check_host(request_of({"Host": "pacs.example.org"}, settings=settings, server=("127.0.0.1", 8080)))
    with pytest.raises(HTTPException):
        check_host(request_of({"Host": "evil.example"}, settings=settings, server=("127.0.0.1", 8080)))


def test_a_lane_that_is_full_says_so_at_once():
    async def run():
        lane = Lane(1, 1, "test", 60.0)
        hold = threading.Event()
        running = [asyncio.create_task(lane.run(hold.wait)) for _ in range(2)]
        await asyncio.sleep(0.05)
        with pytest.raises(errors.Overloaded):
            await lane.run(hold.wait)
        hold.set()
        assert await asyncio.gather(*running) == [True, True]

    asyncio.run(run())


def test_who_waits_too_long_for_a_lane_is_told_and_what_runs_is_not_stopped():
    async def run():
        lane = Lane(1, 2, "test", 0.1)
        hold = threading.Event()
        running = asyncio.create_task(lane.run(hold.wait))
        await asyncio.sleep(0.05)
        with pytest.raises(errors.Overloaded):
            await lane.run(hold.wait)
        gone = asyncio.create_task(lane.run(hold.wait))
        await asyncio.sleep(0.01)
        gone.cancel()  # the client hung up
        with pytest.raises(asyncio.CancelledError):
            await gone
        with pytest.raises(errors.Overloaded):  # those two are in the queue yet, which does not grow
            await lane.run(hold.wait)
        hold.set()
        assert await running is True
        await asyncio.sleep(0.2)  # for those that were given up to leave the queue
        assert lane.free == 3
        assert await lane.run(hold.wait) is True

    asyncio.run(run())


def test_what_cannot_be_read_is_an_error_and_not_half_an_answer():
    def absent():
        raise errors.CorruptObject
        yield b""

    async def run():
        messages = []

        async def send(message):
            messages.append(message)

        async def receive():
            await asyncio.Event().wait()

        with pytest.raises(errors.CorruptObject):
            await Stream(absent(), 200, {}, "application/dicom")({"type": "http"}, receive, send)
        assert messages == []

    asyncio.run(run())


def test_several_frames_that_the_client_has_are_not_sent_again(samples):
    url = samples.url("colour_loop") + "/frames/1,3"
    etag = samples.get(url).headers["etag"]
    assert samples.get(url, headers={"If-None-Match": f'"other", {etag}'}).status_code == 304


def test_reads_go_one_after_the_other_while_they_are_short():
    together, most = 0, 0

    def read():
        nonlocal together, most
        together += 1
        most = max(most, together)
        time.sleep(0.0005)
        together -= 1

    async def run():
        await asyncio.gather(*(in_thread(read) for _ in range(50)))

    asyncio.run(run())
    assert most <= 3  # a machine that is busy may make a short one long


def test_a_read_that_waits_for_a_disk_keeps_nobody_waiting():
    released = threading.Event()

    async def run():
        slow = [asyncio.create_task(in_thread(released.wait, 10)) for _ in range(10)]
        assert await asyncio.wait_for(in_thread(lambda: "answered"), 5) == "answered"
        assert not any(one.done() for one in slow)
        released.set()
        assert all(await asyncio.gather(*slow))
        assert await in_thread(lambda: "goes on") == "goes on"

    asyncio.run(run())


def test_a_turn_is_given_back_by_those_that_fail_or_are_cancelled():
    async def run():
        for _ in range(3):
            with pytest.raises(ZeroDivisionError):
                await in_thread(lambda: 1 // 0)
            waiting = asyncio.create_task(in_thread(time.sleep, 0.05))
            await asyncio.sleep(0.01)
            waiting.cancel()
            with pytest.raises(asyncio.CancelledError):
                await waiting
        assert await asyncio.wait_for(in_thread(lambda: "free"), 5) == "free"

    asyncio.run(run())
