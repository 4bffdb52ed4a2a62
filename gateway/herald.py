"""Says what was lost: news of the ledger as log lines here and as OTLP log records upstream. Must not decide losses.

The ledger itself is the store's. What it has gained since the last look is said once, at most every LOOK_S seconds and
reason: to whoever reads this box's log, and through the shelf to whoever reads the far side's.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Final

import numpy as np

from gateway.codecs.otlp import encode_log_record
from gateway.core.batch import LogRecords, Series
from gateway.core.contracts import FullError

if TYPE_CHECKING:
    from collections.abc import Iterable

    from gateway.core.clock import Clock
    from gateway.store.database import Store

log = logging.getLogger("tidegate.ledger")

LOOK_S: Final = 30.0
# OTLP logs data model, SeverityNumber WARN.
SEVERITY_WARN: Final = 13


class Herald:
    """Compares the ledger with what it said before."""

    def __init__(self, *, store: Store, clock: Clock) -> None:
        self._store = store
        self._clock = clock
        # What earlier runs lost was said by them; the totals go with every record all the same.
        self._said = self._totals()

    def _totals(self) -> dict[tuple[str, str], int]:
        uplinks = self._store.status()["uplinks"]
        return {(name, reason): n for name, uplink in uplinks.items() for reason, n in uplink["ledger"].items()}

    async def look(self) -> None:
        """Say what is new; what the shelf has no room for now is said upstream the next time."""
        totals = self._totals()
        news = {key: total for key, total in totals.items() if total > self._said.get(key, 0)}
        if not news:
            return
        for (uplink, reason), total in news.items():
            log.warning("uplink %s: %s", uplink, self._sentence(uplink, reason, total))
        try:
            await self._send(news.items())
        except FullError as error:
            log.warning("the ledger's news stay here for now: %s", error)
            return
        self._said = totals

    def _sentence(self, uplink: str, reason: str, total: int) -> str:
        new = total - self._said.get((uplink, reason), 0)
        return f"{new:,} readings will not be delivered: {reason} ({total:,} in all)"

    async def _send(self, news: Iterable[tuple[tuple[str, str], int]]) -> None:
        number = self._store.resolve(Series(resource=(), name="", kind="log"), is_own=True)
        if number is None:
            log.warning("the ledger's news cannot be sent: max_series is reached")
            return
        observed_ns = self._clock.wall_ns()
        time_ns = self._store.timeline.wall_from(self._clock.monotonic_ns()) or observed_ns
        bodies = tuple(
            encode_log_record(
                time_ns=time_ns,
                observed_ns=observed_ns,
                severity_number=SEVERITY_WARN,
                severity_text="WARN",
                body=f"uplink {uplink}: {self._sentence(uplink, reason, total)}",
                attributes=(
                    ("tidegate.ledger.readings", total - self._said.get((uplink, reason), 0)),
                    ("tidegate.ledger.reason", reason),
                    ("tidegate.ledger.total", total),
                    ("tidegate.ledger.uplink", uplink),
                ),
            )
            for (uplink, reason), total in news
        )
        numbers = np.full(len(bodies), number, np.uint32)
        await self._store.append([], logs=LogRecords(numbers, np.full(len(bodies), time_ns, np.int64), bodies))
