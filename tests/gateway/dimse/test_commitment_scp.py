"""Storage commitment asked by pynetdicom, and told over the same association; what is refused, and how."""

from __future__ import annotations

import threading

import pytest

from gateway.dimse.command import Element, Field, encode
from gateway.security.actor import Actor, Verb
from tests.fix_commitment import (
    PUSH,
    PUSH_MODEL,
    WELL_KNOWN,
    Clock,
    Reports,
    act,
    captures,
    data_set_bytes,
    request_of,
)
from tests.fix_dimse import STORAGE, associated, p_data, pdv, raw_association, receive_pdu, send, settle, status_of
from tests.gateway.dimse.test_retrieve_scp import SERIES, fill
from tests.synthetic import CT, IMPLICIT, SECONDARY_CAPTURE, image

TRANSACTION = "1.2.3.999"


def uids(*numbers):
    return [f"{SERIES}.{number}" for number in numbers]


def waiting(listener):
    return listener.archive.commitments.count()


def path(listener, uid):
    return listener.folder / "objects" / listener.archive._index.find([uid])[uid].key


def action(**changed):
    """The command of an N-ACTION."""
    elements = {
        "requested_sop_class_uid": PUSH_MODEL,
        "command_field": Field.N_ACTION,
        "message_id": 7,
        "command_data_set_type": 1,
        "requested_sop_instance_uid": WELL_KNOWN,
        "action_type_id": 1,
    } | changed
    return encode({Element[name.upper()]: value for name, value in elements.items() if value is not None})


def ask_raw(peer, data_set, command=None):
    """An N-ACTION by hand; status and comment of its response."""
    peer.sendall(p_data(pdv(1, 3, command or action())))
    pieces = [data_set[at : at + 16000] for at in range(0, len(data_set), 16000)] or [b""]
    for number, piece in enumerate(pieces):
        peer.sendall(p_data(pdv(1, 2 if number == len(pieces) - 1 else 0, piece)))
    return status_of(peer)


def receive_report(peer):
    """The Data Set of the next message, which must be an event report."""
    kind, value = receive_pdu(peer)
    assert kind == 4
    assert b"\0\0\0\1\2\0\0\0\0\1" in value, "Command Field 0100"
    kind, value = receive_pdu(peer)
    assert (kind, value[5]) == (4, 2), "the last fragment of a Data Set"
    return value[6:]


@pytest.mark.parametrize("syntax", [PUSH[1], [IMPLICIT]])
def test_sc1_instances_that_are_kept_are_committed_to_over_the_association_that_asks(listener, syntax):
    fill(listener, [1, 2, 3])
    reports = Reports()
    with associated(listener, (PUSH_MODEL, syntax), evt_handlers=reports.handlers) as association:
        assert act(association, request_of(TRANSACTION, captures(uids(3, 1, 2)))).Status == 0x0000
        report = reports.one()
        assert settle(lambda: waiting(listener) == 0)
    assert (report.kind, report.transaction) == (1, TRANSACTION)
    assert report.committed == uids(3, 1, 2)
    assert report.failed == {}


def test_sc1_a_requestor_stores_asks_and_waits_all_in_one_association(listener):
    reports = Reports()
    contexts = (STORAGE, PUSH)
    with associated(listener, *contexts, evt_handlers=reports.handlers) as association:
        for number in (1, 2):
            fill(listener, [number])
            assert act(association, request_of(f"{TRANSACTION}.{number}", captures(uids(number)))).Status == 0
        assert settle(lambda: len(reports.found) == 2)
    assert [one.kind for one in reports.found] == [1, 1]


def test_sc2_each_instance_that_is_not_committed_to_has_its_reason(listener):
    fill(listener, [1, 2])
    path(listener, uids(2)[0]).unlink()
    asked = [
        *captures([*uids(1, 2), "1.2.404"]),
        (CT, uids(1)[0] + "0"),
        ("1.2.840.10008.5.1.4.1.2.2.1", "1.2.405"),
    ]
    fill(listener, [10])
    reports = Reports()
    with associated(listener, PUSH, evt_handlers=reports.handlers) as association:
        assert act(association, request_of(TRANSACTION, asked)).Status == 0
        report = reports.one()
    assert report.kind == 2
    assert report.committed == uids(1)
    assert report.failed == {uids(2)[0]: 0x0110, "1.2.404": 0x0112, uids(10)[0]: 0x0119, "1.2.405": 0x0122}


