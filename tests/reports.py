"""Structured reports made from arguments with pydicom: content items of every value type, and documents of them."""

from __future__ import annotations

import random

import orjson
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.filebase import DicomBytesIO
from pydicom.filewriter import dcmwrite, write_dataset
from pydicom.uid import ExplicitVRLittleEndian

from storage.dataset import read_data_set
from storage.uids import EXPLICIT_VR_LITTLE_ENDIAN, transfer_syntax

COMPREHENSIVE_3D = "1.2.840.10008.5.1.4.1.1.88.34"
CT = "1.2.840.10008.5.1.4.1.1.2"
STUDY, SERIES, SOP = "1.2.3", "1.2.3.4", "1.2.3.4.5"
IMAGE_STUDY, IMAGE_SERIES, IMAGE = "1.2.9", "1.2.9.1", "1.2.9.1.1"
VALUE_TYPES = (
    *("TEXT", "NUM", "CODE", "DATE", "TIME", "DATETIME", "UIDREF", "PNAME", "IMAGE", "COMPOSITE", "WAVEFORM"),
    *("SCOORD", "SCOORD3D", "TCOORD", "CONTAINER"),
)


def item(**attributes) -> Dataset:
    """A Data Set of attributes; lists are sequences."""
    data_set = Dataset()
    for name, value in attributes.items():
        setattr(data_set, name, value)
    return data_set


def code(meaning: str, value: str = "C1", scheme: str = "99TEST") -> Dataset:
    return item(CodeValue=value, CodingSchemeDesignator=scheme, CodeMeaning=meaning)


def content(value_type: str, name: str = "", relationship: str = "CONTAINS", **attributes) -> Dataset:
    """One content item."""
    named = {"ConceptNameCodeSequence": [code(name)]} if name else {}
    return item(RelationshipType=relationship, ValueType=value_type, **named, **attributes)


def text(name: str, value: str, *children: Dataset) -> Dataset:
    below = {"ContentSequence": list(children)} if children else {}
    return content("TEXT", name, TextValue=value, **below)


def container(name: str, *children: Dataset, continuity: str = "SEPARATE") -> Dataset:
    return content("CONTAINER", name, ContinuityOfContent=continuity, ContentSequence=list(children))


def reference(sop: str = IMAGE, sop_class: str = CT, **attributes) -> list[Dataset]:
    return [item(ReferencedSOPClassUID=sop_class, ReferencedSOPInstanceUID=sop, **attributes)]


def document(*children: Dataset, title: str = "Report", **attributes) -> Dataset:
    """An SR Document with the evidence of one image; attributes of None are left out."""
    whole = {
        "SpecificCharacterSet": "ISO_IR 192",
        "SOPClassUID": COMPREHENSIVE_3D,
        "SOPInstanceUID": SOP,
        "StudyDate": "20240102",
        "ContentDate": "20240103",
        "StudyTime": "080910",
        "ContentTime": "101112",
        "Modality": "SR",
        "PatientName": "Doe^Jane",
        "PatientID": "P-1",
        "PatientBirthDate": "19700131",
        "PatientSex": "F",
        "StudyInstanceUID": STUDY,
        "SeriesInstanceUID": SERIES,
        "StudyID": "S1",
        "SeriesNumber": 1,
        "InstanceNumber": 1,
        "ReferencedPerformedProcedureStepSequence": [],
        "ValueType": "CONTAINER",
        "ConceptNameCodeSequence": [code(title)],
        "ContinuityOfContent": "SEPARATE",
        "PerformedProcedureCodeSequence": [],
        "CurrentRequestedProcedureEvidenceSequence": [
            item(
                StudyInstanceUID=IMAGE_STUDY,
                ReferencedSeriesSequence=[item(SeriesInstanceUID=IMAGE_SERIES, ReferencedSOPSequence=reference())],
            )
        ],
        "CompletionFlag": "COMPLETE",
        "VerificationFlag": "UNVERIFIED",
        "ContentSequence": list(children),
    } | attributes
    return item(**{name: value for name, value in whole.items() if value is not None})


