"""The journal says what objects cannot: durable, once for each thing that is said, and damage is seen."""

from __future__ import annotations

import pytest

from storage import journal as journal_module
from storage.errors import CorruptObject, StorageUnavailable
from storage.journal import MOST_OF_ONE_ENTRY, Journal, Kind
from storage.keys import instance_key, is_key
from storage.model import Burial, Extent, Hold, Instance, Scope, Source
from storage.objects import open_object_store
from storage.objects.memory import MemoryObjectStore
from tests.fix_archive import keep, open_archive
from tests.fix_faults import Failing
from tests.synthetic import EXPLICIT, image

DELETED_AT = "2026-11-26T10:11:12.123456+00:00"
SCOPE = Scope("1.2.3", "1.2.3.4")
BY = Source("dicomweb", "", "192.0.2.1")


def key_of(number):
    return instance_key("1.2.3", f"1.2.3.4.{number}", EXPLICIT, f"{number:064x}")


def burial(count):
    buried = tuple((Scope("1.2.3", "1.2.3.4", f"1.2.3.4.{number}"), key_of(number)) for number in range(1, count + 1))
    return Burial(SCOPE, DELETED_AT, BY, Extent(1, count, count, 99 * count), (*buried, (SCOPE, "")))


@pytest.fixture(params=["folder", "memory"])
def store(request, tmp_path):
    opened = open_object_store(tmp_path / "objects") if request.param == "folder" else MemoryObjectStore()
    yield opened
    opened.close()


def test_what_was_said_is_read_again(store):
    journal = Journal(store)
    journal.deleted(burial(2))
    journal.restored(SCOPE, DELETED_AT, [key_of(1)])
    instance = Instance("1.2.3", "1.2.3.4", "1.2.3.4.2", "1.2.840.1", EXPLICIT, "0" * 64, key_of(2), 1, 1)
    journal.made_current(instance, 1_700_000_000_123_456_789)
    said = {entry.kind: entry for entry in journal.entries()}
    assert said[Kind.DELETED].buried == burial(2).buried
    assert said[Kind.DELETED].keys == [key_of(1), key_of(2)]
    assert (said[Kind.DELETED].scope, said[Kind.DELETED].at) == (SCOPE, DELETED_AT)
    assert (said[Kind.DELETED].source, said[Kind.DELETED].extent) == (BY, Extent(1, 2, 2, 198))
    assert (said[Kind.RESTORED].at, said[Kind.RESTORED].keys) == (DELETED_AT, [key_of(1)])
    assert said[Kind.CURRENT].scope == instance.scope
    assert said[Kind.CURRENT].at == "2023-11-14T22:13:20.123456+00:00"
    assert all(is_key(entry.key) for entry in said.values())


def test_saying_it_again_adds_nothing(store):
    journal = Journal(store)
    for _ in range(3):
        journal.deleted(burial(2))
        journal.restored(SCOPE, DELETED_AT, [key_of(1)])
    assert len(list(journal.entries())) == 2


def test_a_hold_and_its_end_name_the_same_moment(store):
    journal, hold = Journal(store), Hold(SCOPE, DELETED_AT)
    for _ in range(2):
        journal.held(hold)
        journal.released(hold)
    said = {entry.kind: (entry.scope, entry.at, entry.keys) for entry in journal.entries()}
    assert said == {Kind.HELD: (SCOPE, DELETED_AT, []), Kind.RELEASED: (SCOPE, DELETED_AT, [])}
    assert len(list(journal.entries())) == 2


def test_entries_from_before_who_deleted_was_said_are_read(store):
    journal = Journal(store)
    journal.deleted(burial(2))
    (entry,) = journal.entries()
    said = journal_module._said(Kind.DELETED, DELETED_AT, SCOPE, burial(1).buried)
    journal._write(said, entry.moment_ns)
    older = next(one for one in journal.entries() if one.source is None)
    assert (older.extent, older.keys, older.at) == (None, [key_of(1)], DELETED_AT)


def test_a_large_deletion_takes_several_entries_and_loses_none(store):
    journal = Journal(store)
    journal.deleted(burial(2 * MOST_OF_ONE_ENTRY + 5))
    entries = list(journal.entries())
    assert len(entries) == 3
    buried = burial(2 * MOST_OF_ONE_ENTRY + 5).buried
    assert sorted(key for entry in entries for key in entry.keys) == sorted(key for _, key in buried if key)


def test_the_names_of_entries_ascend_in_time(store):
    journal = Journal(store)
    for year in (2026, 1999, 2030):
        journal.restored(SCOPE, DELETED_AT.replace("2026", str(year)), [key_of(1)])
    entries = sorted(journal.entries(), key=lambda entry: entry.key)
    assert [entry.at[:4] for entry in entries] == ["1999", "2026", "2030"]


@pytest.mark.parametrize("damage", [lambda raw: raw[:-9], lambda raw: raw.replace(b"1.2.3.4.1", b"1.2.3.4.7"), bytes])
def test_damage_of_an_entry_is_seen(tmp_path, damage):
    store = open_object_store(tmp_path / "objects")
    journal = Journal(store)
    journal.deleted(burial(1))
    (path,) = (tmp_path / "objects" / "v1" / "journal").iterdir()
    path.write_bytes(b"" if damage is bytes else damage(path.read_bytes()))
    with pytest.raises(CorruptObject):
        list(journal.entries())


def test_a_deletion_is_in_the_journal_before_anybody_is_told(tmp_path):
    archive = open_archive(tmp_path / "archive")
    keep(archive, image())
    archive.delete(Scope("1.2.3"))
    (entry,) = Journal(open_object_store(tmp_path / "archive" / "objects")).entries()
    assert entry.kind is Kind.DELETED
    buried = {scope for scope, _ in entry.buried}
    assert buried == {Scope("1.2.3"), Scope("1.2.3", "1.2.3.4"), Scope("1.2.3", "1.2.3.4", "1.2.3.4.5")}
    archive.close()


@pytest.mark.parametrize("after", [False, True])
def test_a_deletion_that_could_not_be_noted_is_noted_when_it_is_asked_for_again(tmp_path, after):
    archive = open_archive(tmp_path / "archive")
    keep(archive, image())
    objects = archive._journal._objects
    count_of_one = Failing(objects, 2, after=after)  # the first looks at the object
    archive._journal._objects = count_of_one
    with pytest.raises(StorageUnavailable):
        archive.delete(Scope("1.2.3"))
    archive._journal._objects = objects
    for _ in range(2):
        with pytest.raises(Exception, match="was deleted"):
            archive.delete(Scope("1.2.3"))
    (entry,) = archive._journal.entries()
    assert len(entry.keys) == 1
    archive.close()


def test_an_instance_that_is_sent_again_after_it_was_deleted_is_no_longer_deleted(tmp_path):
    archive = open_archive(tmp_path / "archive")
    receipt = keep(archive, image())
    archive.delete(Scope("1.2.3"))
    keep(archive, image())
    keep(archive, image())
    assert sorted(entry.kind.value for entry in archive._journal.entries()) == ["deleted", "restored"]
    (restored,) = (entry for entry in archive._journal.entries() if entry.kind is Kind.RESTORED)
    assert restored.keys == [receipt.instance.key]
    archive.close()


def test_ordinary_stores_write_no_journal(tmp_path):
    archive = open_archive(tmp_path / "archive")
    for name in ("Doe", "Roe", "Doe", "Roe"):
        keep(archive, image(name=name))
    assert list(archive._journal.entries()) == []
    assert not (tmp_path / "archive" / "objects" / "v1" / "journal").exists()
    archive.close()
