"""Failpoints: what an archive does, crashed at each operation in turn that reaches the system or the index.

A point is ``operation@module:line``, the line of ours that asks for it. For k = 1, 2, … a forked process runs an act
and ends without a word at its k-th point, before the operation or, of a write, with half of it done, until the act
comes to its end. Then another process opens the archive: what is there is old or new, never between, and the act done
again makes it new. SQLite's tests do so, too: https://sqlite.org/testing.html, 3.3. R1–R5, F5

``python -m tests.torture.failpoints FOLDER [URL]`` prints what it found as JSON.
"""

from __future__ import annotations

import ast
import contextlib
import fcntl
import json
import mmap
import os
import sys
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from hashlib import sha256
from pathlib import Path

from storage.archive import Archive
from storage.dicomjson import read_metadata
from storage.errors import Gone
from storage.filemeta import Announcement
from storage.index import URL_SCHEMES, open_index
from storage.index.sqlite import SqliteIndex, connect, connection_class
from storage.model import Scope, Source
from storage.objects import open_object_store
from storage.spool import sweep
from tests import synthetic
from tests.torture.making import Made, made

ROOT = Path(__file__).parents[2]
CRASHED = 77
WATCHED = {
    os: ("open", "write", "writev", "fsync", "mkdir", "rename", "unlink"),
    fcntl: ("flock",),
    mmap: ("mmap",),
}
WRITES = ("write", "writev")
STATEMENTS = ("execute", "executemany")
WALKED = ("storage/spool.py", "storage/objects/filesystem.py", "storage/index/batch.py", "storage/index/committer.py")
"""Where every such operation is a point that has to be crashed, but for those of ``UNREACHED``."""
UNREACHED = {
    "storage/spool.py:sweep": "at the start of a gateway only, when nothing is stored",
    "storage/spool.py:waiting_file": "tidies up after a lock that was refused",
    "storage/spool.py:begin_file": "tidies up after a write that failed",
    "storage/spool.py:write_all": "after the system has written a part of what it was given",
    "storage/objects/filesystem.py:__init__": "when the archive is opened",
    "storage/objects/filesystem.py:open": "reads",
    "storage/objects/filesystem.py:delete": "nobody calls it yet while the gateway serves",
    "storage/index/batch.py:refill": "a migration",
    "storage/index/committer.py:attempt": "callers that share a commit; tests/storage/test_index_faults.py fails these",
}


# -------------------------------------------------------------------------------------------------------------- points


@dataclass
class Watch:
    """Counts points once it is armed, and ends the process at one of them. names: of all it came by."""

    crash_at: int = 0
    is_torn: bool = False
    is_armed: bool = False
    names: list[str] = field(default_factory=list)

    def point(self, operation: str, half: Callable[[], object] | None = None) -> None:
        """An operation is about to be done. half: does a part of it, where that can be."""
        if not self.is_armed:
            return
        name = caller()
        if not name:
            return
        self.names.append(f"{operation}@{name}")
        if len(self.names) == self.crash_at:
            if self.is_torn and half is not None:
                half()
            os._exit(CRASHED)

    def install(self) -> None:
        """Be told of every operation of this process."""
        for module, operations in WATCHED.items():
            for operation in operations:
                setattr(module, operation, partial(self._watched, operation, getattr(module, operation)))

    def _watched(self, operation: str, real: Callable[..., object], *arguments: object, **options: object) -> object:
        half = partial(torn, real, *arguments) if operation in WRITES else None
        self.point(operation, half)
        return real(*arguments, **options)


def caller() -> str:
    """The line of ``storage`` that asks for the operation, nearest first."""
    frame = sys._getframe(2)
    while frame is not None:
        path = Path(frame.f_code.co_filename)
        if path.is_relative_to(ROOT / "storage"):
            return f"{path.relative_to(ROOT).as_posix()}:{frame.f_lineno}"
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


def sites() -> dict[str, tuple[str, range]]:
    """Every such operation in the text of the modules of ``WALKED``: its function and lines, by ``module:line``."""
    found = {}
    names = {name for operations in WATCHED.values() for name in operations}
    for module in WALKED:
        tree = ast.parse((ROOT / module).read_text(encoding="utf-8"))
        for function in ast.walk(tree):
            if not isinstance(function, ast.FunctionDef):
                continue
            for node in ast.walk(function):
                if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
                    base = node.func.value.id if isinstance(node.func.value, ast.Name) else ""
                    is_system = node.func.attr in names and base in ("os", "fcntl", "mmap")
                    is_file = node.func.attr == "unlink" and base != "os"
                    if is_system or is_file or node.func.attr in STATEMENTS:
                        found[f"{module}:{node.lineno}"] = (
                            f"{module}:{function.name}",
                            range(node.lineno, node.end_lineno + 1),
                        )
    return found


# ---------------------------------------------------------------------------------------------------------------- acts


class Subject:
    """The instances of one trial, which no other trial has.

    other is of the same study, rival has the SOP Instance UID of first, variant is first in another transfer syntax.
    """

    def __init__(self, number: int, scenario: int) -> None:
        self.study = f"1.2.{scenario}.{number}"
        pixels = bytes(64 * 16)
        uid = f"{self.study}.9.1"
        self.first = made(self.study, f"{self.study}.1", uid, pixels)
        self.large = made(self.study, f"{self.study}.1", uid, bytes(64 * 1200))
        self.rival = made(self.study, f"{self.study}.1", uid, bytes(range(64)) * 16)
        self.variant = made(self.study, f"{self.study}.1", uid, pixels, is_deflated=True)
        self.other = made(self.study, f"{self.study}.2", f"{self.study}.9.2", pixels)
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


