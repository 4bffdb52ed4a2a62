"""The gateway's numbers as Prometheus text. Must not count anything itself."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from prometheus_client import CollectorRegistry, ProcessCollector, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, UnknownMetricFamily
from prometheus_client.registry import Collector

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from prometheus_client.metrics_core import Metric

    from gateway.core.telemetry import Telemetry

CONTENT_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"


class GatewayCollector(Collector):
    """Turns counters and the status into metric families at each scrape."""

    def __init__(self, *, telemetry: Telemetry, status: Callable[[], dict[str, Any]]) -> None:
        self._telemetry = telemetry
        self._status = status

    def collect(self) -> Iterator[Metric]:
        """Yield every family."""
        for family in self._telemetry.families():
            kind = CounterMetricFamily if family.kind == "counter" else GaugeMetricFamily
            metric = kind(family.name, family.help or family.name)
            ending = "_total" if family.kind == "counter" else ""
            for labels, value in family.values.items():
                metric.add_sample(metric.name + ending, dict(labels), value)
            yield metric
        status = self._status()
        yield from _whole(status)
        yield from _sources(status.get("sources", {}))
        yield from _uplinks(status.get("uplinks", {}))

    def describe(self) -> list[Metric]:
        """Return nothing: names are known only when they are collected."""
        return []


class MetricsPage:
    """What /metrics answers, made anew at each request."""

    content_type = CONTENT_TYPE

    def __init__(self, *, telemetry: Telemetry, status: Callable[[], dict[str, Any]]) -> None:
        self._registry = CollectorRegistry(auto_describe=False)
        self._registry.register(GatewayCollector(telemetry=telemetry, status=status))
        ProcessCollector(registry=self._registry)

    def render(self) -> bytes:
        """Return the page in the text format 0.0.4."""
        return generate_latest(self._registry)


def _whole(status: dict[str, Any]) -> Iterator[Metric]:
    yield GaugeMetricFamily(
        "tidegate_healthy", "1 while the data path moves.", value=float(bool(status.get("healthy")))
    )
    if "uptime_s" in status:
        yield GaugeMetricFamily("tidegate_uptime_seconds", "Since the gateway started.", value=status["uptime_s"])
    if "accepted" in status:
        yield CounterMetricFamily(
            "tidegate_accepted_readings",
            "Readings on disk and acknowledged, malformed ones included.",
            value=status["accepted"],
        )
    store = status.get("store", {})
    for key, about in (
        ("used_bytes", "Bytes the shelf holds."),
        ("max_bytes", "Bytes the shelf may hold."),
        ("quarantined", "Payloads that nobody understood and that are set aside."),
        ("refused", "Segments that an uplink refused for good and that are set aside."),
    ):
        if _is_number(store.get(key)):
            yield GaugeMetricFamily(f"tidegate_store_{key}", about, value=store[key])
    for key, about in (("series", "Series that are told apart."), ("series_bytes", "Memory that they take.")):
        if _is_number(store.get(key)):
            yield GaugeMetricFamily(f"tidegate_{key}", about, value=store[key])
    refused = CounterMetricFamily(
        "tidegate_series_refused", "Times that a reading found no series, by reason.", labels=["reason"]
    )
    for reason, times in store.get("series_refused", {}).items():
        refused.add_metric([reason], times)
    yield refused


def _sources(sources: dict[str, dict[str, Any]]) -> Iterator[Metric]:
    keys = sorted({key for source in sources.values() for key, value in source.items() if _is_number(value)})
    for key in keys:
        metric = UnknownMetricFamily(f"tidegate_source_{key}", f"`{key}` of each source's status.", labels=["source"])
        for name, source in sources.items():
            if _is_number(source.get(key)):
                metric.add_metric([name], source[key])
        yield metric


def _uplinks(uplinks: dict[str, dict[str, Any]]) -> Iterator[Metric]:
    delivered = CounterMetricFamily("tidegate_delivered_readings", "Readings the far side has.", labels=["uplink"])
    held = GaugeMetricFamily("tidegate_held_readings", "Readings still to be delivered.", labels=["uplink"])
    ledger = CounterMetricFamily(
        "tidegate_ledger_readings",
        "Readings that will not be delivered, by reason.",
        labels=["uplink", "reason"],
    )
    twice = CounterMetricFamily("tidegate_maybe_twice_readings", "Readings possibly sent twice.", labels=["uplink"])
    for name, uplink in uplinks.items():
        for metric, key in ((delivered, "delivered"), (held, "held"), (twice, "maybe_twice")):
            if _is_number(uplink.get(key)):
                metric.add_metric([name], uplink[key])
        for reason, readings in uplink.get("ledger", {}).items():
            ledger.add_metric([name, reason], readings)
    yield from (delivered, held, ledger, twice)


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
