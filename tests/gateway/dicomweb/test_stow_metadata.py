"""The Store transaction with metadata and bulk data parts, through a real gateway."""

from __future__ import annotations

import base64
import io
import itertools
import json
import socket
import struct

import numpy as np
import pydicom
import pytest
from PIL import Image

from storage.dicomxml import native_model
from tests.fix_store import JSON, XML, Answered, metadata, part
from tests.gateway.pixels.synthetic import jpeg2000, noise

PDF = "1.2.840.10008.5.1.4.1.1.104.1"
_NUMBERS = itertools.count(1)
OCTETS = "application/octet-stream"


def uids():
    """UIDs of a new instance, as arguments of ``metadata``."""
    number = next(_NUMBERS)
    return {"sop": f"2.25.7.{number}.3", "study": f"2.25.7.{number}", "series": f"2.25.7.{number}.2"}


def described(rows, columns, *, samples=1, bits=8, frames=0, **elements):
    """Metadata of an image."""
    numbers = {
        "00280002": samples,
        "00280010": rows,
        "00280011": columns,
        "00280100": bits,
        "00280101": bits,
        "00280102": bits - 1,
        "00280103": 0,
    }
    model = {f"t{tag}": {"vr": "US", "Value": [number]} for tag, number in numbers.items()}
    model["t00280004"] = {"vr": "CS", "Value": ["RGB" if samples == 3 else "MONOCHROME2"]}
    if samples == 3:
        model["t00280006"] = {"vr": "US", "Value": [0]}
    if frames:
        model["t00280008"] = {"vr": "IS", "Value": [frames]}
    return {**model, **elements}


def refers(uri, vr="OB"):
    return {"vr": vr, "BulkDataURI": uri}


def picture(seed=1, size=(64, 48), kind="JPEG", mode="L", **options):
    values = np.random.default_rng(seed).integers(0, 255, (size[1], size[0], 3) if mode == "RGB" else size[::-1])
    stream = io.BytesIO()
    Image.fromarray(values.astype(np.uint8), mode).save(stream, kind, **options)
    return stream.getvalue()


def frames_of(data_set, number=1):
    return [
        frame.rstrip(b"\0") for frame in pydicom.encaps.generate_frames(data_set.PixelData, number_of_frames=number)
    ]


def as_kind(model, kind):
    return part([model], JSON) if kind == JSON else part(native_model(model), XML)


# -------------------------------------------------------------------------------------------------------- what is taken


@pytest.mark.parametrize("kind", [JSON, XML])
@pytest.mark.parametrize("is_first", [True, False])
def test_s12_metadata_and_bulk_data_make_an_instance_in_either_order(taking, kind, is_first):
    one = uids()
    pixels = bytes(range(96))
    model = metadata(**one, **described(8, 12, t7FE00010=refers("bulk/1", "OW")))
    parts = [as_kind(model, kind), part(pixels, OCTETS, "bulk/1")]
    answer = taking.post(parts if is_first else parts[::-1], kind)
    assert (answer.status, answer.stored) == (200, [one["sop"]])
    data_set = taking.file(one["sop"])
    assert data_set.file_meta.TransferSyntaxUID == "1.2.840.10008.1.2.1"
    assert (data_set.PixelData, data_set.Rows, str(data_set.PatientName)) == (pixels, 8, "Doe^Jane")


@pytest.mark.parametrize("kind", [JSON, XML])
def test_s1_metadata_that_is_whole_needs_no_multipart(taking, kind):
    one = uids()
    model = metadata(**one, t00420011={"vr": "OB", "InlineBinary": base64.b64encode(b"1234").decode()})
    content = json.dumps([model]).encode() if kind == JSON else native_model(model)
    answer = Answered(taking.client.post("/studies", content=content, headers={"Content-Type": kind}))
    assert (answer.status, answer.stored) == (200, [one["sop"]])
    assert taking.file(one["sop"]).EncapsulatedDocument == b"1234"


