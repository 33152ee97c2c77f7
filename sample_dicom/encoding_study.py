"""One slice of a head in each encoding of a Data Set and each lossless codec, each a series of its own."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime

from headers import Series, Study, private_block
from mr_study import head_pixels, mr_description, nested_private_sequences
from people import GREEK, MR_SCANNER_GREEK
from phantoms import centred_plane
from pydicom.uid import (
    UID,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    RLELossless,
)  # fmt: skip
from writing import Sample, encapsulated, jpeg_2000, native, rle

STUDY = Study(
    "mr_encodings_papakostas",
    GREEK,
    "MR2105",
    "A2021-05019",
    datetime(2021, 5, 19, 8, 40, 0, tzinfo=UTC),
    "050Y",
    "Μαγνητική τομογραφία εγκεφάλου",
    "Αλεξίου^Μαρία",
)

# File, transfer syntax, what it exercises.
ENCODINGS: tuple[tuple[str, UID, str], ...] = (
    ("implicit_vr_little_endian", ImplicitVRLittleEndian, "Implicit VR Little Endian, 12 bits in 16"),
    ("explicit_vr_big_endian", ExplicitVRBigEndian, "Explicit VR Big Endian, 12 bits in 16, swapped"),
    ("deflated", DeflatedExplicitVRLittleEndian, "Deflated Data Set, native pixels"),
    ("rle_16_bit", RLELossless, "RLE, 12 bits in 16: two segments; Basic Offset Table"),
    ("jpeg_2000_12_bit", JPEG2000Lossless, "JPEG 2000 lossless, 12 bits; empty Basic Offset Table"),
    (
        "private_sequences",
        ExplicitVRLittleEndian,
        "Nested private sequences with their own creators, empty items, UN and UT",
    ),
)


def samples() -> Iterator[Sample]:
    """All files of the study."""
    for number, (name, transfer_syntax, exercises) in enumerate(ENCODINGS, start=1):
        yield _sample(number, name, transfer_syntax, exercises)


def _sample(number: int, name: str, transfer_syntax: UID, exercises: str) -> Sample:
    series = Series(STUDY, name, number, "MR", f"Τ1 {number}", MR_SCANNER_GREEK, 90 * number, "HEAD", "t1_se_tra")
    plane = centred_plane((1.0, 0.0, 0.0), (0.0, 1.0, 0.0), 1.875, (128, 128), (0.0, 0.0, -36.0 + 13 * number))
    pixels = head_pixels(plane, name)
    dataset = mr_description(series, 1, plane, pixels=pixels)
    if name == "private_sequences":
        private_block(dataset, 0x0029, nested_private_sequences())
    if transfer_syntax.is_encapsulated:
        is_rle = transfer_syntax == RLELossless
        frame = rle(dataset, pixels) if is_rle else jpeg_2000(dataset, pixels)
        encapsulated(dataset, [frame], "basic" if is_rle else "empty")
    else:
        native(dataset, pixels, little_endian=transfer_syntax.is_little_endian)
    return Sample(
        f"{STUDY.folder}/{number}_{name}/image.dcm", dataset, f"{exercises}; ISO_IR 126 (Greek)", transfer_syntax
    )
