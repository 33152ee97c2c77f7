"""Private elements: whose they are, and what they hold once somebody says their VR. Pure.

A Data Set without VRs, and many a converter, has them as bytes of unknown VR. PS3.5 §6.2.2, §7.8
"""

from __future__ import annotations

import base64
from collections.abc import Mapping

from storage.model import JsonElement
from storage.values import DEFAULT_ENCODINGS, Encodings, encodings_of, json_element

_SPECIFIC_CHARACTER_SET = "00080005"


def is_private(tag: str) -> bool:
    """Whether a tag belongs to whoever reserved its block: the group is odd."""
    return int(tag[3], 16) & 1 == 1


def creator_tag(tag: str) -> str:
    """The tag of the element that says who reserved the block of a private tag. PS3.5 §7.8.1"""
    return f"{tag[:4]}00{tag[4:6]}"


def text_of(element: JsonElement | None) -> str:
    """The first value of an element as text; empty without any."""
    values = (element or {}).get("Value") or ("",)
    return str(values[0] or "").strip()


def character_set_of(data_set: Mapping[str, JsonElement]) -> Encodings:
    """The codecs that a Data Set names."""
    terms = (data_set.get(_SPECIFIC_CHARACTER_SET) or {}).get("Value")
    if not terms:
        return DEFAULT_ENCODINGS
    return encodings_of("\\".join(str(term or "") for term in terms).encode("ascii", "replace"))


def own_element(
    data_set: Mapping[str, JsonElement], tag: str, vr: str, creator: str, encodings: Encodings
) -> JsonElement | None:
    """The element of a tag in a Data Set or an item; None without one, or where another creator has the block.

    One of unknown VR is read as that VR, in little endian, which it is in all but a retired transfer syntax.
    """
    element = data_set.get(tag)
    if element is None or (creator and text_of(data_set.get(creator_tag(tag))) != creator):
        return None
    return with_vr(element, vr, encodings)


def with_vr(element: JsonElement, vr: str, encodings: Encodings) -> JsonElement:
    """An element of unknown VR as one of that VR; any other as it is. PS3.5 §6.2.2"""
    if element.get("vr") != "UN" or "InlineBinary" not in element:
        return element
    return json_element(vr, base64.b64decode(element["InlineBinary"]), encodings, is_little_endian=True)
