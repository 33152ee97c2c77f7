"""Part 10 files of every transfer syntax, made by pydicom, DCMTK, imagecodecs and Pillow from ``subjects``.

No code of the gateway has a part in them. PS3.5 §8.2, Annex A
"""

from __future__ import annotations

import hashlib
import io
import tempfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
from PIL import Image
from pydicom import uid
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.filebase import DicomBytesIO
from pydicom.filewriter import write_dataset, write_file_meta_info
from pydicom.uid import UID, SecondaryCaptureImageStorage

from tests.gateway.pixels.dcmtk import convert
from tests.gateway.pixels.subjects import COLOURS, COLUMNS, FEATURES, GREYS, PALETTES, ROWS, SUBJECTS, Subject

# Newer than pydicom's keywords. PS3.6 Annex A
_NEWER = {
    "EncapsulatedUncompressedExplicitVRLittleEndian": "1.98",
    "JPEGXLLossless": "4.110",
    "JPEGXLJPEGRecompression": "4.111",
    "JPEGXL": "4.112",
    "DeflatedImageFrameCompression": "8.1",
}
_NATIVE = {"ImplicitVRLittleEndian", "ExplicitVRLittleEndian", "DeflatedExplicitVRLittleEndian", "ExplicitVRBigEndian"}

Writer = Callable[[Subject, Path, "Specimen"], None]


@dataclass(frozen=True)
class Specimen:
    """One file to be made. subject: by its key. photometric: what the file says, where that is not what the subject is.

    least_db: how alike the picture must be to that of the subject without loss; infinite where nothing is lost.
    is_judged: DCMTK has a word in it; not where it believes the Data Set, though the codestream says otherwise.
    """

    syntax: str
    subject: str
    encode: Writer
    options: tuple[Any, ...] = ()
    photometric: str = ""
    variant: str = ""
    least_db: float = np.inf
    is_judged: bool = True

    @property
    def of(self) -> Subject:
        return SUBJECTS[self.subject]

    @property
    def transfer_syntax_uid(self) -> UID:
        return _uid(self.syntax)

    @property
    def row(self) -> tuple[str, str, str, str]:
        """Its place in the table: transfer syntax, photometric interpretation, bits, and what else tells it apart."""
        variant = ", ".join(part for part in (self.of.variant, self.variant) if part)
        return self.syntax, self.photometric or self.of.photometric, self.of.bits, variant

    @property
    def name(self) -> str:
        return " ".join(part for part in self.row if part)

    @property
    def sop_instance_uid(self) -> str:
        return f"2.25.{int(hashlib.sha256(self.name.encode()).hexdigest()[:30], 16)}"

    def write(self, folder: Path) -> Path:
        """Make the file, once."""
        path = folder / f"{self.sop_instance_uid}.dcm"
        if not path.exists():
            with tempfile.TemporaryDirectory(dir=folder) as workshop:
                made = Path(workshop, path.name)
                self.encode(self.of, made, self)
                made.replace(path)
        return path

    def judged(self) -> Dataset:
        """What the reference needs to know of the image, said in the plainest way."""
        return _module(self.of, {**self.of.attributes, **self.of.plain})


def _uid(keyword: str) -> UID:
    return UID(f"1.2.840.10008.1.2.{_NEWER[keyword]}" if keyword in _NEWER else getattr(uid, keyword))


def _module(subject: Subject, attributes: dict[str, Any]) -> Dataset:
    data_set = Dataset()
    data_set.Rows, data_set.Columns = subject.stored.shape[:2]
    data_set.SamplesPerPixel = 3 if subject.stored.ndim == 3 else 1
    data_set.PhotometricInterpretation = subject.photometric
    for keyword, value in attributes.items():
        setattr(data_set, keyword, value)
    for tag, (vr, value) in subject.elements.items():
        data_set.add_new(tag, vr, value)
    return data_set


def _save(subject: Subject, path: Path, specimen: Specimen, pixels: bytes, syntax: str = "") -> None:
    """A Secondary Capture image with those pixels, in explicit VR and little endian; ``syntax`` is for a first step."""
    photometric = specimen.photometric if not syntax else ""
    syntax = syntax or specimen.syntax
    data_set = _module(subject, subject.attributes)
    data_set.PhotometricInterpretation = photometric or subject.photometric
    data_set.SOPClassUID, data_set.SOPInstanceUID = SecondaryCaptureImageStorage, specimen.sop_instance_uid
    data_set.StudyInstanceUID, data_set.SeriesInstanceUID = "2.25.404142", "2.25.404143"
    data_set.PatientID, data_set.PatientName, data_set.Modality = "specimens", "Specimen^Any", "OT"
    data_set.StudyDate = data_set.StudyTime = data_set.AccessionNumber = data_set.StudyID = ""
    setattr(data_set, subject.keyword, pixels)
    if subject.keyword == "PixelData":
        is_wide = subject.attributes["BitsAllocated"] > 8
        data_set["PixelData"].VR = "OW" if syntax in _NATIVE and is_wide else "OB"
    data_set[subject.keyword].is_undefined_length = syntax not in _NATIVE
    path.write_bytes(_part_10(data_set, _uid(syntax)))


