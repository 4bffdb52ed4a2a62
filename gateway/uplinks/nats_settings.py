"""What can be said of an uplink to NATS JetStream in the config, and what is refused by name. Must not read secrets."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Annotated, Any, Final, Literal

import msgspec
from msgspec import Meta

from gateway.core.checks import Checked, Problem, below, check
from gateway.core.units import Duration, Size
from gateway.net.nats_address import parse_pattern, parse_url
from gateway.net.secrets import Secret
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
    problems_of_urls,
    targets_of,
)
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

    from gateway.core.batch import AttributeValue

OTLP_SUBJECT: Final = "tidegate.{gateway}.{signal}"
JSON_SUBJECT: Final = "tidegate.{gateway}.{device}.{metric}"
# A server's line of control has 4 KiB at most, with the reply's subject in it.
SUBJECT_CHARS_MAX: Final = 512
INFLIGHT_MAX: Final = 256

_NAME: Final = re.compile(r"[^\s.*>/\\]+")
# What means something in a subject, or ends it, and controls.
_ODD: Final = re.compile(r"[%.*>\s\0-\x1f\x7f-\x9f\ufffe\uffff]")


def _about(text: str, **bounds: Any) -> Meta:
    return Meta(description=text, **bounds)


class NatsUplinkSettings(
    Checked, msgspec.Struct, tag_field="type", tag="nats", kw_only=True, forbid_unknown_fields=True, frozen=True
):
    """A stream of NATS JetStream: what is held is published there, and goes when the stream has stored it."""

    name: Annotated[str, _about("What status, metrics and the ledger call it.", min_length=1)]
    url: Annotated[str, _about("nats:// or tls:// with host, and port if not 4222.")] = ""
    urls: Annotated[
        tuple[str | EndpointSettings, ...],
        _about(
            'Several servers of one cluster instead of one: addresses, or tables like { url = "…", weight = 2 }.',
            max_length=8,
        ),
    ] = ()
    balance: Balance = FAILOVER
    discover: Annotated[
        tuple[str, ...],
        _about(
            "Servers that a cluster tells of itself and that may be gone to when none that is named can be reached: "
            'names, "*.nats.example", addresses, or networks like "10.20.0.0/16". Without it no other is gone to.',
            max_length=16,
        ),
    ] = ()
    stream: Annotated[
        str,
        _about(
            "The stream that is to have it: what another one takes is then not stored, and said so. Without it "
            "whichever stream listens there.",
            max_length=255,
        ),
    ] = ""
    payload: Annotated[
        Literal["otlp", "json"],
        _about(
            '"otlp" is what an OTLP receiver would get, in protobuf, a message for what came with one commit; "json" a '
            'message for each reading, like {"value":20.5,"ts":1790000000000,"unit":"Cel"}, and otlp for what is no '
            "number."
        ),
    ] = "otlp"
    subject: Annotated[
        str,
        _about(
            f'Where to; filled in are {{gateway}}, and with payload = "otlp" {{signal}} (metrics, logs, traces), with '
            '"json" {metric}, {device} (the resource attribute device.id) and any other attribute by its name. Without '
            f'it "{OTLP_SUBJECT}" or "{JSON_SUBJECT}". Letters that mean something in subjects, dots too, are written '
            "in percent.",
            max_length=SUBJECT_CHARS_MAX,
        ),
    ] = ""
    otlp_subject: Annotated[
        str,
        _about(
            'With payload = "json": where logs, traces and OTLP messages that are passed on go.',
            min_length=1,
            max_length=SUBJECT_CHARS_MAX,
        ),
    ] = OTLP_SUBJECT
    time_unit: TimeUnit = "ms"
    compression: Annotated[
        Literal["none", "gzip", "zstd"],
        _about('With payload = "otlp": how each message is packed; its header Content-Encoding says so.'),
    ] = "none"
    inflight_max: Annotated[int, _about("Messages under way without the stream's answer.", ge=1, le=4096)] = (
        INFLIGHT_MAX
    )
    username: Annotated[str, _about("User name at the server.")] = ""
    password: Password = None
    token: Annotated[Secret | None, _about("A token instead of user and password, by reference.")] = None
    nkey: Annotated[
        Secret | None,
        _about("The seed of a user's NKey (SU…), by reference; needs `pip install tidegate[nats]`."),
    ] = None
    credentials: Annotated[
        Secret | None,
        _about('A credentials file (JWT and seed), by reference, like { file = "…" }; needs the same.'),
    ] = None
    inbox: Annotated[
        str,
        _about(
            "Answers come to subjects below this one, to which the user must be allowed to subscribe.", max_length=100
        ),
    ] = "_INBOX"
    tls: Annotated[TlsSettings, _about("Certificates, for tls://.")] = TlsSettings()
    breaker: Breaker = BreakerSettings()
    timeout: Annotated[
        Duration,
        _about("Longest wait to connect, for the line to take more bytes, and for the next answer of the stream."),
    ] = Duration(10)
    connect_timeout: ConnectTimeout = None
    attempt_timeout: AttemptTimeout = None
    operation_timeout: Annotated[
        Duration | None, _about("The longest that one request may take in all, over as many servers as it is tried at.")
    ] = None
    connection_max_age: ConnectionMaxAge = None
    connection_max_idle: ConnectionMaxIdle = None
    batch_interval: BatchInterval = Duration(1)
    batch_readings_max: BatchReadingsMax = BATCH_READINGS_MAX
    request_bytes_max: Annotated[
        Size,
        _about(
            "Size of one request at most, and of each message in it, before compression; the server's own limit of a "
            "message counts too."
        ),
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
    def _url_is_a_servers(self) -> None:
        if self.url:
            parse_url(self.url)

    @check("urls")
    def _urls_are_servers(self) -> Iterator[Problem]:
        yield from problems_of_urls(self.urls, parse=parse_url, what="server", mixed="nats:// and tls://")

    @check("url", "urls")
    def _there_is_one_way(self) -> Iterator[Problem]:
        if self.url and self.urls:
            yield Problem("urls", "url names one server already; give url or urls")
        elif not self.url and not self.urls:
            yield Problem("url", 'is missing; write url = "tls://…", or urls = ["tls://…", …]')

    @check("discover")
    def _others_are_hosts(self) -> Iterator[Problem]:
        for index, text in enumerate(self.discover):
            try:
                parse_pattern(text)
            except ValueError as error:
                yield Problem(below("discover", index), str(error))

    @check("tls", "url", "urls")
    def _tls_has_a_use(self) -> None:
        if self.tls != TlsSettings() and not parse_url(targets_of(self.url, self.urls)[0].url).is_tls:
            raise ValueError("tls is set, but the server's address does not use TLS; write tls://")

    @check("password", "username")
    def _password_is_somebody_s(self) -> None:
        if self.password is not None and not self.username:
            raise ValueError("a password needs a username")

    @check("token", "username", "nkey", "credentials")
    def _there_is_one_proof(self) -> Iterator[Problem]:
        given = {"username": self.username, "token": self.token, "nkey": self.nkey, "credentials": self.credentials}
        names = [name for name, value in given.items() if value]
        if len(names) > 1:
            yield Problem(names[1], f"stands instead of {names[0]}; give one of both")

    @check("subject", "payload")
    def _subject_is_one(self) -> None:
        if self.subject:
            _check_subject(self.subject, is_otlp=self.payload == OTLP)

    @check("otlp_subject", "payload")
    def _otlp_subject_is_one(self) -> Iterator[Problem]:
        _check_subject(self.otlp_subject, is_otlp=True)
        if self.payload == OTLP and self.otlp_subject != OTLP_SUBJECT:
            yield Problem("otlp_subject", 'is for payload = "json"; here write subject = "…"')

    @check("inbox")
    def _inbox_is_a_subject(self) -> None:
        if what := _wrong_with(self.inbox):
            raise ValueError(f"{self.inbox!r} {what}")

    @check("stream")
    def _stream_is_a_name(self) -> None:
        if self.stream and _NAME.fullmatch(self.stream) is None:
            raise ValueError(f"{self.stream!r} is no stream's name: those have no spaces, dots, * and >, / and \\")

    @check("compression", "payload")
    def _messages_are_packed_whole(self) -> None:
        if self.payload == JSON and self.compression != "none":
            raise ValueError('messages of one reading each become no smaller; leave it out, or write payload = "otlp"')

    @property
    def protocol(self) -> str:
        """How requests are written: as no other kind does."""
        return "nats"

    @property
    def is_encrypted(self) -> bool:
        """Whether it speaks TLS: with all of its servers or with none."""
        return parse_url(self.targets()[0].url).is_tls

    def targets(self) -> tuple[EndpointSettings, ...]:
        """Return the servers, of which there is at least one."""
        return targets_of(self.url, self.urls)

    def topic_of_readings(self) -> str:
        """Return the template of what goes out as `payload` says."""
        return self.subject or (OTLP_SUBJECT if self.payload == OTLP else JSON_SUBJECT)

    def subject_of_requests(self) -> str:
        """Return the template of OTLP messages."""
        return self.topic_of_readings() if self.payload == OTLP else self.otlp_subject

    def warnings(self) -> list[str]:
        """Return what works and should be thought about, for `tidegate check`."""
        said: list[str] = []
        key = "urls" if self.urls else "url"
        what = "password and data" if self.password is not None else "data"
        what = "token and data" if self.token is not None or self.credentials is not None else what
        if open_ones := in_the_open(self.targets(), parse=parse_url, what=what, safe="tls://"):
            said.append(f"{key}: {open_ones}")
        elif self.discover and not self.is_encrypted:
            said.append(
                f"discover: without TLS {what} can be read on the way there, and by whoever has such an address"
            )
        return [*said, *warnings_of_endpoints(self.targets(), key=key, balance=self.balance, breaker=self.breaker)]


def token_of(value: AttributeValue) -> str:
    """Return a value as a token of a subject; two that differ stay different.

    >>> token_of("cpu.load"), token_of("a b"), token_of(True), token_of(""), token_of("-")
    ('cpu%2Eload', 'a%20b', 'true', '-', '%2D')
    """
    text = ("true" if value else "false") if isinstance(value, bool) else str(value)
    if text in {"", "-"}:
        return "%2D" if text else "-"
    return _ODD.sub(lambda odd: "".join(f"%{byte:02X}" for byte in odd[0].encode()), text)


def _wrong_with(bare: str) -> str:
    """Say what keeps a text, with a letter for each of its names, from being a subject; "" for nothing."""
    if any(letter.isspace() or not letter.isprintable() for letter in bare):
        return "has a space in it, which ends a subject"
    if wrong := next((letter for letter in "*>" if letter in bare), ""):
        return f"has {wrong!r} in it, which only a subscription's can have"
    if "" in bare.split("."):
        return "has an empty part between its dots"
    return ""


def _check_subject(template: str, *, is_otlp: bool) -> None:
    """Raise ValueError for a subject that no message can have, and for names that nothing fills in."""
    bare = bare_of(template, "x")
    if what := _wrong_with(bare):
        raise ValueError(f"{template!r} {what}")
    if template.startswith(("$", "_INBOX")):
        raise ValueError(f"{template!r} begins with what servers keep for themselves")
    check_names(template, is_otlp=is_otlp, what="a message")
