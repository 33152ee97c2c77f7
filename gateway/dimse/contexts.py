"""The presentation contexts this door accepts, as a table, and the pure negotiation over it. PS3.8 §7.1.1.13, D10."""

from __future__ import annotations

import enum
from collections.abc import Collection, Iterable
from dataclasses import dataclass

from storage.dictionary import uid_name, uid_type
from storage.policy import DEFAULT, Policy
from storage.uids import (
    EXPLICIT_VR_LITTLE_ENDIAN,
    IMPLICIT_VR_LITTLE_ENDIAN,
    TRANSFER_SYNTAXES,
    is_uid,
)

VERIFICATION = "1.2.840.10008.1.1"
PATIENT_ROOT_FIND = "1.2.840.10008.5.1.4.1.2.1.1"
STUDY_ROOT_FIND = "1.2.840.10008.5.1.4.1.2.2.1"
PATIENT_STUDY_ONLY_FIND = "1.2.840.10008.5.1.4.1.2.3.1"
PATIENT_ROOT_MOVE, PATIENT_ROOT_GET = "1.2.840.10008.5.1.4.1.2.1.2", "1.2.840.10008.5.1.4.1.2.1.3"
STUDY_ROOT_MOVE, STUDY_ROOT_GET = "1.2.840.10008.5.1.4.1.2.2.2", "1.2.840.10008.5.1.4.1.2.2.3"
PATIENT_STUDY_ONLY_MOVE, PATIENT_STUDY_ONLY_GET = "1.2.840.10008.5.1.4.1.2.3.2", "1.2.840.10008.5.1.4.1.2.3.3"
COMMITMENT_PUSH_MODEL = "1.2.840.10008.1.20.1"

ACCEPTED = 0
ABSTRACT_SYNTAX_NOT_SUPPORTED = 3
TRANSFER_SYNTAXES_NOT_SUPPORTED = 4


class Service(enum.Enum):
    """What a presentation context is for."""

    VERIFICATION = "Verification"
    STORAGE = "Storage"
    QUERY = "Query/Retrieve - FIND"
    MOVE = "Query/Retrieve - MOVE"
    GET = "Query/Retrieve - GET"
    COMMITMENT = "Storage Commitment"


@dataclass(frozen=True, slots=True)
class Proposed:
    """One presentation context as a requestor proposes it; transfer syntaxes in the order it prefers."""

    context_id: int
    abstract_syntax: str
    transfer_syntaxes: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Context:
    """An accepted presentation context."""

    context_id: int
    abstract_syntax: str
    transfer_syntax: str
    service: Service


@dataclass(frozen=True, slots=True)
class Result:
    """The answer to one proposal; ``context`` only when it was accepted. PS3.8 Table 9-18"""

    context_id: int
    reason: int
    transfer_syntax: str
    context: Context | None = None


_PLAIN = frozenset((IMPLICIT_VR_LITTLE_ENDIAN, EXPLICIT_VR_LITTLE_ENDIAN))
_EVERY = frozenset(TRANSFER_SYNTAXES)

SERVICES = {
    VERIFICATION: Service.VERIFICATION,
    PATIENT_ROOT_FIND: Service.QUERY,
    STUDY_ROOT_FIND: Service.QUERY,
    PATIENT_STUDY_ONLY_FIND: Service.QUERY,
    PATIENT_ROOT_MOVE: Service.MOVE,
    STUDY_ROOT_MOVE: Service.MOVE,
    PATIENT_STUDY_ONLY_MOVE: Service.MOVE,
    PATIENT_ROOT_GET: Service.GET,
    STUDY_ROOT_GET: Service.GET,
    PATIENT_STUDY_ONLY_GET: Service.GET,
    COMMITMENT_PUSH_MODEL: Service.COMMITMENT,
}
"""Abstract syntaxes that are not Storage. Every other SOP Class this door takes is one of Storage."""

SYNTAXES = {service: _EVERY if service is Service.STORAGE else _PLAIN for service in Service}
"""Transfer syntaxes taken for each service; instances are kept in the one they came in."""

_WITHOUT_PATIENT = frozenset(
    (
        "1.2.840.10008.1.3.10",  # Media Storage Directory: not exchanged by C-STORE
        "1.2.840.10008.1.20.2",  # Storage Commitment Pull Model
        "1.2.840.10008.5.1.4.1.1.200.1",  # CT Defined Procedure Protocol
        "1.2.840.10008.5.1.4.1.1.200.3",  # Protocol Approval
        "1.2.840.10008.5.1.4.1.1.200.7",  # XA Defined Procedure Protocol
        "1.2.840.10008.5.1.4.1.1.201.1",  # Inventory
        "1.2.840.10008.5.1.4.38.1",  # Hanging Protocol
        "1.2.840.10008.5.1.4.39.1",  # Color Palette
        "1.2.840.10008.5.1.4.43.1",  # Generic Implant Template
        "1.2.840.10008.5.1.4.44.1",  # Implant Assembly Template
        "1.2.840.10008.5.1.4.45.1",  # Implant Template Group
    )
)


def service_of(abstract_syntax: str) -> Service | None:
    """The service an abstract syntax belongs to here, None when it is refused.

    Storage are the standard Storage SOP Classes of the composite information model, retired ones too, and every UID
    the standard does not know: private classes and later ones (ST10). Objects without a patient have no study to be
    kept in.
    """
    named = SERVICES.get(abstract_syntax)
    if named is not None:
        return named
    if not is_uid(abstract_syntax) or abstract_syntax in _WITHOUT_PATIENT:
        return None
    kind = uid_type(abstract_syntax)
    is_storage = not kind or (kind == "SOP Class" and "Storage" in uid_name(abstract_syntax))
    return Service.STORAGE if is_storage else None


def negotiate(
    proposals: Iterable[Proposed], policy: Policy = DEFAULT, received: Collection[str] = ()
) -> tuple[Result, ...]:
    """Answer each proposal, accepting the first of the sender's transfer syntaxes that is known here.

    The sender lists first what it has, so that nothing is decoded or recompressed on its side (ST10). policy: what is
    taken from this peer. received: SOP Classes of which the peer wants to be the SCP, for C-GET: what it is sent in
    those contexts is no matter of that policy, and what it sends is refused when it comes.
    """
    return tuple(
        _answer(proposed, DEFAULT if proposed.abstract_syntax in received else policy) for proposed in proposals
    )


def _answer(proposed: Proposed, policy: Policy) -> Result:
    service = service_of(proposed.abstract_syntax)
    is_storage = service is Service.STORAGE
    if service is None or (is_storage and not policy.takes_class(proposed.abstract_syntax)):
        return Result(proposed.context_id, ABSTRACT_SYNTAX_NOT_SUPPORTED, proposed.transfer_syntaxes[0])
    taken = SYNTAXES[service]
    for syntax in proposed.transfer_syntaxes:
        if syntax in taken and not (is_storage and not policy.takes_syntax(syntax)):
            context = Context(proposed.context_id, proposed.abstract_syntax, syntax, service)
            return Result(proposed.context_id, ACCEPTED, syntax, context)
    return Result(proposed.context_id, TRANSFER_SYNTAXES_NOT_SUPPORTED, proposed.transfer_syntaxes[0])


def scp_roles(proposed: Iterable[str], results: Iterable[Result]) -> frozenset[str]:
    """SOP Classes of which the requestor may be the SCP, as it proposed: storage, for C-GET. PS3.7 §D.3.3.4"""
    contexts = [result.context for result in results if result.context is not None]
    stored = {context.abstract_syntax for context in contexts if context.service is Service.STORAGE}
    return frozenset(proposed) & stored
