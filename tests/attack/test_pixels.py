"""Images that are made to harm, at a real gateway: a few of those of ``python -m benchmarks.trials bombs``. H15, H16

What a frame does to its decoder it does to nobody else: the gateway keeps its memory, its processes and its time.
"""

from __future__ import annotations

import random
import re
from collections import Counter

import pytest

from benchmarks.bombs import bombs, sound
from benchmarks.client import Connection
from benchmarks.trials.bombs import Watch, attack, kill, searching, store
from tests.fix_servers import running_gateway

SECONDS = 2.0
SLACK_SECONDS = 4.0  # to start another decoder, on a machine that runs other tests
GROWTH_BYTES = 64 << 20
# Some that run until they are stopped, some that are refused only when much has been done.
CHOSEN = (
    *("endless jpeg", "htj2k with 65,535 layers", "jpeg-ls of zeros, 65535 by 1500", "progressive of 500 scans"),
    *("rle of runs that never end", "jpeg of a million comments", "jpeg-2000 with precincts of a pixel"),
)


@pytest.fixture(scope="module")
def gateway(tmp_path_factory):
    settings = {"GATEWAY_PIXELS__SECONDS": str(SECONDS), "GATEWAY_PIXELS__WORKERS": "2"}
    folder = tmp_path_factory.mktemp("bombs") / "data"
    with running_gateway(folder, "--workers", "1", environment=settings) as running:
        yield running


def sample():
    """The chosen ones, others by chance, the same each time, and whole ones."""
    odd = bombs(7, 0, ("jpeg", "jpeg-ls", "jpeg-2000", "rle"))
    chosen = [bomb for bomb in odd if bomb.name in CHOSEN]
    assert len(chosen) == len(CHOSEN)
    return chosen + random.Random(7).sample(bombs(7, 2, ("lying", "truncated", "descriptions")), 40) + list(sound())


def test_bombs_cost_their_own_request_and_nothing_else(gateway):
    found = sample()
    numbers = store(gateway.dicomweb, found)
    assert len(numbers) > len(found) * 0.9
    whole = {number for number in numbers if number >= len(found) - len(list(sound()))}
    assert {answer.status for answer in attack(gateway.dicomweb, found, sorted(whole), 2)} == {200}
    processes = gateway.pids()
    watch = Watch(gateway.process.pid)
    with searching(gateway.dicomweb) as searches, watch.watching():
        answers = attack(gateway.dicomweb, found, numbers, 4)
    statuses = Counter(answer.status for answer in answers)
    assert all(status == 200 or 400 <= status < 500 for status in statuses), statuses
    assert statuses[422] > 20
    assert {answer.status for answer in answers if "thumbnail" in answer.path} <= {200, 413}
    assert max(answer.seconds for answer in answers) < SECONDS + SLACK_SECONDS
    assert len(searches) > 5
    assert searches[-1] < 5_000
    assert watch.peak_bytes - watch.before_bytes < GROWTH_BYTES
    assert gateway.pids() == processes
    assert not [line for line in gateway.lines() if line["event"] == "process.ended"]


def test_what_cannot_be_decoded_is_counted_and_written_down_without_its_name(gateway):
    failed = [line for line in gateway.lines() if line["event"] == "pixels.failed"]
    assert {"The frame is truncated", "The frame takes too long to decode"} <= {line["reason"] for line in failed}
    assert all(re.fullmatch("[0-9a-f]{8}", line["uid_digest"]) for line in failed)
    assert any(line.get("request_id") for line in failed)  # thumbnails are made ahead without anybody asking
    assert not any(b"Bomb^Of" in line or b"BOMB" in line for line in gateway.log.read_bytes().splitlines())
    with Connection(gateway.url) as connection:
        figures = connection.get("/metrics").body.decode()
    counted = dict(re.findall(r'gateway_pixels_failures_total\{outcome="(\w+)"\} (\S+)', figures))
    assert float(counted["undecodable"]) > 20
    assert float(counted["late"]) > 0
    assert "gateway_pixels_worker_starts_total{" in figures


def test_a_decoder_that_dies_takes_one_request_with_it(tmp_path):
    with running_gateway(tmp_path / "data", "--workers", "1", environment={"GATEWAY_PIXELS__WORKERS": "2"}) as running:
        figures = kill(running.dicomweb, running.process.pid, 5, 2)
        assert figures["killed"] == figures["victims_refused"] == 5
        assert figures["bystanders"] > 5
        assert figures["bystanders_failed"] == 0
        with Connection(running.url) as connection:
            figures = connection.get("/metrics").body.decode()
        assert 'gateway_pixels_failures_total{outcome="crashed"} 5.0' in figures
        assert "gateway_pixels_worker_restarts_total 5.0" in figures
