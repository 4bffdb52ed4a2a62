"""The commands as people type them: what is printed where, and the exit codes that scripts rely on."""

from __future__ import annotations

import contextlib
import json
import os
import sqlite3
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import cbor2
import numpy as np
import pytest

from gateway import __version__, cli
from gateway.codecs.framing import encode_data
from gateway.core.batch import MONOTONIC, Batch, Series
from gateway.core.clock import FakeClock, SystemClock
from gateway.core.contracts import Priority
from gateway.core.telemetry import Telemetry
from gateway.store.database import SetAside, Store, StoreSettings
from gateway.store.reached import REACHED
from hil.web_page import answering

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator
    from pathlib import Path

MAPPING = """
[[mappings]]
match = "plant/{device}/climate"
payload = "json"
resource = { "device.id" = "{device}" }
metrics = [ { field = "temp", name = "temperature", unit = "Cel" } ]
examples = [ { topic = "plant/d1/climate", payload = '{"temp":20.5}', gives = { temperature = 20.5 } } ]
"""
SERIAL = """
[[sources]]
type = "serial"
name = "line1"
port = "/dev/ttyNONE"
framing = "cobs"
"""


@pytest.fixture
def write(tmp_path: Path) -> Callable[..., str]:
    """Write a configuration, return its path as it is typed."""

    def config(text: str = "", *, gateway: str = "") -> str:
        path = tmp_path / "tidegate.toml"
        path.write_text(
            f"[gateway]\nstate_dir = {json.dumps(str(tmp_path / 'state'))}\n{gateway}\n{text}", encoding="utf-8"
        )
        return str(path)

    return config


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    """Run a command in this process; return its exit code, what it printed, and what it complained about."""

    def command(*arguments: object) -> tuple[int, str, str]:
        try:
            code = cli.main([str(argument) for argument in arguments])
        except SystemExit as end:
            code = int(end.code or 0)
        said = capsys.readouterr()
        return code, said.out, said.err

    return command


COMMANDS = ["demo", "init", "check", "run", "explain", "status", "quarantine", "verify", "export", "size", "schema"]
COMMANDS += ["bench", "trace"]


def test_every_command_of_the_manual_is_there(run) -> None:
    """With a sentence each; and each explains its own options."""
    code, out, _ = run("--help")
    assert code == 0
    for name in COMMANDS:
        assert f"    {name} " in out
        assert run(name, "--help")[0] == 0


def test_the_version(run) -> None:
    """As the package says it."""
    assert run("--version")[:2] == (0, f"tidegate {__version__}\n")


@pytest.mark.parametrize("arguments", [(), ("dance",), ("run", "--fast"), ("size",), ("demo", "--seconds", "long")])
def test_bad_usage_is_2(run, arguments: tuple[str, ...]) -> None:
    """On stderr, with how it is used."""
    code, out, err = run(*arguments)
    assert (code, out) == (2, "")
    assert "usage: tidegate" in err


@pytest.mark.parametrize("seconds", ["-1", "0", "nan", "inf", "86400"])
def test_a_demo_takes_a_sensible_time(run, seconds: str) -> None:
    """Or says what would be."""
    code, _, err = run("demo", "--seconds", seconds)
    assert code == 2
    assert err == "tidegate: --seconds takes a number above 0, up to 3600\n"


@pytest.mark.parametrize("seconds", ["0.5", "3600"])
def test_a_demo_takes_what_it_says_it_takes(run, monkeypatch: pytest.MonkeyPatch, seconds: str) -> None:
    """The bound that is named is within."""
    monkeypatch.setattr("gateway.simulator.demo.demo", lambda **_: 0)
    assert run("demo", "--seconds", seconds) == (0, "", "")


