from __future__ import annotations

import math

import orjson
import pytest

from gateway.pixels.options import GIF, JPEG, PNG, Region, RenderOptions, Viewport, VoiFunction, Window
from storage.errors import BadRequest


@pytest.mark.parametrize(
    "options",
    [
        {"media_type": "image/bmp"},
        {"media_type": "text/html"},
        {"quality": 0},
        {"quality": 101},
        {"quality": -1},
        {"quality": 50, "media_type": PNG},
        {"quality": 50, "media_type": GIF},
        {"window": Window(0, 0)},
        {"window": Window(0, 0.99)},
        {"window": Window(0, -4)},
        {"window": Window(0, 0, VoiFunction.SIGMOID)},
        {"window": Window(0, -1, VoiFunction.LINEAR_EXACT)},
        {"window": Window(math.nan, 1)},
        {"window": Window(0, math.inf)},
        {"window": Window(0, math.nan, VoiFunction.SIGMOID)},
        {"viewport": Viewport(0, 10)},
        {"viewport": Viewport(10, -1)},
        {"viewport": Viewport(8_193, 1)},
        {"viewport": Viewport(1, 8_193)},
        {"viewport": Viewport(10, 10, Region(x=-1))},
        {"viewport": Viewport(10, 10, Region(y=math.inf))},
        {"viewport": Viewport(10, 10, Region(width=0))},
        {"viewport": Viewport(10, 10, Region(height=math.nan))},
        {"is_thumbnail": True, "window": Window(0, 10)},
        {"is_thumbnail": True, "viewport": Viewport(10, 10, Region())},
    ],
)
def test_what_no_picture_can_be_is_a_bad_request(options):
    with pytest.raises(BadRequest):
        RenderOptions(**options)


@pytest.mark.parametrize(
    "options",
    [
        RenderOptions(),
        RenderOptions(quality=1),
        RenderOptions(media_type=JPEG, quality=100),
        RenderOptions(window=Window(-40.5, 1)),
        RenderOptions(window=Window(0, 0.001, VoiFunction.LINEAR_EXACT)),
        RenderOptions(media_type=PNG, viewport=Viewport(8_192, 1, Region(1.5, 2.5, -3.5, None))),
        RenderOptions(media_type=GIF, is_thumbnail=True, viewport=Viewport(64, 64)),
    ],
)
def test_options_reach_a_worker_as_they_are(options):
    assert RenderOptions.from_json(orjson.loads(orjson.dumps(options))) == options
