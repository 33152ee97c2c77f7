"""The ingest ledger: what each association, STOW request and import run brought, counted while it goes on.

Counting is in memory, a few additions for an instance. A thread of this process, which is there while somebody
brings something, writes lines to the index: what has ended at once, but no more often than once a second and then
together; what goes on after a thousand instances or a minute. So whoever is killed takes at most that with it, and no
store and no answer ever waits for a line. An index that cannot be reached gets them later, as many as fit in memory.
"""

from __future__ import annotations

import datetime as dt
import logging
import secrets
import threading
import time
from collections import Counter, deque
from collections.abc import Sequence

from storage.errors import GatewayError
from storage.index.base import Deliveries
from storage.model import Delivery, Receipt, Source

logger = logging.getLogger("storage.ledger")

CHECKPOINT_INSTANCES = 1000
CHECKPOINT_SECONDS = 60.0
MAXIMUM_STUDIES = 1000
"""Of one delivery that are told apart; instances of more are counted with the others only."""
CUT_OFF = "CutOff"
"""Stands for the error of an instance whose end never came."""
CONNECTION_LOST = "connection lost"
"""The ending of who went away without a word."""
_TOGETHER_SECONDS = 1.0
_AFTER_FAILURE_SECONDS = 5.0
_MAXIMUM_WAITING = 10_000
_AT_ONCE = 500
_PRUNE_EVERY = 256
_CLOSE_SECONDS = 10.0


class Account:
    """What one delivery has brought so far. Thread-safe; made by ``Ledger.open``.

    key: names it. set_aside: instances of it that went to quarantine, which whoever puts them there counts.
    """

    def __init__(self, ledger: Ledger, source: Source, called_ae: str) -> None:
        self.key = secrets.token_hex(8)
        self.source = source
        self.called_ae = called_ae
        self.set_aside = 0
        self._ledger = ledger
        self._lock = threading.Lock()
        self._started_at = _now()
        self._ending = ""
        self._outcomes: Counter[str] = Counter()
        self._errors: dict[str, int] = {}
        self._studies: dict[str, Counter[str]] = {}
        self._size_bytes = 0
        self._count = 0
        self._written_count = 0
        self._written_at = time.monotonic()

    def note(self, receipt: Receipt, size_bytes: int) -> None:
        """Count an instance that was taken. size_bytes: of its Data Set."""
        outcome, study = receipt.outcome.value, receipt.instance.study_instance_uid
        with self._lock:
            self._outcomes[outcome] += 1
            self._size_bytes += size_bytes
            if study in self._studies or len(self._studies) < MAXIMUM_STUDIES:
                self._studies.setdefault(study, Counter())[outcome] += 1
            count = self._add_one()
        self._told(count)

    def note_failure(self, error: str) -> None:
        """Count an instance that was not. error: class of the error."""
        with self._lock:
            self._errors[error] = self._errors.get(error, 0) + 1
            count = self._add_one()
        self._told(count)

    def _add_one(self) -> int:
        self._count += 1
        return self._count

    def _told(self, count: int) -> None:
        if count == 1:
            self._ledger.begin(self)
        elif count % CHECKPOINT_INSTANCES == 0:
            self._ledger.wake()

    def close(self, ending: str) -> None:
        """Say that it is over, and how. Without an instance there will be no line. Once more does nothing."""
        with self._lock:
            if self._ending:
                return
            self._ending = ending
            is_line = self._count > 0
        if is_line:
            self._ledger.end(self)

    def is_due(self, now: float) -> bool:
        """Whether there is enough that is not written yet, at a time of ``time.monotonic``."""
        unwritten = self._count - self._written_count
        return unwritten >= CHECKPOINT_INSTANCES or (unwritten > 0 and now - self._written_at >= CHECKPOINT_SECONDS)

    def line(self) -> Delivery:
        """What there is to write now."""
        with self._lock:
            return Delivery(
                key=self.key,
                source=self.source,
                called_ae=self.called_ae,
                started_at=self._started_at,
                last_at=_now(),
                ending=self._ending,
                outcomes=dict(self._outcomes),
                size_bytes=self._size_bytes,
                errors=dict(self._errors),
                studies={study: dict(outcomes) for study, outcomes in self._studies.items()},
            )

    def written(self, line: Delivery) -> None:
        """Say that a line is on disk."""
        self._written_count = line.sent
        self._written_at = time.monotonic()


