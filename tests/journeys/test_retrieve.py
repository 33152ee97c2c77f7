"""Every sample by C-MOVE to storescp and by C-GET to getscu, of a real gateway: the same bytes, or the same pixels."""

from __future__ import annotations

import contextlib
import hashlib
import json
import subprocess
import time

import numpy as np
import pytest
from pydicom import dcmread
from pydicom.pixels import pixel_array

from tests.fix_postgresql import free_port
from tests.fix_servers import run_command, running_gateway
from tests.journeys.files import BIG_ENDIAN, EXPLICIT, IMPLICIT, SAMPLES, read, samples

JPEG = "1.2.840.10008.1.2.4.5"
PREFER = {
    EXPLICIT: "+xe",
    IMPLICIT: "+xi",
    BIG_ENDIAN: "+xb",
    "1.2.840.10008.1.2.1.99": "+xd",
    "1.2.840.10008.1.2.5": "+xr",
    "1.2.840.10008.1.2.4.50": "+xy",
    "1.2.840.10008.1.2.4.90": "+xv",
}
FILES = {file.name: file for file in samples()}
STUDIES = sorted({file.path.relative_to(SAMPLES).parts[0] for file in FILES.values()})


def identity(file):
    found = dcmread(file.path, stop_before_pixels=True)
    return found.StudyInstanceUID, found.SeriesInstanceUID, found.SOPInstanceUID


@contextlib.contextmanager
def storescp(folder, port, *flags):
    """DCMTK's receiver, which writes what it gets exactly as it comes."""
    folder.mkdir(exist_ok=True)
    process = subprocess.Popen(["storescp", "-aet", "DEST", "+B", "-od", folder, *flags, str(port)])
    try:
        yield folder
    finally:
        process.terminate()
        process.wait(20)


@pytest.fixture(scope="module")
def places(tmp_path_factory):
    """A gateway that holds the samples and knows three peers, by what they take."""
    folder = tmp_path_factory.mktemp("retrieve")
    ports = {name: free_port() for name in ("ALL", "EXPLICIT", "IMPLICIT")}
    flags = [word for name, port in ports.items() for word in ("--peer", f"{name}=127.0.0.1:{port}")]
    with running_gateway(folder / "data", "--workers", "1", *flags) as gateway:
        loaded = run_command("import", SAMPLES, "--data", gateway.data, "--json", seconds=200)
        assert json.loads(loaded.stdout)["stored"] == len(FILES)
        yield gateway, ports, folder


def asked(level, study, *others):
    keys = dict(zip(("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID"), (study, *others), strict=False))
    words = ["-k", f"QueryRetrieveLevel={level}"]
    for key, uid in keys.items():
        words += ["-k", f"{key}={uid}"]
    return words


def received(folder):
    """Files by SOP Instance UID."""
    found = [read(path, path.name) for path in folder.iterdir()]
    return {file.sop_instance: file for file in found}


def moved(places, peer, study, folder, *flags):
    gateway, ports, _ = places
    with storescp(folder, ports[peer], *flags):
        words = ["movescu", "-S", "-aec", gateway.ae_title, "-aem", peer, *asked("STUDY", study), "127.0.0.1"]
        for _ in range(50):  # storescp takes a moment to listen
            run = subprocess.run(
                [*words, str(gateway.dimse_port)], capture_output=True, text=True, check=False, timeout=120
            )
            if received(folder):
                break
            time.sleep(0.1)
    assert run.returncode == 0, run.stderr
    return received(folder)


def of_study(name):
    return {file.sop_instance: file for file in FILES.values() if file.path.relative_to(SAMPLES).parts[0] == name}


@pytest.mark.needs("movescu", "storescp")
@pytest.mark.parametrize("name", STUDIES)
def test_movescu_moves_every_sample_byte_for_byte(places, name, tmp_path):
    files = of_study(name)
    found = moved(places, "ALL", identity(next(iter(files.values())))[0], tmp_path / "out", "+xa")
    assert found.keys() == files.keys()
    for uid, file in files.items():
        assert found[uid].transfer_syntax == file.transfer_syntax
        assert hashlib.sha256(found[uid].data_set).hexdigest() == hashlib.sha256(file.data_set).hexdigest()


@pytest.mark.needs("movescu", "storescp")
@pytest.mark.parametrize(("peer", "flag", "syntax"), [("EXPLICIT", "+xe", EXPLICIT), ("IMPLICIT", "+xi", IMPLICIT)])
@pytest.mark.parametrize("name", STUDIES)
def test_a_peer_that_takes_plain_syntaxes_only_gets_the_same_pixels(places, peer, flag, syntax, name, tmp_path):
    files = of_study(name)
    found = moved(places, peer, identity(next(iter(files.values())))[0], tmp_path / "out", flag)
    assert found.keys() == files.keys()
    for uid, file in files.items():
        assert found[uid].transfer_syntax in (syntax, EXPLICIT, IMPLICIT, BIG_ENDIAN)
        ours, theirs = dcmread(found[uid].path), dcmread(file.path)
        if "Rows" in theirs:
            difference = np.abs(pixels(ours).astype(int) - pixels(theirs))
            assert difference.max() <= (2 if file.transfer_syntax.startswith(JPEG) else 0), file.name
        assert ours.get("PatientName") == theirs.get("PatientName")


def pixels(data_set):
    """As they are stored, but for the colours of JPEG, which are RGB without it, to the rounding of a decoder."""
    return pixel_array(data_set, raw=not data_set.file_meta.TransferSyntaxUID.startswith(JPEG))


@pytest.mark.needs("getscu")
@pytest.mark.parametrize("name", FILES)
def test_getscu_gets_every_sample_byte_for_byte_in_the_syntax_it_prefers(places, name, tmp_path):
    gateway, _, _ = places
    file = FILES[name]
    words = ["getscu", "-S", "+B", PREFER[file.transfer_syntax], "-od", tmp_path, *asked("IMAGE", *identity(file))]
    run = subprocess.run(
        [*words, "-aec", gateway.ae_title, "127.0.0.1", str(gateway.dimse_port)],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert run.returncode == 0, run.stderr
    found = received(tmp_path)
    assert found.keys() == {file.sop_instance}
    got = found[file.sop_instance]
    if got.transfer_syntax != file.transfer_syntax:  # getscu proposes all plain ones in one context
        assert {got.transfer_syntax, file.transfer_syntax} <= {EXPLICIT, IMPLICIT, BIG_ENDIAN}
        return
    assert hashlib.sha256(got.data_set).hexdigest() == hashlib.sha256(file.data_set).hexdigest()
