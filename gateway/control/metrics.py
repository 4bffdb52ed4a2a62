"""The gateway's numbers as Prometheus text. Must not count anything itself, or say what numbers mean."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from gateway.control.exposition import CONTENT_TYPE, exposition
from gateway.control.instruments import family, with_meaning
from gateway.control.process import process_families

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from gateway.core.telemetry import Family, Labels, Telemetry

# Numbers of a source's status and the metric that each is; the sources name bytes that wait in three ways.
SOURCE_NUMBERS: Final = {
    "received": "tidegate_messages_received",
    "acknowledged": "tidegate_messages_acknowledged",
    "bytes_pending": "tidegate_source_pending_bytes",
    "pending_bytes": "tidegate_source_pending_bytes",
    "in_flight_bytes": "tidegate_source_pending_bytes",
    "clients": "tidegate_source_clients",
    "sessions": "tidegate_source_sessions",
    "delivered_again": "tidegate_mqtt_delivered_again",
    "sessions_lost": "tidegate_mqtt_sessions_lost",
    "unacknowledged": "tidegate_mqtt_unacknowledged_messages",
    "window": "tidegate_mqtt_window_messages",
    "messages_held": "tidegate_mqtt_held_messages",
    "bytes": "tidegate_serial_bytes",
    "malformed": "tidegate_serial_malformed",
    "answers_dropped": "tidegate_serial_answers_dropped",
    "since_s": "tidegate_serial_state_seconds",
}
# And those that are counted under names of their own where they happen.
SOURCE_NUMBERS_COUNTED: Final = frozenset(
    {
        *("connects", "connections", "on_disk", "opened", "put_off", "repeated", "unplugged"),
        *("data_points", "log_records", "spans", "pushed_back"),
    }
)
# Of a program with a client, whose numbers have the words of other sources and another meaning.
CLIENT: Final = "client"
CLIENT_NUMBERS: Final = {
    "waiting": "tidegate_client_waiting_readings",
    "data_points": "tidegate_client_data_points",
    "log_records": "tidegate_client_log_records",
    "spans": "tidegate_client_spans",
    "pushed_back": "tidegate_client_pushed_back",
    "dropped": "tidegate_client_dropped_readings",
}
STORE_NUMBERS: Final = {
    "used_bytes": "tidegate_store_used_bytes",
    "max_bytes": "tidegate_store_max_bytes",
    "quarantined": "tidegate_store_quarantined",
    "refused": "tidegate_store_refused",
    "series": "tidegate_series",
    "series_bytes": "tidegate_series_bytes",
}
UPLINK_NUMBERS: Final = {
    "delivered": "tidegate_delivered_readings",
    "held": "tidegate_held_readings",
    "left_out": "tidegate_left_out_readings",
    "maybe_twice": "tidegate_maybe_twice_readings",
    "thinned": "tidegate_thinned_readings",
    "unheard": "tidegate_uplink_unheard_messages",
    "duplicates": "tidegate_uplink_duplicates_removed_readings",
    "attempt": "tidegate_uplink_attempt",
    "retry_in_s": "tidegate_uplink_retry_seconds",
    "waiting_s": "tidegate_uplink_waiting_seconds",
    "goodput_bytes_s": "tidegate_uplink_goodput_bytes_per_second",
    "round_trip_s": "tidegate_uplink_round_trip_seconds",
    "files": "tidegate_uplink_files",
    "files_bytes": "tidegate_uplink_files_bytes",
    "free_bytes": "tidegate_uplink_files_free_bytes",
    "files_deleted": "tidegate_uplink_files_deleted",
    "bytes_deleted": "tidegate_uplink_files_deleted_bytes",
    "bytes_cut": "tidegate_uplink_files_cut_bytes",
    "writing_s": "tidegate_uplink_files_writing_seconds",
}
PUT_OFF_NUMBERS: Final = {
    "leases": "tidegate_uplink_put_off_leases",
    "readings": "tidegate_uplink_put_off_readings",
    "overflowed": "tidegate_uplink_put_off_overflows",
}
UPLINK_TABLES: Final = {
    "held_by_class": ("class", "tidegate_held_by_class_readings"),
    "ledger": ("reason", "tidegate_ledger_readings"),
}

ENDPOINT_NUMBERS: Final = {
    "requests": ("tidegate_uplink_endpoint_requests", 1),
    "bytes_sent": ("tidegate_uplink_endpoint_bytes_sent", 1),
    "failures": ("tidegate_uplink_endpoint_failures", 1),
    "opened": ("tidegate_uplink_endpoint_opened", 1),
    "rtt_ms": ("tidegate_uplink_endpoint_rtt_seconds", 0.001),
    "goodput_bytes_s": ("tidegate_uplink_endpoint_goodput_bytes_per_second", 1),
}
ENDPOINT_STATES: Final = ("closed", "open", "half-open", "asked to wait")

BUDGET_NUMBERS: Final = {
    "spent_bytes": "tidegate_uplink_budget_spent_bytes",
    "limit_bytes": "tidegate_uplink_budget_max_bytes",
}
LINK_BUDGET_NUMBERS: Final = {
    "spent_bytes": "tidegate_link_budget_spent_bytes",
    "limit_bytes": "tidegate_link_budget_max_bytes",
}


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
        yield from with_meaning(self._telemetry.families())
        status = self._status()
        yield from _whole(status)
        sources = status.get("sources", {})
        yield from _each("source", sources, SOURCE_NUMBERS)
        clients = {name: source for name, source in sources.items() if source.get("type") == CLIENT}
        yield from _each("source", clients, CLIENT_NUMBERS)
        yield from _each("uplink", status.get("uplinks", {}), UPLINK_NUMBERS)
        put_off = {name: uplink.get("put_off", {}) for name, uplink in status.get("uplinks", {}).items()}
        yield from _each("uplink", put_off, PUT_OFF_NUMBERS)
        # Of uplinks to brokers it is a number of messages.
        unheard = {name: uplink.get("unheard") for name, uplink in status.get("uplinks", {}).items()}
        silent = {name: told for name, told in unheard.items() if isinstance(told, dict)}
        yield from _each("uplink", silent, {"subjects": "tidegate_uplink_unheard_subjects"})
        yield from _tables(status.get("uplinks", {}))
        yield from _endpoints(status.get("uplinks", {}))
        yield from _budgets(status.get("uplinks", {}))
        yield from _links(status.get("links", {}))
        yield from process_families()


def _whole(status: dict[str, Any]) -> Iterator[Family]:
    yield family("tidegate_healthy", {(): float(bool(status.get("healthy")))})
    for key, name in (("uptime_s", "tidegate_uptime_seconds"), ("accepted", "tidegate_accepted_readings")):
        if key in status:
            yield family(name, {(): status[key]})
    store = status.get("store", {})
    for key, name in STORE_NUMBERS.items():
        if _is_number(store.get(key)):
            yield family(name, {(): store[key]})
    steps: dict[Labels, float] = {}
    for part in store.get("diluted", ()):
        labels: Labels = (("class", part["class"]),)
        steps[labels] = max(steps.get(labels, 0), part["step_s"])
    yield family("tidegate_store_diluted_step_seconds", steps)
    refused = store.get("series_refused", {})
    yield family("tidegate_series_refused", {(("reason", reason),): times for reason, times in refused.items()})


def _each(label: str, parts: dict[str, dict[str, Any]], numbers: dict[str, str]) -> Iterator[Family]:
    """Return the numbers of sources or of uplinks."""
    found: dict[str, dict[Labels, float]] = {name: {} for name in numbers.values()}
    for part, status in parts.items():
        for key, name in numbers.items():
            if _is_number(status.get(key)):
                found[name][(label, part),] = status[key]
    yield from (family(name, values) for name, values in found.items() if values)


def _tables(uplinks: dict[str, dict[str, Any]]) -> Iterator[Family]:
    for key, (label, name) in UPLINK_TABLES.items():
        values: dict[Labels, float] = {
            ((label, word), ("uplink", uplink)): readings
            for uplink, status in uplinks.items()
            for word, readings in status.get(key, {}).items()
        }
        yield family(name, values)


def _endpoints(uplinks: dict[str, dict[str, Any]]) -> Iterator[Family]:
    """Return how each receiver of each uplink is."""
    every = [(name, one) for name, status in uplinks.items() for one in status.get("endpoints", ())]
    for key, (name, unit) in ENDPOINT_NUMBERS.items():
        values: dict[Labels, float] = {
            (("endpoint", one["endpoint"]), ("uplink", uplink)): one[key] * unit for uplink, one in every
        }
        yield family(name, values)
    states: dict[Labels, float] = {
        (("endpoint", one["endpoint"]), ("state", state), ("uplink", uplink)): float(one["state"] == state)
        for uplink, one in every
        for state in ENDPOINT_STATES
    }
    yield family("tidegate_uplink_endpoint_state", states)


def _budgets(uplinks: dict[str, dict[str, Any]]) -> Iterator[Family]:
    """Return what was spent of budgets and what they allow."""
    budgets = {uplink: status["budget"] for uplink, status in uplinks.items() if "budget" in status}
    for key, name in BUDGET_NUMBERS.items():
        values: dict[Labels, float] = {
            (("uplink", uplink), ("window", window.removeprefix("per_"))): numbers[key]
            for uplink, budget in budgets.items()
            for window, numbers in budget.items()
            if window.startswith("per_")
        }
        yield family(name, values)
    wire: dict[Labels, float] = {(("uplink", uplink),): budget["wire_bytes"] for uplink, budget in budgets.items()}
    yield family("tidegate_uplink_wire_bytes", wire)
    free: dict[Labels, float] = {
        (("uplink", uplink),): budget["free"]["spent_bytes"] for uplink, budget in budgets.items() if "free" in budget
    }
    yield family("tidegate_uplink_free_bytes", free)
    steps: dict[Labels, float] = {
        (("class", word), ("uplink", uplink)): part["step_s"]
        for uplink, budget in budgets.items()
        for word, part in budget.get("plan", {}).get("classes", {}).items()
    }
    yield family("tidegate_uplink_thinning_step_seconds", steps)


def _links(links: dict[str, dict[str, Any]]) -> Iterator[Family]:
    """Return how each link is, and who uses it."""
    yield family("tidegate_link_up", {(("link", name),): float(link["state"] == "up") for name, link in links.items()})
    yield family("tidegate_link_wire_bytes", {(("link", name),): link["wire_bytes"] for name, link in links.items()})
    used: dict[Labels, float] = {
        (("link", name), ("uplink", uplink)): 1.0 for name, link in links.items() for uplink in link["used_by"]
    }
    yield family("tidegate_link_used", used)
    for key, name in LINK_BUDGET_NUMBERS.items():
        values: dict[Labels, float] = {
            (("link", link), ("window", window.removeprefix("per_"))): numbers[key]
            for link, status in links.items()
            for window, numbers in status.get("budget", {}).items()
            if window.startswith("per_")
        }
        yield family(name, values)


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
