"""C-FIND over a real archive, with pynetdicom as the peer."""

import threading
import time

import pytest
from pydicom.dataset import Dataset
from pynetdicom.pdu_primitives import SOPClassExtendedNegotiation

from gateway.session import Session
from storage.matching import Query
from storage.model import Lined
from tests import synthetic
from tests.fix_dimse import (
    ECHO,
    FIND,
    STORAGE,
    STUDY_ROOT_FIND,
    associated,
    echo_command,
    find,
    p_data,
    pdv,
    query,
    raw_association,
    send,
    status_of,
)


@pytest.fixture
def filled(listener):
    """Two studies: one of two series with three instances, one of one."""
    peer = raw_association(listener, STORAGE)
    rows = [
        ("1.2.1", "1.2.1.1", "1.2.1.1.1", "Doe^Jane", "CT"),
        ("1.2.1", "1.2.1.1", "1.2.1.1.2", "Doe^Jane", "CT"),
        ("1.2.1", "1.2.1.2", "1.2.1.2.1", "Doe^Jane", "SR"),
        ("1.2.2", "1.2.2.1", "1.2.2.1.1", "M\xfcller^J\xf6rg", "MR"),
    ]
    latin = (synthetic.element(0x00080005, "CS", "ISO_IR 100"),)
    for number, (study, series, instance, name, modality) in enumerate(rows, 1):
        content = synthetic.data_set(
            study, series, instance, name=name, modality=modality, number=number, patient_id=study[-1], extra=latin
        )
        assert send(peer, content, sop_instance=instance, message_id=number) == (0, "")
    peer.close()
    return listener


def test_studies_are_found_with_their_keys_and_where_to_retrieve_them(filled):
    asked = query(PatientName="doe*", PatientID="", StudyInstanceUID="", ModalitiesInStudy="", StudyDescription="")
    with associated(filled, FIND) as association:
        (status, found), (last, nothing) = find(association, asked)
    assert (status, last, nothing) == (0xFF00, 0, None)
    assert found.QueryRetrieveLevel == "STUDY"
    assert found.PatientName == "Doe^Jane"
    assert found.PatientID == "1"
    assert found.StudyInstanceUID == "1.2.1"
    assert sorted(found.ModalitiesInStudy) == ["CT", "SR"]
    assert found.RetrieveAETitle == "GATEWAY"
    assert found.InstanceAvailability == "ONLINE"
    assert found["StudyDescription"].is_empty
    assert "SpecificCharacterSet" not in found


def test_series_and_instances_are_found_below_their_parents(filled):
    with associated(filled, FIND) as association:
        series = find(association, query("SERIES", StudyInstanceUID="1.2.1", SeriesInstanceUID="", Modality=""))
        images = find(
            association,
            query("IMAGE", StudyInstanceUID="1.2.1", SeriesInstanceUID="1.2.1.1", SOPInstanceUID="", InstanceNumber=""),
        )
    assert [(found.SeriesInstanceUID, found.Modality) for _, found in series[:-1]] == [
        ("1.2.1.1", "CT"),
        ("1.2.1.2", "SR"),
    ]
    assert [(found.SOPInstanceUID, found.InstanceNumber) for _, found in images[:-1]] == [
        ("1.2.1.1.1", 1),
        ("1.2.1.1.2", 2),
    ]


@pytest.mark.parametrize(
    ("character_set", "answered", "name"),
    [("ISO_IR 100", "ISO_IR 100", "Müller*"), ("ISO_IR 192", "ISO_IR 192", "Müller*"), (None, "ISO_IR 192", "M*")],
)
def test_names_are_matched_in_unicode_and_answered_in_the_set_of_the_query(filled, character_set, answered, name):
    asked = query(PatientID="", StudyInstanceUID="")
    if character_set:
        asked.SpecificCharacterSet = character_set
    asked.PatientName = name
    with associated(filled, FIND) as association:
        (_, found), _ = find(association, asked)
    assert found.SpecificCharacterSet == answered
    assert str(found.PatientName) == "Müller^Jörg"


