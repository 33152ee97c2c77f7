"""Values of every VR in the DICOM JSON Model."""

from __future__ import annotations

import struct
import warnings
from pathlib import Path

import orjson
import pydicom
import pytest
from hypothesis import given
from hypothesis import strategies as st

from storage.dataset import read_data_set
from storage.filemeta import read_file_meta
from storage.uids import transfer_syntax
from storage.values import BINARY_VRS, KNOWN_VRS, decode_text, encodings_of, json_element, little_endian


def value(vr: str, raw: bytes, term: bytes = b"", *, is_little_endian: bool = True):
    return json_element(vr, raw, encodings_of(term), is_little_endian=is_little_endian)


@pytest.mark.parametrize(
    ("vr", "raw", "values"),
    [
        ("CS", b"CT ", ["CT"]),
        ("CS", b"ORIGINAL\\PRIMARY", ["ORIGINAL", "PRIMARY"]),
        ("CS", b"A\\\\C", ["A", None, "C"]),
        ("UI", b"1.2.3\0", ["1.2.3"]),
        ("UI", b"1.2\x003", ["1.2\ufffd3"]),
        ("UI", b"1.2 \\1.3\0", ["1.2", "1.3"]),
        ("LO", b" padded ", ["padded"]),
        ("LO", b"with\0nul", ["withnul"]),
        ("LT", b"  two\\parts  ", ["  two\\parts"]),
        ("IS", b" 12 ", [12]),
        ("IS", b"2.0", ["2.0"]),
        ("IS", b"1\\x\\", [1, "x", None]),
        ("IS", b"1_0", ["1_0"]),
        ("DS", b"1.50\\-2e3", [1.5, -2000.0]),
        ("DS", b"NaN", ["NaN"]),
        ("DS", b"1e999", ["1e999"]),
        ("PN", b"Doe^Jane=A=B", [{"Alphabetic": "Doe^Jane", "Ideographic": "A", "Phonetic": "B"}]),
        ("PN", b"=A", [{"Ideographic": "A"}]),
        ("PN", b"A\\\\B", [{"Alphabetic": "A"}, None, {"Alphabetic": "B"}]),
        ("US", struct.pack("<2H", 1, 65535), [1, 65535]),
        ("SS", struct.pack("<h", -5), [-5]),
        ("UV", struct.pack("<Q", 2**60), [str(2**60)]),
        ("FL", struct.pack("<f", 0.5), [0.5]),
        ("FD", struct.pack("<3d", float("nan"), float("inf"), float("-inf")), ["NaN", "Infinity", "-Infinity"]),
        ("AT", struct.pack("<2H", 0x0018, 0x00FF), ["001800FF"]),
    ],
)
def test_values_are_as_annex_f_has_them(vr, raw, values):
    assert value(vr, raw) == {"vr": vr, "Value": values}


@pytest.mark.parametrize("vr", sorted(KNOWN_VRS - {"SQ"}))
def test_an_empty_element_has_only_its_vr(vr):
    assert value(vr, b"") == {"vr": vr}


def test_big_endian_binary_values_come_out_little_endian():
    assert value("OW", b"\1\2\3\4", is_little_endian=False) == {"vr": "OW", "InlineBinary": "AgEEAw=="}
    assert value("US", b"\1\2", is_little_endian=False) == {"vr": "US", "Value": [258]}


def test_a_rest_shorter_than_a_word_keeps_its_bytes():
    assert little_endian(b"\1\2\3", 2) == b"\2\1\3"


@given(st.sampled_from(sorted(KNOWN_VRS - {"SQ"})), st.binary(max_size=64), st.booleans(), st.binary(max_size=20))
def test_any_bytes_become_json(vr, raw, is_little_endian, term):
    found = value(vr, raw, term, is_little_endian=is_little_endian)
    again = orjson.loads(orjson.dumps(found))
    assert again["vr"] == vr
    if vr in BINARY_VRS and raw:
        assert "InlineBinary" in again


# The examples of PS3.5 Annexes H to K, as pydicom ships them: what its reader makes of the same names is the judge.
EXAMPLES = sorted((Path(pydicom.__file__).parent / "data" / "charset_files").glob("*.dcm"))


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.name)
def test_names_of_the_standards_examples_are_decoded(path):
    raw = path.read_bytes()
    announcement, start = read_file_meta(raw)
    found = read_data_set(raw, start, transfer_syntax(announcement.transfer_syntax_uid)).json
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        content = pydicom.dcmread(path)
        content.decode()
        names = content.get("PatientName") or ""
        if not names:
            names = content.RequestedProcedureCodeSequence[0].PatientName
            found = found["00321064"]["Value"][0]
    for mine, theirs in zip(found["00100010"]["Value"], names if isinstance(names, list) else [names], strict=True):
        assert "=".join(mine.values()) == str(theirs).rstrip("=")
        assert "\ufffd" not in str(mine)


@pytest.mark.parametrize(
    ("term", "text", "raw"),
    [
        (b"ISO_IR 100", "Äneas^Rüdiger", "Äneas^Rüdiger".encode("latin-1")),
        (b"ISO_IR 126", "Διονυσιος", "Διονυσιος".encode("iso8859_7")),
        (b"ISO_IR 144", "Люкceмбypг", "Люкceмбypг".encode("iso8859_5")),
        (b"ISO_IR 192", "王^小東", "王^小東".encode()),
        (b"GB18030", "王^小东", "王^小东".encode("gb18030")),
        (b"ISO IR 100", "Änne", "Änne".encode("latin-1")),
        (b"NO SUCH SET", "é", "é".encode()),
    ],
)
def test_text_is_decoded_in_its_character_set(term, text, raw):
    assert decode_text(raw, encodings_of(term)) == text


def test_an_escape_that_nobody_knows_stays_in_the_text():
    assert decode_text(b"a\x1bzb", encodings_of(b"ISO_IR 100")) == "a\x1bzb"


def test_what_cannot_be_decoded_is_replaced_and_nothing_is_raised():
    assert decode_text(b"\xff\xfe", encodings_of(b"ISO_IR 192")) == "\ufffd\ufffd"
    assert decode_text(b"\x1b$B\xff", encodings_of(b"\\ISO 2022 IR 87"))
