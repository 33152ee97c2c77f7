"""A modality stores and asks for commitment; the gateway is killed; the report comes when it is back. SC4, F5"""

from __future__ import annotations

import signal
import socket
import subprocess

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.fix_commitment import PUSH, TITLE, Reports, act, captures, listening, request_of
from tests.fix_dimse import STORAGE, associated, part10, settle
from tests.fix_servers import running_gateway
from tests.synthetic import image

UIDS = [f"1.2.826.0.1.77.{number}" for number in range(1, 6)]


class Modality:
    """What ``associated`` and ``raw_association`` need of a listener."""

    def __init__(self, gateway):
        self.address = ("127.0.0.1", gateway.dimse_port)

    def connect(self):
        peer = socket.create_connection(self.address)
        peer.settimeout(20)
        return peer


def store(gateway, tmp_path):
    """The instances, by DCMTK."""

    files = [part10(tmp_path, image(8, 8, sop_instance=uid), sop_instance=uid) for uid in UIDS]
    command = ["storescu", "-xe", "127.0.0.1", str(gateway.dimse_port), "-aec", gateway.ae_title, *map(str, files)]
    subprocess.run(command, check=True, capture_output=True, timeout=60)


@pytest.mark.needs("storescu")
@pytest.mark.parametrize("victim", ["dimse", "all"])
def test_sc4_a_request_that_was_acknowledged_is_reported_after_a_kill(tmp_path, victim):
    reports = Reports()
    data = tmp_path / "data"
    with listening(reports):
        peer = f"{TITLE}=127.0.0.1:{reports.port}"
        with running_gateway(data, "--workers", "1", "--peer", peer) as gateway:
            store(gateway, tmp_path)
            with associated(Modality(gateway), PUSH) as association:
                assert act(association, request_of("1.2.9.1", captures([*UIDS, "1.2.404"]))).Status == 0
                killed = gateway.pids("dimse")["dimse"] if victim == "dimse" else gateway.process.pid
                subprocess.run(["kill", "-9", str(killed)], check=True)
                if victim == "all":
                    gateway.process.wait(20)
                else:
                    report = reports.one(120)
            assert reports.found == [] or victim == "dimse"
        if victim == "all":
            with running_gateway(data, "--workers", "1", "--peer", peer):
                report = reports.one(120)
    assert (report.kind, report.transaction) == (2, "1.2.9.1")
    assert report.committed == UIDS
    assert report.failed == {"1.2.404": 0x0112}


@pytest.mark.needs("storescu")
def test_a_modality_stores_asks_and_is_told_in_the_same_association_and_the_figures_say_so(start_gateway, tmp_path):
    gateway = start_gateway("--workers", "1", environment={"GATEWAY_ARCHIVE__COMMITMENT_CHECK": "checksum"})
    store(gateway, tmp_path)
    reports = Reports()
    with associated(Modality(gateway), PUSH, STORAGE, evt_handlers=reports.handlers) as association:
        assert act(association, request_of("1.2.9.2", captures(UIDS))).Status == 0
        assert reports.one(60).committed == UIDS
        association.release()

    def figures():
        families = text_string_to_metric_families(httpx.get(f"{gateway.url}/metrics").text)
        return {
            (sample.name, *sample.labels.values()): sample.value for family in families for sample in family.samples
        }

    assert settle(lambda: figures().get(("gateway_commitments_total", "dimse", "answered")) == 1)
    assert figures()["gateway_commitment_references_total", "dimse", "0000"] == len(UIDS)
    assert settle(lambda: figures()["gateway_commitments_waiting",] == 0)
    assert gateway.stop(signal.SIGTERM) == 0
