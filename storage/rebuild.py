"""Rebuild: a whole index from the objects and the journal alone, as stores and deletions made it (D1).

First a plan is made of what has happened, in order: objects by the time at which they came, deletions among them. Then
it is done once more, in an index that was empty, through the same code as a store. Who is stopped makes the plan again,
and goes on where the last one was if it is the same. Nothing is read of Pixel Data but what tells where frames are.
durability: F18
"""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import orjson

from storage.entries import entry_of_object, own_header
from storage.errors import CorruptObject, GatewayError, NotFound, StorageUnavailable
from storage.index.base import Index, IndexUpkeep
from storage.index.sqlite import Connection, Error, connect
from storage.journal import Journal, JournalEntry, Kind
from storage.keys import INSTANCES, JOURNAL, parts_of, turn_of
from storage.model import Burial, Entry, Extent, Hold, Scope, Source
from storage.objects.base import ObjectStore
from storage.provenance import provenance_of
from storage.upkeep import digest_of

AT_ONCE = 200
THREADS = 2
_PENDING_AT_ONCE = 1000
_OBJECT, _DELETION, _REPLACEMENT = 0, 1, 2

_TABLES = """
CREATE TABLE object (key TEXT PRIMARY KEY, sop_instance_uid TEXT NOT NULL, received_ns INTEGER NOT NULL) WITHOUT ROWID;
CREATE TABLE deletion (key TEXT PRIMARY KEY, name TEXT NOT NULL, until_ns INTEGER NOT NULL) WITHOUT ROWID;
CREATE TABLE held (name TEXT PRIMARY KEY, at TEXT NOT NULL, scope TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE released (name TEXT PRIMARY KEY) WITHOUT ROWID;
CREATE TABLE later (key TEXT PRIMARY KEY, first TEXT NOT NULL, turn INTEGER NOT NULL) WITHOUT ROWID;
CREATE TABLE dead (key TEXT, deleted_at TEXT, until_ns INTEGER NOT NULL, PRIMARY KEY (key, deleted_at)) WITHOUT ROWID;
CREATE TABLE restored (key TEXT, deleted_at TEXT, moment_ns INTEGER NOT NULL, PRIMARY KEY (key, deleted_at))
    WITHOUT ROWID;
CREATE TABLE pinned (sop_instance_uid TEXT PRIMARY KEY, at TEXT NOT NULL, key TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE replaced (key TEXT, at_ns INTEGER, PRIMARY KEY (key, at_ns)) WITHOUT ROWID;
CREATE TABLE taken (key TEXT, deleted_at TEXT, PRIMARY KEY (key, deleted_at)) WITHOUT ROWID;
CREATE TABLE event (place INTEGER PRIMARY KEY, kind INTEGER NOT NULL, key TEXT NOT NULL)
"""
_DEAD = "INSERT INTO dead VALUES (?, ?, ?) ON CONFLICT DO UPDATE SET until_ns = max(until_ns, excluded.until_ns)"
_PIN = (
    "INSERT INTO pinned VALUES (?, ?, ?) ON CONFLICT (sop_instance_uid) DO UPDATE SET at = excluded.at, "
    "key = excluded.key WHERE excluded.at >= pinned.at"
)
# Where the same bytes have a later key the earlier ones were given up, whatever is there still.
_FORGET_GIVEN_UP = (
    "DELETE FROM object WHERE key IN (SELECT first FROM later UNION ALL SELECT earlier.key FROM later AS earlier "
    "JOIN later ON later.first = earlier.first WHERE later.turn > earlier.turn)"
)
# An object that came after the deletion was over is another one, sent again when the first had been collected.
_FIND_TAKEN = (
    "INSERT INTO taken SELECT object.key, dead.deleted_at FROM object JOIN dead ON dead.key = object.key "
    "LEFT JOIN restored ON restored.key = dead.key AND restored.deleted_at = dead.deleted_at "
    "WHERE restored.key IS NULL AND object.received_ns <= dead.until_ns"
)
# The version that is current comes when the first of its instance came, unless it took the place of that, which is an
# event of its own; what was restored comes once more.
_ORDER = f"""
INSERT INTO event (kind, key) SELECT kind, key FROM (
    SELECT {_OBJECT} AS kind, object.key AS key, pinned.key IS NULL AS rank,
        CASE WHEN pinned.key IS NULL THEN object.received_ns ELSE
            (SELECT min(other.received_ns) FROM object AS other WHERE other.sop_instance_uid = object.sop_instance_uid)
        END AS at
    FROM object LEFT JOIN pinned ON pinned.key = object.key
    UNION ALL SELECT {_OBJECT}, object.key, 1, restored.moment_ns FROM restored JOIN object ON object.key = restored.key
    UNION ALL SELECT {_DELETION}, min(key), 0, max(until_ns) FROM deletion GROUP BY name
    UNION ALL SELECT {_REPLACEMENT}, replaced.key, 0, at_ns FROM replaced JOIN object ON object.key = replaced.key
) ORDER BY at, kind, rank, key
"""  # noqa: S608 - constants


