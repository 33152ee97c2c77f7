"""Processes: the folder's lock, ports, and children that are watched, restarted and drained. Real ones."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest

from gateway.processes import NETWORK_FILE_SYSTEMS, CannotStart, file_system, listen, lock_folder
from tests.fix_servers import ROOT, command_environment

CHILD = """
import os, signal, socket, sys, time
sys.path.insert(0, {root!r})
from gateway.processes import Lifeline
line_fd, listener_fd = int(sys.argv[1]), int(sys.argv[2])
line = Lifeline(line_fd)
greeting = line.greeting().strip()
line.watch()
open("{folder}/" + str(os.getpid()), "w").close()
behaviour = {behaviour!r}
if behaviour == "refuses":
    line.failed("there is no archive"); sys.exit(1)
if behaviour == "crashes":
    sys.exit(9)
if behaviour == "never drains":
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
listener = socket.socket(fileno=listener_fd)
line.ready()
while True:
    one, _ = listener.accept()
    word = one.recv(100)
    if word == b"crash":
        os._exit(7)
    if word == b"work":
        signal.signal(signal.SIGTERM, lambda *_: (one.sendall(b"done"), one.close(), sys.exit(0)))
        one.sendall(b"working")
        time.sleep(60)
    one.sendall(str(os.getpid()).encode() + b" " + greeting.encode())
    one.close()
"""

PARENT = """
import json, sys
sys.path.insert(0, {root!r})
from gateway import logs
from gateway.processes import CannotStart, Child, Supervisor, listen, lock_folder
logs.configure("INFO", strict=True)
lock = lock_folder(__import__("pathlib").Path({folder!r}), seconds=5)
(listener,) = listen("127.0.0.1", 0)
port = listener.getsockname()[1]
child = Child("child", ("-c", open({folder!r} + "/child.py").read()), listener, {drain})
ended = []
environment = dict(__import__("os").environ)
supervisor = Supervisor([child], greeting="hello", environment=environment, keep=[lock],
                        ended=ended.append)
try:
    supervisor.run(lambda: print(port, flush=True))
except CannotStart as error:
    print(error, flush=True)
    sys.exit(error.exit_code)
