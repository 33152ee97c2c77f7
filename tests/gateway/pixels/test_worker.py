from __future__ import annotations

import signal
import subprocess
import sys

import pytest

linux_only = pytest.mark.skipif(sys.platform != "linux", reason="address space is limited on Linux only")


def run(program: str) -> subprocess.CompletedProcess[str]:
    program = f"from gateway.pixels.worker import *\nimport numpy as np\n{program}"
    return subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False, timeout=60)


@linux_only
def test_memory_beyond_the_limit_is_refused_and_below_it_is_not():
    outcome = run(
        "limit_memory(64 << 20)\n"
        "np.ones(48 << 20, 'u1')\n"
        "try:\n    np.ones(80 << 20, 'u1')\n"
        "except MemoryError:\n    print('refused')\n"
    )
    assert (outcome.returncode, outcome.stdout) == (0, "refused\n")


def test_a_process_that_computes_too_long_is_ended_and_leaves_no_core():
    outcome = run("limit_memory(1 << 30)\nlimit_processor_time(0.1)\nwhile True: pass\n")
    assert outcome.returncode == -signal.SIGXCPU


def test_time_is_given_anew_for_every_request():
    outcome = run(
        "import time\n"
        "for _ in range(3):\n"
        "    limit_processor_time(1.5)\n"
        "    end = time.process_time() + 0.8\n"
        "    while time.process_time() < end: pass\n"
    )
    assert outcome.returncode == 0
