"""The versions of an instance: the one that is current, and those that came under its UID besides (R4, R5).

What becomes of bytes whose SOP Instance UID is taken is decided here, within the transaction that writes them, so that
nobody comes in between (R13). A version that is not current is a row of ``rival``, with its object; none is lost.
"""

from __future__ import annotations

import zlib
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from storage.attributes import level_attributes
from storage.dicomjson import read_metadata
from storage.errors import InstanceConflict, OnHold
from storage.index import tombstones
from storage.index.engine import Connection
from storage.index.sql import INSTANCE_COLUMNS, INSTANCE_TABLES
from storage.model import CURRENT, Coerced, Conflict, Entry, Instance, JsonElement, Level, Outcome, Source, Version

ENCODING = (
    "sop_instance_uid",
    "sop_class_uid",
    "transfer_syntax_uid",
    "digest",
    "object_key",
    "size_bytes",
    "data_set_offset",
    "number_of_frames",
)
RECEIVED = ("received_at", "last_received_at", "receive_count", "door", "calling_ae", "address")

_LOOKED_AT = 64  # instances that are asked what they say of their parents, in one transaction

_RIVAL = ("outcome", "study_instance_uid", "series_instance_uid", *ENCODING, *RECEIVED)
_INSERT_RIVAL = f"INSERT INTO rival ({', '.join(_RIVAL)}) VALUES ({', '.join('?' * len(_RIVAL))})"  # noqa: S608 - constants
_SET_ASIDE = (
    f"INSERT INTO rival ({', '.join(_RIVAL)}) SELECT ?, study.study_instance_uid, series.series_instance_uid, "  # noqa: S608 - constants
    f"{', '.join(f'instance.{name}' for name in (*ENCODING, *RECEIVED))} FROM {INSTANCE_TABLES} "
    "WHERE instance.sop_instance_uid = ?"
)
_THE_RIVAL = "sop_instance_uid = ? AND transfer_syntax_uid = ? AND digest IN (?, ?, ?)"
_RIVAL_AGAIN = f"UPDATE rival SET last_received_at = ?, receive_count = receive_count + 1 WHERE {_THE_RIVAL}"  # noqa: S608 - constants
_RIVAL_KEY = "SELECT object_key FROM rival WHERE sop_instance_uid = ? AND transfer_syntax_uid = ? AND digest = ?"
_IS_RIVAL = f"SELECT EXISTS (SELECT 1 FROM rival WHERE {_THE_RIVAL})"  # noqa: S608 - constants
_TAKE_BACK = (
    "DELETE FROM rival WHERE sop_instance_uid = ? AND transfer_syntax_uid = ? AND digest = ? "
    "RETURNING received_at, last_received_at, receive_count"
)
_MADE_OF = (
    "SELECT digest, changed_at, given_by FROM coercion "
    "WHERE sop_instance_uid = ? AND transfer_syntax_uid = ? AND received_digest = ?"
)
_NOTE_COERCION = (
    "INSERT INTO coercion (sop_instance_uid, transfer_syntax_uid, received_digest, digest, changed_at, given_by) "
    "VALUES (?, ?, ?, ?, ?, ?) ON CONFLICT (sop_instance_uid, transfer_syntax_uid, received_digest) "
    "DO UPDATE SET digest = excluded.digest, changed_at = excluded.changed_at, given_by = excluded.given_by"
)
_ITS_RECEIVED = ", ".join(f"instance.{name}" for name in RECEIVED)
# One statement, so that no version is seen twice or not at all while another becomes current.
_VERSIONS = (
    f"SELECT {INSTANCE_COLUMNS}, {_ITS_RECEIVED}, "  # noqa: S608 - constants
    f"'{CURRENT}' AS outcome, 0 AS place, instance.id AS id FROM {INSTANCE_TABLES} "
    "WHERE instance.sop_instance_uid = ? UNION ALL "
    f"SELECT study_instance_uid, series_instance_uid, {', '.join((*ENCODING, *RECEIVED))}, outcome, 1, id FROM rival "
    "WHERE sop_instance_uid = ? ORDER BY place, received_at DESC, id DESC"
)
_BELOW = {
    Level.STUDY: (
        "SELECT instance.id FROM series JOIN instance ON instance.series = series.id WHERE series.study = ? "
        "ORDER BY instance.id LIMIT ?"
    ),
    Level.SERIES: "SELECT id FROM instance WHERE series = ? ORDER BY id LIMIT ?",
}
_LEVELS = {Level.STUDY: (Level.PATIENT, Level.STUDY), Level.SERIES: (Level.SERIES,)}


