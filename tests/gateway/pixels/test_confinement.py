from __future__ import annotations

import contextlib
import platform
import re
import resource
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import orjson
import pytest

from benchmarks.bombs import SYNTAXES, sound
from gateway import metrics
from gateway.pixels import confinement
from gateway.pixels.options import PNG, Annotation, RenderOptions
from gateway.pixels.pool import RenderPool
from gateway.pixels.protocol import OK, receive_answer, request_of, send_request
from gateway.pixels.render import render
from tests.gateway.pixels.synthetic import NATIVE, json_of, metadata_of

ROOT = Path(__file__).resolve().parents[3]
ENVIRONMENT = {"PYTHONPATH": str(ROOT), "OPENBLAS_NUM_THREADS": "1", "SECRET": "hunter2"}
confinable = pytest.mark.skipif(
    sys.platform != "linux" or platform.machine() not in ("x86_64", "aarch64"), reason="the kernel here confines nobody"
)

# What a decoder that has been taken over would try. In a real worker, each instead of drawing a frame.
DEEDS = {
    "open a socket": "socket.socket()",
    "make a pair of sockets": "socket.socketpair()",
    "execute a program": "os.execv('/bin/true', ['true'])",
    "run a program": "subprocess.run(['/bin/true'], check=True)",
    "spawn a program": "os.posix_spawn('/bin/true', ['true'], {})",
    "fork": "os.fork() or os._exit(0)",
    "write a file": "open(WRITTEN, 'w')",
    "add to a file": "open(READ, 'a')",
    "truncate a file": "os.truncate(READ, 0)",
    "remove a file": "os.unlink(READ)",
    "rename a file": "os.rename(READ, WRITTEN)",
    "make a folder": "os.mkdir(WRITTEN)",
    "make a link": "os.symlink(READ, WRITTEN)",
    "change a mode": "os.chmod(READ, 0o777)",
    "make a file in memory": "os.memfd_create('x')",
    "read a file": "open(READ).read()",
    "list a folder": "os.listdir('/')",
    "read the environment of the gateway": "open(f'/proc/{PARENT}/environ').read()",
    "look into the memory of the gateway": "open(f'/proc/{PARENT}/mem', 'rb').read(1)",
    "signal the gateway": "os.kill(PARENT, 0)",
    "trace the gateway": "call('ptrace', 16, PARENT, 0, 0)",
    "raise its own limits": "resource.setrlimit(resource.RLIMIT_NOFILE, (9, 9))",
    "raise its own rank": "os.setpriority(os.PRIO_PROCESS, 0, 0)",
    "set up a ring": "ring()",
}
TAKEN_OVER = """
import ctypes, json, os, resource, socket, subprocess, sys
from gateway.pixels import worker

READ, WRITTEN, PARENT = sys.argv[1], sys.argv[2], os.getppid()
library = ctypes.CDLL(None, use_errno=True)

def call(name, *arguments):
    if getattr(library, name)(*arguments) == -1:
        raise OSError(ctypes.get_errno(), name)

def ring():
    if library.syscall(425, 1, ctypes.create_string_buffer(256)) == -1:
        raise OSError(ctypes.get_errno(), "io_uring_setup")

def outcome(deed):
    try:
        eval(deed)
    except (OSError, ValueError):  # of setrlimit
        return "refused"
    return "done"

worker.render = lambda *_: json.dumps({name: outcome(deed) for name, deed in DEEDS.items()}).encode()
worker.main(10, 1 << 30)
"""


@contextlib.contextmanager
def worker_that_runs(program, *words):
    """A process that runs a program around ``worker.main``, and the socket to it."""
    ours, theirs = socket.socketpair()
    command = [sys.executable, "-s", "-P", "-c", program, *map(str, words)]
    with ours, subprocess.Popen(command, stdin=theirs.fileno(), env=ENVIRONMENT, cwd=ROOT) as process:
        theirs.close()
        yield ours, process
        ours.close()


def held_by(connection):
    return frozenset(receive_answer(connection, time.monotonic() + 60)[1].decode().split(","))


@confinable
def test_a_worker_reaches_no_network_no_program_no_file_and_nobody_else(tmp_path):
    secret = tmp_path / "secret"
    secret.write_text("of a patient", encoding="utf-8")
    program = f"DEEDS = {DEEDS!r}\n{TAKEN_OVER}"
    with worker_that_runs(program, secret, tmp_path / "written") as (connection, _):
        held = held_by(connection)
        send_request(connection, request_of(b"{}", NATIVE, 1, b"", RenderOptions(PNG)), time.monotonic() + 10)
        status, answer = receive_answer(connection, time.monotonic() + 30)
    assert status == OK
    outcomes = orjson.loads(answer)
    needs_landlock = set() if "files" in held else {"read a file", "list a folder"}
    assert {name for name, outcome in outcomes.items() if outcome == "done"} <= needs_landlock
    assert outcomes.keys() == DEEDS.keys()
    assert secret.read_text(encoding="utf-8") == "of a patient"
    assert list(tmp_path.iterdir()) == [secret]


