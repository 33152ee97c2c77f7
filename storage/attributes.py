"""The table of indexed attributes: what the index keeps of an instance, what can be searched, what is returned.

It is data (D10): doors, columns and the conformance statement are made from it. It parses nothing. ``ATTRIBUTES`` is
what every archive has; an operator can add to it, and ``table`` is what a process knows in all.
PS3.18 Tables 10.6.1-5 and 10.6.3-3 to 10.6.3-5, PS3.4 §C.6.2.1
"""

from __future__ import annotations

import contextlib
import enum
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

from storage.model import JsonElement, Level
from storage.private import character_set_of, is_private, own_element


class KeyType(enum.Enum):
    """What an attribute is as a search key: ``NONE`` is returned only. PS3.4 §C.2.2.1"""

    UNIQUE = "U"
    REQUIRED = "R"
    OPTIONAL = "O"
    NONE = ""


class Returned(enum.Enum):
    """When an answer holds an attribute that nobody asked for: always (even empty), if known, or not."""

    ALWAYS = "always"
    IF_PRESENT = "if present"
    ON_REQUEST = "on request"


@dataclass(frozen=True, slots=True)
class Attribute:
    """One row of the table.

    keyword, tag: of PS3.6; for an element in a sequence both are paths joined by a dot. is_computed: maintained by
    the index, never read from a Data Set. is_identity: one of the UIDs of ``Instance``. is_inherited: returned at
    the levels below its own, too. is_extended: a key by the operator's wish; it has rows of its own instead of a
    column. creator: of a private one, who must have reserved its block; empty for whoever did.
    """

    keyword: str
    tag: str
    vr: str
    level: Level
    returned: Returned
    key_type: KeyType = KeyType.NONE
    is_computed: bool = False
    is_identity: bool = False
    is_inherited: bool = False
    is_extended: bool = False
    creator: str = ""

    @property
    def is_key(self) -> bool:
        """Whether it can be searched."""
        return self.key_type is not KeyType.NONE

    @property
    def top_tag(self) -> str:
        """The tag at the top of the Data Set: its own, or that of the outermost sequence."""
        return self.tag[:8]

    @property
    def leaf_tag(self) -> str:
        """The tag of the element that holds the value."""
        return self.tag[-8:]

    @property
    def is_nested(self) -> bool:
        """Whether it lies in the items of a sequence."""
        return len(self.tag) > 8

    @property
    def column(self) -> str:
        """Name of its column, as ``column_name``."""
        return column_name(self.keyword)


_WORD_BOUNDARY = re.compile(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])")


def column_name(keyword: str) -> str:
    """Exact snake_case of a keyword: ``SOPInstanceUID`` is ``sop_instance_uid``. Of a path, its last part."""
    leaf = keyword.rpartition(".")[2].replace("IDs", "Ids")
    return _WORD_BOUNDARY.sub("_", leaf).lower()


_ALWAYS, _IF_PRESENT, _ON_REQUEST = Returned.ALWAYS, Returned.IF_PRESENT, Returned.ON_REQUEST
_U, _R, _O = KeyType.UNIQUE, KeyType.REQUIRED, KeyType.OPTIONAL

_Row = tuple[str, str, str, Returned] | tuple[str, str, str, Returned, KeyType]