@pytest.mark.parametrize("kind", [JSON, XML])
def test_many_instances_come_in_one_request(taking, kind):
    study = uids()
    every = [{**uids(), "study": study["study"]} for _ in range(12)]
    models = [metadata(**one, t00420011=refers(f"d{number}")) for number, one in enumerate(every)]
    texts = [part(models, JSON)] if kind == JSON else [part(native_model(model), XML) for model in models]
    documents = [part(f"%PDF-{number:02d}".encode(), OCTETS, f"d{number}") for number in range(12)]
    answer = taking.post([*texts, *documents], kind, study=f"/{study['study']}")
    assert (answer.status, answer.stored) == (200, [one["sop"] for one in every])
    assert answer.module["00081190"]["Value"][0].endswith(f"/studies/{study['study']}")
    assert taking.file(every[7]["sop"]).EncapsulatedDocument == b"%PDF-07\0"


@pytest.mark.parametrize(
    "content_type",
    [
        "multipart/related;type=application/dicom+json;boundary=b0",
        'Multipart/Related; boundary="b0"; type="Application/DICOM+JSON"',
        "multipart/related; type=application/dicom+json; boundary=b0; start=x",
    ],
)
def test_s3_spellings_and_line_ends_make_no_difference(taking, content_type):
    one = uids()
    body = b"\r\n" + part([metadata(**one)]) + b"--b0--"
    answer = Answered(taking.client.post("/studies", content=body, headers={"Content-Type": content_type}))
    assert (answer.status, answer.stored) == (200, [one["sop"]])


def test_bulk_data_may_stand_in_sequences(taking):
    one = uids()
    item = {"00281201": refers("lut", "OW"), "7FE00010": refers("icon", "OW")}
    model = metadata(**one, t00880200={"vr": "SQ", "Value": [{}, item]})
    answer = taking.post([part([model], JSON), part(b"ab" * 5000, OCTETS, "lut"), part(b"icon", OCTETS, "icon")])
    assert answer.status == 200
    found = taking.file(one["sop"])[0x00880200][1]
    assert (found[0x00281201].value, found.PixelData) == (b"ab" * 5000, b"icon")


# ------------------------------------------------------------------------------------------------ compressed Pixel Data


def test_s12_frames_come_a_part_each_in_the_order_of_their_locations(taking):
    frames = [picture(seed) for seed in range(3)]
    for locations in (
        ["p", "p", "p"],
        ["p/frames/1", "p/frames/2", "p/frames/3"],
        ["http://h/instances/1/frames/1", "http://h/instances/1/frames/2", "http://h/instances/1/frames/3"],
    ):
        one = uids()
        uri = "http://h/instances/1/bulkdata/7FE00010" if locations[0].startswith("http") else "p"
        model = metadata(**one, **described(48, 64, frames=3, t7FE00010=refers(uri)))
        kind = "image/jpeg; transfer-syntax=1.2.840.10008.1.2.4.50"
        named = list(zip(frames, locations, strict=True))
        parts = [part(frame, kind, place) for frame, place in (named if locations[0] == "p" else named[::-1])]
        answer = taking.post([part([model], JSON), *parts])
        assert answer.status == 200, answer.words
        data_set = taking.file(one["sop"])
        assert data_set.file_meta.TransferSyntaxUID == "1.2.840.10008.1.2.4.50"
        assert frames_of(data_set, 3) == frames


@pytest.mark.parametrize("media_type", ["image/jpeg", "image/jp2"])
def test_frames_one_behind_the_other_in_one_part_are_told_apart(taking, media_type):
    one = uids()
    images = [np.random.default_rng(seed).integers(0, 255, (48, 64)).astype(np.uint8) for seed in range(4)]
    frames = [picture(seed) if media_type == "image/jpeg" else jpeg2000(image) for seed, image in enumerate(images)]
    model = metadata(**one, **described(48, 64, frames=4, t7FE00010=refers("p")))
    answer = taking.post([part([model], JSON), part(b"".join(frames), media_type, "p")])
    assert answer.status == 200, answer.words
    assert frames_of(taking.file(one["sop"]), 4) == [frame.rstrip(b"\0") for frame in frames]


