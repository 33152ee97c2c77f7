"""Settings: where values come from, which are refused, and that nothing unsafe starts."""

from __future__ import annotations

import itertools
from dataclasses import FrozenInstanceError
from pathlib import Path

import pytest

from gateway import settings
from gateway.settings import Settings, SettingsError, load
from tests.fix_servers import run_command


def loaded(environment=None, flags=None, config=None):
    return load(config, flags, environment or {})


def test_defaults_need_no_file_and_listen_on_loopback_only():
    values = loaded().settings
    assert (values.http.host, values.dimse.host) == ("127.0.0.1", "127.0.0.1")
    assert (values.http.port, values.dimse.port, values.dimse.ae_title) == (8080, 11112, "GATEWAY")
    assert values == Settings()


def test_flags_win_over_the_environment_which_wins_over_the_file(tmp_path):
    config = tmp_path / "gateway.toml"
    config.write_text('[http]\nport = 1\nworkers = 3\n[dimse]\nport = 2\nae_title = "FILE"\n')
    found = loaded({"GATEWAY_HTTP__PORT": "11", "GATEWAY_DIMSE__PORT": "12"}, {"http.port": "21"}, config)
    assert (found.settings.http.port, found.settings.dimse.port) == (21, 12)
    assert (found.settings.http.workers, found.settings.dimse.ae_title) == (3, "FILE")
    assert found.origins["http.port"] == "command line"
    assert found.origins["dimse.port"] == "environment"
    assert found.origins["http.workers"] == f"file {config}"
    assert found.origins["http.host"] == "default"


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("[http]\nprot = 1\n", "'http.prot'"),
        ("[web]\nport = 1\n", "'web.port'"),
        ("port = 1\n", "'port'"),
        ("[http\n", "is not TOML"),
    ],
)
def test_a_file_with_something_unknown_is_refused_by_name(tmp_path, text, word):
    config = tmp_path / "gateway.toml"
    config.write_text(text)
    with pytest.raises(SettingsError, match=word):
        loaded(config=config)


def test_a_file_that_is_not_there_is_refused_by_name(tmp_path):
    with pytest.raises(SettingsError, match=r"missing\.toml cannot be read"):
        loaded(config=tmp_path / "missing.toml")


@pytest.mark.parametrize("name", ["GATEWAY_HTTP_PORT", "GATEWAY_HTTP__PROT", "GATEWAY_X", "GATEWAY_"])
def test_an_unknown_variable_is_refused_by_name(name):
    with pytest.raises(SettingsError, match=f"'{name}'"):
        loaded({name: "1"})


@pytest.mark.parametrize(
    "name",
    ["GATEWAY_PORT", "GATEWAY_PORT_8080_TCP_ADDR", "GATEWAY_SERVICE_HOST", "GATEWAY_SERVICE_PORT_HTTP", "PATH"],
)
def test_variables_that_kubernetes_makes_for_a_service_called_gateway_are_not_ours(name):
    assert loaded({name: "tcp://10.0.0.1:8080"}).settings == Settings()


@pytest.mark.parametrize(
    ("path", "raw", "phrase"),
    [
        ("http.port", "eighty", "is not a whole number"),
        ("http.port", "65536", "is not between 0 and 65535"),
        ("http.port", "", "is not a whole number"),
        ("http.port", True, "is not a whole number"),
        ("http.port", 1.5, "is not a whole number"),
        ("http.workers", "0", "is not between 1 and 64"),
        ("http.insecure_no_auth", "maybe", "is neither true nor false"),
        ("http.header_seconds", "nan", "is not a number"),
        ("http.header_seconds", "soon", "is not a number"),
        ("http.public_url", "ftp://a", "is not an http or https URL"),
        ("http.public_url", "https://user:pw@a", "without user name"),
        ("http.cors_origins", "https://a/path", "origins"),
        ("http.cors_origins", "*", "origins"),
        ("http.trusted_proxies", "proxy", "addresses and networks"),
        ("http.host", 5, "is not text"),
        ("dimse.ae_title", "A" * 17, "is not an AE title"),
        ("dimse.ae_title", " ", "is not an AE title"),
        ("dimse.peers", "PACS", "AET=HOST:PORT"),
        ("dimse.peers", "PACS=host", "AET=HOST:PORT"),
        ("dimse.peers", "PACS=host:port", "AET=HOST:PORT"),
        ("dimse.peers", "PACS=host:70000", "AET=HOST:PORT"),
        ("dimse.peers", "=host:104", "AET=HOST:PORT"),
        ("dimse.peers", "PACS=user@host:104", "AET=HOST:PORT"),
        ("dimse.peers", "PACS=host:104/x", "AET=HOST:PORT"),
        ("dimse.peers", "PACS=a:104,PACS=b:104", "names PACS twice"),
        ("dimse.ae_title", "A\\B", "is not an AE title"),
        ("logs.level", "LOUD", "is not one of"),
        ("archive.data", "", "is not a path"),
        ("archive.extended_tags", "KVP,Nonsense", "holds 'Nonsense': it is not NAME"),
        ("archive.extended_tags", ["00191008"], "holds '00191008': the dictionary has no VR"),
    ],
)
def test_a_bad_value_is_refused_in_one_line_with_its_name_and_origin(path, raw, phrase):
    with pytest.raises(SettingsError) as caught:
        loaded(flags={path: raw})
    assert str(caught.value).startswith(f"{path} from command line: ")
    assert phrase in str(caught.value)
    assert "\n" not in str(caught.value)


