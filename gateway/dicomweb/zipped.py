"""A resource as one ZIP file, for people: a Part 10 file for each instance, written while it is sent. PKWARE APPNOTE

Entries are stored, not deflated, for pixels hardly shrink; their lengths and checksums follow them. Names are UIDs, as
what else would tell them apart names patients.
"""

from __future__ import annotations

import zipfile
from collections.abc import Iterable, Iterator

from storage.model import Scope

ZIP = "application/zip"
_LONG_AGO = (1980, 1, 1, 0, 0, 0)  # the earliest that a ZIP file can say: the same content is the same file


def zip_pieces(entries: Iterable[tuple[Scope, Iterable[bytes]]]) -> Iterator[bytes]:
    """The bytes of a ZIP file, in pieces as its instances come; nothing is held but one of them."""
    written = _Written()
    with zipfile.ZipFile(written, "w", zipfile.ZIP_STORED, allowZip64=True) as archive:  # type: ignore[call-overload]
        for scope, pieces in entries:
            name = f"{scope.study_instance_uid}/{scope.series_instance_uid}/{scope.sop_instance_uid}.dcm"
            with archive.open(zipfile.ZipInfo(name, _LONG_AGO), "w", force_zip64=True) as entry:
                for piece in pieces:
                    entry.write(piece)
                    yield written.taken()
            yield written.taken()
    yield written.taken()


class _Written:
    """What ``zipfile`` writes to: a stream that cannot go back, of which what was written is taken away."""

    def __init__(self) -> None:
        self._pieces: list[bytes] = []

    def write(self, piece: bytes) -> int:
        self._pieces.append(bytes(piece))
        return len(piece)

    def flush(self) -> None:
        """Nothing waits."""

    def taken(self) -> bytes:
        pieces, self._pieces = self._pieces, []
        return b"".join(pieces)
