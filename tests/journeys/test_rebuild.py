"""The index is lost, and made again from the objects: every answer is what it was, byte for byte. D1, F18

``python -m tests.journeys.rebuild --instances 100000`` does it with many, for the record.
"""

from __future__ import annotations

import contextlib
import json
import re
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter

import httpx
import pytest

from gateway.importer import import_file
from gateway.security.actor import Actor
from gateway.session import Session
from storage.matching import Query
from storage.model import Level, Source
from tests.fix_archive import open_archive
from tests.fix_corpus import sources
from tests.fix_dimse import run_program
from tests.fix_postgresql import database_url
from tests.fix_servers import command_environment, run_command, running_gateway
from tests.journeys import rebuild

SEARCHES = (
    *("/studies", "/series", "/instances", "/studies?includefield=all", "/series?includefield=all"),
    *("/instances?includefield=all&limit=1000", "/studies?PatientName=*&fuzzymatching=true", "/series?Modality=CT"),
    *("/studies?limit=5&offset=3", "/instances?limit=7&offset=11", "/studies?PatientID=*1*"),
)
KEYS = {
    "STUDY": ("PatientName", "PatientID", "StudyDate", "StudyInstanceUID", "ModalitiesInStudy", "StudyDescription"),
    "SERIES": ("SeriesInstanceUID", "Modality", "SeriesNumber", "NumberOfSeriesRelatedInstances"),
    "IMAGE": ("SOPInstanceUID", "InstanceNumber", "SOPClassUID"),
}


def told(client, path, accept="application/dicom+json"):
    answer = client.get(path, headers={"Accept": accept})
    here = f"http://{client.base_url.host}:{client.base_url.port}".encode()
    body = answer.content.replace(here, b"http://here")  # each gateway has a port of its own
    if "boundary=" in answer.headers.get("content-type", ""):
        boundary = re.search(r'boundary="?([^";]+)', answer.headers["content-type"])[1]
        body = body.replace(boundary.encode(), b"boundary")
    etag = None if here in answer.content else answer.headers.get("etag")
    return answer.status_code, etag, answer.headers.get("warning"), body


def found(gateway, level, *unique):
    keys = [argument for key in (*KEYS[level], *unique) for argument in ("-k", key)]
    address = ("127.0.0.1", gateway.dimse_port)
    run = run_program("findscu", "-v", "-S", "-aec", "GATEWAY", "-k", f"QueryRetrieveLevel={level}", *keys, *address)
    return [line for line in (run.stdout + run.stderr).splitlines() if "(0" in line or "Pending" in line]


def answers(data, extra):
    """What a gateway over a folder says of everything it has, by HTTP and by C-FIND."""
    said = {}
    with (
        running_gateway(data, "--workers", "1", environment=extra) as gateway,
        httpx.Client(base_url=gateway.dicomweb, timeout=120) as client,
    ):
        for path in SEARCHES:
            said[path] = told(client, path)
        studies = [one["0020000D"]["Value"][0] for one in json.loads(told(client, "/studies?limit=1000")[3])]
        for uid in studies:
            said[uid] = told(client, f"/studies/{uid}/metadata")
            said[uid, "xml"] = told(client, f"/studies/{uid}/series", 'multipart/related; type="application/dicom+xml"')
            said[uid, "find"] = found(gateway, "SERIES", f"StudyInstanceUID={uid}")
        for one in json.loads(told(client, "/instances?limit=1000")[3]):
            path = re.sub(r"^.*/dicomweb", "", one["00081190"]["Value"][0])
            said[path] = told(client, path, "application/dicom; transfer-syntax=*")
            said[path, "frame"] = told(
                client, f"{path}/frames/1", 'multipart/related; type="application/octet-stream"; transfer-syntax=*'
            )
        for uid in GONE:
            said[uid] = told(client, f"/studies/{uid}/metadata")
        said["find"] = found(gateway, "STUDY")
    return said


GONE = []


