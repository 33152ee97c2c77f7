"""The reference store keeps the contract."""

from __future__ import annotations

import pytest

from storage.objects.memory import MemoryObjectStore
from tests.contracts.object_store import ObjectStoreContract


class TestMemoryObjectStore(ObjectStoreContract):
    @pytest.fixture
    def store(self):
        store = MemoryObjectStore()
        yield store
        store.close()
