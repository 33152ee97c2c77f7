"""The nouns of the archive as frozen values. No behaviour beyond what the value itself knows; no I/O.

Frame numbers start at 1, indexes at 0; ranges are half-open; offsets count from the first byte of the object.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

JsonElement = Any  # one element or Data Set of the DICOM JSON Model, as orjson reads it (PS3.18 Annex F)


class Level(enum.IntEnum):
    """A level of the information model, from the top. PS3.4 §C.6.1"""

    PATIENT = 0
    STUDY = 1
    SERIES = 2
    INSTANCE = 3


@dataclass(frozen=True, slots=True)
class Scope:
    """A study, a series of it, or an instance of that: what a path of DICOMweb names. PS3.18 §10.1"""

    study_instance_uid: str
    series_instance_uid: str = ""
    sop_instance_uid: str = ""

    @property
    def level(self) -> Level:
        """The level of the resource named."""
        if self.sop_instance_uid:
            return Level.INSTANCE
        return Level.SERIES if self.series_instance_uid else Level.STUDY


@dataclass(frozen=True, slots=True)
class Source:
    """Who brought an instance, and by which door."""

    door: str
    calling_ae: str = ""
    address: str = ""


@dataclass(frozen=True, slots=True)
class Instance:
    """A SOP Instance as it is kept: identity, encoding and where its bytes are.

    digest: SHA-256 (hex) of the Data Set bytes, as received but for coerced elements. key: object key, never derived
    again.
    data_set_offset: where the Data Set starts in the object; what lies before is ours. size_bytes: whole object.
    number_of_frames: 0 when there are no pixels.
    """

    study_instance_uid: str
    series_instance_uid: str
    sop_instance_uid: str
    sop_class_uid: str
    transfer_syntax_uid: str
    digest: str
    key: str
    size_bytes: int
    data_set_offset: int
    number_of_frames: int = 0

    @property
    def scope(self) -> Scope:
        """The instance as a resource."""
        return Scope(self.study_instance_uid, self.series_instance_uid, self.sop_instance_uid)


@dataclass(frozen=True, slots=True)
class BulkValue:
    """Where one value too large for metadata lies: bytes ``start`` to ``end``, of Value Representation ``vr``.

    For a deflated object the range counts in the inflated Data Set.
    """

    start: int
    end: int
    vr: str


@dataclass(frozen=True, slots=True)
class Coerced:
    """That a Data Set is not kept as it came. digest: SHA-256 (hex) of the bytes that came. changed_at: when they were
    changed first, as a DICOM DT. given_by: the AE title they came from then, if any. Both are said in the Data Set.
    """

    digest: str
    changed_at: str
    given_by: str = ""


class Conflict(enum.Enum):
    """What becomes of other bytes under a SOP Instance UID that is there (R5).

    KEEP_FIRST: the first stays current, the other is kept beside it. REPLACE: the other becomes current, the first is
    kept beside it. REJECT: the other is refused.
    """

    KEEP_FIRST = "keep-first"
    REPLACE = "replace"
    REJECT = "reject"


@dataclass(frozen=True, slots=True)
class Quota:
    """How much may be kept in a day (UTC) of all that one rule is for (H32). name: of the rule. None is no limit."""

    name: str
    instances_per_day: int | None = None
    bytes_per_day: int | None = None


@dataclass(frozen=True, slots=True)
class Terms:
    """On what terms an entry is taken in. is_received: it has come now; False for a version that was here before."""

    conflict: Conflict = Conflict.KEEP_FIRST
    quota: Quota | None = None
    is_received: bool = True


ON_DEFAULT_TERMS = Terms()


@dataclass(frozen=True, slots=True)
class Entry:
    """All that the index keeps of one instance; made once, at ingest (D5).

    attributes: for PATIENT, STUDY, SERIES and INSTANCE the elements of the attribute table that the Data Set holds,
    in the DICOM JSON Model, by eight-digit tag. metadata: the compressed DICOM JSON of the whole instance, see
    ``storage.dicomjson``. frame_table: see ``storage.frames``; empty without pixels. bulk: places of the values
    that metadata only refers to, by path (``7FE00010`` or ``00400555/0/0040A123``). coerced: what it was before, where
    elements were changed on the way in.
    """

    instance: Instance
    attributes: Mapping[Level, Mapping[str, JsonElement]]
    metadata: bytes
    frame_table: bytes
    bulk: Mapping[str, BulkValue]
    source: Source
    coerced: Coerced | None = None


@dataclass(frozen=True, slots=True)
class Document:
    """What an index row holds of an instance beyond its identity: ``Entry``'s derived data, as stored."""

    instance: Instance
    metadata: bytes
    frame_table: bytes
    bulk: Mapping[str, BulkValue]


