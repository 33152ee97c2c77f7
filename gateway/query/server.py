"""Which server is asked: an http or https URL for QIDO-RS, an AE title at an address for C-FIND."""

from __future__ import annotations

import re
from dataclasses import dataclass
from urllib.parse import quote, unquote, urlsplit

from gateway.query.failures import BadUsage

_WITH_SCHEME = re.compile(r"(https?|dimse)://", re.IGNORECASE)
_AE_AT_ADDRESS = re.compile(r"[^=@/]{1,16}@[^=@/]+:\d+")
_AE_TITLE = re.compile(r"(?=.*[^ ])[\x20-\x5B\x5D-\x7E]{1,16}")
_HOST = re.compile(r"[0-9A-Za-z._:%\-]+")
_DIMSE_PORT = 104
_HTTP_PORTS = {"http": 80, "https": 443}


@dataclass(frozen=True, slots=True)
class WebServer:
    """A DICOMweb server. path: what stands before ``/studies``, percent-encoded, without a slash at its end."""

    host: str
    port: int
    path: str
    is_secure: bool

    @property
    def name(self) -> str:
        """How messages name it."""
        return f"{'https' if self.is_secure else 'http'}://{_bracketed(self.host)}:{self.port}{self.path}"


@dataclass(frozen=True, slots=True)
class DimseServer:
    """A DICOM application entity."""

    host: str
    port: int
    ae_title: str

    @property
    def name(self) -> str:
        """How messages name it, and how the ready line of a gateway writes it."""
        return f"{self.ae_title}@{_bracketed(self.host)}:{self.port}"


Server = WebServer | DimseServer


def _bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host else host


def is_server(argument: str) -> bool:
    """Whether an argument of the command line names a server, rather than a key."""
    return bool(_WITH_SCHEME.match(argument) or _AE_AT_ADDRESS.fullmatch(argument))


def read_server(argument: str) -> Server:
    """The server that ``http(s)://host/base``, ``dimse://AE@host:port`` or ``AE@host:port`` names. Raises BadUsage."""
    url = argument if _WITH_SCHEME.match(argument) else f"dimse://{argument}"
    try:
        parts = urlsplit(url)
        host, port = parts.hostname or "", parts.port
    except ValueError:
        raise BadUsage("The server is not a URL that can be read.") from None
    if not _HOST.fullmatch(host):
        raise BadUsage("The server has no host name, or one with characters that host names do not have.")
    if parts.query or parts.fragment:
        raise BadUsage("The URL of a server ends before '?' and '#'; keys are arguments of their own: KEY=VALUE.")
    if parts.scheme == "dimse":
        if parts.path not in ("", "/"):
            raise BadUsage("A DIMSE server is AE@host:port, without a path.")
        return DimseServer(host, port or _DIMSE_PORT, read_ae_title(unquote(parts.username or "")))
    if parts.username is not None:
        raise BadUsage("A URL with a user name is not taken: give credentials by --header or DICOMWEB_TOKEN.")
    path = quote(parts.path.rstrip("/"), safe="/%:@!$&'()*+,;=~")
    return WebServer(host, port or _HTTP_PORTS[parts.scheme], path, is_secure=parts.scheme == "https")


def read_ae_title(text: str) -> str:
    """An AE title. Raises BadUsage. PS3.5 §6.2"""
    if not _AE_TITLE.fullmatch(text):
        raise BadUsage("A DIMSE server and its caller have AE titles of 1 to 16 ASCII characters: AE@host:port.")
    return text
