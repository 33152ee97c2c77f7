"""Webhooks of running gateways: kills, several gateways over one database, the operator's commands, the log."""

from __future__ import annotations

import base64
import itertools
import json
import os
import signal
from concurrent.futures import ThreadPoolExecutor

import httpx

from tests import synthetic
from tests.fix_dimse import settle
from tests.fix_engines import Postgresql
from tests.fix_servers import run_command, running_gateway

DICOM = {"Content-Type": "application/dicom"}
KEY = bytes(range(32))
LOOPBACK = {"GATEWAY_CHANGES__WEBHOOK_NETWORKS": "127.0.0.0/8", "GATEWAY_CHANGES__STABLE_SECONDS": "1"}


def stored(gateway, number):
    """Whether an instance was acknowledged."""
    content = synthetic.data_set(
        study=f"1.2.{number % 5 + 1}", series=f"1.3.{number % 5}", sop_instance=f"1.4.{number}"
    )
    part10 = synthetic.part10(content, sop=f"1.4.{number}")
    try:
        answer = httpx.post(f"{gateway.dicomweb}/studies", content=part10, headers=DICOM, timeout=30)
    except httpx.HTTPError:
        return False
    return answer.status_code == 200


def feed(gateway):
    found = httpx.get(f"{gateway.url}/changes?limit=1000", timeout=60).json()
    assert found["done"]
    return found["changes"]


def firsts(receiver):
    """The changes that were accepted, each when it came first."""
    changes = [change for request in receiver.received if request.status == 200 for change in request.changes]
    return list({change["sequence"]: change for change in changes}.values())


def flags(receiver, secret_file):
    return ("--workers", "1", "--webhook", f"{receiver.url} name=ris secret_file={secret_file}")


def test_kills_of_the_gateway_lose_no_change_and_mix_up_no_order(tmp_path, receiver):
    secret = tmp_path / "secret"
    secret.write_text("whsec_" + base64.b64encode(KEY).decode())
    acknowledged = set()
    numbers = itertools.count(1)
    for life in range(3):
        environment = LOOPBACK | {"GATEWAY_CHANGES__WEBHOOK_SECONDS": "2"}
        with running_gateway(tmp_path / "data", *flags(receiver, secret), environment=environment) as gateway:
            receiver.statuses = [500] * life
            for _ in range(3):
                for number in itertools.islice(numbers, 10):
                    if stored(gateway, number):
                        acknowledged.add(f"1.4.{number}")
                os.kill(gateway.pids("dimse")["dimse"], signal.SIGKILL)
            if life < 2:
                gateway.process.kill()
                gateway.process.wait()
                continue

            def is_told():
                changes = feed(gateway)
                return changes[-1]["kind"] == "study-stable" and len(firsts(receiver)) == len(changes)

            def has_come():
                # who was killed while it told still has it, for two minutes
                run_command("webhooks", "retry", "--all", "--data", gateway.data)
                return is_told()

            assert settle(has_come, 240)
            assert firsts(receiver) == feed(gateway)
            told = {change.get("SOPInstanceUID") for change in feed(gateway) if change["kind"] == "stored"}
            assert acknowledged <= told
            assert len(acknowledged) >= 60
            assert all(request.is_signed_by(KEY) for request in receiver.received)


def test_two_gateways_over_one_database_tell_each_change_once(tmp_path, receiver):
    secret = tmp_path / "secret"
    secret.write_text("text")
    environment = LOOPBACK | dict(Postgresql().environment(tmp_path))
    arguments = flags(receiver, secret)
    with (
        running_gateway(tmp_path / "one", *arguments, environment=environment) as one,
        running_gateway(tmp_path / "other", *arguments, environment=environment) as other,
    ):
        receiver.hang_seconds = 0.02
        with ThreadPoolExecutor(4) as many:
            assert all(many.map(lambda number: stored((one, other)[number % 2], number), range(1, 101)))

        def is_told():
            """Everything there is, and that of each study its rest is the last."""
            changes = feed(other)
            last = {change["StudyInstanceUID"]: change["kind"] for change in changes}
            is_whole = receiver.accepted == [change["sequence"] for change in changes]
            return is_whole and set(last.values()) == {"study-stable"}

        assert settle(is_told, 180), (receiver.accepted, feed(other))


