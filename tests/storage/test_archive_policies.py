"""The archive keeps to its rules, and loses nothing by them: objects, rows and answers agree."""

from __future__ import annotations

import contextlib
import hashlib
import io
import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import pydicom
import pytest

from storage.archive import Archive
from storage.errors import (
    CorruptObject,
    InstanceConflict,
    NotFound,
    PolicyFailed,
    QuotaExceeded,
    RefusedByPolicy,
    StorageUnavailable,
    UnsupportedSOPClass,
    UnsupportedTransferSyntax,
)
from storage.filemeta import Announcement
from storage.filerange import as_bytes
from storage.index import open_index
from storage.model import Outcome, Scope, Source
from storage.objects import open_object_store
from storage.objects.memory import MemoryObjectStore
from storage.policy import read_policies
from storage.reception import Accept, Coerce, Hook, Reject, set_to
from storage.spool import MEMORY_BYTES
from tests.fix_archive import keep, keep_announced
from tests.fix_faults import Failing
from tests.storage.test_dataset import deflated
from tests.synthetic import CT, DEFLATED, IMPLICIT, SECONDARY_CAPTURE, element, image

SOP = "1.2.3.4.5"
SCOPE = Scope("1.2.3", "1.2.3.4", SOP)
COERCING = "* fill=IssuerOfPatientID:HOSP1 prefix=AccessionNumber:A-"


@pytest.fixture
def opened(tmp_path):
    """``opened(*rules, hook=…)``: archives over one store and one index."""
    archives = []

    def make(*rules, hook=None, objects=None, index=None, seconds=5.0):
        archive = Archive(
            objects or open_object_store(tmp_path / "objects"),
            index or open_index(tmp_path / "index.sqlite"),
            policies=read_policies(rules),
            hook=None if hook is None else Hook(hook, seconds),
            name="GATEWAY",
        )
        archives.append(archive)
        return archive

    yield make
    for archive in archives:
        archive.close()


def data_set_of(archive, instance):
    with archive.open(instance) as stored:
        return b"".join(as_bytes(stored.object_pieces()))[instance.data_set_offset :]


def current(archive):
    return pydicom.dcmread(io.BytesIO(object_of(archive, archive.instances(SCOPE)[0])))


def object_of(archive, instance):
    with archive.open(instance) as stored:
        return b"".join(as_bytes(stored.object_pieces()))


def objects(tmp_path):
    return sorted((tmp_path / "objects" / "v1").rglob("*.dcm"))


def test_a_replacement_is_served_at_once_and_what_was_before_can_be_fetched(opened):
    archive = opened("* conflict=replace")
    old, new = image(name="Doe^Jane"), image(5, 5, name="Roe^Jane")
    first = keep(archive, old)
    receipt = keep(archive, new)
    assert (receipt.outcome, receipt.replaced) == (Outcome.REPLACED, first.instance)
    assert data_set_of(archive, archive.instances(SCOPE)[0]) == new
    now, before = archive.versions(SOP)
    assert (now.is_current, before.is_current, before.outcome) == (True, False, "replaced")
    assert data_set_of(archive, before.instance) == old


def test_a_conflict_is_refused_and_leaves_no_object(opened, tmp_path):
    archive = opened("* conflict=reject")
    keep(archive, image())
    with pytest.raises(InstanceConflict):
        keep(archive, image(name="Roe^Jane"))
    assert keep(archive, image()).outcome is Outcome.DUPLICATE
    assert len(objects(tmp_path)) == 1
    assert data_set_of(archive, archive.instances(SCOPE)[0]) == image()


def test_what_is_not_taken_is_refused_before_anything_is_kept(opened, tmp_path):
    archive = opened("* sop-class=CTImageStorage transfer-syntax=ExplicitVRLittleEndian")
    with pytest.raises(UnsupportedSOPClass):
        keep(archive, image())
    with pytest.raises(UnsupportedTransferSyntax):
        keep(archive, deflated(image(sop_class=CT)), syntax=DEFLATED)
    assert not (tmp_path / "objects" / "v1").exists()
    assert keep(archive, image(sop_class=CT)).outcome is Outcome.STORED


