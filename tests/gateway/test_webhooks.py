"""Webhooks as they are written, and messages as they are signed."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import time
from pathlib import Path

import pytest

from gateway.changes import as_event, as_object
from gateway.outbound import Target
from gateway.webhooks import Secret, Webhook, message_of, read_webhooks
from storage.model import KINDS, Change, Scope

CHANGES = [
    Change(17, "stored", Scope("1.2", "1.2.3", "1.2.3.4"), "2026-01-02T03:04:05.000006+00:00"),
    Change(19, "series-stable", Scope("1.2", "1.2.3"), "2026-01-02T03:05:05.000006+00:00"),
    Change(20, "study-stable", Scope("1.2"), "2026-01-02T03:05:05.000007+00:00"),
]


def test_a_change_names_what_it_is_of_and_nothing_below_it():
    assert [as_object(change) for change in CHANGES] == [
        {
            "sequence": 17,
            "kind": "stored",
            "level": "INSTANCE",
            "StudyInstanceUID": "1.2",
            "SeriesInstanceUID": "1.2.3",
            "SOPInstanceUID": "1.2.3.4",
            "changed_at": "2026-01-02T03:04:05.000006+00:00",
        },
        {
            "sequence": 19,
            "kind": "series-stable",
            "level": "SERIES",
            "StudyInstanceUID": "1.2",
            "SeriesInstanceUID": "1.2.3",
            "changed_at": "2026-01-02T03:05:05.000006+00:00",
        },
        {
            "sequence": 20,
            "kind": "study-stable",
            "level": "STUDY",
            "StudyInstanceUID": "1.2",
            "changed_at": "2026-01-02T03:05:05.000007+00:00",
        },
    ]


def test_an_event_is_lines_that_end_with_an_empty_one():
    lines = as_event(CHANGES[2]).split(b"\n")
    assert lines[:2] == [b"id: 20", b"event: study-stable"]
    assert json.loads(lines[2].removeprefix(b"data: ")) == as_object(CHANGES[2])
    assert lines[3:] == [b"", b""]


def test_entries_are_read():
    first, second = read_webhooks(
        [
            "https://pacs.example.org/hook?x=1",
            "http://10.0.0.5:8000/h name=ris events=stored,study-stable+deleted secret=abc 'secret_file=/run/the key'",
        ]
    )
    target = Target("pacs.example.org", 443, "/hook?x=1", is_secure=True)
    assert first == Webhook("pacs.example.org", target, frozenset(KINDS), ())
    assert (second.name, second.target.port) == ("ris", 8000)
    assert second.kinds == {"stored", "study-stable", "deleted"}
    assert second.secrets == (Secret("abc"), Secret(file="/run/the key"))


@pytest.mark.parametrize(
    ("entries", "reason"),
    [
        ([""], "URL"),
        (["events=stored"], "URL"),
        (["https://a.example 'name=x"], "quote"),
        (["https://a.example name="], "without a value"),
        (["https://a.example stored"], "without a value"),
        (["https://a.example colour=red"], "none of name"),
        (["https://a.example events=stored+moved"], "moved"),
        (["https://a.example events=stored+"], "event ''"),
        (["https://a.example name=17"], "digits alone"),
        (["https://a.example 'name=a b'"], "name"),
        (["https://a.example name=ä"], "name"),
        (["https://a.example secret=whsec_!!"], "base64"),
        (["https://a.example secret=whsec_"], "empty"),
        (["https://a.example/1", "https://a.example/2"], "two webhooks that are called a.example"),
        (["https://a.example name=x", "https://b.example name=x"], "two webhooks that are called x"),
    ],
)
def test_what_cannot_be_a_webhook_is_refused(entries, reason):
    with pytest.raises(ValueError, match=reason):
        read_webhooks(entries)


def test_a_secret_is_text_or_base64_or_in_a_file(tmp_path):
    file = tmp_path / "secret"
    file.write_text("whsec_" + base64.b64encode(bytes(range(32))).decode() + "\n")
    assert Secret("plain").key() == b"plain"
    assert Secret(file=str(file)).key() == bytes(range(32))
    with pytest.raises(ValueError, match="cannot be read: No such file"):
        Secret(file=str(tmp_path / "none")).key()
    file.write_text(" \n")
    with pytest.raises(ValueError, match="empty"):
        Secret(file=str(file)).key()
    file.write_bytes(b"\xff\xfe")
    with pytest.raises(ValueError, match="not text"):
        Secret(file=str(file)).key()


def test_a_message_is_signed_as_standard_webhooks_has_it():
    message = message_of("ris", CHANGES)
    headers = message.headers(1_700_000_000, [b"one", b"two"])
    assert headers["webhook-timestamp"] == "1700000000"
    signed = b".".join((headers["webhook-id"].encode(), b"1700000000", message.body))
    wanted = [base64.b64encode(hmac.new(key, signed, hashlib.sha256).digest()).decode() for key in (b"one", b"two")]
    assert headers["webhook-signature"] == " ".join(f"v1,{one}" for one in wanted)
    assert "webhook-signature" not in message.headers(1_700_000_000, [])


def test_the_signature_is_the_one_of_an_independent_implementation():
    """The vector of the specification's own reference libraries."""
    from gateway.webhooks import Message

    message = Message("msg_p5jXN8AQM9LWM0D4loKWxJek", b'{"test": 2432232314}')
    key = Secret("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw").key()
    signature = message.headers(1614265330, [key])["webhook-signature"]
    assert signature == "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="


def test_a_message_is_the_same_however_often_it_is_made_and_another_one_is_not():
    message = message_of("ris", CHANGES)
    assert message_of("ris", CHANGES) == message
    others = [message_of("pacs", CHANGES), message_of("ris", CHANGES[1:]), message_of("ris", CHANGES[:2])]
    assert len({message.id, *(other.id for other in others)}) == 4
    body = json.loads(message.body)
    assert body["type"] == "dicom.changes"
    assert body["timestamp"] == CHANGES[-1].changed_at
    assert body["data"] == {"changes": [as_object(change) for change in CHANGES]}


def test_the_readme_says_how_to_verify_a_message():
    readme = (Path(__file__).parents[2] / "README.md").read_text("utf-8")
    names = {"base64": base64, "hmac": hmac, "hashlib": hashlib, "time": time}
    exec(readme.partition("### Webhooks")[2].partition("```python\n")[2].partition("```")[0], names)
    is_genuine, message = names["is_genuine"], message_of("ris", CHANGES)
    headers = message.headers(int(time.time()), [b"one", b"two"])
    assert is_genuine(headers, message.body, b"one")
    assert is_genuine(headers, message.body, b"two")
    assert not is_genuine(headers, message.body, b"three")
    assert not is_genuine(headers, message.body + b" ", b"one")
    assert not is_genuine(message.headers(int(time.time()) - 3600, [b"one"]), message.body, b"one")
