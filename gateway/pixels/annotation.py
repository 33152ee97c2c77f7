"""Annotation: what a picture says of patient and technique where a client asks for it. PS3.18 §8.3.5.1.1

Pure text, made from the metadata of the instance; ``lettering`` writes it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping

from gateway.pixels.description import functional_groups
from gateway.pixels.elements import DataSet, items_of, values_of
from gateway.pixels.options import Annotation
from storage.model import JsonElement

_MAXIMUM_TEXT = 64  # characters of one value, the longest that LO has


def annotated(metadata: DataSet, kinds: Iterable[Annotation], frame_number: int) -> dict[str, JsonElement]:
    """The lines of each kind, from top to bottom, as elements by its name. What has no value has no line."""
    return {kind.value: {"Value": [line for line in _LINES[kind](metadata, frame_number) if line]} for kind in kinds}


def _patient(metadata: DataSet, frame_number: int) -> Iterator[str]:
    del frame_number
    yield _name(metadata)
    yield _labelled("ID ", _value(metadata, "00100020"))
    yield "  ".join(part for part in (_date(metadata, "00100030"), _value(metadata, "00100040")) if part)
    yield _value(metadata, "00080080")
    yield _date(metadata, "00080020")


def _technique(metadata: DataSet, frame_number: int) -> Iterator[str]:
    yield "  ".join(part for part in (_value(metadata, "00080060"), _value(metadata, "0008103E")) if part)
    *groups, _ = functional_groups(metadata, frame_number)
    for label, tag, unit in _TECHNIQUE:
        value = next((found for group in groups if (found := _of_group(group, tag))), "") or _value(metadata, tag)
        yield f"{label} {value}{unit}".strip() if value else ""
    frames = _value(metadata, "00280008")
    yield f"Frame {frame_number} of {frames}" if frames not in ("", "1") else ""


_LINES: Mapping[Annotation, Callable[[DataSet, int], Iterator[str]]] = {
    Annotation.PATIENT: _patient,
    Annotation.TECHNIQUE: _technique,
}
# Label, attribute and its unit. PS3.3 §C.8
_TECHNIQUE = (
    ("Image", "00200013", ""),
    ("View", "00185101", ""),
    ("Side", "00200062", ""),
    ("", "00180060", " kV"),
    ("", "00181151", " mA"),
    ("", "00181150", " ms"),
    ("", "00181152", " mAs"),
    ("Kernel", "00181210", ""),
    ("", "00180087", " T"),
    ("TR", "00180080", " ms"),
    ("TE", "00180081", " ms"),
    ("TI", "00180082", " ms"),
    ("Flip", "00181314", "°"),
    ("Thickness", "00180050", " mm"),
    ("Location", "00201041", " mm"),
)


def _of_group(group: DataSet, tag: str) -> str:
    """A value in one of the macros of a functional group."""
    macros = (item for macro in group for item in items_of(group, macro)[:1])
    return next((_value(item, tag) for item in macros if tag in item), "")


def _value(data_set: DataSet, tag: str) -> str:
    """The values of an element as one text; long ones are cut, and numbers rounded."""
    shown = [_shown(value) for value in values_of(data_set, tag) if isinstance(value, str | int | float)]
    return _plain(", ".join(shown))


def _shown(value: str | float) -> str:
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def _plain(text: str) -> str:
    """On one line, without characters that have no shape, and not too long."""
    text = "".join(character if character.isprintable() else " " for character in text).strip()
    return text if len(text) <= _MAXIMUM_TEXT else text[: _MAXIMUM_TEXT - 1] + "…"


def _labelled(label: str, value: str) -> str:
    return label + value if value else ""


def _date(data_set: DataSet, tag: str) -> str:
    text = _value(data_set, tag)
    return f"{text[:4]}-{text[4:6]}-{text[6:]}" if len(text) == 8 and text.isdigit() else text


def _name(metadata: DataSet) -> str:
    """Patient's Name as people write it, its other representations behind it. PS3.5 §6.2.1"""
    names = values_of(metadata, "00100010")
    name = names[0] if names and isinstance(names[0], Mapping) else {}
    groups = [_group(str(name.get(kind) or "")) for kind in ("Alphabetic", "Ideographic", "Phonetic")]
    shown = [group for group in groups if group]
    return _plain(f"{shown[0]} ({shown[1]})" if len(shown) > 1 else "".join(shown))


def _group(text: str) -> str:
    """Family name, given names; prefix and suffix around them."""
    family, given, middle, prefix, suffix, *_ = (*(part.strip() for part in text.split("^")), *[""] * 5)
    rest = " ".join(part for part in (prefix, given, middle, suffix) if part)
    return ", ".join(part for part in (family, rest) if part)
