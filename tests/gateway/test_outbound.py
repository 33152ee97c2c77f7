"""Requests of our own: where they may go, and what an answer may do to us. H28"""

from __future__ import annotations

import ipaddress
import socket
import time

import pytest

from gateway import outbound
from gateway.outbound import Answered, Target, UnreachableError, is_allowed, post, read_target

LOOPBACK = (ipaddress.ip_network("127.0.0.0/8"),)
NOT_PUBLIC = [
    "127.0.0.1",
    "127.8.8.8",
    "0.0.0.0",
    "10.0.0.1",
    "172.16.0.1",
    "192.168.1.1",
    "100.64.0.1",
    "169.254.169.254",
    "192.0.0.170",
    "198.18.0.1",
    "203.0.113.9",
    "224.0.0.1",
    "240.0.0.1",
    "255.255.255.255",
    "::",
    "::1",
    "::127.0.0.1",
    "::ffff:127.0.0.1",
    "::ffff:169.254.169.254",
    "::ffff:a00:1",
    "64:ff9b::a9fe:a9fe",
    "64:ff9b:1::a00:1",
    "2002:a9fe:a9fe::1",
    "2002:7f00:1::",
    "2001:0:a00:1::",
    "fe80::1",
    "fe80::1%lo",
    "fec0::1",
    "fc00::1",
    "fd00:ec2::254",
    "ff02::1",
    "2001:db8::1",
]


@pytest.mark.parametrize("address", NOT_PUBLIC)
def test_an_address_that_is_not_public_is_not_allowed_unless_its_network_is(address):
    assert not is_allowed(address, ())
    assert not is_allowed(address, [ipaddress.ip_network("1.0.0.0/8"), ipaddress.ip_network("2600::/16")])


@pytest.mark.parametrize(
    "address", ["1.1.1.1", "93.184.215.14", "2606:4700::1111", "::ffff:1.1.1.1", "64:ff9b::101:101"]
)
def test_a_public_address_is_allowed(address):
    assert is_allowed(address, ())


def test_a_network_that_is_allowed_is_so_in_every_spelling_and_no_other_is():
    networks = [ipaddress.ip_network("10.0.0.0/8"), ipaddress.ip_network("fd00::/8")]
    assert all(is_allowed(one, networks) for one in ("10.1.2.3", "::ffff:10.1.2.3", "64:ff9b::a01:203", "fd12::1"))
    assert not any(is_allowed(one, networks) for one in ("192.168.1.1", "127.0.0.1", "169.254.169.254", "fe80::1"))


@pytest.mark.parametrize(
    ("url", "target"),
    [
        ("https://pacs.example.org/hook?a=b", Target("pacs.example.org", 443, "/hook?a=b", is_secure=True)),
        ("http://10.0.0.5:8000", Target("10.0.0.5", 8000, "/", is_secure=False)),
        ("http://[fd00::1]:80/", Target("fd00::1", 80, "/", is_secure=False)),
    ],
)
def test_a_url_is_read(url, target):
    assert read_target(url) == target


@pytest.mark.parametrize(
    "url",
    [
        "",
        "pacs.example.org/hook",
        "ftp://pacs.example.org/",
        "file:///etc/passwd",
        "gopher://127.0.0.1:25/",
        "http://",
        "http:///hook",
        "http://user@pacs.example.org/",
        "http://public.example.org@127.0.0.1/",
        "http://pacs.example.org:99999/",
        "http://pacs.example.org/#part",
        "http://pacs.example.org/a b",
        "http://pacs.example.org/\r\nX-Header: 1",
        "http://pacs.example.org/\x7f",
        "http://[::1/",
        "http://bücher.example/",
    ],
)
def test_what_is_no_url_of_a_webhook_is_refused(url):
    with pytest.raises(ValueError, match="holds"):
        read_target(url)


def sent(url, *, networks=LOOPBACK, seconds=5.0, body=b"{}"):
    return post(read_target(url), body, {"Content-Type": "application/json"}, networks=networks, seconds=seconds)


def test_a_body_arrives_whole_and_its_answer_is_heard(receiver):
    body = b"x" * 3_000_000
    assert sent(receiver.url + "?a=b", body=body) == Answered(200)
    (one,) = receiver.received
    assert (one.path, one.body) == ("/hook?a=b", body)
    assert one.headers["host"] == f"127.0.0.1:{receiver.port}"
    assert one.headers["user-agent"].startswith("dicomweb-gateway/")


