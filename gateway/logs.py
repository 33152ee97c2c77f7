"""Log lines: JSON, a constant event name and allow-listed fields, one request id from door to archive.

Promises that no attribute value, UID, query or text of a foreign exception or library reaches a line, whatever is
logged: what is not in ``FIELDS`` is dropped, and other people's loggers lose their message text (H29, H30).
"""

from __future__ import annotations

import contextlib
import contextvars
import json
import logging
import re
import secrets
import sys
import threading
import time
import traceback
import warnings
from collections.abc import Mapping
from functools import lru_cache
from types import TracebackType
from typing import TextIO

FIELDS: Mapping[str, str] = {
    "actor_kind": "peer, web or operator",
    "address": "IP address of a peer, or an address we listen on",
    "attempt": "how often this was tried, from 1",
    "bytes": "size of what was moved",
    "child": "name of a process of the gateway, such as http-1",
    "command": "DIMSE command, such as C-STORE",
    "count": "how many",
    "door": "dimse, dicomweb, web or import",
    "error": "class of an exception",
    "exit_code": "of a process; negative: the signal that ended it",
    "hook": "name of a webhook of the settings",
    "kind": "which of the kinds that the event has",
    "level": "PATIENT, STUDY, SERIES or INSTANCE",
    "limit": "id of the limit that was passed, such as L3",
    "method": "HTTP method",
    "ms": "duration in milliseconds",
    "outcome": "stored, duplicate, variant, conflict, replaced or refused",
    "peer_ae": "AE title of the peer, printable ASCII",
    "pid": "process id",
    "port": "TCP port",
    "quarantine": "id of a refused instance that is kept",
    "reason": "constant phrase of ours",
    "route": "route template, never the path",
    "seconds": "duration in seconds",
    "status": "HTTP or DIMSE status",
    "tag": "attribute at fault, eight hex digits",
    "uid_digest": "eight hex digits that stand for a UID",
    "version": "of this software",
}

OURS = ("gateway", "storage")
FOREIGN_LEVELS = {"uvicorn.error": "WARNING", "py.warnings": "CRITICAL"}  # what tells nothing without its text
_EVENT = re.compile(r"[a-z0-9_]+(\.[a-z0-9_]+)+", re.ASCII)
_UID_LIKE = re.compile(r"\d+(\.\d+){4,}")
_STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}
_MAXIMUM_CHARACTERS = 200
_MAXIMUM_PLACES = 12
_HIDDEN = "(hidden)"

request_id: contextvars.ContextVar[str] = contextvars.ContextVar("request_id", default="")


def new_request_id() -> str:
    """A fresh id for one request or message; set it with ``request_id.set``."""
    return secrets.token_hex(8)


class BadLogLine(Exception):  # noqa: N818 - said of the line, by whoever wrote it
    """A line of ours that breaks the rules; raised only where ``logs.strict`` is set."""


def _is_ours(record: logging.LogRecord) -> bool:
    return record.name.split(".", 1)[0] in OURS


def _fault(record: logging.LogRecord) -> str:
    """What breaks the rules in a line of ours, or nothing."""
    if not isinstance(record.msg, str) or record.args or not _EVENT.fullmatch(record.msg):
        return f"{record.name}: an event is a constant dotted name without arguments"
    for key in vars(record).keys() - _STANDARD:
        if key not in FIELDS:
            return f"{record.msg}: field {key!r} is not in the table"
        if _shown(getattr(record, key)) == _HIDDEN:
            return f"{record.msg}: field {key!r} holds a UID or is not a plain value"
    return ""


def _shown(value: object) -> object:
    if isinstance(value, bool | int | float) or value is None:
        return value
    if not isinstance(value, str) or _UID_LIKE.search(value):
        return _HIDDEN
    return value[:_MAXIMUM_CHARACTERS]


class Strict(logging.Filter):
    """Raises BadLogLine in the code that logs, instead of dropping a field."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Let the record pass. Raises BadLogLine."""
        fault = _fault(record) if _is_ours(record) else ""
        if fault:
            raise BadLogLine(fault)
        return True


