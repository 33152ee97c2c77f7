"""What every Index promises of what is deleted. An engine inherits it beside ``IndexContract``."""

from __future__ import annotations

import datetime as dt
import tracemalloc
from dataclasses import replace

import pytest

from storage.errors import Gone, OnHold, RateLimited
from storage.index.base import OtherKey
from storage.keys import following_key
from storage.matching import Query
from storage.model import Extent, Level, Outcome, Scope, Source
from tests.contracts.index import assert_counts_equal_rows, is_below
from tests.fix_index import JPEG_2000, SOURCE, entries, entry, series_scope, study_scope, uid

WEB = Source("dicomweb", address="192.0.2.1")
LARGE = 50_000


def later(days: float = 1.0) -> dt.datetime:
    """A time before which everything of now was deleted."""
    return dt.datetime.now(dt.UTC) + dt.timedelta(days=days)


def kept(index, scope):
    return [one.key for one in index.deletions.remains(scope, 0, 1000)]


def under(made, key):
    """An entry whose object is under another key."""
    return replace(made, instance=replace(made.instance, key=key))


def collect(index):
    """Give up and forget what is due, as a collector does; the keys."""
    index.deletions.spend(later(), 1000)
    keys = index.deletions.spent(1000)
    index.deletions.collected(keys)
    return {key for key, _ in keys}


def spent(index):
    return [key for key, _ in index.deletions.spent(1000)]


_COPIED = (
    "sop_class_uid, transfer_syntax_uid, digest, size_bytes, data_set_offset, number_of_frames, received_at, "
    "last_received_at, door, calling_ae, address, has_other_patient, attributes"
)


def make_large(index, count=LARGE):
    """A series of so many instances, as it is in the rows; their UIDs end in a number from 2 on."""
    index.add(entry())

    def write(connection):
        connection.execute(
            f"WITH RECURSIVE counted (n) AS (SELECT 2 UNION ALL SELECT n + 1 FROM counted WHERE n < {count}) "
            f"INSERT INTO instance (series, sop_instance_uid, instance_order, object_key, {_COPIED}) "
            "SELECT series, sop_instance_uid || '.' || n, n, 'v1/' || n || '.dcm', "
            f"{_COPIED} FROM counted, instance"
        )
        connection.execute(
            "INSERT INTO document (instance, metadata, frame_table, bulk) SELECT id, metadata, frame_table, bulk "
            "FROM instance, document WHERE instance.id <> document.instance"
        )
        connection.execute("UPDATE series SET number_of_series_related_instances = ?", (count,))
        connection.execute("UPDATE study SET number_of_study_related_instances = ?", (count,))

    index._committer.run(lambda batch: batch.apart(write))


