"""The doors of a running gateway as places to ask questions: C-FIND with pynetdicom as the client, and QIDO over HTTP.

A door says which part of a question it can express, and what it must answer when the model has found its rows.
"""

from __future__ import annotations

import contextlib
import http.client
import io
import json
from dataclasses import replace
from random import Random
from typing import Protocol
from urllib.parse import urlencode, urlsplit

from pydicom.filereader import read_dataset
from pydicom.uid import UID
from pynetdicom import AE, _config, build_context
from pynetdicom.pdu_primitives import SOPClassExtendedNegotiation

from storage.attributes import Attribute, by_tag
from storage.model import Level, Scope
from storage.uids import is_uid
from tests import synthetic
from tests.fix_dimse import FIND, STUDY_ROOT_FIND
from tests.journeys.oracle import answer_of, key
from tests.journeys.questions import Question
from tests.pacing import paced

_UID_TAGS = (0x0020000D, 0x0020000E, 0x00080018)
_CHARACTER_SET_VRS = ("LO", "PN", "SH")
_DEFAULT_RESULTS = 100
_MAXIMUM_OFFSET = 100_000


class Door(Protocol):
    """A place to ask. has_limit_of_client: answers cost its client so much that long ones are left out."""

    name: str
    refusal: object
    has_limit_of_client: bool

    def expressible(self, chance: Random, asked: Question) -> Question | None:
        """What of a question can be asked here, if anything."""
        ...

    def shown(self, query, rows) -> object:
        """The answer that says these rows."""
        ...

    def ask(self, asked: Question) -> object:
        """The answer, or the refusal."""
        ...


def _unique(keys):
    """The keys, each tag once."""
    return tuple({keyword: (keyword, text) for keyword, text in keys}.values())


# ---- QIDO ------------------------------------------------------------------------------------------------------------


class Qido:
    """Search over one connection of HTTP; answers are compared whole. PS3.18 §10.6"""

    name = "QIDO"
    refusal = 400
    has_limit_of_client = False

    def __init__(self, gateway):
        self._root = gateway.dicomweb
        self._connection = http.client.HTTPConnection("127.0.0.1", gateway.http_port, timeout=30)

    def expressible(self, chance, asked):
        """Studies, series and instances, below what a path can name; only tags that the table has are included."""
        if asked.level is Level.PATIENT:
            return None
        scope = asked.scope
        if scope is not None:
            uids = (scope.study_instance_uid, scope.series_instance_uid)[: asked.level - Level.STUDY]
            scope = Scope(*uids) if uids and all(map(is_uid, uids)) else None
        include = asked.include if isinstance(asked.include, str) else frozenset(filter(by_tag, asked.include))
        offset = min(asked.offset, _MAXIMUM_OFFSET)
        return replace(asked, keys=_unique(asked.keys), scope=scope, include=include, offset=offset)

    def shown(self, query, rows):
        found = rows if query.limit is not None else rows[:_DEFAULT_RESULTS]
        return [
            {**answer_of(query, row).attributes, "00081190": {"vr": "UR", "Value": [self._url(row)]}} for row in found
        ]

    def _url(self, row):
        parts = zip(("studies", "series", "instances"), row.uids, strict=False)
        return "/".join((self._root, *(part for pair in parts for part in pair)))

    def ask(self, asked):
        self._connection.request("GET", self._target(asked), headers={"Accept": "application/dicom+json"})
        answer = self._connection.getresponse()
        content = answer.read()
        return json.loads(content) if answer.status == 200 else answer.status

    def _target(self, asked):
        path = urlsplit(self._root).path
        if asked.scope is not None:
            path += f"/studies/{asked.scope.study_instance_uid}"
            if asked.scope.series_instance_uid:
                path += f"/series/{asked.scope.series_instance_uid}"
        # Attributes are named by keyword and by tag in turn.
        parameters = [(keyword if at % 2 else key(keyword).tag, text) for at, (keyword, text) in enumerate(asked.keys)]
        switches = {
            "fuzzymatching": asked.fuzzy,
            "emptyvaluematching": asked.empty,
            "multiplevaluematching": asked.multiple,
        }
        parameters += [(name, "true") for name, is_on in switches.items() if is_on]
        if asked.include:
            parameters.append(("includefield", asked.include if asked.include == "all" else ",".join(asked.include)))
        if asked.limit is not None:
            parameters.append(("limit", str(asked.limit)))
        if asked.offset:
            parameters.append(("offset", str(asked.offset)))
        return f"{path}/{_RESOURCES[asked.level]}?{urlencode(parameters)}"

    def close(self):
        self._connection.close()


_RESOURCES = {Level.STUDY: "studies", Level.SERIES: "series", Level.INSTANCE: "instances"}


# ---- C-FIND ----------------------------------------------------------------------------------------------------------


