"""What can be said of an OTLP receiver."""

from __future__ import annotations

import pytest

from gateway.core.contracts import Priority
from gateway.core.units import Duration, Size
from gateway.net.secrets import Secret
from gateway.sources.otlp_settings import OtlpSettings, OtlpUser, tls_context
from gateway.sources.server_tls import ServerTls
from hil.certificates import Authority

SECRET = Secret(env="X")
TLS = ServerTls(cert_file="c", key_file="k")


def settings(**changes: object) -> OtlpSettings:
    return OtlpSettings(**{"name": "local"} | changes)


def test_on_loopback_nobody_has_to_show_anything() -> None:
    """As the exporters of OpenTelemetry send where nothing is configured."""
    assert (settings().http, settings().lets_anyone_in, settings().priority) == (
        "127.0.0.1:4318",
        True,
        Priority.NORMAL,
    )
    assert settings(class_="bulk").priority is Priority.BULK


@pytest.mark.parametrize(
    "way",
    [
        {"token": SECRET},
        {"users": (OtlpUser(name="a", password=SECRET),)},
        {"tls": ServerTls(cert_file="c", key_file="k", client_ca_file="a")},
    ],
)
def test_beyond_loopback_somebody_is_named(way: dict) -> None:
    """A token, users, or certificates; TLS alone lets everybody in."""
    assert not settings(http="0.0.0.0:4318", **way).lets_anyone_in
    for nothing in ({}, {"tls": TLS}):
        with pytest.raises(ValueError, match="which other machines reach: add token"):
            settings(http="0.0.0.0:4318", **nothing)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"http": "4318"}, "HOST:PORT"),
        ({"timeout": Duration(0)}, "over zero"),
        ({"keep_alive": Duration(0)}, "over zero"),
        ({"request_bytes_max": Size(100)}, "16KiB to 64MiB"),
        ({"request_bytes_max": Size(9 << 20)}, "at most in_flight_bytes_total"),
        ({"request_bytes_max": Size(65 << 20), "in_flight_bytes_total": Size(70 << 20)}, "to 64MiB"),
        ({"users": (OtlpUser(name="a", password=SECRET),) * 2}, "named twice"),
    ],
)
def test_what_cannot_work_is_said(changes: dict, says: str) -> None:
    """Each with what would be right."""
    with pytest.raises(ValueError, match=says):
        settings(**changes)


@pytest.mark.parametrize("name", ["a:b", "a\n"])
def test_a_name_can_be_sent(name: str) -> None:
    """RFC 7617: no colon."""
    with pytest.raises(ValueError, match="no colon"):
        OtlpUser(name=name, password=SECRET)


def test_certificates_are_asked_for_where_there_is_no_other_way_in(tmp_path) -> None:
    """Else they are welcome."""
    import ssl

    authority = Authority(tmp_path)
    ours = authority.issue()
    tls = ServerTls(cert_file=str(ours.certificate), key_file=str(ours.key), client_ca_file=str(authority.certificate))
    assert tls_context(settings(tls=tls)).verify_mode is ssl.CERT_REQUIRED
    assert tls_context(settings(tls=tls, token=SECRET)).verify_mode is ssl.CERT_OPTIONAL


def test_grpc_beyond_loopback_wants_somebody_who_is_let_in() -> None:
    """As http does; without an address there is none."""
    assert OtlpSettings(name="a").grpc == ""
    assert OtlpSettings(name="a", grpc="127.0.0.1:4317").grpc
    with pytest.raises(ValueError, match=r"grpc: is 0.0.0.0:4317, which other machines reach: add token = "):
        OtlpSettings(name="a", grpc="0.0.0.0:4317")
    assert OtlpSettings(name="a", grpc="0.0.0.0:4317", token=Secret(env="TOKEN")).grpc
    with pytest.raises(ValueError, match="is not HOST:PORT"):
        OtlpSettings(name="a", grpc="4317")
