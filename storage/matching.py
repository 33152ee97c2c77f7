"""Query and the kinds of matching: what is asked of the archive, whoever asks. Pure; it knows no SQL.

``Match.accepts`` is the reference: an index must answer as if it had asked it about every row. Values are compared
in their search form (``storage.forms``). PS3.4 §C.2.2.2, PS3.18 §8.3.4

Where the standard leaves a choice: a date, time or date-time of partial precision stands for its whole interval; a
range of times whose end lies before its start goes over midnight; a date-time with an offset is compared in UTC.
"""

from __future__ import annotations

import enum
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal

from storage.attributes import Attribute
from storage.errors import BadQuery
from storage.forms import (
    COMPONENT_GROUPS,
    NUMBER_VRS,
    clean,
    date_form,
    date_time_interval,
    name_form,
    number_form,
    search_forms,
    time_interval,
    words_form,
    words_of,
)
from storage.model import JsonElement, Level, Scope

MAXIMUM_VALUE_CHARACTERS = 256
MAXIMUM_LISTED_VALUES = 1000
MAXIMUM_WILDCARDS = 8
MAXIMUM_MATCHES = 32
MAXIMUM_WORDS = 16  # of a name that is matched fuzzily

_WILDCARD_VRS = frozenset(("AE", "CS", "LO", "LT", "PN", "SH", "ST", "UC", "UR", "UT"))
_LIST_VRS = frozenset(("CS", "UI"))  # neither comma nor backslash can be part of a value


# ---- terms: what one value must be -------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Exactly:
    """The value is this text."""

    text: str

    def accepts(self, value: str) -> bool:
        """Whether a search form is it."""
        return value == self.text


@dataclass(frozen=True, slots=True)
class Like:
    """The value fits a pattern in which ``*`` is any run of characters and ``?`` any one. PS3.4 §C.2.2.2.4"""

    pattern: str

    def accepts(self, value: str) -> bool:
        """Whether a search form fits; in time proportional to pattern times value, whatever the pattern."""
        pattern = self.pattern
        at = here = 0
        star = -1
        resume = 0
        while at < len(value):
            if here < len(pattern) and pattern[here] == "*":
                star, resume = here, at
                here += 1
            elif here < len(pattern) and pattern[here] in ("?", value[at]):
                here += 1
                at += 1
            elif star >= 0:
                resume += 1
                at, here = resume, star + 1
            else:
                return False
        return all(character == "*" for character in pattern[here:])


@dataclass(frozen=True, slots=True)
class Between:
    """The value lies from ``low`` to ``high``, both included, in code point order. PS3.4 §C.2.2.2.5"""

    low: str
    high: str

    def accepts(self, value: str) -> bool:
        """Whether a search form lies between."""
        return self.low <= value <= self.high


Term = Exactly | Like | Between


class MatchKind(enum.Enum):
    """The kinds of PS3.4 §C.2.2.2. Sequence matching is in the attribute's path, a list of values in the terms."""

    UNIVERSAL = "universal"
    SINGLE = "single value"
    LIST = "list of values"
    WILDCARD = "wildcard"
    RANGE = "range"
    EMPTY = "empty value"
    WORDS = "words of a name"


@dataclass(frozen=True, slots=True)
class Match:
    """One key of a query: the attribute, and what its value must be.

    terms: any of them may hold, for any value. There is one tuple of them, tried on every component group of a
    name, or three, of which each that is not empty must hold in its own component group.
    """

    attribute: Attribute
    kind: MatchKind
    terms: tuple[tuple[Term, ...], ...] = ()

    @classmethod
    def of(cls, attribute: Attribute, raw_text: str, *, empty: bool = False, multiple: bool = False) -> Match:
        """The key as a peer wrote it, decoded to Unicode.

        empty: two quotation marks ask for no value (PS3.4 §C.2.2.2.7). multiple: a backslash separates values of
        every VR (PS3.4 §C.2.2.2.8), not only of UI and CS, which may be listed with backslash or comma always.
        Raises BadQuery, naming the tag: for an attribute without a column, a value that its VR does not have, more
        than 256 characters or 8 wildcards in a value, or more than 1,000 values.
        """
        if not attribute.is_key:
            raise BadQuery("The attribute cannot be searched", tag=attribute.tag)
        if empty and raw_text.strip() == '""':
            return cls(attribute, MatchKind.EMPTY)
        texts = _listed(attribute, raw_text, multiple=multiple)
        if not texts or any(not text.strip("*") for text in texts):
            return cls(attribute, MatchKind.UNIVERSAL)
        if attribute.vr == "PN" and any("=" in text for text in texts):
            return _match_of_groups(attribute, texts)
        terms = tuple(dict.fromkeys(term for text in texts for term in _terms(attribute, text)))
        if not terms:
            return cls(attribute, MatchKind.UNIVERSAL)
        return cls(attribute, _kind(terms, len(texts)), (terms,))

    def accepts(self, element: JsonElement | None) -> bool:
        """Whether an element of the DICOM JSON Model matches; None where the Data Set does not have it.

        For an attribute in a sequence, the sequence. This is the meaning; indexes are tested against it.
        """
        if self.kind is MatchKind.UNIVERSAL:
            return True
        if self.kind is MatchKind.WORDS:
            words = words_form(element)
            return words is not None and _any_holds(self.terms[0], (words,))
        forms = search_forms(self.attribute, element)
        if self.kind is MatchKind.EMPTY:
            return not any(value for group in forms for value in group)
        if len(self.terms) == 1:
            return any(_any_holds(self.terms[0], group) for group in forms)
        return all(not terms or _any_holds(terms, group) for terms, group in zip(self.terms, forms, strict=True))


