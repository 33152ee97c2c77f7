"""A rebuilt index answers as the one did that it replaces: whatever was stored, deleted and sent again before."""

from __future__ import annotations

import contextlib
import os
import random
from dataclasses import replace

import pytest

from storage.archive import Archive
from storage.errors import InstanceConflict, NotFound, OnHold, StorageUnavailable
from storage.index import open_index
from storage.keys import JOURNAL
from storage.matching import Query
from storage.model import Level, Outcome, Receipt, Scope, Source
from storage.objects import open_object_store
from storage.objects.base import Stat
from storage.policy import read_policies
from storage.provenance import Provenance, label_of, provenance_of
from storage.rebuild import AT_ONCE, Rebuild, follow_on, swap_in
from tests.fix_archive import keep, open_archive
from tests.storage.test_dataset import deflated
from tests.synthetic import DEFLATED, data_set, element, image


def answers(index):
    """All that anybody can ask: what is found, in which order, with its metadata, and what was deleted."""
    studies = index.search(Query(Level.STUDY, include="all"))
    return {
        "studies": studies,
        "series": index.search(Query(Level.SERIES, include="all")),
        "instances": index.search(Query(Level.INSTANCE, include="all")),
        "documents": [list(index.documents(study.scope)) for study in studies],
        "json": [index.search_json(Query(level), str) for level in (Level.STUDY, Level.SERIES, Level.INSTANCE)],
        "rivals": sorted(
            ((kept.instance, index.find([kept.instance.sop_instance_uid])) for kept in index.upkeep.rivals(0, 10_000)),
            key=str,
        ),
    }


def deletions(index):
    """All that anybody can ask of what was deleted: each time, by whom, how much, what can be brought back, holds."""
    return {
        "deletions": [
            (one.scope, one.deleted_at, one.source, one.extent, one.kept, one.is_held)
            for one in index.deletions.listed(0, 1000)
        ],
        "kept": sorted(
            (one.key, one.scope, one.source)
            for study in ("1.2.1", "1.2.2")
            for one in index.deletions.remains(Scope(study), 0, 1000)
        ),
        "holds": index.deletions.holds(),
    }


def rebuilt(folder, objects, *, engine=None, name="rebuilt", with_digests=True, seen=None):
    """A new index for the objects of an archive, and what was refused."""
    place = folder / name
    place.mkdir(exist_ok=True)
    work = Rebuild(objects, place, name, with_digests=with_digests)
    refused = []
    with contextlib.closing(work):
        goes_on = work.prepare()
        index = open_index(engine.place(place) if engine else place / "index.sqlite")
        assert goes_on or index.upkeep.is_empty()
        for step in work.run(index):
            refused += step.refused
            if seen is not None:
                seen(step)
    return index, refused


def version(study, sop, text, **options):
    """A version of an instance; what it says of its study and series depends on the text."""
    extra = (element(0x00081030, "LO", text), element(0x0008103E, "LO", text)) if len(text) % 2 else ()
    return data_set(f"1.2.{study}", f"1.2.{study}.{sop % 2 + 1}", f"1.2.{study}.9.{sop}", extra=extra, **options)


def live(archive, chance, steps):
    """A history: stores of the same, other and re-encoded versions, deletions, and stores of what was deleted."""
    scopes = set()
    for _ in range(steps):
        study, sop = chance.randint(1, 2), chance.randint(1, 5)
        uids = (f"1.2.{study}", f"1.2.{study}.{sop % 2 + 1}", f"1.2.{study}.9.{sop}")
        if chance.random() < 0.3:
            scope = Scope(*uids[: chance.randint(1, 3)])
            with contextlib.suppress(NotFound):
                archive.delete(scope)
            scopes.add(scope)
            continue
        text = chance.choice(["a", "bb", "ccc", "dddd"])
        content = version(study, sop, text, number=chance.choice([1, 2]), modality=chance.choice(["CT", "MR"]))
        if chance.random() < 0.2:
            keep(archive, deflated(content), syntax=DEFLATED, sop=uids[2])
        else:
            keep(archive, content, sop=uids[2])
    return sorted(scopes, key=str)


