"""Settings: every knob with its type, unit, default and one sentence; defaults, then TOML, environment, flags.

The only reader of the environment. Values are read once, by the command line, and passed down as arguments; nothing
happens at import. Limits carry the ids of the limit table (L1–L12).
"""

from __future__ import annotations

import ipaddress
import json
import math
import os
import re
import shlex
import tomllib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any, cast, get_type_hints
from urllib.parse import urlsplit

from gateway.outbound import is_allowed, is_literal
from gateway.webhooks import read_webhooks
from storage.attributes import by_tag
from storage.commitment import Check
from storage.dictionary import tag_path
from storage.errors import BadQuery
from storage.extended import read_extended
from storage.matching import MAXIMUM_MATCHES, Match
from storage.policy import read_policies

PREFIX = "GATEWAY_"
_TEST_PREFIX = "GATEWAY_TEST_"  # belongs to the test suite
_KUBERNETES = re.compile(r"GATEWAY_(SERVICE_(HOST|PORT(_\w+)?)|PORT(_\d+_(TCP|UDP|SCTP)(_(PROTO|PORT|ADDR))?)?)")
_AE_TITLE = re.compile(r"(?=.*[^ ])[\x20-\x5B\x5D-\x7E]{1,16}")
_FUNCTION = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*", re.ASCII)
_LEVELS = ("DEBUG", "INFO", "WARNING", "ERROR")


class SettingsError(Exception):
    """A setting that cannot be used; ``str()`` is one line for the operator."""


def _doc(doc: str, *, least: float = -math.inf, most: float = math.inf) -> dict[str, Any]:
    return {"doc": doc, "least": least, "most": most}


@dataclass(frozen=True, slots=True)
class ArchiveSettings:
    """Where images are kept."""

    data: Path = field(default=Path("data"), metadata=_doc("Folder of the archive: objects, index and spool."))
    index: str = field(
        default="",
        metadata=_doc(
            "PostgreSQL database of the index, such as postgresql://user@host/name; empty: SQLite in the folder. "
            "A password is better kept in PGPASSWORD or PGPASSFILE."
        ),
    )
    search_seconds: float = field(
        default=30.0, metadata=_doc("How long the index may take for one page of a search.", least=0.1, most=3600)
    )
    maximum_instance_bytes: int = field(
        default=4 << 30, metadata=_doc("Largest instance that is accepted, by any door (L6).", least=1)
    )
    delete_grace_days: float = field(
        default=7.0,
        metadata=_doc(
            "Days that what was deleted is kept, and can be brought back, until it is collected.", least=0, most=36_500
        ),
    )
    commitment_check: str = field(
        default="object-size",
        metadata=_doc(
            "What an instance is looked at for before it is committed to: object-size, or checksum, which reads it all."
        ),
    )
    commitment_references_maximum: int = field(
        default=250_000,
        metadata=_doc(
            "Most references of one request for storage commitment; forty times as many are kept.", least=1, most=10**7
        ),
    )
    commitment_kept_seconds: int = field(
        default=604_800,
        metadata=_doc(
            "How long the answer to a request for storage commitment is kept, and its UID is known.", least=1
        ),
    )
    policies: tuple[str, ...] = field(
        default=(),
        metadata=_doc("Rules for what peers send, each WHO … KEY=VALUE …; the first that fits holds; see Policies."),
    )
    on_receive: str = field(
        default="", metadata=_doc("Python function, MODULE:FUNCTION, that is asked about each instance; see Policies.")
    )
    on_receive_seconds: float = field(
        default=5.0, metadata=_doc("How long it may take; later the store fails.", least=0.01, most=600)
    )
    extended_tags: tuple[str, ...] = field(
        default=(),
        metadata=_doc("More attributes to search and to return, each NAME[/CREATOR][:VR][@LEVEL]; see Extended tags."),
    )


