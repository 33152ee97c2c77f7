"""C-FIND rule by rule, over real sockets, with DCMTK's findscu and pynetdicom as the peers.

CF1 to CF12 are the ids that the code cites. Whatever the index behind it is, every test here has to hold: ``server``
is the one place that chooses it.
"""

from __future__ import annotations

import contextlib
import shutil
import socket
import struct
import threading
import time
from io import BytesIO
from pathlib import Path

import pydicom
import pytest
from pydicom.data import get_charset_files
from pydicom.dataset import Dataset
from pydicom.filereader import read_dataset
from pynetdicom.pdu_primitives import SOPClassExtendedNegotiation

from gateway.dimse.command import NO_DATA_SET, Element, Field, encode
from storage.attributes import ATTRIBUTES, KeyType
from storage.model import Level
from tests import synthetic
from tests.fix_dimse import (
    PATIENT_ROOT_FIND,
    PATIENT_STUDY_ONLY_FIND,
    STORAGE,
    STUDY_ROOT_FIND,
    associate_request,
    associated,
    find,
    p_data,
    pdv,
    query,
    raw_association,
    receive_pdu,
    run_program,
    running_listener,
    send,
    settle,
)

# pydicom's opinion of what the peer asks here, and of what it does not know itself.
pytestmark = [
    pytest.mark.filterwarnings("ignore:Invalid value for VR:UserWarning"),
    pytest.mark.filterwarnings("ignore:Unknown encoding:UserWarning"),
]

MODELS = {
    PATIENT_ROOT_FIND: ("-P", ["PATIENT", "STUDY", "SERIES", "IMAGE"]),
    STUDY_ROOT_FIND: ("-S", ["STUDY", "SERIES", "IMAGE"]),
    PATIENT_STUDY_ONLY_FIND: ("-O", ["PATIENT", "STUDY"]),
}
LEVELS_OF_MODELS = [(model, level) for model, (_, levels) in MODELS.items() for level in levels]
ABOVE = {"PATIENT": (), "STUDY": ("PatientID",), "SERIES": ("PatientID", "StudyInstanceUID")}
ABOVE["IMAGE"] = (*ABOVE["SERIES"], "SeriesInstanceUID")
FIRST = {"PatientID": "P1", "StudyInstanceUID": "1.2.1", "SeriesInstanceUID": "1.2.1.1"}
PENDING, PENDING_WITHOUT_SOME_KEYS, SUCCESS, CANCELLED = 0xFF00, 0xFF01, 0x0000, 0xFE00
MISMATCH, OUT_OF_RESOURCES = 0xA900, 0xA700

# study, series, instance, patient, name, modality, and what else the Data Set has
ROWS = [
    ("1.2.1", "1.2.1.1", "1.2.1.1.1", "P1", "Doe^Jane", "CT", {"StudyDate": "20200101", "StudyTime": "083000"}),
    ("1.2.1", "1.2.1.1", "1.2.1.1.2", "P1", "Doe^Jane", "CT", {"StudyDate": "20200101", "StudyTime": "083000"}),
    ("1.2.1", "1.2.1.2", "1.2.1.2.1", "P1", "Doe^Jane", "SR", {"StudyDate": "20200101", "StudyTime": "083000"}),
    ("1.2.2", "1.2.2.1", "1.2.2.1.1", "P1", "Doe^Jane", "MR", {"StudyDate": "20210615", "StudyTime": "120000.5"}),
    ("1.2.3", "1.2.3.1", "1.2.3.1.1", "P2", "DOE^JOHN", "CT", {"StudyDate": "2022.03.04", "StudyTime": "14:15:16"}),
    ("1.2.4", "1.2.4.1", "1.2.4.1.1", "P3", "Roe^Ann", "US", {"AccessionNumber": "a1", "TimezoneOffset": "+0200"}),
]
TAGS = {
    "StudyDate": (0x00080020, "DA"),
    "StudyTime": (0x00080030, "TM"),
    "AccessionNumber": (0x00080050, "SH"),
    "TimezoneOffset": (0x00080201, "SH"),
}


@pytest.fixture
def server(listen, engine):
    """An archive with its DIMSE listener, over each engine of the index."""
    return listen(engine=engine)


@pytest.fixture(scope="module")
def kept(engine, tmp_path_factory):
    """Three patients, of whom the first has two studies; nobody stores anything else."""
    folder = tmp_path_factory.mktemp("kept")
    with running_listener(folder, engine=engine) as server:
        yield with_patients(server)
    shutil.rmtree(folder)


@pytest.fixture
def filled(kept):
    """The same, with nobody connected."""
    yield kept
    for peer in kept.peers:
        peer.close()
    kept.peers.clear()
    assert settle(kept.is_at_rest)


def with_patients(server):
    peer = raw_association(server, STORAGE)
    for number, (study, series, instance, patient, name, modality, more) in enumerate(ROWS, 1):
        requests = synthetic.item(synthetic.element(0x00400009, "SH", f"SPS{number}"))
        content = data_set(
            study, series, instance, patient, name, modality, number, more, synthetic.sequence(0x00400275, requests)
        )
        assert send(peer, content, sop_instance=instance, message_id=number) == (0, "")
    peer.close()
    return server


def data_set(study, series, instance, patient, name, modality, number, more, *extra):
    elements = [synthetic.element(*TAGS[keyword], value) for keyword, value in more.items()]
    content = synthetic.data_set(
        study,
        series,
        instance,
        patient_id=patient,
        name=name,
        modality=modality,
        number=number,
        extra=(*extra, *elements),
    )
    plain = synthetic.element(0x00080020, "DA", "20240131")
    return content.replace(plain, b"", 1) if "StudyDate" in more else content


