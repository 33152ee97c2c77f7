"""The Native DICOM Model: held against what DCMTK writes of the same files, and read by expat whatever the text."""

from __future__ import annotations

import io
import json
import re
import subprocess
import warnings
from xml.etree import ElementTree as ET

import pydicom
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydicom.dataset import Dataset, FileMetaDataset

from storage.dataset import MAXIMUM_DEPTH, MAXIMUM_ELEMENTS
from storage.dicomxml import NAMESPACE, native_model, read_native_model
from storage.errors import NotDicom, TooComplex
from tests.fix_samples import MANIFEST, SAMPLES

NUMBERS = {"DS", "FD", "FL", "IS", "SL", "SS", "SV", "UL", "US", "UV"}
WORDS = {"OD", "OF", "OL", "OV", "OW"}  # DCMTK turns their bytes round before it encodes them
NOT_XML = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def read(document):
    root = ET.fromstring(document)
    assert root.attrib == {"{http://www.w3.org/XML/1998/namespace}space": "preserve"}
    return root


def plain(node):
    return node.tag.rpartition("}")[2]


def facts(node):
    """What an element says, in a form in which two writers can be compared: no names of namespaces, no white space
    between elements, numbers as numbers.
    """
    attributes = dict(node.attrib)
    if plain(node) == "DicomAttribute" and attributes["vr"] in WORDS:
        return attributes, ()
    children = tuple(facts(child) for child in node)
    if plain(node) == "DicomAttribute":
        is_number = attributes["vr"] in NUMBERS
        return attributes, tuple(number(child) if is_number else child for child in children)
    return plain(node), attributes, children or (node.text or "").strip()


def number(child):
    name, attributes, text = child
    return name, attributes, text and pytest.approx(float(text), rel=1e-5)


def attributes_of(document):
    return {child.attrib["tag"]: facts(child) for child in read(document)}


def by_dcmtk(path):
    run = subprocess.run(["dcm2xml", "-nat", "+Xn", "+Eb", path], capture_output=True, check=True)
    return attributes_of(run.stdout)


def by_us(path):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = pydicom.dcmread(path).to_json_dict(bulk_data_threshold=1 << 30)
    return attributes_of(native_model({tag: model[tag] for tag in sorted(model)}))


@pytest.mark.needs("dcm2xml")
@pytest.mark.parametrize("name", sorted(MANIFEST))
def test_a_sample_reads_as_dcmtk_writes_it(tmp_path, name):
    path = in_utf_8(SAMPLES / name, tmp_path / "one.dcm")
    ours, theirs = by_us(path), by_dcmtk(path)
    assert ours.keys() == theirs.keys()
    assert len(ours) > 20
    assert {tag for tag in ours if ours[tag] != theirs[tag]} <= {"7FE00010"}, "fragments of pixels are theirs alone"


