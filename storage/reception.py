"""What a hook of the operator's gets of an instance that is received, and what it may say to it: all types it needs.

A hook is a function ``on_receive(reception: Reception) -> Verdict``. It runs before anything is kept, once for each
instance that comes, also for one that comes again, and must answer the same to the same. Whatever else it does than
answer in time makes the store fail: nothing is ever taken because a hook did not work.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType

import orjson

from storage.dictionary import tag_path
from storage.errors import Overloaded, PolicyFailed, RefusedByPolicy
from storage.filemeta import Announcement
from storage.model import JsonElement, Source
from storage.policy import Action, Coercion, coercion

__all__ = [
    "Accept",
    "Announcement",
    "Coerce",
    "Coercion",
    "Reception",
    "Reject",
    "Source",
    "Verdict",
    "fill",
    "prefix",
    "remove",
    "set_to",
]

logger = logging.getLogger("storage.reception")

MAXIMUM_AT_ONCE = 32
"""Calls of a hook that may run, or hang, at the same time in one process."""
_REASON_CHARACTERS = 64
_TELLING_CHARACTERS = 3
_MARK = b'"BulkDataURI":"\\u0000/'


@dataclass(frozen=True, slots=True)
class Reception:
    """An instance that has arrived and is not kept yet.

    announcement: SOP Class, SOP Instance and transfer syntax UID. source: door, AE title as the peer has sent it, and
    address. attributes: its Data Set in the DICOM JSON Model, by eight-digit tag (PS3.18 Annex F); a copy. Values too
    large for metadata, pixels among them, are references. size_bytes: of the Data Set.
    """

    announcement: Announcement
    source: Source
    attributes: Mapping[str, JsonElement] = field(repr=False)
    size_bytes: int

    def value(self, keyword: str) -> JsonElement | None:
        """The first value of an attribute by keyword or tag, None without one; of a name its alphabetic group."""
        element = self.attributes.get(tag_path(keyword)) or {}
        first = (element.get("Value") or [None])[0]
        return first.get("Alphabetic") if isinstance(first, dict) and element.get("vr") == "PN" else first


@dataclass(frozen=True, slots=True)
class Accept:
    """Take it as it is."""


@dataclass(frozen=True, slots=True)
class Reject:
    """Refuse it. reason: up to 64 characters of ASCII for the peer and the log; it must name no patient. One in which a
    value of the instance's patient stands is not passed on.
    """

    reason: str = ""


@dataclass(frozen=True, slots=True)
class Coerce:
    """Take it with changes, which come after those of the rules."""

    changes: Sequence[Coercion]


Verdict = Accept | Reject | Coerce
OnReceive = Callable[[Reception], Verdict]


def set_to(name: str, value: str) -> Coercion:
    """Give an attribute a value. Raises ValueError, as the others do, for what cannot be done."""
    return coercion(Action.SET, name, value)


def fill(name: str, value: str) -> Coercion:
    """Give an attribute a value if it has none."""
    return coercion(Action.FILL, name, value)


def prefix(name: str, text: str) -> Coercion:
    """Put text before each value of an attribute."""
    return coercion(Action.PREFIX, name, text)


def remove(name: str) -> Coercion:
    """Take an attribute out."""
    return coercion(Action.REMOVE, name)


class Hook:
    """Asks the operator's function, in a thread of its own for each question. Thread-safe.

    seconds: for an answer. One that does not come leaves its thread behind, for Python cannot end it; when
    ``MAXIMUM_AT_ONCE`` are left so, every store is refused until some of them end.
    """

    def __init__(self, on_receive: OnReceive, seconds: float) -> None:
        self._on_receive = on_receive
        self._seconds = seconds
        self._places = threading.BoundedSemaphore(MAXIMUM_AT_ONCE)

    def ask(self, reception: Reception) -> tuple[Coercion, ...]:
        """The changes that it wants. Raises RefusedByPolicy, PolicyFailed, or Overloaded when too many hang."""
        if not self._places.acquire(timeout=self._seconds):
            raise Overloaded("The hook is not answering")
        asked = _Question(self._on_receive, reception, self._places.release)
        threading.Thread(target=asked.run, name="on-receive", daemon=True).start()
        if not asked.is_answered.wait(self._seconds):
            logger.error("hook.failed", extra={"reason": "it took too long"})
            raise PolicyFailed("The hook took too long")
        verdict = asked.verdict
        if isinstance(verdict, Accept):
            return ()
        if isinstance(verdict, Reject):
            raise RefusedByPolicy(_fit(verdict.reason, reception.attributes))
        if isinstance(verdict, Coerce) and all(isinstance(change, Coercion) for change in verdict.changes):
            return tuple(verdict.changes)
        raise PolicyFailed("The hook failed")


class _Question:
    """One call of the hook. verdict: what it answered; None when it did not."""

    def __init__(self, on_receive: OnReceive, reception: Reception, leave: Callable[[], None]) -> None:
        self._on_receive = on_receive
        self._reception = reception
        self._leave = leave
        self.is_answered = threading.Event()
        self.verdict: object = None

    def run(self) -> None:
        """Call it, and say that it has ended."""
        try:
            self.verdict = self._on_receive(self._reception)
        except BaseException:  # also one that would end its thread
            logger.exception("hook.failed")
        finally:
            self._leave()
            self.is_answered.set()


def reception_of(
    announcement: Announcement, source: Source, json: Mapping[str, JsonElement], size_bytes: int
) -> Reception:
    """What a hook gets of a Data Set. json: stays ours; what the hook gets is a copy."""
    text = orjson.dumps(json).replace(_MARK, b'"BulkDataURI":"')
    return Reception(announcement, source, MappingProxyType(orjson.loads(text)), size_bytes)


def _fit(reason: object, attributes: Mapping[str, JsonElement]) -> str:
    """A reason that may be shown; the usual one instead of what is too long, no text, or tells of the patient."""
    if (
        not isinstance(reason, str)
        or len(reason) > _REASON_CHARACTERS
        or not (reason.isascii() and reason.isprintable())
    ):
        return ""
    said = reason.casefold()
    return "" if any(word in said for word in _words_of_patient(attributes)) else reason


def _words_of_patient(attributes: Mapping[str, JsonElement]) -> set[str]:
    """What names the patient, in the pieces that somebody may repeat."""
    values = [
        value
        for tag, element in attributes.items()
        if tag.startswith("0010") or tag == "00080050"
        for value in element.get("Value") or ()
    ]
    texts = [text for value in values for text in (value.values() if isinstance(value, dict) else [value])]
    words = (word for text in texts if isinstance(text, str) for word in text.casefold().replace("^", " ").split())
    return {word for word in words if len(word) >= _TELLING_CHARACTERS}
