"""DELETE over HTTP, by running gateways: what is answered, who may, how often, and what is found afterwards. K5"""

from __future__ import annotations

import json
import socket
import subprocess
import threading
import xml.etree.ElementTree as ET
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest

from tests.fix_dimse import settle
from tests.fix_postgresql import free_port
from tests.fix_servers import run_command, running_gateway
from tests.synthetic import image, part10

ALLOWED = {"GATEWAY_HTTP__ALLOW_DELETE": "true", "GATEWAY_HTTP__DELETES_PER_MINUTE": "1000000"}
STORED = 'multipart/related; type="application/dicom"; transfer-syntax=*'
# A connection for each request, so that each of the workers is asked.
CLIENT = httpx.Client(limits=httpx.Limits(max_keepalive_connections=0), timeout=60, trust_env=False)
VIEWER = "https://viewer.example.org"


def instance(study, number, series=1, **options):
    return image(
        study=study, series=f"{study}.{series}", sop_instance=f"{study}.{series}.{number}", number=number, **options
    )


def stow(gateway, *contents):
    for content in contents:
        sop = sop_of(content)
        answer = CLIENT.post(
            f"{gateway.dicomweb}/studies",
            content=part10(content, sop=sop),
            headers={"Content-Type": "application/dicom"},
            timeout=30,
        )
        assert answer.status_code == 200, answer.text


def sop_of(content):
    """The SOP Instance UID of a Data Set in Explicit VR: the second element."""
    at = content.index(b"\x08\x00\x18\x00UI") + 6
    length = int.from_bytes(content[at : at + 2], "little")
    return content[at + 2 : at + 2 + length].rstrip(b"\0").decode()


def path_of(study, series=0, number=0):
    path = f"/studies/{study}"
    if series:
        path += f"/series/{study}.{series}"
    return path + (f"/instances/{study}.{series}.{number}" if number else "")


def delete(gateway, path, **headers):
    return CLIENT.delete(f"{gateway.dicomweb}{path}", headers=headers, timeout=60)


def get(gateway, path, accept="*/*"):
    return CLIENT.get(f"{gateway.dicomweb}{path}", headers={"Accept": accept}, timeout=60)


@pytest.fixture(scope="module")
def allowing(tmp_path_factory, engine):
    """A gateway of two workers on each engine, where deleting is allowed, and a peer for C-MOVE."""
    folder = tmp_path_factory.mktemp("delete") / "data"
    port = free_port()
    environment = {**ALLOWED, **engine.environment(folder)}
    with running_gateway(folder, "--peer", f"DEST=127.0.0.1:{port}", environment=environment) as gateway:
        gateway.peer_port = port
        gateway.environment = environment
        yield gateway


def find(gateway, level, **keys):
    words = [word for key, value in keys.items() for word in ("-k", f"{key}={value}")]
    command = ["findscu", "-aec", gateway.ae_title, "-S", "-k", f"QueryRetrieveLevel={level}", *words]
    run = subprocess.run(
        [*command, "127.0.0.1", str(gateway.dimse_port)], capture_output=True, text=True, check=True, timeout=60
    )
    return (run.stdout + run.stderr).count("(Pending)")


def is_listening(port):
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def moved(gateway, study, folder):
    """How many files a C-MOVE of a study brings to storescp."""
    folder.mkdir()
    receiver = subprocess.Popen(["storescp", "-aet", "DEST", "-od", folder, "+uf", str(gateway.peer_port)])
    try:
        assert settle(lambda: is_listening(gateway.peer_port), 20)
        named = ["-k", "QueryRetrieveLevel=STUDY", "-k", f"StudyInstanceUID={study}"]
        command = ["movescu", "-aec", gateway.ae_title, "-aem", "DEST", "-S", *named]
        subprocess.run([*command, "127.0.0.1", str(gateway.dimse_port)], check=True, timeout=60, capture_output=True)
    finally:
        receiver.terminate()
        receiver.wait(20)
    return len(list(folder.iterdir()))


def command(gateway, *arguments):
    run = run_command(*arguments, "--data", gateway.data, "--json", environment=gateway.environment)
    return run.returncode, json.loads(run.stdout) if run.stdout else run.stderr