def test_the_rule_of_the_peer_holds_for_what_it_sends(opened):
    archive = opened("ae=MODALITY set=InstitutionName:East", "* set=InstitutionName:West")
    keep_announced(archive, image())
    assert current(archive).InstitutionName == "East"


@pytest.mark.parametrize("padding", [0, MEMORY_BYTES], ids=["small", "large"])
@pytest.mark.parametrize("syntax", [None, DEFLATED])
def test_what_is_coerced_says_so_and_comes_again_as_a_duplicate(opened, tmp_path, padding, syntax):
    archive = opened(COERCING)
    content = image() + element(0xFFFCFFFC, "OB", bytes(padding))
    options = {} if syntax is None else {"syntax": syntax}
    if syntax is not None:
        content = deflated(content)
    receipt = keep(archive, content, **options)
    assert receipt.outcome is Outcome.STORED
    item = receipt.original_attributes
    assert item["04000563"]["Value"] == ["GATEWAY"]
    assert item["04000565"]["Value"] == ["COERCE"]
    assert item["04000550"]["Value"] == [{"00100021": {"vr": "LO"}}]
    found = current(archive)
    assert (found.IssuerOfPatientID, found.PatientName) == ("HOSP1", "Doe^Jane")
    assert found.PixelData == bytes(range(16))
    stored = data_set_of(archive, receipt.instance)
    assert receipt.instance.digest == hashlib.sha256(stored).hexdigest() != hashlib.sha256(content).hexdigest()
    for _ in range(3):
        again = keep(archive, content, **options)
        assert (again.outcome, again.instance) == (Outcome.DUPLICATE, receipt.instance)
        assert again.original_attributes == item
    assert len(objects(tmp_path)) == 1
    assert not list((tmp_path / "objects").rglob("*.incoming"))


def test_a_search_and_metadata_know_what_was_coerced(opened):
    archive = opened("* set=PatientID:P77 set=StudyDescription:Head")
    keep(archive, image())
    (study,) = archive.search(_study_query())
    assert study.attributes["00100020"]["Value"] == ["P77"]
    assert study.attributes["00081030"]["Value"] == ["Head"]


def _study_query():
    from storage.matching import Query
    from storage.model import Level

    return Query(Level.STUDY)


def test_a_lost_object_of_a_coerced_instance_is_put_back_when_it_comes_again(opened, tmp_path):
    archive = opened(COERCING)
    receipt = keep(archive, image())
    stored = data_set_of(archive, receipt.instance)
    objects(tmp_path)[0].unlink()
    assert keep(archive, image()).outcome is Outcome.DUPLICATE
    assert data_set_of(archive, receipt.instance) == stored


def test_the_same_bytes_from_another_peer_are_coerced_into_the_same_object(opened, tmp_path):
    archive = opened(COERCING)
    first = keep_announced(archive, image())
    again = keep(archive, image())
    assert again.outcome is Outcome.DUPLICATE
    assert again.original_attributes == first.original_attributes
    assert again.original_attributes["04000564"]["Value"] == ["MODALITY"]
    assert len(objects(tmp_path)) == 1


def test_rules_may_come_and_go_and_the_same_bytes_stay_a_duplicate(opened):
    plain, coercing = opened(), opened(COERCING)
    assert keep(plain, image()).outcome is Outcome.STORED
    again = keep(coercing, image())
    assert (again.outcome, again.original_attributes) == (Outcome.DUPLICATE, None)
    other = image(sop_instance="1.2.3.4.6")
    assert keep(coercing, other).outcome is Outcome.STORED
    assert keep(plain, other).outcome is Outcome.DUPLICATE
    assert keep(opened("* set=StudyID:S1 conflict=replace"), other).outcome is Outcome.DUPLICATE


def test_an_instance_of_a_data_set_without_vrs_is_coerced(opened):
    from tests.storage.test_archive import implicit_content

    archive = opened(COERCING)
    receipt = keep(archive, implicit_content(), syntax=IMPLICIT)
    assert receipt.original_attributes is not None
    assert current(archive).IssuerOfPatientID == "HOSP1"


