"""Searches of archives from ten thousand to a million studies, on either engine: each shape's time, and its growth.

Rows are made without objects: studies and series as a store would make them, instances after one pattern. The index is
asked as the doors ask it; what HTTP or DIMSE adds does not grow with the archive.
"""

from __future__ import annotations

import contextlib
import itertools
import random
import sqlite3
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import psycopg

from benchmarks.bench import say
from benchmarks.trials.frame import Frame, print_table
from storage.attributes import by_keyword
from storage.index import RelationalIndex, open_index
from storage.index import batch as rows_of
from storage.index.sqlite import connect
from storage.matching import Match, Query
from storage.model import Level, Scope

SERIES_OF_STUDY = 3
_INSTANCES_OF_SERIES = (6, 6, 8)
_LARGE_SERIES = 20
_LARGE_INSTANCES = 250
_REPEATS = 200
_WARMING = 10
_ROWS_AT_ONCE = 50_000
_MOST_GROWTH = 3.0

# Surnames as frequent as in a telephone book: the n-th has a share that falls with n.
_FRONT = ("SM", "BR", "KO", "MU", "SCH", "WE", "LA", "DU", "PE", "NO", "HA", "GO", "RI", "TA", "FE", "VA", "JO", "CA")
_MIDDLE = ("ITH", "OWN", "VAC", "ELL", "NEI", "BER", "MBE", "RAN", "TRO", "VAK", "NSE", "MEZ", "NAK", "SIL", "ROS")
_BACK = ("", "SON", "ER", "EN", "S", "IA", "OV", "EZ", "ARD", "MANN", "INI", "ESCU", "OGLU", "WICZ")
SURNAMES = [a + b + c for c, a, b in itertools.product(_BACK, _FRONT, _MIDDLE)]
_GIVEN = ("ANNA", "JOHN", "MARIA", "PETER", "LUCIA", "OMAR", "YUKI", "INES", "PAUL", "ELIF", "NOAH", "EMMA", "JAN")
_MODALITIES = ("CT", "MR", "US", "CR", "DX", "MG", "NM", "PT", "XA", "SR")
_SHARES = (30, 25, 15, 10, 8, 5, 3, 2, 1, 1)
_BODY_PARTS = ("HEAD", "CHEST", "ABDOMEN", "KNEE", "PELVIS", "SPINE")


def study_uid(number: int) -> str:
    """UID of a study."""
    return f"1.2.826.0.1.3680043.9.7433.1.{number}"


def series_uid(number: int) -> str:
    """UID of a series; those of a study follow one another."""
    return f"1.2.826.0.1.3680043.9.7433.2.{number}"


@dataclass(frozen=True, slots=True)
class Study:
    """What a study of a number says, the same every time."""

    number: int
    surname: str
    given: str
    patient_id: str
    accession_number: str
    date: str
    modalities: tuple[str, ...]
    body_part: str

    @classmethod
    def of(cls, number: int) -> Study:
        """The study of a number. Dates go over ten years, whatever the size of the archive."""
        chance = random.Random(number)
        place = int(chance.paretovariate(0.6)) - 1 if chance.random() < 0.5 else chance.randrange(len(SURNAMES))
        surname = SURNAMES[min(place, len(SURNAMES) - 1)]
        day = chance.randrange(10 * 365)
        year, rest = divmod(day, 365)
        date = f"{2016 + year}{rest // 31 + 1:02d}{rest % 28 + 1:02d}"
        main = chance.choices(_MODALITIES, _SHARES)[0]
        others = tuple(chance.choices((main, "SR", "PT"), (90, 8, 2))[0] for _ in range(SERIES_OF_STUDY - 1))
        return cls(
            number,
            surname,
            chance.choice(_GIVEN),
            f"PID{number // 3:07d}",
            f"ACC{number:08d}",
            date,
            (main, *others),
            chance.choice(_BODY_PARTS),
        )


