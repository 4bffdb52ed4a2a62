"""Checks for what an uplink's config takes and refuses."""

from __future__ import annotations

import msgspec
import pytest

from gateway.core.units import Duration, Size
from gateway.net.secrets import Secret
from gateway.uplinks.endpoint_settings import BreakerSettings, EndpointSettings
from gateway.uplinks.settings import OtlpUplinkSettings, RetrySettings, TlsSettings


def hook(kind, value):
    return kind.parse(value)


def read(text: str) -> OtlpUplinkSettings:
    whole = f'type = "otlp"\nname = "cloud"\nendpoint = "https://otel.example:4318"\n{text}'
    return msgspec.toml.decode(whole.encode(), type=OtlpUplinkSettings, dec_hook=hook)


def make(**settings) -> OtlpUplinkSettings:
    return OtlpUplinkSettings(**{"name": "cloud", "endpoint": "https://otel.example:4318", **settings})


def test_the_least_config_works() -> None:
    """A name and an endpoint are enough."""
    found = read("")
    assert (found.protocol, found.compression, found.timeout, found.retry.max) == (
        "http/protobuf",
        "auto",
        10,
        60,
    )


def test_a_full_config_is_read() -> None:
    """Units, secrets and nested tables."""
    found = read(
        """
        compression = "zstd"
        timeout = "500ms"
        request_bytes_max = "1MiB"
        headers = { authorization = { env = "OTLP_TOKEN" }, x-site = "7" }
        tls = { ca_file = "/etc/ca.pem" }
        retry = { initial = "2s", max = "5m" }
        """
    )
    assert found.timeout == Duration(0.5)
    assert found.request_bytes_max == Size(2**20)
    assert found.headers == {"authorization": Secret(env="OTLP_TOKEN"), "x-site": "7"}
    assert (found.tls.ca_file, found.retry.initial, found.retry.max) == ("/etc/ca.pem", 2, 300)


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"protocol": "http/xml"}, 'not in this version; write "http/protobuf" or "http/json" or "grpc"'),
        ({"protocol": "grpc", "endpoint": "http://h:4317/v1"}, "has a path, for which gRPC has no use"),
        (
            {"protocol": "grpc", "endpoint": "", "endpoints": ("http://h:4317/x", "http://i")},
            r"endpoints\[0\]: has a path",
        ),
        (
            {"protocol": "grpc", "endpoint": "", "endpoints": (EndpointSettings(url="http://h/x"), "http://i")},
            r"endpoints\[0\].url: has a path",
        ),
        ({"protocol": "grpc", "headers": {"Grpc-Timeout": "1S"}}, "Grpc-Timeout is gRPC's own; leave it out"),
        ({"endpoint": "otel.example:4318"}, "is not an address like http://host:port or https://host:port"),
        ({"endpoint": "http://"}, "is not an address"),
        ({"endpoint": "http://h:99999"}, "is not an address"),
        ({"endpoint": "http://h:0"}, "is not an address"),
        ({"endpoint": "http://user:pass@h"}, "must not hold a user or password"),
        ({"endpoint": "http://h/?key=1"}, "tokens go into headers"),
        ({"endpoint": "http://h/a b"}, "no .*spaces"),
        ({"endpoint": "http://h:4318/Zähler%201"}, r"write http://h:4318/Z%C3%A4hler%201"),
        ({"endpoint": "https://bücher.example"}, r"write https://xn--bcher-kva.example"),
        ({"endpoint": f"https://{'ü' * 70}.example"}, "letters that no request can have"),
        ({"proxy": "http://bücher.example:3128"}, r"write http://xn--bcher-kva.example:3128"),
        ({"endpoint": "http://h/v1/metrics"}, "leave out /v1/"),
        ({"connect_timeout": Duration(0)}, "connect_timeout: is 0s; it is over zero"),
        ({"attempt_timeout": Duration(90_000)}, "attempt_timeout: is .*; it is over zero and at most"),
        ({"connection_max_age": Duration(-1)}, "connection_max_age: is -1s; it is over zero"),
        ({"proxy": "https://p:3128"}, "proxy: .* is not an address like http://host:port"),
        ({"timeout": Duration(0)}, "timeout: is 0s; it is over zero and at most 1d"),
        ({"timeout": Duration(86_401)}, "it is over zero and at most 1d"),
        ({"batch_interval": Duration(-1)}, "batch_interval: is not negative"),
        ({"request_bytes_max": Size(10)}, 'at least "1KiB"'),
        ({"headers": {"Authorization": "Bearer x"}}, r"write Authorization = \{ env = "),
        ({"headers": {"x-api-key": "x"}}, "is a secret, so it is no literal"),
        ({"headers": {"X-Auth-Token": "x"}}, "is a secret, so it is no literal"),
        ({"headers": {"bad name": "x"}}, "is not a header's name"),
        ({"headers": {"x-a": "a\r\nb: c"}}, "characters that no header can have"),
        ({"headers": {"Content-Type": "text/plain"}}, "written by the gateway itself"),
    ],
)
def test_what_cannot_work_is_refused_with_what_would(settings, sentence: str) -> None:
    """Each refusal is a sentence that names the key."""
    with pytest.raises(ValueError, match=sentence):
        make(**settings)


