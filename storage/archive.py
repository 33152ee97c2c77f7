"""Archive: the verbs. The only place where objects and index meet, and so where the order of a store is kept:
object first, row second, then the word that it is durable (D4, R1–R5).
"""

from __future__ import annotations

import datetime as dt
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import NoReturn

from storage.attachments import Attachments
from storage.coercion import Occasion, coerce
from storage.commitment import Check, Commitment, Reason, Reference
from storage.dataset import DataSet, read_data_set
from storage.entries import ORIGINAL_ATTRIBUTES, Identity, entry_of, identity_of, known_syntax
from storage.errors import (
    CorruptObject,
    GatewayError,
    Gone,
    IdentityMismatch,
    NotFound,
    StorageUnavailable,
    StudyMismatch,
    TooLarge,
)
from storage.filemeta import IMPLEMENTATION_VERSION_NAME, Announcement
from storage.filerange import CHUNK_BYTES
from storage.index.base import OPERATOR, Commitments, Index, OtherKey, Outbox, Subscribers
from storage.journal import Journal
from storage.keys import parts_of
from storage.ledger import Ledger
from storage.matching import Query
from storage.model import (
    Answer,
    Change,
    Coerced,
    Collected,
    Conflict,
    Deletion,
    Document,
    Extent,
    Hold,
    Instance,
    Lined,
    Outcome,
    Progress,
    Receipt,
    Remains,
    Scope,
    Source,
    Terms,
    Version,
)
from storage.objects.base import ObjectStore
from storage.policy import DEFAULT, Coercion, Policies, Policy
from storage.provenance import Provenance, label_of, provenance_of
from storage.quarantine import Quarantine
from storage.reception import Hook, Reception, reception_of
from storage.spool import Spool, sweep
from storage.stored import StoredDataSet
from storage.uids import TransferSyntax

KEPT_REQUESTS = 40
"""How many of the largest requests for storage commitment are kept, or as much in smaller ones."""
_REFERENCES_AT_ONCE = 2000
_NO_POLICIES = Policies()
_REMAINS_AT_ONCE = 1000
_COLLECTED_AT_ONCE = 200
_ABANDONED_SECONDS = 24 * 3600.0


