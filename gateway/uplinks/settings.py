"""What can be said of an uplink in the config, and what is refused by name. Must not read secrets."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Annotated, Final, Literal, TypeAlias
from urllib.parse import urlsplit

import msgspec
from msgspec import Meta

from gateway.core.checks import Checked, Problem, below, check, parts
from gateway.core.units import Duration, Size
from gateway.net.secrets import Secret
from gateway.uplinks.balance import FAILOVER, Kind
from gateway.uplinks.budget_settings import BudgetSettings, Class
from gateway.uplinks.endpoint_settings import (
    BreakerSettings,
    EndpointSettings,
    LinkNames,
    check_address,
    check_base,
    is_loopback,
    problems_of_endpoints,
    warnings_of_endpoints,
)
from gateway.uplinks.retry import FULL_JITTER, Strategy

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

Compression = Literal["auto", "zstd", "gzip", "none"]
SignalName = Literal["metrics", "logs", "traces"]
# What every kind of uplink has, in the same words.
Evidence: TypeAlias = Annotated[
    Duration,
    Meta(description="What came in so long before and after a finding goes first and whole; 0s: like all else."),
]
Classes: TypeAlias = Annotated[
    Annotated[tuple[Class, ...], Meta(min_length=1)] | None,
    Meta(description='The classes that it takes, like ["critical"]; without it all of them.'),
]
SignalNames: TypeAlias = Annotated[
    Annotated[tuple[SignalName, ...], Meta(min_length=1)] | None,
    Meta(
        description='The signals that it takes, like ["logs", "traces"]; without it all. Findings are logs, of class '
        "critical."
    ),
]

HTTP_PROTOBUF: Final = "http/protobuf"
HTTP_JSON: Final = "http/json"
GRPC: Final = "grpc"
PROTOCOLS: Final = (HTTP_PROTOBUF, HTTP_JSON, GRPC)
# The ports that OTLP has by custom.
HTTP_PORT: Final = 4318
GRPC_PORT: Final = 4317
# Receivers take 4 MiB by custom (it is gRPC's default); what stands around the points stays below the rest.
REQUEST_BYTES_MAX: Final = 4 * 1024 * 1024 - 64 * 1024
BATCH_READINGS_MAX: Final = 24_576
# Kernels count a socket's waits in a few bytes, and who waits longer waits for nothing.
TIMEOUT_S_MAX: Final = 86_400
MAPPINGS_MAX: Final = 64

_TIMES: Final = ("connect_timeout", "attempt_timeout", "operation_timeout", "connection_max_age", "connection_max_idle")
_HEADER_NAME: Final = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_HEADER_VALUE: Final = re.compile(r"[\t\x20-\x7e\x80-\xff]*")
# A header with such a word in its name opens a door, and a config file is read by many.
_SECRET_WORDS: Final = ("auth", "token", "key", "secret", "password", "cookie", "credential", "signature")
# What the sender writes itself.
_OWN_HEADERS: Final = frozenset(
    ("content-type", "content-encoding", "content-length", "transfer-encoding", "host", "connection", "te")
)
# Names of gRPC's own.
_GRPC_HEADERS: Final = "grpc-"


class TlsSettings(Checked, msgspec.Struct, kw_only=True, forbid_unknown_fields=True, frozen=True):
    """How the far side proves itself, and how we do. The chain and the host name are always checked."""

    ca_file: Annotated[str, Meta(description="PEM file of the authorities to trust instead of the system's.")] = ""
    cert_file: Annotated[str, Meta(description="PEM file of our own certificate and its chain.")] = ""
    key_file: Annotated[str, Meta(description="PEM file of our own key; needed with `cert_file`.")] = ""

    @check("cert_file", "key_file")
    def _are_given_together(self) -> Iterator[Problem]:
        if bool(self.cert_file) != bool(self.key_file):
            yield Problem("", "cert_file and key_file belong together: give both or neither")


class RetrySettings(Checked, msgspec.Struct, kw_only=True, forbid_unknown_fields=True, frozen=True):
    """How long to wait before trying again: at random up to `initial`, then up to twice as long each time."""

    strategy: Annotated[
        Strategy,
        Meta(
            description="How waits grow: at random up to a bound that doubles, at random up to three times the wait "
            "before, doubling, or always `initial`. Without jitter a fleet that failed together comes back together."
        ),
    ] = FULL_JITTER
    initial: Annotated[Duration, Meta(description="Bound of the first wait; doubles with each failure.")] = Duration(1)
    max: Annotated[Duration, Meta(description="Bound that no wait grows over.")] = Duration(60)
    unreachable_max: Annotated[
        Duration,
        Meta(
            description="The same while no connection can be made, where it is less: such a try costs some packets, "
            "and what is fresh leaves the sooner after an outage."
        ),
    ] = Duration(15)

    @check("initial", "max")
    def _initial_is_least(self) -> None:
        if not 0 < self.initial <= self.max:
            raise ValueError(f"is {self.initial}; it must be over zero and not exceed max ({self.max})")

    @check("unreachable_max")
    def _unreachable_max_is_a_time(self) -> None:
        if self.unreachable_max <= 0:
            raise ValueError(f"is {self.unreachable_max}; it must be over zero")


class OtlpUplinkSettings(
    Checked, msgspec.Struct, tag_field="type", tag="otlp", kw_only=True, forbid_unknown_fields=True, frozen=True
):
    """An OTLP receiver: an OpenTelemetry Collector, or a backend that speaks OTLP itself."""

    name: Annotated[str, Meta(description="What status, metrics and the ledger call it.", min_length=1)]
    endpoint: Annotated[
        str,
        Meta(
            description="Base address, http:// or https://; /v1/metrics and the like are added to it. For gRPC it is "
            "a host with its port (mostly 4317), which has no path. Left out it is "
            "OTEL_EXPORTER_OTLP_ENDPOINT, and others of OpenTelemetry's variables fill what else is left out."
        ),
    ] = ""
    endpoints: Annotated[
        tuple[str | EndpointSettings, ...],
        Meta(
            description='Several receivers of the same data instead of one: addresses, or tables like { url = "…", '
            "weight = 2 }. They share headers, TLS and budget.",
            max_length=8,
        ),
    ] = ()
    balance: Annotated[
        Kind,
        Meta(
            description="Which of several is sent to: the first that works; one after the other; each by its weight; "
            "or the one that had requests outstanding for the shortest time."
        ),
    ] = FAILOVER
    breaker: Annotated[BreakerSettings, Meta(description="When one of several is left out, and for how long.")] = (
        BreakerSettings()
    )
    protocol: Annotated[
        str,
        Meta(
            description='How OTLP is spoken: "http/protobuf", "grpc" (`pip install tidegate[grpc]`), or "http/json" '
            "for who takes nothing else; that costs half a microsecond more a reading, and mostly more bytes."
        ),
    ] = HTTP_PROTOBUF
    compression: Annotated[
        Compression,
        Meta(
            description='"auto" is zstd, gzip where that is refused, none where both are. '
            'zstd is offered again now and then. Over gRPC, whose receivers mostly know no zstd, "auto" is gzip and '
            'none where that is refused; "zstd" is for those that know it. One that is chosen is kept: a receiver '
            "that does not take it is held back, and status says so."
        ),
    ] = "auto"
    headers: Annotated[
        dict[str, str | Secret],
        Meta(
            description="Headers of every request. What proves who we are is a secret, never a literal; the secret is "
            'the whole value, like "Bearer …".'
        ),
    ] = {}
    timeout: Annotated[
        Duration,
        Meta(
            description="Longest wait to connect, for the line to take more bytes, and for the whole answer: a slow "
            "line is not a dead one."
        ),
    ] = Duration(10)
    connect_timeout: Annotated[
        Duration | None,
        Meta(
            description="Longest wait for a connection, where it is another than `timeout`: with proxy and TLS, over "
            "all addresses of the host's name."
        ),
    ] = None
    attempt_timeout: Annotated[
        Duration | None,
        Meta(
            description="The longest that one attempt may take in all, however much moves. Without it only what stands "
            "still is given up."
        ),
    ] = None
    operation_timeout: Annotated[
        Duration | None,
        Meta(
            description="The longest that one request may take in all, over as many of several receivers as it is "
            "tried at, one attempt each."
        ),
    ] = None
    connection_max_age: Annotated[
        Duration | None,
        Meta(
            description="A connection that is older is closed before the next request, and the host's name looked up "
            "anew; without it one is kept as long as it works."
        ),
    ] = None
    connection_max_idle: Annotated[
        Duration | None,
        Meta(
            description="The same for one that was not used for so long: what stands in between may have forgotten it."
        ),
    ] = None
    batch_interval: Annotated[
        Duration,
        Meta(description='How long fresh data may wait to be sent together; "60s" is good on metered links.'),
    ] = Duration(1)
    batch_readings_max: Annotated[int, Meta(description="Readings in one request at most.", ge=1)] = BATCH_READINGS_MAX
    request_bytes_max: Annotated[
        Size, Meta(description="Size of one request at most, before compression; larger ones are split.")
    ] = Size(REQUEST_BYTES_MAX)
    evidence: Evidence = Duration(60)
    classes: Classes = None
    signals: SignalNames = None
    mappings: Annotated[
        Annotated[tuple[str, ...], Meta(min_length=1, max_length=MAPPINGS_MAX)] | None,
        Meta(
            description="The mappings whose readings it takes, by their `name`, with what was found in these; without "
            "it all, and what no mapping makes. The gateway's own numbers and its ledger come to every uplink. Each "
            "mapping that is named has segments of its own, which costs the card one more with each commit."
        ),
    ] = None
    links: LinkNames = ()
    backlog_share: Annotated[
        Annotated[float, Meta(ge=0, le=1)] | None,
        Meta(description="Its own `[store] backlog_share`: how much of what is sent is backlog while live data waits."),
    ] = None
    budget: Annotated[
        BudgetSettings,
        Meta(description="What the link may carry; what finds no room in it is thinned, and goes whole when there is."),
    ] = BudgetSettings()
    tls: Annotated[TlsSettings, Meta(description="Certificates, for https:// endpoints.")] = TlsSettings()
    proxy: Annotated[
        str, Meta(description="HTTP proxy, http://host:port. The environment's proxies are never used.")
    ] = ""
    retry: Annotated[RetrySettings, Meta(description="Waits between attempts; they go on without end.")] = (
        RetrySettings()
    )
    stop_grace: Annotated[
        Duration, Meta(description="How long to go on sending fresh data when the gateway stops.")
    ] = Duration(2)

    @check("protocol")
    def _protocol_is_known(self) -> None:
        if self.protocol not in PROTOCOLS:
            known = " or ".join(f'"{name}"' for name in PROTOCOLS)
            raise ValueError(f"{self.protocol!r} is not in this version; write {known}")

    @check("protocol", "endpoint", "endpoints")
    def _grpc_has_no_path(self) -> Iterator[Problem]:
        for path, address in _addresses(self.endpoint, self.endpoints) if self.protocol == GRPC else ():
            if urlsplit(address).path.strip("/"):
                yield Problem(path, "has a path, for which gRPC has no use; write scheme, host and port alone")

    @check("protocol", "headers")
    def _grpc_headers_are_its_own(self) -> Iterator[Problem]:
        for name in self.headers if self.protocol == GRPC else ():
            if name.lower().startswith(_GRPC_HEADERS):
                yield Problem(below("headers", name), f"{name} is gRPC's own; leave it out")

    @check("endpoint")
    def _endpoint_is_a_base_address(self) -> None:
        if self.endpoint:
            check_base(self.endpoint)

    @check("endpoints")
    def _endpoints_are_several(self) -> Iterator[Problem]:
        yield from problems_of_endpoints(self.endpoints)

    @check("endpoint", "endpoints")
    def _there_is_one_way(self) -> Iterator[Problem]:
        if self.endpoint and self.endpoints:
            yield Problem("endpoints", "endpoint names one receiver already; give endpoint or endpoints")
        elif not self.endpoint and not self.endpoints:
            ways = 'endpoint = "https://…", or endpoints = ["https://…", …]; or set OTEL_EXPORTER_OTLP_ENDPOINT'
            yield Problem("endpoint", f"is missing; write {ways}")

    @check("proxy")
    def _proxy_is_an_address(self) -> None:
        if self.proxy:
            check_address(self.proxy, schemes=("http",))

    @check("timeout")
    def _timeout_is_possible(self) -> None:
        if not 0 < self.timeout <= TIMEOUT_S_MAX:
            raise ValueError(f"is {self.timeout}; it is over zero and at most {Duration(TIMEOUT_S_MAX)}")

    @check(*_TIMES)
    def _times_are_possible(self) -> Iterator[Problem]:
        for name in _TIMES:
            value = getattr(self, name)
            if value is not None and not 0 < value <= TIMEOUT_S_MAX:
                yield Problem(name, f"is {value}; it is over zero and at most {Duration(TIMEOUT_S_MAX)}")

    @check("batch_interval")
    def _batch_interval_is_a_time(self) -> None:
        if self.batch_interval < 0:
            raise ValueError("is not negative")

    @check("stop_grace")
    def _stop_grace_is_a_time(self) -> None:
        if self.stop_grace < 0:
            raise ValueError("is not negative")

    @check("request_bytes_max")
    def _requests_have_room(self) -> None:
        if self.request_bytes_max < 1024:
            raise ValueError('is at least "1KiB"')

    @check("headers")
    def _headers_can_be_sent(self) -> Iterator[Problem]:
        for name, value in self.headers.items():
            what = _header_problem(name, value)
            if what:
                yield Problem(below("headers", name), what)

    def targets(self) -> tuple[EndpointSettings, ...]:
        """Return the receivers, of which there is at least one."""
        given = self.endpoints or (self.endpoint,)
        return tuple(EndpointSettings(url=one) if isinstance(one, str) else one for one in given)

    @property
    def is_encrypted(self) -> bool:
        """Whether it speaks TLS: with all of its receivers or with none."""
        return urlsplit(self.targets()[0].url).scheme == "https"

    def warnings(self) -> list[str]:
        """Return what works and should be thought about, for `tidegate check`."""
        return [
            *warnings_of_endpoints(
                self.targets(),
                key="endpoints" if self.endpoints else "endpoint",
                balance=self.balance,
                breaker=self.breaker,
            ),
            *self._warnings_of_plain(),
            *self._warnings_of_ports(),
        ]

    def _warnings_of_ports(self) -> Iterator[str]:
        is_grpc = self.protocol == GRPC
        for path, address in _addresses(self.endpoint, self.endpoints):
            if urlsplit(address).port == (HTTP_PORT if is_grpc else GRPC_PORT):
                theirs, ours = ("HTTP", "gRPC's is 4317") if is_grpc else ("gRPC", "that over HTTP is 4318")
                yield f'{path}: {address} has the port of OTLP over {theirs}, and this is "{self.protocol}"; {ours}'

    def _warnings_of_plain(self) -> Iterator[str]:
        addresses = [one.url for one in self.targets() if urlsplit(one.url).scheme == "http"]
        far = [address for address in addresses if not is_loopback(urlsplit(address).hostname or "")]
        key = "endpoints" if self.endpoints else "endpoint"
        if far:
            what, are = "headers and data" if self.headers else "data", "is" if len(far) == 1 else "are"
            bare = f"{', '.join(far)} {are} not encrypted"
            yield f"{key}: {bare}, {what} can be read on the way; https:// would protect them"
        if addresses and self.tls != TlsSettings():
            yield f"tls: certificates are not used with an http:// {key.removesuffix('s')}"


def _addresses(endpoint: str, endpoints: Iterable[str | EndpointSettings]) -> Iterator[tuple[str, str]]:
    """Yield the addresses that could be read, each with its place."""
    if endpoint:
        yield "endpoint", endpoint
    for index, one in parts(endpoints):
        if isinstance(one, str):
            yield below("endpoints", index), one
        elif hasattr(one, "url"):
            yield below("endpoints", index, "url"), one.url


def _header_problem(name: str, value: object) -> str:
    """Say why a header cannot be sent as it stands in the file; "" if it can."""
    if not is_header_name(name):
        return f"{name!r} is not a header's name"
    if name.lower() in _OWN_HEADERS:
        return f"{name} is written by the gateway itself; leave it out"
    if not isinstance(value, str):
        return ""
    if any(word in name.lower() for word in _SECRET_WORDS):
        return (
            f'{name} is a secret, so it is no literal; write {name} = {{ env = "NAME" }}, '
            '{ file = "PATH" } or { credential = "NAME" }'
        )
    return "" if is_header_value(value) else f"the value of {name} has characters that no header can have"


def is_header_name(name: str) -> bool:
    """Return whether `name` can be that of a header."""
    return _HEADER_NAME.fullmatch(name) is not None


def is_header_value(value: str) -> bool:
    """Return whether `value` can stand in a header: no line ends, nothing outside Latin-1."""
    return _HEADER_VALUE.fullmatch(value) is not None
