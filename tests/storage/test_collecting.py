"""Deleted, brought back, collected: an instance that was acknowledged has its object at every moment, whoever comes
between a store, a deletion and a collector, in this process or another. R3, R9, R12
"""

from __future__ import annotations

import contextlib
import datetime as dt
import os
import random
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from storage.archive import Archive
from storage.errors import CorruptObject, GatewayError, Gone, NotFound, OnHold, StorageUnavailable
from storage.index import open_index
from storage.keys import following_key, is_key, parts_of, turn_of
from storage.matching import Query
from storage.model import Level, Outcome, Receipt, Scope, Source
from storage.objects import open_object_store
from storage.policy import read_policies
from storage.rebuild import Rebuild
from storage.spool import SPOOL_SUFFIX, sweep, waiting_file
from storage.upkeep import Depth, Fault, Scrub
from tests.contracts.stability import rest
from tests.fix_archive import keep
from tests.fix_faults import Failing
from tests.storage.test_archive import deflated, stored_bytes
from tests.synthetic import DEFLATED, image

ROOT = Path(__file__).parents[2]
STUDY = Scope("1.2.3")
SCOPE = Scope("1.2.3", "1.2.3.4", "1.2.3.4.5")
ROUNDS = 150
KILLS = 6


class Between:
    """A store or index that does something else first, or afterwards, when one of its methods is called for once."""

    def __init__(self, real, method, act, *, before):
        self._real = real
        self._method = method
        self._act = act
        self._before = before

    def __getattr__(self, name):
        found = getattr(self._real, name)
        if name != self._method or self._act is None:
            return found

        def called(*arguments, **options):
            act, self._act = self._act, None
            if act and self._before:
                act()
            result = found(*arguments, **options)
            if act and not self._before:
                act()
            return result

        return called


class Place:
    """One archive on a disk, that any number of processes open."""

    def __init__(self, folder, place):
        self.objects_folder = folder / "objects"
        self._place = place
        self._stack = contextlib.ExitStack()
        self.archive = self.another()

    def another(self, *, objects=None, method="", act=None, before=False):
        """The archive as one more process has it; ``act`` comes between the calls of ``method`` of its objects."""
        index = self._stack.enter_context(contextlib.closing(open_index(self._place)))
        found = objects or open_object_store(self.objects_folder)
        return Archive(Between(found, method, act, before=before), index)

    def files(self):
        return sorted(self.objects_folder.glob("v1/**/*.dcm"))

    def close(self):
        self._stack.close()


@pytest.fixture
def place(tmp_path, engine):
    made = Place(tmp_path, engine.place(tmp_path))
    yield made
    made.close()


def collect_all(archive, days=0.0):
    total = 0
    while True:
        done = archive.collect(days)
        total += done.objects
        if not done.has_more:
            return total


def everything(archive):
    """All answers of an archive, and all bytes."""
    found = archive.search(Query(Level.INSTANCE, include="all"))
    return (
        [archive.search(Query(level, include="all")) for level in (Level.STUDY, Level.SERIES)],
        found,
        [bytes(document.metadata) for document in archive.documents(STUDY)],
        [stored_bytes(archive, answer.scope) for answer in found],
    )


# ---- one after the other --------------------------------------------------------------------------------------------


def test_what_was_deleted_is_kept_for_its_time_and_then_its_objects_are_gone(place):
    keep(place.archive, image())
    keep(place.archive, image(name="Roe^Jane"))
    place.archive.delete(STUDY)
    assert collect_all(place.archive, 1.0) == 0
    assert len(place.files()) == 2
    size_bytes = sum(path.stat().st_size for path in place.files())
    done = place.archive.collect(0)
    assert (done.objects, done.size_bytes) == (2, size_bytes)
    assert place.files() == []
    assert collect_all(place.archive) == 0
    with pytest.raises(Gone):
        place.archive.instances(STUDY)
    with pytest.raises(NotFound):
        place.archive.undelete(STUDY)


