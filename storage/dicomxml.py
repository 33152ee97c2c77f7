"""The Native DICOM Model: a Data Set as XML, from the DICOM JSON Model. Pure; it reads no XML.

Values are written as the JSON Model has them, in UTF-8, so what one says the other says, too. An empty value among
several is an empty element in its place. Characters that XML 1.0 cannot hold, control characters mostly, become
U+FFFD; tabs and line ends are written as references, so that no parser normalises them. The fifth component of a
name keeps whatever follows it. PS3.19 §A.1, PS3.18 §8.7.3
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from types import MappingProxyType

from storage.dictionary import keyword_of
from storage.model import JsonElement

NAMESPACE = "http://dicom.nema.org/PS3.19/models/NativeDICOM"
_BEGINS = f'<?xml version="1.0" encoding="UTF-8"?>\n<NativeDicomModel xmlns="{NAMESPACE}" xml:space="preserve">'
_ENDS = "</NativeDicomModel>"
_GROUPS = ("Alphabetic", "Ideographic", "Phonetic")
_COMPONENTS = ("FamilyName", "GivenName", "MiddleName", "NamePrefix", "NameSuffix")

_SPECIAL = re.compile("[^ !#-%'-;=?-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
_REFERENCES = {"&": "&amp;", "<": "&lt;", ">": "&gt;", '"': "&quot;", "\t": "&#9;", "\n": "&#10;", "\r": "&#13;"}
_REPLACEMENT = "\ufffd"


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
