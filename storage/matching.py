"""Query and the kinds of matching: what is asked of the archive, whoever asks. Pure; it knows no SQL.

``Match.accepts`` is the reference: an index must answer as if it had asked it about every row. Values are compared
in their search form, which is the same for the value stored and the value asked for: text in NFC without padding,
numbers by value, dates and times in full digits, names folded. PS3.4 §C.2.2.2, PS3.18 §8.3.4

Where the standard leaves a choice: a date, time or date-time of partial precision stands for its whole interval; a
range of times whose end lies before its start goes over midnight; a date-time with an offset is compared in UTC.
"""

from __future__ import annotations

import calendar
import datetime as dt
import decimal
import enum
import re
import unicodedata
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal

from storage.attributes import Attribute
from storage.errors import BadQuery
from storage.model import JsonElement, Level, Scope

MAXIMUM_VALUE_CHARACTERS = 256
MAXIMUM_LISTED_VALUES = 1000
MAXIMUM_WILDCARDS = 8
MAXIMUM_MATCHES = 32
# Of what is stored: more of a value, or more values, than this cannot be found, only returned.
MAXIMUM_SEARCHED_CHARACTERS = 1024
MAXIMUM_SEARCHED_VALUES = 64

_WILDCARD_VRS = frozenset(("AE", "CS", "LO", "LT", "PN", "SH", "ST", "UC", "UR", "UT"))
_NUMBER_VRS = frozenset(("DS", "FD", "FL", "IS", "SL", "SS", "SV", "UL", "US", "UV"))
_LIST_VRS = frozenset(("CS", "UI"))  # neither comma nor backslash can be part of a value
_COMPONENT_GROUPS = ("Alphabetic", "Ideographic", "Phonetic")


# ---- search forms ------------------------------------------------------------------------------------------------

_CONTROLS = dict.fromkeys((*range(0x20), 0x7F), " ")


def _clean(text: str) -> str:
    if text.isascii() and text.isprintable():
        return text.strip()
    text = text.encode("utf-8", "replace").decode("utf-8").translate(_CONTROLS)
    return unicodedata.normalize("NFC", text).strip()


def _text_form(value: JsonElement) -> str | None:
    return _clean(str(value))[:MAXIMUM_SEARCHED_CHARACTERS].strip() or None


def _number_form(value: JsonElement) -> str | None:
    try:
        number = decimal.Decimal(str(value).strip(" \0"))
        if not number.is_finite():
            return None
        if number == number.to_integral_value() and number.adjusted() < 18:
            return str(int(number))
        return str(number.normalize())
    except ArithmeticError:
        return None


def _uid_form(value: JsonElement) -> str | None:
    return str(value).strip(" \0")[:64] or None


_DATE = re.compile(r"([0-9]{4})(\.?)([0-9]{2})\2([0-9]{2})", re.ASCII)
_TIME = re.compile(
    r"([0-9]{2})(?:(:?)([0-9]{2})(?:\2([0-9]{2})(?:\.([0-9]{1,6}))?)?)?",
    re.ASCII,
)
_DATE_TIME = re.compile(
    r"([0-9]{4})(?:([0-9]{2})(?:([0-9]{2})(?:([0-9]{2})(?:([0-9]{2})(?:([0-9]{2})(?:\.([0-9]{1,6}))?)?)?)?)?)?"
    r"([+-][0-9]{4})?",
    re.ASCII,
)


def _date_form(value: JsonElement) -> str | None:
    found = _DATE.fullmatch(_clean(str(value)))
    if not found or not ("01" <= found[3] <= "12" and "01" <= found[4] <= "31"):
        return None
    return found[1] + found[3] + found[4]


def _time_interval(text: str) -> tuple[str, str] | None:
    """First and last microsecond of a time of any precision, as ``HHMMSS.FFFFFF``. PS3.5 Table 6.2-1"""
    found = _TIME.fullmatch(_clean(text))
    if not found:
        return None
    hour, minute, second, fraction = found[1], found[3], found[4], found[5]
    if hour > "23" or (minute or "") > "59" or (second or "") > "60":
        return None
    low = f"{hour}{minute or '00'}{second or '00'}.{(fraction or '').ljust(6, '0')}"
    high = f"{hour}{minute or '59'}{second or '59'}.{(fraction or '').ljust(6, '9')}"
    return low, high


def _time_form(value: JsonElement) -> str | None:
    interval = _time_interval(str(value))
    return interval[0] if interval else None


