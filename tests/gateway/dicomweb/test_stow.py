"""The Store transaction through a real server and a real archive, and its tables."""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import io
import itertools
import socket
import struct
import threading
import time

import orjson
import pydicom
import pytest
import uvicorn
from dicomweb_client import DICOMwebClient
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian
from starlette.applications import Starlette
from starlette.routing import Mount, Route

from gateway.dicomweb import stow
from gateway.dicomweb.responses import error_response
from gateway.dicomweb.store_response import (
    Failure,
    failure_of,
    failure_reason,
    status_for,
    store_instances_response,
)
from gateway.dicomweb.stow import Part
from gateway.security.actor import Actor
from gateway.session import Session
from gateway.settings import ArchiveSettings, HttpSettings, Settings
from storage import errors
from storage.archive import Archive
from storage.index import open_index
from storage.model import Instance, Outcome, Receipt, Scope, Source
from storage.objects import open_object_store
from storage.spool import SPOOL_SUFFIX, Spool

MAXIMUM_INSTANCE_BYTES = 8 << 20
_NUMBERS = itertools.count(1)
SECONDARY_CAPTURE = "1.2.840.10008.5.1.4.1.1.7"


def new_uid():
    return f"2.25.31415926.{next(_NUMBERS)}"


class FailingStore:
    """The real object store, whose ``put`` number n and later ones fail while ``fails_from`` is n."""

    def __init__(self, store):
        self._store = store
        self._puts = itertools.count(1)
        self.fails_from = 1 << 30

    def put(self, key, spool):
        if next(self._puts) >= self.fails_from:
            raise errors.StorageUnavailable
        return self._store.put(key, spool)

    def __getattr__(self, name):
        return getattr(self._store, name)


class Served:
    """An archive in a folder and the Store transaction over it, on a port of loopback."""

    def __init__(self, folder):
        self.objects = FailingStore(open_object_store(folder / "objects"))
        self.index = open_index(folder / "index.sqlite")
        self.archive = Archive(self.objects, self.index, maximum_instance_bytes=MAXIMUM_INSTANCE_BYTES)
        self.folder = folder
        app = Starlette(
            routes=[
                Mount(
                    "/dicomweb",
                    routes=[
                        Route("/studies", stow.store, methods=["POST"]),
                        Route("/studies/{study}", stow.store, methods=["POST"]),
                    ],
                )
            ],
            exception_handlers={errors.GatewayError: error_response},
        )
        self.app = app
        app.state.settings = Settings(archive=ArchiveSettings(data=folder))
        app.state.sessions = lambda actor: Session(self.archive, actor)
        self.listener = socket.socket()
        self.listener.bind(("127.0.0.1", 0))
        self.port = self.listener.getsockname()[1]
        config = uvicorn.Config(app, http="httptools", ws="none", lifespan="off", log_config=None, access_log=False)
        self.server = uvicorn.Server(config)
        self.thread = threading.Thread(target=self.server.run, kwargs={"sockets": [self.listener]})

    @property
    def url(self):
        return f"http://127.0.0.1:{self.port}/dicomweb"

    def post(self, body, content_type='multipart/related; type="application/dicom"; boundary=b0', study="", **headers):
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        fields = {name.replace("_", "-"): value for name, value in headers.items()}
        if content_type is not None:
            fields["Content-Type"] = content_type
        try:
            connection.request("POST", "/dicomweb/studies" + study, body, fields)
            response = connection.getresponse()
            text = response.read()
            return Answer(response.status, dict(response.getheaders()), orjson.loads(text))
        finally:
            connection.close()

    def waiting_files(self):
        return list(self.folder.rglob("*" + SPOOL_SUFFIX))

    def data_set_bytes(self, sent):
        instance = self.index.find([sent.sop]).get(sent.sop)
        if instance is None:
            return None
        with self.objects.open(instance.key) as blob:
            return blob.read(instance.data_set_offset, instance.size_bytes)


