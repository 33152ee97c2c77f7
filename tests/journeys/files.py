"""The files the journeys push: our samples and all DICOM that pydicom bundles, as pydicom reads it."""

from __future__ import annotations

import json
import warnings
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

import pydicom
from pydicom.filereader import _read_file_meta_info, dcmread, read_partial

from tests.fix_servers import ROOT

SAMPLES = ROOT / "sample_dicom"
BUNDLED = Path(pydicom.__file__).parent / "data"
NOT_DICOM = {".py", ".pyc", ".md", ".txt", ".json", ".dump", ".gz", ".icc"}
IMPLICIT, BIG_ENDIAN = "1.2.840.10008.1.2", "1.2.840.10008.1.2.2"
EXPLICIT = "1.2.840.10008.1.2.1"


@dataclass(frozen=True)
class DicomFile:
    """A file. sop_class, sop_instance: of the Data Set, or else of File Meta; empty where neither says.

    data_set: its bytes behind preamble and File Meta.
    """

    path: Path
    name: str
    sop_class: str
    sop_instance: str
    transfer_syntax: str
    data_set: bytes


def read(path, name):
    """A file as pydicom splits it. One without File Meta is what pydicom finds it to be."""
    raw = path.read_bytes()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        data_set = dcmread(BytesIO(raw), force=True, stop_before_pixels=True)
        meta = data_set.file_meta
        offset = data_set_offset(raw)
        syntax = meta.get("TransferSyntaxUID", "") or _encoding(data_set)
        sop_class = data_set.get("SOPClassUID", "") or meta.get("MediaStorageSOPClassUID", "")
        sop_instance = data_set.get("SOPInstanceUID", "") or meta.get("MediaStorageSOPInstanceUID", "")
    return DicomFile(path, name, str(sop_class), str(sop_instance), str(syntax), raw[offset:])


def data_set_offset(raw):
    """Where the Data Set starts in a stream, which may lack the preamble, or all before the Data Set."""
    stream = BytesIO(raw)
    if raw[128:132] == b"DICM":
        stream.seek(132)
        _read_file_meta_info(stream)
    else:
        read_partial(stream, stop_when=lambda *_: True, force=True)
    return stream.tell()


def _encoding(data_set):
    is_implicit, is_little_endian = data_set.original_encoding
    return IMPLICIT if is_implicit else EXPLICIT if is_little_endian else BIG_ENDIAN


def samples():
    """Every file of the manifest."""
    rows = json.loads((SAMPLES / "manifest.json").read_text(encoding="utf-8"))
    return [read(SAMPLES / row["file"], f"sample_dicom/{row['file']}") for row in rows]


def bundled():
    """Every DICOM file that pydicom brings along, whatever becomes of it."""
    paths = [path for path in sorted(BUNDLED.rglob("*")) if path.is_file() and path.suffix not in NOT_DICOM]
    return [read(path, f"pydicom/{path.relative_to(BUNDLED).as_posix()}") for path in paths if path.name != "README"]
