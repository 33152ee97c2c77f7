"""A-ASSOCIATE, held against pynetdicom's PDU classes."""

import contextlib
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pynetdicom import build_context
from pynetdicom.pdu import A_ABORT_RQ, A_ASSOCIATE_AC, A_ASSOCIATE_RJ, A_ASSOCIATE_RQ, A_RELEASE_RP
from pynetdicom.pdu_primitives import (
    A_ASSOCIATE,
    ImplementationClassUIDNotification,
    MaximumLengthNotification,
    SCP_SCU_RoleSelectionNegotiation,
    SOPClassExtendedNegotiation,
    UserIdentityNegotiation,
)

from gateway.dimse import associate
from gateway.dimse.associate import MalformedAssociateError, decode_request, encode_acceptance
from gateway.dimse.contexts import STUDY_ROOT_FIND, Proposed, Result, negotiate
from storage.filemeta import IMPLEMENTATION_CLASS_UID, IMPLEMENTATION_VERSION_NAME
from storage.uids import EXPLICIT_VR_LITTLE_ENDIAN, IMPLICIT_VR_LITTLE_ENDIAN, TRANSFER_SYNTAXES

CT = "1.2.840.10008.5.1.4.1.1.2"


def request_of_pynetdicom(contexts, *more, maximum_length=16382, calling="STORESCU", called="GATEWAY"):
    primitive = A_ASSOCIATE()
    primitive.application_context_name = "1.2.840.10008.3.1.1.1"
    primitive.calling_ae_title, primitive.called_ae_title = calling, called
    length, implementation = MaximumLengthNotification(), ImplementationClassUIDNotification()
    length.maximum_length_received = maximum_length
    implementation.implementation_class_uid = "1.2.3.4"
    primitive.user_information = [length, implementation, *more]
    proposed = []
    for number, (abstract_syntax, transfer_syntaxes) in enumerate(contexts):
        context = build_context(abstract_syntax, list(transfer_syntaxes))
        context.context_id = 2 * number + 1
        proposed.append(context)
    primitive.presentation_context_definition_list = proposed
    return A_ASSOCIATE_RQ(primitive).encode()


def extended(uid, information):
    item = SOPClassExtendedNegotiation()
    item.sop_class_uid, item.service_class_application_information = uid, information
    return item


def role(uid):
    item = SCP_SCU_RoleSelectionNegotiation()
    item.sop_class_uid, item.scu_role, item.scp_role = uid, True, True
    return item


def identity():
    item = UserIdentityNegotiation()
    item.user_identity_type, item.primary_field, item.secondary_field = 2, b"user", b"secret"
    return item


def test_a_request_of_another_library_is_read():
    pdu = request_of_pynetdicom(
        [
            (CT, [EXPLICIT_VR_LITTLE_ENDIAN, IMPLICIT_VR_LITTLE_ENDIAN]),
            ("1.2.840.10008.1.1", [IMPLICIT_VR_LITTLE_ENDIAN]),
        ],
        role(CT),
        extended(STUDY_ROOT_FIND, b"\1\0\1"),
        identity(),
    )
    proposal = decode_request(pdu)
    assert proposal.calling_ae == "STORESCU"
    assert proposal.called_ae == "GATEWAY"
    assert proposal.protocol_version == 1
    assert proposal.application_context == associate.APPLICATION_CONTEXT_NAME
    assert proposal.maximum_length == 16382
    assert proposal.extended == {STUDY_ROOT_FIND: b"\1\0\1"}
    assert proposal.contexts == (
        Proposed(1, CT, (EXPLICIT_VR_LITTLE_ENDIAN, IMPLICIT_VR_LITTLE_ENDIAN)),
        Proposed(3, "1.2.840.10008.1.1", (IMPLICIT_VR_LITTLE_ENDIAN,)),
    )


