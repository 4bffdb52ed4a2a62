"""The gateway's numbers as Prometheus text. Must not count anything itself."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from gateway.control.exposition import CONTENT_TYPE, exposition
from gateway.control.process import process_families
from gateway.core.telemetry import Family

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from gateway.core.telemetry import Telemetry


class MetricsPage:
    """What /metrics answers, made anew at each request."""

    content_type = CONTENT_TYPE

    def __init__(self, *, telemetry: Telemetry, status: Callable[[], dict[str, Any]]) -> None:
        self._telemetry = telemetry
        self._status = status

    def render(self) -> bytes:
        """Return the page in the text format 0.0.4."""
        return exposition(self._families())

    def _families(self) -> Iterator[Family]:
        for family in self._telemetry.families():
            yield Family(family.name, family.help or family.name, family.kind, family.values)
        status = self._status()
        yield from _whole(status)
        yield from _sources(status.get("sources", {}))
        yield from _uplinks(status.get("uplinks", {}))
        yield from process_families()


def _whole(status: dict[str, Any]) -> Iterator[Family]:
    yield Family.single("tidegate_healthy", "1 while the data path moves.", "gauge", float(bool(status.get("healthy"))))
    if "uptime_s" in status:
        yield Family.single("tidegate_uptime_seconds", "Since the gateway started.", "gauge", status["uptime_s"])
    if "accepted" in status:
        yield Family.single(
            "tidegate_accepted_readings",
            "Readings on disk and acknowledged, malformed ones included.",
            "counter",
            status["accepted"],
        )
    store = status.get("store", {})
    for key, about in (
        ("used_bytes", "Bytes the shelf holds."),
        ("max_bytes", "Bytes the shelf may hold."),
        ("quarantined", "Payloads that nobody understood and that are set aside."),
        ("refused", "Segments that an uplink refused for good and that are set aside."),
    ):
        if _is_number(store.get(key)):
            yield Family.single(f"tidegate_store_{key}", about, "gauge", store[key])
    for key, about in (("series", "Series that are told apart."), ("series_bytes", "Memory that they take.")):
        if _is_number(store.get(key)):
            yield Family.single(f"tidegate_{key}", about, "gauge", store[key])
    refused = Family("tidegate_series_refused", "Times that a reading found no series, by reason.", "counter")
    for reason, times in store.get("series_refused", {}).items():
        refused.values[("reason", reason),] = times
    yield refused


def _sources(sources: dict[str, dict[str, Any]]) -> Iterator[Family]:
    keys = sorted({key for source in sources.values() for key, value in source.items() if _is_number(value)})
    for key in keys:
        family = Family(f"tidegate_source_{key}", f"`{key}` of each source's status.", "untyped")
        for name, source in sources.items():
            if _is_number(source.get(key)):
                family.values[("source", name),] = source[key]
        yield family


def _uplinks(uplinks: dict[str, dict[str, Any]]) -> Iterator[Family]:
    delivered = Family("tidegate_delivered_readings", "Readings the far side has.", "counter")
    held = Family("tidegate_held_readings", "Readings still to be delivered.", "gauge")
    by_class = Family("tidegate_held_by_class_readings", "Readings still to be delivered, by class.", "gauge")
    ledger = Family("tidegate_ledger_readings", "Readings that will not be delivered, by reason.", "counter")
    twice = Family("tidegate_maybe_twice_readings", "Readings possibly sent twice.", "counter")
    for name, uplink in uplinks.items():
        for family, key in ((delivered, "delivered"), (held, "held"), (twice, "maybe_twice")):
            if _is_number(uplink.get(key)):
                family.values[("uplink", name),] = uplink[key]
        for word, readings in uplink.get("held_by_class", {}).items():
            by_class.values[("class", word), ("uplink", name)] = readings
        for reason, readings in uplink.get("ledger", {}).items():
            ledger.values[("reason", reason), ("uplink", name)] = readings
    yield from (delivered, held, by_class, ledger, twice)


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
