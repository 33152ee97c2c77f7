"""The keys of a C-FIND: an Identifier becomes a Query. Pure; PS3.4 §C.4.1.

Identifiers are in the DICOM JSON Model here; their bytes are the matter of ``identifier``. PS3.4 §C.4.1.1.3
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from gateway.dimse import identifier
from gateway.dimse.models import LEVEL_NAMES, UNIQUE_KEYS, Extended, Model
from storage.attributes import Attribute, by_tag
from storage.errors import BadQuery
from storage.matching import MAXIMUM_MATCHES, Match, MatchKind, Query
from storage.model import JsonElement, Level, Scope
from storage.private import character_set_of, creator_tag, is_private, text_of, with_vr
from storage.uids import is_uid
from storage.values import Encodings

QUERY_LEVEL = "00080052"
RETRIEVE_AE_TITLE = "00080054"
INSTANCE_AVAILABILITY = "00080056"
TIMEZONE_OFFSET = "00080201"
_NO_KEYS = frozenset(
    (identifier.SPECIFIC_CHARACTER_SET, QUERY_LEVEL, RETRIEVE_AE_TITLE, INSTANCE_AVAILABILITY, TIMEZONE_OFFSET)
)
_GROUP_LENGTH = "0000"
_PATIENT_ID = UNIQUE_KEYS[Level.PATIENT]


@dataclass(frozen=True, slots=True)
class Key:
    """An attribute to return. item_tags: of a sequence, the ones wanted of its items; none means all."""

    vr: str
    item_tags: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Asked:
    """An Identifier, understood.

    keys: what to return, by tag. is_complete: false when some key is not in the table, cannot be matched, or is of
    no use at this level, which the peer is told by FF01. creators: of the blocks of private keys, to be said again.
    """

    query: Query
    level_name: str
    keys: Mapping[str, Key]
    character_set: str
    is_complete: bool
    creators: Mapping[str, JsonElement] = field(default_factory=dict)


def read_query(
    elements: Mapping[str, JsonElement], keys_maximum: int, model: Model, extended: Extended | None = None
) -> Asked:
    """What an Identifier asks for in an information model. Raises BadQuery, naming the tag at fault.

    Group lengths, private attributes that are no extended ones of their creator, and keys below the level are ignored.
    A value of unknown VR, which private keys have in implicit VR, is read by the VR of the extended tag. Without
    relational queries the unique keys above the level must be single values. Times are compared as they are written,
    whatever time zone the query names (CF1, CF2, CF11, CF12). PS3.4 §C.4.1.1.3.1, §C.4.1.2.1
    """
    extended = extended or Extended()
    level_name = identifier.text(elements.get(QUERY_LEVEL, {})).strip()
    level = LEVEL_NAMES.get(level_name)
    if level is None or level not in model.levels:
        raise BadQuery("Query/Retrieve Level is not one of the information model", tag=QUERY_LEVEL)
    if len(elements) > keys_maximum:
        raise BadQuery("The Identifier has too many keys", tag=list(elements)[keys_maximum])
    scope = _scope(elements, model.unique_keys_above(level), extended)
    named = _named(scope)
    keys: dict[str, Key] = {}
    matches: list[Match] = []
    is_complete = True
    creators = _creators(elements)
    for tag in elements:
        if tag in _NO_KEYS or tag in creators:
            continue
        pairs = () if tag.endswith(_GROUP_LENGTH) else tuple(_attributes(tag, elements, level))
        found = [pair for pair in pairs if pair is not None]
        is_complete = is_complete and len(found) == len(pairs) > 0
        if not found:
            continue
        nested = frozenset(attribute.leaf_tag for attribute, _ in found if attribute.is_nested)
        keys[tag] = Key("SQ" if nested else found[0][0].vr, nested)
        for attribute, value in found:
            is_complete = is_complete and (attribute.is_key or not value)
            if attribute.is_key and value and tag not in named:
                matches.append(_match(attribute, value, extended))
    narrowing = tuple(match for match in matches if match.kind is not MatchKind.UNIVERSAL)
    if len(narrowing) > MAXIMUM_MATCHES:
        raise BadQuery("The Identifier has too many keys", tag=narrowing[MAXIMUM_MATCHES].attribute.tag)
    query = Query(level, narrowing, scope, frozenset(keys), fuzzy=extended.is_fuzzy)
    character_set = identifier.text(elements.get(identifier.SPECIFIC_CHARACTER_SET, {}))
    return Asked(query, level_name, keys, character_set, is_complete, creators)


def _match(attribute: Attribute, value: str, extended: Extended) -> Match:
    return Match.of(attribute, value, empty=extended.has_empty_values, multiple=extended.has_multiple_values)


def _attributes(tag: str, elements: Mapping[str, JsonElement], level: Level) -> Iterator[tuple[Attribute, str] | None]:
    """The attributes of the table that a key names, each with the text to match; None for one that is not there."""
    attribute, element = by_tag(tag), elements[tag]
    if attribute is None or attribute.level > level or _is_of_another(attribute, elements):
        yield None
        return
    items = list(element.get("Value") or ()) if element["vr"] == "SQ" else []
    if len(items) > 1:
        raise BadQuery("A sequence key has more than one item", tag=tag)
    encodings = character_set_of(elements)
    if not any(items):
        yield attribute, _text(attribute, element, encodings)
        return
    for inner, value in items[0].items():
        nested = by_tag(f"{tag}.{inner}")
        yield None if nested is None else (nested, _text(nested, value, encodings))


def _is_of_another(attribute: Attribute, elements: Mapping[str, JsonElement]) -> bool:
    """Whether the Identifier says of a private key that it is another creator's. PS3.5 §7.8.1"""
    said = text_of(elements.get(creator_tag(attribute.tag))) if attribute.creator else ""
    return said not in ("", attribute.creator)


