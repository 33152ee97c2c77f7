"""Thumbnails made ahead, by the thread and by a running gateway."""

from __future__ import annotations

import io
import threading

import httpx
import pytest
from PIL import Image

from gateway.pictures import MADE_AHEAD, Pictures, Wanted
from gateway.pixels.kept import KeptBytes
from gateway.pixels.pool import RenderPool
from gateway.representative import representative
from gateway.security.actor import Actor
from gateway.session import Session
from gateway.thumbnails import OUTBOX, Thumbnailer
from storage.errors import DecoderFailed, Undecodable
from storage.model import Scope
from tests import synthetic
from tests.fix_archive import keep
from tests.fix_dimse import settle
from tests.fix_servers import running_gateway

QUIET = 30


class Clock:
    now = 1_000_000.0

    def __call__(self):
        return self.now


class Making:
    """A thumbnailer over an archive, whose clock stands still until it is told to go."""

    def __init__(self, archive, pool):
        self.archive = archive
        self.clock = Clock()
        self.session = Session(archive, Actor("operator", "test"))
        self.pool = pool
        self.session.outbox.place(OUTBOX)
        self.thumbnailer = self.another()

    def another(self):
        return Thumbnailer(Pictures(self.session, self.pool), QUIET, clock=self.clock)

    def keep(self, series, count, *, first=1, **options):
        for number in range(first, first + count):
            sop = f"{series}.{number}"
            keep(self.archive, synthetic.image(series=series, sop_instance=sop, number=number, **options), sop=sop)

    def step(self, seconds=0.0, thumbnailer=None):
        self.clock.now += seconds
        one = thumbnailer or self.thumbnailer
        while one.follow() or one.make():
            pass

    def kept(self, series):
        instance = representative(self.session, Scope("1.2.3", series))
        return self.session.thumbnail(instance, Wanted.of(instance, 0, MADE_AHEAD).key)


@pytest.fixture
def making(archive):
    with RenderPool(1) as pool:
        yield Making(archive, pool)


def test_a_series_gets_one_when_it_has_come_to_rest(making):
    making.keep("1.2.3.1", 3)
    making.step()
    assert making.kept("1.2.3.1") is None
    making.step(QUIET - 1)
    making.keep("1.2.3.1", 2, first=4)
    making.step()
    making.step(QUIET - 1)
    assert making.kept("1.2.3.1") is None, "the last instance has put it off"
    making.step(1)
    with Image.open(io.BytesIO(making.kept("1.2.3.1"))) as image:
        assert (image.format, max(image.size)) == ("JPEG", 128)
    assert making.session.outbox.count(OUTBOX) == 0


def test_what_was_made_is_served_without_object_and_decoder(making, archive, tmp_path):
    making.keep("1.2.3.1", 3)
    making.step()
    making.step(QUIET)
    made = making.kept("1.2.3.1")
    for stored in (tmp_path / "archive" / "objects").rglob("*.dcm"):
        stored.unlink()
    with RenderPool(1) as pool:
        pool.close()
        pictures = Pictures(making.session, pool)
        instance = representative(making.session, Scope("1.2.3", "1.2.3.1"))
        assert pictures.of_instance(instance, Wanted.of(instance, 0, MADE_AHEAD)).data == made


def test_more_instances_give_a_thumbnail_of_the_new_middle(making):
    making.keep("1.2.3.1", 2)
    making.step()
    making.step(QUIET)
    making.keep("1.2.3.1", 6, first=3, rows=8, columns=16)
    making.step()
    making.step(QUIET)
    with Image.open(io.BytesIO(making.kept("1.2.3.1"))) as image:
        assert image.size == (128, 64)


def test_two_processes_make_each_of_them_once(making):
    for number in range(1, 8):
        making.keep(f"1.2.3.{number}", 1)
    drawn = []
    plain = making.pool.render
    making.pool.render = lambda *arguments, **more: drawn.append(1) or plain(*arguments, **more)
    others = [making.another() for _ in range(3)]
    for one in others:
        one.follow()
    making.clock.now += QUIET
    threads = [threading.Thread(target=making.step, kwargs={"thumbnailer": one}) for one in others]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(drawn) == 7
    assert all(making.kept(f"1.2.3.{number}") for number in range(1, 8))


def test_what_is_deleted_meanwhile_or_no_image_is_no_trouble(making):
    making.keep("1.2.3.1", 1)
    keep(making.archive, synthetic.data_set(series="1.2.3.2", sop_instance="1.2.3.2.1"), sop="1.2.3.2.1")
    making.step()
    making.archive.delete(Scope("1.2.3", "1.2.3.1"))
    making.step(QUIET)
    assert making.session.outbox.count(OUTBOX) == 0
    assert making.kept("1.2.3.2"), "an icon"


