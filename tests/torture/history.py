"""History: every call that was made to an archive, what was sent with it, and what its caller was told."""

from __future__ import annotations

import json
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum
from typing import TextIO


class Outcome(StrEnum):
    """What a caller was told: done, not done, or nothing."""

    OK = "ok"
    FAIL = "fail"
    UNKNOWN = "unknown"


STORE, DELETE = "store", "delete"
GONE = "gone"
"""The reason of a DELETE that found nothing to delete, and so is as good as done."""


@dataclass(frozen=True, slots=True)
class Version:
    """One Data Set under a SOP Instance UID; there may be others.

    digest: SHA-256 (hex) of its bytes in ``transfer_syntax``. marker: its Image Comments. frame: SHA-256 (hex) of its
    only frame. The last two are of no other version, so they tell which one metadata and pixels are of.
    """

    study: str
    series: str
    sop_instance: str
    transfer_syntax: str
    digest: str
    marker: str
    frame: str

    @property
    def path(self) -> str:
        """Of the instance, for DICOMweb."""
        return f"/dicomweb/studies/{self.study}/series/{self.series}/instances/{self.sop_instance}"


@dataclass(slots=True)
class Call:
    """One request for one instance. Times are of the monotonic clock; without an answer it ends at no time."""

    verb: str
    door: str
    version: Version
    begun: float
    ended: float = float("inf")
    outcome: Outcome = Outcome.UNKNOWN
    reason: str = ""


class History:
    """All calls, in the order in which they began. Thread-safe. log: gets a line of JSON when one begins or ends.

    versions: what was sent under each SOP Instance UID, by digest. acknowledged: each of them that was, once.
    """

    def __init__(self, log: TextIO | None = None) -> None:
        self.calls: list[Call] = []
        self.counts: Counter[tuple[str, Outcome]] = Counter()
        self.reasons: Counter[str] = Counter()
        self.versions: dict[str, dict[str, Version]] = defaultdict(dict)
        self.acknowledged: list[Version] = []
        self._acknowledged: set[tuple[str, str]] = set()
        self._log = log
        self._lock = threading.Lock()

    def begin(self, verb: str, door: str, version: Version) -> Call:
        """Note a call before the first byte of it is sent."""
        with self._lock:
            call = Call(verb, door, version, time.monotonic())
            self.calls.append(call)
            self.versions[version.sop_instance][version.digest] = version
            self._write("invoke", call)
            return call

    def end(self, call: Call, outcome: Outcome, reason: str = "") -> None:
        """Note what its caller was told; of a call that is UNKNOWN nobody knows when it ends."""
        with self._lock:
            call.outcome, call.reason = outcome, reason
            if outcome is not Outcome.UNKNOWN:
                call.ended = time.monotonic()
            self.counts[call.verb, outcome] += 1
            if reason:
                self.reasons[f"{call.verb} {call.door}: {reason}"] += 1
            name = (call.version.sop_instance, call.version.digest)
            if outcome is Outcome.OK and call.verb == STORE and name not in self._acknowledged:
                self._acknowledged.add(name)
                self.acknowledged.append(call.version)
            self._write(outcome, call)

    def _write(self, event: str, call: Call) -> None:
        if self._log is not None:
            line = (time.monotonic(), event, call.verb, call.door, call.version.sop_instance, call.version.digest)
            self._log.write(json.dumps([*line, call.reason]) + "\n")

    def stored_again(self) -> int:
        """Acknowledgements of what had been acknowledged before."""
        return self.counts[STORE, Outcome.OK] - len(self.acknowledged)


def by_instance(calls: Iterable[Call]) -> dict[str, list[Call]]:
    """Calls by SOP Instance UID, each list in the order in which they began."""
    found: dict[str, list[Call]] = defaultdict(list)
    for call in calls:
        found[call.version.sop_instance].append(call)
    return found
