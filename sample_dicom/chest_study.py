"""A chest radiograph from a plate reader: high values are dark."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime

import numpy as np
from headers import Series, Study, acquired, code, decimals, fields, header, items, performed
from people import RADIOGRAPHY, UNICODE
from phantoms import centred_plane, chest_attenuation, mark_upper_right, noise
from pydicom.dataset import Dataset
from pydicom.uid import ComputedRadiographyImageStorage
from writing import Sample, image_pixel, native

STUDY = Study(
    "cr_chest_nguyen",
    UNICODE,
    "CR2404",
    "A2024-04102",
    datetime(2024, 4, 10, 16, 21, 5, tzinfo=UTC),
    "033Y",
    "X-quang ngực thẳng",
    "Trần^Văn Đức",
)
PROCEDURE = code("24648-8", "LN", "XR Chest PA")
SERIES = Series(STUDY, "pa", 1, "CR", "Ngực PA", RADIOGRAPHY, 45, "CHEST", "Chest PA")
ROWS, COLUMNS, SPACING_MM = 352, 288, 1.15


def samples() -> Iterator[Sample]:
    """The file of the study."""
    yield Sample(
        f"{STUDY.folder}/pa/chest.dcm",
        _radiograph(),
        "CR MONOCHROME1, 12 bits in 16: high values are dark; ISO_IR 192 (Vietnamese, UTF-8)",
    )


def _radiograph() -> Dataset:
    plane = centred_plane((1.0, 0.0, 0.0), (0.0, 0.0, -1.0), SPACING_MM, (ROWS, COLUMNS), (0.0, 0.0, 0.0))
    exposure = 3900 - 430 * chest_attenuation(plane) + noise((ROWS, COLUMNS), 14, "chest")
    mark_upper_right(exposure, 150, 22, 10)
    pixels = np.clip(np.round(exposure), 0, 4095).astype(np.uint16)
    dataset = acquired(
        performed(header(SERIES, ComputedRadiographyImageStorage, 1, procedure=PROCEDURE), STUDY), SERIES, 5
    )
    image_pixel(dataset, pixels, "MONOCHROME1", bits_stored=12)
    fields(
        dataset,
        ImageType=["ORIGINAL", "PRIMARY"],
        AcquisitionNumber=1,
        PatientOrientation=["L", "F"],
        ViewPosition="PA",
        AnatomicRegionSequence=items(code("51185008", "SCT", "Chest")),
        KVP="125",
        PlateID="P0412",
        CassetteOrientation="PORTRAIT",
        CassetteSize="35CMX43CM",
        PlateType="BAFBR:EU",
        PhosphorType="BAFBR:EU",
        DistanceSourceToDetector="1800",
        DistanceSourceToPatient="1700",
        ExposureTime="8",
        XRayTubeCurrent="320",
        Exposure="3",
        ExposureInuAs="2560",
        FilterType="FLAT",
        CollimatorGridName="NONE",
        FocalSpots="1.2",
        AcquisitionDeviceProcessingDescription="CHEST PA",
        AcquisitionDeviceProcessingCode="CH1",
        Sensitivity="210",
        ExposureIndex="290",
        TargetExposureIndex="300",
        DeviationIndex="-0.1",
        ImagerPixelSpacing=decimals([SPACING_MM] * 2),
        PixelSpacing=decimals([SPACING_MM] * 2),
        PixelSpacingCalibrationType="GEOMETRY",
        PixelSpacingCalibrationDescription="Detector plane",
        SmallestImagePixelValue=int(pixels.min()),
        LargestImagePixelValue=int(pixels.max()),
        WindowCenter="2350",
        WindowWidth="3300",
        WindowCenterWidthExplanation="NORMAL",
        RescaleIntercept="0",
        RescaleSlope="1",
        RescaleType="US",
        BurnedInAnnotation="NO",
        LossyImageCompression="00",
        OperatorsName="Lê^Minh",
    )
    return native(dataset, pixels)
