"""What a picture needs beyond the summary of its pixels, from instances as they are stored."""

from __future__ import annotations

import io
from urllib.parse import urlencode

import numpy as np
import orjson
import pytest
from PIL import Image
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.filewriter import dcmwrite

from gateway import particulars
from gateway.particulars import completed, whole_of
from gateway.pixels.icc import MAXIMUM_PROFILE_BYTES, profile
from gateway.pixels.options import PNG, IccProfile, RenderOptions
from gateway.pixels.pool import RenderPool
from gateway.pixels.summary import Summary
from storage.dicomjson import unpack_metadata
from storage.model import Scope, Source
from storage.stored import StoredDataSet
from tests.fix_application import Here
from tests.synthetic import BIG_ENDIAN, DEFLATED, EXPLICIT, IMPLICIT

URL = "/dicomweb/studies/1.2.3/series/1.2.3.4/instances/1.2.3.4.5"
SCOPE = Scope("1.2.3", "1.2.3.4", "1.2.3.4.5")
SYNTAXES = [EXPLICIT, IMPLICIT, BIG_ENDIAN, DEFLATED]
in_each_syntax = pytest.mark.parametrize("syntax", SYNTAXES, ids=["explicit", "implicit", "big endian", "deflated"])


@pytest.fixture(scope="module")
def pool():
    with RenderPool(1) as running:
        yield running


@pytest.fixture
def here(archive, pool):
    return Here(archive, pool)


def noise(*shape, below=2, seed=1):
    return np.random.default_rng(seed).integers(0, below, shape, "u1")


def packed(bits):
    data = np.packbits(bits.ravel(), bitorder="little").tobytes()
    return data + b"\0" * (len(data) % 2)


def image(pixels, *, frames=1, photometric="", **attributes):
    """pixels: (frames × rows, columns) or (rows, columns, 3), below white in the window that is given."""
    made = Dataset()
    made.SOPClassUID, made.SOPInstanceUID = "1.2.840.10008.5.1.4.1.1.7", "1.2.3.4.5"
    made.StudyInstanceUID, made.SeriesInstanceUID = "1.2.3", "1.2.3.4"
    made.PatientName, made.PatientID, made.Modality, made.StudyDate = "Doe^Jane", "4711", "OT", "20240131"
    made.SamplesPerPixel = 3 if pixels.ndim == 3 else 1
    made.PhotometricInterpretation = photometric or ("RGB" if pixels.ndim == 3 else "MONOCHROME2")
    if pixels.ndim == 3:
        made.PlanarConfiguration = 0
    if frames > 1:
        made.NumberOfFrames = frames
    made.Rows, made.Columns = pixels.shape[0] // frames, pixels.shape[1]
    made.BitsAllocated = made.BitsStored = 8 * pixels.dtype.itemsize
    made.HighBit, made.PixelRepresentation = made.BitsStored - 1, 0
    if pixels.ndim == 2 and not photometric:
        made.WindowCenter, made.WindowWidth = 256, 512
    made.add_new("PixelData", "OW", pixels.tobytes() + b"\0" * (pixels.nbytes % 2))
    for keyword, value in attributes.items():
        setattr(made, keyword, value)
    return made


def add_plane(made, bits, group=0x6000, vr="OW", **elements):
    given = {"0010": ("US", bits.shape[-2]), "0011": ("US", bits.shape[-1]), "0040": ("CS", "G")}
    given |= {"0050": ("SS", [1, 1]), "0100": ("US", 1), "0102": ("US", 0), "3000": (vr, packed(bits))}
    given |= {name.removeprefix("e"): value for name, value in elements.items()}
    for name, (kind, value) in given.items():
        made.add_new((group << 16) + int(name, 16), kind, value)
    return made


def keep(archive, made, syntax=EXPLICIT):
    """Store it, and return the path of the instance; words of OW, which pydicom leaves alone, are turned round."""
    if syntax == BIG_ENDIAN:
        for element in made.iterall():
            if element.VR == "OW":
                element.value = np.frombuffer(element.value, "<u2").byteswap().tobytes()
    made.file_meta = FileMetaDataset()
    made.file_meta.TransferSyntaxUID = syntax
    target = io.BytesIO()
    dcmwrite(target, made, enforce_file_format=True)
    with archive.spool() as spool:
        spool.write(target.getvalue())
        archive.store(spool, Source("test"))
    return URL


