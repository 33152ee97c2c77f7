"""What every Index promises of the lines of the ingest ledger. An engine inherits it beside ``IndexContract``."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

from storage.model import Delivery, Source

STUDY, OTHER = "1.2.826.0.1.1.1", "1.2.826.0.1.1.2"


def delivery(number, *, at=None, ae="CT1", ending="released", errors=None, studies=None):
    moment = f"2026-01-{at or number:02d}T10:00:00.000000+00:00"
    return Delivery(
        key=f"key-{number}",
        source=Source("dimse", ae, "10.0.0.1"),
        called_ae="GATEWAY",
        started_at=moment,
        last_at=moment,
        ending=ending,
        outcomes={"stored": 3, "duplicate": 1},
        size_bytes=1 << 40,
        errors=errors or {},
        studies=studies or {},
    )


def keys(found):
    return [one.key for one in found]


class DeliveriesContract:
    """Needs a fixture ``index``, empty."""

    def test_a_delivery_is_found_as_it_was_recorded(self, index):
        recorded = delivery(1, errors={"NotDicom": 2, "IdentityMismatch": 1})
        index.deliveries.record([recorded])
        (found,) = index.deliveries.find()
        assert found == recorded
        assert list(found.errors) == ["NotDicom", "IdentityMismatch"]
        assert (found.sent, found.failed) == (7, 3)

    def test_one_that_is_recorded_again_is_one_with_what_it_has_become(self, index):
        first = delivery(1, ending="", studies={STUDY: {"stored": 1}})
        index.deliveries.record([first, delivery(2)])
        again = replace(
            first,
            last_at="2026-01-05T00:00:00.000000+00:00",
            ending="connection lost",
            outcomes={"stored": 9},
            errors={"CutOff": 1},
            studies={STUDY: {"stored": 8}, OTHER: {"stored": 1}},
        )
        index.deliveries.record([again])
        assert index.deliveries.find() == [replace(again, studies={}), delivery(2)]
        assert [one.studies for one in index.deliveries.find(study=STUDY)] == [{STUDY: {"stored": 8}}]
        assert [one.studies for one in index.deliveries.find(study=OTHER)] == [{OTHER: {"stored": 1}}]

    def test_they_are_chosen_by_time_sender_failure_and_study_the_newest_first(self, index):
        index.deliveries.record(
            [
                delivery(1, ae="MR1", studies={STUDY: {"stored": 4}}),
                delivery(2, errors={"NotDicom": 1}),
                delivery(3, ae="MR1", errors={"NotDicom": 1}, studies={STUDY: {"duplicate": 4}}),
            ]
        )
        find = index.deliveries.find
        assert keys(find()) == ["key-3", "key-2", "key-1"]
        assert keys(find(limit=2)) == ["key-3", "key-2"]
        assert keys(find(since=delivery(2).last_at)) == ["key-3", "key-2"]
        assert keys(find(calling_ae="MR1")) == ["key-3", "key-1"]
        assert keys(find(failed=True)) == ["key-3", "key-2"]
        assert keys(find(study=STUDY)) == ["key-3", "key-1"]
        assert keys(find(study=STUDY, calling_ae="MR1", failed=True, since=delivery(2).last_at)) == ["key-3"]
        assert keys(find(study="1.2.3")) == keys(find(calling_ae="CT' OR 1=1 --")) == []

    def test_what_is_too_old_goes_and_the_oldest_of_too_many(self, index):
        index.deliveries.record([delivery(number, studies={STUDY: {"stored": 1}}) for number in range(1, 10)])
        index.deliveries.prune(delivery(3).last_at, 100)
        assert keys(index.deliveries.find()) == [f"key-{number}" for number in range(9, 2, -1)]
        index.deliveries.prune("", 4)
        assert keys(index.deliveries.find()) == ["key-9", "key-8", "key-7", "key-6"]
        assert len(index.deliveries.find(study=STUDY)) == 4
        index.deliveries.prune("", 4)
        assert len(index.deliveries.find()) == 4

    def test_many_record_at_once(self, index):
        with ThreadPoolExecutor(8) as many:
            list(many.map(lambda number: index.deliveries.record([delivery(number, at=1)]), range(40)))
            list(many.map(lambda number: index.deliveries.record([delivery(number, at=2)]), range(40)))
        assert len(index.deliveries.find(since=delivery(2).last_at)) == 40
