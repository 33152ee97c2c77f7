"""The data dictionary: Value Representations and keywords of tags, names of UIDs. PS3.6 §6, §A

The tables are those that pydicom ships, read from their files without importing pydicom itself, which would bring numpy
and 40 MB into every process that only has to look up a VR. The dependency is held to versions that have this file.
"""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Mapping
from functools import cache, lru_cache
from pathlib import Path
from typing import Any

_Row = tuple[str, str, str, str, str]  # VR, VM, name, retired, keyword


def _file_of_pydicom(name: str) -> Any:
    package = importlib.util.find_spec("pydicom")
    assert package is not None
    assert package.submodule_search_locations
    path = Path(package.submodule_search_locations[0]) / f"{name}.py"
    specification = importlib.util.spec_from_file_location(f"storage.{name}", path)
    assert specification is not None
    assert specification.loader is not None
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module


@cache
def _tables() -> tuple[Mapping[int, _Row], Mapping[str, _Row]]:
    """The rows by tag, and those of repeating groups by mask, in which ``x`` is any digit."""
    module = _file_of_pydicom("_dicom_dict")
    return module.DicomDictionary, module.RepeatersDictionary


@cache
def _repeaters() -> tuple[tuple[int, int, _Row], ...]:
    """Mask, value under it and row of each repeating group. PS3.5 §7.6"""
    rows = []
    for mask, row in _tables()[1].items():
        bits = int("".join("0" if digit == "x" else "F" for digit in mask), 16)
        rows.append((bits, int(mask.replace("x", "0"), 16), row))
    return tuple(rows)


@lru_cache(maxsize=8192)
def dictionary_vr(tag: int) -> str:
    """The VR of a tag; several with ``or`` between where it depends, UN for what nobody knows. PS3.6, PS3.5 §7.8"""
    if tag & 0xFFFF == 0:
        return "UL"
    if (tag >> 16) & 1:
        return "LO" if 0x0010 <= (tag & 0xFFFF) <= 0x00FF else "UN"
    row = _row(tag)
    return "UN" if row is None else row[0]


def _row(tag: int) -> _Row | None:
    row = _tables()[0].get(tag)
    return row or next((row for bits, value, row in _repeaters() if tag & bits == value), None)


@lru_cache(maxsize=8192)
def keyword_of(tag: int) -> str:
    """The keyword of a tag, empty for a private one and for one that nobody knows. PS3.6 §6"""
    row = None if (tag >> 16) & 1 else _row(tag)
    return "" if row is None else row[4]


@cache
def _uids() -> Mapping[str, _Row]:
    names: Mapping[str, _Row] = _file_of_pydicom("_uid_dict").UID_dictionary
    return names


def uid_name(uid: str) -> str:
    """The name of a UID that the standard defines, empty for any other. PS3.6 §A"""
    row = _uids().get(uid)
    return "" if row is None else row[0]


def uid_type(uid: str) -> str:
    """What the standard defines a UID for, such as SOP Class; empty for any other. PS3.6 §A"""
    row = _uids().get(uid)
    return "" if row is None else row[1]


@cache
def _uids_by_keyword() -> Mapping[str, str]:
    return {row[4]: uid for uid, row in _uids().items() if row[4]}


def uid_of(keyword: str) -> str:
    """The UID that the standard gives a keyword, such as CTImageStorage; empty for a word that is none. PS3.6 §A"""
    return _uids_by_keyword().get(keyword, "")


def keyword_path(path: str) -> str:
    """The keywords of a tag, or of tags joined by a dot; a tag without one stands for itself. PS3.18 §8.3.4.1"""
    return ".".join(keyword_of(int(tag, 16)) or tag for tag in path.split("."))


def tag_path(name: str) -> str:
    """What a query calls an attribute, as tags joined by a dot; empty for what names none. PS3.18 §8.3.4.1

    Each part is a keyword or eight hex digits in either case.
    """
    tags = [part.upper() if _TAG.fullmatch(part) else _hex(tag_of(part)) for part in name.split(".")]
    return ".".join(tags) if all(tags) else ""


_TAG = re.compile(r"[0-9A-Fa-f]{8}", re.ASCII)


def _hex(tag: int | None) -> str:
    return "" if tag is None else f"{tag:08X}"


@cache
def _tags() -> Mapping[str, int]:
    return {row[4]: tag for tag, row in _tables()[0].items() if row[4]}


def tag_of(keyword: str) -> int | None:
    """The tag of a keyword, None for a word that is none. PS3.6 §6"""
    return _tags().get(keyword)
