"""The commands. Must not do the work: each command asks a room and prints what it says.

Errors go to stderr as one sentence that says what to do. Exit codes: 0 fine, 1 found something wrong, 2 bad usage or
configuration.
"""

from __future__ import annotations

import io
import json
import os
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, Final

from gateway import __version__, arguments
from gateway.arguments import CONFIG_DEFAULT, LOG_LEVELS, URL_DEFAULT
from gateway.core.progress import progress
from gateway.core.text import sentence
from gateway.core.words import plural
from gateway.net.imports import spare_memory
from gateway.net.tls import bring_back, leave_out, may_want_tls

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable, Iterator
    from typing import TypeAlias

    from gateway.control.config import Config

    Command: TypeAlias = Callable[[Any], int]

FINE: Final = 0
FOUND: Final = 1
USAGE: Final = 2
INTERRUPTED: Final = 130
STATUS_TIMEOUT_S: Final = 5
DEMO_SECONDS_MAX: Final = 3600
LINE_CHARS_MAX: Final = 2000
COMMAND_CHARS_MAX: Final = 14


class CommandError(Exception):
    """Something to tell the person who typed the command; one sentence that says what to do."""

    def __init__(self, message: str, code: int = USAGE) -> None:
        super().__init__(message)
        self.code = code


def main(words: list[str] | None = None) -> int:
    """Run one command and return its exit code."""
    # Set before numpy is imported anywhere: a thread pool for matrices nobody multiplies costs memory.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    if isinstance(sys.stdout, io.TextIOWrapper):
        # A letter that this terminal's encoding has no bytes for is a question mark, and not the end.
        sys.stdout.reconfigure(errors="replace")
    options = plain_run(sys.argv[1:] if words is None else words) or parser().parse_args(words)
    command: Command = options.command
    try:
        code = command(options)
        # Here, where what goes wrong can be told, and not when the interpreter ends.
        sys.stdout.flush()
    except CommandError as error:
        for number, line in enumerate(str(error).split("\n")):
            print(f"{'' if number else 'tidegate: '}{sentence(line, LINE_CHARS_MAX)}", file=sys.stderr)
        return error.code
    except OSError as error:
        # What is still to be written would fail again when the interpreter ends.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        # The reader of our output may go away, as `| head` does.
        if isinstance(error, BrokenPipeError):
            return FINE
        print(f"tidegate: {sentence(str(error), LINE_CHARS_MAX)}", file=sys.stderr)
        return FOUND
    except ModuleNotFoundError as error:
        if error.name is None or error.name.partition(".")[0] == "gateway":
            raise
        print(f"tidegate: the Python package {error.name!r} is missing; install tidegate again", file=sys.stderr)
        return FOUND
    except KeyboardInterrupt:
        return INTERRUPTED
    return code


def plain_run(words: list[str]) -> SimpleNamespace | None:
    """Read the daemon's own command line; None for any other, and for what needs to be told what would be right.

    What argparse loads would stay in the daemon's memory for as long as it runs: a megabyte for two options.
    """
    if words[:1] != ["run"]:
        return None
    options = SimpleNamespace(command=run_gateway, config=Path(CONFIG_DEFAULT), log_level=None)
    rest = iter(words[1:])
    for option in rest:
        value = next(rest, "")
        if option in {"-c", "--config"} and value and not value.startswith("-"):
            options.config = Path(value)
        elif option == "--log-level" and value in LOG_LEVELS:
            options.log_level = value
        else:
            return None
    return options


