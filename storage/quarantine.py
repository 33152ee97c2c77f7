"""Quarantine: instances that were refused, kept as they came for somebody who mends the cause. Not for what is retried.

A folder of its own that explains itself and needs no index: of each instance a file, which tools can open (our header,
where it has none of its own, and the Data Set as received), and beside it a file of JSON that says who sent it and
what is wrong. An instance is there when its JSON is. Both are named before the sender reads its failure, but not
synced: a power cut may take what came in the last seconds, and the sender knows that it failed.

Keeping is best effort and never in the way: it takes a spool's file as it is, waits for nobody for long, stops where
the disk is nearly full (L15), and what goes wrong with it is a log line. There is a limit of instances and of bytes.
Beyond it the oldest go of the address that holds most: so the newest can always be looked at, and who floods the
quarantine only pushes out what came from there.
"""

from __future__ import annotations

import base64
import contextlib
import datetime as dt
import fcntl
import hashlib
import heapq
import logging
import mmap
import os
import re
import secrets
import time
from collections import defaultdict, deque
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import orjson

from storage import errors
from storage.dataset import read_beginning
from storage.errors import CorruptObject, GatewayError, NotFound, StorageUnavailable
from storage.model import Held, JsonElement, Refusal, Source
from storage.spool import Spool, write_all
from storage.uids import EXPLICIT_VR_LITTLE_ENDIAN, is_uid, transfer_syntax

logger = logging.getLogger("storage.quarantine")

KEPT: Mapping[type[GatewayError], bool] = {
    GatewayError: False,
    errors.NotDicom: True,
    errors.TooComplex: True,
    errors.InvalidInstance: True,
    errors.IdentityMismatch: True,
    errors.StudyMismatch: True,
    errors.TooLarge: False,  # its end was not read
    errors.InstanceConflict: True,
    errors.TransactionInUse: False,  # of a request for storage commitment
    errors.UnsupportedSOPClass: True,
    errors.UnsupportedTransferSyntax: True,
    errors.BadRequest: False,
    errors.BadQuery: False,
    errors.UnsupportedMediaType: False,  # nothing of it was read
    errors.NotFound: False,
    errors.Gone: False,
    errors.OnHold: True,  # what was to be replaced stays, and what came is not lost
    errors.NotAcceptable: False,
    errors.Undecodable: False,
    errors.DecoderFailed: False,
    errors.Unauthenticated: False,
    errors.Forbidden: False,
    errors.RefusedByPolicy: False,  # somebody has decided so
    errors.QuotaExceeded: False,  # its sender sends again, and it is there to bound what is kept
    errors.PolicyFailed: True,
    errors.RateLimited: False,  # of a deletion
    errors.Overloaded: False,  # its sender sends again
    errors.StorageUnavailable: False,  # as above
    errors.CorruptObject: False,
}
"""Whether an instance is kept that was refused so. A fault of ours that is none of these is: the next release may take
what this one stumbled over.
"""

LEAST_BYTES = 8
"""Less cannot be one element."""
_MAXIMUM_UID_CHARACTERS = 64
_OBJECT, _RECORD, _WAITING = ".dcm", ".json", ".waiting"
_ID = re.compile(r"\d{8}-\d{12}-[0-9a-f]{4}-[0-9a-f]{8}", re.ASCII)
_USAGE = "usage"
_FOLDER_MODE, _FILE_MODE = 0o750, 0o640
_PATIENCE_SECONDS = 2.0
_ABANDONED_SECONDS = 3600.0
_CHUNK_BYTES = 1 << 20
_FIRST_BYTES = 64


def is_kept(error: BaseException) -> bool:
    """Whether what was refused with this error is kept."""
    if not isinstance(error, GatewayError):
        return True
    return next(KEPT[kind] for kind in type(error).__mro__ if kind in KEPT)


@dataclass(frozen=True, slots=True)
class Limits:
    """How much may be kept, and how much of the disk has to stay free for anything to be (L15). 0 of either of the
    first two: nothing is kept.
    """

    maximum_count: int = 10_000
    maximum_bytes: int = 10 << 30
    least_free_bytes: int = 2 << 30
    least_free_percent: float = 5.0

    @property
    def is_on(self) -> bool:
        """Whether anything is kept at all."""
        return self.maximum_count > 0 and self.maximum_bytes > 0


@dataclass(frozen=True, slots=True)
class Usage:
    """How much is kept: instances, and bytes of their files."""

    count: int = 0
    size_bytes: int = 0