SYNTAXES = [
    ("image/jpeg", picture, "1.2.840.10008.1.2.4.50"),
    ("image/jpg", picture, "1.2.840.10008.1.2.4.50"),
    ("image/jp2", lambda: jpeg2000(np.zeros((48, 64), np.uint8)), "1.2.840.10008.1.2.4.90"),
    ("image/jp2", lambda: jpeg2000(np.zeros((48, 64), np.uint8), codec_format=1), "1.2.840.10008.1.2.4.90"),
    ("image/dicom-rle", lambda: struct.pack("<16I", 1, 64, *[0] * 14) + b"\0\1", "1.2.840.10008.1.2.5"),
    ("image/x-dicom-rle", lambda: struct.pack("<16I", 1, 64, *[0] * 14) + b"\0\1", "1.2.840.10008.1.2.5"),
    ("video/mpeg", lambda: b"\0\0\1\xb3" * 20, "1.2.840.10008.1.2.4.100"),
    ("video/mp4", lambda: b"\0\0\0\x18ftypmp42" * 20, "1.2.840.10008.1.2.4.102"),
    ("image/jxl; transfer-syntax=1.2.840.10008.1.2.4.112", lambda: b"\xff\n" * 9, "1.2.840.10008.1.2.4.112"),
    (
        "application/octet-stream; transfer-syntax=1.2.840.10008.1.2.1.98",
        lambda: b"12" * 1536,
        "1.2.840.10008.1.2.1.98",
    ),
    ("image/jls; transfer-syntax=1.2.840.10008.1.2.4.81", lambda: b"\xff\xd8\xff", "1.2.840.10008.1.2.4.81"),
]


@pytest.mark.parametrize(("media_type", "make", "uid"), SYNTAXES, ids=[f"{row[0]} {row[2]}" for row in SYNTAXES])
def test_the_transfer_syntax_is_that_of_the_media_type_its_parameter_or_the_header(taking, media_type, make, uid):
    one = uids()
    model = metadata(**one, **described(48, 64, t7FE00010=refers("p")))
    answer = taking.post([part([model], JSON), part(make(), media_type, "p")])
    assert answer.status in (200, 202), answer.words
    assert answer.stored == [one["sop"]]
    assert taking.file(one["sop"]).file_meta.TransferSyntaxUID == uid


def test_a_jp2_file_is_stored_without_its_boxes(taking):
    one = uids()
    values = np.random.default_rng(5).integers(0, 255, (48, 64)).astype(np.uint8)
    model = metadata(**one, t7FE00010=refers("p"))
    answer = taking.post([part([model], JSON), part(jpeg2000(values, codec_format=1), "image/jp2", "p")])
    assert answer.status == 200, answer.words
    data_set = taking.file(one["sop"])
    assert frames_of(data_set)[0].startswith(b"\xff\x4f\xff\x51")
    assert np.array_equal(data_set.pixel_array, values)


def test_compressed_pixels_within_the_metadata_keep_their_items(taking):
    one = uids()
    data_set = pydicom.Dataset()
    data_set.PixelData = pydicom.encaps.encapsulate([picture(1), picture(2)])
    inline = base64.b64encode(data_set.PixelData + b"\xfe\xff\xdd\xe0\0\0\0\0").decode()
    model = metadata(**one, **described(48, 64, frames=2, t7FE00010={"vr": "OB", "InlineBinary": inline}))
    model["00083002"] = {"vr": "UI", "Value": ["1.2.840.10008.1.2.4.50"]}
    answer = taking.post([part([model], JSON)])
    assert answer.status == 200, answer.words
    assert frames_of(taking.file(one["sop"]), 2) == [picture(1), picture(2)]


# ------------------------------------------------------------------------------------------------------- consumer types

