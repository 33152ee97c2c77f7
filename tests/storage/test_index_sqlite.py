"""The SQLite index keeps the contract."""

from __future__ import annotations

import contextlib

from storage.index import open_index
from tests.contracts.commitments import CommitmentsContract
from tests.contracts.deletions import DeletionsContract
from tests.contracts.deliveries import DeliveriesContract
from tests.contracts.extended import ExtendedContract
from tests.contracts.index import IndexContract
from tests.contracts.outbox import OutboxContract
from tests.contracts.policies import PolicyContract
from tests.contracts.stability import StabilityContract
from tests.contracts.subscribers import SubscribersContract


class TestSqliteIndex(
    IndexContract,
    ExtendedContract,
    OutboxContract,
    PolicyContract,
    CommitmentsContract,
    DeletionsContract,
    DeliveriesContract,
    StabilityContract,
    SubscribersContract,
):
    @contextlib.contextmanager
    def open(self, folder):
        with contextlib.closing(open_index(folder / "index.sqlite")) as index:
            yield index
