"""Storage commitment as its users see it: pynetdicom asks, and takes reports over either association."""

from __future__ import annotations

import contextlib
import threading
from dataclasses import dataclass, field

from pydicom.dataset import Dataset
from pynetdicom import AE, evt

from tests import synthetic
from tests.fix_dimse import settle
from tests.synthetic import EXPLICIT, IMPLICIT, SECONDARY_CAPTURE

PUSH_MODEL, WELL_KNOWN = "1.2.840.10008.1.20.1", "1.2.840.10008.1.20.1.1"
PUSH = (PUSH_MODEL, [EXPLICIT])
TITLE = "SCU"


class Clock:
    """Seconds that pass when the test says so."""

    def __init__(self):
        self.now = 1_000_000.0

    def __call__(self):
        return self.now


def request_of(transaction, references):
    """The Action Information for ``(class, instance)`` pairs."""
    asked = Dataset()
    asked.TransactionUID = transaction
    asked.ReferencedSOPSequence = []
    for sop_class, sop_instance in references:
        item = Dataset()
        item.ReferencedSOPClassUID, item.ReferencedSOPInstanceUID = sop_class, sop_instance
        asked.ReferencedSOPSequence.append(item)
    return asked


def captures(uids):
    return [(SECONDARY_CAPTURE, uid) for uid in uids]


def act(association, asked, *, action=1, instance=WELL_KNOWN):
    """One N-ACTION; its response."""
    status, _ = association.send_n_action(asked, action, PUSH_MODEL, instance)
    return status


@dataclass
class Report:
    """A report as it came in."""

    kind: int
    transaction: str
    committed: list
    failed: dict

    @classmethod
    def of(cls, event):
        told = event.event_information
        return cls(
            event.event_type,
            told.TransactionUID,
            [one.ReferencedSOPInstanceUID for one in told.get("ReferencedSOPSequence", ())],
            {one.ReferencedSOPInstanceUID: one.FailureReason for one in told.get("FailedSOPSequence", ())},
        )


@dataclass
class Reports:
    """What was reported. status: of each response; is_silent: they are not answered for a long time."""

    status: int = 0
    found: list = field(default_factory=list)
    roles: list = field(default_factory=list)
    port: int = 0
    gate: threading.Event = field(default_factory=threading.Event)
    is_silent: bool = False

    def take(self, event):
        self.found.append(Report.of(event))
        if self.is_silent:
            self.gate.wait(20)
        return self.status, None

    def note_roles(self, event):
        self.roles.append(
            {uid: (role.scu_role, role.scp_role) for uid, role in event.assoc.requestor.role_selection.items()}
        )

    @property
    def handlers(self):
        return [(evt.EVT_N_EVENT_REPORT, self.take)]

    def one(self, seconds=30):
        """The only report there is, or is to come."""
        assert settle(lambda: self.found, seconds)
        (found,) = self.found
        return found


@contextlib.contextmanager
def listening(reports, port=0, title=TITLE):
    """A requestor that takes reports over associations to it."""
    ae = AE(title)
    ae.add_supported_context(PUSH_MODEL, [EXPLICIT, IMPLICIT], scu_role=False, scp_role=True)
    handlers = [*reports.handlers, (evt.EVT_REQUESTED, reports.note_roles)]
    server = ae.start_server(("127.0.0.1", port), block=False, evt_handlers=handlers)
    reports.port = server.socket.getsockname()[1]
    try:
        yield reports
    finally:
        server.shutdown()


def data_set_bytes(transaction, references, *, is_delimited=False):
    """The same as ``request_of`` in Explicit VR Little Endian, by the encoder of the tests."""
    length = synthetic.UNDEFINED if is_delimited else None
    items = [
        synthetic.item(
            synthetic.element(0x00081150, "UI", sop_class) + synthetic.element(0x00081155, "UI", sop_instance),
            length=length,
        )
        for sop_class, sop_instance in references
    ]
    sequence = synthetic.sequence(0x00081199, *items, is_delimited=is_delimited)
    return synthetic.element(0x00081195, "UI", transaction) + sequence
