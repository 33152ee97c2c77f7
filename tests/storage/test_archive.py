"""The archive keeps its word: what it acknowledged is there, what it refused left nothing."""

from __future__ import annotations

import hashlib
import os
import threading

import pytest

from storage.archive import Archive
from storage.errors import (
    CorruptObject,
    Gone,
    IdentityMismatch,
    InvalidInstance,
    NotDicom,
    NotFound,
    StorageUnavailable,
    StudyMismatch,
    TooLarge,
    UnsupportedTransferSyntax,
)
from storage.filerange import as_bytes
from storage.frames import FrameTable
from storage.index import open_index
from storage.matching import Query
from storage.model import Extent, Level, Outcome, Scope
from storage.objects import open_object_store
from storage.objects.memory import MemoryObjectStore
from storage.spool import MEMORY_BYTES
from tests.fix_archive import keep, keep_announced, open_archive
from tests.fix_faults import Failing
from tests.storage.test_dataset import deflated
from tests.synthetic import DEFLATED, EXPLICIT, IMPLICIT, data_set, element, image, implicit_element

SCOPE = Scope("1.2.3", "1.2.3.4", "1.2.3.4.5")


def stored_bytes(archive, scope=SCOPE) -> bytes:
    document = archive.document(scope)
    with archive.open(document.instance) as stored:
        raw = b"".join(as_bytes(stored.object_pieces()))
    return raw[document.instance.data_set_offset :]


def found(archive, level=Level.INSTANCE):
    return archive.search(Query(level))


@pytest.mark.parametrize("way", [keep, keep_announced])
@pytest.mark.parametrize("padding", [0, MEMORY_BYTES], ids=["small", "large"])
def test_a_stored_instance_comes_back_with_the_same_bytes(archive, way, padding):
    content = image(4, 4) + (element(0xFFFCFFFC, "OB", b"\0" * padding) if padding else b"")
    receipt = way(archive, content)
    assert receipt.outcome is Outcome.STORED
    assert receipt.instance.digest == hashlib.sha256(content).hexdigest()
    assert receipt.instance.scope == SCOPE
    assert stored_bytes(archive) == content


def test_sending_again_is_a_success_and_changes_nothing(archive):
    first = keep(archive, image())
    again = keep(archive, image())
    assert (first.outcome, again.outcome) == (Outcome.STORED, Outcome.DUPLICATE)
    assert again.instance == first.instance
    assert len(found(archive)) == 1


def test_other_bytes_under_the_same_uid_are_kept_beside_the_first(archive, tmp_path):
    first = keep(archive, image(name="Doe^Jane"))
    other = keep(archive, image(name="Roe^Jane"))
    assert other.outcome is Outcome.CONFLICT
    assert other.instance == first.instance
    assert stored_bytes(archive) == image(name="Doe^Jane")
    kept = list((tmp_path / "archive" / "objects" / "v1").rglob("*.dcm"))
    assert len(kept) == 2
    assert any(path.read_bytes().endswith(image(name="Roe^Jane")) for path in kept)


def test_the_same_instance_in_another_transfer_syntax_is_a_variant(archive):
    keep(archive, image())
    assert keep(archive, deflated(image()), syntax=DEFLATED).outcome is Outcome.VARIANT
    assert archive.document(SCOPE).instance.transfer_syntax_uid != DEFLATED


def test_the_same_bytes_under_another_transfer_syntax_are_another_object(archive):
    content = implicit_content()
    keep(archive, content, syntax=IMPLICIT)
    assert keep(archive, content).outcome is Outcome.VARIANT
    assert stored_bytes(archive) == content
    instance = archive.document(SCOPE).instance
    with archive.open(instance) as stored:
        assert sum(map(len, as_bytes(stored.object_pieces()))) == instance.size_bytes


@pytest.mark.parametrize("damage", ["missing", "shorter"])
def test_sending_again_puts_a_lost_object_back(archive, tmp_path, damage):
    path = tmp_path / "archive" / "objects" / keep(archive, image()).instance.key
    if damage == "missing":
        path.unlink()
    else:
        os.truncate(path, 100)
    assert keep(archive, image()).outcome is Outcome.DUPLICATE
    assert stored_bytes(archive) == image()


def test_file_meta_that_is_no_ascii_is_corrected_too(archive):
    assert keep(archive, image(), sop="1.2.3\xff4").outcome is Outcome.STORED
    assert stored_bytes(archive) == image()


