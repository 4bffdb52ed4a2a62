"""Settings of an MQTT subscription, and what a broker's URL means. Must not connect to anything."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Final, Literal

import msgspec

from gateway.codecs.topics import Pattern
from gateway.core.checks import Check, Checked, Problem, below, check, parts
from gateway.core.contracts import Priority
from gateway.core.units import Duration, Size
from gateway.net.mqtt_address import parse_url
from gateway.net.secrets import Secret
from gateway.net.tls import is_tls_error

if TYPE_CHECKING:
    import ssl
    from collections.abc import Iterator

Qos = Literal[0, 1, 2]
TOPIC_BYTES_MAX: Final = 65535
# What class requests have that come as messages.
OTLP_PRIORITY: Final = Priority.NORMAL
# Who subscribes to what follows it shares the messages with others of its group.
SHARED: Final = "$share"
# A gateway that is away for longer is one that somebody has looked at.
SHARED_EXPIRY_MIN: Final = Duration(3600)
SESSION_EXPIRY_S_MAX: Final = 0xFFFFFFFF


def _about(text: str, **bounds: Any) -> msgspec.Meta:
    return msgspec.Meta(description=text, **bounds)


def _between(field: str, least: float, most: float) -> Check:
    """Return the check that a field is within its bounds."""

    def compare(settings: Any) -> None:
        _check_bounds(getattr(settings, field), least, most)

    return Check((field,), compare)


def _check_bounds(value: Duration | Size, least: float, most: float) -> None:
    if not least <= value <= most:
        kind: type[Duration | Size] = type(value)
        raise ValueError(f"is {value}; it must be from {kind(least)} to {kind(most)}")


class TopicSettings(Checked, msgspec.Struct, kw_only=True, forbid_unknown_fields=True, frozen=True):
    """One subscription with a QoS of its own."""

    topic: Annotated[str, _about("Topic filter; + stands for one level, # for the rest.", min_length=1)]
    qos: Annotated[Qos, _about("The most the broker may deliver it with.")] = 1

    @check("topic")
    def _topic_is_a_filter(self) -> None:
        check_filter(self.topic)


class MqttTlsSettings(Checked, msgspec.Struct, kw_only=True, forbid_unknown_fields=True, frozen=True):
    """Certificates for mqtts:// and wss://. The broker's is always checked, its host name too."""

    ca_file: Annotated[str, _about("CA that signed the broker's certificate; else the system's.")] = ""
    cert_file: Annotated[str, _about("Our own certificate, where the broker asks for one.")] = ""
    key_file: Annotated[str, _about("The key of cert_file.")] = ""

    @check("cert_file", "key_file")
    def _are_given_together(self) -> Iterator[Problem]:
        if bool(self.cert_file) != bool(self.key_file):
            yield Problem("", "cert_file and key_file belong together: give both or none")


