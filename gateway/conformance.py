"""The DICOM Conformance Statement, in Markdown, made from the tables that the doors work by. PS3.2 Annexes N and P

What is negotiated, matched, sent and answered stands in those tables once; here it is only put into the order of PS3.2.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import fields

from gateway import __version__
from gateway.dicomweb.capabilities import DESCRIBED
from gateway.dicomweb.routes import TABLE
from gateway.dimse import models, status
from gateway.dimse.commitment_scp import QUIET_SECONDS
from gateway.dimse.contexts import SERVICES, SYNTAXES, Service
from gateway.dimse.limits import DimseLimits
from gateway.dimse.reporting import GIVE_UP_SECONDS, PAUSES_SECONDS
from gateway.dimse.store_scu import CONTEXTS_MAXIMUM
from gateway.pixels.codecs import DECODED_WITH, ENCODED_WITH
from gateway.pixels.presentation import PRESENTATION_STATES, Kind
from storage.attributes import ATTRIBUTES, KeyType
from storage.charsets import ENCODINGS
from storage.commitment import Reason
from storage.dictionary import uid_name
from storage.filemeta import IMPLEMENTATION_CLASS_UID, IMPLEMENTATION_VERSION_NAME
from storage.uids import TRANSFER_SYNTAXES

_LEVELS = {level: name.capitalize() for name, level in models.LEVEL_NAMES.items()}
_KINDS = {KeyType.UNIQUE: "unique", KeyType.REQUIRED: "required", KeyType.OPTIONAL: "optional", KeyType.NONE: ""}
_OF_STORE = (
    (status.SUCCESS, "The instance and its row are durable, or the very same instance was kept before."),
    (status.COERCED, "Kept; elements were coerced by a rule, and Original Attributes Sequence says which."),
    (status.DATA_SET_DOES_NOT_MATCH_SOP_CLASS, "Kept; the instance breaks a rule that does not hinder its use."),
    (
        status.OUT_OF_RESOURCES,
        "Storage or index cannot be reached, or are full, or a quota is used up. Send it again later.",
    ),
    (status.PROCESSING_FAILURE, "A rule, or the hook, could not be applied; or a fault of this software."),
    (status.DUPLICATE_INSTANCE, "Other bytes are kept under this UID, and a rule refuses these."),
    (status.NOT_AUTHORISED, "The hook refuses the instance."),
    (status.DATA_SET_MISMATCH, "The command and the Data Set name different instances or classes."),
    (status.CANNOT_UNDERSTAND, "The Data Set cannot be read, or lacks a UID."),
    (status.SOP_CLASS_NOT_SUPPORTED, "The SOP Class is not that of the presentation context."),
)
_OF_FIND = (
    (status.PENDING, "A match; every key was supported."),
    (status.PENDING_WITHOUT_SOME_KEYS, "A match; some keys were not supported."),
    (status.SUCCESS, "There are no more matches."),
    (status.CANCELLED, "C-CANCEL was heeded."),
    (status.OUT_OF_RESOURCES, "The index cannot be reached, or there are more matches than may be returned."),
    (status.DATA_SET_MISMATCH, "The Identifier is not one of the information model; the attribute is named."),
)
_OF_RETRIEVE = (
    (status.PENDING, "Sub-operations go on; told four times a second at most."),
    (status.SUCCESS, "Every instance was sent, or none matched."),
    (status.SUB_OPERATIONS_INCOMPLETE, "Some failed or gave warnings; the Identifier lists those that failed."),
    (status.CANCELLED, "C-CANCEL was heeded."),
    (status.DESTINATION_UNKNOWN, "The move destination is none of the configured peers."),
    (status.CANNOT_PERFORM_SUB_OPERATIONS, "No association to the destination came about."),
    (status.OUT_OF_RESOURCES, "The index cannot be reached."),
    (status.DATA_SET_MISMATCH, "The Identifier is not one of the information model; the attribute is named."),
)
_OF_ACTION = (
    (status.SUCCESS, "The request is kept, and will be reported."),
    (status.NO_SUCH_INSTANCE, "The requested SOP Instance is not the well-known one."),
    (status.NO_SUCH_CLASS, "The SOP Class is not that of the presentation context."),
    (status.NO_SUCH_ACTION, "The Action Type ID is not 1."),
    (status.INVALID_ARGUMENT, "Transaction UID or references are missing or malformed; the attribute is named."),
    (status.MISTYPED_ARGUMENT, "The Data Set cannot be read."),
    (status.DUPLICATE_TRANSACTION, "The Transaction UID is in use."),
    (status.RESOURCE_LIMITATION, "Too long, too many references, too much is waiting, or storage cannot be reached."),
)
_OF_REPORT = (
    (Reason.PROCESSING_FAILURE, "The instance was stored, and is missing or damaged; the operator is alerted."),
    (Reason.NO_SUCH_INSTANCE, "There is no such instance."),
    (Reason.CLASS_INSTANCE_CONFLICT, "The instance is of another SOP Class."),
    (Reason.CLASS_NOT_SUPPORTED, "There is no such instance, and its SOP Class is none of Storage."),
    (Reason.RESOURCE_LIMITATION, "The object store cannot be reached now."),
)
_WHAT_IS_NOT = """\
* Storage Commitment as SCU, Modality Worklist, MPPS, Instance Availability Notification, printing, and media storage.
* Extended negotiation of combined date-time matching and of time zone adjustment.
* Lossy compression of what is kept: it would be another instance (PS3.3 §C.7.6.1.1.5).
* Creation of instances. What was received is what is sent, but for elements that rules coerce.
"""


_TITLE = """\
# DICOM Conformance Statement

