"""Answers as text, put together from what rows hold ready: nothing is parsed and no element is built (D5).

The ``attributes`` of a row are one JSON object whose text can be taken apart at its line ends. The elements that
answers hold by default come first, each on a line of its own; the others follow a carriage return. Within strings
JSON escapes both, so no value can be taken for an end. Each line starts with its tag: lines of several levels come
into the order of an answer by being sorted as text. PS3.18 §10.6.3.3, Annex F
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import cache, lru_cache
from typing import Any

import orjson

from storage.attributes import ATTRIBUTES, Returned
from storage.index.columns import unpack
from storage.index.sql import ONLINE, Plan, answers_of, place_of, spans_of
from storage.model import JsonElement, Level, Lined, Scope

_BETWEEN_LINES = ",\n"
_BEFORE_OTHERS = ",\r"
_RETRIEVE_URL = "00081190"
_RECENT_CHARACTERS = 16 << 10  # of a text whose elements are kept for a while; longer ones are a stranger's and rare
_RECENT_MODALITIES_CHARACTERS = 256


def _json(value: JsonElement) -> str:
    return orjson.dumps(value, option=orjson.OPT_SORT_KEYS).decode()


def _line(tag: str, element: JsonElement) -> str:
    return f'"{tag}":{_json(element)}'


# ---- what a row holds ----------------------------------------------------------------------------------------------


@cache
def _defaults(levels: tuple[Level, ...]) -> tuple[tuple[str, str | None], ...]:
    """Tags that answers of those levels hold by default, and the line of those that are there even without a value."""
    return tuple(
        (a.tag, _line(a.tag, {"vr": a.vr}) if a.returned is Returned.ALWAYS else None)
        for a in ATTRIBUTES
        if a.level in levels
        and a.returned is not Returned.ON_REQUEST
        and not (a.is_computed or a.is_identity or a.is_nested)
    )


@cache
def _default_tags(levels: tuple[Level, ...]) -> frozenset[str]:
    return frozenset(tag for tag, _ in _defaults(levels))


def attributes_text(attributes: Mapping[str, JsonElement], *levels: Level) -> str:
    """What a row of those levels keeps, as JSON text in lines; ``read_attributes`` is its inverse.

    Each of these levels has attributes that an answer always holds, so there is always a first line.
    """
    lines = [
        _line(tag, attributes[tag]) if tag in attributes else empty
        for tag, empty in _defaults(levels)
        if empty or tag in attributes
    ]
    text = _BETWEEN_LINES.join(filter(None, lines))
    others = {tag: attributes[tag] for tag in attributes.keys() - _default_tags(levels)}
    return f"{{{text}{_BEFORE_OTHERS}{_json(others)[1:]}" if others else f"{{{text}}}"


def read_attributes(text: str) -> Mapping[str, JsonElement]:
    """The elements with a value in the text of a row. Nobody may change them: each instance of a series asks for those
    of its parents, and gets the same ones.
    """
    return _recent_attributes(text) if len(text) <= _RECENT_CHARACTERS else _parsed(text)


def _parsed(text: str) -> Mapping[str, JsonElement]:
    return {tag: element for tag, element in orjson.loads(text).items() if "Value" in element}


_recent_attributes = lru_cache(maxsize=256)(_parsed)


def _default_lines(text: str | None) -> list[str]:
    """The lines of the elements that answers hold by default; none where the plan had no use for the column."""
    if text is None:
        return []
    end = text.find(_BEFORE_OTHERS)  # -1 without others: then it ends before the closing brace
    return text[1:end].split(_BETWEEN_LINES)


# ---- lines of an answer --------------------------------------------------------------------------------------------


def _uid_of(tag: str) -> Callable[[str], str]:
    ahead = f'"{tag}":{{"Value":["'
    return lambda uid: f'{ahead}{uid}"],"vr":"UI"}}'


def _count_of(tag: str) -> Callable[[int], str]:
    ahead = f'"{tag}":{{"Value":['
    return lambda number: f'{ahead}{number}],"vr":"IS"}}'


def _modalities(packed: str | None) -> str:
    is_short = packed is None or len(packed) <= _RECENT_MODALITIES_CHARACTERS
    return _recent_modalities(packed) if is_short else _modalities_line(packed)


def _modalities_line(packed: str | None) -> str:
    listed = unpack(packed)
    return _line("00080061", {"vr": "CS", "Value": listed} if listed else {"vr": "CS"})


_recent_modalities = lru_cache(maxsize=256)(_modalities_line)

# What a row says beside its attributes: tag, place among the columns of its level, and how it becomes a line.
_UID = -1  # the place of the UID, which is ahead of all columns
_OTHERS: Mapping[Level, tuple[tuple[str, int, Callable[[Any], str]], ...]] = {
    Level.STUDY: (
        ("00080061", 1, _modalities),
        ("0020000D", _UID, _uid_of("0020000D")),
        ("00201206", 3, _count_of("00201206")),
        ("00201208", 4, _count_of("00201208")),
    ),
    Level.SERIES: (
        ("0020000E", _UID, _uid_of("0020000E")),
        ("00201209", 1, _count_of("00201209")),
    ),
    Level.INSTANCE: (
        ("00080016", 1, _uid_of("00080016")),
        ("00080018", _UID, _uid_of("00080018")),
    ),
}


def _lines(level: Level, uid: str, values: Sequence[Any]) -> list[str]:
    """What the columns of a level say, in no order."""
    lines = _default_lines(values[0])
    lines += [line_of(uid if place == _UID else values[place]) for _, place, line_of in _OTHERS[level]]
    return lines


_AVAILABILITY = _line(*ONLINE)
# Elements that rows always have a line for, and those that they may have one for. To change what answers hold by
# default is to change what rows keep: those of all three tables have to be worked out anew.
_ALWAYS_THERE = frozenset((ONLINE[0], *(a.tag for a in ATTRIBUTES if a.returned is Returned.ALWAYS)))
_OF_LINES = frozenset((ONLINE[0], *(a.tag for a in ATTRIBUTES if a.returned is not Returned.ON_REQUEST)))


def _has_lines(plan: Plan) -> bool:
    """Whether rows hold a line for each element that answers may hold."""
    return plan.level > Level.PATIENT and not plan.of_document and all(tag in _OF_LINES for tag, _, _ in plan.elements)


def texts_of(plan: Plan, rows: Iterable[Sequence[Any]], url_of: Callable[[Scope], str]) -> list[str]:
    """The rows of a query's statement as JSON texts, each with the Retrieve URL of its resource.

    They hold what ``answers_of`` says, with tags and keys ascending.
    """
    if not _has_lines(plan):
        return [_text(answer.attributes, url_of(answer.scope)) for answer in answers_of(plan, rows)]
    span, own = spans_of(plan)[plan.level], plan.level - 1
    blanks = _blanks(plan)
    texts = []
    for row, shared in _with_shared(plan, rows):
        lines = [*_lines(plan.level, row[own], row[span]), *shared]
        if blanks:
            present = {line[1:9] for line in lines}
            lines += [line for tag, line in blanks.items() if tag not in present]
        lines.append(_line(_RETRIEVE_URL, {"vr": "UR", "Value": [url_of(Scope(*row[: plan.level]))]}))
        lines.sort()
        texts.append(f"{{{','.join(lines)}}}")
    return texts


def _blanks(plan: Plan) -> dict[str, str]:
    """The lines, by tag, of elements that answers hold without a value if their rows do not have them."""
    return {tag: _line(tag, empty) for tag, _, empty in plan.elements if empty and tag not in _ALWAYS_THERE}


def _with_shared(plan: Plan, rows: Iterable[Sequence[Any]]) -> Iterator[tuple[Sequence[Any], list[str]]]:
    """Each row with those lines of its answer that its own columns do not say; for neighbours it is the same list."""
    wanted = frozenset(tag for tag, _, _ in plan.elements)
    above = list(spans_of(plan).items())[:-1]
    parents: Sequence[str] | None = None
    shared: list[str] = []
    for row in rows:
        uids = row[: plan.level - 1]
        if uids != parents:
            parents = uids
            held = [line for level, where in above for line in _lines(level, uids[level - 1], row[where])]
            shared = [_AVAILABILITY, *(line for line in held if line[1:9] in wanted)]
        yield row, shared


def lines_of(plan: Plan, rows: Sequence[Sequence[Any]], tags: Sequence[str]) -> Lined:
    """The rows of a query's statement as the lines of those tags that ``answers_of`` says something of."""
    if not rows:
        return Lined([], ())
    if not _has_lines(plan):
        found: list[list[str]] = []
        place: tuple[str | int, ...] = ()
        for answer in answers_of(plan, rows):
            place = answer.place
            found.append([_line(tag, answer.attributes[tag]) if tag in answer.attributes else "" for tag in tags])
        return Lined(found, place)
    return Lined(list(_chosen_lines(plan, rows, tags)), place_of(plan.level, rows[-1]))


