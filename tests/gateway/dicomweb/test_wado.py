"""Retrieve, against a running gateway that holds the samples; pydicom is the judge of what comes back."""

from __future__ import annotations

import io
import os
import warnings
from xml.etree import ElementTree as ET

import httpx
import numpy as np
import pydicom
import pytest

from gateway.dicomweb.bulk import byte_range
from gateway.dicomweb.wado import frame_numbers
from storage.errors import BadRequest, GatewayError
from tests.fix_samples import MANIFEST, SAMPLES
from tests.fix_servers import run_command

AS_STORED = 'multipart/related; type="application/dicom"; transfer-syntax=*'
ONE_AS_STORED = "application/dicom; transfer-syntax=*"
NEVER_SENT = {"1.2.840.10008.1.2", "1.2.840.10008.1.2.2"}
EXPLICIT = "1.2.840.10008.1.2.1"
DEFLATED = "1.2.840.10008.1.2.1.99"


def parts_of(response):
    """Headers and content of each part, by a reader that has nothing to do with ours."""
    import email

    raw = b"Content-Type: " + response.headers["content-type"].encode() + b"\r\n\r\n" + response.content
    message = email.message_from_bytes(raw)
    boundary = message.get_boundary().encode()
    pieces = response.content.split(b"--" + boundary)
    assert pieces[0] == b""
    assert pieces[-1] == b"--\r\n"
    for piece in pieces[1:-1]:
        head, _, body = piece.removeprefix(b"\r\n").partition(b"\r\n\r\n")
        headers = dict(line.split(": ", 1) for line in head.decode("ascii").split("\r\n"))
        yield headers, body.removesuffix(b"\r\n")


def data_set_bytes(raw: bytes) -> bytes:
    """What stands behind File Meta, found by its group length alone."""
    return raw[132 + 12 + int.from_bytes(raw[140:144], "little") :]


def read(raw: bytes) -> pydicom.Dataset:
    return pydicom.dcmread(io.BytesIO(raw))


@pytest.mark.parametrize("name", sorted(MANIFEST))
def test_each_sample_comes_back_as_it_was_stored(samples, name):
    entry = MANIFEST[name]
    response = samples.get(samples.url(name), ONE_AS_STORED)
    assert response.status_code == 200
    original = samples.file(name).read_bytes()
    if entry["transfer_syntax"] not in NEVER_SENT:
        assert response.headers["content-type"] == f"application/dicom; transfer-syntax={entry['transfer_syntax']}"
        assert data_set_bytes(response.content) == data_set_bytes(original)
        assert response.content[:128] == b"\0" * 128
        assert int(response.headers["content-length"]) == len(response.content)
        return
    mine, theirs = read(response.content), read(original)
    assert mine.file_meta.TransferSyntaxUID == EXPLICIT
    assert mine.to_json_dict(bulk_data_threshold=1 << 30) | {"7FE00010": None} == theirs.to_json_dict(
        bulk_data_threshold=1 << 30
    ) | {"7FE00010": None}
    assert np.array_equal(mine.pixel_array, theirs.pixel_array)


@pytest.mark.parametrize("name", ["3_deflated", "1_implicit", "2_explicit_vr_big"])
def test_native_encodings_are_explicit_little_endian_unless_asked_otherwise(samples, name):
    response = samples.get(samples.url(name), "application/dicom")
    content = read(response.content)
    assert content.file_meta.TransferSyntaxUID == EXPLICIT
    assert np.array_equal(content.pixel_array, read(samples.file(name).read_bytes()).pixel_array)


@pytest.mark.parametrize("uid", sorted(NEVER_SENT))
def test_implicit_and_big_endian_are_never_sent(samples, uid):
    for name in ("1_implicit", "2_explicit_vr_big", "slice_01"):
        response = samples.get(samples.url(name), f"application/dicom; transfer-syntax={uid}")
        assert response.status_code == 406


