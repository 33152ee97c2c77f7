"""Data Sets from the DICOM JSON Model: read again by our reader and by pydicom, and what cannot be written refused."""

from __future__ import annotations

import base64
import io
import struct
import subprocess
import warnings

import orjson
import pydicom
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from storage.dataset import MAXIMUM_DEPTH, read_data_set
from storage.encoding import UNDEFINED, Content, encapsulated, encoded_data_set, joined
from storage.errors import GatewayError, InvalidInstance, TooComplex, TooLarge
from storage.filemeta import Announcement, canonical_header
from storage.uids import EXPLICIT_VR_LITTLE_ENDIAN, transfer_syntax
from tests.synthetic import SECONDARY_CAPTURE

EXPLICIT = transfer_syntax(EXPLICIT_VR_LITTLE_ENDIAN)


def encoded(model, contents=None):
    return b"".join(encoded_data_set(model, contents or {}))


def read(model, contents=None):
    return read_data_set(encoded(model, contents), 0, EXPLICIT).json


def by_pydicom(model, contents=None, uid=EXPLICIT_VR_LITTLE_ENDIAN):
    header = canonical_header(Announcement(SECONDARY_CAPTURE, "1.2.3", uid))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        data_set = pydicom.dcmread(io.BytesIO(header + encoded(model, contents)))
        str(data_set)  # which decodes it
    return data_set


def content(raw):
    return Content(len(raw), lambda: iter((raw,)))


VALUES = {
    "AE": ["GATEWAY", "OTHER"],
    "AS": ["012Y"],
    "CS": ["ORIGINAL", None, "AXIAL"],
    "DA": ["20240131"],
    "DT": ["20240131120000.5+0100"],
    "TM": ["120000"],
    "UI": ["1.2.840", "1.2.3"],
    "LO": ["Ärzte", "second"],
    "SH": ["short"],
    "UC": ["many characters"],
    "LT": ["two\r\nlines"],
    "ST": ["text"],
    "UT": ["long \\ text"],
    "UR": ["https://example.org/a?b=c"],
    "PN": [{"Alphabetic": "Yamada^Tarou", "Ideographic": "山田^太郎", "Phonetic": "やまだ^たろう"}, None],
    "IS": [1, -2, None],
    "DS": [1.5, -0.25, 3],
    "US": [0, 65535],
    "SS": [-32768, 32767],
    "UL": [0, 4294967295],
    "SL": [-2147483648, 5],
    "UV": [1, "18446744073709551615"],
    "SV": [-1, "-9223372036854775808"],
    "FL": [1.5, "NaN", "-Infinity"],
    "FD": [0.1, "Infinity"],
    "AT": ["00100010", "7FE00010"],
}
BINARY = ("OB", "OW", "OF", "OL", "OD", "OV", "UN")


@pytest.mark.parametrize("vr", sorted(VALUES))
def test_values_of_each_vr_are_read_again_as_they_were(vr):
    model = {"00080005": {"vr": "CS", "Value": ["ISO_IR 192"]}, "00090010": {"vr": "LO", "Value": ["US"]}}
    model |= {"00091001": {"vr": vr, "Value": VALUES[vr]}, "00091002": {"vr": vr}}
    assert read(model) == model


@pytest.mark.parametrize("vr", sorted(VALUES.keys() - {"PN"}))
def test_numbers_may_stand_as_text(vr):
    values = [None if value is None else str(value) for value in VALUES[vr]]
    model = {"00080005": {"vr": "CS", "Value": ["ISO_IR 192"]}, "00091001": {"vr": vr, "Value": values}}
    assert read(model)["00091001"]["Value"] == VALUES[vr]


@pytest.mark.parametrize("vr", BINARY)
def test_binary_values_keep_their_bytes(vr):
    raw = bytes(range(16))
    element = {"vr": vr, "InlineBinary": base64.b64encode(raw).decode()}
    assert read({"00091001": element, "00091002": {"vr": vr}}) == {"00091001": element, "00091002": {"vr": vr}}
    assert by_pydicom({"00091001": element})[0x00091001].value == raw


def test_binary_text_may_be_broken_into_lines():
    element = {"vr": "OB", "InlineBinary": "AAEC\r\n  AwQF "}
    assert read({"00091001": element})["00091001"]["InlineBinary"] == "AAECAwQF"


