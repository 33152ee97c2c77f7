"""What the SQLite index does when the engine fails, the disk is full, others hold the lock, or somebody pulls the plug.

Faults are injected below our code: in the connection, by SQLite's own interrupt and page limit, by signals.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest

from storage.attributes import by_tag, extended_by
from storage.errors import Overloaded, StorageUnavailable
from storage.extended import read_extended
from storage.index import open_index
from storage.index.sqlite import Error, SqliteIndex, connect, connection_class
from storage.matching import Match, Query
from storage.model import Level, Outcome
from tests.contracts.extended import held, stored
from tests.fix_index import JPEG_2000, entries, entry, study_scope, uid

ROOT = Path(__file__).parents[2]
_SQLITE_IOERR = 10


def rows(path: Path, text: str) -> list[tuple]:
    with contextlib.closing(connect(path)) as connection:
        return connection.execute(text).fetchall()


def assert_whole(index: SqliteIndex, path: Path) -> None:
    """The file is sound, and parents say of themselves what their rows say."""
    assert rows(path, "PRAGMA integrity_check") == [("ok",)]
    assert rows(path, "PRAGMA foreign_key_check") == []
    studies = {one.scope.study_instance_uid: one.attributes for one in index.search(Query(Level.STUDY))}
    for study_uid, attributes in studies.items():
        counts = rows(
            path,
            "SELECT count(DISTINCT series.id), count(*) FROM instance JOIN series ON series.id = instance.series "
            f"JOIN study ON study.id = series.study WHERE study_instance_uid = '{study_uid}'",
        )
        assert counts == [(attributes["00201206"]["Value"][0], attributes["00201208"]["Value"][0])]
    assert rows(path, "SELECT count(*) FROM study") == [(len(studies),)]
    assert rows(path, "SELECT count(*) FROM document") == rows(path, "SELECT count(*) FROM instance")
    ((last, count),) = rows(path, "SELECT coalesce(max(sequence), 0), count(*) FROM change")
    assert last == count


# ---- the n-th statement fails -------------------------------------------------------------------------------------


class Plan:
    """Which statement of the writing connections fails, counted from when it was armed."""

    def __init__(self) -> None:
        self.countdown = 0
        self.is_late = False
        self.is_spent = False

    def arm(self, number: int, *, is_late: bool = False) -> None:
        self.countdown, self.is_late, self.is_spent = number, is_late, False

    def step(self) -> bool:
        if self.countdown:
            self.countdown -= 1
            self.is_spent = self.countdown == 0
            return self.is_spent
        return False


def failing(plan: Plan):
    """Opens real connections whose statements fail as the plan says: before they run, or after."""

    class Failing(connection_class()):
        def _run(self, method, text, parameters):
            is_failing = plan.step()
            if is_failing and not plan.is_late:
                raise io_error()
            cursor = method(text, parameters)
            if is_failing:
                raise io_error()
            return cursor

        def execute(self, text, parameters=()):
            return self._run(super().execute, text, parameters)

        def executemany(self, text, parameters):
            return self._run(super().executemany, text, parameters)

    return lambda path: connect(path, Failing)


def io_error() -> Exception:
    error = Error("disk I/O error")
    error.sqlite_errorcode = _SQLITE_IOERR
    return error


ACTS = {
    "store into nothing": ([], lambda index: index.add(entry())),
    "store beside others": ([entry(instance=2)], lambda index: index.add(entry(StudyDescription="fills a gap"))),
    "store again": ([entry()], lambda index: index.add(entry())),
    "store a rival": ([entry()], lambda index: index.add(entry(content="rival"))),
    "delete": (
        [entry(), entry(instance=2), entry(content="rival")],
        lambda index: index.delete(entry().instance.scope),
    ),
}


def state(index: SqliteIndex, path: Path) -> tuple:
    return (
        [answer.attributes for answer in index.search(Query(Level.INSTANCE, include="all"))],
        [change.sequence for change in index.changes(0, 100)],
        rows(path, "SELECT outcome, digest FROM rival"),
        rows(path, "SELECT count(*) FROM tombstone"),
    )


def reference(folder: Path, before, act) -> tuple:
    """The state after the act when nothing fails."""
    path = folder / "reference.sqlite"
    with contextlib.closing(open_index(path)) as index:
        for one in before:
            index.add(one)
        act(index)
        return state(index, path)


@pytest.mark.parametrize("is_late", [False, True], ids=["before it runs", "after it ran"])
@pytest.mark.parametrize("name", ACTS)
def test_whichever_statement_fails_the_state_is_old_or_new_and_a_retry_succeeds(tmp_path, name, is_late):
    before, act = ACTS[name]
    new = reference(tmp_path, before, act)
    for number in range(1, 200):
        path = tmp_path / f"{number}.sqlite"
        plan = Plan()
        with contextlib.closing(SqliteIndex(path, open_connection=failing(plan))) as index:
            for one in before:
                index.add(one)
            index.search(Query(Level.STUDY))  # opens the reading connection, which is not to fail
            old = state(index, path)
            plan.arm(number, is_late=is_late)
            try:
                act(index)
            except StorageUnavailable:
                assert plan.is_spent
                # Only a COMMIT that was done before it failed leaves the new state: then nobody was told so (R8).
                assert state(index, path) in ([old, new] if is_late else [old])
            else:
                assert not plan.is_spent
                plan.arm(0)
                assert state(index, path) == new
                assert number > 4  # BEGIN, what looks and what changes, COMMIT
                return
            act(index)
            assert state(index, path) == new
            assert_whole(index, path)
    pytest.fail("the act never ran to its end")


EXTENDED_ACTS = {
    "index": lambda index: index.index_extended(),
    "store": lambda index: index.add(stored(1, 1, 4, json=held("00191008", "B") | held("0019100F", "C"))),
    "delete": lambda index: index.delete(stored(2, 2, 3).instance.scope),
}
TAGS = ("00191008:LO@instance", "0019100F:LO@study")


def extended_state(path: Path) -> list:
    tables = ("study_extended", "instance_extended", "extended_tag")
    return [sorted(rows(path, f"SELECT * FROM {table}")) for table in tables]


@pytest.mark.parametrize("is_late", [False, True], ids=["before it runs", "after it ran"])
@pytest.mark.parametrize("name", EXTENDED_ACTS)
def test_whichever_statement_fails_extended_rows_and_how_far_they_go_belong_together(tmp_path, name, is_late):
    before = [stored(1, 1, 1), stored(1, 1, 2, json=held("00191008", "A")), stored(2, 2, 3, json=held("0019100F", "C"))]
    for number in range(1, 200):
        path = tmp_path / f"{number}.sqlite"
        plan = Plan()
        with contextlib.closing(open_index(path)) as index:
            for one in before:
                index.add(one)
        with (
            extended_by(read_extended(TAGS)),
            contextlib.closing(SqliteIndex(path, open_connection=failing(plan))) as index,
        ):
            if name != "index":
                index.index_extended()
            old = extended_state(path)
            plan.arm(number, is_late=is_late)
            with contextlib.suppress(StorageUnavailable):
                EXTENDED_ACTS[name](index)
            is_over = not plan.is_spent
            plan.arm(0)
            new = extended_state(path)
            if not is_over and not is_late:
                assert new == old
            while not index.index_extended().is_complete:
                pass
            EXTENDED_ACTS[name](index)
            found = [len(index.search(Query(Level.INSTANCE, (Match.of(by_tag(tag), text),)))) for tag, text in KEYS]
            assert found == {"index": [1, 0, 1], "store": [1, 1, 4], "delete": [1, 0, 0]}[name]
            assert_whole(index, path)
            if is_over:
                assert number > 6
                return
    pytest.fail("the act never ran to its end")


KEYS = (("00191008", "A"), ("00191008", "B"), ("0019100F", "C"))


@pytest.mark.parametrize("name", ACTS)
def test_an_interrupt_at_any_moment_leaves_the_old_state_and_a_retry_succeeds(tmp_path, name):
    """The last steps of COMMIT may be interrupted when it is done: then, and only then, the state is new."""
    before, act = ACTS[name]
    new = reference(tmp_path, before, act)
    path = tmp_path / "index.sqlite"
    countdown = [0]

    def tick() -> int:
        if countdown[0]:
            countdown[0] -= 1
            return countdown[0] == 0
        return 0

    def interruptible(path):
        connection = connect(path)
        connection.set_progress_handler(tick, 1)
        return connection

    interrupted, done = 0, False
    for number in range(1, 100_000, 7):
        path.unlink(missing_ok=True)
        with contextlib.closing(SqliteIndex(path, open_connection=interruptible)) as index:
            for one in before:
                index.add(one)
            old = state(index, path)
            countdown[0] = number
            try:
                act(index)
            except StorageUnavailable:
                interrupted += 1
                countdown[0] = 0
                assert not done  # whatever comes later is no step of the act
                found = state(index, path)
                assert found in (old, new)
                done = found != old
                act(index)
                assert state(index, path) == new
                assert_whole(index, path)
            else:
                assert countdown[0] > 0
                break
    assert interrupted > 5


# ---- others who wait for the same commit --------------------------------------------------------------------------


@contextlib.contextmanager
def lock_held(path: Path):
    """Another process's write lock, as far as SQLite can tell."""
    with contextlib.closing(connect(path)) as connection:
        connection.execute("BEGIN IMMEDIATE")
        yield
        connection.execute("ROLLBACK")


