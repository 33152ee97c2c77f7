"""Tombstones: what is known of what was deleted, written and asked in the transaction that it belongs to (R9).

An object outlives its row for a while, and whoever sends the same bytes again has to find it or make it anew, with a
collector at work. So a key is *spent*, in a transaction that sees that no row refers to it, before its object is
removed, and no row ever gets a spent key again: ``claim`` says which key the bytes get instead. Whoever stored looked
for the object before; it asks ``claim`` in the transaction that writes the row, and so a collector comes either before
that, and the object is kept under another key, or after it, and finds the row. However late a collector comes to
removing what it has spent, on whatever machine, it removes nothing that a row refers to (I1).
"""

from __future__ import annotations

import datetime as dt
import math
from collections.abc import Collection, Iterable, Sequence
from typing import Any

from storage.errors import OnHold, RateLimited
from storage.index.dialect import Statement
from storage.index.engine import Connection
from storage.index.sql import INSTANCE_TABLES, scope_condition
from storage.keys import following_key
from storage.model import Burial, Extent, Scope, Source

KEPT, RETURNED, SPENT, COLLECTED = "kept", "returned", "spent", "collected"
WINDOW_SECONDS = 60

_BURY_SCOPE = (
    "INSERT INTO tombstone (study_instance_uid, series_instance_uid, sop_instance_uid, object_key, deleted_at, "
    "deletion, object_state) VALUES (?, ?, ?, ?, ?, ?, ?)"
)
_BURY = (
    "INSERT INTO tombstone (study_instance_uid, series_instance_uid, sop_instance_uid, object_key, deleted_at, "
    "deletion, object_state, size_bytes, door, calling_ae, address) "
    "SELECT study.study_instance_uid, series.series_instance_uid, instance.sop_instance_uid, {of}.object_key, "
    "?, ?, 'kept', {of}.size_bytes, {of}.door, {of}.calling_ae, {of}.address FROM {tables} WHERE {condition} "
    "ORDER BY {of}.id"
)
_RIVALS = f"{INSTANCE_TABLES} JOIN rival ON rival.sop_instance_uid = instance.sop_instance_uid"
_NOTE = (
    "INSERT INTO deletion (study_instance_uid, series_instance_uid, sop_instance_uid, deleted_at, door, calling_ae, "
    "address, number_of_series, number_of_instances, number_of_objects, size_bytes) "
    "VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?) RETURNING id"
)
_NOTED = (
    "SELECT id FROM deletion WHERE deleted_at = ? AND study_instance_uid = ? AND series_instance_uid = ? "
    "AND sop_instance_uid = ?"
)
_IS_TAKEN = "SELECT EXISTS (SELECT 1 FROM deletion WHERE deleted_at = ?)"
_OF_DELETION = (
    "SELECT id, study_instance_uid, series_instance_uid, sop_instance_uid, object_key FROM tombstone WHERE deletion = ?"
)
# The index on keys has none that are empty, and has to be told so.
IS_BURIED = "EXISTS (SELECT 1 FROM tombstone WHERE tombstone.object_key = ? AND tombstone.object_key <> '')"
_STATES = "SELECT object_state FROM tombstone WHERE object_key = ? AND object_key <> ''"
_REVIVE = (
    "UPDATE tombstone SET object_state = 'returned' WHERE object_key = ? AND object_key <> '' AND object_state = 'kept'"
)
_SPEND = (
    "UPDATE tombstone SET object_state = 'spent', times_spent = times_spent + 1 "
    "WHERE object_key = ? AND object_key <> ''"
)
_LET_GO = "UPDATE tombstone SET object_state = 'returned' WHERE id = ?"
_LATEST = (
    "SELECT deleted_at FROM deletion WHERE door = ? AND address = ? AND deleted_at > ? ORDER BY deleted_at DESC LIMIT ?"
)


# ---- stores --------------------------------------------------------------------------------------------------------


def claim(connection: Connection, key: str, known: str = "") -> str:
    """The key under which an object must be for a row to refer to it, where something was deleted that had ``key``; see
    ``IS_BURIED``. It becomes that of a row when it is the one that is returned.

    known: of the row that has these very bytes already, if there is one. What a store has put under a spent key is
    for the collector once more.
    """
    states = {state for (state,) in connection.execute(_STATES, (key,)).fetchall()}
    if states & {SPENT, COLLECTED}:
        connection.execute(_SPEND, (key,))
        return known or _free_key(connection, following_key(key))
    if known:
        return known
    if KEPT in states:
        revive(connection, key)
    return key


def revive(connection: Connection, key: str) -> None:
    """Say that what was deleted has a row again; nothing for any other key."""
    connection.execute(_REVIVE, (key,))


def give_up(connection: Connection, key: str, now: str) -> None:
    """Leave an object to the collector that a store has made and no row will refer to, as the same is there in another
    form. What is kept of something that was deleted stays.
    """
    states = {state for (state,) in connection.execute(_STATES, (key,)).fetchall()}
    if not states:
        connection.execute(_BURY_SCOPE, ("", "", "", key, now, None, SPENT))
    elif states & {SPENT, COLLECTED}:
        connection.execute(_SPEND, (key,))


