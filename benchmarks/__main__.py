"""``python -m benchmarks``, ``make bench``: start servers, run workloads, print the table, stop servers.

docs/performance.md says how to read what it prints.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import signal
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from types import FrameType

from benchmarks import report, workloads
from benchmarks.bench import Bench, Result, Scale, say, scratch_folder
from benchmarks.corpus import Corpus
from benchmarks.limits import Limit, measure_limits
from benchmarks.load import has_wrk
from benchmarks.senders import has_storescu
from benchmarks.servers import Server, StartError, filesystem, find_orthanc, start_gateway, start_orthanc
from benchmarks.workloads import WORKLOADS, Workload

_CT_BYTES = 530_000
_TINY_BYTES = 40_000
_SPARE_BYTES = 2_000_000_000
_IN_MEMORY = frozenset(("tmpfs", "ramfs"))


def parser() -> argparse.ArgumentParser:
    """What can be asked for."""
    asked = argparse.ArgumentParser(
        prog="python -m benchmarks",
        description="Measure the gateway, and Orthanc beside it where it is installed.",
        epilog="Workloads: " + " ".join(one.name for one in WORKLOADS),
    )
    size = asked.add_mutually_exclusive_group()
    size.add_argument("--quick", action="store_true", help="2,000 studies, 3 repetitions, steps of 3 s (default)")
    size.add_argument("--full", action="store_true", help="10,000 studies, 5 repetitions, steps of 4 s")
    asked.add_argument("--only", metavar="NAME,…", default="", help="workloads, or beginnings of their names")
    asked.add_argument("--reps", type=int, help="repetitions of each workload")
    asked.add_argument("--seconds", type=float, help="length of a step under load")
    asked.add_argument("--studies", type=int, help="tiny studies in the archive, in blocks of 250")
    asked.add_argument("--ct", type=int, default=250, help="instances of the CT series (250)")
    asked.add_argument("--frames", type=int, default=100, help="frames of the multi-frame object (100)")
    asked.add_argument("--patience", type=float, default=30.0, help="seconds to wait for a quiet machine (30)")
    asked.add_argument("--json", type=Path, metavar="FILE", help="write every repetition there")
    asked.add_argument("--no-peer", action="store_true", help="measure the gateway alone")
    asked.add_argument("--against", type=Path, metavar="DIR", help="compare with the gateway of another checkout")
    asked.add_argument("--sender", choices=("storescu", "python"), help="of C-STORE (storescu where there is one)")
    asked.add_argument("--client", choices=("wrk", "python"), help="of HTTP under load (wrk where there is one)")
    asked.add_argument("--cache", type=Path, help="folder of the corpus ($XDG_CACHE_HOME/dicomweb-gateway-benchmark)")
    asked.add_argument("--work", type=Path, help="where servers keep their data; the disk that is measured")
    return asked


def cache_folder() -> Path:
    """Where corpora are kept between runs."""
    base = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")  # noqa: TID251 - a script, not the gateway
    return Path(base) / "dicomweb-gateway-benchmark"


def chosen_workloads(only: str) -> tuple[Workload, ...]:
    """Those whose name is one of the words, or begins with one that is no name, in the order of the table.

    All when there is no word.
    """
    words = tuple(filter(None, only.split(",")))
    unknown = [word for word in words if not any(one.name.startswith(word) for one in WORKLOADS)]
    if unknown:
        raise SystemExit(f"no workload begins with {', '.join(unknown)}")
    names = {one.name for one in WORKLOADS}
    beginnings = tuple(word for word in words if word not in names)
    return tuple(one for one in WORKLOADS if not words or one.name in words or one.name.startswith(beginnings))


def _start(options: argparse.Namespace, folder: Path, stack: contextlib.ExitStack) -> list[Server]:
    """Ready servers, the gateway first, each of which the stack stops."""
    servers = []
    try:
        servers.append(start_gateway(folder / "gateway"))
        stack.callback(servers[-1].stop)
        if options.against:
            servers.append(start_gateway(folder / "against", options.against.resolve(), "against"))
            stack.callback(servers[-1].stop)
        elif not options.no_peer:
            found = find_orthanc()
            if found is None:
                say("gateway alone: Orthanc and its plugin are not installed (Debian: orthanc orthanc-dicomweb)")
            else:
                servers.append(start_orthanc(found, folder / "orthanc"))
                stack.callback(servers[-1].stop)
    except StartError as error:
        raise SystemExit(str(error)) from error
    return servers


def _needed_bytes(chosen: Sequence[Workload], scale: Scale, ct_instances: int, servers: int) -> int:
    """Disk that the servers' data take, all together."""
    copies = 1 + scale.reps * sum(one.copies for one in chosen)
    return servers * (copies * ct_instances * _CT_BYTES + scale.studies * _TINY_BYTES) + _SPARE_BYTES


