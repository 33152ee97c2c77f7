"""Commands about what came in: import, ingest, quarantine, versions."""

from __future__ import annotations

import contextlib
import datetime as dt
import json
import sys
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

import click

from gateway import app, settings
from gateway.commands.frame import CONFIG, DATA, USAGE, archive_errors, fail, load, operating


@click.command("import")
@click.argument("paths", nargs=-1, required=True, type=click.Path(path_type=Path, exists=True))
@CONFIG
@DATA
@click.option("--json", "is_json", is_flag=True, help="Report in one line of JSON.")
def import_(paths: tuple[Path, ...], config: Path | None, data: Path | None, is_json: bool) -> None:
    """Store DICOM files, and folders of them at any depth; works while the gateway runs.

    A file that is refused is named with the reason, and the next one follows. Exit code 0: all are stored; 1: some
    are not; 2: usage.
    """
    values = load(config, {"archive.data": data}).settings
    with archive_errors(values):
        refused = _import(values, paths, is_json=is_json)
    sys.exit(1 if refused else 0)


def _import(values: settings.Settings, paths: Iterable[Path], *, is_json: bool) -> bool:
    """Whether some files were refused."""
    from gateway.importer import find_files, import_files
    from gateway.security.actor import Actor

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


@click.command()
@click.argument("uid")
@CONFIG
@DATA
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
    from gateway.versions import chosen, line_of, row_of, save

    if (fetch is None) != (output is None):
        fail("--fetch and --output go together", USAGE)
    with operating(config, data, "versions") as session:
        found = session.versions(uid)
        if fetch is not None and output is not None:
            one = chosen(found, fetch)
            try:
                save(session, one, output)
            except OSError as error:
                fail(f"{output}: {error.strerror}", 1)
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
    from gateway.quarantine import seconds_of

    try:
        return None if value is None else seconds_of(value)
    except ValueError as error:
        raise click.BadParameter(f"{value!r} {error}") from None


_DAY_SECONDS = 86_400


@click.command()
@click.option("--since", callback=_age, metavar="AGE", help="What came in within 30m, 24h, 7d.  [24h]")
@click.option("--ae", "calling_ae", default="", metavar="AE", help="Only what this calling AE title sent.")
@click.option("--failed", is_flag=True, help="Only deliveries of which something was refused.")
@click.option("--study", default="", metavar="UID", help="Who brought that study, and what of it was refused; ever.")
@click.option("--limit", type=click.IntRange(1, 100_000), default=1000, show_default=True, help="Most deliveries.")
@CONFIG
@DATA
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
    from gateway import ingest as ledger
    from gateway.query.output import write_lines

    if since is None and not study:
        since = _DAY_SECONDS
    with operating(config, data, "ingest") as session:
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


@click.group()
def quarantine() -> None:
    """Instances that were refused, as they came: look at them, mend the cause, try again."""


_IDS = click.argument("ids", nargs=-1, metavar="[ID]...")
_ID = click.argument("id_", metavar="ID")


@quarantine.command("list")
@CONFIG
@DATA
@click.option("--json", "is_json", is_flag=True, help="Report in one line of JSON.")
def quarantine_list(config: Path | None, data: Path | None, is_json: bool) -> None:
    """Show what is in quarantine, the oldest first."""
    from gateway import quarantine as held
    from gateway.query.output import write_lines

    with operating(config, data, "quarantine") as session:
        found = list(session.quarantine.held())
    if is_json:
        click.echo(json.dumps({"event": "quarantine", "instances": [held.as_json(one) for one in found]}))
        return
    write_lines(held.HEADINGS, held.rows(found), sys.stdout, is_terminal=sys.stdout.isatty())
    total_bytes = sum(one.size_bytes for one in found)
    click.echo(f"{len(found)} instances in quarantine, {total_bytes} bytes", err=not sys.stdout.isatty())


@quarantine.command("show")
@_ID
@CONFIG
@DATA
def quarantine_show(id_: str, config: Path | None, data: Path | None) -> None:
    """Show what is wrong with an instance, and the elements up to there.

    ID may be the end of an id, as long as no other ends so.
    """
    from gateway import quarantine as held

    with operating(config, data, "quarantine") as session:
        (one,) = held.chosen(session.quarantine, [id_])
        for line in held.text(one, session.quarantine.beginning(one)):
            click.echo(line)


@quarantine.command("export")
@_ID
@click.argument("path", type=click.Path(path_type=Path, dir_okay=False), metavar="FILE")
@click.option("--bare", is_flag=True, help="As it came, also a Data Set without File Meta, as C-STORE brings it.")
@CONFIG
@DATA
def quarantine_export(id_: str, path: Path, bare: bool, config: Path | None, data: Path | None) -> None:
    """Write an instance to a new file, as it came.

    What came by C-STORE has no File Meta, without which few tools read it: it gets one of ours, unless --bare.
    """
    from gateway import quarantine as held

    with operating(config, data, "quarantine") as session:
        (one,) = held.chosen(session.quarantine, [id_])
        try:
            count = held.export(session, one, path, is_bare=bare)
        except OSError as error:
            fail(f"{path} cannot be written: {error.strerror}", 1)
    click.echo(f"{count} bytes")


@quarantine.command("retry")
@_IDS
@click.option("--all", "is_all", is_flag=True, help="All that is in quarantine.")
@click.option(
    "--trust-data-set", is_flag=True, help="Whatever was announced or named: the instance is what its Data Set says."
)
@CONFIG
@DATA
@click.option("--json", "is_json", is_flag=True, help="Report in one line of JSON.")
def quarantine_retry(
    ids: tuple[str, ...], is_all: bool, trust_data_set: bool, config: Path | None, data: Path | None, is_json: bool
) -> None:
    """Store instances as if they came now, once the cause is mended; what is stored leaves the quarantine.

    Exit code 0: all are stored; 1: some are still refused, or cannot be tried; 2: usage.
    """
    from gateway import quarantine as held

    if bool(ids) == is_all:
        raise click.UsageError("Say which: ids, or --all.")
    retried: list[held.Retried] = []
    with operating(config, data, "quarantine") as session:
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
@CONFIG
@DATA
def quarantine_drop(ids: tuple[str, ...], older_than: int | None, config: Path | None, data: Path | None) -> None:
    """Remove instances from quarantine for good."""
    from gateway import quarantine as held

    if bool(ids) == (older_than is not None):
        raise click.UsageError("Say which: ids, or --older-than AGE.")
    with operating(config, data, "quarantine") as session:
        found = held.chosen(session.quarantine, ids) if ids else list(held.older_than(session, older_than or 0))
        for one in found:
            session.quarantine.drop(one.id)
    click.echo(f"{len(found)} instances are gone")
