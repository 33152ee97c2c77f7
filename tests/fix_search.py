"""A real gateway to search in: what it holds was sent in by STOW, as DICOM that pydicom or the tests' encoder wrote.

Everything runs over each engine of the index.
"""

from __future__ import annotations

import contextlib
import http.client
import io
import itertools
import json
from dataclasses import dataclass

import httpx
import pytest
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.sequence import Sequence

from tests import synthetic
from tests.fix_servers import running_gateway

SLIDE = "1.2.840.10008.5.1.4.1.1.77.1.6"
UIDS = {"studies": "0020000D", "series": "0020000E", "instances": "00080018"}


def instance(study, series=1, number=1, **attributes):
    """A Data Set of study ``2.25.study``, series ``2.25.study.series`` and instance ``2.25.study.series.number``.

    A None leaves an attribute out; what is not said is plausible.
    """
    said = {
        "SpecificCharacterSet": "ISO_IR 192",
        "SOPClassUID": synthetic.SECONDARY_CAPTURE,
        "SOPInstanceUID": f"2.25.{study}.{series}.{number}",
        "StudyInstanceUID": f"2.25.{study}",
        "SeriesInstanceUID": f"2.25.{study}.{series}",
        "InstanceNumber": number,
        "Modality": "OT",
        **attributes,
    }
    data_set = Dataset()
    for keyword, value in said.items():
        if value is not None:
            setattr(data_set, keyword, value)
    return data_set


def items(*values):
    """A sequence of items, each given as keywords and values."""
    made = []
    for one in values:
        item = Dataset()
        for keyword, value in one.items():
            setattr(item, keyword, value)
        made.append(item)
    return Sequence(made)


def part10(data_set):
    """A Part 10 stream, as pydicom writes it."""
    data_set.file_meta = FileMetaDataset()
    data_set.file_meta.TransferSyntaxUID = synthetic.EXPLICIT
    stream = io.BytesIO()
    data_set.save_as(stream, enforce_file_format=True)
    return stream.getvalue()


PIXELS = {
    "SamplesPerPixel": 1,
    "PhotometricInterpretation": "MONOCHROME2",
    "Rows": 4,
    "Columns": 6,
    "BitsAllocated": 8,
    "BitsStored": 8,
    "HighBit": 7,
    "PixelRepresentation": 0,
}


def corpus():
    """What the searched gateway holds. Studies 1 to 3 are radiology, 4 is microscopy, 5 says as little as it may."""
    head = {
        "PatientName": "Yamada^Tarou=山田^太郎=やまだ^たろう",
        "PatientID": "P-1",
        "PatientBirthDate": "19700102",
        "PatientSex": "M",
        "StudyDate": "20200101",
        "StudyTime": "081500",
        "AccessionNumber": "A1",
        "ReferringPhysicianName": "House^Gregory",
        "StudyID": "S1",
        "StudyDescription": "Head",
        "ProcedureCodeSequence": items({"CodeValue": "HEAD1", "CodeMeaning": "Head", "CodingSchemeDesignator": "99"}),
    }
    ct = {
        "Modality": "CT",
        "SeriesNumber": 1,
        "SeriesDescription": "Axial",
        "SeriesDate": "20200101",
        "BodyPartExamined": "HEAD",
        "Manufacturer": "ACME",
        "PerformedProcedureStepStartDate": "20200101",
        "PerformedProcedureStepStartTime": "081500",
        "RequestAttributesSequence": items({"ScheduledProcedureStepID": "SPS1", "RequestedProcedureID": "RP1"}),
    }
    for number in (1, 2, 3):
        yield instance(1, 1, number, **head, **ct, **PIXELS, PixelData=bytes(24), PixelSpacing=[1, 1])
    frames = {**PIXELS, "NumberOfFrames": 2, "PixelData": bytes(48)}
    for number in (1, 2):
        yield instance(1, 2, number, **head, Modality="MR", SeriesNumber=2, **frames)
    jane = {"PatientName": "Doe^Jane", "PatientID": "", "StudyDate": "20200615", "StudyTime": "230000"}
    yield instance(2, 1, 1, **jane, AccessionNumber="A2", StudyID="S2", Modality="US", SeriesNumber=3)
    john = {"PatientName": "DOE^JOHN^^", "PatientID": "P*3", "StudyDate": "20201231", "StudyTime": "010000"}
    yield instance(
        3,
        1,
        1,
        **john,
        AccessionNumber="A3",
        StudyID="S3",
        Modality="CT",
        SeriesNumber=1,
        TimezoneOffsetFromUTC="+0100",
    )
    slide = {"PatientName": "Slide^Susan", "PatientID": "P-4", "AccessionNumber": "A4", "StudyDate": "20210301"}
    for number in range(1, 6):  # the same Instance Number: only the UID tells an order
        yield instance(4, 1, number, **slide, Modality="SM", SOPClassUID=SLIDE, **PIXELS | {"InstanceNumber": 7})
    for series, modality in enumerate(("ANN", "SEG", "SR", "PR"), 2):
        yield instance(4, series, 1, **slide, Modality=modality, SeriesNumber=series)
    yield instance(5, 1, 1, PatientName="Weiß^Jörg", Modality="OT", PatientID="100%_x")


