"""Requests and answers of the Storage Commitment Service in the DICOM JSON Model. Pure. PS3.18 Annex J

A hundred thousand references as the objects of a JSON library would take a hundred MiB, so each object is made small as
soon as it has been read, and answers are written as text.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Iterator, Sequence
from itertools import groupby
from typing import Any, NamedTuple

from storage.commitment import Commitment, Reason, Reference, checked_reference
from storage.errors import BadRequest, InvalidInstance, TooLarge

_CLASS_UID, _INSTANCE_UID, _FAILURE_REASON = "00081150", "00081155", "00081197"
_STUDY_UID, _SERIES_UID = "0020000D", "0020000E"
_REFERENCED_SOPS, _FAILED_SOPS = "00081199", "00081198"
_REFERENCED_STUDIES, _FAILED_STUDIES = "00081110", "0008119B"
_SERIES, _BY_CLASS, _INSTANCES = "00081115", "00081112", "0008114A"
_ABOVE = (_REFERENCED_SOPS, _REFERENCED_STUDIES, _STUDY_UID, _SERIES, _SERIES_UID, _BY_CLASS, _CLASS_UID, _INSTANCES)
_CHARACTERS_PER_VALUE = 12  # of what is no reference less make more objects than a reference does
_SHORT_CHARACTERS = 4096
_ITEMS_AT_ONCE = 1000

_Found = tuple[Reference, int]


class _Leaf(NamedTuple):
    """An item that names an instance; texts are empty where they are missing."""

    sop_class_uid: str
    sop_instance_uid: str


def read_request(text: str, most: int) -> list[Reference]:
    """The references of a request, each once, in their order: of Referenced SOP or Referenced Study Sequence.

    Raises BadRequest, with the tag of what is missing or malformed, and TooLarge beyond ``most`` of them.
    PS3.18 Table J.1-1
    """
    if (text.count(",") + text.count("[")) * _CHARACTERS_PER_VALUE > len(text) + _SHORT_CHARACTERS:
        raise BadRequest("The payload holds something else than references")
    try:
        root = json.loads(text, object_pairs_hook=_small, parse_float=_nothing, parse_int=_nothing)
    except (ValueError, RecursionError) as error:
        raise BadRequest("The payload is not in the DICOM JSON Model") from error
    del text  # as long as all that is kept of it
    if isinstance(root, list) and len(root) == 1:
        (root,) = root
    if not isinstance(root, dict):
        raise BadRequest("The payload is not one Data Set in the DICOM JSON Model")
    references: dict[Reference, None] = {}
    try:
        for reference in _references(root):
            references[reference] = None
            if len(references) > most:
                raise TooLarge("There are more references than one request may have")
    except InvalidInstance as error:
        raise BadRequest(error.reason, tag=error.tag) from error
    if not references:
        raise BadRequest("There are no references", tag=_REFERENCED_SOPS)
    return list(references)


def _nothing(_: str) -> None:
    """What stands for a number: none is looked at."""


def _small(pairs: list[tuple[str, Any]]) -> Any:
    """What is kept of a JSON object: of an element its values, of an item that names an instance two texts."""
    found = dict(pairs)
    if "vr" in found:
        values = found.get("Value")
        return tuple(values) if isinstance(values, list) else ()
    if _INSTANCE_UID in found:
        return _Leaf(_text(found, _CLASS_UID), _text(found, _INSTANCE_UID))
    return {tag: found[tag] for tag in _ABOVE if tag in found}


def _text(item: dict[str, Any], tag: str) -> str:
    """The value of a UID; empty unless it has one."""
    values = item.get(tag)
    if not isinstance(values, tuple) or len(values) != 1 or not isinstance(values[0], str):
        return ""
    return sys.intern(values[0]) if tag == _CLASS_UID else values[0]


def _references(root: dict[str, Any]) -> Iterator[Reference]:
    if _REFERENCED_SOPS in root and _REFERENCED_STUDIES in root:
        raise BadRequest("Instances are referred to in two ways", tag=_REFERENCED_STUDIES)
    for leaf in _leaves(root, _REFERENCED_SOPS):
        yield checked_reference(*leaf)
    for study in _items(root, _REFERENCED_STUDIES):
        for series in _items(study, _SERIES):
            for group in _items(series, _BY_CLASS):
                uids = _text(group, _CLASS_UID), _text(study, _STUDY_UID), _text(series, _SERIES_UID)
                for leaf in _leaves(group, _INSTANCES):
                    yield checked_reference(uids[0], leaf.sop_instance_uid, *uids[1:])


def _items(item: dict[str, Any], tag: str) -> Iterator[dict[str, Any]]:
    for one in _values(item, tag):
        if not isinstance(one, dict):
            raise BadRequest("An item of a sequence is not what it should be", tag=tag)
        yield one


def _leaves(item: dict[str, Any], tag: str) -> Iterator[_Leaf]:
    for one in _values(item, tag):
        if not isinstance(one, _Leaf):
            raise BadRequest("A reference has no SOP Instance UID", tag=tag)
        yield one


def _values(item: dict[str, Any], tag: str) -> tuple[Any, ...]:
    values = item.get(tag, ())
    return values if isinstance(values, tuple) else ()


def write_answer(commitment: Commitment) -> Iterator[bytes]:
    """The Storage Commitment Response Module of a request that is answered, in pieces of JSON text.

    What failed with its reasons, and what was committed, in the way in which it was asked. PS3.18 Table J.2-1
    """
    assert commitment.reasons is not None
    by_study = bool(commitment.references[0].study_instance_uid)
    tags = (
        ((_REFERENCED_STUDIES, False), (_FAILED_STUDIES, True))
        if by_study
        else (
            (_FAILED_SOPS, True),
            (_REFERENCED_SOPS, False),
        )
    )
    separator = "{"
    for tag, is_failed in tags:
        found = [
            one for one in zip(commitment.references, commitment.reasons, strict=True) if bool(one[1]) is is_failed
        ]
        if found:
            texts = _studies(found) if by_study else (_item(*_sop(one), _reason(one)) for one in found)
            yield f'{separator}"{tag}":{{"vr":"SQ","Value":['.encode()
            yield from _joined(texts)
            yield b"]}"
            separator = ","
    yield b"}"


def _joined(texts: Iterable[str]) -> Iterator[bytes]:
    """Texts with commas between them, many at a time."""
    waiting: list[str] = []
    separator = ""
    for text in texts:
        waiting.append(text)
        if len(waiting) == _ITEMS_AT_ONCE:
            yield (separator + ",".join(waiting)).encode("ascii")
            separator = ","
            waiting.clear()
    if waiting:
        yield (separator + ",".join(waiting)).encode("ascii")


def _studies(found: Sequence[_Found]) -> Iterator[str]:
    """Items of studies, series, classes and instances, in the order of their UIDs."""
    ordered = sorted(found, key=lambda one: (one[0][2], one[0][3], one[0][0]))
    for study, of_study in groupby(ordered, lambda one: one[0].study_instance_uid):
        all_series = [
            _item(_sequence(_BY_CLASS, _classes(of_series)), _uid(_SERIES_UID, series))
            for series, of_series in groupby(of_study, lambda one: one[0].series_instance_uid)
        ]
        yield _item(_sequence(_SERIES, all_series), _uid(_STUDY_UID, study))


def _classes(found: Iterable[_Found]) -> Iterator[str]:
    for sop_class, of_class in groupby(found, lambda one: one[0].sop_class_uid):
        instances = [_item(_uid(_INSTANCE_UID, one[0].sop_instance_uid), _reason(one)) for one in of_class]
        yield _item(_sequence(_INSTANCES, instances), _uid(_CLASS_UID, sop_class))


def _item(*elements: str) -> str:
    return "{" + ",".join(filter(None, elements)) + "}"


def _sop(one: _Found) -> tuple[str, str]:
    return _uid(_CLASS_UID, one[0].sop_class_uid), _uid(_INSTANCE_UID, one[0].sop_instance_uid)


def _uid(tag: str, uid: str) -> str:
    """UIDs are digits and dots: nothing in them has to be escaped."""
    return f'"{tag}":{{"vr":"UI","Value":["{uid}"]}}'


def _reason(one: _Found) -> str:
    reason = int(one[1])
    return "" if reason == Reason.COMMITTED else f'"{_FAILURE_REASON}":{{"vr":"US","Value":[{reason}]}}'


def _sequence(tag: str, items: Iterable[str]) -> str:
    return f'"{tag}":{{"vr":"SQ","Value":[{",".join(items)}]}}'
