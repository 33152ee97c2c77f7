"""A small HTTP server that says whatever a test wants a DICOMweb server to say."""

from __future__ import annotations

import contextlib
import json
import socket
import threading
from urllib.parse import parse_qsl, urlsplit

from gateway.query.server import read_server

JSON_HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: application/dicom+json\r\n"


def study(number):
    return {"0020000D": {"vr": "UI", "Value": [f"1.2.{number}"]}}


def reply(body, head=JSON_HEAD):
    body = body if isinstance(body, bytes) else json.dumps(body).encode()
    return head + b"Content-Length: %d\r\n\r\n" % len(body) + body


class Stub:
    """An HTTP server of the test: ``answer(target, headers)`` gives bytes, or an iterator of them, for a request."""

    def __init__(self, answer):
        self.answer = answer
        self.requests = []
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self.server = read_server(f"http://127.0.0.1:{self.port}/rs")
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self):
        with contextlib.suppress(OSError):
            while True:
                connected, _ = self._listener.accept()
                threading.Thread(target=self._attend, args=(connected,), daemon=True).start()

    def _attend(self, connected):
        with connected, contextlib.suppress(OSError):
            head = b""
            while b"\r\n\r\n" not in head:
                piece = connected.recv(65536)
                if not piece:
                    return
                head += piece
            line, *rest = head.decode("latin-1").split("\r\n")
            target = line.split()[1]
            headers = dict(one.split(": ", 1) for one in rest if one)
            self.requests.append((target, headers))
            answer = self.answer(target, headers)
            for piece in [answer] if isinstance(answer, bytes) else answer:
                connected.sendall(piece)

    def parameters(self):
        return [dict(parse_qsl(urlsplit(target).query)) for target, _ in self.requests]

    def close(self):
        self._listener.close()


def paged(total, *, most=10_000):
    """A server with that many studies, which gives at most ``most`` at once."""

    def answer(target, _):
        asked = dict(parse_qsl(urlsplit(target).query))
        start = int(asked.get("offset", 0))
        return reply([study(at) for at in range(start, min(total, start + min(most, int(asked["limit"]))))])

    return answer
