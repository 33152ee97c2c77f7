"""Figures to a table, in Markdown that reads well in a terminal, and to JSON that holds every repetition."""

from __future__ import annotations

import dataclasses
import json
import os
import platform
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.bench import Measurement, Result, Scale
from benchmarks.limits import Limit
from benchmarks.servers import Server
from benchmarks.workloads import WORKLOADS, Workload

JSON_FORMAT = 1
RSS_GOAL = 0.8
_LEAST_CPU_SECONDS = 0.05
_DETAILS = {"p50_ms": "p50", "p99_ms": "p99", "first_byte_ms": "first byte"}


@dataclass(frozen=True, slots=True)
class Figure:
    """Medians of one server's repetitions, and processor time of all of them.

    ``is_noisy``: none of them had the machine for itself.
    """

    value: float
    cpu_ms_per_unit: float | None
    detail: Mapping[str, float]
    reps: int
    noisy_reps: int

    @property
    def is_noisy(self) -> bool:
        """Whether there was nothing better than noisy repetitions."""
        return self.noisy_reps == self.reps


def figure(results: Sequence[Result]) -> Figure | None:
    """The medians; of quiet repetitions when there is one. None when nothing was measured."""
    measured = [(one, one.measurement) for one in results if one.measurement is not None]
    if not measured:
        return None
    quiet = [measurement for one, measurement in measured if not one.is_noisy]
    chosen = quiet or [measurement for _, measurement in measured]
    names = chosen[0].detail
    return Figure(
        statistics.median(one.value for one in chosen),
        _cpu_ms_per_unit(chosen),
        {name: statistics.median(one.detail[name] for one in chosen) for name in names},
        len(measured),
        len(measured) - len(quiet),
    )


def _cpu_ms_per_unit(measurements: Sequence[Measurement]) -> float | None:
    """Of all repetitions together, because the kernel counts in steps of 10 ms; None where that is too coarse."""
    cpu_seconds = sum(one.cost.server_cpu_seconds for one in measurements)
    units = sum(one.units for one in measurements)
    return cpu_seconds * 1e3 / units if cpu_seconds >= _LEAST_CPU_SECONDS else None


def factor(workload: Workload, mine: Figure, peer: Figure) -> float:
    """How many times better mine is."""
    better, worse = (peer, mine) if workload.unit == "ms" else (mine, peer)
    return better.value / worse.value if worse.value else 0.0


def _number(value: float) -> str:
    if value >= 100:
        return f"{value:,.0f}"
    return f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def _shown(mine: Figure | None) -> str:
    return "–" if mine is None else _number(mine.value) + (" ~" if mine.is_noisy else "")


def _cpu_shown(mine: Figure | None) -> str:
    return "–" if mine is None or mine.cpu_ms_per_unit is None else _number(mine.cpu_ms_per_unit)


def _notes(name: str, mine: Figure | None) -> str:
    if mine is None:
        return ""
    told = [f"{label} {_number(mine.detail[key])} ms" for key, label in _DETAILS.items() if key in mine.detail]
    return f"{name}: {', '.join(told)}" if told else ""


def _goal(value: float, wanted: float, *, is_most: bool = False) -> str:
    if not wanted:
        return ""
    shown = round(value, 2)
    is_met = shown <= wanted if is_most else shown >= wanted
    return f"{'≤' if is_most else '≥'} {wanted:g} {'✓' if is_met else '✗'}"


def _row(workload: Workload, results: Sequence[Result], names: Sequence[str]) -> list[str]:
    figures = [figure([one for one in results if one.server == name]) for name in names]
    row = [workload.title, workload.unit, *map(_shown, figures)]
    cpu = [_cpu_shown(one) for one in figures]
    notes = "; ".join(filter(None, (_notes(name, one) for name, one in zip(names, figures, strict=True))))
    if len(names) == 1:
        return [*row, *cpu, notes]
    mine, peer = figures[:2]
    if mine is None or peer is None:
        return [*row, "–", "", *cpu, "–", "", notes]
    times = factor(workload, mine, peer)
    has_goal = names[1] == "orthanc"
    row += [f"{times:.2f}×", _goal(times, workload.goal * has_goal), *cpu]
    if mine.cpu_ms_per_unit is None or peer.cpu_ms_per_unit is None:
        return [*row, "–", "", notes]
    share = mine.cpu_ms_per_unit / peer.cpu_ms_per_unit
    return [*row, f"{share:.2f}×", _goal(share, workload.cpu_goal * has_goal, is_most=True), notes]


