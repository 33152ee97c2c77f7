"""Index anew: instances that were stored before a tag was there get their rows, from the metadata kept of them.

One chunk at a time is read and worked out beside all others who read and write, and then written in one transaction
with the place reached, unless anything of it was changed meanwhile: whoever is killed lost nothing, and of several who
do the same one gets on. A study or series has the first value of its instances in the order in which they came.
"""

from __future__ import annotations

import zlib
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from storage.attributes import ATTRIBUTES, Attribute, level_attributes
from storage.dicomjson import read_metadata
from storage.errors import CorruptObject
from storage.index.conditions import TABLES
from storage.index.engine import Connection
from storage.index.extended import LAST_INSTANCE, has_rows, of_table, places, replace_rows, rows_of
from storage.index.fragments import attributes_text, read_attributes
from storage.model import JsonElement, Level

AT_ONCE = 100
MOST_BYTES = 4 << 20
"""Of packed metadata, after which a chunk ends: a large one takes as long to read as many others."""
_LEVELS = {
    Level.STUDY: (Level.PATIENT, Level.STUDY),
    Level.SERIES: (Level.SERIES,),
    Level.INSTANCE: (Level.INSTANCE,),
}
_STANDARD = frozenset(attribute.tag for attribute in ATTRIBUTES)
_Elements = Mapping[str, JsonElement]

_INSTANCES = (
    "SELECT instance.id, instance.digest, instance.sop_instance_uid, instance.series, series.study "
    "FROM instance JOIN series ON instance.series = series.id WHERE instance.id > ? AND instance.id <= ? "
    "ORDER BY instance.id LIMIT ?"
)
_HAS_EARLIER = {
    Level.STUDY: (
        "SELECT EXISTS (SELECT 1 FROM series JOIN instance ON instance.series = series.id "
        "WHERE series.study = ? AND instance.id < ?)"
    ),
    Level.SERIES: "SELECT EXISTS (SELECT 1 FROM instance WHERE series = ? AND id < ?)",
}


@dataclass(frozen=True, slots=True)
class Found:
    """One instance as it was read, and what it says of the attributes.

    owners: the ids of its study, its series and itself.
    """

    row: tuple[object, ...]
    owners: Mapping[Level, int]
    elements: Mapping[Level, _Elements]


@dataclass(frozen=True, slots=True)
class Chunk:
    """The next instances for those attributes that are the farthest behind.

    start, end: ids; all instances behind the start and up to the end are in it. last: the last there is.
    """

    attributes: tuple[Attribute, ...]
    start: int
    end: int
    last: int
    found: tuple[Found, ...]


def read_chunk(connection: Connection) -> Chunk | None:
    """The next chunk, None when every attribute is complete. Raises CorruptObject for metadata that cannot be read."""
    ((last,),) = connection.execute(f"SELECT {LAST_INSTANCE}").fetchall()
    known = places(connection)
    behind = [place for place in known.values() if place < last]
    if not behind:
        return None
    start = min(behind)
    stop = min([place for place in behind if place > start], default=last)
    rows = connection.execute(_INSTANCES, (start, stop, AT_ONCE)).fetchall()
    tags = frozenset(one.top_tag for one in known)
    found: list[Found] = []
    read_bytes = 0
    for row in rows:
        packed = _metadata(connection, row[0])
        found.append(_found(packed, row, tags))
        read_bytes += len(packed)
        if read_bytes >= MOST_BYTES:
            break
    is_cut = len(found) == AT_ONCE or len(found) < len(rows)
    end = found[-1].owners[Level.INSTANCE] if is_cut else stop
    return Chunk(tuple(one for one, place in known.items() if place == start), start, end, last, tuple(found))


def _metadata(connection: Connection, instance: int) -> bytes:
    """What is kept of it, packed; empty if it was deleted just now."""
    found = connection.execute("SELECT metadata FROM document WHERE instance = ?", (instance,)).fetchone()
    return bytes(found[0]) if found else b""


