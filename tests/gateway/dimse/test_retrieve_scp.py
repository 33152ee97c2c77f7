"""C-MOVE and C-GET over a real archive, with DCMTK and pynetdicom as those who ask and those who receive."""

import contextlib
import os
import socket
import subprocess
import time
from dataclasses import dataclass, field
from io import BytesIO

import pytest
from pydicom.filereader import read_dataset
from pynetdicom import AE, build_role, evt

from gateway.dimse.contexts import PATIENT_ROOT_MOVE, STUDY_ROOT_GET, STUDY_ROOT_MOVE
from gateway.dimse.requestor import Peer
from gateway.dimse.store_scu import CONTEXTS_MAXIMUM, proposals
from storage.model import Scope
from tests import synthetic
from tests.fix_dimse import AE_TITLE, associated, query, raw_association, run_program, send, settle
from tests.synthetic import EXPLICIT, IMPLICIT, SECONDARY_CAPTURE

STUDY, SERIES = "1.2.3", "1.2.3.4"
SUCCESS, PENDING, CANCELLED, INCOMPLETE = 0, 0xFF00, 0xFE00, 0xB000
IMPOSSIBLE, UNKNOWN_DESTINATION, MISMATCH = 0xA702, 0xA801, 0xA900
JPEG = "1.2.840.10008.1.2.4.50"
PLAIN = [EXPLICIT, IMPLICIT]


def fill(listener, numbers, *, syntax=EXPLICIT, study=STUDY, series=SERIES, patient_id="P1", extra=None):
    """Instances SERIES.N of one series; the bytes of their Data Sets."""
    peer = raw_association(listener, (SECONDARY_CAPTURE, [syntax]))
    contents = {}
    for number in numbers:
        uid = f"{series}.{number}"
        options = {"study": study, "series": series, "sop_instance": uid, "number": number, "patient_id": patient_id}
        contents[uid] = synthetic.data_set(extra=extra, **options) if extra else synthetic.image(8, 8, **options)
        assert send(peer, contents[uid], sop_instance=uid, message_id=number) == (0, "")
    peer.close()
    return contents


def compressed(listener, number):
    fragment = synthetic.encapsulated([b"\xff\xd8" + bytes(60) + b"\xff\xd9"])
    return fill(listener, [number], syntax=JPEG, extra=(*synthetic.image_elements(8, 8), fragment))


@dataclass
class Destination:
    """An SCP of pynetdicom, and what it was sent: Data Sets as they came, syntaxes, and originators of the moves."""

    port: int
    contents: dict = field(default_factory=dict)
    syntaxes: dict = field(default_factory=dict)
    originators: set = field(default_factory=set)
    associations: int = 0

    @property
    def peers(self):
        return {"DEST": Peer("127.0.0.1", self.port, "DEST", AE_TITLE)}


@contextlib.contextmanager
def destination(*contexts, status=0, pause=0.0):
    """One that accepts these; ``status`` is that of each response, or of an instance by its UID: None is an abort."""
    found = Destination(0)

    def received(event):
        uid = event.request.AffectedSOPInstanceUID
        time.sleep(pause)
        found.contents[uid] = event.request.DataSet.getvalue()
        found.syntaxes[uid] = event.context.transfer_syntax
        request = event.request
        found.originators.add((request.MoveOriginatorApplicationEntityTitle, request.MoveOriginatorMessageID))
        answer = status.get(uid, 0) if isinstance(status, dict) else status
        if answer is None:
            event.assoc.abort()
            return 0xC000
        return answer

    def accepted(_):
        found.associations += 1

    ae = AE("DEST")
    for sop_class, syntaxes in contexts or ((SECONDARY_CAPTURE, PLAIN),):
        ae.add_supported_context(sop_class, syntaxes)
    handlers = [(evt.EVT_C_STORE, received), (evt.EVT_ACCEPTED, accepted)]
    server = ae.start_server(("127.0.0.1", 0), block=False, evt_handlers=handlers)
    found.port = server.socket.getsockname()[1]
    try:
        yield found
    finally:
        server.shutdown()


