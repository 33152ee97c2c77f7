"""Packed metadata: what goes in comes out, with references made absolute."""

from __future__ import annotations

import zlib

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from storage.dataset import read_data_set
from storage.dicomjson import deflated_metadata_array, metadata_array, pack_metadata, unpack_metadata
from storage.uids import transfer_syntax
from tests.synthetic import EXPLICIT, data_set, element, image

URL = "https://pacs.example.org/dicomweb/studies/1/series/2/instances/3"


def metadata_of(raw: bytes, url: str = URL) -> dict:
    found = read_data_set(raw, 0, transfer_syntax(EXPLICIT))
    return orjson.loads(unpack_metadata(pack_metadata(found.json, EXPLICIT), url))


def test_references_become_absolute():
    assert metadata_of(image())["7FE00010"] == {"vr": "OW", "BulkDataURI": URL + "/bulkdata/7FE00010"}


def test_the_transfer_syntax_is_told_and_tags_ascend():
    found = metadata_of(image())
    assert found["00083002"] == {"vr": "UI", "Value": [EXPLICIT]}
    assert list(found) == sorted(found)


def test_text_that_looks_like_a_reference_stays_text():
    hostile = '"BulkDataURI":"\\u0000/bulkdata/7FE00010'
    found = metadata_of(data_set(extra=(element(0x00104000, "LT", hostile),)))
    assert found["00104000"]["Value"] == [hostile]


@given(st.text(st.characters(codec="latin-1", exclude_characters="\0\\\x1b"), min_size=1, max_size=40))
def test_text_comes_back_as_it_was(text):
    found = metadata_of(data_set(extra=(element(0x00104000, "LT", text), element(0x00080005, "CS", "ISO_IR 100"))))
    assert found["00104000"].get("Value", [""])[0] == text.rstrip(" ")


def test_a_base_that_json_has_to_escape_is_escaped():
    assert metadata_of(image(), 'http://a"b')["7FE00010"]["BulkDataURI"] == 'http://a"b/bulkdata/7FE00010'


def packed(number: int) -> tuple[bytes, str]:
    found = read_data_set(image(rows=number + 1), 0, transfer_syntax(EXPLICIT))
    return pack_metadata(found.json, EXPLICIT), f"{URL}/{number}"


@pytest.mark.parametrize("count", [1, 2, 50])
def test_many_instances_are_one_array_and_one_zlib_stream_of_it(count):
    kept = [packed(number) for number in range(count)]
    text = b"".join(metadata_array(kept))
    assert [one["7FE00010"]["BulkDataURI"] for one in orjson.loads(text)] == [
        f"{URL}/{number}/bulkdata/7FE00010" for number in range(count)
    ]
    inflater = zlib.decompressobj()
    assert inflater.decompress(b"".join(deflated_metadata_array(kept))) == text
    assert inflater.eof
    assert inflater.unused_data == b""


def test_references_of_every_length_fit_between_deflated_pieces():
    json = {f"{0x00420000 + tag:08X}": {"vr": "OB", "BulkDataURI": f"\0/bulkdata/{tag}"} for tag in range(300)}
    kept = pack_metadata(json, EXPLICIT)
    for url in ("", "x", "x" * 65535, "x" * 65536, "x" * 200_000, 'a"b'):
        array = b"".join(deflated_metadata_array([(kept, url)] * 2))
        assert zlib.decompress(array) == b"".join(metadata_array([(kept, url)] * 2))


@given(st.lists(st.tuples(st.text(max_size=300), st.booleans()), min_size=1, max_size=8), st.text(max_size=20))
def test_whatever_text_is_packed_the_two_codings_agree(values, url):
    json = {
        f"{0x00090000 + number:08X}": {"vr": "OB", "BulkDataURI": "\0/b"} if is_bulk else {"vr": "LT", "Value": [value]}
        for number, (value, is_bulk) in enumerate(values)
    }
    kept = [(pack_metadata(json, EXPLICIT), url)]
    assert zlib.decompress(b"".join(deflated_metadata_array(kept))) == b"".join(metadata_array(kept))


def test_rows_without_a_table_are_given_out_too():
    kept, url = packed(3)
    old = zlib.compress(zlib.decompressobj().decompress(kept), 1)
    mixed = [(old, url), (kept, url), (old, url)]
    assert zlib.decompress(b"".join(deflated_metadata_array(mixed))) == b"".join(metadata_array([(kept, url)] * 3))
