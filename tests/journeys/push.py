"""Pushing files as modalities do: with DCMTK's storescu, or with pynetdicom where storescu cannot send a file."""

from __future__ import annotations

import os
import re
import subprocess
from io import BytesIO

from pydicom.uid import UID
from pynetdicom import AE, build_context
from pynetdicom.dimse_primitives import C_STORE

from tests.journeys.files import BIG_ENDIAN, EXPLICIT, IMPLICIT
from tests.journeys.wiretap import Store
from tests.pacing import paced, pause

AE_TITLE = "GATEWAY"
UNNAMED_CLASS, UNNAMED_INSTANCE = "1.2.840.10008.5.1.4.1.1.7", "1.2.3.99"
"""What a file is announced as that does not say what it is."""

OPTIONS = {
    IMPLICIT: "-xi",
    EXPLICIT: "-xe",
    BIG_ENDIAN: "-xb",
    "1.2.840.10008.1.2.1.99": "-xd",
    "1.2.840.10008.1.2.4.50": "-xy",
    "1.2.840.10008.1.2.4.51": "-xx",
    "1.2.840.10008.1.2.4.70": "-xs",
    "1.2.840.10008.1.2.4.80": "-xt",
    "1.2.840.10008.1.2.4.81": "-xu",
    "1.2.840.10008.1.2.4.90": "-xv",
    "1.2.840.10008.1.2.4.91": "-xw",
    "1.2.840.10008.1.2.5": "-xr",
}
"""storescu's switch that proposes a transfer syntax."""

_SENDING = re.compile(r"^I: Sending file: (.+)$", re.MULTILINE)


def dcmtk(*arguments, seconds=60):
    """A program of DCMTK to its end; TCP_NODELAY spares it 40 ms for each message."""
    return subprocess.run(
        [str(one) for one in arguments],
        capture_output=True,
        text=True,
        errors="replace",
        timeout=seconds,
        env={**os.environ, "TCP_NODELAY": "1"},
        check=False,
    )


def push_with_storescu(tap, files):
    """One storescu for all files of a transfer syntax; what the wire carried of those it sent, by name."""
    sent = {}
    for syntax in sorted({file.transfer_syntax for file in files} & set(OPTIONS)):
        batch = [file for file in files if file.transfer_syntax == syntax]
        switches = ("-v", "-R", "-nh", OPTIONS[syntax], "-aec", AE_TITLE)
        done = dcmtk("storescu", *switches, "127.0.0.1", tap.port, *(file.path for file in batch))
        stores = [store for conversation in tap.taken() for store in conversation.stores]
        names = {str(file.path): file.name for file in batch}
        for path in _transferred(done.stdout + done.stderr):
            sent[names[path]] = stores.pop(0)
        assert stores == []
    return sent


def _transferred(output):
    """Paths of the files that went over the wire, in order: those whose paragraph tells of a response."""
    paragraphs = _SENDING.split(output)[1:]
    return [path for path, text in zip(paragraphs[::2], paragraphs[1::2], strict=True) if "Store Response" in text]


def push_with_pynetdicom(tap, file):
    """One association that proposes nothing but the file's own transfer syntax, and its Data Set byte by byte.

    Returns what the wire carried, or the result code of the presentation context that was refused.
    """
    ae = AE("PYNETDICOM")
    ae.acse_timeout = ae.dimse_timeout = ae.network_timeout = 20
    sop_class, sop_instance = file.sop_class or UNNAMED_CLASS, file.sop_instance or UNNAMED_INSTANCE
    context = build_context(UID(sop_class), [UID(file.transfer_syntax)])
    association = paced(ae.associate("127.0.0.1", tap.port, [context], ae_title=AE_TITLE))
    if association.is_established:
        send_verbatim(association, sop_class, sop_instance, file.data_set)
        association.release()
    (conversation,) = tap.taken()
    if conversation.stores:
        return conversation.stores[0]
    ((result, _),) = conversation.results.values()
    return Store(sop_class, sop_instance, "", status=None, comment=f"context refused: {result}")


def send_verbatim(association, sop_class, sop_instance, data_set):
    """One C-STORE of bytes that pynetdicom neither decodes nor encodes, on a paced association.

    Returns the status, None without response.
    """
    (context,) = [one for one in association.accepted_contexts if one.abstract_syntax == sop_class]
    request = C_STORE()
    request.MessageID = association._next_id = getattr(association, "_next_id", 0) % 65535 + 1
    request.Priority = 2
    request.AffectedSOPClassUID = sop_class
    request.AffectedSOPInstanceUID = sop_instance
    request.DataSet = BytesIO(data_set)
    pause(association)
    try:
        association.dimse.send_msg(request, context.context_id)
        _, response = association.dimse.get_msg(block=True)
    finally:
        association._reactor_checkpoint.set()
    if response is None:
        return None
    assert response.MessageIDBeingRespondedTo == request.MessageID
    return response.Status