_PATIENT: tuple[_Row, ...] = (
    ("PatientName", "00100010", "PN", _ALWAYS, _R),
    ("PatientID", "00100020", "LO", _ALWAYS, _U),
    ("IssuerOfPatientID", "00100021", "LO", _ON_REQUEST, _O),
    ("TypeOfPatientID", "00100022", "CS", _ON_REQUEST),
    ("IssuerOfPatientIDQualifiersSequence", "00100024", "SQ", _ON_REQUEST),
    ("PatientBirthDate", "00100030", "DA", _ALWAYS, _O),
    ("PatientBirthTime", "00100032", "TM", _ON_REQUEST),
    ("PatientSex", "00100040", "CS", _ALWAYS, _O),
    ("QualityControlSubject", "00100200", "CS", _ON_REQUEST),
    ("OtherPatientIDs", "00101000", "LO", _ON_REQUEST),
    ("OtherPatientNames", "00101001", "PN", _ON_REQUEST),
    ("OtherPatientIDsSequence", "00101002", "SQ", _ON_REQUEST),
    ("EthnicGroup", "00102160", "SH", _ON_REQUEST),
    ("PatientSpeciesDescription", "00102201", "LO", _ON_REQUEST),
    ("PatientBreedDescription", "00102292", "LO", _ON_REQUEST),
    ("ResponsiblePerson", "00102297", "PN", _ON_REQUEST),
    ("ResponsibleOrganization", "00102299", "LO", _ON_REQUEST),
    ("PatientComments", "00104000", "LT", _ON_REQUEST),
    ("ClinicalTrialSponsorName", "00120010", "LO", _ON_REQUEST),
    ("ClinicalTrialProtocolID", "00120020", "LO", _ON_REQUEST),
    ("ClinicalTrialProtocolName", "00120021", "LO", _ON_REQUEST),
    ("ClinicalTrialSiteID", "00120030", "LO", _ON_REQUEST),
    ("ClinicalTrialSiteName", "00120031", "LO", _ON_REQUEST),
    ("ClinicalTrialSubjectID", "00120040", "LO", _ON_REQUEST),
    ("ClinicalTrialSubjectReadingID", "00120042", "LO", _ON_REQUEST),
    ("PatientIdentityRemoved", "00120062", "CS", _ON_REQUEST),
    ("DeidentificationMethod", "00120063", "LO", _ON_REQUEST),
)

# Study Description is not in PS3.18 Table 10.6.3-3, but every study list shows it.
_STUDY: tuple[_Row, ...] = (
    ("StudyDate", "00080020", "DA", _ALWAYS, _R),
    ("StudyTime", "00080030", "TM", _ALWAYS, _R),
    ("AccessionNumber", "00080050", "SH", _ALWAYS, _R),
    ("IssuerOfAccessionNumberSequence", "00080051", "SQ", _ON_REQUEST),
    ("ReferringPhysicianName", "00080090", "PN", _ALWAYS, _O),
    ("ConsultingPhysicianName", "0008009C", "PN", _ON_REQUEST),
    ("StudyDescription", "00081030", "LO", _ALWAYS, _O),
    ("ProcedureCodeSequence", "00081032", "SQ", _ON_REQUEST),
    ("PhysiciansOfRecord", "00081048", "PN", _ON_REQUEST),
    ("NameOfPhysiciansReadingStudy", "00081060", "PN", _ON_REQUEST),
    ("AdmittingDiagnosesDescription", "00081080", "LO", _ON_REQUEST),
    ("ReferencedStudySequence", "00081110", "SQ", _ON_REQUEST),
    ("PatientAge", "00101010", "AS", _ON_REQUEST),
    ("PatientSize", "00101020", "DS", _ON_REQUEST),
    ("PatientWeight", "00101030", "DS", _ON_REQUEST),
    ("MedicalAlerts", "00102000", "LO", _ON_REQUEST),
    ("Allergies", "00102110", "LO", _ON_REQUEST),
    ("Occupation", "00102180", "SH", _ON_REQUEST),
    ("SmokingStatus", "001021A0", "CS", _ON_REQUEST),
    ("AdditionalPatientHistory", "001021B0", "LT", _ON_REQUEST),
    ("PregnancyStatus", "001021C0", "US", _ON_REQUEST),
    ("LastMenstrualDate", "001021D0", "DA", _ON_REQUEST),
    ("PatientSexNeutered", "00102203", "CS", _ON_REQUEST),
    ("ClinicalTrialTimePointID", "00120050", "LO", _ON_REQUEST),
    ("ClinicalTrialTimePointDescription", "00120051", "ST", _ON_REQUEST),
    ("StudyID", "00200010", "SH", _ALWAYS, _R),
    ("RequestingPhysician", "00321032", "PN", _ON_REQUEST),
    ("RequestingService", "00321033", "LO", _ON_REQUEST),
    ("RequestedProcedureDescription", "00321060", "LO", _ON_REQUEST),
    ("AdmissionID", "00380010", "LO", _ON_REQUEST),
    ("ServiceEpisodeID", "00380060", "LO", _ON_REQUEST),
    ("ServiceEpisodeDescription", "00380062", "LO", _ON_REQUEST),
    ("PatientState", "00380500", "LO", _ON_REQUEST),
    ("ReasonForPerformedProcedureCodeSequence", "00401012", "SQ", _ON_REQUEST),
)