def test_an_acceptance_is_read_by_another_library():
    pdu = request_of_pynetdicom(
        [(CT, [EXPLICIT_VR_LITTLE_ENDIAN]), ("1.2.840.10008.5.1.1.1", [IMPLICIT_VR_LITTLE_ENDIAN])]
    )
    results = negotiate(decode_request(pdu).contexts)
    acceptance = A_ASSOCIATE_AC()
    acceptance.decode(encode_acceptance(pdu, results, 131072, {STUDY_ROOT_FIND: b"\1\0\0"}))
    assert [(item.context_id, item.result) for item in acceptance.presentation_context] == [(1, 0), (3, 3)]
    assert acceptance.presentation_context[0].transfer_syntax == EXPLICIT_VR_LITTLE_ENDIAN
    assert acceptance.encode()[10:42] == pdu[10:42]
    primitive = acceptance.to_primitive()
    assert primitive.maximum_length_received == 131072
    assert primitive.implementation_class_uid == IMPLEMENTATION_CLASS_UID
    versions = [getattr(item, "implementation_version_name", None) for item in primitive.user_information]
    assert IMPLEMENTATION_VERSION_NAME in versions
    replies = [getattr(item, "service_class_application_information", None) for item in primitive.user_information]
    assert b"\1\0\0" in replies


def test_rejection_abort_and_release_are_read_by_another_library():
    rejection, abort, release = A_ASSOCIATE_RJ(), A_ABORT_RQ(), A_RELEASE_RP()
    rejection.decode(associate.encode_rejection(2, 3, 2))
    abort.decode(associate.encode_abort(2, 6))
    release.decode(associate.RELEASE_RESPONSE)
    assert (rejection.result, rejection.source, rejection.reason_diagnostic) == (2, 3, 2)
    assert (abort.source, abort.reason_diagnostic) == (2, 6)
    assert release.encode() == associate.RELEASE_RESPONSE


def test_titles_lose_spaces_and_nul_padding():
    pdu = bytearray(request_of_pynetdicom([(CT, [IMPLICIT_VR_LITTLE_ENDIAN])]))
    pdu[26:42] = b" OLD CT\0\0\0\0\0\0\0\0\0"
    assert decode_request(bytes(pdu)).calling_ae == "OLD CT"


def test_the_longest_usual_request_is_read_fast():
    syntaxes = list(TRANSFER_SYNTAXES)[:20]
    pdu = request_of_pynetdicom([(f"1.2.840.10008.5.1.4.1.1.{number}", syntaxes) for number in range(128)])
    started = time.process_time()
    results = negotiate(decode_request(pdu).contexts)
    assert time.process_time() - started < 0.1
    assert len(results) == 128


def ids_of_contexts(pdu):
    """Where the ids of the proposed contexts stand, which follow the application context."""
    at = 74 + 4 + int.from_bytes(pdu[76:78], "big")
    while pdu[at] == 0x20:
        yield at + 4
        at += 4 + int.from_bytes(pdu[at + 2 : at + 4], "big")


def test_two_contexts_with_one_id_are_malformed():
    pdu = bytearray(request_of_pynetdicom([(CT, [IMPLICIT_VR_LITTLE_ENDIAN])] * 2))
    first, second = ids_of_contexts(pdu)
    pdu[second] = pdu[first]
    with pytest.raises(MalformedAssociateError):
        decode_request(bytes(pdu))


@pytest.mark.parametrize("context_id", [0, 2, 254])
def test_an_even_context_id_is_malformed(context_id):
    pdu = bytearray(request_of_pynetdicom([(CT, [IMPLICIT_VR_LITTLE_ENDIAN])]))
    (at,) = ids_of_contexts(pdu)
    pdu[at] = context_id
    with pytest.raises(MalformedAssociateError):
        decode_request(bytes(pdu))


def test_every_cut_request_is_malformed_or_lacks_what_was_cut():
    whole = request_of_pynetdicom([(CT, [IMPLICIT_VR_LITTLE_ENDIAN])])
    for length in range(len(whole)):
        try:
            proposal = decode_request(whole[:length])
        except MalformedAssociateError:
            continue
        assert not (proposal.contexts and proposal.maximum_length)


