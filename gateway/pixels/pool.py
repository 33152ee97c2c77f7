"""RenderPool: drawing and transcoding in worker processes, with limits on processes, time, memory and queue.

What a stranger's frame does to a decoder - crash, hang, eat memory - it does to one worker and one request. The pool
itself imports no decoder. L12, H15, H16.
"""

from __future__ import annotations

import logging
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Self

from gateway import metrics
from gateway.pixels.kept import Kept, KeptBytes
from gateway.pixels.options import RenderOptions
from gateway.pixels.protocol import (
    CLASSES,
    CONFINED,
    LIMITS,
    OK,
    READY,
    LongFrame,
    Parts,
    Transcoded,
    receive_answer,
    request_of,
    send_request,
    shared_memory,
)
from gateway.pixels.summary import Summary
from storage.errors import DecoderFailed, GatewayError, Overloaded, TooLarge, Undecodable

logger = logging.getLogger(__name__)

KEPT_PICTURES_BYTES = 32 << 20
KEPT_SUMMARIES_BYTES = 1 << 20
LATE, FAILED = "The frame takes too long to decode", "The decoder failed on this frame"
_START_SECONDS = 30.0
_WAITING_SHARE = 1 / 3
_OUTCOMES = {
    DecoderFailed: "crashed",
    Undecodable: "undecodable",
    TooLarge: "too_large",
    Overloaded: "overloaded",
}
_ROOT = Path(__file__).resolve().parents[2]
# Nothing of our own environment: no secret of it reaches a decoder. One thread each, as the pool is the parallelism
# and every further one reserves memory.
_ENVIRONMENT = {
    "PYTHONPATH": str(_ROOT),
    "OPENBLAS_NUM_THREADS": "1",
    "OMP_NUM_THREADS": "1",
    "OPJ_NUM_THREADS": "1",
    "MALLOC_ARENA_MAX": "1",
}


class RenderPool:
    """Draws and transcodes frames in up to ``workers`` processes, which start when they are first needed.

    seconds: from a request to its answer, and processor time; a third of them may be spent waiting, the rest is there
    for the frame. memory_bytes: what one request may allocate. queue: requests that may wait for a worker. restarts:
    workers that had to be replaced so far. pictures, summaries: room to keep what was made, for those who ask; pictures
    are in a file in ``folder``. Safe to use from any thread; requests block. Close it when done, or use it as a
    context.
    """

    def __init__(
        self,
        workers: int = 2,
        *,
        seconds: float = 15.0,
        memory_bytes: int = 1 << 30,
        queue: int = 64,
        folder: Path | None = None,
    ) -> None:
        self.restarts = 0
        self.pictures = KeptBytes(KEPT_PICTURES_BYTES, folder)
        self.summaries: Kept[Summary] = Kept(KEPT_SUMMARIES_BYTES)
        self._workers = workers
        self._seconds = seconds
        self._memory_bytes = memory_bytes
        self._queue = queue
        self._changed = threading.Condition()
        self._idle: list[_Worker] = []
        self._alive: set[_Worker] = set()
        self._busy = 0
        self._waiting = 0
        self._closed = False
        self._has_warned = False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def render(
        self,
        metadata: bytes,
        transfer_syntax_uid: str,
        frame_number: int,
        frame: bytes | LongFrame,
        options: RenderOptions,
        waited_seconds: float = 0.0,
    ) -> bytes:
        """The picture of one frame, as ``gateway.pixels.render.render`` makes it, and its errors.

        metadata: the DICOM JSON Model of the instance as UTF-8, or at least what describes its pixels.
        waited_seconds: how long the request has been waiting before.
        Raises besides: DecoderFailed when the worker dies or takes too long, TooLarge beyond the memory, Overloaded
        when the queue is full, when no worker gets free in time or when the pool is closed.
        """
        return self._made(request_of(metadata, transfer_syntax_uid, frame_number, frame, options), waited_seconds)

    def transcode(
        self, metadata: bytes, transfer_syntax_uid: str, frame_number: int, frame: bytes | LongFrame, target_uid: str
    ) -> Transcoded:
        """One frame in another transfer syntax, as of ``gateway.pixels.encode.transcode``; raises as ``render``."""
        parts = request_of(metadata, transfer_syntax_uid, frame_number, frame, target_uid)
        return Transcoded.unpacked(self._made(parts))

    def _made(self, parts: Parts, waited_seconds: float = 0.0) -> bytes:
        """What the worker makes of a request; what it cannot be made of is counted. Raises as ``render``."""
        try:
            return self._asked(parts, time.monotonic() - waited_seconds)
        except (Undecodable, TooLarge, Overloaded) as error:
            outcome = "late" if error.reason == LATE else _OUTCOMES[type(error)]
            metrics.RENDER_FAILURES.labels(outcome).inc()
            raise

    def _asked(self, parts: Parts, began: float) -> bytes:
        if sum(map(len, parts)) > self._memory_bytes // 2:
            raise TooLarge("The frame needs more memory than a picture may take")
        self._enter(began + self._seconds * _WAITING_SHARE)
        try:
            worker = self._worker()
            try:
                least = time.monotonic() + self._seconds * (1 - _WAITING_SHARE)
                status, payload = worker.ask(parts, max(began + self._seconds, least))
            except BaseException:
                self._replace(worker)
                raise
            with self._changed:
                self._idle.append(worker)
        finally:
            self._leave()
        if status == OK:
            return payload
        raise CLASSES.get(status, Undecodable)(payload.decode("ascii", "replace"))

    def close(self) -> None:
        """End all workers, also busy ones, whose requests then fail; later requests raise Overloaded."""
        with self._changed:
            self._closed = True
            workers, self._idle = list(self._alive), []
            self._changed.notify_all()
        for worker in workers:
            worker.end()
        self.pictures.close()

    def _enter(self, until: float) -> None:
        """Take one of the places, waiting for it in the bounded queue, up to that time."""
        with self._changed:
            if self._busy >= self._workers:
                if self._waiting >= self._queue:
                    raise Overloaded("Too many pictures are asked for at once")
                self._waiting += 1
                try:
                    left = max(0.0, until - time.monotonic())
                    self._changed.wait_for(lambda: self._busy < self._workers or self._closed, left)
                finally:
                    self._waiting -= 1
            if self._closed:
                raise Overloaded("The server is stopping")
            if self._busy >= self._workers:
                raise Overloaded("No worker was free in time")
            self._busy += 1

    def _leave(self) -> None:
        with self._changed:
            self._busy -= 1
            self._changed.notify()

    def _worker(self) -> _Worker:
        """An idle worker that lives, or a new one."""
        while True:
            with self._changed:
                worker = self._idle.pop() if self._idle else None
            if worker is None:
                return self._started()
            if worker.is_alive():
                return worker
            self._replace(worker)

    def _started(self) -> _Worker:
        worker = _Worker(self._seconds, self._memory_bytes)
        with self._changed:
            self._alive.add(worker)
            closed = self._closed
        try:
            if closed:
                raise Overloaded("The server is stopping")
            held = worker.wait_until_ready()
        except GatewayError:
            self._replace(worker)
            raise
        self._note(held)
        return worker

    def _note(self, held: frozenset[str]) -> None:
        """Count the start; where the kernel does not hold a worker as it could, say so once."""
        confinement = "full" if held == CONFINED else "limits" if held <= {LIMITS} else "partial"
        metrics.RENDER_STARTS.labels(confinement).inc()
        if held != CONFINED and not self._has_warned:
            self._has_warned = True
            logger.warning("pixels.unconfined", extra={"kind": confinement})

    def _replace(self, worker: _Worker) -> None:
        """End a worker; the next request that finds none idle starts another."""
        worker.end()
        with self._changed:
            self._alive.discard(worker)
            if not self._closed:
                self.restarts += 1
                metrics.RENDER_RESTARTS.inc()


