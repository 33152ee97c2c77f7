"""Processes of one gateway: listening sockets, the lock of the data folder, children that are watched and restarted.

Knows nothing of DICOM or HTTP, so that the parent stays small; what a child does is its command line. A child never
outlives its parent: the line between them ends with either (D13, F13).
"""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import selectors
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

logger = logging.getLogger(__name__)

BACKLOG = 2048
LOCK_SECONDS = 3.0
START_SECONDS = 60.0
START_ATTEMPTS = 3
SETTLED_SECONDS = 10.0
MAXIMUM_DELAY_SECONDS = 5.0
KILL_SECONDS = 3.0
NETWORK_FILE_SYSTEMS = frozenset(("nfs", "nfs4", "cifs", "smb3", "smbfs", "fuse.sshfs"))
_FIRST_DELAY_SECONDS = 0.1
_ORPHANED = 70


class CannotStart(Exception):  # noqa: N818 - said to the operator
    """Why the gateway does not start, in one line. exit_code: of the command."""

    def __init__(self, reason: str, exit_code: int = 1) -> None:
        self.exit_code = exit_code
        super().__init__(reason)


def lock_folder(folder: Path, *, seconds: float = LOCK_SECONDS) -> int:
    """Take the folder for this gateway alone; returns a descriptor whose heirs all hold the lock.

    Waits ``seconds`` for children of a gateway that was killed to go. Raises CannotStart: 3 when another gateway
    has the folder, 1 when it cannot be made.
    """
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        lock = os.open(folder / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise CannotStart(f"The data folder {folder} cannot be used: {error.strerror}") from None
    deadline = time.monotonic() + seconds
    while True:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() >= deadline:
                os.close(lock)
                reason = (
                    f"Another gateway is running on the data folder {folder.resolve()}; stop it, or use another --data"
                )
                raise CannotStart(reason, exit_code=3) from None
            time.sleep(0.05)
        except OSError as error:
            os.close(lock)
            raise CannotStart(f"The data folder {folder} cannot be locked: {error.strerror}") from None
        else:
            return lock


def file_system(path: Path, mountinfo: str) -> str:
    """The type of the file system that ``path``, without symbolic links, lies on. mountinfo: see proc(5)."""
    mounts: dict[Path, str] = {}
    for line in mountinfo.splitlines():
        before, _, after = line.partition(" - ")
        point = before.split(" ")[4].encode("ascii", "replace").decode("unicode_escape")
        mounts[Path(point)] = after.split(" ")[0]
    return next((mounts[one] for one in (path, *path.parents) if one in mounts), "")


def listen(host: str, port: int, *, count: int = 1) -> list[socket.socket]:
    """Listening sockets on one port, one for each process, among which the kernel spreads connections evenly.

    Port 0 picks a free one. A port that anybody else uses is refused. Raises CannotStart.
    """
    with contextlib.ExitStack() as opened:
        try:
            family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[
                0
            ]
            first = opened.enter_context(_bound(family, address, is_shared=False))
            if count == 1:
                first.listen(BACKLOG)
                opened.pop_all()
                return [first]
            address = first.getsockname()
            first.close()  # it has shown that the port is free, which sockets that share one cannot
            sockets = [opened.enter_context(_bound(family, address, is_shared=True)) for _ in range(count)]
            for one in sockets:
                one.listen(BACKLOG)
        except OSError as error:
            reason = error.strerror or "the address cannot be used"
            raise CannotStart(f"Cannot listen on {host}:{port}: {reason}") from None
        opened.pop_all()
        return sockets


def _bound(family: int, address: tuple[object, ...], *, is_shared: bool) -> socket.socket:
    one = socket.socket(family, socket.SOCK_STREAM)
    try:
        one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if is_shared:
            one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        one.bind(address)
    except OSError:
        one.close()
        raise
    return one


# ------------------------------------------------------------------------------------------------------ a child's end


class Lifeline:
    """A child's line to its parent: the parent's greeting comes in, ``ready`` or a reason to give up goes out."""

    def __init__(self, fd: int) -> None:
        os.set_inheritable(fd, False)
        self._socket = socket.socket(fileno=fd)

    def greeting(self) -> str:
        """The line that the parent sends first."""
        with self._socket.makefile("r", encoding="utf-8", newline="\n", buffering=1) as lines:
            return lines.readline()

    def ready(self) -> None:
        """Say that this child serves now."""
        self._say("ready")

    def failed(self, reason: str) -> None:
        """Say why this child cannot serve."""
        self._say("failed " + reason.replace("\n", " "))

    def _say(self, text: str) -> None:
        with contextlib.suppress(OSError):  # a parent that is gone needs no answer; ``watch`` acts on it
            self._socket.sendall(text.encode("utf-8", "replace") + b"\n")

    def watch(self) -> None:
        """End this process at once when the parent is gone: an archive without supervisor must not linger.

        Nothing is lost by it, as what was acknowledged is durable (R1).
        """
        threading.Thread(target=self._watch, name="lifeline", daemon=True).start()

    def _watch(self) -> None:
        with contextlib.suppress(OSError):
            while self._socket.recv(1):
                pass
        os._exit(_ORPHANED)


# ----------------------------------------------------------------------------------------------------- the parent's end


@dataclass(frozen=True, slots=True)
class Child:
    """A process to keep running.

    arguments: of the interpreter; the descriptors of lifeline, listener and what else is kept are appended.
    drain_seconds: time it needs at most to stop.
    """

    name: str
    arguments: tuple[str, ...]
    listener: socket.socket
    drain_seconds: float


class _Running:
    """A child's process and what is known of it."""

    def __init__(self, child: Child, process: subprocess.Popen[bytes], line: socket.socket) -> None:
        self.child = child
        self.process = process
        self.line = line
        self.started = time.monotonic()
        self.is_ready = False
        self.reason = ""

    def hear(self) -> None:
        """Take in what the child says, without waiting."""
        try:
            words = self.line.recv(4096).decode("utf-8", "replace")
        except (BlockingIOError, ConnectionResetError):
            return
        for word in words.splitlines():
            self.is_ready = self.is_ready or word == "ready"
            self.reason = word.removeprefix("failed ") if word.startswith("failed ") else self.reason


class Supervisor:
    """Starts children, waits until all serve, restarts what crashes, and drains on SIGTERM or SIGINT.

    greeting: one line for every child. environment: theirs, whole. keep: further descriptors they inherit.
    ended: told the pid of every child that is gone. Use it in the main thread, and once.
    """

    def __init__(
        self,
        children: Sequence[Child],
        *,
        greeting: str,
        environment: Mapping[str, str],
        keep: Sequence[int] = (),
        ended: Callable[[int], None] = lambda _: None,
    ) -> None:
        self._children = {child.name: child for child in children}
        self._greeting = greeting.encode() + b"\n"
        self._environment = dict(environment)
        self._keep = tuple(keep)
        self._ended = ended
        self._running: dict[str, _Running] = {}
        self._crashes: dict[str, int] = {}
        self._due: dict[str, float] = dict.fromkeys(self._children, 0.0)
        self._signals = 0
        self._has_served = False
        self._selector = selectors.DefaultSelector()

    def run(self, served: Callable[[], None]) -> None:
        """Serve until told to stop; ``served`` is called once, when every child is ready.

        Raises CannotStart when a child gives up or keeps crashing before that.
        """
        with self._wakened_by_signals():
            try:
                deadline = time.monotonic() + START_SECONDS
                while not self._signals:
                    self._start_due()
                    self._wait()
                    self._reap()
                    if not self._has_served:
                        self._has_served = self._check_start(deadline)
                        if self._has_served:
                            served()
            finally:
                self._stop()

    @contextlib.contextmanager
    def _wakened_by_signals(self) -> Iterator[None]:
        wake, waker = socket.socketpair()
        wake.setblocking(False)
        waker.setblocking(False)
        self._selector.register(wake, selectors.EVENT_READ, None)
        old_fd = signal.set_wakeup_fd(waker.fileno(), warn_on_full_buffer=False)
        handlers = {signal.SIGTERM: self._count, signal.SIGINT: self._count, signal.SIGCHLD: lambda *_: None}
        old = {number: signal.signal(number, handler) for number, handler in handlers.items()}
        try:
            yield
        finally:
            for number, handler in old.items():
                signal.signal(number, handler)
            signal.set_wakeup_fd(old_fd)
            self._selector.close()
            wake.close()
            waker.close()

    def _count(self, *_: object) -> None:
        self._signals += 1

    def _start_due(self) -> None:
        now = time.monotonic()
        for name in [name for name, due in self._due.items() if due <= now]:
            del self._due[name]
            self._start(self._children[name])

    def _start(self, child: Child) -> None:
        ours, theirs = socket.socketpair()
        with theirs:
            descriptors = (theirs.fileno(), child.listener.fileno(), *self._keep)
            process = subprocess.Popen(  # noqa: S603 - our own interpreter and module
                [sys.executable, *child.arguments, *map(str, descriptors)],
                stdin=subprocess.DEVNULL,
                env=self._environment,
                pass_fds=descriptors,
            )
        ours.sendall(self._greeting)
        ours.setblocking(False)
        self._running[child.name] = _Running(child, process, ours)
        self._selector.register(ours, selectors.EVENT_READ, child.name)
        logger.info("process.started", extra={"child": child.name, "pid": process.pid})

    def _wait(self) -> None:
        """Sleep until a child speaks or ends, a signal comes, or a restart is due."""
        until = min(self._due.values(), default=time.monotonic() + 1.0)
        for key, _ in self._selector.select(max(0.0, min(1.0, until - time.monotonic()))):
            if key.data is None:
                with contextlib.suppress(BlockingIOError):
                    key.fileobj.recv(4096)  # type: ignore[union-attr]
            else:
                self._running[key.data].hear()

    def _reap(self) -> None:
        for name, running in list(self._running.items()):
            exit_code = running.process.poll()
            if exit_code is None:
                continue
            running.hear()
            self._forget(running)
            settled = running.is_ready and time.monotonic() - running.started > SETTLED_SECONDS
            crashes = self._crashes[name] = 1 if settled else self._crashes.get(name, 0) + 1
            if not self._has_served and (running.reason or crashes >= START_ATTEMPTS):
                reason = running.reason or f"it ended with exit code {exit_code}, {crashes} times"
                raise CannotStart(f"The process {name} cannot start: {reason}")
            delay = min(MAXIMUM_DELAY_SECONDS, _FIRST_DELAY_SECONDS * 2 ** min(crashes - 1, 10))
            self._due[name] = time.monotonic() + delay
            logger.error(
                "process.ended",
                extra={"child": name, "pid": running.process.pid, "exit_code": exit_code, "seconds": delay},
            )

    def _forget(self, running: _Running) -> None:
        self._selector.unregister(running.line)
        running.line.close()
        del self._running[running.child.name]
        self._ended(running.process.pid)

    def _check_start(self, deadline: float) -> bool:
        if len(self._running) == len(self._children) and all(one.is_ready for one in self._running.values()):
            return True
        if time.monotonic() > deadline:
            late = ", ".join(sorted(name for name in self._children if not self._is_ready(name)))
            raise CannotStart(f"Not ready within {START_SECONDS:.0f} s: {late}")
        return False

    def _is_ready(self, name: str) -> bool:
        return name in self._running and self._running[name].is_ready

    def _stop(self) -> None:
        """Close the doors, let what runs finish, then end what is left. A second signal ends it at once."""
        seen = self._signals
        longest = max(child.drain_seconds for child in self._children.values())
        logger.info("gateway.draining", extra={"seconds": longest})
        for child in self._children.values():
            child.listener.close()
        for running in self._running.values():
            running.process.terminate()
        deadline = time.monotonic() + longest + KILL_SECONDS
        while self._running and time.monotonic() < deadline and self._signals == seen:
            self._due.clear()
            self._wait()
            for running in [one for one in self._running.values() if one.process.poll() is not None]:
                self._forget(running)
        for running in list(self._running.values()):
            logger.error("process.killed", extra={"child": running.child.name, "pid": running.process.pid})
            running.process.kill()
            running.process.wait()
            self._forget(running)
