"""Which representation a client gets: Accept and what can be made, matched by one pure function over tables.

Knows media types and transfer syntaxes, and nothing of requests, instances or bytes. An *offer* is a Representation
that the door is able to make for the resource; offers stand in the server's order, the first is the resource's
default. PS3.18 §8.7
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache, lru_cache
from itertools import starmap

from storage.errors import BadRequest, NotAcceptable
from storage.uids import (
    DEFLATED_EXPLICIT_VR_LITTLE_ENDIAN,
    EXPLICIT_VR_BIG_ENDIAN,
    EXPLICIT_VR_LITTLE_ENDIAN,
    IMPLICIT_VR_LITTLE_ENDIAN,
    transfer_syntax,
)

DICOM = "application/dicom"
DICOM_JSON = "application/dicom+json"
DICOM_XML = "application/dicom+xml"
JSON = "application/json"
OCTET_STREAM = "application/octet-stream"
MULTIPART_RELATED = "multipart/related"

AS_STORED = "*"
"""As a transfer syntax: each item as it is stored, or what ``on_the_wire`` makes of that."""
BY_DEFAULT = "default"
"""As a transfer syntax: each item in Explicit VR Little Endian, or as it is stored if that has losses (G6)."""

MAXIMUM_ACCEPT_CHARACTERS = 8192
MAXIMUM_RANGES = 64

NEVER_SENT = frozenset((IMPLICIT_VR_LITTLE_ENDIAN, EXPLICIT_VR_BIG_ENDIAN))

DEFAULT_TRANSFER_SYNTAX = {
    OCTET_STREAM: EXPLICIT_VR_LITTLE_ENDIAN,
    "image/jpeg": "1.2.840.10008.1.2.4.70",
    "image/dicom-rle": "1.2.840.10008.1.2.5",
    "image/jls": "1.2.840.10008.1.2.4.80",
    "image/jp2": "1.2.840.10008.1.2.4.90",
    "image/jpx": "1.2.840.10008.1.2.4.92",
    "image/jphc": "1.2.840.10008.1.2.4.201",
}
"""What a media type without ``transfer-syntax`` means; of instances their first offer says it. PS3.18 §8.7.3"""


@dataclass(frozen=True, slots=True)
class Representation:
    """One way to send a resource.

    media_type: of the item, also where it is a part of many. transfer_syntax_uid: empty where the media type has
    none, ``AS_STORED`` or ``BY_DEFAULT`` where instances of one resource are sent in several. is_stored: what
    ``transfer-syntax=*`` gets. is_browser_default: what ``*/*`` gets, where that is not the resource's default.
    Raises ValueError for the transfer syntaxes that are never sent (G8). PS3.18 §8.7.3
    """

    media_type: str
    transfer_syntax_uid: str = ""
    is_multipart: bool = False
    is_stored: bool = False
    is_browser_default: bool = False

    def __post_init__(self) -> None:
        if self.transfer_syntax_uid in NEVER_SENT:
            message = "Implicit VR Little Endian and Explicit VR Big Endian are never sent"
            raise ValueError(message)

    @property
    def content_type(self) -> str:
        """Content-Type of the item: a part's header, or the response's when it is a single part. PS3.18 §8.7.3.5.2"""
        return content_type(self.media_type, self.transfer_syntax_uid)

    def __str__(self) -> str:
        if not self.is_multipart:
            return self.content_type
        named = self.transfer_syntax_uid not in ("", BY_DEFAULT)
        syntax = f"; transfer-syntax={self.transfer_syntax_uid}" if named else ""
        return f'{MULTIPART_RELATED}; type="{self.media_type}"{syntax}'


def content_type(media_type: str, transfer_syntax_uid: str = "") -> str:
    """``<type>; transfer-syntax=<uid>``, the UID unquoted as Cornerstone's parser needs it (V3)."""
    if transfer_syntax_uid in ("", AS_STORED, BY_DEFAULT):
        return media_type
    return f"{media_type}; transfer-syntax={transfer_syntax_uid}"


def on_the_wire(stored_uid: str) -> str:
    """The transfer syntax in which an instance stored as ``stored_uid`` leaves when it is asked for as stored."""
    return EXPLICIT_VR_LITTLE_ENDIAN if stored_uid in NEVER_SENT else stored_uid


JSON_OFFERS = (
    Representation(DICOM_JSON),
    Representation(JSON),
)
METADATA_OFFERS = (*JSON_OFFERS, Representation(DICOM_XML, is_multipart=True))
"""Of metadata and of searches. XML has one document for each instance or match, so it is multipart always (Q2)."""
RENDERED_OFFERS = (
    Representation("image/jpeg"),
    Representation("image/png"),
    Representation("image/gif"),
)


@cache
def rendered_offers(*, is_several: bool = False, is_thumbnail: bool = False) -> tuple[Representation, ...]:
    """Pictures: one, or of several frames that are named one part each, or an animation. PS3.18 §8.7.4

    Of an instance of several frames all are to be had in parts, and as an animation; one picture is the default.
    """
    if is_thumbnail:
        return RENDERED_OFFERS
    parts = tuple(Representation(offer.media_type, is_multipart=True) for offer in RENDERED_OFFERS)
    return (*parts, Representation("image/gif")) if is_several else (*RENDERED_OFFERS, *parts)


def instance_offers(
    stored_uids: Collection[str], *, is_single: bool, converted: Sequence[str] = (EXPLICIT_VR_LITTLE_ENDIAN,)
) -> tuple[Representation, ...]:
    """What can be had of instances that are stored in ``stored_uids``; the first offer is the default.

    is_single: the resource is one instance, so that it can also be sent without multipart. converted: what they can be
    turned into, beside what they are stored in. Explicit VR Little Endian is the default, but for instances whose
    encoding has losses, which stay as they are unless that is asked for (G6). PS3.18 §8.7.3.3, §10.4
    """
    wire = {on_the_wire(uid) for uid in stored_uids}
    is_lossy = any(transfer_syntax(uid).is_lossy for uid in wire)
    stored = wire.pop() if len(wire) == 1 else AS_STORED
    others = [(uid, False) for uid in converted if uid != stored]
    syntaxes = [(stored, True), *others]
    if not is_lossy and EXPLICIT_VR_LITTLE_ENDIAN in converted and stored != EXPLICIT_VR_LITTLE_ENDIAN:
        syntaxes = [*others[:1], (stored, True), *others[1:]]
    elif is_lossy and stored == AS_STORED and others:
        syntaxes.insert(0, (BY_DEFAULT, False))
    return tuple(
        Representation(DICOM, uid, is_multipart=is_multipart, is_stored=is_stored)
        for is_multipart in ((True, False) if is_single else (True,))
        for uid, is_stored in syntaxes
    )


def frame_offers(
    stored_uid: str, *, is_single: bool, converted: Sequence[str] = (EXPLICIT_VR_LITTLE_ENDIAN,)
) -> tuple[Representation, ...]:
    """What can be had of frames of one instance that is stored in ``stored_uid``; the first offer is the default.

    is_single: one frame is asked for. converted: as of ``instance_offers``. PS3.18 §8.7.3.4, §10.4
    """
    stored = transfer_syntax(stored_uid)
    is_native = stored_uid == DEFLATED_EXPLICIT_VR_LITTLE_ENDIAN or not stored.is_encapsulated
    own = EXPLICIT_VR_LITTLE_ENDIAN if is_native else stored_uid
    others = [(transfer_syntax(uid).media_type, uid, False) for uid in converted if uid != own]
    items = [(stored.media_type, own, True), *others]
    if not (is_native or stored.is_lossy) and EXPLICIT_VR_LITTLE_ENDIAN in converted:
        items = [*others[:1], items[0], *others[1:]]
    return tuple(
        Representation(media_type, syntax, is_multipart=is_multipart, is_stored=is_stored)
        for is_multipart in ((True, False) if is_single else (True,))
        for media_type, syntax, is_stored in items
    )


def bulk_offers(media_type: str = OCTET_STREAM, *, is_single: bool = True) -> tuple[Representation, ...]:
    """What can be had of values that are not pixels: their bytes, and as their own ``media_type`` where one is known.

    A browser that asks for ``*/*`` gets one value without multipart (W6). PS3.18 §10.4
    """
    octets = Representation(OCTET_STREAM, EXPLICIT_VR_LITTLE_ENDIAN, is_stored=True)
    items = (octets,) if media_type == OCTET_STREAM else (octets, Representation(media_type))
    many = tuple(replace(item, is_multipart=True) for item in items)
    if not is_single:
        return many
    return (*many, replace(items[-1], is_browser_default=True), *items[:-1])


_ITEM = re.compile(r'(?:"(?:\\.|[^"\\])*"?|[^,"])+', re.DOTALL)
_PARAMETER = re.compile(r'(?:"(?:\\.|[^"\\])*"?|[^;"])+', re.DOTALL)
_ESCAPE = re.compile(r"\\(.)", re.DOTALL)
_QUALITY = re.compile(r"0(?:\.[0-9]{0,3})?|1(?:\.0{0,3})?", re.ASCII)


def parse_media_type(text: str) -> tuple[str, tuple[tuple[str, str], ...]]:
    """The type in lower case and its parameters in order, names in lower case, values without their quotes.

    Tolerant: no parameter is refused, and a ``+`` that a query string turned into a space is restored (D11).
    Linear in the text. RFC 9110 §8.3.1
    """
    head, *rest = _PARAMETER.findall(text) or [""]
    return head.strip().lower().replace(" ", "+"), tuple(_parameter(item) for item in rest if item.strip())


def _parameter(text: str) -> tuple[str, str]:
    name, _, value = text.partition("=")
    value = value.strip()
    if value.startswith('"'):
        value = _ESCAPE.sub(r"\1", value[1:].removesuffix('"'))
    return name.strip().lower(), value.strip()


@dataclass(frozen=True, slots=True)
class _Range:
    """One media range of Accept: ``main``/``sub`` of the item wanted, which multipart puts into ``type``.

    specificity: 0 for anything, 1 for a whole type, 2 for a type, 3 for a type with parameters (G4). position: its
    place in Accept, from 1.
    """

    main: str
    sub: str
    is_multipart: bool
    transfer_syntaxes: tuple[str, ...]
    quality: float
    specificity: int
    position: int = 1

    @property
    def is_anything(self) -> bool:
        return self.main == "*"

    def covers(self, offer: Representation) -> bool:
        if self.is_anything:
            return True
        main, _, sub = offer.media_type.lower().partition("/")
        return self.is_multipart == offer.is_multipart and self.main == main and self.sub in ("*", "", sub)


_ANYTHING = _Range("*", "*", is_multipart=True, transfer_syntaxes=(), quality=1.0, specificity=2)


def _quality(text: str) -> float:
    return float(text) if _QUALITY.fullmatch(text) else 1.0


def _range(position: int, text: str) -> _Range | None:
    media_type, parameters = parse_media_type(text)
    main, slash, sub = ("*", "/", "*") if media_type == "*" else media_type.partition("/")
    if not (main and slash and sub) or (main == "*" and sub != "*"):
        return None
    values = dict(reversed(parameters))
    is_multipart = main == "multipart"
    specificity = 0 if main == "*" else 1 if sub == "*" else 3 if values.keys() - {"q"} else 2
    if is_multipart:
        main, _, sub = values.get("type", "*/*").lower().replace(" ", "+").partition("/")
    return _Range(
        main=main,
        sub=sub,
        is_multipart=is_multipart,
        transfer_syntaxes=_specific_first(value for name, value in parameters if name == "transfer-syntax" and value),
        quality=_quality(values.get("q", "1")),
        specificity=specificity,
        position=position,
    )


def _specific_first(syntaxes: Iterable[str]) -> tuple[str, ...]:
    return tuple(sorted(syntaxes, key=AS_STORED.__eq__))


@lru_cache(maxsize=256)
def _ranges(text: str) -> tuple[_Range, ...]:
    """The media ranges in the order of the client's preference (G4). Malformed ones are left out."""
    if len(text) > MAXIMUM_ACCEPT_CHARACTERS:
        raise BadRequest("Accept is longer than the limit")
    items = [item for item in _ITEM.findall(text) if item.strip()]
    if len(items) > MAXIMUM_RANGES:
        raise BadRequest("Accept holds more media ranges than the limit")
    found = [one for one in starmap(_range, enumerate(items, 1)) if one is not None]
    return tuple(sorted(found, key=lambda one: (-one.quality, -one.specificity)))


