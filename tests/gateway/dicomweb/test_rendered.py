"""Rendered images and thumbnails of a running gateway."""

from __future__ import annotations

import io
import re
import subprocess
import sys

import pytest
from PIL import Image

from storage.errors import DecoderFailed
from storage.model import Source
from tests.fix_samples import MANIFEST, SAMPLES

IMAGES = sorted(name for name, entry in MANIFEST.items() if entry["frames"])


def picture(response, media_type="image/jpeg"):
    assert response.status_code == 200, response.text
    assert response.headers["content-type"] == media_type
    return Image.open(io.BytesIO(response.content))


@pytest.mark.parametrize("name", IMAGES)
def test_each_image_can_be_rendered_in_its_own_size(samples, name):
    entry = MANIFEST[name]
    image = picture(samples.get(samples.url(name) + "/rendered", "image/png"), "image/png")
    if "aspect_ratio" in name:
        assert image.width / image.height != entry["columns"] / entry["rows"]
    else:
        assert image.size == (entry["columns"], entry["rows"])
    assert image.convert("L").getextrema() != (0, 0)


@pytest.mark.parametrize("name", sorted(MANIFEST))
def test_everything_has_a_thumbnail(samples, name):
    for accept in ("image/jpeg", "image/*", "*/*"):
        image = picture(samples.get(samples.url(name) + "/thumbnail", accept))
        assert max(image.size) <= 128


@pytest.mark.parametrize("level", ["study", "series"])
@pytest.mark.parametrize("name", ["slice_01", "colour_loop", "twelve_lead"])
def test_a_study_and_a_series_have_a_thumbnail(samples, level, name):
    picture(samples.get(samples.url(name, level) + "/thumbnail"))


def test_a_series_is_shown_by_its_middle_instance(samples):
    series = samples.get(samples.url("slice_01", "series") + "/rendered", "image/png").content
    middle = samples.get(samples.url("slice_11") + "/rendered", "image/png").content
    assert series == middle


def test_frames_are_rendered_one_by_one(samples):
    url = samples.url("colour_loop")
    assert samples.get(f"{url}/frames/1/rendered").content != samples.get(f"{url}/frames/7/rendered").content
    assert picture(samples.get(f"{url}/frames/7/thumbnail")).width <= 128
    assert samples.get(f"{url}/frames/13/rendered").status_code == 404
    assert samples.get(f"{url}/frames/0/rendered").status_code == 400


def test_the_query_may_name_the_type_for_browsers(samples):
    picture(samples.get(samples.url("slice_01") + "/rendered?accept=image/png", "text/html"), "image/png")


def test_a_viewport_is_kept_to(samples):
    image = picture(samples.get(samples.url("slice_01") + "/rendered?viewport=60,40"))
    assert image.size == (40, 40)


def test_a_window_changes_the_picture(samples):
    url = samples.url("slice_01") + "/rendered"
    assert samples.get(url).content != samples.get(url + "?window=40,80,linear").content


@pytest.mark.parametrize(
    "query",
    [
        "quality=0",
        "quality=101",
        "quality=x",
        "quality=1&quality=2",
        "viewport=0,0",
        "viewport=1",
        "viewport=-1,4",
        "viewport=99999,99999",
        "viewport=10,10,0,0,9999,9999",
        "window=1,2",
        "window=1,0,linear",
        "window=nan,1,linear",
        "window=1,2,cubic",
        "annotation=patient,doctor",
        "iccprofile=foo",
        "charset=latin-1",
    ],
)
def test_what_no_picture_can_be_is_refused(samples, query):
    response = samples.get(f"{samples.url('slice_01')}/rendered?{query}")
    assert response.status_code == 400
    assert response.json()["reason"]


def test_a_type_that_is_not_made_is_not_acceptable(samples):
    assert samples.get(samples.url("slice_01") + "/rendered", "image/webp").status_code == 406


