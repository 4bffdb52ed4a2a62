"""Secrets by reference: read from one place, shown nowhere."""

from __future__ import annotations

import msgspec
import pytest

from gateway.net.secrets import Hidden, NotHereError, Secret


def test_a_secret_is_in_the_environment(monkeypatch) -> None:
    """By the variable's name."""
    monkeypatch.setenv("OTLP_TOKEN", "geheim")
    assert Secret(env="OTLP_TOKEN").read() == "geheim"
    monkeypatch.delenv("OTLP_TOKEN")
    with pytest.raises(ValueError, match="the environment variable OTLP_TOKEN is not set"):
        Secret(env="OTLP_TOKEN").read()


def test_a_secret_is_in_a_file(tmp_path) -> None:
    """Without the newline that an editor leaves."""
    (tmp_path / "token").write_text("geheim\n")
    assert Secret(file=str(tmp_path / "token")).read() == "geheim"


def test_a_secret_is_a_systemd_credential(tmp_path, monkeypatch) -> None:
    """In the directory that systemd names."""
    (tmp_path / "token").write_text("geheim")
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(tmp_path))
    assert Secret(credential="token").read() == "geheim"
    monkeypatch.delenv("CREDENTIALS_DIRECTORY")
    with pytest.raises(ValueError, match=r"no systemd credentials here \(LoadCredential=token"):
        Secret(credential="token").read()


def test_a_file_that_cannot_be_read_is_named_and_its_content_is_not(tmp_path) -> None:
    """Missing, or not text."""
    with pytest.raises(ValueError, match=r"cannot read the secret .*none: No such file or directory"):
        Secret(file=str(tmp_path / "none")).read()
    (tmp_path / "binary").write_bytes(b"geheim\xff")
    with pytest.raises(ValueError, match=r"binary: it is not text \(UTF-8\)$") as caught:
        Secret(file=str(tmp_path / "binary")).read()
    assert "geheim" not in str(caught.value)


@pytest.mark.parametrize("content", ["", "\n", " \t\n"])
def test_an_empty_secret_is_none(tmp_path, monkeypatch, content: str) -> None:
    """A port with an empty token, or a user with an empty password, would be open to everybody."""
    (tmp_path / "token").write_text(content)
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(tmp_path))
    for secret in (Secret(file=str(tmp_path / "token")), Secret(credential="token")):
        with pytest.raises(ValueError, match=r"the secret .*token is empty, and no secret is"):
            secret.read()
    monkeypatch.setenv("TOKEN", "")
    with pytest.raises(NotHereError, match="the environment variable TOKEN is empty"):
        Secret(env="TOKEN").read()


@pytest.mark.parametrize("places", [{}, {"env": "A", "file": "b"}, {"env": "A", "file": "b", "credential": "c"}])
def test_exactly_one_place(places: dict[str, str]) -> None:
    """None or two are refused with what would be right."""
    with pytest.raises(ValueError, match="a secret is "):
        Secret(**places)
    with pytest.raises(msgspec.ValidationError, match="a secret is "):
        msgspec.convert(places, Secret)


def test_a_repr_shows_the_place_alone(monkeypatch) -> None:
    """Never what stands there."""
    monkeypatch.setenv("OTLP_TOKEN", "geheim")
    secret = Secret(env="OTLP_TOKEN")
    secret.read()
    assert "geheim" not in repr(secret)


def test_an_entry_of_a_list_is_one_of_its_values(monkeypatch: pytest.MonkeyPatch) -> None:
    """As OpenTelemetry's variables for headers have them: with commas between, percent-encoded."""
    monkeypatch.setenv("HEADERS", "authorization=Bearer%20a%2Cb, tenant = 7 ,,")
    assert Secret(env="HEADERS", entry="authorization").read() == "Bearer a,b"
    assert Secret(env="HEADERS", entry="tenant").read() == "7"


@pytest.mark.parametrize(
    ("text", "sentence"),
    [("a=b", "has no entry 'x', or an empty one"), ("x=", "has no entry 'x'"), ("a=b,s3cret", "its entry 2 is none")],
)
def test_an_entry_that_is_not_there_is_named(monkeypatch: pytest.MonkeyPatch, text: str, sentence: str) -> None:
    """Without what stands there instead."""
    monkeypatch.setenv("HEADERS", text)
    with pytest.raises(ValueError, match=f"^HEADERS .*{sentence}") as caught:
        Secret(env="HEADERS", entry="x").read()
    assert "s3cret" not in str(caught.value)


def test_what_a_far_side_says_has_no_secret_in_it() -> None:
    """Whole or word by word, as long as it was; short words are none."""
    hidden = Hidden(["Bearer abcdefgh", "abcdefghijkl"])
    assert hidden.out_of("a Bearer abcdefgh, abcdefgh; abcdefghijkl") == "a ***************, ********; ************"
    assert hidden.out_of("'abcdefghijk' of abcdefgh") == "'***********' of ********"
    assert hidden.out_of_bytes(b"\xff Bearer: abcdefgh") == b"\xff Bearer: ********"
    assert hidden.out_of_headers({"a": "abcdefgh", "b": "c"}) == {"a": "********", "b": "c"}
    assert Hidden().out_of_headers({"a": "b"}) == {"a": "b"}
