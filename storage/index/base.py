"""The seam to rows: Index. A cache of the objects and the only arbiter between writers (D1, R13)."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from typing import Protocol

from storage.commitment import Commitment
from storage.matching import Query
from storage.model import (
    ON_DEFAULT_TERMS,
    Answer,
    Burial,
    Change,
    Coerced,
    Deletion,
    Delivery,
    Document,
    Entry,
    Extent,
    Hold,
    Instance,
    Kept,
    Lined,
    Parcel,
    Pending,
    Progress,
    Receipt,
    Remains,
    Scope,
    Source,
    Subscriber,
    Terms,
    Undelivered,
    Version,
)

OPERATOR = Source("operator")


class OtherKey(Exception):  # noqa: N818 - no failure: where to go on
    """The object of an entry has to be kept under another key, ``key``; nothing was written."""

    def __init__(self, key: str) -> None:
        super().__init__()
        self.key = key


class Deletions(Protocol):
    """What was deleted, and what may not be. Thread-safe, for any number of processes.

    An object whose instance was deleted is *kept*, and its tombstone has its key, until that is *spent*; then it may be
    removed at any moment, and is never the key of a row again.
    """

    def listed(self, after: int, limit: int) -> Sequence[Deletion]:
        """Deletions behind a number, ascending."""
        ...

    def remains(self, scope: Scope, after: int, limit: int) -> Sequence[Remains]:
        """Objects that are kept of what was deleted under ``scope``, behind a number: instances in the order in which
        they were stored, before what came later under their UIDs.
        """
        ...

    def hold(self, scope: Scope) -> Hold:
        """Let nobody delete or replace a resource, nor anything above or below it, and collect nothing of it; until
        ``release``. One that is there already stays.

        It is durable on return; deletions that are under way end before it, or are refused.
        """
        ...

    def release(self, scope: Scope) -> bool:
        """End a hold. False when there is none on this very resource."""
        ...

    def holds(self) -> Sequence[Hold]:
        """All holds, the oldest first."""
        ...

    def spend(self, before: dt.datetime, limit: int) -> int:
        """Give up the keys of objects that were deleted before a time, in one durable transaction; returns how many
        tombstones were looked at, at most ``limit``. Those on hold stay, and so does every object that a row refers to.
        """
        ...

    def spent(self, limit: int) -> Sequence[tuple[str, int]]:
        """Keys that were given up and whose objects may still be there, each with how often that was."""
        ...

    def collected(self, keys: Sequence[tuple[str, int]]) -> None:
        """Say that objects were removed, after they were read from ``spent``; not of those that a store has put there
        meanwhile.
        """
        ...


class Outbox(Protocol):
    """What is still to be done with what was stored, by route, whose name is any text: to be sent to a peer, say.

    Thread-safe, for any number of processes. It holds scopes by their SOP Instance UID; who is concerned with series
    puts their UID there.
    """

    def place(self, route: str) -> int:
        """The sequence of the change up to which a route has been followed; a new one begins at the end of the feed."""
        ...

    def advance(self, route: str, after: int, to: int, scopes: Sequence[Scope], due: int) -> bool:
        """Put instances in and move the place of a route from ``after`` to ``to``, in one durable transaction.

        due: seconds since 1970 from which on they may be sent. False, with nothing done, when the place is not
        ``after`` any more: somebody else has been there.
        """
        ...

    def take(self, route: str, now: int, until: int, limit: int) -> Sequence[Parcel]:
        """Some of what is due, the longest due first; nobody is given it again before ``until``."""
        ...

    def settle(self, route: str, done: Sequence[str], later: Mapping[str, int]) -> None:
        """Take out what was done, by SOP Instance UID, and say when the others are due again.

        What was put in once more since it was taken stays, due as it was put in.
        """
        ...

    def count(self, route: str) -> int:
        """How many instances a route has still to send."""
        ...


class IndexUpkeep(Protocol):
    """The rows as those see them who look after the archive: all of them in batches, and their repair. Thread-safe."""

    def kept(self, after: int, limit: int, *, with_documents: bool) -> Sequence[Kept]:
        """The next rows of instances behind one, ascending; with what was derived at ingest, if that is asked for."""
        ...

    def rivals(self, after: int, limit: int) -> Sequence[Kept]:
        """The same of other bytes that came under the UID of an instance (R5)."""
        ...

    def has_rivals(self, instance: Instance) -> bool:
        """Whether other bytes are kept under the UID of an instance."""
        ...

    def known(self, keys: Iterable[str], *, with_deleted: bool = True) -> frozenset[str]:
        """Those of some keys that a row has: of an instance, of a rival, or of one that was deleted and whose object
        may still be there.
        """
        ...

    def keys_under(self, scope: Scope) -> Sequence[str]:
        """The keys of all that a deletion of a resource would take away: of its instances and their rivals."""
        ...

    def burials(self, scope: Scope) -> Iterator[Burial]:
        """The last deletion of exactly that resource, some of what it took at a time; none if it never was deleted."""
        ...

    def deletions(self, instance: Instance) -> Sequence[str]:
        """When that object of an instance was deleted, each time, unless its key was given up since; see
        ``Burial.deleted_at``.
        """
        ...

    def miscounted(self, after: int, limit: int) -> tuple[int, int, Sequence[Scope]]:
        """Of the next studies behind a row the last row, how many they are, and those whose counts or lists, or those
        of their series, are not what their rows say, or that have nothing in them.
        """
        ...

    def is_empty(self) -> bool:
        """Whether nothing was ever stored."""
        ...

    def last_row(self) -> int:
        """The last row of an instance, 0 without any: up to there ``kept`` goes."""
        ...

    def last_change(self) -> int:
        """The last sequence number of the change feed, 0 without any."""
        ...

    def recount(self, scope: Scope) -> None:
        """Have a study and its series say what their rows say; those without instances go."""
        ...

    def derive(self, entry: Entry) -> bool:
        """Write anew what was derived of an instance; False when no row has that object. Study and series stay."""
        ...

    def drop(self, row: int) -> None:
        """Remove a row of ``kept`` that has lost its parents. Its object stays, without a row."""
        ...

    def load(self, received: Sequence[tuple[Entry, str]]) -> Sequence[Receipt]:
        """``Index.add`` for several entries, in one transaction, each as though it came at its time (ISO 8601)."""
        ...

    def make_current(self, entry: Entry, at: str) -> Receipt:
        """Let an entry be the current version of its instance, as though it became that at a time (ISO 8601)."""
        ...

    def bury(self, burial: Burial, given_up: Collection[str]) -> None:
        """``Index.delete`` as it was once done: with the tombstones of then, also of what is not there any more.

        given_up: those keys of it under which nothing may be looked for; see ``Deletions``.
        """
        ...

    def put_holds(self, holds: Sequence[Hold]) -> None:
        """Have these holds and no others."""
        ...

    def begin_feed_after(self, sequence: int) -> None:
        """Number the changes of an index that was just built from a sequence on; of one that is further, nothing."""
        ...

    def routes(self) -> Sequence[str]:
        """The routes that are followed; see ``Outbox``."""
        ...

    def pending(self, after: tuple[str, str], limit: int) -> Sequence[Pending]:
        """What is still to be sent behind a route and SOP Instance UID, ascending by them."""
        ...

    def put_pending(self, routes: Sequence[str], pending: Sequence[Pending]) -> None:
        """Have routes go on at the end of the feed, so that nothing is sent once more, with what they had to send."""


class Commitments(Protocol):
    """Requests for storage commitment, until they are answered and a while longer. Thread-safe, for any number of
    processes. Moments are seconds since 1970.
    """

    def ask(self, commitment: Commitment, due: int, *, forget_before: int, most: int) -> None:
        """Keep a request, to be answered from ``due`` on, in one durable transaction.

        What was answered before ``forget_before`` is forgotten, and of what was answered later the oldest where more
        than ``most`` references would be kept. Raises TransactionInUse where the UID is known, Overloaded where too
        much is still to be answered; then nothing is done.
        """
        ...

    def get(self, transaction_uid: str) -> Commitment | None:
        """The request of that UID with its answer, unless it is forgotten."""
        ...

    def take(self, now: int, until: int, limit: int) -> Sequence[Parcel]:
        """Some of what is due, the Transaction UID in the place of a SOP Instance UID; nobody is given it again
        before ``until``.
        """
        ...

    def claim(self, transaction_uid: str, due: int, until: int) -> bool:
        """Let a request that is due at ``due`` be due at ``until``; False where somebody has taken it meanwhile."""
        ...

    def put_off(self, transaction_uid: str, due: int) -> None:
        """Say when a request that is still to be answered is due; nothing otherwise."""
        ...

    def answer(self, transaction_uid: str, now: int, reasons: Sequence[int]) -> None:
        """Keep the answer for whoever comes for it; nothing is to be done any more. The first answer stays."""
        ...

    def close(self, transaction_uid: str, now: int) -> None:
        """Forget the references of a request about which nothing is to be done any more; its UID stays known."""
        ...

    def count(self) -> int:
        """How many requests are still to be answered."""


class Subscribers(Protocol):
    """Who is told of changes, each in the order of the feed, by name, which is any text.

    Thread-safe, for any number of processes. Times are seconds since 1970. A subscriber is told of one stretch of the
    feed at a time, which stays the same however often it is tried; whoever takes it has it for himself until it is due.
    """

    def all(self) -> Sequence[Subscriber]:
        """Everybody there is, by name."""
        ...

    def find(self, name: str) -> Subscriber:
        """One of them; a new one begins at the end of the feed."""
        ...

    def skip(self, known: Subscriber, to: int) -> bool:
        """Move on to the change ``to``, as there is nothing to be told up to there. False: somebody was there."""
        ...

    def take(self, known: Subscriber, until: int, due: int) -> Subscriber | None:
        """Begin to tell of the changes up to ``until``; nobody else does before ``due``. None: somebody else has it."""
        ...

    def told(self, taken: Subscriber) -> None:
        """What was taken has been told."""
        ...

    def put_off(self, taken: Subscriber, now: int, due: int, *, is_refused: bool) -> None:
        """It could not be told, or was refused; it is to be tried again from ``due`` on."""
        ...

    def give_up(self, taken: Subscriber, reason: str, now: int) -> None:
        """It could not be told, and is laid aside, so that what comes behind it may be."""
        ...

    def undelivered(self, limit: int) -> Sequence[Undelivered]:
        """What was laid aside, the oldest first."""
        ...

    def count_undelivered(self, name: str) -> int:
        """How much was laid aside of one subscriber."""
        ...

    def take_again(self, name: str, now: int, due: int) -> Undelivered | None:
        """Begin to tell once more of something laid aside that is to be retried; nobody else does before ``due``."""
        ...

    def settle(self, taken: Undelivered, failure: str) -> None:
        """What was taken again has been told, or with a failure is laid aside again."""
        ...

    def retry(self, ids: Sequence[int] | None, now: int) -> int:
        """Have that tried once more which was laid aside; for None all of it, and whoever waits.

        Returns how many there were.
        """
        ...

    def drop(self, ids: Sequence[int] | None) -> int:
        """Forget what was laid aside, for None all of it. Returns how much there was."""
        ...

    def forget(self, name: str) -> bool:
        """Forget a subscriber and what was laid aside of it: a new one of that name begins at the end of the feed."""


class Deliveries(Protocol):
    """Lines of the ingest ledger. Thread-safe, for any number of processes."""

    def record(self, deliveries: Sequence[Delivery]) -> None:
        """Write a line for each, in one durable transaction; one that is known by its key is written anew."""
        ...

    def find(
        self, *, since: str = "", calling_ae: str = "", failed: bool = False, study: str = "", limit: int = 1000
    ) -> Sequence[Delivery]:
        """Lines, the newest first.

        since: those to which something came at that time (UTC, as ``Delivery.last_at``) or later. failed: those of
        which something was refused. study: those that brought an instance of that study, then with its outcomes;
        without it lines have no ``studies``.
        """
        ...

    def prune(self, before: str, maximum_rows: int) -> None:
        """Remove lines to which nothing came since ``before``, and the oldest of more than so many."""
        ...


class Index(Protocol):
    """Rows by query. Thread-safe; several processes may share one. Foreign errors become StorageUnavailable.

    What ``add`` acknowledged is found by the very next ``search`` of any process (Q27); counts always equal the
    rows (Q28), because they change in the same transaction.
    """

    @property
    def outbox(self) -> Outbox:
        """What is still to be sent to peers."""
        ...

    @property
    def deletions(self) -> Deletions:
        """What was deleted, and what may not be."""
        ...

    @property
    def upkeep(self) -> IndexUpkeep:
        """The rows as those see them who look after the archive."""
        ...

    @property
    def commitments(self) -> Commitments:
        """Requests for storage commitment."""
        ...

    @property
    def subscribers(self) -> Subscribers:
        """Who is told of changes."""
        ...

    @property
    def deliveries(self) -> Deliveries:
        """What came in, by whom and how."""
        ...

    def add(self, entry: Entry, terms: Terms = ON_DEFAULT_TERMS) -> Receipt:
        """Insert the instance, its parents, its counts and one change, in one durable transaction; then return.

        Waits for its own commit, which others may share (D14, R6). Raises Overloaded when the queue of stores is
        full. An instance that is there already stays (R4, R5): same digest and transfer syntax give DUPLICATE, the
        same SOP Instance UID of the same series in another transfer syntax VARIANT, everything else CONFLICT; the
        last two keep a row of the loser's object, and the receipt names the instance that stays current. Study and
        series keep the first value of each attribute that is not empty; a patient that differs from it is a warning
        of the receipt.

        By its terms a variant or conflict becomes current (REPLACED), and the version before it is kept beside it; or
        a conflict raises InstanceConflict. QuotaExceeded is raised when the quota has no room for bytes that are not
        kept yet. Bytes that were coerced when they came before are the very same as they came.

        Raises OnHold when what would be replaced is on hold, and OtherKey, with nothing written, where the object has
        to be under another key first: the one that a row for the same bytes has, or a new one where that of the entry
        was given up.
        """
        ...

    def foresee(self, entry: Entry, terms: Terms) -> None:
        """Raise what ``add`` would raise now by the terms, so that no object is made in vain. Promises nothing."""
        ...

    def versions(self, sop_instance_uid: str) -> Sequence[Version]:
        """Every version of an instance: the current one, then the others, latest first. Empty when there is none."""
        ...

    def coerced(self, sop_instance_uid: str, transfer_syntax_uid: str, digest: str) -> Coerced | None:
        """How bytes of that digest were coerced when they came before; None when they were not."""
        ...

    def find(self, sop_instance_uids: Sequence[str]) -> Mapping[str, Instance]:
        """The current instances of those UIDs, wherever they are, by UID; some thousands of them in one statement."""
        ...

    def search(self, query: Query) -> Sequence[Answer]:
        """Matches in a total, stable order, cut by the query's limit and offset. PS3.18 §10.6, PS3.4 §C.4.1"""
        ...

    def search_json(self, query: Query, url_of: Callable[[Scope], str]) -> Sequence[str]:
        """The same matches, for a study or below, each as the text of a JSON object: what ``search`` says of it and
        its Retrieve URL, made by ``url_of``; tags and keys ascending. Cheap where nothing is asked for beyond what
        answers may hold by default (D5).
        """
        ...

    def search_lines(self, query: Query, tags: Sequence[str]) -> Lined:
        """The same matches as the texts of some of their elements, cheap like ``search_json``."""
        ...

    def instances(self, scope: Scope) -> Sequence[Instance]:
        """All instances under ``scope``, by series, then Instance Number, then UID. Empty when there are none."""
        ...

    def documents(self, scope: Scope) -> Iterator[Document]:
        """The same instances in the same order with what was derived at ingest; streamed, in constant memory."""
        ...

    def thumbnail(self, sop_instance_uid: str, name: str) -> bytes | None:
        """The picture that was kept of an instance under that name, if it still is."""
        ...

    def keep_thumbnail(self, sop_instance_uid: str, name: str, picture: bytes) -> None:
        """Keep a picture of an instance, one at a time, as long as the instance is there. Not if it is not."""
        ...

    def is_deleted(self, scope: Scope) -> bool:
        """Whether the resource is known to have been deleted (and is not there again)."""
        ...

    def extent(self, scope: Scope) -> Extent | None:
        """How much there is under ``scope``; None when there is nothing."""
        ...

    def delete(self, scope: Scope, by: Source = OPERATOR, *, per_minute: int = 0) -> Extent | None:
        """Remove the rows under ``scope``: tombstones, counts, changes, and who did it, in one transaction (R9).

        Returns how much was removed, None when there was nothing; parents that are left empty go, too. One change
        names the scope. The objects, those of rivals as well, stay for whoever collects them, with their keys in the
        tombstones. Memory does not grow with the number of instances. per_minute: how often the same address may
        delete by the same door; 0 for any. Raises OnHold or RateLimited, with nothing removed.
        """
        ...

    def changes(self, after: int, limit: int) -> Sequence[Change]:
        """Changes with a sequence greater than ``after``, ascending (R11)."""
        ...

    def latest(self) -> int:
        """The sequence of the last change; 0 while there is none."""
        ...

    def note_stable(self, now: int, due: int) -> bool:
        """Note in the feed which series and studies have come to rest; whether there may be more to do.

        now: seconds since 1970. due: when what something has happened to since the last call may be called stable. Each
        is noted once, until something happens to it again; any number of processes may call it, and be killed (R11).
        """
        ...

    def index_extended(self) -> Progress:
        """Index the next instances for extended attributes that do not have them yet, in one durable transaction.

        Until nothing is left, a search by such an attribute raises BadQuery. Any number of processes may call it, and
        be killed at any moment. Raises CorruptObject for an instance whose metadata cannot be read.
        """
        ...

    def incomplete(self) -> frozenset[str]:
        """The tags of extended attributes that are not indexed throughout, and so not returned by every answer."""
        ...

    def close(self) -> None:
        """Finish what is queued and let go of every connection."""
        ...
