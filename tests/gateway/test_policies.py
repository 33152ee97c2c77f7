"""An operator's rules through a real gateway, by both doors: what peers are told, and what can be got back."""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import httpx
import pydicom
import pytest
from pydicom import dcmread

from gateway.security.actor import Actor, Verb
from gateway.session import Session
from storage.errors import Forbidden
from tests import synthetic
from tests.fix_archive import keep
from tests.fix_dimse import associated, part10, raw_association, send
from tests.fix_servers import ANY_DISK, ROOT, run_command
from tests.gateway.dicomweb.test_stow import multipart_body
from tests.synthetic import CT, EXPLICIT, IMPLICIT, SECONDARY_CAPTURE, image

JPEG = "1.2.840.10008.1.2.4.50"
STORAGE = (SECONDARY_CAPTURE, [EXPLICIT])
MULTIPART = 'multipart/related; type="application/dicom"; boundary=b0'
SOP = "1.2.3.4.5"


@pytest.fixture
def start(tmp_path, start_gateway):
    """``start(*rules, **archive settings)``: a gateway with these rules, by its configuration file."""

    def run(*rules, environment=None, workers=1, **more):
        config = tmp_path / "gateway.toml"
        said = {"policies": list(rules)} | more
        lines = "\n".join(f"{name} = {json.dumps(value)}" for name, value in said.items())
        config.write_text(f"[archive]\n{lines}\n")
        return start_gateway("--config", config, "--workers", workers, environment=environment)

    return run


def listener_of(gateway):
    return SimpleNamespace(address=("127.0.0.1", gateway.dimse_port))


def c_store(gateway, tmp_path, content, calling="CT1", sop=SOP):
    """The status of one C-STORE."""
    data_set = dcmread(part10(tmp_path, content, sop_instance=sop))
    with associated(listener_of(gateway), STORAGE, calling=calling) as association:
        answer = association.send_c_store(data_set)
        association.release()
        return answer


def stow(gateway, *contents, sop=SOP, **headers):
    parts = [synthetic.part10(content, sop=sop) for content in contents]
    url = f"{gateway.dicomweb}/studies"
    return httpx.post(url, content=multipart_body(*parts), headers={"Content-Type": MULTIPART, **headers}, timeout=60)


def retrieved(gateway, sop=SOP):
    url = f"{gateway.dicomweb}/studies/1.2.3/series/1.2.3.4/instances/{sop}"
    answer = httpx.get(url, headers={"Accept": "application/dicom; transfer-syntax=*"}, timeout=60)
    assert answer.status_code == 200
    return dcmread(io.BytesIO(answer.content))


def reasons(answer, tag="00081198"):
    return [item["00081197"]["Value"][0] for item in answer.json()[tag]["Value"]]


def test_r5_a_conflict_is_refused_by_both_doors_where_a_rule_says_so(start, tmp_path):
    gateway = start("* conflict=reject")
    assert c_store(gateway, tmp_path, image(name="Doe^Jane")).Status == 0x0000
    assert c_store(gateway, tmp_path, image(name="Roe^Jane")).Status == 0x0111
    answer = stow(gateway, image(name="Roe^Jane"))
    assert (answer.status_code, reasons(answer)) == (409, [45070])
    assert stow(gateway, image(name="Doe^Jane")).status_code == 200
    assert retrieved(gateway).PatientName == "Doe^Jane"


def test_r9_what_is_on_hold_is_not_replaced_by_any_door_and_what_came_is_in_quarantine(start, tmp_path):
    gateway = start("* conflict=replace", environment=ANY_DISK)
    assert c_store(gateway, tmp_path, image(name="Doe^Jane")).Status == 0x0000
    assert run_command("hold", "1.2.3", "--data", gateway.data).returncode == 0
    assert c_store(gateway, tmp_path, image(name="Roe^Jane")).Status == 0x0111
    answer = stow(gateway, image(name="Roe^Jane"))
    assert (answer.status_code, reasons(answer)) == (409, [45070])
    assert "legal hold" in answer.headers["Warning"]
    assert retrieved(gateway).PatientName == "Doe^Jane"
    listed = run_command("quarantine", "list", "--data", gateway.data, "--json")
    assert listed.stdout.count('"OnHold"') == 2, listed.stdout
    assert run_command("release", "1.2.3", "--data", gateway.data).returncode == 0
    assert stow(gateway, image(name="Roe^Jane")).status_code == 200
    assert retrieved(gateway).PatientName == "Roe^Jane"


