"""The ingest ledger: counts are right however many count, lines are written together, and no fault stops anybody."""

from __future__ import annotations

import contextlib
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from storage import ledger as module
from storage.errors import StorageUnavailable
from storage.index import open_index
from storage.ledger import MAXIMUM_STUDIES, Ledger
from storage.model import Instance, Outcome, Receipt, Source

SOURCE = Source("dimse", "CT1", "10.0.0.1")


class Rows:
    """The deliveries of a real index, which can fail; and what was recorded there, for looking at."""

    def __init__(self, deliveries):
        self._deliveries = deliveries
        self.lines, self.transactions, self.fails, self.pruned = {}, 0, False, 0

    def record(self, deliveries):
        if self.fails:
            raise StorageUnavailable
        self._deliveries.record(deliveries)
        self.transactions += 1
        self.lines |= {one.key: one for one in deliveries}

    def prune(self, before, maximum_rows):
        self._deliveries.prune(before, maximum_rows)
        self.pruned += 1


def receipt(study="1.2.3", outcome=Outcome.STORED):
    return Receipt(outcome, Instance(study, "1.2.3.4", "1.2.3.4.5", "1.2", "1.2", "", "", 10, 0))


def settle(condition, seconds=5.0):
    deadline = time.monotonic() + seconds
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.01)
    return condition()


@pytest.fixture
def rows(tmp_path):
    with contextlib.closing(open_index(tmp_path / "index.sqlite")) as index:
        yield Rows(index.deliveries)


@pytest.fixture
def ledger(rows):
    opened = Ledger(rows)
    yield opened
    opened.close()
    assert opened._writer is None or not opened._writer.is_alive()


def test_a_delivery_is_a_line_as_soon_as_it_has_ended(ledger, rows):
    account = ledger.open(SOURCE, "GATEWAY")
    account.note(receipt(), 100)
    account.note(receipt("1.2.4", Outcome.DUPLICATE), 50)
    account.note_failure("NotDicom")
    account.note_failure("IdentityMismatch")
    account.note_failure("NotDicom")
    assert rows.lines == {}
    account.close("released")
    assert settle(lambda: rows.lines)
    (line,) = rows.lines.values()
    assert (line.source, line.called_ae, line.ending) == (SOURCE, "GATEWAY", "released")
    assert line.outcomes == {"stored": 1, "duplicate": 1}
    assert line.studies == {"1.2.3": {"stored": 1}, "1.2.4": {"duplicate": 1}}
    assert list(line.errors.items()) == [("NotDicom", 2), ("IdentityMismatch", 1)]
    assert (line.sent, line.failed, line.size_bytes) == (5, 3, 150)
    assert line.started_at <= line.last_at


def test_who_brings_nothing_has_no_line_and_no_thread(ledger, rows):
    ledger.open(SOURCE).close("released")
    assert ledger._writer is None
    ledger.close()
    assert rows.lines == {}


def test_the_first_ending_counts(ledger, rows):
    account = ledger.open(SOURCE)
    account.note(receipt(), 1)
    account.close("released")
    account.close("connection lost")
    ledger.close()
    assert [line.ending for line in rows.lines.values()] == ["released"]


def test_many_that_end_at_once_share_a_transaction(ledger, rows):
    def deliver(_):
        account = ledger.open(SOURCE)
        account.note(receipt(), 1)
        account.close("answered")

    with ThreadPoolExecutor(8) as many:
        list(many.map(deliver, range(400)))
    assert settle(lambda: len(rows.lines) == 400)
    assert rows.transactions <= 4


def test_many_threads_count_and_none_is_missed(ledger, rows):
    account = ledger.open(SOURCE)
    with ThreadPoolExecutor(8) as many:
        list(many.map(lambda number: account.note(receipt(f"1.{number % 10}"), 2), range(5000)))
        list(many.map(lambda _: account.note_failure("NotDicom"), range(500)))
    account.close("released")
    ledger.close()
    (line,) = rows.lines.values()
    assert (line.sent, line.failed, line.size_bytes) == (5500, 500, 10_000)
    assert {study: outcomes["stored"] for study, outcomes in line.studies.items()} == {
        f"1.{number}": 500 for number in range(10)
    }


