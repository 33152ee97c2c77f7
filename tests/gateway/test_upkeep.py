"""Scrub, rebuild and migration by the command line: what they say, their exit codes, and a gateway that runs."""

from __future__ import annotations

import contextlib
import json
import os
import sqlite3
import time

import pytest

from storage.index import read_version
from storage.index.sqlite import connect, migrate
from storage.model import Scope
from tests.fix_archive import keep, open_archive
from tests.fix_servers import run_command
from tests.synthetic import image


@pytest.fixture
def data(tmp_path):
    with contextlib.closing(open_archive(tmp_path / "data")) as archive:
        for number in range(1, 4):
            uid = f"1.2.3.4.{number}"
            keep(archive, image(sop_instance=uid, name="CANARY^PATIENT"), sop=uid)
    return tmp_path / "data"


def objects(data):
    return sorted((data / "objects" / "v1").rglob("*.dcm"))


def test_scrub_says_in_words_and_by_exit_code_how_it_is(data):
    run = run_command("scrub", "--data", data)
    assert (run.returncode, run.stderr) == (0, "")
    assert run.stdout.endswith("0 faults, 0 of them mended\n")
    objects(data)[0].write_bytes(b"")
    run = run_command("scrub", "--data", data)
    assert run.returncode == 2
    assert run.stdout.startswith("size           found   v1/default/1.2.3/1.2.3.4.1_")
    stray = data / "objects" / "v1" / "default" / "stray"
    objects(data)[0].unlink()
    stray.write_bytes(objects(data)[0].read_bytes())
    os.utime(stray, (time.time() - 1e6,) * 2)
    run = run_command("scrub", "--data", data, "--json", "--repair")
    assert run.returncode == 2
    *found, last = map(json.loads, run.stdout.splitlines())
    assert {(one["fault"], one["repaired"]) for one in found} == {("foreign", True), ("missing", False)}
    assert (last["found"], last["repaired"], last["level"]) == (2, 1, "size")


def test_scrub_mends_while_the_gateway_runs_and_ends_with_1(data, start_gateway):
    start_gateway("--workers", "1", data=data)
    with contextlib.closing(connect(data / "index.sqlite")) as connection:
        connection.execute("UPDATE study SET number_of_study_related_instances = 9")
    assert run_command("scrub", "--data", data, "--repair", "--level", "row").returncode == 1
    assert run_command("scrub", "--data", data, "--level", "checksum", "--rate", "100").returncode == 0


def test_no_output_holds_what_data_sets_say(data):
    objects(data)[0].write_bytes(objects(data)[0].read_bytes()[:-1])
    for arguments in (
        ("scrub",),
        ("scrub", "--repair", "--level", "checksum"),
        ("reindex", "--from-objects", "--verify"),
    ):
        run = run_command(*arguments, "--data", data)
        assert "CANARY" not in run.stdout + run.stderr


@pytest.mark.parametrize("arguments", [("scrub",), ("reindex", "--from-objects"), ("migrate",), ("migrate", "--check")])
def test_a_folder_that_was_mistyped_is_no_archive_and_is_not_made_one(tmp_path, arguments):
    run = run_command(*arguments, "--data", tmp_path / "dta")
    assert run.returncode == (2 if arguments == ("scrub",) else 1)
    assert "There is no archive in the data folder" in run.stderr
    assert not (tmp_path / "dta" / "objects").exists()


@pytest.mark.parametrize("arguments", [("reindex", "--from-objects"), ("migrate",)])
def test_what_a_running_gateway_must_not_see_is_refused_with_3(data, start_gateway, arguments):
    start_gateway("--workers", "1", data=data)
    before = (data / "index.sqlite").stat().st_ino
    run = run_command(*arguments, "--data", data)
    assert run.returncode == 3
    assert "Another gateway is running" in run.stderr
    assert (data / "index.sqlite").stat().st_ino == before


def test_the_index_of_before_is_kept_and_said_where(data):
    run = run_command("reindex", "--from-objects", "--data", data)
    assert run.returncode == 0
    assert run.stdout == "The index is whole: 3 stores and deletions, 0 refused\n"
    assert str(data / "index.sqlite.before") in run.stderr
    with contextlib.closing(sqlite3.connect(data / "index.sqlite.before")) as before:
        assert before.execute("SELECT count(*) FROM instance").fetchone() == (3,)
    assert list((data / "rebuild").iterdir()) == []


def test_what_is_not_in_the_new_index_is_named_with_the_reason_and_exit_code_1(data):
    objects(data)[0].write_bytes(objects(data)[0].read_bytes()[5:])
    run = run_command("reindex", "--from-objects", "--json", "--data", data)
    assert run.returncode == 1
    refused, last = map(json.loads, run.stdout.splitlines())
    assert refused["key"].startswith("v1/default/1.2.3/1.2.3.4.1_")
    assert refused["reason"] == "The header of the object is damaged"
    assert last == {"event": "rebuilt", "events": 3, "refused": 1}


def test_extended_tags_are_complete_after_a_rebuild(data):
    known = {"GATEWAY_ARCHIVE__EXTENDED_TAGS": "BitsAllocated"}
    assert run_command("reindex", "--from-objects", "--data", data, environment=known).returncode == 0
    run = run_command("reindex", "--data", data, "--json", environment=known)
    assert json.loads(run.stdout)["instances"] == 0


@pytest.mark.parametrize(
    "arguments", [("--verify",), ("--index", "postgresql:///x"), ("--from-objects", "--index", "/tmp/index.sqlite")]
)
def test_flags_that_make_no_sense_are_bad_usage(data, arguments):
    assert run_command("reindex", "--data", data, *arguments).returncode == 2


def test_migrate_says_from_what_to_what_and_check_changes_nothing(data):
    known = read_version(data / "index.sqlite").known
    assert run_command("migrate", "--check", "--data", data).returncode == 0
    for path in data.glob("index.sqlite*"):
        path.unlink()
    with contextlib.closing(connect(data / "index.sqlite")) as connection:
        migrate(connection, to=2)
    run = run_command("migrate", "--check", "--json", "--data", data)
    assert (run.returncode, json.loads(run.stdout)) == (
        1,
        {"event": "migrated", "from": 2, "to": 2, "known": known},
    )
    run = run_command("migrate", "--data", data)
    assert (run.returncode, run.stdout) == (0, f"The schema of the index: 2 → {known}\n")
    assert read_version(data / "index.sqlite").applied == known


def test_migrate_knows_a_database_that_is_empty(data, engine):
    flags = ("--check",) if engine.name == "postgresql" else ()  # a file that is not there has version 0
    run = run_command("migrate", *flags, "--json", "--data", data, environment=engine.environment(data))
    assert run.returncode == 0
    said = json.loads(run.stdout)
    assert said["to"] == said["known"] > 0


def test_a_rebuild_forgets_no_deletion(data):
    with contextlib.closing(open_archive(data)) as archive:
        archive.delete(Scope("1.2.3", "1.2.3.4", "1.2.3.4.2"))
    (data / "index.sqlite").unlink()
    assert run_command("reindex", "--from-objects", "--data", data).returncode == 0
    with contextlib.closing(open_archive(data)) as archive:
        assert [one.sop_instance_uid for one in archive.instances(Scope("1.2.3"))] == ["1.2.3.4.1", "1.2.3.4.3"]
