"""A scrub tells what is wrong from what only looks so, mends it through the path of a store, and may be stopped."""

from __future__ import annotations

import contextlib
import os
import time

import pytest

from storage.archive import Archive
from storage.errors import StorageUnavailable
from storage.index import open_index
from storage.model import Outcome, Scope
from storage.objects import open_object_store
from storage.upkeep import Cursor, Depth, Fault, Pace, Scrub
from tests.fix_archive import keep
from tests.storage.test_archive import SCOPE, stored_bytes
from tests.synthetic import image

DAY = 24 * 3600


@pytest.fixture
def archive(tmp_path, engine):
    folder = tmp_path / "archive"
    folder.mkdir()
    opened = Archive(open_object_store(folder / "objects"), open_index(engine.place(folder)))
    yield opened
    opened.close()


def looked_at(archive, depth=Depth.CHECKSUM, *, repair=False, **options):
    """What a scrub finds, as fault and name, with whether it was mended."""
    scrub = Scrub(archive._objects, archive._index, archive if repair else None, depth=depth, **options)
    return {(one.fault, one.name): one.is_repaired for step in scrub.run() for one in step.findings}


def path_of(archive, key):
    return archive._objects.spool_directory.parent / key


def flip(path, at):
    content = bytearray(path.read_bytes())
    content[at] ^= 1
    path.write_bytes(content)


def age(path, seconds=2 * DAY):
    os.utime(path, (time.time() - seconds,) * 2)


def write(archive, text, *parameters):
    archive._index._committer.run(lambda batch: batch.apart(lambda connection: connection.execute(text, parameters)))


@pytest.mark.parametrize("depth", Depth)
def test_a_sound_archive_has_no_findings_at_any_depth(archive, depth):
    keep(archive, image())
    keep(archive, image(name="Roe^Jane"))
    keep(archive, image(study="1.2.9", series="1.2.9.1", sop_instance="1.2.9.1.1"), sop="1.2.9.1.1")
    archive.delete(Scope("1.2.9"))
    assert looked_at(archive, depth) == {}
    assert looked_at(archive, depth, repair=True) == {}


@pytest.mark.parametrize(
    ("damage", "found_from", "fault"),
    [
        (lambda path, _: path.unlink(), Depth.OBJECT, Fault.MISSING),
        (lambda path, _: os.truncate(path, 200), Depth.SIZE, Fault.SIZE),
        (lambda path, one: flip(path, one.size_bytes - 1), Depth.CHECKSUM, Fault.DIGEST),
        (lambda path, one: flip(path, one.data_set_offset), Depth.CHECKSUM, Fault.DIGEST),
        (lambda path, _: flip(path, 5), Depth.CHECKSUM, Fault.HEADER),
        (lambda path, _: flip(path, 130), Depth.CHECKSUM, Fault.HEADER),
        (lambda path, one: flip(path, one.data_set_offset - 3), Depth.CHECKSUM, Fault.HEADER),
    ],
)
@pytest.mark.parametrize("of", ["instance", "rival"])
def test_a_fault_is_found_from_the_depth_on_that_shows_it(archive, damage, found_from, fault, of):
    first = keep(archive, image()).instance
    keep(archive, image(name="Roe^Jane"))
    (rival,) = archive._index.upkeep.rivals(0, 10)
    one = first if of == "instance" else rival.instance
    damage(path_of(archive, one.key), one)
    for depth in Depth:
        assert looked_at(archive, depth) == ({(fault, one.key): False} if depth >= found_from else {})


def test_a_header_is_written_anew_and_the_data_set_stays(archive):
    key = keep(archive, image()).instance.key
    before, stat = path_of(archive, key).read_bytes(), archive._objects.stat(key)
    flip(path_of(archive, key), 150)
    assert looked_at(archive, repair=True) == {(Fault.HEADER, key): True}
    assert path_of(archive, key).read_bytes() == before
    assert archive._objects.stat(key).label == stat.label != b""
    assert looked_at(archive) == {}


def test_what_is_damaged_is_set_aside_and_sending_it_again_mends_it(archive):
    key = keep(archive, image()).instance.key
    flip(path_of(archive, key), -1)
    assert looked_at(archive, repair=True) == {(Fault.DIGEST, key): False}
    assert looked_at(archive, repair=True) == {(Fault.MISSING, key): False}
    assert path_of(archive, f"quarantine/{key}").exists()
    assert keep(archive, image()).outcome is Outcome.DUPLICATE
    assert looked_at(archive) == {}
    assert stored_bytes(archive) == image()


