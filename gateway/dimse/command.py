"""The Command Set: Implicit VR Little Endian elements of group 0000, read and written without a Data Set library.

A command is a few short elements, and each instance has two, so they cost microseconds here. PS3.7 §6.3, Annex E
"""

from __future__ import annotations

import enum
import struct
from collections.abc import Mapping
from dataclasses import dataclass

NO_DATA_SET = 0x0101
RESPONSE = 0x8000
_DATA_SET_FOLLOWS = 0x0001
_ELEMENT = struct.Struct("<HHI")
_MAXIMUM_ELEMENTS = 64
_MOST = 0xFFFF


class Field(enum.IntEnum):
    """Command Field of the requests this door understands. PS3.7 §E.1"""

    C_STORE = 0x0001
    C_GET = 0x0010
    C_FIND = 0x0020
    C_MOVE = 0x0021
    C_ECHO = 0x0030
    N_EVENT_REPORT = 0x0100
    N_ACTION = 0x0130
    C_CANCEL = 0x0FFF


class Element(enum.IntEnum):
    """Element numbers of group 0000. PS3.7 Table E.1-1"""

    GROUP_LENGTH = 0x0000
    AFFECTED_SOP_CLASS_UID = 0x0002
    REQUESTED_SOP_CLASS_UID = 0x0003
    COMMAND_FIELD = 0x0100
    MESSAGE_ID = 0x0110
    MESSAGE_ID_BEING_RESPONDED_TO = 0x0120
    MOVE_DESTINATION = 0x0600
    PRIORITY = 0x0700
    COMMAND_DATA_SET_TYPE = 0x0800
    STATUS = 0x0900
    OFFENDING_ELEMENT = 0x0901
    ERROR_COMMENT = 0x0902
    AFFECTED_SOP_INSTANCE_UID = 0x1000
    REQUESTED_SOP_INSTANCE_UID = 0x1001
    EVENT_TYPE_ID = 0x1002
    ACTION_TYPE_ID = 0x1008
    REMAINING_SUB_OPERATIONS = 0x1020
    COMPLETED_SUB_OPERATIONS = 0x1021
    FAILED_SUB_OPERATIONS = 0x1022
    WARNING_SUB_OPERATIONS = 0x1023
    MOVE_ORIGINATOR_AE_TITLE = 0x1030
    MOVE_ORIGINATOR_MESSAGE_ID = 0x1031


class MalformedCommandError(ValueError):
    """The bytes are not a Command Set, or an element that every command needs is missing or of the wrong length."""


@dataclass(frozen=True, slots=True)
class Command:
    """A Command Set as received: the raw value of each element of group 0000, by element number."""

    elements: Mapping[int, bytes]

    def number(self, element: Element) -> int:
        """A value of VR US. Raises MalformedCommandError when it is missing."""
        value = self.elements.get(element, b"")
        if len(value) != 2:
            raise MalformedCommandError
        return value[0] | value[1] << 8

    def text(self, element: Element) -> str:
        """A value of VR UI or LO without padding; empty when missing. Bytes that are no ASCII become U+FFFD."""
        return self.elements.get(element, b"").rstrip(b"\0 ").decode("ascii", "replace")

    @property
    def sop_class_uid(self) -> str:
        """The class that is affected, or requested; empty when there is none."""
        return self.text(Element.AFFECTED_SOP_CLASS_UID) or self.text(Element.REQUESTED_SOP_CLASS_UID)

    @property
    def sop_instance_uid(self) -> str:
        """The instance that is affected, or requested; empty when there is none."""
        return self.text(Element.AFFECTED_SOP_INSTANCE_UID) or self.text(Element.REQUESTED_SOP_INSTANCE_UID)

    @property
    def has_data_set(self) -> bool:
        """Whether a Data Set follows. Raises MalformedCommandError. PS3.7 Table E.1-1"""
        return self.number(Element.COMMAND_DATA_SET_TYPE) != NO_DATA_SET


def decode(encoded: bytes) -> Command:
    """Read a Command Set. Raises MalformedCommandError for anything but elements of group 0000, once each.

    Order and even length are not checked, as old modalities have their own ways (D11, ST6).
    """
    elements: dict[int, bytes] = {}
    at, end = 0, len(encoded)
    while at < end:
        if end - at < 8 or len(elements) >= _MAXIMUM_ELEMENTS:
            raise MalformedCommandError
        group, element, length = _ELEMENT.unpack_from(encoded, at)
        at += 8
        if group != 0 or length > end - at or element in elements:
            raise MalformedCommandError
        elements[element] = encoded[at : at + length]
        at += length
    if not elements:
        raise MalformedCommandError
    return Command(elements)


def encode(elements: Mapping[int, int | str | bytes]) -> bytes:
    """Write a Command Set with its group length: numbers as US, text as ASCII padded to even length, bytes as they are.

    Elements must be given in ascending order. PS3.7 §6.3.1
    """
    parts: list[bytes] = []
    for element, value in elements.items():
        if isinstance(value, int):
            raw = value.to_bytes(2, "little")
        elif isinstance(value, str):
            raw = value.encode("ascii", "replace")
            raw += (b"\0" if element in _UIDS else b" ") * (len(raw) & 1)
        else:
            raw = value
        parts.append(_ELEMENT.pack(0, element, len(raw)) + raw)
    body = b"".join(parts)
    return _ELEMENT.pack(0, Element.GROUP_LENGTH, 4) + len(body).to_bytes(4, "little") + body


