"""The SQLite index keeps the contract."""

from __future__ import annotations

import contextlib

import pytest

pytest.register_assert_rewrite("tests.contracts.index", "tests.contracts.extended")

from storage.index import open_index  # noqa: E402 - after the rewrite of its asserts is arranged
from tests.contracts.extended import ExtendedContract  # noqa: E402
from tests.contracts.index import IndexContract  # noqa: E402


class TestSqliteIndex(IndexContract, ExtendedContract):
    @contextlib.contextmanager
    def open(self, folder):
        with contextlib.closing(open_index(folder / "index.sqlite")) as index:
            yield index
