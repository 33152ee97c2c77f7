"""The same work on a gateway over a folder and SQLite, over PostgreSQL, over S3 without and with its cache, and on two
gateways behind one port; interleaved, in one run.

S3 is SeaweedFS, PostgreSQL the system's own, all of them on the same machine and the same disk as gateways and clients:
what this shows is what they cost, not what they bring when each has a machine. Processor time is the gateways' own,
with nginx where it stands in front of two.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

from benchmarks.backends import BUCKET, CREDENTIALS, start_postgresql, start_seaweedfs
from benchmarks.bench import Result
from benchmarks.report import Figure, figure
from benchmarks.servers import Server, start_gateway, start_pair
from benchmarks.trials.frame import Frame, print_table
from benchmarks.workloads import WORKLOADS
from benchmarks.workloads import run as run_workload

_NAMES = ("store-ct-1", "store-ct-4", "stow-4", "metadata-warm", "frame-1", "frame-16", "series", "thumbnail-warm")


def _config(folder: Path, name: str, settings: Mapping[str, Mapping[str, object]]) -> Sequence[str]:
    path = folder / f"{name}.toml"
    lines = [
        line
        for section, values in settings.items()
        for line in (f"[{section}]", *(f"{key} = {json.dumps(value)}" for key, value in values.items()))
    ]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return ["--config", str(path)]


def _servers(frame: Frame) -> list[Server]:
    work = frame.work
    os.environ.update(CREDENTIALS)  # noqa: TID251 - where every S3 client looks for them
    s3 = start_seaweedfs(work / "seaweedfs")
    frame.stack.callback(s3.stop)

    def database(name: str) -> str:
        backend = start_postgresql(work / f"postgresql-{name}")
        frame.stack.callback(backend.stop)
        return backend.url

    def settings(name: str, **more: object) -> Sequence[str]:
        place = {"index": database(name), "objects": f"s3://{BUCKET}/{name}"}
        return _config(work, name, {"archive": place, "s3": {"endpoint_url": s3.url, **more}})

    over_database = _config(work, "database", {"archive": {"index": database("database")}})
    return [
        frame.kept(server)
        for server in (
            start_gateway(work / "folder", name="folder"),
            start_gateway(work / "database", name="PostgreSQL", arguments=over_database),
            start_gateway(work / "plain", name="S3", arguments=settings("plain", cache_maximum_bytes=0)),
            start_gateway(work / "cached", name="S3, cache", arguments=settings("cached")),
            start_pair(work / "pair", name="two, S3, cache", arguments=settings("pair")),
        )
    ]


def _cells(figures: Sequence[Figure | None]) -> tuple[list[str], list[str]]:
    values = ["–" if one is None else f"{one.value:,.4g}" for one in figures]
    costs = ["–" if one is None or one.cpu_ms_per_unit is None else f"{one.cpu_ms_per_unit:.2f}" for one in figures]
    return values, costs


def run(frame: Frame) -> object:
    """The trial: medians of interleaved repetitions."""
    servers = _servers(frame)
    bench = frame.bench(servers)
    names = [server.name for server in servers]
    results: list[Result] = []
    rows = []
    for workload in WORKLOADS:
        if workload.name not in _NAMES:
            continue
        found = run_workload(bench, workload)
        results += found
        values, costs = _cells([figure([one for one in found if one.server == name]) for name in names])
        rows.append((workload.title, workload.unit, *values, *costs))
    print_table(("workload", "unit", *names, *(f"CPU ms, {name}" for name in names)), rows)
    print_table(("peak RSS, MB", *names), [("", *(f"{server.peak_rss_bytes / 1e6:.0f}" for server in servers))])
    frame.has_failed = any(one.problem for one in results)
    return [asdict(one) for one in results]
