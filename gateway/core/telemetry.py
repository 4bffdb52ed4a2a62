"""The gateway's own counters, numbers that status and Prometheus read. Must not hold an object per message.

Counted on the event loop alone: threads hand their numbers back with their results.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final, TypeAlias

Labels: TypeAlias = "tuple[tuple[str, str], ...]"

# A flood of odd labels must not become a flood of counters.
LABEL_SETS_MAX: Final = 256
OTHER: Final = "other"


@dataclass(slots=True)
class Family:
    """One metric with its label sets. `kind` is "counter" or "gauge"."""

    name: str
    help: str
    kind: str
    values: dict[Labels, float] = field(default_factory=dict)


class Telemetry:
    """All counters and gauges of one gateway, by name and labels. What each means stands in control/instruments.py."""

    def __init__(self) -> None:
        self._families: dict[str, Family] = {}

    def count(self, name: str, amount: float = 1, /, **labels: str) -> None:
        """Add `amount` to a counter."""
        family, key = self._slot(name, "counter", labels)
        family.values[key] = family.values.get(key, 0) + amount

    def gauge(self, name: str, value: float, /, **labels: str) -> None:
        """Set a gauge."""
        family, key = self._slot(name, "gauge", labels)
        family.values[key] = value

    def value(self, name: str, /, **labels: str) -> float:
        """Return one number; 0 where nothing was counted yet."""
        family = self._families.get(name)
        return 0 if family is None else family.values.get(tuple(sorted(labels.items())), 0)

    def families(self) -> list[Family]:
        """Return every family, by name."""
        return [self._families[name] for name in sorted(self._families)]

    def _slot(self, name: str, kind: str, labels: dict[str, str]) -> tuple[Family, Labels]:
        family = self._families.get(name)
        if family is None:
            family = self._families[name] = Family(name, "", kind)
        assert family.kind == kind, f"{name} is a {family.kind}"
        key = tuple(sorted(labels.items()))
        if key not in family.values and len(family.values) >= LABEL_SETS_MAX:
            key = tuple((label, OTHER) for label, _ in key)
        return family, key
