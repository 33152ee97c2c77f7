"""Documents are whole: tables of the README are those of the code, files that are named exist."""

from __future__ import annotations

import inspect
import re
from pathlib import Path

import pytest

from gateway import settings
from gateway.dicomweb import responses
from gateway.dimse import status
from storage import errors

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


@pytest.mark.parametrize("name", ["README.md", "gateway/README.md", "storage/README.md", "CHANGELOG.md"])
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
