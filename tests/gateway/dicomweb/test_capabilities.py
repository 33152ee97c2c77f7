"""What a gateway says of itself is what it does (K1)."""

from __future__ import annotations

import re
from xml.etree import ElementTree as ET

import pytest

from gateway.conformance import statement
from gateway.dicomweb import commitment
from gateway.dicomweb.capabilities import DESCRIBED, as_json, as_wadl
from gateway.dicomweb.changes import EVENT_STREAM
from gateway.dicomweb.routes import TABLE
from tests.fix_servers import ROOT, run_command

SERVED = [row for row in TABLE if row[0] != "DELETE"]  # which the settings do not allow here
W = "{http://wadl.dev.java.net/2009/02}"


def leaves(element, path=""):
    """Every method of a WADL document with the path of its resource."""
    for resource in element.findall(f"{W}resource"):
        here = f"{path}/{resource.get('path')}"
        yield from ((here, method) for method in resource.findall(f"{W}method"))
        yield from leaves(resource, here)


@pytest.mark.parametrize("path", ["", "/"])
def test_options_tells_every_route_as_wadl(samples, path):
    answer = samples.client.options(path, headers={"Accept": "*/*"})
    assert (answer.status_code, answer.headers["content-type"]) == (200, "application/vnd.sun.wadl+xml")
    (resources,) = ET.fromstring(answer.content)
    assert resources.get("base") == str(samples.client.base_url).rstrip("/")
    told = {(method.get("name"), path) for path, method in leaves(resources)}
    assert told == {(method, re.sub(":path", "", template)) for method, template, _ in SERVED}


def test_the_same_comes_as_json(samples):
    said = samples.client.options("", headers={"Accept": "application/json"}).json()
    assert {(one["method"], one["path"]) for one in said["resources"]} == {row[:2] for row in SERVED}
    frames = next(one for one in said["resources"] if one["id"] == "RetrieveFrames")
    assert (
        frames["answers"][0]
        == 'multipart/related; type="application/octet-stream"; transfer-syntax=1.2.840.10008.1.2.1'
    )


def test_a_preflight_is_no_question_for_capabilities(samples):
    headers = {"Origin": "https://viewer.example.org", "Access-Control-Request-Method": "GET"}
    answer = samples.client.options("/studies", headers=headers)
    assert (answer.status_code, answer.content) == (204, b"")


def test_another_form_is_not_acceptable_and_another_method_not_allowed(samples):
    assert samples.client.options("", headers={"Accept": "text/html"}).status_code == 406
    answer = samples.client.get("")
    assert (answer.status_code, answer.headers["allow"]) == (405, "OPTIONS")


@pytest.mark.parametrize("row", [row for row in TABLE if row[0] == "GET"], ids=lambda row: row[1])
def test_what_is_told_of_a_resource_can_be_had(samples, row):
    """Each media type is asked for; a sample has it, or is refused by what it is."""
    _, template, endpoint = row
    entry = samples.entry("slice_01")
    values = {
        "study": entry["study_instance_uid"],
        "series": entry["series_instance_uid"],
        "instance": entry["sop_instance_uid"],
        "frames": "1",
        "path": "7FE00010",
    }
    if template == "/wado" or endpoint is commitment.result:
        return  # its parameters, or a request before it, are required: test_wado_uri, test_commitment
    url = re.sub(r"{(\w+)(?::path)?}", lambda found: values[found[1]], template)
    had = 0
    for media_type in DESCRIBED[endpoint].answers:
        with samples.client.stream("GET", url, headers={"Accept": media_type}) as answer:
            if media_type != EVENT_STREAM:  # which has no end
                answer.read()
        assert answer.status_code in (200, 406), (media_type, url)
        had += answer.status_code == 200
    assert had >= min(2, len(DESCRIBED[endpoint].answers) - 1)


def test_every_endpoint_is_described():
    assert {row[2] for row in TABLE} == set(DESCRIBED)
    assert as_wadl("http://x/dicomweb", TABLE).startswith(b"<?xml")
    assert as_json("http://x/dicomweb", TABLE).startswith(b"{")


def test_the_conformance_statement_is_that_of_the_code():
    kept = (ROOT / "docs" / "conformance-statement.md").read_text(encoding="utf-8")
    assert kept == statement()
    run = run_command("conformance")
    assert (run.returncode, run.stdout) == (0, kept)
