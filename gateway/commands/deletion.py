"""Commands about what goes and what must stay: delete, undelete, deleted, hold, release, collect."""

from __future__ import annotations

import datetime as dt
import json
import sys
from collections import Counter
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import click

from gateway.commands.frame import CONFIG, DATA, JSON, USAGE, fail, load, operating, operator_archive, operator_session
from storage.errors import GatewayError
from storage.model import Deletion, Extent, Scope, Source
from storage.uids import is_uid

if TYPE_CHECKING:
    from gateway.session import Session


def _resource(text: str) -> Scope:
    """``STUDY[/SERIES[/INSTANCE]]``, each a UID."""
    uids = text.split("/")
    if len(uids) > len(_LEVEL_NAMES) or not all(map(is_uid, uids)):
        raise click.BadParameter("A resource is STUDY[/SERIES[/INSTANCE]], each a UID.")
    return Scope(*uids)


_ROWS_AT_ONCE = 500
_LEVEL_NAMES = ("study", "series", "instance")
_RESOURCE = click.argument("scope", type=_resource, metavar="STUDY[/SERIES[/INSTANCE]]")


def _amounts(extent: Extent) -> dict[str, int]:
    return {
        "series": extent.series,
        "instances": extent.instances,
        "objects": extent.objects,
        "bytes": extent.size_bytes,
    }


def _in_words(extent: Extent) -> str:
    return ", ".join(f"{count:,} {name}" for name, count in _amounts(extent).items())


@click.command()
@_RESOURCE
@click.option("--yes", is_flag=True, help="Do not ask.")
@CONFIG
@DATA
@JSON
def delete(scope: Scope, config: Path | None, data: Path | None, *, yes: bool, is_json: bool) -> None:
    """Delete a study, series or instance; works while the gateway runs.

    Nobody finds it any more. Its objects are kept for archive.delete_grace_days, in which `undelete` brings it back.
    Exit code 1: it is not there, or on hold.
    """
    values = load(config, {"archive.data": data}).settings
    with operator_session(values) as session:
        if not yes:
            if not sys.stdin.isatty():
                fail("Nobody can be asked here: say --yes.", USAGE)
            click.echo(f"{_LEVEL_NAMES[scope.level - 1]}: {_in_words(session.extent(scope))}", err=True)
            days = f"{values.archive.delete_grace_days:g}"
            click.confirm(f"Delete it? It can be brought back for {days} days.", abort=True, err=True)
        removed = session.delete(scope, Source("command line"))
    click.echo(json.dumps({"event": "deleted", **_amounts(removed)}) if is_json else f"deleted: {_in_words(removed)}")


@click.command()
@_RESOURCE
@CONFIG
@DATA
@JSON
def undelete(scope: Scope, config: Path | None, data: Path | None, *, is_json: bool) -> None:
    """Bring back what was deleted of a study, series or instance and is not collected yet.

    It can be interrupted, and run again for the rest. Exit code 1: nothing is left of it, or some of it is damaged.
    """
    counts: Counter[str] = Counter()
    with operating(config, data, "command line") as session:
        is_hidden = not sys.stderr.isatty()
        with click.progressbar(session.undelete(scope), label="Storing", file=sys.stderr, hidden=is_hidden) as bar:
            for result in bar:
                counts["failed" if isinstance(result, GatewayError) else result.outcome.value] += 1
    if is_json:
        click.echo(json.dumps({"event": "undeleted", **counts}))
    else:
        click.echo(", ".join(f"{count} {outcome}" for outcome, count in sorted(counts.items())))
    sys.exit(1 if counts["failed"] else 0)


@click.command()
@click.option("--all", "is_all", is_flag=True, help="Also what was stored again since, or is collected.")
@CONFIG
@DATA
@JSON
def deleted(config: Path | None, data: Path | None, *, is_all: bool, is_json: bool) -> None:
    """List what was deleted and can be brought back: when, what, how much is kept, until when.

    Tab-separated lines: the last column is what `undelete` takes.
    """
    values = load(config, {"archive.data": data}).settings
    with operator_session(values) as session:
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


@click.command()
@click.argument("scope", type=_resource, metavar="[STUDY[/SERIES[/INSTANCE]]]", required=False)
@CONFIG
@DATA
@JSON
def hold(scope: Scope | None, config: Path | None, data: Path | None, *, is_json: bool) -> None:
    """Put a study, series or instance on legal hold; without one, list what is on hold.

    Nobody can delete it, nor what it is in, nor what is in it; where it was deleted already, it is not collected.
    """
    with operating(config, data, "command line") as session:
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


@click.command()
@_RESOURCE
@CONFIG
@DATA
def release(scope: Scope, config: Path | None, data: Path | None) -> None:
    """End the hold on a study, series or instance."""
    with operating(config, data, "command line") as session:
        session.release(scope)
    click.echo("released")


@click.command()
@CONFIG
@DATA
@JSON
def collect(config: Path | None, data: Path | None, *, is_json: bool) -> None:
    """Remove the objects of what was deleted more than archive.delete_grace_days ago, and return when that is done.

    A gateway that runs does the same in the background; both may run at once, and be stopped at any moment.
    """
    from gateway.collecting import collected

    values = load(config, {"archive.data": data}).settings
    count = size_bytes = 0
    with operator_archive(values) as archive:
        for done in collected(partial(archive.collect, values.archive.delete_grace_days)):
            count, size_bytes = count + done.objects, size_bytes + done.size_bytes
    if is_json:
        click.echo(json.dumps({"event": "collected", "objects": count, "bytes": size_bytes}))
    else:
        click.echo(f"{count:,} objects, {size_bytes:,} bytes were removed")
