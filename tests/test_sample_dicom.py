"""The samples are complete, valid, unchanged, and show what the manifest says they show."""

from __future__ import annotations

import hashlib
import json
import shutil
import struct
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pydicom
import pytest
from pydicom import Dataset
from pydicom.encaps import generate_fragments, parse_basic_offsets
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    RLELossless,
)

SAMPLES = Path(__file__).resolve().parent.parent / "sample_dicom"
MANIFEST = json.loads((SAMPLES / "manifest.json").read_text(encoding="utf-8"))
FILES = [row["file"] for row in MANIFEST]
ROWS = {row["file"]: row for row in MANIFEST}
MAXIMUM_TOTAL_BYTES = 6_000_000
CODEC_DEPENDENT = {JPEGBaseline8Bit, JPEG2000Lossless, DeflatedExplicitVRLittleEndian}

CT_STACK = [f"ct_abdomen_weissmueller/ct_stack/slice_{number:02}.dcm" for number in range(1, 21)]
MR_STACK = [f"mr_head_mizuno/t1_oblique/slice_{number}.dcm" for number in range(1, 8)]
MASKS = "ct_abdomen_weissmueller/segmentation/masks.dcm"
VOLUME = "ct_abdomen_weissmueller/enhanced_ct/volume.dcm"
REPORT = "ct_abdomen_weissmueller/report/report.dcm"
CHEST = "cr_chest_nguyen/pa/chest.dcm"
LOOP = "us_heart_kovaleva/echo/colour_loop.dcm"
GREY_LOOP = "us_heart_kovaleva/echo/grey_loop_fragments.dcm"
STILL = "us_heart_kovaleva/echo/still_fragments.dcm"
ECG = "ecg_haddad/recording/twelve_lead.dcm"
PDF = "ecg_haddad/printout/report.dcm"
LOCALIZER = "mr_head_mizuno/localizer/sagittal.dcm"
IMPLICIT = "mr_encodings_papakostas/1_implicit_vr_little_endian/image.dcm"
BIG_ENDIAN = "mr_encodings_papakostas/2_explicit_vr_big_endian/image.dcm"
DEFLATED = "mr_encodings_papakostas/3_deflated/image.dcm"
RLE_16 = "mr_encodings_papakostas/4_rle_16_bit/image.dcm"
JPEG_2000 = "mr_encodings_papakostas/5_jpeg_2000_12_bit/image.dcm"
PRIVATE = "mr_encodings_papakostas/6_private_sequences/image.dcm"
BARS = "patterns_constance/stills/colour_bars_planar.dcm"
PALETTE = "patterns_constance/stills/palette.dcm"
RINGS = "patterns_constance/stills/aspect_ratio.dcm"
CHECKER = "patterns_constance/stills/rle_colour.dcm"
FUNDUS = "patterns_constance/fundus/jpeg_2000_colour.dcm"
EXTENDED = "patterns_constance/clocks/extended_offset_table.dcm"
EMPTY = "patterns_constance/clocks/empty_offset_table.dcm"


def read(name: str, folder: Path = SAMPLES) -> Dataset:
    return pydicom.dcmread(folder / name)


