"""Who may send: what a request shows, right and wrong. On the wire it stands in test_otlp.py."""

from __future__ import annotations

import base64

import pytest

from gateway.net.http_requests import Request
from gateway.net.secrets import Secret
from gateway.sources.otlp_auth import Doorkeeper
from gateway.sources.otlp_settings import OtlpSettings, OtlpUser
from gateway.sources.server_tls import ServerTls

TLS = ServerTls(cert_file="c", key_file="k", client_ca_file="a")


def basic(text: str) -> str:
    return "Basic " + base64.b64encode(text.encode()).decode()


@pytest.fixture
def knows(monkeypatch):
    """Whether a doorkeeper of these settings knows a request with such a header."""
    monkeypatch.setenv("TOKEN", "tökén")
    monkeypatch.setenv("PASSWORD", "p:w")

    def ask(header: str | None, *, has_certificate: bool = False, **changes: object) -> bool:
        settings = OtlpSettings(**{"name": "local", "http": "127.0.0.1:0"} | changes)
        headers = {} if header is None else {"authorization": header}
        return Doorkeeper(settings).knows(Request("POST", "/", headers, "p", has_certificate=has_certificate))

    return ask


def test_each_way_in_is_for_those_who_have_it(knows) -> None:
    """A token is no password, a password no token, a certificate counts where one is asked for."""
    token, users = {"token": Secret(env="TOKEN")}, {"users": (OtlpUser(name="anna", password=Secret(env="PASSWORD")),)}
    assert knows(None)
    assert knows("Bearer tökén", **token)
    assert not knows("Bearer tökén", **users)
    assert not knows(basic("anna:p:w"), **token)
    assert knows(basic("anna:p:w"), **users)
    assert not knows(basic("anna:p"), **users)
    assert not knows(basic(":p:w"), **users)
    assert knows(None, has_certificate=True, tls=TLS, **token)
    assert not knows(None, tls=TLS, **token)
    assert not knows(None, has_certificate=True, **token)


@pytest.mark.parametrize("ways", ["token", "users", "both", "none"])
def test_the_challenge_names_the_ways(ways: str, knows) -> None:
    """In the order in which they are tried."""
    settings = OtlpSettings(
        name="local",
        token=Secret(env="TOKEN") if ways in {"token", "both"} else None,
        users=(OtlpUser(name="anna", password=Secret(env="PASSWORD")),) if ways in {"users", "both"} else (),
    )
    parts = Doorkeeper(settings).challenge.split(", ")
    names = [part.split()[0] for part in parts if part[:1].isupper()]
    assert names == {"token": ["Bearer"], "users": ["Basic"], "both": ["Bearer", "Basic"], "none": []}[ways]
