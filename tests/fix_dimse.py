"""DIMSE listeners of this process over a real archive in a folder of the test, and peers that speak to them."""

from __future__ import annotations

import contextlib
import os
import socket
import struct
import subprocess
import threading
import time
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import psutil
import pytest
from pydicom.dataset import Dataset
from pydicom.uid import UID
from pynetdicom import AE, build_context

from gateway.dimse.command import Element, Field, encode
from gateway.dimse.limits import DimseLimits
from gateway.dimse.server import DimseServer
from gateway.session import Session
from storage.archive import Archive
from storage.filemeta import Announcement, canonical_header
from storage.index import open_index
from storage.matching import Query
from storage.model import Level
from storage.objects import open_object_store
from storage.quarantine import Limits, Quarantine
from tests import synthetic
from tests.fix_engines import ENGINES
from tests.pacing import paced

VERIFICATION, STUDY_ROOT_FIND = "1.2.840.10008.1.1", "1.2.840.10008.5.1.4.1.2.2.1"
PATIENT_ROOT_FIND, PATIENT_STUDY_ONLY_FIND = "1.2.840.10008.5.1.4.1.2.1.1", "1.2.840.10008.5.1.4.1.2.3.1"
STORAGE = (synthetic.SECONDARY_CAPTURE, [synthetic.EXPLICIT])
FIND = (STUDY_ROOT_FIND, [synthetic.EXPLICIT])
ECHO = (VERIFICATION, [synthetic.IMPLICIT])
RELEASE = bytes.fromhex("05000000000400000000")
AE_TITLE = "GATEWAY"


@dataclass
class Listener:
    """A DIMSE server that runs in a thread."""

    server: DimseServer
    archive: Archive
    folder: Path
    spool_directory: Path
    port: int
    peers: list = field(default_factory=list)

    @property
    def address(self):
        return "127.0.0.1", self.port

    def connect(self):
        """A connection of a peer, which is closed at the end if the test does not."""
        peer = socket.create_connection(self.address)
        peer.settimeout(10)
        self.peers.append(peer)
        return peer

    def waiting_files(self):
        """Files of spools that have not become objects."""
        return sorted(self.folder.rglob("*.incoming"))

    def objects(self):
        return sorted((self.folder / "objects").rglob("*.dcm"))

    def attended(self):
        """How many connections are attended to."""
        return self.server._attending

    def is_at_rest(self):
        """Whether no connection is attended to."""
        return self.attended() == 0

    def figures_at_rest(self):
        """What is in use while nothing is going on."""
        assert settle(self.is_at_rest)
        return figures()

    def is_as_before(self, before):
        """Whether it comes to rest with no more threads and descriptors in use than before."""

        def is_so():
            now = figures()
            return self.is_at_rest() and now.threads <= before.threads and now.fds <= before.fds

        return settle(is_so)


@contextlib.contextmanager
def running_listener(
    folder,
    *,
    sessions=None,
    maximum_instance_bytes=4 << 30,
    peers=None,
    destinations=None,
    tls=None,
    engine=None,
    send_buffer_bytes=None,
    clock=None,
    archive_options=None,
    **limits,
):
    objects = open_object_store(folder / "objects")
    policy = {"tls": tls, "destinations": destinations} | ({} if peers is None else {"peers": peers})
    policy |= {} if clock is None else {"clock": clock}
    with contextlib.closing(open_index((engine or ENGINES["sqlite"]).place(folder))) as index:
        quarantine = Quarantine(folder / "quarantine", Limits(least_free_bytes=0, least_free_percent=0))
        archive = Archive(
            objects,
            index,
            maximum_instance_bytes=maximum_instance_bytes,
            quarantine=quarantine,
            **(archive_options or {}),
        )
        bound = socket.create_server(("127.0.0.1", 0))
        if send_buffer_bytes is not None:  # what is accepted here inherits it
            bound.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, send_buffer_bytes)
        port = bound.getsockname()[1]
        server = DimseServer(bound, AE_TITLE, DimseLimits(**limits), sessions or partial(Session, archive), **policy)
        serving = threading.Thread(target=server.serve)
        serving.start()
        listener = Listener(server, archive, folder, objects.spool_directory, port)
        try:
            yield listener
        finally:
            for peer in listener.peers:
                peer.close()
            server.stop(2)
            serving.join(5)
            archive.ledger.close()
            assert not serving.is_alive()