def picture(answer):
    assert answer.status_code == 200, answer.text
    return Image.open(io.BytesIO(answer.content))


def shown(here, url, **query):
    """The picture as an array."""
    return np.array(picture(here.get(f"{url}/rendered?{urlencode(query)}", Accept="image/png")))


def bulk(archive):
    """The paths of values that the metadata only refers to."""
    return set(archive.document(SCOPE).bulk) - {"7FE00010"}


def described(archive, number, options):
    """What a worker is told of a frame, and how many bytes were read for it."""
    document = archive.document(SCOPE)
    summary = Summary.of(orjson.loads(unpack_metadata(document.metadata, "")))
    with archive.open(document.instance) as stored:
        counted = Counted(stored)
        told = completed(summary.of_frame(number), document, counted, number, options, whole_of(document))
    return orjson.loads(told), counted.read_bytes


class Counted:
    """A stored Data Set that counts what is read of it."""

    def __init__(self, stored):
        self._stored = stored
        self.transfer_syntax = stored.transfer_syntax
        self.read_bytes = 0

    def read(self, start, end):
        self.read_bytes += end - start
        return self._stored.read(start, end)

    read_little_endian = StoredDataSet.read_little_endian


# Overlays


@in_each_syntax
@pytest.mark.parametrize("vr", ["OB", "OW"])
@pytest.mark.parametrize(("shape", "is_bulk"), [((200, 190), True), ((23, 37), False)])
def test_an_overlay_is_drawn_wherever_it_is_kept(archive, here, syntax, vr, shape, is_bulk):
    bits = noise(*shape)
    url = keep(archive, add_plane(image(noise(*shape, below=200)), bits, vr="OW" if syntax == IMPLICIT else vr), syntax)
    assert bulk(archive) == ({"60003000"} if is_bulk else set())
    assert np.array_equal(shown(here, url) == 255, bits == 1)


@in_each_syntax
@pytest.mark.parametrize("vr", ["OB", "OW"])
@pytest.mark.parametrize("shape", [(189, 177), (180, 176), (21, 17)])
def test_each_frame_has_its_own_part_of_a_long_overlay(archive, here, syntax, vr, shape):
    bits = noise(3, *shape)
    made = image(noise(5 * shape[0], shape[1], below=200), frames=5)
    vr = "OW" if syntax == IMPLICIT else vr
    url = keep(archive, add_plane(made, bits, vr=vr, e0015=("IS", 3), e0051=("US", 2)), syntax)
    for number in range(1, 6):
        found = np.array(picture(here.get(f"{url}/frames/{number}/rendered", Accept="image/png"))) == 255
        assert np.array_equal(found, bits[number - 2] == 1 if 2 <= number <= 4 else np.zeros(shape, bool))


def test_one_plane_of_a_frame_lies_over_that_frame_alone(archive, here):
    made = image(noise(3 * 190, 180, below=200), frames=3)
    bits = noise(190, 180)
    url = keep(archive, add_plane(made, bits, e0015=("IS", 1), e0051=("US", 3)))
    drawn = [
        (np.array(picture(here.get(f"{url}/frames/{number}/rendered", Accept="image/png"))) == 255).any()
        for number in (1, 2, 3)
    ]
    assert drawn == [False, False, True]


@pytest.mark.parametrize("syntax", [EXPLICIT, BIG_ENDIAN])
def test_of_an_overlay_only_the_part_of_the_frame_is_read(archive, syntax):
    bits = noise(200, 255, 257)
    made = add_plane(image(noise(200 * 4, 4), frames=200), bits, e0015=("IS", 200))
    keep(archive, made, syntax)
    for number in (1, 2, 117, 200):
        told, read_bytes = described(archive, number, RenderOptions(PNG))
        assert read_bytes <= 255 * 257 // 8 + 4
        assert "60000015" not in told
    assert described(archive, 1, RenderOptions(PNG, is_thumbnail=True))[1] == 0


def test_bits_beside_the_pixels_are_an_overlay_in_each_byte_order(archive, here):
    bits = noise(40, 37)
    stored = noise(40, 37, below=200).astype("u2") | (bits.astype("u2") << 14)
    for syntax in (EXPLICIT, BIG_ENDIAN):
        made = image(stored, BitsStored=12, HighBit=11, SOPInstanceUID="1.2.3.4.5")
        add_plane(made, bits, e0100=("US", 16), e0102=("US", 14))
        del made[0x60003000]
        url = keep(archive, made, syntax)
        assert np.array_equal(shown(here, url) == 255, bits == 1)
        archive.delete(SCOPE)


