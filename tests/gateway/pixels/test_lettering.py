from __future__ import annotations

import io
from itertools import groupby
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageFont

from gateway.pixels.annotation import annotated
from gateway.pixels.lettering import _first, _shortened, font, write_corners, written
from gateway.pixels.options import PNG, Annotation, Region, RenderOptions, Viewport
from gateway.pixels.render import render
from tests.gateway.pixels.part10 import BUNDLED, read
from tests.gateway.pixels.synthetic import NATIVE, element, metadata_of, noise, picture_of

TOP = ["DOE, JANE", "ID 4711", "1970-01-31  F"]
BOTTOM = ["CT  HEAD", "120 kV"]
DEJAVU = Path("/usr/share/fonts/truetype/dejavu/DejaVuSans.ttf")


def marked(size, top=TOP, bottom=BOTTOM, ground=128, mode="L"):
    """Where a picture is another one for its text, as (rows, columns) of bool, and the picture."""
    image = Image.new(mode, size, ground if mode == "L" else (ground,) * 3)
    before = np.array(image)
    write_corners(image, top, bottom)
    assert (image.size, image.mode) == (size, mode)
    after = np.array(image)
    changed = before != after
    return (changed if changed.ndim == 2 else changed.any(axis=2)), after


def bands(changed):
    """First row and the one behind the last of each line of text."""
    runs = [(is_text, len(list(run))) for is_text, run in groupby(changed.any(axis=1).tolist())]
    ends = np.cumsum([length for _, length in runs]).tolist()
    return [(end - length, end) for (is_text, length), end in zip(runs, ends, strict=True) if is_text]


def right_end(changed):
    return int(np.flatnonzero(changed.any(axis=0))[-1]) + 1


@pytest.mark.parametrize("mode", ["L", "RGB"])
@pytest.mark.parametrize("ground", [0, 128, 255])
def test_lines_stand_in_the_left_corners_and_can_be_seen_on_any_ground(mode, ground):
    changed, after = marked((512, 400), ground=ground, mode=mode)
    lines = bands(changed)
    assert len(lines) == len(TOP) + len(BOTTOM)
    assert lines[0][0] < 16
    assert lines[2][1] < 80
    assert lines[3][0] > 320
    assert lines[4][1] > 384
    assert right_end(changed) < 256
    assert not changed[100:300].any()
    assert after.max() == 255
    assert after.min() == 0
    for first, end in lines:
        levels = after[first:end, : right_end(changed)]
        assert (levels > 200).sum() > 20
        assert (levels < 60).sum() > 20


def test_without_lines_nothing_changes():
    assert not marked((64, 64), [], [])[0].any()
    assert not marked((512, 512), TOP, [])[0][256:].any()
    assert not marked((512, 512), [], BOTTOM)[0][:256].any()


def test_other_words_are_another_picture():
    assert not np.array_equal(marked((512, 512))[1], marked((512, 512), ["DOE, JOHN", *TOP[1:]])[1])


@pytest.mark.parametrize("size", [(4000, 100), (4000, 60), (128, 128), (100, 400), (300, 90)])
def test_lines_never_lie_upon_one_another(size):
    top, bottom = ["ID 4711"] * 5, ["EXAM 12"] * 12
    changed, _ = marked(size, top, bottom)
    lines = bands(changed)
    assert 3 <= len(lines) <= len(top) + len(bottom)
    height = max(end - first for first, end in lines)
    heights = [end - first for first, end in lines]
    dots = [place for place, one in enumerate(heights) if one < height]  # an ellipsis is lower than a line
    assert len(dots) == (len(lines) < len(top) + len(bottom))
    assert all(heights[place + 1 :] == [] or place == len(top) - 1 for place in dots)
    alone = bands(marked(size, top, [])[0])
    assert lines[: len(alone)] == alone


def test_a_tiny_picture_has_the_first_line_at_least():
    for size in ((32, 32), (12, 12), (4000, 12)):
        assert marked(size)[0].any()
    for size in ((1, 1), (32, 1), (1, 32)):
        marked(size)
    changed, _ = marked((32, 32))
    assert bands(changed)[0][0] < 8
    assert np.array_equal(changed, marked((32, 32), [TOP[0], "..."], [])[0])


def test_letters_grow_with_the_picture():
    heights = [bands(marked((side, side))[0])[0] for side in (128, 512, 1024, 4096)]
    sizes = [end - first for first, end in heights]
    assert sizes == sorted(set(sizes))
    assert sizes[-1] < 80


@pytest.mark.parametrize("width", [230, 300, 400])
def test_a_long_line_is_made_smaller_until_it_is_whole(width):
    line = "M" * 30
    changed, _ = marked((width, 512), [line], [])
    assert width * 0.7 < right_end(changed) < width
    assert right_end(marked((width, 512), [line[:-1]], [])[0]) < width


