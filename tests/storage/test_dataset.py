"""The Data Set walker against bytes made by hand, and against pydicom over its own files."""

from __future__ import annotations

import struct
import time
import tracemalloc
import warnings
import zlib
from pathlib import Path

import orjson
import pydicom
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydicom.misc import is_dicom

from storage.dataset import MAXIMUM_DEPTH, read_data_set
from storage.errors import GatewayError, NotDicom, TooComplex
from storage.filemeta import read_file_meta
from storage.uids import TRANSFER_SYNTAXES, transfer_syntax
from tests.synthetic import (
    BIG_ENDIAN,
    DEFLATED,
    EXPLICIT,
    IMPLICIT,
    UNDEFINED,
    data_set,
    element,
    encapsulated,
    image,
    implicit_element,
    item,
    sequence,
    us,
)


def read(raw: bytes, syntax: str = EXPLICIT):
    return read_data_set(raw, 0, transfer_syntax(syntax))


def test_values_come_by_tag_in_ascending_order():
    found = read(element(0x00100020, "LO", "P1") + element(0x00080060, "CS", "CT"))
    assert list(found.json) == ["00080060", "00100020"]
    assert found.json["00080060"] == {"vr": "CS", "Value": ["CT"]}


def test_an_implicit_data_set_gets_its_vrs_from_the_dictionary():
    found = read(implicit_element(0x00080060, "MR") + implicit_element(0x00280010, b"\2\0"), IMPLICIT)
    assert found.json["00080060"] == {"vr": "CS", "Value": ["MR"]}
    assert found.json["00280010"] == {"vr": "US", "Value": [2]}


def test_big_endian_numbers_are_turned_round():
    found = read(us(0x00280010, 513, order=">"), BIG_ENDIAN)
    assert found.json["00280010"]["Value"] == [513]


def test_sequences_of_either_length_are_equal():
    inner = element(0x00080060, "CS", "CT")
    defined = read(sequence(0x00400275, item(inner), item(b"")))
    delimited = read(
        sequence(0x00400275, item(inner, length=UNDEFINED), item(b"", length=UNDEFINED), is_delimited=True)
    )
    assert defined.json == delimited.json
    assert defined.json["00400275"]["Value"] == [{"00080060": {"vr": "CS", "Value": ["CT"]}}, {}]


def test_unknown_vr_of_undefined_length_holds_implicit_elements():
    content = item(implicit_element(0x00080060, "CT"), length=UNDEFINED) + struct.pack("<HHI", 0xFFFE, 0xE0DD, 0)
    found = read(element(0x00091001, "UN", b"", length=UNDEFINED) + content)
    assert found.json["00091001"] == {"vr": "SQ", "Value": [{"00080060": {"vr": "CS", "Value": ["CT"]}}]}


def test_an_unknown_vr_is_the_one_of_the_dictionary():
    """gdcmconv writes all elements so that came with implicit VR."""
    uid, number = element(0x0020000D, "UN", b"1.2.3\0"), element(0x00280010, "UN", b"\2\0")
    private, nested = element(0x00111001, "UN", b"ab"), element(0x00081140, "UN", item(uid))
    found = read(nested + private + uid + number)
    assert found.text("0020000D") == "1.2.3"
    assert found.json["0020000D"]["vr"] == "UI"
    assert found.json["00280010"] == {"vr": "US", "Value": [2]}
    assert found.json["00111001"] == {"vr": "UN", "InlineBinary": "YWI="}
    assert found.json["00081140"]["vr"] == "UN", "a sequence that nobody wrote as one stays as it is"


def test_pixel_data_is_a_reference_and_its_place_is_known():
    raw = image(4, 4)
    found = read(raw)
    assert found.json["7FE00010"] == {"vr": "OW", "BulkDataURI": "\0/bulkdata/7FE00010"}
    place = found.bulk["7FE00010"]
    assert raw[place.start : place.end] == bytes(index % 251 for index in range(16))
    assert found.pixel_data is not None
    assert (found.pixel_data.start, found.pixel_data.end) == (place.start, place.end)


def test_large_values_inside_sequences_have_a_path():
    large = bytes(range(256)) * 20
    raw = sequence(0x00480105, item(element(0x00282000, "OB", b"\1" * 70_000)), item(element(0x00091001, "OB", large)))
    found = read(raw)
    place = found.bulk["00480105/1/00091001"]
    assert raw[place.start : place.end] == large
    assert "00480105/0/00282000" in found.bulk


def test_small_look_up_tables_stay_inline():
    found = read(element(0x00281201, "OW", b"\1\2" * 16_384))
    assert "InlineBinary" in found.json["00281201"]


