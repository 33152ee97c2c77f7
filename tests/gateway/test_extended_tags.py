"""Extended tags from end to end: both doors, each engine, settings that change and processes that die."""

from __future__ import annotations

import contextlib
import json
import re
import signal
import subprocess
import sys
import time

import pytest
from pydicom.dataset import Dataset, FileMetaDataset

from tests.fix_dimse import run_program, settle
from tests.fix_search import instance, items, part10, running_search
from tests.fix_servers import command_environment, run_command

COIL = "GATEWAY_ARCHIVE__EXTENDED_TAGS"
TAGS = "00191008/ACME MR:LO@series,KVP,ReferencedImageSequence.ReferencedSOPInstanceUID@series,PatientComments"
KNOWN = {COIL: TAGS}


def private(data_set, text, creator="ACME MR", vr="LO"):
    """The same Data Set with a private element in the block 10 of group 0019."""
    data_set.add_new(0x00190010, "LO", creator)
    data_set.add_new(0x00191008, vr, text)
    return data_set


def corpus():
    return [
        private(instance(1, 1, 1, KVP="120", PatientComments="seen"), "HEAD"),
        private(instance(1, 2, 1, KVP="80"), "BODY"),
        private(instance(2, 1, 1, ReferencedImageSequence=items({"ReferencedSOPInstanceUID": "1.2.3"})), "HEAD"),
        private(instance(3, 1, 1), "HEAD", creator="OTHER"),
        private(instance(4, 1, 1, SpecificCharacterSet="ISO_IR 100"), "HALS-KÖRPER".encode("latin-1"), vr="UN"),
    ]


@pytest.fixture(scope="module")
def extended(tmp_path_factory, engine):
    with running_search(tmp_path_factory.mktemp("extended"), engine, "--workers", "1", **KNOWN) as running:
        running.stow(*corpus())
        yield running


@pytest.mark.parametrize(
    ("url", "found"),
    [
        ("/series?00191008=HEAD", ["2.25.1.1", "2.25.2.1"]),
        ("/series?00191008=H*", ["2.25.1.1", "2.25.2.1", "2.25.4.1"]),
        ("/series?00191008=hals*", []),
        ("/series?00191008=HALS-K%C3%96RPER", ["2.25.4.1"]),
        ("/instances?00191008=BODY", ["2.25.1.2.1"]),
        ("/studies?00191008=BODY&KVP=80.0", ["2.25.1"]),
        ("/studies?00191008=HEAD&KVP=80", []),
        ("/instances?KVP=120", ["2.25.1.1.1"]),
        ("/studies?PatientComments=s*n", ["2.25.1"]),
        ("/series?ReferencedImageSequence.ReferencedSOPInstanceUID=1.2.3", ["2.25.2.1"]),
        ("/series?00191008=%22%22&emptyvaluematching=true", ["2.25.3.1"]),
        ("/series?00191008=BODY%5CHEAD&multiplevaluematching=true", ["2.25.1.1", "2.25.1.2", "2.25.2.1"]),
    ],
)
def test_a_search_over_http_finds_by_an_extended_tag(extended, url, found):
    assert sorted(extended.uids(url)) == found


def test_extended_tags_are_returned_when_they_are_asked_for(extended):
    path = "/studies/2.25.4/series"
    assert "00191008" not in extended.find(path)[0]
    for asked in ("?includefield=00191008", "?00191008=", "?includefield=all"):
        assert extended.find(path + asked)[0]["00191008"] == {"vr": "LO", "Value": ["HALS-KÖRPER"]}
    (other,) = extended.find("/studies/2.25.3/series?includefield=00191008")
    assert other["00191008"] == {"vr": "LO"}
    (series,) = extended.find("/studies/2.25.2/series?includefield=ReferencedImageSequence")
    assert series["00081140"]["Value"] == [{"00081155": {"vr": "UI", "Value": ["1.2.3"]}}]


def test_what_is_no_extended_tag_is_refused_by_name_as_ever(extended):
    answer = extended.get("/series?00191009=HEAD")
    assert answer.status_code == 400
    assert "00191009" in answer.text


def findscu(running, *keys, more=()):
    """What findscu prints of a query."""
    arguments = [argument for key in keys for argument in ("-k", key)]
    address = ("127.0.0.1", running.gateway.dimse_port)
    run = run_program("findscu", "-v", "-S", "-aec", "GATEWAY", *arguments, *more[:1], *address, *more[1:])
    return run.stdout + run.stderr


