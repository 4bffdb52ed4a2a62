"""Forgetting series that nobody uses: what is asked before, and what a commit takes with it. Must not choose or write.

The registry chooses (store/series). Here is what it has to know: from which segment on the shelf holds any, and which
numbers are still in somebody's hand. It lets go in the one step in which a commit is planned; the rows follow in that
commit and the next ones.
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Final, Protocol

import numpy as np

from gateway.core.batch import distinct
from gateway.core.clock import NS_PER_S
from gateway.store.segments import SegmentError, decode

if TYPE_CHECKING:
    from collections.abc import Iterable

    import numpy.typing as npt

    from gateway.core.clock import Clock
    from gateway.core.telemetry import Telemetry
    from gateway.store.records import LeasedSegment
    from gateway.store.rewriting import Rewriting
    from gateway.store.series import SeriesRegistry
    from gateway.store.writer import Pending, Sealed

# Rows deleted with one commit: so many cost a slow card some ten milliseconds.
ROWS_MAX: Final = 1024


class Holder(Protocol):
    """Who keeps numbers of series longer than one step of the event loop."""

    def series_in_use(self) -> Iterable[npt.NDArray[np.uint32]]:
        """Return the numbers of readings that may still be appended."""
        ...

    def forget_series(self, numbers: npt.NDArray[np.uint32]) -> None:
        """Let go of these, distinct and in order: they will never be given again."""
        ...


class Forgetter:
    """What the committer asks before it writes."""

    def __init__(self, registry: SeriesRegistry, *, clock: Clock, telemetry: Telemetry) -> None:
        self.holders: list[Holder] = []
        self._registry = registry
        self._clock = clock
        self._telemetry = telemetry
        # The oldest segment that is held; None once it was looked at.
        self._held_from: int | None = None

    @property
    def _now_s(self) -> int:
        return self._clock.monotonic_ns() // NS_PER_S

    def look(self, held_from: int) -> bool:
        """Take note that nothing older than `held_from` is held; return whether there is something to forget."""
        self._held_from = held_from
        nothing = np.empty(0, np.uint32)
        return bool(
            len(self._registry.forget(held_from=held_from, in_use=nothing, now_s=self._now_s, is_rehearsal=True))
        )

    def refused(self, segments: Iterable[LeasedSegment]) -> None:
        """Let series of segments that are set aside count as used now: somebody has time to see them by their names."""
        for segment in segments:
            with contextlib.suppress(SegmentError):
                self._registry.touch(distinct(decode(segment.body).series), now_s=self._now_s)

    def plan(self, sealed: Sealed, pending: Pending) -> list[int]:
        """Forget what nobody needs; return the numbers whose rows go with this commit.

        `sealed` is what it writes, `pending` what has come since.
        """
        held_from, self._held_from = self._held_from, None
        if held_from is not None:
            numbers = self._registry.forget(
                held_from=held_from, in_use=self._in_use(sealed, pending), now_s=self._now_s
            )
            if len(numbers):
                for holder in self.holders:
                    holder.forget_series(numbers)
                self._telemetry.count("tidegate_series_forgotten", len(numbers))
        return self._registry.leaving(ROWS_MAX)

    def _in_use(self, sealed: Sealed, pending: Pending) -> npt.NDArray[np.uint32]:
        parts = [sealed.series, *(batch.series for _, batch in pending.pieces)]
        parts += [part.pressed.series for part in pending.parts]
        parts += [records.series for records in pending.logs]
        for holder in self.holders:
            parts += holder.series_in_use()
        numbers: npt.NDArray[np.uint32] = distinct(np.concatenate(parts))
        return numbers

    def moved(self, rewritings: Iterable[Rewriting]) -> None:
        """Take note of what was written anew: some of its series may be in a newer segment now than they came in."""
        for rewriting in rewritings:
            for members, pressed, _ in rewriting.parts[1:]:
                self._registry.hold(pressed.series, held_to=members[0].row.sequence)

    def took_effect(self, sealed: Sealed, left: int) -> bool:
        """Take note of a commit that wrote `sealed` and deleted `left` rows; return whether more rows wait."""
        self._registry.note(sealed.series, held_to=sealed.sequence - 1, now_s=self._now_s)
        self._registry.left(left)
        return bool(self._registry.leaving(1))
