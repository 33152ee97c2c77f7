"""Stored instances in other transfer syntaxes: their pixels go frame by frame through a decoding process, all else is
written anew as it stands. Nothing is held but one frame, however many there are. PS3.5 §8.2, PS3.18 §8.7.3
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

import orjson

from gateway import __version__
from gateway.pixels.codecs import can_decode, encodings
from gateway.pixels.kept import Kept, KeptBytes
from gateway.pixels.protocol import SHARED_FRAME_BYTES, LongFrame, Transcoded
from gateway.pixels.summary import Summary
from gateway.session import Session
from storage.dicomjson import unpack_metadata
from storage.errors import Overloaded, TooLarge, Undecodable, uid_digest
from storage.frames import FrameTable
from storage.model import Document, Instance
from storage.reencoding import Pixels
from storage.stored import StoredDataSet
from storage.uids import EXPLICIT_VR_LITTLE_ENDIAN, IMPLICIT_VR_LITTLE_ENDIAN, transfer_syntax

logger = logging.getLogger(__name__)

PIXEL_DATA = "7FE00010"
MAXIMUM_FRAME_BYTES = 512 << 20
_LONGEST_PIXEL_DATA = 0xFFFFFFFE
_NESTED = "/" + PIXEL_DATA
# Frames that threads of one process wait for at once: half of those that answer HTTP, so that the others can go on.
_AT_ONCE = threading.BoundedSemaphore(16)
_WAIT_SECONDS = 20.0
_BITS_ALLOCATED, _SAMPLES_PER_PIXEL = "00280100", "00280002"


class Transcoder(Protocol):
    """What transcodes, and keeps what it made: ``gateway.pixels.pool.RenderPool``."""

    pictures: KeptBytes
    summaries: Kept[Summary]

    def transcode(
        self, metadata: bytes, transfer_syntax_uid: str, frame_number: int, frame: bytes | LongFrame, target_uid: str
    ) -> Transcoded:
        """One frame in another transfer syntax. Raises Undecodable, TooLarge or Overloaded."""
        ...


def targets(stored_uid: str) -> tuple[str, ...]:
    """The transfer syntaxes that pixels stored in ``stored_uid`` can be turned into as far as tables tell, best first.

    Explicit VR Little Endian is among them if its own pixels are native, whether or not anything can be decoded.
    """
    if not can_decode(stored_uid):
        return ()
    return tuple(uid for uid in encodings() if uid != stored_uid)


def frame_bytes(table: FrameTable, number: int) -> int:
    """Length of a frame as it is stored; what has to fit into memory to be sent or drawn."""
    return sum(end - start for start, end in table.ranges(number))


def native_frame(stored: StoredDataSet, document: Document, table: FrameTable, number: int) -> bytes:
    """A frame's bytes as they go out: as stored, but little endian (W23).

    Words are turned round from the start of the Pixel Data on, so a frame that starts within one is read with it.
    """
    if stored.transfer_syntax.is_little_endian or not table.is_native:
        return stored.frame(table, number)
    pixel_data = next(document.bulk[tag] for tag in (PIXEL_DATA, "7FE00008", "7FE00009") if tag in document.bulk)
    ((start, end),) = table.ranges(number)
    return stored.read_little_endian(pixel_data, start - pixel_data.start, end - pixel_data.start)


def decoded_frame(stored: StoredDataSet, document: Document, table: FrameTable, number: int) -> bytes | LongFrame:
    """The same for a decoding process: a long frame is read while it is sent, and so never there as a whole.

    ``stored`` stays open until then.
    """
    is_as_stored = stored.transfer_syntax.is_little_endian or not table.is_native
    if is_as_stored and frame_bytes(table, number) > SHARED_FRAME_BYTES and _has_whole_bytes(table, number):
        ranges = table.ranges(number)
        return LongFrame(frame_bytes(table, number), (piece for ends in ranges for piece in stored.chunks(*ends)))
    return native_frame(stored, document, table, number)


def _has_whole_bytes(table: FrameTable, number: int) -> bool:
    return not table.is_native or all(bit % 8 == 0 for bit in table.bits(number))


@contextmanager
def noted(instance: Instance) -> Iterator[None]:
    """Frames of which nothing can be made are written down here, as some doors answer with something else instead."""
    started = time.monotonic()
    try:
        yield
    except (Undecodable, TooLarge) as error:
        said = {"error": type(error).__name__, "reason": error.reason, "ms": round((time.monotonic() - started) * 1e3)}
        logger.warning("pixels.failed", extra={**said, "uid_digest": uid_digest(instance.sop_instance_uid)})
        raise


@contextmanager
def decoding() -> Iterator[None]:
    """A turn of a thread that answers HTTP to wait for a decoding process. Raises Overloaded when none comes."""
    if not _AT_ONCE.acquire(timeout=_WAIT_SECONDS):
        raise Overloaded("Too many frames are decoded at once")
    try:
        yield
    finally:
        _AT_ONCE.release()


def summary_of(transcoder: Transcoder, document: Document) -> Summary:
    """What describes the pixels of a content, made once and kept: of an object of many frames it is costly."""
    key = f"{document.instance.digest} {document.instance.transfer_syntax_uid}"
    summary = transcoder.summaries.get(key)
    if summary is None:
        summary = Summary.of(orjson.loads(unpack_metadata(document.metadata, "")))
        transcoder.summaries.put(key, summary, summary.size_bytes)
    return summary


Converter = Callable[[StoredDataSet, str], Iterator[bytes]]
"""Gives the Data Set of an instance in another transfer syntax. Raises Undecodable, TooLarge or Overloaded."""


def converter(transcoder: Transcoder | None, session: Session) -> Converter:
    """What decodes pixels for peers that do not take them as they are stored; without a transcoder it refuses."""

    def converted(stored: StoredDataSet, transfer_syntax_uid: str) -> Iterator[bytes]:
        if transcoder is None:
            raise Undecodable("Nothing that decodes pixels is there")
        document = session.document(stored.instance.scope)
        return Conversion(transcoder, stored, document, transfer_syntax_uid).data_set()

    return converted


@dataclass(frozen=True)
class Conversion:
    """One stored instance in the transfer syntax ``target_uid``, of those that ``targets`` names, or Implicit VR.

    Used by one thread while ``stored`` is open. What fails is an Undecodable, TooLarge or Overloaded of the frame.
    """

    transcoder: Transcoder
    stored: StoredDataSet
    document: Document
    target_uid: str

    def __post_init__(self) -> None:
        one, other = self.stored.instance, self.document.instance
        if (one.digest, one.transfer_syntax_uid) != (other.digest, other.transfer_syntax_uid):
            raise Undecodable("The instance has been replaced meanwhile")

    @cached_property
    def table(self) -> FrameTable:
        """Where the frames are."""
        return FrameTable(self.document.frame_table)

    @cached_property
    def _summary(self) -> Summary:
        return summary_of(self.transcoder, self.document)

    @property
    def _encoding_uid(self) -> str:
        """The encoding of the pixels, which the plain transfer syntaxes share."""
        return EXPLICIT_VR_LITTLE_ENDIAN if self.target_uid == IMPLICIT_VR_LITTLE_ENDIAN else self.target_uid

    def frame(self, number: int) -> Transcoded:
        """One frame, kept from now on."""
        instance = self.document.instance
        key = f"{__version__} {instance.digest} {instance.transfer_syntax_uid} {self._encoding_uid} {number}"
        known = self.transcoder.pictures.get(key)
        if known is not None:
            return Transcoded.unpacked(known)
        if frame_bytes(self.table, number) > MAXIMUM_FRAME_BYTES:
            raise TooLarge("The frame is larger than the limit")
        syntax = transfer_syntax(instance.transfer_syntax_uid)
        with decoding(), noted(instance):
            made = self.transcoder.transcode(
                self._summary.of_frame(number),
                syntax.uid if syntax.is_encapsulated else EXPLICIT_VR_LITTLE_ENDIAN,
                number,
                decoded_frame(self.stored, self.document, self.table, number),
                self._encoding_uid,
            )
        packed = made.packed()
        self.transcoder.pictures.put(key, packed)
        return made

    def pixels(self) -> Pixels:
        """All frames, and what has to be said of them; the first one is made at once. PS3.3 §C.7.6.3.1.2"""
        count = self.table.number_of_frames
        if not count:
            raise Undecodable("The frames of the Pixel Data cannot be told apart")
        if self.stored.transfer_syntax.is_encapsulated and any(path.endswith(_NESTED) for path in self.document.bulk):
            raise Undecodable("There are pixels within a sequence, which would have to be decoded, too")
        if self.stored.transfer_syntax.is_deflated and count > 1:
            raise Undecodable("Frames of a deflated Data Set are not to be had one by one")
        first = self.frame(1)
        is_native = not transfer_syntax(self._encoding_uid).is_encapsulated
        if is_native and len(first.frame) * count > _LONGEST_PIXEL_DATA:
            raise Undecodable("The Pixel Data would be too long without compression")
        return Pixels(
            frames=self._frames(first, count, is_native=is_native),
            number_of_frames=count,
            frame_bytes=len(first.frame) if is_native else 0,
            vr="OW" if self._described(_BITS_ALLOCATED) > 8 else "OB",
            elements=self._elements(first),
        )

    def _frames(self, first: Transcoded, count: int, *, is_native: bool) -> Iterator[bytes]:
        """One after the other; the first one, which is there, is not held any longer than it takes to send it."""
        length, meaning = len(first.frame), first.photometric_interpretation
        yield first.frame
        del first
        for number in range(2, count + 1):
            made = self.frame(number)
            if is_native and len(made.frame) != length:
                raise Undecodable("The frames are not of one size")
            if made.photometric_interpretation != meaning:
                raise Undecodable("The frames do not agree on what their colours mean")
            yield made.frame

    def _described(self, tag: str) -> int:
        values = self._common.get(tag, {}).get("Value") or [None]
        return 1 if values[0] is None else int(values[0])

    @cached_property
    def _common(self) -> dict[str, dict[str, list[int | None]]]:
        found: dict[str, dict[str, list[int | None]]] = orjson.loads(self._summary.common)
        return found

    def _elements(self, first: Transcoded) -> dict[int, tuple[str, bytes]]:
        """The elements that are different now; that a compression had losses stays said for ever. PS3.3 §C.7.6.1.1.5"""
        elements: dict[int, tuple[str, bytes]] = {}
        if self._described(_SAMPLES_PER_PIXEL) > 1:
            text = first.photometric_interpretation.encode("ascii")
            elements[0x00280004] = "CS", text + b" " * (len(text) % 2)
            elements[0x00280006] = "US", b"\0\0"
        if transfer_syntax(self.document.instance.transfer_syntax_uid).is_lossy:
            elements[0x00282110] = "CS", b"01"
        return elements

    def part10(self) -> Iterable[bytes]:
        """The whole instance as a Part 10 stream. What can be refused is refused before the first piece of it."""
        return self.stored.part10_chunks(self.target_uid, self.pixels())

    def data_set(self) -> Iterator[bytes]:
        """The same without File Meta Information."""
        return self.stored.data_set_chunks(self.target_uid, self.pixels())
