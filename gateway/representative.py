"""The instance that stands for a study or series: the middle of its stack, found without reading all of it."""

from __future__ import annotations

from gateway.session import Session
from storage.attributes import by_keyword
from storage.matching import Match, Query
from storage.model import Answer, Instance, Level, Scope

# Series that are about other series, or hold no picture that anybody would know the study by. PS3.3 §C.7.3.1.1.1
_SECONDARY = frozenset(
    """
    ANN ASMT AU DOC ECG EPS FID HD KO M3D PLAN PR REG RESP RTDOSE RTINTENT RTPLAN RTRAD RTRECORD RTSEGANN RTSTRUCT RWV
    SEG SMR SR STAIN TEXTUREMAP
    """.split()  # noqa: SIM905 - a table to be read
)
_SERIES_READ, _SERIES_LOOKED_AT, _INSTANCES_LOOKED_AT = 1_000, 8, 1_000
_MODALITY, _INSTANCES = "00080060", "00201209"
_SERIES_INSTANCE_UID = by_keyword("SeriesInstanceUID")


def representative(session: Session, scope: Scope) -> Instance:
    """The instance itself; the middle one of a series; of a study that of its largest series of images.

    An instance without frames stands only for what has no others, as far as a few looks tell. Raises NotFound or Gone.
    """
    if scope.level is Level.INSTANCE:
        return session.instances(scope)[0]
    found = _series(session, scope)
    if not found:
        return session.instances(scope)[0]
    for series in found[:_SERIES_LOOKED_AT]:
        chosen = _middle(session, series)
        if chosen.number_of_frames:
            return chosen
    largest = found[0]
    if _count(largest) > _INSTANCES_LOOKED_AT:
        return _middle(session, largest)
    every = session.instances(largest.scope)  # a series of several kinds of objects
    images = [instance for instance in every if instance.number_of_frames] or every[:1]
    return images[len(images) // 2]


def _middle(session: Session, series: Answer) -> Instance:
    answers = session.search(Query(Level.INSTANCE, scope=series.scope, limit=1, offset=_count(series) // 2))
    return session.instances(answers[0].scope if answers else series.scope)[0]


def _series(session: Session, scope: Scope) -> list[Answer]:
    """The series in question, those with the most instances first, image series before all others."""
    uid = scope.series_instance_uid
    matches = (Match.of(_SERIES_INSTANCE_UID, uid),) if uid and _SERIES_INSTANCE_UID else ()
    answers = session.search(Query(Level.SERIES, matches, Scope(scope.study_instance_uid), limit=_SERIES_READ))
    return sorted(answers, key=_merit, reverse=True)


def _merit(series: Answer) -> tuple[bool, int]:
    modality = (series.attributes.get(_MODALITY, {}).get("Value") or [""])[0]
    return modality not in _SECONDARY, _count(series)


def _count(series: Answer) -> int:
    return int((series.attributes.get(_INSTANCES, {}).get("Value") or [1])[0])