@pytest.fixture
def listen(tmp_path):
    """``listen(**limits)`` starts a listener over an archive of its own; all stop at the end of the test."""
    with contextlib.ExitStack() as running:
        count = 0

        def start(**options):
            nonlocal count
            count += 1
            folder = tmp_path / f"archive-{count}"
            folder.mkdir()
            return running.enter_context(running_listener(folder, **options))

        yield start


@pytest.fixture
def listener(listen):
    """A listener with the limits that are the default."""
    return listen()


@contextlib.contextmanager
def associated(listener, *contexts, calling="SCU", called=AE_TITLE, maximum_pdu=16382, **more):
    """An association of pynetdicom with ``(abstract syntax, [transfer syntaxes])``; aborted at the end if open."""
    ae = AE(calling)
    ae.acse_timeout = ae.dimse_timeout = ae.network_timeout = 20
    proposed = [build_context(UID(abstract), list(syntaxes)) for abstract, syntaxes in contexts]
    association = paced(ae.associate(*listener.address, proposed, ae_title=called, max_pdu=maximum_pdu, **more))
    try:
        yield association
    finally:
        if association.is_established:
            association.abort()
        if association.is_alive():
            association.join(5)


def uid_item(kind, uid):
    return struct.pack(">BxH", kind, len(uid)) + uid.encode()


def associate_request(*contexts, calling=b"SCU", called=b"GATEWAY", application="1.2.840.10008.3.1.1.1"):
    """The bytes of an A-ASSOCIATE-RQ."""
    items = uid_item(0x10, application)
    for number, (abstract, syntaxes) in enumerate(contexts):
        body = bytes((2 * number + 1, 0, 0, 0)) + uid_item(0x30, abstract)
        body += b"".join(uid_item(0x40, syntax) for syntax in syntaxes)
        items += struct.pack(">BxH", 0x20, len(body)) + body
    user = struct.pack(">BxHI", 0x51, 4, 16384) + uid_item(0x52, "1.2.3")
    items += struct.pack(">BxH", 0x50, len(user)) + user
    body = b"\0\1\0\0" + called.ljust(16) + calling.ljust(16) + bytes(32) + items
    return struct.pack(">BxI", 1, len(body)) + body


def pdv(context_id, control, value):
    return struct.pack(">IBB", len(value) + 2, context_id, control) + value


def p_data(*pdvs):
    body = b"".join(pdvs)
    return struct.pack(">BxI", 4, len(body)) + body


def echo_command(message_id=1):
    return encode(
        {
            Element.AFFECTED_SOP_CLASS_UID: VERIFICATION,
            Element.COMMAND_FIELD: Field.C_ECHO,
            Element.MESSAGE_ID: message_id,
            Element.COMMAND_DATA_SET_TYPE: 0x0101,
        }
    )


def store_command(sop_instance, sop_class=synthetic.SECONDARY_CAPTURE, message_id=1):
    """A C-STORE command; UIDs may be any bytes."""
    return encode(
        {
            Element.AFFECTED_SOP_CLASS_UID: sop_class,
            Element.COMMAND_FIELD: Field.C_STORE,
            Element.MESSAGE_ID: message_id,
            Element.COMMAND_DATA_SET_TYPE: 1,
            Element.AFFECTED_SOP_INSTANCE_UID: sop_instance,
        }
    )


def receive_pdu(peer):
    """Type and value of the next PDU; (0, b"") when the connection is closed."""
    header = receive_exactly(peer, 6)
    if len(header) < 6:
        return 0, b""
    return header[0], receive_exactly(peer, int.from_bytes(header[2:6], "big"))