@given(st.binary(max_size=300))
def test_any_items_are_read_or_are_malformed(items):
    head = request_of_pynetdicom([(CT, [IMPLICIT_VR_LITTLE_ENDIAN])])[:74]
    with contextlib.suppress(MalformedAssociateError):
        assert decode_request(head + items).calling_ae == "STORESCU"


def test_a_result_without_context_is_a_refusal():
    assert Result(1, 3, IMPLICIT_VR_LITTLE_ENDIAN).context is None


def proposal(**more):
    contexts = (Proposed(1, STUDY_ROOT_FIND, (EXPLICIT_VR_LITTLE_ENDIAN, IMPLICIT_VR_LITTLE_ENDIAN)),)
    name = associate.APPLICATION_CONTEXT_NAME
    return associate.Proposal("PACS", "QUERY", 1, name, contexts, 16384, {STUDY_ROOT_FIND: b"\1\0\1"}, **more)


def test_roles_are_read_and_accepted_as_pynetdicom_means_them():
    role = SCP_SCU_RoleSelectionNegotiation()
    role.sop_class_uid, role.scu_role, role.scp_role = CT, False, True
    other = SCP_SCU_RoleSelectionNegotiation()
    other.sop_class_uid, other.scu_role, other.scp_role = STUDY_ROOT_FIND, True, False
    encoded = request_of_pynetdicom([(CT, [EXPLICIT_VR_LITTLE_ENDIAN])], role, other)
    proposal = decode_request(encoded)
    assert proposal.scp_roles == {CT}
    pdu = A_ASSOCIATE_AC()
    pdu.decode(encode_acceptance(encoded, negotiate(proposal.contexts), 1 << 17, {}, [CT]))
    roles = [item for item in pdu.to_primitive().user_information if isinstance(item, type(role))]
    assert [(one.sop_class_uid, one.scu_role, one.scp_role) for one in roles] == [(CT, False, True)]


def test_our_request_is_read_as_it_was_meant_by_us_and_by_pynetdicom():
    pdu = associate.encode_request(proposal())
    assert decode_request(pdu) == proposal()
    theirs = A_ASSOCIATE_RQ()
    theirs.decode(pdu)
    primitive = theirs.to_primitive()
    assert (primitive.called_ae_title.strip(), primitive.calling_ae_title.strip()) == ("PACS", "QUERY")
    (context,) = primitive.presentation_context_definition_list
    assert context.abstract_syntax == STUDY_ROOT_FIND
    assert context.transfer_syntax == [EXPLICIT_VR_LITTLE_ENDIAN, IMPLICIT_VR_LITTLE_ENDIAN]
    assert theirs.encode() == pdu


def acceptance():
    results = (Result(1, 0, EXPLICIT_VR_LITTLE_ENDIAN), Result(3, 4, IMPLICIT_VR_LITTLE_ENDIAN))
    pdu = encode_acceptance(associate.encode_request(proposal()), results, 32768, {STUDY_ROOT_FIND: b"\1\0\0"})
    return results, pdu


def test_an_acceptance_is_read_as_it_was_written_by_us_and_by_pynetdicom():
    results, pdu = acceptance()
    theirs = A_ASSOCIATE_AC()
    theirs.decode(pdu)
    for written in (pdu, theirs.encode()):
        read = associate.decode_acceptance(written)
        assert [(one.context_id, one.reason) for one in read.results] == [(1, 0), (3, 4)]
        assert read.results[0].transfer_syntax == results[0].transfer_syntax
        assert read.maximum_length == 32768
        assert read.extended == {STUDY_ROOT_FIND: b"\1\0\0"}


def test_an_acceptance_cut_anywhere_is_malformed_or_shorter():
    _, pdu = acceptance()
    whole = associate.decode_acceptance(pdu)
    for end in range(len(pdu)):
        with contextlib.suppress(MalformedAssociateError):
            assert associate.decode_acceptance(pdu[:end]) != whole


@given(st.binary(max_size=200))
def test_no_bytes_break_the_reader_of_acceptances(rest):
    with contextlib.suppress(MalformedAssociateError):
        associate.decode_acceptance(bytes(74) + rest)