def negotiation(information, model=STUDY_ROOT_FIND):
    item = SOPClassExtendedNegotiation()
    item.sop_class_uid, item.service_class_application_information = model, information
    return [item]


@contextlib.contextmanager
def asking(server, model=STUDY_ROOT_FIND, information=b""):
    more = {"ext_neg": negotiation(information, model)} if information else {}
    with associated(server, (model, [synthetic.EXPLICIT]), **more) as association:
        yield association


def answers(server, asked, model=STUDY_ROOT_FIND, information=b""):
    """The Identifiers of the pending responses; the query has to succeed."""
    with asking(server, model, information) as association:
        *pending, (last, _) = find(association, asked, model)
    assert last == SUCCESS
    assert {status for status, _ in pending} <= {PENDING, PENDING_WITHOUT_SOME_KEYS}
    return [found for _, found in pending]


def studies(server, information=b"", **keys):
    found = answers(server, query(**{"StudyInstanceUID": "", **keys}), information=information)
    return sorted(str(one.StudyInstanceUID) for one in found)


def refusal(server, asked, model=STUDY_ROOT_FIND, information=b""):
    """The final status of a query that has no answers: with its Offending Element and Error Comment.

    The association lives on.
    """
    with asking(server, model, information) as association:
        ((status, _),) = list(association.send_c_find(asked, model))
        level = MODELS[model][1][0]
        assert find(association, query(level, PatientID=""), model)[-1][0] == SUCCESS
    return status.Status, status.get("OffendingElement"), status.get("ErrorComment", "")


def findscu(server, *keys, model="-S", file=None, folder):
    """Identifiers that DCMTK's findscu receives, as pydicom reads its files. file: holds the query."""
    folder.mkdir()
    options = ["-aec", "GATEWAY", model, "-X", "-od", folder, *(part for key in keys for part in ("-k", key))]
    files = [] if file is None else [file]
    ran = run_program("findscu", *options, "127.0.0.1", server.port, *files)
    assert ran.returncode == 0, ran.stderr
    return [pydicom.dcmread(path, force=True) for path in sorted(folder.iterdir())]


# ---- CF1, CF2: levels and unique keys ----------------------------------------------------------------------------


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("level", [None, "", "PATIENT", "STUDY", "SERIES", "IMAGE", "INSTANCE", "study"])
def test_cf1_a_level_that_is_missing_or_not_of_the_model_is_refused_with_a900(filled, model, level):
    asked = query(level, **{keyword: FIRST[keyword] for keyword in ABOVE.get(level, ())})
    if level is None:
        del asked.QueryRetrieveLevel
        asked.PatientID = ""
    if level in MODELS[model][1]:
        assert answers(filled, asked, model)
        return
    status, element, comment = refusal(filled, asked, model)
    assert (status, element) == (MISMATCH, 0x00080052)
    assert comment == "Query/Retrieve Level is not one of the information model"


@pytest.mark.parametrize(("model", "level"), LEVELS_OF_MODELS)
def test_cf2_unique_keys_above_the_level_are_needed_as_single_values(filled, model, level):
    needed = [keyword for keyword in ABOVE[level] if keyword != "PatientID" or model != STUDY_ROOT_FIND]
    complete = {keyword: FIRST[keyword] for keyword in needed}
    assert answers(filled, query(level, **complete), model)
    for keyword in needed:
        wrong = ["", [FIRST[keyword], "1.2.9"], "*", None]
        for value in wrong:
            asked = query(level, **{**complete, keyword: value})
            if value is None:
                del asked[keyword]
            status, element, comment = refusal(filled, asked, model)
            assert (status, element) == (MISMATCH, pydicom.datadict.tag_for_keyword(keyword))
            assert comment == "A unique key above the level is not a single value"


@pytest.mark.parametrize(("model", "level"), LEVELS_OF_MODELS)
def test_cf2_a_relational_query_leaves_unique_keys_open_once_negotiated(filled, model, level):
    count = {"PATIENT": 3, "STUDY": 4, "SERIES": 5, "IMAGE": 6}[level]
    assert len(answers(filled, query(level, PatientID=""), model, b"\1")) == count
    if level != "PATIENT":
        listed = query(level, StudyInstanceUID=["1.2.2", "1.2.3"])
        assert {str(one.StudyInstanceUID) for one in answers(filled, listed, model, b"\1")} == {"1.2.2", "1.2.3"}


def test_cf2_keys_below_the_level_are_ignored_and_said_to_be(filled):
    with asking(filled) as association:
        asked = query("STUDY", StudyInstanceUID="", Modality="NONE", SOPInstanceUID="1.2.3.4")
        found = find(association, asked)
    assert [status for status, _ in found] == [PENDING_WITHOUT_SOME_KEYS] * 4 + [SUCCESS]
    assert all("Modality" not in one for _, one in found[:-1])


@pytest.mark.needs("findscu")
@pytest.mark.parametrize(("model", "level"), LEVELS_OF_MODELS)
def test_cf2_dcmtk_finds_at_every_level_of_every_model(filled, model, level, tmp_path):
    option, _ = MODELS[model]
    above = [f"{keyword}={FIRST[keyword]}" for keyword in ABOVE[level] if keyword != "PatientID" or option != "-S"]
    own = {
        "PATIENT": "PatientID",
        "STUDY": "StudyInstanceUID",
        "SERIES": "SeriesInstanceUID",
        "IMAGE": "SOPInstanceUID",
    }
    keys = [f"QueryRetrieveLevel={level}", "PatientName", *above, own[level]]
    found = findscu(filled, *keys, model=option, folder=tmp_path / "responses")
    expected = {
        "PATIENT": {"P1", "P2", "P3"},
        "STUDY": {"1.2.1", "1.2.2"} if option != "-S" else {"1.2.1", "1.2.2", "1.2.3", "1.2.4"},
        "SERIES": {"1.2.1.1", "1.2.1.2"},
        "IMAGE": {"1.2.1.1.1", "1.2.1.1.2"},
    }
    assert {str(one[own[level]].value) for one in found} == expected[level]
    assert {one.QueryRetrieveLevel for one in found} == {level}


