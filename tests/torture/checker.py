"""Checker: what an archive holds after it was healed, against the history of calls. Pure: ``inspection`` looks.

An instance that was acknowledged is there, byte for byte, or another version of it is that was first, and then it is
kept beside that. What was not acknowledged is there as a whole or not at all. Nothing is there that nobody sent, and
nothing is made of parts of two. Each instance was stored once, as the change feed tells, whose numbers have no gap.
R1–R5, R8, R11, R13
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from tests.torture.history import DELETE, GONE, STORE, Call, History, Outcome, by_instance

LOST, GHOST, MIXED, UNCLEAN = "lost", "ghosts", "mixed", "unclean"
KINDS = (LOST, GHOST, MIXED, UNCLEAN)

Problem = tuple[str, str]
"""Its kind, and what is wrong."""


@dataclass(frozen=True, slots=True)
class Seen:
    """One instance as the doors show it. Empty text: not looked at.

    rows: how often a search finds it. digest: of what WADO-RS retrieves, alone or with its study. retrieved: of what
    other ways of retrieving gave. marker: Image Comments of its metadata. frame: digest of its frame.
    """

    study: str
    series: str
    rows: int = 0
    digest: str = ""
    retrieved: tuple[str, ...] = ()
    marker: str = ""
    frame: str = ""


@dataclass(slots=True)
class Observation:
    """What an archive holds.

    seen, rivals: by SOP Instance UID; of rivals the digests that their rows and their objects have, and these agree.
    changes: kinds of the changes of each SOP Instance UID, in order. problems: what is wrong whatever was sent.
    """

    seen: dict[str, Seen] = field(default_factory=dict)
    rivals: dict[str, list[str]] = field(default_factory=dict)
    changes: dict[str, list[str]] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)


def check(history: History, calls: Sequence[Call], observed: Observation) -> list[Problem]:
    """Everything that is wrong with what was observed of the instances of some calls.

    These are all calls for those instances, and what is observed of others nobody sent.
    """
    found = list(observed.problems)
    calls_of = by_instance(calls)
    for name, there in (("row", observed.seen), ("rival", observed.rivals), ("change", observed.changes)):
        found += [(GHOST, f"{uid} has a {name} and was never sent") for uid in there.keys() - calls_of.keys()]
    for uid, some in calls_of.items():
        seen, rivals = observed.seen.get(uid), observed.rivals.get(uid, [])
        found += _check_presence(uid, some, seen, rivals)
        found += _check_changes(uid, some, seen, observed.changes.get(uid, []))
        if seen is not None:
            found += _check_version(uid, history, some, seen, rivals)
    return found


def may_be_there(calls: Sequence[Call]) -> tuple[set[bool], bool]:
    """Whether an instance may be there, and may not, after calls that were made one after the other; and whether one
    of them found it gone when it had to be there.

    What nobody knows the end of may still be done after all the others.
    """
    states = {False}
    lingering: set[bool] = set()
    is_wrong = False
    for call in calls:
        done = call.verb == STORE
        if call.outcome is Outcome.OK:
            is_wrong |= call.reason == GONE and False not in states | lingering
            states = {done}
        elif call.outcome is Outcome.FAIL:
            states = states | {done}
        else:
            lingering.add(done)
    return states | lingering, is_wrong


def _is_deleted_from(calls: Sequence[Call]) -> bool:
    return any(call.verb == DELETE for call in calls)


def _check_presence(uid: str, calls: Sequence[Call], seen: Seen | None, rivals: Sequence[str]) -> Iterator[Problem]:
    if _is_deleted_from(calls):
        states, is_wrong = may_be_there(calls)
        if is_wrong:
            yield LOST, f"{uid} was gone though nobody had deleted it"
        if (seen is not None) not in states:
            yield (LOST if seen is None else GHOST), f"{uid} is {'not ' * (seen is None)}there after its last call"
        return
    acknowledged = {call.version.digest for call in calls if call.outcome is Outcome.OK}
    if seen is None:
        if acknowledged:
            yield LOST, f"{uid} is not there"
        if rivals:
            yield GHOST, f"{uid} has a rival and is not there"
        return
    for digest in acknowledged - {seen.digest, *rivals}:
        yield LOST, f"{uid}: the version {digest[:8]} is neither current nor kept beside it"


def _check_version(
    uid: str, history: History, calls: Sequence[Call], seen: Seen, rivals: Sequence[str]
) -> Iterator[Problem]:
    versions = history.versions[uid]
    acknowledged = {call.version.digest for call in calls if call.outcome is Outcome.OK}
    if seen.rows != 1:
        yield (GHOST if seen.rows else LOST), f"{uid} is found {seen.rows} times"
    current = versions.get(seen.digest)
    if current is None:
        kind = LOST if acknowledged else GHOST
        yield kind, f"{uid} reads as nothing that was sent: {seen.digest[:8] or 'not at all'}"
        return
    for name, what, other in (
        ("its place", (seen.study, seen.series), (current.study, current.series)),
        ("its metadata", seen.marker, current.marker),
        ("its frame", seen.frame or current.frame, current.frame),
        *(("another way to retrieve it", digest, current.digest) for digest in seen.retrieved),
    ):
        if what != other:
            yield MIXED, f"{uid}: {name} is not of the version that is retrieved"
    for digest in rivals:
        if digest not in versions:
            yield GHOST, f"{uid}: a rival {digest[:8]} was never sent"
        elif digest == seen.digest:
            yield MIXED, f"{uid} is its own rival"
    if not _is_deleted_from(calls):
        began = min(call.begun for call in calls if call.version.digest == seen.digest)
        if any(
            call.ended < began for call in calls if call.outcome is Outcome.OK and call.version.digest != seen.digest
        ):
            yield MIXED, f"{uid}: a version is current that came after another was acknowledged"


def _check_changes(uid: str, calls: Sequence[Call], seen: Seen | None, kinds: Sequence[str]) -> Iterator[Problem]:
    """Stored, deleted, stored again: in turn, and the last one is how it is now."""
    expected = ["stored" if number % 2 == 0 else "deleted" for number in range(len(kinds))]
    if list(kinds) != expected:
        yield GHOST, f"{uid}: the change feed says {', '.join(kinds)}"
    elif (len(kinds) % 2 == 1) != (seen is not None):
        yield (LOST if seen is not None else GHOST), f"{uid}: the change feed says {', '.join(kinds) or 'nothing'}"
    elif len(kinds) > 1 and not _is_deleted_from(calls):
        yield GHOST, f"{uid} was deleted by nobody"


def tally(problems: Sequence[Problem]) -> Mapping[str, int]:
    """How many there are of each kind."""
    counts = Counter(kind for kind, _ in problems)
    return {kind: counts[kind] for kind in KINDS}