def test_r5_by_default_the_first_stays_and_the_sender_is_satisfied(start, tmp_path):
    gateway = start()
    assert c_store(gateway, tmp_path, image(name="Doe^Jane")).Status == 0x0000
    assert c_store(gateway, tmp_path, image(name="Roe^Jane")).Status == 0x0000
    answer = stow(gateway, image(name="Poe^Jane"))
    assert (answer.status_code, answer.json()["00081199"]["Value"][0]["00081196"]["Value"]) == (202, [0xB000])
    assert retrieved(gateway).PatientName == "Doe^Jane"


def test_r5_what_was_replaced_is_listed_fetched_and_made_current_again(start, tmp_path):
    gateway = start("ae=CT1 conflict=replace")
    assert c_store(gateway, tmp_path, image(name="Doe^Jane")).Status == 0x0000
    assert c_store(gateway, tmp_path, image(name="Roe^Jane")).Status == 0x0000
    assert c_store(gateway, tmp_path, image(name="Poe^Jane"), calling="CT2").Status == 0x0000
    assert retrieved(gateway).PatientName == "Roe^Jane"

    def versions(*arguments):
        run = run_command("versions", SOP, "--data", gateway.data, "--json", *arguments)
        assert run.returncode == 0, run.stderr
        return json.loads(run.stdout)["versions"]

    found = versions()
    assert [one["outcome"] for one in found] == ["current", "conflict", "replaced"]
    assert [one["calling_ae"] for one in found] == ["CT1", "CT2", "CT1"]
    replaced = found[2]
    assert replaced["digest"] == hashlib.sha256(image(name="Doe^Jane")).hexdigest()
    versions("--fetch", replaced["digest"][:12], "--output", tmp_path / "fetched.dcm")
    assert dcmread(tmp_path / "fetched.dcm").PatientName == "Doe^Jane"
    assert retrieved(gateway).PatientName == "Roe^Jane"
    made = versions("--make-current", replaced["digest"])
    assert [one["outcome"] for one in made] == ["current", "conflict", "replaced"]
    assert retrieved(gateway).PatientName == "Doe^Jane"
    metadata = httpx.get(f"{gateway.dicomweb}/studies/1.2.3/metadata").json()
    assert metadata[0]["00100010"]["Value"] == [{"Alphabetic": "Doe^Jane"}]
    plain = run_command("versions", SOP, "--data", gateway.data)
    assert [line.split()[0] for line in plain.stdout.splitlines()] == ["current", "conflict", "replaced"]


@pytest.mark.parametrize(
    ("arguments", "exit_code"),
    [
        (["1.2.3"], 1),
        ([SOP, "--make-current", "0" * 64], 1),
        ([SOP, "--make-current", "1234"], 1),
        ([SOP, "--fetch", "0" * 64], 2),
    ],
)
def test_a_version_that_is_not_there_is_an_error(tmp_path, arguments, exit_code):
    data = tmp_path / "data"
    (tmp_path / "one.dcm").write_bytes(synthetic.part10(image()))
    assert run_command("import", tmp_path / "one.dcm", "--data", data).returncode == 0
    run = run_command("versions", *arguments, "--data", data)
    assert run.returncode == exit_code
    assert run.stderr.startswith("dicomweb-gateway: ")


