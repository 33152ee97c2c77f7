"""Who, when and where: invented patients, their studies, the equipment, and the modules every instance shares.

UIDs are made from names with UUID version 5 under 2.25 (PS3.5 §B.2), so they are the same in every run and nobody
else's. Patients, people and institutions are invented; all dates are in the past.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta

from pydicom.dataset import Dataset
from pydicom.sequence import Sequence
from pydicom.uid import UID

_NAMESPACE = uuid.UUID("9f0c0d5e-6a58-5a6d-8f3e-2b1d7c4e9a10")
PRIVATE_CREATOR = "DICOMWEB GATEWAY SAMPLE"


def uid(*names: str) -> UID:
    """The UID of what ``names`` name, always the same. PS3.5 §B.2"""
    return UID(f"2.25.{uuid.uuid5(_NAMESPACE, '/'.join(names)).int}")


@dataclass(frozen=True, slots=True)
class Patient:
    """An invented person. character_set: values of Specific Character Set, none for the default repertoire."""

    character_set: tuple[str, ...]
    name: str
    patient_id: str
    birth_date: str
    sex: str
    size_m: float
    weight_kg: float


@dataclass(frozen=True, slots=True)
class Equipment:
    """A device and where it stands."""

    manufacturer: str
    model: str
    serial_number: str
    software: str
    station: str
    institution: str
    department: str


@dataclass(frozen=True, slots=True)
class Study:
    """One study. folder: its name on disk, and the seed of its UID; age: of the patient then (AS); start: in UTC."""

    folder: str
    patient: Patient
    study_id: str
    accession_number: str
    start: datetime
    age: str
    description: str
    referring_physician: str

    @property
    def instance_uid(self) -> UID:
        """Study Instance UID."""
        return uid(self.folder)


@dataclass(frozen=True, slots=True)
class Series:
    """One series of a study. name: seed of its UID; after_seconds: from the start of the study."""

    study: Study
    name: str
    number: int
    modality: str
    description: str
    equipment: Equipment
    after_seconds: int = 60
    body_part: str = ""
    protocol: str = ""

    @property
    def instance_uid(self) -> UID:
        """Series Instance UID."""
        return uid(self.study.folder, self.name)

    def sop_instance_uid(self, number: int) -> UID:
        """SOP Instance UID of the instance with that Instance Number."""
        return uid(self.study.folder, self.name, str(number))

    @property
    def frame_of_reference_uid(self) -> UID:
        """Frame of Reference UID, shared by the series of one study."""
        return uid(self.study.folder, "frame of reference")

    @property
    def start(self) -> datetime:
        """When it began."""
        return self.study.start + timedelta(seconds=self.after_seconds)


def date(moment: datetime) -> str:
    """DA. PS3.5 §6.2"""
    return moment.strftime("%Y%m%d")


def time(moment: datetime) -> str:
    """TM with microseconds. PS3.5 §6.2"""
    return moment.strftime("%H%M%S.%f")


def fields(dataset: Dataset, **values: object) -> Dataset:
    """``dataset`` with the attributes of those keywords set."""
    for keyword, value in values.items():
        setattr(dataset, keyword, value)
    return dataset


def item(**values: object) -> Dataset:
    """A new Data Set with those attributes."""
    return fields(Dataset(), **values)


def items(*datasets: Dataset) -> Sequence:
    """A sequence of those items."""
    return Sequence(datasets)


def code(value: str, scheme: str, meaning: str) -> Dataset:
    """A code sequence item. PS3.3 §8.8"""
    return item(CodeValue=value, CodingSchemeDesignator=scheme, CodeMeaning=meaning)


def reference(sop_class: str, sop_instance: str) -> Dataset:
    """A SOP Instance Reference item. PS3.3 Table 10-11"""
    return item(ReferencedSOPClassUID=sop_class, ReferencedSOPInstanceUID=sop_instance)


def decimals(values: Iterable[float]) -> list[str]:
    """DS values with at most six decimals and no minus zero. PS3.5 §6.2"""
    return [f"{round(value, 6) + 0.0:.6f}".rstrip("0").rstrip(".") for value in values]


def header(series: Series, sop_class: str, number: int, *, procedure: Dataset | None = None) -> Dataset:
    """The modules every instance has: patient, study, series, equipment, SOP Common. PS3.3 §C.7, §C.12

    procedure: its code, where one was ordered.
    """
    study, patient, equipment = series.study, series.study.patient, series.equipment
    dataset = Dataset()
    if patient.character_set:
        dataset.SpecificCharacterSet = list(patient.character_set)
    fields(
        dataset,
        SOPClassUID=sop_class,
        SOPInstanceUID=series.sop_instance_uid(number),
        InstanceCreationDate=date(series.start),
        InstanceCreationTime=time(series.start + timedelta(seconds=20)),
        InstanceCreatorUID=uid(equipment.serial_number),
        InstanceNumber=number,
        TimezoneOffsetFromUTC="+0000",
        PatientName=patient.name,
        PatientID=patient.patient_id,
        IssuerOfPatientID="SAMPLE",
        PatientBirthDate=patient.birth_date,
        PatientSex=patient.sex,
        PatientAge=study.age,
        PatientSize=decimals([patient.size_m])[0],
        PatientWeight=decimals([patient.weight_kg])[0],
        StudyInstanceUID=study.instance_uid,
        StudyID=study.study_id,
        StudyDate=date(study.start),
        StudyTime=time(study.start),
        StudyDescription=study.description,
        AccessionNumber=study.accession_number,
        ReferringPhysicianName=study.referring_physician,
        SeriesInstanceUID=series.instance_uid,
        SeriesNumber=series.number,
        SeriesDate=date(series.start),
        SeriesTime=time(series.start),
        SeriesDescription=series.description,
        Modality=series.modality,
        Manufacturer=equipment.manufacturer,
        ManufacturerModelName=equipment.model,
        DeviceSerialNumber=equipment.serial_number,
        SoftwareVersions=equipment.software,
        StationName=equipment.station,
        InstitutionName=equipment.institution,
        InstitutionalDepartmentName=equipment.department,
    )
    if series.body_part:
        dataset.BodyPartExamined = series.body_part
    if series.protocol:
        dataset.ProtocolName = series.protocol
    if procedure is not None:
        dataset.ProcedureCodeSequence = items(procedure)
    return dataset


def performed(dataset: Dataset, study: Study) -> Dataset:
    """``dataset`` with the request behind its series and the step that was performed for it. PS3.3 §C.7.3.1, §10.13"""
    procedure = dataset.ProcedureCodeSequence[0]
    dataset.RequestAttributesSequence = items(
        item(
            RequestedProcedureDescription=study.description,
            RequestedProcedureCodeSequence=items(procedure),
            ScheduledProcedureStepDescription=study.description,
            ScheduledProcedureStepID="SPS-" + study.study_id,
            RequestedProcedureID="RP-" + study.study_id,
        )
    )
    return fields(
        dataset,
        PerformedProcedureStepStartDate=date(study.start),
        PerformedProcedureStepStartTime=time(study.start),
        PerformedProcedureStepEndDate=date(study.start),
        PerformedProcedureStepEndTime=time(study.start + timedelta(minutes=15)),
        PerformedProcedureStepID="PPS-" + study.study_id,
        PerformedProcedureStepDescription=study.description,
        PerformedProtocolCodeSequence=items(procedure),
    )


def acquired(dataset: Dataset, series: Series, seconds: float) -> Dataset:
    """Acquisition and content dates, ``seconds`` after the series began."""
    moment = series.start + timedelta(seconds=seconds)
    return fields(
        dataset,
        AcquisitionDate=date(moment),
        AcquisitionTime=time(moment),
        ContentDate=date(moment),
        ContentTime=time(moment + timedelta(seconds=2)),
    )


def private_block(dataset: Dataset, group: int, rows: Iterable[tuple[int, str, object]]) -> Dataset:
    """``dataset`` with a private block of ours: element, VR and value of each row. PS3.5 §7.8"""
    block = dataset.private_block(group, PRIVATE_CREATOR, create=True)
    for element, vr, value in rows:
        block.add_new(element, vr, value)
    return dataset
