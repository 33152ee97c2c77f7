"""Where the missing images went: senders with every kind of defect, a real gateway, and the operator's commands."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import pty
import signal
import socket
import subprocess
import sys
import time
from collections import Counter

import pytest

from gateway import app, ingest, settings
from gateway.quarantine import as_json
from gateway.security.actor import Actor
from storage.filemeta import Announcement, canonical_header
from tests import synthetic
from tests.fix_dimse import (
    RELEASE,
    STORAGE,
    p_data,
    part10,
    pdv,
    raw_association,
    receive_pdu,
    run_program,
    send,
    store_command,
)
from tests.fix_engines import ENGINES
from tests.fix_servers import ANY_DISK, ROOT, command_environment, run_command
from tests.synthetic import EXPLICIT, SECONDARY_CAPTURE

MULTIPART = 'multipart/related; type="application/dicom"; boundary=b0'
STUDY = "1.2.3"
DEEP = (bytes.fromhex("400030a7") + b"SQ\0\0\xff\xff\xff\xff" + bytes.fromhex("feff00e0ffffffff")) * 60


@pytest.fixture(params=sorted(ENGINES, reverse=True))
def operated(request, start_gateway, tmp_path):
    """A gateway over an index of each engine, and its operator."""
    (tmp_path / "data").mkdir()
    environment = {**ANY_DISK, **ENGINES[request.param].environment(tmp_path / "data")}
    return Operated(start_gateway("--workers", "1", environment=environment), environment)


@pytest.fixture
def sqlite(start_gateway):
    return Operated(start_gateway("--workers", "1", environment=ANY_DISK), ANY_DISK)


class Operated:
    """A gateway with those who send to it and its operator."""

    def __init__(self, gateway, environment):
        self.gateway, self.environment = gateway, environment
        self._peers = []

    def connect(self):
        """A connection of a DIMSE peer."""
        peer = socket.create_connection(("127.0.0.1", self.gateway.dimse_port))
        peer.settimeout(20)
        return peer

    @contextlib.contextmanager
    def association(self, calling=b"CT1", contexts=(STORAGE,)):
        """A bare one, which is released at the end."""
        with contextlib.closing(raw_association(self, *contexts, calling=calling)) as peer:
            yield peer
            peer.sendall(RELEASE)
            assert receive_pdu(peer)[0] == 6

    def post(self, *parts, path="/dicomweb/studies"):
        """One STOW request; status and answer."""
        body = (
            b"".join(b"--b0\r\nContent-Type: application/dicom\r\n\r\n" + part + b"\r\n" for part in parts) + b"--b0--"
        )
        with contextlib.closing(http.client.HTTPConnection("127.0.0.1", self.gateway.http_port, timeout=30)) as client:
            client.request("POST", path, body, {"Content-Type": MULTIPART})
            answer = client.getresponse()
            return answer.status, json.loads(answer.read())

    def run(self, *arguments, code=0):
        """A command of the operator; what it says as JSON."""
        done = run_command(*arguments, "--data", self.gateway.data, environment=self.environment)
        assert done.returncode == code, (done.stdout, done.stderr)
        return done

    def told(self, *arguments, code=0):
        return json.loads(self.run(*arguments, "--json", code=code).stdout)

    @contextlib.contextmanager
    def session(self):
        """The archive in this process, as the commands have it, for what is looked at often."""
        values = settings.load(None, {"archive.data": self.gateway.data}, self.environment).settings
        with app.open_sessions(values) as sessions:
            yield sessions(Actor("operator", "test"))

    def held(self):
        with self.session() as session:
            return [as_json(one) for one in session.quarantine.held()]

    def exported(self, identity, *, is_bare=False):
        with self.session() as session:
            quarantine = session.quarantine
            return b"".join(quarantine.received(quarantine.find(identity), is_bare=is_bare))

    def deliveries(self, *, calling_ae="", count=None, ended=True, seconds=20):
        """What the ledger says, once it has so many lines, or so many that have ended."""
        deadline = time.monotonic() + seconds
        with self.session() as session:
            while True:
                found = ingest.report(session, since="", calling_ae=calling_ae, failed=False, study="", limit=1000)
                told = ingest.as_json(found)
                lines = [one for one in told["deliveries"] if one["ending"] or not ended]
                if count is None or len(lines) >= count or time.monotonic() > deadline:
                    assert count is None or len(lines) == count, told
                    return told
                time.sleep(0.05)


DEFECTS = {
    "no Data Set": (b"this is no Data Set at all", {}, 0xC000, "NotDicom"),
    "cut": (synthetic.data_set()[:-1], {}, 0xC000, "NotDicom"),
    "nested too deep": (synthetic.data_set() + DEEP, {}, 0xC000, "TooComplex"),
    "another instance": (synthetic.image(300, 300, sop_instance="1.2.3.4.6"), {}, 0xA900, "IdentityMismatch"),
    "no study": (synthetic.data_set(study=""), {}, 0xA900, "InvalidInstance"),
    "a path as study": (synthetic.data_set(study="../../etc"), {}, 0xA900, "InvalidInstance"),
    "a UID with a leading zero": (
        synthetic.data_set(sop_instance="1.02"),
        {"sop_instance": "1.02"},
        0x0117,
        "InvalidInstance",
    ),
    "another class": (
        synthetic.data_set(sop_class=synthetic.CT),
        {"sop_class": synthetic.CT},
        0x0122,
        "UnsupportedSOPClass",
    ),
}


def test_what_c_store_refuses_is_kept_as_it_came_and_the_ledger_says_so(operated):
    with operated.association() as peer:
        for number, (content, options, status, _) in enumerate(DEFECTS.values()):
            assert send(peer, content, message_id=number + 1, **options)[0] == status
        assert send(peer, synthetic.image(), message_id=90)[0] == 0
        assert send(peer, synthetic.image(), message_id=91)[0] == 0
    told = operated.deliveries(count=1)
    (delivery,) = told["deliveries"]
    assert (delivery["door"], delivery["calling_ae"], delivery["called_ae"]) == ("dimse", "CT1", "GATEWAY")
    assert (delivery["address"], delivery["ending"]) == ("127.0.0.1", "released")
    assert (delivery["sent"], delivery["refused"]) == (len(DEFECTS) + 2, len(DEFECTS))
    assert {name: count for name, count in delivery["outcomes"].items() if count} == {"stored": 1, "duplicate": 1}
    assert delivery["errors"] == Counter(error for *_, error in DEFECTS.values())
    held = operated.held()
    assert delivery["quarantine"] == [one["id"] for one in held]
    for one, (content, options, status, error) in zip(held, DEFECTS.values(), strict=True):
        assert (one["error"], one["status"], one["calling_ae"], one["address"]) == (error, status, "CT1", "127.0.0.1")
        assert one["sop_instance_uid"] == options.get("sop_instance", "1.2.3.4.5")
        assert operated.exported(one["id"], is_bare=True) == content
        assert operated.exported(one["id"]).endswith(content)
        assert operated.exported(one["id"])[128:132] == b"DICM"
    log = operated.gateway.log.read_text(encoding="utf-8")
    assert "Doe" not in log
    assert "1.2.3.4.5" not in log


def test_what_stow_refuses_is_kept_as_it_came_and_the_ledger_says_so(operated):
    junk = [b"GIF89a no DICOM", b"PK\3\4" * 500_000, synthetic.part10(synthetic.data_set()[:-1])]
    other = synthetic.part10(synthetic.image(400, 400, study="1.2.9", sop_instance="1.2.9.1"), sop="1.2.9.1")
    good = synthetic.part10(synthetic.image())
    unknown = synthetic.part10(synthetic.data_set(sop_instance="1.2.7"), sop="1.2.7", syntax="none")
    status, answer = operated.post(*junk, other, good, b"", unknown, path=f"/dicomweb/studies/{STUDY}")
    assert status == 202
    failed = [item for tag in ("00081198", "0008119A") for item in answer[tag]["Value"]]
    (delivery,) = operated.deliveries(count=1)["deliveries"]
    assert (delivery["door"], delivery["ending"], delivery["sent"]) == ("dicomweb", "answered", 7)
    assert delivery["refused"] == len(failed) == 6
    assert delivery["errors"] == {"NotDicom": 4, "StudyMismatch": 1, "UnsupportedTransferSyntax": 1}
    contents = {operated.exported(one["id"]): one for one in operated.held()}
    assert contents.keys() == {*junk, other, unknown}
    assert {one["status"] for one in contents.values()} == {0xC000, 0xA901, 0xC122}
    assert contents[other]["study_instance_uid"] == STUDY
    assert delivery["quarantine"] == [one["id"] for one in operated.held()]


def test_a_mended_cause_and_another_try_bring_the_instance_in(operated):
    other = synthetic.part10(synthetic.image(400, 400, study="1.2.9", sop_instance="1.2.9.1"), sop="1.2.9.1")
    assert operated.post(other, b"GIF89a no DICOM", path=f"/dicomweb/studies/{STUDY}")[0] == 409
    with operated.association() as peer:
        mismatch = synthetic.image(sop_instance="1.2.3.4.6")
        assert send(peer, mismatch)[0] == 0xA900
        unclassed = synthetic.image(sop_class=synthetic.CT, sop_instance="1.2.3.4.8")
        assert send(peer, unclassed, sop_class=synthetic.CT, sop_instance="1.2.3.4.8", message_id=2)[0] == 0x0122
    ids = {one["error"]: one["id"] for one in operated.held()}
    assert len(ids) == 4
    again = operated.told("quarantine", "retry", "--all", code=1)
    assert (again["instances"], again["refused"], again["stored"]) == (4, 3, 1), "a context is not needed any more"
    trusted = operated.told("quarantine", "retry", "--trust-data-set", "--all", code=1)
    assert (trusted["stored"], trusted["refused"]) == (2, 1)
    assert [one["id"] for one in operated.held()] == [ids["NotDicom"]]
    with contextlib.closing(http.client.HTTPConnection("127.0.0.1", operated.gateway.http_port, timeout=30)) as client:
        for path, content in (
            ("1.2.9/series/1.2.3.4/instances/1.2.9.1", other.partition(b"SOMEBODY")[2]),
            ("1.2.3/series/1.2.3.4/instances/1.2.3.4.6", mismatch),
            ("1.2.3/series/1.2.3.4/instances/1.2.3.4.8", unclassed),
        ):
            client.request(
                "GET", f"/dicomweb/studies/{path}", headers={"Accept": "application/dicom; transfer-syntax=*"}
            )
            answer = client.getresponse()
            assert answer.status == 200
            assert answer.read().endswith(content)
    runs = [one for one in operated.told("ingest")["deliveries"] if one["door"] == "retry"]
    assert [(one["sent"], one["refused"], one["ending"]) for one in runs] == [(3, 1, "finished"), (4, 3, "finished")]


@pytest.mark.needs("storescu", "dcmsend", "dcmodify", "dcmdump")
def test_dcmtk_sends_broken_files_and_every_one_of_them_is_accounted_for(sqlite, tmp_path):
    sent = tmp_path / "sent"
    sent.mkdir()
    for number in range(6):
        uid = f"1.2.3.4.{number}"
        content = synthetic.image(50, 50, sop_instance=uid, series="1.2.x" if number % 3 == 1 else "1.2.3.4")
        part10(sent, content, sop_instance=uid)
    stored = run_program(
        "storescu",
        "-v",
        "-aet",
        "CT7",
        "-aec",
        "GATEWAY",
        "-R",
        "+sd",
        "-nh",
        "127.0.0.1",
        sqlite.gateway.dimse_port,
        sent,
    )
    assert stored.stderr.count("Received Store Response (Success)") == 4
    assert stored.stderr.count("Received Store Response (") == 6
    (delivery,) = sqlite.deliveries(calling_ae="CT7", count=1)["deliveries"]
    assert (delivery["sent"], delivery["refused"]) == (6, 2)
    assert delivery["errors"] == {"InvalidInstance": 2}
    run_program("dcmsend", "-aet", "CT8", "-aec", "GATEWAY", "+sd", "127.0.0.1", sqlite.gateway.dimse_port, sent)
    (again,) = sqlite.deliveries(calling_ae="CT8", count=1)["deliveries"]
    assert (again["outcomes"]["duplicate"], again["refused"]) == (4, 2)
    held = sqlite.held()
    assert len(held) == 4
    path = tmp_path / "exported.dcm"
    sqlite.run("quarantine", "export", held[0]["id"], path)
    dumped = run_program("dcmdump", "+P", "0020,000e", path)
    assert "1.2.x" in dumped.stdout
    shown = sqlite.run("quarantine", "show", held[0]["id"][-8:]).stdout
    assert "InvalidInstance" in shown
    assert "(0020,000E) UI SeriesInstanceUID" in shown
    assert "A900" in shown
    mended = run_program("dcmodify", "-nb", "-m", "SeriesInstanceUID=1.2.3.4", path)
    assert mended.returncode == 0, mended.stderr
    sqlite.run("import", path)
    sqlite.run("quarantine", "drop", held[0]["id"])
    assert len(sqlite.held()) == 3
    assert sqlite.run("quarantine", "drop", "--older-than", "1h").stdout == "0 instances are gone\n"
    assert sqlite.run("quarantine", "drop", "--older-than", "0s").stdout == "3 instances are gone\n"


def test_of_one_study_the_ledger_says_who_brought_it_and_what_was_refused(operated):
    with operated.association(b"CT1") as peer:
        for number in range(3):
            uid = f"1.2.3.4.{number}"
            assert send(peer, synthetic.image(sop_instance=uid), sop_instance=uid, message_id=number + 1)[0] == 0
        assert send(peer, b"nothing of a Data Set", message_id=8)[0] == 0xC000
        assert send(peer, synthetic.image(sop_instance="1.2.3.4.9"), message_id=9)[0] == 0xA900
    with operated.association(b"MR1") as peer:
        assert send(peer, synthetic.image(study="1.2.4", sop_instance="1.2.4.1"), sop_instance="1.2.4.1")[0] == 0
        assert send(peer, synthetic.data_set()[:-1], message_id=2)[0] == 0xC000
    operated.deliveries(count=2)
    told = operated.told("ingest", "--study", STUDY)
    (delivery,) = told["deliveries"]
    assert (delivery["calling_ae"], delivery["of_study"]) == ("CT1", {"stored": 3})
    assert len(delivery["quarantine"]) == 1, "of which the Data Set says so"
    assert told["refused_of_unknown_study"] == 1
    assert [one["calling_ae"] for one in told["refused_elsewhere"]] == ["MR1"], "cut, but behind its study"
    lines = operated.run("ingest", "--study", STUDY)
    assert "2 in quarantine" in lines.stderr
    assert "1 more were refused in the same deliveries, of which the study is not known" in lines.stderr


def test_deliveries_are_chosen_and_summed_up(sqlite):
    for calling, contents in ((b"CT1", 2), (b"MR1", 1)):
        with sqlite.association(calling) as peer:
            for number in range(contents):
                uid = f"1.2.9.{calling[0]}.{number}"
                assert send(peer, synthetic.data_set(sop_instance=uid), sop_instance=uid, message_id=number + 1)[0] == 0
            if calling == b"MR1":
                assert send(peer, b"no Data Set at all", message_id=50)[0] == 0xC000
    sqlite.deliveries(count=2)
    assert [one["calling_ae"] for one in sqlite.told("ingest", "--ae", "CT1")["deliveries"]] == ["CT1"]
    assert [one["calling_ae"] for one in sqlite.told("ingest", "--failed")["deliveries"]] == ["MR1"]
    assert sqlite.told("ingest", "--since", "0s")["deliveries"] == []
    assert sqlite.told("ingest", "--limit", "1")["is_cut"]
    plain = sqlite.run("ingest")
    assert plain.stderr == "2 deliveries: 4 instances sent, 3 stored, 1 refused (NotDicom 1), 1 in quarantine\n"
    assert [line.split("\t")[2] for line in plain.stdout.splitlines()] == ["MR1 127.0.0.1", "CT1 127.0.0.1"]
    table = on_a_terminal("ingest", "--data", str(sqlite.gateway.data))
    assert table.splitlines()[0].startswith("STARTED (UTC)")
    assert "    refused: NotDicom 1" in table
    assert f"    quarantine: {sqlite.held()[0]['id']}  NotDicom" in table
    assert table.splitlines()[-1] == plain.stderr.strip()


def on_a_terminal(*arguments):
    """What a command writes to a terminal."""
    ours, theirs = pty.openpty()
    try:
        done = subprocess.run(
            [sys.executable, "-m", "gateway", *arguments],
            stdout=theirs,
            stderr=subprocess.PIPE,
            env=command_environment(),
            cwd=ROOT,
            check=False,
            timeout=60,
        )
        assert done.returncode == 0, done.stderr
        os.close(theirs)
        theirs = -1
        written = b""
        with contextlib.suppress(OSError):
            while piece := os.read(ours, 65536):
                written += piece
        return written.decode().replace("\r\n", "\n")
    finally:
        os.close(ours)
        if theirs >= 0:
            os.close(theirs)


ENDINGS = {
    "aborted by peer": lambda peer: peer.sendall(bytes.fromhex("07000000000400000000")),
    "connection lost": lambda peer: None,
    "aborted by us: unexpected PDU": lambda peer: peer.sendall(bytes.fromhex("01000000000400000000")),
}


@pytest.mark.parametrize("ending", ENDINGS)
def test_an_instance_that_is_cut_off_is_counted_and_not_kept(sqlite, ending):
    with contextlib.closing(raw_association(sqlite, STORAGE, calling=b"CT1")) as peer:
        assert send(peer, synthetic.data_set())[0] == 0
        peer.sendall(p_data(pdv(1, 3, store_command("1.2.3.4.9", message_id=2))))
        peer.sendall(p_data(pdv(1, 0, bytes(120_000))))
        ENDINGS[ending](peer)
    (delivery,) = sqlite.deliveries(count=1)["deliveries"]
    assert (delivery["sent"], delivery["refused"], delivery["errors"]) == (2, 1, {"CutOff": 1})
    assert delivery["ending"] == ending
    assert sqlite.held() == []


def test_d7_a_hundred_aborts_and_a_never_ending_data_set_leave_no_file(start_gateway):
    environment = {**ANY_DISK, "GATEWAY_ARCHIVE__MAXIMUM_INSTANCE_BYTES": str(1 << 20)}
    operated = Operated(start_gateway("--workers", "1", environment=environment), environment)
    for number in range(100):
        with contextlib.closing(raw_association(operated, STORAGE)) as peer:
            peer.sendall(p_data(pdv(1, 3, store_command("1.2.3.4.5"))))
            peer.sendall(p_data(pdv(1, 0, bytes(120_000))))
            if number % 2:
                peer.sendall(bytes.fromhex("07000000000400000000"))
            else:
                peer.shutdown(socket.SHUT_WR)
            assert receive_pdu(peer)[0] == 0, "closed"
    with contextlib.closing(raw_association(operated, STORAGE)) as peer:
        assert send(peer, bytes((1 << 20) + 5000))[0] == 0xA700
        assert receive_pdu(peer)[0] == 7
    told = operated.deliveries(count=101)
    assert told["errors"] == {"CutOff": 100, "TooLarge": 1}
    files = [path for path in operated.gateway.data.rglob("*") if path.suffix in (".dcm", ".incoming", ".waiting")]
    assert files == []


def test_a_client_that_goes_away_in_the_middle_of_a_request_is_a_line(sqlite):
    body = b"--b0\r\nContent-Type: application/dicom\r\n\r\n" + synthetic.part10(synthetic.image(400, 400))
    lines = (
        "POST /dicomweb/studies HTTP/1.1",
        "Host: localhost",
        f"Content-Type: {MULTIPART}",
        "Content-Length: 9000000",
    )
    head = "\r\n".join(lines) + "\r\n\r\n"
    with socket.create_connection(("127.0.0.1", sqlite.gateway.http_port)) as client:
        client.sendall(head.encode() + body)
        time.sleep(0.3)
    (delivery,) = sqlite.deliveries(count=1)["deliveries"]
    assert (delivery["ending"], delivery["errors"]) == ("connection lost", {"CutOff": 1})
    assert sqlite.held() == []


def test_an_import_is_a_line_and_its_refused_files_stay_where_they_are(sqlite, tmp_path):
    folder = tmp_path / "disk"
    folder.mkdir()
    part10(folder, synthetic.image())
    (folder / "junk").write_bytes(b"GIF89a" * 50)
    sqlite.run("import", folder, code=1)
    (delivery,) = sqlite.deliveries(count=1)["deliveries"]
    assert (delivery["door"], delivery["sent"], delivery["errors"]) == ("import", 2, {"NotDicom": 1})
    assert delivery["ending"] == "finished"
    assert sqlite.held() == []


def test_limits_of_the_settings_hold_and_figures_say_how_much_is_kept(start_gateway):
    environment = {**ANY_DISK, "GATEWAY_INGEST__QUARANTINE_INSTANCES_MAXIMUM": "5"}
    operated = Operated(start_gateway("--workers", "1", environment=environment), environment)
    with operated.association() as peer:
        for number in range(12):
            assert send(peer, b"no Data Set %02d" % number, message_id=number + 1)[0] == 0xC000
    assert [operated.exported(one["id"], is_bare=True) for one in operated.held()] == [
        b"no Data Set %02d" % number for number in range(7, 12)
    ]
    assert figure(operated, "gateway_quarantine_instances") == 5
    assert figure(operated, "gateway_quarantine_bytes") > 5 * 14
    assert figure(operated, 'gateway_quarantine_total{outcome="kept"}') == 12
    operated.run("quarantine", "drop", "--older-than", "0s")
    deadline = time.monotonic() + 10
    while figure(operated, "gateway_quarantine_instances") != 0:
        assert time.monotonic() < deadline
        time.sleep(0.1)


def figure(operated, name):
    with contextlib.closing(http.client.HTTPConnection("127.0.0.1", operated.gateway.http_port, timeout=30)) as client:
        client.request("GET", "/metrics")
        text = client.getresponse().read().decode()
    return next(float(line.rsplit(" ", 1)[1]) for line in text.splitlines() if line.startswith(f"{name} "))


@pytest.mark.parametrize(
    "setting",
    [
        {"GATEWAY_INGEST__QUARANTINE_LEAST_FREE_BYTES": str(1 << 60)},
        {"GATEWAY_INGEST__QUARANTINE_LEAST_FREE_PERCENT": "100"},
        {"GATEWAY_INGEST__QUARANTINE_MAXIMUM_BYTES": "0"},
    ],
)
def test_on_a_full_disk_or_without_a_quarantine_the_sender_is_told_the_same(start_gateway, setting):
    environment = ANY_DISK | setting
    operated = Operated(start_gateway("--workers", "1", environment=environment), environment)
    with operated.association() as peer:
        for number, (content, options, status, _) in enumerate(DEFECTS.values()):
            assert send(peer, content, message_id=number + 1, **options)[0] == status
    status, answer = operated.post(b"GIF89a no DICOM", synthetic.part10(synthetic.image()))
    assert (status, answer["0008119A"]["Value"][0]["00081197"]["Value"]) == (202, [0xC000])
    assert operated.held() == []
    assert operated.deliveries(count=2)["totals"]["refused"] == len(DEFECTS) + 1


def test_a_kill_in_the_middle_costs_no_line_that_has_ended_and_nothing_that_is_kept(tmp_path, start_gateway):
    gateway = start_gateway("--workers", "1", environment=ANY_DISK)
    operated = Operated(gateway, ANY_DISK)
    with operated.association() as peer:
        assert send(peer, b"no Data Set at all")[0] == 0xC000
        assert send(peer, synthetic.data_set(), message_id=2)[0] == 0
    operated.deliveries(count=1)
    with contextlib.closing(raw_association(operated, STORAGE, calling=b"LONG")) as peer:
        for number in range(1200):
            content = (
                b"no Data Set %05d" % number
                if number % 100 == 7
                else synthetic.data_set(sop_instance=f"1.2.8.{number}")
            )
            send(peer, content, sop_instance=f"1.2.8.{number}", message_id=number + 1)
        operated.deliveries(count=2, ended=False)
        os.kill(gateway.pids("dimse")["dimse"], signal.SIGKILL)
    told = operated.told("ingest")
    long, short = told["deliveries"]
    assert (short["calling_ae"], short["ending"], short["sent"], short["refused"]) == ("CT1", "released", 2, 1)
    assert (long["calling_ae"], long["ending"]) == ("LONG", "")
    assert 1000 <= long["sent"] <= 1200
    held = operated.held()
    assert len(held) == 13
    contents = sorted(operated.exported(one["id"], is_bare=True) for one in held[:4])
    assert contents[0] == b"no Data Set 00007"
    assert all(one["delivery"] in (long["key"], short["key"]) for one in held)
    assert "not seen" in operated.run("ingest").stdout


def test_commands_say_what_they_cannot_do(sqlite, tmp_path):
    assert sqlite.run("quarantine", "list").stderr == "0 instances in quarantine, 0 bytes\n"
    assert "no such instance" in sqlite.run("quarantine", "show", "abc", code=1).stderr
    assert "no such instance" in sqlite.run("quarantine", "drop", "20260101-000000000000-0000-00000000", code=1).stderr
    assert "no such instance" in sqlite.run("quarantine", "export", "x", tmp_path / "x", code=1).stderr
    for arguments in (["retry"], ["drop"], ["retry", "x", "--all"], ["drop", "--older-than", "soon"]):
        sqlite.run("quarantine", *arguments, code=2)
    sqlite.run("ingest", "--since", "yesterday", code=2)
    with sqlite.association() as peer:
        send(peer, b"no Data Set at all")
    (one,) = sqlite.held()
    (tmp_path / "there").write_text("x")
    assert "File exists" in sqlite.run("quarantine", "export", one["id"], tmp_path / "there", code=1).stderr
    assert (tmp_path / "there").read_text() == "x"
    (sqlite.gateway.data / "quarantine" / f"{one['id']}.dcm").write_bytes(b"short")
    assert "not all there" in sqlite.run("quarantine", "export", one["id"], tmp_path / "new", code=1).stderr
    assert not (tmp_path / "new").exists()
    assert sqlite.told("quarantine", "retry", one["id"], code=1)["refusals"][0]["reason"]
    assert [held["id"] for held in sqlite.held()] == [one["id"]]


def test_what_a_terminal_obeys_is_not_shown(sqlite):
    with sqlite.association(b"CT1") as peer:
        content = synthetic.data_set(name="A\x1b[2J^B\x07")[:-1]
        assert send(peer, content)[0] == 0xC000
        assert send(peer, b"no Data Set", sop_instance=b"1.2\x1b]0;x\x07", message_id=2)[0] == 0x0117
    for one in sqlite.held():
        assert "\x1b" not in sqlite.run("quarantine", "show", one["id"]).stdout
    assert "\x1b" not in sqlite.run("quarantine", "list").stdout
    assert canonical_header(Announcement(SECONDARY_CAPTURE, "1.2.3.4.5", EXPLICIT)) + content == sqlite.exported(
        sqlite.held()[0]["id"]
    )
