"""The Storage Commitment Service over HTTP: its payloads, and its answers by a real gateway."""

from __future__ import annotations

import itertools
import threading
import time

import httpx
import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydicom.dataset import Dataset

from gateway.dicomweb import commitment
from gateway.dicomweb.commitment_module import read_request as read_text
from gateway.dicomweb.commitment_module import write_answer
from gateway.security.actor import Actor
from gateway.session import Session
from storage.commitment import Commitment, Reference
from storage.errors import BadRequest, Overloaded, StorageUnavailable, TooLarge
from storage.model import Source
from tests.fix_archive import open_archive
from tests.fix_commitment import captures, request_of
from tests.fix_dimse import settle
from tests.synthetic import CT, SECONDARY_CAPTURE, image, part10

_NUMBERS = itertools.count(1)
JSON = {"Content-Type": "application/dicom+json", "Accept": "application/dicom+json"}


def new_uid():
    return f"2.25.2718281828.{next(_NUMBERS)}"


# ---- payloads ---------------------------------------------------------------------------------------------------


def read_request(body, most):
    """What a body holds, as the door reads it."""
    return read_text(held(body).text(), most)


def held(body):
    found = commitment._Body()
    found.add(body)
    return found


def payload(references):
    """As pydicom writes it, without the Transaction UID, which is in the path."""
    asked = request_of("1.2", references)
    del asked.TransactionUID
    return asked.to_json().encode()


def by_study(references):
    """The same by studies, series and classes."""
    asked = Dataset()
    asked.ReferencedStudySequence = []
    for sop_class, sop_instance, study, series in references:
        asked.ReferencedStudySequence.append(Dataset())
        of_study = asked.ReferencedStudySequence[-1]
        of_study.StudyInstanceUID = study
        of_study.ReferencedSeriesSequence = [Dataset()]
        of_series = of_study.ReferencedSeriesSequence[0]
        of_series.SeriesInstanceUID = series
        of_series.ReferencedInstancesBySOPClassSequence = [Dataset()]
        of_class = of_series.ReferencedInstancesBySOPClassSequence[0]
        of_class.ReferencedSOPClassUID = sop_class
        of_class.ReferencedInstanceSequence = [Dataset()]
        of_class.ReferencedInstanceSequence[0].ReferencedSOPInstanceUID = sop_instance
    return asked.to_json().encode()


NAMED = [Reference(CT, "1.2.1", "1.1", "1.1.1"), Reference(SECONDARY_CAPTURE, "1.2.2", "1.1", "1.1.2")]
BARE = [Reference(CT, "1.2.1"), Reference(SECONDARY_CAPTURE, "1.2.2")]


@pytest.mark.parametrize("wrapped", [lambda body: body, lambda body: b"[" + body + b"]"])
def test_k2_instances_are_referred_to_alone_or_below_their_studies(wrapped):
    assert read_request(wrapped(payload([one[:2] for one in [*BARE, *BARE]])), 10) == BARE
    assert read_request(wrapped(by_study(NAMED)), 10) == NAMED


def item(sop_instance="1.2.1", sop_class=CT):
    return {
        "00081150": {"vr": "UI", "Value": [sop_class]},
        "00081155": {"vr": "UI", "Value": [sop_instance]},
    }


def sops(*items):
    return orjson.dumps({"00081199": {"vr": "SQ", "Value": list(items)}})


BAD = {
    "nothing": (b"", ""),
    "no JSON": (b"<xml/>", ""),
    "half of it": (payload([one[:2] for one in BARE])[:-1], ""),
    "a list of several": (orjson.dumps([orjson.loads(sops(item()))] * 2), ""),
    "a text": (b'"1.2.3"', ""),
    "no sequence": (b"{}", "00081199"),
    "an empty sequence": (sops(), "00081199"),
    "a sequence without a value": (b'{"00081199":{"vr":"SQ"}}', "00081199"),
    "an item without an instance": (sops({"00081150": {"vr": "UI", "Value": [CT]}}), "00081199"),
    "an item that is a text": (sops("1.2"), "00081199"),
    "an instance without a value": (sops(item() | {"00081155": {"vr": "UI"}}), "00081155"),
    "an instance with two": (sops(item() | {"00081155": {"vr": "UI", "Value": ["1.2", "1.3"]}}), "00081155"),
    "an instance that is a number": (sops(item() | {"00081155": {"vr": "UI", "Value": [1.2]}}), "00081155"),
    "a class that is no UID": (sops(item(sop_class="../etc")), "00081150"),
    "both ways": (by_study(NAMED)[:-1] + b"," + sops(item())[1:], "00081110"),
    "a study without its UID": (by_study(NAMED).replace(b"0020000D", b"0020000F"), "0020000D"),
    "a series that is a text": (
        b'{"00081110":{"vr":"SQ","Value":[{"00081115":{"vr":"SQ","Value":["x"]}}]}}',
        "00081115",
    ),
    "brackets": (b"[" * 100_000, ""),
    "many empty lists": (b"[" + b"[]," * 100_000 + b"[]]", ""),
    "a long number": (b'{"a":' + b"1" * 100_000 + b"}", "00081199"),
    "bytes that are no text": (b'{"00081199":"\xff\xfe"}', ""),
}


