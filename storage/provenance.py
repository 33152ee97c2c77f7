"""Provenance: who brought an object and when, as a few bytes that a store keeps with it beside its content.

The object itself is the same whoever sent it (R2); this is for a rebuild of the index, which would else not know. It
is a help and no promise: where a file system or a copy has lost it, the time at which the object was written stands in.
"""

from __future__ import annotations

import contextlib
import datetime as dt
from dataclasses import dataclass
from typing import Any

import orjson

from storage.model import Source
from storage.objects.base import Stat

UNKNOWN = Source("unknown")


@dataclass(frozen=True, slots=True)
class Provenance:
    """received_ns: since 1970; it orders objects as they came. received_digest: of the Data Set as it came, where
    elements of it were coerced.
    """

    received_ns: int
    source: Source
    received_digest: str = ""

    @property
    def received_at(self) -> str:
        """The time as rows have it."""
        return iso_time(self.received_ns)


def label_of(provenance: Provenance) -> bytes:
    """The label of an object: short, so that a file system keeps it where the file itself is described."""
    source = provenance.source
    said = [provenance.received_ns, source.door, source.calling_ae, source.address]
    return orjson.dumps([*said, provenance.received_digest] if provenance.received_digest else said)


def provenance_of(stat: Stat) -> Provenance:
    """What the label of an object says; of one that says nothing, the time is that at which the object was written."""
    label, modified_ns = stat.label, stat.modified_ns
    said: Any = None
    with contextlib.suppress(ValueError):
        said = orjson.loads(label)
    is_whole = isinstance(said, list) and len(said) in (4, 5) and all(isinstance(text, str) for text in said[1:])
    if not is_whole or not isinstance(said[0], int) or not 0 <= said[0] < 1 << 63:
        return Provenance(modified_ns, UNKNOWN)
    return Provenance(said[0], Source(*said[1:4]), *said[4:])


def iso_time(since_1970_ns: int) -> str:
    """A time as rows have it: ISO 8601 in UTC with microseconds."""
    seconds, rest_ns = divmod(since_1970_ns, 10**9)
    moment = dt.datetime.fromtimestamp(min(seconds, 253402300799), dt.UTC)
    return moment.replace(microsecond=rest_ns // 1000).isoformat(timespec="microseconds")


def nanoseconds(time: str) -> int:
    """The inverse of ``iso_time``. Raises ValueError for what is no time."""
    moment = dt.datetime.fromisoformat(time)
    return round((moment - dt.datetime(1970, 1, 1, tzinfo=dt.UTC)) / dt.timedelta(microseconds=1)) * 1000