@pytest.mark.needs("findscu", "movescu", "storescp")
def test_k5_what_is_deleted_is_found_by_no_door_and_counts_are_right_at_once(allowing, tmp_path):
    study = "1.2.10"
    stow(allowing, *(instance(study, number, series) for series in (1, 2) for number in (1, 2, 3)))
    assert find(allowing, "IMAGE", StudyInstanceUID=study, SeriesInstanceUID=f"{study}.1") == 3
    gone = delete(allowing, path_of(study, 1, 2))
    assert (gone.status_code, gone.content) == (204, b"")
    for _ in range(10):  # by each of the workers
        found = get(allowing, f"/studies?StudyInstanceUID={study}").json()
        assert found[0]["00201208"]["Value"] == [5]
        assert get(allowing, path_of(study, 1, 2) + "/metadata").status_code == 410
    assert find(allowing, "IMAGE", StudyInstanceUID=study, SeriesInstanceUID=f"{study}.1") == 2
    assert moved(allowing, study, tmp_path / "five") == 5
    assert delete(allowing, path_of(study, 2)).status_code == 204
    found = get(allowing, f"/studies?StudyInstanceUID={study}").json()
    assert (found[0]["00201206"]["Value"], found[0]["00201208"]["Value"]) == ([1], [2])
    assert moved(allowing, study, tmp_path / "two") == 2
    assert delete(allowing, path_of(study)).status_code == 204
    for _ in range(10):
        assert get(allowing, f"/studies?StudyInstanceUID={study}").json() == []
        for path in ("", "/metadata", "/rendered", "/thumbnail"):
            assert get(allowing, path_of(study) + path).status_code == 410
    assert find(allowing, "STUDY", StudyInstanceUID=study) == 0
    assert moved(allowing, study, tmp_path / "none") == 0


def test_k5_every_outcome_has_its_status(allowing):
    study = "1.2.11"
    stow(allowing, instance(study, 1), instance(study, 2))
    for path, status in (
        (path_of("1.2.3.4.5.6"), 404),
        (path_of(study, 7), 404),
        (path_of(study, 1, 9), 404),
        (f"/studies/1.2.3.4.5.6/series/{study}.1", 404),
        ("/studies/not-a-uid", 400),
        ("/studies/1.2/series/%2e%2e", 400),
        ("/studies", 405),
        (path_of(study) + "/series", 405),
        (path_of(study) + "/metadata", 405),
        (path_of(study, 1, 1) + "/frames/1", 405),
        ("/instances", 405),
    ):
        answer = delete(allowing, path)
        assert answer.status_code == status, path
    assert delete(allowing, path_of(study, 1, 1)).status_code == 204
    assert delete(allowing, path_of(study, 1, 1)).status_code == 410
    assert delete(allowing, path_of(study)).status_code == 204
    for path in (path_of(study), path_of(study, 1), path_of(study, 1, 2)):
        answer = delete(allowing, path)
        assert (answer.status_code, answer.json()["error"]) == (410, "Gone")
    assert len(CLIENT.get(f"{allowing.dicomweb}/studies?StudyInstanceUID={study}").json()) == 0
    stow(allowing, instance(study, 2))
    assert get(allowing, path_of(study)).status_code == 200


def test_r9_what_is_on_hold_is_refused_at_every_door_and_says_why(allowing):
    study = "1.2.12"
    stow(allowing, instance(study, 1), instance(study, 2))
    assert command(allowing, "hold", f"{study}/{study}.1/{study}.1.1")[0] == 0
    for path in (path_of(study), path_of(study, 1), path_of(study, 1, 1)):
        answer = delete(allowing, path)
        assert (answer.status_code, answer.json()["error"]) == (409, "OnHold")
    refused = run_command("delete", study, "--yes", "--data", allowing.data, environment=allowing.environment)
    assert (refused.returncode, "legal hold" in refused.stderr) == (1, True)
    assert delete(allowing, path_of(study, 1, 2)).status_code == 204
    assert (
        run_command(
            "release", f"{study}/{study}.1/{study}.1.1", "--data", allowing.data, environment=allowing.environment
        ).returncode
        == 0
    )
    assert delete(allowing, path_of(study)).status_code == 204


def answers_of(gateway, study):
    """All that a viewer asks for of a study."""
    paths = [f"/studies?StudyInstanceUID={study}&includefield=all", *(path_of(study) + one for one in ("/series",))]
    paths += [path_of(study) + "/instances?includefield=all", path_of(study) + "/metadata"]
    texts = [get(gateway, path).content for path in paths]
    whole = get(gateway, path_of(study), STORED)
    boundary = whole.headers["content-type"].partition("boundary=")[2].strip('"').encode()
    return [*texts, whole.content.replace(boundary, b"boundary")]