def test_what_fails_is_tried_a_few_times_and_given_up(making, tmp_path):
    making.keep("1.2.3.1", 1)
    for stored in (tmp_path / "archive" / "objects").rglob("*.dcm"):
        stored.unlink()
    making.step()
    making.step(QUIET)
    assert making.session.outbox.count(OUTBOX) == 1
    for _ in range(5):
        making.step(600)
    assert making.session.outbox.count(OUTBOX) == 0


@pytest.mark.parametrize("error", [DecoderFailed("late"), Undecodable("damaged")], ids=["another time", "never"])
def test_only_what_will_not_change_is_kept(making, error):
    """A decoder that was late or died may do better; pixels that nobody can decode stay so."""
    making.keep("1.2.3.1", 1)
    plain = making.pool.render

    def fail(*arguments, **more):
        raise error

    making.pool.render = fail
    making.step()
    making.step(QUIET)
    is_for_ever = not isinstance(error, DecoderFailed)
    assert bool(making.kept("1.2.3.1")) == is_for_ever
    assert making.session.outbox.count(OUTBOX) == (not is_for_ever)
    making.pool.render = plain
    making.pool.pictures.close()
    making.pool.pictures = KeptBytes(1 << 20)
    making.step(600)
    assert making.kept("1.2.3.1")
    assert making.session.outbox.count(OUTBOX) == 0


def test_many_series_are_made_one_after_the_other_and_each_is_rested_after_once(making):
    for number in range(1, 6):
        making.keep(f"1.2.3.{number}", 1)
    making.thumbnailer.follow()
    making.clock.now += QUIET
    stopping = threading.Event()
    thread = threading.Thread(target=making.thumbnailer.run, args=(stopping,))
    thread.start()
    try:
        assert settle(lambda: making.session.outbox.count(OUTBOX) == 0, 30)
    finally:
        stopping.set()
        thread.join(10)
    assert all(making.kept(f"1.2.3.{number}") for number in range(1, 6))


def test_what_comes_while_a_thumbnail_is_made_is_not_forgotten(making):
    making.keep("1.2.3.1", 1)
    making.step()
    making.clock.now += QUIET
    plain = making.pool.render

    def meanwhile(*arguments, **more):
        making.pool.render = plain
        making.keep("1.2.3.1", 5, first=2, rows=8, columns=16)
        making.thumbnailer.follow()
        return plain(*arguments, **more)

    making.pool.render = meanwhile
    making.thumbnailer.make()
    assert making.session.outbox.count(OUTBOX) == 1
    making.step(QUIET)
    with Image.open(io.BytesIO(making.kept("1.2.3.1"))) as image:
        assert image.size == (128, 64)


def test_what_is_not_stored_makes_none(making):
    making.keep("1.2.3.1", 1)
    making.step()
    making.step(QUIET)
    making.archive.note_stable(0, 0)
    making.keep("1.2.3.1", 1, first=2)
    making.step()
    making.step(QUIET)
    while making.archive.note_stable(1, 1):
        pass
    while making.archive.note_stable(2, 2):
        pass
    assert [change.kind for change in making.archive.changes(2, 9)] == ["series-stable", "study-stable"]
    assert making.thumbnailer.follow()
    assert making.session.outbox.count(OUTBOX) == 0


def test_a_thumbnailer_ends_when_it_is_told_to(making):
    stopping = threading.Event()
    thread = threading.Thread(target=making.thumbnailer.run, args=(stopping,))
    thread.start()
    stopping.set()
    thread.join(10)
    assert not thread.is_alive()


def test_a_running_gateway_makes_them(tmp_path):
    content = synthetic.part10(synthetic.image(rows=64, columns=64))
    environment = {"GATEWAY_PIXELS__THUMBNAIL_SECONDS": "1"}
    with running_gateway(tmp_path / "data", environment=environment) as gateway, httpx.Client(timeout=60) as client:
        url = f"{gateway.dicomweb}/studies"
        assert client.post(url, content=content, headers={"Content-Type": "application/dicom"}).status_code == 200

        def is_made():
            figures = client.get(gateway.places["metrics"]).text
            return 'gateway_thumbnails_total{outcome="made"} 1.0' in figures

        assert settle(is_made, 60)
        assert client.get(f"{url}/1.2.3/thumbnail").headers["content-type"] == "image/jpeg"
