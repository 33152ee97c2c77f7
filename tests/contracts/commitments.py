"""What every Index promises of requests for storage commitment. An engine inherits it beside ``IndexContract``."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest

from storage.commitment import Commitment, Reference
from storage.errors import Overloaded, TransactionInUse
from storage.index.commitments import OWN_WEIGHT
from storage.model import Source
from tests.fix_index import CT_IMAGE, uid

SOURCE = Source("dimse", "CT1", "127.0.0.1")
MOST = 1_000_000


def references(count, number=1):
    return [Reference(CT_IMAGE, f"{uid(number, '3')}.{place}") for place in range(count)]


def asked(number, count=2, at=1000, source=SOURCE):
    return Commitment(uid(number, "7"), references(count, number), source, at)


def ask(index, commitment, due=1010, forget_before=0, most=MOST):
    index.commitments.ask(commitment, due, forget_before=forget_before, most=most)


def taken(index, now, until=9999):
    return [(one.scope.sop_instance_uid, one.attempts) for one in index.commitments.take(now, until, 10)]


class CommitmentsContract:
    """Needs ``open(folder)`` and a fixture ``index``, empty."""

    def test_a_request_is_kept_and_is_given_to_one_when_it_is_due(self, index):
        ask(index, asked(1))
        assert index.commitments.get(uid(1, "7")) == asked(1)
        assert index.commitments.get(uid(2, "7")) is None
        assert index.commitments.count() == 1
        assert taken(index, 1009) == []
        assert taken(index, 1010, until=1100) == [(uid(1, "7"), 0)]
        assert taken(index, 1099) == []
        assert taken(index, 1100, until=1200) == [(uid(1, "7"), 1)]
        index.commitments.put_off(uid(1, "7"), 1150)
        assert taken(index, 1150) == [(uid(1, "7"), 2)]

    def test_a_request_outlives_the_process_that_took_it(self, tmp_path):
        with self.open(tmp_path) as index:
            ask(index, asked(1, 1000))
        with self.open(tmp_path) as index:
            assert index.commitments.get(uid(1, "7")) == asked(1, 1000)
            assert taken(index, 1010) == [(uid(1, "7"), 0)]

    def test_a_uid_that_is_known_is_in_use_whatever_became_of_the_request(self, index):
        ask(index, asked(1))
        with pytest.raises(TransactionInUse):
            ask(index, asked(1, 3))
        index.commitments.close(uid(1, "7"), 1020)
        with pytest.raises(TransactionInUse):
            ask(index, asked(1, 3, at=1030), forget_before=1020)
        ask(index, asked(1, 3, at=1030), forget_before=1021)
        assert index.commitments.get(uid(1, "7")) == asked(1, 3, at=1030)

    def test_of_many_who_ask_with_one_uid_one_gets_it(self, index):
        def attempt(count):
            try:
                ask(index, asked(1, count))
            except TransactionInUse:
                return 0
            return count

        with ThreadPoolExecutor(8) as pool:
            got = [count for count in pool.map(attempt, range(1, 17)) if count]
        assert len(got) == 1
        assert len(index.commitments.get(uid(1, "7")).references) == got[0]

    def test_who_claims_it_first_has_it(self, index):
        ask(index, asked(1))
        ask(index, asked(2))
        assert index.commitments.claim(uid(1, "7"), 1010, 2000)
        assert not index.commitments.claim(uid(1, "7"), 1010, 2000)
        assert taken(index, 1010) == [(uid(2, "7"), 0)]
        assert not index.commitments.claim(uid(2, "7"), 1010, 2000)
        assert not index.commitments.claim(uid(3, "7"), 1010, 2000)

    def test_an_answer_stays_as_it_was_first_given_and_nothing_is_to_be_done_any_more(self, index):
        ask(index, asked(1, 3))
        index.commitments.answer(uid(1, "7"), 1020, [0, 0x0112, 0])
        index.commitments.answer(uid(1, "7"), 1030, [0, 0, 0])
        found = index.commitments.get(uid(1, "7"))
        assert list(found.reasons) == [0, 0x0112, 0]
        assert found.references == asked(1, 3).references
        assert index.commitments.count() == 0
        assert taken(index, 9999) == []

    def test_of_a_request_that_is_closed_only_the_uid_is_kept(self, index):
        ask(index, asked(1, 3))
        index.commitments.close(uid(1, "7"), 1020)
        found = index.commitments.get(uid(1, "7"))
        assert (found.references, found.reasons) == ((), None)
        assert index.commitments.count() == 0

    def test_references_to_studies_come_back_as_they_were(self, index):
        named = [Reference(CT_IMAGE, uid(1, "3"), uid(1, "1"), uid(1, "2")), *references(1, 2)]
        ask(index, Commitment(uid(1, "7"), named, Source("dicomweb"), 1000))
        assert index.commitments.get(uid(1, "7")).references == named

    def test_the_oldest_answers_make_room_and_what_is_not_answered_never_does(self, index):
        most = 3 * (OWN_WEIGHT + 10)
        for number in (1, 2, 3):
            ask(index, asked(number, 10), most=most)
        with pytest.raises(Overloaded):
            ask(index, asked(4, 10), most=most)
        index.commitments.answer(uid(2, "7"), 1020, [0] * 10)
        index.commitments.answer(uid(1, "7"), 1030, [0] * 10)
        ask(index, asked(4, 10), most=most)
        assert index.commitments.get(uid(2, "7")) is None
        assert index.commitments.get(uid(1, "7")) is not None
        with pytest.raises(Overloaded):
            ask(index, asked(5, 10 + OWN_WEIGHT + 11), most=most)
        assert index.commitments.get(uid(3, "7")) is not None
        assert index.commitments.count() == 2
