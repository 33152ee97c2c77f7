"""QIDO-RS as a client: against our gateway, and against servers that mean harm or are merely odd."""

import contextlib
import resource
import socket
import time
from urllib.parse import parse_qsl, urlsplit

import pytest

from gateway.query import qido
from gateway.query.failures import BadUsage, Failed, Refused, Unreachable
from gateway.query.search import Search, read_includes, read_keys
from gateway.query.server import read_server
from storage.model import Level
from tests.gateway.query.stored import send_studies
from tests.gateway.query.stub import JSON_HEAD, Stub, paged, reply, study


@pytest.fixture
def stub():
    with contextlib.ExitStack() as stack:

        def start(answer):
            return stack.enter_context(contextlib.closing(Stub(answer if callable(answer) else lambda *_: answer)))

        yield start


def search(*words, level=Level.STUDY, include=(), **more):
    keys, returned = read_keys(words)
    fields, includes_all = read_includes(include)
    return Search(level, keys, (*returned, *fields), includes_all, **more)


def ask(started, *words, seconds=10.0, headers=None, **more):
    return list(qido.answers(started.server, search(*words, **more), headers or {}, seconds))


# ---- what is asked


def test_keys_are_encoded_and_columns_that_servers_leave_out_are_asked_for(stub):
    started = stub(reply([]))
    ask(started, "PatientName=Weiß*&=#", "StudyDate=2019-", include=("StudyID", "0029AB10"), is_fuzzy=True)
    target, headers = started.requests[0]
    assert target.startswith("/rs/studies?PatientName=Wei%C3%9F%2A%26%3D%23&")
    assert headers["Accept"] == "application/dicom+json"
    asked = parse_qsl(urlsplit(target).query)
    assert [value for name, value in asked if name == "includefield"] == ["StudyDescription", "StudyID", "0029AB10"]
    assert ("fuzzymatching", "true") in asked


@pytest.mark.parametrize(
    ("level", "words", "path"),
    [
        (Level.SERIES, ("StudyInstanceUID=1.2",), "/rs/studies/1.2/series"),
        (Level.INSTANCE, ("StudyInstanceUID=1.2", "SeriesInstanceUID=1.3"), "/rs/studies/1.2/series/1.3/instances"),
        (Level.INSTANCE, ("StudyInstanceUID=1.2",), "/rs/studies/1.2/instances"),
        (Level.INSTANCE, ("SeriesInstanceUID=1.3",), "/rs/instances"),
        (Level.SERIES, ("StudyInstanceUID=1.2,1.3",), "/rs/series"),
        (Level.SERIES, ("StudyInstanceUID=../x",), "/rs/series"),
    ],
)
def test_parents_that_are_uids_stand_in_the_path(stub, level, words, path):
    started = stub(reply([{}]))
    (answer,) = ask(started, *words, level=level)
    target = urlsplit(started.requests[0][0])
    assert target.path == path
    is_in_path = "1.2/" in path
    assert ("StudyInstanceUID" in dict(parse_qsl(target.query))) == (not is_in_path and words[0].startswith("Study"))
    assert ("0020000D" in answer) == is_in_path


def test_patients_are_not_asked_for(stub):
    with pytest.raises(BadUsage):
        ask(stub(reply([])), level=Level.PATIENT)


# ---- pages


def test_pages_are_asked_for_as_they_are_taken(stub):
    started = stub(paged(1000))
    found = qido.answers(started.server, search(), {}, 10.0)
    assert [next(found) for _ in range(200)] == [study(at) for at in range(200)]
    assert len(started.requests) == 1
    next(found)
    assert started.parameters()[1]["offset"] == "200"
    found.close()


@pytest.mark.parametrize(
    ("total", "most"), [(0, 10_000), (1, 10_000), (450, 10_000), (400, 10_000), (70, 30), (60, 30)]
)
def test_all_answers_come_once_whatever_a_server_gives_at_once(stub, total, most):
    assert ask(stub(paged(total, most=most))) == [study(at) for at in range(total)]


def test_one_more_than_the_limit_is_asked_for_and_an_offset_goes_along(stub):
    started = stub(paged(1000))
    assert len(ask(started, limit=250, offset=10)) == 251
    assert [(one["limit"], one["offset"]) for one in started.parameters()] == [("200", "10"), ("51", "210")]