FILLED = [
    ("grey JPEG", "image/jpeg", picture, (1, 8, "MONOCHROME2")),
    ("colour JPEG", "image/jpeg", lambda: picture(mode="RGB"), (3, 8, "YBR_FULL_422")),
    ("colour JPEG, all of it", "image/jpeg", lambda: picture(mode="RGB", subsampling=0), (3, 8, "YBR_FULL")),
    ("JPEG of RGB", "image/jpeg", lambda: picture(mode="RGB", keep_rgb=True), (3, 8, "RGB")),
    ("JPEG 2000", "image/jp2", lambda: jpeg2000(noise((48, 64), np.uint16)), (1, 16, "MONOCHROME2")),
]


@pytest.mark.parametrize(("name", "media_type", "make", "expected"), FILLED, ids=[row[0] for row in FILLED])
def test_s12_an_image_of_a_consumer_type_needs_no_image_pixel_attributes(taking, name, media_type, make, expected):
    one = uids()
    answer = taking.post([part([metadata(**one, t7FE00010=refers("p"))], JSON), part(make(), media_type, "p")])
    assert answer.status == 200, answer.words
    found = taking.file(one["sop"])
    samples, bits, photometric = expected
    assert (found.SamplesPerPixel, found.BitsStored, found.PhotometricInterpretation) == (samples, bits, photometric)
    assert (found.Rows, found.Columns, found.HighBit, found.PixelRepresentation) == (48, 64, bits - 1, 0)
    assert (found.BitsAllocated, found.get("PlanarConfiguration")) == (
        8 if bits == 8 else 16,
        0 if samples == 3 else None,
    )
    assert found.pixel_array.shape[:2] == (48, 64)
    rendered = taking.client.get(
        f"/studies/{one['study']}/series/{one['series']}/instances/{one['sop']}/rendered",
        headers={"Accept": "image/png"},
    )
    assert rendered.status_code == 200


def test_frames_of_a_consumer_type_are_counted(taking):
    one = uids()
    parts = [part(picture(seed), "image/jpeg", "p") for seed in range(3)]
    assert taking.post([part([metadata(**one, t7FE00010=refers("p"))], JSON), *parts]).status == 200
    assert taking.file(one["sop"]).NumberOfFrames == 3


def test_what_the_metadata_says_is_not_changed(taking):
    one = uids()
    model = metadata(**one, t00280004={"vr": "CS", "Value": ["YBR_FULL"]}, t7FE00010=refers("p"))
    assert taking.post([part([model], JSON), part(picture(mode="RGB"), "image/jpeg", "p")]).status == 200
    assert taking.file(one["sop"]).PhotometricInterpretation == "YBR_FULL"


def test_s12_a_pdf_becomes_an_encapsulated_document(taking):
    one = uids()
    model = metadata(**one, sop_class=PDF, t00420011=refers("report.pdf"))
    assert taking.post([part([model], JSON), part(b"%PDF-1.7 odd", "application/pdf", "report.pdf")]).status == 200
    found = taking.file(one["sop"])
    assert (found.MIMETypeOfEncapsulatedDocument, found.EncapsulatedDocumentLength) == ("application/pdf", 12)
    assert found.EncapsulatedDocument == b"%PDF-1.7 odd"
    rendered = taking.client.get(f"/studies/{one['study']}/series/{one['series']}/instances/{one['sop']}/rendered")
    assert rendered.content == b"%PDF-1.7 odd"


# --------------------------------------------------------------------------------------------- what is refused, and why

