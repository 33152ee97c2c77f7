"""C-FIND as a client: against our gateway, DCMTK, Orthanc and pynetdicom, and against servers that mean harm."""

import contextlib
import json
import resource
import socket
import struct
import subprocess
import threading
import time

import pytest
from pydicom.dataset import Dataset
from pynetdicom import AE, evt
from pynetdicom.sop_class import (
    PatientRootQueryRetrieveInformationModelFind,
    StudyRootQueryRetrieveInformationModelFind,
)

from gateway.dimse.associate import decode_request, encode_acceptance, encode_rejection
from gateway.dimse.command import encode
from gateway.dimse.contexts import Result
from gateway.query import find
from gateway.query.failures import BadUsage, Failed, Refused, Unreachable
from gateway.query.search import LEVELS, Search, read_includes, read_keys
from gateway.query.server import DimseServer
from tests import synthetic
from tests.fix_dimse import p_data, pdv, receive_pdu, settle
from tests.gateway.query.stored import send_studies


def search(*words, level="studies", include=(), **more):
    keys, returned = read_keys(words)
    fields, includes_all = read_includes(include)
    return Search(LEVELS[level], keys, (*returned, *fields), includes_all, **more)


def ask(server, *words, seconds=10.0, notes=None, **more):
    notes = [] if notes is None else notes
    return list(find.answers(server, search(*words, **more), "QUERY", seconds, notes))


def names(answers):
    return sorted("=".join(one["00100010"]["Value"][0].values()) for one in answers)


def free_port():
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return listener.getsockname()[1]


# ---- the Identifier


def test_the_identifier_has_the_level_the_keys_and_what_is_to_be_returned():
    keys = find.identifier_of(search("PatientName=Weiß*", "ModalitiesInStudy=CT", "StudyID=", include=["PatientAge"]))
    assert keys["00080052"] == {"vr": "CS", "Value": ["STUDY"]}
    assert keys["00100010"] == {"vr": "PN", "Value": ["Weiß*"]}
    assert keys["00080061"] == {"vr": "CS", "Value": ["CT"]}
    assert keys["00200010"] == {"vr": "SH"}
    assert keys["00101010"] == {"vr": "AS"}
    assert keys["0020000D"] == {"vr": "UI"}


def test_keys_in_sequences_share_one_item():
    words = ("RequestAttributesSequence.RequestedProcedureID=1", "RequestAttributesSequence.00400009=")
    keys = find.identifier_of(search(*words, level="series"))
    assert keys["00400275"]["Value"] == [{"00401001": {"vr": "SH", "Value": ["1"]}, "00400009": {"vr": "SH"}}]


def test_lists_of_uids_have_backslashes_between():
    assert find.identifier_of(search("StudyInstanceUID=1.2,1.3"))["0020000D"]["Value"] == ["1.2\\1.3"]


@pytest.mark.parametrize(
    ("words", "more"),
    [
        (("Modality=Ü",), {}),
        (("Rows=x",), {}),
        (("PixelData=x",), {}),
        (("RequestAttributesSequence=x",), {}),
        ((), {"include": ["all"]}),
    ],
)
def test_what_c_find_cannot_say_is_bad_usage(words, more):
    with pytest.raises(BadUsage):
        find.identifier_of(search(*words, **more))


# ---- our gateway


@pytest.fixture(scope="module")
def ours(shared_gateway):
    send_studies("127.0.0.1", shared_gateway.dimse_port, shared_gateway.ae_title)
    return DimseServer("127.0.0.1", shared_gateway.dimse_port, shared_gateway.ae_title)


def test_our_gateway_answers_at_every_level_also_without_the_parents(ours):
    assert set(names(ask(ours, "PatientID=query-*"))) >= {"qDoe^Jane", "qMüller^Jörg", "q水野^遥"}
    (study,) = ask(ours, "PatientName=q水*")
    assert study["0020000D"]["Value"] == ["2.25.7001"]
    (series,) = ask(ours, "StudyInstanceUID=2.25.7001", level="series")
    assert series["0020000E"]["Value"] == ["2.25.7011"]
    assert ask(ours, "SeriesInstanceUID=2.25.7011", level="series") == [series]
    (instance,) = ask(ours, "StudyInstanceUID=2.25.7001", "SeriesInstanceUID=2.25.7011", level="instances")
    assert instance["00080018"]["Value"] == ["2.25.7012"]


