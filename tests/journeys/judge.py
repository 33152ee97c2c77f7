"""What pydicom, which is no part of the gateway's reader, makes of Data Sets: the judge of what comes back."""

from __future__ import annotations

import contextlib
import hashlib
import warnings
from io import BytesIO

import numpy as np
from pydicom import config, dcmread
from pydicom.dataelem import RawDataElement
from pydicom.dataset import FileMetaDataset
from pydicom.filewriter import write_file_meta_info
from pydicom.uid import UID

from tests.journeys.files import data_set_offset

PIXEL_DATA = 0x7FE00010
UNDEFINED = 0xFFFFFFFF


@contextlib.contextmanager
def lenient():
    """Real files break rules; pydicom is to read them without complaint. In one thread at a time."""
    mode = config.settings.reading_validation_mode
    config.settings.reading_validation_mode = config.IGNORE
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        config.settings.reading_validation_mode = mode


def part10_digest(raw):
    """SHA-256 (hex) of the Data Set in a Part 10 stream."""
    assert raw[:132] == bytes(128) + b"DICM"
    return hashlib.sha256(raw[data_set_offset(raw) :]).hexdigest()


def read_stream(raw):
    """A Part 10 stream."""
    return dcmread(BytesIO(raw))


def read_bare(data_set, transfer_syntax):
    """A Data Set as a message carries it."""
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = meta.MediaStorageSOPInstanceUID = UID("1.2.3")
    meta.TransferSyntaxUID = UID(transfer_syntax)
    stream = BytesIO()
    stream.write(bytes(128) + b"DICM")
    write_file_meta_info(stream, meta)
    return dcmread(BytesIO(stream.getvalue() + data_set))


def tags(data_set, path=()):
    """Paths of all elements, those in items too; without group lengths.

    What was written as one value of unknown VR is one value, though pydicom finds a sequence in it.
    """
    found = set()
    for tag in list(data_set.keys()):
        if tag.element == 0:
            continue
        here = (*path, f"{int(tag):08X}")
        found.add(here)
        raw = data_set.get_item(tag)
        is_opaque = isinstance(raw, RawDataElement) and raw.VR == "UN" and raw.length != UNDEFINED
        if data_set[tag].VR == "SQ" and not is_opaque:
            for number, item in enumerate(data_set[tag].value):
                found |= tags(item, (*here, number))
    return found


def json_tags(model, path=()):
    """The same of the DICOM JSON Model."""
    found = set()
    for tag, element in model.items():
        here = (*path, tag)
        found.add(here)
        if element["vr"] == "SQ":
            for number, item in enumerate(element.get("Value", [])):
                found |= json_tags(item, (*here, number))
    return found


def differences(one, other, path=()):
    """Paths of elements that are not equal in both; ``one`` may be in the other byte order."""
    tags_of_one = {tag for tag in one.keys() if tag.element}  # noqa: SIM118 - values are not decoded yet
    tags_of_other = set(other.keys())
    for tag in sorted(tags_of_one ^ tags_of_other):
        yield (*path, f"{int(tag):08X}", "is not in both")
    for tag in sorted(tags_of_one & tags_of_other):
        here = (*path, f"{int(tag):08X}")
        left, right = one[tag], other[tag]
        if left.VR != right.VR:
            yield (*here, left.VR, right.VR)
        elif left.VR == "SQ":
            if len(left.value) != len(right.value):
                yield (*here, "items")
            for number, (first, second) in enumerate(zip(left.value, right.value, strict=False)):
                yield from differences(first, second, (*here, number))
        elif left.value != right.value and not _is_swapped(left, right, one):
            yield (*here, "value")


def _is_swapped(left, right, data_set):
    """Whether words that pydicom leaves in their byte order are the same ones turned round."""
    if data_set.original_encoding != (False, False) or left.VR not in ("OW", "OF", "OL", "OD"):
        return False
    kind = {"OW": "2", "OF": "4", "OL": "4", "OD": "8"}[left.VR]
    return left.value == np.frombuffer(right.value, f"<u{kind}").astype(f">u{kind}").tobytes()


def pixels_differ(one, other):
    """Whether pydicom decodes other pixels from them; not when it finds none in either.

    Big endian pixels of 32 bits are left to ``differences``: pydicom turns them round whole, the standard and DCMTK
    word by word (PS3.5 §6.2, OW).
    """
    if PIXEL_DATA not in one and PIXEL_DATA not in other:
        return False
    if one.original_encoding == (False, False) and one.BitsAllocated > 16:
        return False
    return not np.array_equal(one.pixel_array, other.pixel_array)
