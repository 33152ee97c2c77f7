"""The table of workloads: what is done, in which unit it counts, and what the gateway is meant to reach.

Every workload checks its answers: stores by finding all instances again, searches against what was sent, frames by
their SHA-256, pictures by decoding them. A wrong answer is no figure.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import io
import itertools
import statistics
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from urllib.parse import quote

from PIL import Image

from benchmarks.bench import JSON, NOISY_CORES, Bench, Measurement, Result, Target, attempt, say
from benchmarks.client import AnswerError, Connection, Reply, parts
from benchmarks.corpus import BLOCK_STUDIES, COLUMNS, FRAME_BYTES, ROWS, SeriesUIDs, studies_by
from benchmarks.load import load
from benchmarks.processes import Cost, settle
from benchmarks.senders import c_store, stow_all, stow_body
from benchmarks.servers import Server

_STOW_BATCH = 50
_PAGE = 25
_PAGES = 20
_PATIENTS = 40
_PICTURES = 20
_WARM_READS = 20
_WARMING_CONNECTIONS = 12
_SERIES_READS = 3

_RAW = 'multipart/related; type="application/octet-stream"'
# What to ask for, in order; the first that brings the stored bytes counts. Servers differ in what they need to hear.
_NATIVE_ACCEPTS = (f"{_RAW}; transfer-syntax=*", _RAW, "*/*")
_JPEG_ACCEPTS = ('multipart/related; type="image/jpeg"; transfer-syntax=1.2.840.10008.1.2.4.50', *_NATIVE_ACCEPTS)
_INSTANCE = 'multipart/related; type="application/dicom"'
_INSTANCE_ACCEPTS = (f"{_INSTANCE}; transfer-syntax=*", _INSTANCE)
_PICTURE_ACCEPTS = ("image/jpeg",)


class Work:
    """A kind of workload. What of it is not timed happens in ``prepare`` and ``ready``."""

    def prepare(self, bench: Bench, server: Server) -> None:
        """Once for each server: store what is read, and check answers."""

    @contextlib.contextmanager
    def material(self, bench: Bench, rep: int) -> Iterator[object]:
        """Once for each repetition: what all servers are sent."""
        del bench, rep
        yield None

    def ready(self, bench: Bench, server: Server, rep: int) -> None:
        """Before each measurement, and before the wait for a quiet machine."""

    def measure(self, bench: Bench, server: Server, rep: int, material: object) -> Measurement:
        """The timed step."""
        raise NotImplementedError


def _rate(units: int, cost: Cost) -> Measurement:
    """Units a second."""
    return Measurement(units / cost.wall_seconds, units, cost)


# ---- storing -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class StoreCT(Work):
    """C-STORE of the CT series as a new study, split over associations."""

    associations: int

    @contextlib.contextmanager
    def material(self, bench: Bench, rep: int) -> Iterator[object]:
        """Folders of a new copy."""
        del rep
        stamp = bench.new_stamp()
        with bench.spread(bench.corpus.ct_copy(stamp), self.associations) as folders:
            yield stamp, folders

    def measure(self, bench: Bench, server: Server, rep: int, material: object) -> Measurement:
        """From the start of the senders to their end."""
        assert isinstance(material, tuple)
        stamp, folders = material
        with bench.meter(server) as meter:
            c_store(server, folders, bench.sender)
        cost = bench.measured(server, meter)
        uids = bench.corpus.ct_uids(stamp)
        bench.check_series(server, uids)
        server.stored.add(uids.series)
        if self.associations == 1:
            bench.note_fresh(server, rep, stamp)
        settle(server.pid, bench.scale.patience_seconds)
        return _rate(len(uids.instances), cost)


@dataclass(frozen=True)
class StoreTiny(Work):
    """C-STORE of 250 small instances, each a study of its own, over one association."""

    is_filled: bool

    def prepare(self, bench: Bench, server: Server) -> None:
        """An archive of the scale's size, or none."""
        if self.is_filled:
            bench.fill_archive(server)

    def measure(self, bench: Bench, server: Server, rep: int, material: object) -> Measurement:
        """One block."""
        del material
        first = bench.scale.blocks if self.is_filled else 0
        cost = bench.store_block(server, first + rep)
        return _rate(BLOCK_STUDIES, cost)