@pytest.mark.parametrize("seed", range(12))
def test_whatever_has_happened_the_answers_are_the_same(tmp_path, seed):
    archive = open_archive(tmp_path / "archive")
    scopes = live(archive, random.Random(seed), 40)
    index, refused = rebuilt(tmp_path, archive._objects)
    assert refused == []
    assert answers(index) == answers(archive._index)
    assert [index.is_deleted(scope) for scope in scopes] == [archive._index.is_deleted(scope) for scope in scopes]
    index.close()
    archive.close()


def live_and_collect(archives, chance, steps):
    """A history with everything that can be done to instances: also brought back, held, collected, and sent again after
    their objects were gone. Returns what was deleted.
    """
    scopes = set()
    for _ in range(steps):
        archive = chance.choice(archives)
        study, sop = chance.randint(1, 2), chance.randint(1, 4)
        uids = (f"1.2.{study}", f"1.2.{study}.{sop % 2 + 1}", f"1.2.{study}.9.{sop}")
        scope = Scope(*uids[: chance.randint(1, 3)])
        action = chance.random()
        with contextlib.suppress(NotFound, OnHold):
            if action < 0.2:
                scopes.add(scope)
                archive.delete(scope, Source("dicomweb", address=f"192.0.2.{study}"))
            elif action < 0.3:
                assert [one for one in archive.undelete(scope) if not isinstance(one, Receipt)] == []
            elif action < 0.4:
                while archive.collect(0).has_more:
                    pass
            elif action < 0.45:
                archive.hold(scope)
            elif action < 0.55:
                archive.release(chance.choice([*(one.scope for one in archive.holds()), scope]))
            else:
                text = chance.choice(["a", "bb", "ccc"])
                content = version(study, sop, text, modality=chance.choice(["CT", "MR"]))
                is_deflated = chance.random() < 0.2
                keep(
                    archive,
                    deflated(content) if is_deflated else content,
                    sop=uids[2],
                    **({"syntax": DEFLATED} if is_deflated else {}),
                )
    return sorted(scopes, key=str)


@pytest.mark.parametrize("seed", range(16))
def test_what_was_brought_back_held_and_collected_is_so_after_a_rebuild(tmp_path, seed, engine):
    (tmp_path / "live").mkdir()
    objects, place = open_object_store(tmp_path / "objects"), engine.place(tmp_path / "live")
    rules = RULES[:2] if seed % 2 else RULES[:1]
    archives = [Archive(objects, open_index(place), policies=read_policies([rule]), name="US") for rule in rules]
    scopes = live_and_collect(archives, random.Random(seed), 60)
    before = archives[0]._index
    index, refused = rebuilt(tmp_path, objects, engine=engine)
    assert refused == []
    assert answers(index) == answers(before)
    assert [index.is_deleted(scope) for scope in scopes] == [before.is_deleted(scope) for scope in scopes]
    assert deletions(index) == deletions(before)
    archive = Archive(objects, index)
    while archive.collect(0).has_more:  # nothing that a row refers to goes by what the rebuilt index knows
        pass
    for study in ("1.2.1", "1.2.2"):
        for instance in index.instances(Scope(study)):
            for one in archive.versions(instance.sop_instance_uid):
                archive.open(one.instance).close()
    for one in (archive, *archives):
        one.close()


RULES = ("* conflict=keep-first", "* conflict=replace", "* conflict=replace prefix=PatientID:X-", "* conflict=reject")


def live_by_rules(archives, chance, steps):
    """A history of peers whose rules differ, of deletions, some undone and some for good, and of an operator who makes
    other versions current.
    """
    for _ in range(steps):
        archive = chance.choice(archives)
        study, sop = chance.randint(1, 2), chance.randint(1, 4)
        uid = f"1.2.9.9.{sop}"
        action = chance.random()
        with contextlib.suppress(NotFound, InstanceConflict):
            if action < 0.1:
                archive.delete(chance.choice([Scope(f"1.2.{study}"), archive.versions(uid)[0].instance.scope]))
            elif action < 0.2:
                archive.make_current(chance.choice(archive.versions(uid)))
            elif action < 0.25:
                assert [one for one in archive.undelete(Scope(f"1.2.{study}")) if not isinstance(one, Receipt)] == []
            elif action < 0.3:
                while archive.collect(0).has_more:
                    pass
            else:
                text = chance.choice(["a", "bb", "ccc"])
                options = {"patient_id": chance.choice(["P1", "P2"]), "modality": chance.choice(["CT", "MR"])}
                extra = (element(0x00081030, "LO", text), element(0x0008103E, "LO", text))
                content = data_set(f"1.2.{study}", f"1.2.{study}.{sop % 2 + 1}", uid, extra=extra, **options)
                keep(archive, content, sop=uid)


