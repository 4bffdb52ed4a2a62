"""OpenTelemetry's variables fill what is left out, of the uplinks they are meant for, and of no other."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from gateway.control.check import check
from gateway.control.config import ConfigError, parse_config
from gateway.control.environment import fill

if TYPE_CHECKING:
    from pathlib import Path

ENDPOINT = "https://otel.example:4318"
TOKEN = "Bearer s3cret"
ALL = {
    "OTEL_EXPORTER_OTLP_ENDPOINT": ENDPOINT,
    "OTEL_EXPORTER_OTLP_PROTOCOL": "http/json",
    "OTEL_EXPORTER_OTLP_COMPRESSION": "gzip",
    "OTEL_EXPORTER_OTLP_TIMEOUT": "2500",
    "OTEL_EXPORTER_OTLP_HEADERS": "authorization=Bearer%20s3cret,X-Tenant=7",
    "OTEL_EXPORTER_OTLP_CERTIFICATE": "/etc/ca.pem",
    "OTEL_EXPORTER_OTLP_CLIENT_CERTIFICATE": "/etc/own.pem",
    "OTEL_EXPORTER_OTLP_CLIENT_KEY": "/etc/own.key",
}


def uplinks(*tables: str) -> str:
    return "".join(f'[[uplinks]]\ntype = "otlp"\nname = "u{k}"\n{table}\n' for k, table in enumerate(tables))


@pytest.fixture
def variables(monkeypatch: pytest.MonkeyPatch):
    def put(**values: str) -> None:
        for name, value in values.items():
            monkeypatch.setenv(name, value)

    for name in ALL:
        monkeypatch.delenv(name, raising=False)
    return put


@pytest.fixture(autouse=True)
def state(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("STATE_DIRECTORY", str(tmp_path))


def test_an_uplink_without_anything_has_all_of_it(variables, tmp_path) -> None:
    """Each variable in its key; the headers by reference, so that no secret is in the configuration."""
    variables(**ALL)
    (uplink,) = parse_config(uplinks("")).uplinks
    assert (uplink.endpoint, uplink.protocol, uplink.compression) == (ENDPOINT, "http/json", "gzip")
    assert uplink.timeout == 2.5
    assert (uplink.tls.ca_file, uplink.tls.cert_file, uplink.tls.key_file) == (
        "/etc/ca.pem",
        "/etc/own.pem",
        "/etc/own.key",
    )
    assert {name: value.read() for name, value in uplink.headers.items()} == {
        "authorization": TOKEN,
        "X-Tenant": "7",
    }
    assert "s3cret" not in repr(uplink)


def test_what_is_given_stands(variables) -> None:
    """Header by header and file by file; names of headers know no case."""
    variables(**ALL)
    own = f'endpoint = "{ENDPOINT}"\ntimeout = "7s"\nheaders = {{ Authorization = {{ env = "HOME" }} }}\n'
    (uplink,) = parse_config(uplinks(own + 'tls = { ca_file = "/my.pem" }')).uplinks
    assert (uplink.timeout, uplink.tls.ca_file, uplink.tls.key_file) == (7, "/my.pem", "/etc/own.key")
    assert {name: (value.env, value.entry) for name, value in uplink.headers.items()} == {
        "Authorization": ("HOME", ""),
        "X-Tenant": ("OTEL_EXPORTER_OTLP_HEADERS", "X-Tenant"),
    }


def test_a_token_goes_to_nobody_else(variables) -> None:
    """Only to the endpoint that stands beside it; another one shares nothing of it."""
    variables(**ALL)
    found = parse_config(uplinks('endpoint = "https://other.example"', f'endpoint = "{ENDPOINT}"', "")).uplinks
    assert [bool(uplink.headers) for uplink in found] == [False, True, True]
    assert [uplink.protocol for uplink in found] == ["http/protobuf", "http/json", "http/json"]
    (alone,) = parse_config(uplinks('endpoint = "https://other.example"')).uplinks
    assert not alone.headers


def test_a_token_goes_to_no_other_of_several_receivers(variables) -> None:
    """They share their headers, so that one that is not meant keeps the token from all; alone, or as the only uplink's
    without an address beside the token, they have it.
    """
    variables(**ALL)
    among = f'endpoints = ["{ENDPOINT}", {{ url = "https://other.example" }}]'
    both, alone = parse_config(uplinks(among, f'endpoints = ["{ENDPOINT}"]')).uplinks
    assert (both.headers, both.endpoint, both.protocol) == ({}, "", "http/protobuf")
    assert (list(alone.headers), alone.endpoint) == (["authorization", "X-Tenant"], "")


def test_several_receivers_of_the_only_uplink_have_what_names_nobody(variables) -> None:
    """Whoever sets a token and no address means whoever is configured."""
    variables(OTEL_EXPORTER_OTLP_HEADERS="authorization=x")
    (only,) = parse_config(uplinks('endpoints = ["https://one.example", "https://two.example"]')).uplinks
    assert list(only.headers) == ["authorization"]


def test_variables_without_an_endpoint_are_the_only_uplinks(variables) -> None:
    """Where there are two, nobody knows which is meant."""
    variables(OTEL_EXPORTER_OTLP_HEADERS="authorization=x")
    (alone,) = parse_config(uplinks('endpoint = "https://one.example"')).uplinks
    assert list(alone.headers) == ["authorization"]
    both = parse_config(uplinks('endpoint = "https://one.example"', 'endpoint = "https://two.example"')).uplinks
    assert [uplink.headers for uplink in both] == [{}, {}]


@pytest.mark.parametrize(
    ("name", "value", "sentence"),
    [
        ("TIMEOUT", "10s", "uplinks[0].timeout: OTEL_EXPORTER_OTLP_TIMEOUT is no whole number of milliseconds"),
        ("COMPRESSION", "br", "uplinks[0].compression: OTEL_EXPORTER_OTLP_COMPRESSION is none of gzip, none"),
        ("HEADERS", "s3cret", "uplinks[0].headers: OTEL_EXPORTER_OTLP_HEADERS is a list name=value,name=value"),
        ("HEADERS", "host=x", "uplinks[0].headers.host: host is written by the gateway itself"),
        ("PROTOCOL", "thrift", "uplinks[0].protocol: 'thrift' is not in this version"),
        ("ENDPOINT", "otel:4317", "uplinks[0].endpoint: 'otel:4317' is not an address"),
        ("CLIENT_KEY", "/k", "uplinks[0].tls: cert_file and key_file belong together"),
    ],
)
def test_what_a_variable_says_is_looked_at(variables, name: str, value: str, sentence: str) -> None:
    """By the path that it fills, and by its name where the sentence does not show it; never with a secret."""
    variables(OTEL_EXPORTER_OTLP_ENDPOINT=ENDPOINT)
    variables(**{f"OTEL_EXPORTER_OTLP_{name}": value})
    with pytest.raises(ConfigError) as caught:
        parse_config(uplinks(""))
    assert sentence in str(caught.value)
    assert "s3cret" not in str(caught.value)


def test_without_any_an_endpoint_is_asked_for(variables) -> None:
    """And the variable is named; who only reads mappings is not asked."""
    with pytest.raises(ConfigError, match=r"endpoint: is missing; .*OTEL_EXPORTER_OTLP_ENDPOINT"):
        parse_config(uplinks(""))
    variables(OTEL_EXPORTER_OTLP_ENDPOINT="  ")
    with pytest.raises(ConfigError, match="endpoint: is missing"):
        parse_config(uplinks(""))
    assert parse_config(uplinks(""), offline=True).uplinks


@pytest.mark.parametrize(
    "table",
    [{}, {"uplinks": "x"}, {"uplinks": ["x", {"type": "mqtt"}, {}]}, {"uplinks": [{"type": "otlp", "headers": 7}]}],
)
def test_what_is_no_uplink_is_left_to_others(table: dict) -> None:
    """Whatever stands there; the file's own mistakes are found where all are."""
    found = fill(table, {"OTEL_EXPORTER_OTLP_HEADERS": "a=b", "HOME": "/"})
    assert (found.table, found.problems, found.notes) == (table, [], [])


