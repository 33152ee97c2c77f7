"""Pictures: one frame of an instance as people see it, drawn in a decoding process where no such picture is kept.

Every door that shows something asks here, and what makes thumbnails ahead does, too. PS3.18 §8.3.5, §10.4.1.1.4
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import orjson

from gateway import __version__, metrics
from gateway.particulars import Json, completed, whole_of
from gateway.pixels.options import RenderOptions
from gateway.pixels.protocol import LongFrame
from gateway.pixels.summary import Summary
from gateway.presented import Presented
from gateway.session import Session
from gateway.transcoding import MAXIMUM_FRAME_BYTES, Transcoder, decoded_frame, frame_bytes, noted, summary_of
from storage.errors import DecoderFailed, NotAcceptable, NotFound, TooLarge, Undecodable
from storage.frames import FrameTable
from storage.model import Document, Instance
from storage.uids import EXPLICIT_VR_LITTLE_ENDIAN, transfer_syntax

_STAND_IN_SECONDS = 60
MADE_AHEAD = RenderOptions(is_thumbnail=True)
"""The one thumbnail that is kept with the archive: of the size and media type that come without being asked for."""


class Renderer(Transcoder, Protocol):
    """What draws, too: ``gateway.pixels.pool.RenderPool``."""

    def render(
        self,
        metadata: bytes,
        transfer_syntax_uid: str,
        frame_number: int,
        frame: bytes | LongFrame,
        options: RenderOptions,
        waited_seconds: float = 0.0,
    ) -> bytes:
        """The picture of one frame. Raises Undecodable, TooLarge or Overloaded."""
        ...


@dataclass(frozen=True, slots=True)
class Wanted:
    """One way to show one frame of one content. key: names all that the picture depends on, and no resource."""

    number: int
    options: RenderOptions
    key: str
    presented: Presented | None = None

    @classmethod
    def of(cls, instance: Instance, number: int, options: RenderOptions, presented: Presented | None = None) -> Wanted:
        """number: from 1; 0 is the middle frame. Raises NotFound when an image has no such frame."""
        if number > instance.number_of_frames > 0:
            raise NotFound("There is no such frame")
        shown = number or (instance.number_of_frames + 1) // 2
        state = presented.digest if presented else ""
        parts = (__version__, instance.transfer_syntax_uid, instance.digest, state, shown, options)
        return cls(shown, options, hashlib.sha256(orjson.dumps(parts)).hexdigest(), presented)

    @property
    def etag(self) -> str:
        """The name of the representation for clients. RFC 9110 §8.8.3"""
        return f'"{self.key[:32]}"'


@dataclass(frozen=True, slots=True)
class Picture:
    """What was wanted, as bytes. is_lasting: not a stand-in for one that may be drawn another time."""

    wanted: Wanted
    data: bytes
    is_lasting: bool = True


def _for_now(wanted: Wanted) -> str:
    """The key of a stand-in, which is another one in a minute."""
    return f"{wanted.key} {int(time.monotonic() // _STAND_IN_SECONDS)}"


@dataclass(frozen=True, slots=True)
class Pictures:
    """The pictures of the archive as a session sees it, kept or drawn by ``renderer``.

    waited_seconds: how long whoever wants them has been waiting before.
    """

    session: Session
    renderer: Renderer
    waited_seconds: float = 0.0

    def of_instance(self, instance: Instance, wanted: Wanted) -> Picture:
        """The picture of what the instance is by now: it may have been replaced just now.

        Raises NotFound, NotAcceptable for what has no picture, Undecodable, TooLarge, Overloaded.
        """
        picture = self._kept(instance, wanted)
        if picture is not None:
            return picture
        document = self.session.document(instance.scope)
        wanted = Wanted.of(document.instance, wanted.number, wanted.options, wanted.presented)
        return self._draw(document, wanted, whole_of(document))

    def of_document(self, document: Document, wanted: Wanted, whole: Callable[[], Json]) -> bytes:
        """The same of an instance that has been looked up, one frame of many. whole: see ``whole_of``."""
        picture = self._kept(document.instance, wanted) or self._draw(document, wanted, whole)
        return picture.data

    def _kept(self, instance: Instance, wanted: Wanted) -> Picture | None:
        pictures = self.renderer.pictures
        data = pictures.get(wanted.key)
        if data is None and wanted.options == MADE_AHEAD and wanted.presented is None:
            data = self.session.thumbnail(instance, wanted.key)
            if data is not None:
                pictures.put(wanted.key, data)
        if data is not None:
            return Picture(wanted, data)
        stand_in = pictures.get(_for_now(wanted)) if wanted.options.is_thumbnail else None
        return None if stand_in is None else Picture(wanted, stand_in, is_lasting=False)

    def _draw(self, document: Document, wanted: Wanted, whole: Callable[[], Json]) -> Picture:
        """The picture of a frame, kept from now on; for a thumbnail without a picture to show, an icon.

        Where the decoder was late or died the icon only stands in for a minute, as another time it may do better.
        """
        started = time.perf_counter()
        options = wanted.options
        summary = summary_of(self.renderer, document)
        table = FrameTable(document.frame_table)
        try:
            if options.is_thumbnail and not (table.number_of_frames and summary.may_be_shown):
                return Picture(wanted, _icon(summary, options))
            if not table.number_of_frames:
                raise NotAcceptable("The instance has no picture")
            if frame_bytes(table, wanted.number) > MAXIMUM_FRAME_BYTES:
                raise TooLarge("The frame is larger than the limit")
            try:
                with noted(document.instance):
                    drawn = self._drawn(document, wanted, table, summary.of_frame(wanted.number), whole)
                picture, key = Picture(wanted, drawn), wanted.key
            except Undecodable as error:
                if not options.is_thumbnail:
                    raise
                is_lasting = not isinstance(error, DecoderFailed)
                picture = Picture(wanted, _icon(summary, options), is_lasting)
                key = wanted.key if is_lasting else _for_now(wanted)
            self.renderer.pictures.put(key, picture.data)
            return picture
        finally:
            kind = "thumbnail" if options.is_thumbnail else "rendered"
            metrics.RENDER_SECONDS.labels(kind).observe(time.perf_counter() - started)

    def _drawn(
        self, document: Document, wanted: Wanted, table: FrameTable, metadata: bytes, whole: Callable[[], Json]
    ) -> bytes:
        """What the renderer makes of a frame and what is known of it."""
        syntax = transfer_syntax(document.instance.transfer_syntax_uid)
        frame_syntax = syntax.uid if syntax.is_encapsulated else EXPLICIT_VR_LITTLE_ENDIAN
        with self.session.open(document.instance) as stored:
            frame = decoded_frame(stored, document, table, wanted.number)
            metadata = completed(metadata, document, stored, wanted.number, wanted.options, whole)
            if wanted.presented is not None:
                metadata = wanted.presented.onto(metadata, self.session)
            return self.renderer.render(
                metadata, frame_syntax, wanted.number, frame, wanted.options, waited_seconds=self.waited_seconds
            )


def _icon(summary: Summary, options: RenderOptions) -> bytes:
    """The drawing that stands for an instance. Pillow is loaded for the first one only."""
    from gateway.pixels.icons import icon, icon_kind  # noqa: PLC0415

    return icon(icon_kind(orjson.loads(summary.common)), options)
