"""PDUs and PDVs of one association, over a real socket pair."""

import os
import socket
import struct
import time
from types import SimpleNamespace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pynetdicom.dimse_messages import C_ECHO_RSP
from pynetdicom.pdu import P_DATA_TF

from gateway.dimse import command
from gateway.dimse.command import Element, Field, encode
from gateway.dimse.connection import ClosedError, Connection, ConnectionEndedError, DeadlineError, DrainingError
from gateway.dimse.contexts import Proposed, negotiate
from gateway.dimse.limits import DimseLimits
from gateway.dimse.upper_layer import (
    INVALID_PARAMETER,
    UNEXPECTED_PDU,
    UNRECOGNISED_PDU,
    AbortedError,
    Association,
    ReleasedError,
    ViolationError,
    read_associate_request,
)
from storage.errors import TooLarge

CT, IMPLICIT = "1.2.840.10008.5.1.4.1.1.2", "1.2.840.10008.1.2"
CONTEXTS = [Proposed(1, CT, (IMPLICIT,)), Proposed(3, "1.2.840.10008.1.1", (IMPLICIT,))]
ECHO = encode(
    {
        Element.AFFECTED_SOP_CLASS_UID: "1.2.840.10008.1.1",
        Element.COMMAND_FIELD: Field.C_ECHO,
        Element.MESSAGE_ID: 5,
        Element.COMMAND_DATA_SET_TYPE: 0x0101,
    }
)
STORE = encode(
    {
        Element.AFFECTED_SOP_CLASS_UID: CT,
        Element.COMMAND_FIELD: Field.C_STORE,
        Element.MESSAGE_ID: 6,
        Element.COMMAND_DATA_SET_TYPE: 1,
        Element.AFFECTED_SOP_INSTANCE_UID: "1.2.3",
    }
)


def pdv(context_id, control, value):
    return struct.pack(">IBB", len(value) + 2, context_id, control) + value


def p_data(*pdvs):
    body = b"".join(pdvs)
    return struct.pack(">BxI", 4, len(body)) + body


@pytest.fixture
def ends():
    """Two ends of a connection, the peer's and ours; ``stop`` makes the server stop."""
    listener = socket.create_server(("127.0.0.1", 0))
    theirs = socket.create_connection(listener.getsockname())
    accepted, _ = listener.accept()
    listener.close()
    read_fd, write_fd = os.pipe()
    connection = Connection(accepted, "127.0.0.1", read_fd, send_seconds=0.3)
    theirs.settimeout(5)
    yield SimpleNamespace(peer=theirs, connection=connection, stop=lambda: os.write(write_fd, b"x"))
    connection.close()
    theirs.close()
    os.close(read_fd)
    os.close(write_fd)


def limits(**changed):
    return DimseLimits(**{"idle_seconds": 0.3, "minimum_rate_window_seconds": 0.3, **changed})


def association(ends, peer_maximum_bytes=16384, **changed):
    return Association(ends.connection, negotiate(CONTEXTS), peer_maximum_bytes, limits(**changed))


def received(ends, **changed):
    """The next request and its Data Set."""
    peer = association(ends, **changed)
    request = peer.next_request()
    pieces = []
    if request.has_data_set:
        peer.receive_data_set(request, lambda piece: pieces.append(bytes(piece)), 1 << 20)
    return request, b"".join(pieces)


def test_a_command_in_one_piece_is_a_request(ends):
    ends.peer.sendall(p_data(pdv(3, 3, ECHO)))
    request, _ = received(ends)
    assert (request.message_id, request.context.context_id, request.has_data_set) == (5, 3, False)


