"""What strangers send, changed by chance: bodies of stores over HTTP, PDUs of associations, Data Sets of C-STORE.

A real gateway is sent so many of each; every one is answered with a status of the standard or cut off, in time, and
afterwards the same processes are there, with no more files, threads, descriptors or memory than a limit. H3, H13, H14,
D8, D10, D11.

``python -m tests.attack.mutations --bodies 20000 --pdus 50000 --data-sets 50000 --seed 1`` prints the figures.
"""

from __future__ import annotations

import argparse
import contextlib
import http.client
import json
import random
import socket
import sys
import tempfile
import threading
import time
from collections import Counter
from dataclasses import dataclass, field
from functools import cache
from io import BytesIO
from pathlib import Path

import psutil
from PIL import Image

from tests import synthetic
from tests.fix_dimse import (
    ECHO,
    FIND,
    RELEASE,
    STORAGE,
    associate_request,
    echo_command,
    p_data,
    pdv,
    receive_pdu,
    status_of,
    store_command,
)
from tests.fix_servers import running_gateway
from tests.fix_store import JSON, XML, metadata, part

PATIENCE_SECONDS = 20.0
THREADS = 4
BOUNDARY = "b0"  # as in fix_store
HTTP_STATUSES = {200, 202, 400, 409, 411, 413, 415, 422, 431, 501}
DIMSE_STATUSES = {0x0000, 0xB000, 0xB007, 0x0110, 0x0111, 0x0112, 0x0117, 0x0122, 0xA700, 0xA900, 0xC000}
ASSOCIATE_AC, ASSOCIATE_RJ, P_DATA, RELEASE_RP, ABORT = 2, 3, 4, 6, 7


# ---- change by chance ------------------------------------------------------------------------------------------------


def _set(source, raw):
    raw[source.randrange(len(raw))] = source.randrange(256)


def _flip(source, raw):
    raw[source.randrange(len(raw))] ^= 1 << source.randrange(8)


def _extreme(source, raw):
    """Lengths are numbers: the largest, the least and those around them."""
    size = source.choice((1, 2, 4))
    at = source.randrange(max(1, len(raw) - size))
    value = source.choice((0, 1, (1 << 8 * size) - 1, 1 << 8 * size - 1, (1 << 8 * size - 1) - 1))
    raw[at : at + size] = value.to_bytes(size, source.choice(("little", "big")))


def _cut(source, raw):
    start = source.randrange(len(raw))
    del raw[start : start + source.choice((1, 2, 8, 64, 1 << 20))]


def _double(source, raw):
    start = source.randrange(len(raw))
    piece = raw[start : start + source.choice((1, 4, 32, 256))]
    raw[start:start] = piece * source.choice((1, 2, 16))


def _move(source, raw):
    start, to = source.randrange(len(raw)), source.randrange(len(raw))
    piece = raw[start : start + source.choice((4, 16, 64))]
    del raw[start : start + len(piece)]
    raw[to:to] = piece


def _insert(source, raw):
    at = source.randrange(len(raw))
    raw[at:at] = source.choice(
        (
            b"\r\n--",
            f"\r\n--{BOUNDARY}".encode(),
            b"\r\n\r\n",
            b"\0" * 16,
            b"\xfe\xff\x00\xe0\xff\xff\xff\xff",  # an item of undefined length
            b"\xfe\xff\xdd\xe0\0\0\0\0",
            b"\xff" * 8,
            b'{"',
            b"<!DOCTYPE a>",
        )
    )


CHANGES = (_set, _set, _flip, _extreme, _extreme, _cut, _double, _move, _insert)


def mutated(source, raw):
    """Some bytes in a few places changed, taken away, doubled, moved or put in."""
    changed = bytearray(raw)
    for _ in range(source.choice((1, 1, 2, 3, 5, 8))):
        if changed:
            source.choice(CHANGES)(source, changed)
    return bytes(changed)


# ---- what is sent ----------------------------------------------------------------------------------------------------


def _uid(source):
    return f"1.2.826.0.1.{source.randrange(1 << 30)}.{source.randrange(1 << 30)}"


def _image(sop_instance):
    """A small image with a sequence and pixels in two fragments or as they are."""
    nested = synthetic.sequence(
        0x00081140,
        synthetic.item(
            synthetic.element(0x00081155, "UI", "1.2.3")
            + synthetic.sequence(0x0040A170, synthetic.item(synthetic.us(0x00280010, 4)))
        ),
        is_delimited=True,
    )
    return synthetic.data_set(
        sop_instance=sop_instance,
        extra=(nested, *synthetic.image_elements(4, 4), synthetic.element(0x7FE00010, "OW", bytes(range(16)))),
    )


def multipart_of_instances(source):
    """Two instances as they should be, and the type of the body."""
    uids = [_uid(source) for _ in range(2)]
    parts = [part(synthetic.part10(_image(uid), sop=uid), "application/dicom") for uid in uids]
    return _closed(*parts), "application/dicom"


def _closed(*parts):
    return b"".join(parts) + f"--{BOUNDARY}--\r\n".encode()


