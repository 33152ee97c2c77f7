"""npm's dicomweb-client and dcmjs, of which OHIF and Slim are made, over a real gateway with the samples."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest

from tests.fix_samples import MANIFEST

SCRIPT = Path(__file__).with_name("npm_clients.cjs")
MODULES = Path(os.environ.get("GATEWAY_TEST_NODE_MODULES", "/nowhere"))
NOT_READ_BY_DCMJS = "Using multiple character sets is not supported"


@pytest.mark.needs("node")
def test_the_clients_of_web_viewers_read_every_series(samples):
    if not MODULES.is_dir():
        if os.environ.get("GATEWAY_TEST_REQUIRE_ALL"):
            pytest.fail("GATEWAY_TEST_NODE_MODULES does not name a folder node_modules")
        pytest.skip("GATEWAY_TEST_NODE_MODULES does not name a folder node_modules")
    words = ["node", SCRIPT, samples.gateway.dicomweb, MODULES]
    run = subprocess.run(words, capture_output=True, text=True, check=False, timeout=120)
    assert run.returncode == 0, run.stderr
    found = {one["series"]: one for one in json.loads(run.stdout)}
    rows = list(MANIFEST.values())
    assert found.keys() == {row["series_instance_uid"] for row in rows}
    for uid, one in found.items():
        of_series = [row for row in rows if row["series_instance_uid"] == uid]
        assert one["instances"] == len(of_series)
        row = next(row for row in of_series if row["sop_instance_uid"] == one["instance"])
        assert one["file"] == one["instance"] or one["file"].startswith(NOT_READ_BY_DCMJS)
        assert one["bytes"] > 1000
        assert bool(one["frame"]) == bool(row["frames"])