def test_values_are_typed_from_text():
    values = loaded(
        {
            "GATEWAY_HTTP__CORS_ORIGINS": "https://a.example, http://localhost:3000",
            "GATEWAY_HTTP__INSECURE_NO_AUTH": "yes",
            "GATEWAY_HTTP__HEADER_SECONDS": "2.5",
            "GATEWAY_ARCHIVE__DATA": "/srv/images",
        }
    ).settings
    assert values.http.cors_origins == ("https://a.example", "http://localhost:3000")
    assert values.http.insecure_no_auth is True
    assert values.http.header_seconds == 2.5
    assert values.archive.data == Path("/srv/images")


def test_a_default_limit_above_the_maximum_is_refused():
    with pytest.raises(SettingsError, match="default_results"):
        loaded(flags={"http.default_results": 50, "http.maximum_results": 10})


def test_settings_travel_to_a_child_process_unchanged():
    values = loaded(flags={"http.cors_origins": ["https://a"], "archive.data": "x", "dimse.idle_seconds": 3}).settings
    assert settings.from_json(settings.to_json(values)) == values


def test_settings_are_frozen():
    with pytest.raises(FrozenInstanceError):
        Settings().http.port = 1


@pytest.mark.parametrize(
    ("http_host", "dimse_host", "is_allowed"),
    list(itertools.product(["127.0.0.1", "0.0.0.0"], ["localhost", "192.0.2.7"], [False, True])),
)
def test_without_authentication_only_loopback_starts_unless_allowed_in_words(http_host, dimse_host, is_allowed):
    values = loaded(
        flags={"http.host": http_host, "dimse.host": dimse_host, "http.insecure_no_auth": is_allowed}
    ).settings
    if is_allowed or (http_host, dimse_host) == ("127.0.0.1", "localhost"):
        settings.refuse_unsafe(values)
    else:
        with pytest.raises(SettingsError, match="--insecure-no-auth"):
            settings.refuse_unsafe(values)


@pytest.mark.parametrize(
    ("host", "expected"),
    [
        *((host, True) for host in ("127.0.0.1", "127.9.9.9", "::1", "localhost")),
        *((host, False) for host in ("", "::", "0.0.0.0", "10.0.0.1", "gateway.example.org", "localhost.example.org")),
    ],
)
def test_only_loopback_counts_as_loopback(host, expected):
    assert settings.is_loopback(host) is expected


def test_every_setting_has_a_sentence_and_numbers_have_a_unit_or_are_counts():
    units = ("_bytes", "_seconds", "_days", "_pixels", "_percent", "_per_second", "_per_minute")
    counts = ("port", "workers", "_results", "_offset", "_parts", "_headers", "_maximum", "_address_maximum")
    for knob in settings.knobs():
        assert knob.doc.endswith("."), knob.path
        if knob.kind in (int, float):
            assert knob.name == "seconds" or knob.name.endswith(units + counts), knob.path


def test_a_childs_environment_holds_no_settings(monkeypatch):
    monkeypatch.setenv("GATEWAY_HTTP__PORT", "1")
    child = settings.child_environment({"EXTRA": "2"})
    assert "GATEWAY_HTTP__PORT" not in child
    assert child["EXTRA"] == "2"


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("postgresql://gateway:s3cr:et%40@db.example/dicomweb", "postgresql://gateway:***@db.example/dicomweb"),
        (
            "postgresql:///dicomweb?user=gateway&password=s3cret&sslmode=require",
            "postgresql:///dicomweb?user=gateway&password=***&sslmode=require",
        ),
        ("postgresql://gateway@db.example/dicomweb", "postgresql://gateway@db.example/dicomweb"),
    ],
)
def test_the_password_of_the_index_is_not_shown_but_handed_to_the_processes(url, shown):
    values = loaded({"GATEWAY_ARCHIVE__INDEX": url}).settings
    assert settings.shown(values.archive.index) == shown
    assert settings.from_json(settings.to_json(values)).archive.index == url
    said = run_command("settings", environment={"GATEWAY_ARCHIVE__INDEX": url})
    assert shown in said.stdout
    assert "s3cr" not in said.stdout + said.stderr


def test_peers_are_read_with_their_places():
    read = settings.read_peers(["PACS=pacs.example.org:104", "VIEWER 2=[::1]:11113"])
    assert read == {"PACS": ("pacs.example.org", 104), "VIEWER 2": ("::1", 11113)}
