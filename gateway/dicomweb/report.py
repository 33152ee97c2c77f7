"""A structured report as people read it: who it is about, how far it is done, and its content items in order.

Pure: made from the DICOM JSON of an SR Document or Key Object Selection; its forms are in ``report_forms``. Nothing is
left out in silence: what is missing or malformed is said to be so, and only what passes a limit fails.
PS3.3 §A.35, §C.17
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from gateway.dicomweb.content_items import (
    CONCEPT_NAME,
    CONTENT,
    REFERENCED_ITEM,
    REFERENCED_SOP,
    Phrase,
    code_value,
    coded,
    concept_name,
    item_of,
    items_of,
    missing,
    name_of,
    phrases_of,
    scalar,
    text_of,
)
from gateway.pixels.elements import DataSet, values_of
from storage.dictionary import uid_name
from storage.errors import TooLarge, Undecodable
from storage.model import JsonElement, Scope
from storage.uids import is_uid

SR_STORAGE = "1.2.840.10008.5.1.4.1.1.88."
KEY_OBJECT_SELECTION = SR_STORAGE + "59"
MAXIMUM_DEPTH = 64
MAXIMUM_ITEMS = 20_000

_VALUE_TYPE = "0040A040"
_LANGUAGE_OF_CONTENT = "121049"  # DCM: Language of Content Item and Descendants
_LANGUAGE = re.compile(r"[A-Za-z]{2,8}(?:-[A-Za-z0-9]{1,8}){0,4}", re.ASCII)
_EVIDENCE = ("0040A375", "0040A385")
_RELATIONSHIPS = {
    "CONTAINS": "",
    "HAS OBS CONTEXT": "observation context",
    "HAS CONCEPT MOD": "concept modifier",
    "HAS PROPERTIES": "has properties",
    "HAS ACQ CONTEXT": "acquisition context",
    "INFERRED FROM": "inferred from",
    "SELECTED FROM": "selected from",
}
"""What stands before an item; nothing where it is just contained. PS3.3 Table C.17.3-8"""


@dataclass(frozen=True, slots=True)
class Field:
    """One row about the document as a whole."""

    label: str
    phrases: tuple[Phrase, ...]


@dataclass(frozen=True, slots=True)
class ContentItem:
    """One item of the content tree, in the order of the document.

    number: its place, as by-reference relationships give it: ``1`` is the document, ``1.2`` its second item. depth:
    0 of the document. relationship: empty where it is contained. is_referenced: another item points to it.
    """

    number: str
    depth: int
    relationship: Phrase
    value_type: str
    name: Phrase
    phrases: tuple[Phrase, ...]
    observed: str = ""
    is_continuous: bool = False
    is_referenced: bool = False

    @property
    def is_container(self) -> bool:
        """Whether its name is a heading."""
        return self.value_type == "CONTAINER"


@dataclass(frozen=True, slots=True)
class Report:
    """A report. items: the content tree in order, the document itself first. language: RFC 5646, or empty."""

    title: Phrase
    fields: tuple[Field, ...]
    items: tuple[ContentItem, ...]
    language: str

    @classmethod
    def of(cls, metadata: JsonElement, url_of: Callable[[Scope], str]) -> Report:
        """The report that an instance's metadata holds. url_of: where an instance is, for links to it.

        Raises Undecodable for what is no Data Set, TooLarge beyond ``MAXIMUM_DEPTH`` and ``MAXIMUM_ITEMS``.
        """
        if not isinstance(metadata, Mapping):
            raise Undecodable("The metadata of the report cannot be read")
        evidence = _evidence(metadata)

        def locate(uid: str) -> str:
            return url_of(evidence[uid]) if uid in evidence else ""

        found = [
            _content_item(item, number, depth, _by_reference(item) or phrases_of(item, locate))
            for number, depth, item in _walk(metadata)
        ]
        if len(found) == 1:
            found[0] = replace(found[0], phrases=(*found[0].phrases, missing("content")))
        title = concept_name(metadata)
        return cls(
            title=Phrase(title) if title else missing("title"),
            fields=tuple(_fields(metadata)),
            items=tuple(_resolved(found)),
            language=_language(metadata),
        )


def _walk(root: DataSet) -> Iterator[tuple[str, int, DataSet]]:
    """Number, depth and Data Set of each content item, parents before children, without recursion."""
    waiting = [("1", 0, root)]
    count = 0
    while waiting:
        number, depth, item = waiting.pop()
        yield number, depth, item
        count += 1
        children = items_of(item, CONTENT)
        if children and depth == MAXIMUM_DEPTH:
            raise TooLarge("The content items of the report are nested deeper than the limit")
        if count + len(waiting) + len(children) > MAXIMUM_ITEMS:
            raise TooLarge("The report has more content items than the limit")
        places = enumerate(children, 1)
        waiting += [(f"{number}.{place}", depth + 1, child) for place, child in places][::-1]


def _content_item(item: DataSet, number: str, depth: int, phrases: tuple[Phrase, ...]) -> ContentItem:
    is_reference = bool(values_of(item, REFERENCED_ITEM))
    return ContentItem(
        number=number,
        depth=depth,
        relationship=_relationship(item) if depth else Phrase(""),
        value_type="" if is_reference else text_of(item, _VALUE_TYPE),
        name=Phrase("See") if is_reference else name_of(item),
        phrases=phrases,
        observed=text_of(item, "0040A032"),
        is_continuous=text_of(item, "0040A050") == "CONTINUOUS",
    )


def _relationship(item: DataSet) -> Phrase:
    term = text_of(item, "0040A010")
    return Phrase(_RELATIONSHIPS.get(term, term)) if term else missing("relationship")


def _by_reference(item: DataSet) -> tuple[Phrase, ...]:
    """The number of the item that an item stands for. PS3.3 §C.17.3.2.5"""
    number = ".".join(map(scalar, values_of(item, REFERENCED_ITEM)))
    return (Phrase(number, f"#item-{number}"),) if number else ()


def _resolved(items: Sequence[ContentItem]) -> Iterator[ContentItem]:
    """The items, where those that stand for others say the names of these, or that there are none."""
    by_link = {f"#item-{item.number}": item for item in items}
    links = {phrase.href for item in items for phrase in item.phrases if phrase.href.startswith("#")}
    for item in items:
        phrases = tuple(
            _named(phrase, by_link.get(phrase.href)) if phrase.href.startswith("#") else phrase
            for phrase in item.phrases
        )
        yield replace(item, phrases=phrases, is_referenced=f"#item-{item.number}" in links)


def _named(phrase: Phrase, target: ContentItem | None) -> Phrase:
    if target is None:
        return Phrase(f"item {phrase.text} missing", is_missing=True)
    return Phrase(f"{phrase.text} {target.name.text}", phrase.href)


def _evidence(metadata: DataSet) -> Mapping[str, Scope]:
    """Where the instances are that the report refers to, by SOP Instance UID. PS3.3 §C.17.2.3"""
    found: dict[str, Scope] = {}
    studies = (study for tag in _EVIDENCE for study in items_of(metadata, tag))
    for study in studies:
        for series in items_of(study, "00081115"):
            for one in items_of(series, REFERENCED_SOP):
                uids = text_of(study, "0020000D"), text_of(series, "0020000E"), text_of(one, "00081155")
                if all(map(is_uid, uids)):
                    found.setdefault(uids[2], Scope(*uids))
    return found


def _language(metadata: DataSet) -> str:
    """The language of the whole, where a modifier of the document says it. PS3.16 TID 1204"""
    for item in items_of(metadata, CONTENT):
        if code_value(item_of(item, CONCEPT_NAME)) == _LANGUAGE_OF_CONTENT:
            language = code_value(item_of(item, "0040A168"))
            return language if _LANGUAGE.fullmatch(language) else ""
    return ""


# Label, attributes whose values stand one after the other, and whether every report should have it.
_ROWS: tuple[tuple[str, tuple[str, ...], bool], ...] = (
    ("Patient", ("00100010",), True),
    ("Patient ID", ("00100020", "00100021"), True),
    ("Birth date", ("00100030",), True),
    ("Sex", ("00100040",), True),
    ("Referring physician", ("00080090",), False),
    ("Study", ("00081030",), False),
    ("Study ID", ("00200010",), False),
    ("Study date", ("00080020", "00080030"), True),
    ("Accession number", ("00080050",), False),
    ("Series", ("0008103E",), False),
    ("Series number", ("00200011",), False),
    ("Institution", ("00080080",), False),
    ("Device", ("00080070", "00081090", "00181000"), False),
)
_STATE: tuple[tuple[str, tuple[str, ...], bool], ...] = (
    ("Completion", ("0040A491",), True),
    ("Completion reason", ("0040A492",), False),
    ("Preliminary", ("0040A496",), False),
    ("Verification", ("0040A493",), True),
)
_DATED: tuple[tuple[str, tuple[str, ...], bool], ...] = (("Content date", ("00080023", "00080033"), True),)


def _fields(metadata: DataSet) -> Iterator[Field]:
    """What identifies the patient and the study, and how far the document is done. PS3.3 §C.17.2"""
    sop_class = text_of(metadata, "00080016")
    yield Field("Kind", (Phrase(uid_name(sop_class) or sop_class) if sop_class else missing("SOP Class"),))
    yield from _rows(metadata, _ROWS)
    if sop_class != KEY_OBJECT_SELECTION:
        yield from _rows(metadata, _STATE)
        yield from _observers(metadata)
    predecessors = sum(
        len(items_of(series, REFERENCED_SOP))
        for study in items_of(metadata, "0040A360")
        for series in items_of(study, "00081115")
    )
    if predecessors:
        yield Field("Predecessor documents", (Phrase(str(predecessors)),))
    yield from _rows(metadata, _DATED)


def _rows(metadata: DataSet, rows: Sequence[tuple[str, tuple[str, ...], bool]]) -> Iterator[Field]:
    for label, tags, is_expected in rows:
        text = " ".join(filter(None, (text_of(metadata, tag) for tag in tags)))
        if text or is_expected:
            yield Field(label, (Phrase(text) if text else missing(label[0].lower() + label[1:]),))


def _observers(metadata: DataSet) -> Iterator[Field]:
    """Who has verified the document: at least one, where it is verified."""
    observers = items_of(metadata, "0040A073")
    if not observers and text_of(metadata, "0040A493") == "VERIFIED":
        yield Field("Verified by", (missing("verifying observer"),))
    for observer in observers:
        date, name, organization = (text_of(observer, tag) for tag in ("0040A030", "0040A075", "0040A027"))
        codes = [coded(code, "observer") for code in items_of(observer, "0040A088")]
        told = (Phrase(text) if text else missing(what) for text, what in ((date, "date"), (name, "name")))
        yield Field("Verified by", (*told, *codes, *((Phrase(organization),) if organization else ())))
