"""What `tidegate check` says of a file, in one round."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from gateway.control.check import check
from gateway.control.config import ConfigError, load
from gateway.control.reading import PROBLEMS_MAX
from gateway.core.checks import Problem

if TYPE_CHECKING:
    from collections.abc import Callable

CLIMATE = """
[[mappings]]
match = "plant/{device}/climate"
resource = { "device.id" = "{device}" }
metrics = [ { field = "temp", name = "temperature" } ]
"""
RIGHT = """examples = [ { topic = "plant/d/climate", payload = '{"temp":20}', gives = { temperature = 20 } } ]\n"""
WRONG = RIGHT.replace("gives = { temperature = 20 }", "gives = { temperature = 99 }")
IS_20 = "temperature should be 99, is 20"

EVERYTHING = """
[gateway]
state_dir = "STATE"
hw_profile = "toaster"

[[sources]]
type = "mqtt"
name = "plant"
url = "http://broker"
topics = ["plant/#", "a#", "#/b"]
qos = "1"
keepalive = "0s"

[[sources]]
type = "mqtt"
name = "plant"
url = "mqtt://broker"
topics = ["b"]
password = { env = "NOT_SET_HERE" }
username = "me"

[[sources]]
type = "mqtt_server"
name = "direct"
listen = "0.0.0.0:8181"

[[sources]]
type = "serial"
name = "line1"
port = "/dev/ttyNONE"
payload = "sparkplug"

[[mappings]]
match = "bulk/{device}"
metrics = [ { field = "v", name = "{machine}", scale = 0 } ]

[[mappings]]
match = "plant/{device}/climate"
metrics = [ { field = "temp", name = "temperature" } ]
examples = [
  { topic = "plant/d/climate" },
  { topic = "plant/d/climate", payload = '{"temp":20}', gives = { temperature = 99 } },
]

[store]
max_bytes = "1KiB"
max_age = "0s"

[[uplinks]]
type = "otlp"
name = "cloud"
endpoint = "https://otel.example/v1/metrics"
compression = "brotli"
headers = { authorization = "Bearer hunter2", x-key = { env = "NOT_SET_HERE" } }

