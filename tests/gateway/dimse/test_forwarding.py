"""Forwarding over a real archive on both engines, with peers of pynetdicom; and by a real gateway to storescp."""

from __future__ import annotations

import os
import threading

import pytest

from gateway.dimse.forwarding import Forwarder, Route
from gateway.dimse.requestor import Peer
from gateway.security.actor import Actor
from gateway.session import Session
from gateway.settings import SettingsError, load, read_routes
from storage.model import Scope
from tests.fix_dimse import AE_TITLE, settle
from tests.fix_postgresql import free_port
from tests.fix_samples import MANIFEST, SAMPLES
from tests.fix_servers import run_command
from tests.gateway.dimse.test_retrieve_scp import SERIES, destination, fill
from tests.journeys.test_retrieve import received, storescp

JPEG = "1.2.840.10008.1.2.4.50"


class Clock:
    """Seconds that pass when the test says so."""

    def __init__(self):
        self.now = 1_000_000.0

    def __call__(self):
        return self.now


@pytest.fixture
def forward(listener):
    """``forward(route, port)``: a Forwarder of one route to a peer at that port, and its clock."""

    def made(text, port):
        ((title, matches),) = read_routes([text]).values()
        route = Route(text, Peer("127.0.0.1", port, title, AE_TITLE), matches)
        clock = Clock()
        forwarder = Forwarder(route, Session(listener.archive, Actor("operator", "test")), clock=clock)
        forwarder.follow()
        return forwarder, route, clock

    return made


def step(forwarder):
    """All that can be done now."""
    stopping = threading.Event()
    while forwarder.follow() or forwarder.send(stopping):
        pass


def waiting(listener, route):
    return listener.archive.outbox.count(route.name)


def test_new_instances_are_sent_and_older_ones_are_not(listener, forward):
    fill(listener, [1])
    with destination() as found:
        forwarder, route, _ = forward("DEST", found.port)
        contents = fill(listener, range(2, 6))
        step(forwarder)
        assert found.contents == contents
        assert waiting(listener, route) == 0
        step(forwarder)
        assert found.associations == 1


def test_what_is_not_stored_sends_nothing(listener, forward):
    listener.archive.note_stable(0, 0)
    with destination() as found:
        forwarder, route, _ = forward("DEST", found.port)
        fill(listener, [1])
        step(forwarder)
        while listener.archive.note_stable(1, 1):
            pass
        assert [change.kind for change in listener.archive.changes(1, 9)] == ["series-stable", "study-stable"]
        assert forwarder.follow()
        assert waiting(listener, route) == 0
        assert found.associations == 1


@pytest.mark.parametrize(
    ("keys", "expected"),
    [
        ("InstanceNumber=2", {2}),
        ("PatientID=P?", {1, 2, 3}),
        ("PatientID=P9", set()),
        (f"SeriesInstanceUID={SERIES} InstanceNumber=3", {3}),
        ("'PatientID=P1' Modality=OT", {1, 2, 3}),
    ],
)
def test_a_route_sends_what_matches_all_its_keys(listener, forward, keys, expected):
    with destination() as found:
        forwarder, _, _ = forward(f"DEST {keys}", found.port)
        fill(listener, range(1, 4))
        step(forwarder)
        assert set(found.contents) == {f"{SERIES}.{number}" for number in expected}


def test_a_peer_that_is_away_is_asked_again_later_and_later(listener, forward):
    port = free_port()
    forwarder, route, clock = forward("DEST", port)
    fill(listener, [1, 2])
    step(forwarder)
    assert waiting(listener, route) == 2
    pauses = []
    for _ in range(4):
        before = clock.now
        while not listener.archive.outbox.take(route.name, int(clock.now), int(clock.now), 10):
            clock.now += 5
        pauses.append(clock.now - before)
        forwarder.send(threading.Event())
        clock.now += 1
    assert pauses == sorted(pauses)
    assert waiting(listener, route) == 2


def test_what_waited_arrives_when_the_peer_is_back(listener, forward):
    port = free_port()
    forwarder, route, clock = forward("DEST", port)
    contents = fill(listener, [1, 2])
    step(forwarder)
    with destination() as found:
        forwarder.route = Route(route.name, Peer("127.0.0.1", found.port, "DEST", AE_TITLE), route.matches)
        step(forwarder)
        assert found.contents == {}  # not due yet
        clock.now += 3600
        step(forwarder)
        assert found.contents == contents
    assert waiting(listener, route) == 0


def test_what_a_peer_refuses_is_put_off_and_the_rest_arrives(listener, forward):
    with destination(status={f"{SERIES}.2": 0xA700, f"{SERIES}.3": 0xB007}) as found:
        forwarder, route, _ = forward("DEST", found.port)
        fill(listener, range(1, 5))
        step(forwarder)
        assert waiting(listener, route) == 1