def test_an_offset_leaves_out_the_first(ours):
    everything = ask(ours, "PatientID=query-*")
    assert len(everything) == 5
    assert ask(ours, "PatientID=query-*", offset=2) == everything[2:]


def test_our_gateway_matches_fuzzily_and_says_which_keys_it_lacks(ours):
    notes = []
    ask(ours, "PatientName=qDoe", is_fuzzy=True, notes=notes)
    assert notes == []
    ask(ours, "Rows=5", notes=notes)
    assert "does not support all keys" in notes[0]


def test_our_gateway_answers_in_the_patient_root_and_refuses_what_is_too_long(ours):
    assert ask(ours, level="patients")
    with pytest.raises(Refused, match="too long"):
        ask(ours, f"PatientID={'x' * 300}")


# ---- DCMTK and Orthanc


@pytest.fixture(scope="module")
def dcmqrscp(tmp_path_factory):
    folder = tmp_path_factory.mktemp("dcmqrscp")
    port = free_port()
    (folder / "db").mkdir()
    (folder / "cfg").write_text(
        f"NetworkTCPPort = {port}\nMaxPDUSize = 16384\nMaxAssociations = 64\nHostTable BEGIN\nHostTable END\n"
        "VendorTable BEGIN\nVendorTable END\nAETable BEGIN\n"
        f"QRSCP {folder / 'db'} RW (100, 100mb) ANY\nAETable END\n"
    )
    process = subprocess.Popen(["dcmqrscp", "-c", folder / "cfg"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        assert settle(lambda: is_listening(port), 20)
        send_studies("127.0.0.1", port, "QRSCP")
        yield DimseServer("127.0.0.1", port, "QRSCP")
    finally:
        process.kill()
        process.wait()


def is_listening(port):
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
        return True
    return False


@pytest.mark.needs("dcmqrscp")
def test_dcmtk_is_searched_from_patients_to_instances(dcmqrscp):
    (patient,) = ask(dcmqrscp, "PatientID=query-2", level="patients")
    assert names([patient]) == ["qDoe^Jane"]
    (study,) = ask(dcmqrscp, "PatientName=qM*")
    assert names([study]) == ["qMüller^Jörg"]
    uid = f"StudyInstanceUID={study['0020000D']['Value'][0]}"
    (series,) = ask(dcmqrscp, uid, level="series")
    words = (uid, f"SeriesInstanceUID={series['0020000E']['Value'][0]}")
    (instance,) = ask(dcmqrscp, *words, level="instances")
    assert instance["00080018"]["Value"] == ["2.25.7032"]


@pytest.mark.needs("dcmqrscp")
def test_dcmtk_takes_keys_in_utf_8(dcmqrscp):
    assert names(ask(dcmqrscp, "PatientName=qMüller^J*")) == ["qMüller^Jörg"]


@pytest.mark.needs("dcmqrscp")
def test_dcmtk_does_neither_relational_nor_fuzzy_queries_and_is_not_asked_to(dcmqrscp):
    with pytest.raises(Refused, match="give StudyInstanceUID=…"):
        ask(dcmqrscp, level="series")
    notes = []
    ask(dcmqrscp, "PatientID=query-1", is_fuzzy=True, notes=notes)
    assert "fuzzily" in notes[0]


@pytest.mark.needs("dcmqrscp")
def test_dcmtk_rejects_an_ae_title_that_is_not_its_own(dcmqrscp):
    with pytest.raises(Refused, match="called AE title is not known"):
        ask(DimseServer(dcmqrscp.host, dcmqrscp.port, "OTHER"))


@pytest.mark.needs("Orthanc")
def test_orthanc_is_searched(tmp_path):
    port, http_port = free_port(), free_port()
    configuration = {
        "StorageDirectory": str(tmp_path / "db"),
        "IndexDirectory": str(tmp_path / "db"),
        "HttpPort": http_port,
        "DicomPort": port,
        "DicomAet": "ORTHANC",
        "DicomAlwaysAllowFind": True,
        "DicomAlwaysAllowStore": True,
        "DefaultEncoding": "Utf8",
    }
    (tmp_path / "orthanc.json").write_text(json.dumps(configuration))
    with (tmp_path / "log").open("wb") as log:
        process = subprocess.Popen(["Orthanc", tmp_path / "orthanc.json"], stdout=log, stderr=log)
    try:
        assert settle(lambda: is_listening(port) and is_listening(http_port), 60), (tmp_path / "log").read_text()
        send_studies("127.0.0.1", port, "ORTHANC")
        server = DimseServer("127.0.0.1", port, "ORTHANC")
        (study,) = ask(server, "PatientName=qM*")
        assert names([study]) == ["qMüller^Jörg"]
        assert study["00201208"]["Value"] == [1]
        assert [one["00100020"]["Value"] for one in ask(server, "PatientID=query-2", level="patients")] == [["query-2"]]
        assert len(ask(server, "StudyInstanceUID=2.25.7001", level="series")) == 1
    finally:
        process.kill()
        process.wait()


# ---- pynetdicom: cancel, statuses


@contextlib.contextmanager
def scp(answers):
    """A C-FIND SCP of pynetdicom; ``answers(event)`` yields statuses and Identifiers."""
    ae = AE("SCP")
    ae.add_supported_context(StudyRootQueryRetrieveInformationModelFind)
    ae.add_supported_context(PatientRootQueryRetrieveInformationModelFind)
    server = ae.start_server(("127.0.0.1", 0), block=False, evt_handlers=[(evt.EVT_C_FIND, answers)])
    try:
        yield DimseServer("127.0.0.1", server.socket.getsockname()[1], "SCP")
    finally:
        server.shutdown()


def match(number):
    found = Dataset()
    found.QueryRetrieveLevel = "STUDY"
    found.StudyInstanceUID = f"1.2.{number}"
    return found


def test_taking_no_more_cancels_at_the_server_and_releases():
    ended = []

    def answers(event):
        for number in range(100_000):
            if event.is_cancelled:
                ended.append(number)
                yield 0xFE00, None
                return
            yield 0xFF00, match(number)

    with scp(answers) as server:
        found = find.answers(server, search(), "QUERY", 10.0, [])
        assert [next(found)["0020000D"]["Value"][0] for _ in range(3)] == ["1.2.0", "1.2.1", "1.2.2"]
        found.close()
        assert settle(lambda: bool(ended), 30)
    assert ended[0] < 100_000


@pytest.mark.parametrize(
    ("status", "kind"), [(0xA700, Failed), (0xA900, Refused), (0xC001, Failed), (0x0122, Refused), (0x0124, Refused)]
)
def test_a_failure_is_told_with_its_status(status, kind):
    with scp(lambda _: iter([(0xFF00, match(1)), (status, None)])) as server:
        found = find.answers(server, search(), "QUERY", 10.0, [])
        assert next(found)
        with pytest.raises(kind, match=f"{status:04X}") as raised:
            next(found)
        assert type(raised.value) is kind


def test_the_identifier_says_utf_8_only_when_it_needs_it():
    seen = []

    def answers(event):
        seen.append((event.identifier.get("SpecificCharacterSet"), str(event.identifier.PatientName)))
        yield 0x0000, None

    with scp(answers) as server:
        ask(server, "PatientName=Doe*")
        ask(server, "PatientName=水野*")
    assert seen == [(None, "Doe*"), ("ISO_IR 192", "水野*")]


# ---- servers that mean harm


@contextlib.contextmanager
def hostile(*pieces, accept=True, pause=0.0):
    """An SCP that accepts, waits for the query, and sends those bytes, each after a pause, and again to the end."""
    listener = socket.create_server(("127.0.0.1", 0))

    def attend():
        with contextlib.suppress(OSError), listener.accept()[0] as peer:
            kind, value = receive_pdu(peer)
            if accept:
                request = struct.pack(">BxI", kind, len(value)) + value
                decode_request(request)
                peer.sendall(encode_acceptance(request, (Result(1, 0, synthetic.EXPLICIT),), 16384, {}))
                receive_pdu(peer)
            for piece in pieces if not callable(pieces[0]) else pieces[0]():
                peer.sendall(piece)
                time.sleep(pause)
            peer.settimeout(5)
            while peer.recv(65536):
                pass

    serving = threading.Thread(target=attend, daemon=True)
    serving.start()
    try:
        yield DimseServer("127.0.0.1", listener.getsockname()[1], "SCP")
    finally:
        listener.close()
        serving.join(10)


def response(status=0xFF00, *, message_id=1, field=0x8020, has_data_set=True):
    elements = {2: StudyRootQueryRetrieveInformationModelFind, 0x100: field, 0x120: message_id}
    return encode({**elements, 0x800: 1 if has_data_set else 0x0101, 0x900: status})


UID = synthetic.element(0x0020000D, "UI", "1.2.3")
PENDING = p_data(pdv(1, 3, response()))


@pytest.mark.parametrize(
    ("sent", "kind"),
    [
        (p_data(pdv(1, 3, b"garbage garbage garbage")), Failed),
        (p_data(struct.pack(">I", 1) + b"\1"), Failed),
        (p_data(struct.pack(">I", 0)), Failed),
        (p_data(pdv(1, 3, b"\0\0\0\1\2\0\0\0\x55\x55")), Failed),
        (p_data(pdv(3, 3, response())), Failed),
        (p_data(pdv(1, 3, response(field=0x8001))), Failed),
        (p_data(pdv(1, 3, response(field=0x0001))), Failed),
        (p_data(pdv(1, 3, response(message_id=7))), Failed),
        (PENDING + p_data(pdv(1, 2, b"\x10\0\x10\0PN\xff\xffx")), Failed),
        (PENDING + PENDING, Failed),
        (p_data(pdv(1, 3, response(0xC000, has_data_set=False))), Failed),
        (struct.pack(">BxI", 4, 0xFFFFFFFF) + b"x" * 100, Failed),
        (struct.pack(">BxI", 9, 4) + b"xxxx", Failed),
        (bytes.fromhex("07000000000400000200"), Failed),
        (bytes.fromhex("05000000000400000000"), Failed),
        (b"HTTP/1.1 400 Bad Request\r\n\r\n", Failed),
    ],
)
def test_what_breaks_the_rules_ends_at_once_with_a_line(sent, kind):
    started = time.monotonic()
    with hostile(sent) as server:
        with pytest.raises(kind) as raised:
            ask(server)
        assert raised.value.reason.isprintable()
        assert time.monotonic() - started < 3


@pytest.mark.parametrize(
    ("sent", "kind"),
    [
        (encode_rejection(1, 1, 7), Refused),
        (encode_rejection(2, 3, 2), Refused),
        (encode_rejection(9, 9, 9), Refused),
        (b"\3\0\0\0\0\0", Refused),
        (b"\2\0\0\0\0\4xxxx", Failed),
        (struct.pack(">BxI", 2, 1 << 30), Failed),
        (struct.pack(">BxI", 2, 70) + bytes(68) + b"\x21\0", Failed),
        (b"SSH-2.0-OpenSSH_9\r\n", Failed),
        (bytes.fromhex("07000000000400000200"), Failed),
    ],
)
def test_an_association_that_does_not_come_about_is_told(sent, kind):
    with hostile(sent, accept=False) as server, pytest.raises(kind) as raised:
        ask(server)
    assert raised.value.reason.isprintable()


def test_an_answer_that_grows_without_end_is_given_up_within_its_cap():
    def flood():
        yield PENDING
        while True:
            yield p_data(pdv(1, 0, bytes(60_000)))

    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with hostile(flood) as server, pytest.raises(Failed, match="too large"):
        ask(server)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 64 << 10


def test_a_silent_server_meets_the_deadline_and_one_that_trickles_too():
    def trickle():
        for at in range(len(PENDING)):
            yield PENDING[at : at + 1]

    for pieces, pause in (((b"",), 0.0), ((trickle,), 0.1)):
        started = time.monotonic()
        with hostile(*pieces, pause=pause) as server:
            with pytest.raises(Unreachable, match=r"within 0\.5 s"):
                ask(server, seconds=0.5)
            assert time.monotonic() - started < 3


def test_a_server_that_never_stops_when_cancelled_is_left():
    def forever():
        while True:
            yield PENDING + p_data(pdv(1, 2, UID))

    with hostile(forever) as server:
        found = find.answers(server, search(), "QUERY", 10.0, [])
        next(found)
        started = time.monotonic()
        found.close()
        assert time.monotonic() - started < 5


def test_values_too_large_to_be_shown_are_left_out():
    large = synthetic.element(0x00102000, "UT", "x" * 100_000)
    sent = [PENDING, p_data(pdv(1, 2, large + UID)), p_data(pdv(1, 3, response(0, has_data_set=False)))]
    with hostile(*sent) as server:
        (answer,) = ask(server)
    assert answer == {"00102000": {"vr": "UT"}, "0020000D": {"vr": "UI", "Value": ["1.2.3"]}}


def test_nobody_there_is_unreachable():
    for host in ("127.0.0.1", "no-such-host.invalid"):
        with pytest.raises(Unreachable, match="cannot be reached"):
            ask(DimseServer(host, free_port(), "SCP"))