def test_a_redirection_is_not_followed(receiver, another_receiver):
    receiver.statuses, receiver.location = [302, 307], another_receiver.url
    assert [sent(receiver.url).status for _ in range(2)] == [302, 307]
    assert another_receiver.received == []


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "[::ffff:127.0.0.1]", "2130706433", "0x7f.1", "127.1"])
def test_an_address_that_is_not_allowed_is_not_connected_to_however_it_is_written(receiver, host):
    with pytest.raises(UnreachableError, match=r"public|known"):
        sent(f"http://{host}:{receiver.port}/hook", networks=())
    assert receiver.received == []


def test_what_was_checked_is_what_is_connected_to(receiver, monkeypatch):
    """A name that is another address the second time it is asked for: it is asked for once."""
    asked = []
    real = socket.getaddrinfo

    def rebinding(host, port, *arguments, **more):
        asked.append(host)
        address = "127.0.0.1" if len(asked) == 1 else "127.0.0.66"
        return real(address, port, *arguments, **more)

    monkeypatch.setattr(socket, "getaddrinfo", rebinding)
    assert sent(f"http://rebinding.example:{receiver.port}/").status == 200
    assert asked == ["rebinding.example"]
    assert receiver.received[0].headers["host"] == f"rebinding.example:{receiver.port}"


def test_only_those_addresses_of_a_name_that_are_allowed_are_tried(receiver, monkeypatch):
    places = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (one, receiver.port)) for one in ("10.0.0.9", "127.0.0.1")]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: places)
    assert sent(f"http://both.example:{receiver.port}/").status == 200


def test_who_hangs_or_drips_is_given_up_in_time(receiver, dripping):
    receiver.hang_seconds = 3.0
    for url in (receiver.url, f"http://127.0.0.1:{dripping}/"):
        started = time.monotonic()
        with pytest.raises(UnreachableError, match="in time"):
            sent(url, seconds=0.5)
        assert time.monotonic() - started < 2.5


def test_an_answer_without_end_is_not_read_to_it(receiver):
    receiver.answer = b"y" * (32 << 20)
    started = time.monotonic()
    assert sent(receiver.url).status == 200
    assert time.monotonic() - started < 4


@pytest.mark.parametrize("said", ["17", "99999999999", "soon", "-1", "²"])
def test_a_time_to_wait_is_heard_and_bounded(receiver, said):
    receiver.statuses, receiver.retry_after = [503], said.encode("latin-1").decode("latin-1")
    wanted = {"17": 17, "99999999999": 3600}.get(said, 0)
    assert sent(receiver.url) == Answered(503, wanted)


def test_who_is_not_there_or_speaks_something_else_is_said_to_be_so(receiver):
    receiver.stop()
    with pytest.raises(UnreachableError, match="nobody listens"):
        sent(receiver.url)
    with pytest.raises(UnreachableError, match="name"):
        sent("http://nowhere.invalid/")
    with socket.create_server(("127.0.0.1", 0)) as listener, pytest.raises(UnreachableError):
        sent(f"https://127.0.0.1:{listener.getsockname()[1]}/", seconds=0.5)


def test_a_certificate_that_nobody_vouches_for_is_not_trusted(monkeypatch, tmp_path, receiver):
    import ssl
    import subprocess

    key, certificate = tmp_path / "key.pem", tmp_path / "certificate.pem"
    subject = ["-subj", "/CN=127.0.0.1", "-addext", "subjectAltName=IP:127.0.0.1"]
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", *subject]
    subprocess.run([*command, "-keyout", key, "-out", certificate], check=True, capture_output=True, timeout=60)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    receiver.server.socket = context.wrap_socket(receiver.server.socket, server_side=True)
    url = receiver.url.replace("http:", "https:")
    with pytest.raises(UnreachableError, match="certificate"):
        sent(url)
    assert receiver.received == []
    trusting = ssl.create_default_context(cafile=certificate)
    monkeypatch.setattr(outbound.ssl, "create_default_context", lambda: trusting)
    assert sent(url).status == 200