print(json.dumps(ended), flush=True)
"""


class Family:
    """A parent with one child of a certain behaviour."""

    def __init__(self, folder, behaviour, drain_seconds):
        self.folder = folder
        values = {"root": str(ROOT), "folder": str(folder)}
        (folder / "child.py").write_text(CHILD.format(behaviour=behaviour, **values))
        (folder / "parent.py").write_text(PARENT.format(drain=drain_seconds, **values))
        with (folder / "log").open("ab") as log:
            self.parent = subprocess.Popen(
                [sys.executable, str(folder / "parent.py")],
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                env=command_environment(),
            )
        self.first_line = self.parent.stdout.readline().strip()

    def ask(self, word=b"hello"):
        with socket.create_connection(("127.0.0.1", int(self.first_line)), timeout=10) as one:
            one.sendall(word)
            return one.recv(100).decode()

    def children(self):
        return [int(path.name) for path in self.folder.iterdir() if path.name.isdigit() and is_alive(int(path.name))]

    def events(self):
        return [json.loads(line) for line in (self.folder / "log").read_text().splitlines()]

    def end(self):
        self.parent.kill()
        self.parent.wait()
        self.parent.stdout.close()


def is_alive(pid):
    try:
        return "zombie" not in Path(f"/proc/{pid}/status").read_text()
    except FileNotFoundError:
        return False


def wait_until(fact, seconds=10.0):
    deadline = time.monotonic() + seconds
    while not fact():
        assert time.monotonic() < deadline, "it did not come true in time"
        time.sleep(0.02)


@pytest.fixture
def family(tmp_path):
    with contextlib.ExitStack() as stack:

        def start(behaviour="serves", drain_seconds=5.0):
            one = Family(tmp_path, behaviour, drain_seconds)
            stack.callback(one.end)
            return one

        yield start


def test_a_child_serves_with_the_parents_greeting_and_ends_on_sigterm(family):
    one = family()
    pid, greeting = one.ask().split()
    assert greeting == "hello"
    one.parent.send_signal(signal.SIGTERM)
    assert one.parent.wait(10) == 0
    assert json.loads(one.parent.stdout.read()) == [int(pid)]
    assert one.children() == []


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_work_that_runs_is_finished_before_the_end(family, number):
    one = family()
    with socket.create_connection(("127.0.0.1", int(one.first_line)), timeout=10) as working:
        working.sendall(b"work")
        assert working.recv(100) == b"working"
        one.parent.send_signal(number)
        assert working.recv(100) == b"done"
    assert one.parent.wait(10) == 0


def test_nobody_can_connect_once_the_gateway_drains(family):
    one = family("never drains", drain_seconds=20.0)
    one.ask()
    with socket.create_connection(("127.0.0.1", int(one.first_line)), timeout=10) as working:
        working.sendall(b"work")
        assert working.recv(100) == b"working"
        one.parent.send_signal(signal.SIGTERM)
        assert working.recv(100) == b"done"
    wait_until(lambda: not one.children())
    with pytest.raises(ConnectionRefusedError):
        one.ask()


def test_a_child_that_does_not_drain_is_killed(family):
    one = family("never drains", drain_seconds=0.0)
    one.ask()
    started = time.monotonic()
    one.parent.send_signal(signal.SIGTERM)
    assert one.parent.wait(10) == 0
    assert time.monotonic() - started < 6
    assert one.children() == []
    assert "process.killed" in [event["event"] for event in one.events()]


def test_a_second_signal_ends_at_once(family):
    one = family("never drains", drain_seconds=60.0)
    one.ask()
    one.parent.send_signal(signal.SIGTERM)
    wait_until(lambda: "gateway.draining" in [event["event"] for event in one.events()])
    one.parent.send_signal(signal.SIGTERM)
    assert one.parent.wait(5) == 0
    assert one.children() == []


def test_a_child_that_crashes_is_started_again_and_told(family):
    one = family()
    first = one.ask().split()[0]
    one.ask(b"crash")
    second = one.ask().split()[0]
    assert first != second
    (ended,) = [event for event in one.events() if event["event"] == "process.ended"]
    assert (ended["child"], ended["pid"], ended["exit_code"]) == ("child", int(first), 7)


def test_a_child_that_is_killed_many_times_comes_back_each_time(family):
    one = family()
    pids = set()
    for _ in range(4):
        pid = int(one.ask().split()[0])
        pids.add(pid)
        os.kill(pid, signal.SIGKILL)
        wait_until(lambda gone=pid: gone not in one.children())
    assert int(one.ask().split()[0]) not in pids
    assert len(pids) == 4


def test_no_child_outlives_a_parent_that_is_killed(family):
    one = family("never drains", drain_seconds=60.0)
    one.ask()
    assert len(one.children()) == 1
    one.parent.kill()
    wait_until(lambda: not one.children(), seconds=3.0)


def test_a_new_gateway_starts_at_once_after_a_kill(family):
    first = family()
    first.ask()
    first.parent.kill()
    second = family()
    assert second.ask().endswith("hello")


def test_a_child_that_refuses_to_start_ends_the_gateway_with_its_reason(family):
    one = family("refuses")
    assert one.first_line == "The process child cannot start: there is no archive"
    assert one.parent.wait(10) == 1


def test_a_child_that_crashes_at_each_start_ends_the_gateway(family):
    one = family("crashes")
    assert one.first_line == "The process child cannot start: it ended with exit code 9, 3 times"
    assert one.parent.wait(10) == 1


def test_a_folder_belongs_to_one_gateway(tmp_path):
    lock = lock_folder(tmp_path / "data")
    with pytest.raises(CannotStart, match="Another gateway") as caught:
        lock_folder(tmp_path / "data", seconds=0.1)
    assert caught.value.exit_code == 3
    os.close(lock)
    os.close(lock_folder(tmp_path / "data", seconds=0.1))


def test_a_folder_that_is_made_is_for_its_owner_only(tmp_path):
    os.close(lock_folder(tmp_path / "data"))
    assert (tmp_path / "data").stat().st_mode & 0o077 == 0


def test_a_folder_that_cannot_be_made_is_told_by_name(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(CannotStart, match="cannot be used") as caught:
        lock_folder(tmp_path / "file" / "data")
    assert caught.value.exit_code == 1


MOUNTS = """\
22 1 8:1 / / rw,relatime shared:1 - ext4 /dev/sda1 rw
40 22 0:40 / /srv/images rw shared:2 - nfs4 server:/export rw
41 40 8:2 / /srv/images/local\\040disk rw - xfs /dev/sdb rw
42 22 0:42 / /mnt/over rw - ext4 /dev/sdc rw
43 42 0:43 / /mnt/over rw master:1 propagate_from:2 - cifs //server/share rw
"""


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("/", "ext4"),
        ("/srv", "ext4"),
        ("/srv/images", "nfs4"),
        ("/srv/images/data/deep", "nfs4"),
        ("/srv/images2", "ext4"),
        ("/srv/images/local disk/data", "xfs"),
        ("/mnt/over/data", "cifs"),
    ],
)
def test_the_file_system_of_a_folder_is_that_of_its_last_mount(path, kind):
    assert file_system(Path(path), MOUNTS) == kind


def test_the_folders_of_this_test_are_local(tmp_path):
    kind = file_system(tmp_path.resolve(), Path("/proc/self/mountinfo").read_text())
    assert kind
    assert kind not in NETWORK_FILE_SYSTEMS


@pytest.mark.parametrize("count", [1, 3])
def test_a_port_that_is_taken_is_refused_however_it_was_taken(count):
    ours = listen("127.0.0.1", 0, count=count)
    port = ours[0].getsockname()[1]
    assert {one.getsockname()[1] for one in ours} == {port}
    for again in (1, 2):
        with pytest.raises(CannotStart, match=rf"Cannot listen on 127\.0\.0\.1:{port}: Address already in use"):
            listen("127.0.0.1", port, count=again)
    for one in ours:
        one.close()
    for one in listen("127.0.0.1", port, count=2):
        one.close()


def test_an_address_that_is_not_ours_is_refused():
    with pytest.raises(CannotStart, match=r"Cannot listen on 192\.0\.2\.1:0"):
        listen("192.0.2.1", 0)


def test_connections_to_one_port_are_spread_over_its_sockets():
    sockets = listen("127.0.0.1", 0, count=2)
    clients = [socket.create_connection(sockets[0].getsockname()) for _ in range(64)]
    counts = []
    for one in sockets:
        one.setblocking(False)
        accepted = []
        with contextlib.suppress(BlockingIOError):
            while True:
                accepted.append(one.accept()[0])
        counts.append(len(accepted))
        for client in accepted:
            client.close()
    for one in (*clients, *sockets):
        one.close()
    assert sum(counts) == 64
    assert min(counts) >= 12


def test_the_parent_loads_no_door_no_dicom_library_and_no_pixels():
    script = textwrap.dedent("""
        import sys, gateway.__main__
        heavy = {"pydicom", "pynetdicom", "starlette", "uvicorn", "numpy", "PIL", "prometheus_client", "boto3"}
        print(sorted(heavy & sys.modules.keys()))
    """)
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=60)
    assert run.stdout.strip() == "[]"