def parser() -> argparse.ArgumentParser:
    """Return the whole command line."""
    import argparse  # noqa: PLC0415  see `plain_run`

    def formatter(prog: str) -> argparse.HelpFormatter:
        # Room for the longest command beside its sentence: argparse forgets that commands are indented.
        made = argparse.HelpFormatter(prog)
        made._action_max_length = COMMAND_CHARS_MAX  # noqa: SLF001  there is no other way
        return made

    top = argparse.ArgumentParser(
        prog="tidegate",
        description="Store-and-forward telemetry gateway: MQTT and serial in, OTLP out, nothing lost.",
        formatter_class=formatter,
    )
    top.add_argument("--version", action="version", version=f"tidegate {__version__}")
    commands = top.add_subparsers(metavar="COMMAND", required=True)

    def add(name: str, run: Command, text: str) -> argparse.ArgumentParser:
        command = commands.add_parser(name, help=text, description=text)
        command.set_defaults(command=run)
        return command

    arguments.add_demo(add("demo", run_demo, "the whole story on this desk: devices, outage, kill, recovery, anomaly"))
    arguments.add_init(add("init", run_init, "write a commented configuration for this box"))
    arguments.add_config(add("check", run_check, "read the configuration and say every problem at once"))
    arguments.add_run(add("run", run_gateway, "the daemon; SIGTERM drains and stops, SIGHUP reloads"))
    arguments.add_explain(add("explain", run_explain, "say what becomes of one message, or why not"))
    arguments.add_status(add("status", run_status, "what a running gateway holds, sends and owes"))
    arguments.add_trace(add("trace", run_trace, "follow the next messages through the running gateway"))
    arguments.add_quarantine(add("quarantine", run_quarantine, "what was set aside: not usable, or refused"))
    arguments.add_verify(add("verify", run_verify, "check every segment's CRC, the hash chain and the counts"))
    arguments.add_export(add("export", run_export, "held data as OTLP JSON lines, for a stick carried by hand"))
    arguments.add_size(add("size", run_size, "how long this disk and this link last"))
    add("schema", run_schema, "the configuration's JSON Schema, for editors")
    arguments.add_bench(add("bench", run_bench, "the performance suite"))
    return top


def load(path: Path, *, offline: bool = False, to_run: bool = False) -> Config:
    """Read the configuration or leave with every problem in it; `offline` and `to_run` are control/config's."""
    from gateway.control import config  # noqa: PLC0415  msgspec only where needed

    try:
        return config.load(path, offline=offline, to_run=to_run)
    except config.ConfigError as error:
        raise _problems(error.problems) from error


def _problems(problems: list[str]) -> CommandError:
    return CommandError("\n".join(["the configuration has problems:", *problems]))


def run_demo(options: argparse.Namespace) -> int:
    """`tidegate demo`."""
    from gateway.simulator.demo import demo  # noqa: PLC0415  other commands need no simulator

    if not 0 < options.seconds <= DEMO_SECONDS_MAX:
        raise CommandError(f"--seconds takes a number above 0, up to {DEMO_SECONDS_MAX}")
    return demo(seconds=options.seconds, keep=options.keep)


def run_init(options: argparse.Namespace) -> int:
    """`tidegate init`."""
    from gateway.control.init import (  # noqa: PLC0415  only this command
        AnswerError,
        Answers,
        ask,
        command_name,
        write_config,
    )

    answers = Answers(
        endpoint=options.endpoint,
        broker=options.broker,
        topics=options.topics,
        serial=options.serial,
        state_dir=options.state_dir,
    )
    if os.path.exists(options.out):  # noqa: PTH110  Path's own raises where it may not look
        raise CommandError(f"{options.out} is there already; name another with --out")
    try:
        if not options.yes and sys.stdin.isatty():
            answers = ask(answers)
        text = write_config(answers, full=options.full)
        with options.out.open("x", encoding="utf-8") as file:
            file.write(text)
    except EOFError as error:
        raise CommandError("no answer; nothing was written") from error
    except AnswerError as error:
        raise CommandError(f"nothing was written: {error}") from error
    except OSError as error:
        raise CommandError(f"cannot write {options.out}: {error.strerror}") from error
    me = command_name()
    print(f"{options.out} written. Next: {me} check -c {options.out} && {me} run -c {options.out}")
    return FINE


