"""The folder store keeps the contract, and its promises about the disk."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from storage.errors import NotFound, StorageUnavailable
from storage.filemeta import Announcement
from storage.objects.filesystem import FilesystemObjectStore
from storage.spool import Spool, waiting_file
from tests.contracts.object_store import LARGE, SMALL, ObjectStoreContract, key_of
from tests.synthetic import CT, EXPLICIT


class TestFilesystemObjectStore(ObjectStoreContract):
    @pytest.fixture
    def store(self, tmp_path):
        return FilesystemObjectStore(tmp_path / "archive")


@pytest.fixture
def store(tmp_path):
    return FilesystemObjectStore(tmp_path / "archive")


@pytest.fixture
def order(monkeypatch):
    """What the store asks of the disk, in order."""
    calls = []
    fsync, rename = os.fsync, os.rename

    def traced_fsync(fd):
        calls.append(("fsync", str(Path(f"/proc/self/fd/{fd}").readlink())))
        fsync(fd)

    def traced_rename(source, target):
        calls.append(("rename", str(target)))
        rename(source, target)

    monkeypatch.setattr(os, "fsync", traced_fsync)
    monkeypatch.setattr(os, "rename", traced_rename)
    return calls


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="needs /proc to see what is synced")
@pytest.mark.parametrize("is_expected", [False, True], ids=["at once", "expected"])
@pytest.mark.parametrize("content", [SMALL, LARGE], ids=["small", "large"])
def test_file_then_name_then_folder_reach_the_disk(store, order, content, is_expected):
    key = ObjectStoreContract().put(store, content, is_expected=is_expected)
    folder = store.spool_directory.parent / Path(key).parent
    renamed = order.index(("rename", str(folder / Path(key).name)))
    assert order[renamed - 1][0] == "fsync"
    assert "incoming" in order[renamed - 1][1]
    assert order[renamed + 1] == ("fsync", str(folder))
    synced = {name for kind, name in order[renamed + 1 :] if kind == "fsync"}
    assert {str(parent) for parent in folder.parents if parent.is_relative_to(store.spool_directory.parent)} <= synced


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="needs /proc to see what is synced")
def test_folders_that_another_process_made_are_synced_too(store, order):
    folder = store.spool_directory.parent / Path(key_of(SMALL)).parent
    folder.mkdir(parents=True)
    ObjectStoreContract().put(store, SMALL)
    synced = {name for kind, name in order if kind == "fsync"}
    assert {str(parent) for parent in folder.parents if parent.is_relative_to(store.spool_directory.parent)} <= synced


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="needs /proc to see what is synced")
@pytest.mark.parametrize("content", [SMALL, LARGE], ids=["the same", "another"])
def test_folders_whose_names_were_not_synced_are_synced_by_the_next_store(store, monkeypatch, content):
    folder = store.spool_directory.parent / Path(key_of(SMALL)).parent
    fsync, synced = os.fsync, []

    def failing_fsync(fd):
        if Path(f"/proc/self/fd/{fd}").readlink() == folder.parent:
            raise OSError(errno.EIO, "the disk")
        fsync(fd)

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", failing_fsync)
        with pytest.raises(StorageUnavailable):
            ObjectStoreContract().put(store, SMALL)
    monkeypatch.setattr(os, "fsync", lambda fd: synced.append(Path(f"/proc/self/fd/{fd}").readlink()))
    ObjectStoreContract().put(store, content)
    assert {folder, folder.parent, folder.parent.parent} <= set(synced)


@pytest.mark.parametrize("content", [SMALL, LARGE], ids=["small", "large"])
@pytest.mark.parametrize("error", [errno.ENOSPC, errno.EIO, errno.EDQUOT])
@pytest.mark.parametrize("target", ["fsync", "writev", "rename", "mkdir"])
@pytest.mark.parametrize("is_expected", [False, True], ids=["at once", "expected"])
def test_whatever_operation_fails_nothing_is_left_and_a_retry_succeeds(
    store, monkeypatch, content, error, target, is_expected
):
    succeeded = False
    for at in range(1, 20):
        calls = 0
        with monkeypatch.context() as patch:
            real = getattr(os, target)

            def failing(*args, real=real, at=at, **options):
                nonlocal calls
                calls += 1
                if calls == at:
                    raise OSError(error, os.strerror(error))
                return real(*args, **options)

            patch.setattr(os, target, failing)
            try:
                ObjectStoreContract().put(store, content, is_expected=is_expected)
                succeeded = calls < at
            except StorageUnavailable:
                assert list(store.spool_directory.iterdir()) == []
        if succeeded:
            break
        ObjectStoreContract().put(store, content)
        with store.open(key_of(content)) as blob:
            assert blob.read(blob.size_bytes - len(content), blob.size_bytes) == content
        store.delete(key_of(content))
        store = FilesystemObjectStore(store.spool_directory.parent)
    assert succeeded


def test_a_file_that_shrank_is_corrupt_and_not_short(store):
    key = ObjectStoreContract().put(store, SMALL)
    path = store.spool_directory.parent / key
    with store.open(key) as blob:
        os.truncate(path, 40)
        with pytest.raises(Exception, match="shorter"):
            blob.read(0, blob.size_bytes)


def test_objects_are_not_readable_by_everybody(store):
    key = ObjectStoreContract().put(store, SMALL)
    assert (store.spool_directory.parent / key).stat().st_mode & 0o007 == 0


def test_what_is_no_object_is_listed_unless_somebody_is_writing_it(store):
    root = store.spool_directory.parent
    key = ObjectStoreContract().put(store, SMALL)
    (root / "v1" / "notes").write_text("x")
    (root / "loose").write_text("x")
    (store.spool_directory / "dead.incoming").write_text("x")
    (root / "v1" / "elsewhere").symlink_to(root.parent)
    (root / "linked").symlink_to(root / "loose")
    os.mkfifo(root / "pipe")
    fd, path = waiting_file(store.spool_directory)
    assert {(stray.name, stray.is_left_over) for stray in store.strays()} == {
        ("v1/notes", False),
        ("loose", False),
        ("incoming/dead.incoming", True),
    }
    os.close(fd)
    path.unlink()
    with store.open_stray("v1/notes") as blob:
        assert blob.read(0, 1) == b"x"
    store.remove_stray("incoming/dead.incoming")
    store.remove_stray("incoming/dead.incoming")
    for name in ("v1/notes", "loose"):
        store.set_aside(name)
    assert list(store.strays()) == []
    assert (root / "quarantine" / "v1" / "notes").read_text() == "x"
    assert list(store.keys()) == [key]


def test_what_is_set_aside_twice_under_one_name_is_lost_neither_time(store):
    root = store.spool_directory.parent
    for text in ("one", "two", "three"):
        (root / "loose").write_text(text)
        store.set_aside("loose")
    assert {path.read_text() for path in (root / "quarantine").iterdir()} == {"one", "two", "three"}


@pytest.mark.parametrize("name", ["../outside", "v1/../../outside", "link", "link/outside"])
def test_no_name_leads_out_of_the_store(store, tmp_path, name):
    (tmp_path / "outside").write_text("x")
    (store.spool_directory.parent / "link").symlink_to(tmp_path)
    for act in (store.open_stray, store.set_aside, store.remove_stray):
        with pytest.raises(NotFound):
            act(name)
    assert (tmp_path / "outside").read_text() == "x"


def test_an_object_is_not_removed_as_a_stray(store):
    key = ObjectStoreContract().put(store, SMALL)
    with pytest.raises(NotFound):
        store.remove_stray(key)
    assert list(store.keys()) == [key]


def test_a_label_costs_no_sync(store, order):
    with Spool(store.spool_directory, Announcement(CT, "1.2.3", EXPLICIT), maximum_bytes=1 << 30) as spool:
        spool.write(SMALL)
        spool.finish()
        store.put(key_of(b"other"), spool)
    without = [one for one, _ in order]
    order.clear()
    with Spool(store.spool_directory, Announcement(CT, "1.2.3", EXPLICIT), maximum_bytes=1 << 30) as spool:
        spool.write(SMALL)
        spool.finish()
        spool.label = b"label"
        store.put(key_of(SMALL), spool)
    assert len(order) <= len(without)


def test_a_file_system_without_a_place_for_labels_does_without(store, monkeypatch):
    def refuse(*_):
        raise OSError(errno.ENOTSUP, "planted")

    monkeypatch.setattr(os, "setxattr", refuse)
    with Spool(store.spool_directory, Announcement(CT, "1.2.3", EXPLICIT), maximum_bytes=1 << 30) as spool:
        spool.write(SMALL)
        spool.finish()
        spool.label = b"label"
        store.put(key_of(SMALL), spool)
    assert store.stat(key_of(SMALL)).label == b""
