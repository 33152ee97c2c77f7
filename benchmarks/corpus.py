"""What is sent: a CT series, a multi-frame ultrasound object in JPEG, and any number of tiny studies. All synthetic.

Nothing is random: noise comes from SHAKE-128, geometry from whole numbers, so the bytes are the same on every machine
(the JPEG frames also depend on the codec of Pillow, whose version is in the folder's name). UIDs, Patient ID and
Accession Number hold a stamp of fixed width; a copy of the CT series with another stamp is a new study of the same
size, so that a server which ignores duplicates works in every repetition.
"""

from __future__ import annotations

import hashlib
import io
import json
import tempfile
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import PIL
from PIL import Image

from benchmarks.part10 import JPEG_BASELINE, Attributes, Name, Value, encapsulated, part10

CONTENT_VERSION = 1
BLOCK_STUDIES = 250
ROWS = COLUMNS = 512
FRAME_BYTES = ROWS * COLUMNS * 2
_BASE_STAMP = 98765432
_HEADER_BYTES = 16 << 10

_SOP_CLASSES = {
    "CT": "1.2.840.10008.5.1.4.1.1.2",
    "MR": "1.2.840.10008.5.1.4.1.1.4",
    "CR": "1.2.840.10008.5.1.4.1.1.1",
    "US": "1.2.840.10008.5.1.4.1.1.6.1",
}
_US_MULTIFRAME = "1.2.840.10008.5.1.4.1.1.3.1"
_SURNAMES = (
    "ALDER",
    "BIRCH",
    "CEDAR",
    "DOGWOOD",
    "ELM",
    "FIR",
    "GINKGO",
    "HAZEL",
    "IRONWOOD",
    "JUNIPER",
    "KAPOK",
    "LINDEN",
)
_GIVEN = ("ADA", "BO", "CY", "DEE", "EVE", "FLO", "GUS", "HAL", "IDA", "JO", "KIT", "LEO", "MAX")
_PATIENTS_PER_STUDY = 0.4


# ---- names ---------------------------------------------------------------------------------------------------------


def _token(stamp: int) -> str:
    return f"1{stamp:08d}"


def uid(kind: int, study: int, series: int = 0, instance: int = 0, stamp: int = _BASE_STAMP) -> str:
    """A UID of 37 characters, whatever its numbers. PS3.5 §B.2"""
    return f"2.25.{_token(stamp)}{kind:02d}{study:08d}{series:04d}{instance:09d}"


@dataclass(frozen=True, slots=True)
class SeriesUIDs:
    """Where a set lies in a server."""

    study: str
    series: str
    instances: tuple[str, ...]

    @property
    def path(self) -> str:
        """Of the series, below the root of DICOMweb."""
        return f"/studies/{self.study}/series/{self.series}"

    def instance(self, index: int) -> str:
        """Path of one instance."""
        return f"{self.path}/instances/{self.instances[index]}"


def _uids(kind: int, count: int, stamp: int = _BASE_STAMP) -> SeriesUIDs:
    instances = tuple(uid(kind, 0, 1, number, stamp) for number in range(1, count + 1))
    return SeriesUIDs(uid(kind, 0, stamp=stamp), uid(kind, 0, 1, stamp=stamp), instances)


# ---- Data Sets -----------------------------------------------------------------------------------------------------


def _noise(name: str, count: int) -> np.ndarray:
    """``count`` bytes that look random and are always the same."""
    return np.frombuffer(hashlib.shake_128(name.encode()).digest(count), np.uint8)


def _code(value: str, scheme: str, meaning: str) -> Attributes:
    return {"CodeValue": value, "CodingSchemeDesignator": scheme, "CodeMeaning": meaning}