def test_a_message_may_be_cut_anywhere(ends):
    """The command in 7-byte fragments, then the Data Set over several PDUs, several PDVs in one PDU."""
    data = bytes(range(256)) * 40
    cut = [STORE[at : at + 7] for at in range(0, len(STORE), 7)]
    commands = [pdv(1, 3 if at == len(cut) - 1 else 1, piece) for at, piece in enumerate(cut)]
    ends.peer.sendall(p_data(*commands[:5]))
    ends.peer.sendall(p_data(*commands[5:]) + p_data(pdv(1, 0, data[:100]), pdv(1, 0, b""), pdv(1, 0, data[100:5000])))
    ends.peer.sendall(p_data(pdv(1, 2, data[5000:])))
    request, whole = received(ends)
    assert request.command.text(Element.AFFECTED_SOP_INSTANCE_UID) == "1.2.3"
    assert whole == data


def test_a_message_may_share_a_pdu_with_the_next_one(ends):
    ends.peer.sendall(p_data(pdv(1, 3, STORE), pdv(1, 2, b"data"), pdv(3, 3, ECHO)))
    peer = association(ends)
    first = peer.next_request()
    peer.receive_data_set(first, bytes, 100)
    assert peer.interjection().message_id == 5
    assert peer.interjection() is None


@settings(max_examples=60, deadline=None)
@given(
    data=st.binary(min_size=1, max_size=2000),
    cuts=st.lists(st.integers(1, 400), max_size=8),
    writes=st.lists(st.integers(1, 700), max_size=6),
)
def test_any_fragmentation_gives_the_same_data_set(data, cuts, writes):
    listener = socket.create_server(("127.0.0.1", 0))
    peer = socket.create_connection(listener.getsockname())
    accepted, _ = listener.accept()
    read_fd, write_fd = os.pipe()
    try:
        connection = Connection(accepted, "x", read_fd, 1)
        fragments, rest = [], data
        for cut in cuts:
            fragments.append(rest[:cut])
            rest = rest[cut:]
        wire = p_data(pdv(1, 3, STORE)) + b"".join(p_data(pdv(1, 0, piece)) for piece in fragments)
        wire += p_data(pdv(1, 2, rest))
        for size in writes:
            peer.sendall(wire[:size])
            wire = wire[size:]
        peer.sendall(wire)
        ours = Association(connection, negotiate(CONTEXTS), 0, limits())
        connection.enlarge()
        pieces = []
        request = ours.next_request()
        assert ours.receive_data_set(request, lambda piece: pieces.append(bytes(piece)), 4000) == len(data)
        assert b"".join(pieces) == data
        connection.close()
    finally:
        listener.close(), peer.close(), accepted.close(), os.close(read_fd), os.close(write_fd)


INVALID = {
    "PDU of zero length": (p_data(), INVALID_PARAMETER),
    "PDU shorter than a PDV": (struct.pack(">BxI", 4, 5) + bytes(5), INVALID_PARAMETER),
    "PDU over the announced maximum": (struct.pack(">BxI", 4, 128 * 1024 + 7), INVALID_PARAMETER),
    "PDU of 4 GiB": (struct.pack(">BxI", 4, 0xFFFFFFFF), INVALID_PARAMETER),
    "PDV of zero length": (struct.pack(">BxIIBB", 4, 6, 0, 1, 3), INVALID_PARAMETER),
    "PDV of length one": (struct.pack(">BxIIBB", 4, 6, 1, 1, 3), INVALID_PARAMETER),
    "PDV longer than its PDU": (struct.pack(">BxIIBB", 4, 6, 3, 1, 3), INVALID_PARAMETER),
    "rest of a PDU too short for a PDV": (p_data(pdv(3, 1, ECHO[:10]), b"\0\0\0"), INVALID_PARAMETER),
    "unknown context": (p_data(pdv(5, 3, ECHO)), INVALID_PARAMETER),
    "Data Set before command": (p_data(pdv(1, 2, b"data")), INVALID_PARAMETER),
    "command in two contexts": (p_data(pdv(1, 1, ECHO[:10]), pdv(3, 3, ECHO[10:])), INVALID_PARAMETER),
    "garbage command": (p_data(pdv(1, 3, b"\xff" * 60)), INVALID_PARAMETER),
    "empty command": (p_data(pdv(1, 3, b"")), INVALID_PARAMETER),
    "command without message id": (
        p_data(pdv(3, 3, encode({Element.COMMAND_FIELD: 0x30, Element.COMMAND_DATA_SET_TYPE: 0x0101}))),
        INVALID_PARAMETER,
    ),
    "command over its limit": (p_data(pdv(1, 1, bytes(60000))) + p_data(pdv(1, 1, bytes(6000))), INVALID_PARAMETER),
    "second A-ASSOCIATE-RQ": (struct.pack(">BxI", 1, 200), UNEXPECTED_PDU),
    "A-ASSOCIATE-AC": (struct.pack(">BxI", 2, 200), UNEXPECTED_PDU),
    "A-RELEASE-RP": (struct.pack(">BxI", 6, 4), UNEXPECTED_PDU),
    "unknown PDU": (b"GET / HTTP/1.1\r\n\r\n", UNRECOGNISED_PDU),
    "A-RELEASE-RQ of wrong length": (struct.pack(">BxI", 5, 4000), INVALID_PARAMETER),
}


