"""What pool and worker say to one another: lengths and bytes over a stream socket. No pickle, nothing nested.

Request: three lengths and a flag, then the parameters as JSON, the metadata as JSON, the frame. The flag says that the
frame lies in memory which both share, instead. Answer: a status, a length, then the picture, the transcoded frame or
the reason. Either side refuses a length beyond its limit before it reads on.
"""

from __future__ import annotations

import fcntl
import mmap
import os
import socket
import struct
import sys
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import chain
from typing import Any, Self

import orjson

from gateway.pixels.description import Frame
from gateway.pixels.options import RenderOptions
from storage.errors import BadRequest, GatewayError, NotFound, TooLarge, Undecodable

OK, READY = 0, 1  # the latter is the first answer, before any request
ERRORS: Mapping[type[GatewayError], int] = {Undecodable: 2, TooLarge: 3, NotFound: 4, BadRequest: 5}
CLASSES: Mapping[int, type[GatewayError]] = {status: kind for kind, status in ERRORS.items()}

LIMITS, CALLS, FILES = "limits", "calls", "files"
CONFINED = frozenset((LIMITS, CALLS, FILES))
"""What holds a worker: limits of its process, system calls and files that the kernel refuses it."""

MAXIMUM_FRAME_BYTES = 1 << 30  # 100 Mpixel (L12) of 64 bits, or of three times 16
MAXIMUM_METADATA_BYTES = 256 << 20
MAXIMUM_ANSWER_BYTES = MAXIMUM_FRAME_BYTES
SHARED_FRAME_BYTES = 2 << 20
# F_SEAL_SEAL, F_SEAL_SHRINK, F_SEAL_GROW, and F_SEAL_FUTURE_WRITE (Linux 5.1), which Python does not name
_SEALS = 0x01 | 0x02 | 0x04 | 0x10
_MAXIMUM_REASON_BYTES = 200

_PHOTOMETRIC_BYTES = 16

_REQUEST = struct.Struct(">LLQ?")
_TIME = struct.Struct("@ll")
_ANSWER = struct.Struct(">BL")


@dataclass(frozen=True, slots=True)
class Transcoded:
    """A frame in another encoding, and the photometric interpretation that it has now."""

    photometric_interpretation: str
    frame: bytes

    def packed(self) -> bytes:
        """As it goes from a worker to the pool."""
        return self.photometric_interpretation.encode("ascii").ljust(_PHOTOMETRIC_BYTES) + self.frame

    @classmethod
    def unpacked(cls, packed: bytes) -> Self:
        """The inverse of ``packed``."""
        return cls(packed[:_PHOTOMETRIC_BYTES].decode("ascii").rstrip(), packed[_PHOTOMETRIC_BYTES:])


@dataclass(frozen=True, slots=True)
class LongFrame:
    """A frame that is never there as a whole, and is sent once: its length, and its bytes in pieces."""

    size_bytes: int
    pieces: Iterable[bytes]

    def __len__(self) -> int:
        return self.size_bytes


Parts = tuple[bytes, bytes, bytes | LongFrame]


def shared_memory() -> tuple[mmap.mmap, int] | None:
    """Memory for one frame, and a descriptor through which nobody can write to it, nor make it shorter.

    None where the system has no such thing; then every frame goes through the socket.
    """
    if sys.platform != "linux":
        return None
    descriptor = os.memfd_create("frame", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    try:
        os.ftruncate(descriptor, SHARED_FRAME_BYTES)
        memory = mmap.mmap(descriptor, SHARED_FRAME_BYTES)
        fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, _SEALS)
    except OSError:
        os.close(descriptor)
        return None
    return memory, descriptor


def request_of(
    metadata: bytes, transfer_syntax_uid: str, frame_number: int, frame: bytes | LongFrame, wanted: RenderOptions | str
) -> Parts:
    """Parameters, metadata and frame, the parts of a request; the last two are not copied. Raises TooLarge.

    wanted: how to draw the frame, or the transfer syntax to encode it in.
    """
    if len(metadata) > MAXIMUM_METADATA_BYTES or len(frame) > MAXIMUM_FRAME_BYTES:
        raise TooLarge("The frame or its metadata has too many bytes")
    parameters = orjson.dumps(
        {"transfer_syntax_uid": transfer_syntax_uid, "frame_number": frame_number, "wanted": wanted}
    )
    return parameters, metadata, frame


