"""Data Sets that refer to instances, by the hundred thousand: requests for storage commitment read, reports written.

A Data Set library, and the reader of instances too, would make an object of every element, and stop long before. Here
only two elements of each item are looked at, the rest is stepped over. Pure. PS3.4 Tables J.3-1 and J.3-2
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from gateway.dimse import identifier
from storage.commitment import Reason, Reference, checked_reference
from storage.dataset import Buffer
from storage.errors import InvalidInstance, NotDicom, TooComplex, TooLarge
from storage.uids import IMPLICIT_VR_LITTLE_ENDIAN, checked_uid

RETRIEVE_AE_TITLE, TRANSACTION_UID = 0x00080054, 0x00081195
FAILED_SOP_SEQUENCE, REFERENCED_SOP_SEQUENCE = 0x00081198, 0x00081199
_CLASS_UID, _INSTANCE_UID = 0x00081150, 0x00081155
_FAILURE_REASON = 0x00081197
_ITEM, _ITEM_END, _SEQUENCE_END = 0xFFFEE000, 0xFFFEE00D, 0xFFFEE0DD
_UNDEFINED = 0xFFFFFFFF
_MAXIMUM_DEPTH = 32
_LONGEST_UID_BYTES = 66
_ITEMS_AT_ONCE = 1000
_REMEMBERED_CLASSES = 1000
_EXPLICIT, _IMPLICIT, _LONG = struct.Struct("<HH2sH"), struct.Struct("<HHI"), struct.Struct("<I")
_LONG_VRS = frozenset((b"OB", b"OD", b"OF", b"OL", b"OV", b"OW", b"SQ", b"SV", b"UC", b"UN", b"UR", b"UT", b"UV"))


class _Element(NamedTuple):
    """Tag of an element, or of an item, and where its value is; of one of undefined length with its delimiter."""

    tag: int
    start: int
    end: int


def read_request(buffer: Buffer, start: int, transfer_syntax_uid: str, most: int) -> tuple[str, list[Reference]]:
    """Transaction UID and references of a request, each reference once, in their order.

    buffer: holds the Data Set from ``start`` to its end. most: references. Raises NotDicom where the bytes make no Data
    Set, InvalidInstance with the tag of what is missing or malformed, TooLarge. PS3.4 Table J.3-1
    """
    reader = _Reader(buffer, is_explicit=transfer_syntax_uid != IMPLICIT_VR_LITTLE_ENDIAN)
    transaction_uid = ""
    references: dict[Reference, None] = {}
    try:
        for element in reader.elements(start, len(buffer)):
            if element.tag == TRANSACTION_UID:
                transaction_uid = reader.uid(element)
            elif element.tag == REFERENCED_SOP_SEQUENCE:
                for item in reader.items(element):
                    references[_reference(reader, item)] = None
                    if len(references) > most:
                        raise TooLarge("There are more references than one request may have")
    except struct.error as error:
        raise NotDicom("The Data Set ends within an element") from error
    checked_uid(transaction_uid, f"{TRANSACTION_UID:08X}")
    if not references:
        raise InvalidInstance("There are no references", tag=f"{REFERENCED_SOP_SEQUENCE:08X}")
    return transaction_uid, list(references)


def _reference(reader: _Reader, item: _Element) -> Reference:
    sop_class_uid = sop_instance_uid = ""
    for element in reader.elements(item.start, item.end):
        if element.tag == _CLASS_UID:
            sop_class_uid = reader.uid(element)
        elif element.tag == _INSTANCE_UID:
            sop_instance_uid = reader.uid(element)
    return checked_reference(sop_class_uid, sop_instance_uid)


class _Reader:
    """Steps over a little endian Data Set. Raises NotDicom, or struct.error at the end of the bytes."""

    def __init__(self, buffer: Buffer, *, is_explicit: bool) -> None:
        self._buffer = buffer
        self._is_explicit = is_explicit

    def uid(self, element: _Element) -> str:
        """The text of a UID without padding; longer ones are none."""
        raw = bytes(self._buffer[element.start : min(element.end, element.start + _LONGEST_UID_BYTES)])
        return raw.rstrip(b"\0 ").decode("ascii", "replace")

    def elements(self, at: int, end: int) -> Iterator[_Element]:
        """The elements of a Data Set, or of an item up to its delimiter."""
        while at < end:
            tag, start, length = self._header(at)
            if tag == _ITEM_END:
                return
            if tag >> 16 == 0xFFFE:
                raise NotDicom("There is a delimiter where an element should be")
            at = self._end(start, length, end)
            yield _Element(tag, start, at)

    def items(self, sequence: _Element) -> Iterator[_Element]:
        """The items of a sequence."""
        at = sequence.start
        while at < sequence.end:
            tag, start, length = self._header(at)
            if tag == _SEQUENCE_END:
                return
            if tag != _ITEM:
                raise NotDicom("There is something other than an item in a sequence")
            at = self._end(start, length, sequence.end)
            yield _Element(tag, start, at)

    def _header(self, at: int) -> tuple[int, int, int]:
        """Tag, where the value starts, and its length. PS3.5 §7.1.2, §7.1.3, §7.5"""
        group, element, length = _IMPLICIT.unpack_from(self._buffer, at)
        if group == 0xFFFE or not self._is_explicit:
            return group << 16 | element, at + 8, length
        _, _, vr, length = _EXPLICIT.unpack_from(self._buffer, at)
        if vr not in _LONG_VRS:
            if not (vr.isalpha() and vr.isupper()):
                raise NotDicom("An element has no Value Representation")
            return group << 16 | element, at + 8, length
        (length,) = _LONG.unpack_from(self._buffer, at + 8)
        return group << 16 | element, at + 12, length

    def _end(self, start: int, length: int, end: int) -> int:
        """Where a value ends that starts within something that ends at ``end``."""
        found = self._behind_delimiter(start, end) if length == _UNDEFINED else start + length
        if found > end:
            raise NotDicom("An element is longer than what is left of the Data Set")
        return found

    def _behind_delimiter(self, at: int, end: int) -> int:
        """Where a value of undefined length ends, whatever is nested in it."""
        depth = 1
        while depth:
            if at >= end:
                raise NotDicom("A sequence has no end")
            tag, at, length = self._header(at)
            if tag in (_ITEM_END, _SEQUENCE_END):
                depth -= 1
            elif length != _UNDEFINED:
                at += length
            elif depth == _MAXIMUM_DEPTH:
                raise TooComplex("Sequences are nested too deep")
            else:
                depth += 1
        return at


def write_report(
    transaction_uid: str,
    references: Sequence[Reference],
    reasons: Sequence[int],
    *,
    ae_title: str,
    transfer_syntax_uid: str,
) -> Iterator[bytes]:
    """The Data Set of a report, in pieces: what failed with its reasons, then what was committed. PS3.4 Table J.3-2

    ae_title: where the instances may be retrieved.
    """
    writer = _Writer(is_explicit=transfer_syntax_uid != IMPLICIT_VR_LITTLE_ENDIAN)
    ahead = writer.element(RETRIEVE_AE_TITLE, "AE", ae_title) + writer.element(TRANSACTION_UID, "UI", transaction_uid)
    for tag, is_wanted in ((FAILED_SOP_SEQUENCE, True), (REFERENCED_SOP_SEQUENCE, False)):
        pieces = list(writer.items(references, reasons, is_failed=is_wanted))
        if pieces:
            header, length_bytes = identifier.header(f"{tag:08X}", "SQ", writer.is_explicit)
            ahead += header + sum(map(len, pieces)).to_bytes(length_bytes, "little")
            yield ahead + pieces[0]
            yield from pieces[1:]
            ahead = b""


class _Writer:
    """Writes items, most of which have their SOP Class in common."""

    def __init__(self, *, is_explicit: bool) -> None:
        self.is_explicit = is_explicit
        self._classes: dict[str, bytes] = {}
        self._ahead_of_instance, self._length_bytes = identifier.header(f"{_INSTANCE_UID:08X}", "UI", is_explicit)

    def element(self, tag: int, vr: str, value: str | int) -> bytes:
        """One element with one value."""
        return identifier.encode_element(f"{tag:08X}", {"vr": vr, "Value": [value]}, self.is_explicit)

    def items(self, references: Sequence[Reference], reasons: Sequence[int], *, is_failed: bool) -> Iterator[bytes]:
        """The items of those that failed, or of the others, a thousand at a time."""
        waiting: list[bytes] = []
        tails: dict[int, bytes] = {int(Reason.COMMITTED): b""}
        for reference, reason in zip(references, reasons, strict=True):
            if bool(reason) is not is_failed:
                continue
            if reason not in tails:
                tails[reason] = self.element(_FAILURE_REASON, "US", reason)
            waiting.append(self._item(reference, tails[reason]))
            if len(waiting) == _ITEMS_AT_ONCE:
                yield b"".join(waiting)
                waiting.clear()
        if waiting:
            yield b"".join(waiting)

    def _item(self, reference: Reference, tail: bytes) -> bytes:
        head = self._classes.get(reference.sop_class_uid)
        if head is None:
            if len(self._classes) == _REMEMBERED_CLASSES:
                self._classes.clear()
            head = self.element(_CLASS_UID, "UI", reference.sop_class_uid)
            self._classes[reference.sop_class_uid] = head
        uid = reference.sop_instance_uid.encode("ascii")
        uid += b"\0" * (len(uid) & 1)
        length = len(uid).to_bytes(self._length_bytes, "little")
        size = len(head) + len(self._ahead_of_instance) + self._length_bytes + len(uid) + len(tail)
        return b"".join((_IMPLICIT.pack(0xFFFE, 0xE000, size), head, self._ahead_of_instance, length, uid, tail))