def _described(source):
    """Metadata of a small image whose pixels come in a part of their own, in the DICOM JSON Model."""
    numbers = {"00280010": 4, "00280011": 4, "00280002": 1, "00280100": 8, "00280101": 8, "00280102": 7, "00280103": 0}
    nested = {"00081155": {"vr": "UI", "Value": ["1.2.3"]}, "00080054": {"vr": "AE", "Value": ["A"]}}
    return {
        **metadata(sop=_uid(source)),
        "00081140": {"vr": "SQ", "Value": [nested]},
        **{tag: {"vr": "US", "Value": [number]} for tag, number in numbers.items()},
        "00420011": {"vr": "OB", "InlineBinary": "AAECAw=="},
        "7FE00010": {"vr": "OB", "BulkDataURI": "pixels"},
    }


PIXELS = part(bytes(range(16)), "application/octet-stream", "pixels")


def metadata_in_json(source):
    """Two instances as JSON and a bulk data part that both refer to. PS3.18 §10.5.2"""
    return _closed(part([_described(source), _described(source)], JSON), PIXELS), JSON


def metadata_in_xml(source):
    """An instance in the Native DICOM Model and its bulk data part. PS3.19 §A.1"""
    text = f'<NativeDicomModel xml:space="preserve">{"".join(_native(_described(source)))}</NativeDicomModel>'
    return _closed(part(text, XML), PIXELS), XML


def _native(model):
    for tag, element in model.items():
        yield f'<DicomAttribute tag="{tag}" vr="{element["vr"]}">'
        if "InlineBinary" in element:
            yield f"<InlineBinary>{element['InlineBinary']}</InlineBinary>"
        if "BulkDataURI" in element:
            yield f'<BulkData uri="{element["BulkDataURI"]}"/>'
        for number, value in enumerate(element.get("Value", ()), 1):
            if element["vr"] == "SQ":
                yield f'<Item number="{number}">{"".join(_native(value))}</Item>'
            elif element["vr"] == "PN":
                name = f"<Alphabetic><FamilyName>{value['Alphabetic']}</FamilyName></Alphabetic>"
                yield f'<PersonName number="{number}">{name}</PersonName>'
            else:
                yield f'<Value number="{number}">{value}</Value>'
        yield "</DicomAttribute>"


def a_consumer_image(source):
    """Metadata and a JPEG image to be put into it. PS3.18 §10.5.2"""
    model = {tag: element for tag, element in _described(source).items() if not tag.startswith("0028")}
    return _closed(part([model], JSON), part(_jpeg(), "image/jpeg", "pixels")), JSON


@cache
def _jpeg():
    with BytesIO() as file:
        Image.new("RGB", (8, 8), "teal").save(file, "jpeg")
        return file.getvalue()


BODIES = (multipart_of_instances, metadata_in_json, metadata_in_xml, a_consumer_image)


@dataclass
class Tally:
    """What came of it. Thread-safe enough: each thread has one of its own."""

    answers: Counter = field(default_factory=Counter)
    longest_seconds: float = 0.0
    wrong: list = field(default_factory=list)

    def add(self, answer, seconds, allowed, what):
        self.answers[answer] += 1
        self.longest_seconds = max(self.longest_seconds, seconds)
        if answer not in allowed:
            self.wrong.append((answer, what))


def send_bodies(gateway, source, count, tally):
    """POST so many bodies over connections that are kept as long as the gateway keeps them."""
    connection = http.client.HTTPConnection("127.0.0.1", gateway.http_port, timeout=PATIENCE_SECONDS)
    for _ in range(count):
        body, kind = source.choice(BODIES)(source)
        body = mutated(source, body)
        content_type = f'multipart/related; type="{kind}"; boundary={BOUNDARY}'
        began = time.monotonic()
        try:
            connection.request("POST", "/dicomweb/studies", body, {"Content-Type": content_type})
            answer = connection.getresponse()
            answer.read()
            status = answer.status
        except (OSError, http.client.HTTPException) as error:
            status = type(error).__name__
            connection.close()
        tally.add(status, time.monotonic() - began, HTTP_STATUSES, body)
    connection.close()


def send_conversations(gateway, source, count, tally):
    """So many conversations of five PDUs, changed, each over a connection of its own and all at once."""
    for _ in range(count):
        wire = mutated(
            source,
            associate_request(STORAGE, ECHO, FIND)
            + p_data(pdv(3, 3, echo_command()))
            + p_data(pdv(1, 3, store_command("1.2.3.4.5")), pdv(1, 2, synthetic.data_set()))
            + RELEASE,
        )
        began = time.monotonic()
        kinds = []
        with socket.create_connection(("127.0.0.1", gateway.dimse_port), PATIENCE_SECONDS) as peer:
            with contextlib.suppress(ConnectionError):
                peer.sendall(wire)
                peer.shutdown(socket.SHUT_WR)
            try:
                while (pdu := receive_pdu(peer))[0]:
                    kinds.append(pdu[0])
            except TimeoutError:
                kinds.append("late")
            except ConnectionError:
                kinds.append(0)
        legal = {0, ASSOCIATE_AC, ASSOCIATE_RJ, P_DATA, RELEASE_RP, ABORT}
        last = kinds[-1] if kinds else 0
        tally.add(last, time.monotonic() - began, legal, wire)