def test_h31_what_was_deleted_is_brought_back_whole_and_listed_until_then(allowing):
    study = "1.2.13"
    stow(allowing, *(instance(study, number, number % 3 + 1, name=f"Doe^{number}") for number in range(1, 13)))
    before = answers_of(allowing, study)
    assert delete(allowing, path_of(study, 2)).status_code == 204
    assert delete(allowing, path_of(study)).status_code == 204
    _, listed = command(allowing, "deleted")
    mine = [row for row in listed["deletions"] if row["resource"].startswith(study)]
    assert [(row["resource"], row["instances"], row["kept"]) for row in mine] == [
        (f"{study}/{study}.2", 4, 4),
        (study, 8, 8),
    ]
    assert {row["by"] for row in mine} == {"dicomweb"}
    assert {row["address"] for row in mine} == {"127.0.0.1"}
    assert command(allowing, "undelete", study) == (0, {"event": "undeleted", "stored": 12})
    assert answers_of(allowing, study) == before
    _, listed = command(allowing, "deleted")
    assert not [row for row in listed["deletions"] if row["resource"].startswith(study)]
    code, said = command(allowing, "undelete", study)
    assert (code, "stored again" in said) == (1, True)


def test_an_answer_that_began_before_the_deletion_is_whole_or_broken_off(allowing):
    study = "1.2.14"
    contents = [instance(study, number, pixels=bytes(200 * 200), rows=200, columns=200) for number in range(1, 81)]
    for _ in range(2):
        stow(allowing, *contents)
        whole = {
            path: get(allowing, path_of(study) + path, STORED if not path else "*/*") for path in ("", "/metadata")
        }
        expected = {"": len(whole[""].content), "/metadata": whole["/metadata"].content}
        start = threading.Barrier(5)

        def read(path, start=start):
            start.wait(20)
            try:
                return path, get(allowing, path_of(study) + path, STORED if not path else "*/*")
            except httpx.HTTPError:
                return path, None

        with ThreadPoolExecutor(5) as pool:
            reads = [pool.submit(read, path) for path in ("", "/metadata", "", "/metadata")]
            start.wait(20)
            assert delete(allowing, path_of(study)).status_code == 204
            for path, answer in (one.result(60) for one in reads):
                if answer is None or answer.status_code == 410:
                    continue
                assert answer.status_code == 200
                length = len(answer.content) if not path else answer.content
                assert length == expected[path]


def test_deleting_is_off_until_a_setting_allows_it_and_then_is_told_of(start_gateway, allowing):
    gateway = start_gateway("--workers", "1")
    stow(gateway, instance("1.2.3", 1))
    for path in (path_of("1.2.3"), path_of("1.2.3", 1), path_of("1.2.3", 1, 1), path_of("9.9")):
        answer = delete(gateway, path)
        assert answer.status_code == 403
        assert "http.allow_delete" in answer.json()["reason"]
    assert get(gateway, path_of("1.2.3")).status_code == 200
    told = {}
    for name, one in (("off", gateway), ("on", allowing)):
        listed = CLIENT.request("OPTIONS", one.dicomweb, headers={"Accept": "application/json"}).json()["resources"]
        told[name] = [row["path"] for row in listed if row["method"] == "DELETE"]
        wadl = ET.fromstring(CLIENT.request("OPTIONS", one.dicomweb).content)
        methods = [row for row in wadl.iter("{http://wadl.dev.java.net/2009/02}method") if row.get("name") == "DELETE"]
        assert len(methods) == len(told[name])
    assert told["off"] == []
    assert [path.count("{") for path in told["on"]] == [1, 2, 3]
    run = run_command("delete", "1.2.3", "--yes", "--json", "--data", gateway.data)
    assert json.loads(run.stdout)["instances"] == 1
    assert get(gateway, path_of("1.2.3")).status_code == 410


def test_h31_one_client_deletes_so_often_a_minute_over_all_processes_and_all_of_it_can_be_brought_back(
    tmp_path, engine
):
    data = tmp_path / "data"
    environment = {**ALLOWED, "GATEWAY_HTTP__DELETES_PER_MINUTE": "10", **engine.environment(data)}
    contents = [instance(f"1.2.{number}", 1) for number in range(100, 140)]
    with running_gateway(data, "--workers", "2", environment=environment) as gateway:
        gateway.environment = environment
        stow(gateway, *contents)
        before = [answers_of(gateway, f"1.2.{number}") for number in range(100, 140)]

        def attempt(number):
            return delete(gateway, path_of(f"1.2.{number % 40 + 100}"))

        with ThreadPoolExecutor(8) as pool:
            answers = list(pool.map(attempt, range(400)))
        done = [answer for answer in answers if answer.status_code == 204]
        limited = [answer for answer in answers if answer.status_code == 429]
        assert len(done) == 10
        assert limited
        assert {answer.status_code for answer in answers} <= {204, 410, 429}
        assert all(1 <= int(answer.headers["retry-after"]) <= 60 for answer in limited)
        assert limited[0].json()["error"] == "RateLimited"
        assert len(get(gateway, "/studies?limit=100").json()) == 30
        _, listed = command(gateway, "deleted")
        assert len(listed["deletions"]) == 10
        for row in listed["deletions"]:
            assert command(gateway, "undelete", row["resource"])[0] == 0
        assert [answers_of(gateway, f"1.2.{number}") for number in range(100, 140)] == before