@confinable
def test_the_same_deeds_succeed_where_nothing_confines(tmp_path):
    """Else the test above would show nothing."""
    secret = tmp_path / "secret"
    secret.write_text("of a patient", encoding="utf-8")
    quiet = {name: deed for name, deed in DEEDS.items() if name.split()[0] in ("open", "run", "write", "read", "list")}
    program = f"DEEDS = {quiet!r}\n{TAKEN_OVER}".replace(
        "worker.main", "worker.confine = lambda: frozenset({'limits'})\nworker.main"
    )
    with worker_that_runs(program, secret, tmp_path / "written") as (connection, _):
        assert held_by(connection) == {"limits"}
        send_request(connection, request_of(b"{}", NATIVE, 1, b"", RenderOptions(PNG)), time.monotonic() + 10)
        outcomes = orjson.loads(receive_answer(connection, time.monotonic() + 30)[1])
    assert set(outcomes.values()) == {"done"}


@confinable
def test_a_worker_still_decodes_every_encoding():
    confinement_found = "full" if has_landlock() else "partial"
    before = metrics.RENDER_STARTS.labels(confinement_found)._value.get()
    with RenderPool(1, seconds=20) as pool:
        for one in sound():
            metadata, syntax = orjson.dumps(json_of(one)), SYNTAXES[one.syntax]
            assert pool.render(metadata, syntax, 1, one.frame, RenderOptions(PNG)).startswith(b"\x89PNG"), one.name
        assert pool.restarts == 0
    assert metrics.RENDER_STARTS.labels(confinement_found)._value.get() == before + 1


@confinable
def test_a_library_that_aborts_ends_the_worker():
    program = (
        "import os\nfrom gateway.pixels import worker\nworker.render = lambda *_: os.abort()\nworker.main(9, 1 << 30)"
    )
    with worker_that_runs(program) as (connection, process):
        held_by(connection)
        send_request(connection, request_of(b"{}", NATIVE, 1, b"", RenderOptions(PNG)), time.monotonic() + 10)
        assert receive_answer(connection, time.monotonic() + 30) is None
        assert process.wait(10) == -signal.SIGABRT


def has_landlock():
    run = subprocess.run(
        [sys.executable, "-c", "import ctypes; print(ctypes.CDLL(None).syscall(444, None, ctypes.c_size_t(0), 1))"],
        capture_output=True,
        text=True,
        check=True,
    )
    return int(run.stdout) > 0


def test_limits_hold_wherever_it_runs():
    program = (
        "import resource\n"
        "from gateway.pixels.confinement import confine\n"
        "print(*sorted(confine()))\n"
        "names = 'RLIMIT_FSIZE', 'RLIMIT_NOFILE', 'RLIMIT_NPROC'\n"
        "print(*[limit for name in names for limit in resource.getrlimit(getattr(resource, name))])\n"
    )
    run = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, env=ENVIRONMENT, cwd=ROOT
    )
    held, limits = run.stdout.splitlines()
    assert "limits" in held
    assert limits == "0 0 64 64 0 0"


def test_where_the_kernel_has_nothing_to_offer_the_limits_remain_and_it_is_said():
    program = (
        "from gateway.pixels import confinement\n"
        "confinement.platform.machine = lambda: 'riscv64'\n"
        "print(*confinement.confine())\n"
    )
    run = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, env=ENVIRONMENT, cwd=ROOT
    )
    assert run.stdout == "limits\n"


HEADERS = {0: "/usr/include/x86_64-linux-gnu/asm/unistd_64.h", 1: "/usr/include/asm-generic/unistd.h"}


@pytest.mark.parametrize("column", HEADERS)
def test_the_numbers_of_system_calls_are_those_of_the_kernel(column):
    header = Path(HEADERS[column])
    if not header.exists():
        pytest.skip("the headers of the kernel are not installed")
    found = re.findall(r"#define __NR(?:3264)?_(\w+)\s+(\d+)", header.read_text(encoding="ascii"))
    known = {name: int(number) for name, number in found}
    for table in (confinement._REFUSED, confinement._CONDITIONAL):
        for name, number in confinement.numbers(table, column).items():
            assert known[name] == number, name
    assert known["seccomp"] == confinement._SECCOMP[column]
    assert resource.RLIMIT_CPU == 0


def test_names_are_written_as_they_would_be_without_confinement():
    """The font of many scripts is a file, which a decoder may still read."""
    patient = {"Value": ["Kowalski, Łukasz Żółć"]}
    metadata = metadata_of(np.zeros((256, 256), "u1")) | {"patient": patient}
    options = RenderOptions(PNG, annotation=(Annotation.PATIENT,))
    frame = bytes(256 * 256)
    with RenderPool(1) as pool:
        confined = pool.render(orjson.dumps(metadata), NATIVE, 1, frame, options)
    assert confined == render(metadata, NATIVE, 1, frame, options)
