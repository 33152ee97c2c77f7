"""Journal: what objects cannot tell again, as small objects beside them, which are only ever added (D1).

An object lies in the store as long as it is of any use, also when its instance was deleted and when another version of
it is the current one. Entries say so; a rebuild of the index reads all of them and needs no order of the clock to know
what is deleted: a deletion names the keys it took, and what was taken back names the deletion. An entry is durable on
return. Its name follows from what it says, but for the moment, so that saying it again adds nothing.
"""

from __future__ import annotations

import enum
import hashlib
import re
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import orjson

from storage.errors import CorruptObject, NotFound
from storage.keys import JOURNAL, journal_digest, journal_key
from storage.model import Burial, Extent, Hold, Instance, Scope, Source
from storage.objects.base import ObjectStore
from storage.provenance import iso_time, nanoseconds, provenance_of

MOST_OF_ONE_ENTRY = 1000
MAXIMUM_ENTRY_BYTES = 4 << 20


class Kind(enum.Enum):
    """What an entry says, as its name has it."""

    DELETED = "deleted"
    RESTORED = "restored"
    CURRENT = "current"
    REPLACED = "replaced"
    HELD = "held"
    RELEASED = "released"


@dataclass(frozen=True, slots=True)
class JournalEntry:
    """One entry.

    key: where it lies. at: of DELETED and RESTORED when the resource was deleted, which names the deletion; of CURRENT
    when that version became the current one, of REPLACED when it was so instead of another; of HELD and RELEASED when
    the resource was put on hold, which names the hold. ISO 8601 in UTC.
    moment_ns: when it was said, in nanoseconds since 1970; an object that came after the one of its deletion is a new
    one. buried: of DELETED as in ``Burial``; of the others the resource with the keys it is about. source, extent: of
    DELETED, as in ``Burial``; None in entries from before.
    """

    key: str
    kind: Kind
    at: str
    scope: Scope
    buried: tuple[tuple[Scope, str], ...]
    moment_ns: int
    source: Source | None = None
    extent: Extent | None = None

    @property
    def keys(self) -> list[str]:
        """The keys of objects that it is about."""
        return [key for _, key in self.buried if key]


