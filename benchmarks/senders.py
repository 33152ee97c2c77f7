"""What brings instances to a server: C-STORE by DCMTK's storescu or by ``benchmarks.dimse``, and STOW-RS."""

from __future__ import annotations

import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path

from benchmarks.client import AnswerError, Connection
from benchmarks.servers import ROOT, Server, environment

SEND_SECONDS = 300.0
_BOUNDARY = "benchmark-7d1f2c94-part"
_STORED, _FAILED = "00081199", "00081198"


def has_storescu() -> bool:
    """Whether DCMTK's sender is on this machine."""
    return shutil.which("storescu") is not None


def _command(sender: str, server: Server, folder: Path) -> list[str]:
    if sender == "storescu":
        titles = ["-aet", "BENCHMARK", "-aec", server.ae_title]
        return ["storescu", *titles, server.host, str(server.dimse_port), "+sd", str(folder)]
    place = [server.host, str(server.dimse_port), server.ae_title]
    return [sys.executable, "-m", "benchmarks.dimse", *place, str(folder)]


def c_store(server: Server, folders: Sequence[Path], sender: str) -> None:
    """Send the files of each folder over an association of its own, all at once. Raises AnswerError when one fails."""
    surroundings = {**environment(), "PYTHONPATH": str(ROOT)}
    until = time.monotonic() + SEND_SECONDS
    running: list[subprocess.Popen[str]] = []
    try:
        for folder in folders:
            command = _command(sender, server, folder)
            running.append(
                subprocess.Popen(command, env=surroundings, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
            )
        for process in running:
            said, _ = process.communicate(timeout=max(1.0, until - time.monotonic()))
            if process.returncode:
                raise AnswerError(f"{sender} failed: {said.strip()[-200:]}")
    except subprocess.TimeoutExpired as error:
        raise AnswerError(f"{sender} took more than {SEND_SECONDS:.0f} s") from error
    finally:
        for process in running:
            if process.poll() is None:
                process.kill()
                process.communicate()
            if process.stdout:
                process.stdout.close()


def stow_body(files: Sequence[bytes]) -> list[bytes]:
    """A multipart body of Part 10 parts, in pieces that are not copied. PS3.18 §10.5.1"""
    pieces: list[bytes] = []
    for content in files:
        pieces += [f"--{_BOUNDARY}\r\nContent-Type: application/dicom\r\n\r\n".encode(), content, b"\r\n"]
    return [*pieces, f"--{_BOUNDARY}--\r\n".encode()]


STOW_HEADERS = {
    "Content-Type": f'multipart/related; type="application/dicom"; boundary={_BOUNDARY}',
    "Accept": "application/dicom+json",
}


def try_stow(connection: Connection, files: Sequence[bytes]) -> bool:
    """Store one request; whether all of it was stored. Raises AnswerError when the server failed."""
    status = connection.request("POST", "/studies", STOW_HEADERS, stow_body(files)).status
    if status >= 500:
        raise AnswerError(f"STOW-RS answered {status}")
    return status == 200


def stow(connection: Connection, body: Sequence[bytes], count: int) -> None:
    """Store one request. Raises AnswerError unless the answer names ``count`` stored instances and no failed one."""
    reply = connection.request("POST", "/studies", STOW_HEADERS, body)
    if reply.status not in (200, 202):
        raise AnswerError(f"STOW-RS answered {reply.status}")
    answer = reply.json()
    answer = answer[0] if isinstance(answer, list) else answer
    if not isinstance(answer, dict):
        raise AnswerError("STOW-RS answered something else than a Data Set")
    stored, failed = (len(answer.get(tag, {}).get("Value", ())) for tag in (_STORED, _FAILED))
    if (stored, failed) != (count, 0):
        raise AnswerError(f"STOW-RS stored {stored} and failed {failed} of {count}")


def stow_all(server: Server, posts: Sequence[tuple[Sequence[bytes], int]], connections: int) -> None:
    """Store all requests over so many connections. Raises AnswerError, or OSError, when one fails."""
    errors: list[Exception] = []
    waiting = list(reversed(posts))
    lock = threading.Lock()

    def take() -> tuple[Sequence[bytes], int] | None:
        with lock:
            return waiting.pop() if waiting and not errors else None

    def work() -> None:
        try:
            with server.connect() as connection:
                while (post := take()) is not None:
                    stow(connection, *post)
        except (OSError, AnswerError) as error:
            errors.append(error)

    threads = [threading.Thread(target=work, daemon=True) for _ in range(connections)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(SEND_SECONDS)
        if thread.is_alive():
            raise AnswerError(f"STOW-RS took more than {SEND_SECONDS:.0f} s")
    if errors:
        raise errors[0]