@pytest.mark.parametrize("syntax", [EXPLICIT, BIG_ENDIAN, DEFLATED])
def test_an_overlay_that_ends_too_soon_is_undecodable_and_no_damage_of_the_archive(archive, here, syntax):
    made = image(noise(4 * 190, 180, below=200), frames=4)
    add_plane(made, noise(2, 190, 180), e0015=("IS", 4))
    url = keep(archive, made, syntax)
    answers = [here.get(f"{url}/frames/{number}/rendered") for number in range(1, 5)]
    assert [answer.status_code for answer in answers] == [200, 200, 422, 422]
    assert answers[3].json()["reason"] == "An overlay is truncated"
    assert here.get(f"{url}/frames/4/thumbnail").status_code == 200


def test_a_huge_overlay_that_is_only_said_is_undecodable(archive, here):
    made = add_plane(image(noise(8, 8)), noise(190, 180), e0010=("US", 65_535), e0011=("US", 65_535))
    assert here.get(f"{keep(archive, made)}/rendered").status_code == 422


def test_all_planes_of_a_frame_have_one_limit(archive, here, monkeypatch):
    made = image(noise(190, 180, below=200))
    for group in (0x6000, 0x6002, 0x6004):
        add_plane(made, noise(190, 180, seed=group), group)
    url = keep(archive, made)
    assert here.get(f"{url}/rendered").status_code == 200
    monkeypatch.setattr(particulars, "_MAXIMUM_OVERLAYS_BYTES", 10_000)
    assert here.get(f"{url}/rendered?quality=80").status_code == 413
    assert here.get(f"{url}/thumbnail").status_code == 200


def test_a_thumbnail_is_as_if_there_were_no_overlays(archive, here):
    pixels = noise(190, 180, below=200)
    plain = here.get(f"{keep(archive, image(pixels))}/thumbnail").content
    archive.delete(SCOPE)
    made = add_plane(add_plane(image(pixels), np.ones((190, 180), "u1")), np.ones((9, 9), "u1"), 0x6002)
    assert here.get(f"{keep(archive, made)}/thumbnail").content == plain


# Tables


@in_each_syntax
def test_a_palette_that_is_bulk_data_is_looked_up(archive, here, syntax):
    indices = np.random.default_rng(1).integers(0, 65_536, (30, 40), "u2")
    made = image(indices, photometric="PALETTE COLOR")
    entries = np.arange(65_536)
    tables = [(entries * factor % 65_536).astype("<u2") for factor in (1, 3, 5)]
    for number, table in enumerate(tables):
        made.add_new(0x00281101 + number, "US", [0, 0, 16])
        made.add_new(0x00281201 + number, "OW", table.tobytes())
    url = keep(archive, made, syntax)
    assert bulk(archive) == {"00281201", "00281202", "00281203"}
    expected = np.stack([table[indices] >> 8 for table in tables], axis=-1)
    assert np.array_equal(shown(here, url), expected)
    assert picture(here.get(f"{url}/thumbnail")).mode == "RGB"


@in_each_syntax
@pytest.mark.parametrize("tag", [0x00283000, 0x00283010])
def test_a_look_up_table_that_is_bulk_data_is_looked_up(archive, here, syntax, tag):
    stored = np.random.default_rng(2).integers(0, 65_536, (30, 40), "u2")
    table = (65_535 - np.arange(65_536)).astype("<u2")
    item = Dataset()
    item.add_new(0x00283002, "US", [0, 0, 16])
    item.add_new(0x00283006, "OW", table.tobytes())
    made = image(stored, WindowCenter=32_768, WindowWidth=65_536)
    if tag == 0x00283010:
        del made.WindowCenter, made.WindowWidth
    made.add_new(tag, "SQ", [item])
    url = keep(archive, made, syntax)
    assert bulk(archive) == {f"{tag:08X}/0/00283006"}
    expected = table[stored] / 65_535 * 255
    assert np.abs(shown(here, url) - expected).max() <= 1


# Colour