class JsonLines(logging.Formatter):
    """One line of JSON for a record: time, level, logger, event, request id, fields, and where an error came from."""

    def format(self, record: logging.LogRecord) -> str:
        """The line, without its end; control characters are escaped by JSON."""
        line: dict[str, object] = {
            "time": timestamp(record.created),
            "level": record.levelname,
            "logger": record.name,
            "event": "library.message",
        }
        if _is_ours(record):
            event = record.msg if isinstance(record.msg, str) else ""
            line["event"] = event if _EVENT.fullmatch(event) else _HIDDEN
            found = vars(record)
            line |= {key: _shown(found[key]) for key in FIELDS if key in found and key not in _STANDARD}
        if identity := request_id.get():
            line["request_id"] = identity
        if record.exc_info and record.exc_info[1] is not None:
            line |= describe(record.exc_info[1])
        return json.dumps(line, ensure_ascii=True)


def timestamp(seconds: float) -> str:
    """A time since the epoch as it stands in lines: UTC, to the millisecond."""
    whole = int(seconds)
    return f"{_second(whole)}.{int((seconds - whole) * 1000):03d}Z"


@lru_cache(maxsize=4)
def _second(whole: int) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(whole))


def describe(error: BaseException) -> dict[str, object]:
    """Classes of an exception and its causes, and the places in code it passed, innermost last; never its text."""
    classes: list[str] = []
    innermost, following = error, error
    while following is not None and len(classes) < _MAXIMUM_PLACES:
        classes.append(type(following).__name__)
        innermost, following = following, following.__cause__ or following.__context__  # type: ignore[assignment]
    where = _places(error.__traceback__)
    if innermost is not error:
        where += _places(innermost.__traceback__)[-1:]
    return {"error": classes[0], "caused_by": classes[1:], "where": where}


def _places(trace: TracebackType | None) -> list[str]:
    frames = list(traceback.walk_tb(trace))[-_MAXIMUM_PLACES:]
    return [f"{_short(frame.f_code.co_filename)}:{line} {frame.f_code.co_name}" for frame, line in frames]


def _short(path: str) -> str:
    """A source file below its package folder, as the folders above tell where the gateway is installed."""
    parts = path.split("/")
    for root in ("site-packages", *OURS):
        if root in parts[:-1]:
            at = len(parts) - 1 - parts[::-1].index(root)
            return "/".join(parts[at if root in OURS else at + 1 :])
    return parts[-1]


def configure(level: str = "INFO", *, strict: bool = False, stream: TextIO | None = None) -> None:
    """Send every logger's lines to ``stream``, standard error unless given, from ``level`` on.

    strict: a line of ours that breaks the rules raises BadLogLine where it is logged.
    """
    handler = logging.StreamHandler(stream or sys.stderr)
    handler.setFormatter(JsonLines())
    if strict:
        handler.addFilter(Strict())
    root = logging.getLogger()
    for old in [one for one in root.handlers if isinstance(one.formatter, JsonLines)]:
        root.removeHandler(old)
    root.addHandler(handler)
    root.setLevel("WARNING")
    for name in OURS:
        logging.getLogger(name).setLevel(level)
    for name, foreign_level in FOREIGN_LEVELS.items():
        logging.getLogger(name).setLevel(foreign_level)


def write_lines(text: str) -> None:
    """Write whole lines that are JSON already, in one go, where the others go."""
    for handler in logging.getLogger().handlers:
        if isinstance(handler, logging.StreamHandler) and isinstance(handler.formatter, JsonLines):
            with handler.lock or contextlib.nullcontext():
                handler.stream.write(text)
                handler.flush()


def guard_process() -> None:
    """For a process of the gateway: uncaught exceptions become lines; warnings, which hold values, are not shown."""
    logger = logging.getLogger("gateway.process")

    def crashed(kind: type[BaseException], error: BaseException | None, trace: TracebackType | None) -> None:
        if isinstance(error, KeyboardInterrupt | SystemExit):
            return
        logger.critical("process.error", exc_info=(kind, error or kind(), trace))

    sys.excepthook = crashed
    threading.excepthook = lambda args: crashed(args.exc_type, args.exc_value, args.exc_traceback)
    sys.unraisablehook = lambda args: crashed(args.exc_type, args.exc_value, args.exc_traceback)
    warnings.simplefilter("ignore")
