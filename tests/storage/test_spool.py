"""Spools: bytes in, digest and Data Set out, nothing left behind."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from storage.errors import NotDicom, StorageUnavailable, TooLarge
from storage.filemeta import Announcement, canonical_header
from storage.spool import MEMORY_BYTES, Spool, sweep, write_all_of
from tests.synthetic import CT, EXPLICIT, data_set, element, part10

ANNOUNCED = Announcement(CT, "1.2.3.4.5", EXPLICIT)
LARGE = bytes(range(256)) * (MEMORY_BYTES // 256 + 10)


def collected(folder, chunks, announcement=ANNOUNCED, maximum_bytes=1 << 30) -> Spool:
    spool = Spool(folder, announcement, maximum_bytes=maximum_bytes)
    for chunk in chunks:
        spool.write(chunk)
    spool.finish()
    return spool


@pytest.mark.parametrize("content", [b"x" * 100, LARGE], ids=["in memory", "in a file"])
def test_the_object_is_our_header_and_the_data_set_as_received(tmp_path, content):
    with collected(tmp_path, [content[:77], content[77:]]) as spool:
        assert bytes(spool.data_set[spool.data_set_offset :]) == content
        assert spool.digest == hashlib.sha256(content).hexdigest()
        assert b"".join(bytes(piece) for piece in spool.pieces()) == canonical_header(ANNOUNCED) + content
        assert spool.object_bytes == len(canonical_header(ANNOUNCED)) + len(content)
        assert (spool.path is None) == (len(content) <= MEMORY_BYTES)
    assert list(tmp_path.iterdir()) == []


@given(cut=st.integers(1, 90))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=40)
def test_a_part_10_stream_gives_its_data_set_however_it_is_cut(tmp_path, cut):
    raw = part10(data_set())
    with collected(tmp_path, [raw[at : at + cut] for at in range(0, len(raw), cut)], None) as spool:
        assert bytes(spool.data_set[spool.data_set_offset :]) == data_set()
        assert spool.announcement.sop_instance_uid == "1.2.3.4.5"


def test_a_large_part_10_stream_waits_in_a_file(tmp_path):
    raw = part10(data_set() + b"\xfc\xff\xfc\xffOB\0\0" + len(LARGE).to_bytes(4, "little") + LARGE)
    with collected(tmp_path, [raw], None) as spool:
        assert spool.path is not None
        assert bytes(spool.data_set[spool.data_set_offset :]).startswith(data_set())


@pytest.mark.parametrize("content", [b"x" * 100, LARGE], ids=["in memory", "in a file"])
def test_what_was_announced_can_be_corrected(tmp_path, content):
    true = Announcement(CT, "1.2.3.4.5.6.7.8.9", EXPLICIT)
    with collected(tmp_path, [content]) as spool:
        spool.announce(true)
        assert b"".join(bytes(piece) for piece in spool.pieces()) == canonical_header(true) + content
        assert spool.digest == hashlib.sha256(content).hexdigest()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("maximum_bytes", [10, MEMORY_BYTES + 10])
def test_more_than_the_limit_is_refused_and_nothing_stays(tmp_path, maximum_bytes):
    with pytest.raises(TooLarge), Spool(tmp_path, ANNOUNCED, maximum_bytes=maximum_bytes) as spool:
        for _ in range(MEMORY_BYTES // 10):
            spool.write(b"x" * 1000)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("chunks", [[], [b""], [b"\0" * 100], [b"GIF89a" * 50], [part10(b"")]])
def test_what_holds_no_data_set_is_not_dicom(tmp_path, chunks):
    with pytest.raises(NotDicom):
        collected(tmp_path, chunks, None)


def test_an_endless_file_meta_is_refused(tmp_path):
    endless = b"\0" * 128 + b"DICM" + element(0x00020102, "OB", b"x" * 40_000) * 2
    with pytest.raises(NotDicom), Spool(tmp_path, maximum_bytes=1 << 30) as spool:
        spool.write(endless)


def test_a_disk_that_refuses_is_unavailable(tmp_path):
    with pytest.raises(StorageUnavailable), Spool(tmp_path / "absent", ANNOUNCED, maximum_bytes=1 << 30) as spool:
        spool.write(LARGE)


def test_a_correction_that_the_disk_refuses_closes_no_file_of_others(tmp_path, monkeypatch):
    spool = collected(tmp_path, [LARGE])
    closed = []
    with monkeypatch.context() as patch:
        real = os.close

        def traced(fd):
            closed.append(fd)
            real(fd)

        def refused(_):
            raise OSError(28, "full")

        patch.setattr(os, "close", traced)
        patch.setattr("storage.spool.waiting_file", refused)
        with pytest.raises(StorageUnavailable):
            spool.announce(Announcement(CT, "1.2.3.4.5.6", EXPLICIT))
        spool.close()
    assert len(closed) == 1
    assert list(tmp_path.iterdir()) == []


def test_closing_twice_is_no_error(tmp_path):
    spool = collected(tmp_path, [LARGE])
    spool.close()
    spool.close()


OWNER = """
import sys, time
from pathlib import Path
from storage.filemeta import Announcement
from storage.spool import Spool
spool = Spool(Path(sys.argv[1]), Announcement("1.2", "1.3", "1.2.840.10008.1.2.1"), maximum_bytes=1 << 30)
spool.write(b"x" * (2 << 20))
print("waiting", flush=True)
sys.stdin.read()
"""


def test_a_sweep_removes_what_a_crash_left_and_nothing_of_the_living(tmp_path):
    command = [sys.executable, "-c", OWNER, str(tmp_path)]
    owners = [subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) for _ in range(2)]
    try:
        for owner in owners:
            assert owner.stdout.readline() == b"waiting\n"
        assert len(list(tmp_path.iterdir())) == 2
        assert sweep(tmp_path) == 0
        owners[0].kill()
        owners[0].wait()
        assert sweep(tmp_path) == 1
        assert len(list(tmp_path.iterdir())) == 1
    finally:
        for owner in owners:
            owner.kill()
            owner.communicate()
    assert sweep(tmp_path) == 1
    assert not list(tmp_path.iterdir())


def test_pieces_that_the_system_takes_in_part_are_written_whole(tmp_path, monkeypatch):
    chunks = (b"header", memoryview(b"data set" * 100), b"")
    writev = os.writev
    for taken in range(sum(map(len, chunks)) + 1):
        monkeypatch.setattr(os, "writev", lambda fd, parts, taken=taken: writev(fd, [b"".join(parts)[:taken]]))
        with (tmp_path / str(taken)).open("wb", buffering=0) as file:
            write_all_of(file.fileno(), chunks)
        assert (tmp_path / str(taken)).read_bytes() == b"".join(chunks)


def test_a_begun_file_is_locked_against_the_sweep(tmp_path):
    with collected(tmp_path, [b"x" * 100]) as spool:
        spool.begin_file()
        assert sweep(tmp_path) == 0
        assert spool.path is not None
        assert spool.path.read_bytes() == canonical_header(ANNOUNCED) + b"x" * 100


def test_a_file_cannot_be_given_away_before_it_is_begun(tmp_path):
    with collected(tmp_path, [b"x" * 100]) as spool, pytest.raises(FileNotFoundError):
        spool.rename(tmp_path / "elsewhere")
