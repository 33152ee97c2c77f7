"""``python -m benchmarks.trials NAME``: one trial, its table, and JSON when it is asked for."""

from __future__ import annotations

import argparse
import contextlib
import json
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from benchmarks import report
from benchmarks.__main__ import cache_folder
from benchmarks.servers import StartError
from benchmarks.trials import answers, bodies, bombs, growth, receivers, retrieve, searches, soak
from benchmarks.trials.frame import Frame

TRIALS: Mapping[str, Callable[[Frame], object]] = {
    "answers": answers.run,
    "bodies": bodies.run,
    "bombs": bombs.run,
    "receivers": receivers.run,
    "growth": growth.run,
    "retrieve": retrieve.run,
    "searches": searches.run,
    "soak": soak.run,
}


def _numbers(text: str) -> tuple[int, ...]:
    return tuple(sorted(int(word) for word in text.split(",")))


def parser() -> argparse.ArgumentParser:
    """What can be asked for."""
    asked = argparse.ArgumentParser(
        prog="python -m benchmarks.trials", description="Measure one thing about the gateway."
    )
    asked.add_argument("trial", choices=sorted(TRIALS))
    asked.add_argument("--reps", type=int, default=5, help="repetitions (5)")
    asked.add_argument("--seconds", type=float, default=120.0, help="length of the soak (120)")
    asked.add_argument("--readers", type=int, default=64, help="connections that read frames in the soak (64)")
    asked.add_argument("--senders", type=int, default=4, help="associations that store in the soak (4)")
    asked.add_argument(
        "--studies", type=_numbers, default=(0, 10_000, 100_000), help="archive sizes of growth and searches"
    )
    asked.add_argument("--instances", type=_numbers, default=(250, 1_000, 4_000), help="series sizes of growth")
    asked.add_argument("--moved", type=int, default=70_000, help="instances of the C-MOVE (70,000); 0 for none")
    asked.add_argument("--ct", type=int, default=250, help="instances of the CT series (250)")
    asked.add_argument("--clients", type=int, default=8, help="who asks for pictures of bombs at once (8)")
    asked.add_argument("--kills", type=int, default=100, help="decoders that die of a signal (100)")
    asked.add_argument("--seed", type=int, default=1, help="of the chance in bombs (1)")
    asked.add_argument("--patience", type=float, default=30.0, help="seconds to wait for a quiet machine (30)")
    asked.add_argument("--database", default="", help="URL of an empty PostgreSQL database, for searches and answers")
    asked.add_argument("--json", type=Path, metavar="FILE", help="write the figures there")
    asked.add_argument("--cache", type=Path, help="folder of the corpus")
    asked.add_argument("--work", type=Path, help="where servers keep their data; the disk that is measured")
    return asked


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit code 1 when the trial found what it must not."""
    options = parser().parse_args(arguments)
    with contextlib.ExitStack() as stack:
        work = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="gateway-trial-", dir=options.work)))
        frame = Frame(options, options.cache or cache_folder(), work, stack)
        try:
            figures = TRIALS[options.trial](frame)
        except StartError as error:
            raise SystemExit(str(error)) from error
    if options.json:
        told = {"trial": options.trial, "machine": report.machine(), "servers": frame.versions, "figures": figures}
        options.json.write_text(json.dumps(told, indent=1) + "\n", encoding="utf-8")
    return int(frame.has_failed)


if __name__ == "__main__":
    sys.exit(main())