_UIDS = frozenset((Element.AFFECTED_SOP_CLASS_UID, Element.AFFECTED_SOP_INSTANCE_UID))


def response(
    request: Command,
    status: int,
    *,
    has_data_set: bool = False,
    offending_element: int | None = None,
    comment: str = "",
    counts: Mapping[Element, int] | None = None,
) -> bytes:
    """The encoded response to ``request``, with the UIDs of the request, whether affected or requested.

    offending_element: a tag. comment: ASCII, at most 64 characters, a constant. counts: of sub-operations, ascending;
    what is more than an element can hold is said to be the most it can (T2). UIDs of the request that are not
    ASCII digits and dots are left out, so that nothing hostile is sent back. PS3.7 §9.3
    """
    elements: dict[int, int | str | bytes] = {}
    for element, value in (
        (Element.AFFECTED_SOP_CLASS_UID, request.sop_class_uid),
        (Element.COMMAND_FIELD, request.number(Element.COMMAND_FIELD) | RESPONSE),
        (Element.MESSAGE_ID_BEING_RESPONDED_TO, request.number(Element.MESSAGE_ID)),
        (Element.COMMAND_DATA_SET_TYPE, _DATA_SET_FOLLOWS if has_data_set else NO_DATA_SET),
        (Element.STATUS, status),
        (Element.OFFENDING_ELEMENT, _tag(offending_element)),
        (Element.ERROR_COMMENT, comment[:64]),
        (Element.AFFECTED_SOP_INSTANCE_UID, request.sop_instance_uid),
    ):
        if value in ("", b"") or (element in _UIDS and not _is_echoed(str(value))):
            continue
        elements[element] = value
    return encode(elements | {element: min(count, _MOST) for element, count in (counts or {}).items()})


def store_request(
    sop_class_uid: str, sop_instance_uid: str, message_id: int, originator: tuple[str, int] | None = None
) -> bytes:
    """The encoded C-STORE-RQ of medium priority; its Data Set follows. PS3.7 §9.3.1.1

    originator: AE title and Message ID of the C-MOVE that it is part of (M5).
    """
    elements: dict[int, int | str | bytes] = {
        Element.AFFECTED_SOP_CLASS_UID: sop_class_uid,
        Element.COMMAND_FIELD: Field.C_STORE,
        Element.MESSAGE_ID: message_id,
        Element.PRIORITY: 0,
        Element.COMMAND_DATA_SET_TYPE: _DATA_SET_FOLLOWS,
        Element.AFFECTED_SOP_INSTANCE_UID: sop_instance_uid,
    }
    if originator is not None:
        elements[Element.MOVE_ORIGINATOR_AE_TITLE], elements[Element.MOVE_ORIGINATOR_MESSAGE_ID] = originator
    return encode(elements)


def find_request(sop_class_uid: str, message_id: int) -> bytes:
    """The encoded C-FIND-RQ of medium priority; its Identifier follows. PS3.7 §9.3.2.1"""
    return encode(
        {
            Element.AFFECTED_SOP_CLASS_UID: sop_class_uid,
            Element.COMMAND_FIELD: Field.C_FIND,
            Element.MESSAGE_ID: message_id,
            Element.PRIORITY: 0,
            Element.COMMAND_DATA_SET_TYPE: _DATA_SET_FOLLOWS,
        }
    )


def event_report_request(sop_class_uid: str, sop_instance_uid: str, message_id: int, event_type_id: int) -> bytes:
    """The encoded N-EVENT-REPORT-RQ; its Data Set follows. PS3.7 §10.3.1.1"""
    return encode(
        {
            Element.AFFECTED_SOP_CLASS_UID: sop_class_uid,
            Element.COMMAND_FIELD: Field.N_EVENT_REPORT,
            Element.MESSAGE_ID: message_id,
            Element.COMMAND_DATA_SET_TYPE: _DATA_SET_FOLLOWS,
            Element.AFFECTED_SOP_INSTANCE_UID: sop_instance_uid,
            Element.EVENT_TYPE_ID: event_type_id,
        }
    )


def cancel_request(message_id: int) -> bytes:
    """The encoded C-CANCEL-RQ of the request with that Message ID. PS3.7 §9.3.2.3"""
    return encode(
        {
            Element.COMMAND_FIELD: Field.C_CANCEL,
            Element.MESSAGE_ID_BEING_RESPONDED_TO: message_id,
            Element.COMMAND_DATA_SET_TYPE: NO_DATA_SET,
        }
    )


def _tag(tag: int | None) -> bytes:
    return b"" if tag is None else struct.pack("<HH", tag >> 16, tag & 0xFFFF)


def _is_echoed(uid: str) -> bool:
    return len(uid) <= 64 and uid.replace(".", "").isdigit() and uid.isascii()