class DeletionsContract:
    """Needs a fixture ``index``, empty, and ``open(folder)``."""

    def test_a_deletion_says_what_went_and_who_did_it(self, index):
        for one in entries(1, 2, 3):
            index.add(one)
        index.add(entry(1, 1001, 1001001, content="rival"))
        assert index.extent(study_scope(1)) == Extent(2, 6, 7, 7000)
        assert index.delete(series_scope(1, 1001), WEB) == Extent(1, 3, 4, 4000)
        assert index.delete(study_scope(1)) == Extent(1, 3, 3, 3000)
        first, second = index.deletions.listed(0, 10)
        assert (first.scope, first.source, first.extent) == (series_scope(1, 1001), WEB, Extent(1, 3, 4, 4000))
        assert (first.kept, first.is_held) == (4, False)
        assert second.source == Source("operator")
        assert index.deletions.listed(first.number, 10) == [second]
        assert index.deletions.listed(0, 1) == [first]
        assert index.extent(study_scope(1)) is None

    def test_what_remains_is_told_as_it_was_stored_rivals_last_whoever_sent_them(self, index):
        made = entries(1, 3, 3)
        made = made[::2] + made[1::2]
        for one in made:
            index.add(one)
        elsewhere = entry(9, 9, 1001001, source=Source("dicomweb", address="192.0.2.7"))
        assert index.add(elsewhere).outcome is Outcome.CONFLICT
        index.add(entry(1, 1001, 1001002, transfer_syntax_uid=JPEG_2000))
        index.delete(study_scope(1))
        found = index.deletions.remains(study_scope(1), 0, 100)
        assert [one.key for one in found[:-2]] == [one.instance.key for one in made]
        assert found[-2].key == elsewhere.instance.key
        assert found[-2].source == elsewhere.source
        assert found[-2].scope == entry(1, 1001, 1001001).instance.scope
        assert {one.source for one in found[:-2]} == {SOURCE}
        assert index.deletions.remains(study_scope(1), found[3].number, 2) == found[4:6]
        assert index.deletions.remains(study_scope(9), 0, 10) == []
        assert index.deletions.remains(Scope(""), 0, 10) == []
        assert not index.is_deleted(study_scope(9))

    def test_what_is_stored_again_does_not_remain_and_is_never_collected(self, index):
        made, other = entry(1, 1, 1), entry(1, 1, 2)
        index.add(made)
        index.add(other)
        index.delete(study_scope(1))
        assert index.add(made).outcome is Outcome.STORED
        assert kept(index, study_scope(1)) == [other.instance.key]
        assert index.deletions.listed(0, 10)[0].kept == 1
        assert collect(index) == {other.instance.key}
        assert index.find([made.instance.sop_instance_uid]) == {made.instance.sop_instance_uid: made.instance}

    def test_objects_are_collected_after_their_time_and_rivals_with_them(self, index):
        index.add(entry())
        index.add(rival := entry(content="rival"))
        index.delete(study_scope(1))
        assert index.deletions.spend(dt.datetime.now(dt.UTC) - dt.timedelta(days=1), 100) == 0
        assert index.deletions.spent(10) == []
        assert len(kept(index, study_scope(1))) == 2
        assert index.deletions.spend(later(), 1) == 1
        assert index.deletions.spend(later(), 10) == 1
        assert index.deletions.spend(later(), 10) == 0
        assert set(spent(index)) == {entry().instance.key, rival.instance.key}
        assert len(index.deletions.spent(1)) == 1
        assert kept(index, study_scope(1)) == []
        index.deletions.collected([one for one in index.deletions.spent(10) if one[0] == rival.instance.key])
        assert spent(index) == [entry().instance.key]
        assert index.is_deleted(study_scope(1))

    def test_a_key_that_was_given_up_is_never_that_of_a_row_again(self, index):
        made = entry()
        key = made.instance.key
        keys = [key]
        for _ in range(3):
            index.add(under(made, keys[-1]))
            index.delete(study_scope(1))
            assert collect(index) == {keys[-1]}
            with pytest.raises(OtherKey) as caught:
                index.add(made)
            keys.append(caught.value.key)
            assert index.find([made.instance.sop_instance_uid]) == {}
            assert spent(index) == [key]  # whoever stores has put it there once more
            collect(index)
        assert keys[1] == following_key(key)
        assert keys == sorted(set(keys), key=lambda one: (len(one), one))
        assert index.changes(0, 100)[-1].kind == "deleted"

    def test_what_a_store_puts_back_while_it_is_removed_is_removed_once_more(self, index):
        index.add(entry())
        index.delete(study_scope(1))
        index.deletions.spend(later(), 10)
        removing = index.deletions.spent(10)
        with pytest.raises(OtherKey):
            index.add(entry())
        index.deletions.collected(removing)
        assert spent(index) == [entry().instance.key]
        assert collect(index) == {entry().instance.key}
        assert spent(index) == []

    def test_a_row_keeps_its_key_whoever_sends_the_same_bytes(self, index):
        made, rival = entry(), entry(content="rival")
        index.add(made)
        index.add(rival)
        index.delete(study_scope(1))
        collect(index)
        second, other = following_key(made.instance.key), following_key(rival.instance.key)
        assert index.add(under(made, second)).outcome is Outcome.STORED
        assert index.add(under(rival, other)).outcome is Outcome.CONFLICT
        for sent, right, outcome in ((made, second, Outcome.DUPLICATE), (rival, other, Outcome.CONFLICT)):
            with pytest.raises(OtherKey) as caught:
                index.add(sent)
            assert caught.value.key == right
            assert index.add(under(sent, right)).outcome is outcome
        assert collect(index) == {made.instance.key, rival.instance.key}
        assert index.delete(study_scope(1)).objects == 2
        assert set(kept(index, study_scope(1))) == {second, other}

    def test_what_was_deleted_twice_is_kept_from_the_last_time_on(self, index):
        index.add(entry())
        index.delete(study_scope(1))
        index.add(entry())
        between = dt.datetime.now(dt.UTC)
        index.delete(study_scope(1))
        index.deletions.spend(between, 10)
        assert index.deletions.spent(10) == []
        assert [row.kept for row in index.deletions.listed(0, 10)] == [0, 1]
        assert collect(index) == {entry().instance.key}

    @pytest.mark.parametrize("scope", [study_scope(1), series_scope(1, 1001), entry(1, 1001, 1001001).instance.scope])
    def test_a_hold_keeps_what_it_is_on_what_is_in_it_and_what_it_is_in(self, index, scope):
        for one in entries(2, 2, 2):
            index.add(one)
        index.deletions.hold(scope)
        index.deletions.hold(scope)
        assert [one.scope for one in index.deletions.holds()] == [scope]
        before = index.changes(0, 100)
        of_first = [study_scope(1), series_scope(1, 1001), series_scope(1, 1002)]
        of_first += [one.instance.scope for one in entries(1, 2, 2)]
        for other in of_first:
            if is_below(other, scope) or is_below(scope, other):
                with pytest.raises(OnHold):
                    index.delete(other)
            else:
                assert index.delete(other)
                for one in entries(1, 2, 2):
                    index.add(one)
        with pytest.raises(OnHold):
            index.delete(study_scope(1))
        assert len(index.instances(study_scope(1))) == 4
        assert len(before) <= len(index.changes(0, 100))
        assert_counts_equal_rows(index)
        assert index.delete(study_scope(2))
        assert index.deletions.release(scope)
        assert not index.deletions.release(scope)
        assert index.delete(study_scope(1))

    def test_a_refused_deletion_leaves_no_trace(self, index):
        index.add(entry())
        index.deletions.hold(study_scope(1))
        before = index.changes(0, 10)
        with pytest.raises(OnHold):
            index.delete(study_scope(1))
        assert index.changes(0, 10) == before
        assert index.deletions.listed(0, 10) == []
        assert not index.is_deleted(study_scope(1))

    def test_a_hold_on_what_lost_against_another_keeps_that_one_with_it(self, index):
        index.add(entry(1, 1, 1))
        assert index.add(entry(2, 2, 1)).outcome is Outcome.CONFLICT
        index.deletions.hold(study_scope(2))
        with pytest.raises(OnHold):
            index.delete(study_scope(1))
        index.deletions.release(study_scope(2))
        assert index.delete(study_scope(1)).objects == 2

    @pytest.mark.parametrize("scope", [study_scope(1), series_scope(1, 1001), entry(1, 1001, 1001001).instance.scope])
    def test_what_was_deleted_and_is_held_is_not_collected(self, index, scope):
        made = entries(1, 2, 2)
        for one in made:
            index.add(one)
        index.delete(study_scope(1))
        index.deletions.hold(scope)
        assert index.deletions.listed(0, 1)[0].is_held
        free = {one.instance.key for one in made if not is_below(one.instance.scope, scope)}
        assert collect(index) == free
        index.deletions.release(scope)
        assert collect(index) == {one.instance.key for one in made} - free

    def test_one_address_deletes_so_often_a_minute_and_others_are_not_kept_from_it(self, index):
        for number in range(1, 8):
            index.add(entry(number, number, number))
        for number in range(1, 4):
            index.delete(study_scope(number), WEB, per_minute=3)
        for _ in range(3):
            with pytest.raises(RateLimited) as caught:
                index.delete(study_scope(4), WEB, per_minute=3)
            assert 1 <= caught.value.seconds <= 60
        assert index.delete(study_scope(9), WEB, per_minute=3) is None
        assert index.delete(study_scope(4), replace(WEB, address="192.0.2.2"), per_minute=3)
        assert index.delete(study_scope(5), replace(WEB, door="other"), per_minute=3)
        assert index.delete(study_scope(6), WEB, per_minute=4)
        assert index.delete(study_scope(7), WEB)

    def test_a_large_series_is_deleted_at_once_and_in_little_memory(self, index):
        make_large(index)
        assert index.search(Query(Level.STUDY, include="all"))[0].attributes["00201208"]["Value"] == [LARGE]
        tracemalloc.start()
        try:
            removed = index.delete(study_scope(1))
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        assert removed == Extent(1, LARGE, LARGE, LARGE * 1000)
        assert peak < 4 << 20
        assert index.search(Query(Level.STUDY)) == []
        assert [change.kind for change in index.changes(0, 10)] == ["stored", "deleted"]
        assert index.deletions.listed(0, 10)[0].kept == LARGE
        assert index.is_deleted(Scope(uid(1), uid(1, "2"), f"{uid(1, '3')}.{LARGE}"))

    def test_documents_that_are_deleted_while_they_are_read_end_in_an_error(self, index):
        make_large(index, 200)
        index.add(entry(1, 2, 1_000_000))
        index.add(entry(2, 3, 1_000_001))
        reading = [index.documents(scope) for scope in (study_scope(1), series_scope(1, 1), series_scope(1, 2))]
        for one in reading:
            next(one)
        index.delete(Scope(uid(1), uid(1, "2"), f"{uid(1, '3')}.150"))
        for one in reading[:2]:
            with pytest.raises(Gone):
                list(one)
        assert list(reading[2]) == []
        reading = index.documents(study_scope(1))
        next(reading)
        index.delete(study_scope(2))
        assert len(list(reading)) == 199

    def test_another_index_on_the_same_rows_knows_holds_and_spent_keys(self, tmp_path):
        with self.open(tmp_path) as one, self.open(tmp_path) as other:
            one.add(entry())
            other.deletions.hold(study_scope(1))
            with pytest.raises(OnHold):
                one.delete(study_scope(1))
            other.deletions.release(study_scope(1))
            one.delete(study_scope(1))
            assert other.is_deleted(study_scope(1))
            collect(other)
            with pytest.raises(OtherKey):
                one.add(entry())
