"""C-FIND in the Study Root model: an Identifier becomes a Query, each answer a pending response. PS3.4 §C.4.1."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial

from gateway.dimse import identifier
from gateway.dimse.command import Element, Field
from gateway.dimse.contexts import STUDY_ROOT_FIND
from gateway.dimse.limits import DimseLimits
from gateway.dimse.status import (
    CANCELLED,
    DATA_SET_MISMATCH,
    OUT_OF_RESOURCES,
    PENDING,
    PENDING_WITHOUT_SOME_KEYS,
    SOP_CLASS_NOT_SUPPORTED,
    SUCCESS,
    Reply,
    attempt,
    find_reply,
)
from gateway.dimse.upper_layer import UNEXPECTED_PDU, Association, Request, ViolationError
from gateway.session import Session
from storage.attributes import Attribute, by_tag
from storage.errors import BadQuery, TooLarge
from storage.matching import Match, MatchKind, Query
from storage.model import Answer, JsonElement, Level, Scope
from storage.uids import is_uid

QUERY_LEVEL = "00080052"
_RETRIEVE_AE_TITLE = "00080054"
_INSTANCE_AVAILABILITY = "00080056"
_TIMEZONE_OFFSET = "00080201"
_STUDY_INSTANCE_UID, _SERIES_INSTANCE_UID = "0020000D", "0020000E"
_NO_KEYS = frozenset(
    (identifier.SPECIFIC_CHARACTER_SET, QUERY_LEVEL, _RETRIEVE_AE_TITLE, _INSTANCE_AVAILABILITY, _TIMEZONE_OFFSET)
)
LEVELS = {"STUDY": Level.STUDY, "SERIES": Level.SERIES, "IMAGE": Level.INSTANCE}
_PARENTS = {
    Level.STUDY: (),
    Level.SERIES: (_STUDY_INSTANCE_UID,),
    Level.INSTANCE: (_STUDY_INSTANCE_UID, _SERIES_INSTANCE_UID),
}
_PAGE_ANSWERS = 500
_EXTENDED_BYTES = 5


@dataclass(frozen=True, slots=True)
class Extended:
    """What SOP Class Extended Negotiation agreed on for queries. PS3.4 §C.5.1.1"""

    is_relational: bool = False
    is_fuzzy: bool = False


def negotiate_extended(proposed: Mapping[str, bytes]) -> tuple[Extended, dict[str, bytes]]:
    """What is agreed of a proposal, and the application information to answer: relational and fuzzy queries."""
    information = proposed.get(STUDY_ROOT_FIND)
    if not information:
        return Extended(), {}
    asked = information[:_EXTENDED_BYTES].ljust(_EXTENDED_BYTES, b"\0")
    agreed = Extended(is_relational=asked[0] == 1, is_fuzzy=asked[2] == 1)
    answer = bytes((agreed.is_relational, 0, agreed.is_fuzzy, 0, 0))
    return agreed, {STUDY_ROOT_FIND: answer[: max(1, min(len(information), _EXTENDED_BYTES))]}


@dataclass(frozen=True, slots=True)
class Key:
    """An attribute to return. item_tags: of a sequence, the ones wanted of its items; none means all."""

    vr: str
    item_tags: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Asked:
    """An Identifier, understood.

    keys: what to return, by tag. is_complete: false when some key is not in the table, cannot be matched, or is of
    no use at this level, which the peer is told by FF01.
    """

    query: Query
    level_name: str
    keys: Mapping[str, Key]
    character_set: str
    is_complete: bool


def read_query(elements: Mapping[str, JsonElement], keys_maximum: int, extended: Extended | None = None) -> Asked:
    """What an Identifier in the DICOM JSON Model asks for. Raises BadQuery, naming the tag at fault.

    Group lengths are ignored, keys below the level too. Without relational queries the unique keys above the level
    must be single values (CF1, CF2, CF11). PS3.4 §C.4.1.1.3.1, §C.4.1.2.1
    """
    extended = extended or Extended()
    level_name = identifier.text(elements.get(QUERY_LEVEL, {})).strip()
    level = LEVELS.get(level_name)
    if level is None:
        raise BadQuery("Query/Retrieve Level is not STUDY, SERIES or IMAGE", tag=QUERY_LEVEL)
    if len(elements) > keys_maximum:
        raise BadQuery("The Identifier has too many keys")
    scope = _scope(elements, level, is_relational=extended.is_relational)
    keys: dict[str, Key] = {}
    matches: list[Match] = []
    is_complete = True
    for tag, element in elements.items():
        if tag in _NO_KEYS or tag.endswith("0000"):
            continue
        pairs = tuple(_attributes(tag, element, level))
        found = [pair for pair in pairs if pair is not None]
        is_complete = is_complete and len(found) == len(pairs)
        if not found:
            continue
        nested = frozenset(attribute.leaf_tag for attribute, _ in found if attribute.is_nested)
        keys[tag] = Key("SQ" if nested else found[0][0].vr, nested)
        if tag in _PARENTS[level] and scope is not None and _is_in(scope, tag):
            continue
        for attribute, value in found:
            is_complete = is_complete and (attribute.is_key or not value)
            if attribute.is_key and value:
                matches.append(Match.of(attribute, value))
    narrowing = tuple(match for match in matches if match.kind is not MatchKind.UNIVERSAL)
    query = Query(level, narrowing, scope, frozenset(keys), fuzzy=extended.is_fuzzy)
    character_set = identifier.text(elements.get(identifier.SPECIFIC_CHARACTER_SET, {}))
    return Asked(query, level_name, keys, character_set, is_complete)


def _attributes(tag: str, element: JsonElement, level: Level) -> Iterator[tuple[Attribute, str] | None]:
    """The attributes of the table that a key names, each with the text to match; None for one that is not there."""
    if "BulkDataURI" in element:
        raise BadQuery("The value of a key is too long", tag=tag)
    if element["vr"] == "SQ" and element.get("Value"):
        if len(element["Value"]) != 1:
            raise BadQuery("A sequence key has more than one item", tag=tag)
        for inner, value in element["Value"][0].items():
            attribute = by_tag(f"{tag}.{inner}")
            yield (attribute, identifier.text(value)) if attribute and attribute.level <= level else None
        return
    attribute = by_tag(tag)
    yield (attribute, identifier.text(element)) if attribute and attribute.level <= level else None


def _scope(elements: Mapping[str, JsonElement], level: Level, *, is_relational: bool) -> Scope | None:
    """The study or series the query is about, from the unique keys above its level. Raises BadQuery (CF2)."""
    uids = {_STUDY_INSTANCE_UID: "", _SERIES_INSTANCE_UID: ""}
    for tag in _PARENTS[level]:
        value = identifier.text(elements.get(tag, {})).strip()
        if is_uid(value):
            uids[tag] = value
        elif not is_relational:
            raise BadQuery("A unique key above the level is not a single value", tag=tag)
    study, series = uids.values()
    return Scope(study, series) if study or series else None


def _is_in(scope: Scope, tag: str) -> bool:
    return bool(scope.study_instance_uid if tag == _STUDY_INSTANCE_UID else scope.series_instance_uid)


def answer_elements(asked: Asked, answer: Answer, ae_title: str) -> dict[str, JsonElement]:
    """The Identifier of a pending response: the keys asked for, empty where unknown, and where to retrieve (CF3).

    PS3.4 §C.4.1.1.3.2
    """
    elements: dict[str, JsonElement] = {
        QUERY_LEVEL: {"vr": "CS", "Value": [asked.level_name]},
        _RETRIEVE_AE_TITLE: {"vr": "AE", "Value": [ae_title]},
        _INSTANCE_AVAILABILITY: {"vr": "CS", "Value": ["ONLINE"]},
    }
    if _TIMEZONE_OFFSET in answer.attributes:
        elements[_TIMEZONE_OFFSET] = answer.attributes[_TIMEZONE_OFFSET]
    for tag, key in asked.keys.items():
        element = answer.attributes.get(tag, {"vr": key.vr})
        elements[tag] = _with_items(element, key.item_tags) if key.item_tags else element
    return elements


def _with_items(element: JsonElement, tags: frozenset[str]) -> JsonElement:
    """A sequence with only the attributes asked for in its items."""
    items = element.get("Value") or ()
    return {"vr": "SQ", "Value": [{tag: item[tag] for tag in tags & item.keys()} for item in items]}


@dataclass(frozen=True, slots=True)
class QueryService:
    """What C-FIND needs beside the request: our AE title, the limits, and what was negotiated."""

    ae_title: str
    limits: DimseLimits
    extended: Extended = Extended()


def find(association: Association, request: Request, session: Session, service: QueryService) -> Reply:
    """Answer a C-FIND request with pending responses; the reply is the final one (CF1–CF3, CF9–CF11).

    A C-CANCEL is heeded between two answers. Raises ConnectionEndedError when the peer goes away. PS3.4 §C.4.1.2
    """
    asked = _receive(association, request, service)
    if isinstance(asked, Reply):
        return asked
    pending = PENDING if asked.is_complete else PENDING_WITHOUT_SOME_KEYS
    maximum = service.limits.query_answers_maximum
    sent = 0
    query = asked.query
    while True:
        count = min(_PAGE_ANSWERS, maximum - sent + 1)
        page = attempt(partial(session.search, replace(query, limit=count)), find_reply)
        if isinstance(page, Reply):
            return page
        for answer in page:
            if _is_cancelled(association, request):
                return Reply(CANCELLED)
            if sent == maximum:
                return Reply(OUT_OF_RESOURCES, comment="There are more matches than may be returned")
            encoded = attempt(partial(_encoded, asked, answer, request, service.ae_title), find_reply)
            if isinstance(encoded, Reply):
                return encoded
            association.respond(request, pending, data_set=encoded, more=True)
            sent += 1
        association.flush()
        if page:
            query = replace(query, after=page[-1].place)
        if len(page) < count:
            return Reply(CANCELLED) if _is_cancelled(association, request) else Reply(SUCCESS)


def _receive(association: Association, request: Request, service: QueryService) -> Asked | Reply:
    """Receive the Identifier and understand it; a reply says why not."""
    if not request.has_data_set:
        return Reply(DATA_SET_MISMATCH, comment="There is no Identifier")
    encoded = bytearray()
    try:
        association.receive_data_set(request, encoded.extend, service.limits.identifier_maximum_bytes)
    except TooLarge:
        return Reply(DATA_SET_MISMATCH, comment="The Identifier is too long", ends_association=True)
    if request.command.text(Element.AFFECTED_SOP_CLASS_UID) != request.context.abstract_syntax:
        comment = "The SOP Class is not that of the presentation context"
        return Reply(SOP_CLASS_NOT_SUPPORTED, Element.AFFECTED_SOP_CLASS_UID, comment)
    transfer_syntax = request.context.transfer_syntax
    keys_maximum = service.limits.query_keys_maximum

    def understood() -> Asked:
        return read_query(identifier.decode(bytes(encoded), transfer_syntax), keys_maximum, service.extended)

    return attempt(understood, find_reply)


def _encoded(asked: Asked, answer: Answer, request: Request, ae_title: str) -> bytes:
    elements = answer_elements(asked, answer, ae_title)
    return identifier.encode(elements, request.context.transfer_syntax, asked.character_set)


def _is_cancelled(association: Association, request: Request) -> bool:
    """Whether the peer has sent C-CANCEL for this request; anything else it sends now breaks the protocol."""
    while (other := association.interjection()) is not None:
        if other.command.number(Element.COMMAND_FIELD) != Field.C_CANCEL:
            raise ViolationError("request during a query", UNEXPECTED_PDU)
        if other.message_id == request.message_id:
            return True
    return False
