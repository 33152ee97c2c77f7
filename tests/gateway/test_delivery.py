"""Webhooks are told of changes: a courier over a real archive, and a real receiver that does as it is told."""

from __future__ import annotations

import ipaddress
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from gateway import delivery
from gateway.delivery import Courier, Patience
from gateway.security.actor import Actor
from gateway.session import Session
from gateway.webhooks import read_webhooks
from storage.errors import StorageUnavailable
from storage.model import Scope
from tests import synthetic
from tests.fix_archive import keep
from tests.fix_dimse import settle

KEY = "a secret of the test"
NETWORKS = (ipaddress.ip_network("127.0.0.0/8"),)


class Clock:
    """That of the machine, moved on."""

    moved = 0.0

    def __call__(self):
        import time

        return time.time() + self.moved


class Telling:
    """A courier over an archive, whose clock is moved on as the test wants."""

    def __init__(self, archive, receiver, options="name=ris"):
        self.archive = archive
        self.clock = Clock()
        self.receiver = receiver
        self.session = Session(archive, Actor("operator", "test"))
        self.courier = self.another(options)
        self.subscribers.find("ris")
        self.count = 0

    def another(self, options="name=ris"):
        (webhook,) = read_webhooks([f"{self.receiver.url} 'secret={KEY}' {options}"])
        return Courier(webhook, self.session, Patience(0.5, 3, 48 * 3600, NETWORKS), clock=self.clock)

    @property
    def subscribers(self):
        return self.session.subscribers

    @property
    def state(self):
        return self.subscribers.find("ris")

    def keep(self, count=1):
        for _ in range(count):
            self.count += 1
            sop = f"1.2.3.4.{self.count}"
            keep(self.archive, synthetic.data_set(sop_instance=sop), sop=sop)

    def step(self, seconds=0.0):
        self.clock.moved += seconds
        while self.courier.tell():
            pass

    def until_told(self, *, steps=60):
        """Move on, an hour at a time, until it was told everything."""
        for _ in range(steps):
            self.step(3600)
            if self.state.sequence == self.archive.latest():
                return


@pytest.fixture
def telling(archive, receiver):
    return Telling(archive, receiver)


def test_changes_come_in_order_signed_and_once(telling, receiver):
    telling.keep(3)
    telling.archive.delete(Scope("1.2.3", "1.2.3.4", "1.2.3.4.2"))
    telling.step()
    telling.step()
    (request,) = receiver.received
    assert [change["kind"] for change in request.changes] == ["stored", "stored", "stored", "deleted"]
    assert request.sequences == [1, 2, 3, 4]
    assert request.is_signed_by(KEY.encode())
    assert not request.is_signed_by(b"another")
    assert request.headers["content-type"] == "application/json"
    assert telling.state.sequence == 4


def test_many_changes_come_in_several_messages(telling, receiver):
    telling.keep(delivery.AT_ONCE + 30)
    telling.step()
    assert receiver.accepted == list(range(1, delivery.AT_ONCE + 31))
    assert [len(request.changes) for request in receiver.received] == [delivery.AT_ONCE, 30]
    assert len({request.headers["webhook-id"] for request in receiver.received}) == 2


def test_only_the_kinds_that_were_asked_for_come(archive, receiver):
    telling = Telling(archive, receiver, "name=ris events=deleted+study-stable")
    telling.keep(2)
    telling.step()
    assert receiver.received == []
    assert telling.state.sequence == 2, "what nobody wants is behind it"
    telling.archive.delete(Scope("1.2.3", "1.2.3.4", "1.2.3.4.2"))
    telling.step()
    assert receiver.accepted == [3]


def test_nothing_of_a_patient_is_in_a_message(telling, receiver, archive):
    content = synthetic.data_set(extra=[synthetic.element(0x00104000, "LT", "CANARY")])
    keep(archive, content)
    telling.step()
    body = receiver.received[0].body
    assert b"CANARY" not in body
    (change,) = receiver.received[0].changes
    uids = {"StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID"}
    assert set(change) == {"sequence", "kind", "level", "changed_at", *uids}


def test_a_failure_is_tried_again_with_the_same_message_later_and_later(telling, receiver):
    receiver.statuses = [500, 503, 429, 408]
    telling.keep(2)
    pauses = []
    for _ in range(4):
        telling.step()
        telling.keep()
        pauses.append(telling.state.due - int(telling.clock()))
        telling.step()
        telling.clock.moved += pauses[-1]
    assert all(abs(pause - wanted) <= 1 for pause, wanted in zip(pauses, (5, 10, 20, 40), strict=True))
    telling.step()
    assert [request.status for request in receiver.received] == [500, 503, 429, 408, 200, 200]
    assert len({request.headers["webhook-id"] for request in receiver.received[:5]}) == 1
    assert len({request.body for request in receiver.received[:5]}) == 1
    assert all(request.is_signed_by(KEY.encode()) for request in receiver.received)
    assert receiver.accepted == [1, 2, 3, 4, 5, 6]
    assert (telling.state.failing_since, telling.state.attempts) == (0, 0)