def test_what_is_brought_back_answers_as_before_byte_for_byte(place):
    archive = place.archive
    for number in range(1, 30):
        other = {"name": f"Doe^{number}"} if number % 3 == 0 else {}
        series = f"1.2.3.{number % 4 + 1}"
        keep(archive, image(series=series, sop_instance=f"1.2.9.{number}", number=40 - number, **other))
    keep(archive, image(series="1.2.3.2", sop_instance="1.2.9.1", number=39, name="Rival"))
    keep(archive, deflated(image(series="1.2.3.4", sop_instance="1.2.9.3", number=37)), syntax=DEFLATED)
    before, files = everything(archive), place.files()
    archive.delete(STUDY)
    results = list(archive.undelete(STUDY))
    assert [result.outcome for result in results] == [*[Outcome.STORED] * 29, Outcome.CONFLICT, Outcome.VARIANT]
    assert everything(archive) == before
    assert place.files() == files
    with pytest.raises(NotFound):
        archive.undelete(STUDY)
    assert collect_all(archive) == 0
    assert everything(archive) == before


def test_a_part_can_be_brought_back_and_the_rest_later(place):
    archive = place.archive
    for number in range(1, 5):
        keep(archive, image(sop_instance=f"1.2.9.{number}", number=number))
    archive.delete(STUDY)
    one = Scope("1.2.3", "1.2.3.4", "1.2.9.2")
    assert len(list(archive.undelete(one))) == 1
    assert [answer.scope for answer in archive.search(Query(Level.INSTANCE))] == [one]
    results = archive.undelete(STUDY)
    next(results)
    assert len(archive.search(Query(Level.INSTANCE))) == 2
    assert len(list(archive.undelete(STUDY))) == 2
    assert [receipt.outcome for receipt in results] == [Outcome.DUPLICATE] * 2


def test_what_cannot_be_brought_back_keeps_nothing_else_from_it(place):
    archive = place.archive
    for number in range(1, 5):
        keep(archive, image(sop_instance=f"1.2.9.{number}"))
    archive.delete(STUDY)
    missing, flipped = [path for path in place.files() if "1.2.9.1_" in path.name or "1.2.9.3_" in path.name]
    missing.unlink()
    raw = bytearray(flipped.read_bytes())
    raw[-1] ^= 1
    flipped.write_bytes(raw)
    results = list(archive.undelete(STUDY))
    assert [type(result) for result in results] == [CorruptObject, Receipt, CorruptObject, Receipt]
    assert {answer.scope.sop_instance_uid for answer in archive.search(Query(Level.INSTANCE))} == {"1.2.9.2", "1.2.9.4"}


def test_who_brought_it_is_remembered(place):
    keep(place.archive, image())
    place.archive.delete(STUDY)
    list(place.archive.undelete(STUDY))
    place.archive.delete(STUDY)
    (remains,) = place.archive._index.deletions.remains(STUDY, 0, 10)
    assert remains.source == Source("test")


def test_a_hold_is_for_what_is_there_or_can_be_brought_back(place):
    with pytest.raises(NotFound):
        place.archive.hold(STUDY)
    keep(place.archive, image())
    place.archive.hold(SCOPE)
    with pytest.raises(OnHold):
        place.archive.delete(STUDY)
    place.archive.release(SCOPE)
    with pytest.raises(NotFound):
        place.archive.release(SCOPE)
    place.archive.delete(STUDY)
    place.archive.hold(STUDY)
    assert collect_all(place.archive) == 0
    assert len(list(place.archive.undelete(STUDY))) == 1
    place.archive.release(STUDY)
    place.archive.delete(STUDY)
    assert collect_all(place.archive) == 1
    with pytest.raises(Gone):
        place.archive.hold(STUDY)


def test_what_is_sent_again_after_it_was_collected_has_another_object_and_sending_it_once_more_mends_that(place):
    first = keep(place.archive, image()).instance
    place.archive.delete(STUDY)
    assert collect_all(place.archive) == 1
    second = keep(place.archive, image())
    assert (second.outcome, second.instance.key) == (Outcome.STORED, following_key(first.key))
    assert stored_bytes(place.archive) == image()
    collect_all(place.archive)
    (path,) = place.files()
    assert path.name == second.instance.key.rpartition("/")[2]
    path.unlink()
    assert keep(place.archive, image()).outcome is Outcome.DUPLICATE
    collect_all(place.archive)
    assert place.files() == [path]
    assert stored_bytes(place.archive) == image()
    place.archive.delete(STUDY)
    assert [result.outcome for result in place.archive.undelete(STUDY)] == [Outcome.STORED]
    collect_all(place.archive)
    assert place.files() == [path]