def test_a_server_without_limit_gives_all_at_once(stub):
    started = stub(reply([study(at) for at in range(500)]))
    assert len(ask(started)) == 500
    assert len(started.requests) == 1


def test_a_server_without_offset_that_gives_all_each_time_is_asked_twice(stub):
    started = stub(reply([study(at) for at in range(50)]))
    assert len(ask(started)) == 50
    assert len(started.requests) == 2


def test_a_server_without_offset_that_has_more_is_an_error_not_a_loop(stub):
    started = stub(reply([study(at) for at in range(200)]))
    with pytest.raises(Failed, match="same page again"):
        ask(started)
    assert len(started.requests) == 2


def test_no_content_is_no_answer(stub):
    assert ask(stub(b"HTTP/1.1 204 No Content\r\n\r\n")) == []


# ---- servers that refuse, fail or are none


@pytest.mark.parametrize(
    ("answer", "kind", "phrase"),
    [
        (
            reply({"reason": "No\x1b[2J such key."}, b"HTTP/1.1 400 X\r\n"),
            Refused,
            "400 Bad Request: No\ufffd[2J such key.",
        ),
        (reply(b"", b"HTTP/1.1 401 X\r\n"), Refused, "DICOMWEB_TOKEN"),
        (reply(b"", b"HTTP/1.1 403 X\r\n"), Refused, "403 Forbidden"),
        (reply(b"<html>", b"HTTP/1.1 404 X\r\n"), Refused, "base URL"),
        (reply(b"", b"HTTP/1.1 302 X\r\nLocation: https://elsewhere/\x1bx\r\n"), Refused, "https://elsewhere/\ufffdx"),
        (reply(b"[]", b"HTTP/1.1 500 X\r\n"), Failed, "500 Internal Server Error"),
        (reply(b"", b"HTTP/1.1 503 X\r\n"), Failed, "503"),
        (reply(b"", b"HTTP/1.1 799 \x1b[2J\r\n"), Failed, "799"),
        (
            reply(b"<html>", b"HTTP/1.1 200 OK\r\nContent-Type: text/html\x1b\r\n"),
            Failed,
            "text/html\ufffd that is not JSON",
        ),
        (reply(b'[{"0020000D":'), Failed, "not JSON"),
        (reply(b"[NaN]"), Failed, "not JSON"),
        (reply(b"\x1f\x8b\x08gzip"), Failed, "not JSON"),
        (reply(b"\xff\xfe[\0]\0"), Failed, "not JSON"),
        (reply(b"[" * 2_000_000), Failed, "not JSON"),
        (reply({"0020000D": {}}), Failed, "not of DICOM"),
        (reply([["x"]]), Failed, "not of DICOM"),
        (reply([{"0020000D": "1.2"}]), Failed, "not of DICOM"),
        (reply(b'[{"0020000D":{"Value":' + b"[" * 300 + b"]" * 300 + b"}}]"), Failed, "not of DICOM"),
        (reply([])[:-1], Failed, "not JSON"),
        (b"SSH-2.0-OpenSSH_9\r\n", Failed, "does not speak HTTP"),
        (b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 1000 + b"\r\n", Failed, "does not speak HTTP"),
        (b"HTTP/1.1 200 OK\r\nX: " + b"y" * 100_000, Failed, "does not speak HTTP"),
        (JSON_HEAD + b"Transfer-Encoding: chunked\r\n\r\nZZ\r\n", Failed, "does not speak HTTP"),
        (b"", Unreachable, "without an answer"),
    ],
)
def test_what_goes_wrong_is_told_in_one_clean_line(stub, answer, kind, phrase):
    with pytest.raises(kind) as raised:
        ask(stub(answer))
    assert type(raised.value) is kind
    assert phrase in raised.value.reason
    assert raised.value.reason.isprintable()


def test_credentials_do_not_follow_a_redirection(stub):
    other = stub(reply([]))
    started = stub(reply(b"", b"HTTP/1.1 307 X\r\nLocation: http://127.0.0.1:%d/rs/studies\r\n" % other.port))
    with pytest.raises(Refused):
        ask(started, headers={"Authorization": "Bearer secret"})
    assert started.requests[0][1]["Authorization"] == "Bearer secret"
    assert other.requests == []


