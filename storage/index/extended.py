"""The rows of extended attributes, and how far they go.

A table beside each of ``study``, ``series`` and ``instance`` has a row for every value. A row of ``extended_tag`` says
what the rows of a tag are made of, its definition, and up to which instance all of them are there. A tag is complete
when that is the last instance there is: whoever stores without knowing the tag makes it incomplete by that alone, and
does not have to be told of it. ``storage.index.reindex`` completes it. Writers take turns, so the ids of instances
ascend in the order of commits; where SQLite gives the id of the last one again, that one was deleted, which is seen to.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

from storage.attributes import Attribute, table
from storage.errors import BadQuery
from storage.forms import search_forms, words_form
from storage.index.conditions import TABLES, WORDS_COMPONENT
from storage.index.engine import Connection
from storage.matching import Match
from storage.model import JsonElement, Level

LAST_INSTANCE = "(SELECT coalesce(max(id), 0) FROM instance)"
_REGISTER = (
    "INSERT INTO extended_tag (tag, definition, indexed_to) VALUES (?, ?, 0) ON CONFLICT (tag) DO UPDATE "
    "SET definition = excluded.definition, indexed_to = 0 WHERE extended_tag.definition <> excluded.definition"
)
_ADVANCE = (
    f"UPDATE extended_tag SET indexed_to = {LAST_INSTANCE} WHERE tag = ? AND NOT EXISTS "  # noqa: S608 - constants
    "(SELECT 1 FROM instance WHERE instance.id > extended_tag.indexed_to AND instance.id < ?)"
)
_FALL_BACK = f"UPDATE extended_tag SET indexed_to = {LAST_INSTANCE} WHERE indexed_to > {LAST_INSTANCE}"  # noqa: S608 - constants
_COMPLETE = f"SELECT tag, definition FROM extended_tag WHERE indexed_to >= {LAST_INSTANCE}"  # noqa: S608 - constants


def definition_of(attribute: Attribute) -> str:
    """What the rows of an attribute are made of; with the keys beside it in the items of one sequence, because what is
    kept of that, and so which sequence is the first one of a study, depends on all of them.
    """
    beside = sorted(one.leaf_tag for one in table().extended if one.is_nested and one.top_tag == attribute.top_tag)
    text = f"{attribute.tag}/{attribute.creator}:{attribute.vr}@{attribute.level.name.lower()}"
    return " ".join((text, *beside))


def register(connection: Connection) -> None:
    """Announce the attributes of this process; one that was something else before has to be indexed anew."""
    known = places(connection)
    wanted = [one for one in table().extended if one not in known]
    connection.executemany(_REGISTER, [(one.tag, definition_of(one)) for one in wanted])


def places(connection: Connection) -> Mapping[Attribute, int]:
    """The attributes of this process whose rows are made as it would make them, and the instance up to which they are
    there. Of any other it may write none.
    """
    if not table().extended:
        return {}
    rows = connection.execute("SELECT tag, definition, indexed_to FROM extended_tag").fetchall()
    known = {(tag, definition): place for tag, definition, place in rows}
    named = {one: (one.tag, definition_of(one)) for one in table().extended}
    return {one: known[name] for one, name in named.items() if name in known}


def incomplete(connection: Connection, attributes: Iterable[Attribute]) -> list[Attribute]:
    """Those of extended attributes of which not all that is stored has its rows."""
    asked = [one for one in attributes if one.is_extended]
    complete = dict(connection.execute(_COMPLETE).fetchall()) if asked else {}
    return [one for one in asked if complete.get(one.tag) != definition_of(one)]


def refuse_incomplete(connection: Connection, matches: Iterable[Match]) -> None:
    """Raises BadQuery, naming the tag, where not all that is stored would be found by a key."""
    for attribute in incomplete(connection, (match.attribute for match in matches)):
        raise BadQuery("The attribute is still being indexed, search by it later", tag=attribute.tag)


def advance(connection: Connection, attributes: Iterable[Attribute], first_id: int) -> None:
    """Instances from ``first_id`` to the last one have their rows, and those before may have them, too."""
    connection.executemany(_ADVANCE, [(attribute.tag, first_id) for attribute in attributes])


def fall_back(connection: Connection) -> None:
    """Instances were deleted: an id that may come again is not one whose rows are there."""
    connection.execute(_FALL_BACK)


def of_table(attributes: Iterable[Attribute], level: Level) -> list[Attribute]:
    """Those whose rows lie beside the table of a level; a patient's lie beside the study's."""
    return [one for one in attributes if TABLES[one.level] == TABLES[level]]


def rows_of(attribute: Attribute, element: JsonElement | None) -> list[tuple[str, int, int, str]]:
    """Tag, component, place and search form of every value of an element; of a sequence for an attribute in it."""
    if element is None:
        return []
    rows = [
        (attribute.tag, component, place, form)
        for component, forms in enumerate(search_forms(attribute, element))
        for place, form in enumerate(forms)
        if form
    ]
    words = words_form(element) if attribute.vr == "PN" else None
    return [*rows, (attribute.tag, WORDS_COMPONENT, 0, words)] if words else rows


def insert_rows(
    connection: Connection,
    level: Level,
    owner: int,
    elements: Mapping[str, JsonElement],
    attributes: Iterable[Attribute],
) -> None:
    """Write the rows of a study, series or instance that has none of these attributes."""
    made = [(owner, *row) for one in attributes for row in rows_of(one, elements.get(one.top_tag))]
    if made:
        text = f"INSERT INTO {TABLES[level]}_extended (owner, tag, component, place, value) VALUES (?, ?, ?, ?, ?)"  # noqa: S608 - constants
        connection.executemany(text, made)


def replace_rows(
    connection: Connection,
    level: Level,
    owner: int,
    elements: Mapping[str, JsonElement],
    attributes: Collection[Attribute],
) -> None:
    """Write the rows anew."""
    text = f"DELETE FROM {TABLES[level]}_extended WHERE owner = ? AND tag = ?"  # noqa: S608 - constants
    connection.executemany(text, [(owner, one.tag) for one in attributes])
    insert_rows(connection, level, owner, elements, attributes)


def has_rows(connection: Connection, level: Level, owner: int, attributes: Sequence[Attribute]) -> bool:
    """Whether any of the attributes has a value there."""
    places = ", ".join("?" * len(attributes))
    text = f"SELECT EXISTS (SELECT 1 FROM {TABLES[level]}_extended WHERE owner = ? AND tag IN ({places}))"  # noqa: S608 - constants
    parameters: list[Any] = [owner, *(one.tag for one in attributes)]
    (found,) = connection.execute(text, parameters).fetchone()
    return bool(found)
