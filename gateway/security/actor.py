"""Actor: who asks, with the verbs that are granted to them. Pure; the Session asks it before every act."""

from __future__ import annotations

import enum
from dataclasses import dataclass

from storage.errors import Forbidden


class Verb(enum.Enum):
    """What can be done with the archive, in PS3.18's words. HOLD: say what nobody may delete, and end that."""

    STORE = "store"
    SEARCH = "search"
    RETRIEVE = "retrieve"
    DELETE = "delete"
    HOLD = "hold"


EVERY_VERB = frozenset(Verb)


@dataclass(frozen=True, slots=True)
class Actor:
    """A peer, a web client or the local operator, and the verbs they hold.

    kind: ``peer``, ``web`` or ``operator``. name: AE title or subject; for the audit, never for the log.
    """

    kind: str
    name: str
    verbs: frozenset[Verb] = EVERY_VERB

    def permit(self, verb: Verb) -> None:
        """Raises Forbidden unless the verb is granted."""
        if verb not in self.verbs:
            raise Forbidden
