from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

from gateway.pixels.kept import Kept


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
