"""What every Index promises of series and studies that come to rest. An engine inherits it beside ``IndexContract``."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

from storage.index import stability
from storage.model import Scope
from tests.fix_index import entry, series_scope, study_scope, uid

QUIET = 60


def rest(index, now):
    """Let the index look at a time, until there is nothing to do."""
    while index.note_stable(now, now + QUIET):
        pass


def told(index, after=0):
    return [(change.kind, change.scope) for change in index.changes(after, 1000) if change.kind.endswith("-stable")]


def both(study, series):
    return [("series-stable", series_scope(study, series)), ("study-stable", study_scope(study))]


class StabilityContract:
    """Needs a fixture ``index``, empty."""

    def test_a_series_and_its_study_are_stable_once_after_a_quiet_time(self, index):
        rest(index, 1000)
        index.add(entry(1, 1, 1))
        rest(index, 1010)
        rest(index, 1010 + QUIET - 1)
        assert told(index) == []
        rest(index, 1010 + QUIET)
        assert told(index) == both(1, 1)
        for later in (0, 1, QUIET, 10 * QUIET):
            rest(index, 1010 + QUIET + later)
        assert told(index) == both(1, 1)
        assert [change.sequence for change in index.changes(0, 10)] == [1, 2, 3]
        assert index.outbox.count(stability.ROUTE) == 0

    def test_each_change_puts_it_off_and_only_where_it_happens(self, index):
        rest(index, 1000)
        index.add(entry(1, 1, 1))
        index.add(entry(1, 2, 2))
        rest(index, 1000)
        index.add(entry(1, 2, 3))
        rest(index, 1000 + QUIET - 1)
        rest(index, 1000 + QUIET)
        assert told(index) == both(1, 1)[:1]
        rest(index, 1000 + 2 * QUIET)
        assert told(index) == [*both(1, 1)[:1], *both(1, 2)]

    def test_what_came_just_before_it_was_due_puts_it_off_too(self, index):
        rest(index, 1000)
        index.add(entry(1, 1, 1))
        rest(index, 1000)
        index.add(entry(1, 1, 2))
        rest(index, 1000 + QUIET)
        assert told(index) == []

    def test_another_change_after_it_is_another_quiet_time(self, index):
        rest(index, 1000)
        index.add(entry(1, 1, 1))
        rest(index, 1000)
        rest(index, 2000)
        index.add(entry(1, 1, 2))
        rest(index, 2000)
        rest(index, 3000)
        assert told(index) == 2 * both(1, 1)

    def test_sending_again_is_no_change(self, index):
        rest(index, 1000)
        index.add(entry(1, 1, 1))
        rest(index, 1000)
        rest(index, 2000)
        index.add(entry(1, 1, 1))
        rest(index, 2000)
        rest(index, 3000)
        assert told(index) == both(1, 1)

    def test_what_was_deleted_is_not_stable_but_what_is_left_of_it(self, index):
        rest(index, 1000)
        for series in (1, 2):
            index.add(entry(1, series, series))
        index.add(entry(2, 3, 3))
        rest(index, 1000)
        index.delete(series_scope(1, 2))
        index.delete(study_scope(2))
        rest(index, 1001)
        rest(index, 2000)
        assert told(index) == both(1, 1)
        assert index.outbox.count(stability.ROUTE) == 0

    def test_an_instance_that_is_deleted_is_a_change_of_its_series(self, index):
        rest(index, 1000)
        for number in (1, 2):
            index.add(entry(1, 1, number))
        rest(index, 1000)
        rest(index, 2000)
        index.delete(replace(series_scope(1, 1), sop_instance_uid=uid(1, "3")))
        rest(index, 2000)
        rest(index, 3000)
        assert told(index) == 2 * both(1, 1)

    def test_series_of_one_uid_in_two_studies_are_two(self, index):
        rest(index, 1000)
        index.add(entry(1, 1, 1))
        index.add(entry(2, 1, 2))
        rest(index, 1000)
        rest(index, 2000)
        assert sorted(told(index), key=str) == sorted([*both(1, 1), *both(2, 1)], key=str)

    def test_it_begins_at_the_end_of_the_feed(self, index):
        index.add(entry(1, 1, 1))
        rest(index, 1000)
        rest(index, 2000)
        assert told(index) == []

    def test_more_than_one_step_of_them_all_come_and_series_before_their_study(self, index, monkeypatch):
        monkeypatch.setattr(stability, "AT_ONCE", 7)
        rest(index, 1000)
        for number in range(1, 41):
            index.add(entry(number % 4 + 1, number, number))
        rest(index, 1000)
        rest(index, 2000)
        found = told(index)
        assert len(found) == len(set(found)) == 44
        for study in range(1, 5):
            places = [at for at, (_, scope) in enumerate(found) if scope.study_instance_uid == uid(study, "1")]
            assert found[places[-1]] == ("study-stable", Scope(uid(study, "1")))

    def test_who_look_at_once_note_each_of_them_once(self, index):
        rest(index, 1000)
        for number in range(1, 21):
            index.add(entry(number, number, number))
        with ThreadPoolExecutor(8) as many:
            list(many.map(lambda _: rest(index, 1000), range(8)))
            list(many.map(lambda _: rest(index, 2000), range(8)))
        found = told(index)
        assert len(found) == len(set(found)) == 40
        assert [change.sequence for change in index.changes(0, 1000)] == list(range(1, 61))

    def test_the_latest_change_is_the_last_one(self, index):
        assert index.latest() == 0
        index.add(entry(1, 1, 1))
        index.add(entry(1, 1, 2))
        assert index.latest() == 2