# Characters


def test_a_character_that_no_font_has_is_written_as_its_number():
    for letters in (font(16), ImageFont.load_default(16)):
        assert written("山", letters) == "<5C71>"
        assert written("A 山\U00020bb7", letters) == "A <5C71><20BB7>"
        assert written("\uffff\ue123", letters) == "<FFFF><E123>"
        assert written("Doe, J. <7°>", letters) == "Doe, J. <7°>"
    assert written("Müller Ж", ImageFont.load_default(16)) == "M<00FC>ller <0416>"


@pytest.mark.skipif(not DEJAVU.is_file(), reason="the font DejaVu Sans is not installed")
def test_a_wide_font_has_the_letters_of_europe():
    for name in ("Kowalski, Łukasz Żółć", "Müller, Zoë", "Люкceмбypг", "Διονυσιος", "Ðorđević, Šárka"):
        assert written(name, font(16)) == name
        assert right_end(marked((512, 512), [name], [])[0]) > 60


@pytest.mark.parametrize("width", [20, 64, 90])
def test_a_number_that_has_no_room_is_never_shown_as_if_it_were_whole(width):
    letters = font(8)
    shown = _shortened("ID 1234567890129999", letters, width)
    assert shown.endswith("...")
    assert letters.getlength(shown) <= max(width, letters.getlength("..."))
    assert "ID 1234567890129999".startswith(shown.removesuffix("..."))
    assert _shortened("ID 1", letters, 400) == "ID 1"


def test_lines_that_are_left_out_are_told():
    assert _first(["a", "b", "c"], 2) == ["a", "..."]
    assert _first(["a", "b"], 2) == ["a", "b"]
    assert _first(["a"], 0) == []


def test_numbers_of_characters_can_be_seen():
    known, unknown = (right_end(marked((512, 512), [text], [])[0]) for text in ("<5C71>", "山"))
    assert known == unknown


@given(st.lists(st.text(max_size=64), max_size=4), st.integers(1, 300), st.integers(1, 300))
def test_any_text_is_written_on_any_picture(lines, width, height):
    shown = ["".join(character for character in line if character.isprintable()) for line in lines]
    marked((width, height), shown, shown[::-1])


# In the picture of an object


def picture(source, annotation, **options):
    metadata = source.metadata | annotated(source.metadata, annotation, 1)
    wanted = RenderOptions(PNG, annotation=annotation, **options)
    return picture_of(render(metadata, source.transfer_syntax_uid, 1, source.frames[0], wanted))


def test_an_annotated_picture_is_the_same_one_but_for_its_corners():
    source = read(BUNDLED / "examples_overlay.dcm")
    plain = picture(source, ())
    patient, technique = Annotation.PATIENT, Annotation.TECHNIQUE
    changes = {kinds: plain != picture(source, kinds) for kinds in ((patient,), (technique,), (patient, technique))}
    top, bottom, both = changes.values()
    assert top[:20].any()
    assert not top[150:].any()
    assert bottom[-20:].any()
    assert not bottom[:100].any()
    assert both[:20].any()
    assert both[-20:].any()
    assert right_end(both) < plain.shape[1] * 0.75


def test_text_is_read_from_left_to_right_in_a_mirrored_picture_of_any_size():
    array = np.full((300, 400), 100, "u1")
    metadata = metadata_of(array, t00281050=element("DS", 127), t00281051=element("DS", 256))
    metadata |= annotated({"00100020": element("LO", "4711")}, [Annotation.PATIENT], 1)
    found = []
    for region in (None, Region(0, 0, -400, 300), Region(0, 0, 400, -300), Region(10, 10, 200, 150)):
        options = RenderOptions(PNG, viewport=Viewport(800, 600, region), annotation=(Annotation.PATIENT,))
        found.append(picture_of(render(metadata, NATIVE, 1, array.tobytes(), options)))
    assert all(np.array_equal(found[0], other) for other in found[1:])
    assert found[0].max() == 255


@pytest.mark.parametrize("shape", [(40, 50), (40, 50, 3)])
def test_a_jpeg_and_a_gif_are_annotated_too(shape):
    array = noise(shape, "u1") // 2
    metadata = metadata_of(array) | annotated({"00100020": element("LO", "4711")}, [Annotation.PATIENT], 1)
    for media_type in ("image/jpeg", "image/gif"):
        plain, shown = (
            render(metadata, NATIVE, 1, array.tobytes(), RenderOptions(media_type, annotation=kinds))
            for kinds in ((), (Annotation.PATIENT,))
        )
        with Image.open(io.BytesIO(shown)) as image:
            assert image.size == (50, 40)
        assert plain != shown
