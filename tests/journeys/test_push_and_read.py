"""A modality's push, and every way to read it back: each of our samples, and all DICOM that pydicom bundles.

The wire tap says what each C-STORE really carried, so that DCMTK may re-encode as it likes; pydicom, DCMTK's findscu
and digests are the judges. ST1, ST2, S14, G8, W2, W4, W23; run with ``-s`` for the table of outcomes.
"""

from __future__ import annotations

import re
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import httpx
import pytest
from pydicom.uid import UID

from tests.fix_servers import running_gateway
from tests.journeys.files import BIG_ENDIAN, EXPLICIT, IMPLICIT, DicomFile, bundled, samples
from tests.journeys.judge import (
    differences,
    json_tags,
    lenient,
    part10_digest,
    pixels_differ,
    read_bare,
    read_stream,
    tags,
)
from tests.journeys.push import AE_TITLE, dcmtk, push_with_pynetdicom, push_with_storescu
from tests.journeys.wiretap import Store, WireTap

pytestmark = pytest.mark.needs("storescu", "findscu")

DEFLATED = "1.2.840.10008.1.2.1.99"
SUCCESS, MISSING_PIXELS, MISMATCH, CANNOT_UNDERSTAND = 0x0000, 0xB007, 0xA900, 0xC000
MALFORMED_UID = (MISMATCH, "A UID is missing or malformed")
NO_STORAGE = (None, "context refused: 3")

REFUSED = {
    "charset_files/chrSQEncoding.dcm": MALFORMED_UID,
    "charset_files/chrSQEncoding1.dcm": MALFORMED_UID,
    "test_files/JPEGLSNearLossless_08.dcm": MALFORMED_UID,
    "test_files/JPEGLSNearLossless_16.dcm": MALFORMED_UID,
    "test_files/SC_rgb_jls_lossy_line.dcm": MALFORMED_UID,
    "test_files/SC_rgb_jls_lossy_sample.dcm": MALFORMED_UID,
    "test_files/UN_sequence.dcm": MALFORMED_UID,
    "test_files/empty_charset_LEI.dcm": MALFORMED_UID,
    "test_files/meta_missing_tsyntax.dcm": MALFORMED_UID,
    "test_files/nested_priv_SQ.dcm": MALFORMED_UID,
    "test_files/no_meta_group_length.dcm": MALFORMED_UID,
    "test_files/priv_SQ.dcm": MALFORMED_UID,
    "test_files/no_meta.dcm": (CANNOT_UNDERSTAND, "An element is longer than what is left of the Data Set"),
    "test_files/rtplan_truncated.dcm": (
        CANNOT_UNDERSTAND,
        "A sequence is longer than what is left of the Data Set",
    ),
}
"""pydicom's files that are no instances, because they lack a UID every instance has or end too early."""

DEVIATES = {"test_files/MR_truncated.dcm": (MISSING_PIXELS, "The Pixel Data is shorter than its frames")}
"""Kept as it came, with a warning to the sender."""


def expected(file):
    """Status and reason that a file has to get."""
    if "/palettes/" in file.name or "DICOMDIR" in file.name:
        return NO_STORAGE
    name = file.name.removeprefix("pydicom/")
    return REFUSED.get(name) or DEVIATES.get(name, (SUCCESS, ""))


@dataclass
class Pushed:
    """A file, what the wire carried of it, and what became of it. uids: study, series, instance; answers: findscu's."""

    file: DicomFile
    sender: str
    wire: Store
    uids: tuple = ()
    digests_on_disk: frozenset = frozenset()
    as_stored: bytes = b""
    explicit: bytes = b""
    metadata: dict | None = None
    answers: tuple = ()

    @property
    def is_stored(self):
        return self.wire.status in (SUCCESS, MISSING_PIXELS)


def rounds(files):
    """The files in lists in which no SOP Instance UID comes twice: all that come first, all that come second, …"""
    seen, lists = Counter(), []
    for file in files:
        key = file.sop_instance or file.name
        if seen[key] == len(lists):
            lists.append([])
        lists[seen[key]].append(file)
        seen[key] += 1
    return lists


