"""Command line: the gateway itself (serve), what looks after its archive, and what asks others (query, doctor).

Each reads settings, calls, and makes errors exit codes.

Exit codes: 0 done; 1 it failed, or some files were refused; 2 usage or settings; 3 another gateway has the folder;
4 a server that was queried refused; 5 it could not be reached; 130 Ctrl-C. ``scrub`` has its own.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from gateway import __version__, app, logs, settings
from gateway.commands import deletion, questions, reception, upkeep, webhooks
from gateway.commands.frame import CONFIG, DATA, USAGE, Command, fail, load
from gateway.processes import CannotStart
from gateway.settings import SettingsError
from storage.errors import GatewayError

_SERVE_FLAGS = (
    CONFIG,
    DATA,
    click.option("--host", metavar="ADDRESS", help="Address to listen on, for HTTP and DIMSE.  [127.0.0.1]"),
    click.option("--http-port", metavar="PORT", help="Port of DICOMweb and the start page; 0 picks one.  [8080]"),
    click.option("--dimse-port", metavar="PORT", help="Port of DIMSE; 0 picks one.  [11112]"),
    click.option("--ae-title", metavar="AE", help="Our AE title.  [GATEWAY]"),
    click.option(
        "--peer",
        "peers",
        multiple=True,
        metavar="AET=HOST:PORT",
        help="A peer that C-MOVE may send instances to. Can be given several times.",
    ),
    click.option(
        "--forward",
        "forward",
        multiple=True,
        metavar="'AET KEY=VALUE…'",
        help="Send new instances that match to a peer. Can be given several times.",
    ),
    click.option(
        "--webhook",
        "webhooks",
        multiple=True,
        metavar="'URL OPTION…'",
        help="Tell somebody of changes over HTTP. Can be given several times.",
    ),
    click.option("--workers", metavar="N", help="Processes that answer HTTP.  [2]"),
    click.option(
        "--insecure-no-auth", is_flag=True, default=None, help="Allow addresses beyond loopback without authentication."
    ),
)


def _serve_flags(command: Command) -> Command:
    for flag in reversed(_SERVE_FLAGS):
        command = flag(command)
    return command


def _flags(
    *,
    data: Path | None,
    host: str | None,
    http_port: str | None,
    dimse_port: str | None,
    ae_title: str | None,
    peers: tuple[str, ...],
    forward: tuple[str, ...],
    webhooks: tuple[str, ...],
    workers: str | None,
    insecure_no_auth: bool | None,
) -> dict[str, object]:
    """Flags by the path of their setting."""
    return {
        "archive.data": data,
        "http.host": host,
        "dimse.host": host,
        "http.port": http_port,
        "dimse.port": dimse_port,
        "dimse.ae_title": ae_title,
        "dimse.peers": peers or None,
        "dimse.forward": forward or None,
        "changes.webhooks": webhooks or None,
        "http.workers": workers,
        "http.insecure_no_auth": insecure_no_auth,
    }


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, message="%(version)s")
def main() -> None:
    """DICOMweb gateway: DIMSE and STOW-RS in, QIDO-RS and WADO-RS out, one durable archive between.

    Settings come from a TOML file (--config), then from the environment (GATEWAY_HTTP__PORT=8081), then from flags;
    `dicomweb-gateway settings` shows them all.
    """


@main.command()
@_serve_flags
@click.option("--json", "is_json", is_flag=True, help="Say in one line of JSON where the gateway can be reached.")
def serve(config: Path | None, is_json: bool, **flags: Any) -> None:
    """Run the gateway until SIGTERM or Ctrl-C.

    Standard output says where it can be reached once it is ready; standard error has the log, JSON lines.
    """
    values = load(config, _flags(**flags)).settings
    logs.configure(values.logs.level, strict=values.logs.strict)
    try:
        app.serve(values, lambda places: click.echo(places.json() if is_json else places.text()))
    except SettingsError as error:
        fail(error, USAGE)
    except CannotStart as error:
        fail(error, error.exit_code)
    except GatewayError as error:
        fail(error.reason, 1)


@main.command()
def conformance() -> None:
    """Print the DICOM Conformance Statement, in Markdown, as docs/conformance-statement.md has it."""
    from gateway.conformance import statement  # noqa: PLC0415 - other commands need no doors

    click.echo(statement(), nl=False)


@main.command("settings")
@_serve_flags
@click.option("--json", "is_json", is_flag=True, help="As one JSON object.")
@click.option("--markdown", "is_markdown", is_flag=True, help="All settings with defaults, as the README has them.")
def settings_(config: Path | None, is_json: bool, is_markdown: bool, **flags: Any) -> None:
    """Show the effective settings and where each comes from."""
    if is_markdown:
        click.echo(settings.markdown(), nl=False)
        return
    loaded = load(config, _flags(**flags))
    rows = [(knob, settings.shown(settings.value_of(loaded.settings, knob))) for knob in settings.knobs()]
    if is_json:
        shown = {
            knob.path: {"value": value, "origin": loaded.origins[knob.path], "doc": knob.doc} for knob, value in rows
        }
        click.echo(json.dumps(shown, indent=2))
        return
    width = max(len(knob.path) for knob, _ in rows)
    for knob, value in rows:
        click.echo(f"{knob.path:<{width}} = {json.dumps(value):<14} # {loaded.origins[knob.path]}")


@main.command()
def version() -> None:
    """Print the version."""
    click.echo(__version__)


for command in (
    reception.import_,
    reception.ingest,
    reception.quarantine,
    reception.versions,
    upkeep.reindex,
    upkeep.scrub,
    upkeep.migrate,
    deletion.delete,
    deletion.undelete,
    deletion.deleted,
    deletion.hold,
    deletion.release,
    deletion.collect,
    questions.query,
    questions.doctor,
    webhooks.webhooks,
):
    main.add_command(command)

if __name__ == "__main__":
    main(prog_name="dicomweb-gateway")
