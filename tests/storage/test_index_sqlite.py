"""The SQLite index keeps the contract."""

from __future__ import annotations

import contextlib

from storage.index import open_index
from tests.contracts.deliveries import DeliveriesContract
from tests.contracts.extended import ExtendedContract
from tests.contracts.index import IndexContract
from tests.contracts.outbox import OutboxContract


class TestSqliteIndex(IndexContract, ExtendedContract, OutboxContract, DeliveriesContract):
    @contextlib.contextmanager
    def open(self, folder):
        with contextlib.closing(open_index(folder / "index.sqlite")) as index:
            yield index
