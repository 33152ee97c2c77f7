"""What is asked for: level, keys, what to show; from the words of the command line, whichever protocol carries it."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from gateway.query.failures import BadUsage
from gateway.query.text import clean
from storage.attributes import ATTRIBUTES
from storage.dictionary import dictionary_vr, keyword_of, tag_of
from storage.model import JsonElement, Level

LEVELS: Mapping[str, Level] = {
    "patients": Level.PATIENT,
    "studies": Level.STUDY,
    "series": Level.SERIES,
    "instances": Level.INSTANCE,
}
ALL = "all"
_COLUMNS: Mapping[Level, str] = {
    Level.PATIENT: "PatientID PatientName PatientBirthDate PatientSex NumberOfPatientRelatedStudies",
    Level.STUDY: (
        "PatientID PatientName StudyDate ModalitiesInStudy StudyDescription AccessionNumber"
        " NumberOfStudyRelatedInstances StudyInstanceUID"
    ),
    Level.SERIES: (
        "Modality SeriesNumber SeriesDescription BodyPartExamined NumberOfSeriesRelatedInstances"
        " SeriesInstanceUID StudyInstanceUID"
    ),
    Level.INSTANCE: (
        "InstanceNumber Rows Columns NumberOfFrames SOPInstanceUID SOPClassUID SeriesInstanceUID StudyInstanceUID"
    ),
}
_MAXIMUM_VALUE_CHARACTERS = 1024
_TAG = re.compile(r"\(?([0-9A-Fa-f]{4}),?([0-9A-Fa-f]{4})\)?")
_PERSON_NAME_GROUPS = ("Alphabetic", "Ideographic", "Phonetic")


@dataclass(frozen=True, slots=True)
class Field:
    """An attribute, or one in the items of sequences. tags: the path to it, each eight upper-case hex digits."""

    tags: tuple[str, ...]

    @property
    def name(self) -> str:
        """Its keyword, or the path of them; the tag where there is no keyword. PS3.18 §8.3.4.1"""
        return ".".join(keyword_of(int(tag, 16)) or tag for tag in self.tags)

    @property
    def vr(self) -> str:
        """Its VR by the dictionary; the first where that depends on the Data Set."""
        return dictionary_vr(int(self.tags[-1], 16)).split(" or ")[0]

    def texts(self, answer: Mapping[str, JsonElement]) -> list[str]:
        """Its values in an answer as they would be shown; none for what an answer does not have."""
        found: list[str] = []
        _collect(answer, self.tags, found)
        return found


def _collect(data_set: JsonElement, tags: tuple[str, ...], found: list[str]) -> None:
    element = data_set.get(tags[0]) if isinstance(data_set, dict) else None
    values = element.get("Value") if isinstance(element, dict) else None
    if not isinstance(values, list):
        return
    for value in values:
        if len(tags) > 1:
            _collect(value, tags[1:], found)
        elif isinstance(element, dict) and element.get("vr") == "SQ":
            found.append("(item)")
        else:
            found.append(_shown(value))


def _shown(value: JsonElement) -> str:
    if isinstance(value, dict):
        groups = [value.get(group) for group in _PERSON_NAME_GROUPS]
        return "=".join(group if isinstance(group, str) else "" for group in groups).rstrip("=")
    if isinstance(value, float) and value.is_integer() and abs(value) < 1e15:
        return str(int(value))
    return "" if value is None or isinstance(value, list) else str(value)


@dataclass(frozen=True, slots=True)
class Search:
    """A query before any protocol. limit: None for all. keys: with a value each; fields: to be returned, too."""

    level: Level
    keys: Mapping[Field, str]
    fields: tuple[Field, ...]
    includes_all: bool = False
    limit: int | None = None
    offset: int = 0
    is_fuzzy: bool = False

    @property
    def columns(self) -> tuple[Field, ...]:
        """What a table shows: what tells one from another at this level, then what was searched and asked for."""
        usual = (read_field(keyword) for keyword in _COLUMNS[self.level].split())
        return tuple(dict.fromkeys((*usual, *self.keys, *self.fields)))

    def key(self, keyword: str) -> str:
        """The value that a key must have; empty when it is none."""
        return self.keys.get(read_field(keyword), "")


def read_field(name: str) -> Field:
    """The attribute that a keyword, a tag, or a path of them with dots between names. Raises BadUsage."""
    return Field(tuple(_tag(part, name) for part in name.split(".")))


def _tag(part: str, name: str) -> str:
    found = _TAG.fullmatch(part)
    if found:
        return (found[1] + found[2]).upper()
    tag = tag_of(part)
    if tag is None:
        near = difflib.get_close_matches(part, [one.keyword for one in ATTRIBUTES if not one.is_nested], 1)
        hint = f" Did you mean {near[0]}?" if near else ""
        raise BadUsage(f"{name!r} is no attribute: neither a keyword of DICOM nor a tag of eight hex digits.{hint}")
    return f"{tag:08X}"


def read_keys(arguments: Iterable[str]) -> tuple[dict[Field, str], tuple[Field, ...]]:
    """Keys with what they must be, and those of ``KEY=``, which are only to be returned. Raises BadUsage."""
    keys: dict[Field, str] = {}
    returned: list[Field] = []
    for argument in arguments:
        name, equals, value = argument.partition("=")
        if not equals:
            raise BadUsage(
                f"{argument!r} is neither KEY=VALUE nor a server such as http://host:8080/dicomweb or AE@host:11112."
            )
        field = read_field(name)
        if field in keys or field in returned:
            raise BadUsage(f"The key {name!r} is given twice.")
        if len(value) > _MAXIMUM_VALUE_CHARACTERS or clean(value) != value:
            raise BadUsage(f"The value of {name!r} is too long, or has control characters.")
        if value:
            keys[field] = value
        else:
            returned.append(field)
    return keys, tuple(returned)


def read_includes(names: Sequence[str]) -> tuple[tuple[Field, ...], bool]:
    """The fields of ``--include``, with commas between or given again, and whether ``all`` is one. Raises BadUsage."""
    # A tag may be written gggg,eeee: such a comma separates nothing.
    words = [word for name in names for word in _split(name)]
    return tuple(read_field(word) for word in words if word != ALL), ALL in words


def _split(name: str) -> Iterator[str]:
    if _TAG.fullmatch(name):
        yield name
        return
    yield from filter(None, (word.strip() for word in name.split(",")))
