"""Elements as they were read of late: most elements of an image are those of the image before, byte for byte."""

from __future__ import annotations

from storage.model import JsonElement

MAXIMUM_RECENT_ELEMENTS = 2048
"""In one table."""
MAXIMUM_RECENT_VALUE_BYTES = 64
"""Of an element that is kept; longer values rarely come again."""
MAXIMUM_TABLES = 8

RecentTable = dict[bytes, tuple[str, JsonElement]]
"""All the bytes of an element (tag, VR, length and value) to its key and itself in the DICOM JSON Model."""


class RecentElements:
    """A table for each way in which bytes can be read: character sets, VR encoding, byte order, sign of pixels.

    What is kept is bounded (some megabytes at the very most, usually one) and never written to anything. Tables are
    shared by threads; the elements in them must not be changed.
    """

    def __init__(self) -> None:
        self._tables: dict[tuple[object, ...], RecentTable] = {}

    def table(
        self, encodings: tuple[str, ...], *, is_implicit: bool, is_little_endian: bool, is_signed: bool
    ) -> RecentTable:
        """Elements that were read in this way; who adds to it stops at ``MAXIMUM_RECENT_ELEMENTS``.

        A full one is forgotten for a new one, so that what comes again finds room beside what came once.
        """
        way = (encodings, is_implicit, is_little_endian, is_signed)
        table = self._tables.get(way)
        if table is None or len(table) >= MAXIMUM_RECENT_ELEMENTS:
            if len(self._tables) >= MAXIMUM_TABLES:
                self._tables = {}
            table = self._tables[way] = {}
        return table