def _memory_row(servers: Sequence[Server], *, is_proportional: bool) -> list[str]:
    megabytes = [(one.peak_pss_bytes if is_proportional else one.peak_rss_bytes) / 1e6 for one in servers]
    row = [f"peak {'PSS' if is_proportional else 'RSS'}, all processes", "MB", *map(_number, megabytes)]
    if len(servers) == 1:
        return [*row, "", ""]
    share = megabytes[0] / megabytes[1] if megabytes[1] else 0.0
    goal = "" if is_proportional or servers[1].name != "orthanc" else _goal(share, RSS_GOAL, is_most=True)
    return [*row, f"{share:.2f}×", goal, "", "", "", "", ""]


def table(results: Sequence[Result], servers: Sequence[Server]) -> str:
    """The table of all workloads that were run, with memory below."""
    names = [server.name for server in servers]
    head = ["workload", "unit", *names]
    head += ["factor", "goal"] if len(names) > 1 else []
    head += [f"CPU ms, {name}" for name in names]
    head += ["CPU share", "CPU goal"] if len(names) > 1 else []
    rows = [
        _row(workload, [one for one in results if one.workload == workload.name], names)
        for workload in WORKLOADS
        if any(one.workload == workload.name for one in results)
    ]
    rows += [_memory_row(servers, is_proportional=kind) for kind in (False, True)]
    return markdown([[*head, "times"], *rows])


def markdown(rows: Sequence[Sequence[str]]) -> str:
    """A table whose columns are as wide as what is in them; all but the first, second and last to the right."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    left = {0, 1, len(widths) - 1}

    def line(cells: Sequence[str]) -> str:
        padded = (
            cell.ljust(width) if column in left else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(cells, widths, strict=True))
        )
        return "| " + " | ".join(padded) + " |"

    rule = "|" + "|".join(
        "-" * (width + 2) if column in left else "-" * (width + 1) + ":" for column, width in enumerate(widths)
    )
    return "\n".join((line(rows[0]), rule + "|", *map(line, rows[1:])))


def machine() -> dict[str, object]:
    """What the figures were measured on."""
    cpu = next(
        (
            line.partition(":")[2].strip()
            for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
            if line.startswith("model name")
        ),
        platform.machine(),
    )
    return {
        "cpu": cpu,
        "processors": len(os.sched_getaffinity(0)),
        "kernel": platform.release(),
        "python": platform.python_version(),
    }


def limits_text(limits: Mapping[str, Limit]) -> str:
    """The machine's limits, one line."""
    return " · ".join(f"{name} {_number(limit.value)} {limit.unit}" for name, limit in limits.items())


def _plain(measurement: Measurement | None) -> dict[str, object] | None:
    if measurement is None:
        return None
    plain = dataclasses.asdict(measurement)
    return {**plain, "cpu_ms_per_unit": measurement.cpu_ms_per_unit}


def document(
    results: Sequence[Result],
    servers: Sequence[Server],
    limits: Mapping[str, Limit],
    scale: Scale,
    settings: Mapping[str, object],
) -> dict[str, object]:
    """All that was measured, for ``--json``."""
    return {
        "format": JSON_FORMAT,
        "machine": machine(),
        "settings": {**dataclasses.asdict(scale), **settings},
        "limits": {name: dataclasses.asdict(limit) for name, limit in limits.items()},
        "servers": [
            {
                "name": one.name,
                "version": one.version,
                "peak_rss_bytes": one.peak_rss_bytes,
                "peak_pss_bytes": one.peak_pss_bytes,
            }
            for one in servers
        ],
        "workloads": [
            {"name": one.name, "title": one.title, "unit": one.unit, "goal": one.goal, "cpu_goal": one.cpu_goal}
            for one in WORKLOADS
            if any(result.workload == one.name for result in results)
        ],
        "results": [{**dataclasses.asdict(one), "measurement": _plain(one.measurement)} for one in results],
    }


def write_json(path: Path, content: Mapping[str, object]) -> None:
    """Write it whole or not at all."""
    unfinished = path.with_name(path.name + ".part")
    unfinished.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    unfinished.replace(path)