def send_request(connection: socket.socket, parts: Parts, deadline: float, memory: mmap.mmap | None = None) -> None:
    """Send what ``request_of`` made, the frame through ``memory`` where it has the room.

    Raises TimeoutError at ``deadline`` (monotonic seconds), and OSError.
    """
    parameters, metadata, frame = parts
    pieces: Iterable[bytes] = frame.pieces if isinstance(frame, LongFrame) else (frame,)
    is_shared = False
    if memory is not None and isinstance(frame, bytes) and len(frame) <= len(memory):
        memory[: len(frame)] = frame
        is_shared, pieces = True, ()
    head = _REQUEST.pack(len(parameters), len(metadata), len(frame), is_shared)
    for part in chain((b"".join((head, parameters, metadata)),), pieces):
        connection.settimeout(_remaining(deadline))
        connection.sendall(part)


def ready(held: frozenset[str]) -> bytes:
    """The payload of a worker's first answer: what of ``CONFINED`` holds it."""
    return ",".join(sorted(held)).encode("ascii")


def receive_request(
    connection: socket.socket, memory: memoryview | None = None
) -> tuple[dict[str, Any], bytes, Frame] | None:
    """Parameters, metadata and frame; None when the pool has closed the connection. Waits for ever.

    The frame is a view of ``memory`` where it came through that: it is what it is until the request is answered.
    """
    header = _waited_for(connection, _REQUEST.size)
    if len(header) < _REQUEST.size:
        return None
    *sizes, is_shared = _REQUEST.unpack(header)
    parameters, metadata = (_waited_for(connection, size) for size in sizes[:2])
    frame: Frame = memory[: sizes[2]] if memory is not None and is_shared else _waited_for(connection, sizes[2])
    is_whole = (len(parameters), len(metadata), len(frame)) == tuple(sizes)
    return (orjson.loads(parameters), metadata, frame) if is_whole else None


def send_answer(connection: socket.socket, status: int, payload: bytes) -> None:
    """Status and picture or reason, in one piece: the other end wakes up once for a small one."""
    connection.sendall(_ANSWER.pack(status, len(payload)) + payload)


def receive_answer(connection: socket.socket, deadline: float) -> tuple[int, bytes] | None:
    """Status and payload; None when the worker is gone, or says what no worker says.

    Raises TimeoutError at ``deadline`` (monotonic seconds), and OSError.
    """
    header = _received(connection, _ANSWER.size, deadline)
    if header is None:
        return None
    status, size = _ANSWER.unpack(header)
    if size > (MAXIMUM_ANSWER_BYTES if status == OK else _MAXIMUM_REASON_BYTES):
        return None
    payload = _received(connection, size, deadline)
    return None if payload is None else (status, payload)


def _waited_for(connection: socket.socket, size: int) -> bytes:
    """``size`` bytes, fewer only when the connection ends; in one piece, so that a large frame is never there twice."""
    if size > MAXIMUM_FRAME_BYTES:
        return b""
    return connection.recv(size, socket.MSG_WAITALL) if size else b""


def _received(connection: socket.socket, size: int, deadline: float) -> bytes | None:
    """Exactly ``size`` bytes, or None when the connection ends before; in one piece, as a picture may be large."""
    seconds, part = divmod(_remaining(deadline), 1.0)
    connection.settimeout(None)  # Python's own deadline would return what there is
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, _TIME.pack(int(seconds), max(1, int(part * 1e6))))
    try:
        received = connection.recv(size, socket.MSG_WAITALL) if size else b""
    except BlockingIOError:
        raise TimeoutError from None
    if len(received) == size:
        return received
    _remaining(deadline)
    return None


def _remaining(deadline: float) -> float:
    remaining = deadline - time.monotonic()
    if remaining <= 0:
        raise TimeoutError
    return remaining
