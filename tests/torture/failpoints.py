"""Failpoints: what an archive does, crashed at each operation in turn that reaches the system or the index.

A point is ``operation@module:line``, the line of ours that asks for it. For k = 1, 2, … a forked process runs an act
and ends without a word at its k-th point, until the act comes to its end: before the operation; of a write, with half
of it done; and with the power, whereupon files and names that were not synced are gone. Then another process opens the
archive: what is there is old or new, never between, and the act done again makes it new. SQLite's tests do so, too:
https://sqlite.org/testing.html, 3.3. R1–R5, F5, F6

The index is left its promise: what it has committed stays, and what it has not goes.

``python -m tests.torture.failpoints FOLDER [URL]`` prints what it found as JSON.
"""

from __future__ import annotations

import ast
import contextlib
import fcntl
import gc
import importlib
import itertools
import json
import mmap
import os
import shutil
import stat
import sys
import traceback
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from hashlib import sha256
from pathlib import Path
from typing import NoReturn

from storage.archive import Archive
from storage.dicomjson import read_metadata
from storage.errors import Gone, NotFound
from storage.filemeta import Announcement
from storage.index import open_index
from storage.index.sqlite import SqliteIndex, connect, connection_class
from storage.model import Receipt, Scope, Source
from storage.objects import open_object_store
from storage.spool import sweep
from tests import synthetic
from tests.torture.making import Made, made

ROOT = Path(__file__).resolve().parents[2]
STORAGE = str(ROOT / "storage")
CRASHED = 77
WATCHED = {
    os: ("open", "write", "writev", "fsync", "mkdir", "rename", "unlink"),
    fcntl: ("flock",),
    mmap: ("mmap",),
}
WRITES = ("write", "writev")
STATEMENTS = ("execute", "executemany")
SYSTEM = tuple(name for names in WATCHED.values() for name in names)
WALKED = (
    "storage/spool.py",
    "storage/objects/filesystem.py",
    "storage/index/batch.py",
    "storage/index/committer.py",
    "storage/index/tombstones.py",
    "storage/index/deletions.py",
)
"""Where every such operation is a point that has to be crashed, but for those of ``UNREACHED``."""
UNREACHED = {
    "storage/spool.py:sweep": "at the start of a gateway only, when nothing is stored",
    "storage/spool.py:waiting_file": "tidies up after a lock that was refused",
    "storage/spool.py:begin_file": "tidies up after a write that failed",
    "storage/spool.py:write_all": "after the system has written a part of what it was given",
    "storage/objects/filesystem.py:_opened": "reads",
    "storage/objects/filesystem.py:mapped": "reads",
    "storage/objects/filesystem.py:_is_locked": "looks",
    "storage/objects/filesystem.py:write": "tidies up after a write that failed",
    "storage/objects/filesystem.py:set_aside": "scrub, which begins again",
    "storage/objects/filesystem.py:remove_stray": "scrub, which begins again",
    "storage/index/tombstones.py:deletion_of": "a rebuild, which begins again in another file",
    "storage/index/tombstones.py:last_tombstone": "a rebuild, as above",
    "storage/index/tombstones.py:make_those_of": "a rebuild, as above",
    "storage/index/tombstones.py:give_up": "where rules coerce; one statement of a store like others",
    "storage/index/tombstones.py:_wait_seconds": "reads, for doors that limit who deletes",
    "storage/index/batch.py:recount": "scrub, which begins again",
    "storage/index/batch.py:derive": "scrub, which begins again",
    "storage/index/batch.py:refill": "a migration",
    "storage/index/committer.py:attempt": "callers that share a commit; tests/storage/test_index_faults.py fails these",
}


# -------------------------------------------------------------------------------------------------------------- points


KILL, TORN, CUT = "before", "in the middle of", "without power before"
"""How a process ends at a point."""