def endless(piece, pause=0.0):
    yield JSON_HEAD + b"\r\n["
    while True:
        yield piece
        time.sleep(pause)


def test_an_answer_without_end_is_given_up_within_its_cap(stub):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(Failed, match="longer than 32 MiB"):
        ask(stub(lambda *_: endless(b'{"0020000D":{}},' * 4096)), seconds=60.0)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200 << 10


@pytest.mark.parametrize("value", [b"{}", b"[]", b'"ab"', b"1.5"])
def test_small_values_without_number_are_not_unpacked(stub, value):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    body = b"[" + value + (b"," + value) * ((31 << 20) // (len(value) + 1)) + b"]"
    with pytest.raises(Failed, match="too many values"):
        ask(stub(reply(body)), seconds=60.0)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200 << 10


def trickled_head():
    for byte in b"HTTP/1.1 200 OK\r\n" + b"X: yyyyyyyyyyyy\r\n" * 90:
        yield bytes((byte,))
        time.sleep(0.05)


def silence():
    time.sleep(3)
    yield b""


@pytest.mark.parametrize("answer", [lambda: endless(b" ", 0.05), trickled_head, silence])
def test_a_server_that_trickles_or_is_silent_meets_the_deadline(stub, answer):
    started = time.monotonic()
    with pytest.raises(Unreachable, match=r"within 0\.5 s"):
        ask(stub(lambda *_: answer()), seconds=0.5)
    assert time.monotonic() - started < 3


def test_a_handshake_that_never_ends_meets_the_deadline():
    with socket.create_server(("127.0.0.1", 0)) as listener:
        server = read_server(f"https://127.0.0.1:{listener.getsockname()[1]}/rs")
        with pytest.raises(Unreachable, match=r"within 0\.5 s"):
            list(qido.answers(server, search(), {}, 0.5))


def test_nobody_there_is_unreachable(stub):
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    for url in (f"http://127.0.0.1:{port}", "http://no-such-host.invalid/", "http://" + "x" * 70 + ".example/"):
        with pytest.raises(Unreachable, match="cannot be reached"):
            list(qido.answers(read_server(url), search(), {}, 5.0))


def test_tls_to_a_server_without_it_is_unreachable_and_not_sent_in_clear(stub):
    started = stub(reply([]))
    with pytest.raises(Unreachable):
        list(qido.answers(read_server(f"https://127.0.0.1:{started.port}/"), search(), {}, 0.5))
    assert started.requests == []


# ---- the real one


@pytest.fixture(scope="module")
def filled(shared_gateway):
    send_studies("127.0.0.1", shared_gateway.dimse_port, shared_gateway.ae_title)
    return shared_gateway


def test_our_gateway_is_searched_at_every_level(filled):
    server = read_server(filled.dicomweb)
    (one,) = qido.answers(server, search("PatientName=q水*"), {}, 10.0)
    assert one["0020000D"]["Value"] == ["2.25.7001"]
    found = list(qido.answers(server, search("StudyInstanceUID=2.25.7001", level=Level.SERIES), {}, 10.0))
    assert [series["0020000E"]["Value"] for series in found] == [["2.25.7011"]]
    words = ("StudyInstanceUID=2.25.7001", "SeriesInstanceUID=2.25.7011")
    assert len(list(qido.answers(server, search(*words, level=Level.INSTANCE), {}, 10.0))) == 1


def test_our_gateway_is_paged_through(filled, monkeypatch):
    monkeypatch.setattr(qido, "PAGE_ANSWERS", 2)
    found = list(qido.answers(read_server(filled.dicomweb), search("PatientID=query-*"), {}, 10.0))
    assert len({one["0020000D"]["Value"][0] for one in found}) == len(found) == 5


def test_our_gateway_says_why_it_refuses(filled):
    with pytest.raises(Refused, match="400 Bad Request: The attribute cannot be searched"):
        list(qido.answers(read_server(filled.dicomweb), search("Rows=5"), {}, 10.0))