def in_utf_8(source, target):
    """The same in a character set that DCMTK has not to convert, which it cannot for ISO 2022; its path."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        data_set = pydicom.dcmread(source)
        data_set.decode()
        data_set.SpecificCharacterSet = "ISO_IR 192"
        data_set.save_as(target)
    return target


def crafted(tmp_path):
    """A file with what the samples have too little of; its path."""
    item = Dataset()
    item.CodeValue = "1"
    data_set = Dataset()
    data_set.SpecificCharacterSet = "ISO_IR 192"
    data_set.SOPClassUID, data_set.SOPInstanceUID = "1.2.840.10008.5.1.4.1.1.7", "1.2.3"
    data_set.PatientName = "Yamada^Tarou^^Dr=山田^太郎=やまだ^たろう"
    data_set.OtherPatientNames = ["A^B", "C^D^E^F^G"]
    data_set.ImageType = ["ORIGINAL", "", "AXIAL"]
    data_set.AccessionNumber = ""
    data_set.PatientComments = 'a < b & "c" > d\r\nnext\tone'
    data_set.PixelSpacing = [0.5, 1.25]
    data_set.FrameIncrementPointer = 0x00181063
    data_set.ProcedureCodeSequence = [item, Dataset()]
    data_set.ConceptNameCodeSequence = []
    data_set.add_new(0x00090010, "LO", "ACME")
    data_set.add_new(0x00091001, "LO", "private")
    data_set.add_new(0x00091002, "UN", b"ab")
    data_set.add_new(0x60000010, "US", 4)
    data_set.file_meta = FileMetaDataset()
    data_set.file_meta.TransferSyntaxUID = "1.2.840.10008.1.2.1"
    path = tmp_path / "crafted.dcm"
    data_set.save_as(path, enforce_file_format=True)
    return path


@pytest.mark.needs("dcm2xml")
def test_a_crafted_data_set_reads_as_dcmtk_writes_it(tmp_path):
    theirs, ours = by_dcmtk(crafted(tmp_path)), by_us(crafted(tmp_path))
    assert ours == theirs
    assert ours["00090001"][0] == {"tag": "00090001", "vr": "LO", "privateCreator": "ACME"}
    assert ours["60000010"][0]["keyword"] == "OverlayRows"


def test_the_root_is_that_of_the_schema():
    assert read(native_model({})).tag == f"{{{NAMESPACE}}}NativeDicomModel"


def test_bulk_data_is_referred_to():
    uri = "http://127.0.0.1/a?b=1&c=2"
    (attribute,) = read(native_model({"7FE00010": {"vr": "OW", "BulkDataURI": uri}}))
    assert attribute.attrib == {"tag": "7FE00010", "keyword": "PixelData", "vr": "OW"}
    assert [(plain(child), child.attrib) for child in attribute] == [("BulkData", {"uri": uri})]


def test_a_private_attribute_without_a_creator_keeps_its_tag():
    (attribute,) = read(native_model({"00091001": {"vr": "LO", "Value": ["x"]}}))
    assert attribute.attrib == {"tag": "00091001", "vr": "LO"}


def test_an_empty_value_among_several_keeps_its_place():
    model = {
        "00101001": {"vr": "PN", "Value": [None, {"Alphabetic": "A^^^^B^C"}]},
        "00280030": {"vr": "DS", "Value": [1, None]},
    }
    names, spacing = read(native_model(model))
    assert [(child.attrib["number"], len(child)) for child in names] == [("1", 0), ("2", 1)]
    assert [child.text for child in names[1][0]] == ["A", "B^C"]
    assert [(child.attrib["number"], child.text) for child in spacing] == [("1", "1"), ("2", None)]


@settings(max_examples=300, deadline=None)
@given(st.text(st.characters(), max_size=20), st.text(st.characters(), min_size=1, max_size=8))
def test_every_text_is_read_back_but_for_what_xml_cannot_hold(text, creator):
    model = {"00090010": {"vr": "LO", "Value": [creator]}, "00091001": {"vr": "LT", "Value": [text]}}
    _, attribute = read(native_model(model))
    assert (attribute[0].text or "") == NOT_XML.sub("\ufffd", text)
    assert attribute.attrib["privateCreator"] == NOT_XML.sub("\ufffd", creator)


def test_what_comes_from_json_text_can_be_written():
    model = json.load(io.StringIO('{"00104000": {"vr": "LT", "Value": ["\\u0000\\u001b\\ufffe\\u0085 ok"]}}'))
    (comments,) = read(native_model(model))
    assert comments[0].text == "\ufffd\ufffd\ufffd\u0085 ok"


# ------------------------------------------------------------------------------------------------------------- reading


def as_text(model):
    """The same model with all single values as text, as XML has them."""
    text = {}
    for tag, element in model.items():
        values = element.get("Value")
        if element["vr"] == "SQ":
            values = values and [as_text(item) for item in values]
        elif values and element["vr"] != "PN":
            values = [None if value in (None, "") else str(value) for value in values]
        text[tag] = {**element, "Value": values} if values else {key: element[key] for key in element if key != "Value"}
    return text


@pytest.mark.parametrize("name", sorted(MANIFEST))
def test_what_is_written_is_read_again(name):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = pydicom.dcmread(SAMPLES / name).to_json_dict(bulk_data_threshold=1 << 30)
    model = {tag: model[tag] for tag in sorted(model)}
    assert read_native_model(native_model(model)) == as_text(model)


@pytest.mark.needs("dcm2xml")
@pytest.mark.parametrize("name", sorted(MANIFEST))
@pytest.mark.parametrize("flags", [["-nat", "+Xn"], ["-nat"]])
def test_what_dcmtk_writes_is_read(tmp_path, name, flags):
    path = in_utf_8(SAMPLES / name, tmp_path / "one.dcm")
    run = subprocess.run(["dcm2xml", *flags, "+Eb", path], capture_output=True, check=True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        data_set = pydicom.dcmread(path)
    found = read_native_model(run.stdout)
    assert found.keys() >= {f"{element.tag:08X}" for element in data_set if element.tag != 0x7FE00010}
    assert found["00080018"] == {"vr": "UI", "Value": [data_set.SOPInstanceUID]}
    names = found["00100010"]["Value"][0].values()
    assert "=".join(names) == str(data_set.PatientName)


def document(content, root="NativeDicomModel"):
    return f'<?xml version="1.0"?><{root}>{content}</{root}>'.encode()


def attribute(content="", **attributes):
    named = " ".join(f"{name}='{value}'" for name, value in {"tag": "00100020", "vr": "LO", **attributes}.items())
    return f"<DicomAttribute {named}>{content}</DicomAttribute>"


def test_values_stand_where_their_numbers_say():
    values = '<Value number="1">a</Value><Value number="4"> b&amp;\n</Value><Value number="5"/>'
    assert read_native_model(document(attribute(values))) == {
        "00100020": {"vr": "LO", "Value": ["a", None, None, " b&\n", None]}
    }


def test_names_references_and_binary_values_are_read():
    group = "<Ideographic><FamilyName>A</FamilyName><NameSuffix>E</NameSuffix></Ideographic>"
    content = attribute(f"<PersonName number='1'>{group}</PersonName>", tag="00100010", vr="PN")
    content += attribute("<BulkData uri='a/b'/>", tag="7FE00010", vr="OW")
    content += attribute("<BulkData uuid='1.2'/>", tag="7FE00009", vr="OD")
    content += attribute("<InlineBinary>AA\nAA</InlineBinary>", tag="00420011", vr="OB")
    content += attribute("", tag="0040a730", vr="SQ")
    assert read_native_model(document(content)) == {
        "00100010": {"vr": "PN", "Value": [{"Ideographic": "A^^^^E"}]},
        "7FE00010": {"vr": "OW", "BulkDataURI": "a/b"},
        "7FE00009": {"vr": "OD", "BulkDataURI": "1.2"},
        "00420011": {"vr": "OB", "InlineBinary": "AA\nAA"},
        "0040A730": {"vr": "SQ"},
    }


def test_private_attributes_get_the_block_of_their_creator():
    value = "<Value number='1'>x</Value>"
    known = attribute("<Value number='1'>OURS</Value>", tag="00090020")
    ours = attribute(value, tag="00090001", privateCreator="OURS")
    theirs = attribute(value, tag="00090002", privateCreator="THEIRS")
    whole = attribute(value, tag="00092003", privateCreator="OURS")
    lonely = attribute(value, tag="00110001")
    found = read_native_model(document(theirs + ours + whole + lonely + known))
    assert {tag: element["Value"] for tag, element in found.items()} == {
        "00090020": ["OURS"],
        "00092001": ["x"],
        "00092003": ["x"],
        "00090010": ["THEIRS"],
        "00091002": ["x"],
        "00110001": ["x"],
    }


def test_a_missing_vr_is_that_of_the_dictionary():
    assert read_native_model(document("<DicomAttribute tag='00100020'/>")) == {"00100020": {"vr": "LO"}}


def nested(depth):
    content = ""
    for _ in range(depth):
        content = attribute(f"<Item number='1'>{content}</Item>", tag="0040A730", vr="SQ")
    return document(content)


LAUGHS = b"".join(b'<!ENTITY l%d "%s">' % (number, b"&l%d;" % (number - 1) * 10) for number in range(1, 10))
HOSTILE = [
    ("nothing", b"", NotDicom),
    ("no XML", b"[{}]", NotDicom),
    ("cut", native_model({})[:-3], NotDicom),
    ("another root", document("", "svg"), NotDicom),
    ("an unknown element", document("<script/>"), NotDicom),
    ("a value outside of an attribute", document("<Value number='1'/>"), NotDicom),
    ("no tag", document("<DicomAttribute vr='LO'/>"), NotDicom),
    ("a bad tag", document(attribute(tag="0010002G")), NotDicom),
    ("an attribute twice", document(attribute() * 2), NotDicom),
    ("a private attribute twice", document(attribute(tag="00090001", privateCreator="A") * 2), NotDicom),
    ("a value twice", document(attribute("<Value number='1'>a</Value>" * 2)), NotDicom),
    ("the value number 0", document(attribute("<Value number='0'/>")), NotDicom),
    ("a document type", b"<!DOCTYPE NativeDicomModel><NativeDicomModel/>", NotDicom),
    ("an outside entity", b"<!DOCTYPE x SYSTEM 'file:///etc/passwd'><NativeDicomModel/>", NotDicom),
    ("a parameter entity", b"<!DOCTYPE x [<!ENTITY % a SYSTEM 'http://127.0.0.1/'> %a;]><NativeDicomModel/>", NotDicom),
    ("an entity", b"<!DOCTYPE x [<!ENTITY a SYSTEM 'file:///etc/passwd'>]>" + document(attribute("&a;")), NotDicom),
    ("an unknown entity", document(attribute("<Value number='1'>&a;</Value>")), NotDicom),
    (
        "a billion laughs",
        b"<!DOCTYPE x [<!ENTITY l0 'ha'>" + LAUGHS + b"]><NativeDicomModel>&l9;</NativeDicomModel>",
        NotDicom,
    ),
    ("quadratic", b"<!DOCTYPE x [<!ENTITY a '" + b"a" * 100_000 + b"'>]><x>" + b"&a;" * 1000 + b"</x>", NotDicom),
    ("an encoding that nobody knows", b"<?xml version='1.0' encoding='x-none'?><NativeDicomModel/>", NotDicom),
    ("depth", nested(MAXIMUM_DEPTH + 1), TooComplex),
    ("very deep", nested(5000), TooComplex),
    (
        "too many attributes",
        document("".join(attribute(tag=f"{n:08X}") for n in range(MAXIMUM_ELEMENTS + 2))),
        TooComplex,
    ),
    ("a far value", document(attribute("<Value number='1000001'>a</Value>")), TooComplex),
]


@pytest.mark.parametrize(("name", "raw", "error"), HOSTILE, ids=[row[0] for row in HOSTILE])
def test_h13_a_hostile_document_is_refused(name, raw, error):
    with pytest.raises(error):
        read_native_model(raw)


def test_sequences_are_read_as_deep_as_they_may_be():
    assert "0040A730" in read_native_model(nested(MAXIMUM_DEPTH))


@given(st.binary(max_size=200) | st.text(max_size=200).map(document))
def test_any_bytes_are_read_or_refused(raw):
    try:
        read_native_model(raw)
    except NotDicom:
        return