def move(listener, asked, model=STUDY_ROOT_MOVE, destination_ae="DEST"):
    """The final status of a C-MOVE, and the Identifier that came with it."""
    with associated(listener, (model, [EXPLICIT])) as association:
        *pending, last = association.send_c_move(asked, destination_ae, model)
    assert all(status.Status == PENDING for status, _ in pending)
    return last


def counts(status):
    return tuple(getattr(status, f"NumberOf{kind}Suboperations") for kind in ("Completed", "Failed", "Warning"))


def listed(identifier):
    """The instances that failed."""
    failed = identifier.get("FailedSOPInstanceUIDList") if identifier is not None else None
    return [failed] if isinstance(failed, str) else list(failed or ())


def test_a_study_is_moved_byte_for_byte_and_each_store_says_for_whom(listen):
    with destination() as found:
        listener = listen(destinations=found.peers)
        contents = fill(listener, range(1, 6))
        status, _ = move(listener, query(StudyInstanceUID=STUDY))
    assert (status.Status, counts(status)) == (SUCCESS, (5, 0, 0))
    assert "NumberOfRemainingSuboperations" not in status
    assert found.contents == contents
    assert found.originators == {("SCU", 1)}
    assert found.associations == 1


LEVELS = {
    "patient": (PATIENT_ROOT_MOVE, query("PATIENT", PatientID="P1"), 5),
    "studies": (STUDY_ROOT_MOVE, query("STUDY", StudyInstanceUID=[STUDY, "1.2.9"]), 6),
    "series": (STUDY_ROOT_MOVE, query("SERIES", StudyInstanceUID=STUDY, SeriesInstanceUID="1.2.3.5"), 2),
    "two series": (STUDY_ROOT_MOVE, query("SERIES", StudyInstanceUID=STUDY, SeriesInstanceUID=["1.2.3.5", SERIES]), 5),
    "images": (
        STUDY_ROOT_MOVE,
        query("IMAGE", StudyInstanceUID=STUDY, SeriesInstanceUID=SERIES, SOPInstanceUID=[f"{SERIES}.1", f"{SERIES}.3"]),
        2,
    ),
    "nothing": (STUDY_ROOT_MOVE, query("STUDY", StudyInstanceUID="1.2.99"), 0),
}


@pytest.mark.parametrize("name", LEVELS)
def test_what_is_moved_is_named_by_the_unique_keys_of_a_level(listen, name):
    model, asked, count = LEVELS[name]
    with destination() as found:
        listener = listen(destinations=found.peers)
        fill(listener, range(1, 4))
        fill(listener, range(4, 6), series="1.2.3.5")
        fill(listener, [1], study="1.2.9", series="1.2.9.1", patient_id="P2")
        status, identifier = move(listener, asked, model)
    assert (status.Status, counts(status), listed(identifier)) == (SUCCESS, (count, 0, 0), [])
    assert len(found.contents) == count


REFUSED = {
    "empty": (STUDY_ROOT_MOVE, query("STUDY", StudyInstanceUID=""), 0x0020000D),
    "missing": (STUDY_ROOT_MOVE, query("STUDY"), 0x0020000D),
    "wildcard": (PATIENT_ROOT_MOVE, query("PATIENT", PatientID="P*"), 0x00100020),
    "another key": (STUDY_ROOT_MOVE, query("STUDY", StudyInstanceUID=STUDY, StudyDate="20240131"), 0x00080020),
    "no study": (STUDY_ROOT_MOVE, query("SERIES", SeriesInstanceUID=SERIES), 0x0020000D),
    "no level of the model": (STUDY_ROOT_MOVE, query("PATIENT", PatientID="P1"), 0x00080052),
    "no level": (STUDY_ROOT_MOVE, query(""), 0x00080052),
}


@pytest.mark.parametrize("name", REFUSED)
def test_an_identifier_that_is_none_of_a_retrieval_is_refused_and_names_what_is_wrong(listen, name):
    model, asked, tag = REFUSED[name]
    with destination() as found:
        listener = listen(destinations=found.peers)
        fill(listener, [1])
        status, _ = move(listener, asked, model)
    assert (status.Status, status.OffendingElement) == (MISMATCH, tag)
    assert found.associations == 0


