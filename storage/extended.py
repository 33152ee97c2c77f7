"""From an operator's text to an attribute that can be searched, too: ``NAME[/CREATOR][:VR][@LEVEL]``.

NAME is a keyword, eight hex digits, or two of them joined by a dot for an attribute in the items of a sequence.
CREATOR is the private creator that must have reserved the block (PS3.5 §7.8.1). VR is needed where the dictionary has
none. LEVEL is that of the standard table where it has the attribute or its sequence, else instance.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace

from storage.attributes import ATTRIBUTES, Attribute, KeyType, Returned
from storage.dictionary import dictionary_vr, keyword_path, tag_path
from storage.model import Level
from storage.private import is_private

_TEXT = re.compile(r"(?P<name>[^/:@]+)(?:/(?P<creator>.+?))?(?::(?P<vr>[A-Za-z]{2}))?(?:@(?P<level>[A-Za-z]+))?")
_LEVELS = {level.name.lower(): level for level in Level}
_VRS = frozenset(
    "AE AS AT CS DA DS DT FD FL IS LO LT PN SH SL SS ST SV TM UC UI UL UR US UT UV".split()  # noqa: SIM905 - a table
)
_LONGEST_CREATOR = 64
_PER_FRAME_GROUPS = "52009230"
"""Kept as text only, for there may be thousands of items."""
_OF_ANSWERS = frozenset(("00080005", "00080052", "00080054", "00080056", "00080201", "00081190"))
"""What identifiers and answers say of themselves, which no key can mean. PS3.4 §C.4.1.1.3, PS3.18 §10.6.3.3"""
_STANDARD = {attribute.tag: attribute for attribute in ATTRIBUTES}


def read_extended(texts: Sequence[str]) -> tuple[Attribute, ...]:
    """The attributes that texts name. Raises ValueError, naming the first text that cannot be used."""
    found: list[Attribute] = []
    for text in texts:
        try:
            attribute = _attribute(text.strip())
            for other in found:
                _refuse_beside(attribute, other)
        except ValueError as error:
            raise ValueError(f"holds {text!r}: {error}") from None
        found.append(attribute)
    return tuple(found)


def _refuse_beside(attribute: Attribute, other: Attribute) -> None:
    if attribute.tag == other.tag:
        raise ValueError("it is named twice")
    is_nested = attribute.is_nested and other.is_nested
    if is_nested and attribute.top_tag == other.top_tag and attribute.level is not other.level:
        raise ValueError("another attribute of that sequence is of another level")


def _attribute(text: str) -> Attribute:
    parts = _TEXT.fullmatch(text)
    path = tag_path(parts["name"].strip()) if parts else ""
    if not parts or not path:
        raise ValueError("it is not NAME[/CREATOR][:VR][@LEVEL], NAME a keyword, a tag, or two of them with a dot")
    tags = path.split(".")
    known = _STANDARD.get(path) or _STANDARD.get(tags[0])
    _refuse_path(path, tags)
    creator = _creator(parts["creator"] or "", tags[-1])
    vr = _vr(parts["vr"] or "", tags[-1])
    if vr == "PN" and len(tags) > 1:
        raise ValueError("a name in the items of a sequence cannot be searched")
    level = _level(parts["level"] or "", known)
    if known and known.tag == path:
        return replace(known, key_type=KeyType.OPTIONAL, is_extended=True)
    optional, on_request = KeyType.OPTIONAL, Returned.ON_REQUEST
    return Attribute(keyword_path(path), path, vr, level, on_request, optional, is_extended=True, creator=creator)


def _refuse_path(path: str, tags: Sequence[str]) -> None:
    known = _STANDARD.get(path)
    if known and known.is_key:
        raise ValueError("it can be searched already")
    if path in _OF_ANSWERS or (known and known.is_computed):
        raise ValueError("its value is made for each answer")
    if any(tag[:4] in ("0000", "0002", "FFFE") or tag.endswith("0000") for tag in tags):
        raise ValueError("it is no attribute of a Data Set")
    if len(tags) > 2:
        raise ValueError("a path has two parts")
    if tags[0] == _PER_FRAME_GROUPS:
        raise ValueError("functional groups of single frames cannot be searched")
    if len(tags) == 2 and not is_private(tags[0]) and dictionary_vr(int(tags[0], 16)) != "SQ":
        raise ValueError("its first part is no sequence")


def _creator(given: str, tag: str) -> str:
    if given and not (is_private(tag) and len(given) <= _LONGEST_CREATOR):
        raise ValueError("a private creator belongs to a private tag, and has at most 64 characters")
    return given.strip()


def _vr(given: str, tag: str) -> str:
    """The VR of a tag: that of the dictionary, else the one that is given."""
    known = dictionary_vr(int(tag, 16)).split(" or ")
    vr = given.upper() or known[0]
    if vr == "UN":
        raise ValueError("the dictionary has no VR for it, so one has to be given, as in 00191008:LO")
    if known != ["UN"] and vr not in known:
        raise ValueError(f"its VR is {known[0]}")
    if vr not in _VRS:
        raise ValueError(f"values of VR {vr} cannot be searched")
    return vr


def _level(given: str, known: Attribute | None) -> Level:
    """The level given, else that of the standard table, which cannot be another one."""
    level = _LEVELS.get(given.lower(), known.level if known else Level.INSTANCE)
    if given and given.lower() not in _LEVELS:
        raise ValueError(f"a level is one of {', '.join(_LEVELS)}")
    if known and level is not known.level:
        raise ValueError(f"its level is {known.level.name.lower()}")
    return level
