"""Finds the fixtures, which live in fix_*.py by subject, and says what is missing on this machine."""

from __future__ import annotations

import io
import os
import shutil
from pathlib import Path

import pytest

from gateway import logs

pytest_plugins = [f"tests.{path.stem}" for path in sorted(Path(__file__).parent.glob("fix_*.py"))]
_CONTRACTS = [f"tests.contracts.{path.stem}" for path in sorted((Path(__file__).parent / "contracts").glob("*.py"))]
pytest.register_assert_rewrite(*_CONTRACTS, *pytest_plugins)  # before one of them imports another

REQUIRE_ALL = os.environ.get("GATEWAY_TEST_REQUIRE_ALL", "") not in ("", "0")


class Nowhere(io.TextIOBase):
    """Log lines of the test process itself: formed and checked, then forgotten."""

    def write(self, text):
        return len(text)


def pytest_configure(config):
    config.addinivalue_line("markers", "needs(program, ...): real programs without which the test cannot run")
    logs.configure("DEBUG", strict=True, stream=Nowhere())


def require(*programs):
    """Skip, or fail where everything has to be there, unless all programs are on the PATH."""
    missing = [program for program in programs if shutil.which(program) is None]
    if missing and REQUIRE_ALL:
        pytest.fail(f"not installed, but required here: {', '.join(missing)}", pytrace=False)
    if missing:
        pytest.skip(f"not installed: {', '.join(missing)}")


def pytest_runtest_setup(item):
    for marker in item.iter_markers("needs"):
        require(*marker.args)


@pytest.fixture(scope="session")
def needs():
    """``needs("storescu")``: the same as the marker, from inside a test or fixture."""
    return require


def pytest_report_header():
    found = [program for program in ("storescu", "findscu", "dcm2img", "dcmj2pnm", "curl") if shutil.which(program)]
    return f"real components: {', '.join(found) or 'none'}; {'all required' if REQUIRE_ALL else 'others are skipped'}"