def _associated(gateway):
    peer = socket.create_connection(("127.0.0.1", gateway.dimse_port), PATIENCE_SECONDS)
    peer.sendall(associate_request(STORAGE))
    assert receive_pdu(peer)[0] == ASSOCIATE_AC
    return peer


def send_data_sets(gateway, source, count, tally):
    """C-STORE of so many changed Data Sets, over an association for as long as it lasts."""
    peer = _associated(gateway)
    for _ in range(count):
        sop_instance = _uid(source)
        raw = mutated(source, _image(sop_instance))
        began = time.monotonic()
        try:
            peer.sendall(p_data(pdv(1, 3, store_command(sop_instance)), pdv(1, 2, raw)))
            answer, _ = status_of(peer)
        except (OSError, AssertionError) as error:
            answer = type(error).__name__
        tally.add(answer, time.monotonic() - began, DIMSE_STATUSES, raw)
        if not isinstance(answer, int):
            peer.close()
            peer = _associated(gateway)
    peer.sendall(RELEASE)
    receive_pdu(peer)
    peer.close()


# ---- what of it is left ----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Resources:
    """What the processes of a gateway have; its decoders, which come and go with images that are kept, are apart."""

    pids: frozenset
    rss_bytes: int
    decoders_rss_bytes: int
    threads: int
    descriptors: int
    waiting_files: int


def _rss_bytes(processes):
    return sum(process.memory_info().rss for process in processes)


def resources(gateway):
    parent = psutil.Process(gateway.process.pid)
    processes = [parent, *parent.children()]
    decoders = set(parent.children(recursive=True)) - set(processes)
    return Resources(
        frozenset(process.pid for process in processes),
        _rss_bytes(processes),
        _rss_bytes(decoders),
        sum(process.num_threads() for process in processes),
        sum(process.num_fds() for process in processes),
        sum(1 for _ in gateway.data.rglob("*.incoming")),
    )


KINDS = {"bodies": send_bodies, "pdus": send_conversations, "data_sets": send_data_sets}


def attack(gateway, kind, seed, count):
    """So many of a kind, by a few senders at once; what came of it, and how long that took."""
    tallies = [Tally() for _ in range(THREADS)]
    failures = []

    def send(number):
        try:
            KINDS[kind](gateway, random.Random(f"{seed} {kind} {number}"), count // THREADS, tallies[number])
        except Exception as error:  # noqa: BLE001 - told below
            failures.append(repr(error))

    began = time.monotonic()
    threads = [threading.Thread(target=send, args=(number,)) for number in range(THREADS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    total = Tally()
    for tally in tallies:
        total.answers += tally.answers
        total.longest_seconds = max(total.longest_seconds, tally.longest_seconds)
        total.wrong += tally.wrong
    return total, time.monotonic() - began, failures


def run(gateway, seed, counts):
    """All kinds, after a little of each that loads what is loaded once. The figures, and what is wrong."""
    for kind in KINDS:
        attack(gateway, kind, f"first {seed}", 10 * THREADS)
    time.sleep(3)
    before = resources(gateway)
    figures, wrong = {"seed": seed}, []
    for kind, count in counts.items():
        tally, seconds, failures = attack(gateway, kind, seed, count)
        figures[kind] = {
            "sent": tally.answers.total(),
            "seconds": round(seconds, 1),
            "longest_ms": round(tally.longest_seconds * 1e3, 1),
            "answers": {str(answer): number for answer, number in tally.answers.most_common()},
        }
        wrong += [f"{kind}: {answer} to {what[:2000].hex()}" for answer, what in tally.wrong[:3]]
        wrong += [f"{kind}: {failure}" for failure in failures]
        if tally.longest_seconds > PATIENCE_SECONDS / 2:
            wrong.append(f"{kind}: an answer took {tally.longest_seconds:.1f} s")
    time.sleep(5)
    after = resources(gateway)
    figures["rss_growth_mb"] = round((after.rss_bytes - before.rss_bytes) / 1e6, 1)
    figures["decoders_rss_mb"] = round(after.decoders_rss_bytes / 1e6, 1)
    figures["threads"] = after.threads - before.threads
    figures["descriptors"] = after.descriptors - before.descriptors
    figures["waiting_files"] = after.waiting_files
    if after.pids != before.pids:
        wrong.append("a process of the gateway ended")
    if after.waiting_files:
        wrong.append("files of spools are left")
    wrong += [f"log: {line['event']}" for line in gateway.lines() if line["level"] in ("ERROR", "CRITICAL")][:5]
    return figures, wrong


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bodies", type=int, default=20_000)
    parser.add_argument("--pdus", type=int, default=50_000)
    parser.add_argument("--data-sets", type=int, default=50_000)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    counts = {kind: getattr(options, kind) for kind in KINDS}
    with tempfile.TemporaryDirectory() as folder, running_gateway(Path(folder) / "data") as gateway:
        figures, wrong = run(gateway, options.seed, counts)
    print(json.dumps(figures, indent=1))
    for line in wrong:
        print(line, file=sys.stderr)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