@pytest.mark.parametrize("level", ["study", "series"])
def test_a_study_is_one_part_for_each_instance(samples, level):
    entry = samples.entry("slice_01")
    key = "study_instance_uid" if level == "study" else "series_instance_uid"
    expected = {one["sop_instance_uid"] for one in MANIFEST.values() if one[key] == entry[key]}
    response = samples.get(samples.url("slice_01", level), AS_STORED)
    assert response.headers["content-type"].startswith('multipart/related; type="application/dicom"; boundary=')
    found = set()
    for headers, body in parts_of(response):
        content = read(body)
        found.add(content.SOPInstanceUID)
        assert headers["Content-Type"] == f"application/dicom; transfer-syntax={content.file_meta.TransferSyntaxUID}"
        assert headers["Content-Location"].endswith(f"/instances/{content.SOPInstanceUID}")
        assert samples.get(headers["Content-Location"], "application/dicom").status_code == 200
    assert found == expected


def test_a_study_is_not_one_dicom_file(samples):
    response = samples.get(samples.url("slice_01", "study"), "application/dicom")
    assert response.status_code == 406
    assert "multipart/related" in response.json()["reason"]


def test_an_instance_that_the_client_has_is_not_sent_again(samples):
    first = samples.get(samples.url("slice_01"), "application/dicom")
    again = samples.get(samples.url("slice_01"), "application/dicom", headers={"If-None-Match": first.headers["etag"]})
    assert (again.status_code, again.content) == (304, b"")
    assert again.headers["etag"] == first.headers["etag"]


@pytest.mark.parametrize(
    ("url", "status"),
    [
        ("/studies/1.2.3", 404),
        ("/studies/1.2.3/metadata", 404),
        ("/studies/1.2.3/rendered", 404),
        ("/studies/1.2..3", 400),
        ("/studies/abc/metadata", 400),
        ("/studies/" + "1" * 65, 400),
        ("/studies/%2e%2e%2f", 400),
        ("/studies/1.2%00", 400),
        ("/studies/1.2%0d%0aX: y", 400),
        ("/nothing", 404),
    ],
)
def test_what_is_not_there_is_said_to_be_so(samples, url, status):
    response = samples.get(url)
    assert response.status_code == status
    assert response.json()["reason"]


def test_an_instance_under_another_parent_is_not_found(samples):
    ours, other = samples.entry("slice_01"), samples.entry("chest")
    wrong = samples.url("slice_01").replace(ours["series_instance_uid"], other["series_instance_uid"])
    assert samples.get(wrong).status_code == 404
    wrong = samples.url("slice_01").replace(ours["study_instance_uid"], other["study_instance_uid"])
    assert samples.get(wrong).status_code == 404


def test_a_slash_at_the_end_and_the_alias_are_accepted(samples):
    url = samples.url("slice_01")
    assert samples.get(url + "/").status_code == 200
    alias = samples.gateway.dicomweb.replace("/dicomweb", "/dicom-web") + url + "/metadata"
    assert "/dicom-web/studies/" in samples.get(alias).json()[0]["7FE00010"]["BulkDataURI"]


def test_head_is_get_without_a_body(samples):
    url = samples.url("slice_01")
    got = samples.get(url, "application/dicom")
    head = samples.client.head(url, headers={"Accept": "application/dicom"})
    assert (head.status_code, head.content) == (200, b"")
    assert head.headers["content-length"] == got.headers["content-length"]


@pytest.mark.parametrize("method", ["PUT", "POST", "PATCH"])
def test_a_wrong_method_is_told_which_are_right(samples, method):
    response = samples.client.request(method, samples.url("slice_01"))
    assert response.status_code == 405
    assert "GET" in response.headers["allow"]


# ------------------------------------------------------------------------------------------------------- metadata