@dataclass(frozen=True, slots=True)
class Refusal:
    """An object or an entry of the journal of which the index knows nothing now. reason: a constant phrase."""

    key: str
    reason: str


@dataclass(frozen=True, slots=True)
class Rebuilt:
    """A batch that is in the index now. done: of all that is to be done. refused_before: by the one that was stopped,
    which has named them.
    """

    done: int
    all: int
    count: int
    refused: Sequence[Refusal] = ()
    refused_before: int = 0


class Plan:
    """What has happened, in order, in a file of its own that is made anew each time."""

    def __init__(self, path: Path) -> None:
        for suffix in ("", "-wal", "-shm"):
            path.with_name(path.name + suffix).unlink(missing_ok=True)
        self._connection: Connection = connect(path)
        for statement in _TABLES.split(";"):
            self._connection.execute(statement)

    def draw_up(self, objects: ObjectStore) -> Sequence[Refusal]:
        """Look at every object and read the journal; which entries of that are damaged."""
        refused: list[Refusal] = []
        write = self._connection.execute
        write("BEGIN")
        self._connection.executemany("INSERT INTO object VALUES (?, ?, ?)", self._received(objects))
        journal = Journal(objects)
        for key in objects.keys(JOURNAL):
            try:
                self._note(journal.read(key))
            except (CorruptObject, NotFound) as error:
                refused.append(Refusal(key, error.reason))
        write("CREATE INDEX object_by_uid ON object (sop_instance_uid)")
        write("CREATE INDEX later_by_first ON later (first)")
        write("CREATE INDEX deletion_by_name ON deletion (name)")
        write(_FORGET_GIVEN_UP)
        write(_FIND_TAKEN)
        write(_ORDER)
        write("CREATE INDEX event_by_key ON event (key)")
        write("COMMIT")
        return refused

    def _note(self, entry: JournalEntry) -> None:
        write = self._connection.execute
        name = orjson.dumps([entry.at, *_uids(entry.scope)]).decode()
        if entry.kind is Kind.DELETED:
            write("INSERT INTO deletion VALUES (?, ?, ?)", (entry.key, name, entry.moment_ns))
        elif entry.kind is Kind.HELD:
            scope = orjson.dumps(_uids(entry.scope)).decode()
            write("INSERT INTO held VALUES (?, ?, ?) ON CONFLICT DO NOTHING", (name, entry.at, scope))
        elif entry.kind is Kind.RELEASED:
            write("INSERT INTO released VALUES (?) ON CONFLICT DO NOTHING", (name,))
        for key in entry.keys:
            self._note_key(key)
            if entry.kind is Kind.DELETED:
                write(_DEAD, (key, entry.at, entry.moment_ns))
            elif entry.kind is Kind.RESTORED:
                write("INSERT INTO restored VALUES (?, ?, ?) ON CONFLICT DO NOTHING", (key, entry.at, entry.moment_ns))
            elif entry.kind is Kind.REPLACED:
                write("INSERT INTO replaced VALUES (?, ?) ON CONFLICT DO NOTHING", (key, entry.moment_ns))
            else:
                write(_PIN, (entry.scope.sop_instance_uid, entry.at, key))

    def _note_key(self, key: str) -> None:
        first, turn = turn_of(key)
        if turn > 1:
            self._connection.execute("INSERT INTO later VALUES (?, ?, ?) ON CONFLICT DO NOTHING", (key, first, turn))

    def _received(self, objects: ObjectStore) -> Iterator[tuple[str, str, int]]:
        for key in objects.keys(INSTANCES):
            with contextlib.suppress(NotFound):  # somebody has taken it away just now
                parts = parts_of(key)
                assert parts is not None, "an object has a key"
                self._note_key(key)
                yield key, parts.sop_instance_uid, provenance_of(objects.stat(key)).received_ns

    def entries_of(self, key: str) -> list[str]:
        """The keys of all entries that say the same deletion as one of them does."""
        text = "SELECT key FROM deletion WHERE name = (SELECT name FROM deletion WHERE key = ?) ORDER BY key"
        return [one for (one,) in self._connection.execute(text, (key,)).fetchall()]

    def without_object(self, keys: Sequence[str]) -> set[str]:
        """Those of some keys under which nothing lies, or nothing that is to be looked for."""
        text = "SELECT EXISTS (SELECT 1 FROM object WHERE key = ?)"
        return {key for key in keys if not self._connection.execute(text, (key,)).fetchone()[0]}

    def holds(self) -> list[Hold]:
        """What is on hold."""
        text = "SELECT at, scope FROM held WHERE name NOT IN (SELECT name FROM released) ORDER BY at, scope"
        return [Hold(Scope(*orjson.loads(scope)), at) for at, scope in self._connection.execute(text).fetchall()]

    def fingerprint(self) -> str:
        """The same for the same events in the same order, and for no others."""
        sha256 = hashlib.sha256()
        for kind, key in self._connection.execute("SELECT kind, key FROM event ORDER BY place"):
            sha256.update(f"{kind} {key}\n".encode())
        return sha256.hexdigest()

    def last(self) -> int:
        """The place of the last event."""
        (last,) = self._connection.execute("SELECT coalesce(max(place), 0) FROM event").fetchone()
        return int(last)

    def behind(self, place: int) -> tuple[int, int, list[str]]:
        """The next events: up to which place, of which kind, and their keys; no keys at the end. Objects come several
        at once, anything else alone.
        """
        rows = self._connection.execute(
            "SELECT place, kind, key FROM event WHERE place > ? ORDER BY place LIMIT ?", (place, AT_ONCE)
        ).fetchall()
        if rows and rows[0][1] != _OBJECT:
            return rows[0][0], rows[0][1], [rows[0][2]]
        keys = []
        for at, kind, key in rows:
            if kind != _OBJECT:
                break
            place = at
            keys.append(key)
        return place, _OBJECT, keys

    def left_behind(self, keys: Sequence[str], deleted_at: str, place: int) -> list[str]:
        """Those of some keys that a deletion of that time did not take and that do not come once more behind its place,
        in the order in which their objects came.
        """
        text = (
            f"SELECT min(place), max(place) FROM event WHERE key = ? AND kind = {_OBJECT} "  # noqa: S608 - constants
            "AND NOT EXISTS (SELECT 1 FROM taken WHERE taken.key = event.key AND taken.deleted_at = ?)"
        )
        found = [(*self._connection.execute(text, (key, deleted_at)).fetchone(), key) for key in keys]
        return [key for first, last, key in sorted(one for one in found if one[0]) if last < place]

    def close(self) -> None:
        """Let go of the file."""
        self._connection.close()


