"""First figures of this machine: a gateway with the sample images, and how fast it takes and gives. ``make bench``

Small and rough, to see that a change made something much slower; not a comparison with anything else. Client and
server share the processors, and the client is Python.
"""

from __future__ import annotations

import argparse
import http.client
import json
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from urllib.parse import urlsplit

ROOT = Path(__file__).resolve().parent.parent
SAMPLES = ROOT / "sample_dicom"


def start(data: Path) -> tuple[subprocess.Popen, dict]:
    """A gateway over ``data``, and the places of its ready line."""
    command = [sys.executable, "-m", "gateway", "serve", "--json", "--http-port", "0", "--dimse-port", "0"]
    process = subprocess.Popen(
        [*command, "--data", str(data)], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    )
    line = process.stdout.readline()
    if not line:
        raise SystemExit("the gateway did not start; see what `dicomweb-gateway serve` says")
    return process, json.loads(line)


def rate(url: str, seconds: float, connections: int, accept: str = "*/*") -> str:
    """Requests a second, and the median, of one URL over keep-alive connections."""
    parts = urlsplit(url)
    target = parts.path + (f"?{parts.query}" if parts.query else "")
    times: list[float] = []
    until = time.perf_counter() + seconds

    def client() -> None:
        connection = http.client.HTTPConnection(parts.hostname, parts.port, timeout=60)
        while (started := time.perf_counter()) < until:
            connection.request("GET", target, headers={"Accept": accept})
            answer = connection.getresponse()
            answer.read()
            if answer.status != 200:
                raise SystemExit(f"{answer.status} for {parts.path}")
            times.append(time.perf_counter() - started)
        connection.close()

    threads = [threading.Thread(target=client) for _ in range(connections)]
    for one in threads:
        one.start()
    for one in threads:
        one.join()
    return (
        f"{len(times) / seconds:8.0f} /s   median {sorted(times)[len(times) // 2] * 1000:6.2f} ms"
        if times
        else "no answer"
    )


def first_image(dicomweb: str) -> str:
    """The URL of an instance with pixels of a CT."""
    connection = http.client.HTTPConnection(urlsplit(dicomweb).netloc, timeout=60)
    connection.request("GET", "/dicomweb/instances?Modality=CT&limit=1&includefield=NumberOfFrames")
    (row,) = json.loads(connection.getresponse().read())
    study, series, instance = (row[tag]["Value"][0] for tag in ("0020000D", "0020000E", "00080018"))
    return f"{dicomweb}/studies/{study}/series/{series}/instances/{instance}"


def main() -> None:
    """Start, load, measure, print, stop."""
    parser = argparse.ArgumentParser(prog="make bench", description=__doc__)
    parser.add_argument("--seconds", type=float, default=3.0, help="for each figure")
    seconds = parser.parse_args().seconds
    files = [str(path) for path in SAMPLES.rglob("*.dcm")]
    with tempfile.TemporaryDirectory() as folder:
        process, places = start(Path(folder) / "data")
        try:
            port = places["dimse"].rsplit(":", 1)[1]
            started = time.perf_counter()
            imported = [sys.executable, "-m", "gateway", "import", "--data", str(Path(folder) / "data"), *files]
            subprocess.run(imported, cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
            print(f"{'import of the samples':34}{len(files)} files in {time.perf_counter() - started:.2f} s")
            if shutil.which("dcmsend"):
                send = ["dcmsend", "-aec", "GATEWAY", "+sd", "+r", "+sp", "*.dcm", "127.0.0.1", port, str(SAMPLES)]
                started = time.perf_counter()
                subprocess.run(send, check=True, capture_output=True)
                print(f"{'dcmsend of the same':34}{len(files)} files in {time.perf_counter() - started:.2f} s")
            image = first_image(places["dicomweb"])
            series = image.partition("/instances/")[0]
            for name, url, accept in (
                ("QIDO-RS studies, limit 25", f"{places['dicomweb']}/studies?limit=25", "application/dicom+json"),
                ("metadata of a series", f"{series}/metadata", "application/dicom+json"),
                (
                    "one frame",
                    f"{image}/frames/1",
                    'multipart/related; type="application/octet-stream"; transfer-syntax=*',
                ),
                ("one frame rendered as JPEG", f"{image}/rendered", "image/jpeg"),
                ("thumbnail", f"{image}/thumbnail", "image/jpeg"),
            ):
                for connections in (1, 8):
                    print(f"{name + f', {connections} conn.':34}{rate(url, seconds, connections, accept)}")
        finally:
            process.terminate()
            process.wait(60)


if __name__ == "__main__":
    main()
