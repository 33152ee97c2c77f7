"""Command line: the gateway itself (serve), what looks after its archive, and what asks others (query, doctor).

Each reads settings, calls, and makes errors exit codes.

Exit codes: 0 done; 1 it failed, or some files were refused; 2 usage or settings; 3 another gateway has the folder;
4 a server that was queried refused; 5 it could not be reached; 130 Ctrl-C. ``scrub`` has its own.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import json
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import click

from gateway import __version__, app, logs, settings
from gateway.processes import CannotStart
from gateway.settings import Loaded, SettingsError
from storage.errors import GatewayError
from storage.model import Deletion, Extent, Scope, Source
from storage.uids import is_uid

if TYPE_CHECKING:
    from click._termui_impl import ProgressBar

    from gateway import upkeep
    from gateway.session import Session
    from storage.archive import Archive

_USAGE = 2
_UNREPAIRED = 2
_MOST_LISTED = 1000
_INTERRUPTED = 130
_ROWS_AT_ONCE = 500


def _fail(reason: object, exit_code: int) -> NoReturn:
    click.echo(f"dicomweb-gateway: {reason}", err=True)
    sys.exit(exit_code)


def _load(config: Path | None, flags: Mapping[str, object]) -> Loaded:
    try:
        return settings.load(config, {path: value for path, value in flags.items() if value is not None})
    except SettingsError as error:
        _fail(error, _USAGE)


Command = Callable[..., Any]
_CONFIG = click.option(
    "--config", type=click.Path(path_type=Path, dir_okay=False), metavar="FILE", help="Settings in TOML."
)
_DATA = click.option(
    "--data", type=click.Path(path_type=Path, file_okay=False), metavar="DIR", help="Folder of the archive.  [data]"
)
_SERVE_FLAGS = (
    _CONFIG,
    _DATA,
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
    values = _load(config, _flags(**flags)).settings
    logs.configure(values.logs.level, strict=values.logs.strict)
    try:
        app.serve(values, lambda places: click.echo(places.json() if is_json else places.text()))
    except SettingsError as error:
        _fail(error, _USAGE)
    except CannotStart as error:
        _fail(error, error.exit_code)
    except GatewayError as error:
        _fail(error.reason, 1)


@main.command("import")
@click.argument("paths", nargs=-1, required=True, type=click.Path(path_type=Path, exists=True))
@_CONFIG
@_DATA
@click.option("--json", "is_json", is_flag=True, help="Report in one line of JSON.")
def import_(paths: tuple[Path, ...], config: Path | None, data: Path | None, is_json: bool) -> None:
    """Store DICOM files, and folders of them at any depth; works while the gateway runs.

    A file that is refused is named with the reason, and the next one follows. Exit code 0: all are stored; 1: some
    are not; 2: usage.
    """
    values = _load(config, {"archive.data": data}).settings
    logs.configure("WARNING", strict=values.logs.strict)
    logs.guard_process()
    try:
        refused = _import(values, paths, is_json=is_json)
    except SettingsError as error:
        _fail(error, _USAGE)
    except GatewayError as error:
        _fail(error.reason, 1)
    except OSError as error:
        _fail(f"The data folder {values.archive.data} cannot be used: {error.strerror}", 1)
    sys.exit(1 if refused else 0)


def _import(values: settings.Settings, paths: Iterable[Path], *, is_json: bool) -> bool:
    """Whether some files were refused."""
    from gateway.importer import find_files, import_files  # noqa: PLC0415 - other commands need no archive
    from gateway.security.actor import Actor  # noqa: PLC0415 - as above

    counts: Counter[str] = Counter()
    refused: list[dict[str, str]] = []
    files = find_files(paths)
    with (
        app.open_sessions(values) as sessions,
        click.progressbar(length=len(files), label="Importing", file=sys.stderr, hidden=not sys.stderr.isatty()) as bar,
    ):
        for result in import_files(sessions(Actor("operator", "import")), files):
            counts[result.outcome] += 1
            bar.update(1)
            if result.outcome == "refused":
                refused.append({"path": str(result.path), "reason": result.reason})
                if not is_json:
                    click.echo(f"refused  {result.path}: {result.reason}", err=True)
    if is_json:
        click.echo(json.dumps({"event": "imported", "files": len(files), **counts, "refusals": refused}))
    else:
        click.echo(
            ", ".join([f"{len(files)} files", *(f"{count} {outcome}" for outcome, count in sorted(counts.items()))])
        )
    return bool(refused)


@contextlib.contextmanager
def _archive_errors(values: settings.Settings) -> Iterator[None]:
    """Within it, log lines are warnings at least, and what goes wrong with the archive is one line and an exit code."""
    logs.configure("WARNING", strict=values.logs.strict)
    logs.guard_process()
    try:
        yield
    except SettingsError as error:
        _fail(error, _USAGE)
    except GatewayError as error:
        _fail(error.reason, 1)
    except OSError as error:
        _fail(f"The data folder {values.archive.data} cannot be used: {error.strerror}", 1)
    except KeyboardInterrupt:
        _fail("Interrupted.", _INTERRUPTED)


@contextlib.contextmanager
def _operator_session(values: settings.Settings, name: str = "command line") -> Iterator[Session]:
    """The archive as the operator may see it. What goes wrong with it within the block ends the command."""
    from gateway.security.actor import Actor  # noqa: PLC0415 - other commands need no archive

    with _archive_errors(values), app.open_sessions(values) as sessions:
        yield sessions(Actor("operator", name))


def _operating(config: Path | None, data: Path | None, name: str) -> contextlib.AbstractContextManager[Session]:
    return _operator_session(_load(config, {"archive.data": data}).settings, name)


@main.command()
@click.argument("uid")
@_CONFIG
@_DATA
@click.option("--json", "is_json", is_flag=True, help="As one JSON object.")
@click.option("--make-current", "wanted", metavar="DIGEST", help="Let this version be the one that is served.")
@click.option("--fetch", metavar="DIGEST", help="Write this version to --output.")
@click.option("--output", type=click.Path(path_type=Path, dir_okay=False), metavar="FILE", help="A file to be made.")
def versions(
    uid: str,
    config: Path | None,
    data: Path | None,
    is_json: bool,
    wanted: str | None,
    fetch: str | None,
    output: Path | None,
) -> None:
    """List all that was received under a SOP Instance UID, fetch one of them, or make one current.

    The version that is served comes first; the others were kept beside it and are named by their digest, of which
    8 digits or more will do. Works while the gateway runs. Exit code 0: done; 1: there is no such version.
    """
    from gateway.versions import chosen, line_of, row_of, save  # noqa: PLC0415 - other commands need no archive

    if (fetch is None) != (output is None):
        _fail("--fetch and --output go together", _USAGE)
    with _operating(config, data, "versions") as session:
        found = session.versions(uid)
        if fetch is not None and output is not None:
            one = chosen(found, fetch)
            try:
                save(session, one, output)
            except OSError as error:
                _fail(f"{output}: {error.strerror}", 1)
        if wanted is not None:
            session.make_current(chosen(found, wanted))
            found = session.versions(uid)
    if is_json:
        click.echo(json.dumps({"event": "versions", "sop_instance": uid, "versions": [row_of(one) for one in found]}))
        return
    for one in found:
        click.echo(line_of(one))


def _age(_: click.Context, __: click.Parameter, value: str | None) -> int | None:
    """A time such as 24h, in seconds."""
    from gateway.quarantine import seconds_of  # noqa: PLC0415 - other commands need no archive

    try:
        return None if value is None else seconds_of(value)
    except ValueError as error:
        raise click.BadParameter(f"{value!r} {error}") from None


_DAY_SECONDS = 86_400


@main.command()
@click.option("--since", callback=_age, metavar="AGE", help="What came in within 30m, 24h, 7d.  [24h]")
@click.option("--ae", "calling_ae", default="", metavar="AE", help="Only what this calling AE title sent.")
@click.option("--failed", is_flag=True, help="Only deliveries of which something was refused.")
@click.option("--study", default="", metavar="UID", help="Who brought that study, and what of it was refused; ever.")
@click.option("--limit", type=click.IntRange(1, 100_000), default=1000, show_default=True, help="Most deliveries.")
@_CONFIG
@_DATA
@click.option("--json", "is_json", is_flag=True, help="Report in one line of JSON.")
def ingest(
    since: int | None,
    calling_ae: str,
    failed: bool,
    study: str,
    limit: int,
    config: Path | None,
    data: Path | None,
    is_json: bool,
) -> None:
    """Where the missing images went: what each association, STOW request and import run brought.

    The newest come first. A terminal gets a table with the reasons and the ids in quarantine, anything else
    tab-separated lines without header; then a line that sums up. Times are UTC.
    """
    from gateway import ingest as ledger  # noqa: PLC0415 - other commands need no archive
    from gateway.query.output import write_lines  # noqa: PLC0415 - as above

    if since is None and not study:
        since = _DAY_SECONDS
    with _operating(config, data, "ingest") as session:
        begin = dt.datetime.now(dt.UTC) - dt.timedelta(seconds=since) if since is not None else None
        told = ledger.report(
            session,
            since=begin.isoformat(timespec="microseconds") if begin else "",
            calling_ae=calling_ae,
            failed=failed,
            study=study,
            limit=limit,
        )
    if is_json:
        click.echo(json.dumps(ledger.as_json(told)))
        return
    write_lines(ledger.HEADINGS, ledger.rows(told), sys.stdout, is_terminal=sys.stdout.isatty())
    click.echo(ledger.summary(told), err=not sys.stdout.isatty())


@main.group()
def quarantine() -> None:
    """Instances that were refused, as they came: look at them, mend the cause, try again."""


_IDS = click.argument("ids", nargs=-1, metavar="[ID]...")
_ID = click.argument("id_", metavar="ID")


@quarantine.command("list")
@_CONFIG
@_DATA
@click.option("--json", "is_json", is_flag=True, help="Report in one line of JSON.")
def quarantine_list(config: Path | None, data: Path | None, is_json: bool) -> None:
    """Show what is in quarantine, the oldest first."""
    from gateway import quarantine as held  # noqa: PLC0415 - other commands need no archive
    from gateway.query.output import write_lines  # noqa: PLC0415 - as above

    with _operating(config, data, "quarantine") as session:
        found = list(session.quarantine.held())
    if is_json:
        click.echo(json.dumps({"event": "quarantine", "instances": [held.as_json(one) for one in found]}))
        return
    write_lines(held.HEADINGS, held.rows(found), sys.stdout, is_terminal=sys.stdout.isatty())
    total_bytes = sum(one.size_bytes for one in found)
    click.echo(f"{len(found)} instances in quarantine, {total_bytes} bytes", err=not sys.stdout.isatty())


@quarantine.command("show")
@_ID
@_CONFIG
@_DATA
def quarantine_show(id_: str, config: Path | None, data: Path | None) -> None:
    """Show what is wrong with an instance, and the elements up to there.

    ID may be the end of an id, as long as no other ends so.
    """
    from gateway import quarantine as held  # noqa: PLC0415 - other commands need no archive

    with _operating(config, data, "quarantine") as session:
        (one,) = held.chosen(session.quarantine, [id_])
        for line in held.text(one, session.quarantine.beginning(one)):
            click.echo(line)


@quarantine.command("export")
@_ID
@click.argument("path", type=click.Path(path_type=Path, dir_okay=False), metavar="FILE")
@click.option("--bare", is_flag=True, help="As it came, also a Data Set without File Meta, as C-STORE brings it.")
@_CONFIG
@_DATA
def quarantine_export(id_: str, path: Path, bare: bool, config: Path | None, data: Path | None) -> None:
    """Write an instance to a new file, as it came.

    What came by C-STORE has no File Meta, without which few tools read it: it gets one of ours, unless --bare.
    """
    from gateway import quarantine as held  # noqa: PLC0415 - other commands need no archive

    with _operating(config, data, "quarantine") as session:
        (one,) = held.chosen(session.quarantine, [id_])
        try:
            count = held.export(session, one, path, is_bare=bare)
        except OSError as error:
            _fail(f"{path} cannot be written: {error.strerror}", 1)
    click.echo(f"{count} bytes")


@quarantine.command("retry")
@_IDS
@click.option("--all", "is_all", is_flag=True, help="All that is in quarantine.")
@click.option(
    "--trust-data-set", is_flag=True, help="Whatever was announced or named: the instance is what its Data Set says."
)
@_CONFIG
@_DATA
@click.option("--json", "is_json", is_flag=True, help="Report in one line of JSON.")
def quarantine_retry(
    ids: tuple[str, ...], is_all: bool, trust_data_set: bool, config: Path | None, data: Path | None, is_json: bool
) -> None:
    """Store instances as if they came now, once the cause is mended; what is stored leaves the quarantine.

    Exit code 0: all are stored; 1: some are still refused, or cannot be tried; 2: usage.
    """
    from gateway import quarantine as held  # noqa: PLC0415 - other commands need no archive

    if bool(ids) == is_all:
        raise click.UsageError("Say which: ids, or --all.")
    retried: list[held.Retried] = []
    with _operating(config, data, "quarantine") as session:
        found = list(session.quarantine.held()) if is_all else held.chosen(session.quarantine, ids)
        is_hidden = not (is_all and sys.stderr.isatty())
        with (
            contextlib.closing(held.Run(session)) as run,
            click.progressbar(found, label="Retrying", file=sys.stderr, hidden=is_hidden) as bar,
        ):
            retried += (run.retry(one, trusts_data_set=trust_data_set) for one in bar)
            run.finish()
    counts = Counter(one.outcome for one in retried)
    if is_json:
        refusals = [{"id": one.id, "reason": one.reason} for one in retried if one.outcome == "refused"]
        click.echo(json.dumps({"event": "retried", "instances": len(retried), **counts, "refusals": refusals}))
    else:
        for one in retried:
            if one.outcome == "refused":
                click.echo(f"refused  {one.id}: {one.reason}", err=True)
        click.echo(", ".join([f"{len(retried)} instances", *(f"{n} {name}" for name, n in sorted(counts.items()))]))
    sys.exit(1 if counts["refused"] else 0)


@quarantine.command("drop")
@_IDS
@click.option("--older-than", callback=_age, metavar="AGE", help="All that came longer ago than 12h, 30d, 8w.")
@_CONFIG
@_DATA
def quarantine_drop(ids: tuple[str, ...], older_than: int | None, config: Path | None, data: Path | None) -> None:
    """Remove instances from quarantine for good."""
    from gateway import quarantine as held  # noqa: PLC0415 - other commands need no archive

    if bool(ids) == (older_than is not None):
        raise click.UsageError("Say which: ids, or --older-than AGE.")
    with _operating(config, data, "quarantine") as session:
        found = held.chosen(session.quarantine, ids) if ids else list(held.older_than(session, older_than or 0))
        for one in found:
            session.quarantine.drop(one.id)
    click.echo(f"{len(found)} instances are gone")


@main.command()
@_CONFIG
@_DATA
@click.option("--from-objects", is_flag=True, help="Make the whole index anew from the stored objects alone.")
@click.option("--index", "into", default="", metavar="URL", help="With --from-objects: an empty PostgreSQL database.")
@click.option("--verify", "with_digests", is_flag=True, help="With --from-objects: read every object whole, too.")
@click.option("--json", "is_json", is_flag=True, help="Report in one line of JSON.")
def reindex(
    config: Path | None, data: Path | None, from_objects: bool, into: str, with_digests: bool, is_json: bool
) -> None:
    """Index extended tags (archive.extended_tags) of all that is stored, and return when that is done.

    A gateway that runs does the same in the background; both may run at once, and be stopped at any moment.

    With --from-objects everything is indexed: a new index is made of the objects and the journal, and takes the place
    of the old one when it is whole. No gateway may run meanwhile. When it is stopped, the next one goes on. Exit code
    0: all is indexed; 1: some objects are not; 2: usage; 3: a gateway is running.
    """
    if (into or with_digests) and not from_objects:
        raise click.UsageError("--index and --verify go with --from-objects")
    if into and not into.startswith(("postgresql://", "postgres://")):
        raise click.UsageError("--index is the URL of a PostgreSQL database")
    values = _load(config, {"archive.data": data}).settings
    with _told_in_words(values):
        if from_objects:
            sys.exit(_rebuild(values, into, with_digests=with_digests, is_json=is_json))
        count = _reindex(values)
    tags = values.archive.extended_tags
    if is_json:
        click.echo(json.dumps({"event": "reindexed", "tags": tags, "instances": count}))
    else:
        click.echo(f"{len(tags)} extended tags are complete, {count} instances were indexed")


@contextlib.contextmanager
def _told_in_words(values: settings.Settings, *, exit_code: int = 1) -> Iterator[None]:
    """Within it, what goes wrong with the archive is said in one line, with that exit code."""
    logs.configure("WARNING", strict=values.logs.strict)
    logs.guard_process()
    try:
        yield
    except CannotStart as error:
        _fail(error, error.exit_code)
    except GatewayError as error:
        _fail(error.reason, exit_code)
    except OSError as error:
        _fail(f"The data folder {values.archive.data} cannot be used: {error.strerror}", exit_code)
    except KeyboardInterrupt:
        _fail("Interrupted; the next run goes on from here.", _INTERRUPTED)


def _show(bar: ProgressBar[int], label: str, done: int, length: int) -> None:
    """Have a bar say how far it is; where that is not known, how much was done."""
    bar.label = label if length else f"{label}: {done}"
    bar.length, bar.pos, bar.finished = (length or None), done, False
    bar.render_progress()


def _rebuild(values: settings.Settings, into: str, *, with_digests: bool, is_json: bool) -> int:
    """The exit code: 1 where some objects are not in the new index."""
    from gateway import upkeep  # noqa: PLC0415 - other commands need no archive

    refused = events = 0
    said: list[str] = []
    is_hidden = not sys.stderr.isatty()
    with click.progressbar(length=1, label="Indexing", file=sys.stderr, hidden=is_hidden) as bar:
        for step in upkeep.rebuild(values, into, with_digests=with_digests, say=said.append):
            _show(bar, "Indexing", step.done, step.all)
            events = step.all
            refused += len(step.refused) + step.refused_before
            for one in step.refused:
                line = {"event": "refused", "key": one.key, "reason": one.reason}
                click.echo(json.dumps(line) if is_json else f"refused  {one.key}: {one.reason}")
    for text in said:
        click.echo(text, err=True)
    if is_json:
        click.echo(json.dumps({"event": "rebuilt", "events": events, "refused": refused}))
    else:
        click.echo(f"The index is whole: {events} stores and deletions, {refused} refused")
    return 1 if refused else 0


@main.command()
@_CONFIG
@_DATA
@click.option(
    "--level",
    type=click.Choice(["row", "object", "size", "checksum"]),
    default="size",
    show_default=True,
    help="How closely: rows alone; their objects, too; their sizes, too; all bytes, too.",
)
@click.option("--orphans/--no-orphans", default=True, show_default=True, help="Look for objects without rows as well.")
@click.option("--repair/--dry-run", "is_repairing", default=False, help="Mend what can be mended.  [dry run]")
@click.option("--restart", is_flag=True, help="Begin anew, not where the last one was stopped.")
@click.option("--rate", type=click.FloatRange(0), default=0.0, metavar="MB/S", help="Read no faster.  [0: no limit]")
@click.option(
    "--orphan-grace",
    type=click.FloatRange(0),
    default=24.0,
    show_default=True,
    metavar="HOURS",
    help="Leave alone what is younger and has no row: it may still be on its way.",
)
@click.option("--json", "is_json", is_flag=True, help="One line of JSON for each finding, and one at the end.")
def scrub(
    config: Path | None,
    data: Path | None,
    level: str,
    orphans: bool,
    is_repairing: bool,
    restart: bool,
    rate: float,
    orphan_grace: float,
    is_json: bool,
) -> None:
    """Look whether every row has its object, every object is what its row says, and every object has a row.

    Works while the gateway runs, and may be stopped at any moment. Nothing is changed without --repair, and nothing of
    use is ever removed. Exit code 0: all is well; 1: it is now, after repairs; 2: something is not.
    """
    values = _load(config, {"archive.data": data}).settings
    with _told_in_words(values, exit_code=_UNREPAIRED):
        from gateway import upkeep  # noqa: PLC0415 - other commands need no archive
        from storage.upkeep import Depth  # noqa: PLC0415 - as above

        order = upkeep.ScrubOrder(Depth[level.upper()], orphans, is_repairing, restart, rate, orphan_grace)
        counts = _scrub(values, order, is_json=is_json)
    found, repaired = counts["found"], counts["repaired"]
    if is_json:
        click.echo(json.dumps({"event": "scrubbed", "level": level, **counts}))
    else:
        click.echo(f"{counts['looked_at']} looked at, {found} faults, {repaired} of them mended")
    sys.exit(_UNREPAIRED if repaired < found else 1 if found else 0)


def _scrub(values: settings.Settings, order: upkeep.ScrubOrder, *, is_json: bool) -> dict[str, int]:
    """Counts: looked at, found, repaired."""
    from gateway import upkeep  # noqa: PLC0415 - other commands need no archive

    counts = {"looked_at": 0, "found": 0, "repaired": 0}
    is_hidden = not sys.stderr.isatty()
    with click.progressbar(length=1, label="Scrubbing", file=sys.stderr, hidden=is_hidden) as bar:
        for step in upkeep.scrub(values, order):
            _show(bar, f"Scrubbing {step.phase}", step.done, step.all)
            counts["looked_at"] += step.count
            counts["found"] += len(step.findings)
            counts["repaired"] += sum(one.is_repaired for one in step.findings)
            for one in step.findings:
                line = {"event": "found", "fault": one.fault.value, "name": one.name, "repaired": one.is_repaired}
                text = f"{one.fault.value:<14} {'mended' if one.is_repaired else 'found':<7} {one.name}"
                more = f": {one.reason}" if one.reason else ""
                click.echo(json.dumps(line | {"reason": one.reason}) if is_json else text + more)
    return counts


@main.command()
@_CONFIG
@_DATA
@click.option("--check", is_flag=True, help="Change nothing; exit code 1 when the schema is not up to date.")
@click.option("--json", "is_json", is_flag=True, help="Report in one line of JSON.")
def migrate(config: Path | None, data: Path | None, check: bool, is_json: bool) -> None:
    """Bring the schema of the index up to date, as serve does when it starts.

    Exit code 0: it is up to date; 1: it is not (--check), or that failed; 3: a gateway is running.
    """
    from gateway import upkeep  # noqa: PLC0415 - other commands need no archive

    values = _load(config, {"archive.data": data}).settings
    with _told_in_words(values):
        before, after = (upkeep.version(values),) * 2 if check else upkeep.migrate(values)
    if is_json:
        said = {"event": "migrated", "from": before.applied, "to": after.applied, "known": after.known}
        click.echo(json.dumps(said))
    elif check:
        click.echo(f"The schema of the index is {after.applied}, this release has {after.known}")
    else:
        click.echo(f"The schema of the index: {before.applied} → {after.applied}")
    sys.exit(0 if after.applied == after.known else 1)


def _reindex(values: settings.Settings) -> int:
    """How many instances were indexed."""
    from gateway.indexing import complete  # noqa: PLC0415 - other commands need no archive

    count = at = 0
    is_hidden = not sys.stderr.isatty()
    with (
        app.open_archive(values) as archive,
        click.progressbar(length=1, label="Indexing", file=sys.stderr, hidden=is_hidden) as bar,
    ):
        for progress in complete(archive.index_extended):
            bar.length = max(progress.all, 1)
            bar.update(max(0, progress.done - at))
            at = max(at, progress.done)
            count += progress.count
    return count


# ------------------------------------------------------------------------------------------------- deleting and keeping


def _resource(text: str) -> Scope:
    """``STUDY[/SERIES[/INSTANCE]]``, each a UID."""
    uids = text.split("/")
    if len(uids) > len(_LEVEL_NAMES) or not all(map(is_uid, uids)):
        raise click.BadParameter("A resource is STUDY[/SERIES[/INSTANCE]], each a UID.")
    return Scope(*uids)


_LEVEL_NAMES = ("study", "series", "instance")
_RESOURCE = click.argument("scope", type=_resource, metavar="STUDY[/SERIES[/INSTANCE]]")
_JSON = click.option("--json", "is_json", is_flag=True, help="Report in one line of JSON.")


def _amounts(extent: Extent) -> dict[str, int]:
    return {
        "series": extent.series,
        "instances": extent.instances,
        "objects": extent.objects,
        "bytes": extent.size_bytes,
    }


def _in_words(extent: Extent) -> str:
    return ", ".join(f"{count:,} {name}" for name, count in _amounts(extent).items())


@main.command()
@_RESOURCE
@click.option("--yes", is_flag=True, help="Do not ask.")
@_CONFIG
@_DATA
@_JSON
def delete(scope: Scope, config: Path | None, data: Path | None, *, yes: bool, is_json: bool) -> None:
    """Delete a study, series or instance; works while the gateway runs.

    Nobody finds it any more. Its objects are kept for archive.delete_grace_days, in which `undelete` brings it back.
    Exit code 1: it is not there, or on hold.
    """
    values = _load(config, {"archive.data": data}).settings
    with _operator_session(values) as session:
        if not yes:
            if not sys.stdin.isatty():
                _fail("Nobody can be asked here: say --yes.", _USAGE)
            click.echo(f"{_LEVEL_NAMES[scope.level - 1]}: {_in_words(session.extent(scope))}", err=True)
            days = f"{values.archive.delete_grace_days:g}"
            click.confirm(f"Delete it? It can be brought back for {days} days.", abort=True, err=True)
        removed = session.delete(scope, Source("command line"))
    click.echo(json.dumps({"event": "deleted", **_amounts(removed)}) if is_json else f"deleted: {_in_words(removed)}")


@main.command()
@_RESOURCE
@_CONFIG
@_DATA
@_JSON
def undelete(scope: Scope, config: Path | None, data: Path | None, *, is_json: bool) -> None:
    """Bring back what was deleted of a study, series or instance and is not collected yet.

    It can be interrupted, and run again for the rest. Exit code 1: nothing is left of it, or some of it is damaged.
    """
    counts: Counter[str] = Counter()
    with _operating(config, data, "command line") as session:
        is_hidden = not sys.stderr.isatty()
        with click.progressbar(session.undelete(scope), label="Storing", file=sys.stderr, hidden=is_hidden) as bar:
            for result in bar:
                counts["failed" if isinstance(result, GatewayError) else result.outcome.value] += 1
    if is_json:
        click.echo(json.dumps({"event": "undeleted", **counts}))
    else:
        click.echo(", ".join(f"{count} {outcome}" for outcome, count in sorted(counts.items())))
    sys.exit(1 if counts["failed"] else 0)


@main.command()
@click.option("--all", "is_all", is_flag=True, help="Also what was stored again since, or is collected.")
@_CONFIG
@_DATA
@_JSON
def deleted(config: Path | None, data: Path | None, *, is_all: bool, is_json: bool) -> None:
    """List what was deleted and can be brought back: when, what, how much is kept, until when.

    Tab-separated lines: the last column is what `undelete` takes.
    """
    values = _load(config, {"archive.data": data}).settings
    with _operator_session(values) as session:
        rows = [row for row in _deletions(session) if row.kept or is_all]
    told = [_told(row, values.archive.delete_grace_days) for row in rows]
    if is_json:
        click.echo(json.dumps({"event": "listed", "deletions": told}))
        return
    for row in told:
        click.echo("\t".join(map(str, row.values())))


def _deletions(session: Session) -> Iterator[Deletion]:
    after = 0
    while page := session.deletions(after, _ROWS_AT_ONCE):
        yield from page
        after = page[-1].number


def _told(row: Deletion, grace_days: float) -> dict[str, object]:
    until = "held" if row.is_held else dt.datetime.fromisoformat(row.deleted_at) + dt.timedelta(days=grace_days)
    return {
        "deleted_at": row.deleted_at,
        "kept_until": (until if isinstance(until, str) else until.isoformat()) if row.kept else "",
        "by": row.source.door,
        "address": row.source.address,
        **_amounts(row.extent),
        "kept": row.kept,
        "resource": _path_of(row.scope),
    }


def _path_of(scope: Scope) -> str:
    return "/".join(uid for uid in (scope.study_instance_uid, scope.series_instance_uid, scope.sop_instance_uid) if uid)


@main.command()
@click.argument("scope", type=_resource, metavar="[STUDY[/SERIES[/INSTANCE]]]", required=False)
@_CONFIG
@_DATA
@_JSON
def hold(scope: Scope | None, config: Path | None, data: Path | None, *, is_json: bool) -> None:
    """Put a study, series or instance on legal hold; without one, list what is on hold.

    Nobody can delete it, nor what it is in, nor what is in it; where it was deleted already, it is not collected.
    """
    with _operating(config, data, "command line") as session:
        if scope is not None:
            session.hold(scope)
        rows = [{"held_at": one.held_at, "resource": _path_of(one.scope)} for one in session.holds()]
    if is_json:
        click.echo(json.dumps({"event": "held", "holds": rows}))
    elif scope is None:
        for row in rows:
            click.echo("\t".join(row.values()))
    else:
        click.echo("on hold")


@main.command()
@_RESOURCE
@_CONFIG
@_DATA
def release(scope: Scope, config: Path | None, data: Path | None) -> None:
    """End the hold on a study, series or instance."""
    with _operating(config, data, "command line") as session:
        session.release(scope)
    click.echo("released")


@main.command()
@_CONFIG
@_DATA
@_JSON
def collect(config: Path | None, data: Path | None, *, is_json: bool) -> None:
    """Remove the objects of what was deleted more than archive.delete_grace_days ago, and return when that is done.

    A gateway that runs does the same in the background; both may run at once, and be stopped at any moment.
    """
    from gateway.collecting import collected  # noqa: PLC0415 - other commands need no archive

    values = _load(config, {"archive.data": data}).settings
    count = size_bytes = 0
    with _archive_for_operators(values) as archive:
        for done in collected(partial(archive.collect, values.archive.delete_grace_days)):
            count, size_bytes = count + done.objects, size_bytes + done.size_bytes
    if is_json:
        click.echo(json.dumps({"event": "collected", "objects": count, "bytes": size_bytes}))
    else:
        click.echo(f"{count:,} objects, {size_bytes:,} bytes were removed")


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
    _CONFIG,
)


def _query_flags(command: Command) -> Command:
    for flag in reversed(_QUERY_FLAGS):
        command = flag(command)
    return command


@main.command(short_help="Search this or any other server, by QIDO-RS or C-FIND.")
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
    from gateway.query.command import run  # noqa: PLC0415 - other commands need no client
    from gateway.query.failures import QueryError  # noqa: PLC0415 - as above

    try:
        run(arguments, lambda: _load(config, {}).settings, settings.bearer_token(), **flags)
    except QueryError as error:
        _fail(error.reason, error.exit_code)
    except KeyboardInterrupt:
        _fail("Interrupted.", _INTERRUPTED)


@main.command()
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
    from gateway.query.command import read_headers  # noqa: PLC0415 - other commands need no client
    from gateway.query.doctor import Doctor  # noqa: PLC0415 - as above
    from gateway.query.failures import BadUsage, QueryError  # noqa: PLC0415 - as above
    from gateway.query.server import WebServer, read_server  # noqa: PLC0415 - as above

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
        _fail(error.reason, error.exit_code)
    except KeyboardInterrupt:
        _fail("Interrupted.", _INTERRUPTED)
    troubles = sum(bool(finding.trouble) for finding in findings)
    if is_json:
        said = [{"check": one.name, "trouble": one.trouble, "is_skipped": one.is_skipped} for one in findings]
        click.echo(json.dumps({"event": "examined", "troubles": troubles, "findings": said}))
    sys.exit(1 if troubles else 0)


@main.group()
def webhooks() -> None:
    """What webhooks were told of changes, and what could not be delivered; works while the gateway runs."""


_IDS = click.argument("ids", nargs=-1, type=click.IntRange(1, 1 << 62), metavar="[ID]...")
_ALL = click.option("--all", "is_all", is_flag=True, help="All there is, in place of some by their numbers.")


@webhooks.command("list")
@_CONFIG
@_DATA
@click.option("--json", "is_json", is_flag=True, help="As one JSON object.")
def list_webhooks(config: Path | None, data: Path | None, is_json: bool) -> None:
    """Show how far each webhook was told, and what was laid aside."""
    values = _load(config, {"archive.data": data}).settings
    with _archive_for_operators(values) as archive:
        last = archive.latest()
        known = archive.subscribers.all()
        laid_aside = archive.subscribers.undelivered(_MOST_LISTED)
    if is_json:
        rows = {"webhooks": [asdict(one) for one in known], "undelivered": [asdict(one) for one in laid_aside]}
        click.echo(json.dumps({"event": "listed", "latest": last, **rows}))
        return
    for one in known:
        state = f"{one.attempts} attempts since {_time(one.failing_since)}, next {_time(one.due)}"
        click.echo(
            f"{one.name}: told up to {one.sequence} of {last}{f'; failing, {state}' if one.failing_since else ''}"
        )
    for letter in laid_aside:
        click.echo(
            f"{letter.id}  {letter.subscriber}: changes {letter.after_sequence + 1} to {letter.until_sequence}, laid "
            f"aside {_time(letter.given_up_at)} after {letter.attempts} attempts: {letter.reason}"
            f"{'' if letter.due is None else '; to be tried again'}"
        )


@webhooks.command("retry")
@_IDS
@_ALL
@_CONFIG
@_DATA
def retry_webhooks(ids: tuple[int, ...], is_all: bool, config: Path | None, data: Path | None) -> None:
    """Have a running gateway tell once more of what was laid aside; with --all at once of what waits after a failure,
    too.
    """
    _settle_webhooks(
        lambda archive, chosen: archive.subscribers.retry(chosen, int(time.time())), ids, is_all, config, data
    )


@webhooks.command("drop")
@_IDS
@_ALL
@_CONFIG
@_DATA
def drop_webhooks(ids: tuple[int, ...], is_all: bool, config: Path | None, data: Path | None) -> None:
    """Forget what was laid aside. The changes stay in the feed."""
    _settle_webhooks(lambda archive, chosen: archive.subscribers.drop(chosen), ids, is_all, config, data)


@webhooks.command("forget")
@click.argument("name")
@_CONFIG
@_DATA
def forget_webhook(name: str, config: Path | None, data: Path | None) -> None:
    """Forget how far a webhook was told, and what was laid aside of it: it begins anew, with what happens next."""
    values = _load(config, {"archive.data": data}).settings
    with _archive_for_operators(values) as archive:
        is_known = archive.subscribers.forget(name)
    if not is_known:
        _fail("There is no webhook of that name.", 1)


def _settle_webhooks(
    act: Callable[[Archive, Sequence[int] | None], int],
    ids: tuple[int, ...],
    is_all: bool,
    config: Path | None,
    data: Path | None,
) -> None:
    if bool(ids) == is_all:
        _fail("Name the numbers that `webhooks list` shows, or --all.", _USAGE)
    values = _load(config, {"archive.data": data}).settings
    with _archive_for_operators(values) as archive:
        count = act(archive, None if is_all else ids)
    click.echo(f"{count} found")
    sys.exit(0 if is_all or count == len(set(ids)) else 1)


@contextlib.contextmanager
def _archive_for_operators(values: settings.Settings) -> Iterator[Archive]:
    with _archive_errors(values), app.open_archive(values) as archive:
        yield archive


def _time(seconds: int) -> str:
    return logs.timestamp(seconds) if seconds else "now"


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
    loaded = _load(config, _flags(**flags))
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


if __name__ == "__main__":
    main(prog_name="dicomweb-gateway")