def scanner(extra_bytes=0, space=IccProfile.ADOBE_RGB):
    """The profile of a scanner, as an object would bring it; an even number of bytes."""
    data = bytearray(profile(space)) + bytes(extra_bytes)
    data[12:16], data[:4] = b"scnr", len(data).to_bytes(4)
    return bytes(data)


def on_a_slide(made, data):
    path = Dataset()
    path.add_new(0x00282000, "OB", data)
    made.add_new(0x00480105, "SQ", [path, Dataset()])
    return made


@in_each_syntax
@pytest.mark.parametrize("extra_bytes", [0, 100_000])
@pytest.mark.parametrize("is_slide", [False, True])
def test_the_objects_profile_goes_out_with_its_picture(archive, here, syntax, extra_bytes, is_slide):
    pixels, data = noise(20, 30, 3, below=256), scanner(extra_bytes)
    made = on_a_slide(image(pixels), data) if is_slide else image(pixels, ICCProfile=data)
    url = keep(archive, made, syntax)
    assert len(bulk(archive)) == bool(extra_bytes)
    for accept in ("image/jpeg", "image/png"):
        found = picture(here.get(f"{url}/rendered?iccprofile=yes", Accept=accept))
        assert found.info["icc_profile"] == data
        assert "icc_profile" not in picture(here.get(f"{url}/rendered", Accept=accept)).info
    assert np.array_equal(shown(here, url, iccprofile="yes"), pixels)
    converted = picture(here.get(f"{url}/rendered?iccprofile=srgb", Accept="image/png"))
    assert converted.info["icc_profile"] == profile(IccProfile.SRGB)
    assert not np.array_equal(np.array(converted), pixels)


@pytest.mark.parametrize(("whole", "path"), [(0, 0), (0, 80_000), (80_000, 0), (80_000, 90_000)])
def test_the_profile_of_the_image_goes_before_that_of_an_optical_path(archive, here, whole, path):
    data = scanner(whole, IccProfile.DISPLAY_P3)
    made = on_a_slide(image(noise(20, 30, 3, below=256), ICCProfile=data), scanner(path))
    url = keep(archive, made)
    assert picture(here.get(f"{url}/rendered?iccprofile=yes")).info["icc_profile"] == data


def test_a_slide_may_only_name_its_space(archive, here):
    made = image(noise(20, 30, 3, below=256))
    path = Dataset()
    path.ColorSpace = "ADOBERGB"
    made.add_new(0x00480105, "SQ", [path])
    found = picture(here.get(f"{keep(archive, made)}/rendered?iccprofile=yes"))
    assert found.info["icc_profile"] == profile(IccProfile.ADOBE_RGB)


def test_colour_without_a_profile_is_taken_for_srgb(archive, here):
    url = keep(archive, image(noise(20, 30, 3, below=256)))
    assert picture(here.get(f"{url}/rendered?iccprofile=yes")).info["icc_profile"] == profile(IccProfile.SRGB)


def test_a_profile_beyond_the_limit_is_not_left_out_in_silence(archive, here):
    url = keep(archive, image(noise(20, 30, 3, below=256), ICCProfile=scanner(MAXIMUM_PROFILE_BYTES)))
    assert here.get(f"{url}/rendered?iccprofile=yes").status_code == 413
    assert here.get(f"{url}/rendered").status_code == 200


def test_a_damaged_profile_is_undecodable_where_it_is_asked_for(archive, here):
    url = keep(archive, image(noise(20, 30, 3, below=256), ICCProfile=b"no profile" * 600))
    for wanted in ("yes", "srgb", "displayp3"):
        assert here.get(f"{url}/rendered?iccprofile={wanted}").status_code == 422
    for query in ("rendered", "rendered?iccprofile=no", "thumbnail"):
        assert here.get(f"{url}/{query}").status_code == 200


def test_a_gif_has_no_profile(archive, here):
    url = keep(archive, image(noise(20, 30, 3, below=256)))
    answer = here.get(f"{url}/rendered?iccprofile=srgb", Accept="image/gif")
    assert (answer.status_code, "ICC" in answer.json()["reason"]) == (400, True)
    assert here.get(f"{url}/rendered?iccprofile=no", Accept="image/gif").status_code == 200


# Annotation


def wado_uri(**query):
    known = {"requestType": "WADO", "studyUID": "1.2.3", "seriesUID": "1.2.3.4", "objectUID": "1.2.3.4.5"}
    return "/wado?" + urlencode(known | {"contentType": "image/png"} | query)


