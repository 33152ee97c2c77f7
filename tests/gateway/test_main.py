"""The command line: what it prints, and its exit codes."""

from __future__ import annotations

import json
import os
import pty
import re
import subprocess
import sys

import pytest
from click.testing import CliRunner

from gateway import __version__, settings
from gateway.__main__ import main
from tests.fix_servers import command_environment, run_command
from tests.synthetic import image, part10


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
        "delete",
        "undelete",
        "deleted",
        "hold",
        "release",
        "collect",
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


# ---- deleting and keeping


def loaded(tmp_path, *contents):
    """A data folder with instances in it, filled by the command line."""
    files = tmp_path / "files"
    files.mkdir()
    for number, content in enumerate(contents):
        (files / f"{number}.dcm").write_bytes(part10(content))
    assert run_command("import", files, "--data", tmp_path / "data").returncode == 0
    return tmp_path / "data"


def test_an_instance_goes_comes_back_and_is_collected_from_the_command_line(tmp_path):
    data = loaded(tmp_path, image(), image(sop_instance="1.2.9", name="Secret^Name"))
    gone = run_command("delete", "1.2.3/1.2.3.4/1.2.9", "--yes", "--data", data)
    assert (gone.returncode, gone.stdout.startswith("deleted: 1 series, 1 instances, 1 objects")) == (0, True)
    listed = run_command("deleted", "--data", data).stdout.splitlines()
    assert [row.split("\t")[-1] for row in listed] == ["1.2.3/1.2.3.4/1.2.9"]
    assert run_command("collect", "--data", data).stdout == "0 objects, 0 bytes were removed\n"
    back = run_command("undelete", "1.2.3", "--data", data)
    assert (back.returncode, back.stdout) == (0, "1 stored\n")
    assert run_command("deleted", "--data", data).stdout == ""
    assert run_command("delete", "1.2.3", "--yes", "--data", data).returncode == 0
    soon = {"GATEWAY_ARCHIVE__DELETE_GRACE_DAYS": "0"}
    collected = json.loads(run_command("collect", "--json", "--data", data, environment=soon).stdout)
    assert collected["objects"] == 2
    late = run_command("undelete", "1.2.3", "--data", data)
    assert (late.returncode, late.stdout) == (1, "")
    assert run_command("deleted", "--data", data).stdout == ""
    every = run_command("deleted", "--all", "--json", "--data", data)
    assert [row["kept"] for row in json.loads(every.stdout)["deletions"]] == [0, 0]
    assert run_command("delete", "1.2.3", "--yes", "--data", data).returncode == 1
    assert "Secret" not in "".join(one.stdout + one.stderr for one in (gone, back, every, late))


def test_a_hold_is_set_listed_and_ended_from_the_command_line(tmp_path):
    data = loaded(tmp_path, image())
    assert run_command("hold", "9.9", "--data", data).returncode == 1
    assert run_command("hold", "1.2.3", "--data", data).stdout == "on hold\n"
    assert run_command("hold", "--data", data).stdout.split("\t")[1] == "1.2.3\n"
    refused = run_command("delete", "1.2.3", "--yes", "--data", data)
    assert (refused.returncode, refused.stderr) == (1, "dicomweb-gateway: The resource is on legal hold\n")
    assert run_command("release", "1.2.3", "--data", data).returncode == 0
    assert run_command("release", "1.2.3", "--data", data).returncode == 1
    assert run_command("delete", "1.2.3", "--yes", "--data", data).returncode == 0


def answered(word, *arguments):
    """A run at a terminal, where somebody types a word."""
    leader, follower = pty.openpty()
    try:
        command = [sys.executable, "-m", "gateway", *map(str, arguments)]
        environment = command_environment()
        with subprocess.Popen(command, stdin=follower, stdout=-1, stderr=-1, text=True, env=environment) as process:
            os.write(leader, f"{word}\n".encode())
            out, said = process.communicate(timeout=60)
    finally:
        os.close(leader)
        os.close(follower)
    return process.returncode, out, said


def test_at_a_terminal_it_is_asked_before_anything_goes(tmp_path):
    data = loaded(tmp_path, image())
    code, out, said = answered("n", "delete", "1.2.3", "--data", data)
    assert (code, out) == (1, "")
    assert "study: 1 series, 1 instances" in said
    assert "7 days" in said
    assert answered("", "delete", "1.2.3", "--data", data)[0] == 1
    code, out, _ = answered("y", "delete", "1.2.3", "--data", data)
    assert (code, out.startswith("deleted: ")) == (0, True)


def test_where_nobody_can_be_asked_nothing_is_deleted(tmp_path):
    data = loaded(tmp_path, image())
    refused = run_command("delete", "1.2.3", "--data", data)
    assert (refused.returncode, "--yes" in refused.stderr) == (2, True)
    assert run_command("delete", "1.2.3", "--yes", "--data", data).returncode == 0


@pytest.mark.parametrize("scope", ["", "1.2.3/", "a", "1.2.3/x", "1.2/3.4/5.6/7.8", "../1.2", "1.2.3/../1.2", "*"])
@pytest.mark.parametrize("name", ["delete", "undelete", "hold", "release"])
def test_what_is_no_resource_is_usage(name, scope):
    result = run(name, scope)
    assert result.exit_code == 2