def run_generator(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-W", "error", SAMPLES / "generate.py", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=240)


@pytest.fixture(scope="session")
def regenerated(tmp_path_factory):
    """Samples that were written over others, of which one was broken, beside a file of somebody else."""
    folder = tmp_path_factory.mktemp("samples") / "samples"
    shutil.copytree(SAMPLES, folder, ignore=shutil.ignore_patterns("__pycache__", "*.py"))
    (folder / "mine.dcm").write_bytes(b"not a sample")
    _flip_a_byte(folder)
    result = run_generator("--output", folder)
    assert result.returncode == 0, result.stderr
    return folder


@pytest.fixture
def copied(tmp_path):
    shutil.copytree(SAMPLES, tmp_path / "samples", ignore=shutil.ignore_patterns("__pycache__", "*.py"))
    return tmp_path / "samples"


# ---- manifest, sizes, the command line


def test_the_manifest_lists_every_file_once():
    present = sorted(path.relative_to(SAMPLES).as_posix() for path in SAMPLES.rglob("*.dcm"))
    assert sorted(FILES) == present


@pytest.mark.parametrize("name", FILES)
def test_a_file_has_the_digest_and_size_of_the_manifest(name):
    data = (SAMPLES / name).read_bytes()
    assert hashlib.sha256(data).hexdigest() == ROWS[name]["sha256"]
    assert len(data) == ROWS[name]["size_bytes"]


def test_all_samples_together_stay_below_six_megabytes():
    assert 1_000_000 < sum(path.stat().st_size for path in SAMPLES.rglob("*.dcm")) < MAXIMUM_TOTAL_BYTES


def test_the_readme_has_a_row_for_every_file_with_its_digest():
    lines = (SAMPLES / "README.md").read_text(encoding="utf-8").splitlines()
    for row in MANIFEST:
        line = next(line for line in lines if line.startswith(f"| [{row['file']}]"))
        assert row["sha256"] in line
        assert row["transfer_syntax_name"] in line
        assert row["exercises"] in line


def test_check_accepts_the_committed_samples():
    result = run_generator("--check")
    assert (result.returncode, result.stdout) == (0, "The samples are what the manifest says.\n")


def _flip_a_byte(folder: Path) -> None:
    path = folder / CHEST
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize(
    ("spoil", "complaint"),
    [
        (_flip_a_byte, f"{CHEST} differs from its sha256"),
        (lambda folder: (folder / CHEST).unlink(), f"{CHEST} is missing"),
        (lambda folder: shutil.copy(folder / CHEST, folder / "more.dcm"), "more.dcm is not in the manifest"),
        (lambda folder: (folder / "README.md").write_text("x"), "README.md differs from the manifest"),
        (lambda folder: (folder / "manifest.json").write_text("[]"), "manifest.json is missing or empty"),
    ],
)
def test_check_reports_every_difference_and_fails(copied, spoil, complaint):
    assert run_generator("--check", "--output", copied).returncode == 0
    spoil(copied)
    result = run_generator("--check", "--output", copied)
    assert result.returncode == 1
    assert complaint in result.stdout.splitlines()


def test_writing_replaces_the_samples_and_leaves_other_files_alone(regenerated):
    assert (regenerated / "mine.dcm").read_bytes() == b"not a sample"
    for path in SAMPLES.rglob("*.dcm"):
        assert (regenerated / path.relative_to(SAMPLES)).stat().st_size == path.stat().st_size


# ---- every file


@pytest.mark.parametrize("name", FILES)
def test_a_file_reads_without_warning_and_agrees_with_the_manifest(name):
    dataset, row = read(name), ROWS[name]
    assert sum(1 for _ in dataset.iterall()) >= 55  # converts every value; a warning is an error
    assert dataset.file_meta.TransferSyntaxUID == row["transfer_syntax"]
    assert dataset.file_meta.MediaStorageSOPInstanceUID == dataset.SOPInstanceUID == row["sop_instance_uid"]
    assert dataset.file_meta.MediaStorageSOPClassUID == dataset.SOPClassUID == row["sop_class"]
    assert dataset.StudyInstanceUID == row["study_instance_uid"]
    assert dataset.SeriesInstanceUID == row["series_instance_uid"]
    assert dataset.PatientID.startswith("SAMPLE-")
    assert "20190101" <= dataset.StudyDate <= "20241231"


@pytest.mark.parametrize("name", [name for name in FILES if ROWS[name]["rows"]])
def test_an_image_decodes_to_the_shape_of_the_manifest(name):
    dataset, row = read(name), ROWS[name]
    expected = (row["rows"], row["columns"]) + ((3,) if dataset.SamplesPerPixel == 3 else ())
    if row["frames"] > 1:
        expected = (row["frames"], *expected)
    pixels = dataset.pixel_array
    assert pixels.shape == expected
    assert pixels.min() < pixels.max()
    assert pixels.max() < 2**dataset.BitsStored


def test_every_instance_has_its_own_uid_and_series_belong_to_one_study():
    assert len({row["sop_instance_uid"] for row in MANIFEST}) == len(MANIFEST)
    studies = {row["series_instance_uid"]: row["study_instance_uid"] for row in MANIFEST}
    assert all(studies[row["series_instance_uid"]] == row["study_instance_uid"] for row in MANIFEST)
    assert len(set(studies.values())) == 7
    assert len(studies) == 19


@pytest.mark.parametrize("name", FILES)
def test_dcmdump_reads_a_file_without_complaint(name):
    program = shutil.which("dcmdump")
    if program is None:
        pytest.skip("DCMTK is not installed: dcmdump did not read the samples")
    result = subprocess.run([program, SAMPLES / name], capture_output=True, check=False, timeout=60)
    assert result.returncode == 0
    assert result.stderr == b""
    assert b"(0008,0018) UI" in result.stdout


def test_dcmftest_calls_every_file_dicom():
    program = shutil.which("dcmftest")
    if program is None:
        pytest.skip("DCMTK is not installed: dcmftest did not look at the samples")
    result = subprocess.run([program, *FILES], cwd=SAMPLES, capture_output=True, text=True, check=False, timeout=60)
    assert result.returncode == 0
    assert result.stdout.splitlines() == [f"yes: {name}" for name in FILES]


# ---- the same bytes in every run


def test_generating_again_gives_the_same_list_of_files(regenerated):
    again = json.loads((regenerated / "manifest.json").read_text(encoding="utf-8"))
    volatile = ("sha256", "size_bytes")
    stable = [{key: value for key, value in row.items() if key not in volatile} for row in MANIFEST]
    assert [{key: value for key, value in row.items() if key not in volatile} for row in again] == stable


@pytest.mark.parametrize("name", [name for name in FILES if ROWS[name]["transfer_syntax"] not in CODEC_DEPENDENT])
def test_generating_again_gives_identical_bytes(regenerated, name):
    assert (regenerated / name).read_bytes() == (SAMPLES / name).read_bytes()


@pytest.mark.parametrize("name", [name for name in FILES if ROWS[name]["transfer_syntax"] in CODEC_DEPENDENT])
def test_generating_again_gives_the_same_picture_where_bytes_depend_on_a_codec(regenerated, name):
    committed, again = read(name), read(name, regenerated)
    difference = np.abs(committed.pixel_array.astype(int) - again.pixel_array.astype(int))
    assert difference.mean() <= (1.0 if ROWS[name]["transfer_syntax"] == JPEGBaseline8Bit else 0.0)
    for dataset in (committed, again):
        del dataset.PixelData
        dataset.pop("LossyImageCompressionRatio", None)
    assert committed == again


# ---- what they are there for: one row for each thing that must be present

Check = Callable[[Dataset], bool]


def _is(transfer_syntax: str) -> Check:
    return lambda dataset: dataset.file_meta.TransferSyntaxUID == transfer_syntax


def _functional_groups_differ(dataset: Dataset) -> bool:
    frames = dataset.PerFrameFunctionalGroupsSequence
    return (
        len(frames) == dataset.NumberOfFrames == 8
        and len({frame.FrameVOILUTSequence[0].WindowCenter for frame in frames}) == 2
        and len({frame.PixelValueTransformationSequence[0].RescaleIntercept for frame in frames}) == 2
        and len({tuple(frame.PlanePositionSequence[0].ImagePositionPatient) for frame in frames}) == 8
        and dataset.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence[0].PixelSpacing == [3, 3]
    )


EXERCISES: list[tuple[str, str, Check]] = [
    ("explicit VR little endian", CT_STACK[0], _is(ExplicitVRLittleEndian)),
    ("CT, signed, rescaled, padded", CT_STACK[0], lambda d: (
        d.Modality == "CT" and d.PixelRepresentation == 1 and d.RescaleIntercept == -1024
        and d.PixelPaddingValue == -2000 and len(d.WindowCenter) == len(d.WindowWidth) == 2
    )),
    ("CT header of realistic size with a private block", CT_STACK[0], lambda d: (
        len(d) > 120 and d.private_block(0x0029, "DICOMWEB GATEWAY SAMPLE")[0x15].VR == "SQ"
    )),
    ("MR, oblique", MR_STACK[0], lambda d: (
        d.Modality == "MR" and all(abs(cosine) < 0.999 for cosine in d.ImageOrientationPatient)
    )),
    ("CR, MONOCHROME1, 12 bits in 16", CHEST, lambda d: (
        (d.Modality, d.PhotometricInterpretation) == ("CR", "MONOCHROME1")
        and (d.BitsAllocated, d.BitsStored, d.HighBit) == (16, 12, 11)
    )),
    ("US, colour loop in JPEG", LOOP, lambda d: (
        _is(JPEGBaseline8Bit)(d) and d.PhotometricInterpretation == "YBR_FULL_422" and d.NumberOfFrames >= 10
    )),
    ("JPEG 2000, grey", JPEG_2000, lambda d: _is(JPEG2000Lossless)(d) and d.BitsStored == 12),
    ("JPEG 2000, colour", FUNDUS, lambda d: _is(JPEG2000Lossless)(d) and d.PhotometricInterpretation == "YBR_RCT"),
    ("RLE, 16 bit", RLE_16, lambda d: _is(RLELossless)(d) and d.BitsAllocated == 16),
    ("RLE, colour", CHECKER, lambda d: _is(RLELossless)(d) and d.SamplesPerPixel == 3),
    ("implicit VR little endian", IMPLICIT, _is(ImplicitVRLittleEndian)),
    ("explicit VR big endian, 16 bit", BIG_ENDIAN, lambda d: _is(ExplicitVRBigEndian)(d) and d.BitsAllocated == 16),
    ("deflated", DEFLATED, _is(DeflatedExplicitVRLittleEndian)),
    ("palette of 16 bits", PALETTE, lambda d: (
        d.PhotometricInterpretation == "PALETTE COLOR" and d.RedPaletteColorLookupTableDescriptor == [256, 0, 16]
        and len(d.RedPaletteColorLookupTableData) == 512
    )),
    ("secondary capture in planes", BARS, lambda d: (
        (d.SOPClassUID.name, d.PhotometricInterpretation, d.PlanarConfiguration, d.BitsAllocated)
        == ("Secondary Capture Image Storage", "RGB", 1, 8)
    )),
    ("bit-packed SEG", MASKS, lambda d: (
        (d.Modality, d.BitsAllocated) == ("SEG", 1) and d.NumberOfFrames > 8 and d.Rows * d.Columns % 8 == 1
    )),
    ("enhanced CT", VOLUME, _functional_groups_differ),
    ("structured report", REPORT, lambda d: (
        d.Modality == "SR" and d.ContentSequence[2].ContentSequence[1].ContentSequence[0].ValueType == "IMAGE"
    )),
    ("encapsulated PDF", PDF, lambda d: (
        d.MIMETypeOfEncapsulatedDocument == "application/pdf" and d.EncapsulatedDocument.startswith(b"%PDF-1.4\n")
    )),
    ("12-lead ECG, 16 bit", ECG, lambda d: (
        d.WaveformSequence[0].NumberOfWaveformChannels == 12 and d.WaveformSequence[0].WaveformBitsAllocated == 16
    )),
    ("pixels that are not square", RINGS, lambda d: d.PixelAspectRatio == [2, 1]),
    ("Extended Offset Table", EXTENDED, lambda d: len(d.ExtendedOffsetTable) == 8 * d.NumberOfFrames),
    ("private sequences in private sequences", PRIVATE, lambda d: (
        d[0x00291010][0][0x00291020][0][0x00291030].value == [1.5, -2.5]
        and d[0x00291010][0][0x00291020][0].CodeMeaning == "Public attribute in a private item"
    )),
]  # fmt: skip


@pytest.mark.parametrize(("name", "check"), [row[1:] for row in EXERCISES], ids=[row[0] for row in EXERCISES])
def test_a_sample_shows_what_it_is_there_for(name, check):
    assert check(read(name))


NAMES = [
    (CT_STACK[0], ["ISO_IR 100"], "Weißmüller^Jörg"),
    (MR_STACK[0], ["ISO 2022 IR 6", "ISO 2022 IR 87"], "Mizuno^Haruka=水野^遥=みずの^はるか"),
    (RLE_16, ["ISO_IR 126"], "Παπακώστας^Νίκος"),
    (LOOP, ["ISO_IR 144"], "Ковалёва^Анна^Сергеевна"),
    (ECG, ["ISO_IR 127"], "الحداد^سليم"),
    (CHEST, ["ISO_IR 192"], "Nguyễn^Thị Hương=阮^氏香"),
]


@pytest.mark.parametrize(("name", "character_set", "expected"), NAMES, ids=[row[2] for row in NAMES])
def test_a_name_decodes_from_its_own_character_set(name, character_set, expected):
    dataset = read(name)
    value = dataset.get("SpecificCharacterSet")
    assert (value if isinstance(value, pydicom.multival.MultiValue) else [value]) == character_set
    assert str(dataset.PatientName) == expected
    is_utf_8 = expected.encode() in (SAMPLES / name).read_bytes()
    assert is_utf_8 == (character_set == ["ISO_IR 192"])


def test_the_japanese_name_switches_sets_as_the_standard_says():
    data = (SAMPLES / MR_STACK[0]).read_bytes()
    groups = (b"Mizuno^Haruka", b"\x1b$B?eLn\x1b(B^\x1b$BMZ\x1b(B", b"\x1b$B$_$:$N\x1b(B^\x1b$B$O$k$+\x1b(B")
    assert b"=".join(groups) in data  # back to ASCII before every delimiter, PS3.5 §6.1.2.5.3


def test_a_backslash_byte_inside_a_japanese_character_does_not_separate_values():
    dataset = read(MR_STACK[0])
    assert b"\\" in dataset.get_item("InstitutionName").value
    assert dataset.InstitutionName == "見本病院"


def test_one_patient_needs_no_character_set():
    dataset = read(BARS)
    assert "SpecificCharacterSet" not in dataset
    assert str(dataset.PatientName) == "Pattern^Constance"


# ---- encodings, looked at in the bytes


TABLES = [
    (LOOP, "basic", 1),
    (GREY_LOOP, "basic", 3),
    (RLE_16, "basic", 1),
    (STILL, "empty", 4),
    (JPEG_2000, "empty", 1),
    (EMPTY, "empty", 1),
    (EXTENDED, "empty", 1),
]


@pytest.mark.parametrize(("name", "table", "fragments"), TABLES)
def test_the_basic_offset_table_and_the_fragments_are_as_described(name, table, fragments):
    frames = ROWS[name]["frames"]
    data = read(name).PixelData
    offsets = parse_basic_offsets(data)
    assert len(offsets) == (frames if table == "basic" else 0)
    assert len(list(generate_fragments(data[8 + 4 * len(offsets) :]))) == frames * fragments
    start = 8 + 4 * len(offsets)
    assert all(data[start + offset : start + offset + 4] == b"\xfe\xff\x00\xe0" for offset in offsets)


def test_the_extended_offset_table_points_at_the_frames():
    dataset = read(EXTENDED)
    frames = dataset.NumberOfFrames
    offsets = struct.unpack(f"<{frames}Q", dataset.ExtendedOffsetTable)
    lengths = struct.unpack(f"<{frames}Q", dataset.ExtendedOffsetTableLengths)
    for offset, length in zip(offsets, lengths, strict=True):
        tag, size = struct.unpack_from("<4sI", dataset.PixelData, 8 + offset)
        assert (tag, size) == (b"\xfe\xff\x00\xe0", length)


def test_big_endian_pixels_are_swapped():
    dataset = read(BIG_ENDIAN)
    swapped = np.frombuffer(dataset.PixelData, ">u2")
    assert swapped.max() < 4096
    assert np.array_equal(swapped.reshape(dataset.Rows, dataset.Columns), dataset.pixel_array)


def test_every_sequence_of_the_localizer_has_undefined_length():
    dataset = read(LOCALIZER)
    sequences = [element for element in dataset.iterall() if element.VR == "SQ"]
    assert len(sequences) >= 5
    assert all(sequence.value.is_undefined_length for sequence in sequences)
    assert all(entry.is_undefined_length_sequence_item for sequence in sequences for entry in sequence.value)
    nested = dataset.RequestAttributesSequence[0].RequestedProcedureCodeSequence[0]
    assert nested.CodeMeaning == "MR Brain"


def test_colour_bars_are_stored_plane_by_plane():
    dataset = read(BARS)
    planes = np.frombuffer(dataset.PixelData, np.uint8).reshape(3, dataset.Rows, dataset.Columns)
    expected = [
        (255, 255, 255), (255, 255, 0), (0, 255, 255), (0, 255, 0), (255, 0, 255), (255, 0, 0), (0, 0, 255), (0, 0, 0),
    ]  # fmt: skip
    assert [tuple(planes[:, 20, 16 + 32 * bar]) for bar in range(8)] == expected


def test_the_pdf_is_whole_and_its_length_is_told():
    dataset = read(PDF)
    length = dataset.EncapsulatedDocumentLength
    document = dataset.EncapsulatedDocument[:length]
    assert len(dataset.EncapsulatedDocument) == length + length % 2
    assert document.endswith(b"%%EOF\n")
    table = int(document.split(b"startxref\n")[1].split(b"\n")[0])
    assert document[table : table + 5] == b"xref\n"
    offsets = [int(line[:10]) for line in document[table:].splitlines() if line.endswith(b" 00000 n ")]
    assert [document[offset : offset + 7] for offset in offsets] == [b"%d 0 obj" % number for number in range(1, 5)]


# ---- pictures are the right way up, of the right polarity, and lie where the header says


def _triangle_contrast(picture: np.ndarray, size: int, inset: int) -> float:
    """How much brighter the upper right half of a square in the upper right corner is than its lower left half."""
    columns = picture.shape[1]
    square = picture[inset : inset + size, columns - inset - size : columns - inset].astype(float)
    upper_right = np.triu(np.ones((size, size), bool))
    return float(square[upper_right].mean() - square[np.tril(~upper_right, -3)].mean())


AXIAL_MR = [*MR_STACK, IMPLICIT, BIG_ENDIAN, DEFLATED, RLE_16, JPEG_2000, PRIVATE]
TRIANGLES = [
    *((name, 15, 30, 1500) for name in CT_STACK),
    *((name, ROWS[name]["rows"] // 12, 6, 800) for name in [*AXIAL_MR, LOCALIZER]),
    (RINGS, 16, 4, 200),
    (PALETTE, 16, 4, 200),
]


@pytest.mark.parametrize(("name", "size", "inset", "contrast"), TRIANGLES)
def test_the_triangle_stands_in_the_upper_right(name, size, inset, contrast):
    picture = read(name).pixel_array
    assert _triangle_contrast(picture, size, inset) > contrast
    for turned in (picture[:, ::-1], picture[::-1], picture.T, np.rot90(picture)):
        assert _triangle_contrast(turned, size, inset) < 0.6 * contrast


def test_the_radiograph_is_dark_where_values_are_high():
    picture = read(CHEST).pixel_array.astype(int)
    lung, spine, air = picture[150:190, 80:95].mean(), picture[150:190, 140:148].mean(), picture[5:40, 5:40].mean()
    assert spine + 500 < lung < air
    assert _triangle_contrast(-picture, 22, 10) > 3000


def test_the_ct_stack_is_evenly_spaced_and_its_organs_have_their_hounsfield_numbers():
    datasets = [read(name) for name in CT_STACK]
    heights = [float(dataset.ImagePositionPatient[2]) for dataset in datasets]
    assert np.allclose(np.diff(heights), 10)
    assert len({dataset.FrameOfReferenceUID for dataset in datasets}) == 1
    slice_6 = datasets[5].pixel_array * float(datasets[5].RescaleSlope) + float(datasets[5].RescaleIntercept)
    row, column = (round((coordinate + 188) / 2) for coordinate in (-16, -78))  # the lesion of the liver
    assert abs(slice_6[row - 3 : row + 4, column - 3 : column + 4].mean() - 48) < 10
    assert slice_6[0, 0] == -2000 - 1024
    air_of_stomach = slice_6[round((-44 + 188) / 2), round((56 + 188) / 2)]
    assert air_of_stomach < -900  # at the front, which is up, and on the patient's left, which is right


def test_the_oblique_stack_is_orthonormal_and_moves_along_its_normal():
    datasets = [read(name) for name in MR_STACK]
    orientation = np.array(datasets[0].ImageOrientationPatient, float).reshape(2, 3)
    assert np.allclose(orientation @ orientation.T, np.eye(2), atol=1e-5)
    normal = np.cross(*orientation)
    steps = np.diff([np.array(dataset.ImagePositionPatient, float) for dataset in datasets], axis=0)
    assert np.allclose(steps, 13 * normal, atol=1e-3)


def test_masks_lie_on_the_organs_of_the_ct_stack():
    masks = read(MASKS)
    slices = {dataset.SOPInstanceUID: dataset for dataset in map(read, CT_STACK)}
    expected = {1: 108, 2: 48, 3: 185}
    for mask, groups in zip(masks.pixel_array.astype(bool), masks.PerFrameFunctionalGroupsSequence, strict=True):
        source = slices[groups.DerivationImageSequence[0].SourceImageSequence[0].ReferencedSOPInstanceUID]
        assert groups.PlanePositionSequence[0].ImagePositionPatient == source.ImagePositionPatient
        segment = groups.SegmentIdentificationSequence[0].ReferencedSegmentNumber
        values = source.pixel_array[mask] - 1024.0
        assert mask.sum() > 20
        assert abs(np.median(values) - expected[segment]) < 12


def test_frames_of_the_masks_start_at_every_bit_of_a_byte():
    masks = read(MASKS)
    bits = masks.Rows * masks.Columns
    assert {frame * bits % 8 for frame in range(masks.NumberOfFrames)} == set(range(8))
    assert len(masks.PixelData) == -(-bits * masks.NumberOfFrames // 8) + (-(-bits * masks.NumberOfFrames // 8)) % 2


def test_frames_of_the_enhanced_ct_agree_after_their_own_rescale():
    volume = read(VOLUME)
    fat_under_the_skin = []
    for frame, groups in zip(volume.pixel_array, volume.PerFrameFunctionalGroupsSequence, strict=True):
        rescale = groups.PixelValueTransformationSequence[0]
        values = frame * float(rescale.RescaleSlope) + float(rescale.RescaleIntercept)
        fat_under_the_skin.append(values[62:66, 13:15].mean())
    assert np.allclose(fat_under_the_skin, -95, atol=20)


@pytest.mark.parametrize("name", [EXTENDED, EMPTY])
def test_a_clock_shows_the_number_of_its_frame_in_dots(name):
    frames = read(name).pixel_array
    frames = frames.mean(axis=3) if frames.ndim == 4 else frames.astype(float)
    for number, frame in enumerate(frames, start=1):
        line = frame[round(frame.shape[0] * 0.93)]
        is_dot = line > (line.min() + line.max()) / 2
        assert int((np.diff(is_dot.astype(int)) == 1).sum()) == number


def test_the_flow_bar_of_the_ultrasound_is_red_above_blue_and_its_heart_beats():
    frames = read(LOOP).pixel_array.astype(int)
    upper, lower = frames[0, 50, 306:310].mean(axis=0), frames[0, 72, 306:310].mean(axis=0)
    assert upper[0] > upper[2] + 60
    assert lower[2] > lower[0] + 60
    chamber = (frames[:, 60:150, 140:200].sum(axis=3) < 60).sum(axis=(1, 2))
    assert chamber.max() > 1.1 * chamber.min()


def test_einthoven_holds_in_the_electrocardiogram():
    ecg = read(ECG)
    group = ecg.WaveformSequence[0]
    curves = {
        channel.ChannelLabel: values
        for channel, values in zip(group.ChannelDefinitionSequence, ecg.waveform_array(0).T, strict=True)
    }
    assert group.NumberOfWaveformSamples == 5000
    assert np.abs(curves["Lead I"] + curves["Lead III"] - curves["Lead II"]).max() <= 5
    assert np.abs(curves["aVR"] + curves["aVL"] + curves["aVF"]).max() <= 5
    assert 1100 < curves["Lead II"].max() < 1350  # µV


def test_the_palette_runs_from_black_to_white():
    dataset = read(PALETTE)
    tables = [
        np.frombuffer(dataset[f"{colour}PaletteColorLookupTableData"].value, "<u2")
        for colour in ("Red", "Green", "Blue")
    ]
    assert [tuple(int(table[index]) for table in tables) for index in (0, 255)] == [(0, 0, 0), (65535,) * 3]
    wedge = dataset.pixel_array[-1]
    assert np.array_equal(wedge, np.sort(wedge))


def test_rings_are_round_once_the_aspect_ratio_is_applied():
    dataset = read(RINGS)
    is_outside = dataset.pixel_array < 30
    height = int((~is_outside).any(axis=1).sum()) * 2
    inner = ~is_outside[:, : dataset.Columns * 3 // 4]
    width = 2 * (dataset.Columns / 2 - int(np.argmax(inner.any(axis=0))))
    assert abs(height - width) <= 4


def test_the_report_refers_to_a_sample_that_exists():
    report = read(REPORT)
    image = report.ContentSequence[2].ContentSequence[1].ContentSequence[0].ReferencedSOPSequence[0]
    assert image.ReferencedSOPInstanceUID == ROWS[CT_STACK[5]]["sop_instance_uid"]