@pytest.mark.parametrize("name", BAD)
def test_k2_what_is_no_request_is_refused_and_the_tag_is_named(name):
    body, tag = BAD[name]
    with pytest.raises(BadRequest) as raised:
        read_request(body, 10)
    assert raised.value.tag == tag


def test_k2_more_references_than_one_request_may_have_are_too_many():
    with pytest.raises(TooLarge):
        read_request(sops(*(item(f"1.2.{number}") for number in range(11))), 10)


@given(st.data())
def test_k2_a_damaged_payload_is_read_or_refused(data):
    body = bytearray(data.draw(st.sampled_from([by_study(NAMED), payload([one[:2] for one in BARE])])))
    for _ in range(data.draw(st.integers(1, 4))):
        body[data.draw(st.integers(0, len(body) - 1))] = data.draw(st.integers(0, 255))
    try:
        assert read_request(body, 10)
    except (BadRequest, TooLarge):
        return


@pytest.mark.parametrize("references", [BARE, NAMED])
@pytest.mark.parametrize("reasons", [[0, 0], [0, 0x0112], [0x0119, 0x0110]])
def test_k2_pydicom_reads_an_answer_that_has_no_empty_sequence(references, reasons):
    text = b"".join(write_answer(Commitment("1.2", references, Source("dicomweb"), 1, reasons)))
    told = Dataset.from_json(text.decode())
    kept_tag, failed_tag = (0x00081199, 0x00081198) if references is BARE else (0x00081110, 0x0008119B)
    assert [one.tag for one in told] == sorted(
        ([kept_tag] if 0 in reasons else []) + ([failed_tag] if any(reasons) else [])
    )
    assert (
        read_request(text, 10) == [one for one, reason in zip(references, reasons, strict=True) if not reason]
        if (0 in reasons)
        else True
    )
    found = [element.value for element in told.iterall() if element.tag == 0x00081197]
    assert found == [reason for reason in reasons if reason]


# ---- a real gateway ---------------------------------------------------------------------------------------------


class Client:
    """HTTP to a gateway, with instances of its own."""

    def __init__(self, gateway):
        self.gateway = gateway
        self.http = httpx.Client(base_url=gateway.dicomweb, timeout=60)

    def store(self, study=None, series=None):
        """One instance more; its UID."""
        uid = new_uid()
        content = image(8, 8, study=study or new_uid(), series=series or new_uid(), sop_instance=uid)
        answer = self.http.post(
            "/studies", content=part10(content, sop=uid), headers={"Content-Type": "application/dicom"}
        )
        assert answer.status_code == 200
        return uid

    def ask(self, body, transaction=None, **headers):
        transaction = transaction or new_uid()
        return self.http.post(f"/commitment-requests/{transaction}", content=body, headers=JSON | headers)

    def result(self, transaction, **headers):
        return self.http.get(f"/commitment-requests/{transaction}", headers=headers)


@pytest.fixture(scope="module")
def client(shared_gateway):
    one = Client(shared_gateway)
    with one.http:
        yield one


def told(answer):
    """What was committed, and what failed with its reason."""
    found = Dataset.from_json(answer.text)
    return (
        [one.ReferencedSOPInstanceUID for one in found.get("ReferencedSOPSequence", ())],
        {one.ReferencedSOPInstanceUID: one.FailureReason for one in found.get("FailedSOPSequence", ())},
    )


def test_k2_a_request_is_answered_at_once_and_the_answer_can_be_had_again(client):
    first, second = client.store(), client.store()
    transaction = new_uid()
    answer = client.ask(payload([*captures([second, first, "1.2.404"]), (CT, second + "9")]), transaction)
    assert (answer.status_code, answer.headers["content-type"]) == (200, "application/dicom+json")
    assert told(answer) == ([second, first], {"1.2.404": 0x0112, second + "9": 0x0112})
    again = client.result(transaction)
    assert (again.status_code, again.content) == (200, answer.content)


def test_k2_instances_below_their_study_are_committed_to_there_only(client):
    study, series = new_uid(), new_uid()
    uid = client.store(study, series)
    answer = client.ask(by_study([(SECONDARY_CAPTURE, uid, study, series), (SECONDARY_CAPTURE, uid, series, study)]))
    found = answer.json()
    assert found["00081110"]["Value"][0]["0020000D"]["Value"] == [study]
    assert found["0008119B"]["Value"][0]["0020000D"]["Value"] == [series]


def test_k2_another_class_is_a_conflict(client):
    uid = client.store()
    assert told(client.ask(payload([(CT, uid)]))) == ([], {uid: 0x0119})