[control]
listen = "0.0.0.0:8181"
"""


@pytest.fixture
def problems(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], list[str]]:
    """Return what is wrong with a configuration; one that says nothing of it has a state directory that works."""
    monkeypatch.delenv("NOT_SET_HERE", raising=False)

    def said(text: str) -> list[str]:
        path = tmp_path / "tidegate.toml"
        state = str(tmp_path / "state")
        head = "" if "[gateway]" in text else f"[gateway]\nstate_dir = {json.dumps(state)}\n"
        path.write_text(head + text.replace("STATE", state), encoding="utf-8")
        with pytest.raises(ConfigError) as caught:
            check(path)
        return caught.value.problems

    return said


def test_one_round_says_everything(problems) -> None:
    """In the order of the file, each problem once, and nothing that only follows from another one."""
    found = problems(EVERYTHING)
    assert [problem.split(": ")[0] for problem in found] == [
        "gateway.hw_profile",
        "sources[0].url",
        "sources[0].topics[1]",
        "sources[0].topics[2]",
        "sources[0].qos",
        "sources[0].keepalive",
        "sources[1].name",
        "sources[2].listen",
        "sources[3].payload",
        "mappings[0].metrics[0].name",
        "mappings[0].metrics[0].scale",
        "mappings[1].examples[0]",
        "mappings[1].examples[1]",
        "store.max_bytes",
        "store.max_age",
        "uplinks[0].endpoint",
        "uplinks[0].compression",
        "uplinks[0].headers.authorization",
        "control.listen",
        "control.listen",
    ]
    assert "hunter2" not in "".join(found)
    assert found[12].endswith(IS_20)
    assert "which other machines reach" in found[18]
    assert "is taken by sources[2].listen" in found[19]


HEADERS = '[[uplinks]]\ntype = "otlp"\nname = "c"\nendpoint = "https://e:1"\nheaders = { a = SECRET }\n'


@pytest.fixture
def noted(tmp_path: Path) -> Callable[[str], list[str]]:
    """Return what is noted of a configuration that is right; the disk and the board are not of interest."""

    def said(text: str) -> list[str]:
        path = tmp_path / "tidegate.toml"
        path.write_text(f"[gateway]\nstate_dir = {json.dumps(str(tmp_path))}\n{text}", encoding="utf-8")
        return [note for note in check(path).notes if note.startswith(("sources[", "mappings[", "uplinks["))]

    return said


def test_a_secret_that_the_service_may_have_is_a_note(problems, noted, tmp_path: Path, monkeypatch) -> None:
    """Who types `check` has another environment than the service, and no credentials; `run` needs them."""
    monkeypatch.delenv("CREDENTIALS_DIRECTORY", raising=False)
    monkeypatch.delenv("NOT_SET_HERE", raising=False)
    text = HEADERS.replace("SECRET", '{ env = "NOT_SET_HERE" }, b = { credential = "token" }')
    assert noted(text) == [
        "uplinks[0].headers.a: the environment variable NOT_SET_HERE is not set; that may differ where the gateway "
        "runs, which does not start without it",
        "uplinks[0].headers.b: no systemd credentials here (LoadCredential=token:… is missing); that may differ where "
        "the gateway runs, which does not start without it",
    ]
    with pytest.raises(ConfigError) as caught:
        load(tmp_path / "tidegate.toml", to_run=True)
    assert [problem.partition(":")[0] for problem in caught.value.problems] == [
        "uplinks[0].headers.a",
        "uplinks[0].headers.b",
    ]
    monkeypatch.setenv("NOT_SET_HERE", "x")
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(tmp_path))
    assert problems(text) == [
        f"uplinks[0].headers.b: cannot read the secret {tmp_path}/token: No such file or directory"
    ]
    (tmp_path / "token").write_text("geheim", encoding="utf-8")
    assert noted(text) == []


def test_a_secret_that_another_user_may_read_is_a_note(problems, noted, monkeypatch) -> None:
    """One that nobody can read, because it is not there, is a problem."""
    assert problems(HEADERS.replace("SECRET", '{ file = "/nowhere" }')) == [
        "uplinks[0].headers.a: cannot read the secret /nowhere: No such file or directory"
    ]

    read = Path.read_text

    def refuse(path: Path, **words: Any) -> str:
        if path.name == "private":
            raise PermissionError(13, "Permission denied")
        return read(path, **words)

    monkeypatch.setattr(Path, "read_text", refuse)
    (note,) = noted(HEADERS.replace("SECRET", '{ file = "/private" }'))
    assert note.startswith("uplinks[0].headers.a: cannot read the secret /private: Permission denied; that may differ")


def test_certificates_are_looked_at(problems, noted, tmp_path: Path, monkeypatch) -> None:
    """In the same round as all else; `run` would not start, or never connect."""
    tls = 'tls = { ca_file = "/nowhere/ca.pem" }\n'
    assert problems(HEADERS.replace("SECRET", '{ file = "/nowhere" }') + tls) == [
        "uplinks[0].headers.a: cannot read the secret /nowhere: No such file or directory",
        "uplinks[0].tls.ca_file: there is no file /nowhere/ca.pem",
    ]
    monkeypatch.setattr("gateway.control.check.look_at_certificates", lambda _: ([], [Problem("uplinks[0].tls", "x")]))
    (note,) = noted(HEADERS.replace("a = SECRET", ""))
    assert note.startswith("uplinks[0].tls: x; that may differ where the gateway runs")


def test_a_file_that_is_right_has_notes(tmp_path: Path) -> None:
    """And a hardware profile."""
    path = tmp_path / "tidegate.toml"
    path.write_text(f"[gateway]\nstate_dir = {json.dumps(str(tmp_path))}\nhw_profile = 'pi-4'\n{CLIMATE}{RIGHT}")
    found = check(path)
    assert (found.profile, len(found.config.mappings)) == ("pi-4", 1)
    assert [note.split(":")[0] for note in found.notes][:2] == ["sources", "uplinks"]


@pytest.mark.parametrize(
    ("text", "found"),
    [
        # A mapping that is not right is not tried, the others are.
        (
            CLIMATE + "drop = 1\n" + WRONG + CLIMATE.replace("plant", "other") + WRONG.replace("plant", "other"),
            ["mappings[0].drop: expected true or false, got a whole number", f"mappings[1].examples[0]: {IS_20}"],
        ),
        # What it takes is known all the same, and taken from those behind it.
        (
            CLIMATE + "drop = 1\n" + CLIMATE + RIGHT,
            [
                "mappings[0].drop: expected true or false, got a whole number",
                "mappings[1].examples[0]: mappings[0] takes the topic 'plant/d/climate' first; put this mapping before it",
            ],
        ),
        # But for one of which nobody knows what it takes.
        (
            CLIMATE.replace("match", "mach") + CLIMATE + RIGHT,
            ['mappings[0].mach: unknown key; did you mean "match"?'],
        ),
        (
            CLIMATE + "source = 1\n" + CLIMATE + RIGHT,
            ["mappings[0].source: expected a text in quotes, got a whole number"],
        ),
        # A mistyped key, which may be the one that is missed.
        (
            '[[uplinks]]\ntype = "otlp"\nnme = "c"\nendpont = "https://e:1"\n',
            [
                'uplinks[0].nme: unknown key; did you mean "name"?',
                'uplinks[0].endpont: unknown key; did you mean "endpoint"?',
            ],
        ),
        (
            '[[sources]]\ntype = "mqtt_server"\nname = "a"\nlisten = "0.0.0.0:1884"\nuser = []\n',
            ['sources[0].user: unknown key; did you mean "users"?'],
        ),
        # Several addresses instead of the one; what else is missing is missing.
        (
            '[[uplinks]]\ntype = "otlp"\nendpoints = ["https://e:1"]\n',
            ["uplinks[0].name: is missing; What status, metrics and the ledger call it."],
        ),
        # What is wrong with one of several is said with its place, and those that can be read are compared.
        (
            '[[uplinks]]\ntype = "otlp"\nname = "a"\nendpoints = ["https://e:1", { url = "e:2" }, 7, { weight = 0 }, '
            '"https://E:1/"]\n',
            [
                "uplinks[0].endpoints[1].url: 'e:2' is not an address like http://host:port or https://host:port",
                "uplinks[0].endpoints[2]: expected a text in quotes or a table { … }, got a whole number",
                "uplinks[0].endpoints[3].weight: expected a whole number of at least 1, got 0",
                "uplinks[0].endpoints[3].url: is missing; Base address, http:// or https://.",
                "uplinks[0].endpoints[4]: is the same receiver as endpoints[0]; leave it out, or give that one a weight",
            ],
        ),
        # Two addresses that are none, two ports that are none: nothing to compare.
        (
            '[[sources]]\ntype = "mqtt_server"\nname = "a"\nlisten = "x"\n[control]\nlisten = "x"\n',
            [
                "sources[0].listen: 'x' is not HOST:PORT, like \"127.0.0.1:8181\"",
                "control.listen: 'x' is not HOST:PORT, like \"127.0.0.1:8181\"",
            ],
        ),
    ],
)
def test_what_follows_from_a_problem_is_not_said(problems, text: str, found: list[str]) -> None:
    """Nor is anything else left out."""
    assert problems(text) == found


def test_a_profile_says_all_that_is_wrong_with_it(problems, tmp_path: Path) -> None:
    """Each in a line of its own with the setting that names the file."""
    (tmp_path / "mine.toml").write_text('description = "mine"\nthreads = 0\n')
    found = problems(f'[gateway]\nstate_dir = "STATE"\nhw_profile = "{tmp_path}/mine.toml"\n')
    assert len(found) > 2
    assert all(line.startswith(f"gateway.hw_profile: {tmp_path}/mine.toml: ") for line in found)


@pytest.mark.parametrize("path", ["a\\u0000.toml", "/\\u0000/x"])
def test_a_path_with_a_nul_is_a_sentence(problems, path: str) -> None:
    """Python refuses it in its own way."""
    (found,) = problems(f'[gateway]\nstate_dir = "STATE"\nhw_profile = "{path}"\n')
    assert found.startswith("gateway.hw_profile: ")
    (found,) = problems(f'[gateway]\nstate_dir = "/{path}"\n')
    assert found == "gateway.state_dir: has a NUL in it, which no path can have"


def rubbish() -> list[Any]:
    """Return files in which everything is wrong."""
    uplink = '[[uplinks]]\ntype = "otlp"\nname = "a"\nendpoint = "http://127.0.0.1:1"\n'
    example = "{ topic = 'plant/d/climate', payload = '{}', gives = { a = 1, b = 2, c = 3 } }"
    literals = ", ".join(f'token{n} = "x"' for n in range(2000))
    secrets = ", ".join(f'h{n} = {{ file = "/nowhere" }}' for n in range(500))
    return [
        pytest.param("\n".join(f"key{n} = 1" for n in range(5000)), id="keys"),
        pytest.param(uplink + f"headers = {{ {literals} }}", id="literals"),
        pytest.param(uplink + f"headers = {{ {secrets} }}", id="secrets"),
        pytest.param("[[sources]]\n" * 1000, id="tables"),
        pytest.param(CLIMATE + f"examples = [ {', '.join([example] * 200)} ]", id="examples"),
    ]


@pytest.mark.parametrize("text", rubbish())
def test_what_is_said_is_bounded(problems, text: str) -> None:
    """Whatever is wrong, and whoever finds it."""
    assert len(problems(text if text.startswith("[") else f'{text}\n[gateway]\nstate_dir = "STATE"')) == PROBLEMS_MAX
