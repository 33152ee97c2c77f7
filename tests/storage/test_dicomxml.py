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

from storage.dicomxml import NAMESPACE, native_model
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