# ---- CF3, CF4: what comes back -----------------------------------------------------------------------------------


def supported_keys(level):
    """The keys of the attribute table at a level and above it, that lie in no sequence."""
    depth = {"PATIENT": Level.PATIENT, "STUDY": Level.STUDY, "SERIES": Level.SERIES, "IMAGE": Level.INSTANCE}[level]
    return [
        attribute
        for attribute in ATTRIBUTES
        if attribute.level <= depth and attribute.key_type is not KeyType.NONE and not attribute.is_nested
    ]


@pytest.mark.parametrize(("model", "level"), LEVELS_OF_MODELS)
def test_cf3_each_pending_response_holds_the_keys_asked_for_and_where_to_retrieve(filled, model, level):
    asked = query(level)
    keys = supported_keys(level)
    for attribute in keys:
        setattr(asked, attribute.keyword, FIRST[attribute.keyword] if attribute.keyword in ABOVE[level] else None)
    with asking(filled, model) as association:
        *pending, (last, _) = find(association, asked, model)
    assert last == SUCCESS
    assert pending
    for status, found in pending:
        assert status == PENDING
        assert found.QueryRetrieveLevel == level
        assert found.RetrieveAETitle == "GATEWAY"
        assert found.InstanceAvailability == "ONLINE"
        assert [attribute.keyword for attribute in keys if attribute.keyword not in found] == []
        assert "SpecificCharacterSet" not in found
        assert found["PatientBirthDate"].is_empty
        assert found.PatientName == "Doe^Jane" or level == "PATIENT"


REQUIRED = {  # PS3.4 Tables C.6-1 to C.6-5: required and unique keys, and the optional ones that lists show
    "PATIENT": ["PatientName", "PatientID"],
    "STUDY": [
        *("StudyDate", "StudyTime", "AccessionNumber", "PatientName", "PatientID", "StudyID", "StudyInstanceUID"),
        *("ModalitiesInStudy", "SOPClassesInStudy", "ReferringPhysicianName", "StudyDescription", "PatientBirthDate"),
        *("PatientSex", "NumberOfStudyRelatedSeries", "NumberOfStudyRelatedInstances"),
    ],
    "SERIES": [
        *("Modality", "SeriesNumber", "SeriesInstanceUID", "SeriesDescription", "NumberOfSeriesRelatedInstances"),
    ],
    "IMAGE": ["InstanceNumber", "SOPInstanceUID", "SOPClassUID"],
}


@pytest.mark.parametrize(("model", "level"), LEVELS_OF_MODELS)
def test_cf4_the_keys_of_each_level_are_supported(filled, model, level):
    asked = query(level, **{keyword: FIRST[keyword] for keyword in ABOVE[level]})
    for keyword in REQUIRED[level]:
        if keyword not in ABOVE[level]:
            setattr(asked, keyword, None)
    with asking(filled, model) as association:
        *pending, _ = find(association, asked, model)
    assert {status for status, _ in pending} == {PENDING}
    assert all(keyword in found for keyword in REQUIRED[level] for _, found in pending)


def test_cf4_what_the_archive_counts_is_returned(filled):
    keys = ["ModalitiesInStudy", "SOPClassesInStudy", "NumberOfStudyRelatedSeries", "NumberOfStudyRelatedInstances"]
    (found,) = answers(filled, query("STUDY", StudyInstanceUID="1.2.1", **dict.fromkeys(keys)))
    assert sorted(found.ModalitiesInStudy) == ["CT", "SR"]
    assert found.SOPClassesInStudy == synthetic.SECONDARY_CAPTURE
    assert (found.NumberOfStudyRelatedSeries, found.NumberOfStudyRelatedInstances) == (2, 3)
    series = answers(filled, query("SERIES", StudyInstanceUID="1.2.1", NumberOfSeriesRelatedInstances=None))
    assert sorted(one.NumberOfSeriesRelatedInstances for one in series) == [1, 2]


# ---- CF5, CF6, CF7: matching -------------------------------------------------------------------------------------

ALL = ["1.2.1", "1.2.2", "1.2.3", "1.2.4"]
MATCHING = {
    "universal": ({"PatientID": ""}, ALL),
    "a lone star": ({"PatientID": "*"}, ALL),
    "single value": ({"PatientID": "P1"}, ["1.2.1", "1.2.2"]),
    "single value is case sensitive": ({"PatientID": "p1"}, []),
    "accession number is case sensitive": ({"AccessionNumber": "A1"}, []),
    "names are not": ({"PatientName": "doe^john"}, ["1.2.3"]),
    "wildcard star": ({"PatientName": "Doe*"}, ["1.2.1", "1.2.2", "1.2.3"]),
    "wildcard question mark": ({"PatientID": "P?"}, ALL),
    "list of UIDs": ({"StudyInstanceUID": ["1.2.1", "1.2.4", "1.2.9"]}, ["1.2.1", "1.2.4"]),
    "a date": ({"StudyDate": "20200101"}, ["1.2.1"]),
    "computed by the archive": ({"ModalitiesInStudy": "SR"}, ["1.2.1"]),
    "all keys have to match": ({"PatientID": "P1", "StudyDate": "20200101"}, ["1.2.1"]),
    "two quotation marks are text": ({"AccessionNumber": '""'}, []),
}


