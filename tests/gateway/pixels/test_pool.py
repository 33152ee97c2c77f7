from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import orjson
import psutil
import pytest

from gateway import metrics
from gateway.pixels.options import PNG, Region, RenderOptions, Viewport
from gateway.pixels.pool import RenderPool
from gateway.pixels.protocol import LongFrame
from gateway.pixels.render import render
from storage.errors import BadRequest, CorruptObject, DecoderFailed, NotFound, Overloaded, TooLarge, Undecodable
from tests.gateway.pixels.synthetic import JPEG_2000, NATIVE, element, jpeg2000, metadata_of, noise

IMAGE = noise((40, 50), "u2")
METADATA = metadata_of(IMAGE)
FRAME = IMAGE.tobytes()
OPTIONS = RenderOptions(PNG)


def workers() -> list[psutil.Process]:
    return [child for child in psutil.Process().children() if "gateway.pixels.worker" in child.cmdline()]


def ask(pool, metadata=METADATA, uid=NATIVE, number=1, frame=FRAME, options=OPTIONS):
    return pool.render(orjson.dumps(metadata), uid, number, frame, options)


@pytest.fixture
def pool():
    with RenderPool(1, seconds=10) as made:
        yield made
    assert workers() == []


def test_a_picture_is_the_one_that_rendering_here_makes(pool):
    assert ask(pool) == render(METADATA, NATIVE, 1, FRAME, OPTIONS)
    assert pool.restarts == 0


def test_no_process_starts_before_it_is_needed_and_one_serves_many_requests(pool):
    assert workers() == []
    ask(pool)
    first = workers()
    for _ in range(5):
        ask(pool)
    assert workers() == first
    assert len(first) == 1


@pytest.mark.parametrize(
    ("change", "error", "reason"),
    [
        ({"frame": FRAME[:-1]}, Undecodable, "The frame is truncated"),
        ({"uid": "1.2.3"}, Undecodable, "No decoder for this transfer syntax is installed"),
        ({"number": 2}, NotFound, "The instance has no such frame"),
        ({"metadata": {}}, NotFound, "The instance has no pixels"),
        (
            {"metadata": METADATA | {"00280010": element("US", 60_000), "00280011": element("US", 60_000)}},
            TooLarge,
            "The frame has too many pixels",
        ),
        (
            {"options": RenderOptions(PNG, viewport=Viewport(9, 9, Region(50, 0)))},
            BadRequest,
            "The region of the parameter viewport lies outside the image",
        ),
    ],
)
def test_errors_of_rendering_come_back_as_themselves_and_the_worker_stays(pool, change, error, reason):
    ask(pool)
    with pytest.raises(error) as caught:
        ask(pool, **change)
    assert type(caught.value) is error
    assert caught.value.reason == reason
    ask(pool)
    assert pool.restarts == 0


def test_a_worker_that_crashes_fails_one_request_and_is_replaced(pool):
    ask(pool)
    for number in range(1, 4):
        victim = workers()[0]
        # Stopped, it cannot answer before it is killed.
        victim.suspend()
        killer = threading.Timer(0.3, os.kill, (victim.pid, signal.SIGSEGV))
        killer.start()
        threading.Timer(0.4, victim.resume).start()
        with pytest.raises(Undecodable) as caught:
            ask(pool)
        killer.join()
        assert caught.value.reason == "The decoder failed on this frame"
        assert len(ask(pool)) > 0
        assert pool.restarts == number


def test_a_worker_that_died_while_idle_costs_no_request(pool):
    ask(pool)
    victim = workers()[0]
    victim.kill()
    while victim.status() != psutil.STATUS_ZOMBIE:  # ours to reap, as the pool has not looked yet
        time.sleep(0.01)
    assert len(ask(pool)) > 0
    assert pool.restarts == 1


def test_a_worker_that_hangs_is_killed_at_the_deadline():
    with RenderPool(1, seconds=1) as pool:
        ask(pool)
        workers()[0].suspend()
        started = time.monotonic()
        with pytest.raises(Undecodable) as caught:
            ask(pool)
        assert time.monotonic() - started < 3
        assert caught.value.reason == "The frame takes too long to decode"
        assert len(ask(pool)) > 0
        assert pool.restarts == 1