@dataclass(frozen=True, slots=True)
class IngestSettings:
    """What is remembered of what came in, and kept of what was refused."""

    quarantine_instances_maximum: int = field(
        default=10_000, metadata=_doc("Most refused instances that are kept for the operator; 0: none.", least=0)
    )
    quarantine_maximum_bytes: int = field(
        default=10 << 30,
        metadata=_doc("Most bytes of them; beyond either limit the oldest go of the address that holds most.", least=0),
    )
    quarantine_least_free_bytes: int = field(
        default=2 << 30, metadata=_doc("With less free space on the disk nothing refused is kept (L15).", least=0)
    )
    quarantine_least_free_percent: float = field(
        default=5.0, metadata=_doc("The same, as a part of the disk (L15).", least=0, most=100)
    )
    ledger_days: int = field(
        default=90, metadata=_doc("Days for which it is known what an association or request brought.", least=1)
    )
    ledger_rows_maximum: int = field(
        default=100_000, metadata=_doc("Most associations and requests of which it is known.", least=1)
    )


@dataclass(frozen=True, slots=True)
class HttpSettings:
    """DICOMweb, start page and metrics."""

    host: str = field(default="127.0.0.1", metadata=_doc("Address to listen on."))
    port: int = field(default=8080, metadata=_doc("TCP port; 0 picks a free one.", least=0, most=65535))
    workers: int = field(default=2, metadata=_doc("Processes that answer HTTP.", least=1, most=64))
    public_url: str = field(
        default="",
        metadata=_doc("Base of the URLs in answers, such as https://pacs.example.org; empty: as the client called us."),
    )
    trusted_proxies: tuple[str, ...] = field(
        default=(), metadata=_doc("Addresses or networks whose X-Forwarded-* headers are believed.")
    )
    cors_origins: tuple[str, ...] = field(
        default=(), metadata=_doc("Exact origins of web viewers that may call us from a browser; empty: none.")
    )
    insecure_no_auth: bool = field(
        default=False, metadata=_doc("Allow listening beyond loopback, for HTTP and DIMSE, without authentication.")
    )
    allow_delete: bool = field(
        default=False,
        metadata=_doc("Let whoever may read and store over HTTP also delete; the command line always can."),
    )
    deletes_per_minute: int = field(
        default=60, metadata=_doc("Deletions over HTTP of one address in a minute, over all processes.", least=1)
    )
    header_seconds: float = field(
        default=10.0,
        metadata=_doc("Time from connecting, or from the first byte, to a whole request header.", least=0.1),
    )
    maximum_header_bytes: int = field(default=64 << 10, metadata=_doc("Largest request header.", least=1024))
    body_idle_seconds: float = field(
        default=30.0, metadata=_doc("Longest pause inside a request body (L7).", least=0.1)
    )
    body_seconds: float = field(default=1800.0, metadata=_doc("Longest time for a whole request body (L7).", least=1))
    keep_alive_seconds: float = field(default=30.0, metadata=_doc("Idle time until a connection is closed.", least=0))
    drain_seconds: float = field(
        default=20.0, metadata=_doc("Time that running requests get to finish when the gateway stops.", least=0)
    )
    default_results: int = field(default=100, metadata=_doc("Results of a search without limit (L10).", least=1))
    maximum_results: int = field(default=1000, metadata=_doc("Most results of one search (L10).", least=1))
    maximum_offset: int = field(default=100_000, metadata=_doc("Largest offset of a search (L10).", least=0))
    stow_maximum_parts: int = field(
        default=10_000, metadata=_doc("Most parts, and instances, of one STOW request (L7).", least=1)
    )
    stow_maximum_part_headers: int = field(
        default=8, metadata=_doc("Most header lines of one part of a STOW request (L7).", least=1)
    )
    stow_maximum_part_header_bytes: int = field(
        default=4096, metadata=_doc("Longest header line of one part of a STOW request (L7).", least=64)
    )
    commitment_maximum_bytes: int = field(
        default=40 << 20,
        metadata=_doc("Longest request for storage commitment; two of that length are held at once.", least=1024),
    )
    stow_maximum_metadata_bytes: int = field(
        default=16 << 20, metadata=_doc("Metadata of one STOW request, in JSON or XML (H14).", least=1024)
    )
    stow_maximum_bulk_bytes: int = field(
        default=8 << 30,
        metadata=_doc("Bulk data parts of one STOW request, which wait on disk for its end (L7).", least=1024),
    )