def _creators(elements: Mapping[str, JsonElement]) -> Mapping[str, JsonElement]:
    """The elements that say whose the private keys are, by tag, as answers have them."""
    found: dict[str, JsonElement] = {}
    for attribute in filter(None, map(by_tag, elements)):
        tag = creator_tag(attribute.tag)
        is_wanted = attribute.is_extended and is_private(attribute.tag) and tag in elements and by_tag(tag) is None
        if is_wanted and not _is_of_another(attribute, elements):
            name = text_of(elements[tag]) or attribute.creator
            found[tag] = {"vr": "LO", "Value": [name]} if name else {"vr": "LO"}
    return found


def _text(attribute: Attribute, element: JsonElement, encodings: Encodings) -> str:
    if "BulkDataURI" in element:
        raise BadQuery("The value of a key is too long", tag=attribute.tag)
    if attribute.is_extended:
        element = with_vr(element, attribute.vr, encodings)
    if "InlineBinary" in element:
        raise BadQuery("The value of a key is malformed", tag=attribute.tag)
    return identifier.text(element)


def _scope(elements: Mapping[str, JsonElement], above: tuple[str, ...], extended: Extended) -> Scope | None:
    """The study or series that a query is about, from the unique keys above its level. Raises BadQuery (CF2).

    A patient is no scope of the archive, which finds its studies by Patient ID as by any key.
    """
    uids = {UNIQUE_KEYS[Level.STUDY]: "", UNIQUE_KEYS[Level.SERIES]: ""}
    for tag in above:
        element = elements.get(tag, {})
        value = identifier.text(element).strip()
        if tag in uids and is_uid(value):
            uids[tag] = value
        elif not extended.is_relational and not (tag == _PATIENT_ID and _is_single(element, extended)):
            raise BadQuery("A unique key above the level is not a single value", tag=tag)
    study, series = uids.values()
    return Scope(study, series) if study or series else None


def _is_single(element: JsonElement, extended: Extended) -> bool:
    attribute = by_tag(_PATIENT_ID)
    assert attribute is not None
    is_one = len(element.get("Value") or ()) == 1
    return is_one and _match(attribute, identifier.text(element), extended).kind is MatchKind.SINGLE


def _named(scope: Scope | None) -> frozenset[str]:
    """Tags of the unique keys that a scope holds."""
    if scope is None:
        return frozenset()
    uids = {UNIQUE_KEYS[Level.STUDY]: scope.study_instance_uid, UNIQUE_KEYS[Level.SERIES]: scope.series_instance_uid}
    return frozenset(tag for tag, uid in uids.items() if uid)