def test_sc3_an_instance_that_is_named_twice_is_answered_once(listener):
    fill(listener, [1])
    reports = Reports()
    with associated(listener, PUSH, evt_handlers=reports.handlers) as association:
        act(association, request_of(TRANSACTION, captures(uids(1, 1, 2, 2, 1))))
        report = reports.one()
    assert report.committed == uids(1)
    assert report.failed == {uids(2)[0]: 0x0112}


def test_sc2_a_transaction_uid_is_taken_once(listener):
    fill(listener, [1])
    reports = Reports()
    asked = request_of(TRANSACTION, captures(uids(1)))
    with associated(listener, PUSH, evt_handlers=reports.handlers) as association:
        assert act(association, asked).Status == 0
        assert act(association, asked).Status == 0x0131
        reports.one()
        assert settle(lambda: waiting(listener) == 0)
        assert act(association, asked).Status == 0x0131
    with associated(listener, PUSH, calling="OTHER") as association:
        assert act(association, asked).Status == 0x0131
    assert len(reports.found) == 1


def test_sc4_the_report_waits_until_the_association_has_come_to_rest(listener):
    fill(listener, [1])
    peer = raw_association(listener, PUSH, STORAGE)
    assert ask_raw(peer, data_set_bytes(TRANSACTION, captures(uids(1)))) == (0, "")
    for number in range(2, 6):
        content = image(8, 8, sop_instance=f"1.2.{number}")
        assert send(peer, content, sop_instance=f"1.2.{number}", context_id=3, message_id=number) == (0, "")
    assert TRANSACTION.encode() in receive_report(peer)


def test_sc4_a_request_that_crosses_the_report_is_answered_before_its_response(listener):
    fill(listener, [1])
    peer = raw_association(listener, PUSH, STORAGE)
    assert ask_raw(peer, data_set_bytes(TRANSACTION, captures(uids(1)))) == (0, "")
    assert TRANSACTION.encode() in receive_report(peer)
    assert send(peer, image(8, 8, sop_instance="1.2.7"), sop_instance="1.2.7", context_id=3, message_id=9) == (0, "")
    assert waiting(listener) == 1
    response = {
        Element.AFFECTED_SOP_CLASS_UID: PUSH_MODEL,
        Element.COMMAND_FIELD: 0x8100,
        Element.MESSAGE_ID_BEING_RESPONDED_TO: 1,
        Element.COMMAND_DATA_SET_TYPE: 0x0101,
        Element.STATUS: 0,
    }
    peer.sendall(p_data(pdv(1, 3, encode(response))))
    assert settle(lambda: waiting(listener) == 0)


@pytest.mark.parametrize("is_orderly", [True, False])
def test_sc4_what_was_not_told_before_the_association_ends_is_due_over_another_one(listen, is_orderly):
    clock = Clock()
    listener = listen(clock=clock)
    with associated(listener, PUSH) as association:
        assert act(association, request_of(TRANSACTION, captures(uids(1)))).Status == 0
        assert listener.archive.commitments.take(int(clock.now), int(clock.now), 1) == ()
        if is_orderly:
            association.release()
        else:
            association.abort()
    assert settle(lambda: listener.archive.commitments.take(int(clock.now), int(clock.now) + 9, 1))


def test_sc4_a_peer_that_leaves_in_the_middle_of_the_report_is_told_again(listen):
    clock = Clock()
    listener = listen(clock=clock)
    reports = Reports(is_silent=True)
    with associated(listener, PUSH, evt_handlers=reports.handlers) as association:
        act(association, request_of(TRANSACTION, captures(uids(1))))
        reports.one()
        association.abort()
        reports.gate.set()
    assert settle(lambda: listener.archive.commitments.take(int(clock.now), int(clock.now) + 9, 1))