class Watched(connection_class()):
    """A connection of which the class knows how often one tried to begin, and to commit."""

    begins = 0
    commits = 0

    def execute(self, text, parameters=()):
        Watched.begins += text == "BEGIN IMMEDIATE"
        Watched.commits += text == "COMMIT"
        return super().execute(text, parameters)


def watched(path: Path):
    return connect(path, Watched)


def until(condition) -> None:
    deadline = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.001)


def submitted(pool: ThreadPoolExecutor, index: SqliteIndex, made: list) -> list:
    """Futures of stores, of which the first waits for the lock and the others for the next commit."""
    begins = Watched.begins
    futures = [pool.submit(index.add, made[0])]
    until(lambda: Watched.begins > begins)
    for number, one in enumerate(made[1:], start=1):
        futures.append(pool.submit(index.add, one))
        until(lambda number=number: len(index._committer._waiting) == number)
    return futures


def test_an_entry_that_breaks_a_rule_of_the_schema_fails_alone(tmp_path):
    path = tmp_path / "index.sqlite"
    made = [entry(1, 1, number) for number in range(1, 6)]
    made[3] = replace(made[3], instance=replace(made[3].instance, size_bytes=None))
    with contextlib.closing(SqliteIndex(path, open_connection=watched)) as index, ThreadPoolExecutor(5) as pool:
        with lock_held(path):
            futures = submitted(pool, index, made)
        outcomes = [future.exception(10) for future in futures]
        assert [type(outcome).__name__ for outcome in outcomes] == ["NoneType"] * 3 + ["IntegrityError", "NoneType"]
        assert len(index.instances(study_scope(1))) == 4
        assert_whole(index, path)