@pytest.mark.parametrize("seed", range(12))
def test_what_was_replaced_coerced_and_made_current_is_so_after_a_rebuild(tmp_path, seed, engine):
    objects, place = open_object_store(tmp_path / "objects"), tmp_path / "index.sqlite"
    archives = [Archive(objects, open_index(place), policies=read_policies([rule]), name="US") for rule in RULES]
    live_by_rules(archives, random.Random(seed), 40)
    before = archives[0]._index
    index, refused = rebuilt(tmp_path, objects, engine=engine)
    assert refused == []
    assert answers(index) == answers(before)
    for answer in before.search(Query(Level.INSTANCE)):
        current = before.find([answer.scope.sop_instance_uid])[answer.scope.sop_instance_uid]
        kept = {one.instance for one in before.versions(current.sop_instance_uid)}
        assert {one.instance for one in index.versions(current.sop_instance_uid)} == kept
    content = data_set("1.2.1", "1.2.1.1", "1.2.9.9.99")
    first = keep(archives[2], content, sop="1.2.9.9.99")
    assert first.outcome is Outcome.STORED
    index.close()
    index, refused = rebuilt(tmp_path, objects, engine=engine, name="again")
    again = Archive(objects, index, policies=read_policies(RULES[2:3]), name="US")
    known = keep(again, content, sop="1.2.9.9.99")
    assert (known.outcome, known.instance) == (Outcome.DUPLICATE, first.instance), "the bytes as they came are known"
    again.close()
    for archive in archives:
        archive.close()


def test_either_engine_is_rebuilt_to_the_same_answers(tmp_path, engine):
    archive = open_archive(tmp_path / "archive")
    live(archive, random.Random(99), 60)
    index, refused = rebuilt(tmp_path, archive._objects, engine=engine)
    assert refused == []
    assert answers(index) == answers(archive._index)
    index.close()
    archive.close()


def many(archive, count):
    for sop in range(count):
        keep(archive, version(1, sop, "x" * (sop % 4 + 1)), sop=f"1.2.1.9.{sop}")


class StoppedError(Exception):
    pass


@pytest.mark.parametrize("stop_at", [1, 2, 3])
def test_who_was_stopped_goes_on_and_comes_to_the_same_end(tmp_path, stop_at):
    archive = open_archive(tmp_path / "archive")
    many(archive, 2 * AT_ONCE + 10)
    archive.delete(Scope("1.2.1", "1.2.1.1"))
    keep(archive, version(1, 2, "xxx"), sop="1.2.1.9.2")
    steps = []

    def stop(step):
        steps.append(step)
        if len(steps) == stop_at:
            raise StoppedError

    with pytest.raises(StoppedError):
        rebuilt(tmp_path, archive._objects, seen=stop)
    done = []
    index, refused = rebuilt(tmp_path, archive._objects, seen=done.append)
    assert refused == []
    assert done[0].done == steps[-1].done
    assert answers(index) == answers(archive._index)
    index.close()
    archive.close()


def test_what_was_written_and_not_noted_as_done_is_not_done_twice(tmp_path):
    archive = open_archive(tmp_path / "archive")
    many(archive, 20)
    index, _ = rebuilt(tmp_path, archive._objects)
    index.close()
    place = tmp_path / "rebuilt" / "place.json"
    place.write_bytes(place.read_bytes().replace(b'"done":20', b'"done":0'))
    index, _ = rebuilt(tmp_path, archive._objects)
    assert index.upkeep.last_change() == 20
    assert answers(index) == answers(archive._index)
    index.close()
    archive.close()