def test_a_key_says_its_digest_whichever_turn_it_is():
    key = f"v1/default/1.2/1.2.3_1.2.840.10008.1.2_{'ab' * 32}.dcm"
    second = following_key(key)
    assert second.endswith("-2.dcm")
    assert following_key(second).endswith("-3.dcm")
    assert following_key(second.replace("-2", "-9")).endswith("-10.dcm")
    for one in (key, second, following_key(second)):
        assert is_key(one)
        assert parts_of(one).digest == "ab" * 32
        assert turn_of(one)[0] == key
    assert not any(is_key(key.replace(".dcm", end)) for end in ("-.dcm", "-0.dcm", "-02.dcm", "-a.dcm", "-2-2.dcm"))
    assert [turn_of(one)[1] for one in (key, second, following_key(second))] == [1, 2, 3]
    assert not is_key(key.replace(".dcm", "-1.dcm"))


# ---- between one step and the next -----------------------------------------------------------------------------------


def test_a_collector_that_comes_between_object_and_row_takes_nothing_from_the_store(place):
    keep(place.archive, image())
    place.archive.delete(STUDY)
    storing = place.another(method="put", act=lambda: collect_all(place.archive))
    assert keep(storing, image()).outcome is Outcome.STORED
    assert stored_bytes(place.archive) == image()
    collect_all(place.archive)
    assert stored_bytes(place.archive) == image()
    assert len(place.files()) == 1


@pytest.mark.parametrize("before", [True, False], ids=["before", "after"])
def test_a_store_that_comes_around_the_removal_of_an_object_keeps_its_own(place, before):
    keep(place.archive, image())
    place.archive.delete(STUDY)
    collecting = place.another(method="delete", act=lambda: keep(place.archive, image()), before=before)
    collect_all(collecting)
    assert stored_bytes(place.archive) == image()
    collect_all(place.archive)
    assert stored_bytes(place.archive) == image()


def test_a_collector_that_was_stopped_and_goes_on_days_later_removes_nothing_that_is_needed(place):
    keep(place.archive, image())
    place.archive.delete(STUDY)

    def meanwhile():
        collect_all(place.archive)
        for _ in range(3):
            keep(place.archive, image())
            place.archive.delete(STUDY)
            collect_all(place.archive)
        keep(place.archive, image())

    collect_all(place.another(method="delete", act=meanwhile, before=True))
    assert stored_bytes(place.archive) == image()


def test_a_collector_that_dies_at_any_step_leaves_nothing_behind_and_takes_nothing_away(place):
    for at in range(1, 30):
        keep(place.archive, image())
        place.archive.delete(STUDY)
        failing = Failing(open_object_store(place.objects_folder), at, after=at % 2 == 0)
        with contextlib.suppress(StorageUnavailable):
            collect_all(Archive(failing, place.archive._index))
        assert keep(place.archive, image()).outcome is Outcome.STORED
        assert stored_bytes(place.archive) == image()
        collect_all(place.archive)
        assert stored_bytes(place.archive) == image()
        assert len(place.files()) == 1
        if failing.operations < at:
            return
        place.archive.delete(STUDY)
        collect_all(place.archive)
        assert place.files() == []
    pytest.fail("the collector never ran to its end")


def test_what_was_found_and_then_collected_is_gone_and_not_damaged(place):
    keep(place.archive, image())
    (instance,) = place.archive.instances(STUDY)
    place.archive.delete(STUDY)
    collect_all(place.archive)
    with pytest.raises(Gone):
        place.archive.open(instance)


def test_who_reads_while_it_is_deleted_and_collected_reads_to_the_end(place):
    content = image(600, 600)
    keep(place.archive, content)
    (instance,) = place.archive.instances(STUDY)
    with place.archive.open(instance) as stored:
        first = stored.read(0, 1000)
        place.archive.delete(STUDY)
        collect_all(place.archive)
        assert first + b"".join(stored.chunks(1000, len(content))) == content


