"""The commands. Must not do the work: each command asks a room and prints what it says.

Errors go to stderr as one sentence that says what to do. Exit codes: 0 fine, 1 found something wrong, 2 bad usage or
configuration.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from gateway import __version__

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from gateway.control.config import Config

FINE: Final = 0
FOUND: Final = 1
USAGE: Final = 2
CONFIG_DEFAULT: Final = "/etc/tidegate/tidegate.toml"
STATUS_TIMEOUT_S: Final = 5


class CommandError(Exception):
    """Something to tell the person who typed the command; one sentence that says what to do."""

    def __init__(self, message: str, code: int = USAGE) -> None:
        super().__init__(message)
        self.code = code


def main(arguments: list[str] | None = None) -> int:
    """Run one command and return its exit code."""
    # Set before numpy is imported anywhere: a thread pool for matrices nobody multiplies costs memory.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    options = parser().parse_args(arguments)
    command: Callable[[argparse.Namespace], int] = options.command
    try:
        return command(options)
    except CommandError as error:
        print(f"tidegate: {error}", file=sys.stderr)
        return error.code
    except BrokenPipeError:
        # The reader of our output went away, as `| head` does.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return FINE
    except KeyboardInterrupt:
        return 130


def parser() -> argparse.ArgumentParser:
    """Return the whole command line."""
    top = argparse.ArgumentParser(
        prog="tidegate", description="Store-and-forward telemetry gateway: MQTT and serial in, OTLP out, nothing lost."
    )
    top.add_argument("--version", action="version", version=f"tidegate {__version__}")
    commands = top.add_subparsers(metavar="COMMAND", required=True)

    def add(name: str, run: Callable[[argparse.Namespace], int], text: str) -> argparse.ArgumentParser:
        command = commands.add_parser(name, help=text, description=text)
        command.set_defaults(command=run)
        return command

    def with_config(command: argparse.ArgumentParser) -> None:
        command.add_argument("-c", "--config", type=Path, default=Path(CONFIG_DEFAULT), metavar="FILE")

    def with_state(command: argparse.ArgumentParser) -> None:
        command.add_argument("--state-dir", type=Path, required=True, metavar="DIR")

    demo = add("demo", run_demo, "the whole story on this desk: devices, outage, kill, recovery, anomaly")
    demo.add_argument("--seconds", type=float, default=40, metavar="N", help="how long the story takes (default 40)")
    demo.add_argument("--keep", action="store_true", help="leave it running and print where to look")

    init = add("init", run_init, "write a commented configuration for this box")
    init.add_argument("--out", type=Path, default=Path("tidegate.toml"), metavar="FILE")
    init.add_argument("--endpoint", metavar="URL", help="OTLP/HTTP endpoint, like https://otel.example:4318")
    init.add_argument("--broker", metavar="URL", help="MQTT broker to subscribe to, like mqtt://127.0.0.1:1883")
    init.add_argument("--topics", metavar="FILTER,…", help='what to subscribe to (default "#")')
    init.add_argument("--serial", metavar="PORT", help="serial line, like /dev/serial/by-id/usb-…")
    init.add_argument("--state-dir", metavar="DIR", help="where data is kept (default /var/lib/tidegate)")
    init.add_argument("--full", action="store_true", help="every setting there is, as comments")
    init.add_argument("--yes", action="store_true", help="ask nothing")

    check = add("check", run_check, "read the configuration and say every problem at once")
    with_config(check)

    run = add("run", run_gateway, "the daemon; SIGTERM drains and stops, SIGHUP reloads")
    with_config(run)
    run.add_argument("--log-level", choices=("debug", "info", "warning", "error"), default=None)

    explain = add("explain", run_explain, "say what becomes of one message, or why not")
    with_config(explain)
    explain.add_argument("--topic", help="the message's topic")
    explain.add_argument("--payload", help="the payload as text")
    explain.add_argument("--port", metavar="NAME", help="a serial source's name, instead of --topic")
    explain.add_argument("--hex", metavar="HEX", help="the payload (with --port: the bytes on the line) as hex")

    status = add("status", run_status, "what a running gateway holds, sends and owes")
    status.add_argument("-c", "--config", type=Path, default=None, metavar="FILE")
    status.add_argument("--url", help="where the gateway's [control] listens (default http://127.0.0.1:8181)")
    status.add_argument("--json", action="store_true")

    verify = add("verify", run_verify, "check every segment's CRC, the hash chain and the counts")
    with_state(verify)
    verify.add_argument("--json", action="store_true")

    export = add("export", run_export, "held data as OTLP JSON lines, for a stick carried by hand")
    with_state(export)
    export.add_argument("--out", type=Path, required=True, metavar="FILE")
    export.add_argument("--gateway-id", default="", help="what tidegate.gateway.id says")

    size = add("size", run_size, "how long this disk and this link last")
    size.add_argument("--rate", required=True, help='readings, like "200/s"')
    size.add_argument("--outage", required=True, help='how long the link may be away, like "7d"')
    size.add_argument("--disk", default="512MiB", help="[store] max_bytes (default 512MiB)")
    size.add_argument("--link", default="", help='like "64kbit/s" or an allowance like "20MiB/d"')

    add("schema", run_schema, "the configuration's JSON Schema, for editors")

    bench = add("bench", run_bench, "the performance suite")
    bench.add_argument("--json", action="store_true")
    bench.add_argument("--only", metavar="NAME,…", help="some of it; `--only list` names them")
    bench.add_argument("--quick", action="store_true", help="a small sample of everything")
    return top


def load(path: Path, *, offline: bool = False) -> Config:
    """Read the configuration or leave with every problem in it; `offline` asks nothing of this machine."""
    from gateway.control.config import ConfigError, load as load_config  # noqa: PLC0415  msgspec only where needed

    try:
        return load_config(path, offline=offline)
    except ConfigError as error:
        raise CommandError("\n".join(["the configuration has problems:", *error.problems])) from error


def run_demo(options: argparse.Namespace) -> int:
    """`tidegate demo`."""
    from gateway.simulator import demo  # noqa: PLC0415  other commands need no simulator

    return demo(seconds=options.seconds, keep=options.keep)


def run_init(options: argparse.Namespace) -> int:
    """`tidegate init`."""
    from gateway.control.init import Answers, ask, write_config  # noqa: PLC0415  only this command

    answers = Answers(
        endpoint=options.endpoint,
        broker=options.broker,
        topics=options.topics,
        serial=options.serial,
        state_dir=options.state_dir,
    )
    if not options.yes and sys.stdin.isatty():
        answers = ask(answers)
    if options.out.exists():
        raise CommandError(f"{options.out} is there already; name another with --out")
    try:
        options.out.write_text(write_config(answers, full=options.full), encoding="utf-8")
    except OSError as error:
        raise CommandError(f"cannot write {options.out}: {error.strerror}") from error
    print(f"{options.out} written. Next: tidegate check -c {options.out} && tidegate run -c {options.out}")
    return FINE


def run_check(options: argparse.Namespace) -> int:
    """`tidegate check`: problems to stderr, exit 2 if any."""
    from gateway.codecs.mapping import Mapper  # noqa: PLC0415  numpy only where needed
    from gateway.control.profiles import ProfileError, load as load_profile  # noqa: PLC0415

    config = load(options.config)
    problems: list[str] = []
    numbers = iter(range(1, 1 << 31))
    problems += Mapper(config.mappings, resolve=lambda _: next(numbers)).check()
    try:
        profile = load_profile(config.gateway.hw_profile)
    except ProfileError as error:
        problems.append(f"gateway.hw_profile: {error}")
    if problems:
        raise CommandError("\n".join(["the configuration has problems:", *problems]))
    examples = sum(len(mapping.examples) for mapping in config.mappings)
    print(
        f"{options.config}: fine. {plural(len(config.sources), 'source')}, {plural(len(config.mappings), 'mapping')} "
        f"({plural(examples, 'example')} right), {plural(len(config.uplinks), 'uplink')}, profile {profile.name}"
    )
    for warning in config.warnings():
        print(f"{options.config}: note: {warning}")
    return FINE


def run_gateway(options: argparse.Namespace) -> int:
    """`tidegate run`."""
    from gateway.daemon import run_daemon  # noqa: PLC0415  the whole gateway only here

    config = load(options.config)
    return run_daemon(config, reload=lambda: load(options.config), log_level=options.log_level)


def run_explain(options: argparse.Namespace) -> int:
    """`tidegate explain`: exit 1 where the message would be refused."""
    from gateway.codecs.mapping import Mapper, default_mappings  # noqa: PLC0415  numpy only where needed
    from gateway.core.clock import SystemClock  # noqa: PLC0415

    config = load(options.config, offline=True)
    if (options.topic is None) == (options.port is None):
        raise CommandError("say --topic T --payload P for MQTT, or --port NAME --hex H for a serial line")
    if (options.payload is None) == (options.hex is None):
        raise CommandError("say the message with --payload TEXT or with --hex HEX, one of them")
    try:
        data = bytes.fromhex(options.hex) if options.hex is not None else options.payload.encode()
    except ValueError as error:
        raise CommandError(f"--hex takes pairs of hexadecimal digits: {error}") from error
    numbers = iter(range(1, 1 << 31))
    mapper = Mapper(config.mappings or default_mappings(), resolve=lambda _: next(numbers))
    messages: list[tuple[str, bytes]] = [(options.topic, data)]
    if options.port is not None:
        messages = list(_unframe(config, options.port, data))
    fine = bool(messages)
    for topic, payload in messages:
        explanation = mapper.explain(topic, payload, wall_ns=SystemClock().wall_ns())
        print(explanation)
        fine = fine and not explanation.problems
    return FINE if fine else FOUND


def _unframe(config: Config, name: str, data: bytes) -> Iterator[tuple[str, bytes]]:
    """Cut what a line carried into messages, as the source of that name would."""
    from gateway.sources.serial_settings import explain_bytes  # noqa: PLC0415  only this command

    lines = {source.name: source for source in config.sources if type(source).__name__ == "SerialSettings"}
    if name not in lines:
        known = ", ".join(lines) or "none is configured"
        raise CommandError(f"no serial source is named {name!r} ({known})")
    found = False
    for item in explain_bytes(lines[name], data):
        if isinstance(item, str):
            print(item)
        else:
            found = True
            yield item
    if not found:
        print("no whole frame in these bytes")


def run_status(options: argparse.Namespace) -> int:
    """`tidegate status`: exit 1 where nothing answers."""
    from gateway.control.summary import fetch_status, render  # noqa: PLC0415  http.client only here

    url = options.url
    token = ""
    if url is None:
        url = "http://127.0.0.1:8181"
        if options.config is not None:
            control = load(options.config, offline=True).control
            if control is None:
                raise CommandError(f'{options.config} has no [control]; add: [control] listen = "127.0.0.1:8181"')
            url = f"http://{control.listen}"
            token = control.token.read() if control.token is not None else ""
    try:
        status = fetch_status(url, token=token, timeout_s=STATUS_TIMEOUT_S)
    except (OSError, ValueError) as error:
        hint = "is the gateway running, and does its configuration have [control]?"
        raise CommandError(f"no gateway answers at {url} ({error}); {hint}", FOUND) from error
    print(json.dumps(status) if options.json else render(status, colour=sys.stdout.isatty()))
    return FINE


def run_verify(options: argparse.Namespace) -> int:
    """`tidegate verify`: exit 1 with what is wrong."""
    from gateway.store.database import verify  # noqa: PLC0415  SQLite only where needed

    report = verify(_state(options.state_dir))
    if options.json:
        print(json.dumps(report.as_dict()))
    else:
        print(report.summary())
        for problem in report.problems:
            print(f"- {problem}")
    return FOUND if report.problems else FINE


def run_export(options: argparse.Namespace) -> int:
    """`tidegate export`."""
    from gateway.control.export import export  # noqa: PLC0415  SQLite and codecs only here

    if options.out.exists():
        raise CommandError(f"{options.out} is there already; name another with --out")
    try:
        result = export(_state(options.state_dir), options.out, gateway_id=options.gateway_id, progress=progress)
    except OSError as error:
        raise CommandError(f"cannot write {options.out}: {error.strerror}") from error
    print(
        f"{result.readings} readings and {result.records} log records in {options.out} ({result.lines} lines of OTLP JSON)"
    )
    if result.damaged:
        print(f"{result.damaged} damaged segments were left out; `tidegate verify` names them", file=sys.stderr)
    return FOUND if result.damaged else FINE


def run_size(options: argparse.Namespace) -> int:
    """`tidegate size`: exit 1 where it doesn't fit."""
    from gateway.control.sizing import Duration, Sizing, parse_link, parse_rate  # noqa: PLC0415  only this command
    from gateway.core.units import Size  # noqa: PLC0415

    try:
        sizing = Sizing(
            rate=parse_rate(options.rate),
            outage_s=float(Duration.parse(options.outage)),
            disk_bytes=int(Size.parse(options.disk)),
            link_bytes_per_s=parse_link(options.link) if options.link else 0.0,
        )
    except ValueError as error:
        raise CommandError(str(error)) from error
    if sizing.rate <= 0:
        raise CommandError("--rate must be more than nothing")
    print("\n".join(sizing.lines()))
    return FINE if sizing.fits or not options.link else FOUND


