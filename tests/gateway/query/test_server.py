"""Which server the words of the command line name."""

import pytest

from gateway.query.failures import BadUsage
from gateway.query.server import DimseServer, WebServer, is_server, read_server


@pytest.mark.parametrize(
    ("argument", "server"),
    [
        ("http://localhost:8080/dicomweb", WebServer("localhost", 8080, "/dicomweb", is_secure=False)),
        ("https://pacs.example.org/dicom-web/", WebServer("pacs.example.org", 443, "/dicom-web", is_secure=True)),
        ("HTTP://[::1]:8042", WebServer("::1", 8042, "", is_secure=False)),
        ("http://host/a b/ü", WebServer("host", 80, "/a%20b/%C3%BC", is_secure=False)),
        ("http://host/rs%2Fx", WebServer("host", 80, "/rs%2Fx", is_secure=False)),
        ("GATEWAY@127.0.0.1:11112", DimseServer("127.0.0.1", 11112, "GATEWAY")),
        ("MY PACS@host:104", DimseServer("host", 104, "MY PACS")),
        ("dimse://PACS@host", DimseServer("host", 104, "PACS")),
        ("dimse://MY%20PACS@[::1]:4242/", DimseServer("::1", 4242, "MY PACS")),
    ],
)
def test_servers_are_read(argument, server):
    assert is_server(argument)
    assert read_server(argument) == server


def test_the_name_of_a_server_names_it_again():
    for argument in ("http://[::1]:8042/dicomweb", "GATEWAY@127.0.0.1:11112", "A B@[::1]:4242"):
        server = read_server(argument)
        assert read_server(server.name) == server


@pytest.mark.parametrize(
    "argument", ["PatientName=doe", "PatientComments=http://x", "PatientID=A@b:1", "localhost:8080", "00100010=x"]
)
def test_other_words_are_no_server(argument):
    assert not is_server(argument)


@pytest.mark.parametrize(
    "argument",
    [
        "http://",
        "http://user:secret@host/dicomweb",
        "http://host:99999/",
        "http://host:x/",
        "http://host/dicomweb?limit=1",
        "http://ho\x1bst/",
        "http://[::1/",
        "dimse://host:104",
        "dimse://A@host:104/path",
        "dimse://SEVENTEEN-LETTERS@host:104",
        "dimse://A%5CB@host:104",
        "dimse://%C3%84@host:104",
    ],
)
def test_what_cannot_be_asked_is_bad_usage_and_no_secret_is_repeated(argument):
    with pytest.raises(BadUsage) as raised:
        read_server(argument)
    assert "secret" not in raised.value.reason
    assert "\x1b" not in raised.value.reason
