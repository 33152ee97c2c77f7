"""Associated peers that send endless, broken or hostile messages: rows D7, D8, D13 and D14."""

import logging
import os
import socket
import struct
import threading
import time

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from storage.matching import Query
from storage.model import Level
from tests import synthetic
from tests.fix_dimse import (
    ECHO,
    FIND,
    RELEASE,
    STORAGE,
    associate_request,
    echo,
    echo_command,
    instances,
    p_data,
    pdv,
    raw_association,
    receive_pdu,
    send,
    settle,
    status_of,
    store_command,
)

PDU_BYTES = 128 * 1024


def begin(peer, sop_instance="1.2.3.4.5"):
    peer.sendall(p_data(pdv(1, 3, store_command(sop_instance))))


def test_d7_a_never_ending_data_set_stops_at_its_limit(listen):
    limit = 2 << 20
    listener = listen(instance_maximum_bytes=limit)
    peer = raw_association(listener, STORAGE)
    begin(peer)
    sent = 0
    answered = threading.Event()
    chunk = p_data(pdv(1, 0, bytes(PDU_BYTES - 6)))
    peer.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
    peer.settimeout(5)
    try:
        while sent < 20 * limit and not answered.is_set():
            peer.sendall(chunk)
            sent += PDU_BYTES - 6
    except OSError:
        answered.set()
    status, _ = status_of(peer)
    assert status == 0xA700
    assert receive_pdu(peer) == (7, bytes((0, 0, 2, 0)))
    peer.close()
    assert settle(lambda: listener.waiting_files() == [], 1.0)
    assert sent < 20 * limit, "it was stopped, not swallowed"


def test_d7_the_last_piece_within_the_limit_is_stored_and_one_byte_more_is_not(listen):
    content = synthetic.image(100, 100)
    for limit, status in ((len(content), 0x0000), (len(content) - 1, 0xA700)):
        peer = raw_association(listen(instance_maximum_bytes=limit), STORAGE)
        assert send(peer, content)[0] == status
        peer.close()


def test_d7_the_limit_of_the_archive_is_kept_too(listen):
    listener = listen(maximum_instance_bytes=50_000)
    peer = raw_association(listener, STORAGE)
    assert send(peer, synthetic.image(300, 300))[0] == 0xA700
    assert receive_pdu(peer)[0] == 7
    peer.close()


