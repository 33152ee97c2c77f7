"""The gateway as a whole: ready line, probes, drain, crashes, one folder one gateway, and what each process loads."""

from __future__ import annotations

import ast
import contextlib
import gc
import inspect
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from dataclasses import fields
from pathlib import Path

import orjson
import pytest

from gateway import app
from gateway.dimse.limits import DimseLimits
from gateway.processes import listen
from gateway.settings import ArchiveSettings, DimseSettings, Settings
from storage.index.sqlite import connect, migrate
from tests.fix_index import data_set
from tests.fix_servers import command_environment, run_command
from tests.gateway.test_importer import part10


def get(url, accept="*/*"):
    request = urllib.request.Request(url, headers={"Accept": accept})
    with urllib.request.urlopen(request, timeout=30) as answer:
        return answer.status, answer.read()


def is_listening(port):
    with socket.socket() as one:
        return one.connect_ex(("127.0.0.1", port)) == 0


def is_alive(pid):
    try:
        return "zombie" not in Path(f"/proc/{pid}/status").read_text()
    except FileNotFoundError:
        return False


def wait_until(fact, seconds=20.0):
    deadline = time.monotonic() + seconds
    while not fact():
        assert time.monotonic() < deadline, "it did not come true in time"
        time.sleep(0.05)


def test_the_ready_line_names_places_that_answer(gateway, needs):
    assert get(gateway.places["start_page"])[0] == 200
    assert get(f"{gateway.url}/healthz")[0] == 200
    assert get(f"{gateway.url}/readyz")[0] == 200
    assert get(f"{gateway.dicomweb}/studies")[0] in (200, 204)
    assert b"gateway_build_info" in get(gateway.places["metrics"])[1]
    assert gateway.places["archive"] == str(gateway.data.resolve())
    needs("echoscu")
    echo = ["echoscu", "-aec", gateway.ae_title, "127.0.0.1", str(gateway.dimse_port)]
    assert subprocess.run(echo, check=False, timeout=30).returncode == 0


def test_settings_reach_the_children(start_gateway):
    gateway = start_gateway("--ae-title", "OTHER", "--workers", "3", environment={"GATEWAY_LOGS__LEVEL": "WARNING"})
    assert gateway.places["dimse"].startswith("OTHER@127.0.0.1:")
    get(f"{gateway.url}/healthz")
    assert gateway.lines() == []
    children = subprocess.run(
        ["ps", "--ppid", str(gateway.process.pid), "-o", "args="], capture_output=True, text=True, check=True
    ).stdout
    assert children.count(" gateway.app http ") == 3
    assert children.count(" gateway.app dimse ") == 1


def test_what_is_imported_while_it_runs_is_found_at_once(gateway, tmp_path):
    (tmp_path / "one.dcm").write_bytes(part10(77))
    done = run_command("import", "--data", gateway.data, tmp_path / "one.dcm")
    assert done.returncode == 0, done.stderr
    assert b"2.25.77" in get(f"{gateway.dicomweb}/instances?SOPInstanceUID=2.25.77")[1]


def test_a_dimse_process_of_which_a_thread_has_ended_closes_its_door_and_says_so(tmp_path, monkeypatch):
    """So that it is started again, rather than serve on without what that thread did."""
    monkeypatch.setattr("gateway.collecting.keep_collected", lambda *_: None)
    values = Settings(archive=ArchiveSettings(data=tmp_path))
    (listener,) = listen("127.0.0.1", 0)
    port = listener.getsockname()[1]
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        with pytest.raises(RuntimeError, match="stopped by itself"):
            app.run_dimse(values, listener, lambda: None)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    assert not is_listening(port)
    assert not [thread for thread in threading.enumerate() if thread.name == "dimse"]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_drains_and_ends_with_0(gateway, number):
    pids = gateway.pids().values()
    assert gateway.stop(number) == 0
    assert not is_listening(gateway.http_port)
    assert not is_listening(gateway.dimse_port)
    assert not [pid for pid in pids if is_alive(pid)]
    assert [line["event"] for line in gateway.lines()][-1] == "gateway.stopped"


