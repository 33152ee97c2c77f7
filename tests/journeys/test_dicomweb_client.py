"""A researcher's script: dicomweb-client stores the samples, finds them by every level, and gets them back.

What it sends is what pydicom writes of a sample; what it gets back is compared with that by pydicom. S1, Q, W1–W11;
and one request of 500 instances, with what it costs the server (S15, H3).
"""

from __future__ import annotations

import contextlib
import hashlib
import http.client
import io
import json
import secrets
import shutil
import struct
import threading
from dataclasses import dataclass

import numpy as np
import psutil
import pydicom
import pytest
from dicomweb_client import DICOMwebClient
from PIL import Image
from pydicom.encaps import generate_frames

from tests import synthetic
from tests.fix_servers import running_gateway
from tests.journeys.files import BIG_ENDIAN, EXPLICIT, IMPLICIT, samples
from tests.journeys.judge import differences, lenient, pixels_differ

MEBIBYTE = 1 << 20
IDENTITY = ("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID")
NEVER_SENT = (IMPLICIT, BIG_ENDIAN)
FRAME_TYPES = {
    "1.2.840.10008.1.2.5": "image/dicom-rle",
    "1.2.840.10008.1.2.4.50": "image/jpeg",
    "1.2.840.10008.1.2.4.90": "image/jp2",
}


@dataclass
class Round:
    """A gateway, the client, and what it has stored; answer: the Store Instances Response."""

    client: DICOMwebClient
    sent: list
    answer: pydicom.Dataset

    def expected(self, keep, *keywords):
        """Values that a search has to return: distinct, of what is kept."""
        return {tuple(str(one[keyword].value) for keyword in keywords) for one in self.sent if keep(one)}


@pytest.fixture(scope="module")
def round_trip(tmp_path_factory):
    sent = [pydicom.dcmread(file.path) for file in samples()]
    with running_gateway(tmp_path_factory.mktemp("client") / "data") as gateway:
        client = DICOMwebClient(gateway.dicomweb)
        yield Round(client, sent, client.store_instances(sent))


def uids(data_set):
    return tuple(str(data_set[keyword].value) for keyword in IDENTITY)


def syntax_of(data_set):
    return str(data_set.file_meta.TransferSyntaxUID)


def stored_ids(sent):
    return [one.SOPInstanceUID for one in sent]


def test_all_samples_are_stored_in_one_request(round_trip):
    references = round_trip.answer.ReferencedSOPSequence
    assert sorted(item.ReferencedSOPInstanceUID for item in references) == sorted(stored_ids(round_trip.sent))
    assert "FailedSOPSequence" not in round_trip.answer
    assert all("WarningReason" not in item for item in references)


def test_storing_them_again_is_no_conflict(round_trip):
    answer = round_trip.client.store_instances(round_trip.sent[:20])
    assert len(answer.ReferencedSOPSequence) == 20
    assert all("WarningReason" not in item for item in answer.ReferencedSOPSequence)


def problems(sent, back):
    """In what a retrieved Data Set is not the one that was sent, where its encoding may be sent that one's too."""
    syntax = EXPLICIT if syntax_of(sent) in NEVER_SENT else syntax_of(sent)
    with lenient():
        found = [*differences(sent, back)]
        if syntax_of(back) != syntax:
            found.append((syntax_of(back), "transfer syntax"))
        if pixels_differ(sent, back):
            found.append(("pixels",))
    return [(sent.SOPInstanceUID, *one) for one in found]


AS_STORED = (("application/dicom", "*"),)


def test_each_instance_comes_back_as_it_was_stored(round_trip):
    client = round_trip.client
    back = [client.retrieve_instance(*uids(one), media_types=AS_STORED) for one in round_trip.sent]
    assert [found for pair in zip(round_trip.sent, back, strict=True) for found in problems(*pair)] == []


def test_studies_and_series_come_back_whole(round_trip):
    client, by_uid = round_trip.client, {one.SOPInstanceUID: one for one in round_trip.sent}
    for keywords, retrieve in ((IDENTITY[:1], client.retrieve_study), (IDENTITY[:2], client.retrieve_series)):
        resources = round_trip.expected(lambda _: True, *keywords)
        back = [one for resource in resources for one in retrieve(*resource, media_types=AS_STORED)]
        assert sorted(stored_ids(back)) == sorted(by_uid)
        assert [found for one in back for found in problems(by_uid[one.SOPInstanceUID], one)] == []