def _found(packed: bytes, row: Sequence[Any], tags: Collection[str]) -> Found:
    """What the metadata of an instance says of some tags."""
    instance, _, uid, series, study = row
    try:
        kept = level_attributes(read_metadata(packed, "")) if packed else {}
    except (zlib.error, ValueError) as error:
        raise CorruptObject("The metadata of an instance cannot be read", uid=uid) from error
    elements = {
        level: {tag: element for one in levels for tag, element in kept.get(one, {}).items() if tag in tags}
        for level, levels in _LEVELS.items()
    }
    return Found(tuple(row), {Level.STUDY: study, Level.SERIES: series, Level.INSTANCE: instance}, elements)


def write_chunk(connection: Connection, chunk: Chunk) -> bool:
    """Write the rows of a chunk, in a transaction; False, and nothing, if it is not what it was when it was read."""
    known = places(connection)
    rows = connection.execute(_INSTANCES, (chunk.start, chunk.end, AT_ONCE)).fetchall()
    if any(known.get(one) != chunk.start for one in chunk.attributes):
        return False
    if [tuple(row) for row in rows] != [one.row for one in chunk.found]:
        return False
    for level in _LEVELS:
        tops = {one.top_tag for one in of_table(chunk.attributes, level)}
        attributes = [one for one in of_table(known, level) if one.top_tag in tops]
        if attributes:
            for owner, found in _by_owner(chunk.found, level).items():
                _write_owner(connection, level, owner, attributes, found)
    ends = [(chunk.end, one.tag) for one in chunk.attributes]
    connection.executemany("UPDATE extended_tag SET indexed_to = ? WHERE tag = ?", ends)
    return True


def _by_owner(found: Iterable[Found], level: Level) -> Mapping[int, list[Found]]:
    owners: dict[int, list[Found]] = {}
    for one in found:
        owners.setdefault(one.owners[level], []).append(one)
    return owners


def _write_owner(
    connection: Connection, level: Level, owner: int, attributes: Sequence[Attribute], found: Sequence[Found]
) -> None:
    """What a study, series or instance keeps, and its rows, after these instances of it."""
    (text,) = connection.execute(f"SELECT attributes FROM {TABLES[level]} WHERE id = ?", (owner,)).fetchone()  # noqa: S608 - constants
    before = read_attributes(text)
    kept = dict(before)
    is_first = level is Level.INSTANCE or _is_first(connection, level, owner, found[0].owners[Level.INSTANCE])
    for top in sorted({one.top_tag for one in attributes}):
        keys = [one for one in attributes if one.top_tag == top]
        given = [element for one in found if (element := one.elements[level].get(top)) is not None]
        if top in _STANDARD:
            given = [element for element in given if _is_the_same(kept.get(top), element, keys)]
        elif is_first:
            kept.pop(top, None)
        elif has_rows(connection, level, owner, keys):
            continue
        if given:
            kept[top] = _first(keys, given)
    if kept != before:
        levels = _LEVELS[level]
        changed = (attributes_text(kept, *levels), owner)
        connection.execute(f"UPDATE {TABLES[level]} SET attributes = ? WHERE id = ?", changed)  # noqa: S608 - constants
    replace_rows(connection, level, owner, kept, attributes)


def _is_first(connection: Connection, level: Level, owner: int, instance: int) -> bool:
    """Whether no instance of a study or series came before: what is kept of it may be by another definition."""
    (has_earlier,) = connection.execute(_HAS_EARLIER[level], (owner, instance)).fetchone()
    return not has_earlier


def _first(keys: Sequence[Attribute], given: Sequence[JsonElement]) -> JsonElement:
    """The first element that can be found by a key, else the first."""
    findable = (element for element in given if any(rows_of(one, element) for one in keys))
    return next(findable, given[0])


def _is_the_same(kept: JsonElement | None, element: JsonElement, keys: Sequence[Attribute]) -> bool:
    """Whether an element is what is kept of a standard attribute already, but for the keys in the items of a
    sequence, of which it may have more; or nothing is kept.
    """
    if kept is None:
        return True
    leaves = {one.leaf_tag for one in keys if one.is_nested}
    return bool(leaves) and _without(kept, leaves) == _without(element, leaves)


def _without(element: JsonElement, leaves: set[str]) -> list[JsonElement]:
    items = element.get("Value") or ()
    return [{tag: one for tag, one in item.items() if tag not in leaves} for item in items if isinstance(item, dict)]
