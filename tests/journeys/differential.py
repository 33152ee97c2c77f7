"""Searches by chance: every engine and every door must answer as a plain Python model of the archive does. H6–H8

Each archive is drawn anew, filled into every engine, and asked a few thousand questions; then strings that attack
query languages are asked of every key. Of some questions the doors are asked, too: C-FIND with pynetdicom and QIDO over
HTTP, of a gateway that runs. The first differences are shown with the simplest question that still has them.

``python -m tests.journeys.differential --queries 100000 --seed 1`` prints what was asked and found; the same seed asks
the same. ``--only NUMBER`` asks one question again.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import random
import shutil
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path

import orjson

from storage.attributes import ATTRIBUTES
from storage.errors import BadQuery
from storage.index import open_index, probes
from storage.matching import MatchKind
from storage.model import Level, Scope
from tests.fix_postgresql import database_url
from tests.fix_servers import running_gateway
from tests.journeys.doors import doors_of
from tests.journeys.nasty import hostile
from tests.journeys.oracle import Oracle, answer_of
from tests.journeys.questions import KEYS, Question, archive, crowded, deletions, hostile_archive, question

QUESTIONS_OF_ARCHIVE = 5000
STUDIES = 200
STUDIES_OF_DOORS = 60
HOSTILE_STRINGS = 2000
HOSTILE_STUDIES = 64
ATTRIBUTES_EVERY = 8
SHOWN = 20
ENOUGH = 200
LINED = sorted({attribute.top_tag for attribute in ATTRIBUTES})
WRITERS = 16


@contextlib.contextmanager
def opened(place, most_ids=probes.MOST_IDS):
    """An index that reads the rows it starts at two by two, as it reads hundreds in a large archive.

    most_ids: more rows than these are too many to start at.
    """
    usual = probes.MOST_IDS, probes.IDS_AT_ONCE
    probes.MOST_IDS, probes.IDS_AT_ONCE = most_ids, 2
    try:
        with contextlib.closing(open_index(place)) as index:
            yield index
    finally:
        probes.MOST_IDS, probes.IDS_AT_ONCE = usual


# Every engine behind the seam: a name, and how an index in a folder is opened.
ENGINES: dict[str, Callable[[Path], contextlib.AbstractContextManager]] = {
    "SQLite": lambda folder: opened(folder / "index.sqlite"),
    "PostgreSQL": lambda folder: opened(database_url(folder)),
    "SQLite, all common": lambda folder: opened(folder / "index.sqlite", most_ids=3),
    "PostgreSQL, all common": lambda folder: opened(database_url(folder), most_ids=3),
}


@dataclass(frozen=True)
class Difference:
    """A question that somebody answered otherwise than the model; ``place`` finds it again."""

    who: str
    place: str
    question: str
    expected: str
    got: str

    def __str__(self):
        return f"{self.who}, {self.place}: {self.question}\n    expected {self.expected}\n    got      {self.got}"


@dataclass
class Totals:
    """What was asked, and of the questions with answers their levels, kinds of matching and keys.

    enough: so many differences end the asking.
    """

    enough: int = ENOUGH
    asked: Counter = field(default_factory=Counter)
    refused: Counter = field(default_factory=Counter)
    answers: Counter = field(default_factory=Counter)
    with_answers: Counter = field(default_factory=Counter)
    levels: Counter = field(default_factory=Counter)
    kinds: Counter = field(default_factory=Counter)
    keys: Counter = field(default_factory=Counter)
    differences: list[Difference] = field(default_factory=list)

    @property
    def has_enough(self):
        return len(self.differences) >= self.enough

    def count(self, who: str, asked: Question, query, rows):
        """Note a question and how many rows are its answer."""
        self.asked[who] += 1
        self.answers[who] += len(rows)
        if rows:
            self.with_answers[who] += 1
            self.levels[asked.level.name] += 1
            self.kinds.update({match.kind.value for match in query.matches})
            self.keys.update({match.attribute.keyword for match in query.matches if match.kind != MatchKind.UNIVERSAL})

    def figures(self):
        """Everything, as JSON has it."""
        named = ("asked", "refused", "answers", "with_answers", "levels", "kinds")
        return {name: dict(getattr(self, name)) for name in named} | {
            "keys": len(self.keys),
            "differences": [vars(one) for one in self.differences],
        }

    def lines(self):
        """The record of a run."""
        said = [
            f"{who}: {self.asked[who]} asked, {self.with_answers[who]} with answers, {self.answers[who]} answers, "
            f"{self.refused[who]} refused as bad queries"
            for who in self.asked
        ]
        said += [f"with answers, by level: {dict(self.levels)}", f"by kind of match: {dict(self.kinds)}"]
        said += [f"keys that found something: {len(self.keys)} of {len(KEYS)}", f"differences: {len(self.differences)}"]
        return "\n".join((*said, *(f"  {one}" for one in self.differences[:SHOWN])))


# ---- archives --------------------------------------------------------------------------------------------------------


def fill(index, studies, gone: Sequence[Scope] = ()):
    """Put an archive into an index; the instances of a study keep their order, studies come all at once."""
    with ThreadPoolExecutor(WRITERS) as pool:
        list(pool.map(lambda entries: [index.add(entry) for entry in entries], studies))
    for scope in gone:
        index.delete(scope)


def oracle_of(studies, gone: Sequence[Scope] = ()) -> Oracle:
    """The model of the same archive."""
    oracle = Oracle()
    for entries in studies:
        for entry in entries:
            oracle.add(entry)
    for scope in gone:
        oracle.delete(scope)
    return oracle


def drawn_archive(seed: str, studies: int):
    """An archive, and what of it is deleted again."""
    chance = random.Random(f"{seed}/archive")
    made = archive(chance, studies)
    return made, deletions(chance, [entry for entries in made for entry in entries])


@contextlib.contextmanager
def filled_engines(engines, folder: Path, studies, gone: Sequence[Scope] = ()):
    """Each engine by name, filled with the archive."""
    with contextlib.ExitStack() as stack:
        opened = {}
        for name in engines:
            place = folder / name
            place.mkdir(parents=True)
            opened[name] = stack.enter_context(ENGINES[name](place))
            fill(opened[name], studies, gone)
        yield opened


# ---- engines ---------------------------------------------------------------------------------------------------------


class Bench:
    """Engines beside the model of what they hold."""

    def __init__(self, engines, oracle: Oracle, totals: Totals):
        self._engines = engines
        self._oracle = oracle
        self._totals = totals

    def ask(self, asked: Question, place: str, *, is_whole: bool = False):
        """Ask every engine; of a whole question also for the attributes, and for the same as texts."""
        try:
            query = asked.query()
        except BadQuery:
            self._totals.refused.update(list(self._engines))
            return
        rows = self._oracle.found(query)
        is_whole = is_whole or query.level is Level.PATIENT
        for name, index in self._engines.items():
            self._totals.count(name, asked, query, rows)
            if self._difference(index, query, rows, is_whole=is_whole):
                self._tell(name, index, asked, place)

    def _difference(self, index, query, rows, *, is_whole):
        """What is expected and what came instead, or nothing. No error is an answer."""
        try:
            answers = list(index.search(query))
            texts = list(index.search_json(query, url_of)) if is_whole and query.level > Level.PATIENT else None
            lined = index.search_lines(query, LINED).lines if is_whole else None
        except Exception as error:  # noqa: BLE001 - whatever it is, it is the finding
            return [row.uids for row in rows], repr(error)
        expected = [() if query.level is Level.PATIENT else row.uids for row in rows]
        got = [_uids(answer.scope) for answer in answers]
        if got != expected:
            return expected, got
        if not is_whole:
            return None
        expected = [answer_of(query, row) for row in rows]
        for one, other in zip(expected, answers, strict=True):
            if one != other or list(one.attributes) != list(other.attributes):
                return one, other
        if texts is not None and texts != (said := [_json(answer) for answer in answers]):
            return said, texts
        if lined != (said := [_lines(answer) for answer in answers]):
            return said, lined
        return None

    def _tell(self, name, index, asked, place):
        """Enter the difference with the simplest question that has one."""
        simplest, difference = asked, None
        is_simpler = True
        while is_simpler:
            is_simpler = False
            for simpler in (simplest, *simplest.simpler()):
                with contextlib.suppress(BadQuery):
                    query = simpler.query()
                    if found := self._difference(index, query, self._oracle.found(query), is_whole=True):
                        is_simpler, simplest, difference = simpler != simplest, simpler, found
                if is_simpler:
                    break
        expected, got = _contrast(*(difference or ("", "a difference that did not come again")))
        self._totals.differences.append(Difference(name, place, _shortened(str(simplest)), expected, got))


def _uids(scope: Scope):
    return tuple(filter(None, (scope.study_instance_uid, scope.series_instance_uid, scope.sop_instance_uid)))


def _json(answer):
    url = {"00081190": {"vr": "UR", "Value": [url_of(answer.scope)]}}
    return orjson.dumps({**answer.attributes, **url}, option=orjson.OPT_SORT_KEYS).decode()


def _lines(answer):
    return [
        f'"{tag}":{orjson.dumps(answer.attributes[tag], option=orjson.OPT_SORT_KEYS).decode()}'
        if tag in answer.attributes
        else ""
        for tag in LINED
    ]


def url_of(scope: Scope) -> str:
    """A Retrieve URL."""
    return f"https://host/{scope.study_instance_uid}|{scope.series_instance_uid}|{scope.sop_instance_uid}"


def _shortened(text: str) -> str:
    return text if len(text) <= 1000 else f"{text[:500]} … {text[-500:]} ({len(text)} characters)"


def _contrast(expected, got):
    """Both in few words: where lists part, or the elements that differ."""
    if isinstance(expected, list) and isinstance(got, list):
        at = next((n for n, (one, other) in enumerate(zip(expected, got, strict=False)) if one != other), None)
        at = min(len(expected), len(got)) if at is None else at
        both = (expected, got)
        return tuple(f"{len(found)} answers, from number {at} on: {found[at : at + 3]}"[:1000] for found in both)
    if hasattr(expected, "attributes"):
        tags = sorted(expected.attributes.keys() | got.attributes.keys())
        different = [tag for tag in tags if expected.attributes.get(tag) != got.attributes.get(tag)]
        return tuple(
            f"{_uids(one.scope)} { ({tag: one.attributes.get(tag) for tag in different} or list(one.attributes)) }"[
                :1000
            ]
            for one in (expected, got)
        )
    return str(expected)[:1000], str(got)[:1000]


def ask_engines(totals: Totals, seed, queries: int, *, engines=None, studies=None, only=None, progress=print):
    """Random questions, each archive anew."""
    for first in range(0, queries, QUESTIONS_OF_ARCHIVE):
        if only is not None and not first <= only < first + QUESTIONS_OF_ARCHIVE:
            continue
        name = f"{seed}/{first // QUESTIONS_OF_ARCHIVE}"
        made, gone = drawn_archive(name, studies or STUDIES)
        oracle = oracle_of(made, gone)
        with temporary_folder() as folder, filled_engines(engines or ENGINES, folder, made, gone) as opened:
            bench = Bench(opened, oracle, totals)
            for number in range(first, min(queries, first + QUESTIONS_OF_ARCHIVE)) if only is None else (only,):
                asked = question(random.Random(f"{seed}/{number}"), oracle)
                if only is not None:
                    progress(f"question {number}: {asked}")
                bench.ask(asked, f"question {number}", is_whole=number % ATTRIBUTES_EVERY == 0 or only is not None)
                if totals.has_enough:
                    return
        progress(f"{min(queries, first + QUESTIONS_OF_ARCHIVE)} questions, {len(totals.differences)} differences")


def ask_hostile(totals: Totals, seed, strings: int, *, engines=None, keys=KEYS, progress=print):
    """Every string of every key, and as a scope and a tag; with both flags, for half of them, as lists and fuzzily."""
    texts = hostile(max(strings, HOSTILE_STRINGS), str(seed))
    texts = texts[:: len(texts) // strings][:strings]
    made = hostile_archive(texts, HOSTILE_STUDIES)
    with temporary_folder() as folder, filled_engines(engines or ENGINES, folder, made) as opened:
        bench = Bench(opened, oracle_of(made), totals)
        for number, text in enumerate(texts):
            for at, attribute in enumerate(keys):
                flag = (number + at) % 2 == 1
                level = max(attribute.level, Level.STUDY) if (number + at) % 5 else Level((number + at) % 4)
                asked = Question(level, ((attribute.keyword, text),), empty=flag, multiple=flag, fuzzy=flag)
                bench.ask(asked, f"hostile string {number}", is_whole=(number + at) % 50 == 0)
            for scope in (Scope(text), Scope("", text), Scope("", "", text)):
                bench.ask(Question(Level.INSTANCE, scope=scope), f"hostile string {number}")
            including = Question(Level.STUDY, include=frozenset((text,)), limit=1)
            bench.ask(including, f"hostile string {number}", is_whole=True)
            if totals.has_enough:
                return
            if number % 500 == 499:
                progress(f"{number + 1} hostile strings, {len(totals.differences)} differences")


def ask_crowded(totals: Totals, seed, *, engines=None, studies=None):
    """Lists and names as long as they may be."""
    made, gone = drawn_archive(f"{seed}/crowded", studies or STUDIES)
    oracle = oracle_of(made, gone)
    with temporary_folder() as folder, filled_engines(engines or ENGINES, folder, made, gone) as opened:
        bench = Bench(opened, oracle, totals)
        for number, asked in enumerate(crowded(random.Random(f"{seed}/crowded"), oracle)):
            bench.ask(asked, f"crowded question {number}")
            if totals.has_enough:
                return


# ---- doors -----------------------------------------------------------------------------------------------------------


def ask_doors(totals: Totals, seed, queries: int, *, studies=STUDIES_OF_DOORS, longest=40, progress=print):
    """Questions that each door can express, random ones and hostile ones, to a gateway over an archive.

    longest: answers to one question, of C-FIND; a client decodes some thousands in a second.
    """
    made, gone = drawn_archive(f"{seed}/doors", studies)
    oracle = oracle_of(made, gone)
    texts = hostile(HOSTILE_STRINGS, str(seed))
    with temporary_folder() as folder:
        data = folder / "data"
        data.mkdir()
        with ENGINES["SQLite"](data) as index:
            fill(index, made, gone)
        with running_gateway(data, "--workers", "1") as gateway, doors_of(gateway) as doors:
            for number in range(queries):
                chance = random.Random(f"{seed}/doors/{number}")
                for door in doors:
                    asked = door.expressible(chance, _drawn(chance, oracle, texts))
                    if asked is not None:
                        _ask_door(totals, door, asked, oracle, f"door question {number}", longest)
                if totals.has_enough:
                    return
                if number % 500 == 499:
                    progress(f"{number + 1} questions at each door, {len(totals.differences)} differences")


def _drawn(chance: random.Random, oracle: Oracle, texts) -> Question:
    if chance.random() < 0.8:
        asked = question(chance, oracle)
        if chance.random() < 0.3:  # below one series, as a viewer asks
            series = chance.choice(oracle.rows[Level.SERIES])
            asked = replace(asked, level=Level.INSTANCE, keys=asked.keys[:1], scope=Scope(*series.uids))
        return asked
    return Question(chance.choice(list(Level)), ((chance.choice(KEYS).keyword, chance.choice(texts)),))


def _ask_door(totals, door, asked: Question, oracle, place, longest):
    """The door's answer is the model's, cut as the door cuts; what is no query is refused in the door's own way."""
    try:
        query = asked.query()
    except BadQuery:
        totals.refused[door.name] += 1
        expected: object = door.refusal
    else:
        rows = oracle.found(query)
        if door.has_limit_of_client and len(rows) > longest:
            return
        totals.count(door.name, asked, query, rows)
        expected = door.shown(query, rows)
    got = door.ask(asked)
    if got != expected:
        wanted, came = _contrast(expected, got)
        totals.differences.append(Difference(door.name, place, _shortened(str(asked)), wanted, came))