def receive_exactly(peer, count):
    received = b""
    try:
        while len(received) < count and (piece := peer.recv(count - len(received))):
            received += piece
    except ConnectionResetError:
        return b""
    return received


def raw_association(listener, *contexts, **more):
    """A socket on which an association has been accepted, PDU by PDU."""
    peer = listener.connect()
    peer.sendall(associate_request(*contexts, **more))
    kind, _ = receive_pdu(peer)
    assert kind == 2
    return peer


def echo(listener, seconds=2.0):
    """One C-ECHO on a new association within a time; returns how long it took. The probe of the attack tests."""
    started = time.monotonic()
    with contextlib.closing(listener.connect()) as peer:
        peer.settimeout(seconds)
        peer.sendall(associate_request((VERIFICATION, [synthetic.IMPLICIT])) + p_data(pdv(1, 3, echo_command())))
        assert receive_pdu(peer)[0] == 2
        kind, answer = receive_pdu(peer)
        assert kind == 4
        assert answer.endswith(b"\0\0\0\x09\2\0\0\0\0\0"), "Status 0000 comes last"
        peer.sendall(RELEASE)
        assert receive_pdu(peer)[0] == 6
    return time.monotonic() - started


def run_program(*arguments):
    """A program of DCMTK with TCP_NODELAY, without which it waits 40 ms for each instance (its own default)."""
    environment = {**os.environ, "TCP_NODELAY": "1"}
    return subprocess.run(
        [str(one) for one in arguments],
        capture_output=True,
        text=True,
        errors="replace",
        timeout=60,
        env=environment,
        check=False,
    )


def part10(
    folder, data_set, *, sop_class=synthetic.SECONDARY_CAPTURE, sop_instance="1.2.3.4.5", syntax=synthetic.EXPLICIT
):
    """A Part 10 file of that Data Set."""
    path = folder / f"{sop_instance}.dcm"
    path.write_bytes(canonical_header(Announcement(sop_class, sop_instance, syntax)) + data_set)
    return path


def send(
    peer, data_set, *, sop_instance="1.2.3.4.5", context_id=1, message_id=1, sop_class=synthetic.SECONDARY_CAPTURE
):
    """One C-STORE in a raw association; returns status and comment."""
    peer.sendall(p_data(pdv(context_id, 3, store_command(sop_instance, sop_class, message_id))))
    pieces = [data_set[at : at + 16000] for at in range(0, len(data_set), 16000)] or [b""]
    for number, piece in enumerate(pieces):
        peer.sendall(p_data(pdv(context_id, 2 if number == len(pieces) - 1 else 0, piece)))
    return status_of(peer)


def status_of(peer):
    kind, value = receive_pdu(peer)
    assert kind == 4
    at = value.index(b"\0\0\0\x09\2\0\0\0")
    comment_at = value.find(b"\0\0\x02\x09")
    comment = value[comment_at + 8 : comment_at + 8 + value[comment_at + 4]] if comment_at >= 0 else b""
    return int.from_bytes(value[at + 8 : at + 10], "little"), comment.decode().strip()


def query(level="STUDY", **keys):
    asked = Dataset()
    asked.QueryRetrieveLevel = level
    for keyword, value in keys.items():
        setattr(asked, keyword, value)
    return asked


def find(association, asked, model=STUDY_ROOT_FIND):
    """The statuses and Identifiers of one C-FIND."""
    return [(status.Status, found) for status, found in association.send_c_find(asked, model)]


def instances(listener):
    """Every instance in the archive."""
    return listener.archive.search(Query(Level.INSTANCE))


@dataclass
class Figures:
    """What the test process uses. fds: without those of the index, which keeps its connections for reading."""

    rss_bytes: int
    threads: int
    fds: int


def figures():
    process = psutil.Process()
    index = sum("index.sqlite" in file.path for file in process.open_files())
    return Figures(process.memory_info().rss, threading.active_count(), process.num_fds() - index)


def settle(condition, seconds=5.0):
    """Wait until a condition holds; whether it came to."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if condition():
            return True
        time.sleep(0.02)
    return condition()