class Journal:
    """The journal in an object store. Thread-safe, for any number of processes. Each call raises StorageUnavailable."""

    def __init__(self, objects: ObjectStore) -> None:
        self._objects = objects

    def deleted(self, burial: Burial) -> None:
        """Say that a resource was deleted, before anybody is told that it was. Of a large one it takes several entries.

        What is sent again later under one of the keys has to be ``restored``, unless its object was collected before.
        """
        source, extent = burial.source, burial.extent
        more = {
            "by": [source.door, source.calling_ae, source.address],
            "extent": [extent.series, extent.instances, extent.objects, extent.size_bytes],
        }
        for start in range(0, len(burial.buried), MOST_OF_ONE_ENTRY):
            buried = burial.buried[start : start + MOST_OF_ONE_ENTRY]
            said = _said(Kind.DELETED, burial.deleted_at, burial.scope, buried) | more
            if self._is_said(said):  # asking for it once more is cheap, however much it was
                continue
            # Not before any of its objects, whatever the clock has done meanwhile.
            moment_ns = max([nanoseconds(burial.deleted_at), *(self._received_ns(key) for _, key in buried if key)])
            self._write(said, moment_ns)

    def restored(self, scope: Scope, deleted_at: str, keys: Sequence[str]) -> None:
        """Say that objects are no longer deleted by the deletion of that time, whatever the scope of that was."""
        for start in range(0, len(keys), MOST_OF_ONE_ENTRY):
            buried = tuple((scope, key) for key in keys[start : start + MOST_OF_ONE_ENTRY])
            said = _said(Kind.RESTORED, deleted_at, scope, buried)
            self._write(said, max(time.time_ns(), nanoseconds(deleted_at)))

    def made_current(self, instance: Instance, at_ns: int) -> None:
        """Say that of all that is kept under the instance's UID this version is the current one, from a time on."""
        self._write(_said(Kind.CURRENT, iso_time(at_ns), instance.scope, ((instance.scope, instance.key),)), at_ns)

    def replaced(self, instance: Instance, at_ns: int) -> None:
        """Say that this version was the current one at a time, though another one of its instance came first."""
        self._write(_said(Kind.REPLACED, iso_time(at_ns), instance.scope, ((instance.scope, instance.key),)), at_ns)

    def held(self, hold: Hold) -> None:
        """Say that a resource is on hold, until the same hold is said to be ``released``, before anybody is told."""
        self._write(_said(Kind.HELD, hold.held_at, hold.scope, ()), nanoseconds(hold.held_at))

    def released(self, hold: Hold) -> None:
        """Say that a hold has ended."""
        self._write(_said(Kind.RELEASED, hold.held_at, hold.scope, ()), nanoseconds(hold.held_at))

    def entries(self) -> Iterator[JournalEntry]:
        """Every entry, in no order. Raises CorruptObject for one that is not what was written."""
        for key in self._objects.keys(JOURNAL):
            yield self.read(key)

    def read(self, key: str) -> JournalEntry:
        """One entry. Raises NotFound, or CorruptObject when it is not what was written."""
        with self._objects.open(key) as blob:
            if blob.size_bytes > MAXIMUM_ENTRY_BYTES:
                raise CorruptObject("An entry of the journal is damaged")
            content = blob.read(0, blob.size_bytes)
        try:
            return _read(key, orjson.loads(content))
        except (KeyError, TypeError, ValueError) as error:
            raise CorruptObject("An entry of the journal is damaged") from error

    def _received_ns(self, key: str) -> int:
        try:
            return provenance_of(self._objects.stat(key)).received_ns
        except NotFound:
            return 0

    def _is_said(self, said: dict[str, Any]) -> bool:
        try:
            self.read(_key_of(said))
        except (NotFound, CorruptObject):
            return False
        return True

    def _write(self, said: dict[str, Any], moment_ns: int) -> None:
        content = orjson.dumps(said | {"moment_ns": moment_ns, "sha256": _digest(said, moment_ns)})
        self._objects.write(_key_of(said), content)


def _said(kind: Kind, at: str, scope: Scope, buried: Sequence[tuple[Scope, str]]) -> dict[str, Any]:
    return {
        "kind": kind.value,
        "at": at,
        "scope": _uids(scope),
        "buried": [[*_uids(one), key] for one, key in buried],
    }


def _key_of(said: dict[str, Any]) -> str:
    return journal_key(_digits(said["at"]), said["kind"], _digest(said)[:32])


def _digest(said: dict[str, Any], *more: int) -> str:
    return hashlib.sha256(orjson.dumps([said, *more])).hexdigest()


def _digits(at: str) -> str:
    """Year to microsecond as 20 digits, which ascend as times do."""
    return re.sub(r"\D", "", at.partition("+")[0]).ljust(20, "0")


def _uids(scope: Scope) -> list[str]:
    return [scope.study_instance_uid, scope.series_instance_uid, scope.sop_instance_uid]


def _read(key: str, said: dict[str, Any]) -> JournalEntry:
    """What the content of an entry says. Raises KeyError, TypeError or ValueError where it is not what was written."""
    moment_ns, sha256 = said.pop("moment_ns"), said.pop("sha256")
    if _digest(said, moment_ns) != sha256 or _digest(said)[:32] != journal_digest(key):
        raise ValueError("The digests do not agree")
    buried = tuple((Scope(*uids), kept_at) for *uids, kept_at in said["buried"])
    source, extent = said.get("by"), said.get("extent")
    return JournalEntry(
        key,
        Kind(said["kind"]),
        said["at"],
        Scope(*said["scope"]),
        buried,
        moment_ns,
        Source(*source) if source else None,
        Extent(*extent) if extent else None,
    )
