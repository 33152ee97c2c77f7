"""OHIF, as npm ships it, served to a headless Chromium with the data source that our start page prints."""

from __future__ import annotations

import html
import http.server
import json
import os
import re
import shutil
import threading
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import pytest

from tests.fix_samples import MANIFEST, SAMPLES
from tests.fix_servers import run_command, running_gateway

DIST = Path(os.environ.get("GATEWAY_TEST_OHIF", "/nowhere"))
CHROMIUM = shutil.which("chromium") or ""
FLAGS = [
    "--no-sandbox",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--use-gl=angle",
    "--use-angle=swiftshader",
    "--enable-unsafe-swiftshader",
    "--ignore-gpu-blocklist",
]


class Pages(http.server.SimpleHTTPRequestHandler):
    """The built application; a path that is no file is a route of it."""

    def __init__(self, *arguments, **options):
        super().__init__(*arguments, directory=str(DIST), **options)

    def do_GET(self):
        path = self.path.partition("?")[0]
        if path == "/app-config.js":
            body = self.server.configuration.encode()
            self.send_response(200)
            self.send_header("Content-Type", "text/javascript")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)
            return
        if not (DIST / path.lstrip("/")).is_file():
            self.path = "/index.html"
        super().do_GET()

    def log_message(self, *_):
        pass


@dataclass
class Viewer:
    """OHIF in a browser. troubles: requests that failed, and answers of 400 and beyond, since it was last asked."""

    page: object
    origin: str
    gateway: object
    troubles: list = field(default_factory=list)

    def study(self, folder):
        """The Study Instance UID of a folder of samples."""
        return next(one["study_instance_uid"] for name, one in MANIFEST.items() if name.startswith(folder))

    def open(self, folder):
        """Show a study; what OHIF puts on top of a first visit is closed."""
        self.page.goto(f"{self.origin}/viewer?StudyInstanceUIDs={self.study(folder)}", wait_until="domcontentloaded")
        self.page.wait_for_selector("canvas", timeout=60_000)


@pytest.fixture(scope="session")
def ohif(tmp_path_factory, needs):
    """OHIF over a gateway with all samples, for tests that only look."""
    needs("chromium")
    if not DIST.is_dir():
        if os.environ.get("GATEWAY_TEST_REQUIRE_ALL"):
            pytest.fail("GATEWAY_TEST_OHIF does not name the folder dist of @ohif/app")
        pytest.skip("GATEWAY_TEST_OHIF does not name the folder dist of @ohif/app")
    playwright = pytest.importorskip("playwright.sync_api")
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Pages)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    origin = f"http://127.0.0.1:{server.server_port}"
    data = tmp_path_factory.mktemp("ohif") / "data"
    with running_gateway(data, environment={"GATEWAY_HTTP__CORS_ORIGINS": origin}) as gateway:
        loaded = run_command("import", SAMPLES, "--data", data, "--json", seconds=200)
        assert json.loads(loaded.stdout)["stored"] == len(MANIFEST)
        server.configuration = configuration_of(httpx.get(gateway.url).text)
        with playwright.sync_playwright() as program:
            browser = program.chromium.launch(executable_path=CHROMIUM, headless=True, args=FLAGS)
            page = browser.new_page(viewport={"width": 1400, "height": 900})
            page.add_locator_handler(page.get_by_text("Skip all"), lambda one: one.click())  # the tour of a first visit
            viewer = Viewer(page, origin, gateway)
            page.on("response", lambda answer: _note(viewer, answer))
            page.on("requestfailed", lambda request: _note_failed(viewer, request))
            yield viewer
            browser.close()
    server.shutdown()
    server.server_close()


def _note(viewer, answer):
    if answer.status >= 400:
        viewer.troubles.append((answer.status, answer.request.method, answer.url))


def _note_failed(viewer, request):
    """What the browser gives up because the page is left is no failure."""
    if request.failure != "net::ERR_ABORTED":
        viewer.troubles.append((request.failure, request.method, request.url))


def configuration_of(start_page):
    """OHIF's configuration, with the data source that stands on the start page for people to paste."""
    source = html.unescape(re.search(r"<pre[^>]*>(.*?)</pre>", start_page, re.DOTALL)[1])
    return (
        "window.config = {routerBasename: '/', extensions: [], modes: [], showStudyList: true, "
        f"investigationalUseDialog: {{option: 'never'}}, defaultDataSourceName: 'gateway', dataSources: [{source}]}};"
    )
