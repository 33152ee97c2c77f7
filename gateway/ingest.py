"""Where the missing images went: lines of the ingest ledger and what is in quarantine of them, put together."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from gateway.quarantine import as_json as held_as_json
from gateway.quarantine import sender, study_of
from gateway.session import Session
from storage.errors import CorruptObject
from storage.model import Delivery, Held, Outcome

_OUTCOMES = tuple(outcome.value for outcome in Outcome)
HEADINGS = ("STARTED (UTC)", "DOOR", "FROM", "SENT", *(name.upper() for name in _OUTCOMES), "REFUSED", "BYTES", "END")
UNSEEN_END = "not seen"
"""Shown as the ending of what goes on, and of what a killed process did not see to its end."""


@dataclass(frozen=True, slots=True)
class Report:
    """What came in. held: instances in quarantine by the key of their delivery.

    study: when it is about one. Then ``deliveries`` are those that brought instances of it, with their outcomes in it,
    and ``held`` are the refused instances that say they are of it, whoever sent them. others: how many more instances
    the same deliveries had refused, of which nobody can tell the study. is_cut: there are more deliveries.
    """

    deliveries: Sequence[Delivery]
    held: Mapping[str, Sequence[Held]]
    study: str = ""
    others: int = 0
    is_cut: bool = False


def report(session: Session, *, since: str, calling_ae: str, failed: bool, study: str, limit: int) -> Report:
    """What the ledger and the quarantine say. Raises StorageUnavailable."""
    found = list(session.deliveries(since=since, calling_ae=calling_ae, failed=failed, study=study, limit=limit + 1))
    deliveries = found[:limit]
    held: dict[str, list[Held]] = defaultdict(list)
    for one in session.quarantine.held():
        is_meant = one.refusal.source.calling_ae == calling_ae or not calling_ae
        if is_meant and (not study or _is_of_study(session, one, study)):
            held[one.refusal.delivery].append(one)
    others = 0
    if study:
        others = sum(delivery.failed for delivery in deliveries) - sum(len(held[one.key]) for one in deliveries)
    return Report(deliveries, held, study, others, len(found) > limit)


def _is_of_study(session: Session, held: Held, study: str) -> bool:
    """Whether the request named the study, or what can be read of the Data Set does."""
    if held.refusal.study_instance_uid == study:
        return True
    try:
        return study_of(session.quarantine.beginning(held)) == study
    except CorruptObject:
        return False


def rows(told: Report) -> Iterator[Sequence[str]]:
    """A row for each delivery under ``HEADINGS``, and for people what was refused of it and where that is."""
    for one in told.deliveries:
        outcomes = one.studies.get(told.study, {}) if told.study else one.outcomes
        held = told.held.get(one.key, ())
        refused = len(held) if told.study else one.failed
        yield (
            f"{one.started_at[:10]} {one.started_at[11:19]}",
            one.source.door,
            sender(one.source),
            str(sum(outcomes.values()) + refused),
            *(str(outcomes.get(name, 0)) for name in _OUTCOMES),
            str(refused),
            str(one.size_bytes),
            one.ending or UNSEEN_END,
        )
        if one.errors and not told.study:
            yield ("    refused: " + _counted(one.errors),)
        yield from ((f"    quarantine: {item.id}  {item.refusal.error}",) for item in held)
    if told.study:
        known = {one.key for one in told.deliveries}
        for key, items in told.held.items():
            for item in items if key not in known else ():
                yield (f"refused {item.refused_at}, {sender(item.refusal.source)}: {item.id}  {item.refusal.error}",)


def summary(told: Report) -> str:
    """One line."""
    outcomes, errors = _totals(told)
    held = sum(len(items) for items in told.held.values()) if told.study else _held_of(told)
    refused = held if told.study else sum(errors.values())
    parts = [f"{sum(outcomes.values()) + refused} instances sent"]
    parts += [f"{outcomes[name]} {name}" for name in _OUTCOMES if outcomes[name]]
    parts.append(f"{refused} refused" + (f" ({_counted(errors)})" if errors and not told.study else ""))
    parts.append(f"{held} in quarantine")
    line = f"{len(told.deliveries)} {'delivery' if len(told.deliveries) == 1 else 'deliveries'}: {', '.join(parts)}"
    if told.others > 0:
        line += f"; {told.others} more were refused in the same deliveries, of which the study is not known"
    return line + ("; there are more deliveries" if told.is_cut else "")


def as_json(told: Report) -> dict[str, Any]:
    """All of it for programs."""
    outcomes, errors = _totals(told)
    known = {one.key for one in told.deliveries}
    totals = {**{name: outcomes[name] for name in _OUTCOMES}, "refused": sum(errors.values())}
    return {
        "event": "ingest",
        "deliveries": [_delivery_as_json(one, told) for one in told.deliveries],
        "totals": totals,
        "errors": dict(errors),
        "is_cut": told.is_cut,
    } | (
        {
            "study": told.study,
            "refused_elsewhere": [
                held_as_json(item) for key, items in told.held.items() if key not in known for item in items
            ],
            "refused_of_unknown_study": told.others,
        }
        if told.study
        else {}
    )


def _delivery_as_json(one: Delivery, told: Report) -> dict[str, Any]:
    source = one.source
    return {
        "key": one.key,
        "started_at": one.started_at,
        "last_at": one.last_at,
        "ending": one.ending,
        "door": source.door,
        "calling_ae": source.calling_ae,
        "called_ae": one.called_ae,
        "address": source.address,
        "sent": one.sent,
        "outcomes": {name: one.outcomes.get(name, 0) for name in _OUTCOMES},
        "refused": one.failed,
        "errors": dict(one.errors),
        "size_bytes": one.size_bytes,
        "quarantine": [item.id for item in told.held.get(one.key, ())],
        **({"of_study": dict(one.studies.get(told.study, {}))} if told.study else {}),
    }


def _totals(told: Report) -> tuple[Counter[str], Counter[str]]:
    outcomes: Counter[str] = Counter()
    errors: Counter[str] = Counter()
    for one in told.deliveries:
        outcomes.update(one.studies.get(told.study, {}) if told.study else one.outcomes)
        errors.update(one.errors)
    return outcomes, errors


def _held_of(told: Report) -> int:
    return sum(len(told.held.get(one.key, ())) for one in told.deliveries)


def _counted(errors: Mapping[str, int]) -> str:
    return ", ".join(f"{name} {count}" for name, count in errors.items())
