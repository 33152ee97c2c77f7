"""Log lines: JSON, allow-listed, and without a word of what others wrote."""

from __future__ import annotations

import io
import json
import logging
import subprocess
import sys

import pytest

from gateway import logs
from storage.errors import StorageUnavailable

CANARY = "CANARY^PATIENT"


@pytest.fixture
def lines():
    """Lines of what is logged in the test, in the manner of production; tests of strictness ask for it."""
    stream = io.StringIO()
    root = logging.getLogger()
    before = list(root.handlers)
    root.handlers = [handler for handler in before if not isinstance(handler.formatter, logs.JsonLines)]
    logs.configure("DEBUG", stream=stream)
    yield lambda: [json.loads(line) for line in stream.getvalue().splitlines()]
    root.handlers = before


@pytest.fixture
def strict_lines(lines):
    stream = io.StringIO()
    logs.configure("DEBUG", strict=True, stream=stream)
    return lambda: [json.loads(line) for line in stream.getvalue().splitlines()]


def test_a_line_has_time_level_logger_event_and_fields(lines):
    logging.getLogger("gateway.example").info("instance.stored", extra={"bytes": 5, "door": "dimse"})
    (line,) = lines()
    assert line.pop("time").endswith("Z")
    assert line == {
        "level": "INFO", "logger": "gateway.example", "event": "instance.stored", "bytes": 5, "door": "dimse",
    }  # fmt: skip


def test_a_field_outside_the_table_is_dropped(lines):
    logging.getLogger("gateway.example").info("instance.stored", extra={"patient_name": CANARY, "bytes": 5})
    (line,) = lines()
    assert "patient_name" not in line
    assert CANARY not in json.dumps(line)


def test_a_field_outside_the_table_raises_where_lines_are_strict(strict_lines):
    with pytest.raises(logs.BadLogLine, match="patient_name"):
        logging.getLogger("gateway.example").info("instance.stored", extra={"patient_name": CANARY})
    assert strict_lines() == []


@pytest.mark.parametrize(
    ("event", "arguments"), [("Stored %s", (CANARY,)), (f"stored.{CANARY}", ()), ("stored", ()), ("a.b", (1,))]
)
def test_an_event_is_a_constant_dotted_name(strict_lines, event, arguments):
    with pytest.raises(logs.BadLogLine):
        logging.getLogger("storage.example").warning(event, *arguments)


def test_a_message_in_place_of_an_event_is_hidden_in_production(lines):
    logging.getLogger("gateway.example").warning("Stored %s", CANARY)
    (line,) = lines()
    assert line["event"] == "(hidden)"
    assert CANARY not in json.dumps(line)


@pytest.mark.parametrize("value", ["1.2.840.10008.1.2", "study 1.2.3.4.5.6", b"bytes", {"a": 1}, ["x"]])
def test_a_uid_or_a_value_that_is_not_plain_is_hidden_and_raises_where_strict(lines, value):
    logging.getLogger("gateway.example").info("instance.stored", extra={"reason": value})
    assert lines()[0]["reason"] == "(hidden)"
    logs.configure("DEBUG", strict=True, stream=io.StringIO())
    with pytest.raises(logs.BadLogLine, match="reason"):
        logging.getLogger("gateway.example").info("instance.stored", extra={"reason": value})


def test_addresses_and_versions_are_not_taken_for_uids(strict_lines):
    logging.getLogger("gateway.example").info("a.b", extra={"address": "192.168.100.200", "version": "1.20.3"})
    assert strict_lines()[0]["address"] == "192.168.100.200"


@pytest.mark.parametrize("vector", ["a\r\nb", "a\x00b", "a\u2028b", "a\x1b[31mb", '"}\n{"event":"forged.line'])
def test_control_characters_cannot_forge_a_line(lines, vector):
    logging.getLogger("gateway.example").info("dimse.rejected", extra={"peer_ae": vector})
    assert len(lines()) == 1
    assert lines()[0]["peer_ae"] == vector


def test_long_values_are_cut(lines):
    logging.getLogger("gateway.example").info("dimse.rejected", extra={"reason": "x" * 10_000})
    assert len(lines()[0]["reason"]) == 200


@pytest.mark.parametrize("name", ["pynetdicom.acse", "pydicom", "uvicorn.error", "asyncio", "boto3", "py.warnings"])
def test_libraries_lose_their_text_and_keep_name_level_and_class(lines, name):
    logger = logging.getLogger(name)
    try:
        raise ValueError(CANARY)
    except ValueError:
        logger.critical("failed for %s", CANARY, exc_info=True, extra={"bytes": 3, "patient": CANARY})
    logger.info("chatter about %s", CANARY)
    (line,) = lines()
    assert (line["logger"], line["level"], line["event"], line["error"]) == (
        name, "CRITICAL", "library.message", "ValueError",
    )  # fmt: skip
    assert CANARY not in json.dumps(line)


def test_an_exception_is_told_by_classes_and_places_only(lines):
    def born():
        raise OSError(5, CANARY)

    def wrapping():
        try:
            born()
        except OSError as error:
            raise StorageUnavailable("The spool cannot be written") from error

    try:
        wrapping()
    except StorageUnavailable:
        logging.getLogger("gateway.example").exception("http.failed")
    (line,) = lines()
    assert (line["error"], line["caused_by"]) == ("StorageUnavailable", ["OSError"])
    assert [place.split(" ")[1] for place in line["where"]] == [
        "test_an_exception_is_told_by_classes_and_places_only", "wrapping", "born",
    ]  # fmt: skip
    assert CANARY not in json.dumps(line)


def test_the_request_id_of_the_context_is_in_every_line(lines):
    token = logs.request_id.set("0123456789abcdef")
    logging.getLogger("gateway.example").info("a.b")
    logs.request_id.reset(token)
    logging.getLogger("gateway.example").info("a.b")
    with_id, without = lines()
    assert with_id["request_id"] == "0123456789abcdef"
    assert "request_id" not in without


def test_request_ids_differ():
    assert len({logs.new_request_id() for _ in range(100)}) == 100


@pytest.mark.parametrize("where", ["main", "thread", "unraisable"])
def test_an_uncaught_exception_of_a_guarded_process_is_one_line_without_its_text(where):
    script = f"""
import threading, warnings, sys
from gateway import logs
logs.configure(); logs.guard_process()
warnings.warn("{CANARY}")
def fail(): raise ValueError("{CANARY}")
class Bad:
    def __del__(self): fail()
if {where!r} == "thread":
    one = threading.Thread(target=fail); one.start(); one.join()
elif {where!r} == "unraisable":
    Bad()
else:
    fail()
"""
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False, timeout=30)
    (line,) = [json.loads(text) for text in run.stderr.splitlines()]
    assert (line["event"], line["error"]) == ("process.error", "ValueError")
    assert CANARY not in run.stderr + run.stdout


def test_every_field_has_a_meaning_and_clashes_with_nothing():
    assert all(logs.FIELDS.values())
    assert not logs.FIELDS.keys() & vars(logging.makeLogRecord({})).keys()