@pytest.mark.parametrize("name", sorted(MANIFEST))
def test_metadata_says_what_pydicom_reads(samples, name):
    (json,) = samples.get(samples.url(name) + "/metadata", "application/dicom+json").json()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        theirs = pydicom.dcmread(samples.file(name))
        expected = theirs.to_json_dict(bulk_data_threshold=1 << 30, suppress_invalid_tags=True)
    assert list(json) == sorted(json)
    assert json.pop("00083002") == {"vr": "UI", "Value": [MANIFEST[name]["transfer_syntax"]]}
    assert set(json) == {tag for tag in expected if not tag.endswith("0000")}
    for tag, element in json.items():
        assert_same(element, expected[tag], tag)


def assert_same(mine, theirs, path):
    assert mine["vr"] == theirs["vr"], path
    if "BulkDataURI" in mine:
        assert mine["BulkDataURI"].startswith("http://127.0.0.1:")
        return
    if mine["vr"] == "SQ":
        for index, (one, other) in enumerate(zip(mine.get("Value", []), theirs.get("Value", []), strict=True)):
            assert set(one) == set(other), path
            for tag in one:
                assert_same(one[tag], other[tag], f"{path}/{index}/{tag}")
        return
    values = [value for value in mine.get("Value", []) if value is not None]
    their_values = [value for value in theirs.get("Value", []) if value not in (None, "", {})]
    if mine["vr"] in ("FL", "FD", "DS"):
        assert [float(value) for value in values] == pytest.approx([float(value) for value in their_values]), path
    else:
        assert values == their_values, path
    assert mine.get("InlineBinary") == theirs.get("InlineBinary") or not theirs.get("InlineBinary"), path


@pytest.mark.parametrize("name", sorted(MANIFEST))
def test_metadata_comes_as_xml_with_the_attributes_that_json_has(samples, name):
    (json,) = samples.get(samples.url(name) + "/metadata", "application/dicom+json").json()
    answer = samples.get(samples.url(name) + "/metadata", 'multipart/related; type="application/dicom+xml"')
    ((headers, body),) = parts_of(answer)
    assert headers["Content-Type"] == "application/dicom+xml"
    assert headers["Content-Location"] == f"{samples.gateway.dicomweb}{samples.url(name)}/metadata"
    found = [(one.attrib["tag"], one.attrib["vr"]) for one in ET.fromstring(body)]
    assert found == [(without_block(tag), element["vr"]) for tag, element in json.items()]


def without_block(tag):
    """A private tag as XML has it, beside its Private Creator."""
    return f"{tag[:4]}00{tag[6:]}" if int(tag[:4], 16) % 2 and tag[4:6] != "00" else tag


def test_metadata_as_xml_is_a_stream_of_instances(samples):
    url = samples.url("slice_01", "study") + "/metadata"
    answer = samples.get(url, 'multipart/related; type="application/dicom+xml"')
    assert "content-length" not in answer.headers
    assert len(list(parts_of(answer))) == len(samples.get(url).json()) > 20


def test_the_metadata_of_a_study_is_every_instance_once(samples):
    entry = samples.entry("slice_01")
    json = samples.get(samples.url("slice_01", "study") + "/metadata").json()
    expected = {
        one["sop_instance_uid"] for one in MANIFEST.values() if one["study_instance_uid"] == entry["study_instance_uid"]
    }
    assert {one["00080018"]["Value"][0] for one in json} == expected
    assert len(json) == len(expected)


@pytest.mark.parametrize(
    ("accepted", "coding"),
    [
        ("gzip, deflate, br, zstd", "deflate"),  # browsers
        ("deflate;q=0.5", "deflate"),
        ("gzip;q=1.0, DEFLATE", "deflate"),
        ("gzip", None),
        ("identity", None),
        ("deflate;q=0, identity", None),
        ("deflate;q=0.000", None),
        ("*", None),
    ],
)
def test_metadata_goes_out_compressed_where_the_client_takes_it(samples, accepted, coding):
    url = samples.url("slice_01", "study") + "/metadata"
    plain = samples.get(url, headers={"Accept-Encoding": "identity"})
    response = samples.get(url, headers={"Accept-Encoding": accepted})
    assert response.headers.get("content-encoding") == coding
    assert {"Accept", "Accept-Encoding"} <= set(response.headers["vary"].split(", "))
    assert response.content == plain.content
    assert len(response.json()) > 1