def test_a_frame_that_needs_too_much_memory_is_too_large_and_the_worker_goes_on():
    blank = np.zeros((4000, 4000), "u1")
    metadata = metadata_of(np.broadcast_to(np.zeros((), "f8"), (4000, 4000)))
    with RenderPool(1, seconds=10, memory_bytes=64 << 20) as pool:
        ask(pool)
        with pytest.raises(TooLarge):
            ask(pool, metadata, NATIVE, 1, bytes(128_000_000))
        big = metadata_of(blank, "YBR_FULL") | {"00280002": element("US", 3)}
        with pytest.raises((TooLarge, Undecodable)):
            ask(pool, big, JPEG_2000, 1, jpeg2000(np.zeros((4000, 4000, 3), "u1")))
        assert len(ask(pool)) > 0
        assert all(worker.memory_info().rss < 128 << 20 for worker in workers())


def test_a_few_bytes_that_claim_a_large_image_are_refused_before_they_are_decoded(pool):
    small = bytearray(jpeg2000(np.zeros((64, 64), "u1")))
    small[8:16] = small[24:32] = (20_000).to_bytes(4, "big") * 2
    ask(pool)
    with pytest.raises(Undecodable) as caught:
        ask(pool, metadata_of(np.zeros((64, 64), "u1")), JPEG_2000, 1, bytes(small))
    assert caught.value.reason == "The size of the codestream is not that of the description"
    with pytest.raises(TooLarge):
        ask(pool, metadata_of(np.broadcast_to(np.zeros((), "u1"), (20_000, 20_000))), JPEG_2000, 1, bytes(small))
    assert workers()[0].memory_info().rss < 128 << 20


def test_a_full_queue_is_overloaded_and_those_in_it_are_served():
    with RenderPool(1, seconds=10, queue=2) as pool, ThreadPoolExecutor(8) as threads:
        ask(pool)
        worker = workers()[0]
        worker.suspend()
        asked = [threads.submit(ask, pool) for _ in range(8)]
        refused = 0
        while sum(one.done() for one in asked) < 5:
            time.sleep(0.02)
        worker.resume()
        for one in asked:
            error = one.exception()
            refused += isinstance(error, Overloaded)
            assert error is None or isinstance(error, Overloaded)
        assert refused == 5


def test_who_has_waited_gets_less_time_but_enough_for_a_frame():
    with RenderPool(1, seconds=3) as pool:
        ask(pool)
        workers()[0].suspend()
        started = time.monotonic()
        with pytest.raises(Undecodable):
            pool.render(orjson.dumps(METADATA), NATIVE, 1, FRAME, OPTIONS, waited_seconds=60.0)
        assert 1.9 < time.monotonic() - started < 2.9


def test_who_finds_no_worker_within_a_third_of_the_time_is_told_so():
    with RenderPool(1, seconds=3) as pool, ThreadPoolExecutor(1) as threads:
        ask(pool)
        workers()[0].suspend()
        busy = threads.submit(ask, pool)
        while not pool._busy:
            time.sleep(0.01)
        started = time.monotonic()
        with pytest.raises(Overloaded):
            ask(pool)
        assert time.monotonic() - started < 2
        assert isinstance(busy.exception(), Undecodable)


def test_a_long_frame_goes_to_the_worker_in_pieces(pool):
    image = noise((1500, 1000), "u2")
    raw = image.tobytes()
    pieces = (raw[at : at + 100_000] for at in range(0, len(raw), 100_000))
    metadata = metadata_of(image)
    assert ask(pool, metadata, frame=LongFrame(len(raw), pieces)) == render(metadata, NATIVE, 1, raw, OPTIONS)


def test_a_long_frame_that_cannot_be_read_costs_the_worker_and_no_later_request(pool):
    def pieces():
        yield bytes(100)
        raise CorruptObject

    with pytest.raises(CorruptObject):
        ask(pool, frame=LongFrame(200, pieces()))
    assert len(ask(pool)) > 0
    assert pool.restarts == 1


