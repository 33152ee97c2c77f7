"""The doctor beside a healthy gateway, and beside servers that have what it looks for."""

from __future__ import annotations

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import httpx
import pytest

from tests.fix_postgresql import free_port
from tests.fix_servers import run_command

ORIGIN = "https://viewer.example.org"


def examined(*arguments):
    run = run_command("doctor", *arguments, "--json")
    said = json.loads(run.stdout) if run.stdout else {}
    return run, {one["check"]: one for one in said.get("findings", ())}


def test_a_gateway_with_samples_is_well(samples):
    run, found = examined(samples.gateway.dicomweb, "--origin", ORIGIN)
    assert (run.returncode, run.stderr) == (0, "")
    assert [one for one in found.values() if one["trouble"]] == []
    assert {name for name, one in found.items() if one["is_skipped"]} <= {"bulk data"}
    assert len(found) == 13


def test_people_get_a_line_for_each_check(samples):
    run = run_command("doctor", samples.gateway.dicomweb)
    lines = run.stdout.splitlines()
    assert run.returncode == 0
    assert "\N{CHECK MARK} frames" in lines
    assert "- cross-origin: nothing there to look at" in lines


def test_an_origin_that_is_not_allowed_is_told(samples):
    run, found = examined(samples.gateway.dicomweb, "--origin", "https://other.example.org")
    assert run.returncode == 1
    assert "origin" in found["cross-origin"]["trouble"]


class Ill(BaseHTTPRequestHandler):
    """Passes requests on, and spoils the answers as the server's ``spoil`` says."""

    def do_GET(self):
        answer = httpx.get(
            self.server.behind + self.path, headers={"Accept": self.headers.get("Accept", "*/*")}, timeout=60
        )
        status, headers, body = self.server.spoil(self.path, answer.status_code, dict(answer.headers), answer.content)
        self.send_response(status)
        for name in ("content-type", "content-encoding"):
            if name in headers:
                self.send_header(name, headers[name])
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


@pytest.fixture
def ill(samples):
    """A proxy in front of the gateway; give it what to spoil, and get its DICOMweb URL."""
    made = []

    def start(spoil):
        server = ThreadingHTTPServer(("127.0.0.1", 0), Ill)
        server.behind, server.spoil = samples.gateway.url, spoil
        threading.Thread(target=server.serve_forever, daemon=True).start()
        made.append(server)
        return f"http://127.0.0.1:{server.server_port}/dicomweb"

    yield start
    for server in made:
        server.shutdown()
        server.server_close()


def replaced(old, new):
    return lambda path, status, headers, body: (status, headers, body.replace(old, new))


def only(part, status, body=b"<html>"):
    def spoil(path, found, headers, content):
        return (status, {"content-type": "text/html"}, body) if part in path else (found, headers, content)

    return spoil


SPOILT = {
    "a proxy's page instead of the list": (only("limit=101", 200), "study list with OHIF's keys", "no JSON"),
    "long queries cut off": (only("%5C", 414), "long queries", "414"),
    "thumbnails refused": (only("/thumbnail", 403), "thumbnail and rendered", "403"),
    "frames refused": (only("/frames/1", 502), "frames", "502"),
    "no transfer syntax": (replaced(b"00083002", b"00083009"), "metadata", "transfer syntax"),
    "quoted transfer syntax": (
        replaced(b"transfer-syntax=1.2.840.10008.1.2.1\r\n", b'transfer-syntax="1.2.840.10008.1.2.1"\r\n'),
        "frames",
        "Cornerstone",
    ),
    "unknown is an error": (only("999/metadata", 500), "unknown study", "500"),
    "series without UID": (
        replaced(b'"0020000E":{"Value', b'"0020000F":{"Value'),
        "series list",
        "Series Instance UID",
    ),
    "another media type": (
        lambda path, status, headers, body: (status, {**headers, "content-type": "application/json"}, body),
        "media type",
        "application/dicom+json",
    ),
}


@pytest.mark.parametrize("name", SPOILT)
def test_what_a_viewer_would_trip_over_is_told(ill, name):
    spoil, check, word = SPOILT[name]
    run, found = examined(ill(spoil))
    assert run.returncode == 1, run.stderr
    assert word in found[check]["trouble"], found


def test_links_that_lead_elsewhere_are_told(ill, samples):
    """The proxy's own address is not what the gateway says, as it is not told its public URL."""
    run, found = examined(ill(lambda path, *answer: answer))
    assert run.returncode == 1
    assert "public URL" in found["Retrieve URL"]["trouble"]


@pytest.mark.parametrize(
    ("url", "code"), [("AE@127.0.0.1:11112", 2), ("ftp://x", 2), ("http://user@127.0.0.1/dicomweb", 2)]
)
def test_what_is_no_dicomweb_server_is_a_usage_error(url, code):
    assert run_command("doctor", url).returncode == code


def test_a_server_that_is_not_there_is_exit_code_5():
    run = run_command("doctor", f"http://127.0.0.1:{free_port()}/dicomweb")
    assert (run.returncode, "cannot be reached" in run.stderr) == (5, True)