def test_a_receiver_may_ask_for_more_time(telling, receiver):
    receiver.statuses, receiver.retry_after = [503], "600"
    telling.keep()
    telling.step()
    assert abs(telling.state.due - int(telling.clock()) - 600) <= 1


def test_a_receiver_that_is_down_hangs_or_redirects_gets_everything_in_order_when_it_is_back(
    telling, receiver, another_receiver
):
    receiver.stop()
    telling.keep(2)
    telling.step()
    assert telling.state.failing_since
    receiver.start()
    receiver.hang_seconds = 1.5
    telling.keep()
    telling.step(60)
    receiver.hang_seconds = 0.0
    receiver.statuses, receiver.location = [302], another_receiver.url
    telling.step(60)
    telling.until_told()
    assert another_receiver.received == []
    hung, redirected, *rest = receiver.received
    assert (hung.sequences, redirected.status) == ([1, 2], 302)
    assert [one for request in rest for one in request.sequences] == [1, 2, 3]


def test_what_is_refused_again_and_again_is_laid_aside_and_the_next_is_told(telling, receiver):
    receiver.statuses = [400, 410, 422]
    telling.keep(2)
    for _ in range(3):
        telling.step(3600)
        telling.keep()
    assert [request.sequences for request in receiver.received] == [[1, 2], [1, 2], [1, 2], [3, 4]]
    (letter,) = telling.subscribers.undelivered(10)
    assert (letter.subscriber, letter.after_sequence, letter.until_sequence) == ("ris", 0, 2)
    assert (letter.attempts, letter.reason) == (3, "status 422")


def test_who_is_away_is_waited_for_until_what_waits_is_too_old(telling, receiver):
    receiver.stop()
    telling.keep()
    for _ in range(47):
        telling.step(3600)
    assert telling.subscribers.undelivered(10) == []
    for _ in range(3):
        telling.step(3600)
    (letter,) = telling.subscribers.undelivered(10)
    assert letter.reason == "nobody listens there"
    assert telling.state.failing_since, "it is still away"


def test_old_news_is_not_laid_aside_at_the_first_failure(telling, receiver):
    """A gateway that was stopped for a week finds a receiver that has a hiccup."""
    telling.keep()
    telling.clock.moved = 7 * 24 * 3600.0
    receiver.statuses = [500]
    telling.step()
    assert telling.subscribers.undelivered(10) == []
    telling.step(10)
    assert receiver.accepted == [1]


def test_what_was_laid_aside_is_told_once_more_when_that_is_asked_for(telling, receiver):
    receiver.statuses = [400] * 3
    telling.keep(2)
    for _ in range(3):
        telling.step(3600)
    telling.keep()
    telling.step()
    assert not telling.courier.tell_again()
    assert telling.subscribers.retry(None, int(telling.clock())) == 1
    receiver.statuses = [404]
    assert telling.courier.tell_again()
    assert not telling.courier.tell_again()
    (letter,) = telling.subscribers.undelivered(10)
    assert (letter.reason, letter.attempts, letter.due) == ("status 404", 4, None)
    telling.subscribers.retry([letter.id], int(telling.clock()))
    assert telling.courier.tell_again()
    assert telling.subscribers.undelivered(10) == []
    assert receiver.accepted == [3, 1, 2]
    ids = [request.headers["webhook-id"] for request in receiver.received if request.sequences == [1, 2]]
    assert len(set(ids)) == 1


def test_several_gateways_tell_each_change_once(telling, receiver):
    telling.keep(3 * delivery.AT_ONCE)
    couriers = [telling.another() for _ in range(6)]

    def work(courier):
        return sum(courier.tell() for _ in range(40))

    with ThreadPoolExecutor(6) as many:
        list(many.map(work, couriers))
    telling.step(3600)
    assert receiver.accepted == list(range(1, 3 * delivery.AT_ONCE + 1))


def test_who_is_killed_while_telling_delays_it_and_another_one_tells_it_again(telling, receiver, monkeypatch):
    telling.keep(2)
    monkeypatch.setattr(telling.session.subscribers, "told", lambda _: None)  # it dies before it can write that down
    telling.courier.tell()
    assert receiver.accepted == [1, 2]
    monkeypatch.undo()
    successor = telling.another()
    assert not successor.tell()
    telling.clock.moved += 150
    assert successor.tell()
    assert receiver.accepted == [1, 2, 1, 2]
    assert len({request.headers["webhook-id"] for request in receiver.received}) == 1


def test_a_courier_outlives_an_index_that_cannot_be_reached(telling, receiver, monkeypatch):
    monkeypatch.setattr(delivery, "_AFTER_FAILURE_SECONDS", 0.05)
    failures = [StorageUnavailable("away")] * 3
    real = telling.session.changes

    def changes(after, limit):
        if failures:
            raise failures.pop()
        return real(after, limit)

    monkeypatch.setattr(telling.session, "changes", changes)
    stopping = threading.Event()
    thread = threading.Thread(target=telling.courier.run, args=(stopping,))
    thread.start()
    try:
        telling.keep()
        assert settle(lambda: receiver.accepted == [1], 20)
    finally:
        stopping.set()
        thread.join(10)
    assert not thread.is_alive()