def push(gateway, files):
    """Push all files, each with storescu if it can send it."""
    with WireTap(gateway.dimse_port) as tap:
        sent = {name: ("storescu", store) for name, store in push_with_storescu(tap, files).items()}
        for file in files:
            if file.name not in sent:
                sent[file.name] = ("pynetdicom", push_with_pynetdicom(tap, file))
    pushed = [Pushed(file, *sent[file.name]) for file in files]
    for one in filter(_is_stored, pushed):
        with lenient():
            data_set = pushed_data_set(one)
            one.uids = (str(data_set.StudyInstanceUID), str(data_set.SeriesInstanceUID), one.wire.sop_instance)
    return pushed


def digests_on_disk(gateway):
    """SHA-256 of the Data Set of every object in the archive's folder, by SOP Instance UID."""
    found = {}
    for path in (gateway.data / "objects" / "v1").rglob("*.dcm"):
        sop_instance, _, named = path.name.removesuffix(".dcm").split("_")
        digest = part10_digest(path.read_bytes())
        assert digest == named, "the name of an object says its content"
        found.setdefault(sop_instance, set()).add(digest)
    return found


def read_back(gateway, pushed):
    """Everything the doors say of an instance that is stored."""
    study, series, sop_instance = pushed.uids
    url = f"/studies/{study}/series/{series}/instances/{sop_instance}"
    with httpx.Client(base_url=gateway.dicomweb, timeout=30) as client:
        pushed.as_stored = _get(client, url, "application/dicom; transfer-syntax=*")
        if pushed.wire.transfer_syntax in (IMPLICIT, BIG_ENDIAN, DEFLATED):
            pushed.explicit = _get(client, url, "application/dicom")
        (pushed.metadata,) = client.get(url + "/metadata").raise_for_status().json()
    pushed.answers = find(gateway, study, series, sop_instance)


def find(gateway, study, series, sop_instance):
    """The SOP Instance UIDs that DCMTK's findscu is told at IMAGE level."""
    keys = ("0008,0052=IMAGE", f"0020,000d={study}", f"0020,000e={series}", f"0008,0018={sop_instance}")
    arguments = [part for key in keys for part in ("-k", key)]
    done = dcmtk("findscu", "-v", "-S", "-aec", AE_TITLE, "127.0.0.1", gateway.dimse_port, *arguments)
    assert done.returncode == 0, done.stderr
    _, *answers = re.split(r"Find Response: [0-9]+ \(Pending\)", done.stdout + done.stderr)
    return tuple(re.search(r"\(0008,0018\) UI \[([0-9.]+)", answer)[1] for answer in answers)


def _get(client, url, accept):
    return client.get(url, headers={"Accept": accept}).raise_for_status().content


@pytest.fixture(scope="module")
def journey(tmp_path_factory):
    """All files pushed to fresh archives and read back, each where it is the only one of its SOP Instance UID."""
    everything = []
    for number, files in enumerate(rounds([*samples(), *bundled()])):
        with running_gateway(tmp_path_factory.mktemp("journey") / f"data{number}", "--workers", "1") as gateway:
            pushed = push(gateway, files)
            on_disk = digests_on_disk(gateway)
            for one in pushed:
                one.digests_on_disk = frozenset(on_disk.get(one.wire.sop_instance, ()))
            with ThreadPoolExecutor(4) as pool:
                list(pool.map(lambda one, gateway=gateway: read_back(gateway, one), filter(_is_stored, pushed)))
            everything += pushed
    print(f"\n{table(everything)}")
    return everything


def _is_stored(pushed):
    return pushed.is_stored


def outcome(pushed):
    """The line of the table that a file belongs to."""
    status = "no context" if pushed.wire.status is None else f"{pushed.wire.status:04X}"
    return status, pushed.wire.comment or "stored", pushed.sender


def table(everything):
    """Counts by outcome and sender."""
    counts = Counter(map(outcome, everything))
    lines = [f"{'status':<12}{'reason':<58}{'sent with':<14}{'files':>5}"]
    lines += [f"{one:<12}{why:<58}{who:<14}{count:>5}" for (one, why, who), count in sorted(counts.items())]
    stored = [one for one in everything if one.is_stored]
    syntaxes = Counter(one.wire.transfer_syntax for one in stored)
    lines += ["", f"{'stored in transfer syntax':<84}{'files':>5}"]
    lines += [f"{UID(syntax).name[:70]:<84}{count:>5}" for syntax, count in sorted(syntaxes.items())]
    return "\n".join(lines)