@dataclass(frozen=True, slots=True)
class DimseSettings:
    """C-STORE, C-FIND, C-MOVE, C-GET, C-ECHO and storage commitment."""

    ae_title: str = field(default="GATEWAY", metadata=_doc("Our AE title, at most 16 characters."))
    host: str = field(default="127.0.0.1", metadata=_doc("Address to listen on."))
    port: int = field(default=11112, metadata=_doc("TCP port; 0 picks a free one.", least=0, most=65535))
    drain_seconds: float = field(
        default=20.0, metadata=_doc("Time that running associations get to finish when the gateway stops.", least=0)
    )
    connections_maximum: int = field(default=256, metadata=_doc("TCP connections held at once (L1).", least=1))
    connections_per_address_maximum: int = field(
        default=32, metadata=_doc("TCP connections held at once from one address (L1).", least=1)
    )
    pending_connections_maximum: int = field(
        default=128, metadata=_doc("Connections that have not yet asked for an association (L1).", least=1)
    )
    associations_maximum: int = field(default=64, metadata=_doc("Associations at once (L1).", least=1))
    associations_per_calling_ae_maximum: int = field(
        default=16, metadata=_doc("Associations at once of one calling AE title (L1).", least=1)
    )
    tls_handshake_seconds: float = field(
        default=10.0, metadata=_doc("From connecting to the end of the TLS handshake (L2).", least=0.1)
    )
    associate_seconds: float = field(
        default=10.0, metadata=_doc("From there to the last byte of the A-ASSOCIATE-RQ (L2).", least=0.1)
    )
    establishment_seconds: float = field(
        default=20.0, metadata=_doc("From connecting to the last byte of the A-ASSOCIATE-RQ, in all (L2).", least=0.1)
    )
    associate_pdu_maximum_bytes: int = field(
        default=128 << 10, metadata=_doc("Longest A-ASSOCIATE-RQ PDU (L3).", least=1024)
    )
    pdu_maximum_bytes: int = field(
        default=128 << 10, metadata=_doc("Longest P-DATA-TF PDU, announced and enforced (L4).", least=4096)
    )
    command_maximum_bytes: int = field(default=64 << 10, metadata=_doc("Longest Command Set.", least=1024))
    identifier_maximum_bytes: int = field(
        default=256 << 10, metadata=_doc("Longest Identifier of a query.", least=1024)
    )
    commitment_maximum_bytes: int = field(
        default=48 << 20, metadata=_doc("Longest Data Set of a request for storage commitment.", least=1024)
    )
    idle_seconds: float = field(
        default=60.0, metadata=_doc("Longest silence between two messages of an association (L5).", least=0.1)
    )
    minimum_rate_bytes_per_second: int = field(
        default=4096, metadata=_doc("Slowest pace at which a message that has begun may arrive (L5).", least=0)
    )
    minimum_rate_window_seconds: float = field(
        default=30.0, metadata=_doc("Time over which that pace is measured (L5).", least=0.1)
    )
    send_seconds: float = field(
        default=60.0, metadata=_doc("Time a peer may leave what is sent to it unread.", least=0.1)
    )
    association_life_seconds: float = field(
        default=43_200.0, metadata=_doc("Age at which an association is aborted (L5).", least=1)
    )
    query_keys_maximum: int = field(default=64, metadata=_doc("Attributes in the Identifier of a query.", least=1))
    query_answers_maximum: int = field(
        default=1_000_000, metadata=_doc("Matches returned for one query; more end it as out of resources.", least=1)
    )
    peers: tuple[str, ...] = field(
        default=(),
        metadata=_doc(
            "Peers that instances may be sent to by C-MOVE, and where reports of storage commitment go, each "
            "AET=HOST:PORT."
        ),
    )
    forward: tuple[str, ...] = field(
        default=(),
        metadata=_doc("Routes of new instances to peers, each AET, or AET KEY=VALUE … with keys as in a search."),
    )


@dataclass(frozen=True, slots=True)
class PixelSettings:
    """Decoding and rendering, in processes of their own."""

    workers: int = field(default=1, metadata=_doc("Decoding processes of each HTTP worker.", least=1, most=64))
    seconds: float = field(
        default=15.0, metadata=_doc("Time for one picture, up to a third of it waiting (L12).", least=0.1)
    )
    memory_bytes: int = field(default=1 << 30, metadata=_doc("Memory of one decoding process (L12).", least=128 << 20))
    thumbnail_seconds: int = field(
        default=30,
        metadata=_doc("Seconds of quiet after which a series gets its thumbnail ahead; 0: never.", least=0),
    )


