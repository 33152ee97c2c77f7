"""The command line: what it prints, and its exit codes."""

from __future__ import annotations

import json
import re

import pytest
from click.testing import CliRunner

from gateway import __version__, settings
from gateway.__main__ import main
from tests.fix_servers import run_command


@pytest.fixture(autouse=True)
def no_settings_of_this_machine(monkeypatch):
    for knob in settings.knobs():
        monkeypatch.delenv(knob.variable, raising=False)


def run(*arguments):
    return CliRunner().invoke(main, list(arguments))


def test_version_is_that_of_the_package():
    assert run("version").output == f"{__version__}\n"
    assert run("--version").output == f"{__version__}\n"


def test_help_names_every_command_and_each_command_explains_its_flags():
    text = run("--help").output
    for name in (
        "serve",
        "import",
        "ingest",
        "quarantine",
        "scrub",
        "reindex",
        "migrate",
        "query",
        "webhooks",
        "settings",
        "version",
    ):
        assert re.search(rf"^  {name} ", text, re.MULTILINE)
        assert run(name, "--help").exit_code == 0
    for flag in ("--data", "--http-port", "--dimse-port", "--ae-title", "--host", "--workers", "--config", "--json"):
        assert flag in run("serve", "--help").output


def test_settings_shows_values_and_where_they_come_from(monkeypatch, tmp_path):
    config = tmp_path / "gateway.toml"
    config.write_text("[http]\nworkers = 5\n")
    monkeypatch.setenv("GATEWAY_DIMSE__PORT", "104")
    result = run("settings", "--config", str(config), "--ae-title", "OTHER")
    assert re.search(r"^http\.workers +=\s+5 +# file .*gateway\.toml$", result.output, re.MULTILINE)
    assert re.search(r"^dimse\.port +=\s+104 +# environment$", result.output, re.MULTILINE)
    assert re.search(r'^dimse\.ae_title +=\s+"OTHER" +# command line$', result.output, re.MULTILINE)
    assert re.search(r"^http\.port +=\s+8080 +# default$", result.output, re.MULTILINE)


def test_settings_as_json_has_every_setting():
    shown = json.loads(run("settings", "--json").output)
    assert shown.keys() == {knob.path for knob in settings.knobs()}
    assert shown["http.port"] == {"value": 8080, "origin": "default", "doc": "TCP port; 0 picks a free one."}


@pytest.mark.parametrize(
    ("arguments", "phrase"),
    [
        (["serve", "--http-port", "x"], "http.port from command line: 'x' is not a whole number"),
        (["serve", "--host", "0.0.0.0"], "--insecure-no-auth"),
        (["serve", "--config", "/nowhere.toml"], "/nowhere.toml cannot be read"),
        (["serve", "--no-such-flag"], "No such option"),
        (["settings", "--workers", "0"], "http.workers"),
        (["import"], "Missing argument"),
        (["import", "/nowhere"], "does not exist"),
        (["fly"], "No such command"),
    ],
)
def test_bad_usage_is_told_in_words_with_exit_code_2(arguments, phrase):
    result = run(*arguments)
    assert result.exit_code == 2
    assert phrase in result.stderr
    assert "Traceback" not in result.output


def test_an_unknown_variable_is_bad_usage(monkeypatch):
    monkeypatch.setenv("GATEWAY_HTTP__PROT", "1")
    result = run("settings")
    assert result.exit_code == 2
    assert "'GATEWAY_HTTP__PROT'" in result.stderr


def test_the_module_is_the_command():
    run_of_module = run_command("version")
    assert (run_of_module.returncode, run_of_module.stdout) == (0, f"{__version__}\n")