class Answer:
    """Status, headers and the Store Instances Response Module."""

    def __init__(self, status, headers, module):
        self.status, self.headers, self.module = status, headers, module

    def values(self, sequence, tag):
        items = self.module.get(sequence, {}).get("Value", [])
        return [item[tag]["Value"][0] if tag in item else None for item in items]

    @property
    def stored(self):
        return self.values("00081199", "00081155")

    @property
    def failed(self):
        return dict(zip(self.values("00081198", "00081155"), self.values("00081198", "00081197"), strict=True))

    @property
    def others(self):
        return self.values("0008119A", "00081197")


class Sent:
    """One synthetic instance: its UIDs, its Part 10 bytes and the bytes of its Data Set."""

    def __init__(self, study=None, sop=None, size_bytes=100, text="A", class_uid=SECONDARY_CAPTURE):
        self.study, self.sop = study or new_uid(), sop or new_uid()
        data_set = Dataset()
        data_set.SOPClassUID = class_uid
        data_set.SOPInstanceUID = self.sop
        data_set.Modality = "OT"
        data_set.PatientName = text
        data_set.StudyInstanceUID = self.study
        data_set.SeriesInstanceUID = self.study + ".1"
        data_set.EncapsulatedDocument = b"\r\n--" * (size_bytes // 4)
        data_set.file_meta = FileMetaDataset()
        data_set.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        data_set.file_meta.MediaStorageSOPClassUID = class_uid
        data_set.file_meta.MediaStorageSOPInstanceUID = self.sop
        stream = io.BytesIO()
        pydicom.dcmwrite(stream, data_set, enforce_file_format=True)
        self.part10 = stream.getvalue()
        (meta_bytes,) = struct.unpack_from("<I", self.part10, 140)
        self.data_set = self.part10[144 + meta_bytes :]


def multipart_body(*parts, content_type="application/dicom", boundary="b0"):
    """As OHIF writes it: CRLF first, and none at the end."""
    kind = f"Content-Type: {content_type}\r\n" if content_type else ""
    head = f"\r\n--{boundary}\r\n{kind}\r\n".encode()
    contents = [one.part10 if isinstance(one, Sent) else one for one in parts]
    return b"".join(head + content for content in contents) + f"\r\n--{boundary}--".encode()


@pytest.fixture
def served(tmp_path):
    one = Served(tmp_path)
    one.thread.start()
    try:
        while not one.server.started:
            time.sleep(0.005)
        yield one
    finally:
        one.server.should_exit = True
        one.thread.join(30)
        one.archive.close()
    assert one.waiting_files() == []


# ------------------------------------------------------------------------------------------------------- what is kept


def test_ohif_s_literal_request_is_stored_and_answered_with_the_module(served):
    sent = Sent()
    guid = "5a1c6b02-9a5e-4c1e-8f0f-3f6f1f0f9b1c"
    body = multipart_body(sent, boundary=guid)
    answer = served.post(body, f'multipart/related; type="application/dicom"; boundary="{guid}"')
    study = f"{served.url}/studies/{sent.study}"
    assert (answer.status, answer.headers["content-type"]) == (200, "application/dicom+json")
    assert answer.module == {
        "00081190": {"vr": "UR", "Value": [study]},
        "00081199": {
            "vr": "SQ",
            "Value": [
                {
                    "00081150": {"vr": "UI", "Value": [SECONDARY_CAPTURE]},
                    "00081155": {"vr": "UI", "Value": [sent.sop]},
                    "00081190": {"vr": "UR", "Value": [f"{study}/series/{sent.study}.1/instances/{sent.sop}"]},
                }
            ],
        },
    }
    assert served.data_set_bytes(sent) == sent.data_set
    assert "location" not in {name.lower() for name in answer.headers}


def test_dicomweb_client_stores_a_study(served):
    study = new_uid()
    sent = [Sent(study) for _ in range(20)]
    data_sets = [pydicom.dcmread(io.BytesIO(one.part10)) for one in sent]
    for data_set in data_sets:
        data_set.file_meta.MediaStorageSOPInstanceUID = data_set.SOPInstanceUID
    answer = DICOMwebClient(served.url).store_instances(data_sets, study_instance_uid=study)
    assert [item.ReferencedSOPInstanceUID for item in answer.ReferencedSOPSequence] == [one.sop for one in sent]
    assert answer.RetrieveURL == f"{served.url}/studies/{study}"


@pytest.mark.parametrize("size_bytes", [1, 7, 1000, 65536])
def test_a_chunked_body_is_stored_whatever_the_size_of_its_chunks(served, size_bytes):
    sent = [Sent(size_bytes=3000), Sent(size_bytes=3000)]
    body = multipart_body(*sent)
    chunks = (body[start : start + size_bytes] for start in range(0, len(body), size_bytes))
    answer = served.post(chunks)
    assert (answer.status, answer.stored) == (200, [one.sop for one in sent])
    assert [served.data_set_bytes(one) for one in sent] == [one.data_set for one in sent]


@pytest.mark.parametrize("size_bytes", [10_000, 900_000, 1 << 20, 5_000_000])
def test_small_and_large_instances_come_out_as_they_went_in(served, size_bytes):
    sent = [Sent(size_bytes=size_bytes), Sent(), Sent(size_bytes=size_bytes)]
    answer = served.post(multipart_body(*sent))
    assert (answer.status, answer.stored) == (200, [one.sop for one in sent])
    assert [served.data_set_bytes(one) for one in sent] == [one.data_set for one in sent]


def test_a_single_instance_needs_no_multipart(served):
    sent = Sent(size_bytes=2_000_000)
    answer = served.post(sent.part10, "application/dicom; transfer-syntax=1.2.840.10008.1.2.1")
    assert (answer.status, answer.stored) == (200, [sent.sop])
    assert served.data_set_bytes(sent) == sent.data_set


@pytest.mark.parametrize(
    "content_type",
    [
        "multipart/related;type=application/dicom;boundary=b0",
        'Multipart/Related; boundary="b0"',
        "multipart/related; boundary=b0; type=Application/DICOM",
    ],
)
@pytest.mark.parametrize(
    "part_type", ["application/dicom", "Application/DICOM; transfer-syntax=1.2.840.10008.1.2.1", ""]
)
def test_spellings_of_the_content_type_make_no_difference(served, content_type, part_type):
    sent = Sent()
    assert served.post(multipart_body(sent, content_type=part_type), content_type).stored == [sent.sop]


def test_many_parts_are_answered_in_their_order(served):
    sent = [Sent(size_bytes=size) for size in itertools.islice(itertools.cycle([100, 300_000, 20_000]), 40)]
    answer = served.post(multipart_body(*sent))
    assert (answer.status, answer.stored) == (200, [one.sop for one in sent])
    assert answer.module["00081190"] == {"vr": "UR"}


@pytest.mark.parametrize(
    ("accept", "expected"),
    [
        ("application/json", "application/json"),
        ("application/dicom+json", "application/dicom+json"),
        ("*/*", "application/dicom+json"),
        ("image/png", "application/dicom+json"),
    ],
)
def test_accept_chooses_the_answer_and_never_costs_the_store(served, accept, expected):
    answer = served.post(multipart_body(Sent()), Accept=accept)
    assert (answer.status, answer.headers["content-type"]) == (200, expected)


# ------------------------------------------------------------------------------------------------ what is not, or twice


def test_the_same_instance_again_is_a_success(served):
    sent = Sent()
    assert served.post(multipart_body(sent)).status == 200
    answer = served.post(multipart_body(sent, sent))
    assert (answer.status, answer.stored) == (200, [sent.sop, sent.sop])
    assert answer.values("00081199", "00081196") == [None, None]


def test_other_bytes_under_a_known_uid_are_accepted_with_a_warning_and_the_first_stays(served):
    first = Sent(text="First")
    second = Sent(first.study, first.sop, text="Second")
    assert served.post(multipart_body(first)).status == 200
    answer = served.post(multipart_body(second))
    assert (answer.status, answer.stored) == (202, [first.sop])
    assert answer.values("00081199", "00081196") == [0xB000]
    assert served.data_set_bytes(first) == first.data_set


def test_one_bad_part_never_aborts_the_rest(served):
    study = new_uid()
    good, other, last = Sent(study), Sent(), Sent(study, size_bytes=100_000)
    nameless = Sent(study).part10.replace(b"\x20\0\x0d\0", b"\x20\0\x0c\0")
    answer = served.post(multipart_body(b"not DICOM", good, other, b"", nameless, last), study=f"/{study}")
    assert answer.status == 202
    assert answer.stored == [good.sop, last.sop]
    assert next(iter(answer.failed.items())) == (other.sop, 0xA901)
    assert list(answer.failed.values())[1:] == [0xA900]
    assert answer.others == [0xC000, 0xC000]
    assert answer.module["00081190"]["Value"] == [f"{served.url}/studies/{study}"]
    assert served.index.find([other.sop]) == {}


def test_a_part_of_another_type_fails_alone(served):
    sent = Sent()
    body = multipart_body(sent)[: -len("\r\n--b0--")] + multipart_body(b"{}" * 50_000, content_type="application/json")
    answer = served.post(body)
    assert (answer.status, answer.stored, answer.others) == (202, [sent.sop], [0xC000])


def test_an_instance_over_the_limit_fails_alone(served):
    sent, huge = Sent(), Sent(size_bytes=MAXIMUM_INSTANCE_BYTES + 4)
    answer = served.post(multipart_body(huge, sent))
    assert (answer.status, answer.stored, answer.failed) == (202, [sent.sop], {huge.sop: 0xA700})
    assert served.post(multipart_body(huge)).status == 413


ALONE = [
    ("another study", Sent, "/1.2.3", 409, [0xA901], []),
    ("not DICOM", lambda: b"not DICOM", "", 400, [], [0xC000]),
    ("not DICOM, large", lambda: b"not DICOM" * 300_000, "", 400, [], [0xC000]),
    ("cut in its File Meta", lambda: Sent().part10[:200], "", 400, [], [0xC000]),
    ("empty", lambda: b"", "", 400, [], [0xC000]),
]


@pytest.mark.parametrize(("name", "make", "study", "status", "failed", "others"), ALONE)
def test_when_nothing_is_stored_the_status_says_why(served, name, make, study, status, failed, others):
    answer = served.post(multipart_body(make()), study=study)
    assert (answer.status, list(answer.failed.values()), answer.others) == (status, failed, others)
    assert answer.stored == []


REFUSED = [
    ("no Content-Type", None, b"x", 415, "UnsupportedMediaType"),
    ("another Content-Type", "application/json", b"{}", 415, "UnsupportedMediaType"),
    ("a form", "multipart/form-data; boundary=b0", b"x", 415, "UnsupportedMediaType"),
    ("text", 'multipart/related; type="text/plain"; boundary=b0', b"x", 415, "UnsupportedMediaType"),
    ("metadata", 'multipart/related; type="application/dicom+json"; boundary=b0', b"x", 400, "BadRequest"),
    ("no boundary", 'multipart/related; type="application/dicom"', b"x", 400, "BadRequest"),
    ("another boundary", "multipart/related; boundary=b1", multipart_body(b"x"), 400, "BadRequest"),
    ("no body", "multipart/related; boundary=b0", b"", 400, "BadRequest"),
    ("no parts", "multipart/related; boundary=b0", b"--b0--\r\n", 400, "BadRequest"),
    ("cut off", "multipart/related; boundary=b0", multipart_body(b"x" * 99)[:-2], 400, "BadRequest"),
    ("endless header", "multipart/related; boundary=b0", b"--b0\r\nA: " + b"a" * 9999, 413, "TooLarge"),
]


@pytest.mark.parametrize(("name", "content_type", "body", "status", "error"), REFUSED)
def test_a_request_that_cannot_be_understood_is_refused_with_a_reason(served, name, content_type, body, status, error):
    answer = served.post(body, content_type)
    assert (answer.status, answer.module["error"]) == (status, error)
    assert answer.module["reason"]


@pytest.mark.parametrize("coding", ["gzip", "identity, deflate", "br"])
def test_a_compressed_body_is_refused(served, coding):
    assert served.post(b"x", Content_Encoding=coding).status == 415
    assert served.post(multipart_body(Sent()), Content_Encoding="identity").status == 200


def test_a_malformed_study_in_the_path_is_refused(served):
    assert served.post(multipart_body(Sent()), study="/1.2.x").status == 400


def test_what_came_before_a_break_in_the_body_stays_stored_and_is_reported(served):
    sent = [Sent(), Sent()]
    answer = served.post(multipart_body(*sent, b"cut")[:-12])
    assert (answer.status, answer.stored, answer.others) == (202, [one.sop for one in sent], [0xC000])


@pytest.mark.parametrize(
    ("limit", "refused"),
    [
        ({"stow_maximum_parts": 2}, lambda: multipart_body(b"", b"", b"")),
        ({"stow_maximum_part_headers": 1}, lambda: multipart_body(b"", content_type="application/dicom\r\nA: b")),
        ({"stow_maximum_part_header_bytes": 64}, lambda: multipart_body(b"", content_type="a/" + "b" * 64)),
    ],
)
def test_the_limits_of_the_settings_hold(served, limit, refused):
    assert served.post(refused()).status in (400, 415)
    served.app.state.settings = Settings(http=HttpSettings(**limit))
    assert served.post(refused()).status == 413


# ------------------------------------------------------------------------------------------------------------- faults


def test_when_the_store_is_down_the_client_is_told_to_come_back_and_later_it_works(served):
    sent = [Sent() for _ in range(12)]
    served.objects.fails_from = 1
    answer = served.post(multipart_body(*sent))
    assert (answer.status, answer.stored) == (503, [])
    assert int(answer.headers["retry-after"]) > 0
    assert served.waiting_files() == []
    served.objects.fails_from = 1 << 30
    assert served.post(multipart_body(*sent)).stored == [one.sop for one in sent]


def test_whatever_put_fails_exactly_what_is_acknowledged_is_kept(served):
    for number in (1, 2, 5, 12):
        sent = [Sent(size_bytes=2_000_000 if index % 4 == 3 else 1000) for index in range(12)]
        served.objects._puts = itertools.count(1)
        served.objects.fails_from = number
        answer = served.post(multipart_body(*sent))
        assert len(answer.stored) == number - 1
        assert answer.status == (503 if number == 1 else 202)
        kept = [one.sop for one in sent if served.index.find([one.sop])]
        assert kept == answer.stored
        assert served.waiting_files() == []


def test_a_client_that_goes_away_leaves_no_file_and_no_half_instance(served):
    first, second = Sent(), Sent(size_bytes=6_000_000)
    body = multipart_body(first, second)
    for at in (100, len(body) // 2, len(body) - 4):
        with socket.create_connection(("127.0.0.1", served.port)) as client:
            head = (
                "POST /dicomweb/studies HTTP/1.1\r\nHost: localhost\r\nContent-Type: multipart/related; boundary=b0\r\n"
            )
            client.sendall(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body[:at])
            deadline = time.monotonic() + 20
            while at == len(body) // 2 and not served.waiting_files():
                assert time.monotonic() < deadline
                time.sleep(0.005)
        while served.waiting_files():
            assert time.monotonic() < deadline
            time.sleep(0.005)
        assert served.index.find([second.sop]) == {}
        assert served.data_set_bytes(first) in (None, first.data_set)
    assert served.post(body).status == 200


def test_a_part_that_is_dropped_while_a_thread_writes_it_leaves_no_file(tmp_path):
    async def drop_midway():
        part = Part(Spool(tmp_path, maximum_bytes=1 << 30), "")
        data = memoryview(Sent(size_bytes=40_000_000).part10)
        for start in range(0, len(data), 1 << 20):
            await part.add(data[start : start + (1 << 20)])
        part.drop()
        await part.settle()
        assert part.store(None, None, "") is None

    for _ in range(5):
        asyncio.run(drop_midway())
        assert list(tmp_path.iterdir()) == []


def test_a_store_that_is_cancelled_before_its_thread_begins_leaves_no_file(tmp_path):
    objects = open_object_store(tmp_path / "objects")
    index = open_index(tmp_path / "index.sqlite")
    session = Session(Archive(objects, index), Actor("web", ""))

    async def cancel():
        intake = stow.Intake(session, Source("dicomweb"), "")
        await intake.take(stow.PartBegins({}))
        await intake.take(memoryview(Sent(size_bytes=5_000_000).part10))
        await intake.take(stow.Mark.PART_ENDS)
        waiting = asyncio.create_task(intake.outcomes())
        await asyncio.sleep(0)
        waiting.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await waiting
        await intake.close()

    with contextlib.closing(index):
        asyncio.run(cancel())
        deadline = time.monotonic() + 10
        while list(tmp_path.rglob("*" + SPOOL_SUFFIX)):
            assert time.monotonic() < deadline
            time.sleep(0.005)


# ------------------------------------------------------------------------------------------------------------- tables


def _classes(kind=errors.GatewayError):
    yield kind
    for child in kind.__subclasses__():
        yield from _classes(child)


@pytest.mark.parametrize("kind", list(_classes()))
def test_every_error_has_a_failure_reason_of_the_standard_s_ranges(kind):
    reason = failure_reason(kind())
    ranges = (range(0xA700, 0xAA00), range(0xC000, 0xD000), range(0x0110, 0x0125), (45070,))
    assert any(reason in one for one in ranges)


def test_a_failure_holds_no_traceback_and_only_real_uids():
    failure = failure_of(errors.StudyMismatch(uid="1.2"))
    assert failure == Failure("StudyMismatch", 0xA901, 409, is_retryable=False)


def _receipt(number, outcome=Outcome.STORED, study="1.2"):
    return Receipt(outcome, Instance(study, f"{study}.1", f"{study}.1.{number}", "1.5", "1.2.1", "", "", 1, 1))


STORED, CONFLICT, VARIANT = _receipt(1), _receipt(2, Outcome.CONFLICT), _receipt(3, Outcome.VARIANT)
JUNK, MISMATCH, FULL, BUSY = (
    failure_of(kind()) for kind in (errors.NotDicom, errors.StudyMismatch, errors.TooLarge, errors.Overloaded)
)


@pytest.mark.parametrize(
    ("outcomes", "status"),
    [
        ([STORED], 200),
        ([STORED, VARIANT, _receipt(4, Outcome.DUPLICATE)], 200),
        ([STORED, CONFLICT], 202),
        ([STORED, JUNK], 202),
        ([BUSY, STORED], 202),
        ([JUNK, JUNK], 400),
        ([MISMATCH], 409),
        ([JUNK, MISMATCH], 409),
        ([FULL], 413),
        ([BUSY, BUSY], 503),
        ([BUSY, JUNK], 409),
    ],
)
def test_the_status_follows_from_the_outcomes(outcomes, status):
    assert status_for(outcomes) == status


def test_the_module_names_the_study_only_when_there_is_one():
    two = [_receipt(1), _receipt(1, study="1.3")]
    assert store_instances_response(two, "http://h")["00081190"] == {"vr": "UR"}
    assert store_instances_response(two[:1], "http://h")["00081190"]["Value"] == ["http://h/studies/1.2"]
    assert store_instances_response([JUNK], "http://h", "1.9")["00081190"]["Value"] == ["http://h/studies/1.9"]


def test_the_module_stands_in_the_order_of_tags():
    failed = Failure("NotDicom", 0xC000, 400, is_retryable=False, sop_class_uid="1.5", sop_instance_uid="1.6")
    module = store_instances_response([JUNK, STORED, failed], "http://h")
    assert list(module) == ["00081190", "00081198", "00081199", "0008119A"]
    assert module["00081198"]["Value"][0]["00081155"]["Value"] == ["1.6"]
    assert module["00081199"]["Value"][0]["00081190"]["Value"] == [
        "http://h/studies/1.2/series/1.2.1/instances/1.2.1.1"
    ]
    assert Scope("1.2", "1.2.1", "1.2.1.1") == STORED.instance.scope