def _uids(scope: Scope) -> list[str]:
    return [scope.study_instance_uid, scope.series_instance_uid, scope.sop_instance_uid]


@dataclass(slots=True)
class _Place:
    """How far a rebuild has come, in a small file.

    refused: how many objects. waiting: those that a deletion took along and that have to come back.
    """

    path: Path
    fingerprint: str = ""
    done: int = 0
    refused: int = 0
    waiting: list[str] = field(default_factory=list)

    def load(self) -> None:
        """What the last one has written, if it can be read."""
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
            said = orjson.loads(self.path.read_bytes())
            found = said["fingerprint"], int(said["done"]), int(said["refused"]), list(said["waiting"])
            self.fingerprint, self.done, self.refused, self.waiting = found

    def begin(self, fingerprint: str) -> None:
        """Nothing is done yet."""
        self.fingerprint, self.done, self.refused, self.waiting = fingerprint, 0, 0, []

    def save(self) -> None:
        """Durable, for it is believed after a crash."""
        new = self.path.with_suffix(".new")
        with new.open("wb") as file:
            said = {"fingerprint": self.fingerprint, "done": self.done, "refused": self.refused}
            file.write(orjson.dumps(said | {"waiting": self.waiting}))
            file.flush()
            os.fsync(file.fileno())
        new.replace(self.path)


