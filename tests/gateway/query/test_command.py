"""``dicomweb-gateway query`` as a process: forms of output, exit codes, terminals, tokens and Ctrl-C."""

import contextlib
import csv
import fcntl
import io
import json
import os
import pty
import signal
import struct
import subprocess
import sys
import termios
import threading
import time
from functools import partial

import pytest
from pydicom.dataset import Dataset
from pynetdicom import AE, evt
from pynetdicom.sop_class import StudyRootQueryRetrieveInformationModelFind

from gateway.query.text import columns
from tests.fix_dimse import settle
from tests.fix_servers import command_environment, run_command
from tests.gateway.query.stored import send_studies
from tests.gateway.query.stub import Stub, paged, reply


@pytest.fixture(scope="module")
def filled(shared_gateway):
    send_studies("127.0.0.1", shared_gateway.dimse_port, shared_gateway.ae_title)
    return shared_gateway


@pytest.fixture
def stub():
    with contextlib.ExitStack() as stack:
        yield lambda answer: stack.enter_context(
            contextlib.closing(Stub(answer if callable(answer) else lambda *_: answer))
        )


def query(*words, **environment):
    return run_command("query", *words, environment=environment)


def doors(filled):
    return filled.dicomweb, f"{filled.ae_title}@127.0.0.1:{filled.dimse_port}"