@dataclass(frozen=True, slots=True)
class ChangeSettings:
    """The change feed, and who is told of changes."""

    stable_seconds: int = field(
        default=60,
        metadata=_doc("Seconds without a change after which a series or study is stable; 0: never.", least=0),
    )
    listeners_maximum: int = field(
        default=100, metadata=_doc("Clients that wait for changes at once, in each HTTP worker.", least=1)
    )
    heartbeat_seconds: float = field(
        default=15.0, metadata=_doc("Longest silence towards a client that follows changes.", least=0.1, most=3600)
    )
    wait_maximum_seconds: float = field(
        default=60.0, metadata=_doc("Longest time that a request may wait for changes.", least=0, most=3600)
    )
    webhooks: tuple[str, ...] = field(
        default=(),
        metadata=_doc("Who is told of changes by HTTP, each URL [name=NAME] [events=KIND+KIND…] [secret_file=PATH]."),
    )
    webhook_networks: tuple[str, ...] = field(
        default=(), metadata=_doc("Addresses or networks that are not public and that webhooks may be at.")
    )
    webhook_seconds: float = field(default=10.0, metadata=_doc("Time for a webhook to answer.", least=0.1, most=600))
    webhook_refusals_maximum: int = field(
        default=12, metadata=_doc("Refusals of a webhook (3xx, 4xx) after which a message is laid aside.", least=1)
    )
    webhook_patience_seconds: int = field(
        default=172_800, metadata=_doc("Age at which what cannot be delivered to a webhook is laid aside.", least=0)
    )


@dataclass(frozen=True, slots=True)
class LogSettings:
    """Log lines on standard error."""

    level: str = field(default="INFO", metadata=_doc("Least level that is written: DEBUG, INFO, WARNING or ERROR."))
    strict: bool = field(
        default=False, metadata=_doc("Fail on a log line that breaks the rules, rather than drop its field; for tests.")
    )


@dataclass(frozen=True, slots=True)
class Settings:
    """All sections; one for each room."""

    archive: ArchiveSettings = field(default_factory=ArchiveSettings)
    ingest: IngestSettings = field(default_factory=IngestSettings)
    http: HttpSettings = field(default_factory=HttpSettings)
    dimse: DimseSettings = field(default_factory=DimseSettings)
    pixels: PixelSettings = field(default_factory=PixelSettings)
    changes: ChangeSettings = field(default_factory=ChangeSettings)
    logs: LogSettings = field(default_factory=LogSettings)


Value = int | float | bool | str | Path | tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Knob:
    """One setting as the table sees it. kind: its Python type."""

    section: str
    name: str
    kind: Any
    default: Value
    doc: str
    least: float
    most: float

    @property
    def path(self) -> str:
        """``http.port``: the name in TOML and in messages."""
        return f"{self.section}.{self.name}"

    @property
    def variable(self) -> str:
        """``GATEWAY_HTTP__PORT``: the name in the environment."""
        return f"{PREFIX}{self.section}__{self.name}".upper()


def knobs() -> Iterator[Knob]:
    """Every setting, in the order of the tables."""
    for section in fields(Settings):
        kind = get_type_hints(Settings)[section.name]
        hints = get_type_hints(kind)
        for row in fields(kind):
            meta = row.metadata
            yield Knob(
                section.name,
                row.name,
                hints[row.name],
                cast(Value, row.default),
                meta["doc"],
                meta["least"],
                meta["most"],
            )


@dataclass(frozen=True, slots=True)
class Loaded:
    """Settings and, by path such as ``http.port``, where each value came from."""

    settings: Settings
    origins: Mapping[str, str]


# ---------------------------------------------------------------------------------------------------- typed parsing


def _int(raw: object) -> int:
    if isinstance(raw, str) and re.fullmatch(r"[+-]?\d+", raw.strip(), re.ASCII):
        return int(raw)
    if isinstance(raw, int) and not isinstance(raw, bool):
        return raw
    raise ValueError("is not a whole number")


def _float(raw: object) -> float:
    try:
        value = float(raw) if isinstance(raw, int | float | str) and not isinstance(raw, bool) else math.nan
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise ValueError("is not a number")
    return value


_BOOLEANS = {"true": True, "yes": True, "on": True, "1": True, "false": False, "no": False, "off": False, "0": False}


def _bool(raw: object) -> bool:
    value = raw if isinstance(raw, bool) else _BOOLEANS.get(raw.strip().lower()) if isinstance(raw, str) else None
    if value is None:
        raise ValueError("is neither true nor false")
    return value