def _part_10(data_set: Dataset, syntax_uid: UID) -> bytes:
    """As ``save_as`` would write it if it knew the transfer syntax."""
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = data_set.SOPClassUID, data_set.SOPInstanceUID
    meta.TransferSyntaxUID = syntax_uid
    target = DicomBytesIO()
    target.is_little_endian, target.is_implicit_VR = True, False
    target.write(b"\0" * 128 + b"DICM")
    write_file_meta_info(target, meta)
    write_dataset(target, data_set)
    return target.getvalue()


# Native and what only packs it


def native_pixels(subject: Subject) -> bytes:
    """Little endian, in Bits Allocated; bits beside those stored are set where there are any. PS3.5 §8.1.1"""
    values, attributes = subject.stored, subject.attributes
    allocated = attributes["BitsAllocated"]
    if subject.keyword != "PixelData":
        return values.astype(values.dtype.newbyteorder("<")).tobytes()
    if allocated == 1:
        return np.packbits(values.ravel().astype("u1"), bitorder="little").tobytes()
    if subject.photometric.endswith("_422"):
        pairs = values.reshape(ROWS, COLUMNS // 2, 2, 3)
        values = np.stack([pairs[:, :, 0, 0], pairs[:, :, 1, 0], pairs[:, :, 0, 1], pairs[:, :, 0, 2]], axis=-1)
    elif attributes.get("PlanarConfiguration"):
        values = values.transpose(2, 0, 1)
    stored, high = attributes["BitsStored"], attributes["HighBit"]
    lowest = high + 1 - stored
    words = (values & ((1 << stored) - 1)) << lowest
    if lowest or high != stored - 1:  # overlay planes of old lay there
        words |= ((1 << allocated) - 1) ^ (((1 << stored) - 1) << lowest)
    return _even(words.astype(f"<u{allocated // 8}").tobytes())


def _even(data: bytes) -> bytes:
    return data + b"\0" * (len(data) % 2)


def _native(subject, path, specimen):
    pixels = native_pixels(subject)
    _save(subject, path, specimen, pixels if specimen.syntax in _NATIVE else encapsulate([pixels]))


def _deflated_frame(subject, path, specimen):
    deflater = zlib.compressobj(wbits=-15)
    _save(subject, path, specimen, encapsulate([deflater.compress(native_pixels(subject)) + deflater.flush()]))


def _by_dcmtk(subject, path, specimen):
    """options: the program and its options, which encode a native file."""
    source = path.with_suffix(".native")
    _save(subject, source, specimen, native_pixels(subject), syntax="ExplicitVRLittleEndian")
    convert(specimen.options[0], source, path, *specimen.options[1:])


# Codestreams by libraries


def _frame(subject: Subject) -> np.ndarray:
    """The values in the smallest type of Bits Allocated."""
    letter = "i" if subject.attributes["PixelRepresentation"] else "u"
    return np.ascontiguousarray(subject.stored.astype(f"{letter}{subject.attributes['BitsAllocated'] // 8}"))


def _encapsulated(subject, path, specimen, codestream):
    _save(subject, path, specimen, encapsulate([_even(bytes(codestream))]))


def _jpeg_2000(subject, path, specimen):
    options = {"reversible": True, "mct": False, "codecformat": "J2K", "numthreads": 1} | dict(specimen.options)
    bits = subject.attributes["BitsStored"]
    _encapsulated(subject, path, specimen, imagecodecs.jpeg2k_encode(_frame(subject), bitspersample=bits, **options))


def _htj2k(subject, path, specimen):
    options = {"reversible": True, "rgb": False} | dict(specimen.options)
    _encapsulated(subject, path, specimen, imagecodecs.htj2k_encode(_frame(subject), **options))


def _jpeg_xl(subject, path, specimen):
    options = {"lossless": True, "usecontainer": False, "numthreads": 1} | dict(specimen.options)
    bits = subject.attributes["BitsStored"]
    _encapsulated(subject, path, specimen, imagecodecs.jpegxl_encode(_frame(subject), bitspersample=bits, **options))


def _jpeg_in_jpeg_xl(subject, path, specimen):
    target = io.BytesIO()
    Image.fromarray(_frame(subject)).save(target, "JPEG", quality=95, subsampling=0)
    _encapsulated(subject, path, specimen, imagecodecs.jpegxl_encode_jpeg(target.getvalue(), usecontainer=False))


def _jpeg(subject, path, specimen):
    """options: colours of the codestream, and the transform of an Adobe marker instead of that of JFIF."""
    colours, adobe = specimen.options
    codestream = bytes(imagecodecs.jpeg8_encode(_frame(subject), level=95, outcolorspace=colours, subsampling="444"))
    if adobe is not None:
        after = 4 + int.from_bytes(codestream[4:6], "big")  # of the marker that libjpeg has put first
        codestream = b"\xff\xd8\xff\xee\0\x0eAdobe\0\x64\0\0\0\0" + bytes([adobe]) + codestream[after:]
    _encapsulated(subject, path, specimen, codestream)


def _jpeg_of_12_bits(subject, path, specimen):
    codestream = imagecodecs.jpeg8_encode(_frame(subject), level=95, bitspersample=12)
    _encapsulated(subject, path, specimen, codestream)


# Which files there are

_INTEGER_GREYS = [key for key in GREYS if key not in {"float", "double"}]
_BYTES_AND_WORDS = ["8", "8 M1", "8 signed", "10", "12", "12 M1", "12 signed", "16", "16 M1", "16 signed"]
_NEAR, _LOSSY = 40.0, 30.0
_HALF_CHROMA = 24.0  # where pure colours of six columns touch


def _rows(syntax: str, encode: Writer, keys: list[str], *options: Any, **other: Any) -> list[Specimen]:
    return [Specimen(syntax, key, encode, options, **other) for key in keys]


def _native_rows() -> list[Specimen]:
    every = [*GREYS, *COLOURS, *PALETTES]
    rows = _rows("ExplicitVRLittleEndian", _native, every)
    rows += _rows("ImplicitVRLittleEndian", _by_dcmtk, every, "dcmconv", "+ti")
    rows += _rows("DeflatedExplicitVRLittleEndian", _by_dcmtk, every, "dcmconv", "+td")
    rows += _rows("ExplicitVRBigEndian", _by_dcmtk, every, "dcmconv", "+tb")
    rows += _rows("EncapsulatedUncompressedExplicitVRLittleEndian", _native, every)
    rows += _rows("DeflatedImageFrameCompression", _deflated_frame, every)
    keys = [
        key
        for key in [*_INTEGER_GREYS, *COLOURS, *PALETTES]
        if key != "1" and "422" not in key and key != "YBR partial"
    ]
    return rows + _rows("RLELossless", _by_dcmtk, keys, "dcmcrle")


def _jpeg_rows() -> list[Specimen]:
    rows: list[Specimen] = []
    for syntax, process in (("JPEGBaseline8Bit", "+eb"), ("JPEGExtended12Bit", "+ee")):
        rows += _rows(syntax, _by_dcmtk, ["8", "8 M1"], "dcmcjpeg", process, "+un", "+q", "95", least_db=_NEAR)
        for photometric, variant, options in (
            ("RGB", "", ("+cr",)),
            ("YBR_FULL", "", ("+cy", "+s4")),
            ("YBR_FULL_422", "", ("+cy", "+s2")),
            ("YBR_FULL_422", "4:2:0", ("+cy", "+np")),
        ):
            least = _HALF_CHROMA if "422" in photometric else _NEAR
            made = "dcmcjpeg", process, "+un", "+q", "95", *options
            rows += _rows(syntax, _by_dcmtk, ["RGB"], *made, photometric=photometric, variant=variant, least_db=least)
    rows += [
        Specimen("JPEGBaseline8Bit", "RGB", _jpeg, ("YCBCR", None), "YBR_FULL", "JFIF", _NEAR),
        Specimen("JPEGBaseline8Bit", "RGB", _jpeg, ("YCBCR", None), "RGB", "YCbCr by JFIF", _NEAR, is_judged=False),
        Specimen("JPEGBaseline8Bit", "RGB", _jpeg, ("YCBCR", 1), "YBR_FULL", "Adobe", _NEAR),
        Specimen("JPEGBaseline8Bit", "RGB", _jpeg, ("YCBCR", 1), "RGB", "YCbCr by Adobe", _NEAR, is_judged=False),
        Specimen("JPEGBaseline8Bit", "RGB", _jpeg, ("RGB", 0), "RGB", "Adobe", _NEAR),
        Specimen("JPEGBaseline8Bit", "RGB", _jpeg, ("RGB", 0), "YBR_FULL", "RGB by Adobe", _NEAR, is_judged=False),
    ]
    rows += _rows("JPEGExtended12Bit", _jpeg_of_12_bits, ["12", "12 M1"], least_db=_NEAR)
    rows += _rows("JPEGExtended12Bit", _jpeg_of_12_bits, ["RGB 12"], photometric="YBR_FULL", least_db=_LOSSY)
    for syntax, process in (("JPEGLossless", "+el"), ("JPEGLosslessSV1", "+e1")):
        keys = [*_BYTES_AND_WORDS, "12 high", "12 signed high", "RGB", "RGB plane", "RGB 16", "YBR"]
        keys += ["palette 8", "palette 8 16", "palette 16"]
        rows += _rows(syntax, _by_dcmtk, keys, "dcmcjpeg", process, "+un")
    return rows


def _jpeg_ls_rows() -> list[Specimen]:
    keys = [*_BYTES_AND_WORDS, "RGB", "RGB plane", "RGB 16", "YBR"]
    unsigned = [key for key in keys if "signed" not in key]
    rare = ["12 high", "12 signed high", "palette 8", "palette 16"]
    rows = _rows("JPEGLSLossless", _by_dcmtk, [*keys, *rare], "dcmcjpls", "+el", "+un")
    for mode, variant in (("+is", "interleaved by sample"), ("+in", "not interleaved")):
        rows += _rows("JPEGLSLossless", _by_dcmtk, ["RGB"], "dcmcjpls", "+el", "+un", mode, variant=variant)
    return rows + _rows("JPEGLSNearLossless", _by_dcmtk, unsigned, "dcmcjpls", "+en", "+un", least_db=_NEAR)


def _wavelet_rows() -> list[Specimen]:
    keys = [*_BYTES_AND_WORDS, "24 in 32", "RGB", "RGB 16", "YBR", "palette 8", "palette 16"]
    rows = _rows("JPEG2000Lossless", _jpeg_2000, keys)
    rows += _rows("JPEG2000Lossless", _jpeg_2000, ["RGB", "RGB 16"], ("mct", True), photometric="YBR_RCT")
    lossy = ("reversible", False), ("level", 50)
    rows += _rows("JPEG2000", _jpeg_2000, ["8", "8 M1", "12", "16", "16 signed", "RGB"], *lossy, least_db=_NEAR)
    rows += _rows(
        "JPEG2000", _jpeg_2000, ["RGB", "RGB 16"], *lossy, ("mct", True), photometric="YBR_ICT", least_db=_NEAR
    )
    rows += _rows("JPEG2000", _jpeg_2000, ["RGB"], ("mct", True), photometric="YBR_RCT")
    for syntax in ("HTJ2KLossless", "HTJ2KLosslessRPCL"):
        rows += _rows(syntax, _htj2k, keys)
        rows += _rows(syntax, _htj2k, ["RGB", "RGB 16"], ("rgb", True), photometric="YBR_RCT")
    lossy = ("reversible", False), ("level", 0.001)
    rows += _rows("HTJ2K", _htj2k, ["8", "8 M1", "12", "16", "16 signed", "RGB"], *lossy, least_db=_NEAR)
    return rows + _rows("HTJ2K", _htj2k, ["RGB"], *lossy, ("rgb", True), photometric="YBR_ICT", least_db=_NEAR)


def _jpeg_xl_rows() -> list[Specimen]:
    keys = ["8", "8 M1", "10", "12", "12 M1", "16", "16 M1", "RGB", "RGB 16", "palette 8"]
    rows = _rows("JPEGXLLossless", _jpeg_xl, keys)
    rows += _rows("JPEGXLJPEGRecompression", _jpeg_in_jpeg_xl, ["8", "8 M1"], least_db=_NEAR)
    rows += _rows("JPEGXLJPEGRecompression", _jpeg_in_jpeg_xl, ["RGB"], photometric="YBR_FULL", least_db=_LOSSY)
    lossy = ("lossless", False), ("distance", 0.5)
    rows += _rows("JPEGXL", _jpeg_xl, ["8", "12", "16", "RGB"], *lossy, least_db=_LOSSY)
    return rows + _rows("JPEGXL", _jpeg_xl, ["RGB"], *lossy, photometric="XYB", least_db=_LOSSY)


FEATURE_SPECIMENS = _rows("ExplicitVRLittleEndian", _native, list(FEATURES))
SPECIMENS = [*_native_rows(), *_jpeg_rows(), *_jpeg_ls_rows(), *_wavelet_rows(), *_jpeg_xl_rows()]
