"""Bad input at the real doors: the status and reason of the rules, one log line without patient data, a server that
goes on. H29's canary: every Data Set, query and path here is full of marked values, and nothing of them may be written.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import socket
import struct
import time
import urllib.parse
import zlib

import pytest
from pydicom.dataset import Dataset
from pynetdicom import AE, build_context

from tests import synthetic
from tests.fix_dimse import (
    STORAGE,
    STUDY_ROOT_FIND,
    associate_request,
    echo,
    p_data,
    pdv,
    raw_association,
    receive_pdu,
    send,
    store_command,
)
from tests.fix_servers import ANY_DISK, running_gateway
from tests.pacing import paced
from tests.synthetic import DEFLATED, EXPLICIT, UNDEFINED, element

UID = "2.25.9137426508"
"""Every UID here starts so."""
MARKS = (b"CANARY", b"9137426508", b"canary")
BOMB_BYTES = 200 << 20
SILENCE_SECONDS = 1.0
MULTIPART = 'multipart/related; type="application/dicom"; boundary=b0'
STUDY, SERIES, SOP_INSTANCE = f"{UID}.1", f"{UID}.1.1", f"{UID}.1.1.1"


class Doors:
    """A gateway that writes everything it can into its log."""

    def __init__(self, gateway):
        self.gateway = gateway

    def connect(self):
        peer = socket.create_connection(("127.0.0.1", self.gateway.dimse_port))
        peer.settimeout(10)
        return peer

    def request(self, method, path, body=None, headers=None):
        """Status, headers and content of one request on a connection of its own."""
        with contextlib.closing(http.client.HTTPConnection("127.0.0.1", self.gateway.http_port, timeout=30)) as one:
            one.request(method, path, body, headers or {})
            answer = one.getresponse()
            return answer.status, answer.headers, answer.read()

    def post(self, body, content_type=MULTIPART, path="/dicomweb/studies"):
        status, _, content = self.request("POST", path, body, {"Content-Type": content_type} if content_type else {})
        return status, json.loads(content)

    def is_serving(self):
        """C-ECHO and QIDO-RS answer, and say so in the log."""
        with self.logs("dimse.association.ended"):
            echo(self)
        with self.logs("http.answered"):
            return self.request("GET", "/dicomweb/studies?limit=1")[0] == 200

    def written(self):
        """All that the gateway has written for operators."""
        with self.logs("http.answered"):
            figures = self.request("GET", "/metrics")[2]
        return self.gateway.log.read_bytes() + figures

    def kept(self):
        """Files of instances, and of spools; what was refused lies elsewhere."""
        return [path for path in (self.gateway.data / "objects").rglob("*") if path.suffix in (".dcm", ".incoming")]

    @contextlib.contextmanager
    def logs(self, *events, level="INFO"):
        """What happens inside has to write these lines, from that level on, and no other one; they are yielded."""
        before = len(self.gateway.lines())
        lines = []
        yield lines
        hidden = {"DEBUG"} if level == "INFO" else set()
        deadline = time.monotonic() + 10
        while True:
            found = [line for line in self.gateway.lines()[before:] if line["level"] not in hidden]
            if len(found) >= len(events) or time.monotonic() > deadline:
                break
            time.sleep(0.005)
        assert [line["event"] for line in found] == list(events), found
        lines += found


@pytest.fixture(scope="module")
def running(tmp_path_factory):
    environment = {
        "GATEWAY_LOGS__LEVEL": "DEBUG",
        "GATEWAY_DIMSE__ASSOCIATE_SECONDS": str(SILENCE_SECONDS),
        **ANY_DISK,
    }
    with running_gateway(tmp_path_factory.mktemp("bad") / "data", "--workers", "1", environment=environment) as gateway:
        yield Doors(gateway)


@pytest.fixture
def doors(running):
    """Whatever a test does: nothing bad is kept, nothing marked is written, and the server goes on."""
    before = set(running.kept())
    yield running
    assert running.is_serving()
    assert set(running.kept()) == before
    written = running.written()
    assert [mark for mark in MARKS if mark in written] == []


def canary(sop_instance=SOP_INSTANCE, *, study=STUDY, **options):
    """A small image of a patient whose every value is marked."""
    marked = (element(0x00081030, "LO", "CANARY STUDY"), element(0x00104000, "LT", "CANARY COMMENT"))
    elements = synthetic.data_set(
        study, f"{study}.1", sop_instance, name="CANARY^PATIENT", patient_id="CANARY-ID", extra=marked, **options
    )
    pixels = (*synthetic.image_elements(8, 8), element(0x7FE00010, "OW", bytes(64)))
    return elements + b"".join(pixels)


def truncated():
    """A Data Set that ends within the patient's name."""
    raw = canary()
    return raw[: raw.index(b"CANARY^PATIENT") + 8]