def _str(raw: object) -> str:
    if not isinstance(raw, str):
        raise ValueError("is not text")  # noqa: TRY004 - every parser says so with ValueError
    return raw.strip()


def _path(raw: object) -> Path:
    text = str(raw) if isinstance(raw, Path) else _str(raw)
    if not text:
        raise ValueError("is not a path")
    return Path(text).expanduser()


def _list(raw: object) -> tuple[str, ...]:
    """A TOML list of strings, or text with commas between them."""
    items = raw.split(",") if isinstance(raw, str) else raw
    if not isinstance(items, list | tuple):
        raise ValueError("is not a list")  # noqa: TRY004 - as above
    return tuple(text for text in (_str(item) for item in items) if text)


_PARSERS: Mapping[Any, Callable[[object], Value]] = {
    int: _int,
    float: _float,
    bool: _bool,
    str: _str,
    Path: _path,
    tuple[str, ...]: _list,
}


def _is_origin(text: str) -> bool:
    parts = urlsplit(text)
    return parts.scheme in {"http", "https"} and bool(parts.netloc) and text == f"{parts.scheme}://{parts.netloc}"


def _check_url(value: Any) -> None:
    parts = urlsplit(value)
    if value and not (parts.scheme in {"http", "https"} and parts.hostname and "@" not in parts.netloc):
        raise ValueError("is not an http or https URL without user name")
    if parts.query or parts.fragment:
        raise ValueError("has a query or a fragment")


def _check_origins(value: Any) -> None:
    if not all(_is_origin(origin) for origin in value):
        raise ValueError("holds something else than origins such as https://viewer.example.org")


def _check_networks(value: Any) -> None:
    try:
        for network in value:
            ipaddress.ip_network(network, strict=False)
    except ValueError:
        raise ValueError("holds something else than addresses and networks") from None


def _check_ae_title(value: Any) -> None:
    if not _AE_TITLE.fullmatch(value):
        raise ValueError("is not an AE title: 1 to 16 printable ASCII characters without backslash")


def read_peers(entries: Sequence[str]) -> Mapping[str, tuple[str, int]]:
    """Hosts and ports by AE title, of entries as ``AET=HOST:PORT``; an IPv6 address in brackets. Raises ValueError."""
    peers: dict[str, tuple[str, int]] = {}
    for entry in entries:
        title, _, place = entry.rpartition("=")
        try:
            parts = urlsplit(f"//{place}")
            host, port = parts.hostname, parts.port
        except ValueError:
            host, port = None, None
        if not (
            _AE_TITLE.fullmatch(title) and host and port and f"//{place}" == f"//{parts.netloc}" and "@" not in place
        ):
            raise ValueError("holds something else than AET=HOST:PORT")
        if title in peers:
            raise ValueError(f"names {title} twice")
        peers[title] = (host, port)
    return peers


def read_routes(entries: Sequence[str]) -> Mapping[str, tuple[str, tuple[Match, ...]]]:
    """AE titles and keys by entry, of entries as ``AET`` or ``AET KEY=VALUE …`` with keys and values as a search has
    them, blanks in quotes. Raises ValueError.
    """
    return {entry: _read_route(entry) for entry in entries}


def _read_route(entry: str) -> tuple[str, tuple[Match, ...]]:
    title, *conditions = shlex.split(entry) or [""]
    if not _AE_TITLE.fullmatch(title):
        raise ValueError("holds something else than AET KEY=VALUE …")
    matches = []
    for condition in conditions:
        name, _, value = condition.partition("=")
        attribute = by_tag(tag_path(name))
        if attribute is None or not value:
            raise ValueError(f"has a key that cannot be searched: {condition!r}")
        try:
            matches.append(Match.of(attribute, value))
        except BadQuery as error:
            raise ValueError(f"has a key that cannot be matched, {condition!r}: {error.reason}") from None
    if len(matches) >= MAXIMUM_MATCHES:
        raise ValueError("has too many keys")
    return title, tuple(matches)


def _check_routes(value: Any) -> None:
    read_routes(value)


def _check_webhooks(value: Any) -> None:
    read_webhooks(value)


def _check_peers(value: Any) -> None:
    read_peers(value)