def test_a_password_in_the_endpoint_is_not_repeated() -> None:
    """A refusal ends up in logs."""
    with pytest.raises(ValueError) as caught:
        make(endpoint="http://user:hunter2@h")
    assert "hunter2" not in str(caught.value)


def test_what_belongs_together_is_checked_together() -> None:
    """Certificate and key; first and longest wait."""
    with pytest.raises(ValueError, match="belong together"):
        TlsSettings(cert_file="c.pem")
    with pytest.raises(ValueError, match="must be over zero and not exceed max"):
        RetrySettings(initial=Duration(90))


@pytest.mark.parametrize(
    ("endpoint", "count"),
    [
        ("https://otel.example", 0),
        ("http://127.0.0.1:4318", 0),
        ("http://[::1]:4318", 0),
        ("http://localhost", 0),
        ("http://collector.lan:4318", 1),
        ("http://10.0.0.3:4318", 1),
    ],
)
def test_plain_http_beyond_this_box_is_allowed_and_said(endpoint: str, count: int) -> None:
    """A collector on the LAN is common; whoever reads `check` knows that it can be overheard."""
    assert len(make(endpoint=endpoint).warnings()) == count


def test_what_has_no_effect_is_said() -> None:
    """Certificates for an address without TLS; headers that can be read on the way."""
    found = make(endpoint="http://c.lan", tls=TlsSettings(ca_file="x"), headers={"x-site": "7"}).warnings()
    assert "headers and data can be read" in found[0]
    assert "not used with an http://" in found[1]
    (said,) = make(breaker=BreakerSettings(failures=1)).warnings()
    assert said == "breaker: there is one receiver, which is never left out; `retry` says how often it is tried"
    several = {"endpoint": "", "endpoints": ("https://a.example", "https://b.example")}
    assert make(breaker=BreakerSettings(failures=1), **several).warnings() == []


@pytest.mark.parametrize("key", ["endpoint", "proxy"])
@pytest.mark.parametrize(
    "address",
    [
        "https://user:s3cret@h",
        "grpc://user:s3cret@h:4317",
        "user:s3cret@h:4318",
        "https://user:s3cret@h\u2100st",
        "https://user:s3cret@h:port/a",
        "http://s3cret@h?a",
    ],
)
def test_a_password_in_an_address_is_not_shown(key: str, address: str) -> None:
    """Whatever else is wrong with it."""
    with pytest.raises(ValueError, match=f"^{key}: must not hold a user or password") as caught:
        OtlpUplinkSettings(name="cloud", **{"endpoint": "https://h", key: address})
    assert "s3cret" not in str(caught.value)


def test_what_an_uplink_takes_is_read_in_words() -> None:
    """Left out it is all."""
    found = read('classes = ["critical"]\nsignals = ["logs", "traces"]\nmappings = ["a"]')
    assert (found.classes, found.signals, found.mappings) == (("critical",), ("logs", "traces"), ("a",))
    assert (make().classes, make().signals, make().mappings) == (None, None, None)


@pytest.mark.parametrize(
    ("protocol", "endpoint", "sentence"),
    [
        ("grpc", "http://localhost:4318", 'has the port of OTLP over HTTP, and this is "grpc"; gRPC\'s is 4317'),
        ("http/json", "http://localhost:4317", 'over gRPC, and this is "http/json"; that over HTTP is 4318'),
        ("grpc", "http://localhost:4317", ""),
        ("http/protobuf", "http://localhost:9999", ""),
    ],
)
def test_the_other_protocols_port_is_said(protocol: str, endpoint: str, sentence: str) -> None:
    """It may be meant, and mostly is not."""
    warnings = make(protocol=protocol, endpoint=endpoint).warnings()
    assert (sentence in " ".join(warnings), len(warnings)) == (True, int(bool(sentence)))