@pytest.mark.parametrize(("keys", "expected"), MATCHING.values(), ids=MATCHING)
def test_cf5_each_kind_of_matching(filled, keys, expected):
    assert studies(filled, **keys) == expected


def test_cf5_keys_of_a_sequence_match_in_its_items(filled):
    asked = query("SERIES", SeriesInstanceUID="")
    item = Dataset()
    item.ScheduledProcedureStepID = "SPS4"
    asked.RequestAttributesSequence = [item]
    (found,) = answers(filled, asked, information=b"\1")
    assert found.SeriesInstanceUID == "1.2.2.1"
    assert found.RequestAttributesSequence[0].ScheduledProcedureStepID == "SPS4"


@pytest.mark.parametrize("model", MODELS)
def test_cf5_what_extended_negotiation_agrees_on_is_said_for_each_model(server, model):
    with asking(server, model, b"\1" * 7) as association:
        assert association.acceptor.sop_class_extended == {model: b"\1\0\1\0\0\1\1"}
    with asking(server, model, b"\1\1\1") as association:
        assert association.acceptor.sop_class_extended == {model: b"\1\0\1"}


EXTENDED = {
    "empty value": ({"AccessionNumber": '""'}, b"\0\0\0\0\0\1", ["1.2.1", "1.2.2", "1.2.3"]),
    "empty date": ({"StudyTime": '""'}, b"\0\0\0\0\0\1", ["1.2.4"]),
    "multiple values": ({"PatientID": ["P2", "P3"]}, b"\0\0\0\0\0\0\1", ["1.2.3", "1.2.4"]),
    "multiple names": ({"PatientName": ["roe*", "doe^john"]}, b"\0\0\0\0\0\0\1", ["1.2.3", "1.2.4"]),
    "multiple values that were not negotiated": ({"PatientID": ["P2", "P3"]}, b"", []),
    "fuzzy": ({"PatientName": "jan do"}, b"\0\0\1", ["1.2.1", "1.2.2"]),
    "fuzzy that was not negotiated": ({"PatientName": "jan do"}, b"", []),
}


@pytest.mark.parametrize(("keys", "information", "expected"), EXTENDED.values(), ids=EXTENDED)
def test_cf5_matching_that_has_to_be_negotiated(filled, keys, information, expected):
    assert studies(filled, information, **keys) == expected


@pytest.mark.parametrize("uid", ["1.2.*", "1.2.?", "*1", "1.2.1*"])
def test_cf6_wildcards_in_uids_are_refused(filled, uid):
    status, element, comment = refusal(filled, query(StudyInstanceUID=uid))
    assert (status, element, comment) == (MISMATCH, 0x0020000D, "The value of a key is malformed")


def test_cf6_a_lone_star_for_a_uid_asks_nothing(filled):
    assert studies(filled, StudyInstanceUID="*") == ALL


RANGES = {
    "from": ({"StudyDate": "20210101-"}, ["1.2.2", "1.2.3", "1.2.4"]),
    "to": ({"StudyDate": "-20210615"}, ["1.2.1", "1.2.2"]),
    "both ends": ({"StudyDate": "20200101-20210615"}, ["1.2.1", "1.2.2"]),
    "old dates": ({"StudyDate": "2020.01.01-2021.06.15"}, ["1.2.1", "1.2.2"]),
    "an old date": ({"StudyDate": "2021.06.15"}, ["1.2.2"]),
    "what is stored as an old date": ({"StudyDate": "20220304"}, ["1.2.3"]),
    "old range over an old date": ({"StudyDate": "2022.01.01-2022.12.31"}, ["1.2.3"]),
    "times": ({"StudyTime": "0800-1200"}, ["1.2.1", "1.2.2"]),
    "times from": ({"StudyTime": "130000-"}, ["1.2.3"]),
    "times to": ({"StudyTime": "-0830"}, ["1.2.1"]),
    "old times": ({"StudyTime": "14:00:00-15:00:00"}, ["1.2.3"]),
    "an old time": ({"StudyTime": "08:30:00"}, ["1.2.1"]),
    "what is stored as an old time": ({"StudyTime": "141516"}, ["1.2.3"]),
    "each on its own": ({"StudyDate": "20200101-20210615", "StudyTime": "1000-1300"}, ["1.2.2"]),
}


@pytest.mark.parametrize(("keys", "expected"), RANGES.values(), ids=RANGES)
def test_cf7_ranges_of_dates_and_times_in_their_old_formats_too(filled, keys, expected):
    assert studies(filled, **keys) == expected


@pytest.mark.needs("findscu")
def test_cf7_dcmtk_asks_for_ranges(filled, tmp_path):
    keys = ["QueryRetrieveLevel=STUDY", "StudyInstanceUID", "StudyDate=2020.01.01-20210615"]
    found = findscu(filled, *keys, folder=tmp_path / "responses")
    assert sorted(str(one.StudyInstanceUID) for one in found) == ["1.2.1", "1.2.2"]


# ---- CF8: character sets -----------------------------------------------------------------------------------------

NAMED_FILES = [
    "Arab",
    "Fren",
    "Germ",
    "Greek",
    "H31",
    "H32",
    "Hbrw",
    "I2",
    "JapMulti",
    "KoreanMulti",
    "Russ",
    "X1",
    "X2",
]


@pytest.fixture(scope="module")
def charset_files():
    return {Path(path).stem.removeprefix("chr"): Path(path) for path in get_charset_files("*.dcm")}


