"""Search: path and parameters to a Query, its answers to DICOM JSON or XML. PS3.18 §8.3.4, §10.6

Nothing that a client asks is passed over in silence: what would narrow the answer and cannot is refused, naming it,
and what cannot be returned is named in a Warning (Q5, Q13).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from types import MappingProxyType
from typing import Literal
from urllib.parse import parse_qsl

from starlette.requests import Request
from starlette.responses import Response

from gateway.dicomweb.media_types import DICOM_JSON, DICOM_XML, JSON, METADATA_OFFERS, negotiate
from gateway.dicomweb.multipart import PART_ENDS, body_ends, body_type, new_boundary, part_begins
from gateway.dicomweb.responses import NO_SNIFF, PRIVATE, base_url, path_scope, resource_url
from gateway.http import http_settings, in_thread, session_of
from gateway.session import Session
from gateway.settings import HttpSettings
from storage.attributes import ATTRIBUTES, Attribute, by_tag, table
from storage.dicomxml import native_model
from storage.dictionary import keyword_path, tag_path
from storage.errors import BadQuery
from storage.matching import MAXIMUM_MATCHES, Match, MatchKind, Query
from storage.model import Answer, JsonElement, Level

_MAXIMUM_PARAMETERS = 128
_MAXIMUM_NAMED_CHARACTERS = 400
"""Of the attributes that one Warning names; a header has to stay short."""
_MOST_BEYOND = 128
"""Attributes that one search may have returned, of instances, beyond those that the index keeps."""
_NOT_UTF_8 = re.compile("[\ud800-\udfff]")
_FLAGS = {"true": True, "false": False}
_SWITCHES = ("fuzzymatching", "emptyvaluematching", "multiplevaluematching")
_OURS = frozenset((*_SWITCHES, "limit", "offset", "includefield", "accept"))

RETRIEVE_URL, INSTANCE_AVAILABILITY = "00081190", "00080056"
_ALWAYS_RETURNED = frozenset((RETRIEVE_URL, INSTANCE_AVAILABILITY))

_STANDARD = frozenset(attribute.tag for attribute in ATTRIBUTES)

_ALIASES: Mapping[str, tuple[str, str]] = MappingProxyType(
    {"PersonName": ("PatientName", "PersonName is read as PatientName")}
)
"""What a viewer sends in the place of what it means, and what it is told. Slim's search box sends ``PersonName=*x*``.