def _free_key(connection: Connection, key: str) -> str:
    while {SPENT, COLLECTED} & {state for (state,) in connection.execute(_STATES, (key,)).fetchall()}:
        key = following_key(key)
    return key


# ---- deletions -----------------------------------------------------------------------------------------------------


def extent_of(connection: Connection, scope: Scope) -> Extent | None:
    """How much there is under a scope, None for nothing."""
    condition, parameters = scope_condition(scope)
    if not parameters:  # a scope that names nothing is everything
        return None
    series, instances, instance_bytes = connection.execute(
        "SELECT count(DISTINCT instance.series), count(*), coalesce(sum(instance.size_bytes), 0) "  # noqa: S608 - constants
        f"FROM {INSTANCE_TABLES} WHERE {condition}",
        parameters,
    ).fetchone()
    if not instances:
        return None
    rivals, rival_bytes = connection.execute(
        f"SELECT count(*), coalesce(sum(rival.size_bytes), 0) FROM {_RIVALS} WHERE {condition}",  # noqa: S608 - constants
        parameters,
    ).fetchone()
    return Extent(int(series), int(instances), int(instances + rivals), int(instance_bytes + rival_bytes))


def refusal(connection: Connection, scope: Scope, by: Source, per_minute: int, now: str) -> OnHold | RateLimited | None:
    """Why something may not be deleted: a hold on it, above it or in it, or haste; None where it may.

    per_minute: how often that may be, by one door from one address; 0 for any.
    """
    if per_minute and (seconds := _wait_seconds(connection, by, per_minute, now)):
        return RateLimited(seconds=seconds)
    overlap, uids = overlapping(scope)
    condition, parameters = scope_condition(scope)
    of_rivals = f"SELECT 1 FROM {_RIVALS} JOIN hold ON {held('rival')} WHERE {condition}"  # noqa: S608 - constants
    (is_held,) = connection.execute(
        f"SELECT EXISTS (SELECT 1 FROM hold WHERE {overlap}) OR EXISTS ({of_rivals})",  # noqa: S608 - constants
        [*uids, *parameters],
    ).fetchone()
    return OnHold(uid=_named_by(scope)) if is_held else None


def refusal_to_replace(connection: Connection, scope: Scope) -> OnHold | None:
    """Why no other version may take the place of an instance: a hold on it, or on what it is in; None where it may."""
    overlap, uids = overlapping(scope)
    ((is_held,),) = connection.execute(f"SELECT EXISTS (SELECT 1 FROM hold WHERE {overlap})", uids).fetchall()  # noqa: S608 - constants
    return OnHold(uid=_named_by(scope)) if is_held else None


def _named_by(scope: Scope) -> str:
    return scope.sop_instance_uid or scope.series_instance_uid or scope.study_instance_uid


def _wait_seconds(connection: Connection, by: Source, per_minute: int, now: str) -> int:
    """How long somebody has to wait until they may delete once more; 0 for not at all."""
    since = dt.datetime.fromisoformat(now) - dt.timedelta(seconds=WINDOW_SECONDS)
    began = since.isoformat(timespec="microseconds")
    rows = connection.execute(_LATEST, (by.door, by.address, began, per_minute)).fetchall()
    if len(rows) < per_minute:
        return 0
    wait = dt.datetime.fromisoformat(rows[-1][0]) - since
    return max(1, min(WINDOW_SECONDS, math.ceil(wait.total_seconds())))


def below(scope: Scope) -> Statement:
    """Which tombstones are of a resource or of what was in it."""
    return _named(scope, "{} = ?")


def overlapping(scope: Scope) -> Statement:
    """Which holds are on a resource, above it or below it."""
    return _named(scope, "{} IN ('', ?)")


def _named(scope: Scope, text: str) -> Statement:
    uids = {
        "study_instance_uid": scope.study_instance_uid,
        "series_instance_uid": scope.series_instance_uid,
        "sop_instance_uid": scope.sop_instance_uid,
    }
    given = {column: uid for column, uid in uids.items() if uid}
    return " AND ".join(map(text.format, given)) or "FALSE", list(given.values())


def held(table: str) -> str:
    """The condition that a row of ``hold`` is on a row that names a resource by all of its UIDs."""
    return (
        f"hold.study_instance_uid = {table}.study_instance_uid "
        f"AND hold.series_instance_uid IN ('', {table}.series_instance_uid) "
        f"AND hold.sop_instance_uid IN ('', {table}.sop_instance_uid)"
    )


def note_deletion(connection: Connection, scope: Scope, by: Source, found: Extent, now: str) -> int:
    """Write down that something is deleted, and by whom; returns the number of it."""
    uids = (scope.study_instance_uid, scope.series_instance_uid, scope.sop_instance_uid)
    source = (by.door, by.calling_ae, by.address)
    amounts = (found.series, found.instances, found.objects, found.size_bytes)
    (number,) = connection.execute(_NOTE, (*uids, now, *source, *amounts)).fetchone()
    return int(number)