class Unsynced:
    """What a power cut would take: bytes of files, and names in folders, that nobody has synced yet."""

    def __init__(self, system: dict[str, Callable]) -> None:
        self._system = system
        self._folders: dict[int, str] = {}
        self._dirty: dict[int, str] = {}
        self._names: list[tuple[str, str, str]] = []

    def note(self, operation: str, arguments: Sequence, result: object) -> None:
        """An operation has been done."""
        if operation == "open":
            path, flags, *_ = arguments
            if flags & os.O_DIRECTORY:
                self._folders[result] = str(path)
            elif flags & os.O_CREAT:
                self._dirty[os.fstat(result).st_ino] = str(path)
        elif operation in WRITES:
            self._dirty.setdefault(os.fstat(arguments[0]).st_ino, "")
        elif operation == "rename":
            old, new = map(str, arguments)
            self._dirty = {inode: new if path == old else path for inode, path in self._dirty.items()}
            self._names.append(("rename", old, new))
        elif operation == "mkdir":
            self._names.append(("mkdir", "", str(arguments[0])))
        elif operation == "fsync" and stat.S_ISDIR(os.fstat(arguments[0]).st_mode):
            folder = self._folders[arguments[0]]
            self._names = [one for one in self._names if str(Path(one[2]).parent) != folder]
        elif operation == "fsync":
            self._dirty.pop(os.fstat(arguments[0]).st_ino, None)

    def lose(self) -> None:
        """Cut the power."""
        for path in filter(os.path.exists, self._dirty.values()):
            os.truncate(path, 0)
        for kind, old, new in reversed(self._names):
            if kind == "rename":
                self._system["rename"](new, old)
            else:
                shutil.rmtree(new)


@dataclass
class Watch:
    """Counts points once it is armed, and ends the process at one of them. names: of all it came by."""

    crash_at: int = 0
    ending: str = KILL
    is_armed: bool = False
    names: list[str] = field(default_factory=list)
    unsynced: Unsynced | None = None

    def point(self, operation: str, half: Callable[[], object] | None = None) -> None:
        """An operation is about to be done. half: does a part of it, where that can be."""
        if not self.is_armed:
            return
        name = caller()
        if not name:
            return
        self.names.append(f"{operation}@{name}")
        if len(self.names) == self.crash_at:
            if self.ending == TORN and half is not None:
                half()
            self.end()

    def end(self) -> NoReturn:
        """End the process, and with it what a power cut takes, if it is to be one."""
        if self.ending == CUT and self.unsynced is not None:
            self.unsynced.lose()
        os._exit(CRASHED)

    def install(self) -> None:
        """Be told of every operation of this process."""
        system = {name: getattr(module, name) for module, names in WATCHED.items() for name in names}
        self.unsynced = Unsynced(system)
        for module, operations in WATCHED.items():
            for operation in operations:
                setattr(module, operation, partial(self._watched, operation, system[operation]))

    def _watched(self, operation: str, real: Callable[..., object], *arguments: object, **options: object) -> object:
        half = partial(torn, real, *arguments) if operation in WRITES else None
        self.point(operation, half)
        result = real(*arguments, **options)
        if self.unsynced is not None:
            self.unsynced.note(operation, arguments, result)
        return result


def caller() -> str:
    """The line of ``storage`` that asks for the operation, nearest first."""
    frame = sys._getframe(2)
    while frame is not None:
        path = frame.f_code.co_filename
        if path.startswith(STORAGE):
            return f"{path[len(str(ROOT)) + 1 :]}:{frame.f_lineno}"
        frame = frame.f_back
    return ""


def torn(real: Callable[..., object], fd: int, content) -> None:
    """The first half of a write."""
    whole = b"".join(bytes(one) for one in content) if isinstance(content, list) else bytes(content)
    half = whole[: len(whole) // 2]
    real(fd, [half] if isinstance(content, list) else half)


def open_watched(objects: Path, place: Path | str, watch: Watch) -> Archive:
    """An archive whose statements are points, too."""
    if isinstance(place, Path):

        class Watched(connection_class()):
            def execute(self, text, parameters=()):
                watch.point("execute")
                return super().execute(text, parameters)

            def executemany(self, text, parameters):
                watch.point("executemany")
                return super().executemany(text, parameters)

        index = SqliteIndex(place, open_connection=lambda path: connect(path, Watched))
    else:
        from storage.index.postgresql import PostgresqlConnection

        for name in STATEMENTS:
            real = getattr(PostgresqlConnection, name)

            def watched(self, *arguments, _name=name, _real=real):
                watch.point(_name)
                return _real(self, *arguments)

            setattr(PostgresqlConnection, name, watched)
        index = open_index(place)
    return Archive(open_object_store(objects), index)


def operation_of(node: ast.AST) -> str:
    """What a piece of the text asks the system or the index for, if it does."""
    if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Attribute):
        return ""
    base = node.func.value.id if isinstance(node.func.value, ast.Name) else ""
    is_of_system = base in ("os", "fcntl", "mmap") and node.func.attr in SYSTEM
    return node.func.attr if is_of_system or node.func.attr in ("unlink", *STATEMENTS) else ""


