"""A worker process: draws or transcodes what arrives on its standard input, a socket, until that closes.

``pool`` runs it. It holds no key and no door to the archive: one frame comes in, one picture, frame or reason goes
out. Its memory is limited for good, its processor time for each request anew (L12, H15). Messages are lengths and
bytes, never pickles.
"""

from __future__ import annotations

import mmap
import os
import resource
import socket
import sys
from collections.abc import Mapping
from pathlib import Path

import orjson

from gateway.pixels.confinement import confine
from gateway.pixels.description import Frame
from gateway.pixels.encode import transcode
from gateway.pixels.options import RenderOptions
from gateway.pixels.protocol import ERRORS, OK, READY, SHARED_FRAME_BYTES, ready, receive_request, send_answer
from gateway.pixels.render import render
from storage.errors import GatewayError, TooLarge

_NEVER = resource.RLIM_INFINITY


def limit_memory(memory_bytes: int) -> None:
    """Let the process reserve ``memory_bytes`` beyond what it has; write no core. Elsewhere than Linux only the latter.

    What libraries have reserved at start is left out, as it is address space rather than memory.
    """
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if sys.platform == "linux":
        reserved = int(Path("/proc/self/statm").read_text("ascii").split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (reserved + memory_bytes, reserved + memory_bytes))


def limit_processor_time(seconds: float) -> None:
    """Let the process compute for ``seconds`` more; beyond that the kernel ends it."""
    usage = resource.getrusage(resource.RUSAGE_SELF)
    resource.setrlimit(resource.RLIMIT_CPU, (int(usage.ru_utime + usage.ru_stime + seconds) + 1, _NEVER))


def answer(parameters: Mapping[str, object], metadata: bytes, frame: Frame) -> tuple[int, bytes]:
    """What a request comes to: the picture or the transcoded frame, or the class and the constant reason of why not."""
    wanted = parameters["wanted"]
    syntax, number = str(parameters["transfer_syntax_uid"]), int(str(parameters["frame_number"]))
    try:
        described = orjson.loads(metadata), syntax, number, frame
        if isinstance(wanted, str):
            made = transcode(*described, wanted).packed()
        else:
            made = render(*described, RenderOptions.from_json(wanted))  # type: ignore[arg-type]
    except MemoryError:
        return ERRORS[TooLarge], b"The frame needs more memory than a picture may take"
    except GatewayError as error:
        status = next((ERRORS[kind] for kind in type(error).__mro__ if kind in ERRORS), None)
        if status is None:
            raise
        return status, error.reason.encode("ascii", "replace")
    return OK, made


def serve(connection: socket.socket, memory: memoryview | None, seconds: float) -> None:
    """Say what the process is held by, then answer one request after the other until the other end closes."""
    send_answer(connection, READY, ready(confine()))
    while (request := receive_request(connection, memory)) is not None:
        limit_processor_time(seconds)
        send_answer(connection, *answer(*request))


def main(seconds: float, memory_bytes: int, shared: int | None = None) -> None:
    """Take the socket away from where libraries write, set the limits and serve.

    shared: the descriptor of the memory in which small frames come, if there is any.
    """
    memory = None if shared is None else memoryview(mmap.mmap(shared, SHARED_FRAME_BYTES, access=mmap.ACCESS_READ))
    if shared is not None:
        os.close(shared)
    connection = socket.socket(fileno=os.dup(0))
    nowhere = os.open(os.devnull, os.O_RDWR)
    for descriptor in (0, 1, 2):
        os.dup2(nowhere, descriptor)
    os.close(nowhere)
    limit_memory(memory_bytes)
    serve(connection, memory, seconds)


if __name__ == "__main__":
    main(float(sys.argv[1]), *map(int, sys.argv[2:]))
