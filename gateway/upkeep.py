"""Upkeep by the operator: scrub, rebuild of the index, migration; each over the data folder that settings name.

What is done is in ``storage.upkeep`` and ``storage.rebuild``; here it gets its folder, its lock and its report.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from gateway.app import INDEX_FILE, OBJECTS_FOLDER, index_place
from gateway.processes import lock_folder
from gateway.settings import Settings
from storage.archive import Archive
from storage.attributes import extended_by
from storage.errors import StorageUnavailable
from storage.extended import read_extended
from storage.index import RelationalIndex, Version, open_index, read_version
from storage.objects import FilesystemObjectStore, open_object_store
from storage.rebuild import Rebuild, Rebuilt, follow_on, swap_in
from storage.upkeep import Cursor, Depth, Pace, Scrub, Step

REBUILD_FOLDER = "rebuild"
_RUN_FOLDER = "run"
_STATEMENT_SECONDS = 3600.0  # nobody waits for these


@dataclass(frozen=True, slots=True)
class ScrubOrder:
    """What the operator wants looked at. rate_mb: megabytes a second, 0 for no limit."""

    depth: Depth
    with_orphans: bool
    is_repairing: bool
    is_restarted: bool
    rate_mb: float
    grace_hours: float


def scrub(values: Settings, order: ScrubOrder) -> Iterator[Step]:
    """Look at the archive, which may be in use, and mend it where that is wanted. Raises StorageUnavailable."""
    with _opened(values) as (objects, index):
        folder = values.archive.data / _RUN_FOLDER
        folder.mkdir(mode=0o700, exist_ok=True)
        cursor = Cursor(folder / "scrub.json")
        if order.is_restarted:
            cursor.forget()
        archive = Archive(objects, index, maximum_instance_bytes=values.archive.maximum_instance_bytes)
        yield from Scrub(
            objects,
            index,
            archive if order.is_repairing else None,
            depth=order.depth,
            with_orphans=order.with_orphans,
            grace_seconds=order.grace_hours * 3600,
            pace=Pace(order.rate_mb * 1e6),
            cursor=cursor,
        ).run()


@contextlib.contextmanager
def _opened(values: Settings) -> Iterator[tuple[FilesystemObjectStore, RelationalIndex]]:
    """Store and index of the data folder, which has to be one. Raises StorageUnavailable."""
    objects = _existing_objects(values)
    with (
        extended_by(read_extended(values.archive.extended_tags)),
        contextlib.closing(open_index(index_place(values), search_seconds=_STATEMENT_SECONDS)) as index,
    ):
        yield objects, index


def _existing_objects(values: Settings) -> FilesystemObjectStore:
    """The store, which is not made here: of a folder that was mistyped nothing must be said to be well."""
    folder = values.archive.data / OBJECTS_FOLDER
    if not folder.is_dir():
        raise StorageUnavailable(f"There is no archive in the data folder {values.archive.data}")
    return open_object_store(folder)


def rebuild(
    values: Settings, into: str, *, with_digests: bool, say: Callable[[str], None] = lambda _: None
) -> Iterator[Rebuilt]:
    """Make the index anew from the objects, and put it in the place of the old one when it is whole.

    into: URL of an empty PostgreSQL database that is to be the index; otherwise that of the settings. say: told what
    an operator should know. No gateway may run. Raises CannotStart, StorageUnavailable.
    """
    objects = _existing_objects(values)
    with contextlib.ExitStack() as held:
        held.callback(os.close, lock_folder(values.archive.data))
        folder = values.archive.data / REBUILD_FOLDER
        folder.mkdir(mode=0o700, exist_ok=True)
        place: Path | str = into or values.archive.index or folder / INDEX_FILE
        work = Rebuild(objects, folder, str(place), with_digests=with_digests)
        held.callback(work.close)
        held.enter_context(extended_by(read_extended(values.archive.extended_tags)))
        goes_on = work.prepare()
        if isinstance(place, Path) and not goes_on:
            _remove(place)
        with contextlib.closing(open_index(place, search_seconds=_STATEMENT_SECONDS)) as index:
            if not goes_on and not index.upkeep.is_empty():
                raise StorageUnavailable("The database is not empty; make another one, and name it with --index")
            yield from work.run(index)
            _follow_on(values, place, index, say)
        work.finish()
        work.close()
        if isinstance(place, Path):
            before = swap_in(place, values.archive.data / INDEX_FILE)
            if before is not None:
                say(f"The index as it was is kept in {before}; remove it when all is well.")
        _remove(folder / "plan.sqlite")


def _follow_on(values: Settings, place: Path | str, index: RelationalIndex, say: Callable[[str], None]) -> None:
    """Take over what an index of before can still tell, where there is one."""
    before = index_place(values)
    if before == place or (isinstance(before, Path) and not before.exists()):
        return
    try:
        with contextlib.closing(open_index(before, search_seconds=_STATEMENT_SECONDS)) as old:
            follow_on(index, old)
    except StorageUnavailable:
        say("The index of before cannot be read: the change feed begins anew, and nothing waits to be forwarded.")


def _remove(path: Path) -> None:
    for suffix in ("", "-wal", "-shm"):
        path.with_name(path.name + suffix).unlink(missing_ok=True)


def version(values: Settings) -> Version:
    """How far the schema of the index is up to date. Raises StorageUnavailable."""
    _existing_objects(values)
    return read_version(index_place(values))


def migrate(values: Settings) -> tuple[Version, Version]:
    """Bring the schema of the index up to date; what it was before and is now. No gateway may run.

    Raises CannotStart, StorageUnavailable.
    """
    with contextlib.ExitStack() as held:
        held.callback(os.close, lock_folder(values.archive.data))
        before = version(values)
        open_index(index_place(values), search_seconds=_STATEMENT_SECONDS).close()
        return before, read_version(index_place(values))