def with_slash():
    return canary(f"{UID}/../../../../etc/passwd")


def deflated(raw, more_bytes=0):
    """A deflated Data Set; with Pixel Data of so many zeros behind, which take a thousandth of that."""
    deflater = zlib.compressobj(9, wbits=-zlib.MAX_WBITS)
    pieces = [deflater.compress(raw)]
    if more_bytes:
        pieces.append(deflater.compress(struct.pack("<HH2sHI", 0x7FE0, 0x0010, b"OB", 0, more_bytes)))
        pieces += [deflater.compress(bytes(1 << 20)) for _ in range(more_bytes >> 20)]
    return b"".join((*pieces, deflater.flush()))


def bomb():
    raw = deflated(synthetic.data_set(STUDY, SERIES, SOP_INSTANCE, name="CANARY^PATIENT"), BOMB_BYTES)
    assert len(raw) < BOMB_BYTES // 500
    return raw


def endless_nesting():
    nested = b"".join(
        struct.pack("<HH2sHIHHI", 0x0040, 0xA730, b"SQ", 0, UNDEFINED, 0xFFFE, 0xE000, UNDEFINED) for _ in range(300)
    )
    return canary() + nested


# ------------------------------------------------------------------------------------------------------------ STOW-RS

PARTS = {
    "no DICOM": (lambda: b"%PDF-1.7 CANARY^PATIENT " * 50, 400, 0xC000, "NotDicom"),
    "nothing": (lambda: b"", 400, 0xC000, "NotDicom"),
    "File Meta alone": (lambda: synthetic.part10(b"", sop=SOP_INSTANCE), 400, 0xC000, "NotDicom"),
    "a truncated file": (lambda: synthetic.part10(truncated(), sop=SOP_INSTANCE), 400, 0xC000, "NotDicom"),
    "a UID with a slash": (lambda: synthetic.part10(with_slash(), sop=SOP_INSTANCE), 409, 0xA900, "InvalidInstance"),
    "no SOP Instance UID": (lambda: synthetic.part10(canary(""), sop=SOP_INSTANCE), 409, 0xA900, "InvalidInstance"),
    "a deflate bomb": (lambda: synthetic.part10(bomb(), sop=SOP_INSTANCE, syntax=DEFLATED), 400, 0xC000, "TooComplex"),
    "damaged deflation": (
        lambda: synthetic.part10(b"\xff" + deflated(canary()), sop=SOP_INSTANCE, syntax=DEFLATED),
        400,
        0xC000,
        "NotDicom",
    ),
    "endless nesting": (lambda: synthetic.part10(endless_nesting(), sop=SOP_INSTANCE), 400, 0xC000, "TooComplex"),
    "a transfer syntax that is no UID": (
        lambda: synthetic.part10(canary(), sop=SOP_INSTANCE, syntax="CANARY"),
        409,
        0xC122,
        "UnsupportedTransferSyntax",
    ),
}
"""A part of a STOW request; the status when it is alone, and its Failure Reason and error. PS3.18 §10.5.3, §I.2.2"""


def multipart(*parts):
    return b"".join(b"--b0\r\nContent-Type: application/dicom\r\n\r\n" + part + b"\r\n" for part in parts) + b"--b0--"


def failure_reasons(answer):
    """Failure Reasons of instances that named themselves, and of what did not."""
    items = [item for tag in ("00081198", "0008119A") for item in answer.get(tag, {}).get("Value", [])]
    return [item["00081197"]["Value"][0] for item in items]


@pytest.mark.parametrize("name", PARTS)
def test_a_bad_part_is_refused_with_its_reason(doors, name):
    make, status, reason, error = PARTS[name]
    body = multipart(make())
    with doors.logs("stow.refused", "http.answered") as lines:
        started = time.monotonic()
        found, answer = doors.post(body)
        assert time.monotonic() - started < 10
    assert (found, failure_reasons(answer), "00081199" in answer) == (status, [reason], False)
    assert "CANARY" not in json.dumps(answer)
    assert (lines[0]["error"], lines[0]["count"], lines[1]["status"]) == (error, 1, status)


