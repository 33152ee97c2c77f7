"""Archive: the verbs. The only place where objects and index meet, and so where the order of a store is kept:
object first, row second, then the word that it is durable (D4, R1–R5).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

from storage.attributes import level_attributes
from storage.dataset import DataSet, read_data_set
from storage.dicomjson import pack_metadata
from storage.errors import (
    CorruptObject,
    Gone,
    IdentityMismatch,
    NotFound,
    StudyMismatch,
    UnsupportedTransferSyntax,
)
from storage.filemeta import Announcement
from storage.frames import frame_table
from storage.index.base import Index, Outbox
from storage.keys import instance_key
from storage.ledger import Ledger
from storage.matching import Query
from storage.model import Answer, Change, Document, Entry, Instance, Lined, Progress, Receipt, Scope, Source
from storage.objects.base import ObjectStore
from storage.quarantine import Quarantine
from storage.spool import Spool
from storage.stored import StoredDataSet
from storage.uids import TransferSyntax, checked_uid, is_uid, transfer_syntax

_STUDY, _SERIES, _SOP_INSTANCE, _SOP_CLASS = "0020000D", "0020000E", "00080018", "00080016"


@dataclass(frozen=True, slots=True)
class Identity:
    """The UIDs that a Data Set gives itself, each one checked."""

    study_instance_uid: str
    series_instance_uid: str
    sop_instance_uid: str
    sop_class_uid: str


class Archive:
    """Store, search, retrieve, delete. Thread-safe; any number of them may share one store and one index.

    maximum_instance_bytes: the largest Data Set that is taken (L6). quarantine: where whoever refuses instances may
    keep them; None for nowhere. ledger_days, ledger_maximum_rows: how long lines of the ingest ledger are kept.
    """

    def __init__(
        self,
        objects: ObjectStore,
        index: Index,
        *,
        maximum_instance_bytes: int = 4 << 30,
        quarantine: Quarantine | None = None,
        ledger_days: int = 90,
        ledger_maximum_rows: int = 100_000,
    ) -> None:
        self._objects = objects
        self._index = index
        self._maximum_instance_bytes = maximum_instance_bytes
        self.quarantine = quarantine
        self.ledger = Ledger(index.deliveries, days=ledger_days, maximum_rows=ledger_maximum_rows)

    def spool(self, announcement: Announcement | None = None, *, keeps_foreign: bool = False) -> Spool:
        """A place to collect one instance: a bare Data Set when it was announced, else a Part 10 stream.

        keeps_foreign: collect to its end what is no Part 10 stream, where there is a quarantine for it.
        """
        return Spool(
            self._objects.spool_directory,
            announcement,
            maximum_bytes=self._maximum_instance_bytes,
            keeps_foreign=keeps_foreign and self.quarantine is not None,
        )

    def store(self, spool: Spool, source: Source, *, study_instance_uid: str = "") -> Receipt:
        """Keep what the spool collected, and return once object and row are durable.

        study_instance_uid: the study that the request names, if it does. Raises NotDicom, InvalidInstance,
        IdentityMismatch, StudyMismatch, UnsupportedTransferSyntax, Overloaded or StorageUnavailable; then nothing of
        it is visible, and sending it again is safe.
        """
        spool.finish()
        syntax = _known_syntax(spool.announcement.transfer_syntax_uid)
        self._objects.expect(spool)
        data_set = read_data_set(spool.data_set, spool.data_set_offset, syntax)
        identity = _identity(data_set)
        warnings = [*data_set.warnings, *self._reconcile(spool, identity, syntax)]
        if study_instance_uid and identity.study_instance_uid != study_instance_uid:
            raise StudyMismatch(uid=identity.sop_instance_uid)
        entry, warning = _entry(spool, data_set, identity, syntax, source)
        # Also where the instance is known: sending again is how a sender repairs an archive (R4, I1).
        self._objects.put(entry.instance.key, spool)
        receipt = self._index.add(entry)
        return replace(receipt, warnings=(*receipt.warnings, *warnings, *([warning] if warning else [])))

    def _reconcile(self, spool: Spool, identity: Identity, syntax: TransferSyntax) -> tuple[str, ...]:
        """Hold what was announced against the Data Set: a peer's word must be true, File Meta may be corrected."""
        said = spool.announcement
        true = Announcement(identity.sop_class_uid, identity.sop_instance_uid, syntax.uid)
        if said == true:
            return ()
        if spool.is_announced:
            raise IdentityMismatch(uid=identity.sop_instance_uid)
        spool.announce(true)
        return ("The File Meta Information did not agree with the Data Set",)

    def search(self, query: Query) -> Sequence[Answer]:
        """Matches of a query. See ``Index.search``."""
        return self._index.search(query)

    def search_json(self, query: Query, url_of: Callable[[Scope], str]) -> Sequence[str]:
        """The same as JSON texts. See ``Index.search_json``."""
        return self._index.search_json(query, url_of)

    def search_lines(self, query: Query, tags: Sequence[str]) -> Lined:
        """The same as texts of elements. See ``Index.search_lines``."""
        return self._index.search_lines(query, tags)

    def instances(self, scope: Scope) -> Sequence[Instance]:
        """The instances of a resource, at least one. Raises NotFound, or Gone when it was deleted."""
        found = self._index.instances(scope)
        if not found:
            self._raise_absent(scope)
        return found

    def documents(self, scope: Scope) -> Iterator[Document]:
        """The instances of a resource with what was derived at ingest, streamed. Raises NotFound or Gone at once."""
        found = self._index.documents(scope)
        first = next(found, None)
        if first is None:
            self._raise_absent(scope)
        return _chain(first, found)

    def document(self, scope: Scope) -> Document:
        """One instance with what was derived at ingest. Raises NotFound or Gone."""
        return next(self.documents(scope))

    def thumbnail(self, instance: Instance, name: str) -> bytes | None:
        """The picture that was kept of an instance under that name, if it still is."""
        return self._index.thumbnail(instance.sop_instance_uid, name)

    def keep_thumbnail(self, instance: Instance, name: str, picture: bytes) -> None:
        """Keep a picture of an instance. See ``Index.keep_thumbnail``."""
        self._index.keep_thumbnail(instance.sop_instance_uid, name, picture)

    def open(self, instance: Instance) -> StoredDataSet:
        """The instance's bytes. Raises CorruptObject when the row has no object, which I1 forbids."""
        try:
            blob = self._objects.open(instance.key)
        except NotFound as error:
            raise CorruptObject("The object of an instance is missing", uid=instance.sop_instance_uid) from error
        return StoredDataSet(instance, blob)

    def delete(self, scope: Scope) -> Sequence[Instance]:
        """Take a resource out of the archive; its objects stay until they are collected (R9). Raises NotFound."""
        removed = self._index.delete(scope)
        if not removed:
            self._raise_absent(scope)
        return removed

    def changes(self, after: int, limit: int) -> Sequence[Change]:
        """The change feed behind a sequence number (R11)."""
        return self._index.changes(after, limit)

    @property
    def outbox(self) -> Outbox:
        """What is still to be sent to peers."""
        return self._index.outbox

    def index_extended(self) -> Progress:
        """Index some more of what extended attributes lack. See ``Index.index_extended``."""
        return self._index.index_extended()

    def incomplete(self) -> frozenset[str]:
        """The tags of extended attributes that are not indexed throughout. See ``Index.incomplete``."""
        return self._index.incomplete()

    def check(self) -> None:
        """Touch the index, for readiness. Raises StorageUnavailable."""
        self._index.changes(1 << 62, 1)

    def _raise_absent(self, scope: Scope) -> None:
        uid = scope.sop_instance_uid or scope.series_instance_uid or scope.study_instance_uid
        raise (Gone if self._index.is_deleted(scope) else NotFound)(uid=uid)

    def close(self) -> None:
        """Finish what is queued and let go of index and store."""
        self.ledger.close()
        self._index.close()