_SERIES: tuple[_Row, ...] = (
    ("SeriesDate", "00080021", "DA", _IF_PRESENT, _O),
    ("SeriesTime", "00080031", "TM", _IF_PRESENT, _O),
    ("Modality", "00080060", "CS", _ALWAYS, _R),
    ("Manufacturer", "00080070", "LO", _ON_REQUEST),
    ("InstitutionName", "00080080", "LO", _ON_REQUEST, _O),
    ("InstitutionAddress", "00080081", "ST", _ON_REQUEST),
    ("StationName", "00081010", "SH", _ON_REQUEST, _O),
    ("SeriesDescription", "0008103E", "LO", _IF_PRESENT, _O),
    ("SeriesDescriptionCodeSequence", "0008103F", "SQ", _ON_REQUEST),
    ("InstitutionalDepartmentName", "00081040", "LO", _ON_REQUEST),
    ("PerformingPhysicianName", "00081050", "PN", _ON_REQUEST, _O),
    ("OperatorsName", "00081070", "PN", _ON_REQUEST),
    ("ManufacturerModelName", "00081090", "LO", _ON_REQUEST, _O),
    ("ReferencedPerformedProcedureStepSequence", "00081111", "SQ", _ON_REQUEST),
    ("AnatomicalOrientationType", "00102210", "CS", _ON_REQUEST),
    ("ClinicalTrialSeriesID", "00120071", "LO", _ON_REQUEST),
    ("BodyPartExamined", "00180015", "CS", _IF_PRESENT, _O),
    ("DeviceSerialNumber", "00181000", "LO", _ON_REQUEST),
    ("SoftwareVersions", "00181020", "LO", _ON_REQUEST),
    ("ProtocolName", "00181030", "LO", _ON_REQUEST, _O),
    ("PatientPosition", "00185100", "CS", _ON_REQUEST),
    ("SeriesNumber", "00200011", "IS", _ALWAYS, _R),
    ("FrameOfReferenceUID", "00200052", "UI", _ON_REQUEST),
    ("Laterality", "00200060", "CS", _ON_REQUEST),
    ("PositionReferenceIndicator", "00201040", "LO", _ON_REQUEST),
    ("PerformedProcedureStepStartDate", "00400244", "DA", _IF_PRESENT, _O),
    ("PerformedProcedureStepStartTime", "00400245", "TM", _IF_PRESENT, _O),
    ("PerformedProcedureStepEndDate", "00400250", "DA", _ON_REQUEST),
    ("PerformedProcedureStepEndTime", "00400251", "TM", _ON_REQUEST),
    ("PerformedProcedureStepID", "00400253", "SH", _ON_REQUEST),
    ("PerformedProcedureStepDescription", "00400254", "LO", _ON_REQUEST),
    ("RequestAttributesSequence", "00400275", "SQ", _IF_PRESENT),
    ("CommentsOnThePerformedProcedureStep", "00400280", "ST", _ON_REQUEST),
)

_REQUEST_ATTRIBUTES: tuple[_Row, ...] = (
    ("RequestAttributesSequence.ScheduledProcedureStepID", "00400275.00400009", "SH", _IF_PRESENT, _O),
    ("RequestAttributesSequence.RequestedProcedureID", "00400275.00401001", "SH", _IF_PRESENT, _O),
)

# Short on purpose: there is one row of these for every instance. The rest of an instance is in its document.
_INSTANCE: tuple[_Row, ...] = (
    ("ImageType", "00080008", "CS", _ON_REQUEST),
    ("AcquisitionDate", "00080022", "DA", _ON_REQUEST),
    ("ContentDate", "00080023", "DA", _ON_REQUEST),
    ("AcquisitionDateTime", "0008002A", "DT", _ON_REQUEST, _O),
    ("AcquisitionTime", "00080032", "TM", _ON_REQUEST),
    ("ContentTime", "00080033", "TM", _ON_REQUEST),
    ("AcquisitionNumber", "00200012", "IS", _ON_REQUEST),
    ("InstanceNumber", "00200013", "IS", _ALWAYS, _R),
    ("NumberOfFrames", "00280008", "IS", _IF_PRESENT),
    ("Rows", "00280010", "US", _IF_PRESENT),
    ("Columns", "00280011", "US", _IF_PRESENT),
    ("BitsAllocated", "00280100", "US", _IF_PRESENT),
    ("ConceptNameCodeSequence", "0040A043", "SQ", _ON_REQUEST),
    ("CompletionFlag", "0040A491", "CS", _ON_REQUEST),
    ("VerificationFlag", "0040A493", "CS", _ON_REQUEST),
    ("DocumentTitle", "00420010", "ST", _ON_REQUEST),
    ("ContentLabel", "00700080", "CS", _ON_REQUEST),
    ("ContentDescription", "00700081", "LO", _ON_REQUEST),
)

