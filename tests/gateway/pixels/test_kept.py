from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest

from gateway.pixels.kept import Kept, KeptBytes


def test_what_was_kept_is_there_and_nothing_else():
    kept: Kept[bytes] = Kept(800)
    kept.put("a", b"one", 3)
    assert (kept.get("a"), kept.get("b"), kept.size_bytes) == (b"one", None, 3)


def test_beyond_the_limit_the_one_not_used_for_longest_goes():
    kept: Kept[int] = Kept(800)
    for number in range(8):
        kept.put(str(number), number, 100)
    kept.get("0")
    kept.put("8", 8, 100)
    assert [kept.get(str(number)) for number in range(9)] == [0, None, 2, 3, 4, 5, 6, 7, 8]
    assert kept.size_bytes == 800


def test_a_value_of_more_than_an_eighth_is_not_kept():
    kept: Kept[int] = Kept(800)
    kept.put("large", 1, 101)
    kept.put("just", 2, 100)
    assert (kept.get("large"), kept.get("just"), kept.size_bytes) == (None, 2, 100)


def test_a_value_that_is_kept_again_is_counted_once():
    kept: Kept[int] = Kept(800)
    for number in range(3):
        kept.put("a", number, 60 + number)
    assert (kept.get("a"), kept.size_bytes) == (2, 62)


def test_threads_that_share_it_never_pass_its_limit():
    kept: Kept[int] = Kept(8_000)

    def use(number: int) -> bool:
        kept.put(str(number % 37), number, 100 + number % 900)
        kept.get(str(number % 11))
        return kept.size_bytes <= 8_000 + 4 * 1_000

    with ThreadPoolExecutor(4) as threads:
        assert all(threads.map(use, range(4_000)))
    assert 0 < kept.size_bytes <= 8_000
    assert sum(kept.get(str(number)) is not None for number in range(37)) > 5


@pytest.fixture
def in_a_file(tmp_path):
    kept = KeptBytes(800, tmp_path)
    yield kept
    kept.close()


def test_bytes_in_a_file_come_back_and_their_file_has_no_name(in_a_file, tmp_path):
    in_a_file.put("a", b"one")
    in_a_file.put("b", b"two")
    in_a_file.put("a", b"three")
    assert (in_a_file.get("a"), in_a_file.get("b"), in_a_file.get("c")) == (b"three", b"two", None)
    assert not [*tmp_path.iterdir()]


def test_bytes_in_a_file_go_round_and_the_first_ones_go_first(in_a_file):
    for number in range(9):
        in_a_file.put(str(number), bytes([number]) * 95)
    found = [in_a_file.get(str(number)) for number in range(9)]
    assert found[0] is None
    assert found[-7:] == [bytes([number]) * 95 for number in range(2, 9)]
    assert len(in_a_file._spans) <= 9


def test_bytes_of_more_than_an_eighth_are_not_kept_in_a_file(in_a_file):
    in_a_file.put("large", bytes(101))
    in_a_file.put("just", bytes(100))
    assert (in_a_file.get("large"), in_a_file.get("just")) == (None, bytes(100))


def test_a_file_that_is_closed_keeps_nothing(in_a_file):
    in_a_file.put("a", b"one")
    in_a_file.close()
    in_a_file.put("b", b"two")
    assert (in_a_file.get("a"), in_a_file.get("b")) == (None, None)


def test_threads_that_share_a_file_never_read_what_another_one_wrote(tmp_path):
    kept = KeptBytes(4_000, tmp_path)

    def use(number: int) -> bool:
        key = number % 97
        kept.put(str(key), bytes([key]) * (50 + key))
        asked = number * 31 % 97
        return kept.get(str(asked)) in (None, bytes([asked]) * (50 + asked))

    with ThreadPoolExecutor(8) as threads:
        assert all(threads.map(use, range(20_000)))
    assert len(kept._spans) < 97
    assert any(kept.get(str(key)) for key in range(97))
    kept.close()
