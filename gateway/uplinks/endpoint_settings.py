"""What can be said of receivers in the config: their addresses, weights, and when one is left out. Must not connect."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Annotated, Protocol, TypeAlias
from urllib.parse import SplitResult, quote, urlsplit

import msgspec
from msgspec import Meta

from gateway.core.checks import Checked, Problem, below, check, parts
from gateway.core.units import Duration
from gateway.net import addresses
from gateway.uplinks.breaker import Limits

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from gateway.uplinks.balance import Kind


# What every kind of uplink that goes over a network has, in the same words.
LinkNames: TypeAlias = Annotated[
    tuple[str, ...],
    Meta(
        description="The [[links]] that it may use, by their `name`: the first one that is up. Without it as the box's "
        "routes have it.",
        max_length=8,
    ),
]


class EndpointSettings(msgspec.Struct, kw_only=True, forbid_unknown_fields=True, frozen=True):
    """One of several receivers of an uplink."""

    url: Annotated[str, Meta(description="Base address, http:// or https://.")]
    weight: Annotated[
        int,
        Meta(description='How much of all it gets beside the others; for balance = "weighted".', ge=1, le=1000),
    ] = 1


class BreakerSettings(Checked, msgspec.Struct, kw_only=True, forbid_unknown_fields=True, frozen=True):
    """When a receiver is left out: after failures in a row, or where too large a part of a window fails."""

    failures: Annotated[int, Meta(description="Failures in a row that have it left out.", ge=1, le=1000)] = 3
    failure_rate: Annotated[
        float, Meta(description="The part of the requests of a window that has it left out when they fail.", gt=0, le=1)
    ] = 0.5
    window: Annotated[Duration, Meta(description="How long that window is.")] = Duration(60)
    requests_min: Annotated[
        int, Meta(description="Requests in a window before a part of them says anything.", ge=1, le=10_000)
    ] = 10
    open_for: Annotated[
        Duration,
        Meta(description="How long it is left out at first; twice as long where it fails again, at random a bit less."),
    ] = Duration(10)
    open_max: Annotated[Duration, Meta(description="How long at most.")] = Duration(300)
    probes: Annotated[
        int, Meta(description="How many requests it must take after that until it counts as well.", ge=1, le=100)
    ] = 1

    @check("window")
    def _window_is_a_time(self) -> None:
        if self.window < 1:
            raise ValueError(f'is {self.window}; it is at least "1s"')

    @check("open_for", "open_max")
    def _open_for_is_least(self) -> None:
        if not 0 < self.open_for <= self.open_max:
            raise ValueError(f"is {self.open_for}; it must be over zero and not exceed open_max ({self.open_max})")

    def limits(self) -> Limits:
        """Return this as a breaker takes it."""
        return Limits(
            failures=self.failures,
            failure_rate=self.failure_rate,
            window_s=float(self.window),
            requests_min=self.requests_min,
            open_s=float(self.open_for),
            open_s_max=float(self.open_max),
            probes=self.probes,
        )


class ReceiverSettings(Protocol):
    """What is to be known of an uplink with one receiver or several."""

    @property
    def name(self) -> str:
        """What people call it."""
        ...

    @property
    def compression(self) -> str:
        """How requests are packed; "auto" falls back."""
        ...

    @property
    def operation_timeout(self) -> Duration | None:
        """How long a request may take over all receivers."""
        ...

    @property
    def breaker(self) -> BreakerSettings:
        """When one is left out."""
        ...

    @property
    def balance(self) -> Kind:
        """Which is first."""
        ...

    def targets(self) -> tuple[EndpointSettings, ...]:
        """Return them, at least one."""
        ...


def problems_of_endpoints(endpoints: Iterable[str | EndpointSettings]) -> Iterator[Problem]:
    """Yield what is wrong with the addresses of several receivers, each by itself and all of them together."""
    seen: dict[tuple[str, str, int, str], int] = {}
    schemes: dict[str, int] = {}
    for index, one in parts(endpoints):
        if not isinstance(one, str) and not hasattr(one, "url"):
            continue
        path = below("endpoints", index) if isinstance(one, str) else below("endpoints", index, "url")
        address = one if isinstance(one, str) else one.url
        try:
            url = check_base(address)
        except ValueError as error:
            yield Problem(path, str(error))
            continue
        port = url.port or (443 if url.scheme == "https" else 80)
        first = seen.setdefault((url.scheme, url.hostname or "", port, url.path.rstrip("/")), index)
        if first != index:
            yield Problem(path, f"is the same receiver as endpoints[{first}]; leave it out, or give that one a weight")
        schemes.setdefault(url.scheme, index)
    if len(schemes) > 1:
        yield Problem("endpoints", "http:// and https:// are not mixed: what one protects another would show")


def warnings_of_endpoints(
    targets: Sequence[EndpointSettings], *, key: str, balance: str, breaker: BreakerSettings
) -> Iterator[str]:
    """Yield what works with several receivers and is perhaps not meant."""
    if len(targets) == 1 and breaker != BreakerSettings():
        # Nobody else could take what it is not asked for: when to ask is what `retry` is for.
        yield "breaker: there is one receiver, which is never left out; `retry` says how often it is tried"
    if len(targets) == 1 and balance != "failover":
        yield f"balance: there is one receiver, so {balance!r} means nothing; name more of them in endpoints"
    elif balance != "weighted" and any(one.weight != 1 for one in targets):
        yield f'{key}: weights are those of balance = "weighted"; here it is "{balance}"'


def check_base(address: str) -> SplitResult:
    """Return the parts of a base address; raise ValueError for what is none."""
    url = check_address(address, schemes=("http", "https"))
    if re.search(r"/v1/(metrics|logs|traces)/?$", url.path):
        raise ValueError("this is the base address: leave out /v1/…, each signal adds its own")
    return url


def check_address(address: str, *, schemes: tuple[str, ...]) -> SplitResult:
    """Return the parts of an address; raise ValueError for what is none, which repeats no password."""
    before_path = re.split("[/?#]", address.partition("//")[2] or address, maxsplit=1)[0]
    if "@" in before_path:
        # Before all else, and the address itself is not repeated: the sentence ends up in logs.
        raise ValueError("must not hold a user or password; write headers = { authorization = … }")
    try:
        url = urlsplit(address)
        port = url.port
    except ValueError as error:
        raise ValueError(f"is not an address: {error}") from error
    if url.scheme not in schemes or not url.hostname or port == 0:
        wanted = " or ".join(f"{scheme}://host:port" for scheme in schemes)
        raise ValueError(f"{address!r} is not an address like {wanted}")
    if url.query or url.fragment or not address.isprintable() or " " in address:
        raise ValueError("ends with its path: no ?, # or spaces; tokens go into headers")
    if not address.isascii():
        raise ValueError(f"has letters that no request can have{_in_ascii(url)}")
    return url


def _in_ascii(url: SplitResult) -> str:
    """Say how an address is written that has other letters in its name or path; "" where it has no such form."""
    try:
        name = (url.hostname or "").encode("idna").decode()
    except UnicodeError:
        return ""
    port = "" if url.port is None else f":{url.port}"
    return f"; write {url.scheme}://{name}{port}{quote(url.path, safe='/%')}"


def is_loopback(host: str) -> bool:
    """Whether a host is this box itself."""
    return addresses.is_loopback(host) or host.endswith(".localhost")