def test_only_peers_of_the_settings_are_sent_to(listen):
    with destination() as found:
        listener = listen(destinations=found.peers)
        fill(listener, [1])
        status, _ = move(listener, query(StudyInstanceUID=STUDY), destination_ae="ELSEWHERE")
    assert status.Status == UNKNOWN_DESTINATION
    assert found.associations == 0


def test_instances_are_re_encoded_for_a_peer_that_takes_implicit_vr_only(listen):
    with destination((SECONDARY_CAPTURE, [IMPLICIT])) as found:
        listener = listen(destinations=found.peers)
        contents = fill(listener, range(1, 3))
        status, _ = move(listener, query(StudyInstanceUID=STUDY))
    assert (status.Status, counts(status)) == (SUCCESS, (2, 0, 0))
    assert set(found.syntaxes.values()) == {IMPLICIT}
    for uid, content in contents.items():
        assert elements_of(found.contents[uid], IMPLICIT) == elements_of(content, EXPLICIT)


def elements_of(content, syntax):
    """By pydicom: tags and values."""
    read = read_dataset(BytesIO(content), syntax == IMPLICIT, is_little_endian=True)
    return {element.tag: element.value for element in read}


def test_what_a_peer_does_not_take_fails_and_is_listed_and_the_rest_arrives(listen):
    with destination(status={f"{SERIES}.2": 0xA700, f"{SERIES}.3": 0xB000}) as found:
        listener = listen(destinations=found.peers)
        fill(listener, range(1, 4))
        compressed(listener, 4)
        status, identifier = move(listener, query(StudyInstanceUID=STUDY))
    assert (status.Status, counts(status)) == (INCOMPLETE, (1, 2, 1))
    assert sorted(listed(identifier)) == [f"{SERIES}.2", f"{SERIES}.4"]
    assert sorted(found.contents) == [f"{SERIES}.{number}" for number in (1, 2, 3)]


def test_a_compressed_instance_goes_as_it_is_to_a_peer_that_takes_it(listen):
    with destination((SECONDARY_CAPTURE, [JPEG])) as found:
        listener = listen(destinations=found.peers)
        contents = compressed(listener, 1)
        status, _ = move(listener, query(StudyInstanceUID=STUDY))
    assert (status.Status, found.contents, found.syntaxes) == (SUCCESS, contents, {f"{SERIES}.1": JPEG})


@pytest.mark.parametrize("host", ["127.0.0.1", "no-such-host.invalid", "a" * 70 + ".example", ".."])
def test_a_peer_that_nobody_answers_at_makes_it_impossible(listen, host):
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    listener = listen(destinations={"DEST": Peer(host, port, "DEST", AE_TITLE)})
    fill(listener, range(1, 3))
    status, identifier = move(listener, query(StudyInstanceUID=STUDY))
    assert (status.Status, counts(status)) == (IMPOSSIBLE, (0, 2, 0))
    assert len(listed(identifier)) == 2


def test_a_peer_that_falls_silent_is_given_up_in_time(listen):
    with destination(pause=6) as found:
        listener = listen(destinations=found.peers, idle_seconds=1.5)
        fill(listener, range(1, 4))
        started = time.monotonic()
        status, identifier = move(listener, query(StudyInstanceUID=STUDY))
        seconds = time.monotonic() - started
    assert (status.Status, counts(status)) == (INCOMPLETE, (0, 3, 0))
    assert len(listed(identifier)) == 3
    assert seconds < 5


def test_an_object_that_is_cut_short_fails_alone(listen):
    with destination() as found:
        listener = listen(destinations=found.peers)
        contents = fill(listener, range(1, 5))
        broken = f"{SERIES}.2"
        (path,) = [one for one in listener.objects() if one.read_bytes().endswith(contents[broken])]
        path.chmod(0o600)
        os.truncate(path, path.stat().st_size - 40)
        status, identifier = move(listener, query(StudyInstanceUID=STUDY))
    assert (status.Status, counts(status), listed(identifier)) == (INCOMPLETE, (3, 1, 0), [broken])
    assert found.contents == {uid: content for uid, content in contents.items() if uid != broken}
    assert found.associations == 2