def test_metadata_in_a_type_that_we_do_not_make_is_not_acceptable(samples):
    assert samples.get(samples.url("slice_01") + "/metadata", "text/csv").status_code == 406


def references(json, found=None):
    found = [] if found is None else found
    for element in json.values():
        if "BulkDataURI" in element:
            found.append((element["vr"], element["BulkDataURI"]))
        for item in element.get("Value", []) if element["vr"] == "SQ" else []:
            references(item, found)
    return found


@pytest.mark.parametrize("name", sorted(MANIFEST))
def test_every_reference_can_be_followed(samples, name):
    (json,) = samples.get(samples.url(name) + "/metadata").json()
    for _, url in references(json):
        response = samples.get(url)
        assert response.status_code == 200
        assert response.content


def test_bulk_data_inside_a_sequence_is_the_value_itself(samples):
    (json,) = samples.get(samples.url("twelve_lead") + "/metadata").json()
    ((vr, url),) = references(json)[:1]
    assert "/bulkdata/54000100/0/54001010" in url
    expected = pydicom.dcmread(samples.file("twelve_lead")).WaveformSequence[0].WaveformData
    assert samples.get(url, "application/octet-stream").content == expected
    assert vr == "OW"


def test_bulk_data_is_one_part_by_default_type_and_whole(samples):
    url = samples.url("twelve_lead") + "/bulkdata/54000100/0/54001010"
    response = samples.get(url, 'multipart/related; type="application/octet-stream"')
    ((headers, body),) = parts_of(response)
    assert headers["Content-Location"].endswith("/bulkdata/54000100/0/54001010")
    assert body == samples.get(url, "application/octet-stream").content


@pytest.mark.parametrize(
    ("asked", "status", "part"),
    [
        ("bytes=0-9", 206, slice(0, 10)),
        ("bytes=5-", 206, slice(5, None)),
        ("bytes=-7", 206, slice(-7, None)),
        ("bytes=0-99999999999", 206, slice(0, None)),
        ("bytes=99999999-", 416, None),
        ("bytes=9-2", 416, None),
        ("bytes=0-1,3-4", 416, None),
        ("bytes=-0", 416, None),
        ("items=1-2", 200, slice(None)),
    ],
)
@pytest.mark.parametrize("name", ["twelve_lead", "2_explicit_vr_big"])
def test_a_range_of_bulk_data_is_that_range(samples, name, asked, status, part):
    path = "54000100/0/54001010" if name == "twelve_lead" else "7FE00010"
    url = f"{samples.url(name)}/bulkdata/{path}"
    whole = samples.get(url, "application/octet-stream").content
    response = samples.get(url, "application/octet-stream", headers={"Range": asked})
    assert response.status_code == status
    if part is not None:
        assert response.content == whole[part]
    if status == 206:
        first, last = whole.index(response.content), len(response.content)
        assert response.headers["content-range"].endswith(f"/{len(whole)}")
        assert int(response.headers["content-length"]) == last
        assert first >= 0


def test_a_pdf_is_never_run_by_a_browser(samples):
    (json,) = samples.get(samples.url("printout") + "/metadata").json()
    response = samples.get(json["00420011"]["BulkDataURI"])
    assert response.content.startswith(b"%PDF-")
    assert response.headers["content-disposition"] == "attachment"
    assert "sandbox" in response.headers["content-security-policy"]
    assert response.headers["x-content-type-options"] == "nosniff"


@pytest.mark.parametrize(
    ("path", "status"), [("7FE00010x", 400), ("../../etc", 400), ("00100010", 404), ("54000100/9/54001010", 404)]
)
def test_bulk_data_that_is_not_there_is_not_found(samples, path, status):
    assert samples.get(f"{samples.url('twelve_lead')}/bulkdata/{path}").status_code == status


