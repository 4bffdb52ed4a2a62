"""All that `tidegate check` says: what cannot work, and what is perhaps not meant. Must not print or write anything.

Every room looks at the parts that could be read, so that one round says what is wrong everywhere.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, Any, Final

from gateway.codecs.explain import check_example
from gateway.codecs.mapping import Mapper
from gateway.codecs.mapping_settings import ExampleSettings, MappingSettings
from gateway.control import config, profiles
from gateway.control.certificates import look_at_certificates
from gateway.control.fitting import fit
from gateway.control.linked import look_at_links
from gateway.control.loops import look_for_loops
from gateway.control.reach import look_at_topics
from gateway.control.reading import PROBLEMS_MAX
from gateway.control.sticks import look_at_sticks
from gateway.control.taken import not_taken
from gateway.core.checks import Problem, below, parts

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from gateway.control.reading import Reading
    from gateway.control.settings import Config

# A message's topic has no NUL in it, so this takes none: for a mapping of which nobody knows what it takes.
TAKES_NOTHING: Final = MappingSettings(match="\0")


@dataclass(frozen=True, slots=True)
class Findings:
    """A configuration that works, its hardware profile's name, and what should be thought about, as sentences."""

    config: Config
    profile: str
    notes: list[str]


def check(path: Path) -> Findings:
    """Read the file at `path` and try what it says; raise ConfigError with all that is wrong with it."""
    draft = config.draft(path)
    found, not_here = look_at_certificates(draft.reading)
    reach = look_at_topics(draft.reading)
    found += [*reach.wrong, *islice(wrong_examples(draft.reading), PROBLEMS_MAX)]
    name = getattr(getattr(draft.reading.value, "gateway", None), "hw_profile", None)
    profile = None
    try:
        profile = None if name is None else profiles.load(name)
    except profiles.ProfileError as error:
        found += [Problem("gateway.hw_profile", line) for line in str(error).split("\n")]
    whole = draft.finish(found)
    assert profile is not None, "it is loaded, or there is a problem"
    notes = [
        *draft.filled,
        *_not_here([*draft.not_here, *not_here]),
        *whole.warnings(),
        *map(str, reach.notes[:PROBLEMS_MAX]),
        *map(str, islice(not_taken(whole), PROBLEMS_MAX)),
        *map(str, look_at_links(whole)),
        *map(str, look_for_loops(whole.sources, whole.uplinks)),
        *config.look_at_disk(whole),
        *look_at_sticks(whole),
        *fit(whole, profile).notes(profile),
    ]
    return Findings(whole, profile.name, notes)


def _not_here(problems: list[Problem]) -> Iterator[str]:
    """Say what is not here: who types this command has another environment than the service, and other rights."""
    for problem in problems[:PROBLEMS_MAX]:
        yield f"{problem}; that may differ where the gateway runs, which does not start without it"


def wrong_examples(reading: Reading) -> Iterator[Problem]:
    """Try the examples of mappings that have no other problem; yield those that do not give what they say."""
    mappings = getattr(reading.value, "mappings", ())
    tried = [_without_wrong_examples(reading, number, mapping) for number, mapping in enumerate(mappings)]
    numbers = iter(range(1, 1 << 31))
    known = [one or _what_it_takes(mapping) for one, mapping in zip(tried, mappings, strict=True)]
    mapper = Mapper(known, resolve=lambda *_: next(numbers))
    for number, mapping in enumerate(mappings):
        if tried[number] is None:
            continue
        for index, example in parts(getattr(mapping, "examples", ())):
            if isinstance(example, ExampleSettings):
                path = below("mappings", number, "examples", index)
                yield from (Problem(path, what) for what in check_example(mapper, number, example))


def _without_wrong_examples(reading: Reading, number: int, mapping: Any) -> MappingSettings | None:
    """Return a mapping that is right but for some of its examples; None where more is wrong with it."""
    if isinstance(mapping, MappingSettings):
        return mapping
    path = below("mappings", number)
    examples = below(path, "examples")
    others = [problem for problem in reading.problems_at(path) if not problem.path.startswith(examples)]
    return None if others or not hasattr(mapping, "match") else MappingSettings(**{**vars(mapping), "examples": ()})


def _what_it_takes(mapping: Any) -> MappingSettings:
    """Return a mapping that takes the topics of one that is wrong, as far as they are known."""
    try:
        return MappingSettings(match=mapping.match, source=mapping.source)
    except (AttributeError, ValueError):
        return TAKES_NOTHING
