"""C-STORE over a real archive, with pynetdicom, DCMTK and bare sockets as peers."""

import os
import subprocess
import threading
import time

import pytest
from pydicom import dcmread

from gateway.security.actor import Actor, Verb
from gateway.session import Session
from storage.errors import StorageUnavailable
from storage.matching import Query
from storage.model import Level, Scope
from tests import synthetic
from tests.fix_dimse import (
    ECHO,
    FIND,
    STORAGE,
    associated,
    echo_command,
    find,
    instances,
    p_data,
    part10,
    pdv,
    query,
    raw_association,
    receive_pdu,
    run_program,
    send,
    status_of,
    store_command,
)
from tests.synthetic import EXPLICIT, IMPLICIT, SECONDARY_CAPTURE

JPEG = "1.2.840.10008.1.2.4.50"


def test_an_instance_is_stored_with_the_bytes_of_its_data_set(listener, tmp_path):
    content = synthetic.image(300, 300)
    with associated(listener, STORAGE) as association:
        data_set = dcmread(part10(tmp_path, content))
        assert association.send_c_store(data_set).Status == 0x0000
    (stored,) = (
        listener.objects()[:1]
        if len(listener.objects()) == 1
        else [p for p in listener.objects() if "objects" in p.parts]
    )
    assert stored.read_bytes().endswith(content)
    assert len(instances(listener)) == 1
    assert listener.waiting_files() == []


@pytest.mark.parametrize("rows", [1, 100, 3000], ids=["small", "some PDUs", "beyond memory"])
def test_an_instance_of_any_size_is_kept_byte_for_byte(listener, rows):
    content = synthetic.image(rows, 1000)
    peer = raw_association(listener, STORAGE)
    assert send(peer, content) == (0, "")
    peer.close()
    (stored,) = listener.objects()
    assert stored.read_bytes().endswith(content)
    assert listener.waiting_files() == []


def test_the_source_of_an_instance_is_the_calling_ae_and_its_address(listener):
    sources = []

    class Told(Session):
        def store(self, spool, source, **more):
            sources.append(source)
            return super().store(spool, source, **more)

    listener.server._sessions = lambda actor: Told(listener.archive, actor)
    peer = raw_association(listener, STORAGE, calling=b"CT SCANNER 1")
    send(peer, synthetic.data_set())
    peer.close()
    assert [(one.door, one.calling_ae, one.address) for one in sources] == [("dimse", "CT SCANNER 1", "127.0.0.1")]


def test_echo_find_and_store_work_one_after_the_other_on_one_association(listener):
    with associated(listener, STORAGE, FIND, ECHO) as association:
        data_set = dcmread(part10(listener.folder, synthetic.image()))
        for number in range(3):
            assert association.send_c_store(data_set, msg_id=number + 1).Status == 0x0000
            assert association.send_c_echo().Status == 0x0000
            found = find(association, query(PatientName="Doe*", StudyInstanceUID=""))
            assert [status for status, _ in found] == [0xFF00, 0x0000]


def test_several_contexts_of_one_class_keep_their_own_transfer_syntax(listener):
    peer = raw_association(
        listener, (SECONDARY_CAPTURE, [JPEG]), (SECONDARY_CAPTURE, [EXPLICIT, IMPLICIT]), (SECONDARY_CAPTURE, ["1.2.3"])
    )
    compressed = synthetic.data_set(
        extra=(*synthetic.image_elements(4, 4), synthetic.encapsulated([b"\xff\xd8\xff\xd9"])), sop_instance="1.2.3.4.1"
    )
    assert send(peer, compressed, sop_instance="1.2.3.4.1", context_id=1)[0] == 0
    assert send(peer, synthetic.image(sop_instance="1.2.3.4.2"), sop_instance="1.2.3.4.2", context_id=3)[0] == 0
    syntaxes = {
        found.sop_instance_uid: found.transfer_syntax_uid for found in listener.archive.instances(Scope("1.2.3"))
    }
    assert syntaxes == {"1.2.3.4.1": JPEG, "1.2.3.4.2": EXPLICIT}
    peer.sendall(p_data(pdv(5, 3, store_command("1.2.3"))))
    assert receive_pdu(peer) == (7, bytes((0, 0, 2, 6)))
    peer.close()


@pytest.mark.parametrize(
    "sop_class", ["1.3.46.670589.2.5.1.1", "1.2.840.10008.5.1.4.1.1.9", "1.2.840.10008.5.1.4.1.1.9999"]
)
def test_private_retired_and_unknown_storage_classes_are_stored(listener, sop_class):
    peer = raw_association(listener, (sop_class, [EXPLICIT]))
    assert send(peer, synthetic.data_set(sop_class=sop_class), sop_class=sop_class) == (0, "")
    peer.close()
    assert len(instances(listener)) == 1


