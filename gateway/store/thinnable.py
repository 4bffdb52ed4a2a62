"""Which segments may be thinned together: those of columns. What came as OTLP messages goes whole. Touches nothing."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gateway.store.segments import Form, read_header

if TYPE_CHECKING:
    from collections.abc import Sequence

    from gateway.store.records import LeasedSegment


def thinned_together(segments: Sequence[LeasedSegment], step_s: float) -> tuple[int, float]:
    """Return how many of the first segments go in one lease, one at least, and at which step; 0 is whole.

    Nobody knows which points of a histogram, or which spans, stand for the others. So such a segment goes by itself,
    when its turn comes, and what is left of the budget bounds it like all else.
    """
    forms = [read_header(segment.body).form for segment in segments]
    if forms[0] is Form.MESSAGES:
        return 1, 0.0
    return (forms.index(Form.MESSAGES) if Form.MESSAGES in forms else len(forms)), step_s
