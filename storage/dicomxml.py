"""The Native DICOM Model: a Data Set as XML, from the DICOM JSON Model and back. Pure.

Values are written as the JSON Model has them, in UTF-8, so what one says the other says, too. An empty value among
several is an empty element in its place. Characters that XML 1.0 cannot hold, control characters mostly, become
U+FFFD; tabs and line ends are written as references, so that no parser normalises them. The fifth component of a
name keeps whatever follows it.

What is read is hostile: a document type declaration ends it, so there are no entities and nothing is fetched (H13);
elements, values and depth are limited. PS3.19 §A.1, PS3.18 §8.7.3
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from xml.parsers import expat

from storage.dataset import MAXIMUM_DEPTH, MAXIMUM_ELEMENTS
from storage.dictionary import dictionary_vr, keyword_of
from storage.errors import NotDicom, TooComplex
from storage.model import JsonElement

NAMESPACE = "http://dicom.nema.org/PS3.19/models/NativeDICOM"
_BEGINS = f'<?xml version="1.0" encoding="UTF-8"?>\n<NativeDicomModel xmlns="{NAMESPACE}" xml:space="preserve">'
_ENDS = "</NativeDicomModel>"
_GROUPS = ("Alphabetic", "Ideographic", "Phonetic")
_COMPONENTS = ("FamilyName", "GivenName", "MiddleName", "NamePrefix", "NameSuffix")

_SPECIAL = re.compile("[^ !#-%'-;=?-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
_REFERENCES = {"&": "&amp;", "<": "&lt;", ">": "&gt;", '"': "&quot;", "\t": "&#9;", "\n": "&#10;", "\r": "&#13;"}
_REPLACEMENT = "\ufffd"
_TAG = re.compile(r"[0-9A-F]{8}", re.ASCII)


def native_model(data_set: Mapping[str, JsonElement]) -> bytes:
    """A whole document: the root element and each attribute, in the order given, which is ascending by tag.

    data_set: in the DICOM JSON Model, by tags of eight upper-case hex digits. PS3.19 §A.1.6
    """
    return "".join((_BEGINS, *_attributes(data_set), _ENDS)).encode()


def _text(value: object) -> str:
    """Text as content, or between quotation marks. https://www.w3.org/TR/xml/#charsets"""
    return _SPECIAL.sub(lambda found: _REFERENCES.get(found[0], _REPLACEMENT), str(value))


def _attributes(data_set: Mapping[str, JsonElement]) -> Iterator[str]:
    for tag, element in data_set.items():
        vr = element["vr"]
        yield f'<DicomAttribute {_name(tag, data_set)} vr="{vr}">'
        for key, write in _CONTENTS.items():
            if key in element:
                yield from write(vr, element[key])
        yield "</DicomAttribute>"


def _name(tag: str, data_set: Mapping[str, JsonElement]) -> str:
    """Tag and keyword; of a private attribute the tag without the block it happens to be in, and whose it is.

    Without a Private Creator the block stays, since nothing else tells the attribute. PS3.19 Table A.1.5-2
    """
    if int(tag[:4], 16) % 2 == 0:
        keyword = keyword_of(int(tag, 16))
        return f'tag="{tag}" keyword="{keyword}"' if keyword else f'tag="{tag}"'
    reservation: JsonElement = data_set.get(f"{tag[:4]}00{tag[4:6]}", {})
    creator = next(iter(reservation.get("Value", ())), None)
    if tag[4:6] == "00" or not creator:
        return f'tag="{tag}"'
    return f'tag="{tag[:4]}00{tag[6:]}" privateCreator="{_text(creator)}"'


def _reference(_: str, uri: JsonElement) -> Iterator[str]:
    yield f'<BulkData uri="{_text(uri)}"/>'


def _inline(_: str, base64: JsonElement) -> Iterator[str]:
    yield f"<InlineBinary>{_text(base64)}</InlineBinary>"


def _values(vr: str, values: JsonElement) -> Iterator[str]:
    name, write = _OF_VR.get(vr, _PLAIN)
    for number, value in enumerate(values, 1):
        yield f'<{name} number="{number}">'
        if value is not None:
            yield from write(value)
        yield f"</{name}>"