class Rebuild:
    """Fills an index. folder: for the plan and the place, its own; the same one each time for the same index.

    target: names the index; a place that belongs to another is not gone on from. with_digests: read every object whole
    and leave out those that are damaged.
    """

    def __init__(self, objects: ObjectStore, folder: Path, target: str, *, with_digests: bool = False) -> None:
        self._objects = objects
        self._with_digests = with_digests
        self._plan = Plan(folder / "plan.sqlite")
        self._place = _Place(folder / "place.json")
        self._target = target
        self._refused: list[Refusal] = []

    def prepare(self) -> bool:
        """Make the plan; whether the index of last time is a part of it, so that ``run`` may go on with that."""
        self._refused = list(self._plan.draw_up(self._objects))
        fingerprint = hashlib.sha256(f"{self._target} {self._plan.fingerprint()}".encode()).hexdigest()
        self._place.load()
        if self._place.fingerprint == fingerprint:
            return True
        self._place.begin(fingerprint)
        return False

    def run(self, index: Index) -> Iterator[Rebuilt]:
        """Do what is left to do, in an index that is empty or holds what was done before.

        Raises StorageUnavailable when the store or the index cannot be reached; then it can be gone on with.
        """
        rows, last = index.upkeep, self._plan.last()
        if rows.is_empty():  # whatever was said to be done is not there
            self._place.begin(self._place.fingerprint)
        self._place.save()
        yield Rebuilt(self._place.done, last, 0, self._refused, self._place.refused)
        is_first = True
        with ThreadPoolExecutor(THREADS, thread_name_prefix="rebuild") as threads:
            ahead = self._read_ahead(threads, self._place.done)
            while ahead.keys:
                place, kind, keys = ahead.place, ahead.kind, ahead.keys
                read = [one.result() for one in ahead.entries]
                ahead = self._read_ahead(threads, place)
                if kind == _DELETION:
                    refused = self._delete_again(rows, keys[0], place)
                elif kind == _REPLACEMENT:
                    refused = self._replace_again(rows, read[0])
                else:
                    refused = self._store_again(rows, read, is_first=is_first)
                    is_first = False
                self._place.done, self._place.waiting = place, []
                self._place.refused += len(refused)
                self._place.save()
                yield Rebuilt(place, last, len(keys), refused)
        rows.put_holds(self._plan.holds())  # last, as a hold lets nothing be replaced

    def _read_ahead(self, threads: ThreadPoolExecutor, place: int) -> _Ahead:
        to, kind, keys = self._plan.behind(place)
        read = [] if kind == _DELETION else [threads.submit(self._read, key) for key in keys]
        return _Ahead(to, kind, keys, read)

    def _store_again(self, rows: IndexUpkeep, read: Sequence[_Read], *, is_first: bool) -> list[Refusal]:
        if is_first:  # the last one may have been stopped before it wrote down how far it was
            there = rows.known([one.key for one in read], with_deleted=False)
            read = [one for one in read if one.key not in there]
        if len(read) > 1 and all(one.is_unavailable for one in read):  # one of them may lie on a bad sector
            raise StorageUnavailable("Objects cannot be read")
        rows.load([(one.entry, one.received_at) for one in read if one.entry is not None])
        return [Refusal(one.key, one.reason) for one in read if one.entry is None]

    @staticmethod
    def _replace_again(rows: IndexUpkeep, read: _Read) -> list[Refusal]:
        """Let a version take the place of another, which does nothing when it has it already."""
        if read.entry is None:
            return [Refusal(read.key, read.reason)]
        rows.make_current(read.entry, read.received_at)
        return []

    def _delete_again(self, rows: IndexUpkeep, key: str, place: int) -> list[Refusal]:
        """Delete what a deletion took, and put back what came when it was over, though its object lay there before."""
        burial = self._burial(key)
        waiting = [*self._place.waiting, *rows.keys_under(burial.scope)]
        self._place.waiting = self._plan.left_behind(sorted(set(waiting)), burial.deleted_at, place)
        self._place.save()
        rows.bury(burial, self._plan.without_object([one for _, one in burial.buried if one]))
        refused = []
        for start in range(0, len(self._place.waiting), AT_ONCE):
            read = [self._read(one) for one in self._place.waiting[start : start + AT_ONCE]]
            refused += self._store_again(rows, read, is_first=True)
        return refused

    def _burial(self, key: str) -> Burial:
        """A deletion, of all the entries that say it."""
        journal = Journal(self._objects)
        entries = [journal.read(one) for one in self._plan.entries_of(key)]
        first = entries[0]
        buried = tuple(dict.fromkeys(one for entry in entries for one in entry.buried))
        extent = first.extent or _extent_of(buried)
        return Burial(first.scope, first.at, first.source or Source(""), extent, buried)

    def _read(self, key: str) -> _Read:
        """The entry of an object, or why it has none."""
        try:
            provenance = provenance_of(self._objects.stat(key))
            with self._objects.open(key) as blob, blob.mapped() as content:
                own = own_header(content)
                if own is None:
                    return _Read(key, None, "", "The header of the object is damaged")
                parts = parts_of(key)
                if self._with_digests and (parts is None or digest_of(blob, own[1]) != parts.digest):
                    return _Read(key, None, "", "The object is damaged")
                entry = entry_of_object(
                    key, content, provenance.source, *own, received_digest=provenance.received_digest
                )
        except GatewayError as error:
            return _Read(key, None, "", error.reason, is_unavailable=isinstance(error, StorageUnavailable))
        return _Read(key, entry, provenance.received_at)

    def finish(self) -> None:
        """Forget how far it was: the index is whole, and the next one is another."""
        self._place.path.unlink(missing_ok=True)

    def close(self) -> None:
        """Let go of the plan."""
        self._plan.close()


