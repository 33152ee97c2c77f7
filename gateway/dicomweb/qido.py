"""Search: path and parameters to a Query, its answers to DICOM JSON. PS3.18 §8.3.4, §10.6"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Literal
from urllib.parse import parse_qsl

from starlette.requests import Request
from starlette.responses import Response

from gateway.dicomweb.media_types import METADATA_OFFERS, negotiate
from gateway.dicomweb.responses import NO_SNIFF, PRIVATE, base_url, path_scope, resource_url
from gateway.http import http_settings, in_thread, session_of
from gateway.session import Session
from gateway.settings import HttpSettings
from storage.attributes import by_name
from storage.dictionary import tag_of
from storage.errors import BadQuery
from storage.matching import Match, Query
from storage.model import Level

_MAXIMUM_PARAMETERS = 128
_MAXIMUM_INCLUDED = 64
_FLAGS = {"true": True, "false": False}
_SWITCHES = ("fuzzymatching", "emptyvaluematching", "multiplevaluematching")
_OURS = frozenset((*_SWITCHES, "limit", "offset", "includefield", "accept"))


@dataclass(slots=True)
class _Reading:
    """What has been read of the parameters so far. warnings: for the Warning header; constant phrases (G18)."""

    matches: dict[str, Match] = field(default_factory=dict)
    include: set[str] = field(default_factory=set)
    includes_all: bool = False
    warnings: list[str] = field(default_factory=list)


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
    scope = path_scope(request) if "study" in request.path_params else None
    query, warnings = query_of(parameters, level, http_settings(request))
    # One more than asked for tells whether there are more (Q17).
    wanted = query.limit or 0
    asked = Query(level, query.matches, scope, query.include, query.fuzzy, wanted + 1 if wanted else 0, query.offset)
    body, has_more = await in_thread(_found, session_of(request), asked, wanted, base_url(request))
    if has_more:
        warnings = [*warnings, "There are additional results that can be requested"]
    headers = {**PRIVATE, **NO_SNIFF}
    if warnings:
        headers["Warning"] = ", ".join(f'299 dicomweb-gateway: "{text}"' for text in warnings)
    return Response(body, headers=headers, media_type=chosen.media_type)


def _found(session: Session, query: Query, wanted: int, base: str) -> tuple[bytes, bool]:
    """The first ``wanted`` answers as a JSON array, and whether there are more. The texts come ready (D5)."""
    texts = session.search_json(query, partial(resource_url, base))
    return f"[{','.join(texts[:wanted])}]".encode(), len(texts) > wanted


def read_parameters(query_string: bytes) -> Sequence[tuple[str, str]]:
    """Names and values in order. ``+`` is a space; what is not UTF-8 raises BadQuery (Q29)."""
    try:
        return parse_qsl(
            query_string.decode("ascii"), keep_blank_values=True, errors="strict", max_num_fields=_MAXIMUM_PARAMETERS
        )
    except UnicodeDecodeError as error:
        raise BadQuery("The query is not percent-encoded UTF-8") from error
    except ValueError as error:
        raise BadQuery("The query has too many parameters") from error


def query_of(
    parameters: Sequence[tuple[str, str]], level: Level, settings: HttpSettings
) -> tuple[Query, Sequence[str]]:
    """The Query that parameters mean, and warnings about what of them had no effect. Raises BadQuery.

    The scope is the path's, and is left open here. PS3.18 §8.3.4.1 to §8.3.4.6
    """
    switches = {name: _flag(_single(parameters, name, "false"), name) for name in _SWITCHES}
    reading = _Reading()
    for name, value in parameters:
        if name == "includefield":
            _include(reading, value)
        elif name not in _OURS:
            _match(reading, name, value, switches)
    include: frozenset[str] | Literal["all"] = "all" if reading.includes_all else frozenset(reading.include)
    limit = _count(_single(parameters, "limit", str(settings.default_results)), "limit")
    offset = _count(_single(parameters, "offset", "0"), "offset")
    if offset > settings.maximum_offset:
        raise BadQuery("The parameter offset is larger than the limit")
    if limit > settings.maximum_results:
        reading.warnings.append("The parameter limit is larger than the maximum of the server")
    query = Query(
        level,
        tuple(reading.matches.values()),
        None,
        include,
        switches["fuzzymatching"],
        min(limit, settings.maximum_results),
        offset,
    )
    return query, tuple(dict.fromkeys(reading.warnings))


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
    for name in filter(None, (item.strip() for item in value.split(","))):
        attribute = by_name(name)
        if name == "all":
            reading.includes_all = True
        elif attribute is None:
            reading.warnings.append("An attribute of includefield is not known here")
        elif len(reading.include) >= _MAXIMUM_INCLUDED:
            raise BadQuery("includefield names too many attributes")
        else:
            reading.include.add(attribute.tag)


def _match(reading: _Reading, name: str, value: str, switches: dict[str, bool]) -> None:
    """Add one key. A DICOM attribute that cannot be searched is refused: ignored, it would widen the answer (Q5)."""
    attribute = by_name(name)
    if attribute is None:
        if _is_dicom(name):
            raise BadQuery("A key names an attribute that cannot be searched")
        reading.warnings.append("A parameter is not known here and was ignored")
        return
    if attribute.tag in reading.matches:
        raise BadQuery("A key is given twice", tag=attribute.tag)
    reading.matches[attribute.tag] = Match.of(
        attribute, value, empty=switches["emptyvaluematching"], multiple=switches["multiplevaluematching"]
    )


def _is_dicom(name: str) -> bool:
    """Whether a name is meant as an attribute: a tag, a keyword of PS3.6, or a path of them."""
    leaf = name.rpartition(".")[2]
    is_tag = len(leaf) == 8 and all(character in "0123456789abcdefABCDEF" for character in leaf)
    return is_tag or tag_of(leaf) is not None
