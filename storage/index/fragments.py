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


def _default_lines(text: str | None) -> dict[str, str]:
    """The elements that answers hold by default, by tag; none where the plan had no use for the column."""
    if text is None:
        return {}
    end = text.find(_BEFORE_OTHERS)  # -1 without others: then it ends before the closing brace
    return {line[1:9]: line for line in text[1:end].split(_BETWEEN_LINES)}


# ---- lines of an answer --------------------------------------------------------------------------------------------


def _uid(tag: str, uid: str) -> str:
    return f'"{tag}":{{"Value":["{uid}"],"vr":"UI"}}'


def _count(tag: str, number: int) -> str:
    return f'"{tag}":{{"Value":[{number}],"vr":"IS"}}'


def _modalities(packed: str | None) -> str:
    is_short = packed is None or len(packed) <= _RECENT_MODALITIES_CHARACTERS
    return _recent_modalities(packed) if is_short else _modalities_line(packed)


def _modalities_line(packed: str | None) -> str:
    listed = unpack(packed)
    return _line("00080061", {"vr": "CS", "Value": listed} if listed else {"vr": "CS"})


_recent_modalities = lru_cache(maxsize=256)(_modalities_line)


def _study_lines(uid: str, values: Sequence[Any]) -> dict[str, str]:
    attributes, modalities, _, series, instances = values
    lines = _default_lines(attributes)
    lines["00080061"] = _modalities(modalities)
    lines["0020000D"] = _uid("0020000D", uid)
    lines["00201206"] = _count("00201206", series)
    lines["00201208"] = _count("00201208", instances)
    return lines


def _series_lines(uid: str, values: Sequence[Any]) -> dict[str, str]:
    attributes, instances = values
    lines = _default_lines(attributes)
    lines["0020000E"] = _uid("0020000E", uid)
    lines["00201209"] = _count("00201209", instances)
    return lines


def _instance_lines(uid: str, values: Sequence[Any]) -> dict[str, str]:
    attributes, sop_class_uid, _ = values
    lines = _default_lines(attributes)
    lines["00080016"] = _uid("00080016", sop_class_uid)
    lines["00080018"] = _uid("00080018", uid)
    return lines


_LINES: Mapping[Level, Callable[[str, Sequence[Any]], dict[str, str]]] = {
    Level.STUDY: _study_lines,
    Level.SERIES: _series_lines,
    Level.INSTANCE: _instance_lines,
}
_AVAILABILITY = _line(*ONLINE)
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
    texts = []
    for row, lines in _joined_lines(plan, rows):
        lines[_RETRIEVE_URL] = _line(_RETRIEVE_URL, {"vr": "UR", "Value": [url_of(Scope(*row[: plan.level]))]})
        texts.append(f"{{{','.join(sorted(lines.values()))}}}")
    return texts


def lines_of(plan: Plan, rows: Sequence[Sequence[Any]]) -> Lined:
    """The rows of a query's statement as the texts of their elements, which are those of ``answers_of``."""
    if not _has_lines(plan):
        answers = answers_of(plan, rows)
        lines = [{tag: _line(tag, element) for tag, element in answer.attributes.items()} for answer in answers]
        return Lined(lines, answers[-1].place if answers else ())
    lines = [lines for _, lines in _joined_lines(plan, rows)]
    return Lined(lines, place_of(plan.level, rows[-1]) if rows else ())


def _joined_lines(plan: Plan, rows: Iterable[Sequence[Any]]) -> Iterator[tuple[Sequence[Any], dict[str, str]]]:
    """Each row with the lines of its answer, by tag. What neighbours have in common is read once."""
    wanted = frozenset(tag for tag, _, _ in plan.elements)
    blank = {tag: _line(tag, empty) for tag, _, empty in plan.elements if empty and tag not in _ALWAYS_THERE}
    own, (*above, own_span) = _LINES[plan.level], spans_of(plan).items()
    _, span = own_span
    parents: Sequence[str] | None = None
    shared: dict[str, str] = {}
    for row in rows:
        uids = row[: plan.level]
        if uids[:-1] != parents:
            parents = uids[:-1]
            shared = {**blank, ONLINE[0]: _AVAILABILITY}
            for level, where in above:
                held = _LINES[level](uids[level - 1], row[where])
                shared |= {tag: line for tag, line in held.items() if tag in wanted}
        yield row, {**shared, **own(uids[-1], row[span])}


def _text(attributes: Mapping[str, JsonElement], url: str) -> str:
    return _json({**attributes, _RETRIEVE_URL: {"vr": "UR", "Value": [url]}})
