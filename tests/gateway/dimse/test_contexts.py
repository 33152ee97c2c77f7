"""Negotiation: a pure function over a table."""

import pytest
from pynetdicom import sop_class

from gateway.dimse.contexts import (
    ABSTRACT_SYNTAX_NOT_SUPPORTED,
    ACCEPTED,
    STUDY_ROOT_FIND,
    TRANSFER_SYNTAXES_NOT_SUPPORTED,
    VERIFICATION,
    Proposed,
    Service,
    negotiate,
    service_of,
)
from storage.uids import EXPLICIT_VR_LITTLE_ENDIAN, IMPLICIT_VR_LITTLE_ENDIAN, RLE_LOSSLESS, TRANSFER_SYNTAXES

CT = "1.2.840.10008.5.1.4.1.1.2"
JPEG = "1.2.840.10008.1.2.4.70"


def test_every_storage_class_pynetdicom_knows_is_storage():
    assert {service_of(uid) for uid in sop_class._STORAGE_CLASSES.values()} == {Service.STORAGE}


def test_no_class_of_another_service_is_storage():
    tables = [
        sop_class._APPLICATION_EVENT_CLASSES,
        sop_class._BASIC_WORKLIST_CLASSES,
        sop_class._COLOR_PALETTE_CLASSES,
        sop_class._DEFINED_PROCEDURE_CLASSES,
        sop_class._DISPLAY_SYSTEM_CLASSES,
        sop_class._HANGING_PROTOCOL_CLASSES,
        sop_class._IMPLANT_TEMPLATE_CLASSES,
        sop_class._INSTANCE_AVAILABILITY_CLASSES,
        sop_class._MEDIA_CREATION_CLASSES,
        sop_class._MEDIA_STORAGE_CLASSES,
        sop_class._NON_PATIENT_OBJECT_CLASSES,
        sop_class._PRINT_MANAGEMENT_CLASSES,
        sop_class._PROCEDURE_STEP_CLASSES,
        sop_class._PROTOCOL_APPROVAL_CLASSES,
        sop_class._RELEVANT_PATIENT_QUERY_CLASSES,
        sop_class._RT_MACHINE_VERIFICATION_CLASSES,
        sop_class._STORAGE_COMMITMENT_CLASSES,
        sop_class._SUBSTANCE_ADMINISTRATION_CLASSES,
        sop_class._UNIFIED_PROCEDURE_STEP_CLASSES,
    ]
    assert [uid for table in tables for uid in table.values() if service_of(uid) is Service.STORAGE] == []


@pytest.mark.parametrize(
    ("uid", "service"),
    [
        (VERIFICATION, Service.VERIFICATION),
        ("1.2.840.10008.5.1.4.1.2.1.1", Service.QUERY),
        (STUDY_ROOT_FIND, Service.QUERY),
        ("1.2.840.10008.5.1.4.1.2.3.1", Service.QUERY),
        ("1.2.840.10008.5.1.4.1.1.9", Service.STORAGE),
        ("1.2.840.10008.5.1.1.29", Service.STORAGE),
        ("1.3.46.670589.2.5.1.1", Service.STORAGE),
        ("1.2.840.10008.5.1.4.1.1.9999", Service.STORAGE),
        ("1.2.840.10008.5.1.4.1.2.2.2", Service.MOVE),
        ("1.2.840.10008.5.1.4.1.2.2.3", Service.GET),
        ("1.2.840.10008.1.20.1", Service.COMMITMENT),
        ("1.2.840.10008.1.20.2", None),
        ("1.2.840.10008.5.1.4.1.2.4.2", None),
        ("1.2.840.10008.1.2", None),
        ("1.2.840.10008.3.1.1.1", None),
        ("../../etc/passwd", None),
        ("1.2..3", None),
        ("", None),
    ],
)
def test_the_service_of_an_abstract_syntax(uid, service):
    assert service_of(uid) is service


@pytest.mark.parametrize("syntax", sorted(TRANSFER_SYNTAXES))
def test_every_known_transfer_syntax_is_kept_as_sent(syntax):
    (result,) = negotiate([Proposed(1, CT, (syntax,))])
    assert (result.reason, result.transfer_syntax) == (ACCEPTED, syntax)


def test_the_first_known_syntax_of_the_sender_is_taken():
    (result,) = negotiate([Proposed(5, CT, ("1.2.3", JPEG, IMPLICIT_VR_LITTLE_ENDIAN, RLE_LOSSLESS))])
    assert result.context is not None
    assert result.context.transfer_syntax == JPEG
    assert result.context.context_id == 5


def test_unknown_syntaxes_are_refused():
    (result,) = negotiate([Proposed(1, CT, ("1.2.3", "../x"))])
    assert (result.reason, result.context) == (TRANSFER_SYNTAXES_NOT_SUPPORTED, None)


def test_queries_take_plain_syntaxes_only():
    results = negotiate(
        [Proposed(1, STUDY_ROOT_FIND, (JPEG,)), Proposed(3, STUDY_ROOT_FIND, (JPEG, EXPLICIT_VR_LITTLE_ENDIAN))]
    )
    assert [result.reason for result in results] == [TRANSFER_SYNTAXES_NOT_SUPPORTED, ACCEPTED]


def test_one_class_may_be_proposed_in_several_contexts():
    results = negotiate(
        [Proposed(1, CT, (JPEG,)), Proposed(3, CT, (RLE_LOSSLESS,)), Proposed(5, "1.2.840.10008.5.1.1.9", (JPEG,))]
    )
    assert [result.reason for result in results] == [ACCEPTED, ACCEPTED, ABSTRACT_SYNTAX_NOT_SUPPORTED]
