"""Text written in every character set of PS3.3 §C.12.1.1.2, held against examples of the standard and our reader."""

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from storage.characters import codecs_of, encode_text
from storage.charsets import ENCODINGS
from storage.values import decode_text, encodings_of

NAME_DELIMITERS = b"\\=^"
EXAMPLES = {  # PS3.5 Annexes H, I and K: Specific Character Set, text, bytes
    "H.3.1": (
        "\\ISO 2022 IR 87",
        "Yamada^Tarou=山田^太郎=やまだ^たろう",
        b"Yamada^Tarou=\x1b$B;3ED\x1b(B^\x1b$BB@O:\x1b(B=\x1b$B$d$^$@\x1b(B^\x1b$B$?$m$&\x1b(B",
    ),
    "H.3.2": (
        "ISO 2022 IR 13\\ISO 2022 IR 87",
        "ﾔﾏﾀﾞ^ﾀﾛｳ=山田^太郎=やまだ^たろう",
        b"\xd4\xcf\xc0\xde^\xc0\xdb\xb3=\x1b$B;3ED\x1b(J^\x1b$BB@O:\x1b(J=\x1b$B$d$^$@\x1b(J^\x1b$B$?$m$&\x1b(J",
    ),
    "I.2": (
        "\\ISO 2022 IR 149",
        "Hong^Gildong=洪^吉洞=홍^길동",
        b"Hong^Gildong=\x1b$)C\xfb\xf3^\x1b$)C\xd1\xce\xd4\xd7=\x1b$)C\xc8\xab^\x1b$)C\xb1\xe6\xb5\xbf",
    ),
    "K.2": (
        "\\ISO 2022 IR 58",
        "Zhang^XiaoDong=张^小东=",
        b"Zhang^XiaoDong=\x1b$)A\xd5\xc5^\x1b$)A\xd0\xa1\xb6\xab=",
    ),
    "two single-byte sets": (
        "ISO 2022 IR 100\\ISO 2022 IR 144",
        "Äl Лл^Ö",
        b"\xc4l \x1b-L\xbb\xdb\x1b-A^\xd6",
    ),
    "Latin alphabet No. 9": ("ISO_IR 203", "Œuvré^€", b"\xbcuvr\xe9^\xa4"),
    "JIS X 0201": ("ISO_IR 13", "ﾔﾏﾀﾞ ﾀﾛｳ", b"\xd4\xcf\xc0\xde \xc0\xdb\xb3"),
}


@pytest.mark.parametrize(("character_set", "text", "written"), EXAMPLES.values(), ids=EXAMPLES)
def test_text_is_written_as_the_examples_of_the_standard_have_it(character_set, text, written):
    assert encode_text(text, codecs_of(character_set), is_name=True) == written
    assert decode_text(written, encodings_of(character_set.encode()), NAME_DELIMITERS) == text


@pytest.mark.parametrize(
    ("character_set", "text"),
    [
        ("", "Müller"),
        ("ISO_IR 6", "é"),
        ("ISO 2022 IR 6", "é"),
        ("ISO_IR 100", "山"),
        ("ISO_IR 13", "¥"),
        ("\\ISO 2022 IR 87", "丂"),
        ("\\ISO 2022 IR 159", "山"),
        ("\\ISO 2022 IR 149", "张小"),
        ("ISO_IR 192\\ISO 2022 IR 87", "山"),
        ("NO SUCH SET", "é"),
        ("ISO_IR 100\\NO SUCH SET", "é"),
    ],
)
def test_text_that_a_set_does_not_have_is_an_error_and_not_a_question_mark(character_set, text):
    with pytest.raises(UnicodeError):
        encode_text(text, codecs_of(character_set), is_name=False)


EXTENSIONS = sorted(term for term in ENCODINGS if term.startswith("ISO 2022 IR"))
SINGLE = sorted(term for term in ENCODINGS if term.startswith(("ISO_IR", "G")))
OF_MANY_SCRIPTS = st.text("ab ^=éŁĦķΔقשЛİส€ﾔ山丂洪홍张太", max_size=14)


@example("¥", ["ISO 2022 IR 87"])
@example("Ł=", ["ISO 2022 IR 87", "ISO 2022 IR 101"])
@given(OF_MANY_SCRIPTS | st.text(max_size=14), st.lists(st.sampled_from(EXTENSIONS), min_size=1, max_size=4))
def test_whatever_is_written_with_code_extensions_is_read_as_it_was(text, terms):
    read_again(text, "\\".join(terms))
    read_again(text, "\\".join(["", *terms]))


@given(OF_MANY_SCRIPTS | st.text(max_size=14), st.sampled_from(SINGLE))
def test_whatever_is_written_in_one_set_is_read_as_it_was(text, term):
    read_again(text, term)


def read_again(text, character_set):
    text = "".join(character for character in text if character.isprintable())
    try:
        written = encode_text(text, codecs_of(character_set), is_name=True)
    except UnicodeError:
        return
    assert decode_text(written, encodings_of(character_set.encode()), NAME_DELIMITERS) == text
