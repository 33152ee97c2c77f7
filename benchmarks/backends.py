"""What a gateway at scale stands on: PostgreSQL, an S3 server, and nginx in front of two gateways. All on loopback.

PostgreSQL writes durably, as it does by default; SeaweedFS leaves what it acknowledges to the operating system, as it
does by default, so that its share in a store says little about durable S3.
"""

from __future__ import annotations

import json
import os
import pwd
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.servers import READY_SECONDS, STOP_SECONDS, StartError, environment, free_port

BUCKET = "benchmark"
CREDENTIALS = {"AWS_ACCESS_KEY_ID": "BENCHMARK", "AWS_SECRET_ACCESS_KEY": "of-this-run-alone"}
_ACCOUNT = "postgres"


@dataclass
class Backend:
    """A server that a gateway needs. url: where it is."""

    url: str
    stop: Callable[[], None]


def find_program(name: str, *folders: str) -> str | None:
    """Where a program is: beside this interpreter, on the path, or in folders with wildcards, the last one first."""
    beside = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"  # noqa: TID251 - to look for programs
    found = [shutil.which(name, path=beside)]
    found += [str(path) for folder in folders for path in sorted(Path("/").glob(f"{folder}/{name}"), reverse=True)]
    return next(filter(None, found), None)


def _answers(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), 1).close()
    except OSError:
        return False
    return True


def _until(is_ready: Callable[[], bool], what: str, log: Path) -> None:
    until = time.monotonic() + READY_SECONDS
    while not is_ready():
        if time.monotonic() > until:
            raise StartError(f"{what} did not start; its log: {log.read_text(errors='replace')[-400:]}")
        time.sleep(0.1)


def start_postgresql(folder: Path) -> Backend:
    """A server with one empty database. Raises StartError."""
    program = find_program("pg_ctl", "usr/lib/postgresql/*/bin")
    if program is None:
        raise StartError("PostgreSQL is not installed")
    folder.mkdir(parents=True)
    account = pwd.getpwnam(_ACCOUNT) if os.getuid() == 0 else None  # it does not run as root
    if account:
        for one in (folder, *folder.parents[:1]):
            one.chmod(0o755)
        shutil.chown(folder, account.pw_uid, account.pw_gid)
    port, log = free_port(), folder / "log"

    def run(name: str, *arguments: str) -> None:
        done = subprocess.run(
            [str(Path(program).parent / name), *arguments],
            cwd=folder,
            user=account.pw_uid if account else None,
            group=account.pw_gid if account else None,
            extra_groups=[] if account else None,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            timeout=READY_SECONDS,
            check=False,
        )
        if done.returncode:
            raise StartError(f"{name} failed: {done.stderr.decode(errors='replace')[-400:]}")

    data = str(folder / "data")
    run("initdb", "-D", data, "-U", _ACCOUNT, "-A", "trust", "-E", "UTF8", "--locale=C.UTF-8")
    options = f"-p {port} -k {folder} -c listen_addresses=127.0.0.1 -c shared_buffers=256MB"
    run("pg_ctl", "-D", data, "-l", str(log), "-o", options, "-w", "start")
    return Backend(
        f"postgresql://{_ACCOUNT}@127.0.0.1:{port}/{_ACCOUNT}",
        lambda: run("pg_ctl", "-D", data, "-m", "fast", "-w", "stop"),
    )


def start_seaweedfs(folder: Path) -> Backend:
    """An S3 server with one empty bucket. Raises StartError."""
    program = find_program("weed")
    if program is None:
        raise StartError("SeaweedFS (weed) is not installed")
    (folder / "data").mkdir(parents=True)
    keys = {"accessKey": CREDENTIALS["AWS_ACCESS_KEY_ID"], "secretKey": CREDENTIALS["AWS_SECRET_ACCESS_KEY"]}
    identity = {"name": "gateway", "credentials": [keys], "actions": ["Admin", "Read", "Write", "List", "Tagging"]}
    (folder / "s3.json").write_text(json.dumps({"identities": [identity]}))
    port, log = free_port(), folder / "log"
    services = (
        "s3.port.grpc",
        *(f"{one}.port{kind}" for one in ("master", "volume", "filer") for kind in ("", ".grpc")),
    )
    command = [program, "server", "-s3", f"-s3.config={folder / 's3.json'}", f"-s3.port={port}"]
    command += ["-ip=127.0.0.1", "-ip.bind=127.0.0.1", f"-dir={folder / 'data'}", "-master.telemetry=false"]
    command += [
        "-master.volumeSizeLimitMB=1024",
        "-volume.max=40",
        "-s3.port.iceberg=0",
        "-s3.port.lance=0",
        *(f"-{one}={free_port()}" for one in services),
    ]
    process = _background(command, folder, log)

    def stop() -> None:
        process.terminate()
        try:
            process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait(STOP_SECONDS)

    try:
        _until(lambda: process.poll() is None and _has_bucket(f"http://127.0.0.1:{port}"), "SeaweedFS", log)
    except StartError:
        stop()
        raise
    return Backend(f"http://127.0.0.1:{port}", stop)