@pytest.mark.parametrize(("kinds", "rows"), [("patient", slice(0, 60)), ("technique", slice(240, 300))])
def test_annotation_is_written_by_both_doors(archive, here, kinds, rows):
    url = keep(archive, image(np.full((300, 400), 90, "u1")))
    plain, marked = shown(here, url), shown(here, url, annotation=kinds)
    changed = (plain != marked).any(axis=1)
    assert changed[rows].any()
    assert not changed[120:180].any()
    assert changed.sum() == changed[: 120 if rows.start == 0 else None].sum()
    answer = here.get(wado_uri(annotation=kinds))
    assert np.array_equal(np.array(picture(answer)), marked)
    rs = here.get(f"{url}/rendered?annotation={kinds}", Accept="image/png")
    assert (answer.content, answer.headers["etag"]) == (rs.content, rs.headers["etag"])


def test_the_patients_name_is_that_of_the_object(archive, here):
    pictures = []
    for name in ("Doe^Jane", "Doe^John", "Łukasiewicz^Żaneta", "Люкceмбypг"):
        made = image(np.full((300, 400), 90, "u1"), PatientName=name, SpecificCharacterSet="ISO_IR 192")
        pictures.append(shown(here, keep(archive, made), annotation="patient").tobytes())
        archive.delete(SCOPE)
    assert len(set(pictures)) == 4


def test_a_frame_is_annotated_with_its_own_values(archive, here):
    made = image(np.full((3 * 300, 400), 90, "u1"), frames=3)
    groups = []
    for thickness in (1, 2, 2):
        measures, group = Dataset(), Dataset()
        measures.SliceThickness = thickness
        group.PixelMeasuresSequence = [measures]
        groups.append(group)
    made.PerFrameFunctionalGroupsSequence = groups
    url = keep(archive, made)
    first, second, third = (
        np.array(picture(here.get(f"{url}/frames/{n}/rendered?annotation=technique", Accept="image/png")))
        for n in (1, 2, 3)
    )
    differing = [np.flatnonzero((one != second).any(axis=1)) for one in (first, third)]
    assert np.ptp(differing[0]) > np.ptp(differing[1]) > 0  # thickness and frame number; frame number


def test_a_thumbnail_knows_neither_annotation_nor_profile(archive, here):
    url = keep(archive, image(noise(190, 180, 3, below=256), ICCProfile=scanner()))
    plain = here.get(f"{url}/thumbnail")
    asked = here.get(f"{url}/thumbnail?annotation=patient,technique&iccprofile=yes")
    assert (asked.content, asked.headers["etag"]) == (plain.content, plain.headers["etag"])
    assert "icc_profile" not in picture(plain).info


# Names of representations

QUERIES = [
    "",
    "annotation=patient",
    "annotation=technique",
    "annotation=patient,technique",
    "iccprofile=yes",
    "iccprofile=srgb",
    "iccprofile=adobergb",
    "iccprofile=rommrgb",
    "iccprofile=displayp3",
    "iccprofile=srgb&annotation=patient",
]


def test_each_way_to_show_a_frame_has_a_name_of_its_own(archive, here):
    url = keep(archive, image(noise(100, 100, 3, below=256), ICCProfile=scanner()))
    answers = [here.get(f"{url}/rendered?{query}") for query in QUERIES]
    assert len({answer.headers["etag"] for answer in answers}) == len(QUERIES)
    assert len({answer.content for answer in answers}) == len(QUERIES)
    for query, answer in zip(QUERIES, answers, strict=True):
        again = here.get(f"{url}/rendered?{query}", **{"If-None-Match": answer.headers["etag"]})
        assert again.status_code == 304


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("annotation=technique,patient", "annotation=patient,technique"),
        ("annotation=patient,patient", "annotation=patient"),
        ("annotation=", ""),
        ("iccprofile=no", ""),
        ("iccprofile=", ""),
        ("iccprofile=SRGB", "iccprofile=srgb"),
    ],
)
def test_the_same_picture_has_one_name(archive, here, one, other):
    url = keep(archive, image(noise(100, 100, 3, below=256)))
    first, second = (here.get(f"{url}/rendered?{query}") for query in (one, other))
    assert (first.content, first.headers["etag"]) == (second.content, second.headers["etag"])