def test_check_says_what_was_taken(variables, tmp_path) -> None:
    """By the variables' names."""
    variables(OTEL_EXPORTER_OTLP_ENDPOINT="http://127.0.0.1:4318", OTEL_EXPORTER_OTLP_HEADERS="a=b")
    (tmp_path / "tidegate.toml").write_text(uplinks(""))
    notes = check(tmp_path / "tidegate.toml").notes
    expected = "uplinks[0]: what it leaves out is taken from OTEL_EXPORTER_OTLP_ENDPOINT, OTEL_EXPORTER_OTLP_HEADERS"
    assert expected in notes


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("Authorization: Bearer s3cret=", 1),
        ("x-tenant=7,s3cret=", 2),
        ("x-tenant=7,s3cret%20x=y", 2),
        ("s3cret/x=y", 1),
    ],
)
def test_a_token_in_the_place_of_a_name_is_not_shown(variables, tmp_path, text: str, number: int) -> None:
    """One that was pasted there as it stands in a header, or alone, ends with = where it is base64."""
    variables(OTEL_EXPORTER_OTLP_ENDPOINT=ENDPOINT, OTEL_EXPORTER_OTLP_HEADERS=text)
    file = tmp_path / "tidegate.toml"
    file.write_text(uplinks(""))
    with pytest.raises(ConfigError) as caught:
        check(file)
    assert f"OTEL_EXPORTER_OTLP_HEADERS is a list name=value,name=value; its entry {number} is none" in str(
        caught.value
    )
    assert "s3cret" not in str(caught.value)