@pytest.fixture(scope="module")
def before(tmp_path_factory):
    """An archive with all that we have, some of it in several versions, some deleted; and what it answers."""
    folder = tmp_path_factory.mktemp("rebuild")
    files = folder / "files"
    files.mkdir()
    for number, file in enumerate(sources().values()):
        content = file.path.read_bytes()
        (files / f"{number:04d}.dcm").write_bytes(content)
        if number % 7 == 0:  # another version, which loses
            (files / f"{number:04d}.later.dcm").write_bytes(content[:-1] + bytes((content[-1] ^ 1,)))
    archive = open_archive(folder / "data")
    with contextlib.closing(archive):
        session = Session(archive, Actor("operator", "import"))
        account = session.account(Source("import"))
        outcomes = Counter(import_file(session, path, account).outcome for path in sorted(files.iterdir()))
        account.close("done")
        assert outcomes["stored"] > 100
        assert outcomes["conflict"] > 10
        studies = archive.search(Query(Level.STUDY))
        for study in studies[::9]:
            archive.delete(study.scope)
            GONE.append(study.scope.study_instance_uid)
    return folder / "data", answers(folder / "data", {})


def differing(one, other):
    return [key for key in one.keys() | other.keys() if one.get(key) != other.get(key)]


@pytest.mark.needs("findscu")
def test_without_its_index_an_archive_is_rebuilt_and_every_answer_is_the_same(before, tmp_path):
    data, said = before
    shutil.copytree(data, tmp_path / "data")  # with times and extended attributes, as a backup has to
    data = tmp_path / "data"
    for path in data.glob("index.sqlite*"):
        path.unlink()
    run = run_command("reindex", "--from-objects", "--verify", "--json", "--data", data)
    assert (run.returncode, json.loads(run.stdout)["refused"]) == (0, 0), run.stderr
    assert differing(answers(data, {}), said) == []
    assert len(said) > 300
    assert {said[uid][0] for uid in GONE} == {410}
    run = run_command("scrub", "--level", "checksum", "--data", data)
    assert run.returncode == 0, run.stdout


@pytest.mark.needs("findscu")
def test_an_archive_moves_to_postgresql_and_every_answer_is_the_same(before, tmp_path):
    data, said = before
    shutil.copytree(data, tmp_path / "data")
    url = database_url(tmp_path / "data")
    run = run_command("reindex", "--from-objects", "--index", url, "--json", "--data", tmp_path / "data")
    assert run.returncode == 0, run.stderr
    assert differing(answers(tmp_path / "data", {"GATEWAY_ARCHIVE__INDEX": url}), said) == []
    run = run_command("reindex", "--from-objects", "--index", url, "--data", tmp_path / "data")
    assert run.returncode == 1
    assert "not empty" in run.stderr
    run = run_command("scrub", "--data", tmp_path / "data", environment={"GATEWAY_ARCHIVE__INDEX": url})
    assert run.returncode == 0, run.stdout


def test_a_rebuild_that_is_killed_harms_nothing_and_goes_on(tmp_path):
    data = tmp_path / "data"
    rebuild.fill(data, 1500, 1)
    said = rebuild.told(data)
    place = data / "rebuild" / "place.json"
    done = [0]
    for _ in range(3):
        command = [sys.executable, "-m", "gateway", "reindex", "--from-objects", "--data", str(data)]
        with subprocess.Popen(command, stdout=subprocess.DEVNULL, env=command_environment()) as process:
            deadline = time.monotonic() + 60
            while process.poll() is None and reached(place) <= done[-1] and time.monotonic() < deadline:
                time.sleep(0.002)
            process.kill()
        assert process.returncode == -signal.SIGKILL
        done.append(reached(place))
        assert rebuild.told(data) == said  # the old one is still there
    assert done == sorted(set(done))
    for path in data.glob("index.sqlite*"):
        path.unlink()
    run = run_command("reindex", "--from-objects", "--json", "--data", data)
    assert (run.returncode, json.loads(run.stdout)["refused"]) == (0, 0), run.stderr
    assert rebuild.told(data) == said


def reached(place):
    """How far a rebuild has come; its file is replaced whole."""
    try:
        return json.loads(place.read_bytes())["done"]
    except FileNotFoundError:
        return 0
