"""What is expected of a class is what it brings over hours, and not what the last minutes happened to bring."""

from __future__ import annotations

import pytest

from gateway.core.contracts import Priority
from gateway.store.policy import Lane
from gateway.uplinks.flow import (
    LOOK_S_MIN,
    MEMORY_S,
    NEWEST_SHARE,
    REQUEST_BYTES_MIN,
    SILENT_TIMES,
    WHOLE_BYTES,
    Apart,
    Flow,
    Sent,
)

QUARTER_S = 900.0
GATHERS_S = 300.0


def flow() -> Flow:
    return Flow(Apart(1.0), Apart(GATHERS_S))


def bursts(one: Flow, *, hours: float, each_s: float, readings: int, looks_s: float = LOOK_S_MIN) -> list[float]:
    """Let so many readings come together each so often; return what was expected a second at each look."""
    expected, count, now_s = [], 0, 0.0
    while now_s < hours * 3600:
        count += readings if now_s % each_s == 0 else 0
        one.look(count, now_s)
        expected.append(one.need(900.0).readings_s)
        now_s += looks_s
    return expected


def test_who_speaks_each_quarter_of_an_hour_brings_as_much_at_any_time() -> None:
    """Right after it spoke no more is expected than right before: over a day that comes to the same."""
    one = flow()
    expected = bursts(one, hours=4, each_s=QUARTER_S, readings=45)
    known = expected[int(QUARTER_S / LOOK_S_MIN) :]
    assert min(known) == pytest.approx(0.05)
    assert max(known) == pytest.approx(0.05)
    assert one.need(900.0).often_s == one.need(900.0).seldom_s == QUARTER_S


def test_who_is_silent_for_longer_than_it_was_is_silent() -> None:
    """Twice as long as is usual is no silence yet, and of who has spoken all the time it is known in five minutes."""
    one = flow()
    bursts(one, hours=4, each_s=QUARTER_S, readings=45)
    last_s = 4 * 3600 - QUARTER_S
    count = one.often._count
    one.look(count, last_s + SILENT_TIMES * QUARTER_S - 1)
    assert one.need(900.0).readings_s == pytest.approx(0.05)
    one.look(count, last_s + SILENT_TIMES * QUARTER_S)
    assert one.need(900.0).readings_s < 0.045
    quick = flow()
    bursts(quick, hours=1, each_s=LOOK_S_MIN, readings=100)
    quick.look(quick.often._count, 3600 - LOOK_S_MIN + MEMORY_S)
    assert quick.readings_s == 0
    assert 0 < quick.usual_s < 20


def test_what_comes_in_is_followed() -> None:
    """Within minutes where much does; a look too soon says nothing."""
    one = flow()
    for k in range(100):
        one.look(1000 * k, LOOK_S_MIN * k)
    assert one.readings_s == pytest.approx(200)
    now_s, count = 99 * LOOK_S_MIN, 99_000
    one.look(count + 100_000, now_s + LOOK_S_MIN - 1)
    assert one.readings_s == pytest.approx(200)
    for k in range(1, 121):
        one.look(count + 5000 * k, now_s + LOOK_S_MIN * k)
    assert one.need(900.0).readings_s == pytest.approx(1000, rel=0.15)


def test_there_is_no_request_with_nothing_in_it() -> None:
    """How far apart they are is learnt from when something comes: a trickle fills each one that gathers."""
    trickle = flow()
    bursts(trickle, hours=2, each_s=20.0, readings=1)
    assert trickle.need(900.0).often_s == pytest.approx(20.0)
    assert trickle.need(900.0).seldom_s == pytest.approx(GATHERS_S)
    always = flow()
    bursts(always, hours=2, each_s=LOOK_S_MIN, readings=1000)
    assert always.need(900.0).often_s == 1.0
    assert always.need(900.0).seldom_s == pytest.approx(GATHERS_S)


def test_where_nobody_looked_it_is_not_known_that_nothing_came() -> None:
    """After an outage nothing else is expected than before; where nothing was held nobody had to look."""
    one = Apart(1.0)
    one.begin(0, 0.0)
    for k in range(1, 10):
        one.look(k, float(k))
    one.look(5000, 3600.0)
    assert one.seconds == 1.0
    for k in range(1, 60):
        one.rest()
        one.look(5000 + k, 3600.0 + 60.0 * k)
    assert one.seconds == pytest.approx(60.0, rel=0.01)
    # Something came at once after that.
    one.rest()
    one.look(6000, 3600.0 + 60.0 * 59 + 0.5)
    one.look(6000, 9000.0)
    assert one.seconds == pytest.approx(60.0 + NEWEST_SHARE * (1.0 - 60.0), rel=0.01)


def test_the_larger_part_of_what_was_wrong_is_corrected() -> None:
    """Small requests say what requests cost, large ones what readings do; where nothing left nothing is learnt."""
    one = flow()

    def sent(left: int, wire_bytes: float) -> Sent:
        return Sent(Lane.LIVE, Priority.NORMAL, left, left, 7, 0.0, wire_bytes)

    assert one.cost(sent(0, 500.0), 900.0) == 900.0
    assert one.cost(sent(10, 900.0 + 10 * WHOLE_BYTES + 100), 900.0) == pytest.approx(900 + NEWEST_SHARE * 100)
    assert one.cost(sent(1, 1.0), REQUEST_BYTES_MIN) == REQUEST_BYTES_MIN
    assert one.whole_bytes == WHOLE_BYTES
    assert one.cost(sent(1000, 900.0 + 4000), 900.0) == 900.0
    assert one.whole_bytes == pytest.approx(4.0), "what was guessed is believed no more"
    assert one.series == 7