def test_a_request_that_runs_is_answered_while_the_gateway_drains(gateway, tmp_path):
    body = b"--b\r\nContent-Type: application/dicom\r\n\r\n" + part10(78) + b"\r\n--b--\r\n"
    head = (
        f"POST /dicomweb/studies HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: {len(body)}\r\n"
        'Content-Type: multipart/related; type="application/dicom"; boundary=b\r\nConnection: close\r\n\r\n'
    )
    with socket.create_connection(("127.0.0.1", gateway.http_port), timeout=20) as one:
        one.sendall(head.encode() + body[:100])
        wait_until(lambda: is_reading(gateway))
        gateway.process.send_signal(signal.SIGTERM)
        wait_until(lambda: not is_listening(gateway.http_port))
        one.sendall(body[100:])
        said = b""
        while chunk := one.recv(65536):
            said += chunk
    assert said.startswith(b"HTTP/1.1 200 ")
    assert gateway.stop() == 0


def is_reading(gateway):
    """Whether the server has taken what was sent so far."""
    time.sleep(0.2)
    return is_alive(gateway.pids("http")["http-1"])


@pytest.mark.parametrize("child", ["dimse", "http-1"])
def test_a_process_that_is_killed_is_started_again(gateway, child):
    before = gateway.pids()[child]
    os.kill(before, signal.SIGKILL)
    wait_until(lambda: gateway.pids()[child] != before)
    wait_until(lambda: answers(gateway))
    (ended,) = [line for line in gateway.lines() if line["event"] == "process.ended"]
    assert (ended["child"], ended["pid"], ended["exit_code"]) == (child, before, -9)


def answers(gateway):
    try:
        return get(f"{gateway.url}/readyz")[0] == 200 and is_listening(gateway.dimse_port)
    except (urllib.error.URLError, OSError):
        return False


def test_a_gateway_that_is_killed_leaves_no_process_and_starts_again_at_once(start_gateway):
    first = start_gateway("--workers", "1")
    pids = first.pids().values()
    first.process.kill()
    first.process.wait()
    second = start_gateway("--workers", "1", data=first.data)
    assert not [pid for pid in pids if is_alive(pid)]
    assert get(f"{second.url}/readyz")[0] == 200


def test_a_second_gateway_on_the_same_folder_is_refused_with_3(gateway):
    second = run_command("serve", "--data", gateway.data, "--http-port", "0", "--dimse-port", "0")
    assert second.returncode == 3
    assert "Another gateway is running on the data folder" in second.stderr.splitlines()[-1]
    assert second.stdout == ""
    assert get(f"{gateway.url}/readyz")[0] == 200


@pytest.mark.parametrize("flag", ["--http-port", "--dimse-port"])
def test_a_port_that_is_taken_is_told_with_1(tmp_path, flag):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        ports = {"--http-port": "0", "--dimse-port": "0", flag: str(taken.getsockname()[1])}
        run = run_command("serve", "--data", tmp_path / "data", *[text for pair in ports.items() for text in pair])
    assert run.returncode == 1
    assert f"Cannot listen on 127.0.0.1:{taken_port(ports, flag)}: Address already in use" in run.stderr


def taken_port(ports, flag):
    return ports[flag]


def test_an_index_that_cannot_be_read_is_told_in_one_line_with_1(tmp_path):
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / app.INDEX_FILE).write_bytes(b"no database at all" * 1000)
    run = run_command("serve", "--data", tmp_path / "data", "--http-port", "0", "--dimse-port", "0")
    assert run.returncode == 1
    assert run.stderr.splitlines()[-1] == "dicomweb-gateway: The index cannot be reached"
    assert "Traceback" not in run.stderr


def test_an_archive_of_an_earlier_release_is_brought_up_to_date_before_anybody_is_served(start_gateway, tmp_path):
    (tmp_path / "data").mkdir(mode=0o700)
    attributes = orjson.dumps(data_set(PatientName="Müller^Jürgen", PatientID="P10")).decode()
    with contextlib.closing(connect(tmp_path / "data" / app.INDEX_FILE)) as connection:
        migrate(connection, to=1)
        connection.execute("BEGIN")
        for number in range(20_000):
            connection.execute(
                "INSERT INTO study (study_instance_uid, study_order, patient_name, patient_id, attributes) "
                "VALUES (?, '0', 'müller^jürgen', 'P10', ?)",
                (f"1.2.{number}", attributes),
            )
        connection.execute("COMMIT")
    gateway = start_gateway("--workers", "2")
    status, body = get(f"{gateway.dicomweb}/studies?PatientName=jurgen&fuzzymatching=true&limit=1000")
    assert status == 200
    assert len(orjson.loads(body)) == 1000


