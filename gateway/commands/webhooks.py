"""Commands about webhooks: list, retry, drop, forget."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import click

from gateway import logs
from gateway.commands.frame import CONFIG, DATA, USAGE, fail, load, operator_archive

if TYPE_CHECKING:
    from storage.archive import Archive

_MOST_LISTED = 1000


@click.group()
def webhooks() -> None:
    """What webhooks were told of changes, and what could not be delivered; works while the gateway runs."""


_IDS = click.argument("ids", nargs=-1, type=click.IntRange(1, 1 << 62), metavar="[ID]...")
_ALL = click.option("--all", "is_all", is_flag=True, help="All there is, in place of some by their numbers.")


@webhooks.command("list")
@CONFIG
@DATA
@click.option("--json", "is_json", is_flag=True, help="As one JSON object.")
def list_webhooks(config: Path | None, data: Path | None, is_json: bool) -> None:
    """Show how far each webhook was told, and what was laid aside."""
    values = load(config, {"archive.data": data}).settings
    with operator_archive(values) as archive:
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
@CONFIG
@DATA
def retry_webhooks(ids: tuple[int, ...], is_all: bool, config: Path | None, data: Path | None) -> None:
    """Have a running gateway tell once more of what was laid aside; with --all, too, at once of what waits after a
    failure or a crash: if another process is telling of it at this moment, it is told twice.
    """
    _settle_webhooks(
        lambda archive, chosen: archive.subscribers.retry(chosen, int(time.time())), ids, is_all, config, data
    )


@webhooks.command("drop")
@_IDS
@_ALL
@CONFIG
@DATA
def drop_webhooks(ids: tuple[int, ...], is_all: bool, config: Path | None, data: Path | None) -> None:
    """Forget what was laid aside. The changes stay in the feed."""
    _settle_webhooks(lambda archive, chosen: archive.subscribers.drop(chosen), ids, is_all, config, data)


@webhooks.command("forget")
@click.argument("name")
@CONFIG
@DATA
def forget_webhook(name: str, config: Path | None, data: Path | None) -> None:
    """Forget how far a webhook was told, and what was laid aside of it: it begins anew, with what happens next."""
    values = load(config, {"archive.data": data}).settings
    with operator_archive(values) as archive:
        is_known = archive.subscribers.forget(name)
    if not is_known:
        fail("There is no webhook of that name.", 1)


def _settle_webhooks(
    act: Callable[[Archive, Sequence[int] | None], int],
    ids: tuple[int, ...],
    is_all: bool,
    config: Path | None,
    data: Path | None,
) -> None:
    if bool(ids) == is_all:
        fail("Name the numbers that `webhooks list` shows, or --all.", USAGE)
    values = load(config, {"archive.data": data}).settings
    with operator_archive(values) as archive:
        count = act(archive, None if is_all else ids)
    click.echo(f"{count} found")
    sys.exit(0 if is_all or count == len(set(ids)) else 1)


def _time(seconds: int) -> str:
    return logs.timestamp(seconds) if seconds else "now"
