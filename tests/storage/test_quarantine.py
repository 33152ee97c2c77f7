"""Quarantine: bytes as received, records that explain themselves, limits, and what crashes and full disks do to it."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest

from storage import errors
from storage.errors import CorruptObject, NotDicom, NotFound, StorageUnavailable
from storage.filemeta import Announcement, canonical_header
from storage.model import Refusal, Source
from storage.quarantine import KEPT, LEAST_BYTES, Limits, Quarantine, Usage, is_kept
from storage.spool import MEMORY_BYTES, Spool
from tests.synthetic import CT, EXPLICIT, data_set, part10

ANNOUNCED = Announcement(CT, "1.2.3.4.5", EXPLICIT)
LARGE = bytes(range(256)) * (MEMORY_BYTES // 256 + 100)
NO_FLOOR = Limits(least_free_bytes=0, least_free_percent=0)
REFUSAL = Refusal(
    Source("dimse", "CT1", "10.0.0.1"),
    "GATEWAY",
    "key",
    "NotDicom",
    "It is none",
    "00100010",
    0xC000,
    "1.2",
    "1.3",
    "1.4",
)


@pytest.fixture
def incoming(tmp_path):
    folder = tmp_path / "incoming"
    folder.mkdir()
    return folder


@pytest.fixture
def quarantine(tmp_path):
    return Quarantine(tmp_path / "quarantine", NO_FLOOR)


def keep(quarantine, incoming, content, *, announcement=ANNOUNCED, refusal=REFUSAL, chunk=50_000):
    """Have it kept as a door does it: whatever the spool raises."""
    with Spool(incoming, announcement, maximum_bytes=1 << 30, keeps_foreign=True) as spool:
        with contextlib.suppress(NotDicom):
            for at in range(0, len(content), chunk):
                spool.write(content[at : at + chunk])
            spool.finish()
        return quarantine.keep(spool, refusal)


def received(quarantine, identity, **options):
    return b"".join(quarantine.received(quarantine.find(identity), **options))


def from_address(address):
    return replace(REFUSAL, source=Source("dimse", "CT1", address))


# ------------------------------------------------------------------------------------------------------ which, and what


def kinds(kind=errors.GatewayError):
    yield kind
    for child in kind.__subclasses__():
        yield from kinds(child)


def test_every_class_of_the_tree_has_its_row():
    assert set(KEPT) == {kind for kind in kinds() if kind.__module__ == "storage.errors"}


def test_what_its_sender_sends_again_is_not_kept_and_a_fault_of_ours_is():
    assert [kind for kind in KEPT if kind.retryable and KEPT[kind]] == []
    assert not is_kept(errors.Forbidden())
    assert not is_kept(errors.TooLarge())
    assert is_kept(errors.TooComplex())
    assert is_kept(ZeroDivisionError())


CONTENTS = {
    "a Data Set in memory": (data_set(), ANNOUNCED),
    "a Data Set in a file": (data_set() + LARGE, ANNOUNCED),
    "Part 10 in memory": (part10(data_set()), None),
    "Part 10 in a file": (part10(data_set() + LARGE), None),
    "Part 10 without a Data Set": (part10(b""), None),
    "Part 10 cut in its File Meta": (part10(data_set())[:200], None),
    "no DICOM in memory": (b"GIF89a" * 100, None),
    "no DICOM in a file": (b"GIF89a" * 100_000, None),
    "a preamble alone": (bytes(100), None),
    "a File Meta without end": (bytes(128) + b"DICM" + b"\2\0\2\1OB\0\0\xff\xff\0\0" + bytes(90_000), None),
}


@pytest.mark.parametrize("chunk", [7, 50_000])
@pytest.mark.parametrize("name", CONTENTS)
def test_the_bytes_are_those_that_were_received(quarantine, incoming, name, chunk):
    content, announcement = CONTENTS[name]
    identity = keep(
        quarantine, incoming, content[: 20_000 if chunk == 7 else None], announcement=announcement, chunk=chunk
    )
    assert received(quarantine, identity) == content[: 20_000 if chunk == 7 else None]
    assert list(incoming.iterdir()) == []


def test_what_came_without_file_meta_has_ours_when_tools_are_to_read_it(quarantine, incoming):
    identity = keep(quarantine, incoming, data_set())
    assert received(quarantine, identity, is_bare=False) == canonical_header(ANNOUNCED) + data_set()
    other = keep(quarantine, incoming, part10(data_set()), announcement=None)
    assert received(quarantine, other, is_bare=False) == part10(data_set())


def test_all_that_was_said_is_there_again_without_any_index(quarantine, incoming, tmp_path):
    named = replace(REFUSAL, is_announced=True, study_instance_uid="1.9")
    identity = keep(quarantine, incoming, data_set(), refusal=named)
    (held,) = Quarantine(tmp_path / "quarantine", NO_FLOOR).held()
    assert (held.id, held.refusal, held.size_bytes) == (identity, named, len(data_set()))
    assert "T" in held.refused_at


def test_announced_text_of_any_length_is_cut(quarantine, incoming):
    endless = replace(REFUSAL, sop_instance_uid="../" * 20_000, sop_class_uid="\ufffd" * 500)
    held = quarantine.find(keep(quarantine, incoming, data_set(), refusal=endless))
    assert len(held.refusal.sop_instance_uid) == len(held.refusal.sop_class_uid) == 64


def test_a_large_one_is_renamed_and_not_copied(quarantine, incoming, tmp_path):
    with Spool(incoming, ANNOUNCED, maximum_bytes=1 << 30) as spool:
        spool.write(LARGE)
        inode = spool.path.stat().st_ino
        identity = quarantine.keep(spool, REFUSAL)
    assert (tmp_path / "quarantine" / f"{identity}.dcm").stat().st_ino == inode


@pytest.mark.skipif(not Path("/dev/shm").is_dir(), reason="there is no second disk")
def test_where_the_objects_are_on_another_disk_it_is_copied(tmp_path, incoming):
    elsewhere = Path("/dev/shm") / f"quarantine-{os.getpid()}-{time.monotonic_ns()}"
    try:
        quarantine = Quarantine(elsewhere, NO_FLOOR)
        with pytest.raises(OSError, match="cross-device") as caught:
            elsewhere.mkdir()
            (incoming / "one").touch()
            (incoming / "one").rename(elsewhere / "one")
        assert caught.value.errno == errno.EXDEV
        (incoming / "one").unlink()
        assert received(quarantine, keep(quarantine, incoming, data_set() + LARGE)) == data_set() + LARGE
        assert list(incoming.iterdir()) == []
    finally:
        shutil.rmtree(elsewhere, ignore_errors=True)


def test_what_is_less_than_an_element_is_nothing(quarantine, incoming):
    with Spool(incoming, ANNOUNCED, maximum_bytes=1 << 30) as spool:
        spool.write(b"x" * (LEAST_BYTES - 1))
        assert not quarantine.wants(spool, NotDicom())
        spool.write(b"x")
        assert quarantine.wants(spool, NotDicom())
        assert not quarantine.wants(spool, StorageUnavailable())


@pytest.mark.parametrize("content", [b"GIF89a" * 100_000, part10(data_set() + LARGE)])
def test_what_was_cut_at_a_limit_is_not_wanted(quarantine, incoming, content):
    """Whatever its sender is told: of a stream that is no DICOM just that."""
    with Spool(incoming, maximum_bytes=20_000, keeps_foreign=True) as spool:
        with pytest.raises(NotDicom if content[:3] == b"GIF" else errors.TooLarge):
            for at in range(0, len(content), 10_000):
                spool.write(content[at : at + 10_000])
        assert not quarantine.wants(spool, NotDicom())
        assert quarantine.keep(spool, REFUSAL) == ""
    assert list(quarantine.held()) == []
    assert list(incoming.iterdir()) == []


# --------------------------------------------------------------------------------------------------------------- limits


def limited(tmp_path, **limits):
    return Quarantine(tmp_path / "quarantine", replace(NO_FLOOR, **limits))


def test_beyond_the_number_the_oldest_go(tmp_path, incoming):
    quarantine = limited(tmp_path, maximum_count=3)
    kept = []
    for number in range(5):
        kept.append(keep(quarantine, incoming, data_set(number=number)))
        time.sleep(0.002)
    assert quarantine.ids() == kept[-3:]
    assert quarantine.usage().count == 3


def test_beyond_the_bytes_the_oldest_go_and_the_sum_is_never_more(tmp_path, incoming):
    quarantine = limited(tmp_path, maximum_bytes=5 * len(LARGE))
    for _ in range(12):
        assert keep(quarantine, incoming, LARGE)
        time.sleep(0.002)
        size_bytes = sum(path.stat().st_size for path in (tmp_path / "quarantine").iterdir() if path.suffix != "")
        assert size_bytes == quarantine.usage().size_bytes <= 5 * len(LARGE)
    assert 3 <= quarantine.usage().count < 5


def test_a_flood_pushes_out_only_what_came_from_its_address(tmp_path, incoming):
    quarantine = limited(tmp_path, maximum_count=40)
    evidence = {keep(quarantine, incoming, data_set(), refusal=from_address("10.0.0.9")) for _ in range(5)}
    for number in range(200):
        source = Source("dimse", f"AE{number}", "10.0.0.66")
        keep(quarantine, incoming, data_set(), refusal=replace(REFUSAL, source=source))
    assert evidence <= set(quarantine.ids())
    assert quarantine.usage().count == len(quarantine.ids()) <= 40


def test_what_is_larger_than_the_whole_is_not_kept_and_costs_nobody_else(tmp_path, incoming):
    quarantine = limited(tmp_path, maximum_bytes=len(LARGE))
    small = keep(quarantine, incoming, data_set())
    assert keep(quarantine, incoming, LARGE) == ""
    assert keep(quarantine, incoming, LARGE + LARGE) == ""
    assert quarantine.ids() == [small]
    assert list(incoming.iterdir()) == []


@pytest.mark.parametrize("limits", [{"maximum_count": 0}, {"maximum_bytes": 0}])
def test_with_a_limit_of_0_nothing_is_wanted(tmp_path, incoming, limits):
    quarantine = limited(tmp_path, **limits)
    with Spool(incoming, ANNOUNCED, maximum_bytes=1 << 30) as spool:
        spool.write(data_set())
        assert not quarantine.wants(spool, NotDicom())


@pytest.mark.parametrize("floor", [{"least_free_bytes": 1 << 60}, {"least_free_percent": 100}])
def test_on_a_disk_that_is_nearly_full_nothing_is_kept(tmp_path, incoming, floor):
    quarantine = limited(tmp_path, **floor)
    assert keep(quarantine, incoming, data_set()) == ""
    assert keep(quarantine, incoming, LARGE) == ""
    assert list(quarantine.held()) == []
    assert list(incoming.iterdir()) == []


def test_many_keep_and_drop_at_once_and_the_book_is_right(tmp_path, incoming):
    quarantine = limited(tmp_path, maximum_count=50)

    def both(number):
        identity = keep(quarantine, incoming, data_set(number=number))
        if number % 3 == 0:
            with contextlib.suppress(NotFound):
                quarantine.drop(identity)

    with ThreadPoolExecutor(8) as many:
        list(many.map(both, range(200)))
    ids = quarantine.ids()
    assert 0 < len(ids) <= 50
    assert quarantine.usage().count == len(ids)
    for identity in ids:
        assert received(quarantine, identity)


# --------------------------------------------------------------------------------------------------------------- faults


def test_a_folder_that_cannot_be_made_is_no_fault_of_the_sender(tmp_path, incoming):
    (tmp_path / "quarantine").write_text("a file")
    assert keep(limited(tmp_path), incoming, data_set()) == ""
    assert list(incoming.iterdir()) == []


def test_somebody_who_holds_the_lock_does_not_hold_up_a_sender_for_long(tmp_path, incoming, monkeypatch):
    monkeypatch.setattr("storage.quarantine._PATIENCE_SECONDS", 0.05)
    quarantine = limited(tmp_path)
    keep(quarantine, incoming, data_set())
    held, done = threading.Event(), threading.Event()

    def hold():
        with quarantine._locked():
            held.set()
            done.wait(20)

    holding = threading.Thread(target=hold)
    holding.start()
    try:
        assert held.wait(5)
        assert keep(quarantine, incoming, data_set()) == ""
        quarantine.sweep()
        with pytest.raises(StorageUnavailable):
            quarantine.drop(quarantine.ids()[0])
    finally:
        done.set()
        holding.join()
    assert keep(quarantine, incoming, data_set())
    assert len(quarantine.ids()) == 2
    assert sorted(path.suffix for path in (tmp_path / "quarantine").iterdir()) == ["", ".dcm", ".dcm", ".json", ".json"]


def test_damaged_ones_are_left_out_and_can_be_dropped(quarantine, incoming, tmp_path):
    whole, torn, short, gone = (keep(quarantine, incoming, data_set()) for _ in range(4))
    folder = tmp_path / "quarantine"
    (folder / f"{torn}.json").write_bytes(b"")
    (folder / f"{short}.dcm").write_bytes(b"short")
    (folder / f"{gone}.dcm").unlink()
    assert {held.id for held in quarantine.held()} == {whole, short, gone}
    for identity in (short, gone):
        with pytest.raises(CorruptObject):
            received(quarantine, identity)
    for identity in (torn, short, gone, whole):
        quarantine.drop(identity)
        with pytest.raises(NotFound):
            quarantine.drop(identity)
    assert quarantine.usage().count == 0
    assert [path.name for path in folder.iterdir()] == ["usage"]


@pytest.mark.parametrize("identity", ["", "../objects/x", "20260101-000000000000-0000-00000000", "/etc/passwd", "*"])
def test_an_id_is_no_path(quarantine, incoming, identity):
    keep(quarantine, incoming, data_set())
    with pytest.raises(NotFound):
        quarantine.find(identity)
    with pytest.raises(NotFound):
        quarantine.drop(identity)


@pytest.mark.parametrize("book", [b"", b"nonsense", b"1", b"-1 -1"])
def test_a_book_that_cannot_be_read_is_written_anew(quarantine, incoming, tmp_path, book):
    keep(quarantine, incoming, data_set())
    (tmp_path / "quarantine" / "usage").write_bytes(book)
    assert quarantine.usage() == Usage()
    keep(quarantine, incoming, data_set())
    assert quarantine.usage().count == 2


KEEPER = """
import sys
from pathlib import Path
from storage.filemeta import Announcement
from storage.model import Refusal, Source
from storage.quarantine import Limits, Quarantine
from storage.spool import Spool
folder = Path(sys.argv[1])
quarantine = Quarantine(folder / "quarantine", Limits(maximum_count=30, least_free_bytes=0, least_free_percent=0))
number = 0
while True:
    number += 1
    with Spool(folder / "incoming", Announcement("1.2", "1.3", "1.2.840.10008.1.2.1"), maximum_bytes=1 << 30) as spool:
        spool.write(b"x" * (100_000 if number % 2 else 1000))
        refusal = Refusal(Source("dimse"), "", "key", "NotDicom", "", "", 0xC000)
        assert quarantine.keep(spool, refusal)
    print(number, flush=True)
