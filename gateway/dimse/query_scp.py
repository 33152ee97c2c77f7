"""C-FIND: an Identifier is received, searched for, and each answer sent as a pending response. PS3.4 §C.4.1."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial

from gateway.dimse import command, identifier
from gateway.dimse.answers import Answers
from gateway.dimse.command import Element, Field
from gateway.dimse.limits import DimseLimits
from gateway.dimse.models import MODELS, Extended
from gateway.dimse.query_keys import QUERY_LEVEL, read_query
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
from storage.errors import TooLarge

_FIRST_PAGE_ANSWERS, _LARGEST_PAGE_ANSWERS = 500, 2000  # the first answer comes soon, many cost little
_ANSWERS_TO_CANCEL = 20  # looking for a C-CANCEL is a system call


@dataclass(frozen=True, slots=True)
class QueryService:
    """What C-FIND needs beside the request: our AE title, the limits, and what was negotiated, by SOP Class."""

    ae_title: str
    limits: DimseLimits
    extended: Mapping[str, Extended] = field(default_factory=dict)


def find(association: Association, request: Request, session: Session, service: QueryService) -> Reply:
    """Answer a C-FIND request with pending responses; the reply is the final one (CF1–CF3, CF9–CF11).

    A C-CANCEL is heeded within a few answers. Raises ConnectionEndedError when the peer goes away. PS3.4 §C.4.1.2
    """
    answers = _receive(association, request, service)
    if isinstance(answers, Reply):
        return answers
    left = service.limits.query_answers_maximum
    query = answers.asked.query
    size = _FIRST_PAGE_ANSWERS
    while True:
        count = min(size, left + 1)
        page = attempt(partial(session.search_lines, replace(query, limit=count), answers.tags), find_reply)
        if isinstance(page, Reply):
            return page
        reply = _send(association, request, answers, page.lines[:left])
        if reply is not None:
            return reply
        if len(page.lines) > left:
            return Reply(OUT_OF_RESOURCES, comment="There are more matches than may be returned")
        if len(page.lines) < count:
            return Reply(CANCELLED) if _is_cancelled(association, request) else Reply(SUCCESS)
        size = min(2 * size, _LARGEST_PAGE_ANSWERS)
        left -= len(page.lines)
        query = replace(query, after=page.place)


def _send(association: Association, request: Request, answers: Answers, found: Sequence[Sequence[str]]) -> Reply | None:
    """Send some answers; a reply says why not all of them."""
    pending = PENDING if answers.asked.is_complete else PENDING_WITHOUT_SOME_KEYS
    response = command.response(request.command, pending, has_data_set=True)
    for start in range(0, len(found), _ANSWERS_TO_CANCEL):
        if _is_cancelled(association, request):
            return Reply(CANCELLED)
        encoded = attempt(partial(answers.encode, found[start : start + _ANSWERS_TO_CANCEL]), find_reply)
        if isinstance(encoded, Reply):
            return encoded
        association.hold(request.context.context_id, response, encoded)
    association.flush()
    return None


def receive_identifier(association: Association, request: Request, maximum_bytes: int) -> bytes | Reply:
    """The Identifier of a query or retrieval, as it came; a reply says why there is none to understand."""
    if not request.has_data_set:
        return Reply(DATA_SET_MISMATCH, int(QUERY_LEVEL, 16), "There is no Identifier")
    encoded = bytearray()
    try:
        association.receive_data_set(request, encoded.extend, maximum_bytes)
    except TooLarge:
        return Reply(DATA_SET_MISMATCH, comment="The Identifier is too long", ends_association=True)
    if request.command.text(Element.AFFECTED_SOP_CLASS_UID) != request.context.abstract_syntax:
        comment = "The SOP Class is not that of the presentation context"
        return Reply(SOP_CLASS_NOT_SUPPORTED, Element.AFFECTED_SOP_CLASS_UID, comment)
    return bytes(encoded)


def _receive(association: Association, request: Request, service: QueryService) -> Answers | Reply:
    """Receive the Identifier and understand it; a reply says why not."""
    encoded = receive_identifier(association, request, service.limits.identifier_maximum_bytes)
    if isinstance(encoded, Reply):
        return encoded
    sop_class = request.context.abstract_syntax

    def understood() -> Answers:
        syntax = request.context.transfer_syntax
        elements = identifier.decode(encoded, syntax)
        keys_maximum = service.limits.query_keys_maximum
        asked = read_query(elements, keys_maximum, MODELS[sop_class], service.extended.get(sop_class))
        return Answers(asked, service.ae_title, syntax)

    return attempt(understood, find_reply)


def _is_cancelled(association: Association, request: Request) -> bool:
    """Whether the peer has sent C-CANCEL for this request; anything else it sends now breaks the protocol."""
    while (other := association.interjection()) is not None:
        if other.command.number(Element.COMMAND_FIELD) != Field.C_CANCEL:
            raise ViolationError("request during a query", UNEXPECTED_PDU)
        if other.message_id == request.message_id:
            return True
    return False
