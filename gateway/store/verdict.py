"""What `verify` says of a shelf. Must not look at one."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Final

from gateway.core.words import plural

PROBLEMS_MAX: Final = 100


@dataclass(slots=True)
class VerifyReport:
    """What `verify` found. Counts are readings, log records included; `problems` are at most PROBLEMS_MAX sentences."""

    state_dir: str
    segments: int = 0
    readings: int = 0
    left_out: int = 0  # readings beside these, in segments that no uplink takes
    accepted: int = 0
    uplinks: dict[str, dict[str, int]] = field(default_factory=dict)
    series: int = 0
    rewritten: int = 0  # segments that took the place of others, to make room
    diluted: int = 0  # readings in those of them that were thinned
    diluted_from: int = 0  # and how many that were as they came
    problems: list[str] = field(default_factory=list)
    problems_left_out: int = 0
    notes: list[str] = field(default_factory=list)  # what the next start mends, and nothing is lost by

    def problem(self, sentence: str) -> None:
        """Add a problem."""
        if len(self.problems) < PROBLEMS_MAX:
            self.problems.append(sentence)
        else:
            self.problems_left_out += 1

    def as_dict(self) -> dict[str, object]:
        """Return all of it for JSON."""
        return asdict(self)

    def summary(self) -> str:
        """Return one line for people."""
        held = f"{plural(self.segments, 'segment')} with {plural(self.readings, 'reading')} of {self.series:,} series"
        if self.diluted_from:
            held += f", {self.diluted:,} of them what is left of {self.diluted_from:,} diluted for want of room"
        if self.left_out:
            held += f", beside {plural(self.left_out, 'reading')} that no uplink takes"
        count = len(self.problems) + self.problems_left_out
        return f"{held}: {plural(count, 'problem') if count else 'all is well'}"