def run_check(options: argparse.Namespace) -> int:
    """`tidegate check`: problems to stderr, exit 2 if any."""
    from gateway.control import check  # noqa: PLC0415  numpy only where needed
    from gateway.control.config import ConfigError  # noqa: PLC0415

    path: Path = options.config
    try:
        found = check.check(path)
    except ConfigError as error:
        raise _problems(error.problems) from error
    config = found.config
    examples = sum(len(mapping.examples) for mapping in config.mappings)
    right = f" ({plural(examples, 'example')} right)" if examples else ""
    mappings = f"{plural(len(config.mappings), 'mapping')}{right}"
    print(
        f"{path}: fine. {plural(len(config.sources), 'source')}, "
        f"{mappings if config.mappings else 'no mappings (every number is taken)'}, "
        f"{plural(len(config.uplinks), 'uplink')}, hardware profile {found.profile}"
    )
    for note in found.notes:
        print(f"{path}: note: {note}")
    return FINE


def run_gateway(options: argparse.Namespace) -> int:
    """`tidegate run`."""
    path: Path = options.config
    # Before anything that would load OpenSSL: whether this configuration has a use for it.
    if not may_want_tls(path):
        leave_out()
    spare_memory()
    from gateway.control import config as configuration  # noqa: PLC0415  msgspec only where needed
    from gateway.daemon import run_daemon  # noqa: PLC0415  the whole gateway only here

    def reload() -> Config:
        if may_want_tls(path):
            bring_back()
        return configuration.load(path, to_run=True)

    return run_daemon(load(path, to_run=True), reload=reload, log_level=options.log_level)


def run_explain(options: argparse.Namespace) -> int:
    """`tidegate explain`: exit 1 where the message would be refused."""
    from gateway.codecs.mapping import Mapper  # noqa: PLC0415  numpy only where needed
    from gateway.control.explaining import explain_message  # noqa: PLC0415
    from gateway.core.clock import SystemClock  # noqa: PLC0415

    config = load(options.config, offline=True)
    source, messages = _messages(options, config)
    numbers = iter(range(1, 1 << 31))
    mapper = Mapper(config.effective_mappings(), resolve=lambda *_: next(numbers))
    fine = bool(messages)
    for topic, payload in messages:
        wall_ns = SystemClock().wall_ns()
        text, is_used = explain_message(mapper, topic, payload, sources=config.sources, source=source, wall_ns=wall_ns)
        print(text)
        fine = fine and is_used
    return FINE if fine else FOUND


def _messages(options: argparse.Namespace, config: Config) -> tuple[str | None, list[tuple[str, bytes]]]:
    """Return the messages to explain, each with its topic, and the source that they come from (None: any)."""
    given = [name for name in ("topic", "port", "payload", "hex", "source") if getattr(options, name) is not None]
    if options.quarantined is not None:
        if given:
            raise CommandError("--quarantined N says topic, payload and source; leave the other options out")
        what = _from_shelf(lambda aside: aside.find_quarantined(Path(config.gateway.state_dir), options.quarantined))
        return what.source, [(os.fsdecode(what.topic), what.payload)]
    if ("topic" in given) == ("port" in given):
        raise CommandError("say --topic T --payload P for MQTT, or --port NAME --hex H for a serial line")
    if ("payload" in given) == ("hex" in given):
        raise CommandError("say the message with --payload TEXT or with --hex HEX, one of them")
    try:
        data = bytes.fromhex(options.hex) if options.hex is not None else os.fsencode(options.payload)
    except ValueError as error:
        raise CommandError(f"--hex takes pairs of hexadecimal digits, not {options.hex!r}") from error
    if options.port is not None:
        if options.source is not None:
            raise CommandError("--port names the source; leave --source out")
        return options.port, list(_unframe(config, options.port, data))
    names = [source.name for source in config.sources]
    if options.source is not None and options.source not in names:
        raise CommandError(f"no source is named {options.source!r} ({', '.join(names) or 'none is configured'})")
    return options.source, [(options.topic, data)]