def test_a_client_that_names_no_transfer_syntax_gets_explicit_little_endian(round_trip):
    native = [one for one in round_trip.sent if not one.file_meta.TransferSyntaxUID.is_compressed]
    assert len({syntax_of(one) for one in native}) == 4
    for one in native:
        back = round_trip.client.retrieve_instance(*uids(one), media_types=("application/dicom",))
        assert syntax_of(back) == EXPLICIT
        assert list(differences(one, back)) == []


def bulk_elements(model, data_set):
    """Every reference to bulk data in the JSON model, with the element that pydicom reads there."""
    for tag, element in model.items():
        if "BulkDataURI" in element:
            yield element["BulkDataURI"], data_set[int(tag, 16)]
        elif element["vr"] == "SQ":
            for item, inner in zip(element.get("Value", []), data_set[int(tag, 16)].value, strict=True):
                yield from bulk_elements(item, inner)


def test_metadata_and_bulk_data_together_are_the_instance(round_trip):
    client = round_trip.client
    models = [
        model
        for (study,) in round_trip.expected(lambda _: True, "StudyInstanceUID")
        for model in client.retrieve_study_metadata(study)
    ]
    assert len(models) == len(round_trip.sent)
    by_uid = {one.SOPInstanceUID: one for one in round_trip.sent}
    fetched = 0
    for model in models:
        sent = by_uid[model["00080018"]["Value"][0]]
        for uri, element in bulk_elements(model, sent):
            parts = client.retrieve_bulkdata(uri)
            assert parts == bulk_parts(sent, element), (uri, element.tag)
            fetched += 1
        described = pydicom.Dataset.from_json(model, bulk_data_uri_handler=lambda _: b"")
        del described.AvailableTransferSyntaxUID
        with lenient():
            found = [one for one in differences(sent, described) if not one_is_bulk(model, one)]
        assert found == []
    print(f"{fetched} bulk data values of {len(models)} instances")
    assert fetched >= 47


def one_is_bulk(model, difference):
    """Whether a difference is in an element that the model only refers to."""
    for step in difference[:-1]:
        model = model["Value"][step] if isinstance(step, int) else model[step]
    return "BulkDataURI" in model


def bulk_parts(data_set, element):
    """What retrieving an element's bulk data has to give: its value in little endian, or its frames."""
    if element.tag == 0x7FE00010 and data_set.file_meta.TransferSyntaxUID.is_compressed:
        return [padded(frame) for frame in frames_of(data_set)]
    value = element.value if isinstance(element.value, bytes) else encoded(element)
    if data_set.original_encoding == (False, False) and element.VR == "OW":
        value = b"".join(value[at + 1 : at + 2] + value[at : at + 1] for at in range(0, len(value), 2))
    return [value]


def encoded(element):
    """A value of numbers or text as Explicit VR Little Endian has it."""
    letter = {"US": "H", "SS": "h", "UL": "I", "SL": "i", "FL": "f", "FD": "d"}[element.VR]
    return struct.pack(f"<{element.VM}{letter}", *element.value)


def frames_of(data_set):
    extended = data_set.get("ExtendedOffsetTable"), data_set.get("ExtendedOffsetTableLengths")
    return list(
        generate_frames(
            data_set.PixelData,
            number_of_frames=int(data_set.get("NumberOfFrames") or 1),
            extended_offsets=extended if extended[0] else None,
        )
    )


def padded(frame):
    return frame + b"\0" * (len(frame) % 2)


def images(sent):
    return [one for one in sent if "PixelData" in one]


def test_frames_come_in_the_order_asked_for_as_they_are_stored(round_trip):
    seen = set()
    for one in images(round_trip.sent):
        count = int(one.get("NumberOfFrames") or 1)
        numbers = list(range(count, 0, -1))
        syntax = syntax_of(one)
        seen.add(syntax)
        kind = ((FRAME_TYPES.get(syntax, "application/octet-stream"), syntax if syntax in FRAME_TYPES else EXPLICIT),)
        back = round_trip.client.retrieve_instance_frames(*uids(one), frame_numbers=numbers, media_types=kind)
        assert [padded(frame) for frame in back] == [padded(frame) for frame in expected_frames(one)[::-1]]
    assert len(seen) == 7


