"""What goes over the ways of an uplink in a day, by budgets and links: for `tidegate size`. Must not measure anything.

    a day = paid hours: the least of the rate, and of each allowance ─┐
          + free hours: the rate, or whatever the line takes         ─┴→ what goes whole

What may be overdrawn stands beside that: it is for some classes, and not every day's.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from gateway.core.words import amount, plural, span

if TYPE_CHECKING:
    from collections.abc import Iterator

    from gateway.control.settings import Config
    from gateway.uplinks.budget_settings import BudgetSettings

DAY_S: Final = 86_400.0
MINUTE_S: Final = 60
# A month of a bill, on the average.
MONTH_DAYS: Final = 30.44
NEVER_S: Final = float("inf")


@dataclass(frozen=True, slots=True)
class Way:
    """One way of an uplink, in bytes and seconds; `sharers` uplinks send over it. What is not bounded is infinite."""

    name: str
    rate: float = NEVER_S
    allowed_bytes: float = NEVER_S  # of a day that is paid
    free_s: float = 0.0  # of a day
    overdraw_bytes: float = 0.0  # of a day
    sharers: int = 1

    @property
    def paid_bytes(self) -> float:
        """What goes in the hours of a day that are paid."""
        return min(self.allowed_bytes, self.rate * (DAY_S - self.free_s))

    @property
    def day_bytes(self) -> float:
        """What goes in a day."""
        return self.paid_bytes + (self.rate * self.free_s if self.free_s else 0.0)

    def drain_s(self, live_bytes_s: float, backlog_bytes: float) -> float:
        """Return how long a backlog takes beside live data, of each who sends over it; infinite: it never drains."""
        spare_bytes = self.day_bytes / self.sharers - live_bytes_s * DAY_S
        if spare_bytes <= 0:
            return NEVER_S
        if self.day_bytes == NEVER_S:
            # As fast as the line is: at the latest when free hours begin.
            return DAY_S - self.free_s if self.free_s else 0.0
        return backlog_bytes / spare_bytes * DAY_S

    def lines(self, live_bytes_s: float, backlog_bytes: float) -> Iterator[str]:
        """Say it in sentences."""
        if self.day_bytes == NEVER_S and not self.free_s:
            yield f"Over {self.name} nothing bounds it but the line."
            return
        shared = f", which {plural(self.sharers, 'uplink')} share" if self.sharers > 1 else ""
        needs = f"Over {self.name}{shared}: live data takes {amount(live_bytes_s * DAY_S)} a day"
        may = f"{amount(self.day_bytes / self.sharers)}{' each' if self.sharers > 1 else ''}"
        if self.day_bytes == NEVER_S:
            may = f"{amount(self.paid_bytes / self.sharers)} that are paid and what the line takes in free hours"
        elif self.free_s:
            may += f", of which {amount(self.rate * self.free_s / self.sharers)} in free hours"
        drain_s = self.drain_s(live_bytes_s, backlog_bytes)
        if drain_s == NEVER_S:
            yield f"{needs} of {may}: too thin, what comes in is thinned there and the backlog never drains."
        elif self.day_bytes == NEVER_S:
            yield f"{needs} of {may}; the backlog of the outage waits for these, {span(drain_s)} at most."
        else:
            yield f"{needs} of {may}; the backlog of the outage drains in {span(drain_s)} beside it."
        if self.free_s and live_bytes_s * DAY_S * self.sharers > self.paid_bytes and drain_s < NEVER_S:
            yield "What the paid hours have no room for is thinned meanwhile, and goes whole in the free ones."
        if self.overdraw_bytes:
            yield f"Classes that may overdraw have up to {amount(self.overdraw_bytes)} a day beyond that."


def ways_of(config: Config, uplink: Any) -> list[Way]:
    """Return the ways of an uplink: its links, or the one that the routes have."""
    names = getattr(uplink, "links", ())
    if not names:
        return [_way(uplink.name, uplink.budget)]
    links = {link.name: link for link in config.links}
    found = []
    for name in names:
        link = links[name]
        sharers = sum(name in getattr(other, "links", ()) for other in config.uplinks)
        shared = _way(f"{name} ({uplink.name})", link.budget, sharers=sharers)
        own = _way(uplink.name, uplink.budget, is_paid=link.metered)
        found.append(_both(shared, own))
    return found


def _way(name: str, budget: BudgetSettings, *, sharers: int = 1, is_paid: bool = True) -> Way:
    rate = NEVER_S if budget.rate is None else float(budget.rate)
    if not is_paid:
        return Way(name, rate)
    hours = budget.free_hours().hours
    free_s = float(MINUTE_S * sum(any(one.left_s(at_s) > 0 for one in hours) for at_s in range(0, 86_400, MINUTE_S)))
    days = {"hour": 3600 / (DAY_S - free_s) if free_s < DAY_S else 1.0, "day": 1.0, "month": MONTH_DAYS}
    limits = budget.allowances()
    over = float(budget.overdraw_max or 0)
    return Way(
        name,
        rate,
        min((size / days[window] for window, size in limits.items()), default=NEVER_S),
        free_s if limits else 0.0,
        min((over / days[window] for window in limits), default=0.0),
        sharers,
    )


def _both(shared: Way, own: Way) -> Way:
    """Return what goes where both bounds hold, as that of the shared one: an uplink's own is as if each had it."""
    count = shared.sharers
    are_both_paid = NEVER_S not in {shared.allowed_bytes, own.allowed_bytes}
    return Way(
        shared.name,
        min(shared.rate, own.rate * count),
        min(shared.allowed_bytes, own.allowed_bytes * count),
        # What is free for one is paid by the other.
        min(shared.free_s, own.free_s) if are_both_paid else max(shared.free_s, own.free_s),
        min(shared.overdraw_bytes, own.overdraw_bytes * count)
        if are_both_paid
        else max(shared.overdraw_bytes, own.overdraw_bytes * count),
        count,
    )
