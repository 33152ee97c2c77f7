"""Policies: on what terms the archive takes what a peer sends, as rules that an operator writes, one a line.

A rule is ``WHO … KEY=VALUE …``. The first rule whose WHO fits a source is the one that holds, whole; nothing is
inherited from others, and where none fits, the defaults hold. Pure: what a rule wants done is done elsewhere.
"""

from __future__ import annotations

import enum
import ipaddress
import re
import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from functools import lru_cache

from storage.dictionary import dictionary_vr, keyword_path, tag_path, uid_of
from storage.errors import UnsupportedSOPClass, UnsupportedTransferSyntax
from storage.model import Conflict, Quota, Source, Terms
from storage.uids import TRANSFER_SYNTAXES, is_uid

MAXIMUM_VALUE_CHARACTERS = 1024
_DOORS = ("dimse", "dicomweb", "import")
_Network = ipaddress.IPv4Network | ipaddress.IPv6Network


# ---- coercions -----------------------------------------------------------------------------------------------------


class Action(enum.Enum):
    """What is done to an attribute. SET: give it a value; FILL: if it has none; PREFIX: put text before each of its
    values, if it has any; REMOVE: take it out.
    """

    SET = "set"
    FILL = "fill"
    PREFIX = "prefix"
    REMOVE = "remove"


_TEXT = r"[^\x00-\x1f\x7f\\]"
_LINES = r"[^\x00-\x08\x0b\x0e-\x1f\x7f\\]"
FORMS: Mapping[str, re.Pattern[str]] = {
    vr: re.compile(pattern)
    for vr, pattern in {
        "AE": r"[\x20-\x5b\x5d-\x7e]{1,16}",
        "AS": r"[0-9]{3}[DWMY]",
        "CS": r"[A-Z0-9 _]{1,16}",
        "DA": r"[0-9]{8}",
        "DS": r"(?=.{1,16}$)[+-]?([0-9]+(\.[0-9]*)?|\.[0-9]+)([eE][+-]?[0-9]+)?",
        "DT": r"[0-9]{4,14}(\.[0-9]{1,6})?([+-][0-9]{4})?",
        "IS": r"(?=.{1,12}$)[+-]?[0-9]+",
        "LO": f"{_TEXT}{{1,64}}",
        "LT": f"{_LINES}{{1,{MAXIMUM_VALUE_CHARACTERS}}}",
        "PN": f"{_TEXT}{{1,64}}",
        "SH": f"{_TEXT}{{1,16}}",
        "ST": f"{_LINES}{{1,{MAXIMUM_VALUE_CHARACTERS}}}",
        "TM": r"[0-9]{2,6}(\.[0-9]{1,6})?",
        "UC": f"{_TEXT}{{1,{MAXIMUM_VALUE_CHARACTERS}}}",
        "UI": r"[0-9.]{1,64}",
        "UT": f"{_LINES}{{1,{MAXIMUM_VALUE_CHARACTERS}}}",
    }.items()
}
"""What one value may be made of, by the VRs that can be given a value. PS3.5 §6.2"""
PREFIXED = frozenset(("AE", "CS", "LO", "LT", "PN", "SH", "ST", "UC", "UT"))
"""VRs whose values can be put something before."""
_LONGEST = {"AE": 16, "CS": 16, "LO": 64, "PN": 64, "SH": 16}
# Who an instance is, how it is written, how its pixels lie, and what is said of coercions: it is not ours to change.
_UNTOUCHED = frozenset(("00080005", "00080016", "00080018", "0020000D", "0020000E", "04000561"))
_UNTOUCHED_RANGES = (
    range(0x00080000),
    range(0x00280000, 0x00280200),
    range(0x52000000, 0x52010000),
    range(0x7FE00000, 0x7FE10000),
    range(0xFFFA0000, 1 << 32),
)


