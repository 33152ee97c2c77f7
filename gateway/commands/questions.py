"""Commands that ask this or any other server: query, doctor."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import click

from gateway import settings
from gateway.commands.frame import CONFIG, INTERRUPTED, Command, fail, load

_QUERY_FLAGS = (
    click.option(
        "--level",
        type=click.Choice(["patients", "studies", "series", "instances"]),
        default="studies",
        show_default=True,
        help="What is searched; patients by C-FIND only.",
    ),
    click.option("--include", multiple=True, metavar="FIELD,…", help="Attributes to return and to show, too; or all."),
    click.option("--limit", type=click.IntRange(0), help="Stop after so many; 0: never.  [100 on a terminal, else 0]"),
    click.option("--offset", type=click.IntRange(0), default=0, help="Leave out so many at the start."),
    click.option("--fuzzy", is_flag=True, help="Match names fuzzily, where the server can."),
    click.option("--json", "form", flag_value="json", help="One array of the DICOM JSON Model."),
    click.option("--csv", "form", flag_value="csv", help="CSV with a header line."),
    click.option("--header", multiple=True, metavar="'NAME: VALUE'", help="Header to send, for QIDO-RS."),
    click.option("--calling-ae", default="QUERY", show_default=True, metavar="AE", help="Our AE title, for C-FIND."),
    click.option(
        "--timeout",
        type=click.FloatRange(0.1, 86_400),
        default=30.0,
        show_default=True,
        metavar="SECONDS",
        help="Longest wait for the server, each time.",
    ),
    CONFIG,
)


def _query_flags(command: Command) -> Command:
    for flag in reversed(_QUERY_FLAGS):
        command = flag(command)
    return command


@click.command(short_help="Search this or any other server, by QIDO-RS or C-FIND.")
@click.argument("arguments", nargs=-1, metavar="[SERVER] [KEY=VALUE]...")
@_query_flags
def query(arguments: tuple[str, ...], config: Path | None, **flags: Any) -> None:
    """Search a server, by QIDO-RS or C-FIND, and print what it has.

    SERVER is http(s)://host:port/base for QIDO-RS, or AE@host:port for C-FIND, as the ready line writes them; without
    it, DICOMweb of the gateway on this machine. KEY is a keyword or a tag; VALUE may have * and ?, and - between the
    ends of a range; KEY= only asks for the attribute.

    \b
        dicomweb-gateway query 'PatientName=doe*' StudyDate=20240101-
        dicomweb-gateway query GATEWAY@127.0.0.1:11112 --level series StudyInstanceUID=1.2.3

    A terminal gets a table, anything else tab-separated lines without header. DICOMWEB_TOKEN in the environment is
    sent as bearer token. Exit codes: 0 answered, with matches or without; 1 the server failed; 2 usage; 4 it refused;
    5 it cannot be reached.
    """  # noqa: D301 - the backspace keeps click from wrapping the examples
    from gateway.query.command import run
    from gateway.query.failures import QueryError

    try:
        run(arguments, lambda: load(config, {}).settings, settings.bearer_token(), **flags)
    except QueryError as error:
        fail(error.reason, error.exit_code)
    except KeyboardInterrupt:
        fail("Interrupted.", INTERRUPTED)


@click.command()
@click.argument("url")
@click.option("--origin", default="", metavar="URL", help="Where the viewer's web page is loaded from, for CORS.")
@click.option("--header", multiple=True, metavar="'NAME: VALUE'", help="Header to send.")
@click.option("--timeout", type=click.FloatRange(0.1, 3600), default=30.0, show_default=True, metavar="SECONDS")
@click.option("--json", "is_json", is_flag=True, help="Report in one line of JSON.")
def doctor(url: str, origin: str, header: tuple[str, ...], timeout: float, is_json: bool) -> None:
    """Send the requests of viewers to a DICOMweb server, and say what they would trip over.

    URL is where viewers reach it, through every proxy: http(s)://host:port/base. It is only read from. With
    DICOMWEB_TOKEN in the environment that is sent as bearer token. Exit codes: 0 all is well; 1 something is not;
    2 usage; 5 it cannot be reached.
    """
    from gateway.query.command import read_headers
    from gateway.query.doctor import Doctor
    from gateway.query.failures import BadUsage, QueryError
    from gateway.query.server import WebServer, read_server

    findings = []
    try:
        server = read_server(url)
        if not isinstance(server, WebServer):
            raise BadUsage("The doctor looks at DICOMweb servers: http(s)://host:port/base.")
        headers = read_headers(server, header, settings.bearer_token())
        for finding in Doctor(server, headers, timeout, origin.rstrip("/")).findings():
            findings.append(finding)
            if not is_json:
                mark = "-" if finding.is_skipped else "\N{BALLOT X}" if finding.trouble else "\N{CHECK MARK}"
                what = "nothing there to look at" if finding.is_skipped else finding.trouble
                click.echo(f"{mark} {finding.name}{': ' if what else ''}{what}")
    except QueryError as error:
        fail(error.reason, error.exit_code)
    except KeyboardInterrupt:
        fail("Interrupted.", INTERRUPTED)
    troubles = sum(bool(finding.trouble) for finding in findings)
    if is_json:
        said = [{"check": one.name, "trouble": one.trouble, "is_skipped": one.is_skipped} for one in findings]
        click.echo(json.dumps({"event": "examined", "troubles": troubles, "findings": said}))
    sys.exit(1 if troubles else 0)
