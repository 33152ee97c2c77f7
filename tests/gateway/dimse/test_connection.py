"""Bytes with deadlines, over TCP and over TLS. What a message needs of them is in the tests of the upper layer."""

import contextlib
import os
import socket
import ssl
import subprocess
import threading
import time

import pytest

from gateway.dimse.connection import ClosedError, Connection, ConnectionEndedError, DeadlineError, DrainingError
from tests.fix_dimse import ECHO, associate_request, echo_command, p_data, pdv, receive_pdu


@pytest.fixture
def pair():
    """Our end and the peer's, and a way to say that the server stops."""
    listener = socket.create_server(("127.0.0.1", 0))
    peer = socket.create_connection(listener.getsockname())
    peer.settimeout(5)
    accepted, _ = listener.accept()
    listener.close()
    read_fd, write_fd = os.pipe()
    connection = Connection(accepted, "127.0.0.1", read_fd, 0.3)
    yield connection, peer, lambda: os.write(write_fd, b"\0")
    connection.close()
    peer.close()
    os.close(read_fd)
    os.close(write_fd)


def soon(seconds=0.2):
    return time.monotonic() + seconds


def test_bytes_are_taken_in_order_whatever_the_pieces(pair):
    connection, peer, _ = pair
    sent = bytes(range(256)) * 100
    sender = threading.Thread(target=lambda: [peer.sendall(sent[at : at + 777]) for at in range(0, len(sent), 777)])
    sender.start()
    taken = bytes(connection.take(10, soon(5), "late"))
    connection.enlarge()
    while len(taken) < len(sent):
        taken += bytes(connection.take_some(min(900, len(sent) - len(taken)), soon(5), "late"))
        if len(sent) - len(taken) >= 12:
            taken += bytes(connection.take(12, soon(5), "late"))
    sender.join()
    assert taken == sent
    assert connection.received_bytes == len(sent)
    assert not connection.has_bytes


def test_a_wait_ends_at_its_deadline_and_what_came_is_kept(pair):
    connection, peer, _ = pair
    peer.sendall(b"abc")
    with pytest.raises(DeadlineError, match="late"):
        connection.take(4, soon(), "late")
    peer.sendall(b"d")
    assert connection.take(4, soon(2), "late") == b"abcd"


def test_a_server_that_stops_ends_the_wait_for_work_only(pair):
    connection, peer, stop = pair
    stop()
    with pytest.raises(DrainingError):
        connection.wait_for_work(soon(5))
    peer.sendall(b"ab")
    assert connection.take(2, soon(2), "late") == b"ab"


def test_a_closed_peer_is_seen_by_reader_and_writer(pair):
    connection, peer, _ = pair
    peer.close()
    with pytest.raises(ClosedError):
        connection.take(1, soon(2), "late")
    with pytest.raises(ClosedError):
        for _ in range(100):
            connection.send(bytes(100_000))


def test_an_interrupted_owner_is_woken(pair):
    connection, _, _ = pair
    threading.Timer(0.1, connection.interrupt).start()
    started = time.monotonic()
    with pytest.raises(ConnectionEndedError):
        connection.take(1, soon(10), "late")
    assert time.monotonic() - started < 5
    connection.interrupt()
    connection.close()
    connection.interrupt()


def test_a_farewell_reaches_a_peer_that_is_still_sending(pair):
    connection, peer, _ = pair
    peer.sendall(bytes(100_000))
    connection.send_last(b"farewell")
    connection.close()
    assert peer.recv(100) == b"farewell"


def test_a_farewell_does_not_wait_long_for_a_peer_that_stays(pair):
    connection, _, _ = pair
    started = time.monotonic()
    connection.send_last(b"farewell")
    assert time.monotonic() - started < 1.5


# ---- TLS


@pytest.fixture(scope="module")
def certificate(tmp_path_factory):
    """A key and a certificate for 127.0.0.1 that signs itself."""
    folder = tmp_path_factory.mktemp("tls")
    key, chain = folder / "key.pem", folder / "certificate.pem"
    request = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 -subj /CN=gateway"
    files = ["-keyout", str(key), "-out", str(chain)]
    names = ["-addext", "subjectAltName=IP:127.0.0.1"]
    subprocess.run([*request.split(), *names, *files], check=True, capture_output=True)
    return key, chain


@pytest.fixture
def secure_listener(needs, listen, request):
    needs("openssl")
    key, chain = request.getfixturevalue("certificate")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(chain, key)
    listener = listen(tls=context, tls_handshake_seconds=1.0, associate_seconds=1.0)
    client = ssl.create_default_context(cafile=str(chain))
    return listener, client


def secure_echo(listener, client):
    """An echo over TLS; returns the time of the handshake."""
    started = time.monotonic()
    with contextlib.closing(client.wrap_socket(listener.connect(), server_hostname="127.0.0.1")) as peer:
        took = time.monotonic() - started
        peer.sendall(associate_request(ECHO) + p_data(pdv(1, 3, echo_command())))
        assert receive_pdu(peer)[0] == 2
        assert receive_pdu(peer)[0] == 4
        peer.sendall(bytes.fromhex("05000000000400000000"))
        assert receive_pdu(peer)[0] == 6
    return took


def test_an_association_over_tls_is_served(secure_listener):
    listener, client = secure_listener
    assert secure_echo(listener, client) < 1


def test_d4_silent_clients_do_not_hold_up_a_handshake_and_are_closed(secure_listener):
    listener, client = secure_listener
    silent = [listener.connect() for _ in range(25)]
    took = [secure_echo(listener, client) for _ in range(10)]
    assert max(took) < 0.5
    started = time.monotonic()
    for peer in silent:
        peer.settimeout(5)
        assert peer.recv(100) in (b"", bytes.fromhex("07000000000400000200"))
    assert time.monotonic() - started < 3
    assert secure_echo(listener, client) < 1


def test_a_plain_client_of_a_tls_listener_is_closed(secure_listener):
    listener, client = secure_listener
    peer = listener.connect()
    peer.sendall(associate_request(ECHO))
    with contextlib.suppress(ConnectionResetError):
        while peer.recv(1000):
            pass
    assert secure_echo(listener, client) < 1
