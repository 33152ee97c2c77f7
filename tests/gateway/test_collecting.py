"""Collecting in the background and in the foreground."""

from __future__ import annotations

import re
import threading

import httpx

from gateway import collecting, metrics
from gateway.collecting import collected, keep_collected
from storage.model import Collected, Scope
from tests.fix_archive import keep
from tests.fix_dimse import settle
from tests.fix_servers import run_command
from tests.synthetic import image, part10


def run_until(condition, step, sweep=lambda: 0):
    stopping = threading.Event()
    thread = threading.Thread(target=keep_collected, args=(step, sweep, stopping))
    thread.start()
    try:
        assert settle(condition, 20)
    finally:
        stopping.set()
        thread.join(10)
        assert not thread.is_alive()


def test_in_the_background_what_is_due_is_removed_and_counted(archive, tmp_path):
    for number in range(250):
        keep(archive, image(sop_instance=f"1.2.9.{number}"))
    archive.delete(Scope("1.2.3"))
    objects = tmp_path / "archive" / "objects"
    size_bytes = sum(path.stat().st_size for path in objects.glob("v1/**/*.dcm"))
    before = metrics.COLLECTED_OBJECTS._value.get(), metrics.COLLECTED_BYTES._value.get()
    run_until(lambda: metrics.COLLECTED_OBJECTS._value.get() == before[0] + 250, lambda: archive.collect(0))
    assert metrics.COLLECTED_BYTES._value.get() == before[1] + size_bytes
    assert list(objects.glob("v1/**/*.dcm")) == []


def test_after_a_failure_it_goes_on(monkeypatch):
    monkeypatch.setattr(collecting, "_AFTER_FAILURE_SECONDS", 0.01)
    monkeypatch.setattr(collecting, "_SWEEP_SECONDS", 0.0)
    calls = []

    def step():
        calls.append("step")
        if len(calls) == 1:
            raise RuntimeError("planted")
        return Collected()

    swept = []
    run_until(lambda: swept, step, lambda: swept.append(1) or 1)
    assert len(calls) == 2


def test_in_the_foreground_it_ends_when_nothing_is_due(archive):
    keep(archive, image())
    archive.delete(Scope("1.2.3"))
    assert sum(done.objects for done in collected(lambda: archive.collect(1))) == 0
    assert sum(done.objects for done in collected(lambda: archive.collect(0))) == 1


def test_two_gateways_over_one_index_collect_what_was_deleted_and_say_so(start_gateway, tmp_path, engine):
    data = tmp_path / "data"
    environment = engine.environment(data)
    files = tmp_path / "files"
    files.mkdir()
    for number in range(20):
        (files / f"{number}.dcm").write_bytes(part10(image(sop_instance=f"1.2.9.{number}")))
    assert run_command("import", files, "--data", data, environment=environment).returncode == 0
    assert run_command("delete", "1.2.3", "--yes", "--data", data, environment=environment).returncode == 0
    objects = data / "objects" / "v1"
    kept = start_gateway("--workers", "1", data=data, environment=environment)
    assert len(list(objects.rglob("*.dcm"))) == 20
    assert kept.stop() == 0
    soon = {**environment, "GATEWAY_ARCHIVE__DELETE_GRACE_DAYS": "0"}
    gateway = start_gateway("--workers", "1", data=data, environment=soon)
    both = run_command("collect", "--data", data, environment=soon)
    assert both.returncode == 0
    assert settle(lambda: not list(objects.rglob("*.dcm")), 20)
    exposed = httpx.get(f"{gateway.url}/metrics").text
    collected_here = float(re.search(r"^gateway_collected_objects_total (\S+)$", exposed, re.MULTILINE)[1])
    collected_there = int(both.stdout.split()[0])
    assert 20 <= collected_here + collected_there <= 40
