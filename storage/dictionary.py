"""The data dictionary: Value Representations and keywords of tags. PS3.6 §6

The table is the one that pydicom ships, read from its file without importing pydicom itself, which would bring numpy
and 40 MB into every process that only has to look up a VR. The dependency is held to versions that have this file.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping
from functools import cache, lru_cache
from pathlib import Path

_Row = tuple[str, str, str, str, str]  # VR, VM, name, retired, keyword


@cache
def _tables() -> tuple[Mapping[int, _Row], Mapping[str, _Row]]:
    """The rows by tag, and those of repeating groups by mask, in which ``x`` is any digit."""
    package = importlib.util.find_spec("pydicom")
    assert package is not None
    assert package.submodule_search_locations
    path = Path(package.submodule_search_locations[0]) / "_dicom_dict.py"
    specification = importlib.util.spec_from_file_location("storage._dicom_dict", path)
    assert specification is not None
    assert specification.loader is not None
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module.DicomDictionary, module.RepeatersDictionary


@cache
def _repeaters() -> tuple[tuple[int, int, str], ...]:
    """Mask, value under it and VR of each repeating group. PS3.5 §7.6"""
    rows = []
    for mask, row in _tables()[1].items():
        bits = int("".join("0" if digit == "x" else "F" for digit in mask), 16)
        rows.append((bits, int(mask.replace("x", "0"), 16), row[0]))
    return tuple(rows)


@lru_cache(maxsize=8192)
def dictionary_vr(tag: int) -> str:
    """The VR of a tag; several with ``or`` between where it depends, UN for what nobody knows. PS3.6, PS3.5 §7.8"""
    if tag & 0xFFFF == 0:
        return "UL"
    if (tag >> 16) & 1:
        return "LO" if 0x0010 <= (tag & 0xFFFF) <= 0x00FF else "UN"
    row = _tables()[0].get(tag)
    if row is not None:
        return row[0]
    return next((vr for bits, value, vr in _repeaters() if tag & bits == value), "UN")


@cache
def _tags() -> Mapping[str, int]:
    return {row[4]: tag for tag, row in _tables()[0].items() if row[4]}


def tag_of(keyword: str) -> int | None:
    """The tag of a keyword, None for a word that is none. PS3.6 §6"""
    return _tags().get(keyword)


def keyword_of(tag: int) -> str:
    """The keyword of a tag; empty for one that has none. PS3.6 §6"""
    row = _tables()[0].get(tag)
    return row[4] if row is not None else ""
