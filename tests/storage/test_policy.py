"""Rules as operators write them: who they are for, what they want, and what is refused before anything starts."""

from __future__ import annotations

import pytest

from storage.errors import UnsupportedSOPClass, UnsupportedTransferSyntax
from storage.model import Conflict, Quota, Source
from storage.policy import DEFAULT, Action, Coercion, coercion, read_policies
from tests.synthetic import CT, EXPLICIT, IMPLICIT, SECONDARY_CAPTURE

CT1 = Source("dimse", "CT1", "10.0.0.7")
WEB = Source("dicomweb", address="10.0.0.7")


def test_without_a_rule_everything_is_taken_and_the_first_stays():
    policy = read_policies([]).of(CT1)
    assert policy is DEFAULT
    assert (policy.terms.conflict, policy.terms.quota, policy.coercions) == (Conflict.KEEP_FIRST, None, ())
    policy.check_class(CT)
    policy.check_syntax(IMPLICIT)


@pytest.mark.parametrize(
    ("who", "fits", "others"),
    [
        ("*", [CT1, WEB, Source("import")], []),
        ("ae=CT1", [CT1], [WEB, Source("dimse", "CT11"), Source("dimse", "ct1")]),
        ("ae=CT*", [CT1, Source("dimse", "CT")], [WEB, Source("dimse", "ACT1")]),
        ("ae=C?1", [CT1], [Source("dimse", "C1")]),
        ("'ae=CT ROOM 1'", [Source("dimse", "CT ROOM 1")], [CT1]),
        ("door=dicomweb", [WEB], [CT1, Source("import")]),
        (
            "address=10.0.0.0/8",
            [CT1, WEB],
            [Source("dimse", "CT1", "11.0.0.1"), Source("import"), Source("dimse", "X", "x")],
        ),
        ("address=::1", [Source("dimse", "X", "::1")], [CT1]),
        ("ae=CT1 address=10.0.0.7", [CT1], [Source("dimse", "CT1", "10.0.0.8"), WEB]),
    ],
)
def test_a_rule_is_for_sources_that_each_condition_fits(who, fits, others):
    policies = read_policies([f"{who} conflict=replace"])
    assert [policies.of(one).terms.conflict for one in fits] == [Conflict.REPLACE] * len(fits)
    assert [policies.of(one) for one in others] == [DEFAULT] * len(others)


def test_the_first_rule_that_fits_holds_whole_and_nothing_is_inherited():
    policies = read_policies(["ae=CT1 remove=PatientComments", "door=dimse conflict=reject", "* conflict=replace"])
    assert policies.of(CT1).terms.conflict is Conflict.KEEP_FIRST
    assert policies.of(Source("dimse", "CT2")).terms.conflict is Conflict.REJECT
    assert policies.of(WEB).terms.conflict is Conflict.REPLACE


def test_classes_and_transfer_syntaxes_are_named_by_keyword_or_uid():
    rule = f"* sop-class=CTImageStorage,1.2.3 sop-class={SECONDARY_CAPTURE} transfer-syntax=ExplicitVRLittleEndian"
    policy = read_policies([rule]).of(CT1)
    for uid in (CT, "1.2.3", SECONDARY_CAPTURE):
        policy.check_class(uid)
    policy.check_syntax(EXPLICIT)
    with pytest.raises(UnsupportedSOPClass):
        policy.check_class("1.2.4")
    with pytest.raises(UnsupportedTransferSyntax):
        policy.check_syntax(IMPLICIT)


def test_coercions_and_quotas_are_read():
    words = (
        "door=dimse ae=CT1 fill=IssuerOfPatientID:HOSP1 prefix=AccessionNumber:A-",
        "'set=InstitutionName:St. Mary: East' remove=00191008",
        "set=ImageType:ORIGINAL\\PRIMARY instances-per-day=10 bytes-per-day=5000",
    )
    (rule,) = read_policies([" ".join(words)]).rules
    assert set(rule.policy.coercions) == {
        Coercion(Action.FILL, "00100021", "HOSP1"),
        Coercion(Action.PREFIX, "00080050", "A-"),
        Coercion(Action.SET, "00080080", "St. Mary: East"),
        Coercion(Action.SET, "00080008", "ORIGINAL\\PRIMARY"),
        Coercion(Action.REMOVE, "00191008"),
    }
    assert rule.policy.terms.quota == Quota("ae=CT1 door=dimse", 10, 5000)


@pytest.mark.parametrize(
    "rule",
    [
        "",
        "*",
        "conflict=replace",
        "* ae=CT1 conflict=replace",
        "ae=CT1 ae=CT2 conflict=replace",
        "* conflict=overwrite",
        "* conflict=replace conflict=reject",
        "* nonsense=1",
        "* replace",
        "door=hl7 conflict=replace",
        "address=10.0.0.0/99 conflict=replace",
        f"ae={'A' * 17} conflict=replace",
        "* sop-class=NoSuchStorage",
        "* transfer-syntax=",
        "* instances-per-day=many",
        "* bytes-per-day=-1",
        "* set=NoSuchKeyword:1",
        "* set=AccessionNumber",
        "* set=AccessionNumber:12345678901234567",
        "* set=StudyDate:2026-01-01",
        "* set=Rows:512",
        "* remove=PixelData",
        "* remove=Rows",
        "* set=SOPInstanceUID:1.2.3",
        "* set=StudyInstanceUID:1.2.3",
        "* set=SpecificCharacterSet:ISO_IR 192",
        "* remove=OriginalAttributesSequence",
        "* remove=TransferSyntaxUID",
        "* remove=00080000",
        "* remove=PatientComments:all",
        "* remove=PatientComments remove=PatientComments",
        "* prefix=StudyDate:1",
        "* set=FrameOfReferenceUID:1.02",
        "* set=RequestAttributesSequence.ScheduledProcedureStepID:1",
        "* 'set=PatientName:Doe",
    ],
)
def test_a_rule_that_cannot_be_understood_is_refused(rule):
    with pytest.raises(ValueError):
        read_policies([rule])


def test_two_rules_for_the_same_peers_are_refused():
    with pytest.raises(ValueError, match="rule before it"):
        read_policies(["ae=CT1 door=dimse conflict=replace", "door=dimse ae=CT1 conflict=reject"])


def test_a_value_is_not_shown_where_a_coercion_is():
    assert "Doe" not in repr(coercion(Action.SET, "PatientName", "Doe"))
