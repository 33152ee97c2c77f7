"""``python -m benchmarks.micro [--only WORD] [--seconds S]``: one line for each part."""

from __future__ import annotations

import argparse
import contextlib
import itertools
import tempfile
from collections.abc import Sequence
from pathlib import Path

from benchmarks.micro import codec_cases, storage_cases, web_cases
from benchmarks.micro.timing import shown, time_case


def main(arguments: Sequence[str] | None = None) -> None:
    """Time every case whose name holds the word."""
    asked = argparse.ArgumentParser(prog="python -m benchmarks.micro", description=__doc__)
    asked.add_argument("--only", default="", metavar="WORD", help="only cases whose name holds it")
    asked.add_argument("--seconds", type=float, default=0.5, help="for each case (0.5)")
    options = asked.parse_args(arguments)
    with tempfile.TemporaryDirectory(prefix="gateway-micro-") as folder, contextlib.ExitStack() as stack:
        cases = itertools.chain(storage_cases.cases(), web_cases.cases(Path(folder), stack), codec_cases.cases())
        for case in cases:
            if options.only.lower() in case.name.lower():
                print(shown(time_case(case, options.seconds)), flush=True)


if __name__ == "__main__":
    main()
