"""Bulk data and Pixel Data of whole resources, and ZIP files, of a running gateway."""

from __future__ import annotations

import hashlib
import io
import zipfile

import pytest
from pydicom import dcmread

from tests.fix_samples import MANIFEST
from tests.gateway.dicomweb.test_wado import parts_of, references

OCTETS = 'multipart/related; type="application/octet-stream"'


@pytest.mark.parametrize("level", ["study", "series", "instance"])
@pytest.mark.parametrize("name", ["twelve_lead", "slice_01", "rle_colour", "grey_loop"])
def test_every_value_that_metadata_refers_to_is_a_part_with_its_location(samples, level, name):
    """W7"""
    url = samples.url(name, level)
    expected = {found for json in samples.get(f"{url}/metadata").json() for _, found in references(json)}
    parts = list(parts_of(samples.get(f"{url}/bulkdata", OCTETS)))
    found = {headers["Content-Location"].split("/frames/")[0] for headers, _ in parts}
    pixels = {one.removesuffix("/bulkdata/7FE00010") for one in expected if one.endswith("/bulkdata/7FE00010")}
    assert {one.removesuffix("/bulkdata/7FE00010") for one in found} >= pixels
    assert {one for one in found if "/bulkdata/" in one} <= expected
    for headers, body in parts[:3]:
        alone = samples.get(headers["Content-Location"], f"{headers['Content-Type'].split(';')[0]}; transfer-syntax=*")
        assert alone.content == body


@pytest.mark.parametrize("name", ["slice_01", "rle_colour", "grey_loop", "implicit"])
def test_pixel_data_is_that_and_nothing_else(samples, name):
    """W7"""
    url = samples.url(name)
    parts = list(parts_of(samples.get(f"{url}/pixeldata", OCTETS)))
    frames = MANIFEST[samples.entry(name)["file"]]["frames"]
    if name in ("rle_colour", "grey_loop"):
        assert len(parts) == frames
        assert all("/frames/" in headers["Content-Location"] for headers, _ in parts)
    else:
        ((headers, body),) = parts
        assert headers["Content-Location"].endswith("/bulkdata/7FE00010")
        assert body == dcmread(samples.file(name)).PixelData


def test_what_has_no_bulk_data_has_none_to_send(samples):
    url = samples.url("ct_results_weissmueller/report" if "ct_results_weissmueller" in str(MANIFEST) else "report")
    assert samples.get(f"{url}/pixeldata", OCTETS).status_code == 404


def test_bulk_data_of_many_is_multipart_only(samples):
    for resource in ("bulkdata", "pixeldata"):
        answer = samples.get(f"{samples.url('slice_01', 'series')}/{resource}", "application/octet-stream")
        assert answer.status_code == 406
        assert "there is only multipart/related of it" in answer.json()["reason"]


@pytest.mark.parametrize("level", ["study", "series"])
def test_a_zip_file_holds_every_instance_as_it_is_stored(samples, level):
    entry = samples.entry("slice_01")
    key = "study_instance_uid" if level == "study" else "series_instance_uid"
    expected = {one["sop_instance_uid"] for one in MANIFEST.values() if one[key] == entry[key]}
    answer = samples.get(samples.url("slice_01", level), "application/zip")
    assert (answer.status_code, answer.headers["content-type"]) == (200, "application/zip")
    assert answer.headers["content-disposition"] == f'attachment; filename="{entry[key]}.zip"'
    with zipfile.ZipFile(io.BytesIO(answer.content)) as found:
        assert found.testzip() is None
        assert {name.rsplit("/")[-1].removesuffix(".dcm") for name in found.namelist()} == expected
        for name in found.namelist()[:3]:
            url = "/studies/{}/series/{}/instances/{}".format(*name.removesuffix(".dcm").split("/"))
            alone = samples.get(url, "application/dicom; transfer-syntax=*").content
            assert hashlib.sha256(found.read(name)).digest() == hashlib.sha256(alone).digest()


def test_the_same_zip_is_the_same_bytes(samples):
    url = samples.url("slice_01", "series")
    assert samples.get(url, "application/zip").content == samples.get(f"{url}?accept=application/zip").content
