"""What uplinks that publish have in common in the config: keys, several addresses, names that are filled in."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Annotated, Final, Literal, Protocol, TypeAlias

from msgspec import Meta

from gateway.core.checks import Problem, below, parts
from gateway.core.units import Duration
from gateway.net.addresses import is_loopback
from gateway.net.secrets import Secret
from gateway.uplinks.balance import Kind
from gateway.uplinks.budget_settings import BudgetSettings
from gateway.uplinks.endpoint_settings import BreakerSettings, EndpointSettings
from gateway.uplinks.settings import MAPPINGS_MAX, RetrySettings

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

    class Address(Protocol):
        """What is read from a URL."""

        @property
        def host(self) -> str:
            """Its name or address."""
            ...

        @property
        def port(self) -> int:
            """Its TCP port."""
            ...

        @property
        def is_tls(self) -> bool:
            """Whether TLS is spoken there."""
            ...


OTLP: Final = "otlp"
JSON: Final = "json"
TIME_UNITS: Final = {"s": 10**9, "ms": 10**6, "us": 10**3, "ns": 1}

_HOLE: Final = re.compile(r"\{([^{}]*)\}")

# Keys that mean the same wherever it is published.
Balance: TypeAlias = Annotated[
    Kind,
    Meta(
        description="Which of several is published to: the first that works; one after the other; each by its weight; "
        "or the one that had requests outstanding for the shortest time."
    ),
]
TimeUnit: TypeAlias = Annotated[
    Literal["s", "ms", "us", "ns"],
    Meta(description='With payload = "json": what "ts" counts since 1970, in whole numbers.'),
]
Password: TypeAlias = Annotated[Secret | None, Meta(description="Its password, by reference.")]
Breaker: TypeAlias = Annotated[BreakerSettings, Meta(description="When one of several is left out, and for how long.")]
ConnectTimeout: TypeAlias = Annotated[
    Duration | None, Meta(description="Longest wait for a connection, where it is another than `timeout`.")
]
AttemptTimeout: TypeAlias = Annotated[
    Duration | None,
    Meta(description="The longest that one attempt at a request may take in all, however much moves."),
]
ConnectionMaxAge: TypeAlias = Annotated[
    Duration | None,
    Meta(description="A connection that is older is closed before the next request; without it one is kept."),
]
ConnectionMaxIdle: TypeAlias = Annotated[
    Duration | None, Meta(description="The same for one that was not used for so long.")
]
BatchInterval: TypeAlias = Annotated[
    Duration,
    Meta(description='How long fresh data may wait to be sent together; "60s" is good on metered links.'),
]
BatchReadingsMax: TypeAlias = Annotated[int, Meta(description="Readings in one request at most.", ge=1)]
Mappings: TypeAlias = Annotated[
    Annotated[tuple[str, ...], Meta(min_length=1, max_length=MAPPINGS_MAX)] | None,
    Meta(
        description="The mappings whose readings it takes, by their `name`, with what was found in these; without it "
        "all, and what no mapping makes."
    ),
]
BacklogShare: TypeAlias = Annotated[
    Annotated[float, Meta(ge=0, le=1)] | None,
    Meta(description="Its own `[store] backlog_share`: how much of what is sent is backlog while live data waits."),
]
Budget: TypeAlias = Annotated[
    BudgetSettings,
    Meta(description="What the link may carry; what finds no room in it is thinned, and goes whole when there is."),
]
Retry: TypeAlias = Annotated[RetrySettings, Meta(description="Waits between attempts; they go on without end.")]
StopGrace: TypeAlias = Annotated[
    Duration, Meta(description="How long to go on sending fresh data when the gateway stops.")
]


def targets_of(url: str, urls: Iterable[str | EndpointSettings]) -> tuple[EndpointSettings, ...]:
    """Return where to, from the keys `url` and `urls`."""
    return tuple(EndpointSettings(url=one) if isinstance(one, str) else one for one in urls or (url,))


def problems_of_urls(
    urls: Iterable[str | EndpointSettings], *, parse: Callable[[str], Address], what: str, mixed: str
) -> Iterator[Problem]:
    """Yield what is wrong with several addresses, each by itself and all of them together.

    `what` each is called, and `mixed` the schemes with and without TLS.
    """
    seen: dict[tuple[str, int], int] = {}
    kinds: set[bool] = set()
    for index, one in parts(urls):
        if not isinstance(one, str) and not hasattr(one, "url"):
            continue
        path = below("urls", index) if isinstance(one, str) else below("urls", index, "url")
        try:
            address = parse(one if isinstance(one, str) else one.url)
        except ValueError as error:
            yield Problem(path, str(error))
            continue
        first = seen.setdefault((address.host, address.port), index)
        if first != index:
            yield Problem(path, f"is the same {what} as urls[{first}]; leave it out, or give that one a weight")
        kinds.add(address.is_tls)
    if len(kinds) > 1:
        yield Problem("urls", f"{mixed} are not mixed: what one protects another would show")


def in_the_open(targets: Sequence[EndpointSettings], *, parse: Callable[[str], Address], what: str, safe: str) -> str:
    """Say which addresses beyond this box have no TLS, and `what` can be read; "" for none. `safe` are schemes."""
    bare = [one.url for one in targets if not is_loopback(parse(one.url).host)]
    if not bare or parse(targets[0].url).is_tls:
        return ""
    are = "is" if len(bare) == 1 else "are"
    return f"{', '.join(bare)} {are} not encrypted, {what} can be read on the way; {safe} would protect them"


def names_of(template: str) -> list[str]:
    """Return what is to be filled in.

    >>> names_of("site/{device}/{metric}")
    ['device', 'metric']
    """
    return _HOLE.findall(template)


def fill(template: str, values: Mapping[str, str]) -> str:
    """Return the template with each name replaced by its value.

    >>> fill("site/{device}", {"device": "pump"})
    'site/pump'
    """
    return _HOLE.sub(lambda hole: values[hole[1]], template)


def bare_of(template: str, letter: str = "") -> str:
    """Return what stands around the names, a letter for each; raise ValueError for a brace that belongs to none."""
    bare = _HOLE.sub(letter, template)
    if "{" in bare or "}" in bare:
        raise ValueError(f"{template!r} has a brace that belongs to no name; write names like {{device}}")
    return bare


def check_names(template: str, *, is_otlp: bool, what: str) -> None:
    """Raise ValueError for names that nothing fills in. `what` is it that is of many readings with OTLP."""
    names = names_of(template)
    if "" in names:
        raise ValueError(f"{template!r} has {{}} in it; write what is to be filled in, like {{device}}")
    if is_otlp:
        if odd := next((name for name in names if name not in {"gateway", "signal"}), ""):
            raise ValueError(f"{template!r} wants {{{odd}}}, but {what} is of many; there is {{gateway}}, {{signal}}")
        if "signal" not in names:
            raise ValueError(f"{template!r}: add {{signal}}, or nobody can tell metrics from logs and traces")
    elif "signal" in names:
        raise ValueError(f"{template!r}: {{signal}} is for OTLP; a reading has {{gateway}}, {{device}}, {{metric}}")