def test_k2_a_transaction_uid_is_taken_once_by_either_door(client):
    transaction = new_uid()
    assert client.ask(payload(captures(["1.2"])), transaction).status_code == 200
    answer = client.ask(payload(captures(["1.2"])), transaction)
    assert (answer.status_code, answer.json()["error"]) == (409, "TransactionInUse")


@pytest.mark.parametrize(
    ("transaction", "body", "headers", "status"),
    [
        ("1.2.x", payload(captures(["1.2"])), {}, 400),
        (None, b"{}", {}, 400),
        (None, payload(captures(["1.2"])), {"Content-Type": "application/dicom"}, 415),
        (None, payload(captures(["1.2"])), {"Content-Type": ""}, 415),
        (None, payload(captures(["1.2"])), {"Content-Encoding": "gzip"}, 415),
        (None, payload(captures(["1.2"])), {"Accept": "text/html"}, 406),
        (None, payload(captures(["1.2"])), {"Content-Type": "application/json", "Accept": "*/*"}, 200),
    ],
)
def test_k2_a_request_that_is_none_is_refused(client, transaction, body, headers, status):
    answer = client.ask(body, transaction, **headers)
    assert answer.status_code == status
    assert status == 200 or answer.json()["reason"]


def test_k2_what_was_not_asked_is_not_found(client):
    assert client.result(new_uid()).status_code == 404
    assert client.result("1..2").status_code == 400
    assert client.http.request("DELETE", f"/commitment-requests/{new_uid()}").status_code == 405


def test_k2_a_request_beyond_its_limits_is_too_large(start_gateway):
    environment = {
        "GATEWAY_HTTP__COMMITMENT_MAXIMUM_BYTES": "4096",
        "GATEWAY_ARCHIVE__COMMITMENT_REFERENCES_MAXIMUM": "10",
    }
    with Client(start_gateway("--workers", "1", environment=environment)).http as http:
        url = f"/commitment-requests/{new_uid()}"
        assert http.post(url, content=payload(captures(["1.2"] * 200)), headers=JSON).status_code == 413
        many = payload(captures(f"1.{number}" for number in range(11)))
        assert http.post(url, content=many, headers=JSON).status_code == 413
        few = payload(captures(f"1.{number}" for number in range(10)))
        assert http.post(url, content=few, headers=JSON).status_code == 200


def test_k2_ten_thousand_references_are_answered(client):
    uid = client.store()
    started = time.monotonic()
    transaction = new_uid()
    body = payload(captures([uid, *(f"{uid}.{number}" for number in range(9_999))]))
    answer = client.ask(body, transaction)
    assert settle(lambda: client.result(transaction).status_code == 200, 60)
    committed, failed = told(client.result(transaction) if answer.status_code == 202 else answer)
    assert time.monotonic() - started < 60
    assert committed == [uid]
    assert len(failed) == 9_999


# ---- what takes longer ------------------------------------------------------------------------------------------


@pytest.fixture
def session(tmp_path):
    archive = open_archive(tmp_path / "archive")
    yield Session(archive, Actor("web", ""))
    archive.close()


def test_k2_what_takes_longer_is_kept_and_answered_later(session, monkeypatch):
    monkeypatch.setattr(commitment, "ANSWER_SECONDS", 0.0)
    source = Source("dicomweb", address="127.0.0.1")
    asked = commitment._answered(session, "1.9", held(payload(captures(["1.2", "1.3"]))), source)
    assert asked.reasons is None
    response = commitment._response(asked, "application/dicom+json")
    assert (response.status_code, response.headers["retry-after"]) == (202, "5")
    assert session.commitments.get("1.9").reasons is None
    assert session.commitments.take(int(time.time()) + 20, int(time.time()) + 90, 1)


def test_k2_what_cannot_be_looked_at_now_is_kept_and_answered_later(session, monkeypatch):
    def unavailable(_):
        raise StorageUnavailable

    monkeypatch.setattr(session._archive._index, "find", unavailable)
    asked = commitment._answered(session, "1.9", held(payload(captures(["1.2"]))), Source("dicomweb"))
    assert asked.reasons is None
    assert session.commitments.count() == 1


def test_k2_only_so_much_is_held_at_a_time():
    bodies = commitment._Bodies()
    with bodies.holding() as first, bodies.holding() as second, bodies.holding() as third:
        bodies.add(first, bytes(100), 100)
        with pytest.raises(TooLarge):
            bodies.add(first, bytes(1), 100)
        bodies.add(second, bytes(100), 100)
        with pytest.raises(Overloaded):
            bodies.add(third, bytes(1), 100)
    with bodies.holding() as again:
        bodies.add(again, bytes(100), 100)
        bodies.add(again, b"", 100)


def test_k2_of_many_who_ask_with_one_uid_one_is_heard(client):
    transaction = new_uid()
    statuses = []

    def ask():
        statuses.append(client.ask(payload(captures(["1.2"])), transaction).status_code)

    threads = [threading.Thread(target=ask) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert sorted(statuses) == [200, 409, 409, 409, 409, 409]