@pytest.mark.needs("findscu")
@pytest.mark.parametrize("syntax", ["-xi", "-xe"])
def test_findscu_finds_by_a_private_tag_with_and_without_its_vr(extended, tmp_path, syntax):
    """In implicit VR, and from findscu's command line, which takes bytes, a private key is of unknown VR."""
    series = ("QueryRetrieveLevel=SERIES", "StudyInstanceUID=2.25.1", "SeriesInstanceUID=")

    def found(creator, key):
        said = findscu(extended, *series, f"0019,0010={creator}", *([key] if key else ()), more=(syntax, *files))
        answers = said.split("Find Response: ")[1:]
        assert all(f"(0019,0010) LO [{creator}" in one and "(Pending)" in one for one in answers)
        return [re.search(r"\(0020,000e\) UI \[(.*?)\]", one)[1] for one in answers]

    files = ()
    assert found("ACME MR", r"0019,1008=42\4f\44\59") == ["2.25.1.2"]
    assert found("ACME MR", r"0019,1008=2a") == ["2.25.1.1", "2.25.1.2"]
    query = Dataset()
    query.add_new(0x00191008, "LO", "BODY")
    query.file_meta = FileMetaDataset()
    query.file_meta.TransferSyntaxUID = "1.2.840.10008.1.2.1"
    query.save_as(tmp_path / "query.dcm", enforce_file_format=False, implicit_vr=False, little_endian=True)
    files = (tmp_path / "query.dcm",)
    assert found("ACME MR", "") == ["2.25.1.2"]


@pytest.mark.needs("findscu")
def test_a_private_key_of_another_creator_is_no_key_and_findscu_is_told(extended):
    series = ("QueryRetrieveLevel=SERIES", "StudyInstanceUID=2.25.1", "SeriesInstanceUID=")
    said = findscu(extended, *series, "0019,0010=OTHER", r"0019,1008=42\4f\44\59")
    assert said.count("Find Response:") == 2
    assert "(0019,1008)" not in said.partition("Find Response")[2]
    assert "(Pending)" not in said


@pytest.mark.needs("findscu")
def test_findscu_finds_by_extended_tags_of_the_dictionary(extended):
    image = ("QueryRetrieveLevel=IMAGE", "StudyInstanceUID=2.25.1", "SeriesInstanceUID=2.25.1.1", "SOPInstanceUID=")
    assert findscu(extended, *image, "KVP=120").count("(Pending)") == 1
    assert findscu(extended, *image, "KVP=80").count("(Pending)") == 0
    study = ("QueryRetrieveLevel=STUDY", "StudyInstanceUID=", "PatientComments=seen")
    assert findscu(extended, *study).count("(Pending)") == 1


def fill(folder, engine, count):
    """An archive of so many instances, stored by a gateway without extended tags."""
    with running_search(folder, engine, "--workers", "1") as running:
        for start in range(0, count, 200):
            many = range(start, min(start + 200, count))
            running.stow(*(part10(private(instance(1 + n % 7, 1 + n, 1 + n), f"C{n % 5}")) for n in many))
        assert running.get("/series?00191008=C1").status_code == 400


def environment_of(folder, engine):
    return {**engine.environment(folder / "data"), COIL: "00191008:LO@series"}


def test_reindex_makes_what_was_stored_before_searchable_and_says_so(tmp_path, engine):
    fill(tmp_path, engine, 210)
    run = run_command("reindex", "--json", "--data", tmp_path / "data", environment=environment_of(tmp_path, engine))
    assert run.returncode == 0, run.stderr
    assert json.loads(run.stdout) == {"event": "reindexed", "tags": ["00191008:LO@series"], "instances": 210}
    again = run_command("reindex", "--data", tmp_path / "data", environment=environment_of(tmp_path, engine))
    assert (again.returncode, again.stdout) == (0, "1 extended tags are complete, 0 instances were indexed\n")
    with running_search(tmp_path, engine, "--workers", "1", **{COIL: "00191008:LO@series"}) as running:
        assert len(running.uids("/series?00191008=C1&limit=1000")) == 42


def held_by(engine, folder):
    """Within it nobody else writes, so that nothing gets on with indexing."""
    return engine.held(folder / "data")