def test_a_study_of_another_name_is_refused(doors):
    with doors.logs("stow.refused", "http.answered"):
        status, answer = doors.post(multipart(synthetic.part10(canary())), path=f"/dicomweb/studies/{UID}.2")
    assert (status, failure_reasons(answer)) == (409, [0xA901])


NO_BOUNDARY, NO_PARTS = "The body holds no boundary", "The body holds no parts"
UNSUPPORTED = "The media type of the body is not supported"
METADATA = 'multipart/related; type="application/dicom+json"; boundary=b0'
NO_DATA_SETS = "The metadata is no array of Data Sets"
MIXED = "Instances and metadata do not go into one request"


def metadata_part(content):
    return b"--b0\r\nContent-Type: application/dicom+json\r\n\r\n" + content + b"\r\n--b0--"


REQUESTS = {
    "no boundary": (multipart(b"CANARY"), MULTIPART.partition("; boundary")[0], 400, "Content-Type has no boundary"),
    "a boundary that never comes": (b"CANARY^PATIENT" * 100, MULTIPART, 400, NO_BOUNDARY),
    "no parts": (b"--b0--", MULTIPART, 400, NO_PARTS),
    "an empty body": (b"", MULTIPART, 400, NO_BOUNDARY),
    "a body that ends within a part": (
        multipart(synthetic.part10(canary()))[:-20],
        MULTIPART,
        400,
        "The body ends before its closing boundary",
    ),
    "no content type": (multipart(canary()), "", 415, UNSUPPORTED),
    "JSON": (b'{"00100010": "CANARY"}', "application/json", 415, UNSUPPORTED),
    "text": (b"CANARY^PATIENT", "text/plain; name=CANARY", 415, UNSUPPORTED),
    "instances where metadata is announced": (multipart(b"[]"), METADATA, 415, MIXED),
    "metadata that is no JSON": (metadata_part(b"[CANARY"), METADATA, 400, "The metadata is no JSON"),
    "metadata that is no Data Set": (
        metadata_part(b'["CANARY"]'),
        METADATA,
        400,
        "The metadata is no array of Data Sets",
    ),
    "metadata of nothing": (metadata_part(b"[]"), METADATA, 400, "The body holds no metadata"),
    "a form": (multipart(b"CANARY"), "multipart/form-data; boundary=b0", 415, UNSUPPORTED),
}


@pytest.mark.parametrize("name", REQUESTS)
def test_a_bad_request_is_refused_with_its_reason(doors, name):
    body, content_type, status, reason = REQUESTS[name]
    with doors.logs("http.answered") as lines:
        found, answer = doors.post(body, content_type)
    assert (found, answer["reason"]) == (status, reason)
    assert (lines[0]["status"], lines[0]["route"]) == (status, "/dicomweb/studies")


def test_an_empty_instance_without_multipart_is_refused(doors):
    with doors.logs("stow.refused", "http.answered"):
        status, answer = doors.post(b"", "application/dicom")
    assert (status, failure_reasons(answer)) == (400, [0xC000])


def test_a_compressed_body_is_not_unpacked(doors):
    headers = {"Content-Type": MULTIPART, "Content-Encoding": "gzip"}
    with doors.logs("http.answered"):
        status, _, content = doors.request("POST", "/dicomweb/studies", b"\x1f\x8bCANARY", headers)
    assert (status, json.loads(content)["error"]) == (415, "UnsupportedMediaType")


def test_a_client_that_goes_away_within_its_body_leaves_nothing(doors):
    body = multipart(synthetic.part10(canary()))
    with doors.logs("http.answered"), doors_socket(doors) as client:
        headers = f"Host: localhost\r\nContent-Type: {MULTIPART}\r\nContent-Length: 9999999\r\n\r\n"
        client.sendall(f"POST /dicomweb/studies HTTP/1.1\r\n{headers}".encode() + body[:-100])
    assert doors.kept() == []


@contextlib.contextmanager
def doors_socket(doors):
    with socket.create_connection(("127.0.0.1", doors.gateway.http_port), timeout=10) as client:
        yield client


def test_dimse_at_the_door_of_http_is_refused(doors):
    with doors_socket(doors) as client:
        client.sendall(associate_request(STORAGE, calling=b"CANARY"))
        assert client.recv(65536).startswith(b"HTTP/1.1 400 ")


# ------------------------------------------------------------------------------------------------ searches and paths