@pytest.fixture
def of_many_peoples(server, charset_files):
    """The files that pydicom brings for character sets, stored as they are; by name."""
    files = {name: pydicom.dcmread(charset_files[name]) for name in NAMED_FILES}
    peer = raw_association(server, *((one.SOPClassUID, [one.file_meta.TransferSyntaxUID]) for one in files.values()))
    for number, (name, file) in enumerate(files.items()):
        raw = charset_files[name].read_bytes()
        content = raw[raw.index(b"DICM") + 4 + 12 + file.file_meta.FileMetaInformationGroupLength :]
        status, comment = send(
            peer,
            content,
            sop_instance=str(file.SOPInstanceUID),
            sop_class=str(file.SOPClassUID),
            context_id=2 * number + 1,
            message_id=number + 1,
        )
        assert status == 0, (name, comment)
        file.decode()
    peer.close()
    return server, files


def spaceless(name):
    return str(name).rstrip("=^ ")


@pytest.mark.parametrize("name", NAMED_FILES)
def test_cf8_a_name_is_found_and_answered_in_its_own_character_set(of_many_peoples, name):
    server, files = of_many_peoples
    file = files[name]
    for wanted in (spaceless(file.PatientName), spaceless(file.PatientName)[:-1] + "*"):
        asked = query(StudyInstanceUID="", PatientID="")
        asked.SpecificCharacterSet = file.SpecificCharacterSet
        asked.PatientName = wanted
        found = [one for one in answers(server, asked) if one.StudyInstanceUID == file.StudyInstanceUID]
        assert len(found) == 1
        assert found[0].SpecificCharacterSet == file.SpecificCharacterSet
        found[0].decode()
        assert spaceless(found[0].PatientName) == spaceless(file.PatientName)


@pytest.mark.parametrize("name", NAMED_FILES)
def test_cf8_a_name_is_found_in_unicode_whatever_it_is_stored_in(of_many_peoples, name):
    server, files = of_many_peoples
    file = files[name]
    asked = query(StudyInstanceUID="", PatientID="")
    asked.SpecificCharacterSet = "ISO_IR 192"
    asked.PatientName = spaceless(file.PatientName)
    (found,) = [one for one in answers(server, asked) if one.StudyInstanceUID == file.StudyInstanceUID]
    assert found.SpecificCharacterSet == "ISO_IR 192"
    assert spaceless(found.PatientName) == spaceless(file.PatientName)


@pytest.mark.parametrize("character_set", [None, "ISO_IR 6", "ISO_IR 100", "ISO_IR 144", "\\ISO 2022 IR 87", "WRONG"])
def test_cf8_what_the_set_of_the_query_does_not_have_is_answered_in_utf8(of_many_peoples, character_set):
    server, files = of_many_peoples
    with asking(server) as association:
        for file in files.values():
            asked = query(StudyInstanceUID=file.StudyInstanceUID, PatientName="")
            if character_set:
                asked.SpecificCharacterSet = character_set.split("\\")
            (status, found), (last, _) = find(association, asked)
            assert (status, last) == (PENDING, SUCCESS)
            assert spaceless(found.PatientName) == spaceless(file.PatientName)
            is_enough = holds(file.PatientName, character_set)
            assert found.get("SpecificCharacterSet") == (asked.SpecificCharacterSet if is_enough else "ISO_IR 192")


def holds(name, character_set):
    """Whether a set of those above has all characters of a name."""
    codecs = {"ISO_IR 100": "latin_1", "ISO_IR 144": "iso8859_5", "\\ISO 2022 IR 87": "iso2022_jp"}
    try:
        return bool(str(name).encode(codecs.get(character_set, "ascii")))
    except UnicodeError:
        return False


@pytest.mark.needs("findscu")
@pytest.mark.parametrize("name", NAMED_FILES)
def test_cf8_dcmtk_finds_a_name_by_the_bytes_of_its_own_set(of_many_peoples, name, charset_files, tmp_path):
    server, files = of_many_peoples
    stored = pydicom.dcmread(charset_files[name])
    raw_name = stored.get_item(0x00100010).value
    terms = stored.SpecificCharacterSet
    terms = terms if isinstance(terms, str) else "\\".join(terms)
    content = b"".join(
        [
            synthetic.element(0x00080005, "CS", terms),
            synthetic.element(0x00080052, "CS", "STUDY"),
            synthetic.element(0x00100010, "PN", raw_name),
            synthetic.element(0x0020000D, "UI", ""),
        ]
    )
    asked = tmp_path / "query.dcm"
    asked.write_bytes(synthetic.part10(content))
    found = findscu(server, file=asked, folder=tmp_path / "responses")
    (mine,) = [one for one in found if one.StudyInstanceUID == files[name].StudyInstanceUID]
    assert least(mine.get_item(0x00100010).value) == least(raw_name)
    mine.decode()
    assert spaceless(mine.PatientName) == spaceless(files[name].PatientName)


def least(raw_name):
    """A name without what may end it: padding, empty component groups, a return to the set it is in."""
    return raw_name.rstrip(b" =").removesuffix(b"\x1b(B")