# --------------------------------------------------------------------------------------------------------- frames

IMAGES = sorted(name for name, entry in MANIFEST.items() if entry["frames"])
NATIVE = {EXPLICIT, DEFLATED, *NEVER_SENT}
JPEG_LS, LOSSY = "1.2.840.10008.1.2.4.80", {"1.2.840.10008.1.2.4.50", "1.2.840.10008.1.2.4.91"}
AS_STORED_FRAMES = 'multipart/related; type="application/octet-stream"; transfer-syntax="*"'


@pytest.mark.parametrize("name", IMAGES)
def test_every_frame_is_the_frame_that_pydicom_finds(samples, name):
    entry = MANIFEST[name]
    content = pydicom.dcmread(samples.file(name))
    numbers = range(1, entry["frames"] + 1)
    response = samples.get(f"{samples.url(name)}/frames/{','.join(map(str, numbers))}", AS_STORED_FRAMES)
    parts = list(parts_of(response))
    assert [headers["Content-Location"].rsplit("/", 1)[1] for headers, _ in parts] == list(map(str, numbers))
    if entry["transfer_syntax"] not in NATIVE:
        expected = list(
            pydicom.encaps.generate_frames(
                content.PixelData,
                number_of_frames=entry["frames"],
                extended_offsets=(content.ExtendedOffsetTable, content.ExtendedOffsetTableLengths)
                if "ExtendedOffsetTable" in content
                else None,
            )
        )
        assert [body for _, body in parts] == expected
        return
    kinds = {headers["Content-Type"] for headers, _ in parts}
    assert kinds == {f"application/octet-stream; transfer-syntax={EXPLICIT}"}
    pixels = content.pixel_array.reshape(entry["frames"], -1)
    for (_, body), frame in zip(parts, pixels, strict=True):
        if content.BitsAllocated == 1:
            packed = np.packbits(frame, bitorder="little").tobytes()
            assert body == packed
        elif content.get("PlanarConfiguration", 0) == 1:
            planes = np.frombuffer(body, frame.dtype).reshape(3, -1).T.reshape(-1)
            assert np.array_equal(planes, frame)
        else:
            assert np.array_equal(np.frombuffer(body, frame.dtype.newbyteorder("<")), frame)


def test_frames_come_in_the_order_asked(samples):
    url = samples.url("colour_loop")
    ordered = [body for _, body in parts_of(samples.get(f"{url}/frames/3,1,2"))]
    again = [body for _, body in parts_of(samples.get(f"{url}/frames/1%2C2%2C3"))]
    assert ordered == [again[2], again[0], again[1]]


@pytest.mark.parametrize(
    ("frames", "status"),
    [("0", 400), ("-1", 400), ("1.5", 400), ("x", 400), ("1,1", 400), ("1,,2", 400), ("13", 404), ("1,13", 404)],
)
def test_frames_that_cannot_be_are_refused(samples, frames, status):
    assert samples.get(f"{samples.url('colour_loop')}/frames/{frames}").status_code == status


def test_frames_of_what_is_no_image_are_not_found(samples):
    for name in ("twelve_lead", "printout", "report/report"):
        assert samples.get(samples.url(name) + "/frames/1").status_code == 404


# What viewers literally send for a frame; every line is answered.
FRAME_ACCEPTS = [
    'multipart/related; type="application/octet-stream"; transfer-syntax="*"',
    "multipart/related; type=application/octet-stream; transfer-syntax=*",
    'multipart/related; type="image/jls"; transfer-syntax="1.2.840.10008.1.2.4.80"; transfer-syntax="*"',
    "*/*",
    "",
]


