"""What every ObjectStore promises; a backend inherits the suite and says how to make one."""

from __future__ import annotations

import hashlib
import threading
import time

import pytest

from storage.errors import CorruptObject, NotFound
from storage.filemeta import Announcement, canonical_header
from storage.filerange import as_bytes
from storage.keys import INSTANCES, JOURNAL, instance_key, journal_key
from storage.spool import MEMORY_BYTES, Spool
from tests.synthetic import CT, EXPLICIT

SMALL = b"small " * 20
LARGE = bytes(range(256)) * (MEMORY_BYTES // 256 + 100)


def key_of(content: bytes, sop: str = "1.2.3") -> str:
    return instance_key("1.1", sop, EXPLICIT, hashlib.sha256(content).hexdigest())


class ObjectStoreContract:
    """Inherit, and make a fixture ``store``."""

    def put(self, store, content: bytes, sop: str = "1.2.3", *, is_expected: bool = False) -> str:
        key = key_of(content, sop)
        with Spool(store.spool_directory, Announcement(CT, sop, EXPLICIT), maximum_bytes=1 << 30) as spool:
            spool.write(content)
            spool.finish()
            if is_expected:
                store.expect(spool)
            store.put(key, spool)
        return key

    @pytest.mark.parametrize("is_expected", [False, True], ids=["at once", "expected"])
    @pytest.mark.parametrize("content", [SMALL, LARGE], ids=["small", "large"])
    def test_what_is_put_can_be_read_whole_and_in_ranges(self, store, content, is_expected):
        key = self.put(store, content, is_expected=is_expected)
        with store.open(key) as blob:
            assert blob.size_bytes == store.size_bytes(key)
            start = blob.size_bytes - len(content)
            assert blob.read(0, blob.size_bytes)[128:132] == b"DICM"
            assert blob.read(start, blob.size_bytes) == content
            assert blob.read(start + 7, start + 19) == content[7:19]
            assert blob.read(5, 5) == b""
            for first, last in ((0, blob.size_bytes), (start, start + 10), (7, 7)):
                assert b"".join(as_bytes(blob.pieces(first, last))) == blob.read(first, last)
            with pytest.raises(CorruptObject):
                blob.pieces(0, blob.size_bytes + 1)
            outliving = blob.pieces(start, blob.size_bytes)
        assert b"".join(as_bytes(outliving)) == content

    @pytest.mark.parametrize("content", [SMALL, LARGE], ids=["small", "large"])
    def test_putting_twice_changes_nothing_and_leaves_nothing_behind(self, store, content):
        key = self.put(store, content)
        assert self.put(store, content) == key
        assert list(store.keys()) == [key]
        assert list(store.spool_directory.iterdir()) == []

    @pytest.mark.parametrize("content", [SMALL, LARGE], ids=["small", "large"])
    def test_what_was_expected_and_never_put_leaves_nothing(self, store, content):
        with Spool(store.spool_directory, Announcement(CT, "1.2.3", EXPLICIT), maximum_bytes=1 << 30) as spool:
            spool.write(content)
            spool.finish()
            store.expect(spool)
            assert bytes(spool.data_set[spool.data_set_offset :]) == content
        assert list(store.keys()) == []
        assert list(store.spool_directory.iterdir()) == []

    @pytest.mark.parametrize("content", [SMALL, LARGE], ids=["small", "large"])
    def test_what_was_expected_under_a_wrong_name_is_put_under_the_true_one(self, store, content):
        key = key_of(content)
        wrong, true = Announcement(CT, "1.2.3.4.5.6", EXPLICIT), Announcement(CT, "1.2.3", EXPLICIT)
        with Spool(store.spool_directory, wrong, maximum_bytes=1 << 30) as spool:
            spool.write(content)
            spool.finish()
            store.expect(spool)
            spool.announce(true)
            store.put(key, spool)
        with store.open(key) as blob:
            assert blob.read(0, blob.size_bytes) == canonical_header(true) + content
        assert list(store.spool_directory.iterdir()) == []

    def test_what_was_expected_and_is_there_already_changes_nothing(self, store):
        key = self.put(store, SMALL)
        assert self.put(store, SMALL, is_expected=True) == key
        assert list(store.keys()) == [key]
        assert list(store.spool_directory.iterdir()) == []

    def test_reading_past_the_end_is_an_error_and_never_short(self, store):
        key = self.put(store, SMALL)
        with store.open(key) as blob:
            for start, end in ((0, blob.size_bytes + 1), (blob.size_bytes, blob.size_bytes + 1), (-1, 3), (9, 2)):
                with pytest.raises(CorruptObject):
                    blob.read(start, end)

    def test_what_is_not_there_is_not_found(self, store):
        for operation in (store.open, store.size_bytes):
            with pytest.raises(NotFound):
                operation(key_of(b"nothing"))

    @pytest.mark.parametrize("key", ["../outside", "/etc/passwd", "v1/default/../../x", ""])
    def test_a_key_that_we_never_made_is_not_found(self, store, key):
        with pytest.raises(NotFound):
            store.open(key)

    def test_keys_are_listed_by_prefix(self, store):
        one, two = self.put(store, b"one", "1.2.3"), self.put(store, b"two", "1.2.4")
        assert sorted(store.keys()) == sorted([one, two])
        assert list(store.keys("v1/default/1.1/1.2.4_")) == [two]

    def test_what_is_deleted_is_gone_and_deleting_again_is_no_error(self, store):
        key = self.put(store, SMALL)
        store.delete(key)
        store.delete(key)
        with pytest.raises(NotFound):
            store.open(key)

    def test_an_open_object_can_be_read_by_many_threads(self, store):
        key = self.put(store, LARGE)
        failures = []

        def read(blob, start, at):
            if blob.read(start + at, start + at + 1000) != LARGE[at : at + 1000]:
                failures.append(at)

        with store.open(key) as blob:
            start = blob.size_bytes - len(LARGE)
            threads = [threading.Thread(target=read, args=(blob, start, at * 997)) for at in range(32)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
        assert not failures

    def test_many_writers_of_one_object_leave_one_whole_object(self, store):
        threads = [threading.Thread(target=self.put, args=(store, LARGE)) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        with store.open(key_of(LARGE)) as blob:
            assert blob.read(blob.size_bytes - len(LARGE), blob.size_bytes) == LARGE
        assert list(store.spool_directory.iterdir()) == []

    def test_putting_says_whether_anything_was_written(self, store):
        key = key_of(SMALL)
        with Spool(store.spool_directory, Announcement(CT, "1.2.3", EXPLICIT), maximum_bytes=1 << 30) as spool:
            spool.write(SMALL)
            spool.finish()
            assert store.put(key, spool)
        for is_damaged in (False, True):
            with Spool(store.spool_directory, Announcement(CT, "1.2.3", EXPLICIT), maximum_bytes=1 << 30) as spool:
                spool.write(SMALL)
                spool.finish()
                assert store.put(key, spool, is_damaged=is_damaged) == is_damaged
        assert list(store.spool_directory.iterdir()) == []

    @pytest.mark.parametrize("content", [SMALL, LARGE], ids=["small", "large"])
    def test_a_label_is_kept_with_the_object_and_not_in_it(self, store, content):
        key, before = key_of(content), time.time_ns()
        with Spool(store.spool_directory, Announcement(CT, "1.2.3", EXPLICIT), maximum_bytes=1 << 30) as spool:
            spool.write(content)
            spool.finish()
            spool.label = b"who and when"
            store.expect(spool)
            store.put(key, spool)
        stat = store.stat(key)
        assert stat.label == b"who and when"
        assert stat.size_bytes == store.size_bytes(key)
        assert abs(stat.modified_ns - before) < 60e9
        with store.open(key) as blob:
            assert blob.read(0, blob.size_bytes).endswith(content)

    def test_an_object_without_label_has_an_empty_one(self, store):
        assert store.stat(self.put(store, SMALL)).label == b""
        with pytest.raises(NotFound):
            store.stat(key_of(b"nothing"))

    def test_an_object_can_be_looked_at_as_a_buffer(self, store):
        key = self.put(store, LARGE)
        with store.open(key) as blob, blob.mapped() as content:
            assert len(content) == blob.size_bytes
            assert bytes(content[-10:]) == LARGE[-10:]

    def test_a_few_bytes_are_written_once_and_are_an_object(self, store):
        key = journal_key("20261126101112123456", "deleted", "0" * 32)
        store.write(key, b"{}")
        store.write(key, b"[]")
        with store.open(key) as blob:
            assert blob.read(0, blob.size_bytes) == b"{}"
        assert list(store.keys(JOURNAL)) == [key]
        assert list(store.keys(INSTANCES)) == []
        assert list(store.spool_directory.iterdir()) == []

    def test_what_is_set_aside_is_no_object_any_more(self, store):
        key = self.put(store, SMALL)
        store.set_aside(key)
        store.set_aside(key)
        assert list(store.keys()) == list(store.strays()) == []
        with pytest.raises(NotFound):
            store.open(key)
