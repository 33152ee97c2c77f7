"""Headers of compressed images and the ends of codestreams: of images that libraries made, and of broken ones."""

from __future__ import annotations

import io
import struct

import imagecodecs
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from gateway.pixels.codestreams import codestream_range, described, frame_ranges
from storage.errors import Undecodable
from tests.gateway.pixels.synthetic import jpeg, jpeg2000, noise

PREFIX = "1.2.840.10008.1.2.4."
GREY = noise((48, 64), np.uint8)
COLOUR = noise((48, 64, 3), np.uint8)
WIDE = noise((48, 64), np.uint16)
SMOOTH = np.arange(48 * 64, dtype=np.uint16).reshape(48, 64) * 16  # CharLS has no room for noise
SMOOTH_COLOUR = np.stack([(SMOOTH >> 8).astype(np.uint8)] * 3, axis=-1)


def reader(raw, log=None):
    def read(start, end):
        if log is not None:
            log.append(max(0, min(end, len(raw)) - start))
        return raw[start:end]

    return read


def of(media_type, raw):
    found = described(media_type, reader(raw), len(raw))
    assert (found.rows, found.columns, found.is_signed) == (48, 64, False)
    return found.samples_per_pixel, found.precision, found.photometric_interpretation, found.transfer_syntax_uid


def progressive():
    stream = io.BytesIO()
    Image.fromarray(GREY).save(stream, "JPEG", progressive=True)
    return stream.getvalue()


IMAGES = [
    ("grey JPEG", "image/jpeg", lambda: jpeg(GREY), (1, 8, "MONOCHROME2", "50")),
    ("JPEG", "image/jpeg", lambda: jpeg(COLOUR), (3, 8, "YBR_FULL_422", "50")),
    ("JPEG 4:4:4", "image/jpeg", lambda: jpeg(COLOUR, subsampling=0), (3, 8, "YBR_FULL", "50")),
    ("JPEG with a comment", "image/jpeg", lambda: jpeg(GREY, comment=b"x" * 9000), (1, 8, "MONOCHROME2", "50")),
    ("JPEG RGB", "image/jpeg", lambda: jpeg(COLOUR, keep_rgb=True), (3, 8, "RGB", "50")),
    ("lossless", "image/jpeg", lambda: imagecodecs.jpeg8_encode(GREY, lossless=True), (1, 8, "MONOCHROME2", "70")),
    (
        "lossless, predictor 4",
        "image/jpeg",
        lambda: imagecodecs.jpeg8_encode(GREY, lossless=True, predictor=4),
        (1, 8, "MONOCHROME2", "57"),
    ),
    (
        "12 bits",
        "image/jpeg",
        lambda: imagecodecs.jpeg8_encode(WIDE >> 4, bitspersample=12),
        (1, 12, "MONOCHROME2", "51"),
    ),
    ("JPEG-LS", "image/jls", lambda: imagecodecs.jpegls_encode(SMOOTH), (1, 16, "MONOCHROME2", "80")),
    (
        "JPEG-LS near",
        "image/jls",
        lambda: imagecodecs.jpegls_encode(SMOOTH_COLOUR[..., 0], level=2),
        (1, 8, "MONOCHROME2", "81"),
    ),
    ("JPEG-LS colour", "image/jls", lambda: imagecodecs.jpegls_encode(SMOOTH_COLOUR), (3, 8, "RGB", "80")),
    ("JPEG 2000", "image/jp2", lambda: jpeg2000(WIDE), (1, 16, "MONOCHROME2", "90")),
    (
        "JPEG 2000 colour",
        "image/jp2",
        lambda: jpeg2000(COLOUR, photometric_interpretation=1, use_mct=True),
        (3, 8, "YBR_RCT", "90"),
    ),
    (
        "JPEG 2000 lossy colour",
        "image/jp2",
        lambda: jpeg2000(COLOUR, photometric_interpretation=1, use_mct=True, compression_ratios=[4]),
        (3, 8, "YBR_ICT", "91"),
    ),
    ("JPEG 2000 part 2", "image/jpx", lambda: jpeg2000(GREY), (1, 8, "MONOCHROME2", "92")),
    ("HTJ2K", "image/jphc", lambda: imagecodecs.htj2k_encode(GREY), (1, 8, "MONOCHROME2", "201")),
]


@pytest.mark.parametrize(("name", "media_type", "make", "expected"), IMAGES, ids=[row[0] for row in IMAGES])
def test_a_codestream_says_what_it_is(name, media_type, make, expected):
    samples, precision, photometric, last = expected
    assert of(media_type, make()) == (samples, precision, photometric, PREFIX + last)


def test_the_header_of_a_large_codestream_costs_a_few_bytes():
    log = []
    raw = jpeg(noise((2000, 2000), np.uint8), comment=b"x" * 60_000)
    described("image/jpeg", reader(raw, log), len(raw))
    assert sum(log) < 20_000