def test_an_index_that_went_missing_is_not_taken_for_done(tmp_path):
    archive = open_archive(tmp_path / "archive")
    many(archive, 20)
    rebuilt(tmp_path, archive._objects)[0].close()
    for path in (tmp_path / "rebuilt").glob("index.sqlite*"):
        path.unlink()
    index, _ = rebuilt(tmp_path, archive._objects)
    assert answers(index) == answers(archive._index)
    index.close()
    archive.close()


def test_what_was_refused_before_a_stop_is_not_forgotten(tmp_path):
    archive = open_archive(tmp_path / "archive")
    many(archive, AT_ONCE + 20)
    key = next(archive._objects.keys("v1/default/1.2.1/1.2.1.9.3_"))
    flipped = bytearray((tmp_path / "archive" / "objects" / key).read_bytes())
    flipped[-1] ^= 1
    (tmp_path / "archive" / "objects" / key).write_bytes(flipped)
    refused_before = []

    def stop(step):
        refused_before.append(step.refused_before)
        if step.done >= AT_ONCE:
            raise StoppedError

    with pytest.raises(StoppedError):
        rebuilt(tmp_path, archive._objects, seen=stop)
    index, refused = rebuilt(tmp_path, archive._objects, seen=lambda step: refused_before.append(step.refused_before))
    assert refused == []
    assert sum(refused_before) == 1
    index.close()
    archive.close()


def test_another_plan_is_not_gone_on_with(tmp_path):
    archive = open_archive(tmp_path / "archive")
    many(archive, 3)
    rebuilt(tmp_path, archive._objects)[0].close()
    keep(archive, version(2, 1, "a"), sop="1.2.2.9.1")
    folder = tmp_path / "rebuilt"
    with contextlib.closing(Rebuild(archive._objects, folder, "rebuilt")) as work:
        assert not work.prepare()
    with contextlib.closing(Rebuild(archive._objects, folder, "elsewhere")) as work:
        assert not work.prepare()
    archive.close()


def test_who_brought_what_and_when_is_told_again(tmp_path):
    archive = open_archive(tmp_path / "archive")
    keep(archive, image())
    index, _ = rebuilt(tmp_path, archive._objects)

    def row(one):
        with one._engine.reading() as connection:
            return connection.execute("SELECT door, calling_ae, address, received_at FROM instance").fetchone()

    before, after = row(archive._index), row(index)
    assert tuple(after[:3]) == tuple(before[:3]) == ("test", "", "")
    assert after[3][:16] == before[3][:16]
    index.close()
    archive.close()


@pytest.mark.parametrize("label", [b"", b"{", b"[]", b"[1,2,3,4]", b'[-1,"a","b","c"]', b'["1","a","b","c"]', b"\xff"])
def test_without_a_label_that_says_something_the_time_of_the_file_is_taken(tmp_path, label):
    archive = open_archive(tmp_path / "archive")
    path = tmp_path / "archive" / "objects" / keep(archive, image()).instance.key
    os.setxattr(path, "user.gw", label)
    found = provenance_of(archive._objects.stat(path.relative_to(tmp_path / "archive" / "objects").as_posix()))
    assert found.received_ns == path.stat().st_mtime_ns
    assert found.source.door == "unknown"
    archive.close()


def relabel(archive, key, received_ns):
    """Have an object come at another time."""
    stat = archive._objects.stat(key)
    path = f"{archive._objects._root}/{key}"
    os.setxattr(path, "user.gw", label_of(replace(provenance_of(stat), received_ns=received_ns)))


def test_who_was_overtaken_by_another_version_does_not_win_after_a_rebuild(tmp_path):
    """The object that came first got its row second: the row has decided."""
    archive = open_archive(tmp_path / "archive")
    slow, fast = version(1, 1, "slow"), version(1, 1, "fast!")
    real = archive._index.add

    def overtaken(entry, terms):
        archive._index.add = real
        keep(archive, fast, sop="1.2.1.9.1")
        return real(entry, terms)

    archive._index.add = overtaken
    assert keep(archive, slow, sop="1.2.1.9.1").outcome is Outcome.CONFLICT
    index, _ = rebuilt(tmp_path, archive._objects)
    assert answers(index) == answers(archive._index)
    index.close()
    archive.close()


