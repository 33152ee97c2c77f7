"""A real gateway that holds our samples and all DICOM that pydicom bundles, each file as an instance of its own."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cache

import httpx
import pytest

from tests.fix_servers import run_command, running_gateway
from tests.journeys.files import bundled, read, samples


@dataclass
class Corpus:
    """A client of the gateway, and the files that it was given, by name."""

    client: httpx.Client
    files: dict

    def url_of(self, name):
        """The instance's path; None when the archive has refused the file."""
        found = self.client.get("/instances", params={"SOPInstanceUID": self.files[name].sop_instance}).json()
        return re.sub(r"^.*/dicomweb", "", found[0]["00081190"]["Value"][0]) if found else None

    def get(self, url, accept=None):
        return self.client.get(url, headers={"Accept": accept} if accept else None)


@cache
def sources():
    """The files as they are, by name: those that say which instance they are."""
    return {file.name: file for file in (*bundled(), *samples()) if file.sop_instance}


@pytest.fixture(scope="session")
def corpus(tmp_path_factory):
    """For tests that only read. Files that share an instance get another UID of the same length, and no other byte."""
    folder = tmp_path_factory.mktemp("corpus")
    files, known = {}, set()
    named = {file.sop_instance for file in sources().values()}
    (folder / "files").mkdir()
    for number, (name, file) in enumerate(sources().items()):
        path = folder / "files" / f"{number:04d}.dcm"
        uid = own = file.sop_instance
        if uid in known:
            others = (f"{uid[:-2]}{digits}" for digits in range(10, 100))
            own = next(other for other in others if other not in known | named)
        known.add(own)
        path.write_bytes(file.path.read_bytes().replace(uid.encode(), own.encode()))
        files[name] = read(path, name)
    with running_gateway(folder / "data") as running:
        run_command("import", folder / "files", "--data", folder / "data", "--json", seconds=300)
        with httpx.Client(base_url=running.dicomweb, timeout=120) as client:
            yield Corpus(client, files)