def _unframe(config: Config, name: str, data: bytes) -> Iterator[tuple[str, bytes]]:
    """Cut what a line carried into messages, as the source of that name would."""
    from gateway.sources.serial_explain import explain_bytes  # noqa: PLC0415  only this command
    from gateway.sources.serial_settings import SerialSettings  # noqa: PLC0415  the same

    lines = {source.name: source for source in config.sources if isinstance(source, SerialSettings)}
    if name not in lines:
        known = ", ".join(lines) or "none is configured"
        raise CommandError(f"no serial source is named {name!r} ({known})")
    found = False
    for item in explain_bytes(lines[name], data):
        if isinstance(item, str):
            print(sentence(item))
        else:
            found = True
            yield item
    if not found:
        print("no whole frame in these bytes")


def run_status(options: argparse.Namespace) -> int:
    """`tidegate status`: exit 1 where nothing answers."""
    from gateway.control.asking import fetch_status  # noqa: PLC0415  http.client only here
    from gateway.control.summary import render  # noqa: PLC0415  http.client only here

    url, token = _address(options)
    try:
        status = fetch_status(url, token=token, timeout_s=STATUS_TIMEOUT_S)
    except (OSError, ValueError) as error:
        raise _nobody_answers(url, error) from error
    print(json.dumps(status) if options.json else render(status, colour=sys.stdout.isatty()))
    return FINE


def run_trace(options: argparse.Namespace) -> int:
    """`tidegate trace`: exit 1 where no message came, or nothing answers."""
    from gateway.control.asking import AskedWrongError  # noqa: PLC0415
    from gateway.control.live import follow  # noqa: PLC0415  http.client only here

    url, token = _address(options)
    asked = {"topic": options.topic, "count": options.count, "seconds": options.seconds}
    count = 0
    try:
        for block in follow(url, token=token, asked=asked, timeout_s=STATUS_TIMEOUT_S):
            count += 1
            print(block, flush=True)
    except AskedWrongError as error:
        raise CommandError(str(error)) from error
    except (OSError, ValueError) as error:
        raise _nobody_answers(url, error) from error
    if not count:
        raise CommandError(f"no message on {options.topic} came in {options.seconds:g} s", FOUND)
    return FINE


def _nobody_answers(url: str, error: Exception) -> CommandError:
    hint = "is the gateway running, and does its configuration have [control]? -c FILE looks there"
    return CommandError(f"no gateway answers at {url} ({error}); {hint}", FOUND)


def _address(options: argparse.Namespace) -> tuple[str, str]:
    """Return where a running gateway is asked, and with what token."""
    if options.url is not None or options.config is None:
        return options.url or URL_DEFAULT, ""
    from gateway.control import config  # noqa: PLC0415  msgspec only where needed

    try:
        control = config.load_control(options.config)
    except config.ConfigError as error:
        raise _problems(error.problems) from error
    if control is None:
        raise CommandError(f'{options.config} has no [control]; add: [control] listen = "127.0.0.1:8181"')
    try:
        return f"http://{control.listen}", control.token.read() if control.token is not None else ""
    except ValueError as error:
        raise CommandError(f"control.token: {error}") from error


def run_quarantine(options: argparse.Namespace) -> int:
    """`tidegate quarantine`: 0 also where nothing is set aside."""
    if options.limit < 1:
        raise CommandError("--limit takes a number from 1 on")
    config: Path | None = options.config
    where, _ = _shelf(options)
    if options.refused:
        found = _from_shelf(lambda aside: aside.refused(where, limit=options.limit))
    else:
        name = str(config.absolute()) if config is not None else ""
        found = _from_shelf(lambda aside: aside.quarantine(where, limit=options.limit, config=name))
    if options.json:
        print(json.dumps(found))
    else:
        from gateway.control import aside  # noqa: PLC0415  SQLite and codecs only here

        print(aside.render_refused(found) if options.refused else aside.render_quarantine(found))
    return FINE