def encoding_of(instance: Instance) -> tuple[Any, ...]:
    """The values of ``ENCODING``."""
    return (
        instance.sop_instance_uid,
        instance.sop_class_uid,
        instance.transfer_syntax_uid,
        instance.digest,
        instance.key,
        instance.size_bytes,
        instance.data_set_offset,
        instance.number_of_frames,
    )


def received_at(source: Source, now: str) -> tuple[Any, ...]:
    """The values of ``RECEIVED`` for what comes for the first time."""
    return (now, now, 1, source.door, source.calling_ae, source.address)


def outcome_of(instance: Instance, current: Instance) -> Outcome:
    """What an instance is to the one that has its SOP Instance UID.

    A variant is the same instance in another transfer syntax, so it belongs to the same series; everything else
    that is not the very same is a conflict.
    """
    if (instance.digest, instance.transfer_syntax_uid) == (current.digest, current.transfer_syntax_uid):
        return Outcome.DUPLICATE
    has_same_parents = (instance.study_instance_uid, instance.series_instance_uid) == (
        current.study_instance_uid,
        current.series_instance_uid,
    )
    if has_same_parents and instance.transfer_syntax_uid != current.transfer_syntax_uid:
        return Outcome.VARIANT
    return Outcome.CONFLICT


def decided(
    connection: Connection, entry: Entry, current: Instance, conflict: Conflict
) -> Outcome | InstanceConflict | OnHold:
    """What becomes of an entry whose SOP Instance UID is taken; a refusal is returned, as nothing was written.

    The bytes that came are what is compared, so an instance that was coerced is a duplicate when it comes again.
    """
    outcome = outcome_of(entry.instance, current)
    is_same_syntax = entry.instance.transfer_syntax_uid == current.transfer_syntax_uid
    if outcome is Outcome.DUPLICATE or (is_same_syntax and current.digest in _same_bytes(connection, entry)):
        return Outcome.DUPLICATE
    if conflict is Conflict.REPLACE:
        return tombstones.refusal_to_replace(connection, current.scope) or Outcome.REPLACED
    if conflict is Conflict.REJECT and outcome is Outcome.CONFLICT:
        return InstanceConflict(uid=entry.instance.sop_instance_uid)
    return outcome


def _same_bytes(connection: Connection, entry: Entry) -> tuple[str, str, str]:
    """The digests under which the bytes that came may be kept: as they will be, as they came, and as they were when
    they came before.
    """
    instance = entry.instance
    received = instance.digest if entry.coerced is None else entry.coerced.digest
    found = connection.execute(_MADE_OF, (instance.sop_instance_uid, instance.transfer_syntax_uid, received)).fetchone()
    return instance.digest, received, instance.digest if found is None else found[0]


def _the_rival(connection: Connection, entry: Entry) -> tuple[str, ...]:
    return (entry.instance.sop_instance_uid, entry.instance.transfer_syntax_uid, *_same_bytes(connection, entry))


def is_beside(connection: Connection, entry: Entry) -> bool:
    """Whether the bytes that came are kept beside the current version already."""
    ((is_known,),) = connection.execute(_IS_RIVAL, _the_rival(connection, entry)).fetchall()
    return bool(is_known)


def key_of(connection: Connection, instance: Instance, current: Instance) -> str:
    """The key in the row that has the very bytes of an instance, as it will be kept; empty without one."""
    if outcome_of(instance, current) is Outcome.DUPLICATE:
        return current.key
    same = (instance.sop_instance_uid, instance.transfer_syntax_uid, instance.digest)
    row = connection.execute(_RIVAL_KEY, same).fetchone()
    return str(row[0]) if row else ""