def test_frames_of_which_nothing_can_be_made_are_counted_by_what_became_of_them(pool):
    def counted(outcome):
        return metrics.RENDER_FAILURES.labels(outcome)._value.get()

    before = {outcome: counted(outcome) for outcome in ("undecodable", "too_large", "crashed")}
    with pytest.raises(Undecodable):
        ask(pool, frame=FRAME[:-1])
    huge = METADATA | {"00280010": element("US", 60_000), "00280011": element("US", 60_000)}
    with pytest.raises(TooLarge):
        ask(pool, huge)
    workers()[0].suspend()
    threading.Timer(0.3, workers()[0].kill).start()
    with pytest.raises(Undecodable):
        ask(pool)
    assert {outcome: counted(outcome) - count for outcome, count in before.items()} == dict.fromkeys(before, 1)


def test_many_threads_share_the_workers():
    with RenderPool(2, seconds=20) as pool, ThreadPoolExecutor(12) as threads:
        pictures = set(threads.map(lambda _: ask(pool), range(60)))
        assert pictures == {render(METADATA, NATIVE, 1, FRAME, OPTIONS)}
        assert len(workers()) == 2
        assert pool.restarts == 0


def test_closing_ends_busy_workers_and_refuses_what_comes_later():
    pool = RenderPool(1, seconds=30)
    ask(pool)
    workers()[0].suspend()
    with ThreadPoolExecutor(2) as threads:
        asked = [threads.submit(ask, pool) for _ in range(2)]
        time.sleep(0.3)
        pool.close()
        errors = {type(one.exception(10)) for one in asked}
    assert errors <= {DecoderFailed, Overloaded}
    with pytest.raises(Overloaded):
        ask(pool)
    assert workers() == []
    assert pool.restarts == 0


@pytest.mark.skipif(not Path("/proc/self/limits").exists(), reason="/proc is not there to look at")
def test_a_worker_has_its_limits_no_environment_and_no_descriptor_of_ours(pool, monkeypatch, tmp_path):
    monkeypatch.setenv("GATEWAY_SECRET", "hunter2")
    with (tmp_path / "open").open("w") as ours:
        os.set_inheritable(ours.fileno(), True)
        ask(pool)
        worker = Path("/proc", str(workers()[0].pid))
        names = {str(name.readlink()) for name in (worker / "fd").iterdir()}
    assert {name.partition(":")[0] for name in names} <= {"/dev/null", "socket", "/memfd"}
    assert len([name for name in names if name.startswith("socket")]) == 1
    assert len([name for name in names if name.startswith("/memfd")]) <= 1
    environment = (worker / "environ").read_bytes().split(b"\0")
    assert {line.partition(b"=")[0] for line in environment if line} == {
        b"PYTHONPATH",
        b"OPENBLAS_NUM_THREADS",
        b"OMP_NUM_THREADS",
        b"OPJ_NUM_THREADS",
        b"MALLOC_ARENA_MAX",
    }
    limits = (worker / "limits").read_text("ascii").splitlines()
    rows = {line[:25].strip(): line[25:].split()[0] for line in limits[1:]}
    assert rows["Max core file size"] == "0"
    assert 1 << 30 < int(rows["Max address space"]) < 3 << 30
    assert int(rows["Max cpu time"]) <= 12


def test_workers_go_away_with_a_parent_that_is_killed():
    program = (
        "import sys, time\n"
        "from gateway.pixels.pool import RenderPool, _Worker\n"
        "worker = _Worker(5, 1 << 28)\n"
        "worker.wait_until_ready()\n"
        "print(worker.process.pid, flush=True)\n"
        "time.sleep(60)\n"
    )
    parent = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True, cwd=Path.cwd())
    with parent:
        assert parent.stdout is not None
        orphan = psutil.Process(int(parent.stdout.readline()))
        parent.kill()
        orphan.wait(10)
    assert not orphan.is_running()


def test_the_pool_itself_imports_no_decoder():
    program = "import sys, gateway.pixels.pool; print(sorted({'numpy', 'PIL', 'openjpeg', 'rle'} & set(sys.modules)))"
    found = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"
