from __future__ import annotations

import contextlib
import tracemalloc
from itertools import product

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydicom.dataset import Dataset, FileMetaDataset

from gateway.pixels.description import PixelDescription
from gateway.pixels.options import PNG, RenderOptions
from gateway.pixels.overlays import overlays
from gateway.pixels.planes import points_of
from gateway.pixels.render import render
from storage.errors import Undecodable
from tests.gateway.pixels import dcmtk
from tests.gateway.pixels.part10 import BUNDLED, read
from tests.gateway.pixels.synthetic import (
    JPEG_2000,
    NATIVE,
    RLE,
    binary,
    element,
    jpeg2000,
    metadata_of,
    noise,
    picture_of,
    rle,
    sequence,
)

by_dcmtk = pytest.mark.needs("dcmj2pnm")
# The window keeps every pixel below white, so that what is white is overlay.
WINDOW = {"WindowCenter": 4096, "WindowWidth": 8192, "RescaleSlope": 1, "RescaleIntercept": 0}


def packed(bits):
    data = np.packbits(bits.ravel() != 0, bitorder="little").tobytes()
    return data + b"\0" * (len(data) % 2)


def plane(rows, columns, seed=1, frames=None):
    """Noise of single bits; (frames, rows, columns) where frames are asked for."""
    return noise((*((frames,) if frames else ()), rows, columns), "u1", seed) & 1


def image(pixels, *, samples=1, frames=1, bits_stored=12, high_bit=None, **attributes):
    """An image without overlays; pixels: (frames × rows, columns) or (rows, columns, 3)."""
    made = Dataset()
    made.file_meta = FileMetaDataset()
    made.file_meta.TransferSyntaxUID = NATIVE
    made.SOPClassUID, made.SOPInstanceUID = "1.2.840.10008.5.1.4.1.1.7", "1.2.3"
    made.Modality, made.SamplesPerPixel = "OT", samples
    made.PhotometricInterpretation = "MONOCHROME2" if samples == 1 else "RGB"
    made.Rows, made.Columns = pixels.shape[0] // frames, pixels.shape[1]
    if samples == 3:
        made.PlanarConfiguration = 0
    if frames > 1:
        made.NumberOfFrames = frames
    made.BitsAllocated = 8 * pixels.dtype.itemsize
    made.BitsStored = min(bits_stored, made.BitsAllocated)
    made.HighBit = made.BitsStored - 1 if high_bit is None else high_bit
    made.PixelRepresentation = int(pixels.dtype.kind == "i")
    made.PixelData = pixels.tobytes() + b"\0" * (pixels.nbytes % 2)
    made["PixelData"].VR = "OW"
    for keyword, value in ((WINDOW if samples == 1 else {}) | attributes).items():
        setattr(made, keyword, value)
    return made


def add(made, bits=None, group=0x6000, origin=(1, 1), rows=0, columns=0, **elements):
    """Put an overlay plane in; elements by their number, as in ``e0051=("US", 2)``."""
    rows, columns = (bits.shape[-2:]) if bits is not None else (rows, columns)
    given = {"e0010": ("US", rows), "e0011": ("US", columns), "e0040": ("CS", "G"), "e0050": ("SS", list(origin))}
    given |= {"e0100": ("US", 1), "e0102": ("US", 0)}
    if bits is not None:
        given["e3000"] = ("OW", packed(bits))
    for name, (vr, value) in (given | elements).items():
        made.add_new((group << 16) + int(name[1:], 16), vr, value)
    return made


def grey(rows=24, columns=37, frames=1):
    return np.arange(rows * frames * columns, dtype="u2").reshape(rows * frames, columns) % 2000


def saved(made, folder):
    path = folder / "image.dcm"
    made.save_as(path, enforce_file_format=True)
    return path


def white(pixels):
    return (pixels == 255) if pixels.ndim == 2 else (pixels == 255).all(axis=2)


def ours(made_or_path, folder=None, frame_number=1):
    source = read(saved(made_or_path, folder) if folder else made_or_path)
    frame = source.frames[frame_number - 1]
    return picture_of(render(source.metadata, source.transfer_syntax_uid, frame_number, frame, RenderOptions(PNG)))


def compare(made, folder, frame_number=1, *, is_empty=False):
    """Our picture beside DCMTK's: the same points are white, and the rest as it is without overlays."""
    path = saved(made, folder)
    mine = ours(path, frame_number=frame_number)
    window = ["+Wi", "1"] if made.SamplesPerPixel == 1 else []
    theirs, bare = (dcmtk.picture(path, frame_number, *window, which) for which in ("+Omr", "-O"))
    assert np.array_equal(white(mine), white(theirs))
    assert white(mine).any() != is_empty
    rest = ~white(mine)
    assert np.abs(mine[rest].astype(int) - bare[rest].astype(int)).max(initial=0) <= 1


