"""Pictures of several frames, and video, of a running gateway."""

from __future__ import annotations

import io

import pytest
from PIL import Image, ImageSequence

from gateway import particulars
from gateway.dicomweb import rendered
from gateway.dicomweb.rendered import _STREAMS
from storage.model import Source
from tests import synthetic
from tests.gateway.dicomweb.test_rendered import kept_slice
from tests.gateway.dicomweb.test_wado import parts_of

LOOP = "colour_loop"
MP4 = "1.2.840.10008.1.2.4.102"
STREAM = b"\0\0\0\x18ftypmp42" + bytes(range(256)) * 40


def test_a_gif_of_several_frames_moves(samples):
    response = samples.get(samples.url(LOOP) + "/rendered?viewport=40,40", "image/gif")
    assert response.headers["content-type"] == "image/gif"
    with Image.open(io.BytesIO(response.content)) as image:
        assert (image.n_frames, image.info["loop"]) == (12, 0)
        shown = [frame.convert("RGB").tobytes() for frame in ImageSequence.Iterator(image)]
    one = samples.get(samples.url(LOOP) + "/frames/7/rendered?viewport=40,40", "image/gif")
    with Image.open(io.BytesIO(one.content)) as image:
        assert image.convert("RGB").tobytes() == shown[6]
    assert len(set(shown)) == 12


def test_some_frames_move_in_the_order_asked(samples):
    response = samples.get(samples.url(LOOP) + "/frames/9,2/rendered", "image/gif")
    with Image.open(io.BytesIO(response.content)) as image:
        assert image.n_frames == 2


def test_all_frames_are_parts_with_their_locations(samples):
    parts = list(parts_of(samples.get(samples.url(LOOP) + "/rendered", 'multipart/related; type="image/png"')))
    assert len(parts) == 12
    assert all(headers["Content-Type"] == "image/png" for headers, _ in parts)
    headers, fifth = parts[4]
    assert headers["Content-Location"].endswith("/frames/5/rendered")
    assert fifth == samples.get(samples.url(LOOP) + "/frames/5/rendered", "image/png").content


@pytest.mark.parametrize("accept", ["*/*", "image/*", 'multipart/related; type="image/jpeg"'])
def test_frames_that_are_named_are_parts(samples, accept):
    response = samples.get(samples.url(LOOP) + "/frames/3,1/rendered", accept)
    if accept == "image/*":
        assert response.headers["content-type"] == "image/gif"
        return
    locations = [headers["Content-Location"].rsplit("/", 2)[1] for headers, _ in parts_of(response)]
    assert locations == ["3", "1"]


def test_one_picture_cannot_be_of_two_frames(samples):
    response = samples.get(samples.url(LOOP) + "/frames/3,1/rendered", "image/jpeg")
    assert response.status_code == 406
    assert "multipart" in response.json()["reason"]


@pytest.mark.parametrize(
    ("frames", "status"), [("1,13", 404), ("1,1", 400), ("0,1", 400), ("1,x", 400), ("13,1", 404), ("1,", 400)]
)
def test_frames_that_are_not_there(samples, frames, status):
    assert samples.get(f"{samples.url(LOOP)}/frames/{frames}/rendered").status_code == status


def test_a_thumbnail_is_of_one_frame(samples):
    assert samples.get(f"{samples.url(LOOP)}/frames/1,2/thumbnail").status_code == 400
    still = samples.get(f"{samples.url(LOOP)}/thumbnail", "image/gif")
    with Image.open(io.BytesIO(still.content)) as image:
        assert getattr(image, "n_frames", 1) == 1


def test_what_the_client_has_is_not_sent_again(samples):
    url = samples.url(LOOP) + "/rendered"
    tags = set()
    for accept in ("image/gif", 'multipart/related; type="image/gif"', "image/jpeg"):
        tag = samples.get(url, accept).headers["etag"]
        assert samples.get(url, accept, headers={"If-None-Match": tag}).status_code == 304
        tags.add(tag)
    assert len(tags) == 3


def test_a_series_is_a_still_picture(samples):
    response = samples.get(samples.url(LOOP, "series") + "/rendered", "image/gif")
    with Image.open(io.BytesIO(response.content)) as image:
        assert getattr(image, "n_frames", 1) == 1


GIF_OF_LOOP = "/rendered?viewport=9,9"