def sites() -> dict[str, tuple[str, str, range]]:
    """Every operation in the text of ``WALKED``: what, in which function, and its lines; by ``module:line``."""
    found = {}
    for module in WALKED:
        tree = ast.parse((ROOT / module).read_text(encoding="utf-8"))
        for function in (node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)):
            for node in ast.walk(function):
                if operation := operation_of(node):
                    lines = range(node.lineno, node.end_lineno + 1)
                    found[f"{module}:{node.lineno}"] = (operation, f"{module}:{function.name}", lines)
    return found


# ---------------------------------------------------------------------------------------------------------------- acts


TELLING = (synthetic.element(0x00081030, "LO", "Study"), synthetic.element(0x0008103E, "LO", "Series"))
"""What the others of a study do not say of it and of their series."""


class Subject:
    """The instances of one trial, which no other trial has.

    large, rival and variant have the SOP Instance UID of first, variant in another transfer syntax; other and telling
    are of the same series, apart of another one. elsewhere is of another study.
    """

    def __init__(self, number: int, scenario: int) -> None:
        self.study = f"1.2.{scenario}.{number}"
        pixels = bytes(64 * 16)
        uid = f"{self.study}.9.1"
        self.first = made(self.study, f"{self.study}.1", uid, pixels)
        self.large = made(self.study, f"{self.study}.1", uid, bytes(64 * 1200))
        self.rival = made(self.study, f"{self.study}.1", uid, bytes(range(64)) * 16)
        self.variant = made(self.study, f"{self.study}.1", uid, pixels, is_deflated=True)
        self.other = made(self.study, f"{self.study}.1", f"{self.study}.9.2", pixels)
        self.apart = made(self.study, f"{self.study}.2", f"{self.study}.9.5", pixels)
        self.telling = made(self.study, f"{self.study}.1", f"{self.study}.9.3", pixels, extra=TELLING)
        self.elsewhere = made(f"{self.study}.8", f"{self.study}.8.1", f"{self.study}.9.4", pixels)
        made_here = {name: one[0] for name, one in vars(self).items() if isinstance(one, tuple)}
        self.names = {version.digest: name for name, version in made_here.items()}
        self.versions = {version.digest: version for version in made_here.values()}


def c_store(archive: Archive, one: Made) -> None:
    """As C-STORE does it: announced, a bare Data Set."""
    version, content = one
    announcement = Announcement(synthetic.SECONDARY_CAPTURE, version.sop_instance, version.transfer_syntax)
    with archive.spool(announcement) as spool:
        spool.write(content)
        archive.store(spool, Source("dimse", "CT1", "127.0.0.1"))


def stow(archive: Archive, one: Made, *, said: str = "") -> None:
    """As STOW-RS does it: Part 10, in pieces; said: another SOP Instance UID that File Meta has."""
    version, content = one
    whole = synthetic.part10(content, syntax=version.transfer_syntax, sop=said or version.sop_instance)
    with archive.spool() as spool:
        for at in range(0, len(whole), 40_000):
            spool.write(whole[at : at + 40_000])
        archive.store(spool, Source("dicomweb", address="127.0.0.1"))


def delete(archive: Archive, *uids: str) -> None:
    """Gone is deleted."""
    with contextlib.suppress(Gone):
        archive.delete(Scope(*uids))


def undelete(archive: Archive, *uids: str) -> None:
    """What is there again is not brought back once more."""
    with contextlib.suppress(NotFound):
        for result in archive.undelete(Scope(*uids)):
            assert isinstance(result, Receipt), result


def release(archive: Archive, *uids: str) -> None:
    """What is not held is released."""
    with contextlib.suppress(NotFound):
        archive.release(Scope(*uids))


def make_current(archive: Archive, one: Made) -> None:
    """Whether it is already or not."""
    version, content = one
    digest = sha256(content).hexdigest()
    (found,) = [each for each in archive.versions(version.sop_instance) if each.instance.digest == digest]
    archive.make_current(found)


def collect(archive: Archive) -> None:
    """All of what was deleted, by whatever trial."""
    while archive.collect(0).has_more:
        pass


def at_work(archive: Archive, it: Subject) -> None:
    """What a process has done that has been at work for a while: it knows the folders that all objects share."""
    c_store(archive, it.elsewhere)
    delete(archive, it.elsewhere[0].study)


