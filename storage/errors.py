"""The one tree of errors; what happened, never what a protocol calls it.

GatewayError
├── NotDicom                    the bytes cannot be read as a DICOM Data Set
│   └── TooComplex              reading it would pass a limit: elements, depth, header bytes, inflation
├── InvalidInstance             a Data Set that breaks a rule every instance must keep
│   ├── IdentityMismatch        the Data Set is not the instance its sender announced
│   └── StudyMismatch           the Data Set belongs to another study than the request names
├── TooLarge                    a limit with a unit was passed: bytes, elements, depth, seconds, pixels
├── InstanceConflict            same SOP Instance UID, other bytes, where policy refuses them
├── TransactionInUse            a Transaction UID that another request has
├── UnsupportedSOPClass
├── UnsupportedTransferSyntax
├── BadRequest                  a request that cannot be understood
│   └── BadQuery                a search that names an unknown attribute or an impossible value
├── UnsupportedMediaType        a body of a kind that is not taken here
├── NotFound                    no such resource for this actor
│   └── Gone                    it was here, and was deleted
├── OnHold                      a legal hold keeps it, or something in it, from being deleted or replaced
├── NotAcceptable               no representation the client asked for can be made
├── Undecodable                 pixel data that no decoder here can turn into an image
│   └── DecoderFailed           it crashed or took too long: another time it may not
├── Unauthenticated
├── Forbidden
│   └── RefusedByPolicy         a rule of this archive, or its hook, does not want the instance
├── RateLimited                 this client has done that too often lately   (retryable)
├── Overloaded                  a bounded queue or pool is full              (retryable)
│   └── QuotaExceeded           a peer has sent what it may send in a day    (retryable)
├── StorageUnavailable          object store or index cannot keep its promise (retryable)
├── PolicyFailed                a rule of this archive, or its hook, cannot be applied to the instance
└── CorruptObject               stored bytes are not what was stored

Fields carry UIDs, tags and numbers, never an attribute value, and ``str()`` shows the class, the
reason and a digest of the UID only, so every error is safe to log. Each door holds one table from
these classes to its own codes.
"""

from __future__ import annotations

import hashlib


class GatewayError(Exception):
    """What went wrong, in words that hold no value of any attribute.

    reason: a constant phrase for the peer and the log. uid: the SOP Instance, series or study it is about, for
    the door's answer only. tag: the attribute at fault, as eight hex digits.
    """

    retryable = False
    default_reason = "The request failed"

    def __init__(self, reason: str = "", *, uid: str = "", tag: str = "") -> None:
        self.reason = reason or self.default_reason
        self.uid = uid
        self.tag = tag
        super().__init__(self.reason)

    def __str__(self) -> str:
        parts = [type(self).__name__, self.reason]
        if self.tag:
            parts.append(f"tag={self.tag}")
        if self.uid:
            parts.append(f"uid_digest={uid_digest(self.uid)}")
        return " ".join(parts)


def uid_digest(uid: str) -> str:
    """Eight hex digits that stand for a UID where the UID itself may not be written."""
    return hashlib.blake2b(uid.encode("utf-8", "replace"), digest_size=4).hexdigest()


class NotDicom(GatewayError):
    default_reason = "The bytes are not a DICOM Data Set"


class TooComplex(NotDicom):
    default_reason = "The Data Set passes a limit of the reader"


class InvalidInstance(GatewayError):
    default_reason = "The Data Set is not a valid instance"


class IdentityMismatch(InvalidInstance):
    default_reason = "The Data Set is not the instance that was announced"


class StudyMismatch(InvalidInstance):
    default_reason = "The Data Set belongs to another study"


class TooLarge(GatewayError):
    default_reason = "A limit was passed"


class InstanceConflict(GatewayError):
    default_reason = "Another instance with this SOP Instance UID is stored"


class TransactionInUse(GatewayError):
    default_reason = "The Transaction UID is in use"


class UnsupportedSOPClass(GatewayError):
    default_reason = "The SOP Class is not supported"


class UnsupportedTransferSyntax(GatewayError):
    default_reason = "The transfer syntax is not supported"


class BadRequest(GatewayError):
    default_reason = "The request cannot be understood"


class BadQuery(BadRequest):
    default_reason = "The query cannot be understood"


class UnsupportedMediaType(GatewayError):
    default_reason = "The media type of the body is not supported"


class NotFound(GatewayError):
    default_reason = "No such resource"


class Gone(NotFound):
    default_reason = "The resource was deleted"


class OnHold(GatewayError):
    default_reason = "The resource is on legal hold"


class NotAcceptable(GatewayError):
    default_reason = "None of the acceptable media types can be produced"


class Undecodable(GatewayError):
    default_reason = "The pixel data cannot be decoded"


class DecoderFailed(Undecodable):
    default_reason = "The decoder failed on this frame"


class Unauthenticated(GatewayError):
    default_reason = "Authentication is required"


class Forbidden(GatewayError):
    default_reason = "This is not permitted"


class RefusedByPolicy(Forbidden):
    default_reason = "A rule of this archive refuses the instance"


class RateLimited(GatewayError):
    """seconds: until it may be done once more."""

    retryable = True
    default_reason = "This was done too often in the last minute"

    def __init__(self, reason: str = "", *, uid: str = "", tag: str = "", seconds: int = 60) -> None:
        super().__init__(reason, uid=uid, tag=tag)
        self.seconds = seconds


class Overloaded(GatewayError):
    retryable = True
    default_reason = "The server is busy"


class QuotaExceeded(Overloaded):
    default_reason = "What may be stored in a day is used up"


class StorageUnavailable(GatewayError):
    retryable = True
    default_reason = "The archive cannot be reached"


class PolicyFailed(GatewayError):
    default_reason = "A rule of this archive cannot be applied to the instance"


class CorruptObject(GatewayError):
    default_reason = "The stored object is damaged"