MISMATCHES = {
    "other SOP Instance UID": ({"sop_instance": "1.2.3.4.6"}, 0xA900),
    "other SOP Class UID": ({"sop_class": synthetic.CT}, 0xA900),
    "no SOP Instance UID": ({"sop_instance": ""}, 0xA900),
    "path as Study Instance UID": ({"study": "../../../etc/cron.d/x"}, 0xA900),
}


@pytest.mark.parametrize(("options", "status"), MISMATCHES.values(), ids=MISMATCHES)
def test_a_data_set_that_is_not_what_the_command_says_is_refused(listener, options, status):
    peer = raw_association(listener, STORAGE)
    assert send(peer, synthetic.data_set(**options))[0] == status
    assert send(peer, synthetic.data_set(), message_id=2) == (0, "")
    peer.close()
    assert len(listener.objects()) == 1


@pytest.mark.parametrize(
    "content", [b"", b"\0", b"not a Data Set at all, only text", bytes(5000)], ids=["none", "byte", "text", "zeros"]
)
def test_bytes_that_are_no_data_set_cannot_be_understood(listener, content):
    peer = raw_association(listener, STORAGE)
    status, comment = send(peer, content)
    assert status in (0xC000, 0xA900)
    assert comment
    assert send(peer, synthetic.data_set(), message_id=2) == (0, "")
    peer.close()


def test_a_class_that_is_not_that_of_the_context_is_refused(listener):
    peer = raw_association(listener, STORAGE)
    assert send(peer, synthetic.data_set(sop_class=synthetic.CT), sop_class=synthetic.CT)[0] == 0x0122
    peer.close()
    assert instances(listener) == []


def test_a_store_without_data_set_is_refused(listener):
    peer = raw_association(listener, STORAGE)
    without = store_command("1.2.3").replace(b"\0\0\0\x08\2\0\0\0\1\0", b"\0\0\0\x08\2\0\0\0\1\1")
    peer.sendall(p_data(pdv(1, 3, without)))
    assert status_of(peer)[0] == 0xC000
    peer.close()


def test_an_instance_over_the_limit_is_out_of_resources_and_ends_the_association(listen):
    listener = listen(instance_maximum_bytes=100_000)
    peer = raw_association(listener, STORAGE)
    assert send(peer, synthetic.image(400, 400))[0] == 0xA700
    assert receive_pdu(peer) == (7, bytes((0, 0, 2, 0)))
    peer.close()
    assert listener.waiting_files() == []
    assert instances(listener) == []


def test_an_archive_that_is_away_is_out_of_resources_and_the_association_goes_on(listener):
    class Away(Session):
        fails = True

        def store(self, spool, source, **more):
            if Away.fails:
                raise StorageUnavailable
            return super().store(spool, source, **more)

    listener.server._sessions = lambda actor: Away(listener.archive, actor)
    peer = raw_association(listener, STORAGE)
    assert send(peer, synthetic.image(2000, 2000)) == (0xA700, StorageUnavailable.default_reason)
    Away.fails = False
    assert send(peer, synthetic.image(2000, 2000), message_id=2) == (0, "")
    peer.close()
    assert listener.waiting_files() == []


def test_a_spool_that_cannot_be_written_is_out_of_resources_and_the_association_goes_on(listener):
    """The folder is gone while a large Data Set arrives, as on a full disk, and comes back."""
    (folder,) = {
        path for path in (listener.folder / "objects").iterdir() if "spool" in path.name or "incoming" in path.name
    }
    moved = folder.rename(folder.with_name("moved"))
    peer = raw_association(listener, STORAGE)
    assert send(peer, synthetic.image(2000, 2000))[0] == 0xA700
    moved.rename(folder)
    assert send(peer, synthetic.image(2000, 2000), message_id=2) == (0, "")
    peer.close()


def test_an_actor_without_the_verb_is_not_authorised(listener):
    listener.server._sessions = lambda actor: Session(
        listener.archive, Actor("peer", actor.name, frozenset((Verb.SEARCH,)))
    )
    peer = raw_association(listener, STORAGE)
    assert send(peer, synthetic.data_set())[0] == 0x0124
    peer.close()
    assert instances(listener) == []