def _extent_of(buried: Sequence[tuple[Scope, str]]) -> Extent:
    """How much was deleted, as far as it is known by the tombstones: without its bytes."""
    objects = [scope for scope, key in buried if key]
    return Extent(len({(*_uids(one)[:2],) for one in objects}), len(set(objects)), len(objects), 0)


@dataclass(frozen=True, slots=True)
class _Read:
    key: str
    entry: Entry | None
    received_at: str
    reason: str = ""
    is_unavailable: bool = False


@dataclass(frozen=True, slots=True)
class _Ahead:
    place: int
    kind: int
    keys: list[str]
    entries: list[Future[_Read]]


def follow_on(index: Index, before: Index) -> None:
    """Let a rebuilt index go on where the one before it stopped: numbers of the change feed that come later, and what
    was still to be sent. Once more does nothing.
    """
    index.upkeep.begin_feed_after(before.upkeep.last_change())
    index.upkeep.put_pending(before.upkeep.routes(), ())
    place = ("", "")
    while pending := before.upkeep.pending(place, _PENDING_AT_ONCE):
        index.upkeep.put_pending((), pending)
        place = (pending[-1].route, pending[-1].sop_instance_uid)


def swap_in(new: Path, place: Path) -> Path | None:
    """Put a whole index, which nobody has open, in the place of another, which is kept beside it: where, if there was
    one. Raises StorageUnavailable.

    The log of the old one must not meet the new one. What is in it is written back first; of a file that is damaged it
    is put aside with it.
    """
    before = place.with_name(place.name + ".before")
    try:
        with contextlib.closing(connect(new)) as connection:
            connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        _drop_log(new)
        if not place.exists():
            _rename_durably(new, place)
            return None
        with contextlib.suppress(Error), contextlib.closing(connect(place)) as connection:
            connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        for suffix in ("", "-wal"):
            before.with_name(before.name + suffix).unlink(missing_ok=True)
        os.link(place, before)
        log = place.with_name(place.name + "-wal")
        if log.exists():
            log.replace(before.with_name(before.name + "-wal"))
        place.with_name(place.name + "-shm").unlink(missing_ok=True)
        _rename_durably(new, place)
    except (OSError, Error) as error:
        raise StorageUnavailable("The new index cannot be put in its place") from error
    return before


def _drop_log(path: Path) -> None:
    """Remove what a file that was closed cleanly may have beside it."""
    for suffix in ("-wal", "-shm"):
        path.with_name(path.name + suffix).unlink(missing_ok=True)


def _rename_durably(new: Path, place: Path) -> None:
    with new.open("rb") as file:
        os.fsync(file.fileno())
    new.replace(place)
    folder = os.open(place.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
