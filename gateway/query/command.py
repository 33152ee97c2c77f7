"""One query from the words of the command line to standard output: which protocol, how much, in what form."""

from __future__ import annotations

import re
import shutil
import sys
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import closing
from io import TextIOWrapper
from itertools import islice
from typing import TextIO

import click

from gateway.query import output, qido
from gateway.query.failures import BadUsage
from gateway.query.search import LEVELS, Search, read_includes, read_keys
from gateway.query.server import Server, WebServer, is_server, read_ae_title, read_server
from gateway.settings import Settings, is_loopback
from storage.model import JsonElement

LIMIT_ON_A_TERMINAL = 100
_HEADER = re.compile(r"([!#$%&'*+\-.^_`|~0-9A-Za-z]+):[ \t]*([\x20-\x7E\xA0-\xFF]*)")
_TOKEN = re.compile(r"[0-9A-Za-z\-._~+/]+=*")
_ANY_ADDRESS = ("", "0.0.0.0", "::")  # noqa: S104 - to find a gateway that listens there, not to listen

Answer = dict[str, JsonElement]


def run(
    arguments: Sequence[str],
    our_settings: Callable[[], Settings],
    token: str,
    *,
    level: str,
    include: Sequence[str],
    limit: int | None,
    offset: int,
    fuzzy: bool,
    form: str | None,
    header: Sequence[str],
    calling_ae: str,
    timeout: float,
) -> None:
    """Search and print. our_settings: asked when no server is named. Raises QueryError, and KeyboardInterrupt.

    A message on standard error says when there is more than the limit.
    """
    named = [argument for argument in arguments if is_server(argument)]
    if len(named) > 1:
        raise BadUsage("More than one server is named.")
    server = read_server(named[0]) if named else _our_server(our_settings())
    keys, returned = read_keys(argument for argument in arguments if not is_server(argument))
    fields, includes_all = read_includes(include)
    if includes_all and form != "json":
        raise BadUsage("All attributes make no table: use --json with --include all.")
    is_terminal = form is None and sys.stdout.isatty()
    if limit is None:
        limit = LIMIT_ON_A_TERMINAL if is_terminal else 0
    search = Search(LEVELS[level], keys, (*returned, *fields), includes_all, limit or None, offset, fuzzy)
    notes: list[str] = []
    found: Generator[Answer, None, None]
    if isinstance(server, WebServer):
        found = qido.answers(server, search, read_headers(server, header, token), timeout)
    else:
        if header:
            raise BadUsage("--header is for QIDO-RS; C-FIND has no headers.")
        from gateway.query import find  # noqa: PLC0415 - it brings pydicom, which takes longer than most answers

        found = find.answers(server, search, read_ae_title(calling_ae), timeout, notes)
    with closing(found):
        _print(_limited(found, search.limit, notes), search, form, is_terminal=is_terminal)
    for note in notes:
        click.echo(f"dicomweb-gateway: {note}", err=True)


def _our_server(settings: Settings) -> Server:
    host = "127.0.0.1" if settings.http.host in _ANY_ADDRESS else settings.http.host
    return WebServer(host, settings.http.port, "/dicomweb", is_secure=False)


def read_headers(server: WebServer, lines: Sequence[str], token: str) -> Mapping[str, str]:
    """What to send beyond the usual. A token goes over TLS, or to this machine; what else is to go, is told by name."""
    headers: dict[str, str] = {}
    for line in lines:
        found = _HEADER.fullmatch(line)
        if not found:
            raise BadUsage("--header wants 'Name: value'.")
        headers[found[1].title()] = found[2].rstrip()
    if token and "Authorization" not in headers:
        if not _TOKEN.fullmatch(token):
            raise BadUsage("DICOMWEB_TOKEN is not a bearer token.")
        if not (server.is_secure or is_loopback(server.host)):
            raise BadUsage(f"DICOMWEB_TOKEN would go to {server.name} unencrypted: use https, or unset it.")
        headers["Authorization"] = f"Bearer {token}"
    return headers


def _limited(found: Iterator[Answer], limit: int | None, notes: list[str]) -> Iterator[Answer]:
    """The first answers; when there are more, a note says so."""
    yield from islice(found, limit)
    if limit is not None and next(found, None) is not None:
        notes.append(f"There are more than these {limit}: --limit 0 for all, --offset {limit} for the next.")


def _print(found: Iterator[Answer], search: Search, form: str | None, *, is_terminal: bool) -> None:
    out = _standard_output(is_utf_8=form is not None)
    if form == "json":
        output.write_json(found, out)
    elif form == "csv":
        output.write_csv(search.columns, found, out)
    elif is_terminal:
        output.write_table(search.columns, found, out, shutil.get_terminal_size().columns)
    else:
        output.write_tabs(search.columns, found, out)
    out.flush()


def _standard_output(*, is_utf_8: bool) -> TextIO:
    """Standard output. JSON and CSV are UTF-8; else what its encoding cannot hold becomes a question mark."""
    out = sys.stdout
    if isinstance(out, TextIOWrapper):
        out.reconfigure(encoding="utf-8" if is_utf_8 else out.encoding, errors="replace")
    return out
