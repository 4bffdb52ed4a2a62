"""What was lost is said: here in a log line, upstream in a log record, once."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

from opentelemetry.proto.logs.v1.logs_pb2 import LogRecord

from gateway.core.clock import FakeClock
from gateway.core.contracts import FullError
from gateway.herald import Herald

if TYPE_CHECKING:
    import pytest

    from gateway.core.batch import LogRecords


class FakeTimeline:
    def wall_from(self, _: int) -> int | None:
        return None


class FakeStore:
    """A ledger that a test writes, and what was sent."""

    def __init__(self) -> None:
        self.ledger: dict[str, int] = {}
        self.sent: list[LogRecords] = []
        self.timeline = FakeTimeline()
        self.number: int | None = 7
        self.full = False

    def status(self) -> dict[str, Any]:
        return {"uplinks": {"cloud": {"ledger": dict(self.ledger)}}}

    def resolve(self, _: object, *, is_own: bool) -> int | None:
        return self.number

    async def append(self, _pieces: object, *, logs: LogRecords) -> None:
        if self.full:
            raise FullError("full")
        self.sent.append(logs)


def records(store: FakeStore) -> list[LogRecord]:
    return [LogRecord.FromString(body) for logs in store.sent for body in logs.bodies]


async def test_a_loss_is_said_here_and_upstream_once(caplog: pytest.LogCaptureFixture) -> None:
    """With what is new and the total; a second look at the same says nothing."""
    store = FakeStore()
    store.ledger = {"malformed": 3}
    herald = Herald(store=store, clock=FakeClock())
    store.ledger = {"malformed": 5, "evicted_full": 84_000}
    with caplog.at_level(logging.WARNING):
        await herald.look()
        await herald.look()
    first, second = records(store)
    assert first.body.string_value == "uplink cloud: 2 readings will not be delivered: malformed (5 in all)"
    assert {a.key: a.value.int_value for a in second.attributes if "l.r" in a.key or "total" in a.key}
    assert "84,000 readings will not be delivered: evicted_full" in caplog.text
    assert len(caplog.records) == 2


async def test_nothing_new_is_not_said() -> None:
    """What stood in the ledger at the start was said by an earlier run."""
    store = FakeStore()
    store.ledger = {"malformed": 3}
    await Herald(store=store, clock=FakeClock()).look()
    assert store.sent == []


async def test_on_a_full_shelf_it_is_said_again_later() -> None:
    """The local line comes at once, the record when there is room."""
    store = FakeStore()
    herald = Herald(store=store, clock=FakeClock())
    store.ledger, store.full = {"malformed": 1}, True
    await herald.look()
    store.full = False
    await herald.look()
    assert len(records(store)) == 1


async def test_without_a_series_left_it_is_said_here_alone(caplog: pytest.LogCaptureFixture) -> None:
    """And that it could not be sent."""
    store = FakeStore()
    herald = Herald(store=store, clock=FakeClock())
    store.ledger, store.number = {"malformed": 1}, None
    await herald.look()
    assert store.sent == []
    assert "max_series is reached" in caplog.text