def _from_shelf(look: Callable[[Any], Any]) -> Any:
    """Return what `look` finds on a shelf; the room of what was set aside is its argument."""
    from gateway.control import aside  # noqa: PLC0415  SQLite and codecs only here
    from gateway.store.records import StoreError  # noqa: PLC0415

    try:
        return look(aside)
    except StoreError as error:
        raise CommandError(str(error), FOUND) from error


def run_verify(options: argparse.Namespace) -> int:
    """`tidegate verify`: exit 1 with what is wrong."""
    from gateway.store.reading import verify  # noqa: PLC0415  SQLite only where needed

    where, _ = _shelf(options)
    report = _from_shelf(lambda _: verify(where, progress=progress))
    if options.json:
        print(json.dumps(report.as_dict()))
    else:
        print(report.summary())
        for problem in report.problems:
            print(f"- {sentence(problem)}")
        for note in report.notes:
            print(f"- Note: {note}")
    return FOUND if report.problems else FINE


def run_export(options: argparse.Namespace) -> int:
    """`tidegate export`."""
    from gateway.control.export import export  # noqa: PLC0415  SQLite and codecs only here
    from gateway.store.database import StoreError  # noqa: PLC0415

    if os.path.exists(options.out):  # noqa: PTH110  Path's own raises where it may not look
        raise CommandError(f"{options.out} is there already; name another with --out")
    where, config = _shelf(options)
    attributes = dict(config.identity()) if config is not None else {}
    if options.gateway_id:
        attributes["tidegate.gateway.id"] = options.gateway_id
    try:
        result = export(where, options.out, attributes=tuple(sorted(attributes.items())), progress=progress)
    except StoreError as error:
        raise CommandError(str(error), FOUND) from error
    except OSError as error:
        raise CommandError(f"cannot write {options.out}: {error.strerror}") from error
    print(f"{result.counted()} in {options.out} ({plural(result.lines, 'line')} of OTLP JSON)")
    if not attributes:
        print("tidegate: these lines do not say which gateway they are from; its -c FILE would", file=sys.stderr)
    for problem in result.left_out():
        print(f"tidegate: {sentence(problem)}", file=sys.stderr)
    return FOUND if result.left_out() else FINE


def run_size(options: argparse.Namespace) -> int:
    """`tidegate size`: exit 1 where it doesn't fit."""
    from gateway.control.sizing import size_up  # noqa: PLC0415  only this command

    try:
        sizing = size_up(
            rate=options.rate,
            outage=options.outage,
            disk=options.disk,
            link=options.link,
            commit_interval=options.commit_interval,
            config=None if options.config is None else load(options.config, offline=True),
        )
    except ValueError as error:
        raise CommandError(str(error)) from error
    print("\n".join(sizing.lines()))
    return FINE if sizing.fits else FOUND


def run_schema(_: argparse.Namespace) -> int:
    """`tidegate schema`."""
    from gateway.control.config import schema  # noqa: PLC0415  only this command

    print(json.dumps(schema(), indent=2))
    return FINE


def run_bench(options: argparse.Namespace) -> int:
    """`tidegate bench`."""
    from gateway.bench import bench  # noqa: PLC0415  only this command

    return bench(only=options.only, as_json=options.json, quick=options.quick)


def _shelf(options: argparse.Namespace) -> tuple[Path, Config | None]:
    """Return the directory of the shelf that is meant, and the configuration that was asked whose it is."""
    from gateway.store.connection import DATABASE  # noqa: PLC0415  SQLite only where needed

    path: Path | None = options.state_dir
    config = None
    if path is None or options.config is not None:
        config = load(options.config or Path(CONFIG_DEFAULT), offline=True)
        path = path or Path(config.gateway.state_dir)
    database = path / DATABASE
    try:
        os.close(os.open(database, os.O_RDONLY | os.O_NONBLOCK))  # a pipe would wait for who writes into it
    except PermissionError as error:
        raise CommandError(
            f"{database} is not yours to read; run this as root or as the gateway's user", FOUND
        ) from error
    except OSError as error:
        raise CommandError(
            f"there is no {database}; --state-dir is [gateway] state_dir of the configuration"
        ) from error
    return path, config