def test_bringing_back_and_collecting_at_once_is_one_or_the_other(place):
    for number in range(40):
        keep(place.archive, image(sop_instance=f"1.2.9.{number}"))
    place.archive.delete(STUDY)
    other = place.another()
    with ThreadPoolExecutor(2) as pool:
        collecting = pool.submit(collect_all, other)
        results = []
        with contextlib.suppress(NotFound):
            results = list(place.archive.undelete(STUDY))
        collecting.result()
    restored = [result for result in results if isinstance(result, Receipt)]
    there = place.archive.search(Query(Level.INSTANCE))
    assert len(there) == len(restored)
    for answer in there:
        assert stored_bytes(place.archive, answer.scope)
    collect_all(place.archive)
    assert len(place.files()) == len(there)


# ---- races -----------------------------------------------------------------------------------------------------------


def visible_without_object(archive):
    """Reads what is visible; a row without an object is CorruptObject, and nothing but that is a fault."""
    try:
        for instance in archive.instances(STUDY):
            archive.open(instance).close()
    except NotFound:
        return


def test_stores_deletions_and_collectors_race_for_one_key(place):
    """Each round ends with a store that was acknowledged and that nobody deletes: it is there, with its bytes."""
    storing = [place.archive, place.another()]
    collecting = [place.another(), place.another()]
    reading = place.another()
    chance = random.Random(7)
    contents = [image(), image(name="Roe^Jane")]
    with ThreadPoolExecutor(6) as pool:
        for number in range(ROUNDS):
            content = contents[number % 2]
            with contextlib.suppress(NotFound):
                chance.choice(storing).delete(STUDY)
            start = threading.Barrier(5)

            def at_once(act, *arguments, start=start, pause=0.0):
                start.wait(20)
                time.sleep(pause)
                return act(*arguments)

            acts = [pool.submit(at_once, keep, one, content, pause=chance.random() * 0.004) for one in storing]
            acts += [pool.submit(at_once, collect_all, one, pause=chance.random() * 0.004) for one in collecting]
            acts.append(pool.submit(at_once, visible_without_object, reading))
            results = [act.result(60) for act in acts]
            assert {receipt.outcome for receipt in results[:2]} == {Outcome.STORED, Outcome.DUPLICATE}
            assert stored_bytes(reading) == content
    collect_all(place.archive)
    assert stored_bytes(reading) == contents[(ROUNDS - 1) % 2]
    assert len(place.files()) == 1


def test_a_study_that_is_deleted_while_its_instances_come_in_is_whole_or_not_there(place):
    """Whatever the order: counts equal rows, every row has its object, and what came last is there."""
    deleting, collecting = place.another(), place.another()
    is_over = threading.Event()

    def delete():
        while not is_over.wait(0.002):
            with contextlib.suppress(NotFound):
                deleting.delete(STUDY)

    def collect():
        while not is_over.wait(0.003):
            collect_all(collecting)

    def store(first):
        for number in range(first, first + 120):
            receipt = keep(place.archive, image(series=f"1.2.3.{number % 3}", sop_instance=f"1.2.9.{number % 40}"))
            assert receipt.outcome in (Outcome.STORED, Outcome.DUPLICATE, Outcome.CONFLICT)

    with ThreadPoolExecutor(6) as pool:
        others = [pool.submit(delete), pool.submit(collect)]
        stores = [pool.submit(store, first) for first in (0, 120, 240, 360)]
        for act in stores:
            act.result(120)
        is_over.set()
        for act in others:
            act.result(60)
    last = keep(place.archive, image(series="1.2.3.9", sop_instance="1.2.9.999")).instance
    collect_all(place.archive)
    found = place.archive.search(Query(Level.INSTANCE))
    assert last.scope in [answer.scope for answer in found]
    (study,) = place.archive.search(Query(Level.STUDY, include="all"))
    assert study.attributes["00201208"]["Value"] == [len(found)]
    for answer in found:
        assert stored_bytes(place.archive, answer.scope)


_COLLECTOR = """
import sys
from pathlib import Path
from storage.archive import Archive
from storage.index import open_index
from storage.objects import open_object_store
place = sys.argv[2] if "://" in sys.argv[2] else Path(sys.argv[2])
archive = Archive(open_object_store(Path(sys.argv[1])), open_index(place))
print("ready", flush=True)
while True:
    archive.collect(0)
"""


