"""The benchmark: its corpus is DICOM and always the same, its answers are checked, its table adds up."""

from __future__ import annotations

import io
import json

import pydicom
import pytest

from benchmarks import __main__ as command
from benchmarks import report
from benchmarks.bench import Measurement, Result
from benchmarks.client import AnswerError
from benchmarks.corpus import FRAME_BYTES, Corpus, TinyStudy, ct_instance, studies_by, us_frames, us_instance
from benchmarks.load import load
from benchmarks.micro import codec_cases, storage_cases
from benchmarks.micro.timing import Case, time_case
from benchmarks.part10 import part10
from benchmarks.processes import Cost
from benchmarks.senders import stow, stow_body
from benchmarks.trials import __main__ as trials
from benchmarks.trials import soak
from benchmarks.workloads import WORKLOADS

SMALLEST = ["--no-peer", "--reps", "1", "--ct", "2", "--frames", "2", "--studies", "1", "--patience", "0"]


def read(content):
    return pydicom.dcmread(io.BytesIO(content), force=False)


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("corpus")


@pytest.mark.parametrize("module", [codec_cases, storage_cases])
def test_every_part_that_can_be_timed_does_what_it_should(module):
    for case in module.cases():
        case.operation()


def test_corpus_is_the_same_every_time(tmp_path):
    first, second = Corpus(tmp_path / "a", 2, 2), Corpus(tmp_path / "b", 2, 2)
    assert first.ct == second.ct
    assert first.us_frame_sha256 == second.us_frame_sha256
    assert TinyStudy(7).part10() == TinyStudy(7).part10()
    assert first.root.name == second.root.name
    assert Corpus(tmp_path, 3, 2).root != Corpus(tmp_path, 2, 2).root


def test_corpus_is_made_once(tmp_path):
    corpus = Corpus(tmp_path, 2, 2)
    made = [corpus.us_folder / "00000.dcm", *corpus.tiny_block(0).iterdir()]
    before = [path.stat().st_mtime_ns for path in made]
    again = Corpus(tmp_path, 2, 2)
    assert again.us_folder == corpus.us_folder
    assert again.tiny_block(0) == corpus.tiny_block(0)
    assert [path.stat().st_mtime_ns for path in made] == before
    assert not list(corpus.root.glob(".making-*"))


def test_ct_is_what_pydicom_reads():
    content = ct_instance(1, 2)
    data_set = read(content)
    assert 520_000 < len(content) < 540_000
    assert 130 <= len(list(data_set.iterall())) <= 170
    assert data_set.file_meta.TransferSyntaxUID.is_little_endian
    assert data_set.pixel_array.shape == (512, 512)
    assert data_set.PixelData == content[-FRAME_BYTES:]
    assert data_set.RequestAttributesSequence[0].ScheduledProtocolCodeSequence[0].CodeValue == "P1"
    assert [element.tag for element in data_set] == sorted(element.tag for element in data_set)


def test_copies_differ_in_stamps_alone(tmp_path):
    corpus = Corpus(tmp_path, 2, 2)
    one, other = (corpus.ct_copy(stamp)[1] for stamp in (5, 6))
    assert len(one) == len(other)
    uids = corpus.ct_uids(5)
    data_set = read(one)
    assert (data_set.StudyInstanceUID, data_set.SeriesInstanceUID) == (uids.study, uids.series)
    assert data_set.SOPInstanceUID == data_set.file_meta.MediaStorageSOPInstanceUID == uids.instances[1]
    assert one.replace(b"100000005", b"100000006") == other
    assert data_set.PatientID != read(other).PatientID


def test_multi_frame_object_holds_its_frames():
    frames = us_frames(3)
    data_set = read(us_instance(frames))
    assert data_set.pixel_array.shape == (3, 480, 640, 3)
    found = list(pydicom.encaps.generate_frames(data_set.PixelData, number_of_frames=3))
    assert [one.rstrip(b"\0") for one in found] == [one.rstrip(b"\0") for one in frames]
    assert len(set(frames)) == 3


def test_tiny_studies_say_what_is_searched_for():
    numbers = range(300)
    data_sets = [read(TinyStudy(number).part10()) for number in numbers]
    assert len({one.StudyInstanceUID for one in data_sets}) == 300
    counts = studies_by("patient_id", numbers)
    assert counts["PID0000003"] == sum(one.PatientID == "PID0000003" for one in data_sets) > 1
    assert [str(one.PatientName) for one in data_sets] == [TinyStudy(number).patient_name for number in numbers]


