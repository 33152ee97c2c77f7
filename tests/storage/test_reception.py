"""What a hook is asked and what becomes of its answer, or of none."""

from __future__ import annotations

import threading
import time

import pytest

from storage.errors import Overloaded, PolicyFailed, RefusedByPolicy
from storage.filemeta import Announcement
from storage.model import Source
from storage.reception import MAXIMUM_AT_ONCE, Accept, Coerce, Hook, Reject, reception_of, remove, set_to

JSON = {
    "00080050": {"vr": "SH", "Value": ["ACC77"]},
    "00100010": {"vr": "PN", "Value": [{"Alphabetic": "Doe^Jane"}]},
    "00100020": {"vr": "LO"},
    "7FE00010": {"vr": "OW", "BulkDataURI": "\0/bulkdata/7FE00010"},
}


def received():
    return reception_of(Announcement("1.2", "1.3", "1.4"), Source("dimse", "CT1", "10.0.0.1"), JSON, 1000)


def asked(function, seconds=5.0):
    return Hook(function, seconds).ask(received())


def test_a_hook_sees_who_sent_what():
    seen = []
    assert asked(lambda one: seen.append(one) or Accept()) == ()
    (one,) = seen
    assert (one.announcement.sop_instance_uid, one.source.calling_ae, one.size_bytes) == ("1.3", "CT1", 1000)
    assert (one.value("PatientName"), one.value("00080050"), one.value("PatientID")) == ("Doe^Jane", "ACC77", None)
    assert one.value("StudyDate") is None
    assert one.attributes["7FE00010"]["BulkDataURI"] == "bulkdata/7FE00010"
    assert "Doe" not in repr(one)


def test_a_hook_changes_nothing_but_by_its_answer():
    def spoil(one):
        with pytest.raises(TypeError):
            one.attributes["00100020"] = {"vr": "LO", "Value": ["P2"]}
        with pytest.raises(AttributeError):
            one.size_bytes = 2
        one.attributes["00100010"]["Value"].clear()
        return Accept()

    assert asked(spoil) == ()
    assert JSON["00100010"]["Value"] == [{"Alphabetic": "Doe^Jane"}]


def test_a_hook_coerces():
    changes = [set_to("PatientID", "P1"), remove("PatientComments")]
    assert asked(lambda _: Coerce(changes)) == tuple(changes)


@pytest.mark.parametrize(
    ("reason", "shown"),
    [
        ("Wrong department", "Wrong department"),
        ("", RefusedByPolicy.default_reason),
        ("of DOE", RefusedByPolicy.default_reason),
        ("acc77 is closed", RefusedByPolicy.default_reason),
        ("x" * 65, RefusedByPolicy.default_reason),
        ("line\nbreak", RefusedByPolicy.default_reason),
        (None, RefusedByPolicy.default_reason),
    ],
)
def test_a_hook_refuses_with_a_reason_that_names_no_patient(reason, shown):
    with pytest.raises(RefusedByPolicy) as refused:
        asked(lambda _: Reject(reason))
    assert refused.value.reason == shown


@pytest.mark.parametrize("answer", [None, True, "accept", Accept, Coerce(["PatientID"]), Coerce(())])
def test_any_other_answer_is_a_failure_and_never_an_accept(answer):
    if answer == Coerce(()):
        assert asked(lambda _: answer) == ()
        return
    with pytest.raises(PolicyFailed):
        asked(lambda _: answer)


@pytest.mark.parametrize("error", [ValueError("Doe"), SystemExit()])
def test_a_hook_that_raises_is_a_failure(error):
    def fail(_):
        raise error

    with pytest.raises(PolicyFailed) as failed:
        asked(fail)
    assert "Doe" not in str(failed.value)


def test_a_hook_that_hangs_is_a_failure_in_time_and_too_many_of_them_refuse_what_comes():
    release = threading.Event()
    hook = Hook(lambda _: release.wait(30) and Accept(), 0.05)
    try:
        started = time.monotonic()
        for _ in range(MAXIMUM_AT_ONCE):
            with pytest.raises(PolicyFailed):
                hook.ask(received())
        with pytest.raises(Overloaded):
            hook.ask(received())
        assert time.monotonic() - started < 15
    finally:
        release.set()
    for _ in range(100):
        try:
            assert hook.ask(received()) == ()
            break
        except (Overloaded, PolicyFailed):
            time.sleep(0.05)
    else:
        pytest.fail("its places were not given back")