class Outcome(enum.Enum):
    """How a store ended; each of them keeps the bytes that were sent (R4, R5)."""

    STORED = "stored"
    DUPLICATE = "duplicate"
    VARIANT = "variant"
    CONFLICT = "conflict"
    REPLACED = "replaced"


@dataclass(frozen=True, slots=True)
class Receipt:
    """The archive's word that an instance is durable: object and row are both on disk.

    instance: the one that is current, which on CONFLICT and VARIANT is the one that came first.
    warnings: deviations that were accepted and recorded (D11), as constant phrases. replaced: what was current before,
    on REPLACED. original_attributes: the item of Original Attributes Sequence that says what was coerced, in the DICOM
    JSON Model; None where the Data Set is kept as it came.
    """

    outcome: Outcome
    instance: Instance
    warnings: tuple[str, ...] = ()
    replaced: Instance | None = None
    original_attributes: JsonElement | None = None


@dataclass(frozen=True, slots=True)
class Version:
    """One of the Data Sets that came under a SOP Instance UID; none is ever overwritten (R5).

    outcome: "current" for the one that is served, else why another one is. received_at: when it first came, ISO 8601.
    """

    outcome: str
    instance: Instance
    received_at: str
    last_received_at: str
    receive_count: int
    source: Source

    @property
    def is_current(self) -> bool:
        """Whether it is the one that is served."""
        return self.outcome == CURRENT


CURRENT = "current"


SERIES_STABLE, STUDY_STABLE = "series-stable", "study-stable"
KINDS = ("stored", "replaced", "deleted", SERIES_STABLE, STUDY_STABLE)
"""What a change may say of its scope: the last two that nothing has happened to a series or study for a while."""


