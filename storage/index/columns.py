"""From attributes to the columns that are searched and sorted by, and back. Pure.

A column holds the search forms of an attribute: NULL for none, the text of a single one, or U+001F followed by a
JSON array of several. A search form never starts with a control character, so the two cannot be taken for each
other, and a single value, which is the rule, can be found by the column's index. Names have a column for each
component group, and one for their words.
"""

from __future__ import annotations

import decimal
from collections.abc import Mapping, Sequence
from functools import cache

import orjson

from storage.attributes import ATTRIBUTES, Attribute
from storage.forms import search_forms, words_form
from storage.model import JsonElement, Level

SEVERAL = "\x1f"
LAST = 1 << 62  # an order for what has no number: behind everything that has one
_GROUP_SUFFIXES = ("", "_ideographic", "_phonetic")
_NO_DATE, _NO_TIME = "00000000", "000000.000000"


def columns(attribute: Attribute) -> tuple[str, ...]:
    """Names of the columns of a key: one, or three for the component groups of a name."""
    return tuple(attribute.column + suffix for suffix in (_GROUP_SUFFIXES if attribute.vr == "PN" else ("",)))


def words_column(attribute: Attribute) -> str:
    """Name of the column that holds the words of a name, for fuzzy matching."""
    return f"{attribute.column}_words"


def pack(values: Sequence[str | None]) -> str | None:
    """Search forms as a column's value."""
    if not any(values):
        return None
    return values[0] if len(values) == 1 else SEVERAL + orjson.dumps(values).decode()


def unpack(value: str | None) -> list[str]:
    """A column's value as search forms."""
    if not value:
        return []
    return list(orjson.loads(value[1:])) if value.startswith(SEVERAL) else [value]


@cache
def derived_keys(*levels: Level) -> tuple[Attribute, ...]:
    """The keys of those levels whose columns follow from the Data Set's attributes."""
    return tuple(a for a in ATTRIBUTES if a.level in levels and a.is_key and not (a.is_computed or a.is_identity))


@cache
def derived_columns(*levels: Level) -> tuple[str, ...]:
    """The columns of ``derived_values``, in the same order."""
    keys = derived_keys(*levels)
    names = tuple(column for attribute in keys for column in columns(attribute))
    return names + tuple(words_column(attribute) for attribute in keys if attribute.vr == "PN")


@cache
def _derived(*levels: Level) -> tuple[tuple[Attribute, str, tuple[None, ...]], ...]:
    """Each key with the tag of its element and what its columns hold without one."""
    return tuple((one, one.top_tag, (None,) * len(columns(one))) for one in derived_keys(*levels))


def derived_values(attributes: Mapping[str, JsonElement], *levels: Level) -> list[str | None]:
    """What the columns hold for these attributes, given by tag in the DICOM JSON Model."""
    values: list[str | None] = []
    for attribute, tag, nothing in _derived(*levels):
        element = attributes.get(tag)
        values += nothing if element is None else map(pack, search_forms(attribute, element))
    return values + [words_form(attributes.get(tag)) for tag in _names(*levels)]


@cache
def _names(*levels: Level) -> tuple[str, ...]:
    return tuple(attribute.tag for attribute in derived_keys(*levels) if attribute.vr == "PN")


def first_form(attributes: Mapping[str, JsonElement], attribute: Attribute) -> str | None:
    """The first value of an attribute that has a search form."""
    element = attributes.get(attribute.top_tag)
    return next((form for group in search_forms(attribute, element) for form in group if form), None)


def number_order(form: str | None) -> int:
    """An integer that sorts as the number does. Missing and absurd ones go last."""
    if form is None:
        return LAST
    if len(form) < 18 and form.isdecimal():
        return int(form)
    number = decimal.Decimal(form)
    return int(number) if abs(number) < LAST else LAST


def date_order(date_form: str | None, time_form: str | None) -> str:
    """A text that sorts as date and time do; without a date before all others."""
    return (date_form or _NO_DATE) + (time_form or _NO_TIME)