def test_elements_come_out_ascending_and_without_what_is_no_part_of_a_data_set():
    model = {
        "00100020": {"vr": "LO", "Value": ["P1"]},
        "00020010": {"vr": "UI", "Value": ["1.2.840.10008.1.2.1"]},
        "00080000": {"vr": "UL", "Value": [99]},
        "00083002": {"vr": "UI", "Value": ["1.2.840.10008.1.2.1"]},
        "00080060": {"vr": "CS", "Value": ["CT"]},
    }
    raw = encoded(model)
    assert list(read_data_set(raw, 0, EXPLICIT).json) == ["00080060", "00100020"]
    assert raw.index(b"CT") < raw.index(b"P1")


def test_sequences_hold_items_and_null_is_an_empty_one():
    inner = {"00080100": {"vr": "SH", "Value": ["113100"]}}
    model = {"0040A730": {"vr": "SQ", "Value": [inner, None, {}]}, "0040A043": {"vr": "SQ", "Value": []}}
    assert read(model) == {"0040A043": {"vr": "SQ"}, "0040A730": {"vr": "SQ", "Value": [inner, {}, {}]}}
    assert [len(item) for item in by_pydicom(model)[0x0040A730]] == [1, 0, 0]


def test_a_missing_vr_is_that_of_the_dictionary():
    model = {"00100020": {"Value": ["P1"]}, "00280103": {"Value": [1]}, "00280106": {"Value": [-5]}}
    assert [(key, value["vr"]) for key, value in read(model).items()] == [
        ("00100020", "LO"),
        ("00280103", "US"),
        ("00280106", "SS"),
    ]


def test_a_name_may_stand_as_text_and_lack_groups():
    model = {"00080005": {"vr": "CS", "Value": ["ISO_IR 192"]}}
    for value, groups in (
        ("Doe^Jane", {"Alphabetic": "Doe^Jane"}),
        ({"Ideographic": "山田"}, {"Ideographic": "山田"}),
        ({}, None),
    ):
        element = {"vr": "PN", "Value": [value]}
        assert read({**model, "00100010": element})["00100010"].get("Value") == ([groups] if groups else None)


CHARACTER_SETS = [
    (["ISO_IR 100"], "Äneas", ["ISO_IR 100"], "Äneas".encode("latin-1")),
    (["ISO_IR 144"], "Люкceмбypг", ["ISO_IR 144"], "Люкceмбypг".encode("iso8859_5")),
    (["GB18030"], "王小东", ["GB18030"], "王小东".encode("gb18030")),
    ([None, "ISO 2022 IR 87"], "Yamada=山田", [None, "ISO 2022 IR 87"], b"Yamada=\x1b$B;3ED\x1b(B"),
    (["ISO_IR 100"], "山田", ["ISO_IR 192"], "山田".encode()),
    (["ISO_IR 13"], "¥", ["ISO_IR 192"], "¥".encode()),
    (["NOBODY KNOWS"], "Äneas", ["ISO_IR 192"], "Äneas".encode()),
    (None, "Äneas", ["ISO_IR 192"], "Äneas".encode()),
    (None, "Aeneas", None, b"Aeneas"),
    (["ISO_IR 100"], "Aeneas", ["ISO_IR 100"], b"Aeneas"),
]


@pytest.mark.parametrize(("terms", "name", "stored", "raw"), CHARACTER_SETS)
def test_text_keeps_its_character_set_where_that_suffices(terms, name, stored, raw):
    groups = dict(zip(("Alphabetic", "Ideographic"), name.split("="), strict=False))
    item = {"00081070": {"vr": "PN", "Value": [groups]}}
    model = {"00401001": {"vr": "SQ", "Value": [item]}, "00100010": {"vr": "PN", "Value": [groups]}}
    if terms:
        model["00080005"] = {"vr": "CS", "Value": terms}
    found = read(model)
    assert found.get("00080005", {}).get("Value") == stored
    assert found["00100010"]["Value"] == found["00401001"]["Value"][0]["00081070"]["Value"] == [groups]
    assert raw in encoded(model)
    data_set = by_pydicom(model)
    assert str(data_set.PatientName) == str(data_set[0x00401001][0][0x00081070].value) == name


def test_an_item_with_a_character_set_of_its_own_keeps_it_unless_all_become_utf_8():
    item = {"00080005": {"vr": "CS", "Value": ["ISO_IR 101"]}, "00104000": {"vr": "LT", "Value": ["Łódź"]}}
    model = {"00080005": {"vr": "CS", "Value": ["ISO_IR 100"]}, "00401001": {"vr": "SQ", "Value": [item]}}
    assert read(model) == model
    model["00100020"] = {"vr": "LO", "Value": ["山"]}
    found = read(model)
    utf_8 = {"vr": "CS", "Value": ["ISO_IR 192"]}
    assert found["00080005"] == found["00401001"]["Value"][0]["00080005"] == utf_8
    assert found["00401001"]["Value"][0]["00104000"] == item["00104000"]


