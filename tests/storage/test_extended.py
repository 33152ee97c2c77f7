"""An operator's texts become attributes, or are refused by name; private elements are those of their creator."""

from __future__ import annotations

import base64

import pytest

from storage.attributes import Attribute, KeyType, Returned, by_keyword, by_tag, extended_by, level_attributes
from storage.extended import read_extended
from storage.model import Level

OPTIONAL, REQUESTED = KeyType.OPTIONAL, Returned.ON_REQUEST


@pytest.mark.parametrize(
    ("text", "keyword", "tag", "vr", "level", "creator"),
    [
        ("KVP", "KVP", "00180060", "DS", Level.INSTANCE, ""),
        (" KVP@series ", "KVP", "00180060", "DS", Level.SERIES, ""),
        ("00180060:DS@STUDY", "KVP", "00180060", "DS", Level.STUDY, ""),
        ("00191008:LO", "00191008", "00191008", "LO", Level.INSTANCE, ""),
        ("0019100a:lo@series", "0019100A", "0019100A", "LO", Level.SERIES, ""),
        ("00191008/ACME MR:LO@series", "00191008", "00191008", "LO", Level.SERIES, "ACME MR"),
        ("00191008/1.2.840.113681:LO", "00191008", "00191008", "LO", Level.INSTANCE, "1.2.840.113681"),
        ("00191008/http://a.b/c:d@e:LO@study", "00191008", "00191008", "LO", Level.STUDY, "http://a.b/c:d@e"),
        ("SmallestImagePixelValue:SS", "SmallestImagePixelValue", "00280106", "SS", Level.INSTANCE, ""),
        ("SmallestImagePixelValue", "SmallestImagePixelValue", "00280106", "US", Level.INSTANCE, ""),
        ("00090010", "00090010", "00090010", "LO", Level.INSTANCE, ""),
        (
            "ProcedureCodeSequence.CodeValue",
            "ProcedureCodeSequence.CodeValue",
            "00081032.00080100",
            "SH",
            Level.STUDY,
            "",
        ),
        ("00091020.00091021/ACME:LO", "00091020.00091021", "00091020.00091021", "LO", Level.INSTANCE, "ACME"),
    ],
)
def test_a_text_names_an_attribute(text, keyword, tag, vr, level, creator):
    expected = Attribute(keyword, tag, vr, level, REQUESTED, OPTIONAL, is_extended=True, creator=creator)
    assert read_extended([text]) == (expected,)
    with extended_by([expected]):
        assert by_tag(tag) is by_keyword(keyword) is expected
    assert by_tag(tag) is None


def test_an_attribute_that_is_returned_becomes_a_key_and_is_returned_as_before():
    (rows,) = read_extended(["Rows"])
    assert rows.key_type is KeyType.OPTIONAL
    assert (rows.returned, rows.level, rows.is_extended) == (Returned.IF_PRESENT, Level.INSTANCE, True)


