"""How much of an allowance may go for asking whether a way carries anything: a small part of it. Does no I/O.

That is what a link's probes ask, and each connection of an uplink that does not come about. A link that is dead for a
month would else be asked forty thousand times, a receiver that is gone more often, and when either is back there would
be nothing left to send, nor of what may be overdrawn. So a part of what may go is saved up for that, evenly, and up to
a tenth of a window's part: they go as often as is set for a while, and then as often as that pays for.

| the allowance               | they are paid from                                              |
| --------------------------- | --------------------------------------------------------------- |
| has room                    | a twentieth of it                                               |
| is spent, some may overdraw | a quarter of what may be overdrawn                              |
| is spent                    | a quarter of what is kept for asking for the time (budget.py)   |

Nothing of this is known after a restart: the first one goes at once. Seconds are of one steady clock.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from gateway.uplinks.budget import kept_for_probes
from gateway.uplinks.link_probe import PROBE_BYTES
from gateway.uplinks.windows import LENGTH_S_MAX

if TYPE_CHECKING:
    from gateway.uplinks.budget import Budget
    from gateway.uplinks.budget_settings import BudgetSettings

# Which part of an allowance probes may cost, and of what is there when that is spent: that is little, and who may
# overdraw should not wait for a day. And which part of that may be saved up.
SHARE: Final = 0.05
SPENT_SHARE: Final = 0.25
SAVED_SHARE: Final = 0.1
# Who pays for them. No uplink is called so.
PROBE: Final = ""


class Ration:
    """Of one `budget`, a link's or an uplink's."""

    def __init__(self, budget: Budget, settings: BudgetSettings) -> None:
        self._budget = budget
        self._limits = settings.allowances()
        self._may_overdraw = bool(settings.overdraws())
        self._overdraw_bytes = int(settings.overdraw_max or 0)
        self._saved_bytes = float("inf")
        self._looked_s = 0.0
        self._until_s = float("-inf")
        self.spent_bytes = 0

    def wait_s(self, now_s: float) -> float:
        """Return in how many seconds the next probe may go; 0.0 where it may now."""
        bytes_s, most_bytes = self._terms()
        self._saved_bytes = min(most_bytes, self._saved_bytes + (now_s - self._looked_s) * bytes_s)
        self._looked_s = now_s
        wait_s = max(0.0, PROBE_BYTES - self._saved_bytes) / bytes_s
        self._until_s = now_s + wait_s
        return wait_s

    def _terms(self) -> tuple[float, float]:
        """Return how much is saved a second, and at most."""
        is_spent = self._budget.lacking(PROBE_BYTES) is not None
        of_window = {
            window: SPENT_SHARE * (self._overdraw_bytes or kept_for_probes(limit)) if is_spent else SHARE * limit
            for window, limit in self._limits.items()
        }
        bytes_s = min(share / LENGTH_S_MAX[window] for window, share in of_window.items())
        return bytes_s, max(PROBE_BYTES, SAVED_SHARE * min(of_window.values()))

    def take(self) -> None:
        """Take of the budget what a probe costs at most, or raise as `Budget.take` does."""
        self._budget.take(PROBE_BYTES, is_probe=True, may_overdraw=self._may_overdraw, payer=PROBE)

    def settle(self, spent_bytes: int) -> None:
        """Take note what the probe has cost for which that was taken."""
        self._budget.settle(PROBE_BYTES, spent_bytes, payer=PROBE)
        self.spent(spent_bytes)

    def spent(self, size_bytes: int) -> None:
        """Take note what went for nothing else than to find out whether anything can be sent."""
        self._saved_bytes -= size_bytes
        self.spent_bytes += size_bytes

    def told(self, now_s: float) -> dict[str, Any]:
        """Return what probes have cost since the start, and for how long the next one is held back for that."""
        if not self.spent_bytes:
            return {}
        return {"probes": {"spent_bytes": self.spent_bytes, "held_back_s": max(0, round(self._until_s - now_s))}}
