r"""Throughput of the multipart parser on friendly and hostile payloads, in MB/s of CPU time.

``python benchmarks/multipart_parser.py [MEBIBYTES]``. The target is 300 MB/s on the worst ``\r\n--`` payload (H3).
"""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from gateway.dicomweb.multipart import PART_ENDS, MultipartParser, body_ends, new_boundary, part_begins

BOUNDARY = new_boundary()
LONGEST = "a" * 69 + "b"
PAYLOADS = {
    "random": (os.urandom(1 << 20), BOUNDARY),
    "CR LF - -": (b"\r\n--", BOUNDARY),
    "CR LF - -, boundary of one character": (b"\r\n--", "a"),
    "dashes in a boundary of dashes": (b"-", "-" * 70),
    "half of the boundary": (b"\r\n--" + BOUNDARY[:16].encode(), BOUNDARY),
    "boundary but its last character": (b"\r\n--" + BOUNDARY[:-1].encode(), BOUNDARY),
    "letters of the boundary": (b"a", LONGEST),
    "boundaries that are none": (b"\r\n--" + BOUNDARY.encode() + b"x", BOUNDARY),
}


def megabytes_per_second(payload: bytes, boundary: str, chunk_bytes: int) -> float:
    """The best of three."""
    body = part_begins(boundary, "application/dicom") + payload + PART_ENDS + body_ends(boundary)
    chunks = [body[start : start + chunk_bytes] for start in range(0, len(body), chunk_bytes)]
    best_seconds = float("inf")
    for _ in range(3):
        parser, data_bytes = MultipartParser(boundary), 0
        started = time.process_time()
        for chunk in chunks:
            data_bytes += sum(len(event) for event in parser.feed(chunk) if isinstance(event, memoryview))
        parser.finish()
        best_seconds = min(best_seconds, time.process_time() - started)
        if data_bytes != len(payload):
            sys.exit("the parser lost bytes")
    return len(body) / best_seconds / 1e6


def main() -> None:
    """Print a table: payloads down, chunk sizes across."""
    total_bytes = (int(sys.argv[1]) if len(sys.argv) > 1 else 16) << 20
    sizes = (4 << 10, 16 << 10, 64 << 10, 1 << 20)
    print(f"{'MB/s by chunk':40}" + "".join(f"{size >> 10:>7} KiB" for size in sizes))
    for name, (unit, boundary) in PAYLOADS.items():
        payload = unit * (total_bytes // len(unit))
        figures = (megabytes_per_second(payload, boundary, size) for size in sizes)
        print(f"{name:40}" + "".join(f"{figure:>11.0f}" for figure in figures))


if __name__ == "__main__":
    main()