def expected_frames(data_set):
    """The frames of an image as pydicom cuts them."""
    if data_set.file_meta.TransferSyntaxUID.is_compressed:
        return frames_of(data_set)
    count = int(data_set.get("NumberOfFrames") or 1)
    if data_set.BitsAllocated == 1:
        pixels = data_set.pixel_array.reshape(count, -1)
        return [np.packbits(frame, bitorder="little").tobytes() for frame in pixels]
    size_bytes = data_set.Rows * data_set.Columns * data_set.SamplesPerPixel * data_set.BitsAllocated // 8
    (value,) = bulk_parts(data_set, data_set["PixelData"])
    return [value[at * size_bytes : (at + 1) * size_bytes] for at in range(count)]


def test_every_image_is_rendered_in_its_shape(round_trip):
    for one in images(round_trip.sent):
        raw = round_trip.client.retrieve_instance_rendered(*uids(one), media_types=("image/jpeg", "image/jpeg"))
        with Image.open(io.BytesIO(raw)) as picture:
            high, wide = (int(part) for part in one.get("PixelAspectRatio") or (1, 1))
            ratio = picture.width / picture.height
            assert ratio == pytest.approx(one.Columns * wide / (one.Rows * high), rel=0.02), one.SOPClassUID
            assert picture.getextrema() not in ((0, 0), ((0, 0),) * 3)


SEARCHES = {
    "all": ({}, lambda _: True, 7),
    "a patient": ({"PatientID": "SAMPLE-0002"}, lambda one: one.PatientID == "SAMPLE-0002", 1),
    "a Greek name": ({"PatientName": "Παπα*"}, lambda one: one.PatientID == "SAMPLE-0003", 1),
    "a German name": ({"PatientName": "weißmüller*"}, lambda one: one.PatientID == "SAMPLE-0001", 1),
    "nobody": ({"PatientID": "SAMPLE-9"}, lambda _: False, 0),
    "since": ({"StudyDate": "20220608-"}, lambda one: one.StudyDate >= "20220608", 4),
    "until": ({"StudyDate": "-20210519"}, lambda one: one.StudyDate <= "20210519", 3),
}


@pytest.mark.parametrize("name", SEARCHES)
def test_studies_are_found_by_what_the_headers_say(round_trip, name):
    filters, keep, count = SEARCHES[name]
    rows = round_trip.client.search_for_studies(search_filters=filters)
    assert len(rows) == count
    assert {(row["0020000D"]["Value"][0],) for row in rows} == round_trip.expected(keep, "StudyInstanceUID")


@pytest.mark.parametrize("modality", ["CT", "MR", "US", "SEG", "OT", "PT"])
def test_series_are_found_by_modality_in_all_studies_and_in_one(round_trip, modality):
    client = round_trip.client

    def keep(one):
        return one.Modality == modality

    rows = client.search_for_series(search_filters={"Modality": modality})
    found = {(row["0020000D"]["Value"][0], row["0020000E"]["Value"][0]) for row in rows}
    assert found == round_trip.expected(keep, *IDENTITY[:2])
    for study, _ in found:
        inside = client.search_for_series(study, search_filters={"Modality": modality})
        assert {(study, row["0020000E"]["Value"][0]) for row in inside} == {one for one in found if one[0] == study}


def test_instances_are_paged_and_show_the_fields_that_are_asked_for(round_trip):
    client = round_trip.client
    study, series, _ = uids(round_trip.sent[0])
    keep = stored_ids(one for one in round_trip.sent if one.SeriesInstanceUID == series)
    pages = [client.search_for_instances(study, series, limit=7, offset=at, fields=["Rows"]) for at in range(0, 28, 7)]
    assert [len(page) for page in pages] == [7, 7, 6, 0]
    rows = [row for page in pages for row in page]
    assert sorted(row["00080018"]["Value"][0] for row in rows) == sorted(keep)
    assert all(row["00280010"] == {"vr": "US", "Value": [189]} for row in rows)
    everything = client.search_for_instances(get_remaining=True, limit=9)
    assert sorted(row["00080018"]["Value"][0] for row in everything) == sorted(stored_ids(round_trip.sent))