@pytest.mark.parametrize(("wire", "abort"), INVALID.values(), ids=INVALID)
def test_what_breaks_the_protocol_has_a_reason_to_abort(ends, wire, abort):
    ends.peer.sendall(wire)
    with pytest.raises(ViolationError) as raised:
        received(ends)
    assert raised.value.abort == abort


def test_a_command_inside_a_data_set_breaks_the_protocol(ends):
    ends.peer.sendall(p_data(pdv(1, 3, STORE), pdv(1, 0, b"data"), pdv(1, 3, ECHO)))
    with pytest.raises(ViolationError):
        received(ends)


def test_a_data_set_in_another_context_breaks_the_protocol(ends):
    ends.peer.sendall(p_data(pdv(1, 3, STORE), pdv(3, 2, b"data")))
    with pytest.raises(ViolationError):
        received(ends)


def test_a_data_set_over_its_limit_stops_before_its_bytes_are_taken(ends):
    ends.peer.sendall(p_data(pdv(1, 3, STORE), pdv(1, 0, bytes(1000)), pdv(1, 0, bytes(1001))))
    peer = association(ends)
    taken = []
    with pytest.raises(TooLarge):
        peer.receive_data_set(peer.next_request(), lambda piece: taken.append(len(piece)), 2000)
    assert sum(taken) == 1000


def test_a_release_is_answered(ends):
    ends.peer.sendall(bytes.fromhex("05000000000400000000"))
    with pytest.raises(ReleasedError):
        association(ends).next_request()
    assert ends.peer.recv(100) == bytes.fromhex("06000000000400000000")


def test_an_abort_and_a_close_end_the_association(ends):
    ends.peer.sendall(bytes.fromhex("07000000000400000000"))
    with pytest.raises(AbortedError):
        association(ends).next_request()
    ends.peer.close()
    with pytest.raises(ClosedError):
        association(ends).next_request()


def test_silence_between_messages_ends_when_it_is_idle_too_long(ends):
    started = time.monotonic()
    with pytest.raises(DeadlineError, match="idle"):
        association(ends).next_request()
    assert 0.25 < time.monotonic() - started < 1.5


def test_silence_inside_a_message_ends_as_too_slow(ends):
    ends.peer.sendall(p_data(pdv(1, 3, STORE), pdv(1, 0, b"data")))
    with pytest.raises(DeadlineError, match="too slow"):
        received(ends)


def test_a_pdu_header_of_one_byte_ends_as_too_slow(ends):
    ends.peer.sendall(b"\4")
    with pytest.raises(DeadlineError, match="too slow"):
        received(ends)


def test_an_association_ends_at_the_end_of_its_life_even_when_idle(ends):
    with pytest.raises(DeadlineError, match="end of life"):
        association(ends, idle_seconds=50, association_life_seconds=0.2).next_request()


def test_a_stopping_server_ends_an_idle_wait_at_once(ends):
    ends.stop()
    started = time.monotonic()
    with pytest.raises(DrainingError):
        association(ends, idle_seconds=30).next_request()
    assert time.monotonic() - started < 1