@pytest.mark.parametrize("is_late", [False, True], ids=["before it runs", "after it ran"])
def test_a_commit_that_fails_fails_everybody_who_shares_it(tmp_path, is_late):
    path = tmp_path / "index.sqlite"

    class Failing(Watched):
        commits_to_fail = 0

        def execute(self, text, parameters=()):
            if text != "COMMIT" or not Failing.commits_to_fail:
                return super().execute(text, parameters)
            Failing.commits_to_fail -= 1
            if is_late:
                super().execute(text, parameters)
            raise io_error()

    made = [entry(1, 1, number) for number in range(1, 9)]
    with (
        contextlib.closing(SqliteIndex(path, open_connection=lambda path: connect(path, Failing))) as index,
        ThreadPoolExecutor(8) as pool,
    ):
        index.add(entry(1, 1, 100))
        Failing.commits_to_fail = 2
        with lock_held(path):
            futures = submitted(pool, index, made)
        assert all(isinstance(future.exception(10), StorageUnavailable) for future in futures)
        assert Failing.commits_to_fail == 0  # one commit for the first, one for the seven others
        again = {index.add(one).outcome for one in made}
        assert again == ({Outcome.DUPLICATE} if is_late else {Outcome.STORED})
        assert len(index.changes(0, 100)) == 9
        assert_whole(index, path)


def test_a_full_queue_is_overloaded_and_what_waits_is_stored(tmp_path):
    path = tmp_path / "index.sqlite"
    made = [entry(1, 1, number) for number in range(1, 4)]
    with (
        contextlib.closing(SqliteIndex(path, queue_capacity=2, open_connection=watched)) as index,
        ThreadPoolExecutor(3) as pool,
    ):
        with lock_held(path):
            futures = submitted(pool, index, made)
            with pytest.raises(Overloaded):
                index.add(entry(1, 1, 4))
            assert index.search(Query(Level.STUDY)) == []
        assert {future.result(10).outcome for future in futures} == {Outcome.STORED}
        assert len(index.instances(study_scope(1))) == 3


