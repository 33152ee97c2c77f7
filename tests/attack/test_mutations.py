"""A few of what ``tests.attack.mutations`` sends by the ten thousand."""

from tests.attack.mutations import run


def test_what_is_changed_by_chance_is_answered_or_cut_off_and_leaves_nothing(start_gateway):
    figures, wrong = run(start_gateway("--workers", "1"), 8, {"bodies": 400, "pdus": 800, "data_sets": 800})
    assert not wrong
    assert figures["rss_growth_mb"] < 64
    assert figures["threads"] <= 8
    assert figures["descriptors"] <= 16