def test_operators_see_retry_and_drop_what_could_not_be_delivered(tmp_path, receiver):
    secret = tmp_path / "secret"
    secret.write_text("text")
    environment = LOOPBACK | {"GATEWAY_CHANGES__WEBHOOK_REFUSALS_MAXIMUM": "1", "GATEWAY_CHANGES__STABLE_SECONDS": "0"}
    with running_gateway(tmp_path / "data", *flags(receiver, secret), environment=environment) as gateway:

        def command(*arguments):
            return run_command("webhooks", *arguments, "--data", gateway.data)

        def listed():
            return json.loads(command("list", "--json").stdout)

        receiver.statuses = [400, 404]
        for number in (1, 2):
            assert stored(gateway, number)
            assert settle(lambda expected=number: len(listed()["undelivered"]) == expected, 30)
        assert stored(gateway, 3)
        assert settle(lambda: receiver.accepted == [3], 20)
        (hook,) = listed()["webhooks"]
        assert (hook["name"], hook["sequence"], hook["failing_since"]) == ("ris", 3, 0)
        text = command("list").stdout
        assert "ris: told up to 3 of 3\n" in text
        assert "1  ris: changes 1 to 1, laid aside" in text
        assert "status 404" in text
        assert command("retry").returncode == 2
        assert command("drop", "1", "--all").returncode == 2
        assert command("retry", "9").returncode == 1
        assert command("retry", "1").returncode == 0
        assert settle(lambda: receiver.accepted == [3, 1], 20)
        assert settle(lambda: [one["id"] for one in listed()["undelivered"]] == [2], 20)
        assert command("drop", "2").returncode == 0
        assert listed()["undelivered"] == []
        figures = httpx.get(gateway.places["metrics"], timeout=60).text
        assert 'gateway_webhook_messages_total{hook="ris",outcome="given_up"} 2.0' in figures
        assert 'gateway_webhook_behind_changes{hook="ris"} 0.0' in figures
        lines = [line for line in gateway.lines() if line["event"].startswith("webhook.")]
        assert [(line["event"], line["hook"]) for line in lines][:2] == [
            ("webhook.failed", "ris"),
            ("webhook.given_up", "ris"),
        ]
        log = gateway.log.read_text("utf-8")
        assert "1.4." not in log
        assert "/hook" not in log
        assert command("forget", "ris").returncode == 0
        assert command("forget", "nobody").returncode == 1


def test_a_webhook_that_may_not_be_is_refused_before_anything_starts(tmp_path, receiver):
    def said(webhook, **environment):
        run = run_command("serve", "--data", tmp_path / "data", "--webhook", webhook, environment=environment)
        assert run.returncode == 2
        return run.stderr

    assert "127.0.0.1, which is not public" in said(receiver.url)
    assert "[::ffff:169.254.169.254]" not in said("http://[::ffff:169.254.169.254]/latest")
    assert "secret_file that cannot be read" in said(
        f"{receiver.url} secret_file={tmp_path}/none", GATEWAY_CHANGES__WEBHOOK_NETWORKS="127.0.0.1"
    )
    assert "SESAME" not in said(f"{receiver.url} secret=SESAME colour=red")
    assert receiver.received == []
    shown = run_command("settings", "--webhook", "https://pacs.example.org secret=SESAME name=ris")
    assert shown.returncode == 0
    assert "SESAME" not in shown.stdout
    assert "secret=*** name=ris" in shown.stdout


def test_a_name_that_leads_to_an_address_that_is_not_public_is_not_connected_to(tmp_path, receiver):
    url = receiver.url.replace("127.0.0.1", "localhost")
    environment = {"GATEWAY_CHANGES__STABLE_SECONDS": "0"}
    with running_gateway(tmp_path / "data", "--workers", "1", "--webhook", url, environment=environment) as gateway:
        assert stored(gateway, 1)
        assert settle(lambda: any(line["event"] == "webhook.failed" for line in gateway.lines()), 20)
        (line,) = [line for line in gateway.lines() if line["event"] == "webhook.failed"][:1]
        assert "not public" in line["reason"]
    assert receiver.received == []
