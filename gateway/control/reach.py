"""Which topics can arrive, and which mapping they reach: what no mapping takes, and mappings that take nothing.

Compares patterns with patterns, so it says what can never work, whatever the devices send; and where mappings throw
together what their patterns tell apart. Must not map anything.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import islice
from typing import TYPE_CHECKING, Any, Final

from gateway.codecs.mapping_settings import MappingSettings
from gateway.codecs.topics import Pattern, Template
from gateway.control.reading import PROBLEMS_MAX, did_you_mean
from gateway.control.settings import Config, SourceSettings
from gateway.core.checks import Problem, below
from gateway.sources.mqtt_server_settings import MqttServerSettings
from gateway.sources.mqtt_settings import MqttSettings, subscriptions
from gateway.sources.serial_settings import SerialSettings

if TYPE_CHECKING:
    from collections.abc import Iterator

    from gateway.control.reading import Reading

# Levels before a filter that are no part of topics: "$share" and the name of a group (MQTT 5.0 section 4.8.2), and what
# EMQX has beside that.
PREFIX_LEVELS: Final = {"$share": 2, "$queue": 1, "$exclusive": 1}


@dataclass(slots=True)
class Reach:
    """What cannot work, and what is perhaps not meant."""

    wrong: list[Problem] = field(default_factory=list)
    notes: list[Problem] = field(default_factory=list)


def look_at_topics(reading: Reading) -> Reach:
    """Compare all sources with all mappings, if each of them is right by itself."""
    found = Reach()
    sources: tuple[Any, ...] = getattr(reading.value, "sources", (None,))
    mappings: tuple[Any, ...] = getattr(reading.value, "mappings", (None,))
    if all(isinstance(one, SourceSettings) for one in sources) and all(
        isinstance(one, MappingSettings) for one in mappings
    ):
        config = Config(sources=sources, mappings=mappings)
        found.wrong += islice(_names_of_no_source(config), PROBLEMS_MAX)
        _look_at_sources(config, found)
        found.notes += islice(_mappings_that_take_nothing(config), PROBLEMS_MAX)
        found.notes += islice(_what_is_thrown_together(config), PROBLEMS_MAX)
    return found


def _names_of_no_source(config: Config) -> Iterator[Problem]:
    names = [source.name for source in config.sources]
    for index, mapping in enumerate(config.mappings):
        if mapping.source is not None and mapping.source not in names:
            what = f'no source is called "{mapping.source}"'
            yield Problem(below("mappings", index, "source"), f"{what}; {did_you_mean(mapping.source, names)}")


def _look_at_sources(config: Config, found: Reach) -> None:
    """Note what a source brings for no mapping; where that is all of it, the source is of no use."""
    names = {source.name for source in config.sources}
    # A name that nobody has is said already: whose the mapping was meant to be is not known.
    mappings = [
        (mapping.source if mapping.source in names else None, Pattern(mapping.match))
        for mapping in config.effective_mappings()
    ]
    for index, source in enumerate(config.sources):
        if len(found.wrong) + len(found.notes) >= PROBLEMS_MAX:
            return
        takers = [pattern for name, pattern in mappings if name in {None, source.name}]
        brings = list(_brought_by(source))
        own = [Pattern(text) for text in source.otlp] if isinstance(source, MqttSettings) else []
        unmapped = [
            Problem(
                below("sources", index, *steps),
                f'no mapping takes what arrives as "{pattern.text}"; add [[mappings]] match = "{pattern.text}"',
            )
            for steps, pattern in brings
            if not any(taker.meets(pattern) for taker in (*takers, *own))
        ]
        if isinstance(source, MqttSettings):
            for n, (topic, _) in enumerate(subscriptions(source)):
                if "{" in topic:
                    what = "to a broker braces are letters like others; write + for a level"
                    found.notes.append(Problem(below("sources", index, "topics", n), what))
        if len(unmapped) == len(brings):
            found.wrong += unmapped
        else:
            found.notes += unmapped


def _brought_by(source: SourceSettings) -> Iterator[tuple[tuple[str | int, ...], Pattern]]:
    """Yield the topics that a source can bring, each with where the configuration says so."""
    texts: list[tuple[tuple[str | int, ...], str]] = []
    if isinstance(source, MqttServerSettings):
        for index, user in enumerate(source.users):
            texts += _granted("users", index, user.name, user.topics)
        for index, entry in enumerate(source.certificates):
            texts += _granted("certificates", index, entry.common_name, entry.topics)
        if source.lets_anyone_in:
            texts += [(("anonymous_topics", n), topic) for n, topic in enumerate(source.anonymous_topics)]
    elif isinstance(source, MqttSettings):
        for n, (topic, _) in enumerate(subscriptions(source)):
            prefix_levels = PREFIX_LEVELS.get(topic.partition("/")[0], 0)
            texts.append((("topics", n), topic.split("/", prefix_levels)[-1]))
    elif isinstance(source, SerialSettings):
        # What comes as OTLP has names already, and meets no mapping.
        texts.append((("framing",), source.name if source.framing == "lines" else f"{source.name}/#"))
    for steps, text in texts:
        try:
            pattern = Pattern(text)
        except ValueError:
            # With a brace in it, which is a letter to MQTT and no level to a mapping: nobody knows what will come.
            pattern = Pattern("#")
        yield steps, pattern


def _granted(
    section: str, index: int, name: str, topics: tuple[str, ...]
) -> Iterator[tuple[tuple[str | int, ...], str]]:
    for n, topic in enumerate(topics):
        yield (section, index, "topics", n), topic.replace("{user}", name).replace("%u", name)


def _mappings_that_take_nothing(config: Config) -> Iterator[Problem]:
    """Say which mappings are behind one that takes all of theirs, and which are for topics that nobody brings."""
    brings = [(source.name, pattern) for source in config.sources for _, pattern in _brought_by(source)]
    before: list[tuple[str | None, Pattern]] = []
    for index, mapping in enumerate(config.mappings):
        pattern, path = Pattern(mapping.match), below("mappings", index, "match")
        taken = (
            n for n, (name, first) in enumerate(before) if name in {None, mapping.source} and first.covers(pattern)
        )
        first = next(taken, None)
        if first is not None:
            what = f'mappings[{first}] ("{before[first][1].text}") takes all of its messages first'
            yield Problem(path, f"{what}; put this mapping before it")
        elif brings and not any(mapping.source in {None, name} and pattern.meets(brought) for name, brought in brings):
            yield Problem(path, f'no source brings what "{mapping.match}" would take')
        before.append((mapping.source, pattern))


def _what_is_thrown_together(config: Config) -> Iterator[Problem]:
    """Say which mappings give the readings of several topics the same name and attributes."""
    for index, mapping in enumerate(config.mappings):
        pattern = Pattern(mapping.match)
        used = _names_used(mapping, pattern)
        if mapping.drop or "topic" in used:
            continue
        idle = [name for name in pattern.names if name not in used]
        path = below("mappings", index, "match")
        if idle:
            what = f"{{{idle[0]}}} is used nowhere, so the readings of all of them are one series"
            yield Problem(path, f'{what}; add resource = {{ "{idle[0]}.id" = "{{{idle[0]}}}" }}, or write + for it')
        elif not used and mapping.source is None and any(level.word is None for level in pattern.levels):
            what = f'the readings of all topics that "{mapping.match}" takes are one series'
            yield Problem(path, f'{what}; add resource = {{ "mqtt.topic" = "{{topic}}" }}, or name a level')


def _names_used(mapping: MappingSettings, pattern: Pattern) -> set[str]:
    """Return which captures stand in what comes out of a mapping."""
    texts = [*mapping.resource.values(), *mapping.attributes.values(), *(metric.name for metric in mapping.metrics)]
    return {name for text in texts if isinstance(text, str) for name in Template(text, known=pattern.names).names}
