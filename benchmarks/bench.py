"""The order of things: what is stored where, which step is next, and what came out of each.

Repetitions of all servers are interleaved, in turning order; before each timed step the servers have come to rest and
the machine is quiet, or the repetition is marked as noisy.
"""

from __future__ import annotations

import contextlib
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from benchmarks.client import AnswerError
from benchmarks.corpus import BLOCK_STUDIES, Corpus, SeriesUIDs, TinyStudy
from benchmarks.processes import Cost, Meter, settle, wait_for_quiet
from benchmarks.senders import c_store
from benchmarks.servers import Server

T = TypeVar("T")
JSON = "application/dicom+json"
NOISY_CORES = 0.25
_BASE_STAMP = 1
_FIRST_STAMP = 100
_CHECKED_OF_BLOCK = 5


@dataclass(frozen=True, slots=True)
class Scale:
    """How much of everything. seconds: of one step under load; patience_seconds: for quiet and rest."""

    reps: int
    seconds: float
    studies: int
    patience_seconds: float = 30.0

    @property
    def blocks(self) -> int:
        """Blocks of tiny studies that make the archive."""
        return max(1, -(-self.studies // BLOCK_STUDIES))


@dataclass(frozen=True, slots=True)
class Target:
    """What is asked for under load: paths below the root, and how."""

    paths: Sequence[str]
    accept: str


@dataclass(frozen=True, slots=True)
class Measurement:
    """A step: its figure, how many units of work it did, what they cost, and what else is worth knowing."""

    value: float
    units: int
    cost: Cost
    detail: dict[str, float] = field(default_factory=dict)

    @property
    def cpu_ms_per_unit(self) -> float:
        """Processor time of the server."""
        return self.cost.server_cpu_seconds * 1e3 / self.units


@dataclass(frozen=True, slots=True)
class Result:
    """One repetition of one workload on one server. ``problem``: why there is no measurement."""

    workload: str
    server: str
    rep: int
    measurement: Measurement | None = None
    problem: str = ""
    is_noisy: bool = False


class Bench:
    """Servers with what they hold, and the corpus. Workloads are given it."""

    def __init__(
        self, corpus: Corpus, scale: Scale, servers: Sequence[Server], scratch: Path, sender: str, client: str
    ) -> None:
        self.corpus = corpus
        self.scale = scale
        self.servers = servers
        self.sender = sender
        self.client = client
        self.targets: dict[tuple[str, str], Target] = {}
        self._scratch = scratch
        self._stamp = _FIRST_STAMP
        self._fresh: dict[tuple[str, int], int] = {}

    # ---- what is stored ----

    def new_stamp(self) -> int:
        """Of a copy of the CT series that no server has."""
        self._stamp += 1
        return self._stamp

    @contextlib.contextmanager
    def spread(self, files: Sequence[bytes], ways: int) -> Iterator[list[Path]]:
        """Files in so many folders, in memory where that is possible, so that only servers write to the disk."""
        with tempfile.TemporaryDirectory(prefix="benchmark-send-", dir=self._scratch) as root:
            folders = [Path(root, str(way)) for way in range(ways)]
            share = -(-len(files) // ways)
            for way, folder in enumerate(folders):
                folder.mkdir()
                for number, content in enumerate(files[way * share : (way + 1) * share]):
                    (folder / f"{number:05d}.dcm").write_bytes(content)
            yield folders

    def meter(self, server: Server) -> Meter:
        """See Meter; ``measured`` takes what it found."""
        return Meter(server.pid)

    def measured(self, server: Server, meter: Meter) -> Cost:
        """The cost, noted in the server's peaks."""
        server.peak_rss_bytes = max(server.peak_rss_bytes, meter.cost.peak_rss_bytes)
        server.peak_pss_bytes = max(server.peak_pss_bytes, meter.cost.peak_pss_bytes)
        return meter.cost

    def check_series(self, server: Server, uids: SeriesUIDs) -> None:
        """Raises AnswerError unless the server can find every instance of the series."""
        found = instances_of(server, uids)
        if found != set(uids.instances):
            raise AnswerError(f"{len(found)} of {len(uids.instances)} instances can be found")

    def store_ct(self, server: Server, stamp: int) -> SeriesUIDs:
        """A copy of the CT series, untimed, unless the server has it."""
        uids = self.corpus.ct_uids(stamp)
        if uids.series not in server.stored:
            with self.spread(self.corpus.ct_copy(stamp), 1) as folders:
                self.store_untimed(server, folders)
            self.check_series(server, uids)
            server.stored.add(uids.series)
        return uids

    def store_untimed(self, server: Server, folders: Sequence[Path], sender: str = "") -> None:
        """Store and let the server come to rest. Its memory counts."""
        with self.meter(server) as meter:
            c_store(server, folders, sender or self.sender)
        self.measured(server, meter)
        settle(server.pid, self.scale.patience_seconds)

    def base_ct(self, server: Server) -> SeriesUIDs:
        """The CT series from which reads are served."""
        return self.store_ct(server, _BASE_STAMP)

    def us(self, server: Server) -> SeriesUIDs:
        """The multi-frame object."""
        uids = self.corpus.us_uids
        if uids.series not in server.stored:
            self.store_untimed(server, [self.corpus.us_folder], "python")
            self.check_series(server, uids)
            server.stored.add(uids.series)
        return uids

    def note_fresh(self, server: Server, rep: int, stamp: int) -> None:
        """Say that this copy was stored for a repetition, and not read since."""
        self._fresh.setdefault((server.name, rep), stamp)

    def fresh_ct(self, server: Server, rep: int) -> SeriesUIDs:
        """The CT series of which nothing was read before this repetition; for first times of every kind."""
        stamp = self._fresh.setdefault((server.name, rep), _BASE_STAMP + 1 + rep)
        return self.store_ct(server, stamp)

    def store_block(self, server: Server, block: int) -> Cost:
        """A block of tiny studies, and what it cost."""
        folder = self.corpus.tiny_block(block)
        with self.meter(server) as meter:
            c_store(server, [folder], self.sender)
        server.stored.add(f"tiny-{block}")
        self._check_block(server, block)
        return self.measured(server, meter)

    def _check_block(self, server: Server, block: int) -> None:
        numbers = range(block * BLOCK_STUDIES, (block + 1) * BLOCK_STUDIES, BLOCK_STUDIES // _CHECKED_OF_BLOCK)
        with server.connect() as connection:
            for number in (*numbers, (block + 1) * BLOCK_STUDIES - 1):
                path = f"/studies?StudyInstanceUID={TinyStudy(number).study_instance_uid}"
                if len(connection.get(path, JSON).rows()) != 1:
                    raise AnswerError("a study that was acknowledged cannot be found")

    def fill_archive(self, server: Server) -> None:
        """Tiny studies up to the size of the scale, untimed, as far as they are missing."""
        missing = [block for block in range(self.scale.blocks) if f"tiny-{block}" not in server.stored]
        for block in missing:
            say(f"{server.name}: studies {block * BLOCK_STUDIES} to {(block + 1) * BLOCK_STUDIES}")
            self.store_block(server, block)
        if missing:
            settle(server.pid, self.scale.patience_seconds)

    def tiny_numbers(self, server: Server) -> list[int]:
        """Of the tiny studies that the server has."""
        blocks = [int(name.removeprefix("tiny-")) for name in server.stored if name.startswith("tiny-")]
        return [number for block in blocks for number in range(block * BLOCK_STUDIES, (block + 1) * BLOCK_STUDIES)]

    # ---- steps ----

    def in_turn(self, rep: int) -> Sequence[Server]:
        """The servers, another one first in every repetition."""
        return self.servers if rep % 2 == 0 else self.servers[::-1]

    def wait_for_quiet(self) -> bool:
        """Wait for everybody else on the machine."""
        return wait_for_quiet(self.scale.patience_seconds)


def instances_of(server: Server, uids: SeriesUIDs) -> set[str]:
    """SOP Instance UIDs of a series, by QIDO-RS."""
    with server.connect() as connection:
        rows = connection.get(f"{uids.path}/instances?limit=1000", JSON).rows()
    return {str(row["00080018"]["Value"][0]) for row in rows}


PROBLEMS = (AnswerError, OSError, ValueError, KeyError, IndexError, TypeError, subprocess.SubprocessError)


def attempt(what: Callable[[], T]) -> tuple[T | None, str]:
    """What came out, or why nothing did: one server's failure is a gap of the table and does not end the run."""
    try:
        return what(), ""
    except PROBLEMS as error:
        return None, f"{type(error).__name__}: {error}"


def say(text: str) -> None:
    """Progress, on standard error."""
    print(text, file=sys.stderr, flush=True)


def scratch_folder(needed_bytes: int) -> Path:
    """Memory, if there is twice as much as needed, else the place for temporary files."""
    memory = Path("/dev/shm")
    if memory.is_dir() and shutil.disk_usage(memory).free > 2 * needed_bytes:
        return memory
    return Path(tempfile.gettempdir())