SINGLE_BYTE_NAMES = {
    "ISO_IR 100": "Äneas^Rüdiger",
    "ISO_IR 101": "Łukasz^Żółć",
    "ISO_IR 109": "Ġorġ^Ħal",
    "ISO_IR 110": "Ēriks^Ķēniņš",
    "ISO_IR 126": "Διονυσιος",
    "ISO_IR 127": "قباني^لنزار",
    "ISO_IR 138": "שרון^דבורה",
    "ISO_IR 144": "Люкceмбypг",
    "ISO_IR 148": "Çavuşoğlu^İğdır",
    "ISO_IR 166": "สมชาย^ใจดี",
    "ISO_IR 203": "Œuvré^Šimon",
    "ISO_IR 13": "ﾔﾏﾀﾞ^ﾀﾛｳ",
}
NAMES = {
    **SINGLE_BYTE_NAMES,
    **{f"\\{term.replace('ISO_IR', 'ISO 2022 IR')}": name for term, name in SINGLE_BYTE_NAMES.items()},
    "\\ISO 2022 IR 87": "Yamada^Tarou=山田^太郎=やまだ^たろう",
    "ISO 2022 IR 13\\ISO 2022 IR 87": "ﾔﾏﾀﾞ^ﾀﾛｳ=山田^太郎=やまだ^たろう",
    "\\ISO 2022 IR 87\\ISO 2022 IR 159": "Yamada^Tarou=山田丂^太郎",
    "\\ISO 2022 IR 149": "Hong^Gildong=洪^吉洞=홍^길동",
    "\\ISO 2022 IR 58": "Zhang^XiaoDong=张^小东",
    "ISO 2022 IR 100\\ISO 2022 IR 144": "Äneas Люк^Rüdiger",
    "GB18030": "Wang^XiaoDong=王^小东",
    "GBK": "Wang^XiaoDong=王^小东",
    "ISO_IR 192": "Wang^XiaoDong=王^小东=Äneas Διο",
}
# Bytes by Python's own codecs and the escape sequences of PS3.3 Tables C.12-3 and C.12-4, not by the code under test.
CODECS = {
    "100": "latin_1",
    "101": "iso8859_2",
    "109": "iso8859_3",
    "110": "iso8859_4",
    "126": "iso8859_7",
    "127": "iso8859_6",
    "138": "iso8859_8",
    "144": "iso8859_5",
    "148": "iso8859_9",
    "166": "tis_620",
    "203": "iso8859_15",
    "13": "shift_jis",
    "149": "euc_kr",
    "58": "gb2312",
    "87": "iso2022_jp",
    "159": "iso2022_jp_2",
}
ESCAPES = {
    "100": "-A",
    "101": "-B",
    "109": "-C",
    "110": "-D",
    "126": "-F",
    "127": "-G",
    "138": "-H",
    "144": "-L",
    "148": "-M",
    "166": "-T",
    "203": "-b",
    "13": ")I",
    "149": "$)C",
    "58": "$)A",
}


def decoded(raw, terms):
    """A name in its character sets, by the letter of PS3.5 §6.1.2.5, component by component."""
    first, *_ = terms.split("\\")
    whole = {"GB18030": "gb18030", "GBK": "gbk", "ISO_IR 192": "utf_8"}.get(terms)
    if whole:
        return raw.decode(whole)
    initial = CODECS.get(first.rpartition(" ")[2], "ascii")
    of_escape = {b"(B": "ascii", b"(J": "shift_jis", b"$B": "iso2022_jp", b"$(D": "iso2022_jp_2"}
    of_escape |= {code.encode(): CODECS[number] for number, code in ESCAPES.items()}
    text = ""
    for part in _split_at_delimiters(raw):
        codec = initial
        for number, run in enumerate(part.split(b"\x1b")):
            rest = run
            if number:
                code = next(one for one in sorted(of_escape, key=len, reverse=True) if run.startswith(one))
                codec = of_escape[code]
                rest = b"\x1b" + run if codec.startswith("iso2022") else run[len(code) :]
            text += rest.decode(codec)
    return text


def _split_at_delimiters(raw):
    """Components with their delimiters; halves of two-byte characters are no delimiters."""
    parts, start, is_wide = [], 0, False
    for at in range(len(raw)):
        if raw[at : at + 1] == b"\x1b":
            is_wide = raw[at + 1 : at + 3] == b"$B" or raw[at + 1 : at + 4] == b"$(D"
        if not is_wide and raw[at : at + 1] in (b"^", b"="):
            parts += [raw[start:at], raw[at : at + 1]]
            start = at + 1
    return [*parts, raw[start:]]


def encoded(name, terms):
    """The bytes of a name, which ``decoded`` turns back."""
    first, *others = terms.split("\\")
    whole = {"GB18030": "gb18030", "GBK": "gbk", "ISO_IR 192": "utf_8"}.get(terms)
    if whole:
        return name.encode(whole)
    numbers = [term.rpartition(" ")[2] for term in others]
    initial = CODECS.get(first.rpartition(" ")[2], "ascii")
    home = b"\x1b(J" if initial == "shift_jis" else b"\x1b(B"
    written = b""
    for character in name:
        with contextlib.suppress(UnicodeError):
            written += character.encode(initial)
            continue
        for number in numbers:
            with contextlib.suppress(UnicodeError):
                raw = character.encode(CODECS[number])
                if number in ESCAPES:
                    back = b"" if initial in ("ascii", "shift_jis") else f"\x1b{ESCAPES['100']}".encode()
                    written += b"\x1b" + ESCAPES[number].encode() + raw + back
                else:
                    written += raw[:-3] + home
                break
        else:
            raise AssertionError(character)
    return written


@pytest.mark.parametrize(("terms", "name"), NAMES.items(), ids=NAMES)
def test_cf8_every_character_set_of_the_standard_is_stored_asked_and_answered(server, terms, name):
    raw = encoded(name, terms)
    assert decoded(raw, terms) == name
    peer = raw_association(server, STORAGE, (STUDY_ROOT_FIND, [synthetic.EXPLICIT]))
    character_set = synthetic.element(0x00080005, "CS", terms)
    content = b"".join([character_set, synthetic.data_set(name="@@")])
    content = content.replace(synthetic.element(0x00100010, "PN", "@@"), synthetic.element(0x00100010, "PN", raw))
    assert send(peer, content) == (0, "")
    level = synthetic.element(0x00080052, "CS", "STUDY")
    asked = character_set + level + synthetic.element(0x00100010, "PN", raw)
    (found,) = raw_answers(peer, 3, asked)
    assert found[0x00080005].value.rstrip() == terms.encode()
    assert decoded(found[0x00100010].value.rstrip(), terms) == name


