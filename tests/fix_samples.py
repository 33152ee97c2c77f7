"""A real gateway that holds all samples, and what the samples' manifest says."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest

from tests.fix_servers import ROOT, run_command, running_gateway

SAMPLES = ROOT / "sample_dicom"
MANIFEST = {entry["file"]: entry for entry in json.loads((SAMPLES / "manifest.json").read_text(encoding="utf-8"))}


@dataclass
class Samples:
    """A gateway with the samples in it, and a client for its DICOMweb root."""

    gateway: object
    client: httpx.Client

    def entry(self, part: str) -> dict:
        """The manifest's row of the one file whose name holds ``part``; the first one of a stack."""
        return next(entry for name, entry in sorted(MANIFEST.items()) if part in name)

    def url(self, part: str, level: str = "instance") -> str:
        """The path of a sample's study, series or instance, below the DICOMweb root."""
        entry = self.entry(part)
        url = f"/studies/{entry['study_instance_uid']}"
        if level != "study":
            url += f"/series/{entry['series_instance_uid']}"
        if level == "instance":
            url += f"/instances/{entry['sop_instance_uid']}"
        return url

    def file(self, part: str) -> Path:
        return SAMPLES / self.entry(part)["file"]

    def get(self, url: str, accept: str | None = None, **options) -> httpx.Response:
        headers = {"Accept": accept} if accept is not None else {}
        return self.client.get(url, headers={**headers, **options.pop("headers", {})}, **options)


@pytest.fixture(scope="session")
def samples(tmp_path_factory):
    """Loaded once for the whole run; tests only read."""
    data = tmp_path_factory.mktemp("samples") / "data"
    environment = {"GATEWAY_HTTP__CORS_ORIGINS": "https://viewer.example.org"}
    with running_gateway(data, environment=environment) as running:
        loaded = run_command("import", SAMPLES, "--data", data, "--json")
        assert json.loads(loaded.stdout)["stored"] == len(MANIFEST)
        with httpx.Client(base_url=running.dicomweb, timeout=60, headers={"Accept": "*/*"}) as client:
            yield Samples(running, client)
