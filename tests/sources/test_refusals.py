"""Every refusal is counted by reason, the last of each can be read, and a flood is a line a minute."""

from __future__ import annotations

import logging

import pytest

from gateway.core.contracts import OVERSIZE, Lost
from gateway.core.telemetry import Telemetry
from gateway.core.text import SENTENCE_CHARS_MAX
from gateway.sources.refusals import SAY_S, TOPIC_CHARS_MAX, Refusals, lost_words


class Clock:
    def __init__(self) -> None:
        self.now_s = 1000.0

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def telemetry() -> Telemetry:
    return Telemetry()


@pytest.fixture
def refusals(clock: Clock, telemetry: Telemetry) -> Refusals:
    return Refusals("direct", telemetry=telemetry, now_s=clock, log=logging.getLogger("tidegate.mqtt_server"))


def test_the_status_says_how_often_and_whom_last(refusals: Refusals, telemetry: Telemetry) -> None:
    """By reason: a flood of one does not hide another."""
    refusals.note("wrong_password", "wrong name or password for 'pump' from 192.0.2.7")
    for k in range(100):
        refusals.note("connecting_max", f"192.0.2.{k}: made room for a newer connection")
    assert refusals.status() == {
        "refused": {"wrong_password": 1, "connecting_max": 100},
        "refused_last": {
            "wrong_password": "wrong name or password for 'pump' from 192.0.2.7",
            "connecting_max": "192.0.2.99: made room for a newer connection",
        },
    }
    assert refusals.last_sentence == "192.0.2.99: made room for a newer connection"
    assert telemetry.value("tidegate_source_refused", source="direct", reason="connecting_max") == 100


def test_a_flood_is_a_line_a_minute_for_each_reason(
    refusals: Refusals, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    """With how many there were in between."""
    for _ in range(int(3 * SAY_S)):
        refusals.note("connecting_max", "flood")
        refusals.note("wrong_password", "guess")
        clock.now_s += 1
    lines = [record.getMessage() for record in caplog.records]
    assert len(lines) == 6
    assert lines[0] == "direct: refused (connecting_max): flood"
    assert lines[2] == "direct: refused (connecting_max): flood and 59 more since the last such line"


def test_what_is_harmless_is_no_warning(refusals: Refusals, caplog: pytest.LogCaptureFixture) -> None:
    """Devices that subscribe beside publishing are many."""
    with caplog.at_level(logging.INFO):
        refusals.note("subscribe", "'d1' subscribes")
    assert [record.levelno for record in caplog.records] == [logging.INFO]


def test_names_are_the_clients_and_the_lines_are_ours(refusals: Refusals, caplog: pytest.LogCaptureFixture) -> None:
    """However long, and whatever they hold."""
    refusals.note("wrong_password", "x\n<0>systemd: \x1b[2J" + "y" * 100_000)
    (sentence,) = refusals.status()["refused_last"].values()
    assert len(str(sentence)) == SENTENCE_CHARS_MAX
    assert "\n" not in caplog.records[0].getMessage()
    assert "\x1b" not in caplog.records[0].getMessage()


def test_a_message_that_is_not_used_is_named_by_its_topic() -> None:
    """As much of it as anybody reads, whatever it holds."""
    lost = Lost(1, OVERSIZE, "a packet of 2000 bytes")
    assert lost_words(lost, [b"a", b"b/\xff\n"]) == "a packet of 2000 bytes, on the topic b/\ufffd\\n"
    assert lost_words(lost, [b"a", b"x" * 65_535]).endswith(" " + "x" * TOPIC_CHARS_MAX)