def bury_instances(connection: Connection, condition: str, parameters: Sequence[Any], deletion: int, now: str) -> None:
    """Tombstones of instances, in the order in which they were stored, and then those of their rivals."""
    for of, tables in (("instance", INSTANCE_TABLES), ("rival", _RIVALS)):
        text = _BURY.format(of=of, tables=tables, condition=condition)
        connection.execute(text, (now, deletion, *parameters))


def bury_scopes(connection: Connection, scopes: Iterable[Scope], deletion: int | None, now: str) -> None:
    """Tombstones of series and studies that are empty, and of where an instance was before, which was no deletion."""
    connection.executemany(_BURY_SCOPE, [(*uids_of(scope), "", now, deletion, "") for scope in scopes])


def uids_of(scope: Scope) -> tuple[str, str, str]:
    """The UIDs of a scope, those that it does not name empty."""
    return scope.study_instance_uid, scope.series_instance_uid, scope.sop_instance_uid


def moment_of_next(connection: Connection, now: str) -> str:
    """The time of a deletion that is made now: no two have the same, as the journal knows each by its time."""
    while connection.execute(_IS_TAKEN, (now,)).fetchone()[0]:
        later = dt.datetime.fromisoformat(now) + dt.timedelta(microseconds=1)
        now = later.isoformat(timespec="microseconds")
    return now


def deletion_of(connection: Connection, burial: Burial) -> int:
    """The number of a deletion as it once was, which is written down unless it is already."""
    found = connection.execute(_NOTED, (burial.deleted_at, *uids_of(burial.scope))).fetchone()
    if found is not None:
        return int(found[0])
    return note_deletion(connection, burial.scope, burial.source, burial.extent, burial.deleted_at)


def last_tombstone(connection: Connection) -> int:
    """The number of the last tombstone; 0 while there is none."""
    return int(connection.execute("SELECT coalesce(max(id), 0) FROM tombstone").fetchone()[0])


def make_those_of(
    connection: Connection, burial: Burial, deletion: int, made_after: int, given_up: Collection[str]
) -> None:
    """Have a deletion have the tombstones of then: those that were made just now, after a number, are right for what it
    took, and others are missing.
    """
    wanted = {(*uids_of(scope), key): None for scope, key in burial.buried}
    there: set[tuple[str, ...]] = set()
    too_many = []
    for number, *said in connection.execute(f"{_OF_DELETION} ORDER BY id", (deletion,)).fetchall():
        if number > made_after and (tuple(said) not in wanted or tuple(said) in there):
            too_many.append((number,))
        there.add(tuple(said))
    connection.executemany("DELETE FROM tombstone WHERE id = ?", too_many)

    def state(key: str) -> str:
        return (SPENT if key in given_up else KEPT) if key else ""

    missing = [one for one in wanted if one not in there]
    rows = [(*uids, key, burial.deleted_at, deletion, state(key)) for *uids, key in missing]
    connection.executemany(_BURY_SCOPE, rows)


# ---- the collector -------------------------------------------------------------------------------------------------

_IS_LIVE = (
    "EXISTS (SELECT 1 FROM instance WHERE instance.sop_instance_uid = tombstone.sop_instance_uid "
    "AND instance.object_key = tombstone.object_key) "
    "OR EXISTS (SELECT 1 FROM rival WHERE rival.sop_instance_uid = tombstone.sop_instance_uid "
    "AND rival.object_key = tombstone.object_key)"
)
_IS_BURIED_AGAIN = (
    "EXISTS (SELECT 1 FROM tombstone AS later WHERE later.object_key = tombstone.object_key AND later.object_key <> '' "
    "AND later.object_state = 'kept' AND later.id > tombstone.id)"
)
_DUE = (
    f"SELECT id, object_key, {_IS_LIVE} OR {_IS_BURIED_AGAIN} FROM tombstone "  # noqa: S608 - constants
    f"WHERE object_state = 'kept' AND deleted_at <= ? AND NOT EXISTS (SELECT 1 FROM hold WHERE {held('tombstone')}) "
    "ORDER BY deleted_at, id LIMIT ?"
)


def due(connection: Connection, before: str, limit: int) -> list[tuple[int, str, bool]]:
    """Tombstones from before a time whose objects nobody holds: number, key, and whether the object is needed."""
    rows = connection.execute(_DUE, (before, limit)).fetchall()
    return [(number, key, bool(is_needed)) for number, key, is_needed in rows]


def spend(connection: Connection, before: str, limit: int) -> int:
    """Give up the keys of objects that are due; returns how many tombstones were looked at."""
    rows = due(connection, before, limit)
    connection.executemany(_LET_GO, [(number,) for number, _, is_needed in rows if is_needed])
    connection.executemany(_SPEND, [(key,) for _, key, is_needed in rows if not is_needed])
    return len(rows)
