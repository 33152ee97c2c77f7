"""Answers as they leave: a table for a terminal, tab-separated lines, CSV or JSON; each as the answers arrive.

Characters that a terminal obeys never leave. A spreadsheet takes a cell that begins with ``=``, ``+``, ``-`` or ``@``
for a formula, which could send away what is in the others: CSV has an apostrophe before such a value, unless it is a
plain number. JSON has the values as they are.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import chain, islice
from typing import TextIO

import orjson

from gateway.query.search import Field
from gateway.query.text import clean, columns, escaped, padded, shortened
from storage.model import JsonElement

Answer = Mapping[str, JsonElement]

SURVEYED_ANSWERS = 1000
_MAXIMUM_CELL_CHARACTERS = 10_000
_SMALLEST_COLUMN = 12
_GAP = "  "
_HEADINGS = {
    "InstanceNumber": "Number",
    "SeriesNumber": "Number",
    "NumberOfPatientRelatedStudies": "Studies",
    "NumberOfStudyRelatedInstances": "Instances",
    "NumberOfSeriesRelatedInstances": "Instances",
    "ModalitiesInStudy": "Modalities",
    "NumberOfFrames": "Frames",
    "BodyPartExamined": "BodyPart",
}
_FORMULA = re.compile(r"\s*[=+\-@＝＋－＠]")
_NUMBER = re.compile(r"[+-]?\d+(\.\d+)?", re.ASCII)


def cell(field: Field, answer: Answer) -> str:
    """The values of an attribute in one line, with backslashes between, as a Data Set has them."""
    return clean("\\".join(field.texts(answer))[:_MAXIMUM_CELL_CHARACTERS])


def _rows(fields: Sequence[Field], answers: Iterable[Answer]) -> Iterator[list[str]]:
    return ([cell(field, answer) for field in fields] for answer in answers)


def write_json(answers: Iterable[Answer], out: TextIO) -> None:
    """One array of the DICOM JSON Model, an answer a line. Cut short by an error it is left open, and so no JSON."""
    separator = "["
    for answer in answers:
        out.write(f"{separator}\n{escaped(orjson.dumps(answer).decode())}")
        separator = ","
    out.write("[]\n" if separator == "[" else "\n]\n")


def write_csv(fields: Sequence[Field], answers: Iterable[Answer], out: TextIO) -> None:
    """A header line of keywords, then a line for each answer; RFC 4180, but with newlines as Unix has them."""
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow([field.name for field in fields])
    writer.writerows([_inert(text) for text in row] for row in _rows(fields, answers))


def _inert(text: str) -> str:
    return f"'{text}" if _FORMULA.match(text) and not _NUMBER.fullmatch(text) else text


def write_tabs(fields: Sequence[Field], answers: Iterable[Answer], out: TextIO) -> None:
    """A line for each answer, whole values with tabs between; no header."""
    out.writelines("\t".join(row) + "\n" for row in _rows(fields, answers))


def write_table(fields: Sequence[Field], answers: Iterable[Answer], out: TextIO, width: int) -> None:
    """Aligned columns under headings, no line wider than ``width``; nothing at all when there is no answer.

    The first thousand answers say how wide the columns are.
    """
    rows = _rows(fields, answers)
    surveyed = list(islice(rows, SURVEYED_ANSWERS))
    if not surveyed:
        return
    headings = [_HEADINGS.get(field.name, field.name) for field in fields]
    widest = [max(columns(row[at]) for row in (headings, *surveyed)) for at in range(len(fields))]
    widths = fitted(widest, [field.vr == "UI" for field in fields], width)
    for row in chain((headings,), surveyed, rows):
        pairs = zip(row, widths, strict=True)
        line = _GAP.join(padded(shortened(text, room), room) for text, room in pairs if room)
        out.write(line.rstrip() + "\n")


def write_lines(headings: Sequence[str], rows: Iterable[Sequence[str]], out: TextIO, *, is_terminal: bool) -> None:
    """Rows of any text: under headings, aligned, for a terminal; else with tabs between and without headings.

    A row of one text stands for itself, below the one before it; only a terminal gets it.
    """
    shown = [[clean(text[:_MAXIMUM_CELL_CHARACTERS]) for text in row] for row in rows]
    if not is_terminal:
        out.writelines("\t".join(row) + "\n" for row in shown if len(row) > 1)
        return
    whole = [row for row in (headings, *shown) if len(row) > 1]
    widths = [max(columns(row[at]) for row in whole) for at in range(len(headings))]
    for row in (headings, *shown) if shown else ():
        text = (
            _GAP.join(padded(cell, width) for cell, width in zip(row, widths, strict=True)) if len(row) > 1 else row[0]
        )
        out.write(text.rstrip() + "\n")


def fitted(widest: Sequence[int], is_uid: Sequence[bool], width: int) -> list[int]:
    """Widths of columns that fit beside each other; 0 for one that is left out.

    Text gives way first, down to a dozen characters. A UID is whole or not there, for it is to be copied: where it does
    not fit UIDs go, the last first, then the last of the others. One column always stays.
    """
    least = [room if uid else min(room, _SMALLEST_COLUMN) for room, uid in zip(widest, is_uid, strict=True)]
    shown = list(range(len(widest)))
    while len(shown) > 1 and _together(least[at] for at in shown) > width:
        shown.remove(max(shown, key=lambda at: (is_uid[at], at)))
    widths = [widest[at] if at in shown else 0 for at in range(len(widest))]
    for _ in range(_together(widths[at] for at in shown) - width):
        widths[max(shown, key=lambda at: widths[at] - least[at])] -= 1
    return widths


def _together(widths: Iterable[int]) -> int:
    rooms = list(widths)
    return sum(rooms) + len(_GAP) * (len(rooms) - 1)
