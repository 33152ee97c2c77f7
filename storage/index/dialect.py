"""Dialect: where the SQL of the two engines differs, as text. Pure.

A condition is written in two ways. As a *filter* it is checked for every row that the chosen path leads to, and no
index may be tempted by it; as a *probe* it asks an index for the few rows that can fit, perhaps some more (see
``storage.index.probes``). Patterns are those of ``Like``: ``*`` and ``?``.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, Protocol

import orjson

Statement = tuple[str, list[Any]]

MINIMUM_RUN = 3
"""Characters that a piece of text needs to be looked up: a trigram."""
_PROBED_CHARACTERS = 128  # of a value, in PostgreSQL's indexes: their entries may not be longer than 2,704 bytes
_RUN_TRIGRAMS = 3
_WILDCARDS = re.compile(r"[*?]+")
_UNFIT = re.compile(r'[\\"]+')  # characters that several values are kept with in another spelling


class Dialect(Protocol):
    """One engine's way to say it. Columns are ``table.column``; all values are bound."""

    no_limit: int | None
    """Bound as LIMIT where there is none."""
    join: str
    """Joins tables in the order in which they are written."""

    def filtered(self, column: str) -> str:
        """A column in a filter."""
        ...

    def probed(self, column: str) -> str:
        """A column in a probe: of a value at least what ``probe_value`` leaves of it."""
        ...

    def probe_value(self, value: str) -> str:
        """What a value is compared as in a probe."""
        ...

    def items(self, column: str, alias: str) -> str:
        """The values of a column that holds several, as rows with ``key``, from 0, and ``value``; none for others."""
        ...

    def fits(self, expression: str, pattern: str) -> Statement:
        """Whether a value fits a pattern."""
        ...

    def among(self, expression: str, ids: Sequence[int]) -> Statement:
        """Whether an id is one of those."""
        ...

    def equals_any(self, expression: str, texts: Sequence[str]) -> Statement:
        """Whether a value is one of those, however many; the statement is no longer for it."""
        ...

    def fits_any(self, expression: str, patterns: Sequence[str]) -> Statement:
        """Whether a value fits one of those patterns, however many; the statement is no longer for it."""
        ...

    def within_any(self, expression: str, limits: Sequence[tuple[str, str]]) -> Statement:
        """Whether a value lies between a pair of limits, however many; the statement is no longer for it."""
        ...

    def having(self, table: str, column: str, patterns: Sequence[str]) -> Statement | None:
        """The ids of rows whose column may fit all of the patterns, by the trigrams of its text; None without any."""
        ...


def runs_of(patterns: Sequence[str]) -> list[str]:
    """The pieces of patterns that every value that fits has in it, as single and several values are kept."""
    runs = (run for pattern in patterns for run in _WILDCARDS.split(pattern))
    pieces = (piece for run in runs for piece in _UNFIT.split(run))
    return [piece for piece in pieces if len(piece) >= MINIMUM_RUN]