@pytest.mark.parametrize(
    ("number", "text"),
    [
        (1, "1"),
        (0.1, "0.1"),
        (1e-05, "1e-05"),
        (1 / 3, "0.33333333333333"),
        (-1 / 3, "-0.3333333333333"),
        (-1.2345678901234567e-100, "-1.23456789e-100"),
        (123456789012345678, "1.2345678901e+17"),
    ],
)
def test_a_decimal_string_holds_as_many_digits_as_it_can(number, text):
    raw = encoded({"00280030": {"vr": "DS", "Value": [number]}})
    assert raw[8:].decode().strip() == text
    assert len(text) <= 16


def test_a_value_too_long_for_its_vr_becomes_unknown_and_is_read_as_it_was():
    values = [number % 65536 for number in range(40_000)]
    raw = encoded({"00281201": {"vr": "OW", "InlineBinary": ""}, "00281101": {"vr": "US", "Value": values}})
    assert raw[4:6] == b"UN"
    (length,) = struct.unpack_from("<I", raw, 8)
    assert length == 80_000


# --------------------------------------------------------------------------------------------------- what stands apart


def test_bulk_values_are_copied_wherever_they_stand():
    contents = {"a": content(b"abc"), "b": joined([content(b"12"), content(b"345")])}
    item = {"00420011": {"vr": "OB", "BulkDataURI": "b"}}
    model = {"00091001": {"vr": "UN", "BulkDataURI": "a"}, "0040A730": {"vr": "SQ", "Value": [item]}}
    data_set = by_pydicom(model, contents)
    assert data_set[0x00091001].value == b"abc\0"
    assert data_set[0x0040A730][0][0x00420011].value == b"12345\0"


def test_frames_become_fragments_of_even_length():
    pixels = encapsulated([content(b"\xff\xd8odd"), content(b"\xff\xd8even")])
    assert pixels.size_bytes == UNDEFINED
    model = {
        "00080016": {"vr": "UI", "Value": [SECONDARY_CAPTURE]},
        "00280008": {"vr": "IS", "Value": [2]},
        "7FE00010": {"vr": "OB", "BulkDataURI": "p"},
    }
    data_set = by_pydicom(model, {"p": pixels}, "1.2.840.10008.1.2.4.50")
    frames = pydicom.encaps.generate_frames(data_set.PixelData, number_of_frames=2)
    assert list(frames) == [b"\xff\xd8odd\0", b"\xff\xd8even"]


def test_a_value_that_no_element_can_hold_is_refused():
    huge = Content(1 << 32, lambda: iter(()))
    with pytest.raises(TooLarge):
        encoded({"7FE00010": {"vr": "OB", "BulkDataURI": "p"}}, {"p": huge})
    with pytest.raises(TooLarge):
        encapsulated([huge])


# ---------------------------------------------------------------------------------------------------- what is refused


def nested(depth):
    model = {}
    for _ in range(depth):
        model = {"0040A730": {"vr": "SQ", "Value": [model]}}
    return model


def test_sequences_are_written_as_deep_as_they_are_read_and_no_deeper():
    assert read(nested(MAXIMUM_DEPTH))["0040A730"]["Value"]
    with pytest.raises(TooComplex):
        encoded(nested(MAXIMUM_DEPTH + 1))


REFUSED = {
    "a keyword for a tag": {"PatientID": {"vr": "LO", "Value": ["1"]}},
    "a tag in small letters": {"0010001a": {"vr": "LO", "Value": ["1"]}},
    "no element": {"00100020": "P1"},
    "null": {"00100020": None},
    "an unknown vr": {"00100020": {"vr": "XX", "Value": ["1"]}},
    "a vr that is no text": {"00100020": {"vr": 5, "Value": ["1"]}},
    "values that are no list": {"00100020": {"vr": "LO", "Value": "1"}},
    "an object for text": {"00100020": {"vr": "LO", "Value": [{"a": 1}]}},
    "true for text": {"00100020": {"vr": "LO", "Value": [True]}},
    "true for a number": {"00280010": {"vr": "US", "Value": [True]}},
    "a number out of range": {"00280010": {"vr": "US", "Value": [65536]}},
    "a negative number": {"00280010": {"vr": "US", "Value": [-1]}},
    "half a number": {"00280010": {"vr": "US", "Value": [1.5]}},
    "no number": {"00280010": {"vr": "US", "Value": ["x"]}},
    "null for a number": {"00280010": {"vr": "US", "Value": [None]}},
    "millions of digits": {"00280010": {"vr": "US", "Value": ["9" * 100_000]}},
    "no tag": {"00280009": {"vr": "AT", "Value": ["PatientName"]}},
    "no Base64": {"7FE00010": {"vr": "OB", "InlineBinary": "!!!!"}},
    "binary and values": {"7FE00010": {"vr": "OB", "InlineBinary": "AAAA", "Value": [1]}},
    "a list for a binary value": {"7FE00010": {"vr": "OB", "Value": [1, 2]}},
    "a code beyond its repertoire": {"00080060": {"vr": "CS", "Value": ["山"]}},
    "an item that is none": {"0040A730": {"vr": "SQ", "Value": ["x"]}},
    "a delimiter": {"FFFEE00D": {"vr": "OB", "InlineBinary": "AAAA"}},
    "a command": {"00000100": {"vr": "US", "Value": [1]}},
    "a reference to nothing": {"7FE00010": {"vr": "OB", "BulkDataURI": "nowhere"}},
    "a reference that is no text": {"7FE00010": {"vr": "OB", "BulkDataURI": 5}},
    "a character set that is no list": {"00080005": {"vr": "CS", "Value": "ISO_IR 100"}},
}