def negotiate(
    accepts: Sequence[str], offers: Sequence[Representation], *, transfer_syntax_uid: str = ""
) -> Representation:
    """The best of ``offers`` for a client that sent ``accepts``.

    accepts: values of the ``accept`` query parameter if there is one, else of the Accept header lines; nothing
    means the default, ``offers[0]``. transfer_syntax_uid: of the query; for ranges that name none (G6).
    An offer belongs to the most specific range that covers it, so a lower quality there, or 0, holds.
    Raises NotAcceptable, whose reason lists the offers and why each range got none, and BadRequest beyond the limits.
    PS3.18 §8.7.5, §8.7.8
    """
    text = ",".join(accept for accept in accepts if accept.strip())
    ranges = _ranges(text) if text else (_ANYTHING,)
    asked = (transfer_syntax_uid,) if transfer_syntax_uid else ()
    for one in ranges:
        if one.quality == 0:
            break
        stricter = [other for other in ranges if _overrules(other, one)]
        for offer in _candidates(one, one.transfer_syntaxes or asked, offers):
            if not any(offer in _candidates(other, other.transfer_syntaxes or asked, offers) for other in stricter):
                return offer
    available = ", ".join(map(str, offers))
    reasons = [f"range {one.position}: {_refusal(one, one.transfer_syntaxes or asked, offers)}" for one in ranges]
    raise NotAcceptable(
        f"None of the acceptable media types can be produced; available: {available}. {'; '.join(reasons)}"
    )


