"""Crashed at any operation, an archive is as it was before or as it is after, and the act done again makes it new."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from tests.fix_postgresql import new_server
from tests.fix_servers import ROOT, command_environment
from tests.torture.failpoints import SCENARIOS, UNREACHED, sites

LEAST_POINTS = 8
IN_MEMORY = Path("/dev/shm")
"""What is crashed is a process, and what a power cut takes is worked out: no disk has to be waited for."""
ONE_STORE = """
import sys
from tests.torture import failpoints
{careless}
name = "C-STORE into nothing"
failpoints.SCENARIOS = {{name: failpoints.SCENARIOS[name]}}
failpoints.main(sys.argv[1])
"""
CARELESS = {
    "a row that is there before its object": """
class Careless:
    def __init__(self, real): self.real, self.put_off = real, []
    def __getattr__(self, name): return getattr(self.real, name)
    def put(self, *what): self.put_off.append(what)

class Late(failpoints.Archive):
    def __init__(self, objects, index): super().__init__(Careless(objects), index)
    def store(self, *arguments, **options):
        receipt = super().store(*arguments, **options)
        self._objects.real.put(*self._objects.put_off.pop())
        return receipt

failpoints.Archive = Late
""",
    "an object whose bytes are not synced": """
from storage.spool import Spool
Spool.sync = lambda self: None
""",
    "an object whose name is not synced": """
from storage.objects import filesystem
filesystem._sync_folder = lambda folder: None
""",
    "a row without its change": """
from storage.index.batch import Batch
note = Batch.note
def note_apart(self, *what):
    self._connection.execute("COMMIT")
    self._connection.execute("BEGIN IMMEDIATE")
    note(self, *what)
Batch.note = note_apart
""",
}
"""Faults of ours that a run has to find."""


def run(*arguments):
    done = subprocess.run(
        [sys.executable, *map(str, arguments)],
        capture_output=True,
        text=True,
        check=False,
        timeout=200,
        env=command_environment(),
        cwd=ROOT,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout)


@pytest.fixture(scope="module")
def report(engine):
    """What a run over each engine has found."""
    place = () if engine.name == "sqlite" else (new_server().database("failpoints"),)
    with tempfile.TemporaryDirectory(dir=IN_MEMORY if IN_MEMORY.is_dir() else None) as folder:
        found = run("-m", "tests.torture.failpoints", Path(folder) / "archive", *place)
    print(f"{found['crashes']} crashes at {len(found['points'])} points: {', '.join(found['points'])}")
    return found


def test_after_a_crash_at_any_point_the_archive_is_old_or_new_and_the_act_done_again_makes_it_new(report):
    assert report["problems"] == []
    assert report["crashes"] > LEAST_POINTS * len(SCENARIOS)


def test_every_point_that_stores_and_deletes_come_by_has_been_crashed(report):
    assert report["reached_but_not_crashed"] == []
    assert report["not_crashed"] == [], "give it a scenario in tests/torture/failpoints.py"


def test_what_no_scenario_comes_by_is_of_functions_that_are_there():
    assert UNREACHED.keys() <= {function for _, function, _ in sites().values()}


@pytest.mark.parametrize("fault", CARELESS)
def test_a_run_finds(tmp_path, fault):
    assert run("-c", ONE_STORE.format(careless=CARELESS[fault]), tmp_path / "archive")["problems"] != []
