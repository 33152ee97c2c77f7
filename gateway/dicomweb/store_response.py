"""What a Store transaction answers: what became of each instance, and the status that this makes of all of them.

PS3.18 §10.5.3, §I.2
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from gateway.dicomweb.responses import resource_url, retry_seconds, status_of
from storage import errors
from storage.dictionary import keyword_path
from storage.errors import GatewayError
from storage.frames import PIXELS_MISSING
from storage.model import Outcome, Receipt, Scope
from storage.spool import Spool
from storage.uids import is_uid

MAXIMUM_PHRASES = 8
"""Reasons that are told in words; a header has to stay short."""

FAILURE_REASONS: Mapping[type[GatewayError], int] = {
    GatewayError: 0x0110,
    errors.NotDicom: 0xC000,
    errors.InvalidInstance: 0xA900,
    errors.StudyMismatch: 0xA901,
    errors.TooLarge: 0xA700,
    errors.InstanceConflict: 45070,
    errors.OnHold: 45070,
    errors.UnsupportedSOPClass: 0x0122,
    errors.UnsupportedTransferSyntax: 0xC122,
    errors.BadRequest: 0xC000,
    errors.UnsupportedMediaType: 0xC000,
    errors.Forbidden: 0x0124,
    errors.Unauthenticated: 0x0124,
    errors.Overloaded: 0xA700,
    errors.StorageUnavailable: 0xA700,
}
"""Failure Reason (0008,1197) of the nearest class. PS3.18 §I.2.2"""

_COERCED, _DOES_NOT_MATCH = 0xB000, 0xB007


def warning_reason(receipt: Receipt) -> int | None:
    """The Warning Reason (0008,1196) of a store that succeeded, if it needs one. PS3.18 §I.2.2

    What was sent is kept, but the instance that came first stays current (R5), or elements of it were coerced (S8);
    or pixels are missing from it.
    """
    if receipt.outcome is Outcome.CONFLICT or receipt.original_attributes is not None:
        return _COERCED
    return _DOES_NOT_MATCH if PIXELS_MISSING.intersection(receipt.warnings) else None


def failure_reason(error: GatewayError) -> int:
    """The Failure Reason for what went wrong with an instance."""
    return next(FAILURE_REASONS[kind] for kind in type(error).__mro__ if kind in FAILURE_REASONS)


@dataclass(frozen=True, slots=True)
class Failure:
    """Why an instance was not stored. The UIDs are the ones it announced, both or none. phrase: for people.
    retry_seconds: until it is worth sending again, where it is.
    """

    error: str
    reason: int
    status: int
    is_retryable: bool
    sop_class_uid: str = ""
    sop_instance_uid: str = ""
    phrase: str = field(default="", compare=False)
    retry_seconds: int = 0


def failure_of(error: GatewayError, spool: Spool | None = None) -> Failure:
    """What is kept of an error: nothing that holds on to the bytes."""
    uids = _announced(spool) if spool is not None else ("", "")
    phrase = f"{error.reason} ({keyword_path(error.tag)})" if error.tag else error.reason
    seconds = retry_seconds(error) if error.retryable else 0
    return Failure(
        type(error).__name__, failure_reason(error), status_of(error), error.retryable, *uids, phrase, seconds
    )


def _announced(spool: Spool) -> tuple[str, str]:
    try:
        said = spool.announcement
    except errors.NotDicom:
        return "", ""
    if is_uid(said.sop_class_uid) and is_uid(said.sop_instance_uid):
        return said.sop_class_uid, said.sop_instance_uid
    return "", ""


def store_instances_response(
    outcomes: Sequence[Receipt | Failure], base: str, study_instance_uid: str = ""
) -> dict[str, Any]:
    """The Store Instances Response Module in the DICOM JSON Model, for stores that ended so.

    base: of the URLs. study_instance_uid: that the request named, if it did. PS3.18 §I.2
    """
    stored = [outcome for outcome in outcomes if isinstance(outcome, Receipt)]
    failed = [outcome for outcome in outcomes if isinstance(outcome, Failure)]
    studies = {receipt.instance.study_instance_uid for receipt in stored}
    if study_instance_uid:
        studies = {study_instance_uid}
    url = resource_url(base, Scope(studies.pop())) if len(studies) == 1 else ""
    sequences = {
        "00081198": [_failed_item(failure) for failure in failed if failure.sop_instance_uid],
        "00081199": [_referenced_item(receipt, base) for receipt in stored],
        "0008119A": [_reason(failure) for failure in failed if not failure.sop_instance_uid],
    }
    return {
        "00081190": {"vr": "UR", "Value": [url]} if url else {"vr": "UR"},
        **{tag: {"vr": "SQ", "Value": items} for tag, items in sequences.items() if items},
    }


def _reason(failure: Failure) -> dict[str, Any]:
    return {"00081197": {"vr": "US", "Value": [failure.reason]}}


def _sop(class_uid: str, instance_uid: str) -> dict[str, Any]:
    return {"00081150": {"vr": "UI", "Value": [class_uid]}, "00081155": {"vr": "UI", "Value": [instance_uid]}}


def _failed_item(failure: Failure) -> dict[str, Any]:
    return {**_sop(failure.sop_class_uid, failure.sop_instance_uid), **_reason(failure)}


def _referenced_item(receipt: Receipt, base: str) -> dict[str, Any]:
    instance = receipt.instance
    item = _sop(instance.sop_class_uid, instance.sop_instance_uid)
    item["00081190"] = {"vr": "UR", "Value": [resource_url(base, instance.scope)]}
    if (reason := warning_reason(receipt)) is not None:
        item["00081196"] = {"vr": "US", "Value": [reason]}
    if receipt.original_attributes is not None:
        item["04000561"] = {"vr": "SQ", "Value": [receipt.original_attributes]}
    return item


def status_for(outcomes: Sequence[Receipt | Failure]) -> int:
    """200 when all is stored without a warning, 202 when something is, else what the failures agree on, or 409.

    PS3.18 §10.5.3.1
    """
    stored = [outcome for outcome in outcomes if isinstance(outcome, Receipt)]
    statuses = {outcome.status for outcome in outcomes if isinstance(outcome, Failure)}
    if stored:
        return 202 if statuses or any(map(warning_reason, stored)) else 200
    return statuses.pop() if len(statuses) == 1 else 409


def warnings_of(outcomes: Sequence[Receipt | Failure]) -> str:
    """Why instances were refused, in words, which the module has no place for. No value of them is repeated."""
    phrases = Counter(outcome.phrase for outcome in outcomes if isinstance(outcome, Failure))
    counted = phrases.most_common(MAXIMUM_PHRASES)
    return ", ".join(f'299 dicomweb-gateway: "{count} refused: {phrase}"' for phrase, count in counted)