"""


def test_whoever_is_killed_leaves_whole_ones_and_what_a_sweep_removes(tmp_path, incoming):
    quarantine = limited(tmp_path, maximum_count=30)
    for life in range(8):
        keeper = subprocess.Popen([sys.executable, "-c", KEEPER, str(tmp_path)], stdout=subprocess.PIPE)
        for _ in range(5 + 9 * life):
            assert keeper.stdout.readline()
        keeper.kill()
        keeper.communicate()
        for held in quarantine.held():
            assert len(b"".join(quarantine.received(held))) in (1000, 100_000)
    folder = tmp_path / "quarantine"
    for path in folder.iterdir():
        os.utime(path, (0, 0))
    quarantine.sweep()
    ids = quarantine.ids()
    assert 0 < len(ids) <= 31, "who is killed between a file and the book leaves one that is not counted"
    assert sorted(path.name for path in folder.iterdir()) == sorted(
        ["usage", *(f"{one}{suffix}" for one in ids for suffix in (".dcm", ".json"))]
    )
    assert quarantine.usage().count == len(ids)


def test_a_sweep_spares_what_is_being_made(quarantine, incoming, tmp_path):
    identity = keep(quarantine, incoming, data_set())
    making = tmp_path / "quarantine" / "20260101-000000000000-0000-00000000.dcm.waiting"
    making.write_bytes(b"x")
    quarantine.sweep()
    assert making.exists()
    assert quarantine.ids() == [identity]


def test_a_sweep_where_nothing_was_ever_kept_makes_nothing(quarantine, tmp_path):
    quarantine.sweep()
    assert not (tmp_path / "quarantine").exists()
    assert quarantine.usage() == Usage()
    assert quarantine.ids() == []


# -------------------------------------------------------------------------------------------------------- what is wrong


def test_the_beginning_has_the_elements_up_to_the_fault(quarantine, incoming):
    cut = data_set()[:-30]
    said = replace(REFUSAL, is_announced=True, transfer_syntax_uid=EXPLICIT)
    found = quarantine.beginning(quarantine.find(keep(quarantine, incoming, cut, refusal=said)))
    assert list(found.elements)[:2] == ["00080016", "00080018"]
    assert found.fault
    assert cut.startswith(found.first_bytes)
    assert len(found.first_bytes) == 64


def test_the_beginning_of_what_can_be_read_has_no_fault(quarantine, incoming):
    said = replace(REFUSAL, is_announced=False, transfer_syntax_uid=EXPLICIT)
    identity = keep(quarantine, incoming, part10(data_set()), announcement=None, refusal=said)
    found = quarantine.beginning(quarantine.find(identity))
    assert found.fault == ""
    assert found.elements["0020000D"]["Value"] == ["1.2.3"]
    assert found.first_bytes == part10(data_set())[:64]


@pytest.mark.parametrize("content", [b"GIF89a" * 100, part10(b"")])
def test_the_beginning_of_what_holds_no_data_set_is_its_first_bytes(quarantine, incoming, content):
    identity = keep(quarantine, incoming, content, announcement=None)
    found = quarantine.beginning(quarantine.find(identity))
    assert (found.first_bytes, found.elements, found.fault) == (content[:64], {}, "It is none")
