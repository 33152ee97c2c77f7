"""What every web door shares: CORS, links, errors, probes and the start page."""

from __future__ import annotations

import time

import pytest
from starlette.requests import Request

from gateway.dicomweb.responses import STATUS, status_of
from gateway.http import large_chunks, root_url
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


def test_chunks_are_joined_to_large_ones():
    pieces = [b"a" * 100_000, b"b" * 200_000, b"c" * 400_000, b"d"]
    joined = list(large_chunks(pieces))
    assert b"".join(joined) == b"".join(pieces)
    assert [len(chunk) for chunk in joined] == [300_000, 400_000, 1]


def every_error():
    found, waiting = [], [errors.GatewayError]
    while waiting:
        found += waiting[-1].__subclasses__()
        waiting = [*waiting[:-1], *waiting[-1].__subclasses__()]
    return found


@pytest.mark.parametrize("kind", every_error(), ids=lambda kind: kind.__name__)
def test_every_error_has_a_status_of_its_own_or_its_parents(kind):
    assert status_of(kind()) in (400, 401, 403, 404, 406, 409, 410, 413, 415, 422, 500, 503)
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
    wanted = "/studies/{study}/metadata"
    deadline = time.monotonic() + 10
    while not any(line.get("route") == wanted and line["request_id"] for line in samples.gateway.lines()):
        assert time.monotonic() < deadline, "no line of the request"
        time.sleep(0.05)
