"""A wire tap: a TCP relay before a DIMSE listener that notes what each C-STORE really carried, and its answer.

PDUs are taken apart with pynetdicom's own decoders, so nothing of the gateway judges itself. PS3.8 §9.3, PS3.7 §9.3.1
"""

from __future__ import annotations

import contextlib
import hashlib
import socket
import threading
from dataclasses import dataclass, field
from io import BytesIO

from pynetdicom.dsutils import decode
from pynetdicom.pdu import A_ASSOCIATE_AC, A_ASSOCIATE_RQ

ASSOCIATE_RQ, ASSOCIATE_AC, P_DATA = 1, 2, 4
C_STORE_RQ, C_STORE_RSP = 0x0001, 0x8001


@dataclass
class Store:
    """One C-STORE. data_set: as the fragments carried it; status: None without answer."""

    sop_class: str
    sop_instance: str
    transfer_syntax: str
    data_set: bytes = b""
    status: int | None = None
    comment: str = ""

    @property
    def digest(self):
        """SHA-256 (hex) of the Data Set."""
        return hashlib.sha256(self.data_set).hexdigest()


@dataclass
class Conversation:
    """One connection. proposed: by context, abstract and transfer syntaxes; results: by context, 0 is acceptance."""

    proposed: dict = field(default_factory=dict)
    results: dict = field(default_factory=dict)
    stores: list = field(default_factory=list)


class _Messages:
    """Command Sets and Data Sets of one direction, put together from its PDUs."""

    def __init__(self, associate, message):
        self._associate = associate
        self._message = message
        self._stream = bytearray()
        self._command = bytearray()
        self._data_set = bytearray()
        self._header = None

    def feed(self, piece):
        self._stream += piece
        while len(self._stream) >= 6:
            length = 6 + int.from_bytes(self._stream[2:6], "big")
            if len(self._stream) < length:
                return
            pdu, self._stream = bytes(self._stream[:length]), self._stream[length:]
            self._take(pdu)

    def _take(self, pdu):
        if pdu[0] in (ASSOCIATE_RQ, ASSOCIATE_AC):
            self._associate(pdu)
        if pdu[0] != P_DATA:
            return
        at = 6
        while at < len(pdu):
            length = int.from_bytes(pdu[at : at + 4], "big")
            context, control = pdu[at + 4], pdu[at + 5]
            self._fragment(context, control, pdu[at + 6 : at + 4 + length])
            at += 4 + length

    def _fragment(self, context, control, fragment):
        if control & 1:
            self._command += fragment
            if control & 2:
                command = decode(BytesIO(bytes(self._command)), True, True)
                self._command = bytearray()
                self._header = (context, command)
                self._data_set = bytearray()
                if command.CommandDataSetType == 0x0101:
                    self._message(context, command, b"")
            return
        self._data_set += fragment
        if control & 2:
            self._message(*self._header, bytes(self._data_set))


class _Relay:
    """One connection, tapped in both directions."""

    def __init__(self, client, server):
        self.conversation = Conversation()
        self._pending = {}
        self._pumps = [
            threading.Thread(target=self._pump, args=(client, server, _Messages(self._requested, self._request))),
            threading.Thread(target=self._pump, args=(server, client, _Messages(self._accepted, self._response))),
        ]
        for pump in self._pumps:
            pump.start()

    def join(self):
        for pump in self._pumps:
            pump.join(60)
            assert not pump.is_alive()

    def _pump(self, source, target, messages):
        with contextlib.suppress(ConnectionError):
            while piece := source.recv(1 << 18):
                messages.feed(piece)
                target.sendall(piece)
        with contextlib.suppress(OSError):
            target.shutdown(socket.SHUT_WR)

    def _requested(self, raw):
        pdu = A_ASSOCIATE_RQ()
        pdu.decode(raw)
        for context in pdu.presentation_context:
            proposal = (str(context.abstract_syntax), tuple(map(str, context.transfer_syntax)))
            self.conversation.proposed[context.context_id] = proposal

    def _accepted(self, raw):
        pdu = A_ASSOCIATE_AC()
        pdu.decode(raw)
        for context in pdu.presentation_context:
            syntax = str(context.transfer_syntax) if context.result == 0 else ""
            self.conversation.results[context.context_id] = (context.result, syntax)

    def _request(self, context, command, data_set):
        if command.CommandField == C_STORE_RQ:
            syntax = self.conversation.results[context][1]
            uids = (str(command.AffectedSOPClassUID), str(command.AffectedSOPInstanceUID))
            store = Store(*uids, syntax, data_set)
            self._pending[command.MessageID] = store
            self.conversation.stores.append(store)

    def _response(self, _context, command, _data_set):
        if command.CommandField == C_STORE_RSP:
            store = self._pending.pop(command.MessageIDBeingRespondedTo)
            store.status, store.comment = command.Status, command.get("ErrorComment", "")


class WireTap:
    """Relays every connection to ``port`` of loopback; a context manager. port: where it listens itself."""

    def __init__(self, port):
        self._target = port
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self._relays = []
        self._sockets = contextlib.ExitStack()
        self._accepting = threading.Thread(target=self._accept)

    def _accept(self):
        with contextlib.suppress(OSError):
            while True:
                client = self._sockets.enter_context(self._listener.accept()[0])
                server = self._sockets.enter_context(socket.create_connection(("127.0.0.1", self._target)))
                for one in (client, server):
                    one.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                self._relays.append(_Relay(client, server))

    def taken(self):
        """The conversations that have ended since the last call."""
        for relay in self._relays:
            relay.join()
        conversations = [relay.conversation for relay in self._relays]
        self._relays = []
        self._sockets.close()
        return conversations

    def __enter__(self):
        self._accepting.start()
        return self

    def __exit__(self, *_):
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._accepting.join(10)
        for relay in self._relays:
            relay.join()
        self._sockets.close()
