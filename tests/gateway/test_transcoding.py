"""An instance in another transfer syntax while the archive changes; the encodings have journeys of their own."""

from __future__ import annotations

import pytest

from gateway.pixels.pool import RenderPool
from gateway.security.actor import Actor
from gateway.session import Session
from gateway.transcoding import converter
from storage.errors import Undecodable
from storage.model import Scope
from storage.uids import RLE_LOSSLESS
from tests import synthetic
from tests.fix_archive import keep

STUDY = Scope("1.2.3")


@pytest.fixture(scope="module")
def pool():
    with RenderPool(1, seconds=20) as made:
        yield made


def test_an_object_that_was_replaced_since_it_was_opened_is_not_mixed_with_the_other(archive, pool):
    session = Session(archive, Actor("operator", "test"))
    convert = converter(pool, session)
    keep(archive, synthetic.image(8, 8))
    with session.open(session.instances(STUDY)[0]) as stored:
        assert b"".join(convert(stored, RLE_LOSSLESS))
        session.delete(STUDY)
        keep(archive, synthetic.image(4, 4))
        with pytest.raises(Undecodable, match="replaced"):
            b"".join(convert(stored, RLE_LOSSLESS))
