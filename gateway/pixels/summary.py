"""Summary: the little of an instance's metadata that describes its pixels, ready to be sent with any of its frames.

Pure. ``PixelDescription.of`` makes the same of a summary as of the whole metadata, which in an object of many frames
is thousands of times as long. PS3.3 §C.7.6.3, §C.7.6.16, §C.11.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import orjson

from gateway.pixels.description import (
    DESCRIBING,
    FRAME_DESCRIBING,
    OF_ONE_FRAME,
    OVERLAY_PLANE,
    PER_FRAME_GROUPS,
    SHARED_GROUPS,
    PixelKind,
    has_burned_in_annotation,
    has_pixels,
)
from gateway.pixels.elements import DataSet
from storage.model import JsonElement

_OBJECT_BYTES = 200  # what Python needs to hold one of the parts


@dataclass(frozen=True, slots=True)
class Summary:
    """What describes the pixels of all frames, and of each, as DICOM JSON of UTF-8.

    groups: the functional groups of each frame; none where the object has none. may_be_shown: there are pixels, and
    nothing says that they name the patient.
    """

    common: bytes
    groups: tuple[bytes, ...]
    may_be_shown: bool

    @classmethod
    def of(cls, metadata: DataSet) -> Summary:
        """The summary of an instance's metadata. Nothing is checked: ``PixelDescription`` does that."""
        common = {tag: metadata[tag] for tag in DESCRIBING if tag in metadata}
        common |= {kind.value: {"vr": _vr(metadata[kind.value])} for kind in PixelKind if kind.value in metadata}
        common |= {tag: element for tag, element in metadata.items() if OVERLAY_PLANE.fullmatch(tag)}
        shared = [item for item in _items(metadata, SHARED_GROUPS) if isinstance(item, Mapping)]
        if shared:
            common[SHARED_GROUPS] = {"vr": "SQ", "Value": [_describing(shared[0])]}
        return cls(
            common=orjson.dumps(common),
            groups=tuple(orjson.dumps(_describing(item)) for item in _items(metadata, PER_FRAME_GROUPS)),
            may_be_shown=has_pixels(metadata) and not has_burned_in_annotation(metadata),
        )

    @property
    def size_bytes(self) -> int:
        """What it takes in memory, about."""
        return len(self.common) + sum(map(len, self.groups)) + _OBJECT_BYTES * (2 + len(self.groups))

    def of_frame(self, frame_number: int) -> bytes:
        """Metadata enough for ``PixelDescription.of`` frame ``frame_number``, from 1, and for no other frame."""
        if not 1 <= frame_number <= len(self.groups):
            return self.common
        group = self.groups[frame_number - 1]
        head = b'{"%b":true,"%b":{"vr":"SQ","Value":[%b]}' % (OF_ONE_FRAME.encode(), PER_FRAME_GROUPS.encode(), group)
        return head + (b"}" if self.common == b"{}" else b"," + self.common[1:])


def _vr(element: JsonElement) -> JsonElement:
    return element.get("vr", "") if isinstance(element, Mapping) else ""


def _items(metadata: DataSet, tag: str) -> Sequence[JsonElement]:
    element = metadata.get(tag)
    values = element.get("Value") if isinstance(element, Mapping) else None
    return values if isinstance(values, list) else ()


def _describing(item: JsonElement) -> JsonElement:
    return {tag: item[tag] for tag in FRAME_DESCRIBING if tag in item} if isinstance(item, Mapping) else None
