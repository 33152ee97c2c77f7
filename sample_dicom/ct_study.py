"""Computed tomography of the trunk: the study and its stack of slices."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime

import numpy as np
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
    uid,
)  # fmt: skip
from people import CT_SCANNER, GERMAN
from phantoms import (
    TRUNK,
    FloatArray,
    Plane,
    centred_plane,
    mark_upper_right,
    noise,
    painted,
)  # fmt: skip
from pydicom.dataset import Dataset
from pydicom.uid import (
    CTImageStorage,
)
from writing import Sample, image_pixel, native

STUDY = Study(
    "ct_abdomen_weissmueller",
    GERMAN,
    "CT1903",
    "A2019-03141",
    datetime(2019, 3, 14, 9, 15, 0, tzinfo=UTC),
    "060Y",
    "CT Abdomen und Thoraxbasis mit KM, Verlaufskontrolle",
    "Schönemann^Käthe^^Dr. med.",
)
PROCEDURE = code("79103-8", "LN", "CT Abdomen W contrast IV")
SLICES, SPACING_MM, GRID = 20, 10.0, 189
PADDING = -2000
STACK = Series(STUDY, "stack", 2, "CT", "Abdomen portalvenös 10.0 B30f", CT_SCANNER, 95, "ABDOMEN", "6.3 Abdomen_KM")

BASE = centred_plane((1.0, 0.0, 0.0), (0.0, 1.0, 0.0), 2.0, (GRID, GRID), (0.0, 0.0, -100.0))
ABDOMEN = code("818983003", "SCT", "Abdomen")


def samples() -> Iterator[Sample]:
    """The stack."""
    for number in range(1, SLICES + 1):
        yield Sample(
            f"{STUDY.folder}/ct_stack/slice_{number:02}.dcm",
            _slice(number),
            f"CT stack of {SLICES}, slice {number}: 16 bit signed, rescale, two windows, pixel padding, position and "
            "orientation, private block; ISO_IR 100 (German)",
        )


def plane_of(number: int) -> Plane:
    """Where slice ``number`` of the stack lies."""
    return BASE.moved(SPACING_MM * (number - 1))


def hounsfield(plane: Plane, seed: str) -> FloatArray:
    """The trunk in ``plane`` in Hounsfield units, with noise and the triangle. (rows, columns)"""
    picture = painted(TRUNK, plane, -1000) + noise((plane.rows, plane.columns), 11, seed)
    mark_upper_right(picture, 700, plane.rows // 12, round(plane.rows * 0.16))
    return picture


def _slice(number: int) -> Dataset:
    plane = plane_of(number)
    stored = np.round(hounsfield(plane, f"ct {number}") + 1024)
    down, across = np.mgrid[0:GRID, 0:GRID] - (GRID - 1) / 2
    stored[np.hypot(down, across) > GRID / 2] = PADDING
    pixels = stored.astype(np.int16)
    dataset = acquired(performed(ct_header(STACK, CTImageStorage, number), STUDY), STACK, 0.5 * number)
    _scan(dataset)
    image_pixel(dataset, pixels, "MONOCHROME2")
    fields(
        dataset,
        ImageType=["ORIGINAL", "PRIMARY", "AXIAL"],
        AcquisitionNumber=2,
        FrameOfReferenceUID=STACK.frame_of_reference_uid,
        PositionReferenceIndicator="",
        ImagePositionPatient=decimals(plane.origin_mm),
        ImageOrientationPatient=decimals(plane.row_direction + plane.column_direction),
        SliceLocation=decimals([plane.origin_mm[2]])[0],
        SliceThickness="10",
        SpacingBetweenSlices="10",
        PixelSpacing=decimals([plane.spacing_mm] * 2),
        SmallestImagePixelValue=int(pixels[pixels != PADDING].min()),
        LargestImagePixelValue=int(pixels.max()),
        PixelPaddingValue=PADDING,
        RescaleIntercept="-1024",
        RescaleSlope="1",
        RescaleType="HU",
        WindowCenter=["60", "-500"],
        WindowWidth=["400", "1500"],
        WindowCenterWidthExplanation=["WEICHTEIL", "LUNGE"],
        BurnedInAnnotation="NO",
        LossyImageCompression="00",
        ImageComments="Synthetisches Phantom, kein Patient",
    )
    private_block(
        dataset,
        0x0029,
        (
            (0x10, "CS", "SLICE"),
            (0x11, "DS", decimals([plane.origin_mm[2]])[0]),
            (0x12, "FD", [0.25 * number, 1.5]),
            (0x13, "LO", "Rekonstruktion für Übersicht"),
            (0x14, "OB", bytes((number * step) % 256 for step in range(256))),
            (0x15, "SQ", items(private_block(Dataset(), 0x0029, ((0x16, "IS", str(number)), (0x17, "SH", "B30f"))))),
        ),
    )
    return native(dataset, pixels)


def ct_header(series: Series, sop_class: str, number: int) -> Dataset:
    """The header of every instance of this study: what it says of patient and study is the same in all."""
    return fields(
        header(series, sop_class, number, procedure=PROCEDURE),
        OtherPatientIDsSequence=items(
            item(PatientID="KV-448812", IssuerOfPatientID="SAMPLE-INSURANCE", TypeOfPatientID="TEXT")
        ),
        PatientComments="Synthetisches Phantom",
        AdmittingDiagnosesDescription="Raumforderung der Leber",
        NameOfPhysiciansReadingStudy="Lindqvist^Åke^^Dr.",
        InstitutionAddress="Beispielallee 1, 00000 Musterstadt",
    )


def _scan(dataset: Dataset) -> None:
    fields(
        dataset,
        OperatorsName="Böhm^Ute",
        PerformingPhysicianName="Groß^Änne^^Dr.",
        AnatomicRegionSequence=items(ABDOMEN),
        PatientPosition="HFS",
        IrradiationEventUID=uid(STUDY.folder, "irradiation"),
        ContrastBolusAgent="Iopromid 300",
        ContrastBolusRoute="IV",
        ContrastBolusVolume="90",
        ContrastBolusStartTime="091512",
        ContrastBolusTotalDose="90",
        ContrastFlowRate="3",
        ContrastFlowDuration="30",
        ContrastBolusIngredient="IODINE",
        ContrastBolusIngredientConcentration="300",
        ScanOptions="HELICAL MODE",
        KVP="120",
        DataCollectionDiameter="500",
        ReconstructionDiameter="378",
        DistanceSourceToDetector="1085.6",
        DistanceSourceToPatient="595",
        GantryDetectorTilt="0",
        TableHeight="158",
        RotationDirection="CW",
        ExposureTime="500",
        XRayTubeCurrent="212",
        Exposure="106",
        FilterType="BODY",
        GeneratorPower="25",
        FocalSpots="1.2",
        ConvolutionKernel="B30f",
        DateOfLastCalibration="20190314",
        TimeOfLastCalibration="060211",
        RevolutionTime=0.5,
        SingleCollimationWidth=0.6,
        TotalCollimationWidth=38.4,
        TableSpeed=61.44,
        TableFeedPerRotation=30.72,
        SpiralPitchFactor=0.8,
        ExposureModulationType="XYZ_EC",
        CTDIvol=7.16,
        CTDIPhantomTypeCodeSequence=items(code("113691", "DCM", "IEC Body Dosimetry Phantom")),
        DataCollectionCenterPatient=[0.0, 0.0, 0.0],
        ReconstructionTargetCenterPatient=[0.0, 0.0, 0.0],
    )