def _chain(first: Document | None, rest: Iterator[Document]) -> Iterator[Document]:
    if first is not None:
        yield first
    yield from rest


def _known_syntax(uid: str) -> TransferSyntax:
    if not is_uid(uid):
        raise UnsupportedTransferSyntax("The transfer syntax is missing or malformed")
    return transfer_syntax(uid)


def _identity(data_set: DataSet) -> Identity:
    """The four UIDs every instance has, each with one value.

    Raises InvalidInstance with the tag of the first one that is not one.
    """

    def uid(tag: str) -> str:
        values = data_set.json.get(tag, {}).get("Value", ())
        return checked_uid(str(values[0]) if len(values) == 1 else "", tag)

    sop_instance_uid = uid(_SOP_INSTANCE)
    return Identity(uid(_STUDY), uid(_SERIES), sop_instance_uid, uid(_SOP_CLASS))


def _entry(
    spool: Spool, data_set: DataSet, identity: Identity, syntax: TransferSyntax, source: Source
) -> tuple[Entry, str]:
    """Everything the index keeps of an instance, and a warning about its frames. Pure but for a peek at the spool."""
    buffer, offset = spool.data_set, spool.data_set_offset
    table, warning = frame_table(data_set, syntax, lambda start, end: bytes(buffer[offset + start : offset + end]))
    instance = Instance(
        study_instance_uid=identity.study_instance_uid,
        series_instance_uid=identity.series_instance_uid,
        sop_instance_uid=identity.sop_instance_uid,
        sop_class_uid=identity.sop_class_uid,
        transfer_syntax_uid=syntax.uid,
        digest=spool.digest,
        key=instance_key(identity.study_instance_uid, identity.sop_instance_uid, syntax.uid, spool.digest),
        size_bytes=spool.object_bytes,
        data_set_offset=len(spool.header),
        number_of_frames=table.number_of_frames,
    )
    metadata = pack_metadata(data_set.json, syntax.uid)
    return Entry(instance, level_attributes(data_set.json), metadata, table.encoded, data_set.bulk, source), warning
