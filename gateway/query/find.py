"""C-FIND as a client: keys to an Identifier, answers as QIDO-RS would give them. PS3.4 §C.4.1, §C.6"""

from __future__ import annotations

from collections.abc import Generator, Iterator
from contextlib import closing
from itertools import islice
from typing import Any

from gateway.dimse.connection import ConnectionEndedError, DeadlineError
from gateway.dimse.contexts import PATIENT_ROOT_FIND, STUDY_ROOT_FIND
from gateway.dimse.models import Extended
from gateway.dimse.query_keys import QUERY_LEVEL
from gateway.dimse.query_scu import FindFailedError, find_requestor
from gateway.dimse.requestor import Peer, RejectedError
from gateway.dimse.status import DATA_SET_MISMATCH, SOP_CLASS_NOT_SUPPORTED
from gateway.query.failures import BadUsage, Failed, QueryError, Refused, Unreachable
from gateway.query.search import Field, Search, read_field
from gateway.query.server import DimseServer
from gateway.query.text import quoted
from storage.attributes import Returned, by_level
from storage.errors import NotDicom, TooLarge
from storage.model import JsonElement, Level
from storage.uids import is_uid

Answer = dict[str, JsonElement]

_LEVELS = {Level.PATIENT: "PATIENT", Level.STUDY: "STUDY", Level.SERIES: "SERIES", Level.INSTANCE: "IMAGE"}
_PARENTS = {
    Level.PATIENT: (),
    Level.STUDY: (),
    Level.SERIES: ("StudyInstanceUID",),
    Level.INSTANCE: ("StudyInstanceUID", "SeriesInstanceUID"),
}
_TEXT_VRS = frozenset(("LO", "LT", "PN", "SH", "ST", "UC", "UT"))
_NUMBER_VRS = frozenset(("US", "SS", "UL", "SL", "UV", "SV", "FL", "FD"))
_NOT_SEARCHED_VRS = frozenset(("OB", "OD", "OF", "OL", "OV", "OW", "SQ", "UN", "AT"))
_NOT_PERMITTED = 0x0124
_REFUSALS = (DATA_SET_MISMATCH, SOP_CLASS_NOT_SUPPORTED, _NOT_PERMITTED)


def answers(
    server: DimseServer, search: Search, calling_ae: str, seconds: float, notes: list[str]
) -> Generator[Answer, None, None]:
    """The matches in the DICOM JSON Model, as they come; taking no more of them cancels the query at the server.

    notes: gets a sentence for what the server does not do as asked. Raises QueryError.
    """
    keys = identifier_of(search)
    parents = [keyword for keyword in _PARENTS[search.level] if not is_uid(search.key(keyword))]
    wanted = Extended(is_relational=bool(parents), is_fuzzy=search.is_fuzzy)
    model = PATIENT_ROOT_FIND if search.level is Level.PATIENT else STUDY_ROOT_FIND
    peer = Peer(server.host, server.port, server.ae_title, calling_ae)
    try:
        with find_requestor(peer, model, wanted, seconds) as requestor:
            if parents and not requestor.agreed.is_relational:
                needed = " and ".join(f"{keyword}=…" for keyword in parents)
                raise Refused(f"{server.name} searches {_LEVELS[search.level]} only below a parent: give {needed}.")
            if search.is_fuzzy and not requestor.agreed.is_fuzzy:
                notes.append(f"{server.name} does not match names fuzzily.")
            with closing(requestor.find(keys)) as found:
                for answer in islice(found, search.offset, None):
                    yield _without_bulk(answer)
            if requestor.lacks_keys:
                notes.append(f"{server.name} does not support all keys: it may not have matched or returned some.")
    except (RejectedError, FindFailedError, ConnectionEndedError, NotDicom, TooLarge, OSError, UnicodeError) as error:
        raise _failure(server, error, seconds) from None


def _failure(server: DimseServer, error: Exception, seconds: float) -> QueryError:
    name = server.name
    if isinstance(error, RejectedError):
        return Refused(f"{name} rejects the association: {error.reason}.")
    if isinstance(error, FindFailedError):
        comment = quoted(error.comment).rstrip(".")
        said = f"{name} answers status {error.status:04X}{': ' if comment else ''}{comment}."
        return Refused(said) if error.status in _REFUSALS else Failed(said)
    if isinstance(error, DeadlineError | TimeoutError):
        return Unreachable(f"{name} has not answered within {seconds:g} s.")
    if isinstance(error, ConnectionEndedError):
        return Failed(f"{name} ended the association or broke its rules: {error.reason}.")
    if isinstance(error, NotDicom):
        return Failed(f"{name} sends an answer that is not DICOM: {error.reason}.")
    if isinstance(error, TooLarge):
        return Failed(f"{name} sends an answer that is too large.")
    reason = quoted(getattr(error, "strerror", None) or type(error).__name__)
    return Unreachable(f"{name} cannot be reached: {reason}.")


def identifier_of(search: Search) -> Answer:
    """The Identifier of a search: its keys, and empty what is to be returned. Raises BadUsage. PS3.4 §C.4.1.1.3.1"""
    if search.includes_all:
        raise BadUsage("C-FIND cannot ask for all attributes: name those that you want.")
    keys: Answer = {QUERY_LEVEL: {"vr": "CS", "Value": [_LEVELS[search.level]]}}
    for field in (*_returned(search), *search.keys):
        value = search.keys.get(field)
        element = {"vr": field.vr} if value is None else {"vr": field.vr, "Value": [_value(field, value)]}
        _put(keys, field.tags, element)
    return keys


def _returned(search: Search) -> Iterator[Field]:
    """What to ask for: the columns, and what QIDO-RS returns unasked at this level."""
    levels = (Level.PATIENT, Level.STUDY) if search.level is Level.STUDY else (search.level,)
    for level in levels:
        for attribute in by_level(level):
            if attribute.returned is Returned.ALWAYS:
                yield Field(tuple(attribute.tag.split(".")))
    yield from (field for field in search.columns if field not in search.keys)
    yield from (read_field(keyword) for keyword in _PARENTS[search.level])


def _put(elements: Answer, tags: tuple[str, ...], element: Answer) -> None:
    """Set an element at a path; what is there already, and holds a value or items, is kept."""
    *parents, leaf = tags
    for tag in parents:
        sequence = elements.setdefault(tag, {"vr": "SQ"})
        elements = sequence.setdefault("Value", [{}])[0]
    if "Value" not in elements.get(leaf, {}):
        elements[leaf] = element


def _value(field: Field, text: str) -> Any:
    """The value of a key as an Identifier holds it: lists of UIDs with backslashes between. Raises BadUsage."""
    if field.vr in _NOT_SEARCHED_VRS:
        raise BadUsage(f"{field.name} cannot be searched by a value: its VR is {field.vr}.")
    if field.vr in _NUMBER_VRS:
        try:
            return float(text) if field.vr in ("FL", "FD") else int(text)
        except ValueError:
            raise BadUsage(f"The value of {field.name} is not a number.") from None
    if field.vr not in _TEXT_VRS and not text.isascii():
        raise BadUsage(f"The value of {field.name} has characters that its VR, {field.vr}, does not allow.")
    return text.replace(",", "\\") if field.vr == "UI" else text


def _without_bulk(element: Any) -> Any:
    """Values too large to be shown are left out: there is nowhere that a reference to them could lead."""
    if isinstance(element, dict):
        return {key: _without_bulk(value) for key, value in element.items() if key != "BulkDataURI"}
    return [_without_bulk(one) for one in element] if isinstance(element, list) else element