PATHS = {
    "an attribute that cannot be searched": ("/dicomweb/studies?PixelData=CANARY", 400),
    "a limit that is no number": ("/dicomweb/studies?PatientName=CANARY*&limit=CANARY", 400),
    "a date that is none": ("/dicomweb/studies?StudyDate=CANARY", 400),
    "a UID with a slash": (f"/dicomweb/studies/{UID}%2F..%2F..%2Fetc", 404),
    "a UID with letters": (f"/dicomweb/studies/{UID}.CANARY/metadata", 400),
    "a UID of 65 characters": (f"/dicomweb/studies/{UID}.{'1' * 65}/series", 400),
    "an unknown study": (f"/dicomweb/studies/{UID}.404", 404),
    "an unknown frame": (f"/dicomweb/studies/{STUDY}/series/{SERIES}/instances/{SOP_INSTANCE}/frames/1", 404),
    "frame zero": (f"/dicomweb/studies/{STUDY}/series/{SERIES}/instances/{SOP_INSTANCE}/frames/0", 400),
    "an unknown path": ("/dicomweb/CANARY/PATIENT?PatientID=CANARY-ID", 404),
    "a path out of the root": ("/dicomweb/../../../../etc/passwd?CANARY", 404),
}


@pytest.mark.parametrize("name", PATHS)
def test_a_bad_path_or_search_is_refused_and_not_repeated(doors, name):
    path, status = PATHS[name]
    with doors.logs("http.answered"):
        found, _, content = doors.request("GET", path)
    assert found == status
    assert [mark for mark in MARKS if mark in content] == []


# -------------------------------------------------------------------------------------------------------------- DIMSE

REFUSED = ("dimse.request.refused", "dimse.association.ended")
NO_VR = "An element has no Value Representation"
DATA_SETS = {
    "no DICOM": (lambda: b"%PDF-1.7 CANARY^PATIENT " * 50, EXPLICIT, 0xC000, NO_VR),
    "a Part 10 stream": (lambda: synthetic.part10(canary(), sop=SOP_INSTANCE), EXPLICIT, 0xC000, NO_VR),
    "a truncated one": (truncated, EXPLICIT, 0xC000, "An element is longer than what is left of the Data Set"),
    "a UID with a slash": (with_slash, EXPLICIT, 0xA900, "A UID is missing or malformed"),
    "another instance": (
        lambda: canary(f"{UID}.2"),
        EXPLICIT,
        0xA900,
        "The Data Set is not the instance that was announced",
    ),
    "a deflate bomb": (bomb, DEFLATED, 0xC000, "The deflated Data Set grows past its limit"),
    "endless nesting": (endless_nesting, EXPLICIT, 0xC000, "Sequences are nested too deep"),
}


@pytest.mark.parametrize("name", DATA_SETS)
def test_a_bad_data_set_is_refused_with_its_status(doors, name):
    make, syntax, status, reason = DATA_SETS[name]
    with doors.logs(*REFUSED) as lines:
        peer = raw_association(doors, (synthetic.SECONDARY_CAPTURE, [syntax]), calling=b"CANARYAE")
        found, comment = send(peer, make(), sop_instance=SOP_INSTANCE)
        peer.close()
    assert (found, comment) == (status, reason)
    assert (lines[0]["status"], lines[0]["reason"], lines[0]["command"]) == (f"{status:04X}", reason, "C-STORE")


def test_a_uid_with_a_slash_in_the_command_is_refused(doors):
    uid = f"{UID}/../../etc"
    with doors.logs(*REFUSED):
        peer = raw_association(doors, STORAGE)
        assert send(peer, canary(uid), sop_instance=uid)[0] == 0x0117
        peer.close()


def test_a_refusal_leaves_the_association_usable(doors):
    """One instance of many is bad: the sender goes on with the others (ST2)."""
    with doors.logs(*["dimse.request.refused"] * 3, "dimse.association.ended"):
        peer = raw_association(doors, STORAGE)
        statuses = [send(peer, make(), sop_instance=SOP_INSTANCE)[0] for make in (truncated, with_slash, truncated)]
        peer.close()
    assert statuses == [0xC000, 0xA900, 0xC000]


def test_half_an_association_request_is_cut_off_in_time(doors):
    half = associate_request(STORAGE, calling=b"CANARYAE")[:40]
    with doors.logs("dimse.connection.ended"):
        peer = doors.connect()
        peer.sendall(half)
        started = time.monotonic()
        while receive_pdu(peer)[0]:
            continue
        waited = time.monotonic() - started
        peer.close()
    assert SILENCE_SECONDS * 0.5 < waited < SILENCE_SECONDS + 3