class Ledger:
    """Accounts of this process on their way to the index. Thread-safe.

    days, maximum_rows: lines that are older, or more, are removed.
    """

    def __init__(self, deliveries: Deliveries, *, days: int = 90, maximum_rows: int = 100_000) -> None:
        self._deliveries = deliveries
        self._days = days
        self._maximum_rows = maximum_rows
        self._changed = threading.Condition()
        self._open: dict[str, Account] = {}
        self._ended: deque[Account] = deque()
        self._writer: threading.Thread | None = None
        self._not_before = 0.0
        self._is_closing = False
        self._until_pruned = 0

    def open(self, source: Source, called_ae: str = "") -> Account:
        """An account of what somebody begins to bring. Close it."""
        return Account(self, source, called_ae)

    def find(
        self, *, since: str = "", calling_ae: str = "", failed: bool = False, study: str = "", limit: int = 1000
    ) -> Sequence[Delivery]:
        """Lines that are written. See ``Deliveries.find``."""
        return self._deliveries.find(since=since, calling_ae=calling_ae, failed=failed, study=study, limit=limit)

    def prune(self) -> None:
        """Remove lines that are too old or too many. Raises StorageUnavailable or Overloaded."""
        before = dt.datetime.now(dt.UTC) - dt.timedelta(days=self._days)
        self._deliveries.prune(before.isoformat(timespec="microseconds"), self._maximum_rows)

    # What accounts say

    def begin(self, account: Account) -> None:
        """An account has its first instance."""
        with self._changed:
            self._open[account.key] = account
            self._work()

    def end(self, account: Account) -> None:
        """An account with instances is closed."""
        with self._changed:
            self._open.pop(account.key, None)
            if len(self._ended) >= _MAXIMUM_WAITING:
                self._ended.popleft()
                logger.warning("ledger.lost", extra={"count": 1})
            self._ended.append(account)
            self._work()

    def wake(self) -> None:
        """An account has much that is not written."""
        with self._changed:
            self._work()

    def close(self) -> None:
        """Write what there is, and stop."""
        with self._changed:
            self._is_closing = True
            writer = self._writer
            self._changed.notify_all()
        if writer is not None:
            writer.join(_CLOSE_SECONDS)

    # The thread

    def _work(self) -> None:
        """Have a thread that looks, unless this is closed."""
        if self._writer is None and not self._is_closing:
            self._writer = threading.Thread(target=self._run, name="ledger", daemon=True)
            self._writer.start()
        self._changed.notify_all()

    def _run(self) -> None:
        try:
            while accounts := self._wait():
                if not self._write(accounts) and self._is_closing:
                    logger.warning("ledger.lost", extra={"count": len(accounts)})
                    return
        except BaseException:
            with self._changed:
                self._writer = None  # the next one that ends has another
            raise

    def _wait(self) -> list[Account]:
        """Those that are to be written, when there are some; none when nobody brings anything any more."""
        with self._changed:
            while not (accounts := self._due()):
                if self._is_closing or not (self._open or self._ended):
                    self._writer = None
                    break
                pause = self._not_before - time.monotonic() if self._ended else _TOGETHER_SECONDS
                self._changed.wait(max(0.0, min(pause, _TOGETHER_SECONDS)) + 0.001)
            return accounts

    def _due(self) -> list[Account]:
        now = time.monotonic()
        if now < self._not_before and not self._is_closing:
            return []
        looked_at = now + CHECKPOINT_SECONDS if self._is_closing else now
        return [*self._ended, *(account for account in self._open.values() if account.is_due(looked_at))][:_AT_ONCE]

    def _write(self, accounts: Sequence[Account]) -> bool:
        lines = [account.line() for account in accounts]
        try:
            self._deliveries.record(lines)
            if self._until_pruned <= 0:
                self.prune()
                self._until_pruned = _PRUNE_EVERY
        except GatewayError as error:
            logger.warning("ledger.failed", exc_info=error)
            self._not_before = time.monotonic() + _AFTER_FAILURE_SECONDS
            return False
        self._until_pruned -= len(lines)
        self._not_before = time.monotonic() + _TOGETHER_SECONDS
        with self._changed:
            for account, line in zip(accounts, lines, strict=True):
                account.written(line)
            done = {line.key for line in lines if line.ending}
            self._ended = deque(one for one in self._ended if one.key not in done)
        return True


def _now() -> str:
    return dt.datetime.now(dt.UTC).isoformat(timespec="microseconds")
