"""Where bytes are kept: one seam, and a file for each kind of store behind it."""

from __future__ import annotations

from pathlib import Path

from storage.objects.base import Blob, ObjectStore
from storage.objects.filesystem import FilesystemObjectStore
from storage.objects.memory import MemoryObjectStore


def open_object_store(folder: Path) -> FilesystemObjectStore:
    """The store in a local folder, made when it is not there. Raises StorageUnavailable."""
    return FilesystemObjectStore(folder)


__all__ = ["Blob", "FilesystemObjectStore", "MemoryObjectStore", "ObjectStore", "open_object_store"]