dicomweb-gateway {}. `dicomweb-gateway conformance` prints this document from the tables that the program works by.
"""


def statement() -> str:
    """All of it, ending with a line end."""
    parts = [
        _TITLE.format(_minor(__version__)),
        _section("Overview", _overview()),
        _section("Transfer syntaxes", _syntaxes()),
        _section("DIMSE: association policies", _associations()),
        _section("DIMSE: SOP Classes", _sop_classes()),
        _section("DIMSE: statuses", _statuses()),
        _section("Storage commitment", _commitment()),
        _section("Coercion and duplicates", _COERCION),
        _section("Attributes of queries", _attributes()),
        _section("DICOMweb", _dicomweb()),
        _section("Presentation states", _presentation_states()),
        _section("Character sets", _character_sets()),
        _section("Security", _SECURITY),
        _section("What is not supported", _WHAT_IS_NOT),
    ]
    return "\n".join(parts)


_COERCION = """\
* By default nothing is coerced, and of several Data Sets under one SOP Instance UID the first stays the one that is
  served; the others are kept. Rules by AE title, door and address (`archive.policies`) replace it or refuse the others,
  refuse SOP Classes and transfer syntaxes, and limit what is kept in a day.
* Where rules coerce attributes, an item of Original Attributes Sequence (0400,0561) has their values, Attribute
  Modification DateTime, our AE title as Modifying System, the calling AE title as Source of Previous Values, and the
  reason COERCE.
  STOW-RS answers with Warning Reason B000 and that item.
* A Data Set that was received before, byte for byte, is answered with success, and nothing is kept a second time.
"""


_SECURITY = """\
* TLS is the matter of a proxy in front of the gateway. It refuses to start without authentication on any address but
  loopback unless it is told to (`--insecure-no-auth`).
* Every association and request has limits on bytes, counts, time and pace; each is a setting.
* Patients are named in no log line and in no error.
"""


_PRESENTATION_STATES = """\
Applied to the image that they are for, when they are rendered themselves or named by a WADO-URI request.

{}
* Of every kind: shutters (rectangular, circular, polygonal, bitmap), displayed area in its three size modes (TRUE SIZE
  as SCALE TO FIT), rotation and flip, overlays that are switched on, graphic layers with their grey or colour, graphics
  and text in PIXEL and DISPLAY units.