@dataclass(frozen=True, slots=True)
class Beginning:
    """What can be read of an instance that was refused: its first bytes as received, the elements up to the first
    fault, and that fault, empty when its Data Set can be read.
    """

    first_bytes: bytes
    elements: Mapping[str, JsonElement]
    fault: str


class Quarantine:
    """Refused instances in a folder, which is made with the first one. Thread-safe, for any number of processes."""

    def __init__(self, folder: Path, limits: Limits) -> None:
        self._folder = folder
        self._limits = limits

    # Keeping

    def wants(self, spool: Spool, error: BaseException) -> bool:
        """Whether to keep what was refused with this error, as far as that depends on the instance."""
        is_something = spool.is_whole and spool.received_bytes >= LEAST_BYTES
        return is_something and self._limits.is_on and is_kept(error)

    def keep(self, spool: Spool, refusal: Refusal) -> str:
        """Keep all that the spool collected; returns its id, or nothing when it is not kept, for whatever reason.

        The spool is of no more use. Raises nothing that a disk can cause.
        """
        size_bytes = spool.received_bytes
        if size_bytes > self._limits.maximum_bytes:
            return self._not_kept("It is larger than the quarantine", refusal)
        try:
            self._folder.mkdir(mode=_FOLDER_MODE, exist_ok=True)
            if not self._has_room():
                return self._not_kept("The disk is nearly full", refusal)
            return self._keep(spool, refusal, size_bytes)
        except (OSError, StorageUnavailable) as error:
            logger.warning("quarantine.failed", exc_info=error)
            return ""

    def _keep(self, spool: Spool, refusal: Refusal, size_bytes: int) -> str:
        identity = _new_id(refusal.source)
        files = [self._path(identity, suffix) for suffix in (_OBJECT, _RECORD)]
        waiting, record = [path.with_name(path.name + _WAITING) for path in files]
        try:
            begin, offset = spool.set_aside(str(waiting))
            _write_new(record, _to_json(Held(identity, _now(), _cut(refusal), size_bytes, begin, offset)))
            needed_bytes = waiting.stat().st_size + record.stat().st_size
            with self._locked() as book:
                if not self._make_room(book, needed_bytes):
                    return self._not_kept("It is larger than the quarantine", refusal)
                for made, path in zip((waiting, record), files, strict=True):
                    made.rename(path)
                book.add(1, needed_bytes)
        finally:
            for made in (waiting, record):
                made.unlink(missing_ok=True)
        extra = {"error": refusal.error, "door": refusal.source.door, "bytes": size_bytes, "quarantine": identity}
        logger.debug("quarantine.kept", extra=extra)
        return identity

    @staticmethod
    def _not_kept(reason: str, refusal: Refusal) -> str:
        logger.warning("quarantine.not_kept", extra={"reason": reason, "error": refusal.error})
        return ""

    def _has_room(self) -> bool:
        disk = os.statvfs(self._folder)
        least_bytes = max(
            self._limits.least_free_bytes, disk.f_blocks * disk.f_frsize * self._limits.least_free_percent / 100
        )
        return disk.f_bavail * disk.f_frsize >= least_bytes

    def _make_room(self, book: _Book, needed_bytes: int) -> bool:
        """Let go of some instances, where there is no room for one more; some more than need be, so that this is rare.

        What is there is counted anew: so the book is right again whatever was killed.
        """
        limits, usage = self._limits, book.usage
        if usage.count < limits.maximum_count and usage.size_bytes + needed_bytes <= limits.maximum_bytes:
            return True
        if needed_bytes > limits.maximum_bytes:
            return False
        sizes = self._sizes()
        count, size_bytes = len(sizes), sum(sizes.values())
        most_count = limits.maximum_count - max(1, limits.maximum_count // 20)
        most_bytes = max(0, limits.maximum_bytes - needed_bytes - limits.maximum_bytes // 20)
        for identity in _leaving(sizes, limits):
            if count <= most_count and size_bytes <= most_bytes:
                break
            self._remove(identity)
            count, size_bytes = count - 1, size_bytes - sizes[identity]
        book.write(Usage(count, size_bytes))
        return True

    # What is there

    def usage(self) -> Usage:
        """How much is kept, as it was written down last."""
        try:
            return _read_usage((self._folder / _USAGE).read_bytes()) or Usage()
        except OSError:
            return Usage()

    def ids(self) -> list[str]:
        """Of every instance that is kept, the oldest first. Raises StorageUnavailable."""
        try:
            names = [path.name for path in self._folder.iterdir()]
        except FileNotFoundError:
            return []
        except OSError as error:
            raise StorageUnavailable("The quarantine cannot be read") from error
        return sorted(name.removesuffix(_RECORD) for name in names if name.endswith(_RECORD) and _ID.match(name))

    def held(self) -> Iterator[Held]:
        """Every instance that is kept, the oldest first. What a crash has damaged is left out."""
        for identity in self.ids():
            with contextlib.suppress(NotFound):
                yield self.find(identity)

    def find(self, identity: str) -> Held:
        """One of them. Raises NotFound."""
        if _ID.fullmatch(identity) is None:
            raise NotFound("There is no such instance in quarantine")
        try:
            return _from_json(self._path(identity, _RECORD).read_bytes())
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise NotFound("There is no such instance in quarantine") from error

    def received(self, held: Held, *, is_bare: bool = True) -> Iterator[bytes]:
        """The bytes as they were received. is_bare: also of a Data Set that came without File Meta; else with ours.

        Raises CorruptObject when they are not all there, StorageUnavailable.
        """
        if held.begin:
            yield held.begin
        start = held.offset if is_bare or held.begin else 0
        expected = held.offset + held.size_bytes - len(held.begin)
        try:
            with self._path(held.id, _OBJECT).open("rb") as file:
                if os.fstat(file.fileno()).st_size != expected:
                    raise CorruptObject("The bytes in quarantine are not all there")
                file.seek(start)
                while chunk := file.read(_CHUNK_BYTES):
                    yield chunk
        except FileNotFoundError as error:
            raise CorruptObject("The bytes in quarantine are not all there") from error
        except OSError as error:
            raise StorageUnavailable("The quarantine cannot be read") from error

    def beginning(self, held: Held) -> Beginning:
        """What can be read of an instance. Raises CorruptObject, StorageUnavailable."""
        first_bytes = next(self.received(held), b"")[:_FIRST_BYTES]
        if not (held.begin or held.refusal.is_announced):
            return Beginning(first_bytes, {}, held.refusal.reason)
        said = held.refusal.transfer_syntax_uid
        syntax = transfer_syntax(said if is_uid(said) else EXPLICIT_VR_LITTLE_ENDIAN)
        try:
            with (
                self._path(held.id, _OBJECT).open("rb") as file,
                mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ) as mapped,
            ):
                elements, fault = read_beginning(mapped, held.offset, syntax)
        except OSError as error:
            raise StorageUnavailable("The quarantine cannot be read") from error
        return Beginning(first_bytes, elements, fault.reason if fault else "")

    def drop(self, identity: str) -> None:
        """Let go of one of them. Raises NotFound, StorageUnavailable."""
        if _ID.fullmatch(identity) is None or not self._path(identity, _RECORD).exists():
            raise NotFound("There is no such instance in quarantine")
        try:
            with self._locked() as book:
                book.add(-1, -self._remove(identity))
        except OSError as error:
            raise StorageUnavailable("The quarantine cannot be changed") from error

    def sweep(self) -> None:
        """Remove what killed processes and power cuts left, and count what is there, at the start of a gateway, which
        what goes wrong here does not hold up.
        """
        if not self._folder.is_dir():
            return
        try:
            with self._locked() as book:
                known = {held.id: self._size(held.id) for held in self.held()}
                before = time.time() - _ABANDONED_SECONDS
                for path in self._folder.iterdir():
                    is_left = path.stem not in known and path.suffix in (_WAITING, _OBJECT, _RECORD)
                    if is_left and path.stat().st_mtime < before:
                        path.unlink(missing_ok=True)
                book.write(Usage(len(known), sum(known.values())))
        except (OSError, StorageUnavailable) as error:
            logger.warning("quarantine.failed", exc_info=error)

    # The folder

    def _path(self, identity: str, suffix: str) -> Path:
        return self._folder / (identity + suffix)

    def _sizes(self) -> dict[str, int]:
        """Bytes of what is there, the oldest first."""
        return {identity: self._size(identity) for identity in self.ids()}

    def _size(self, identity: str) -> int:
        size_bytes = 0
        for suffix in (_OBJECT, _RECORD):
            with contextlib.suppress(FileNotFoundError):
                size_bytes += self._path(identity, suffix).stat().st_size
        return size_bytes

    def _remove(self, identity: str) -> int:
        """Let go of one; returns its bytes. Its record goes first: what is left is nobody's, and swept."""
        size_bytes = self._size(identity)
        for suffix in (_RECORD, _OBJECT):
            self._path(identity, suffix).unlink(missing_ok=True)
        return size_bytes

    @contextlib.contextmanager
    def _locked(self) -> Iterator[_Book]:
        """Within it nobody else changes what is there. Raises OSError, also when somebody else takes too long."""
        fd = os.open(self._folder / _USAGE, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, _FILE_MODE)
        try:
            deadline = time.monotonic() + _PATIENCE_SECONDS
            while True:
                try:
                    fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                except BlockingIOError:
                    if time.monotonic() > deadline:
                        raise
                    time.sleep(0.005)
            book = _Book(fd)
            if book.is_unreadable:
                sizes = self._sizes()
                book.write(Usage(len(sizes), sum(sizes.values())))
            yield book
        finally:
            os.close(fd)


def _write_new(path: Path, content: bytes) -> None:
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, _FILE_MODE)
    try:
        write_all(fd, content)
    finally:
        os.close(fd)


