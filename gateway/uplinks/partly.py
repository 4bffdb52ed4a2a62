"""A request of which a part was taken: that part comes off the hand, the others stay. Must not send or decide.

Only what sends many messages in one request knows such a thing: an MQTT bridge, or NATS.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from gateway.uplinks.guards import InTransitError
from gateway.uplinks.parts import MetricsPart
from gateway.uplinks.requests import REJECTED

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy.typing as npt

    from gateway.codecs.otlp import Marks
    from gateway.core.batch import Batch
    from gateway.uplinks.parts import Groups, Part
    from gateway.uplinks.requests import Hand


class PartlyTakenError(InTransitError):
    """Some readings of `groups` were taken, `left` of them are to be sent again; `maybe` of those may be there already.

    `rejected` are readings that must never be sent again, for the reason that is `said`.
    """

    def __init__(
        self,
        reason: str,
        *,
        groups: Sequence[tuple[Batch, Marks]],
        left: npt.NDArray[np.bool_],
        maybe: int = 0,
        rejected: int = 0,
        said: str = "",
        after_s: float = 0.0,
    ) -> None:
        assert left.any(), "a request of which nothing is left is answered"
        super().__init__(reason, after_s)
        self.is_held = False  # whether the others are to be held back
        self.maybe = maybe
        self.rejected = rejected
        self.taken = len(left) - int(left.sum()) - rejected
        self._groups = groups
        self._left = left
        self._said = said

    def settle(self, hand: Hand) -> None:
        """Take off the first part of `hand` what has its answer."""
        self.settle_with(hand, MetricsPart(_only(self._groups, self._left)))

    def settle_with(self, hand: Hand, rest: Part) -> None:
        """Have `rest` stand for the first part of `hand`."""
        assert hand.parts
        hand.delivered += self.taken
        hand.reject(self.rejected, REJECTED, self._said)
        hand.maybe_taken += self.maybe
        hand.parts[0] = rest
        if self.taken:
            hand.refusals = 0


def _only(groups: Sequence[tuple[Batch, Marks]], left: npt.NDArray[np.bool_]) -> Groups:
    """Return the readings that are left, each with its marks."""
    bounds = np.cumsum([len(batch) for batch, _ in groups])[:-1]
    pieces = zip(groups, np.split(left, bounds), strict=True)
    return [(batch.take(mask), marks) for (batch, marks), mask in pieces if mask.any()]
