"""Documents are whole: tables of the README are those of the code, files that are named exist."""

from __future__ import annotations

import inspect
import json
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from gateway import settings
from gateway.dicomweb import responses
from gateway.dimse import status
from storage import errors, reception
from storage.policy import read_policies
from tests.fix_servers import command_environment, run_command

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")


def between(name):
    """The text of the README between two comments."""
    found = re.search(rf"<!-- {name}[^>]*-->\n(.*?)<!-- /{name} -->", README, re.DOTALL)
    assert found, f"README.md has no part {name}"
    return found[1]


def nearest(table, kind):
    return next(table[one] for one in kind.__mro__ if one in table)


def kinds():
    """The classes of the error tree, in the order of the file, without their root."""
    found = [one for _, one in inspect.getmembers(errors, inspect.isclass) if issubclass(one, errors.GatewayError)]
    return sorted(
        (one for one in found if one is not errors.GatewayError), key=lambda one: inspect.getsourcelines(one)[1]
    )


def errors_table():
    lines = ["| error | what happened | HTTP | C-STORE | C-FIND |", "|---|---|---|---|---|"]
    for kind in kinds():
        row = nearest(status.STATUSES, kind)
        http = f"{nearest(responses.STATUS, kind)}{', Retry-After' if kind.retryable else ''}"
        lines.append(f"| {kind.__name__} | {kind.default_reason} | {http} | {row.store:04X} | {row.find:04X} |")
    return "\n".join(lines) + "\n"


def test_the_settings_table_of_the_readme_is_that_of_the_code():
    assert between("settings") == settings.markdown()


def test_the_errors_table_of_the_readme_is_that_of_the_code():
    assert between("errors") == errors_table()


def shell_lines(title):
    """The command lines of the README below a heading, those that are continued made whole."""
    block = re.search(rf"^### {title}\n.*?```sh\n(.*?)```", README, re.DOTALL | re.MULTILINE)
    assert block, title
    return block[1].replace("\\\n", " ").splitlines()


@pytest.mark.needs("echoscu", "dcmsend", "storescu", "findscu", "curl", "bash")
def test_the_command_lines_of_the_readme_do_what_it_says(start_gateway):
    gateway = start_gateway("--workers", "1")
    said = {}
    for line in shell_lines("Push and query with DCMTK") + shell_lines("Fetch with curl")[:2]:
        ours = line.replace(" 11112", f" {gateway.dimse_port}").replace(":8080", f":{gateway.http_port}")
        run = subprocess.run(["bash", "-c", ours], cwd=ROOT, capture_output=True, text=True, check=False, timeout=60)
        assert run.returncode == 0, (line, run.stderr)
        said[line.split()[0]] = run.stdout + run.stderr
    assert not re.search(r"^[EF]: ", said["dcmsend"] + said["storescu"] + said["echoscu"], re.MULTILINE)
    studies = {path.relative_to(ROOT / "sample_dicom").parts[0] for path in (ROOT / "sample_dicom").rglob("*.dcm")}
    assert said["findscu"].count("(Pending)") == len(studies)
    assert said["curl"].startswith("[{")


def test_the_searches_of_the_readme_find_what_it_says(start_gateway):
    gateway = start_gateway("--workers", "1")
    assert run_command("import", "--data", gateway.data, ROOT / "sample_dicom", seconds=200).returncode in (0, 1)
    environment = command_environment({"GATEWAY_HTTP__PORT": str(gateway.http_port)})
    said = []
    for line in shell_lines("Search from the command line"):
        ours = line.replace(":11112", f":{gateway.dimse_port}").replace(":8080", f":{gateway.http_port}")
        ours = ours.replace(".venv/bin/dicomweb-gateway", f"{sys.executable} -m gateway")
        run = subprocess.run(
            ["sh", "-c", ours], cwd=ROOT, capture_output=True, text=True, check=False, timeout=60, env=environment
        )
        assert run.returncode == 0, (line, run.stderr)
        said.append(run.stdout)
    studies = {path.relative_to(ROOT / "sample_dicom").parts[0] for path in (ROOT / "sample_dicom").rglob("*.dcm")}
    everything, found, series, instances = said
    assert len(everything.splitlines()) == len(studies)
    assert [line.split("\t")[1] for line in found.splitlines()] == ["Weißmüller^Jörg"]
    assert {line.split(",")[0] for line in series.splitlines()} == {"Modality", "MR"}
    assert len(json.loads(instances)) == 3


def test_the_examples_of_policies_are_understood():
    text = (ROOT / "docs" / "policies.md").read_text("utf-8")
    (rules,) = re.findall(r"```toml\n(.*?)```", text, re.DOTALL)
    assert len(read_policies(tomllib.loads(rules)["archive"]["policies"]).rules) == 4
    (hook,) = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    names = {}
    exec(compile(hook, "docs/policies.md", "exec", dont_inherit=True), names)
    announced = reception.Announcement("1.2", "1.3", "1.4")
    asked = reception.reception_of(announced, reception.Source("dimse", "B2_CT"), {}, 100)
    assert names["on_receive"](asked) == reception.Accept()
    (readme,) = re.findall(r"^## Policies\n.*?```toml\n(.*?)```", README, re.DOTALL | re.MULTILINE)
    assert len(read_policies(tomllib.loads(readme)["archive"]["policies"]).rules) == 2


