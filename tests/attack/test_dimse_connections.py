"""Peers that hold connections, tell lies about lengths or speak another protocol: rows D3, D5, D6 and D9.

Small numbers here; each asserts the figure of its row. Deadlines are those of the listener under test, shortened.
"""

import contextlib
import itertools
import struct
import time

import pytest

from tests.fix_dimse import (
    ECHO,
    STORAGE,
    associate_request,
    echo,
    figures,
    p_data,
    pdv,
    raw_association,
    receive_pdu,
    settle,
    store_command,
)

MEGABYTE = 1 << 20


def close_all(peers):
    for peer in peers:
        peer.close()


def closed_within(peers, seconds):
    """Whether every peer sees the end of its connection in that time."""
    deadline = time.monotonic() + seconds
    for peer in peers:
        peer.settimeout(max(0.01, deadline - time.monotonic()))
        try:
            while peer.recv(4096):
                pass
        except ConnectionResetError:
            continue
        except TimeoutError:
            return False
    return True


def test_d3_silent_and_one_byte_connections_keep_no_echo_out(listen):
    """200 of each, far over every limit, from the address of the probe, which still gets every answer in 2 s."""
    listener = listen(associate_seconds=2.0, establishment_seconds=3.0)
    before = listener.figures_at_rest()
    peers = []
    took = []
    for number in range(200):
        one_byte, silent = listener.connect(), listener.connect()
        one_byte.sendall(b"\1")
        peers += (one_byte, silent)
        if number % 20 == 0:
            took.append(echo(listener))
    opened = time.monotonic()
    assert len(listener.server._admission) <= listener.server._limits.connections_per_address_maximum + 1
    while time.monotonic() - opened < 1.5:
        took.append(echo(listener))
        time.sleep(0.1)
    assert closed_within(peers, 3.0)
    print(f"echo during 400 held connections: {len(took)} of {len(took)}, slowest {max(took) * 1000:.1f} ms")
    close_all(peers)
    assert max(took) < 2.0
    assert listener.is_as_before(before)


def test_d3_a_connection_of_another_address_is_kept_until_its_own_deadline(listen):
    """The flood makes room at the cost of its own address; nobody waits longer than the deadline either."""
    listener = listen(associate_seconds=0.6, establishment_seconds=0.6)
    peer = listener.connect()
    started = time.monotonic()
    assert receive_pdu(peer) == (7, bytes((0, 0, 2, 0)))
    assert 0.5 < time.monotonic() - started < 1.6
    peer.close()


def test_d5_tricklers_are_cut_at_the_minimum_rate(listen):
    """A message that has begun must come at 4 KiB/s; here over half a second in place of thirty."""
    listener = listen(minimum_rate_window_seconds=0.5, associations_per_calling_ae_maximum=64)
    peers = [raw_association(listener, STORAGE) for _ in range(16)]
    message = p_data(pdv(1, 3, store_command("1.2.3"))) + p_data(pdv(1, 0, bytes(100_000)))
    for peer in peers:
        peer.sendall(message[:300])
    started = time.monotonic()
    cut = set()
    for at in itertools.count(300):
        for number, peer in enumerate(peers):
            if number in cut:
                continue
            try:
                peer.sendall(message[at : at + 1])
                peer.setblocking(False)
                with contextlib.suppress(BlockingIOError):
                    assert peer.recv(100) in (b"", bytes.fromhex("07000000000400000200"))
                    cut.add(number)
                peer.setblocking(True)
            except OSError:
                cut.add(number)
        if len(cut) == len(peers) or time.monotonic() - started > 5:
            break
        time.sleep(0.02)
    took = time.monotonic() - started
    close_all(peers)
    assert len(cut) == 16
    assert took < 1.5
    assert settle(lambda: listener.waiting_files() == [] and listener.is_at_rest())


def test_d5_a_slow_sender_above_the_minimum_rate_is_served(listen):
    listener = listen(minimum_rate_window_seconds=0.5)
    peer = raw_association(listener, STORAGE)
    peer.sendall(p_data(pdv(1, 3, store_command("1.2.3"))))
    for _ in range(24):
        peer.sendall(p_data(pdv(1, 0, bytes(5000))))
        time.sleep(0.05)
    peer.sendall(p_data(pdv(1, 2, b"")))
    assert receive_pdu(peer)[0] == 4
    peer.close()


def flood(peer, size):
    """Send until the other side has had enough; returns how much the kernel took."""
    sent = 0
    chunk = bytes(64 * 1024)
    with contextlib.suppress(OSError):
        while sent < size:
            sent += peer.send(chunk)
    return sent