def test_an_index_that_goes_away_between_two_series_ends_a_move_with_a_status(listen, engine):
    with destination(pause=0.1) as found:
        listener = listen(destinations=found.peers, engine=engine)
        fill(listener, range(1, 6))
        fill(listener, range(6, 9), series="1.2.3.5")
        with associated(listener, (STUDY_ROOT_MOVE, [EXPLICIT])) as association:
            moving = association.send_c_move(query(StudyInstanceUID=STUDY), "DEST", STUDY_ROOT_MOVE)
            status, _ = next(moving)
            assert status.Status == PENDING
            with engine.damaged(listener.folder):
                *_, (last, _) = moving
                assert (last.Status, last.ErrorComment) == (IMPOSSIBLE, "The index cannot be reached")
                assert association.is_established
            assert len(found.contents) == last.NumberOfCompletedSuboperations < 8


def test_what_is_deleted_while_it_is_moved_counts_as_failed(listen, engine):
    with destination(pause=0.1) as found:
        listener = listen(destinations=found.peers, engine=engine)
        fill(listener, range(1, 6))
        fill(listener, range(6, 9), series="1.2.3.5")
        with associated(listener, (STUDY_ROOT_MOVE, [EXPLICIT])) as association:
            moving = association.send_c_move(query(StudyInstanceUID=STUDY), "DEST", STUDY_ROOT_MOVE)
            status, _ = next(moving)
            assert status.Status == PENDING
            listener.archive.delete(Scope(STUDY))
            *_, (last, _) = moving
    assert (last.Status, counts(last)) == (INCOMPLETE, (5, 3, 0))
    assert len(found.contents) == 5


def test_a_move_is_cancelled_and_says_what_is_left(listen):
    with destination(pause=0.05) as found:
        listener = listen(destinations=found.peers)
        fill(listener, range(1, 41))
        with associated(listener, (STUDY_ROOT_MOVE, [EXPLICIT])) as association:
            statuses = []
            for status, _ in association.send_c_move(query(StudyInstanceUID=STUDY), "DEST", STUDY_ROOT_MOVE, msg_id=9):
                statuses.append(status)
                if len(statuses) == 1:
                    association.send_c_cancel(9, None, STUDY_ROOT_MOVE)
            assert statuses[0].Status == PENDING
            assert sum(counts(statuses[0])) + statuses[0].NumberOfRemainingSuboperations == 40
            last = statuses[-1]
            assert last.Status == CANCELLED
            assert sum(counts(last)) + last.NumberOfRemainingSuboperations == 40
            assert 0 < last.NumberOfRemainingSuboperations < 40
    assert settle(lambda: len(found.contents) < 40)


# ---- C-GET ---------------------------------------------------------------------------------------------------------


def get(listener, asked, *, roles=True, syntaxes=PLAIN):
    """The final status of a C-GET with its Identifier, and the Data Sets that came before."""
    received = {}

    def keep(event):
        received[event.request.AffectedSOPInstanceUID] = event.request.DataSet.getvalue()
        return 0

    role = [build_role(SECONDARY_CAPTURE, scp_role=True)] if roles else []
    contexts = ((STUDY_ROOT_GET, [EXPLICIT]), (SECONDARY_CAPTURE, list(syntaxes)))
    with associated(listener, *contexts, ext_neg=role, evt_handlers=[(evt.EVT_C_STORE, keep)]) as association:
        *_, last = association.send_c_get(asked, STUDY_ROOT_GET)
    return *last, received


def test_a_study_comes_over_the_association_that_asks_for_it(listener):
    contents = fill(listener, range(1, 6))
    status, _, received = get(listener, query(StudyInstanceUID=STUDY))
    assert (status.Status, counts(status)) == (SUCCESS, (5, 0, 0))
    assert received == contents