def put_beside(connection: Connection, entry: Entry, outcome: Outcome, now: str) -> None:
    """Keep an entry beside the current version; one that is there already came once more."""
    if connection.execute(_RIVAL_AGAIN, (now, *_the_rival(connection, entry))).rowcount:
        return
    instance = entry.instance
    uids = (instance.study_instance_uid, instance.series_instance_uid)
    values = (outcome.value, *uids, *encoding_of(instance), *received_at(entry.source, now))
    connection.execute(_INSERT_RIVAL, values)
    note_coercion(connection, entry)


def set_aside(connection: Connection, current: Instance) -> None:
    """Put what is current beside what will be."""
    connection.execute(_SET_ASIDE, (Outcome.REPLACED.value, current.sop_instance_uid))


def taken_back(connection: Connection, entry: Entry, now: str, *, is_received: bool) -> tuple[Any, ...]:
    """Take a version out that may be kept beside the current one; the values of ``RECEIVED`` it has from then on."""
    instance, source = entry.instance, entry.source
    where = (instance.sop_instance_uid, instance.transfer_syntax_uid, instance.digest)
    rows = connection.execute(_TAKE_BACK, where).fetchall()
    if not rows:
        return received_at(source, now)
    first, last, count = rows[0]
    when = (first, now, count + 1) if is_received else (first, last, count)
    return (*when, source.door, source.calling_ae, source.address)


def note_coercion(connection: Connection, entry: Entry) -> None:
    """Remember what the bytes that came were made into."""
    instance, coerced = entry.instance, entry.coerced
    if coerced is not None:
        uids = (instance.sop_instance_uid, instance.transfer_syntax_uid)
        how = (coerced.digest, instance.digest, coerced.changed_at, coerced.given_by)
        connection.execute(_NOTE_COERCION, (*uids, *how))


def coerced_before(
    connection: Connection, sop_instance_uid: str, transfer_syntax_uid: str, digest: str
) -> Coerced | None:
    """How bytes of that digest were coerced when they came before; None when they were not."""
    found = connection.execute(_MADE_OF, (sop_instance_uid, transfer_syntax_uid, digest)).fetchone()
    return None if found is None else Coerced(digest, *found[1:])


def versions_of(connection: Connection, sop_instance_uid: str) -> list[Version]:
    """Every version of an instance: the current one, then the others, latest first."""
    rows = connection.execute(_VERSIONS, (sop_instance_uid, sop_instance_uid)).fetchall()
    return [_version(row) for row in rows]


def _version(row: Sequence[Any]) -> Version:
    *identity, first, last, count, door, calling_ae, address, outcome, _, _ = row
    return Version(outcome, Instance(*identity), first, last, count, Source(door, calling_ae, address))


def first_values(
    connection: Connection, level: Level, owner: int, kept: Mapping[str, JsonElement]
) -> Mapping[str, JsonElement]:
    """What the instances below a study or series say of it now, the first to come going first, as it is when they are
    stored one after the other.

    kept: what was said before one of them was taken out. Nearly always the first instance says all of it. After
    ``_LOOKED_AT`` of them, or where one cannot be read, what nobody has said stays as it was.
    """
    found: dict[str, JsonElement] = {}
    rows = connection.execute(_BELOW[level], (owner, _LOOKED_AT)).fetchall()
    is_all = len(rows) < _LOOKED_AT
    for one in rows:
        packed = connection.execute("SELECT metadata FROM document WHERE instance = ?", one).fetchone()
        said = _said(bytes(packed[0]), _LEVELS[level]) if packed else None
        is_all = is_all and said is not None
        found = {**(said or {}), **found}
        if kept.keys() <= found.keys():
            break
    unsaid = {} if is_all else {tag: kept[tag] for tag in kept.keys() - found.keys()}
    return {**unsaid, **found}


def _said(packed: bytes, levels: Collection[Level]) -> dict[str, JsonElement] | None:
    """None for what cannot be read: nothing is kept from going for a neighbour that is damaged, which a scrub mends."""
    try:
        said = level_attributes(read_metadata(packed, ""))
    except (zlib.error, ValueError):
        return None
    return {tag: element for level in levels for tag, element in said[level].items()}