def _any_holds(terms: Sequence[Term], values: Sequence[str | None]) -> bool:
    return any(term.accepts(value) for value in values if value is not None for term in terms)


def _kind(terms: Sequence[Term], listed: int) -> MatchKind:
    if listed > 1:
        return MatchKind.LIST
    if any(isinstance(term, Like) for term in terms):
        return MatchKind.WILDCARD
    return MatchKind.RANGE if any(isinstance(term, Between) for term in terms) else MatchKind.SINGLE


# ---- reading one key ---------------------------------------------------------------------------------------------

_STARS = re.compile(r"\*+")


def _listed(attribute: Attribute, raw_text: str, *, multiple: bool) -> list[str]:
    """The values of a key, checked for length and freed of padding; empty ones left out."""
    if attribute.vr in _LIST_VRS:
        parts = raw_text.replace(",", "\\").split("\\")
    else:
        parts = raw_text.split("\\") if multiple else [raw_text]
    if len(parts) > MAXIMUM_LISTED_VALUES:
        raise BadQuery("The key lists too many values", tag=attribute.tag)
    if any(len(part) > MAXIMUM_VALUE_CHARACTERS for part in parts):
        raise BadQuery("The value of a key is too long", tag=attribute.tag)
    if any("\ud800" <= character <= "\udfff" for part in parts for character in part):
        raise BadQuery("The value of a key is not Unicode text", tag=attribute.tag)
    return [text for part in parts if (text := _STARS.sub("*", clean(part)))]


def _terms(attribute: Attribute, text: str) -> tuple[Term, ...]:
    terms = _READERS.get(attribute.vr, _exact_terms)(text)
    if terms is None:
        raise BadQuery("The value of a key is malformed", tag=attribute.tag)
    if any(isinstance(term, Like) and len(_WILDCARDS.findall(term.pattern)) > MAXIMUM_WILDCARDS for term in terms):
        raise BadQuery("The value of a key has too many wildcards", tag=attribute.tag)
    return terms


_WILDCARDS = re.compile(r"[*?]")
_Reader = Callable[[str], tuple[Term, ...] | None]


def _pattern_or_text(text: str) -> Term:
    return Like(text) if _WILDCARDS.search(text) else Exactly(text)


def _exact_terms(text: str) -> tuple[Term, ...]:
    return (Exactly(text),)


def _text_terms(text: str) -> tuple[Term, ...]:
    return (_pattern_or_text(text),)


def _name_terms(text: str) -> tuple[Term, ...]:
    """A name or a pattern; ``DOE^*`` also finds a DOE without further components."""
    pattern = _STARS.sub("*", name_form(text))
    if not pattern.strip("*"):
        return ()
    terms = [_pattern_or_text(pattern)]
    start = pattern.rstrip("^*")
    end = pattern[len(start) :]
    if "^" in end and end.endswith("*"):
        terms.append(_pattern_or_text(start + ("*" if end.startswith("*") else "")))
    return tuple(terms)


def _uid_terms(text: str) -> tuple[Term, ...] | None:
    return (Exactly(text),) if re.fullmatch(r"[0-9.]{1,64}", text, re.ASCII) else None


def _number_terms(text: str) -> tuple[Term, ...] | None:
    form = number_form(text)
    return None if form is None else (Exactly(form),)


def _date_terms(text: str) -> tuple[Term, ...] | None:
    low_text, dash, high_text = text.partition("-")
    if not dash:
        form = date_form(text)
        return None if form is None else (Exactly(form),)
    low = date_form(low_text) if low_text.strip() else "00000000"
    high = date_form(high_text) if high_text.strip() else "99999999"
    if low is None or high is None or low > high or text.strip() == "-":
        return None
    return (Between(low, high),)


