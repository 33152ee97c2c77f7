from __future__ import annotations

import pytest

from gateway.representative import representative
from gateway.security.actor import Actor
from gateway.session import Session
from storage.errors import Gone, NotFound
from storage.model import Scope
from tests import synthetic
from tests.fix_archive import keep


@pytest.fixture
def session(archive):
    return Session(archive, Actor("operator", "test"))


def keep_series(archive, series, modality, count, *, has_pixels=True):
    for number in range(1, count + 1):
        sop = f"{series}.{number}"
        options = {"series": series, "sop_instance": sop, "modality": modality, "number": number}
        content = synthetic.image(**options) if has_pixels else synthetic.data_set(**options)
        keep(archive, content, sop=sop)


def test_a_series_is_shown_by_the_middle_of_its_stack(archive, session):
    keep_series(archive, "1.2.3.4", "CT", 12)
    assert representative(session, Scope("1.2.3", "1.2.3.4")).sop_instance_uid == "1.2.3.4.7"


def test_a_study_is_shown_by_its_largest_series_of_images(archive, session):
    keep_series(archive, "1.2.3.1", "CT", 3)
    keep_series(archive, "1.2.3.2", "CT", 5)
    keep_series(archive, "1.2.3.3", "SEG", 9)
    keep_series(archive, "1.2.3.4", "SR", 20, has_pixels=False)
    assert representative(session, Scope("1.2.3")).sop_instance_uid == "1.2.3.2.3"


def test_what_has_pictures_goes_before_what_has_none(archive, session):
    keep_series(archive, "1.2.3.1", "OT", 8, has_pixels=False)
    keep_series(archive, "1.2.3.2", "OT", 1)
    assert representative(session, Scope("1.2.3")).sop_instance_uid == "1.2.3.2.1"
    assert representative(session, Scope("1.2.3", "1.2.3.1")).sop_instance_uid == "1.2.3.1.1"


def test_a_series_of_several_kinds_is_shown_by_an_image_of_it(archive, session):
    keep_series(archive, "1.2.3.1", "OT", 8, has_pixels=False)
    sop = "1.2.3.1.99"
    keep(archive, synthetic.image(series="1.2.3.1", sop_instance=sop, modality="OT", number=99), sop=sop)
    assert representative(session, Scope("1.2.3", "1.2.3.1")).sop_instance_uid == sop


def test_of_a_long_series_without_images_not_every_row_is_read(archive, session, monkeypatch):
    keep_series(archive, "1.2.3.1", "MR", 6, has_pixels=False)
    monkeypatch.setattr("gateway.representative._INSTANCES_LOOKED_AT", 5)
    asked = []
    plain = session.instances
    session.instances = lambda scope: asked.append(scope) or plain(scope)
    assert representative(session, Scope("1.2.3")).sop_instance_uid == "1.2.3.1.4"
    assert all(scope.sop_instance_uid for scope in asked)


@pytest.mark.parametrize("scope", [Scope("1.2.3"), Scope("1.2.3", "1.2.3.9"), Scope("1.2.3", "1.2.3.9", "1.2")])
def test_what_is_not_there_is_not_found(session, scope):
    with pytest.raises(NotFound):
        representative(session, scope)


def test_what_was_deleted_is_gone(archive, session):
    keep_series(archive, "1.2.3.1", "CT", 1)
    archive.delete(Scope("1.2.3"))
    with pytest.raises(Gone):
        representative(session, Scope("1.2.3"))
