"""The PostgreSQL index keeps the contract."""

from __future__ import annotations

import contextlib

import pytest

pytest.register_assert_rewrite("tests.contracts.index")

from storage.index import open_index  # noqa: E402 - after the rewrite of its asserts is arranged
from tests.contracts.index import IndexContract  # noqa: E402
from tests.fix_postgresql import database_url  # noqa: E402


class TestPostgresqlIndex(IndexContract):
    @contextlib.contextmanager
    def open(self, folder):
        with contextlib.closing(open_index(database_url(folder))) as index:
            yield index
