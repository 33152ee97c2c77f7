"""C-STORE: the Data Set goes as it arrives into a spool, and success is said when the archive has it. PS3.4 Annex B."""

from __future__ import annotations

from dataclasses import replace

from gateway.dimse.command import Element
from gateway.dimse.connection import ConnectionEndedError
from gateway.dimse.status import (
    CANNOT_UNDERSTAND,
    COERCED,
    DATA_SET_DOES_NOT_MATCH_SOP_CLASS,
    INVALID_INSTANCE_UID,
    PROCESSING_FAILURE,
    SOP_CLASS_NOT_SUPPORTED,
    SUCCESS,
    Reply,
    attempt,
    store_reply,
)
from gateway.dimse.upper_layer import Association, Request, discard
from gateway.session import Session
from storage.errors import GatewayError, InvalidInstance, NotDicom, TooLarge, UnsupportedSOPClass
from storage.filemeta import Announcement
from storage.frames import PIXELS_MISSING
from storage.ledger import CUT_OFF, Account
from storage.spool import Spool
from storage.uids import is_uid

_NO_DATA_SET = "There is no Data Set"


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


def store(association: Association, request: Request, session: Session, account: Account, maximum_bytes: int) -> Reply:
    """Receive the instance of a C-STORE request and store it; the reply says what became of it (ST1–ST4).

    Success means that object and row are durable (R1). What is refused goes to quarantine, if it is worth it, before
    that is said. account: counts it. Raises ConnectionEndedError when the peer goes away, leaving nothing behind (ST7).
    PS3.7 §9.1.1, PS3.4 §B.2.3
    """
    objection = _objection(request)
    try:
        if not request.has_data_set:
            session.refuse(account, NotDicom(_NO_DATA_SET), CANNOT_UNDERSTAND)
            return Reply(CANNOT_UNDERSTAND, comment=_NO_DATA_SET)
        return _receive(association, request, session, account, maximum_bytes, objection)
    except TooLarge as error:
        reply = store_reply(error)
        session.refuse(account, error, reply.status)
        return Reply(reply.status, comment=reply.comment, ends_association=True)
    except ConnectionEndedError:
        account.note_failure(CUT_OFF)
        raise


def _objection(request: Request) -> tuple[GatewayError, Reply] | None:
    """Why the instance will not be stored, as far as the command tells."""
    if request.command.text(Element.AFFECTED_SOP_CLASS_UID) != request.context.abstract_syntax:
        comment = "The SOP Class is not that of the presentation context"
        reply = Reply(SOP_CLASS_NOT_SUPPORTED, Element.AFFECTED_SOP_CLASS_UID, comment)
        return UnsupportedSOPClass(comment, tag=f"{Element.AFFECTED_SOP_CLASS_UID:08X}"), reply
    if not is_uid(request.command.text(Element.AFFECTED_SOP_INSTANCE_UID)):
        comment = "Affected SOP Instance UID is not a UID"
        reply = Reply(INVALID_INSTANCE_UID, Element.AFFECTED_SOP_INSTANCE_UID, comment)
        return InvalidInstance(comment, tag=f"{Element.AFFECTED_SOP_INSTANCE_UID:08X}"), reply
    return None


def _receive(
    association: Association,
    request: Request,
    session: Session,
    account: Account,
    maximum_bytes: int,
    objection: tuple[GatewayError, Reply] | None,
) -> Reply:
    said = Announcement(
        sop_class_uid=request.command.text(Element.AFFECTED_SOP_CLASS_UID),
        sop_instance_uid=request.command.text(Element.AFFECTED_SOP_INSTANCE_UID),
        transfer_syntax_uid=request.context.transfer_syntax,
    )
    announcement = (
        replace(said, sop_class_uid=request.context.abstract_syntax, sop_instance_uid="") if objection else said
    )

    def refused(error: BaseException, reply: Reply, spool: Spool | None = None) -> Reply:
        session.refuse(account, error, reply.status, spool, announced=said)
        return reply

    opened = attempt(lambda: session.spool(announcement), lambda error: refused(error, store_reply(error)))
    if isinstance(opened, Reply):
        association.receive_data_set(request, discard, maximum_bytes)
        return opened if objection is None else objection[1]
    with opened as spool:
        reception = Reception(spool)
        association.receive_data_set(request, reception, maximum_bytes)
        if objection is not None:
            return refused(*objection, spool)
        if reception.failure is not None:
            return refused(reception.failure, store_reply(reception.failure), spool)

        def keep() -> Reply:
            try:
                return _keep(session, spool, account)
            except GatewayError as error:
                return refused(error, store_reply(error), spool)
            except Exception as error:
                refused(error, Reply(PROCESSING_FAILURE), spool)
                raise

        return attempt(keep, store_reply)


def _keep(session: Session, spool: Spool, account: Account) -> Reply:
    receipt = session.store(spool, account.source)
    account.note(receipt, spool.size_bytes)
    if receipt.original_attributes is not None:
        return Reply(COERCED, comment="Elements were coerced", is_usual=True)
    missing = sorted(PIXELS_MISSING.intersection(receipt.warnings))
    return Reply(DATA_SET_DOES_NOT_MATCH_SOP_CLASS, comment=missing[0]) if missing else Reply(SUCCESS)