def test_a_long_delivery_is_written_on_the_way_after_a_thousand_instances(ledger, rows):
    account = ledger.open(SOURCE)
    for _ in range(999):
        account.note(receipt(), 1)
    time.sleep(0.1)
    assert rows.lines == {}
    account.note(receipt(), 1)
    assert settle(lambda: rows.lines)
    (line,) = rows.lines.values()
    assert (line.ending, line.sent) == ("", 1000)
    account.note(receipt(), 1)
    account.close("released")
    ledger.close()
    (line,) = rows.lines.values()
    assert (line.ending, line.sent) == ("released", 1001)


def test_a_slow_delivery_is_written_on_the_way_after_a_while(ledger, rows, monkeypatch):
    monkeypatch.setattr(module, "CHECKPOINT_SECONDS", 0.2)
    account = ledger.open(SOURCE)
    account.note(receipt(), 1)
    assert settle(lambda: rows.lines)
    assert [line.ending for line in rows.lines.values()] == [""]
    written = rows.transactions
    time.sleep(1.3)
    assert rows.transactions == written, "nothing came"
    account.close("idle")


def test_an_index_that_is_away_gets_its_lines_later(ledger, rows, monkeypatch):
    monkeypatch.setattr(module, "_AFTER_FAILURE_SECONDS", 0.1)
    rows.fails = True
    accounts = [ledger.open(SOURCE) for _ in range(5)]
    for account in accounts:
        account.note(receipt(), 1)
        account.close("released")
    time.sleep(0.3)
    assert rows.lines == {}
    rows.fails = False
    assert settle(lambda: len(rows.lines) == 5)


def test_an_index_that_stays_away_keeps_nobody_from_leaving(ledger, rows):
    rows.fails = True
    account = ledger.open(SOURCE)
    account.note(receipt(), 1)
    account.close("released")
    started = time.monotonic()
    ledger.close()
    assert time.monotonic() - started < 5


def test_only_so_many_lines_wait_for_an_index_that_is_away(ledger, rows, monkeypatch):
    monkeypatch.setattr(module, "_MAXIMUM_WAITING", 20)
    rows.fails = True
    for _ in range(50):
        account = ledger.open(SOURCE)
        account.note(receipt(), 1)
        account.close("answered")
    assert len(ledger._ended) == 20
    rows.fails = False


def test_closing_writes_what_goes_on(ledger, rows):
    account = ledger.open(SOURCE)
    account.note(receipt(), 1)
    ledger.close()
    assert [(line.ending, line.sent) for line in rows.lines.values()] == [("", 1)]


def test_the_thread_goes_when_nobody_brings_anything(ledger, rows):
    before = threading.active_count()
    account = ledger.open(SOURCE)
    account.note(receipt(), 1)
    account.close("released")
    assert settle(lambda: rows.lines and ledger._writer is None)
    assert settle(lambda: threading.active_count() <= before)
    again = ledger.open(SOURCE)
    again.note(receipt(), 1)
    again.close("released")
    assert settle(lambda: len(rows.lines) == 2)


def test_studies_are_told_apart_up_to_a_limit_and_counted_beyond_it(ledger, rows):
    account = ledger.open(SOURCE)
    for number in range(MAXIMUM_STUDIES + 50):
        account.note(receipt(f"1.2.{number}"), 1)
    account.close("released")
    ledger.close()
    (line,) = rows.lines.values()
    assert len(line.studies) == MAXIMUM_STUDIES
    assert line.sent == MAXIMUM_STUDIES + 50


def test_old_lines_are_removed_now_and_then(ledger, rows):
    for number in range(2):
        account = ledger.open(SOURCE)
        account.note(receipt(), 1)
        account.close("released")
        assert settle(lambda number=number: len(rows.lines) == number + 1)
    assert rows.pruned == 1