def _has_bucket(url: str) -> bool:
    """Whether the bucket is there and takes an object, once it is made."""
    import boto3  # noqa: PLC0415 - only who measures S3 needs it
    from botocore.exceptions import BotoCoreError, ClientError  # noqa: PLC0415 - see above

    client = boto3.session.Session().client(
        "s3",
        endpoint_url=url,
        region_name="us-east-1",
        aws_access_key_id=CREDENTIALS["AWS_ACCESS_KEY_ID"],
        aws_secret_access_key=CREDENTIALS["AWS_SECRET_ACCESS_KEY"],
    )
    try:
        client.create_bucket(Bucket=BUCKET)
        client.put_object(Bucket=BUCKET, Key="first", Body=b"x")
        client.delete_object(Bucket=BUCKET, Key="first")
    except (BotoCoreError, ClientError):
        return False
    return True


def _background(command: Sequence[str], folder: Path, log: Path) -> subprocess.Popen[bytes]:
    with log.open("ab") as output:
        return subprocess.Popen(
            command,
            cwd=folder,
            env=environment(),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
        )


def start_nginx(folder: Path, http: Mapping[int, Sequence[int]], tcp: Mapping[int, Sequence[int]]) -> Backend:
    """A server with ports that stand for several others each, of HTTP and of anything else. Raises StartError."""
    program = find_program("nginx", "usr/sbin")
    if program is None:
        raise StartError("nginx is not installed")
    folder.mkdir(parents=True)
    log = folder / "log"
    module = next(iter(sorted(Path("/usr/lib/nginx/modules").glob("ngx_stream_module.so"))), None)
    lines = [
        *([f"load_module {module};"] if module else []),
        f"worker_processes 2; pid {folder}/pid; error_log {log}; daemon off;",
        "events { worker_connections 1024; }",
        f"http {{ access_log off; client_max_body_size 0; client_body_temp_path {folder}/body;",
        f"  proxy_temp_path {folder}/proxy; proxy_buffering off; proxy_request_buffering off;",
        '  proxy_http_version 1.1; proxy_set_header Connection ""; proxy_set_header Host $http_host;',
        f"  fastcgi_temp_path {folder}/f; uwsgi_temp_path {folder}/u; scgi_temp_path {folder}/s;",
        *(
            f"  upstream h{port} {{ {_servers(to)} keepalive 64; }}\n"
            f"  server {{ listen 127.0.0.1:{port}; location / {{ proxy_pass http://h{port}; }} }}"
            for port, to in http.items()
        ),
        "}",
        "stream {",
        *(
            f"  upstream t{port} {{ {_servers(to)} }}\n"
            f"  server {{ listen 127.0.0.1:{port}; proxy_pass t{port}; tcp_nodelay on; proxy_timeout 1h; }}"
            for port, to in tcp.items()
        ),
        "}",
    ]
    (folder / "nginx.conf").write_text("\n".join(lines) + "\n")
    process = _background([program, "-p", str(folder), "-c", str(folder / "nginx.conf")], folder, log)

    def stop() -> None:
        process.terminate()
        process.wait(STOP_SECONDS)

    try:
        _until(lambda: process.poll() is None and all(map(_answers, (*http, *tcp))), "nginx", log)
    except StartError:
        stop()
        raise
    return Backend(f"http://127.0.0.1:{next(iter(http))}", stop)


def _servers(ports: Sequence[int]) -> str:
    return " ".join(f"server 127.0.0.1:{port};" for port in ports)