def _patient_study(modality: str, date: str, uids: SeriesUIDs, index: int, sop_class: str) -> dict[Name, Value]:
    """What every instance says."""
    return {
        "SpecificCharacterSet": "ISO_IR 100",
        "ImageType": ["ORIGINAL", "PRIMARY", "AXIAL"],
        "SOPClassUID": sop_class,
        "SOPInstanceUID": uids.instances[index],
        "StudyDate": date,
        "SeriesDate": date,
        "AcquisitionDate": date,
        "ContentDate": date,
        "StudyTime": "101500.000000",
        "SeriesTime": "101501.000000",
        "AcquisitionTime": "101502.000000",
        "ContentTime": "101503.500000",
        "Modality": modality,
        "Manufacturer": "SYNTHETIC IMAGING",
        "InstitutionName": "Benchmark Hospital",
        "ReferringPhysicianName": "REFERRER^ANNA^^DR",
        "StationName": "SCAN01",
        "StudyDescription": f"{modality} STUDY",
        "SeriesDescription": f"{modality} SERIES",
        "ManufacturerModelName": "Synthetica 64",
        "PatientBirthDate": "19600214",
        "PatientSex": "F",
        "PatientAge": "059Y",
        "BodyPartExamined": "ABDOMEN",
        "ProtocolName": "STANDARD",
        "StudyInstanceUID": uids.study,
        "SeriesInstanceUID": uids.series,
        "StudyID": "1",
        "SeriesNumber": "2",
        "InstanceNumber": str(index + 1),
    }


def _pixels(rows: int, columns: int, bits_stored: int, *, signed: bool) -> dict[Name, Value]:
    return {
        "SamplesPerPixel": 1,
        "PhotometricInterpretation": "MONOCHROME2",
        "Rows": rows,
        "Columns": columns,
        "BitsAllocated": 16,
        "BitsStored": bits_stored,
        "HighBit": bits_stored - 1,
        "PixelRepresentation": int(signed),
    }


