"""The seam to rows: Index. A cache of the objects and the only arbiter between writers (D1, R13)."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Protocol

from storage.matching import Query
from storage.model import Answer, Change, Delivery, Document, Entry, Instance, Lined, Parcel, Progress, Receipt, Scope


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
    def deliveries(self) -> Deliveries:
        """What came in, by whom and how."""
        ...

    def add(self, entry: Entry) -> Receipt:
        """Insert the instance, its parents, its counts and one change, in one durable transaction; then return.

        Waits for its own commit, which others may share (D14, R6). Raises Overloaded when the queue of stores is
        full. An instance that is there already stays (R4, R5): same digest and transfer syntax give DUPLICATE, the
        same SOP Instance UID of the same series in another transfer syntax VARIANT, everything else CONFLICT; the
        last two keep a row of the loser's object, and the receipt names the instance that stays current. Study and
        series keep the first value of each attribute that is not empty; a patient that differs from it is a warning
        of the receipt.
        """
        ...

    def find(self, sop_instance_uid: str) -> Instance | None:
        """The current instance of that UID, wherever it is."""
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

    def delete(self, scope: Scope) -> Sequence[Instance]:
        """Remove the rows under ``scope``: tombstones, counts and changes in one transaction (R9).

        Returns what was removed, empty when there was nothing; parents that are left empty go, too. One change names
        the scope. The objects, those of rivals as well, stay for whoever collects them, with their keys in the
        tombstones.
        """
        ...

    def changes(self, after: int, limit: int) -> Sequence[Change]:
        """Changes with a sequence greater than ``after``, ascending (R11)."""
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
