"""Codec libraries on one and the same frame: those that are used, and those that could be. One case each way.

Frames are a CT slice of 512 × 512 with 16 bits and a colour photograph of the same size, made of waves and noise, as
flat ones would flatter every codec.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator, Mapping
from functools import partial

import imagecodecs
import jpeg_ls
import numpy as np
from openjpeg.utils import decode as openjpeg_decode
from PIL import Image
from pydicom.pixels.decoders.rle import _rle_decode_frame
from rle.rle import decode_frame, encode_frame

from benchmarks.micro.timing import Case

_SIDE = 512


def _waves(seed: int, amplitude: float, noise: float) -> np.ndarray:
    grid = np.arange(_SIDE) / _SIDE
    dots = np.random.default_rng(seed).normal(0.0, noise, (_SIDE, _SIDE))
    return amplitude * (np.sin(7 * grid)[:, None] * np.cos(11 * grid)[None, :] + 1) + dots


def grey_slice() -> np.ndarray:
    """(512, 512) of 12 bits in 16, as noisy as a CT is."""
    return _waves(1, 1000.0, 25.0).clip(0, 4095).astype(np.uint16)


def colour_photograph() -> np.ndarray:
    """(512, 512, 3) of 8 bits."""
    return np.stack([_waves(seed, 100.0, 4.0).clip(0, 255).astype(np.uint8) for seed in range(3)], axis=-1)


def cases() -> Iterator[Case]:
    """Decoding and encoding by library. Raises ValueError for a wrong result."""
    grey = grey_slice()
    yield from _jpeg(colour_photograph())
    yield from _lossless(grey)
    yield from _run_length(grey)


def _decoding(
    name: str, size: int, decoders: Mapping[str, Callable[[], np.ndarray]], truth: np.ndarray
) -> Iterator[Case]:
    for library, decode in decoders.items():
        if np.abs(np.asarray(decode()).astype(int) - truth.astype(int)).max() > 8:
            message = f"{library} does not decode {name}"
            raise ValueError(message)
        yield Case(f"decode {name}: {library}", decode, size)


def _jpeg(colour: np.ndarray) -> Iterator[Case]:
    target = io.BytesIO()
    Image.fromarray(colour).save(target, "JPEG", quality=90, subsampling=0)
    stream = target.getvalue()
    truth = np.array(Image.open(io.BytesIO(stream)))
    decoders: dict[str, Callable[[], np.ndarray]] = {"pillow": lambda: np.array(Image.open(io.BytesIO(stream)))}
    yield Case(
        "encode JPEG of 8 bits: pillow", lambda: Image.fromarray(colour).save(io.BytesIO(), "JPEG"), colour.nbytes
    )
    yield Case("encode JPEG of 8 bits: imagecodecs", lambda: imagecodecs.jpeg8_encode(colour, 75), colour.nbytes)
    decoders["imagecodecs"] = lambda: imagecodecs.jpeg8_decode(stream)
    yield from _decoding("JPEG of 8 bits", colour.nbytes, decoders, truth)


def _lossless(grey: np.ndarray) -> Iterator[Case]:
    encoders: Mapping[str, tuple[str, Callable[[], bytes | bytearray]]] = {
        "JPEG lossless": ("imagecodecs", lambda: imagecodecs.ljpeg_encode(grey, bitspersample=16)),
        "JPEG-LS": ("imagecodecs", lambda: imagecodecs.jpegls_encode(grey)),
        "JPEG 2000": (
            "imagecodecs",
            lambda: imagecodecs.jpeg2k_encode(grey, codecformat="J2K", reversible=True, mct=False, numthreads=1),
        ),
        "HTJ2K": ("imagecodecs", lambda: imagecodecs.htj2k_encode(grey, reversible=True)),
        "JPEG XL": ("imagecodecs", lambda: imagecodecs.jpegxl_encode(grey, lossless=True, numthreads=1)),
    }
    streams = {name: bytes(encode()) for name, (_, encode) in encoders.items()}
    for name, (library, encode) in encoders.items():
        yield Case(f"encode {name}: {library}", encode, grey.nbytes)
    decoders: Mapping[str, dict[str, Callable[[], np.ndarray]]] = {
        "JPEG lossless": {
            "imagecodecs, libjpeg": lambda: imagecodecs.jpeg8_decode(streams["JPEG lossless"]),
            "imagecodecs, liblj92": lambda: imagecodecs.ljpeg_decode(streams["JPEG lossless"]),
        },
        "JPEG-LS": {"imagecodecs": lambda: imagecodecs.jpegls_decode(streams["JPEG-LS"])},
        "JPEG 2000": {"imagecodecs": lambda: imagecodecs.jpeg2k_decode(streams["JPEG 2000"], numthreads=1)},
        "HTJ2K": {"imagecodecs, OpenJPH": lambda: imagecodecs.htj2k_decode(streams["HTJ2K"])},
        "JPEG XL": {"imagecodecs": lambda: imagecodecs.jpegxl_decode(streams["JPEG XL"], numthreads=1)},
    }
    for name in ("JPEG 2000", "HTJ2K"):
        decoders[name]["pylibjpeg-openjpeg"] = partial(openjpeg_decode, streams[name], j2k_format=0)
    decoders["JPEG-LS"]["pyjpegls"] = lambda: jpeg_ls.decode(np.frombuffer(streams["JPEG-LS"], np.uint8))
    for name, libraries in decoders.items():
        yield from _decoding(name, grey.nbytes, libraries, grey)


def _run_length(grey: np.ndarray) -> Iterator[Case]:
    flat = (grey >> 4 << 4).astype("<u2")
    frame = bytes(encode_frame(flat.tobytes(), _SIDE, _SIDE, 1, 16, "<"))

    def as_array(decoded: bytes) -> np.ndarray:
        return np.frombuffer(decoded, "<u2").reshape(_SIDE, _SIDE)

    decoders = {
        "pylibjpeg-rle": lambda: as_array(bytes(decode_frame(frame, _SIDE * _SIDE, 16, "<"))),
        "pydicom": lambda: as_array(bytes(_rle_decode_frame(frame, _SIDE, _SIDE, 1, 16))),
    }
    yield Case("encode RLE: pylibjpeg-rle", lambda: encode_frame(flat.tobytes(), _SIDE, _SIDE, 1, 16, "<"), flat.nbytes)
    yield from _decoding("RLE", flat.nbytes, decoders, flat)