def test_a_pdf_is_its_own_picture(samples):
    response = samples.get(samples.url("printout") + "/rendered", "text/html,*/*;q=0.8")
    assert response.headers["content-type"] == "application/pdf"
    assert response.content.startswith(b"%PDF-")


def test_a_report_leads_to_the_images_it_was_made_of(samples):
    page = samples.get(samples.url("report/report") + "/rendered", "text/html,*/*;q=0.8")
    assert page.headers["content-type"] == "text/html; charset=utf-8"
    assert "Größe unverändert gegenüber der Voruntersuchung." in page.text
    (link,) = re.findall(r'<a href="([^"]*)">CT Image Storage</a>', page.text)
    picture(samples.get(link))


@pytest.mark.parametrize(
    ("name", "accept"), [("twelve_lead", "*/*"), ("report/report", "image/*"), ("printout", "image/png")]
)
def test_what_has_no_picture_is_not_acceptable_as_one(samples, name, accept):
    assert samples.get(samples.url(name) + "/rendered", accept).status_code == 406


def test_a_picture_that_the_client_has_is_not_drawn_again(samples):
    url = samples.url("slice_01") + "/thumbnail"
    first = samples.get(url)
    again = samples.get(url, headers={"If-None-Match": first.headers["etag"]})
    assert (again.status_code, again.content) == (304, b"")
    assert samples.get(url + "?viewport=64,64").headers["etag"] != first.headers["etag"]


def kept_slice(archive, name="slice_01"):
    with archive.spool() as spool:
        spool.write((SAMPLES / next(file for file in sorted(MANIFEST) if name in file)).read_bytes())
        receipt = archive.store(spool, Source("test"))
    scope = receipt.instance.scope
    uids = (scope.study_instance_uid, scope.series_instance_uid, scope.sop_instance_uid)
    return scope, "/dicomweb" + "".join(map("/{}/{}".format, ("studies", "series", "instances"), uids))


@pytest.mark.parametrize("kind", ["rendered", "thumbnail"])
def test_a_picture_made_once_needs_neither_object_nor_decoder_again(archive, here, kind, tmp_path):
    _, url = kept_slice(archive)
    first = here.get(f"{url}/{kind}")
    assert first.status_code == 200

    def crash(*_arguments, **_more):
        raise DecoderFailed

    here.pool.render = crash
    for stored in (tmp_path / "archive" / "objects").rglob("*.dcm"):
        stored.unlink()
    again = here.get(f"{url}/{kind}")
    assert (again.status_code, again.content, again.headers["etag"]) == (200, first.content, first.headers["etag"])
    assert here.get(f"{url}/{kind}?viewport=9,9").content != first.content
    assert here.get(f"{url}/{kind}", Accept="image/png").status_code >= 500


def test_a_deleted_instance_has_no_picture_though_one_was_made(archive, here):
    scope, url = kept_slice(archive)
    etag = here.get(f"{url}/rendered").headers["etag"]
    archive.delete(scope)
    assert here.get(f"{url}/rendered").status_code == 410
    assert here.get(f"{url}/rendered", **{"If-None-Match": etag}).status_code == 410


def test_the_middle_frame_is_the_picture_of_its_number(archive, here):
    _, url = kept_slice(archive, "colour_loop")
    middle = here.get(f"{url}/rendered")
    by_number = here.get(f"{url}/frames/6/rendered")
    assert (middle.content, middle.headers["etag"]) == (by_number.content, by_number.headers["etag"])
    assert here.get(f"{url}/frames/7/rendered").headers["etag"] != middle.headers["etag"]
    assert here.get(f"{url}/frames/13/rendered", **{"If-None-Match": "*"}).status_code == 404


def test_nothing_that_draws_is_loaded_before_the_first_icon():
    program = "import sys, gateway.dicomweb.rendered; print('gateway.pixels.icons' in sys.modules)"
    found = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "False"