ALONE = [
    ("a missing part", {"t7FE00010": refers("nowhere")}, [], 409, "is missing (PixelData)"),
    (
        "a missing part in a sequence",
        {"t00880200": {"vr": "SQ", "Value": [{"00281201": refers("x")}]}},
        [],
        409,
        "missing",
    ),
    ("a URI to somebody else", {"t7FE00010": refers("http://127.0.0.1:1/x")}, [], 400, "leads out"),
    ("a URI to a file", {"t00420011": refers("file:///etc/passwd")}, [], 400, "leads out"),
    ("a URI without a scheme", {"t00420011": refers("//127.0.0.1/x")}, [], 400, "leads out"),
    (
        "a frame that is missing",
        {"t7FE00010": refers("p")},
        [(picture(), "image/jpeg", "p/frames/2")],
        409,
        "of a frame",
    ),
    (
        "too few frames",
        described(48, 64, frames=3, t7FE00010=refers("p")),
        [(picture(), "image/jpeg", "p")] * 2,
        409,
        "many",
    ),
    (
        "frames of two kinds",
        {"t7FE00010": refers("p")},
        [(b"x", "image/jpeg", "p"), (b"x", "image/jp2", "p")],
        409,
        "kinds",
    ),
    ("a picture of the web", {"t7FE00010": refers("p")}, [(b"\x89PNG", "image/png", "p")], 409, "No transfer syntax"),
    (
        "a progressive JPEG",
        {"t7FE00010": refers("p")},
        [(picture(progressive=True), "image/jpeg", "p")],
        409,
        "process",
    ),
    ("no JPEG", {"t7FE00010": refers("p")}, [(b"GIF89a", "image/jpeg", "p")], 409, "not a JPEG"),
    ("an RLE without a size", {"t7FE00010": refers("p")}, [(b"x", "image/dicom-rle", "p")], 409, "(Rows)"),
    (
        "a JPEG XL without its syntax",
        described(1, 1, t7FE00010=refers("p")),
        [(b"x", "image/jxl", "p")],
        409,
        "not named",
    ),
    (
        "big endian",
        {"t00420011": refers("p")},
        [(b"x", f"{OCTETS}; transfer-syntax=1.2.840.10008.1.2.2", "p")],
        409,
        "little",
    ),
    ("a value twice", {"t00420011": refers("p")}, [(b"x", OCTETS, "p"), (b"y", OCTETS, "p")], 409, "Several"),
    ("a bad value", {"t00280010": {"vr": "US", "Value": [99999]}}, [], 409, "(Rows)"),
    ("a key that is no tag", {"tX\r\nEvil: 1": {"vr": "SQ", "Value": 5}}, [], 409, "no element"),
    (
        "an endless UID",
        {"t00083002": {"vr": "UI", "Value": ["1" * 99_999]}, "t00280010": {"vr": "US", "Value": ["x"]}},
        [],
        409,
        "(Rows)",
    ),
    (
        "an endless UID of pixels",
        {
            "t00083002": {"vr": "UI", "Value": ["1" * 99_999]},
            "t7FE00010": {"vr": "OB", "InlineBinary": "/v8A4AAAAAA=="},
        },
        [],
        409,
        "none of its",
    ),
    (
        "a transfer syntax that is none",
        {"t7FE00010": refers("p")},
        [(b"x", "image/jpeg; transfer-syntax=1.x", "p")],
        409,
        "malformed",
    ),
    ("a broken element", {"t00280010": 5}, [], 409, "no element"),
]


@pytest.mark.parametrize(("name", "elements", "bulk", "status", "words"), ALONE, ids=[row[0] for row in ALONE])
@pytest.mark.parametrize("has_company", [False, True])
def test_s12_an_instance_that_cannot_be_made_fails_alone_and_says_why(
    taking, name, elements, bulk, status, words, has_company
):
    bad, good = uids(), uids()
    models = [metadata(**bad, **elements), *([metadata(**good)] if has_company else [])]
    answer = taking.post([part(models, JSON), *(part(*one) for one in bulk)])
    assert answer.status == (202 if has_company else status)
    assert answer.stored == ([good["sop"]] if has_company else [])
    assert list(answer.failed) == [bad["sop"]]
    assert words in answer.words
    assert "127.0.0.1" not in answer.words


def test_s13_what_does_not_say_which_instance_it_is_is_an_other_failure(taking):
    one = uids()
    nameless = metadata(**{**uids(), "sop": "1.x"})
    answer = taking.post([part([nameless, {}, metadata(**one)], JSON)])
    assert (answer.status, answer.stored, answer.failed) == (202, [one["sop"]], {})
    assert len(answer.others) == 2
    assert taking.post([part([nameless], JSON)]).status == 409