def test_a_word_that_is_no_keyword_is_refused():
    with pytest.raises(ValueError, match="is no keyword"):
        part10({"SOPClassUID": "1.2", "SOPInstanceUID": "1.3", "NoSuchAttribute": "x"})


def measurement(value, *, cpu_seconds=0.2, other=0.0, units=100, **detail):
    return Measurement(value, units, Cost(1.0, cpu_seconds, 0.1, other, 10**8, 10**7), detail)


def test_medians_leave_out_noisy_repetitions():
    results = [
        Result("frame-1", "gateway", rep, measurement(value, cpu_seconds=cpu), is_noisy=noisy)
        for rep, (value, cpu, noisy) in enumerate([(100, 0.2, False), (10, 9.0, True), (300, 0.4, False)])
    ]
    found = report.figure(results)
    assert found.cpu_ms_per_unit == pytest.approx(3.0)
    assert (found.value, found.noisy_reps, found.is_noisy) == (200, 1, False)
    assert report.figure([results[1]]).is_noisy
    assert report.figure([Result("frame-1", "gateway", 0, problem="no")]) is None


def test_processor_time_that_the_kernel_cannot_tell_is_not_shown():
    assert report.figure([Result("series", "gateway", 0, measurement(1, cpu_seconds=0.04))]).cpu_ms_per_unit is None


def server(name, peak_rss_bytes):
    class Peaks:
        peak_pss_bytes = peak_rss_bytes // 2

    Peaks.name = name
    Peaks.peak_rss_bytes = peak_rss_bytes
    return Peaks


def test_table_says_how_many_times_better_and_whether_that_is_the_goal():
    servers = [server("gateway", 79_000_000), server("orthanc", 100_000_000)]
    results = [
        Result("frame-1", "gateway", 0, measurement(2500.0, cpu_seconds=0.1, p50_ms=0.4)),
        Result("frame-1", "orthanc", 0, measurement(1000.0, cpu_seconds=0.25, p50_ms=1.0)),
        Result("metadata-warm", "gateway", 0, measurement(10.0)),
        Result("metadata-warm", "orthanc", 0, measurement(40.0)),
        Result("thumbnail-warm", "gateway", 0, measurement(5.0)),
        Result("thumbnail-warm", "orthanc", 0, problem="404"),
    ]
    lines = report.table(results, servers).splitlines()
    cells = {line.split("|")[1].strip(): [cell.strip() for cell in line.split("|")[2:-1]] for line in lines}
    frame = cells["CT frame 512 KiB, 1 connection"]
    assert frame[:5] == ["req/s", "2,500", "1,000", "2.50×", "≥ 2.5 ✓"]
    assert frame[5:9] == ["1.00", "2.50", "0.40×", "≤ 0.5 ✓"]
    assert frame[9] == "gateway: p50 0.40 ms; orthanc: p50 1.00 ms"
    assert cells["series metadata, again"][3:5] == ["4.00×", "≥ 10 ✗"]
    assert cells["thumbnail, again"][1:4] == ["5.00", "–", "–"]
    assert cells["peak RSS, all processes"][:5] == ["MB", "79.0", "100", "0.79×", "≤ 0.8 ✓"]
    assert len({len(line) for line in lines}) == 1


def test_another_checkout_is_no_goal():
    servers = [server("gateway", 79_000_000), server("against", 100_000_000)]
    results = [Result("frame-1", one.name, 0, measurement(2500.0)) for one in servers]
    told = report.table(results, servers)
    assert "1.00×" in told
    assert "≥" not in told
    assert "≤" not in told


def test_names_of_workloads_are_told_apart():
    assert len({one.name for one in WORKLOADS}) == len(WORKLOADS)
    assert [one.name for one in command.chosen_workloads("frame-,stow-1")] == [
        "stow-1",
        "frame-1",
        "frame-16",
        "frame-jpeg",
    ]
    assert [one.name for one in command.chosen_workloads("frame-1")] == ["frame-1"]
    with pytest.raises(SystemExit, match="no workload begins with nothing"):
        command.chosen_workloads("nothing")


