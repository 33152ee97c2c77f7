"""Import of files: what is found, what is refused, and that nothing stops it. Through the command line and directly."""

from __future__ import annotations

import json
import struct

import pytest

from gateway.importer import find_files
from storage.filemeta import Announcement, canonical_header
from tests.fix_servers import run_command

CT = "1.2.840.10008.5.1.4.1.1.2"
EXPLICIT = "1.2.840.10008.1.2.1"


def element(group, number, vr, value):
    padded = value + b"\0" * (len(value) % 2)
    return struct.pack("<HH2sH", group, number, vr, len(padded)) + padded


def part10(number, patient=b"CANARY^PATIENT"):
    """A small CT instance without pixels."""
    uid = f"2.25.{number}"
    data_set = (
        element(8, 0x16, b"UI", CT.encode())
        + element(8, 0x18, b"UI", uid.encode())
        + element(0x10, 0x10, b"PN", patient)
        + element(0x10, 0x20, b"LO", b"P1")
        + element(0x20, 0x0D, b"UI", b"2.25.1000")
        + element(0x20, 0x0E, b"UI", b"2.25.1001")
    )
    return canonical_header(Announcement(CT, uid, EXPLICIT)) + data_set


@pytest.fixture
def disk(tmp_path):
    folder = tmp_path / "disk"
    (folder / "deep" / "er").mkdir(parents=True)
    (folder / ".hidden").mkdir()
    (folder / "one.dcm").write_bytes(part10(1))
    (folder / "deep" / "two").write_bytes(part10(2))
    (folder / "deep" / "er" / "three.dcm").write_bytes(part10(3))
    (folder / ".hidden" / "four.dcm").write_bytes(part10(4))
    return folder


def run_import(tmp_path, *arguments):
    return run_command("import", "--data", tmp_path / "data", *arguments)


def test_folders_are_searched_at_any_depth_and_hidden_ones_left_out(disk):
    assert [path.relative_to(disk).as_posix() for path in find_files([disk])] == [
        "deep/er/three.dcm",
        "deep/two",
        "one.dcm",
    ]
    assert find_files([disk / ".hidden" / "four.dcm"]) == [disk / ".hidden" / "four.dcm"]


def test_all_stored_is_exit_code_0_and_again_is_all_duplicates(disk, tmp_path):
    first = run_import(tmp_path, disk)
    assert (first.returncode, first.stdout) == (0, "3 files, 3 stored\n"), first.stderr
    again = run_import(tmp_path, disk)
    assert (again.returncode, again.stdout) == (0, "3 files, 3 duplicate\n")
    assert first.stderr == again.stderr == ""


def test_a_bad_file_is_named_with_a_reason_and_the_others_are_stored(disk, tmp_path):
    (disk / "broken.dcm").write_bytes(b"CANARY^VALUE" * 50)
    (disk / "cut.dcm").write_bytes(part10(5)[:-7])
    (disk / "empty.dcm").write_bytes(b"")
    done = run_import(tmp_path, "--json", disk)
    assert done.returncode == 1
    report = json.loads(done.stdout)
    assert (report["files"], report["stored"], report["refused"]) == (6, 3, 3)
    assert {path["path"].rsplit("/", 1)[1] for path in report["refusals"]} == {"broken.dcm", "cut.dcm", "empty.dcm"}
    assert all(one["reason"] for one in report["refusals"])
    assert "CANARY" not in done.stdout + done.stderr
    told = run_import(tmp_path, disk)
    assert told.returncode == 1
    assert f"refused  {disk / 'broken.dcm'}: " in told.stderr


def test_a_file_that_cannot_be_read_is_refused(disk, tmp_path):
    (disk / "dangling.dcm").symlink_to(disk / "nowhere")
    done = run_import(tmp_path, "--json", disk)
    (refusal,) = json.loads(done.stdout)["refusals"]
    assert refusal["reason"] == "The file cannot be read: No such file or directory"


def test_a_path_that_is_not_there_is_bad_usage(tmp_path):
    done = run_import(tmp_path, tmp_path / "nowhere")
    assert done.returncode == 2
    assert "does not exist" in done.stderr


def test_a_folder_that_cannot_be_the_archive_is_told_by_name(disk, tmp_path):
    (tmp_path / "data").write_text("a file")
    done = run_import(tmp_path, disk)
    assert done.returncode in (1, 2)
    assert str(tmp_path / "data") in done.stderr
    assert "Traceback" not in done.stderr


def test_the_data_set_is_kept_byte_for_byte(disk, tmp_path):
    run_import(tmp_path, disk / "one.dcm")
    kept = [path.read_bytes() for path in (tmp_path / "data" / "objects").rglob("*") if path.is_file()]
    assert part10(1) in kept