def test_an_object_that_was_lost_and_sent_again_is_still_the_first(tmp_path):
    archive = open_archive(tmp_path / "archive")
    first = keep(archive, version(1, 1, "a"), sop="1.2.1.9.1")
    keep(archive, version(1, 1, "bb"), sop="1.2.1.9.1")
    archive._objects.delete(first.instance.key)
    keep(archive, version(1, 1, "a"), sop="1.2.1.9.1")
    index, _ = rebuilt(tmp_path, archive._objects)
    assert answers(index) == answers(archive._index)
    index.close()
    archive.close()


def test_a_store_that_began_before_a_deletion_and_ended_after_it_is_there(tmp_path):
    archive = open_archive(tmp_path / "archive")
    keep(archive, version(1, 1, "a"), sop="1.2.1.9.1")
    real = archive._index.add

    def late(entry, terms):
        archive._index.add = real
        archive.delete(Scope("1.2.1"))
        return real(entry, terms)

    archive._index.add = late
    keep(archive, version(1, 2, "a"), sop="1.2.1.9.2")
    index, _ = rebuilt(tmp_path, archive._objects)
    assert answers(index) == answers(archive._index)
    assert len(answers(index)["instances"]) == 1
    index.close()
    archive.close()


def test_an_instance_that_comes_again_while_it_is_deleted_is_there(tmp_path):
    archive = open_archive(tmp_path / "archive")
    keep(archive, version(1, 1, "a"), sop="1.2.1.9.1")
    real = archive._index.add

    def late(entry, terms):
        archive._index.add = real
        archive.delete(Scope("1.2.1"))
        return real(entry, terms)

    archive._index.add = late
    assert keep(archive, version(1, 1, "a"), sop="1.2.1.9.1").outcome is Outcome.STORED
    index, _ = rebuilt(tmp_path, archive._objects)
    assert answers(index) == answers(archive._index)
    assert len(answers(index)["instances"]) == 1
    index.close()
    archive.close()


def test_a_clock_that_was_set_back_resurrects_nothing_and_loses_nothing(tmp_path):
    archive = open_archive(tmp_path / "archive")
    gone = keep(archive, version(1, 1, "a"), sop="1.2.1.9.1")
    kept = keep(archive, version(1, 2, "a"), sop="1.2.1.9.2")
    hour = 3600 * 10**9
    for receipt in (gone, kept):
        relabel(archive, receipt.instance.key, archive._received_ns(receipt.instance) + hour)
    archive.delete(gone.instance.scope)
    index, _ = rebuilt(tmp_path, archive._objects)
    assert [one.sop_instance_uid for one in index.instances(Scope("1.2.1"))] == ["1.2.1.9.2"]
    assert index.is_deleted(gone.instance.scope)
    index.close()
    archive.close()


def test_what_was_deleted_and_collected_is_still_known_to_be_gone_and_may_come_again(tmp_path):
    archive = open_archive(tmp_path / "archive")
    receipt = keep(archive, version(1, 1, "a"), sop="1.2.1.9.1")
    archive.delete(Scope("1.2.1"))
    archive._objects.delete(receipt.instance.key)
    index, _ = rebuilt(tmp_path, archive._objects, name="collected")
    assert index.is_deleted(Scope("1.2.1"))
    assert index.is_deleted(receipt.instance.scope)
    index.close()
    keep(archive, version(1, 1, "a"), sop="1.2.1.9.1")
    index, _ = rebuilt(tmp_path, archive._objects, name="again")
    assert answers(index) == answers(archive._index)
    assert len(answers(index)["instances"]) == 1
    index.close()
    archive.close()