def _value(keyword: str, value: Any) -> tuple[str, Any]:
    attribute = by_keyword(keyword)
    assert attribute is not None
    return attribute.tag, {"vr": attribute.vr, "Value": [{"Alphabetic": value} if attribute.vr == "PN" else value]}


def _study_row(study: Study) -> tuple[Any, ...]:
    attributes = dict(
        (
            _value("StudyDate", study.date),
            _value("StudyTime", f"{study.number % 24:02d}{study.number % 60:02d}00"),
            _value("AccessionNumber", study.accession_number),
            _value("StudyDescription", f"{study.modalities[0]} {study.body_part}"),
            _value("PatientName", f"{study.surname}^{study.given}"),
            _value("PatientID", study.patient_id),
            _value("PatientBirthDate", f"{1930 + study.number % 80}0101"),
            _value("PatientSex", "MF"[study.number % 2]),
            _value("StudyID", str(study.number)),
        )
    )
    instances = sum(_instances(study.number, place) for place in range(SERIES_OF_STUDY))
    modalities = rows_of.united(study.modalities)
    return (
        study.number,
        study_uid(study.number),
        SERIES_OF_STUDY,
        instances,
        modalities,
        *rows_of.study_values(attributes),
    )


def _instances(study: int, place: int) -> int:
    """Instances of a series: the first series of the first studies are large ones."""
    return _LARGE_INSTANCES if study < _LARGE_SERIES and place == 0 else _INSTANCES_OF_SERIES[place]


def _series_row(study: Study, place: int) -> tuple[Any, ...]:
    attributes = dict(
        (
            _value("Modality", study.modalities[place]),
            _value("SeriesNumber", place + 1),
            _value("SeriesDescription", f"{study.body_part} {place + 1}"),
            _value("BodyPartExamined", study.body_part),
        )
    )
    number = study.number * SERIES_OF_STUDY + place
    return (
        number,
        study.number,
        series_uid(number),
        _instances(study.number, place),
        *rows_of.series_values(attributes),
    )


def _instance_rows(study: Study) -> Iterator[tuple[Any, ...]]:
    for place in range(SERIES_OF_STUDY):
        series = study.number * SERIES_OF_STUDY + place
        for number in range(1, _instances(study.number, place) + 1):
            uid = f"1.2.826.0.1.3680043.9.7433.3.{series}.{number}"
            text = (
                f'{{"00200013":{{"Value":[{number}],"vr":"IS"}},\n"00280010":{{"Value":[512],"vr":"US"}},\n'
                f'"00280011":{{"Value":[512],"vr":"US"}},\n"00280100":{{"Value":[16],"vr":"US"}}}}'
            )
            digest = f"{series:032x}{number:032x}"
            yield (
                *(series, uid, number, str(number), "1.2.840.10008.5.1.4.1.1.2", "1.2.840.10008.1.2.1", digest),
                *(f"v1/default/{study_uid(study.number)}/{uid}_1.2.840.10008.1.2.1_{digest}.dcm", 526_000, 700, 1),
                *("2026-01-01T00:00:00.000000+00:00", "2026-01-01T00:00:00.000000+00:00", "dimse", "CT1", "127.0.0.1"),
                *(0, text),
            )


_TABLES: dict[str, tuple[tuple[str, ...], Callable[[Study], Iterator[tuple[Any, ...]]]]] = {
    "study": (
        (
            *("id", "study_instance_uid", "number_of_study_related_series", "number_of_study_related_instances"),
            *("modalities_in_study", *rows_of.STUDY_DERIVED),
        ),
        lambda study: iter((_study_row(study),)),
    ),
    "series": (
        ("id", "study", "series_instance_uid", "number_of_series_related_instances", *rows_of.SERIES_DERIVED),
        lambda study: (_series_row(study, place) for place in range(SERIES_OF_STUDY)),
    ),
    "instance": (
        (
            *("series", "sop_instance_uid", "instance_order", "instance_number", "sop_class_uid"),
            *("transfer_syntax_uid", "digest", "object_key", "size_bytes", "data_set_offset", "number_of_frames"),
            *("received_at", "last_received_at", "door", "calling_ae", "address", "has_other_patient", "attributes"),
        ),
        _instance_rows,
    ),
}