def test_a_bug_is_a_processing_failure_and_the_association_goes_on(listener):
    class Broken(Session):
        def store(self, spool, source, **more):
            raise ZeroDivisionError("Doe^Jane")

    listener.server._sessions = lambda actor: Broken(listener.archive, actor)
    peer = raw_association(listener, STORAGE, ECHO)
    assert send(peer, synthetic.data_set()) == (0x0110, "Processing failure")
    peer.sendall(p_data(pdv(3, 3, echo_command(2))))
    assert status_of(peer)[0] == 0
    peer.close()
    (held,) = listener.archive.quarantine.held()
    assert (held.refusal.error, held.refusal.status) == ("ZeroDivisionError", 0x0110)
    assert b"".join(listener.archive.quarantine.received(held)) == synthetic.data_set()


@pytest.mark.parametrize("maximum_pdu", [0, 4096, 16382, 65536, 1 << 20])
def test_any_maximum_pdu_of_the_peer_works(listener, maximum_pdu):
    with associated(listener, STORAGE, FIND, maximum_pdu=maximum_pdu) as association:
        assert association.acceptor.maximum_length == 128 * 1024
        assert association.send_c_store(dcmread(part10(listener.folder, synthetic.image(400, 400)))).Status == 0
        assert [status for status, _ in find(association, query(StudyInstanceUID=""))] == [0xFF00, 0]


def test_several_associations_send_one_study_at_once_and_there_is_one_study(listener):
    def push(number):
        peer = raw_association(listener, STORAGE, calling=b"MODALITY%d" % number)
        for count in range(10):
            uid = f"1.2.3.4.{number}{count}"
            statuses.append(send(peer, synthetic.image(200, 200, sop_instance=uid), sop_instance=uid)[0])
        peer.close()

    statuses = []
    threads = [threading.Thread(target=push, args=(number,)) for number in range(1, 5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert statuses == [0] * 40
    (study,) = listener.archive.search(Query(Level.STUDY))
    assert study.attributes["00201208"]["Value"] == [40]


@pytest.mark.needs("storescu", "findscu")
@pytest.mark.parametrize(
    ("proposal", "names"),
    [
        (["-xs"], ["plain", "compressed"]),
        (["-xx"], ["plain"]),
        (["-xi"], ["plain"]),
        (["-R"], ["plain"]),
        (["+C"], ["plain"]),
        (["+C", "-xs"], ["compressed"]),
    ],
    ids=str,
)
def test_storescu_sends_and_findscu_finds(listener, tmp_path, proposal, names):
    compressed = synthetic.data_set(
        extra=(*synthetic.image_elements(4, 4), synthetic.encapsulated([b"\xff\xd8\xff\xd9"])), sop_instance="1.2.3.4.2"
    )
    made = {
        "plain": part10(tmp_path, synthetic.image(600, 600, sop_instance="1.2.3.4.1"), sop_instance="1.2.3.4.1"),
        "compressed": part10(tmp_path, compressed, sop_instance="1.2.3.4.2", syntax="1.2.840.10008.1.2.4.70"),
    }
    files = [made[name] for name in names]
    done = run_program("storescu", "-v", *proposal, "-aec", "GATEWAY", "127.0.0.1", listener.port, *files)
    assert done.returncode == 0, done.stdout + done.stderr
    assert len(instances(listener)) == len(files)
    keys = ["QueryRetrieveLevel=STUDY", "PatientName=doe*", "StudyInstanceUID", "NumberOfStudyRelatedInstances"]
    found = run_program("findscu", "-S", *(part for key in keys for part in ("-k", key)), "127.0.0.1", listener.port)
    assert found.returncode == 0
    assert f"[{len(files)} ]" in found.stderr
    assert "[1.2.3" in found.stderr


@pytest.mark.needs("storescu")
def test_storescu_is_not_held_up_when_it_sends_without_no_delay(listener, tmp_path):
    """DCMTK's own default waits for acknowledgements; with late ones 20 instances took more than a second."""
    files = []
    for number in range(1, 21):
        uid = f"1.2.3.4.{number}"
        files.append(str(part10(tmp_path, synthetic.image(300, 300, sop_instance=uid), sop_instance=uid)))
    environment = {name: value for name, value in os.environ.items() if name != "TCP_NODELAY"}
    started = time.monotonic()
    subprocess.run(
        ["storescu", "-aec", "GATEWAY", "127.0.0.1", str(listener.port), *files],
        check=True,
        env=environment,
        timeout=60,
    )
    assert time.monotonic() - started < 0.8
    assert len(instances(listener)) == 20


def test_an_image_with_missing_pixels_is_kept_and_its_sender_is_told(listener):
    peer = raw_association(listener, STORAGE)
    status, comment = send(peer, synthetic.image(4, 4, frames=3, pixels=b"x" * 20))
    peer.close()
    assert status == 0xB007
    assert comment == "The Pixel Data is shorter than its frames"
    assert len(listener.objects()) == 1