@dataclass
class Searched:
    """A gateway to search in, and clients for its DICOMweb root."""

    gateway: object
    client: httpx.Client

    def stow(self, *instances):
        """Send Data Sets of pydicom, or bytes in Part 10, in one request; all have to be stored."""
        body = b""
        for one in instances:
            content = one if isinstance(one, bytes) else part10(one)
            body += b"--b0\r\nContent-Type: application/dicom\r\n\r\n" + content + b"\r\n"
        headers = {"Content-Type": 'multipart/related; type="application/dicom"; boundary=b0'}
        answer = self.client.post("/studies", content=body + b"--b0--\r\n", headers=headers)
        assert answer.status_code == 200, answer.text

    def get(self, url, accept=None, **headers):
        """An answer, whatever it is."""
        return self.client.get(url, headers={**headers, **({} if accept is None else {"Accept": accept})})

    def find(self, url, accept=None):
        """The matches of a search that has to succeed."""
        answer = self.get(url, accept)
        assert answer.status_code == 200, answer.text
        return answer.json()

    def uids(self, url):
        """The UIDs of the matches, of the level that the path ends with, in order."""
        tag = UIDS[url.partition("?")[0].rpartition("/")[2]]
        return [match[tag]["Value"][0] for match in self.find(url)]

    def literal(self, target, headers=None):
        """Status, headers and body for a request target that is sent character by character as it is given."""
        with contextlib.closing(http.client.HTTPConnection("127.0.0.1", self.gateway.http_port, timeout=30)) as one:
            one.request("GET", "/dicomweb" + target, headers=headers or {})
            answer = one.getresponse()
            return answer.status, answer.headers, answer.read()

    def matches(self, target, **headers):
        """The matches of a literal request that has to succeed."""
        status, _, body = self.literal(target, headers)
        assert status == 200, body
        return json.loads(body)


@contextlib.contextmanager
def running_search(folder, engine, *flags, **settings):
    """A gateway with an empty archive, to search in."""
    data = folder / "data"
    with (
        running_gateway(data, *flags, environment={**engine.environment(data), **settings}) as gateway,
        httpx.Client(base_url=gateway.dicomweb, timeout=60, headers={"Accept": "*/*"}) as client,
    ):
        yield Searched(gateway, client)


@pytest.fixture(scope="session")
def searched(tmp_path_factory, engine):
    """One with the corpus in it, for the whole run; tests only read."""
    with running_search(tmp_path_factory.mktemp("searched"), engine) as running:
        running.stow(*corpus())
        yield running


@pytest.fixture
def start_search(tmp_path, engine):
    """``start_search(*flags, **settings)``: an empty one for this test alone."""
    with contextlib.ExitStack() as stack:
        numbers = itertools.count(1)
        yield lambda *flags, **settings: stack.enter_context(
            running_search(tmp_path / f"search-{next(numbers)}", engine, *flags, **settings)
        )