class Archive:
    """Store, search, retrieve, delete. Thread-safe; any number of them may share one store and one index.

    maximum_instance_bytes: the largest Data Set that is taken (L6). commitment_check: what an instance is looked at for
    before it is committed to. commitment_references_maximum: of one request; ``KEPT_REQUESTS`` times as many are kept,
    for ``commitment_kept_seconds`` after their answer.
    maximum_instance_bytes: the largest Data Set that is taken (L6). quarantine: where whoever refuses instances may
    keep them; None for nowhere. ledger_days, ledger_maximum_rows: how long lines of the ingest ledger are kept.
    policies: on what terms instances are taken, by source. hook: is asked about each of them. name: of this system, in
    what is said of coercions.
    """

    def __init__(
        self,
        objects: ObjectStore,
        index: Index,
        *,
        maximum_instance_bytes: int = 4 << 30,
        commitment_check: Check = Check.OBJECT_SIZE,
        commitment_references_maximum: int = 250_000,
        commitment_kept_seconds: int = 604_800,
        quarantine: Quarantine | None = None,
        ledger_days: int = 90,
        ledger_maximum_rows: int = 100_000,
        policies: Policies = _NO_POLICIES,
        hook: Hook | None = None,
        name: str = IMPLEMENTATION_VERSION_NAME,
    ) -> None:
        self._objects = objects
        self._index = index
        self._journal = Journal(objects)
        self._maximum_instance_bytes = maximum_instance_bytes
        self._commitment_check = commitment_check
        self._commitment_kept_seconds = commitment_kept_seconds
        self.commitment_references_maximum = commitment_references_maximum
        self.quarantine = quarantine
        self.ledger = Ledger(index.deliveries, days=ledger_days, maximum_rows=ledger_maximum_rows)
        self._policies = policies
        self._hook = hook
        self._name = name

    def policy(self, source: Source) -> Policy:
        """On what terms instances of a source are taken."""
        return self._policies.of(source)

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

    def attachments(self, *, maximum_bytes: int) -> Attachments:
        """A place for bulk data that comes apart from its instances, until they are written."""
        return Attachments(self._objects.spool_directory, maximum_bytes=maximum_bytes)

    def store(self, spool: Spool, source: Source, *, study_instance_uid: str = "") -> Receipt:
        """Keep what the spool collected, and return once object and row are durable.

        study_instance_uid: the study that the request names, if it does. Raises NotDicom, InvalidInstance,
        IdentityMismatch, StudyMismatch, UnsupportedTransferSyntax, Overloaded or StorageUnavailable; by a policy
        UnsupportedSOPClass, InstanceConflict, RefusedByPolicy, PolicyFailed or QuotaExceeded. Then nothing of it is
        visible, and sending it again is safe.
        """
        spool.finish()
        return self._take(spool, source, self._policies.of(source), self._hook, study_instance_uid)

    def adopt(self, spool: Spool, provenance: Provenance) -> Receipt:
        """Keep what lay in the store already, as it is: what policies wanted with it was done when it came."""
        spool.finish()
        return self._take(spool, provenance.source, DEFAULT, received_digest=provenance.received_digest)

    def _take(
        self,
        spool: Spool,
        source: Source,
        policy: Policy,
        hook: Hook | None = None,
        study_instance_uid: str = "",
        received_digest: str = "",
    ) -> Receipt:
        syntax = known_syntax(spool.announcement.transfer_syntax_uid)
        policy.check_syntax(syntax.uid)
        is_kept_as_it_is = not policy.coercions and hook is None
        if is_kept_as_it_is:
            self._objects.expect(spool)
        data_set = read_data_set(spool.data_set, spool.data_set_offset, syntax)
        identity = identity_of(data_set)
        policy.check_class(identity.sop_class_uid)
        warnings = [*data_set.warnings, *self._reconcile(spool, identity, syntax)]
        if study_instance_uid and identity.study_instance_uid != study_instance_uid:
            raise StudyMismatch(uid=identity.sop_instance_uid)
        if not is_kept_as_it_is:
            wanted = () if hook is None else hook.ask(_reception(spool, data_set, source))
            changes = (*policy.coercions, *wanted)
            with self.spool(spool.announcement) as altered:
                coerced = self._coerce(spool, data_set, identity, syntax, source, changes, altered)
                if coerced is not None:
                    altered.finish()
                    said = read_data_set(altered.data_set, altered.data_set_offset, syntax)
                    return self._keep(altered, said, identity, syntax, source, policy.terms, warnings, coerced)
            self._objects.expect(spool)
        return self._keep(
            spool, data_set, identity, syntax, source, policy.terms, warnings, received_digest=received_digest
        )

    def _coerce(
        self,
        spool: Spool,
        data_set: DataSet,
        identity: Identity,
        syntax: TransferSyntax,
        source: Source,
        changes: Sequence[Coercion],
        altered: Spool,
    ) -> Coerced | None:
        """Put the Data Set with its changes into another spool; None when they change nothing.

        What is said of it is what was said when the same bytes came first, so that they give the same object however
        often they come, and from whom (R4).
        """
        if not changes:
            return None
        coerced = self._index.coerced(identity.sop_instance_uid, syntax.uid, spool.digest) or Coerced(
            spool.digest, dt.datetime.now(dt.UTC).strftime("%Y%m%d%H%M%S.%f+0000"), source.calling_ae
        )
        occasion = Occasion(coerced.changed_at, self._name, coerced.given_by)
        start = spool.data_set_offset
        if not coerce(spool.data_set, start, syntax, data_set.json, changes, occasion, altered.write):
            return None
        return coerced

    def _keep(
        self,
        spool: Spool,
        data_set: DataSet,
        identity: Identity,
        syntax: TransferSyntax,
        source: Source,
        terms: Terms,
        warnings: Sequence[str],
        coerced: Coerced | None = None,
        received_digest: str = "",
    ) -> Receipt:
        """Object first, row second, and what the journal has to know of it: also where the instance is known, for
        sending again is how a sender repairs an archive (R4, I1).

        Once more under another key where the index says so: that of the entry was given up then, or the same bytes
        have one already. received_digest: of what was coerced when it came, and is what it became already.
        """
        buffer, offset = spool.data_set, spool.data_set_offset
        received_digest = received_digest if coerced is None else coerced.digest
        entry, warning = entry_of(
            data_set,
            identity,
            syntax,
            source,
            digest=spool.digest,
            header_bytes=len(spool.header),
            object_bytes=spool.object_bytes,
            peek=lambda start, end: bytes(buffer[offset + start : offset + end]),
            received_digest=received_digest,
        )
        self._index.foresee(entry, terms)
        if coerced is not None:
            self._objects.expect(spool)
        spool.label = label_of(Provenance(time.time_ns(), source, received_digest))
        while True:
            is_new = self._objects.put(entry.instance.key, spool)
            returned_ns = 0 if is_new else self._note_return(entry.instance)
            try:
                receipt = self._index.add(entry, terms)
                break
            except OtherKey as other:
                entry = replace(entry, instance=replace(entry.instance, key=other.key))
        if not is_new and receipt.outcome is not Outcome.DUPLICATE:
            self._note_return(entry.instance)  # it may have been deleted in between
        if receipt.outcome is not Outcome.STORED:
            self._note_order(entry.instance, receipt, terms, is_new=is_new, returned_ns=returned_ns)
        is_as_it_came = coerced is None or (
            receipt.outcome is Outcome.DUPLICATE and receipt.instance.digest == coerced.digest
        )
        return replace(
            receipt,
            warnings=(*receipt.warnings, *warnings, *([warning] if warning else [])),
            original_attributes=None if is_as_it_came else data_set.json[ORIGINAL_ATTRIBUTES]["Value"][-1],
        )

    def versions(self, sop_instance_uid: str) -> Sequence[Version]:
        """All that came under a SOP Instance UID, the current version first. Raises NotFound."""
        found = self._index.versions(sop_instance_uid)
        if not found:
            raise NotFound(uid=sop_instance_uid)
        return found

    def make_current(self, version: Version) -> Receipt:
        """Let a version that is kept beside the current one take its place, and keep that one beside it.

        Its bytes are read and checked, as at ingest. Raises CorruptObject when they are not what was stored.
        """
        instance = version.instance
        if version.is_current:
            return Receipt(Outcome.DUPLICATE, instance)
        syntax = known_syntax(instance.transfer_syntax_uid)
        said = Announcement(instance.sop_class_uid, instance.sop_instance_uid, syntax.uid)
        with self.open(instance) as stored, self.spool(said) as spool:
            for piece in stored.data_set_chunks(syntax.uid):
                spool.write(piece)
            spool.finish()
            if spool.digest != instance.digest:
                raise CorruptObject(uid=instance.sop_instance_uid)
            data_set = read_data_set(spool.data_set, spool.data_set_offset, syntax)
            terms = Terms(Conflict.REPLACE, is_received=False)
            return self._keep(spool, data_set, identity_of(data_set), syntax, version.source, terms, ())

    def _note_return(self, instance: Instance) -> int:
        """Say in the journal that an object, which lies there since before it was deleted, is wanted again. D1

        Before the row is there: nobody may be told of it who would miss it after a rebuild. Returns from when on it is
        wanted, in nanoseconds since 1970; 0 for what was never deleted.
        """
        deletions = self._index.upkeep.deletions(instance)
        now_ns = time.time_ns() if deletions else 0
        for deleted_at in deletions:
            self._journal.restored(instance.scope, deleted_at, [instance.key])
        return now_ns

    def _note_order(
        self, instance: Instance, receipt: Receipt, terms: Terms, *, is_new: bool, returned_ns: int
    ) -> None:
        """Say in the journal which version is the current one, where the times of their objects say otherwise. D1

        What came back after a deletion has come when it did that. What replaces another is said again when it comes
        again: whoever sent it first may have died before. returned_ns: when it came back, 0 if it did not.
        """
        current = receipt.instance
        is_known_to_replace = receipt.outcome is Outcome.DUPLICATE and terms.conflict is Conflict.REPLACE
        if receipt.outcome is Outcome.REPLACED or (is_known_to_replace and self._index.upkeep.has_rivals(current)):
            self._note_replacement(current.sop_instance_uid)
        elif receipt.outcome is Outcome.DUPLICATE:
            if is_new and self._index.upkeep.has_rivals(current):  # its object was lost, and is the youngest now
                self._journal.made_current(current, self._received_ns(current))
        else:
            received_ns = self._received_ns(current)
            if received_ns >= max(self._received_ns(instance), returned_ns):  # which began earlier, and was overtaken
                self._journal.made_current(current, received_ns)

    def _note_replacement(self, sop_instance_uid: str) -> None:
        """Say in the journal which version is the current one now.

        The time is taken before it is looked up, so of several who replace one another at once the one with the latest
        time has seen the last of them.
        """
        now_ns = time.time_ns()
        current = self._index.find([sop_instance_uid]).get(sop_instance_uid)
        if current is not None:
            self._journal.replaced(current, now_ns)

    def _received_ns(self, instance: Instance) -> int:
        """When an object came, as it says itself; now where it is missing, for then it will come again."""
        try:
            return provenance_of(self._objects.stat(instance.key)).received_ns
        except NotFound:
            return time.time_ns()

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
        """The instance's bytes. Raises CorruptObject when the row has no object, which I1 forbids; Gone when the row
        is not there any more either.
        """
        try:
            blob = self._objects.open(instance.key)
        except NotFound as error:
            if instance not in (version.instance for version in self._index.versions(instance.sop_instance_uid)):
                raise Gone(uid=instance.sop_instance_uid) from error
            raise CorruptObject("The object of an instance is missing", uid=instance.sop_instance_uid) from error
        return StoredDataSet(instance, blob)

    def ask(self, commitment: Commitment, due: int) -> None:
        """Keep a request for storage commitment durably, to be answered from ``due`` on, in seconds since 1970.

        Raises TooLarge, TransactionInUse, Overloaded, StorageUnavailable.
        """
        if len(commitment.references) > self.commitment_references_maximum:
            raise TooLarge("There are more references than one request may have")
        self._index.commitments.ask(
            commitment,
            due,
            forget_before=commitment.requested_at - self._commitment_kept_seconds,
            most=self.commitment_references_maximum * KEPT_REQUESTS,
        )

    def commit(self, references: Sequence[Reference]) -> Iterator[Reason]:
        """What can be said of each reference, in their order, by looking at its bytes in the store.

        Rows are read some thousand at a time. Raises StorageUnavailable when the index cannot be reached.
        """
        for start in range(0, len(references), _REFERENCES_AT_ONCE):
            some = references[start : start + _REFERENCES_AT_ONCE]
            found = self._index.find([one.sop_instance_uid for one in some])
            for one in some:
                yield self._reason(one, found.get(one.sop_instance_uid))

    def _reason(self, reference: Reference, instance: Instance | None) -> Reason:
        if instance is None:
            return Reason.NO_SUCH_INSTANCE
        if instance.sop_class_uid != reference.sop_class_uid:
            return Reason.CLASS_INSTANCE_CONFLICT
        parents = (instance.study_instance_uid, instance.series_instance_uid)
        if reference.study_instance_uid and reference[2:] != parents:
            return Reason.NO_SUCH_INSTANCE
        try:
            is_kept = self._is_kept(instance)
        except (NotFound, CorruptObject):
            return Reason.PROCESSING_FAILURE
        except StorageUnavailable:
            return Reason.RESOURCE_LIMITATION
        return Reason.COMMITTED if is_kept else Reason.PROCESSING_FAILURE

    def _is_kept(self, instance: Instance) -> bool:
        """Whether the object is what its row says, as far as it is looked at. Raises NotFound, CorruptObject."""
        if self._objects.size_bytes(instance.key) != instance.size_bytes:
            return False
        if self._commitment_check is Check.OBJECT_SIZE:
            return True
        with self.open(instance) as stored:
            return stored.digest() == instance.digest

    @property
    def commitments(self) -> Commitments:
        """Requests for storage commitment."""
        return self._index.commitments

    def extent(self, scope: Scope) -> Extent:
        """How much a resource is. Raises NotFound or Gone."""
        found = self._index.extent(scope)
        if found is None:
            self._raise_absent(scope)
        return found

    def delete(self, scope: Scope, by: Source = OPERATOR, *, per_minute: int = 0) -> Extent:
        """Take a resource out of the archive; its objects stay until they are collected (R9).

        See ``Index.delete``. Raises NotFound, Gone, OnHold or RateLimited. The journal hears of it after the index and
        before anybody is told: what was said to be deleted is so after a rebuild, and a deletion that was cut off in
        between is either. Asking again makes up for it.
        """
        removed = self._index.delete(scope, by, per_minute=per_minute)
        for burial in self._index.upkeep.burials(scope):
            self._journal.deleted(burial)
        if removed is None:
            self._raise_absent(scope)
        return removed

    def undelete(self, scope: Scope) -> Iterator[Receipt | GatewayError]:
        """Store again what was deleted under ``scope`` and is not collected yet, in the order in which it came first:
        for each object what came of it. Raises NotFound at once when nothing is left of it.

        It can be broken off, and done again for the rest. Answers are those of before the deletion.
        """
        first = self._index.deletions.remains(scope, 0, _REMAINS_AT_ONCE)
        if not first:
            raise NotFound("Nothing of it was deleted, or all of it was stored again or collected")
        return self._restored(scope, first)

    def _restored(self, scope: Scope, found: Sequence[Remains]) -> Iterator[Receipt | GatewayError]:
        while found:
            for remains in found:
                try:
                    yield self._restore(remains)
                except GatewayError as error:
                    if error.retryable:
                        raise
                    yield error
            found = self._index.deletions.remains(scope, found[-1].number, _REMAINS_AT_ONCE)

    def _restore(self, remains: Remains) -> Receipt:
        """Store an object that lost its row by the way of every other, once its bytes are known to be unchanged. What
        policies wanted with it was done when it came.
        """
        uid = remains.scope.sop_instance_uid
        try:
            blob = self._objects.open(remains.key)
        except NotFound as error:
            raise CorruptObject("The object of a deleted instance is missing", uid=uid) from error
        with blob, self.spool() as spool:
            for start in range(0, blob.size_bytes, CHUNK_BYTES):
                spool.write(blob.read(start, min(blob.size_bytes, start + CHUNK_BYTES)))
            said = parts_of(remains.key)
            if said is None or spool.digest != said.digest:
                raise CorruptObject("The object of a deleted instance is damaged", uid=uid)
            provenance = provenance_of(self._objects.stat(remains.key))
            return self.adopt(spool, replace(provenance, source=remains.source))

    def hold(self, scope: Scope) -> None:
        """Keep a resource from being deleted or replaced, and from being collected where it was. Raises NotFound.

        The journal hears of it before anybody is told, so that it is on hold after a rebuild.
        """
        if self._index.extent(scope) is None and not self._index.deletions.remains(scope, 0, 1):
            self._raise_absent(scope)
        self._journal.held(self._index.deletions.hold(scope))

    def release(self, scope: Scope) -> None:
        """End a hold. Raises NotFound when there is none on this very resource. Asking again finishes one that was cut
        off.
        """
        held = next((one for one in self.holds() if one.scope == scope), None)
        if held is None:
            raise NotFound("There is no hold on this resource")
        self._journal.released(held)
        self._index.deletions.release(scope)

    def holds(self) -> Sequence[Hold]:
        """All holds, the oldest first."""
        return self._index.deletions.holds()

    def deletions(self, after: int, limit: int) -> Sequence[Deletion]:
        """What was deleted, behind a number."""
        return self._index.deletions.listed(after, limit)

    def collect(self, grace_days: float) -> Collected:
        """Remove some of the objects whose instances were deleted longer ago than the grace period.

        Any number may do it at once, and be killed at any moment. An object that a row refers to is never removed, nor
        one on hold: see ``storage.index.tombstones``.
        """
        before = dt.datetime.now(dt.UTC) - dt.timedelta(days=grace_days)
        looked_at = self._index.deletions.spend(before, _COLLECTED_AT_ONCE)
        keys = self._index.deletions.spent(_COLLECTED_AT_ONCE)
        if not keys:
            return Collected(has_more=looked_at > 0)
        sizes = [self._remove(key) for key, _ in keys]
        self._index.deletions.collected(keys)
        return Collected(sum(size > 0 for size in sizes), sum(sizes), has_more=True)

    def _remove(self, key: str) -> int:
        """Remove an object whose key was given up; its bytes, 0 where it was gone already."""
        try:
            size_bytes = self._objects.size_bytes(key)
        except NotFound:
            return 0
        self._objects.delete(key)
        return size_bytes

    def sweep(self) -> int:
        """Remove what stores that were cut off more than a day ago have left; returns how many files (R12)."""
        return sweep(self._objects.spool_directory, idle_seconds=_ABANDONED_SECONDS)

    def changes(self, after: int, limit: int) -> Sequence[Change]:
        """The change feed behind a sequence number (R11)."""
        return self._index.changes(after, limit)

    def latest(self) -> int:
        """The sequence of the last change; 0 while there is none."""
        return self._index.latest()

    def note_stable(self, now: int, due: int) -> bool:
        """Note which series and studies have come to rest. See ``Index.note_stable``."""
        return self._index.note_stable(now, due)

    @property
    def subscribers(self) -> Subscribers:
        """Who is told of changes."""
        return self._index.subscribers

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

    def _raise_absent(self, scope: Scope) -> NoReturn:
        uid = scope.sop_instance_uid or scope.series_instance_uid or scope.study_instance_uid
        raise (Gone if self._index.is_deleted(scope) else NotFound)(uid=uid)

    def close(self) -> None:
        """Finish what is queued and let go of index and store."""
        self.ledger.close()
        self._index.close()


def _reception(spool: Spool, data_set: DataSet, source: Source) -> Reception:
    return reception_of(spool.announcement, source, data_set.json, spool.size_bytes)


def _chain(first: Document | None, rest: Iterator[Document]) -> Iterator[Document]:
    if first is not None:
        yield first
    yield from rest
