"""Why a query gives no answers, or not all. ``reason`` is a line for the terminal; each class has its exit code.

QueryError
├── BadUsage          2  what was asked for makes no sense, or cannot be asked of this server
├── Failed            1  the server failed, or what it says cannot be understood
├── Refused           4  the server understood, and will not answer
└── Unreachable       5  nobody there, or not in time
"""

from __future__ import annotations


class QueryError(Exception):
    """reason: whole sentences without control characters; foreign words in it have been cleaned."""

    exit_code = 1

    def __init__(self, reason: str) -> None:
        self.reason = reason
        super().__init__(reason)


class BadUsage(QueryError):
    """What was asked for makes no sense, or cannot be asked of this server."""

    exit_code = 2


class Failed(QueryError):
    """The server failed, or what it says cannot be understood."""


class Refused(QueryError):
    """The server understood, and will not answer."""

    exit_code = 4


class Unreachable(QueryError):
    """Nobody is there, or does not answer in time."""

    exit_code = 5
