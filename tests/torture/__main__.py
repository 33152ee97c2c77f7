"""``python -m tests.torture``: a long torture, and its figure. Exit code 1 when anything is wrong."""

from __future__ import annotations

import argparse
import json
import random
import shutil
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path

from tests.fix_postgresql import binaries
from tests.torture.run import LOADS, POSTGRESQL, SQLITE, Figure, Torture, new_world

PACE_SECONDS = 1.25
ROUND_SECONDS = 100.0


def arguments_of(words: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="make torture", description=__doc__)
    parser.add_argument("--minutes", type=float, default=32.0, help="how long; 32")
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(1 << 32), help="random")
    parser.add_argument("--engine", choices=(SQLITE, POSTGRESQL, "both"), default="both", help="of the index; both")
    parser.add_argument("--disk", choices=("auto", "mount", "limit"), default="auto", help="how it gets full")
    parser.add_argument("--pace", type=float, default=PACE_SECONDS, help="seconds from kill to kill, in the mean")
    parser.add_argument("--folder", type=Path, help="where archives are made, which are kept if something is wrong")
    parser.add_argument("--json", type=Path, help="file for the figure")
    parser.add_argument("--history", type=Path, help="file for every call")
    return parser.parse_args(words)


def main(words: list[str]) -> int:
    options = arguments_of(words)
    engines = [SQLITE, POSTGRESQL] if options.engine == "both" else [options.engine]
    if POSTGRESQL in engines and binaries() is None:
        print("PostgreSQL is not installed: SQLite only")
        engines = [SQLITE]
    if options.folder:
        options.folder.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix="torture-", dir=options.folder))
    figure = Figure(options.seed)
    is_whole = False
    started = time.monotonic()
    print(f"seed {options.seed}", flush=True)

    def progress(so_far: Figure) -> None:
        minutes, seconds = divmod(int(time.monotonic() - started), 60)
        print(f"\r{minutes:3d}:{seconds:02d}  {so_far.short()} ", end="", flush=True)

    try:
        with ExitStack() as stack:
            log = stack.enter_context(options.history.open("w")) if options.history else None
            for number, engine in enumerate(engines, 1):
                with new_world(engine, folder / engine, options.disk) as world:
                    torture = Torture(
                        world,
                        number,
                        figure,
                        load=LOADS[engine],
                        pace_seconds=options.pace,
                        progress=progress,
                        log=log,
                    )
                    torture.run(options.minutes * 60 / len(engines), ROUND_SECONDS)
        is_whole = True
    finally:
        figure.seconds = time.monotonic() - started
        print(f"\n{figure.text()}")
        if options.json:
            options.json.write_text(json.dumps(figure.as_json(), indent=2) + "\n")
        if figure.is_sound and is_whole:
            shutil.rmtree(folder, ignore_errors=True)
        else:
            print(f"kept: {folder}")
    return 0 if figure.is_sound else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
