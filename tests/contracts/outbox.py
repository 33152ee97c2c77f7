"""What every Index promises of its outbox. An engine inherits it beside ``IndexContract``."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

from storage.model import Parcel, Scope
from tests.fix_index import entry

ROUTE, OTHER = "PACS Modality=CT", "PACS"


def scopes(index):
    return [change.scope for change in index.changes(0, 1000)]


class OutboxContract:
    """Needs a fixture ``index``, empty."""

    def test_a_new_route_begins_at_the_end_of_the_feed_and_stays_where_it_is(self, index):
        index.add(entry(1, 1, 1))
        place = index.outbox.place(ROUTE)
        assert place == index.changes(0, 10)[-1].sequence
        index.add(entry(1, 1, 2))
        assert index.outbox.place(ROUTE) == place
        assert index.outbox.place(OTHER) == place + 1

    def test_what_is_put_in_is_taken_when_it_is_due_and_by_one_only(self, index):
        outbox = index.outbox
        place = outbox.place(ROUTE)
        for number in range(1, 4):
            index.add(entry(1, 1, number))
        found = scopes(index)
        assert outbox.advance(ROUTE, place, place + 3, found, due=100)
        assert outbox.count(ROUTE) == 3
        assert outbox.count(OTHER) == 0
        assert outbox.take(ROUTE, now=99, until=500, limit=10) == ()
        first = outbox.take(ROUTE, now=100, until=500, limit=2)
        assert len(first) == 2
        assert outbox.take(OTHER, now=100, until=500, limit=10) == ()
        second = outbox.take(ROUTE, now=100, until=500, limit=10)
        assert sorted(one.scope.sop_instance_uid for one in (*first, *second)) == sorted(
            one.sop_instance_uid for one in found
        )
        assert {one.attempts for one in (*first, *second)} == {0}
        assert outbox.take(ROUTE, now=499, until=900, limit=10) == ()
        assert {one.attempts for one in outbox.take(ROUTE, now=500, until=900, limit=10)} == {1}

    def test_what_is_put_in_once_more_while_it_is_sent_is_sent_once_more(self, index):
        outbox = index.outbox
        place = outbox.place(ROUTE)
        index.add(entry(1, 1, 1))
        index.add(entry(1, 1, 2))
        one, other = scopes(index)
        outbox.advance(ROUTE, place, place + 2, [one, other], due=0)
        outbox.take(ROUTE, now=0, until=900, limit=10)
        index.add(entry(1, 1, 3))
        outbox.advance(ROUTE, place + 2, place + 3, [one, other], due=30)
        outbox.settle(ROUTE, [one.sop_instance_uid], {other.sop_instance_uid: 500})
        assert outbox.take(ROUTE, now=29, until=900, limit=10) == ()
        assert {parcel.scope for parcel in outbox.take(ROUTE, now=30, until=900, limit=10)} == {one, other}

    def test_what_was_sent_is_gone_and_what_was_not_is_due_later(self, index):
        outbox = index.outbox
        place = outbox.place(ROUTE)
        index.add(entry(1, 1, 1))
        index.add(entry(1, 1, 2))
        one, other = scopes(index)
        outbox.advance(ROUTE, place, place + 2, [one, other], due=0)
        outbox.take(ROUTE, now=0, until=900, limit=10)
        outbox.settle(ROUTE, [one.sop_instance_uid], {other.sop_instance_uid: 50})
        assert outbox.count(ROUTE) == 1
        assert outbox.take(ROUTE, now=49, until=900, limit=10) == ()
        assert outbox.take(ROUTE, now=50, until=900, limit=10) == [Parcel(other, 1)]

    def test_a_place_is_moved_by_one_only_and_nothing_is_put_in_twice(self, index):
        outbox = index.outbox
        place = outbox.place(ROUTE)
        index.add(entry(1, 1, 1))
        found = scopes(index)
        with ThreadPoolExecutor(8) as many:
            moved = list(many.map(lambda _: outbox.advance(ROUTE, place, place + 1, found, due=0), range(8)))
        assert moved.count(True) == 1
        assert (outbox.count(ROUTE), outbox.place(ROUTE)) == (1, place + 1)

    def test_what_is_put_in_again_is_due_again_as_if_it_were_new(self, index):
        outbox = index.outbox
        place = outbox.place(ROUTE)
        scope = Scope("1.2", "1.2.3", "1.2.3.4")
        outbox.advance(ROUTE, place, place + 1, [scope], due=0)
        outbox.take(ROUTE, now=0, until=900, limit=1)
        outbox.advance(ROUTE, place + 1, place + 2, [scope], due=7)
        assert outbox.take(ROUTE, now=7, until=900, limit=1) == [Parcel(scope, 0)]
