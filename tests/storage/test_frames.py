"""Frame tables: every frame's bytes and nothing else."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from storage.dataset import read_data_set
from storage.errors import NotFound
from storage.frames import (
    NO_FRAMES,
    FrameTable,
    align_bits,
    encapsulated_table,
    frame_table,
    native_table,
)
from storage.uids import transfer_syntax
from tests.synthetic import EXPLICIT, data_set, element, encapsulated, image, image_elements

JPEG = "1.2.840.10008.1.2.4.50"
RLE = "1.2.840.10008.1.2.5"
MP4 = "1.2.840.10008.1.2.4.102"


def table_of(raw: bytes, syntax: str = EXPLICIT) -> tuple[FrameTable, str]:
    content = read_data_set(raw, 0, transfer_syntax(syntax))
    return frame_table(content, transfer_syntax(syntax), lambda start, end: raw[start:end])


def compressed(fragments, *, frames, offsets=(), extra=()):
    elements = (*image_elements(4, 4, frames=frames), encapsulated(fragments, offsets=offsets), *extra)
    return data_set(extra=elements)


def frames_of(raw: bytes, syntax: str) -> list[bytes]:
    table, _ = table_of(raw, syntax)
    numbers = range(1, table.number_of_frames + 1)
    return [b"".join(raw[start:end] for start, end in table.ranges(number)) for number in numbers]


@given(st.integers(1, 9), st.integers(1, 9), st.integers(1, 7))
def test_native_frames_tile_the_pixel_data(rows, columns, frames):
    raw = image(rows, columns, frames=frames)
    table, warning = table_of(raw)
    ranges = [table.ranges(number)[0] for number in range(1, frames + 1)]
    assert table.number_of_frames == frames
    assert not warning
    assert all(end - start == rows * columns for start, end in ranges)
    assert all(ranges[index][1] == ranges[index + 1][0] for index in range(frames - 1))
    assert raw[ranges[0][0]] == 0


@given(st.integers(1, 11), st.integers(1, 11), st.integers(1, 9), st.randoms(use_true_random=False))
def test_packed_bits_of_a_frame_get_a_byte_of_their_own(rows, columns, frames, random):
    bits = [[random.getrandbits(1) for _ in range(rows * columns)] for _ in range(frames)]
    flat = [bit for frame in bits for bit in frame]
    packed = bytes(sum(bit << place for place, bit in enumerate(flat[at : at + 8])) for at in range(0, len(flat), 8))
    raw = data_set(extra=(*image_elements(rows, columns, bits=1, frames=frames), element(0x7FE00010, "OB", packed)))
    table, _ = table_of(raw)
    for number, expected in enumerate(bits, start=1):
        first, last = table.bits(number)
        ((start, end),) = table.ranges(number)
        aligned = align_bits(raw[start:end], first % 8, last - first)
        assert [(aligned[at // 8] >> at % 8) & 1 for at in range(rows * columns)] == expected


def test_a_short_pixel_data_has_only_its_whole_frames():
    raw = image(4, 4, frames=3, pixels=b"x" * 40)
    table, warning = table_of(raw)
    assert table.number_of_frames == 2
    assert warning == "The Pixel Data is shorter than its frames"


def test_an_object_without_pixels_has_no_frames():
    table, warning = table_of(data_set())
    assert table == NO_FRAMES
    assert table.number_of_frames == 0
    assert not warning


def test_one_frame_takes_every_fragment():
    assert frames_of(compressed([b"ab", b"cd", b"ef"], frames=0), JPEG) == [b"abcdef"]


def test_as_many_fragments_as_frames_are_one_each_whatever_the_offsets_say():
    assert frames_of(compressed([b"ab", b"cd"], frames=2, offsets=(0, 999)), RLE) == [b"ab", b"cd"]


def test_the_basic_offset_table_groups_fragments():
    raw = compressed([b"ab", b"cd", b"efgh"], frames=2, offsets=(0, 20))
    assert frames_of(raw, JPEG) == [b"abcd", b"efgh"]


def test_the_extended_offset_table_groups_fragments():
    import struct

    extra = (element(0x7FE00001, "OV", struct.pack("<2Q", 0, 20)), element(0x7FE00002, "OV", struct.pack("<2Q", 12, 4)))
    assert frames_of(compressed([b"ab", b"cd", b"efgh"], frames=2, extra=extra), JPEG) == [b"abcd", b"efgh"]


def test_without_offsets_a_frame_starts_where_a_codestream_does():
    fragments = [b"\xff\xd8ab", b"cdef", b"\xff\xd8gh", b"ijkl", b"mnop"]
    assert frames_of(compressed(fragments, frames=2), JPEG) == [b"".join(fragments[:2]), b"".join(fragments[2:])]


def test_frames_that_cannot_be_told_apart_give_none_and_a_warning():
    table, warning = table_of(compressed([b"ab", b"cd", b"ef"], frames=2), JPEG)
    assert table.number_of_frames == 0
    assert warning == "The Pixel Data's frames cannot be told apart"


def test_offsets_that_lie_are_not_believed():
    table, _ = table_of(compressed([b"ab", b"cd", b"ef"], frames=2, offsets=(0, 7)), JPEG)
    assert table.number_of_frames == 0


def test_a_video_is_one_stream():
    assert frames_of(compressed([b"ab", b"cd"], frames=100), MP4) == [b"abcd"]


@given(st.lists(st.lists(st.tuples(st.integers(0, 2**40), st.integers(0, 2**31)), min_size=1, max_size=4), min_size=1))
def test_what_is_written_is_read(frames):
    given_frames = [tuple((start, start + length) for start, length in fragments) for fragments in frames]
    table = FrameTable(encapsulated_table(given_frames).encoded)
    assert table.number_of_frames == len(given_frames)
    assert [table.ranges(number) for number in range(1, len(given_frames) + 1)] == given_frames


@pytest.mark.parametrize("number", [0, -1, 4, 2**31])
def test_a_frame_beyond_the_last_is_not_found(number):
    with pytest.raises(NotFound):
        native_table(0, 128, 3).ranges(number)
