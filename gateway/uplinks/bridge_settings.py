"""What can be said of an uplink to an MQTT broker in the config, and what is refused by name. Must not read secrets."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Final, Literal

import msgspec
from msgspec import Meta

from gateway.core.checks import Checked, Problem, check
from gateway.core.units import Duration, Size
from gateway.net.mqtt_address import parse_url
from gateway.uplinks.balance import FAILOVER
from gateway.uplinks.budget_settings import BudgetSettings
from gateway.uplinks.endpoint_settings import BreakerSettings, EndpointSettings, LinkNames, warnings_of_endpoints
from gateway.uplinks.publishing import (
    JSON,
    OTLP,
    AttemptTimeout,
    BacklogShare,
    Balance,
    BatchInterval,
    BatchReadingsMax,
    Breaker,
    Budget,
    ConnectionMaxAge,
    ConnectionMaxIdle,
    ConnectTimeout,
    Mappings,
    Password,
    Retry,
    StopGrace,
    TimeUnit,
    bare_of,
    check_names,
    in_the_open,
    names_of,
    problems_of_urls,
    targets_of,
)
from gateway.uplinks.publishing import fill as fill_in
from gateway.uplinks.settings import (
    BATCH_READINGS_MAX,
    REQUEST_BYTES_MAX,
    Classes,
    Evidence,
    OtlpUplinkSettings,
    RetrySettings,
    SignalNames,
    TlsSettings,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

OTLP_TOPIC: Final = "tidegate/{gateway}/{signal}"
HOLD_UNHEARD: Final = "hold"
JSON_TOPIC: Final = "tidegate/{gateway}/{device}/{metric}"
# What stands in a topic, in UTF-8 (MQTT 5.0 section 1.5.4), leaves room for what is filled in.
TOPIC_CHARS_MAX: Final = 1024
KEEPALIVE_S_MAX: Final = 65535
INFLIGHT_MAX: Final = 1000


def _about(text: str, **bounds: Any) -> Meta:
    return Meta(description=text, **bounds)


class MqttUplinkSettings(
    Checked, msgspec.Struct, tag_field="type", tag="mqtt", kw_only=True, forbid_unknown_fields=True, frozen=True
):
    """An MQTT broker: what is held is published there, and goes when the broker has acknowledged it."""

    name: Annotated[str, _about("What status, metrics and the ledger call it.", min_length=1)]
    url: Annotated[str, _about("mqtt://, mqtts://, ws:// or wss:// with host, and port if not the usual one.")] = ""
    urls: Annotated[
        tuple[str | EndpointSettings, ...],
        _about(
            'Several brokers of one cluster instead of one: addresses, or tables like { url = "…", weight = 2 }.',
            max_length=8,
        ),
    ] = ()
    balance: Balance = FAILOVER
    payload: Annotated[
        Literal["otlp", "json"],
        _about(
            '"otlp" is what an OTLP receiver would get, in protobuf, one message for each request; "json" a message '
            'for each reading, like {"value":20.5,"ts":1790000000000,"unit":"Cel"}, and otlp for what is no number.'
        ),
    ] = "otlp"
    topic: Annotated[
        str,
        _about(
            f'Where to; filled in are {{gateway}}, and with payload = "otlp" {{signal}} (metrics, logs, traces), with '
            '"json" {metric}, {device} (the resource attribute device.id) and any other attribute by its name. Without '
            f'it "{OTLP_TOPIC}" or "{JSON_TOPIC}". Letters that mean something in topics are written in percent.',
            max_length=TOPIC_CHARS_MAX,
        ),
    ] = ""
    otlp_topic: Annotated[
        str,
        _about(
            'With payload = "json": where logs, traces and OTLP messages that are passed on go.',
            min_length=1,
            max_length=TOPIC_CHARS_MAX,
        ),
    ] = OTLP_TOPIC
    time_unit: TimeUnit = "ms"
    compression: Annotated[
        Literal["none", "gzip", "zstd"],
        _about(
            'With payload = "otlp": how each request is packed. MQTT 5 says so as the user property content-encoding; '
            "a subscriber has to know it otherwise."
        ),
    ] = "none"
    qos: Annotated[
        Literal[0, 1],
        _about(
            "1: the broker acknowledges each message, and until then all is held. 0: what the broker has read counts "
            "as delivered. What was in flight when a connection broke is sent again, and counted as possibly twice."
        ),
    ] = 1
    inflight_max: Annotated[
        int,
        _about("Messages under way without their acknowledgement; the broker's own limit counts too.", ge=1, le=65535),
    ] = INFLIGHT_MAX
    unheard: Annotated[
        Literal["delivered", "hold"],
        _about(
            "What a broker acknowledges and throws away, since nobody subscribes to it: it counts as delivered, and in "
            '`unheard`; or, with payload = "otlp" and MQTT 5, it is held until somebody does. Devices go on publishing '
            "after a restart of a mosquitto, which knows shared subscriptions again only when their clients are back."
        ),
    ] = "delivered"
    client_id: Annotated[
        str, _about("Our name at the broker. Without it: tidegate-<gateway id>-uplink-<uplink>.", max_length=256)
    ] = ""
    username: Annotated[str, _about("User name at the broker.")] = ""
    password: Password = None
    protocol: Annotated[
        Literal["5", "3.1.1"],
        _about(
            "MQTT version. 5 falls back to 3.1.1 where the broker does not know it; there nobody says why a message "
            "was thrown away, and it counts as delivered."
        ),
    ] = "5"
    tls: Annotated[TlsSettings, _about("Certificates, for mqtts:// and wss://.")] = TlsSettings()
    keepalive: Annotated[
        Duration, _about("After so long a silence the broker is asked whether it is there; that costs some packets.")
    ] = Duration(300)
    breaker: Breaker = BreakerSettings()
    timeout: Annotated[
        Duration,
        _about("Longest wait to connect, for the line to take more bytes, and for the next acknowledgement."),
    ] = Duration(10)
    connect_timeout: ConnectTimeout = None
    attempt_timeout: AttemptTimeout = None
    operation_timeout: Annotated[
        Duration | None, _about("The longest that one request may take in all, over as many brokers as it is tried at.")
    ] = None
    connection_max_age: ConnectionMaxAge = None
    connection_max_idle: ConnectionMaxIdle = None
    batch_interval: BatchInterval = Duration(1)
    batch_readings_max: BatchReadingsMax = BATCH_READINGS_MAX
    request_bytes_max: Annotated[
        Size,
        _about("Size of one request at most, before compression; the broker's own limit counts too."),
    ] = Size(REQUEST_BYTES_MAX)
    evidence: Evidence = Duration(60)
    classes: Classes = None
    signals: SignalNames = None
    mappings: Mappings = None
    links: LinkNames = ()
    backlog_share: BacklogShare = None
    budget: Budget = BudgetSettings()
    retry: Retry = RetrySettings()
    stop_grace: StopGrace = Duration(2)

    _timeout_is_possible = OtlpUplinkSettings._timeout_is_possible  # noqa: SLF001  the same checks for the same keys
    _times_are_possible = OtlpUplinkSettings._times_are_possible  # noqa: SLF001
    _batch_interval_is_a_time = OtlpUplinkSettings._batch_interval_is_a_time  # noqa: SLF001
    _stop_grace_is_a_time = OtlpUplinkSettings._stop_grace_is_a_time  # noqa: SLF001
    _requests_have_room = OtlpUplinkSettings._requests_have_room  # noqa: SLF001

    @check("url")
    def _url_is_a_brokers(self) -> None:
        if self.url:
            parse_url(self.url)

    @check("urls")
    def _urls_are_brokers(self) -> Iterator[Problem]:
        yield from problems_of_urls(self.urls, parse=parse_url, what="broker", mixed="mqtt:// and mqtts://")

    @check("url", "urls")
    def _there_is_one_way(self) -> Iterator[Problem]:
        if self.url and self.urls:
            yield Problem("urls", "url names one broker already; give url or urls")
        elif not self.url and not self.urls:
            yield Problem("url", 'is missing; write url = "mqtts://…", or urls = ["mqtts://…", …]')

    @check("tls", "url", "urls")
    def _tls_has_a_use(self) -> None:
        if self.tls != TlsSettings() and not parse_url(targets_of(self.url, self.urls)[0].url).is_tls:
            raise ValueError("tls is set, but the broker's address does not use TLS; write mqtts:// or wss://")

    @check("password", "username")
    def _password_is_somebody_s(self) -> None:
        if self.password is not None and not self.username:
            raise ValueError("a password needs a username")

    @check("keepalive")
    def _keepalive_is_possible(self) -> None:
        if not 1 <= self.keepalive <= KEEPALIVE_S_MAX:
            raise ValueError(f"is {self.keepalive}; it must be from 1s to {Duration(KEEPALIVE_S_MAX)}")

    @check("topic", "payload")
    def _topic_is_one(self) -> None:
        if self.topic:
            _check_topic(self.topic, is_otlp=self.payload == OTLP)

    @check("otlp_topic", "payload")
    def _otlp_topic_is_one(self) -> Iterator[Problem]:
        _check_topic(self.otlp_topic, is_otlp=True)
        if self.payload == OTLP and self.otlp_topic != OTLP_TOPIC:
            yield Problem("otlp_topic", 'is for payload = "json"; here write topic = "…"')

    @check("compression", "payload")
    def _messages_are_packed_whole(self) -> None:
        if self.payload == JSON and self.compression != "none":
            raise ValueError('messages of one reading each become no smaller; leave it out, or write payload = "otlp"')

    @check("unheard", "payload", "protocol", "qos")
    def _who_holds_what_is_unheard_hears_of_it(self) -> Iterator[Problem]:
        if self.unheard != HOLD_UNHEARD:
            return
        if self.payload == JSON:
            what = "where each reading has a topic some of them have no subscriber for good; "
            yield Problem("unheard", f'{what}leave it out, or write payload = "otlp"')
        if self.protocol != "5" or not self.qos:
            yield Problem("unheard", "a broker says it in MQTT 5 and with qos = 1 alone; leave it out, or write these")

    @property
    def is_encrypted(self) -> bool:
        """Whether it speaks TLS: with all of its brokers or with none."""
        return parse_url(self.targets()[0].url).is_tls

    def targets(self) -> tuple[EndpointSettings, ...]:
        """Return the brokers, of which there is at least one."""
        return targets_of(self.url, self.urls)

    def topic_of_readings(self) -> str:
        """Return the template of what goes out as `payload` says."""
        return self.topic or (OTLP_TOPIC if self.payload == OTLP else JSON_TOPIC)

    def topic_of_requests(self) -> str:
        """Return the template of OTLP requests."""
        return self.topic_of_readings() if self.payload == OTLP else self.otlp_topic

    def filters(self) -> list[str]:
        """Return topic filters that take all that it publishes, with + where something is filled in.

        >>> MqttUplinkSettings(name="b", url="mqtt://b", payload="json", topic="site/{device}-x/temp").filters()
        ['site/+/temp', 'tidegate/+/+']
        """
        texts = dict.fromkeys((self.topic_of_readings(), self.topic_of_requests()))
        return ["/".join("+" if names_of(level) else level for level in text.split("/")) for text in texts]

    def warnings(self) -> list[str]:
        """Return what works and should be thought about, for `tidegate check`."""
        said: list[str] = []
        key = "urls" if self.urls else "url"
        what = "password and data" if self.password is not None else "data"
        if open_ones := in_the_open(self.targets(), parse=parse_url, what=what, safe="mqtts://"):
            said.append(f"{key}: {open_ones}")
        said += warnings_of_endpoints(self.targets(), key=key, balance=self.balance, breaker=self.breaker)
        if self.protocol == "3.1.1" and self.qos:
            said.append(
                "protocol: MQTT 3.1.1 has no word for what a broker refuses: what it throws away counts as delivered"
            )
        if self.qos == 0:
            said.append("qos: with 0 nothing is acknowledged; what the broker has read counts as delivered")
        return said


def fill(template: str, values: dict[str, str]) -> str:
    """Return the topic, each name replaced by its value, which has to be `level` text already."""
    topic = fill_in(template, values)
    return "%24" + topic[1:] if topic.startswith("$") else topic


def _check_topic(template: str, *, is_otlp: bool) -> None:
    """Raise ValueError for a topic that no message can have, and for names that nothing fills in."""
    bare = bare_of(template)
    if wrong := next((letter for letter in "+#\0" if letter in bare), ""):
        raise ValueError(f"{template!r} has {wrong!r} in it, which only a subscription's can have")
    if template.startswith("$"):
        raise ValueError(f"{template!r} begins with $, which brokers keep for themselves")
    check_names(template, is_otlp=is_otlp, what="a request")