@dataclass(frozen=True, slots=True)
class Coercion:
    """One change to an attribute of the top level of a Data Set. Raises ValueError for one that cannot be made.

    tag: eight upper-case hex digits. value: text; one value or several with a backslash between.
    """

    action: Action
    tag: str
    value: str = field(default="", repr=False)

    def __post_init__(self) -> None:
        """Check it."""
        number = int(self.tag, 16)
        if self.tag in _UNTOUCHED or not number & 0xFFFF or any(number in one for one in _UNTOUCHED_RANGES):
            raise ValueError(f"would change {keyword_path(self.tag)}, which is never changed")
        if self.action is Action.REMOVE:
            return
        vr = self.vr
        forms = FORMS.get(vr)
        if forms is None or (self.action is Action.PREFIX and vr not in PREFIXED):
            raise ValueError(f"cannot {self.action.value} {keyword_path(self.tag)}, whose VR is {vr}")
        values = [self.value] if self.action is Action.PREFIX else self.value.split("\\")
        if not all(map(forms.fullmatch, values)) or (vr == "UI" and not all(map(is_uid, values))):
            raise ValueError(f"has no {vr} for {keyword_path(self.tag)}")

    @property
    def vr(self) -> str:
        """The VR that the dictionary gives the attribute."""
        return dictionary_vr(int(self.tag, 16))


def coercion(action: Action, name: str, value: str = "") -> Coercion:
    """A change to the attribute of a keyword, or of eight hex digits. Raises ValueError."""
    tag = tag_path(name)
    if len(tag) != 8:
        raise ValueError(f"names no attribute of the top level: {name!r}")
    return Coercion(action, tag, value)


def is_too_long(vr: str, value: str) -> bool:
    """Whether one value has more characters than its VR may have; of a name each component group. PS3.5 §6.2"""
    longest = _LONGEST.get(vr)
    return longest is not None and any(len(part) > longest for part in (value.split("=") if vr == "PN" else [value]))


# ---- what holds for a source ---------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Policy:
    """On what terms instances of a source are taken. sop_classes, transfer_syntaxes: by UID; None is all of them."""

    terms: Terms = field(default_factory=Terms)
    sop_classes: frozenset[str] | None = None
    transfer_syntaxes: frozenset[str] | None = None
    coercions: tuple[Coercion, ...] = ()

    def takes_class(self, uid: str) -> bool:
        """Whether instances of a SOP Class are taken."""
        return self.sop_classes is None or uid in self.sop_classes

    def takes_syntax(self, uid: str) -> bool:
        """Whether instances in a transfer syntax are taken."""
        return self.transfer_syntaxes is None or uid in self.transfer_syntaxes

    def check_class(self, uid: str) -> None:
        """Raises UnsupportedSOPClass for one that is not taken."""
        if not self.takes_class(uid):
            raise UnsupportedSOPClass("The SOP Class is not taken from this peer")

    def check_syntax(self, uid: str) -> None:
        """Raises UnsupportedTransferSyntax for one that is not taken."""
        if not self.takes_syntax(uid):
            raise UnsupportedTransferSyntax("The transfer syntax is not taken from this peer")


DEFAULT = Policy()


@dataclass(frozen=True, slots=True)
class Rule:
    """Whom a policy is for: sources that every condition fits."""

    conditions: tuple[tuple[str, str], ...]
    policy: Policy

    def fits(self, source: Source) -> bool:
        """Whether it is for a source."""
        return all(_CONDITIONS[name](source, value) for name, value in self.conditions)


@lru_cache(maxsize=256)
def _network(text: str) -> _Network:
    return ipaddress.ip_network(text, strict=False)


def _is_from(source: Source, network: str) -> bool:
    try:
        return ipaddress.ip_address(source.address) in _network(network)
    except ValueError:
        return False


_CONDITIONS: Mapping[str, Callable[[Source, str], bool]] = {
    "ae": lambda source, title: bool(source.calling_ae) and fnmatchcase(source.calling_ae, title),
    "door": lambda source, door: source.door == door,
    "address": _is_from,
}


@dataclass(frozen=True, slots=True)
class Policies:
    """Rules in the order in which they are asked."""

    rules: tuple[Rule, ...] = ()

    def of(self, source: Source) -> Policy:
        """What holds for a source: the policy of the first rule that fits, or the default one."""
        for rule in self.rules:
            if rule.fits(source):
                return rule.policy
        return DEFAULT


# ---- from an operator's text ---------------------------------------------------------------------------------------


def read_policies(entries: Sequence[str]) -> Policies:
    """Rules of entries as ``WHO … KEY=VALUE …``. Raises ValueError, naming the entry that cannot be used.

    WHO is ``*``, or any of ``ae=TITLE`` (with ``*`` and ``?``), ``door=dimse|dicomweb|import``, ``address=NETWORK``.
    KEY is ``conflict``, ``sop-class``, ``transfer-syntax``, ``set``, ``fill``, ``prefix``, ``remove``,
    ``instances-per-day`` or ``bytes-per-day``; those of lists may be given several times.
    """
    rules: list[Rule] = []
    for entry in entries:
        try:
            rule = _rule(entry)
        except ValueError as error:
            raise ValueError(f"holds {entry!r}, which {error}") from None
        if any(rule.conditions == other.conditions for other in rules):
            raise ValueError(f"holds {entry!r}, which is for the same peers as a rule before it")
        rules.append(rule)
    return Policies(tuple(rules))