@pytest.mark.needs("findscu")
def test_until_a_tag_is_indexed_both_doors_refuse_it_and_then_the_gateway_has_done_it_by_itself(tmp_path, engine):
    fill(tmp_path, engine, 120)
    # The first to know of the tag; then the gateway can start while nobody may write.
    register = run_command(
        "import",
        "--data",
        tmp_path / "data",
        __file__,
        environment=environment_of(tmp_path, engine),
    )
    assert register.returncode == 1, "this file is no DICOM"
    with contextlib.ExitStack() as held:
        held.enter_context(held_by(engine, tmp_path))
        quiet = {"GATEWAY_CHANGES__STABLE_SECONDS": "0"}  # nothing else has to be written
        with running_search(tmp_path, engine, "--workers", "1", **{COIL: "00191008:LO@series"}, **quiet) as running:
            answer = running.get("/series?00191008=C1")
            assert answer.status_code == 400
            assert "00191008" in answer.text
            assert "still being indexed" in answer.text
            series = ("QueryRetrieveLevel=SERIES", "StudyInstanceUID=2.25.1", r"0019,1008=43\31")
            refused = findscu(running, *series, more=("-d",))
            assert re.search(r"Status +: 0xa900", refused), refused
            assert "still being indexed" in refused
            assert re.search(r"\(0000,0901\) AT \(0019,1008\)", refused), "the offending element"
            assert running.get("/series").status_code == 200
            for field in ("00191008", "all"):
                warning = running.get(f"/series?includefield={field}").headers["Warning"]
                assert "Still being indexed, and so not returned by every answer: 00191008" in warning
            assert "Warning" not in running.get("/studies?includefield=all").headers
            held.close()
            assert settle(lambda: running.get("/series?00191008=C1").status_code == 200, 90)
            assert len(running.uids("/series?00191008=C1&limit=1000")) == 24
            assert findscu(running, *series).count("(Pending)") > 0
            assert "indexed" not in running.get("/series?includefield=all&limit=1000").headers.get("Warning", "")
            running.stow(private(instance(9, 1, 1), "C1"))
            assert len(running.uids("/series?00191008=C1&limit=1000")) == 25
    with running_search(tmp_path, engine, "--workers", "1") as running:
        assert running.get("/series?00191008=C1").status_code == 400  # no longer in the settings
        running.stow(private(instance(10, 1, 1), "C1"))
    with running_search(tmp_path, engine, "--workers", "1", **{COIL: "00191008:LO@series"}) as running:
        assert settle(lambda: running.get("/series?00191008=C1").status_code == 200, 90)
        assert len(running.uids("/series?00191008=C1&limit=1000")) == 26


SLOW = """
import sys, time
from pathlib import Path
from gateway import app, settings
from gateway.indexing import complete
values = settings.load(None, {"archive.data": sys.argv[1]}).settings
with app.open_archive(values) as archive:
    for progress in complete(archive.index_extended):
        print(progress.done, progress.count, int(progress.is_contended), flush=True)
        time.sleep(0.02)
"""


def start_indexing(folder, engine):
    """A process that says how far it is after each step."""
    return subprocess.Popen(
        [sys.executable, "-c", SLOW, str(folder / "data")],
        stdout=subprocess.PIPE,
        text=True,
        env=command_environment(environment_of(folder, engine)),
    )


def test_indexing_that_is_killed_again_and_again_goes_on_where_it_was_and_misses_nothing(tmp_path, engine):
    fill(tmp_path, engine, 550)
    reached = [0]
    for _ in range(3):
        with start_indexing(tmp_path, engine) as process:
            done = int(process.stdout.readline().split()[0])
            time.sleep(0.03)  # into the next chunk, wherever that is
            process.send_signal(signal.SIGKILL)
        assert done > reached[-1]
        reached.append(done)
    with running_search(tmp_path, engine, "--workers", "1") as running:
        running.stow(private(instance(9, 2000, 1), "C1"))  # by a gateway that does not know the tag
    one, other = (start_indexing(tmp_path, engine) for _ in range(2))
    steps = [[line.split() for line in process.communicate(timeout=120)[0].splitlines()] for process in (one, other)]
    assert (one.returncode, other.returncode) == (0, 0)
    counts = [int(count) for said in steps for _, count, _ in said]
    assert sum(counts) <= 551 - reached[-1], "what was done before was not done again"
    with running_search(tmp_path, engine, "--workers", "1", **{COIL: "00191008:LO@series"}) as running:
        for number in range(5):
            found = len(running.uids(f"/series?00191008=C{number}&limit=1000"))
            assert found == 110 + (number == 1)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("Nonsense", "a keyword, a tag"),
        ("00191008", "one has to be given"),
        ("PatientID", "can be searched already"),
        ("KVP:LO", "its VR is DS"),
        ("PatientComments@study", "its level is patient"),
        ("KVP@image", "a level is one of"),
        ("PixelData", "cannot be searched"),
    ],
)
def test_a_tag_that_cannot_be_extended_is_bad_usage_and_named(text, reason):
    run = run_command("reindex", environment={COIL: f"KVP@series,{text}" if text[:3] != "KVP" else text})
    assert run.returncode == 2
    assert f"'{text}'" in run.stderr
    assert reason in run.stderr


def test_a_gateway_without_extended_tags_has_nothing_to_index(tmp_path):
    run = run_command("reindex", "--data", tmp_path / "data")
    assert (run.returncode, run.stdout) == (0, "0 extended tags are complete, 0 instances were indexed\n")


def test_extended_tags_are_shown_with_the_settings():
    shown = json.loads(run_command("settings", "--json", environment=KNOWN).stdout)
    assert shown["archive.extended_tags"]["value"] == TAGS.split(",")