_CONTENTS: Mapping[str, Callable[[str, JsonElement], Iterator[str]]] = MappingProxyType(
    {"BulkDataURI": _reference, "InlineBinary": _inline, "Value": _values}
)


def _value(value: JsonElement) -> Iterator[str]:
    yield _text(value)


def _person_name(groups: JsonElement) -> Iterator[str]:
    """The component groups that hold something, in the order of the schema. PS3.5 §6.2.1"""
    for group in _GROUPS:
        components = str(groups.get(group) or "").split("^", len(_COMPONENTS) - 1)
        if any(components):
            given = (pair for pair in zip(_COMPONENTS, components, strict=False) if pair[1])
            yield f"<{group}>"
            yield from (f"<{name}>{_text(component)}</{name}>" for name, component in given)
            yield f"</{group}>"


_Writer = tuple[str, Callable[[JsonElement], Iterator[str]]]
_PLAIN: _Writer = ("Value", _value)
_OF_VR: Mapping[str, _Writer] = MappingProxyType({"PN": ("PersonName", _person_name), "SQ": ("Item", _attributes)})


# ------------------------------------------------------------------------------------------------------------- reading

MAXIMUM_VALUES = 1_000_000
"""Of one document, gaps between numbered values included."""

_NUMBERED = frozenset(("Value", "PersonName", "Item"))
_WITHIN: Mapping[str, frozenset[str]] = MappingProxyType(
    {
        "": frozenset(("NativeDicomModel",)),
        "NativeDicomModel": frozenset(("DicomAttribute",)),
        "Item": frozenset(("DicomAttribute",)),
        "DicomAttribute": frozenset((*_NUMBERED, "BulkData", "InlineBinary")),
        "PersonName": frozenset(_GROUPS),
        **dict.fromkeys(_GROUPS, frozenset(_COMPONENTS)),
    }
)
"""By element, those that it may hold. PS3.19 §A.1.6"""
_FIRST_BLOCK, _LAST_BLOCK = 0x10, 0xFF


@dataclass(slots=True)
class _Node:
    """An element that is open: what it is called, says of itself, and holds so far."""

    name: str
    attributes: Mapping[str, str]
    text: list[str] = field(default_factory=list)
    data_set: dict[str, JsonElement] = field(default_factory=dict)
    private: list[tuple[str, str, JsonElement]] = field(default_factory=list)
    values: list[JsonElement] = field(default_factory=list)
    content: dict[str, JsonElement] = field(default_factory=dict)


def read_native_model(document: bytes | bytearray) -> dict[str, JsonElement]:
    """The Data Set of a document, in the DICOM JSON Model; numbers are text, as they stand there.

    Private attributes whose block is left out of their tag come back to the block of their Private Creator, which gets
    one where it has none. Raises NotDicom for what is no such document, or has a document type declaration, and
    TooComplex beyond the limits. PS3.19 §A.1.6
    """
    reader = _Reader()
    parser = expat.ParserCreate(namespace_separator=" ")
    parser.buffer_text = True
    parser.StartElementHandler = reader.begins
    parser.EndElementHandler = reader.ends
    parser.CharacterDataHandler = reader.characters
    parser.StartDoctypeDeclHandler = parser.EntityDeclHandler = _refuse_declaration
    try:
        parser.Parse(document, True)
    except (expat.ExpatError, LookupError, ValueError) as error:  # the others for encodings that nobody knows
        raise NotDicom("The XML is malformed") from error
    return reader.data_set


def _refuse_declaration(*_: object) -> None:
    raise NotDicom("The XML has a document type declaration")


