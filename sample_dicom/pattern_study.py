"""Test patterns as secondary captures: colour, palettes, planes, aspect ratio, and the tables of frame offsets."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime

import numpy as np
from headers import Series, Study, date, decimals, fields, header, time
from patterns import ByteArray, clock, colour_bars, colour_checker, fundus, heat_palette, perfusion, rings
from people import CAPTURE, PLAIN
from pydicom.dataset import Dataset
from pydicom.uid import (
    JPEG2000Lossless,
    MultiFrameGrayscaleByteSecondaryCaptureImageStorage,
    MultiFrameTrueColorSecondaryCaptureImageStorage,
    RLELossless,
    SecondaryCaptureImageStorage,
)  # fmt: skip
from writing import OffsetTable, Sample, encapsulated, image_pixel, jpeg_2000, native, rle

STUDY = Study(
    "patterns_constance",
    PLAIN,
    "SC2309",
    "A2023-09001",
    datetime(2023, 9, 1, 12, 0, 0, tzinfo=UTC),
    "024Y",
    "Display and decoder test patterns",
    "Quality^Quentin",
)
STILLS = Series(STUDY, "stills", 1, "OT", "Still patterns", CAPTURE, 60)
FUNDUS = Series(STUDY, "fundus", 3, "OT", "Fundus of a left eye", CAPTURE, 180, "EYE")
CLOCKS = Series(STUDY, "clocks", 2, "OT", "Numbered frames", CAPTURE, 120)
HOURS = 8


def samples() -> Iterator[Sample]:
    """All files of the study."""
    stills = f"{STUDY.folder}/stills"
    yield Sample(
        f"{stills}/colour_bars_planar.dcm",
        _colour_bars(),
        "Secondary capture, RGB 8 bit, planar configuration 1; no Specific Character Set",
    )
    yield Sample(f"{stills}/palette.dcm", _palette(), "PALETTE COLOR: 8-bit indexes, 256 entries of 16 bits")
    yield Sample(
        f"{stills}/aspect_ratio.dcm",
        _rings(),
        "Pixels twice as high as wide (Pixel Aspect Ratio 2\\1): rings must be round",
    )
    yield Sample(
        f"{STUDY.folder}/fundus/jpeg_2000_colour.dcm",
        _fundus(),
        "JPEG 2000 lossless in colour (YBR_RCT)",
        JPEG2000Lossless,
    )
    yield Sample(
        f"{stills}/rle_colour.dcm",
        _colour_checker(),
        "RLE in colour: three segments",
        RLELossless,
    )
    clocks = f"{STUDY.folder}/clocks"
    colour = [clock(132, 120, hour, HOURS) for hour in range(HOURS)]
    yield Sample(
        f"{clocks}/extended_offset_table.dcm",
        _clocks(1, colour, "extended"),
        "RLE, colour, Extended Offset Table",
        RLELossless,
    )
    yield Sample(
        f"{clocks}/empty_offset_table.dcm",
        _clocks(2, [frame.mean(axis=2).round().astype(np.uint8) for frame in colour], "empty"),
        "RLE, grey, several frames and an empty Basic Offset Table: frames are found by scanning",
        RLELossless,
    )


def _capture(series: Series, sop_class: str, number: int) -> Dataset:
    return fields(
        header(series, sop_class, number),
        ImageType=["DERIVED", "SECONDARY"],
        ConversionType="SYN",
        DateOfSecondaryCapture=date(series.start),
        TimeOfSecondaryCapture=time(series.start),
        SecondaryCaptureDeviceManufacturer=CAPTURE.manufacturer,
        SecondaryCaptureDeviceManufacturerModelName=CAPTURE.model,
        SecondaryCaptureDeviceSoftwareVersions=CAPTURE.software,
        ContentDate=date(series.start),
        ContentTime=time(series.start),
        BurnedInAnnotation="NO",
        LossyImageCompression="00",
        PatientOrientation=None,
    )


def _colour_bars() -> Dataset:
    picture = colour_bars(192, 256)
    dataset = _capture(STILLS, SecondaryCaptureImageStorage, 1)
    image_pixel(dataset, picture, "RGB", planar_configuration=1)
    return native(dataset, np.ascontiguousarray(picture.transpose(2, 0, 1)))


def _palette() -> Dataset:
    picture = perfusion(160, 192)
    dataset = _capture(STILLS, SecondaryCaptureImageStorage, 2)
    image_pixel(dataset, picture, "PALETTE COLOR")
    for colour, table in zip(("Red", "Green", "Blue"), heat_palette(), strict=True):
        setattr(dataset, f"{colour}PaletteColorLookupTableDescriptor", [256, 0, 16])
        dataset[f"{colour}PaletteColorLookupTableDescriptor"].VR = "US"
        setattr(dataset, f"{colour}PaletteColorLookupTableData", table.astype("<u2").tobytes())
    return native(dataset, picture)


def _rings() -> Dataset:
    picture = rings(100, 210, 2.0)
    dataset = _capture(STILLS, SecondaryCaptureImageStorage, 3)
    image_pixel(dataset, picture, "MONOCHROME2")
    fields(dataset, PixelAspectRatio=["2", "1"], WindowCenter="128", WindowWidth="256")
    return native(dataset, picture)


def _colour_checker() -> Dataset:
    picture = colour_checker(160, 240)
    dataset = image_pixel(_capture(STILLS, SecondaryCaptureImageStorage, 4), picture, "RGB")
    return encapsulated(dataset, [rle(dataset, picture)])


def _fundus() -> Dataset:
    picture = fundus(224, 224)
    dataset = image_pixel(_capture(FUNDUS, SecondaryCaptureImageStorage, 1), picture, "YBR_RCT")
    dataset.Laterality = "L"
    return encapsulated(dataset, [jpeg_2000(dataset, picture)])


def _clocks(number: int, frames: list[ByteArray], table: OffsetTable) -> Dataset:
    is_colour = frames[0].ndim == 3
    sop_class = (
        MultiFrameTrueColorSecondaryCaptureImageStorage
        if is_colour
        else MultiFrameGrayscaleByteSecondaryCaptureImageStorage
    )
    dataset = _capture(CLOCKS, sop_class, number)
    image_pixel(dataset, frames[0], "RGB" if is_colour else "MONOCHROME2")
    fields(
        dataset,
        NumberOfFrames=len(frames),
        FrameIncrementPointer=0x00181063,
        FrameTime=decimals([250])[0],
        RecommendedDisplayFrameRate="4",
        PreferredPlaybackSequencing=0,
    )
    if not is_colour:
        fields(
            dataset,
            PresentationLUTShape="IDENTITY",
            RescaleIntercept="0",
            RescaleSlope="1",
            RescaleType="US",
            WindowCenter="128",
            WindowWidth="256",
        )
    return encapsulated(dataset, [rle(dataset, frame) for frame in frames], table)