def _date_time_interval(text: str) -> tuple[str, str] | None:
    """First and last microsecond of a date-time, in UTC if it has an offset, as ``YYYYMMDDHHMMSS.FFFFFF``."""
    found = _DATE_TIME.fullmatch(_clean(text))
    if not found:
        return None
    year, month, day, hour, minute, second, fraction, offset = found.groups()
    second = "59" if second == "60" else second
    try:
        last_month = month or "12"
        last_day = day or str(calendar.monthrange(int(year), int(last_month))[1])
        low = _moment(year, month or "01", day or "01", hour or "00", minute or "00", second or "00")
        high = _moment(year, last_month, last_day, hour or "23", minute or "59", second or "59")
        shift = _shift(offset)
        return (
            _date_time_text(low.replace(microsecond=int((fraction or "").ljust(6, "0"))) - shift),
            _date_time_text(high.replace(microsecond=int((fraction or "").ljust(6, "9"))) - shift),
        )
    except (ValueError, OverflowError):
        return None


def _moment(*parts: str) -> dt.datetime:
    year, month, day, hour, minute, second = (int(part) for part in parts)
    return dt.datetime(year, month, day, hour, minute, second, tzinfo=dt.UTC)


def _shift(offset: str | None) -> dt.timedelta:
    if not offset:
        return dt.timedelta(0)
    minutes = int(offset[1:3]) * 60 + int(offset[3:5])
    if not -12 * 60 <= (signed := -minutes if offset[0] == "-" else minutes) <= 14 * 60:
        raise ValueError
    return dt.timedelta(minutes=signed)


def _date_time_text(moment: dt.datetime) -> str:
    return f"{moment.year:04d}{moment:%m%d%H%M%S}.{moment.microsecond:06d}"


def _date_time_form(value: JsonElement) -> str | None:
    interval = _date_time_interval(str(value))
    return interval[0] if interval else None


def _name_form(text: str) -> str:
    """One component group of a name, or a pattern for one, folded. PS3.5 §6.2.1.2"""
    folded = unicodedata.normalize("NFC", _clean(text).casefold())
    components = (component.strip() for component in folded[:MAXIMUM_SEARCHED_CHARACTERS].split("^"))
    return "^".join(components).rstrip("^ ")


_FORMS: Mapping[str, Callable[[JsonElement], str | None]] = MappingProxyType(
    {
        **dict.fromkeys(_NUMBER_VRS, _number_form),
        "DA": _date_form,
        "DT": _date_time_form,
        "TM": _time_form,
        "UI": _uid_form,
    }
)


def _form(vr: str, value: JsonElement) -> str | None:
    if value is None or isinstance(value, (dict, list, bool)):
        return None
    return _FORMS.get(vr, _text_form)(value)


def _groups_of_name(value: JsonElement) -> list[str]:
    if isinstance(value, str):  # not the JSON Model, but some converters write it
        value = dict(zip(_COMPONENT_GROUPS, value.split("="), strict=False))
    if not isinstance(value, dict):
        return ["", "", ""]
    return [_name_form(str(value.get(group) or "")) for group in _COMPONENT_GROUPS]


def search_forms(attribute: Attribute, element: JsonElement | None) -> tuple[tuple[str | None, ...], ...]:
    """The values of an element as they are compared: one tuple, or three for the component groups of names.

    A value that its VR does not allow has no search form: it is returned, but found by no key. For an attribute in
    a sequence ``element`` is the sequence, and there is one place for each item, None where it has no value.
    """
    found = list((element or {}).get("Value") or ())[:MAXIMUM_SEARCHED_VALUES]
    if attribute.is_nested:
        return (tuple(_form(attribute.vr, _first_value(item, attribute.leaf_tag)) for item in found),)
    if attribute.vr == "PN":
        names = [_groups_of_name(value) for value in found]
        return tuple(_distinct(name[group] for name in names) for group in range(3))
    return (_distinct(_form(attribute.vr, value) for value in found),)


def _first_value(item: JsonElement, tag: str) -> JsonElement | None:
    element = item.get(tag) if isinstance(item, dict) else None
    return next(iter((element or {}).get("Value") or ()), None)


def _distinct(values: Iterable[str | None]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(value for value in values if value))


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
    return [text for part in parts if (text := _STARS.sub("*", _clean(part)))]


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


_OPEN_END = re.compile(r"[\^*]*\^[\^*]*\*$")


def _name_terms(text: str) -> tuple[Term, ...]:
    """A name or a pattern; ``DOE^*`` also finds a DOE without further components."""
    pattern = _STARS.sub("*", _name_form(text))
    if not pattern.strip("*"):
        return ()
    terms = [_pattern_or_text(pattern)]
    if found := _OPEN_END.search(pattern):
        start = pattern[: found.start()] + ("*" if found[0].startswith("*") else "")
        terms.append(_pattern_or_text(start))
    return tuple(terms)