Step = Callable[[Archive, Subject], None]
SCENARIOS: dict[str, tuple[Sequence[Step], Step]] = {
    "C-STORE into nothing": ((), lambda archive, it: c_store(archive, it.first)),
    "STOW of a large one": ((), lambda archive, it: stow(archive, it.large)),
    "STOW with a File Meta that is wrong": ((), lambda archive, it: stow(archive, it.large, said="1.2.3.4.5.6.7")),
    "C-STORE beside another": (
        (lambda archive, it: c_store(archive, it.other),),
        lambda archive, it: c_store(archive, it.first),
    ),
    "C-STORE that tells more of study and series": (
        (lambda archive, it: c_store(archive, it.other),),
        lambda archive, it: c_store(archive, it.telling),
    ),
    "STOW into a new series": (
        (lambda archive, it: c_store(archive, it.other),),
        lambda archive, it: stow(archive, it.apart),
    ),
    "STOW of a duplicate": (
        (lambda archive, it: c_store(archive, it.first),),
        lambda archive, it: stow(archive, it.first),
    ),
    "C-STORE of a rival": (
        (lambda archive, it: c_store(archive, it.first),),
        lambda archive, it: c_store(archive, it.rival),
    ),
    "STOW of a variant": (
        (lambda archive, it: c_store(archive, it.first),),
        lambda archive, it: stow(archive, it.variant),
    ),
    "delete an instance that has a rival": (
        (
            lambda archive, it: c_store(archive, it.first),
            lambda archive, it: c_store(archive, it.rival),
            lambda archive, it: c_store(archive, it.other),
        ),
        lambda archive, it: delete(archive, it.study, f"{it.study}.1", f"{it.study}.9.1"),
    ),
    "delete a study": (
        (lambda archive, it: c_store(archive, it.first), lambda archive, it: c_store(archive, it.other)),
        lambda archive, it: delete(archive, it.study),
    ),
    "undelete an instance": (
        (
            lambda archive, it: c_store(archive, it.other),
            lambda archive, it: c_store(archive, it.first),
            lambda archive, it: delete(archive, it.study, f"{it.study}.1", f"{it.study}.9.1"),
        ),
        lambda archive, it: undelete(archive, it.study),
    ),
    "STOW of what was deleted": (
        (lambda archive, it: c_store(archive, it.first), lambda archive, it: delete(archive, it.study)),
        lambda archive, it: stow(archive, it.first),
    ),
    "C-STORE of what was deleted and collected": (
        (
            lambda archive, it: c_store(archive, it.first),
            lambda archive, it: delete(archive, it.study),
            lambda archive, it: collect(archive),
        ),
        lambda archive, it: c_store(archive, it.first),
    ),
    "collect an instance and its rival": (
        (
            lambda archive, it: collect(archive),  # of other trials
            lambda archive, it: c_store(archive, it.first),
            lambda archive, it: c_store(archive, it.rival),
            lambda archive, it: delete(archive, it.study),
        ),
        lambda archive, it: collect(archive),
    ),
    "put on hold": (
        (lambda archive, it: c_store(archive, it.first),),
        lambda archive, it: archive.hold(Scope(it.study)),
    ),
    "release what was held": (
        (lambda archive, it: c_store(archive, it.first), lambda archive, it: archive.hold(Scope(it.study))),
        lambda archive, it: release(archive, it.study),
    ),
    "make another version current": (
        (lambda archive, it: c_store(archive, it.first), lambda archive, it: c_store(archive, it.rival)),
        lambda archive, it: make_current(archive, it.rival),
    ),
    "delete an instance that tells more of study and series than others": (
        (lambda archive, it: c_store(archive, it.telling), lambda archive, it: c_store(archive, it.other)),
        lambda archive, it: delete(archive, it.study, f"{it.study}.1", it.telling[0].sop_instance),
    ),
}


# --------------------------------------------------------------------------------------------------------------- state