@pytest.mark.parametrize("tls", ['"/etc/ca.pem"', "5", "[1]", "true"])
def test_certificates_that_are_no_table_are_told_as_that(variables, tmp_path, tls: str) -> None:
    """What the file has there is for its own check to say, whatever the environment has."""
    variables(**ALL)
    file = tmp_path / "tidegate.toml"
    file.write_text(uplinks(f"tls = {tls}"))
    with pytest.raises(ConfigError, match=r"^uplinks\[0\].tls: "):
        check(file)


@pytest.mark.parametrize(
    ("given", "insecure", "endpoint"),
    [
        ("otel:4317", "true", "http://otel:4317"),
        ("otel:4317", "", "https://otel:4317"),
        ("http://otel:4317", "false", "http://otel:4317"),
    ],
)
def test_an_address_for_grpc_may_stand_alone(variables, given: str, insecure: str, endpoint: str) -> None:
    """OTEL_EXPORTER_OTLP_INSECURE says what it begins with then, and means nothing beside one that says so itself."""
    variables(
        OTEL_EXPORTER_OTLP_ENDPOINT=given,
        OTEL_EXPORTER_OTLP_INSECURE=insecure,
        OTEL_EXPORTER_OTLP_PROTOCOL="grpc",
    )
    (uplink,) = parse_config(uplinks("")).uplinks
    assert (uplink.endpoint, uplink.protocol) == (endpoint, "grpc")


def test_what_is_said_of_one_signal_is_not_passed_over_in_silence(variables, tmp_path) -> None:
    """An uplink has one way; whoever has set another one for logs is told how that is said here."""
    variables(
        OTEL_EXPORTER_OTLP_ENDPOINT=ENDPOINT,
        OTEL_EXPORTER_OTLP_LOGS_ENDPOINT="https://logs.example/v1/logs",
        OTEL_EXPORTER_OTLP_LOGS_HEADERS="authorization=s3cret",
        OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE="delta",
    )
    path = tmp_path / "tidegate.toml"
    path.write_text(uplinks(""))
    (said,) = [note for note in check(path).notes if "not read" in note]
    assert said.startswith(
        "uplinks: OTEL_EXPORTER_OTLP_LOGS_ENDPOINT, OTEL_EXPORTER_OTLP_LOGS_HEADERS are not read here"
    )
    assert 'signals = ["…"]' in said
    assert "s3cret" not in said
    path.write_text('[[uplinks]]\ntype = "file"\nname = "stick"\ndirectory = "/media/stick"\n')
    assert not [note for note in check(path).notes if "OTEL_" in note]


def test_words_of_variables_have_no_case(variables) -> None:
    """As OpenTelemetry's specification has it for values of a list."""
    variables(
        OTEL_EXPORTER_OTLP_ENDPOINT="otel.example:4317",
        OTEL_EXPORTER_OTLP_COMPRESSION="GZIP",
        OTEL_EXPORTER_OTLP_PROTOCOL="gRPC",
    )
    (uplink,) = parse_config(uplinks("")).uplinks
    assert (uplink.compression, uplink.protocol, uplink.endpoint) == ("gzip", "grpc", "https://otel.example:4317")