# ---- filling ------------------------------------------------------------------------------------------------------


def _chunks(table: str, studies: range) -> Iterator[list[tuple[Any, ...]]]:
    make = _TABLES[table][1]
    rows = itertools.chain.from_iterable(make(Study.of(number)) for number in studies)
    while chunk := list(itertools.islice(rows, _ROWS_AT_ONCE)):
        yield chunk


def fill(place: Path | str, studies: range) -> None:
    """Rows of these studies into an index whose schema is there."""
    with contextlib.ExitStack() as stack:
        write = _writer_of_file(place, stack) if isinstance(place, Path) else _writer_of_database(place, stack)
        for table, (names, _) in _TABLES.items():
            say(f"{table}: of studies {studies.start} to {studies.stop}")
            for chunk in _chunks(table, studies):
                write(table, names, chunk)


_Write = Callable[[str, Sequence[str], list[tuple[Any, ...]]], None]


def _writer_of_file(path: Path, stack: contextlib.ExitStack) -> _Write:
    connection: sqlite3.Connection = stack.enter_context(contextlib.closing(connect(path)))
    connection.execute("PRAGMA synchronous = OFF")
    connection.execute("PRAGMA cache_size = -1000000")

    def write(table: str, names: Sequence[str], rows: list[tuple[Any, ...]]) -> None:
        connection.execute("BEGIN")
        places = ", ".join("?" * len(names))
        connection.executemany(f"INSERT INTO {table} ({', '.join(names)}) VALUES ({places})", rows)
        connection.execute("COMMIT")

    return write


def _writer_of_database(url: str, stack: contextlib.ExitStack) -> _Write:
    connection = stack.enter_context(psycopg.connect(url))
    stack.callback(lambda: psycopg.connect(url, autocommit=True).execute("VACUUM ANALYZE"))

    def write(table: str, names: Sequence[str], rows: list[tuple[Any, ...]]) -> None:
        with (
            connection.cursor() as cursor,
            cursor.copy(f"COPY {table} ({', '.join(names)}) FROM STDIN".encode()) as copy,
        ):
            for row in rows:
                copy.write_row(row)
        connection.commit()

    return write


# ---- asking -------------------------------------------------------------------------------------------------------


def _query(level: Level, *, scope: Scope | None = None, limit: int = 25, fuzzy: bool = False, **keys: str) -> Query:
    matches = []
    for keyword, text in keys.items():
        attribute = by_keyword(keyword)
        assert attribute is not None
        matches.append(Match.of(attribute, text))
    return Query(level, tuple(matches), scope, limit=limit, fuzzy=fuzzy)


_Ask = Callable[[random.Random, int], Query]


def _month(chance: random.Random) -> str:
    first = f"{chance.randrange(2016, 2026)}{chance.randrange(1, 13):02d}"
    return f"{first}01-{first}31"


def _some(chance: random.Random, studies: int) -> Study:
    return Study.of(chance.randrange(studies))


def _large_series(study: int) -> Query:
    return Query(Level.INSTANCE, scope=Scope(study_uid(study), series_uid(study * SERIES_OF_STUDY)), limit=1000)


