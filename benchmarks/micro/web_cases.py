"""What DICOMweb adds: multipart in and out, reading a query, writing the answers of a search."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Iterator, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path

from starlette.types import ASGIApp, Message

from benchmarks.corpus import BLOCK_STUDIES, FRAME_BYTES, TinyStudy
from benchmarks.micro.timing import Case
from gateway.app import open_sessions
from gateway.asgi import application
from gateway.dicomweb.multipart import PART_ENDS, MultipartParser, body_ends, new_boundary, part, part_begins
from gateway.dicomweb.qido import query_of, read_parameters
from gateway.pixels.pool import RenderPool
from gateway.security.actor import Actor
from gateway.settings import Settings
from storage.model import Level, Source

_BODY_BYTES = 8 << 20
_CHUNKS = (4 << 10, 16 << 10, 64 << 10, 1 << 20)
_BOUNDARY = new_boundary()


def _payloads() -> Mapping[str, tuple[bytes, str]]:
    """What a part may hold, friendly and hostile, and the boundary that it is hostile to. None may cost more (L7)."""
    return {
        "random": (os.urandom(1 << 20), _BOUNDARY),
        "CR LF - -": (b"\r\n--", _BOUNDARY),
        "CR LF - -, boundary of one character": (b"\r\n--", "a"),
        "dashes in a boundary of dashes": (b"-", "-" * 70),
        "half of the boundary": (b"\r\n--" + _BOUNDARY[:16].encode(), _BOUNDARY),
        "boundary but its last character": (b"\r\n--" + _BOUNDARY[:-1].encode(), _BOUNDARY),
        "letters of the boundary": (b"a", "a" * 69 + "b"),
        "boundaries that are none": (b"\r\n--" + _BOUNDARY.encode() + b"x", _BOUNDARY),
    }


def _parse(chunks: list[bytes], boundary: str) -> int:
    parser = MultipartParser(boundary)
    data_bytes = 0
    for chunk in chunks:
        data_bytes += sum(len(event) for event in parser.feed(chunk) if isinstance(event, memoryview))
    parser.finish()
    return data_bytes


def _multipart() -> Iterator[Case]:
    for name, (unit, boundary) in _payloads().items():
        payload = unit * (_BODY_BYTES // len(unit))
        body = part_begins(boundary, "application/dicom") + payload + PART_ENDS + body_ends(boundary)
        for chunk_bytes in _CHUNKS:
            chunks = [body[at : at + chunk_bytes] for at in range(0, len(body), chunk_bytes)]
            if _parse(chunks, boundary) != len(payload):
                raise ValueError("the parser lost bytes")
            title = f"multipart parse, {chunk_bytes >> 10:>4} KiB: {name}"
            yield Case(title, partial(_parse, chunks, boundary), len(body))
    frame = bytes(FRAME_BYTES)
    yield Case("multipart part, begins", lambda: part_begins(_BOUNDARY, "application/octet-stream", "/frames/1"))
    yield Case(
        "multipart part, whole frame",
        lambda: sum(map(len, part(_BOUNDARY, "application/octet-stream", [frame]))),
    )


def _ask(app: ASGIApp, runner: asyncio.Runner, path: str, query: str) -> int:
    """A GET inside this process, without a socket or an HTTP parser; returns the bytes of its answer."""
    scope = {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": "GET",
        "scheme": "http",
        "path": path,
        "raw_path": path.encode(),
        "query_string": query.encode(),
        "root_path": "",
        "headers": [(b"host", b"127.0.0.1:8080"), (b"accept", b"application/dicom+json")],
        "client": ("127.0.0.1", 50000),
        "server": ("127.0.0.1", 8080),
    }
    sent: list[Message] = []

    async def receive() -> Message:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: Message) -> None:
        sent.append(message)

    async def ask() -> None:
        await app(scope, receive, send)

    runner.run(ask())
    if sent[0]["status"] != 200:
        raise ValueError("a search was refused")
    return sum(len(message.get("body", b"")) for message in sent[1:])


def _searches(folder: Path, stack: contextlib.ExitStack) -> Iterator[Case]:
    defaults = Settings()
    settings = replace(defaults, archive=replace(defaults.archive, data=folder))
    sessions = stack.enter_context(open_sessions(settings))
    session = sessions(Actor("benchmark", ""))
    for number in range(BLOCK_STUDIES):
        with session.spool() as spool:
            spool.write(TinyStudy(number).part10())
            session.store(spool, Source("benchmark"))
    app = application(settings, sessions, stack.enter_context(RenderPool()))
    runner = stack.enter_context(asyncio.Runner())
    for title, path, query in (
        ("studies limit=25", "/dicomweb/studies", "limit=25"),
        ("studies limit=200", "/dicomweb/studies", "limit=200"),
        ("studies by PatientID", "/dicomweb/studies", "PatientID=PID0000042"),
        ("instances limit=200", "/dicomweb/instances", "limit=200"),
    ):
        size_bytes = _ask(app, runner, path, query)
        yield Case(f"QIDO {title}", partial(_ask, app, runner, path, query), size_bytes)
    asked = b"PatientName=ALDER12%5EA*&StudyDate=20240101-20240331&includefield=StudyDescription&limit=25"
    yield Case("QIDO query, read", lambda: query_of(read_parameters(asked), Level.STUDY, settings.http))


def cases(folder: Path, stack: contextlib.ExitStack) -> Iterator[Case]:
    """Multipart, then searches over an archive of 250 studies that is made in ``folder`` and closed by ``stack``."""
    yield from _multipart()
    yield from _searches(folder, stack)