class Sqlite:
    """SQLite: GLOB, ``json_each``, and a table of trigrams (FTS5) beside the one it belongs to."""

    no_limit: int | None = -1
    join = "CROSS JOIN"

    def filtered(self, column: str) -> str:
        """See ``Dialect.filtered``. The planner takes no index for an expression."""
        return f"+{column}"

    def probed(self, column: str) -> str:
        """See ``Dialect.probed``."""
        return column

    def probe_value(self, value: str) -> str:
        """See ``Dialect.probe_value``."""
        return value

    def items(self, column: str, alias: str) -> str:
        """See ``Dialect.items``."""
        return f"json_each(CASE WHEN {column} < ' ' THEN substr({column}, 2) END) AS {alias}"

    def fits(self, expression: str, pattern: str) -> Statement:
        """See ``Dialect.fits``."""
        return f"{expression} GLOB ?", [_glob(pattern)]

    def among(self, expression: str, ids: Sequence[int]) -> Statement:
        """See ``Dialect.among``."""
        return f"{expression} IN (SELECT value FROM json_each(?))", [_json(ids)]  # noqa: S608 - constant names

    def equals_any(self, expression: str, texts: Sequence[str]) -> Statement:
        """See ``Dialect.equals_any``."""
        return f"{expression} IN (SELECT value FROM json_each(?))", [_json(texts)]  # noqa: S608 - constant names

    def fits_any(self, expression: str, patterns: Sequence[str]) -> Statement:
        """See ``Dialect.fits_any``."""
        text = f"EXISTS (SELECT 1 FROM json_each(?) AS pattern WHERE {expression} GLOB pattern.value)"  # noqa: S608 - constant names
        return text, [_json([_glob(pattern) for pattern in patterns])]

    def within_any(self, expression: str, limits: Sequence[tuple[str, str]]) -> Statement:
        """See ``Dialect.within_any``."""
        span = "span.value ->> 0 AND span.value ->> 1"
        text = f"EXISTS (SELECT 1 FROM json_each(?) AS span WHERE {expression} BETWEEN {span})"  # noqa: S608 - constant names
        return text, [_json(limits)]

    def having(self, table: str, column: str, patterns: Sequence[str]) -> Statement | None:
        """See ``Dialect.having``. Of a long piece of text some trigrams are enough; rows that are not in the table of
        trigrams yet are few, and looked at.
        """
        wanted: list[str] = []
        runs = runs_of(patterns)
        for run in runs:
            every = [run[at : at + MINIMUM_RUN] for at in range(len(run) - MINIMUM_RUN + 1)]
            wanted += every[:: max(1, len(every) // _RUN_TRIGRAMS)]
        if not wanted:
            return None
        expression = " AND ".join(f'"{trigram}"' for trigram in dict.fromkeys(wanted))
        condition = " AND ".join([f"instr(waiting.{column}, ?) > 0"] * len(runs))
        text = (
            f"SELECT rowid AS id FROM {table}_text WHERE {table}_text MATCH ? "  # noqa: S608 - constant names
            f"UNION ALL SELECT waiting.id FROM {table}_text_pending AS pending CROSS JOIN {table} AS waiting "
            f"ON waiting.id = pending.{table} WHERE {condition}"
        )
        return text, [f"{column} : ({expression})", *runs]


class Postgresql:
    """PostgreSQL: LIKE, ``jsonb``, indexes on expressions that only probes write, and pg_trgm."""

    no_limit: int | None = None
    join = "JOIN"

    def filtered(self, column: str) -> str:
        """See ``Dialect.filtered``. There are indexes on expressions only."""
        return column

    def probed(self, column: str) -> str:
        """See ``Dialect.probed``."""
        return f"left({column}, {_PROBED_CHARACTERS})"

    def probe_value(self, value: str) -> str:
        """See ``Dialect.probe_value``."""
        return value[:_PROBED_CHARACTERS]

    def items(self, column: str, alias: str) -> str:
        """See ``Dialect.items``. Values compare by code point, as columns do."""
        each = f"jsonb_array_elements_text(CASE WHEN {column} < ' ' THEN substr({column}, 2)::jsonb END)"
        return (
            f'(SELECT each.key - 1 AS key, each.value COLLATE "C" AS value '  # noqa: S608 - constant names
            f"FROM {each} WITH ORDINALITY AS each (value, key)) AS {alias}"
        )

    def fits(self, expression: str, pattern: str) -> Statement:
        """See ``Dialect.fits``."""
        return f"{expression} LIKE ?", [_like(pattern)]

    def among(self, expression: str, ids: Sequence[int]) -> Statement:
        """See ``Dialect.among``."""
        return f"{expression} = ANY(?)", [list(ids)]

    def equals_any(self, expression: str, texts: Sequence[str]) -> Statement:
        """See ``Dialect.equals_any``."""
        return f"{expression} = ANY(?)", [list(texts)]

    def fits_any(self, expression: str, patterns: Sequence[str]) -> Statement:
        """See ``Dialect.fits_any``."""
        return f"{expression} LIKE ANY(?)", [[_like(pattern) for pattern in patterns]]

    def within_any(self, expression: str, limits: Sequence[tuple[str, str]]) -> Statement:
        """See ``Dialect.within_any``."""
        spans = "unnest(?::text[], ?::text[]) AS span (low, high)"
        text = f"EXISTS (SELECT 1 FROM {spans} WHERE {expression} BETWEEN span.low AND span.high)"  # noqa: S608 - constant names
        return text, [[low for low, _ in limits], [high for _, high in limits]]

    def having(self, table: str, column: str, patterns: Sequence[str]) -> Statement | None:
        """See ``Dialect.having``. The index is on an expression that changes nothing."""
        runs = runs_of(patterns)
        if not runs:
            return None
        condition = " AND ".join([f"substr({table}.{column}, 1) LIKE ?"] * len(runs))
        return f"SELECT {table}.id FROM {table} WHERE {condition}", [_like(f"*{run}*") for run in runs]  # noqa: S608 - constant names


def _json(values: Sequence[Any]) -> str:
    return orjson.dumps(list(values)).decode()


def _glob(pattern: str) -> str:
    """A bracket would open a set of characters."""
    return pattern.replace("[", "[[]")


_LIKE = str.maketrans({"%": "\\%", "_": "\\_", "\\": "\\\\", "*": "%", "?": "_"})


def _like(pattern: str) -> str:
    return pattern.translate(_LIKE)


SQLITE: Dialect = Sqlite()
POSTGRESQL: Dialect = Postgresql()
