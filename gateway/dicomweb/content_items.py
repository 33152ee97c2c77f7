"""What one content item of a structured report says, by its value type, in words for people. PS3.3 §C.17.3

Pure, and total: whatever a Data Set holds, or lacks, becomes phrases. What is missing is said to be missing.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from gateway.pixels.elements import DataSet, element_of, values_of, vr_of
from storage.dictionary import uid_name
from storage.model import JsonElement

Locate = Callable[[str], str]
"""From a SOP Instance UID to the URL of the instance; empty for one that no evidence says the study of."""

CONTENT = "0040A730"
CONCEPT_NAME = "0040A043"
REFERENCED_ITEM = "0040DB73"
REFERENCED_SOP = "00081199"
TEXT_VALUE = "0040A160"
MAXIMUM_LISTED = 200
"""How many numbers of one list are shown: frames, channels, points of an outline."""

_MOMENT = re.compile(r"(\d{4})(\d\d)(\d\d)(?:(\d\d)(?:(\d\d)(?:(\d\d)(\.\d{1,6})?)?)?)?([+-]\d{4})?", re.ASCII)
_TIME = re.compile(r"(\d\d)(\d\d)(?:(\d\d)(\.\d{1,6})?)?", re.ASCII)
_SELECTOR_VALUES = range(0x0072005E, 0x00720084)
_GROUPS_OF_NAMES = ("Alphabetic", "Ideographic", "Phonetic")


@dataclass(frozen=True, slots=True)
class Phrase:
    """A part of what is said. href: where it leads to. is_missing: it stands for what is not there."""

    text: str
    href: str = ""
    is_missing: bool = False


def missing(what: str) -> Phrase:
    """The phrase that stands for what should be there."""
    return Phrase(f"{what} missing", is_missing=True)


def items_of(data_set: DataSet, tag: str) -> Sequence[DataSet]:
    """The items of a sequence; an empty one for what is no item, so that it is counted and seen to be empty."""
    return [item if isinstance(item, Mapping) else {} for item in values_of(data_set, tag)]


def item_of(data_set: DataSet, tag: str) -> DataSet:
    """The first item of a sequence, an empty one where there is none."""
    return next(iter(items_of(data_set, tag)), {})


def text_of(data_set: DataSet, tag: str) -> str:
    """The values of an attribute as people write them; empty without any."""
    written = _WRITTEN.get(vr_of(data_set, tag), scalar)
    return ", ".join(filter(None, map(written, values_of(data_set, tag))))


def scalar(value: JsonElement) -> str:
    """One value as it is; a number without the ``.0`` that a Decimal String does not have."""
    if isinstance(value, float):
        return repr(value).removesuffix(".0")
    if isinstance(value, Mapping):
        return person(value)
    return str(value) if isinstance(value, (str, int)) else ""


def moment(value: JsonElement) -> str:
    """A date, or date and time: ``2019-03-14 10:15:00 +0100``; what is none is left as it is. PS3.5 §6.2"""
    match = _MOMENT.fullmatch(scalar(value))
    if match is None:
        return scalar(value)
    year, month, day, hour, minute, second, fraction, offset = match.groups(default="")
    time = ":".join(filter(None, (hour, minute, second)))
    return " ".join(filter(None, (f"{year}-{month}-{day}", time + _fraction(fraction), offset)))


def time_of_day(value: JsonElement) -> str:
    """A time: ``10:15:00``; what is none is left as it is. PS3.5 §6.2"""
    match = _TIME.fullmatch(scalar(value))
    if match is None:
        return scalar(value)
    *parts, fraction = match.groups(default="")
    return ":".join(filter(None, parts)) + _fraction(fraction)


def _fraction(text: str) -> str:
    """A fraction of a second, nothing where it is none."""
    return text if text.strip(".0") else ""


def person(value: JsonElement) -> str:
    """A Person Name: prefix, given, middle and family name, suffix; other groups behind it. PS3.5 §6.2.1"""
    if not isinstance(value, Mapping):
        return scalar(value)
    groups = (value.get(group) for group in _GROUPS_OF_NAMES)
    alphabetic, *others = (group if isinstance(group, str) else "" for group in groups)
    family, given, middle, prefix, suffix = (*alphabetic.split("^", 4), "", "", "", "", "")[:5]
    first = " ".join(filter(None, (prefix, given, middle, family))) + (f", {suffix}" if suffix else "")
    names = [name for name in (first, *(other.replace("^", " ").strip() for other in others)) if name]
    return names[0] + (f" ({', '.join(names[1:])})" if names[1:] else "") if names else ""


_WRITTEN: Mapping[str, Callable[[JsonElement], str]] = {
    "DA": moment,
    "DT": moment,
    "TM": time_of_day,
    "PN": person,
}


def _code(item: DataSet) -> tuple[str, str, str]:
    """Code Value in any of its three attributes, Coding Scheme Designator and Code Meaning. PS3.3 §8.8"""
    value = text_of(item, "00080100") or text_of(item, "00080119") or text_of(item, "00080120")
    return value, text_of(item, "00080102"), text_of(item, "00080104")


def code_value(item: DataSet) -> str:
    """What stands for the code among programs."""
    return _code(item)[0]


def concept_name(item: DataSet) -> str:
    """The meaning of the Concept Name; its code where no meaning is given; empty without either."""
    value, _, meaning = _code(item_of(item, CONCEPT_NAME))
    return meaning or value


def coded(item: DataSet, what: str) -> Phrase:
    """A code: its meaning, then its value and scheme."""
    value, scheme, meaning = _code(item)
    behind = f" ({', '.join(filter(None, (value, scheme)))})" if value or scheme else ""
    return Phrase(meaning + behind) if meaning else Phrase(f"meaning of the {what} missing{behind}", is_missing=True)


def _unit(item: DataSet) -> Phrase:
    """A unit as it is written behind a number: UCUM has symbols, but for what counts without one. PS3.3 §C.18.1"""
    value, scheme, meaning = _code(item)
    if not item:
        return missing("unit")
    if scheme != "UCUM" or not value:
        return coded(item, "unit")
    if value == "1" or value.startswith("{"):
        return Phrase(meaning or value)
    return Phrase(value if meaning in ("", value) else f"{value} ({meaning})")


def _attribute(data_set: DataSet, tag: str, what: str) -> Phrase:
    text = text_of(data_set, tag)
    if text:
        return Phrase(text)
    if "BulkDataURI" in element_of(data_set, tag):
        return Phrase(f"{what} too large to be shown", is_missing=True)
    return missing(what)


def _number(item: DataSet, _: Locate) -> Iterator[Phrase]:
    """NUM: number and unit, and what is said about its being exact, or not there. PS3.3 §C.18.1"""
    qualifiers = items_of(item, "0040A301")
    measured = item_of(item, "0040A300")
    if measured or not qualifiers:
        number = text_of(measured, "0040A30A") or text_of(measured, "0040A161")
        unit = _unit(item_of(measured, "004008EA"))
        if number and not unit.is_missing:
            yield Phrase(f"{number} {unit.text}")
        else:
            yield from (Phrase(number) if number else missing("number"), unit)
    for qualifier in qualifiers:
        yield coded(qualifier, "qualifier")


def _concept(item: DataSet, _: Locate) -> Iterator[Phrase]:
    """CODE"""
    codes = items_of(item, "0040A168")
    yield from (coded(code, "code") for code in codes)
    if not codes:
        yield missing("code")


def _simple(tag: str, what: str) -> Callable[[DataSet, Locate], Iterator[Phrase]]:
    """TEXT, DATE, TIME, DATETIME, PNAME, UIDREF: one attribute."""

    def phrases(item: DataSet, _: Locate) -> Iterator[Phrase]:
        yield _attribute(item, tag, what)

    return phrases


def _listed(numbers: Sequence[JsonElement]) -> Iterator[Phrase]:
    """The first so many; and how many there are more."""
    yield from map(Phrase, map(scalar, numbers[:MAXIMUM_LISTED]))
    if len(numbers) > MAXIMUM_LISTED:
        yield Phrase(f"and {len(numbers) - MAXIMUM_LISTED} more")


def _reference(item: DataSet, locate: Locate) -> Iterator[Phrase]:
    """IMAGE, COMPOSITE: the instance, or its frames, each to be looked at where its study is known. PS3.3 §C.18.4"""
    referenced = items_of(item, REFERENCED_SOP)
    if not referenced:
        yield missing("reference")
    for one in referenced:
        kind, uid = (text_of(one, tag) for tag in ("00081150", "00081155"))
        url = locate(uid)
        frames = values_of(one, "00081160")
        name = Phrase(uid_name(kind) or kind) if kind else missing("class of the instance")
        yield Phrase(name.text, f"{url}/rendered") if url and kind and not frames else name
        if not url:
            yield Phrase(f"instance {uid}") if uid else missing("instance")
        for frame in _listed(frames):
            is_number = frame.text.isascii() and frame.text.isdigit() and len(frame.text) < 10
            link = f"{url}/frames/{frame.text}/rendered" if url and is_number else ""
            yield Phrase(f"frame {frame.text}" if is_number else frame.text, link)
        for segment in _listed(values_of(one, "0062000B")):
            yield Phrase(f"segment {segment.text}")
        for applied in items_of(one, REFERENCED_SOP):
            applied_kind = text_of(applied, "00081150")
            yield Phrase(f"with {uid_name(applied_kind) or applied_kind or 'an object of missing class'}")


def _waveform(item: DataSet, _: Locate) -> Iterator[Phrase]:
    """WAVEFORM: the instance, and channels within multiplex groups. PS3.3 §C.18.5"""
    yield from _reference(item, lambda _: "")
    numbers = values_of(item_of(item, REFERENCED_SOP), "0040A0B0")
    pairs = ["/".join(map(scalar, numbers[at : at + 2])) for at in range(0, len(numbers), 2)]
    yield from (Phrase(f"channel {pair.text}") for pair in _listed(pairs))


def _outline(size: int) -> Callable[[DataSet, Locate], Iterator[Phrase]]:
    """SCOORD, SCOORD3D: a shape and its points, of ``size`` coordinates each. PS3.3 §C.18.6, §C.18.9"""

    def phrases(item: DataSet, _: Locate) -> Iterator[Phrase]:
        yield _attribute(item, "00700023", "graphic type")
        numbers = values_of(item, "00700022")
        if not numbers:
            yield _attribute(item, "00700022", "graphic data")
        starts = range(0, len(numbers), size)
        yield from _listed([f"({', '.join(map(scalar, numbers[at : at + size]))})" for at in starts])
        if size == 3:
            frame_of_reference = _attribute(item, "30060024", "frame of reference")
            yield Phrase(f"frame of reference {frame_of_reference.text}", is_missing=frame_of_reference.is_missing)

    return phrases


_TEMPORAL = {"0040A132": "sample {}", "0040A138": "{} s", "0040A13A": "{}"}


def _range_of_time(item: DataSet, _: Locate) -> Iterator[Phrase]:
    """TCOORD: kind of range, and samples, offsets or times. PS3.3 §C.18.7"""
    yield _attribute(item, "0040A130", "temporal range type")
    given = [tag for tag in _TEMPORAL if values_of(item, tag)]
    if not given:
        yield missing("temporal coordinates")
    for tag in given:
        written = moment if tag == "0040A13A" else scalar
        yield from (Phrase(_TEMPORAL[tag].format(one.text)) for one in _listed([*map(written, values_of(item, tag))]))


def _table(item: DataSet, _: Locate) -> Iterator[Phrase]:
    """TABLE: each cell with the names of its row and its column."""
    table = item_of(item, "0040A801")
    rows = _names(table, "0040A806", "0040A804")
    columns = _names(table, "0040A807", "0040A805")
    cells = items_of(table, "0040A808")
    if not cells:
        yield missing("table")
    for cell in cells:
        row, column = text_of(cell, "0040A804"), text_of(cell, "0040A805")
        value = next(filter(None, _cell_values(cell)), "") or "cell value missing"
        yield Phrase(f"{rows.get(row, f'row {row}')}, {columns.get(column, f'column {column}')}: {value}")


def _names(table: DataSet, definitions: str, number: str) -> Mapping[str, str]:
    """What rows or columns are called, with their unit, by number."""
    return {
        text_of(one, number): " ".join(
            (concept_name(one) or "concept name missing", *(_unit(unit).text for unit in items_of(one, "004008EA")))
        )
        for one in items_of(table, definitions)
    }


def _cell_values(cell: DataSet) -> Iterator[str]:
    for sequence in ("00720080", "0040A168"):
        yield ", ".join(coded(code, "code").text for code in items_of(cell, sequence))
    yield from (text_of(cell, f"{tag:08X}") for tag in _SELECTOR_VALUES)


@dataclass(frozen=True, slots=True)
class ValueType:
    """How items of one value type are shown. name: what they are called without a Concept Name, if they may be."""

    phrases: Callable[[DataSet, Locate], Iterator[Phrase]]
    name: str = ""


VALUE_TYPES: Mapping[str, ValueType] = {
    "CONTAINER": ValueType(lambda *_: iter(()), "Section"),
    "TEXT": ValueType(_simple(TEXT_VALUE, "text")),
    "NUM": ValueType(_number),
    "CODE": ValueType(_concept),
    "DATE": ValueType(_simple("0040A121", "date")),
    "TIME": ValueType(_simple("0040A122", "time")),
    "DATETIME": ValueType(_simple("0040A120", "date and time")),
    "PNAME": ValueType(_simple("0040A123", "person name")),
    "UIDREF": ValueType(_simple("0040A124", "UID")),
    "IMAGE": ValueType(_reference, "Image"),
    "COMPOSITE": ValueType(_reference, "Object"),
    "WAVEFORM": ValueType(_waveform, "Waveform"),
    "SCOORD": ValueType(_outline(2), "Spatial coordinates"),
    "SCOORD3D": ValueType(_outline(3), "Spatial coordinates in space"),
    "TCOORD": ValueType(_range_of_time, "Temporal coordinates"),
    "TABLE": ValueType(_table),
}
"""PS3.3 Table C.17.3-7"""


def phrases_of(item: DataSet, locate: Locate) -> tuple[Phrase, ...]:
    """What an item says, but for its name and what hangs on it."""
    value_type = text_of(item, "0040A040")
    known = VALUE_TYPES.get(value_type)
    if known is not None:
        return tuple(known.phrases(item, locate))
    return (Phrase(f"value type {value_type} unknown" if value_type else "value type missing", is_missing=True),)


def name_of(item: DataSet) -> Phrase:
    """What an item is called."""
    name = concept_name(item)
    if name:
        return Phrase(name)
    known = VALUE_TYPES.get(text_of(item, "0040A040"))
    return Phrase(known.name) if known is not None and known.name else missing("concept name")
