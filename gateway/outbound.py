"""Requests that the gateway makes by itself: to configured origins only, at addresses that are allowed (H28).

A name is resolved once, and what was checked is what is connected to, so that nobody can point it elsewhere in between.
There are no redirections, no proxies, a deadline for the whole, and a cap for what is read of the answer.
"""

from __future__ import annotations

import contextlib
import http.client
import ipaddress
import socket
import ssl
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from urllib.parse import urlsplit

from gateway import __version__

_ANSWER_MAXIMUM_BYTES = 64 << 10
_REST_SECONDS = 1.0
_RETRY_MAXIMUM_SECONDS = 3600
_NAT64 = (ipaddress.IPv6Network("64:ff9b::/96"), ipaddress.IPv6Network("64:ff9b:1::/48"))

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Network = ipaddress.IPv4Network | ipaddress.IPv6Network


class UnreachableError(Exception):
    """No answer was had. reason: a phrase of ours, which names neither address nor path."""

    def __init__(self, reason: str) -> None:
        self.reason = reason
        super().__init__(reason)


@dataclass(frozen=True, slots=True)
class Target:
    """Where a request goes. path: with its query."""

    host: str
    port: int
    path: str
    is_secure: bool

    @property
    def authority(self) -> str:
        """Host and port as a URL has them; without the port where it is that of the scheme."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == (443 if self.is_secure else 80) else f"{host}:{self.port}"


@dataclass(frozen=True, slots=True)
class Answered:
    """What was said of a request. retry_seconds: how long to wait, by Retry-After, an hour at most; 0 for none."""

    status: int
    retry_seconds: int = 0


def read_target(url: str) -> Target:
    """The target of an http or https URL. Raises ValueError."""
    try:
        parts = urlsplit(url)
        host, port = parts.hostname or "", parts.port
    except ValueError:
        raise ValueError("holds something that is no URL") from None
    if parts.scheme not in ("http", "https") or not host or "@" in parts.netloc or parts.fragment or not url.isascii():
        raise ValueError("holds something else than http and https URLs in ASCII, without user name and fragment")
    if any(character <= " " or character == "\x7f" for character in url):
        raise ValueError("holds a URL with blanks or control characters in it")
    is_secure = parts.scheme == "https"
    path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    return Target(host, port or (443 if is_secure else 80), path, is_secure)


def is_allowed(text: str, networks: Sequence[Network]) -> bool:
    """Whether an address may be connected to: a public one, or one of the networks. What stands for another address,
    mapped into IPv6 or behind a translator, is that one, too.
    """
    address = ipaddress.ip_address(text.partition("%")[0])
    return all(_is_public(one) or any(one in network for network in networks) for one in _meant(address))


def _is_public(address: Address) -> bool:
    is_local = isinstance(address, ipaddress.IPv6Address) and address.is_site_local
    return address.is_global and not (address.is_multicast or address.is_reserved or is_local)


def _meant(address: Address) -> Iterator[Address]:
    """The addresses that one leads to: itself, unless another one is only written in it."""
    if isinstance(address, ipaddress.IPv4Address):
        yield address
    elif address.ipv4_mapped is not None:
        yield address.ipv4_mapped
    elif any(address in network for network in _NAT64):
        yield ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
    elif address.sixtofour is not None:
        yield address.sixtofour
    elif address.teredo is not None:
        yield from address.teredo
    else:
        yield address


def is_literal(host: str) -> bool:
    """Whether a host is an address rather than a name."""
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


@contextlib.contextmanager
def deadline(connected: socket.socket, seconds: float) -> Iterator[threading.Event]:
    """Break the connection when time is up: a server that sends a byte now and then never meets a socket's timeout.

    What it yields is set by then.
    """
    is_over = threading.Event()

    def interrupt() -> None:
        is_over.set()
        with contextlib.suppress(OSError):
            socket.socket.shutdown(connected, socket.SHUT_RDWR)

    timer = threading.Timer(seconds, interrupt)
    timer.daemon = True
    timer.start()
    try:
        yield is_over
    finally:
        timer.cancel()


def post(
    target: Target, body: bytes, headers: Mapping[str, str], *, networks: Sequence[Network], seconds: float
) -> Answered:
    """Send a body and hear what is said of it. networks: those that are allowed beside what is public.

    seconds: for the whole of it, but for finding the addresses of a name. Raises UnreachableError.
    """
    try:
        return _post(target, body, headers, networks, seconds)
    except ssl.SSLCertVerificationError:
        raise UnreachableError("its certificate is not trusted") from None
    except TimeoutError:
        raise UnreachableError("no answer in time") from None
    except http.client.RemoteDisconnected:
        raise UnreachableError("the connection ended without an answer") from None
    except socket.gaierror:
        raise UnreachableError("its name is not known") from None
    except ConnectionRefusedError:
        raise UnreachableError("nobody listens there") from None
    except (OSError, UnicodeError):
        raise UnreachableError("the connection failed") from None
    except http.client.HTTPException:
        raise UnreachableError("the answer is not HTTP") from None


def _post(
    target: Target, body: bytes, headers: Mapping[str, str], networks: Sequence[Network], seconds: float
) -> Answered:
    places = _addresses(target, networks)
    ends = time.monotonic() + seconds
    plain = _connected(places, ends)
    with contextlib.closing(plain):
        context = ssl.create_default_context() if target.is_secure else None
        connected = (
            context.wrap_socket(plain, server_hostname=target.host, do_handshake_on_connect=False) if context else plain
        )
        with contextlib.closing(connected), deadline(connected, ends - time.monotonic()) as is_over:
            try:
                return _exchanged(connected, target, body, headers, is_over)
            except (OSError, http.client.HTTPException):
                if is_over.is_set():
                    raise TimeoutError from None
                raise


def _addresses(target: Target, networks: Sequence[Network]) -> list[tuple[int, tuple[str, int]]]:
    """Families and addresses of a host, those that are allowed. Raises UnreachableError when none is."""
    found = socket.getaddrinfo(target.host, target.port, type=socket.SOCK_STREAM)
    allowed = [(family, address) for family, _, _, _, address in found if is_allowed(str(address[0]), networks)]
    if not allowed:
        raise UnreachableError("its address is not public and in none of the networks of changes.webhook_networks")
    return allowed  # type: ignore[return-value] # of an address of the internet family, beginning with host and port


def _connected(places: Sequence[tuple[int, tuple[str, int]]], ends: float) -> socket.socket:
    """A connection to the first of the addresses that takes one."""
    failure: OSError = TimeoutError()
    for family, address in places:
        left = ends - time.monotonic()
        if left <= 0:
            raise TimeoutError
        one = socket.socket(family, socket.SOCK_STREAM)
        one.settimeout(left)
        try:
            one.connect(address)
        except OSError as error:
            one.close()
            failure = error
        else:
            return one
    raise failure


def _exchanged(
    connected: socket.socket, target: Target, body: bytes, headers: Mapping[str, str], is_over: threading.Event
) -> Answered:
    if isinstance(connected, ssl.SSLSocket):
        connected.do_handshake()
    connection = http.client.HTTPConnection(target.host, target.port)
    connection.sock = connected
    usual = {"Host": target.authority, "User-Agent": f"dicomweb-gateway/{__version__}", "Connection": "close"}
    connection.request("POST", target.path, body, {**usual, **headers})
    response = connection.getresponse()
    if is_over.is_set():  # what was cut off looks like the end of a header
        raise TimeoutError
    asked = response.getheader("Retry-After", "")
    connected.settimeout(_REST_SECONDS)
    with contextlib.suppress(OSError, http.client.HTTPException):  # it was said already: only who says it is let finish
        response.read(_ANSWER_MAXIMUM_BYTES)
    seconds = int(asked[:9]) if asked.isascii() and asked.isdigit() else 0
    return Answered(response.status, min(seconds, _RETRY_MAXIMUM_SECONDS))
