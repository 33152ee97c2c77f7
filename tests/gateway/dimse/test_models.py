"""The information models and what is negotiated for them, without a socket."""

import pytest

from gateway.dimse.contexts import SERVICES, Service
from gateway.dimse.models import LEVEL_NAMES, MODELS, UNIQUE_KEYS, Extended, negotiate_extended
from storage.attributes import KeyType, by_tag

PATIENT_ROOT, STUDY_ROOT, PATIENT_STUDY_ONLY = (f"1.2.840.10008.5.1.4.1.2.{number}.1" for number in (1, 2, 3))


@pytest.mark.parametrize(
    ("sop_class", "levels"),
    [
        (PATIENT_ROOT, ["PATIENT", "STUDY", "SERIES", "IMAGE"]),
        (STUDY_ROOT, ["STUDY", "SERIES", "IMAGE"]),
        (PATIENT_STUDY_ONLY, ["PATIENT", "STUDY"]),
    ],
)
def test_each_model_has_exactly_its_levels(sop_class, levels):
    for service in (1, 2, 3):  # FIND, MOVE, GET
        model = MODELS[f"{sop_class[:-1]}{service}"]
        assert [name for name, level in LEVEL_NAMES.items() if level in model.levels] == levels


def test_every_sop_class_of_query_and_retrieve_has_a_model():
    others = (Service.VERIFICATION, Service.COMMITMENT)
    assert {uid for uid, service in SERVICES.items() if service not in others} == set(MODELS)


def test_the_unique_keys_are_those_of_the_attribute_table():
    for level, tag in UNIQUE_KEYS.items():
        attribute = by_tag(tag)
        assert (attribute.level, attribute.key_type) == (level, KeyType.UNIQUE)


@pytest.mark.parametrize(
    ("information", "extended", "answered"),
    [
        (b"\0", Extended(), b"\0"),
        (b"\1", Extended(is_relational=True), b"\1"),
        (b"\2", Extended(), b"\0"),
        (b"\1\1\1", Extended(is_relational=True, is_fuzzy=True), b"\1\0\1"),
        (b"\0\1\1\1\1", Extended(is_fuzzy=True), b"\0\0\1\0\0"),
        (b"\0\0\0\0\0\1", Extended(has_empty_values=True), b"\0\0\0\0\0\1"),
        (b"\0\0\0\0\0\0\1", Extended(has_multiple_values=True), b"\0\0\0\0\0\0\1"),
        (b"\1" * 40, Extended(True, True, True, True), b"\1\0\1\0\0\1\1"),
    ],
)
@pytest.mark.parametrize("sop_class", [PATIENT_ROOT, STUDY_ROOT, PATIENT_STUDY_ONLY])
def test_what_can_be_done_is_agreed_for_each_model_and_the_rest_is_not(sop_class, information, extended, answered):
    assert negotiate_extended({sop_class: information}) == ({sop_class: extended}, {sop_class: answered})


@pytest.mark.parametrize(("information", "answered"), [(b"\1", b"\1"), (b"\0", b"\0"), (b"\1" * 7, b"\1\0\0\0\0\0\0")])
@pytest.mark.parametrize("sop_class", [uid for uid, one in SERVICES.items() if one in (Service.MOVE, Service.GET)])
def test_a_retrieval_may_be_relational_and_nothing_else(sop_class, information, answered):
    extended = Extended(is_relational=answered[:1] == b"\1")
    assert negotiate_extended({sop_class: information}) == ({sop_class: extended}, {sop_class: answered})


@pytest.mark.parametrize("proposed", [{}, {STUDY_ROOT: b""}, {"1.2.840.10008.5.1.4.1.1.2": b"\1"}])
def test_nothing_is_answered_where_nothing_is_asked(proposed):
    assert negotiate_extended(proposed) == ({}, {})


def test_models_are_negotiated_apart():
    agreed, answered = negotiate_extended({PATIENT_ROOT: b"\1", STUDY_ROOT: b"\0\0\1"})
    assert agreed == {PATIENT_ROOT: Extended(is_relational=True), STUDY_ROOT: Extended(is_fuzzy=True)}
    assert answered == {PATIENT_ROOT: b"\1", STUDY_ROOT: b"\0\0\1"}
