"""Which uplink takes what of all that can come in: what `check` says of it, and what the store and the mapper are told.

Compares settings with settings; must not look at any data.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from gateway.codecs.mapping_settings import MappingSettings
from gateway.control.reading import did_you_mean
from gateway.core.checks import Problem, below, parts
from gateway.core.contracts import Priority, Signal
from gateway.sources.mqtt_settings import OTLP_PRIORITY, MqttSettings
from gateway.sources.otlp_settings import OtlpSettings
from gateway.store.taking import ANY, origin_of, taking
from gateway.store.writer import LOG_PRIORITY

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from gateway.control.reading import Reading
    from gateway.control.settings import Config
    from gateway.store.taking import Takes
    from gateway.uplinks.terms import Terms


def takes_of(uplinks: Sequence[Terms]) -> dict[str, Takes]:
    """Return what each uplink takes, by its name."""
    return {
        uplink.name: taking(classes=uplink.classes, signals=uplink.signals, mappings=uplink.mappings)
        for uplink in uplinks
    }


def origins_of(mappings: Sequence[MappingSettings], uplinks: Sequence[Terms]) -> list[int]:
    """Return the number of each mapping that some uplink names, ANY for the others: these share their segments."""
    named = {name for uplink in uplinks for name in uplink.mappings or ()}
    return [origin_of(mapping.name) if mapping.name in named else ANY for mapping in mappings]


def unknown_mappings(reading: Reading) -> Iterator[Problem]:
    """Say which mappings uplinks name that are not there."""
    mappings = getattr(reading.value, "mappings", ())
    if any(not isinstance(mapping, MappingSettings) for mapping in mappings):
        # What is wrong with it may be its name.
        return
    known = sorted({mapping.name for mapping in mappings if mapping.name})
    for index, uplink in parts(getattr(reading.value, "uplinks", ()), "mappings"):
        for number, name in enumerate(uplink.mappings or ()):
            if name not in known:
                hint = did_you_mean(name, known) if known else 'give one a name: [[mappings]] name = "…"'
                yield Problem(below("uplinks", index, "mappings", number), f'no mapping is called "{name}"; {hint}')


class Made(NamedTuple):
    """Something that comes in: where the configuration says so, what it is, and of what."""

    path: str
    what: str
    priority: Priority
    signal: Signal
    origin: int


def not_taken(config: Config) -> Iterator[Problem]:
    """Say what no uplink takes, and which uplinks take nothing of what can come."""
    takes = takes_of(config.uplinks)
    made = list(_made(config))
    for one in made:
        if takes and not any(uplink.has((one.priority, one.signal), one.origin) for uplink in takes.values()):
            yield Problem(one.path, f"no uplink takes {one.what}: kept while there is room, and sent nowhere")
    for index, uplink in enumerate(config.uplinks):
        mine = takes[uplink.name]
        if config.sources and not any(mine.has((one.priority, one.signal), one.origin) for one in made):
            what = "of all that comes in it takes nothing but the gateway's own numbers"
            yield Problem(below("uplinks", index), f"{what}; look at its classes, signals and mappings")


def _made(config: Config) -> Iterator[Made]:
    mappings = config.effective_mappings()
    origins = origins_of(mappings, config.uplinks)
    found = {origin: mapping.name for mapping, origin in zip(mappings, origins, strict=True) if not mapping.drop}
    for origin, name in found.items() if config.detectors else ():
        what = "findings" if origin == ANY else f"findings in what the mapping {name} makes"
        yield Made("detectors", f"{what}, which are logs of class critical", LOG_PRIORITY, Signal.LOGS, origin)
    if config.detectors and ANY not in found and any(map(brings_otlp, config.sources)):
        what = "findings in what programs send, which are logs of class critical"
        yield Made("detectors", what, LOG_PRIORITY, Signal.LOGS, ANY)
    for index, (mapping, origin) in enumerate(zip(mappings, origins, strict=True)):
        if not mapping.drop:
            path = below("mappings", index, "class") if index < len(config.mappings) else "mappings"
            yield Made(path, f"metrics of class {mapping.class_}", _class_of(mapping), Signal.METRICS, origin)
    for index, source in enumerate(config.sources):
        if isinstance(source, OtlpSettings):
            for signal in Signal:
                what = f"the {signal.name.lower()} that programs send, of class {source.class_}"
                yield Made(below("sources", index, "class"), what, source.priority, signal, ANY)
        elif isinstance(source, MqttSettings) and source.otlp:
            for signal in Signal:
                what = f"the {signal.name.lower()} that come as OTLP, of class {OTLP_PRIORITY.name.lower()}"
                yield Made(below("sources", index, "otlp"), what, OTLP_PRIORITY, signal, ANY)


def brings_otlp(source: Any) -> bool:
    """Whether OTLP comes by a source."""
    return isinstance(source, OtlpSettings) or (isinstance(source, MqttSettings) and bool(source.otlp))


def _class_of(settings: Any) -> Priority:
    return Priority[settings.class_.upper()]
