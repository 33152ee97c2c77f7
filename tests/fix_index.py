"""Entries for the index, built from what a test is about; everything else is plausible and the same every time."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

from storage.attributes import by_keyword, level_attributes
from storage.dicomjson import pack_metadata
from storage.model import BulkValue, Entry, Instance, Scope, Source

EXPLICIT = "1.2.840.10008.1.2.1"
JPEG_2000 = "1.2.840.10008.1.2.4.90"
CT_IMAGE = "1.2.840.10008.5.1.4.1.1.2"
SOURCE = Source("dimse", "CT1", "127.0.0.1")


def uid(number: int, arc: str = "1") -> str:
    """A study (arc 1), series (2) or instance (3) of that number."""
    return f"1.2.826.0.1.{arc}.{number}"


def element(keyword: str, *values: object) -> tuple[str, dict]:
    """Tag and element of the DICOM JSON Model, for an attribute of the table."""
    attribute = by_keyword(keyword)
    assert attribute is not None, keyword
    if attribute.vr == "PN":
        values = tuple({"Alphabetic": value} if isinstance(value, str) else value for value in values)
    return attribute.tag, {"vr": attribute.vr, "Value": list(values)} if values else {"vr": attribute.vr}


def data_set(**attributes: object) -> dict[str, dict]:
    """A Data Set in the DICOM JSON Model; a list is several values, None an element without a value."""
    elements = {}
    for keyword, value in attributes.items():
        values = value if isinstance(value, list) else [] if value is None else [value]
        tag, elements[tag] = element(keyword, *values)[0], element(keyword, *values)[1]
    return elements


def entry(
    study: int = 1,
    series: int = 1,
    instance: int = 1,
    *,
    content: str = "",
    transfer_syntax_uid: str = EXPLICIT,
    sop_class_uid: str = CT_IMAGE,
    source: Source = SOURCE,
    json: Mapping[str, object] | None = None,
    **attributes: object,
) -> Entry:
    """One instance. content: what makes its bytes differ. json: elements as they are, by tag."""
    digest = hashlib.sha256(f"{study}/{series}/{instance}/{content}".encode()).hexdigest()
    said = {"PatientID": "P1", "PatientName": "Doe^Jane", "StudyDate": "20260102", "Modality": "CT"} | attributes
    elements = data_set(**{"SeriesNumber": series, "InstanceNumber": instance} | said) | dict(json or {})
    return Entry(
        Instance(
            study_instance_uid=uid(study, "1"),
            series_instance_uid=uid(series, "2"),
            sop_instance_uid=uid(instance, "3"),
            sop_class_uid=sop_class_uid,
            transfer_syntax_uid=transfer_syntax_uid,
            digest=digest,
            key=f"v1/{study}/{series}/{instance}/{digest}.dcm",
            size_bytes=1000,
            data_set_offset=400,
            number_of_frames=1,
        ),
        level_attributes(elements),
        metadata=pack_metadata(elements, transfer_syntax_uid),
        frame_table=b"frames",
        bulk={"7FE00010": BulkValue(100, 600, "OW")},
        source=source,
    )


def entries(studies: int, series: int, instances: int, **attributes: object) -> list[Entry]:
    """A regular archive: so many studies, each with so many series, each with so many instances, all distinct."""
    return [
        entry(study, study * 1000 + one, (study * 1000 + one) * 1000 + instance, **attributes)
        for study in range(1, studies + 1)
        for one in range(1, series + 1)
        for instance in range(1, instances + 1)
    ]


def study_scope(study: int) -> Scope:
    """The study of that number."""
    return Scope(uid(study, "1"))


def series_scope(study: int, series: int) -> Scope:
    """The series of that number in that study."""
    return Scope(uid(study, "1"), uid(series, "2"))