def test_collectors_in_other_processes_may_be_killed_at_any_moment(place, tmp_path, engine):
    archive, chance = place.archive, random.Random(11)
    for _ in range(KILLS):
        command = [sys.executable, "-c", _COLLECTOR, str(place.objects_folder), str(engine.place(tmp_path))]
        with subprocess.Popen(command, stdout=subprocess.PIPE, cwd=ROOT) as process:
            assert process.stdout.readline() == b"ready\n"
            deadline = time.monotonic() + 0.3 + chance.random() * 0.3
            while time.monotonic() < deadline:
                keep(archive, image())
                assert stored_bytes(archive) == image()
                archive.delete(STUDY)
                time.sleep(chance.random() * 0.003)
            process.send_signal(signal.SIGKILL)
        keep(archive, image())
        assert stored_bytes(archive) == image()
    collect_all(archive)
    assert stored_bytes(archive) == image()
    archive.delete(STUDY)
    collect_all(archive)
    assert place.files() == []


# ---- what stores have left -------------------------------------------------------------------------------------------


def test_r12_files_of_stores_that_were_cut_off_go_after_a_day_and_no_other(place):
    incoming = place.objects_folder / "incoming"
    fd, living = waiting_file(incoming)
    old, young = incoming / f"old{SPOOL_SUFFIX}", incoming / f"young{SPOOL_SUFFIX}"
    for path in (old, young):
        path.write_bytes(b"half")
    two_days_ago = time.time() - 48 * 3600
    for path in (old, living):
        os.utime(path, (two_days_ago, two_days_ago))
    assert place.archive.sweep() == 1
    assert sorted(incoming.iterdir()) == sorted((living, young))
    os.close(fd)
    assert sweep(incoming) == 2


def test_a_failure_that_may_pass_ends_what_is_brought_back_and_can_be_tried_again(place):
    for number in range(3):
        keep(place.archive, image(sop_instance=f"1.2.9.{number}"))
    place.archive.delete(STUDY)
    broken = Archive(Failing(open_object_store(place.objects_folder), 5, after=False), place.archive._index)
    with pytest.raises(StorageUnavailable):
        list(broken.undelete(STUDY))
    results = list(place.archive.undelete(STUDY))
    assert not any(isinstance(result, GatewayError) for result in results)
    assert len(place.archive.search(Query(Level.INSTANCE))) == 3


# ---- versions, rules and rebuilds -----------------------------------------------------------------------------------


def by_rule(place, rule, **options):
    """The archive as a process with another rule has it."""
    made = place.another()
    return Archive(made._objects, made._index, policies=read_policies([rule]), name="GATEWAY", **options)


def versions(archive):
    """The current version's digest first, and then those of the others."""
    first, *rest = [one.instance.digest for one in archive.versions(SCOPE.sop_instance_uid)]
    return first, set(rest)


def rebuilt(place, folder):
    folder.mkdir()
    with contextlib.closing(Rebuild(place.archive._objects, folder, "index")) as work:
        assert not work.prepare()
        index = open_index(folder / "index.sqlite")
        assert [one for step in work.run(index) for one in step.refused] == []
    return Archive(place.archive._objects, index)


def test_what_is_on_hold_is_not_replaced_and_the_reason_is_told(place):
    replacing = by_rule(place, "* conflict=replace")
    first = keep(replacing, image()).instance
    beside = keep(place.archive, image(name="Roe^Jane"))
    assert beside.outcome is Outcome.CONFLICT
    for scope in (STUDY, Scope("1.2.3", "1.2.3.4"), SCOPE):
        replacing.hold(scope)
        before = place.files()
        with pytest.raises(OnHold, match="legal hold"):
            keep(replacing, image(name="Poe^Edgar"))
        assert place.files() == before
        with pytest.raises(OnHold, match="legal hold"):
            replacing.make_current(replacing.versions(SCOPE.sop_instance_uid)[1])
        assert keep(replacing, image()).outcome is Outcome.DUPLICATE
        assert replacing.instances(STUDY) == [first]
        replacing.release(scope)
    assert keep(place.archive, image(name="Poe^Edgar")).outcome is Outcome.CONFLICT
    assert keep(replacing, image(name="Poe^Edgar")).outcome is Outcome.REPLACED


def test_a_hold_that_comes_between_the_look_and_the_row_refuses_all_the_same(place):
    keep(place.archive, image())
    made = place.another(method="put", act=lambda: place.archive.hold(STUDY))
    replacing = Archive(made._objects, made._index, policies=read_policies(["* conflict=replace"]))
    with pytest.raises(OnHold):
        keep(replacing, image(name="Roe^Jane"))
    assert len(replacing.versions(SCOPE.sop_instance_uid)) == 1


