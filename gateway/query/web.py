"""One HTTP request to a server that is not trusted: a deadline for it, a cap in bytes, no redirection followed."""

from __future__ import annotations

import contextlib
import http.client
import socket
import ssl
from collections.abc import Mapping
from dataclasses import dataclass
from http import HTTPStatus

from gateway import __version__
from gateway.outbound import deadline
from gateway.query.failures import Failed, Unreachable
from gateway.query.server import WebServer
from gateway.query.text import quoted

_ERROR_MAXIMUM_BYTES = 64 << 10
_CHUNK_BYTES = 64 << 10


@dataclass(frozen=True, slots=True)
class Fetched:
    """An answer, whatever it says. headers: by name in lower case. body: of an error only its beginning."""

    status: int
    headers: Mapping[str, str]
    body: bytes


def fetch(
    server: WebServer,
    target: str,
    headers: Mapping[str, str],
    seconds: float,
    maximum_bytes: int,
    *,
    method: str = "GET",
) -> Fetched:
    """Ask for ``target``, a path with its query. Raises Unreachable, and Failed for an answer that is too long."""
    try:
        return _fetch(server, method, target, headers, seconds, maximum_bytes)
    except ssl.SSLCertVerificationError as error:
        raise Unreachable(f"The certificate of {server.name} is not trusted: {quoted(error.verify_message)}.") from None
    except TimeoutError:
        raise Unreachable(f"{server.name} has not answered within {seconds:g} s.") from None
    except http.client.RemoteDisconnected:
        raise Unreachable(f"{server.name} ends the connection without an answer.") from None
    except (OSError, UnicodeError) as error:
        reason = quoted(getattr(error, "strerror", None) or type(error).__name__)
        raise Unreachable(f"{server.name} cannot be reached: {reason}.") from None
    except http.client.HTTPException:
        raise Failed(f"{server.name} does not speak HTTP as it should.") from None


def _fetch(
    server: WebServer, method: str, target: str, headers: Mapping[str, str], seconds: float, maximum_bytes: int
) -> Fetched:
    with socket.create_connection((server.host, server.port), seconds) as plain:
        context = ssl.create_default_context() if server.is_secure else None
        connected = (
            context.wrap_socket(plain, server_hostname=server.host, do_handshake_on_connect=False) if context else plain
        )
        kind = http.client.HTTPSConnection if context else http.client.HTTPConnection
        with contextlib.closing(connected), deadline(connected, seconds) as is_over:
            try:
                if isinstance(connected, ssl.SSLSocket):
                    connected.do_handshake()
                connection = kind(server.host, server.port)
                connection.sock = connected
                connection.request(method, target, headers={**_usual_headers(), **headers})
                response = connection.getresponse()
                is_found = response.status < HTTPStatus.MULTIPLE_CHOICES
                body = _body(server, response, maximum_bytes if is_found else _ERROR_MAXIMUM_BYTES)
            except (OSError, http.client.HTTPException):
                if is_over.is_set():
                    raise TimeoutError from None
                raise
            if is_over.is_set():
                raise TimeoutError
    return Fetched(response.status, {name.lower(): value for name, value in response.getheaders()}, body)


def _usual_headers() -> dict[str, str]:
    return {
        "Accept-Encoding": "identity",
        "Connection": "close",
        "User-Agent": f"dicomweb-gateway/{__version__}",
    }


def _body(server: WebServer, response: http.client.HTTPResponse, maximum_bytes: int) -> bytes:
    """The whole body; of an error what is within the cap. Raises Failed for an answer beyond it."""
    pieces: list[bytes] = []
    left = maximum_bytes
    while left > 0 and (piece := response.read(min(left, _CHUNK_BYTES))):
        pieces.append(piece)
        left -= len(piece)
    if left == 0 and response.status < HTTPStatus.MULTIPLE_CHOICES:
        raise Failed(f"The answer of {server.name} is longer than {maximum_bytes >> 20} MiB.")
    return b"".join(pieces)
