"""Who may stay when there are too many: bookkeeping over real sockets."""

import os
import socket

import pytest

from gateway.dimse.admission import Admission
from gateway.dimse.connection import Connection
from gateway.dimse.limits import DimseLimits


@pytest.fixture
def connect():
    """Makes a connection as if from an address, and gives both ends."""
    read_fd, write_fd = os.pipe()
    listener = socket.create_server(("127.0.0.1", 0))
    sockets = []

    def make(address="10.0.0.1"):
        peer = socket.create_connection(listener.getsockname())
        peer.settimeout(5)
        accepted, _ = listener.accept()
        connection = Connection(accepted, address, read_fd, 1)
        sockets.extend((peer, connection))
        return connection, peer

    yield make
    for one in sockets:
        one.close()
    listener.close()
    os.close(read_fd)
    os.close(write_fd)


def limits(**values):
    return DimseLimits(**values)


def test_the_oldest_pending_of_an_address_makes_room_for_its_newest(connect):
    admission = Admission(limits(connections_per_address_maximum=2))
    (first, first_peer), (second, _), (third, third_peer) = (connect() for _ in range(3))
    other, _ = connect("10.0.0.2")
    assert [admission.enter(one) for one in (other, first, second, third)] == [False, False, False, True]
    assert first_peer.recv(1) == b""
    third_peer.setblocking(False)
    with pytest.raises(BlockingIOError):
        third_peer.recv(1)
    assert [admission.part(one) for one in (first, second, third, other)] == [False, True, True, True]
    assert len(admission) == 3


def test_the_oldest_pending_of_all_makes_room_when_there_are_too_many(connect):
    admission = Admission(limits(pending_connections_maximum=2))
    (first, first_peer), (second, _), (third, _) = (connect(f"10.0.0.{number}") for number in range(3))
    assert [admission.enter(one) for one in (first, second, third)] == [False, False, True]
    assert first_peer.recv(1) == b""
    assert len(admission) == 2


def test_an_established_association_never_makes_room(connect):
    admission = Admission(limits(connections_maximum=1))
    first, first_peer = connect()
    second, _ = connect("10.0.0.2")
    admission.enter(first)
    assert admission.establish(first, "A")
    assert not admission.enter(second)
    first_peer.setblocking(False)
    with pytest.raises(BlockingIOError):
        first_peer.recv(1)


@pytest.mark.parametrize(
    ("limit", "titles", "addresses"),
    [
        ("associations_maximum", "ABC", "123"),
        ("associations_per_calling_ae_maximum", "AAA", "123"),
        ("connections_per_address_maximum", "ABC", "111"),
    ],
)
def test_associations_over_a_limit_are_not_established_until_one_leaves(connect, limit, titles, addresses):
    admission = Admission(limits(**{limit: 2}))
    connections = []
    for title, address in zip(titles, addresses, strict=True):
        connection, _ = connect(f"10.0.0.{address}")
        admission.enter(connection)
        connections.append((connection, title, admission.establish(connection, title)))
    assert [is_established for _, _, is_established in connections] == [True, True, False]
    assert admission.established == 2
    admission.leave(connections[0][0])
    assert admission.establish(*connections[2][:2])


def test_a_connection_that_was_told_to_go_establishes_nothing(connect):
    admission = Admission(limits(pending_connections_maximum=1))
    (first, _), (second, _) = connect(), connect()
    admission.enter(first)
    admission.enter(second)
    assert not admission.establish(first, "A")
    assert admission.establish(second, "A")


def test_an_association_that_ends_makes_room_for_another_before_it_has_left(connect):
    admission = Admission(limits(associations_maximum=1))
    (first, _), (second, _) = connect("10.0.0.1"), connect("10.0.0.2")
    admission.enter(first)
    admission.enter(second)
    assert admission.establish(first, "A")
    assert admission.part(first)
    assert admission.establish(second, "A")
    assert len(admission) == 2
    admission.leave(first)
    assert len(admission) == 1


def test_all_connections_can_be_told_to_go(connect):
    admission = Admission(limits())
    (first, first_peer), (second, second_peer) = connect(), connect()
    admission.enter(first)
    admission.enter(second)
    admission.establish(second, "A")
    admission.interrupt_pending()
    assert first_peer.recv(1) == b""
    admission.interrupt_all()
    assert second_peer.recv(1) == b""
