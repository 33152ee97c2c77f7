"""Presentation states made of an image by pydicom, and their judge: dcmp2pgm of DCMTK, which draws LUTs, turns and
bitmap shutters, but neither geometric shutters, nor displayed areas, nor graphics.
"""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from pathlib import Path

import numpy as np
from PIL import Image
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, generate_uid

from gateway.pixels.options import PNG, RenderOptions
from gateway.pixels.render import render
from tests.gateway.pixels.synthetic import picture_of

DCMP2PGM = shutil.which("dcmp2pgm") or ""
GRAYSCALE, COLOR, PSEUDO_COLOR = (f"1.2.840.10008.5.1.4.1.1.11.{number}" for number in (1, 2, 3))


def item(**attributes):
    data_set = Dataset()
    for keyword, value in attributes.items():
        setattr(data_set, keyword, value)
    return data_set


def reference(image, *frames):
    made = item(ReferencedSOPClassUID=image.SOPClassUID, ReferencedSOPInstanceUID=image.SOPInstanceUID)
    if frames:
        made.ReferencedFrameNumber = list(frames)
    return made


def state_of(image, *, sop_class=GRAYSCALE, frames=(), **attributes):
    """A state that shows the image as it is, or with other attributes by keyword; None takes one away."""
    state = Dataset()
    for keyword in ("PatientName", "PatientID", "PatientBirthDate", "PatientSex", "StudyDate", "StudyTime"):
        setattr(state, keyword, image.get(keyword, ""))
    state.StudyInstanceUID, state.SeriesInstanceUID = image.StudyInstanceUID, generate_uid()
    state.AccessionNumber = state.ReferringPhysicianName = state.StudyID = ""
    state.SOPClassUID, state.SOPInstanceUID = sop_class, generate_uid()
    state.Modality, state.SeriesNumber, state.InstanceNumber = "PR", 1, 1
    state.ContentLabel, state.ContentDescription, state.ContentCreatorName = "TEST", "", ""
    state.PresentationCreationDate, state.PresentationCreationTime = "20200101", "120000"
    images = [reference(image, *frames)]
    state.ReferencedSeriesSequence = [item(SeriesInstanceUID=image.SeriesInstanceUID, ReferencedImageSequence=images)]
    state.DisplayedAreaSelectionSequence = [area((1, 1), (image.Columns, image.Rows))]
    if sop_class == GRAYSCALE:
        state.PresentationLUTShape = "IDENTITY"
    for keyword, value in attributes.items():
        if value is None:
            delattr(state, keyword)
        else:
            setattr(state, keyword, value)
    state.file_meta = FileMetaDataset()
    state.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    return state


def area(top_left, bottom_right, mode="SCALE TO FIT", **attributes):
    given = {"PresentationPixelAspectRatio": [1, 1], **attributes}
    return item(
        DisplayedAreaTopLeftHandCorner=list(top_left),
        DisplayedAreaBottomRightHandCorner=list(bottom_right),
        PresentationSizeMode=mode,
        **given,
    )


def window(center, width, function="", **attributes):
    made = item(WindowCenter=center, WindowWidth=width, **attributes)
    if function:
        made.VOILUTFunction = function
    return made


def table(first, bits, entries, *, vr="US"):
    """A LUT as an item."""
    made = Dataset()
    made.add_new("LUTDescriptor", vr, [len(entries) & 0xFFFF, first, bits])
    made.add_new("LUTData", "OW", np.asarray(entries).astype("<u2").tobytes())
    return made


def add_overlay(state, bits, *, group=0x6000, origin=(1, 1), layer=""):
    """An overlay of a state, as an array of 0 and 1."""
    rows, columns = bits.shape
    for tag, vr, value in (
        (0x0010, "US", rows),
        (0x0011, "US", columns),
        (0x0040, "CS", "G"),
        (0x0050, "SS", list(origin)),
        (0x0100, "US", 1),
        (0x0102, "US", 0),
        (0x3000, "OW", padded(np.packbits(bits.astype("u1").ravel(), bitorder="little").tobytes())),
    ):
        state.add_new((group, tag), vr, value)
    if layer:
        state.add_new((group, 0x1001), "CS", layer)
    return state


def padded(data):
    return data + b"\0" * (len(data) % 2)


def layer(name, order=1, **attributes):
    return item(GraphicLayer=name, GraphicLayerOrder=order, **attributes)


def graphic(kind, *points, units="PIXEL", filled="N"):
    flat = [number for point in points for number in point]
    return item(
        GraphicAnnotationUnits=units,
        GraphicDimensions=2,
        NumberOfGraphicPoints=len(points),
        GraphicData=flat,
        GraphicType=kind,
        GraphicFilled=filled,
    )


def text(value, *, box=None, anchor=None, units="PIXEL", visible="N", justification="LEFT"):
    made = item(UnformattedTextValue=value)
    if box:
        made.BoundingBoxAnnotationUnits = units
        made.BoundingBoxTopLeftHandCorner, made.BoundingBoxBottomRightHandCorner = map(list, box)
        made.BoundingBoxTextHorizontalJustification = justification
    if anchor:
        made.AnchorPointAnnotationUnits, made.AnchorPointVisibility = units, visible
        made.AnchorPoint = list(anchor)
    return made


def annotation(name="L", graphics=(), texts=(), **attributes):
    made = item(GraphicLayer=name, **attributes)
    if graphics:
        made.GraphicObjectSequence = list(graphics)
    if texts:
        made.TextObjectSequence = list(texts)
    return made


def json_of(state):
    return state.to_json_dict(suppress_invalid_tags=True)


def presented_metadata(metadata, state, sop_instance_uid):
    """Metadata as they go to a worker."""
    json = state if isinstance(state, dict) else json_of(state)
    return {"presented": {"state": json, "image": sop_instance_uid}, **metadata}


def shown(source, state, options=None, frame_number=1):
    """Our picture of a source in a state, as an array."""
    metadata = presented_metadata(source.metadata, state, source.data_set.SOPInstanceUID)
    frame = source.frames[frame_number - 1]
    return picture_of(render(metadata, source.transfer_syntax_uid, frame_number, frame, options or RenderOptions(PNG)))


def judged(source, state, frame_number=1):
    """The picture of dcmp2pgm."""
    with tempfile.TemporaryDirectory() as folder:
        file, target = Path(folder, "state.dcm"), Path(folder, "picture.pgm")
        state.save_as(file, enforce_file_format=True)
        command = [DCMP2PGM, "-f", str(frame_number), "-p", str(file), str(source.path), str(target)]
        outcome = subprocess.run(command, check=True, capture_output=True, text=True, timeout=60)
        assert target.exists(), outcome.stderr
        with Image.open(target) as image:
            return np.array(image)
