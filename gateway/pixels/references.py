"""ImageReference: which image, and which of its frames, a presentation state or a part of it is for.

Pure and light. PS3.3 §C.11.11, Table 10-3
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from types import MappingProxyType

from gateway.pixels.elements import DataSet
from gateway.pixels.state_elements import integers, items, malformed, text, too_many

MAXIMUM_REFERENCES = 16_384
_SERIES, _IMAGES = "00081115", "00081140"
_SERIES_UID, _INSTANCE_UID, _FRAME_NUMBERS = "0020000E", "00081155", "00081160"


@dataclass(frozen=True, slots=True)
class ImageReference:
    """An instance, and the numbers of its frames that are meant; none for all of them."""

    series_instance_uid: str
    sop_instance_uid: str
    frame_numbers: tuple[int, ...]

    def covers(self, sop_instance_uid: str, frame_number: int) -> bool:
        """Whether it means this frame, from 1, of this instance."""
        frames = self.frame_numbers
        return self.sop_instance_uid == sop_instance_uid and (not frames or frame_number in frames)


def referenced_images(state: DataSet) -> tuple[ImageReference, ...]:
    """The images that a presentation state is for, in its order. Raises Undecodable when there is none."""
    found: list[ImageReference] = []
    for series in items(state, _SERIES):
        found += _references(series, text(series, _SERIES_UID))
        if len(found) > MAXIMUM_REFERENCES:
            raise too_many(_SERIES)
    if not found:
        raise malformed(_SERIES)
    return tuple(found)


def applies(item: DataSet, sop_instance_uid: str, frame_number: int) -> bool:
    """Whether an item of a state is for a frame: it lists it, or it lists none and is for all of the state's."""
    listed = tuple(_references(item, ""))
    return not listed or any(reference.covers(sop_instance_uid, frame_number) for reference in listed)


def first_applying(items_: Collection[DataSet], sop_instance_uid: str, frame_number: int) -> DataSet:
    """The item that is for a frame; an empty one when there is none."""
    found = (item for item in items_ if applies(item, sop_instance_uid, frame_number))
    return next(found, MappingProxyType({}))


def _references(data_set: DataSet, series_instance_uid: str) -> Iterator[ImageReference]:
    for image in items(data_set, _IMAGES):
        uid = text(image, _INSTANCE_UID)
        if not uid:
            raise malformed(_INSTANCE_UID)
        yield ImageReference(series_instance_uid, uid, integers(image, _FRAME_NUMBERS, limit=2**31 - 1))