REFUSED = {
    "no level": (Dataset(), 0xA900),
    "unknown level": (query("PATIENT"), 0xA900),
    "series without study": (query("SERIES"), 0xA900),
    "image without series": (query("IMAGE", StudyInstanceUID="1.2.1"), 0xA900),
    "too many wildcards": (query(PatientName="a*b*c*d*e*f*g*h*i*j"), 0xA900),
}


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize(("asked", "status"), REFUSED.values(), ids=REFUSED)
def test_a_query_that_breaks_the_rules_is_refused_and_the_next_one_answered(filled, asked, status):
    with associated(filled, FIND) as association:
        if len(asked):
            assert [found for found, _ in find(association, asked)] == [status]
        assert find(association, query(StudyInstanceUID=""))[-1][0] == 0


def test_keys_that_are_not_supported_are_said_with_ff01(filled):
    asked = query(StudyInstanceUID="", Modality="CT")
    with associated(filled, FIND) as association:
        assert [status for status, _ in find(association, asked)] == [0xFF01, 0xFF01, 0]


def test_a_relational_query_is_answered_when_it_was_negotiated(filled):
    item = SOPClassExtendedNegotiation()
    item.sop_class_uid, item.service_class_application_information = STUDY_ROOT_FIND, b"\1"
    with associated(filled, FIND, ext_neg=[item]) as association:
        assert association.acceptor.sop_class_extended == {STUDY_ROOT_FIND: b"\1"}
        (_, found), _ = find(association, query("IMAGE", SOPInstanceUID="1.2.2.1.1"))
    assert found.SOPInstanceUID == "1.2.2.1.1"


def test_more_matches_than_may_be_returned_end_as_out_of_resources(listen):
    listener = listen(query_answers_maximum=2)
    peer = raw_association(listener, STORAGE)
    for number in range(1, 4):
        send(peer, synthetic.data_set(sop_instance=f"1.2.3.4.{number}"), sop_instance=f"1.2.3.4.{number}")
    peer.close()
    asked = query("IMAGE", StudyInstanceUID="1.2.3", SeriesInstanceUID="1.2.3.4", SOPInstanceUID="")
    with associated(listener, FIND) as association:
        assert [status for status, _ in find(association, asked)] == [0xFF00, 0xFF00, 0xA700]


def test_a_cancel_ends_a_query_soon(listener):
    """The archive gives pages of answers until the peer has seen the first ones and cancels."""
    first_sent = threading.Event()
    cancelled = threading.Event()

    class Endless(Session):
        def search_lines(self, query, tags):
            if query.after:
                first_sent.set()
                assert cancelled.wait(10)
            (answer,), place = super().search_lines(Query(query.level, include=query.include, limit=1), tags)
            return Lined([answer] * query.limit, place)

    peer = raw_association(listener, STORAGE)
    send(peer, synthetic.data_set())
    peer.close()
    listener.server._sessions = lambda actor: Endless(listener.archive, actor)
    with associated(listener, FIND) as association:
        statuses = []
        for status, _ in association.send_c_find(query(StudyInstanceUID=""), STUDY_ROOT_FIND, msg_id=7):
            statuses.append(status.Status)
            if len(statuses) == 10:
                assert first_sent.wait(10)
                association.send_c_cancel(7, None, STUDY_ROOT_FIND)
                time.sleep(0.2)
                cancelled.set()
        assert statuses[-1] == 0xFE00
        assert len(statuses) <= 502
        assert association.send_c_find(query(StudyInstanceUID=""), STUDY_ROOT_FIND)


def test_a_cancel_that_comes_too_late_is_ignored(filled):
    with associated(filled, FIND, ECHO) as association:
        find(association, query(StudyInstanceUID=""))
        association.send_c_cancel(1, None, STUDY_ROOT_FIND)
        assert association.send_c_echo().Status == 0


def test_an_operation_that_is_not_supported_is_said_to_be(filled):
    peer = raw_association(filled, FIND)
    peer.sendall(p_data(pdv(1, 3, echo_command())))
    assert status_of(peer)[0] == 0x0211
    peer.close()
