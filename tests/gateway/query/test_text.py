"""Text of strangers: nothing that a terminal obeys is left, and widths are those of a terminal."""

import json
import sys
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.query.text import clean, columns, escaped, padded, quoted, shortened

# What makes a terminal do something, or shows text in another order than it has.
OBEYED = {chr(at) for at in (*range(0x20), *range(0x7F, 0xA0), *range(0x202A, 0x202F), *range(0x2066, 0x206A))}


def test_no_character_that_is_obeyed_passes():
    every = "".join(map(chr, range(sys.maxunicode + 1)))
    for harmless in (clean(every), escaped(every)):
        assert not OBEYED & set(harmless)
        harmless.encode()  # no half of a surrogate pair either


def test_letters_of_every_script_and_their_joiners_stay():
    for name in ("Weißmüller^Jörg", "水野^遥=みずの", "الحداد^سليم", "می\u200cخواهم", "a\u3000b", "김^민수", "e\u0301"):
        assert clean(name) == name
        assert escaped(name) == name


def test_line_ends_and_tabs_are_spaces_and_escapes_are_seen():
    assert clean("a\tb\r\nc\u2028d") == "a b  c d"
    assert clean("\x1b[31mred\x9b0m\u202eevil") == "\ufffd[31mred\ufffd0m\ufffdevil"


@given(st.text())
def test_escaped_json_is_the_same_json(text):
    assert json.loads(escaped(json.dumps(text, ensure_ascii=False))) == text


@pytest.mark.parametrize(
    ("text", "wide"), [("abc", 3), ("水野", 4), ("e\u0301", 1), ("ＡＢ", 4), ("ｱ", 1), ("می\u200cخ", 3), ("", 0)]
)
def test_columns_are_those_of_a_terminal(text, wide):
    assert columns(text) == wide


@given(st.text().map(clean), st.integers(1, 30))
def test_shortened_text_fits_and_padded_text_fills(text, room):
    short = shortened(text, room)
    assert columns(short) <= room
    assert columns(padded(short, room)) == room
    assert short == text or (short.endswith("…") and text.startswith(short[:-1]))


def test_a_wide_character_is_not_cut_in_half():
    assert shortened("水野遥", 6) == "水野遥"
    assert shortened("水野遥", 5) == "水野…"
    assert shortened("水野遥", 4) == "水…"


def test_foreign_words_in_a_message_are_short():
    assert columns(quoted("x" * 1000)) == 200
    assert unicodedata.category(quoted("\x1bX")[0]) == "So"