def _check_disk(work: Path, needed_bytes: int) -> None:
    free_bytes = os.statvfs(work).f_bavail * os.statvfs(work).f_frsize
    if free_bytes < needed_bytes:
        raise SystemExit(f"{work} has {free_bytes / 1e9:.1f} GB free, and this run may take {needed_bytes / 1e9:.1f}")


def _scale(options: argparse.Namespace) -> Scale:
    reps, seconds, studies = (5, 4.0, 10_000) if options.full else (3, 3.0, 2_000)
    scale = Scale(
        options.reps or reps, options.seconds or seconds, options.studies or studies, patience_seconds=options.patience
    )
    if not (1 <= scale.reps <= 50 and 0 < scale.seconds <= 60 and 1 <= scale.studies <= 1_000_000):
        raise SystemExit("repetitions are 1 to 50, seconds up to 60, studies up to 1,000,000")
    if not (2 <= options.ct <= 5_000 and 1 <= options.frames <= 10_000):
        raise SystemExit("the CT series has 2 to 5,000 instances, the multi-frame object 1 to 10,000 frames")
    return scale


def measure(options: argparse.Namespace) -> list[Result]:
    """The whole run. Servers and folders are gone when it returns, however it ends."""
    scale, chosen = _scale(options), chosen_workloads(options.only)
    corpus = Corpus(options.cache or cache_folder(), options.ct, options.frames)
    sender = options.sender or ("storescu" if has_storescu() else "python")
    client = options.client or ("wrk" if has_wrk() else "python")
    started = time.time()
    with contextlib.ExitStack() as stack:
        work = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="gateway-benchmark-", dir=options.work)))
        _check_disk(work, _needed_bytes(chosen, scale, options.ct, 1 if options.no_peer else 2))
        disk = filesystem(work)
        if disk in _IN_MEMORY:
            say(f"warning: {work} is in memory ({disk}), where durable writes cost nothing; name a disk with --work")
        say(f"corpus: {corpus.root}")
        say(f"{len(corpus.ct)} CT instances, {len(corpus.us_frame_sha256)} JPEG frames; measuring the machine's limits")
        limits = measure_limits(work, seconds=min(1.5, scale.seconds))
        servers = _start(options, work, stack)
        scratch = scratch_folder(options.ct * _CT_BYTES)
        bench = Bench(corpus, scale, servers, scratch, sender, client)
        settings = {
            "started": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(started)),
            "ct_instances": options.ct,
            "us_frames": options.frames,
            "sender": sender,
            "client": client,
            "filesystem": disk,
        }
        results: list[Result] = []
        for workload in chosen:
            results += workloads.run(bench, workload)
            if options.json:
                report.write_json(options.json, report.document(results, servers, limits, scale, settings))
        _print(results, servers, limits, {**settings, "minutes": f"{(time.time() - started) / 60:.0f}"}, scale)
    return results


def _print(
    results: Sequence[Result],
    servers: Sequence[Server],
    limits: dict[str, Limit],
    settings: dict[str, object],
    scale: Scale,
) -> None:
    print(report.table(results, servers))
    print()
    print("Servers: " + ", ".join(f"{one.name} {one.version}" for one in servers))
    print("Machine: " + ", ".join(f"{name} {value}" for name, value in report.machine().items()))
    print("Limits: " + report.limits_text(limits))
    told = {"repetitions": scale.reps, "seconds": scale.seconds, "studies": scale.studies, **settings}
    print("Run: " + ", ".join(f"{name} {value}" for name, value in told.items()))
    noisy = sum(one.is_noisy for one in results)
    print(f"Noise: {noisy} of {len(results)} repetitions had somebody else at work; ~ marks a figure of such alone")
    for problem in dict.fromkeys(f"{one.workload}, {one.server}: {one.problem}" for one in results if one.problem):
        print(f"Not measured: {problem}")


def _stop(number: int, frame: FrameType | None) -> None:
    """Make SIGTERM end the run as Ctrl-C does, with everything stopped."""
    del frame
    raise SystemExit(128 + number)


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit code 0 when every workload was measured on the gateway, else 1; 130 after Ctrl-C."""
    options = parser().parse_args(arguments)
    before = signal.signal(signal.SIGTERM, _stop)
    try:
        results = measure(options)
    except KeyboardInterrupt:
        say("stopped")
        return 130
    finally:
        signal.signal(signal.SIGTERM, before)
    return int(any(one.problem for one in results if one.server == "gateway"))


if __name__ == "__main__":
    sys.exit(main())
