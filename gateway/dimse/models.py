"""The Query/Retrieve Information Models as a table, and what is negotiated for each. Pure; PS3.4 §C.5, §C.6

Each model has its levels, each level one unique key; nothing else tells the models apart (D10).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from gateway.dimse.contexts import (
    PATIENT_ROOT_FIND,
    PATIENT_ROOT_GET,
    PATIENT_ROOT_MOVE,
    PATIENT_STUDY_ONLY_FIND,
    PATIENT_STUDY_ONLY_GET,
    PATIENT_STUDY_ONLY_MOVE,
    SERVICES,
    STUDY_ROOT_FIND,
    STUDY_ROOT_GET,
    STUDY_ROOT_MOVE,
    Service,
)
from storage.model import Level

LEVEL_NAMES = MappingProxyType(
    {"PATIENT": Level.PATIENT, "STUDY": Level.STUDY, "SERIES": Level.SERIES, "IMAGE": Level.INSTANCE}
)
"""Values of Query/Retrieve Level (0008,0052). PS3.4 Table C.6.1-1"""

UNIQUE_KEYS = MappingProxyType(
    {Level.PATIENT: "00100020", Level.STUDY: "0020000D", Level.SERIES: "0020000E", Level.INSTANCE: "00080018"}
)
"""The unique key of each level, by tag. PS3.4 §C.6.1.1, §C.6.2.1"""


@dataclass(frozen=True, slots=True)
class Model:
    """An information model: its levels, from the top."""

    levels: tuple[Level, ...]

    def unique_keys_above(self, level: Level) -> tuple[str, ...]:
        """Tags of the unique keys that say where a query at ``level`` looks, from the top. PS3.4 §C.4.1.2.1"""
        return tuple(UNIQUE_KEYS[above] for above in self.levels if above < level)


_PATIENT_ROOT = Model((Level.PATIENT, Level.STUDY, Level.SERIES, Level.INSTANCE))
_STUDY_ROOT = Model((Level.STUDY, Level.SERIES, Level.INSTANCE))
_PATIENT_STUDY_ONLY = Model((Level.PATIENT, Level.STUDY))  # retired in 2004, still asked for

MODELS: Mapping[str, Model] = MappingProxyType(
    {
        PATIENT_ROOT_FIND: _PATIENT_ROOT,
        PATIENT_ROOT_MOVE: _PATIENT_ROOT,
        PATIENT_ROOT_GET: _PATIENT_ROOT,
        STUDY_ROOT_FIND: _STUDY_ROOT,
        STUDY_ROOT_MOVE: _STUDY_ROOT,
        STUDY_ROOT_GET: _STUDY_ROOT,
        PATIENT_STUDY_ONLY_FIND: _PATIENT_STUDY_ONLY,
        PATIENT_STUDY_ONLY_MOVE: _PATIENT_STUDY_ONLY,
        PATIENT_STUDY_ONLY_GET: _PATIENT_STUDY_ONLY,
    }
)
"""The models by SOP Class. PS3.4 §C.6.1, §C.6.2, and §C.6.3 of editions until 2004"""


@dataclass(frozen=True, slots=True)
class Extended:
    """What SOP Class Extended Negotiation agreed on for the queries of one model. PS3.4 Tables C.5-1 and C.5-2

    Of the seven bytes three are never agreed: the second (dates and times matched as one, for a search asks each
    attribute on its own), the fourth (times moved to the query's time zone) and the fifth (another view of enhanced
    multi-frame images). Of a retrieval only the first is (PS3.4 Tables C.5-3 and C.5-4).
    """

    is_relational: bool = False
    is_fuzzy: bool = False
    has_empty_values: bool = False
    has_multiple_values: bool = False


_BYTES = {"is_relational": 0, "is_fuzzy": 2, "has_empty_values": 5, "has_multiple_values": 6}
_BYTES_OF_RETRIEVAL = {"is_relational": 0}
_EXTENDED_BYTES = 7


def negotiate_extended(proposed: Mapping[str, bytes]) -> tuple[dict[str, Extended], dict[str, bytes]]:
    """What is agreed of a proposal, and the application information to answer, both by SOP Class.

    The answer is as long as what was asked, for an older peer does not know the later bytes. PS3.4 §C.5.1.1
    """
    agreed: dict[str, Extended] = {}
    answer: dict[str, bytes] = {}
    for sop_class in MODELS.keys() & proposed.keys():
        information = proposed[sop_class][:_EXTENDED_BYTES]
        if not information:
            continue
        known = _BYTES if SERVICES[sop_class] is Service.QUERY else _BYTES_OF_RETRIEVAL
        asked = {name: information[at : at + 1] == b"\1" for name, at in known.items()}
        agreed[sop_class] = Extended(**asked)
        places = {at for name, at in known.items() if asked[name]}
        answer[sop_class] = bytes(at in places for at in range(len(information)))
    return agreed, answer