def test_a_stopping_server_still_reads_the_message_under_way(ends):
    peer = association(ends)
    ends.peer.sendall(p_data(pdv(1, 3, STORE), pdv(1, 0, b"da")))
    request = peer.next_request()
    ends.stop()
    ends.peer.sendall(p_data(pdv(1, 2, b"ta")))
    assert peer.receive_data_set(request, bytes, 100) == 4


def test_a_peer_that_reads_nothing_is_given_up(ends):
    peer = association(ends)
    ends.peer.sendall(p_data(pdv(3, 3, ECHO)))
    request = peer.next_request()
    started = time.monotonic()
    with pytest.raises(DeadlineError, match="unread"):
        peer.hold(request.context.context_id, b"", [bytes(64 << 20)])
    assert time.monotonic() - started < 20


@pytest.mark.parametrize("maximum", [0, 64, 128, 4096, 16382, 131072, 0xFFFFFFFF])
def test_answers_keep_to_the_maximum_the_peer_announced(ends, maximum):
    peer = association(ends, peer_maximum_bytes=maximum)
    ends.peer.sendall(p_data(pdv(3, 3, ECHO)))
    data = bytes(range(256)) * 80
    request = peer.next_request()
    pending = command.response(request.command, 0xFF00, has_data_set=True)
    peer.hold(request.context.context_id, pending, [data])
    peer.flush()
    ends.connection.close()
    wire = b"".join(iter(lambda: ends.peer.recv(65536), b""))
    message, values = C_ECHO_RSP(), b""
    while wire:
        length = 6 + int.from_bytes(wire[2:6], "big")
        pdu = P_DATA_TF()
        pdu.decode(wire[:length])
        assert maximum == 0 or length - 6 <= maximum
        message.decode_msg(pdu.to_primitive())
        values += b"".join(item[1:] for _, item in pdu.to_primitive().presentation_data_value_list if not item[0] & 1)
        wire = wire[length:]
    assert message.command_set.Status == 0xFF00
    assert values == data


def test_a_peer_that_takes_no_pdu_is_refused(ends):
    with pytest.raises(ViolationError):
        association(ends, peer_maximum_bytes=63)


FIRST = {
    "HTTP": (b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", "not a PDU", None),
    "TLS": (bytes.fromhex("16030100c8010000c4"), "not a PDU", None),
    "P-DATA": (p_data(pdv(1, 3, ECHO)), "unexpected PDU", UNEXPECTED_PDU),
    "4 GiB": (struct.pack(">BxI", 1, 0xFFFFFFFF), "PDU too long", INVALID_PARAMETER),
    "128 KiB and one": (struct.pack(">BxI", 1, 128 * 1024 + 1), "PDU too long", INVALID_PARAMETER),
}


@pytest.mark.parametrize(("wire", "reason", "abort"), FIRST.values(), ids=FIRST)
def test_a_stranger_that_asks_for_no_association_is_refused(ends, wire, reason, abort):
    ends.peer.sendall(wire)
    with pytest.raises(ViolationError, match=reason) as raised:
        read_associate_request(ends.connection, limits(), time.monotonic() + 1)
    assert raised.value.abort == abort


def test_a_long_association_request_is_read_whole(ends):
    body = bytes(100_000)
    ends.peer.sendall(struct.pack(">BxI", 1, len(body)) + body)
    assert len(read_associate_request(ends.connection, limits(), time.monotonic() + 1)) == len(body) + 6


@pytest.mark.parametrize("wire", [b"", b"\1", struct.pack(">BxI", 1, 200) + bytes(150)], ids=["silent", "byte", "part"])
def test_an_association_request_that_does_not_arrive_meets_its_deadline(ends, wire):
    ends.peer.sendall(wire)
    with pytest.raises(DeadlineError, match="association deadline"):
        read_associate_request(ends.connection, limits(), time.monotonic() + 0.2)


def test_an_interrupted_connection_ends_for_its_owner(ends):
    ends.connection.interrupt()
    with pytest.raises(ConnectionEndedError):
        association(ends).next_request()