def test_a_version_is_never_written_over_a_file(tmp_path):
    data, there = tmp_path / "data", tmp_path / "one.dcm"
    there.write_bytes(synthetic.part10(image()))
    assert run_command("import", there, "--data", data).returncode == 0
    digest = hashlib.sha256(image()).hexdigest()
    run = run_command("versions", SOP, "--data", data, "--fetch", digest, "--output", there)
    assert run.returncode == 1
    assert there.read_bytes() == synthetic.part10(image())


def test_s8_coercion_is_a_warning_of_both_doors_with_what_was_there_before(start, tmp_path):
    gateway = start("* fill=IssuerOfPatientID:HOSP1 set=StudyID:S1 prefix=PatientID:X-")
    answer = c_store(gateway, tmp_path, image())
    assert (answer.Status, answer.ErrorComment) == (0xB000, "Elements were coerced")
    answer = stow(gateway, image())
    (item,) = answer.json()["00081199"]["Value"]
    assert (answer.status_code, item["00081196"]["Value"]) == (202, [0xB000])
    (original,) = item["04000561"]["Value"]
    assert original["04000550"]["Value"][0]["00100020"]["Value"] == ["P1"]
    assert original["04000563"]["Value"] == ["GATEWAY"]
    assert original["04000564"]["Value"] == ["CT1"], "the same bytes are the same instance, whoever sends them again"
    found = retrieved(gateway)
    assert (found.PatientID, found.IssuerOfPatientID, found.StudyID) == ("X-P1", "HOSP1", "S1")
    assert found.PixelData == dcmread(io.BytesIO(synthetic.part10(image()))).PixelData
    studies = httpx.get(f"{gateway.dicomweb}/studies", params={"PatientID": "X-P1"}).json()
    assert len(studies) == 1
    assert not [line for line in gateway.lines() if line["event"] == "dimse.request.refused"]


def test_st10_what_is_not_taken_from_a_peer_is_refused_when_it_is_proposed(start, tmp_path):
    gateway = start(
        "ae=CT* sop-class=CTImageStorage transfer-syntax=ExplicitVRLittleEndian",
        "door=dicomweb sop-class=CTImageStorage transfer-syntax=ExplicitVRLittleEndian",
    )
    proposed = [(CT, [EXPLICIT]), (CT, [IMPLICIT]), (CT, [JPEG, EXPLICIT]), (SECONDARY_CAPTURE, [EXPLICIT])]
    with associated(listener_of(gateway), *proposed, ("1.2.840.10008.1.1", [IMPLICIT]), calling="CT1") as association:
        accepted = [(one.abstract_syntax, one.transfer_syntax[0]) for one in association.accepted_contexts]
        rejected = [(one.abstract_syntax, one.result) for one in association.rejected_contexts]
    assert accepted == [(CT, EXPLICIT), (CT, EXPLICIT), ("1.2.840.10008.1.1", IMPLICIT)]
    assert rejected == [(CT, 4), (SECONDARY_CAPTURE, 3)]
    assert c_store(gateway, tmp_path, image(), calling="MR1").Status == 0x0000

    answer = stow(gateway, image())
    assert (answer.status_code, reasons(answer)) == (409, [0x0122])
    part = synthetic.part10(image(sop_class=CT), syntax=IMPLICIT, sop_class=CT)
    url, headers = f"{gateway.dicomweb}/studies", {"Content-Type": MULTIPART}
    answer = httpx.post(url, content=multipart_body(part), headers=headers)
    assert (answer.status_code, reasons(answer)) == (409, [0xC122])


def test_st10_a_peer_may_still_be_sent_what_is_not_taken_from_it(start):
    from pynetdicom import build_role

    gateway = start("* sop-class=CTImageStorage")
    roles = [build_role(SECONDARY_CAPTURE, scp_role=True)]
    with associated(listener_of(gateway), STORAGE, ext_neg=roles) as association:
        assert [one.abstract_syntax for one in association.accepted_contexts] == [SECONDARY_CAPTURE]


