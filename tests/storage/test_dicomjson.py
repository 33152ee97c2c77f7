"""Packed metadata: what goes in comes out, with references made absolute."""

from __future__ import annotations

import orjson
from hypothesis import given
from hypothesis import strategies as st

from storage.dataset import read_data_set
from storage.dicomjson import pack_metadata, unpack_metadata
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
