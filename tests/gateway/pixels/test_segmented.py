from __future__ import annotations

import struct

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.pixels.processing import apply_color_lut
from pydicom.uid import ExplicitVRLittleEndian

from gateway.pixels.segmented import expanded
from storage.errors import Undecodable


def words(*values: int) -> bytes:
    return struct.pack(f"<{len(values)}H", *values)


def by_pydicom(data: bytes, count: int, bits: int) -> list[int]:
    data_set = Dataset()
    data_set.file_meta = FileMetaDataset()
    data_set.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    data_set.PhotometricInterpretation = "PALETTE COLOR"
    data_set.BitsAllocated, data_set.PixelRepresentation = 16, 0
    for colour in ("Red", "Green", "Blue"):
        setattr(data_set, f"{colour}PaletteColorLookupTableDescriptor", [count & 0xFFFF, 0, bits])
        setattr(data_set, f"Segmented{colour}PaletteColorLookupTableData", data)
    indices = np.arange(count, dtype="u2")[None, :]
    return apply_color_lut(indices, data_set)[0, :, 0].tolist()


SLOPES = words(0, 1, 0, 1, 100, 0xFFFF, 1, 155, 300, 0, 3, 7, 8, 9)
REPEATED = words(0, 2, 5, 10, 1, 4, 90, 2, 2, 0, 0, 0, 1, 77)
BYTES = bytes([0, 2, 5, 10, 1, 4, 90, 2, 2, 0, 0, 0, 0, 0, 1, 77])


@pytest.mark.parametrize(
    ("data", "count", "bits"), [(SLOPES, 259, 16), (REPEATED, 13, 16), (BYTES, 13, 8), (BYTES + b"\0", 13, 8)]
)
def test_segments_are_what_an_independent_reader_makes_of_them(data, count, bits):
    assert expanded(data, count, bits) == by_pydicom(data, count, bits)


def test_a_slope_of_a_whole_table():
    assert expanded(words(0, 1, 0, 1, 65535, 65535), 65536, 16) == list(range(65536))


@pytest.mark.parametrize(
    ("data", "count"),
    [
        (b"", 1),
        (words(0, 4, 1, 2), 4),
        (words(0, 4, 1, 2), 3),
        (words(1, 4, 9), 4),
        (words(3, 1, 9), 1),
        (words(0, 1, 9), 2),
        (words(0, 1, 9, 2, 1, 6, 0, 2, 1, 6, 0), 9),
        (words(0, 1, 9, 2, 1, 0xFFFF, 0xFFFF), 2),
        (words(0, 1, 9, 2), 2),
    ],
    ids=["none", "cut", "too many", "slope first", "unknown", "short", "nested", "outside", "no place"],
)
def test_malformed_segments_are_refused(data, count):
    with pytest.raises(Undecodable):
        expanded(data, count, 16)


@given(st.binary(max_size=200), st.integers(1, 65536), st.sampled_from([8, 16]))
def test_whatever_there_is_has_as_many_entries_as_asked_for_or_is_refused(data, count, bits):
    try:
        assert len(expanded(data, count, bits)) == count
    except Undecodable:
        return