@pytest.mark.parametrize(
    "name",
    ["README.md", "gateway/README.md", "storage/README.md", "CHANGELOG.md", "docs/operations.md", "docs/policies.md"],
)
def test_links_of_a_document_lead_to_files(name):
    path = ROOT / name
    links = re.findall(r"\]\(([^)#:]+)\)", path.read_text(encoding="utf-8"))
    assert [link for link in links if not (path.parent / link).exists()] == []


def test_every_make_target_that_the_readme_names_exists():
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    assert set(re.findall(r"\bmake ([a-z]+)\b(?! be)", README)) & {"run", "test", "help"} <= targets


@pytest.mark.parametrize("room", ["gateway", "storage"])
def test_the_map_of_a_room_names_what_is_in_it(room):
    text = (ROOT / room / "README.md").read_text(encoding="utf-8")
    names = {path.stem for path in (ROOT / room).iterdir() if path.suffix == ".py" or (path / "__init__.py").exists()}
    assert {name for name in names - {"__init__"} if not re.search(rf"\b{name}\b", text)} == set()


def test_every_rule_of_searches_has_its_tests_and_the_table_names_them():
    of_searches, _, _ = (ROOT / "docs" / "conformance.md").read_text("utf-8").partition("# Conformance of retrievals")
    rows = re.findall(r"^\| (Q\d+|CF\d+) \|.*\| (.+) \|$", of_searches, re.MULTILINE)
    listed = {rule: set(re.findall(r"`(test_\w+)`", cell)) for rule, cell in rows}
    assert list(listed) == [*(f"Q{number}" for number in range(1, 30)), *(f"CF{number}" for number in range(1, 13))]
    found = {rule: set() for rule in listed}
    for path in (ROOT / "tests").rglob("*.py"):
        for name, rule in re.findall(r"^def (test_(q\d+|cf\d+)_\w+)", path.read_text("utf-8"), re.MULTILINE):
            found[rule.upper()].add(name)
    assert found == listed
    assert all(listed.values())


def test_every_rule_of_retrieving_and_storing_has_its_tests_and_all_of_them_exist():
    text = (ROOT / "docs" / "conformance.md").read_text("utf-8")
    rows = re.findall(r"^\| ([GWUMS]\d+|CG\d+) \|.*\| (.+) \|$", text, re.MULTILINE)
    listed = {rule: set(re.findall(r"`(test_\w+)`", cell)) for rule, cell in rows}
    counts = {"G": 20, "W": 26, "U": 13, "M": 8, "CG": 1, "S": 16}
    assert list(listed) == [f"{letter}{number}" for letter, last in counts.items() for number in range(1, last + 1)]
    assert all(listed.values())
    found = {
        name
        for path in (ROOT / "tests").rglob("*.py")
        for name in re.findall(r"^def (test_\w+)", path.read_text("utf-8"), re.MULTILINE)
    }
    assert set().union(*listed.values()) - found == set()


def test_every_test_that_the_conformance_tables_name_exists_and_every_rule_has_one():
    text = (ROOT / "docs" / "conformance.md").read_text("utf-8")
    rows = re.findall(r"^\| ([A-Z]{1,2}\d+[a-z]?) \|.*\| (.*) \|$", text, re.MULTILINE)
    sources = "\n".join(path.read_text("utf-8") for path in (ROOT / "tests").rglob("*.py"))
    existing = set(re.findall(r"^ *def (test_\w+)", sources, re.MULTILINE))
    named = {rule: re.findall(r"`(test_\w+)`", cell) for rule, cell in rows}
    assert len(named) > 60
    assert [rule for rule, tests in named.items() if not tests] == []
    assert {test for tests in named.values() for test in tests} - existing == set()


def test_every_rule_of_policies_has_its_tests_and_all_of_them_exist():
    text = (
        (ROOT / "docs" / "conformance.md")
        .read_text("utf-8")
        .partition("# Conformance of storing: policies")[2]
        .partition("\n# ")[0]
    )
    rows = re.findall(r"^\| ([RSFH]T?\d+)(?: F12)? \|.*\| (.+) \|$", text, re.MULTILINE)
    listed = {rule: set(re.findall(r"`(test_\w+)`", cell)) for rule, cell in rows}
    assert list(listed) == ["R4", "R5", "ST2", "ST10", "F8", "F9", "H32"]
    found = {
        name
        for path in (ROOT / "tests").rglob("*.py")
        for name in re.findall(r"def (test_\w+)", path.read_text("utf-8"))
    }
    assert set().union(*listed.values()) <= found
    assert all(listed.values())


def test_every_rule_of_deletions_has_its_tests_and_all_of_them_exist():
    text = (
        (ROOT / "docs" / "conformance.md")
        .read_text("utf-8")
        .partition("# Conformance of deleting")[2]
        .partition("\n# ")[0]
    )
    rows = re.findall(r"^\| ([A-Z]+\d+) \|.*\| (.+) \|$", text, re.MULTILINE)
    listed = {rule: set(re.findall(r"`(test_\w+)`", cell)) for rule, cell in rows}
    assert {"K5", "R3", "R9", "R12", "H22", "H31"} <= listed.keys()
    assert all(listed.values())
    found = {
        name
        for path in (ROOT / "tests").rglob("*.py")
        for name in re.findall(r"^ *def (test_\w+)", path.read_text("utf-8"), re.MULTILINE)
    }
    assert set().union(*listed.values()) - found == set()