def test_an_object_that_cannot_be_read_keeps_no_other_from_arriving(listener, forward):
    with destination() as found:
        forwarder, route, _ = forward("DEST", found.port)
        contents = fill(listener, range(1, 6))
        broken = listener.objects()[2]
        broken.chmod(0o600)
        os.truncate(broken, 500)
        step(forwarder)
        assert len(found.contents) == len(contents) - 1
        assert waiting(listener, route) == 1


@pytest.mark.parametrize("poison", [1, 3, 5])
def test_an_instance_at_which_the_peer_aborts_keeps_no_other_from_arriving(listener, forward, poison):
    with destination(status={f"{SERIES}.{poison}": None}) as found:
        forwarder, route, clock = forward("DEST", found.port)
        fill(listener, range(1, 6))
        step(forwarder)
        assert set(found.contents) == {f"{SERIES}.{number}" for number in range(1, 6)}  # it was offered, too
        assert waiting(listener, route) == 1
        fill(listener, [6])
        clock.now += 3600
        step(forwarder)
        assert f"{SERIES}.6" in found.contents
        assert waiting(listener, route) == 1


@pytest.mark.parametrize("host", ["no-such-host.invalid", "a" * 70 + ".example", "..", "127.0.0.1"])
def test_a_peer_that_cannot_be_reached_is_left_alone_and_the_thread_lives(listener, forward, host):
    forwarder, route, clock = forward("DEST", free_port())
    forwarder.route = Route(route.name, Peer(host, forwarder.route.peer.port, "DEST", AE_TITLE), ())
    fill(listener, [1])
    stopping = threading.Event()
    thread = threading.Thread(target=forwarder.run, args=(stopping,))
    thread.start()
    try:
        assert settle(lambda: waiting(listener, route) == 1 and forwarder.send(stopping) is False, seconds=20)
        with destination() as found:
            forwarder.route = Route(route.name, Peer("127.0.0.1", found.port, "DEST", AE_TITLE), ())
            clock.now += 3600
            assert settle(lambda: waiting(listener, route) == 0, seconds=20)
    finally:
        stopping.set()
        thread.join(30)
    assert not thread.is_alive()


def test_what_was_deleted_is_not_waited_for(listener, forward):
    forwarder, route, _ = forward("DEST", free_port())
    fill(listener, [1])
    forwarder.follow()
    assert waiting(listener, route) == 1
    listener.archive.delete(Scope("1.2.3"))
    step(forwarder)
    assert waiting(listener, route) == 0


def test_two_forwarders_share_the_work_and_send_nothing_twice(listener, forward):
    with destination(pause=0.002) as found:
        forwarder, route, clock = forward("DEST", found.port)
        other = Forwarder(route, Session(listener.archive, Actor("operator", "test")), clock=clock)
        contents = fill(listener, range(1, 40))
        threads = [threading.Thread(target=step, args=(one,)) for one in (forwarder, other)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
        step(forwarder)
        assert found.contents == contents
        assert waiting(listener, route) == 0


@pytest.mark.parametrize(
    ("peers", "routes", "word"),
    [
        (["DEST=127.0.0.1:104"], ["OTHER"], "none of dimse.peers"),
        (["DEST=127.0.0.1:104"], ["DEST Nonsense=1"], "cannot be searched"),
        (["DEST=127.0.0.1:104"], ["DEST StudyDate=x"], "cannot be matched"),
        (["DEST=127.0.0.1:104"], ["DEST Modality"], "cannot be searched"),
        (["DEST=127.0.0.1:104"], ["A-TITLE-THAT-IS-TOO-LONG"], "something else"),
        (["DEST=127.0.0.1:104"], ["DEST 'Modality=CT"], "dimse.forward"),
    ],
)
def test_a_route_that_makes_no_sense_is_refused_at_the_start(peers, routes, word):
    with pytest.raises(SettingsError, match=word):
        load(flags={"dimse.peers": tuple(peers), "dimse.forward": tuple(routes)}, environment={})


@pytest.mark.needs("storescp")
def test_a_gateway_forwards_what_it_receives_also_after_it_was_killed(start_gateway, tmp_path):
    """First nobody listens at the peer; the gateway ends, starts again, and the peer is there."""
    port = free_port()
    flags = ("--workers", "1", "--peer", f"DEST=127.0.0.1:{port}", "--forward", "DEST Modality=CT,MR")
    gateway = start_gateway(*flags)
    chosen = [name for name in MANIFEST if "slice_0" in name or "chest" in name][:6]
    assert run_command("import", *(SAMPLES / name for name in chosen), "--data", gateway.data).returncode == 0
    wanted = {MANIFEST[name]["sop_instance_uid"] for name in chosen if "slice" in name}
    assert settle(lambda: any(line["event"] == "forward.peer_lost" for line in gateway.lines()), seconds=20)
    assert gateway.stop() == 0
    with storescp(tmp_path / "out", port, "+xa"):
        start_gateway(*flags)
        assert settle(lambda: len(received(tmp_path / "out")) >= len(wanted), seconds=40)
    assert set(received(tmp_path / "out")) == wanted