@pytest.mark.parametrize(
    "length", [128 * 1024 + 1, 16 * MEGABYTE, 0xFFFFFFFF], ids=["128 KiB + 1", "16 MiB", "4 GiB - 1"]
)
def test_d6_a_huge_association_request_is_cut_before_it_is_read(listener, length):
    echo(listener)
    before = listener.figures_at_rest().rss_bytes
    peak = 0
    for _ in range(20):
        peer = listener.connect()
        peer.sendall(struct.pack(">BxI", 1, length))
        assert receive_pdu(peer) == (7, bytes((0, 0, 2, 6)))
        flood(peer, MEGABYTE)
        peer.close()
        peak = max(peak, figures().rss_bytes)
    print(f"RSS +{(peak - before) / MEGABYTE:.2f} MiB")
    assert peak - before < 8 * MEGABYTE
    assert settle(listener.is_at_rest)


@pytest.mark.parametrize("length", [128 * 1024 + 7, 16 * MEGABYTE, 0xFFFFFFFF], ids=["L4 + 1", "16 MiB", "4 GiB - 1"])
def test_d6_a_huge_p_data_is_cut_before_it_is_read(listener, length):
    echo(listener)
    before = listener.figures_at_rest().rss_bytes
    peak = 0
    for _ in range(20):
        peer = raw_association(listener, STORAGE)
        peer.sendall(struct.pack(">BxI", 4, length))
        assert receive_pdu(peer) == (7, bytes((0, 0, 2, 6)))
        flood(peer, MEGABYTE)
        peer.close()
        peak = max(peak, figures().rss_bytes)
    assert peak - before < 8 * MEGABYTE
    assert settle(listener.is_at_rest)


def test_d6_little_is_read_of_a_pdu_that_is_cut(listener, caplog):
    caplog.set_level("DEBUG")
    peer = listener.connect()
    peer.sendall(struct.pack(">BxI", 1, 0xFFFFFFFF))
    flood(peer, 4 * MEGABYTE)
    peer.close()
    assert settle(lambda: any(record.getMessage() == "dimse.connection.ended" for record in caplog.records))
    (ended,) = [record for record in caplog.records if record.getMessage() == "dimse.connection.ended"]
    assert ended.reason == "PDU too long"
    assert ended.bytes < 200 * 1024


STRANGERS = {
    "HTTP": b"GET / HTTP/1.1\r\nHost: gateway\r\n\r\n",
    "PROXY": b"PROXY TCP4 192.0.2.1 192.0.2.2 1 2\r\n",
    "SSH": b"SSH-2.0-OpenSSH_9.2\r\n",
    "HL7": b"\x0bMSH|^~\\&|A|B|C|D|20240101||ADT^A01|1|P|2.5\r\x1c\r",
    "zeros": bytes(100),
    "0xFF": b"\xff" * 100,
}


@pytest.mark.parametrize("sent", STRANGERS.values(), ids=STRANGERS)
def test_d9_another_protocol_is_closed_without_an_answer(listener, sent):
    peer = listener.connect()
    peer.sendall(sent)
    assert receive_pdu(peer) == (0, b"")
    peer.close()
    assert echo(listener) < 2


def test_d9_a_tls_client_is_closed_without_an_answer(listener):
    import ssl

    context = ssl.create_default_context()
    peer = listener.connect()
    with pytest.raises((ssl.SSLError, ConnectionResetError, OSError)):
        context.wrap_socket(peer, server_hostname="gateway.example")
    peer.close()
    assert echo(listener) < 2


def test_d9_health_checks_leave_nothing_behind(listener):
    """Connections that say nothing and go, as load balancers make them all day."""
    for _ in range(200):
        listener.connect().close()
    assert settle(listener.is_at_rest)
    before = listener.figures_at_rest()
    for _ in range(2000):
        listener.connect().close()
    assert listener.is_as_before(before)
    after = figures()
    print(f"2000 health checks: RSS {(after.rss_bytes - before.rss_bytes) / MEGABYTE:+.2f} MiB")
    assert after.rss_bytes - before.rss_bytes < 5 * MEGABYTE


def test_half_an_association_leaves_nothing_behind(listener):
    """Requests cut at every length, and associations that are dropped the moment they are accepted."""
    request = associate_request(ECHO, STORAGE)
    echo(listener)
    before = listener.figures_at_rest()
    for length in range(1, len(request), 3):
        peer = listener.connect()
        peer.sendall(request[:length])
        peer.close()
    for _ in range(50):
        raw_association(listener, ECHO).close()
    assert listener.is_as_before(before)
    assert echo(listener) < 2
