"""Video as it is stored: the stream of an instance, whole or a range of it, for a player. PS3.18 §8.7.4, PS3.5 §8.2.5

No frame of it is decoded here; who moves through it asks for ranges.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial

from starlette.requests import Request
from starlette.responses import Response

from gateway.dicomweb.bulk import ranged
from gateway.dicomweb.media_types import Representation
from gateway.dicomweb.responses import NO_SNIFF, PRIVATE, is_unchanged, not_modified
from gateway.http import session_of
from gateway.session import Session
from storage.errors import NotFound
from storage.frames import FrameTable
from storage.model import Instance
from storage.uids import transfer_syntax


def is_video(instance: Instance) -> bool:
    """Whether the pixels are a video stream."""
    return transfer_syntax(instance.transfer_syntax_uid).media_type.startswith("video/")


def video_offer(instance: Instance) -> Representation:
    """The only form in which it is to be had."""
    return Representation(transfer_syntax(instance.transfer_syntax_uid).media_type)


def video(request: Request, instance: Instance) -> Response:
    """The stream of a video, which the client takes. Raises NotFound where there is none."""
    etag = f'"{instance.digest[:32]}-video"'
    if is_unchanged(request, etag):
        return not_modified(etag)
    session = session_of(request)
    document = session.document(instance.scope)
    table = FrameTable(document.frame_table)
    if not table.number_of_frames:
        raise NotFound("The instance has no video")
    fragments = table.ranges(1)
    headers = {**PRIVATE, **NO_SNIFF, "ETag": etag, "Content-Disposition": "inline"}
    pieces_of = partial(_pieces, session, document.instance, fragments)
    size_bytes = sum(end - start for start, end in fragments)
    return ranged(request, size_bytes, headers, video_offer(instance).media_type, pieces_of)


def _pieces(
    session: Session, instance: Instance, fragments: Sequence[tuple[int, int]], first: int, last: int
) -> Iterator[bytes]:
    """Bytes ``first`` to ``last`` of what the fragments are together."""
    with session.open(instance) as stored:
        at = 0
        for start, end in fragments:
            low, high = max(first - at, 0), min(last - at, end - start)
            if low < high:
                yield from stored.chunks(start + low, start + high)
            at += end - start
