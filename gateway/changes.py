"""The form in which changes leave: one JSON object for each, the same in every answer and message. Pure.

It names what has changed by its UIDs and says nothing else of it.
"""

from __future__ import annotations

from collections.abc import Mapping

import orjson

from storage.model import Change


def as_object(change: Change) -> Mapping[str, int | str]:
    """A change as JSON has it: UIDs by their keywords, those below its level left out."""
    scope = change.scope
    uids = {
        "StudyInstanceUID": scope.study_instance_uid,
        "SeriesInstanceUID": scope.series_instance_uid,
        "SOPInstanceUID": scope.sop_instance_uid,
    }
    return {
        "sequence": change.sequence,
        "kind": change.kind,
        "level": scope.level.name,
        **{keyword: uid for keyword, uid in uids.items() if uid},
        "changed_at": change.changed_at,
    }


def as_event(change: Change) -> bytes:
    """A change as a server-sent event: its sequence is the id, its kind the name.

    https://html.spec.whatwg.org/multipage/server-sent-events.html
    """
    head = f"id: {change.sequence}\nevent: {change.kind}\ndata: "
    return head.encode("ascii") + orjson.dumps(as_object(change)) + b"\n\n"
