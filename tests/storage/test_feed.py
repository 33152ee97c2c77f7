"""The change feed under many writing processes, on both engines: what a reader sees at every moment. R11"""

from __future__ import annotations

import contextlib
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from storage.index import open_index
from storage.model import Scope
from tests.contracts.stability import told

ROOT = Path(__file__).parents[2]
WRITERS, INSTANCES = 4, 80

OPENED = """
import pathlib, sys
from storage.index import open_index
from tests.fix_index import entry

place = sys.argv[1]
index = open_index(place if "://" in place else pathlib.Path(place))
"""
WRITER = (
    OPENED
    + """
first, count = int(sys.argv[2]), int(sys.argv[3])
print("ready", flush=True)
sys.stdin.readline()
for number in range(first, first + count):
    index.add(entry(number % 5, number % 11, number))
    if number % 10 == 0:
        index.delete(entry(number % 5, number % 11, number).instance.scope)
index.close()
"""
)
WATCHER = (
    OPENED
    + """
import time
quiet, end = float(sys.argv[2]), time.time() + 60
print("ready", flush=True)
while time.time() < end:
    now = time.time() * 1000
    index.note_stable(int(now), int(now + quiet * 1000))
"""
)


@contextlib.contextmanager
def process(source, place, *arguments):
    """A process that is ready; killed at the end, if it still runs."""
    started = subprocess.Popen(
        [sys.executable, "-c", source, str(place), *map(str, arguments)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=ROOT,
    )
    with started:
        try:
            assert started.stdout.readline() == "ready\n"
            yield started
        finally:
            started.kill()


@pytest.fixture
def start():
    """``start(source, place, …)``: processes that end with the test."""
    with contextlib.ExitStack() as stack:
        yield lambda *arguments: stack.enter_context(process(*arguments))


class Reader:
    """Follows the feed by single looks of changing size, and holds each against the one before."""

    def __init__(self, place):
        self.place = place
        self.seen = []
        self.faults = []
        self.looks = 0
        self.is_over = threading.Event()
        self.thread = threading.Thread(target=self._follow)
        self.thread.start()

    def _follow(self):
        with contextlib.closing(open_index(self.place)) as index:
            while True:
                is_last = self.is_over.is_set()
                latest = index.latest()
                found = index.changes(len(self.seen), 1 + self.looks % 50)
                self.looks += 1
                wanted = list(range(len(self.seen) + 1, len(self.seen) + 1 + len(found)))
                if [change.sequence for change in found] != wanted:
                    self.faults.append((len(self.seen), [change.sequence for change in found]))
                if latest < len(self.seen) or len(self.seen) + len(found) < min(latest, len(self.seen) + 1):
                    self.faults.append(("latest", latest, len(self.seen)))
                self.seen += found
                if is_last and not found:
                    return

    def end(self):
        self.is_over.set()
        self.thread.join(60)
        assert not self.thread.is_alive()


def test_readers_see_every_change_in_order_while_many_processes_write(engine, tmp_path, start):
    place = engine.place(tmp_path)
    open_index(place).close()
    writers = [start(WRITER, place, 1 + number * INSTANCES, INSTANCES) for number in range(WRITERS)]
    watcher = start(WATCHER, place, 0.02)
    readers = [Reader(place) for _ in range(2)]
    for writer in writers:
        writer.stdin.write("go\n")
        writer.stdin.flush()
    assert [writer.wait(120) for writer in writers] == [0] * WRITERS
    watcher.kill()
    for reader in readers:
        reader.end()
        assert reader.faults == []
    one, other = readers
    assert one.seen == other.seen
    assert [change.sequence for change in one.seen] == list(range(1, len(one.seen) + 1))
    kinds = [change.kind for change in one.seen]
    assert kinds.count("stored") == WRITERS * INSTANCES
    assert kinds.count("deleted") == WRITERS * INSTANCES // 10
    stored = [change.scope.sop_instance_uid for change in one.seen if change.kind == "stored"]
    assert len(set(stored)) == len(stored)


def test_watchers_that_are_killed_lose_no_quiet_time_and_note_none_twice(engine, tmp_path, start):
    """Each round stores something new and kills a watcher in the middle of its work; another one goes on."""
    place = engine.place(tmp_path)
    with contextlib.closing(open_index(place)) as index:
        index.note_stable(0, 0)
        for number in range(4):
            watchers = [start(WATCHER, place, 0.01) for _ in range(2)]
            writer = start(WRITER, place, 1 + number * 11, 9)
            writer.stdin.write("go\n")
            writer.stdin.flush()
            watchers[0].send_signal(signal.SIGKILL)
            assert writer.wait(60) == 0
            watchers[1].send_signal(signal.SIGKILL)
            for one in watchers:
                one.wait()
        while index.note_stable(1 << 52, 1 << 52):
            pass
        while index.note_stable(1 << 53, 1 << 53):
            pass
        feed = index.changes(0, 10_000)
        assert [change.sequence for change in feed] == list(range(1, len(feed) + 1))
        last = {}
        for change in feed:
            key = (change.scope.study_instance_uid, change.scope.series_instance_uid)
            if change.kind == "series-stable":
                assert last.get(key) == "changed", "never twice without a change in between"
                last[key] = "stable"
            elif change.kind != "study-stable":
                last[key] = "changed"
        assert told(index)
        for scope, state in last.items():
            assert state == "stable" or not index.instances(Scope(*scope))