* What a state leaves out is the identity, whatever the image says. Overlays lie below graphics and text. Text is
  upright. Styles of lines, areas and text are not looked at, nor compound graphics, for which simple ones stand.
* Of several images the first is shown. A thumbnail has neither overlays nor graphics nor text.
* A state that is malformed, asks for mask subtraction or for MATRIX units is refused with the tag at fault.
"""


def _minor(version: str) -> str:
    return ".".join(version.split(".")[:2])


def _section(title: str, text: str) -> str:
    return f"## {title}\n\n{text}"


def _table(header: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    lines = ["| " + " | ".join(header) + " |", "|" + "---|" * len(header)]
    lines += ["| " + " | ".join(str(cell).replace("|", "\\|") for cell in row) + " |" for row in rows]
    return "\n".join(lines) + "\n"


def _named(uid: str) -> str:
    return f"{uid_name(uid) or uid} `{uid}`"


def _overview() -> str:
    rows = [
        ("Verification", "no", "yes"),
        (
            "Storage: every Storage SOP Class, retired, private and later ones too",
            "yes, for C-MOVE, C-GET and forwarding",
            "yes",
        ),
        ("Query/Retrieve: FIND", "yes, `dicomweb-gateway query`", "yes"),
        ("Query/Retrieve: MOVE, GET", "no", "yes"),
        ("Storage Commitment: Push Model", "no", "yes"),
    ]
    web = sorted({described.name for described in DESCRIBED.values() if described.is_standard})
    return (
        _table(("DIMSE service", "SCU", "SCP"), rows)
        + "\nDICOMweb transactions, as origin server: "
        + ", ".join(web)
        + ".\n"
    )


def _syntaxes() -> str:
    rows = []
    for uid, row in TRANSFER_SYNTAXES.items():
        converted = "yes" if uid in DECODED_WITH else "no"
        made = "as asked for" if uid in ENCODED_WITH else "no"
        rows.append((f"{row.keyword} `{uid}`", "yes", converted, made))
    return (
        "Instances are kept in the transfer syntax in which they came, byte by byte.\n\n"
        + _table(("transfer syntax", "received, kept and sent", "decoded for others", "encoded"), rows)
        + "\nOver HTTP, Implicit VR and Big Endian are never sent: what is kept so goes as Explicit VR Little Endian.\n"
    )


def _associations() -> str:
    rows = [(f"`dimse.{row.name}`", f"{row.default:,}", row.metadata.get("doc", "")) for row in fields(DimseLimits)]
    return (
        f"Application context 1.2.840.10008.3.1.1.1. Implementation class UID `{IMPLEMENTATION_CLASS_UID}`, version "
        f"name `{IMPLEMENTATION_VERSION_NAME}`. No asynchronous operations. A presentation context is accepted in the "
        "first of the transfer syntaxes proposed that is known. As requestor, for C-MOVE and forwarding, at most "
        f"{CONTEXTS_MAXIMUM} contexts are proposed for one association: each SOP Class in the transfer syntaxes in "
        "which it is kept, and in the plain ones; more of them take further associations.\n\n"
        + _table(("limit", "default", "what it bounds"), rows)
    )


def _sop_classes() -> str:
    rows = []
    for uid, service in SERVICES.items():
        rows.append((_named(uid), service.value, _extended(uid), _short(SYNTAXES[service])))
    rows.append(("Every Storage SOP Class with a patient", Service.STORAGE.value, "", "all of the table above"))
    return (
        _table(("SOP Class", "service", "extended negotiation", "transfer syntaxes"), rows)
        + "\nQueries and retrievals are hierarchical, relational where that was negotiated. Retrievals are by unique "
        "keys, which may list UIDs. For C-GET the requestor proposes the SCP role for what it takes.\n"
    )


def _extended(uid: str) -> str:
    if SERVICES[uid] is Service.QUERY:
        return "relational, fuzzy names, empty values, multiple values"
    return "relational" if SERVICES[uid] in (Service.MOVE, Service.GET) else ""


def _short(syntaxes: Iterable[str]) -> str:
    return ", ".join(sorted(uid_name(uid) for uid in syntaxes))


def _statuses() -> str:
    rows = [
        (name, f"{code:04X}", text)
        for name, table in (
            ("C-STORE", _OF_STORE),
            ("C-FIND", _OF_FIND),
            ("C-MOVE, C-GET", _OF_RETRIEVE),
            ("N-ACTION", _OF_ACTION),
        )
        for code, text in table
    ]
    return _table(("operation", "status", "when"), rows)


def _commitment() -> str:
    rows = [(f"{reason:04X}", text) for reason, text in _OF_REPORT]
    pauses = ", ".join(str(seconds // 60) for seconds in PAUSES_SECONDS)
    return (
        "An instance is committed to when its object in the store is as long as its row says, or has the SHA-256 of "
        "what was received, by `archive.commitment_check`. The report, N-EVENT-REPORT of type 1 when all are committed "
        "to and 2 otherwise, comes over the association that asked when that has been quiet for "
        f"{QUIET_SECONDS:.0f} second; else over one to the address of the calling AE title in `dimse.peers`, for which "
        "the role of SCP is proposed. While the peer is away or does not accept it, it is sent again after "
        f"{pauses} minutes, from then on hourly, for {GIVE_UP_SECONDS // 3600} hours. Each instance is in it once. "
        "Storage Media File-Set ID and UID are not looked at; Retrieve AE Title is ours.\n\n"
        + _table(("Failure Reason", "when"), rows)
        + "\nOver HTTP the same is answered at once, or by 202 and a later GET.\n"
    )


def _attributes() -> str:
    rows = [
        (one.keyword, _tag(one.tag), _LEVELS[one.level], one.vr, _KINDS[one.key_type], one.returned.value)
        for one in ATTRIBUTES
    ]
    return (
        "By C-FIND and QIDO-RS alike; matching is single value, list of UIDs, universal, wildcard, range and sequence. "
        "Others become keys by the setting `archive.extended_tags`.\n\n"
        + _table(("attribute", "tag", "level", "VR", "as a key", "returned by QIDO-RS"), rows)
    )


def _tag(path: str) -> str:
    return " › ".join(f"({tag[:4]},{tag[4:]})" for tag in path.split("."))


def _dicomweb() -> str:
    rows = [
        (
            method,
            f"`{path}`",
            DESCRIBED[endpoint].name,
            ", ".join(f"`{name}`" for name in DESCRIBED[endpoint].parameters),
            "; ".join(f"`{media_type}`" for media_type in DESCRIBED[endpoint].answers),
        )
        for method, path, endpoint in TABLE
    ]
    return (
        "Below `/dicomweb`, and below `/dicom-web`; `OPTIONS /dicomweb` tells the same as WADL or JSON. "
        "`DELETE` is none of PS3.18; it is refused unless the setting `http.allow_delete` says otherwise.\n\n"
        + _table(("method", "resource", "transaction", "parameters", "media types, the default first"), rows)
    )


def _presentation_states() -> str:
    rows = [(_named(uid), _transformations(kind)) for uid, kind in PRESENTATION_STATES.items()]
    return _PRESENTATION_STATES.format(_table(("SOP Class", "transformations"), rows))


def _transformations(kind: Kind) -> str:
    names = {"Modality LUT, VOI LUT": kind.has_voi, "Presentation LUT": kind.has_presentation_lut}
    names["palette"] = kind.has_palette
    return ", ".join(name for name, is_there in names.items() if is_there) or "none: colours stay as they are"


def _character_sets() -> str:
    terms = ", ".join(f"`{term}`" for term in ENCODINGS if term)
    return (
        f"Read, alone and with code extensions: {terms}. Values are kept and matched as Unicode. DICOMweb answers in "
        "UTF-8; C-FIND in the character set of the query where that suffices, else in ISO_IR 192.\n"
    )
