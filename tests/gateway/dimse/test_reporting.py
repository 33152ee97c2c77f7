"""Reports over associations of our own, to requestors of pynetdicom that listen, are away, or do not accept them."""

from __future__ import annotations

import threading

import pytest
from prometheus_client import REGISTRY

from gateway.dimse.associate import Proposal, decode_request, encode_request
from gateway.dimse.reporting import GIVE_UP_SECONDS
from gateway.dimse.requestor import Peer
from storage.commitment import Check, Commitment, Reference
from storage.errors import StorageUnavailable, uid_digest
from storage.model import Source
from tests.fix_commitment import (
    PUSH,
    PUSH_MODEL,
    TITLE,
    Clock,
    Reports,
    act,
    captures,
    data_set_bytes,
    listening,
    request_of,
)
from tests.fix_dimse import AE_TITLE, associated, raw_association, settle
from tests.fix_postgresql import free_port
from tests.gateway.dimse.test_commitment_scp import TRANSACTION, ask_raw, path, uids, waiting
from tests.gateway.dimse.test_retrieve_scp import fill


class Asking:
    """A listener that has been asked by a peer at a port, which has left, and its reporter, stepped by hand."""

    def __init__(self, listen, port, **options):
        self.clock = Clock()
        peer = Peer("127.0.0.1", port, called_ae=TITLE, calling_ae=AE_TITLE)
        self.listener = listen(clock=self.clock, destinations={TITLE: peer}, **options)

    def ask(self, asked, calling=TITLE):
        with associated(self.listener, PUSH, calling=calling) as association:
            assert act(association, asked).Status == 0
            association.release()
        assert settle(self.listener.is_at_rest)

    def step(self):
        return self.listener.server.reporter.step(threading.Event())

    def steps(self):
        while self.step():
            pass

    def pause(self):
        """Seconds until something is due again; that is then done."""
        before = self.clock.now
        while not self.step():
            self.clock.now += 10
            assert self.clock.now < before + 100_000
        return self.clock.now - before


@pytest.fixture
def asking(listen):
    return lambda port, **options: Asking(listen, port, **options)


def test_sc4_a_requestor_that_has_left_gets_its_report_over_an_association_of_ours(asking):
    with listening(Reports()) as reports:
        gateway = asking(reports.port)
        fill(gateway.listener, [1, 2])
        gateway.ask(request_of(TRANSACTION, captures(uids(1, 2, 3))))
        assert gateway.step()
        assert not gateway.step()
        report = reports.one()
    assert (report.kind, report.transaction) == (2, TRANSACTION)
    assert report.committed == uids(1, 2)
    assert report.failed == {uids(3)[0]: 0x0112}
    assert reports.roles == [{PUSH_MODEL: (False, True)}]
    assert waiting(gateway.listener) == 0


def test_a_proposal_says_of_which_classes_we_are_the_provider():
    proposal = Proposal("A", "B", 1, "1.2", (), scp_roles=frozenset({PUSH_MODEL}))
    assert decode_request(encode_request(proposal)).scp_roles == {PUSH_MODEL}


def test_sc4_a_peer_that_is_away_is_tried_again_later_and_later_for_two_days(asking):
    gateway = asking(free_port())
    gateway.ask(request_of(TRANSACTION, captures(uids(1))))
    began = gateway.clock.now
    assert gateway.step()
    pauses = [gateway.pause() for _ in range(6)]
    assert pauses == [60, 300, 900, 3600, 3600, 3600]
    while waiting(gateway.listener):
        gateway.pause()
    assert 0 <= gateway.clock.now - began - GIVE_UP_SECONDS <= 3600


def test_sc4_what_waited_is_told_when_the_peer_is_back(asking):
    port = free_port()
    gateway = asking(port)
    fill(gateway.listener, [1])
    gateway.ask(request_of(TRANSACTION, captures(uids(1))))
    gateway.steps()
    gateway.clock.now += 60
    with listening(Reports(), port) as reports:
        gateway.steps()
        assert reports.one().committed == uids(1)
        gateway.clock.now += 100_000
        gateway.steps()
    assert len(reports.found) == 1


def test_sc4_a_peer_that_does_not_accept_a_report_gets_it_again(asking):
    with listening(Reports(status=0x0110)) as reports:
        gateway = asking(reports.port)
        gateway.ask(request_of(TRANSACTION, captures(uids(1))))
        gateway.steps()
        reports.status = 0
        assert gateway.pause() == 60
        gateway.clock.now += 100_000
        gateway.steps()
        assert [one.transaction for one in reports.found] == [TRANSACTION] * 2
    assert waiting(gateway.listener) == 0


def test_sc4_a_peer_without_an_address_waits_and_holds_up_nobody(asking):
    with listening(Reports()) as reports:
        gateway = asking(reports.port)
        gateway.ask(request_of("1.2.3.1", captures(uids(1))), calling="STRANGER")
        gateway.ask(request_of("1.2.3.2", captures(uids(1))))
        gateway.steps()
        assert reports.one().transaction == "1.2.3.2"
    assert waiting(gateway.listener) == 1


