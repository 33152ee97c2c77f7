"""Archives and questions by chance: attributes from small and from nasty pools, keys that often have an answer.

The same seed makes the same. Texts are what peers send and equipment writes, and what a query language would trip over.
"""

from __future__ import annotations

import hashlib
import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass, replace
from random import Random

from storage.attributes import ATTRIBUTES, Attribute, level_attributes
from storage.dicomjson import pack_metadata
from storage.errors import BadQuery
from storage.matching import MAXIMUM_LISTED_VALUES, MAXIMUM_VALUE_CHARACTERS, Match, MatchKind, Query
from storage.model import Entry, Instance, Level, Scope
from tests.fix_index import CT_IMAGE, EXPLICIT, JPEG_2000, SOURCE
from tests.journeys.nasty import ASKED, ASKED_TEXTS, CODES, DATE_TIMES, DATES, NAMES, NUMBERS, TEXTS, TIMES
from tests.journeys.oracle import Oracle, Row, key, row_level

KEYS = tuple(attribute for attribute in ATTRIBUTES if attribute.is_key)
_DRAWN = tuple(one for one in ATTRIBUTES if not (one.is_computed or one.is_identity or one.is_nested))
_SOP_CLASSES = (CT_IMAGE, "1.2.840.10008.5.1.4.1.1.4", "1.2.840.10008.5.1.4.1.1.88.11", "1.2.3." + "4" * 58)
_ROOT = "1.2.826.0.1"

_POOLS: Mapping[str, tuple] = {"CS": CODES, "DA": DATES, "DT": DATE_TIMES, "IS": NUMBERS, "PN": NAMES, "TM": TIMES}
_OTHERS: Mapping[str, tuple] = {
    "SQ": ({}, {"00080100": {"vr": "SH", "Value": ["T-1"]}}),
    "US": (0, 1, 65535),
    "DS": NUMBERS,
}
_OF_ORDER = ("00080020", "00080030", "00100020", "00100021", "00200011", "00200013")
_COMMON = 8
_DIFFERENT = 25


# ---- archives --------------------------------------------------------------------------------------------------------


def _common_or_nasty(chance: Random, pool):
    return chance.choice(pool[:_COMMON]) if chance.random() < 0.55 else chance.choice(pool)


def _element(chance: Random, attribute: Attribute):
    """An element with no, one or several values, seldom very many."""
    if attribute.tag == "00400275":
        return {"vr": "SQ", "Value": [_request(chance) for _ in range(chance.choice((0, 1, 1, 2, 3, 4)))]}
    pool = _POOLS.get(attribute.vr) or _OTHERS.get(attribute.vr) or TEXTS
    if attribute.vr == "UI":
        pool = (f"{_ROOT}.9.1", f"{_ROOT}.9.2")
    count = chance.choice((0, 1, 1, 1, 1, 1, 1, 1, 2, 3, chance.choice((2, 2, 70))))
    values = [_common_or_nasty(chance, pool) if chance.random() < 0.95 else None for _ in range(count)]
    if attribute.vr == "PN":
        values = [{"Alphabetic": one} if isinstance(one, str) and chance.random() < 0.9 else one for one in values]
    return {"vr": attribute.vr, "Value": values} if values else {"vr": attribute.vr}


def _request(chance: Random):
    """An item of Request Attributes Sequence, with more than the keys, or with less."""
    pool = ("S1", "S2", "S3", "P1", "P2", "s*", '"', "S1 ", "é", " ", "")
    item = {"00321060": {"vr": "LO", "Value": ["not kept"]}} if chance.random() < 0.2 else {}
    for tag in ("00400009", "00401001"):
        if chance.random() < 0.8:
            values = [chance.choice(pool) for _ in range(chance.choice((1, 1, 1, 1, 0, 2)))]
            item[tag] = {"vr": "SH", "Value": values} if values else {"vr": "SH"}
    return item