def test_the_demo_is_told_as_asked(run, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its exit code is the command's."""
    monkeypatch.setattr(
        "gateway.simulator.demo.demo", lambda *, seconds, keep: 1 if (seconds, keep) == (20, True) else 9
    )
    assert run("demo", "--seconds", "20", "--keep")[0] == 1


def test_the_start_is_cheap() -> None:
    """Asking for help imports neither numpy nor anything else that is heavy."""
    code = (
        "import sys; from gateway.cli import main\ntry: main(['--help'])\nexcept SystemExit: pass\nprint(*sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not {"numpy", "asyncio", "msgspec", "sqlite3"} & set(done.stdout.splitlines()[-1].split())


def test_a_running_gateway_imports_what_is_configured(write) -> None:
    """paho, pyserial, detectors, prometheus and TLS clients are memory: nothing of them without a reason."""
    code = """
import sys
from gateway import cli
from gateway import app
from gateway.control.config import load
from gateway.control.profiles import load as profile
from gateway.core.clock import SystemClock
import asyncio, pathlib
async def main():
    gateway = app.Gateway(load(pathlib.Path(sys.argv[1])), profile("auto"), clock=SystemClock())
    task = asyncio.create_task(gateway.run())
    await gateway.ready.wait()
    gateway.stop()
    await task
asyncio.run(main())
print(*sys.modules)
"""
    text = '[[sources]]\ntype = "mqtt_server"\nname = "direct"\nlisten = "127.0.0.1:0"\n'
    text += '[control]\nlisten = "127.0.0.1:0"\n'
    done = subprocess.run([sys.executable, "-c", code, write(text)], capture_output=True, text=True, check=True)
    loaded = set(done.stdout.splitlines()[-1].split())
    assert not {"paho", "serial", "prometheus_client", "urllib3", "google.protobuf", "cryptography"} & loaded
    # What looks at a store from outside brings temporary files and three compressors along: 0.8 MB.
    assert not {"gateway.store.reading", "shutil", "tempfile", "lzma"} & loaded
    assert "gateway.detect.engine" not in loaded
    assert "gateway.sources.mqtt_server" in loaded


@pytest.mark.parametrize(
    "arguments", [[], ["-c", "x.toml"], ["--config", "y", "--log-level", "debug"], ["-c", "a", "-c", "b"]]
)
def test_the_daemons_command_line_is_read_as_argparse_reads_it(arguments: list[str]) -> None:
    """Without loading it."""
    quick = cli.plain_run(["run", *arguments])
    assert quick is not None
    assert vars(quick) == vars(cli.parser().parse_args(["run", *arguments]))


@pytest.mark.parametrize(
    "arguments",
    [["check"], [], ["run", "-h"], ["run", "-c"], ["run", "x"], ["run", "--log-level", "loud"], ["run", "-c", "-x"]],
)
def test_all_else_is_argparses_to_explain(arguments: list[str]) -> None:
    """Other commands, help, and what is wrong."""
    assert cli.plain_run(arguments) is None


def test_a_missing_library_is_a_sentence(run, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not a traceback; a module of our own that is missing is our mistake, and is one."""

    def missing(name: str) -> Callable[[object], int]:
        def command(_: object) -> int:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

        return command

    monkeypatch.setattr(cli, "run_schema", missing("cbor2"))
    code, _, err = run("schema")
    assert (code, err) == (1, "tidegate: the Python package 'cbor2' is missing; install tidegate again\n")
    monkeypatch.setattr(cli, "run_schema", missing("gateway.nowhere"))
    with pytest.raises(ModuleNotFoundError):
        run("schema")


def in_a_shell(line: str) -> subprocess.CompletedProcess[str]:
    """Run as users do, with output that waits in a buffer."""
    return subprocess.run(
        f"{sys.executable} -m gateway {line}; exit ${{PIPESTATUS[0]}}",
        shell=True, executable="/bin/bash", capture_output=True, text=True, check=False,
        env={name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"},
    )  # fmt: skip


@pytest.mark.parametrize("command", ["schema", "size --rate 1/s --outage 1h"])
def test_a_reader_that_goes_away_is_no_error(command: str) -> None:
    """As `| head` does, whether it goes before all is written or when little waits for the end."""
    done = in_a_shell(f"{command} | head -c 0")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_a_letter_that_the_terminal_does_not_know_is_a_question_mark(write: Callable[..., str]) -> None:
    """And not the end of the command: the demo's marks, a unit, a topic from somewhere else."""
    done = subprocess.run(
        [sys.executable, "-m", "gateway", "explain", "-c", write(), "--topic", "a/\u00b0", "--payload", "1"],
        capture_output=True, env={**os.environ, "PYTHONIOENCODING": "ascii"}, check=False, timeout=60,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (cli.FINE, b"")
    assert b"topic    a/?\n" in done.stdout


def test_output_that_cannot_be_written_is_a_sentence() -> None:
    """To a disk that is full."""
    done = in_a_shell("schema > /dev/full")
    assert (done.returncode, done.stderr) == (1, "tidegate: [Errno 28] No space left on device\n")


def test_ctrl_c_is_130(run, monkeypatch: pytest.MonkeyPatch) -> None:
    """As shells have it."""

    def interrupted(_: object) -> int:
        raise KeyboardInterrupt

    monkeypatch.setattr(cli, "run_schema", interrupted)
    assert run("schema")[0] == 130


# init and check


def test_what_init_writes_passes_the_check(run, tmp_path: Path) -> None:
    """The two commands that README names, one after the other."""
    out = tmp_path / "new.toml"
    code, said, _ = run(
        "init", "--out", out, "--endpoint", "https://otel.example:4318", "--state-dir", tmp_path, "--yes"
    )
    assert code == 0
    assert f"tidegate check -c {out}" in said
    code, said, err = run("check", "-c", out)
    assert (code, err) == (0, "")
    assert "fine. 1 source, no mappings (every number is taken), 1 uplink" in said


def test_init_overwrites_nothing(run, tmp_path: Path) -> None:
    """Nor does it write what cannot be loaded, nor where it cannot."""
    out = tmp_path / "there.toml"
    out.write_text("mine", encoding="utf-8")
    assert run("init", "--out", out, "--yes")[0] == 2
    assert out.read_text(encoding="utf-8") == "mine"
    code, _, err = run("init", "--out", tmp_path / "new.toml", "--endpoint", "nonsense", "--yes")
    assert code == 2
    assert err.startswith("tidegate: nothing was written: uplinks[0]")
    assert not (tmp_path / "new.toml").exists()
    code, _, err = run("init", "--out", tmp_path / "no" / "where.toml", "--yes")
    assert (code, err) == (2, f"tidegate: cannot write {tmp_path}/no/where.toml: No such file or directory\n")
    # A place that cannot even be looked at, like a folder of somebody else's.
    code, _, err = run("init", "--out", tmp_path / ("x" * 300), "--yes")
    assert (code, err) == (2, f"tidegate: cannot write {tmp_path / ('x' * 300)}: File name too long\n")


def test_init_asks_on_a_terminal(run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And an end of input is no answer."""
    monkeypatch.setattr(sys.stdin, "isatty", lambda: True, raising=False)
    answers = iter(["https://otel.example:4318", "", "", ""])
    monkeypatch.setattr("builtins.input", lambda _: next(answers))
    out = tmp_path / "asked.toml"
    assert run("init", "--out", out)[0] == 0
    assert 'endpoint = "https://otel.example:4318"' in out.read_text(encoding="utf-8")

    def end(_: str) -> str:
        raise EOFError

    monkeypatch.setattr("builtins.input", end)
    code, _, err = run("init", "--out", tmp_path / "ended.toml")
    assert (code, err) == (2, "tidegate: no answer; nothing was written\n")


def test_check_says_every_problem_at_once(run, write) -> None:
    """On stderr, one line each with its path; exit code 2."""
    bad = '[store]\nmax_bytes = "lots"\n[[sources]]\ntype = "mqtt_server"\nname = "a"\nlisen = "x"\n'
    bad += '[[uplinks]]\ntype = "otlp"\n'
    code, out, err = run("check", "-c", write(bad))
    assert (code, out) == (2, "")
    assert err.startswith("tidegate: the configuration has problems:\n")
    for path in ("store.max_bytes: ", "sources[0].lisen: ", "uplinks[0].name: ", "uplinks[0].endpoint: "):
        assert f"\n{path}" in err


def test_check_needs_one_round(run, write) -> None:
    """A bad value hides neither what is wrong beside it, nor what other rooms would say."""
    text = """
    [[sources]]
    type = "mqtt"
    name = "plant"
    url = "http://broker"
    topics = ["plant/#"]
    qos = "1"
    [[uplinks]]
    type = "otlp"
    name = "cloud"
    endpoint = "https://otel.example/v1/metrics"
    compression = "brotli"
    headers = { authorization = "Bearer hunter2" }
    """
    wrong = MAPPING.replace("gives = { temperature = 20.5 }", "gives = { temperature = 99 }")
    code, out, err = run("check", "-c", write(text + wrong, gateway='hw_profile = "toaster"'))
    assert (code, out) == (2, "")
    first, *lines = err.splitlines()
    assert first == "tidegate: the configuration has problems:"
    assert [line.split(": ")[0] for line in lines] == [
        "gateway.hw_profile",
        "sources[0].url",
        "sources[0].qos",
        "uplinks[0].endpoint",
        "uplinks[0].compression",
        "uplinks[0].headers.authorization",
        "mappings[0].examples[0]",
    ]
    assert lines[2] == "sources[0].qos: expected 0, 1 or 2, got a text in quotes"
    assert "hunter2" not in err


def test_check_joins_what_different_rooms_find(run, write) -> None:
    """A secret that is not there, an example that is wrong and a board that nobody knows, in the order of the file."""
    secret = (
        '[[uplinks]]\ntype = "otlp"\nname = "c"\nendpoint = "https://e:1"\nheaders = { a = { file = "/nowhere" } }\n'
    )
    wrong = MAPPING.replace("gives = { temperature = 20.5 }", "gives = { temperature = 99 }")
    code, _, err = run("check", "-c", write(secret + wrong, gateway='hw_profile = "toaster"'))
    assert code == 2
    lines = err.splitlines()[1:]
    assert len(lines) == 3
    assert lines[0].startswith("gateway.hw_profile: there is no hardware profile 'toaster'")
    assert lines[1].startswith("uplinks[0].headers.a: ")
    assert lines[2].startswith("mappings[0].examples[0]: temperature should be 99")


def test_check_notes_what_is_perhaps_not_meant(run, write) -> None:
    """Allowed, so exit code 0."""
    code, out, _ = run("check", "-c", write(MAPPING))
    assert code == 0
    assert "1 mapping (1 example right)" in out
    assert "note: sources: there are none" in out
    assert "note: uplinks: there are none" in out


def test_check_notes_a_shelf_larger_than_its_disk(run, write) -> None:
    """No disk is so large."""
    code, out, _ = run("check", "-c", write(MAPPING + '[store]\nmax_bytes = "1000000TiB"\n'))
    assert code == 0
    assert "note: store.max_bytes: 1000000TiB is more than the whole disk has (" in out


@pytest.mark.parametrize("command", ["check", "run", "explain"])
def test_a_file_that_is_not_there_is_2(run, tmp_path: Path, command: str) -> None:
    """And how to get one."""
    code, _, err = run(command, "-c", tmp_path / "none.toml")
    assert code == 2
    assert "tidegate init" in err


def test_run_gives_the_daemon_what_it_needs(run, write, monkeypatch: pytest.MonkeyPatch) -> None:
    """The configuration, a way to read it again, the log level."""
    given: dict[str, Any] = {}

    def daemon(config: Any, **rest: Any) -> int:
        given.update(rest, config=config)
        return 1

    monkeypatch.setattr("gateway.daemon.run_daemon", daemon)
    path = write(gateway='id = "one"')
    assert run("run", "-c", path, "--log-level", "debug")[0] == 1
    assert (given["config"].gateway.id, given["log_level"]) == ("one", "debug")
    write(gateway='id = "two"')
    assert given["reload"]().gateway.id == "two"


# explain


def test_explain_tells_what_comes_out(run, write) -> None:
    """Exit code 0 where everything is used."""
    code, out, _ = run("explain", "-c", write(MAPPING), "--topic", "plant/d1/climate", "--payload", '{"temp": 20.5}')
    assert code == 0
    assert "taken by mappings[0]" in out
    assert "temperature = 20.5 Cel" in out


def test_explain_needs_nothing_of_this_machine(run, write) -> None:
    """The configuration of another box can be tried here: secrets and directories are not asked for."""
    other = (
        '[[uplinks]]\ntype = "otlp"\nname = "c"\nendpoint = "https://e:1"\nheaders = { a = { env = "NOT_SET_HERE" } }\n'
    )
    path = write(other)
    assert run("explain", "-c", path, "--topic", "t", "--payload", '{"x": 1}')[0] == 0


@pytest.mark.parametrize("payload", ["{", '{"temp": "n/a"}'])
def test_explain_says_why_not(run, write, payload: str) -> None:
    """Exit code 1."""
    code, out, _ = run("explain", "-c", write(MAPPING), "--topic", "plant/d1/climate", "--payload", payload)
    assert code == 1
    assert "problem  " in out


def test_explain_takes_bytes_as_hex(run, write) -> None:
    """And text with odd bytes as it was typed."""
    path = write()
    code, out, _ = run("explain", "-c", path, "--topic", "t", "--hex", cbor2.dumps({"x": 1.5}).hex(" "))
    assert code == 0
    assert "x = 1.5" in out
    assert run("explain", "-c", path, "--topic", "t", "--payload", "\udcff")[0] == 1


@pytest.mark.parametrize(
    "arguments",
    [
        (),
        ("--topic", "t"),
        ("--payload", "1"),
        ("--topic", "t", "--payload", "1", "--hex", "00"),
        ("--topic", "t", "--port", "line1", "--hex", "00"),
        ("--topic", "t", "--hex", "zz"),
        ("--port", "line9", "--hex", "00"),
        ("--quarantined", "1", "--topic", "t"),
        ("--topic", "t", "--payload", "1", "--source", "line9"),
        ("--port", "line1", "--hex", "00", "--source", "line1"),
    ],
)
def test_explain_says_how_it_is_asked(run, write, arguments: tuple[str, ...]) -> None:
    """Exit code 2, one sentence."""
    code, out, err = run("explain", "-c", write(SERIAL), *arguments)
    assert (code, out) == (2, "")
    assert err.startswith("tidegate: ")
    assert err.count("\n") == 1


def test_explain_cuts_what_came_over_a_line(run, write) -> None:
    """Frames as the source of that name would; then each message as any other."""
    frame = encode_data(cbor2.dumps({"x": 2.5}), session=1, sequence=0, topic=b"d1")
    path = write(SERIAL)
    code, out, _ = run("explain", "-c", path, "--port", "line1", "--hex", frame.hex())
    assert code == 0
    assert "x = 2.5" in out
    assert "line1/d1" in out
    code, out, _ = run("explain", "-c", path, "--port", "line1", "--hex", "00")
    assert code == 1
    assert "no whole frame" in out


def test_explain_as_if_from_a_source(run, write) -> None:
    """A mapping may be for one source alone."""
    other = SERIAL.replace("line1", "other").replace("NONE", "OTHER")
    path = write(f'{SERIAL}{other}[[mappings]]\nmatch = "#"\nsource = "line1"\nfields = "*"\n')
    assert run("explain", "-c", path, "--topic", "t", "--source", "line1", "--payload", '{"x": 1}')[0] == 0
    code, out, _ = run("explain", "-c", path, "--topic", "t", "--source", "other", "--payload", '{"x": 1}')
    assert code == 1
    assert "the source is 'other', not 'line1'" in out


def test_explain_knows_what_goes_past_the_mappings(run, write) -> None:
    """A mapping that takes everything is not asked for OTLP requests."""
    path = write(
        '[[sources]]\ntype = "mqtt"\nname = "fleet"\nurl = "mqtt://127.0.0.1:1"\ntopics = ["tidegate/#"]\n'
        'otlp = ["tidegate/+/{signal}"]\n' + MAPPING
    )
    code, out, _ = run("explain", "-c", path, "--topic", "tidegate/a/logs", "--hex", "0a00")
    assert (code, "taken by the source fleet as an OTLP request of logs" in out) == (0, True)
    code, out, _ = run("explain", "-c", path, "--topic", "tidegate/a/logs", "--payload", '{"a": 1}')
    assert (code, "problem  this is no request of logs" in out) == (1, True)
    code, out, _ = run("explain", "-c", path, "--topic", "plant/d1/climate", "--payload", '{"temp": 20.5}')
    assert (code, "taken by mappings[0]" in out) == (0, True)


@pytest.mark.parametrize(("sources", "there"), [(SERIAL, "line1"), ("", "none is configured")])
def test_explain_knows_the_sources_that_there_are(run, write, sources: str, there: str) -> None:
    """A name that is mistyped would otherwise be told as that of a source whose messages no such mapping takes."""
    code, out, err = run("explain", "-c", write(sources), "--topic", "t", "--source", "lime1", "--payload", '{"x": 1}')
    assert (code, out, err) == (2, "", f"tidegate: no source is named 'lime1' ({there})\n")


# quarantine


@pytest.fixture
async def shelf(tmp_path: Path) -> AsyncIterator[Store]:
    """An open shelf where `write` says, with one payload in its quarantine and one refused segment."""
    store = await fill(tmp_path / "state", close=False)
    await store.append([], set_aside=[SetAside("direct", b"plant/d1", b"{", "malformed_json", "not JSON")])
    lease = await store.lease("cloud", readings_max=10, bytes_max=1 << 20)
    assert lease is not None
    store.refuse(lease, "refused", "bad name")
    await store.append([])
    yield store
    with contextlib.suppress(ValueError, sqlite3.Error, OSError):
        await store.close()


@pytest.mark.parametrize("is_running", [True, False])
async def test_the_quarantine_is_shown(run, write, shelf: Store, tmp_path: Path, is_running: bool) -> None:
    """By directory or by configuration, with and without a gateway that runs, and for programs."""
    if not is_running:
        await shelf.close()
    path, folder = write(), tmp_path / "state"
    for where in (("-c", path), ("--state-dir", folder)):
        code, out, err = run("quarantine", *where)
        assert (code, err) == (0, "")
        assert "1 payload of which not all could be used" in out
        assert "not JSON" in out
        code, out, _ = run("quarantine", "--refused", *where)
        assert code == 0
        assert "temperature = 20.5" in out
    assert f"  tidegate explain -c {path} --source direct" in run("quarantine", "-c", path)[1]
    assert "  tidegate explain --source direct" in run("quarantine", "--state-dir", folder)[1]
    assert json.loads(run("quarantine", "-c", path, "--json")[1])["payloads"][0]["payload_hex"] == "7b"
    assert json.loads(run("quarantine", "-c", path, "--json", "--refused")[1])["segments"][0]["reason"] == "refused"


async def test_a_quarantined_payload_is_explained_by_its_number(run, write, shelf: Store) -> None:
    """With its own topic and source; one that is not there is a sentence."""
    path = write()
    code, out, _ = run("explain", "-c", path, "--quarantined", 1)
    assert code == 1
    assert out.startswith("topic    plant/d1\n")
    code, out, err = run("explain", "-c", path, "--quarantined", 99)
    assert (code, out) == (1, "")
    assert "`tidegate quarantine` lists" in err


async def test_a_limit_is_a_number_from_one_on(run, shelf: Store, tmp_path: Path) -> None:
    """And an empty drawer is fine."""
    assert run("quarantine", "--state-dir", tmp_path / "state", "--limit", "0")[0] == 2
    await fill(tmp_path / "other")
    code, out, _ = run("quarantine", "--state-dir", tmp_path / "other")
    assert (code, out) == (0, "no payload of which not all could be used is set aside\n")


@pytest.mark.parametrize("command", [("quarantine",), ("verify",), ("export", "--out", "x")])
async def test_a_shelf_of_somebody_else_is_a_sentence(
    run, tmp_path: Path, command: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is private to the gateway's user: who to be is said, and nothing is missing."""
    await fill(tmp_path / "state")

    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(os, "open", refuse)
    code, out, err = run(*command, "--state-dir", tmp_path / "state")
    assert (code, out) == (1, "")
    assert "run this as root or as the gateway's user" in err


# status


@pytest.fixture
def window() -> Iterator[Callable[..., str]]:
    """Answer /status like a gateway; return its URL."""
    with contextlib.ExitStack() as servers:

        def serve(status: dict[str, Any], *, token: str = "", code: int = 200) -> str:
            def answer(given: str) -> tuple[int, bytes]:
                return code if not token or given == f"Bearer {token}" else 401, json.dumps(status).encode()

            return servers.enter_context(answering(answer))

        yield serve


def test_status_for_people_and_for_programs(run, window) -> None:
    """The same numbers."""
    url = window({"gateway": "site-7", "accepted": 12345, "uplinks": {}})
    code, out, _ = run("status", "--url", url)
    assert code == 0
    assert "12,345" in out
    code, out, _ = run("status", "--url", url, "--json")
    assert json.loads(out)["accepted"] == 12345


def test_status_is_coloured_on_a_terminal_only(run, window, monkeypatch: pytest.MonkeyPatch) -> None:
    """In pipes and files the signs for it would be noise; a program never gets them."""
    url = window({"gateway": "site-7", "uplinks": {}})
    assert "\x1b" not in run("status", "--url", url)[1]
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True, raising=False)
    assert "\x1b[1m" in run("status", "--url", url)[1]
    assert "\x1b" not in run("status", "--url", url, "--json")[1]


def test_status_finds_the_address_and_token_in_the_configuration(run, window, write, tmp_path: Path) -> None:
    """So that one types only the file's name; without the token it says what is missing."""
    url = window({"gateway": "site-7"}, token="secret")
    (tmp_path / "token").write_text("secret\n", encoding="utf-8")
    listen = url.removeprefix("http://")
    config = f'[control]\nlisten = "{listen}"\ntoken = {{ file = "{tmp_path}/token" }}\n'
    assert run("status", "-c", write(config))[0] == 0
    code, _, err = run("status", "--url", url)
    assert code == 1
    assert "-c FILE" in err
    (tmp_path / "token").unlink()
    code, _, err = run("status", "-c", write(config))
    assert code == 2
    assert err.startswith("tidegate: control.token: ")


def test_status_needs_control_alone_of_the_configuration(run, window, write) -> None:
    """A gateway that refused the rest of it at a reload runs on, and status is what says so."""
    url = window({"gateway": "site-7"})
    control = f'[control]\nlisten = "{url.removeprefix("http://")}"\n'
    broken = "nonsense = true"
    code, out, _ = run("status", "-c", write(control, gateway=broken))
    assert code == 0
    assert "site-7" in out
    code, _, err = run("status", "-c", write('[control]\nlisen = "x"\n', gateway=broken))
    assert code == 2
    assert "control.lisen" in err
    assert "nonsense" not in err


def test_status_of_nobody_is_1(run, write) -> None:
    """One sentence with the address; a configuration without [control] is told apart."""
    code, _, err = run("status", "--url", "http://127.0.0.1:1")
    assert code == 1
    assert err.startswith("tidegate: no gateway answers at http://127.0.0.1:1")
    assert err.count("\n") == 1
    code, _, err = run("status", "-c", write())
    assert code == 2
    assert "has no [control]" in err


@pytest.mark.parametrize("command", [("status",), ("trace", "--topic", "#")])
@pytest.mark.parametrize("code", [200, 400])
def test_another_program_at_the_port_is_no_gateway(run, window, command: tuple[str, ...], code: int) -> None:
    """Whatever JSON it answers, and where it says no: a sentence, no traceback, and no status made of nothing."""
    url = window({"status": "UP"}, code=code)
    found, out, err = run(*command, "--url", url)
    assert (found, out) == ((2 if command[0] == "trace" and code == 400 else 1), "")
    assert err.startswith("tidegate: ")
    assert err.count("\n") == 1
    assert code == 400 or f"no gateway answers at {url} (answered something else than was asked" in err


@pytest.mark.parametrize("url", ["here", "https://127.0.0.1:8181", "http://127.0.0.1:port", "http://127.0.0.1:70000"])
@pytest.mark.parametrize("command", [("status",), ("trace", "--topic", "#")])
def test_an_address_that_is_none_is_2(run, command: tuple[str, ...], url: str) -> None:
    """With what one looks like; nobody has been asked."""
    code, out, err = run(*command, "--url", url)
    assert (code, out) == (2, "")
    assert err.endswith(f"error: argument --url: {url!r} is not http://HOST:PORT\n")


# trace


def test_a_trace_is_printed_message_by_message(run, window) -> None:
    """From the gateway that --url or the configuration names."""
    message = {
        "arrived": "", "source": "direct", "topic": "a", "payload_bytes": 1, "payload": "1", "mapping": None,
        "skipped": [], "readings": 0, "readings_shown": 0, "lines": [], "lost": 0, "problems": [],
        "state": "nothing to keep", "uplinks": {},
    }  # fmt: skip
    url = window({"id": "x", "left_s": 5, "is_over": True, "messages": [message] * 2})
    code, out, err = run("trace", "--url", url, "--topic", "#")
    assert (code, err) == (0, "")
    assert out.count("direct  a\n") == 2


def test_a_trace_of_nothing_is_1(run, window) -> None:
    """No message came, or nobody answers: a sentence each."""
    url = window({"id": "x", "left_s": 0, "is_over": True, "messages": []})
    assert run("trace", "--url", url, "--topic", "a/b", "--seconds", "3") == (
        1, "", "tidegate: no message on a/b came in 3 s\n",
    )  # fmt: skip
    code, _, err = run("trace", "--url", "http://127.0.0.1:1", "--topic", "#")
    assert code == 1
    assert "no gateway answers" in err


def test_a_trace_that_is_asked_for_wrongly_is_2(run, window) -> None:
    """With what the gateway says of it."""
    url = window({"no": "filter"}, code=400)
    code, out, err = run("trace", "--url", url, "--topic", "#/a")
    assert (code, out) == (2, "")
    assert err == 'tidegate: {"no": "filter"}\n'


# verify and export


async def fill(folder: Path, *, clock: Any = None, close: bool = True) -> Store:
    clock = clock or SystemClock()
    store = await Store.open(
        state_dir=folder, settings=StoreSettings(), clock=clock, uplinks=["cloud"], max_series=10,
        telemetry=Telemetry(), commit_interval_s=0.001,
    )  # fmt: skip
    number = store.resolve(Series((("device.id", "d1"),), "temperature"))
    assert number is not None
    stamp = clock.monotonic_ns()
    await store.append([(Priority.NORMAL, Batch.of(number, [stamp], np.array([20.5]), flags=MONOTONIC))])
    if close:
        await store.close()
    return store


async def test_verify_of_a_whole_shelf_is_0(run, tmp_path: Path) -> None:
    """In words and as JSON."""
    await fill(tmp_path)
    code, out, _ = run("verify", "--state-dir", tmp_path)
    assert code == 0
    assert "all is well" in out
    code, out, _ = run("verify", "--state-dir", tmp_path, "--json")
    assert (code, json.loads(out)["problems"]) == (0, [])
    (tmp_path / "tidegate.series").unlink()
    code, out, _ = run("verify", "--state-dir", tmp_path)
    assert code == 0
    assert "all is well\n- Note: tidegate.series" in out


async def test_verify_of_a_damaged_shelf_is_1(run, tmp_path: Path) -> None:
    """With what is wrong."""
    await fill(tmp_path)
    path = tmp_path / "tidegate.db"
    path.write_bytes(path.read_bytes()[:3000])
    code, out, _ = run("verify", "--state-dir", tmp_path)
    assert code == 1
    assert "\n- " in out


@pytest.mark.parametrize("command", [("quarantine",), ("verify",), ("export", "--out", "x")])
def test_no_shelf_is_a_sentence(run, tmp_path: Path, command: tuple[str, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither where there is no directory nor where no gateway has been."""
    monkeypatch.chdir(tmp_path)
    for folder in (tmp_path / "none", tmp_path):
        code, out, err = run(*command, "--state-dir", folder)
        assert (code, out) == (2, "")
        assert str(folder) in err
        assert err.count("\n") == 1


@pytest.mark.parametrize("name", ["tidegate.db", "tidegate.db-wal"])
@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir])
@pytest.mark.parametrize("command", [("quarantine",), ("verify",), ("export", "--out", "x")])
async def test_what_is_no_file_is_a_sentence(
    run,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    command: tuple[str, ...],
    make: Callable[[Path], None],
    name: str,
) -> None:
    """Nobody waits at a pipe for someone to write into it."""
    monkeypatch.chdir(tmp_path)
    await fill(tmp_path)
    path = tmp_path / name
    path.unlink(missing_ok=True)
    make(path)
    code, out, err = run(*command, "--state-dir", tmp_path)
    said = out + err
    assert code == 1
    assert f"{path} is no file; move it away" in said
    assert said.count("\n") <= 2


async def test_a_note_that_is_no_file_keeps_nobody_from_looking(run, tmp_path: Path) -> None:
    """Not even where it is a pipe that somebody holds open: then there is nothing to read, and no end."""
    await fill(tmp_path)
    path = tmp_path / REACHED
    path.unlink()
    os.mkfifo(path)
    held = os.open(path, os.O_RDWR)
    try:
        assert run("verify", "--state-dir", tmp_path)[0] == 0
    finally:
        os.close(held)


async def test_export_writes_lines_and_says_how_many(run, tmp_path: Path) -> None:
    """Into a new file only."""
    await fill(tmp_path)
    out = tmp_path / "held.jsonl"
    code, said, err = run("export", "--state-dir", tmp_path, "--out", out, "--gateway-id", "site-7")
    assert (code, err) == (0, "")
    assert said.startswith("1 reading and 0 log records in ")
    assert "site-7" in out.read_text(encoding="utf-8")
    assert run("export", "--state-dir", tmp_path, "--out", out)[0] == 2
    for place in (tmp_path / "stick" / "held.jsonl", tmp_path / ("x" * 300)):
        code, _, err = run("export", "--state-dir", tmp_path, "--out", place)
        assert code == 2
        assert f"cannot write {place}" in err


@pytest.mark.parametrize("command", [("verify",), ("export", "--out", "held.jsonl")])
async def test_a_configuration_says_whose_shelf_it_is(
    run, write, tmp_path: Path, command: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As for `quarantine`; where neither is typed it is the usual one."""
    monkeypatch.chdir(tmp_path)
    await fill(tmp_path / "state")
    code, out, err = run(*command, "-c", write())
    assert (code, err) == (0, "")
    assert "1 reading" in out
    monkeypatch.setattr(cli, "CONFIG_DEFAULT", tmp_path / "none.toml")
    code, _, err = run(*command[:2], *(["other.jsonl"] if command[2:] else []))
    assert code == 2
    assert "none.toml: there is no such file" in err


async def test_exported_lines_say_what_the_uplink_would(run, write, tmp_path: Path) -> None:
    """The same series upstream, whether sent or carried; another id or place may be typed."""
    await fill(tmp_path / "state")
    path = write(gateway='id = "site-7"\nattributes = { site = "x", "deployment.environment.name" = "prod", n = 5 }')

    def attributes(*words: object) -> dict[str, Any]:
        out = tmp_path / "held.jsonl"
        code, _, err = run("export", *words, "--out", out)
        assert code == 0
        (line,) = [json.loads(line) for line in out.read_text(encoding="utf-8").splitlines()]
        out.unlink()
        (resource,) = line["resourceMetrics"]
        found = {one["key"]: next(iter(one["value"].values())) for one in resource["resource"]["attributes"]}
        return {"said": err, **{key: value for key, value in found.items() if key != "device.id"}}

    gateway = {"site": "x", "deployment.environment.name": "prod", "n": "5", "tidegate.gateway.id": "site-7"}
    assert attributes("-c", path) == {"said": "", **gateway}
    assert attributes("-c", path, "--gateway-id", "spare") == {"said": "", **gateway, "tidegate.gateway.id": "spare"}
    (tmp_path / "state").rename(tmp_path / "old")
    assert attributes("-c", path, "--state-dir", tmp_path / "old") == {"said": "", **gateway}
    found = attributes("--state-dir", tmp_path / "old")
    assert set(found) == {"said"}
    assert "do not say which gateway" in found["said"]


async def test_an_export_that_is_not_all_is_1(run, tmp_path: Path) -> None:
    """And says what was left out."""
    await fill(tmp_path, clock=FakeClock(wall=0, synced=False))
    code, _, err = run("export", "--state-dir", tmp_path, "--out", tmp_path / "held.jsonl")
    assert code == 1
    assert "left out: 1 reading, of which nobody knows yet what time it was" in err


# size, schema, bench


def test_size_says_whether_it_fits(run) -> None:
    """0 if so, 1 if not, 2 for what is no rate."""
    week = ("size", "--rate", "200/s", "--outage", "7d", "--link", "64kbit/s")
    code, out, _ = run(*week, "--commit-interval", "5s")
    assert code == 0
    assert "fits in 512 MiB" in out
    assert run(*week)[0] == 1
    code, out, _ = run("size", "--rate", "20000/s", "--outage", "7d")
    assert code == 1
    assert "does NOT fit" in out
    for wrong in (("fast", "7d"), ("200/s", "long"), ("0/s", "7d"), ("200/s", "7d", "--link", "0kbit/s")):
        code, out, err = run("size", "--rate", wrong[0], "--outage", *wrong[1:])
        assert (code, out) == (2, "")
        assert err.count("\n") == 1


def test_the_schema_is_json(run) -> None:
    """For editors."""
    code, out, _ = run("schema")
    assert code == 0
    assert "sources" in json.dumps(json.loads(out))


def test_bench_lists_its_parts(run) -> None:
    """Without running any."""
    code, out, _ = run("bench", "--only", "list")
    assert code == 0
    assert out.strip()


def test_python_m_gateway_is_the_command() -> None:
    """The same, exit code included."""
    done = subprocess.run(
        [sys.executable, "-m", "gateway", "size", "--rate", "20000/s", "--outage", "7d"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 1
    assert "does NOT fit" in done.stdout