def on_terminal(*words, width=80):
    """What a terminal of that width gets, and standard error, of a query that runs on one."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 25, width, 0, 0))
    environment = {name: value for name, value in command_environment().items() if name not in ("COLUMNS", "LINES")}
    process = subprocess.Popen(
        [sys.executable, "-m", "gateway", "query", *words], stdout=theirs, stderr=subprocess.PIPE, env=environment
    )
    os.close(theirs)
    shown = b""
    with contextlib.suppress(OSError):  # EIO is the end of a terminal
        while piece := os.read(ours, 65536):
            shown += piece
    os.close(ours)
    _, said = process.communicate(timeout=30)
    return shown.decode().replace("\r\n", "\n"), said.decode(), process.returncode


# ---- forms


def test_both_doors_give_the_same_lines_with_tabs_in_a_pipe(filled):
    by_qido, by_find = (query(door, "PatientID=query-*") for door in doors(filled))
    assert by_qido.returncode == by_find.returncode == 0
    assert sorted(by_qido.stdout.splitlines()) == sorted(by_find.stdout.splitlines())
    rows = [line.split("\t") for line in by_qido.stdout.splitlines()]
    assert {len(row) for row in rows} == {8}
    assert ["query-1", "q水野^遥", "20240101", "OT", "", "1", "1", "2.25.7001"] in rows
    assert by_qido.stderr == by_find.stderr == ""


def test_json_and_csv_are_whole_and_utf_8_whatever_the_locale(filled):
    for door in doors(filled):
        found = query(door, "PatientID=query-1", "--json", PYTHONIOENCODING="utf-8", LC_ALL="C")
        (answer,) = json.loads(found.stdout)
        assert answer["00100010"]["Value"] == [{"Alphabetic": "q水野^遥"}]
        heading, row = csv.reader(io.StringIO(query(door, "PatientID=query-1", "--csv").stdout))
        assert dict(zip(heading, row, strict=True))["PatientName"] == "q水野^遥"


def test_a_locale_without_the_characters_ends_nothing(filled):
    found = query(filled.dicomweb, "PatientID=query-1", PYTHONIOENCODING="ascii")
    assert (found.returncode, found.stderr) == (0, "")
    assert "q??^?" in found.stdout


def test_keys_and_includes_get_columns_of_their_own(filled):
    found = query(
        filled.dicomweb, "PatientID=query-2", "StudyID=", "--include", "StudyTime,ReferringPhysicianName", "--csv"
    )
    heading, row = csv.reader(io.StringIO(found.stdout))
    assert heading[-3:] == ["StudyID", "StudyTime", "ReferringPhysicianName"]
    assert row[-3:] == ["2", "120000", ""]


def test_the_gateway_of_this_machine_is_asked_when_no_server_is_named(filled):
    found = query("PatientID=query-3", GATEWAY_HTTP__PORT=str(filled.http_port))
    assert found.stdout.startswith("query-3\tqMüller^Jörg\t")


def test_a_terminal_gets_a_table_that_fits_and_no_control_characters(filled):
    for door in doors(filled):
        for width in (40, 80, 150):
            shown, said, exit_code = on_terminal(door, "PatientID=query-*", width=width)
            heading, *lines = shown.splitlines()
            assert (exit_code, said, len(lines)) == (0, "", 5)
            assert heading.startswith("PatientID")
            assert all(columns(line) <= width for line in (heading, *lines))
            assert "\x1b" not in shown
            assert width < 150 or "2.25.7001" in shown


def test_a_terminal_gets_a_hundred_and_is_told_that_there_are_more(stub):
    started = stub(paged(150))
    shown, said, exit_code = on_terminal(started.server.name)
    assert len(shown.splitlines()) == 101
    assert "more than these 100: --limit 0 for all" in said
    assert exit_code == 0
    assert len(on_terminal(started.server.name, "--limit", "0")[0].splitlines()) == 151
    assert len(query(started.server.name).stdout.splitlines()) == 150


def test_a_limit_cuts_and_says_so_only_when_it_does(filled):
    for door in doors(filled):
        cut = query(door, "PatientID=query-*", "--limit", "2")
        assert (len(cut.stdout.splitlines()), cut.returncode) == (2, 0)
        assert "There are more than these 2" in cut.stderr
        whole = query(door, "PatientID=query-*", "--limit", "5")
        assert (len(whole.stdout.splitlines()), whole.stderr) == (5, "")


# ---- exit codes


@pytest.mark.parametrize("form", [(), ("--csv",), ("--json",)])
def test_nothing_found_is_exit_code_0_and_no_row(filled, form):
    for door in doors(filled):
        found = query(door, "PatientID=nobody", *form)
        assert (found.returncode, found.stderr) == (0, "")
        assert found.stdout in ("", "[]\n") or found.stdout.count("\n") == 1


@pytest.mark.parametrize(
    ("words", "exit_code", "phrase"),
    [
        (("PatientNam=x",), 2, "Did you mean PatientName?"),
        (("--level", "images"), 2, "'images' is not one of"),
        (("--limit", "-1"), 2, "--limit"),
        (("--include", "all"), 2, "use --json"),
        (("http://a/", "http://b/"), 2, "More than one server"),
        (("--level", "patients", "http://127.0.0.1:1/"), 2, "C-FIND"),
        (("--header", "x", "http://127.0.0.1:1/"), 2, "Name: value"),
        (("--header", "A: b\r\nC: d", "http://127.0.0.1:1/"), 2, "Name: value"),
        (("--header", "A: b", "A@127.0.0.1:1"), 2, "no headers"),
        (("--calling-ae", "SEVENTEEN-LETTERS", "A@127.0.0.1:1"), 2, "16 ASCII"),
        (("http://127.0.0.1:1/",), 5, "cannot be reached"),
        (("A@127.0.0.1:1",), 5, "cannot be reached"),
    ],
)
def test_what_cannot_be_done_has_its_exit_code_and_a_line(words, exit_code, phrase):
    done = query(*words)
    assert (done.returncode, done.stdout) == (exit_code, "")
    assert phrase in done.stderr
    assert "Traceback" not in done.stderr


def test_a_refusal_is_exit_code_4_and_a_failure_1(filled, stub):
    for door in (f"{filled.url}/nowhere", f"{filled.ae_title}@127.0.0.1:{filled.dimse_port}"):
        assert query(door, f"PatientID={'x' * 300}").returncode == 4
    failed = query(stub(reply(b"", b"HTTP/1.1 500 X\r\n")).server.name)
    assert (failed.returncode, failed.stdout) == (1, "")


# ---- tokens


def test_the_token_of_the_environment_is_sent_and_a_header_wins(stub):
    started = stub(reply([]))
    assert query(started.server.name, DICOMWEB_TOKEN="s3cret").returncode == 0
    assert started.requests[-1][1]["Authorization"] == "Bearer s3cret"
    query(started.server.name, "--header", "authorization: Basic eDp5", "--header", "X-A: b", DICOMWEB_TOKEN="s3cret")
    assert started.requests[-1][1]["Authorization"] == "Basic eDp5"
    assert started.requests[-1][1]["X-A"] == "b"
    query(started.server.name)
    assert "Authorization" not in started.requests[-1][1]


def test_the_token_does_not_leave_this_machine_unencrypted():
    done = query("http://192.0.2.1/dicomweb", "--timeout", "1", DICOMWEB_TOKEN="s3cret")
    assert done.returncode == 2
    assert "unencrypted" in done.stderr
    assert "s3cret" not in done.stderr


# ---- ends


def start(*words):
    return subprocess.Popen(
        [sys.executable, "-m", "gateway", "query", *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=command_environment(),
        preexec_fn=partial(signal.signal, signal.SIGINT, signal.SIG_DFL),  # noqa: PLW1509 - who runs us may ignore it
    )


def test_ctrl_c_ends_a_wait_for_http_at_once(stub):
    def silence():
        time.sleep(10)
        yield b""

    started = stub(lambda *_: silence())
    process = start(started.server.name)
    assert settle(lambda: bool(started.requests), 20)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=5)
    assert process.returncode == 130
    assert said == "dicomweb-gateway: Interrupted.\n"


def test_ctrl_c_cancels_a_find_at_the_server():
    cancelled, begun = threading.Event(), threading.Event()

    def answers(event):
        for number in range(600):
            if event.is_cancelled:
                cancelled.set()
                yield 0xFE00, None
                return
            begun.set()
            found = Dataset()
            found.StudyInstanceUID = f"1.2.{number}"
            yield 0xFF00, found
            time.sleep(0.05)

    ae = AE("SCP")
    ae.add_supported_context(StudyRootQueryRetrieveInformationModelFind)
    released = threading.Event()
    handlers = [(evt.EVT_C_FIND, answers), (evt.EVT_RELEASED, lambda _: released.set())]
    server = ae.start_server(("127.0.0.1", 0), block=False, evt_handlers=handlers)
    try:
        process = start(f"SCP@127.0.0.1:{server.socket.getsockname()[1]}")
        assert begun.wait(20)
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=10)
        assert process.returncode == 130
        assert said == "dicomweb-gateway: Interrupted.\n"
        assert cancelled.wait(5)
        assert released.wait(5)
    finally:
        server.shutdown()


def test_a_pipe_that_closes_early_ends_it_without_a_traceback(stub):
    started = stub(paged(20_000))
    process = start(started.server.name)
    assert process.stdout.readline()
    process.stdout.close()
    process.wait(20)
    assert "Traceback" not in process.stderr.read()
    process.stderr.close()
    assert len(started.requests) < 100


def test_answers_leave_as_they_come(stub):
    """The second page is asked for only after the first has been printed to whoever reads slowly."""
    started = stub(paged(100_000))
    process = start(started.server.name, "--json")
    try:
        assert process.stdout.readline() == "[\n"
        assert len(started.requests) < 400
    finally:
        process.kill()
        process.communicate()