class _Elements:
    """Elements of one archive: of each attribute so many different ones, held by many rows each."""

    def __init__(self, chance: Random):
        self._chance = chance
        self._pool = {one.tag: [_element(chance, one) for _ in range(_DIFFERENT)] for one in _DRAWN}

    def draw(self, attributes):
        """Most keys, and some of what is returned only."""
        chance = self._chance
        drawn = [one for one in attributes if chance.random() < (0.75 if one.is_key or one.tag == "00400275" else 0.06)]
        return {one.tag: chance.choice(self._pool[one.tag]) for one in drawn}


def _numbers_apart(chance: Random, count: int):
    """Numbers of UIDs of which texts sort otherwise than numbers do."""
    return chance.sample(range(1, max(120, 4 * count)), count)


def archive(chance: Random, studies: int) -> list[list[Entry]]:
    """A list for each study: its instances in the order they come, among them some that come twice or contradict.

    A study lacks some attributes, those that order and patients hang on more often, in all its instances. Some series
    have the UID of a series of another study, and one instance in thirty names a UID that was taken before it.
    """
    made = []
    elements = _Elements(chance)
    for number in _numbers_apart(chance, studies):
        study = f"{_ROOT}.1.{number}" if chance.random() < 0.97 else f"{_ROOT}.1.{number}.".ljust(63, "1") + "2"
        absent = {one.tag for one in _DRAWN if chance.random() < (0.25 if one.tag in _OF_ORDER else 0.05)}
        of_study = elements.draw([one for one in _DRAWN if one.level <= Level.STUDY])
        entries: list[Entry] = []
        for one in range(chance.choice((1, 1, 2, 2, 3, 5))):
            series = f"{_ROOT}.2.{chance.randrange(3)}" if chance.random() < 0.1 else f"{_ROOT}.2.{number}.{one}"
            of_series = elements.draw([one for one in _DRAWN if one.level is Level.SERIES])
            for instance in range(chance.choice((1, 1, 2, 3, 5))):
                said = {**of_study, **of_series} if chance.random() < 0.8 else elements.draw(_DRAWN)
                said |= elements.draw([one for one in _DRAWN if one.level is Level.INSTANCE])
                said = {tag: element for tag, element in said.items() if tag not in absent}
                uids = (study, series, f"{_ROOT}.3.{number}.{one}.{instance}")
                if entries and chance.random() < 0.03:
                    uids = (*uids[:2], chance.choice(entries).instance.sop_instance_uid)
                entries.append(_entry(uids, said, chance))
        made.append(entries)
    return made


def _entry(uids, said, chance: Random) -> Entry:
    digest = hashlib.sha256(repr((uids, chance.random())).encode()).hexdigest()
    syntax = chance.choice((EXPLICIT, EXPLICIT, JPEG_2000))
    instance = Instance(*uids, chance.choice(_SOP_CLASSES), syntax, digest, f"v1/{digest}", 1000, 400, 1)
    metadata = pack_metadata(said, syntax)
    return Entry(instance, level_attributes(said), metadata, b"frames", {}, SOURCE)