def test_st2_a_class_that_is_not_taken_is_refused_when_it_comes_all_the_same(start):
    gateway = start("* sop-class=CTImageStorage")
    role = b"\x54\0" + (len(SECONDARY_CAPTURE) + 4).to_bytes(2, "big") + len(SECONDARY_CAPTURE).to_bytes(2, "big")
    role += SECONDARY_CAPTURE.encode() + b"\1\1"
    peer = raw_association(_Connecting(gateway, role), STORAGE)
    with contextlib.closing(peer):
        assert send(peer, image())[0] == 0x0122


class _Connecting:
    """A listener to ``raw_association``, whose request gets one more item of user information."""

    def __init__(self, gateway, item):
        self._gateway, self._item = gateway, item

    def connect(self):
        import socket

        peer = socket.create_connection(("127.0.0.1", self._gateway.dimse_port))
        peer.settimeout(10)
        return _Peer(peer, self._item)


class _Peer:
    def __init__(self, peer, item):
        self._peer, self._item = peer, item

    def sendall(self, data):
        if data[0] == 1:
            at = data.index(b"\x50\0", 74)
            length = int.from_bytes(data[at + 2 : at + 4], "big") + len(self._item)
            data = data[:at] + b"\x50\0" + length.to_bytes(2, "big") + data[at + 4 :] + self._item
            data = data[:2] + (len(data) - 6).to_bytes(4, "big") + data[6:]
        self._peer.sendall(data)

    def __getattr__(self, name):
        return getattr(self._peer, name)


def test_h32_over_its_quota_a_peer_is_told_to_come_back_tomorrow(start, tmp_path):
    gateway = start("ae=CT1 instances-per-day=2", "door=dicomweb instances-per-day=2")
    statuses = [
        c_store(gateway, tmp_path, image(sop_instance=f"1.2.3.4.{number}"), sop=f"1.2.3.4.{number}").Status
        for number in (1, 2, 3, 1)
    ]
    assert statuses == [0x0000, 0x0000, 0xA700, 0x0000]
    answers = [stow(gateway, image(sop_instance=f"1.2.3.5.{number}"), sop=f"1.2.3.5.{number}") for number in (1, 2, 3)]
    assert [answer.status_code for answer in answers] == [200, 200, 503]
    assert reasons(answers[2]) == [0xA700]
    assert 0 < int(answers[2].headers["retry-after"]) <= 86_400
    assert c_store(gateway, tmp_path, image(sop_instance="1.2.3.4.9"), "CT2", "1.2.3.4.9").Status == 0x0000


def test_whoever_may_only_store_makes_no_version_current(archive):
    keep(archive, image())
    keep(archive, image(name="Roe^Jane"))
    version = archive.versions(SOP)[1]
    storing = Session(archive, Actor("peer", "CT1", frozenset((Verb.STORE, Verb.RETRIEVE))))
    with pytest.raises(Forbidden):
        storing.make_current(version)
    with pytest.raises(Forbidden):
        Session(archive, Actor("peer", "CT1", frozenset((Verb.STORE,)))).versions(SOP)
    assert archive.versions(SOP)[1] == version


HOOK = """
import time
from storage.reception import Accept, Coerce, Reject, set_to

def on_receive(reception):
    name = reception.value("PatientName")
    if name == "Reject":
        return Reject("Not for this archive")
    if name == "Crash":
        raise RuntimeError(name)
    if name == "Sleep":
        time.sleep(60)
    if name == "Nothing":
        return None
    return Coerce([set_to("InstitutionName", "East")]) if name == "Coerce" else Accept()
"""


