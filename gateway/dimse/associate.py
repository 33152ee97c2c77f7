"""A-ASSOCIATE: the request, the acceptance and the rejection, each read and written. Pure bytes, no socket.

pynetdicom's PDU classes take 7 ms for what storescu usually proposes and 34 ms for the longest request that is
allowed, and one odd item fails all of it; this reader takes a fraction of it and skips what it does not know. The
tests hold both against each other (D12). PS3.8 §9.3.2–9.3.4, PS3.7 Annex D
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from gateway.dimse.contexts import Proposed, Result
from storage.filemeta import IMPLEMENTATION_CLASS_UID, IMPLEMENTATION_VERSION_NAME

APPLICATION_CONTEXT_NAME = "1.2.840.10008.3.1.1.1"
_AE_TITLES = slice(10, 42)
_FIXED_BYTES = 74
_ITEM = struct.Struct(">BxH")
_APPLICATION_CONTEXT, _USER_INFORMATION = 0x10, 0x50
_CONTEXT_PROPOSED, _CONTEXT_RESULT = 0x20, 0x21
_ABSTRACT_SYNTAX, _TRANSFER_SYNTAX = 0x30, 0x40
_MAXIMUM_LENGTH, _IMPLEMENTATION_CLASS, _ROLES, _IMPLEMENTATION_VERSION, _EXTENDED = 0x51, 0x52, 0x54, 0x55, 0x56


class MalformedAssociateError(ValueError):
    """The A-ASSOCIATE-RQ or A-ASSOCIATE-AC breaks the structure of PS3.8 §9.3.2 or §9.3.3."""


@dataclass(frozen=True, slots=True)
class Proposal:
    """What a requestor asks for.

    maximum_length: longest P-DATA-TF value field it takes, 0 for any. extended: SOP Class Extended Negotiation
    application information by SOP Class UID. scp_roles: SOP Classes of which the requestor would be the SCP, as for
    the sub-operations of C-GET. AE titles are without padding and may hold any character.
    """

    called_ae: str
    calling_ae: str
    protocol_version: int
    application_context: str
    contexts: tuple[Proposed, ...]
    maximum_length: int = 0
    extended: Mapping[str, bytes] = field(default_factory=dict)
    scp_roles: frozenset[str] = frozenset()


def decode_request(pdu: bytes) -> Proposal:
    """Read a whole A-ASSOCIATE-RQ PDU, header included. Raises MalformedAssociateError. PS3.8 Table 9-11"""
    if len(pdu) < _FIXED_BYTES:
        raise MalformedAssociateError
    application_context = ""
    contexts: list[Proposed] = []
    user = _UserInformation()
    for kind, value in _items(pdu[_FIXED_BYTES:]):
        if kind == _APPLICATION_CONTEXT:
            application_context = _uid(value)
        elif kind == _CONTEXT_PROPOSED:
            contexts.append(_proposed(value))
        elif kind == _USER_INFORMATION:
            user = _user_information(value)
    if len({context.context_id for context in contexts}) != len(contexts):
        raise MalformedAssociateError
    titles = pdu[_AE_TITLES]
    return Proposal(
        called_ae=_ae_title(titles[:16]),
        calling_ae=_ae_title(titles[16:]),
        protocol_version=pdu[6] << 8 | pdu[7],
        application_context=application_context,
        contexts=tuple(contexts),
        maximum_length=user.maximum_length,
        extended=user.extended,
        scp_roles=frozenset(user.scp_roles),
    )


def _items(encoded: bytes) -> Iterator[tuple[int, bytes]]:
    at, end = 0, len(encoded)
    while at < end:
        if end - at < 4:
            raise MalformedAssociateError
        kind, length = _ITEM.unpack_from(encoded, at)
        at += 4
        if length > end - at:
            raise MalformedAssociateError
        yield kind, encoded[at : at + length]
        at += length


def _uid(value: bytes) -> str:
    return value.rstrip(b"\0 ").decode("ascii", "replace")


def _ae_title(value: bytes) -> str:
    return value.strip(b"\0 ").decode("ascii", "replace")


def _proposed(value: bytes) -> Proposed:
    if len(value) < 4 or not value[0] & 1:
        raise MalformedAssociateError
    abstract_syntax = ""
    transfer_syntaxes: list[str] = []
    for kind, uid in _items(value[4:]):
        if kind == _ABSTRACT_SYNTAX:
            abstract_syntax = _uid(uid)
        elif kind == _TRANSFER_SYNTAX:
            transfer_syntaxes.append(_uid(uid))
    if not abstract_syntax or not transfer_syntaxes:
        raise MalformedAssociateError
    return Proposed(value[0], abstract_syntax, tuple(transfer_syntaxes))


@dataclass(slots=True)
class _UserInformation:
    maximum_length: int = 0
    extended: dict[str, bytes] = field(default_factory=dict)
    scp_roles: set[str] = field(default_factory=set)


def _user_information(value: bytes) -> _UserInformation:
    user = _UserInformation()
    for kind, item in _items(value):
        if kind == _MAXIMUM_LENGTH:
            if len(item) != 4:
                raise MalformedAssociateError
            user.maximum_length = int.from_bytes(item, "big")
        elif kind == _EXTENDED:
            sop_class, information = _after_uid(item)
            user.extended[sop_class] = information
        elif kind == _ROLES:
            sop_class, roles = _after_uid(item)
            if len(roles) != 2:
                raise MalformedAssociateError
            if roles[1] == 1:
                user.scp_roles.add(sop_class)
    return user


def _after_uid(item: bytes) -> tuple[str, bytes]:
    """A UID that has its length before it, and what follows. PS3.7 Tables D.3-9 and D.3-11"""
    length = int.from_bytes(item[:2], "big")
    if len(item) < 2 or length > len(item) - 2:
        raise MalformedAssociateError
    return _uid(item[2 : 2 + length]), item[2 + length :]


def _item(kind: int, value: bytes) -> bytes:
    return _ITEM.pack(kind, len(value)) + value


def encode_acceptance(
    request: bytes,
    results: Sequence[Result],
    maximum_length: int,
    extended: Mapping[str, bytes],
    scp_roles: Iterable[str] = (),
) -> bytes:
    """The A-ASSOCIATE-AC PDU that answers the PDU ``request``. PS3.8 Table 9-17

    maximum_length: longest P-DATA-TF value field taken here. extended: accepted application information by SOP Class.
    scp_roles: SOP Classes of which the requestor may be the SCP, and only that.
    """
    items = [_item(_APPLICATION_CONTEXT, APPLICATION_CONTEXT_NAME.encode("ascii"))]
    for result in results:
        syntax = _item(_TRANSFER_SYNTAX, result.transfer_syntax.encode("ascii", "replace"))
        items.append(_item(_CONTEXT_RESULT, bytes((result.context_id, 0, result.reason, 0)) + syntax))
    items.append(_our_information(maximum_length, extended, scp_roles))
    body = b"\0\1\0\0" + request[_AE_TITLES] + bytes(32) + b"".join(items)
    return struct.pack(">BxI", 0x02, len(body)) + body


def _our_information(maximum_length: int, extended: Mapping[str, bytes], scp_roles: Iterable[str] = ()) -> bytes:
    user = [
        _item(_MAXIMUM_LENGTH, maximum_length.to_bytes(4, "big")),
        _item(_IMPLEMENTATION_CLASS, IMPLEMENTATION_CLASS_UID.encode("ascii")),
        *(_item(_ROLES, len(uid).to_bytes(2, "big") + uid.encode("ascii") + b"\0\1") for uid in scp_roles),
        _item(_IMPLEMENTATION_VERSION, IMPLEMENTATION_VERSION_NAME.encode("ascii")),
    ]
    for uid, information in extended.items():
        user.append(_item(_EXTENDED, len(uid).to_bytes(2, "big") + uid.encode("ascii") + information))
    return _item(_USER_INFORMATION, b"".join(user))


def encode_request(proposal: Proposal) -> bytes:
    """The A-ASSOCIATE-RQ PDU of a proposal; AE titles are ASCII of at most 16 characters. PS3.8 Table 9-11"""
    items = [_item(_APPLICATION_CONTEXT, proposal.application_context.encode("ascii"))]
    for context in proposal.contexts:
        uids = _item(_ABSTRACT_SYNTAX, context.abstract_syntax.encode("ascii"))
        uids += b"".join(_item(_TRANSFER_SYNTAX, uid.encode("ascii")) for uid in context.transfer_syntaxes)
        items.append(_item(_CONTEXT_PROPOSED, bytes((context.context_id, 0, 0, 0)) + uids))
    items.append(_our_information(proposal.maximum_length, proposal.extended, sorted(proposal.scp_roles)))
    titles = b"".join(title.encode("ascii").ljust(16) for title in (proposal.called_ae, proposal.calling_ae))
    body = proposal.protocol_version.to_bytes(2, "big") + b"\0\0" + titles + bytes(32) + b"".join(items)
    return struct.pack(">BxI", 0x01, len(body)) + body


@dataclass(frozen=True, slots=True)
class Acceptance:
    """What an acceptor agreed to; the fields are as in Proposal. results: without the context, which we know."""

    results: tuple[Result, ...]
    maximum_length: int
    extended: Mapping[str, bytes]


def decode_acceptance(pdu: bytes) -> Acceptance:
    """Read a whole A-ASSOCIATE-AC PDU, header included. Raises MalformedAssociateError. PS3.8 Table 9-17"""
    if len(pdu) < _FIXED_BYTES:
        raise MalformedAssociateError
    results: list[Result] = []
    user = _UserInformation()
    for kind, value in _items(pdu[_FIXED_BYTES:]):
        if kind == _CONTEXT_RESULT:
            if len(value) < 4:
                raise MalformedAssociateError
            syntaxes = [_uid(uid) for inner, uid in _items(value[4:]) if inner == _TRANSFER_SYNTAX]
            results.append(Result(value[0], value[2], syntaxes[0] if syntaxes else ""))
        elif kind == _USER_INFORMATION:
            user = _user_information(value)
    return Acceptance(tuple(results), user.maximum_length, user.extended)


def encode_rejection(result: int, source: int, reason: int) -> bytes:
    """The A-ASSOCIATE-RJ PDU. PS3.8 Table 9-21"""
    return bytes((0x03, 0, 0, 0, 0, 4, 0, result, source, reason))


def encode_abort(source: int, reason: int) -> bytes:
    """The A-ABORT PDU. PS3.8 Table 9-26"""
    return bytes((0x07, 0, 0, 0, 0, 4, 0, 0, source, reason))


RELEASE_REQUEST = bytes((0x05, 0, 0, 0, 0, 4, 0, 0, 0, 0))
RELEASE_RESPONSE = bytes((0x06, 0, 0, 0, 0, 4, 0, 0, 0, 0))
