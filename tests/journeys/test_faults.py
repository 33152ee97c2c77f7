"""Every fault that is planted in an archive is found under its name, and nothing that is whole; what can be is mended.

The long run of the same, for the record, is ``python -m tests.journeys.faults``.
"""

from __future__ import annotations

import random

from tests.journeys.faults import run


def test_every_planted_fault_is_found_and_nothing_else(tmp_path):
    seed = random.SystemRandom().randrange(1 << 32)
    print(f"seed {seed}")
    totals = run(tmp_path / "data", 39, seed)
    print(totals.lines())
    assert totals.planted.total() == 39
    assert len(totals.planted) == 13
    assert totals.is_sound, f"seed {seed}: {totals.lines()}"


def test_an_archive_without_faults_is_clean(tmp_path):
    totals = run(tmp_path / "data", 0, 1)
    assert totals.looked_at > 0
    assert totals.found == 0
    assert totals.is_sound, totals.lines()