class Find:
    """C-FIND in the Study Root model, over associations that agreed on other things; UIDs are compared. PS3.4 §C.4.1"""

    name = "C-FIND"
    refusal = 0xA900
    has_limit_of_client = True

    def __init__(self, gateway):
        self._gateway = gateway
        self._associations = {}

    def expressible(self, chance, asked):
        """No patients, pages or flags; keys of the level and above, as far as an Identifier can hold their texts."""
        if asked.level is Level.PATIENT:
            return None
        scope = asked.scope or Scope("")
        uids = [scope.study_instance_uid, scope.series_instance_uid][: asked.level - Level.STUDY]
        uids = [uid if is_uid(uid) else "" for uid in uids]
        named = {keyword for keyword, uid in zip(("StudyInstanceUID", "SeriesInstanceUID"), uids, strict=False) if uid}
        keys = tuple(
            (keyword, text)
            for keyword, text in _unique(asked.keys)
            if key(keyword).level <= asked.level and keyword not in named and can_say(key(keyword), text)
        )
        return Question(asked.level, keys, Scope(*uids) if named else None, fuzzy=asked.fuzzy)

    def shown(self, query, rows):
        return [row.uids for row in rows]

    def ask(self, asked):
        found = []
        parents = asked.level - Level.STUDY
        uids = (asked.scope.study_instance_uid, asked.scope.series_instance_uid) if asked.scope else ("", "")
        is_relational = asked.fuzzy or not all(uids[:parents])
        association = self._association(is_relational, asked.fuzzy)
        for status, answer in association.send_c_find(identifier(asked, uids[:parents]), STUDY_ROOT_FIND):
            if "Status" not in status:
                return "no answer"
            if status.Status in (0xFF00, 0xFF01):
                found.append(tuple(str(answer[tag].value) for tag in _UID_TAGS[: asked.level]))
            elif status.Status:
                return status.Status
        return found

    def _association(self, is_relational, is_fuzzy):
        """One that agreed on relational and on fuzzy queries."""
        agreed = (is_relational, is_fuzzy)
        if agreed not in self._associations:
            ae = AE("ORACLE")
            ae.acse_timeout = ae.dimse_timeout = ae.network_timeout = 60
            extended = SOPClassExtendedNegotiation()
            extended.sop_class_uid = UID(STUDY_ROOT_FIND)
            extended.service_class_application_information = bytes((is_relational, 0, is_fuzzy, 0, 0))
            context = build_context(UID(FIND[0]), [UID(one) for one in FIND[1]])
            place = ("127.0.0.1", self._gateway.dimse_port, [context])
            association = paced(ae.associate(*place, ae_title=self._gateway.ae_title, ext_neg=[extended]))
            assert association.is_established
            self._associations[agreed] = association
        return self._associations[agreed]

    def close(self):
        for association in self._associations.values():
            association.release()
            association.join(5)


def can_say(attribute: Attribute, text: str) -> bool:
    """Whether an Identifier can hold a text so that it is read as the same.

    A backslash separates values, an escape switches character sets, NUL is padding, and empty component groups at the
    end of a name may be left out. Only text has a character set.
    """
    if "\0" in text or "\x1b" in text or ("\\" in text and attribute.vr not in ("CS", "UI")):
        return False
    if attribute.vr == "PN" and (text.count("=") > 2 or text.rstrip().endswith("=")):
        return False
    return text.isascii() or attribute.vr in _CHARACTER_SET_VRS


def identifier(asked: Question, parents) -> object:
    """The Identifier as bytes of the tests' own encoder, which pynetdicom then sends as they are."""
    level = "IMAGE" if asked.level is Level.INSTANCE else asked.level.name
    elements = {0x00080005: ("CS", b"ISO_IR 192"), 0x00080052: ("CS", level.encode())}
    elements |= dict.fromkeys(_UID_TAGS[: asked.level], ("UI", b""))
    elements |= {tag: ("UI", uid.encode()) for tag, uid in zip(_UID_TAGS, parents, strict=False) if uid}
    request = b""
    for keyword, text in sorted(asked.keys, key=lambda pair: key(pair[0]).tag):
        attribute = key(keyword)
        value = (attribute.vr, text.encode("utf-8"))
        if attribute.is_nested:
            request += synthetic.element(int(attribute.leaf_tag, 16), *value)
        else:
            elements[int(attribute.tag, 16)] = value
    raw = [(tag, synthetic.element(tag, *value)) for tag, value in elements.items()]
    if request:
        raw.append((0x00400275, synthetic.sequence(0x00400275, synthetic.item(request))))
    encoded = b"".join(element for _, element in sorted(raw))
    return read_dataset(io.BytesIO(encoded), is_implicit_VR=False, is_little_endian=True)


@contextlib.contextmanager
def doors_of(gateway):
    """Both doors of a gateway. pynetdicom must not print Identifiers: it would read, and so change, what is sent."""
    flags = (_config.LOG_REQUEST_IDENTIFIERS, _config.LOG_RESPONSE_IDENTIFIERS)
    _config.LOG_REQUEST_IDENTIFIERS = _config.LOG_RESPONSE_IDENTIFIERS = False
    try:
        with contextlib.closing(Find(gateway)) as find, contextlib.closing(Qido(gateway)) as qido:
            yield find, qido
    finally:
        _config.LOG_REQUEST_IDENTIFIERS, _config.LOG_RESPONSE_IDENTIFIERS = flags
