"""A few of what ``tests.attack.mutations`` sends by the ten thousand."""

import random

import pytest

from tests.attack.mutations import BODIES, BOUNDARY, run


@pytest.mark.parametrize("make", BODIES, ids=lambda make: make.__name__)
def test_each_body_is_taken_before_chance_has_changed_it(taking, make):
    body, kind = make(random.Random(make.__name__))
    content_type = f'multipart/related; type="{kind}"; boundary={BOUNDARY}'
    response = taking.client.post("/studies", content=body, headers={"Content-Type": content_type})
    assert response.status_code == 200, response.text


def test_what_is_changed_by_chance_is_answered_or_cut_off_and_leaves_nothing(start_gateway):
    figures, wrong = run(start_gateway("--workers", "1"), 8, {"bodies": 400, "pdus": 800, "data_sets": 800})
    assert not wrong
    assert figures["rss_growth_mb"] < 64
    assert figures["threads"] <= 8
    assert figures["descriptors"] <= 16