def test_all_versions_go_with_a_deletion_and_come_back_with_the_one_that_was_current(place, tmp_path):
    replacing = by_rule(place, "* conflict=replace")
    for name in ("Doe^Jane", "Roe^Jane", "Poe^Edgar"):
        keep(replacing, image(name=name))
    replacing.make_current(replacing.versions(SCOPE.sop_instance_uid)[2])
    before, bytes_before = versions(replacing), stored_bytes(replacing)
    assert replacing.delete(STUDY).objects == 3
    with pytest.raises(NotFound):
        replacing.versions(SCOPE.sop_instance_uid)
    results = list(replacing.undelete(STUDY))
    assert [one.outcome for one in results] == [Outcome.STORED, Outcome.CONFLICT, Outcome.CONFLICT]
    assert versions(replacing) == before
    assert stored_bytes(replacing) == bytes_before
    assert collect_all(replacing) == 0
    with contextlib.closing(rebuilt(place, tmp_path / "rebuilt")) as again:
        assert versions(again) == before
        assert stored_bytes(again) == bytes_before


def test_what_was_coerced_comes_back_as_it_was_and_its_bytes_as_they_came_are_known(place):
    coercing = by_rule(place, "* prefix=PatientID:X-")
    kept = keep(coercing, image())
    place.archive.delete(STUDY)
    (result,) = coercing.undelete(STUDY)
    assert (result.outcome, result.instance) == (Outcome.STORED, kept.instance)
    again = keep(coercing, image())
    assert (again.outcome, again.instance) == (Outcome.DUPLICATE, kept.instance)
    assert len(place.files()) == 1
    coercing.delete(STUDY)
    assert collect_all(coercing) == 1
    back = keep(coercing, image())
    assert back.outcome is Outcome.STORED
    assert place.files() == [place.objects_folder / back.instance.key]


def test_an_object_that_was_made_in_vain_is_collected_and_its_bytes_may_come_again(place):
    """The same bytes are there already, but coerced: no row refers to them as they came."""
    coerced = keep(by_rule(place, "* prefix=PatientID:X-"), image())
    for _ in range(2):
        assert keep(place.archive, image()).outcome is Outcome.DUPLICATE
        assert len(place.files()) == 2
        assert collect_all(place.archive) == 1
        assert place.files() == [place.objects_folder / coerced.instance.key]
    assert place.archive.deletions(0, 10) == []
    place.archive.delete(STUDY)
    collect_all(place.archive)
    assert keep(place.archive, image()).outcome is Outcome.STORED
    assert stored_bytes(place.archive) == image()
    collect_all(place.archive)
    assert stored_bytes(place.archive) == image()


def test_neither_deleted_nor_collected_objects_are_findings_of_a_scrub(place):
    def findings():
        scrub = Scrub(place.archive._objects, place.archive._index, None, depth=Depth.CHECKSUM, grace_seconds=0)
        return [one for step in scrub.run() for one in step.findings]

    keep(place.archive, image())
    keep(place.archive, image(name="Roe^Jane"))
    for step in (
        lambda: place.archive.delete(STUDY),
        lambda: place.archive._index.deletions.spend(dt.datetime.now(dt.UTC), 10),
        lambda: collect_all(place.archive),
        lambda: keep(place.archive, image()),
        lambda: collect_all(place.archive),
        lambda: place.archive.delete(STUDY),
        lambda: list(place.archive.undelete(STUDY)),
    ):
        step()
        assert findings() == []
    assert place.archive.instances(STUDY)[0].key.endswith("-2.dcm")


def test_what_a_killed_store_has_put_under_a_spent_key_is_an_orphan_and_gets_the_next_key(place):
    first = keep(place.archive, image()).instance
    place.archive.delete(STUDY)
    collect_all(place.archive)
    killed = place.another(method="put", act=lambda: (_ for _ in ()).throw(StorageUnavailable()))
    with pytest.raises(StorageUnavailable):
        keep(killed, image())
    assert place.files() == [place.objects_folder / first.key]
    scrub = Scrub(place.archive._objects, place.archive._index, place.archive, depth=Depth.CHECKSUM, grace_seconds=0)
    assert [(one.fault, one.is_repaired) for step in scrub.run() for one in step.findings] == [(Fault.ORPHAN, True)]
    assert collect_all(place.archive) == 1
    assert place.files() == [place.objects_folder / following_key(first.key)]
    assert stored_bytes(place.archive) == image()