def deletions(chance: Random, entries: list[Entry]) -> list[Scope]:
    """What of an archive is deleted again: instances, series and studies."""
    scopes = []
    for entry in chance.sample(entries, max(1, len(entries) // 40)):
        uids = (entry.instance.study_instance_uid, entry.instance.series_instance_uid, entry.instance.sop_instance_uid)
        scopes.append(Scope(*uids[: chance.choice((1, 2, 3, 3))]))
    return scopes


# ---- questions -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Question:
    """A query as a peer writes it. keys: keyword and text."""

    level: Level
    keys: tuple[tuple[str, str], ...] = ()
    scope: Scope | None = None
    empty: bool = False
    multiple: bool = False
    fuzzy: bool = False
    include: frozenset[str] | str = frozenset()
    limit: int | None = None
    offset: int = 0

    def query(self) -> Query:
        """What it means. Raises BadQuery."""
        matches = tuple(
            Match.of(key(keyword), text, empty=self.empty, multiple=self.multiple) for keyword, text in self.keys
        )
        return Query(self.level, matches, self.scope, self.include, self.fuzzy, self.limit, self.offset)

    def simpler(self):
        """The same question with one thing less, for each thing."""
        for number in range(len(self.keys)):
            yield replace(self, keys=self.keys[:number] + self.keys[number + 1 :])
        for name, nothing in (
            ("limit", None),
            ("offset", 0),
            ("scope", None),
            ("include", frozenset()),
            ("fuzzy", False),
            ("multiple", False),
            ("empty", False),
        ):
            if getattr(self, name) != nothing:
                yield replace(self, **{name: nothing})

    def __str__(self):
        said = [f"{self.level.name}", *(f"{keyword}={text!a}" for keyword, text in self.keys)]
        plain = Question(self.level)
        names = ("scope", "empty", "multiple", "fuzzy", "include", "limit", "offset")
        said += [f"{name}={getattr(self, name)}" for name in names if getattr(self, name) != getattr(plain, name)]
        return " ".join(said)


def question(chance: Random, oracle: Oracle) -> Question:
    """A question about an archive, mostly about one instance of it, so that it often has an answer."""
    level = chance.choices(list(Level), (12, 34, 27, 27))[0]
    about = chance.choice(oracle.rows[Level.INSTANCE])
    empty, multiple, fuzzy = chance.random() < 0.3, chance.random() < 0.3, chance.random() < 0.25
    keys = []
    for attribute in _attributes(chance, fuzzy=fuzzy):
        other = chance.choice(oracle.rows[Level.INSTANCE]) if chance.random() < 0.15 else about
        held = texts_of(attribute, other.at(row_level(attribute)))
        keys.append((attribute.keyword, asked_text(chance, attribute, held, empty=empty, multiple=multiple)))
    return Question(
        level,
        tuple(keys),
        _scope(chance, level, about) if chance.random() < 0.35 else None,
        empty,
        multiple,
        fuzzy,
        _include(chance),
        None if chance.random() < (0.55 if level <= Level.STUDY else 0.3) else chance.choice((0, 1, 2, 5, 20, 1000)),
        0 if chance.random() < 0.75 else chance.choice((1, 2, 3, 7, 50, 10**6)),
    )


_REQUEST_KEYS = tuple(one for one in KEYS if one.is_nested)
_NAMES = tuple(one for one in KEYS if one.vr == "PN")
_NAMES_AND_DATES = tuple(one for one in KEYS if one.vr in ("PN", "DA", "TM", "DT"))


def _attributes(chance: Random, *, fuzzy: bool) -> list[Attribute]:
    count = chance.choices(range(5), (3, 42, 28, 17, 10))[0]
    chosen = chance.sample(KEYS, count)
    if count > 1 and chance.random() < 0.12:
        chosen[:2] = _REQUEST_KEYS
    elif count and fuzzy and chance.random() < 0.6:
        chosen[0] = chance.choice(_NAMES)
    elif count and chance.random() < 0.25:
        chosen[0] = chance.choice(_NAMES_AND_DATES)
    elif count > 1 and chance.random() < 0.04:
        chosen[1] = chosen[0]  # no door lets a key be given twice, but the archive knows what it means
    return chosen


def _scope(chance: Random, level: Level, about: Row) -> Scope:
    """A resource above the level, or the one asked for; now and then with a part left open, or not there."""
    depth = min(chance.randint(1, 3), max(level, Level.STUDY))
    uids = [*about.uids[:depth], "", ""][:3]
    if depth > 1 and chance.random() < 0.3:
        uids[0] = ""
    if chance.random() < 0.05:
        uids[depth - 1] = chance.choice((f"{_ROOT}.0", "'", "*", "1.2' OR '1'='1", "\x00"))
    return Scope(*uids)


def _include(chance: Random):
    if chance.random() < 0.75:
        return frozenset()
    if chance.random() < 0.4:
        return "all"
    tags = [one.tag for one in ATTRIBUTES] + ["99999999", "'; --", "00400275.00400009"]
    return frozenset(chance.sample(tags, chance.randint(1, 5)))


def texts_of(attribute: Attribute, row: Row) -> list[str]:
    """The values that a row holds, as a peer would write them."""
    values = (row.element(attribute) or {}).get("Value") or []
    if attribute.is_nested:
        values = [one for item in values for one in item.get(attribute.leaf_tag, {}).get("Value") or []]
    texts = [_name_text(one) if isinstance(one, dict) else str(one) for one in values if one is not None]
    return [text for text in texts if text.strip()]


def _name_text(name):
    return "=".join(name.get(group, "") for group in ("Alphabetic", "Ideographic", "Phonetic")).rstrip("=")


def asked_text(chance: Random, attribute: Attribute, held: list[str], *, empty: bool, multiple: bool) -> str:
    """The text of a key: what is held, something like it, or something of its own."""
    if empty and chance.random() < 0.25:
        return '""'
    if chance.random() < 0.04:
        return chance.choice(("", "*", " ", "**", '""'))
    pool = ASKED.get(attribute.vr, ASKED_TEXTS)
    if not held or chance.random() < 0.18:
        return chance.choice(pool if chance.random() < 0.7 else (*map(_text, _POOLS.get(attribute.vr, pool)), *pool))
    text = chance.choice(held)
    if chance.random() < 0.1 and (multiple or attribute.vr in ("CS", "UI")):
        others = [*held, *pool][:20]
        texts = [text, *(chance.choice(others) for _ in range(chance.randint(1, 3)))]
        chance.shuffle(texts)
        return chance.choice("\\," if attribute.vr in ("CS", "UI") else "\\").join(texts)
    return _ALIKE.get(attribute.vr, _alike_text)(chance, text)


def _text(value) -> str:
    return _name_text(value) if isinstance(value, dict) else str(value)


def _alike_text(chance: Random, text: str) -> str:
    """The text, a pattern that it fits or nearly fits, or another spelling of it."""
    at, to = sorted((chance.randint(0, len(text)), chance.randint(0, len(text))))
    return chance.choice(
        (
            *(text, text, text, f" {text} ", text.swapcase(), text[:at], unicodedata.normalize("NFD", text)),
            *(
                text[:at] + "*",
                "*" + text[at:],
                f"*{text[at:to]}*",
                text[:at] + "*" + text[to:],
                text[:at] + "?" + text[at + 1 :],
            ),
            *(f"{text}*", f"*{text}", f"{text}?", "?" * len(text), text[: chance.randint(1, 250)] + "*"),
        )
    )


def _alike_name(chance: Random, text: str) -> str:
    groups = text.split("=")
    one = chance.choice(groups)
    words = one.replace("^", " ").split() or [""]
    chance.shuffle(words)
    return chance.choice(
        (
            *(text, one, one.upper(), one.lower(), one.title(), one + "^^", one.replace("^", " ^ "), one + "^*"),
            *(" ".join(words), " ".join(word[: chance.randint(1, 3)] for word in words), words[0], words[0] + "*"),
            *("=".join(group[: chance.randint(0, 3)] + "*" for group in groups), "=" * text.count("=") + groups[-1]),
            *(
                _alike_text(chance, one),
                _alike_text(chance, text),
                one.partition("^")[0] + "^*",
                one.partition("^")[0] + "*",
            ),
        )
    )


def _alike_date(chance: Random, text: str) -> str:
    other = chance.choice(DATES[:_COMMON])
    dotted = f"{text[:4]}.{text[4:6]}.{text[6:8]}"
    low, high = sorted((text, other))
    return chance.choice(
        (text, text, dotted, f"{text}-", f"-{text}", f"{low}-{high}", f"{low} - {high}", f"{high}-{low}", f"{dotted}-")
    )


def _alike_time(chance: Random, text: str) -> str:
    other = chance.choice(TIMES[:_COMMON])
    start = text[: chance.choice((2, 4, 6, 8))]
    colons = ":".join(text[at : at + 2] for at in range(0, min(len(text), 6), 2))
    return chance.choice((text, text, start, colons, f"{start}-", f"-{start}", f"{text}-{other}", f"{other}-{start}"))


def _alike_date_time(chance: Random, text: str) -> str:
    other = chance.choice(DATE_TIMES)
    start = text[: chance.choice((4, 6, 8, 10, 12, 14))]
    low, high = sorted((text, other))
    return chance.choice(
        (
            text,
            text,
            start,
            f"{start}+0100",
            f"{start}-0500",
            f"{start}-",
            f"-{start}",
            f"{low}-{high}",
            f"{other}-{start}",
        )
    )


def _alike_number(chance: Random, text: str) -> str:
    return chance.choice(
        (text, text, f"0{text}", f"{text}.0", f"+{text}", f" {text} ", f"{text}e0", f"{text}0", f"{text}\\2")
    )


def _alike_uid(chance: Random, text: str) -> str:
    return chance.choice(
        (text, text, text, f" {text}", f"{text}\\{_ROOT}.1.1", f"{_ROOT}.3.1,{text}", text[:-1], text + "0", f"{text},")
    )


_ALIKE = {
    "DA": _alike_date,
    "DT": _alike_date_time,
    "IS": _alike_number,
    "PN": _alike_name,
    "TM": _alike_time,
    "UI": _alike_uid,
}


# ---- crowds ----------------------------------------------------------------------------------------------------------

_MANY: Mapping[str, tuple[str, ...]] = {
    "DA": ("{0:04}0101-{0:04}0102", "{0:04}0101"),
    "DT": ("{0:04}01-{0:04}02", "{0:04}01"),
    "IS": ("{0}",),
    "TM": ("{0:06}.1-{0:06}.2", "{0:06}.1"),
    "UI": ("1.{0}",),
}


def crowded(chance: Random, oracle: Oracle) -> list[Question]:
    """The most values that a list may have, one of them held, of every key; and names of as many words as fit."""
    asked = []
    for attribute in KEYS:
        rows = oracle.rows[row_level(attribute)]
        held = [text for row in rows for text in texts_of(attribute, row) if _is_plain(attribute, text)]
        for shape in _MANY.get(attribute.vr, ("Z{0}*", "Z{0}")):
            texts = [shape.format(number) for number in range(MAXIMUM_LISTED_VALUES - 1)]
            texts = [text for text in texts if _is_plain(attribute, text)]
            chance.shuffle(texts)
            listed = "\\".join((*texts, *chance.sample(held, 1 if held else 0)))
            asked.append(Question(max(attribute.level, Level.STUDY), ((attribute.keyword, listed),), multiple=True))
        if attribute.vr == "PN" and held:
            words = f"{chance.choice(held)} " * MAXIMUM_VALUE_CHARACTERS
            asked.append(Question(Level.STUDY, ((attribute.keyword, words[:MAXIMUM_VALUE_CHARACTERS]),), fuzzy=True))
    return asked


def _is_plain(attribute: Attribute, text: str) -> bool:
    """Whether a text is one value that may be asked for."""
    try:
        return not set(text) & set("=\\,") and Match.of(attribute, text).kind is not MatchKind.UNIVERSAL
    except BadQuery:
        return False


# ---- hostile archives ------------------------------------------------------------------------------------------------


def hostile_archive(strings: list[str], studies: int) -> list[list[Entry]]:
    """Strings as values of every key, whatever its VR: other ones in each study, alone or two at a time."""
    chance = Random(len(strings))
    made = []
    for number in range(studies):
        said = {}
        for at, attribute in enumerate(one for one in KEYS if not (one.is_computed or one.is_identity)):
            mine = [
                strings[(number + studies * (at + step)) % len(strings)] for step in range(chance.choice((1, 1, 2)))
            ]
            if attribute.is_nested:
                items = said.setdefault("00400275", {"vr": "SQ", "Value": [{} for _ in range(2)]})["Value"]
                for item, text in zip(items, mine, strict=False):
                    item[attribute.leaf_tag] = {"vr": attribute.vr, "Value": [text]}
            else:
                values = (
                    [{"Alphabetic": text, "Ideographic": text[::-1]} for text in mine] if attribute.vr == "PN" else mine
                )
                said[attribute.tag] = {"vr": attribute.vr, "Value": values}
        uids = (f"{_ROOT}.1.{number}", f"{_ROOT}.2.{number}", f"{_ROOT}.3.{number}")
        made.append([_entry(uids, said, chance)])
    return made