def _chosen_lines(plan: Plan, rows: Iterable[Sequence[Any]], tags: Sequence[str]) -> Iterator[list[str]]:
    """The lines of each row that are asked for, in the order of their tags.

    A row that keeps all of its level's default elements, or only those that are always there, has each in its place.
    """
    own_levels = (Level.PATIENT, Level.STUDY) if plan.level is Level.STUDY else (plan.level,)
    layouts = [[tag for tag, empty in _defaults(own_levels) if empty], [tag for tag, _ in _defaults(own_levels)]]
    places = {
        len(layout): [(number, layout.index(tag)) for number, tag in enumerate(tags) if tag in layout]
        for layout in layouts
    }
    start = spans_of(plan)[plan.level].start
    others = [
        (tags.index(tag), plan.level - 1 if place == _UID else start + place, line_of)
        for tag, place, line_of in _OTHERS[plan.level]
        if tag in tags
    ]
    kept = [(number, tag) for number, tag in enumerate(tags) if tag in layouts[-1]]
    blanks = _blanks(plan)
    last: list[str] = []
    template: list[str] = []
    for row, shared in _with_shared(plan, rows):
        if shared is not last:
            known_of_parents = {**blanks, **{line[1:9]: line for line in shared}}
            last, template = shared, [known_of_parents.get(tag, "") for tag in tags]
        lines = template.copy()
        held = _default_lines(row[start])
        known = places.get(len(held))
        if known is None:
            by_tag = {line[1:9]: line for line in held}
            for number, tag in kept:
                lines[number] = by_tag.get(tag) or lines[number]
        else:
            for number, place in known:
                lines[number] = held[place]
        for number, place, line_of in others:
            lines[number] = line_of(row[place])
        yield lines


def _text(attributes: Mapping[str, JsonElement], url: str) -> str:
    return _json({**attributes, _RETRIEVE_URL: {"vr": "UR", "Value": [url]}})
