"""Rendered images and thumbnails: a frame's bytes go to a decoding process, a picture comes back. Documents are not
drawn: ``documents`` has them. PS3.18 §10.4.1.1.3, §10.4.1.1.4, §8.3.5
"""

from __future__ import annotations

import hashlib
import math
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from functools import cache

from starlette.requests import Request
from starlette.responses import Response

from gateway.dicomweb.documents import offers_of, readable
from gateway.dicomweb.media_types import RENDERED_OFFERS, negotiate, rendered_offers
from gateway.dicomweb.responses import (
    NO_SNIFF,
    PRIVATE,
    base_url,
    is_unchanged,
    not_modified,
    path_scope,
    resource_url,
)
from gateway.dicomweb.video import is_video, video, video_offer
from gateway.dicomweb.wado import frame_numbers, multipart_response
from gateway.http import Lane, Stream, age_seconds, session_of
from gateway.particulars import Json, whole_of
from gateway.pictures import Pictures, Wanted
from gateway.pixels.animation import animated, delay_of
from gateway.pixels.options import (
    GIF,
    JPEG,
    VOI_FUNCTION_PARAMETERS,
    Annotation,
    IccProfile,
    Region,
    RenderOptions,
    Viewport,
    Window,
)
from gateway.presented import Presented, is_presentation_state
from gateway.representative import representative
from storage.errors import BadRequest, NotAcceptable, NotFound, Overloaded, TooLarge, Undecodable
from storage.model import Document, Instance, Level, Scope

RENDER_THREADS = 4
RENDERS_WAITING = 64
WAITING_SECONDS = 5.0
MAXIMUM_FRAMES_SHOWN = 4_096
_STREAM_SECONDS = 300.0
_STREAMS = threading.BoundedSemaphore(4)  # pictures of several frames: threads of the 32 that all requests share
_RENDERED_PARAMETERS = frozenset(("accept", "quality", "window", "viewport", "annotation", "iccprofile", "charset"))
_CHARSETS = frozenset(("", "utf-8", "utf8"))


async def rendered(request: Request) -> Response:
    """For people to look at: a picture of an instance, or of the middle one of a series or study; or a document."""
    return await lane().run(_picture, request, is_thumbnail=False)


async def rendered_frame(request: Request) -> Response:
    """A picture of one frame."""
    return await lane().run(_picture, request, is_thumbnail=False)


async def thumbnail(request: Request) -> Response:
    """A small picture to choose by, without any patient identification; an icon where there is none to show (W19)."""
    return await lane().run(_picture, request, is_thumbnail=True)


@cache
def lane() -> Lane:
    """The threads that draw."""
    return Lane(RENDER_THREADS, RENDERS_WAITING, "rendered", WAITING_SECONDS)


def _picture(request: Request, *, is_thumbnail: bool) -> Response:
    """All of a request, in one change of threads: of an instance, a picture that is kept, or that the client has, costs
    one row.
    """
    scope = path_scope(request)
    asked = request.path_params.get("frames")
    session = session_of(request)
    instance = representative(session, scope)
    accepts = request.query_params.getlist("accept") or request.headers.getlist("accept")
    if is_presentation_state(instance):
        options = options_of(request, negotiate(accepts, RENDERED_OFFERS).media_type, is_thumbnail=is_thumbnail)
        return _in_state(request, instance, options, has_frames=bool(asked))
    if not is_thumbnail and is_video(instance):
        options_of(request, JPEG, is_thumbnail=False)  # which have no effect, but are checked
        negotiate(accepts, (video_offer(instance),))
        if asked:
            raise NotAcceptable("A video is not shown frame by frame")
        return video(request, instance)
    if not (is_thumbnail or asked or instance.number_of_frames):
        document = session.document(instance.scope)
        if offers := offers_of(document):
            options_of(request, JPEG, is_thumbnail=False)
            return readable(request, document, negotiate(accepts, offers).media_type)
    numbers = frame_numbers(asked) if asked else _all_frames(instance, scope)
    is_several = bool(asked) and len(numbers) > 1
    chosen = negotiate(accepts, rendered_offers(is_several=is_several, is_thumbnail=is_thumbnail))
    options = options_of(request, chosen.media_type, is_thumbnail=is_thumbnail)
    if is_thumbnail and is_several:
        raise BadRequest("One frame at a time has a thumbnail")
    if chosen.is_multipart or (chosen.media_type == GIF and len(numbers) > 1 and not is_thumbnail):
        return _several(request, instance, numbers, options, is_multipart=chosen.is_multipart)
    return shown(request, instance, numbers[0] if asked else 0, options)


