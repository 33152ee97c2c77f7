"""C-FIND as SCU: one association to a peer, one query, its answers as they come. PS3.4 §C.4.1"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Generator, Iterator, Mapping

from gateway.dimse import command, identifier
from gateway.dimse.command import Element, Field
from gateway.dimse.connection import ConnectionEndedError
from gateway.dimse.contexts import Context, Proposed
from gateway.dimse.models import Extended
from gateway.dimse.requestor import FAREWELL_SECONDS, Peer, RejectedError, Requested, limits_within, requested
from gateway.dimse.status import CANCELLED, PENDING, PENDING_WITHOUT_SOME_KEYS, SUCCESS
from gateway.dimse.upper_layer import NOT_SPECIFIED, Association, Request, ViolationError
from storage.characters import UTF_8
from storage.errors import NotDicom, TooLarge
from storage.model import JsonElement
from storage.uids import EXPLICIT_VR_LITTLE_ENDIAN, IMPLICIT_VR_LITTLE_ENDIAN

ANSWER_MAXIMUM_BYTES = 4 << 20
_TRANSFER_SYNTAXES = (EXPLICIT_VR_LITTLE_ENDIAN, IMPLICIT_VR_LITTLE_ENDIAN)
_CONTEXT_ID = 1
_MESSAGE_ID = 1
_WARNINGS = range(0xB000, 0xC000)


class FindFailedError(Exception):
    """The final status of a C-FIND is a failure. comment: the peer's own words, not to be trusted. PS3.4 §C.4.1.1.4"""

    def __init__(self, status: int, comment: str) -> None:
        self.status = status
        self.comment = comment
        super().__init__(f"{status:04X}")


class FindRequestor:
    """An association for one query.

    agreed: what of the extended negotiation the peer takes. lacks_keys: after a first answer, whether the peer said
    that it does not support some optional key (FF01).
    """

    def __init__(self, association: Association, context: Context, agreed: Extended) -> None:
        self._association = association
        self._context = context
        self._is_under_way = False
        self.agreed = agreed
        self.lacks_keys = False

    def find(self, keys: Mapping[str, JsonElement]) -> Generator[dict[str, JsonElement], None, None]:
        """The matches, as they arrive, in the DICOM JSON Model; text that is not ASCII is sent as ISO_IR 192.

        Raises FindFailedError, ConnectionEndedError, and NotDicom or TooLarge for an answer that cannot be read.
        """
        syntax = self._context.transfer_syntax
        asked = identifier.encode(keys, syntax, UTF_8)
        sent = command.find_request(self._context.abstract_syntax, _MESSAGE_ID)
        self._association.request(self._context.context_id, sent, asked)
        self._is_under_way = True
        while (answer := self._next_answer()) is not None:
            yield identifier.decode(answer, syntax)

    def _next_answer(self, idle_seconds: float | None = None) -> bytes | None:
        """The next Identifier, None after the last. Raises FindFailedError."""
        response = self._association.next_request(idle_seconds)
        status = _status(response)
        answer = bytearray()
        if response.has_data_set:
            self._association.receive_data_set(response, answer.extend, ANSWER_MAXIMUM_BYTES)
        if status in (PENDING, PENDING_WITHOUT_SOME_KEYS):
            self.lacks_keys = self.lacks_keys or status == PENDING_WITHOUT_SOME_KEYS
            return bytes(answer)
        self._is_under_way = False
        if status not in (SUCCESS, CANCELLED) and status not in _WARNINGS:
            raise FindFailedError(status, response.command.text(Element.ERROR_COMMENT))
        return None

    def cancel(self) -> None:
        """Cancel what is under way, if anything is, and wait a moment for its end. Raises ConnectionEndedError."""
        if self._is_under_way:
            self._association.request(self._context.context_id, command.cancel_request(_MESSAGE_ID))
            deadline = time.monotonic() + FAREWELL_SECONDS
            while self._next_answer(FAREWELL_SECONDS) is not None:
                if time.monotonic() > deadline:
                    raise ViolationError("does not end when cancelled", NOT_SPECIFIED)


def _status(response: Request) -> int:
    received = response.command
    is_ours = received.number(Element.COMMAND_FIELD) == Field.C_FIND | command.RESPONSE
    if not is_ours or response.message_id != _MESSAGE_ID:
        raise ViolationError("unexpected message")
    try:
        return received.number(Element.STATUS)
    except command.MalformedCommandError as error:
        raise ViolationError("malformed command") from error


@contextlib.contextmanager
def find_requestor(peer: Peer, model: str, wanted: Extended, seconds: float) -> Iterator[FindRequestor]:
    """Associate for queries of one model, and end the association in order, whatever happens in between.

    model: SOP Class UID. seconds: the longest wait for anything the peer has to do. Raises OSError when nobody
    answers there, RejectedError, ConnectionEndedError.
    """
    information = bytes((wanted.is_relational, 0, wanted.is_fuzzy))
    extended = {model: information} if any(information) else {}
    proposed = Proposed(_CONTEXT_ID, model, _TRANSFER_SYNTAXES)
    with requested(peer, (proposed,), limits_within(seconds), extended) as found:
        context = found.association.contexts.get(_CONTEXT_ID)
        if context is None:
            raise RejectedError("queries of this kind are not supported there")
        answered = found.extended.get(model, b"").ljust(3, b"\0")
        agreed = Extended(wanted.is_relational and answered[0] == 1, wanted.is_fuzzy and answered[2] == 1)
        requestor = FindRequestor(found.association, context, agreed)
        try:
            yield requestor
        except (ConnectionEndedError, NotDicom, TooLarge):
            raise
        except BaseException:
            _leave(requestor, found)
            raise
        _leave(requestor, found)


def _leave(requestor: FindRequestor, found: Requested) -> None:
    """Leave a peer in order if it still can be; how it fails to says nothing about the answers that it gave."""
    try:
        requestor.cancel()
    except (ConnectionEndedError, TooLarge) as error:
        found.abort(error if isinstance(error, ConnectionEndedError) else None)
    except FindFailedError:
        found.is_over = True
    else:
        found.release()