@by_dcmtk
def test_the_overlay_of_a_scanner_is_where_dcmtk_draws_it():
    path = BUNDLED / "examples_overlay.dcm"
    mine = ours(path)
    theirs, bare = (dcmtk.picture(path, 1, "+Wi", "1", *which) for which in ((), ("-O",)))
    drawn = theirs != bare
    assert drawn.sum() > 200
    assert (mine[drawn] == 255).all()
    assert np.abs(mine.astype(int) - theirs.astype(int)).max() <= 1


@by_dcmtk
@pytest.mark.parametrize("vr", ["OB", "OW"])
def test_a_plane_in_its_own_element_is_drawn(tmp_path, vr):
    bits = plane(24, 37)
    compare(add(image(grey()), bits, e3000=(vr, packed(bits))), tmp_path)


@by_dcmtk
def test_all_sixteen_groups_are_drawn_and_none_besides(tmp_path):
    made = image(grey())
    for group in (*range(0x6000, 0x6020, 2), 0x6020, 0x60FE):
        bits = np.zeros((24, 37), "u1")
        bits[(group - 0x6000) // 2 % 24, ::2] = 1
        add(made, bits, group)
    mine = ours(made, tmp_path)
    assert np.flatnonzero(white(mine).any(axis=1)).tolist() == list(range(16))
    compare(made, tmp_path)


def test_a_private_element_of_an_odd_group_is_no_overlay(tmp_path):
    made = image(grey())
    made.add_new(0x60010010, "LO", "SOMEBODY")
    assert not white(ours(made, tmp_path)).any()


@by_dcmtk
@pytest.mark.parametrize("origin", [(1, 1), (5, 7), (0, 0), (-3, -4), (23, 36), (-3, 30), (20, -8), (24, 37)])
@pytest.mark.parametrize("shape", [(24, 37), (9, 5), (40, 50), (1, 60)])
def test_a_plane_lies_where_its_origin_says(tmp_path, origin, shape):
    bits = plane(*shape) if shape[0] > 1 else np.ones(shape, "u1")
    rows, columns = np.indices(shape)
    reference = np.zeros((24, 37), bool)
    for row, column in zip((rows + origin[0] - 1)[bits == 1], (columns + origin[1] - 1)[bits == 1], strict=True):
        if 0 <= row < 24 and 0 <= column < 37:
            reference[row, column] = True
    made = add(image(grey()), bits, origin=origin)
    assert np.array_equal(white(ours(made, tmp_path)), reference)
    compare(made, tmp_path, is_empty=not reference.any())


@pytest.mark.parametrize("origin", [(25, 1), (1, 38), (-23, 1), (1, -36), (32767, 32767), (-32768, -32768)])
def test_a_plane_beside_the_image_is_not_seen(tmp_path, origin):
    assert not white(ours(add(image(grey()), np.ones((24, 37)), origin=origin), tmp_path)).any()


@by_dcmtk
@pytest.mark.parametrize("photometric", ["MONOCHROME1", "MONOCHROME2"])
@pytest.mark.parametrize("dtype", ["u2", "i2"])
@pytest.mark.parametrize("position", [12, 15])
def test_a_plane_in_bits_above_the_pixels_is_drawn(tmp_path, photometric, dtype, position):
    bits = plane(24, 37)
    stored = grey() | (bits.astype("u2") << position) | (plane(24, 37, 2).astype("u2") << 13)
    attributes = {"PhotometricInterpretation": photometric, "WindowCenter": 0, "WindowWidth": 8192}
    made = image(stored.view(dtype), **attributes)
    compare(add(made, rows=24, columns=37, e0100=("US", 16), e0102=("US", position)), tmp_path)


@by_dcmtk
def test_a_plane_in_bits_below_the_pixels_is_drawn(tmp_path):
    stored = (grey() << 4) | (plane(24, 37).astype("u2") << 2)
    made = image(stored, high_bit=15)
    compare(add(made, rows=24, columns=37, e0100=("US", 16), e0102=("US", 2)), tmp_path)


@by_dcmtk
@pytest.mark.parametrize("position", [0, 7, 11])
def test_a_plane_that_would_be_the_pixels_themselves_is_none(tmp_path, position):
    made = add(image(grey()), rows=24, columns=37, e0100=("US", 16), e0102=("US", position))
    compare(made, tmp_path, is_empty=True)


@pytest.mark.parametrize(("origin", "shape"), [((-5, -6), (30, 40)), ((3, 4), (60, 60)), ((-2, 2), (10, 11))])
def test_an_embedded_plane_of_another_size_is_drawn_as_far_as_there_are_bits(tmp_path, origin, shape):
    stored = grey() | np.uint16(1 << 14)
    made = add(image(stored), rows=shape[0], columns=shape[1], origin=origin, e0100=("US", 16), e0102=("US", 14))
    top, left = origin[0] - 1, origin[1] - 1
    expected = np.zeros((24, 37), bool)
    bottom, right = top + min(24, shape[0]), left + min(37, shape[1])
    expected[max(0, top) : bottom, max(0, left) : right] = True
    assert np.array_equal(white(ours(made, tmp_path)), expected)


def embedded(stored, position, *, high_bit=11):
    """Metadata of 12 bits with a plane beside them."""
    bits = {"t00280101": element("US", 12), "t00280102": element("US", high_bit)}
    window = {"t00281050": element("DS", 4096), "t00281051": element("DS", 8192)}
    marks = {"60000010": element("US", stored.shape[0]), "60000011": element("US", stored.shape[1])}
    marks |= {"60000100": element("US", 16), "60000102": element("US", position)}
    return metadata_of(stored, **bits, **window) | marks


def test_an_embedded_plane_survives_rle():
    stored = grey() | (plane(24, 37).astype("u2") << 15)
    found = render(embedded(stored, 15), RLE, 1, rle(stored), RenderOptions(PNG))
    assert np.array_equal(white(picture_of(found)), plane(24, 37) == 1)


@pytest.mark.parametrize(("position", "high_bit"), [(15, 11), (3, 15)])
def test_an_embedded_plane_is_lost_where_compression_leaves_its_bits_out(position, high_bit):
    stored = grey(64, 64)
    metadata = embedded(stored, position, high_bit=high_bit) | {"60000010": element("US", 65_535)}
    found = render(metadata, JPEG_2000, 1, jpeg2000(stored, bits_stored=12), RenderOptions(PNG))
    assert not white(picture_of(found)).any()


# Several frames. PS3.3 §C.9.3


@by_dcmtk
@pytest.mark.parametrize("shape", [(24, 37), (8, 16), (5, 7)])
@pytest.mark.parametrize("first", [None, 1, 2])
def test_each_frame_has_its_plane_or_none(tmp_path, shape, first):
    made = image(grey(frames=4), frames=4)
    given = {"e0015": ("IS", 3)} | ({} if first is None else {"e0051": ("US", first)})
    bits = plane(*shape, frames=3)
    add(made, bits, **given)
    for number in range(1, 5):
        index = number - (first or 1)
        expected = np.zeros((24, 37), bool)
        if 0 <= index < 3:
            expected[: shape[0], : shape[1]] = bits[index]
        assert np.array_equal(white(ours(made, tmp_path, number)), expected)
        compare(made, tmp_path, number, is_empty=not expected.any())


@by_dcmtk
def test_one_plane_with_a_frame_origin_is_of_that_frame_alone(tmp_path):
    made = add(image(grey(frames=3), frames=3), plane(24, 37), e0015=("IS", 1), e0051=("US", 2))
    for number in (1, 2, 3):
        compare(made, tmp_path, number, is_empty=number != 2)


def test_one_plane_that_knows_no_frames_lies_over_all(tmp_path):
    bits = plane(24, 37)
    made = add(image(grey(frames=3), frames=3), bits)
    for number in (1, 2, 3):
        assert np.array_equal(white(ours(made, tmp_path, number)), bits == 1)


def test_an_origin_of_0_is_the_first_frame(tmp_path):
    bits = plane(24, 37, frames=2)
    made = add(image(grey(frames=2), frames=2), bits, e0015=("IS", 2), e0051=("US", 0))
    for number in (1, 2):
        assert np.array_equal(white(ours(made, tmp_path, number)), bits[number - 1] == 1)


# Regions of interest, colour, thumbnails


def test_of_a_region_only_the_outline_is_drawn(tmp_path):
    bits = np.zeros((24, 37), "u1")
    bits[3:12, 4:20] = 1
    bits[6:8, 8:10] = 0
    bits[20, 30] = 1
    bits[15:, :3] = 1
    expected = np.zeros((24, 37), bool)
    for row, column in zip(*np.nonzero(bits), strict=True):
        around = ((row - 1, column), (row + 1, column), (row, column - 1), (row, column + 1))
        expected[row, column] = not all(0 <= y < 24 and 0 <= x < 37 and bits[y, x] for y, x in around)
    made = add(image(grey()), bits, e0040=("CS", "R"))
    assert np.array_equal(white(ours(made, tmp_path)), expected)
    assert 0 < expected.sum() < bits.sum()


def test_a_region_that_goes_on_beside_the_image_has_no_edge_there(tmp_path):
    made = add(image(grey()), np.ones((30, 50)), origin=(-2, -2), e0040=("CS", "R"))
    assert not white(ours(made, tmp_path)).any()


@pytest.mark.parametrize("planar", [0, 1])
def test_overlays_of_colour_are_white_and_leave_the_frame_alone(tmp_path, planar):
    pixels = noise((24, 36, 3), "u1") // 2
    made = image(pixels, samples=3, bits_stored=8, PlanarConfiguration=planar)
    if planar:
        made.PixelData = np.ascontiguousarray(pixels.transpose(2, 0, 1)).tobytes()
    source = read(saved(add(made, plane(24, 36)), tmp_path))
    frame = memoryview(source.frames[0])
    found = picture_of(render(source.metadata, NATIVE, 1, frame, RenderOptions(PNG)))
    assert np.array_equal(found, np.where(plane(24, 36)[..., None] == 1, 255, pixels))
    assert bytes(frame) == made.PixelData


def test_a_palette_image_has_white_overlays():
    tables = {f"t0028110{n}": element("US", 2, 0, 8) for n in (1, 2, 3)}
    tables |= {f"t0028120{n}": binary(bytes((0, 100))) for n in (1, 2, 3)}
    metadata = metadata_of(np.zeros((6, 8), "u1"), "PALETTE COLOR", **tables) | of_plane(plane(6, 8))
    shown = picture_of(render(metadata, NATIVE, 1, bytes(48), RenderOptions(PNG)))
    assert shown.shape == (6, 8, 3)
    assert np.array_equal(white(shown), plane(6, 8) == 1)


def of_plane(bits, group="6000", **elements):
    """The elements of a plane as metadata."""
    made = {"0010": element("US", bits.shape[-2]), "0011": element("US", bits.shape[-1]), "3000": binary(packed(bits))}
    return {group + name.removeprefix("e"): value for name, value in (made | elements).items()}


@pytest.mark.parametrize("options", [{}, {"e3000": {"vr": "OW", "InlineBinary": "AA=="}}], ids=["whole", "damaged"])
def test_a_thumbnail_never_shows_overlays(options):
    array = np.arange(64, dtype="u1").reshape(8, 8)
    plain = metadata_of(array)
    small = RenderOptions(PNG, is_thumbnail=True)
    marked = plain | of_plane(np.ones((8, 8)), **options)
    assert render(marked, NATIVE, 1, array.tobytes(), small) == render(plain, NATIVE, 1, array.tobytes(), small)


# What strangers write

FRAME = bytes(range(64))
PLAIN = metadata_of(np.frombuffer(FRAME, "u1").reshape(8, 8))
WORDS = metadata_of(np.zeros((8, 8), "u2"), t00280101=element("US", 12), t00280102=element("US", 11))


def shown(metadata, frame=FRAME):
    return render(metadata, NATIVE, 1, frame, RenderOptions(PNG))


@pytest.mark.parametrize(
    "elements",
    [
        {"e3000": binary(bytes(7))},
        {"e3000": {"vr": "OW", "InlineBinary": "é"}},
        {"e3000": {"vr": "OW", "InlineBinary": "A"}},
        {"e3000": {"vr": "OW", "BulkDataURI": "elsewhere"}},
        {"e0010": element("US", 65_535), "e0011": element("US", 65_535)},
        {"e0010": element("US", -1)},
        {"e0010": element("US", "many")},
        {"e0011": element("US", 10**40)},
        {"e0015": element("IS", "x")},
        {"e0015": element("IS", 10**12)},
        {"e0051": element("US", -1), "e0015": element("IS", 2)},
    ],
    ids=str,
)
def test_a_plane_that_is_not_what_it_says_is_refused(elements):
    with pytest.raises(Undecodable):
        shown(PLAIN | of_plane(plane(8, 8), **elements))


@pytest.mark.parametrize("elements", [{"e0010": element("US", 0)}, {"e0011": {"vr": "US"}}, {"e3000": {"vr": "OW"}}])
def test_a_plane_without_points_is_none(elements):
    assert shown(PLAIN | of_plane(plane(8, 8), **elements)) == shown(PLAIN)


def test_an_origin_that_is_none_is_the_first_pixel():
    for origin in ([], [None, None], ["x", 1], [1e300 * 1e300, 1]):
        found = shown(PLAIN | of_plane(plane(8, 8), e0050={"vr": "SS", "Value": origin}))
        assert found == shown(PLAIN | of_plane(plane(8, 8)))


@pytest.mark.parametrize("position", [-1, 16, 65_535, 10**20, "x", None])
def test_a_bit_position_beyond_the_pixels_is_refused(position):
    marked = WORDS | {"60000010": element("US", 8), "60000011": element("US", 8), "60000100": element("US", 16)}
    with pytest.raises(Undecodable):
        shown(marked | {"60000102": element("US", position)}, bytes(128))


def test_a_plane_in_the_bits_of_colour_floats_or_single_bits_is_none():
    marks = {"60000010": element("US", 8), "60000011": element("US", 8), "60000100": element("US", 16)}
    marks |= {"60000102": element("US", 0)}
    for array in (noise((8, 8, 3), "u1"), np.linspace(0, 1, 64, dtype="f4").reshape(8, 8)):
        plain = metadata_of(array)
        assert shown(plain | marks, array.tobytes()) == shown(plain, array.tobytes())
    single = {"t00280100": element("US", 1), "t00280101": element("US", 1), "t00280102": element("US", 0)}
    mask = metadata_of(np.zeros((8, 8), "u1"), **single)
    assert shown(mask | marks, bytes(range(8))) == shown(mask, bytes(range(8)))


def test_no_size_that_is_only_said_takes_memory():
    huge = {"0010": element("US", 65_535), "0011": element("US", 65_535)}
    own = {f"6000{name}": value for name, value in huge.items()} | {"60003000": binary(bytes(64))}
    inside = {f"6002{name}": value for name, value in huge.items()}
    inside |= {"60020100": element("US", 16), "60020102": element("US", 12)}
    words = np.full((8, 8), 1 << 12, "u2").tobytes()
    tracemalloc.start()
    try:
        assert white(picture_of(shown(WORDS | inside, words))).all()
        with pytest.raises(Undecodable):
            shown(WORDS | own, words)
        assert tracemalloc.get_traced_memory()[1] < 16 << 20
    finally:
        tracemalloc.stop()


numbers = st.integers(-2, 20) | st.integers() | st.floats() | st.sampled_from(["1", "8", "x", "", None, [], {}])
TAGS = [*product(("6000", "601E", "6001"), ("0010", "0011", "0015", "0040", "0050", "0051", "0100", "0102", "3000"))]
hostile = st.dictionaries(
    st.sampled_from(TAGS).map("".join),
    st.lists(numbers, max_size=3).map(lambda values: {"vr": "US", "Value": values})
    | st.text("Aa0/=é", max_size=24).map(lambda text: {"vr": "OW", "InlineBinary": text})
    | st.binary(max_size=12).map(binary)
    | st.sampled_from([None, [], "x", {}, {"Value": {}}, {"InlineBinary": 1}]),
    max_size=9,
)


@given(hostile, st.booleans())
def test_hostile_planes_are_drawn_or_refused(marks, is_sized):
    sized = {"60000010": element("US", 8), "60000011": element("US", 8)} if is_sized else {}
    for plain, frame in ((PLAIN, FRAME), (WORDS, bytes(128))):
        with contextlib.suppress(Undecodable):
            shown(plain | marks | sized, frame)


@given(st.integers(1, 9), st.integers(1, 9), st.integers(1, 4), st.data())
def test_the_points_of_a_frame_are_those_that_were_packed(rows, columns, frames, data):
    bits = plane(rows, columns, data.draw(st.integers(0, 99)), frames=frames)
    first = data.draw(st.integers(1, 3))
    metadata = PLAIN | of_plane(bits, e0015=element("IS", frames), e0051=element("US", first))
    metadata |= {"00280008": element("IS", 6)}
    for number in range(1, 7):
        found = list(overlays(metadata, PixelDescription.of(metadata, NATIVE, number)))
        assert len(found) == (first <= number < first + frames)
        for overlay in found:
            assert np.array_equal(points_of(overlay), bits[number - first])


def test_a_frames_own_functional_groups_do_not_matter_to_its_planes():
    metadata = PLAIN | of_plane(plane(8, 8)) | {"52009230": sequence({"00289132": sequence({})})}
    assert len(list(overlays(metadata, PixelDescription.of(metadata, NATIVE, 1)))) == 1