def test_holds_outlive_the_index_and_so_does_their_end(place, tmp_path):
    keep(place.archive, image())
    place.archive.hold(STUDY)
    place.archive.hold(SCOPE)
    place.archive.release(SCOPE)
    with contextlib.closing(rebuilt(place, tmp_path / "one")) as again:
        assert again.holds() == place.archive.holds()
        with pytest.raises(OnHold):
            again.delete(STUDY)
    place.archive.release(STUDY)
    place.archive.hold(SCOPE)
    with contextlib.closing(rebuilt(place, tmp_path / "two")) as again:
        assert [one.scope for one in again.holds()] == [SCOPE]


def test_a_hold_of_which_the_journal_could_not_hear_is_not_acknowledged_and_asking_again_is_enough(place, tmp_path):
    keep(place.archive, image())
    journal = place.archive._journal
    real, journal._objects = journal._objects, Failing(journal._objects, 1, after=False)
    with pytest.raises(StorageUnavailable):
        place.archive.hold(STUDY)
    journal._objects = real
    place.archive.hold(STUDY)
    with contextlib.closing(rebuilt(place, tmp_path / "rebuilt")) as again:
        assert again.holds() == place.archive.holds()


def test_a_key_that_was_given_up_is_not_looked_at_by_a_rebuild_though_its_object_is_there(place, tmp_path):
    first = keep(place.archive, image()).instance
    place.archive.delete(STUDY)
    place.archive._index.deletions.spend(dt.datetime.now(dt.UTC), 10)
    second = keep(place.archive, image()).instance
    assert len(place.files()) == 2
    with contextlib.closing(rebuilt(place, tmp_path / "rebuilt")) as again:
        assert [one.key for one in again.instances(STUDY)] == [second.key] == [following_key(first.key)]
        assert collect_all(again) == 1
        assert stored_bytes(again) == image()
        again.delete(STUDY)
        assert keep(again, image()).instance.key == second.key
        again.delete(STUDY)
        collect_all(again)
        assert keep(again, image()).instance.key == following_key(second.key)


def test_who_deleted_what_and_how_much_it_was_outlives_the_index_also_when_it_is_collected(place, tmp_path):
    keep(place.archive, image())
    keep(place.archive, image(name="Roe^Jane"))
    by = Source("dicomweb", address="192.0.2.7")
    extent = place.archive.delete(STUDY, by)
    collect_all(place.archive)
    with contextlib.closing(rebuilt(place, tmp_path / "rebuilt")) as again:
        (row,) = again.deletions(0, 10)
        assert (row.scope, row.source, row.extent, row.kept) == (STUDY, by, extent, 0)
        with pytest.raises(NotFound):
            again.undelete(STUDY)
        with pytest.raises(Gone):
            again.instances(STUDY)


def test_what_stays_of_a_study_does_not_say_what_was_deleted(place):
    keep(place.archive, image(name="Wrong^Patient"))
    keep(place.archive, image(name="Right^Patient", sop_instance="1.2.3.4.6"), sop="1.2.3.4.6")
    place.archive.delete(SCOPE)
    (study,) = place.archive.search(Query(Level.STUDY))
    assert study.attributes["00100010"]["Value"] == [{"Alphabetic": "Right^Patient"}]


def test_the_feed_says_each_deletion_and_return_once_and_what_comes_to_rest_after_it(place):
    index = place.archive._index
    rest(index, int(time.time()))
    settled = ["series-stable", "study-stable"]

    def told(act):
        before = place.archive.latest()
        act()
        for now in (time.time(), time.time() + 60):
            rest(index, int(now))
        return [change.kind for change in place.archive.changes(before, 100)]

    assert told(lambda: (keep(place.archive, image()), keep(place.archive, image(name="Roe^Jane")))) == [
        "stored",
        *settled,
    ]
    assert told(lambda: place.archive.delete(STUDY)) == ["deleted"]
    assert told(lambda: list(place.archive.undelete(STUDY))) == ["stored", *settled]
    assert told(lambda: collect_all(place.archive)) == []