def test_a_peer_that_announces_another_instance_is_refused(archive, tmp_path):
    for options in ({"sop": "1.2.3.4.6"}, {"sop_class": "1.2.840.10008.5.1.4.1.1.2"}):
        with pytest.raises(IdentityMismatch):
            keep_announced(archive, image(), **options)
    assert not found(archive)
    assert not list((tmp_path / "archive" / "objects").rglob("*.dcm"))


def test_file_meta_that_disagrees_is_corrected_with_a_warning(archive):
    receipt = keep(archive, image(), sop="9.9.9")
    assert receipt.outcome is Outcome.STORED
    assert receipt.warnings == ("The File Meta Information did not agree with the Data Set",)
    with archive.open(receipt.instance) as stored:
        assert b"1.2.3.4.5" in next(as_bytes(stored.object_pieces()))[:400]


def test_an_instance_of_another_study_than_the_request_names_is_refused(archive):
    with pytest.raises(StudyMismatch):
        keep(archive, image(), study="9.9")
    assert not found(archive)


@pytest.mark.parametrize("tag", ["study", "series", "sop_instance", "sop_class"])
@pytest.mark.parametrize(
    "uid", ["", "../../../etc/cron.d/x", "1.2..3", "1.02.3", "1" * 65, "1.2/3", "<script>", "1.2\0003", "1.2\\3"]
)
def test_a_uid_that_is_none_is_refused_by_its_tag(archive, tmp_path, tag, uid):
    options = {"study": "1.2.3", "series": "1.2.3.4", "sop_instance": "1.2.3.4.5"} | {tag: uid}
    with pytest.raises(InvalidInstance) as caught:
        keep(archive, image(**options))
    assert caught.value.tag
    assert uid not in str(caught.value) or not uid
    assert not found(archive)
    assert {path.name for path in (tmp_path / "archive").iterdir()} <= {"objects", *index_files(tmp_path)}


def index_files(tmp_path):
    return [path.name for path in (tmp_path / "archive").iterdir() if path.name.startswith("index")]


@pytest.mark.parametrize("syntax", ["", "not a uid", "1.2.840.10008.1.2.4.\n"])
def test_a_transfer_syntax_that_is_no_uid_is_refused(archive, syntax):
    from storage.filemeta import Announcement
    from storage.model import Source

    with archive.spool(Announcement("1.2", "1.3", syntax)) as spool:
        spool.write(image())
        with pytest.raises(UnsupportedTransferSyntax):
            archive.store(spool, Source("test"))


def test_a_private_transfer_syntax_is_kept_as_it_is(archive):
    receipt = keep(archive, image(), syntax="1.2.3.4.5.6.7")
    assert receipt.instance.transfer_syntax_uid == "1.2.3.4.5.6.7"
    assert stored_bytes(archive) == image()


def test_what_is_no_data_set_is_refused(archive):
    with pytest.raises(NotDicom):
        keep(archive, b"\xff" * 400)


def test_an_instance_over_the_limit_is_refused(tmp_path):
    archive = open_archive(tmp_path / "small", maximum_instance_bytes=300)
    with pytest.raises(TooLarge):
        keep(archive, image(40, 40))
    archive.close()


def test_a_resource_that_was_never_there_is_not_found_and_a_deleted_one_is_gone(archive):
    with pytest.raises(NotFound) as caught:
        archive.instances(SCOPE)
    assert not isinstance(caught.value, Gone)
    kept = keep(archive, image()).instance
    with pytest.raises(NotFound):
        archive.instances(Scope("1.2.3", "9.9"))
    assert archive.delete(Scope("1.2.3")) == Extent(1, 1, 1, kept.size_bytes)
    for scope in (SCOPE, Scope("1.2.3"), Scope("1.2.3", "1.2.3.4")):
        with pytest.raises(Gone):
            archive.instances(scope)
    with pytest.raises(NotFound):
        archive.delete(Scope("1.2.3"))
    assert keep(archive, image()).outcome is Outcome.STORED
    assert archive.instances(SCOPE)


def test_changes_are_told_in_order(archive):
    keep(archive, image())
    keep(archive, image())
    archive.delete(Scope("1.2.3"))
    changes = archive.changes(0, 100)
    assert [change.kind for change in changes] == ["stored", "deleted"]
    assert [change.sequence for change in changes] == [1, 2]


def test_frames_are_ranges_of_the_object(archive):
    keep(archive, image(3, 3, frames=4))
    document = archive.document(SCOPE)
    table = FrameTable(document.frame_table)
    with archive.open(document.instance) as stored:
        frames = [stored.frame(table, number) for number in range(1, 5)]
    assert b"".join(frames) == bytes(range(36))


