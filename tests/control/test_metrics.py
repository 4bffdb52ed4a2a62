"""The gateway's numbers as Prometheus text, read back by Prometheus' own parser."""

from __future__ import annotations

import subprocess
import sys

import pytest
from prometheus_client.parser import text_string_to_metric_families

from gateway.control.instruments import INSTRUMENTS
from gateway.control.metrics import MetricsPage
from gateway.core.contracts import Priority
from gateway.core.telemetry import Telemetry
from gateway.store.policy import Lane
from gateway.store.spots import Outlook
from gateway.uplinks.scheduling import Scheduler, WindowLeft

STATUS = {
    "accepted": 12,
    "healthy": True,
    "uptime_s": 3.5,
    "store": {
        "used_bytes": 4096,
        "max_bytes": 8192,
        "note": "text",
        "series": 9,
        "series_refused": {"share": 4},
        "quarantined": 3,
        "refused": 1,
    },
    "sources": {
        "plant": {"state": "connected", "received": 7, "up": True, "bytes_pending": 11},
        "line": {"state": "open", "malformed": 2, "pending_bytes": 12, "odd": 1},
        "direct": {"in_flight_bytes": 13},
    },
    "uplinks": {
        "cloud": {
            "delivered": 5,
            "held": 6,
            "held_by_class": {"critical": 1, "normal": 5, "bulk": 0},
            "ledger": {"expired": 1},
            "maybe_twice": 2,
            "state": "sending",
        },
        "odd": {"held": 0},
    },
}