def test_group_lengths_are_left_out():
    assert list(read(element(0x00080000, "UL", b"\0\0\0\0") + element(0x00080060, "CS", "CT")).json) == ["00080060"]


def test_fragments_and_offsets_are_found_without_reading_them():
    raw = data_set(extra=(encapsulated([b"ab", b"cdef"], offsets=(0, 10)),))
    pixel_data = read(raw, "1.2.840.10008.1.2.4.50").pixel_data
    assert pixel_data is not None
    assert [raw[start:end] for start, end in pixel_data.fragments] == [b"ab", b"cdef"]
    assert pixel_data.basic_offsets == (0, 10)


def test_pixel_data_cut_short_is_kept_with_a_warning():
    raw = image(4, 4)[:-6]
    found = read(raw)
    assert found.warnings == ("The Pixel Data is shorter than its length says",)


@pytest.mark.parametrize(
    "raw",
    [
        element(0x00080060, "CS", "CT", length=400),
        element(0x00080060, "CS", "CT") + b"\x08\0\x61\0CS",
        element(0x00400275, "SQ", b"", length=UNDEFINED) + item(b""),
        element(0x00400275, "SQ", item(b"", length=50)),
        element(0x00400275, "SQ", b"\x08\0\x61\0CS\2\0CT"),
        struct.pack("<HHI", 0xFFFE, 0xE00D, 0) + element(0x00080060, "CS", "CT"),
        b"\x08\0\x60\0\x07\x01\2\0CT",
        element(0x00080060, "CS", b"", length=0)[:6],
        data_set(extra=(element(0x7FE00010, "OB", b"", length=UNDEFINED) + item(b"") + item(b"ab", length=999),)),
        b"",
        b"\0" * 400,
    ],
)
def test_a_broken_structure_is_not_dicom(raw):
    if raw.startswith(element(0x00080060, "CS", "CT")) and len(raw) < 20:
        # A few bytes behind the last element are kept with a warning: senders pad their files.
        assert read(raw).warnings
        return
    with pytest.raises(NotDicom):
        read(raw)


def nested(depth: int, *, is_delimited: bool) -> bytes:
    raw = element(0x00080060, "CS", "CT")
    for _ in range(depth):
        raw = sequence(0x00400275, item(raw), is_delimited=is_delimited)
    return raw


@pytest.mark.parametrize("is_delimited", [True, False])
def test_sequences_may_nest_to_the_limit_and_no_deeper(is_delimited):
    assert read(nested(MAXIMUM_DEPTH, is_delimited=is_delimited)).json
    for depth in (MAXIMUM_DEPTH + 1, 300, 1000):
        with pytest.raises(TooComplex):
            read(nested(depth, is_delimited=is_delimited))


def costs(raw: bytes, syntax: str = EXPLICIT) -> tuple[float, int]:
    """CPU seconds and peak bytes of refusing a bomb."""
    tracemalloc.start()
    started = time.process_time()
    with pytest.raises(TooComplex):
        read(raw, syntax)
    seconds = time.process_time() - started
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    return seconds, peak


def test_half_a_million_empty_elements_are_refused_cheaply():
    raw = element(0x00091001, "LO") * 500_000
    _, peak = costs(raw)
    assert peak < 64 << 20


def test_half_a_million_empty_items_are_refused_cheaply():
    _, peak = costs(sequence(0x00400275, *([item(b"")] * 500_000)))
    assert peak < 64 << 20


def test_a_header_of_many_large_texts_is_refused():
    raw = b"".join(element(0x00091000 + index, "UT", b"x" * 60_000) for index in range(300))
    with pytest.raises(TooComplex):
        read(raw)


def test_twenty_thousand_frames_of_functional_groups_are_read():
    group = item(
        sequence(0x00209113, item(element(0x00200032, "DS", "1\\2\\3")))
        + sequence(0x00289132, item(element(0x00281050, "DS", "40") + element(0x00281051, "DS", "400")))
    )
    raw = data_set(extra=(element(0x00280008, "IS", "20000"), sequence(0x52009230, *([group] * 20_000))))
    found = read(raw)
    groups = orjson.loads(orjson.dumps(found.json["52009230"]))["Value"]
    assert len(groups) == 20_000
    assert groups[-1]["00289132"]["Value"][0]["00281051"]["Value"] == [400.0]


def test_functional_groups_without_frames_have_no_budget_of_their_own():
    raw = data_set(extra=(sequence(0x52009230, *([item(b"")] * 200_000)),))
    with pytest.raises(TooComplex):
        read(raw)