def test_what_is_damaged_or_lies_in_the_wrong_place_is_refused_by_name_and_the_rest_is_there(tmp_path):
    archive = open_archive(tmp_path / "archive")
    receipts = [keep(archive, version(1, sop, "a"), sop=f"1.2.1.9.{sop}") for sop in range(6)]
    archive.delete(receipts[5].instance.scope)
    paths = [tmp_path / "archive" / "objects" / receipt.instance.key for receipt in receipts]
    content = bytearray(paths[0].read_bytes())
    content[-1] ^= 1
    paths[0].write_bytes(content)
    content = bytearray(paths[1].read_bytes())
    content[3] ^= 1
    paths[1].write_bytes(content)
    paths[2].write_bytes(b"")
    other = paths[3].parent.with_name("1.2.77")
    other.mkdir()
    paths[3].rename(other / paths[3].name)
    (entry,) = archive._objects.keys(JOURNAL)
    (tmp_path / "archive" / "objects" / entry).write_bytes(b"{}")
    index, refused = rebuilt(tmp_path, archive._objects)
    assert {one.key.rpartition("/")[2]: one.reason for one in refused} == {
        paths[0].name: "The object is damaged",
        paths[1].name: "The header of the object is damaged",
        paths[2].name: "The object is empty",
        paths[3].name: "The object lies where another instance belongs",
        entry.rpartition("/")[2]: "An entry of the journal is damaged",
    }
    # Without its entry in the journal nobody knows that the last one was deleted; it is not lost.
    assert [one.sop_instance_uid for one in index.instances(Scope("1.2.1"))] == ["1.2.1.9.4", "1.2.1.9.5"]
    index.close()
    archive.close()


def test_a_store_that_cannot_be_read_at_all_makes_no_empty_index(tmp_path):
    archive = open_archive(tmp_path / "archive")
    many(archive, 5)
    objects = archive._objects

    class Gone:
        def __getattr__(self, name):
            if name == "open":
                raise StorageUnavailable("planted")
            return getattr(objects, name)

    with pytest.raises(StorageUnavailable):
        rebuilt(tmp_path, Gone())
    archive.close()


def test_the_feed_goes_on_behind_the_old_one_and_what_was_to_be_sent_still_is(tmp_path, engine):
    archive = open_archive(tmp_path / "archive")
    old = archive._index
    many(archive, 5)
    old.outbox.place("to the workstation")
    for _ in range(4):
        archive.delete(Scope("1.2.1"))
        many(archive, 5)
    scope = Scope("1.2.1", "1.2.1.1", "1.2.1.9.2")
    assert old.outbox.advance("to the workstation", 5, old.upkeep.last_change(), [scope], 7)
    index, _ = rebuilt(tmp_path, archive._objects, engine=engine)
    count = index.upkeep.last_change()
    for _ in range(2):
        follow_on(index, old)
        changes = index.changes(0, 1000)
        assert [one.sequence for one in changes] == [
            old.upkeep.last_change() + number for number in range(1, count + 1)
        ]
        assert index.outbox.place("to the workstation") == changes[-1].sequence
        assert [parcel.scope for parcel in index.outbox.take("to the workstation", 8, 7, 10)] == [scope]
    index.close()
    archive.close()


@pytest.mark.parametrize("state", ["whole", "damaged", "lost", "in use before"])
def test_a_new_index_takes_the_place_of_the_old_one_whatever_state_that_is_in(tmp_path, state):
    archive = open_archive(tmp_path / "archive")
    many(archive, 3)
    wanted = answers(archive._index)
    place = tmp_path / "archive" / "index.sqlite"
    if state == "in use before":  # killed: its log is still there
        log = place.with_name("index.sqlite-wal").read_bytes()
        main = place.read_bytes()
    archive.close()
    if state == "in use before":
        place.write_bytes(main)
        place.with_name("index.sqlite-wal").write_bytes(log)
    if state == "damaged":
        place.write_bytes(bytes(8192))
        place.with_name("index.sqlite-wal").write_bytes(b"whatever")
    if state == "lost":
        place.unlink()
    index, _ = rebuilt(tmp_path, archive._objects)
    index.close()
    before = swap_in(tmp_path / "rebuilt" / "index.sqlite", place)
    assert (before is None) == (state == "lost")
    assert before is None or before.exists()
    index = open_index(place)
    assert answers(index) == wanted
    index.close()
    if state in ("whole", "in use before"):
        index = open_index(before)
        assert answers(index) == wanted
        index.close()


def test_labels_of_objects_are_short_enough_for_an_inode():
    provenance = Provenance(1_800_000_000_000_000_000, Source("dimse", "A" * 16, "192.168.100.100"))
    assert len(label_of(provenance)) < 80
    assert provenance_of(Stat(1, 5, label_of(provenance))) == provenance