def test_a_deflated_object_is_read_by_ranges_of_its_inflated_data_set(archive):
    keep(archive, deflated(image(3, 3, frames=4)), syntax=DEFLATED)
    document = archive.document(SCOPE)
    with archive.open(document.instance) as stored:
        assert stored.frame(FrameTable(document.frame_table), 3) == bytes(range(18, 27))
        assert b"".join(stored.part10_chunks(EXPLICIT)).endswith(image(3, 3, frames=4))
        assert stored.read(0, 8) == image(3, 3, frames=4)[:8]
        with pytest.raises(CorruptObject):
            stored.read(0, 1 << 20)


def test_a_missing_object_is_damage_and_not_absence(archive, tmp_path):
    receipt = keep(archive, image())
    (tmp_path / "archive" / "objects" / receipt.instance.key).unlink()
    with pytest.raises(CorruptObject):
        archive.open(receipt.instance)


def implicit_content():
    return b"".join(
        (
            implicit_element(0x00080016, "1.2.840.10008.5.1.4.1.1.7"),
            implicit_element(0x00080018, "1.2.3.4.5"),
            implicit_element(0x0020000D, "1.2.3"),
            implicit_element(0x0020000E, "1.2.3.4"),
            implicit_element(0x00280010, b"\2\0"),
        )
    )


def test_an_implicit_instance_leaves_as_explicit(archive):
    keep(archive, implicit_content(), syntax=IMPLICIT)
    with archive.open(archive.document(SCOPE).instance) as stored:
        assert b"\x28\0\x10\0US\2\0\2\0" in b"".join(stored.part10_chunks(EXPLICIT))


def survivors(archive):
    """Every instance that is visible, each with its bytes."""
    return {answer.scope.sop_instance_uid: stored_bytes(archive, answer.scope) for answer in found(archive)}


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("seam", ["objects", "index"])
def test_whichever_operation_fails_the_archive_is_old_or_new_and_a_retry_succeeds(tmp_path, seam, after):
    content = image()
    for at in range(1, 30):
        folder = tmp_path / f"{at}"
        folder.mkdir()
        objects, index = open_object_store(folder / "objects"), open_index(folder / "index.sqlite")
        failing = Failing(objects if seam == "objects" else index, at, after=after)
        broken = Archive(failing, index) if seam == "objects" else Archive(objects, failing)
        whole = Archive(objects, index)
        try:
            keep(broken, content)
            acknowledged = True
        except StorageUnavailable:
            acknowledged = False
        assert survivors(whole) in ({}, {"1.2.3.4.5": content})
        assert not acknowledged or survivors(whole)
        assert keep(whole, content).outcome in (Outcome.STORED, Outcome.DUPLICATE)
        assert survivors(whole) == {"1.2.3.4.5": content}
        assert not list((folder / "objects" / "incoming").iterdir())
        whole.close()
        if failing.operations < at:
            return
    pytest.fail("the operation never ran to its end")


def test_many_threads_that_store_one_instance_leave_one_row(archive):
    outcomes = []
    threads = [threading.Thread(target=lambda: outcomes.append(keep(archive, image()).outcome)) for _ in range(32)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert outcomes.count(Outcome.STORED) == 1
    assert outcomes.count(Outcome.DUPLICATE) == 31
    assert len(found(archive)) == 1
    assert archive.search(Query(Level.STUDY))[0].attributes["00201208"]["Value"] == [1]


def test_many_threads_that_store_different_bytes_leave_one_winner(archive):
    names = [f"Doe^Number{index}" for index in range(16)]
    outcomes = {}

    def store(name):
        outcomes[name] = keep(archive, image(name=name)).outcome

    threads = [threading.Thread(target=store, args=(name,)) for name in names]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    (winner,) = [name for name, outcome in outcomes.items() if outcome is Outcome.STORED]
    assert stored_bytes(archive) == image(name=winner)
    assert len([outcome for outcome in outcomes.values() if outcome is Outcome.CONFLICT]) == 15


def test_an_archive_in_memory_works_the_same(tmp_path):
    objects = MemoryObjectStore()
    archive = Archive(objects, open_index(tmp_path / "index.sqlite"))
    keep(archive, image())
    assert stored_bytes(archive) == image()
    archive.close()
    objects.close()


def test_data_sets_without_pixels_have_no_frames(archive):
    keep(archive, data_set())
    assert archive.document(SCOPE).frame_table == b""