def _check_level(value: Any) -> None:
    if value not in _LEVELS:
        raise ValueError("is not one of " + ", ".join(_LEVELS))


def _check_commitment(value: Any) -> None:
    names = [one.value for one in Check]
    if value not in names:
        raise ValueError("is not one of " + ", ".join(names))


def _check_extended_tags(value: Any) -> None:
    read_extended(value)


def _check_policies(value: Any) -> None:
    read_policies(value)


def _check_on_receive(value: Any) -> None:
    if value and not _FUNCTION.fullmatch(value):
        raise ValueError("is not MODULE:FUNCTION")


# What a type cannot say. AE titles: PS3.5 §6.2
_CHECKS: Mapping[str, Callable[[Any], None]] = {
    "archive.commitment_check": _check_commitment,
    "archive.extended_tags": _check_extended_tags,
    "archive.on_receive": _check_on_receive,
    "archive.policies": _check_policies,
    "http.public_url": _check_url,
    "http.cors_origins": _check_origins,
    "http.trusted_proxies": _check_networks,
    "dimse.ae_title": _check_ae_title,
    "dimse.peers": _check_peers,
    "dimse.forward": _check_routes,
    "changes.webhooks": _check_webhooks,
    "changes.webhook_networks": _check_networks,
    "logs.level": _check_level,
}


def _parsed(knob: Knob, raw: object, said_by: str) -> Value:
    try:
        value = _PARSERS[knob.kind](raw)
        if knob.path in _CHECKS:
            _CHECKS[knob.path](value)
        if isinstance(value, int | float) and not knob.least <= value <= knob.most:
            raise ValueError(f"is not {_bounds(knob)}")
    except ValueError as error:
        raise SettingsError(f"{knob.path} from {said_by}: {_without_secrets(str(raw))!r:.80} {error}") from None
    return value


def _bounds(knob: Knob) -> str:
    if knob.most == math.inf:
        return f"at least {knob.least:.10g}"
    return f"between {knob.least:.10g} and {knob.most:.10g}"


# ----------------------------------------------------------------------------------------------------------- loading


def load(
    config: Path | None = None,
    flags: Mapping[str, object] | None = None,
    environment: Mapping[str, str] | None = None,
) -> Loaded:
    """Effective settings: defaults, then the TOML file, then ``GATEWAY_SECTION__FIELD``, then flags by path.

    environment: the process's own when None. Raises SettingsError naming the first unknown name or bad value.
    """
    variables = os.environ if environment is None else environment
    layers = [
        *([(f"file {config}", _from_toml(config))] if config else []),
        ("environment", _from_environment(variables)),
        ("command line", dict(flags or {})),
    ]
    table = {knob.path: knob for knob in knobs()}
    values: dict[str, Value] = {}
    origins = dict.fromkeys(table, "default")
    for origin, layer in layers:
        for path, raw in layer.items():
            values[path] = _parsed(table[path], raw, origin)
            origins[path] = origin
    settings = _built(values)
    if settings.http.default_results > settings.http.maximum_results:
        raise SettingsError("http.default_results is greater than http.maximum_results")
    unknown = {title for title, _ in read_routes(settings.dimse.forward).values()} - read_peers(
        settings.dimse.peers
    ).keys()
    if unknown:
        raise SettingsError(f"dimse.forward names {min(unknown)}, which is none of dimse.peers")
    _refuse_private_webhooks(settings.changes)
    return Loaded(settings, origins)


def _refuse_private_webhooks(changes: ChangeSettings) -> None:
    """Names are looked at whenever they are resolved; an address is known now."""
    networks = [ipaddress.ip_network(one, strict=False) for one in changes.webhook_networks]
    for webhook in read_webhooks(changes.webhooks):
        host = webhook.target.host
        if is_literal(host) and not is_allowed(host, networks):
            raise SettingsError(
                f"changes.webhooks names {host}, which is not public: if it is meant, name it in"
                " changes.webhook_networks"
            )


def _built(values: Mapping[str, Value]) -> Settings:
    settings = Settings()
    for path, value in values.items():
        section, _, name = path.partition(".")
        settings = replace(settings, **{section: replace(getattr(settings, section), **{name: value})})
    return settings