_IDENTITY = (
    Attribute("StudyInstanceUID", "0020000D", "UI", Level.STUDY, _ALWAYS, _U, is_identity=True, is_inherited=True),
    Attribute("SeriesInstanceUID", "0020000E", "UI", Level.SERIES, _ALWAYS, _U, is_identity=True, is_inherited=True),
    Attribute("SOPInstanceUID", "00080018", "UI", Level.INSTANCE, _ALWAYS, _U, is_identity=True),
    Attribute("SOPClassUID", "00080016", "UI", Level.INSTANCE, _ALWAYS, _O, is_identity=True),
)

_COMPUTED = (
    Attribute("ModalitiesInStudy", "00080061", "CS", Level.STUDY, _ALWAYS, _O, is_computed=True),
    Attribute("SOPClassesInStudy", "00080062", "UI", Level.STUDY, _ON_REQUEST, _O, is_computed=True),
    Attribute("NumberOfStudyRelatedSeries", "00201206", "IS", Level.STUDY, _ALWAYS, _O, is_computed=True),
    Attribute("NumberOfStudyRelatedInstances", "00201208", "IS", Level.STUDY, _ALWAYS, _O, is_computed=True),
    Attribute("NumberOfSeriesRelatedInstances", "00201209", "IS", Level.SERIES, _ALWAYS, _O, is_computed=True),
    Attribute("AvailableTransferSyntaxUID", "00083002", "UI", Level.INSTANCE, _ON_REQUEST, is_computed=True),
)

# Belongs to SOP Common, and to every answer of which the times are to be understood. PS3.3 §C.12.1
_TIMEZONE = Attribute("TimezoneOffsetFromUTC", "00080201", "SH", Level.STUDY, _IF_PRESENT, is_inherited=True)


def _at(level: Level, rows: tuple[_Row, ...]) -> tuple[Attribute, ...]:
    return tuple(Attribute(row[0], row[1], row[2], level, *row[3:]) for row in rows)


ATTRIBUTES: tuple[Attribute, ...] = tuple(
    sorted(
        (
            *_at(Level.PATIENT, _PATIENT),
            *_at(Level.STUDY, _STUDY),
            *_at(Level.SERIES, _SERIES),
            *_at(Level.SERIES, _REQUEST_ATTRIBUTES),
            *_at(Level.INSTANCE, _INSTANCE),
            *_IDENTITY,
            *_COMPUTED,
            _TIMEZONE,
        ),
        key=lambda attribute: attribute.tag,
    )
)


# ---- the table of a process ----------------------------------------------------------------------------------------

_EMPTY: tuple[JsonElement, ...] = (None, "", {})
_Elements = Mapping[str, JsonElement]
_Reading = Callable[[_Elements], JsonElement | None]


@dataclass(frozen=True, slots=True, eq=False)
class Table:
    """All that a process knows of attributes, ready to be looked up. Each is its own equal, and so a key of caches.

    attributes: ascending by tag. extended: those that the operator has added. level_of_kept: level by tag of what is
    kept of a Data Set. readings: how the element of a tag is taken from a Data Set where it is not kept as it is.
    partial_sequences: those of which only keys are kept.
    """

    attributes: tuple[Attribute, ...]
    extended: tuple[Attribute, ...]
    by_tag: Mapping[str, Attribute]
    by_keyword: Mapping[str, Attribute]
    level_of_kept: Mapping[str, Level]
    kept: frozenset[str]
    readings: Mapping[str, _Reading]
    partial_sequences: frozenset[str]


_REQUEST_ATTRIBUTES_SEQUENCE = "00400275"
_WHOLE_SEQUENCES = frozenset(a.tag for a in ATTRIBUTES if a.vr == "SQ" and a.tag != _REQUEST_ATTRIBUTES_SEQUENCE)


