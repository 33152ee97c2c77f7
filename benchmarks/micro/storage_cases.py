"""What happens to each instance at ingest, and what a search costs beside the database."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

from benchmarks.corpus import ct_instance, us_instance
from benchmarks.dimse import file_meta
from benchmarks.micro.timing import Case
from storage.attributes import by_keyword, level_attributes
from storage.dataset import read_data_set
from storage.dicomjson import pack_metadata, unpack_metadata
from storage.frames import frame_table
from storage.matching import Match
from storage.uids import transfer_syntax

_URL = "http://127.0.0.1:8080/dicomweb/studies/2.25.1/series/2.25.2/instances/2.25.3"
_FRAMES = 100
_FRAME_BYTES = 60_000
_SEARCHES = (
    ("PatientID", "PID0000042", "PID0000042"),
    ("PatientName", "ALDER12^A*", "Alder12^Ada"),
    ("StudyDate", "20240101-20240331", "20240311"),
    ("ModalitiesInStudy", "CT,MR", "CT"),
)


def _objects() -> dict[str, bytes]:
    frame = b"\xff\xd8" + bytes(_FRAME_BYTES)
    return {"CT, 150 elements": ct_instance(0, 2), f"US, {_FRAMES} fragments": us_instance([frame] * _FRAMES)}


def _nothing(start: int, end: int) -> bytes:
    """No peek is needed where the offset table tells."""
    del start, end
    return b""


def cases() -> Iterator[Case]:
    """Walker, JSON, frame table, matching."""
    for name, content in _objects().items():
        (_, syntax_uid), _, start = file_meta(content)
        syntax = transfer_syntax(syntax_uid)
        walked = read_data_set(content, start, syntax)
        packed = pack_metadata(walked.json, syntax_uid)
        text_bytes = len(unpack_metadata(packed, _URL))
        table, warning = frame_table(walked, syntax, _nothing)
        if warning or not table.number_of_frames:
            raise ValueError("the object has no frames")
        yield Case(f"walker: {name}", partial(read_data_set, content, start, syntax))
        yield Case(f"JSON pack: {name}", partial(pack_metadata, walked.json, syntax_uid), text_bytes)
        yield Case(f"JSON unpack: {name}", partial(unpack_metadata, packed, _URL), text_bytes)
        yield Case(f"attributes by level: {name}", partial(level_attributes, walked.json))
        yield Case(f"frame table, made: {name}", partial(frame_table, walked, syntax, _nothing))
        yield Case(f"frame table, last frame: {name}", partial(table.ranges, table.number_of_frames))
    for keyword, asked, stored in _SEARCHES:
        attribute = by_keyword(keyword)
        assert attribute is not None
        value = {"Alphabetic": stored} if attribute.vr == "PN" else stored
        element = {"vr": attribute.vr, "Value": [value]}
        match = Match.of(attribute, asked)
        if not match.accepts(element):
            raise ValueError("a match does not hold")
        yield Case(f"match, read: {keyword}", partial(Match.of, attribute, asked))
        yield Case(f"match, applied: {keyword}", partial(match.accepts, element))