def state(archive: Archive, objects: Path, it: Subject) -> list:
    """What there is of a trial: rows, rivals, changes, tombstones, counts. It is the same in every trial."""
    index = archive._index

    def asked(text: str) -> list:
        return index._rows(text, (it.study,))

    current = []
    for one in index.instances(Scope(it.study)):
        (document,) = index.documents(one.scope)
        metadata = read_metadata(document.metadata, "")
        version = it.versions[one.digest]
        is_whole = sha256((objects / one.key).read_bytes()[one.data_set_offset :]).hexdigest() == one.digest
        is_its_own = metadata["00204000"]["Value"] == [version.marker] and one.number_of_frames == 1
        current.append([it.names[one.digest], is_whole, is_its_own])
    rivals = [
        [outcome, it.names[digest], sha256((objects / key).read_bytes()[offset:]).hexdigest() == digest]
        for outcome, digest, key, offset in asked(
            "SELECT outcome, digest, object_key, data_set_offset FROM rival WHERE study_instance_uid = ?"
        )
    ]
    changes = [kind for (kind,) in asked("SELECT kind FROM change WHERE study_instance_uid = ? ORDER BY sequence")]
    ((tombstones,),) = asked("SELECT count(*) FROM tombstone WHERE study_instance_uid = ?")
    counts = [
        list(row)
        for row in asked(
            "SELECT number_of_study_related_series, number_of_study_related_instances FROM study "
            "WHERE study_instance_uid = ?"
        )
    ]
    return [sorted(current), sorted(rivals), changes, tombstones, counts]


def whole_problems(archive: Archive, spool_directory: Path, place: Path | str) -> list[str]:
    """What is wrong with the archive as such: a gap in the feed, a file that is left over, a damaged index."""
    index = archive._index
    found = []
    ((last, count),) = index._rows("SELECT coalesce(max(sequence), 0), count(*) FROM change", ())
    if last != count:
        found.append(f"{count} changes, the last one is {last}")
    sweep(spool_directory)
    found += [f"left over: {path.name}" for path in spool_directory.iterdir()]
    if isinstance(place, Path):
        found += [said for (said,) in index._rows("PRAGMA integrity_check", ()) if said != "ok"]
    return found


# -------------------------------------------------------------------------------------------------------------- trials


def forked(work: Callable[[Callable[[object], None]], object]) -> tuple[int, list]:
    """Run it in a process of its own; its exit code, and what it gave out before it ended. Call it without threads."""
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(reading)
        with os.fdopen(writing, "w") as pipe:

            def give(value: object) -> None:
                pipe.write(json.dumps(value) + "\n")
                pipe.flush()

            try:
                work(give)
            except BaseException:  # noqa: BLE001 - the parent prints it, and nothing of the parent may run here
                give({"failed": traceback.format_exc()})
                os._exit(1)
        os._exit(0)
    os.close(writing)
    with os.fdopen(reading) as pipe:
        given = [json.loads(line) for line in pipe]
    _, status = os.waitpid(pid, 0)
    return os.waitstatus_to_exitcode(status), given


@dataclass
class Report:
    """points: crashed, by name, how often. reached: names that an act comes by. problems: what was wrong after one."""

    points: Counter[str] = field(default_factory=Counter)
    reached: set[str] = field(default_factory=set)
    problems: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Trial:
    """An act on instances of its own, and where it ends. at: the number of the point, 0 for when it is done."""

    it: Subject
    at: int
    ending: str
    what: str