def test_sc4_a_report_that_is_not_accepted_is_sent_again_a_minute_later(listen):
    clock = Clock()
    listener = listen(clock=clock)
    reports = Reports(status=0x0110)
    with associated(listener, PUSH, evt_handlers=reports.handlers) as association:
        act(association, request_of(TRANSACTION, captures(uids(1))))
        reports.one()
        now = int(clock.now)
        assert settle(lambda: listener.archive.commitments.take(now + 60, now + 900, 1))


# ---- what is refused --------------------------------------------------------------------------------------------

GOOD = data_set_bytes("1.2.3.1", captures(["1.2.3"]))
REFUSED = {
    "another instance": (GOOD, {"requested_sop_instance_uid": "1.2.840.10008.1.20.1.2"}, 0x0112),
    "no instance": (GOOD, {"requested_sop_instance_uid": None}, 0x0112),
    "another class": (GOOD, {"requested_sop_class_uid": SECONDARY_CAPTURE}, 0x0118),
    "another action": (GOOD, {"action_type_id": 2}, 0x0123),
    "no action": (GOOD, {"action_type_id": None}, 0x0123),
    "an event": (GOOD, {"command_field": 0x0100, "event_type_id": 1}, 0x0211),
    "no Transaction UID": (data_set_bytes("", captures(["1.2.3"])), {}, 0x0115),
    "no references": (data_set_bytes("1.2.3.1", []), {}, 0x0115),
    "a reference to nothing": (data_set_bytes("1.2.3.1", [("", "")]), {}, 0x0115),
    "no Data Set in it": (b"\xff" * 100, {}, 0x0212),
    "an empty Data Set": (b"", {}, 0x0212),
    "too many references": (data_set_bytes("1.2.3.1", captures(f"1.{n}" for n in range(101))), {}, 0x0213),
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_request_that_cannot_be_understood_is_refused_and_the_association_lives(listen, name):
    data_set, changed, status = REFUSED[name]
    listener = listen(archive_options={"commitment_references_maximum": 100})
    peer = raw_association(listener, PUSH)
    assert ask_raw(peer, data_set, action(**changed))[0] == status
    assert waiting(listener) == 0
    assert ask_raw(peer, data_set_bytes("1.2.3.2", captures(["1.2.3"]))) == (0, "")


def test_a_request_without_a_data_set_is_refused(listener):
    peer = raw_association(listener, PUSH)
    peer.sendall(p_data(pdv(1, 3, action(command_data_set_type=0x0101))))
    assert status_of(peer)[0] == 0x0115


def test_a_request_that_is_too_long_is_refused_and_ends_the_association(listen):
    listener = listen(commitment_maximum_bytes=20_000)
    peer = raw_association(listener, PUSH)
    assert ask_raw(peer, data_set_bytes(TRANSACTION, captures(f"1.{n}" for n in range(2000))))[0] == 0x0213
    assert receive_pdu(peer)[0] in (7, 0)
    assert waiting(listener) == 0
    assert listener.waiting_files() == []


def test_who_may_not_store_may_not_ask(listen):
    listener = listen(peers=lambda peer: Actor("peer", peer.calling_ae, frozenset({Verb.SEARCH})))
    with associated(listener, PUSH) as association:
        assert act(association, request_of(TRANSACTION, captures(uids(1)))).Status == 0x0124


def test_d18_a_flood_of_requests_is_bounded_and_nobody_is_told_twice(listen):
    """A hundred references and each row make a weight of 101; forty times the largest request is kept."""
    listener = listen(archive_options={"commitment_references_maximum": 100})
    kept, refused = [], set()
    lock = threading.Lock()

    def flood(peer_number):
        with associated(listener, PUSH, calling=f"SCU{peer_number}") as association:
            for number in range(30):
                transaction = f"1.2.3.{peer_number}.{number}"
                status = act(association, request_of(transaction, captures(["1.2.3"]))).Status
                with lock:
                    kept.append(transaction) if status == 0 else refused.add(status)

    threads = [threading.Thread(target=flood, args=(number,)) for number in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert refused == {0x0213}
    assert len(kept) == waiting(listener) == 4000 // 101
    assert len(set(kept)) == len(kept)
