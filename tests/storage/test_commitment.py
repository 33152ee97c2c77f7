"""Requests for storage commitment: their texts, and what an archive can say of its instances."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from storage.commitment import (
    Check,
    Reason,
    Reference,
    checked_reference,
    pack_reasons,
    pack_references,
    unpack_reasons,
    unpack_references,
)
from storage.errors import InvalidInstance, StorageUnavailable
from tests.fix_archive import keep, open_archive
from tests.synthetic import CT, SECONDARY_CAPTURE, image

UIDS = st.text("0123456789.", min_size=1, max_size=64)
REFERENCES = st.one_of(st.tuples(UIDS, UIDS), st.tuples(UIDS, UIDS, UIDS, UIDS)).map(lambda uids: Reference(*uids))


@given(st.lists(REFERENCES, max_size=20))
def test_references_come_back_as_they_were(references):
    assert unpack_references(pack_references(references)) == references


@given(st.lists(st.integers(0, 0xFFFF)))
def test_reasons_come_back_as_they_were(reasons):
    assert list(unpack_reasons(pack_reasons(reasons))) == reasons


@pytest.mark.parametrize(
    ("uids", "tag"),
    [
        (("", "1.2"), "00081150"),
        (("1.2", ""), "00081155"),
        (("1.2", "1.2\t3"), "00081155"),
        (("1.2", "1" * 65), "00081155"),
        (("1.2", "1.2", "1.x", "1.2"), "0020000D"),
        (("1.2", "1.2", "1.2", "\u0661"), "0020000E"),
    ],
)
def test_a_reference_without_a_uid_names_what_is_wrong(uids, tag):
    with pytest.raises(InvalidInstance) as raised:
        checked_reference(*uids)
    assert raised.value.tag == tag


def test_leading_zeros_of_old_devices_are_let_through():
    assert checked_reference("1.02", "1.2").sop_class_uid == "1.02"


class FailingStore:
    """The real object store, which cannot be reached for keys in ``unreachable``."""

    def __init__(self, store):
        self._store = store
        self.unreachable = set()

    def size_bytes(self, key):
        if key in self.unreachable:
            raise StorageUnavailable
        return self._store.size_bytes(key)

    def __getattr__(self, name):
        return getattr(self._store, name)


@pytest.fixture(params=list(Check))
def archive(request, tmp_path):
    opened = open_archive(tmp_path / "archive", commitment_check=request.param)
    opened._objects = FailingStore(opened._objects)
    yield opened
    opened.close()


def stored(archive, number):
    return keep(archive, image(8, 8, sop_instance=f"1.2.{number}", number=number), sop=f"1.2.{number}").instance


def path(archive, instance):
    return archive._objects.spool_directory.parent / instance.key


def test_what_is_said_of_an_instance_depends_on_its_bytes(archive):
    kept, missing, shortened, unreachable = (stored(archive, number) for number in range(1, 5))
    path(archive, missing).unlink()
    path(archive, shortened).write_bytes(path(archive, shortened).read_bytes()[:-2])
    archive._objects.unreachable.add(unreachable.key)
    parents = kept.study_instance_uid, kept.series_instance_uid
    asked = {
        Reference(SECONDARY_CAPTURE, "1.2.1"): Reason.COMMITTED,
        Reference(SECONDARY_CAPTURE, "1.2.1", *parents): Reason.COMMITTED,
        Reference(SECONDARY_CAPTURE, "1.2.1", *parents[::-1]): Reason.NO_SUCH_INSTANCE,
        Reference(CT, "1.2.1"): Reason.CLASS_INSTANCE_CONFLICT,
        Reference(SECONDARY_CAPTURE, "1.2.2"): Reason.PROCESSING_FAILURE,
        Reference(SECONDARY_CAPTURE, "1.2.3"): Reason.PROCESSING_FAILURE,
        Reference(SECONDARY_CAPTURE, "1.2.4"): Reason.RESOURCE_LIMITATION,
        Reference(SECONDARY_CAPTURE, "1.2.5"): Reason.NO_SUCH_INSTANCE,
        Reference(SECONDARY_CAPTURE, "1.02.1"): Reason.NO_SUCH_INSTANCE,
    }
    assert list(archive.commit(list(asked))) == list(asked.values())


def test_a_flipped_bit_is_found_by_the_checksum_and_not_by_the_size(archive):
    instance = stored(archive, 1)
    content = bytearray(path(archive, instance).read_bytes())
    content[-1] ^= 1
    path(archive, instance).write_bytes(content)
    expected = {Check.OBJECT_SIZE: Reason.COMMITTED, Check.CHECKSUM: Reason.PROCESSING_FAILURE}
    assert list(archive.commit([Reference(SECONDARY_CAPTURE, "1.2.1")])) == [expected[archive._commitment_check]]


def test_what_was_deleted_is_no_longer_committed_to(archive):
    instance = stored(archive, 1)
    archive.delete(instance.scope)
    assert list(archive.commit([Reference(SECONDARY_CAPTURE, "1.2.1")])) == [Reason.NO_SUCH_INSTANCE]


def test_rows_are_read_some_thousand_at_a_time(archive, monkeypatch):
    lookups = []
    find = archive._index.find
    monkeypatch.setattr(archive._index, "find", lambda uids: lookups.append(len(uids)) or find(uids))
    asked = [Reference(SECONDARY_CAPTURE, f"1.3.{number}") for number in range(5000)]
    assert set(archive.commit(asked)) == {Reason.NO_SUCH_INSTANCE}
    assert lookups == [2000, 2000, 1000]


def test_a_check_of_the_size_opens_no_object(tmp_path):
    archive = open_archive(tmp_path / "archive")
    stored(archive, 1)
    archive._objects.open = None
    assert list(archive.commit([Reference(SECONDARY_CAPTURE, "1.2.1")])) == [Reason.COMMITTED]
    archive.close()