def _rule(entry: str) -> Rule:
    conditions: dict[str, str] = {}
    said: dict[str, list[str]] = {}
    is_for_all = False
    for word in _words(entry):
        key, equals, value = word.partition("=")
        if word == "*":
            is_for_all = True
        elif not equals or not value:
            raise ValueError(f"has a part that is not KEY=VALUE: {word!r}")
        elif key in _CONDITIONS:
            if key in conditions:
                raise ValueError(f"names {key} twice")
            conditions[key] = _checked_condition(key, value)
        elif key in _KEYS:
            said.setdefault(key, []).append(value)
        else:
            raise ValueError(f"has an unknown key: {key!r}")
    if is_for_all == bool(conditions):
        raise ValueError("says for whom it is neither by * alone nor by ae, door or address")
    if not said:
        raise ValueError("wants nothing")
    name = " ".join(f"{key}={value}" for key, value in sorted(conditions.items())) or "*"
    return Rule(tuple(sorted(conditions.items())), _policy(said, name))


def _words(entry: str) -> list[str]:
    """Words with blanks in quotes; a backslash is one, for it separates values."""
    lexer = shlex.shlex(entry, posix=True)
    lexer.whitespace_split = True
    lexer.commenters = lexer.escape = ""
    return list(lexer)


def _checked_condition(key: str, value: str) -> str:
    if key == "door" and value not in _DOORS:
        raise ValueError("has a door that is none of " + ", ".join(_DOORS))
    if key == "address":
        return str(_network(value))
    if key == "ae" and len(value.replace("*", "")) > 16:
        raise ValueError("has an AE title of more than 16 characters")
    return value


def _policy(said: Mapping[str, Sequence[str]], name: str) -> Policy:
    per_day = {key: _count(key, said[key]) for key in _QUOTAS if key in said}
    quota = Quota(name, per_day.get("instances-per-day"), per_day.get("bytes-per-day")) if per_day else None
    conflict = Conflict(_single("conflict", said["conflict"])) if "conflict" in said else Conflict.KEEP_FIRST
    coercions = [_coercion(action, text) for action in Action for text in said.get(action.value, ())]
    if len({(one.tag, one.action) for one in coercions}) < len(coercions):
        raise ValueError("does the same to an attribute twice")
    return Policy(
        Terms(conflict, quota),
        _uids("sop-class", said, uid_of) if "sop-class" in said else None,
        _uids("transfer-syntax", said, _syntax_of) if "transfer-syntax" in said else None,
        tuple(coercions),
    )


def _single(key: str, values: Sequence[str]) -> str:
    if len(values) > 1:
        raise ValueError(f"has {key} twice")
    if key == "conflict" and values[0] not in {one.value for one in Conflict}:
        raise ValueError("has a conflict that is none of " + ", ".join(one.value for one in Conflict))
    return values[0]


def _count(key: str, values: Sequence[str]) -> int:
    text = _single(key, values)
    if not re.fullmatch(r"[0-9]{1,18}", text, re.ASCII):
        raise ValueError(f"has no whole number for {key}")
    return int(text)


def _uids(key: str, said: Mapping[str, Sequence[str]], named: Callable[[str], str]) -> frozenset[str]:
    names = [name for value in said[key] for name in value.split(",")]
    unknown = [name for name in names if not (is_uid(name) or named(name))]
    if unknown:
        raise ValueError(f"has a {key} that is neither keyword nor UID: {unknown[0]!r}")
    return frozenset(name if is_uid(name) else named(name) for name in names)


def _syntax_of(keyword: str) -> str:
    return next((uid for uid, row in TRANSFER_SYNTAXES.items() if row.keyword == keyword), "") or uid_of(keyword)


def _coercion(action: Action, text: str) -> Coercion:
    name, _, value = text.partition(":")
    if action is Action.REMOVE and value:
        raise ValueError(f"has a value where one is removed: {text!r}")
    return coercion(action, name, value)


_QUOTAS = ("instances-per-day", "bytes-per-day")
_KEYS = frozenset(("conflict", "sop-class", "transfer-syntax", *_QUOTAS, *(action.value for action in Action)))
