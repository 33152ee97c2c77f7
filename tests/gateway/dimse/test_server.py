"""The listener: C-ECHO, who may associate, one line for each association, and how it stops."""

import logging
import threading
import time

import pytest

from gateway.security.actor import Actor
from tests import synthetic
from tests.fix_dimse import (
    ECHO,
    RELEASE,
    STORAGE,
    associate_request,
    associated,
    echo,
    instances,
    p_data,
    pdv,
    raw_association,
    receive_pdu,
    run_program,
    send,
    settle,
    status_of,
    store_command,
)


def test_an_echo_is_answered(listener):
    with associated(listener, ECHO) as association:
        assert association.send_c_echo().Status == 0x0000
        assert association.send_c_echo().Status == 0x0000
        association.release()
        assert association.is_released


@pytest.mark.needs("echoscu")
def test_echoscu_is_answered(listener):
    done = run_program("echoscu", "-v", "127.0.0.1", listener.port)
    assert done.returncode == 0, done.stderr


def test_an_association_takes_a_few_milliseconds(listener):
    assert sorted(echo(listener) for _ in range(9))[4] < 0.02


REJECTED = {
    "application context": ({"application": "1.2.3"}, (1, 1, 2)),
    "calling AE of spaces": ({"calling": b"   "}, (1, 1, 3)),
    "calling AE with a control character": ({"calling": b"EVIL\x1b[31m"}, (1, 1, 3)),
    "calling AE that is not ASCII": ({"calling": "MÜLLER".encode("latin-1")}, (1, 1, 3)),
}


@pytest.mark.parametrize(("options", "reason"), REJECTED.values(), ids=REJECTED)
def test_requests_that_cannot_be_accepted_are_rejected_with_their_reason(listener, options, reason):
    peer = listener.connect()
    peer.sendall(associate_request(ECHO, **options))
    assert receive_pdu(peer) == (3, bytes((0, *reason)))
    assert receive_pdu(peer) == (0, b"")
    peer.close()


def test_an_unknown_protocol_version_is_rejected(listener):
    peer = listener.connect()
    request = bytearray(associate_request(ECHO))
    request[7] = 2
    peer.sendall(request)
    assert receive_pdu(peer) == (3, bytes((0, 1, 2, 2)))
    peer.close()


def test_the_policy_decides_who_may_associate_and_as_whom(listen):
    seen = []

    def peers(peer):
        seen.append((peer.calling_ae, peer.called_ae, peer.address))
        return Actor("peer", peer.calling_ae) if peer.calling_ae == "KNOWN" else None

    listener = listen(peers=peers)
    with associated(listener, ECHO, calling="KNOWN") as association:
        assert association.is_established
    peer = listener.connect()  # pynetdicom may see the end of the connection before it looks at the rejection
    peer.sendall(associate_request(ECHO, calling=b"STRANGER", called=b"OTHER"))
    assert receive_pdu(peer) == (3, bytes((0, 1, 1, 3)))
    peer.close()
    assert seen == [("KNOWN", "GATEWAY", "127.0.0.1"), ("STRANGER", "OTHER", "127.0.0.1")]


def test_another_called_ae_is_rejected_where_it_is_checked(listener):
    listener.server._called_ae_is_checked = True
    peer = listener.connect()
    peer.sendall(associate_request(ECHO, called=b"OTHER"))
    assert receive_pdu(peer) == (3, bytes((0, 1, 1, 7)))
    peer.close()
    assert echo(listener) < 2


@pytest.mark.parametrize(
    "limit", ["associations_maximum", "associations_per_calling_ae_maximum", "connections_per_address_maximum"]
)
def test_associations_over_a_limit_are_rejected_for_a_while(listen, limit):
    listener = listen(**{limit: 2})
    held = [raw_association(listener, ECHO) for _ in range(2)]
    peer = listener.connect()
    peer.sendall(associate_request(ECHO))
    assert receive_pdu(peer) == (3, bytes((0, 2, 3, 2)))
    peer.close()
    held[0].close()
    assert settle(lambda: listener.server._admission.established == 1)
    assert echo(listener) < 2
    held[1].close()


def test_an_idle_association_is_aborted_at_its_limit(listen):
    listener = listen(idle_seconds=0.3)
    peer = raw_association(listener, ECHO)
    assert receive_pdu(peer) == (7, bytes((0, 0, 2, 0)))
    peer.close()


def test_one_line_tells_how_an_association_ended_and_none_names_a_patient(listener, caplog):
    caplog.set_level(logging.DEBUG)
    peer = raw_association(listener, STORAGE, calling=b"CANARY_AE")
    send(
        peer,
        synthetic.data_set(name="CANARY^NAME", patient_id="CANARY-ID", sop_instance="1.2.3.4.99991"),
        sop_instance="1.2.3.4.9",
    )
    peer.sendall(RELEASE)
    assert receive_pdu(peer)[0] == 6
    peer.close()
    assert settle(listener.is_at_rest)
    ended = [record for record in caplog.records if record.getMessage() == "dimse.association.ended"]
    assert [(record.reason, record.count) for record in ended] == [("released", 1)]
    written = " ".join(str(vars(record)) for record in caplog.records)
    assert "CANARY" not in written
    assert "99991" not in written


def test_stop_answers_the_instance_under_way_and_ends_the_idle_ones_at_once(listener):
    busy, idle = raw_association(listener, STORAGE), raw_association(listener, ECHO)
    content = synthetic.image(200, 200)
    busy.sendall(p_data(pdv(1, 3, store_command("1.2.3.4.5"))) + p_data(pdv(1, 0, content[:100])))
    time.sleep(0.2)
    stopping = threading.Thread(target=listener.server.stop, args=(10,))
    stopping.start()
    assert receive_pdu(idle) == (7, bytes((0, 0, 2, 0)))
    for at in range(100, len(content), 10_000):
        piece = content[at : at + 10_000]
        busy.sendall(p_data(pdv(1, 2 if at + 10_000 >= len(content) else 0, piece)))
    assert status_of(busy) == (0, "")
    assert receive_pdu(busy) == (7, bytes((0, 0, 2, 0)))
    stopping.join(5)
    assert not stopping.is_alive()
    with pytest.raises(ConnectionRefusedError):
        listener.connect()
    busy.close(), idle.close()
    assert len(instances(listener)) == 1


def test_stop_says_farewell_to_every_idle_association(listen):
    listener = listen(associations_per_calling_ae_maximum=32)
    idle = [raw_association(listener, ECHO) for _ in range(32)]
    listener.server.stop(10)
    assert [receive_pdu(peer) for peer in idle] == [(7, bytes((0, 0, 2, 0)))] * 32


def test_stop_ends_what_does_not_finish_in_time(listener):
    busy, silent = raw_association(listener, STORAGE), listener.connect()
    busy.sendall(p_data(pdv(1, 3, store_command("1.2.3.4.5"))) + p_data(pdv(1, 0, bytes(5000))))
    time.sleep(0.2)
    started = time.monotonic()
    listener.server.stop(0.3)
    assert time.monotonic() - started < 2
    assert listener.is_at_rest()
    assert listener.waiting_files() == []
    busy.close(), silent.close()


def test_stop_may_be_called_twice(listener):
    listener.server.stop(1)
    listener.server.stop(1)
    assert listener.is_at_rest()
