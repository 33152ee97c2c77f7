"""How cost grows: storing into archives of more and more studies, and reading series of more and more instances."""

from __future__ import annotations

import statistics
from collections.abc import Iterator

from benchmarks.bench import JSON, Bench, say
from benchmarks.client import AnswerError
from benchmarks.corpus import BLOCK_STUDIES, TinyStudy
from benchmarks.processes import rss_bytes, settle, wait_for_quiet
from benchmarks.senders import stow_all, stow_body
from benchmarks.servers import Server
from benchmarks.trials.frame import Frame, print_table

_FIRST_MEASURED_BLOCK = 4_000  # its studies come behind all that archives are filled with
_POST_STUDIES = 250
_POST_INSTANCES = 50
_CONNECTIONS = 2
_RETRIEVE = 'multipart/related; type="application/dicom"; transfer-syntax=*'


def _fill(server: Server, numbers: range) -> None:
    """Tiny studies by STOW-RS, some thousand at a time."""
    for first in range(numbers.start, numbers.stop, 5_000):
        batch = range(first, min(first + 5_000, numbers.stop))
        say(f"studies {batch.start} to {batch.stop}")
        posts = []
        for at in range(batch.start, batch.stop, _POST_STUDIES):
            files = [TinyStudy(number).part10() for number in range(at, min(at + _POST_STUDIES, batch.stop))]
            posts.append((stow_body(files), len(files)))
        stow_all(server, posts, _CONNECTIONS)


def _ingest(frame: Frame, bench: Bench, server: Server) -> Iterator[dict[str, float]]:
    """Storing at each size of the archive."""
    filled, block = 0, _FIRST_MEASURED_BLOCK
    for studies in frame.options.studies:
        _fill(server, range(filled, studies))
        filled = max(filled, studies)
        settle(server.pid, bench.scale.patience_seconds)
        rates, costs = [], []
        for _ in range(frame.options.reps):
            folder = bench.corpus.tiny_block(block)
            wait_for_quiet(bench.scale.patience_seconds)
            cost = bench.store_block(server, block)
            say(f"{studies} studies, {folder.name}: {BLOCK_STUDIES / cost.wall_seconds:.0f} inst/s")
            rates.append(BLOCK_STUDIES / cost.wall_seconds)
            costs.append(cost.server_cpu_seconds * 1e3 / BLOCK_STUDIES)
            block += 1
        yield {
            "studies": studies,
            "instances_per_second": statistics.median(rates),
            "cpu_ms_per_instance": statistics.median(costs),
            "rss_mb": rss_bytes(server.pid) / 1e6,
        }


def _read(frame: Frame, server: Server, count: int) -> dict[str, float]:
    """Metadata and the whole of a series of so many instances."""
    bench = frame.bench([server], count)
    uids = bench.corpus.ct_uids(count)
    contents = bench.corpus.ct_copy(count)
    posts = [
        (stow_body(contents[at : at + _POST_INSTANCES]), len(contents[at : at + _POST_INSTANCES]))
        for at in range(0, count, _POST_INSTANCES)
    ]
    stow_all(server, posts, _CONNECTIONS)
    settle(server.pid, bench.scale.patience_seconds)
    wait_for_quiet(bench.scale.patience_seconds)
    with server.connect() as connection, bench.meter(server) as meter:
        listed = [connection.get(f"{uids.path}/metadata", JSON) for _ in range(frame.options.reps)]
        taken = [connection.get(uids.path, _RETRIEVE, keep=False) for _ in range(frame.options.reps)]
    if len(listed[-1].rows()) != count or any(one.size_bytes < count * 520_000 for one in taken):
        raise AnswerError("a series is shorter than what was stored")
    retrieve_ms = statistics.median(one.total_seconds for one in taken) * 1e3
    return {
        "instances": count,
        "metadata_ms": statistics.median(one.total_seconds for one in listed) * 1e3,
        "retrieve_ms": retrieve_ms,
        "retrieve_mb_per_s": taken[0].size_bytes / 1e3 / retrieve_ms,
        "first_byte_ms": statistics.median(one.first_byte_seconds for one in taken) * 1e3,
        "peak_rss_mb": meter.cost.peak_rss_bytes / 1e6,
    }


def run(frame: Frame) -> object:
    """The trial, on one archive that grows."""
    server = frame.gateway()
    bench = frame.bench([server])
    stored = list(_ingest(frame, bench, server))
    first = stored[0]["instances_per_second"]
    print_table(
        ("studies stored before", "inst/s", "of the first", "CPU ms each", "RSS MB"),
        [
            (
                f"{one['studies']:,}",
                f"{one['instances_per_second']:.0f}",
                f"{one['instances_per_second'] / first:.0%}",
                f"{one['cpu_ms_per_instance']:.2f}",
                f"{one['rss_mb']:.0f}",
            )
            for one in stored
        ],
    )
    read = [_read(frame, server, count) for count in frame.options.instances]
    print()
    print_table(
        ("instances of the series", "metadata ms", "µs each", "retrieve ms", "MB/s", "first byte ms", "peak RSS MB"),
        [
            (
                f"{one['instances']:,}",
                f"{one['metadata_ms']:.1f}",
                f"{one['metadata_ms'] * 1e3 / one['instances']:.0f}",
                f"{one['retrieve_ms']:.0f}",
                f"{one['retrieve_mb_per_s']:.0f}",
                f"{one['first_byte_ms']:.1f}",
                f"{one['peak_rss_mb']:.0f}",
            )
            for one in read
        ],
    )
    return {"ingest": stored, "reading": read}