def _uid_terms(text: str) -> tuple[Term, ...] | None:
    return (Exactly(text),) if re.fullmatch(r"[0-9.]{1,64}", text, re.ASCII) else None


def _number_terms(text: str) -> tuple[Term, ...] | None:
    form = _number_form(text)
    return None if form is None else (Exactly(form),)


def _date_terms(text: str) -> tuple[Term, ...] | None:
    low_text, dash, high_text = text.partition("-")
    if not dash:
        form = _date_form(text)
        return None if form is None else (Exactly(form),)
    low = _date_form(low_text) if low_text.strip() else "00000000"
    high = _date_form(high_text) if high_text.strip() else "99999999"
    if low is None or high is None or low > high or text.strip() == "-":
        return None
    return (Between(low, high),)


def _time_terms(text: str) -> tuple[Term, ...] | None:
    low_text, dash, high_text = text.partition("-")
    if not dash:
        interval = _time_interval(text)
        return None if interval is None else (Between(*interval),)
    low = _time_interval(low_text) if low_text.strip() else ("000000.000000", "")
    high = _time_interval(high_text) if high_text.strip() else ("", "235960.999999")
    if low is None or high is None or text.strip() == "-":
        return None
    if low[0] <= high[1]:
        return (Between(low[0], high[1]),)
    return Between(low[0], "235960.999999"), Between("000000.000000", high[1])


def _date_time_terms(text: str) -> tuple[Term, ...] | None:
    """A date-time or a range of them. A hyphen that starts an offset from UTC makes no range. PS3.4 §C.2.2.2.5.4"""
    if interval := _date_time_interval(text):
        return (Between(*interval),)
    for dash in (found.start() for found in re.finditer("-", text)):
        low_text, high_text = text[:dash].strip(), text[dash + 1 :].strip()
        low = _date_time_interval(low_text) if low_text else ("00000101000000.000000", "")
        high = _date_time_interval(high_text) if high_text else ("", "99991231235959.999999")
        if low and high and (low_text or high_text):
            return (Between(low[0], high[1]),) if low[0] <= high[1] else None
    return None


_READERS: Mapping[str, _Reader] = MappingProxyType(
    {
        **dict.fromkeys(_NUMBER_VRS, _number_terms),
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
    if len(texts) > 1 or len(groups) > len(_COMPONENT_GROUPS):
        raise BadQuery("The value of a key is malformed", tag=attribute.tag)
    given = [_terms(attribute, group) if group.strip("* ") else () for group in groups]
    terms = tuple(given + [()] * (len(_COMPONENT_GROUPS) - len(given)))
    every = [term for group in terms for term in group]
    return Match(attribute, _kind(every, 1), terms) if every else Match(attribute, MatchKind.UNIVERSAL)


# ---- Query -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Query:
    """A search: the level of the answers, what they must match, what they hold, and which page of them.

    matches: all must hold; a match on a level below asks that one series or instance exists for which all matches
    below hold. scope: the study or series that a path names, of which any part may be missing ("" for a study that
    the path leaves open). include: tags of the attribute table to return beyond the default, or ``"all"``; what is
    matched is returned, too. fuzzy: a name without wildcards is also found by the beginnings of its words, in any
    order. limit: answers at most, None for no limit. offset: answers to skip.
    """

    level: Level
    matches: tuple[Match, ...] = ()
    scope: Scope | None = None
    include: frozenset[str] | Literal["all"] = frozenset()
    fuzzy: bool = False
    limit: int | None = None
    offset: int = 0

    def __post_init__(self) -> None:
        if len(self.matches) > MAXIMUM_MATCHES:
            raise BadQuery("The query has too many keys")
        if self.offset < 0 or (self.limit is not None and self.limit < 0):
            raise BadQuery("Limit and offset are counts")

    def conditions(self) -> tuple[Match, ...]:
        """The matches to apply: without the universal ones, and with names as words where the query is fuzzy."""
        asked = (match for match in self.matches if match.kind is not MatchKind.UNIVERSAL)
        return tuple(one for match in asked for one in (_as_words(match) if self.fuzzy else (match,)))


def _as_words(match: Match) -> tuple[Match, ...]:
    if match.attribute.vr != "PN" or match.kind is not MatchKind.SINGLE or len(match.terms) != 1:
        return (match,)
    text = "^".join(term.text for term in match.terms[0] if isinstance(term, Exactly))
    words = [word for word in re.split(r"[\s^]+", text) if word]
    return tuple(
        Match(match.attribute, MatchKind.WILDCARD, ((Like(f"{word}*"), Like(f"*^{word}*"), Like(f"* {word}*")),))
        for word in words
    )