Step = Callable[[Archive, Subject], None]
SCENARIOS: dict[str, tuple[Sequence[Step], Step]] = {
    "C-STORE into nothing": ((), lambda archive, it: c_store(archive, it.first)),
    "STOW of a large one": ((), lambda archive, it: stow(archive, it.large)),
    "STOW with a File Meta that is wrong": ((), lambda archive, it: stow(archive, it.large, said="1.2.3.4.5.6.7")),
    "C-STORE beside another": (
        (lambda archive, it: c_store(archive, it.other),),
        lambda archive, it: c_store(archive, it.first),
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
    """What is wrong with the archive as such: the feed has a gap, a file is left over, the index is damaged."""
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

    points: dict[str, int] = field(default_factory=dict)
    reached: set[str] = field(default_factory=set)
    crashes: int = 0
    problems: list[str] = field(default_factory=list)


class Trials:
    """Every scenario at every point, in one archive that goes through all of it."""

    def __init__(self, objects: Path, place: Path | str) -> None:
        self._objects = objects
        self._place = place
        self.report = Report()

    def run(self) -> Report:
        """All of them."""
        forked(lambda _: self._open(Watch()).close())
        for number, (name, (before, act)) in enumerate(SCENARIOS.items(), 1):
            self._scenario(name, number, before, act)
        return self.report

    def _open(self, watch: Watch) -> Archive:
        return open_watched(self._objects, self._place, watch)

    def _scenario(self, name: str, scenario: int, before: Sequence[Step], act: Step) -> None:
        code, given = self._act(Subject(0, scenario), before, act, Watch())
        if code:
            self.report.problems.append(f"{name}: without a crash: {given}")
            return
        old, names, _ = given
        new, *_ = self._look(name, Subject(0, scenario), act)
        self.report.reached |= set(names)
        number = 0
        for at, point in enumerate(names, 1):
            is_write = point.partition("@")[0] in WRITES
            for is_torn in (False, True) if is_write else (False,):
                number += 1
                it = Subject(number, scenario)
                what = f"{name}, {'in the middle of' if is_torn else 'before'} {point} ({at})"
                code, given = self._act(it, before, act, Watch(crash_at=at, is_torn=is_torn))
                if code != CRASHED or given != [old]:
                    self.report.problems.append(f"{what}: ended with {code}: {given}")
                    continue
                self.report.points[point] = self.report.points.get(point, 0) + 1
                self.report.crashes += 1
                found = self._look(what, it, act)
                if found and (found[0] not in (old, new) or found[1] != new or found[2]):
                    self.report.problems.append(f"{what}: {found}, old is {old}, new is {new}")

    def _act(self, it: Subject, before: Sequence[Step], act: Step, watch: Watch) -> tuple[int, list]:
        """The act, with the end that the watch makes. Given: the state before it, all points, and that it is done."""

        def work(give: Callable[[object], None]) -> None:
            watch.install()
            archive = self._open(watch)
            for step in before:
                step(archive, it)
            give(state(archive, self._objects, it))
            watch.is_armed = True
            act(archive, it)
            watch.is_armed = False
            give(watch.names)
            give("done")

        return forked(work)

    def _look(self, what: str, it: Subject, act: Step) -> list:
        """The state that a new process finds, the one after it has done the act again, and what is wrong in all."""

        def work(give: Callable[[object], None]) -> None:
            archive = self._open(Watch())
            with contextlib.closing(archive):
                give(state(archive, self._objects, it))
                act(archive, it)
                give(state(archive, self._objects, it))
                give(whole_problems(archive, self._objects / "incoming", self._place))

        code, given = forked(work)
        if code or len(given) != 3:
            self.report.problems.append(f"{what}: cannot be looked at: {given}")
            return []
        return given


def uncrashed(report: Report) -> list[str]:
    """Operations in the text of our modules at which no trial has crashed, and that ``UNREACHED`` does not excuse."""
    crashed = [point.partition("@")[2].rpartition(":") for point in report.points]
    lines = {(module, int(line)) for module, _, line in crashed}
    return [
        f"{place} in {function}"
        for place, (function, span) in sites().items()
        if function not in UNREACHED and not any((place.rpartition(":")[0], line) in lines for line in span)
    ]


def main(folder: str, index: str) -> None:
    """All trials in a folder, which is made; index: a URL, or nothing for SQLite in the folder."""
    root = Path(folder)
    root.mkdir()
    trials = Trials(root / "objects", index if index.startswith(URL_SCHEMES) else root / "index.sqlite")
    report = trials.run()
    shown = {
        "points": dict(sorted(report.points.items())),
        "crashes": report.crashes,
        "reached_but_not_crashed": sorted(report.reached - report.points.keys()),
        "not_crashed": uncrashed(report),
        "problems": report.problems,
    }
    print(json.dumps(shown, indent=1))


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2] if len(sys.argv) > 2 else "")
