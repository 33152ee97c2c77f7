"""DimseLimits: everything a DIMSE peer may use up, with its unit (L1–L6). No limit is hidden elsewhere in the room."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any


def _limit(default: float, doc: str) -> Any:
    return field(default=default, metadata={"doc": doc})


@dataclass(frozen=True, slots=True)
class DimseLimits:
    """Limits of the DIMSE listener; each has a default that a small hospital does not notice."""

    connections_maximum: int = _limit(
        256, "TCP connections held at once; beyond it the oldest without association goes."
    )
    connections_per_address_maximum: int = _limit(32, "TCP connections held at once from one address.")
    pending_connections_maximum: int = _limit(128, "Connections that have not yet asked for an association.")
    associations_maximum: int = _limit(64, "Associations at once; more are rejected as a transient condition.")
    associations_per_calling_ae_maximum: int = _limit(16, "Associations at once of one calling AE title.")
    tls_handshake_seconds: float = _limit(10, "From accept to the end of the TLS handshake.")
    associate_seconds: float = _limit(10, "From there to the last byte of the A-ASSOCIATE-RQ.")
    establishment_seconds: float = _limit(20, "From accept to the last byte of the A-ASSOCIATE-RQ, in all.")
    associate_pdu_maximum_bytes: int = _limit(128 * 1024, "Length of an A-ASSOCIATE-RQ PDU.")
    pdu_maximum_bytes: int = _limit(128 * 1024, "Maximum length of P-DATA-TF PDUs that is announced, and enforced.")
    command_maximum_bytes: int = _limit(64 * 1024, "Length of one Command Set.")
    identifier_maximum_bytes: int = _limit(256 * 1024, "Length of the Identifier of a query.")
    commitment_maximum_bytes: int = _limit(48 * 1024**2, "Length of the Data Set of a request for storage commitment.")
    instance_maximum_bytes: int = _limit(4 * 1024**3, "Length of the Data Set of one instance.")
    idle_seconds: float = _limit(60, "Silence between two messages of an association.")
    minimum_rate_bytes_per_second: int = _limit(4096, "Slowest pace at which a message that has begun may arrive.")
    minimum_rate_window_seconds: float = _limit(30, "Time over which that pace is measured.")
    send_seconds: float = _limit(60, "Time a peer may leave what is sent to it unread.")
    association_life_seconds: float = _limit(12 * 3600, "Age at which an association is aborted.")
    query_keys_maximum: int = _limit(64, "Attributes in the Identifier of a query.")
    query_answers_maximum: int = _limit(1_000_000, "Matches returned for one query; more end it as out of resources.")