@pytest.mark.parametrize("accept", FRAME_ACCEPTS)
@pytest.mark.parametrize("name", ["slice_01", "colour_loop", "5_jpeg_2000", "4_rle", "3_deflated", "masks"])
def test_each_viewers_frame_request_is_answered(samples, name, accept):
    response = samples.get(samples.url(name) + "/frames/1", accept)
    assert response.status_code == 200
    ((headers, body),) = parts_of(response)
    syntax = samples.entry(name)["transfer_syntax"]
    expected = EXPLICIT if syntax in NATIVE or (accept in ("", "*/*") and syntax not in LOSSY) else syntax
    if syntax in NATIVE and JPEG_LS in accept and name != "masks":
        expected = JPEG_LS  # what is compressed already is fine, single bits cannot be
    assert headers["Content-Type"].endswith(f"; transfer-syntax={expected}")
    assert response.content.startswith(b"--")
    assert body


def test_a_frame_on_its_own_is_single_part_when_asked_so(samples):
    response = samples.get(samples.url("slice_01") + "/frames/1", "application/octet-stream")
    assert response.headers["content-type"] == f"application/octet-stream; transfer-syntax={EXPLICIT}"
    assert len(response.content) == 189 * 189 * 2
    again = samples.get(
        samples.url("slice_01") + "/frames/1",
        "application/octet-stream",
        headers={"If-None-Match": response.headers["etag"]},
    )
    assert again.status_code == 304


# ---------------------------------------------------------------------------------------------------------- pure


def test_frame_numbers_are_read():
    assert frame_numbers("3,1,2") == (3, 1, 2)
    with pytest.raises(BadRequest):
        frame_numbers(",".join(map(str, range(1, 20_000))))


@pytest.mark.parametrize("text", ["", "1,", "١", "1e3", "9999999999"])
def test_what_is_no_frame_number_is_refused(text):
    with pytest.raises(GatewayError):
        frame_numbers(text)


@pytest.mark.parametrize(
    ("text", "expected"),
    [("bytes=0-0", (0, 1)), ("bytes=-5", (95, 100)), ("bytes=-500", (0, 100)), ("bytes=-", None), ("bytes=100-", None)],
)
def test_a_range_is_read(text, expected):
    assert byte_range(text, 100) == expected


# ------------------------------------------------------------------------------------------- objects that are broken


def test_an_object_that_was_cut_is_an_error_of_its_own_and_counted(start_gateway):
    """Alone it is 500; among others the answer is broken off where it would begin; nothing short looks whole (W24)."""
    gateway = start_gateway("--workers", "1")
    entries = [entry for name, entry in sorted(MANIFEST.items()) if "slice_0" in name][:3]
    run_command("import", *(SAMPLES / entry["file"] for entry in entries), "--data", gateway.data)
    objects = {path.stem.split("_")[0]: path for path in gateway.data.glob("objects/**/*.dcm")}
    paths = [objects[entry["sop_instance_uid"]] for entry in entries] if len(objects) == 3 else list(objects.values())
    broken = paths[1]
    broken.chmod(0o600)
    os.truncate(broken, 30_000)
    url = f"/studies/{entries[0]['study_instance_uid']}/series/{entries[0]['series_instance_uid']}"
    with httpx.Client(base_url=gateway.dicomweb, timeout=30) as client:
        codes = []
        for entry in entries:
            for resource in ("", "/frames/1", "/rendered", "/metadata"):
                answer = client.get(f"{url}/instances/{entry['sop_instance_uid']}{resource}", headers={"Accept": "*/*"})
                codes.append(answer.status_code)
        assert sorted(codes) == [200] * 9 + [500] * 3  # metadata is kept apart
        with pytest.raises(httpx.RemoteProtocolError):
            client.get(url, headers={"Accept": AS_STORED})
        figures = client.get(f"{gateway.url}/metrics").text
    assert 'gateway_integrity_failures_total{door="web"} 4.0' in figures
    assert [line["event"] for line in gateway.lines() if line.get("error") == "CorruptObject"].count("http.failed") == 4