def test_a_hook_of_the_operator_s_decides_and_its_faults_are_no_accept(start, tmp_path):
    (tmp_path / "our_rules.py").write_text(HOOK)
    environment = {"PYTHONPATH": f"{ROOT}:{tmp_path}"}
    gateway = start(environment=environment, on_receive="our_rules:on_receive", on_receive_seconds=0.5)
    names = ("Reject", "Crash", "Sleep", "Nothing")
    answers = {name: c_store(gateway, tmp_path, image(name=name)) for name in names}
    assert {name: answer.Status for name, answer in answers.items()} == {
        "Reject": 0x0124,
        "Crash": 0x0110,
        "Sleep": 0x0110,
        "Nothing": 0x0110,
    }
    assert answers["Reject"].ErrorComment == "Not for this archive"
    told = [stow(gateway, image(name=name)) for name in names]
    assert [(answer.status_code, reasons(answer)) for answer in told] == [
        (403, [0x0124]),
        (500, [0x0110]),
        (500, [0x0110]),
        (500, [0x0110]),
    ]
    assert httpx.get(f"{gateway.dicomweb}/studies").json() == []
    assert c_store(gateway, tmp_path, image(name="Coerce")).Status == 0xB000
    assert retrieved(gateway).InstitutionName == "East"
    assert "Crash" not in gateway.log.read_text()


@pytest.mark.parametrize(
    ("setting", "said"),
    [
        ({"on_receive": "no_such_module:f"}, "cannot be imported"),
        ({"on_receive": "storage.policy:nothing"}, "has no function"),
        ({"on_receive": "nonsense"}, "MODULE:FUNCTION"),
        ({"policies": ["* conflict=whatever"]}, "conflict"),
    ],
)
def test_rules_that_cannot_be_used_keep_the_gateway_from_starting(tmp_path, setting, said):
    config = tmp_path / "gateway.toml"
    config.write_text("[archive]\n" + "\n".join(f"{name} = {json.dumps(value)}" for name, value in setting.items()))
    run = run_command("serve", "--config", config, "--data", tmp_path / "data", "--http-port", 0, "--dimse-port", 0)
    assert run.returncode == 2
    assert said in run.stderr
    assert run.stderr.splitlines()[-1].startswith("dicomweb-gateway: archive.")


@pytest.mark.parametrize("conflict", ["keep-first", "replace", "reject"])
def test_f9_64_writers_by_both_doors_leave_one_row_the_right_winner_and_all_losers(start, tmp_path, engine, conflict):
    gateway = start(f"* conflict={conflict}", environment=dict(engine.environment(tmp_path / "data")), workers=2)
    contents = [image(3, 3, name=f"Doe^{number}") for number in range(8)]
    barrier = threading.Barrier(64)

    def write(number):
        content = contents[number % 8]
        barrier.wait()
        if number % 2:
            answer = stow(gateway, content)
            return content, "stored" if answer.status_code in (200, 202) else answer.status_code
        peer = raw_association(_Connecting(gateway, b""), STORAGE, calling=f"CT{number // 16}".encode())
        with contextlib.closing(peer):
            peer.settimeout(60)
            status, _ = send(peer, content)
        return content, "stored" if status == 0 else status

    with ThreadPoolExecutor(64) as pool:
        results = list(pool.map(write, range(64)))
    run = run_command("versions", SOP, "--data", gateway.data, "--json", environment=engine.environment(gateway.data))
    versions = json.loads(run.stdout)["versions"]
    kept = Counter(one["digest"] for one in versions)
    served = retrieved(gateway)
    sent = {hashlib.sha256(content).hexdigest() for content, outcome in results if outcome == "stored"}
    assert set(kept) == sent
    assert max(kept.values()) == 1
    assert [one["outcome"] for one in versions].count("current") == 1
    winner = next(content for content in contents if hashlib.sha256(content).hexdigest() == versions[0]["digest"])
    assert served.PatientName == dcmread(io.BytesIO(synthetic.part10(winner))).PatientName
    outcomes = Counter(outcome for _, outcome in results)
    if conflict == "reject":
        assert outcomes["stored"] == 8
        assert outcomes[0x0111] + outcomes[409] == 56
    else:
        assert outcomes == {"stored": 64}
    (study,) = httpx.get(f"{gateway.dicomweb}/studies").json()
    assert study["00201208"]["Value"] == [1]
    assert study["00100010"]["Value"] == [{"Alphabetic": str(served.PatientName)}]
    assert isinstance(served, pydicom.Dataset)