def _in_state(request: Request, state: Instance, options: RenderOptions, *, has_frames: bool) -> Response:
    """The image that a presentation state is for, as it wants it; an icon for a thumbnail that cannot be (W20).

    has_frames: whether the path names frames.
    """
    if has_frames:
        raise NotFound("A presentation state has no frames")
    if options.window is not None:
        raise BadRequest("The parameter window is not for a presentation state")
    try:
        presented = Presented.of_state(session_of(request), state)
        return shown(request, presented.image, presented.number, options, presented)
    except (NotFound, Undecodable, TooLarge):
        if not options.is_thumbnail:
            raise
    return shown(request, state, 0, options)


def _all_frames(instance: Instance, scope: Scope) -> Sequence[int]:
    """Those of an instance that was asked for, of what is no image one; only the middle of what stands for others."""
    if scope.level is Level.INSTANCE:
        return range(1, max(1, instance.number_of_frames) + 1)
    return (max(1, (instance.number_of_frames + 1) // 2),)


def _several(
    request: Request, instance: Instance, numbers: Sequence[int], options: RenderOptions, *, is_multipart: bool
) -> Response:
    """Pictures of frames as parts, or as an animation; each is drawn when its turn comes. PS3.18 §8.7.4"""
    if len(numbers) > MAXIMUM_FRAMES_SHOWN:
        raise TooLarge("The instance has more frames than are shown at once")
    document = session_of(request).document(instance.scope)
    every = [Wanted.of(document.instance, number, options) for number in numbers]
    form = f"{is_multipart} {' '.join(wanted.key for wanted in every)}"
    etag = f'"{hashlib.sha256(form.encode("ascii")).hexdigest()[:32]}"'
    if is_unchanged(request, etag):
        return not_modified(etag)
    whole = whole_of(document)
    pictures = _one_by_one(pictures_of(request), document, every, whole)
    headers = {**NO_SNIFF, "ETag": etag}
    if not is_multipart:
        headers |= PRIVATE
        return Stream(animated(pictures, delay_of(whole())), 200, headers, options.media_type, enough_bytes=1)
    url = resource_url(base_url(request), instance.scope)
    named = zip(numbers, pictures, strict=True)
    parts = ((options.media_type, f"{url}/frames/{number}/rendered", (picture,)) for number, picture in named)
    return multipart_response(options.media_type, parts, headers, enough_bytes=1)


def _one_by_one(
    pictures: Pictures, document: Document, every: Sequence[Wanted], whole: Callable[[], Json]
) -> Iterator[bytes]:
    """The pictures of frames, each drawn when it is asked for; few at once, and not for ever.

    Raises Overloaded at once where others have the turns, and TooLarge when it has taken too long.
    """
    if not _STREAMS.acquire(blocking=False):
        raise Overloaded("Too many pictures of several frames are asked for at once")
    try:
        end = time.monotonic() + _STREAM_SECONDS
        for wanted in every:
            if time.monotonic() > end:
                raise TooLarge("So many pictures take too long")
            yield pictures.of_document(document, wanted, whole)
    finally:
        _STREAMS.release()


def shown(
    request: Request, instance: Instance, number: int, options: RenderOptions, presented: Presented | None = None
) -> Response:
    """A picture of one frame, or of the middle one for the number 0. Raises NotFound, NotAcceptable, Undecodable.

    presented: the state that the image is shown in, if any.
    """
    wanted = Wanted.of(instance, number, options, presented)
    if is_unchanged(request, wanted.etag):
        return not_modified(wanted.etag)
    picture = pictures_of(request).of_instance(instance, wanted)
    etag = {"ETag": picture.wanted.etag} if picture.is_lasting else {}
    return Response(picture.data, headers={**PRIVATE, **NO_SNIFF, **etag}, media_type=options.media_type)


def pictures_of(request: Request) -> Pictures:
    """The pictures that the client behind a request may see."""
    return Pictures(session_of(request), request.app.state.pool, age_seconds(request))


def options_of(request: Request, media_type: str, *, is_thumbnail: bool) -> RenderOptions:
    """What the query asks of a picture. Raises BadRequest, naming the parameter (W12–W18). PS3.18 §8.3.5.1"""
    query = request.query_params
    if any(len(query.getlist(name)) > 1 for name in _RENDERED_PARAMETERS - {"accept"}):
        raise BadRequest("A parameter is given twice")
    viewport = _viewport(query["viewport"]) if "viewport" in query else None
    if is_thumbnail:
        return RenderOptions(media_type, viewport=viewport, is_thumbnail=True)
    if query.get("charset", "").lower() not in _CHARSETS:
        raise BadRequest("The parameter charset names an unsupported character set")
    return RenderOptions(
        media_type,
        quality=integer(query["quality"], "quality") if "quality" in query else None,
        window=_window(query["window"]) if "window" in query else None,
        viewport=viewport,
        annotation=annotation_of(query.get("annotation", "")),
        icc_profile=_icc_profile(query.get("iccprofile", "")),
    )


def annotation_of(text: str) -> tuple[Annotation, ...]:
    """What is to be written, in the order of the enumeration, so that one picture has one name (W16).

    Raises BadRequest.
    """
    asked = set(text.split(",")) if text else set()
    if not asked <= {kind.value for kind in Annotation}:
        raise BadRequest("The parameter annotation takes patient and technique")
    return tuple(kind for kind in Annotation if kind.value in asked)


def _icc_profile(text: str) -> IccProfile:
    """The colour space that is asked for (W17)."""
    try:
        return IccProfile(text.lower() or IccProfile.NO)
    except ValueError:
        raise BadRequest("The parameter iccprofile names no profile that is known here") from None


def integer(text: str, name: str) -> int:
    """The value of a parameter. Raises BadRequest, naming it."""
    if not (text.isascii() and text.isdigit() and len(text) <= 9):
        raise BadRequest(f"The parameter {name} takes a positive integer")
    return int(text)


def decimal(text: str, name: str) -> float:
    """The value of a parameter. Raises BadRequest, naming it."""
    try:
        number = float(text)
    except ValueError as error:
        raise BadRequest(f"The parameter {name} takes numbers") from error
    if not math.isfinite(number):
        raise BadRequest(f"The parameter {name} takes finite numbers")
    return number


def _window(text: str) -> Window:
    """``center,width,function``: all three (W13). PS3.18 §8.3.5.1.4"""
    parts = text.split(",")
    if len(parts) != 3 or parts[2].lower() not in VOI_FUNCTION_PARAMETERS:
        raise BadRequest("The parameter window takes center, width and a function: linear, linear-exact or sigmoid")
    return Window(decimal(parts[0], "window"), decimal(parts[1], "window"), VOI_FUNCTION_PARAMETERS[parts[2].lower()])


def _viewport(text: str) -> Viewport:
    """``vw,vh`` or ``vw,vh,sx,sy,sw,sh``, where the last four may be left empty (W12). PS3.18 §8.3.5.1.3"""
    parts = text.split(",")
    if len(parts) not in (2, 6):
        raise BadRequest("The parameter viewport takes two or six numbers")
    width, height = integer(parts[0], "viewport"), integer(parts[1], "viewport")
    if len(parts) == 2:
        return Viewport(width, height)
    x, y = (decimal(part, "viewport") if part else 0.0 for part in parts[2:4])
    region_width, region_height = (decimal(part, "viewport") if part else None for part in parts[4:6])
    return Viewport(width, height, Region(x, y, region_width, region_height))
