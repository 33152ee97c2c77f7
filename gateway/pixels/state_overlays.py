"""The overlay planes of a presentation state: drawn in a layer, or a shutter. PS3.3 §C.7.6.15, §C.9.2, §C.11.7

Pure. A plane that the state does not have itself, and switches on, is that of the image.
"""

from __future__ import annotations

from gateway.pixels.description import PixelDescription
from gateway.pixels.elements import DataSet
from gateway.pixels.overlays import Overlay, overlay_of
from gateway.pixels.state_elements import integers, is_present, malformed, text
from storage.errors import Undecodable

GROUPS = tuple(f"60{number:02X}" for number in range(0, 0x20, 2))
_ROWS, _COLUMNS, _ORIGIN, _BITS_ALLOCATED, _DATA, _LAYER = "0010", "0011", "0050", "0100", "3000", "1001"


def plane_of_state(state: DataSet, group: str, description: PixelDescription) -> Overlay | None:
    """The plane of ``group`` (``6000`` to ``601E``) for a frame; None when the state has none. Raises Undecodable."""
    if not is_present(state, group + _ROWS):
        return None
    for tag in (group + _ROWS, group + _COLUMNS):
        if min(integers(state, tag, count=1, limit=65_535), default=0) < 1:
            raise malformed(tag)
    if integers(state, group + _BITS_ALLOCATED, count=1, limit=0xFFFF) not in ((), (1,)):
        raise malformed(group + _BITS_ALLOCATED, "is not supported")
    integers(state, group + _ORIGIN, count=2, limit=32_768)
    if group + _DATA not in state:
        raise malformed(group + _DATA)
    try:
        return overlay_of(state, group, description)
    except Undecodable as error:
        raise malformed(error.tag) from error


def planes_switched_on(state: DataSet, image: DataSet, description: PixelDescription) -> list[tuple[str, Overlay]]:
    """The planes to be drawn, by group, each with the name of its layer. image: what describes its pixels."""
    found = []
    for group in GROUPS:
        if name := text(state, group + _LAYER):
            plane = plane_of_state(state, group, description) or overlay_of(image, group, description)
            found += [] if plane is None else [(name, plane)]
    return found