def _from_toml(config: Path) -> dict[str, object]:
    try:
        document = tomllib.loads(config.read_text(encoding="utf-8"))
    except OSError as error:
        raise SettingsError(f"{config} cannot be read: {error.strerror}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise SettingsError(f"{config} is not TOML: {error}") from None
    return _flat(document, str(config))


def _flat(document: Mapping[str, object], said_by: str) -> dict[str, object]:
    known = {knob.path for knob in knobs()}
    found: dict[str, object] = {}
    for section, table in document.items():
        rows = table if isinstance(table, dict) else {"": table}
        for name, raw in rows.items():
            path = f"{section}.{name}" if name else section
            if path not in known:
                raise SettingsError(f"{said_by}: there is no setting {path!r}")
            found[path] = raw
    return found


def _from_environment(variables: Mapping[str, str]) -> dict[str, object]:
    known = {knob.variable: knob.path for knob in knobs()}
    found: dict[str, object] = {}
    for name, raw in variables.items():
        if not name.startswith(PREFIX) or name.startswith(_TEST_PREFIX) or _KUBERNETES.fullmatch(name):
            continue  # Kubernetes sets GATEWAY_PORT and others where a service is called "gateway"
        if name not in known:
            raise SettingsError(f"environment: there is no setting {name!r}")
        found[known[name]] = raw
    return found


# ------------------------------------------------------------------------------------------------------------ safety


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach a listener on ``host``."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def refuse_unsafe(settings: Settings) -> None:
    """Raises SettingsError when a door would be open to the network without authentication (H33)."""
    if settings.http.insecure_no_auth:
        return
    for path, host in (("http.host", settings.http.host), ("dimse.host", settings.dimse.host)):
        if not is_loopback(host):
            raise SettingsError(
                f"{path} is {host!r}: whoever reaches this address could read and store images without"
                " authentication. Listen on 127.0.0.1, or say --insecure-no-auth (http.insecure_no_auth)"
                " where a firewall or proxy stands in front."
            )


# ----------------------------------------------------------------------------------------------------------- showing


def plain(value: Value) -> int | float | bool | str | list[str]:
    """A value as JSON and TOML write it."""
    return list(value) if isinstance(value, tuple) else str(value) if isinstance(value, Path) else value


_PASSWORD = re.compile(
    r"(://[^:/@]*:)[^@/]*(?=@)|(\bpassword=)[^&\s]*|(\bsecret=).*?(?=\s(?:name|events|secret|secret_file)=|$)",
    re.DOTALL,
)


def _without_secrets(text: str) -> str:
    return _PASSWORD.sub(lambda found: "".join(filter(None, found.groups())) + "***", text)


def shown(value: Value) -> int | float | bool | str | list[str]:
    """A value for people: without the password that a URL may have in it, and the secrets of webhooks."""
    known = plain(value)
    if isinstance(known, list):
        return [_without_secrets(one) for one in known]
    return _without_secrets(known) if isinstance(known, str) else known


def value_of(settings: Settings, knob: Knob) -> Value:
    """The value of one setting."""
    value: Value = getattr(getattr(settings, knob.section), knob.name)
    return value


def to_json(settings: Settings) -> str:
    """Settings as one line, for a child process; ``from_json`` reads it back."""
    return json.dumps({knob.path: plain(value_of(settings, knob)) for knob in knobs()})


def from_json(text: str) -> Settings:
    """The settings that ``to_json`` wrote."""
    table = {knob.path: knob for knob in knobs()}
    return _built({path: _parsed(table[path], raw, "parent process") for path, raw in json.loads(text).items()})


def markdown() -> str:
    """The settings table of the README."""
    lines = ["| setting | environment | default | what it is |", "|---|---|---|---|"]
    lines += [f"| `{knob.path}` | `{knob.variable}` | {_default(knob)} | {knob.doc} |" for knob in knobs()]
    return "\n".join(lines) + "\n"


def _default(knob: Knob) -> str:
    value = plain(knob.default)
    return f"`{json.dumps(value)}`" if value not in ("", []) else "empty"


def bearer_token() -> str:
    """The token with which ``query`` goes to a server; empty for none. Its variable is no setting of the gateway."""
    return os.environ.get("DICOMWEB_TOKEN", "").strip()


def child_environment(extra: Mapping[str, str]) -> dict[str, str]:
    """The environment of a child process: ours without settings, which travel as JSON, and with ``extra``."""
    return {name: value for name, value in os.environ.items() if not name.startswith(PREFIX)} | dict(extra)