class _Worker:
    """One process and the socket to it. Used by one thread at a time, save ``end``."""

    def __init__(self, seconds: float, memory_bytes: int) -> None:
        self._connection, theirs = socket.socketpair()
        shared = shared_memory()
        self._memory = shared[0] if shared else None
        descriptors = shared[1:] if shared else ()
        command = [sys.executable, "-s", "-P", "-m", "gateway.pixels.worker", str(seconds), str(memory_bytes)]
        command += map(str, descriptors)
        with theirs:
            try:
                self.process: subprocess.Popen[bytes] = subprocess.Popen(  # noqa: S603 - our own interpreter and module
                    command,
                    stdin=theirs.fileno(),
                    stdout=subprocess.DEVNULL,
                    stderr=subprocess.DEVNULL,
                    cwd=_ROOT,
                    env=_ENVIRONMENT,
                    pass_fds=descriptors,
                    start_new_session=True,  # the keyboard's interrupt is for the supervisor
                )
            except OSError:
                self._connection.close()
                raise Overloaded("No worker could be started") from None
            finally:
                for descriptor in descriptors:
                    os.close(descriptor)

    def wait_until_ready(self) -> frozenset[str]:
        """What confines the process. Raises Overloaded when it does not come up."""
        try:
            answer = receive_answer(self._connection, time.monotonic() + _START_SECONDS)
        except OSError:
            answer = None
        if answer is None or answer[0] != READY:
            raise Overloaded("No worker could be started")
        return frozenset(answer[1].decode("ascii", "replace").split(","))

    def is_alive(self) -> bool:
        """Whether the process is there; one that was killed while idle is not."""
        return self.process.poll() is None

    def ask(self, parts: Parts, deadline: float) -> tuple[int, bytes]:
        """Status and payload. Raises DecoderFailed when there is no answer; the worker is then of no more use."""
        try:
            send_request(self._connection, parts, deadline, self._memory)
            answer = receive_answer(self._connection, deadline)
        except TimeoutError:
            raise DecoderFailed(LATE) from None
        except OSError:
            answer = None
        if answer is None:
            if self._ended_by() == -signal.SIGXCPU:
                raise DecoderFailed(LATE)
            raise DecoderFailed(FAILED)
        return answer

    def _ended_by(self) -> int | None:
        try:
            return self.process.wait(1.0)
        except subprocess.TimeoutExpired:
            return None

    def end(self) -> None:
        """Kill the process and wait for it."""
        self.process.kill()
        self.process.wait()
        self._connection.close()