def test_a_lock_that_is_not_released_is_unavailable_and_reading_goes_on(tmp_path):
    path = tmp_path / "index.sqlite"
    with contextlib.closing(SqliteIndex(path, busy_seconds=0.05)) as index:
        index.add(entry())
        with lock_held(path):
            with pytest.raises(StorageUnavailable):
                index.add(entry(instance=2))
            assert len(index.instances(study_scope(1))) == 1
        assert index.add(entry(instance=2)).outcome is Outcome.STORED


def test_a_lone_store_is_committed_by_its_own_thread_without_waiting(tmp_path):
    with contextlib.closing(open_index(tmp_path / "index.sqlite")) as index:
        for _ in range(5):
            assert index._committer.run(lambda _: threading.get_ident()) == threading.get_ident()


def test_callers_who_wait_share_a_commit(tmp_path):
    path = tmp_path / "index.sqlite"
    with contextlib.closing(SqliteIndex(path, open_connection=watched)) as index, ThreadPoolExecutor(9) as pool:
        with lock_held(path):
            futures = submitted(pool, index, [entry(1, 1, number) for number in range(1, 10)])
            commits = Watched.commits
        assert all(future.result(10).outcome is Outcome.STORED for future in futures)
        assert Watched.commits == commits + 2  # the first one alone, then the eight who waited for it


def test_a_full_disk_refuses_stores_and_nothing_else_and_ends_alone(tmp_path):
    path = tmp_path / "index.sqlite"
    pages = [1 << 30]

    def limited(path):
        connection = connect(path)
        connection.execute(f"PRAGMA max_page_count = {pages[0]}")
        return connection

    with contextlib.closing(SqliteIndex(path, open_connection=limited)) as index:
        index.add(entry(1, 1, 1))
        pages[0] = rows(path, "PRAGMA page_count")[0][0] + 5
        index._committer._drop_connection()  # idle now: the next store opens one with the new limit
        stored = 1
        with pytest.raises(StorageUnavailable):
            for number in range(2, 1000):
                index.add(entry(1, 1, number, StudyDescription="A" * 60))
                stored += 1
        assert stored > 1
        assert len(index.instances(study_scope(1))) == stored
        assert_whole(index, path)
        pages[0] = 1 << 30
        assert index.add(entry(1, 1, stored + 1)).outcome is Outcome.STORED
        assert_whole(index, path)


# ---- processes ----------------------------------------------------------------------------------------------------

WRITER = """
import sys
from pathlib import Path
from storage.index import open_index
from tests.fix_index import entry

index = open_index(Path(sys.argv[1]))
first, count = int(sys.argv[2]), int(sys.argv[3])
for number in range(first, first + count):
    receipt = index.add(entry(1, number % 7, number))
    print(number, receipt.outcome.value, flush=True)
index.close()
"""


def writer(path: Path, first: int, count: int) -> subprocess.Popen:
    arguments = [sys.executable, "-c", WRITER, str(path), str(first), str(count)]
    return subprocess.Popen(arguments, stdout=subprocess.PIPE, text=True, cwd=ROOT)


def test_processes_that_start_and_write_together_lose_nothing(tmp_path):
    path = tmp_path / "index.sqlite"
    processes = [writer(path, first, 60) for first in (1, 31, 1001)]
    outputs = [process.communicate(timeout=120)[0] for process in processes]
    assert [process.returncode for process in processes] == [0, 0, 0]
    outcomes = [line.split()[1] for output in outputs for line in output.splitlines()]
    assert sorted(set(outcomes)) == ["duplicate", "stored"]
    assert outcomes.count("stored") == 150
    with contextlib.closing(open_index(path)) as index:
        assert len(index.instances(study_scope(1))) == 150
        assert len(index.changes(0, 1000)) == 150
        assert_whole(index, path)


@pytest.mark.parametrize("seed", range(6))
def test_what_a_killed_process_was_told_is_stored_is_there(tmp_path, seed):
    path = tmp_path / "index.sqlite"
    process = writer(path, 1, 100_000)
    acknowledged = []
    for line in process.stdout:
        acknowledged.append(int(line.split()[0]))
        if len(acknowledged) == 5 + 37 * seed:
            break
    os.kill(process.pid, signal.SIGKILL)
    acknowledged += [int(line.split()[0]) for line in process.communicate()[0].splitlines() if line.endswith("stored")]
    with contextlib.closing(open_index(path)) as index:
        found = {one.sop_instance_uid for one in index.instances(study_scope(1))}
        assert {uid(number, "3") for number in acknowledged} <= found
        assert len(found) <= len(acknowledged) + 1
        assert_whole(index, path)
        assert index.add(entry(1, 1, 999_999)).outcome is Outcome.STORED