def table_with(extended: Sequence[Attribute]) -> Table:
    """The standard rows and these, which take the place of rows with the same tag.

    The sequence that holds one of them is there to be returned, with the keys of its items only.
    """
    rows = {a.tag: a for a in ATTRIBUTES} | {a.tag: a for a in extended}
    nested = [a for a in rows.values() if a.is_nested]
    for one in nested:
        keyword = one.keyword.partition(".")[0]
        rows.setdefault(one.top_tag, Attribute(keyword, one.top_tag, "SQ", one.level, _ON_REQUEST))
    attributes = tuple(rows[tag] for tag in sorted(rows))
    level_of_kept = {a.tag: a.level for a in attributes if not (a.is_computed or a.is_identity or a.is_nested)}
    readings: dict[str, _Reading] = {
        a.tag: partial(_private_element, a) for a in extended if is_private(a.tag) and not a.is_nested
    }
    for top in sorted({a.top_tag for a in nested}):
        keys = tuple(a for a in nested if a.top_tag == top)
        if top not in _WHOLE_SEQUENCES or any(is_private(a.leaf_tag) for a in keys):
            readings[top] = partial(_sequence, top, keys, is_whole=top in _WHOLE_SEQUENCES)
    return Table(
        attributes,
        tuple(extended),
        rows,
        {a.keyword: a for a in attributes},
        level_of_kept,
        frozenset(level_of_kept),
        readings,
        frozenset(a.top_tag for a in nested) - _WHOLE_SEQUENCES,
    )


def _private_element(attribute: Attribute, data_set: _Elements) -> JsonElement | None:
    return own_element(data_set, attribute.tag, attribute.vr, attribute.creator, character_set_of(data_set))


def _sequence(top: str, keys: Sequence[Attribute], data_set: _Elements, *, is_whole: bool) -> JsonElement:
    """The sequence with the keys of its items read by their VRs; whole, or with nothing else in its items."""
    encodings = character_set_of(data_set)
    items = []
    for item in data_set[top].get("Value") or ():
        if isinstance(item, dict):
            own = {a.leaf_tag: own_element(item, a.leaf_tag, a.vr, a.creator, encodings) for a in keys}
            rest = {tag: element for tag, element in item.items() if tag not in own} if is_whole else {}
            items.append(rest | {tag: element for tag, element in own.items() if element is not None})
    return {"vr": "SQ", "Value": items}


_STANDARD = table_with(())


class _Process:
    """What this process has chosen, once, when it started."""

    table = _STANDARD


def table() -> Table:
    """The table of this process."""
    return _Process.table


@contextlib.contextmanager
def extended_by(extended: Sequence[Attribute]) -> Iterator[None]:
    """Within it the table of this process has these attributes, too. Enter it before anything is stored or searched."""
    before = _Process.table
    _Process.table = table_with(extended) if extended else _STANDARD
    try:
        yield
    finally:
        _Process.table = before


def by_tag(tag: str) -> Attribute | None:
    """The attribute of that tag: eight upper-case hex digits, or two tags joined by a dot."""
    return table().by_tag.get(tag)


def by_keyword(keyword: str) -> Attribute | None:
    """The attribute of that keyword or path of keywords."""
    return table().by_keyword.get(keyword)


def by_level(level: Level) -> tuple[Attribute, ...]:
    """The attributes of exactly that level, ascending by tag."""
    return tuple(attribute for attribute in table().attributes if attribute.level is level)


def has_value(element: JsonElement | None) -> bool:
    """Whether an element of the DICOM JSON Model holds at least one value that is not empty. PS3.18 §F.2.5"""
    values: Sequence[JsonElement] = (element.get("Value") if element else None) or ()
    if len(values) == 1:
        return values[0] not in _EMPTY
    return any(value not in _EMPTY for value in values)


def level_attributes(dataset_json: Mapping[str, JsonElement]) -> Mapping[Level, Mapping[str, JsonElement]]:
    """What the index keeps of an instance, by level and tag, from its whole Data Set in the DICOM JSON Model.

    Elements without a value are left out, and so are values that are elsewhere (bulk data). The identity of the
    instance is not among them. Of a request's items only the keys stay. The elements are shared, not copied.
    """
    known = table()
    kept: dict[Level, dict[str, JsonElement]] = {level: {} for level in Level}
    for tag in sorted(known.kept.intersection(dataset_json)):
        reading = known.readings.get(tag)
        element = dataset_json[tag] if reading is None else reading(dataset_json)
        if has_value(element):
            kept[known.level_of_kept[tag]][tag] = element
    return kept