@pytest.mark.parametrize("size", [1000, 3 << 20], ids=["in memory", "in a file"])
def test_d7_a_hundred_aborted_instances_leave_no_file_and_no_descriptor(listener, size):
    echo(listener)
    before = listener.figures_at_rest()
    for number in range(100 if size == 1000 else 30):
        peer = raw_association(listener, STORAGE)
        begin(peer)
        for _ in range(max(1, size // 100_000)):
            peer.sendall(p_data(pdv(1, 0, bytes(min(size, 100_000)))))
        if number % 2:
            peer.sendall(bytes.fromhex("07000000000400000000"))
        peer.close()
        if number % 8 == 7:  # fewer than an archive takes at once, however slow the machine is
            assert settle(listener.is_at_rest)
    assert listener.is_as_before(before)
    assert listener.waiting_files() == []
    assert listener.objects() == []
    assert instances(listener) == []


def test_an_instance_cut_at_any_byte_is_not_there(listener):
    """The association dies after n bytes of the message, for many n: nothing, or with the last one everything."""
    content = synthetic.image(20, 20)
    wire = p_data(pdv(1, 3, store_command("1.2.3.4.5")))
    wire += b"".join(p_data(pdv(1, 0, content[at : at + 97])) for at in range(0, len(content), 97)) + p_data(
        pdv(1, 2, b"")
    )
    for length in range(0, len(wire), 41):
        peer = raw_association(listener, STORAGE)
        peer.sendall(wire[:length])
        peer.close()
    assert settle(listener.is_at_rest)
    assert listener.objects() == []
    assert listener.waiting_files() == []
    peer = raw_association(listener, STORAGE)
    peer.sendall(wire)
    assert status_of(peer) == (0, "")
    peer.close()
    assert len(instances(listener)) == 1


INVALID = {
    "PDV of zero length": (struct.pack(">BxIIBB", 4, 6, 0, 1, 3), 6),
    "PDV of length one": (struct.pack(">BxIIBB", 4, 6, 1, 1, 3), 6),
    "PDV longer than its PDU": (struct.pack(">BxIIBB", 4, 6, 4000, 1, 3), 6),
    "PDU without PDV": (struct.pack(">BxI", 4, 0), 6),
    "unknown context": (p_data(pdv(9, 3, echo_command())), 6),
    "garbage command": (p_data(pdv(3, 3, os.urandom(200))), 6),
    "command of 70 kB": (b"".join(p_data(pdv(3, 1, bytes(35_000))) for _ in range(2)), 6),
    "Data Set without command": (p_data(pdv(1, 2, b"data")), 6),
    "second A-ASSOCIATE-RQ": (associate_request(ECHO), 2),
    "A-ASSOCIATE-AC": (b"\2" + associate_request(ECHO)[1:], 2),
    "A-RELEASE-RP": (b"\6" + RELEASE[1:], 2),
    "unknown PDU": (b"\x42" + RELEASE[1:], 1),
    "HTTP": (b"GET / HTTP/1.1\r\n\r\n", 1),
    "response out of the blue": (
        p_data(pdv(3, 3, bytes.fromhex("000000010200000030800000200102000000010000000008020000000101"))),
        6,
    ),
}


@pytest.mark.parametrize(("wire", "reason"), INVALID.values(), ids=INVALID)
def test_d8_what_is_invalid_is_aborted_with_its_reason_and_one_line(listener, caplog, wire, reason):
    caplog.set_level(logging.INFO)
    echo(listener)
    caplog.clear()
    before = listener.figures_at_rest()
    peer = raw_association(listener, STORAGE, ECHO)
    peer.sendall(wire)
    assert receive_pdu(peer) == (7, bytes((0, 0, 2, reason)))
    assert receive_pdu(peer) == (0, b"")
    peer.close()
    assert listener.is_as_before(before)
    warnings = [record for record in caplog.records if record.levelno >= logging.WARNING]
    assert [record.getMessage() for record in warnings] == ["dimse.connection.ended"]
    assert all(record.exc_info is None for record in caplog.records)
    assert echo(listener) < 2


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    mutations=st.lists(st.tuples(st.integers(0, 700), st.integers(0, 255)), min_size=1, max_size=6),
    cut=st.integers(0, 800),
)
def test_d8_mutated_conversations_never_stop_the_listener(listener, mutations, cut):
    """Association, echo, store, find and release with some bytes changed, sent all at once and cut."""
    wire = bytearray(
        associate_request(STORAGE, ECHO, FIND)
        + p_data(pdv(3, 3, echo_command()))
        + p_data(pdv(1, 3, store_command("1.2.3.4.5")), pdv(1, 2, synthetic.data_set()))
        + RELEASE
    )
    for at, value in mutations:
        wire[at % len(wire)] = value
    peer = listener.connect()
    peer.settimeout(10)
    try:
        peer.sendall(wire[: len(wire) - cut % len(wire)])
        peer.shutdown(socket.SHUT_WR)
        while peer.recv(65536):
            pass
    except OSError:
        pass
    finally:
        peer.close()


def test_d8_a_thousand_mutated_pdus_leak_no_thread_and_no_descriptor(listener):
    import random

    source = random.Random(8)
    echo(listener)
    before = listener.figures_at_rest()
    good = p_data(pdv(1, 3, store_command("1.2.3.4.5")), pdv(1, 2, synthetic.data_set()))
    for _ in range(1000 // 4):
        assert settle(lambda: listener.attended() < 16)  # who was cut off takes a moment to go
        peer = raw_association(listener, STORAGE)
        for _ in range(4):
            wire = bytearray(good)
            for _ in range(source.randint(1, 4)):
                wire[source.randrange(len(wire))] = source.randrange(256)
            try:
                peer.sendall(wire)
            except OSError:
                break
        peer.close()
    assert listener.is_as_before(before)
    assert listener.waiting_files() == []
    assert echo(listener) < 2


HOSTILE = [
    b"../../../etc/cron.d/x",
    b"..\\..\\windows\\win.ini",
    b"/etc/passwd",
    b"/abs/path",
    b"~/.ssh/authorized_keys",
    b"1.2..3",
    b".1.2.3",
    b"1.2.3.",
    b"1.02.3",
    b"00.1",
    b"1.2.3/../4",
    b"1.2.3\\4",
    b"1.2.3%2f..",
    b"1.2.3;rm -rf",
    b"$(id)",
    b"`id`",
    b"<script>alert(1)</script>",
    b"' OR 1=1 --",
    b"1.2.-3",
    b"1.2.3a",
    b"A.B.C",
    b"1 .2",
    b"\xd9\xa1.\xd9\xa2",
    b"1.2.3\n4",
    b"1.2.3\r\nX: y",
    b"1.2\x003",
    b"CON",
    b"*",
    b"1.2.*",
    b"1." + b"2" * 63,
    b"1." * 40 + b"1",
    b"1" * 65,
    b"x" * 300,
]
NAMES = [repr(uid[:20]) for uid in HOSTILE]


def outside(listener):
    """Files below the folder of the test that are neither of the index nor objects or in quarantine at their place."""
    roots = {listener.folder / "objects", listener.folder / "quarantine"}
    files = (path for path in listener.folder.parent.rglob("*") if path.is_file())
    return [path for path in files if not roots & {*path.parents} and not path.name.startswith("index.sqlite")]


@pytest.mark.parametrize("uid", HOSTILE, ids=NAMES)
def test_d13_a_hostile_uid_in_the_command_is_refused(listener, uid):
    peer = raw_association(listener, STORAGE)
    assert send(peer, synthetic.data_set(), sop_instance=uid)[0] == 0x0117
    assert send(peer, synthetic.data_set(), message_id=2) == (0, "")
    peer.close()
    assert outside(listener) == []
    assert len(listener.objects()) == 1


@pytest.mark.parametrize("field", ["study", "series", "sop_instance", "sop_class"])
@pytest.mark.parametrize("uid", HOSTILE, ids=NAMES)
def test_d13_a_hostile_uid_in_the_data_set_is_refused(listener, uid, field):
    peer = raw_association(listener, STORAGE)
    status, _ = send(peer, synthetic.data_set(**{field: uid.decode("latin-1")}))
    peer.close()
    assert outside(listener) == []
    assert status in (0xA900, 0xC000)
    assert listener.objects() == []
    assert listener.archive.search(Query(Level.STUDY)) == []


def results_of(acceptance):
    """Result of each presentation context, in the value of an A-ASSOCIATE-AC."""
    results, at = [], 68
    while at < len(acceptance):
        if acceptance[at] == 0x21:
            results.append(acceptance[at + 6])
        at += 4 + int.from_bytes(acceptance[at + 2 : at + 4], "big")
    return results


@pytest.mark.parametrize("uid", HOSTILE, ids=NAMES)
def test_d13_a_hostile_abstract_or_transfer_syntax_is_not_accepted(listener, uid):
    peer = listener.connect()
    text = uid.decode("latin-1").encode("ascii", "replace").decode()
    peer.sendall(associate_request((text, [synthetic.EXPLICIT]), (synthetic.SECONDARY_CAPTURE, [text])))
    kind, body = receive_pdu(peer)
    assert kind == 2
    results = [
        body[at + 6] for at in range(68, len(body) - 8) if body[at : at + 2] == b"\x21\0" and body[at + 4] in (1, 3)
    ]
    assert results == [3, 4]
    peer.close()


@pytest.mark.parametrize(
    "options", [{"sop_instance": "1.2.3.4.6"}, {"sop_class": synthetic.CT}], ids=["instance", "class"]
)
def test_d14_a_data_set_that_is_not_what_was_announced_is_a_mismatch(listener, options):
    peer = raw_association(listener, STORAGE)
    assert send(peer, synthetic.data_set(**options))[0] == 0xA900
    peer.close()
    assert listener.objects() == []


def test_an_attack_on_one_association_does_not_slow_another(listener):
    """Broken associations, one after the other, while an honest sender stores fifty instances."""
    stop = threading.Event()

    def attack():
        while not stop.is_set():
            peer = raw_association(listener, STORAGE, calling=b"ATTACKER")
            peer.sendall(struct.pack(">BxI", 4, 0xFFFFFFFF))
            receive_pdu(peer)
            peer.close()

    attacker = threading.Thread(target=attack)
    attacker.start()
    try:
        peer = raw_association(listener, STORAGE)
        started = time.monotonic()
        statuses = []
        for number in range(1, 51):
            uid = f"1.2.3.4.{number}"
            statuses.append(send(peer, synthetic.image(100, 100, sop_instance=uid), sop_instance=uid)[0])
        took = time.monotonic() - started
        peer.close()
    finally:
        stop.set()
        attacker.join(10)
    assert statuses == [0] * 50
    assert took < 10