# ---- resources ----------------------------------------------------------------------------------------------------


def test_connections_are_reused_by_threads_and_closed_with_the_index(tmp_path):
    path = tmp_path / "index.sqlite"
    opened = []

    def counted(path):
        opened.append(connect(path))
        return opened[-1]

    with contextlib.closing(SqliteIndex(path, open_connection=counted)) as index:
        index.add(entry())
        for _ in range(20):
            thread = threading.Thread(target=index.search, args=(Query(Level.STUDY),))
            thread.start()
            thread.join()
        assert len(opened) == 3  # for the schema, for writing, for reading
    for connection in opened:
        with pytest.raises(Exception, match="closed"):
            connection.execute("SELECT 1")


def test_a_reading_connection_cannot_write(tmp_path):
    with contextlib.closing(open_index(tmp_path / "index.sqlite")) as index:
        index.add(entry())
        with pytest.raises(StorageUnavailable), index._engine.reading() as connection:
            connection.execute("DELETE FROM change")
        assert len(index.changes(0, 10)) == 1


def test_a_mistake_in_sql_is_not_called_unavailable(tmp_path):
    with (
        contextlib.closing(open_index(tmp_path / "index.sqlite")) as index,
        pytest.raises(Error, match="no such table"),
    ):
        index._rows("SELECT 1 FROM nowhere", ())


def test_a_file_that_is_no_database_and_a_folder_that_is_missing_are_unavailable(tmp_path):
    (tmp_path / "text").write_text("this is no database, however long it goes on" * 100)
    for path in (tmp_path / "text", tmp_path / "missing" / "index.sqlite"):
        with pytest.raises(StorageUnavailable):
            open_index(path)


# ---- what is recorded ---------------------------------------------------------------------------------------------


def test_rivals_and_receptions_are_counted_with_their_source(tmp_path):
    path = tmp_path / "index.sqlite"
    with contextlib.closing(open_index(path)) as index:
        index.add(entry())
        index.add(entry())
        index.add(entry(content="other"))
        index.add(entry(content="other"))
        index.add(entry(content="small", transfer_syntax_uid=JPEG_2000))
        index.add(entry(instance=2, PatientID="P2"))
    counted = rows(path, "SELECT receive_count, door, calling_ae, address, has_other_patient FROM instance ORDER BY id")
    assert counted == [(2, "dimse", "CT1", "127.0.0.1", 0), (1, "dimse", "CT1", "127.0.0.1", 1)]
    rivals = rows(path, "SELECT outcome, receive_count, object_key, calling_ae FROM rival ORDER BY id")
    assert rivals == [
        ("conflict", 2, entry(content="other").instance.key, "CT1"),
        ("variant", 1, entry(content="small").instance.key, "CT1"),
    ]


def test_tombstones_name_every_object_that_lost_its_row(tmp_path):
    path = tmp_path / "index.sqlite"
    made = entries(1, 2, 2)
    with contextlib.closing(open_index(path)) as index:
        for one in made:
            index.add(one)
        index.add(rival := entry(1, 1001, 1001001, content="rival"))
        index.delete(study_scope(1))
        assert_whole(index, path)
    keys = {key for (key,) in rows(path, "SELECT object_key FROM tombstone WHERE object_key != ''")}
    assert keys == {one.instance.key for one in [*made, rival]}
    assert rows(path, "SELECT count(*) FROM rival") == [(0,)]


def test_a_search_that_takes_too_long_is_broken_off_and_the_next_one_is_answered(tmp_path):
    endless = "WITH RECURSIVE counted (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM counted) SELECT max(n) FROM counted"
    with contextlib.closing(open_index(tmp_path / "index.sqlite", search_seconds=0.1)) as index:
        index.add(entry())
        started = time.monotonic()
        with pytest.raises(StorageUnavailable):
            index._rows(endless, ())
        assert time.monotonic() - started < 5
        assert len(index.search(Query(Level.STUDY))) == 1