_CT_SCAN: Attributes = {
    "InstanceCreationDate": "20240311",
    "InstanceCreationTime": "101504.120000",
    "InstitutionAddress": "1 Loopback Road",
    "InstitutionalDepartmentName": "Radiology",
    "PhysiciansOfRecord": "RECORD^PAUL",
    "PerformingPhysicianName": "PERFORM^PETRA",
    "NameOfPhysiciansReadingStudy": "READER^RALF",
    "OperatorsName": "OPERATOR^OLGA",
    "ProcedureCodeSequence": [_code("CTABD", "99BENCH", "CT of the abdomen")],
    "AdmittingDiagnosesDescription": "NONE",
    "IssuerOfPatientID": "BENCH",
    "PatientSize": "1.71",
    "PatientWeight": "70.5",
    "EthnicGroup": "NONE",
    "AdditionalPatientHistory": "Synthetic; there is no patient.",
    "ContrastBolusAgent": "IOHEXOL",
    "ScanOptions": "HELICAL MODE",
    "SliceThickness": "1.25",
    "KVP": "120",
    "DataCollectionDiameter": "500.0",
    "DeviceSerialNumber": "SN0001",
    "SoftwareVersions": "1.0",
    "SpacingBetweenSlices": "1.25",
    "ContrastBolusRoute": "ORAL & IV",
    "ReconstructionDiameter": "360.0",
    "DistanceSourceToDetector": "949.075",
    "DistanceSourceToPatient": "541.0",
    "GantryDetectorTilt": "0.0",
    "TableHeight": "152.0",
    "RotationDirection": "CW",
    "ExposureTime": "500",
    "XRayTubeCurrent": "400",
    "Exposure": "200",
    "FilterType": "BODY FILTER",
    "GeneratorPower": "48000",
    "FocalSpots": "1.2",
    "ConvolutionKernel": "STANDARD",
    "PatientPosition": "FFS",
    "RevolutionTime": 0.5,
    "SingleCollimationWidth": 0.625,
    "TotalCollimationWidth": 40.0,
    "TableSpeed": 110.0,
    "TableFeedPerRotation": 55.0,
    "SpiralPitchFactor": 1.375,
    "CTDIvol": 12.34,
    "AcquisitionNumber": "1",
    "ImageOrientationPatient": ["1", "0", "0", "0", "1", "0"],
    "PositionReferenceIndicator": "SN",
    "PixelSpacing": ["0.703125", "0.703125"],
    "WindowCenter": ["40", "-600"],
    "WindowWidth": ["400", "1500"],
    "WindowCenterWidthExplanation": ["ABDOMEN", "LUNG"],
    "RescaleIntercept": "0",
    "RescaleSlope": "1",
    "RescaleType": "HU",
    "LossyImageCompression": "00",
    "RequestingPhysician": "REFERRER^ANNA^^DR",
    "RequestedProcedureDescription": "CT Abdomen with contrast",
    "AdmissionID": "ADM0001",
    "CurrentPatientLocation": "WARD 3",
    "PerformedProcedureStepStartDate": "20240311",
    "PerformedProcedureStepStartTime": "101500",
    "PerformedProcedureStepID": "PPS0001",
    "PerformedProcedureStepDescription": "CT Abdomen",
    "PerformedProtocolCodeSequence": [_code("P1", "99BENCH", "Protocol one")],
    "RequestAttributesSequence": [
        {
            "RequestedProcedureID": "RP0001",
            "RequestedProcedureDescription": "CT Abdomen with contrast",
            "ScheduledProcedureStepID": "SPS0001",
            "ScheduledProcedureStepDescription": "CT Abdomen",
            "ScheduledProtocolCodeSequence": [_code("P1", "99BENCH", "Protocol one")],
        }
    ],
    (0x00090010, "LO"): "BENCH_ACQUISITION_01",
    (0x00091001, "LO"): "BENCH_RECON",
    (0x00091002, "SH"): "SCAN01",
    (0x00091027, "SL"): 1388745000,
    (0x00190010, "LO"): "BENCH_ACQUISITION_01",
    (0x00191002, "SL"): 912,
    (0x00191003, "DS"): "-107.050003",
    (0x0019100F, "DS"): "480.000000",
    (0x0019101A, "LO"): "S",
    (0x00191023, "DS"): "55.000000",
    (0x0019102C, "SL"): 984,
    (0x00191039, "SS"): 16,
    (0x00430010, "LO"): "BENCH_PARAMETERS_01",
    (0x00431010, "US"): 0,
    (0x00431016, "SS"): 2,
    (0x0043101E, "DS"): "26.000000",
    (0x00431025, "SS"): [156, 157, 151, 160, 10, 7],
    (0x00431026, "US"): [0, 1, 1, 0, 0, 0],
    (0x00431027, "SH"): "/1.375:1",
    (0x00431031, "DS"): ["16.700001", "-9.300000"],
    (0x00431040, "FL"): [169.5, 82.25, 1.0, 0.5],
}


def _body(number: int) -> np.ndarray:
    """A slice through something like a body, in HU: (512, 512) int32. Organs drift with the slice."""
    y, x = np.ogrid[-256:256, -256:256]
    image = np.full((ROWS, COLUMNS), -1000, np.int32)
    for cx, cy, width, height, units in (
        (0, 0, 218, 158, -90),
        (0, 0, 206, 146, 45),
        (-90 + number % 23, -20, 70, 62, 60),
        (80 - number % 31, 10, 44, 58, -20),
        (60, -50 + number % 17, 30, 24, 140),
        (-20, 30, 38 + number % 13, 20, 20),
        (0, 96, 26, 26, 700),
    ):
        image[((x - cx) * height) ** 2 + ((y - cy) * width) ** 2 < (width * height) ** 2] = units
    return image


