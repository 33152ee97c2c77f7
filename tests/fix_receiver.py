"""A little receiver of webhooks that does as it is told, and judges signatures by itself."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import hmac
import json
import socket
import threading
import time
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest


@dataclass
class Received:
    """One request."""

    path: str
    headers: dict
    body: bytes
    status: int

    @property
    def changes(self):
        return json.loads(self.body)["data"]["changes"]

    @property
    def sequences(self):
        return [change["sequence"] for change in self.changes]

    def is_signed_by(self, key):
        signed = b".".join((self.headers["webhook-id"].encode(), self.headers["webhook-timestamp"].encode(), self.body))
        wanted = "v1," + base64.b64encode(hmac.new(key, signed, hashlib.sha256).digest()).decode()
        return wanted in self.headers["webhook-signature"].split(" ")


class Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 64

    def handle_error(self, request, client_address):
        """A client that goes away is no news."""


@dataclass
class Receiver:
    """statuses: of the next requests, one after the other; then 200. location: of redirections. hang_seconds: before
    each answer. port: 0 while it is down and was never up.
    """

    statuses: list = field(default_factory=list)
    location: str = ""
    hang_seconds: float = 0.0
    retry_after: str = ""
    answer: bytes = b""
    received: list = field(default_factory=list)
    port: int = 0
    server: Server | None = None

    def start(self):
        """Listen, on the same port as before."""
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self):
                body = self.rfile.read(int(self.headers["Content-Length"]))
                status = receiver.statuses.pop(0) if receiver.statuses else 200
                headers = {name.lower(): value for name, value in self.headers.items()}
                receiver.received.append(Received(self.path, headers, body, status))
                time.sleep(receiver.hang_seconds)
                self.send_response(status)
                if receiver.location:
                    self.send_header("Location", receiver.location)
                if receiver.retry_after:
                    self.send_header("Retry-After", receiver.retry_after)
                self.end_headers()
                with contextlib.suppress(OSError):
                    self.wfile.write(receiver.answer)

            def log_message(self, *_):
                pass

        self.server = Server(("127.0.0.1", self.port), Handler)
        self.port = self.server.server_address[1]
        threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        return self

    def stop(self):
        """Be down."""
        if self.server is not None:
            self.server.shutdown()
            self.server.server_close()
            self.server = None

    @property
    def url(self):
        return f"http://127.0.0.1:{self.port}/hook"

    @property
    def accepted(self):
        """The sequences of all changes that came in what was answered with 200, in their order."""
        return [one for request in self.received if request.status == 200 for one in request.sequences]


@pytest.fixture
def receiver():
    one = Receiver().start()
    yield one
    one.stop()


@pytest.fixture
def another_receiver():
    one = Receiver().start()
    yield one
    one.stop()


@pytest.fixture
def dripping():
    """The port of a server that answers a byte every tenth of a second, for ever."""
    listener = socket.create_server(("127.0.0.1", 0))
    is_over = threading.Event()

    def serve():
        with contextlib.suppress(OSError):
            while True:
                connection, _ = listener.accept()
                threading.Thread(target=drip, args=(connection,), daemon=True).start()

    def drip(connection):
        with contextlib.suppress(OSError), connection:
            connection.sendall(b"HTTP/1.1 200 OK\r\nX-")
            while not is_over.wait(0.1):
                connection.sendall(b"a")

    threading.Thread(target=serve, daemon=True).start()
    yield listener.getsockname()[1]
    is_over.set()
    listener.close()
