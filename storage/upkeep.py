"""Scrub: does every row have its object, is every object what its row says, and does every object have a row.

It looks at a store and an index that may be in use, in constant memory, a batch at a time, and may be stopped at any
moment: the next one goes on behind the last batch. Nothing that might be of use is ever removed. What it can mend is
mended from the objects, through the same path as a store; what lies in the wrong place goes through that path too, and
is then set aside. durability: R2, R3, R12
"""

from __future__ import annotations

import contextlib
import enum
import hashlib
import itertools
import time
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

import orjson

from storage.archive import Archive
from storage.attributes import ATTRIBUTES
from storage.dataset import read_data_set
from storage.dicomjson import unpack_metadata
from storage.entries import entry_of_object, identity_of, is_place_of, known_syntax, own_header
from storage.errors import CorruptObject, GatewayError, NotFound, Overloaded, StorageUnavailable
from storage.filemeta import Announcement, read_file_meta
from storage.index.base import Index, IndexUpkeep
from storage.journal import Journal
from storage.keys import INSTANCES, JOURNAL, instance_key, parts_of
from storage.model import Entry, Instance, Kept, Level
from storage.objects.base import Blob, ObjectStore
from storage.provenance import UNKNOWN, Provenance, provenance_of

ORPHAN_GRACE_SECONDS = 24 * 3600.0
ROWS_AT_ONCE = 500
DOCUMENTS_AT_ONCE = 64
STUDIES_AT_ONCE = 50
_CHUNK_BYTES = 1 << 20
_LEAST_BYTES = 4096  # what looking at an object costs at least, for the pace
Item = TypeVar("Item")
_STANDARD = frozenset(one.tag for one in ATTRIBUTES if one.level is Level.INSTANCE)


class Depth(enum.IntEnum):
    """How closely is looked, each with all that comes before it."""

    ROW = 0
    OBJECT = 1
    SIZE = 2
    CHECKSUM = 3


class Fault(enum.Enum):
    """What is wrong with a row or an object. The table of what is done about it stands in docs/operations.md."""

    COUNTS = "counts"
    PARENTS = "parents"
    DOCUMENT = "document"
    KEY = "key"
    MISSING = "missing"
    SIZE = "size"
    UNREADABLE = "unreadable"
    DIGEST = "digest"
    HEADER = "header"
    DERIVED = "derived"
    ORPHAN = "orphan"
    MISPLACED = "misplaced"
    DAMAGED_ORPHAN = "damaged-orphan"
    FOREIGN = "foreign"
    LEFT_OVER = "left-over"
    JOURNAL = "journal"


@dataclass(frozen=True, slots=True)
class Finding:
    """One fault. name: the key of the object, the name of a file, or the study. reason: a constant phrase, if any."""

    fault: Fault
    name: str
    is_repaired: bool = False
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Step:
    """A batch that was looked at. phase: a word for what it was of; done: of ``all`` of the phase, which may be 0 where
    that is not known.
    """

    phase: str
    count: int
    done: int
    all: int
    findings: Sequence[Finding]


class Pace:
    """Lets at most so many bytes be read in a second, on the average; without a limit for 0."""

    def __init__(self, bytes_per_second: float) -> None:
        self._bytes_per_second = bytes_per_second
        self._due = time.monotonic()

    def spend(self, size_bytes: int) -> None:
        """Wait until it is the turn of what comes after so many bytes."""
        if self._bytes_per_second:
            now = time.monotonic()
            self._due = max(self._due, now - 1.0) + max(size_bytes, _LEAST_BYTES) / self._bytes_per_second
            time.sleep(max(0.0, self._due - now))