def find_command(message_id=1, model=STUDY_ROOT_FIND):
    return encode(
        {
            Element.AFFECTED_SOP_CLASS_UID: model,
            Element.COMMAND_FIELD: Field.C_FIND,
            Element.MESSAGE_ID: message_id,
            0x0700: 0,
            Element.COMMAND_DATA_SET_TYPE: 1,
        }
    )


def cancel_command(message_id=1):
    return encode(
        {
            Element.COMMAND_FIELD: Field.C_CANCEL,
            Element.MESSAGE_ID_BEING_RESPONDED_TO: message_id,
            Element.COMMAND_DATA_SET_TYPE: NO_DATA_SET,
        }
    )


def raw_responses(peer):
    """Status, comment and raw Data Set of each response, until the final one."""
    command, content = b"", b""
    while True:
        kind, value = receive_pdu(peer)
        assert kind == 4
        at = 0
        while at < len(value):
            length, _, control = struct.unpack_from(">IBB", value, at)
            fragment = value[at + 6 : at + 4 + length]
            at += 4 + length
            if control & 1:
                command += fragment
            else:
                content += fragment
            if control == 3:
                place = command.index(b"\0\0\x00\x09\2\0\0\0")
                status = int.from_bytes(command[place + 8 : place + 10], "little")
                if status not in (PENDING, PENDING_WITHOUT_SOME_KEYS):
                    yield status, b""
                    return
            if control == 2:
                yield status, content
                command, content = b"", b""


def raw_answers(peer, context_id, asked):
    """The answers to an Identifier of any bytes, their elements still raw."""
    peer.sendall(p_data(pdv(context_id, 3, find_command()), pdv(context_id, 2, asked)))
    *pending, (last, _) = raw_responses(peer)
    assert last == SUCCESS
    return [read_dataset(BytesIO(content), False, True)._dict for _, content in pending]


# ---- CF9, CF10: many answers -------------------------------------------------------------------------------------