def test_few_clients_get_pictures_of_several_frames_at_once(archive, here):
    _, url = kept_slice(archive, LOOP)
    held = [_STREAMS.acquire(blocking=False) for _ in range(4)]
    try:
        assert all(held)
        refused = here.get(url + GIF_OF_LOOP, Accept="image/gif")
        assert (refused.status_code, refused.headers["retry-after"] != "") == (503, True)
    finally:
        for _ in held:
            _STREAMS.release()
    for _ in range(6):  # each gives its turn back
        assert here.get(url + GIF_OF_LOOP, Accept="image/gif").status_code == 200


def test_metadata_is_read_once_however_many_frames_are_annotated(archive, here, monkeypatch):
    _, url = kept_slice(archive, LOOP)
    reads = []
    plain = particulars.unpack_metadata
    monkeypatch.setattr(particulars, "unpack_metadata", lambda *arguments: reads.append(1) or plain(*arguments))
    assert here.get(url + "/rendered?annotation=technique", Accept="image/gif").status_code == 200
    assert len(reads) == 1


def test_what_takes_too_long_is_broken_off(archive, here, monkeypatch):
    _, url = kept_slice(archive, LOOP)
    monkeypatch.setattr(rendered, "_STREAM_SECONDS", -1.0)
    assert here.get(url + GIF_OF_LOOP, Accept="image/gif").status_code == 413


@pytest.fixture
def film(archive, here):
    """A video of three fragments in the archive, whose picture nobody can draw."""
    cuts = (STREAM[:100], STREAM[100:4096], STREAM[4096:])
    content = synthetic.data_set(
        extra=(*synthetic.image_elements(480, 640, samples=3, frames=90), synthetic.encapsulated(list(cuts)))
    )
    with archive.spool() as spool:
        spool.write(synthetic.part10(content, syntax=MP4))
        archive.store(spool, Source("test"))
    return here


VIDEO = "/dicomweb/studies/1.2.3/series/1.2.3.4/instances/1.2.3.4.5/rendered"


@pytest.mark.parametrize("accept", ["*/*", "video/mp4", "video/*", "text/html,application/xml;q=0.9,*/*;q=0.8"])
def test_a_video_is_its_own_picture(film, accept):
    response = film.get(VIDEO, Accept=accept)
    assert (response.status_code, response.headers["content-type"]) == (200, "video/mp4")
    assert response.content == STREAM
    assert response.headers["accept-ranges"] == "bytes"


@pytest.mark.parametrize(("first", "last"), [(0, 0), (50, 149), (99, 100), (4000, 5000), (0, len(STREAM) - 1)])
def test_a_player_asks_for_ranges(film, first, last):
    response = film.get(VIDEO, Range=f"bytes={first}-{last}")
    assert response.status_code == 206
    assert response.content == STREAM[first : last + 1]
    assert response.headers["content-range"] == f"bytes {first}-{last}/{len(STREAM)}"


def test_a_range_beyond_the_end_and_a_picture_are_refused(film):
    assert film.get(VIDEO, Range=f"bytes={len(STREAM)}-").status_code == 416
    refused = film.get(VIDEO, Accept="image/jpeg")
    assert refused.status_code == 406
    assert "video/mp4" in refused.json()["reason"]


@pytest.mark.parametrize(
    ("what", "status"), [("?quality=abc", 400), ("?window=1", 400), ("?viewport=0,0", 400), ("?annotation=x", 400)]
)
def test_what_cannot_be_asked_of_a_picture_cannot_be_asked_of_a_video(film, what, status):
    assert film.get(VIDEO + what).status_code == status


@pytest.mark.parametrize("frames", ["1", "99", "1,2"])
def test_a_video_is_not_shown_frame_by_frame(film, frames):
    assert film.get(VIDEO.replace("rendered", f"frames/{frames}/rendered")).status_code == 406


def test_a_video_has_an_icon(film):
    assert film.get(VIDEO.replace("rendered", "thumbnail")).headers["content-type"] == "image/jpeg"


def test_wado_uri_plays_it_too(film):
    query = "requestType=WADO&studyUID=1.2.3&seriesUID=1.2.3.4&objectUID=1.2.3.4.5"
    response = film.get(f"/dicomweb/wado?{query}&contentType=video/mp4")
    assert (response.status_code, response.content) == (200, STREAM)
    assert film.get(f"/dicomweb/wado?{query}&contentType=video/mp4&rows=3").status_code == 400