@pytest.mark.parametrize(
    ("texts", "named", "reason"),
    [
        ([""], "''", "it is not NAME"),
        (["Nonsense"], "'Nonsense'", "it is not NAME"),
        (["KVP@"], "'KVP@'", "it is not NAME"),
        (["KVP:"], "'KVP:'", "it is not NAME"),
        (["KVP", "00191008"], "'00191008'", "one has to be given"),
        (["00191008:UN"], "'00191008:UN'", "one has to be given"),
        (["00191008:XX"], "'00191008:XX'", "values of VR XX"),
        (["00191008:SQ"], "'00191008:SQ'", "values of VR SQ"),
        (["PixelData"], "'PixelData'", "values of VR O"),
        (["KVP:LO"], "'KVP:LO'", "its VR is DS"),
        (["KVP@image"], "'KVP@image'", "a level is one of patient, study, series, instance"),
        (["KVP/ACME"], "'KVP/ACME'", "a private creator"),
        (["00191008/" + "A" * 65 + ":LO"], "'00191008/A", "a private creator"),
        (["PatientID"], "'PatientID'", "searched already"),
        (["SOPInstanceUID"], "'SOPInstanceUID'", "searched already"),
        (["AvailableTransferSyntaxUID"], "'AvailableTransferSyntaxUID'", "made for each answer"),
        (["SpecificCharacterSet"], "'SpecificCharacterSet'", "made for each answer"),
        (["PatientComments@study"], "'PatientComments@study'", "its level is patient"),
        (["ProcedureCodeSequence.CodeValue@series"], "'ProcedureCode", "its level is study"),
        (["ProcedureCodeSequence"], "'ProcedureCodeSequence'", "values of VR SQ"),
        (["PatientName.CodeValue"], "'PatientName.CodeValue'", "no sequence"),
        (["00081032.00081032.00080100"], "'00081032.00081032.00080100'", "two parts"),
        (["52009230.00191008:LO"], "'52009230.00191008:LO'", "single frames"),
        (["00020010"], "'00020010'", "no attribute of a Data Set"),
        (["00190000:LO"], "'00190000:LO'", "no attribute of a Data Set"),
        (["00082112.00080090"], "'00082112.00080090'", "a name in the items"),
        (["KVP", "00180060"], "'00180060'", "named twice"),
        (["00091020.00091021:LO", "00091020.00091022:LO@study"], "'00091020.00091022:LO@study'", "another level"),
    ],
)
def test_a_text_that_cannot_be_used_is_refused_with_the_text_and_the_reason(texts, named, reason):
    with pytest.raises(ValueError, match=reason) as refused:
        read_extended(texts)
    assert named in str(refused.value)


def unknown(text):
    return {"vr": "UN", "InlineBinary": base64.b64encode(text).decode()}


def value(vr, *values):
    return {"vr": vr, "Value": list(values)}


def test_of_a_private_attribute_what_belongs_to_its_creator_is_kept_with_its_vr():
    json = {"00190010": value("LO", "ACME"), "00191008": unknown(b"1\\2 "), "00191009": unknown(b"x")}
    with extended_by(read_extended(["00191008/ACME:IS@series"])):
        assert level_attributes(json)[Level.SERIES] == {"00191008": value("IS", 1, 2)}
        json["00190010"] = value("LO", "OTHER")
        assert level_attributes(json)[Level.SERIES] == {}
        del json["00190010"]
        assert level_attributes(json)[Level.SERIES] == {}
    with extended_by(read_extended(["00191008:IS@series"])):
        assert level_attributes(json)[Level.SERIES] == {"00191008": value("IS", 1, 2)}


def test_text_of_unknown_vr_is_in_the_character_set_of_the_data_set():
    json = {"00080005": value("CS", "ISO_IR 192"), "00191008": unknown("Köln".encode())}
    with extended_by(read_extended(["00191008:LO"])):
        assert level_attributes(json)[Level.INSTANCE] == {"00191008": value("LO", "Köln")}


def test_of_a_sequence_beyond_the_table_only_the_keys_are_kept_and_a_standard_one_stays_whole():
    items = [{"00081150": value("UI", "1.2"), "00081155": value("UI", "1.3")}, {"00081150": value("UI", "1.2")}]
    code = value("SQ", {"00080100": value("SH", "C"), "00191008": unknown(b"x"), "00080104": value("LO", "meaning")})
    json = {"00081140": value("SQ", *items), "00081032": code}
    texts = ["ReferencedImageSequence.ReferencedSOPInstanceUID", "00081032.00191008/ACME:LO", "00081032.CodeValue"]
    with extended_by(read_extended(texts)):
        kept = level_attributes(json)
        assert kept[Level.INSTANCE]["00081140"] == value("SQ", {"00081155": value("UI", "1.3")}, {})
        without = {"00080100": value("SH", "C"), "00080104": value("LO", "meaning")}
        assert kept[Level.STUDY]["00081032"] == value("SQ", without)
        code["Value"][0]["00190010"] = value("LO", "ACME")
        assert level_attributes(json)[Level.STUDY]["00081032"]["Value"][0]["00191008"] == value("LO", "x")
        assert code["Value"][0]["00191008"] == unknown(b"x"), "what is shared is not changed"
