"""Real gateways: ``serve`` in processes of its own on free ports of loopback, over a folder of the test."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

import pytest

READY_SECONDS = 60.0
ANY_DISK = {"GATEWAY_INGEST__QUARANTINE_LEAST_FREE_BYTES": "0", "GATEWAY_INGEST__QUARANTINE_LEAST_FREE_PERCENT": "0"}
"""Keeps what is refused however full the disk of this machine is."""
STOP_SECONDS = 40.0
ROOT = Path(__file__).resolve().parent.parent


def command_environment(extra=None):
    """The environment of a gateway under test: no settings of the machine, log lines strict."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith("GATEWAY_")}
    return {**clean, "GATEWAY_LOGS__STRICT": "true", "PYTHONPATH": str(ROOT), **(extra or {})}


def run_command(*arguments, environment=None, seconds=90.0):
    """One run of the command line to its end."""
    return subprocess.run(
        [sys.executable, "-m", "gateway", *map(str, arguments)],
        capture_output=True,
        text=True,
        check=False,
        timeout=seconds,
        env=command_environment(environment),
    )


@dataclass
class Gateway:
    """A gateway that is ready."""

    process: subprocess.Popen
    data: Path
    log: Path
    places: dict = field(default_factory=dict)

    @property
    def url(self):
        return self.places["start_page"].rstrip("/")

    @property
    def dicomweb(self):
        return self.places["dicomweb"]

    @property
    def ae_title(self):
        return self.places["dimse"].split("@")[0]

    @property
    def dimse_port(self):
        return int(self.places["dimse"].rsplit(":", 1)[1])

    @property
    def http_port(self):
        return int(self.url.rsplit(":", 1)[1])

    def lines(self):
        """What is in the log so far, up to the last line that is whole; one that is not JSON fails the test."""
        whole, _, _ = self.log.read_bytes().rpartition(b"\n")
        return [json.loads(line) for line in whole.splitlines()]

    def pids(self, prefix=""):
        """The newest process of each child whose name starts with ``prefix``."""
        started = [line for line in self.lines() if line["event"] == "process.started"]
        return {line["child"]: line["pid"] for line in started if line["child"].startswith(prefix)}

    def stop(self, number=signal.SIGTERM):
        """Send a signal and wait; returns the exit code."""
        if self.process.poll() is None:
            self.process.send_signal(number)
        return self.process.wait(STOP_SECONDS)


@contextlib.contextmanager
def running_gateway(data, *flags, environment=None):
    """A gateway over ``data``; stopped at the end, when it must end with 0 and without an error of its own."""
    data.mkdir(parents=True, exist_ok=True)
    log = data.parent / f"{data.name}-{time.monotonic_ns()}.log"
    arguments = ["serve", "--json", "--data", str(data), "--http-port", "0", "--dimse-port", "0", *map(str, flags)]
    with log.open("wb") as stderr:
        process = subprocess.Popen(
            [sys.executable, "-m", "gateway", *arguments],
            stdout=subprocess.PIPE,
            stderr=stderr,
            env=command_environment(environment),
        )
    gateway = Gateway(process, data, log)
    try:
        line = process.stdout.readline()
        assert line, f"the gateway did not start: {log.read_text(encoding='utf-8')[-3000:]}"
        gateway.places = json.loads(line)
        yield gateway
        was_stopped = process.poll() is not None
        exit_code = gateway.stop()
        assert was_stopped or exit_code == 0, gateway.lines()[-5:]
        assert "process.error" not in gateway.log.read_text(encoding="utf-8"), gateway.lines()[-5:]
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()
        process.stdout.close()


@pytest.fixture
def start_gateway(tmp_path):
    """``start_gateway(*flags, environment=…)``: gateways over ``tmp_path/"data"``, stopped after the test."""
    with contextlib.ExitStack() as stack:
        yield lambda *flags, environment=None, data=None: stack.enter_context(
            running_gateway(data or tmp_path / "data", *flags, environment=environment)
        )


@pytest.fixture
def gateway(start_gateway):
    """One gateway with an empty archive, for this test alone."""
    return start_gateway("--workers", "1")


@pytest.fixture(scope="session")
def shared_gateway(tmp_path_factory):
    """One gateway for many tests, which must not mind one another's instances."""
    with running_gateway(tmp_path_factory.mktemp("shared") / "data") as running:
        yield running