# ------------------------------------------------------------------------------------- one request of 500 instances

INSTANCES, ROWS, COLUMNS = 500, 512, 976
GROWTH_BYTES = 64 * MEBIBYTE
PIXELS = bytes(range(256)) * (ROWS * COLUMNS // 256)


class Load:
    """The bodies of one request, made while they are sent; digests: of each Data Set, by SOP Instance UID."""

    def __init__(self, count):
        self.study = f"2.25.{secrets.randbits(64)}"
        self.count = count
        self.digests = {}

    def chunks(self):
        tail = synthetic.element(0x7FE00010, "OW", PIXELS)
        for number in range(1, self.count + 1):
            sop_instance = f"{self.study}.1.{number}"
            head = synthetic.data_set(
                self.study,
                f"{self.study}.1",
                sop_instance,
                number=number,
                extra=tuple(synthetic.image_elements(ROWS, COLUMNS)),
            )
            self.digests[sop_instance] = hashlib.sha256(head + tail).hexdigest()
            yield b"--b0\r\nContent-Type: application/dicom\r\n\r\n" + synthetic.part10(head, sop=sop_instance) + tail
            yield b"\r\n"
        yield b"--b0--"

    def send(self, gateway):
        """The Store Instances Response."""
        with contextlib.closing(http.client.HTTPConnection("127.0.0.1", gateway.http_port, timeout=120)) as connection:
            content_type = 'multipart/related; type="application/dicom"; boundary=b0'
            connection.request(
                "POST", "/dicomweb/studies", self.chunks(), {"Content-Type": content_type}, encode_chunked=True
            )
            answer = connection.getresponse()
            assert answer.status == 200
            return json.loads(answer.read())


class Memory:
    """The resident memory of all processes of a gateway, watched; a context manager. growth_bytes: at its highest."""

    def __init__(self, gateway):
        parent = psutil.Process(gateway.process.pid)
        self._processes = [parent, *parent.children(recursive=True)]
        self._stop = threading.Event()
        self._watcher = threading.Thread(target=self._watch)
        self.growth_bytes = 0

    def _now(self):
        return sum(process.memory_info().rss for process in self._processes)

    def _watch(self):
        while not self._stop.wait(0.02):
            self.growth_bytes = max(self.growth_bytes, self._now() - self._start)

    def __enter__(self):
        self._start = self._now()
        self._watcher.start()
        return self

    def __exit__(self, *_):
        self._stop.set()
        self._watcher.join()
        self.growth_bytes = max(self.growth_bytes, self._now() - self._start)


def test_five_hundred_instances_in_one_request_cost_the_server_little_memory(tmp_path):
    data = tmp_path / "data"
    with running_gateway(data) as gateway:
        Load(2).send(gateway)
        load = Load(INSTANCES)
        with Memory(gateway) as memory:
            answer = load.send(gateway)
        sent_mebibytes = INSTANCES * len(PIXELS) / MEBIBYTE
        print(f"STOW of {INSTANCES} instances, {sent_mebibytes:.0f} MiB: RSS +{memory.growth_bytes / MEBIBYTE:.1f} MiB")
        assert memory.growth_bytes < GROWTH_BYTES
        stored = [item["00081155"]["Value"][0] for item in answer["00081199"]["Value"]]
        assert stored == list(load.digests)
        client = DICOMwebClient(gateway.dicomweb)
        rows = client.search_for_instances(load.study, limit=INSTANCES + 1)
        assert {row["00080018"]["Value"][0] for row in rows} == set(load.digests)
        kept = {tuple(path.name.removesuffix(".dcm").split("_")[::2]) for path in data.rglob(f"{load.study}.*.dcm")}
        assert kept == set(load.digests.items())
        frame = client.retrieve_instance_frames(load.study, f"{load.study}.1", stored[-1], frame_numbers=[1])
        assert frame == [PIXELS]
    shutil.rmtree(data)