@dataclass(frozen=True, slots=True)
class Delivery:
    """What one association, STOW request or import run brought: a line of the ingest ledger.

    key: names it, also in what was set aside of it. called_ae: our AE title as the peer called it. last_at: when this
    was counted. ending: how it ended, empty while nobody has seen that. outcomes: instances by ``Outcome``, those that
    were refused left out. size_bytes: of the Data Sets that were taken. errors: instances that were refused by class
    of error, the first one first. studies: outcomes by Study Instance UID, up to a limit of studies.
    """

    key: str
    source: Source
    called_ae: str
    started_at: str
    last_at: str
    ending: str
    outcomes: Mapping[str, int]
    size_bytes: int
    errors: Mapping[str, int]
    studies: Mapping[str, Mapping[str, int]] = field(default_factory=dict)

    @property
    def failed(self) -> int:
        """How many instances were refused."""
        return sum(self.errors.values())

    @property
    def sent(self) -> int:
        """How many instances the peer sent, or began to."""
        return sum(self.outcomes.values()) + self.failed


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why an instance was not accepted, and what was said of it.

    delivery: key of the ``Delivery`` it came in. error: class of the error; reason and tag as of ``GatewayError``.
    status: what the sender was told: Status of a C-STORE, Failure Reason of a STOW response. sop_class_uid,
    sop_instance_uid, transfer_syntax_uid: as they were announced, any text, cut to 64 characters. is_announced: by
    the command of a C-STORE, not by File Meta. study_instance_uid: that the request named.
    """

    source: Source
    called_ae: str
    delivery: str
    error: str
    reason: str
    tag: str
    status: int
    sop_class_uid: str = ""
    sop_instance_uid: str = ""
    transfer_syntax_uid: str = ""
    is_announced: bool = False
    study_instance_uid: str = ""


@dataclass(frozen=True, slots=True)
class Held:
    """An instance that was refused, as it is kept in quarantine.

    size_bytes: as received. begin: the bytes before the Data Set, as received. offset: where in the file the rest of
    them begins; what lies before is ours.
    """

    id: str
    refused_at: str
    refusal: Refusal
    size_bytes: int
    begin: bytes
    offset: int


@dataclass(frozen=True, slots=True)
class Change:
    """One line of the change feed: strictly increasing, without gaps (R11). kind: one of ``KINDS``."""

    sequence: int
    kind: str
    scope: Scope
    changed_at: str


@dataclass(frozen=True, slots=True)
class Extent:
    """How much a resource is. objects: those of instances, and of what came later under their UIDs (R5)."""

    series: int
    instances: int
    objects: int
    size_bytes: int


@dataclass(frozen=True, slots=True)
class Burial:
    """One deletion of a resource: what it took away.

    deleted_at: ISO 8601 in UTC; no two deletions have the same. source: who deleted it. extent: how much it was.
    buried: each resource that went with it, or some of them, and the key of its object; empty for a study or series. An
    instance stands there once for each object that was kept of it.
    """

    scope: Scope
    deleted_at: str
    source: Source
    extent: Extent
    buried: tuple[tuple[Scope, str], ...]


@dataclass(frozen=True, slots=True)
class Kept:
    """A row of an instance or of a rival, as upkeep reads it.

    row: its id. instance: None where the row has lost its parents. object_key: as the row has it. document: what was
    derived at ingest, where that was asked for and is there. has_document: whether there is one. attributes: of the
    instance, as text, where documents were asked for.
    """

    row: int
    object_key: str
    instance: Instance | None
    has_document: bool = True
    document: Document | None = None
    attributes: str = ""


@dataclass(frozen=True, slots=True)
class Deletion:
    """What was deleted at once, when, and by whom (R9).

    number: ascending. kept: objects of it that can still be brought back; what was stored again meanwhile does not
    count. is_held: some of them are on hold, and are not collected.
    """

    number: int
    scope: Scope
    deleted_at: str
    source: Source
    extent: Extent
    kept: int
    is_held: bool


@dataclass(frozen=True, slots=True)
class Remains:
    """An object that lost its row and can be brought back: number, ascending as it was stored, and who brought it."""

    number: int
    scope: Scope
    key: str
    source: Source


@dataclass(frozen=True, slots=True)
class Hold:
    """A resource that nobody may delete, and since when."""

    scope: Scope
    held_at: str


@dataclass(frozen=True, slots=True)
class Collected:
    """Objects that were removed in one step, and their bytes. has_more: there may be more to do."""

    objects: int = 0
    size_bytes: int = 0
    has_more: bool = False


@dataclass(frozen=True, slots=True)
class Parcel:
    """An instance that is to be sent somewhere, and how often that was tried."""

    scope: Scope
    attempts: int


class Pending(NamedTuple):
    """A row of the outbox as it is. due: seconds since 1970."""

    route: str
    sop_instance_uid: str
    study_instance_uid: str
    series_instance_uid: str
    attempts: int
    due: int


@dataclass(frozen=True, slots=True)
class Subscriber:
    """Who is told of changes in their order, and how far that is.

    sequence: the change up to which it was told. until_sequence: the last one of what is being told, 0 for nothing;
    attempts: how often that was tried, and refusals: how often it was refused. failing_since: of the failures since it
    was last told something the first; due: when it may be told the next time. Both in seconds since 1970, 0 for none.
    """

    name: str
    sequence: int
    until_sequence: int = 0
    attempts: int = 0
    refusals: int = 0
    failing_since: int = 0
    due: int = 0


@dataclass(frozen=True, slots=True)
class Undelivered:
    """Changes that a subscriber was not told of: those behind ``after_sequence``, up to ``until_sequence``.

    reason: of the last attempt, a phrase of ours. given_up_at: seconds since 1970. due: the same, from which on it is
    to be tried once more, if it is.
    """

    id: int
    subscriber: str
    after_sequence: int
    until_sequence: int
    attempts: int
    reason: str
    given_up_at: int
    due: int | None = None


@dataclass(frozen=True, slots=True)
class Progress:
    """How far extended attributes are indexed, in instances by their ids, which may have gaps.

    count: instances of this step. is_contended: somebody else has got on meanwhile, or changed what was to be indexed;
    nothing was written.
    """

    done: int
    all: int
    count: int = 0
    is_contended: bool = False

    @property
    def is_complete(self) -> bool:
        """Whether nothing is left."""
        return not self.is_contended and self.done >= self.all


class Lined(NamedTuple):
    """The matches of a search, ready as text.

    lines: for each match and each of the tags that were asked for the element of its ``Answer``, empty without one: as
    ``"00100010":{"Value":[...],"vr":"PN"}``, the member of a JSON object, with keys ascending and no blanks. place: of
    the last match, as of its ``Answer``; empty without any.
    """

    lines: Sequence[Sequence[str]]
    place: tuple[str | int, ...]


@dataclass(frozen=True, slots=True)
class Answer:
    """One match of a search, in the DICOM JSON Model.

    attributes: by eight-digit tag, ascending, with the maintained ones (Modalities in Study, counts); no Retrieve
    URL, which is the door's. Elements without a value hold only ``vr``. place: where it stands in the order of its
    level, for ``Query.after``.
    """

    level: Level
    scope: Scope
    attributes: Mapping[str, JsonElement] = field(default_factory=dict)
    place: tuple[str | int, ...] = field(default=(), compare=False)
