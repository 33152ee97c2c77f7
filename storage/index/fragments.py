"""Answers as JSON text, put together from what rows hold ready: nothing is parsed and no element is built (D5).

The ``attributes`` of a row are one JSON object whose text can be taken apart at its line ends. The elements that
answers hold by default come first, each on a line of its own; the others follow a carriage return. Within strings
JSON escapes both, so no value can be taken for an end. Each line starts with its tag: lines of several levels come
into the order of an answer by being sorted as text. PS3.18 §10.6.3.3, Annex F
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cache, lru_cache
from typing import Any

import orjson

from storage.attributes import ATTRIBUTES, Returned
from storage.index.columns import unpack
from storage.index.sql import ONLINE, Plan, answers_of, spans_of
from storage.model import JsonElement, Level, Scope

_BETWEEN_LINES = ",\n"
_BEFORE_OTHERS = ",\r"
_RETRIEVE_URL = "00081190"
_RECENT_CHARACTERS = 16 << 10  # of a text whose elements are kept for a while; longer ones are a stranger's and rare
_INHERITED = frozenset(attribute.tag for attribute in ATTRIBUTES if attribute.is_inherited)


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


def _uid(tag: str, uid: str) -> str:
    return f'"{tag}":{{"Value":["{uid}"],"vr":"UI"}}'


def _count(tag: str, number: int) -> str:
    return f'"{tag}":{{"Value":[{number}],"vr":"IS"}}'


def _study_lines(uid: str, values: Sequence[Any]) -> list[str]:
    attributes, modalities, _, series, instances = values
    listed = unpack(modalities)
    return [
        *_default_lines(attributes),
        _line("00080061", {"vr": "CS", "Value": listed} if listed else {"vr": "CS"}),
        _uid("0020000D", uid),
        _count("00201206", series),
        _count("00201208", instances),
    ]


def _series_lines(uid: str, values: Sequence[Any]) -> list[str]:
    attributes, instances = values
    return [*_default_lines(attributes), _uid("0020000E", uid), _count("00201209", instances)]


def _instance_lines(uid: str, values: Sequence[Any]) -> list[str]:
    attributes, sop_class_uid, _ = values
    return [*_default_lines(attributes), _uid("00080016", sop_class_uid), _uid("00080018", uid)]


_LINES: Mapping[Level, Callable[[str, Sequence[Any]], list[str]]] = {
    Level.STUDY: _study_lines,
    Level.SERIES: _series_lines,
    Level.INSTANCE: _instance_lines,
}
_AVAILABILITY = _line(*ONLINE)


def texts_of(plan: Plan, rows: Iterable[Sequence[Any]], url_of: Callable[[Scope], str]) -> list[str]:
    """The rows of a query's statement as JSON texts, each with the Retrieve URL of its resource.

    They hold what ``answers_of`` says, with tags and keys ascending. Lines are joined where nothing is asked for
    beyond the default. What neighbours have in common is read once.
    """
    if not plan.is_default:
        return [_text(answer.attributes, url_of(answer.scope)) for answer in answers_of(plan, rows)]
    own, (*above, own_span) = _LINES[plan.level], spans_of(plan).items()
    _, span = own_span
    parents: Sequence[str] | None = None
    shared: list[str] = []
    texts = []
    for row in rows:
        uids = row[: plan.level]
        if uids[:-1] != parents:
            parents = uids[:-1]
            shared = [line for level, where in above for line in _lines_above(plan, level, uids, row[where])]
        url = _line(_RETRIEVE_URL, {"vr": "UR", "Value": [url_of(Scope(*uids))]})
        lines = [*own(uids[-1], row[span]), *shared, _AVAILABILITY, url]
        lines.sort()
        texts.append(f"{{{','.join(lines)}}}")
    return texts


def _lines_above(plan: Plan, level: Level, uids: Sequence[str], values: Sequence[Any]) -> list[str]:
    """What an answer repeats of a study or series: its default where the search did not name it."""
    lines = _LINES[level](uids[level - 1], values)
    return lines if level in plan.default_levels else [line for line in lines if line[1:9] in _INHERITED]


def _text(attributes: Mapping[str, JsonElement], url: str) -> str:
    return _json({**attributes, _RETRIEVE_URL: {"vr": "UR", "Value": [url]}})
