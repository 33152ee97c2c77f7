"""Entries: all that the index keeps of an instance, worked out from its bytes. The same for a store and for a rebuild.

Pure but for the bytes that it looks at: it never reads all of the Pixel Data.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from storage.attributes import level_attributes
from storage.dataset import DataSet, read_data_set
from storage.dicomjson import pack_metadata
from storage.errors import CorruptObject, NotDicom, UnsupportedTransferSyntax
from storage.filemeta import MAXIMUM_FILE_META_BYTES, PREAMBLE_BYTES, Announcement, canonical_header, read_file_meta
from storage.frames import Peek, frame_table
from storage.keys import KeyParts, instance_key, parts_of
from storage.model import Coerced, Entry, Instance, Source
from storage.spool import Buffer
from storage.uids import TransferSyntax, checked_uid, is_uid, transfer_syntax

ORIGINAL_ATTRIBUTES = "04000561"
_SAID_OF_COERCION = ("04000562", "04000564")
_STUDY, _SERIES, _SOP_INSTANCE, _SOP_CLASS = "0020000D", "0020000E", "00080018", "00080016"


@dataclass(frozen=True, slots=True)
class Identity:
    """The UIDs that a Data Set gives itself, each one checked."""

    study_instance_uid: str
    series_instance_uid: str
    sop_instance_uid: str
    sop_class_uid: str


def known_syntax(uid: str) -> TransferSyntax:
    """The transfer syntax that an announcement names. Raises UnsupportedTransferSyntax."""
    if not is_uid(uid):
        raise UnsupportedTransferSyntax("The transfer syntax is missing or malformed")
    return transfer_syntax(uid)


def identity_of(data_set: DataSet) -> Identity:
    """The four UIDs every instance has, each with one value.

    Raises InvalidInstance with the tag of the first one that is not one.
    """

    def uid(tag: str) -> str:
        values = data_set.json.get(tag, {}).get("Value", ())
        return checked_uid(str(values[0]) if len(values) == 1 else "", tag)

    sop_instance_uid = uid(_SOP_INSTANCE)
    return Identity(uid(_STUDY), uid(_SERIES), sop_instance_uid, uid(_SOP_CLASS))


def entry_of(
    data_set: DataSet,
    identity: Identity,
    syntax: TransferSyntax,
    source: Source,
    *,
    digest: str,
    header_bytes: int,
    object_bytes: int,
    peek: Peek,
    received_digest: str = "",
) -> tuple[Entry, str]:
    """Everything the index keeps of an instance, and a warning about its frames.

    digest: of the Data Set; received_digest: of what came, if that was coerced. header_bytes: what stands before it in
    the object. peek: reads a few bytes of the Data Set.
    """
    table, warning = frame_table(data_set, syntax, peek)
    instance = Instance(
        study_instance_uid=identity.study_instance_uid,
        series_instance_uid=identity.series_instance_uid,
        sop_instance_uid=identity.sop_instance_uid,
        sop_class_uid=identity.sop_class_uid,
        transfer_syntax_uid=syntax.uid,
        digest=digest,
        key=instance_key(identity.study_instance_uid, identity.sop_instance_uid, syntax.uid, digest),
        size_bytes=object_bytes,
        data_set_offset=header_bytes,
        number_of_frames=table.number_of_frames,
    )
    metadata = pack_metadata(data_set.json, syntax.uid)
    coerced = _coerced(data_set, received_digest) if received_digest else None
    attributes = level_attributes(data_set.json)
    return Entry(instance, attributes, metadata, table.encoded, data_set.bulk, source, coerced), warning


def _coerced(data_set: DataSet, received_digest: str) -> Coerced | None:
    """How a Data Set was coerced, as it says itself in the last item of Original Attributes Sequence."""
    items = data_set.json.get(ORIGINAL_ATTRIBUTES, {}).get("Value") or [{}]
    when, who = (str((items[-1].get(tag, {}).get("Value") or [""])[0]) for tag in _SAID_OF_COERCION)
    return Coerced(received_digest, when, who) if when else None


def own_header(content: Buffer) -> tuple[Announcement, int] | None:
    """What the header of an object announces and where its Data Set starts; None for a header that is not ours."""
    head = bytes(content[: PREAMBLE_BYTES + MAXIMUM_FILE_META_BYTES])
    try:
        found = read_file_meta(head)
    except NotDicom:
        return None
    if found is None or head[: found[1]] != canonical_header(found[0]):
        return None
    return found


def entry_of_object(
    key: str,
    content: Buffer,
    source: Source,
    announcement: Announcement,
    offset: int,
    *,
    received_digest: str = "",
) -> Entry:
    """The entry of an object that lies in the store under a key: what a store made of the same bytes.

    content: the whole object, its Data Set at ``offset``. The digest is believed, as the key has it. Raises NotDicom,
    InvalidInstance or UnsupportedTransferSyntax where the bytes make no instance, and CorruptObject where they make
    another one than header and key say.
    """
    said = parts_of(key)
    if said is None:
        raise CorruptObject("The object has no name of ours")
    syntax = known_syntax(announcement.transfer_syntax_uid)
    data_set = read_data_set(content, offset, syntax)
    identity = identity_of(data_set)
    entry, _ = entry_of(
        data_set,
        identity,
        syntax,
        source,
        digest=said.digest,
        header_bytes=offset,
        object_bytes=len(content),
        peek=lambda start, end: bytes(content[offset + start : offset + end]),
        received_digest=received_digest,
    )
    if announcement != Announcement(identity.sop_class_uid, identity.sop_instance_uid, syntax.uid):
        raise CorruptObject("The header of the object is that of another instance", uid=said.sop_instance_uid)
    instance = replace(entry.instance, key=key)
    if not is_place_of(key, instance):
        raise CorruptObject("The object lies where another instance belongs", uid=said.sop_instance_uid)
    return replace(entry, instance=instance)


def is_place_of(key: str, instance: Instance) -> bool:
    """Whether a key is one for that instance's object, in the form of today or with a folder for the series."""
    said = parts_of(key)
    return said is not None and said == KeyParts(
        instance.study_instance_uid,
        said.series_instance_uid and instance.series_instance_uid,
        instance.sop_instance_uid,
        instance.transfer_syntax_uid,
        instance.digest,
    )
