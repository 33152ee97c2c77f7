"""Keys of objects: injective, and never a path to anywhere else."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from storage.errors import InvalidInstance
from storage.keys import instance_key, is_key

DIGEST = "0123456789abcdef" * 4
component = st.integers(0, 10**6).map(str)
uids = st.lists(component, min_size=1, max_size=6).map(".".join)
digests = st.binary(min_size=32, max_size=32).map(bytes.hex)
parts = st.tuples(uids, uids, uids, digests)

HOSTILE = [
    "../../../etc/cron.d/x",
    "/abs/path",
    "1.2..3",
    "1.2.",
    ".1.2",
    "1.02",
    "",
    "1/2",
    "1\\2",
    "1.2\n",
    "1.2\0",
    "1 .2",
    "..",
    ".",
    "<script>",
    "1.2%2e",
    "１.２",
    "1" * 65,
    "-1",
    "+1",
    "1e5",
]


@given(parts, parts)
def test_two_instances_share_a_key_only_when_they_are_the_same(one, other):
    assert (instance_key(*one) == instance_key(*other)) == (one == other)


@given(parts)
def test_a_key_stays_below_its_prefix(one):
    key = instance_key(*one)
    assert key.startswith("v1/default/")
    assert ".." not in key
    assert "//" not in key
    assert is_key(key)


@pytest.mark.parametrize("text", HOSTILE)
@pytest.mark.parametrize("place", [0, 1, 2])
def test_what_is_no_uid_gets_no_key(text, place):
    uids = ["1.2.3", "1.2.4", "1.2.5"]
    uids[place] = text
    with pytest.raises(InvalidInstance):
        instance_key(*uids, DIGEST)


@pytest.mark.parametrize("text", ["", "x" * 64, DIGEST.upper(), DIGEST[:-1], "../" + DIGEST[3:]])
def test_what_is_no_digest_gets_no_key(text):
    with pytest.raises(InvalidInstance):
        instance_key("1.2", "1.4", "1.5", text)


def test_a_key_with_a_folder_for_the_series_is_still_one():
    assert is_key(f"v1/default/1.2/1.3/1.4_1.5_{DIGEST}.dcm")
    assert not is_key(f"v1/default/1.2/1.3/1.6/1.4_1.5_{DIGEST}.dcm")


@pytest.mark.parametrize("text", ["", "v1/default/", "v1/default/1/2/3.dcm", "/etc/passwd", "v1/default/../x/1.dcm"])
def test_other_texts_are_no_keys(text):
    assert not is_key(text)