SPLIT = [row for row in IMAGES if row[1] in ("image/jpeg", "image/jls", "image/jp2")]


@pytest.mark.parametrize(("name", "media_type", "make", "expected"), SPLIT, ids=[row[0] for row in SPLIT])
@pytest.mark.parametrize("padding", [b"", b"\0"])
def test_codestreams_in_a_run_are_told_apart(name, media_type, make, expected, padding):
    one = make() + padding
    raw = one * 5
    ranges = frame_ranges(media_type, reader(raw), len(raw), 5)
    assert [raw[start:end] for start, end in ranges] == [one] * 5


def test_one_more_than_there_should_be_is_told_and_not_all_of_millions():
    raw = jpeg(GREY) * 20
    assert len(frame_ranges("image/jpeg", reader(raw), len(raw), 3)) == 4


def test_an_end_marker_across_two_windows_is_found():
    scan = b"\0" * ((1 << 20) - 1 + 100)
    head = b"\xff\xd8\xff\xda\0\x08\1\1\0\0\0\0"
    for length in range((1 << 20) - 3, (1 << 20) + 3):
        one = head + scan[:length] + b"\xff\xd9"
        raw = one * 2
        assert frame_ranges("image/jpeg", reader(raw), len(raw), 2) == ((0, len(one)), (len(one), len(raw)))


def test_a_jp2_file_is_its_codestream():
    raw = jpeg2000(GREY, codec_format=1)
    start, end = codestream_range("image/jp2", reader(raw), len(raw))
    assert raw[start:end].startswith(b"\xff\x4f\xff\x51")
    assert raw[start:end].endswith(b"\xff\xd9")
    plain = jpeg2000(GREY)
    assert codestream_range("image/jp2", reader(plain), len(plain)) == (0, len(plain))


JP2 = b"\0\0\0\x0cjP  \r\n\x87\n"
BROKEN = [
    ("nothing", "image/jpeg", b""),
    ("no JPEG", "image/jpeg", b"GIF89a"),
    ("only a start", "image/jpeg", b"\xff\xd8"),
    ("only fill", "image/jpeg", b"\xff\xd8" + b"\xff" * 100_000),
    ("no size", "image/jpeg", jpeg(GREY).replace(b"\x08\0\x30\0\x40", b"\x08\0\0\0\x40")),
    ("progressive", "image/jpeg", progressive()),
    ("JPEG for JPEG-LS", "image/jls", jpeg(GREY)),
    ("no JPEG 2000", "image/jp2", b"\xff\x4f"),
    ("a size that is none", "image/jp2", jpeg2000(GREY).replace(struct.pack(">II", 64, 48), struct.pack(">II", 0, 48))),
    ("another kind", "image/png", b"\x89PNG"),
]


@pytest.mark.parametrize(("name", "media_type", "raw"), BROKEN, ids=[row[0] for row in BROKEN])
def test_a_codestream_that_is_none_is_refused(name, media_type, raw):
    with pytest.raises(Undecodable):
        described(media_type, reader(raw), len(raw))


@pytest.mark.parametrize(
    "raw", [JP2, JP2 + b"\0\0\0\7abcd", JP2 + b"\0\0\0\1jp2c", JP2 + struct.pack(">I4s", 8, b"free") * 999]
)
def test_boxes_without_a_codestream_are_refused(raw):
    with pytest.raises(Undecodable):
        codestream_range("image/jp2", reader(raw), len(raw))


@pytest.mark.parametrize("media_type", ["image/dicom-rle", "image/jxl", "video/mp4"])
def test_what_does_not_say_where_it_ends_is_not_split(media_type):
    with pytest.raises(Undecodable):
        frame_ranges(media_type, reader(b"x" * 100), 100, 2)


SEEDS = [(media_type, make()) for _, media_type, make, _ in IMAGES] + [("image/jp2", jpeg2000(GREY, codec_format=1))]


@settings(suppress_health_check=[HealthCheck.too_slow], deadline=None, max_examples=300)
@given(
    st.sampled_from(SEEDS),
    st.lists(st.tuples(st.integers(0, 400), st.integers(0, 255)), max_size=6),
    st.integers(0, 900),
)
def test_any_damage_is_refused_or_read_within_the_bytes_that_are_there(seed, changes, length):
    media_type, whole = seed
    raw = bytearray(whole[: len(whole) - length])
    for place, value in changes:
        if place < len(raw):
            raw[place] = value
    raw = bytes(raw)
    for ask in (
        lambda: described(media_type, reader(raw), len(raw)),
        lambda: codestream_range(media_type, reader(raw), len(raw)),
        lambda: frame_ranges(media_type, reader(raw), len(raw), 3),
    ):
        try:
            ask()
        except Undecodable:
            continue
