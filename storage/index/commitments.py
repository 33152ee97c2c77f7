"""Requests for storage commitment in the rows of an index, each with its place in the outbox until it is answered.

Row and place are written in one transaction, so a request that was acknowledged is answered, whoever is killed; and
so is the end of it, so nobody is told twice of what was written down as told.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from storage.commitment import Commitment, pack_reasons, pack_references, unpack_reasons, unpack_references
from storage.errors import GatewayError, Overloaded, TransactionInUse
from storage.index.batch import Batch
from storage.index.committer import Committer
from storage.index.engine import Connection, Engine
from storage.index.outbox import RelationalOutbox, put
from storage.model import Parcel, Scope, Source

_Result = TypeVar("_Result")

OUTBOX = "\\commitments"  # no route of an operator: an AE title has no backslash
OWN_WEIGHT = 100
"""References that a request counts for beside its own, so that many small ones are bounded, too."""

_FORGET = "DELETE FROM commitment WHERE answered_at < ?"
_WEIGHTS = (
    "SELECT coalesce(sum(weight), 0), coalesce(sum(CASE WHEN answered_at IS NULL THEN weight END), 0) FROM commitment"
)
_OLDEST = (
    "SELECT transaction_uid, weight FROM commitment WHERE answered_at IS NOT NULL "
    "ORDER BY answered_at, weight LIMIT 1000"
)
_REMOVE = "DELETE FROM commitment WHERE transaction_uid = ?"
_IS_THERE = "SELECT 1 FROM commitment WHERE transaction_uid = ?"
_INSERT = (
    "INSERT INTO commitment (transaction_uid, door, calling_ae, address, requested_at, weight, reference) "
    "VALUES (?, ?, ?, ?, ?, ?, ?)"
)
_GET = "SELECT reference, door, calling_ae, address, requested_at, reason FROM commitment WHERE transaction_uid = ?"
_PUT_OFF = "UPDATE outbox SET due = ? WHERE route = ? AND sop_instance_uid = ?"
_CLAIM = _PUT_OFF + " AND due = ?"
_TAKE_OUT = "DELETE FROM outbox WHERE route = ? AND sop_instance_uid = ?"
_ANSWER = "UPDATE commitment SET answered_at = ?, reason = ? WHERE transaction_uid = ? AND answered_at IS NULL"
_CLOSE = (
    "UPDATE commitment SET answered_at = ?, weight = ?, reference = ? WHERE transaction_uid = ? AND answered_at IS NULL"
)


class RelationalCommitments:
    """``storage.index.base.Commitments`` in the database of an index. See there for the promises."""

    def __init__(self, engine: Engine, committer: Committer[Batch], outbox: RelationalOutbox) -> None:
        self._engine = engine
        self._committer = committer
        self._outbox = outbox

    def ask(self, commitment: Commitment, due: int, *, forget_before: int, most: int) -> None:
        """See ``Commitments.ask``."""
        uid, source = commitment.transaction_uid, commitment.source
        weight = len(commitment.references) + OWN_WEIGHT
        packed = pack_references(commitment.references)
        row = (uid, source.door, source.calling_ae, source.address, commitment.requested_at, weight, packed)

        def keep(connection: Connection) -> GatewayError | None:
            connection.execute(_FORGET, (forget_before,))
            if connection.execute(_IS_THERE, (uid,)).fetchone():
                return TransactionInUse(uid=uid)
            if not _make_room(connection, weight, most):
                return Overloaded("Too many requests for storage commitment wait for their answers")
            connection.execute(_INSERT, row)
            put(connection, OUTBOX, [Scope("", "", uid)], due)
            return None

        refusal = self._write(keep)  # not raised within, where it would cost the connection
        if refusal is not None:
            raise refusal

    def get(self, transaction_uid: str) -> Commitment | None:
        """See ``Commitments.get``."""
        with self._engine.reading() as connection:
            row = connection.execute(_GET, (transaction_uid,)).fetchone()
        if row is None:
            return None
        packed, *source, requested_at, reasons = row
        return Commitment(
            transaction_uid,
            unpack_references(bytes(packed)) if packed else (),
            Source(*source),
            requested_at,
            None if reasons is None else unpack_reasons(bytes(reasons)),
        )

    def take(self, now: int, until: int, limit: int) -> Sequence[Parcel]:
        """See ``Commitments.take``."""
        return self._outbox.take(OUTBOX, now, until, limit)

    def claim(self, transaction_uid: str, due: int, until: int) -> bool:
        """See ``Commitments.claim``."""
        return self._write(
            lambda connection: connection.execute(_CLAIM, (until, OUTBOX, transaction_uid, due)).rowcount == 1
        )

    def put_off(self, transaction_uid: str, due: int) -> None:
        """See ``Commitments.put_off``."""

        def write(connection: Connection) -> None:
            connection.execute(_PUT_OFF, (due, OUTBOX, transaction_uid))

        self._write(write)

    def answer(self, transaction_uid: str, now: int, reasons: Sequence[int]) -> None:
        """See ``Commitments.answer``."""
        self._finish(transaction_uid, _ANSWER, (now, pack_reasons(reasons), transaction_uid))

    def close(self, transaction_uid: str, now: int) -> None:
        """See ``Commitments.close``."""
        self._finish(transaction_uid, _CLOSE, (now, OWN_WEIGHT, b"", transaction_uid))

    def _finish(self, transaction_uid: str, text: str, parameters: Sequence[Any]) -> None:
        def write(connection: Connection) -> None:
            connection.execute(text, parameters)
            connection.execute(_TAKE_OUT, (OUTBOX, transaction_uid))

        self._write(write)

    def count(self) -> int:
        """See ``Commitments.count``."""
        return self._outbox.count(OUTBOX)

    def _write(self, act: Callable[[Connection], _Result]) -> _Result:
        return self._committer.run(lambda batch: batch.apart(act))


def _make_room(connection: Connection, weight: int, most: int) -> bool:
    """Forget the oldest answers until there is room; False, with nothing done, where they would not make enough."""
    kept, waiting = map(int, connection.execute(_WEIGHTS).fetchone())
    if waiting + weight > most:
        return False
    while kept + weight > most:
        for uid, weight_of_oldest in connection.execute(_OLDEST).fetchall():
            if kept + weight <= most:
                break
            connection.execute(_REMOVE, (uid,))
            kept -= weight_of_oldest
    return True
