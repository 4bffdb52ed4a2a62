"""Runs the measurements, prints a table or JSON, and says which goals were missed. Must not measure anything itself."""

from __future__ import annotations

import json
import os
import platform
import sys
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Literal, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable


@dataclass(frozen=True, slots=True)
class Figure:
    """One measured number. `floor` must hold, `goal` is reached for; `better` says which way is good."""

    name: str
    value: float
    unit: str
    floor: float | None = None
    goal: float | None = None
    better: Literal["more", "less"] = "less"
    note: str = ""

    def meets(self, limit: float | None) -> bool | None:
        """Whether `limit` is met; None where there is none."""
        if limit is None:
            return None
        return self.value >= limit if self.better == "more" else self.value <= limit


@dataclass(frozen=True, slots=True)
class Skipped:
    """A measurement that could not be made here, and why."""

    name: str
    reason: str


Result: TypeAlias = "Figure | Skipped"


@dataclass(slots=True)
class Bench:
    """One measurement of the suite: `run(quick)` yields its figures. One that `is_long` runs where it is asked for."""

    name: str
    run: Callable[[bool], Iterable[Result]]
    about: str = ""
    is_long: bool = False


@dataclass(slots=True)
class Report:
    """All that one run of the suite printed."""

    machine: dict[str, str] = field(default_factory=dict)
    figures: list[Figure] = field(default_factory=list)
    skipped: list[Skipped] = field(default_factory=list)

    def as_json(self) -> str:
        """Return the report as JSON."""
        rows = [
            {**asdict(figure), "floor_met": figure.meets(figure.floor), "goal_met": figure.meets(figure.goal)}
            for figure in self.figures
        ]
        skipped = [asdict(item) for item in self.skipped]
        return json.dumps({"machine": self.machine, "figures": rows, "skipped": skipped}, indent=2)


def machine() -> dict[str, str]:
    """Describe the machine, so that absolute numbers mean something."""
    model = "unknown"
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:  # noqa: PTH123  a proc file, read once
            names = [line.split(":", 1)[1].strip() for line in file if line.startswith(("model name", "Model"))]
        model = names[0] if names else model
    except OSError:
        pass
    return {
        "processor": model,
        "cores": str(len(os.sched_getaffinity(0))),
        "architecture": platform.machine(),
        "kernel": platform.release(),
        "python": platform.python_version(),
    }


def bench(*, only: str | None, as_json: bool, quick: bool) -> int:
    """Run the suite; return 1 where a floor is not held."""
    from gateway.bench.suite import SUITE  # noqa: PLC0415  pulls in the whole gateway

    wanted = set(only.split(",")) if only else None
    if wanted is not None and not wanted <= {item.name for item in SUITE}:
        odd = sorted(wanted - {"list", *(item.name for item in SUITE)})
        if odd:
            print(f"tidegate: --only {odd[0]}: there is no such part; these there are:", file=sys.stderr)  # noqa: T201  the command's output
        for item in SUITE:
            only = "; by name alone" if item.is_long else ""
            print(f"{item.name:<12} {item.about}{only}", file=sys.stderr if odd else sys.stdout)
        return 2 if odd else 0
    report = Report(machine())
    for item in SUITE:
        if item.is_long if wanted is None else item.name not in wanted:
            continue
        if not as_json:
            print(f"-- {item.name}: {item.about}", flush=True)  # noqa: T201  the command's output
        for result in item.run(quick):
            if isinstance(result, Skipped):
                report.skipped.append(result)
            else:
                report.figures.append(result)
            if not as_json:
                print(f"   {line(result)}", flush=True)  # noqa: T201  the command's output
    if as_json:
        print(report.as_json())  # noqa: T201  the command's output
    missed = [figure for figure in report.figures if figure.meets(figure.floor) is False]
    for figure in missed:
        print(f"floor missed: {line(figure)}", file=sys.stderr)  # noqa: T201  the command's output
    return 1 if missed else 0


def line(result: Result) -> str:
    """Return one row of the table.

    >>> line(Figure("RSS", 48.12, "MB", floor=50, goal=45))
    'RSS: 48.1 MB  (at most 50 ✓, goal 45 ✗)'
    """
    if isinstance(result, Skipped):
        return f"{result.name}: skipped, {result.reason}"
    word = "at least" if result.better == "more" else "at most"
    marks = []
    if result.floor is not None:
        marks.append(f"{word} {number(result.floor)} {'✓' if result.meets(result.floor) else '✗'}")
    if result.goal is not None:
        marks.append(f"goal {number(result.goal)} {'✓' if result.meets(result.goal) else '✗'}")
    tail = f"  ({', '.join(marks)})" if marks else ""
    note = f"  {result.note}" if result.note else ""
    return f"{result.name}: {number(result.value)} {result.unit}{tail}{note}"


def number(value: float) -> str:
    """Return three digits that matter, thousands separated.

    >>> number(123456.0), number(0.01234), number(48.12)
    ('123,456', '0.0123', '48.1')
    """
    if abs(value) >= 1000:
        return f"{value:,.0f}"
    return f"{value:.3g}"
