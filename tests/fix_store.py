"""Requests of the Store transaction with metadata and bulk data parts, and a gateway that takes them."""

from __future__ import annotations

import json
import warnings
from dataclasses import dataclass
from email.message import Message
from io import BytesIO

import httpx
import pydicom
import pytest

from tests.fix_servers import running_gateway

JSON, XML = "application/dicom+json", "application/dicom+xml"
SECONDARY_CAPTURE = "1.2.840.10008.5.1.4.1.1.7"


def part(content, content_type="", location=""):
    """One part: its headers and its content; what is no text or bytes is written as JSON."""
    headers = {"Content-Type": content_type, "Content-Location": location}
    lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items() if value)
    raw = content.encode() if isinstance(content, str) else content
    raw = raw if isinstance(raw, bytes | bytearray) else json.dumps(raw).encode()
    return f"--b0\r\n{lines}\r\n".encode() + raw + b"\r\n"


def parts_of(response):
    """Content-Type, Content-Location and content of each part of a multipart response, by a reader of its own."""
    message = Message()
    message["Content-Type"] = response.headers["content-type"]
    pieces = response.content.split(b"--" + message.get_boundary().encode())
    assert (pieces[0], pieces[-1]) == (b"", b"--\r\n")
    for piece in pieces[1:-1]:
        head, _, content = piece.removeprefix(b"\r\n").partition(b"\r\n\r\n")
        headers = dict(line.split(": ", 1) for line in head.decode("ascii").split("\r\n"))
        yield headers["Content-Type"], headers.get("Content-Location", ""), content.removesuffix(b"\r\n")


@dataclass
class Answered:
    """Status, headers and the Store Instances Response Module in JSON, or the error."""

    response: httpx.Response

    @property
    def status(self):
        return self.response.status_code

    @property
    def module(self):
        return self.response.json()

    def _values(self, sequence, tag):
        items = self.module.get(sequence, {}).get("Value", [])
        return [item[tag]["Value"][0] for item in items]

    @property
    def stored(self):
        return self._values("00081199", "00081155")

    @property
    def failed(self):
        return dict(zip(self._values("00081198", "00081155"), self._values("00081198", "00081197"), strict=True))

    @property
    def others(self):
        return self._values("0008119A", "00081197")

    @property
    def words(self):
        return self.response.headers.get("warning", "")


@dataclass
class Taking:
    """A gateway, and a client of it."""

    gateway: object
    client: httpx.Client

    def post(self, parts, part_type=JSON, study="", **headers):
        """Send parts, each from ``part``."""
        body = b"".join(parts) + b"--b0--\r\n"
        kind = f'multipart/related; type="{part_type}"; boundary=b0'
        response = self.client.post(f"/studies{study}", content=body, headers={"Content-Type": kind, **headers})
        return Answered(response)

    def file(self, sop_instance_uid):
        """An instance as it is stored, read by pydicom."""
        found = self.client.get("/instances", params={"SOPInstanceUID": sop_instance_uid}).json()
        url = found[0]["00081190"]["Value"][0]
        response = self.client.get(url, headers={"Accept": "application/dicom; transfer-syntax=*"})
        assert response.status_code == 200, response.text
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return pydicom.dcmread(BytesIO(response.content))


@pytest.fixture(scope="module")
def taking(tmp_path_factory):
    """An empty gateway for the tests of a module."""
    with (
        running_gateway(tmp_path_factory.mktemp("taking") / "data", "--workers", "1") as running,
        httpx.Client(base_url=running.dicomweb, timeout=120) as client,
    ):
        yield Taking(running, client)


def metadata(sop="1.2.3.4.5", study="1.2.3", series="1.2.3.4", sop_class=SECONDARY_CAPTURE, **elements):
    """The metadata of an instance. elements: by tag with a letter before it, as they stand in the model."""
    model = {
        "00080016": {"vr": "UI", "Value": [sop_class]},
        "00080018": {"vr": "UI", "Value": [sop]},
        "0020000D": {"vr": "UI", "Value": [study]},
        "0020000E": {"vr": "UI", "Value": [series]},
        "00100010": {"vr": "PN", "Value": [{"Alphabetic": "Doe^Jane"}]},
    }
    model.update({name[1:]: element for name, element in elements.items()})
    return dict(sorted((tag, element) for tag, element in model.items() if element is not None))
