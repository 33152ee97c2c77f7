"""Magnetic resonance of the head: an oblique stack, and a sagittal localizer with sequences of undefined length."""

from __future__ import annotations

import math
from collections.abc import Iterator
from datetime import UTC, datetime

import numpy as np
import numpy.typing as npt
from headers import (
    Series,
    Study,
    acquired,
    code,
    decimals,
    fields,
    header,
    item,
    items,
    performed,
    private_block,
    reference,
)  # fmt: skip
from people import JAPANESE, MR_SCANNER
from phantoms import HEAD, Plane, centred_plane, mark_upper_right, noise, painted
from pydicom.dataset import Dataset
from pydicom.uid import MRImageStorage
from writing import Sample, image_pixel, native

STUDY = Study(
    "mr_head_mizuno",
    JAPANESE,
    "MR2206",
    "A2022-06087",
    datetime(2022, 6, 8, 14, 2, 30, tzinfo=UTC),
    "037Y",
    "頭部MR検査",
    "Kanda^Shin=神田^慎=かんだ^しん",
)
PROCEDURE = code("24590-2", "LN", "MR Brain")
STACK = Series(STUDY, "oblique", 3, "MR", "T1 斜位横断", MR_SCANNER, 420, "HEAD", "t1_se_tra_obl")
LOCALIZER = Series(STUDY, "localizer", 1, "MR", "T1 矢状断", MR_SCANNER, 60, "HEAD", "localizer")
SLICES, SPACING_MM = 7, 13.0
BRAIN = code("12738006", "SCT", "Brain")


def _oblique() -> Plane:
    """The lowest slice: turned by 6 degrees about z, its front lifted by 14 degrees."""
    turn, tilt = math.radians(6), math.radians(14)
    row = (round(math.cos(turn), 6), round(math.sin(turn), 6), 0.0)
    column = (
        round(-math.sin(turn) * math.cos(tilt), 6),
        round(math.cos(turn) * math.cos(tilt), 6),
        round(-math.sin(tilt), 6),
    )
    return centred_plane(row, column, 1.5, (160, 160), (0.0, 0.0, -32.0))


def samples() -> Iterator[Sample]:
    """All files of the study."""
    sagittal = centred_plane((0.0, 1.0, 0.0), (0.0, 0.0, -1.0), 1.6, (160, 160), (8.0, 0.0, 0.0))
    yield Sample(
        f"{STUDY.folder}/localizer/sagittal.dcm",
        _with_undefined_lengths(mr_image(LOCALIZER, 1, sagittal)),
        "Sagittal MR with sequences and items of undefined length, also nested; ISO 2022 IR 6\\ISO 2022 IR 87 "
        "(Japanese)",
    )
    lowest = _oblique()
    for number in range(1, SLICES + 1):
        dataset = mr_image(STACK, number, lowest.moved(SPACING_MM * (number - 1)), thickness="5", gap="13")
        dataset.ReferencedImageSequence = items(_localizer_reference())
        yield Sample(
            f"{STUDY.folder}/t1_oblique/slice_{number}.dcm",
            dataset,
            f"Oblique MR stack of {SLICES}, slice {number}: 12 bits in 16; Japanese names in three component groups "
            "(ISO 2022 IR 6\\ISO 2022 IR 87)",
        )


def _localizer_reference() -> Dataset:
    target = reference(MRImageStorage, LOCALIZER.sop_instance_uid(1))
    target.PurposeOfReferenceCodeSequence = items(code("121311", "DCM", "Localizer"))
    return target


def _with_undefined_lengths(dataset: Dataset) -> Dataset:
    """``dataset`` with every sequence and item delimited instead of counted, at all depths. PS3.5 §7.5.2"""
    for element in dataset:
        if element.VR == "SQ":
            element.is_undefined_length = True
            for entry in element.value:
                entry.is_undefined_length_sequence_item = True
                _with_undefined_lengths(entry)
    return dataset