def test_what_cannot_be_coerced_is_refused_and_never_kept_as_it_is(opened, tmp_path):
    archive = opened("* set=InstitutionName:Köln")
    with pytest.raises(PolicyFailed):
        keep(archive, image())
    assert not (tmp_path / "objects" / "v1").exists()


def test_a_hook_accepts_refuses_and_coerces(opened):
    def on_receive(one):
        if one.source.calling_ae != "MODALITY":
            return Reject("Modalities only")
        return Coerce([set_to("StudyID", "S1")]) if one.value("PatientID") == "P1" else Accept()

    archive = opened("* set=InstitutionName:East", hook=on_receive)
    with pytest.raises(RefusedByPolicy, match="Modalities only"):
        keep(archive, image())
    assert keep_announced(archive, image()).original_attributes is not None
    assert (current(archive).StudyID, current(archive).InstitutionName) == ("S1", "East")


def test_a_hook_that_fails_keeps_nothing(opened, tmp_path):
    archive = opened(hook=lambda _: 1 // 0)
    with pytest.raises(PolicyFailed):
        keep(archive, image())
    assert not (tmp_path / "objects" / "v1").exists()
    assert not list((tmp_path / "objects").rglob("*.incoming"))


def test_over_a_quota_nothing_is_kept_and_what_is_kept_may_come_again(opened, tmp_path):
    archive = opened("* instances-per-day=2")
    for number in (1, 2):
        keep(archive, image(sop_instance=f"1.2.3.4.{number}"))
    with pytest.raises(QuotaExceeded):
        keep(archive, image(sop_instance="1.2.3.4.3"))
    assert keep(archive, image(sop_instance="1.2.3.4.1")).outcome is Outcome.DUPLICATE
    assert len(objects(tmp_path)) == 2


def test_a_version_is_made_current_and_the_one_before_it_is_kept(opened):
    archive = opened()
    keep(archive, image(name="Doe^Jane"))
    keep_announced(archive, image(5, 5, name="Roe^Jane"))
    wanted = archive.versions(SOP)[1]
    receipt = archive.make_current(wanted)
    assert (receipt.outcome, receipt.instance) == (Outcome.REPLACED, wanted.instance)
    assert current(archive).PatientName == "Roe^Jane"
    now, before = archive.versions(SOP)
    assert now.source == Source("test", "MODALITY", "127.0.0.1")
    assert (now.receive_count, now.received_at) == (wanted.receive_count, wanted.received_at)
    assert data_set_of(archive, before.instance) == image(name="Doe^Jane")
    assert archive.make_current(now).outcome is Outcome.DUPLICATE
    assert archive.make_current(before).outcome is Outcome.REPLACED
    assert current(archive).PatientName == "Doe^Jane"


def test_a_damaged_version_is_not_made_current(opened, tmp_path):
    archive = opened()
    keep(archive, image())
    keep(archive, image(name="Roe^Jane"))
    version = archive.versions(SOP)[1]
    path = tmp_path / "objects" / version.instance.key
    path.chmod(0o600)
    raw = bytearray(path.read_bytes())
    raw[-1] ^= 1
    path.write_bytes(raw)
    with pytest.raises(CorruptObject):
        archive.make_current(version)
    assert data_set_of(archive, archive.instances(SCOPE)[0]) == image()


def test_there_are_no_versions_of_what_never_came(opened):
    with pytest.raises(NotFound):
        opened().versions("1.2.3")


@pytest.mark.parametrize("rule", ["* conflict=replace", COERCING, "* conflict=reject instances-per-day=9"])
@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("seam", ["objects", "index"])
def test_whichever_operation_fails_the_archive_is_old_or_new_and_a_retry_succeeds(tmp_path, opened, rule, seam, after):
    new = image(name="Doe^Jane")
    for at in range(1, 40):
        folder = tmp_path / f"{at}"
        folder.mkdir()
        store, index = open_object_store(folder / "objects"), open_index(folder / "index.sqlite")
        failing = Failing(store if seam == "objects" else index, at, after=after)
        whole = opened(rule, objects=store, index=index)
        policies = read_policies([rule])
        broken = Archive(*((failing, index) if seam == "objects" else (store, failing)), policies=policies)
        if rule == "* conflict=replace":
            keep(whole, image(name="Old"))
        with contextlib.suppress(StorageUnavailable):
            keep(broken, new)
        assert keep(whole, new).outcome in (Outcome.STORED, Outcome.DUPLICATE, Outcome.REPLACED)
        assert current(whole).PatientName == "Doe^Jane"
        assert {hashlib.sha256(data_set_of(whole, one.instance)).hexdigest() for one in whole.versions(SOP)} == {
            one.instance.digest for one in whole.versions(SOP)
        }
        if failing.operations < at:
            return
    pytest.fail("the operation never ran to its end")


@pytest.mark.parametrize("rule", ["* conflict=keep-first", "* conflict=replace", "* conflict=reject", COERCING])
def test_64_writers_over_several_archives_leave_one_row_and_lose_nothing(tmp_path, engine, rule):
    """Same and conflicting bytes at once, over archives of their own, while readers look at whole instances only."""
    contents = [image(3, 3, name=f"Doe^{number}") for number in range(8)]
    store = MemoryObjectStore()
    archives = [
        Archive(store, open_index(engine.place(tmp_path)), policies=read_policies([rule]), name="GATEWAY")
        for _ in range(4)
    ]
    barrier, ended, torn = threading.Barrier(64), threading.Event(), []

    def write(number, sop):
        content = contents[number % 8].replace(b"1.2.3.4.5", sop.encode())
        barrier.wait()
        try:
            return keep(archives[number % 4], content, sop=sop), content
        except InstanceConflict:
            return None, content

    def read():
        archive = archives[0]
        while not ended.wait(0.005):
            for sop in sops:
                try:
                    document = archive.document(Scope("1.2.3", "1.2.3.4", sop))
                except NotFound:
                    continue
                raw = data_set_of(archive, document.instance)
                if hashlib.sha256(raw).hexdigest() != document.instance.digest:
                    torn.append(sop)

    sops = [f"1.2.3.4.{number}" for number in (6, 7)]
    reading = threading.Thread(target=read)
    reading.start()
    try:
        with ThreadPoolExecutor(64) as pool:
            for sop in sops:
                results = list(pool.map(write, range(64), [sop] * 64))
                _check(archives[0], sop, rule, results)
    finally:
        ended.set()
        reading.join()
        for archive in archives:
            archive.close()
        store.close()
    assert torn == []


def _check(archive, sop, rule, results):
    counts = Counter(receipt.outcome for receipt, _ in results if receipt is not None)
    assert counts[Outcome.STORED] == 1
    versions = archive.versions(sop)
    assert sum(one.is_current for one in versions) == 1
    kept = {data_set_of(archive, one.instance) for one in versions}
    sent = {content for receipt, content in results if receipt is not None}
    (first,) = (content for receipt, content in results if receipt is not None and receipt.outcome is Outcome.STORED)
    winner = data_set_of(archive, versions[0].instance)
    if "reject" in rule:
        assert kept == sent == {first} == {winner}
        assert sum(receipt is None for receipt, _ in results) == 56
        return
    assert sum(one.receive_count for one in versions) == 64 or "replace" in rule
    if rule == COERCING:
        assert len(versions) == 8
        assert all(b"HOSP1" in one for one in kept)
        return
    assert kept == sent
    assert "replace" in rule or winner == first


def test_announcement_of_a_coerced_instance_is_what_was_announced(opened):
    archive = opened(COERCING)
    with archive.spool(Announcement(SECONDARY_CAPTURE, SOP, "1.2.840.10008.1.2.1")) as spool:
        spool.write(image())
        receipt = archive.store(spool, Source("dimse", "CT1"))
    assert receipt.original_attributes["04000564"]["Value"] == ["CT1"]
    assert current(archive).file_meta.MediaStorageSOPInstanceUID == SOP