def run_schema(_: argparse.Namespace) -> int:
    """`tidegate schema`."""
    from gateway.control.config import schema  # noqa: PLC0415  only this command

    print(json.dumps(schema(), indent=2))
    return FINE


def run_bench(options: argparse.Namespace) -> int:
    """`tidegate bench`."""
    from gateway.bench import bench  # noqa: PLC0415  only this command

    return bench(only=options.only, as_json=options.json, quick=options.quick)


def _state(path: Path) -> Path:
    if not path.is_dir():
        raise CommandError(f"{path} is not a directory; --state-dir is [gateway] state_dir of the configuration")
    return path


def plural(number: int, noun: str) -> str:
    """Return "1 source" or "2 sources"."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def progress(items: Iterable[Any], *, total: int, what: str) -> Iterator[Any]:
    """Pass `items` on; on a terminal, draw how far it is."""
    shown = -1
    for done, item in enumerate(items):
        percent = done * 100 // max(total, 1)
        if sys.stderr.isatty() and percent != shown:
            shown = percent
            bar = "█" * (percent // 4) + "░" * (25 - percent // 4)
            print(f"\r{what} {bar} {percent} %", end="", file=sys.stderr, flush=True)
        yield item
    if shown >= 0:
        print(f"\r{what} {'█' * 25} 100 %", file=sys.stderr)
