"""Stability: a series or study to which nothing has happened for a while is told of in the change feed.

It follows the feed by a place, and what it waits for lies in the outbox, due when the quiet time is over. All of a
step, what is new and what is due, is one transaction: so each quiet time gives one change however many processes watch,
none is lost with a process, and nothing is called stable of which the feed already says otherwise.
"""

from __future__ import annotations

from collections.abc import Callable

from storage.index.engine import Connection
from storage.model import SERIES_STABLE, STUDY_STABLE, Scope

ROUTE = "\\stable"  # no peer's name: an AE title has no backslash
AT_ONCE = 500
"""Changes that are looked at, and resources that are told of, in one transaction."""

_BEGIN = (
    "INSERT INTO route (name, sequence) VALUES (?, (SELECT coalesce(max(sequence), 0) FROM change)) "
    "ON CONFLICT (name) DO NOTHING"
)
_HAS_WORK = (
    "SELECT coalesce((SELECT max(sequence) FROM change), 0) > "
    "coalesce((SELECT sequence FROM route WHERE name = ?), -1) "
    "OR EXISTS (SELECT 1 FROM outbox WHERE route = ? AND due <= ?)"
)
_PLACE = "SELECT sequence FROM route WHERE name = ?"
_MOVE = "UPDATE route SET sequence = ? WHERE name = ?"
_CHANGES = (
    "SELECT sequence, kind, study_instance_uid, series_instance_uid FROM change WHERE sequence > ? "
    "ORDER BY sequence LIMIT ?"
)
# Whose key is the SOP Instance UID elsewhere: here that of the study, and behind a slash that of the series.
_PUT_OFF = (
    "INSERT INTO outbox (route, sop_instance_uid, study_instance_uid, series_instance_uid, due) VALUES (?, ?, ?, ?, ?) "
    "ON CONFLICT (route, sop_instance_uid) DO UPDATE SET due = excluded.due"
)
_DUE = (
    "SELECT sop_instance_uid, study_instance_uid, series_instance_uid FROM outbox WHERE route = ? AND due <= ? "
    "ORDER BY due, CASE series_instance_uid WHEN '' THEN 1 ELSE 0 END, sop_instance_uid LIMIT ?"
)
_TAKE_OUT = "DELETE FROM outbox WHERE route = ? AND sop_instance_uid = ?"
_HAS_STUDY = "SELECT 1 FROM study WHERE study_instance_uid = ?"
_HAS_SERIES = (
    "SELECT 1 FROM series JOIN study ON series.study = study.id WHERE study.study_instance_uid = ? "
    "AND series.series_instance_uid = ?"
)


def has_work(connection: Connection, now: int) -> bool:
    """Whether a step would find anything, new or due at ``now``, in seconds since 1970."""
    ((found,),) = connection.execute(_HAS_WORK, (ROUTE, ROUTE, now)).fetchall()
    return bool(found)


def step(connection: Connection, note: Callable[[str, Scope], None], now: int, due: int) -> bool:
    """Put off what something has happened to until ``due``, and note what is due at ``now``; whether there is more.

    In a transaction that alone may write. note: writes one change, behind all others. The first step ever begins at the
    end of the feed. What has been deleted meanwhile is not noted; a series comes before its study.
    """
    connection.execute(_BEGIN, (ROUTE,))
    ((place,),) = connection.execute(_PLACE, (ROUTE,)).fetchall()
    changes = connection.execute(_CHANGES, (place, AT_ONCE)).fetchall()
    touched = {
        resource: None
        for _, kind, study, series in changes
        if kind not in (SERIES_STABLE, STUDY_STABLE)
        for resource in ((study, ""), (study, series))
    }
    connection.executemany(
        _PUT_OFF, [(ROUTE, f"{study}/{series}".removesuffix("/"), study, series, due) for study, series in touched]
    )
    end = changes[-1][0] if changes else place
    told = 0
    if len(changes) < AT_ONCE:  # what the feed says of them is known up to its end
        noted, told = _note_due(connection, note, now)
        end += noted  # of our own: there is nothing to learn from them
    if end != place:
        connection.execute(_MOVE, (end, ROUTE))
    return AT_ONCE in (len(changes), told)


def _note_due(connection: Connection, note: Callable[[str, Scope], None], now: int) -> tuple[int, int]:
    """How many changes were noted, and for how many resources that were due."""
    noted = 0
    rows = connection.execute(_DUE, (ROUTE, now, AT_ONCE)).fetchall()
    for key, study, series in rows:
        connection.execute(_TAKE_OUT, (ROUTE, key))
        kind, text, uids = (
            (SERIES_STABLE, _HAS_SERIES, (study, series)) if series else (STUDY_STABLE, _HAS_STUDY, (study,))
        )
        if connection.execute(text, uids).fetchone() is not None:
            note(kind, Scope(study, series))
            noted += 1
    return noted, len(rows)
