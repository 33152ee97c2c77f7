"""Presented: an image of the archive, and the presentation state that it is to be shown in. PS3.18 §9.5.1, §10.4

Finds the image of a state, or the state that a client names for an image, and puts what the state says beside what
describes the pixels, for the process that draws. PS3.3 §C.11.11
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Self

import orjson

from gateway.particulars import add_value
from gateway.pixels.presentation import IMAGE, PRESENTATION_STATES, PRESENTED, STATE
from gateway.pixels.references import ImageReference, referenced_images
from gateway.pixels.state_elements import malformed
from gateway.session import Session
from storage.dicomjson import read_metadata
from storage.errors import BadRequest, NotFound, TooLarge
from storage.model import Document, Instance, Scope
from storage.uids import is_uid

_REFERENCES = "00081115"
# SOP Class, shutters, tables and transformations, areas and graphics, presentation LUT, overlays.
_APPLIED = re.compile(r"00080016|001816..|0028....|0070....|2050....|60[01].....")
_TABLES = r"(?:00283000|00283110/[0-9]+/00283010|20500010)/[0-9]+/00283006|002812[02][123]"
_OVERLAY = r"60[01][02468ACE]3000"
_GRAPHIC_DATA = r"00700001/[0-9]+/00700009/[0-9]+/00700022"
_BULK = re.compile(f"{_TABLES}|{_OVERLAY}|{_GRAPHIC_DATA}", re.ASCII)
_MAXIMUM_BULK_BYTES = 16 << 20
_MAXIMUM_BULK_VALUES = 256  # each of which may have to be looked for from the start of a deflated object


def is_presentation_state(instance: Instance) -> bool:
    """Whether it is of a kind that is applied: grayscale, color or pseudo-color softcopy."""
    return instance.sop_class_uid in PRESENTATION_STATES


@dataclass(frozen=True, slots=True)
class Presented:
    """An image in a state. number: of the frame that is shown, from 1; 0 for the middle one."""

    image: Instance
    number: int
    state: Document

    @classmethod
    def of_state(cls, session: Session, state: Instance) -> Self:
        """The first image that a state is for, and the first of its frames where the state names some.

        Raises NotFound when the image is not there, and Undecodable when the state names none.
        """
        document = session.document(state.scope)
        reference = referenced_images(read_metadata(document.metadata, ""))[0]
        if not (is_uid(reference.series_instance_uid) and is_uid(reference.sop_instance_uid)):
            raise malformed(_REFERENCES)
        scope = Scope(state.study_instance_uid, reference.series_instance_uid, reference.sop_instance_uid)
        try:
            image = session.instances(scope)[0]
        except NotFound:
            raise NotFound("The image that the presentation state is for is not in the archive") from None
        return cls(image, next(iter(reference.frame_numbers), 0), document)

    @classmethod
    def of_image(cls, session: Session, image: Instance, number: int, state: Scope) -> Self:
        """An image in the state that a client names. number: of the frame that it asks for; 0 for any.

        Raises NotFound when the state is not there, and BadRequest when it is none or not for this frame.
        """
        document = session.document(state)
        if not is_presentation_state(document.instance):
            raise BadRequest("The parameter presentationUID names no softcopy presentation state")
        references = referenced_images(read_metadata(document.metadata, ""))
        meant = [reference for reference in references if reference.sop_instance_uid == image.sop_instance_uid]
        shown = number or _any_frame(image, meant)
        if not any(reference.covers(image.sop_instance_uid, shown) for reference in meant):
            raise BadRequest("The presentation state is not for this image or frame")
        return cls(image, shown, document)

    @property
    def digest(self) -> str:
        """Of what the state says."""
        return self.state.instance.digest

    def onto(self, metadata: bytes, session: Session) -> bytes:
        """The metadata of the image's frame with the state beside it. Raises TooLarge."""
        state = {
            tag: element for tag, element in read_metadata(self.state.metadata, "").items() if _APPLIED.fullmatch(tag)
        }
        places = {path: value for path, value in self.state.bulk.items() if _BULK.fullmatch(path)}
        size_bytes = sum(value.end - value.start for value in places.values())
        if size_bytes > _MAXIMUM_BULK_BYTES or len(places) > _MAXIMUM_BULK_VALUES:
            raise TooLarge("The presentation state has too many bytes")
        if places:
            with session.open(self.state.instance) as stored:
                for path, value in places.items():
                    add_value(state, path, value, stored)
        presented = orjson.dumps({STATE: state, IMAGE: self.image.sop_instance_uid})
        return b'{"%b":%b,%b' % (PRESENTED.encode(), presented, metadata[1:])


def _any_frame(image: Instance, references: list[ImageReference]) -> int:
    """The middle frame, or the first one that is named, if the middle one is not."""
    middle = (image.number_of_frames + 1) // 2
    named = [number for reference in references for number in reference.frame_numbers]
    is_meant = any(reference.covers(image.sop_instance_uid, middle) for reference in references)
    return middle if is_meant or not named else named[0]
