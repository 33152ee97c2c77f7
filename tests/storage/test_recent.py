"""Elements that were read before are the same when they come again, and only then."""

from __future__ import annotations

import struct
from pathlib import Path

import orjson
import pytest

import storage.dataset
from storage.dataset import read_data_set
from storage.errors import NotDicom, TooComplex
from storage.filemeta import read_file_meta
from storage.recent import MAXIMUM_RECENT_ELEMENTS, MAXIMUM_TABLES, RecentElements
from storage.uids import transfer_syntax
from tests.synthetic import EXPLICIT, IMPLICIT, element, implicit_element, item, sequence, us


def read(raw: bytes, syntax: str = EXPLICIT):
    return read_data_set(raw, 0, transfer_syntax(syntax))


def table_of(recent: RecentElements, encodings: tuple[str, ...] = ("iso8859",)):
    return recent.table(encodings, is_implicit=False, is_little_endian=True, is_signed=False)


def test_an_element_that_comes_again_is_not_read_again():
    raw = element(0x00100020, "LO", "COMES AGAIN")
    first, second = read(raw), read(raw)
    assert first.json["00100020"] is second.json["00100020"]
    assert second.json == {"00100020": {"vr": "LO", "Value": ["COMES AGAIN"]}}


def test_the_same_bytes_in_another_character_set_are_another_text():
    name = element(0x00100020, "LO", b"\xc4\xe4")
    latin = read(element(0x00080005, "CS", "ISO_IR 100") + name)
    cyrillic = read(element(0x00080005, "CS", "ISO_IR 144") + name)
    assert latin.json["00100020"]["Value"] == ["Ää"]
    assert cyrillic.json["00100020"]["Value"] == [b"\xc4\xe4".decode("iso8859_5")]


def test_the_sign_of_pixels_decides_each_time_what_an_implicit_value_means():
    smallest = implicit_element(0x00280106, b"\xff\xff")
    unsigned, signed = (implicit_element(0x00280103, struct.pack("<H", sign)) + smallest for sign in (0, 1))
    for _ in range(2):
        assert read(unsigned, IMPLICIT).json["00280106"] == {"vr": "US", "Value": [65535]}
        assert read(signed, IMPLICIT).json["00280106"] == {"vr": "SS", "Value": [-1]}


def test_the_sign_of_pixels_in_an_item_holds_behind_it_as_ever():
    raw = (
        implicit_element(0x00280106, b"\xfe\xff")
        + implicit_element(0x00081140, item(implicit_element(0x00280103, b"\1\0")))
        + implicit_element(0x00280107, b"\xff\xff")
    )
    for _ in range(2):
        found = read(raw, IMPLICIT).json
        assert (found["00280106"]["vr"], found["00280107"]["vr"]) == ("US", "SS")


def test_the_same_bytes_in_another_byte_order_are_another_number():
    swapped = struct.pack("<HH2sHH", 0x0028, 0x0010, b"US", 2, 0x0102)
    assert read(swapped).json["00280010"]["Value"] == [0x0102]
    big = struct.pack(">HH2sH", 0x0028, 0x0010, b"US", 2) + b"\1\2"
    assert read(big, "1.2.840.10008.1.2.2").json["00280010"]["Value"] == [0x0102]


def test_an_offset_table_is_found_each_time_however_short_it_is():
    for _ in range(2):
        raw = implicit_element(0x7FE00001, struct.pack("<2Q", 0, 64)) + implicit_element(0x7FE00010, b"\0\0")
        found = read(raw, IMPLICIT)
        assert found.pixel_data is not None
        assert found.pixel_data.extended_offsets == (0, 64)


def test_a_known_element_that_does_not_fit_its_item_is_refused():
    known = element(0x00080060, "CS", "CT")
    read(known)
    short_item = struct.pack("<HHI", 0xFFFE, 0xE000, len(known) - 2) + known[:-2]
    raw = element(0x00081140, "SQ", short_item) + known[-2:] + known
    with pytest.raises(NotDicom):
        read(raw)


def test_known_elements_count_against_the_budgets():
    raw = us(0x00280010, 7) * 20
    read(raw)
    walk = storage.dataset._Walk(raw, 0, len(raw), transfer_syntax(EXPLICIT), elements_left=19)
    with pytest.raises(TooComplex):
        walk.run()
    walk = storage.dataset._Walk(raw, 0, len(raw), transfer_syntax(EXPLICIT), header_bytes_left=len(raw) - 1)
    with pytest.raises(TooComplex):
        walk.run()
    storage.dataset._Walk(raw, 0, len(raw), transfer_syntax(EXPLICIT), 20, len(raw)).run()


def test_known_elements_in_the_wrong_order_are_put_in_order():
    raw = element(0x00100020, "LO", "Z") + sequence(0x00081140, item(us(0x00280011, 1) + us(0x00280010, 2)))
    for _ in range(2):
        found = read(raw).json
        assert list(found) == ["00081140", "00100020"]
        assert list(found["00081140"]["Value"][0]) == ["00280010", "00280011"]


def test_what_is_kept_is_bounded():
    recent = RecentElements()
    table = table_of(recent)
    for number in range(MAXIMUM_RECENT_ELEMENTS - 1):
        table[number.to_bytes(4, "little")] = ("00100020", {})
    assert table_of(recent) is table
    table[b"last"] = ("00100020", {})
    assert table_of(recent) == {}
    for number in range(MAXIMUM_TABLES - 1):
        table_of(recent, (str(number),))
    kept = table_of(recent)
    table_of(recent, ("one more",))
    assert table_of(recent) is not kept


def test_one_data_set_of_countless_elements_does_not_fill_more_than_a_table():
    raw = b"".join(us(0x00090000 + number, number) for number in range(0x1001, 0x1001 + 2 * MAXIMUM_RECENT_ELEMENTS))
    assert len(read(raw).json) == 2 * MAXIMUM_RECENT_ELEMENTS
    tables = storage.dataset._RECENT._tables.values()
    assert max(map(len, tables)) <= MAXIMUM_RECENT_ELEMENTS
    assert len(tables) <= MAXIMUM_TABLES


@pytest.mark.parametrize("path", sorted(Path("sample_dicom").rglob("*.dcm")), ids=lambda path: path.stem)
def test_a_sample_read_twice_is_read_the_same(path, monkeypatch):
    raw = path.read_bytes()
    found = read_file_meta(raw)
    assert found is not None
    announcement, start = found
    monkeypatch.setattr(storage.dataset, "_RECENT", RecentElements())
    once, again = (read_data_set(raw, start, transfer_syntax(announcement.transfer_syntax_uid)) for _ in range(2))
    assert orjson.dumps(once.json) == orjson.dumps(again.json)
    assert (once.bulk, once.pixel_data, once.warnings) == (again.bulk, again.pixel_data, again.warnings)
