"""A bit that has turned on the disk, and everybody who reads what it is in, where reads are checked. R10"""

from __future__ import annotations

import contextlib
import re
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest

from tests import synthetic
from tests.fix_servers import running_gateway
from tests.journeys.push import dcmtk

STUDY, SERIES = "1.2.77", "1.2.77.1"
SOUND, SMALL, LARGE = (f"{SERIES}.{number}" for number in range(1, 4))
AS_STORED = {"Accept": 'multipart/related; type="application/dicom"; transfer-syntax=*'}


@dataclass
class Checked:
    """A gateway that checks what it reads, and a client of it."""

    gateway: object
    client: httpx.Client
    files: dict[str, bytes]

    def url(self, uid):
        return f"/studies/{STUDY}/series/{SERIES}/instances/{uid}"

    def failures(self, door):
        text = self.client.get(f"{self.gateway.url}/metrics").text
        found = re.search(rf'^gateway_integrity_failures_total\{{door="{door}"\}} (\S+)$', text, re.MULTILINE)
        return float(found[1]) if found else 0.0


def file_of(uid, rows):
    content = synthetic.image(rows, 1024, study=STUDY, series=SERIES, sop_instance=uid)
    return synthetic.part10(content, sop=uid)


@pytest.fixture(scope="module")
def checked(tmp_path_factory):
    files = {SOUND: file_of(SOUND, 4), SMALL: file_of(SMALL, 4), LARGE: file_of(LARGE, 3000)}
    environment = {"GATEWAY_ARCHIVE__CHECK_READS": "true"}
    with (
        running_gateway(tmp_path_factory.mktemp("checked") / "data", "--workers", "1", environment=environment) as one,
        httpx.Client(base_url=one.dicomweb, timeout=60) as client,
    ):
        for content in files.values():
            answer = client.post("/studies", content=content, headers={"Content-Type": "application/dicom"})
            assert answer.status_code == 200, answer.text
        yield Checked(one, client, files)


@contextlib.contextmanager
def damaged(checked, uid):
    """Within it, the last bit of an instance's object is another one."""
    (path,) = Path(checked.gateway.data).rglob(f"{uid}_*.dcm")
    content = path.read_bytes()
    path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    try:
        yield
    finally:
        path.write_bytes(content)


def test_what_is_sound_is_read_whole_in_every_way(checked):
    for uid, content in checked.files.items():
        answer = checked.client.get(checked.url(uid), headers={"Accept": "application/dicom; transfer-syntax=*"})
        assert answer.status_code == 200
        assert answer.content[-1000:] == content[-1000:]
        assert len(answer.content) == int(answer.headers["content-length"])


@pytest.mark.parametrize("uid", [SMALL, LARGE])
def test_what_is_damaged_never_arrives_whole_and_the_rest_does(checked, uid):
    with damaged(checked, uid):
        before = checked.failures("web")
        for url, accept in (
            (checked.url(uid), {"Accept": "application/dicom; transfer-syntax=*"}),
            (f"/studies/{STUDY}", AS_STORED),
        ):
            try:
                answer = checked.client.get(url, headers=accept)
            except httpx.RemoteProtocolError:
                continue  # broken off before its end
            assert answer.status_code == 500
        assert checked.failures("web") == before + 2
        assert checked.client.get(checked.url(SOUND), headers=AS_STORED).status_code == 200


@pytest.mark.needs("getscu")
def test_of_a_study_got_by_dimse_the_damaged_instance_is_missing(checked, tmp_path):
    with damaged(checked, SMALL):
        before = checked.failures("dimse")
        keys = ["-k", "QueryRetrieveLevel=STUDY", "-k", f"StudyInstanceUID={STUDY}"]
        place = ["-aec", checked.gateway.ae_title, "127.0.0.1", str(checked.gateway.dimse_port)]
        dcmtk("getscu", "-S", "-od", str(tmp_path), *keys, *place)
        assert checked.failures("dimse") == before + 1
        got = [next((uid for uid in (SMALL, LARGE, SOUND) if one.name.endswith(uid)), "") for one in tmp_path.iterdir()]
        assert sorted(got) == sorted([SOUND, LARGE])