def samples(telemetry: Telemetry, status: dict) -> dict[tuple, float]:
    text = MetricsPage(telemetry=telemetry, status=lambda: status).render().decode()
    return {
        (sample.name, *sorted(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def test_what_is_counted_is_shown() -> None:
    """Counters with _total, gauges without, odd label values escaped."""
    telemetry = Telemetry()
    telemetry.count("tidegate_messages", 3, source='a"b\\c\nd')
    telemetry.gauge("tidegate_clients", 2)
    found = samples(telemetry, {})
    assert found["tidegate_messages_total", ("source", 'a"b\\c\nd')] == 3
    assert found["tidegate_clients",] == 2


def test_what_is_diluted_is_shown_by_its_coarsest_step() -> None:
    """An alert on it tells of an outage that is longer than the store was made for."""
    diluted = [{"class": "bulk", "step_s": 60}, {"class": "bulk", "step_s": 900}, {"class": "normal", "step_s": 10}]
    found = samples(Telemetry(), {"store": {"diluted": diluted}})
    steps = {key[1][1]: value for key, value in found.items() if key[0] == "tidegate_store_diluted_step_seconds"}
    assert steps == {"bulk": 900, "normal": 10}


def test_the_sum_that_users_check_can_be_made_from_metrics_alone() -> None:
    """accepted = delivered + held + ledger, for each uplink."""
    found = samples(Telemetry(), STATUS)
    cloud = ("uplink", "cloud")
    parts = [
        found["tidegate_delivered_readings_total", cloud],
        found["tidegate_held_readings", cloud],
        found["tidegate_ledger_readings_total", ("reason", "expired"), cloud],
    ]
    assert sum(parts) == found["tidegate_accepted_readings_total",] == 12
    assert found["tidegate_maybe_twice_readings_total", cloud] == 2


def test_what_is_held_is_shown_by_class() -> None:
    """Each class that there is, with nothing in it too: an alert on one needs its zero."""
    found = samples(Telemetry(), STATUS)
    by_class = {key[1][1]: value for key, value in found.items() if key[0] == "tidegate_held_by_class_readings"}
    assert by_class == {"critical": 1, "normal": 5, "bulk": 0}
    assert ("tidegate_held_by_class_readings", ("class", "critical"), ("uplink", "cloud")) in found


def test_numbers_of_sources_are_shown_and_words_are_not() -> None:
    """Under one name whatever kind of source says it; what nobody declared is left out."""
    found = samples(Telemetry(), STATUS)
    assert found["tidegate_messages_received_total", ("source", "plant")] == 7
    for source, size_bytes in (("plant", 11), ("line", 12), ("direct", 13)):
        assert found["tidegate_source_pending_bytes", ("source", source)] == size_bytes
    assert found["tidegate_serial_malformed_total", ("source", "line")] == 2
    assert not [key for key in found if key[0].startswith(("tidegate_source_state", "tidegate_source_up"))]
    assert not [key for key in found if "odd" in key[0]]
    assert found["tidegate_store_used_bytes",] == 4096
    assert (found["tidegate_store_quarantined",], found["tidegate_store_refused",]) == (3, 1)
    assert found["tidegate_healthy",] == 1
    assert found["tidegate_series",] == 9
    assert found["tidegate_series_refused_total", ("reason", "share")] == 4


def test_the_process_is_shown() -> None:
    """Memory and CPU, as every exporter names them."""
    assert samples(Telemetry(), {})["process_resident_memory_bytes",] > 1e6


@pytest.mark.parametrize("status", [{}, {"store": {}, "sources": {}, "uplinks": {}}])
def test_an_empty_status_is_no_error(status: dict) -> None:
    """A gateway that has just started."""
    assert samples(Telemetry(), status)["tidegate_healthy",] == 0


def test_each_name_is_announced_once_with_what_it_is() -> None:
    """Two TYPE lines would be refused; one that says nothing helps nobody."""
    telemetry = Telemetry()
    telemetry.count("tidegate_messages_accepted", 3, source="plant")
    text = MetricsPage(telemetry=telemetry, status=lambda: STATUS).render().decode()
    announced = [line.split(" ", 3)[2:] for line in text.splitlines() if line.startswith("# TYPE")]
    assert len({name for name, _ in announced}) == len(announced)
    assert {kind for _, kind in announced} == {"counter", "gauge"}
    declared = {one.shown_name: one for one in INSTRUMENTS.values()}
    helps = dict(line.split(" ", 3)[2:] for line in text.splitlines() if line.startswith("# HELP"))
    assert {name: declared[name].about for name in helps} == helps


def test_it_is_written_without_the_library_that_reads_it() -> None:
    """That one takes servers and OpenSSL along: a fifth of the memory that a gateway may have."""
    code = """
import sys
from gateway.net import tls
assert tls.leave_out()
from gateway.control.metrics import MetricsPage
from gateway.core.telemetry import Telemetry
assert MetricsPage(telemetry=Telemetry(), status=dict).render()
assert "libcrypto" not in open("/proc/self/maps").read()
print(*sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not {"prometheus_client", "http.server", "wsgiref", "urllib.request"} & set(done.stdout.split())


def test_budgets_are_shown_by_window() -> None:
    """What is spent, what may be, and the bytes on the wire."""
    budget = {"rate_bit_s": 9600, "per_day": {"limit_bytes": 9, "spent_bytes": 5, "ends_in_s": 7}, "wire_bytes": 55}
    found = samples(Telemetry(), {"uplinks": {"cloud": {"budget": budget}, "odd": {}}})
    labels = (("uplink", "cloud"), ("window", "day"))
    assert found["tidegate_uplink_budget_spent_bytes", *labels] == 5
    assert found["tidegate_uplink_budget_max_bytes", *labels] == 9
    assert found["tidegate_uplink_wire_bytes_total", ("uplink", "cloud")] == 55
    assert not any(name == "tidegate_uplink_free_bytes_total" for name, *_ in found)
    budget["free"] = {"is_free": False, "ends_in_s": None, "begins_in_s": 9, "spent_bytes": 33}
    found = samples(Telemetry(), {"uplinks": {"cloud": {"budget": budget}}})
    assert found["tidegate_uplink_free_bytes_total", ("uplink", "cloud")] == 33


def test_thinning_is_shown_by_class() -> None:
    """As the scheduler tells it: at which step, and how many readings left thinned."""
    scheduler = Scheduler(1.0)
    for now_s, arrived in ((0.0, 0), (100.0, 20_000)):
        outlook = Outlook(frozenset({(Lane.LIVE, Priority.NORMAL)}), 0, (arrived // 1000, arrived, 0), 0.3)
        scheduler.decide(now_s, windows=[WindowLeft("day", 12e6, 86_400.0)], rate=None, outlook=outlook)
    budget = {"per_day": {"limit_bytes": 9, "spent_bytes": 5, "ends_in_s": 7}, "wire_bytes": 5}
    budget["plan"] = scheduler.told()
    found = samples(Telemetry(), {"uplinks": {"cloud": {"budget": budget, "thinned": 17}}})
    steps = {key[1][1]: value for key, value in found.items() if key[0] == "tidegate_uplink_thinning_step_seconds"}
    assert steps == {"critical": 0, "normal": scheduler.allocation.classes[Priority.NORMAL].step_s}
    assert steps["normal"] > 0
    assert found["tidegate_thinned_readings_total", ("uplink", "cloud")] == 17
    assert found["tidegate_uplink_budget_spent_bytes", ("uplink", "cloud"), ("window", "day")] == 5


def test_each_receiver_of_an_uplink_is_shown() -> None:
    """With the state that it is in among all there are, so that an alert can be on each."""
    one = {
        "endpoint": "https://a:4318", "state": "open", "requests": 7, "bytes_sent": 900, "failures": 3, "opened": 1,
        "rtt_ms": 250.0, "goodput_bytes_s": 8000, "last_error": "no connection",
    }  # fmt: skip
    found = samples(Telemetry(), {"uplinks": {"cloud": {"attempt": 2, "retry_in_s": 1.5, "endpoints": [one]}}})
    whose = (("endpoint", "https://a:4318"), ("uplink", "cloud"))
    assert found["tidegate_uplink_endpoint_requests_total", *whose] == 7
    assert found["tidegate_uplink_endpoint_opened_total", *whose] == 1
    assert found["tidegate_uplink_endpoint_rtt_seconds", *whose] == 0.25
    assert found["tidegate_uplink_attempt", ("uplink", "cloud")] == 2
    assert found["tidegate_uplink_retry_seconds", ("uplink", "cloud")] == 1.5
    states = {key[2][1]: value for key, value in found.items() if key[0] == "tidegate_uplink_endpoint_state"}
    assert states == {"closed": 0, "open": 1, "half-open": 0, "asked to wait": 0}


def test_what_is_put_off_is_shown() -> None:
    """And how often there was no room for more of it; an uplink that says nothing of it has none."""
    put_off = {"leases": 2, "readings": 5, "overflowed": 1}
    found = samples(Telemetry(), {"uplinks": {"cloud": {"put_off": put_off}, "odd": {}}})
    assert found["tidegate_uplink_put_off_leases", ("uplink", "cloud")] == 2
    assert found["tidegate_uplink_put_off_readings", ("uplink", "cloud")] == 5
    assert found["tidegate_uplink_put_off_overflows_total", ("uplink", "cloud")] == 1


def test_subjects_without_a_stream_are_shown() -> None:
    """Of uplinks to NATS alone."""
    found = samples(Telemetry(), {"uplinks": {"cloud": {"unheard": {"subjects": 3}}, "odd": {}, "b": {"unheard": 7}}})
    assert found["tidegate_uplink_unheard_subjects", ("uplink", "cloud")] == 3
    # To a broker it is messages that nobody wanted.
    assert found["tidegate_uplink_unheard_messages_total", ("uplink", "b")] == 7


def test_how_long_a_request_waits_is_shown() -> None:
    """An alert may be on a receiver that hangs, where each request takes until it is given up."""
    found = samples(Telemetry(), {"uplinks": {"cloud": {"waiting_for": "an answer", "waiting_s": 7.4}, "odd": {}}})
    assert found["tidegate_uplink_waiting_seconds", ("uplink", "cloud")] == 7.4


def test_links_are_shown_with_who_uses_them() -> None:
    """An alert may be on one that is down, or on the dear one being used."""
    links = {
        "ethernet": {"state": "down", "used_by": [], "wire_bytes": 7},
        "lte": {
            "state": "up",
            "used_by": ["cloud"],
            "wire_bytes": 9,
            "budget": {"per_day": {"limit_bytes": 9, "spent_bytes": 5, "ends_in_s": 7}, "rate_bit_s": 8},
        },
    }
    found = samples(Telemetry(), {"links": links})
    assert found["tidegate_link_up", ("link", "ethernet")] == 0
    assert found["tidegate_link_up", ("link", "lte")] == 1
    assert found["tidegate_link_wire_bytes_total", ("link", "lte")] == 9
    assert found["tidegate_link_used", ("link", "lte"), ("uplink", "cloud")] == 1
    assert found["tidegate_link_budget_spent_bytes", ("link", "lte"), ("window", "day")] == 5
    assert found["tidegate_link_budget_max_bytes", ("link", "lte"), ("window", "day")] == 9
