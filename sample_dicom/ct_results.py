"""What was made of the CT stack: a segmentation of one bit per pixel, and a structured report. PS3.3 §A.51, §A.35.3"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from ct_study import GRID, PROCEDURE, SLICES, STACK, STUDY, ct_header, plane_of
from headers import Series, code, date, decimals, fields, item, items, reference, time, uid
from people import CT_SCANNER
from phantoms import LEFT_KIDNEY, LIVER, LIVER_LESION, covered
from pydicom.dataset import Dataset
from pydicom.uid import ComprehensiveSRStorage, CTImageStorage, SegmentationStorage
from report import coded, container, image, measured, text
from writing import Sample, packed_bits

MASKS = Series(STUDY, "masks", 101, "SEG", "Segmentierung Leber, Läsion, Niere", CT_SCANNER, 1800)
REPORT = Series(STUDY, "report", 102, "SR", "Befund", CT_SCANNER, 3600)

# Segment: label, shape, property type, recommended colour as CIELab in 16 bits (PS3.3 §C.10.7.1.1).
SEGMENTS = (
    ("Leber", LIVER, code("10200004", "SCT", "Liver"), (43690, 45000, 46000)),
    ("Läsion", LIVER_LESION, code("4147007", "SCT", "Mass"), (54000, 28000, 48000)),
    ("Linke Niere", LEFT_KIDNEY, code("18639004", "SCT", "Left kidney"), (35000, 36000, 20000)),
)
_TISSUE = code("85756007", "SCT", "Tissue")
_ABNORMAL = code("49755003", "SCT", "Morphologically Altered Structure")


def samples() -> Iterator[Sample]:
    """Segmentation and report."""
    yield Sample(
        f"{STUDY.folder}/segmentation/masks.dcm",
        _masks(),
        f"Bit-packed SEG of {GRID} x {GRID} = {GRID * GRID} bits a frame, one more than whole bytes, so frames start "
        "at every bit of a byte; three segments on the CT stack",
    )
    yield Sample(
        f"{STUDY.folder}/report/report.dcm",
        _report(),
        "Comprehensive SR: nested content items, measurement inferred from an image of the CT stack",
    )


def _masks() -> Dataset:
    found = [
        (segment, number, mask)
        for segment, (_, shape, _, _) in enumerate(SEGMENTS, start=1)
        for number in range(1, SLICES + 1)
        if (mask := covered(shape, plane_of(number))).any()
    ]
    dataset = ct_header(MASKS, SegmentationStorage, 1)
    organization = uid(STUDY.folder, "masks", "dimensions")
    dataset.ReferencedSeriesSequence = items(
        item(
            SeriesInstanceUID=STACK.instance_uid,
            ReferencedInstanceSequence=items(
                *(reference(CTImageStorage, STACK.sop_instance_uid(number)) for number in range(1, SLICES + 1))
            ),
        )
    )
    fields(
        dataset,
        ContentDate=date(MASKS.start),
        ContentTime=time(MASKS.start),
        ImageType=["DERIVED", "PRIMARY"],
        ContentLabel="ORGANE",
        ContentDescription="Leber, Läsion und linke Niere",
        ContentCreatorName="Groß^Änne^^Dr.",
        FrameOfReferenceUID=STACK.frame_of_reference_uid,
        PositionReferenceIndicator="",
        SamplesPerPixel=1,
        PhotometricInterpretation="MONOCHROME2",
        Rows=GRID,
        Columns=GRID,
        BitsAllocated=1,
        BitsStored=1,
        HighBit=0,
        PixelRepresentation=0,
        LossyImageCompression="00",
        BurnedInAnnotation="NO",
        SegmentationType="BINARY",
        SegmentsOverlap="YES",
        NumberOfFrames=len(found),
        SegmentSequence=items(*(_segment(number) for number in range(1, len(SEGMENTS) + 1))),
        DimensionOrganizationSequence=items(item(DimensionOrganizationUID=organization)),
        DimensionIndexSequence=items(
            item(
                DimensionOrganizationUID=organization,
                DimensionIndexPointer=0x0062000B,
                FunctionalGroupPointer=0x0062000A,
                DimensionDescriptionLabel="Segment Number",
            ),
            item(
                DimensionOrganizationUID=organization,
                DimensionIndexPointer=0x00200032,
                FunctionalGroupPointer=0x00209113,
                DimensionDescriptionLabel="Image Position (Patient)",
            ),
        ),
        SharedFunctionalGroupsSequence=items(
            item(
                PixelMeasuresSequence=items(
                    item(PixelSpacing=["2", "2"], SliceThickness="10", SpacingBetweenSlices="10")
                ),
                PlaneOrientationSequence=items(item(ImageOrientationPatient=["1", "0", "0", "0", "1", "0"])),
            )
        ),
        PerFrameFunctionalGroupsSequence=items(*(_mask_groups(segment, number) for segment, number, _ in found)),
    )
    dataset.PixelData = packed_bits(np.stack([mask for _, _, mask in found]))
    dataset["PixelData"].VR = "OB"
    return dataset


def _segment(number: int) -> Dataset:
    label, _, kind, colour = SEGMENTS[number - 1]
    return item(
        SegmentNumber=number,
        SegmentLabel=label,
        SegmentDescription=label,
        SegmentAlgorithmType="SEMIAUTOMATIC",
        SegmentAlgorithmName="Ellipsoid",
        SegmentedPropertyCategoryCodeSequence=items(_ABNORMAL if kind.CodeMeaning == "Mass" else _TISSUE),
        SegmentedPropertyTypeCodeSequence=items(kind),
        RecommendedDisplayCIELabValue=list(colour),
        TrackingID=f"{STUDY.study_id}-{number}",
        TrackingUID=uid(STUDY.folder, "tracking", str(number)),
    )


def _mask_groups(segment: int, number: int) -> Dataset:
    source = reference(CTImageStorage, STACK.sop_instance_uid(number))
    source.SpatialLocationsPreserved = "YES"
    source.PurposeOfReferenceCodeSequence = items(code("121322", "DCM", "Source image for image processing operation"))
    return item(
        FrameContentSequence=items(item(DimensionIndexValues=[segment, number])),
        PlanePositionSequence=items(item(ImagePositionPatient=decimals(plane_of(number).origin_mm))),
        DerivationImageSequence=items(
            item(
                SourceImageSequence=items(source),
                DerivationCodeSequence=items(code("113076", "DCM", "Segmentation")),
            )
        ),
        SegmentIdentificationSequence=items(item(ReferencedSegmentNumber=segment)),
    )


def _report() -> Dataset:
    dataset = ct_header(REPORT, ComprehensiveSRStorage, 1)
    lesion = reference(CTImageStorage, STACK.sop_instance_uid(6))
    fields(
        dataset,
        ContentDate=date(REPORT.start),
        ContentTime=time(REPORT.start),
        CompletionFlag="COMPLETE",
        VerificationFlag="VERIFIED",
        VerifyingObserverSequence=items(
            item(
                VerifyingOrganization=CT_SCANNER.institution,
                VerificationDateTime="20190314104500",
                VerifyingObserverName="Lindqvist^Åke^^Dr.",
                VerifyingObserverIdentificationCodeSequence=items(),
            )
        ),
        ReferencedPerformedProcedureStepSequence=items(),
        PerformedProcedureCodeSequence=items(PROCEDURE),
        CurrentRequestedProcedureEvidenceSequence=items(
            item(
                StudyInstanceUID=STUDY.instance_uid,
                ReferencedSeriesSequence=items(
                    item(SeriesInstanceUID=STACK.instance_uid, ReferencedSOPSequence=items(lesion))
                ),
            )
        ),
    )
    findings = container(
        code("121070", "DCM", "Findings"),
        text(code("121071", "DCM", "Finding"), "Hypodense Läsion im rechten Leberlappen, glatt begrenzt."),
        measured(
            code("103339001", "SCT", "Long axis"),
            "38",
            code("mm", "UCUM", "mm"),
            image(CTImageStorage, STACK.sop_instance_uid(6), "INFERRED FROM"),
        ),
        coded(code("272741003", "SCT", "Laterality"), code("24028007", "SCT", "Right")),
        text(code("121071", "DCM", "Finding"), "Nieren, Milz und Magen unauffällig."),
    )
    root = container(
        code("18747-6", "LN", "CT Report"),
        coded(
            code("121049", "DCM", "Language of Content Item and Descendants"),
            code("de", "RFC5646", "German"),
            "HAS CONCEPT MOD",
        ),
        container(
            code("121060", "DCM", "History"),
            text(code("121060", "DCM", "History"), "Verlaufskontrolle einer Raumforderung der Leber."),
        ),
        findings,
        container(
            code("121072", "DCM", "Impressions"),
            text(code("121073", "DCM", "Impression"), "Größe unverändert gegenüber der Voruntersuchung."),
        ),
    )
    del root.RelationshipType
    dataset.update(root)
    return dataset
