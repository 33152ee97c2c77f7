"""Metrics: names, closed labels, and figures that add up over processes."""

from __future__ import annotations

import re
import subprocess
import sys

import pytest
from prometheus_client.parser import text_string_to_metric_families

from gateway import metrics
from tests.fix_servers import command_environment


def families(text):
    return {family.name: family for family in text_string_to_metric_families(text)}


def test_one_process_shows_its_own_figures():
    metrics.LIMITS_HIT.labels("test_metrics").inc(2)
    found = families(metrics.exposition().decode())
    (sample,) = [
        one
        for one in found["gateway_limits_hit"].samples
        if one.labels == {"limit": "test_metrics"} and "total" in one.name
    ]
    assert sample.value == 2
    assert found["gateway_build_info"].samples[0].value == 1


def test_names_say_room_and_unit():
    names = [name for name in vars(metrics) if name.isupper() and hasattr(getattr(metrics, name), "_name")]
    assert len(names) >= 13
    for name in names:
        metric = getattr(metrics, name)
        assert re.fullmatch(r"gateway_[a-z]+(_[a-z]+)*", metric._name), name
        assert metric._documentation, name


SCRIPT = """
import sys
from gateway import metrics
assert metrics.is_shared()
metrics.DIMSE_ASSOCIATIONS.inc(3)
metrics.INGEST_INSTANCES.labels("dimse", "stored").inc(5)
metrics.DIMSE_SECONDS.labels("C-ECHO").observe(0.02)
if sys.argv[1] == "show":
    sys.stdout.write(metrics.exposition().decode())
else:
    sys.stdout.write("\\n"); sys.stdout.flush(); sys.stdin.read()
"""


def test_figures_of_several_processes_add_up(tmp_path):
    environment = command_environment({"PROMETHEUS_MULTIPROC_DIR": str(tmp_path)})
    command = [sys.executable, "-c", SCRIPT]
    with subprocess.Popen(
        [*command, "wait"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
    ) as other:
        other.stdout.readline()
        shown = subprocess.run(
            [*command, "show"], capture_output=True, text=True, check=True, env=environment, timeout=60
        )
        other.stdin.close()
    found = families(shown.stdout)
    assert found["gateway_dimse_associations"].samples[0].value == 6
    values = {sample.name: sample.value for sample in found["gateway_ingest_instances"].samples}
    assert values["gateway_ingest_instances_total"] == 10
    counts = [one.value for one in found["gateway_dimse_request_seconds"].samples if one.name.endswith("_count")]
    assert counts == [2]
    assert found["gateway_build_info"].samples[0].value == 1


@pytest.mark.parametrize("metric", [metrics.HTTP_REQUESTS, metrics.INGEST_INSTANCES, metrics.DIMSE_REQUESTS])
def test_labels_name_no_peer_and_no_patient(metric):
    assert set(metric._labelnames) <= {"route", "method", "status", "door", "outcome", "command"}
