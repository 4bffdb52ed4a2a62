"""`tidegate trace` for people: what a gateway notes of messages, shown as it becomes known."""

from __future__ import annotations

from typing import Any

import pytest

from gateway.control import live
from gateway.control.live import ASK_S, HOLD_S, follow, is_settled, render

MESSAGE: dict[str, Any] = {
    "arrived": "2026-09-21T14:13:20.5Z", "source": "direct", "topic": "plant/d1/climate", "payload_bytes": 14,
    "payload": '{"temp": 20.5}', "mapping": {"index": 1, "match": "plant/{device}/climate"},
    "skipped": [{"match": "a", "why": "level 1 is 'plant', not 'a'"}], "readings": 1, "readings_shown": 1,
    "lines": ["for      device.id=d1; class normal", "reading  temperature = 20.5 Cel"], "lost": 0, "problems": [],
    "state": "on disk", "on_disk_after_s": 0.231, "segments": [{"sequence": 812, "class": "normal"}],
    "uplinks": {
        "cloud": {"state": "delivered", "is_settled": True, "after_s": 1.2},
        "backup": {"state": "held", "is_settled": False},
    },
}  # fmt: skip
SETTLED = MESSAGE | {"uplinks": {"cloud": MESSAGE["uplinks"]["cloud"]}}


class FakeGateway:
    """Answers with what a test says, one answer at each question; time passes while somebody sleeps."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *answers: dict[str, Any]) -> None:
        self.answers = [{"id": "n1", "left_s": 9.0, "is_over": False, **answer} for answer in answers]
        self.pages: list[str] = []
        self.now_s = 100.0
        monkeypatch.setattr(live, "fetch", self.fetch)

    def fetch(self, url: str, page: str, *, token: str, timeout_s: float, wanted: tuple[str, ...]) -> dict[str, Any]:
        assert (url, token, timeout_s) == ("http://here", "secret", 5)
        self.pages.append(page)
        return self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]

    def sleep(self, seconds: float) -> None:
        self.now_s += seconds

    def blocks(self) -> list[tuple[float, str]]:
        """Return each block that was shown, with when."""
        asked = {"topic": "plant/+/#", "count": 3, "seconds": 9}
        shown = follow(
            "http://here", token="secret", asked=asked, timeout_s=5, sleep=self.sleep, clock_s=lambda: self.now_s
        )
        return [(self.now_s - 100.0, block) for block in shown]


def test_a_message_is_shown_with_all_that_is_known() -> None:
    """One fact a line."""
    assert render(MESSAGE).splitlines() == [
        "2026-09-21T14:13:20.5Z  direct  plant/d1/climate",
        '  payload  14 bytes: {"temp": 20.5}',
        "  skipped  a: level 1 is 'plant', not 'a'",
        "  taken by mappings[1], match = 'plant/{device}/climate'",
        "  for      device.id=d1; class normal",
        "  reading  temperature = 20.5 Cel",
        "  on disk  0.231 s after it arrived, in segment 812 (normal)",
        "  cloud    delivered 1.2 s after it arrived",
        "  backup   held",
    ]


def test_what_is_lost_or_left_out_is_shown_too() -> None:
    """Without a mapping, without a clock, with more than is listed."""
    message = MESSAGE | {
        "arrived": "", "mapping": None, "skipped": [], "readings": 9, "readings_shown": 8, "lost": 5,
        "problems": ["x is no number"], "state": "nothing to keep", "uplinks": {"cloud": {"state": "gone", "is_settled": True}},
    }  # fmt: skip
    text = render(message)
    assert text.startswith("no clock yet  direct")
    for part in (
        "reading  … and 1 more",
        "problem  x is no number",
        "problem  … and 4 more",
        "on disk  not: nothing to",
    ):
        assert part in text
    assert "cloud    let go; the ledger in `tidegate status` says why" in text
    assert "reading  none" in render(message | {"lines": [], "readings": 0, "readings_shown": 0})


def test_no_gateway_commands_a_terminal() -> None:
    """Nor does what only looks like one."""
    nasty = "\x1b[2J\u202e\nfake"
    text = render(MESSAGE | {"topic": nasty, "payload": nasty, "lines": [nasty], "uplinks": {nasty: {"state": nasty}}})
    assert all(line.isprintable() for line in text.split("\n"))
    assert "\nfake" not in text


@pytest.mark.parametrize(
    ("message", "settled"),
    [
        (MESSAGE, False),
        (SETTLED, True),
        (MESSAGE | {"state": "nothing to keep"}, True),
        (SETTLED | {"state": "waiting for the disk"}, False),
        (MESSAGE | {"uplinks": {}}, True),
    ],
)
def test_when_nothing_more_will_become_of_it(message: dict[str, Any], settled: bool) -> None:
    """Every uplink is done with it, or there is nothing to be done."""
    assert is_settled(message) == settled


def test_it_is_asked_for_by_filter_and_then_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    """The filter's signs are spelt for a URL."""
    gateway = FakeGateway(monkeypatch, {"messages": []}, {"messages": [SETTLED], "is_over": True})
    assert len(gateway.blocks()) == 1
    assert gateway.pages == ["/trace?topic=plant%2F%2B%2F%23&count=3&seconds=9", "/trace?id=n1"]


def test_a_message_is_shown_when_it_is_settled(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not before, and once; the next one after it."""
    later = SETTLED | {"topic": "later"}
    gateway = FakeGateway(
        monkeypatch,
        {"messages": [MESSAGE]},
        {"messages": [SETTLED, MESSAGE]},
        {"messages": [SETTLED, later], "is_over": True},
    )
    assert [(when, block.splitlines()[0].split()[-1]) for when, block in gateway.blocks()] == [
        (ASK_S, "plant/d1/climate"),
        (2 * ASK_S, "later"),
    ]


def test_what_is_held_back_is_shown_as_it_stands(monkeypatch: pytest.MonkeyPatch) -> None:
    """After a while: a link may be down for days."""
    gateway = FakeGateway(monkeypatch, {"messages": [MESSAGE], "is_over": True})
    ((when, block),) = gateway.blocks()
    assert when == HOLD_S
    assert "backup   held" in block


def test_at_the_end_all_is_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever is known by then."""
    gateway = FakeGateway(
        monkeypatch, {"messages": [MESSAGE]}, {"messages": [MESSAGE, SETTLED], "left_s": 0.0, "is_over": True}
    )
    assert [when for when, _ in gateway.blocks()] == [ASK_S, ASK_S]