def test_functional_groups_that_lie_about_their_frames_cost_little_memory():
    raw = data_set(extra=(element(0x00280008, "IS", "99999999"), sequence(0x52009230, *([item(b"")] * 500_000))))
    _, peak = costs(raw)
    assert peak < 64 << 20


def deflated(raw: bytes) -> bytes:
    deflater = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS)
    return deflater.compress(raw) + deflater.flush()


def test_a_deflated_data_set_is_read_like_its_inflated_self():
    raw = image(8, 8)
    assert read(deflated(raw), DEFLATED).json == read(raw).json


def test_a_deflate_bomb_is_refused_in_little_memory():
    pixels = element(0x7FE00010, "OW", b"", length=200 << 20)
    deflater = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS)
    bomb = deflater.compress(data_set(extra=(pixels,)))
    for _ in range(200):
        bomb += deflater.compress(b"\0" * (1 << 20))
    _, peak = costs(bomb + deflater.flush(), DEFLATED)
    assert peak < 32 << 20


def test_a_damaged_deflate_stream_is_not_dicom():
    with pytest.raises(NotDicom):
        read(b"\xff" * 300, DEFLATED)


@given(st.binary(max_size=400), st.sampled_from(sorted(TRANSFER_SYNTAXES)))
@settings(max_examples=400, deadline=None)
def test_any_bytes_give_a_data_set_or_an_error_of_ours(raw, syntax):
    try:
        read(raw, syntax)
    except GatewayError:
        return


@given(st.data())
@settings(max_examples=300, deadline=None)
def test_any_mutation_of_an_image_gives_a_data_set_or_an_error_of_ours(data):
    raw = bytearray(image(4, 4, frames=2) + sequence(0x99990010, item(element(0x00080060, "CS", "CT"))))
    for _ in range(data.draw(st.integers(1, 4))):
        raw[data.draw(st.integers(0, len(raw) - 1))] = data.draw(st.integers(0, 255))
    try:
        read(bytes(raw))
    except GatewayError:
        return


def readable_files() -> list[Path]:
    """pydicom's own files that its reader takes as Part 10."""
    folder = Path(pydicom.__file__).parent / "data" / "test_files"
    return [path for path in sorted(folder.rglob("*.dcm")) if is_dicom(path)]


def flattened(content: pydicom.Dataset) -> set[tuple[str, ...]]:
    """Every path of tags of a Data Set, without group lengths."""
    found = set()
    for tag in content.keys():  # noqa: SIM118 - iterating would decode values
        if tag.element:
            found.add((f"{int(tag):08X}",))
            one = content.get_item(tag)
            if getattr(one, "VR", "") == "SQ" or (one is not None and not hasattr(one, "is_implicit_VR")):
                value = content[tag].value
                if content[tag].VR == "SQ":
                    for index, inner in enumerate(value):
                        found |= {(f"{int(tag):08X}", str(index), *path) for path in flattened(inner)}
    return found


def flattened_json(json: dict) -> set[tuple[str, ...]]:
    found = set()
    for tag, one in json.items():
        found.add((tag,))
        if one["vr"] == "SQ":
            for index, inner in enumerate(one.get("Value", [])):
                found |= {(tag, str(index), *path) for path in flattened_json(inner)}
    return found


KNOWN_DIFFERENCES = {
    "rtplan_truncated.dcm": NotDicom,  # a sequence that the file does not hold to its end
    "meta_missing_tsyntax.dcm": None,
}


@pytest.mark.parametrize("path", readable_files(), ids=lambda path: path.name)
def test_the_walk_finds_what_pydicom_finds(path):
    raw = path.read_bytes()
    announcement, start = read_file_meta(raw) or (None, 0)
    assert announcement is not None
    syntax = transfer_syntax(announcement.transfer_syntax_uid)
    expected_error = KNOWN_DIFFERENCES.get(path.name)
    if expected_error:
        with pytest.raises(expected_error):
            read_data_set(raw, start, syntax)
        return
    found = read_data_set(raw, start, syntax)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        theirs = pydicom.dcmread(path)
        json = orjson.loads(orjson.dumps(found.json))
        top = {f"{int(tag):08X}" for tag in theirs.keys() if tag.element}  # noqa: SIM118 - see above
        assert set(json) == top
        for tag in ("00080018", "0020000D", "00080060", "00280010", "00280011", "00280100"):
            if tag in json and "Value" in json[tag]:
                assert str(json[tag]["Value"][0]) == str(theirs[int(tag, 16)].value)
        nested_theirs = {path for path in flattened(theirs) if len(path) > 1}
        assert nested_theirs <= flattened_json(json)
