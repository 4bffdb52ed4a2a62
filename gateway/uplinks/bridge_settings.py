"""What can be said of an uplink to an MQTT broker in the config, and what is refused by name. Must not read secrets."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Annotated, Any, Final, Literal

import msgspec
from msgspec import Meta

from gateway.core.checks import Checked, Problem, below, check, parts
from gateway.core.units import Duration, Size
from gateway.net.addresses import is_loopback
from gateway.net.mqtt_address import parse_url
from gateway.net.secrets import Secret
from gateway.uplinks.balance import FAILOVER, Kind
from gateway.uplinks.endpoint_settings import BreakerSettings, EndpointSettings, LinkNames, warnings_of_endpoints
from gateway.uplinks.settings import (
    BATCH_READINGS_MAX,
    MAPPINGS_MAX,
    REQUEST_BYTES_MAX,
    BudgetSettings,
    Classes,
    Evidence,
    OtlpUplinkSettings,
    RetrySettings,
    SignalNames,
    TlsSettings,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

OTLP: Final = "otlp"
JSON: Final = "json"
OTLP_TOPIC: Final = "tidegate/{gateway}/{signal}"
JSON_TOPIC: Final = "tidegate/{gateway}/{device}/{metric}"
# What stands in a topic, in UTF-8 (MQTT 5.0 section 1.5.4), leaves room for what is filled in.
TOPIC_CHARS_MAX: Final = 1024
KEEPALIVE_S_MAX: Final = 65535
INFLIGHT_MAX: Final = 1000
TIME_UNITS: Final = {"s": 10**9, "ms": 10**6, "us": 10**3, "ns": 1}

_HOLE: Final = re.compile(r"\{([^{}]*)\}")
_TIMES: Final = ("connect_timeout", "attempt_timeout", "operation_timeout", "connection_max_age", "connection_max_idle")


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
    balance: Annotated[
        Kind,
        _about(
            "Which of several is published to: the first that works; one after the other; each by its weight; or the "
            "one that had requests outstanding for the shortest time."
        ),
    ] = FAILOVER
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
    time_unit: Annotated[
        Literal["s", "ms", "us", "ns"], _about('With payload = "json": what "ts" counts since 1970, in whole numbers.')
    ] = "ms"
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
    client_id: Annotated[
        str, _about("Our name at the broker. Without it: tidegate-<gateway id>-uplink-<uplink>.", max_length=256)
    ] = ""
    username: Annotated[str, _about("User name at the broker.")] = ""
    password: Annotated[Secret | None, _about("Its password, by reference.")] = None
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
    breaker: Annotated[BreakerSettings, _about("When one of several is left out, and for how long.")] = (
        BreakerSettings()
    )
    timeout: Annotated[
        Duration,
        _about("Longest wait to connect, for the line to take more bytes, and for the next acknowledgement."),
    ] = Duration(10)
    connect_timeout: Annotated[
        Duration | None, _about("Longest wait for a connection, where it is another than `timeout`.")
    ] = None
    attempt_timeout: Annotated[
        Duration | None, _about("The longest that one attempt at a request may take in all, however much moves.")
    ] = None
    operation_timeout: Annotated[
        Duration | None, _about("The longest that one request may take in all, over as many brokers as it is tried at.")
    ] = None
    connection_max_age: Annotated[
        Duration | None,
        _about("A connection that is older is closed before the next request; without it one is kept."),
    ] = None
    connection_max_idle: Annotated[Duration | None, _about("The same for one that was not used for so long.")] = None
    batch_interval: Annotated[
        Duration,
        _about('How long fresh data may wait to be sent together; "60s" is good on metered links.'),
    ] = Duration(1)
    batch_readings_max: Annotated[int, _about("Readings in one request at most.", ge=1)] = BATCH_READINGS_MAX
    request_bytes_max: Annotated[
        Size,
        _about("Size of one request at most, before compression; the broker's own limit counts too."),
    ] = Size(REQUEST_BYTES_MAX)
    evidence: Evidence = Duration(60)
    classes: Classes = None
    signals: SignalNames = None
    mappings: Annotated[
        Annotated[tuple[str, ...], Meta(min_length=1, max_length=MAPPINGS_MAX)] | None,
        _about(
            "The mappings whose readings it takes, by their `name`, with what was found in these; without it all, and "
            "what no mapping makes."
        ),
    ] = None
    links: LinkNames = ()
    backlog_share: Annotated[
        Annotated[float, Meta(ge=0, le=1)] | None,
        _about("Its own `[store] backlog_share`: how much of what is sent is backlog while live data waits."),
    ] = None
    budget: Annotated[
        BudgetSettings,
        _about("What the link may carry; what finds no room in it is thinned, and goes whole when there is."),
    ] = BudgetSettings()
    retry: Annotated[RetrySettings, _about("Waits between attempts; they go on without end.")] = RetrySettings()
    stop_grace: Annotated[Duration, _about("How long to go on sending fresh data when the gateway stops.")] = Duration(
        2
    )

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
        yield from _problems_of_urls(self.urls)

    @check("url", "urls")
    def _there_is_one_way(self) -> Iterator[Problem]:
        if self.url and self.urls:
            yield Problem("urls", "url names one broker already; give url or urls")
        elif not self.url and not self.urls:
            yield Problem("url", 'is missing; write url = "mqtts://…", or urls = ["mqtts://…", …]')

    @check("tls", "url", "urls")
    def _tls_has_a_use(self) -> None:
        if self.tls != TlsSettings() and not parse_url(_targets(self.url, self.urls)[0].url).is_tls:
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

    @property
    def is_encrypted(self) -> bool:
        """Whether it speaks TLS: with all of its brokers or with none."""
        return parse_url(self.targets()[0].url).is_tls

    def targets(self) -> tuple[EndpointSettings, ...]:
        """Return the brokers, of which there is at least one."""
        return _targets(self.url, self.urls)

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
        return ["/".join("+" if _HOLE.search(level) else level for level in text.split("/")) for text in texts]

    def warnings(self) -> list[str]:
        """Return what works and should be thought about, for `tidegate check`."""
        said: list[str] = []
        key = "urls" if self.urls else "url"
        bare = [one.url for one in self.targets() if not is_loopback(parse_url(one.url).host)]
        if bare and not self.is_encrypted:
            what = "password and data" if self.password is not None else "data"
            are = "is" if len(bare) == 1 else "are"
            plain = f"{', '.join(bare)} {are} not encrypted"
            said.append(f"{key}: {plain}, {what} can be read on the way; mqtts:// would protect them")
        said += warnings_of_endpoints(self.targets(), key=key, balance=self.balance)
        if self.protocol == "3.1.1" and self.qos:
            said.append(
                "protocol: MQTT 3.1.1 has no word for what a broker refuses: what it throws away counts as delivered"
            )
        if self.qos == 0:
            said.append("qos: with 0 nothing is acknowledged; what the broker has read counts as delivered")
        return said


def names_of(template: str) -> list[str]:
    """Return what is to be filled in.

    >>> names_of("site/{device}/{metric}")
    ['device', 'metric']
    """
    return _HOLE.findall(template)


def fill(template: str, values: dict[str, str]) -> str:
    """Return the topic, each name replaced by its value, which has to be `level` text already."""
    topic = _HOLE.sub(lambda hole: values[hole[1]], template)
    return "%24" + topic[1:] if topic.startswith("$") else topic


def _targets(url: str, urls: Iterable[str | EndpointSettings]) -> tuple[EndpointSettings, ...]:
    return tuple(EndpointSettings(url=one) if isinstance(one, str) else one for one in urls or (url,))


def _problems_of_urls(urls: Iterable[str | EndpointSettings]) -> Iterator[Problem]:
    """Yield what is wrong with the addresses of several brokers, each by itself and all of them together."""
    seen: dict[tuple[str, int], int] = {}
    kinds: set[bool] = set()
    for index, one in parts(urls):
        if not isinstance(one, str) and not hasattr(one, "url"):
            continue
        path = below("urls", index) if isinstance(one, str) else below("urls", index, "url")
        try:
            broker = parse_url(one if isinstance(one, str) else one.url)
        except ValueError as error:
            yield Problem(path, str(error))
            continue
        first = seen.setdefault((broker.host, broker.port), index)
        if first != index:
            yield Problem(path, f"is the same broker as urls[{first}]; leave it out, or give that one a weight")
        kinds.add(broker.is_tls)
    if len(kinds) > 1:
        yield Problem("urls", "mqtt:// and mqtts:// are not mixed: what one protects another would show")


def _check_topic(template: str, *, is_otlp: bool) -> None:
    """Raise ValueError for a topic that no message can have, and for names that nothing fills in."""
    bare = _HOLE.sub("", template)
    if "{" in bare or "}" in bare:
        raise ValueError(f"{template!r} has a brace that belongs to no name; write names like {{device}}")
    if wrong := next((letter for letter in "+#\0" if letter in bare), ""):
        raise ValueError(f"{template!r} has {wrong!r} in it, which only a subscription's can have")
    if template.startswith("$"):
        raise ValueError(f"{template!r} begins with $, which brokers keep for themselves")
    names = names_of(template)
    if "" in names:
        raise ValueError(f"{template!r} has {{}} in it; write what is to be filled in, like {{device}}")
    if is_otlp:
        if odd := next((name for name in names if name not in {"gateway", "signal"}), ""):
            raise ValueError(
                f"{template!r} wants {{{odd}}}, but a request is of many; there is {{gateway}}, {{signal}}"
            )
        if "signal" not in names:
            raise ValueError(f"{template!r}: add {{signal}}, or nobody can tell metrics from logs and traces")
    elif "signal" in names:
        raise ValueError(f"{template!r}: {{signal}} is for OTLP; a reading has {{gateway}}, {{device}}, {{metric}}")