def fill(server, count, patient_comments=""):
    """One series of so many instances, of a patient of whom there is much to say."""
    extra = (synthetic.element(0x00104000, "LT", patient_comments),) if patient_comments else ()

    def send_some(numbers):
        peer = raw_association(server, STORAGE)
        for number in numbers:
            instance = f"1.2.3.4.{number}"
            content = synthetic.data_set(sop_instance=instance, number=number, extra=extra)
            assert send(peer, content, sop_instance=instance, message_id=number) == (0, "")
        peer.close()

    threads = [threading.Thread(target=send_some, args=(range(1 + start, count + 1, 4),)) for start in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def every_image(*more):
    return b"".join(
        sorted(
            [
                synthetic.element(0x00080018, "UI", ""),
                synthetic.element(0x00080052, "CS", "IMAGE "),
                synthetic.element(0x0020000D, "UI", "1.2.3"),
                synthetic.element(0x0020000E, "UI", "1.2.3.4"),
                *more,
            ],
            key=lambda raw: struct.unpack_from("<HH", raw),
        )
    )


def test_cf9_a_cancel_ends_a_query_within_a_second(listen, engine):
    """Little fits between gateway and peer, so most answers are still to come when it cancels."""
    server = listen(engine=engine, send_buffer_bytes=4096)
    fill(server, 400, "x" * 10_000)
    with contextlib.closing(socket.socket()) as peer:
        peer.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        peer.settimeout(10)
        peer.connect(server.address)
        peer.sendall(associate_request((STUDY_ROOT_FIND, [synthetic.EXPLICIT])))
        assert receive_pdu(peer)[0] == 2
        asked = every_image(synthetic.element(0x00104000, "LT", ""))
        peer.sendall(p_data(pdv(1, 3, find_command()), pdv(1, 2, asked)))
        responses = raw_responses(peer)
        assert next(responses)[0] == PENDING
        peer.sendall(p_data(pdv(1, 3, cancel_command())))
        started = time.monotonic()
        *pending, (last, _) = responses
        assert time.monotonic() - started < 1
        assert last == CANCELLED
        assert len(pending) < 399
        assert len(raw_answers(peer, 1, every_image())) == 400, "the association lives on"


@pytest.mark.needs("findscu")
def test_cf9_dcmtk_cancels(listen, engine):
    server = listen(engine=engine, send_buffer_bytes=4096)
    fill(server, 400, "x" * 10_000)
    keys = ["QueryRetrieveLevel=IMAGE", "StudyInstanceUID=1.2.3", "SeriesInstanceUID=1.2.3.4", "PatientComments"]
    arguments = [part for key in keys for part in ("-k", key)]
    ran = run_program("findscu", "-v", "-aec", "GATEWAY", "-S", "--cancel", "2", *arguments, "127.0.0.1", server.port)
    assert ran.returncode == 0, ran.stderr
    assert "MatchingTerminatedDueToCancelRequest" in ran.stdout + ran.stderr


def test_cf10_answers_come_in_the_same_order_and_end_with_a700_beyond_the_maximum(listen, engine):
    server = listen(engine=engine, query_answers_maximum=5)
    fill(server, 5)
    with asking(server) as association:
        asked = query("IMAGE", StudyInstanceUID="1.2.3", SeriesInstanceUID="1.2.3.4", SOPInstanceUID="")
        first, again = find(association, asked), find(association, asked)
        assert [one.SOPInstanceUID for _, one in first[:-1]] == [f"1.2.3.4.{number}" for number in range(1, 6)]
        assert [one.SOPInstanceUID for _, one in again[:-1]] == [one.SOPInstanceUID for _, one in first[:-1]]
        assert first[-1][0] == SUCCESS
        fill(server, 6)
        *pending, (final, _) = list(association.send_c_find(asked, STUDY_ROOT_FIND))
    assert [status.Status for status, _ in pending] == [PENDING] * 5
    assert (final.Status, final.ErrorComment) == (OUT_OF_RESOURCES, "There are more matches than may be returned")


# ---- CF11, CF12: keys that match nothing -------------------------------------------------------------------------

IGNORED = {
    "a group length": synthetic.element(0x00080000, "UL", b"\x0c\0\0\0"),
    "a group length of private elements": synthetic.element(0x00090000, "UL", b"\x0c\0\0\0"),
    "a private element": synthetic.element(0x00091001, "LO", "NONE SUCH"),
    "its creator": synthetic.element(0x00090010, "LO", "NONE SUCH"),
    "private binary": synthetic.element(0x00091002, "UN", b"\0" * 70_000),
    "a private sequence": synthetic.sequence(0x00091003, synthetic.item(b""), synthetic.item(b"")),
}


@pytest.mark.parametrize("ignored", IGNORED.values(), ids=IGNORED)
def test_cf11_group_lengths_and_private_keys_are_ignored_and_said_to_be(filled, ignored):
    peer = raw_association(filled, (STUDY_ROOT_FIND, [synthetic.EXPLICIT]))
    level, uid = synthetic.element(0x00080052, "CS", "STUDY"), synthetic.element(0x0020000D, "UI", "")
    asked = b"".join(sorted([level, uid, ignored], key=lambda raw: struct.unpack_from("<HH", raw)))
    peer.sendall(p_data(pdv(1, 3, find_command())))
    for start in range(0, len(asked), 16000):
        peer.sendall(p_data(pdv(1, 2 if start + 16000 >= len(asked) else 0, asked[start : start + 16000])))
    *pending, (last, _) = raw_responses(peer)
    assert [status for status, _ in pending] == [PENDING_WITHOUT_SOME_KEYS] * 4
    assert last == SUCCESS
    tags = {tag for _, content in pending for tag in read_dataset(BytesIO(content), False, True)._dict}
    assert tags <= {0x00080052, 0x00080054, 0x00080056, 0x00080201, 0x0020000D}


@pytest.mark.parametrize("offset", ["", "+0000", "-0500", "+1400", "nonsense"])
def test_cf12_a_time_zone_in_the_query_matches_nothing_away(filled, offset):
    with asking(filled) as association:
        asked = query(StudyInstanceUID="", StudyDate="20200101-", TimezoneOffsetFromUTC=offset)
        *pending, (last, _) = find(association, asked)
    assert (last, [status for status, _ in pending]) == (SUCCESS, [PENDING] * 4)
    offsets = {str(one.StudyInstanceUID): one.get("TimezoneOffsetFromUTC") for _, one in pending}
    assert offsets == {"1.2.1": None, "1.2.2": None, "1.2.3": None, "1.2.4": "+0200"}


# ---- errors ------------------------------------------------------------------------------------------------------

CANARY = "CANARY"
REFUSED = {
    "a date that is none": ({"StudyDate": CANARY}, 0x00080020),
    "a range that ends before it starts": ({"StudyDate": "20210101-20200101"}, 0x00080020),
    "a time that is none": ({"StudyTime": "99"}, 0x00080030),
    "a UID that is none": ({"StudyInstanceUID": f"1.2.{CANARY}"}, 0x0020000D),
    "a number that is none": ({"NumberOfStudyRelatedSeries": "many"}, 0x00201206),
    "too long": ({"PatientID": CANARY * 50}, 0x00100020),
    "too many wildcards": ({"PatientName": f"{CANARY}*a*b*c*d*e*f*g*h*i"}, 0x00100010),
}


@pytest.mark.parametrize(("keys", "element"), REFUSED.values(), ids=REFUSED)
def test_errors_name_the_element_and_no_value_and_the_association_lives(filled, keys, element):
    peer = raw_association(filled, (STUDY_ROOT_FIND, [synthetic.EXPLICIT]))
    ((keyword, value),) = keys.items()
    vr = pydicom.datadict.dictionary_VR(keyword)
    level = synthetic.element(0x00080052, "CS", "STUDY")
    asked = b"".join(
        sorted([level, synthetic.element(element, vr, value)], key=lambda raw: struct.unpack_from("<HH", raw))
    )
    peer.sendall(p_data(pdv(1, 3, find_command()), pdv(1, 2, asked)))
    kind, response = receive_pdu(peer)
    assert kind == 4
    command = read_dataset(BytesIO(response[6:]), True, True)
    assert command.Status == MISMATCH
    assert command.OffendingElement == element
    assert 0 < len(command.ErrorComment) <= 64
    assert CANARY.encode() not in response
    assert len(raw_answers(peer, 1, level)) == 4


def test_errors_of_the_index_are_a700_and_pass(server, engine):
    filled = with_patients(server)
    with asking(filled) as association:
        assert len(find(association, query(StudyInstanceUID=""))) == 5
        with engine.damaged(filled.folder):
            ((status, _),) = list(association.send_c_find(query(StudyInstanceUID=""), STUDY_ROOT_FIND))
            assert (status.Status, status.ErrorComment) == (OUT_OF_RESOURCES, "The index cannot be reached")
            assert association.is_established
        assert len(find(association, query(StudyInstanceUID=""))) == 5