SHAPES: dict[str, _Ask] = {
    "list, limit=25": lambda chance, _: Query(Level.STUDY, limit=25, offset=chance.randrange(8) * 25),
    "PatientName=*smith*": lambda _, __: _query(Level.STUDY, PatientName="*smith*"),
    "PatientName=*…*, any": lambda chance, _: _query(Level.STUDY, PatientName=f"*{chance.choice(SURNAMES)[1:]}*"),
    "PatientName=…*, prefix": lambda chance, _: _query(Level.STUDY, PatientName=f"{chance.choice(SURNAMES)[:6]}*"),
    "PatientName=*…*, none": lambda chance, _: _query(Level.STUDY, PatientName=f"*QX{chance.randrange(100)}Z*"),
    "PatientName fuzzy, two words": lambda chance, studies: _query(
        Level.STUDY, fuzzy=True, PatientName=" ".join((_some(chance, studies).given[:3], chance.choice(SURNAMES)[:5]))
    ),
    "StudyDate=month, ModalitiesInStudy=CT": lambda chance, _: _query(
        Level.STUDY, StudyDate=_month(chance), ModalitiesInStudy="CT"
    ),
    "StudyDate=month, ModalitiesInStudy=XA": lambda chance, _: _query(
        Level.STUDY, StudyDate=_month(chance), ModalitiesInStudy="XA"
    ),
    "ModalitiesInStudy=OP, none": lambda _, __: _query(Level.STUDY, ModalitiesInStudy="OP"),
    "PatientID": lambda chance, studies: _query(Level.STUDY, PatientID=_some(chance, studies).patient_id),
    "AccessionNumber": lambda chance, studies: _query(
        Level.STUDY, AccessionNumber=_some(chance, studies).accession_number
    ),
    "series of a study": lambda chance, studies: Query(
        Level.SERIES, scope=Scope(study_uid(chance.randrange(studies))), limit=100
    ),
    "250 instances of a series": lambda chance, _: _large_series(chance.randrange(_LARGE_SERIES)),
    "/instances?Modality=CT, limit=100": lambda _, __: _query(Level.INSTANCE, limit=100, Modality="CT"),
    "/instances?Modality=XA, limit=100": lambda _, __: _query(Level.INSTANCE, limit=100, Modality="XA"),
}


def ask(index: RelationalIndex, shape: str, studies: int) -> dict[str, float]:
    """Milliseconds of one shape: median and 99th percentile, and answers on average."""
    chance = random.Random(shape)
    times, answers = [], 0
    for number in range(_WARMING + _REPEATS):
        query = SHAPES[shape](chance, studies)
        started = time.perf_counter()
        found = index.search_json(query, lambda scope: f"http://localhost/dicomweb/studies/{scope.study_instance_uid}")
        if number >= _WARMING:
            times.append((time.perf_counter() - started) * 1e3)
            answers += len(found)
    ordered = sorted(times)
    return {
        "p50_ms": statistics.median(ordered),
        "p99_ms": ordered[int(len(ordered) * 0.99) - 1],
        "answers": answers / _REPEATS,
    }


def _engine(place: Path | str) -> str:
    return "SQLite" if isinstance(place, Path) else urlsplit(place).scheme


def run(frame: Frame) -> list[dict[str, Any]]:
    """All shapes at each size, on SQLite and, where a database is given, on PostgreSQL. It must be empty."""
    places: list[Path | str] = [
        frame.work / "index.sqlite",
        *([frame.options.database] if frame.options.database else []),
    ]
    figures: list[dict[str, Any]] = []
    for place in places:
        first: dict[str, dict[str, float]] = {}
        filled = 0
        for studies in frame.options.studies:
            open_index(place).close()
            fill(place, range(filled, studies))
            filled = studies
            with contextlib.closing(open_index(place)) as index:
                for shape in SHAPES:
                    found = ask(index, shape, studies)
                    growth = found["p50_ms"] / first.setdefault(shape, found)["p50_ms"]
                    frame.has_failed |= growth > _MOST_GROWTH
                    figures.append(
                        {"engine": _engine(place), "studies": studies, "shape": shape, **found, "growth": growth}
                    )
                    say(f"{_engine(place)} {studies} {shape}: {found['p50_ms']:.2f} ms, {growth:.1f}×")
    print_table(
        ("engine", "studies", "shape", "p50 ms", "p99 ms", "answers", "growth"),
        [
            (
                *(one["engine"], f"{one['studies']:,}", one["shape"], f"{one['p50_ms']:.2f}", f"{one['p99_ms']:.2f}"),
                *(f"{one['answers']:.0f}", f"{one['growth']:.1f}×"),
            )
            for one in figures
        ],
    )
    return figures
