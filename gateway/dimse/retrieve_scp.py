"""C-MOVE and C-GET: instances are found by their unique keys and sent, each by a C-STORE sub-operation. PS3.4 §C.4.2–3

A C-MOVE sends them to a peer of the settings, over associations of its own; a C-GET over the association that asked,
where the requestor takes the role of SCP. Nothing is held but the series to go through, however many instances.
"""

from __future__ import annotations

import contextlib
import logging
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial

from gateway.dimse import identifier
from gateway.dimse.command import Element, Field
from gateway.dimse.connection import ConnectionEndedError
from gateway.dimse.contexts import Proposed, Service
from gateway.dimse.limits import DimseLimits
from gateway.dimse.models import MODELS, UNIQUE_KEYS, Extended
from gateway.dimse.query_keys import QUERY_LEVEL, read_query
from gateway.dimse.query_scp import receive_identifier
from gateway.dimse.requestor import Peer, RejectedError, limits_within, requested, why_lost
from gateway.dimse.status import (
    CANCELLED,
    CANNOT_PERFORM_SUB_OPERATIONS,
    DESTINATION_UNKNOWN,
    PENDING,
    SUB_OPERATIONS_INCOMPLETE,
    SUCCESS,
    Reply,
    attempt,
    retrieve_reply,
)
from gateway.dimse.store_scu import (
    Encoding,
    NoContextError,
    Originator,
    Sender,
    encoding_of,
    note_unreadable,
    proposals,
)
from gateway.dimse.upper_layer import NOT_SPECIFIED, UNEXPECTED_PDU, Association, Request, ViolationError
from gateway.session import Session
from gateway.transcoding import Transcoder, converter
from storage.errors import BadQuery, GatewayError, NotFound
from storage.matching import MatchKind, Query
from storage.model import Instance, JsonElement, Level, Scope

logger = logging.getLogger(__name__)

_FAILED_UIDS = "00080058"
_PAGE_ANSWERS = 500
_MOST_FAILED_UIDS = 1000  # in an Explicit VR element of 65,534 bytes
_SECONDS_BETWEEN_PENDING = 0.25
_WARNINGS = range(0xB000, 0xC000)
_NO_KEYS = frozenset((identifier.SPECIFIC_CHARACTER_SET, QUERY_LEVEL))


@dataclass(frozen=True, slots=True)
class RetrieveService:
    """What C-MOVE and C-GET need beside the request: the limits, what was negotiated by SOP Class, the AE title of who
    asks, the SOP Classes of which it is an SCP, the peers that instances may be sent to, by AE title, and what decodes
    pixels for those that do not take them as they are stored.
    """

    limits: DimseLimits
    calling_ae: str
    extended: Mapping[str, Extended] = field(default_factory=dict)
    scp_roles: frozenset[str] = frozenset()
    peers: Mapping[str, Peer] = field(default_factory=dict)
    transcoder: Transcoder | None = None


@dataclass(frozen=True, slots=True)
class _Matches:
    """What a retrieval is about: the scopes to go through, and how many instances of each encoding they hold."""

    scopes: Sequence[Scope]
    encodings: Counter[Encoding]


class _CancelledError(Exception):
    """The peer sent C-CANCEL."""


class _BrokenOffError(Exception):
    """An instance could not be read to its end, so the message that it was in has none, and nothing can follow."""


def retrieve(association: Association, request: Request, session: Session, service: RetrieveService) -> Reply:
    """Answer a C-MOVE or C-GET; the reply is the final response, with the counts and the instances that failed (M1–M4).

    Raises ConnectionEndedError when the peer that asked goes away; sub-operations end with it.
    """
    is_move = request.context.service is Service.MOVE
    query = _receive(association, request, service)
    if isinstance(query, Reply):
        return query
    peer = None
    if is_move:
        peer = service.peers.get(request.command.text(Element.MOVE_DESTINATION))
        if peer is None:
            return Reply(DESTINATION_UNKNOWN, int(Element.MOVE_DESTINATION), "The move destination is not known here")
    matches = attempt(partial(_matches, session, query), retrieve_reply)
    if isinstance(matches, Reply):
        return matches
    operation = _Operation(association, request, session, service, matches)
    try:
        if peer is None:
            operation.get()
        else:
            operation.move(peer)
    except _CancelledError:
        return operation.reply(is_cancelled=True)
    except GatewayError as error:  # of the index, between two sub-operations
        refused = retrieve_reply(error)
        return replace(operation.reply(), status=CANNOT_PERFORM_SUB_OPERATIONS, comment=refused.comment)
    return operation.reply()


