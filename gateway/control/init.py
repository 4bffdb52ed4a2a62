"""`tidegate init`: a configuration for this box from a few answers. Must not write files or start anything."""

from __future__ import annotations

import json
import shutil
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

STATE_DIR: Final = "/var/lib/tidegate"


@dataclass(frozen=True, slots=True)
class Answers:
    """What was given by flags or asked; None: not said."""

    endpoint: str | None = None
    broker: str | None = None
    topics: str | None = None
    serial: str | None = None
    state_dir: str | None = None


class AnswerError(ValueError):
    """An answer that makes no configuration; the message says what would."""


def command_name() -> str:
    """Return how this program can be typed again: by its path, where a shell would not find it."""
    typed = sys.argv[0]
    return typed if Path(typed).name == "tidegate" and shutil.which("tidegate") is None else "tidegate"


def ask(answers: Answers) -> Answers:
    """Ask on the terminal for what the flags left open; an empty answer takes what stands in brackets.

    What makes no configuration is asked again at once, and not refused after the last question.
    """

    def question(text: str, key: str, default: str = "", *, beside: Answers | None = None) -> str | None:
        given: str | None = getattr(answers, key)
        wrong = ""
        while given is None and (said := input(f"{wrong}{text} [{default or 'none'}]: ").strip() or default):
            try:
                write_config(replace(beside or Answers(), **{key: said}), full=False)
                given = said
            except AnswerError as error:
                wrong = f"{error}\n"
        return given

    # What the flags say is looked at before anything is asked; topics are, as soon as there is a broker.
    write_config(replace(answers, topics=answers.topics if answers.broker else None), full=False)

    endpoint = question("OTLP/HTTP endpoint of the collector", "endpoint")
    broker = question("MQTT broker to subscribe to (devices may also publish straight to us)", "broker")
    topics = answers.topics
    if broker:
        topics = question("topics, separated by commas", "topics", "#", beside=Answers(broker=broker))
    serial = question("serial line", "serial")
    state_dir = question("where data is kept", "state_dir", STATE_DIR)
    return Answers(endpoint, broker, topics, serial, state_dir)


def quote(text: str) -> str:
    """Return `text` as a TOML string; raise AnswerError. JSON's escapes are TOML's, which wants one more."""
    try:
        text.encode()
    except UnicodeEncodeError:
        raise AnswerError(f"{text!a} is not UTF-8; a configuration is") from None
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")


def write_config(answers: Answers, *, full: bool) -> str:
    """Return the commented configuration; raise AnswerError for answers that no configuration can have."""
    from gateway.control.config import ConfigError, example, parse_config  # noqa: PLC0415  numpy, only when written

    if answers.topics is not None and not answers.broker:
        raise AnswerError("topics are subscribed to at a broker; say which with --broker URL")
    parts = [_gateway(answers), _sources(answers), MAPPINGS, STORE, _uplink(answers), CONTROL]
    text = "\n".join(part.strip("\n") + "\n" for part in parts)
    try:
        # What this command writes, the next one takes.
        parse_config(text, offline=True)
    except ConfigError as error:
        raise AnswerError("; ".join(error.problems)) from error
    if full:
        text += "\n# Every setting there is, with its default:\n\n" + commented(example())
    return text


def commented(text: str) -> str:
    """Return `text` with every line a comment."""
    return "\n".join(line if line.startswith("#") or not line else f"# {line}" for line in text.splitlines()) + "\n"


def _gateway(answers: Answers) -> str:
    return f"""\
# Tidegate. `tidegate check -c FILE` reads this and says every problem at once.

[gateway]
# id = "site-7"                 # who this is upstream; without it: made from the machine's id
state_dir = {quote(str(Path(answers.state_dir or STATE_DIR).absolute()))}
hw_profile = "auto"             # memory, commit interval and flash allowance for this board
attributes = {{ "deployment.environment.name" = "prod" }}
"""


def _sources(answers: Answers) -> str:
    text = """
# Devices publish straight to the gateway: no broker needed. A PUBACK means: it is on this disk.
# Beyond loopback the listener wants users, see docs/CONFIGURATION.md.
[[sources]]
type = "mqtt_server"
name = "direct"
listen = "127.0.0.1:1884"
"""
    if answers.broker:
        topics = [name for topic in (answers.topics or "#").split(",") if (name := topic.strip())] or ["#"]
        text += f"""
# While the gateway is away the broker keeps what comes, as far as it is told to. A mosquitto as it is installed drops
# what comes after 1,000 messages; in its own mosquitto.conf, say:
#   `max_queued_messages 0`, `max_queued_bytes 268435456`, `persistence true`
[[sources]]
type = "mqtt"                   # subscribe to a broker
name = "broker"
url = {quote(answers.broker)}
topics = [{", ".join(quote(topic) for topic in topics)}]
qos = 1
"""
    if answers.serial:
        text += f"""
[[sources]]
type = "serial"
name = "line1"
port = {quote(answers.serial)}
baud = 115200
framing = "cobs"                # cobs | lines
"""
    return text


MAPPINGS: Final = """
# Without any mapping every numeric leaf of a JSON or CBOR payload becomes a metric named by its path.
# `tidegate explain -c FILE --topic T --payload P` shows what becomes of a message.
# [[mappings]]
# match = "plant/{device}/climate"
# payload = "json"
# resource = { "device.id" = "{device}" }
# time = { field = "ts", unit = "ms" }
# metrics = [
#   { field = "temp", name = "temperature", unit = "Cel" },
#   { field = "hum",  name = "humidity",    unit = "%" },
# ]
# [[mappings.examples]]         # `tidegate check` tries them
# topic = "plant/d1/climate"
# payload = '{"ts":1790000000000,"temp":20.5}'
# gives = { temperature = 20.5 }
"""

STORE: Final = """
[store]
max_bytes = "512MiB"
max_age = "30d"
when_full = "dilute"            # dilute | drop_oldest | refuse

# [[detectors]]
# match = { metric = "temperature" }
# type = "zscore"
"""


def _uplink(answers: Answers) -> str:
    if not answers.endpoint:
        return """
# Nothing leaves yet: everything is kept until an uplink is configured.
# [[uplinks]]
# type = "otlp"
# name = "cloud"
# endpoint = "https://otel.example:4318"
# headers = { authorization = { env = "OTLP_TOKEN" } }   # the whole value: OTLP_TOKEN=Bearer …
"""
    return f"""
[[uplinks]]
type = "otlp"
name = "cloud"
endpoint = {quote(answers.endpoint)}
compression = "auto"            # zstd, gzip where it is refused
# headers = {{ authorization = {{ env = "OTLP_TOKEN" }} }}   # the whole value: OTLP_TOKEN=Bearer …
# batch_interval = "60s"        # on metered links: fewer, larger requests
"""


CONTROL: Final = """
[control]
listen = "127.0.0.1:8181"       # /healthz /readyz /metrics, and what `tidegate status` asks
"""
