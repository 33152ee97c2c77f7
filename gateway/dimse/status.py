"""Errors as DIMSE statuses: one table, and the one place that reads it. PS3.7 Annex C, PS3.4 §B.2.3, §C.4.1.1.4."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import TypeVar

from gateway.dimse.command import Element
from storage import errors
from storage.errors import GatewayError

SUCCESS = 0x0000
COERCED = 0xB000
DATA_SET_DOES_NOT_MATCH_SOP_CLASS = 0xB007
PENDING = 0xFF00
PENDING_WITHOUT_SOME_KEYS = 0xFF01
CANCELLED = 0xFE00
PROCESSING_FAILURE = 0x0110
NO_SUCH_INSTANCE = 0x0112
INVALID_ARGUMENT = 0x0115
INVALID_INSTANCE_UID = 0x0117
NO_SUCH_CLASS = 0x0118
SOP_CLASS_NOT_SUPPORTED = 0x0122
NO_SUCH_ACTION = 0x0123
DUPLICATE_TRANSACTION = 0x0131
UNRECOGNISED_OPERATION = 0x0211
MISTYPED_ARGUMENT = 0x0212
RESOURCE_LIMITATION = 0x0213
OUT_OF_RESOURCES = 0xA700
CANNOT_COUNT_MATCHES = 0xA701
CANNOT_PERFORM_SUB_OPERATIONS = 0xA702
DESTINATION_UNKNOWN = 0xA801
SUB_OPERATIONS_INCOMPLETE = 0xB000
DUPLICATE_INSTANCE = 0x0111
NOT_AUTHORISED = 0x0124
DATA_SET_MISMATCH = 0xA900
CANNOT_UNDERSTAND = 0xC000

COMMENT_CHARACTERS = 64
_Value = TypeVar("_Value")
logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Reply:
    """The final response to a request.

    offending_element: a tag. comment: a constant, at most 64 ASCII characters. ends_association: the rest of the
    message was not received, so nothing can follow. is_usual: nothing to be told the operator. counts: of
    sub-operations, by element. data_set: what goes with the response.
    """

    status: int
    offending_element: int | None = None
    comment: str = ""
    ends_association: bool = False
    is_usual: bool = False
    counts: Mapping[Element, int] = field(default_factory=dict)
    data_set: bytes | None = None


@dataclass(frozen=True, slots=True)
class Row:
    """The statuses of one error: as answer to C-STORE and to C-FIND."""

    store: int
    find: int


STATUSES: dict[type[GatewayError], Row] = {
    GatewayError: Row(PROCESSING_FAILURE, PROCESSING_FAILURE),
    errors.NotDicom: Row(CANNOT_UNDERSTAND, CANNOT_UNDERSTAND),
    errors.TooComplex: Row(CANNOT_UNDERSTAND, CANNOT_UNDERSTAND),
    errors.InvalidInstance: Row(DATA_SET_MISMATCH, DATA_SET_MISMATCH),
    errors.IdentityMismatch: Row(DATA_SET_MISMATCH, DATA_SET_MISMATCH),
    errors.StudyMismatch: Row(DATA_SET_MISMATCH, DATA_SET_MISMATCH),
    errors.TooLarge: Row(OUT_OF_RESOURCES, OUT_OF_RESOURCES),
    errors.InstanceConflict: Row(DUPLICATE_INSTANCE, PROCESSING_FAILURE),
    errors.TransactionInUse: Row(PROCESSING_FAILURE, PROCESSING_FAILURE),
    errors.UnsupportedSOPClass: Row(SOP_CLASS_NOT_SUPPORTED, SOP_CLASS_NOT_SUPPORTED),
    errors.UnsupportedTransferSyntax: Row(CANNOT_UNDERSTAND, CANNOT_UNDERSTAND),
    errors.BadRequest: Row(CANNOT_UNDERSTAND, DATA_SET_MISMATCH),
    errors.BadQuery: Row(CANNOT_UNDERSTAND, DATA_SET_MISMATCH),
    errors.UnsupportedMediaType: Row(CANNOT_UNDERSTAND, CANNOT_UNDERSTAND),
    errors.NotFound: Row(PROCESSING_FAILURE, SUCCESS),
    errors.Gone: Row(PROCESSING_FAILURE, SUCCESS),
    errors.OnHold: Row(DUPLICATE_INSTANCE, PROCESSING_FAILURE),  # of a store: another version may not replace it
    errors.NotAcceptable: Row(CANNOT_UNDERSTAND, CANNOT_UNDERSTAND),
    errors.Undecodable: Row(CANNOT_UNDERSTAND, CANNOT_UNDERSTAND),
    errors.DecoderFailed: Row(CANNOT_UNDERSTAND, CANNOT_UNDERSTAND),
    errors.Unauthenticated: Row(NOT_AUTHORISED, NOT_AUTHORISED),
    errors.Forbidden: Row(NOT_AUTHORISED, NOT_AUTHORISED),
    errors.RefusedByPolicy: Row(NOT_AUTHORISED, NOT_AUTHORISED),
    errors.RateLimited: Row(OUT_OF_RESOURCES, OUT_OF_RESOURCES),
    errors.Overloaded: Row(OUT_OF_RESOURCES, OUT_OF_RESOURCES),
    errors.QuotaExceeded: Row(OUT_OF_RESOURCES, OUT_OF_RESOURCES),
    errors.StorageUnavailable: Row(OUT_OF_RESOURCES, OUT_OF_RESOURCES),
    errors.PolicyFailed: Row(PROCESSING_FAILURE, PROCESSING_FAILURE),
    errors.CorruptObject: Row(PROCESSING_FAILURE, PROCESSING_FAILURE),
}
"""One row for each class of the error tree. What is retryable is A700, so that modalities send again (ST2)."""


OF_ACTION: dict[type[GatewayError], int] = {
    GatewayError: PROCESSING_FAILURE,
    errors.NotDicom: MISTYPED_ARGUMENT,
    errors.InvalidInstance: INVALID_ARGUMENT,
    errors.TooLarge: RESOURCE_LIMITATION,
    errors.TransactionInUse: DUPLICATE_TRANSACTION,
    errors.Unauthenticated: 0x0124,
    errors.Forbidden: 0x0124,
    errors.Overloaded: RESOURCE_LIMITATION,
    errors.StorageUnavailable: RESOURCE_LIMITATION,
}
"""The status of the nearest class in answer to N-ACTION, which knows fewer of them. PS3.7 §10.1.4.1.10"""


def _row(error: GatewayError) -> Row:
    return next(STATUSES[kind] for kind in type(error).__mro__ if kind in STATUSES)


def _reply(status: int, error: GatewayError) -> Reply:
    if status == SUCCESS:
        return Reply(SUCCESS)
    tag = int(error.tag[-8:], 16) if error.tag else None
    return Reply(status, tag, error.reason[:COMMENT_CHARACTERS])


def store_reply(error: GatewayError) -> Reply:
    """The response to a C-STORE that failed so. PS3.4 Table B.2-1"""
    return _reply(_row(error).store, error)


def find_reply(error: GatewayError) -> Reply:
    """The response to a C-FIND that failed so. PS3.4 Table C.4-1"""
    return _reply(_row(error).find, error)


def retrieve_reply(error: GatewayError) -> Reply:
    """The response to a C-MOVE or C-GET whose matches cannot be found out. PS3.4 Tables C.4-2 and C.4-3"""
    reply = find_reply(error)
    return replace(reply, status=CANNOT_COUNT_MATCHES) if reply.status == OUT_OF_RESOURCES else reply


def action_reply(error: GatewayError) -> Reply:
    """The response to an N-ACTION that failed so. PS3.4 §J.3.2.1.4"""
    return _reply(next(OF_ACTION[kind] for kind in type(error).__mro__ if kind in OF_ACTION), error)


def attempt(work: Callable[[], _Value], reply: Callable[[GatewayError], Reply]) -> _Value | Reply:
    """The result of ``work``, or the reply for what it raised; a bug answers Processing Failure and is logged once.

    The only place of this room that catches everything: a handler never raises at a peer (PS3.7 §C.5.6).
    """
    try:
        return work()
    except GatewayError as error:
        return reply(error)
    except Exception:
        logger.exception("dimse.request.error")
        return Reply(PROCESSING_FAILURE, comment="Processing failure")