def _receive(association: Association, request: Request, service: RetrieveService) -> Query | Reply:
    """Receive the Identifier and understand it; a reply says why not."""
    encoded = receive_identifier(association, request, service.limits.identifier_maximum_bytes)
    if isinstance(encoded, Reply):
        return encoded
    sop_class = request.context.abstract_syntax

    def understood() -> Query:
        elements = identifier.decode(encoded, request.context.transfer_syntax)
        return read_retrieval(elements, service, sop_class)

    return attempt(understood, retrieve_reply)


def read_retrieval(elements: Mapping[str, JsonElement], service: RetrieveService, sop_class: str) -> Query:
    """What an Identifier asks for: resources by their unique keys, of which UIDs may be listed (M6). Raises BadQuery.

    Any other attribute must be empty, for it would be expected to narrow what is sent. PS3.4 §C.4.2.1.4
    """
    known = set(UNIQUE_KEYS.values())
    for tag, element in elements.items():
        if tag not in known and tag not in _NO_KEYS and identifier.text(element):
            raise BadQuery("Only unique keys can be retrieved by", tag=tag)
    kept = {tag: element for tag, element in elements.items() if tag in known or tag in _NO_KEYS}
    asked = read_query(kept, service.limits.query_keys_maximum, MODELS[sop_class], service.extended.get(sop_class))
    level = asked.query.level
    wanted = [match for match in asked.query.matches if match.attribute.tag == UNIQUE_KEYS[level]]
    if not wanted:
        raise BadQuery("The unique key of the level has no value", tag=UNIQUE_KEYS[level])
    for match in asked.query.matches:
        if match.kind not in (MatchKind.SINGLE, MatchKind.LIST):
            raise BadQuery("A unique key has no wildcards", tag=match.attribute.tag)
    return replace(asked.query, level=max(level, Level.STUDY), include=frozenset())


def _matches(session: Session, query: Query) -> _Matches:
    """The series, or instances, to go through, in the order of answers, and their encodings."""
    scopes: list[Scope] = []
    encodings: Counter[Encoding] = Counter()
    for found_scope in _scopes(session, query):
        for scope in _parts(session, found_scope):
            found = _instances(session, scope)
            if found:
                scopes.append(scope)
                encodings.update(map(encoding_of, found))
    return _Matches(scopes, encodings)


def _parts(session: Session, scope: Scope) -> Iterator[Scope]:
    """The series of a study; series and instances themselves."""
    if scope.level > Level.STUDY:
        yield scope
    else:
        yield from _scopes(session, Query(Level.SERIES, scope=scope))


def _scopes(session: Session, query: Query) -> Iterator[Scope]:
    """What matches, page by page: of an answer nothing is kept but what it names."""
    while page := session.search(replace(query, limit=_PAGE_ANSWERS)):
        yield from (answer.scope for answer in page)
        if len(page) < _PAGE_ANSWERS:
            return
        query = replace(query, after=page[-1].place)


def _instances(session: Session, scope: Scope) -> Sequence[Instance]:
    """Those that are there now."""
    try:
        return session.instances(scope)
    except NotFound:
        return ()