def _time_terms(text: str) -> tuple[Term, ...] | None:
    low_text, dash, high_text = text.partition("-")
    if not dash:
        interval = time_interval(text)
        return None if interval is None else (Between(*interval),)
    low = time_interval(low_text) if low_text.strip() else ("000000.000000", "")
    high = time_interval(high_text) if high_text.strip() else ("", "235960.999999")
    if low is None or high is None or text.strip() == "-":
        return None
    if low[0] <= high[1]:
        return (Between(low[0], high[1]),)
    return Between(low[0], "235960.999999"), Between("000000.000000", high[1])


def _date_time_terms(text: str) -> tuple[Term, ...] | None:
    """A date-time or a range of them. A hyphen that starts an offset from UTC makes no range. PS3.4 §C.2.2.2.5.4"""
    if interval := date_time_interval(text):
        return (Between(*interval),)
    for dash in (found.start() for found in re.finditer("-", text)):
        low_text, high_text = text[:dash].strip(), text[dash + 1 :].strip()
        low = date_time_interval(low_text) if low_text else ("00000101000000.000000", "")
        high = date_time_interval(high_text) if high_text else ("", "99991231235959.999999")
        if low and high and (low_text or high_text):
            return (Between(low[0], high[1]),) if low[0] <= high[1] else None
    return None


_READERS: Mapping[str, _Reader] = MappingProxyType(
    {
        **dict.fromkeys(NUMBER_VRS, _number_terms),
        **dict.fromkeys(_WILDCARD_VRS, _text_terms),
        "DA": _date_terms,
        "DT": _date_time_terms,
        "PN": _name_terms,
        "TM": _time_terms,
        "UI": _uid_terms,
    }
)


def _match_of_groups(attribute: Attribute, texts: Sequence[str]) -> Match:
    """A name in several component groups: each that is given must match in its own group."""
    groups = texts[0].split("=")
    if len(texts) > 1 or len(groups) > len(COMPONENT_GROUPS):
        raise BadQuery("The value of a key is malformed", tag=attribute.tag)
    given = [_terms(attribute, group) if group.strip("* ") else () for group in groups]
    terms = tuple(given + [()] * (len(COMPONENT_GROUPS) - len(given)))
    every = [term for group in terms for term in group]
    return Match(attribute, _kind(every, 1), terms) if every else Match(attribute, MatchKind.UNIVERSAL)


# ---- Query -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Query:
    """A search: the level of the answers, what they must match, what they hold, and which page of them.

    matches: all must hold; a match on a level below asks that one series or instance exists for which all matches
    below hold. scope: the study or series that a path names, of which any part may be missing ("" for a study that
    the path leaves open). include: tags of the attribute table to return beyond the default, of instances any others
    as well, or ``"all"``; what is matched is returned, too. fuzzy: each word of a name without inner wildcards begins
    some word of the name, in any order and component group, whatever its accents; it lies anywhere in the name after a
    leading ``*``. limit: answers at most, None for no limit. offset: answers to skip. after: ``Answer.place`` of the
    answer before the first one.
    """

    level: Level
    matches: tuple[Match, ...] = ()
    scope: Scope | None = None
    include: frozenset[str] | Literal["all"] = frozenset()
    fuzzy: bool = False
    limit: int | None = None
    offset: int = 0
    after: tuple[str | int, ...] | None = None

    def __post_init__(self) -> None:
        if len(self.matches) > MAXIMUM_MATCHES:
            raise BadQuery("The query has too many keys")
        if self.offset < 0 or (self.limit is not None and self.limit < 0):
            raise BadQuery("Limit and offset are counts")
        self.conditions()  # refuses names of too many words

    def conditions(self) -> tuple[Match, ...]:
        """The matches to apply: without the universal ones, and with names as words where the query is fuzzy."""
        asked = (match for match in self.matches if match.kind is not MatchKind.UNIVERSAL)
        return tuple(one for match in asked for one in (_as_words(match) if self.fuzzy else (match,)))


def _as_words(match: Match) -> tuple[Match, ...]:
    """A name as one match for each of its words. A pattern that has wildcards within stays what it is."""
    if match.attribute.vr != "PN" or len(match.terms) != 1 or match.kind not in (MatchKind.SINGLE, MatchKind.WILDCARD):
        return (match,)
    term = match.terms[0][0]
    text = term.text if isinstance(term, Exactly) else term.pattern if isinstance(term, Like) else ""
    asked = text.strip("*")
    words = list(dict.fromkeys(words_of(asked)))
    if len(words) > MAXIMUM_WORDS:
        raise BadQuery("The value of a key has too many words", tag=match.attribute.tag)
    if not words or any(map(_WILDCARDS.search, (asked, *words))):  # a fullwidth one is in its words only
        return (match,)
    anywhere = "*" if text.startswith("*") else "* "
    return tuple(Match(match.attribute, MatchKind.WORDS, ((Like(f"{anywhere}{word}*"),),)) for word in words)
