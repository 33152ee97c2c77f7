"""The trunk again as one enhanced multi-frame object, with functional groups. PS3.3 §A.38, §C.7.6.16"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta

import numpy as np
from ct_study import ABDOMEN, STUDY, ct_header, hounsfield
from headers import Series, acquired, code, decimals, fields, item, items, performed, reference, uid
from people import CT_SCANNER
from phantoms import Plane, centred_plane
from pydicom.dataset import Dataset
from pydicom.uid import EnhancedCTImageStorage
from writing import Sample, image_pixel, native

VOLUME = Series(STUDY, "volume", 3, "CT", "Enhanced: Lunge und Weichteil", CT_SCANNER, 180, "", "6.3 Abdomen_KM")

# Enhanced CT: plane by plane, (slope, intercept, window center, window width). The two kinds alternate, so a reader
# that takes one rescale or window for all frames shows stripes.
FRAMES = 8
_LUNG = (1.0, -1024.0, -500.0, 1500.0, "LUNGE")
_SOFT = (0.5, -1500.0, 60.0, 400.0, "WEICHTEIL")


def samples() -> Iterator[Sample]:
    """The volume."""
    yield Sample(
        f"{STUDY.folder}/enhanced_ct/volume.dcm",
        _volume(),
        "Enhanced multi-frame CT: shared and per-frame functional groups; window, rescale and plane position per frame",
    )


def _volume() -> Dataset:
    base = centred_plane((1.0, 0.0, 0.0), (0.0, 1.0, 0.0), 3.0, (128, 128), (0.0, 0.0, -85.0))
    planes = [base.moved(20.0 * index) for index in range(FRAMES)]
    kinds = [_LUNG if index % 2 else _SOFT for index in range(FRAMES)]
    pixels = np.stack(
        [
            np.clip(np.round((hounsfield(plane, f"volume {index}") - kind[1]) / kind[0]), 0, 65535)
            for index, (plane, kind) in enumerate(zip(planes, kinds, strict=True))
        ]
    ).astype(np.uint16)
    dataset = acquired(performed(ct_header(VOLUME, EnhancedCTImageStorage, 1), STUDY), VOLUME, 1)
    del dataset.AcquisitionDate, dataset.AcquisitionTime
    dataset.ReferencedPerformedProcedureStepSequence = items(
        reference("1.2.840.10008.3.1.2.3.3", uid(STUDY.folder, "performed procedure step"))
    )
    image_pixel(dataset, pixels[0], "MONOCHROME2")
    organization = uid(STUDY.folder, "volume", "dimensions")
    started = VOLUME.start
    fields(
        dataset,
        NumberOfFrames=FRAMES,
        ImageType=["ORIGINAL", "PRIMARY", "VOLUME", "NONE"],
        AcquisitionNumber=3,
        AcquisitionDateTime=started.strftime("%Y%m%d%H%M%S.%f"),
        AcquisitionDuration=8000.0,
        PatientPosition="HFS",
        FrameOfReferenceUID=VOLUME.frame_of_reference_uid,
        PositionReferenceIndicator="",
        ContentQualification="RESEARCH",
        BurnedInAnnotation="NO",
        LossyImageCompression="00",
        PresentationLUTShape="IDENTITY",
        PixelPresentation="MONOCHROME",
        VolumetricProperties="VOLUME",
        VolumeBasedCalculationTechnique="NONE",
        MultienergyCTAcquisition="NO",
        AcquisitionContextSequence=items(),
        DimensionOrganizationType="3D",
        DimensionOrganizationSequence=items(item(DimensionOrganizationUID=organization)),
        DimensionIndexSequence=items(
            item(
                DimensionOrganizationUID=organization,
                DimensionIndexPointer=0x00200032,
                FunctionalGroupPointer=0x00209113,
                DimensionDescriptionLabel="Image Position (Patient)",
            )
        ),
        SharedFunctionalGroupsSequence=items(_shared_groups(base)),
        PerFrameFunctionalGroupsSequence=items(
            *(_frame_groups(index, plane, kinds[index]) for index, plane in enumerate(planes))
        ),
    )
    return native(dataset, pixels)


def _shared_groups(plane: Plane) -> Dataset:
    frame_type = item(
        FrameType=["ORIGINAL", "PRIMARY", "VOLUME", "NONE"],
        PixelPresentation="MONOCHROME",
        VolumetricProperties="VOLUME",
        VolumeBasedCalculationTechnique="NONE",
    )
    return item(
        PixelMeasuresSequence=items(
            item(PixelSpacing=decimals([plane.spacing_mm] * 2), SliceThickness="20", SpacingBetweenSlices="20")
        ),
        PlaneOrientationSequence=items(
            item(ImageOrientationPatient=decimals(plane.row_direction + plane.column_direction))
        ),
        FrameAnatomySequence=items(item(FrameLaterality="U", AnatomicRegionSequence=items(ABDOMEN))),
        CTImageFrameTypeSequence=items(frame_type),
        CTAcquisitionTypeSequence=items(item(AcquisitionType="SPIRAL", ConstantVolumeFlag="NO", FluoroscopyFlag="NO")),
        CTAcquisitionDetailsSequence=items(
            item(
                RotationDirection="CW",
                RevolutionTime=0.5,
                SingleCollimationWidth=0.6,
                TotalCollimationWidth=38.4,
                TableHeight="158",
                GantryDetectorTilt="0",
                DataCollectionDiameter="500",
            )
        ),
        CTTableDynamicsSequence=items(item(TableSpeed=61.44, TableFeedPerRotation=30.72, SpiralPitchFactor=0.8)),
        CTGeometrySequence=items(item(DistanceSourceToDetector="1085.6", DistanceSourceToDataCollectionCenter=595.0)),
        CTReconstructionSequence=items(
            item(
                ReconstructionAlgorithm="FILTER_BACK_PROJ",
                ConvolutionKernel="B30f",
                ConvolutionKernelGroup="SOFT_TISSUE",
                ReconstructionDiameter="384",
                ReconstructionPixelSpacing=[plane.spacing_mm, plane.spacing_mm],
                ReconstructionAngle=360.0,
                ImageFilter="NONE",
            )
        ),
        CTExposureSequence=items(
            item(
                ExposureTimeInms=500.0,
                XRayTubeCurrentInmA=212.0,
                ExposureInmAs=106.0,
                ExposureModulationType="NONE",
                CTDIvol=7.16,
                CTDIPhantomTypeCodeSequence=items(code("113691", "DCM", "IEC Body Dosimetry Phantom")),
            )
        ),
        CTXRayDetailsSequence=items(
            item(
                KVP="120",
                FocalSpots="1.2",
                FilterType="FLAT",
                FilterMaterial="ALUMINUM",
                CalciumScoringMassFactorPatient=0.7,
            )
        ),
        IrradiationEventIdentificationSequence=items(item(IrradiationEventUID=uid(STUDY.folder, "irradiation"))),
    )


def _frame_groups(index: int, plane: Plane, kind: tuple[float, float, float, float, str]) -> Dataset:
    slope, intercept, center, width, name = kind
    moment = VOLUME.start + timedelta(seconds=1 + 0.5 * index)
    stamp = moment.strftime("%Y%m%d%H%M%S.%f")
    return item(
        FrameContentSequence=items(
            item(
                FrameAcquisitionNumber=3,
                FrameReferenceDateTime=stamp,
                FrameAcquisitionDateTime=stamp,
                FrameAcquisitionDuration=500.0,
                StackID="1",
                InStackPositionNumber=index + 1,
                DimensionIndexValues=[index + 1],
            )
        ),
        PlanePositionSequence=items(item(ImagePositionPatient=decimals(plane.origin_mm))),
        CTPositionSequence=items(
            item(
                TablePosition=20.0 * index,
                DataCollectionCenterPatient=[0.0, 0.0, plane.origin_mm[2]],
                ReconstructionTargetCenterPatient=[0.0, 0.0, plane.origin_mm[2]],
            )
        ),
        PixelValueTransformationSequence=items(
            item(RescaleIntercept=decimals([intercept])[0], RescaleSlope=decimals([slope])[0], RescaleType="HU")
        ),
        FrameVOILUTSequence=items(
            item(
                WindowCenter=decimals([center])[0],
                WindowWidth=decimals([width])[0],
                WindowCenterWidthExplanation=name,
            )
        ),
    )