def test_h22_no_web_page_of_another_site_deletes_anything(tmp_path):
    environment = {**ALLOWED, "GATEWAY_HTTP__CORS_ORIGINS": VIEWER}
    with running_gateway(tmp_path / "data", "--workers", "1", environment=environment) as gateway:
        stow(gateway, instance("1.2.3", 1))
        path, url = path_of("1.2.3"), f"{gateway.dicomweb}{path_of('1.2.3')}"
        for origin in ("https://evil.example.org", VIEWER, "null", gateway.url.replace("http:", "https:"), ""):
            answer = delete(gateway, path, Origin=origin)
            assert answer.status_code == 403, origin
            asked = {"Origin": origin, "Access-Control-Request-Method": "DELETE"}
            preflight = CLIENT.request("OPTIONS", url, headers=asked)
            assert "DELETE" not in preflight.headers.get("access-control-allow-methods", "")
        for kind in ("application/x-www-form-urlencoded", "multipart/form-data; boundary=x", "text/plain"):
            form = {"Content-Type": kind, "X-HTTP-Method-Override": "DELETE", "Origin": "https://evil.example.org"}
            for where in (url, f"{url}?_method=DELETE"):
                assert CLIENT.post(where, content=b"_method=DELETE", headers=form).status_code in (400, 415)
        assert CLIENT.get(f"{url}?_method=DELETE", headers={"X-HTTP-Method-Override": "DELETE"}).status_code == 200
        rebound = delete(gateway, path, Host="evil.example.org")
        assert rebound.status_code == 421
        assert get(gateway, path).status_code == 200
        assert delete(gateway, path, Origin=gateway.url).status_code == 204


def test_behind_a_trusted_proxy_each_client_has_its_own_limit_and_none_can_forge_another(tmp_path):
    environment = {
        **ALLOWED,
        "GATEWAY_HTTP__DELETES_PER_MINUTE": "1",
        "GATEWAY_HTTP__TRUSTED_PROXIES": "127.0.0.1,10.0.0.0/8",
    }
    with running_gateway(tmp_path / "data", "--workers", "1", environment=environment) as gateway:
        stow(gateway, *(instance(f"1.2.{number}", 1) for number in range(1, 9)))
        statuses = [
            delete(gateway, path_of(f"1.2.{number}"), **{"X-Forwarded-For": forwarded}).status_code
            for number, forwarded in enumerate(
                ("192.0.2.1", "192.0.2.1", "192.0.2.2", "192.0.2.3, 192.0.2.2", "192.0.2.4, 10.0.0.7", "junk", "junk"),
                1,
            )
        ]
        assert statuses == [204, 429, 204, 429, 204, 204, 429]


def test_a_study_that_is_deleted_while_it_comes_in_is_whole_in_every_answer(allowing):
    study = "1.2.15"
    is_over = threading.Event()

    def delete_often():
        while not is_over.wait(0.02):
            delete(allowing, path_of(study))

    def send(first):
        for number in range(first, first + 25):
            stow(allowing, instance(study, number))

    with ThreadPoolExecutor(4) as pool:
        deleting = pool.submit(delete_often)
        for act in [pool.submit(send, first) for first in (1, 101)]:
            act.result(120)
        is_over.set()
        deleting.result(60)
    stow(allowing, instance(study, 500))
    found = get(allowing, path_of(study) + "/instances?limit=1000").json()
    (told,) = get(allowing, f"/studies?StudyInstanceUID={study}").json()
    assert told["00201208"]["Value"] == [len(found)]
    for row in found:
        answer = get(
            allowing, path_of(study, 1, int(row["00200013"]["Value"][0])), "application/dicom; transfer-syntax=*"
        )
        assert answer.status_code == 200
    assert delete(allowing, path_of(study)).status_code == 204
