"""From matches to conditions on rows: of columns, and of the rows that hold extended attributes. Pure.

Each says of a row of ``study``, ``series`` or ``instance`` what ``Match.accepts`` says of its element.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from storage.attributes import Attribute
from storage.index.columns import columns, words_column
from storage.index.dialect import Dialect, Statement
from storage.matching import Between, Exactly, Like, Match, MatchKind, Term
from storage.model import Level

TABLES = {Level.PATIENT: "study", Level.STUDY: "study", Level.SERIES: "series", Level.INSTANCE: "instance"}
"""The table whose rows have the attributes of a level."""
_MOST_WRITTEN = 4
"""Patterns, and pairs of limits, that a statement has one by one."""
WORDS_COMPONENT = 3
"""Of the rows of an extended name the one with its words, behind those of its three component groups."""


def joined(parts: Iterable[Statement], by: str) -> Statement:
    """Conditions as one."""
    texts, parameters = [], []
    for text, values in parts:
        texts.append(text)
        parameters += values
    return "(" + by.join(texts) + ")", parameters


def column_of(attribute: Attribute, column: str) -> str:
    """A column with its table."""
    return f"{TABLES[attribute.level]}.{column}"


def match_condition(match: Match, dialect: Dialect) -> Statement:
    """One match as a filter on its columns, or on its rows."""
    attribute = match.attribute
    if attribute.is_extended:
        return _extended_match(match, dialect)
    if match.kind is MatchKind.WORDS:
        return _value_condition(
            dialect.filtered(column_of(attribute, words_column(attribute))), match.terms[0], dialect
        )
    names = [column_of(attribute, column) for column in columns(attribute)]
    if match.kind is MatchKind.EMPTY:
        return "(" + " AND ".join(f"{dialect.filtered(name)} IS NULL" for name in names) + ")", []
    if attribute.vr == "IS" and attribute.is_computed:
        return _value_condition(f"CAST({names[0]} AS TEXT)", match.terms[0], dialect)
    if attribute.is_identity:
        return _value_condition(dialect.filtered(names[0]), match.terms[0], dialect)
    if len(match.terms) == 1:
        return joined([_column_condition(name, match.terms[0], dialect) for name in names], " OR ")
    given = [(name, terms) for name, terms in zip(names, match.terms, strict=True) if terms]
    return joined([_column_condition(name, terms, dialect) for name, terms in given], " AND ")


def _column_condition(column: str, terms: Sequence[Term], dialect: Dialect) -> Statement:
    """Any value of a column fits any term: its single one, or one of several."""
    place = dialect.filtered(column)
    single, parameters = _value_condition(place, terms, dialect)
    several, several_parameters = several_condition(column, place, terms, dialect)
    return f"(({place} > ' ' AND {single}) OR ({several}))", parameters + several_parameters


def several_condition(column: str, place: str, terms: Sequence[Term], dialect: Dialect) -> Statement:
    """A column holds several values, of which one fits a term. place: the column as a filter or a probe has it."""
    each, parameters = _value_condition("item.value", terms, dialect)
    text = f"{place} < ' ' AND EXISTS (SELECT 1 FROM {dialect.items(column, 'item')} WHERE {each})"  # noqa: S608 - constant column names
    return text, parameters


def extended_table(attribute: Attribute) -> str:
    """The table with the rows of an extended attribute."""
    return f"{TABLES[attribute.level]}_extended"


def _extended_match(match: Match, dialect: Dialect) -> Statement:
    """One match as a filter on the rows of an extended attribute, one for each value."""
    if match.kind is MatchKind.EMPTY:
        text, parameters = _has_row(match.attribute, f"held.component < {WORDS_COMPONENT}", [])
        return f"NOT {text}", parameters
    if match.kind is MatchKind.WORDS:
        parts = [(f"held.component = {WORDS_COMPONENT}", match.terms[0])]
    elif len(match.terms) == 1:
        parts = [(f"held.component < {WORDS_COMPONENT}", match.terms[0])]
    else:
        parts = [(f"held.component = {number}", terms) for number, terms in enumerate(match.terms) if terms]
    conditions = []
    for component, terms in parts:
        each, parameters = _value_condition(dialect.filtered("held.value"), terms, dialect)
        conditions.append(_has_row(match.attribute, f"{component} AND {each}", parameters))
    return joined(conditions, " AND ")


def _has_row(attribute: Attribute, condition: str, parameters: Sequence[str]) -> Statement:
    owner = column_of(attribute, "id")
    text = (
        f"EXISTS (SELECT 1 FROM {extended_table(attribute)} AS held "  # noqa: S608 - constant names
        f"WHERE held.owner = {owner} AND held.tag = ? AND {condition})"
    )
    return text, [attribute.tag, *parameters]


def same_items(matches: Sequence[Match], dialect: Dialect) -> list[Statement]:
    """Keys of one sequence must be fulfilled by the same item of it. PS3.4 §C.2.2.2.6

    Columns of the same sequence hold a place for each item when there are several; with one item, or none, the
    conditions on each column already say it. Rows of extended attributes have the number of their item always.
    """
    nested = [match for match in matches if match.attribute.is_nested and match.kind is not MatchKind.EMPTY]
    sequences = {match.attribute.top_tag for match in nested}
    groups = [[match for match in nested if match.attribute.top_tag == tag] for tag in sorted(sequences)]
    return [_same_item(group, dialect) for group in groups if len(group) > 1]


def _same_item(matches: Sequence[Match], dialect: Dialect) -> Statement:
    tables: list[str] = []
    keys: list[str] = []
    conditions: list[Statement] = []
    for number, match in enumerate(matches):
        attribute, place = match.attribute, f"place_{number}"
        if attribute.is_extended:
            tables.append(f"{extended_table(attribute)} AS {place}")
            keys.append(f"{place}.place")
            owner = f"{place}.owner = {column_of(attribute, 'id')} AND {place}.tag = ?"
            conditions.append((owner, [attribute.tag]))
            value = dialect.filtered(f"{place}.value")
        else:
            tables.append(dialect.items(column_of(attribute, attribute.column), place))
            keys.append(f"{place}.key")
            value = f"{place}.value"
        conditions.append(_value_condition(value, match.terms[0], dialect))
    links: list[Statement] = [(f"{key} = {keys[0]}", []) for key in keys[1:]]
    condition, parameters = joined([*links, *conditions], " AND ")
    text = f"EXISTS (SELECT 1 FROM {', '.join(tables)} WHERE {condition})"  # noqa: S608 - constant names
    held = next((column_of(m.attribute, m.attribute.column) for m in matches if not m.attribute.is_extended), "")
    return (f"({held} > ' ' OR {text})" if held else text), parameters


def _value_condition(expression: str, terms: Sequence[Term], dialect: Dialect) -> Statement:
    """Any of the terms holds for one value. A long list is bound as one value: statements stay short, and few."""
    parts: list[Statement] = []
    if exact := [term.text for term in terms if isinstance(term, Exactly)]:
        parts.append(equal_to(expression, exact, dialect))
    if patterns := [term.pattern for term in terms if isinstance(term, Like)]:
        few = len(patterns) <= _MOST_WRITTEN
        parts += (
            [dialect.fits(expression, one) for one in patterns] if few else [dialect.fits_any(expression, patterns)]
        )
    if limits := [(term.low, term.high) for term in terms if isinstance(term, Between)]:
        few = len(limits) <= _MOST_WRITTEN
        one_by_one: list[Statement] = [(f"{expression} BETWEEN ? AND ?", list(pair)) for pair in limits]
        parts += one_by_one if few else [dialect.within_any(expression, limits)]
    return joined(parts, " OR ")


def equal_to(expression: str, values: Sequence[str], dialect: Dialect) -> Statement:
    """It is one of the values."""
    return (f"{expression} = ?", list(values)) if len(values) == 1 else dialect.equals_any(expression, values)
