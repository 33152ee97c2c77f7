"""Echocardiography: a colour loop and a still in lossy JPEG, a grey loop whose frames are split into fragments."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import numpy as np
from headers import Series, Study, acquired, code, decimals, fields, header, item, items, performed
from patterns import ByteArray, sector_scan
from people import CYRILLIC, ULTRASOUND
from pydicom.dataset import Dataset
from pydicom.uid import JPEGBaseline8Bit, UltrasoundImageStorage, UltrasoundMultiFrameImageStorage
from writing import Sample, encapsulated, image_pixel, jpeg_baseline

STUDY = Study(
    "us_heart_kovaleva",
    CYRILLIC,
    "US2011",
    "A2020-11233",
    datetime(2020, 11, 23, 11, 5, 12, tzinfo=UTC),
    "054Y",
    "Эхокардиография",
    "Орлов^Дмитрий^Ильич",
)
PROCEDURE = code("34552-0", "LN", "US Heart 2D echo")
SERIES = Series(STUDY, "echo", 1, "US", "Четырёхкамерный вид", ULTRASOUND, 120, "HEART", "Adult Echo")
ROWS, COLUMNS = 240, 320
COLOUR_FRAMES, GREY_FRAMES = 12, 4
FRAME_TIME_MS = 66.0


def samples() -> Iterator[Sample]:
    """All files of the study."""
    loop = [sector_scan(ROWS, COLUMNS, index / COLOUR_FRAMES) for index in range(COLOUR_FRAMES)]
    yield Sample(
        f"{STUDY.folder}/echo/colour_loop.dcm",
        _described(1, loop, is_loop=True),
        "Colour loop, JPEG baseline YBR_FULL_422, Basic Offset Table; ISO_IR 144 (Cyrillic)",
        JPEGBaseline8Bit,
    )
    grey = [sector_scan(ROWS, COLUMNS, index / GREY_FRAMES, colour=False)[..., 0] for index in range(GREY_FRAMES)]
    for frame in grey:
        frame[frame == 230] = 200  # the orientation mark, green in colour
    yield Sample(
        f"{STUDY.folder}/echo/grey_loop_fragments.dcm",
        _described(2, grey, is_loop=True, fragments=3),
        "Grey loop, JPEG baseline MONOCHROME2, three fragments in each frame, Basic Offset Table",
        JPEGBaseline8Bit,
    )
    yield Sample(
        f"{STUDY.folder}/echo/still_fragments.dcm",
        _described(3, [sector_scan(ROWS, COLUMNS, 0.45)], is_loop=False, fragments=4),
        "Colour still, JPEG baseline YBR_FULL_422, one frame in four fragments, empty Basic Offset Table",
        JPEGBaseline8Bit,
    )


def _described(number: int, frames: list[ByteArray], *, is_loop: bool, fragments: int = 1) -> Dataset:
    sop_class = UltrasoundMultiFrameImageStorage if is_loop else UltrasoundImageStorage
    is_colour = frames[0].ndim == 3
    dataset = acquired(performed(header(SERIES, sop_class, number, procedure=PROCEDURE), STUDY), SERIES, 30 * number)
    image_pixel(dataset, frames[0], "YBR_FULL_422" if is_colour else "MONOCHROME2")
    encoded = [jpeg_baseline(np.ascontiguousarray(frame)) for frame in frames]
    ratio = sum(frame.size for frame in frames) / sum(len(frame) for frame in encoded)
    moment = SERIES.start + timedelta(seconds=30 * number)
    fields(
        dataset,
        ImageType=["ORIGINAL", "PRIMARY", "TTE", "0011" if is_colour else "0001"],
        AcquisitionDateTime=moment.strftime("%Y%m%d%H%M%S.%f"),
        AnatomicRegionSequence=items(code("80891009", "SCT", "Heart")),
        PatientOrientation=None,
        SequenceOfUltrasoundRegions=items(_region()),
        UltrasoundColorDataPresent=1 if is_colour else 0,
        TransducerType="SECTOR_PHASED",
        TransducerData=["S5-1", "", ""],
        ProcessingFunction="ADULT ECHO",
        MechanicalIndex="1.1",
        BoneThermalIndex="0.9",
        SoftTissueThermalIndex="0.7",
        DepthOfScanField="160",
        BurnedInAnnotation="NO",
        LossyImageCompression="01",
        LossyImageCompressionRatio=decimals([round(ratio, 2)])[0],
        LossyImageCompressionMethod="ISO_10918_1",
    )
    if not is_colour:
        fields(dataset, WindowCenter="128", WindowWidth="256", PresentationLUTShape="IDENTITY")
    if is_loop:
        fields(
            dataset,
            NumberOfFrames=len(frames),
            FrameIncrementPointer=0x00181063,
            FrameTime=decimals([FRAME_TIME_MS])[0],
            CineRate="15",
            RecommendedDisplayFrameRate="15",
            StartTrim=1,
            StopTrim=len(frames),
            EffectiveDuration=decimals([FRAME_TIME_MS * len(frames) / 1000])[0],
            PreferredPlaybackSequencing=0,
            HeartRate="68",
        )
    return encapsulated(dataset, encoded, "basic" if is_loop else "empty", fragments)


def _region() -> Dataset:
    return item(
        RegionSpatialFormat=1,
        RegionDataType=1,
        RegionFlags=2,
        RegionLocationMinX0=28,
        RegionLocationMinY0=12,
        RegionLocationMaxX1=292,
        RegionLocationMaxY1=229,
        ReferencePixelX0=132,
        ReferencePixelY0=0,
        PhysicalUnitsXDirection=3,
        PhysicalUnitsYDirection=3,
        ReferencePixelPhysicalValueX=0.0,
        ReferencePixelPhysicalValueY=0.0,
        PhysicalDeltaX=0.0741,
        PhysicalDeltaY=0.0741,
        TransducerFrequency=2500,
    )