def test_a_run_measures_the_gateway_and_leaves_nothing_behind(tmp_path, cache, capsys):
    work = tmp_path / "work"
    work.mkdir()
    told = tmp_path / "figures.json"
    only = "store-ct-4,stow-1,qido-patient-name,metadata-cold,frame-jpeg,series,rendered-cold"
    places = ["--cache", str(cache), "--work", str(work), "--json", str(told)]
    options = ["--only", only, "--seconds", "0.5", "--sender", "python", "--client", "python"]
    assert command.main([*SMALLEST, *places, *options]) == 0, capsys.readouterr().err
    figures = json.loads(told.read_text(encoding="utf-8"))
    assert {one["workload"] for one in figures["results"]} == set(only.split(","))
    assert all(one["measurement"]["value"] > 0 for one in figures["results"])
    assert figures["servers"][0]["peak_rss_bytes"] > 10_000_000
    assert all(limit["value"] > 0 for limit in figures["limits"].values())
    assert "| series retrieve" in capsys.readouterr().out
    assert list(work.iterdir()) == []


@pytest.mark.needs("storescu", "wrk")
def test_a_run_with_the_programs_it_prefers(tmp_path, cache, capsys):
    options = ["--only", "store-ct-1,frame-16", "--seconds", "1", "--sender", "storescu", "--client", "wrk"]
    status = command.main([*SMALLEST, "--cache", str(cache), "--work", str(tmp_path), *options])
    assert status == 0, capsys.readouterr().err


@pytest.mark.needs("storescu", "wrk", "dcmqrscp")
@pytest.mark.parametrize(
    ("trial", "options"),
    [
        ("receivers", []),
        ("growth", ["--studies", "0,250", "--instances", "2,3"]),
        ("soak", ["--seconds", "3", "--readers", "4", "--senders", "1"]),
    ],
)
def test_a_trial_measures_and_leaves_nothing_behind(tmp_path, cache, capsys, trial, options):
    work = tmp_path / "work"
    work.mkdir()
    told = tmp_path / "figures.json"
    places = ["--cache", str(cache), "--work", str(work), "--json", str(told)]
    status = trials.main([trial, "--reps", "1", "--ct", "4", "--patience", "0", *options, *places])
    figures = json.loads(told.read_text(encoding="utf-8"))["figures"]
    shown = capsys.readouterr().out
    assert list(work.iterdir()) == []
    if trial == "receivers":
        assert status == 0
        assert {one["receiver"] for one in figures} == {"gateway", "dcmqrscp", "pynetdicom"}
        assert "4 of 4" in shown
    elif trial == "growth":
        assert [one["studies"] for one in figures["ingest"]] == [0, 250]
        assert [one["instances"] for one in figures["reading"]] == [2, 3]
        assert all(one["metadata_ms"] > 0 for one in figures["reading"])
    else:
        assert figures["errors"] == 0
        assert figures["stored"] >= 4
        assert figures["frames"] > 0
        assert figures["healthz_p99_ms"] > 0


def test_lateness_is_read_from_what_was_counted_meanwhile():
    before = {0.001: 90.0, 0.05: 100.0, float("inf"): 100.0}
    after = {0.001: 188.0, 0.05: 199.0, float("inf"): 200.0}
    assert soak.lag_at_most_ms(before, after, 0.9) == 1.0
    assert soak.lag_at_most_ms(before, after, 0.99) == 50.0
    assert soak.lag_at_most_ms(before, after, 1.0) == float("inf")
    with pytest.raises(AnswerError):
        soak.lag_at_most_ms(after, after, 0.99)


def test_wrong_answers_are_no_figures(gateway, tmp_path):
    from benchmarks.client import Connection

    with pytest.raises(AnswerError, match="answers under load were wrong"):
        load(gateway.dicomweb, ["/studies/1.2.3/metadata"], "*/*", 1, 0.2, "python")
    content = Corpus(tmp_path, 2, 2).ct_copy(1)[0]
    with Connection(gateway.dicomweb) as connection, pytest.raises(AnswerError, match="stored 1 and failed 0 of 2"):
        stow(connection, stow_body([content]), 2)


def test_timing_finds_how_long_a_thing_takes():
    def work():
        return sum(range(2000))

    timing = time_case(Case("sum", work, 1000), 0.02)
    assert 1_000 < timing.ns_per_operation < 10_000_000
    assert timing.mb_per_second == pytest.approx(1e6 / timing.ns_per_operation)