def stored(journey):
    found = [one for one in journey if one.is_stored]
    assert len(found) > 200
    return found


def test_every_file_gets_the_status_and_reason_it_has_to_get(journey):
    wrong = {
        one.file.name: (one.wire.status, one.wire.comment)
        for one in journey
        if (one.wire.status, one.wire.comment) != expected(one.file)
    }
    assert wrong == {}
    assert all(one.wire.transfer_syntax == one.file.transfer_syntax for one in stored(journey))


def test_the_data_set_on_disk_is_what_the_wire_carried(journey):
    assert [one.file.name for one in stored(journey) if one.digests_on_disk != {one.wire.digest}] == []


def test_what_was_refused_left_nothing(journey):
    assert [one.file.name for one in journey if not one.is_stored and one.digests_on_disk] == []


def test_wado_sends_the_same_data_set_where_its_encoding_may_be_sent(journey):
    same = [one for one in stored(journey) if one.wire.transfer_syntax not in (IMPLICIT, BIG_ENDIAN)]
    assert len(same) > 180
    assert [one.file.name for one in same if part10_digest(one.as_stored) != one.wire.digest] == []
    with lenient():
        syntaxes = {one.file.name: read_stream(one.as_stored).file_meta.TransferSyntaxUID for one in same}
    assert syntaxes == {one.file.name: one.wire.transfer_syntax for one in same}


def test_wado_turns_what_may_not_be_sent_into_explicit_little_endian_without_loss(journey):
    turned = [one for one in stored(journey) if one.wire.transfer_syntax in (IMPLICIT, BIG_ENDIAN)]
    assert len(turned) >= 15
    assert [problem for one in turned for problem in explicit_problems(one, one.as_stored)] == []


def test_wado_inflates_and_turns_round_for_a_client_that_names_no_transfer_syntax(journey):
    turned = [one for one in stored(journey) if one.explicit]
    assert {one.wire.transfer_syntax for one in turned} == {IMPLICIT, BIG_ENDIAN, DEFLATED}
    assert [problem for one in turned for problem in explicit_problems(one, one.explicit)] == []


def explicit_problems(pushed, raw):
    """In what a stream is not the pushed instance in Explicit VR Little Endian, as pydicom sees both."""
    with lenient():
        sent, back = pushed_data_set(pushed), read_stream(raw)
        if back.file_meta.TransferSyntaxUID != EXPLICIT:
            return [(pushed.file.name, back.file_meta.TransferSyntaxUID)]
        problems = [(pushed.file.name, *found) for found in differences(sent, back)]
        return problems + ([(pushed.file.name, "pixels")] if pixels_differ(sent, back) else [])


def pushed_data_set(pushed):
    return read_bare(pushed.wire.data_set, pushed.wire.transfer_syntax)


def test_metadata_has_every_element(journey):
    problems = []
    for one in stored(journey):
        with lenient():
            known = tags(pushed_data_set(one))
        problems += [
            (one.file.name, *path) for path in sorted(known ^ (json_tags(one.metadata) - {("00083002",)}), key=str)
        ]
    assert problems == []


def test_findscu_finds_every_instance_by_its_uids(journey):
    assert [one.file.name for one in stored(journey) if one.answers != (one.wire.sop_instance,)] == []


def test_instances_that_share_a_uid_are_all_kept_and_the_first_stays_current(tmp_path):
    """R5, keep-first: DIMSE says success, no byte is lost, and what is served does not change."""
    with running_gateway(tmp_path / "data", "--workers", "1") as gateway:
        pushed = [one for one in push(gateway, bundled()) if one.is_stored]
        on_disk = digests_on_disk(gateway)
        assert [one.file.name for one in pushed if one.wire.digest not in on_disk[one.wire.sop_instance]] == []
        shared = [one for one in pushed if len(on_disk[one.wire.sop_instance]) > 1]
        assert len(shared) > 30
        instances = httpx.get(f"{gateway.dicomweb}/instances?limit=1000", timeout=30).raise_for_status().json()
        assert {row["00080018"]["Value"][0] for row in instances} == set(on_disk)
        assert len(instances) == len(on_disk)
