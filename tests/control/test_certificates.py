"""What `tidegate check` says of TLS files: that they are there and are what `run` can use, or that nobody knows here."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from gateway.control.certificates import look_at_certificates
from gateway.control.config import Config
from gateway.control.reading import read_parts
from hil.certificates import Authority
from hil.needs import require_tool

if TYPE_CHECKING:
    from collections.abc import Callable

USER = {"name": "a", "password": {"env": "A"}, "topics": ["#"]}


def server(tls: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {"type": "mqtt_server", "name": "direct", "tls": tls, "users": [USER], **more}


def subscriber(tls: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {"type": "mqtt", "name": "plant", "url": "mqtts://broker", "topics": ["#"], "tls": tls, **more}


def uplink(tls: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {"type": "otlp", "name": "cloud", "endpoint": "https://otel.example", "tls": tls, **more}


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Files that are right, one that is missing, one that is no PEM, and a key that wants a password."""
    folder = tmp_path_factory.mktemp("certificates")
    authority = Authority(folder)
    identity, other = authority.issue(), authority.issue("other")
    (folder / "text.pem").write_text("no certificate")
    locked = folder / "locked.key"
    command = [require_tool("openssl", package="openssl"), "ec", "-aes256", "-passout", "pass:x"]
    subprocess.run([*command, "-in", identity.key, "-out", locked], check=True, capture_output=True)
    return {
        "ca": str(authority.certificate), "cert": str(identity.certificate), "key": str(identity.key),
        "other": str(other.key), "text": str(folder / "text.pem"), "locked": str(locked),
        "none": str(folder / "none.pem"), "folder": str(folder),
    }  # fmt: skip


@pytest.fixture
def look(files: dict[str, str]) -> Callable[..., tuple[list[str], list[str]]]:
    """Return what is wrong, and what is not to be seen here, of sources and uplinks, with short names of files."""

    def said(**sections: Any) -> tuple[list[str], list[str]]:
        wrong, not_here = look_at_certificates(read_parts(sections, Config))
        found = []
        for problems in (wrong, not_here):
            texts = [str(problem) for problem in problems]
            for name in sorted(files, key=lambda name: -len(files[name])):
                texts = [text.replace(files[name], name) for text in texts]
            found.append(texts)
        return found[0], found[1]

    return said


def test_files_that_are_right_are_fine(look, files) -> None:
    """For each kind of part that has some; where none is named, nothing is looked at."""
    own = {"cert_file": files["cert"], "key_file": files["key"]}
    sources = [server(own | {"client_ca_file": files["ca"]}), subscriber(own | {"ca_file": files["ca"]})]
    assert look(sources=sources, uplinks=[uplink(own | {"ca_file": files["ca"]})]) == ([], [])
    plain = {"type": "mqtt_server", "name": "plain"}
    assert look(sources=[plain, subscriber({}, url="mqtt://broker")], uplinks=[uplink({})]) == ([], [])


def test_a_receivers_files_are_looked_at(look, files) -> None:
    """As those of an MQTT server."""
    receiver = {"type": "otlp", "name": "local"}
    good, other = ({"cert_file": files["cert"], "key_file": files[key]} for key in ("key", "other"))
    assert look(sources=[receiver, receiver | {"tls": good | {"client_ca_file": files["ca"]}}]) == ([], [])
    (found,), _ = look(sources=[receiver | {"tls": other}])
    assert found.startswith("sources[0].tls: ")


def test_those_of_an_uplink_to_a_broker_are_looked_at(look, files) -> None:
    """As those of a receiver."""
    broker = {"type": "mqtt", "name": "broker", "url": "mqtts://broker"}
    assert look(uplinks=[broker | {"tls": {"ca_file": files["ca"]}}]) == ([], [])
    (found,), _ = look(uplinks=[broker | {"tls": {"ca_file": files["text"]}}])
    assert found.startswith("uplinks[0].tls: text: not PEM files that belong together (")


def test_a_file_that_is_missing_is_a_problem(look, files) -> None:
    """Each of them, with the key that names it."""
    gone = {"cert_file": files["none"], "key_file": files["none"]}
    sources = [server(gone), subscriber({"ca_file": files["none"]})]
    found, not_here = look(sources=sources, uplinks=[uplink({"ca_file": files["none"]}), uplink({"ca_file": "/"})])
    assert not_here == []
    assert found == [
        "sources[0].tls.cert_file: there is no file none",
        "sources[0].tls.key_file: there is no file none",
        "sources[1].tls.ca_file: there is no file none",
        "uplinks[0].tls.ca_file: there is no file none",
        "uplinks[1].tls.ca_file: / is not a file that can be read: Is a directory",
    ]


def test_a_file_that_is_something_else_is_a_problem(look, files) -> None:
    """No PEM, a key of another certificate, a key that wants a password, which nobody is asked for."""
    text = {"ca_file": files["text"]}
    other = {"cert_file": files["cert"], "key_file": files["other"]}
    locked = {"cert_file": files["cert"], "key_file": files["locked"]}
    found, not_here = look(
        sources=[server(other), server(locked), subscriber(text), subscriber(other)],
        uplinks=[uplink(text), uplink(other), uplink(locked)],
    )
    assert not_here == []
    assert [line.partition(": ")[0] for line in found] == [
        *(f"sources[{k}].tls" for k in range(4)), *(f"uplinks[{k}].tls" for k in range(3))
    ]  # fmt: skip
    assert found[0].startswith("sources[0].tls: cannot use cert, other: ")
    assert "Errno" not in found[1], "OpenSSL has asked on the terminal"
    assert found[2].startswith("sources[2].tls: ca_file text: not PEM files that belong together")
    assert found[4].startswith("uplinks[0].tls: text: not PEM files that belong together (")
    assert found[5].startswith("uplinks[1].tls: cert, other: not PEM files that belong together (")


def test_a_file_that_another_user_may_read_is_not_known_here(look, files, monkeypatch) -> None:
    """It is not tried then, and is no problem."""
    opened = Path.open

    def refuse(path: Path, *words: Any) -> Any:
        if str(path) == files["key"]:
            raise PermissionError(13, "Permission denied")
        return opened(path, *words)

    monkeypatch.setattr(Path, "open", refuse)
    own = {"cert_file": files["cert"], "key_file": files["key"]}
    assert look(sources=[server(own)]) == ([], ["sources[0].tls.key_file: this user may not read key"])


def test_a_part_that_is_wrong_otherwise_is_looked_at_when_it_is_right(look, files) -> None:
    """As is a file that has no use, with an address that needs none."""
    assert look(sources=[server({"cert_file": files["none"], "key_file": "x"}, listen="here")]) == ([], [])
    assert look(uplinks=[uplink({"ca_file": files["none"]}, endpoint="http://127.0.0.1:4318")]) == ([], [])