def test_s9_metadata_of_another_study_fails_and_the_rest_is_stored(taking):
    one, other = uids(), uids()
    answer = taking.post([part([metadata(**one), metadata(**other)], JSON)], study=f"/{one['study']}")
    assert (answer.status, answer.stored, answer.failed) == (202, [one["sop"]], {other["sop"]: 0xA901})


def test_a_bulk_data_part_that_nothing_refers_to_is_told(taking):
    one = uids()
    answer = taking.post([part([metadata(**one)], JSON), part(b"x", OCTETS, "forgotten")])
    assert (answer.status, answer.stored, answer.others) == (202, [one["sop"]], [0xC000])
    assert "No instance refers to" in answer.words


WHOLE = [
    ("no metadata", [part(b"x", OCTETS, "a")], 400),
    ("no JSON", [part("[{", JSON)], 400),
    ("JSON that is no Data Set", [part("[1]", JSON)], 400),
    ("a bulk data part without a location", [part([metadata()], JSON), part(b"x", OCTETS)], 400),
    ("an instance beside metadata", [part([metadata()], JSON), part(b"x", "application/dicom")], 415),
    ("XML that is none", [part("<x", XML)], 400),
]


@pytest.mark.parametrize(("name", "parts", "status"), WHOLE, ids=[row[0] for row in WHOLE])
def test_s4_a_request_that_cannot_be_understood_is_refused(taking, name, parts, status):
    answer = taking.post(parts)
    assert answer.status == status


def test_s15_a_body_that_is_cut_off_stores_nothing(taking):
    one = uids()
    body = part([metadata(**one, t00420011=refers("p"))], JSON) + part(b"x" * 3_000_000, OCTETS, "p")
    kind = f'multipart/related; type="{JSON}"; boundary=b0'
    answer = taking.client.post("/studies", content=body, headers={"Content-Type": kind})
    assert answer.status_code == 400
    assert taking.client.get("/instances", params={"SOPInstanceUID": one["sop"]}).json() == []


def test_s10_the_same_again_is_a_success_and_other_content_a_warning(taking):
    one = uids()
    assert taking.post([part([metadata(**one)], JSON)]).status == 200
    assert taking.post([part([metadata(**one)], JSON)]).status == 200
    answer = taking.post([part([metadata(**one, t00100020={"vr": "LO", "Value": ["other"]})], JSON)])
    assert (answer.status, answer.stored) == (202, [one["sop"]])


def test_s8_pixels_that_are_missing_are_a_warning(taking):
    one = uids()
    model = metadata(**one, **described(48, 64, frames=2, t7FE00010=refers("p")))
    answer = taking.post([part([model], JSON), part(bytes(48 * 64), OCTETS, "p")])
    assert (answer.status, answer.stored) == (202, [one["sop"]])
    assert answer.module["00081199"]["Value"][0]["00081196"]["Value"] == [0xB007]


# ----------------------------------------------------------------------------------------------------------- the answer


def test_s6_the_answer_comes_as_xml_where_that_is_asked_for(taking):
    one, bad = uids(), uids()
    models = [metadata(**one), metadata(**bad, t7FE00010=refers("nowhere"))]
    answer = taking.post([part(models, JSON)], Accept=XML)
    assert (answer.status, answer.response.headers["content-type"]) == (202, XML)
    text = answer.response.text
    assert text.startswith("<?xml")
    assert '<DicomAttribute tag="00081198" keyword="FailedSOPSequence" vr="SQ">' in text
    assert text.index(bad["sop"]) < text.index(one["sop"])


def test_h28_nobody_is_called(taking):
    with socket.create_server(("127.0.0.1", 0)) as bait:
        bait.setblocking(False)
        place = f"127.0.0.1:{bait.getsockname()[1]}"
        for uri in (
            f"http://{place}/x",
            f"https://{place}",
            f"//{place}/x",
            f"HTTP://user@{place}/",
            f"ftp://{place}/",
        ):
            for kind in (JSON, XML):
                model = metadata(**uids(), t00420011=refers(uri))
                assert taking.post([as_kind(model, kind)], kind).status == 400
        with pytest.raises(BlockingIOError):
            bait.accept()