def metadata(data_set: Dataset):
    """The DICOM JSON that the archive makes of it, free to be changed."""
    stream = DicomBytesIO()
    stream.is_little_endian, stream.is_implicit_VR = True, False
    write_dataset(stream, data_set)
    return orjson.loads(
        orjson.dumps(read_data_set(stream.getvalue(), 0, transfer_syntax(EXPLICIT_VR_LITTLE_ENDIAN)).json)
    )


def part10(data_set: Dataset, syntax: str = ExplicitVRLittleEndian) -> bytes:
    """The bytes of a file."""
    data_set.file_meta = FileMetaDataset()
    data_set.file_meta.TransferSyntaxUID = syntax
    stream = DicomBytesIO()
    dcmwrite(stream, data_set, enforce_file_format=True)
    return stream.getvalue()


_WORDS = ("Läsion", "größer", "unchanged", "mass & more", "<none>", "Å", "50 %", "見", "right", "segment 5")


class RandomReports:
    """Reports that differ in everything, the same ones for the same seed."""

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)
        self._count = 0

    def _words(self) -> str:
        self._count += 1
        return f"{' '.join(self._random.choices(_WORDS, k=self._random.randint(1, 4)))} {self._count}"

    def _points(self, size: int) -> list[float]:
        return [float(self._random.randint(0, 500)) for _ in range(size)]

    def _value(self, value_type: str) -> dict:
        chosen = self._random
        number = f"{chosen.randint(-99, 999)}.{chosen.randint(0, 9)}"
        unit = code(chosen.choice(("mm", "millimeter", "no units")), chosen.choice(("mm", "1", "{a}")), "UCUM")
        measured = item(NumericValue=number, MeasurementUnitsCodeSequence=[unit])
        date, time = f"20{chosen.randint(10, 30)}0228", f"{chosen.randint(10, 23)}3059"
        return {
            "TEXT": {"TextValue": "\r\n".join(self._words() for _ in range(chosen.randint(1, 3)))},
            "NUM": {"MeasuredValueSequence": [measured]},
            "CODE": {"ConceptCodeSequence": [code(self._words(), str(chosen.randint(1, 10**9)), "SCT")]},
            "DATE": {"Date": date},
            "TIME": {"Time": time},
            "DATETIME": {"DateTime": date + time},
            "UIDREF": {"UID": f"1.2.{chosen.randint(1, 10**9)}"},
            "PNAME": {"PersonName": f"Family{self._words()}^Given^^Dr."},
            "IMAGE": {"ReferencedSOPSequence": reference()},
            "COMPOSITE": {"ReferencedSOPSequence": reference("1.2.9.1.2", "1.2.840.10008.5.1.4.1.1.88.11")},
            "WAVEFORM": {"ReferencedSOPSequence": reference("1.2.9.1.3", "1.2.840.10008.5.1.4.1.1.9.1.1")},
            "SCOORD": {"GraphicType": "POLYLINE", "GraphicData": self._points(6)},
            "SCOORD3D": {
                "GraphicType": "POINT",
                "GraphicData": self._points(3),
                "ReferencedFrameOfReferenceUID": "1.2.8",
            },
            "TCOORD": {"TemporalRangeType": "POINT", "ReferencedTimeOffsets": [str(chosen.randint(1, 99))]},
        }[value_type]

    def content_item(self, depth: int) -> Dataset:
        value_type = self._random.choice(VALUE_TYPES)
        below = [self.content_item(depth - 1) for _ in range(self._random.randint(0, 3))] if depth else []
        if value_type == "CONTAINER":
            continuity = self._random.choice(("SEPARATE", "CONTINUOUS"))
            return container(self._words(), *below, continuity=continuity)
        relationship = self._random.choice(("CONTAINS", "HAS CONCEPT MOD", "INFERRED FROM", "HAS PROPERTIES"))
        children = {"ContentSequence": below} if below else {}
        return content(value_type, self._words(), relationship, **self._value(value_type), **children)

    def of_each_kind(self) -> list[Dataset]:
        """One item of each value type that holds a value."""
        return [content(kind, self._words(), **self._value(kind)) for kind in VALUE_TYPES if kind != "CONTAINER"]

    def document(self) -> Dataset:
        return document(*(self.content_item(3) for _ in range(6)), title=self._words())
