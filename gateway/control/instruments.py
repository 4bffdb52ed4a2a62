"""Every metric of /metrics: its name, kind, labels and meaning. Must not count anything.

What the parts count (`Telemetry`) and what their status says come together under these names; docs/METRICS.md is made
of them. A name that stands here is never given another meaning.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

from gateway.core.telemetry import Family

if TYPE_CHECKING:
    from collections.abc import Iterable

    from gateway.core.telemetry import Labels

# What a counter's name ends in on the page.
COUNTER_ENDING: Final = "_total"


class Instrument(NamedTuple):
    """One metric. `kind` is "counter" or "gauge"; a counter is named here without its `_total`."""

    name: str
    kind: str
    about: str
    labels: tuple[str, ...] = ()

    @property
    def shown_name(self) -> str:
        """The name on the page."""
        return self.name + (COUNTER_ENDING if self.kind == "counter" else "")


def _all(kind: str, labels: str, **about: str) -> list[Instrument]:
    return [Instrument(name, kind, text, tuple(labels.split())) for name, text in about.items()]


SECTIONS: Final[dict[str, list[Instrument]]] = {
    "The gateway": [
        *_all(
            "gauge",
            "",
            tidegate_healthy="1 while the data path moves, as /healthz says; 0 while it does not.",
            tidegate_uptime_seconds="Time since the gateway started.",
            tidegate_memory_rss_bytes="Resident memory of this process, looked at every ten seconds.",
            tidegate_memory_max_bytes="Resident memory that the hardware profile allows.",
            tidegate_flash_bytes_per_day="Bytes written to flash in a day at the rate of the last hour.",
            tidegate_flash_bytes_per_day_max="Bytes a day that the hardware profile allows to be written to flash.",
            tidegate_flash_commit_interval_seconds="How long arrivals wait to share a commit.",
        ),
        *_all(
            "counter",
            "part",
            tidegate_part_restarts="Times that a source, an uplink or a helper failed and was started again.",
        ),
        *_all("counter", "reason", tidegate_control_refused="Requests to the control port that were not answered."),
    ],
    "What arrives": [
        *_all(
            "counter",
            "source",
            tidegate_messages_received="Messages that a source has read, kept or not yet.",
            tidegate_messages_accepted="Messages that are on disk.",
            tidegate_messages_acknowledged="Messages whose sender was told that they are kept.",
        ),
        *_all("gauge", "source", tidegate_source_pending_bytes="Bytes that were read and are not on disk yet."),
        *_all(
            "counter",
            "source reason",
            tidegate_source_refused="Messages, packets, requests and connections that a source turned away.",
        ),
        *_all("counter", "", tidegate_mapping_mistakes="Messages that a mistake in the gateway itself set aside."),
        *_all(
            "counter",
            "",
            tidegate_findings="Readings that a detector found odd.",
            tidegate_otlp_points_unwatched="Number points of OTLP that no detector sees: their series found no room.",
            tidegate_watching_mistakes="Requests of OTLP metrics that a mistake in the gateway itself left unwatched.",
        ),
        *_all(
            "counter",
            "reason",
            tidegate_findings_lost="Findings that could not be sent, since they found no series or no room.",
        ),
    ],
    "Sources of type mqtt_server": [
        *_all(
            "gauge",
            "source",
            tidegate_source_clients="Clients that are connected.",
            tidegate_source_connections="Open connections, those that have not said who they are included; of sources "
            "of type otlp too.",
            tidegate_source_sessions="Sessions that are remembered, of clients that are connected or may come back.",
        ),
        *_all(
            "counter",
            "source",
            tidegate_source_full="Times that messages found no room and were offered again.",
            tidegate_source_failed="Times that messages were not taken by a mistake in the gateway itself.",
        ),
    ],
    "Sources of type otlp": [
        *_all(
            "counter",
            "source signal",
            tidegate_otlp_requests="Requests that were read, kept or not.",
            tidegate_otlp_readings="Data points, log records and spans that are on disk.",
        ),
        *_all("counter", "source", tidegate_otlp_pushed_back="Requests that found no room and may come again."),
    ],
    "A Python program with a client": [
        *_all("gauge", "source", tidegate_client_waiting_readings="Readings that were sent and are not on disk yet."),
        *_all(
            "counter",
            "source",
            tidegate_client_data_points="Data points that were handed to the store.",
            tidegate_client_log_records="Log records that were handed to the store.",
            tidegate_client_spans="Spans that were handed to the store.",
            tidegate_client_pushed_back="Calls that found no room.",
            tidegate_client_dropped_readings="Readings that were dropped then, as the program wants it.",
        ),
    ],
    "Sources of type mqtt": [
        *_all(
            "counter",
            "source",
            tidegate_mqtt_connects="Connections to the broker.",
            tidegate_mqtt_subscriptions_refused="Subscriptions that the broker refused.",
            tidegate_mqtt_delivered_again="Messages that the broker delivered again.",
            tidegate_mqtt_sessions_lost="Times that the broker had forgotten our session, and what it kept for it.",
        ),
        *_all("counter", "source state", tidegate_mqtt_failures="Connections and subscriptions that failed."),
        *_all(
            "gauge",
            "source",
            tidegate_mqtt_unacknowledged_messages="Messages that wait for their acknowledgement.",
            tidegate_mqtt_window_messages="Messages that the broker lets wait at once, as far as that was seen.",
            tidegate_mqtt_held_messages="Messages that wait since there was no room for them.",
        ),
    ],
    "Sources of type serial": [
        *_all(
            "counter",
            "source",
            tidegate_serial_opened="Times that the port was opened.",
            tidegate_serial_unplugged="Times that the port went away while it was read.",
            tidegate_serial_bytes="Bytes that were read.",
            tidegate_serial_malformed="Readings or messages that could not be used.",
            tidegate_serial_repeated="Frames that came again and were not taken twice.",
            tidegate_serial_put_off="Messages that found no room and are offered again.",
            tidegate_serial_answers_dropped="Answers to devices that the line had no room for.",
        ),
        *_all("counter", "source reason", tidegate_serial_rejected="Frames or lines that were dropped."),
        *_all(
            "gauge", "source", tidegate_serial_state_seconds="Time since the source came into the state that it is in."
        ),
    ],
    "The store": [
        *_all(
            "counter",
            "",
            tidegate_accepted_readings="Readings on disk and acknowledged, what the ledger counts included.",
        ),
        *_all(
            "gauge",
            "",
            tidegate_store_used_bytes="Disk that the store takes.",
            tidegate_store_max_bytes="Disk that it may take.",
            tidegate_store_quarantined="Payloads of which not all could be used and that are set aside.",
            tidegate_store_refused="Segments that an uplink refused for good and that are set aside.",
            tidegate_series="Series that are told apart.",
            tidegate_series_bytes="Memory that they take.",
        ),
        *_all(
            "counter",
            "",
            tidegate_store_commits="Transactions that reached the medium.",
            tidegate_store_rewritten_segments="Segments that took the place of others, to make room on a full store.",
            tidegate_store_rewritten_bytes="Bytes of these: less than what came in, however often it is done.",
            tidegate_series_forgotten="Series that nothing was held of and nobody used.",
            tidegate_store_series_file_errors="Times that tidegate.series, a copy of series' names, was not written.",
        ),
        *_all(
            "gauge",
            "class",
            tidegate_store_diluted_step_seconds="Of each series four readings are held for so long, at the coarsest.",
        ),
        *_all("counter", "cause", tidegate_store_pushed_back="Times that arrivals found no room."),
        *_all("counter", "reason", tidegate_series_refused="Times that a reading found no series."),
    ],
    "Uplinks": [
        *_all(
            "counter",
            "uplink",
            tidegate_delivered_readings="Readings that the far side has.",
            tidegate_maybe_twice_readings="Readings that were perhaps delivered twice; never fewer than were.",
            tidegate_thinned_readings="Readings sent in place of more that are held: each may come twice, too.",
            tidegate_left_out_readings="Readings that the uplink does not take: classes, signals, mappings.",
            tidegate_uplink_unheard_messages="Messages that a broker took and nobody subscribed to.",
            tidegate_uplink_duplicates_removed_readings="Readings sent again that a stream had, and threw away.",
        ),
        *_all("gauge", "uplink", tidegate_held_readings="Readings still to be delivered."),
        *_all(
            "gauge",
            "uplink window",
            tidegate_uplink_budget_spent_bytes="Bytes on the wire in this hour, day or month that has a budget.",
            tidegate_uplink_budget_max_bytes="Bytes on the wire that the budget allows in it.",
        ),
        *_all(
            "gauge",
            "class uplink",
            tidegate_uplink_thinning_step_seconds="Of each series four readings go for so long; 0: all do.",
        ),
        *_all(
            "counter",
            "uplink",
            tidegate_uplink_wire_bytes="Bytes on the wire of an uplink that is limited.",
            tidegate_uplink_free_bytes="Bytes on the wire that went in free hours and count against no allowance.",
        ),
        *_all("gauge", "uplink class", tidegate_held_by_class_readings="Readings still to be delivered, by class."),
        *_all(
            "counter",
            "uplink reason",
            tidegate_ledger_readings="Readings that will not be delivered: lost, or not wanted.",
        ),
        *_all(
            "counter",
            "uplink",
            tidegate_uplink_readings_sent="Readings that the far side has taken since the start.",
            tidegate_uplink_requests="Requests that were begun.",
            tidegate_uplink_bytes_sent="Bytes that were sent, headers included.",
        ),
        *_all(
            "counter", "uplink kind", tidegate_uplink_failures="Requests that are to be sent again, by what to do next."
        ),
        *_all(
            "gauge",
            "uplink",
            tidegate_uplink_attempt="Failures in a row, after each of which it waits.",
            tidegate_uplink_retry_seconds="Time until it tries again.",
            tidegate_uplink_waiting_seconds="How long the request under way has waited, for an answer or a connection.",
            tidegate_uplink_goodput_bytes_per_second="Bytes of requests that its way takes in a second, lately.",
            tidegate_uplink_round_trip_seconds="How long packets take there and back, as the kernel measures it.",
            tidegate_uplink_put_off_leases="Leases in hand that a receiver failed at (500), or nobody hears, put off.",
            tidegate_uplink_put_off_readings="Readings of them that it has not taken.",
            tidegate_uplink_unheard_subjects="Subjects of NATS at which no stream listens: what goes there waits.",
        ),
        *_all(
            "counter",
            "uplink",
            tidegate_uplink_put_off_overflows="Times that there was no room for one more of them.",
        ),
        *_all(
            "counter",
            "endpoint uplink",
            tidegate_uplink_endpoint_requests="Requests that were begun with this receiver.",
            tidegate_uplink_endpoint_bytes_sent="Bytes that were sent to it, headers included.",
            tidegate_uplink_endpoint_failures="Requests to it that failed in a way that says something of it.",
            tidegate_uplink_endpoint_opened="Times that it was left out since too many of them failed.",
        ),
        *_all(
            "gauge",
            "endpoint uplink",
            tidegate_uplink_endpoint_rtt_seconds="Time from a request's end to its answer, lately.",
            tidegate_uplink_endpoint_goodput_bytes_per_second="Bytes of requests that it takes in a second, lately.",
        ),
        *_all(
            "gauge",
            "endpoint state uplink",
            tidegate_uplink_endpoint_state="1 for the state that it is in: closed is sent to, open is left out.",
        ),
        *_all(
            "gauge",
            "uplink",
            tidegate_uplink_files="Files of an uplink of type file on its disk, when that was seen last.",
            tidegate_uplink_files_bytes="What they take there.",
            tidegate_uplink_files_free_bytes="What else that disk has room for.",
            tidegate_uplink_files_writing_seconds="For how long the record under way is being written.",
        ),
        *_all(
            "counter",
            "uplink",
            tidegate_uplink_files_deleted="Files that were deleted to make room for the next.",
            tidegate_uplink_files_deleted_bytes="What was in them.",
            tidegate_uplink_files_cut_bytes="What was cut off after a restart, since it was sent again.",
        ),
    ],
    "Links": [
        *_all("gauge", "link", tidegate_link_up="1 while something can leave by the link; 0 while nothing can."),
        *_all("counter", "link", tidegate_link_wire_bytes="Bytes on the wire over the link since the start."),
        *_all("gauge", "link uplink", tidegate_link_used="1 for the link that an uplink uses now."),
        *_all(
            "gauge",
            "link window",
            tidegate_link_budget_spent_bytes="Bytes on the wire in this hour, day or month, of all that use the link.",
            tidegate_link_budget_max_bytes="Bytes on the wire that the link's budget allows in it.",
        ),
    ],
    "The process, as every exporter names it": [
        *_all(
            "gauge",
            "",
            process_virtual_memory_bytes="Virtual memory size in bytes.",
            process_resident_memory_bytes="Resident memory size in bytes.",
            process_start_time_seconds="Start time of the process since unix epoch in seconds.",
            process_open_fds="Number of open file descriptors.",
            process_max_fds="Maximum number of open file descriptors.",
        ),
        *_all("counter", "", process_cpu_seconds="Total user and system CPU time spent in seconds."),
    ],
}
INSTRUMENTS: Final = {one.name: one for section in SECTIONS.values() for one in section}


def family(name: str, values: dict[Labels, float]) -> Family:
    """Return a declared metric with its values."""
    declared = INSTRUMENTS[name]
    return Family(name, declared.about, declared.kind, values)


def with_meaning(families: Iterable[Family]) -> list[Family]:
    """Return what was counted with what it means; what nobody declared goes by its name."""
    return [
        Family(one.name, INSTRUMENTS[one.name].about if one.name in INSTRUMENTS else one.name, one.kind, one.values)
        for one in families
    ]