class MqttSettings(
    Checked, msgspec.Struct, kw_only=True, forbid_unknown_fields=True, frozen=True, tag_field="type", tag="mqtt"
):
    """Subscribe to a broker. What it delivers is acknowledged when it is on disk, and not before."""

    name: Annotated[str, _about("Name of this source, in status and counters.", min_length=1, max_length=64)]
    url: Annotated[str, _about("mqtt://, mqtts://, ws:// or wss:// with host, and port if not the usual one.")]
    topics: Annotated[
        tuple[str | TopicSettings, ...],
        _about(
            "Topic filters to subscribe to; of what comes to $share/<group>/<topics> each of the gateways in a group "
            "gets its part: docs/FLEETS.md.",
            min_length=1,
            max_length=1024,
        ),
    ]
    otlp: Annotated[
        tuple[str, ...],
        _about(
            'Topics of which the messages are OTLP requests in protobuf, packed or not, like "tidegate/+/{signal}", as '
            "another gateway publishes them: kept as they are, no mapping is asked. They are among `topics` too.",
            max_length=64,
        ),
    ] = ()
    otlp_max: Annotated[
        Size,
        _about(
            "Largest OTLP request, before and after it is unpacked, a quarter of [store] max_bytes at most; a larger "
            "one is counted in the ledger as oversize. While it is read it takes twice that of memory."
        ),
    ] = Size(4 << 20)
    qos: Annotated[Qos, _about("Quality of service for topics that name none: 0, 1 or 2.")] = 1
    client_id: Annotated[
        str,
        _about("Name of the session at the broker. Without it: tidegate-<gateway id>-<source>.", max_length=256),
    ] = ""
    username: Annotated[str, _about("User name at the broker.")] = ""
    password: Annotated[Secret | None, _about("Its password, by reference.")] = None
    protocol: Annotated[
        Literal["5", "3.1.1"],
        _about("MQTT version. 5 falls back to 3.1.1 where the broker does not know it."),
    ] = "5"
    clean: Annotated[bool, _about("Forget the session at the broker on each connect: what came meanwhile is lost.")] = (
        False
    )
    session_expiry: Annotated[
        Duration,
        _about(
            "How long the broker keeps the session, and messages for it, while we are away (MQTT 5). How many it keeps "
            "is its own setting: a mosquitto as it is installed drops what comes after 1,000, though it has "
            "acknowledged them; docs/OPERATING.md says what to set there."
        ),
    ] = Duration(7 * 86400)
    keepalive: Annotated[Duration, _about("After this long a silence the connection is probed.")] = Duration(30)
    receive_maximum: Annotated[
        int,
        _about("Messages of QoS 1 and 2 that may wait for their acknowledgement (MQTT 5).", ge=1, le=65535),
    ] = 65535
    packet_max: Annotated[
        Size,
        _about(
            "Largest packet that is taken, topic and payload together. A larger one costs itself alone: it is read "
            "past, acknowledged, and counted in the ledger as oversize. It still comes over the link; a limit of "
            "the broker's own keeps it away, and then nobody counts it. So it is over ws:// and wss:// with MQTT 5, "
            "where the broker is told this limit and drops what exceeds it without a word."
        ),
    ] = Size(1 << 20)
    buffer_max: Annotated[
        Size, _about("Bytes in memory that wait for their commit; past them the broker is held back.")
    ] = Size(4 << 20)
    connect_timeout: Annotated[Duration, _about("Time for each step of a connect.")] = Duration(10)
    reconnect_min: Annotated[Duration, _about("First wait after a lost connection; doubles, with jitter.")] = Duration(
        1
    )
    reconnect_max: Annotated[Duration, _about("Longest wait; at once after a refusal that needs a person.")] = Duration(
        60
    )
    tls: Annotated[MqttTlsSettings, _about("Certificates, for mqtts:// and wss://.")] = MqttTlsSettings()

    _session_expiry_is_possible = _between("session_expiry", 0, SESSION_EXPIRY_S_MAX)
    _keepalive_is_possible = _between("keepalive", 1, 65535)
    _packet_max_is_possible = _between("packet_max", 1024, 256 << 20)
    _otlp_max_is_possible = _between("otlp_max", 64 << 10, 64 << 20)
    _buffer_max_is_possible = _between("buffer_max", 64 << 10, 1 << 30)
    _connect_timeout_is_possible = _between("connect_timeout", 0.1, 300)

    @check("reconnect_min", "reconnect_max")
    def _reconnect_min_is_least(self) -> None:
        _check_bounds(self.reconnect_min, 0.01, self.reconnect_max)

    @check("url")
    def _url_is_a_broker_s(self) -> None:
        parse_url(self.url)

    @check("tls", "url")
    def _tls_has_a_use(self) -> None:
        if self.tls != MqttTlsSettings() and not parse_url(self.url).is_tls:
            raise ValueError(f"tls is set, but {self.url} does not use TLS; write mqtts:// or wss://")

    @check("password", "username")
    def _password_is_somebody_s(self) -> None:
        if self.password is not None and not self.username:
            raise ValueError("a password needs a username")

    @check("otlp")
    def _otlp_topics_name_their_signal(self) -> Iterator[Problem]:
        for index, text in parts(self.otlp):
            try:
                names = Pattern(text).names
            except ValueError as error:
                yield Problem(below("otlp", index), str(error))
                continue
            if "signal" not in names:
                what = f"{text!r} does not say what is metrics, logs or traces; write {{signal}} for that level"
                yield Problem(below("otlp", index), what)

    def warnings(self) -> list[str]:
        """Return what works and should be thought about, for `tidegate check`."""
        is_shared = any(topic.startswith(f"{SHARED}/") for topic, _ in subscriptions(self))
        if not is_shared or (not self.clean and self.session_expiry >= SHARED_EXPIRY_MIN):
            return []
        key = "clean" if self.clean else "session_expiry"
        what = "what a shared subscription has given to this gateway is lost with its session, others do not get it"
        return [f"{key}: {what}; leave {key} out"]

    @check("topics")
    def _topics_are_filters(self) -> Iterator[Problem]:
        for index, topic in parts(self.topics):
            if isinstance(topic, str):
                try:
                    check_filter(topic)
                except ValueError as error:
                    yield Problem(below("topics", index), str(error))


def subscriptions(settings: MqttSettings) -> list[tuple[str, int]]:
    """Return every topic filter with its QoS."""
    return [(topic, settings.qos) if isinstance(topic, str) else (topic.topic, topic.qos) for topic in settings.topics]


def check_filter(topic: str) -> None:
    """Raise ValueError for a filter that MQTT does not allow (MQTT 5.0 sections 4.7.1 and 4.8.2)."""
    levels = topic.split("/")
    if not topic or "\0" in topic or len(topic.encode()) > TOPIC_BYTES_MAX:
        raise ValueError(f"{topic!r} is empty, too long or holds U+0000")
    if any("#" in level and level != "#" for level in levels) or "#" in levels[:-1]:
        raise ValueError(f"{topic!r}: # must be the last level, alone")
    if any("+" in level and level != "+" for level in levels):
        raise ValueError(f"{topic!r}: + must be a level of its own")
    if levels[0] == SHARED and (len(levels) < 3 or not levels[1] or levels[1] in {"+", "#"} or levels[2:] == [""]):
        raise ValueError(f"{topic!r} is no shared subscription; write $share/<name of the group>/<topics>")


def tls_context(settings: MqttTlsSettings) -> ssl.SSLContext:
    """Return a context that checks the broker; raise ValueError that names the file that is wrong."""
    import ssl  # noqa: PLC0415  only where it is used: net/tls.py

    try:
        context = ssl.create_default_context(cafile=settings.ca_file or None)
    except OSError as error:
        raise ValueError(f"tls.ca_file {settings.ca_file}: {_why(error)}") from error
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    if settings.cert_file:
        try:
            context.load_cert_chain(settings.cert_file, settings.key_file, password="")
        except OSError as error:
            raise ValueError(f"tls.cert_file {settings.cert_file} and key_file: {_why(error)}") from error
    return context


def _why(error: OSError) -> str:
    if is_tls_error(error):
        return f"not PEM files that belong together ({error.reason or error})"
    return str(error.strerror or error)