class _Reader:
    """The events of one document."""

    def __init__(self) -> None:
        self.data_set: dict[str, JsonElement] = {}
        self._open = [_Node("", {})]
        self._elements_left = MAXIMUM_ELEMENTS
        self._values_left = MAXIMUM_VALUES
        self._depth = 0

    def begins(self, name: str, attributes: Mapping[str, str]) -> None:
        """An element begins."""
        name = name.rpartition(" ")[2]
        if name not in _WITHIN.get(self._open[-1].name, ()):
            raise NotDicom("The XML is no Native DICOM Model")
        if name in ("DicomAttribute", "Item"):
            self._elements_left -= 1
            self._depth += name == "Item"
        if self._elements_left < 0 or self._depth > MAXIMUM_DEPTH:
            raise TooComplex("The XML has too many elements, or they are nested too deep")
        self._open.append(_Node(name, dict(attributes)))

    def characters(self, text: str) -> None:
        """Text within an element."""
        self._open[-1].text.append(text)

    def ends(self, _: str) -> None:
        """The innermost element ends, and becomes a part of the one around it."""
        node = self._open.pop()
        around = self._open[-1]
        if node.name == "NativeDicomModel":
            self.data_set = _with_private(node)
        elif node.name == "DicomAttribute":
            _add_attribute(around, node)
        elif node.name in _NUMBERED:
            self._depth -= node.name == "Item"
            self._add_value(around, node)
        elif node.name in _COMPONENTS:
            around.content[node.name] = "".join(node.text)
        elif node.name in _GROUPS:
            components = (node.content.get(component, "") for component in _COMPONENTS)
            around.content[node.name] = "^".join(components).rstrip("^")
        elif node.name == "BulkData":
            around.content["BulkDataURI"] = node.attributes.get("uri") or node.attributes.get("uuid", "")
        else:
            around.content["InlineBinary"] = "".join(node.text)

    def _add_value(self, around: _Node, node: _Node) -> None:
        """A value in the place that its number says; places between are empty."""
        number = node.attributes.get("number", "")
        index = int(number) - 1 if number.isascii() and number.isdigit() and len(number) < 8 else len(around.values)
        gap = index + 1 - len(around.values)
        self._values_left -= gap
        if self._values_left < 0:
            raise TooComplex("The XML has too many values")
        if index < 0 or gap < 1:
            raise NotDicom("The values of an attribute are not in their order")
        around.values.extend([None] * gap)
        if node.name == "Item":
            around.values[index] = _with_private(node)
        elif node.name == "PersonName":
            around.values[index] = {group: text for group, text in node.content.items() if text} or None
        else:
            around.values[index] = "".join(node.text) or None


def _add_attribute(around: _Node, node: _Node) -> None:
    tag = node.attributes.get("tag", "").upper()
    if not _TAG.fullmatch(tag):
        raise NotDicom("An attribute of the XML has no tag")
    element: JsonElement = {"vr": node.attributes.get("vr") or dictionary_vr(int(tag, 16)), **node.content}
    if node.values:
        element["Value"] = node.values
    creator = node.attributes.get("privateCreator", "").strip(" ")
    if creator and tag[4:6] == "00" and int(tag[:4], 16) % 2:
        around.private.append((tag, creator, element))
    elif around.data_set.setdefault(tag, element) is not element:
        raise NotDicom("An attribute of the XML is there twice")


def _with_private(node: _Node) -> dict[str, JsonElement]:
    """The Data Set of a node, private attributes in the blocks of their creators. PS3.19 Table A.1.5-2, PS3.5 §7.8.1"""
    data_set = node.data_set
    blocks: dict[tuple[str, str], str] = {}
    for tag, reservation in data_set.items():
        if int(tag[:4], 16) % 2 and tag[4:6] == "00" and reservation.get("Value"):
            blocks.setdefault((tag[:4], str(reservation["Value"][0] or "").strip(" ")), tag[6:])
    for tag, creator, element in node.private:
        group = tag[:4]
        block = blocks.get((group, creator))
        if block is None:
            block = blocks[group, creator] = _free_block(data_set, group)
            data_set[f"{group}00{block}"] = {"vr": "LO", "Value": [creator]}
        if data_set.setdefault(group + block + tag[6:], element) is not element:
            raise NotDicom("An attribute of the XML is there twice")
    return data_set


def _free_block(data_set: Mapping[str, JsonElement], group: str) -> str:
    free = (f"{block:02X}" for block in range(_FIRST_BLOCK, _LAST_BLOCK + 1))
    found = next((block for block in free if f"{group}00{block}" not in data_set), None)
    if found is None:
        raise TooComplex("A private group has no block that is free")
    return found