@pytest.mark.parametrize("name", REFUSED)
@pytest.mark.parametrize("is_nested", [False, True])
def test_what_cannot_be_written_is_refused_and_no_value_is_repeated(name, is_nested):
    model = REFUSED[name]
    if is_nested:
        model = {"0040A730": {"vr": "SQ", "Value": [model]}}
    with pytest.raises(InvalidInstance) as caught:
        encoded(model)
    assert "山" not in str(caught.value)


words = st.sampled_from(["", "1", "-1.5", "x", "Ä", "山", "a\\b", "A^B=C", "00100010", "Alphabetic", "\x1b$B", "1e400"])
json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**63) | st.floats(allow_nan=False) | words,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(words, inner, max_size=3),
    max_leaves=8,
)
tags = st.sampled_from(["00080005", "00100010", "00100020", "00280010", "0040A730", "7FE00010", "00091001", "FFFEE000"])
elements = st.fixed_dictionaries(
    {},
    optional={
        "vr": st.sampled_from([*VALUES, *BINARY, "SQ", "XX"]),
        "Value": st.lists(json_values, max_size=3) | json_values,
        "InlineBinary": json_values,
        "BulkDataURI": st.just("a"),
    },
)


@settings(suppress_health_check=[HealthCheck.too_slow], deadline=None)
@given(st.dictionaries(tags, elements | json_values, max_size=5))
def test_any_json_is_written_so_that_it_can_be_read_or_refused_by_an_error_of_ours(model):
    try:
        raw = encoded(model, {"a": content(b"xyz")})
    except GatewayError:
        return
    if raw:
        read_data_set(raw, 0, EXPLICIT)


texts = st.text(st.characters(codec="utf-8", exclude_characters="\\\x1b\0\x0c\n\r\t^=", exclude_categories=("Cc",)))


@settings(suppress_health_check=[HealthCheck.too_slow], deadline=None)
@given(st.lists(texts.map(str.strip).filter(lambda text: text.strip(" ") == text), min_size=1, max_size=4))
def test_text_of_any_kind_comes_back(values):
    expected = [value or None for value in values]
    model = {"00080005": {"vr": "CS", "Value": ["ISO_IR 100"]}, "00081030": {"vr": "LO", "Value": expected}}
    found = read(model)["00081030"].get("Value", [None])
    assert found == expected


@pytest.mark.needs("dcmdump")
def test_dcmdump_reads_it_without_a_word(tmp_path):
    model = {
        f"0009{number:04X}": {"vr": vr, "Value": values} for number, (vr, values) in enumerate(VALUES.items(), 0x1001)
    }
    model["00080005"] = {"vr": "CS", "Value": ["ISO_IR 192"]}
    model["00090010"] = {"vr": "LO", "Value": ["TEST"]}
    model["0040A730"] = {"vr": "SQ", "Value": [{"00080100": {"vr": "SH", "Value": ["1"]}}, {}]}
    path = tmp_path / "one.dcm"
    header = canonical_header(Announcement(SECONDARY_CAPTURE, "1.2.3", EXPLICIT_VR_LITTLE_ENDIAN))
    path.write_bytes(header + encoded(orjson.loads(orjson.dumps(model))))
    run = subprocess.run(["dcmdump", "-v", "+L", path], capture_output=True, text=True, check=True)
    assert "E:" not in run.stderr
    assert run.stdout.count("(0009,") == len(VALUES) + 1
