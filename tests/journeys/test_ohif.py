"""OHIF in headless Chromium over a real gateway: what it lists and shows, and that no request of it fails."""

from __future__ import annotations

import io
import time

import numpy as np
import pytest
from PIL import Image

from tests.fix_samples import MANIFEST

STUDIES = {name.partition("/")[0] for name in MANIFEST}


@pytest.fixture(autouse=True)
def no_request_fails(ohif):
    ohif.troubles.clear()
    yield
    assert ohif.troubles == []


def picture(ohif, selector="canvas"):
    """What the largest canvas shows."""
    widths = {one: (one.bounding_box() or {"width": 0})["width"] for one in ohif.page.locator(selector).all()}
    if not widths:
        return np.zeros((1, 1, 3), int)  # one gives way to the next
    canvas = max(widths, key=widths.get)
    return np.asarray(Image.open(io.BytesIO(canvas.screenshot())).convert("RGB")).astype(int)


def shows(ohif, is_right, seconds=40):
    """Wait until the picture is as it should be; returns it."""
    until = time.monotonic() + seconds
    while True:
        found = picture(ohif)
        if is_right(found):
            return found
        assert time.monotonic() < until, "the canvas does not show it"
        time.sleep(0.25)


def is_grey_image(found):
    """Not one colour, and grey but for what is written on it."""
    spread = found.max(axis=2) - found.min(axis=2)
    return found.std() > 15 and (spread > 40).mean() < 0.05


def test_the_study_list_has_every_study(ohif):
    ohif.page.goto(f"{ohif.origin}/")
    for text in (
        "Weißmüller, Jörg",
        "Ковалёва, Анна Сергеевна",
        "Παπακώστας, Νίκος",
        "Display and decoder test patterns",
    ):
        ohif.page.get_by_text(text, exact=False).first.wait_for(timeout=60_000)
    ohif.page.get_by_text(f"1-{len(STUDIES)} of {len(STUDIES)}").wait_for(timeout=10_000)


@pytest.mark.parametrize("folder", ["mr_head_mizuno", "mr_encodings"])
def test_a_grey_series_is_shown(ohif, folder):
    ohif.open(folder)
    shows(ohif, is_grey_image)


def test_a_colour_loop_is_shown_in_its_colours(ohif):
    ohif.open("us_heart_kovaleva")

    def is_coloured(found):
        red = (found[..., 0] > 150) & (found[..., 2] < 80)
        green = (found[..., 1] > 150) & (found[..., 0] < 120)
        return red.mean() > 0.002 and green.mean() > 0.0002

    shows(ohif, is_coloured)


def test_colour_by_plane_is_shown_in_its_colours(ohif):
    """Bars of white, yellow, cyan, green, magenta, red, blue and black."""
    ohif.open("patterns_constance")

    def has_bars(found):
        corners = [(255, 255, 0), (0, 255, 255), (0, 255, 0), (255, 0, 255), (255, 0, 0), (0, 0, 255)]
        return all((np.abs(found - corner).max(axis=2) < 30).mean() > 0.02 for corner in corners)

    shows(ohif, has_bars)


def test_a_stack_its_segmentation_and_its_report_are_shown(ohif):
    ohif.open("ct_abdomen_weissmueller")
    first = shows(ohif, is_grey_image)
    ohif.page.locator("canvas").first.hover()
    for _ in range(8):
        ohif.page.mouse.wheel(0, 100)
        time.sleep(0.1)
    shows(ohif, lambda found: is_grey_image(found) and np.abs(found - first).mean() > 1)
    ohif.page.get_by_text("Segmentierung", exact=False).first.dblclick()
    shows(ohif, lambda found: found.std() > 15 and (found.max(axis=2) - found.min(axis=2) > 40).mean() > 0.005)
    ohif.page.get_by_text("Befund", exact=True).first.dblclick()
    ohif.page.get_by_text("Leber", exact=False).first.wait_for(timeout=30_000)


def test_an_ecg_and_a_pdf_open(ohif):
    ohif.open("ecg_haddad")
    shows(ohif, lambda found: ((found[..., 0] > 120) & (found[..., 2] < 90)).mean() > 0.001)
    ohif.page.get_by_text("DOC", exact=True).first.dblclick()
    ohif.page.locator("object[type='application/pdf']").wait_for(timeout=30_000, state="attached")
    assert ohif.page.locator("object[type='application/pdf']").get_attribute("data").startswith("blob:")
