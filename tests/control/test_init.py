"""`tidegate init`: whatever is answered, what is written can be loaded, or nothing is written."""

from __future__ import annotations

import itertools
import re
import tomllib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.control import init
from gateway.control.config import parse_config
from gateway.control.init import AnswerError, Answers, ask, command_name, quote, write_config

CHOICES = {
    "endpoint": [None, "https://otel.example:4318"],
    "broker": [None, "mqtts://broker.example"],
    "serial": [None, "/dev/serial/by-id/usb-FTDI"],
    "state_dir": [None, "/srv/tidegate"],
}


@pytest.mark.parametrize("full", [False, True])
def test_every_combination_of_answers_loads(full: bool) -> None:
    """With and without each part, and the file says what was answered."""
    for values in itertools.product(*CHOICES.values()):
        answers = Answers(**dict(zip(CHOICES, values, strict=True)))
        for topics in (None, "plant/#, alarm/+") if answers.broker else (None,):
            text = write_config(
                Answers(answers.endpoint, answers.broker, topics, answers.serial, answers.state_dir), full=full
            )
            config = parse_config(text, offline=True)
            assert [uplink.endpoint for uplink in config.uplinks] == [answers.endpoint] * (answers.endpoint is not None)
            assert config.gateway.state_dir == (answers.state_dir or "/var/lib/tidegate")
            kinds = [type(source).__name__ for source in config.sources]
            assert ("MqttSettings" in kinds, "SerialSettings" in kinds) == (bool(answers.broker), bool(answers.serial))
            assert config.control is not None
            if topics:
                assert list(config.sources[1].topics) == ["plant/#", "alarm/+"]


def test_what_is_commented_out_can_be_taken_in() -> None:
    """Whoever takes the comment signs away gets a mapping, a detector and an uplink that load."""
    text = write_config(Answers(), full=False)
    # Prose begins with a capital letter or a backtick, what can be taken in does not.
    lines = [line[2:] if re.match(r"# +[\[\]{a-z]", line) else line for line in text.splitlines()]
    config = parse_config("\n".join(lines), offline=True)
    assert (len(config.mappings), len(config.detectors), len(config.uplinks)) == (1, 1, 1)
    assert len(config.mappings[0].examples) == 1


@pytest.mark.parametrize("broker", [None, "mqtt://b"])
def test_what_a_broker_has_to_be_told_stands_where_it_is_subscribed_to(broker) -> None:
    """As it is installed it drops what it has acknowledged."""
    text = write_config(Answers(broker=broker), full=False)
    for word in ("max_queued_messages", "max_queued_bytes", "persistence true"):
        assert (word in text) == (broker is not None)


@given(st.text())
def test_any_text_is_quoted_so_that_it_comes_back(text: str) -> None:
    """Quotes, backslashes, control characters, other scripts."""
    assert tomllib.loads(f"value = {quote(text)}")["value"] == text


@given(st.text(alphabet=st.characters(codec="utf-8"), min_size=1))
def test_an_odd_port_loads_or_is_refused(port: str) -> None:
    """Never a file that `check` then cannot read."""
    try:
        text = write_config(Answers(serial=port), full=False)
    except AnswerError:
        return
    assert parse_config(text, offline=True).sources[1].port == port


@pytest.mark.parametrize(
    ("answers", "sentence"),
    [
        (Answers(endpoint="otel.example"), r"uplinks\[0\]"),
        (Answers(broker="http://b"), r"sources\[1\]"),
        (Answers(broker="mqtt://b", topics="a/#/b"), r"sources\[1\]"),
        (Answers(topics="a/#"), "--broker"),
        (Answers(serial="/dev/\udcff"), "UTF-8"),
    ],
)
def test_a_wrong_answer_is_refused_by_name(answers: Answers, sentence: str) -> None:
    """Before anything is written."""
    with pytest.raises(AnswerError, match=sentence):
        write_config(answers, full=False)


def test_a_relative_state_dir_becomes_absolute() -> None:
    """The gateway is started from somewhere else."""
    text = write_config(Answers(state_dir="state"), full=False)
    assert parse_config(text, offline=True).gateway.state_dir == str(Path("state").absolute())


def test_empty_topics_are_all_topics() -> None:
    """A comma too many is no topic."""
    config = parse_config(write_config(Answers(broker="mqtt://b", topics=" , "), full=False), offline=True)
    assert list(config.sources[1].topics) == ["#"]


def test_a_wrong_flag_is_refused_before_anything_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    """Topics without a broker are none: it may be asked for."""
    monkeypatch.setattr("builtins.input", lambda _: "")
    with pytest.raises(AnswerError, match="mqtt://"):
        ask(Answers(broker="http://b"))
    assert ask(Answers(topics="a/#")) == Answers(topics="a/#", state_dir=init.STATE_DIR)


def test_a_wrong_answer_is_asked_for_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """With what would be right, before the next question; a broker's topics are looked at beside it."""
    typed = iter(["otel.example", "https://e:1", "http://b", "mqtt://b", "a/#/b", "a/#", "", "/srv"])
    asked: list[str] = []
    monkeypatch.setattr("builtins.input", lambda question: asked.append(question) or next(typed))
    assert ask(Answers()) == Answers("https://e:1", "mqtt://b", "a/#", None, "/srv")
    said = [question for question in asked if "\n" in question]
    assert [line.partition(":")[0] for line in said] == [
        "uplinks[0].endpoint",
        "sources[1].url",
        "sources[1].topics[0]",
    ]


def test_only_what_is_open_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    """An empty answer takes what stands in brackets; topics only where there is a broker."""
    asked: list[str] = []
    typed = {"MQTT broker": "mqtt://b", "serial": "  "}

    def answer(question: str) -> str:
        asked.append(question)
        return next((text for start, text in typed.items() if question.startswith(start)), "")

    monkeypatch.setattr("builtins.input", answer)
    assert ask(Answers(endpoint="https://e:1")) == Answers("https://e:1", "mqtt://b", "#", None, init.STATE_DIR)
    assert [question.split(" ")[0] for question in asked] == ["MQTT", "topics,", "serial", "where"]
    asked.clear()
    typed.clear()
    assert ask(Answers()) == Answers(state_dir=init.STATE_DIR)
    assert len(asked) == 4


@pytest.mark.parametrize(
    ("started_as", "is_on_the_path", "typed"),
    [
        ("/usr/local/bin/tidegate", True, "tidegate"),
        (".venv/bin/tidegate", False, ".venv/bin/tidegate"),
        ("/opt/gateway/__main__.py", False, "tidegate"),
    ],
)
def test_what_is_to_be_typed_next_can_be_typed(monkeypatch, started_as: str, is_on_the_path: bool, typed: str) -> None:
    """In a clone that is not installed the command is not on the PATH."""
    monkeypatch.setattr("sys.argv", [started_as])
    monkeypatch.setattr("shutil.which", lambda _: started_as if is_on_the_path else None)
    assert command_name() == typed
