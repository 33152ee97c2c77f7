"""``python -m benchmarks.pair FOLDER ARGUMENT…``: two gateways alike, and nginx in front of them as one.

It says where they can be reached as ``serve --json`` does, and ends on SIGTERM: one process whose tree is all of it.
"""

from __future__ import annotations

import contextlib
import json
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

from benchmarks.backends import start_nginx
from benchmarks.servers import StartError, free_port, start_gateway


def main(words: Sequence[str]) -> int:
    """Exit code 1 when something did not start."""
    folder, arguments = Path(words[0]), words[1:]
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    with contextlib.ExitStack() as stack:
        try:
            gateways = []
            for name in ("one", "other"):
                gateways.append(start_gateway(folder / name, name=name, arguments=arguments))
                stack.callback(gateways[-1].stop)
            http_port, dimse_port = free_port(), free_port()
            behind_http = [int(one.dicomweb.split(":")[2].split("/")[0]) for one in gateways]
            behind_dimse = [one.dimse_port for one in gateways]
            nginx = start_nginx(folder / "nginx", {http_port: behind_http}, {dimse_port: behind_dimse})
            stack.callback(nginx.stop)
        except StartError as error:
            print(error, file=sys.stderr)
            return 1
        places = {
            "dicomweb": f"http://127.0.0.1:{http_port}/dicomweb",
            "dimse": f"{gateways[0].ae_title}@127.0.0.1:{dimse_port}",
        }
        print(json.dumps(places), flush=True)
        while True:
            signal.pause()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
