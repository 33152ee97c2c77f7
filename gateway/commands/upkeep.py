"""Commands that look after an archive: reindex, scrub, migrate."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from gateway import app, settings
from gateway.commands.frame import CONFIG, DATA, archive_errors, load

if TYPE_CHECKING:
    from click._termui_impl import ProgressBar

    from gateway import upkeep

_UNREPAIRED = 2
_GOES_ON = "Interrupted; the next run goes on from here."


@click.command()
@CONFIG
@DATA
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
    values = load(config, {"archive.data": data}).settings
    with archive_errors(values, interrupted=_GOES_ON):
        if from_objects:
            sys.exit(_rebuild(values, into, with_digests=with_digests, is_json=is_json))
        count = _reindex(values)
    tags = values.archive.extended_tags
    if is_json:
        click.echo(json.dumps({"event": "reindexed", "tags": tags, "instances": count}))
    else:
        click.echo(f"{len(tags)} extended tags are complete, {count} instances were indexed")


def _show(bar: ProgressBar[int], label: str, done: int, length: int) -> None:
    """Have a bar say how far it is; where that is not known, how much was done."""
    bar.label = label if length else f"{label}: {done}"
    bar.length, bar.pos, bar.finished = (length or None), done, False
    bar.render_progress()


def _rebuild(values: settings.Settings, into: str, *, with_digests: bool, is_json: bool) -> int:
    """The exit code: 1 where some objects are not in the new index."""
    from gateway import upkeep

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


@click.command()
@CONFIG
@DATA
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
    values = load(config, {"archive.data": data}).settings
    with archive_errors(values, exit_code=_UNREPAIRED, interrupted=_GOES_ON):
        from gateway import upkeep
        from storage.upkeep import Depth

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
    from gateway import upkeep

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


@click.command()
@CONFIG
@DATA
@click.option("--check", is_flag=True, help="Change nothing; exit code 1 when the schema is not up to date.")
@click.option("--json", "is_json", is_flag=True, help="Report in one line of JSON.")
def migrate(config: Path | None, data: Path | None, check: bool, is_json: bool) -> None:
    """Bring the schema of the index up to date, as serve does when it starts.

    Exit code 0: it is up to date; 1: it is not (--check), or that failed; 3: a gateway is running.
    """
    from gateway import upkeep

    values = load(config, {"archive.data": data}).settings
    with archive_errors(values, interrupted=_GOES_ON):
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
    from gateway.indexing import complete

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