@dataclass(frozen=True)
class Stow(Work):
    """STOW-RS of the CT series, 50 instances in a request; over four connections 400 instances in eight requests."""

    connections: int

    @contextlib.contextmanager
    def material(self, bench: Bench, rep: int) -> Iterator[object]:
        """Bodies of new copies, and where they go."""
        del rep
        batch = min(_STOW_BATCH, bench.corpus.ct_instances)
        count = bench.corpus.ct_instances if self.connections == 1 else 2 * self.connections * batch
        copies = [bench.new_stamp() for _ in range(-(-count // bench.corpus.ct_instances))]
        files = [content for stamp in copies for content in bench.corpus.ct_copy(stamp)][:count]
        posts = [(stow_body(files[at : at + batch]), len(files[at : at + batch])) for at in range(0, count, batch)]
        yield posts, [bench.corpus.ct_uids(stamp) for stamp in copies], count

    def measure(self, bench: Bench, server: Server, rep: int, material: object) -> Measurement:
        """From the first request to the last answer."""
        del rep
        assert isinstance(material, tuple)
        posts, copies, count = material
        with bench.meter(server) as meter:
            stow_all(server, posts, self.connections)
        cost = bench.measured(server, meter)
        for number, uids in enumerate(copies):
            kept = uids.instances[: count - number * len(uids.instances)]
            bench.check_series(server, SeriesUIDs(uids.study, uids.series, kept))
        settle(server.pid, bench.scale.patience_seconds)
        return _rate(count, cost)


# ---- reading under load --------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Fetch(Work):
    """GETs in a closed loop for the scale's seconds, over so many connections."""

    connections: int
    target: Callable[[Bench, Server], Target]

    def prepare(self, bench: Bench, server: Server) -> None:
        """What is read is stored, and its answers are right."""
        key = (self.target.__name__, server.name)
        if key not in bench.targets:
            bench.targets[key] = self.target(bench, server)
            settle(server.pid, bench.scale.patience_seconds)

    def measure(self, bench: Bench, server: Server, rep: int, material: object) -> Measurement:
        """Requests a second."""
        del rep, material
        target = bench.targets[self.target.__name__, server.name]
        with bench.meter(server) as meter:
            got = load(
                server.dicomweb, target.paths, target.accept, self.connections, bench.scale.seconds, bench.client
            )
        detail = {"p50_ms": got.p50_ms, "p99_ms": got.p99_ms, "mb_per_s": got.bytes / 1e6 / got.seconds}
        return Measurement(got.requests / got.seconds, got.requests, bench.measured(server, meter), detail)


def _uids_of(reply: Reply, tag: str) -> list[str]:
    if reply.status not in (200, 204):
        raise AnswerError(f"a search answered {reply.status}")
    return [str(row[tag]["Value"][0]) for row in reply.rows()]


def study_pages(bench: Bench, server: Server) -> Target:
    """Pages of 25 studies from all over the archive."""
    bench.fill_archive(server)
    step = max(_PAGE, len(bench.tiny_numbers(server)) // _PAGES)
    offsets = range(0, len(bench.tiny_numbers(server)) - _PAGE + 1, step)
    paths = [f"/studies?limit={_PAGE}&offset={offset}" for offset in offsets]
    with server.connect() as connection:
        pages = [_uids_of(connection.get(path, JSON), "0020000D") for path in paths]
    distinct = set(itertools.chain.from_iterable(pages))
    if any(len(page) != _PAGE for page in pages) or len(distinct) != _PAGE * len(pages):
        raise AnswerError("pages of studies overlap, or are not full")
    return Target(paths, JSON)


def _searches(bench: Bench, server: Server, attribute: str, pattern: Callable[[str], str]) -> Target:
    """Searches for some of the values of an attribute, each of which finds what was stored."""
    bench.fill_archive(server)
    counts = studies_by(attribute, bench.tiny_numbers(server))
    keyword = {"patient_id": "PatientID", "patient_name": "PatientName"}[attribute]
    patterns = list(dict.fromkeys(map(pattern, counts)))
    paths = []
    with server.connect() as connection:
        for wanted in patterns[:: max(1, len(patterns) // _PATIENTS)]:
            paths.append(f"/studies?{keyword}={quote(wanted, safe='*^')}")
            # As browsers send it: Orthanc 1.10 takes %5E for three characters.
            found = len(_uids_of(connection.get(paths[-1], JSON), "0020000D"))
            stored = sum(count for value, count in counts.items() if fnmatchcase(value, wanted))
            if found != stored:
                raise AnswerError(f"a search found {found} studies, and {stored} were stored")
    return Target(paths, JSON)


def patient_ids(bench: Bench, server: Server) -> Target:
    """Studies of a patient, by Patient ID."""
    return _searches(bench, server, "patient_id", str)


def patient_names(bench: Bench, server: Server) -> Target:
    """Studies of patients of a family name and the first letter of the given one."""
    return _searches(bench, server, "patient_name", lambda name: name[: name.index("^") + 2] + "*")


def series_instances(bench: Bench, server: Server) -> Target:
    """All instances of the CT series."""
    uids = bench.base_ct(server)
    bench.check_series(server, uids)
    return Target([f"{uids.path}/instances?limit=1000"], JSON)


def _accepted(connection: Connection, path: str, accepts: Sequence[str], is_right: Callable[[Reply], bool]) -> str:
    """The first of ``accepts`` that brings the right answer."""
    statuses = []
    for accept in accepts:
        reply = connection.get(path, accept)
        if reply.status == 200 and is_right(reply):
            return accept
        statuses.append(reply.status)
    raise AnswerError(f"no Accept brings the right answer; statuses {statuses}")


def _holds(reply: Reply, sha256: str) -> bool:
    """Whether the first part is the frame, which a zero byte may have made even."""
    content = parts(reply)[0]
    return sha256 in (hashlib.sha256(content).hexdigest(), hashlib.sha256(content[:-1]).hexdigest())


def _frames(server: Server, paths: Sequence[str], digests: Sequence[str], accepts: Sequence[str]) -> Target:
    with server.connect() as connection:
        accept = _accepted(connection, paths[0], accepts, lambda reply: _holds(reply, digests[0]))
        for path, digest in zip(paths, digests, strict=True):
            if not _holds(connection.get(path, accept), digest):
                raise AnswerError("a frame is not the one that was stored")
    return Target(paths, accept)


def ct_frames(bench: Bench, server: Server) -> Target:
    """Frames of 512 KiB as they were stored, one of each CT instance."""
    uids = bench.base_ct(server)
    paths = [f"{uids.instance(index)}/frames/1" for index in range(len(uids.instances))]
    return _frames(server, paths, bench.corpus.ct_frame_sha256, _NATIVE_ACCEPTS)


def us_frames(bench: Bench, server: Server) -> Target:
    """JPEG frames of the multi-frame object as they were stored."""
    uids = bench.us(server)
    paths = [f"{uids.instance(0)}/frames/{number}" for number in range(1, bench.corpus.us_frame_count + 1)]
    return _frames(server, paths, bench.corpus.us_frame_sha256, _JPEG_ACCEPTS)


def _is_picture(reply: Reply, kind: str) -> bool:
    """Whether it is a JPEG, of the size of the image unless it is a thumbnail."""
    try:
        size = Image.open(io.BytesIO(reply.body), formats=["JPEG"]).size
    except OSError:
        return False
    return kind == "thumbnail" or size == (COLUMNS, ROWS)


# What a server without thumbnails has instead: pictures of the same size.
_FORMS = {"rendered": ("rendered",), "thumbnail": ("thumbnail", "rendered?viewport=128,128")}


def _form(bench: Bench, server: Server, kind: str) -> str:
    """How a server is asked for such pictures: the first form that it has."""
    instance = bench.base_ct(server).instance(0)
    with server.connect() as connection:
        for form in _FORMS[kind]:
            if any(_is_picture(connection.get(f"{instance}/{form}", accept), kind) for accept in _PICTURE_ACCEPTS):
                return form
    raise AnswerError("there are no such pictures")


def _pictures(bench: Bench, server: Server, kind: str) -> Target:
    uids, form = bench.base_ct(server), _form(bench, server, kind)
    paths = [f"{uids.instance(index)}/{form}" for index in range(min(_PICTURES, len(uids.instances)))]
    with server.connect() as connection:
        accept = _accepted(connection, paths[0], _PICTURE_ACCEPTS, lambda reply: _is_picture(reply, kind))
        for path in paths:
            if not _is_picture(connection.get(path, accept), kind):
                raise AnswerError("a picture is no JPEG of the right size")
    return Target(paths, accept)


def rendered(bench: Bench, server: Server) -> Target:
    """The same 20 instances rendered, again and again."""
    return _pictures(bench, server, "rendered")


def thumbnails(bench: Bench, server: Server) -> Target:
    """The same 20 thumbnails, again and again."""
    return _pictures(bench, server, "thumbnail")


# ---- reading once --------------------------------------------------------------------------------------------------


def _checked_metadata(reply: Reply, uids: SeriesUIDs) -> Reply:
    if set(_uids_of(reply, "00080018")) != set(uids.instances):
        raise AnswerError("metadata is not that of the series")
    return reply


@dataclass(frozen=True)
class Metadata(Work):
    """Metadata of the CT series, one request after the other: of a series not read before, or of one that was."""

    is_cold: bool

    def prepare(self, bench: Bench, server: Server) -> None:
        """The answer is right."""
        uids = bench.base_ct(server)
        with server.connect() as connection:
            _checked_metadata(connection.get(f"{uids.path}/metadata", JSON), uids)

    def ready(self, bench: Bench, server: Server, rep: int) -> None:
        """Store what has not been read."""
        if self.is_cold:
            bench.fresh_ct(server, rep)

    def measure(self, bench: Bench, server: Server, rep: int, material: object) -> Measurement:
        """Milliseconds until the last byte; when warm the median of a few."""
        del material
        uids = bench.fresh_ct(server, rep) if self.is_cold else bench.base_ct(server)
        path = f"{uids.path}/metadata"
        with server.connect() as connection:
            with bench.meter(server) as meter:
                replies = [connection.get(path, JSON) for _ in range(1 if self.is_cold else _WARM_READS)]
            _checked_metadata(replies[-1], uids)
        value_ms = statistics.median(reply.total_seconds for reply in replies) * 1e3
        return Measurement(value_ms, len(replies), bench.measured(server, meter), {"bytes": replies[-1].size_bytes})


@dataclass(frozen=True)
class SeriesRetrieve(Work):
    """The whole CT series in one answer, a few times."""

    def prepare(self, bench: Bench, server: Server) -> None:
        """Every instance is in it, with its own frame."""
        uids = bench.base_ct(server)
        wanted = sorted(bench.corpus.ct_frame_sha256)

        def is_right(reply: Reply) -> bool:
            found = parts(reply)
            frames = sorted(hashlib.sha256(content[-FRAME_BYTES:]).hexdigest() for content in found)
            return frames == wanted and all(content[128:132] == b"DICM" for content in found)

        with server.connect() as connection:
            accept = _accepted(connection, uids.path, _INSTANCE_ACCEPTS, is_right)
        bench.targets["series", server.name] = Target([uids.path], accept)

    def measure(self, bench: Bench, server: Server, rep: int, material: object) -> Measurement:
        """Megabytes a second, the median of a few."""
        del rep, material
        target = bench.targets["series", server.name]
        with server.connect() as connection, bench.meter(server) as meter:
            replies = [connection.get(target.paths[0], target.accept, keep=False) for _ in range(_SERIES_READS)]
        if any(reply.size_bytes < sum(map(len, bench.corpus.ct)) * 0.98 for reply in replies):
            raise AnswerError("a series is shorter than what was stored")
        value = statistics.median(reply.size_bytes / 1e6 / reply.total_seconds for reply in replies)
        first_ms = statistics.median(reply.first_byte_seconds for reply in replies) * 1e3
        units = _SERIES_READS * bench.corpus.ct_instances
        return Measurement(value, units, bench.measured(server, meter), {"first_byte_ms": first_ms})


@dataclass(frozen=True)
class ColdPictures(Work):
    """Pictures of 20 instances of which there was none before, over one connection."""

    kind: str

    def prepare(self, bench: Bench, server: Server) -> None:
        """The server can, and each of its processes has started whatever it starts for this."""
        target = _pictures(bench, server, self.kind)
        for number in range(_WARMING_CONNECTIONS):
            with server.connect() as connection:
                connection.get(target.paths[number % len(target.paths)], target.accept)

    def ready(self, bench: Bench, server: Server, rep: int) -> None:
        """Store what has not been read."""
        bench.fresh_ct(server, rep)

    def measure(self, bench: Bench, server: Server, rep: int, material: object) -> Measurement:
        """Pictures a second. Thumbnails are of other instances than renditions, so that neither warms the other."""
        del material
        uids, form = bench.fresh_ct(server, rep), _form(bench, server, self.kind)
        count = min(_PICTURES, len(uids.instances) // 2)
        indexes = range(count) if self.kind == "rendered" else range(count, 2 * count)
        with server.connect() as connection:
            connection.get("/studies?limit=1", JSON)
            with bench.meter(server) as meter:
                replies = [connection.get(f"{uids.instance(index)}/{form}", "image/jpeg") for index in indexes]
        if not all(reply.status == 200 and _is_picture(reply, self.kind) for reply in replies):
            raise AnswerError("a picture is no JPEG of the right size")
        seconds = [reply.total_seconds for reply in replies]
        detail = {"p50_ms": statistics.median(seconds) * 1e3}
        return Measurement(count / sum(seconds), count, bench.measured(server, meter), detail)


# ---- the table -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Workload:
    """A line of the table.

    unit: of the figure; of "ms" less is better, of all others more. goal: how many times better than Orthanc the
    gateway is meant to be; cpu_goal: which share of Orthanc's processor time it may take. 0: no goal.
    copies: CT series that a repetition stores, to know how much disk a run takes.
    """

    name: str
    title: str
    unit: str
    work: Work
    goal: float = 0.0
    cpu_goal: float = 0.0
    copies: int = 0


WORKLOADS: tuple[Workload, ...] = (
    Workload("store-ct-1", "C-STORE CT 530 KB, 1 association", "inst/s", StoreCT(1), 1.6, 0.6, copies=1),
    Workload("store-ct-4", "C-STORE CT 530 KB, 4 associations", "inst/s", StoreCT(4), 1.5, copies=1),
    Workload("stow-1", "STOW-RS 50 × 530 KB, 1 connection", "inst/s", Stow(1), 1.6, copies=1),
    Workload("stow-4", "STOW-RS 50 × 530 KB, 4 connections", "inst/s", Stow(4), 1.6, copies=2),
    Workload("store-tiny-empty", "C-STORE 2 KB, new study each, small archive", "inst/s", StoreTiny(is_filled=False)),
    Workload("store-tiny", "C-STORE 2 KB, new study each, full archive", "inst/s", StoreTiny(is_filled=True), 10.0),
    Workload("qido-studies-1", "QIDO studies limit=25, 1 connection", "req/s", Fetch(1, study_pages), 20.0),
    Workload("qido-studies-16", "QIDO studies limit=25, 16 connections", "req/s", Fetch(16, study_pages), 20.0),
    Workload("qido-patient-id", "QIDO studies by PatientID", "req/s", Fetch(1, patient_ids)),
    Workload("qido-patient-name", "QIDO studies by PatientName wildcard", "req/s", Fetch(1, patient_names)),
    Workload("qido-instances", "QIDO instances of a series", "req/s", Fetch(1, series_instances), 20.0),
    Workload("metadata-cold", "series metadata, first time", "ms", Metadata(is_cold=True), 10.0, copies=1),
    Workload("metadata-warm", "series metadata, again", "ms", Metadata(is_cold=False), 10.0),
    Workload("frame-1", "CT frame 512 KiB, 1 connection", "req/s", Fetch(1, ct_frames), 2.5, 0.5),
    Workload("frame-16", "CT frame 512 KiB, 16 connections", "req/s", Fetch(16, ct_frames), 2.5, 0.5),
    Workload("frame-jpeg", "JPEG frame of a multi-frame object", "req/s", Fetch(1, us_frames), 2.0),
    Workload("series", "series retrieve", "MB/s", SeriesRetrieve(), 1.0),
    Workload("rendered-cold", "rendered 512 × 512 JPEG, first time", "req/s", ColdPictures("rendered"), 1.5, copies=1),
    Workload("rendered-warm", "rendered 512 × 512 JPEG, again", "req/s", Fetch(1, rendered), 5.0),
    Workload("thumbnail-cold", "thumbnail, first time", "req/s", ColdPictures("thumbnail"), copies=1),
    Workload("thumbnail-warm", "thumbnail, again", "req/s", Fetch(1, thumbnails)),
)


def run(bench: Bench, workload: Workload) -> list[Result]:
    """All repetitions on all servers. A server whose preparation fails is left out of this workload."""
    results: list[Result] = []
    able = []
    for server in bench.servers:
        say(f"{workload.name}: {server.name} prepares")
        _, problem = attempt(functools.partial(workload.work.prepare, bench, server))
        if problem:
            results.append(Result(workload.name, server.name, 0, problem=problem))
            say(f"  {server.name}: {problem}")
        else:
            able.append(server)
    for rep in range(bench.scale.reps if able else 0):
        with workload.work.material(bench, rep) as material:
            results += [
                _step(bench, workload, server, rep, material) for server in bench.in_turn(rep) if server in able
            ]
    return results


def _step(bench: Bench, workload: Workload, server: Server, rep: int, material: object) -> Result:
    def step() -> Measurement:
        workload.work.ready(bench, server, rep)
        bench.wait_for_quiet()
        return workload.work.measure(bench, server, rep, material)

    measurement, problem = attempt(step)
    if measurement is None:
        say(f"  {server.name} {rep + 1}: {problem}")
        return Result(workload.name, server.name, rep, problem=problem)
    is_noisy = measurement.cost.other_cores > NOISY_CORES
    say(
        f"  {server.name} {rep + 1}: {measurement.value:.1f} {workload.unit}, {measurement.cpu_ms_per_unit:.2f} ms CPU"
        + (" (noisy)" if is_noisy else "")
    )
    return Result(workload.name, server.name, rep, measurement, is_noisy=is_noisy)
