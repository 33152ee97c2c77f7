"""StoredDataSet: one instance's bytes, open for reading by ranges of its Data Set."""

from __future__ import annotations

import hashlib
import zlib
from collections.abc import Iterator
from types import TracebackType
from typing import Self

from storage.errors import CorruptObject, UnsupportedTransferSyntax
from storage.filemeta import Announcement, canonical_header
from storage.filerange import CHUNK_BYTES, Piece
from storage.frames import FrameTable, align_bits
from storage.model import BulkValue, Instance
from storage.objects.base import Blob
from storage.reencoding import Pixels, little_endian_data_set
from storage.uids import EXPLICIT_VR_LITTLE_ENDIAN, IMPLICIT_VR_LITTLE_ENDIAN, transfer_syntax
from storage.values import binary_word_bytes, little_endian

_NO_END = 1 << 62


class StoredDataSet:
    """The Data Set of one instance, open for reading; offsets count from its first byte, inflated if need be.

    A context manager; reads may come from any thread, one at a time. is_checked: whoever reads all of it as it is kept
    gets the last piece only when the whole has the SHA-256 of its row, else CorruptObject (R10).
    """

    def __init__(self, instance: Instance, blob: Blob, *, is_checked: bool = False) -> None:
        self.instance = instance
        self._is_checked = is_checked
        self.transfer_syntax = transfer_syntax(instance.transfer_syntax_uid)
        self._blob = blob

    def read(self, start: int, end: int) -> bytes:
        """Bytes ``start`` to ``end``. Raises CorruptObject when they are not there."""
        if self.transfer_syntax.is_deflated:
            return b"".join(self._inflated(start, end))
        return self._blob.read(self.instance.data_set_offset + start, self.instance.data_set_offset + end)

    def read_little_endian(self, value: BulkValue, start: int, end: int) -> bytes:
        """Bytes ``start`` to ``end`` of a value in little endian order, wherever that cuts its words."""
        if self.transfer_syntax.is_little_endian:
            return self.read(value.start + start, value.start + end)
        word_bytes = binary_word_bytes(value.vr)
        first = start - start % word_bytes
        last = min(end + -end % word_bytes, value.end - value.start)
        turned = little_endian(self.read(value.start + first, value.start + last), word_bytes)
        return turned[start - first : end - first]

    def chunks(self, start: int, end: int) -> Iterator[bytes]:
        """The same bytes in pieces of at most a mebibyte, in constant memory."""
        if self.transfer_syntax.is_deflated:
            yield from self._inflated(start, end)
            return
        for at in range(start, end, CHUNK_BYTES):
            yield self.read(at, min(end, at + CHUNK_BYTES))

    def object_pieces(self) -> Iterator[Piece]:
        """The whole object as it is kept, a Part 10 stream."""
        return self._checked(0) if self._is_checked else self._blob.pieces(0, self.instance.size_bytes)

    def part10_chunks(self, transfer_syntax_uid: str, pixels: Pixels | None = None) -> Iterator[bytes]:
        """The instance as a Part 10 stream in a transfer syntax, in pieces; see ``data_set_chunks``."""
        chunks = self.data_set_chunks(transfer_syntax_uid, pixels)
        instance = self.instance
        yield canonical_header(Announcement(instance.sop_class_uid, instance.sop_instance_uid, transfer_syntax_uid))
        yield from chunks

    def data_set_chunks(self, transfer_syntax_uid: str, pixels: Pixels | None = None) -> Iterator[bytes]:
        """The Data Set in a transfer syntax, in pieces: in its own as it is kept, or element by element in another.

        pixels: as that transfer syntax has them, instead of its own. Raises UnsupportedTransferSyntax, before anything
        is read, where pixels would have to be given.
        """
        if transfer_syntax_uid == self.instance.transfer_syntax_uid and pixels is None:
            return self._kept()
        is_plain = transfer_syntax_uid in (EXPLICIT_VR_LITTLE_ENDIAN, IMPLICIT_VR_LITTLE_ENDIAN)
        if pixels is None and (self.transfer_syntax.is_encapsulated or not is_plain):
            raise UnsupportedTransferSyntax("The Pixel Data would have to be decoded")
        if self.transfer_syntax.is_deflated and pixels is None and transfer_syntax_uid == EXPLICIT_VR_LITTLE_ENDIAN:
            return self._inflated(0, _NO_END)
        read, size_bytes = self.read, self.instance.size_bytes - self.instance.data_set_offset
        if self.transfer_syntax.is_deflated:
            size_bytes = sum(map(len, self._inflated(0, _NO_END)))
            read = _Forward(self._inflated(0, _NO_END)).read
        is_implicit = transfer_syntax_uid == IMPLICIT_VR_LITTLE_ENDIAN
        return little_endian_data_set(read, size_bytes, self.transfer_syntax, to_implicit=is_implicit, pixels=pixels)

    def _inflated(self, start: int, end: int) -> Iterator[bytes]:
        inflater = zlib.decompressobj(-zlib.MAX_WBITS)
        at = 0
        try:
            for deflated in self._kept():
                pending = deflated
                while pending and at < end:
                    piece = inflater.decompress(pending, CHUNK_BYTES)
                    pending = inflater.unconsumed_tail
                    wanted = piece[max(0, start - at) : max(0, end - at)]
                    at += len(piece)
                    if wanted:
                        yield wanted
                    if not piece:
                        break
        except zlib.error as error:
            raise CorruptObject("The deflated Data Set is damaged") from error
        if at < end and end != _NO_END:
            raise CorruptObject("The deflated Data Set is shorter than its row says")

    def _kept(self) -> Iterator[bytes]:
        """The Data Set as it is kept."""
        start = self.instance.data_set_offset
        return self._checked(start) if self._is_checked else self._raw(start)

    def _raw(self, start: int) -> Iterator[bytes]:
        for at in range(start, self.instance.size_bytes, CHUNK_BYTES):
            yield self._blob.read(at, min(self.instance.size_bytes, at + CHUNK_BYTES))

    def _checked(self, start: int) -> Iterator[bytes]:
        sha256, at = hashlib.sha256(), start
        for piece in self._raw(start):
            sha256.update(memoryview(piece)[max(0, self.instance.data_set_offset - at) :])
            at += len(piece)
            if at == self.instance.size_bytes and sha256.hexdigest() != self.instance.digest:
                raise CorruptObject(uid=self.instance.sop_instance_uid)
            yield piece

    def digest(self) -> str:
        """SHA-256 (hex) of the Data Set as it is kept: that of its row, unless it is damaged. Reads all of it.

        Raises CorruptObject where it is shorter than its row says, StorageUnavailable.
        """
        sha256 = hashlib.sha256()
        for piece in self._raw(self.instance.data_set_offset):
            sha256.update(piece)
        return sha256.hexdigest()

    def frame(self, table: FrameTable, number: int) -> bytes:
        """The bytes of one frame as stored: fragments joined, packed bits moved to a byte of their own."""
        if table.is_native:
            first, last = table.bits(number)
            raw = self.read(first // 8, (last + 7) // 8)
            return raw if first % 8 == 0 and last % 8 == 0 else align_bits(raw, first % 8, last - first)
        return b"".join(self.read(start, end) for start, end in table.ranges(number))

    def close(self) -> None:
        """Release the object."""
        self._blob.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()


class _Forward:
    """Ranges of a stream, each starting no earlier than the one before."""

    def __init__(self, pieces: Iterator[bytes]) -> None:
        self._pieces = pieces
        self._held = b""
        self._at = 0

    def read(self, start: int, end: int) -> bytes:
        """Bytes ``start`` to ``end``, fewer at the end of the stream."""
        while self._at + len(self._held) < end:
            piece = next(self._pieces, b"")
            if not piece:
                break
            self._held += piece
            gone = min(max(0, start - self._at), len(self._held))
            self._at, self._held = self._at + gone, self._held[gone:]
        return self._held[max(0, start - self._at) : end - self._at]
