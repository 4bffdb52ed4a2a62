"""Whether the packages are here that only some configurations need. Must not import them: they are memory."""

from __future__ import annotations

import importlib.util
from typing import TYPE_CHECKING, Final

from gateway.core.checks import Problem, below, parts
from gateway.sources.otlp_settings import OtlpSettings
from gateway.uplinks.nats_settings import NatsUplinkSettings
from gateway.uplinks.settings import GRPC

if TYPE_CHECKING:
    from collections.abc import Iterator

    from gateway.control.reading import Reading

# The modules behind each extra of the distribution.
EXTRAS: Final = {"grpc": ("h2", "hpack"), "nats": ("cryptography",)}


def check_extras(reading: Reading) -> Iterator[Problem]:
    """Yield what is configured and cannot be had before something is installed."""
    yield from _keys_of_nats(reading)
    missing = f"needs a package that is not installed; pip install tidegate[{GRPC}]"
    if all(importlib.util.find_spec(name) for name in EXTRAS[GRPC]):
        return
    for index, source in enumerate(getattr(reading.value, "sources", ())):
        if isinstance(source, OtlpSettings) and source.grpc:
            yield Problem(below("sources", index, "grpc"), f"OTLP over gRPC {missing}")
    for index, uplink in parts(getattr(reading.value, "uplinks", ()), "protocol"):
        if uplink.protocol == GRPC:
            yield Problem(below("uplinks", index, "protocol"), f"OTLP over gRPC {missing}")


def _keys_of_nats(reading: Reading) -> Iterator[Problem]:
    missing = "needs a package that is not installed; pip install tidegate[nats]"
    if all(importlib.util.find_spec(name) for name in EXTRAS["nats"]):
        return
    for index, uplink in enumerate(getattr(reading.value, "uplinks", ())):
        for key in ("nkey", "credentials") if isinstance(uplink, NatsUplinkSettings) else ():
            if getattr(uplink, key) is not None:
                yield Problem(below("uplinks", index, key), f"an NKey {missing}")