class Cursor:
    """The place that a scrub has reached, in a small file; in memory only without one."""

    def __init__(self, path: Path | None) -> None:
        self._path = path

    def place(self, depth: Depth) -> tuple[str, int]:
        """The phase and the row reached by one of the same depth that was stopped; otherwise the beginning."""
        if self._path is None:
            return "", 0
        try:
            said = orjson.loads(self._path.read_bytes())
            if said["depth"] == depth.name:
                return str(said["phase"]), int(said["row"])
        except (OSError, ValueError, KeyError, TypeError):
            return "", 0
        return "", 0

    def reach(self, depth: Depth, phase: str, row: int) -> None:
        """Remember a place."""
        if self._path is not None:
            waiting = self._path.with_suffix(".new")
            waiting.write_bytes(orjson.dumps({"depth": depth.name, "phase": phase, "row": row}))
            waiting.replace(self._path)

    def forget(self) -> None:
        """It came to the end."""
        if self._path is not None:
            self._path.unlink(missing_ok=True)


class Scrub:
    """One look at a store and its index.

    archive: through which is mended; None looks only. with_orphans: look at the objects without rows, too.
    grace_seconds: what is younger may still be on its way, and is left alone. pace: how fast. cursor: where to begin.
    """

    def __init__(
        self,
        objects: ObjectStore,
        index: Index,
        archive: Archive | None = None,
        *,
        depth: Depth,
        with_orphans: bool = True,
        grace_seconds: float = ORPHAN_GRACE_SECONDS,
        pace: Pace | None = None,
        cursor: Cursor | None = None,
    ) -> None:
        self._objects = objects
        self._rows: IndexUpkeep = index.upkeep
        self._archive = archive
        self._depth = depth
        self._with_orphans = with_orphans
        self._grace_seconds = grace_seconds
        self._pace = pace or Pace(0)
        self._cursor = cursor or Cursor(None)

    def run(self) -> Iterator[Step]:
        """Look at everything. Raises StorageUnavailable when store or index cannot be reached.

        Objects come first: a copy that lies in the wrong place may be what a row lacks.
        """
        phases: dict[str, Callable[[int], Iterator[tuple[int, Step]]]] = {}
        if self._with_orphans:
            phases |= {"objects": self._look_at_objects, "strays": self._look_at_strays}
        if self._depth >= Depth.CHECKSUM:
            phases["journal"] = self._look_at_journal
        phases |= {"instances": self._look_at_instances, "rivals": self._look_at_rivals}
        phases["studies"] = self._look_at_studies
        phase_reached, row_reached = self._cursor.place(self._depth)
        names = list(phases)
        begin = names.index(phase_reached) if phase_reached in phases else 0
        for number, name in enumerate(names[begin:], begin):
            for row, step in phases[name](row_reached if number == begin else 0):
                yield step
                self._cursor.reach(self._depth, name, row)
        self._cursor.forget()

    # -- rows

    def _look_at_instances(self, after: int) -> Iterator[tuple[int, Step]]:
        with_documents = self._depth >= Depth.CHECKSUM

        def rows(after: int, limit: int) -> Sequence[Kept]:
            return self._rows.kept(after, limit, with_documents=with_documents)

        yield from self._look_at_rows("instances", after, DOCUMENTS_AT_ONCE if with_documents else ROWS_AT_ONCE, rows)

    def _look_at_rivals(self, after: int) -> Iterator[tuple[int, Step]]:
        yield from self._look_at_rows("rivals", after, ROWS_AT_ONCE, self._rows.rivals)

    def _look_at_rows(
        self, phase: str, after: int, limit: int, rows: Callable[[int, int], Sequence[Kept]]
    ) -> Iterator[tuple[int, Step]]:
        last = self._rows.last_row() if phase == "instances" else 0
        while found := rows(after, limit):
            findings: list[Finding] = []
            for kept in found:
                fault, entry = self._fault_of(kept)
                if fault is not None and self._is_still_there(kept, rows):
                    findings.append(self._repaired(kept, fault, entry))
            after = found[-1].row
            yield after, Step(phase, len(found), after, last, findings)

    def _is_still_there(self, kept: Kept, rows: Callable[[int, int], Sequence[Kept]]) -> bool:
        """Whether the row is what it was when it was read: it may have been deleted meanwhile, with its object."""
        found = rows(kept.row - 1, 1)
        return bool(found) and replace(found[0], document=None) == replace(kept, document=None)

    def _fault_of(self, kept: Kept) -> tuple[Fault | None, Entry | None]:
        """What is wrong with a row, and what it should be made of where that is known."""
        instance = kept.instance
        if instance is None:
            return Fault.PARENTS, None
        if not is_place_of(kept.object_key, instance):
            return Fault.KEY, None
        if self._depth >= Depth.OBJECT:
            try:
                size_bytes = self._objects.size_bytes(kept.object_key)
            except NotFound:
                return Fault.MISSING, None
            self._pace.spend(size_bytes if self._depth >= Depth.CHECKSUM else 0)
            if self._depth >= Depth.SIZE and size_bytes != instance.size_bytes:
                return Fault.SIZE, None
            if self._depth >= Depth.CHECKSUM:
                return self._fault_of_content(kept, instance)
        return (None if kept.has_document else Fault.DOCUMENT), None

    def _fault_of_content(self, kept: Kept, instance: Instance) -> tuple[Fault | None, Entry | None]:
        announcement = Announcement(instance.sop_class_uid, instance.sop_instance_uid, instance.transfer_syntax_uid)
        try:
            with self._objects.open(kept.object_key) as blob, blob.mapped() as content:
                own = own_header(content)
                if digest_of(blob, instance.data_set_offset) != instance.digest:
                    # It may be the row that is wrong about where the Data Set begins.
                    is_whole = own is not None and digest_of(blob, own[1]) == instance.digest
                    return (Fault.DERIVED if is_whole else Fault.DIGEST), None
                entry = entry_of_object(kept.object_key, content, UNKNOWN, announcement, instance.data_set_offset)
                if own != (announcement, instance.data_set_offset):
                    return Fault.HEADER, None
        except NotFound:
            return Fault.MISSING, None
        except StorageUnavailable:  # the disk cannot read it; the next one it may
            return Fault.UNREADABLE, None
        except GatewayError:
            return Fault.DERIVED, None
        if not kept.has_document:
            return Fault.DOCUMENT, entry
        if entry.instance != instance or (kept.document is not None and not _says_the_same(kept, entry)):
            return Fault.DERIVED, entry
        return None, None

    def _repaired(self, kept: Kept, fault: Fault, entry: Entry | None) -> Finding:
        """Mend a row, if that is wanted and can be done."""
        found = Finding(fault, kept.object_key)
        if self._archive is None:
            return found
        try:
            return replace(found, is_repaired=self._repair(kept, fault, entry))
        except (Overloaded, StorageUnavailable):
            raise
        except GatewayError as error:
            return replace(found, reason=error.reason)

    def _repair(self, kept: Kept, fault: Fault, entry: Entry | None) -> bool:
        instance = kept.instance
        if fault in (Fault.DERIVED, Fault.DOCUMENT, Fault.SIZE):  # an object that is whole is right about its size
            entry = entry or self._entry(kept.object_key)
            return self._rows.derive(entry)
        if fault is Fault.HEADER and instance is not None:
            return self._write_header(instance)
        if fault is Fault.DIGEST:
            self._objects.set_aside(kept.object_key)
            return False  # whoever has it may send it again, which would change nothing while this one is there
        if fault is Fault.PARENTS:
            return self._store_anew(kept.row, kept.object_key)
        if fault is Fault.KEY and instance is not None:
            key = instance_key(
                instance.study_instance_uid,
                instance.sop_instance_uid,
                instance.transfer_syntax_uid,
                instance.digest,
            )
            return self._store_anew(kept.row, key)
        return False

    def _entry(self, key: str) -> Entry:
        """What is derived of an object now. Raises CorruptObject for one that is damaged."""
        said = parts_of(key)
        with self._objects.open(key) as blob, blob.mapped() as content:
            own = own_header(content)
            if said is None or own is None or digest_of(blob, own[1]) != said.digest:
                raise CorruptObject("The object is damaged")
            return entry_of_object(key, content, UNKNOWN, *own)

    def _write_header(self, instance: Instance) -> bool:
        """The same Data Set behind our header. What it replaces differs from it in nothing else."""
        announcement = Announcement(instance.sop_class_uid, instance.sop_instance_uid, instance.transfer_syntax_uid)
        stat = self._objects.stat(instance.key)
        assert self._archive is not None
        with self._archive.spool(announcement) as spool, self._objects.open(instance.key) as blob:
            for chunk in chunks_of(blob, instance.data_set_offset):
                spool.write(chunk)
            spool.finish()
            if spool.digest != instance.digest or len(spool.header) != instance.data_set_offset:
                return False
            spool.label = stat.label
            self._objects.put(instance.key, spool, is_damaged=True)
        return True

    def _store_anew(self, row: int, key: str) -> bool:
        """Take a row that cannot be mended out, and store its object as though it came now."""
        self._entry(key)
        self._rows.drop(row)
        return self._adopt(self._objects.open(key), key)

    # -- studies

    def _look_at_studies(self, after: int) -> Iterator[tuple[int, Step]]:
        while True:
            last, count, wrong = self._rows.miscounted(after, STUDIES_AT_ONCE)
            if not count:
                return
            findings = []
            for scope in wrong:
                if self._archive is not None:
                    self._rows.recount(scope)
                name = f"studies/{scope.study_instance_uid}"
                findings.append(Finding(Fault.COUNTS, name, is_repaired=self._archive is not None))
            after = last
            yield after, Step("studies", count, after, 0, findings)

    # -- objects

    def _look_at_objects(self, _: int) -> Iterator[tuple[int, Step]]:
        done = 0
        for keys in batches(self._objects.keys(INSTANCES), ROWS_AT_ONCE):
            known = self._rows.known(keys)
            findings = [found for key in keys if key not in known for found in self._look_at_orphan(key)]
            done += len(keys)
            yield 0, Step("objects", len(keys), done, 0, findings)

    def _look_at_orphan(self, key: str) -> Iterator[Finding]:
        if self._rows.known([key]):  # it has got its row since
            return
        try:
            stat = self._objects.stat(key)
            if self._is_young(stat.modified_ns):
                return
            self._pace.spend(stat.size_bytes)
            with self._objects.open(key) as blob:
                fault = _fault_of_orphan(key, blob)
        except NotFound:
            return
        except StorageUnavailable as error:
            yield Finding(Fault.UNREADABLE, key, reason=error.reason)
            return
        yield self._taken_in(fault, key, self._objects.open if fault is not Fault.DAMAGED_ORPHAN else None)

    def _look_at_strays(self, _: int) -> Iterator[tuple[int, Step]]:
        done = 0
        for strays in batches(self._objects.strays(), ROWS_AT_ONCE):
            findings = []
            for stray in strays:
                if self._is_young(stray.modified_ns):
                    continue
                if not stray.is_left_over:
                    findings.append(self._taken_in(Fault.FOREIGN, stray.name, self._objects.open_stray))
                    continue
                if self._archive is not None:
                    self._objects.remove_stray(stray.name)
                findings.append(Finding(Fault.LEFT_OVER, stray.name, is_repaired=self._archive is not None))
            done += len(strays)
            yield 0, Step("strays", len(strays), done, 0, findings)

    def _is_young(self, modified_ns: int) -> bool:
        return time.time() - modified_ns / 1e9 < self._grace_seconds

    def _taken_in(self, fault: Fault, name: str, opened: Callable[[str], Blob] | None) -> Finding:
        """Store what has no row, and set aside what does not lie where that put it or cannot be stored."""
        if self._archive is None:
            return Finding(fault, name)
        reason, is_stored = "It was set aside", False
        if opened is not None:
            try:
                is_stored = self._adopt(opened(name), name)
            except (Overloaded, StorageUnavailable):
                raise
            except NotFound:
                return Finding(fault, name, is_repaired=True)
            except GatewayError as error:
                reason = error.reason
        if fault is not Fault.ORPHAN or not is_stored:
            self._objects.set_aside(name)
        return Finding(fault, name, is_repaired=True, reason="" if is_stored else reason)

    def _adopt(self, blob: Blob, name: str) -> bool:
        """Store the bytes of an object or a file through the door that all others take. Raises what a store raises."""
        assert self._archive is not None
        with blob, self._archive.spool() as spool:
            for chunk in chunks_of(blob, 0):
                spool.write(chunk)
            provenance = Provenance(time.time_ns(), UNKNOWN)
            with contextlib.suppress(NotFound):
                provenance = provenance_of(self._objects.stat(name))
            self._archive.adopt(spool, provenance)
        return True

    # -- journal

    def _look_at_journal(self, _: int) -> Iterator[tuple[int, Step]]:
        journal, done = Journal(self._objects), 0
        for keys in batches(self._objects.keys(JOURNAL), ROWS_AT_ONCE):
            findings = []
            for key in keys:
                try:
                    journal.read(key)
                except CorruptObject as error:
                    findings.append(Finding(Fault.JOURNAL, key, reason=error.reason))
            done += len(keys)
            yield 0, Step("journal", len(keys), done, 0, findings)


