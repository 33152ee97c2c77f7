"""Particulars: what a worker has to be told of a frame beyond its summary, which lies in the object or the metadata.

Tables, overlays, the profile of the colours and the texts to be written; all of it bounded. PS3.3 §C.7.6.3.1.6, §C.9.2,
§C.11.1, §C.11.2, §C.11.15
"""

from __future__ import annotations

import re
from base64 import b64encode
from collections.abc import Callable, Iterator
from functools import cache

import orjson

from gateway.pixels.annotation import annotated
from gateway.pixels.description import COLOR_SPACE, ICC_PROFILE, MAXIMUM_PROFILE_BYTES
from gateway.pixels.options import IccProfile, RenderOptions
from gateway.pixels.overlays import place_of_frame
from storage.dicomjson import unpack_metadata
from storage.errors import TooLarge, Undecodable
from storage.frames import align_bits
from storage.model import BulkValue, Document, JsonElement
from storage.stored import StoredDataSet

# Palette Color, Modality and VOI LUT Data; of several tables the first one is applied
_LOOK_UP_TABLE = re.compile(r"002812[02][123]|0028(?:3000|3010)/0/00283006", re.ASCII)
_OVERLAY_DATA = re.compile(r"60[01][02468ACE]3000", re.ASCII)
_OPTICAL_PATH = "00480105"
_PROFILES = (ICC_PROFILE, f"{_OPTICAL_PATH}/0/{ICC_PROFILE}")
_MAXIMUM_LOOK_UP_TABLE_BYTES = 1 << 20
_MAXIMUM_OVERLAYS_BYTES = 32 << 20  # all planes of a frame together

Json = dict[str, JsonElement]


def whole_of(document: Document) -> Callable[[], Json]:
    """What gives all metadata of an instance, read when that is first wanted, and once however many frames ask."""
    return cache(lambda: orjson.loads(unpack_metadata(document.metadata, "")))


def completed(
    metadata: bytes,
    document: Document,
    stored: StoredDataSet,
    number: int,
    options: RenderOptions,
    whole: Callable[[], Json],
) -> bytes:
    """``metadata`` of a frame, as of ``Summary.of_frame``, with all that its picture needs.

    whole: of the document, see ``whole_of``.
    """
    added = [*_tables(document), *([] if options.is_thumbnail else _overlay_data(document))]
    is_plain = not options.annotation and options.icc_profile is IccProfile.NO
    if not added and is_plain:
        return metadata
    json: Json = orjson.loads(metadata)
    overlays_bytes = 0
    for path, value in added:
        if _OVERLAY_DATA.fullmatch(path):
            left_bytes = _MAXIMUM_OVERLAYS_BYTES - overlays_bytes
            overlays_bytes += _add_overlay(json, path[:4], value, stored, number, left_bytes)
        else:
            add_value(json, path, value, stored)
    if not is_plain:
        json |= annotated(whole(), options.annotation, number)
        if options.icc_profile is not IccProfile.NO:
            json |= _profile(whole(), document, stored)
    return orjson.dumps(json)


def _tables(document: Document) -> list[tuple[str, BulkValue]]:
    """The palettes and tables that are too large for the metadata; none of them where together they are no tables."""
    found = [(path, value) for path, value in document.bulk.items() if _LOOK_UP_TABLE.fullmatch(path)]
    size_bytes = sum(value.end - value.start for _, value in found)
    return found if size_bytes <= _MAXIMUM_LOOK_UP_TABLE_BYTES else []


def _overlay_data(document: Document) -> Iterator[tuple[str, BulkValue]]:
    return ((path, value) for path, value in document.bulk.items() if _OVERLAY_DATA.fullmatch(path))


def add_value(json: Json, path: str, value: BulkValue, stored: StoredDataSet) -> None:
    """Put a value that metadata only refers to in its place, as bytes in little endian order."""
    *parents, tag = path.split("/")
    item = json
    for sequence, index in zip(parents[::2], parents[1::2], strict=True):
        item = item[sequence]["Value"][int(index)]
    item[tag] = _inline(stored.read_little_endian(value, 0, value.end - value.start))


def _add_overlay(
    json: Json, group: str, value: BulkValue, stored: StoredDataSet, number: int, maximum_bytes: int
) -> int:
    """Put in only the plane of the frame, as one that lies over every frame, and return how many bytes it has.

    Of none there is nothing left. Raises TooLarge, and Undecodable for a plane that is not all there.
    """
    place = place_of_frame(json, group, number)
    if place is None:
        for tag in [tag for tag in json if tag.startswith(group)]:
            del json[tag]
        return 0
    first_bit, bits = place
    first, end = first_bit // 8, (first_bit + bits + 7) // 8
    if end > value.end - value.start:
        raise Undecodable("An overlay is truncated", tag=f"{group}3000")
    if end - first > maximum_bytes:
        raise TooLarge("The overlays are larger than the limit")
    raw = stored.read_little_endian(value, first, end)
    json[f"{group}3000"] = _inline(align_bits(raw, first_bit % 8, bits))
    json.pop(f"{group}0015", None)
    return len(raw)


def _inline(raw: bytes) -> JsonElement:
    return {"vr": "OW", "InlineBinary": b64encode(raw).decode("ascii")}


def _profile(whole: Json, document: Document, stored: StoredDataSet) -> Json:
    """The ICC profile of the image or, on a slide, of its first optical path. Raises TooLarge. PS3.3 §C.8.12.5"""
    items = whole.get(_OPTICAL_PATH, {}).get("Value") or [{}]
    sources = [source for source in (whole, items[0]) if isinstance(source, dict)]
    found = {tag: source[tag] for source in reversed(sources) for tag in (ICC_PROFILE, COLOR_SPACE) if tag in source}
    value = document.bulk.get(_PROFILES[0] if ICC_PROFILE in whole else _PROFILES[1])
    if value is None:
        return found
    size_bytes = value.end - value.start
    if size_bytes > MAXIMUM_PROFILE_BYTES:
        raise TooLarge("The ICC profile of the object is larger than the limit")
    return found | {ICC_PROFILE: _inline(stored.read_little_endian(value, 0, size_bytes))}