def test_half_an_association_request_of_a_peer_that_leaves_is_one_quiet_line(doors):
    with doors.logs("dimse.connection.ended", level="DEBUG"):
        peer = doors.connect()
        peer.sendall(associate_request(STORAGE, calling=b"CANARYAE")[:40])
        peer.close()


@pytest.mark.parametrize("large", [False, True], ids=["in memory", "in a file"])
def test_half_an_instance_leaves_nothing(doors, large):
    with doors.logs("dimse.association.ended"):
        peer = raw_association(doors, STORAGE)
        peer.sendall(p_data(pdv(1, 3, store_command(SOP_INSTANCE))))
        peer.sendall(p_data(pdv(1, 0, canary())))
        for _ in range(200 if large else 1):
            peer.sendall(p_data(pdv(1, 0, bytes(16000))))
        peer.close()
    assert doors.kept() == []


def test_http_at_the_door_of_dimse_is_cut_off(doors):
    with doors.logs("dimse.connection.ended"):
        peer = doors.connect()
        peer.sendall(b"GET /CANARY/PATIENT HTTP/1.1\r\nHost: CANARY\r\n\r\n")
        while receive_pdu(peer)[0] not in (0, 7):
            continue
        peer.close()


# --------------------------------------------------------------------------------------- good input is not written too


def test_nothing_of_five_hundred_marked_instances_is_written(tmp_path):
    """H29: stored, searched, retrieved and rendered at every door, at the level that says most."""
    environment = {"GATEWAY_LOGS__LEVEL": "DEBUG"}
    instance = f"/dicomweb/studies/{STUDY}/series/{SERIES}/instances/{UID}.1.1.7"
    xml = urllib.parse.quote('multipart/related; type="application/dicom+xml"')
    paths = (
        f"/dicomweb/studies?PatientName={urllib.parse.quote('CANARY^PATIENT')}&includefield=all",
        f"/dicomweb/instances?PatientID=CANARY-ID&StudyInstanceUID={STUDY}&limit=500",
        f"/dicomweb/studies?PersonName=CANARY*&includefield=all&accept={xml}",
        f"/dicomweb/studies/{STUDY}/metadata",
        f"/dicomweb/studies/{STUDY}/metadata?accept={xml}",
        f"/dicomweb/studies/{STUDY}",
        f"{instance}/frames/1",
        f"{instance}/rendered",
        f"{instance}/thumbnail",
        f"{instance}/bulkdata/7FE00010",
    )
    with running_gateway(tmp_path / "data", "--workers", "1", environment=environment) as gateway:
        doors = Doors(gateway)
        with doors.logs("dimse.association.ended"):
            push_marked(doors, 250)
        with doors.logs(*["http.answered"] * (1 + len(paths))):
            parts = [synthetic.part10(canary(f"{UID}.2.1.{one}", study=f"{UID}.2")) for one in range(250)]
            assert doors.post(multipart(*parts))[0] == 200
            found = [doors.request("GET", path) for path in paths]
        assert [status for status, _, _ in found] == [200] * len(paths)
        assert found[0][2].count(b"CANARY^PATIENT") == 2, "the marks are there to be found"
        with doors.logs("dimse.association.ended"):
            assert find_marked(doors) == 250
        written = doors.written()
        assert [mark for mark in MARKS if mark in written] == []


def push_marked(doors, count):
    peer = raw_association(doors, STORAGE, calling=b"CANARYAE")
    for number in range(count):
        sop_instance = f"{UID}.1.1.{number}"
        assert send(peer, canary(sop_instance), sop_instance=sop_instance, message_id=number + 1)[0] == 0
    peer.close()


def find_marked(doors):
    """C-FIND with every key marked; how many matches."""
    keys = Dataset()
    keys.QueryRetrieveLevel = "IMAGE"
    keys.PatientName, keys.PatientID = "CANARY*", "CANARY-ID"
    keys.StudyInstanceUID, keys.SeriesInstanceUID, keys.SOPInstanceUID = STUDY, SERIES, ""
    ae = AE("CANARYAE")
    association = paced(ae.associate("127.0.0.1", doors.gateway.dimse_port, [build_context(STUDY_ROOT_FIND)]))
    assert association.is_established
    answers = [status.Status for status, _ in association.send_c_find(keys, STUDY_ROOT_FIND)]
    association.release()
    assert answers.pop() == 0
    return len(answers)
