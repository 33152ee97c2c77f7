"""C-STORE as SCU: stored instances over an association, whoever asked for it. PS3.4 Annex B

Each goes in a transfer syntax that was agreed on: as it is kept wherever possible, else in a plain one, for which its
pixels are decoded if need be (M7).
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain

from gateway import metrics
from gateway.dimse import command
from gateway.dimse.command import RESPONSE, Element, Field
from gateway.dimse.contexts import Context, Proposed, Service
from gateway.dimse.upper_layer import Association, Request, ViolationError
from gateway.pixels.codecs import can_decode
from gateway.transcoding import Converter
from storage.errors import CorruptObject, GatewayError, Overloaded, TooLarge, Undecodable, UnsupportedTransferSyntax
from storage.model import Instance
from storage.stored import StoredDataSet
from storage.uids import EXPLICIT_VR_LITTLE_ENDIAN, IMPLICIT_VR_LITTLE_ENDIAN

logger = logging.getLogger(__name__)

Encoding = tuple[str, str]
"""SOP Class and transfer syntax of an instance."""

CONTEXTS_MAXIMUM = 128
_PLAIN = (EXPLICIT_VR_LITTLE_ENDIAN, IMPLICIT_VR_LITTLE_ENDIAN)
_LAST_MESSAGE_ID = 0xFFFF


class NotSentError(Exception):
    """An instance cannot be sent, and nothing of it was: the association goes on."""


class NoContextError(NotSentError):
    """The peer takes no instance of that SOP Class, or none in a transfer syntax that it can be sent in."""


class UnreadableError(NotSentError):
    """Its first bytes cannot be had, which is in the log."""


def note_unreadable(error: GatewayError) -> None:
    """Log that a stored instance could not be sent, and count it if its bytes are not those that were stored."""
    logger.error("dimse.instance.unreadable", exc_info=error)
    if isinstance(error, CorruptObject):
        metrics.INTEGRITY_FAILURES.labels("dimse").inc()


def proposals(encodings: Iterable[Encoding]) -> Iterator[tuple[frozenset[Encoding], tuple[Proposed, ...]]]:
    """Presentation contexts for instances so encoded, as many at a time as an association may have.

    Each SOP Class is offered in each transfer syntax that it is kept in, one to a context so that all of them can be
    accepted, and in the plain ones if any of its instances can be turned into those. PS3.8 §7.1.1.13, T1
    """
    by_class: dict[str, list[str]] = {}
    for sop_class, syntax in sorted(set(encodings)):
        by_class.setdefault(sop_class, []).append(syntax)
    members: set[Encoding] = set()
    proposed: list[tuple[str, tuple[str, ...]]] = []
    for sop_class, syntaxes in by_class.items():
        wanted: list[tuple[str, tuple[str, ...]]] = [(sop_class, (syntax,)) for syntax in syntaxes]
        if any(map(can_decode, syntaxes)) and set(syntaxes) != set(_PLAIN):
            wanted.append((sop_class, _PLAIN))
        for start in range(0, len(wanted), CONTEXTS_MAXIMUM):
            some = wanted[start : start + CONTEXTS_MAXIMUM]
            if len(proposed) + len(some) > CONTEXTS_MAXIMUM:
                yield frozenset(members), _numbered(proposed)
                members, proposed = set(), []
            proposed += some
            members |= {(sop_class, syntax) for _, (syntax, *_) in some if syntax in syntaxes}
    if proposed:
        yield frozenset(members), _numbered(proposed)


def _numbered(proposed: Sequence[tuple[str, tuple[str, ...]]]) -> tuple[Proposed, ...]:
    return tuple(Proposed(2 * place + 1, *one) for place, one in enumerate(proposed))


@dataclass(frozen=True, slots=True)
class Originator:
    """The C-MOVE that a C-STORE is part of: who asked, and the Message ID (M5)."""

    ae_title: str
    message_id: int


class Sender:
    """Sends instances over one association, one after the other.

    scp_roles: SOP Classes that the peer takes in this association; None for all that were accepted. interject: told
    of a request that comes instead of a response. convert: for what has to be decoded.
    """

    def __init__(
        self,
        association: Association,
        *,
        scp_roles: frozenset[str] | None = None,
        originator: Originator | None = None,
        interject: Callable[[Request], None] | None = None,
        convert: Converter | None = None,
    ) -> None:
        self._association = association
        self._contexts = _by_class(association.contexts, scp_roles)
        self._originator = originator
        self._interject = interject
        self._convert = convert
        self._message_id = 0

    def send(self, stored: StoredDataSet) -> int:
        """Send one instance; returns the status of the response.

        Raises NoContextError and UnreadableError, with nothing sent; ConnectionEndedError; CorruptObject and
        StorageUnavailable in the middle of a message, after which the association cannot go on.
        """
        instance = stored.instance
        context, pieces = self._choice(stored)
        try:
            first = next(pieces, b"")
        except GatewayError as error:
            note_unreadable(error)
            raise UnreadableError from error
        self._message_id = self._message_id % _LAST_MESSAGE_ID + 1
        origin = self._originator
        request = command.store_request(
            instance.sop_class_uid,
            instance.sop_instance_uid,
            self._message_id,
            (origin.ae_title, origin.message_id) if origin else None,
        )
        self._association.request_with(context.context_id, request, chain((first,), pieces))
        return self._status()

    def _choice(self, stored: StoredDataSet) -> tuple[Context, Iterator[bytes]]:
        contexts = self._contexts.get(stored.instance.sop_class_uid, {})
        for syntax in (stored.instance.transfer_syntax_uid, *_PLAIN):
            if syntax in contexts:
                try:
                    return contexts[syntax], self._pieces(stored, syntax)
                except (UnsupportedTransferSyntax, Undecodable, TooLarge, Overloaded):
                    continue
        raise NoContextError

    def _pieces(self, stored: StoredDataSet, syntax: str) -> Iterator[bytes]:
        is_pixels_alike = syntax == stored.instance.transfer_syntax_uid or not stored.transfer_syntax.is_encapsulated
        if is_pixels_alike or self._convert is None:
            return stored.data_set_chunks(syntax)
        return self._convert(stored, syntax)

    def _status(self) -> int:
        while True:
            response = self._association.next_response()
            field = response.command.number(Element.COMMAND_FIELD)
            if field == Field.C_STORE | RESPONSE and response.message_id == self._message_id:
                if response.has_data_set:
                    raise ViolationError("unexpected Data Set")
                return _number(response)
            if field & RESPONSE or self._interject is None:
                raise ViolationError("unexpected message")
            self._interject(response)


def _number(response: Request) -> int:
    try:
        return response.command.number(Element.STATUS)
    except command.MalformedCommandError as error:
        raise ViolationError("malformed command") from error


def _by_class(contexts: Mapping[int, Context], scp_roles: frozenset[str] | None) -> dict[str, dict[str, Context]]:
    found: dict[str, dict[str, Context]] = {}
    for context in contexts.values():
        is_taken = scp_roles is None or context.abstract_syntax in scp_roles
        if context.service is Service.STORAGE and is_taken:
            found.setdefault(context.abstract_syntax, {}).setdefault(context.transfer_syntax, context)
    return found


def encoding_of(instance: Instance) -> Encoding:
    """SOP Class and transfer syntax."""
    return instance.sop_class_uid, instance.transfer_syntax_uid