def _refusal(one: _Range, transfer_syntaxes: tuple[str, ...], offers: Sequence[Representation]) -> str:
    """Why a range gets none of the offers; no value of the request is in it (G9, G14)."""
    if one.quality == 0:
        return "is excluded by its quality"
    if not any(one.covers(offer) for offer in offers):
        is_other_form = any(replace(one, is_multipart=not one.is_multipart).covers(offer) for offer in offers)
        if not is_other_form:
            return "there is no such media type of this resource"
        return "there is one part only, no multipart" if one.is_multipart else "there is only multipart/related of it"
    if not transfer_syntaxes:
        return "a more specific range excludes it"
    if NEVER_SENT.issuperset(transfer_syntaxes):
        return "Implicit VR Little Endian and Explicit VR Big Endian are never sent"
    return "it cannot be had in that transfer syntax"


def _overrules(other: _Range, one: _Range) -> bool:
    return other.quality < one.quality and (
        other.specificity > one.specificity or (other.quality == 0 and other.specificity == one.specificity)
    )


def _candidates(
    one: _Range, transfer_syntaxes: tuple[str, ...], offers: Sequence[Representation]
) -> Iterator[Representation]:
    """The offers that satisfy a range, best first.

    ``*`` after a specific transfer syntax is OHIF's way to say "or whatever you have", and ``*`` with octet-stream
    is how OHIF and Cornerstone ask for frames as stored: both take the stored encoding under its own media type. Who
    has named a compression as well gets it for what is not compressed yet; all else is fine as it is (V2, V6).
    """
    covered = [offer for offer in offers if one.covers(offer)]
    if not transfer_syntaxes:
        yield from _by_default(one, covered)
    takes_stored = AS_STORED in transfer_syntaxes
    is_any_type = takes_stored and (len(transfer_syntaxes) > 1 or f"{one.main}/{one.sub}" == OCTET_STREAM)
    stored = [offer for offer in offers if offer.is_stored]
    is_fine = takes_stored and any(map(_is_compressed, stored))
    for wanted in transfer_syntaxes:
        if wanted != AS_STORED:
            specific = (offer for offer in covered if offer.transfer_syntax_uid in (wanted, ""))
            yield from (offer for offer in specific if offer.is_stored or not (is_fine and _is_compressed(offer)))
            continue
        yield from (offer for offer in covered if offer.is_stored or not offer.transfer_syntax_uid)
        if is_any_type:
            yield from (offer for offer in stored if offer.is_multipart == one.is_multipart)


def _is_compressed(offer: Representation) -> bool:
    uid = offer.transfer_syntax_uid
    return uid not in ("", AS_STORED, BY_DEFAULT) and transfer_syntax(uid).is_encapsulated


def _by_default(one: _Range, covered: Sequence[Representation]) -> Iterator[Representation]:
    """Without a transfer syntax: the first offer of instances; of other items what is stored with losses, else the
    media type's own, else what is stored (G6).
    """
    if one.is_anything:
        if not one.is_multipart:
            yield from (offer for offer in covered if offer.is_browser_default)
        yield from covered
        return
    yield from filter(_is_default, covered)
    yield from (offer for offer in covered if offer.is_stored)


def _is_default(offer: Representation) -> bool:
    default = DEFAULT_TRANSFER_SYNTAX.get(offer.media_type)
    if default is None or offer.transfer_syntax_uid in ("", default):
        return True
    return offer.is_stored and transfer_syntax(offer.transfer_syntax_uid).is_lossy