def test_what_a_store_left_behind_is_swept_before_the_start(start_gateway, tmp_path):
    run_command("import", "--data", tmp_path / "data", make_file(tmp_path))
    (spool,) = [path for path in (tmp_path / "data" / "objects").iterdir() if path.is_dir() and is_spool(path)]
    left = spool / "left.incoming"
    left.write_bytes(b"half an instance")
    gateway = start_gateway("--workers", "1")
    assert not left.exists()
    (starting,) = [line for line in gateway.lines() if line["event"] == "gateway.starting"]
    assert starting["count"] == 1


def is_spool(path):
    from storage.objects import open_object_store

    return path == open_object_store(path.parent).spool_directory


def make_file(tmp_path):
    (tmp_path / "swept.dcm").write_bytes(part10(79))
    return tmp_path / "swept.dcm"


def test_metrics_are_those_of_all_processes(gateway, needs):
    needs("echoscu")
    for _ in range(3):
        echo = ["echoscu", "-aec", gateway.ae_title, "127.0.0.1", str(gateway.dimse_port)]
        assert subprocess.run(echo, check=False, timeout=30).returncode == 0
    text = get(gateway.places["metrics"])[1].decode()
    (line,) = [one for one in text.splitlines() if one.startswith('gateway_dimse_requests_total{command="C-ECHO"')]
    assert float(line.split()[-1]) == 3


def test_every_process_tells_what_it_takes_and_how_late_its_loop_is(gateway):
    def figures():
        lines = get(gateway.places["metrics"])[1].decode().splitlines()
        return [line for line in lines if line.startswith(("gateway_process_", "gateway_http_loop_lag_seconds_count"))]

    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        found = figures()
        resident = [line for line in found if line.startswith("gateway_process_resident_bytes{")]
        if len(resident) == len(gateway.pids("http")) + 1:
            break
        time.sleep(0.1)
    assert sum('process="dimse"' in line for line in resident) == 1
    assert all(10e6 < float(line.split()[-1]) < 1e9 for line in resident)
    assert any(line.startswith("gateway_process_cpu_seconds{") and 'process="http"' in line for line in found)
    (late,) = [line for line in found if line.startswith("gateway_http_loop_lag_seconds_count")]
    assert float(late.split()[-1]) > 0


def test_beyond_loopback_the_log_says_that_anybody_may_come_in(start_gateway):
    gateway = start_gateway("--workers", "1", "--host", "0.0.0.0", "--insecure-no-auth")
    assert "gateway.insecure" in [line["event"] for line in gateway.lines()]


def loaded_by(*functions):
    """Modules that are loaded after ``gateway.app`` and what these functions import."""
    lines = [
        ast.unparse(node)
        for function in functions
        for node in ast.walk(ast.parse(inspect.getsource(getattr(function, "__wrapped__", function))))
        if isinstance(node, ast.Import | ast.ImportFrom)
    ]
    assert lines
    script = "\n".join(["import sys, gateway.app", *lines, "print(*sys.modules)"])
    run = subprocess.run(
        [sys.executable, "-c", script],
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
        env=command_environment(),
    )
    return set(run.stdout.split())


DECODERS = {"gateway.pixels.decode", "gateway.pixels.render", "gateway.pixels.worker"}


def test_the_dimse_process_loads_no_web_framework_and_no_decoder():
    loaded = loaded_by(app.run_dimse, app.open_sessions, app.open_archive)
    assert "gateway.dimse.server" in loaded
    others = {"pydicom", "numpy", "PIL", "starlette", "uvicorn", "pynetdicom", "boto3"}
    assert not loaded & {*others, "gateway.dicomweb", "gateway.http", *DECODERS}


def test_an_http_worker_loads_no_dimse_and_no_decoder():
    loaded = loaded_by(app.run_http, app.open_sessions, app.open_archive)
    assert {"gateway.asgi", "uvicorn"} <= loaded
    assert not loaded & {"pydicom", "numpy", "PIL", "pynetdicom", "gateway.dimse", "boto3", *DECODERS}


def test_every_limit_of_the_dimse_room_is_a_setting_with_the_same_default():
    named = {row.name: row.default for row in fields(DimseSettings)}
    limits = {row.name: row.default for row in fields(DimseLimits) if row.name != "instance_maximum_bytes"}
    assert {name: named.get(name) for name in limits} == limits


def test_a_process_that_is_ready_searches_for_cycles_rarely():
    kept = gc.get_threshold()
    try:
        app.collect_rarely()
        assert gc.get_freeze_count() > 10_000
        assert gc.get_threshold()[0] >= 10_000
        assert gc.isenabled()
    finally:
        gc.unfreeze()
        gc.set_threshold(*kept)
