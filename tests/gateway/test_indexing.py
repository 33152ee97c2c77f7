"""Indexing in the background and in the foreground, over real indexes."""

from __future__ import annotations

import contextlib
import threading
import time
from dataclasses import replace

import pytest

from gateway import indexing
from gateway.indexing import complete, keep_complete
from storage.attributes import extended_by
from storage.errors import CorruptObject
from storage.extended import read_extended
from storage.index import open_index
from storage.model import Progress
from tests.contracts.extended import asked, held, numbers_of, stored
from tests.fix_dimse import settle
from tests.fix_index import entry

TAG = "00191008:LO@series"


@pytest.fixture
def index(tmp_path):
    """An index of a process that knows the tag, with instances of one that did not."""
    with contextlib.closing(open_index(tmp_path / "index.sqlite")) as before:
        for number in range(1, 151):
            before.add(stored(number, number, number, json=held("00191008", "A")))
    with extended_by(read_extended([TAG])), contextlib.closing(open_index(tmp_path / "index.sqlite")) as index:
        yield index


@contextlib.contextmanager
def in_background(step):
    stopping = threading.Event()
    thread = threading.Thread(target=keep_complete, args=(step, stopping))
    thread.start()
    try:
        yield
    finally:
        stopping.set()
        thread.join(10)
        assert not thread.is_alive()


def test_in_the_background_all_is_indexed_and_then_it_rests(index):
    calls = []

    def step():
        calls.append(time.monotonic())
        return index.index_extended()

    with in_background(step):
        assert settle(lambda: not index.incomplete(), 20)
        assert len(numbers_of(index.search(asked("00191008", "A")))) == 150
        made = len(calls)
        time.sleep(0.3)
        assert len(calls) == made == 2


def test_what_others_left_behind_is_found_after_a_while(index, monkeypatch):
    monkeypatch.setattr(indexing, "_LOOK_SECONDS", 0.05)
    with in_background(index.index_extended):
        assert settle(lambda: not index.incomplete(), 20)
        index._committer.run(
            lambda batch: batch.apart(lambda connection: connection.execute("UPDATE extended_tag SET indexed_to = 10"))
        )
        assert settle(lambda: not index.incomplete(), 20)


def test_a_step_that_fails_is_tried_again_and_not_in_a_hurry(index, monkeypatch):
    monkeypatch.setattr(indexing, "_AFTER_FAILURE_SECONDS", 0.1)
    index.add(
        replace(entry(500, 500, 500), metadata=b"none")
    )  # by a process that knows the tag, of a row whose metadata is none
    index._committer.run(
        lambda batch: batch.apart(lambda connection: connection.execute("UPDATE extended_tag SET indexed_to = 149"))
    )
    failures = []

    def step():
        try:
            return index.index_extended()
        except CorruptObject as error:
            failures.append(error)
            raise

    with in_background(step):
        assert settle(lambda: len(failures) >= 2, 10)
        time.sleep(0.3)
        assert 2 <= len(failures) <= 12
        assert "metadata" in str(failures[0])
        assert index.incomplete() == {"00191008"}


def test_in_the_foreground_it_waits_for_others_and_ends_when_nothing_is_lacking(index):
    said = [Progress(0, 150, is_contended=True)]
    progress = list(complete(lambda: said.pop() if said else index.index_extended()))
    assert [(one.done, one.count) for one in progress] == [(0, 0), (100, 100), (150, 50)]
    assert index.incomplete() == frozenset()
