"""Kill -9 at random moments of C-STORE and STOW: nothing acknowledged is lost, nothing half visible, clean starts.

The long run of the same, for the record, is ``python -m tests.journeys.torture``. F5, R1, R3
"""

from __future__ import annotations

import random
import shutil

import pytest

from tests.journeys.torture import DIMSE, GROUP, HTTP, LARGE_EVERY, Ledger, Maker, Torture, plan_of

PLANS = {
    "the DIMSE process, twice in one life": [[DIMSE, DIMSE]],
    "an HTTP worker, twice in one life": [[HTTP, HTTP]],
    "all processes, twice": [[GROUP], [GROUP]],
}


@pytest.mark.parametrize("name", PLANS)
def test_what_was_acknowledged_outlives_a_kill_of(tmp_path, name):
    plan = PLANS[name]
    seed = random.SystemRandom().randrange(1 << 32)
    print(f"seed {seed}")
    totals = Torture(tmp_path / "data", seed, plan).run()
    print(totals.lines())
    assert totals.kills.total() == sum(map(len, plan))
    assert totals.acknowledged >= 10
    assert totals.is_sound, f"seed {seed}: {totals.lines()}"
    shutil.rmtree(tmp_path / "data")


def test_a_long_run_has_every_kind_of_kill_and_ends_lives_with_the_gateway():
    plan = plan_of(200)
    assert sum(map(len, plan)) == 200
    assert all(life[-1] == GROUP for life in plan[:-1])
    assert sum(life.count(GROUP) for life in plan) == 66


def test_some_of_what_is_sent_is_too_large_to_wait_in_memory():
    maker = Maker(Ledger(), 1, "1.2.3")
    sizes = [len(maker.next()[1]) for _ in range(10 * LARGE_EVERY)]
    assert 1 <= sum(size > 1 << 20 for size in sizes) < 30
    assert max(size for size in sizes if size < 1 << 20) < 64 << 10