# ---- the program -----------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def temporary_folder():
    """A folder, in memory where the machine has a place for that."""
    memory = Path("/dev/shm")
    folder = Path(tempfile.mkdtemp(prefix="differential-", dir=memory if memory.is_dir() else None))
    try:
        yield folder
    finally:
        shutil.rmtree(folder)


def main(arguments):
    """The record of a long run, and exit code 1 when anybody answered otherwise than the model."""
    parser = argparse.ArgumentParser(description="Searches by chance: engines and doors beside a plain Python model.")
    parser.add_argument("--queries", type=int, default=100_000)
    parser.add_argument("--hostile", type=int, default=HOSTILE_STRINGS)
    parser.add_argument("--doors", type=int, default=2000)
    parser.add_argument("--crowds", action=argparse.BooleanOptionalAction, default=True)
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(1 << 32))
    parser.add_argument("--only", type=int, help="ask one question again")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args(arguments)
    totals = Totals()
    started = time.monotonic()

    def progress(text):
        print(text, file=sys.stderr, flush=True)

    progress(f"seed {options.seed}")
    ask_engines(totals, options.seed, options.queries, only=options.only, progress=progress)
    if options.only is None and options.crowds:
        ask_crowded(totals, options.seed)
    if options.only is None and options.hostile:
        ask_hostile(totals, options.seed, options.hostile, progress=progress)
    if options.only is None and options.doors:
        ask_doors(totals, options.seed, options.doors, progress=progress)
    seconds = round(time.monotonic() - started)
    if options.json:
        print(json.dumps({"seed": options.seed, "seconds": seconds, **totals.figures()}, ensure_ascii=True))
    else:
        print(f"seed {options.seed}\n{totals.lines()}\ntime: {seconds} s")
    return 1 if totals.differences else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