def batches(items: Iterable[Item], size: int) -> Iterator[list[Item]]:
    """Some at a time, in their order."""
    iterator = iter(items)
    while batch := list(itertools.islice(iterator, size)):
        yield batch


def chunks_of(blob: Blob, start: int) -> Iterator[bytes]:
    """The bytes of an object from a place on, in pieces."""
    for at in range(start, blob.size_bytes, _CHUNK_BYTES):
        yield blob.read(at, min(blob.size_bytes, at + _CHUNK_BYTES))


def digest_of(blob: Blob, start: int) -> str:
    """SHA-256 (hex) of the bytes of an object from a place on."""
    sha256 = hashlib.sha256()
    for chunk in chunks_of(blob, start):
        sha256.update(chunk)
    return sha256.hexdigest()


def _fault_of_orphan(key: str, blob: Blob) -> Fault:
    """Whether an object without a row is what its key says, another instance, or nothing that could be stored."""
    said = parts_of(key)
    assert said is not None, "an object has a key"
    try:
        with blob.mapped() as content:
            found = read_file_meta(bytes(content[: 1 << 17]))
            if found is None or digest_of(blob, found[1]) != said.digest:
                return Fault.DAMAGED_ORPHAN
            announcement, offset = found
            syntax = known_syntax(announcement.transfer_syntax_uid)
            identity = identity_of(read_data_set(content, offset, syntax))
    except StorageUnavailable:
        raise
    except GatewayError:
        return Fault.DAMAGED_ORPHAN
    is_in_place = (said.study_instance_uid, said.sop_instance_uid, said.transfer_syntax_uid) == (
        identity.study_instance_uid,
        identity.sop_instance_uid,
        syntax.uid,
    )
    is_in_series = said.series_instance_uid in ("", identity.series_instance_uid)
    return Fault.ORPHAN if is_in_place and is_in_series else Fault.MISPLACED


def _says_the_same(kept: Kept, entry: Entry) -> bool:
    """Whether what was derived of an instance when it came is what is derived now."""
    document = kept.document
    assert document is not None
    try:
        metadata = unpack_metadata(document.metadata, "")
        attributes = orjson.loads(kept.attributes)
    except (ValueError, zlib.error):
        return False
    standard = {tag: one for tag, one in attributes.items() if tag in _STANDARD and "Value" in one}
    derived = {tag: one for tag, one in entry.attributes[Level.INSTANCE].items() if tag in _STANDARD}
    return (
        metadata == unpack_metadata(entry.metadata, "")
        and document.frame_table == entry.frame_table
        and dict(document.bulk) == dict(entry.bulk)
        and standard == derived
    )