class Trials:
    """Every scenario at every point of some operations, in one archive that goes through all of it."""

    def __init__(self, objects: Path, place: Path | str, operations: Sequence[str]) -> None:
        self._objects = objects
        self._place = place
        self.operations = operations
        self.report = Report()

    def run(self) -> Report:
        """All of them."""
        gc.collect()
        gc.freeze()  # forked processes then share what they read
        forked(lambda _: self._open(Watch()).close())
        for number, (name, (before, act)) in enumerate(SCENARIOS.items(), 1):
            self._scenario(name, number, before, act)
        return self.report

    def _open(self, watch: Watch) -> Archive:
        return open_watched(self._objects, self._place, watch)

    def _scenario(self, name: str, scenario: int, before: Sequence[Step], act: Step) -> None:
        """One process for each trial; each looks at what the one before it has left."""
        code, given = self._reference(Subject(0, scenario), before, act)
        if code:
            self.report.problems.append(f"{name}: without a crash: {given}")
            return
        old, names, new = given
        self.report.reached |= {name for name in names if name.partition("@")[0] in self.operations}
        last = None
        for trial in (*_trials(name, scenario, names, self.operations), None):
            code, given = forked(partial(self._look_and_try, last, trial, before, act))
            if last is not None:
                self._judge(last, given[:3], [old, new] if last.at else [new], new)
                given = given[3:]
            if trial is None:
                break
            if code != CRASHED or given[:1] != [old] or len(given) != (1 if trial.at else 2):
                self.report.problems.append(f"{trial.what}: ended with {code}: {given}")
                last = None
                continue
            if trial.at:
                self.report.points[names[trial.at - 1]] += 1
            last = trial

    def _judge(self, trial: Trial, given: list, either: list, new: list) -> None:
        """What the next process found: a state, that after it had done the act again, and what is wrong in all."""
        if len(given) != 3 or given[0] not in either or given[1:] != [new, []]:
            self.report.problems.append(f"{trial.what}: {given}, but not one of {either}, then {new}")

    def _reference(self, it: Subject, before: Sequence[Step], act: Step) -> tuple[int, list]:
        """Without a crash: the state before the act, the points that it comes by, the state after it."""

        def work(give: Callable[[object], None]) -> None:
            watch = Watch()
            with contextlib.closing(self._open(watch)) as archive:
                at_work(archive, it)
                watch.install()
                self._prepare(archive, it, before, give)
                watch.is_armed = True
                act(archive, it)
                watch.is_armed = False
                give(watch.names)
                give(state(archive, self._objects, it))

        return forked(work)

    def _look_and_try(
        self, last: Trial | None, trial: Trial | None, before: Sequence[Step], act: Step, give: Callable[[object], None]
    ) -> None:
        """Open the archive, see what is there of the last trial and do its act again; then end as the trial says."""
        watch = Watch()
        archive = self._open(watch)
        if last is not None:
            give(state(archive, self._objects, last.it))
            act(archive, last.it)
            give(state(archive, self._objects, last.it))
            place = self._place if trial is None else ""
            give(whole_problems(archive, self._objects / "incoming", place))
        if trial is None:
            archive.close()
            return
        if last is None:
            at_work(archive, trial.it)
        watch.crash_at, watch.ending = trial.at, trial.ending
        watch.install()
        self._prepare(archive, trial.it, before, give)
        watch.is_armed = True
        act(archive, trial.it)
        watch.is_armed = False
        give("done")
        watch.end()

    def _prepare(self, archive: Archive, it: Subject, before: Sequence[Step], give: Callable[[object], None]) -> None:
        for step in before:
            step(archive, it)
        give(state(archive, self._objects, it))


def _trials(name: str, scenario: int, names: Sequence[str], operations: Sequence[str]) -> Iterator[Trial]:
    """Every end at every point, and without power when it is done.

    From one statement to the next nothing is synced, so before the first of them the power is cut for all.
    """
    numbers = itertools.count(1)
    before = ""
    for at, point in enumerate(names, 1):
        operation = point.partition("@")[0]
        is_same = operation in STATEMENTS and before in STATEMENTS
        before = operation
        if operation not in operations:
            continue
        for ending in (KILL, *((TORN,) if operation in WRITES else ()), *(() if is_same else (CUT,))):
            yield Trial(Subject(next(numbers), scenario), at, ending, f"{name}, {ending} {point} ({at})")
    yield Trial(Subject(next(numbers), scenario), 0, CUT, f"{name}, without power when it was done")


def uncrashed(report: Report, operations: Sequence[str]) -> list[str]:
    """Some operations in the text of our modules: where no trial has crashed, and ``UNREACHED`` does not excuse it."""
    crashed = [point.partition("@")[2].rpartition(":") for point in report.points]
    lines = {(module, int(line)) for module, _, line in crashed}
    return [
        f"{place} in {function}"
        for place, (operation, function, span) in sites().items()
        if operation in operations
        and function not in UNREACHED
        and not any((place.rpartition(":")[0], line) in lines for line in span)
    ]


def main(folder: str, index: str = "") -> None:
    """All trials in a folder, which is made, over SQLite; or at statements alone, over the database of a URL."""
    root = Path(folder)
    root.mkdir()
    if index:
        importlib.import_module("storage.index.postgresql")  # once, for all that are forked
        trials = Trials(root / "objects", index, STATEMENTS)
    else:
        trials = Trials(root / "objects", root / "index.sqlite", (*STATEMENTS, *SYSTEM))
    report = trials.run()
    shown = {
        "points": dict(sorted(report.points.items())),
        "crashes": report.points.total(),
        "reached_but_not_crashed": sorted(report.reached - report.points.keys()),
        "not_crashed": uncrashed(report, trials.operations),
        "problems": report.problems,
    }
    print(json.dumps(shown, indent=1))


if __name__ == "__main__":
    main(*sys.argv[1:])
