"""Session: the archive as one Actor may see it. Every door goes through it, so permission exists once (D6)."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache

from gateway import metrics
from gateway.security.actor import Actor, Verb
from storage.archive import Archive
from storage.attachments import Attachments
from storage.commitment import Commitment, Reason, Reference
from storage.errors import GatewayError, NotFound, uid_digest
from storage.filemeta import Announcement
from storage.index.base import Commitments, Outbox, Subscribers
from storage.ledger import Account
from storage.matching import Query
from storage.model import (
    Answer,
    Change,
    Deletion,
    Delivery,
    Document,
    Extent,
    Hold,
    Instance,
    Lined,
    Receipt,
    Refusal,
    Scope,
    Source,
    Version,
)
from storage.policy import Policy
from storage.quarantine import Quarantine
from storage.spool import Spool
from storage.stored import StoredDataSet

logger = logging.getLogger(__name__)

_DAMAGED_LINES = 20
MAXIMUM_SET_ASIDE = 1000
"""Of one delivery, so that nobody fills the quarantine in one go. The others are counted."""


class Session:
    """One Actor's view of the archive. Cheap to make; thread-safe. Each call raises Forbidden unless permitted."""

    def __init__(self, archive: Archive, actor: Actor) -> None:
        self._archive = archive
        self.actor = actor

    def spool(self, announcement: Announcement | None = None, *, keeps_foreign: bool = False) -> Spool:
        """A place to collect one instance. See ``Archive.spool``."""
        self.actor.permit(Verb.STORE)
        return self._archive.spool(announcement, keeps_foreign=keeps_foreign)

    def account(self, source: Source, called_ae: str = "") -> Account:
        """A line of the ingest ledger for what somebody begins to bring. What is refused counts there, too."""
        return self._archive.ledger.open(source, called_ae)

    def keeps(self, account: Account, error: BaseException, spool: Spool) -> bool:
        """Whether what is refused with this error would be put into quarantine."""
        quarantine = self._archive.quarantine
        return quarantine is not None and account.set_aside < MAXIMUM_SET_ASIDE and quarantine.wants(spool, error)

    def refuse(
        self,
        account: Account,
        error: BaseException,
        status: int,
        spool: Spool | None = None,
        *,
        announced: Announcement | None = None,
        study_instance_uid: str = "",
    ) -> None:
        """Count an instance that its sender is about to be told was refused, and keep its bytes if that may help.

        status: what the sender is told. spool: of no more use after this. announced: what the sender said, if it is not
        what the spool was made for. study_instance_uid: that the request named. Raises nothing: the sender is told the
        same, whether it is kept or not.
        """
        account.note_failure(type(error).__name__)
        quarantine = self._archive.quarantine
        if spool is None or quarantine is None or not self.keeps(account, error, spool):
            return
        said = announced or _said(spool)
        identity = quarantine.keep(
            spool,
            Refusal(
                source=account.source,
                called_ae=account.called_ae,
                delivery=account.key,
                error=type(error).__name__,
                reason=error.reason if isinstance(error, GatewayError) else "The gateway failed at it",
                tag=error.tag if isinstance(error, GatewayError) else "",
                status=status,
                sop_class_uid=said.sop_class_uid,
                sop_instance_uid=said.sop_instance_uid,
                transfer_syntax_uid=said.transfer_syntax_uid,
                is_announced=spool.is_announced,
                study_instance_uid=study_instance_uid,
            ),
        )
        metrics.QUARANTINE.labels("kept" if identity else "not_kept").inc()
        if identity:
            account.set_aside += 1
            usage = quarantine.usage()
            metrics.note_quarantine(usage.count, usage.size_bytes)

    def deliveries(
        self, *, since: str = "", calling_ae: str = "", failed: bool = False, study: str = "", limit: int = 1000
    ) -> Sequence[Delivery]:
        """Lines of the ingest ledger, the newest first. See ``Deliveries.find``."""
        self.actor.permit(Verb.SEARCH)
        return self._archive.ledger.find(since=since, calling_ae=calling_ae, failed=failed, study=study, limit=limit)

    @property
    def quarantine(self) -> Quarantine:
        """What was refused and kept, for the operator. Raises NotFound where nothing is ever kept."""
        for verb in (Verb.SEARCH, Verb.RETRIEVE, Verb.DELETE):
            self.actor.permit(verb)
        if self._archive.quarantine is None:
            raise NotFound("There is no quarantine")
        return self._archive.quarantine

    def attachments(self, *, maximum_bytes: int) -> Attachments:
        """A place for bulk data until the instances that refer to it are written. See ``Archive.attachments``."""
        self.actor.permit(Verb.STORE)
        return self._archive.attachments(maximum_bytes=maximum_bytes)

    def store(self, spool: Spool, source: Source, *, study_instance_uid: str = "") -> Receipt:
        """Keep the instance; on return it is durable. See ``Archive.store``."""
        self.actor.permit(Verb.STORE)
        started = time.perf_counter()
        outcome = "failed"
        try:
            receipt = self._archive.store(spool, source, study_instance_uid=study_instance_uid)
            outcome = receipt.outcome.value
        except GatewayError as error:
            outcome = type(error).__name__
            raise
        finally:
            count, observe, add_bytes = _figures(source.door, outcome)
            count()
            observe(time.perf_counter() - started)
        add_bytes(spool.size_bytes)
        for warning in receipt.warnings:
            metrics.INGEST_DEVIATIONS.labels(source.door, warning).inc()
        return receipt

    def policy(self, source: Source) -> Policy:
        """On what terms instances of a source are taken, if the Actor may store any. Anybody may know."""
        return self._archive.policy(source)

    def versions(self, sop_instance_uid: str) -> Sequence[Version]:
        """All that came under a SOP Instance UID, the current version first. Raises NotFound."""
        self.actor.permit(Verb.RETRIEVE)
        return self._archive.versions(sop_instance_uid)

    def make_current(self, version: Version) -> Receipt:
        """Let a version take the place of the current one, which takes that out of sight. See ``Archive``."""
        self.actor.permit(Verb.STORE)
        self.actor.permit(Verb.DELETE)
        return self._archive.make_current(version)

    def search(self, query: Query) -> Sequence[Answer]:
        """Matches of a query among what the Actor may see."""
        self.actor.permit(Verb.SEARCH)
        return self._archive.search(query)

    def search_json(self, query: Query, url_of: Callable[[Scope], str]) -> Sequence[str]:
        """The same as JSON texts. See ``Index.search_json``."""
        self.actor.permit(Verb.SEARCH)
        return self._archive.search_json(query, url_of)

    def search_lines(self, query: Query, tags: Sequence[str]) -> Lined:
        """The same as texts of elements. See ``Index.search_lines``."""
        self.actor.permit(Verb.SEARCH)
        return self._archive.search_lines(query, tags)

    def incomplete(self) -> frozenset[str]:
        """The tags of extended attributes that are not returned by every answer yet."""
        self.actor.permit(Verb.SEARCH)
        return self._archive.incomplete()

    def instances(self, scope: Scope) -> Sequence[Instance]:
        """The instances of a resource, at least one. Raises NotFound or Gone."""
        self.actor.permit(Verb.RETRIEVE)
        return self._archive.instances(scope)

    def documents(self, scope: Scope) -> Iterator[Document]:
        """The instances of a resource with what was derived at ingest. Raises NotFound or Gone."""
        self.actor.permit(Verb.RETRIEVE)
        return self._archive.documents(scope)

    def document(self, scope: Scope) -> Document:
        """One instance with what was derived at ingest. Raises NotFound or Gone."""
        self.actor.permit(Verb.RETRIEVE)
        return self._archive.document(scope)

    def thumbnail(self, instance: Instance, name: str) -> bytes | None:
        """A picture of an instance that this session found, if one of that name is kept."""
        self.actor.permit(Verb.RETRIEVE)
        return self._archive.thumbnail(instance, name)

    def keep_thumbnail(self, instance: Instance, name: str, picture: bytes) -> None:
        """Keep a picture that was made of an instance. Nobody can tell it from one made anew."""
        self.actor.permit(Verb.RETRIEVE)
        self._archive.keep_thumbnail(instance, name, picture)

    def open(self, instance: Instance) -> StoredDataSet:
        """The bytes of an instance that this session found."""
        self.actor.permit(Verb.RETRIEVE)
        return self._archive.open(instance)

    def changes(self, after: int, limit: int) -> Sequence[Change]:
        """The change feed behind a sequence number."""
        self.actor.permit(Verb.SEARCH)
        return self._archive.changes(after, limit)

    def latest(self) -> int:
        """The sequence of the last change; 0 while there is none."""
        self.actor.permit(Verb.SEARCH)
        return self._archive.latest()

    @property
    def subscribers(self) -> Subscribers:
        """Who is told of changes."""
        self.actor.permit(Verb.SEARCH)
        return self._archive.subscribers

    @property
    def outbox(self) -> Outbox:
        """What is still to be sent to peers."""
        self.actor.permit(Verb.RETRIEVE)
        return self._archive.outbox

    @property
    def commitment_references_maximum(self) -> int:
        """Most references of one request for storage commitment."""
        return self._archive.commitment_references_maximum

    @property
    def commitments(self) -> Commitments:
        """Requests for storage commitment, of everybody who may store."""
        self.actor.permit(Verb.STORE)
        return self._archive.commitments

    def ask(self, commitment: Commitment, due: int) -> None:
        """Keep a request for storage commitment. See ``Archive.ask``."""
        self.actor.permit(Verb.STORE)
        self._archive.ask(commitment, due)
        metrics.COMMITMENTS.labels(commitment.source.door, "asked").inc()

    def commit(self, references: Sequence[Reference], door: str) -> Iterator[Reason]:
        """What can be said of each reference, in their order. See ``Archive.commit``.

        An instance that was acknowledged and cannot be committed to is an alert: a line at ERROR, and a figure.
        """
        self.actor.permit(Verb.STORE)
        return self._commit(references, door)

    def _commit(self, references: Sequence[Reference], door: str) -> Iterator[Reason]:
        damaged = 0
        for reference, reason in zip(references, self._archive.commit(references), strict=True):
            if reason is Reason.PROCESSING_FAILURE:
                damaged += 1
                metrics.INTEGRITY_FAILURES.labels(door).inc()
                if damaged <= _DAMAGED_LINES:
                    logger.error("commitment.damaged", extra={"uid_digest": uid_digest(reference.sop_instance_uid)})
            yield reason
        if damaged > _DAMAGED_LINES:
            logger.error("commitment.damaged", extra={"count": damaged})

    def extent(self, scope: Scope) -> Extent:
        """How much a resource is. Raises NotFound or Gone."""
        self.actor.permit(Verb.SEARCH)
        return self._archive.extent(scope)

    def delete(self, scope: Scope, by: Source | None = None, *, per_minute: int = 0) -> Extent:
        """Take a resource out of the archive. See ``Archive.delete``. by: through which door; else as the Actor."""
        self.actor.permit(Verb.DELETE)
        source = by or Source(self.actor.kind)
        removed = self._archive.delete(scope, source, per_minute=per_minute)
        metrics.DELETED_INSTANCES.labels(source.door).inc(removed.instances)
        return removed

    def undelete(self, scope: Scope) -> Iterator[Receipt | GatewayError]:
        """Store again what was deleted and is not collected yet. See ``Archive.undelete``."""
        self.actor.permit(Verb.DELETE)
        self.actor.permit(Verb.STORE)
        return self._archive.undelete(scope)

    def deletions(self, after: int, limit: int) -> Sequence[Deletion]:
        """What was deleted, behind a number."""
        self.actor.permit(Verb.DELETE)
        return self._archive.deletions(after, limit)

    def hold(self, scope: Scope) -> None:
        """Keep a resource from being deleted and collected. See ``Archive.hold``."""
        self.actor.permit(Verb.HOLD)
        self._archive.hold(scope)

    def release(self, scope: Scope) -> None:
        """End a hold. Raises NotFound when there is none."""
        self.actor.permit(Verb.HOLD)
        self._archive.release(scope)

    def holds(self) -> Sequence[Hold]:
        """All holds."""
        self.actor.permit(Verb.HOLD)
        return self._archive.holds()

    def check(self) -> None:
        """Whether the archive answers, for readiness. Raises StorageUnavailable."""
        self._archive.check()


def _said(spool: Spool) -> Announcement:
    try:
        return spool.announcement
    except GatewayError:
        return Announcement("", "", "")


@lru_cache(maxsize=64)
def _figures(door: str, outcome: str) -> tuple[Callable[[], None], Callable[[float], None], Callable[[float], None]]:
    """What counts a store, its time and its bytes."""
    return (
        metrics.INGEST_INSTANCES.labels(door, outcome).inc,
        metrics.INGEST_SECONDS.labels(door).observe,
        metrics.INGEST_BYTES.labels(door).inc,
    )