@pytest.mark.parametrize("repair", [False, True])
def test_a_row_that_says_other_than_its_object_is_derived_again(archive, repair):
    key = keep(archive, image()).instance.key
    wanted = list(archive.documents(SCOPE))
    write(archive, "UPDATE document SET metadata = ?", b"not what was packed")
    assert looked_at(archive, repair=repair) == {(Fault.DERIVED, key): repair}
    assert (list(archive.documents(SCOPE)) == wanted) == repair
    write(archive, "DELETE FROM document")
    for depth in Depth:
        assert looked_at(archive, depth) == {(Fault.DOCUMENT, key): False}
    assert looked_at(archive, Depth.ROW, repair=True) == {(Fault.DOCUMENT, key): True}
    assert list(archive.documents(SCOPE)) == wanted


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        ("UPDATE instance SET size_bytes = size_bytes + 1", Fault.SIZE),
        ("UPDATE instance SET data_set_offset = data_set_offset - 2", Fault.DERIVED),
        ("UPDATE instance SET number_of_frames = 9", Fault.DERIVED),
        ("UPDATE instance SET sop_class_uid = '1.2.840.10008.5.1.4.1.1.1'", Fault.DERIVED),
    ],
)
def test_a_row_that_is_wrong_about_its_object_is_mended_and_the_object_stays(archive, change, fault):
    instance = keep(archive, image()).instance
    write(archive, change)
    assert looked_at(archive)[fault, instance.key] is False
    assert looked_at(archive, repair=True)[fault, instance.key] is True
    assert list(archive.instances(SCOPE)) == [instance]
    assert stored_bytes(archive) == image()
    assert looked_at(archive, repair=True).keys() <= {(Fault.COUNTS, "studies/1.2.3")}
    assert looked_at(archive) == {}


def test_a_row_is_not_derived_from_a_damaged_object(archive):
    key = keep(archive, image()).instance.key
    write(archive, "DELETE FROM document")
    flip(path_of(archive, key), -1)
    assert looked_at(archive, Depth.ROW, repair=True) == {(Fault.DOCUMENT, key): False}


@pytest.mark.parametrize(
    "change",
    [
        "UPDATE study SET number_of_study_related_instances = 7",
        "UPDATE study SET number_of_study_related_series = 0",
        "UPDATE study SET modalities_in_study = NULL",
        "UPDATE study SET sop_classes_in_study = '1.2.3'",
        "UPDATE series SET number_of_series_related_instances = 2",
        (
            "INSERT INTO series (study, series_instance_uid, series_order, attributes) SELECT id, '1.9', 1, '{}' "
            "FROM study"
        ),
    ],
)
def test_counts_and_lists_that_are_not_those_of_the_rows_are_counted_again(archive, change):
    keep(archive, image())
    write(archive, change)
    for depth in Depth:
        assert looked_at(archive, depth) == {(Fault.COUNTS, "studies/1.2.3"): False}
    assert looked_at(archive, Depth.ROW, repair=True) == {(Fault.COUNTS, "studies/1.2.3"): True}
    assert looked_at(archive, Depth.ROW) == {}


def orphaned(archive, content, key):
    """An object whose row was never made."""
    write(archive, "DELETE FROM document")
    write(archive, "DELETE FROM instance")
    for table in ("series", "study"):
        write(archive, f"DELETE FROM {table}")
    assert path_of(archive, key).read_bytes().endswith(content)


def test_an_object_without_row_is_left_alone_while_it_is_young_and_stored_when_it_is_old(archive):
    key = keep(archive, image()).instance.key
    orphaned(archive, image(), key)
    assert looked_at(archive, repair=True) == {}
    age(path_of(archive, key))
    assert looked_at(archive, Depth.ROW) == {(Fault.ORPHAN, key): False}
    assert looked_at(archive, Depth.ROW, with_orphans=False) == {}
    assert looked_at(archive, Depth.ROW, repair=True) == {(Fault.ORPHAN, key): True}
    assert stored_bytes(archive) == image()
    assert looked_at(archive) == {}


def test_what_was_deleted_is_no_orphan(archive):
    key = keep(archive, image()).instance.key
    keep(archive, image(name="Roe^Jane"))
    archive.delete(SCOPE)
    for path in path_of(archive, key).parent.iterdir():
        age(path)
    assert looked_at(archive, repair=True) == {}


@pytest.mark.parametrize("name", ["v1/default/1.2.777/", "v1/default/1.2.3/1.2.88/"])
def test_an_object_in_the_wrong_place_goes_where_it_belongs(archive, name):
    key = keep(archive, image()).instance.key
    wrong = name + key.rpartition("/")[2]
    path_of(archive, wrong).parent.mkdir(parents=True)
    path_of(archive, key).rename(path_of(archive, wrong))
    age(path_of(archive, wrong))
    assert looked_at(archive) == {(Fault.MISSING, key): False, (Fault.MISPLACED, wrong): False}
    assert looked_at(archive, repair=True) == {(Fault.MISPLACED, wrong): True}
    assert looked_at(archive) == {}
    assert stored_bytes(archive) == image()
    assert path_of(archive, f"quarantine/{wrong}").exists()


