"""Which segment was the next one at which moment, for the last minutes; and what lies around findings. Does no I/O."""

from __future__ import annotations

import asyncio
from collections import deque
from typing import TYPE_CHECKING, Final

from gateway.store.accounts import EVIDENCE_SPANS_MAX
from gateway.store.spans import Spans

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from gateway.store.leases import Desk

# So far apart are the moments that are kept, and so many are.
STEP_S: Final = 1.0
MOMENTS_MAX: Final = 900


class Moments:
    """Written with each commit. Seconds are of one steady clock.

    >>> moments = Moments(next_sequence=5)
    >>> for at_s, sequence in [(10.0, 6), (10.2, 7), (20.0, 9)]:
    ...     moments.committed(at_s, sequence)
    >>> [moments.next_at(at_s) for at_s in (9.0, 10.1, 15.0, 20.0)], moments.next_sequence
    ([5, 6, 6, 9], 9)
    """

    def __init__(self, *, next_sequence: int, evidence: Iterable[tuple[int, int]] = ()) -> None:
        self.next_sequence = next_sequence
        # What came in around findings, whoever wants it first: it stays whole as long as anything else can be diluted.
        self.evidence = Spans(evidence, spans_max=EVIDENCE_SPANS_MAX)
        self._evidence_until_s = float("-inf")
        self.now_s = float("-inf")  # when that was found
        self._first = next_sequence
        self._kept: deque[tuple[float, int]] = deque(maxlen=MOMENTS_MAX)

    def committed(self, now_s: float, next_sequence: int) -> None:
        """Take note of a commit; `next_sequence` is that of the first segment after it."""
        if now_s <= self._evidence_until_s and next_sequence > self.next_sequence:
            self.evidence.add(self.next_sequence, next_sequence - 1)
        self.next_sequence, self.now_s = next_sequence, now_s
        if not self._kept or now_s >= self._kept[-1][0] + STEP_S:
            self._kept.append((now_s, next_sequence))

    def found(self, *, now_s: float, seconds: float) -> None:
        """Take note of a finding: what came in so long before it and what comes in so long after it is evidence."""
        self._evidence_until_s = max(self._evidence_until_s, now_s + seconds)
        first = self.next_at(now_s - seconds)
        self.evidence.add(first, max(first, self.next_sequence))

    def next_at(self, at_s: float) -> int:
        """Return the sequence of the first segment that was not committed at a moment, or of one a little before it."""
        for when_s, sequence in reversed(self._kept):
            if when_s <= at_s:
                return sequence
        return self._first if len(self._kept) < MOMENTS_MAX else self._kept[0][1]


class Evidence:
    """What tells of findings: it goes first and whole, by each uplink."""

    def __init__(self, desks: Mapping[str, Desk], moments: Moments) -> None:
        self._desks = desks
        self._moments = moments

    def keep(self, uplink: str, seconds: float) -> None:
        """Have what comes in so long before and after a finding be evidence for an uplink; 0: nothing."""
        self._desks[uplink].keep_evidence(seconds)

    def found(self) -> None:
        """Take note of a finding about what comes in just now."""
        now_s = asyncio.get_running_loop().time()
        seconds = max((desk.evidence_s for desk in self._desks.values()), default=0.0)
        if seconds:
            self._moments.found(now_s=now_s, seconds=seconds)
        for desk in self._desks.values():
            desk.found(self._moments, now_s=now_s)
