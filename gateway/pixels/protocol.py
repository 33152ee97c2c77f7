"""What pool and worker say to one another: lengths and bytes over a stream socket. No pickle, nothing nested.

Request: three lengths, then the parameters as JSON, the metadata as JSON, the frame. Answer: a status, a length, then
the picture or the reason. Either side refuses a length beyond its limit before it reads on.
"""

from __future__ import annotations

import socket
import struct
import time
from collections.abc import Mapping
from typing import Any

import orjson

from gateway.pixels.options import RenderOptions
from storage.errors import BadRequest, GatewayError, NotFound, TooLarge, Undecodable

OK, READY = 0, 1
ERRORS: Mapping[type[GatewayError], int] = {Undecodable: 2, TooLarge: 3, NotFound: 4, BadRequest: 5}
CLASSES: Mapping[int, type[GatewayError]] = {status: kind for kind, status in ERRORS.items()}

MAXIMUM_FRAME_BYTES = 1 << 30  # 100 Mpixel (L12) of 64 bits, or of three times 16
MAXIMUM_METADATA_BYTES = 256 << 20
MAXIMUM_PICTURE_BYTES = 8_192 * 8_192 * 4
_MAXIMUM_REASON_BYTES = 200

_REQUEST = struct.Struct(">LLQ")
_ANSWER = struct.Struct(">BL")


def request_of(
    metadata: bytes, transfer_syntax_uid: str, frame_number: int, frame: bytes, options: RenderOptions
) -> tuple[bytes, bytes, bytes]:
    """The parts of a request, in the order of sending; metadata and frame are not copied. Raises TooLarge."""
    if len(metadata) > MAXIMUM_METADATA_BYTES or len(frame) > MAXIMUM_FRAME_BYTES:
        raise TooLarge("The frame or its metadata has too many bytes")
    parameters = orjson.dumps(
        {"transfer_syntax_uid": transfer_syntax_uid, "frame_number": frame_number, "options": options}
    )
    return _REQUEST.pack(len(parameters), len(metadata), len(frame)) + parameters, metadata, frame


def send_request(connection: socket.socket, parts: tuple[bytes, bytes, bytes], deadline: float) -> None:
    """Send what ``request_of`` made. Raises TimeoutError at ``deadline`` (monotonic seconds), and OSError."""
    for part in parts:
        connection.settimeout(_remaining(deadline))
        connection.sendall(part)


def receive_request(connection: socket.socket) -> tuple[dict[str, Any], bytes, bytes] | None:
    """Parameters, metadata and frame; None when the pool has closed the connection. Waits for ever."""
    header = _waited_for(connection, _REQUEST.size)
    if len(header) < _REQUEST.size:
        return None
    sizes = _REQUEST.unpack(header)
    parameters, metadata, frame = (_waited_for(connection, size) for size in sizes)
    return (orjson.loads(parameters), metadata, frame) if len(frame) == sizes[2] else None


def send_answer(connection: socket.socket, status: int, payload: bytes) -> None:
    """Status and picture or reason."""
    connection.sendall(_ANSWER.pack(status, len(payload)))
    connection.sendall(payload)


def receive_answer(connection: socket.socket, deadline: float) -> tuple[int, bytes] | None:
    """Status and payload; None when the worker is gone, or says what no worker says.

    Raises TimeoutError at ``deadline`` (monotonic seconds), and OSError.
    """
    header = _received(connection, _ANSWER.size, deadline)
    if header is None:
        return None
    status, size = _ANSWER.unpack(header)
    if size > (MAXIMUM_PICTURE_BYTES if status == OK else _MAXIMUM_REASON_BYTES):
        return None
    payload = _received(connection, size, deadline)
    return None if payload is None else (status, payload)


def _waited_for(connection: socket.socket, size: int) -> bytes:
    """``size`` bytes, fewer only when the connection ends; in one piece, so that a large frame is never there twice."""
    return connection.recv(size, socket.MSG_WAITALL) if size else b""


def _received(connection: socket.socket, size: int, deadline: float) -> bytes | None:
    """Exactly ``size`` bytes, or None when the connection ends before."""
    buffer = bytearray(size)
    view = memoryview(buffer)
    at = 0
    while at < size:
        connection.settimeout(_remaining(deadline))
        count = connection.recv_into(view[at:])
        if not count:
            return None
        at += count
    return bytes(buffer)


def _remaining(deadline: float) -> float:
    remaining = deadline - time.monotonic()
    if remaining <= 0:
        raise TimeoutError
    return remaining