@pytest.mark.parametrize("content", [b"", b"DICM", bytes(500), image()[:60]])
def test_a_file_that_is_no_instance_is_set_aside_and_never_removed(archive, content):
    path = path_of(archive, "v1/default/report.txt")
    path.parent.mkdir(parents=True)
    path.write_bytes(content)
    age(path)
    assert looked_at(archive) == {(Fault.FOREIGN, "v1/default/report.txt"): False}
    assert looked_at(archive, repair=True) == {(Fault.FOREIGN, "v1/default/report.txt"): True}
    assert path_of(archive, "quarantine/v1/default/report.txt").read_bytes() == content
    assert looked_at(archive) == {}


def test_an_orphan_that_is_damaged_is_not_stored(archive):
    key = keep(archive, image()).instance.key
    orphaned(archive, image(), key)
    flip(path_of(archive, key), -1)
    age(path_of(archive, key))
    assert looked_at(archive, repair=True) == {(Fault.DAMAGED_ORPHAN, key): True}
    assert path_of(archive, f"quarantine/{key}").exists()
    assert archive._index.find(["1.2.3.4.5"]) == {}


def test_a_disk_that_cannot_read_one_object_does_not_end_the_scrub(archive, monkeypatch):
    keys = [
        keep(archive, image(sop_instance=f"1.2.3.4.{number}"), sop=f"1.2.3.4.{number}").instance.key
        for number in (5, 6)
    ]
    real = archive._objects.open

    def opened(key):
        if key == keys[0]:
            raise StorageUnavailable("planted")
        return real(key)

    monkeypatch.setattr(archive._objects, "open", opened)
    flip(path_of(archive, keys[1]), -1)
    assert looked_at(archive) == {(Fault.UNREADABLE, keys[0]): False, (Fault.DIGEST, keys[1]): False}


def test_what_is_deleted_and_collected_while_it_is_looked_at_is_no_fault(archive, monkeypatch):
    key = keep(archive, image()).instance.key
    real = archive._objects.size_bytes

    def collected(asked):
        archive.delete(SCOPE)
        archive._objects.delete(asked)
        return real(asked)

    monkeypatch.setattr(archive._objects, "size_bytes", collected)
    assert looked_at(archive, with_orphans=False) == {}
    assert not path_of(archive, key).exists()


def test_who_was_stopped_goes_on_behind_the_last_batch(archive, tmp_path, monkeypatch):
    monkeypatch.setattr("storage.upkeep.DOCUMENTS_AT_ONCE", 2)
    for number in range(1, 8):
        keep(archive, image(sop_instance=f"1.2.3.4.{number}"), sop=f"1.2.3.4.{number}")
    cursor = Cursor(tmp_path / "cursor.json")

    def steps(depth):
        return Scrub(archive._objects, archive._index, None, depth=depth, cursor=cursor).run()

    with contextlib.closing(steps(Depth.CHECKSUM)) as first:
        assert [next(first).phase for _ in range(3)] == ["objects", "instances", "instances"]
    again = [(step.phase, step.count) for step in steps(Depth.CHECKSUM)]
    assert again == [("instances", 2), ("instances", 2), ("instances", 1), ("studies", 1)]
    assert not (tmp_path / "cursor.json").exists()
    with contextlib.closing(steps(Depth.CHECKSUM)) as first:
        next(first)
        next(first)
        next(first)
    assert next(steps(Depth.SIZE)).phase == "objects"


@pytest.mark.parametrize(
    "content", [b"", b"{", b"[]", b'{"depth":"CHECKSUM"}', b'{"depth":"CHECKSUM","phase":"x","row":9}']
)
def test_a_cursor_that_says_nothing_begins_anew(archive, tmp_path, content):
    key = keep(archive, image()).instance.key
    path_of(archive, key).unlink()
    (tmp_path / "cursor.json").write_bytes(content)
    assert looked_at(archive, cursor=Cursor(tmp_path / "cursor.json")) == {(Fault.MISSING, key): False}


def test_no_more_is_read_in_a_second_than_is_wanted(monkeypatch):
    slept = []
    monkeypatch.setattr(time, "sleep", slept.append)
    pace = Pace(1e6)
    for _ in range(10):
        pace.spend(1_000_000)
    assert 9 <= max(slept) <= 11
    slept.clear()
    Pace(0).spend(1 << 40)
    assert slept == []