def head_pixels(plane: Plane, seed: str) -> npt.NDArray[np.uint16]:
    """Magnitude of the head's signal in 12 bits, with the noise of a magnitude. (rows, columns)"""
    signal = painted(HEAD, plane, 0)
    shape = signal.shape
    magnitude = np.hypot(signal + noise(shape, 14, seed + " real"), noise(shape, 14, seed + " imaginary"))
    mark_upper_right(magnitude, 900, plane.rows // 12, 6)
    return np.clip(np.round(magnitude), 0, 4095).astype(np.uint16)


def mr_description(
    series: Series, number: int, plane: Plane, *, thickness: str = "5", gap: str = "5", pixels: npt.NDArray[np.uint16]
) -> Dataset:
    """Everything of an MR image but its Pixel Data. thickness, gap: of slices and between their centres, mm (DS)."""
    dataset = acquired(
        performed(header(series, MRImageStorage, number, procedure=PROCEDURE), series.study), series, 2.5 * number
    )
    image_pixel(dataset, pixels, "MONOCHROME2", bits_stored=12)
    fields(
        dataset,
        ImageType=["ORIGINAL", "PRIMARY", "M", "NORM"],
        AnatomicRegionSequence=items(BRAIN),
        PatientPosition="HFS",
        ScanningSequence="SE",
        SequenceVariant=["SK", "SP"],
        ScanOptions="SP",
        MRAcquisitionType="2D",
        SequenceName="se2d1",
        AngioFlag="N",
        RepetitionTime="520",
        EchoTime="12",
        NumberOfAverages="1",
        ImagingFrequency="63.672",
        ImagedNucleus="1H",
        EchoNumbers="1",
        MagneticFieldStrength="1.5",
        SliceThickness=thickness,
        SpacingBetweenSlices=gap,
        NumberOfPhaseEncodingSteps="160",
        EchoTrainLength="1",
        PercentSampling="100",
        PercentPhaseFieldOfView="100",
        PixelBandwidth="130",
        ReceiveCoilName="HEAD 20",
        TransmitCoilName="Body",
        AcquisitionMatrix=[0, plane.columns, plane.rows, 0],
        InPlanePhaseEncodingDirection="ROW",
        FlipAngle="90",
        VariableFlipAngleFlag="N",
        SAR="0.41",
        dBdt="0",
        ReconstructionDiameter=decimals([plane.spacing_mm * plane.columns])[0],
        AcquisitionNumber=1,
        FrameOfReferenceUID=series.frame_of_reference_uid,
        PositionReferenceIndicator="",
        ImagePositionPatient=decimals(plane.origin_mm),
        ImageOrientationPatient=decimals(plane.row_direction + plane.column_direction),
        SliceLocation=decimals([float(np.dot(plane.origin_mm, plane.normal))])[0],
        PixelSpacing=decimals([plane.spacing_mm] * 2),
        SmallestImagePixelValue=int(pixels.min()),
        LargestImagePixelValue=int(pixels.max()),
        WindowCenter="430",
        WindowWidth="900",
        WindowCenterWidthExplanation="Algo1",
        BurnedInAnnotation="NO",
        LossyImageCompression="00",
        OperatorsName="Sample^Operator",
    )
    return private_block(
        dataset,
        0x0019,
        (
            (0x0A, "US", 1),
            (0x0C, "IS", "0"),
            (0x0E, "FD", [0.0, 0.0, 1.0]),
            (0x28, "DS", "12.5"),
            (0x30, "LO", "NORMALIZED"),
        ),
    )


def mr_image(series: Series, number: int, plane: Plane, *, thickness: str = "5", gap: str = "5") -> Dataset:
    """An MR image with native Pixel Data."""
    pixels = head_pixels(plane, f"{series.study.folder} {series.name} {number}")
    return native(mr_description(series, number, plane, thickness=thickness, gap=gap, pixels=pixels), pixels)


def nested_private_sequences() -> tuple[tuple[int, str, object], ...]:
    """Rows of a private block: a private sequence whose item holds private sequences in turn, each with its creator."""
    innermost = private_block(
        item(CodeMeaning="Public attribute in a private item"),
        0x0029,
        ((0x30, "FD", [1.5, -2.5]), (0x31, "UN", b"\1\2\3\4"), (0x32, "UT", "Text " * 40)),
    )
    middle = private_block(Dataset(), 0x0029, ((0x20, "SQ", items(innermost, Dataset())), (0x21, "LO", "middle")))
    return ((0x10, "SQ", items(middle)), (0x11, "SH", "outer"), (0x12, "SQ", items()))