def ct_instance(index: int, count: int) -> bytes:
    """Part 10 of one slice: 512 × 512, 16 bits, Explicit VR Little Endian, about 530 KB."""
    uids = _uids(1, count)
    noise = _noise(f"ct {index}", ROWS * COLUMNS * 2).reshape(ROWS, COLUMNS, 2).astype(np.int32)
    pixels = np.clip(_body(index) + (noise.sum(axis=2) - 255) // 8, -1024, 3071).astype("<i2")
    token = _token(_BASE_STAMP)
    place = f"{-100 + 1.25 * index:.2f}"
    own: dict[Name, Value] = {
        "AccessionNumber": f"A{token}",
        "PatientName": "BULK^CARLA",
        "PatientID": f"BENCH{token}",
        "FrameOfReferenceUID": uid(1, 0, 2),
        "ImagePositionPatient": ["-180.0", "-180.0", place],
        "SliceLocation": place,
        "ReferencedImageSequence": [
            {"ReferencedSOPClassUID": _SOP_CLASSES["CT"], "ReferencedSOPInstanceUID": uids.instances[0]}
        ],
        "SourceImageSequence": [
            {"ReferencedSOPClassUID": _SOP_CLASSES["CT"], "ReferencedSOPInstanceUID": uids.instances[-1]}
        ],
        "PixelData": pixels.tobytes(),
    }
    common = _patient_study("CT", "20240311", uids, index, _SOP_CLASSES["CT"])
    return part10({**common, **_CT_SCAN, **_pixels(ROWS, COLUMNS, 16, signed=True), **own})


def us_frames(count: int) -> list[bytes]:
    """JPEG Baseline pictures of 640 × 480, each another one."""
    y, x = np.mgrid[0:480, -320:320]
    squared = x * x + y * y
    fan = (squared > 40**2) & (squared < 460**2) & (np.abs(x) * 4 < y * 3)
    frames = []
    for number in range(count):
        speckle = _noise(f"us {number}", 240 * 320).reshape(240, 320).repeat(2, 0).repeat(2, 1).astype(np.int32)
        wave = (squared // 512 + 8 * number) % 96
        grey = np.where(fan, np.clip(speckle * 2 // 3 + wave, 0, 255), 0).astype(np.uint8)
        picture = io.BytesIO()
        Image.fromarray(np.stack([grey, grey, np.where(grey > 120, 255, grey)], -1).astype(np.uint8)).save(
            picture, "JPEG", quality=85, subsampling="4:2:2"
        )
        frames.append(picture.getvalue())
    return frames


def us_instance(frames: list[bytes]) -> bytes:
    """Part 10 of a multi-frame object of those frames."""
    attributes: dict[Name, Value] = {
        **_patient_study("US", "20240505", _uids(3, 1), 0, _US_MULTIFRAME),
        **_pixels(480, 640, 8, signed=False),
        "AccessionNumber": "AUS",
        "PatientName": "BULK^URSULA",
        "PatientID": "BENCHUS",
        "NumberOfFrames": str(len(frames)),
        "FrameTime": "33.3",
        "FrameIncrementPointer": b"\x18\x00\x63\x10",
        "SamplesPerPixel": 3,
        "PhotometricInterpretation": "YBR_FULL_422",
        "PlanarConfiguration": 0,
        "BitsAllocated": 8,
        "LossyImageCompression": "01",
        "LossyImageCompressionMethod": "ISO_10918_1",
    }
    return part10(attributes, JPEG_BASELINE, encapsulated(frames))


@dataclass(frozen=True, slots=True)
class TinyStudy:
    """A study of one instance of 2 KB; everything follows from its number."""

    number: int

    @property
    def study_instance_uid(self) -> str:
        """Of the study."""
        return uid(4, self.number)

    @property
    def patient(self) -> int:
        """Number of the patient, who has two or three studies."""
        return int(self.number * _PATIENTS_PER_STUDY)

    @property
    def patient_id(self) -> str:
        """Of the patient."""
        return f"PID{self.patient:07d}"

    @property
    def patient_name(self) -> str:
        """A few thousand distinct ones."""
        surname = _SURNAMES[self.patient % len(_SURNAMES)]
        return f"{surname}{self.patient % 97}^{_GIVEN[self.patient % len(_GIVEN)]}"

    def part10(self) -> bytes:
        """The file."""
        modality = tuple(_SOP_CLASSES)[self.number % len(_SOP_CLASSES)]
        date = f"{2015 + self.number % 10}{1 + self.number % 12:02d}{1 + self.number % 28:02d}"
        uids = SeriesUIDs(self.study_instance_uid, uid(4, self.number, 1), (uid(4, self.number, 1, 1),))
        own: dict[Name, Value] = {
            "AccessionNumber": f"ACC{self.number:08d}",
            "PatientName": self.patient_name,
            "PatientID": self.patient_id,
            "PixelData": (_noise(f"tiny {self.number % 64}", 800) & 0x0F).tobytes(),
        }
        common = _patient_study(modality, date, uids, 0, _SOP_CLASSES[modality])
        return part10({**common, **_pixels(20, 20, 12, signed=False), **own})


# ---- files ---------------------------------------------------------------------------------------------------------


class Corpus:
    """The files in a folder of the cache; what is missing is made when it is asked for, each folder at once or not."""

    def __init__(self, cache: Path, ct_instances: int = 250, us_frames: int = 100) -> None:
        version = f"v{CONTENT_VERSION}-pillow{PIL.__version__}-ct{ct_instances}-us{us_frames}"
        self.root = cache / version
        self.ct_instances = ct_instances
        self.us_frame_count = us_frames

    def _folder(self, name: str, files: Iterable[tuple[str, bytes]]) -> Path:
        """The folder of that name; ``files`` is read only when it is not there."""
        final = self.root / name
        if not final.exists():
            final.parent.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(prefix=".making-", dir=self.root) as making:
                made = Path(making) / "made"
                made.mkdir()
                for file_name, content in files:
                    (made / file_name).write_bytes(content)
                made.rename(final)
        return final

    @cached_property
    def ct(self) -> tuple[bytes, ...]:
        """The CT series in memory, about 132 MB for 250 instances."""
        count = self.ct_instances
        folder = self._folder("ct", ((f"{index:05d}.dcm", ct_instance(index, count)) for index in range(count)))
        return tuple(path.read_bytes() for path in sorted(folder.iterdir()))

    @cached_property
    def ct_frame_sha256(self) -> tuple[str, ...]:
        """Of each instance's only frame."""
        return tuple(hashlib.sha256(content[-FRAME_BYTES:]).hexdigest() for content in self.ct)

    def ct_uids(self, stamp: int) -> SeriesUIDs:
        """Where the copy with that stamp lies."""
        return _uids(1, self.ct_instances, stamp)

    def ct_copy(self, stamp: int) -> list[bytes]:
        """The CT series as a study of its own."""
        before, after = _token(_BASE_STAMP).encode(), _token(stamp).encode()
        return [one[:_HEADER_BYTES].replace(before, after) + one[_HEADER_BYTES:] for one in self.ct]

    @cached_property
    def us_folder(self) -> Path:
        """The folder with the multi-frame object, and in a file beside it the digests of its frames."""
        return self._folder("us", self._us_files()).resolve()

    def _us_files(self) -> Iterable[tuple[str, bytes]]:
        frames = us_frames(self.us_frame_count)
        yield "00000.dcm", us_instance(frames)
        yield "frames.json", json.dumps([hashlib.sha256(frame).hexdigest() for frame in frames]).encode()

    @property
    def us_uids(self) -> SeriesUIDs:
        """Where the multi-frame object lies."""
        return _uids(3, 1)

    @property
    def us_frame_sha256(self) -> tuple[str, ...]:
        """Of each frame."""
        return tuple(json.loads((self.us_folder / "frames.json").read_bytes()))

    def tiny_block(self, block: int) -> Path:
        """A folder of 250 tiny studies."""
        numbers = range(block * BLOCK_STUDIES, (block + 1) * BLOCK_STUDIES)
        files = ((f"{number:07d}.dcm", TinyStudy(number).part10()) for number in numbers)
        return self._folder(f"tiny-{block:04d}", files)


def studies_by(attribute: str, numbers: Iterable[int]) -> Counter[str]:
    """How many tiny studies of those numbers there are for each value of an attribute of TinyStudy."""
    return Counter(str(getattr(TinyStudy(number), attribute)) for number in numbers)