class _Book:
    """How much there is, in a file that is locked."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        found = _read_usage(os.pread(fd, 100, 0))
        self.is_unreadable = found is None
        self.usage = found or Usage()

    def write(self, usage: Usage) -> None:
        self.usage = usage
        os.pwrite(self._fd, f"{usage.count:>20} {usage.size_bytes:>20}\n".encode(), 0)

    def add(self, count: int, size_bytes: int) -> None:
        usage = self.usage
        self.write(Usage(max(0, usage.count + count), max(0, usage.size_bytes + size_bytes)))


def _read_usage(text: bytes) -> Usage | None:
    numbers = text.split()
    return Usage(int(numbers[0]), int(numbers[1])) if len(numbers) == 2 and all(map(bytes.isdigit, numbers)) else None


def _leaving(sizes: Mapping[str, int], limits: Limits) -> Iterator[str]:
    """In which order instances would go: each time the oldest of the sender who holds the greatest part of a limit."""
    of_sender: dict[str, deque[str]] = defaultdict(deque)
    bytes_of: dict[str, int] = defaultdict(int)
    for identity, size_bytes in sizes.items():
        of_sender[_sender(identity)].append(identity)
        bytes_of[_sender(identity)] += size_bytes

    def rank(sender: str) -> tuple[float, str]:
        part = max(len(of_sender[sender]) / limits.maximum_count, bytes_of[sender] / limits.maximum_bytes)
        return -part, of_sender[sender][0]

    ranked = [(*rank(sender), sender) for sender in of_sender]
    heapq.heapify(ranked)
    while ranked:
        _, identity, sender = heapq.heappop(ranked)
        yield identity
        of_sender[sender].popleft()
        bytes_of[sender] -= sizes[identity]
        if of_sender[sender]:
            heapq.heappush(ranked, (*rank(sender), sender))


def _new_id(source: Source) -> str:
    """When it came, four digits for the address it came from, and eight that tell it from all others."""
    moment = dt.datetime.now(dt.UTC).strftime("%Y%m%d-%H%M%S%f")
    sender = hashlib.blake2b(f"{source.door} {source.address}".encode(), digest_size=2).hexdigest()
    return f"{moment}-{sender}-{secrets.token_hex(4)}"


def _sender(identity: str) -> str:
    return identity.split("-")[2]


def _now() -> str:
    return dt.datetime.now(dt.UTC).isoformat(timespec="milliseconds")


def _cut(refusal: Refusal) -> Refusal:
    """The same with announced UIDs of bounded length: they may be any text."""
    names = ("sop_class_uid", "sop_instance_uid", "transfer_syntax_uid")
    return replace(refusal, **{name: getattr(refusal, name)[:_MAXIMUM_UID_CHARACTERS] for name in names})


def _to_json(held: Held) -> bytes:
    told: dict[str, Any] = asdict(held) | {"begin": base64.b64encode(held.begin).decode("ascii")}
    return orjson.dumps(told, option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE)


def _from_json(text: bytes) -> Held:
    told = orjson.loads(text)
    refusal = Refusal(**{**told["refusal"], "source": Source(**told["refusal"]["source"])})
    return Held(**{**told, "refusal": refusal, "begin": base64.b64decode(told["begin"])})
