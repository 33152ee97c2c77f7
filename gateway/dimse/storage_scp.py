"""C-STORE: the Data Set goes as it arrives into a spool, and success is said when the archive has it. PS3.4 Annex B."""

from __future__ import annotations

from gateway.dimse.command import Element
from gateway.dimse.status import (
    CANNOT_UNDERSTAND,
    DATA_SET_DOES_NOT_MATCH_SOP_CLASS,
    INVALID_INSTANCE_UID,
    SOP_CLASS_NOT_SUPPORTED,
    SUCCESS,
    Reply,
    attempt,
    store_reply,
)
from gateway.dimse.upper_layer import Association, Request, discard
from gateway.session import Session
from storage.errors import GatewayError, TooLarge
from storage.filemeta import Announcement
from storage.frames import PIXELS_MISSING
from storage.model import Source
from storage.spool import Spool
from storage.uids import is_uid


class Reception:
    """The sink of a Data Set: writes to the spool until that fails, then lets the rest pass by.

    So the association survives a full disk or a broken Data Set, and the sender reads the status (F4).
    """

    def __init__(self, spool: Spool) -> None:
        self._spool = spool
        self.failure: GatewayError | None = None

    def __call__(self, piece: memoryview) -> None:
        """Take a piece. Raises TooLarge."""
        if self.failure is not None:
            return
        try:
            self._spool.write(piece)
        except TooLarge:
            raise
        except GatewayError as error:
            self.failure = error


def store(association: Association, request: Request, session: Session, source: Source, maximum_bytes: int) -> Reply:
    """Receive the instance of a C-STORE request and store it; the reply says what became of it (ST1–ST4).

    Success means that object and row are durable (R1). Raises ConnectionEndedError when the peer goes away, leaving
    nothing behind (ST7). PS3.7 §9.1.1, PS3.4 §B.2.3
    """
    refusal = _refusal(request)
    try:
        if refusal is None:
            return _receive(association, request, session, source, maximum_bytes)
        if request.has_data_set:
            association.receive_data_set(request, discard, maximum_bytes)
    except TooLarge as error:
        reply = store_reply(error)
        return Reply(reply.status, comment=reply.comment, ends_association=True)
    return refusal


def _refusal(request: Request) -> Reply | None:
    """Why the instance will not be stored, as far as the command tells."""
    if not request.has_data_set:
        return Reply(CANNOT_UNDERSTAND, comment="There is no Data Set")
    if request.command.text(Element.AFFECTED_SOP_CLASS_UID) != request.context.abstract_syntax:
        comment = "The SOP Class is not that of the presentation context"
        return Reply(SOP_CLASS_NOT_SUPPORTED, Element.AFFECTED_SOP_CLASS_UID, comment)
    if not is_uid(request.command.text(Element.AFFECTED_SOP_INSTANCE_UID)):
        comment = "Affected SOP Instance UID is not a UID"
        return Reply(INVALID_INSTANCE_UID, Element.AFFECTED_SOP_INSTANCE_UID, comment)
    return None


def _receive(association: Association, request: Request, session: Session, source: Source, maximum_bytes: int) -> Reply:
    announcement = Announcement(
        sop_class_uid=request.context.abstract_syntax,
        sop_instance_uid=request.command.text(Element.AFFECTED_SOP_INSTANCE_UID),
        transfer_syntax_uid=request.context.transfer_syntax,
    )
    opened = attempt(lambda: session.spool(announcement), store_reply)
    if isinstance(opened, Reply):
        association.receive_data_set(request, discard, maximum_bytes)
        return opened
    with opened as spool:
        reception = Reception(spool)
        association.receive_data_set(request, reception, maximum_bytes)
        if reception.failure is not None:
            return store_reply(reception.failure)
        return attempt(lambda: _keep(session, spool, source), store_reply)


def _keep(session: Session, spool: Spool, source: Source) -> Reply:
    receipt = session.store(spool, source)
    missing = sorted(PIXELS_MISSING.intersection(receipt.warnings))
    return Reply(DATA_SET_DOES_NOT_MATCH_SOP_CLASS, comment=missing[0]) if missing else Reply(SUCCESS)