The true Person Name (0040,A123) is a value in the content of a report, and never a key of a search.
"""


@dataclass(slots=True)
class _Reading:
    """What has been read of the parameters so far.

    universal: keys that match everything. given: tags of keys, each once. below, absent: tags of includefield that
    answers of this level do not hold. warnings: constant phrases (G18).
    """

    level: Level
    switches: Mapping[str, bool]
    matches: list[Match] = field(default_factory=list)
    universal: list[Match] = field(default_factory=list)
    given: set[str] = field(default_factory=set)
    include: set[str] = field(default_factory=set)
    includes_all: bool = False
    below: set[str] = field(default_factory=set)
    absent: set[str] = field(default_factory=set)
    warnings: list[str] = field(default_factory=list)

    def all_warnings(self) -> tuple[str, ...]:
        """Each once, with the keywords of what is not returned."""
        named = (
            ("Of a level below this one, and so not returned", self.below),
            ("Not kept by this server, and so not returned", self.absent),
        )
        lists = (f"{reason}: {_keywords(tags)}" for reason, tags in named if tags)
        return tuple(dict.fromkeys((*self.warnings, *lists)))


def _keywords(tags: Iterable[str]) -> str:
    names = ", ".join(map(keyword_path, sorted(tags)))
    if len(names) <= _MAXIMUM_NAMED_CHARACTERS:
        return names
    return f"{names[:_MAXIMUM_NAMED_CHARACTERS].rpartition(', ')[0]}, and others".removeprefix(", ")


async def studies(request: Request) -> Response:
    """Search for studies."""
    return await _search(request, Level.STUDY)


async def series(request: Request) -> Response:
    """Search for series, of one study or of all."""
    return await _search(request, Level.SERIES)


async def instances(request: Request) -> Response:
    """Search for instances, of one series, one study, or of all."""
    return await _search(request, Level.INSTANCE)


async def _search(request: Request, level: Level) -> Response:
    parameters = read_parameters(request.scope["query_string"])
    accepts = [value for name, value in parameters if name == "accept"] or request.headers.getlist("accept")
    chosen = negotiate(accepts, METADATA_OFFERS)
    scope = path_scope(request) if request.path_params else None
    query, warnings = query_of(parameters, level, http_settings(request))
    # One more than asked for tells whether there are more (Q17).
    wanted = query.limit or 0
    asked = Query(level, query.matches, scope, query.include, query.fuzzy, wanted + 1 if wanted else 0, query.offset)
    written = await in_thread(_WRITERS[chosen.media_type], session_of(request), asked, wanted, base_url(request))
    if lacking := _indexed_later(query):
        lacking &= await in_thread(session_of(request).incomplete)
    if lacking:
        warnings = [*warnings, f"Still being indexed, and so not returned by every answer: {_keywords(lacking)}"]
    if written.has_more:
        warnings = [*warnings, "There are additional results that can be requested"]
    headers = {**PRIVATE, **NO_SNIFF}
    if warnings:
        headers["Warning"] = ", ".join(f'299 dicomweb-gateway: "{text}"' for text in warnings)
    if not written.body:
        return Response(status_code=204, headers=headers)
    return Response(written.body, headers=headers, media_type=written.content_type or str(chosen))


@dataclass(frozen=True, slots=True)
class _Written:
    """Matches as a body, and whether there are more of them. content_type: where it is not just what was chosen."""

    body: bytes
    has_more: bool
    content_type: str = ""


def _indexed_later(query: Query) -> frozenset[str]:
    """Tags of what is to be returned that the index does not have of instances stored before it was an extended tag."""
    asked = {tag[:8] for tag in query.include} if query.include != "all" else None
    return frozenset(
        one.tag
        for one in table().extended
        if (one.top_tag not in _STANDARD or one.top_tag in table().partial_sequences)
        and (one.level <= query.level if asked is None else one.top_tag in asked)
    )


def _json(session: Session, query: Query, wanted: int, base: str) -> _Written:
    """The first ``wanted`` matches as an array, which may be empty (Q3). The texts come ready (D5)."""
    texts = session.search_json(query, partial(resource_url, base))
    return _Written(f"[{','.join(texts[:wanted])}]".encode(), len(texts) > wanted)


def _xml(session: Session, query: Query, wanted: int, base: str) -> _Written:
    """The first ``wanted`` matches, each a Native DICOM Model in a part of its own (Q2). PS3.18 §8.7.3.3

    Without a match there is no body, for a 204. The standard wants an empty list of results, which is the empty array
    in JSON (CP-2473), but a multipart body has one part at least (RFC 2046 §5.1.1). Editions before that asked for
    the 204 (PS3.18 2024d §8.3.4.4.1), so clients know it.
    """
    answers = session.search(query)
    boundary = new_boundary()
    begins = part_begins(boundary, DICOM_XML)
    parts = [begins + native_model(_with_url(answer, base)) + PART_ENDS for answer in answers[:wanted]]
    body = b"".join((*parts, body_ends(boundary))) if parts else b""
    return _Written(body, len(answers) > wanted, body_type(DICOM_XML, boundary))


def _with_url(answer: Answer, base: str) -> Mapping[str, JsonElement]:
    url = {"vr": "UR", "Value": [resource_url(base, answer.scope)]}
    return dict(sorted({**answer.attributes, RETRIEVE_URL: url}.items()))


_WRITERS: Mapping[str, Callable[[Session, Query, int, str], _Written]] = MappingProxyType(
    {DICOM_JSON: _json, JSON: _json, DICOM_XML: _xml}
)


def read_parameters(query_string: bytes) -> Sequence[tuple[str, str]]:
    """Names and values in order. ``+`` is a space; what is not UTF-8 raises BadQuery, naming the parameter (Q29)."""
    try:
        parameters = parse_qsl(
            query_string.decode("utf-8", "surrogateescape"),
            keep_blank_values=True,
            errors="surrogateescape",
            max_num_fields=_MAXIMUM_PARAMETERS,
        )
    except ValueError as error:
        raise BadQuery("The query has too many parameters") from error
    for name, value in parameters:
        if _NOT_UTF_8.search(name + value):
            said = f"The parameter {name}" if name in _OURS else "A parameter"
            raise BadQuery(f"{said} is not percent-encoded UTF-8", tag=tag_path(name))
    return parameters


def query_of(
    parameters: Sequence[tuple[str, str]], level: Level, settings: HttpSettings
) -> tuple[Query, Sequence[str]]:
    """The Query that parameters mean, and warnings about what of them had no effect. Raises BadQuery.

    The scope is the path's, and is left open here. PS3.18 §8.3.4.1 to §8.3.4.6
    """
    reading = _Reading(level, {name: _flag(_single(parameters, name, "false"), name) for name in _SWITCHES})
    for name, value in parameters:
        if name == "includefield":
            _include(reading, value)
        elif name not in _OURS:
            _key(reading, name, value)
    include: frozenset[str] | Literal["all"] = "all" if reading.includes_all else frozenset(reading.include)
    limit = _count(_single(parameters, "limit", str(settings.default_results)), "limit")
    offset = _count(_single(parameters, "offset", "0"), "offset")
    if offset > settings.maximum_offset:
        raise BadQuery("The parameter offset is larger than the limit")
    if limit > settings.maximum_results:
        reading.warnings.append("The parameter limit is larger than the maximum of the server")
    # Where all that is there is returned anyhow, what was asked for by a key is returned empty, too (Q21).
    universal = reading.universal[: MAXIMUM_MATCHES - len(reading.matches)] if reading.includes_all else ()
    query = Query(
        level,
        (*reading.matches, *universal),
        None,
        include,
        reading.switches["fuzzymatching"],
        min(limit, settings.maximum_results),
        offset,
    )
    return query, reading.all_warnings()


def _single(parameters: Sequence[tuple[str, str]], name: str, default: str) -> str:
    values = [value for key, value in parameters if key == name]
    if len(values) > 1:
        raise BadQuery(f"The parameter {name} is given twice")
    return values[0] if values else default


def _flag(text: str, name: str) -> bool:
    if text not in _FLAGS:
        raise BadQuery(f"The parameter {name} is true or false")
    return _FLAGS[text]


def _count(text: str, name: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) <= 12):
        raise BadQuery(f"The parameter {name} is a count")
    return int(text)


def _include(reading: _Reading, value: str) -> None:
    """Add what one ``includefield`` names. PS3.18 §8.3.4.3"""
    for name in filter(None, (item.strip() for item in value.split(","))):
        path = tag_path(name)
        if name == "all":
            reading.includes_all = True
        elif path:
            _return(reading, path)
        else:
            reading.warnings.append("An attribute of includefield is not known here")


def _return(reading: _Reading, path: str) -> None:
    """Have an attribute returned, or say why it is not: nobody shall take a missing one for an empty one."""
    attribute = by_tag(path) or _sequence_of(path)
    if (
        attribute is None
        and reading.level is Level.INSTANCE
        and "." not in path
        and len(reading.include) < _MOST_BEYOND
    ):
        reading.include.add(path)  # it is in the instance's metadata, if it has it
    elif attribute is None:
        if path not in _ALWAYS_RETURNED:
            reading.absent.add(path)
    elif attribute.level > reading.level:
        reading.below.add(path)
    else:
        reading.include.add(attribute.tag)


def _sequence_of(path: str) -> Attribute | None:
    """The sequence that holds what a path names, where it is kept whole: it is returned whole."""
    top, _, rest = path.partition(".")
    found = by_tag(top)
    return found if rest and found and found.vr == "SQ" and top not in table().partial_sequences else None


def _key(reading: _Reading, name: str, value: str) -> None:
    """Add one key. A DICOM attribute that cannot be searched is refused: ignored, it would widen the answer (Q5).

    An empty value matches everything, and asks for the attribute in the answers (Q21). PS3.18 §8.3.4.1
    """
    meant, warning = _ALIASES.get(name, (name, ""))
    path = tag_path(meant)
    if not path:
        reading.warnings.append("A parameter is not known here and was ignored")
        return
    if path in reading.given:
        raise BadQuery("A key is given twice", tag=path)
    reading.given.add(path)
    if warning:
        reading.warnings.append(warning)
    attribute = by_tag(path)
    if not value.strip("* "):
        if attribute is not None and attribute.is_key:
            Match.of(attribute, value)  # refuses one that is too long
        _return(reading, path)
        if attribute is not None and attribute.level <= reading.level:
            reading.universal.append(Match(attribute, MatchKind.UNIVERSAL))
        return
    if attribute is None:
        raise BadQuery("The attribute cannot be searched", tag=path)
    reading.matches.append(
        Match.of(
            attribute,
            value,
            empty=reading.switches["emptyvaluematching"],
            multiple=reading.switches["multiplevaluematching"],
        )
    )
