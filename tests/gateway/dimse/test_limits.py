"""Every limit says what it limits, and in what unit."""

from dataclasses import fields

import pytest

from gateway.dimse.limits import DimseLimits
from gateway.settings import DimseSettings

UNITS = ("_bytes", "_seconds", "_maximum", "_per_second")


@pytest.mark.parametrize("limit", fields(DimseLimits), ids=lambda limit: limit.name)
def test_a_limit_names_its_unit_has_a_default_and_one_sentence(limit):
    assert limit.name.endswith(UNITS)
    assert limit.default > 0
    assert limit.metadata["doc"].endswith(".")
    assert limit.metadata["doc"].count(". ") == 0


def test_operators_can_set_every_limit_and_see_the_same_default():
    settings = DimseSettings()
    shared = [limit for limit in fields(DimseLimits) if limit.name != "instance_maximum_bytes"]
    assert {limit.name: getattr(settings, limit.name) for limit in shared} == {
        limit.name: limit.default for limit in shared
    }