def test_without_the_role_of_scp_nothing_can_be_sent(listener):
    fill(listener, range(1, 3))
    status, identifier, received = get(listener, query(StudyInstanceUID=STUDY), roles=False)
    assert (status.Status, counts(status), received) == (INCOMPLETE, (0, 2, 0), {})
    assert sorted(listed(identifier)) == [f"{SERIES}.1", f"{SERIES}.2"]


def test_after_a_get_the_association_goes_on(listener):
    fill(listener, range(1, 3))
    role = [build_role(SECONDARY_CAPTURE, scp_role=True)]
    contexts = ((STUDY_ROOT_GET, [EXPLICIT]), (SECONDARY_CAPTURE, PLAIN))
    handlers = [(evt.EVT_C_STORE, lambda _: 0)]
    with associated(listener, *contexts, ext_neg=role, evt_handlers=handlers) as association:
        for _ in range(3):
            *_, (status, _) = association.send_c_get(query(StudyInstanceUID=STUDY), STUDY_ROOT_GET)
            assert (status.Status, counts(status)) == (SUCCESS, (2, 0, 0))


# ---- DCMTK ---------------------------------------------------------------------------------------------------------


@pytest.mark.needs("getscu")
def test_getscu_gets_every_byte(listener, tmp_path):
    contents = fill(listener, range(1, 6))
    keys = ["-k", "0008,0052=STUDY", "-k", f"0020,000d={STUDY}"]
    done = run_program("getscu", "-S", "+B", "-od", tmp_path, *keys, "-aec", AE_TITLE, *map(str, listener.address))
    assert done.returncode == 0, done.stderr
    found = sorted(path.read_bytes() for path in tmp_path.iterdir() if path.is_file())
    assert len(found) == 5
    assert all(any(raw.endswith(content) for raw in found) for content in contents.values())


@pytest.mark.needs("movescu", "storescp")
def test_movescu_moves_every_byte_to_storescp(listen, tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    arguments = ["storescp", "-aet", "DEST", "+B", "-od", str(tmp_path), str(port)]
    with subprocess.Popen(arguments, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as receiving:
        try:
            assert settle(lambda: is_open(port))
            listener = listen(destinations={"DEST": Peer("127.0.0.1", port, "DEST", AE_TITLE)})
            contents = fill(listener, range(1, 6))
            keys = ["-k", "0008,0052=STUDY", "-k", f"0020,000d={STUDY}"]
            place = map(str, listener.address)
            done = run_program("movescu", "-S", "-aem", "DEST", *keys, "-aec", AE_TITLE, *place)
            assert done.returncode == 0, done.stderr
        finally:
            receiving.terminate()
    found = [path.read_bytes() for path in tmp_path.iterdir() if path.is_file()]
    assert len(found) == 5
    assert all(any(raw.endswith(content) for raw in found) for content in contents.values())


def is_open(port):
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 0.5):
        return True
    return False


# ---- presentation contexts -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("classes", [1, 42, 43, 64, 65, 300])
@pytest.mark.parametrize("syntaxes", [1, 2, 7])
def test_contexts_are_as_many_as_an_association_may_have_and_name_every_encoding(classes, syntaxes):
    kept = [EXPLICIT, JPEG, "1.2.840.10008.1.2.4.70", "1.2.840.10008.1.2.4.90", "1.2.840.10008.1.2.5", IMPLICIT]
    kept.append("1.2.840.10008.1.2.2")
    encodings = {(f"1.2.{number}", syntax) for number in range(classes) for syntax in kept[:syntaxes]}
    found = list(proposals(encodings))
    named = [encoding for members, _ in found for encoding in members]
    assert sorted(named) == sorted(encodings)
    for members, contexts in found:
        assert 0 < len(contexts) <= CONTEXTS_MAXIMUM
        ids = [context.context_id for context in contexts]
        assert all(one % 2 and one < 256 for one in ids)
        assert len(set(ids)) == len(ids)
        offered = {(context.abstract_syntax, syntax) for context in contexts for syntax in context.transfer_syntaxes}
        assert members <= offered