class _Operation:
    """The sub-operations of one request: what was sent, and what is told of it meanwhile (M2)."""

    def __init__(
        self, association: Association, request: Request, session: Session, service: RetrieveService, matches: _Matches
    ) -> None:
        self._association = association
        self._request = request
        self._session = session
        self._service = service
        self._convert = converter(service.transcoder, session)
        self._matches = matches
        self._remaining = matches.encodings.total()
        self._completed = self._failed = self._warned = 0
        self._failed_uids: list[str] = []
        self._is_cancelled = self._was_possible = False
        self._told_at = time.monotonic()

    # Sending

    def get(self) -> None:
        """Send everything over the association that asked for it (CG1)."""
        self._was_possible = True
        sender = Sender(
            self._association,
            scp_roles=self._service.scp_roles,
            interject=self._interject,
            convert=converter(self._service.transcoder, self._session),
        )
        for instance in self._selected(frozenset(self._matches.encodings)):
            self._heed_cancel()
            try:
                self._note(instance, self._sent(sender, instance))
            except _BrokenOffError as error:
                raise ViolationError("instance cannot be read", NOT_SPECIFIED) from error

    def move(self, peer: Peer) -> None:
        """Send everything to a peer, over one association after the other where one has not enough contexts (M7)."""
        for encodings, contexts in proposals(self._matches.encodings):
            pending = self._selected(encodings)
            while self._move_over_one(peer, contexts, pending):
                logger.warning("dimse.move.associates_again", extra={"address": peer.host})

    def _move_over_one(self, peer: Peer, contexts: Sequence[Proposed], pending: Iterator[Instance]) -> bool:
        """Send what is pending over one association; whether another one is needed for the rest of it.

        A peer that is lost is not asked again: all of them have failed then (M8).
        """
        originator = Originator(self._service.calling_ae, self._request.message_id)
        limits = limits_within(self._service.limits.idle_seconds)
        with contextlib.ExitStack() as stack:
            try:
                found = stack.enter_context(requested(peer, contexts, limits))
            except (OSError, RejectedError, ConnectionEndedError) as error:
                self._give_up(peer, error, pending)
                return False
            self._was_possible = True
            sender = Sender(
                found.association, originator=originator, convert=converter(self._service.transcoder, self._session)
            )
            for instance in pending:
                self._heed_cancel()
                try:
                    status = self._sent(sender, instance)
                except _BrokenOffError:
                    found.abort()
                    self._note(instance, None)
                    return True
                except ConnectionEndedError as error:
                    found.abort(error)
                    self._note(instance, None)
                    self._give_up(peer, error, pending)
                    return False
                self._note(instance, status)
        return False

    def _give_up(self, peer: Peer, error: Exception, pending: Iterator[Instance]) -> None:
        logger.warning("dimse.move.peer_lost", extra={"reason": why_lost(error), "address": peer.host})
        for instance in pending:
            self._heed_cancel()
            self._note(instance, None)

    def _selected(self, encodings: frozenset[Encoding]) -> Iterator[Instance]:
        """The instances so encoded, series by series."""
        for scope in self._matches.scopes:
            for instance in _instances(self._session, scope):
                if encoding_of(instance) in encodings:
                    yield instance

    def _sent(self, sender: Sender, instance: Instance) -> int | None:
        """The status of one sub-operation, None for an instance that was not sent.

        Raises _BrokenOffError, and ConnectionEndedError of the association that it goes over.
        """
        try:
            stored = self._session.open(instance)
        except GatewayError as error:
            note_unreadable(error)
            return None
        with stored:
            try:
                return sender.send(stored)
            except NoContextError:
                return None
            except GatewayError as error:
                note_unreadable(error)
                raise _BrokenOffError from error

    # Telling

    def _note(self, instance: Instance, status: int | None) -> None:
        """Count a sub-operation, and tell the peer from time to time."""
        self._remaining = max(0, self._remaining - 1)
        if status == SUCCESS:
            self._completed += 1
        elif status in _WARNINGS:
            self._warned += 1
        else:
            self._failed += 1
            if len(self._failed_uids) < _MOST_FAILED_UIDS:
                self._failed_uids.append(instance.sop_instance_uid)
        now = time.monotonic()
        if now - self._told_at >= _SECONDS_BETWEEN_PENDING and self._remaining:
            self._told_at = now
            counts = {Element.REMAINING_SUB_OPERATIONS: self._remaining, **self._counts()}
            self._association.respond(self._request, PENDING, counts=counts)

    def _counts(self) -> dict[Element, int]:
        return {
            Element.COMPLETED_SUB_OPERATIONS: self._completed,
            Element.FAILED_SUB_OPERATIONS: self._failed,
            Element.WARNING_SUB_OPERATIONS: self._warned,
        }

    def reply(self, *, is_cancelled: bool = False) -> Reply:
        """The final response (M1, M3). What was deleted since it was matched was not sent either."""
        if not is_cancelled:
            self._failed += self._remaining
            self._remaining = 0
        counts = self._counts()
        if is_cancelled:
            status = CANCELLED
            counts = {Element.REMAINING_SUB_OPERATIONS: self._remaining, **counts}
        elif self._failed or self._warned:
            status = SUB_OPERATIONS_INCOMPLETE if self._was_possible else CANNOT_PERFORM_SUB_OPERATIONS
        else:
            status = SUCCESS
        comment = "Some instances could not be sent" if self._failed else ""
        return Reply(status, comment=comment, counts=counts, data_set=self._failed_list())

    def _failed_list(self) -> bytes | None:
        """The Identifier of the final response: which instances failed, as many as it can hold. PS3.4 §C.4.2.1.4.2"""
        if not self._failed_uids:
            return None
        elements = {_FAILED_UIDS: {"vr": "UI", "Value": self._failed_uids}}
        return identifier.encode(elements, self._request.context.transfer_syntax, "")

    # Listening

    def _heed_cancel(self) -> None:
        """Raises _CancelledError once the peer has sent C-CANCEL."""
        while (other := self._association.interjection()) is not None:
            self._interject(other)
        if self._is_cancelled:
            raise _CancelledError

    def _interject(self, other: Request) -> None:
        """A message in the middle of the operation: C-CANCEL of it, or of one that is over."""
        if other.command.number(Element.COMMAND_FIELD) != Field.C_CANCEL:
            raise ViolationError("request during a retrieval", UNEXPECTED_PDU)
        self._is_cancelled = self._is_cancelled or other.message_id == self._request.message_id
