"""The search form of a value: how it is compared and sorted, the same for a value stored and a value asked for. Pure.

Text is in NFC without padding, a number is compared by its value, dates and times have all their digits, names are
folded, each component group for itself. PS3.4 §C.2.2.2, PS3.5 §6.2
"""

from __future__ import annotations

import calendar
import datetime as dt
import decimal
import re
import unicodedata
from collections.abc import Callable, Iterable, Mapping
from types import MappingProxyType

from storage.attributes import Attribute
from storage.model import JsonElement

# Of what is stored: more of a value, or more values, than this cannot be found, only returned.
MAXIMUM_SEARCHED_CHARACTERS = 1024
MAXIMUM_SEARCHED_VALUES = 64

NUMBER_VRS = frozenset(("DS", "FD", "FL", "IS", "SL", "SS", "SV", "UL", "US", "UV"))
COMPONENT_GROUPS = ("Alphabetic", "Ideographic", "Phonetic")

# Control characters, and what SQLite's patterns cannot tell from U+FFFD.
_CONTROLS = {**dict.fromkeys((*range(0x20), 0x7F), " "), 0xFFFE: "\ufffd", 0xFFFF: "\ufffd"}


def clean(text: str) -> str:
    """Text in NFC, without padding and control characters; what is not Unicode becomes a question mark, and
    noncharacters U+FFFD.
    """
    if text.isascii() and text.isprintable():
        return text.strip()
    text = text.encode("utf-8", "replace").decode("utf-8").translate(_CONTROLS)
    return unicodedata.normalize("NFC", text).strip()


def _text_form(value: JsonElement) -> str | None:
    return clean(str(value))[:MAXIMUM_SEARCHED_CHARACTERS].strip() or None


def number_form(value: JsonElement) -> str | None:
    """A number by its value: ``01`` and ``1.0`` are ``1``. None for what is no number, or not finite."""
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
    """Without padding; a NUL inside is seen as the reader of Data Sets shows it."""
    return str(value).strip(" \0").replace("\0", "\ufffd")[:64] or None


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


def date_form(value: JsonElement) -> str | None:
    """``YYYYMMDD``, from that or the older ``YYYY.MM.DD``; None for anything else. PS3.5 Table 6.2-1"""
    found = _DATE.fullmatch(clean(str(value)))
    if not found or not ("01" <= found[3] <= "12" and "01" <= found[4] <= "31"):
        return None
    return found[1] + found[3] + found[4]


def time_interval(text: str) -> tuple[str, str] | None:
    """First and last microsecond of a time of any precision, as ``HHMMSS.FFFFFF``. PS3.5 Table 6.2-1

    A minute ends with its leap second.
    """
    found = _TIME.fullmatch(clean(text))
    if not found:
        return None
    hour, minute, second, fraction = found[1], found[3], found[4], found[5]
    if hour > "23" or (minute or "") > "59" or (second or "") > "60":
        return None
    low = f"{hour}{minute or '00'}{second or '00'}.{(fraction or '').ljust(6, '0')}"
    high = f"{hour}{minute or '59'}{second or '60'}.{(fraction or '').ljust(6, '9')}"
    return low, high


def _time_form(value: JsonElement) -> str | None:
    interval = time_interval(str(value))
    return interval[0] if interval else None


def date_time_interval(text: str) -> tuple[str, str] | None:
    """First and last microsecond of a date-time, in UTC if it has an offset, as ``YYYYMMDDHHMMSS.FFFFFF``."""
    found = _DATE_TIME.fullmatch(clean(text))
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
    interval = date_time_interval(str(value))
    return interval[0] if interval else None


def name_form(text: str) -> str:
    """One component group of a name, or a pattern for one, folded. PS3.5 §6.2.1.2"""
    folded = unicodedata.normalize("NFC", clean(text).casefold())
    components = (component.strip() for component in folded[:MAXIMUM_SEARCHED_CHARACTERS].split("^"))
    return "^".join(components).rstrip("^ ")


_BETWEEN_WORDS = re.compile(r"[\s^=,.\-]+")
_ACCENTS = dict.fromkeys((*range(0x0300, 0x0370), 0x27, 0x2019, 0x60))  # with apostrophes: O'Brien is OBrien
_PLAIN = str.maketrans({"ø": "o", "ł": "l", "đ": "d", "ð": "d", "þ": "th", "æ": "ae", "œ": "oe", "ı": "i"})


def words_of(text: str) -> list[str]:
    """The words of a name, folded and without accents, in which fuzzy matching looks. PS3.4 §C.2.2.2.1"""
    folded = unicodedata.normalize("NFKD", clean(text).casefold()).translate(_ACCENTS).translate(_PLAIN)
    return [word for word in _BETWEEN_WORDS.split(unicodedata.normalize("NFC", folded)) if word]


def words_form(element: JsonElement | None) -> str | None:
    """The words of all names of an element, of all their component groups, each behind a blank; None without any."""
    names = list((element or {}).get("Value") or ())[:MAXIMUM_SEARCHED_VALUES]
    words = [word for name in names for group in _groups_of_name(name) for word in words_of(group)]
    return "".join(f" {word}" for word in dict.fromkeys(words))[:MAXIMUM_SEARCHED_CHARACTERS] or None


_FORMS: Mapping[str, Callable[[JsonElement], str | None]] = MappingProxyType(
    {
        **dict.fromkeys(NUMBER_VRS, number_form),
        "DA": date_form,
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
        value = dict(zip(COMPONENT_GROUPS, value.split("="), strict=False))
    if not isinstance(value, dict):
        return ["", "", ""]
    return [name_form(str(value.get(group) or "")) for group in COMPONENT_GROUPS]


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
