"""A real archive over a folder of the test, and ways to put instances into it."""

from __future__ import annotations

import pytest

from storage.archive import Archive
from storage.filemeta import Announcement
from storage.index import open_index
from storage.model import Source
from storage.objects import open_object_store
from tests.synthetic import EXPLICIT, SECONDARY_CAPTURE, part10


def open_archive(folder, **options):
    """An archive as the gateway builds it."""
    folder.mkdir(parents=True, exist_ok=True)
    return Archive(open_object_store(folder / "objects"), open_index(folder / "index.sqlite"), **options)


@pytest.fixture
def archive(tmp_path):
    opened = open_archive(tmp_path / "archive")
    yield opened
    opened.close()


def keep(archive, content: bytes, *, syntax: str = EXPLICIT, sop: str = "1.2.3.4.5", study: str = ""):
    """Store a Data Set as a Part 10 stream."""
    with archive.spool() as spool:
        spool.write(part10(content, syntax=syntax, sop=sop))
        return archive.store(spool, Source("test"), study_instance_uid=study)


def keep_announced(archive, content: bytes, *, sop: str = "1.2.3.4.5", sop_class: str = SECONDARY_CAPTURE):
    """Store a Data Set as C-STORE brings it."""
    with archive.spool(Announcement(sop_class, sop, EXPLICIT)) as spool:
        spool.write(content)
        return archive.store(spool, Source("test", "MODALITY", "127.0.0.1"))