def test_a_peer_that_is_away_is_left_alone_for_a_minute_whatever_it_asked(asking):
    gateway = asking(free_port())
    for number in range(5):
        gateway.ask(request_of(f"1.2.3.{number}", captures(uids(1))))
    connects = []
    gateway.listener.server.reporter._peers[TITLE] = Counted(connects, gateway.listener.server.reporter._peers[TITLE])
    gateway.steps()
    assert len(connects) == 1
    assert waiting(gateway.listener) == 5


class Counted:
    """A peer that notes when it is about to be connected to."""

    def __init__(self, connects, peer):
        self._connects = connects
        self._peer = peer

    @property
    def host(self):
        self._connects.append(1)
        return self._peer.host

    def __getattr__(self, name):
        return getattr(self._peer, name)


def test_sc5_a_report_says_what_is_true_when_it_is_made(asking):
    port = free_port()
    gateway = asking(port)
    fill(gateway.listener, [1, 2, 3])
    gateway.ask(request_of(TRANSACTION, captures(uids(1, 2, 3, 4))))
    gateway.steps()
    path(gateway.listener, uids(2)[0]).unlink()
    gateway.listener.archive.delete(gateway.listener.archive._index.find(uids(3))[uids(3)[0]].scope)
    fill(gateway.listener, [4])
    gateway.clock.now += 60
    with listening(Reports(), port) as reports:
        gateway.steps()
        report = reports.one()
    assert report.committed == uids(1, 4)
    assert report.failed == {uids(2)[0]: 0x0110, uids(3)[0]: 0x0112}


def test_sc5_an_acknowledged_instance_that_is_damaged_is_an_alert(asking, caplog):
    with listening(Reports()) as reports:
        gateway = asking(reports.port, archive_options={"commitment_check": Check.CHECKSUM})
        fill(gateway.listener, [1, 2])
        damaged = path(gateway.listener, uids(1)[0])
        damaged.write_bytes(damaged.read_bytes()[:-1] + b"\xff")
        gateway.ask(request_of(TRANSACTION, captures(uids(1, 2))))
        before = alerts()
        gateway.steps()
        assert reports.one().failed == {uids(1)[0]: 0x0110}
    assert alerts() == before + 1
    (line,) = [one for one in caplog.records if one.msg == "commitment.damaged"]
    assert line.levelname == "ERROR"
    assert line.uid_digest == uid_digest(uids(1)[0])


def alerts():
    return REGISTRY.get_sample_value("gateway_integrity_failures_total", {"door": "dimse"}) or 0


def test_what_cannot_be_looked_at_now_is_looked_at_later(asking, monkeypatch):
    with listening(Reports()) as reports:
        gateway = asking(reports.port)
        fill(gateway.listener, [1])
        gateway.ask(request_of(TRANSACTION, captures(uids(1))))

        def unavailable(_):
            raise StorageUnavailable

        with monkeypatch.context() as patched:
            patched.setattr(gateway.listener.archive._index, "find", unavailable)
            with pytest.raises(StorageUnavailable):
                gateway.step()
        assert gateway.pause() <= 130
        assert reports.one().committed == uids(1)


def test_a_thread_that_fails_lives_on_and_what_it_stops_at_is_done_by_the_next(asking, monkeypatch):
    with listening(Reports()) as reports:
        gateway = asking(reports.port)
        gateway.ask(request_of(TRANSACTION, captures(uids(1))))
        reporter = gateway.listener.server.reporter
        stopping = threading.Event()
        stopping.set()
        assert reporter.step(stopping)
        assert reports.found == []
        stopping.clear()
        running = threading.Thread(target=reporter.run, args=(stopping,))
        running.start()
        reports.one()
        stopping.set()
        running.join(5)
        assert not running.is_alive()


def test_what_http_could_not_answer_at_once_is_answered_here(asking):
    gateway = asking(free_port())
    fill(gateway.listener, [1])
    archive = gateway.listener.archive
    asked = [Reference(*one) for one in captures(uids(1, 2))]
    archive.ask(Commitment(TRANSACTION, asked, Source("dicomweb"), int(gateway.clock.now)), int(gateway.clock.now))
    gateway.steps()
    assert list(archive.commitments.get(TRANSACTION).reasons) == [0, 0x0112]
    assert waiting(gateway.listener) == 0


def test_sc6_ten_thousand_references_are_answered_in_one_report(asking):
    with listening(Reports()) as reports:
        gateway = asking(reports.port)
        fill(gateway.listener, range(1, 21))
        asked = captures(uids(*range(1, 10_001)))
        peer = raw_association(gateway.listener, PUSH, calling=TITLE.encode())
        assert ask_raw(peer, data_set_bytes(TRANSACTION, asked)) == (0, "")
        peer.close()
        assert settle(gateway.listener.is_at_rest)
        gateway.steps()
        report = reports.one(60)
    assert report.committed == uids(*range(1, 21))
    assert set(report.failed.values()) == {0x0112}
    assert list(report.failed) == uids(*range(21, 10_001))
