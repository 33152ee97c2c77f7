"""What every Index promises of those who are told of changes. An engine inherits it beside ``IndexContract``."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

from storage.model import Subscriber, Undelivered
from tests.fix_index import entry

ONE, OTHER = "pacs.example.org", "other"


class SubscribersContract:
    """Needs a fixture ``index``, empty."""

    def test_a_new_subscriber_begins_at_the_end_of_the_feed_and_stays_where_it_is(self, index):
        index.add(entry(1, 1, 1))
        assert index.subscribers.find(ONE) == Subscriber(ONE, 1)
        index.add(entry(1, 1, 2))
        assert index.subscribers.find(ONE) == Subscriber(ONE, 1)
        assert index.subscribers.find(OTHER) == Subscriber(OTHER, 2)
        assert index.subscribers.all() == [Subscriber(OTHER, 2), Subscriber(ONE, 1)]

    def test_what_is_taken_is_told_by_one_only_and_moves_on_when_it_was(self, index):
        known = index.subscribers.find(ONE)
        with ThreadPoolExecutor(8) as many:
            taken = list(many.map(lambda _: index.subscribers.take(known, 5, 100), range(8)))
        (one,) = [found for found in taken if found is not None]
        assert one == index.subscribers.find(ONE) == Subscriber(ONE, 0, 5, 1, 0, 0, 100)
        index.subscribers.told(one)
        assert index.subscribers.find(ONE) == Subscriber(ONE, 5)

    def test_what_could_not_be_told_is_put_off_with_the_first_failure_noted(self, index):
        first = index.subscribers.take(index.subscribers.find(ONE), 5, 100)
        index.subscribers.put_off(first, 10, 20, is_refused=True)
        known = index.subscribers.find(ONE)
        assert known == Subscriber(ONE, 0, 5, 1, 1, 10, 20)
        second = index.subscribers.take(known, 5, 200)
        index.subscribers.put_off(second, 30, 60, is_refused=False)
        assert index.subscribers.find(ONE) == Subscriber(ONE, 0, 5, 2, 1, 10, 60)
        index.subscribers.told(index.subscribers.take(index.subscribers.find(ONE), 5, 300))
        assert index.subscribers.find(ONE) == Subscriber(ONE, 5)

    def test_who_was_late_and_told_it_was_told_it(self, index):
        late = index.subscribers.take(index.subscribers.find(ONE), 5, 100)
        successor = index.subscribers.take(index.subscribers.find(ONE), 5, 200)
        index.subscribers.put_off(late, 150, 160, is_refused=True)
        assert index.subscribers.find(ONE) == successor, "another one has it now"
        index.subscribers.told(late)
        assert index.subscribers.find(ONE) == Subscriber(ONE, 5)
        index.subscribers.put_off(successor, 210, 220, is_refused=True)
        index.subscribers.give_up(successor, "status 400", 210)
        assert index.subscribers.find(ONE) == Subscriber(ONE, 5)
        assert index.subscribers.undelivered(10) == []

    def test_what_nobody_wants_is_skipped_unless_somebody_was_there(self, index):
        known = index.subscribers.find(ONE)
        assert index.subscribers.skip(known, 3)
        assert not index.subscribers.skip(known, 4)
        assert index.subscribers.take(known, 9, 100) is None
        assert index.subscribers.find(ONE) == Subscriber(ONE, 3)

    def test_what_is_given_up_is_laid_aside_and_the_next_may_be_told(self, index):
        taken = index.subscribers.take(index.subscribers.find(ONE), 5, 100)
        index.subscribers.give_up(taken, "status 400", 50)
        index.subscribers.give_up(taken, "status 400", 50)
        assert index.subscribers.find(ONE) == Subscriber(ONE, 5, failing_since=50)
        assert index.subscribers.undelivered(10) == [Undelivered(1, ONE, 0, 5, 1, "status 400", 50)]
        assert index.subscribers.count_undelivered(ONE) == 1
        assert index.subscribers.count_undelivered(OTHER) == 0
        assert index.subscribers.take_again(ONE, 10_000, 10_001) is None

    def test_what_was_laid_aside_is_tried_once_more_when_that_is_asked_for(self, index):
        for until in (5, 9):
            index.subscribers.give_up(index.subscribers.take(index.subscribers.find(ONE), until, 1), "no", 50)
        assert index.subscribers.retry([1, 77], 100) == 1
        assert index.subscribers.take_again(OTHER, 100, 200) is None
        assert index.subscribers.take_again(ONE, 99, 200) is None
        taken = index.subscribers.take_again(ONE, 100, 200)
        assert taken == Undelivered(1, ONE, 0, 5, 2, "no", 50, 200)
        assert index.subscribers.take_again(ONE, 199, 300) is None
        index.subscribers.settle(taken, "status 500")
        assert [(one.id, one.reason, one.due) for one in index.subscribers.undelivered(10)] == [
            (1, "status 500", None),
            (2, "no", None),
        ]
        assert index.subscribers.retry(None, 100) == 2
        index.subscribers.settle(index.subscribers.take_again(ONE, 100, 200), "")
        assert [one.id for one in index.subscribers.undelivered(10)] == [2]

    def test_a_retry_of_all_ends_the_wait_after_a_failure(self, index):
        taken = index.subscribers.take(index.subscribers.find(ONE), 5, 100)
        index.subscribers.put_off(taken, 10, 3600, is_refused=False)
        assert index.subscribers.retry(None, 20) == 1
        assert index.subscribers.find(ONE) == Subscriber(ONE, 0, 5, 1, 0, 10, 0)

    def test_a_retry_of_all_ends_the_wait_for_who_was_killed_while_it_told(self, index):
        index.subscribers.take(index.subscribers.find(ONE), 5, 100)
        assert index.subscribers.retry(None, 20) == 1
        assert index.subscribers.find(ONE) == Subscriber(ONE, 0, 5, 1)

    def test_what_is_dropped_is_gone_and_its_number_does_not_come_again(self, index):
        for until in (5, 9, 12):
            index.subscribers.give_up(index.subscribers.take(index.subscribers.find(ONE), until, 1), "no", 50)
        assert index.subscribers.drop([3, 3, 8]) == 1
        assert index.subscribers.drop(None) == 2
        index.subscribers.give_up(index.subscribers.take(index.subscribers.find(ONE), 20, 1), "no", 50)
        assert [one.id for one in index.subscribers.undelivered(10)] == [4]

    def test_who_is_forgotten_begins_anew(self, index):
        index.subscribers.give_up(index.subscribers.take(index.subscribers.find(ONE), 5, 1), "no", 50)
        index.add(entry(1, 1, 1))
        assert index.subscribers.forget(ONE)
        assert not index.subscribers.forget(ONE)
        assert index.subscribers.undelivered(10) == []
        assert index.subscribers.find(ONE) == Subscriber(ONE, 1)
