"""The table of statuses covers the tree of errors, and nothing gets past it."""

import logging

import pytest

from gateway.dimse.status import (
    COMMENT_CHARACTERS,
    STATUSES,
    SUCCESS,
    Reply,
    attempt,
    find_reply,
    store_reply,
)
from storage import errors
from storage.errors import GatewayError


def tree(kind=GatewayError):
    return [kind, *(below for child in kind.__subclasses__() for below in tree(child))]


OURS = [kind for kind in tree() if kind.__module__ == errors.__name__]


def test_every_error_has_a_row_and_every_row_an_error():
    assert set(STATUSES) == set(OURS)


@pytest.mark.parametrize("kind", OURS)
def test_an_error_becomes_a_status_with_a_comment_of_its_own_words(kind):
    for reply in (store_reply(kind(tag="00080018", uid="1.2.3")), find_reply(kind(tag="00080018", uid="1.2.3"))):
        if reply.status == SUCCESS:
            assert reply == Reply(SUCCESS)
            continue
        assert reply.offending_element == 0x00080018
        assert 0 < len(reply.comment) <= COMMENT_CHARACTERS
        assert kind.default_reason.startswith(reply.comment)
        assert reply.comment.isascii()


@pytest.mark.parametrize("kind", [kind for kind in OURS if kind.retryable])
def test_what_may_be_sent_again_is_out_of_resources(kind):
    assert store_reply(kind()).status == 0xA700


@pytest.mark.parametrize(
    ("kind", "store", "find"),
    [
        (errors.NotDicom, 0xC000, 0xC000),
        (errors.InvalidInstance, 0xA900, 0xA900),
        (errors.IdentityMismatch, 0xA900, 0xA900),
        (errors.TooLarge, 0xA700, 0xA700),
        (errors.Forbidden, 0x0124, 0x0124),
        (errors.InstanceConflict, 0x0111, 0x0110),
        (errors.UnsupportedSOPClass, 0x0122, 0x0122),
        (errors.BadQuery, 0xC000, 0xA900),
        (errors.CorruptObject, 0x0110, 0x0110),
    ],
)
def test_the_statuses_of_the_standard(kind, store, find):
    assert (store_reply(kind()).status, find_reply(kind()).status) == (store, find)


def test_a_kind_of_error_that_comes_later_has_the_status_of_its_parent():
    later = type("Later", (errors.IdentityMismatch,), {})
    assert store_reply(later()).status == 0xA900


def test_the_tag_of_an_attribute_in_a_sequence_is_its_own():
    assert find_reply(errors.BadQuery(tag="00400275.00401001")).offending_element == 0x00401001


def test_a_bug_answers_processing_failure_and_its_text_stays_here(caplog):
    def work():
        raise ZeroDivisionError("PATIENT^SECRET")

    with caplog.at_level(logging.ERROR):
        assert attempt(work, store_reply) == Reply(0x0110, comment="Processing failure")
    assert [record.getMessage() for record in caplog.records] == ["dimse.request.error"]


def test_what_works_is_returned():
    assert attempt(lambda: 7, store_reply) == 7
